// SPDX-License-Identifier: GPL-2.0-or-later
#include "origin.h"

#include <linux/btrfs.h>
#include <string.h>
#include <sys/ioctl.h>

#include "xattr_names.h"

/* Layout and constants of the kernel's struct ovl_fb. */
#define FH_VERSION 0
#define FH_MAGIC 0xfb
#define FH_BIG_ENDIAN (1 << 0)
#define FH_ANY_ENDIAN (1 << 1)
#define FH_PATH_UPPER (1 << 2)
#define FH_ALL_FLAGS (FH_BIG_ENDIAN | FH_ANY_ENDIAN | FH_PATH_UPPER)

#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define FH_CPU_ENDIAN FH_BIG_ENDIAN
#else
#define FH_CPU_ENDIAN 0
#endif

enum { AT_VERSION, AT_MAGIC, AT_LEN, AT_FLAGS, AT_TYPE, AT_UUID };

#define UUID_SIZE 16
#define FID_MAX (OV_FH_MAX - OV_FH_HEADER)

_Static_assert(AT_UUID + UUID_SIZE == OV_FH_HEADER, "header of an encoded handle");
_Static_assert(OV_FH_MAX <= UINT8_MAX, "the length is one byte");

/* A file handle with room for the longest one. */
union handle {
	struct file_handle fh;
	char room[sizeof(struct file_handle) + FID_MAX];
};

int ov_fh_encode(struct ov_at at, const uint8_t uuid[16], bool is_upper, struct ov_fh *out)
{
	union handle h = {.fh.handle_bytes = FID_MAX};
	int r = ov_at_handle(at, &h.fh, NULL);

	out->len = 0;
	if (r < 0)
		return r == -EOVERFLOW ? -EOPNOTSUPP : r;
	/* The type is one byte on disk, and 0xff means "no handle". */
	if (h.fh.handle_bytes > FID_MAX || h.fh.handle_type < 0 || h.fh.handle_type >= 0xff)
		return -EOPNOTSUPP;
	out->data[AT_VERSION] = FH_VERSION;
	out->data[AT_MAGIC] = FH_MAGIC;
	out->data[AT_FLAGS] = (uint8_t)(FH_CPU_ENDIAN | (is_upper ? FH_PATH_UPPER : 0));
	out->data[AT_TYPE] = (uint8_t)h.fh.handle_type;
	memcpy(out->data + AT_UUID, uuid, UUID_SIZE);
	memcpy(out->data + OV_FH_HEADER, h.room + sizeof(struct file_handle), h.fh.handle_bytes);
	out->len = (uint8_t)(OV_FH_HEADER + h.fh.handle_bytes);
	out->data[AT_LEN] = out->len;
	return 0;
}

int ov_fh_decode(const void *value, size_t len, struct ov_fh *out)
{
	const uint8_t *b = value;

	out->len = 0;
	if (len == 0)
		return 0;
	/* As the kernel: bytes behind the stated length are not looked at. */
	if (len < OV_FH_HEADER || b[AT_LEN] < OV_FH_HEADER || b[AT_LEN] > OV_FH_MAX || b[AT_LEN] > len)
		return -EINVAL;
	if (b[AT_MAGIC] != FH_MAGIC || b[AT_VERSION] != FH_VERSION || (b[AT_FLAGS] & ~FH_ALL_FLAGS))
		return -EINVAL;
	if (!(b[AT_FLAGS] & FH_ANY_ENDIAN) && (b[AT_FLAGS] & FH_BIG_ENDIAN) != FH_CPU_ENDIAN)
		return -EOPNOTSUPP;
	memcpy(out->data, b, b[AT_LEN]);
	out->len = b[AT_LEN];
	return 0;
}

bool ov_fh_equal(const struct ov_fh *a, const struct ov_fh *b)
{
	return a->len == b->len && memcmp(a->data, b->data, a->len) == 0;
}

static uint32_t get32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static uint64_t get64(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

bool ov_fh_ino(const struct ov_fh *fh, uint64_t *ino)
{
	const uint8_t *fid = fh->data + OV_FH_HEADER;
	size_t n = fh->len > OV_FH_HEADER ? (size_t)fh->len - OV_FH_HEADER : 0;
	uint64_t found;

	if (n == 0)
		return false;
	switch (fh->data[AT_TYPE]) {
	case 0x01:
		if (n == 12) /* tmpfs: generation, then the number's two halves */
			found = get32(fid + 4) | (uint64_t)get32(fid + 8) << 32;
		else if (n == 8) /* number, generation */
			found = get32(fid);
		else
			return false;
		break;
	case 0x02: /* number, generation, and the same of the parent */
		if (n != 16)
			return false;
		found = get32(fid);
		break;
	case 0x81: /* xfs: 64-bit number, generation, and the same of the parent */
	case 0x82:
		if (n != (fh->data[AT_TYPE] == 0x81 ? 12 : 24))
			return false;
		found = get64(fid);
		if (!(uint32_t)found) /* FUSE has this type too, with its halves the other way round */
			return false;
		break;
	case 0x4d: /* btrfs: object, root, generation... */
	case 0x4e:
	case 0x4f:
		if (n < 20)
			return false;
		found = get64(fid);
		break;
	default:
		return false;
	}
	*ino = found;
	return true;
}

void ov_fh_hex(const struct ov_fh *fh, char *out)
{
	static const char digits[] = "0123456789abcdef";
	size_t i;

	for (i = 0; i < fh->len; i++) {
		*out++ = digits[fh->data[i] >> 4];
		*out++ = digits[fh->data[i] & 15];
	}
	*out = '\0';
}

/* The value of a hex digit of either case, -1 if C is none. */
static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int ov_fh_unhex(const char *hex, struct ov_fh *out)
{
	uint8_t raw[OV_FH_MAX];
	size_t len = strlen(hex), i;

	out->len = 0;
	if (len == 0 || len % 2 || len / 2 > OV_FH_MAX)
		return -EINVAL;
	for (i = 0; i < len / 2; i++) {
		int hi = hex_digit(hex[2 * i]), lo = hex_digit(hex[2 * i + 1]);

		if (hi < 0 || lo < 0)
			return -EINVAL;
		raw[i] = (uint8_t)(hi << 4 | lo);
	}
	/* A name is the whole handle: nothing may stand behind it. */
	if (len / 2 < OV_FH_HEADER || raw[AT_LEN] != len / 2)
		return -EINVAL;
	return ov_fh_decode(raw, len / 2, out) < 0 ? -EINVAL : 0;
}

int ov_fh_read(struct ov_at at, int prefix, int x, struct ov_fh *out)
{
	uint8_t value[UINT8_MAX];
	ssize_t len = ov_at_getxattr(at, ov_xattr_name(prefix, x), value, sizeof(value));

	out->len = 0;
	if (len == -ERANGE)
		return -EINVAL;
	if (len == -EOPNOTSUPP)
		return -ENODATA;
	if (len < 0)
		return (int)len;
	return ov_fh_decode(value, (size_t)len, out) < 0 ? -EINVAL : 0;
}

int ov_fh_write(struct ov_at at, int prefix, int x, const struct ov_fh *fh)
{
	return ov_at_setxattr(at, ov_xattr_name(prefix, x), fh->data, fh->len, 0);
}

int ov_fh_open(int mount_fd, const struct ov_fh *fh, int flags)
{
	union handle h = {.fh.handle_bytes = 0};
	int fd;

	if (fh->len <= OV_FH_HEADER || fh->len > OV_FH_MAX)
		return -EINVAL;
	h.fh.handle_bytes = fh->len - OV_FH_HEADER;
	h.fh.handle_type = fh->data[AT_TYPE];
	memcpy(h.room + sizeof(struct file_handle), fh->data + OV_FH_HEADER, h.fh.handle_bytes);
	fd = (int)TEMP_FAILURE_RETRY(open_by_handle_at(mount_fd, &h.fh, flags | O_CLOEXEC));
	return fd < 0 ? -errno : fd;
}

/* FS_IOC_GETFSUUID (6.9): all that have told the VFS of their UUID, which btrfs (6.18) has not. */
struct fsuuid2 {
	uint8_t len;
	uint8_t uuid[UUID_SIZE];
};
#define GETFSUUID _IOR(0x15, 0, struct fsuuid2)

/* EXT4_IOC_GETFSUUID (6.0); the UUID is behind the struct whose size the number has. */
struct ext4_fsuuid {
	uint32_t len;
	uint32_t flags;
	uint8_t uuid[UUID_SIZE];
};
#define EXT4_GETFSUUID _IOC(_IOC_READ, 'f', 44, 8)

/* XFS_IOC_FSGEOMETRY_V1. */
struct xfs_geometry {
	uint32_t sizes[8];
	uint64_t blocks[4];
	uint8_t uuid[UUID_SIZE];
	uint32_t more[7];
};
#define XFS_GETGEOMETRY _IOR('X', 100, struct xfs_geometry)

/*
 * Ask the open file FD by every ioctl that may know; their numbers are the file systems' own, so that a wrong one gets
 * ENOTTY. 0, also if no one knew, or -EBADF for an O_PATH fd.
 */
static int ask_uuid(int fd, uint8_t uuid[16])
{
	struct fsuuid2 any = {0};
	struct ext4_fsuuid ext4 = {.len = UUID_SIZE};
	struct btrfs_ioctl_fs_info_args btrfs = {0};
	struct xfs_geometry xfs = {0};
	const uint8_t *found = NULL;

	if (ioctl(fd, GETFSUUID, &any) == 0)
		found = any.len == UUID_SIZE ? any.uuid : NULL;
	else if (errno == EBADF)
		return -EBADF;
	else if (ioctl(fd, EXT4_GETFSUUID, &ext4) == 0)
		found = ext4.len == UUID_SIZE ? ext4.uuid : NULL;
	else if (ioctl(fd, BTRFS_IOC_FS_INFO, &btrfs) == 0)
		found = btrfs.fsid;
	else if (ioctl(fd, XFS_GETGEOMETRY, &xfs) == 0)
		found = xfs.uuid;
	if (found)
		memcpy(uuid, found, UUID_SIZE);
	return 0;
}

int ov_fs_uuid(int fd, uint8_t uuid[16])
{
	ov_cleanup_fd int real = -1;
	int r;

	memset(uuid, 0, UUID_SIZE);
	r = ask_uuid(fd, uuid);
	if (r != -EBADF)
		return r;
	real = ov_at_open(ov_at_fd(fd), O_RDONLY | O_NONBLOCK, 0); /* an O_PATH fd takes no ioctl */
	return real < 0 ? real : ask_uuid(real, uuid);
}
