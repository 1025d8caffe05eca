/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "leader.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "log.h"

#define STAT_CPU 39 /* the field of /proc/PID/stat, counted from 1 */

void ov_leader_init(struct ov_leader *l)
{
	*l = (struct ov_leader){.client_fd = -1};
	pthread_mutex_init(&l->lock, NULL);
}

void ov_leader_destroy(struct ov_leader *l)
{
	if (l->client_fd >= 0)
		close(l->client_fd);
	pthread_mutex_destroy(&l->lock);
}

void ov_seat_init(struct ov_seat *seat)
{
	*seat = (struct ov_seat){.tid = gettid(), .cpu = -1};
	sem_init(&seat->called, 0, 0);
}

void ov_seat_destroy(struct ov_seat *seat)
{
	sem_destroy(&seat->called);
}

bool ov_thread_pin(pid_t tid, int cpu)
{
	cpu_set_t set;

	if (cpu >= CPU_SETSIZE)
		return false;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	return sched_setaffinity(tid, sizeof(set), &set) == 0;
}

static bool stay(struct ov_seat *seat, int cpu)
{
	if (seat->cpu == cpu)
		return true;
	if (cpu >= CPU_SETSIZE)
		return false;
	if (seat->cpu < 0 && sched_getaffinity(seat->tid, sizeof(seat->allowed), &seat->allowed) < 0)
		return false;
	if (!CPU_ISSET(cpu, &seat->allowed) || !ov_thread_pin(seat->tid, cpu))
		return false;
	seat->cpu = cpu;
	return true;
}

void ov_seat_leave_cpu(struct ov_seat *seat)
{
	if (seat->cpu < 0)
		return;
	seat->cpu = -1;
	if (sched_setaffinity(seat->tid, sizeof(seat->allowed), &seat->allowed) == 0)
		return;
	memset(&seat->allowed, 0xff, sizeof(seat->allowed)); /* what was allowed is no more; the kernel takes of this what is */
	if (sched_setaffinity(seat->tid, sizeof(seat->allowed), &seat->allowed) < 0)
		ov_debug("a thread stays on its CPU: %s", strerror(errno));
}

/* Take one from the stack, under the lock: one that is on CPU already, if there is one. NULL: nobody waits. */
static struct ov_seat *pick(struct ov_leader *l, int cpu)
{
	struct ov_seat **at = &l->waiting, *seat;

	while (*at && (*at)->cpu != cpu)
		at = &(*at)->below;
	if (!*at)
		at = &l->waiting;
	seat = *at;
	if (seat)
		*at = seat->below;
	return seat;
}

bool ov_leader_take(struct ov_leader *l, struct ov_seat *seat)
{
	bool vacant;

	seat->beside = false;
	pthread_mutex_lock(&l->lock);
	vacant = !l->led;
	if (vacant) {
		l->led = true;
	} else {
		seat->below = l->waiting;
		l->waiting = seat;
	}
	pthread_mutex_unlock(&l->lock);
	if (vacant)
		return true;
	while (sem_wait(&seat->called) < 0)
		; /* EINTR */
	return !seat->beside;
}

void ov_leader_hand_on(struct ov_leader *l, struct ov_seat *seat)
{
	struct ov_seat *next;

	pthread_mutex_lock(&l->lock);
	next = pick(l, seat->cpu);
	if (!next)
		l->led = false;
	else if (seat->cpu < 0 || !stay(next, seat->cpu))
		ov_seat_leave_cpu(next);
	pthread_mutex_unlock(&l->lock);
	if (next)
		sem_post(&next->called);
	ov_seat_leave_cpu(seat);
}

struct ov_seat *ov_leader_choose(struct ov_leader *l, int cpu)
{
	struct ov_seat *next;

	pthread_mutex_lock(&l->lock);
	next = pick(l, cpu);
	if (next && !stay(next, cpu)) { /* now, while it sleeps: to be moved later would wake a thread of the kernel */
		next->below = l->waiting;
		l->waiting = next;
		next = NULL;
	}
	pthread_mutex_unlock(&l->lock);
	return next;
}

void ov_leader_call(struct ov_seat *next)
{
	sem_post(&next->called);
}

bool ov_leader_call_beside(struct ov_leader *l)
{
	struct ov_seat *next;

	pthread_mutex_lock(&l->lock);
	next = pick(l, -1);
	if (next) {
		ov_seat_leave_cpu(next);
		next->beside = true;
	}
	pthread_mutex_unlock(&l->lock);
	if (next)
		sem_post(&next->called);
	return next;
}

bool ov_proc_is_ours(void)
{
	char number[32];
	ssize_t n = readlink("/proc/self", number, sizeof(number) - 1);

	if (n <= 0)
		return false;
	number[n] = '\0';
	return atoi(number) == getpid();
}

static int open_client(struct ov_leader *l, uint32_t tid)
{
	char path[32];

	if (l->client_fd >= 0)
		close(l->client_fd);
	snprintf(path, sizeof(path), "/proc/%u/stat", tid);
	l->client_fd = open(path, O_RDONLY | O_CLOEXEC);
	l->client = tid;
	return l->client_fd;
}

/* The file stays open for the next time: that is most of the cost. Once the thread has ended it gives an error. */
int ov_leader_find(struct ov_leader *l, uint32_t tid)
{
	char text[1024], *p;
	ssize_t n = -1;

	if (tid == l->client && l->client_fd >= 0)
		n = pread(l->client_fd, text, sizeof(text) - 1, 0);
	if (n <= 0 && open_client(l, tid) >= 0)
		n = pread(l->client_fd, text, sizeof(text) - 1, 0);
	if (n <= 0)
		return -1;
	text[n] = '\0';
	p = strrchr(text, ')'); /* the name before it may have anything in it */
	for (int field = 2; p && field < STAT_CPU; field++)
		p = strchr(p + 1, ' ');
	return p ? atoi(p + 1) : -1;
}

bool ov_leader_may_look(const struct fuse_in_header *in)
{
	const struct fuse_setattr_in *set = (const void *)(in + 1);

	switch (in->opcode) {
	case FUSE_SETATTR: /* what is written back are times */
		return in->len >= sizeof(*in) + sizeof(*set) && (set->valid & (FATTR_MODE | FATTR_UID | FATTR_GID));
	case FUSE_SETXATTR:
	case FUSE_LISTXATTR:
	case FUSE_REMOVEXATTR:
	case FUSE_LOOKUP:
	case FUSE_GETATTR:
	case FUSE_READLINK:
	case FUSE_SYMLINK:
	case FUSE_MKNOD:
	case FUSE_MKDIR:
	case FUSE_UNLINK:
	case FUSE_RMDIR:
	case FUSE_RENAME:
	case FUSE_RENAME2:
	case FUSE_LINK:
	case FUSE_READDIRPLUS:
		return true;
	default:
		return false;
	}
}
