/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_LISTING_H
#define OV_LISTING_H

/*
 * The names of one merged directory, ordered by cookie: a hash of the name, so that a reader that holds a cookie can go on
 * in a listing built anew, and names that nobody touched are neither repeated nor lost whatever else changes.
 */

#include <pthread.h>
#include <stdint.h>

#include "util.h"

/* Cookies of "." and ".."; those of names are above. */
#define OV_COOKIE_DOT 1
#define OV_COOKIE_DOTDOT 2

struct ov_lname {
	uint64_t cookie;
	uint32_t name; /* offset into names */
	uint8_t type;  /* DT_* */
	bool gone;     /* removed since, or hidden by a whiteout */
	uint16_t height; /* layers of the directory from the one that shows it to the lowest; 0: not known */
};

struct ov_listing {
	pthread_mutex_t lock;
	struct ov_listing *prev, *next; /* LRU of all listings */
	void *owner;
	size_t counted;   /* bytes as the keeper of the LRU has counted them, under its lock */
	uint32_t refs;    /* atomic */
	struct ov_lname *e;
	size_t n, room;
	/* sealed: names that came since, ordered too and few, so that one more does not move all of E; see ov_listing_settle() */
	struct ov_lname *late;
	size_t nlate, late_room;
	size_t ngone;     /* sealed: entries of both that are gone */
	char *names;
	size_t names_len, names_room;
	uint32_t *table;  /* while building more than one layer: open addressing, index + 1 */
	size_t table_mask;
	unsigned first_height;
};

struct ov_listing *ov_listing_new(void);
struct ov_listing *ov_listing_ref(struct ov_listing *l);
void ov_listing_unref(struct ov_listing *l);

/*
 * While building: add NAME unless a higher layer had it. HIDDEN: a whiteout. HEIGHT: as in ov_lname. 0 or -ENOMEM. A name that
 * comes twice with the height of the very first is dropped in ov_listing_seal() only.
 */
int ov_listing_put(struct ov_listing *l, const char *name, unsigned type, bool hidden, unsigned height);

/* Building is done: order by cookie, drop what is hidden. 0 or -ENOMEM. */
int ov_listing_seal(struct ov_listing *l);

/* Sealed (lock held): bring in what came since, so that all is in E. 0 or -ENOMEM (the listing must be dropped then). */
int ov_listing_settle(struct ov_listing *l);

/* Settled (lock held): first index with a cookie above OFF. */
size_t ov_listing_after(const struct ov_listing *l, uint64_t off);

/*
 * Sealed: a name appeared or went. Takes the lock. insert: 0 with *SIZE the bytes of memory now, or -ENOMEM (the listing
 * must be dropped then).
 */
int ov_listing_insert(struct ov_listing *l, const char *name, unsigned type, size_t *size);
void ov_listing_remove(struct ov_listing *l, const char *name);

/* Sealed: is NAME in it? *HEIGHT as in ov_lname. Takes the lock. */
bool ov_listing_find(struct ov_listing *l, const char *name, unsigned *height);

/* Bytes of memory; of a listing that nobody else can reach, or whose lock is held. */
size_t ov_listing_size(const struct ov_listing *l);

/* The cookie of a name that collides with no other. Pure. */
uint64_t ov_listing_cookie(const char *name);

#endif
