/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "splice.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "util.h"

#define PAGE 4096

/* One pipe a thread, empty between requests. ROOM is 0 while there is none; one of size REFUSED could not be had. */
static __thread struct {
	int out, in;
	size_t room, refused;
} pipe_of_thread;

static void close_pipe(void)
{
	if (!pipe_of_thread.room)
		return;
	close(pipe_of_thread.out);
	close(pipe_of_thread.in);
	pipe_of_thread.room = 0;
}

void ov_splice_thread_end(void)
{
	close_pipe();
}

/* A pipe with room for SIZE bytes. What was refused once is not tried again. */
static int get_pipe(size_t size)
{
	int fds[2], got;

	if (pipe_of_thread.room >= size)
		return 0;
	if (pipe_of_thread.refused && size >= pipe_of_thread.refused)
		return -EPERM;
	if (!pipe_of_thread.room) {
		if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0)
			return -errno;
		pipe_of_thread.out = fds[0];
		pipe_of_thread.in = fds[1];
	}
	got = fcntl(pipe_of_thread.in, F_SETPIPE_SZ, (int)size);
	if (got < 0)
		got = fcntl(pipe_of_thread.in, F_GETPIPE_SZ);
	pipe_of_thread.room = got > 0 ? (size_t)got : PAGE;
	if (pipe_of_thread.room >= size)
		return 0;
	pipe_of_thread.refused = size;
	return -EPERM;
}

/* Header and data into the pipe. */
static int fill_pipe(struct fuse_out_header *header, int fd, off_t off, size_t size)
{
	struct iovec iov = {.iov_base = header, .iov_len = sizeof(*header)};
	ssize_t n;

	/* a copy of it: vmsplice() would lend the page, which is written again before the kernel has read it */
	if (writev(pipe_of_thread.in, &iov, 1) != (ssize_t)sizeof(*header))
		return -EIO;
	while (size > 0) {
		n = splice(fd, &off, pipe_of_thread.in, NULL, size, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		size -= (size_t)n;
	}
	return 0;
}

int ov_splice_reply(int dev, uint64_t unique, int fd, off_t off, size_t size)
{
	struct fuse_out_header header = {.unique = unique};
	struct stat st;
	size_t room;
	int r;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (off >= st.st_size)
		size = 0;
	else if ((off_t)size > st.st_size - off)
		size = (size_t)(st.st_size - off);
	if (size < OV_SPLICE_MIN)
		return -EINVAL;
	/* a page of the pipe each for the header, for the pages of the file, and for one that OFF does not begin */
	room = (size + PAGE - 1) / PAGE * PAGE + PAGE + (off % PAGE ? PAGE : 0);
	r = get_pipe(room);
	if (r < 0)
		return r;
	header.len = (uint32_t)(sizeof(header) + size);
	r = fill_pipe(&header, fd, off, size);
	/* without SPLICE_F_MOVE: that takes the pages away from the layer's cache, which others use too */
	if (r == 0) {
		ssize_t n = splice(pipe_of_thread.out, NULL, dev, NULL, header.len, 0);

		r = n == (ssize_t)header.len ? 0 : n < 0 ? -errno : -EIO;
	}
	if (r < 0)
		close_pipe(); /* with what is left in it */
	return r == -ENOENT ? 0 : r; /* interrupted: nobody waits for it */
}
