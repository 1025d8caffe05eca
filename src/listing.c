/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "listing.h"

#include <string.h>
#include <xxhash.h>

uint64_t ov_listing_cookie(const char *name)
{
	uint64_t h = XXH3_64bits(name, strlen(name)) & 0x7fffffffffffffffULL; /* telldir() values are positive */

	return h <= OV_COOKIE_DOTDOT ? h + OV_COOKIE_DOTDOT + 1 : h;
}

struct ov_listing *ov_listing_new(void)
{
	struct ov_listing *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	if (pthread_mutex_init(&l->lock, NULL)) {
		free(l);
		return NULL;
	}
	l->refs = 1;
	return l;
}

struct ov_listing *ov_listing_ref(struct ov_listing *l)
{
	__atomic_add_fetch(&l->refs, 1, __ATOMIC_RELAXED);
	return l;
}

void ov_listing_unref(struct ov_listing *l)
{
	if (!l || __atomic_sub_fetch(&l->refs, 1, __ATOMIC_ACQ_REL))
		return;
	pthread_mutex_destroy(&l->lock);
	free(l->e);
	free(l->late);
	free(l->names);
	free(l->table);
	free(l);
}

/* Make or double the table; it is at most half full then. */
static int table_grow(struct ov_listing *l)
{
	size_t size = 64;
	uint32_t *table;

	while (size < 4 * (l->n + 1))
		size *= 2;
	table = calloc(size, sizeof(*table));
	if (!table)
		return -ENOMEM;
	for (size_t n = 0; n < l->n; n++) {
		size_t h = l->e[n].cookie & (size - 1);

		while (table[h])
			h = (h + 1) & (size - 1);
		table[h] = (uint32_t)n + 1;
	}
	free(l->table);
	l->table = table;
	l->table_mask = size - 1;
	return 0;
}

/* Give *ARRAY room for ROOM entries. */
static int make_room(struct ov_lname **array, size_t *have, size_t room)
{
	struct ov_lname *e;

	if (room <= *have)
		return 0;
	e = realloc(*array, room * sizeof(*e));
	if (!e)
		return -ENOMEM;
	*array = e;
	*have = room;
	return 0;
}

/* Keep a copy of NAME; its offset, or -ENOMEM. MORE: how many bytes to ask for beyond it when there is no room. */
static int64_t add_name(struct ov_listing *l, const char *name, size_t more)
{
	size_t len = strlen(name) + 1, at = l->names_len;

	if (at + len > l->names_room) {
		size_t room = at + len + more;
		char *names = room > UINT32_MAX ? NULL : realloc(l->names, room);

		if (!names)
			return -ENOMEM;
		l->names = names;
		l->names_room = room;
	}
	memcpy(l->names + at, name, len);
	l->names_len += len;
	return (int64_t)at;
}

static int append(struct ov_listing *l, const char *name, uint64_t cookie, unsigned type, bool gone, unsigned height)
{
	int64_t at;
	int r = 0;

	if (l->n == l->room)
		r = make_room(&l->e, &l->room, l->room ? l->room * 2 : 32);
	if (r < 0)
		return r;
	at = add_name(l, name, l->names_len + 256);
	if (at < 0)
		return (int)at;
	l->e[l->n++] = (struct ov_lname){
		.cookie = cookie,
		.name = (uint32_t)at,
		.type = (uint8_t)type,
		.gone = gone,
		.height = (uint16_t)height,
	};
	return 0;
}

int ov_listing_put(struct ov_listing *l, const char *name, unsigned type, bool hidden, unsigned height)
{
	uint64_t cookie = ov_listing_cookie(name);
	size_t h;
	int r;

	if (l->n == 0)
		l->first_height = height;
	/* names of one directory differ: nothing to compare with */
	if (!l->table && !hidden && height == l->first_height)
		return append(l, name, cookie, type, false, height);
	if (!l->table || l->n * 2 > l->table_mask) {
		r = table_grow(l);
		if (r < 0)
			return r;
	}
	for (h = cookie & l->table_mask; l->table[h]; h = (h + 1) & l->table_mask) {
		const struct ov_lname *e = &l->e[l->table[h] - 1];

		if (e->cookie == cookie && strcmp(l->names + e->name, name) == 0)
			return 0;
	}
	r = append(l, name, cookie, type, hidden, height);
	if (r == 0)
		l->table[h] = (uint32_t)l->n;
	return r;
}

/* Of one name the first that was put comes first. */
static int compare(const void *a, const void *b, void *names)
{
	const struct ov_lname *x = a, *y = b;
	int r;

	if (x->cookie != y->cookie)
		return x->cookie < y->cookie ? -1 : 1;
	r = strcmp((char *)names + x->name, (char *)names + y->name);
	return r ? r : (x->name > y->name) - (x->name < y->name);
}

#define SORT_BUCKETS 256
#define SORT_SHIFT 55 /* cookies have 63 bits */

/*
 * Order N entries. qsort_r() copies what it sorts; of many, only one part in 256 at a time: cookies are hashes, so their
 * highest bits part them evenly, and that is done in place.
 */
static void sort(struct ov_lname *e, size_t n, char *names)
{
	size_t next[SORT_BUCKETS], end[SORT_BUCKETS] = {0}, at = 0;

	if (n < 16 * SORT_BUCKETS) {
		if (n)
			qsort_r(e, n, sizeof(*e), compare, names);
		return;
	}
	for (size_t k = 0; k < n; k++)
		end[e[k].cookie >> SORT_SHIFT]++;
	for (unsigned b = 0; b < SORT_BUCKETS; b++) {
		next[b] = at;
		at += end[b];
		end[b] = at;
	}
	for (unsigned b = 0; b < SORT_BUCKETS; b++) {
		while (next[b] < end[b]) {
			struct ov_lname *x = &e[next[b]], moved = *x;
			unsigned to = (unsigned)(moved.cookie >> SORT_SHIFT);

			if (to != b) { /* to where it belongs, and look at what was there */
				*x = e[next[to]];
				e[next[to]] = moved;
			}
			next[to]++;
		}
	}
	for (unsigned b = 0; b < SORT_BUCKETS; b++) {
		size_t from = b ? end[b - 1] : 0;

		if (end[b] > from)
			qsort_r(e + from, end[b] - from, sizeof(*e), compare, names);
	}
}

/* Give back what is not used. */
static void shrink(struct ov_listing *l)
{
	struct ov_lname *e = l->n ? realloc(l->e, l->n * sizeof(*e)) : NULL;
	char *names = l->names_len ? realloc(l->names, l->names_len) : NULL;

	if (e) {
		l->e = e;
		l->room = l->n;
	}
	if (names) {
		l->names = names;
		l->names_room = l->names_len;
	}
}

int ov_listing_seal(struct ov_listing *l)
{
	size_t kept = 0;

	free(l->table);
	l->table = NULL;
	for (size_t n = 0; n < l->n; n++)
		if (!l->e[n].gone)
			l->e[kept++] = l->e[n];
	l->n = kept;
	sort(l->e, kept, l->names);
	kept = 0;
	for (size_t n = 0; n < l->n; n++)
		if (n == 0 || l->e[n].cookie != l->e[kept - 1].cookie ||
		    strcmp(l->names + l->e[n].name, l->names + l->e[kept - 1].name) != 0)
			l->e[kept++] = l->e[n];
	l->n = kept;
	for (size_t n = 1; n < kept; n++) /* two names of one hash: the same step on every build */
		if (l->e[n].cookie <= l->e[n - 1].cookie)
			l->e[n].cookie = l->e[n - 1].cookie + 1;
	shrink(l);
	return 0;
}

int ov_listing_settle(struct ov_listing *l)
{
	size_t a = l->n, b = l->nlate, to = a + b;
	int r = b ? make_room(&l->e, &l->room, to + to / 16) : 0;

	if (r < 0)
		return r;
	while (b > 0) /* from the end, so that nothing is overwritten that is still to be moved */
		l->e[--to] = a > 0 && l->e[a - 1].cookie > l->late[b - 1].cookie ? l->e[--a] : l->late[--b];
	l->n += l->nlate;
	l->nlate = 0;
	return 0;
}

/*
 * Drop what is gone when that is a large part. One whose cookie is followed by the next one stays: the name there may have been
 * put aside by it, and is looked for from here. Without memory all stays as it is.
 */
static void drop_gone(struct ov_listing *l)
{
	size_t kept = 0, len = 0;
	char *names;

	if (l->ngone < 32 + l->n / 2 || ov_listing_settle(l) < 0)
		return;
	names = malloc(l->names_len);
	if (!names)
		return;
	for (size_t n = 0; n < l->n; n++) {
		struct ov_lname e = l->e[n];
		size_t size = strlen(l->names + e.name) + 1;

		if (e.gone && (n + 1 == l->n || l->e[n + 1].cookie != e.cookie + 1)) {
			l->ngone--;
			continue;
		}
		memcpy(names + len, l->names + e.name, size);
		e.name = (uint32_t)len;
		len += size;
		l->e[kept++] = e;
	}
	free(l->names);
	l->names = names;
	l->names_room = l->names_len;
	l->names_len = len;
	l->n = kept;
	shrink(l);
}

/* First index in the N entries of E with a cookie above OFF. */
static size_t above(const struct ov_lname *e, size_t n, uint64_t off)
{
	size_t lo = 0, hi = n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (e[mid].cookie <= off)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

size_t ov_listing_after(const struct ov_listing *l, uint64_t off)
{
	return above(l->e, l->n, off);
}

/* The entry of E with that cookie, or NULL; *AT is where it is or belongs. */
static struct ov_lname *with_cookie(struct ov_lname *e, size_t n, uint64_t cookie, size_t *at)
{
	*at = above(e, n, cookie - 1);
	return *at < n && e[*at].cookie == cookie ? &e[*at] : NULL;
}

/* The entry of NAME; or NULL, with the cookie that it gets and where it belongs among the late ones. Lock held. */
static struct ov_lname *locate(struct ov_listing *l, const char *name, uint64_t *cookie, size_t *late_at)
{
	for (*cookie = ov_listing_cookie(name);; ++*cookie) {
		size_t at;
		struct ov_lname *late = with_cookie(l->late, l->nlate, *cookie, late_at);
		struct ov_lname *e = late ? late : with_cookie(l->e, l->n, *cookie, &at);

		if (!e)
			return NULL;
		if (strcmp(l->names + e->name, name) == 0)
			return e;
	}
}

/* So many may wait until they are brought in. */
static size_t late_max(const struct ov_listing *l)
{
	size_t max = 16 + l->n / 256;

	return max < 4096 ? max : 4096;
}

static int insert_late(struct ov_listing *l, const char *name, uint64_t cookie, unsigned type, size_t at)
{
	int64_t offset;
	int r = 0;

	if (l->nlate == l->late_room)
		r = make_room(&l->late, &l->late_room, l->late_room * 2 + 8);
	if (r < 0)
		return r;
	offset = add_name(l, name, l->names_len / 16 + 256);
	if (offset < 0)
		return (int)offset;
	memmove(&l->late[at + 1], &l->late[at], (l->nlate - at) * sizeof(*l->late));
	l->late[at] = (struct ov_lname){.cookie = cookie, .name = (uint32_t)offset, .type = (uint8_t)type};
	if (++l->nlate < late_max(l))
		return 0;
	r = ov_listing_settle(l);
	if (r == 0)
		drop_gone(l);
	return r;
}

int ov_listing_insert(struct ov_listing *l, const char *name, unsigned type, size_t *size)
{
	struct ov_lname *e;
	uint64_t cookie;
	size_t at;
	int r = 0;

	pthread_mutex_lock(&l->lock);
	e = locate(l, name, &cookie, &at);
	if (e) {
		l->ngone -= e->gone;
		e->gone = false;
		e->type = (uint8_t)type;
		e->height = 0;
	} else {
		r = insert_late(l, name, cookie, type, at);
	}
	*size = ov_listing_size(l);
	pthread_mutex_unlock(&l->lock);
	return r;
}

void ov_listing_remove(struct ov_listing *l, const char *name)
{
	struct ov_lname *e;
	uint64_t cookie;
	size_t at;

	pthread_mutex_lock(&l->lock);
	e = locate(l, name, &cookie, &at);
	if (e && !e->gone) {
		e->gone = true;
		l->ngone++;
		drop_gone(l);
	}
	pthread_mutex_unlock(&l->lock);
}

bool ov_listing_find(struct ov_listing *l, const char *name, unsigned *height)
{
	const struct ov_lname *e;
	uint64_t cookie;
	bool found;
	size_t at;

	pthread_mutex_lock(&l->lock);
	e = locate(l, name, &cookie, &at);
	found = e && !e->gone;
	if (e)
		*height = e->height;
	pthread_mutex_unlock(&l->lock);
	return found;
}

size_t ov_listing_size(const struct ov_listing *l)
{
	return sizeof(*l) + (l->room + l->late_room) * sizeof(*l->e) + l->names_room;
}
