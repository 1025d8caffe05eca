/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_LOSTNAMES_H
#define OV_LOSTNAMES_H

/*
 * Files that have lost one of their names a moment ago, and have others.
 *
 * The kernel takes one off a file's link count when it has the reply to an UNLINK, or to a RENAME over a name
 * (fuse_entry_unlinked()). If somebody else has asked for the attributes meanwhile, and was told the count that is one less
 * already, it takes off one too many. At 0 that stays so, and link(2) says that there is no such file. So such an answer must not
 * count: the kernel does not take one that is older than the last change of what it knows, be that only a notification that
 * the attributes are out of date.
 */

#include <pthread.h>
#include <stdint.h>

#include "util.h"

#define OV_LOSTNAMES 64
#define OV_LOSTNAME_MS 1000 /* from the request on, until its sender has certainly done what the reply makes him do */

struct ov_lostnames {
	pthread_mutex_t lock; /* innermost */
	uint64_t until;       /* atomic: there is none from this time on */
	struct {
		uint64_t nodeid, until;
		uint32_t tid;
	} e[OV_LOSTNAMES];
	unsigned next;
};

void ov_lostnames_init(struct ov_lostnames *l);
void ov_lostnames_destroy(struct ov_lostnames *l);

/*
 * NODEID (0: any) is about to lose a name by a request of thread TID, at time NOW (ns, of a monotonic clock). Before anybody can
 * see that.
 */
void ov_lostnames_add(struct ov_lostnames *l, uint64_t nodeid, uint32_t tid, uint64_t now);

/* Has NODEID lost one at NOW, for all that thread TID can know? It knows of its own request. */
bool ov_lostnames_has(struct ov_lostnames *l, uint64_t nodeid, uint32_t tid, uint64_t now);

/* Can there be one at all? Before asking for the time. */
static inline bool ov_lostnames_any(const struct ov_lostnames *l)
{
	return __atomic_load_n(&l->until, __ATOMIC_ACQUIRE) != 0;
}

#endif
