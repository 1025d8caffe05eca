/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_UNMOUNT_H
#define OV_UNMOUNT_H

#include <stdbool.h>

/*
 * Unmount what is on MOUNTPOINT, by fusermount3 if we may not ourselves; LAZY: detach it, though it is busy. Not through a symbolic
 * link. 0 or -errno: -EBUSY, -EINVAL if nothing is mounted there.
 */
int ov_unmount(const char *mountpoint, bool lazy);

#endif
