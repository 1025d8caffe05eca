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
	free(l->names);
	free(l->table);
	free(l);
}

static int table_grow(struct ov_listing *l)
{
	size_t size = l->table ? (l->table_mask + 1) * 2 : 64;
	size_t *table = calloc(size, sizeof(*table));

	if (!table)
		return -ENOMEM;
	for (size_t n = 0; n < l->n; n++) {
		size_t h = l->e[n].cookie & (size - 1);

		while (table[h])
			h = (h + 1) & (size - 1);
		table[h] = n + 1;
	}
	free(l->table);
	l->table = table;
	l->table_mask = size - 1;
	return 0;
}

static int append(struct ov_listing *l, const char *name, uint64_t cookie, unsigned type, bool gone, unsigned height)
{
	size_t len = strlen(name) + 1;

	if (l->n == l->room) {
		size_t room = l->room ? l->room * 2 : 32;
		struct ov_lname *e = realloc(l->e, room * sizeof(*e));

		if (!e)
			return -ENOMEM;
		l->e = e;
		l->room = room;
	}
	if (l->names_len + len > l->names_room) {
		size_t room = (l->names_len + len) * 2;
		char *names = room > UINT32_MAX ? NULL : realloc(l->names, room);

		if (!names)
			return -ENOMEM;
		l->names = names;
		l->names_room = room;
	}
	memcpy(l->names + l->names_len, name, len);
	l->e[l->n++] = (struct ov_lname){
		.cookie = cookie,
		.name = (uint32_t)l->names_len,
		.type = (uint8_t)type,
		.gone = gone,
		.height = (uint16_t)height,
	};
	l->names_len += len;
	return 0;
}

int ov_listing_put(struct ov_listing *l, const char *name, unsigned type, bool hidden, unsigned height)
{
	uint64_t cookie = ov_listing_cookie(name);
	size_t h;
	int r;

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
		l->table[h] = l->n;
	return r;
}

static int compare(const void *a, const void *b, void *names)
{
	const struct ov_lname *x = a, *y = b;

	if (x->cookie != y->cookie)
		return x->cookie < y->cookie ? -1 : 1;
	return strcmp((char *)names + x->name, (char *)names + y->name);
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
	if (kept)
		qsort_r(l->e, kept, sizeof(*l->e), compare, l->names);
	for (size_t n = 1; n < kept; n++) /* two names of one hash: the same step on every build */
		if (l->e[n].cookie <= l->e[n - 1].cookie)
			l->e[n].cookie = l->e[n - 1].cookie + 1;
	return 0;
}

size_t ov_listing_after(const struct ov_listing *l, uint64_t off)
{
	size_t lo = 0, hi = l->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (l->e[mid].cookie <= off)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* Index of NAME, or where it belongs with *FOUND false. Lock held. */
static size_t locate(const struct ov_listing *l, const char *name, uint64_t *cookie, bool *found)
{
	size_t n = ov_listing_after(l, *cookie - 1);

	*found = false;
	for (; n < l->n && l->e[n].cookie == *cookie; n++, ++*cookie) {
		if (strcmp(l->names + l->e[n].name, name) == 0) {
			*found = true;
			break;
		}
	}
	return n;
}

int ov_listing_insert(struct ov_listing *l, const char *name, unsigned type, size_t *size)
{
	uint64_t cookie = ov_listing_cookie(name);
	struct ov_lname added;
	bool found;
	size_t at;
	int r = 0;

	pthread_mutex_lock(&l->lock);
	at = locate(l, name, &cookie, &found);
	if (found) {
		l->e[at].gone = false;
		l->e[at].type = (uint8_t)type;
		l->e[at].height = 0;
	} else {
		r = append(l, name, cookie, type, false, 0);
		if (r == 0) {
			added = l->e[l->n - 1];
			memmove(&l->e[at + 1], &l->e[at], (l->n - 1 - at) * sizeof(*l->e));
			l->e[at] = added;
		}
	}
	*size = ov_listing_size(l);
	pthread_mutex_unlock(&l->lock);
	return r;
}

void ov_listing_remove(struct ov_listing *l, const char *name)
{
	uint64_t cookie = ov_listing_cookie(name);
	bool found;
	size_t at;

	pthread_mutex_lock(&l->lock);
	at = locate(l, name, &cookie, &found);
	if (found)
		l->e[at].gone = true;
	pthread_mutex_unlock(&l->lock);
}

bool ov_listing_find(struct ov_listing *l, const char *name, unsigned *height)
{
	uint64_t cookie = ov_listing_cookie(name);
	bool found;
	size_t at;

	pthread_mutex_lock(&l->lock);
	at = locate(l, name, &cookie, &found);
	if (found) {
		found = !l->e[at].gone;
		*height = l->e[at].height;
	}
	pthread_mutex_unlock(&l->lock);
	return found;
}

size_t ov_listing_size(const struct ov_listing *l)
{
	return sizeof(*l) + l->room * sizeof(*l->e) + l->names_room;
}
