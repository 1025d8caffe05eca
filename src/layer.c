/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "layer.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/vfs.h>

#include "format/opaque.h"
#include "format/origin.h"
#include "sys/at.h"

#ifndef __NR_open_tree
#define __NR_open_tree 428
#endif
#ifndef __NR_mount_setattr
#define __NR_mount_setattr 442
#endif
#define OV_OPEN_TREE_CLONE 1
#define OV_MOUNT_ATTR_RDONLY 0x00000001
#define OV_MOUNT_ATTR_NODEV 0x00000004
#define OV_MOUNT_ATTR__ATIME 0x00000070
#define OV_MOUNT_ATTR_NOATIME 0x00000010

struct ov_mount_attr {
	uint64_t attr_set;
	uint64_t attr_clr;
	uint64_t propagation;
	uint64_t userns_fd;
};

/*
 * A detached clone of the mount at PATH, read-only and noatime as far as allowed; -1 where cloning is not. Without devices:
 * one planted where a file was looked up shall not be opened.
 */
static int clone_mount(const char *path, bool *noatime)
{
	struct ov_mount_attr attr = {
		.attr_set = OV_MOUNT_ATTR_RDONLY | OV_MOUNT_ATTR_NODEV | OV_MOUNT_ATTR_NOATIME,
		.attr_clr = OV_MOUNT_ATTR__ATIME,
	};
	int fd = (int)syscall(__NR_open_tree, AT_FDCWD, path, OV_OPEN_TREE_CLONE | O_CLOEXEC);

	*noatime = false;
	if (fd < 0)
		return -1;
	if (syscall(__NR_mount_setattr, fd, "", AT_EMPTY_PATH, &attr, sizeof(attr)) == 0) {
		*noatime = true;
		return fd;
	}
	/* atime flags may be locked in a user namespace; read-only alone is still worth having */
	attr.attr_set = OV_MOUNT_ATTR_RDONLY | OV_MOUNT_ATTR_NODEV;
	attr.attr_clr = 0;
	(void)syscall(__NR_mount_setattr, fd, "", AT_EMPTY_PATH, &attr, sizeof(attr));
	return fd;
}

/* File systems that read through the kernel's page cache. */
static const unsigned page_cached[] = {EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC, TMPFS_MAGIC, F2FS_SUPER_MAGIC,
				       SQUASHFS_MAGIC, 0xe0f5e1e2 /* erofs */};

/* File systems with one journal for all changes, in their order; or with none at all. */
static const unsigned ordered[] = {EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, TMPFS_MAGIC};

static bool is_one_of(unsigned type, const unsigned *known, size_t n)
{
	while (n--)
		if (type == known[n])
			return true;
	return false;
}

static void look_at_file_system(struct ov_layer *l)
{
	struct statfs st;

	if (fstatfs(l->root_fd, &st) < 0)
		return;
	l->page_cached = is_one_of((unsigned)st.f_type, page_cached, OV_ARRAY_SIZE(page_cached));
	l->fsync_orders = is_one_of((unsigned)st.f_type, ordered, OV_ARRAY_SIZE(ordered));
}

int ov_layer_look(struct ov_layer *l)
{
	struct statx stx;
	int r = ov_at_statx(ov_at_fd(l->root_fd), STATX_BASIC_STATS, &stx);

	if (r < 0)
		return r;
	l->dev = ((dev_t)stx.stx_dev_major << 32) | stx.stx_dev_minor;
	l->root_ino = stx.stx_ino;
	look_at_file_system(l);
	r = ov_fs_uuid(l->root_fd, l->uuid);
	if (r < 0)
		memset(l->uuid, 0, sizeof(l->uuid));
	l->xwhiteouts = ov_opaque_allows_xwhiteouts(ov_at_fd(l->root_fd));
	l->override = ov_override_detect(ov_at_fd(l->root_fd));
	return 0;
}

int ov_layer_open(struct ov_layer *l, const char *path, bool upper)
{
	memset(l, 0, sizeof(*l));
	l->root_fd = -1;
	l->upper = upper;
	l->path = strdup(path);
	if (!l->path)
		return -ENOMEM;
	/* upper and work must stay on one mount for rename(), so only lowers are cloned */
	if (!upper) {
		/* closing the tree's own fd detaches the clone from everything but the fds opened on it */
		ov_cleanup_fd int tree = clone_mount(path, &l->noatime_ok);

		if (tree >= 0)
			l->root_fd = openat(tree, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		l->cloned = l->root_fd >= 0;
	}
	if (l->root_fd < 0) {
		l->noatime_ok = false;
		l->root_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		l->careful = true;
	}
	return l->root_fd < 0 ? -errno : ov_layer_look(l);
}

void ov_layer_close(struct ov_layer *l)
{
	if (l->root_fd >= 0)
		close(l->root_fd);
	l->root_fd = -1;
	free(l->path);
	l->path = NULL;
}

int ov_dir_is_inside(int inner_fd, dev_t dev, uint64_t ino)
{
	ov_cleanup_fd int fd = openat(inner_fd, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct statx cur, up;
	int r;

	if (fd < 0)
		return -errno;
	r = ov_at_statx(ov_at_fd(fd), STATX_BASIC_STATS, &cur);
	if (r < 0)
		return r;
	for (;;) {
		int parent;

		if ((((dev_t)cur.stx_dev_major << 32) | cur.stx_dev_minor) == dev && cur.stx_ino == ino)
			return 1;
		parent = openat(fd, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (parent < 0)
			return errno == EACCES ? 0 : -errno;
		close(fd);
		fd = parent;
		r = ov_at_statx(ov_at_fd(fd), STATX_BASIC_STATS, &up);
		if (r < 0)
			return r;
		if (up.stx_ino == cur.stx_ino && up.stx_dev_minor == cur.stx_dev_minor &&
		    up.stx_dev_major == cur.stx_dev_major)
			return 0; /* "/" is its own parent */
		cur = up;
	}
}
