/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_FORMAT_XATTR_NAMES_H
#define OV_FORMAT_XATTR_NAMES_H

/* Every xattr name that the overlay keeps on disk, and which names the merged view shows. */

#include "../util.h"

/* trusted.overlay.* (privileged) or user.overlay.* (kernel "userxattr"). */
enum ov_xprefix { OV_XP_TRUSTED, OV_XP_USER, OV_XP_COUNT };

enum ov_xname {
	OV_X_OPAQUE,
	OV_X_REDIRECT,
	OV_X_METACOPY,
	OV_X_ORIGIN,
	OV_X_IMPURE,
	OV_X_NLINK,
	OV_X_PROTATTR,
	OV_X_UUID,
	OV_X_UPPER,
	OV_X_WHITEOUT,
	OV_X_PLAIN, /* ours: this ".wh." file is an ordinary file, not an OCI whiteout; value "y" */
	OV_X_COUNT
};

/* The full name, e.g. "trusted.overlay.opaque"; static. */
const char *ov_xattr_name(enum ov_xprefix p, enum ov_xname x);

/* "user.fuseoverlayfs.opaque", left by fuse-overlayfs 1.x; static. */
extern const char OV_XATTR_FUSEOVERLAYFS_OPAQUE[];

#define OV_XATTR_NAME_MAX 255

/*
 * Stored name -> name in the merged view. Returns STORED itself where both are the same, a pointer into BUF
 * (OV_XATTR_NAME_MAX + 1 bytes) for an escaped one ("trusted.overlay.overlay.X" shows as "trusted.overlay.X"), NULL
 * for a private name (both overlay prefixes, user.fuseoverlayfs.*, *.override_stat and override_security in every
 * namespace), which is never shown.
 */
const char *ov_xattr_to_view(const char *stored, char *buf);

/*
 * Name in the merged view -> stored name: NAME itself, or in BUF the escaped one for a name below an overlay prefix
 * ("trusted.overlay.X" -> "trusted.overlay.overlay.X", kernel 6.7). NULL if NAME is one that the view may not
 * touch (user.fuseoverlayfs.*, override_stat...) or the escaped name is too long.
 */
const char *ov_xattr_to_stored(const char *name, char *buf);

/* True for a name that copy-up must not carry: everything below the overlay prefixes that is not escaped. */
bool ov_xattr_is_overlay_private(const char *stored);

#endif
