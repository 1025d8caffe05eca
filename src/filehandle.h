/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_FILEHANDLE_H
#define OV_FILEHANDLE_H

/*
 * Open fds, kept in one LRU list that is bounded by RLIMIT_NOFILE: those of real directories (dirhandle.h) and those of
 * regular files. No open file of a client hangs on them: one that was evicted is opened again from its directory.
 */

#include <pthread.h>
#include <stdint.h>
#include <time.h>

#include "util.h"

struct ov_fdslot {
	struct ov_fdslot *prev, *next; /* LRU list; NULL while not linked, and of one that is held when it was used last */
	int fd;          /* -1: closed */
	uint32_t pins;   /* operations using the fd right now; never closed while > 0 */
	bool writable;   /* opened O_RDWR */
	bool page_cached;
	bool append;     /* an append-only file: writes go to the end whatever their offset */
	bool held;       /* the only way to the object (unlinked): not evicted */
	bool heap;       /* allocated alone (files); freed when closed and unpinned */
	bool dead;       /* replaced: close at the last unpin */
	struct ov_fdslot **owner; /* where the owner points to a heap slot; cleared at eviction */
	int32_t *note;   /* where the number of a held fd is written down; -1 is written when it goes. Or NULL */
};

/* The mtime of the file behind a heap slot, see ov_fdslot_learn_mtime(). */
struct ov_fdtimes {
	struct timespec mtime;
	bool known; /* MTIME is what the file shall have, */
	bool owed;  /* and on disk it has another since it was written */
};

/* It lies behind the slot: directories, whose slots are embedded, need none. */
static inline struct ov_fdtimes *ov_fdslot_times(struct ov_fdslot *heap_slot)
{
	return (struct ov_fdtimes *)(heap_slot + 1);
}

struct ov_fdcache {
	pthread_mutex_t lock; /* innermost lock: nothing is taken under it */
	struct ov_fdslot lru; /* list head: next = most recently used */
	unsigned count;       /* open fds in slots */
	unsigned limit;
	uint64_t evictions;
};

enum ov_fdslot_flags {
	OV_SLOT_WRITABLE = 1 << 0,
	OV_SLOT_APPEND = 1 << 1,
	OV_SLOT_PAGE_CACHED = 1 << 2, /* ov_pread_eof() may be used */
};

/* LIMIT: how many fds may stay open. 0 or -errno. */
int ov_fdcache_init(struct ov_fdcache *c, unsigned limit);
void ov_fdcache_destroy(struct ov_fdcache *c);
/* Fds that are open now. */
unsigned ov_fdcache_count(struct ov_fdcache *c);

/*
 * The fd of SLOT, pinned, if it is open (and writable if asked for); else -1. Every success is paid with one
 * ov_fdslot_unpin().
 */
int ov_fdslot_pin(struct ov_fdcache *c, struct ov_fdslot *slot, bool writable);
void ov_fdslot_unpin(struct ov_fdcache *c, struct ov_fdslot *slot);

/*
 * Give FD to an embedded SLOT and pin it. If another thread was faster FD is closed and its fd is used. Returns the fd
 * in the slot. Evicts others past the limit.
 */
int ov_fdslot_install(struct ov_fdcache *c, struct ov_fdslot *slot, int fd);

/* Close an embedded slot for good (its owner goes away or its object changed); no pins may be held. */
void ov_fdslot_close(struct ov_fdcache *c, struct ov_fdslot *slot);

/*
 * Heap slots, for files: *OWNER is the owner's pointer, read and written under the cache's lock only.
 * get: the pinned slot with an open fd (writable if asked for), or NULL.
 * put: make a slot of FD (owned from now on, also on failure), pinned, replacing what is there: the old one closes
 * when its pins are gone. NULL if memory ran out. FLAGS: enum ov_fdslot_flags.
 * drop: forget what is there.
 */
struct ov_fdslot *ov_fdslot_get(struct ov_fdcache *c, struct ov_fdslot **owner, bool writable);
struct ov_fdslot *ov_fdslot_put(struct ov_fdcache *c, struct ov_fdslot **owner, int fd, unsigned flags);
void ov_fdslot_drop(struct ov_fdcache *c, struct ov_fdslot **owner);

/*
 * Mark what *OWNER points to, and what will take its place, as held, with its number in *NOTE as long as it is; or as not held
 * any more. hold: false if there is no open fd.
 */
bool ov_fdslot_hold(struct ov_fdcache *c, struct ov_fdslot **owner, int32_t *note);
void ov_fdslot_release(struct ov_fdcache *c, struct ov_fdslot **owner);
/* The same of an embedded slot, which is open. */
void ov_fdslot_hold_embedded(struct ov_fdcache *c, struct ov_fdslot *slot, int32_t *note);
/* Write no more to where SLOT's number is noted. */
void ov_fdslot_unnote(struct ov_fdcache *c, struct ov_fdslot *slot);

/*
 * The mtime of a file whose writer keeps that itself, as the kernel's writeback cache does. Writing to the file changes it;
 * it is put back when the slot is settled or closed, unless it is set before, which the kernel does as a rule.
 * learn: SLOT's file has MTIME, on disk as well; NULL: it is not known any more, and what was owed is not.
 * owe: what was learned has to be put back from now on. False if it is not known, so that nothing can be owed.
 * owed: what the file behind *OWNER shall have while something else is on disk. False: the disk is right.
 * settle: put it back if it is owed, best effort.
 */
void ov_fdslot_learn_mtime(struct ov_fdcache *c, struct ov_fdslot *slot, const struct timespec *mtime);
bool ov_fdslot_owe_mtime(struct ov_fdcache *c, struct ov_fdslot *slot);
bool ov_fdslot_owed_mtime(struct ov_fdcache *c, struct ov_fdslot **owner, struct timespec *mtime);
void ov_fdslot_settle_mtime(struct ov_fdcache *c, struct ov_fdslot *slot);

/* Settle all: for a process that ends without closing its slots. */
void ov_fdcache_settle_mtimes(struct ov_fdcache *c);

/* Close every fd that no operation uses: for EMFILE. */
void ov_fdcache_trim(struct ov_fdcache *c);

#endif
