/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Making and removing names. Everything appears by one link, rename or exclusive create. */

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "core.h"
#include "crash.h"
#include "format/index.h"
#include "format/opaque.h"
#include "format/override_stat.h"
#include "format/whiteout.h"
#include "format/xattr_names.h"
#include "sys/io.h"

#define SHARED_WHITEOUT "whiteout" /* in workdir/work: the one that others are linked from */
#define MAX_TREE_DEPTH 64

/* ---- temporaries and whiteouts ---- */

int ov_cleanup_tree(int dirfd, const char *name, int depth)
{
	struct dirent *de;
	int fd, err;
	DIR *dir;

	if (unlinkat(dirfd, name, 0) == 0 || errno == ENOENT)
		return 0;
	err = errno;
	fd = ov_at_open(ov_at_name(dirfd, name), O_RDONLY | O_DIRECTORY, 0);
	if (fd == -EACCES && ov_at_chmod(ov_at_name(dirfd, name), 0700) == 0)
		fd = ov_at_open(ov_at_name(dirfd, name), O_RDONLY | O_DIRECTORY, 0);
	dir = fd < 0 ? NULL : fdopendir(fd);
	if (!dir) {
		if (fd >= 0)
			close(fd);
	} else {
		while (depth > 0 && (de = readdir(dir)))
			if (strcmp(de->d_name, ".") != 0 && strcmp(de->d_name, "..") != 0)
				(void)ov_cleanup_tree(fd, de->d_name, depth - 1);
		closedir(dir);
	}
	if (unlinkat(dirfd, name, AT_REMOVEDIR) == 0 || errno == ENOENT)
		return 0;
	if (errno != ENOTDIR)
		err = errno;
	ov_warn("cannot remove '%s': %s", name, strerror(err));
	return -err;
}

void ov_cleanup_tmp(struct overlay *ov, const char *name)
{
	(void)ov_cleanup_tree(ov->work_fd, name, MAX_TREE_DEPTH);
}

/* A link to the shared whiteout as DIRFD/NAME; it is made when first needed, and anew when it has too many links. */
static int link_whiteout(struct overlay *ov, int dirfd, const char *name, enum ov_whiteout_kind kind)
{
	char fresh[32];
	int r;

	if (!ov->whiteout_links)
		return ov_whiteout_make(dirfd, name, kind, ov->xp);
	if (linkat(ov->work_fd, SHARED_WHITEOUT, dirfd, name, 0) == 0)
		return 0;
	r = -errno;
	if (r == -EEXIST || r == -ENOSPC || r == -EDQUOT || r == -EROFS)
		return r;
	if (r == -EMLINK || r == -ENOENT) {
		ov_tmp_name(ov, fresh);
		r = ov_whiteout_make(ov->work_fd, fresh, kind, ov->xp);
		OV_CRASH("whiteout.made");
		if (r == 0)
			r = ov_renameat2(ov->work_fd, fresh, ov->work_fd, SHARED_WHITEOUT, 0);
		OV_CRASH("whiteout.shared");
		if (r == 0 && linkat(ov->work_fd, SHARED_WHITEOUT, dirfd, name, 0) == 0)
			return 0;
	}
	return ov_whiteout_make(dirfd, name, kind, ov->xp);
}

/* Whiteouts that are xattrs only count where the directory says that there may be some. */
static int allow_xwhiteouts(struct overlay *ov, int fd, enum ov_whiteout_kind kind)
{
	struct ov_layer *upper = &ov->layers[0];
	int r;

	if (kind != OV_WH_XATTR)
		return 0;
	if (!ov_layer_has_xwhiteouts(upper)) {
		r = ov_opaque_write(ov_at_fd(upper->root_fd), ov->xp, true);
		if (r < 0)
			return r;
		ov_layer_set_xwhiteouts(upper);
		OV_CRASH("whiteout.allowed-root");
	}
	r = ov_opaque_read(ov_at_fd(fd));
	return r == OV_OPAQUE_NO ? ov_opaque_write(ov_at_fd(fd), ov->xp, true) : (r < 0 ? r : 0);
}

int ov_whiteout_kind_for(const struct overlay *ov, int fd, const char *name)
{
	char oci[NAME_MAX + 1];
	struct statx stx;
	int r;

	if (ov->whiteout_kind != OV_WH_OCI)
		return ov->whiteout_kind;
	r = ov_whiteout_oci_name(name, oci);
	if (r == 0)
		r = ov_at_statx(ov_at_name(fd, oci), STATX_BASIC_STATS, &stx);
	if (r == -ENOENT)
		return OV_WH_OCI;
	if (r == 0)
		r = ov_whiteout_oci_is_real(ov_at_name(fd, oci), &stx);
	return r == -ENAMETOOLONG || r == 0 ? OV_WH_XATTR : r < 0 ? r : OV_WH_OCI;
}

int ov_whiteout_tmp(struct overlay *ov, int fd, int kind, char *tmp)
{
	int r = allow_xwhiteouts(ov, fd, kind);

	ov_tmp_name(ov, tmp);
	return r < 0 ? r : link_whiteout(ov, ov->work_fd, tmp, kind);
}

int ov_place_whiteout(struct overlay *ov, struct ov_rdir *rdir, int fd, const char *name)
{
	int r, kind = ov_whiteout_kind_for(ov, fd, name);

	if (kind < 0)
		return kind;
	if (kind == OV_WH_OCI) {
		ov_rdir_set_wh(rdir, OV_WH_SOME);
		r = ov_whiteout_make_oci(fd, name);
		return r < 0 ? r : 0;
	}
	r = allow_xwhiteouts(ov, fd, kind);
	if (r == 0)
		r = link_whiteout(ov, fd, name, kind);
	OV_CRASH("whiteout.placed");
	return r;
}

int ov_oci_bridge(struct ov_rdir *rdir, int fd, const char *name)
{
	struct statx stx;
	int r = ov_at_statx(ov_at_fd(fd), 0, &stx);

	if (r < 0)
		return r;
	if (stx.stx_attributes & STATX_ATTR_APPEND)
		return -EPERM; /* nor could the whiteout be taken away again */
	ov_rdir_set_wh(rdir, OV_WH_SOME);
	r = ov_whiteout_make_oci(fd, name);
	if (r > 0)
		return OV_BRIDGE_MADE;
	if (r == -ENAMETOOLONG)
		return OV_BRIDGE_NONE;
	r = r < 0 ? r : ov_probe_oci_whiteout(rdir, fd, name);
	return r > 0 ? OV_BRIDGE_FOUND : r < 0 ? r : OV_BRIDGE_NONE;
}

void ov_oci_bridge_end(int fd, const char *name, int bridge)
{
	int r = bridge == OV_BRIDGE_MADE ? ov_whiteout_drop_oci(fd, name) : 0;

	if (r < 0)
		ov_warn("a spare whiteout of '%s' stays: %s", name, strerror(-r));
}

int ov_lift_whiteout(struct ov_rdir *rdir, int fd, const char *name)
{
	int bridge = ov_oci_bridge(rdir, fd, name), r;

	if (bridge < 0 || unlinkat(fd, name, 0) == 0)
		return bridge;
	r = -errno;
	ov_oci_bridge_end(fd, name, bridge);
	return r;
}

int ov_lift_done(struct overlay *ov, struct ov_rdir *rdir, int fd, const char *name, int bridge, int r)
{
	int back = r < 0 ? ov_place_whiteout(ov, rdir, fd, name) : 0;

	if (back == 0)
		ov_oci_bridge_end(fd, name, bridge);
	else if (bridge == OV_BRIDGE_NONE)
		ov_error("the whiteout '%s' is lost: %s; what lies below it is seen again", name, strerror(-back));
	return r;
}

int ov_mark_plain_name(const struct overlay *ov, struct ov_at at, const char *name)
{
	struct statx stx;
	int r;

	if (!ov_whiteout_oci_parse(name, NULL))
		return 0;
	r = ov_at_statx(at, STATX_TYPE, &stx); /* an override may call it what it likes */
	return r < 0 ? r : S_ISREG(stx.stx_mode) ? ov_whiteout_mark_plain(at, ov->xp) : 0;
}

int ov_upper_whiteout(struct overlay *ov, struct ov_rdir *rdir, int fd, const char *name)
{
	struct statx stx;
	int r = ov_probe(ov, rdir, fd, name, &stx);

	return r == -ENOENT ? 0 : r;
}

/* ---- properties of the parent ---- */

int ov_dir_props(struct overlay *ov, struct ov_inode *dir, struct statx *stx)
{
	ov_cleanup_rfd struct ov_rfd f = ov_rfd_get(&ov->fds, dir->rdirs[0]);
	ssize_t n;
	int r;

	stx->stx_mask = 0;
	if (f.fd < 0)
		return f.fd;
	if (ov_inode_is(dir, OV_I_PROPS)) {
		if (!ov_inode_is(dir, OV_I_SGID))
			return 0;
		return ov_statx_real(ov, dir->rdirs[0]->layer, ov_at_fd(f.fd), stx);
	}
	r = ov_statx_real(ov, dir->rdirs[0]->layer, ov_at_fd(f.fd), stx);
	if (r < 0)
		return r;
	n = ov->cfg.noacl ? 0 : ov_at_getxattr(ov_at_fd(f.fd), OV_ACL_DEFAULT, NULL, 0);
	ov_inode_unset(dir, OV_I_SGID | OV_I_DEFACL);
	if (stx->stx_mode & S_ISGID)
		ov_inode_set(dir, OV_I_SGID);
	if (n > 0)
		ov_inode_set(dir, OV_I_DEFACL);
	ov_inode_set(dir, OV_I_PROPS);
	return 0;
}

/* ---- creation ---- */

static int remove_on_disk(struct overlay *ov, struct ov_inode *parent, const char *name, const struct ov_inode *i, bool dir);

/* NAME was made, but no inode could be: the caller is told that it failed, so it must not be there at the next look. */
static void take_back(struct overlay *ov, struct ov_inode *parent, const char *name, bool dir)
{
	int r = remove_on_disk(ov, parent, name, NULL, dir);

	if (r < 0)
		ov_warn("'%s', which could not be made completely, cannot be removed again: %s", name, strerror(-r));
}

struct creation {
	struct overlay *ov;
	struct ov_inode *parent;
	const char *name;
	mode_t mode; /* type and permissions; umask applied unless a default ACL rules */
	dev_t rdev;
	const char *target;
	const struct ov_cred *cred;
	uid_t uid;   /* on disk */
	gid_t gid;
	char acl[1024]; /* the parent's default ACL */
	size_t acl_len;
	int fd;      /* regular file: left open for the writes that follow */
};

/* Owner, group and mode of the new object, from the caller and the parent. Namespace lock held. */
static int decide_owner(struct creation *c)
{
	struct overlay *ov = c->ov;
	struct statx dir;
	int r;

	/* a caller outside the map (podman itself, making /etc/hosts) may create: the owner is nobody, as with fuse-overlayfs */
	if (ov_uid_to_disk(ov, c->cred->uid, &c->uid) < 0)
		c->uid = OV_OVERFLOW_ID;
	if (ov_gid_to_disk(ov, c->cred->gid, &c->gid) < 0)
		c->gid = OV_OVERFLOW_ID;
	r = ov_dir_props(ov, c->parent, &dir);
	if (r < 0)
		return r;
	if (ov_inode_is(c->parent, OV_I_SGID)) {
		c->gid = dir.stx_gid;
		if (S_ISDIR(c->mode))
			c->mode |= S_ISGID;
	}
	if (!ov_inode_is(c->parent, OV_I_DEFACL)) {
		c->mode &= ~(c->cred->umask & 0777);
		return 0;
	}
	ov_cleanup_rfd struct ov_rfd f = ov_rfd_get(&ov->fds, ov_upper_rdir(c->parent));
	ssize_t n;

	if (f.fd < 0)
		return f.fd;
	n = ov_at_getxattr(ov_at_fd(f.fd), OV_ACL_DEFAULT, c->acl, sizeof(c->acl));
	if (n < 0)
		return (int)n;
	c->acl_len = (size_t)n;
	return 0;
}

/* One syscall in the final directory is atomic and right if owner and group come out right by themselves. */
static bool may_create_directly(const struct creation *c)
{
	const struct overlay *ov = c->ov;

	if (ov->override != OV_OVERRIDE_NONE || c->uid != ov->uid || ov_whiteout_oci_parse(c->name, NULL))
		return false;
	return c->gid == ov->gid || ov_inode_is(c->parent, OV_I_SGID);
}

static int make_node(struct creation *c, int dirfd, const char *name, mode_t mode)
{
	mode_t type = c->mode & S_IFMT;

	if (type == S_IFREG) {
		c->fd = ov_at_open(ov_at_name(dirfd, name), O_CREAT | O_EXCL | O_RDWR | O_NOATIME, mode & 07777);
		return c->fd < 0 ? c->fd : 0;
	}
	if (type == S_IFDIR)
		return mkdirat(dirfd, name, mode & 01777) < 0 ? -errno : 0;
	if (type == S_IFLNK)
		return symlinkat(c->target, dirfd, name) < 0 ? -errno : 0;
	if (c->ov->override != OV_OVERRIDE_NONE)
		return mknodat(dirfd, name, S_IFREG | 0644, 0) < 0 ? -errno : 0;
	return mknodat(dirfd, name, mode, c->rdev) < 0 ? -errno : 0;
}

/* Owner and mode of an object in workdir. */
static int dress_owner(struct creation *c, struct ov_at at)
{
	struct overlay *ov = c->ov;
	int r;

	if (ov->override != OV_OVERRIDE_NONE) {
		struct ov_override_stat st = {.uid = c->uid,
					      .gid = c->gid,
					      .mode = c->mode & 07777,
					      .type = c->mode & S_IFMT,
					      .major = major(c->rdev),
					      .minor = minor(c->rdev)};

		if (S_ISLNK(c->mode) && ov->override != OV_OVERRIDE_SECURITY)
			return 0;
		return ov_override_write(at, ov->override, &st);
	}
	if (c->uid != ov->uid || c->gid != ov->gid || S_ISDIR(c->mode)) {
		r = ov_at_chown(at, c->uid, c->gid);
		if (r < 0)
			return r;
	}
	return S_ISLNK(c->mode) ? 0 : ov_at_chmod(at, c->mode & 07777);
}

static int dress_acl(struct creation *c, struct ov_at at)
{
	char access[sizeof(c->acl)];
	size_t len = 0;
	int r;

	if (S_ISLNK(c->mode) || !c->acl_len)
		return 0;
	r = ov_acl_inherit(c->acl, c->acl_len, &c->mode, access, &len);
	if (r == 0 && len)
		r = ov_at_setxattr(at, OV_ACL_ACCESS, access, len, 0);
	if (r == 0 && S_ISDIR(c->mode))
		r = ov_at_setxattr(at, OV_ACL_DEFAULT, c->acl, c->acl_len, 0);
	return r;
}

/* Make the object complete in workdir under TMP. */
static int make_in_work(struct creation *c, char *tmp, bool opaque)
{
	struct overlay *ov = c->ov;
	struct ov_at at = ov_at_name(ov->work_fd, tmp);
	int r;

	ov_tmp_name(ov, tmp);
	r = make_node(c, ov->work_fd, tmp, (c->mode & S_IFMT) | (S_ISDIR(c->mode) ? 0700 : 0600));
	if (r < 0)
		return r;
	OV_CRASH("create.made");
	r = dress_acl(c, at);
	if (r == 0)
		r = dress_owner(c, at);
	OV_CRASH("create.owner");
	if (r == 0 && opaque)
		r = ov_opaque_write(at, ov->xp, false);
	if (r == 0 && (ov_is_file_on_disk(ov, c->mode) ? ov_whiteout_oci_parse(c->name, NULL)
						       : S_ISDIR(c->mode) && ov_whiteout_is_oci_meta(c->name)))
		r = ov_whiteout_mark_plain(at, ov->xp);
	OV_CRASH("create.ready");
	if (r < 0)
		ov_cleanup_tmp(ov, tmp);
	return r;
}

/* Move the complete TMP to NAME, over a whiteout if there is one. */
static int place(struct creation *c, struct ov_rdir *rdir, int dirfd, const char *tmp, bool over_whiteout)
{
	struct overlay *ov = c->ov;
	int bridge, r;

	if (!over_whiteout) {
		r = ov_renameat2(ov->work_fd, tmp, dirfd, c->name, RENAME_NOREPLACE);
		return r == -EINVAL ? ov_renameat2(ov->work_fd, tmp, dirfd, c->name, 0) : r;
	}
	if (!S_ISDIR(c->mode))
		return ov_renameat2(ov->work_fd, tmp, dirfd, c->name, 0);
	if (ov->can_exchange) {
		r = ov_renameat2(ov->work_fd, tmp, dirfd, c->name, RENAME_EXCHANGE);
		OV_CRASH("create.exchanged");
		if (r == 0)
			ov_cleanup_tmp(ov, tmp); /* the whiteout */
		return r;
	}
	bridge = ov_lift_whiteout(rdir, dirfd, c->name);
	OV_CRASH("create.lifted");
	return bridge < 0 ? bridge
			  : ov_lift_done(ov, rdir, dirfd, c->name, bridge, ov_renameat2(ov->work_fd, tmp, dirfd, c->name, 0));
}

static int create_via_work(struct creation *c, struct ov_rdir *rdir, int dirfd, bool over_whiteout)
{
	bool opaque = false;
	char tmp[32];
	int r;

	if (S_ISDIR(c->mode)) {
		r = over_whiteout ? 1 : ov_probe_oci_whiteout(rdir, dirfd, c->name);
		if (r < 0)
			return r;
		opaque = r;
	}
	r = make_in_work(c, tmp, opaque);
	if (r < 0)
		return r;
	r = place(c, rdir, dirfd, tmp, over_whiteout);
	OV_CRASH("create.placed");
	if (r < 0)
		ov_cleanup_tmp(c->ov, tmp);
	return r;
}

/* Make the object on disk. Namespace lock held. */
static int create_on_disk(struct creation *c, struct ov_rdir *rdir, int dirfd)
{
	bool direct = may_create_directly(c);
	int r = 0;

	if (direct && S_ISDIR(c->mode) && ov_rdir_wh(rdir) != OV_WH_NONE)
		r = ov_probe_oci_whiteout(rdir, dirfd, c->name);
	if (r < 0)
		return r;
	if (direct && r == 0) {
		r = make_node(c, dirfd, c->name, c->mode);
		OV_CRASH("create.direct");
		if (r == 0 && !c->acl_len && (c->mode & 07000) && !S_ISLNK(c->mode) && !S_ISREG(c->mode))
			r = ov_at_chmod(ov_at_name(dirfd, c->name), c->mode & 07777);
		if (r != -EEXIST)
			return r;
	}
	r = ov_upper_whiteout(c->ov, rdir, dirfd, c->name);
	if (r < 0)
		return r;
	return create_via_work(c, rdir, dirfd, r == 1);
}

/* The new object as an inode, and as the reply. */
static int adopt(struct creation *c, struct ov_rdir *rdir, int dirfd, struct ov_entry *out)
{
	struct overlay *ov = c->ov;
	struct ov_found f = {.exists = true, .upper = true};
	struct ov_inode *i = NULL;
	struct ov_at at = c->fd >= 0 ? ov_at_fd(c->fd) : ov_at_name(dirfd, c->name);
	int r = ov_statx_real(ov, rdir->layer, at, &f.stx);

	if (r < 0)
		return r;
	f.ino = ov_make_ino(ov, rdir->layer, f.stx.stx_ino);
	if (S_ISDIR(c->mode)) {
		f.rdirs = malloc(sizeof(*f.rdirs));
		if (f.rdirs) {
			f.rdirs[0] = ov_rdir_new(rdir, rdir->layer, c->name);
			f.nrdirs = f.rdirs[0] ? 1 : 0;
		}
		if (!f.nrdirs)
			r = -ENOMEM;
		else
			ov_rdir_set_wh(f.rdirs[0], OV_WH_NONE);
	} else {
		f.rparent = ov_rdir_ref(rdir);
	}
	if (r == 0)
		r = ov_instantiate(ov, c->parent, c->name, &f, true, &i);
	if (r == 0) {
		ov_inode_set(i, OV_I_NOPROT);
		out->attr = f.stx;
		ov_attr_to_view(ov, i->ino, false, &out->attr);
		out->nodeid = i->nodeid;
		if (c->fd >= 0) {
			const struct timespec mtime = {.tv_sec = f.stx.stx_mtime.tv_sec, .tv_nsec = f.stx.stx_mtime.tv_nsec};
			struct ov_fdslot *slot = ov_fdslot_put(&ov->fds, &i->slot, ov_steal_fd(&c->fd), OV_SLOT_WRITABLE);

			if (slot) {
				ov_fdslot_learn_mtime(&ov->fds, slot, &mtime);
				ov_fdslot_unpin(&ov->fds, slot);
			}
		}
		ov_listing_add(ov, c->parent, c->name, c->mode);
	}
	ov_found_clear(ov, &f);
	return r;
}

static int check_new_name(const struct overlay *ov, const struct ov_inode *parent, const char *name)
{
	if (!ov_inode_isdir(parent))
		return -ENOTDIR;
	if (ov_inode_is(parent, OV_I_UNLINKED))
		return -ENOENT;
	if (strlen(name) > NAME_MAX)
		return -ENAMETOOLONG;
	return ov_want_write(ov);
}

/* What this request has made before, in a worker that then died, is its result. Namespace lock held. */
static int take_made(struct creation *c, int dirfd, struct ov_entry *out)
{
	int r = ov_lookup_locked(c->ov, c->parent, c->name, true, out);

	if (r < 0)
		return r;
	if (!out->nodeid)
		return -EEXIST;
	if ((out->attr.stx_mode & S_IFMT) != (c->mode & S_IFMT)) {
		ov_inode_forget(&c->ov->tab, out->nodeid, 1);
		return -EEXIST;
	}
	if (S_ISDIR(c->mode) && (c->mode & 07000) && !c->acl_len) /* mkdir(2) may have been all that there was time for */
		(void)ov_at_chmod(ov_at_name(dirfd, c->name), c->mode & 07777);
	return 0;
}

static int create(struct creation *c, struct ov_entry *out)
{
	struct overlay *ov = c->ov;
	int r = check_new_name(ov, c->parent, c->name);

	c->fd = -1;
	if (r == 0)
		r = ov_copy_up(ov, c->parent, 0, 0);
	if (r < 0)
		return r;
	{
		OV_NS_READ(ov);
		struct ov_rdir *rdir = ov_upper_rdir(c->parent);
		ov_cleanup_rfd struct ov_rfd d = ov_rfd_get(&ov->fds, rdir);

		r = d.fd < 0 ? d.fd : 0;
		if (r == 0 && ov_inode_is(c->parent, OV_I_UNLINKED))
			r = -ENOENT;
		if (r == 0)
			r = decide_owner(c);
		if (r == 0)
			r = create_on_disk(c, rdir, d.fd);
		if (r == -EEXIST && ov_is_repeat(ov)) {
			r = take_made(c, d.fd, out);
		} else if (r == 0) {
			r = adopt(c, rdir, d.fd, out);
			if (r < 0)
				take_back(ov, c->parent, c->name, S_ISDIR(c->mode));
		}
	}
	if (c->fd >= 0)
		close(c->fd);
	return r;
}

int ov_mknod(struct overlay *ov, struct ov_inode *parent, const char *name, mode_t mode, dev_t rdev,
	     const struct ov_cred *cred, struct ov_entry *out)
{
	struct creation c = {.ov = ov, .parent = parent, .name = name, .mode = mode, .rdev = rdev, .cred = cred};

	if (!(mode & S_IFMT))
		c.mode |= S_IFREG;
	if (S_ISCHR(mode) && rdev == 0)
		return -EPERM; /* on disk that is a whiteout, as in the kernel's overlay */
	return create(&c, out);
}

int ov_mkdir(struct overlay *ov, struct ov_inode *parent, const char *name, mode_t mode, const struct ov_cred *cred,
	     struct ov_entry *out)
{
	struct creation c = {
		.ov = ov, .parent = parent, .name = name, .mode = (mode & 01777) | S_IFDIR, .cred = cred};

	return create(&c, out);
}

int ov_symlink(struct overlay *ov, struct ov_inode *parent, const char *name, const char *target,
	       const struct ov_cred *cred, struct ov_entry *out)
{
	struct creation c = {
		.ov = ov, .parent = parent, .name = name, .mode = S_IFLNK | 0777, .target = target, .cred = cred};

	return create(&c, out);
}

int ov_tmpfile(struct overlay *ov, struct ov_inode *parent, mode_t mode, const struct ov_cred *cred,
	       struct ov_entry *out)
{
	struct creation c = {.ov = ov, .parent = parent, .name = "", .mode = (mode & 07777) | S_IFREG, .cred = cred};
	struct ov_fdslot *slot;
	struct ov_inode *i;
	struct ov_at at;
	int r = ov_want_write(ov);

	c.fd = -1;
	if (r == 0 && !ov->can_tmpfile)
		r = -EOPNOTSUPP;
	if (r == 0)
		r = ov_copy_up(ov, parent, 0, 0);
	if (r < 0)
		return r;
	OV_NS_READ(ov);
	ov_cleanup_fd int fd = -1;

	r = decide_owner(&c);
	if (r < 0)
		return r;
	fd = ov_at_open(ov_at_name(ov->work_fd, "."), O_TMPFILE | O_RDWR, 0600);
	if (fd < 0)
		return fd;
	at = ov_at_fd(fd);
	r = dress_acl(&c, at);
	if (r == 0)
		r = dress_owner(&c, at);
	if (r == 0)
		r = ov_statx_real(ov, &ov->layers[0], at, &out->attr);
	if (r < 0)
		return r;
	i = ov_inode_new(&ov->tab, S_IFREG);
	if (!i)
		return -ENOMEM;
	i->rparent = ov_rdir_ref(ov->roots[0]);
	i->flags |= OV_I_UPPER | OV_I_NOPROT | OV_I_UNLINKED | OV_I_TMPFILE;
	i->ino = ov_make_ino(ov, &ov->layers[0], out->attr.stx_ino);
	slot = ov_fdslot_put(&ov->fds, &i->slot, ov_steal_fd(&fd), OV_SLOT_WRITABLE);
	if (!slot) {
		ov_inode_discard(&ov->tab, i);
		return -ENOMEM;
	}
	ov_fdslot_hold(&ov->fds, &i->slot, &i->held_fd);
	ov_fdslot_unpin(&ov->fds, slot);
	ov_attr_to_view(ov, i->ino, false, &out->attr);
	out->nodeid = i->nodeid;
	ov_inode_insert(&ov->tab, i);
	pthread_mutex_lock(&ov->tab.lock);
	ov_inode_raise_locked(&ov->tab, i);
	pthread_mutex_unlock(&ov->tab.lock);
	return 0;
}

/* ---- hard links ---- */

static int link_on_disk(struct overlay *ov, struct ov_at from, struct ov_rdir *rdir, int dirfd, const char *name)
{
	char tmp[32];
	int r = ov_mark_plain_name(ov, from, name);

	if (r < 0)
		return r;
	r = ov_at_link(from, dirfd, name);
	OV_CRASH("link.direct");
	if (r != -EEXIST)
		return r;
	r = ov_upper_whiteout(ov, rdir, dirfd, name);
	if (r <= 0)
		return r < 0 ? r : -EEXIST;
	ov_tmp_name(ov, tmp);
	r = ov_at_link(from, ov->work_fd, tmp);
	if (r < 0)
		return r;
	OV_CRASH("link.made");
	r = ov_renameat2(ov->work_fd, tmp, dirfd, name, 0);
	OV_CRASH("link.placed");
	if (r < 0)
		ov_cleanup_tmp(ov, tmp);
	return r;
}

/* Bookkeeping of a link made on disk. Namespace lock held for writing. */
static int adopt_link(struct overlay *ov, struct ov_inode *i, struct ov_inode *parent, const char *name,
		      struct ov_entry *out)
{
	struct ov_key key;
	bool first;
	int r;

	r = ov_getattr_locked(ov, i, &out->attr);
	if (r < 0)
		return r;
	pthread_mutex_lock(&ov->tab.lock);
	first = !i->names;
	r = ov_dentry_add_locked(&ov->tab, parent, name, i, false);
	if (r == -EEXIST && ov_dentry_find_locked(&ov->tab, parent, name)->inode == i)
		r = 0; /* made and noted by a worker that died before it could say so */
	if (r == 0)
		ov_inode_raise_locked(&ov->tab, i);
	pthread_mutex_unlock(&ov->tab.lock);
	if (r < 0)
		return r;
	if (first) { /* O_TMPFILE that got its name, or one whose known names were gone */
		struct ov_rdir *old = i->rparent;

		if (!ov_inode_is(i, OV_I_INDEXED)) { /* which is reached through the index */
			i->rparent = ov_rdir_ref(ov_upper_rdir(parent));
			ov_rdir_unref(&ov->fds, old);
		}
		ov_inode_unset(i, OV_I_UNLINKED | OV_I_TMPFILE);
		ov_fdslot_release(&ov->fds, &i->slot);
	}
	if (!ov_inode_is(i, OV_I_KEYED) && out->attr.stx_nlink > 1) {
		ov_cleanup_real struct ov_real real = {0};
		struct statx stx;

		if (ov_real_get(ov, i, &real) == 0 && ov_at_statx(real.at, STATX_INO, &stx) == 0) {
			key = (struct ov_key){.ino = stx.stx_ino, .fsid = real.layer->fsid, .upper = 1};
			ov_inode_set_key(&ov->tab, i, key);
		}
	}
	out->nodeid = i->nodeid;
	ov_listing_add(ov, parent, name, i->type);
	return 0;
}

/* Is DIRFD/NAME the object AT, in the same file system? */
static bool is_link_to(int dirfd, const char *name, struct ov_at at)
{
	struct statx a, b;

	return ov_at_statx(at, STATX_INO, &a) == 0 && ov_at_statx(ov_at_name(dirfd, name), STATX_INO, &b) == 0 &&
	       a.stx_ino == b.stx_ino;
}

/* What chattr(1) protects gets no further names. */
static int check_linkable(struct overlay *ov, struct ov_inode *i)
{
	OV_NS_READ(ov);
	struct statx stx;
	int r = ov_inode_is(i, OV_I_UPPER) ? 0 : ov_getattr_locked(ov, i, &stx); /* only a lower's attributes are asked for */

	return r < 0 ? r : ov_check_removable(ov, i, &stx);
}

/*
 * What has been deleted gets no name again. It may have names on disk that nobody has asked for, though: they were of the upper,
 * as links of a lower break. Namespace lock held.
 */
static int check_has_name(const struct ov_inode *i, struct ov_at at)
{
	struct statx stx;
	int r;

	if (!ov_inode_is(i, OV_I_UNLINKED) || i->names || ov_inode_is(i, OV_I_TMPFILE))
		return 0;
	if (ov_inode_is(i, OV_I_INDEXED))
		return 0; /* else the index would not have it any more */
	r = ov_at_statx(at, STATX_NLINK, &stx);
	return r < 0 ? r : stx.stx_nlink > 0 ? 0 : -ENOENT;
}

int ov_link(struct overlay *ov, struct ov_inode *i, struct ov_inode *parent, const char *name, struct ov_entry *out)
{
	int r = check_new_name(ov, parent, name);

	if (r == 0 && ov_inode_isdir(i))
		r = -EPERM;
	if (r == 0)
		r = check_linkable(ov, i);
	if (r == 0)
		r = ov_copy_up(ov, parent, 0, 0);
	if (r == 0)
		r = ov_copy_up(ov, i, OV_COPY_DATA, 0);
	if (r < 0)
		return r;
	OV_NS_WRITE(ov);
	struct ov_rdir *rdir = ov_upper_rdir(parent);
	ov_cleanup_rfd struct ov_rfd d = ov_rfd_get(&ov->fds, rdir);
	ov_cleanup_real struct ov_real real = {0};

	if (d.fd < 0)
		return d.fd;
	if (ov_inode_is(parent, OV_I_UNLINKED))
		return -ENOENT;
	r = ov_real_get(ov, i, &real);
	if (r == 0)
		r = check_has_name(i, real.at);
	if (r == 0 && ov_inode_is(i, OV_I_INDEXED))
		r = ov_index_settle(ov, i);
	if (r == 0 && S_ISREG(i->type))
		r = ov_mark_plain_names(ov, i, real.at);
	if (r == 0)
		r = link_on_disk(ov, real.at, rdir, d.fd, name);
	if (r == -EEXIST && ov_is_repeat(ov) && is_link_to(d.fd, name, real.at))
		r = 0;
	if (r < 0)
		return r;
	r = adopt_link(ov, i, parent, name, out);
	if (r < 0)
		take_back(ov, parent, name, false);
	return r;
}

/* ---- removal ---- */

/* Note where the object NAME of lower directory DIR is. Too long a path: another worker will not find it; this one does. */
static void note_ghost(struct overlay *ov, struct ov_inode *i, const struct ov_rdir *dir, const char *name)
{
	char path[OV_ARENA_MAX];
	size_t pos = sizeof(path) - 1;
	int r = 0;

	path[pos] = '\0';
	if (name)
		r = ov_prepend(path, &pos, name);
	for (; r == 0 && dir->name; dir = dir->parent)
		r = ov_prepend(path, &pos, dir->name);
	if (r == 0 && !dir->layer->upper)
		r = ov_inode_set_ghost(&ov->tab, i, dir->layer->index, path + pos);
	if (r < 0)
		ov_debug("'%s' will be lost if the daemon is replaced: %s", name ? name : dir->name, strerror(-r));
}

/* The object of I, a file of the upper, gets an fd that is held. */
static int hold_file(struct overlay *ov, struct ov_inode *i)
{
	ov_cleanup_real struct ov_real real = {0};
	struct ov_fdslot *slot;
	int fd, err = 0;

	if (S_ISREG(i->type) && !ov_inode_is(i, OV_I_METACOPY)) {
		slot = ov_file_get(ov, i, false, &err);
		if (slot) {
			ov_fdslot_hold(&ov->fds, &i->slot, &i->held_fd);
			ov_fdslot_unpin(&ov->fds, slot);
			return 0;
		}
		if (err != -EACCES)
			return err;
	}
	err = ov_real_get(ov, i, &real);
	if (err < 0)
		return err;
	fd = ov_at_open(real.at, O_PATH, 0);
	if (fd < 0)
		return fd;
	slot = ov_fdslot_put(&ov->fds, &i->slot, fd, 0);
	if (!slot)
		return -ENOMEM;
	ov_fdslot_hold(&ov->fds, &i->slot, &i->held_fd);
	ov_fdslot_unpin(&ov->fds, slot);
	return 0;
}

int ov_keep_open(struct overlay *ov, struct ov_inode *i)
{
	if (ov_inode_isdir(i)) { /* directories of lowers are found again through those above them */
		if (ov_inode_is(i, OV_I_UPPER))
			return ov_rdir_hold(&ov->fds, i->rdirs[0], &i->held_fd);
		note_ghost(ov, i, i->rdirs[0], NULL);
		return 0;
	}
	if (!ov_inode_is(i, OV_I_UPPER)) { /* its name in the lower stays */
		if (ov_inode_rname(i))
			note_ghost(ov, i, i->rparent, ov_inode_rname(i));
		return 0;
	}
	if (i->data && ov_inode_is(i, OV_I_METACOPY))
		note_ghost(ov, i, i->data->dir, i->data->name);
	if (ov_inode_is(i, OV_I_UNLINKED))
		return ov_fdslot_hold(&ov->fds, &i->slot, &i->held_fd) ? 0 : -ESTALE;
	return hold_file(ov, i);
}

void ov_reach_by_first_name(struct overlay *ov, struct ov_inode *i)
{
	struct ov_rdir *old = i->rparent;

	if (!ov_inode_is(i, OV_I_UPPER) || i->rname)
		return;
	i->rparent = ov_rdir_ref(ov_upper_rdir(i->names->parent));
	ov_rdir_unref(&ov->fds, old);
	ov_inode_unset(i, OV_I_UNLINKED);
	ov_fdslot_release(&ov->fds, &i->slot);
}

void ov_name_gone(struct overlay *ov, struct ov_inode *parent, const char *name)
{
	struct ov_dentry *d;
	struct ov_inode *i;

	pthread_mutex_lock(&ov->tab.lock);
	d = ov_dentry_find_locked(&ov->tab, parent, name);
	i = d ? d->inode : NULL;
	if (d) {
		if (!d->alias_next && i->names == d && !ov_inode_isdir(i) && !ov_inode_is(i, OV_I_UPPER) && !i->rname)
			i->rname = strdup(name); /* a lower file stays where it is; out of memory: ESTALE later */
		ov_dentry_del_locked(&ov->tab, d);
		if (!i->names)
			ov_inode_set(i, OV_I_UNLINKED);
	}
	pthread_mutex_unlock(&ov->tab.lock);
	if (i && i->names && !ov_inode_isdir(i))
		ov_reach_by_first_name(ov, i);
	if (i && ov_inode_isdir(i))
		ov_listing_drop(ov, i);
	ov_listing_del(ov, parent, name);
}

static int remove_behind_oci(struct overlay *ov, struct ov_rdir *rdir, int fd, const char *name, bool dir)
{
	int bridge = ov_oci_bridge(rdir, fd, name), r;
	char tmp[32];

	if (bridge < 0)
		return bridge;
	OV_CRASH("remove.oci-whiteout");
	ov_tmp_name(ov, tmp);
	if (dir)
		r = ov_renameat2(fd, name, ov->work_fd, tmp, 0);
	else
		r = unlinkat(fd, name, 0) < 0 ? -errno : 0;
	OV_CRASH("remove.oci-moved");
	if (r < 0)
		ov_oci_bridge_end(fd, name, bridge);
	else if (dir)
		ov_cleanup_tmp(ov, tmp);
	return r;
}

/* The directory NAME goes to workdir/work, and TMP from there to its place. */
static int swap_in_two_steps(struct overlay *ov, struct ov_rdir *rdir, int fd, const char *name, const char *tmp)
{
	int bridge = ov_oci_bridge(rdir, fd, name), r;
	char old[32];

	if (bridge < 0)
		return bridge;
	ov_tmp_name(ov, old);
	r = ov_renameat2(fd, name, ov->work_fd, old, 0);
	OV_CRASH("remove.one-of-two");
	if (r == 0) {
		r = ov_renameat2(ov->work_fd, tmp, fd, name, 0);
		if (r < 0 && ov_renameat2(ov->work_fd, old, fd, name, 0) < 0 && bridge != OV_BRIDGE_NONE) {
			bridge = OV_BRIDGE_FOUND; /* it stays for the whiteout */
			r = 0;
		}
		ov_cleanup_tmp(ov, old);
	}
	ov_oci_bridge_end(fd, name, bridge);
	return r;
}

/* Replace what upper has under NAME (a directory if DIR) by a whiteout, in one step if that can be had. */
static int swap_for_whiteout(struct overlay *ov, struct ov_rdir *rdir, int fd, const char *name, bool dir)
{
	char tmp[32];
	int r = ov_whiteout_kind_for(ov, fd, name);

	if (r < 0)
		return r;
	if (r == OV_WH_OCI)
		return remove_behind_oci(ov, rdir, fd, name, dir);
	r = ov_whiteout_tmp(ov, fd, r, tmp);
	if (r < 0)
		return r;
	OV_CRASH("remove.whiteout");
	if (!dir) {
		r = ov_renameat2(ov->work_fd, tmp, fd, name, 0);
	} else if (ov->can_exchange) {
		r = ov_renameat2(ov->work_fd, tmp, fd, name, RENAME_EXCHANGE);
	} else {
		r = swap_in_two_steps(ov, rdir, fd, name, tmp);
	}
	OV_CRASH("remove.swapped");
	if (r < 0 || dir)
		ov_cleanup_tmp(ov, tmp);
	return r;
}

/* Take the upper directory NAME, whose merged view is empty, out of the tree; whiteouts inside go with it. */
static int remove_upper_dir(struct overlay *ov, int fd, const char *name)
{
	char tmp[32];
	int r;

	if (unlinkat(fd, name, AT_REMOVEDIR) == 0)
		return 0;
	if (errno != ENOTEMPTY && errno != EEXIST)
		return -errno;
	ov_tmp_name(ov, tmp);
	r = ov_renameat2(fd, name, ov->work_fd, tmp, 0);
	OV_CRASH("remove.moved");
	if (r == 0)
		ov_cleanup_tmp(ov, tmp);
	return r;
}

/*
 * The rest of remove_on_disk() for I, no directory, which is what the view shows as NAME: the layer that it is in says where
 * NAME is. -EAGAIN where that has to be looked up.
 */
static int remove_known(struct overlay *ov, struct ov_inode *parent, int fd, const char *name, const struct ov_inode *i)
{
	struct ov_rdir *rdir = ov_upper_rdir(parent);
	int r;

	if (ov_inode_is(i, OV_I_INDEXED))
		return -EAGAIN;
	if (!ov_inode_is(i, OV_I_UPPER)) {
		r = ov_place_whiteout(ov, rdir, fd, name);
		return r == -EEXIST ? -EAGAIN : r;
	}
	r = ov_lower_has(ov, parent, name);
	if (r < 0)
		return r;
	if (r)
		return swap_for_whiteout(ov, rdir, fd, name, false);
	return unlinkat(fd, name, 0) < 0 ? -errno : 0;
}

/* I: the inode known as NAME, or NULL. Namespace lock held. */
static int remove_on_disk(struct overlay *ov, struct ov_inode *parent, const char *name, const struct ov_inode *i, bool dir)
{
	struct ov_rdir *rdir = ov_upper_rdir(parent);
	ov_cleanup_rfd struct ov_rfd d = ov_rfd_get(&ov->fds, rdir);
	struct statx stx;
	int lower, r;

	if (d.fd < 0)
		return d.fd;
	r = i && !dir ? remove_known(ov, parent, d.fd, name, i) : -EAGAIN;
	if (r != -EAGAIN)
		return r;
	lower = ov_lower_has(ov, parent, name);
	if (lower < 0)
		return lower;
	r = ov_probe(ov, rdir, d.fd, name, &stx);
	if (r == 1)
		return -ENOENT;
	if (r == -ENOENT) /* only a lower has it */
		return lower ? ov_place_whiteout(ov, rdir, d.fd, name) : -ENOENT;
	if (r < 0)
		return r;
	if (lower)
		return swap_for_whiteout(ov, rdir, d.fd, name, dir);
	if (dir)
		return remove_upper_dir(ov, d.fd, name);
	return unlinkat(d.fd, name, 0) < 0 ? -errno : 0;
}

/* Is I about to lose its last name that we know of? Then it is kept open. Else the front is told. */
static int keep_if_last(struct overlay *ov, struct ov_inode *i)
{
	bool last;

	pthread_mutex_lock(&ov->tab.lock);
	last = !i->names || !i->names->alias_next;
	pthread_mutex_unlock(&ov->tab.lock);
	if (last)
		return ov_keep_open(ov, i);
	ov_loses_name(ov, i);
	return 0;
}

static int check_removable(struct overlay *ov, struct ov_inode *i, const struct statx *stx)
{
	OV_NS_READ(ov);
	return ov_check_removable(ov, i, stx);
}

/*
 * What is to be removed, counted as looked up. Attributes are filled only for what is not in the upper: nobody asks for
 * others.
 */
static int find_to_remove(struct overlay *ov, struct ov_inode *parent, const char *name, struct ov_entry *out)
{
	OV_NS_READ(ov);
	struct ov_dentry *d;

	pthread_mutex_lock(&ov->tab.lock);
	d = ov_dentry_find_locked(&ov->tab, parent, name);
	if (d && ov_inode_is(d->inode, OV_I_UPPER) && !ov_inode_is(d->inode, OV_I_STALE)) {
		ov_inode_raise_locked(&ov->tab, d->inode);
		out->nodeid = d->inode->nodeid;
	} else {
		d = NULL;
	}
	pthread_mutex_unlock(&ov->tab.lock);
	return d ? 0 : ov_lookup_locked(ov, parent, name, true, out);
}

static int remove_name(struct overlay *ov, struct ov_inode *parent, const char *name, bool dir)
{
	struct ov_entry entry;
	struct ov_inode *i;
	int r;

	if (!ov_inode_isdir(parent))
		return -ENOTDIR;
	r = ov_want_write(ov);
	if (r < 0)
		return r;
	r = find_to_remove(ov, parent, name, &entry);
	if (r < 0)
		return r;
	if (!entry.nodeid) {
		if (!ov_is_repeat(ov))
			return -ENOENT;
		ov_loses_name(ov, NULL);
		return 0;
	}
	i = ov_inode_find(&ov->tab, entry.nodeid);
	if (dir != ov_inode_isdir(i))
		r = dir ? -ENOTDIR : -EISDIR;
	if (r == 0)
		r = check_removable(ov, i, &entry.attr);
	if (r == 0)
		r = ov_copy_up(ov, parent, 0, 0);
	if (r == 0 && ov_index_has(ov, i))
		r = ov_copy_up(ov, i, OV_COPY_NAMED, 0); /* the index counts its names */
	if (r == 0) {
		OV_NS_WRITE(ov);
		if (dir) {
			r = ov_dir_is_empty(ov, i);
			r = r < 0 ? r : (r ? 0 : -ENOTEMPTY);
		}
		if (r == 0 && ov_inode_is(i, OV_I_INDEXED))
			r = ov_index_link_up(ov, i, parent, name);
		if (r == 0)
			r = keep_if_last(ov, i);
		if (r == 0)
			r = remove_on_disk(ov, parent, name, i, dir);
		OV_CRASH("remove.done");
		if (r == 0 && ov_inode_is(i, OV_I_INDEXED))
			ov_note_halves(ov); /* its link count */
		if (r == 0 || r == -ENOENT)
			ov_name_gone(ov, parent, name);
		if (r == -ENOENT && ov_is_repeat(ov)) {
			ov_loses_name(ov, i);
			r = 0;
		}
		if (r == 0 && ov_inode_is(i, OV_I_INDEXED))
			ov_index_drop_unused(ov, i);
	}
	ov_inode_forget(&ov->tab, entry.nodeid, 1);
	return r;
}

int ov_unlink(struct overlay *ov, struct ov_inode *parent, const char *name)
{
	return remove_name(ov, parent, name, false);
}

int ov_rmdir(struct overlay *ov, struct ov_inode *parent, const char *name)
{
	return remove_name(ov, parent, name, true);
}
