/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Opening and closing an overlay: layers, checks, workdir, and what the upper's file system can do. */

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/statvfs.h>

#include "core.h"
#include "format/index.h"
#include "format/opaque.h"
#include "format/whiteout.h"
#include "format/xattr_names.h"
#include "sys/io.h"

#define FDS_RESERVED 64   /* for layers apart, the device, pipes, copies in flight */
#define FDS_CACHED_MAX 8192
#define LOCK_TRIES 60
#define LOCK_PAUSE_MS 50
#define XINO_SHIFT 48     /* st_ino bits left to each file system when there are several */

/* What the program before this one has left open. */
struct ov_handed {
	int arena, workdir;
	unsigned nlayers;
	struct ov_handed_layer {
		int fd;
		unsigned flags; /* LAYER_* */
	} *layers;
};

enum { LAYER_CLONED = 1, LAYER_NOATIME = 2, LAYER_CAREFUL = 4 };

/* ---- layers ---- */

static int adopt_layer(struct ov_layer *l, const char *path, bool upper, const struct ov_handed_layer *from)
{
	memset(l, 0, sizeof(*l));
	l->root_fd = from->fd;
	l->upper = upper;
	l->cloned = from->flags & LAYER_CLONED;
	l->noatime_ok = from->flags & LAYER_NOATIME;
	l->careful = from->flags & LAYER_CAREFUL;
	l->path = strdup(path);
	return l->path ? ov_layer_look(l) : -ENOMEM;
}

static int open_one(struct overlay *ov, unsigned n, const char *path, bool upper, const char *what)
{
	struct ov_layer *l = &ov->layers[n];
	int r = ov->handed ? adopt_layer(l, path, upper, &ov->handed->layers[n]) : ov_layer_open(l, path, upper);

	l->index = n;
	if (r == -ENOENT)
		ov_error("%s '%s' does not exist: create it or correct the path", what, path);
	else if (r == -ENOTDIR)
		ov_error("%s '%s' is not a directory", what, path);
	else if (r < 0)
		ov_error("cannot open %s '%s': %s", what, path, strerror(-r));
	return r;
}

static int open_layers(struct overlay *ov)
{
	const struct ov_config *c = &ov->cfg;
	unsigned total = (unsigned)c->nlower + (c->upper ? 1 : 0);
	unsigned n = 0;
	int r;

	ov->layers = calloc(total, sizeof(*ov->layers));
	ov->roots = calloc(total, sizeof(struct ov_rdir *));
	ov->fsdevs = calloc(total, sizeof(*ov->fsdevs));
	if (!ov->layers || !ov->roots || !ov->fsdevs)
		return -ENOMEM;
	for (unsigned k = 0; k < total; k++)
		ov->layers[k].root_fd = -1;
	ov->ndata = (unsigned)c->ndata;
	ov->nlayers = total - ov->ndata;
	if (ov->handed && ov->handed->nlayers != total)
		return -EINVAL;
	if (c->upper) {
		r = open_one(ov, n++, c->upper, true, "upperdir");
		if (r < 0)
			return r;
		ov->has_upper = true;
	}
	for (size_t k = 0; k < c->nlower; k++, n++) {
		r = open_one(ov, n, c->lower[k], false, "lowerdir");
		if (r < 0)
			return r;
		ov->layers[n].data_only = n >= ov->nlayers;
	}
	for (n = 0; n < total; n++) {
		ov->roots[n] = ov_rdir_new(NULL, &ov->layers[n], NULL);
		if (!ov->roots[n])
			return -ENOMEM;
	}
	return 0;
}

/* Number the file systems; with more than one the number goes into the high bits of st_ino. */
static void number_file_systems(struct overlay *ov)
{
	for (unsigned n = 0; n < ov->nlayers + ov->ndata; n++) {
		unsigned k = 0;

		while (k < ov->nfs && ov->fsdevs[k] != ov->layers[n].dev)
			k++;
		if (k == ov->nfs)
			ov->fsdevs[ov->nfs++] = ov->layers[n].dev;
		ov->layers[n].fsid = k;
	}
	ov->fsid_shift = ov->nfs > 1 ? XINO_SHIFT : 64;
}

static int check_overlap(struct overlay *ov)
{
	const struct ov_layer *u = &ov->layers[0];
	struct statx work, upper;
	int r;

	if (!ov->has_upper)
		return 0;
	r = ov_at_statx(ov_at_fd(ov->workdir_fd), STATX_BASIC_STATS | STATX_MNT_ID, &work);
	if (r < 0)
		return r;
	r = ov_at_statx(ov_at_fd(u->root_fd), STATX_BASIC_STATS | STATX_MNT_ID, &upper);
	if (r < 0)
		return r;
	if ((((dev_t)work.stx_dev_major << 32) | work.stx_dev_minor) != u->dev || work.stx_mnt_id != upper.stx_mnt_id) {
		ov_error("workdir '%s' is not on the same file system and mount as upperdir '%s': put them side by side",
			 ov->cfg.work, u->path);
		return -EXDEV;
	}
	r = ov_dir_is_inside(ov->workdir_fd, u->dev, u->root_ino);
	if (r == 0)
		r = ov_dir_is_inside(u->root_fd, u->dev, work.stx_ino);
	if (r > 0) {
		ov_error("upperdir '%s' and workdir '%s' lie inside one another: use separate directories", u->path,
			 ov->cfg.work);
		return -EINVAL;
	}
	for (unsigned n = 1; r >= 0 && n < ov->nlayers + ov->ndata; n++) {
		int fd = ov->layers[n].root_fd;
		ov_cleanup_fd int plain = -1;

		if (ov->layers[n].dev != u->dev)
			continue;
		/* the clone ends at the layer's root: walk up from the real path */
		plain = open(ov->layers[n].path, O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (plain >= 0)
			fd = plain;
		r = ov_dir_is_inside(fd, u->dev, u->root_ino);
		if (r == 0)
			r = ov_dir_is_inside(fd, u->dev, work.stx_ino);
		if (r > 0) {
			ov_error("lowerdir '%s' lies inside upperdir '%s' or workdir: it would change under the mount",
				 ov->layers[n].path, u->path);
			return -ELOOP;
		}
	}
	return r < 0 ? r : 0;
}

/* Take the lock. A mount that was just unmounted may need a moment until its daemon has gone. */
static int lock_dir(int fd)
{
	for (int n = 0; n < LOCK_TRIES; n++) {
		if (flock(fd, LOCK_EX | LOCK_NB) == 0)
			return 0;
		if (errno != EWOULDBLOCK && errno != EINTR)
			return -errno; /* no locks on this file system */
		poll(NULL, 0, LOCK_PAUSE_MS);
	}
	return -EWOULDBLOCK;
}

/* One writer at a time: a lock on both directories, released with our fds. */
static int lock_upper(struct overlay *ov)
{
	if (lock_dir(ov->layers[0].root_fd) == -EWOULDBLOCK) {
		ov_error("upperdir '%s' is in use by another mount: unmount that first", ov->layers[0].path);
		return -EBUSY;
	}
	if (lock_dir(ov->workdir_fd) == -EWOULDBLOCK) {
		ov_error("workdir '%s' is in use by another mount: give each mount its own", ov->cfg.work);
		return -EBUSY;
	}
	return 0;
}

/* ---- workdir ---- */

static int open_work_dir(struct overlay *ov)
{
	ov->workdir_fd = ov->handed ? ov->handed->workdir : open(ov->cfg.work, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (ov->workdir_fd >= 0)
		return 0;
	if (errno == ENOENT)
		ov_error("workdir '%s' does not exist: create it beside upperdir", ov->cfg.work);
	else
		ov_error("cannot open workdir '%s': %s", ov->cfg.work, strerror(errno));
	return -errno;
}

/* A volatile mount that was not removed may have lost data: refuse, as the kernel does. */
static int check_volatile(struct overlay *ov)
{
	ov_cleanup_fd int fd = openat(ov->workdir_fd, "work", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0 || ov_volatile_present(fd) != 1)
		return 0;
	ov_error("workdir '%s' was used by a volatile mount whose data may be lost: check upperdir, then remove "
		 "work/incompat/volatile in it", ov->cfg.work);
	return -EINVAL;
}

static int prepare_work(struct overlay *ov)
{
	int r = ov->handed ? 0 : check_volatile(ov);

	if (r < 0)
		return r;
	if (!ov->handed)
		(void)ov_cleanup_tree(ov->workdir_fd, "work", 64); /* leftovers of a crash */
	if (mkdirat(ov->workdir_fd, "work", 0700) < 0 && errno != EEXIST) {
		r = -errno;
		ov_error("cannot write to workdir '%s': %s", ov->cfg.work, strerror(errno));
		return r;
	}
	ov->work_fd = ov_at_open(ov_at_name(ov->workdir_fd, "work"), O_RDONLY | O_DIRECTORY, 0);
	if (ov->work_fd < 0) {
		ov_error("cannot open '%s/work': %s", ov->cfg.work, strerror(-ov->work_fd));
		return ov->work_fd;
	}
	if (ov->cfg.volatile_ && !ov->handed) {
		r = ov_volatile_create(ov->work_fd);
		if (r < 0) {
			ov_error("cannot write the volatile marker in '%s': %s", ov->cfg.work, strerror(-r));
			return r;
		}
	}
	return 0;
}

/* ---- what can be done here ---- */

/* The first user namespace maps every id onto itself. */
static bool in_initial_userns(void)
{
	unsigned inside = 1, outside = 1, count = 0;
	FILE *f = fopen("/proc/self/uid_map", "re");

	if (!f)
		return true; /* no user namespaces here */
	if (fscanf(f, "%u %u %u", &inside, &outside, &count) != 3)
		count = 0;
	fclose(f);
	return inside == 0 && outside == 0 && count == UINT32_MAX;
}

/* trusted.overlay. if we may write it, unless the user says otherwise. */
static void probe_xattrs(struct overlay *ov)
{
	int fd = ov->has_upper ? ov->work_fd : -1;
	int r;

	ov->xp = OV_XP_USER;
	if (ov->cfg.userxattr)
		return;
	if (fd < 0) { /* read-only: absent and forbidden look alike, so ask who we are */
		ov->xp = ov->uid == 0 && in_initial_userns() ? OV_XP_TRUSTED : OV_XP_USER;
		return;
	}
	r = ov_at_setxattr(ov_at_fd(fd), ov_xattr_name(OV_XP_TRUSTED, OV_X_OPAQUE), "0", 1, 0);
	if (r < 0)
		return;
	ov->xp = OV_XP_TRUSTED;
	(void)ov_at_removexattr(ov_at_fd(fd), ov_xattr_name(OV_XP_TRUSTED, OV_X_OPAQUE));
}

static void probe_whiteouts(struct overlay *ov)
{
	char name[32];

	ov->whiteout_kind = OV_WH_CHAR;
	ov_tmp_name(ov, name);
	if (!ov->cfg.no_char_whiteout && ov_whiteout_make(ov->work_fd, name, OV_WH_CHAR, ov->xp) == 0) {
		ov_cleanup_tmp(ov, name);
		return;
	}
	ov->whiteout_kind = OV_WH_XATTR;
	if (!ov->cfg.no_char_whiteout && ov_whiteout_make(ov->work_fd, name, OV_WH_XATTR, ov->xp) == 0) {
		ov_cleanup_tmp(ov, name);
		return;
	}
	ov_cleanup_tmp(ov, name);
	ov->whiteout_kind = OV_WH_OCI;
}

static int touch_at(int dirfd, const char *name)
{
	int fd = openat(dirfd, name, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);

	if (fd < 0)
		return -errno;
	close(fd);
	return 0;
}

static void probe_renames(struct overlay *ov)
{
	char a[32], b[32];

	ov_tmp_name(ov, a);
	ov_tmp_name(ov, b);
	if (touch_at(ov->work_fd, a) == 0 && touch_at(ov->work_fd, b) == 0)
		ov->can_exchange = ov_renameat2(ov->work_fd, a, ov->work_fd, b, RENAME_EXCHANGE) == 0;
	ov_cleanup_tmp(ov, b);
	if (ov->whiteout_kind != OV_WH_OCI) /* also where mknod() is forbidden: nothing else does it in one step */
		ov->can_rename_whiteout = ov_renameat2(ov->work_fd, a, ov->work_fd, b, RENAME_WHITEOUT) == 0;
	ov_cleanup_tmp(ov, a);
	ov_cleanup_tmp(ov, b);
}

static void probe_tmpfile(struct overlay *ov)
{
	ov_cleanup_fd int fd = ov_at_open(ov_at_name(ov->work_fd, "."), O_TMPFILE | O_RDWR, 0600);
	char name[32];

	if (fd < 0)
		return;
	ov_tmp_name(ov, name);
	ov->can_tmpfile = ov_at_link(ov_at_fd(fd), ov->work_fd, name) == 0;
	ov_cleanup_tmp(ov, name);
}

/* One whiteout inode for all of them, where the file system has hard links. */
static void probe_whiteout_links(struct overlay *ov)
{
	char a[32], b[32];

	if (ov->whiteout_kind == OV_WH_OCI)
		return;
	ov_tmp_name(ov, a);
	ov_tmp_name(ov, b);
	if (ov_whiteout_make(ov->work_fd, a, (enum ov_whiteout_kind)ov->whiteout_kind, ov->xp) < 0)
		return;
	ov->whiteout_links = linkat(ov->work_fd, a, ov->work_fd, b, 0) == 0;
	ov_cleanup_tmp(ov, a);
	ov_cleanup_tmp(ov, b);
}

static int check_writable(const struct overlay *ov)
{
	struct statvfs st;

	if (fstatvfs(ov->workdir_fd, &st) < 0)
		return -errno;
	if (!(st.f_flag & ST_RDONLY))
		return 0;
	ov_error("upperdir '%s' is on a read-only file system: leave out upperdir and workdir for a read-only mount",
		 ov->layers[0].path);
	return -EROFS;
}

static int prepare_upper(struct overlay *ov)
{
	int r = open_work_dir(ov);

	if (r == 0 && !ov->handed) { /* else all that is checked, and the locks are on the fds */
		r = check_overlap(ov);
		if (r == 0)
			r = check_writable(ov);
		if (r == 0)
			r = lock_upper(ov);
	}
	if (r == 0)
		r = prepare_work(ov);
	if (r < 0)
		return r;
	probe_xattrs(ov);
	probe_whiteouts(ov);
	probe_renames(ov);
	probe_tmpfile(ov);
	probe_whiteout_links(ov);
	ov_note_halves(ov); /* by who mounted it before, and died */
	return 0;
}

/* How owners and modes of the upper are kept. */
static void choose_override(struct overlay *ov)
{
	switch (ov->cfg.xattr_permissions) {
	case 1:
		ov->override = OV_OVERRIDE_SECURITY;
		break;
	case 2:
		ov->override = OV_OVERRIDE_CONTAINERS;
		break;
	default:
		ov->override = OV_OVERRIDE_NONE;
	}
}

int ov_reopen_root(struct overlay *ov, struct ov_inode *root)
{
	struct statx stx;
	int r;

	root->rdirs = calloc(ov->nlayers, sizeof(struct ov_rdir *));
	if (!root->rdirs)
		return -ENOMEM;
	for (unsigned n = 0; n < ov->nlayers; n++) {
		root->rdirs[root->nrdirs++] = ov_rdir_ref(ov->roots[n]);
		r = ov_at_statx(ov_at_name(ov->layers[n].root_fd, OV_OCI_OPAQUE_NAME), STATX_BASIC_STATS, &stx);
		if (r == 0 && ov_whiteout_oci_is_real(ov_at_name(ov->layers[n].root_fd, OV_OCI_OPAQUE_NAME), &stx) == 1)
			break; /* an image layer that replaces everything below */
	}
	root->nlookup = 1;
	if (ov->has_upper)
		ov_inode_set(root, OV_I_UPPER);
	ov_inode_unset(root, OV_I_STALE);
	ov->root = root;
	return 0;
}

static int make_root(struct overlay *ov)
{
	struct ov_inode *root = ov_inode_new(&ov->tab, S_IFDIR);
	struct statx stx;
	int r;

	if (!root)
		return -ENOMEM;
	r = ov_at_statx(ov_at_fd(ov->layers[0].root_fd), STATX_BASIC_STATS, &stx);
	if (r == 0) {
		root->ino = ov_make_ino(ov, &ov->layers[0], stx.stx_ino);
		r = ov_reopen_root(ov, root);
	}
	if (r < 0)
		ov_inode_discard(&ov->tab, root);
	else
		ov_inode_insert(&ov->tab, root);
	return r;
}

void ov_clean_work(struct overlay *ov)
{
	int fd = ov_at_open(ov_at_name(ov->work_fd, "."), O_RDONLY | O_DIRECTORY, 0);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *de;

	if (!dir) {
		if (fd >= 0)
			close(fd);
		ov_warn("cannot look for leftovers in '%s/work': %s", ov->cfg.work, strerror(fd < 0 ? -fd : ENOMEM));
		return;
	}
	while ((de = readdir(dir)))
		if (de->d_name[0] == '#')
			ov_cleanup_tmp(ov, de->d_name);
	closedir(dir);
	if (ov_opaque_allows_xwhiteouts(ov_at_fd(ov->layers[0].root_fd)))
		ov_layer_set_xwhiteouts(&ov->layers[0]);
}

/* As many fds as allowed; the cache takes what is left over. */
static unsigned fd_budget(const struct overlay *ov)
{
	struct rlimit rl;
	unsigned long left;

	if (getrlimit(RLIMIT_NOFILE, &rl) < 0)
		return 256;
	if (rl.rlim_cur < rl.rlim_max) {
		rl.rlim_cur = rl.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &rl);
		(void)getrlimit(RLIMIT_NOFILE, &rl);
	}
	left = rl.rlim_cur > FDS_RESERVED + 2ul * ov->cfg.nlower ? rl.rlim_cur - FDS_RESERVED - 2ul * ov->cfg.nlower : 16;
	left = left * 3 / 4;
	return left > FDS_CACHED_MAX ? FDS_CACHED_MAX : (unsigned)left;
}

static void note_mountpoint(struct overlay *ov, int mountpoint_fd)
{
	if (ov->handed)
		return;
	for (unsigned n = 0; n < ov->nlayers + ov->ndata; n++) {
		struct ov_layer *l = &ov->layers[n];

		if (l->careful)
			l->careful = mountpoint_fd >= 0 && ov_dir_is_inside(mountpoint_fd, l->dev, l->root_ino) == 1;
	}
}

static void drop_listing(void *arg, struct ov_inode *dir)
{
	ov_listing_drop(arg, dir);
}

static int init_locks(struct overlay *ov)
{
	pthread_rwlockattr_t attr;
	int r;

	pthread_rwlockattr_init(&attr);
	/* changes must not wait for ever behind a stream of lookups; no thread read-locks twice */
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	r = -pthread_rwlock_init(&ov->ns, &attr);
	pthread_rwlockattr_destroy(&attr);
	if (r == 0)
		r = -pthread_mutex_init(&ov->listings_lock, NULL);
	if (r == 0)
		r = -pthread_mutex_init(&ov->revive, NULL);
	if (r == 0)
		r = ov_ahead_init(&ov->ahead);
	for (unsigned n = 0; r == 0 && n < OV_TIME_LOCKS; n++)
		r = -pthread_mutex_init(&ov->times[n], NULL);
	return r;
}

static int open_ledger(struct overlay *ov)
{
	int r;

	if (ov->handed)
		r = ov_arena_take_over(&ov->arena, sizeof(struct ov_ledger), ov->handed->arena);
	else
		r = ov_arena_open(&ov->arena, sizeof(struct ov_ledger), ov->cfg.shared);
	if (r < 0) {
		ov_error("no memory for inodes: %s", strerror(-r));
		return r;
	}
	ov->ledger = ov_arena_header(&ov->arena);
	if (ov->handed && ov->ledger->magic == OV_LEDGER_MAGIC && ov->ledger->version == OV_LEDGER_VERSION)
		return 0;
	if (ov->handed)
		return -EINVAL;
	ov->ledger->magic = OV_LEDGER_MAGIC;
	ov->ledger->version = OV_LEDGER_VERSION;
	ov->ledger->base = (uint64_t)(uintptr_t)ov->arena.base;
	return 0;
}

static int open_overlay(struct overlay *ov, int mountpoint_fd)
{
	int r = ov_fdcache_init(&ov->fds, fd_budget(ov));

	if (r == 0)
		r = open_ledger(ov);
	if (r == 0)
		r = ov_itable_init(&ov->tab, &ov->fds, &ov->arena);
	if (r < 0)
		return r;
	ov->tab.free_listing = drop_listing;
	ov->tab.free_listing_arg = ov;
	ov->uid = geteuid();
	ov->gid = getegid();
	ov->mapped = ov->cfg.uidmap.n || ov->cfg.gidmap.n || ov->cfg.squash_to_root || ov->cfg.squash_uid >= 0 ||
		     ov->cfg.squash_gid >= 0;
	r = open_layers(ov);
	if (r < 0)
		return r;
	number_file_systems(ov);
	note_mountpoint(ov, mountpoint_fd);
	choose_override(ov);
	if (ov->has_upper)
		r = prepare_upper(ov);
	else
		probe_xattrs(ov);
	if (r < 0)
		return r;
	ov->trusted = ov->xp == OV_XP_TRUSTED;
	if (ov->cfg.index)
		r = ov_index_open(ov);
	if (r < 0)
		return r;
	ov->follow_redirect = ov->cfg.redirect == OV_REDIRECT_ON || ov->cfg.redirect == OV_REDIRECT_FOLLOW ||
			      (ov->cfg.redirect == OV_REDIRECT_OFF && ov->xp == OV_XP_TRUSTED);
	return ov->handed ? ov_take_over(ov, NULL, NULL) : make_root(ov);
}

static int open_with(struct overlay **out, struct ov_config *cfg, int mountpoint_fd, const struct ov_handed *handed)
{
	struct overlay *ov = calloc(1, sizeof(*ov));
	int r;

	*out = NULL;
	if (!ov)
		return -ENOMEM;
	ov->cfg = *cfg;
	memset(cfg, 0, sizeof(*cfg));
	ov->work_fd = ov->workdir_fd = ov->index_fd = ov->arena.fd = -1;
	ov->handed = handed;
	r = init_locks(ov);
	if (r == 0)
		r = open_overlay(ov, mountpoint_fd);
	ov->handed = NULL;
	if (r < 0) {
		ov_close(ov);
		return r;
	}
	*out = ov;
	return 0;
}

int ov_open(struct overlay **out, struct ov_config *cfg, int mountpoint_fd)
{
	return open_with(out, cfg, mountpoint_fd, NULL);
}

/* ---- going on in another program ---- */

static void inherit(void *failed, int fd)
{
	if (fcntl(fd, F_SETFD, 0) < 0)
		*(int *)failed = -errno;
}

int ov_hand_over(struct overlay *ov, char *buf, size_t size)
{
	unsigned total = ov->nlayers + ov->ndata;
	struct ov_inode *root;
	int failed = ov_itable_recover(&ov->tab, &root);
	int n = snprintf(buf, size, "%d %d %u", ov->arena.fd, ov->workdir_fd, total);

	if (failed < 0)
		return failed;
	for (unsigned k = 0; k < total && n >= 0 && (size_t)n < size; k++) {
		const struct ov_layer *l = &ov->layers[k];
		int m = snprintf(buf + n, size - (size_t)n, " %d %d", l->root_fd,
				 (l->cloned ? LAYER_CLONED : 0) | (l->noatime_ok ? LAYER_NOATIME : 0) |
					 (l->careful ? LAYER_CAREFUL : 0));

		inherit(&failed, l->root_fd);
		n = m < 0 ? m : n + m;
	}
	if (n < 0 || (size_t)n >= size)
		return -ENAMETOOLONG;
	inherit(&failed, ov->arena.fd);
	if (ov->workdir_fd >= 0)
		inherit(&failed, ov->workdir_fd);
	ov_itable_each_held(&ov->tab, inherit, &failed);
	return failed;
}

/* The next number of *TEXT. */
static int next_number(const char **text)
{
	char *end;
	long n = strtol(*text, &end, 10);

	*text = end;
	return n < -1 || n > INT_MAX ? -1 : (int)n;
}

int ov_open_handed_over(struct overlay **out, struct ov_config *cfg, const char *handover)
{
	struct ov_handed h;
	int r;

	*out = NULL;
	h.arena = next_number(&handover);
	h.workdir = next_number(&handover);
	h.nlayers = (unsigned)next_number(&handover);
	if (h.nlayers > strlen(handover))
		return -EINVAL;
	h.layers = calloc(h.nlayers + 1u, sizeof(*h.layers));
	if (!h.layers)
		return -ENOMEM;
	for (unsigned n = 0; n < h.nlayers; n++) {
		h.layers[n].fd = next_number(&handover);
		h.layers[n].flags = (unsigned)next_number(&handover);
		if (fcntl(h.layers[n].fd, F_SETFD, FD_CLOEXEC) < 0)
			ov_debug("layer %u was not handed over: %s", n, strerror(errno));
	}
	if (h.workdir >= 0)
		(void)fcntl(h.workdir, F_SETFD, FD_CLOEXEC);
	(void)fcntl(h.arena, F_SETFD, FD_CLOEXEC);
	r = open_with(out, cfg, -1, &h);
	free(h.layers);
	return r;
}

void ov_finish(struct overlay *ov)
{
	ov_fdcache_settle_mtimes(&ov->fds);
	if (ov->work_fd >= 0)
		(void)unlinkat(ov->work_fd, "whiteout", 0);
}

void ov_close(struct overlay *ov)
{
	if (!ov)
		return;
	if (ov->ahead.left_behind) { /* that thread may go on: the process ends now */
		ov_finish(ov);
		return;
	}
	ov_ahead_destroy(ov);
	if (ov->tab.ids)
		ov_itable_destroy(&ov->tab);
	for (unsigned n = 0; ov->layers && n < ov->nlayers + ov->ndata; n++) {
		if (ov->roots && ov->roots[n])
			ov_rdir_unref(&ov->fds, ov->roots[n]);
		ov_layer_close(&ov->layers[n]);
	}
	if (ov->index)
		ov_rdir_unref(&ov->fds, ov->index);
	ov_finish(ov);
	if (ov->work_fd >= 0)
		close(ov->work_fd);
	if (ov->workdir_fd >= 0)
		close(ov->workdir_fd);
	if (ov->index_fd >= 0)
		close(ov->index_fd);
	free(ov->layers);
	free(ov->roots);
	free(ov->fsdevs);
	ov_arena_close(&ov->arena);
	ov_fdcache_destroy(&ov->fds);
	pthread_mutex_destroy(&ov->revive);
	pthread_rwlock_destroy(&ov->ns);
	pthread_mutex_destroy(&ov->listings_lock);
	for (unsigned n = 0; n < OV_TIME_LOCKS; n++)
		pthread_mutex_destroy(&ov->times[n]);
	ov_config_clear(&ov->cfg);
	free(ov);
}

size_t ov_print_state(struct overlay *ov, char *buf, size_t size)
{
	size_t inodes, names, listings;
	uint64_t ahead_used, ahead_wasted, ahead_opened;
	int n;

	pthread_mutex_lock(&ov->tab.lock);
	inodes = ov->tab.nids;
	names = ov->tab.ndents;
	pthread_mutex_unlock(&ov->tab.lock);
	pthread_mutex_lock(&ov->listings_lock);
	listings = ov->listing_bytes;
	pthread_mutex_unlock(&ov->listings_lock);
	ov_ahead_count(ov, &ahead_used, &ahead_wasted, &ahead_opened);
	n = snprintf(buf, size, "copy-ups %llu\nlayer-probes %llu\ninodes %zu\nnames %zu\nlisting-bytes %zu\nopen-fds %u\n"
		     "directories-ahead %llu\ndirectories-ahead-unused %llu\nfiles-ahead %llu\n",
		     (unsigned long long)__atomic_load_n(&ov->copyups, __ATOMIC_RELAXED),
		     (unsigned long long)__atomic_load_n(&ov->probes, __ATOMIC_RELAXED), inodes, names, listings,
		     ov_fdcache_count(&ov->fds), (unsigned long long)ahead_used, (unsigned long long)ahead_wasted,
		     (unsigned long long)ahead_opened);
	return n < 0 ? 0 : (size_t)n;
}

int ov_statfs(struct overlay *ov, struct statvfs *st)
{
	return fstatvfs(ov->layers[0].root_fd, st) < 0 ? -errno : 0;
}

int ov_sync(struct overlay *ov)
{
	if (!ov->has_upper || ov->cfg.sync == OV_SYNC_OFF)
		return 0;
	return syncfs(ov->layers[0].root_fd) < 0 ? -errno : 0;
}
