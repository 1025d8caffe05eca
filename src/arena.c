/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "arena.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SLAB_MAGIC 0x4f56534cu /* "OVSL" */
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8U
#endif

#define GROW_SLABS 16          /* the file grows by so many at a time */
#define FIRST_OBJECT 64        /* offset in a slab */

/* At the start of each slab. All but MAGIC, SIZE and FRESH belongs to the process that uses the arena now. */
struct slab {
	uint32_t magic; /* 0: the slab holds nothing */
	uint32_t size;  /* of its objects */
	uint32_t used;  /* objects that are handed out */
	uint32_t fresh; /* offset from which on no place was ever in use; also for whoever takes over */
	uint32_t prev, next; /* slabs of this size with a free place */
	uint32_t listed;
	uint32_t free;  /* offset of the first place that is free again, 0: none */
};

/* A place that is free: its magic is 0. */
struct place {
	uint32_t magic;
	uint32_t next; /* offset, 0: none */
};

static struct slab *slab_at(const struct ov_arena *a, uint32_t n)
{
	return (struct slab *)(void *)(a->base + (size_t)n * OV_ARENA_SLAB);
}

static struct place *place_at(struct slab *s, uint32_t offset)
{
	return (struct place *)(void *)((char *)s + offset);
}

static uint32_t slab_of(const struct ov_arena *a, const void *p)
{
	return (uint32_t)((size_t)((const char *)p - a->base) / OV_ARENA_SLAB);
}

static uint32_t header_slabs(size_t header)
{
	return (uint32_t)((header + OV_ARENA_SLAB - 1) / OV_ARENA_SLAB);
}

/* As much address space as can be had; memory is taken as it is used. */
static int map_region(struct ov_arena *a)
{
	static const unsigned shifts[] = {36, 33, 30, 28, 27};
	int flags = a->fd >= 0 ? MAP_SHARED | MAP_NORESERVE : MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;

	for (size_t n = 0; n < OV_ARRAY_SIZE(shifts); n++) {
		void *p;

		if (shifts[n] >= 8 * sizeof(size_t) - 2)
			continue;
		a->size = (size_t)1 << shifts[n];
		p = mmap(NULL, a->size, PROT_READ | PROT_WRITE, flags, a->fd, 0);
		if (p != MAP_FAILED) {
			a->base = p;
			(void)madvise(p, a->size, MADV_DONTDUMP);
			return 0;
		}
	}
	return -ENOMEM;
}

static void init(struct ov_arena *a)
{
	memset(a, 0, sizeof(*a));
	a->fd = -1;
	pthread_mutex_init(&a->lock, NULL);
}

/* Have the file reach to slab N at least. Touching what lies beyond would be fatal. */
static int back(struct ov_arena *a, uint32_t n)
{
	uint32_t want = n + 1 + GROW_SLABS;

	if (n < a->backed)
		return 0;
	if (((size_t)n + 1) * OV_ARENA_SLAB > a->size)
		return -ENOMEM;
	if ((size_t)want * OV_ARENA_SLAB > a->size)
		want = n + 1;
	if (a->fd >= 0 && ftruncate(a->fd, (off_t)((size_t)want * OV_ARENA_SLAB)) < 0)
		return -errno;
	a->backed = want;
	return 0;
}

int ov_arena_open(struct ov_arena *a, size_t header, bool shared)
{
	int r;

	init(a);
	if (shared) {
		a->fd = memfd_create("fuse-overlay", MFD_CLOEXEC | MFD_NOEXEC_SEAL); /* without it sysctl may forbid one */
		if (a->fd < 0 && errno == EINVAL)
			a->fd = memfd_create("fuse-overlay", MFD_CLOEXEC);
		if (a->fd < 0)
			return -errno;
	}
	r = map_region(a);
	a->first = a->nslabs = header_slabs(header);
	if (r == 0)
		r = back(a, a->nslabs - 1);
	if (r < 0)
		ov_arena_close(a);
	return r;
}

int ov_arena_take_over(struct ov_arena *a, size_t header, int fd)
{
	off_t size = lseek(fd, 0, SEEK_END);
	int r;

	init(a);
	a->fd = fd;
	a->first = a->nslabs = header_slabs(header);
	a->backed = size < 0 ? 0 : (uint32_t)((size_t)size / OV_ARENA_SLAB);
	r = a->backed < a->nslabs ? -EINVAL : map_region(a);
	if (r == 0 && (size_t)a->backed * OV_ARENA_SLAB > a->size)
		r = -ENOMEM;
	if (r < 0)
		ov_arena_close(a);
	return r;
}

void ov_arena_close(struct ov_arena *a)
{
	if (a->base)
		munmap(a->base, a->size);
	if (a->fd >= 0)
		close(a->fd);
	free(a->next_empty);
	a->base = NULL;
	a->next_empty = NULL;
	a->fd = -1;
}

/* ---- lists of slabs; all with the lock held ---- */

static void list_slab(struct ov_arena *a, uint32_t n)
{
	struct slab *s = slab_at(a, n);
	uint32_t *head = &a->usable[s->size / OV_ARENA_STEP];

	s->prev = 0;
	s->next = *head;
	if (*head)
		slab_at(a, *head)->prev = n;
	*head = n;
	s->listed = 1;
}

static void unlist_slab(struct ov_arena *a, uint32_t n)
{
	struct slab *s = slab_at(a, n);

	if (s->next)
		slab_at(a, s->next)->prev = s->prev;
	if (s->prev)
		slab_at(a, s->prev)->next = s->next;
	else
		a->usable[s->size / OV_ARENA_STEP] = s->next;
	s->listed = 0;
}

static int push_empty(struct ov_arena *a, uint32_t n)
{
	if (n >= a->next_room) {
		uint32_t room = a->backed + GROW_SLABS > n ? a->backed + GROW_SLABS : n + 1;
		uint32_t *grown = realloc(a->next_empty, (size_t)room * sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		a->next_empty = grown;
		a->next_room = room;
	}
	a->next_empty[n] = a->empty;
	a->empty = n;
	return 0;
}

/* A slab that holds nothing gives its memory back. */
static void empty_slab(struct ov_arena *a, uint32_t n)
{
	struct slab *s = slab_at(a, n);

	if (s->listed)
		unlist_slab(a, n);
	s->magic = 0;
	(void)madvise(s, OV_ARENA_SLAB, a->fd >= 0 ? MADV_REMOVE : MADV_DONTNEED);
	(void)push_empty(a, n); /* without memory for the list the slab is not used again */
}

/* A fresh slab for objects of SIZE; 0: no memory. */
static uint32_t new_slab(struct ov_arena *a, uint32_t size)
{
	uint32_t n = a->empty;
	struct slab *s;

	if (n) {
		a->empty = a->next_empty[n];
	} else {
		n = a->nslabs;
		if (back(a, n) < 0)
			return 0;
		a->nslabs++;
	}
	s = slab_at(a, n);
	*s = (struct slab){.size = size, .fresh = FIRST_OBJECT};
	__atomic_store_n(&s->magic, SLAB_MAGIC, __ATOMIC_RELEASE);
	list_slab(a, n);
	return n;
}

static bool has_fresh(const struct slab *s)
{
	return s->fresh + s->size <= OV_ARENA_SLAB;
}

/* A place of S, which has one. What was never used stays untouched: it takes no memory. */
static struct place *take_place(struct slab *s)
{
	struct place *p;

	s->used++;
	if (!s->free) {
		p = place_at(s, s->fresh);
		__atomic_store_n(&s->fresh, s->fresh + s->size, __ATOMIC_RELEASE);
		return p;
	}
	p = place_at(s, s->free);
	s->free = p->next;
	return p;
}

void *ov_arena_alloc(struct ov_arena *a, size_t size)
{
	uint32_t rounded = (uint32_t)((size + OV_ARENA_STEP - 1) / OV_ARENA_STEP * OV_ARENA_STEP);
	struct place *p = NULL;
	struct slab *s;
	uint32_t n;

	if (size > OV_ARENA_MAX)
		return NULL;
	pthread_mutex_lock(&a->lock);
	n = a->usable[rounded / OV_ARENA_STEP];
	if (!n)
		n = new_slab(a, rounded);
	if (n) {
		s = slab_at(a, n);
		p = take_place(s);
		if (!s->free && !has_fresh(s))
			unlist_slab(a, n);
	}
	pthread_mutex_unlock(&a->lock);
	if (p)
		memset(p, 0, rounded);
	return p;
}

void ov_arena_free(struct ov_arena *a, void *object)
{
	uint32_t n = slab_of(a, object);
	struct slab *s = slab_at(a, n);
	struct place *p = object;

	__atomic_store_n(&p->magic, 0, __ATOMIC_RELEASE);
	pthread_mutex_lock(&a->lock);
	p->next = s->free;
	s->free = (uint32_t)((char *)p - (char *)s);
	s->used--;
	if (!s->listed)
		list_slab(a, n);
	if (s->used == 0 && (s->next || s->prev)) /* one of each size is kept */
		empty_slab(a, n);
	pthread_mutex_unlock(&a->lock);
}

/* ---- taking over ---- */

void *ov_arena_check(const struct ov_arena *a, const void *pointer, uint32_t magic)
{
	uintptr_t at = (uintptr_t)pointer + (uintptr_t)a->moved - (uintptr_t)a->base;
	struct slab *s;
	uint32_t offset;

	if (at >= (size_t)a->nslabs * OV_ARENA_SLAB)
		return NULL;
	s = slab_at(a, (uint32_t)(at / OV_ARENA_SLAB));
	offset = (uint32_t)(at % OV_ARENA_SLAB);
	if (s->magic != SLAB_MAGIC || offset < FIRST_OBJECT || (offset - FIRST_OBJECT) % s->size ||
	    offset + s->size > s->fresh || place_at(s, offset)->magic != magic)
		return NULL;
	return place_at(s, offset);
}

static void recover_slab(struct ov_arena *a, uint32_t n, bool (*keep)(void *arg, void *object), void *arg)
{
	struct slab *s = slab_at(a, n);

	s->used = s->free = 0;
	for (uint32_t offset = FIRST_OBJECT; offset + s->size <= s->fresh; offset += s->size) {
		struct place *p = place_at(s, offset);

		if (p->magic && keep(arg, p)) {
			s->used++;
			continue;
		}
		*p = (struct place){.next = s->free};
		s->free = offset;
	}
	if (s->used == 0)
		empty_slab(a, n);
	else if (s->free || has_fresh(s))
		list_slab(a, n);
}

static bool is_sound(const struct slab *s)
{
	return s->magic == SLAB_MAGIC && s->size && s->size <= OV_ARENA_MAX && s->size % OV_ARENA_STEP == 0 &&
	       s->fresh >= FIRST_OBJECT && s->fresh <= OV_ARENA_SLAB && (s->fresh - FIRST_OBJECT) % s->size == 0;
}

int ov_arena_recover(struct ov_arena *a, bool (*keep)(void *arg, void *object), void *arg)
{
	if (a->fd >= 0) {
		off_t size = lseek(a->fd, 0, SEEK_END);

		if (size < 0)
			return -errno;
		a->backed = (uint32_t)((size_t)size / OV_ARENA_SLAB);
	}
	memset(a->usable, 0, sizeof(a->usable));
	a->empty = 0;
	a->nslabs = a->first;
	for (uint32_t n = a->first; n < a->backed; n++)
		if (slab_at(a, n)->magic == SLAB_MAGIC)
			a->nslabs = n + 1;
	for (uint32_t n = a->first; n < a->nslabs; n++) {
		slab_at(a, n)->listed = 0;
		if (is_sound(slab_at(a, n)))
			recover_slab(a, n, keep, arg);
		else
			empty_slab(a, n);
	}
	return 0;
}

size_t ov_arena_used(struct ov_arena *a)
{
	size_t used = 0;

	pthread_mutex_lock(&a->lock);
	used = a->nslabs;
	for (uint32_t n = a->empty; n; n = a->next_empty[n])
		used--;
	pthread_mutex_unlock(&a->lock);
	return used * OV_ARENA_SLAB;
}
