// SPDX-License-Identifier: GPL-2.0-or-later
#include "at.h"

#include <linux/openat2.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/xattr.h>

/*
 * Numbers of syscalls that are younger than the headers may be. All of them came after the numbers were made common,
 * so they are the same on every architecture but alpha.
 */
#ifndef __alpha__
#ifndef __NR_openat2
#define __NR_openat2 437
#endif
#ifndef __NR_fchmodat2
#define __NR_fchmodat2 452
#endif
#ifndef __NR_setxattrat
#define __NR_setxattrat 463
#define __NR_getxattrat 464
#define __NR_listxattrat 465
#define __NR_removexattrat 466
#endif
#endif

/* struct xattr_args of <linux/xattr.h> 6.13. */
struct ov_xattr_args {
	_Alignas(8) uint64_t value;
	uint32_t size;
	uint32_t flags;
};

/* How often openat2 is tried again when a rename elsewhere made the kernel give up on proving "beneath". */
#define OPENAT2_TRIES 16

/*
 * What the running kernel turned out not to have. Only ever set, by whichever thread sees it first, so that the
 * fallback costs no failing syscall afterwards.
 */
static atomic_bool no_openat2;
static atomic_bool no_fchmodat2;
static atomic_bool no_xattrat;
static atomic_bool no_empty_link; /* nor the privilege, before 6.10 */

static inline bool missing(const atomic_bool *flag)
{
	return atomic_load_explicit(flag, memory_order_relaxed);
}

static inline void set_missing(atomic_bool *flag)
{
	atomic_store_explicit(flag, true, memory_order_relaxed);
}

/* A syscall's -1 and errno as one value. */
static inline long result(long r)
{
	return r < 0 ? -errno : r;
}

/* Room for "/proc/self/fd/", a number, '/' and one component. */
#define PROC_PATH_MAX (14 + 10 + 1 + 255 + 1)

/*
 * Write "/proc/self/fd/N" or "/proc/self/fd/N/NAME" into BUF, without printf since this lies on the hot path of
 * kernels that lack the *at syscalls.
 */
static int proc_path(struct ov_at at, char buf[PROC_PATH_MAX])
{
	static const char prefix[] = "/proc/self/fd/";
	char digits[12], *p = buf;
	unsigned n = (unsigned)at.fd;
	size_t nd = 0, len;

	if (at.fd < 0)
		return -EBADF;
	memcpy(p, prefix, sizeof(prefix) - 1);
	p += sizeof(prefix) - 1;
	do {
		digits[nd++] = (char)('0' + n % 10);
		n /= 10;
	} while (n);
	while (nd)
		*p++ = digits[--nd];
	if (at.name) {
		len = strlen(at.name);
		if (len > 255)
			return -ENAMETOOLONG;
		*p++ = '/';
		memcpy(p, at.name, len);
		p += len;
	}
	*p = '\0';
	return 0;
}

int ov_at_statx(struct ov_at at, unsigned mask, struct statx *stx)
{
	int flags = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | (at.name ? 0 : AT_EMPTY_PATH);

	return (int)result(TEMP_FAILURE_RETRY(statx(at.fd, at.name ? at.name : "", flags, mask, stx)));
}

/* The component opened where openat2 is missing: O_NOFOLLOW is all that is needed once it is known to be one. */
static int open_plain(struct ov_at at, int flags, mode_t mode)
{
	if (strchr(at.name, '/') || strcmp(at.name, "..") == 0)
		return -EXDEV;
	return (int)result(TEMP_FAILURE_RETRY(openat(at.fd, at.name, flags, mode)));
}

static int open_beneath(struct ov_at at, int flags, mode_t mode)
{
	struct open_how how = {
		.flags = (unsigned)flags,
		.mode = mode,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV,
	};
	long r = -EAGAIN;
	int i, fd;

	if (missing(&no_openat2))
		return open_plain(at, flags, mode);
	for (i = 0; i < OPENAT2_TRIES && r == -EAGAIN; i++)
		r = result(TEMP_FAILURE_RETRY(syscall(__NR_openat2, at.fd, at.name, &how, sizeof(how))));
	if (r == -ENOSYS) {
		set_missing(&no_openat2);
		return open_plain(at, flags, mode);
	}
	if (r != -EPERM)
		return (int)r;
	/* The file system's own EPERM (O_NOATIME, immutable file) or a seccomp filter that does not know openat2. */
	fd = open_plain(at, flags, mode);
	if (fd >= 0)
		set_missing(&no_openat2);
	return fd;
}

/* Open the object of an fd once more; a directory through ".", which needs no /proc. */
static int reopen(int fd, int flags, mode_t mode)
{
	char path[PROC_PATH_MAX];
	int r;

	if (flags & O_CREAT)
		return -EINVAL;
	if (flags & O_DIRECTORY) {
		r = (int)result(TEMP_FAILURE_RETRY(openat(fd, ".", flags, mode)));
		if (r != -EACCES) /* no search permission: the link of /proc does not ask for it */
			return r;
	}
	r = proc_path(ov_at_fd(fd), path);
	if (r < 0)
		return r;
	return (int)result(TEMP_FAILURE_RETRY(open(path, flags & ~O_NOFOLLOW, mode)));
}

int ov_at_open(struct ov_at at, int flags, mode_t mode)
{
	/* openat2 is strict where open was lax: no mode without a file to make, no idle flags beside O_PATH. */
	if (!(flags & O_CREAT) && (flags & O_TMPFILE) != O_TMPFILE)
		mode = 0;
	mode &= 07777;
	if (flags & O_PATH)
		flags &= O_PATH | O_DIRECTORY;
	flags |= O_CLOEXEC | O_NOFOLLOW;
	return at.name ? open_beneath(at, flags, mode) : reopen(at.fd, flags, mode);
}

int ov_at_chown(struct ov_at at, uid_t uid, gid_t gid)
{
	int flags = AT_SYMLINK_NOFOLLOW | (at.name ? 0 : AT_EMPTY_PATH);

	return (int)result(TEMP_FAILURE_RETRY(fchownat(at.fd, at.name ? at.name : "", uid, gid, flags)));
}

/* chmod of what an O_PATH fd names, on kernels without fchmodat2. */
static int chmod_proc(int fd, mode_t mode)
{
	char path[PROC_PATH_MAX];
	struct stat st;
	int r;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (S_ISLNK(st.st_mode)) /* some file systems of old kernels would do it, half */
		return -EOPNOTSUPP;
	r = proc_path(ov_at_fd(fd), path);
	if (r < 0)
		return r;
	return (int)result(TEMP_FAILURE_RETRY(chmod(path, mode)));
}

int ov_at_chmod(struct ov_at at, mode_t mode)
{
	ov_cleanup_fd int fd = -1;
	long r;

	if (!at.name) {
		r = result(TEMP_FAILURE_RETRY(fchmod(at.fd, mode)));
		if (r != -EBADF) /* else perhaps O_PATH */
			return (int)r;
	}
	if (!missing(&no_fchmodat2)) {
		r = result(TEMP_FAILURE_RETRY(syscall(__NR_fchmodat2, at.fd, at.name ? at.name : "", mode,
						      at.name ? AT_SYMLINK_NOFOLLOW : AT_EMPTY_PATH)));
		if (r == -ENOSYS)
			set_missing(&no_fchmodat2);
		else if (r != -EPERM) /* EPERM may be a seccomp filter's: let the old way say it again */
			return (int)r;
	}
	if (!at.name)
		return chmod_proc(at.fd, mode);
	fd = ov_at_open(at, O_PATH, 0);
	return fd < 0 ? fd : chmod_proc(fd, mode);
}

int ov_at_link(struct ov_at at, int dirfd, const char *name)
{
	char path[PROC_PATH_MAX];
	long r;

	if (at.name)
		return (int)result(linkat(at.fd, at.name, dirfd, name, 0));
	if (!missing(&no_empty_link)) {
		r = result(linkat(at.fd, "", dirfd, name, AT_EMPTY_PATH));
		if (r != -ENOENT) /* which it says as well where DIRFD is gone: the other way will tell */
			return (int)r;
	}
	r = proc_path(at, path);
	if (r < 0)
		return (int)r;
	r = result(linkat(AT_FDCWD, path, dirfd, name, AT_SYMLINK_FOLLOW));
	if (r == 0)
		set_missing(&no_empty_link);
	return (int)r;
}

int ov_at_utimens(struct ov_at at, const struct timespec ts[2])
{
	char path[PROC_PATH_MAX];
	long r;

	if (at.name)
		return (int)result(TEMP_FAILURE_RETRY(utimensat(at.fd, at.name, ts, AT_SYMLINK_NOFOLLOW)));
	r = result(TEMP_FAILURE_RETRY(futimens(at.fd, ts)));
	if (r != -EBADF)
		return (int)r;
	r = result(TEMP_FAILURE_RETRY(utimensat(at.fd, "", ts, AT_EMPTY_PATH)));
	if (r != -EINVAL && r != -ENOENT) /* before 5.8 */
		return (int)r;
	r = proc_path(at, path);
	if (r < 0)
		return (int)r;
	return (int)result(TEMP_FAILURE_RETRY(utimensat(AT_FDCWD, path, ts, 0)));
}

/*
 * An *xattrat syscall answered R. True if it has to be done the old way: it does not exist (ENOSYS), or a seccomp
 * filter that does not know it said EPERM, which the file system may have said as well: nothing is remembered then.
 */
static bool xattrat_fell(long r)
{
	if (r == -ENOSYS)
		set_missing(&no_xattrat);
	return r == -ENOSYS || r == -EPERM;
}

ssize_t ov_at_getxattr(struct ov_at at, const char *key, void *value, size_t size)
{
	char path[PROC_PATH_MAX];
	struct ov_xattr_args args = {.value = (uintptr_t)value, .size = (uint32_t)size};
	long r;

	if (!at.name) {
		r = result(TEMP_FAILURE_RETRY(fgetxattr(at.fd, key, value, size)));
		if (r != -EBADF)
			return r;
	} else if (!missing(&no_xattrat)) {
		r = result(TEMP_FAILURE_RETRY(
			syscall(__NR_getxattrat, at.fd, at.name, AT_SYMLINK_NOFOLLOW, key, &args, sizeof(args))));
		if (!xattrat_fell(r))
			return r;
	}
	r = proc_path(at, path);
	if (r < 0)
		return r;
	return result(at.name ? TEMP_FAILURE_RETRY(lgetxattr(path, key, value, size)) :
				TEMP_FAILURE_RETRY(getxattr(path, key, value, size)));
}

int ov_at_setxattr(struct ov_at at, const char *key, const void *value, size_t size, int flags)
{
	char path[PROC_PATH_MAX];
	struct ov_xattr_args args = {
		.value = (uintptr_t)value,
		.size = (uint32_t)size,
		.flags = (uint32_t)flags,
	};
	long r;

	if (!at.name) {
		r = result(TEMP_FAILURE_RETRY(fsetxattr(at.fd, key, value, size, flags)));
		if (r != -EBADF)
			return (int)r;
	} else if (!missing(&no_xattrat)) {
		r = result(TEMP_FAILURE_RETRY(
			syscall(__NR_setxattrat, at.fd, at.name, AT_SYMLINK_NOFOLLOW, key, &args, sizeof(args))));
		if (!xattrat_fell(r))
			return (int)r;
	}
	r = proc_path(at, path);
	if (r < 0)
		return (int)r;
	return (int)result(at.name ? TEMP_FAILURE_RETRY(lsetxattr(path, key, value, size, flags)) :
				     TEMP_FAILURE_RETRY(setxattr(path, key, value, size, flags)));
}

ssize_t ov_at_listxattr(struct ov_at at, char *list, size_t size)
{
	char path[PROC_PATH_MAX];
	long r;

	if (!at.name) {
		r = result(TEMP_FAILURE_RETRY(flistxattr(at.fd, list, size)));
		if (r != -EBADF)
			return r;
	} else if (!missing(&no_xattrat)) {
		r = result(
			TEMP_FAILURE_RETRY(syscall(__NR_listxattrat, at.fd, at.name, AT_SYMLINK_NOFOLLOW, list, size)));
		if (!xattrat_fell(r))
			return r;
	}
	r = proc_path(at, path);
	if (r < 0)
		return r;
	return result(at.name ? TEMP_FAILURE_RETRY(llistxattr(path, list, size)) :
				TEMP_FAILURE_RETRY(listxattr(path, list, size)));
}

int ov_at_removexattr(struct ov_at at, const char *key)
{
	char path[PROC_PATH_MAX];
	long r;

	if (!at.name) {
		r = result(TEMP_FAILURE_RETRY(fremovexattr(at.fd, key)));
		if (r != -EBADF)
			return (int)r;
	} else if (!missing(&no_xattrat)) {
		r = result(TEMP_FAILURE_RETRY(syscall(__NR_removexattrat, at.fd, at.name, AT_SYMLINK_NOFOLLOW, key)));
		if (!xattrat_fell(r))
			return (int)r;
	}
	r = proc_path(at, path);
	if (r < 0)
		return (int)r;
	return (int)result(at.name ? TEMP_FAILURE_RETRY(lremovexattr(path, key)) :
				     TEMP_FAILURE_RETRY(removexattr(path, key)));
}

ssize_t ov_at_getxattr_alloc(struct ov_at at, const char *key, char **out)
{
	ov_cleanup_free char *buf = NULL;
	size_t size = 256;
	ssize_t r;

	*out = NULL;
	for (;;) {
		char *grown = realloc(buf, size + 1);

		if (!grown)
			return -ENOMEM;
		buf = grown;
		r = key ? ov_at_getxattr(at, key, buf, size) : ov_at_listxattr(at, buf, size);
		if (r >= 0)
			break;
		if (r != -ERANGE)
			return r;
		/* Ask for the size; it may have grown again by the next round, but never past the kernel's limit. */
		r = key ? ov_at_getxattr(at, key, NULL, 0) : ov_at_listxattr(at, NULL, 0);
		if (r < 0)
			return r;
		if ((size_t)r <= size)
			r = (ssize_t)size * 2;
		if (r > 4 << 20)
			return -E2BIG;
		size = (size_t)r;
	}
	buf[r] = '\0';
	*out = ov_steal_ptr(buf);
	return r;
}

ssize_t ov_at_readlink(struct ov_at at, char *buf, size_t size)
{
	return result(TEMP_FAILURE_RETRY(readlinkat(at.fd, at.name ? at.name : "", buf, size)));
}

int ov_at_handle(struct ov_at at, struct file_handle *fh, int *mnt)
{
	int dummy;
	long r;

	r = result(TEMP_FAILURE_RETRY(
		name_to_handle_at(at.fd, at.name ? at.name : "", fh, mnt ? mnt : &dummy, at.name ? 0 : AT_EMPTY_PATH)));
	/* The kernel itself never says EPERM here: a sandbox did, and handles are then not to be had. */
	return r == -ENOSYS || r == -EPERM ? -EOPNOTSUPP : (int)r;
}
