/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Extended attributes of the view: what is the overlay's own stays hidden, nested overlays' names are escaped. */

#include <string.h>
#include <sys/xattr.h>

#include "core.h"
#include "format/override_stat.h"
#include "format/xattr_names.h"

#define NAME_BUF (OV_XATTR_NAME_MAX + 1)

static enum ov_override layer_override(const struct overlay *ov, const struct ov_layer *layer)
{
	return layer->upper ? ov->override : layer->override;
}

static bool is_acl(const char *name)
{
	return strcmp(name, OV_ACL_ACCESS) == 0 || strcmp(name, OV_ACL_DEFAULT) == 0;
}

/* May the view have this xattr at all? 0 or -EOPNOTSUPP. */
static int check_name(const struct overlay *ov, const char *name)
{
	if (ov->cfg.noxattrs || (ov->cfg.noacl && is_acl(name)))
		return -EOPNOTSUPP;
	return 0;
}

/* Name of the view to name on disk in LAYER, in one of two buffers or NAME itself; NULL if it is not for the view. */
static const char *stored_name(const struct overlay *ov, const struct ov_layer *layer, const char *name, char *buf1,
			       char *buf2)
{
	const char *s = ov_xattr_to_stored(name, buf1);

	return s ? ov_override_xattr_to_stored(layer_override(ov, layer), s, buf2) : NULL;
}

static const char *view_name(const struct overlay *ov, const struct ov_layer *layer, const char *stored, char *buf1,
			     char *buf2)
{
	const char *s = ov_override_xattr_to_view(layer_override(ov, layer), stored, buf1);

	return s ? ov_xattr_to_view(s, buf2) : NULL;
}

ssize_t ov_getxattr(struct overlay *ov, struct ov_inode *i, const char *name, void *value, size_t size)
{
	char buf1[NAME_BUF], buf2[NAME_BUF];
	const char *stored;
	ssize_t n;
	int r = check_name(ov, name);

	if (r < 0)
		return r;
	OV_NS_READ(ov);
	ov_cleanup_real struct ov_real real = {0};

	r = ov_real_get(ov, i, &real);
	if (r < 0)
		return r;
	stored = stored_name(ov, real.layer, name, buf1, buf2);
	if (!stored)
		return -ENODATA;
	n = ov_at_getxattr(real.at, stored, value, size);
	if (n == -EOPNOTSUPP && is_acl(name))
		return -ENODATA; /* a layer without ACLs: anything else fails the kernel's permission check */
	if (n > 0 && size > 0 && ov->mapped && is_acl(name)) {
		r = ov_acl_map(ov, value, (size_t)n, false);
		if (r < 0)
			return r;
	}
	return n;
}

ssize_t ov_listxattr(struct overlay *ov, struct ov_inode *i, bool trusted, char *list, size_t size)
{
	ov_cleanup_free char *raw = NULL;
	char buf1[NAME_BUF], buf2[NAME_BUF];
	size_t used = 0;
	ssize_t n;
	int r;

	if (ov->cfg.noxattrs)
		return -EOPNOTSUPP;
	OV_NS_READ(ov);
	ov_cleanup_real struct ov_real real = {0};

	r = ov_real_get(ov, i, &real);
	if (r < 0)
		return r;
	n = ov_at_getxattr_alloc(real.at, NULL, &raw);
	if (n < 0)
		return n == -ENODATA ? 0 : n;
	for (const char *p = raw; p < raw + n; p += strlen(p) + 1) {
		const char *name = view_name(ov, real.layer, p, buf1, buf2);
		size_t len;

		if (!name || check_name(ov, name) < 0 || (!trusted && strncmp(name, "trusted.", 8) == 0))
			continue;
		len = strlen(name) + 1;
		if (size > 0) {
			if (used + len > size)
				return -ERANGE;
			memcpy(list + used, name, len);
		}
		used += len;
	}
	return (ssize_t)used;
}

static int set_one(struct overlay *ov, struct ov_at at, const char *name, const char *stored, const void *value,
		   size_t size, int flags)
{
	ov_cleanup_free char *mapped = NULL;
	int r;

	if (ov->mapped && is_acl(name) && size > 0) {
		mapped = malloc(size);
		if (!mapped)
			return -ENOMEM;
		memcpy(mapped, value, size);
		r = ov_acl_map(ov, mapped, size, true);
		if (r < 0)
			return r;
		value = mapped;
	}
	return ov_at_setxattr(at, stored, value, size, flags);
}

int ov_setxattr(struct overlay *ov, struct ov_inode *i, const char *name, const void *value, size_t size, int flags,
		bool kill_sgid)
{
	char buf1[NAME_BUF], buf2[NAME_BUF];
	const char *stored;
	int r = check_name(ov, name);

	if (r < 0)
		return r;
	if (!ov_xattr_to_stored(name, buf1))
		return -EPERM;
	r = ov_copy_up(ov, i, 0, 0);
	if (r < 0)
		return r;
	OV_NS_READ(ov);
	ov_cleanup_real struct ov_real real = {0};

	r = ov_real_get(ov, i, &real);
	if (r < 0)
		return r;
	stored = stored_name(ov, real.layer, name, buf1, buf2);
	if (!stored)
		return -EPERM;
	r = set_one(ov, real.at, name, stored, value, size, flags);
	if (r == -EEXIST && ov_is_repeat(ov))
		r = 0;
	if (r == 0 && ov_inode_isdir(i) && is_acl(name))
		ov_inode_unset(i, OV_I_PROPS);
	if (r == 0 && kill_sgid) {
		struct statx stx;
		mode_t mode;

		r = ov_statx_real(ov, real.layer, real.at, &stx);
		mode = stx.stx_mode & 07777 & ~(mode_t)S_ISGID;
		if (r == 0 && mode != (stx.stx_mode & 07777))
			r = ov_set_owner_mode(ov, real.at, NULL, NULL, &mode);
	}
	return r;
}

int ov_removexattr(struct overlay *ov, struct ov_inode *i, const char *name)
{
	char buf1[NAME_BUF], buf2[NAME_BUF];
	const char *stored;
	ssize_t n;
	int r = check_name(ov, name);

	if (r < 0)
		return r;
	n = ov_getxattr(ov, i, name, NULL, 0); /* no copy-up for what is not there */
	if (n == -ENODATA && ov_is_repeat(ov))
		return 0;
	if (n == -ENODATA && is_acl(name) && ov_inode_is(i, OV_I_UPPER))
		return 0; /* there is always an ACL: the one that the mode says */
	if (n < 0)
		return (int)n;
	r = ov_copy_up(ov, i, 0, 0);
	if (r < 0)
		return r;
	OV_NS_READ(ov);
	ov_cleanup_real struct ov_real real = {0};

	r = ov_real_get(ov, i, &real);
	if (r < 0)
		return r;
	stored = stored_name(ov, real.layer, name, buf1, buf2);
	if (!stored)
		return -EPERM;
	r = ov_at_removexattr(real.at, stored);
	if (r == 0 && ov_inode_isdir(i) && is_acl(name))
		ov_inode_unset(i, OV_I_PROPS);
	return r;
}

/* A failure to copy this xattr may be passed over: the upper's file system or our privileges have no room for it. */
static bool may_skip(const char *name, int err)
{
	if (err != -EOPNOTSUPP && err != -EPERM && err != -EINVAL)
		return false;
	return strcmp(name, "security.capability") != 0 && !is_acl(name);
}

int ov_copy_xattrs(struct overlay *ov, const struct ov_layer *from_layer, struct ov_at from, struct ov_at to)
{
	ov_cleanup_free char *list = NULL;
	char buf1[NAME_BUF], buf2[NAME_BUF];
	ssize_t n = ov_at_getxattr_alloc(from, NULL, &list);
	int r;

	if (n < 0)
		return n == -EOPNOTSUPP || n == -ENODATA ? 0 : (int)n;
	for (const char *p = list; p < list + n; p += strlen(p) + 1) {
		ov_cleanup_free char *value = NULL;
		const char *view, *stored;
		ssize_t len;

		if (ov_xattr_is_overlay_private(p))
			continue;
		view = ov_override_xattr_to_view(layer_override(ov, from_layer), p, buf1);
		if (!view || !ov_xattr_to_view(view, buf2))
			continue; /* markers of the store, written anew where the upper needs them */
		stored = ov_override_xattr_to_stored(ov->override, view, buf2);
		if (!stored)
			continue;
		len = ov_at_getxattr_alloc(from, p, &value);
		if (len == -ENODATA)
			continue;
		r = len < 0 ? (int)len : ov_at_setxattr(to, stored, value, (size_t)len, 0);
		if (r < 0 && !may_skip(stored, r))
			return r;
	}
	return 0;
}
