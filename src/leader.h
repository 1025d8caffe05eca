/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_LEADER_H
#define OV_LEADER_H

/*
 * Leader and followers: of the threads that serve, one at a time leads; it reads a request and serves it. Before something slow
 * it hands the lead on, so that another one reads; cheap requests stay on the thread whose caches are warm.
 *
 * The lead can also go to a thread that stays on a certain CPU, the client's. Then neither the request nor the answer has to
 * wake another CPU, which is most of the time of a round trip in a virtual machine. It must be another thread: the scheduler
 * puts a client elsewhere that is woken by somebody who has just come to its CPU.
 */

#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "util.h"

struct fuse_in_header;

/* A thread that serves. While it waits it belongs to the leader's lock, else to its thread. */
struct ov_seat {
	sem_t called;
	pid_t tid;
	int cpu;               /* where it stays, or -1: where the scheduler puts it */
	cpu_set_t allowed;     /* where it may be; what was so before it had to stay */
	struct ov_seat *below; /* in the stack of those that wait */
	bool beside;           /* it has been called to read beside the leader */
};

struct ov_leader {
	pthread_mutex_t lock;    /* innermost; held over system calls that set affinities */
	bool led;
	struct ov_seat *waiting; /* the last one first: its caches are the warmest */
	/* the leader's */
	uint32_t client;         /* that was looked for the last time, */
	int client_fd;           /* its file in /proc, or -1 */
};

void ov_leader_init(struct ov_leader *l);
void ov_leader_destroy(struct ov_leader *l);

/* SEAT is the calling thread's. It outlives the thread's last call. */
void ov_seat_init(struct ov_seat *seat);
void ov_seat_destroy(struct ov_seat *seat);

/* Wait until the thread leads: true; or is to read beside the leader: false. */
bool ov_leader_take(struct ov_leader *l, struct ov_seat *seat);

/*
 * The leader leads no more: one of those that wait does, on the CPU that SEAT was to stay on, or, if nobody waits, the next
 * that wants to. SEAT, which may be about to do something long, stays nowhere.
 */
void ov_leader_hand_on(struct ov_leader *l, struct ov_seat *seat);

/* One of those that wait, which from now on stays on CPU; the leader will have to call it. NULL if nobody waits that can. */
struct ov_seat *ov_leader_choose(struct ov_leader *l, int cpu);

/* The leader leads no more, but NEXT, which it has chosen, and which need not wait longer. */
void ov_leader_call(struct ov_seat *next);

/* The leader calls one of those that wait to read beside it, where the scheduler puts it. False: nobody waits. */
bool ov_leader_call_beside(struct ov_leader *l);

/* From now on thread TID of this process stays on CPU, 0 and more. False: it cannot, and stays where it was. */
bool ov_thread_pin(pid_t tid, int cpu);

/* SEAT, which waits or is the calling thread's, goes where the scheduler puts it again. */
void ov_seat_leave_cpu(struct ov_seat *seat);

/*
 * Leader: the CPU of thread TID, as /proc has it, or -1: it is not to be seen here. The thread must not end or be in execve(2)
 * meanwhile: the calling thread waits for the latter, and might have to give back its memory, with all files that are mapped
 * in it.
 */
int ov_leader_find(struct ov_leader *l, uint32_t tid);

/*
 * May /proc be asked for the CPU of who has sent request IN, all of which was read? Only if it waits until it is answered, come
 * what may, and is not in the middle of execve(2). To look at a process there is to hold its memory for a moment: if it ended
 * in that moment, that would be ours to give back, with the files that are mapped in it, and what they have to write would wait
 * for ourselves. And it is to wait for an execve of it: which writes back (WRITE, SETATTR) what it closes. So these are requests
 * for system calls on paths and directories.
 */
bool ov_leader_may_look(const struct fuse_in_header *in);

/* Has /proc the numbers by which this process knows others? */
bool ov_proc_is_ours(void);

#endif
