/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "dirhandle.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "sys/at.h"

#define RDIR_CHAIN 64 /* evicted ancestors reopened in one go; deeper ones take another round */

struct ov_rdir *ov_rdir_new(struct ov_rdir *parent, struct ov_layer *layer, const char *name)
{
	struct ov_rdir *d = calloc(1, sizeof(*d));

	if (!d)
		return NULL;
	d->slot.fd = -1;
	d->refs = 1;
	d->layer = layer;
	if (name) {
		d->name = strdup(name);
		if (!d->name) {
			free(d);
			return NULL;
		}
	}
	d->parent = parent ? ov_rdir_ref(parent) : NULL;
	return d;
}

struct ov_rdir *ov_rdir_ref(struct ov_rdir *d)
{
	__atomic_add_fetch(&d->refs, 1, __ATOMIC_RELAXED);
	return d;
}

void ov_rdir_unref(struct ov_fdcache *c, struct ov_rdir *d)
{
	while (d && __atomic_sub_fetch(&d->refs, 1, __ATOMIC_ACQ_REL) == 0) {
		struct ov_rdir *parent = d->parent;

		ov_fdslot_close(c, &d->slot);
		free(d->name);
		free(d);
		d = parent; /* a loop, not recursion: trees may be deep */
	}
}

/* Open NAME below PARENT_FD for reading; a directory that may only be searched gets an O_PATH fd. */
static int open_child(const struct ov_rdir *d, int parent_fd)
{
	struct ov_at at = ov_at_name(parent_fd, d->name);
	int flags = O_RDONLY | O_DIRECTORY;
	int fd = -1;

	if (!d->layer->noatime_ok)
		fd = ov_at_open(at, flags | O_NOATIME, 0);
	if (fd < 0)
		fd = ov_at_open(at, flags, 0);
	if (fd == -EACCES)
		fd = ov_at_open(at, O_PATH | O_DIRECTORY, 0);
	return fd;
}

static int reopen(struct ov_fdcache *c, struct ov_rdir *d)
{
	struct ov_rdir *chain[RDIR_CHAIN];
	struct ov_rdir *base = d;
	size_t n = 0;
	int fd = -1;

	/* up to the nearest ancestor that is open (the layer's root always is) */
	for (;;) {
		if (!base->parent) {
			fd = base->layer->root_fd;
			break;
		}
		fd = ov_fdslot_pin(c, &base->slot, false);
		if (fd >= 0)
			break;
		if (n == RDIR_CHAIN) {
			fd = ov_rdir_get_fd(c, base); /* recursion only every RDIR_CHAIN levels */
			if (fd < 0)
				return fd;
			break;
		}
		chain[n++] = base;
		base = base->parent;
	}
	while (n > 0) {
		struct ov_rdir *child = chain[--n];
		int cfd = open_child(child, fd);

		if (cfd == -EMFILE || cfd == -ENFILE) {
			ov_fdcache_trim(c);
			cfd = open_child(child, fd);
		}
		if (base->parent)
			ov_fdslot_unpin(c, &base->slot);
		if (cfd < 0)
			return cfd;
		fd = ov_fdslot_install(c, &child->slot, cfd);
		base = child;
	}
	return fd;
}

int ov_rdir_get_fd(struct ov_fdcache *c, struct ov_rdir *d)
{
	int fd;

	if (!d->parent && !d->name)
		return d->layer->root_fd;
	fd = ov_fdslot_pin(c, &d->slot, false);
	return fd >= 0 ? fd : reopen(c, d);
}

void ov_rdir_put_fd(struct ov_fdcache *c, struct ov_rdir *d)
{
	if (d->parent || d->name)
		ov_fdslot_unpin(c, &d->slot);
}

void ov_rdir_move(struct ov_fdcache *c, struct ov_rdir *d, struct ov_rdir *parent, char *name)
{
	free(d->name);
	d->name = name;
	if (parent != d->parent) {
		struct ov_rdir *old = d->parent;

		d->parent = ov_rdir_ref(parent);
		ov_rdir_unref(c, old);
	}
}

int ov_rdir_hold(struct ov_fdcache *c, struct ov_rdir *d, int32_t *note)
{
	int fd = ov_rdir_get_fd(c, d);

	if (fd < 0)
		return fd;
	if (d->parent || d->name) {
		ov_fdslot_hold_embedded(c, &d->slot, note);
		ov_rdir_put_fd(c, d);
	}
	return 0;
}

void ov_rdir_unnote(struct ov_fdcache *c, struct ov_rdir *d)
{
	ov_fdslot_unnote(c, &d->slot);
}

void ov_rdir_adopt_held(struct ov_fdcache *c, struct ov_rdir *d, int fd, int32_t *note)
{
	(void)ov_fdslot_install(c, &d->slot, fd);
	ov_fdslot_hold_embedded(c, &d->slot, note);
	ov_fdslot_unpin(c, &d->slot);
}

const char *ov_rdir_path(const struct ov_rdir *d, char *buf, size_t size)
{
	size_t pos = size - 1;

	buf[pos] = '\0';
	for (; d->name; d = d->parent) {
		size_t len = strlen(d->name);

		if (len + 1 > pos)
			return buf + pos; /* the end of a long path is the telling part */
		pos -= len;
		memcpy(buf + pos, d->name, len);
		buf[--pos] = '/';
		if (!d->parent)
			break;
	}
	if (pos == size - 1 && size > 1)
		buf[--pos] = '/';
	return buf + pos;
}
