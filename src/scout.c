/* SPDX-License-Identifier: GPL-2.0-or-later */
#define FUSE_USE_VERSION 314
#include "scout.h"

#include <time.h>

#include "inflight.h"
#include "log.h"

#define JOIN_SECONDS 5

int ov_scout_init(struct ov_scout *s, struct overlay *ov)
{
	pthread_condattr_t attr;
	int r;

	*s = (struct ov_scout){.ov = ov};
	pthread_mutex_init(&s->lock, NULL);
	pthread_condattr_init(&attr);
	(void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	r = pthread_cond_init(&s->more, &attr);
	pthread_condattr_destroy(&attr);
	return -r;
}

/* Wait until there is something to do; meanwhile what nobody asks for goes. False: it is the end. */
static bool wait_for_more(struct ov_scout *s)
{
	bool left = true, go_on;

	pthread_mutex_lock(&s->lock);
	while (!s->woken && !s->stopped) {
		struct timespec until;
		int r = 0;

		(void)clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_sec++;
		if (left)
			r = pthread_cond_timedwait(&s->more, &s->lock, &until);
		else
			pthread_cond_wait(&s->more, &s->lock);
		if (r != ETIMEDOUT)
			continue;
		pthread_mutex_unlock(&s->lock);
		left = ov_ahead_expire(s->ov);
		pthread_mutex_lock(&s->lock);
	}
	s->woken = false;
	go_on = !s->stopped;
	pthread_mutex_unlock(&s->lock);
	return go_on;
}

static bool is_stopped(struct ov_scout *s)
{
	bool stopped;

	pthread_mutex_lock(&s->lock);
	stopped = s->stopped;
	pthread_mutex_unlock(&s->lock);
	return stopped;
}

static void *scout(void *arg)
{
	struct ov_scout *s = arg;

	ov_inflight_attach(s->ov->ledger, NULL);
	do {
		while (!is_stopped(s) && ov_ahead_work(s->ov))
			;
	} while (wait_for_more(s));
	return NULL;
}

int ov_scout_start(struct ov_scout *s)
{
	int r = pthread_create(&s->thread, NULL, scout, s);

	s->started = r == 0;
	if (s->started)
		ov_ahead_start(s->ov);
	return -r;
}

void ov_scout_wake(struct ov_scout *s)
{
	pthread_mutex_lock(&s->lock);
	s->woken = true;
	pthread_mutex_unlock(&s->lock);
	pthread_cond_signal(&s->more);
}

void ov_scout_stop(struct ov_scout *s)
{
	struct timespec until;

	if (!s->started)
		return;
	s->started = false;
	ov_ahead_stop(s->ov);
	pthread_mutex_lock(&s->lock);
	s->stopped = true;
	pthread_mutex_unlock(&s->lock);
	pthread_cond_signal(&s->more);
	(void)clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += JOIN_SECONDS;
	if (pthread_timedjoin_np(s->thread, NULL, &until) != 0) {
		ov_warn("a lower layer does not answer; going on");
		s->ov->ahead.left_behind = true;
	}
}

bool ov_scout_destroy(struct ov_scout *s)
{
	if (s->ov->ahead.left_behind)
		return false;
	pthread_cond_destroy(&s->more);
	pthread_mutex_destroy(&s->lock);
	return true;
}
