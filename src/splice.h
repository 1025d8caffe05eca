/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_SPLICE_H
#define OV_SPLICE_H

/*
 * Answers to large READs without the way through this process's memory: the pages of the file's cache go into a pipe, which
 * copies nothing, and from there to /dev/fuse.
 */

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define OV_SPLICE_MIN (64 * 1024) /* below, a copy costs no more than the calls */

/*
 * Answer request UNIQUE on DEV with SIZE bytes at OFF of FD, or with what there is up to its end. 0: answered, or the request
 * is gone. -errno: nothing was answered, so that it must be done in another way. That is so if a pipe of that size is not
 * allowed (1 MiB with the header needs more than /proc/sys/fs/pipe-max-size gives), and where anything fails.
 */
int ov_splice_reply(int dev, uint64_t unique, int fd, off_t off, size_t size);

/* The calling thread ends: close its pipe. */
void ov_splice_thread_end(void);

#endif
