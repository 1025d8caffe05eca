// SPDX-License-Identifier: GPL-2.0-or-later
#include "whiteout.h"

#include <limits.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "xattr_names.h"

#define OCI_PREFIX ".wh."
#define OCI_META_PREFIX ".wh..wh."

const char OV_OCI_OPAQUE_NAME[] = ".wh..wh..opq";

_Static_assert(sizeof(OCI_PREFIX) - 1 == OV_OCI_PREFIX_LEN, "length of the OCI prefix");

bool ov_whiteout_is_char(const struct statx *stx)
{
	return S_ISCHR(stx->stx_mode) && stx->stx_rdev_major == 0 && stx->stx_rdev_minor == 0;
}

bool ov_whiteout_may_be_xattr(const struct statx *stx)
{
	return S_ISREG(stx->stx_mode) && stx->stx_size == 0;
}

/* Does AT carry X under either prefix? 1, 0 or -errno. */
static int has_xattr(struct ov_at at, enum ov_xname x)
{
	ssize_t r;
	int p;

	for (p = 0; p < OV_XP_COUNT; p++) {
		r = ov_at_getxattr(at, ov_xattr_name(p, x), NULL, 0);
		if (r >= 0)
			return 1;
		if (r != -ENODATA && r != -EOPNOTSUPP)
			return (int)r;
	}
	return 0;
}

int ov_whiteout_has_xattr(struct ov_at at)
{
	return has_xattr(at, OV_X_WHITEOUT);
}

int ov_whiteout_oci_name(const char *name, char *buf)
{
	size_t len = strlen(name);

	if (OV_OCI_PREFIX_LEN + len > NAME_MAX)
		return -ENAMETOOLONG;
	memcpy(buf, OCI_PREFIX, OV_OCI_PREFIX_LEN);
	memcpy(buf + OV_OCI_PREFIX_LEN, name, len + 1);
	return 0;
}

bool ov_whiteout_oci_parse(const char *name, const char **hidden)
{
	if (name[0] != '.' || strncmp(name, OCI_PREFIX, OV_OCI_PREFIX_LEN) != 0)
		return false;
	if (hidden)
		*hidden = name + OV_OCI_PREFIX_LEN;
	return true;
}

bool ov_whiteout_is_oci_meta(const char *name)
{
	return name[0] == '.' && strncmp(name, OCI_META_PREFIX, sizeof(OCI_META_PREFIX) - 1) == 0;
}

int ov_whiteout_oci_is_real(struct ov_at at, const struct statx *stx)
{
	int r;

	if (S_ISDIR(stx->stx_mode) ? !at.name || !ov_whiteout_is_oci_meta(at.name)
				   : !S_ISREG(stx->stx_mode) || stx->stx_size != 0)
		return 0;
	r = has_xattr(at, OV_X_PLAIN);
	if (r == 0 && !S_ISDIR(stx->stx_mode))
		r = has_xattr(at, OV_X_WHITEOUT);
	return r < 0 ? r : !r;
}

int ov_whiteout_mark_plain(struct ov_at at, int prefix)
{
	return ov_at_setxattr(at, ov_xattr_name(prefix, OV_X_PLAIN), "y", 1, 0);
}

/* Make the empty file NAME. 0 or -errno. */
static int make_empty(int dirfd, const char *name)
{
	int fd = ov_at_open(ov_at_name(dirfd, name), O_CREAT | O_EXCL | O_WRONLY, 0644);

	ov_close_p(&fd);
	return fd < 0 ? fd : 0;
}

/* Readable, since reading a user xattr asks for read permission on the file. */
static int make_xattr_whiteout(int dirfd, const char *name, int prefix)
{
	int r = make_empty(dirfd, name);

	if (r < 0)
		return r;
	r = ov_at_setxattr(ov_at_name(dirfd, name), ov_xattr_name(prefix, OV_X_WHITEOUT), "y", 1, 0);
	if (r < 0 && unlinkat(dirfd, name, 0) < 0 && errno != ENOENT)
		return -errno;
	return r;
}

int ov_whiteout_make(int dirfd, const char *name, enum ov_whiteout_kind kind, int prefix)
{
	switch (kind) {
	case OV_WH_CHAR:
		return mknodat(dirfd, name, S_IFCHR, makedev(0, 0)) < 0 ? -errno : 0;
	case OV_WH_XATTR:
		return make_xattr_whiteout(dirfd, name, prefix);
	case OV_WH_OCI:
		break;
	}
	return -EINVAL;
}

int ov_whiteout_make_oci(int dirfd, const char *name)
{
	char oci[NAME_MAX + 1];
	int r = ov_whiteout_oci_name(name, oci);

	if (r < 0)
		return r;
	r = make_empty(dirfd, oci);
	return r == -EEXIST ? 0 : r < 0 ? r : 1;
}

int ov_whiteout_drop_oci(int dirfd, const char *name)
{
	char oci[NAME_MAX + 1];
	int r = ov_whiteout_oci_name(name, oci);

	return r < 0 ? r : unlinkat(dirfd, oci, 0) < 0 ? -errno : 0;
}
