/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "mountpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "log.h"
#include "util.h"

#define READ_AHEAD_KB "1020" /* 1 MiB with the header of the answer, which then fits into a pipe of that size */

static int check_device(void)
{
	int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	int err = errno;

	if (fd >= 0) {
		close(fd);
		return 0;
	}
	if (err == ENOENT || err == ENODEV || err == ENXIO)
		ov_error("/dev/fuse is missing: load the fuse module, or give the container that device");
	else
		ov_error("cannot open /dev/fuse: %s: give this user access to it", strerror(err));
	return -err;
}

int ov_mountpoint_check(const char *path)
{
	struct stat st;

	if (stat(path, &st) < 0) {
		int err = errno;

		if (err == ENOENT)
			ov_error("mountpoint '%s' does not exist: create it", path);
		else if (err == ENOTCONN)
			ov_error("mountpoint '%s' holds a dead mount: free it with 'fusermount3 -uz %s'", path, path);
		else
			ov_error("mountpoint '%s': %s", path, strerror(err));
		return -err;
	}
	if (!S_ISDIR(st.st_mode)) {
		ov_error("mountpoint '%s' is not a directory", path);
		return -ENOTDIR;
	}
	return check_device();
}

/*
 * The kernel reads ahead 128 KiB, and takes what we say in INIT as a limit only, unless somebody who may says more here before.
 * The statx asks us nothing.
 */
void ov_mountpoint_read_ahead(const char *mountpoint)
{
	ov_cleanup_fd int fd = -1;
	struct statx stx;
	char path[64];

	if (statx(AT_FDCWD, mountpoint, AT_STATX_DONT_SYNC, 0, &stx) < 0)
		return;
	snprintf(path, sizeof(path), "/sys/class/bdi/%u:%u/read_ahead_kb", stx.stx_dev_major, stx.stx_dev_minor);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, READ_AHEAD_KB, strlen(READ_AHEAD_KB)) < 0)
		ov_debug("'%s': %s; reading ahead less", path, strerror(errno));
}

/* fusermount3 -u, for mounts that we may not unmount ourselves. */
static int run_fusermount(const char *mountpoint, bool lazy)
{
	pid_t pid = fork();
	int status;

	if (pid < 0)
		return -errno;
	if (pid == 0) {
		if (lazy)
			execlp("fusermount3", "fusermount3", "-u", "-q", "-z", "--", mountpoint, NULL);
		else
			execlp("fusermount3", "fusermount3", "-u", "-q", "--", mountpoint, NULL);
		_exit(127);
	}
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EBUSY;
}

int ov_mountpoint_unmount(const char *mountpoint, bool lazy)
{
	if (umount2(mountpoint, UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0)) == 0)
		return 0;
	return errno == EPERM ? run_fusermount(mountpoint, lazy) : -errno;
}
