/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_COMPANY_H
#define OV_COMPANY_H

/*
 * Clients that work at the same time. One thread that leads (leader.h) is one that reads; while it serves, the others' requests
 * wait, and to have another thread take each of them would wake one for each, which takes longer than to serve it. So while
 * several clients are at work some threads read beside the leader, as many as there seem to be clients, but no more than
 * processors: the kernel wakes the one that has waited longest, and with more of them than needed each time another one.
 *
 * Where others compute, or there are more clients than processors, one that reads may be faster, as it needs not be woken: both
 * are tried in turn for some requests, and the faster is kept for a while.
 */

#include <stdbool.h>
#include <stdint.h>

#define OV_COMPANY_RECENT 16 /* requests by which clients are counted */

struct ov_company {
	/* the leader's */
	uint32_t recent[OV_COMPANY_RECENT]; /* the clients of its requests */
	unsigned nrecent;
	unsigned clients;  /* that seem to be at work */
	unsigned mixed;    /* for so many more requests it is looked whether there is company */
	unsigned present;  /* for so many it is taken for granted */
	bool alone;        /* one reads nevertheless */
	unsigned round;    /* of the trial */
	unsigned left_in_round; /* requests */
	unsigned keep;     /* requests until the next trial */
	uint64_t last;     /* when the leader has read its last request */
	uint64_t time[2];  /* of requests with others beside it, and of those alone */
	unsigned n[2];
	unsigned seen;     /* of SERVED */
	/* atomic, without order: each is a hint, and stands for itself */
	unsigned wanted;   /* threads that should read beside the leader */
	unsigned there;    /* that do */
	uint32_t beside;   /* the client whose request is being served by one of them, or 0 */
	unsigned served;   /* requests by them */
	int left;          /* so many more requests they may read unless the leader sees company again: it may not get to read any */
};

/*
 * Leader: it has read a request of client PID (0: the kernel's own). Have several clients been at work recently? Only then it is
 * worth a system call to see whether another request waits.
 */
bool ov_company_is_mixed(struct ov_company *c, uint32_t pid);

/* Leader: is a request of another client than PID being served beside it? */
bool ov_company_is_beside(const struct ov_company *c, uint32_t pid);

/* Leader: it has read a request at NOW (nanoseconds), and perhaps SEEN company. Are threads to read beside it? */
bool ov_company_goes_on(struct ov_company *c, bool seen, uint64_t now);

/* Leader: threads are to read beside it on that many CPUS; or none are to: 0. */
void ov_company_want(struct ov_company *c, unsigned cpus);

/* Leader: are there fewer than there should be? */
bool ov_company_is_short(const struct ov_company *c);

/* Leader: another thread reads beside it; that thread: it reads no more. */
void ov_company_joins(struct ov_company *c);
void ov_company_leaves(struct ov_company *c);

/* A thread beside the leader begins to serve a request of client PID, and has served it. */
void ov_company_begin(struct ov_company *c, uint32_t pid);
void ov_company_end(struct ov_company *c);

/* Should it leave? */
bool ov_company_is_too_large(const struct ov_company *c);

#endif
