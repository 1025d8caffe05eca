/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Directories read before they are asked for. Whoever goes through a tree lists a directory and then those in it. So the names
 * and attributes of these are gathered meanwhile by a thread of the front's, on another processor: the request then finds done
 * what else it would have to do itself, two system calls a name. The same is done with the next part of a large directory, and with
 * directories in those that are gathered.
 *
 * It is done only with directories that are in lowers alone. Nothing in them can change before they are in the upper, too, so
 * what is gathered of one is right for as long as it is not: this is looked at when it is used (ov_ahead_take()), with the
 * namespace lock held. What a hard link in another place may change is left out. No inode is made. Who does not find his directory
 * here reads it himself.
 *
 * Likewise files that come next are opened where one after the other is read.
 */

#include <fcntl.h>
#include <string.h>
#include <time.h>

#include "core.h"
#include "format/whiteout.h"
#include "listing.h"

#define PART_MAX 256         /* names that are gathered of a directory at a time */
#define PART_MIN 128         /* and at least so many of the next part of one that is being listed */
#define NAMES_MAX 1024       /* a directory of more takes so long that others should not wait for it: the kernel asks first */
#define BYTES_MAX (768u << 10) /* of all that is gathered */
#define NAME_BYTES 48        /* of a directory in a layer: what its name takes, more or less */
#define STEPS_BEFORE 3       /* steps of a walk that are seen before anything is gathered */
#define STEPS_MAX 16
#define CHILDREN_MAX 4096    /* of a directory that are remembered */
#define EXPIRES_MS 1000
#define DEPTH_MAX 4          /* of directories in what is gathered */
#define BELOW_MAX 32         /* such directories at once */
#define AT_ONCE_MAX 512      /* names that are looked for at once */
#define VAIN_MAX 16          /* of them one after the other that are of no use */
#define READS_BEFORE 3       /* files that are read one after the other before those behind them are opened */
#define READS_APART 4        /* numbers between them: of directories, and of what was known before */
#define FILES_MIN 4          /* to be opened at once */
#define FILES_MAX 12         /* ahead of the one that is read */
#define FILE_AHEAD (128 << 10) /* bytes of each that the disk is asked for */
#define RESERVE 16           /* places for what is known by a number of its own only when it is asked for */

struct entry {
	uint64_t cookie;
	struct ov_ahead_dir *in; /* a directory: what is in it, or NULL */
	struct ov_found found;
};

/* What is gathered of a directory, or of a part of it. */
struct ov_ahead_dir {
	uint64_t nodeid; /* 0: of one that nobody knows of yet */
	uint64_t made; /* ms */
	struct ov_listing *listing; /* counted, or NULL: the directory has one */
	size_t own;   /* bytes that it takes itself */
	size_t bytes; /* of one that is not in another: with what is in it */
	size_t n;
	size_t next; /* those before it have been asked for */
	struct entry e[];
};

/* What the thread is at. */
struct work {
	uint64_t nodeid; /* of the directory */
	uint64_t after;  /* MAX names from this cookie on, or MAX is 0: all of it, and what is in it */
	size_t max;
	unsigned news;
	unsigned names; /* that were looked for */
	unsigned below; /* directories in it that were */
	struct ov_ahead_dir *top; /* what has been gathered */
};

/* Names to be looked for: a copy, since a listing changes. */
struct plan {
	char *names; /* behind the entries */
	size_t n;
	struct {
		uint64_t cookie;
		uint32_t name; /* offset */
		uint32_t height;
	} e[];
};

/* A directory that was listed, and those in it. */
struct ov_ahead_parent {
	uint64_t nodeid;
	uint32_t n, room;
	uint32_t next;   /* to be gathered */
	uint32_t listed; /* behind the one that was listed last */
	uint64_t children[]; /* nodeids; 0: it was listed */
};

int ov_ahead_init(struct ov_ahead *a)
{
	*a = (struct ov_ahead){.allowed = OV_AHEAD_DIRS / 4};
	return -pthread_mutex_init(&a->lock, NULL);
}

static uint64_t now_ms(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static void free_dir(struct overlay *ov, struct ov_ahead_dir *d)
{
	if (!d)
		return;
	for (size_t n = 0; n < d->n; n++) {
		ov_found_clear(ov, &d->e[n].found);
		free_dir(ov, d->e[n].in); /* no deeper than DEPTH_MAX */
	}
	ov_listing_unref(d->listing);
	free(d);
}

/* Take what is gathered at place N out. Lock held. */
static struct ov_ahead_dir *take_out(struct ov_ahead *a, unsigned n)
{
	struct ov_ahead_dir *d = a->dirs[n];

	a->ndirs--;
	memmove(&a->dirs[n], &a->dirs[n + 1], (a->ndirs - n) * sizeof(a->dirs[0]));
	a->bytes -= d->bytes;
	return d;
}

/* The place of what was gathered first of directory NODEID, or -1. Lock held. */
static int find(const struct ov_ahead *a, uint64_t nodeid)
{
	for (unsigned n = 0; n < a->ndirs; n++)
		if (a->dirs[n]->nodeid == nodeid)
			return (int)n;
	return -1;
}

/* A directory that nobody has asked for in time: free it. Then fewer at a time are worth it. NULL: there is none. Lock held. */
static struct ov_ahead_dir *take_expired(struct ov_ahead *a)
{
	uint64_t now = now_ms();

	for (unsigned n = 0; n < a->ndirs; n++) {
		const struct ov_ahead_dir *d = a->dirs[n];

		if (now < d->made + EXPIRES_MS)
			continue;
		if (d->listing && !d->next) {
			a->wasted++;
			a->steps = 0;
			a->allowed -= a->allowed > 2;
		}
		return take_out(a, n);
	}
	return NULL;
}

bool ov_ahead_expire(struct overlay *ov)
{
	struct ov_ahead *a = &ov->ahead;
	struct ov_ahead_dir *d;
	bool left;

	do {
		pthread_mutex_lock(&a->lock);
		d = take_expired(a);
		left = a->ndirs || a->nout;
		pthread_mutex_unlock(&a->lock);
		free_dir(ov, d);
	} while (d);
	return left;
}

void ov_ahead_destroy(struct overlay *ov)
{
	struct ov_ahead *a = &ov->ahead;

	while (a->ndirs)
		free_dir(ov, take_out(a, a->ndirs - 1));
	while (a->nparents)
		free(a->parents[--a->nparents]);
	pthread_mutex_destroy(&a->lock);
}

void ov_ahead_count(struct overlay *ov, uint64_t *used, uint64_t *wasted, uint64_t *opened)
{
	struct ov_ahead *a = &ov->ahead;

	pthread_mutex_lock(&a->lock);
	*used = a->used;
	*wasted = a->wasted;
	*opened = a->opened;
	pthread_mutex_unlock(&a->lock);
}

void ov_ahead_stop(struct overlay *ov)
{
	struct ov_ahead *a = &ov->ahead;

	pthread_mutex_lock(&a->lock);
	__atomic_store_n(&a->on, false, __ATOMIC_RELAXED);
	a->current = a->go_on = 0;
	a->steps = a->reads = 0;
	a->file = a->file_end;
	pthread_mutex_unlock(&a->lock);
}

/* ---- what requests find ---- */

/* May something be gathered now? Lock held. */
static bool has_room(const struct ov_ahead *a)
{
	return a->ndirs < a->allowed && a->bytes < BYTES_MAX;
}

/* The directory that has the next one to be gathered, or NULL. Lock held. */
static struct ov_ahead_parent *next_parent(const struct ov_ahead *a)
{
	if (a->steps < STEPS_BEFORE)
		return NULL;
	for (unsigned n = 0; n < a->nparents; n++)
		if (a->parents[n]->next < a->parents[n]->n)
			return a->parents[n];
	return NULL;
}

/* Are there enough files to be opened? Lock held. */
static bool has_files(const struct ov_ahead *a)
{
	return a->file + FILES_MIN <= a->file_end;
}

/* Is the thread to be told that there is something to do again? Lock held. */
static bool should_wake(struct ov_ahead *a)
{
	bool dir = has_room(a) && (a->go_on || (a->ndirs <= a->allowed / 2 && next_parent(a)));
	bool wake = a->idle && (dir || has_files(a));

	a->idle = a->idle && !wake;
	return wake;
}

static void wake(struct overlay *ov)
{
	if (ov->hooks.look_ahead)
		ov->hooks.look_ahead(ov->hooks.arg);
}

/* What was gathered first of directory NODEID, or NULL. GOOD: it is used. Lock held. */
static struct ov_ahead_dir *take(struct ov_ahead *a, uint64_t nodeid, bool good)
{
	int n = find(a, nodeid);
	struct ov_ahead_dir *d = n < 0 ? NULL : take_out(a, (unsigned)n);

	if (a->current == nodeid)
		a->current = 0; /* what is not gathered yet comes too late */
	if (a->go_on == nodeid)
		a->go_on = 0;
	if (!d || !good)
		return d;
	a->nout++;
	a->used += d->listing && !d->next;
	a->allowed += a->allowed < OV_AHEAD_DIRS - RESERVE;
	return d;
}

struct ov_ahead_dir *ov_ahead_take(struct overlay *ov, const struct ov_inode *dir)
{
	struct ov_ahead *a = &ov->ahead;
	bool tell, good = !ov_inode_is(dir, OV_I_UPPER | OV_I_UNLINKED);
	struct ov_ahead_dir *d;

	if (!__atomic_load_n(&a->on, __ATOMIC_RELAXED))
		return NULL;
	pthread_mutex_lock(&a->lock);
	d = take(a, dir->nodeid, good);
	tell = should_wake(a);
	pthread_mutex_unlock(&a->lock);
	if (tell)
		wake(ov);
	if (!good && d) {
		free_dir(ov, d);
		return ov_ahead_take(ov, dir); /* there may be more parts */
	}
	return d;
}

struct ov_listing *ov_ahead_listing(const struct ov_ahead_dir *d)
{
	return d && d->listing ? ov_listing_ref(d->listing) : NULL;
}

/* May it be a whiteout by xattr, of a layer that was found to have such only after it was found? */
static bool may_hide(const struct ov_found *f)
{
	return f->rparent && ov_layer_has_xwhiteouts(f->rparent->layer) && ov_whiteout_may_be_xattr(&f->stx);
}

struct ov_found *ov_ahead_find(struct ov_ahead_dir *d, uint64_t cookie)
{
	struct ov_found *f;

	while (d->next < d->n && d->e[d->next].cookie < cookie)
		d->next++;
	if (d->next == d->n || d->e[d->next].cookie != cookie)
		return NULL;
	f = &d->e[d->next++].found;
	return may_hide(f) ? NULL : f;
}

static size_t bytes_of(const struct ov_ahead_dir *d)
{
	size_t bytes = d->own;

	for (size_t n = 0; n < d->n; n++)
		bytes += d->e[n].in ? bytes_of(d->e[n].in) : 0; /* no deeper than DEPTH_MAX */
	return bytes;
}

void ov_ahead_found(struct overlay *ov, struct ov_ahead_dir *d, uint64_t nodeid)
{
	struct ov_ahead *a = &ov->ahead;
	struct ov_ahead_dir *in = d && d->next ? d->e[d->next - 1].in : NULL;

	if (!in)
		return;
	d->e[d->next - 1].in = NULL;
	in->nodeid = nodeid;
	in->made = now_ms();
	in->bytes = bytes_of(in);
	d->bytes -= in->bytes;
	pthread_mutex_lock(&a->lock);
	if (a->ndirs < OV_AHEAD_DIRS) {
		a->dirs[a->ndirs++] = in;
		a->bytes += in->bytes;
		in = NULL;
	}
	pthread_mutex_unlock(&a->lock);
	free_dir(ov, in);
}

bool ov_ahead_is_over(const struct ov_ahead_dir *d)
{
	return d->next == d->n;
}

/* D is the first of its directory, as it was; instead of the last of all, which will be asked for last, if there is no room. */
static struct ov_ahead_dir *put_first(struct ov_ahead *a, struct ov_ahead_dir *d)
{
	struct ov_ahead_dir *last = a->ndirs == OV_AHEAD_DIRS ? take_out(a, a->ndirs - 1) : NULL;

	if (last && last->nodeid == a->current)
		a->current = 0;
	memmove(&a->dirs[1], &a->dirs[0], a->ndirs++ * sizeof(a->dirs[0]));
	a->dirs[0] = d;
	a->bytes += d->bytes;
	d->made = now_ms();
	return last;
}

void ov_ahead_put(struct overlay *ov, struct ov_ahead_dir *d)
{
	struct ov_ahead *a = &ov->ahead;

	if (!d)
		return;
	pthread_mutex_lock(&a->lock);
	a->nout--;
	if (d->next < d->n)
		d = put_first(a, d);
	pthread_mutex_unlock(&a->lock);
	free_dir(ov, d);
}

/* ---- whose turn may come ---- */

/* The place of NODEID among those with others in them, or -1. Lock held. */
static int find_parent(const struct ov_ahead *a, uint64_t nodeid)
{
	for (unsigned n = 0; n < a->nparents; n++)
		if (a->parents[n]->nodeid == nodeid)
			return (int)n;
	return -1;
}

/* P, which is at place AT, or comes in for what is there, is the one in use now. Lock held. */
static void to_front(struct ov_ahead *a, struct ov_ahead_parent *p, unsigned at)
{
	memmove(&a->parents[1], &a->parents[0], at * sizeof(a->parents[0]));
	a->parents[0] = p;
}

/* NODEID, a child of P, is being listed: most go on with the one behind it. Lock held. */
static void note_listed(struct ov_ahead_parent *p, uint64_t nodeid)
{
	for (uint32_t k = 0; k < p->n; k++) {
		uint32_t at = (p->listed + k) % p->n;

		if (p->children[at] != nodeid)
			continue;
		p->children[at] = 0;
		p->listed = at + 1;
		if (p->next <= at)
			p->next = at + 1;
		return;
	}
}

/* What is remembered of P's children is out of date, or for another directory. Lock held. */
static void forget_children(struct ov_ahead_parent *p)
{
	p->n = p->next = p->listed = 0;
}

void ov_ahead_note(struct overlay *ov, const struct ov_inode *dir)
{
	struct ov_ahead *a = &ov->ahead;
	struct ov_ahead_parent *p;
	int at;

	if (!__atomic_load_n(&a->on, __ATOMIC_RELAXED))
		return;
	pthread_mutex_lock(&a->lock);
	at = dir->names ? find_parent(a, dir->names->parent->nodeid) : -1;
	if (at >= 0) {
		p = a->parents[at];
		to_front(a, p, (unsigned)at);
		note_listed(p, dir->nodeid);
		a->steps += a->steps < STEPS_MAX;
	} else {
		a->steps -= a->steps < 2 ? a->steps : 2;
	}
	at = find_parent(a, dir->nodeid);
	if (at >= 0)
		forget_children(a->parents[at]); /* all of it anew */
	pthread_mutex_unlock(&a->lock);
}

/* The next part of DIR is to begin behind what is there of it, or AFTER. False: enough is there for N names more. Lock held. */
static bool place_next_part(struct ov_ahead *a, uint64_t nodeid, uint64_t after, unsigned n)
{
	size_t left = 0;

	for (unsigned k = 0; k < a->ndirs; k++) {
		const struct ov_ahead_dir *d = a->dirs[k];

		if (d->nodeid != nodeid || !d->n)
			continue;
		left += d->n - d->next;
		after = d->e[d->n - 1].cookie;
	}
	if (left >= n)
		return false;
	a->go_on = nodeid;
	a->go_on_after = after;
	a->go_on_n = n > PART_MAX ? PART_MAX : n < PART_MIN ? PART_MIN : n;
	return true;
}

void ov_ahead_go_on(struct overlay *ov, const struct ov_inode *dir, uint64_t cookie, unsigned n)
{
	struct ov_ahead *a = &ov->ahead;
	bool tell;

	if (!__atomic_load_n(&a->on, __ATOMIC_RELAXED) || ov_inode_is(dir, OV_I_UPPER))
		return;
	pthread_mutex_lock(&a->lock);
	tell = place_next_part(a, dir->nodeid, cookie, n) && should_wake(a);
	pthread_mutex_unlock(&a->lock);
	if (tell)
		wake(ov);
}

/* The entry of directory NODEID in front, with room for N more; NULL: no memory. Lock held. */
static struct ov_ahead_parent *make_parent(struct ov_ahead *a, uint64_t nodeid, uint32_t n)
{
	int found = find_parent(a, nodeid);
	struct ov_ahead_parent *p = found >= 0 ? a->parents[found] : NULL;
	unsigned at = found >= 0 ? (unsigned)found : a->nparents;
	uint32_t room;

	if (!p && a->nparents == OV_AHEAD_PARENTS) { /* for the one that was not in use for longest */
		at--;
		p = a->parents[at];
		forget_children(p);
	}
	if (!p || p->room < p->n + n) {
		room = (p ? p->n : 0) + n;
		room += p ? room / 2 : 0;
		p = realloc(p, sizeof(*p) + room * sizeof(p->children[0]));
		if (!p)
			return NULL;
		if (at == a->nparents)
			*p = (struct ov_ahead_parent){0};
		p->room = room;
	}
	a->nparents += at == a->nparents;
	p->nodeid = nodeid;
	to_front(a, p, at);
	return p;
}

void ov_ahead_add(struct overlay *ov, const struct ov_inode *dir, const uint64_t *dirs, unsigned n)
{
	struct ov_ahead *a = &ov->ahead;
	struct ov_ahead_parent *p;
	bool tell;

	if (!__atomic_load_n(&a->on, __ATOMIC_RELAXED))
		return;
	pthread_mutex_lock(&a->lock);
	p = make_parent(a, dir->nodeid, n);
	if (p && p->n + n <= CHILDREN_MAX) {
		memcpy(&p->children[p->n], dirs, n * sizeof(*dirs));
		p->n += n;
	}
	a->news++;
	tell = should_wake(a);
	pthread_mutex_unlock(&a->lock);
	if (tell)
		wake(ov);
}

/* ---- files ---- */

/* May I be opened ahead? It is done to files only that are in a lower. */
static bool may_open(const struct ov_inode *i)
{
	return S_ISREG(i->type) && !ov_inode_is(i, OV_I_UPPER | OV_I_STALE | OV_I_UNLINKED);
}

/*
 * The names of a listing get their numbers one after the other, so who reads files in its order reads those of rising numbers. The
 * next ones are opened, and the disk is asked for their data. They are in the cache of descriptors then, like what was read.
 */
void ov_ahead_note_read(struct overlay *ov, const struct ov_inode *i)
{
	struct ov_ahead *a = &ov->ahead;
	uint64_t nodeid = i->nodeid;
	bool tell = false;

	if (!__atomic_load_n(&a->on, __ATOMIC_RELAXED) || !may_open(i) || ov->fds.limit < 8 * FILES_MAX)
		return;
	pthread_mutex_lock(&a->lock);
	a->reads = a->read && nodeid > a->read && nodeid - a->read <= READS_APART ? a->reads + 1 : 0;
	a->read = nodeid;
	if (a->file <= nodeid || a->reads == 0)
		a->file = nodeid + 1;
	a->file_end = a->reads < READS_BEFORE ? a->file : nodeid + 1 + FILES_MAX;
	if (a->reads >= READS_BEFORE)
		tell = should_wake(a);
	pthread_mutex_unlock(&a->lock);
	if (tell)
		wake(ov);
}

static struct ov_fdslot *get_file(struct overlay *ov, struct ov_inode *i)
{
	int err;

	OV_NS_READ(ov);
	return may_open(i) ? ov_file_get(ov, i, false, &err) : NULL; /* who reads it gets the error */
}

/* The disk is asked without a lock. */
static bool open_file(struct overlay *ov, struct ov_inode *i)
{
	struct ov_fdslot *slot = get_file(ov, i);

	if (!slot)
		return false;
	(void)posix_fadvise(slot->fd, 0, FILE_AHEAD, POSIX_FADV_WILLNEED);
	ov_fdslot_unpin(&ov->fds, slot);
	return true;
}

/* Open some of those whose turn has come. */
static void open_files(struct overlay *ov)
{
	struct ov_ahead *a = &ov->ahead;
	bool opened = false;

	for (unsigned n = 0; n <= FILES_MAX; n++) {
		struct ov_inode *i;
		uint64_t nodeid;

		pthread_mutex_lock(&a->lock);
		a->opened += opened;
		nodeid = n < FILES_MAX && a->file < a->file_end ? a->file++ : 0;
		pthread_mutex_unlock(&a->lock);
		if (!nodeid)
			return;
		i = ov_inode_find_ref(&ov->tab, nodeid);
		opened = i && open_file(ov, i);
		if (i)
			ov_inode_unref(&ov->tab, i);
	}
}

/* ---- gathering ---- */

/* The nodeid of the directory whose turn it is, or 0. Lock held. */
static uint64_t next_child(struct ov_ahead *a)
{
	struct ov_ahead_parent *p;

	while (has_room(a) && (p = next_parent(a))) {
		uint64_t nodeid = p->children[p->next++];

		if (nodeid && find(a, nodeid) < 0)
			return nodeid;
	}
	return 0;
}

/* What comes next: false, and the thread is told when there is something. */
static bool next_work(struct ov_ahead *a, struct work *w)
{
	bool more;

	*w = (struct work){0};
	pthread_mutex_lock(&a->lock);
	if (a->go_on && has_room(a)) {
		w->nodeid = a->go_on;
		w->after = a->go_on_after;
		w->max = a->go_on_n;
		a->go_on = 0;
	} else {
		w->nodeid = next_child(a);
	}
	w->news = a->news;
	a->current = w->nodeid;
	a->idle = !w->nodeid && !has_files(a);
	more = !a->idle;
	pthread_mutex_unlock(&a->lock);
	return more;
}

/* Is what W gathers good, and still wanted? Lock held. */
static bool is_ours(const struct ov_ahead *a, const struct work *w)
{
	return a->current == w->nodeid;
}

/* May it be gathered? Namespace lock held. */
static bool is_fit(const struct ov_inode *dir)
{
	return ov_inode_isdir(dir) && dir->nrdirs && !ov_inode_is(dir, OV_I_UPPER | OV_I_STALE | OV_I_UNLINKED);
}

/* Copy up to MAX names of L after AFTER. L's lock is held, or nobody else knows it. NULL: no memory. */
static struct plan *copy_names(const struct ov_listing *l, uint64_t after, size_t max)
{
	size_t first = ov_listing_after(l, after), end = l->n - first < max ? l->n : first + max, size = 1, len = 0;
	struct plan *p;

	for (size_t n = first; n < end; n++)
		size += strlen(l->names + l->e[n].name) + 1;
	p = malloc(sizeof(*p) + (end - first) * sizeof(p->e[0]) + size);
	if (!p)
		return NULL;
	p->n = 0;
	p->names = (char *)&p->e[end - first];
	for (size_t n = first; n < end; n++) {
		const struct ov_lname *e = &l->e[n];

		if (e->gone)
			continue;
		p->e[p->n].cookie = e->cookie;
		p->e[p->n].name = (uint32_t)len;
		p->e[p->n++].height = e->height;
		len = (size_t)(stpcpy(p->names + len, l->names + e->name) - p->names) + 1;
	}
	return p;
}

/* Must each name be looked at before it is known what it is (override_stat, whiteouts by xattr)? */
static bool is_slow(const struct ov_inode *dir)
{
	for (unsigned n = 0; n < dir->nrdirs; n++)
		if (dir->rdirs[n]->layer->override || ov_layer_has_xwhiteouts(dir->rdirs[n]->layer))
			return true;
	return false;
}

/* What is to be looked for in DIR, and its listing if it is made for that. NULL: nothing can be. */
static struct plan *make_plan(struct overlay *ov, struct ov_inode *dir, const struct work *w, struct ov_listing **listing)
{
	size_t max = w->max ? w->max : PART_MAX;
	struct ov_listing *l;
	struct plan *p = NULL;

	OV_NS_READ(ov);
	l = is_fit(dir) ? ov_listing_get(ov, dir) : NULL;
	if (l) {
		pthread_mutex_lock(&l->lock);
		if (!l->nlate)
			p = copy_names(l, w->after, max);
		pthread_mutex_unlock(&l->lock);
		ov_listing_unref(l);
		return p;
	}
	if (w->max || !is_fit(dir) || ov_listing_make(ov, dir, is_slow(dir) ? PART_MAX : NAMES_MAX, listing) < 0)
		return NULL;
	return copy_names(*listing, 0, max);
}

/*
 * Requests find D, in which nothing is yet, from now on: by itself, or in W's top with the entry IN. False: it is out of date, or not
 * wanted.
 */
static bool publish(struct ov_ahead *a, struct work *w, struct ov_ahead_dir *d, struct entry *in)
{
	bool kept = false;

	pthread_mutex_lock(&a->lock);
	if (is_ours(a, w) && in) {
		in->in = d;
		kept = true;
	} else if (is_ours(a, w) && a->ndirs < OV_AHEAD_DIRS) {
		d->nodeid = w->nodeid;
		d->made = now_ms();
		a->dirs[a->ndirs++] = w->top = d;
		kept = true;
	}
	if (kept) {
		w->top->bytes += d->own;
		a->bytes += d->own;
	}
	pthread_mutex_unlock(&a->lock);
	return kept;
}

/* Will a name stay as it was found? A hard link may be changed through its other names. */
static bool will_stay(const struct overlay *ov, const struct ov_found *f)
{
	if (!f->exists || f->upper || f->indexed)
		return false;
	return S_ISDIR(f->stx.stx_mode) || f->stx.stx_nlink == 1 || !ov->index;
}

/* F is what was found for COOKIE, and D's now, if that is still ours. */
static bool append(struct ov_ahead *a, const struct work *w, struct ov_ahead_dir *d, uint64_t cookie, struct ov_found *f)
{
	size_t f_bytes = f->nrdirs * (sizeof(struct ov_rdir) + NAME_BYTES);
	bool ours;

	pthread_mutex_lock(&a->lock);
	ours = is_ours(a, w);
	if (ours && f->exists) {
		d->e[d->n].cookie = cookie;
		d->e[d->n].in = NULL;
		d->e[d->n++].found = *f;
		d->own += f_bytes;
		w->top->bytes += f_bytes;
		a->bytes += f_bytes;
		memset(f, 0, sizeof(*f));
	}
	pthread_mutex_unlock(&a->lock);
	return ours;
}

/*
 * Look for the N-th name of DIR. The namespace lock is held for each: a disk may be slow. 1; 0 if it is of no use; -1: that is
 * enough.
 */
static int look_up(struct overlay *ov, const struct work *w, struct ov_inode *dir, const struct plan *p, size_t n,
		   struct ov_ahead_dir *d)
{
	const char *name = p->names + p->e[n].name;
	struct ov_found f;
	bool ours, use;

	OV_NS_READ(ov);
	if (!is_fit(dir))
		return -1;
	if (ov_dentry_inode(&ov->tab, dir, name))
		return 0; /* what is known need not be searched */
	if (ov_search_listed(ov, dir, name, ov_listing_layer(dir, p->e[n].height), &f) < 0)
		return 0;
	use = will_stay(ov, &f);
	if (!use)
		ov_found_clear(ov, &f);
	ours = append(&ov->ahead, w, d, p->e[n].cookie, &f);
	ov_found_clear(ov, &f);
	return ours ? use : -1;
}

/* What is in DIR, for W, or (IN) for the entry of W's top that is DIR. NULL: nothing, or that is enough. */
static struct ov_ahead_dir *gather(struct overlay *ov, struct work *w, struct ov_inode *dir, struct entry *in)
{
	struct ov_listing *listing = NULL;
	ov_cleanup_free struct plan *p = make_plan(ov, dir, w, &listing);
	struct ov_ahead_dir *d = p && (p->n || listing) ? calloc(1, sizeof(*d) + p->n * sizeof(d->e[0])) : NULL;
	int r = 1;

	if (!d) {
		ov_listing_unref(listing);
		return NULL;
	}
	d->listing = listing;
	d->own = sizeof(*d) + p->n * sizeof(d->e[0]) + (listing ? ov_listing_size(listing) : 0);
	if (!publish(&ov->ahead, w, d, in)) {
		free_dir(ov, d);
		return NULL;
	}
	for (size_t n = 0, vain = 0; n < p->n && r >= 0 && vain < VAIN_MAX; n++) {
		r = look_up(ov, w, dir, p, n, d);
		vain = r == 0 ? vain + 1 : 0;
		w->names++;
	}
	return r < 0 ? NULL : d;
}

/* ---- directories in what is gathered ---- */

/* The real directories of F for DIR, which is not in any table: for what only looks at its layers. */
static bool borrow(struct ov_inode *dir, const struct ov_found *f)
{
	*dir = (struct ov_inode){.type = S_IFDIR, .nrdirs = (uint16_t)f->nrdirs};
	dir->rdirs = f->nrdirs ? malloc(f->nrdirs * sizeof(*dir->rdirs)) : NULL;
	for (unsigned n = 0; dir->rdirs && n < f->nrdirs; n++)
		dir->rdirs[n] = ov_rdir_ref(f->rdirs[n]);
	return dir->rdirs;
}

static void give_back(struct overlay *ov, struct ov_inode *dir)
{
	for (unsigned n = 0; n < dir->nrdirs; n++)
		ov_rdir_unref(&ov->fds, dir->rdirs[n]);
	free(dir->rdirs);
}

/* Is the N-th name of D, in W's top, a directory that can be gathered, too? 1: DIR is that; 0; -1: that is enough. */
static int enter(struct ov_ahead *a, const struct work *w, const struct ov_ahead_dir *d, size_t n, struct ov_inode *dir)
{
	int r = -1;

	pthread_mutex_lock(&a->lock);
	if (is_ours(a, w) && n < d->n && !a->go_on && a->news == w->news && has_room(a) && w->names < AT_ONCE_MAX &&
	    w->below < BELOW_MAX)
		r = S_ISDIR(d->e[n].found.stx.stx_mode) && borrow(dir, &d->e[n].found);
	pthread_mutex_unlock(&a->lock);
	return r;
}

/* The directories in D, which is in W's top or is that. */
static void gather_below(struct overlay *ov, struct work *w, struct ov_ahead_dir *d, unsigned depth)
{
	struct ov_inode dir;
	int r;

	for (size_t n = 0; (r = enter(&ov->ahead, w, d, n, &dir)) >= 0; n++) {
		struct ov_ahead_dir *in = r ? gather(ov, w, &dir, &d->e[n]) : NULL;

		w->below += r > 0;
		if (in && depth < DEPTH_MAX)
			gather_below(ov, w, in, depth + 1);
		if (r)
			give_back(ov, &dir);
	}
}

void ov_ahead_start(struct overlay *ov)
{
	__atomic_store_n(&ov->ahead.on, true, __ATOMIC_RELAXED);
}

bool ov_ahead_work(struct overlay *ov)
{
	struct ov_ahead *a = &ov->ahead;
	struct ov_ahead_dir *d;
	struct ov_inode *dir;
	struct work w;

	(void)ov_ahead_expire(ov);
	open_files(ov);
	if (!next_work(a, &w))
		return false;
	dir = w.nodeid ? ov_inode_find_ref(&ov->tab, w.nodeid) : NULL;
	d = dir ? gather(ov, &w, dir, NULL) : NULL;
	if (d && !w.max)
		gather_below(ov, &w, d, 1);
	pthread_mutex_lock(&a->lock);
	if (w.top && is_ours(a, &w))
		w.top->made = now_ms(); /* a disk may be slow */
	a->current = 0;
	pthread_mutex_unlock(&a->lock);
	if (dir)
		ov_inode_unref(&ov->tab, dir);
	return true;
}
