/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_POLLER_H
#define OV_POLLER_H

/*
 * How to wait for the next request. To sleep and be woken costs more than most requests take, above all in a virtual machine.
 * While requests follow each other quickly there are other ways: to ask for the next one for a moment before sleeping, where
 * cores are free; or to be on the client's CPU, so that no other one has to be woken. Which is the best depends on the machine
 * and on what else runs there: they are tried in turn for some requests, and the faster is kept for a while. An idle daemon
 * sleeps.
 */

#include <stdint.h>

#include "util.h"

enum ov_wait { OV_WAIT_NEAR, OV_WAIT_ASLEEP, OV_WAIT_AWAKE, OV_WAIT_WAYS };

struct ov_poller {
	int fd;              /* of the requests */
	int load_fd;         /* /proc/loadavg, or -1 */
	unsigned cpus;
	uint64_t limit;      /* nanoseconds awake */
	unsigned ways;       /* a bit for each that is possible */
	enum ov_wait way;    /* this is how it is done now */
	uint64_t done;       /* when the last request was answered */
	uint64_t look_again; /* when to ask again how busy the machine is */
	uint64_t pause;      /* until then others need the cores */
	unsigned quick;      /* how much the recent requests followed each other quickly */
	unsigned company;    /* so many more requests are expected of clients that work at the same time */
	bool shares;         /* threads read them beside each other */
	/* the trial */
	unsigned round;      /* of those of the trial; after them: decided */
	unsigned left;       /* requests until the round ends */
	unsigned keep;       /* requests until the next trial, as of the last one */
	enum ov_wait chosen; /* by the last one, OV_WAIT_WAYS: there was none */
	uint64_t last;       /* when the last request was read */
	uint64_t time[OV_WAIT_WAYS]; /* of the requests in the rounds of each */
	unsigned n[OV_WAIT_WAYS];
	/* near */
	unsigned far;        /* how much the recent requests seem to have come from another CPU */
	unsigned patience;   /* so much of that is borne before looking */
	bool ask;            /* where the client is */
	bool followed;       /* the lead has moved to a client that was far */
	unsigned moves;      /* since CHECK requests ago */
	unsigned check;
	bool can_post, posts; /* replies are sent by another thread (poster.h) */
	unsigned leaving;    /* how much clients have left recently */
	unsigned bear;       /* so much of that is borne before posting */
	unsigned stayed;     /* requests since the end of posting */
	unsigned judge;      /* requests until it is seen whether posting pays, 0: it does */
	uint64_t served;     /* when the last request was */
	uint64_t pace;       /* from there to the next request, without it, on average over so many recent ones: */
	unsigned paced;
	uint64_t posting;    /* the sum of that with it */
	uint64_t post_for, post_until;
	unsigned away;       /* requests until it is tried again, 0: it has not been given up */
	unsigned away_next;  /* the same for the next time */
};

/*
 * MICROSECONDS: to be awake at most, 0 turns that off. FOLLOW: the client's CPU can be had. A single core turns off both. FD
 * stays the caller's.
 */
void ov_poller_init(struct ov_poller *p, int fd, unsigned microseconds, bool follow);
void ov_poller_destroy(struct ov_poller *p);

/* Nanoseconds of CLOCK_MONOTONIC: the times of the functions below. One thread at a time calls them. */
uint64_t ov_poller_now(void);

/* Wait a moment for a request, or not at all. */
void ov_poller_wait(struct ov_poller *p);
/*
 * A request has been read, of a client or, on its own behalf, of the KERNEL; it has been served; the reply was sent WHEN, by
 * another thread (which counts if it is later).
 */
void ov_poller_read(struct ov_poller *p, uint64_t now, bool kernel);
void ov_poller_done(struct ov_poller *p, uint64_t now);
void ov_poller_sent(struct ov_poller *p, uint64_t when);

/*
 * Clients work at the same time: for a while nobody is looked for; and where threads read BESIDE each other nobody's CPU is the
 * right one, and nobody waits awake.
 */
void ov_poller_note_company(struct ov_poller *p, bool beside);

static inline bool ov_poller_is_shared(const struct ov_poller *p)
{
	return p->company && p->shares;
}

/* Should the daemon be on the client's CPU at present? */
static inline bool ov_poller_is_near(const struct ov_poller *p)
{
	return p->way == OV_WAIT_NEAR && !ov_poller_is_shared(p);
}

/* And replies be sent by another thread, so that the client stays there? Only if that can be done. */
static inline bool ov_poller_posts(const struct ov_poller *p)
{
	return p->posts && ov_poller_is_near(p);
}

void ov_poller_may_post(struct ov_poller *p);

/* The client seems to be on another CPU than the daemon, and that costs time. */
bool ov_poller_is_far(const struct ov_poller *p);

/* Look where the client is, and say what was found. */
bool ov_poller_asks(const struct ov_poller *p);

enum ov_looked {
	OV_LOOKED_WAS_NEAR,
	OV_LOOKED_APART,   /* on another CPU, but not far */
	OV_LOOKED_MOVED,   /* it was far; the daemon is on its CPU now */
	OV_LOOKED_IN_VAIN, /* it was far, and there is no way to get there */
};

void ov_poller_looked(struct ov_poller *p, enum ov_looked found);

#endif
