/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Going on after the death of the process that served the mount. The kernel knows inodes by nodeid, and has them open; the
 * ledger says which names they have, and keeps those without a name. Everything else is on disk, and is read from there again
 * when an inode is first needed: so taking over takes no time, and what the dead process had in its memory cannot harm.
 */

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "core.h"
#include "format/whiteout.h"

/* ---- one inode ---- */

/* The uppermost stale ancestor of I by any of its names, or I. *VIA: the name of a child that leads there. */
static struct ov_inode *first_stale(struct overlay *ov, struct ov_inode *i, struct ov_dentry **via)
{
	struct ov_dentry *d;

	*via = NULL;
	pthread_mutex_lock(&ov->tab.lock);
	for (d = i->names; d;) {
		if (ov_inode_is(d->parent, OV_I_STALE)) {
			*via = d;
			i = d->parent;
			d = i->names;
		} else {
			d = d->alias_next;
		}
	}
	pthread_mutex_unlock(&ov->tab.lock);
	return i;
}

static void make_ready(struct ov_inode *i, unsigned flags)
{
	ov_inode_unset(i, (unsigned)~(OV_I_STALE | OV_I_KEYED));
	ov_inode_set(i, flags);
	ov_inode_unset(i, OV_I_STALE); /* from now on others use it */
}

/* Is what was found as a name of I the object of I? Another one may have taken the name before the ledger could say so. */
static bool is_same(const struct ov_inode *i, const struct ov_found *f)
{
	struct statx stx;

	if (!f->exists || (f->stx.stx_mode & S_IFMT) != i->type)
		return false;
	if (i->held_fd < 0)
		return true;
	return f->upper && ov_at_statx(ov_at_fd(i->held_fd), STATX_INO, &stx) == 0 && stx.stx_ino == f->stx.stx_ino;
}

static void adopt(struct overlay *ov, struct ov_inode *i, struct ov_found *f)
{
	struct ov_key key;
	unsigned flags;
	bool keep = false;

	if (ov_found_key(ov, f, &key, &keep) && keep)
		ov_inode_set_key(&ov->tab, i, key);
	else
		ov_inode_clear_key(&ov->tab, i);
	ov_inode_fill(i, f, &flags);
	if (i->held_fd >= 0) { /* it was about to lose its name, and did not */
		close(i->held_fd);
		i->held_fd = -1;
	}
	make_ready(i, flags);
}

/* D becomes the name through which its inode is reached. */
static void to_front(struct overlay *ov, struct ov_dentry *d)
{
	struct ov_dentry **p;

	pthread_mutex_lock(&ov->tab.lock);
	for (p = &d->inode->names; *p != d; p = &(*p)->alias_next)
		;
	*p = d->alias_next;
	d->alias_next = d->inode->names;
	d->inode->names = d;
	pthread_mutex_unlock(&ov->tab.lock);
}

static void drop_name(struct overlay *ov, struct ov_dentry *d)
{
	struct ov_inode *parent = d->parent;

	pthread_mutex_lock(&ov->tab.lock);
	parent->refs++;
	ov_dentry_del_locked(&ov->tab, d);
	pthread_mutex_unlock(&ov->tab.lock);
	ov_inode_unref(&ov->tab, parent);
}

/* Search I by its names; those that are gone from disk go here, too. *FOUND: one is there. */
static int by_names(struct overlay *ov, struct ov_inode *i, bool *found)
{
	struct ov_dentry *next;

	*found = false;
	for (struct ov_dentry *d = i->names; d; d = next) {
		struct ov_found f;
		int r = ov_search(ov, d->parent, d->name, 0, &f);

		if (r < 0)
			return r;
		next = d->alias_next;
		if (!is_same(i, &f)) {
			drop_name(ov, d);
		} else if (!*found) {
			to_front(ov, d);
			adopt(ov, i, &f);
			*found = true;
		}
		ov_found_clear(ov, &f);
	}
	return 0;
}

/* The lower directory that the first LEN bytes of PATH lead to in LAYER, counted. NULL: no memory. */
static struct ov_rdir *walk_ghost(struct overlay *ov, unsigned layer, const char *path, size_t len)
{
	struct ov_rdir *dir = ov_rdir_ref(ov->roots[layer]);
	const char *end = path + len;

	while (dir && path < end) {
		size_t n = strcspn(++path, "/");
		char name[NAME_MAX + 1];
		struct ov_rdir *child;

		if (n == 0 || n > NAME_MAX)
			break;
		memcpy(name, path, n);
		name[n] = '\0';
		child = ov_rdir_new(dir, dir->layer, name);
		ov_rdir_unref(&ov->fds, dir);
		dir = child;
		path += n;
	}
	return dir;
}

static bool has_ghost(const struct overlay *ov, const struct ov_inode *i)
{
	return i->ghost && i->ghost->layer < ov->nlayers + ov->ndata && i->ghost->path[0] == '/';
}

/* Is the fd that is noted for I still on an object of its type? */
static bool has_held(const struct ov_inode *i)
{
	struct statx stx;

	return i->held_fd >= 0 && ov_at_statx(ov_at_fd(i->held_fd), STATX_TYPE, &stx) == 0;
}

static int nameless_dir(struct overlay *ov, struct ov_inode *i)
{
	struct ov_rdir **rdirs = malloc(sizeof(*rdirs));
	bool held = has_held(i);

	if (!rdirs)
		return -ENOMEM;
	if (held)
		rdirs[0] = ov_rdir_new(ov->roots[0], &ov->layers[0], "(deleted)");
	else
		rdirs[0] = walk_ghost(ov, i->ghost->layer, i->ghost->path, strlen(i->ghost->path));
	if (!rdirs[0]) {
		free(rdirs);
		return -ENOMEM;
	}
	if (held)
		ov_rdir_adopt_held(&ov->fds, rdirs[0], i->held_fd, &i->held_fd);
	i->rdirs = rdirs;
	i->nrdirs = 1;
	make_ready(i, OV_I_UNLINKED | (held ? OV_I_UPPER : 0));
	return 0;
}

/* What the fd on an upper file is good for. */
static unsigned slot_flags(const struct overlay *ov, int fd)
{
	int flags = fcntl(fd, F_GETFL);
	unsigned out = ov->layers[0].page_cached ? OV_SLOT_PAGE_CACHED : 0;

	if (flags >= 0 && !(flags & O_PATH) && (flags & O_ACCMODE) == O_RDWR)
		out |= OV_SLOT_WRITABLE;
	return flags >= 0 && (flags & O_APPEND) ? out | OV_SLOT_APPEND : out;
}

/* An upper file behind the fd that is held; as a metacopy it has its data where the ghost says. */
static int nameless_held(struct overlay *ov, struct ov_inode *i, unsigned lasting)
{
	unsigned flags = OV_I_UNLINKED | OV_I_UPPER | (lasting & OV_I_TMPFILE);
	struct ov_fdslot *slot;
	int fd = i->held_fd;

	if (lasting & OV_I_METACOPY) {
		const char *base = has_ghost(ov, i) ? strrchr(i->ghost->path, '/') : NULL;
		struct ov_rdir *dir;

		if (!base)
			return -ESTALE;
		dir = walk_ghost(ov, i->ghost->layer, i->ghost->path, (size_t)(base - i->ghost->path));
		i->data = dir ? ov_lowerdata_new(dir, base + 1) : NULL;
		ov_rdir_unref(&ov->fds, dir);
		if (!i->data)
			return -ENOMEM;
		flags |= OV_I_METACOPY;
	}
	slot = ov_fdslot_put(&ov->fds, &i->slot, fd, slot_flags(ov, fd));
	if (!slot) {
		i->held_fd = -1;
		return -ENOMEM;
	}
	ov_fdslot_hold(&ov->fds, &i->slot, &i->held_fd);
	ov_fdslot_unpin(&ov->fds, slot);
	i->rparent = ov_rdir_ref(ov->roots[0]);
	make_ready(i, flags);
	return 0;
}

/* A lower file that a whiteout hides. */
static int nameless_lower(struct overlay *ov, struct ov_inode *i)
{
	const char *base = strrchr(i->ghost->path, '/');
	char *rname = strdup(base + 1);
	struct ov_rdir *dir = walk_ghost(ov, i->ghost->layer, i->ghost->path, (size_t)(base - i->ghost->path));

	if (!rname || !dir) {
		ov_rdir_unref(&ov->fds, dir);
		free(rname);
		return -ENOMEM;
	}
	i->rparent = dir;
	i->rname = rname;
	make_ready(i, OV_I_UNLINKED);
	return 0;
}

static int revive_one(struct overlay *ov, struct ov_inode *i)
{
	unsigned lasting = i->flags;
	bool found = false;
	int r = by_names(ov, i, &found);

	if (r < 0 || found)
		return r;
	if (ov_inode_isdir(i) && (has_held(i) || has_ghost(ov, i)))
		return nameless_dir(ov, i);
	if (!ov_inode_isdir(i) && has_held(i))
		return nameless_held(ov, i, lasting);
	if (!ov_inode_isdir(i) && has_ghost(ov, i))
		return nameless_lower(ov, i);
	return -ESTALE;
}

int ov_revive_locked(struct overlay *ov, struct ov_inode *i)
{
	int r = 0;

	pthread_mutex_lock(&ov->revive);
	while (r == 0 && ov_inode_is(i, OV_I_STALE)) {
		struct ov_dentry *via;
		struct ov_inode *t = first_stale(ov, i, &via);

		r = revive_one(ov, t);
		if (r == -ESTALE && via) { /* a directory is lost: names in it are no names any more */
			drop_name(ov, via);
			r = 0;
		}
	}
	pthread_mutex_unlock(&ov->revive);
	if (r < 0)
		ov_warn("inode %llu, which a worker left that died, cannot be found again: %s", (unsigned long long)i->nodeid,
			strerror(-r));
	return r;
}

int ov_revive(struct overlay *ov, struct ov_inode *i)
{
	OV_NS_READ(ov);
	return ov_revive_locked(ov, i);
}

/* ---- the rename that was going on ---- */

/* Has the object that was to be moved arrived? 1, 0, -errno. */
static int has_moved(struct overlay *ov, const struct ov_intent *in, struct ov_inode *newdir)
{
	ov_cleanup_rfd struct ov_rfd d = {.fd = -1};
	struct statx stx;
	int r;

	if (!ov_inode_is(newdir, OV_I_UPPER))
		return 0;
	d = ov_rfd_get(&ov->fds, ov_upper_rdir(newdir));
	if (d.fd < 0)
		return d.fd;
	r = ov_probe(ov, ov_upper_rdir(newdir), d.fd, in->newname, &stx);
	if (r < 0 && r != -ENOENT)
		return r;
	return r == 0 && stx.stx_ino == in->ino;
}

/* Where the file system below cannot do both in one step, the whiteout may still be missing. */
static int finish_whiteout(struct overlay *ov, const struct ov_intent *in, struct ov_inode *olddir)
{
	ov_cleanup_rfd struct ov_rfd d = ov_rfd_get(&ov->fds, ov_upper_rdir(olddir));
	struct statx stx;
	int r;

	if (!in->whiteout || (in->flags & RENAME_EXCHANGE))
		return 0;
	if (d.fd < 0)
		return d.fd;
	r = ov_probe(ov, ov_upper_rdir(olddir), d.fd, in->oldname, &stx);
	if (r == -ENOENT)
		r = ov_place_whiteout(ov, ov_upper_rdir(olddir), d.fd, in->oldname);
	if (r >= 0 && ov->whiteout_kind != OV_WH_OCI && ov_probe_oci_whiteout(ov_upper_rdir(olddir), d.fd, in->oldname) > 0)
		ov_oci_bridge_end(d.fd, in->oldname, OV_BRIDGE_MADE);
	return r < 0 ? r : 0;
}

/* NAME in DIR leads to I, or to nothing. */
static int put_name(struct overlay *ov, struct ov_inode *dir, const char *name, struct ov_inode *i)
{
	struct ov_itable *t = &ov->tab;
	struct ov_dentry *d;
	int r = 0;

	pthread_mutex_lock(&t->lock);
	d = ov_dentry_find_locked(t, dir, name);
	if (d && d->inode != i) {
		ov_dentry_del_locked(t, d);
		d = NULL;
	}
	if (!d && i)
		r = ov_dentry_add_locked(t, dir, name, i, true);
	pthread_mutex_unlock(&t->lock);
	return r;
}

static int settle_rename(struct overlay *ov)
{
	const struct ov_intent *in = &ov->ledger->intent;
	struct ov_inode *olddir = ov_inode_get(ov, in->olddir), *newdir = ov_inode_get(ov, in->newdir);
	struct ov_inode *src = ov_inode_find(&ov->tab, in->src), *dst = ov_inode_find(&ov->tab, in->dst);
	int r;

	if (!olddir || !newdir || !src)
		return 0;
	OV_NS_WRITE(ov);
	r = has_moved(ov, in, newdir);
	if (r <= 0)
		return r;
	r = finish_whiteout(ov, in, olddir);
	if (r == 0)
		r = put_name(ov, olddir, in->oldname, in->flags & RENAME_EXCHANGE ? dst : NULL);
	if (r == 0)
		r = put_name(ov, newdir, in->newname, src);
	if (r == 0)
		ov->made = in->request;
	return r;
}

bool ov_rename_was_made(const struct overlay *ov, uint64_t number)
{
	return ov->made && ov->made == number;
}

void ov_forget_rename(struct overlay *ov)
{
	__atomic_store_n(&ov->ledger->intent.live, 0, __ATOMIC_RELEASE);
}

int ov_take_over(struct overlay *ov, void (*ready)(void *arg), void *arg)
{
	struct ov_inode *root = NULL;
	int r;

	ov->arena.moved = (uint64_t)((uintptr_t)ov->arena.base - (uintptr_t)ov->ledger->base);
	r = ov_itable_recover(&ov->tab, &root);
	ov->arena.moved = 0;
	if (r == 0) {
		ov->ledger->base = (uint64_t)(uintptr_t)ov->arena.base;
		if (ready)
			ready(arg);
		r = ov_reopen_root(ov, root);
	}
	if (r < 0) {
		ov_error("cannot go on with what the last worker left: %s", strerror(-r));
		return r;
	}
	if (ov->has_upper) {
		ov_clean_work(ov);
		ov_note_halves(ov); /* there may have been some */
	}
	if (ov->ledger->intent.live) {
		r = settle_rename(ov);
		if (r < 0) /* the names may be wrong until the kernel forgets them */
			ov_warn("cannot tell whether '%s' was renamed: %s", ov->ledger->intent.oldname, strerror(-r));
	}
	return 0;
}
