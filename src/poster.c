/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "poster.h"

#include <errno.h>
#include <linux/fuse.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "crash.h"
#include "leader.h"
#include "log.h"
#include "poller.h"

#define TICK 1000000             /* nanoseconds that a reply may wait to be sent, or twice that */
#define PAUSE_MIN 100000000ull   /* nanoseconds for which nothing is posted when one had to wait so long */
#define PAUSE_MAX 100000000000ull
#define FREE_TIMEOUT 1           /* seconds */

/*
 * EMPTY becomes RESERVED, and that FULL, by the leader; FULL becomes SENDING by whoever then sends it, and that EMPTY or, where
 * the kernel did not want it, REFUSED, which the leader makes EMPTY. The watch makes EMPTY ones TRIMMED for a moment.
 */
enum state { EMPTY, RESERVED, FULL, SENDING, REFUSED, TRIMMED };

struct message {
	struct fuse_out_header header;
	char room[OV_POSTER_ROOM];
};

struct ov_post {
	uint32_t state;  /* atomic */
	uint32_t number; /* of the post; atomic */
	uint32_t pid;    /* who waits for it */
	struct ov_inflight *record;
	struct message *message;
};

struct ov_poster {
	int fd;
	const struct ov_poster_ops *ops;
	void *arg;
	/* atomic */
	uint32_t posted;    /* how many were; the sender waits for the next one */
	uint32_t asleep;    /* 1: it has to be woken */
	uint32_t dozing;    /* 1: so has the watch, which waits for this to change */
	uint32_t ending;
	uint32_t late;      /* sent by the watch */
	uint64_t last_sent;
	pid_t sender_tid;   /* 0: it is not there, or cannot be used */
	/* the leader's */
	bool started, failed; /* the threads */
	int cpu;            /* the sender's, or -1 */
	uint32_t last_pid;
	uint32_t late_seen;
	uint64_t paused_until, pause;
	pthread_t sender, watch;
	void *messages;     /* of the posts */
	struct ov_post posts[OV_POSTER_POSTS];
};

/* EINTR and a changed value end it, too: the caller looks again in any case. */
static void wait_while(uint32_t *word, uint32_t value)
{
	(void)syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void wake(uint32_t *word)
{
	(void)syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static uint32_t load(const uint32_t *word)
{
	return __atomic_load_n(word, __ATOMIC_SEQ_CST);
}

static void store(uint32_t *word, uint32_t value)
{
	__atomic_store_n(word, value, __ATOMIC_SEQ_CST);
}

static bool change(struct ov_post *post, uint32_t from, uint32_t to)
{
	return load(&post->state) == from &&
	       __atomic_compare_exchange_n(&post->state, &from, to, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

/* ---- sending ---- */

/* A post that has become SENDING. */
static void send_post(struct ov_poster *p, struct ov_post *post)
{
	OV_CRASH("post.send");
	if (write(p->fd, &post->message->header, post->message->header.len) < 0) {
		store(&post->state, REFUSED);
		return;
	}
	OV_CRASH("post.sent");
	p->ops->sent(p->arg, post->record);
	store(&post->state, EMPTY);
}

/* The same at idle priority. */
static void send_idly(struct ov_poster *p, struct ov_post *post)
{
	/*
	 * The leader, which sleeps by now, may still be in the run queue (DELAY_DEQUEUE in kernel/sched/features.h) where it counts
	 * as somebody who wants this CPU: this has the scheduler find out.
	 */
	(void)sched_yield();
	__atomic_store_n(&p->last_sent, ov_poller_now(), __ATOMIC_RELEASE);
	send_post(p, post);
}

static void *send_posts(void *arg)
{
	const struct sched_param none = {.sched_priority = 0};
	struct ov_poster *p = arg;

	if (sched_setscheduler(0, SCHED_IDLE, &none) < 0) {
		ov_debug("replies are not sent at idle priority: %s", strerror(errno));
		return NULL;
	}
	__atomic_store_n(&p->sender_tid, gettid(), __ATOMIC_RELEASE);
	while (!load(&p->ending)) {
		uint32_t posted = load(&p->posted);

		for (unsigned n = 0; n < OV_POSTER_POSTS; n++)
			if (change(&p->posts[n], FULL, SENDING))
				send_idly(p, &p->posts[n]);
		store(&p->asleep, 1);
		if (load(&p->posted) == posted)
			wait_while(&p->posted, posted);
		store(&p->asleep, 0);
	}
	return NULL;
}

/* ---- watching ---- */

/* What was there at the last tick already, when SEEN were posted: somebody else has the sender's CPU. */
static void send_late(struct ov_poster *p, uint32_t seen)
{
	for (unsigned n = 0; n < OV_POSTER_POSTS; n++) {
		struct ov_post *post = &p->posts[n];

		if (load(&post->state) != FULL || (int32_t)(load(&post->number) - seen) > 0 || !change(post, FULL, SENDING))
			continue;
		__atomic_add_fetch(&p->late, 1, __ATOMIC_RELAXED);
		send_post(p, post);
	}
}

/* Nothing is posted at present: what large replies have left takes no memory. */
static void trim(struct ov_poster *p)
{
	for (unsigned n = 0; n < OV_POSTER_POSTS; n++) {
		if (!change(&p->posts[n], EMPTY, TRIMMED))
			continue;
		(void)madvise(p->posts[n].message, sizeof(struct message), MADV_DONTNEED);
		store(&p->posts[n].state, EMPTY);
	}
}

static void *watch_posts(void *arg)
{
	const struct timespec tick = {.tv_nsec = TICK};
	struct ov_poster *p = arg;
	uint32_t seen = load(&p->posted), posted;

	while (!load(&p->ending)) {
		(void)nanosleep(&tick, NULL);
		send_late(p, seen);
		posted = load(&p->posted);
		if (posted == seen) {
			trim(p);
			store(&p->dozing, 1);
			while (load(&p->posted) == posted && load(&p->dozing) && !load(&p->ending))
				wait_while(&p->dozing, 1);
			store(&p->dozing, 0);
		}
		seen = posted;
	}
	return NULL;
}

/* ---- beginning and end ---- */

/* Of a message: each begins on a page of its own, as what is given back of one must be no part of another. */
static size_t message_size(void)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);

	return (sizeof(struct message) + page - 1) / page * page;
}

struct ov_poster *ov_poster_new(int fd, struct ov_inflight *records[OV_POSTER_POSTS], const struct ov_poster_ops *ops, void *arg)
{
	struct ov_poster *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->messages = mmap(NULL, OV_POSTER_POSTS * message_size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p->messages == MAP_FAILED) {
		free(p);
		return NULL;
	}
	p->fd = fd;
	p->ops = ops;
	p->arg = arg;
	p->cpu = -1;
	p->pause = PAUSE_MIN;
	for (unsigned n = 0; n < OV_POSTER_POSTS; n++) {
		p->posts[n].record = records[n];
		p->posts[n].message = (struct message *)((char *)p->messages + n * message_size());
	}
	return p;
}

static bool join(pthread_t thread)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += FREE_TIMEOUT;
	return pthread_timedjoin_np(thread, NULL, &until) == 0;
}

static void end_threads(struct ov_poster *p)
{
	store(&p->ending, 1);
	__atomic_add_fetch(&p->posted, 1, __ATOMIC_SEQ_CST);
	wake(&p->posted);
	store(&p->dozing, 0);
	wake(&p->dozing);
}

bool ov_poster_free(struct ov_poster *p)
{
	if (!p)
		return true;
	ov_poster_settle(p);
	if (p->started) {
		end_threads(p);
		if (!join(p->sender) || !join(p->watch)) /* it may be long until the sender's turn */
			return false;
	}
	(void)munmap(p->messages, OV_POSTER_POSTS * message_size());
	free(p);
	return true;
}

static bool start(struct ov_poster *p)
{
	int r;

	if (p->started || p->failed)
		return p->started;
	r = pthread_create(&p->watch, NULL, watch_posts, p);
	if (r == 0) {
		r = pthread_create(&p->sender, NULL, send_posts, p);
		if (r) {
			end_threads(p);
			pthread_join(p->watch, NULL);
		}
	}
	p->started = r == 0;
	p->failed = r != 0;
	if (r)
		ov_debug("no thread for replies: %s", strerror(r));
	return p->started;
}

void ov_poster_aim(struct ov_poster *p, int cpu)
{
	pid_t tid;

	if (!p || !start(p))
		return;
	tid = __atomic_load_n(&p->sender_tid, __ATOMIC_ACQUIRE);
	if (tid && cpu != p->cpu)
		p->cpu = ov_thread_pin(tid, cpu) ? cpu : -1;
}

/* ---- posting ---- */

/* Some had to wait: leave it for a while, longer each time. */
static void pause_posting(struct ov_poster *p, uint32_t late)
{
	uint64_t t = ov_poller_now();

	p->late_seen = late;
	if (t > p->paused_until + 100 * p->pause) /* that was long ago */
		p->pause = PAUSE_MIN;
	else if (p->pause < PAUSE_MAX)
		p->pause *= 2;
	p->paused_until = t + p->pause;
	ov_debug("a reply waited for its turn: who serves sends it, for %llu ms", (unsigned long long)(p->pause / 1000000));
}

static bool is_paused(struct ov_poster *p)
{
	uint32_t late = __atomic_load_n(&p->late, __ATOMIC_RELAXED);

	if (late != p->late_seen)
		pause_posting(p, late);
	return p->paused_until && ov_poller_now() < p->paused_until;
}

/* Would the sender get to run? PID waits; those for whom it was sent before must not be somebody else, who need not. */
static bool is_for(struct ov_poster *p, uint32_t pid)
{
	for (unsigned n = 0; n < OV_POSTER_POSTS; n++) {
		uint32_t state = load(&p->posts[n].state);

		if (state != EMPTY && state != TRIMMED && p->posts[n].pid != pid)
			return false;
	}
	return true;
}

struct ov_post *ov_poster_reserve(struct ov_poster *p, uint32_t pid, int cpu)
{
	uint32_t last = p->last_pid;

	p->last_pid = pid;
	if (cpu < 0 || !p->started)
		return NULL;
	/* what the kernel writes back between two requests of PID is what that waits for */
	if (!last || (pid && pid != last))
		return NULL;
	if (cpu != p->cpu)
		ov_poster_aim(p, cpu);
	if (cpu != p->cpu || is_paused(p) || !is_for(p, last))
		return NULL;
	for (unsigned n = 0; n < OV_POSTER_POSTS; n++)
		if (change(&p->posts[n], EMPTY, RESERVED)) {
			p->posts[n].pid = last;
			return &p->posts[n];
		}
	return NULL;
}

void *ov_post_room(struct ov_post *post)
{
	return post->message->room;
}

void ov_post_release(struct ov_post *post)
{
	store(&post->state, EMPTY);
}

struct ov_inflight *ov_poster_post(struct ov_poster *p, struct ov_post *post, uint64_t unique, int error, size_t size,
				   struct ov_inflight *record, bool leader)
{
	struct ov_inflight *other = post->record;
	uint32_t number;

	post->record = record;
	post->message->header = (struct fuse_out_header){
		.len = (uint32_t)(sizeof(struct fuse_out_header) + size), .error = error, .unique = unique};
	if (!leader) {
		store(&post->state, SENDING);
		send_post(p, post);
		return other;
	}
	p->last_pid = post->pid;
	number = load(&p->posted) + 1;
	store(&post->number, number);
	store(&post->state, FULL);
	store(&p->posted, number);
	OV_CRASH("post.full");
	if (load(&p->asleep))
		wake(&p->posted);
	if (load(&p->dozing)) {
		store(&p->dozing, 0);
		wake(&p->dozing);
	}
	return other;
}

void ov_poster_settle(struct ov_poster *p)
{
	if (!p)
		return;
	for (unsigned n = 0; n < OV_POSTER_POSTS; n++) {
		struct ov_post *post = &p->posts[n];

		if (change(post, FULL, SENDING))
			send_post(p, post);
		if (load(&post->state) != REFUSED)
			continue;
		p->ops->refused(p->arg, post->record);
		store(&post->state, EMPTY);
	}
}

uint64_t ov_poster_last_sent(const struct ov_poster *p)
{
	return p ? __atomic_load_n(&p->last_sent, __ATOMIC_ACQUIRE) : 0;
}
