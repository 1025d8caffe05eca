// SPDX-License-Identifier: GPL-2.0-or-later
#include "io.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/btrfs.h>
#include <linux/fs.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

/* One copy_file_range call: large enough to be cheap, small enough that a signal or an error is not far away. */
#define RANGE_CHUNK ((size_t)128 << 20)
#define SMALL_COPY ((off_t)1 << 20)
#define PAGE_EDGE 4096 /* of the smallest pages there are */
#define BUFFER_SIZE ((size_t)1 << 20)

/* EINTR is not retried: a network file system may have done the rename already, and ENOENT would be a lie then. */
int ov_renameat2(int olddir, const char *old, int newdir, const char *new, unsigned flags)
{
	if (flags == 0)
		return renameat(olddir, old, newdir, new) < 0 ? -errno : 0;
	if (syscall(__NR_renameat2, olddir, old, newdir, new, flags) == 0)
		return 0;
	return errno == ENOSYS ? -EINVAL : -errno;
}

ssize_t ov_pread_full(int fd, void *buf, size_t size, off_t off)
{
	size_t done = 0;
	ssize_t n;

	while (done < size) {
		n = pread(fd, (char *)buf + done, size - done, off + (off_t)done);
		if (n == 0)
			break;
		if (n > 0)
			done += (size_t)n;
		else if (errno != EINTR)
			return done ? (ssize_t)done : -errno;
	}
	return (ssize_t)done;
}

ssize_t ov_pread_eof(int fd, void *buf, size_t size, off_t off)
{
	ssize_t n;

	do
		n = pread(fd, buf, size, off);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	/* an error further on ends a read at a page's edge: ask again there, so that it is told and not taken for the end */
	if ((size_t)n < size && n > 0 && (off + n) % PAGE_EDGE == 0) {
		ssize_t more = ov_pread_full(fd, (char *)buf + n, size - (size_t)n, off + n);

		return more < 0 ? more : n + more;
	}
	return n;
}

ssize_t ov_pwrite_full(int fd, const void *buf, size_t size, off_t off)
{
	size_t done = 0;
	ssize_t n;

	while (done < size) {
		n = pwrite(fd, (const char *)buf + done, size - done, off + (off_t)done);
		if (n == 0)
			return done ? (ssize_t)done : -EIO; /* no progress would be an endless loop */
		if (n > 0)
			done += (size_t)n;
		else if (errno != EINTR)
			return done ? (ssize_t)done : -errno;
	}
	return (ssize_t)done;
}

/* One copy: the two files, and what was found out about them on the way. */
struct copy {
	int in;
	int out;
	bool no_range; /* copy_file_range does not work between them */
	char *buf; /* for read/write, made when first needed */
};

/* Copy [*POS, END) by read and write. */
static int copy_rw(struct copy *c, off_t *pos, off_t end)
{
	if (!c->buf) {
		c->buf = malloc(BUFFER_SIZE);
		if (!c->buf)
			return -ENOMEM;
	}
	while (*pos < end) {
		size_t want = end - *pos < (off_t)BUFFER_SIZE ? (size_t)(end - *pos) : BUFFER_SIZE;
		ssize_t n = ov_pread_full(c->in, c->buf, want, *pos);
		ssize_t done = 0, w;

		if (n == 0)
			return -EIO; /* the source shrank under us */
		if (n < 0)
			return (int)n;
		while (done < n) {
			w = ov_pwrite_full(c->out, c->buf + done, (size_t)(n - done), *pos + done);
			if (w < 0)
				return (int)w;
			done += w;
		}
		*pos += n;
	}
	return 0;
}

/* Would reading and writing fail as well, so that there is no sense in trying? */
static bool is_final(int err)
{
	return err == ENOSPC || err == EDQUOT || err == EFBIG || err == ENOMEM;
}

/* Copy the data segment [POS, END). */
static int copy_segment(struct copy *c, off_t pos, off_t end)
{
	while (pos < end && !c->no_range) {
		size_t want = end - pos < (off_t)RANGE_CHUNK ? (size_t)(end - pos) : RANGE_CHUNK;
		off_t from = pos, to = pos;
		ssize_t n = copy_file_range(c->in, &from, c->out, &to, want, 0);

		if (n > 0)
			pos += n;
		else if (n < 0 && errno == EINTR)
			continue;
		else if (n < 0 && is_final(errno))
			return -errno;
		else /* EXDEV, EINVAL, EOPNOTSUPP...; 0 is EOF, or a file system that cannot: read() knows */
			c->no_range = true;
	}
	return copy_rw(c, &pos, end);
}

/* Find the next data segment of FD from POS on, within SIZE. False if only holes are left. */
static bool next_segment(int fd, off_t pos, off_t size, off_t *start, off_t *end)
{
	off_t data = lseek(fd, pos, SEEK_DATA);

	if (data < 0) {
		if (errno == ENXIO)
			return false;
		*start = pos; /* the file system cannot tell: all is data */
		*end = size;
		return true;
	}
	if (data >= size)
		return false;
	*start = data;
	*end = lseek(fd, data, SEEK_HOLE);
	if (*end <= data || *end > size)
		*end = size;
	return true;
}

/*
 * File systems, by st_dev of the source, that turned out not to share extents with where copies go: a mount has one upper.
 * Like what at.c finds the kernel not to have, it saves a failing syscall a file.
 */
static _Atomic dev_t no_clone;

/* Share the extents, if the file system can and the copy is of the whole IN, which is ST. 1 if done. */
static int try_clone(int in, int out, off_t size, const struct stat *st)
{
	struct stat copy;

	if (st->st_size != size || st->st_dev == atomic_load_explicit(&no_clone, memory_order_relaxed))
		return 0;
	if (ioctl(out, FICLONE, in) < 0) {
		if (errno == EOPNOTSUPP || errno == ENOTTY || errno == EXDEV)
			atomic_store_explicit(&no_clone, st->st_dev, memory_order_relaxed);
		return 0;
	}
	if (fstat(out, &copy) < 0)
		return -errno;
	return copy.st_size == size ? 1 : -EIO;
}

/* Copy SIZE bytes, holes as holes. */
static int copy_sparse(struct copy *c, off_t size)
{
	off_t pos = 0, start, end;
	struct stat st;
	int r = 0;

	/* The size comes first: behind writes that extend a file xfs allocates more, which would fill the holes. */
	if (TEMP_FAILURE_RETRY(ftruncate(c->out, size)) < 0)
		return -errno;
	while (r == 0 && pos < size && next_segment(c->in, pos, size, &start, &end)) {
		r = copy_segment(c, start, end);
		pos = end;
	}
	if (r < 0)
		return r;
	/* A source cut off in a hole looks like a hole: its size tells. */
	if (fstat(c->in, &st) < 0)
		return -errno;
	return st.st_size < size ? -EIO : 0;
}

int ov_copy_data(int in, int out, off_t size)
{
	struct copy c = {.in = in, .out = out};
	struct stat st;
	int r;

	if (size <= 0)
		return size < 0 ? -EINVAL : 0;
	if (fstat(in, &st) < 0)
		return -errno;
	if (st.st_size < size)
		return -EIO;
	r = try_clone(in, out, size, &st);
	if (r != 0)
		return r < 0 ? r : 0;
	/* a small file with as many blocks as it has bytes has no holes worth looking for */
	r = size <= SMALL_COPY && (off_t)st.st_blocks * 512 >= st.st_size ? copy_segment(&c, 0, size) : copy_sparse(&c, size);
	ov_free_p(&c.buf);
	return r;
}

int ov_commit(int fd)
{
	uint64_t transaction = 0;

	/* where it is to be had, the way that leaves others' data alone */
	if (ioctl(fd, BTRFS_IOC_START_SYNC, &transaction) == 0 && ioctl(fd, BTRFS_IOC_WAIT_SYNC, &transaction) == 0)
		return 0;
	return TEMP_FAILURE_RETRY(syncfs(fd)) < 0 ? -errno : 0;
}

int ov_fsync(int fd, bool datasync)
{
	return TEMP_FAILURE_RETRY(datasync ? fdatasync(fd) : fsync(fd)) < 0 ? -errno : 0;
}

/* What close_range(2) does, where that is missing (before Linux 5.9, or forbidden). */
static void close_listed(unsigned first, unsigned end)
{
	DIR *dir = opendir("/proc/self/fd");
	struct dirent *de;

	if (!dir)
		return;
	while ((de = readdir(dir))) {
		unsigned fd = (unsigned)strtoul(de->d_name, NULL, 10);

		if (de->d_name[0] != '.' && (int)fd != dirfd(dir) && fd >= first && fd < end)
			close((int)fd);
	}
	closedir(dir);
}

void ov_close_range(unsigned first, unsigned end)
{
	if (first >= end)
		return;
#ifdef SYS_close_range
	if (syscall(SYS_close_range, first, end == ~0U ? end : end - 1, 0U) == 0)
		return;
#endif
	close_listed(first, end);
}
