/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "inode.h"

#include <string.h>
#include <xxhash.h>

#include "crash.h"

#define OV_TABLE_START 256 /* buckets; a power of two */

static uint64_t mix(uint64_t x)
{
	x ^= x >> 33;
	x *= 0xff51afd7ed558ccdULL;
	x ^= x >> 33;
	return x;
}

static size_t key_hash(struct ov_key k)
{
	return (size_t)mix(k.ino ^ ((uint64_t)k.fsid << 40) ^ ((uint64_t)k.upper << 63));
}

static uint32_t dent_hash(const struct ov_inode *parent, const char *name)
{
	return (uint32_t)XXH3_64bits_withSeed(name, strlen(name), parent->nodeid);
}

int ov_itable_init(struct ov_itable *t, struct ov_fdcache *fds, struct ov_arena *arena)
{
	int r;

	memset(t, 0, sizeof(*t));
	t->fds = fds;
	t->arena = arena;
	t->ledger = ov_arena_header(arena);
	if (!t->ledger->next_id)
		t->ledger->next_id = OV_ROOT_ID;
	t->ids = calloc(OV_TABLE_START, sizeof(*t->ids));
	t->keys = calloc(OV_TABLE_START, sizeof(*t->keys));
	t->dents = calloc(OV_TABLE_START, sizeof(*t->dents));
	t->id_mask = t->key_mask = t->dent_mask = OV_TABLE_START - 1;
	if (!t->ids || !t->keys || !t->dents)
		return -ENOMEM;
	r = pthread_mutex_init(&t->lock, NULL);
	if (r)
		return -r;
	return -pthread_cond_init(&t->busy_done, NULL);
}

/* Double a table when it is full. Without memory it just stays slower. */
#define GROW(t, table, mask, type, next, hash_of)                                          \
	do {                                                                               \
		size_t size = ((t)->mask + 1) * 2;                                         \
		type **fresh = calloc(size, sizeof(*fresh));                               \
		if (!fresh)                                                                \
			break;                                                             \
		for (size_t b = 0; b <= (t)->mask; b++) {                                  \
			type *e = (t)->table[b];                                           \
			while (e) {                                                        \
				type *following = e->next;                                 \
				size_t slot_ = (hash_of) & (size - 1);                     \
				e->next = fresh[slot_];                                    \
				fresh[slot_] = e;                                          \
				e = following;                                             \
			}                                                                  \
		}                                                                          \
		free((t)->table);                                                          \
		(t)->table = fresh;                                                        \
		(t)->mask = size - 1;                                                      \
	} while (0)

static struct ov_inode *find_locked(struct ov_itable *t, uint64_t nodeid)
{
	struct ov_inode *i = t->ids[mix(nodeid) & t->id_mask];

	while (i && i->nodeid != nodeid)
		i = i->id_next;
	return i;
}

struct ov_inode *ov_inode_find(struct ov_itable *t, uint64_t nodeid)
{
	struct ov_inode *i;

	pthread_mutex_lock(&t->lock);
	i = find_locked(t, nodeid);
	pthread_mutex_unlock(&t->lock);
	return i;
}

struct ov_inode *ov_inode_find_ref(struct ov_itable *t, uint64_t nodeid)
{
	struct ov_inode *i;

	pthread_mutex_lock(&t->lock);
	i = find_locked(t, nodeid);
	if (i && i->nlookup)
		i->refs++;
	else
		i = NULL;
	pthread_mutex_unlock(&t->lock);
	return i;
}

struct ov_inode *ov_inode_new(struct ov_itable *t, unsigned type)
{
	struct ov_inode *i = ov_arena_alloc(t->arena, sizeof(*i));

	if (!i)
		return NULL;
	i->held_fd = -1;
	i->type = (uint16_t)(type & S_IFMT);
	i->nodeid = __atomic_fetch_add(&t->ledger->next_id, 1, __ATOMIC_RELAXED);
	return i;
}

static void insert_locked(struct ov_itable *t, struct ov_inode *i)
{
	size_t h;

	if (++t->nids > t->id_mask)
		GROW(t, ids, id_mask, struct ov_inode, id_next, mix(e->nodeid));
	h = mix(i->nodeid) & t->id_mask;
	i->id_next = t->ids[h];
	t->ids[h] = i;
}

void ov_inode_insert(struct ov_itable *t, struct ov_inode *i)
{
	pthread_mutex_lock(&t->lock);
	insert_locked(t, i);
	ov_arena_publish(i, OV_INODE_MAGIC);
	pthread_mutex_unlock(&t->lock);
}

/* Free what I owns, and I. No lock needed: nobody can reach it. */
static void inode_free(struct ov_itable *t, struct ov_inode *i)
{
	__atomic_store_n(&i->magic, 0, __ATOMIC_RELEASE);
	if (ov_inode_is(i, OV_I_STALE) && i->held_fd >= 0) /* nobody has asked for it since another worker held it */
		close(i->held_fd);
	if (ov_inode_isdir(i)) {
		if (i->held_fd >= 0 && i->nrdirs)
			ov_rdir_unnote(t->fds, i->rdirs[0]); /* the names below may keep it longer than us */
		for (unsigned n = 0; n < i->nrdirs; n++)
			ov_rdir_unref(t->fds, i->rdirs[n]);
		free(i->rdirs);
		if (t->free_listing) /* it looks under its own lock whether there is one: another thread may just drop it */
			t->free_listing(t->free_listing_arg, i);
	} else {
		ov_rdir_unref(t->fds, i->rparent);
		ov_fdslot_drop(t->fds, &i->slot);
		if (i->data) {
			ov_fdslot_drop(t->fds, &i->data->slot);
			ov_rdir_unref(t->fds, i->data->dir);
			free(i->data->name);
			free(i->data);
		}
	}
	free(i->rname);
	if (i->ghost)
		ov_arena_free(t->arena, i->ghost);
	ov_arena_free(t->arena, i);
}

struct ov_lowerdata *ov_lowerdata_new(struct ov_rdir *dir, const char *name)
{
	struct ov_lowerdata *data = calloc(1, sizeof(*data));

	if (!data)
		return NULL;
	data->name = strdup(name);
	if (!data->name) {
		free(data);
		return NULL;
	}
	data->dir = ov_rdir_ref(dir);
	return data;
}

void ov_inode_discard(struct ov_itable *t, struct ov_inode *i)
{
	inode_free(t, i);
}

static bool key_equal(struct ov_key a, struct ov_key b)
{
	return a.ino == b.ino && a.fsid == b.fsid && a.upper == b.upper;
}

static void clear_key_locked(struct ov_itable *t, struct ov_inode *i)
{
	struct ov_inode **p;

	if (!ov_inode_is(i, OV_I_KEYED))
		return;
	for (p = &t->keys[key_hash(i->key) & t->key_mask]; *p; p = &(*p)->key_next) {
		if (*p == i) {
			*p = i->key_next;
			t->nkeys--;
			break;
		}
	}
	i->key_next = NULL;
	ov_inode_unset(i, OV_I_KEYED);
}

void ov_inode_clear_key(struct ov_itable *t, struct ov_inode *i)
{
	pthread_mutex_lock(&t->lock);
	clear_key_locked(t, i);
	pthread_mutex_unlock(&t->lock);
}

void ov_inode_set_key_locked(struct ov_itable *t, struct ov_inode *i, struct ov_key key)
{
	size_t h;

	clear_key_locked(t, i);
	if (++t->nkeys > t->key_mask)
		GROW(t, keys, key_mask, struct ov_inode, key_next, key_hash(e->key));
	i->key = key;
	h = key_hash(key) & t->key_mask;
	i->key_next = t->keys[h];
	t->keys[h] = i;
	ov_inode_set(i, OV_I_KEYED);
}

void ov_inode_set_key(struct ov_itable *t, struct ov_inode *i, struct ov_key key)
{
	pthread_mutex_lock(&t->lock);
	ov_inode_set_key_locked(t, i, key);
	pthread_mutex_unlock(&t->lock);
}

struct ov_inode *ov_inode_find_key_locked(struct ov_itable *t, struct ov_key key)
{
	struct ov_inode *i = t->keys[key_hash(key) & t->key_mask];

	while (i && !key_equal(i->key, key))
		i = i->key_next;
	return i;
}

struct ov_dentry *ov_dentry_find_locked(struct ov_itable *t, const struct ov_inode *parent, const char *name)
{
	uint32_t h = dent_hash(parent, name);
	struct ov_dentry *d = t->dents[h & t->dent_mask];

	while (d && (d->hash != h || d->parent != parent || strcmp(d->name, name) != 0))
		d = d->hash_next;
	return d;
}

struct ov_dentry *ov_dentry_new(struct ov_itable *t, const char *name)
{
	size_t len = strlen(name) + 1;
	struct ov_dentry *d = ov_arena_alloc(t->arena, sizeof(*d) + len);

	if (d)
		memcpy(d->name, name, len);
	return d;
}

void ov_dentry_free(struct ov_itable *t, struct ov_dentry *d)
{
	if (d)
		ov_arena_free(t->arena, d);
}

int ov_dentry_add_locked(struct ov_itable *t, struct ov_inode *parent, const char *name, struct ov_inode *i, bool front)
{
	struct ov_dentry *d;

	if (ov_dentry_find_locked(t, parent, name))
		return -EEXIST;
	d = ov_dentry_new(t, name);
	if (!d)
		return -ENOMEM;
	ov_dentry_insert_locked(t, parent, d, i, front);
	return 0;
}

void ov_dentry_insert_locked(struct ov_itable *t, struct ov_inode *parent, struct ov_dentry *d, struct ov_inode *i, bool front)
{
	size_t h;

	d->hash = dent_hash(parent, d->name);
	d->parent = parent;
	parent->refs++;
	d->inode = i;
	if (front || !i->names) {
		d->alias_next = i->names;
		i->names = d;
	} else {
		d->alias_next = i->names->alias_next;
		i->names->alias_next = d;
	}
	if (++t->ndents > t->dent_mask)
		GROW(t, dents, dent_mask, struct ov_dentry, hash_next, (size_t)e->hash);
	h = d->hash & t->dent_mask;
	d->hash_next = t->dents[h];
	t->dents[h] = d;
	ov_arena_publish(d, OV_DENTRY_MAGIC);
}

/* Take D out of both its lists. The parent's reference stays for the caller to drop. */
static void dentry_unlink_locked(struct ov_itable *t, struct ov_dentry *d)
{
	struct ov_dentry **p;

	for (p = &t->dents[d->hash & t->dent_mask]; *p; p = &(*p)->hash_next) {
		if (*p == d) {
			*p = d->hash_next;
			t->ndents--;
			break;
		}
	}
	for (p = &d->inode->names; *p; p = &(*p)->alias_next) {
		if (*p == d) {
			*p = d->alias_next;
			break;
		}
	}
}

/* Remove I from the tables if nothing holds it, and push it on *DEAD (through id_next). */
static void reap_locked(struct ov_itable *t, struct ov_inode *i, struct ov_inode **dead)
{
	while (i && i->nlookup == 0 && i->refs == 0 && i->nodeid != OV_ROOT_ID) {
		struct ov_inode **p;
		struct ov_inode *parent = NULL;

		for (p = &t->ids[mix(i->nodeid) & t->id_mask]; *p; p = &(*p)->id_next) {
			if (*p == i) {
				*p = i->id_next;
				t->nids--;
				break;
			}
		}
		clear_key_locked(t, i);
		while (i->names) {
			struct ov_dentry *d = i->names;

			if (parent)
				reap_locked(t, parent, dead); /* only hard links have a second name: shallow */
			parent = d->parent;
			dentry_unlink_locked(t, d);
			ov_dentry_free(t, d);
			parent->refs--;
		}
		i->id_next = *dead;
		*dead = i;
		i = parent; /* a loop, not recursion: trees may be deep */
	}
}

static void free_dead(struct ov_itable *t, struct ov_inode *dead)
{
	while (dead) {
		struct ov_inode *next = dead->id_next;

		inode_free(t, dead);
		dead = next;
	}
}

void ov_dentry_del_locked(struct ov_itable *t, struct ov_dentry *d)
{
	dentry_unlink_locked(t, d);
	/* the parent is in use by the operation that removes the name, so it cannot be the last reference */
	d->parent->refs--;
	ov_dentry_free(t, d);
}

struct ov_inode *ov_dentry_inode(struct ov_itable *t, const struct ov_inode *parent, const char *name)
{
	struct ov_dentry *d;
	struct ov_inode *i;

	pthread_mutex_lock(&t->lock);
	d = ov_dentry_find_locked(t, parent, name);
	i = d ? d->inode : NULL;
	pthread_mutex_unlock(&t->lock);
	return i;
}

/* ---- counts, and the notes of them ---- */

static __thread struct {
	uint32_t *n; /* NULL: this thread notes nothing */
	uint64_t *nodeids;
} raised;

void ov_inode_notes_raised_in(uint32_t *n, uint64_t *nodeids)
{
	raised.n = n;
	raised.nodeids = nodeids;
}

static uint64_t offset_in_ledger(const struct ov_itable *t, const void *p)
{
	return (uint64_t)((uintptr_t)p - (uintptr_t)t->ledger);
}

/*
 * I gets COUNT, and *NOTE the VALUE that says so. A process that died between the two would leave one that is not true, so what
 * is to be is written down first; as absolute values, which may be set twice, and nobody else changes them while the lock is
 * held.
 */
static void recount_locked(struct ov_itable *t, struct ov_inode *i, uint64_t count, uint64_t *note, uint64_t value)
{
	struct ov_recount *re = &t->ledger->recount;

	re->count = count;
	re->note = offset_in_ledger(t, note);
	re->value = value;
	__atomic_store_n(&re->inode, offset_in_ledger(t, i), __ATOMIC_RELEASE);
	OV_CRASH("count.noted");
	__atomic_store_n(&i->nlookup, count, __ATOMIC_RELEASE);
	OV_CRASH("count.changed");
	__atomic_store_n(note, value, __ATOMIC_RELEASE);
	__atomic_store_n(&re->inode, 0, __ATOMIC_RELEASE);
}

void ov_itable_complete_recount(struct ov_itable *t)
{
	struct ov_recount *re = &t->ledger->recount;
	off_t end = t->arena->fd < 0 ? -1 : lseek(t->arena->fd, 0, SEEK_END); /* beyond it is no memory */
	uint64_t size = end < 0 ? 0 : (uint64_t)end;
	char *base = (char *)t->ledger;

	if (re->inode && re->inode % 16 == 0 && re->inode < size && size - re->inode >= sizeof(struct ov_inode)) {
		struct ov_inode *i = (void *)(base + re->inode);

		if (i->magic == OV_INODE_MAGIC)
			i->nlookup = re->count;
		if (re->note % 8 == 0 && re->note < size) /* else it was in the memory of that process */
			*(uint64_t *)(void *)(base + re->note) = re->value;
	}
	__atomic_store_n(&re->inode, 0, __ATOMIC_RELEASE);
}

void ov_inode_raise_locked(struct ov_itable *t, struct ov_inode *i)
{
	uint32_t n = raised.n ? *raised.n : OV_LEDGER_RAISED;

	if (n >= OV_LEDGER_RAISED) {
		i->nlookup++;
		return;
	}
	raised.nodeids[n] = 0;
	__atomic_store_n(raised.n, n + 1, __ATOMIC_RELEASE);
	recount_locked(t, i, i->nlookup + 1, &raised.nodeids[n], i->nodeid);
}

/* The calling thread's note that it has raised the count of NODEID, or NULL. */
static uint64_t *find_raised(uint64_t nodeid)
{
	for (uint32_t n = raised.n ? *raised.n : 0; n > 0; n--)
		if (raised.nodeids[n - 1] == nodeid)
			return &raised.nodeids[n - 1];
	return NULL;
}

static void lower_locked(struct ov_itable *t, struct ov_inode *i, uint64_t n, uint64_t *note, struct ov_inode **dead)
{
	uint64_t count = i->nlookup > n ? i->nlookup - n : 0;

	if (note)
		recount_locked(t, i, count, note, 0);
	else
		i->nlookup = count;
	reap_locked(t, i, dead);
}

void ov_inode_forget_noted(struct ov_itable *t, uint64_t nodeid, uint64_t n, uint64_t *note)
{
	struct ov_inode *dead = NULL;
	struct ov_inode *i;

	pthread_mutex_lock(&t->lock);
	i = find_locked(t, nodeid);
	if (i)
		lower_locked(t, i, n, note, &dead);
	else if (note)
		__atomic_store_n(note, 0, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&t->lock);
	free_dead(t, dead);
}

void ov_inode_forget(struct ov_itable *t, uint64_t nodeid, uint64_t n)
{
	ov_inode_forget_noted(t, nodeid, n, find_raised(nodeid));
	while (raised.n && *raised.n && !raised.nodeids[*raised.n - 1]) /* a listing may take many back */
		--*raised.n;
}

void ov_inode_ref(struct ov_itable *t, struct ov_inode *i)
{
	pthread_mutex_lock(&t->lock);
	i->refs++;
	pthread_mutex_unlock(&t->lock);
}

void ov_inode_unref(struct ov_itable *t, struct ov_inode *i)
{
	struct ov_inode *dead = NULL;

	pthread_mutex_lock(&t->lock);
	i->refs--;
	reap_locked(t, i, &dead);
	pthread_mutex_unlock(&t->lock);
	free_dead(t, dead);
}

int ov_inode_set_ghost(struct ov_itable *t, struct ov_inode *i, unsigned layer, const char *path)
{
	size_t len = strlen(path) + 1;
	struct ov_ghost *g, *old;

	if (sizeof(*g) + len > OV_ARENA_MAX)
		return -ENAMETOOLONG;
	g = ov_arena_alloc(t->arena, sizeof(*g) + len);
	if (!g)
		return -ENOMEM;
	g->layer = layer;
	memcpy(g->path, path, len);
	ov_arena_publish(g, OV_GHOST_MAGIC);
	old = __atomic_exchange_n(&i->ghost, g, __ATOMIC_ACQ_REL);
	if (old)
		ov_arena_free(t->arena, old);
	return 0;
}

void ov_inode_busy_begin(struct ov_itable *t, struct ov_inode *i)
{
	pthread_mutex_lock(&t->lock);
	while (ov_inode_is(i, OV_I_BUSY))
		pthread_cond_wait(&t->busy_done, &t->lock);
	ov_inode_set(i, OV_I_BUSY);
	pthread_mutex_unlock(&t->lock);
}

void ov_inode_busy_end(struct ov_itable *t, struct ov_inode *i)
{
	pthread_mutex_lock(&t->lock);
	ov_inode_unset(i, OV_I_BUSY);
	pthread_cond_broadcast(&t->busy_done);
	pthread_mutex_unlock(&t->lock);
}

const char *ov_inode_rname(const struct ov_inode *i)
{
	if (i->rname)
		return i->rname;
	/* one that was without a name is reached by its fd, also when another name of it was found later */
	return i->names && !ov_inode_is(i, OV_I_UNLINKED) ? i->names->name : NULL;
}

/* ---- going on after another worker ---- */

struct recovery {
	struct ov_itable *t;
	struct ov_inode *inodes;  /* found so far, through id_next */
	struct ov_dentry *names;  /* through hash_next */
};

/* Every object that was complete, before anything points anywhere. */
static bool gather(void *arg, void *object)
{
	struct recovery *rec = arg;

	switch (*(const uint32_t *)object) {
	case OV_INODE_MAGIC: {
		struct ov_inode *i = object;

		i->id_next = rec->inodes;
		rec->inodes = i;
		return true;
	}
	case OV_DENTRY_MAGIC: {
		struct ov_dentry *d = object;

		d->hash_next = rec->names;
		rec->names = d;
		return true;
	}
	case OV_GHOST_MAGIC:
		return true;
	default:
		return false;
	}
}

/* Of I, only what lasts; what does is not touched: this process may die in the middle of it, too. */
static void make_stale(struct ov_itable *t, struct ov_inode *i)
{
	i->ghost = ov_arena_check(t->arena, i->ghost, OV_GHOST_MAGIC);
	i->names = NULL;
	i->rname = NULL;
	i->refs = 0;
	i->searches = 0;
	i->untouched = 0;
	i->unkept = i->touch_level = 0;
	i->key_next = NULL;
	if (ov_inode_isdir(i)) {
		i->rdirs = NULL;
		i->listing = NULL;
		i->listed_at = i->touched_in = 0;
	} else {
		i->rparent = NULL;
		i->slot = NULL;
		i->data = NULL;
	}
	i->nrdirs = 0;
	__atomic_store_n(&i->flags, (uint16_t)((i->flags & OV_I_LASTING) | OV_I_STALE), __ATOMIC_RELEASE);
	insert_locked(t, i);
	if (ov_inode_is(i, OV_I_KEYED))
		ov_inode_set_key_locked(t, i, i->key);
}

/* A name counts if it leads from one inode to another and nothing else has it. */
static void recover_name(struct ov_itable *t, struct ov_dentry *d)
{
	struct ov_inode *parent = ov_arena_check(t->arena, d->parent, OV_INODE_MAGIC);
	struct ov_inode *i = ov_arena_check(t->arena, d->inode, OV_INODE_MAGIC);

	if (!parent || !i || !ov_inode_isdir(parent) || (ov_inode_isdir(i) && i->names) ||
	    ov_dentry_find_locked(t, parent, d->name))
		ov_dentry_free(t, d);
	else
		ov_dentry_insert_locked(t, parent, d, i, false);
}

/* Inodes that nobody refers to: the worker died before it could tell the kernel, or free them. */
static void drop_unused(struct ov_itable *t)
{
	struct ov_inode *dead = NULL;

	for (size_t b = 0; b <= t->id_mask; b++) {
		struct ov_inode *next = t->ids[b];

		while (next) {
			struct ov_inode *i = next;

			next = i->id_next;
			if (i->nlookup == 0 && i->refs == 0 && i->nodeid != OV_ROOT_ID) {
				reap_locked(t, i, &dead);
				next = t->ids[b]; /* it may have taken its parents along */
			}
		}
	}
	free_dead(t, dead);
}

int ov_itable_recover(struct ov_itable *t, struct ov_inode **root)
{
	struct recovery rec = {.t = t};
	int r = ov_arena_recover(t->arena, gather, &rec);

	if (r < 0)
		return r;
	memset(t->ids, 0, (t->id_mask + 1) * sizeof(*t->ids));
	memset(t->keys, 0, (t->key_mask + 1) * sizeof(*t->keys));
	memset(t->dents, 0, (t->dent_mask + 1) * sizeof(*t->dents));
	t->nids = t->nkeys = t->ndents = 0;
	while (rec.inodes) {
		struct ov_inode *i = rec.inodes;

		rec.inodes = i->id_next;
		make_stale(t, i);
	}
	while (rec.names) {
		struct ov_dentry *d = rec.names;

		rec.names = d->hash_next;
		recover_name(t, d);
	}
	drop_unused(t);
	*root = find_locked(t, OV_ROOT_ID);
	return *root ? 0 : -ENOENT;
}

void ov_itable_each_held(struct ov_itable *t, void (*fn)(void *arg, int fd), void *arg)
{
	for (size_t b = 0; b <= t->id_mask; b++)
		for (const struct ov_inode *i = t->ids[b]; i; i = i->id_next)
			if (i->held_fd >= 0)
				fn(arg, i->held_fd);
}

void ov_itable_destroy(struct ov_itable *t)
{
	for (size_t b = 0; t->dents && b <= t->dent_mask; b++) {
		while (t->dents[b]) {
			struct ov_dentry *d = t->dents[b];

			t->dents[b] = d->hash_next;
			ov_dentry_free(t, d);
		}
	}
	for (size_t b = 0; t->ids && b <= t->id_mask; b++) {
		while (t->ids[b]) {
			struct ov_inode *i = t->ids[b];

			t->ids[b] = i->id_next;
			inode_free(t, i);
		}
	}
	free(t->ids);
	free(t->keys);
	free(t->dents);
	pthread_cond_destroy(&t->busy_done);
	pthread_mutex_destroy(&t->lock);
}
