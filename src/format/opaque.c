// SPDX-License-Identifier: GPL-2.0-or-later
#include "opaque.h"

#include <string.h>

#include "whiteout.h"
#include "xattr_names.h"

/* Room for the name list of a directory as they usually are; a longer one costs three reads instead of one. */
#define LIST_SIZE 1024

/* The kernel takes a value of exactly one byte, 'y' or 'x', and anything else for "not opaque". */
static int read_one(struct ov_at at, const char *name)
{
	char v;
	ssize_t r = ov_at_getxattr(at, name, &v, 1);

	if (r == 1)
		return v == 'y' ? OV_OPAQUE_YES : v == 'x' ? OV_OPAQUE_XWHITEOUTS : OV_OPAQUE_NO;
	/* EACCES: a user xattr of a directory that we may not read. */
	if (r >= 0 || r == -ERANGE || r == -ENODATA || r == -EOPNOTSUPP || r == -EACCES)
		return OV_OPAQUE_NO;
	return (int)r;
}

/* Is NAME in the list of LEN bytes of NUL-terminated names? */
static bool listed(const char *list, ssize_t len, const char *name)
{
	const char *p, *end = list + len;

	for (p = list; p < end; p += strlen(p) + 1) {
		if (strcmp(p, name) == 0)
			return true;
	}
	return false;
}

/* What the xattrs of AT say: a bit (1 << enum ov_opaque) for each value. Or -errno. */
static int read_all(struct ov_at at)
{
	const char *const names[] = {
		ov_xattr_name(OV_XP_TRUSTED, OV_X_OPAQUE),
		ov_xattr_name(OV_XP_USER, OV_X_OPAQUE),
		OV_XATTR_FUSEOVERLAYFS_OPAQUE,
	};
	char list[LIST_SIZE + 1];
	ssize_t len = ov_at_listxattr(at, list, LIST_SIZE);
	int found = 1 << OV_OPAQUE_NO, r;
	size_t i;

	/* Most directories have no xattr at all, so one question settles it. */
	if (len == 0 || len == -EOPNOTSUPP)
		return found;
	if (len < 0 && len != -ERANGE && len != -E2BIG)
		return (int)len;
	if (len > 0)
		list[len] = '\0';
	for (i = 0; i < OV_ARRAY_SIZE(names); i++) {
		if (len > 0 && !listed(list, len, names[i]))
			continue;
		r = read_one(at, names[i]);
		if (r < 0)
			return found & 1 << OV_OPAQUE_YES ? found : r;
		found |= 1 << r;
	}
	return found;
}

int ov_opaque_read(struct ov_at at)
{
	int found = read_all(at);

	if (found < 0)
		return found;
	return found & 1 << OV_OPAQUE_YES ? OV_OPAQUE_YES : found & 1 << OV_OPAQUE_XWHITEOUTS ? OV_OPAQUE_XWHITEOUTS : OV_OPAQUE_NO;
}

bool ov_opaque_allows_xwhiteouts(struct ov_at at)
{
	int found = read_all(at);

	return found >= 0 && found & 1 << OV_OPAQUE_XWHITEOUTS;
}

int ov_opaque_write(struct ov_at at, int prefix, bool xwhiteouts)
{
	return ov_at_setxattr(at, ov_xattr_name(prefix, OV_X_OPAQUE), xwhiteouts ? "x" : "y", 1, 0);
}

int ov_opaque_write_oci(int dirfd)
{
	int fd = ov_at_open(ov_at_name(dirfd, OV_OCI_OPAQUE_NAME), O_CREAT | O_EXCL | O_WRONLY, 0644);

	ov_close_p(&fd);
	return fd < 0 && fd != -EEXIST ? fd : 0;
}
