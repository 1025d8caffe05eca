/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_SYS_IO_H
#define OV_SYS_IO_H

/* Data in bulk, and the syscalls that libc of the floor (glibc 2.36) lacks. All return 0 or a count, or -errno. */

#include <stdint.h>
#include <sys/types.h>

#include "../util.h"

#ifndef RENAME_NOREPLACE
#define RENAME_NOREPLACE (1u << 0)
#define RENAME_EXCHANGE (1u << 1)
#define RENAME_WHITEOUT (1u << 2)
#endif

/* renameat2(2); with FLAGS 0 also where the syscall is missing. -EINVAL if the file system lacks a flag. */
int ov_renameat2(int olddir, const char *old, int newdir, const char *new, unsigned flags);

/* Read or write exactly SIZE bytes at OFF unless EOF (read) or an error comes first; the count done, or -errno. */
ssize_t ov_pread_full(int fd, void *buf, size_t size, off_t off);
/* The same of a file in a page cache, where less than asked for is the end unless it is a whole number of pages: one call. */
ssize_t ov_pread_eof(int fd, void *buf, size_t size, off_t off);
ssize_t ov_pwrite_full(int fd, const void *buf, size_t size, off_t off);

/*
 * Copy the first SIZE bytes of IN to the empty file OUT: reflink if the file system can (whole files), else
 * copy_file_range of each data segment, else read/write; holes stay holes, and OUT ends with size SIZE.
 */
int ov_copy_data(int in, int out, off_t size);

/* Close the fds from FIRST up to, not including, END (~0U: all). Those that are not open do not matter. */
void ov_close_range(unsigned first, unsigned end);

/* fsync or fdatasync; EINTR retried. */
int ov_fsync(int fd, bool datasync);

/* Have the file system of FD make all names and attributes permanent that were changed so far. 0 or -errno. */
int ov_commit(int fd);

#endif
