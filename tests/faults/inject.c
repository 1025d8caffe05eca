/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * What makes the program of the tests fail on purpose: every system call and allocation of ours goes through a wrapper here
 * (the linker's --wrap), which counts it and lets the N-th one fail, or kills the daemon before it. The test says which
 * through a page of memory that it shares with the daemon (a file named by OV_FAULT_PAGE), so that one mount serves many
 * failures; by environment the daemon can be told to die at a named crash point: OV_CRASH_AT=NAME[:N].
 * "--crash-points" prints their names.
 */

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/stat.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "crash.h"

#define TRACE_MAX 2048
#define NAME_LEN 24
#define POINTS_MAX 256

enum { CHANGES = 1, READS = 2, MEMORY = 4 };

/* The layout is known to faults.py. */
struct page {
	uint32_t armed;            /* count calls at all */
	uint32_t classes;          /* which */
	int32_t error;             /* what the call fails with; 0: only count; -1: die */
	uint32_t at;               /* the how many-th, from 1 */
	uint32_t sticky;           /* and all after it */
	uint32_t count;
	uint32_t hits;
	uint32_t point_at;         /* die at POINT when it is passed that often */
	char point[64];
	char only[NAME_LEN];       /* if not empty, only calls of that name, or with "*" at the end those that begin so */
	char trace[TRACE_MAX][NAME_LEN]; /* of the calls counted */
	uint8_t reached[POINTS_MAX];     /* crash points passed, in the order of --crash-points */
	uint32_t pulse;            /* before each change the file system commits what was done so far */
};

static struct page none; /* nothing is asked for */
static struct page *page = &none;

static void die(void)
{
	kill(getpid(), SIGKILL);
	for (;;)
		pause();
}

/* ---- the pulse ---- */

/* A file of the upper's file system, by its path and once it is needed. */
static const char *pulse_path;
static int pulse_fd = -1;

int __real_open(const char *path, int flags, ...);
int __real_fchmod(int fd, mode_t mode);
int __real_fsync(int fd);
int __real_ioctl(int fd, unsigned long cmd, ...);

/*
 * Let the file system commit all names and attributes, as it does by itself every few seconds, but not the data: fsync of a
 * file that has nothing to do with it. btrfs syncs that file alone, and has calls for what is wanted here.
 */
static void pulse(void)
{
	static mode_t mode;
	uint64_t id = 0;

	if (pulse_fd < 0)
		pulse_fd = __real_open(pulse_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (__real_ioctl(pulse_fd, _IOR(0x94, 24, uint64_t), &id) == 0 && /* BTRFS_IOC_START_SYNC, BTRFS_IOC_WAIT_SYNC */
	    __real_ioctl(pulse_fd, _IOW(0x94, 22, uint64_t), &id) == 0)
		return;
	mode ^= 0011; /* a change of its own, so that there is something to commit */
	if (__real_fchmod(pulse_fd, 0600 | mode) < 0 || __real_fsync(pulse_fd) < 0)
		perror("pulse");
}

static bool is_meant(const char *only, const char *name)
{
	size_t n = strcspn(only, "*");

	return !*only || (strncmp(only, name, n) == 0 && (only[n] || !name[n]));
}

/* The call NAME of CLASS is about to be made: false with errno set if it shall fail instead. */
static bool may(const char *name, unsigned class)
{
	uint32_t n;

	if (page->pulse && class == CHANGES && pulse_path)
		pulse();
	if (!__atomic_load_n(&page->armed, __ATOMIC_ACQUIRE) || !(page->classes & class) ||
	    !is_meant(page->only, name))
		return true;
	n = __atomic_add_fetch(&page->count, 1, __ATOMIC_ACQ_REL);
	if (n <= TRACE_MAX)
		strncpy(page->trace[n - 1], name, NAME_LEN - 1);
	if (!page->error || (n != page->at && !(page->sticky && n > page->at)))
		return true;
	__atomic_add_fetch(&page->hits, 1, __ATOMIC_ACQ_REL);
	if (page->error < 0)
		die();
	errno = page->error;
	return false;
}

/* ---- crash points ---- */

extern const struct ov_crash_name __start_ov_crash_points[];
extern const struct ov_crash_name __stop_ov_crash_points[];

void ov_crash_point(const struct ov_crash_name *point)
{
	size_t n = (size_t)(point - __start_ov_crash_points);

	if (n < POINTS_MAX && page->armed)
		page->reached[n] = 1;
	if (page->point_at && strcmp(page->point, point->name) == 0 &&
	    __atomic_sub_fetch(&page->point_at, 1, __ATOMIC_ACQ_REL) == 0)
		die();
}

static void map_page(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	void *p = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof(*page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (p == MAP_FAILED) {
		perror(path);
		_exit(2);
	}
	page = p;
	close(fd);
}

static void read_environment(const char *at)
{
	const char *colon = strrchr(at, ':');

	none.point_at = colon ? (uint32_t)atoi(colon + 1) : 1;
	snprintf(none.point, sizeof(none.point), "%.*s", (int)(colon ? (size_t)(colon - at) : strlen(at)), at);
}

__attribute__((constructor)) static void start(int argc, char **argv)
{
	const char *path = getenv("OV_FAULT_PAGE"), *at = getenv("OV_CRASH_AT");

	if (argc == 2 && strcmp(argv[1], "--crash-points") == 0) {
		for (const struct ov_crash_name *p = __start_ov_crash_points; p < __stop_ov_crash_points; p++)
			puts(p->name);
		exit(0);
	}
	if (path)
		map_page(path);
	else if (at)
		read_environment(at);
	pulse_path = getenv("OV_FAULT_PULSE");
}

/* ---- wrappers ---- */

#define WRAP(type, name, class, failure, args, pass)         \
	type __real_##name args;                             \
	type __wrap_##name args;                             \
	type __wrap_##name args                              \
	{                                                    \
		return may(#name, class) ? __real_##name pass : failure; \
	}

/* Names */
/* A kernel that does not give requests again. */
int __real_ov_transport_resend(int fd);
int __wrap_ov_transport_resend(int fd);
int __wrap_ov_transport_resend(int fd)
{
	return getenv("OV_NO_RESEND") ? -EINVAL : __real_ov_transport_resend(fd);
}

WRAP(int, renameat, CHANGES, -1, (int od, const char *o, int nd, const char *n), (od, o, nd, n))
WRAP(int, linkat, CHANGES, -1, (int od, const char *o, int nd, const char *n, int f), (od, o, nd, n, f))
WRAP(int, symlinkat, CHANGES, -1, (const char *t, int d, const char *n), (t, d, n))
WRAP(int, mkdirat, CHANGES, -1, (int d, const char *n, mode_t m), (d, n, m))
WRAP(int, mknodat, CHANGES, -1, (int d, const char *n, mode_t m, dev_t r), (d, n, m, r))
WRAP(int, unlinkat, CHANGES, -1, (int d, const char *n, int f), (d, n, f))

/* Attributes */
WRAP(int, fchownat, CHANGES, -1, (int d, const char *n, uid_t u, gid_t g, int f), (d, n, u, g, f))
WRAP(int, fchmod, CHANGES, -1, (int fd, mode_t m), (fd, m))
WRAP(int, chmod, CHANGES, -1, (const char *p, mode_t m), (p, m))
WRAP(int, futimens, CHANGES, -1, (int fd, const struct timespec ts[2]), (fd, ts))
WRAP(int, utimensat, CHANGES, -1, (int d, const char *n, const struct timespec ts[2], int f), (d, n, ts, f))
WRAP(int, fsetxattr, CHANGES, -1, (int fd, const char *k, const void *v, size_t s, int f), (fd, k, v, s, f))
WRAP(int, lsetxattr, CHANGES, -1, (const char *p, const char *k, const void *v, size_t s, int f), (p, k, v, s, f))
WRAP(int, setxattr, CHANGES, -1, (const char *p, const char *k, const void *v, size_t s, int f), (p, k, v, s, f))
WRAP(int, fremovexattr, CHANGES, -1, (int fd, const char *k), (fd, k))
WRAP(int, lremovexattr, CHANGES, -1, (const char *p, const char *k), (p, k))
WRAP(int, removexattr, CHANGES, -1, (const char *p, const char *k), (p, k))
WRAP(ssize_t, fgetxattr, READS, -1, (int fd, const char *k, void *v, size_t s), (fd, k, v, s))
WRAP(ssize_t, lgetxattr, READS, -1, (const char *p, const char *k, void *v, size_t s), (p, k, v, s))
WRAP(ssize_t, getxattr, READS, -1, (const char *p, const char *k, void *v, size_t s), (p, k, v, s))
WRAP(ssize_t, flistxattr, READS, -1, (int fd, char *l, size_t s), (fd, l, s))
WRAP(ssize_t, llistxattr, READS, -1, (const char *p, char *l, size_t s), (p, l, s))
WRAP(ssize_t, listxattr, READS, -1, (const char *p, char *l, size_t s), (p, l, s))
WRAP(int, statx, READS, -1, (int d, const char *n, int f, unsigned m, struct statx *s), (d, n, f, m, s))
WRAP(ssize_t, readlinkat, READS, -1, (int d, const char *n, char *b, size_t s), (d, n, b, s))
WRAP(int, name_to_handle_at, READS, -1, (int d, const char *n, struct file_handle *h, int *m, int f), (d, n, h, m, f))
WRAP(int, open_by_handle_at, READS, -1, (int m, struct file_handle *h, int f), (m, h, f))

/* Data */
WRAP(int, ftruncate, CHANGES, -1, (int fd, off_t s), (fd, s))
WRAP(ssize_t, pwrite, CHANGES, -1, (int fd, const void *b, size_t s, off_t o), (fd, b, s, o))
WRAP(ssize_t, copy_file_range, CHANGES, -1, (int i, off_t *io, int o, off_t *oo, size_t s, unsigned f), (i, io, o, oo, s, f))
WRAP(int, fallocate, CHANGES, -1, (int fd, int m, off_t o, off_t l), (fd, m, o, l))
WRAP(int, fsync, CHANGES, -1, (int fd), (fd))
WRAP(int, fdatasync, CHANGES, -1, (int fd), (fd))
WRAP(ssize_t, pread, READS, -1, (int fd, void *b, size_t s, off_t o), (fd, b, s, o))

/* Memory. In a page of its own nothing is counted, so that puts() above may use it. */
WRAP(void *, malloc, MEMORY, NULL, (size_t s), (s))
WRAP(void *, calloc, MEMORY, NULL, (size_t n, size_t s), (n, s))
WRAP(void *, realloc, MEMORY, NULL, (void *p, size_t s), (p, s))
WRAP(void *, reallocarray, MEMORY, NULL, (void *p, size_t n, size_t s), (p, n, s))
WRAP(char *, strdup, MEMORY, NULL, (const char *s), (s))

static mode_t open_mode(int flags, va_list ap)
{
	return (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(ap, mode_t) : 0;
}

static bool may_open(const char *name, int flags)
{
	return may(name, (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE ? CHANGES : READS);
}

int __wrap_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...)
{
	mode_t mode;
	va_list ap;

	va_start(ap, flags);
	mode = open_mode(flags, ap);
	va_end(ap);
	return may_open("open", flags) ? __real_open(path, flags, mode) : -1;
}

int __real_openat(int dirfd, const char *path, int flags, ...);
int __wrap_openat(int dirfd, const char *path, int flags, ...);
int __wrap_openat(int dirfd, const char *path, int flags, ...)
{
	mode_t mode;
	va_list ap;

	va_start(ap, flags);
	mode = open_mode(flags, ap);
	va_end(ap);
	return may_open("openat", flags) ? __real_openat(dirfd, path, flags, mode) : -1;
}

int __wrap_ioctl(int fd, unsigned long cmd, ...);
int __wrap_ioctl(int fd, unsigned long cmd, ...)
{
	bool changes = cmd == FICLONE || cmd == FS_IOC_SETFLAGS || cmd == FS_IOC_FSSETXATTR;
	void *arg;
	va_list ap;

	va_start(ap, cmd);
	arg = va_arg(ap, void *);
	va_end(ap);
	return may(cmd == FICLONE ? "clone" : "ioctl", changes ? CHANGES : READS) ? __real_ioctl(fd, cmd, arg) : -1;
}

/* The calls that libc has no function for. */
static bool may_syscall(long nr, const long a[6])
{
	switch (nr) {
	case SYS_renameat2:
		return may((unsigned)a[4] & RENAME_WHITEOUT   ? "rename-whiteout"
			   : (unsigned)a[4] & RENAME_EXCHANGE ? "rename-exchange"
							      : "renameat2",
			   CHANGES);
	case SYS_getdents64:
		return may("getdents64", READS);
#ifdef SYS_openat2
	case SYS_openat2: {
		const uint64_t *how = (const uint64_t *)a[2]; /* flags come first */

		return may_open("openat2", (int)how[0]);
	}
#endif
	case 452:
		return may("fchmodat2", CHANGES);
	case 463:
		return may("setxattrat", CHANGES);
	case 464:
		return may("getxattrat", READS);
	case 465:
		return may("listxattrat", READS);
	case 466:
		return may("removexattrat", CHANGES);
	default:
		return true;
	}
}

long __real_syscall(long nr, ...);
long __wrap_syscall(long nr, ...);
long __wrap_syscall(long nr, ...)
{
	long a[6];
	va_list ap;

	va_start(ap, nr);
	for (int n = 0; n < 6; n++)
		a[n] = va_arg(ap, long);
	va_end(ap);
	return may_syscall(nr, a) ? __real_syscall(nr, a[0], a[1], a[2], a[3], a[4], a[5]) : -1;
}

int __real_pthread_create(pthread_t *t, const pthread_attr_t *attr, void *(*fn)(void *), void *arg);
int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *attr, void *(*fn)(void *), void *arg);
int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *attr, void *(*fn)(void *), void *arg)
{
	return may("pthread_create", MEMORY) ? __real_pthread_create(t, attr, fn, arg) : EAGAIN;
}
