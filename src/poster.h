/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_POSTER_H
#define OV_POSTER_H

/*
 * Replies that another thread sends: one on the client's CPU, of the class that runs when nothing else wants to (SCHED_IDLE).
 *
 * When a client is woken, the scheduler looks for an idle CPU for it, since on the one where it was there is the daemon, even
 * though that is about to sleep. To wake another CPU takes longer than most requests do, twice, as the daemon is then far from
 * its client. But a CPU that has nothing but SCHED_IDLE on it counts as idle (select_idle_sibling() in kernel/sched/fair.c,
 * since Linux 5.4): woken from there, the client stays, and goes on at once. Requests are served at normal priority all the
 * same: what the thread does is to send what is ready, and a reply that it does not get to send is sent by somebody else.
 *
 * The leader posts: one at a time calls what is for the leader.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ov_inflight;
struct ov_poster;
struct ov_post;

#define OV_POSTER_POSTS 4              /* replies at a time */
#define OV_POSTER_ROOM (128u * 1024)   /* bytes of a reply, without its header: those above take longer than to wake a CPU */

/* Who hears of replies: of the record of each that was sent, by any thread; or that was not taken, its request being interrupted. */
struct ov_poster_ops {
	void (*sent)(void *arg, struct ov_inflight *record);
	void (*refused)(void *arg, struct ov_inflight *record);
};

/*
 * For replies to FD. RECORDS: OV_POSTER_POSTS of them, for requests whose reply is under way; OPS get ARG. All but the array
 * outlive it. No thread runs yet. NULL: out of memory.
 */
struct ov_poster *ov_poster_new(int fd, struct ov_inflight *records[OV_POSTER_POSTS], const struct ov_poster_ops *ops, void *arg);

/* Send what is left, end the threads. Nobody posts any more. False: one does not end, so P stays, as must FD and the records. */
bool ov_poster_free(struct ov_poster *p);

/* Leader: from now on replies are sent from CPU. Starts the threads. */
void ov_poster_aim(struct ov_poster *p, int cpu);

/*
 * Leader, for each request that it reads, of thread PID (0: the kernel's own): a place for its reply, to be posted by a leader
 * on CPU (-1: it stays on none), or NULL: it is better sent at once. For only while PID waits, and came before, too, the
 * sender gets to run.
 */
struct ov_post *ov_poster_reserve(struct ov_poster *p, uint32_t pid, int cpu);

/* OV_POSTER_ROOM bytes, for what follows the header of the reply. */
void *ov_post_room(struct ov_post *post);

/* There is no reply. */
void ov_post_release(struct ov_post *post);

/*
 * Reply with ERROR (0 or -errno) and SIZE bytes of the room to request UNIQUE, whose RECORD belongs to the post from now on:
 * returns the one that is free instead. LEADER: it is called by the leader, who will read /dev/fuse next, and the sender sends;
 * else this thread.
 */
struct ov_inflight *ov_poster_post(struct ov_poster *p, struct ov_post *post, uint64_t unique, int error, size_t size,
				   struct ov_inflight *record, bool leader);

/* Leader, with the next request: send what is still there, and say what was refused. */
void ov_poster_settle(struct ov_poster *p);

/* When the sender sent the last one, CLOCK_MONOTONIC in nanoseconds; 0: it never did. */
uint64_t ov_poster_last_sent(const struct ov_poster *p);

#endif
