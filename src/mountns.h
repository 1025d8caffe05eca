/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_MOUNTNS_H
#define OV_MOUNTNS_H

/*
 * A daemon that stays in the mount namespace of its mount keeps that namespace, and so its own mount, alive for ever.
 * Here it steps out of it: the mount then ends with the last process that can see it.
 */

#include <stdint.h>
#include <sys/types.h>

#include "util.h"

struct ov_mountns {
	bool left;      /* we live in a namespace of our own */
	dev_t dev;      /* identity of the one with the mount (/proc/PID/ns/mnt) */
	ino_t ino;
};

/*
 * Move the calling process, which must have one thread, into a mount namespace of its own with nothing mounted but what
 * it needs. Without the privilege nothing happens.
 */
void ov_mountns_leave(struct ov_mountns *ns);

/*
 * Run FN(ARG) in the namespace with the mount: in a child if we left it. The result of FN (0 or -errno), or -ESRCH if no
 * process lives there any more.
 */
int ov_mountns_run(const struct ov_mountns *ns, int (*fn)(void *arg), void *arg);

#endif
