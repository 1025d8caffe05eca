/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_DIRHANDLE_H
#define OV_DIRHANDLE_H

/*
 * A real directory: one directory of one layer, known by its parent and one name, with an fd while the cache has room.
 * A merged directory is a list of these. There are no path strings: an evicted fd is opened again from the parent's.
 */

#include "filehandle.h"
#include "layer.h"

/* What is known of ".wh." names in a real directory. */
enum ov_wh_state { OV_WH_UNKNOWN, OV_WH_NONE, OV_WH_SOME };

struct ov_rdir {
	struct ov_rdir *parent; /* counted; NULL at a layer's root */
	struct ov_layer *layer;
	char *name;             /* owned; NULL at a layer's root */
	struct ov_fdslot slot;
	uint32_t refs;          /* atomic */
	uint8_t misses;         /* atomic: names looked for in vain while WH is unknown, up to a limit */
	uint8_t wh;             /* enum ov_wh_state, atomic: a hint that only moves when it is safe */
};

static inline enum ov_wh_state ov_rdir_wh(const struct ov_rdir *d)
{
	return (enum ov_wh_state)__atomic_load_n(&d->wh, __ATOMIC_RELAXED);
}
static inline void ov_rdir_set_wh(struct ov_rdir *d, enum ov_wh_state wh)
{
	__atomic_store_n(&d->wh, (uint8_t)wh, __ATOMIC_RELAXED);
}

/* A fresh one with one reference; takes a reference on PARENT. NULL: no memory. */
struct ov_rdir *ov_rdir_new(struct ov_rdir *parent, struct ov_layer *layer, const char *name);

struct ov_rdir *ov_rdir_ref(struct ov_rdir *d);
/* Drop a reference; the last one closes the fd and drops the parent's. NULL is fine. */
void ov_rdir_unref(struct ov_fdcache *c, struct ov_rdir *d);

/*
 * The fd of D, opened as needed, pinned until ov_rdir_put_fd(). The caller holds the namespace lock (read) so that
 * names of upper directories hold still; lowers never move. An fd >= 0 or -errno.
 */
int ov_rdir_get_fd(struct ov_fdcache *c, struct ov_rdir *d);
void ov_rdir_put_fd(struct ov_fdcache *c, struct ov_rdir *d);

/* D was renamed in its layer: PARENT and NAME (taken over) are its place now (namespace lock held for writing). */
void ov_rdir_move(struct ov_fdcache *c, struct ov_rdir *d, struct ov_rdir *parent, char *name);

/* Keep D's fd open although no name leads to it any more, with its number in *NOTE. 0 or -errno of opening it. */
int ov_rdir_hold(struct ov_fdcache *c, struct ov_rdir *d, int32_t *note);
/* Where the number of D's fd is noted goes away. */
void ov_rdir_unnote(struct ov_fdcache *c, struct ov_rdir *d);
/* D is reached through FD alone, which is owned from now on and noted in *NOTE. */
void ov_rdir_adopt_held(struct ov_fdcache *c, struct ov_rdir *d, int fd, int32_t *note);

/* Write D's path inside its layer ("/a/b") into BUF, cut at SIZE: for messages only. Namespace lock held. */
const char *ov_rdir_path(const struct ov_rdir *d, char *buf, size_t size);

/*
 * A pinned fd that unpins itself: "ov_cleanup_rfd struct ov_rfd f = ov_rfd_get(c, d); if (f.fd < 0) return f.fd;"
 */
struct ov_rfd {
	int fd;
	struct ov_rdir *d;
	struct ov_fdcache *c;
};

static inline struct ov_rfd ov_rfd_get(struct ov_fdcache *c, struct ov_rdir *d)
{
	struct ov_rfd f = {.fd = ov_rdir_get_fd(c, d), .d = d, .c = c};

	return f;
}

static inline void ov_rfd_release(struct ov_rfd *f)
{
	if (f->d && f->fd >= 0)
		ov_rdir_put_fd(f->c, f->d);
	f->fd = -1;
}

#define ov_cleanup_rfd __attribute__((cleanup(ov_rfd_release)))

#endif
