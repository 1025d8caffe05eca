/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * A disk that remembers. A FUSE file system with the file "disk", which is IMAGE, for a loop device to stand on: everything
 * that is written to it and every flush (fsync: what the loop device makes of one) is put down in LOG in the order of its
 * coming. From that a test makes the image as it was at any moment, as a disk without power would keep it. What is written
 * to the file "mark" goes into LOG, too, so that the test can say there what it does.
 *
 *	disk IMAGE LOG MOUNTPOINT [options of FUSE]
 *
 * LOG is a row of records: struct record, then LENGTH bytes for writes and marks.
 */

#define FUSE_USE_VERSION 314

#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { WRITE = 1, FLUSH = 2, MARK = 3 };

/* The layout is known to test_powerloss.py. */
struct record {
	uint32_t kind;
	uint32_t length;
	uint64_t offset;
};

static int image = -1, logfile = -1;

/* Short writes are failures here: a log with a hole is worth nothing. */
static int put_down(enum kind kind, const char *data, size_t length, off_t offset)
{
	struct record r = {.kind = kind, .length = (uint32_t)length, .offset = (uint64_t)offset};
	struct iovec v[2] = {{.iov_base = &r, .iov_len = sizeof(r)}, {.iov_base = (void *)data, .iov_len = length}};
	ssize_t n = writev(logfile, v, 2);

	return n == (ssize_t)(sizeof(r) + length) ? 0 : n < 0 ? -errno : -EIO;
}

static int disk_getattr(const char *path, struct stat *st, struct fuse_file_info *fi)
{
	(void)fi;
	memset(st, 0, sizeof(*st));
	st->st_nlink = 1;
	if (strcmp(path, "/") == 0) {
		st->st_mode = S_IFDIR | 0755;
		st->st_nlink = 2;
		return 0;
	}
	st->st_mode = S_IFREG | 0600;
	if (strcmp(path, "/mark") == 0)
		return 0;
	if (strcmp(path, "/disk") != 0)
		return -ENOENT;
	if (fstat(image, st) < 0)
		return -errno;
	st->st_mode = S_IFREG | 0600;
	return 0;
}

static int disk_open(const char *path, struct fuse_file_info *fi)
{
	fi->direct_io = strcmp(path, "/mark") == 0;
	return 0;
}

static int disk_truncate(const char *path, off_t size, struct fuse_file_info *fi)
{
	(void)size;
	(void)fi;
	return strcmp(path, "/mark") == 0 ? 0 : -EPERM;
}

static int disk_read(const char *path, char *buf, size_t size, off_t offset, struct fuse_file_info *fi)
{
	ssize_t n = strcmp(path, "/disk") == 0 ? pread(image, buf, size, offset) : 0;

	(void)fi;
	return n < 0 ? -errno : (int)n;
}

static int disk_write(const char *path, const char *buf, size_t size, off_t offset, struct fuse_file_info *fi)
{
	ssize_t n;
	int r;

	(void)fi;
	if (strcmp(path, "/mark") == 0) {
		r = put_down(MARK, buf, size, offset);
		return r < 0 ? r : (int)size;
	}
	n = pwrite(image, buf, size, offset);
	if (n < 0)
		return -errno;
	r = put_down(WRITE, buf, (size_t)n, offset);
	return r < 0 ? r : (int)n;
}

static int disk_fsync(const char *path, int datasync, struct fuse_file_info *fi)
{
	(void)datasync;
	(void)fi;
	return strcmp(path, "/disk") == 0 ? put_down(FLUSH, NULL, 0, 0) : 0;
}

static const struct fuse_operations operations = {
	.getattr = disk_getattr,
	.open = disk_open,
	.truncate = disk_truncate,
	.read = disk_read,
	.write = disk_write,
	.fsync = disk_fsync,
};

int main(int argc, char **argv)
{
	if (argc < 4) {
		fprintf(stderr, "usage: disk IMAGE LOG MOUNTPOINT [options of FUSE]\n");
		return 2;
	}
	image = open(argv[1], O_RDWR | O_CLOEXEC);
	if (image < 0) {
		perror(argv[1]);
		return 1;
	}
	logfile = open(argv[2], O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
	if (logfile < 0) {
		perror(argv[2]);
		return 1;
	}
	argv[2] = argv[0];
	return fuse_main(argc - 2, argv + 2, &operations, NULL);
}
