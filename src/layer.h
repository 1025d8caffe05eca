/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_LAYER_H
#define OV_LAYER_H

/* One directory tree of the stack: how it is opened, and what is known of its file system. */

#include <stdint.h>
#include <sys/types.h>

#include "format/override_stat.h"
#include "util.h"

struct ov_layer {
	char *path;      /* as the user gave it, for messages; owned */
	int root_fd;     /* readable directory; owned, never evicted */
	bool cloned;     /* on a private clone of the mount: nothing mounted inside is seen */
	dev_t dev;       /* of the root */
	uint64_t root_ino;
	unsigned index;  /* position in the stack, 0 = uppermost */
	unsigned fsid;   /* small number of its file system; 0 where all layers share one with the upper */
	uint8_t uuid[16];
	bool upper;
	bool data_only;
	bool careful;    /* not cloned and the mountpoint may lie inside: never step onto another mount */
	bool xwhiteouts; /* empty files may be xattr whiteouts (a directory marked opaque=x was met); only ever set */
	bool page_cached; /* reads come from the page cache: a short one is the end of the file */
	bool fsync_orders; /* fsync of a file brings all changes with it that were made before */
	bool noatime_ok; /* reading leaves no atime behind, or O_NOATIME works */
	enum ov_override override;
};

/*
 * Open PATH (a final symlink is followed) as a layer. A lower is opened on a private, read-only, noatime clone of its mount
 * where the kernel lets us: other mounts inside, our own mountpoint among them, are then not seen, and not even
 * an atime of the lower can change. 0, or -errno; nothing is logged.
 */
int ov_layer_open(struct ov_layer *l, const char *path, bool upper);

/* Find out what there is to know of the directory behind L->root_fd. 0 or -errno. */
int ov_layer_look(struct ov_layer *l);

void ov_layer_close(struct ov_layer *l);

/* May empty files of the layer be xattr whiteouts? Any thread learns it at any lookup, and all of them ask. */
static inline bool ov_layer_has_xwhiteouts(const struct ov_layer *l)
{
	return __atomic_load_n(&l->xwhiteouts, __ATOMIC_RELAXED);
}
static inline void ov_layer_set_xwhiteouts(struct ov_layer *l)
{
	__atomic_store_n(&l->xwhiteouts, true, __ATOMIC_RELAXED);
}

/* Is directory INNER_FD the directory (DEV, INO) or somewhere below it? 1, 0, or -errno. */
int ov_dir_is_inside(int inner_fd, dev_t dev, uint64_t ino);

#endif
