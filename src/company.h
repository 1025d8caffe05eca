/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_COMPANY_H
#define OV_COMPANY_H

/*
 * Clients that work at the same time. One thread that leads (leader.h) is one that reads; while it serves, the others' requests
 * wait, and to have another thread take each of them would wake one for each, which takes longer than to serve it. So while
 * several clients are at work some threads read beside the leader, as many as there seem to be clients, but no more than
 * processors: the kernel wakes the one that has waited longest, and with more of them than needed each time another one.
 */

#include <stdbool.h>
#include <stdint.h>

struct ov_company {
	/* the leader's */
	uint32_t last_pid; /* of the requests */
	unsigned mixed;    /* so many more requests are expected to have company */
	unsigned wanted;   /* threads beside the leader */
	unsigned queued;   /* how often requests waited although so many were there */
	/* atomic, without order: each is a hint, and stands for itself */
	bool open;         /* who reads beside the leader may go on */
	unsigned there;    /* threads that do */
	uint32_t beside;   /* the client of the one that is being served by one of them, or 0 */
};

/*
 * Leader: it has read a request of client PID (0: the kernel's own). Have several clients been at work recently? Only then it is
 * worth a system call to see whether another request waits.
 */
bool ov_company_is_mixed(struct ov_company *c, uint32_t pid);

/* Leader: is a request of another client than PID being served beside it? */
bool ov_company_is_beside(const struct ov_company *c, uint32_t pid);

/* Leader: whether threads are to read beside it, from now on. */
void ov_company_set_open(struct ov_company *c, bool open);

/* Leader: several clients are at work, and perhaps another request WAITS. Are there fewer threads than there should be, up to MOST? */
bool ov_company_is_short(struct ov_company *c, bool waits, unsigned most);

/* Leader: another thread reads beside it; that thread: it reads no more. */
void ov_company_joins(struct ov_company *c);
void ov_company_leaves(struct ov_company *c);

/* A thread beside the leader begins to serve a request of client PID, and has served it. */
void ov_company_begin(struct ov_company *c, uint32_t pid);
void ov_company_end(struct ov_company *c);

/* Should it read another one? */
bool ov_company_is_open(const struct ov_company *c);

#endif
