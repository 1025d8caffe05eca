/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_NOTIFY_H
#define OV_NOTIFY_H

/*
 * What the kernel is told unasked: that something it keeps of an inode is out of date, or had better be asked for anew
 * (FUSE_NOTIFY_INVAL_INODE).
 *
 * To drop pages may have to wait for requests. Dirty ones are written to us. And who reads a listing from the cache holds its
 * page while the names go to his buffer; if that is a mapping of a file of this mount, a READ comes first.
 */

#include <pthread.h>
#include <stdint.h>
#include <sys/types.h>

#include "util.h"

struct ov_ledger;

#define OV_NOTIFY_LATER 64 /* directories that wait for their turn */

struct ov_notify {
	int fd; /* /dev/fuse */
	struct ov_ledger *ledger;
	pid_t supervisor; /* or 0 */
	/* the thread of ov_notify_listing_later() */
	pthread_mutex_t lock; /* innermost; of all that follows */
	pthread_cond_t more, done;
	pthread_t thread;
	uint64_t dirs[OV_NOTIFY_LATER];
	unsigned n;
	uint64_t nleft, ndone; /* directories that were left to it, and that it has been through */
	bool started, asleep, stopped, stuck;
	bool urgent; /* somebody waits for it */
};

/* 0 or -errno. */
int ov_notify_init(struct ov_notify *n, struct ov_ledger *ledger);

/*
 * Before the first notification: of the connection FD, which stays the caller's, and SUPERVISOR, or 0, which is told when it has
 * to look after a process that cannot be killed.
 */
void ov_notify_begin(struct ov_notify *n, int fd, pid_t supervisor);

/*
 * The thread ends; while others still serve, since it may wait for them. If it waits for something else it is left behind after
 * some seconds. Nothing is done later from now on.
 */
void ov_notify_stop(struct ov_notify *n);

/* N has stopped, or its thread was never needed. False: that was left behind, and N must stay. */
bool ov_notify_destroy(struct ov_notify *n);

/* The attributes of NODEID are out of date. Waits for nobody. */
void ov_notify_attributes(struct ov_notify *n, uint64_t nodeid);

/*
 * All that the kernel keeps of NODEID goes: data, which is written to us if it is dirty, or a listing. No lock may be held that a
 * READ or WRITE takes, and another thread must serve meanwhile.
 */
void ov_notify_pages(struct ov_notify *n, uint64_t nodeid);

/*
 * The listing of directory NODEID shall go, within some 2 ms, by a thread of its own, which is woken at most every 2 ms. If there
 * are too many, it stays. Any thread; locks may be held.
 */
void ov_notify_listing_later(struct ov_notify *n, uint64_t nodeid);

/*
 * The same at once, and it is waited for: but no longer than some 100 ms, in case who holds the listing's page waits for what the
 * caller is about to answer. Another thread should serve meanwhile; no lock may be held that a READ takes.
 */
void ov_notify_listing(struct ov_notify *n, uint64_t nodeid);

#endif
