/* SPDX-License-Identifier: GPL-2.0-or-later */

/* rename(2) with all its flags. The change on disk is one renameat2 wherever the file system below allows. */

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "core.h"
#include "crash.h"
#include "format/index.h"
#include "format/metacopy.h"
#include "format/opaque.h"
#include "format/redirect.h"
#include "format/whiteout.h"
#include "sys/io.h"

/* One side of a rename. */
struct side {
	struct ov_inode *dir;
	const char *name;
	struct ov_inode *i;   /* what the name leads to, or NULL */
	uint64_t nodeid;      /* looked up: to be forgotten */
	struct ov_rfd fd;     /* upper directory, pinned */
	int lower;            /* a lower has the name in view */
	bool upper;           /* the upper has an object under the name */
	bool whiteout;        /* the upper has a whiteout there */
	uint64_t ino;         /* UPPER: its inode number on disk */
};

static bool has_lower_part(const struct ov_inode *i)
{
	return ov_inode_isdir(i) && (i->nrdirs > 1 || !ov_inode_is(i, OV_I_UPPER));
}

static int look(struct overlay *ov, struct side *s)
{
	OV_NS_READ(ov);
	struct ov_entry entry;
	int r = ov_lookup_locked(ov, s->dir, s->name, true, &entry);

	if (r < 0 || !entry.nodeid)
		return r;
	s->nodeid = entry.nodeid;
	s->i = ov_inode_find(&ov->tab, entry.nodeid);
	return ov_check_removable(ov, s->i, &entry.attr);
}

/* May this object be moved at all? A directory with a lower part needs a redirect. */
static int check_movable(const struct overlay *ov, const struct ov_inode *i)
{
	return has_lower_part(i) && ov->cfg.redirect != OV_REDIRECT_ON ? -EXDEV : 0;
}

/* Checks that need no lock, and everything that has to be in the upper first. */
static int prepare(struct overlay *ov, struct side *old, struct side *new, unsigned flags)
{
	int r = look(ov, old);

	if (r == 0 && !old->i)
		r = -ENOENT;
	if (r == 0)
		r = look(ov, new);
	if (r < 0)
		return r;
	if (new->i && (flags & RENAME_NOREPLACE))
		return -EEXIST;
	if ((flags & RENAME_EXCHANGE) && !new->i)
		return -ENOENT;
	if (new->i && !(flags & RENAME_EXCHANGE)) {
		if (ov_inode_isdir(old->i) && !ov_inode_isdir(new->i))
			return -ENOTDIR;
		if (!ov_inode_isdir(old->i) && ov_inode_isdir(new->i))
			return -EISDIR;
	}
	r = check_movable(ov, old->i);
	if (r == 0 && (flags & RENAME_EXCHANGE))
		r = check_movable(ov, new->i);
	if (r == 0)
		r = ov_copy_up(ov, old->dir, 0, 0);
	if (r == 0)
		r = ov_copy_up(ov, old->i, OV_COPY_NAMED, 0);
	if (r == 0)
		r = ov_copy_up(ov, new->dir, 0, 0);
	if (r == 0 && new->i && ((flags & RENAME_EXCHANGE) || ov_index_has(ov, new->i)))
		r = ov_copy_up(ov, new->i, OV_COPY_NAMED, 0);
	return r;
}

/* One of several names kept together by the index: this very name must be in the upper. */
static int link_up(struct overlay *ov, struct side *s)
{
	return s->i && ov_inode_is(s->i, OV_I_INDEXED) ? ov_index_link_up(ov, s->i, s->dir, s->name) : 0;
}

/* What is on disk at this side. Namespace lock held for writing. */
static int inspect(struct overlay *ov, struct side *s)
{
	struct statx stx;
	int r;

	s->fd = ov_rfd_get(&ov->fds, ov_upper_rdir(s->dir));
	if (s->fd.fd < 0)
		return s->fd.fd;
	s->lower = ov_lower_has(ov, s->dir, s->name);
	if (s->lower < 0)
		return s->lower;
	r = ov_probe(ov, ov_upper_rdir(s->dir), s->fd.fd, s->name, &stx);
	s->upper = r == 0;
	s->ino = r == 0 ? stx.stx_ino : 0;
	s->whiteout = r == 1;
	if (r == -ENOENT && ov_whiteout_oci_parse(s->name, NULL) && ov_at_statx(ov_at_name(s->fd.fd, s->name), 0, &stx) == 0)
		return -EEXIST; /* an OCI whiteout, which is not in the view: another name would show again without it */
	return r < 0 && r != -ENOENT ? r : 0;
}

/* The redirect of DIR's upper part (owned by the caller), NULL if it has none. */
static int dir_redirect(struct overlay *ov, struct ov_inode *dir, char **value)
{
	ov_cleanup_real struct ov_real real = {0};
	int r = 0;

	*value = NULL;
	if (ov_inode_is(dir, OV_I_UPPER))
		r = ov_real_get(ov, dir, &real);
	return r < 0 || !real.ov ? r : ov_redirect_read(real.at, ov->xp, value);
}

/*
 * The path of NAME in DIR as the layers below the upper have it among themselves: the view's, but for what the upper has moved.
 * The real path in the layer that holds the object is not good enough: a layer above that may have moved it in its turn.
 * At BUF + the result, or -errno.
 */
static int path_below_upper(struct overlay *ov, struct ov_inode *dir, const char *name, char buf[PATH_MAX])
{
	size_t pos = PATH_MAX - 1;
	int r;

	buf[pos] = '\0';
	r = ov_prepend(buf, &pos, name);
	for (; r == 0 && dir != ov->root; dir = dir->names->parent) {
		ov_cleanup_free char *value = NULL;

		if (!dir->names)
			return -ENOENT;
		r = dir_redirect(ov, dir, &value);
		if (r == 0)
			r = ov_prepend(buf, &pos, !value ? dir->names->name : value[0] == '/' ? value + 1 : value);
		if (value && value[0] == '/')
			break;
	}
	return r < 0 ? r : (int)pos;
}

/* Where the lower part of what is moved will be looked for. Files get whole paths: they may have other names elsewhere. */
static int set_redirect(struct overlay *ov, struct side *from, struct ov_inode *to_dir)
{
	struct ov_at at = ov_at_name(from->fd.fd, from->name);
	ov_cleanup_free char *own = NULL;
	char path[PATH_MAX];
	const char *value;
	int r = ov_redirect_read(at, ov->xp, &own);

	if (r < 0 || (own && own[0] == '/'))
		return r; /* moved before: it says so already */
	value = own ? own : from->name;
	if (from->dir != to_dir || !ov_inode_isdir(from->i)) {
		r = path_below_upper(ov, from->dir, value, path);
		value = path + r;
	}
	if (r >= 0)
		r = ov_redirect_write(at, ov->xp, value);
	OV_CRASH("rename.redirect");
	if (r < 0)
		ov_warn("cannot set the redirect of '%s': %s; it must be copied", from->name, strerror(-r));
	return r < 0 ? -EXDEV : 0;
}

/* Marks that the moved object needs so that it reads the same in its new place. */
static int mark_moved(struct overlay *ov, struct side *from, const struct side *to)
{
	struct ov_at at = ov_at_name(from->fd.fd, from->name);
	int r;

	if (ov_inode_isdir(from->i)) {
		if (ov_whiteout_is_oci_meta(to->name)) {
			r = ov_whiteout_mark_plain(at, ov->xp);
			if (r < 0)
				return r;
		}
		if (has_lower_part(from->i))
			return set_redirect(ov, from, to->dir);
		r = to->lower ? 1 : ov_probe_oci_whiteout(ov_upper_rdir(to->dir), to->fd.fd, to->name);
		if (r > 0)
			r = ov_opaque_write(at, ov->xp, false);
		OV_CRASH("rename.opaque");
		return r;
	}
	if (ov_inode_is(from->i, OV_I_METACOPY) && from->i->data) {
		r = set_redirect(ov, from, to->dir);
		if (r < 0)
			return r;
	}
	return ov_mark_plain_name(ov, at, to->name);
}

static int mark_impure(struct overlay *ov, struct side *from, struct side *to)
{
	int r;

	if (from->dir == to->dir || ov_inode_is(to->dir, OV_I_IMPURE))
		return 0;
	if (!has_lower_part(from->i) && ov_impure_read(ov_at_fd(from->fd.fd), ov->xp) <= 0)
		return 0;
	r = ov_impure_write(ov_at_fd(to->fd.fd), ov->xp);
	if (r == 0)
		ov_inode_set(to->dir, OV_I_IMPURE);
	OV_CRASH("rename.impure");
	return r == -EOPNOTSUPP || r == -EPERM ? 0 : r;
}

/* Directory I of the upper was made opaque. */
static void forget_lowers(struct overlay *ov, struct ov_inode *i)
{
	while (i->nrdirs > 1)
		ov_rdir_unref(&ov->fds, i->rdirs[--i->nrdirs]);
	ov_listing_drop(ov, i);
}

/*
 * Empty the target directory of whiteouts, so that it can be replaced. It is made opaque first: at each step it reads as
 * the empty directory that it was.
 */
static int clear_target_dir(struct overlay *ov, struct side *new)
{
	struct ov_at at = ov_at_name(new->fd.fd, new->name);
	struct dirent *de;
	DIR *dir;
	int fd, r;

	r = ov_dir_is_empty(ov, new->i);
	if (r <= 0)
		return r < 0 ? r : -ENOTEMPTY;
	if (!new->upper)
		return 0;
	if (new->lower) {
		r = ov_opaque_write(at, ov->xp, false);
		if (r < 0)
			return r;
		forget_lowers(ov, new->i);
		OV_CRASH("rename.target-opaque");
	}
	fd = ov_at_open(at, O_RDONLY | O_DIRECTORY, 0);
	if (fd < 0)
		return fd;
	dir = fdopendir(fd);
	if (!dir) {
		close(fd);
		return -ENOMEM;
	}
	r = 0;
	while (r == 0 && (de = readdir(dir)))
		if (strcmp(de->d_name, ".") != 0 && strcmp(de->d_name, "..") != 0)
			r = ov_cleanup_tree(fd, de->d_name, 1);
	closedir(dir);
	OV_CRASH("rename.target-cleared");
	return r;
}

/* Does "x" become ".wh.x", which would be the name of the whiteout that it leaves? */
static bool takes_oci_name(const struct side *old, const struct side *new)
{
	const char *hidden;

	return old->dir == new->dir && ov_whiteout_oci_parse(new->name, &hidden) && strcmp(hidden, old->name) == 0;
}

/*
 * What the layers below have under the old name shall not be seen between the two steps, should they be all that is done: an OCI
 * whiteout hides it meanwhile. Where its name is an ordinary file's or too long both names are seen after a crash. If the second
 * step fails the OCI whiteout stays for it, or the first is taken back, or, where that has replaced something, the move counts (1).
 */
static int move_in_two_steps(struct overlay *ov, struct side *old, struct side *new, int kind)
{
	struct ov_rdir *rdir = ov_upper_rdir(old->dir);
	bool replaces = new->upper || (new->whiteout && !ov_inode_isdir(old->i));
	char tmp[32];
	int r = ov_whiteout_tmp(ov, old->fd.fd, kind, tmp), bridge;

	if (r < 0)
		return r;
	bridge = takes_oci_name(old, new) ? OV_BRIDGE_NONE : ov_oci_bridge(rdir, old->fd.fd, old->name);
	r = bridge < 0 ? bridge : ov_renameat2(old->fd.fd, old->name, new->fd.fd, new->name, 0);
	OV_CRASH("rename.one-of-two");
	if (r < 0) {
		ov_oci_bridge_end(old->fd.fd, old->name, bridge);
		ov_cleanup_tmp(ov, tmp);
		return r;
	}
	r = ov_renameat2(ov->work_fd, tmp, old->fd.fd, old->name, 0);
	if (r == 0) {
		ov_oci_bridge_end(old->fd.fd, old->name, bridge);
		return 0;
	}
	ov_cleanup_tmp(ov, tmp);
	if (bridge != OV_BRIDGE_NONE)
		return 0;
	if (!replaces && ov_renameat2(new->fd.fd, new->name, old->fd.fd, old->name, 0) == 0)
		return r;
	ov_error("'%s' was renamed, but cannot be hidden in the lower layers: %s; it is seen again", old->name, strerror(-r));
	return 1;
}

static int move_with_whiteout(struct overlay *ov, struct side *old, struct side *new)
{
	int kind = ov_whiteout_kind_for(ov, old->fd.fd, old->name), r = -EINVAL, bridge;

	if (kind < 0)
		return kind;
	if (kind == OV_WH_OCI && takes_oci_name(old, new))
		kind = OV_WH_XATTR;
	if (kind == OV_WH_OCI) { /* it hides the layers below only: the old view still */
		bridge = ov_oci_bridge(ov_upper_rdir(old->dir), old->fd.fd, old->name);
		OV_CRASH("rename.oci-whiteout");
		r = bridge < 0 ? bridge : ov_renameat2(old->fd.fd, old->name, new->fd.fd, new->name, 0);
		if (r < 0)
			ov_oci_bridge_end(old->fd.fd, old->name, bridge);
		return r;
	}
	if (ov->can_rename_whiteout)
		r = ov_renameat2(old->fd.fd, old->name, new->fd.fd, new->name, RENAME_WHITEOUT);
	if (r != -EINVAL && r != -EPERM)
		return r;
	/* a whiteout hides nothing where nothing is, and the rest is one step */
	if (!new->i && ov->can_exchange && kind == ov->whiteout_kind) {
		r = new->whiteout ? 0 : ov_place_whiteout(ov, ov_upper_rdir(new->dir), new->fd.fd, new->name);
		OV_CRASH("rename.whiteout-ahead");
		return r < 0 ? r : ov_renameat2(old->fd.fd, old->name, new->fd.fd, new->name, RENAME_EXCHANGE);
	}
	return move_in_two_steps(ov, old, new, kind);
}

/* WHITEOUT: one shall be left under the old name even if there is nothing to hide. 1: moved, but that could not be had. */
static int move_on_disk(struct overlay *ov, struct side *old, struct side *new, bool whiteout)
{
	bool in_the_way = ov_inode_isdir(old->i) && new->whiteout;
	int bridge = OV_BRIDGE_NONE, r;

	if (in_the_way && ov->can_exchange) {
		/* the whiteout goes to the old place, where it stays if it is needed */
		r = ov_renameat2(old->fd.fd, old->name, new->fd.fd, new->name, RENAME_EXCHANGE);
		OV_CRASH("rename.whiteout-exchanged");
		if (r == 0 && !old->lower && !whiteout && unlinkat(old->fd.fd, old->name, 0) < 0)
			ov_warn("a spare whiteout '%s' stays: %s", old->name, strerror(errno));
		return r;
	}
	if (in_the_way)
		bridge = ov_lift_whiteout(ov_upper_rdir(new->dir), new->fd.fd, new->name);
	if (bridge < 0)
		return bridge;
	if (old->lower || whiteout)
		r = move_with_whiteout(ov, old, new);
	else
		r = ov_renameat2(old->fd.fd, old->name, new->fd.fd, new->name, 0);
	return in_the_way ? ov_lift_done(ov, ov_upper_rdir(new->dir), new->fd.fd, new->name, bridge, r) : r;
}

/* The memory that a new name takes, had before the disk is changed: the change could not be taken back. */
struct arrival {
	struct ov_itable *tab;
	struct ov_dentry *dentry;
	char *name;
};

static int expect(struct overlay *ov, struct arrival *a, const struct side *at)
{
	a->tab = &ov->tab;
	a->dentry = ov_dentry_new(a->tab, at->name);
	a->name = strdup(at->name);
	return a->dentry && a->name ? 0 : -ENOMEM;
}

static void arrival_clear(struct arrival *a)
{
	ov_dentry_free(a->tab, a->dentry);
	free(a->name);
}
#define cleanup_arrival __attribute__((cleanup(arrival_clear)))

/* The inode's place in memory follows. FIRST: it was reached through the moved name. */
static void arrive(struct overlay *ov, struct ov_inode *i, const struct side *to, struct arrival *a, bool first)
{
	pthread_mutex_lock(&ov->tab.lock);
	ov_dentry_insert_locked(&ov->tab, to->dir, ov_steal_ptr(a->dentry), i, first);
	pthread_mutex_unlock(&ov->tab.lock);
	ov_listing_add(ov, to->dir, to->name, i->type);
	if (ov_inode_isdir(i)) {
		ov_listing_drop(ov, i); /* its ".." */
		ov_rdir_move(&ov->fds, i->rdirs[0], ov_upper_rdir(to->dir), ov_steal_ptr(a->name));
	} else if (first) {
		ov_reach_by_first_name(ov, i);
	}
}

/* Take the name off; true if the inode was reached through it. */
static bool unname(struct overlay *ov, struct side *s)
{
	struct ov_dentry *d;
	bool first = false;

	pthread_mutex_lock(&ov->tab.lock);
	d = ov_dentry_find_locked(&ov->tab, s->dir, s->name);
	if (d) {
		first = d->inode->names == d;
		ov_dentry_del_locked(&ov->tab, d);
	}
	pthread_mutex_unlock(&ov->tab.lock);
	ov_listing_del(ov, s->dir, s->name);
	return first;
}

/* Leave word of what is to be moved, for a worker that goes on if this one dies. Namespace lock held for writing. */
static void begin_move(struct overlay *ov, const struct side *old, const struct side *new, unsigned flags, bool whiteout)
{
	struct ov_intent *in = &ov->ledger->intent;

	in->flags = flags;
	in->whiteout = whiteout;
	in->request = ov->hooks.request ? ov->hooks.request(ov->hooks.arg) : 0;
	in->olddir = old->dir->nodeid;
	in->newdir = new->dir->nodeid;
	in->src = old->i->nodeid;
	in->dst = new->i ? new->i->nodeid : 0;
	in->ino = old->ino;
	snprintf(in->oldname, sizeof(in->oldname), "%s", old->name);
	snprintf(in->newname, sizeof(in->newname), "%s", new->name);
	__atomic_store_n(&in->live, 1, __ATOMIC_RELEASE);
}

/* MADE, in memory too; else it was not. */
static void end_move(struct overlay *ov, bool made)
{
	if (made && ov->hooks.done)
		ov->hooks.done(ov->hooks.arg);
	ov_forget_rename(ov);
}

/* Namespace lock held for writing, both sides in the upper. */
static int replace(struct overlay *ov, struct side *old, struct side *new, bool whiteout)
{
	cleanup_arrival struct arrival a = {NULL};
	bool last = false, first;
	int r = expect(ov, &a, new);

	if (r == 0 && new->i && ov_inode_isdir(new->i))
		r = clear_target_dir(ov, new);
	if (r == 0 && new->i) {
		pthread_mutex_lock(&ov->tab.lock);
		last = !new->i->names || !new->i->names->alias_next;
		pthread_mutex_unlock(&ov->tab.lock);
		if (last)
			r = ov_keep_open(ov, new->i);
		else
			ov_loses_name(ov, new->i);
	}
	if (r == 0)
		r = mark_moved(ov, old, new);
	if (r == 0)
		r = mark_impure(ov, old, new);
	if (r < 0)
		return r;
	begin_move(ov, old, new, 0, old->lower || whiteout);
	r = move_on_disk(ov, old, new, whiteout);
	OV_CRASH("rename.moved");
	if (r < 0) {
		end_move(ov, false);
		return r;
	}
	if (old->lower || whiteout || new->whiteout || ov_inode_is(old->i, OV_I_INDEXED))
		ov_note_halves(ov);
	if (new->i)
		ov_name_gone(ov, new->dir, new->name);
	if (new->i && ov_inode_is(new->i, OV_I_INDEXED))
		ov_index_drop_unused(ov, new->i);
	first = unname(ov, old);
	if (r > 0)
		ov_listing_drop(ov, old->dir);
	arrive(ov, old->i, new, &a, first);
	end_move(ov, true);
	return 0;
}

static int exchange(struct overlay *ov, struct side *old, struct side *new)
{
	cleanup_arrival struct arrival a = {NULL}, b = {NULL};
	bool first_old, first_new;
	int r;

	if (!ov->can_exchange)
		return -EINVAL;
	r = expect(ov, &a, new);
	if (r == 0)
		r = expect(ov, &b, old);
	if (r == 0)
		r = mark_moved(ov, old, new);
	if (r == 0)
		r = mark_moved(ov, new, old);
	if (r == 0)
		r = mark_impure(ov, old, new);
	if (r == 0)
		r = mark_impure(ov, new, old);
	if (r < 0)
		return r;
	begin_move(ov, old, new, RENAME_EXCHANGE, false);
	r = ov_renameat2(old->fd.fd, old->name, new->fd.fd, new->name, RENAME_EXCHANGE);
	OV_CRASH("rename.exchanged");
	if (r < 0) {
		end_move(ov, false);
		return r;
	}
	ov_note_halves(ov);
	first_old = unname(ov, old);
	first_new = unname(ov, new);
	arrive(ov, old->i, new, &a, first_old);
	arrive(ov, new->i, old, &b, first_new);
	end_move(ov, true);
	return 0;
}

/* Has a worker that died made this rename, but for the answer? Then the old name is gone and the new one is there. */
static bool was_made(struct overlay *ov, const struct side *old, struct side *new, unsigned flags)
{
	return ov_is_repeat(ov) && !(flags & RENAME_EXCHANGE) && !old->i && look(ov, new) == 0 && new->i;
}

int ov_rename(struct overlay *ov, struct ov_inode *olddir, const char *oldname, struct ov_inode *newdir,
	      const char *newname, unsigned flags)
{
	struct side old = {.dir = olddir, .name = oldname, .fd = {.fd = -1}};
	struct side new = {.dir = newdir, .name = newname, .fd = {.fd = -1}};
	int r = ov_want_write(ov);

	if (r < 0)
		return r;
	if ((flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT)) ||
	    ((flags & RENAME_EXCHANGE) && (flags & (RENAME_NOREPLACE | RENAME_WHITEOUT))))
		return -EINVAL;
	if (!ov_inode_isdir(olddir) || !ov_inode_isdir(newdir))
		return -ENOTDIR;
	if (ov_inode_is(newdir, OV_I_UNLINKED))
		return -ENOENT;
	r = prepare(ov, &old, &new, flags);
	if (r == -ENOENT && was_made(ov, &old, &new, flags)) {
		ov_loses_name(ov, NULL); /* if there was something in its place */
		r = 0;
	}
	if (r == 0 && old.i && old.i != new.i) {
		OV_NS_WRITE(ov);
		r = link_up(ov, &old);
		if (r == 0)
			r = link_up(ov, &new);
		if (r == 0)
			r = inspect(ov, &old);
		if (r == 0)
			r = inspect(ov, &new);
		if (r == 0 && !old.upper)
			r = -ENOENT;
		if (r == 0)
			r = flags & RENAME_EXCHANGE ? exchange(ov, &old, &new)
					    : replace(ov, &old, &new, flags & RENAME_WHITEOUT);
		ov_rfd_release(&old.fd);
		ov_rfd_release(&new.fd);
	}
	if (old.nodeid)
		ov_inode_forget(&ov->tab, old.nodeid, 1);
	if (new.nodeid)
		ov_inode_forget(&ov->tab, new.nodeid, 1);
	return r;
}
