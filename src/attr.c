/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Attributes: reading them through id maps and override_stat, and changing them. */

#include <string.h>
#include <sys/sysmacros.h>

#include "core.h"
#include "format/index.h"
#include "format/whiteout.h"

uid_t ov_uid_to_view(const struct overlay *ov, uid_t uid)
{
	if (ov->cfg.squash_uid >= 0)
		return (uid_t)ov->cfg.squash_uid;
	if (ov->cfg.squash_to_root)
		return 0;
	return ov_idmap_to_view(&ov->cfg.uidmap, uid);
}

gid_t ov_gid_to_view(const struct overlay *ov, gid_t gid)
{
	if (ov->cfg.squash_gid >= 0)
		return (gid_t)ov->cfg.squash_gid;
	if (ov->cfg.squash_to_root)
		return 0;
	return ov_idmap_to_view(&ov->cfg.gidmap, gid);
}

/* Where everything is shown as one owner, what is made is the daemon's own on disk. */
int ov_uid_to_disk(const struct overlay *ov, uid_t uid, uid_t *out)
{
	if (ov->cfg.squash_to_root || ov->cfg.squash_uid >= 0) {
		*out = ov->uid;
		return 0;
	}
	return ov_idmap_to_disk(&ov->cfg.uidmap, uid, out) ? 0 : -EINVAL;
}

int ov_gid_to_disk(const struct overlay *ov, gid_t gid, gid_t *out)
{
	if (ov->cfg.squash_to_root || ov->cfg.squash_gid >= 0) {
		*out = ov->gid;
		return 0;
	}
	return ov_idmap_to_disk(&ov->cfg.gidmap, gid, out) ? 0 : -EINVAL;
}

int ov_statx_real(struct overlay *ov, const struct ov_layer *layer, struct ov_at at, struct statx *stx)
{
	enum ov_override kind = layer->upper ? ov->override : layer->override;
	struct ov_override_stat st;
	int r = ov_at_statx(at, STATX_BASIC_STATS | STATX_BTIME, stx);

	if (r < 0 || kind == OV_OVERRIDE_NONE)
		return r;
	if (S_ISLNK(stx->stx_mode) && kind != OV_OVERRIDE_SECURITY)
		return 0; /* user.* xattrs do not exist on symbolic links */
	r = ov_override_read(at, kind, &st);
	if (r == -EINVAL)
		ov_warn("layer '%s': malformed stat override ignored", layer->path);
	if (r == -ENOMEM || r == -EIO || r == -EINTR)
		return r; /* it may well be there: without it a wrong owner would show */
	if (r < 0)
		return 0; /* absent or unreadable: the file speaks for itself */
	stx->stx_uid = st.uid;
	stx->stx_gid = st.gid;
	if (S_ISLNK(stx->stx_mode))
		return 0; /* whatever it says: a link has no mode, and stands for nothing else */
	stx->stx_mode = (uint16_t)((stx->stx_mode & S_IFMT) | (st.mode & 07777));
	if (S_ISCHR(st.type) && !st.major && !st.minor)
		st.type = 0; /* a whiteout is one on disk, not by what an xattr says; nobody can make such a device */
	if (st.type && S_ISREG(stx->stx_mode) && !S_ISDIR(st.type)) { /* only a file stands for something else */
		stx->stx_mode = (uint16_t)(st.type | (st.mode & 07777));
		stx->stx_rdev_major = st.major;
		stx->stx_rdev_minor = st.minor;
		if (!S_ISREG(st.type) && !S_ISLNK(st.type)) /* what the stand-in holds is not a device's size */
			stx->stx_size = stx->stx_blocks = 0;
	}
	return 0;
}

void ov_attr_to_view(const struct overlay *ov, uint64_t ino, bool merged, struct statx *stx)
{
	stx->stx_ino = ino;
	if (ov->mapped) {
		stx->stx_uid = ov_uid_to_view(ov, stx->stx_uid);
		stx->stx_gid = ov_gid_to_view(ov, stx->stx_gid);
	}
	if (S_ISDIR(stx->stx_mode) && (merged || ov->cfg.static_nlink))
		stx->stx_nlink = 1;
}

/* A metacopy shows the blocks of its data, which lies in a lower and stays as it is. */
static void add_data_blocks(struct overlay *ov, struct ov_inode *i, struct statx *stx)
{
	uint64_t known = __atomic_load_n(&i->data->blocks, __ATOMIC_RELAXED);
	ov_cleanup_real struct ov_real real = {0};
	struct statx data;

	if (!known && ov_real_get_name(ov, i->data->dir, i->data->name, &real) == 0 &&
	    ov_at_statx(real.at, STATX_BLOCKS, &data) == 0) {
		known = data.stx_blocks + 1;
		__atomic_store_n(&i->data->blocks, known, __ATOMIC_RELAXED);
	}
	if (known)
		stx->stx_blocks = known - 1;
}

unsigned ov_protattr(struct overlay *ov, struct ov_inode *i)
{
	ov_cleanup_real struct ov_real real = {0};
	unsigned flags = 0;

	if (!ov_inode_is(i, OV_I_UPPER) || ov_inode_is(i, OV_I_NOPROT) || (!S_ISREG(i->type) && !ov_inode_isdir(i)))
		return 0;
	if (ov_real_get(ov, i, &real) < 0 || ov_protattr_read(real.at, ov->xp, &flags) < 0)
		return 0; /* what comes next will tell why */
	if (!flags)
		ov_inode_set(i, OV_I_NOPROT);
	return flags;
}

int ov_check_removable(struct overlay *ov, struct ov_inode *i, const struct statx *stx)
{
	bool is_protected = ov_inode_is(i, OV_I_UPPER)
				    ? ov_protattr(ov, i) != 0
				    : (stx->stx_attributes & (STATX_ATTR_IMMUTABLE | STATX_ATTR_APPEND)) != 0;

	return is_protected ? -EPERM : 0;
}

/* An mtime that is still to be put back on disk is the one that the file has. */
static void show_owed_mtime(struct overlay *ov, struct ov_inode *i, struct statx *stx)
{
	struct timespec ts;

	if (!S_ISREG(i->type) || !ov_fdslot_owed_mtime(&ov->fds, &i->slot, &ts))
		return;
	stx->stx_mtime.tv_sec = ts.tv_sec;
	stx->stx_mtime.tv_nsec = (uint32_t)ts.tv_nsec;
}

int ov_getattr_locked(struct overlay *ov, struct ov_inode *i, struct statx *out)
{
	ov_cleanup_real struct ov_real real = {0};
	int r = ov_real_get(ov, i, &real);

	if (r < 0)
		return r;
	r = ov_statx_real(ov, real.layer, real.at, out);
	if (r < 0)
		return r;
	if (ov_inode_is(i, OV_I_INDEXED))
		r = ov_index_nlink(ov, real.at, out);
	if (r < 0)
		return r;
	if (ov_inode_is(i, OV_I_METACOPY) && i->data)
		add_data_blocks(ov, i, out);
	if (ov_inode_is(i, OV_I_UPPER))
		show_owed_mtime(ov, i, out);
	ov_attr_to_view(ov, i->ino, ov_inode_isdir(i) && i->nrdirs > 1, out);
	if (ov_inode_is(i, OV_I_UNLINKED) && ov_inode_isdir(i))
		out->stx_nlink = 0;
	else if (ov_inode_is(i, OV_I_UNLINKED) && !ov_inode_is(i, OV_I_UPPER) && out->stx_nlink > 0)
		out->stx_nlink--; /* the lower's other names are left */
	return 0;
}

int ov_getattr(struct overlay *ov, struct ov_inode *i, struct statx *out)
{
	OV_NS_READ(ov);
	ov_listing_touched(ov, i);
	return ov_getattr_locked(ov, i, out);
}

ssize_t ov_readlink(struct overlay *ov, struct ov_inode *i, char *buf, size_t size)
{
	OV_NS_READ(ov);
	ov_cleanup_real struct ov_real real = {0};
	int r = ov_real_get(ov, i, &real);

	return r < 0 ? r : ov_at_readlink(real.at, buf, size);
}

int ov_set_owner_mode(struct overlay *ov, struct ov_at at, const uid_t *uid, const gid_t *gid, const mode_t *mode)
{
	struct ov_override_stat st = {0};
	struct statx stx;
	int r;

	if (ov->override == OV_OVERRIDE_NONE) {
		if (uid || gid) {
			r = ov_at_chown(at, uid ? *uid : (uid_t)-1, gid ? *gid : (gid_t)-1);
			if (r < 0)
				return r;
		}
		return mode ? ov_at_chmod(at, *mode & 07777) : 0;
	}
	r = ov_statx_real(ov, &ov->layers[0], at, &stx);
	if (r < 0)
		return r;
	if (S_ISLNK(stx.stx_mode) && ov->override != OV_OVERRIDE_SECURITY)
		return 0; /* nowhere to keep it; a link's owner and mode matter little */
	st.uid = uid && *uid != (uid_t)-1 ? *uid : stx.stx_uid;
	st.gid = gid && *gid != (gid_t)-1 ? *gid : stx.stx_gid;
	st.mode = (mode ? *mode : stx.stx_mode) & 07777;
	st.type = stx.stx_mode & S_IFMT;
	st.major = stx.stx_rdev_major;
	st.minor = stx.stx_rdev_minor;
	if ((uid || gid) && !mode && !S_ISDIR(st.type))
		st.mode &= (st.mode & S_IXGRP) ? ~(uint32_t)(S_ISUID | S_ISGID) : ~(uint32_t)S_ISUID; /* as chown(2) */
	return ov_override_write(at, ov->override, &st);
}

/* Writing or truncating by one without the privilege takes setuid, and setgid of group-executables, away. */
int ov_kill_suidgid(struct overlay *ov, struct ov_at at)
{
	struct statx stx;
	mode_t mode;
	int r = ov_statx_real(ov, &ov->layers[0], at, &stx);

	if (r < 0)
		return r;
	mode = stx.stx_mode & 07777;
	mode &= ~(mode_t)S_ISUID;
	if (mode & S_IXGRP)
		mode &= ~(mode_t)S_ISGID;
	if (mode == (stx.stx_mode & 07777))
		return 0;
	return ov_set_owner_mode(ov, at, NULL, NULL, &mode);
}

int ov_mark_plain_names(struct overlay *ov, const struct ov_inode *i, struct ov_at at)
{
	bool candidate = false;

	pthread_mutex_lock(&ov->tab.lock);
	for (const struct ov_dentry *d = i->names; d && !candidate; d = d->alias_next)
		candidate = ov_whiteout_oci_parse(d->name, NULL);
	pthread_mutex_unlock(&ov->tab.lock);
	return candidate ? ov_whiteout_mark_plain(at, ov->xp) : 0;
}

static int set_size(struct overlay *ov, struct ov_inode *i, const struct ov_setattr *set)
{
	struct ov_fdslot *slot;
	struct statx stx;
	int err = 0;

	slot = ov_file_get(ov, i, true, &err);
	if (!slot)
		return err;
	ov_fdslot_learn_mtime(&ov->fds, slot, NULL);
	err = set->size == 0 ? ov_mark_plain_names(ov, i, ov_at_fd(slot->fd)) : 0;
	if (err == 0) {
		do
			err = ftruncate(slot->fd, set->size) < 0 ? -errno : 0;
		while (err == -EINTR);
	}
	/* what was just copied up has this size; an error would leave the kernel with the old one */
	if (err < 0 && ov_at_statx(ov_at_fd(slot->fd), STATX_SIZE, &stx) == 0 && (off_t)stx.stx_size == set->size)
		err = 0;
	if (err == 0 && (set->valid & OV_SET_KILL_SUIDGID))
		err = ov_kill_suidgid(ov, ov_at_fd(slot->fd));
	ov_fdslot_unpin(&ov->fds, slot);
	return err;
}

static int set_ids_and_mode(struct overlay *ov, struct ov_inode *i, struct ov_at at, const struct ov_setattr *set)
{
	const bool bare = set->valid & OV_SET_OWNER_AGAIN;
	uid_t uid = -1;
	gid_t gid = -1;
	int r;

	if (set->valid & OV_SET_UID) {
		r = ov_uid_to_disk(ov, set->uid, &uid);
		if (r < 0)
			return r;
	}
	if (set->valid & OV_SET_GID) {
		r = ov_gid_to_disk(ov, set->gid, &gid);
		if (r < 0)
			return r;
	}
	if (!bare && !(set->valid & (OV_SET_UID | OV_SET_GID | OV_SET_MODE)))
		return 0;
	if (ov_inode_isdir(i))
		ov_inode_unset(i, OV_I_PROPS);
	return ov_set_owner_mode(ov, at, bare || set->valid & OV_SET_UID ? &uid : NULL,
				 bare || set->valid & OV_SET_GID ? &gid : NULL,
				 set->valid & OV_SET_MODE ? &set->mode : NULL);
}

static int set_times(struct ov_at at, const struct ov_setattr *set)
{
	struct timespec ts[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_nsec = UTIME_OMIT}};
	int r;

	if (!(set->valid & (OV_SET_ATIME | OV_SET_MTIME)))
		return 0;
	if (set->valid & OV_SET_ATIME)
		ts[0] = set->atime;
	if (set->valid & OV_SET_MTIME)
		ts[1] = set->mtime;
	r = ov_at_utimens(at, ts);
	/* an append-only file has the time of its last write; the kernel's own copy of that must not fail a close() */
	return r == -EPERM && set->valid == OV_SET_MTIME && set->mtime.tv_nsec != UTIME_NOW ? 0 : r;
}

/* The same for I, whose mtime may be owed. Times lock held. */
static int set_times_of(struct overlay *ov, struct ov_inode *i, struct ov_at at, const struct ov_setattr *set)
{
	struct ov_fdslot *slot = NULL;
	int r;

	if ((set->valid & OV_SET_MTIME) && S_ISREG(i->type)) /* pinned: closing it could put the old one back */
		slot = ov_fdslot_get(&ov->fds, &i->slot, true);
	r = set_times(at, set);
	if (r == 0 && slot)
		ov_fdslot_learn_mtime(&ov->fds, slot, set->mtime.tv_nsec == UTIME_NOW ? NULL : &set->mtime);
	if (slot)
		ov_fdslot_unpin(&ov->fds, slot);
	return r;
}

/*
 * With the writeback cache the kernel sends the times it keeps after every unlink, rename, link: where they say what the
 * lower file says already there is nothing to do, above all no copy-up. 1: so it is (OUT is filled), 0, -errno.
 */
static int is_time_flush(struct overlay *ov, struct ov_inode *i, const struct ov_setattr *set, struct statx *out)
{
	int r;

	if (set->valid != OV_SET_MTIME || set->mtime.tv_nsec == UTIME_NOW || ov_inode_is(i, OV_I_UPPER))
		return 0;
	r = ov_getattr(ov, i, out);
	if (r < 0)
		return r;
	return out->stx_mtime.tv_sec == set->mtime.tv_sec && (long)out->stx_mtime.tv_nsec == set->mtime.tv_nsec;
}

int ov_setattr(struct overlay *ov, struct ov_inode *i, const struct ov_setattr *set, struct statx *out)
{
	unsigned flags = set->valid & OV_SET_SIZE ? OV_COPY_DATA | OV_COPY_TRUNC : 0;
	int r = is_time_flush(ov, i, set, out);

	if ((set->valid & OV_SET_SIZE) && set->size < 0)
		return -EINVAL; /* before a copy of that much is made */
	if (r)
		return r < 0 ? r : 0;
	if (!(set->valid & ~OV_SET_KILL_SUIDGID)) /* nothing that can be set */
		return ov_getattr(ov, i, out);
	r = ov_copy_up(ov, i, flags, set->valid & OV_SET_SIZE ? set->size : 0);
	if (r == -EPERM && set->valid == OV_SET_MTIME && set->mtime.tv_nsec != UTIME_NOW)
		return ov_getattr(ov, i, out); /* as in set_times() */
	if (r < 0)
		return r;
	OV_TIMES_LOCK(ov, i);
	OV_NS_READ(ov);
	ov_cleanup_real struct ov_real real = {0};

	if (set->valid & OV_SET_SIZE) {
		r = set_size(ov, i, set);
		if (r < 0)
			return r;
	}
	r = ov_real_get(ov, i, &real);
	if (r == 0)
		r = set_ids_and_mode(ov, i, real.at, set);
	if (r == 0)
		r = set_times_of(ov, i, real.at, set);
	if (r < 0 && (set->valid & OV_SET_SIZE)) {
		/* the kernel would go on with the old size; the truncation has set a time, too */
		ov_warn("truncated, but the times or the owner could not be set: %s", strerror(-r));
		r = 0;
	}
	if (r == 0)
		r = ov_getattr_locked(ov, i, out);
	return r;
}
