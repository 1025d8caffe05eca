// SPDX-License-Identifier: GPL-2.0-or-later
#include "index.h"

#include <limits.h>
#include <linux/fs.h>
#include <string.h>

#include "xattr_names.h"

#define INCOMPAT "incompat"
#define VOLATILE "volatile"
#define DIRTY "dirty"

int ov_nlink_decode(const char *value, size_t len, char *base, int *delta)
{
	long long n = 0;
	size_t i;

	if (len < 3 || (value[0] != 'U' && value[0] != 'L') || (value[1] != '+' && value[1] != '-'))
		return -EINVAL;
	for (i = 2; i < len; i++) {
		if (value[i] < '0' || value[i] > '9')
			return -EINVAL;
		n = n * 10 + (value[i] - '0');
		if (n > (long long)INT_MAX + 1)
			return -EINVAL;
	}
	if (value[1] == '-')
		n = -n;
	if (n > INT_MAX)
		return -EINVAL;
	*base = value[0];
	*delta = (int)n;
	return 0;
}

size_t ov_nlink_encode(char base, int delta, char buf[16])
{
	unsigned n = delta < 0 ? 0u - (unsigned)delta : (unsigned)delta;
	char digits[12];
	size_t nd = 0, len = 0;

	buf[len++] = base;
	buf[len++] = delta < 0 ? '-' : '+';
	do {
		digits[nd++] = (char)('0' + n % 10);
		n /= 10;
	} while (n);
	while (nd)
		buf[len++] = digits[--nd];
	buf[len] = '\0';
	return len;
}

int ov_nlink_read(struct ov_at at, int prefix, char *base, int *delta)
{
	char value[16];
	ssize_t len = ov_at_getxattr(at, ov_xattr_name(prefix, OV_X_NLINK), value, sizeof(value));

	if (len < 0)
		return len == -ERANGE ? -EINVAL : len == -EOPNOTSUPP ? -ENODATA : (int)len;
	return ov_nlink_decode(value, (size_t)len, base, delta);
}

int ov_nlink_write(struct ov_at at, int prefix, char base, int delta)
{
	char value[16];
	size_t len = ov_nlink_encode(base, delta, value);

	return ov_at_setxattr(at, ov_xattr_name(prefix, OV_X_NLINK), value, len, 0);
}

int ov_impure_read(struct ov_at at, int prefix)
{
	char v;
	ssize_t len = ov_at_getxattr(at, ov_xattr_name(prefix, OV_X_IMPURE), &v, 1);

	if (len >= 0 || len == -ERANGE)
		return len == 1 && v == 'y';
	return len == -ENODATA || len == -EOPNOTSUPP || len == -EACCES ? 0 : (int)len;
}

int ov_impure_write(struct ov_at at, int prefix)
{
	return ov_at_setxattr(at, ov_xattr_name(prefix, OV_X_IMPURE), "y", 1, 0);
}

unsigned ov_protattr_decode(const char *value, size_t len)
{
	unsigned flags = 0;
	size_t i;

	for (i = 0; i < len; i++) {
		if (value[i] == 'a')
			flags |= FS_APPEND_FL;
		else if (value[i] == 'i')
			flags |= FS_IMMUTABLE_FL;
	}
	return flags;
}

int ov_protattr_read(struct ov_at at, int prefix, unsigned *flags)
{
	char value[32]; /* as long as the kernel reads */
	ssize_t len = ov_at_getxattr(at, ov_xattr_name(prefix, OV_X_PROTATTR), value, sizeof(value));

	*flags = 0;
	if (len == -ENODATA || len == -EOPNOTSUPP || len == -ERANGE)
		return 0;
	if (len < 0)
		return (int)len;
	*flags = ov_protattr_decode(value, (size_t)len);
	return 0;
}

int ov_protattr_write(struct ov_at at, int prefix, unsigned flags)
{
	const char *name = ov_xattr_name(prefix, OV_X_PROTATTR);
	char value[2];
	size_t len = 0;
	int r;

	if (flags & FS_APPEND_FL)
		value[len++] = 'a';
	if (flags & FS_IMMUTABLE_FL)
		value[len++] = 'i';
	if (len)
		return ov_at_setxattr(at, name, value, len, 0);
	r = ov_at_removexattr(at, name);
	return r == -ENODATA || r == -EOPNOTSUPP ? 0 : r;
}

int ov_volatile_present(int work_work_fd)
{
	ov_cleanup_fd int incompat = ov_at_open(ov_at_name(work_work_fd, INCOMPAT), O_PATH | O_DIRECTORY, 0);
	struct statx stx;
	int r;

	if (incompat < 0)
		return incompat == -ENOENT ? 0 : incompat;
	r = ov_at_statx(ov_at_name(incompat, VOLATILE), STATX_TYPE, &stx);
	return r == 0 ? 1 : r == -ENOENT ? 0 : r;
}

/* Open the directory NAME in DIRFD, made if need be. */
static int make_dir(int dirfd, const char *name)
{
	if (mkdirat(dirfd, name, 0700) < 0 && errno != EEXIST)
		return -errno;
	return ov_at_open(ov_at_name(dirfd, name), O_PATH | O_DIRECTORY, 0);
}

/* The kernel's marker is a directory with a file "dirty" in it; it is the directory's name that counts. */
int ov_volatile_create(int work_work_fd)
{
	ov_cleanup_fd int incompat = make_dir(work_work_fd, INCOMPAT);
	ov_cleanup_fd int marker = incompat < 0 ? incompat : make_dir(incompat, VOLATILE);
	ov_cleanup_fd int dirty = -1;

	if (marker < 0)
		return marker;
	dirty = ov_at_open(ov_at_name(marker, DIRTY), O_CREAT | O_WRONLY, 0600);
	return dirty < 0 ? dirty : 0;
}
