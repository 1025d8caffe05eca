/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * index=on: the names of a lower file with several hard links stay one file when it is copied up. The copy is made under
 * the lower's handle in workdir/index; each name is linked to it when it is itself changed, and reads through the index
 * until then. overlay.nlink says how many names the view has, relative to the upper's own count, so that one link() or
 * unlink() on disk changes both at once.
 */

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "core.h"
#include "crash.h"
#include "format/index.h"
#include "format/metacopy.h"
#include "format/origin.h"
#include "format/whiteout.h"
#include "format/xattr_names.h"

/* ---- one file ---- */

/* Index entries are named in hex; longer handles than a name has room for are not indexed. */
static int index_name(const struct ov_fh *fh, char name[OV_INDEX_NAME])
{
	if (fh->len == 0 || 2u * fh->len > NAME_MAX)
		return -EOPNOTSUPP;
	ov_fh_hex(fh, name);
	return 0;
}

int ov_index_name(const struct ov_layer *layer, struct ov_at lower, char name[OV_INDEX_NAME])
{
	struct ov_fh fh;
	int r = ov_fh_encode(lower, layer->uuid, false, &fh);

	return r < 0 ? r : index_name(&fh, name);
}

/* How many names the lower of FH has; the handle can be opened with privilege only. */
static int lower_nlink(struct overlay *ov, const struct ov_fh *fh, unsigned *nlink)
{
	int r = -ESTALE;

	for (unsigned n = 1; n < ov->nlayers && r < 0; n++) {
		ov_cleanup_fd int fd = -1;
		struct statx stx;

		if (memcmp(ov->layers[n].uuid, ov_fh_uuid(fh), sizeof(ov->layers[n].uuid)) != 0)
			continue;
		fd = ov_fh_open(ov->layers[n].root_fd, fh, O_PATH);
		r = fd < 0 ? fd : ov_at_statx(ov_at_fd(fd), STATX_NLINK, &stx);
		if (r == 0)
			*nlink = stx.stx_nlink;
	}
	return r;
}

/* The same for the lower that index entry AT came from. 0, also with *NLINK 0 where that cannot be found out, or -errno. */
static int origin_nlink(struct overlay *ov, struct ov_at at, unsigned *nlink)
{
	struct ov_fh origin;
	int r = ov_fh_read(at, ov->xp, OV_X_ORIGIN, &origin);

	*nlink = 0;
	if (r == 0)
		(void)lower_nlink(ov, &origin, nlink);
	return r;
}

/* Names in the view, from what overlay.nlink says of an object with UPPER names on disk. LOWER: 0 if not known. */
static int view_nlink(struct ov_at at, int xp, unsigned upper, unsigned lower, unsigned *nlink)
{
	char base;
	int delta, r = ov_nlink_read(at, xp, &base, &delta);
	long long n;

	if (r < 0)
		return r;
	if (base == 'L' && lower == 0)
		return -ENODATA;
	n = (long long)(base == 'U' ? upper : lower) + delta;
	if (n < 0 || n > UINT_MAX)
		return -EINVAL;
	*nlink = (unsigned)n;
	return 0;
}

int ov_index_nlink(struct overlay *ov, struct ov_at at, struct statx *stx)
{
	unsigned n, lower;
	int r = view_nlink(at, ov->xp, stx->stx_nlink, 0, &n);

	/* relative to the lower's count: the last link_up() could not finish */
	if (r == -ENODATA && origin_nlink(ov, at, &lower) == 0 && lower > 0)
		r = view_nlink(at, ov->xp, stx->stx_nlink, lower, &n);
	if (r == 0)
		stx->stx_nlink = n;
	else if (r != -ENODATA && r != -EINVAL)
		return r;
	else if (stx->stx_nlink > 1)
		stx->stx_nlink--; /* without the index entry itself */
	return 0;
}

/*
 * The count of entry AT must hang on the upper's own before a name comes or goes: if a crash or an error left it relative to
 * LOWER, the lower's count (0: to be found out), it is written anew. Without the privilege to find out it stays.
 */
static int settle_nlink(struct overlay *ov, struct ov_at at, unsigned lower)
{
	struct statx stx;
	int delta, r;
	char base;

	r = ov_nlink_read(at, ov->xp, &base, &delta);
	if (r == -ENODATA || r == -EINVAL || (r == 0 && base == 'U'))
		return 0;
	if (r == 0 && lower == 0)
		r = origin_nlink(ov, at, &lower);
	if (r < 0 || lower == 0)
		return r;
	r = ov_at_statx(at, STATX_NLINK, &stx);
	return r < 0 ? r : ov_nlink_write(at, ov->xp, 'U', (int)lower + delta - (int)stx.stx_nlink);
}

/* The same at a lookup, which does not fail of it: the count is right in the view already. */
static void try_settle(struct overlay *ov, struct ov_at at, unsigned lower)
{
	int r = settle_nlink(ov, at, lower);

	if (r < 0)
		ov_warn("cannot correct the link count of an index entry: %s", strerror(-r));
}

/* FOUND is in the upper and came from the lower with handle ORIGIN: is it what the index holds? 0 or -errno. */
int ov_index_check_upper(struct overlay *ov, struct ov_found *f, const struct ov_fh *origin)
{
	char name[OV_INDEX_NAME];
	struct statx stx;
	int r;

	if (!ov_index_takes(ov, f->stx.stx_mode) || f->stx.stx_nlink < 2 || index_name(origin, name) < 0)
		return 0;
	r = ov_at_statx(ov_at_name(ov->index_fd, name), STATX_BASIC_STATS, &stx);
	if (r == -ENOENT || (r == 0 && stx.stx_ino != f->stx.stx_ino))
		return 0; /* a hard link made in the upper alone */
	if (r < 0)
		return r;
	try_settle(ov, ov_at_name(ov->index_fd, name), 0);
	free(f->rname);
	f->rname = strdup(name);
	if (!f->rname)
		return -ENOMEM;
	ov_rdir_unref(&ov->fds, f->rparent);
	f->rparent = ov_rdir_ref(ov->index);
	f->indexed = true;
	return ov_index_nlink(ov, ov_at_name(ov->index_fd, name), &f->stx);
}

/* The data of a metacopy in the index is in the lower file by whose name it was found. */
static int take_metacopy(struct overlay *ov, struct ov_found *f, struct ov_at at, const char *name)
{
	struct ov_metacopy mc = {0};
	int r = S_ISREG(f->stx.stx_mode) ? ov_metacopy_read(at, ov->xp, &mc) : 0;

	if (r < 0)
		return r;
	f->metacopy = mc.present;
	if (!f->metacopy || f->data)
		return 0;
	f->data = ov_lowerdata_new(f->rparent, f->rname ? f->rname : name);
	return f->data ? 0 : -ENOMEM;
}

int ov_index_check_lower(struct overlay *ov, struct ov_found *f, const char *name)
{
	ov_cleanup_real struct ov_real real = {0};
	char hex[OV_INDEX_NAME];
	struct ov_at at;
	struct statx stx;
	char *rname;
	int r;

	if (!ov_index_takes(ov, f->stx.stx_mode) || f->stx.stx_nlink < 2)
		return 0;
	r = ov_real_get_name(ov, f->rparent, f->rname ? f->rname : name, &real);
	if (r == 0)
		r = ov_index_name(real.layer, real.at, hex);
	if (r < 0)
		return r == -EOPNOTSUPP ? 0 : r;
	at = ov_at_name(ov->index_fd, hex);
	r = ov_statx_real(ov, ov->index->layer, at, &stx);
	if (r < 0)
		return r == -ENOENT ? 0 : r;
	if ((stx.stx_mode & S_IFMT) != (f->stx.stx_mode & S_IFMT)) {
		ov_warn("index entry '%s' does not fit the lower file '%s': remove it or mount with index=off", hex, name);
		return -EIO;
	}
	try_settle(ov, at, f->stx.stx_nlink);
	rname = strdup(hex);
	if (!rname)
		return -ENOMEM;
	f->stx = stx;
	r = take_metacopy(ov, f, at, name);
	free(f->rname);
	f->rname = rname;
	ov_rdir_unref(&ov->fds, f->rparent);
	f->rparent = ov_rdir_ref(ov->index);
	f->upper = f->indexed = f->lower_name = true;
	return r < 0 ? r : ov_index_nlink(ov, at, &f->stx);
}

int ov_index_settle(struct overlay *ov, struct ov_inode *i)
{
	return settle_nlink(ov, ov_at_name(ov->index_fd, i->rname), 0);
}

int ov_index_link_up(struct overlay *ov, struct ov_inode *i, struct ov_inode *parent, const char *name)
{
	struct ov_at at = ov_at_name(ov->index_fd, i->rname);
	struct ov_rdir *rdir = ov_upper_rdir(parent);
	ov_cleanup_rfd struct ov_rfd d = ov_rfd_get(&ov->fds, rdir);
	struct statx stx, view;
	struct ov_found lower;
	int r, n;

	if (d.fd < 0)
		return d.fd;
	r = ov_index_settle(ov, i);
	if (r < 0)
		return r;
	r = ov_probe(ov, rdir, d.fd, name, &stx);
	if (r != -ENOENT)
		return r == 1 ? -ENOENT : r;
	r = ov_search(ov, parent, name, 1, &lower);
	if (r < 0)
		return r;
	n = lower.exists ? (int)lower.stx.stx_nlink : 0;
	ov_found_clear(ov, &lower);
	if (n == 0)
		return -ESTALE;
	r = ov_at_statx(at, STATX_BASIC_STATS, &stx);
	if (r < 0)
		return r;
	view = stx;
	r = ov_index_nlink(ov, at, &view);
	if (r < 0)
		return r;
	/* while the upper's count changes, the one of the view hangs on the lower's */
	r = ov_nlink_write(at, ov->xp, 'L', (int)view.stx_nlink - n);
	OV_CRASH("index.count-lower");
	if (r == 0)
		r = ov_link_alias(ov, parent, d.fd, at, name);
	OV_CRASH("index.linked");
	n = (int)view.stx_nlink - (int)stx.stx_nlink - (r == 0);
	n = ov_nlink_write(at, ov->xp, 'U', n);
	OV_CRASH("index.count-upper");
	if (n < 0) /* it still reads right, from the lower's count */
		ov_warn("cannot write the link count of index entry '%s': %s", i->rname, strerror(-n));
	return r < 0 ? r : n;
}

void ov_index_drop_unused(struct overlay *ov, struct ov_inode *i)
{
	struct ov_at at = ov_at_name(ov->index_fd, i->rname);
	struct statx stx;
	struct ov_rdir *old;
	unsigned n;

	if (ov_at_statx(at, STATX_BASIC_STATS, &stx) < 0 || view_nlink(at, ov->xp, stx.stx_nlink, 0, &n) < 0)
		return; /* the next mount looks again */
	if (n > 0 || stx.stx_nlink > 1)
		return;
	OV_CRASH("index.unused");
	if (unlinkat(ov->index_fd, i->rname, 0) < 0)
		ov_warn("cannot remove index entry '%s': %s", i->rname, strerror(errno));
	OV_CRASH("index.dropped");
	free(i->rname); /* open files go on with the fd that is held */
	i->rname = NULL;
	old = i->rparent;
	i->rparent = ov_rdir_ref(ov->roots[0]);
	ov_rdir_unref(&ov->fds, old);
	ov_inode_unset(i, OV_I_INDEXED);
}

/* ---- the directory ---- */

/* Mark X of AT shall be the handle of TARGET, in LAYER; it is written if there is none. WHAT: for the message. */
static int verify_mark(struct overlay *ov, struct ov_at at, int x, const struct ov_layer *layer, bool upper, const char *what)
{
	struct ov_fh want, have;
	int r = ov_fh_encode(ov_at_fd(layer->root_fd), layer->uuid, upper, &want);

	if (r < 0)
		return r;
	r = ov_fh_read(at, ov->xp, x, &have);
	if (r == -ENODATA)
		return ov_fh_write(at, ov->xp, x, &want);
	if (r < 0 || !ov_fh_equal(&want, &have)) {
		ov_error("%s: mount with the same directories again, or with index=off", what);
		return -ESTALE;
	}
	return 0;
}

/* 1: entry NAME of the index is of no use any more, 0, -errno. */
static int is_stale(struct overlay *ov, const char *name)
{
	struct ov_at at = ov_at_name(ov->index_fd, name);
	unsigned lower = 0, n;
	struct ov_fh fh, origin;
	struct statx stx;
	int r = ov_at_statx(at, STATX_BASIC_STATS, &stx);

	if (r < 0)
		return r;
	if (name[0] == '#')
		return 1; /* the kernel's temporaries and its shared whiteout are here, too */
	r = ov_fh_unhex(name, &fh);
	if (r == 0 && (S_ISDIR(stx.stx_mode) || ov_whiteout_is_char(&stx)))
		return 0; /* for nfs_export=on */
	if (r == 0)
		r = ov_fh_read(at, ov->xp, OV_X_ORIGIN, &origin);
	if (r == -ENODATA || r == -EINVAL) {
		ov_error("'%s' in '%s/index' is no index entry: remove it or mount with index=off", name, ov->cfg.work);
		return -EINVAL;
	}
	if (r == 0 && !ov_fh_equal(&fh, &origin))
		return 1;
	if (r < 0 || stx.stx_nlink > 1)
		return r;
	(void)lower_nlink(ov, &fh, &lower);
	r = view_nlink(at, ov->xp, stx.stx_nlink, lower, &n);
	return r == 0 ? n == 0 : 0;
}

/* Entries whose names are all gone: a crash between unlinking the last one and the entry. */
static int clean_index(struct overlay *ov)
{
	int fd = ov_at_open(ov_at_name(ov->index_fd, "."), O_RDONLY | O_DIRECTORY, 0);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *de;
	int r = 0;

	if (!dir) {
		if (fd < 0)
			return fd;
		close(fd);
		return -ENOMEM;
	}
	while (r >= 0 && (de = readdir(dir))) {
		if (strcmp(de->d_name, ".") == 0 || strcmp(de->d_name, "..") == 0)
			continue;
		r = is_stale(ov, de->d_name);
		if (r == 1 && unlinkat(ov->index_fd, de->d_name, 0) < 0)
			ov_warn("cannot remove stale index entry '%s': %s", de->d_name, strerror(errno));
	}
	closedir(dir);
	return r < 0 ? r : 0;
}

static int open_index_dir(struct overlay *ov)
{
	int r;

	if (mkdirat(ov->workdir_fd, "index", 0700) < 0 && errno != EEXIST)
		return -errno;
	r = ov_at_open(ov_at_name(ov->workdir_fd, "index"), O_RDONLY | O_DIRECTORY, 0);
	if (r < 0)
		return r;
	ov->index_fd = r;
	ov->index_layer = ov->layers[0];
	ov->index_layer.root_fd = ov->index_fd;
	ov->index = ov_rdir_new(NULL, &ov->index_layer, NULL);
	return ov->index ? 0 : -ENOMEM;
}

int ov_index_open(struct overlay *ov)
{
	struct ov_fh fh;
	int r;

	for (unsigned n = 0; n < ov->nlayers; n++) {
		if (ov_fh_encode(ov_at_fd(ov->layers[n].root_fd), ov->layers[n].uuid, n == 0, &fh) == 0)
			continue;
		ov_warn("the file system of '%s' has no file handles: going on with index=off", ov->layers[n].path);
		return 0;
	}
	r = verify_mark(ov, ov_at_fd(ov->layers[0].root_fd), OV_X_ORIGIN, &ov->layers[1], false,
			"upperdir was used with other lower directories");
	if (r == 0)
		r = open_index_dir(ov);
	if (r == 0)
		r = verify_mark(ov, ov_at_fd(ov->index_fd), OV_X_UPPER, &ov->layers[0], true,
				"the index in workdir belongs to another upperdir");
	if (r == 0)
		r = clean_index(ov);
	if (r < 0 && r != -ESTALE && r != -EINVAL)
		ov_error("cannot prepare '%s/index': %s", ov->cfg.work, strerror(-r));
	return r;
}
