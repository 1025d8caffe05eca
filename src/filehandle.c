/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "filehandle.h"

#include <sys/stat.h>

int ov_fdcache_init(struct ov_fdcache *c, unsigned limit)
{
	int r = pthread_mutex_init(&c->lock, NULL);

	c->lru.prev = c->lru.next = &c->lru;
	c->lru.fd = -1;
	c->count = 0;
	c->limit = limit;
	c->evictions = 0;
	return -r;
}

void ov_fdcache_destroy(struct ov_fdcache *c)
{
	pthread_mutex_destroy(&c->lock);
}

unsigned ov_fdcache_count(struct ov_fdcache *c)
{
	unsigned n;

	pthread_mutex_lock(&c->lock);
	n = c->count;
	pthread_mutex_unlock(&c->lock);
	return n;
}

static void lru_unlink(struct ov_fdslot *s)
{
	if (!s->next)
		return;
	s->prev->next = s->next;
	s->next->prev = s->prev;
	s->prev = s->next = NULL;
}

static void lru_front(struct ov_fdcache *c, struct ov_fdslot *s)
{
	if (c->lru.next == s && !s->held)
		return;
	lru_unlink(s);
	if (s->held)
		return; /* what must not be evicted is not looked at either: there may be many */
	s->prev = &c->lru;
	s->next = c->lru.next;
	s->next->prev = s;
	c->lru.next = s;
}

/* S is held, or not, and says so where it is noted. Lock held. */
static void set_held(struct ov_fdslot *s, int32_t *note)
{
	if (s->note && s->note != note)
		__atomic_store_n(s->note, -1, __ATOMIC_RELEASE);
	s->held = note != NULL;
	s->note = note;
	if (note)
		__atomic_store_n(note, s->fd, __ATOMIC_RELEASE);
}

/* Lock held. */
static void settle_mtime(struct ov_fdslot *s)
{
	struct ov_fdtimes *t = ov_fdslot_times(s);
	const struct timespec ts[2] = {{.tv_nsec = UTIME_OMIT}, t->mtime};

	if (t->owed)
		(void)futimens(s->fd, ts); /* best effort: the data counts */
	t->owed = false;
}

/* Close the slot's fd and, if it stands alone, free it. Lock held, no pins. */
static void slot_release(struct ov_fdcache *c, struct ov_fdslot *s)
{
	lru_unlink(s);
	if (s->fd >= 0 && s->heap)
		settle_mtime(s);
	set_held(s, NULL);
	if (s->fd >= 0) {
		close(s->fd);
		s->fd = -1;
		c->count--;
	}
	if (!s->heap)
		return;
	if (s->owner && *s->owner == s)
		*s->owner = NULL;
	free(s);
}

/* Close the least recently used ones until COUNT is at most LIMIT. Pinned and held ones stay. Lock held. */
static void evict(struct ov_fdcache *c, unsigned limit)
{
	struct ov_fdslot *s = c->lru.prev;

	while (c->count > limit && s != &c->lru) {
		struct ov_fdslot *prev = s->prev;

		if (s->held) {
			lru_unlink(s);
		} else if (!s->pins) {
			slot_release(c, s);
			c->evictions++;
		}
		s = prev;
	}
}

int ov_fdslot_pin(struct ov_fdcache *c, struct ov_fdslot *slot, bool writable)
{
	int fd = -1;

	pthread_mutex_lock(&c->lock);
	if (slot->fd >= 0 && (!writable || slot->writable)) {
		slot->pins++;
		lru_front(c, slot);
		fd = slot->fd;
	}
	pthread_mutex_unlock(&c->lock);
	return fd;
}

void ov_fdslot_unpin(struct ov_fdcache *c, struct ov_fdslot *slot)
{
	pthread_mutex_lock(&c->lock);
	if (--slot->pins == 0 && slot->dead)
		slot_release(c, slot);
	pthread_mutex_unlock(&c->lock);
}

int ov_fdslot_install(struct ov_fdcache *c, struct ov_fdslot *slot, int fd)
{
	pthread_mutex_lock(&c->lock);
	if (slot->fd >= 0) {
		close(fd);
	} else {
		slot->fd = fd;
		c->count++;
	}
	slot->pins++;
	lru_front(c, slot);
	fd = slot->fd;
	if (c->count > c->limit)
		evict(c, c->limit);
	pthread_mutex_unlock(&c->lock);
	return fd;
}

void ov_fdslot_close(struct ov_fdcache *c, struct ov_fdslot *slot)
{
	pthread_mutex_lock(&c->lock);
	slot_release(c, slot);
	pthread_mutex_unlock(&c->lock);
}

struct ov_fdslot *ov_fdslot_get(struct ov_fdcache *c, struct ov_fdslot **owner, bool writable)
{
	struct ov_fdslot *s;

	pthread_mutex_lock(&c->lock);
	s = *owner;
	if (s && (!writable || s->writable)) {
		s->pins++;
		lru_front(c, s);
	} else {
		s = NULL;
	}
	pthread_mutex_unlock(&c->lock);
	return s;
}

/* Detach what *OWNER points to. Lock held. */
static void detach(struct ov_fdcache *c, struct ov_fdslot **owner)
{
	struct ov_fdslot *s = *owner;

	if (!s)
		return;
	*owner = NULL;
	set_held(s, NULL); /* the owner may go before the last pin does */
	s->owner = NULL;
	s->dead = true;
	if (!s->pins)
		slot_release(c, s);
}

struct ov_fdslot *ov_fdslot_put(struct ov_fdcache *c, struct ov_fdslot **owner, int fd, unsigned flags)
{
	struct ov_fdslot *s = calloc(1, sizeof(*s) + sizeof(struct ov_fdtimes));

	if (!s) {
		close(fd);
		return NULL;
	}
	s->fd = fd;
	s->pins = 1;
	s->writable = flags & OV_SLOT_WRITABLE;
	s->append = flags & OV_SLOT_APPEND;
	s->page_cached = flags & OV_SLOT_PAGE_CACHED;
	s->heap = true;
	s->owner = owner;
	pthread_mutex_lock(&c->lock);
	if (*owner && (*owner)->held) { /* the new fd is the only way now */
		int32_t *note = (*owner)->note;

		(*owner)->note = NULL;
		set_held(s, note);
	}
	detach(c, owner);
	*owner = s;
	c->count++;
	lru_front(c, s);
	if (c->count > c->limit)
		evict(c, c->limit);
	pthread_mutex_unlock(&c->lock);
	return s;
}

void ov_fdslot_drop(struct ov_fdcache *c, struct ov_fdslot **owner)
{
	pthread_mutex_lock(&c->lock);
	detach(c, owner);
	pthread_mutex_unlock(&c->lock);
}

bool ov_fdslot_hold(struct ov_fdcache *c, struct ov_fdslot **owner, int32_t *note)
{
	bool ok;

	pthread_mutex_lock(&c->lock);
	ok = *owner != NULL;
	if (ok) {
		set_held(*owner, note);
		lru_front(c, *owner);
	}
	pthread_mutex_unlock(&c->lock);
	return ok;
}

void ov_fdslot_release(struct ov_fdcache *c, struct ov_fdslot **owner)
{
	pthread_mutex_lock(&c->lock);
	if (*owner) {
		set_held(*owner, NULL);
		lru_front(c, *owner);
	}
	pthread_mutex_unlock(&c->lock);
}

void ov_fdslot_hold_embedded(struct ov_fdcache *c, struct ov_fdslot *slot, int32_t *note)
{
	pthread_mutex_lock(&c->lock);
	set_held(slot, note);
	lru_front(c, slot);
	pthread_mutex_unlock(&c->lock);
}

void ov_fdslot_unnote(struct ov_fdcache *c, struct ov_fdslot *slot)
{
	pthread_mutex_lock(&c->lock);
	slot->note = NULL;
	pthread_mutex_unlock(&c->lock);
}

void ov_fdslot_learn_mtime(struct ov_fdcache *c, struct ov_fdslot *slot, const struct timespec *mtime)
{
	struct ov_fdtimes *t = ov_fdslot_times(slot);

	pthread_mutex_lock(&c->lock);
	t->known = mtime != NULL;
	t->owed = false;
	if (mtime)
		t->mtime = *mtime;
	pthread_mutex_unlock(&c->lock);
}

bool ov_fdslot_owe_mtime(struct ov_fdcache *c, struct ov_fdslot *slot)
{
	struct ov_fdtimes *t = ov_fdslot_times(slot);
	bool known;

	pthread_mutex_lock(&c->lock);
	known = t->known;
	t->owed = known;
	pthread_mutex_unlock(&c->lock);
	return known;
}

bool ov_fdslot_owed_mtime(struct ov_fdcache *c, struct ov_fdslot **owner, struct timespec *mtime)
{
	bool owed;

	pthread_mutex_lock(&c->lock);
	owed = *owner && ov_fdslot_times(*owner)->owed;
	if (owed)
		*mtime = ov_fdslot_times(*owner)->mtime;
	pthread_mutex_unlock(&c->lock);
	return owed;
}

void ov_fdslot_settle_mtime(struct ov_fdcache *c, struct ov_fdslot *slot)
{
	pthread_mutex_lock(&c->lock);
	settle_mtime(slot);
	pthread_mutex_unlock(&c->lock);
}

void ov_fdcache_settle_mtimes(struct ov_fdcache *c)
{
	pthread_mutex_lock(&c->lock);
	for (struct ov_fdslot *s = c->lru.next; s && s != &c->lru; s = s->next)
		if (s->heap)
			settle_mtime(s);
	pthread_mutex_unlock(&c->lock);
}

void ov_fdcache_trim(struct ov_fdcache *c)
{
	pthread_mutex_lock(&c->lock);
	evict(c, 0);
	pthread_mutex_unlock(&c->lock);
}
