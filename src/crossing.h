/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_CROSSING_H
#define OV_CROSSING_H

/*
 * Attributes that are told to one client while another changes what they say.
 *
 * The kernel keeps what it is told, unless it was asked for before the last change that it knows of (fi->attr_version). But it
 * does not count every change as one, and takes replies in the order in which their clients get to run:
 *
 * - When it has the reply to an UNLINK, or to a RENAME over a name, it takes one off the file's link count
 *   (fuse_entry_unlinked()). If somebody else was told the lower count before that, it takes off one too many. At 0 that stays
 *   so, and link(2) says that there is no such file.
 * - When it has the reply to a change in a directory, or of an xattr, it drops the attributes (fuse_invalidate_attr()). If somebody
 *   else gets to take a reply from before the change only then, the old ones are back, and stay.
 *
 * A notification that the attributes are out of date is a change that counts: in the first case before they are told, in the
 * second one when the change is made.
 */

#include <pthread.h>
#include <stdint.h>

#include "util.h"

#define OV_CROSSING_LOST 64
#define OV_CROSSING_TOLD 256
#define OV_CROSSING_MS 1000 /* so long after it was sent, or the change begun, a reply may still be on its way */

struct ov_crossing {
	pthread_mutex_t lock; /* innermost; of all that follows */
	uint64_t lost_until;  /* atomic: no name was lost since, as far as that matters */
	unsigned next;
	struct {
		uint64_t nodeid, until;
		uint32_t tid;
	} lost[OV_CROSSING_LOST];
	struct {
		uint64_t nodeid, until;
		uint32_t tid; /* or 0: of several, or of one that is not to be seen here */
	} told[OV_CROSSING_TOLD]; /* by nodeid; one in the place of another is forgotten */
};

void ov_crossing_init(struct ov_crossing *c);
void ov_crossing_destroy(struct ov_crossing *c);

/*
 * NODEID (0: any) is about to lose a name, and has others, by a request of thread TID, at time NOW (ns, of a monotonic clock).
 * Before anybody can see that.
 */
void ov_crossing_loses(struct ov_crossing *c, uint64_t nodeid, uint32_t tid, uint64_t now);

/*
 * Attributes of NODEID, asked for by TID, are about to be told: has it lost a name, which TID may not know? Each knows of its
 * own requests.
 */
bool ov_crossing_has_lost(struct ov_crossing *c, uint64_t nodeid, uint32_t tid, uint64_t now);

/* Attributes of NODEID will be told to TID. Before they are read. */
void ov_crossing_tells(struct ov_crossing *c, uint64_t nodeid, uint32_t tid, uint64_t now);

/* TID has changed NODEID: may others have been told older attributes? Then this is asked once for all of them. */
bool ov_crossing_was_told(struct ov_crossing *c, uint64_t nodeid, uint32_t tid, uint64_t now);

#endif
