/* SPDX-License-Identifier: GPL-2.0-or-later */

/* File data: always through the one fd that is the object's at this moment; no state per open. */

#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>

#include "core.h"
#include "format/index.h"
#include "sys/io.h"

#define QUICK_COPY ((size_t)128 * 1024) /* bytes that are copied before another thread takes the requests meanwhile */

/* Open the data of AT, without leaving an atime where we may: reads of the view are not reads of the layer's file. */
static int open_data(const struct ov_layer *layer, struct ov_at at, bool writable)
{
	int flags = (writable ? O_RDWR : O_RDONLY) | O_NONBLOCK | O_NOCTTY;
	int fd = -1;

	if (!layer->noatime_ok)
		fd = ov_at_open(at, flags | O_NOATIME, 0);
	if (fd < 0)
		fd = ov_at_open(at, flags, 0);
	return fd;
}

/*
 * The owner's mode does not bind who opened the file before it was changed (create with 0444, then write): without
 * CAP_DAC_OVERRIDE the bits are lent for the moment of the open.
 */
static int open_despite_mode(struct overlay *ov, struct ov_at at, bool writable)
{
	struct statx stx;
	mode_t mode;
	int fd, r;

	r = ov_at_statx(at, STATX_BASIC_STATS, &stx);
	if (r < 0 || stx.stx_uid != ov->uid)
		return -EACCES;
	mode = stx.stx_mode & 07777;
	r = ov_at_chmod(at, mode | (writable ? 0600 : 0400));
	if (r < 0)
		return -EACCES;
	fd = open_data(&ov->layers[0], at, writable);
	r = ov_at_chmod(at, mode);
	if (r < 0)
		ov_error("upper file: mode %04o could not be restored: %s", mode, strerror(-r));
	return fd;
}

/* *FLAGS: what the fd is good for (enum ov_fdslot_flags). An append-only file (chattr +a) is opened so. */
static int open_inode(struct overlay *ov, struct ov_inode *i, bool writable, unsigned *flags)
{
	ov_cleanup_real struct ov_real real = {0};
	bool upper = ov_inode_is(i, OV_I_UPPER) && !ov_inode_is(i, OV_I_METACOPY);
	bool for_writing = upper && !ov->cfg.force_read_only;
	int r, fd;

	if (i->data && ov_inode_is(i, OV_I_METACOPY))
		r = ov_real_get_name(ov, i->data->dir, i->data->name, &real);
	else
		r = ov_real_get(ov, i, &real);
	if (r < 0)
		return r;
	*flags = real.layer->page_cached ? OV_SLOT_PAGE_CACHED : 0;
	fd = open_data(real.layer, real.at, for_writing);
	if (fd == -EACCES && upper)
		fd = open_despite_mode(ov, real.at, for_writing);
	if (fd == -EPERM && for_writing && writable) {
		fd = ov_at_open(real.at, O_RDWR | O_APPEND | O_NOCTTY, 0);
		*flags |= OV_SLOT_APPEND;
	}
	if ((fd == -EACCES || fd == -EROFS || fd == -EPERM) && for_writing && !writable) {
		for_writing = false;
		fd = open_data(real.layer, real.at, false);
	}
	if (for_writing && (ov_protattr(ov, i) & FS_APPEND_FL))
		*flags |= OV_SLOT_APPEND;
	*flags |= for_writing ? OV_SLOT_WRITABLE : 0;
	return fd;
}

/* Where the fd on I's data is kept: a metacopy's own fd has no data. Namespace lock held. */
static struct ov_fdslot **data_slot(struct ov_inode *i)
{
	return i->data && ov_inode_is(i, OV_I_METACOPY) ? &i->data->slot : &i->slot;
}

struct ov_fdslot *ov_file_get(struct overlay *ov, struct ov_inode *i, bool writable, int *err)
{
	struct ov_fdslot *slot;
	unsigned flags = 0;
	int fd;

	if (!S_ISREG(i->type)) {
		*err = ov_inode_isdir(i) ? -EISDIR : -EINVAL;
		return NULL;
	}
	slot = ov_fdslot_get(&ov->fds, data_slot(i), writable);
	if (slot)
		return slot;
	fd = open_inode(ov, i, writable, &flags);
	if (fd == -EMFILE || fd == -ENFILE) {
		ov_fdcache_trim(&ov->fds);
		fd = open_inode(ov, i, writable, &flags);
	}
	if (fd >= 0 && writable && !(flags & OV_SLOT_WRITABLE)) {
		close(fd);
		fd = -EROFS;
	}
	if (fd < 0) {
		*err = fd;
		return NULL;
	}
	slot = ov_fdslot_put(&ov->fds, data_slot(i), fd, flags);
	if (!slot)
		*err = -ENOMEM;
	return slot;
}

/* A pinned fd with no lock held afterwards: data moves without the namespace lock. */
static struct ov_fdslot *file_get_unlocked(struct overlay *ov, struct ov_inode *i, bool writable, int *err)
{
	OV_NS_READ(ov);
	return ov_file_get(ov, i, writable, err);
}

/* Copy up, and the writable fd. */
static struct ov_fdslot *file_get_write(struct overlay *ov, struct ov_inode *i, int *err)
{
	if (!S_ISREG(i->type)) {
		*err = -EINVAL;
		return NULL;
	}
	*err = ov_copy_up(ov, i, OV_COPY_DATA, 0);
	return *err < 0 ? NULL : file_get_unlocked(ov, i, true, err);
}

struct ov_fdslot *ov_read_begin(struct overlay *ov, struct ov_inode *i, off_t off, int *err)
{
	OV_NS_READ(ov);
	*err = 0;
	if (off == 0) {
		ov_listing_touched(ov, i);
		ov_ahead_note_read(ov, i);
	}
	return ov_file_get(ov, i, false, err);
}

void ov_read_end(struct overlay *ov, struct ov_fdslot *slot)
{
	ov_fdslot_unpin(&ov->fds, slot);
}

ssize_t ov_read(struct overlay *ov, struct ov_inode *i, void *buf, size_t size, off_t off)
{
	struct ov_fdslot *slot;
	ssize_t n;
	int err = 0;

	slot = ov_read_begin(ov, i, off, &err);
	if (!slot)
		return err;
	n = slot->page_cached ? ov_pread_eof(slot->fd, buf, size, off) : ov_pread_full(slot->fd, buf, size, off);
	ov_fdslot_unpin(&ov->fds, slot);
	return n;
}

/*
 * An append-only file takes what lies beyond its end; the rest of the range is what it holds already (the kernel writes back
 * whole pages).
 */
static ssize_t write_append(int fd, const char *buf, size_t size, off_t off)
{
	struct statx stx;
	size_t have;
	ssize_t n;
	int r = ov_at_statx(ov_at_fd(fd), STATX_SIZE, &stx);

	if (r < 0)
		return r;
	if (off > (off_t)stx.stx_size)
		return -EPERM;
	have = (size_t)((off_t)stx.stx_size - off);
	if (have >= size)
		return (ssize_t)size;
	n = ov_pwrite_full(fd, buf + have, size - have, (off_t)stx.stx_size);
	return n < 0 ? n : n + (ssize_t)have;
}

/*
 * Write for a cache that keeps the mtime itself and sends it if it changed, as a rule right after: until then, and for the case
 * that it does not, what the file had is owed to it. The lock is held while data moves, too: the file system lets one write in
 * at a time, and waiting for that costs more.
 */
static ssize_t write_keeping_mtime(struct overlay *ov, struct ov_inode *i, struct ov_fdslot *slot, const void *buf, size_t size,
				   off_t off)
{
	OV_TIMES_LOCK(ov, i);
	struct statx stx;

	if (!ov_fdslot_owe_mtime(&ov->fds, slot) && ov_at_statx(ov_at_fd(slot->fd), STATX_MTIME, &stx) == 0 &&
	    ov_is_recent(&stx.stx_mtime)) {
		const struct timespec mtime = {.tv_sec = stx.stx_mtime.tv_sec, .tv_nsec = stx.stx_mtime.tv_nsec};

		ov_fdslot_learn_mtime(&ov->fds, slot, &mtime);
		ov_fdslot_owe_mtime(&ov->fds, slot);
	}
	return ov_pwrite_full(slot->fd, buf, size, off);
}

ssize_t ov_write(struct overlay *ov, struct ov_inode *i, const void *buf, size_t size, off_t off, bool kill_suidgid,
		 bool cached)
{
	struct ov_fdslot *slot;
	ssize_t n = 0;
	int err = 0;

	if (off < 0)
		return -EINVAL;
	slot = file_get_write(ov, i, &err);
	if (!slot) /* to try again after EINTR is no use where the kernel writes back and drops the page */
		return err == -EINTR ? -EIO : err;
	if (kill_suidgid)
		n = ov_kill_suidgid(ov, ov_at_fd(slot->fd));
	if (slot->append || !cached)
		ov_fdslot_learn_mtime(&ov->fds, slot, NULL);
	if (n == 0 && slot->append)
		n = write_append(slot->fd, buf, size, off);
	else if (n == 0)
		n = cached ? write_keeping_mtime(ov, i, slot, buf, size, off) : ov_pwrite_full(slot->fd, buf, size, off);
	ov_fdslot_unpin(&ov->fds, slot);
	return n;
}

int ov_fallocate(struct overlay *ov, struct ov_inode *i, int mode, off_t off, off_t len, bool kill_suidgid)
{
	struct ov_fdslot *slot;
	int err = 0;

	slot = file_get_write(ov, i, &err);
	if (!slot)
		return err;
	if (slot->append && (mode & ~FALLOC_FL_KEEP_SIZE)) {
		ov_fdslot_unpin(&ov->fds, slot);
		return -EPERM;
	}
	ov_fdslot_learn_mtime(&ov->fds, slot, NULL);
	do
		err = fallocate(slot->fd, mode, off, len) < 0 ? -errno : 0;
	while (err == -EINTR);
	if (err == 0 && kill_suidgid)
		err = ov_kill_suidgid(ov, ov_at_fd(slot->fd));
	ov_fdslot_unpin(&ov->fds, slot);
	return err;
}

off_t ov_lseek(struct overlay *ov, struct ov_inode *i, off_t off, int whence)
{
	struct ov_fdslot *slot;
	off_t r;
	int err = 0;

	slot = file_get_unlocked(ov, i, false, &err);
	if (!slot)
		return err;
	/* the offset of the shared fd is nobody's: SEEK_DATA and SEEK_HOLE do not depend on it */
	r = lseek(slot->fd, off, whence);
	if (r < 0)
		r = -errno;
	ov_fdslot_unpin(&ov->fds, slot);
	return r;
}

/* Most files are small: only what is more than that is left to another thread. -1 and errno if nothing could be copied. */
static ssize_t copy_range(struct overlay *ov, int in, off_t off_in, int out, off_t off_out, size_t len)
{
	size_t done = 0, want = len < QUICK_COPY ? len : QUICK_COPY;
	ssize_t n;

	for (;;) {
		do
			n = copy_file_range(in, &off_in, out, &off_out, want, 0);
		while (n < 0 && errno == EINTR);
		if (n < 0)
			return done ? (ssize_t)done : n;
		done += (size_t)n;
		if ((size_t)n < want || done == len || done > QUICK_COPY)
			return (ssize_t)done;
		want = len - done;
		ov_will_block(ov);
	}
}

ssize_t ov_copy_range(struct overlay *ov, struct ov_inode *in, off_t off_in, struct ov_inode *out, off_t off_out,
		      size_t len, bool kill_suidgid)
{
	struct ov_fdslot *from, *to;
	ssize_t n;
	int err = 0;

	to = file_get_write(ov, out, &err);
	if (!to)
		return err;
	from = file_get_unlocked(ov, in, false, &err); /* after the copy-up: it may be the same inode */
	if (!from) {
		ov_fdslot_unpin(&ov->fds, to);
		return err;
	}
	ov_fdslot_learn_mtime(&ov->fds, to, NULL);
	if (to->append) /* EXDEV and EOPNOTSUPP make the kernel copy through the page cache: write_append() sees to it */
		n = -EOPNOTSUPP;
	else
		n = copy_range(ov, from->fd, off_in, to->fd, off_out, len);
	if (n == -1)
		n = errno == EXDEV || errno == EINVAL ? -EOPNOTSUPP : -errno;
	if (n > 0 && kill_suidgid)
		(void)ov_kill_suidgid(ov, ov_at_fd(to->fd));
	ov_fdslot_unpin(&ov->fds, from);
	ov_fdslot_unpin(&ov->fds, to);
	return n;
}

/* Sync upper directory FD, which O_PATH fds cannot do themselves. */
static int fsync_dir_fd(int fd, bool datasync)
{
	ov_cleanup_fd int copy = -1;
	int r = ov_fsync(fd, datasync);

	if (r != -EBADF)
		return r;
	copy = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return copy < 0 ? -errno : ov_fsync(copy, datasync);
}

/* By the upper directory's own fd, pinned, with no lock held. Directories that are not in the upper have nothing to sync. */
static int fsync_dir(struct overlay *ov, struct ov_inode *i, bool datasync)
{
	struct ov_rdir *d;
	int fd, r;

	{
		OV_NS_READ(ov);
		if (!ov_inode_is(i, OV_I_UPPER))
			return 0;
		d = ov_rdir_ref(i->rdirs[0]);
		fd = ov_rdir_get_fd(&ov->fds, d);
	}
	r = fd < 0 ? fd : fsync_dir_fd(fd, datasync);
	if (fd >= 0)
		ov_rdir_put_fd(&ov->fds, d);
	ov_rdir_unref(&ov->fds, d);
	return r;
}

/* What is synced shall have the mtime that the view shows. */
static void settle_mtime(struct overlay *ov, struct ov_inode *i, struct ov_fdslot *slot)
{
	OV_TIMES_LOCK(ov, i);
	ov_fdslot_settle_mtime(&ov->fds, slot);
}

/* The attributes of a metacopy; its data is in a lower, which is on disk. */
static int fsync_metacopy(struct overlay *ov, struct ov_inode *i)
{
	ov_cleanup_fd int fd = -1;
	{
		OV_NS_READ(ov);
		ov_cleanup_real struct ov_real real = {0};
		int r = ov_real_get(ov, i, &real);

		if (r < 0)
			return r;
		fd = open_data(real.layer, real.at, false);
		if (fd == -EACCES)
			fd = open_despite_mode(ov, real.at, false);
	}
	return fd < 0 ? fd : ov_fsync(fd, false);
}

/* What ov_note_halves() told of. */
static int commit_halves(struct overlay *ov)
{
	uint64_t now = __atomic_load_n(&ov->halves, __ATOMIC_ACQUIRE);
	int r;

	if (__atomic_load_n(&ov->halves_done, __ATOMIC_ACQUIRE) >= now)
		return 0;
	r = ov_commit(ov->layers[0].root_fd);
	if (r == 0) /* an older count, by another thread, makes one commit too many, no more */
		__atomic_store_n(&ov->halves_done, now, __ATOMIC_RELEASE);
	return r;
}

int ov_fsync_inode(struct overlay *ov, struct ov_inode *i, bool datasync)
{
	struct ov_fdslot *slot;
	int err = 0;

	if (ov->cfg.sync == OV_SYNC_OFF || !ov_inode_is(i, OV_I_UPPER))
		return 0;
	err = commit_halves(ov);
	if (err < 0)
		return err;
	if (ov_inode_isdir(i))
		return fsync_dir(ov, i, datasync);
	if (!S_ISREG(i->type))
		return 0;
	if (ov_inode_is(i, OV_I_METACOPY))
		return datasync ? 0 : fsync_metacopy(ov, i);
	slot = file_get_unlocked(ov, i, false, &err);
	if (!slot)
		return err;
	if (!datasync)
		settle_mtime(ov, i, slot);
	err = ov_fsync(slot->fd, datasync);
	ov_fdslot_unpin(&ov->fds, slot);
	return err;
}

/* Attribute ioctls on an fd; sizes as the kernel's FUSE passes them. */
static int do_ioctl(int fd, unsigned cmd, const void *in, size_t in_size, void *out, size_t *out_size)
{
	union {
		int flags;
		struct fsxattr fsx;
	} arg = {0};
	size_t want = cmd == FS_IOC_FSGETXATTR || cmd == FS_IOC_FSSETXATTR ? sizeof(arg.fsx) : sizeof(arg.flags);
	bool set = cmd == FS_IOC_SETFLAGS || cmd == FS_IOC_FSSETXATTR;

	if (set) {
		if (in_size < want)
			return -EINVAL;
		memcpy(&arg, in, want);
	}
	if (ioctl(fd, cmd, &arg) < 0)
		return -errno;
	if (set) {
		*out_size = 0;
		return 0;
	}
	if (*out_size < want)
		return -EINVAL;
	memcpy(out, &arg, want);
	*out_size = want;
	return 0;
}

/* What the kernel's overlay keeps in an xattr is shown as the flags that it stands for. */
static void add_protattr(struct overlay *ov, struct ov_inode *i, unsigned cmd, void *out)
{
	OV_NS_READ(ov);
	unsigned prot = ov_protattr(ov, i);
	struct fsxattr fsx;
	int flags;

	if (cmd == FS_IOC_GETFLAGS) {
		memcpy(&flags, out, sizeof(flags));
		flags |= (int)prot;
		memcpy(out, &flags, sizeof(flags));
	} else if (cmd == FS_IOC_FSGETXATTR) {
		memcpy(&fsx, out, sizeof(fsx));
		fsx.fsx_xflags |= (prot & FS_APPEND_FL ? FS_XFLAG_APPEND : 0) | (prot & FS_IMMUTABLE_FL ? FS_XFLAG_IMMUTABLE : 0);
		memcpy(out, &fsx, sizeof(fsx));
	}
}

/* From now on the flags are those of the upper file itself. */
static int drop_protattr(struct overlay *ov, struct ov_inode *i)
{
	OV_NS_READ(ov);
	ov_cleanup_real struct ov_real real = {0};
	int r;

	if (!ov_protattr(ov, i))
		return 0;
	r = ov_real_get(ov, i, &real);
	return r < 0 ? r : ov_protattr_write(real.at, ov->xp, 0);
}

static int attr_ioctl(struct overlay *ov, struct ov_inode *i, unsigned cmd, const void *in, size_t in_size, void *out,
		      size_t *out_size)
{
	bool set = cmd == FS_IOC_SETFLAGS || cmd == FS_IOC_FSSETXATTR;
	struct ov_fdslot *slot;
	int r = 0;

	if (!set && cmd != FS_IOC_GETFLAGS && cmd != FS_IOC_FSGETXATTR && cmd != FS_IOC_GETVERSION)
		return -ENOTTY;
	if (!S_ISREG(i->type) && !ov_inode_isdir(i))
		return -ENOTTY;
	if (set) {
		r = ov_copy_up(ov, i, OV_COPY_ATTRS, 0);
		if (r == 0)
			r = drop_protattr(ov, i);
		if (r < 0)
			return r;
	}
	if (ov_inode_isdir(i)) {
		OV_NS_READ(ov);
		ov_cleanup_rfd struct ov_rfd f = ov_rfd_get(&ov->fds, i->rdirs[0]);

		return f.fd < 0 ? f.fd : do_ioctl(f.fd, cmd, in, in_size, out, out_size);
	}
	if (ov_inode_is(i, OV_I_METACOPY) && set)
		r = ov_copy_up(ov, i, OV_COPY_DATA | OV_COPY_ATTRS, 0);
	if (r < 0)
		return r;
	slot = file_get_unlocked(ov, i, false, &r);
	if (!slot)
		return r;
	if (set)
		settle_mtime(ov, i, slot); /* what is append-only from now on would keep the wrong one */
	r = do_ioctl(slot->fd, cmd, in, in_size, out, out_size);
	ov_fdslot_unpin(&ov->fds, slot);
	return r;
}

int ov_ioctl(struct overlay *ov, struct ov_inode *i, unsigned cmd, const void *in, size_t in_size, void *out,
	     size_t *out_size)
{
	int r = attr_ioctl(ov, i, cmd, in, in_size, out, out_size);

	if (r == 0 && *out_size)
		add_protattr(ov, i, cmd, out);
	return r;
}
