/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_CONFIG_H
#define OV_CONFIG_H

/* What the user asked of the overlay, parsed: plain data, filled by params.c, read by the core. */

#include <stdint.h>
#include <sys/types.h>

#include "idmap.h"
#include "util.h"

/*
 * Kernel meaning of redirect_dir=: follow = read them, do not make them; nofollow = neither; off (the default) = make
 * none and follow those in trusted xattrs (the kernel's redirect_always_follow), but not in user ones.
 */
enum ov_redirect { OV_REDIRECT_OFF, OV_REDIRECT_FOLLOW, OV_REDIRECT_NOFOLLOW, OV_REDIRECT_ON };
enum ov_xino { OV_XINO_OFF, OV_XINO_AUTO, OV_XINO_ON };

/* When changes are forced to disk (fsync=). */
enum ov_sync {
	OV_SYNC_OFF,  /* fsync=0, volatile: copy-up is not synced and fsync of a caller does nothing */
	OV_SYNC_ON,   /* the default: data of a copy-up is synced before it appears, as in the kernel */
};

struct ov_config {
	char **lower;   /* as given, unescaped, uppermost first; owned */
	size_t nlower;  /* count of lower[], data-only ones included */
	size_t ndata;   /* how many at the end of lower[] are data-only (after "::" or datadir+) */
	char *upper;    /* NULL: read-only overlay */
	char *work;
	enum ov_redirect redirect;
	bool redirect_set; /* the user named it */
	enum ov_xino xino;
	enum ov_sync sync;
	bool metacopy;
	bool index;
	bool userxattr;     /* use user.overlay. although trusted.overlay. could be written */
	bool volatile_;     /* write the volatile marker */
	bool static_nlink;
	bool noacl;
	bool noxattrs;
	bool ino32;
	bool force_read_only; /* ro */
	bool shared;        /* keep inodes where another process can go on with them */
	bool no_char_whiteout; /* FUSE_OVERLAYFS_DISABLE_OVL_WHITEOUT: do not write device whiteouts */
	struct ov_idmap uidmap;
	struct ov_idmap gidmap;
	bool squash_to_root;
	int64_t squash_uid;    /* -1: not asked for */
	int64_t squash_gid;
	int xattr_permissions; /* 0, 1, 2 */
};

/* Defaults, as documented in the man page. */
void ov_config_init(struct ov_config *c);

/* Free everything that C owns. */
void ov_config_clear(struct ov_config *c);

#endif
