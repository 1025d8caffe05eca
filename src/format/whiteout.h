/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_FORMAT_WHITEOUT_H
#define OV_FORMAT_WHITEOUT_H

/* The three kinds of whiteout and the two of opaque marker that are files: character device 0/0, xattr, OCI ".wh.". */

#include "../sys/at.h"

enum ov_whiteout_kind {
	OV_WH_CHAR,  /* character device 0/0 named like the hidden entry */
	OV_WH_XATTR, /* empty regular file with overlay.whiteout, in a directory whose overlay.opaque is "x" */
	OV_WH_OCI,   /* empty regular file ".wh.NAME" beside it */
};

#define OV_OCI_PREFIX_LEN 4

/* Is the object with these attributes a device whiteout? Pure. */
bool ov_whiteout_is_char(const struct statx *stx);

/* Could it be an xattr whiteout (empty regular file)? If so ask ov_whiteout_has_xattr(). Pure. */
bool ov_whiteout_may_be_xattr(const struct statx *stx);

/* 1 if AT carries overlay.whiteout (either prefix), 0 if not, -errno on a real error (not ENODATA/EOPNOTSUPP). */
int ov_whiteout_has_xattr(struct ov_at at);

/* Write ".wh.NAME" into BUF (NAME_MAX + 1 bytes). -ENAMETOOLONG if it does not fit. Pure. */
int ov_whiteout_oci_name(const char *name, char *buf);

/* NAME begins with ".wh.": a candidate for an OCI whiteout. *HIDDEN (may be NULL) gets the rest. Pure. */
bool ov_whiteout_oci_parse(const char *name, const char **hidden);

/* The name of the OCI opaque marker inside a directory; and is NAME that or another ".wh..wh." private name? */
extern const char OV_OCI_OPAQUE_NAME[];
bool ov_whiteout_is_oci_meta(const char *name);

/*
 * Is the object AT, found under a ".wh." name with attributes STX, really an OCI whiteout: an empty regular file
 * without our overlay.plain mark, and no whiteout by xattr, which hides its own name? 1, 0, or -errno.
 */
int ov_whiteout_oci_is_real(struct ov_at at, const struct statx *stx);

/* Mark the file AT, whose name begins with ".wh.", as an ordinary one (overlay.plain under prefix P). 0 or -errno. */
int ov_whiteout_mark_plain(struct ov_at at, int prefix);

/*
 * Make a whiteout object called NAME in directory DIRFD (workdir): a 0/0 device, or an empty file with
 * overlay.whiteout under PREFIX. Not for OV_WH_OCI, which has no object to rename. 0 or -errno.
 */
int ov_whiteout_make(int dirfd, const char *name, enum ov_whiteout_kind kind, int prefix);

/* Create the OCI whiteout for NAME in DIRFD (".wh.NAME"). 1, 0 if it was there already, or -errno. */
int ov_whiteout_make_oci(int dirfd, const char *name);

/* Remove the OCI whiteout for NAME from DIRFD. 0 or -errno. */
int ov_whiteout_drop_oci(int dirfd, const char *name);

#endif
