/* SPDX-License-Identifier: GPL-2.0-or-later */
#define FUSE_USE_VERSION 314
#include "ops.h"

#include <limits.h>
#include <linux/fuse.h>
#include <malloc.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "crash.h"
#include "inflight.h"
#include "log.h"
#include "splice.h"

#define BIG_WRITE (256 * 1024) /* bytes from which another thread reads the next request meanwhile */
#define DATA_BUF ((size_t)1 << 20)
#define TRIM_AFTER 16384 /* inodes */
_Static_assert(OV_LEDGER_REQUEST >= DATA_BUF + 4096, "the largest WRITE");

size_t ov_ops_print_stats(struct ov_front *fr, char *text, size_t size)
{
	size_t n = ov_stats_print(&fr->transport.stats, text, size);

	if (n < size)
		n += ov_print_state(fr->ov, text + n, size - n);
	if (n < size)
		n += (size_t)snprintf(text + n, size - n, "restarts %u\nrenewals %u\n", fr->ov->ledger->restarts,
				      fr->ov->ledger->renewals);
	return n < size ? n : size - 1;
}

/* One buffer a thread, for replies. */
static __thread char *data_buf;

static char *get_buf(void)
{
	if (!data_buf)
		data_buf = malloc(DATA_BUF);
	return data_buf;
}

/* The same, SIZE bytes, for READ and READDIR, which have nothing in the request that could be overwritten. */
static char *get_reply_buf(size_t size)
{
	char *room = ov_transport_room(size);

	return room ? room : get_buf();
}

void ov_ops_thread_end(void)
{
	free(data_buf);
	data_buf = NULL;
	ov_splice_thread_end();
}

static struct ov_front *front(fuse_req_t req)
{
	return fuse_req_userdata(req);
}

/* The inode of the request; NULL after an ESTALE reply. */
static struct ov_inode *node(fuse_req_t req, fuse_ino_t ino)
{
	struct ov_inode *i = ov_inode_get(front(req)->ov, ino);

	if (!i)
		fuse_reply_err(req, ESTALE);
	return i;
}

static struct ov_cred cred_of(fuse_req_t req)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);

	return (struct ov_cred){.uid = ctx->uid, .gid = ctx->gid, .umask = ctx->umask};
}

static void reply_status(fuse_req_t req, int r)
{
	fuse_reply_err(req, r < 0 ? -r : 0);
}

static struct timespec to_timespec(struct statx_timestamp t)
{
	return (struct timespec){.tv_sec = t.tv_sec, .tv_nsec = t.tv_nsec};
}

static void to_stat(const struct statx *stx, struct stat *st)
{
	memset(st, 0, sizeof(*st));
	st->st_ino = stx->stx_ino;
	st->st_mode = stx->stx_mode;
	st->st_nlink = stx->stx_nlink;
	st->st_uid = stx->stx_uid;
	st->st_gid = stx->stx_gid;
	st->st_rdev = makedev(stx->stx_rdev_major, stx->stx_rdev_minor);
	st->st_size = (off_t)stx->stx_size;
	st->st_blksize = stx->stx_blksize;
	st->st_blocks = (blkcnt_t)stx->stx_blocks;
	st->st_atim = to_timespec(stx->stx_atime);
	st->st_mtim = to_timespec(stx->stx_mtime);
	st->st_ctim = to_timespec(stx->stx_ctime);
}

/* For what lasts a second: asked with every second request, so it has to be cheap. */
static uint64_t coarse_ns(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void ov_ops_loses_name(struct ov_front *fr, uint64_t nodeid)
{
	ov_crossing_loses(&fr->crossing, nodeid, ov_transport_current()->pid, coarse_ns());
}

static void outdate(struct ov_front *fr, uint64_t nodeid)
{
	if (fr->ov->hooks.inval_attr)
		fr->ov->hooks.inval_attr(fr->ov->hooks.arg, nodeid);
}

/* Before attributes of NODEID are read. */
static void will_tell(struct ov_front *fr, uint64_t nodeid)
{
	ov_crossing_tells(&fr->crossing, nodeid, ov_transport_current()->pid, coarse_ns());
}

/* Before they are told. */
static void tell(struct ov_front *fr, uint64_t nodeid)
{
	if (nodeid && __atomic_load_n(&fr->crossing.lost_until, __ATOMIC_ACQUIRE) &&
	    ov_crossing_has_lost(&fr->crossing, nodeid, ov_transport_current()->pid, coarse_ns()))
		outdate(fr, nodeid);
}

/* NODEID, a directory or one of which an xattr was set, is another since, which is about to be told to who has done that. */
static void changed(struct ov_front *fr, uint64_t nodeid)
{
	if (ov_crossing_was_told(&fr->crossing, nodeid, ov_transport_current()->pid, coarse_ns()))
		outdate(fr, nodeid);
}

static void to_entry(const struct ov_front *fr, const struct ov_entry *e, struct fuse_entry_param *p)
{
	memset(p, 0, sizeof(*p));
	p->ino = e->nodeid;
	p->entry_timeout = fr->timeout;
	p->attr_timeout = fr->timeout;
	if (e->nodeid)
		to_stat(&e->attr, &p->attr);
}

static void reply_entry(fuse_req_t req, int r, const struct ov_entry *e)
{
	struct ov_front *fr = front(req);
	struct fuse_entry_param p;

	if (r < 0) {
		fuse_reply_err(req, -r);
		return;
	}
	to_entry(fr, e, &p);
	tell(fr, e->nodeid);
	OV_CRASH("entry.reply");
	if (fuse_reply_entry(req, &p) < 0 && e->nodeid)
		ov_forget(fr->ov, e->nodeid, 1); /* the request was interrupted: the kernel never saw it */
}

static void reply_attr(fuse_req_t req, uint64_t nodeid, int r, const struct statx *stx)
{
	struct stat st;

	if (r < 0) {
		fuse_reply_err(req, -r);
		return;
	}
	tell(front(req), nodeid);
	to_stat(stx, &st);
	fuse_reply_attr(req, &st, front(req)->timeout);
}

static void op_init(void *userdata, struct fuse_conn_info *conn)
{
	struct ov_front *fr = userdata;
	unsigned want = FUSE_CAP_ASYNC_READ | FUSE_CAP_DONT_MASK | FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_ASYNC_DIO |
			FUSE_CAP_IOCTL_DIR | FUSE_CAP_READDIRPLUS | FUSE_CAP_CACHE_SYMLINKS |
			FUSE_CAP_EXPLICIT_INVAL_DATA | FUSE_CAP_NO_OPEN_SUPPORT | FUSE_CAP_NO_OPENDIR_SUPPORT;

	if (fr->writeback)
		want |= FUSE_CAP_WRITEBACK_CACHE;
	if (fr->acl)
		want |= FUSE_CAP_POSIX_ACL;
	conn->want = conn->capable & want;
	if (conn->max_write > DATA_BUF) /* where pages are large; OV_LEDGER_REQUEST relies on it */
		conn->max_write = DATA_BUF;
	conn->max_readahead = 1 << 20;
	conn->max_background = 64;
	conn->congestion_threshold = 48;
	conn->time_gran = 1;
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct ov_inode *dir = node(req, parent);
	struct ov_entry e;
	int r;

	if (!dir)
		return;
	r = ov_lookup(front(req)->ov, dir, name, &e);
	if (r == 0 && e.nodeid) /* what changes it between the reading and here is beyond us: its number was not known */
		will_tell(front(req), e.nodeid);
	reply_entry(req, r, &e);
}

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi OV_UNUSED)
{
	struct ov_inode *i = node(req, ino);
	struct statx stx;

	if (!i)
		return;
	will_tell(front(req), ino);
	reply_attr(req, ino, ov_getattr(front(req)->ov, i, &stx), &stx);
}

static void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set, struct fuse_file_info *fi OV_UNUSED)
{
	struct ov_inode *i = node(req, ino);
	struct ov_setattr set = {0};
	struct statx stx;
	int r;

	if (!i)
		return;
	if (to_set & FUSE_SET_ATTR_MODE) {
		set.valid |= OV_SET_MODE;
		set.mode = attr->st_mode;
	}
	if (to_set & FUSE_SET_ATTR_UID) {
		set.valid |= OV_SET_UID;
		set.uid = attr->st_uid;
	}
	if (to_set & FUSE_SET_ATTR_GID) {
		set.valid |= OV_SET_GID;
		set.gid = attr->st_gid;
	}
	if (to_set & FUSE_SET_ATTR_SIZE) {
		set.valid |= OV_SET_SIZE;
		set.size = attr->st_size;
	}
	if (to_set & FUSE_SET_ATTR_ATIME) {
		set.valid |= OV_SET_ATIME;
		set.atime = attr->st_atim;
		if (to_set & FUSE_SET_ATTR_ATIME_NOW)
			set.atime.tv_nsec = UTIME_NOW;
	}
	if (to_set & FUSE_SET_ATTR_MTIME) {
		set.valid |= OV_SET_MTIME;
		set.mtime = attr->st_mtim;
		if (to_set & FUSE_SET_ATTR_MTIME_NOW)
			set.mtime.tv_nsec = UTIME_NOW;
	}
	if (!set.valid && ((to_set & FUSE_SET_ATTR_CTIME) || !S_ISREG(i->type)))
		set.valid |= OV_SET_OWNER_AGAIN;
	if (ov_transport_current()->kill_suidgid)
		set.valid |= OV_SET_KILL_SUIDGID;
	r = ov_setattr(front(req)->ov, i, &set, &stx);
	reply_attr(req, ino, r, &stx);
}

static void op_readlink(fuse_req_t req, fuse_ino_t ino)
{
	struct ov_inode *i = node(req, ino);
	char buf[PATH_MAX + 1];
	ssize_t n;

	if (!i)
		return;
	n = ov_readlink(front(req)->ov, i, buf, PATH_MAX);
	if (n < 0) {
		fuse_reply_err(req, (int)-n);
		return;
	}
	buf[n] = '\0';
	fuse_reply_readlink(req, buf);
}

static void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
	struct ov_inode *dir = node(req, parent);
	struct ov_cred cred = cred_of(req);
	struct ov_entry e;
	int r;

	if (!dir)
		return;
	r = ov_mknod(front(req)->ov, dir, name, mode, rdev, &cred, &e);
	if (r == 0)
		changed(front(req), parent);
	reply_entry(req, r, &e);
}

static void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	struct ov_inode *dir = node(req, parent);
	struct ov_cred cred = cred_of(req);
	struct ov_entry e;
	int r;

	if (!dir)
		return;
	r = ov_mkdir(front(req)->ov, dir, name, mode, &cred, &e);
	if (r == 0)
		changed(front(req), parent);
	reply_entry(req, r, &e);
}

static void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
	struct ov_inode *dir = node(req, parent);
	struct ov_cred cred = cred_of(req);
	struct ov_entry e;
	int r;

	if (!dir)
		return;
	r = ov_symlink(front(req)->ov, dir, name, target, &cred, &e);
	if (r == 0)
		changed(front(req), parent);
	reply_entry(req, r, &e);
}

static void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t newparent, const char *newname)
{
	struct ov_inode *i = node(req, ino);
	struct ov_inode *dir = i ? node(req, newparent) : NULL;
	struct ov_entry e;
	int r;

	if (!dir)
		return;
	r = ov_link(front(req)->ov, i, dir, newname, &e);
	if (r == 0)
		changed(front(req), newparent);
	reply_entry(req, r, &e);
}

static void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct ov_inode *dir = node(req, parent);
	int r;

	if (!dir)
		return;
	r = ov_unlink(front(req)->ov, dir, name);
	if (r == 0)
		changed(front(req), parent);
	reply_status(req, r);
}

static void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct ov_inode *dir = node(req, parent);
	int r;

	if (!dir)
		return;
	r = ov_rmdir(front(req)->ov, dir, name);
	if (r == 0)
		changed(front(req), parent);
	reply_status(req, r);
}

static void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t newparent, const char *newname,
		      unsigned flags)
{
	struct ov_inode *olddir = node(req, parent);
	struct ov_inode *newdir = olddir ? node(req, newparent) : NULL;
	int r;

	if (!newdir)
		return;
	r = ov_rename(front(req)->ov, olddir, name, newdir, newname, flags);
	if (r == 0) {
		changed(front(req), parent);
		changed(front(req), newparent);
	}
	reply_status(req, r);
}

/* Never again: the kernel then stops sending OPEN, RELEASE, OPENDIR, RELEASEDIR for this connection. */
static void op_open(fuse_req_t req, fuse_ino_t ino OV_UNUSED, struct fuse_file_info *fi OV_UNUSED)
{
	fuse_reply_err(req, ENOSYS);
}

/* Answer a large READ straight from the file's cached pages; false if that is not possible. */
static bool read_spliced(fuse_req_t req, struct ov_inode *i, size_t size, off_t off)
{
	struct overlay *ov = front(req)->ov;
	struct ov_fdslot *slot;
	bool done = false;
	int err;

	if (size < OV_SPLICE_MIN || !ov_transport_is_device())
		return false;
	slot = ov_read_begin(ov, i, off, &err);
	if (!slot)
		return false;
	if (slot->page_cached)
		done = ov_splice_reply(front(req)->fd, ov_transport_current()->unique, slot->fd, off, size) == 0;
	ov_read_end(ov, slot);
	if (done)
		fuse_reply_none(req);
	return done;
}

static void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi OV_UNUSED)
{
	struct ov_inode *i = node(req, ino);
	char *buf;
	ssize_t n;

	if (!i)
		return;
	if (read_spliced(req, i, size, off))
		return;
	if (size > DATA_BUF)
		size = DATA_BUF;
	buf = get_reply_buf(size);
	if (!buf) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	n = ov_read(front(req)->ov, i, buf, size, off);
	if (n < 0)
		fuse_reply_err(req, (int)-n);
	else
		fuse_reply_buf(req, buf, (size_t)n);
}

static void op_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off,
		     struct fuse_file_info *fi)
{
	struct overlay *ov = front(req)->ov;
	struct ov_inode *i = node(req, ino);
	ssize_t n;

	if (!i)
		return;
	if (size >= BIG_WRITE && ov->hooks.will_block)
		ov->hooks.will_block(ov->hooks.arg);
	n = ov_write(ov, i, buf, size, off, ov_transport_current()->kill_suidgid,
		     front(req)->writeback && fi->writepage);
	if (n < 0)
		fuse_reply_err(req, (int)-n);
	else
		fuse_reply_write(req, (size_t)n);
}

static void op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi OV_UNUSED)
{
	struct overlay *ov = front(req)->ov;
	struct ov_inode *i = node(req, ino);

	if (!i)
		return;
	if (ov->hooks.will_block)
		ov->hooks.will_block(ov->hooks.arg);
	reply_status(req, ov_fsync_inode(ov, i, datasync));
}

static void op_statfs(fuse_req_t req, fuse_ino_t ino OV_UNUSED)
{
	struct statvfs st;
	int r = ov_statfs(front(req)->ov, &st);

	if (r < 0)
		fuse_reply_err(req, -r);
	else
		fuse_reply_statfs(req, &st);
}

/* ---- directories ---- */

struct dir_reply {
	fuse_req_t req;
	char *buf;
	size_t size, used;
	bool plus;
};

static bool dir_fits(void *arg, const char *name)
{
	struct dir_reply *d = arg;
	size_t need = d->plus ? fuse_add_direntry_plus(d->req, NULL, 0, name, NULL, 0)
			      : fuse_add_direntry(d->req, NULL, 0, name, NULL, 0);

	return need <= d->size - d->used;
}

static bool dir_fill(void *arg, const char *name, const struct ov_entry *e, uint64_t next)
{
	struct dir_reply *d = arg;
	size_t room = d->size - d->used, need;
	struct fuse_entry_param p;
	struct stat st;

	if (d->plus) {
		to_entry(front(d->req), e, &p);
		if (e->nodeid && S_ISDIR(e->attr.stx_mode))
			will_tell(front(d->req), e->nodeid);
		if (e->nodeid)
			tell(front(d->req), e->nodeid);
		else
			to_stat(&e->attr, &p.attr);
		need = fuse_add_direntry_plus(d->req, d->buf + d->used, room, name, &p, (off_t)next);
	} else {
		to_stat(&e->attr, &st);
		need = fuse_add_direntry(d->req, d->buf + d->used, room, name, &st, (off_t)next);
	}
	if (need > room)
		return false;
	d->used += need;
	return true;
}

static void read_directory(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, bool plus)
{
	struct ov_inode *i = node(req, ino);
	struct dir_reply d = {.req = req, .size = size < DATA_BUF ? size : DATA_BUF, .plus = plus};
	int r;

	if (!i)
		return;
	d.buf = get_reply_buf(d.size);
	if (!d.buf) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	r = ov_readdir(front(req)->ov, i, (uint64_t)off, plus, dir_fits, dir_fill, &d);
	OV_CRASH("readdir.reply");
	if (r < 0 && !d.used)
		fuse_reply_err(req, -r);
	else
		fuse_reply_buf(req, d.buf, d.used);
}

static void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi OV_UNUSED)
{
	read_directory(req, ino, size, off, false);
}

static void op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi OV_UNUSED)
{
	read_directory(req, ino, size, off, true);
}

/* ---- xattrs ---- */

static void reply_xattr(fuse_req_t req, const char *buf, size_t size, ssize_t n)
{
	if (n < 0)
		fuse_reply_err(req, (int)-n);
	else if (size == 0)
		fuse_reply_xattr(req, (size_t)n);
	else
		fuse_reply_buf(req, buf, (size_t)n);
}

/* The counts of requests, for root and the owner of the mount. */
static ssize_t get_stats(fuse_req_t req, char *buf, size_t size)
{
	struct ov_front *fr = front(req);
	const struct fuse_ctx *ctx = fuse_req_ctx(req);
	char text[4096];
	size_t n;

	if (ctx->uid != 0 && ctx->uid != fr->owner)
		return -ENODATA;
	n = ov_ops_print_stats(fr, text, sizeof(text));
	if (size == 0)
		return (ssize_t)n + 64; /* it may grow until it is read */
	if (n > size)
		return -ERANGE;
	memcpy(buf, text, n);
	return (ssize_t)n;
}

/* Where there are none the kernel need not ask again: not for the capability of each file that is written or given away. */
static bool without_xattrs(fuse_req_t req)
{
	if (!front(req)->ov->cfg.noxattrs)
		return false;
	fuse_reply_err(req, ENOSYS);
	return true;
}

static void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	struct ov_inode *i = node(req, ino);
	char *buf = size ? get_buf() : NULL;
	ssize_t n;

	if (!i)
		return;
	if (size && !buf) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	if (size > DATA_BUF)
		size = DATA_BUF;
	if (ino == FUSE_ROOT_ID && strcmp(name, OV_STATS_XATTR) == 0)
		n = get_stats(req, buf, size);
	else if (without_xattrs(req))
		return;
	else
		n = ov_getxattr(front(req)->ov, i, name, buf, size);
	reply_xattr(req, buf, size, n);
}

static void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
	struct ov_inode *i = node(req, ino);
	char *buf = size ? get_buf() : NULL;
	ssize_t n;

	if (!i || without_xattrs(req))
		return;
	if (size && !buf) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	if (size > DATA_BUF)
		size = DATA_BUF;
	n = ov_listxattr(front(req)->ov, i, fuse_req_ctx(req)->uid == 0, buf, size);
	reply_xattr(req, buf, size, n);
}

static void op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
	struct ov_inode *i = node(req, ino);
	int r;

	if (!i)
		return;
	r = ov_removexattr(front(req)->ov, i, name);
	if (r == 0)
		changed(front(req), ino);
	reply_status(req, r);
}

/* ---- the rest of files ---- */

/* FALLOCATE and COPY_FILE_RANGE do not say whether setuid may stay; the caller's uid is the best guess at CAP_FSETID. */
static bool lacks_fsetid(fuse_req_t req)
{
	return fuse_req_ctx(req)->uid != 0;
}

static void op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len,
			 struct fuse_file_info *fi OV_UNUSED)
{
	struct ov_inode *i = node(req, ino);

	if (i)
		reply_status(req, ov_fallocate(front(req)->ov, i, mode, off, len, lacks_fsetid(req)));
}

static void op_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi OV_UNUSED)
{
	struct overlay *ov = front(req)->ov;
	struct ov_inode *i = node(req, ino);
	off_t r;

	if (!i)
		return;
	/* the kernel asks before it has written back: holes would be seen where dirty pages are */
	if (ov_inode_is(i, OV_I_UPPER) && ov->hooks.flush_data && !ov->hooks.flush_data(ov->hooks.arg, ino)) {
		fuse_reply_err(req, ENOSYS); /* then the kernel takes everything for data: coarse, but right */
		return;
	}
	r = ov_lseek(front(req)->ov, i, off, whence);
	if (r < 0)
		fuse_reply_err(req, (int)-r);
	else
		fuse_reply_lseek(req, r);
}

static void op_copy_file_range(fuse_req_t req, fuse_ino_t in, off_t off_in, struct fuse_file_info *fi_in OV_UNUSED,
			       fuse_ino_t out, off_t off_out, struct fuse_file_info *fi_out OV_UNUSED, size_t len,
			       int flags OV_UNUSED)
{
	struct overlay *ov = front(req)->ov;
	struct ov_inode *from = node(req, in);
	struct ov_inode *to = from ? node(req, out) : NULL;
	ssize_t n;

	if (!to)
		return;
	n = ov_copy_range(ov, from, off_in, to, off_out, len, lacks_fsetid(req));
	if (n < 0)
		fuse_reply_err(req, (int)-n);
	else
		fuse_reply_write(req, (size_t)n);
}

static void op_ioctl(fuse_req_t req, fuse_ino_t ino, unsigned cmd, void *arg OV_UNUSED,
		     struct fuse_file_info *fi OV_UNUSED, unsigned flags, const void *in, size_t in_size,
		     size_t out_size)
{
	struct ov_inode *i = node(req, ino);
	char out[256];
	size_t n = out_size < sizeof(out) ? out_size : sizeof(out);
	int r;

	if (!i)
		return;
	if (flags & FUSE_IOCTL_COMPAT) {
		fuse_reply_err(req, ENOSYS);
		return;
	}
	r = ov_ioctl(front(req)->ov, i, cmd, in, in_size, out, &n);
	if (r < 0)
		fuse_reply_err(req, -r);
	else
		fuse_reply_ioctl(req, 0, n ? out : NULL, n);
}

const struct fuse_lowlevel_ops ov_fuse_ops = {
	.init = op_init,
	.lookup = op_lookup,
	.getattr = op_getattr,
	.setattr = op_setattr,
	.readlink = op_readlink,
	.mknod = op_mknod,
	.mkdir = op_mkdir,
	.symlink = op_symlink,
	.link = op_link,
	.unlink = op_unlink,
	.rmdir = op_rmdir,
	.rename = op_rename,
	.open = op_open,
	.opendir = op_open,
	.read = op_read,
	.write = op_write,
	.fsync = op_fsync,
	.fsyncdir = op_fsync,
	.statfs = op_statfs,
	.readdir = op_readdir,
	.readdirplus = op_readdirplus,
	.getxattr = op_getxattr,
	.listxattr = op_listxattr,
	.removexattr = op_removexattr,
	.fallocate = op_fallocate,
	.lseek = op_lseek,
	.copy_file_range = op_copy_file_range,
	.ioctl = op_ioctl,
};

/* COUNT inodes were forgotten: after many, what they occupied goes back to the system, which free() alone does not do. */
static void trim_memory(struct ov_front *fr, size_t count)
{
	size_t sum = __atomic_add_fetch(&fr->forgotten, count, __ATOMIC_RELAXED);

	if (sum < TRIM_AFTER)
		return;
	__atomic_store_n(&fr->forgotten, 0, __ATOMIC_RELAXED);
#ifdef __GLIBC__
	malloc_trim(0);
#endif
}

/* ---- requests that libfuse of the floor does not know, or that it need not see ---- */

static void to_fuse_attr(const struct statx *stx, struct fuse_attr *a)
{
	memset(a, 0, sizeof(*a));
	a->ino = stx->stx_ino;
	a->size = stx->stx_size;
	a->blocks = stx->stx_blocks;
	a->atime = (uint64_t)stx->stx_atime.tv_sec;
	a->mtime = (uint64_t)stx->stx_mtime.tv_sec;
	a->ctime = (uint64_t)stx->stx_ctime.tv_sec;
	a->atimensec = stx->stx_atime.tv_nsec;
	a->mtimensec = stx->stx_mtime.tv_nsec;
	a->ctimensec = stx->stx_ctime.tv_nsec;
	a->mode = stx->stx_mode;
	a->nlink = stx->stx_nlink;
	a->uid = stx->stx_uid;
	a->gid = stx->stx_gid;
	a->rdev = (stx->stx_rdev_minor & 0xff) | (stx->stx_rdev_major << 8) | ((stx->stx_rdev_minor & ~0xffu) << 12);
	a->blksize = stx->stx_blksize;
}

static void split_timeout(double t, uint64_t *sec, uint32_t *nsec)
{
	*sec = (uint64_t)t;
	*nsec = (uint32_t)((t - (double)*sec) * 1e9);
}

/* struct fuse_create_in in, fuse_entry_out and fuse_open_out back: O_TMPFILE. */
static void raw_tmpfile(struct ov_front *fr, const struct fuse_buf *buf)
{
	const struct ov_request *rq = ov_transport_current();
	struct {
		struct fuse_entry_out entry;
		struct fuse_open_out open;
	} out;
	struct fuse_create_in in;
	struct ov_inode *dir = ov_inode_get(fr->ov, rq->nodeid);
	struct ov_cred cred = {.uid = rq->uid, .gid = rq->gid};
	struct ov_entry e;
	int r = -EINVAL;

	if (buf->size >= sizeof(struct fuse_in_header) + sizeof(in)) {
		memcpy(&in, (char *)buf->mem + sizeof(struct fuse_in_header), sizeof(in));
		cred.umask = in.umask;
		r = !dir ? -ESTALE : !ov_inode_isdir(dir) ? -ENOTDIR : ov_tmpfile(fr->ov, dir, in.mode, &cred, &e);
	}
	memset(&out, 0, sizeof(out));
	if (r == 0) {
		out.entry.nodeid = e.nodeid;
		split_timeout(fr->timeout, &out.entry.entry_valid, &out.entry.entry_valid_nsec);
		split_timeout(fr->timeout, &out.entry.attr_valid, &out.entry.attr_valid_nsec);
		to_fuse_attr(&e.attr, &out.entry.attr);
		out.open.open_flags = FOPEN_KEEP_CACHE;
	}
	if (ov_transport_reply(fr->fd, r, &out, sizeof(out)) < 0 && r == 0)
		ov_forget(fr->ov, e.nodeid, 1);
}

/* struct fuse_statx and its envelope, 7.39 */
struct raw_sx_time {
	int64_t tv_sec;
	uint32_t tv_nsec;
	int32_t reserved;
};
struct raw_statx_out {
	uint64_t attr_valid;
	uint32_t attr_valid_nsec;
	uint32_t flags;
	uint64_t spare[2];
	struct {
		uint32_t mask, blksize;
		uint64_t attributes;
		uint32_t nlink, uid, gid;
		uint16_t mode, spare0;
		uint64_t ino, size, blocks, attributes_mask;
		struct raw_sx_time atime, btime, ctime, mtime;
		uint32_t rdev_major, rdev_minor, dev_major, dev_minor;
		uint64_t spare2[14];
	} stat;
};
_Static_assert(sizeof(struct raw_statx_out) == 288, "struct fuse_statx_out has 288 bytes");

static struct raw_sx_time to_sx_time(struct statx_timestamp t)
{
	return (struct raw_sx_time){.tv_sec = t.tv_sec, .tv_nsec = t.tv_nsec};
}

static void raw_statx(struct ov_front *fr)
{
	struct ov_inode *i = ov_inode_get(fr->ov, ov_transport_current()->nodeid);
	struct raw_statx_out out;
	struct statx s;
	int r;

	if (i)
		will_tell(fr, i->nodeid);
	r = i ? ov_getattr(fr->ov, i, &s) : -ESTALE;
	memset(&out, 0, sizeof(out));
	if (r == 0) {
		tell(fr, i->nodeid);
		split_timeout(fr->timeout, &out.attr_valid, &out.attr_valid_nsec);
		out.stat.mask = s.stx_mask & (STATX_BASIC_STATS | STATX_BTIME);
		out.stat.blksize = s.stx_blksize;
		out.stat.nlink = s.stx_nlink;
		out.stat.uid = s.stx_uid;
		out.stat.gid = s.stx_gid;
		out.stat.mode = s.stx_mode;
		out.stat.ino = s.stx_ino;
		out.stat.size = s.stx_size;
		out.stat.blocks = s.stx_blocks;
		out.stat.atime = to_sx_time(s.stx_atime);
		out.stat.btime = to_sx_time(s.stx_btime);
		out.stat.ctime = to_sx_time(s.stx_ctime);
		out.stat.mtime = to_sx_time(s.stx_mtime);
		out.stat.rdev_major = s.stx_rdev_major;
		out.stat.rdev_minor = s.stx_rdev_minor;
	}
	ov_transport_reply(fr->fd, r, &out, sizeof(out));
}

/* Go on with a new program: root and the owner of the mount may say so. */
static int ask_upgrade(struct ov_front *fr)
{
	uint32_t uid = ov_transport_current()->uid;

	return uid != 0 && uid != fr->owner ? -EPERM : fr->upgrade ? fr->upgrade(fr->upgrade_arg) : -EOPNOTSUPP;
}

/*
 * SETXATTR has two layouts, and libfuse 3.14.0 takes the long one for granted: name and value are found here, by what INIT
 * agreed on.
 */
static int raw_setxattr(struct ov_front *fr, const struct fuse_buf *buf)
{
	size_t head = fr->transport.setxattr_ext ? 16 : 8;
	const char *body = (const char *)buf->mem + sizeof(struct fuse_in_header);
	struct ov_inode *i = ov_inode_get(fr->ov, ov_transport_current()->nodeid);
	size_t len, name_len;
	uint32_t arg[4] = {0}; /* size, flags, setxattr_flags, padding */
	const char *name;
	int r;

	if (!i)
		return -ESTALE;
	if (buf->size < sizeof(struct fuse_in_header) + head)
		return -EINVAL;
	memcpy(arg, body, head);
	name = body + head;
	len = buf->size - sizeof(struct fuse_in_header) - head;
	name_len = strnlen(name, len);
	if (name_len == len || len - name_len - 1 < arg[0])
		return -EINVAL;
	if (i->nodeid == FUSE_ROOT_ID && strcmp(name, OV_UPGRADE_XATTR) == 0)
		return ask_upgrade(fr);
	r = ov_setxattr(fr->ov, i, name, name + name_len + 1, arg[0], (int)arg[1],
			arg[2] & 1 /* FUSE_SETXATTR_ACL_KILL_SGID */);
	if (r == 0)
		changed(fr, i->nodeid);
	return r;
}

bool ov_ops_raw(struct ov_front *fr, const struct fuse_buf *buf)
{
	switch (ov_transport_current()->opcode) {
	case FUSE_FORGET: /* in the buffer itself, which says what is still to be done */
	case FUSE_BATCH_FORGET:
		OV_CRASH("forget.read");
		trim_memory(fr, ov_inflight_forget(fr->ov, buf->mem, buf->size));
		return true;
	case OV_FUSE_TMPFILE:
		raw_tmpfile(fr, buf);
		return true;
	case OV_FUSE_STATX:
		raw_statx(fr);
		return true;
	case FUSE_SETXATTR:
		ov_transport_reply(fr->fd, raw_setxattr(fr, buf), NULL, 0);
		return true;
	default:
		return false;
	}
}
