/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_MOUNTPOINT_H
#define OV_MOUNTPOINT_H

#include <stdbool.h>

/* Is there a directory PATH to mount on, and may we use /dev/fuse? 0 or -errno, which has been logged. */
int ov_mountpoint_check(const char *path);

/* Have the kernel read further ahead in what is mounted on PATH, if we may. It does not ask the file system. */
void ov_mountpoint_read_ahead(const char *path);

/*
 * Unmount what is on MOUNTPOINT, by fusermount3 if we may not ourselves; LAZY: detach it, though it is busy. Not through a symbolic
 * link. 0 or -errno: -EBUSY, -EINVAL if nothing is mounted there.
 */
int ov_mountpoint_unmount(const char *mountpoint, bool lazy);

#endif
