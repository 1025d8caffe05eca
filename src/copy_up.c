/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Copy-up: the only place where something of a lower reaches the upper. The copy is made complete in workdir (data,
 * owner, mode, xattrs, times, flags), synced, and appears by one link or rename. A crash leaves it there or not.
 */

#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

#include "core.h"
#include "crash.h"
#include "format/index.h"
#include "format/metacopy.h"
#include "format/origin.h"
#include "format/whiteout.h"
#include "format/xattr_names.h"
#include "sys/io.h"

#define BIG_COPY (64 * 1024) /* bytes from which another thread takes the requests meanwhile */

/* File flags that travel; append-only and immutable would lock us out and are handled apart. */
#define FLAGS_COPIED (FS_SYNC_FL | FS_NOATIME_FL | FS_NODUMP_FL | FS_DIRSYNC_FL | FS_NOCOW_FL | FS_COMPR_FL)

struct cu {
	struct overlay *ov;
	struct ov_inode *i;
	struct ov_real src;
	char src_name[NAME_MAX + 1]; /* the name may go while we copy */
	struct statx stx;            /* of the source, override_stat applied */
	uint64_t raw_ino;
	off_t size;                  /* bytes of data to copy */
	bool metacopy;
	int flags;                   /* chattr's, once FLAGS_KNOWN */
	bool flags_known;
	bool indexed;                /* goes into the index, as INDEX_NAME */
	char index_name[OV_INDEX_NAME];
	char tmp[32];                /* name in workdir/work, "" while there is none */
	int fd;                      /* regular file: the copy, opened for reading and writing */
	uint64_t outdated;           /* nodeid of a directory whose listing, which the kernel may keep, is wrong now; or 0 */
};

static void cu_release(struct cu *c)
{
	if (c->tmp[0])
		ov_cleanup_tmp(c->ov, c->tmp);
	if (c->fd >= 0)
		close(c->fd);
	ov_real_release(&c->src);
}

static struct ov_at cu_target(const struct cu *c)
{
	return c->fd >= 0 ? ov_at_fd(c->fd) : ov_at_name(c->ov->work_fd, c->tmp);
}

/* Find the source and pin it. Lowers never move, so it stays valid without the lock. */
static int cu_locate(struct cu *c)
{
	OV_NS_READ(c->ov);
	int r = ov_real_get(c->ov, c->i, &c->src);

	if (r < 0)
		return r;
	if (c->src.at.name) {
		snprintf(c->src_name, sizeof(c->src_name), "%s", c->src.at.name);
		c->src.at.name = c->src_name;
	} else if (ov_inode_isdir(c->i) && c->i->rdirs[0]->name) {
		snprintf(c->src_name, sizeof(c->src_name), "%s", c->i->rdirs[0]->name);
	}
	r = ov_statx_real(c->ov, c->src.layer, c->src.at, &c->stx);
	if (r == 0 && (c->stx.stx_mode & S_IFMT) != c->i->type)
		return -ESTALE; /* somebody exchanged it below us: no fifo where the view has a directory */
	return r;
}

static int make_named(struct cu *c)
{
	struct overlay *ov = c->ov;

	ov_tmp_name(ov, c->tmp);
	c->fd = ov_at_open(ov_at_name(ov->work_fd, c->tmp), O_CREAT | O_EXCL | O_RDWR | O_NOATIME, 0600);
	if (c->fd < 0) {
		c->tmp[0] = '\0';
		return c->fd;
	}
	return 0;
}

static int make_regular(struct cu *c)
{
	struct overlay *ov = c->ov;

	c->fd = -1;
	if (ov->can_tmpfile) {
		c->fd = ov_at_open(ov_at_name(ov->work_fd, "."), O_TMPFILE | O_RDWR | O_NOATIME, 0600);
		if (c->fd >= 0)
			return 0;
	}
	return make_named(c);
}

static int copy_symlink(struct cu *c)
{
	char target[PATH_MAX + 1];
	ssize_t n = ov_at_readlink(c->src.at, target, PATH_MAX);

	if (n < 0)
		return (int)n;
	target[n] = '\0';
	return symlinkat(target, c->ov->work_fd, c->tmp) < 0 ? -errno : 0;
}

/* An empty object of the right type in workdir. */
static int make_object(struct cu *c)
{
	struct overlay *ov = c->ov;
	mode_t type = c->stx.stx_mode & S_IFMT;
	dev_t dev = makedev(c->stx.stx_rdev_major, c->stx.stx_rdev_minor);
	int r;

	if (type == S_IFREG)
		return make_regular(c);
	ov_tmp_name(ov, c->tmp);
	if (type == S_IFDIR)
		r = mkdirat(ov->work_fd, c->tmp, 0700) < 0 ? -errno : 0;
	else if (type == S_IFLNK)
		r = copy_symlink(c);
	else if (ov->override != OV_OVERRIDE_NONE) /* kept as a plain file with its type in the xattr */
		r = mknodat(ov->work_fd, c->tmp, S_IFREG | 0600, 0) < 0 ? -errno : 0;
	else
		r = mknodat(ov->work_fd, c->tmp, type | 0600, dev) < 0 ? -errno : 0;
	if (r < 0)
		c->tmp[0] = '\0';
	return r;
}

static int copy_data(struct cu *c, int to)
{
	struct overlay *ov = c->ov;
	struct ov_fdslot *slot;
	int err = 0;

	{
		OV_NS_READ(ov);
		slot = ov_file_get(ov, c->i, false, &err);
	}
	if (!slot)
		return err;
	if (c->size >= BIG_COPY || ov->cfg.sync != OV_SYNC_OFF)
		ov_will_block(ov);
	c->flags_known = ioctl(slot->fd, FS_IOC_GETFLAGS, &c->flags) == 0; /* while it is open */
	err = ov_copy_data(slot->fd, to, c->size);
	ov_fdslot_unpin(&ov->fds, slot);
	return err;
}

static int copy_owner_mode(struct cu *c, struct ov_at to)
{
	struct overlay *ov = c->ov;
	mode_t mode = c->stx.stx_mode & 07777;
	int r;

	if (ov->override != OV_OVERRIDE_NONE) {
		struct ov_override_stat st = {
			.uid = c->stx.stx_uid,
			.gid = c->stx.stx_gid,
			.mode = mode,
			.type = c->stx.stx_mode & S_IFMT,
			.major = c->stx.stx_rdev_major,
			.minor = c->stx.stx_rdev_minor,
		};

		if (S_ISLNK(st.type) && ov->override != OV_OVERRIDE_SECURITY)
			return 0;
		return ov_override_write(to, ov->override, &st);
	}
	if (c->stx.stx_uid != ov->uid || c->stx.stx_gid != ov->gid || S_ISDIR(c->stx.stx_mode)) {
		r = ov_at_chown(to, c->stx.stx_uid, c->stx.stx_gid);
		if (r < 0)
			return r;
	}
	return S_ISLNK(c->stx.stx_mode) ? 0 : ov_at_chmod(to, mode);
}

/* chattr flags, as far as both sides have them; nothing depends on them, so failures pass. */
static void copy_fileattr(struct cu *c, struct ov_at to)
{
	ov_cleanup_fd int in = -1, out = -1;
	int flags = 0;

	if (!S_ISREG(c->stx.stx_mode) && !S_ISDIR(c->stx.stx_mode))
		return;
	if (!c->flags_known && !c->src.at.name) /* a directory that is open; not if that is O_PATH */
		c->flags_known = ioctl(c->src.at.fd, FS_IOC_GETFLAGS, &c->flags) == 0;
	if (!c->flags_known) {
		in = ov_at_open(c->src.at, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0);
		if (in < 0 || ioctl(in, FS_IOC_GETFLAGS, &c->flags) < 0)
			return;
	}
	if (!(c->flags & FLAGS_COPIED))
		return; /* what a new file got from the file system itself stays */
	if (c->fd < 0)
		out = ov_at_open(to, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0);
	if (ioctl(c->fd < 0 ? out : c->fd, FS_IOC_GETFLAGS, &flags) < 0)
		return;
	flags = (flags & ~FLAGS_COPIED) | (c->flags & FLAGS_COPIED);
	(void)ioctl(c->fd < 0 ? out : c->fd, FS_IOC_SETFLAGS, &flags);
}

/* Where it comes from, so that its st_ino stays: not for hard links that break here (as the kernel). */
static int write_origin(struct cu *c, struct ov_at to)
{
	struct overlay *ov = c->ov;
	struct ov_fh fh = {0};
	int r;

	if (!S_ISDIR(c->stx.stx_mode) && c->stx.stx_nlink > 1 && !c->indexed)
		return 0;
	if (!S_ISREG(c->stx.stx_mode) && !S_ISDIR(c->stx.stx_mode) && ov->xp == OV_XP_USER)
		return 0; /* user.* xattrs exist on files and directories only */
	r = ov_fh_encode(c->src.at, c->src.layer->uuid, false, &fh);
	if (r < 0 && r != -EOPNOTSUPP)
		return r;
	if (r < 0)
		fh.len = 0;
	r = ov_fh_write(to, ov->xp, OV_X_ORIGIN, &fh);
	return r == -EOPNOTSUPP || r == -EPERM ? 0 : r;
}

static int copy_metadata(struct cu *c)
{
	struct ov_at to = cu_target(c);
	struct timespec ts[2] = {
		{.tv_sec = c->stx.stx_atime.tv_sec, .tv_nsec = c->stx.stx_atime.tv_nsec},
		{.tv_sec = c->stx.stx_mtime.tv_sec, .tv_nsec = c->stx.stx_mtime.tv_nsec},
	};
	int r;

	r = copy_owner_mode(c, to); /* first: it would clear setuid and capabilities */
	if (r < 0)
		return r;
	OV_CRASH("copy-up.owner");
	r = ov_copy_xattrs(c->ov, c->src.layer, c->src.at, to);
	if (r < 0)
		return r;
	OV_CRASH("copy-up.xattrs");
	if (c->src.layer->override != OV_OVERRIDE_NONE && c->ov->override == OV_OVERRIDE_NONE && !S_ISLNK(c->stx.stx_mode))
		r = ov_at_chmod(to, c->stx.stx_mode & 07777); /* the stand-in's ACL may have been for another mode */
	if (r == 0)
		r = write_origin(c, to);
	if (r == 0 && c->indexed) /* the entry itself will be the only name in the upper */
		r = ov_nlink_write(to, c->ov->xp, 'U', (int)c->stx.stx_nlink - 1);
	if (r < 0)
		return r;
	OV_CRASH("copy-up.origin");
	if (c->metacopy) {
		r = ov_metacopy_write(to, c->ov->xp);
		if (r < 0)
			return r;
		OV_CRASH("copy-up.metacopy");
	}
	if (ov_whiteout_oci_parse(c->src_name, NULL) && (ov_is_file_on_disk(c->ov, c->stx.stx_mode) || S_ISDIR(c->stx.stx_mode))) {
		r = ov_whiteout_mark_plain(to, c->ov->xp); /* it was an ordinary file below, so it stays one */
		if (r < 0)
			return r;
	}
	copy_fileattr(c, to);
	if (S_ISREG(c->stx.stx_mode) && c->size < (off_t)c->stx.stx_size)
		ts[1].tv_nsec = UTIME_NOW; /* cut off already when it appears: it must not pass for the old file */
	return ov_at_utimens(to, ts);
}

/* Everything up to the moment where it appears. No lock held. */
static int prepare(struct cu *c)
{
	int r = make_object(c);

	if (r < 0)
		return r;
	OV_CRASH("copy-up.made");
	if (S_ISREG(c->stx.stx_mode)) {
		if (c->metacopy)
			r = ftruncate(c->fd, (off_t)c->stx.stx_size) < 0 ? -errno : 0;
		else if (c->size > 0)
			r = copy_data(c, c->fd);
		if (r < 0)
			return r;
		OV_CRASH("copy-up.data");
	}
	r = copy_metadata(c);
	if (r == 0 && c->fd >= 0 && c->size > 0 && !c->metacopy && c->ov->cfg.sync != OV_SYNC_OFF)
		r = ov_fsync(c->fd, false);
	OV_CRASH("copy-up.ready");
	return r;
}

/* The copy of an object that lost its name meanwhile lives on behind an fd alone. */
static int keep_nameless(struct cu *c)
{
	struct overlay *ov = c->ov;
	struct ov_fdslot *slot;
	bool reg = c->fd >= 0;
	int fd = c->fd;

	if (!reg)
		fd = ov_at_open(ov_at_name(ov->work_fd, c->tmp), O_PATH, 0);
	if (fd < 0)
		return fd;
	c->fd = -1;
	if (c->tmp[0])
		ov_cleanup_tmp(ov, c->tmp);
	c->tmp[0] = '\0';
	slot = ov_fdslot_put(&ov->fds, &c->i->slot, fd, reg ? OV_SLOT_WRITABLE : 0);
	if (!slot)
		return -ENOMEM;
	ov_fdslot_hold(&ov->fds, &c->i->slot, &c->i->held_fd);
	ov_fdslot_unpin(&ov->fds, slot);
	return 0;
}

/* The parent now holds something with an origin: say so, once. */
static int mark_impure(struct overlay *ov, struct ov_inode *dir, int fd)
{
	int r;

	if (ov_inode_is(dir, OV_I_IMPURE))
		return 0;
	r = ov_impure_write(ov_at_fd(fd), ov->xp);
	if (r < 0 && r != -EOPNOTSUPP && r != -EPERM)
		return r;
	ov_inode_set(dir, OV_I_IMPURE);
	OV_CRASH("copy-up.impure");
	return 0;
}

static int link_into_place(struct cu *c, int dirfd, const char *name)
{
	struct overlay *ov = c->ov;
	int r;

	if (c->tmp[0]) {
		r = ov_renameat2(ov->work_fd, c->tmp, dirfd, name, RENAME_NOREPLACE);
		if (r == -EINVAL)
			r = ov_renameat2(ov->work_fd, c->tmp, dirfd, name, 0);
		if (r == 0)
			c->tmp[0] = '\0';
		return r;
	}
	return ov_at_link(ov_at_fd(c->fd), dirfd, name);
}

/* Around what puts a copy into directory PARENT (fd DIRFD): its times stay as they were. */
static int begin_appear(struct overlay *ov, struct ov_inode *parent, int dirfd, struct statx *before)
{
	int r = mark_impure(ov, parent, dirfd);

	return r < 0 ? r : ov_at_statx(ov_at_fd(dirfd), STATX_BASIC_STATS, before);
}

static void end_appear(int dirfd, const struct statx *before)
{
	struct timespec ts[2] = {
		{.tv_sec = before->stx_atime.tv_sec, .tv_nsec = before->stx_atime.tv_nsec},
		{.tv_sec = before->stx_mtime.tv_sec, .tv_nsec = before->stx_mtime.tv_nsec},
	};

	(void)ov_at_utimens(ov_at_fd(dirfd), ts); /* best effort, as the kernel */
}

/* Appear in the upper directory of PARENT. Namespace lock held for writing. */
static int appear(struct cu *c, struct ov_inode *parent, const char *name)
{
	ov_cleanup_rfd struct ov_rfd d = ov_rfd_get(&c->ov->fds, ov_upper_rdir(parent));
	struct statx before;
	int r;

	if (d.fd < 0)
		return d.fd;
	r = begin_appear(c->ov, parent, d.fd, &before);
	if (r == 0)
		r = link_into_place(c, d.fd, name);
	if (r < 0)
		return r;
	OV_CRASH("copy-up.linked");
	end_appear(d.fd, &before);
	ov_listing_add(c->ov, parent, name, c->stx.stx_mode); /* it is in another layer now */
	return 0;
}

int ov_link_alias(struct overlay *ov, struct ov_inode *parent, int dirfd, struct ov_at from, const char *name)
{
	struct statx before;
	int r = begin_appear(ov, parent, dirfd, &before);

	if (r < 0)
		return r;
	if (linkat(from.fd, from.name, dirfd, name, 0) < 0)
		return -errno;
	end_appear(dirfd, &before);
	ov_listing_drop(ov, parent);
	return 0;
}

/* What directory I will have with its upper part in front; made before that appears, since it could not be taken back. */
static struct ov_rdir **with_upper(const struct ov_inode *i, struct ov_inode *parent, const char *name)
{
	struct ov_rdir **rdirs = malloc((i->nrdirs + 1u) * sizeof(*rdirs));

	if (!rdirs)
		return NULL;
	rdirs[0] = ov_rdir_new(ov_upper_rdir(parent), ov_upper_rdir(parent)->layer, name);
	if (!rdirs[0]) {
		free(rdirs);
		return NULL;
	}
	ov_rdir_set_wh(rdirs[0], OV_WH_NONE); /* it begins empty */
	memcpy(rdirs + 1, i->rdirs, i->nrdirs * sizeof(struct ov_rdir *));
	return rdirs;
}

static void switch_dir(struct ov_inode *i, struct ov_rdir **rdirs)
{
	free(i->rdirs);
	i->rdirs = rdirs;
	i->nrdirs++;
	ov_inode_unset(i, OV_I_PROPS);
}

/* An append-only file can be made so only when it has its name: true. Without the privilege the copy is an ordinary file. */
static bool keep_append_only(const struct cu *c)
{
	int flags = 0;

	if (!(c->stx.stx_attributes & STATX_ATTR_APPEND) || c->fd < 0 || ioctl(c->fd, FS_IOC_GETFLAGS, &flags) < 0)
		return false;
	flags |= FS_APPEND_FL;
	if (ioctl(c->fd, FS_IOC_SETFLAGS, &flags) == 0)
		return true;
	ov_warn("the copy of append-only '%s' is not append-only: %s", c->src_name, strerror(errno));
	return false;
}

/* The inode's object is the copy from now on; its open fd is the one of the copy. The mtime of an APPEND_ONLY one is its own. */
static void switch_file(struct cu *c, struct ov_rdir *dir, bool append_only)
{
	struct overlay *ov = c->ov;
	struct ov_inode *i = c->i;
	struct ov_rdir *old = i->rparent;

	i->rparent = ov_rdir_ref(dir);
	ov_rdir_unref(&ov->fds, old);
	free(i->rname);
	i->rname = NULL;
	if (c->fd >= 0 && !c->metacopy) {
		const struct timespec mtime = {.tv_sec = c->stx.stx_mtime.tv_sec, .tv_nsec = c->stx.stx_mtime.tv_nsec};
		unsigned flags = OV_SLOT_WRITABLE | (append_only ? OV_SLOT_APPEND : 0);
		struct ov_fdslot *slot = ov_fdslot_put(&ov->fds, &i->slot, ov_steal_fd(&c->fd), flags);

		if (slot) {
			bool cut = c->size != (off_t)c->stx.stx_size; /* its time is now */

			if (!append_only && !cut && ov_is_recent(&c->stx.stx_mtime))
				ov_fdslot_learn_mtime(&ov->fds, slot, &mtime);
			ov_fdslot_unpin(&ov->fds, slot);
		}
	} else {
		ov_fdslot_drop(&ov->fds, &i->slot);
	}
}

/* A broken hard link is an object of its own, with its own number, as after the next mount. */
static void broken_link(struct cu *c)
{
	struct overlay *ov = c->ov;
	ov_cleanup_real struct ov_real real = {0};
	struct statx stx;

	ov_inode_unset(c->i, OV_I_LOWERLINKS);
	if (ov_real_get(ov, c->i, &real) == 0 && ov_at_statx(real.at, STATX_INO, &stx) == 0)
		c->i->ino = ov_make_ino(ov, real.layer, stx.stx_ino);
	if (ov->hooks.inval_attr)
		ov->hooks.inval_attr(ov->hooks.arg, c->i->nodeid);
	c->outdated = c->i->names ? c->i->names->parent->nodeid : 0; /* its d_ino */
}

/* Remember where the data of a fresh metacopy is. */
static int remember_data(struct cu *c)
{
	if (c->i->data)
		return 0; /* the lower was a metacopy itself */
	c->i->data = ov_lowerdata_new(c->i->rparent, c->src_name);
	if (!c->i->data)
		return -ENOMEM;
	c->i->data->blocks = c->stx.stx_blocks + 1;
	return 0;
}

/* The copy of a file with several names goes into the index first, and from there to its names. */
static int commit_indexed(struct cu *c)
{
	struct overlay *ov = c->ov;
	struct ov_inode *i = c->i;
	char *rname = strdup(c->index_name);
	struct statx stx;
	int r = rname ? 0 : -ENOMEM;

	if (r == 0)
		r = ov_at_statx(cu_target(c), STATX_INO, &stx); /* before it appears, which could not be taken back */
	if (r == 0)
		r = link_into_place(c, ov->index_fd, c->index_name);
	if (r < 0) {
		free(rname);
		return r;
	}
	OV_CRASH("copy-up.indexed");
	switch_file(c, ov->index, keep_append_only(c));
	i->rname = rname;
	ov_inode_set(i, OV_I_UPPER | OV_I_NOPROT | OV_I_INDEXED | OV_I_LOWERNAMES);
	ov_inode_unset(i, OV_I_LOWERLINKS | OV_I_METACOPY); /* the lower may have been a metacopy */
	ov_inode_set_key(&ov->tab, i, (struct ov_key){.ino = stx.stx_ino, .fsid = ov->index_layer.fsid, .upper = 1});
	return 0;
}

static int commit(struct cu *c)
{
	struct overlay *ov = c->ov;
	struct ov_inode *i = c->i;
	struct ov_rdir **rdirs = NULL;
	struct ov_inode *parent;
	const char *name;
	int r = 0;

	OV_NS_WRITE(ov);
	if (ov_inode_is(i, OV_I_UNLINKED) || !i->names) {
		if (ov_inode_isdir(i))
			return -ENOENT;
		r = keep_nameless(c);
		if (r == 0) {
			struct ov_rdir *old = i->rparent;

			i->rparent = ov_rdir_ref(ov->roots[0]);
			ov_rdir_unref(&ov->fds, old);
			free(i->rname);
			i->rname = NULL;
			ov_inode_unset(i, OV_I_METACOPY);
			ov_inode_set(i, OV_I_UPPER | OV_I_NOPROT);
		}
		return r;
	}
	if (c->indexed)
		return commit_indexed(c);
	parent = i->names->parent;
	name = i->names->name;
	if (!ov_inode_is(parent, OV_I_UPPER))
		return -EAGAIN; /* moved meanwhile: the caller begins anew */
	if (c->metacopy)
		r = remember_data(c);
	if (ov_inode_isdir(i)) {
		rdirs = with_upper(i, parent, name);
		r = rdirs ? 0 : -ENOMEM;
	}
	if (r == 0)
		r = appear(c, parent, name);
	if (r < 0) {
		if (rdirs)
			ov_rdir_unref(&ov->fds, rdirs[0]);
		free(rdirs);
		return r;
	}
	OV_CRASH("copy-up.done");
	if (ov_inode_isdir(i)) {
		switch_dir(i, rdirs);
	} else {
		switch_file(c, ov_upper_rdir(parent), keep_append_only(c));
		if (c->metacopy)
			ov_inode_set(i, OV_I_METACOPY);
		else
			ov_inode_unset(i, OV_I_METACOPY); /* the lower was one */
	}
	ov_inode_set(i, OV_I_UPPER | OV_I_NOPROT);
	if (ov_inode_is(i, OV_I_LOWERLINKS))
		broken_link(c);
	return 0;
}

/* What chattr(1) forbids: any change of an immutable file but of its flags, and all but appending to an append-only one. */
static int check_change(unsigned prot, bool dir, unsigned flags)
{
	bool appends = (flags & (OV_COPY_DATA | OV_COPY_TRUNC)) == OV_COPY_DATA || dir;

	if (flags & OV_COPY_ATTRS)
		return 0;
	return (prot & FS_IMMUTABLE_FL) || ((prot & FS_APPEND_FL) && !appends) ? -EPERM : 0;
}

static int check_protected(const struct cu *c, unsigned flags)
{
	unsigned prot = (c->stx.stx_attributes & STATX_ATTR_IMMUTABLE ? FS_IMMUTABLE_FL : 0) |
			(c->stx.stx_attributes & STATX_ATTR_APPEND ? FS_APPEND_FL : 0);

	return check_change(prot, S_ISDIR(c->stx.stx_mode), flags);
}

static int copy_one(struct overlay *ov, struct ov_inode *i, unsigned flags, off_t size)
{
	struct cu c = {.ov = ov, .i = i, .fd = -1};
	char where[512];
	int r = cu_locate(&c);

	if (r == 0)
		r = check_protected(&c, flags);
	if (r == 0) {
		c.size = (off_t)c.stx.stx_size;
		r = ov_index_has(ov, i) ? ov_index_name(c.src.layer, c.src.at, c.index_name) : -EOPNOTSUPP;
		c.indexed = r == 0;
		/* what is in the index counts already if the name then cannot be linked, and the caller is told that nothing was cut */
		if ((flags & OV_COPY_TRUNC) && size < c.size && !c.indexed)
			c.size = size;
		if (r == -EOPNOTSUPP)
			r = 0; /* any other failure must not break the link */
		/* several names: the data could only be brought in later in place, where a crash would lose the old time */
		c.metacopy = ov->cfg.metacopy && S_ISREG(c.stx.stx_mode) && c.size > 0 && !(flags & OV_COPY_DATA) &&
			     !c.indexed && !ov_inode_is(i, OV_I_UNLINKED);
	}
	if (r == 0)
		r = prepare(&c);
	if (r == 0)
		r = commit(&c);
	if (c.outdated && ov->hooks.inval_dir) /* only now: who reads it may wait for what others are to serve meanwhile */
		ov->hooks.inval_dir(ov->hooks.arg, c.outdated);
	if (r < 0 && r != -EAGAIN && r != -EPERM && c.src.rdir)
		ov_warn("copy-up of '%s' failed: %s", ov_describe(c.src.rdir, c.src.at.name, where, sizeof(where)),
			strerror(-r));
	__atomic_add_fetch(&ov->copyups, r == 0, __ATOMIC_RELAXED);
	cu_release(&c);
	return r;
}

/* The data is in the upper file behind FD from now on; a file without a name is reached through it alone. */
static int use_fd(struct cu *c, int fd)
{
	struct overlay *ov = c->ov;
	struct ov_fdslot *slot = ov_fdslot_put(&ov->fds, &c->i->slot, fd, OV_SLOT_WRITABLE);

	if (!slot)
		return -ENOMEM;
	if (ov_inode_is(c->i, OV_I_UNLINKED))
		ov_fdslot_hold(&ov->fds, &c->i->slot, &c->i->held_fd);
	ov_fdslot_unpin(&ov->fds, slot);
	return 0;
}

/* Open the metacopy, an upper file: it may be renamed while its data is copied, so its name counts now only. */
static int open_metacopy(struct cu *c)
{
	struct overlay *ov = c->ov;
	OV_NS_READ(ov);
	ov_cleanup_real struct ov_real real = {0};
	int r = ov_real_get(ov, c->i, &real);

	if (r == 0)
		r = ov_statx_real(ov, real.layer, real.at, &c->stx);
	return r < 0 ? r : ov_at_open(real.at, O_RDWR, 0);
}

/* Names of the overlay's own xattrs that a metacopy keeps when it becomes a whole file. */
static int keep_marks(struct cu *c, struct ov_at to)
{
	static const enum ov_xname kept[] = {OV_X_ORIGIN, OV_X_PROTATTR, OV_X_PLAIN};
	int r = 0;

	for (size_t n = 0; r == 0 && n < OV_ARRAY_SIZE(kept); n++) {
		const char *name = ov_xattr_name(c->ov->xp, kept[n]);
		ov_cleanup_free char *value = NULL;
		ssize_t len = ov_at_getxattr_alloc(c->src.at, name, &value);

		if (len != -ENODATA && len != -EOPNOTSUPP)
			r = len < 0 ? (int)len : ov_at_setxattr(to, name, value, (size_t)len, 0);
	}
	return r;
}

/* What the metacopy says of itself, onto the copy that has the data. */
static int dress_late(struct cu *c)
{
	struct ov_at to = cu_target(c);
	struct timespec ts[2] = {
		{.tv_sec = c->stx.stx_atime.tv_sec, .tv_nsec = c->stx.stx_atime.tv_nsec},
		{.tv_sec = c->stx.stx_mtime.tv_sec, .tv_nsec = c->stx.stx_mtime.tv_nsec},
	};
	int r = copy_owner_mode(c, to);

	if (r == 0)
		r = ov_copy_xattrs(c->ov, c->src.layer, c->src.at, to);
	if (r == 0)
		r = keep_marks(c, to);
	if (r < 0)
		return r;
	c->flags_known = false;
	copy_fileattr(c, to);
	if (c->size < (off_t)c->stx.stx_size)
		ts[1].tv_nsec = UTIME_NOW;
	return ov_at_utimens(to, ts);
}

/*
 * May another inode take the place of the metacopy? Not if that has other names, or its own number is the view's, or it may not
 * be removed. Namespace lock held.
 */
static bool is_replaceable(const struct cu *c)
{
	const struct ov_inode *i = c->i;

	return !ov_inode_is(i, OV_I_UNLINKED | OV_I_INDEXED) && i->names && !i->rname && c->stx.stx_nlink == 1 &&
	       !(c->stx.stx_attributes & (STATX_ATTR_APPEND | STATX_ATTR_IMMUTABLE)) &&
	       i->ino != ov_make_ino(c->ov, ov_inode_layer(i), c->stx.stx_ino);
}

/* The whole file takes the place and the name of the metacopy. Namespace lock held for writing. */
static int replace_metacopy(struct cu *c)
{
	struct overlay *ov = c->ov;
	struct ov_inode *i = c->i;
	struct statx before, stx;
	int r = dress_late(c);

	OV_CRASH("late-data.ready");
	if (r == 0)
		r = ov_at_statx(ov_at_fd(c->fd), STATX_INO, &stx);
	if (r == 0)
		r = ov_at_statx(ov_at_fd(c->src.at.fd), STATX_BASIC_STATS, &before);
	if (r == 0)
		r = ov_renameat2(ov->work_fd, c->tmp, c->src.at.fd, c->src.at.name, 0);
	if (r < 0)
		return r;
	c->tmp[0] = '\0';
	OV_CRASH("late-data.replaced");
	end_appear(c->src.at.fd, &before);
	if (ov_inode_is(i, OV_I_KEYED))
		ov_inode_set_key(&ov->tab, i, (struct ov_key){.ino = stx.stx_ino, .fsid = c->src.layer->fsid, .upper = 1});
	ov_inode_unset(i, OV_I_METACOPY);
	ov_fdslot_drop(&ov->fds, &i->data->slot);
	ov_fdslot_drop(&ov->fds, &i->slot); /* an fd on what was replaced */
	(void)use_fd(c, ov_steal_fd(&c->fd)); /* else it is opened when needed */
	return 0;
}

/* The metacopy as it is now: it may be renamed and changed while its data is copied. Namespace lock held. */
static int locate_metacopy(struct cu *c)
{
	int r = ov_real_get(c->ov, c->i, &c->src);

	return r < 0 ? r : ov_statx_real(c->ov, c->src.layer, c->src.at, &c->stx);
}

/* The data of a metacopy follows: the whole file is made in workdir and replaces it. -EAGAIN where that cannot be. */
static int replace_late(struct cu *c, unsigned flags, off_t size)
{
	struct overlay *ov = c->ov;
	int r;

	{
		OV_NS_READ(ov);
		r = locate_metacopy(c);
		ov_real_release(&c->src);
		if (r < 0 || !is_replaceable(c))
			return r < 0 ? r : -EAGAIN;
	}
	c->size = (off_t)c->stx.stx_size;
	if ((flags & OV_COPY_TRUNC) && size < c->size)
		c->size = size;
	r = make_named(c);
	if (r == 0)
		r = copy_data(c, c->fd);
	OV_CRASH("late-data.copied");
	if (r == 0 && ov->cfg.sync != OV_SYNC_OFF)
		r = ov_fsync(c->fd, false);
	OV_CRASH("late-data.synced");
	if (r < 0)
		return r;
	OV_NS_WRITE(ov);
	r = locate_metacopy(c);
	if (r == 0)
		r = is_replaceable(c) ? replace_metacopy(c) : -EAGAIN;
	ov_real_release(&c->src);
	return r;
}

/*
 * Into the metacopy itself, which has no name, or several: kernel overlayfs made it then. Synced, and only then the mark goes.
 * A crash before that leaves the time of the try, with the old data.
 */
static int fill_late(struct cu *c, unsigned flags, off_t size)
{
	struct overlay *ov = c->ov;
	ov_cleanup_free char *cap = NULL;
	ov_cleanup_fd int fd = open_metacopy(c);
	struct timespec ts[2];
	ssize_t cap_len;
	int r;

	if (fd < 0)
		return fd;
	c->size = (off_t)c->stx.stx_size;
	if ((flags & OV_COPY_TRUNC) && size < c->size)
		c->size = size;
	cap_len = ov_at_getxattr_alloc(ov_at_fd(fd), "security.capability", &cap);
	r = copy_data(c, fd);
	if (r == 0 && c->size < (off_t)c->stx.stx_size) /* else a crash would leave zeros for what was not copied */
		r = ftruncate(fd, c->size) < 0 ? -errno : 0;
	if (r == 0 && cap_len > 0) /* writing the data took it away */
		r = ov_at_setxattr(ov_at_fd(fd), "security.capability", cap, (size_t)cap_len, 0);
	OV_CRASH("late-data.filled");
	if (r == 0 && ov->cfg.sync != OV_SYNC_OFF)
		r = ov_fsync(fd, false);
	if (r == 0 && c->size == (off_t)c->stx.stx_size) {
		ts[0] = (struct timespec){.tv_sec = c->stx.stx_atime.tv_sec, .tv_nsec = c->stx.stx_atime.tv_nsec};
		ts[1] = (struct timespec){.tv_sec = c->stx.stx_mtime.tv_sec, .tv_nsec = c->stx.stx_mtime.tv_nsec};
		r = ov_at_utimens(ov_at_fd(fd), ts);
	}
	if (r < 0)
		return r;
	OV_NS_WRITE(ov);
	OV_CRASH("late-data.times");
	r = ov_metacopy_remove(ov_at_fd(fd), ov->xp);
	OV_CRASH("late-data.unmarked");
	if (r < 0)
		return r;
	ov_inode_unset(c->i, OV_I_METACOPY);
	ov_fdslot_drop(&ov->fds, &c->i->data->slot);
	return use_fd(c, ov_steal_fd(&fd));
}

static int copy_late_data(struct overlay *ov, struct ov_inode *i, unsigned flags, off_t size)
{
	struct cu c = {.ov = ov, .i = i, .fd = -1};
	int r = replace_late(&c, flags, size);

	cu_release(&c);
	if (r == -EAGAIN) {
		c = (struct cu){.ov = ov, .i = i, .fd = -1};
		r = fill_late(&c, flags, size);
		cu_release(&c);
	}
	return r;
}

static bool is_done(struct ov_inode *i, unsigned flags)
{
	return ov_inode_is(i, OV_I_UPPER) && !((flags & OV_COPY_DATA) && ov_inode_is(i, OV_I_METACOPY)) &&
	       !(ov_inode_is(i, OV_I_LOWERNAMES) && !(flags & OV_COPY_NAMED));
}

/* The N-th name of I and its directory, referenced. NULL: there are not that many. */
static char *nth_name(struct overlay *ov, struct ov_inode *i, unsigned n, struct ov_inode **parent)
{
	struct ov_dentry *d;
	char *name = NULL;

	pthread_mutex_lock(&ov->tab.lock);
	for (d = i->names; d && n; d = d->alias_next)
		n--;
	if (d) {
		name = strdup(d->name);
		*parent = d->parent;
		d->parent->refs += name != NULL;
	}
	pthread_mutex_unlock(&ov->tab.lock);
	return name;
}

/* Link every known name of indexed I into the upper. Busy mark held: names may come and go meanwhile, which makes no harm. */
static int link_names(struct overlay *ov, struct ov_inode *i)
{
	int r = 0;

	ov_inode_unset(i, OV_I_LOWERNAMES); /* set again by a name that is found from now on */
	for (unsigned n = 0; r == 0; n++) {
		struct ov_inode *parent;
		ov_cleanup_free char *name = nth_name(ov, i, n, &parent);

		if (!name)
			break;
		r = ov_copy_up(ov, parent, 0, 0);
		if (r == 0) {
			OV_NS_WRITE(ov);
			if (ov_inode_is(i, OV_I_INDEXED) && !ov_inode_is(parent, OV_I_UNLINKED) &&
			    ov_dentry_inode(&ov->tab, parent, name) == i)
				r = ov_index_link_up(ov, i, parent, name);
		}
		ov_inode_unref(&ov->tab, parent);
	}
	if (r < 0)
		ov_inode_set(i, OV_I_LOWERNAMES);
	return r;
}

/* The uppermost ancestor of I (or I itself) that is still to be copied up, referenced. */
static struct ov_inode *next_to_copy(struct overlay *ov, struct ov_inode *i)
{
	OV_NS_READ(ov);
	while (!ov_inode_is(i, OV_I_UPPER) && !ov_index_has(ov, i) && !ov_inode_is(i, OV_I_UNLINKED) && i->names &&
	       !ov_inode_is(i->names->parent, OV_I_UPPER))
		i = i->names->parent;
	ov_inode_ref(&ov->tab, i);
	return i;
}

/* The same for what is in the upper and was protected by kernel overlayfs. */
static int check_protattr(struct overlay *ov, struct ov_inode *i, unsigned flags)
{
	if (!ov_inode_is(i, OV_I_UPPER) || ov_inode_is(i, OV_I_NOPROT) || (flags & OV_COPY_ATTRS))
		return 0;
	OV_NS_READ(ov);
	return check_change(ov_protattr(ov, i), ov_inode_isdir(i), flags);
}

int ov_copy_up(struct overlay *ov, struct ov_inode *i, unsigned flags, off_t size)
{
	int r = ov_want_write(ov);

	if (r == 0)
		r = check_protattr(ov, i, flags);
	if (r < 0)
		return r;
	while (!is_done(i, flags)) {
		struct ov_inode *t = next_to_copy(ov, i);
		unsigned f = t == i ? flags : 0;

		ov_inode_busy_begin(&ov->tab, t);
		r = 0;
		if (!ov_inode_is(t, OV_I_UPPER))
			r = copy_one(ov, t, f, size);
		else if (!is_done(t, f | OV_COPY_NAMED))
			r = copy_late_data(ov, t, f, size);
		if (r == 0 && ov_inode_is(t, OV_I_LOWERNAMES) && !(f & OV_COPY_NAMED))
			r = link_names(ov, t);
		ov_inode_busy_end(&ov->tab, t);
		ov_inode_unref(&ov->tab, t);
		if (r < 0 && r != -EAGAIN)
			return r;
	}
	return 0;
}
