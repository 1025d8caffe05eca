/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_POLLER_H
#define OV_POLLER_H

/*
 * Waiting for the next request awake. To sleep and be woken costs more than most requests take, above all in a virtual
 * machine; while requests follow each other quickly, and cores are free, the reader asks for the next one for a moment before
 * it sleeps. Whether that helps depends on the machine and on what else runs there: both ways are tried in turn for some
 * requests, and the faster one is kept for a while. An idle daemon sleeps.
 */

#include <stdint.h>

#include "util.h"

struct ov_poller {
	int fd;              /* of the requests */
	int load_fd;         /* /proc/loadavg, or -1 */
	unsigned cpus;
	uint64_t limit;      /* nanoseconds; 0: never */
	uint64_t done;       /* when the last request was answered */
	uint64_t look_again; /* when to ask again how busy the machine is */
	uint64_t pause;      /* until then others need the cores */
	unsigned quick;      /* how much the recent requests followed each other quickly */
	bool awake;          /* this is how it is done now */
	unsigned round;      /* of the trial, TRIAL_ROUNDS: decided */
	unsigned left;       /* requests until the round ends */
	uint64_t last;       /* when the last request was read */
	uint64_t time[2];    /* of the requests in the rounds asleep and awake */
	unsigned n[2];
};

/* MICROSECONDS 0 turns it off; so does a single core. FD stays the caller's. */
void ov_poller_init(struct ov_poller *p, int fd, unsigned microseconds);
void ov_poller_destroy(struct ov_poller *p);

/* Wait a moment for a request, or not at all. One thread at a time calls these. */
void ov_poller_wait(struct ov_poller *p);
/* A request has been read; it has been answered. */
void ov_poller_read(struct ov_poller *p);
void ov_poller_done(struct ov_poller *p);

#endif
