// SPDX-License-Identifier: GPL-2.0-or-later
#include "redirect.h"

#include <string.h>

#include "xattr_names.h"

#define COMPONENT_MAX 255

/* Is the component of LEN bytes at S one that names an entry of its directory? */
static bool is_plain_name(const char *s, size_t len)
{
	if (len == 0 || len > COMPONENT_MAX)
		return false;
	return !(s[0] == '.' && (len == 1 || (len == 2 && s[1] == '.')));
}

int ov_redirect_check(const char *value, size_t len)
{
	const char *p = value, *end = value + len, *slash;

	if (len == 0 || memchr(value, '\0', len))
		return -EINVAL;
	if (*p != '/')
		return memchr(p, '/', len) || !is_plain_name(p, len) ? -EINVAL : 0;
	while (p < end) {
		p++; /* the slash before a component */
		slash = memchr(p, '/', (size_t)(end - p));
		if (!slash)
			slash = end;
		if (!is_plain_name(p, (size_t)(slash - p)))
			return -EINVAL;
		p = slash;
	}
	return 0;
}

int ov_redirect_read(struct ov_at at, int prefix, char **out)
{
	ov_cleanup_free char *value = NULL;
	ssize_t len = ov_at_getxattr_alloc(at, ov_xattr_name(prefix, OV_X_REDIRECT), &value);

	*out = NULL;
	if (len == -ENODATA || len == -EOPNOTSUPP)
		return 0;
	if (len < 0)
		return (int)len;
	if (ov_redirect_check(value, (size_t)len) < 0)
		return -EINVAL;
	*out = ov_steal_ptr(value);
	return 0;
}

int ov_redirect_write(struct ov_at at, int prefix, const char *value)
{
	size_t len = strlen(value);

	if (len > OV_REDIRECT_MAX)
		return -ENAMETOOLONG;
	if (ov_redirect_check(value, len) < 0)
		return -EINVAL;
	return ov_at_setxattr(at, ov_xattr_name(prefix, OV_X_REDIRECT), value, len, 0);
}

int ov_redirect_next(const char **p, char comp[256])
{
	size_t len;

	if (**p == '/')
		++*p;
	len = strcspn(*p, "/");
	if (len == 0 || len > COMPONENT_MAX)
		return 0;
	memcpy(comp, *p, len);
	comp[len] = '\0';
	*p += len;
	return 1;
}
