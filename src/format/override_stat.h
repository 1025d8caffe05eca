/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_FORMAT_OVERRIDE_STAT_H
#define OV_FORMAT_OVERRIDE_STAT_H

/*
 * xattr_permissions stores: owner, mode and type kept in an xattr, "uid:gid:mode[:type]", mode octal, type one of
 * file dir symlink pipe socket block-MAJ-MIN char-MAJ-MIN.
 */

#include "../sys/at.h"

/* Which xattr a layer uses. */
enum ov_override {
	OV_OVERRIDE_NONE,
	OV_OVERRIDE_SECURITY, /* security.fuseoverlayfs.override_stat: xattr_permissions=1 */
	OV_OVERRIDE_CONTAINERS, /* user.containers.override_stat: xattr_permissions=2 */
	OV_OVERRIDE_USER,     /* user.fuseoverlayfs.override_stat: older rootless stores */
};

struct ov_override_stat {
	uint32_t uid;
	uint32_t gid;
	uint32_t mode;   /* permission bits, 07777 */
	uint32_t type;   /* S_IFMT bits, or 0: as the real file */
	uint32_t major;
	uint32_t minor;  /* for S_IFBLK, S_IFCHR */
};

#define OV_OVERRIDE_TEXT_MAX 96

/* Decode LEN bytes (3 or 4 fields; trailing NUL tolerated). Pure. 0 or -EINVAL. */
int ov_override_decode(const char *value, size_t len, struct ov_override_stat *out);

/* Encode with the type field (WITH_TYPE) or without; returns the length written into BUF. Pure. */
size_t ov_override_encode(const struct ov_override_stat *st, bool with_type, char buf[OV_OVERRIDE_TEXT_MAX]);

/* Which kind the directory AT (a layer's root) carries: security, containers, user, in this order; NONE if no one. */
enum ov_override ov_override_detect(struct ov_at at);

/* The xattr name of KIND (static), NULL for NONE. */
const char *ov_override_name(enum ov_override kind);

/* Read it of AT: 0, -ENODATA if absent, -EINVAL if malformed (logged by the caller), or -errno. Write it. */
int ov_override_read(struct ov_at at, enum ov_override kind, struct ov_override_stat *out);
int ov_override_write(struct ov_at at, enum ov_override kind, const struct ov_override_stat *st);

/*
 * Where such a store keeps the xattr NAME of the view: security.X is kept as user.containers.override_security.X with
 * OV_OVERRIDE_CONTAINERS or _USER. NAME itself otherwise, or the text in BUF (256 bytes). NULL if too long. And back: NULL
 * also for security.X of the layer itself, for which the view has no name.
 */
const char *ov_override_xattr_to_stored(enum ov_override kind, const char *name, char *buf);
const char *ov_override_xattr_to_view(enum ov_override kind, const char *stored, char *buf);

#endif
