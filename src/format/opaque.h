/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_FORMAT_OPAQUE_H
#define OV_FORMAT_OPAQUE_H

#include "../sys/at.h"

enum ov_opaque {
	OV_OPAQUE_NO,
	OV_OPAQUE_YES,       /* hides everything below */
	OV_OPAQUE_XWHITEOUTS /* "x": not opaque, may hold xattr whiteouts */
};

/*
 * Read the opaque xattr of directory AT: overlay.opaque under both prefixes, then user.fuseoverlayfs.opaque.
 * Returns an enum ov_opaque, or -errno on a real error. (The marker file is looked for by the caller.)
 */
int ov_opaque_read(struct ov_at at);

/*
 * Does the root AT of a layer say under any name that there may be xattr whiteouts in it? Also if it is called opaque under another,
 * which means nothing there. An error is a no.
 */
bool ov_opaque_allows_xwhiteouts(struct ov_at at);

/* Set overlay.opaque to "y" (XWHITEOUTS false) or "x" under PREFIX. 0 or -errno. */
int ov_opaque_write(struct ov_at at, int prefix, bool xwhiteouts);

/* Create the marker file of OCI stores in directory DIRFD; existing is fine. 0 or -errno. */
int ov_opaque_write_oci(int dirfd);

#endif
