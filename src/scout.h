/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_SCOUT_H
#define OV_SCOUT_H

/* The thread that reads directories, and opens files, before they are asked for (ov_ahead_work()). */

#include <pthread.h>

#include "overlay.h"

struct ov_scout {
	struct overlay *ov;
	pthread_t thread;
	pthread_mutex_t lock; /* innermost; of what follows */
	pthread_cond_t more;
	bool stopped, woken;
	bool started; /* of the thread that starts and stops it */
};

/* 0 or -errno. */
int ov_scout_init(struct ov_scout *s, struct overlay *ov);

/* Without it nothing is read ahead, and all else is as with it. 0 or -errno. */
int ov_scout_start(struct ov_scout *s);

/* There is something to do. Any thread; locks may be held. */
void ov_scout_wake(struct ov_scout *s);

/*
 * It ends when it has looked at the name that it is at, or has read the names of a directory, or has opened a file. If that takes
 * more than some seconds, since a layer does not answer, it is left behind. Nothing if it does not run. No lock may be held.
 */
void ov_scout_stop(struct ov_scout *s);

/* S has stopped, or was never started. False: the thread was left behind, and S and the overlay must stay. */
bool ov_scout_destroy(struct ov_scout *s);

#endif
