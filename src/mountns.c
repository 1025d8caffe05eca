/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "mountns.h"

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "log.h"

/* Undo the octal escapes of /proc/self/mountinfo in place. */
static void unescape(char *s)
{
	char *out = s;

	while (*s) {
		if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] && s[3]) {
			*out++ = (char)((s[1] - '0') * 64 + (s[2] - '0') * 8 + (s[3] - '0'));
			s += 4;
		} else {
			*out++ = *s++;
		}
	}
	*out = '\0';
}

/* The mountpoint in a line of mountinfo, or NULL. Cuts the line. */
static char *mountpoint_of(char *line)
{
	char *field = line;

	for (int n = 0; field && n < 4; n++) {
		field = strchr(field, ' ');
		if (field)
			field++;
	}
	if (!field)
		return NULL;
	field[strcspn(field, " ")] = '\0';
	unescape(field);
	return field;
}

/* The root itself, /proc for /proc/self/fd, /dev for /dev/null and /dev/log. */
static bool is_needed(const char *path)
{
	return strcmp(path, "/") == 0 || strcmp(path, "/proc") == 0 || strcmp(path, "/dev") == 0;
}

/* Detach every mount of our copy that we do not need, so that it keeps no file system busy. */
static void detach_all(void)
{
	ov_cleanup_free char *text = NULL;
	size_t size = 0, room = 0, count = 0;
	ov_cleanup_free char **paths = NULL;
	FILE *f = fopen("/proc/self/mountinfo", "re");
	ssize_t n;

	if (!f)
		return;
	while ((n = getline(&text, &size, f)) >= 0) {
		char *path = mountpoint_of(text);

		if (!path || is_needed(path))
			continue;
		if (count == room) {
			char **grown = realloc(paths, (room = room ? 2 * room : 64) * sizeof(*paths));

			if (!grown)
				break;
			paths = grown;
		}
		paths[count] = strdup(path);
		if (!paths[count])
			break;
		count++;
	}
	fclose(f);
	while (count > 0) { /* later mounts lie upon earlier ones */
		(void)umount2(paths[--count], MNT_DETACH | UMOUNT_NOFOLLOW);
		free(paths[count]);
	}
}

void ov_mountns_leave(struct ov_mountns *ns)
{
	struct stat st;

	memset(ns, 0, sizeof(*ns));
	if (stat("/proc/self/ns/mnt", &st) < 0)
		return;
	ns->dev = st.st_dev;
	ns->ino = st.st_ino;
	if (unshare(CLONE_NEWNS) < 0) {
		ov_debug("staying in the mount namespace: %s", strerror(errno));
		return;
	}
	ns->left = true;
	/* slave: unmounts elsewhere still reach us, ours reach nobody */
	if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
		ov_warn("mount namespace: %s", strerror(errno));
	else
		detach_all();
}

/* An fd of the namespace with the mount, found through any process that lives in it. */
static int find_namespace(const struct ov_mountns *ns)
{
	DIR *dir = opendir("/proc");
	struct dirent *de;
	char path[300];
	struct stat st;
	int fd = -ESRCH;

	if (!dir)
		return -errno;
	while (fd < 0 && (de = readdir(dir))) {
		if (de->d_name[0] < '0' || de->d_name[0] > '9')
			continue;
		snprintf(path, sizeof(path), "/proc/%s/ns/mnt", de->d_name);
		if (stat(path, &st) < 0 || st.st_dev != ns->dev || st.st_ino != ns->ino)
			continue;
		fd = open(path, O_RDONLY | O_CLOEXEC);
	}
	closedir(dir);
	return fd;
}

int ov_mountns_run(const struct ov_mountns *ns, int (*fn)(void *arg), void *arg)
{
	ov_cleanup_fd int fd = -1;
	int status;
	pid_t pid;

	if (!ns->left)
		return fn(arg);
	fd = find_namespace(ns);
	if (fd < 0)
		return fd;
	pid = fork();
	if (pid < 0)
		return -errno;
	if (pid == 0) {
		int r = setns(fd, CLONE_NEWNS) < 0 ? -errno : fn(arg);

		_exit(r < 0 ? -r & 0xff : 0);
	}
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return WIFEXITED(status) ? -WEXITSTATUS(status) : -EIO;
}
