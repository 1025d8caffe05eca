/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "notify.h"

#include <errno.h>
#include <linux/fuse.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "ledger.h"
#include "log.h"

#define PAUSE_MS 2 /* a tree of some hundred files is gone through in as much */
#define JOIN_SECONDS 5
#define SOON_MS 100
#define PAUSES_MAX 25 /* without anything to do, then the thread waits until it is woken */

int ov_notify_init(struct ov_notify *n, struct ov_ledger *ledger)
{
	pthread_condattr_t attr;
	int r;

	*n = (struct ov_notify){.fd = -1, .ledger = ledger};
	pthread_mutex_init(&n->lock, NULL);
	pthread_condattr_init(&attr);
	(void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	r = pthread_cond_init(&n->more, &attr);
	if (r == 0)
		r = pthread_cond_init(&n->done, &attr);
	pthread_condattr_destroy(&attr);
	return -r;
}

void ov_notify_begin(struct ov_notify *n, int fd, pid_t supervisor)
{
	n->fd = fd;
	n->supervisor = supervisor;
}

/* Killed while it waits here, the process would hang: who would replace it must look after it. */
static void begin_wait(struct ov_notify *n)
{
	__atomic_add_fetch(&n->ledger->flushing, 1, __ATOMIC_ACQ_REL);
	if (n->supervisor && getppid() == n->supervisor)
		(void)kill(n->supervisor, SIGALRM);
}

static void end_wait(struct ov_notify *n)
{
	__atomic_sub_fetch(&n->ledger->flushing, 1, __ATOMIC_ACQ_REL);
}

/* Negative OFF: attributes only. What the kernel has forgotten, and a connection that has ended, cannot be out of date. */
static void invalidate(struct ov_notify *n, uint64_t nodeid, int64_t off)
{
	struct {
		struct fuse_out_header head;
		struct fuse_notify_inval_inode_out what;
	} out = {
		.head = {.len = sizeof(out), .error = FUSE_NOTIFY_INVAL_INODE},
		.what = {.ino = nodeid, .off = off, .len = 0},
	};

	if (write(n->fd, &out, sizeof(out)) < 0 && errno != ENOENT && errno != ENODEV && errno != ENOTCONN)
		ov_debug("the kernel keeps what it knows of node %llu: %s", (unsigned long long)nodeid, strerror(errno));
}

void ov_notify_attributes(struct ov_notify *n, uint64_t nodeid)
{
	invalidate(n, nodeid, -1);
}

void ov_notify_pages(struct ov_notify *n, uint64_t nodeid)
{
	begin_wait(n);
	invalidate(n, nodeid, 0);
	end_wait(n);
}

static struct timespec in_ms(long ms)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	t.tv_nsec += ms * 1000000L;
	if (t.tv_nsec >= 1000000000L) {
		t.tv_sec++;
		t.tv_nsec -= 1000000000L;
	}
	return t;
}

/* Wait for PAUSE_MS, or until somebody waits for us, or the end. Lock held. */
static void pause_for(struct ov_notify *n)
{
	struct timespec until = in_ms(PAUSE_MS);

	while (!n->stopped && !n->urgent && pthread_cond_timedwait(&n->more, &n->lock, &until) != ETIMEDOUT)
		;
}

/* Drop what has gathered. Lock held, but not over it. */
static void drop_listings(struct ov_notify *n)
{
	uint64_t dirs[OV_NOTIFY_LATER];
	unsigned count = n->n;

	memcpy(dirs, n->dirs, count * sizeof(*dirs));
	n->n = 0;
	n->urgent = false;
	pthread_mutex_unlock(&n->lock);
	begin_wait(n);
	for (unsigned k = 0; k < count; k++)
		invalidate(n, dirs[k], 0);
	end_wait(n);
	pthread_mutex_lock(&n->lock);
	n->ndone += count;
	pthread_cond_broadcast(&n->done);
}

static void *do_later(void *arg)
{
	struct ov_notify *n = arg;
	unsigned pauses = 0;

	pthread_mutex_lock(&n->lock);
	while (!n->stopped) {
		if (n->n) {
			drop_listings(n);
			pauses = 0;
		}
		if (pauses++ < PAUSES_MAX) {
			pause_for(n);
			continue;
		}
		n->asleep = true;
		while (!n->stopped && !n->n)
			pthread_cond_wait(&n->more, &n->lock);
		n->asleep = false;
		pauses = 0;
	}
	pthread_mutex_unlock(&n->lock);
	return NULL;
}

/* Leave NODEID to the thread: false if that cannot be. Lock held. */
static bool leave(struct ov_notify *n, uint64_t nodeid)
{
	if (!n->started && !n->stopped)
		n->started = pthread_create(&n->thread, NULL, do_later, n) == 0;
	if (!n->started || n->stopped || n->n == OV_NOTIFY_LATER)
		return false;
	n->dirs[n->n++] = nodeid;
	n->nleft++;
	return true;
}

void ov_notify_listing_later(struct ov_notify *n, uint64_t nodeid)
{
	bool wake;

	pthread_mutex_lock(&n->lock);
	wake = leave(n, nodeid) && n->asleep;
	pthread_mutex_unlock(&n->lock);
	if (wake)
		pthread_cond_signal(&n->more);
}

/* Have the thread begin at once, and wait until it has been through something: 0 or ETIMEDOUT. Lock held. */
static int hurry(struct ov_notify *n, const struct timespec *until)
{
	n->urgent = true;
	pthread_cond_signal(&n->more);
	return pthread_cond_timedwait(&n->done, &n->lock, until);
}

void ov_notify_listing(struct ov_notify *n, uint64_t nodeid)
{
	struct timespec until = in_ms(SOON_MS);
	uint64_t ticket;
	int r = 0;

	pthread_mutex_lock(&n->lock);
	while (r == 0 && !leave(n, nodeid) && n->started) /* there is no room */
		r = hurry(n, &until);
	ticket = n->nleft;
	while (r == 0 && n->ndone < ticket && n->started)
		r = hurry(n, &until);
	pthread_mutex_unlock(&n->lock);
}

void ov_notify_stop(struct ov_notify *n)
{
	struct timespec until;
	bool started;

	pthread_mutex_lock(&n->lock);
	started = n->started;
	n->stopped = true;
	n->started = false;
	pthread_mutex_unlock(&n->lock);
	pthread_cond_signal(&n->more);
	pthread_cond_broadcast(&n->done);
	if (!started)
		return;
	(void)clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += JOIN_SECONDS;
	if (pthread_timedjoin_np(n->thread, NULL, &until) != 0) {
		ov_warn("a listing cannot be dropped: who reads it waits for something else; going on");
		n->stuck = true;
	}
}

bool ov_notify_destroy(struct ov_notify *n)
{
	if (n->stuck)
		return false;
	pthread_cond_destroy(&n->done);
	pthread_cond_destroy(&n->more);
	pthread_mutex_destroy(&n->lock);
	return true;
}
