/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_IDMAP_H
#define OV_IDMAP_H

/*
 * uidmapping=/gidmapping= of fuse-overlayfs: triples DISK:VIEW:LENGTH joined by colons, an empty field in front
 * allowed (podman writes a leading colon). Disk id DISK+n shows as VIEW+n, and the caller's VIEW+n is
 * stored as DISK+n.
 */

#include <stdint.h>
#include <sys/types.h>

#include "util.h"

struct ov_idrange {
	uint32_t disk;
	uint32_t view;
	uint32_t length;
};

struct ov_idmap {
	struct ov_idrange *ranges; /* owned; NULL with n == 0: identity */
	size_t n;
};

#define OV_OVERFLOW_ID 65534u

/*
 * Parse TEXT into MAP. 0, or -EINVAL with *WHY (static text, may be NULL) saying what is wrong: not a number, not
 * triples, length 0, a range that passes 2^32-1, overlapping ranges. On error MAP is left empty.
 */
int ov_idmap_parse(struct ov_idmap *map, const char *text, const char **why);

/* Disk to view; unmapped: OV_OVERFLOW_ID. */
uint32_t ov_idmap_to_view(const struct ov_idmap *map, uint32_t id);

/* View to disk; false if ID has no place on disk (chown then fails with EINVAL, as in a user namespace). */
bool ov_idmap_to_disk(const struct ov_idmap *map, uint32_t id, uint32_t *out);

void ov_idmap_clear(struct ov_idmap *map);

#endif
