/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_STATS_H
#define OV_STATS_H

/* Counts of requests by opcode: one relaxed add a request, read at any time. */

#include <stdint.h>
#include <stdio.h>

#include "util.h"

/* Of the mount's root, for root and who mounted: the statistics; set, it has the program exchanged. */
#define OV_STATS_XATTR "user.fuse-overlay.stats"
#define OV_UPGRADE_XATTR "user.fuse-overlay.upgrade"

#define OV_STATS_OPS 64

struct ov_stats {
	uint64_t ops[OV_STATS_OPS];
	uint64_t other;
	uint64_t uring;  /* those of them that came through io_uring */
	uint64_t posted; /* those whose reply was left to another thread (poster.h) */
	uint64_t beside; /* those that were read beside the leader (company.h) */
};

static inline void ov_stats_count(struct ov_stats *s, unsigned opcode)
{
	__atomic_add_fetch(opcode < OV_STATS_OPS ? &s->ops[opcode] : &s->other, 1, __ATOMIC_RELAXED);
}

/* The name of an opcode, for messages. */
const char *ov_stats_name(unsigned opcode);

/* Lines "NAME count" for every opcode seen, into BUF; the length that it takes, as snprintf. */
size_t ov_stats_print(const struct ov_stats *s, char *buf, size_t size);

#endif
