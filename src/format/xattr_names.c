// SPDX-License-Identifier: GPL-2.0-or-later
#include "xattr_names.h"

#include <string.h>

#define TRUSTED "trusted.overlay."
#define USER "user.overlay."
#define ESCAPE "overlay."
#define LEN(s) (sizeof(s) - 1)

#define BOTH(x, suffix) [OV_XP_TRUSTED][x] = TRUSTED suffix, [OV_XP_USER][x] = USER suffix

static const char *const names[OV_XP_COUNT][OV_X_COUNT] = {
	BOTH(OV_X_OPAQUE, "opaque"),	 BOTH(OV_X_REDIRECT, "redirect"), BOTH(OV_X_METACOPY, "metacopy"),
	BOTH(OV_X_ORIGIN, "origin"),	 BOTH(OV_X_IMPURE, "impure"),	  BOTH(OV_X_NLINK, "nlink"),
	BOTH(OV_X_PROTATTR, "protattr"), BOTH(OV_X_UUID, "uuid"),	  BOTH(OV_X_UPPER, "upper"),
	BOTH(OV_X_WHITEOUT, "whiteout"), BOTH(OV_X_PLAIN, "plain"),
};

const char OV_XATTR_FUSEOVERLAYFS_OPAQUE[] = "user.fuseoverlayfs.opaque";

const char *ov_xattr_name(enum ov_xprefix p, enum ov_xname x)
{
	return names[p][x];
}

/* Does S begin with the literal P? */
#define STARTS(s, p) (strncmp(s, p, LEN(p)) == 0)

/* Length of the overlay prefix that NAME begins with, 0 if none. The first letter settles it for nearly every name. */
static size_t overlay_prefix(const char *name)
{
	if (name[0] == 't')
		return STARTS(name, TRUSTED) ? LEN(TRUSTED) : 0;
	if (name[0] == 'u')
		return STARTS(name, USER) ? LEN(USER) : 0;
	return 0;
}

/* What fuse-overlayfs and containers/storage keep beside a file. */
static bool is_foreign_private(const char *name)
{
	if (name[0] == 'u')
		return STARTS(name, "user.fuseoverlayfs.") || strcmp(name, "user.containers.override_stat") == 0 ||
		       STARTS(name, "user.containers.override_security.");
	return name[0] == 's' && strcmp(name, "security.fuseoverlayfs.override_stat") == 0;
}

const char *ov_xattr_to_view(const char *stored, char *buf)
{
	size_t prefix = overlay_prefix(stored), rest;

	if (!prefix)
		return is_foreign_private(stored) ? NULL : stored;
	if (!STARTS(stored + prefix, ESCAPE))
		return NULL;
	rest = strlen(stored + prefix + LEN(ESCAPE));
	if (prefix + rest > OV_XATTR_NAME_MAX)
		return NULL;
	memcpy(buf, stored, prefix);
	memcpy(buf + prefix, stored + prefix + LEN(ESCAPE), rest + 1);
	return buf;
}

const char *ov_xattr_to_stored(const char *name, char *buf)
{
	size_t prefix = overlay_prefix(name), rest;

	if (!prefix)
		return is_foreign_private(name) ? NULL : name;
	rest = strlen(name + prefix);
	if (prefix + LEN(ESCAPE) + rest > OV_XATTR_NAME_MAX)
		return NULL;
	memcpy(buf, name, prefix);
	memcpy(buf + prefix, ESCAPE, LEN(ESCAPE));
	memcpy(buf + prefix + LEN(ESCAPE), name + prefix, rest + 1);
	return buf;
}

bool ov_xattr_is_overlay_private(const char *stored)
{
	size_t prefix = overlay_prefix(stored);

	return prefix && !STARTS(stored + prefix, ESCAPE);
}
