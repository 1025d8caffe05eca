/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_SYS_AT_H
#define OV_SYS_AT_H

/*
 * One object of a layer, named by a directory fd and ONE component, or by an fd alone; and one syscall each on it.
 *
 * Nothing here follows a symbolic link or leaves the directory: the component is opened with
 * RESOLVE_BENEATH|RESOLVE_NO_SYMLINKS|RESOLVE_NO_MAGICLINKS|RESOLVE_NO_XDEV where openat2 is to be had, else
 * with O_NOFOLLOW, which for a single component is as strict. All functions return 0 or a value >= 0, or -errno;
 * all retry EINTR. None takes ownership of the fd.
 */

#include <fcntl.h>
#include <linux/stat.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>

#include "../util.h"

/* struct statx and the STATX_ masks come from <linux/stat.h> or <sys/stat.h>, which agree. */

struct ov_at {
	int fd;           /* directory, or the object itself where name is NULL */
	const char *name; /* one component, no slash; borrowed */
};

/* The object that FD itself is (O_PATH allowed). */
static inline struct ov_at ov_at_fd(int fd)
{
	return (struct ov_at){.fd = fd, .name = NULL};
}

/* The entry NAME of directory DIRFD. */
static inline struct ov_at ov_at_name(int dirfd, const char *name)
{
	return (struct ov_at){.fd = dirfd, .name = name};
}

/* statx(2) with AT_SYMLINK_NOFOLLOW and AT_NO_AUTOMOUNT; MASK is STATX_*. */
int ov_at_statx(struct ov_at at, unsigned mask, struct statx *stx);

/*
 * Open with FLAGS (O_CLOEXEC and O_NOFOLLOW are added). MODE for O_CREAT/O_TMPFILE only, taken as is where the process
 * umask is 0. For an ov_at_fd() the object is reopened through /proc/self/fd. Returns an fd the caller owns.
 */
int ov_at_open(struct ov_at at, int flags, mode_t mode);

/* lchown; -1 leaves an id alone. */
int ov_at_chown(struct ov_at at, uid_t uid, gid_t gid);

/* chmod without following links: fchmodat2 (6.6) or an O_PATH fd. -EOPNOTSUPP on a symlink, as in the kernel. */
int ov_at_chmod(struct ov_at at, mode_t mode);

/* One more name DIRFD/NAME for the object, which may have none (O_TMPFILE). */
int ov_at_link(struct ov_at at, int dirfd, const char *name);
/* utimensat without following; TS as utimensat(2) (UTIME_NOW, UTIME_OMIT). */
int ov_at_utimens(struct ov_at at, const struct timespec ts[2]);

/* Extended attributes without following: *xattrat (6.13), else l*xattr on /proc/self/fd/N/name. -ENODATA if absent. */
ssize_t ov_at_getxattr(struct ov_at at, const char *key, void *value, size_t size);
int ov_at_setxattr(struct ov_at at, const char *key, const void *value, size_t size, int flags);
ssize_t ov_at_listxattr(struct ov_at at, char *list, size_t size);
int ov_at_removexattr(struct ov_at at, const char *key);

/*
 * Read a whole xattr (KEY) or name list (KEY NULL) into a fresh buffer, growing as needed; *OUT is the caller's to
 * free, one NUL is appended. Returns the length, or -errno (-ENODATA if absent).
 */
ssize_t ov_at_getxattr_alloc(struct ov_at at, const char *key, char **out);

/* readlink; BUF gets at most SIZE bytes, no NUL. */
ssize_t ov_at_readlink(struct ov_at at, char *buf, size_t size);

/* name_to_handle_at: FH->handle_bytes holds the room on entry. *MNT may be NULL. -EOPNOTSUPP where there is none. */
int ov_at_handle(struct ov_at at, struct file_handle *fh, int *mnt);

#endif
