/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_FORMAT_ORIGIN_H
#define OV_FORMAT_ORIGIN_H

/*
 * overlay.origin, overlay.upper and the names in the index: struct ovl_fb of the kernel
 * (fs/overlayfs/overlayfs.h): {u8 version 0, u8 magic 0xfb, u8 len, u8 flags, u8 type, u8 uuid[16], u8 fid[]};
 * flags bit 0 big endian, bit 1 any endian, bit 2 path is upper.
 */

#include "../sys/at.h"

#define OV_FH_HEADER 21
#define OV_FH_MAX (OV_FH_HEADER + 128)

/* An encoded handle, byte for byte as on disk. len 0: origin known to be unknown (empty value). */
struct ov_fh {
	uint8_t len;
	uint8_t data[OV_FH_MAX];
};

/*
 * Encode object AT of the file system with UUID (16 bytes; all zero if unknown). IS_UPPER sets the flag. 0, or
 * -EOPNOTSUPP where the file system has no handles (callers store an empty value then), or -errno.
 */
int ov_fh_encode(struct ov_at at, const uint8_t uuid[16], bool is_upper, struct ov_fh *out);

/* Check LEN bytes at VALUE and copy them. Pure. 0, -EINVAL if malformed, -EOPNOTSUPP of another byte order. */
int ov_fh_decode(const void *value, size_t len, struct ov_fh *out);

/* The 16 bytes of the file system's UUID inside a handle that passed ov_fh_decode() and is not empty. Pure. */
static inline const uint8_t *ov_fh_uuid(const struct ov_fh *fh)
{
	return fh->data + 5;
}

/* Byte equality. Pure. */
bool ov_fh_equal(const struct ov_fh *a, const struct ov_fh *b);

/*
 * The inode number inside the handle where its type tells (ext4 and others type 1 and 2; 64-bit types 0x81 and 0x82 of
 * xfs; btrfs 0x4d..0x4f; tmpfs), without privilege. False if unknown. Pure.
 */
bool ov_fh_ino(const struct ov_fh *fh, uint64_t *ino);

/* Lower-case hex of the handle, as index entries are named. OUT: 2 * OV_FH_MAX + 1 bytes. Pure. */
void ov_fh_hex(const struct ov_fh *fh, char *out);

/* Hex back to a handle. 0 or -EINVAL. Pure. */
int ov_fh_unhex(const char *hex, struct ov_fh *out);

/*
 * Read X (OV_X_ORIGIN or OV_X_UPPER) of AT under PREFIX. 0 (OUT->len may be 0), -ENODATA if absent, -EINVAL if
 * malformed (the caller treats it as absent), or -errno.
 */
int ov_fh_read(struct ov_at at, int prefix, int x, struct ov_fh *out);
int ov_fh_write(struct ov_at at, int prefix, int x, const struct ov_fh *fh);

/*
 * Open the object of FH on the mount that MOUNT_FD is on (open_by_handle_at; needs CAP_DAC_READ_SEARCH in the initial
 * user namespace). FLAGS as open(2). An fd, or -errno (-EPERM without the privilege, -ESTALE if gone).
 */
int ov_fh_open(int mount_fd, const struct ov_fh *fh, int flags);

/*
 * The UUID of the file system that FD (a file or directory, O_PATH allowed) is on, as the kernel puts it into handles
 * (s_uuid). 0, with all zeros if there is none or it cannot be learnt; -errno if FD cannot be asked.
 */
int ov_fs_uuid(int fd, uint8_t uuid[16]);

#endif
