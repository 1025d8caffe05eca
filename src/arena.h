/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_ARENA_H
#define OV_ARENA_H

/*
 * Memory for many small objects that may outlive the process: a region that the processes of one mount share, in slabs of one
 * size of object each. Whoever takes it over after its user has died finds the objects that were alive, by their first word,
 * and nothing else of it is relied on: free lists and counts are made anew.
 */

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

#include "util.h"

#define OV_ARENA_SLAB ((size_t)64 * 1024)
#define OV_ARENA_MAX 512              /* bytes of an object at most */
#define OV_ARENA_STEP 16              /* sizes are rounded up to it */
#define OV_ARENA_CLASSES (OV_ARENA_MAX / OV_ARENA_STEP + 1)

struct ov_arena {
	char *base;       /* NULL: not open */
	size_t size;      /* of address space */
	uint32_t first;   /* slab behind the header */
	uint32_t nslabs;  /* slabs that have been in use, the header's among them */
	uint32_t backed;  /* slabs that the file has */
	uint32_t empty;   /* list of slabs that hold nothing, by their number; 0: none */
	uint32_t *next_empty; /* by slab, private; grown as needed */
	uint32_t next_room;
	uint32_t usable[OV_ARENA_CLASSES]; /* slabs of that class with a free place, 0: none */
	int fd;           /* memfd, or -1: private */
	uint64_t moved;   /* after taking over: what to add to a pointer found in an object */
	pthread_mutex_t lock; /* innermost */
};

/*
 * Make an arena whose first bytes are a zeroed header of HEADER bytes. SHARED: it can be handed to other processes. 0 or
 * -errno.
 */
int ov_arena_open(struct ov_arena *a, size_t header, bool shared);

/* Map the arena behind FD, which was made with the same HEADER; FD is owned from now on, also on failure. 0 or -errno. */
int ov_arena_take_over(struct ov_arena *a, size_t header, int fd);

/*
 * Find out anew what is free; for the one user that begins after another has died. Objects of a magic for which KEEP returns
 * false are freed (it may not touch the arena). Nobody else uses it meanwhile. 0 or -errno.
 */
int ov_arena_recover(struct ov_arena *a, bool (*keep)(void *arg, void *object), void *arg);

void ov_arena_close(struct ov_arena *a);

/* The header. */
static inline void *ov_arena_header(const struct ov_arena *a)
{
	return a->base;
}

/*
 * A zeroed object of SIZE bytes, OV_ARENA_MAX at most, whose first member is a uint32_t: its magic, 0 until it is complete and
 * ov_arena_publish() says so. NULL: no memory.
 */
void *ov_arena_alloc(struct ov_arena *a, size_t size);

/* From now on the object at P is found by whoever takes over. */
static inline void ov_arena_publish(void *p, uint32_t magic)
{
	__atomic_store_n((uint32_t *)p, magic, __ATOMIC_RELEASE);
}

void ov_arena_free(struct ov_arena *a, void *p);

/* The object with MAGIC that P, taken from another object, points to; NULL if there is none (any more). For recovery. */
void *ov_arena_check(const struct ov_arena *a, const void *p, uint32_t magic);

/* Bytes of memory in slabs that hold something. */
size_t ov_arena_used(struct ov_arena *a);

#endif
