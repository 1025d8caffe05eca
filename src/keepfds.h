/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_KEEPFDS_H
#define OV_KEEPFDS_H

/*
 * The processes of a mount share their file descriptors. When the one that served has died, whoever goes on closes what it had
 * open, but for those that they all start with and those that keep objects without a name.
 */

#include <stdbool.h>
#include <stddef.h>

#include "inode.h"

struct ov_fdlist {
	int *fds;
	size_t n, room;
	bool failed; /* there was no memory for one */
};

/*
 * The fds of this process, but for EXCEPT and those that the inodes of T hold, become those of L, which was zeroed. 0 or
 * -errno.
 */
int ov_fds_note(struct ov_fdlist *l, struct ov_itable *t, int except);

/* Close all fds but those of L and those that the inodes of T hold. Without memory to find out they stay open. */
void ov_fds_close_others(const struct ov_fdlist *l, struct ov_itable *t);

void ov_fds_free(struct ov_fdlist *l);

#endif
