// SPDX-License-Identifier: GPL-2.0-or-later

/* src/sys and src/log on real files in a temporary directory, with and without the younger syscalls. */

#include <check.h>
#include <dirent.h>
#include <limits.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#include "log.h"
#include "sys/at.h"
#include "sys/io.h"

Suite *sys_suite(void);

static char top[PATH_MAX];
static int dir = -1; /* the temporary directory */

static void remove_tree(int parent, const char *name)
{
	int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;

	while (d && (e = readdir(d))) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		if (unlinkat(fd, e->d_name, 0) < 0)
			remove_tree(fd, e->d_name);
	}
	if (d)
		closedir(d);
	unlinkat(parent, name, AT_REMOVEDIR);
}

static void write_file(const char *name, const char *text)
{
	int fd = openat(dir, name, O_CREAT | O_TRUNC | O_WRONLY, 0644);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
}

static void setup(void)
{
	const char *tmp = getenv("TMPDIR");

	snprintf(top, sizeof(top), "%s/ov-sys-XXXXXX", tmp ? tmp : "/tmp");
	ck_assert_ptr_nonnull(mkdtemp(top));
	dir = open(top, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_ge(dir, 0);
	umask(0);
	write_file("file", "hello");
	ck_assert_int_eq(mkdirat(dir, "sub", 0755), 0);
	ck_assert_int_eq(symlinkat("file", dir, "link"), 0);
	ck_assert_int_eq(symlinkat("sub", dir, "dirlink"), 0);
	ck_assert_int_eq(symlinkat("/proc/self/exe", dir, "magic"), 0);
}

static void teardown(void)
{
	close(dir);
	dir = -1;
	remove_tree(AT_FDCWD, top);
}

/* Make the syscalls NRS fail with ERR in this process, as an old kernel or a sandbox would. False if it cannot be. */
static bool deny(const int *nrs, size_t n, int err)
{
	struct sock_filter code[32];
	struct sock_fprog prog = {.filter = code};
	const char *fork_mode = getenv("CK_FORK");
	unsigned short len = 0;
	size_t i;

	if (fork_mode && strcmp(fork_mode, "no") == 0)
		return false; /* it would stay for all other tests */
	code[len++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
	for (i = 0; i < n; i++) {
		code[len++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)nrs[i], 0, 1);
		code[len++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)err);
	}
	code[len++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	prog.len = len;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) < 0)
		return false;
	ck_assert_int_eq(syscall(nrs[0], -1, NULL, NULL, NULL, NULL), -1);
	ck_assert_int_eq(errno, err);
	return true;
}

static const int young[] = {437, 452, 463, 464, 465, 466};

static struct stat stat_of(const char *name)
{
	struct stat st = {0};

	ck_assert_int_eq(fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW), 0);
	return st;
}

static void check_statx(void)
{
	struct statx stx;
	int fd;

	ck_assert_int_eq(ov_at_statx(ov_at_name(dir, "file"), STATX_BASIC_STATS, &stx), 0);
	ck_assert(S_ISREG(stx.stx_mode));
	ck_assert_int_eq((int)stx.stx_size, 5);
	ck_assert_int_eq(ov_at_statx(ov_at_name(dir, "link"), STATX_BASIC_STATS, &stx), 0);
	ck_assert(S_ISLNK(stx.stx_mode));
	ck_assert_int_eq(ov_at_statx(ov_at_name(dir, "none"), STATX_BASIC_STATS, &stx), -ENOENT);
	ck_assert_int_eq(ov_at_statx(ov_at_fd(dir), STATX_BASIC_STATS, &stx), 0);
	ck_assert(S_ISDIR(stx.stx_mode));
	fd = ov_at_open(ov_at_name(dir, "link"), O_PATH, 0);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(ov_at_statx(ov_at_fd(fd), STATX_BASIC_STATS, &stx), 0);
	ck_assert(S_ISLNK(stx.stx_mode));
	close(fd);
	ck_assert_int_eq(ov_at_statx(ov_at_fd(-1), STATX_BASIC_STATS, &stx), -EBADF);
}

/* Open NAME, expect SUCCESS or the error, and close-on-exec. */
static void expect_open(struct ov_at at, int flags, int want)
{
	int fd = ov_at_open(at, flags, 0640);

	if (want < 0) {
		ck_assert_int_eq(fd, want);
		return;
	}
	ck_assert_int_ge(fd, 0);
	ck_assert(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	close(fd);
}

static void check_open(void)
{
	expect_open(ov_at_name(dir, "file"), O_RDWR, 0);
	expect_open(ov_at_name(dir, "file"), O_PATH | O_RDWR | O_APPEND, 0);
	expect_open(ov_at_name(dir, "sub"), O_RDONLY | O_DIRECTORY, 0);
	expect_open(ov_at_name(dir, "."), O_RDONLY | O_DIRECTORY, 0);
	expect_open(ov_at_name(dir, "file"), O_RDONLY | O_DIRECTORY, -ENOTDIR);
	expect_open(ov_at_name(dir, "none"), O_RDONLY, -ENOENT);
	expect_open(ov_at_name(dir, "link"), O_RDONLY, -ELOOP);
	expect_open(ov_at_name(dir, "magic"), O_RDONLY, -ELOOP);
	expect_open(ov_at_name(dir, "link"), O_RDWR | O_CREAT, -ELOOP);
	expect_open(ov_at_name(dir, "link"), O_RDWR | O_CREAT | O_EXCL, -EEXIST);
	expect_open(ov_at_name(dir, "link"), O_PATH, 0);
	expect_open(ov_at_name(dir, ".."), O_RDONLY, -EXDEV);
	expect_open(ov_at_name(dir, ".."), O_PATH, -EXDEV);
	expect_open(ov_at_name(dir, "/"), O_RDONLY, -EXDEV);
	expect_open(ov_at_name(dir, "dirlink"), O_PATH | O_DIRECTORY, -ENOTDIR);
}

static void check_create(void)
{
	struct stat st;
	int fd = ov_at_open(ov_at_name(dir, "made"), O_CREAT | O_EXCL | O_RDWR, S_IFREG | 04751);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(fstat(fd, &st), 0);
	ck_assert_int_eq(st.st_mode & 07777, 04751);
	close(fd);
	expect_open(ov_at_name(dir, "made"), O_CREAT | O_EXCL | O_RDWR, -EEXIST);
	ck_assert_int_eq(unlinkat(dir, "made", 0), 0);

	fd = ov_at_open(ov_at_name(dir, "."), O_TMPFILE | O_RDWR, 0604);
	if (fd == -EOPNOTSUPP)
		return;
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(fstat(fd, &st), 0);
	ck_assert_int_eq(st.st_mode & 07777, 0604);
	ck_assert_int_eq((int)st.st_nlink, 0);
	close(fd);
}

static void check_reopen(void)
{
	char buf[8] = "";
	int path = ov_at_open(ov_at_name(dir, "file"), O_PATH, 0), fd;

	ck_assert_int_ge(path, 0);
	fd = ov_at_open(ov_at_fd(path), O_RDWR, 0);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(ov_pread_full(fd, buf, sizeof(buf), 0), 5);
	ck_assert_str_eq(buf, "hello");
	close(fd);
	expect_open(ov_at_fd(path), O_RDONLY | O_CREAT, -EINVAL);
	expect_open(ov_at_fd(path), O_RDONLY | O_DIRECTORY, -ENOTDIR);
	close(path);

	path = ov_at_open(ov_at_name(dir, "sub"), O_PATH | O_DIRECTORY, 0);
	ck_assert_int_ge(path, 0);
	expect_open(ov_at_fd(path), O_RDONLY | O_DIRECTORY, 0);
	expect_open(ov_at_fd(path), O_RDONLY, 0);
	close(path);

	path = ov_at_open(ov_at_name(dir, "link"), O_PATH, 0);
	ck_assert_int_ge(path, 0);
	expect_open(ov_at_fd(path), O_RDONLY, -ELOOP);
	close(path);
}

static void check_chmod(void)
{
	int fd;

	ck_assert_int_eq(ov_at_chmod(ov_at_name(dir, "file"), 0601), 0);
	ck_assert_int_eq(stat_of("file").st_mode & 07777, 0601);
	ck_assert_int_eq(ov_at_chmod(ov_at_name(dir, "link"), 0777), -EOPNOTSUPP);
	ck_assert_int_eq(stat_of("file").st_mode & 07777, 0601);
	ck_assert_int_eq(ov_at_chmod(ov_at_name(dir, "none"), 0777), -ENOENT);
	fd = ov_at_open(ov_at_name(dir, "file"), O_PATH, 0);
	ck_assert_int_eq(ov_at_chmod(ov_at_fd(fd), 0602), 0);
	ck_assert_int_eq(stat_of("file").st_mode & 07777, 0602);
	close(fd);
	fd = ov_at_open(ov_at_name(dir, "file"), O_RDWR, 0);
	ck_assert_int_eq(ov_at_chmod(ov_at_fd(fd), 0644), 0);
	ck_assert_int_eq(stat_of("file").st_mode & 07777, 0644);
	close(fd);
	fd = ov_at_open(ov_at_name(dir, "link"), O_PATH, 0);
	ck_assert_int_eq(ov_at_chmod(ov_at_fd(fd), 0777), -EOPNOTSUPP);
	close(fd);
	ck_assert_int_eq(ov_at_chmod(ov_at_fd(-1), 0777), -EBADF);
}

static void check_chown(void)
{
	uid_t me = geteuid(), other = me == 0 ? 12 : me;
	int fd, r = ov_at_chown(ov_at_name(dir, "link"), other, (gid_t)-1);

	if (r == -EINVAL) { /* a user namespace of one user */
		other = me;
		r = ov_at_chown(ov_at_name(dir, "link"), other, (gid_t)-1);
	}
	ck_assert_int_eq(r, 0);
	ck_assert_uint_eq(stat_of("link").st_uid, other);
	ck_assert_uint_eq(stat_of("file").st_uid, me);
	fd = ov_at_open(ov_at_name(dir, "link"), O_PATH, 0);
	ck_assert_int_eq(ov_at_chown(ov_at_fd(fd), me, (gid_t)-1), 0);
	ck_assert_uint_eq(stat_of("link").st_uid, me);
	close(fd);
	ck_assert_int_eq(ov_at_chown(ov_at_name(dir, "none"), me, (gid_t)-1), -ENOENT);
}

static void check_utimens(void)
{
	const struct timespec a[2] = {{100, 1}, {200, 2}}, b[2] = {{0, UTIME_OMIT}, {300, 3}};
	struct stat st;
	time_t before = stat_of("file").st_mtim.tv_sec;
	int fd;

	ck_assert_int_eq(ov_at_utimens(ov_at_name(dir, "link"), a), 0);
	st = stat_of("link");
	ck_assert_int_eq(st.st_mtim.tv_sec, 200);
	ck_assert_int_eq(st.st_mtim.tv_nsec, 2);
	ck_assert_int_eq(stat_of("file").st_mtim.tv_sec, before);
	fd = ov_at_open(ov_at_name(dir, "link"), O_PATH, 0);
	ck_assert_int_eq(ov_at_utimens(ov_at_fd(fd), b), 0);
	st = stat_of("link");
	ck_assert_int_eq(st.st_mtim.tv_sec, 300);
	ck_assert_int_eq(st.st_atim.tv_sec, 100);
	ck_assert_int_eq(stat_of("file").st_mtim.tv_sec, before);
	close(fd);
	fd = ov_at_open(ov_at_name(dir, "file"), O_RDONLY, 0);
	ck_assert_int_eq(ov_at_utimens(ov_at_fd(fd), a), 0);
	ck_assert_int_eq(stat_of("file").st_mtim.tv_nsec, 2);
	close(fd);
}

static void xattr_round(struct ov_at at, const char *key)
{
	char buf[64], list[4096];
	ssize_t n;

	ck_assert_int_eq(ov_at_getxattr(at, key, buf, sizeof(buf)), -ENODATA);
	ck_assert_int_eq(ov_at_removexattr(at, key), -ENODATA);
	ck_assert_int_eq(ov_at_setxattr(at, key, "va\0lue", 6, 0), 0);
	ck_assert_int_eq(ov_at_setxattr(at, key, "x", 1, XATTR_CREATE), -EEXIST);
	ck_assert_int_eq(ov_at_getxattr(at, key, buf, sizeof(buf)), 6);
	ck_assert_mem_eq(buf, "va\0lue", 6);
	ck_assert_int_eq(ov_at_getxattr(at, key, NULL, 0), 6);
	ck_assert_int_eq(ov_at_getxattr(at, key, buf, 2), -ERANGE);
	n = ov_at_listxattr(at, list, sizeof(list));
	ck_assert_int_gt(n, 0);
	ck_assert_ptr_nonnull(memmem(list, (size_t)n, key, strlen(key) + 1));
	ck_assert_int_eq(ov_at_listxattr(at, NULL, 0), n);
	ck_assert_int_eq(ov_at_setxattr(at, key, "", 0, 0), 0);
	ck_assert_int_eq(ov_at_getxattr(at, key, buf, sizeof(buf)), 0);
	ck_assert_int_eq(ov_at_removexattr(at, key), 0);
}

static bool has_user_xattrs(void)
{
	return setxattr(top, "user.probe", "", 0, 0) == 0;
}

static void check_xattr(void)
{
	char *whole, big[3000], buf[8];
	ssize_t n;
	int fd;

	if (!has_user_xattrs())
		return;
	xattr_round(ov_at_name(dir, "file"), "user.k");
	xattr_round(ov_at_name(dir, "sub"), "user.k");
	xattr_round(ov_at_name(dir, "."), "user.k");
	xattr_round(ov_at_fd(dir), "user.k");
	fd = ov_at_open(ov_at_name(dir, "file"), O_PATH, 0);
	xattr_round(ov_at_fd(fd), "user.k");
	memset(big, 'B', sizeof(big));
	ck_assert_int_eq(ov_at_setxattr(ov_at_fd(fd), "user.big", big, sizeof(big), 0), 0);
	ck_assert_int_eq(ov_at_getxattr_alloc(ov_at_fd(fd), "user.big", &whole), sizeof(big));
	ck_assert_mem_eq(whole, big, sizeof(big));
	ck_assert_int_eq(whole[sizeof(big)], 0);
	free(whole);
	n = ov_at_getxattr_alloc(ov_at_fd(fd), NULL, &whole);
	ck_assert_int_ge(n, 9);
	ck_assert_ptr_nonnull(memmem(whole, (size_t)n, "user.big", 9));
	free(whole);
	ck_assert_int_eq(ov_at_getxattr_alloc(ov_at_fd(fd), "user.none", &whole), -ENODATA);
	ck_assert_ptr_null(whole);
	close(fd);
	ck_assert_int_eq(ov_at_removexattr(ov_at_name(dir, "file"), "user.big"), 0);

	/* A link's target stays untouched; user xattrs on the link itself are forbidden. */
	ck_assert_int_eq(ov_at_setxattr(ov_at_name(dir, "link"), "user.k", "1", 1, 0), -EPERM);
	ck_assert_int_eq(ov_at_getxattr(ov_at_name(dir, "file"), "user.k", buf, sizeof(buf)), -ENODATA);
	ck_assert_int_eq(ov_at_getxattr(ov_at_name(dir, "none"), "user.k", buf, sizeof(buf)), -ENOENT);
	fd = ov_at_open(ov_at_name(dir, "link"), O_PATH, 0);
	if (ov_at_setxattr(ov_at_name(dir, "link"), "trusted.k", "1", 1, 0) == 0) {
		ck_assert_int_eq(ov_at_removexattr(ov_at_name(dir, "link"), "trusted.k"), 0);
		xattr_round(ov_at_name(dir, "link"), "trusted.k");
		xattr_round(ov_at_fd(fd), "trusted.k");
		ck_assert_int_eq(ov_at_getxattr(ov_at_name(dir, "file"), "trusted.k", buf, 1), -ENODATA);
	}
	close(fd);
}

static void check_long_name(void)
{
	char name[300];

	memset(name, 'n', sizeof(name));
	name[255] = '\0';
	expect_open(ov_at_name(dir, name), O_CREAT | O_RDWR, 0);
	if (has_user_xattrs())
		xattr_round(ov_at_name(dir, name), "user.k");
	ck_assert_int_eq(unlinkat(dir, name, 0), 0);
	name[255] = 'n';
	name[256] = '\0';
	expect_open(ov_at_name(dir, name), O_CREAT | O_RDWR, -ENAMETOOLONG);
	ck_assert_int_eq(ov_at_getxattr(ov_at_name(dir, name), "user.k", NULL, 0), -ENAMETOOLONG);
}

static void check_all(void)
{
	int i;

	for (i = 0; i < 2; i++) { /* the second time with what is then known to be missing */
		check_statx();
		check_open();
		check_create();
		check_reopen();
		check_chmod();
		check_chown();
		check_utimens();
		check_xattr();
		check_long_name();
	}
}

START_TEST(at_native)
{
	check_all();
}
END_TEST

START_TEST(at_without_young_syscalls)
{
	if (deny(young, OV_ARRAY_SIZE(young), ENOSYS))
		check_all();
}
END_TEST

START_TEST(at_in_an_old_sandbox)
{
	if (deny(young, OV_ARRAY_SIZE(young), EPERM))
		check_all();
}
END_TEST

START_TEST(at_readlink)
{
	char buf[16];
	int fd = ov_at_open(ov_at_name(dir, "link"), O_PATH, 0);

	ck_assert_int_eq(ov_at_readlink(ov_at_name(dir, "link"), buf, sizeof(buf)), 4);
	ck_assert_mem_eq(buf, "file", 4);
	ck_assert_int_eq(ov_at_readlink(ov_at_fd(fd), buf, 2), 2);
	ck_assert_int_eq(ov_at_readlink(ov_at_name(dir, "file"), buf, sizeof(buf)), -EINVAL);
	close(fd);
}
END_TEST

START_TEST(at_link)
{
	int fd = openat(dir, ".", O_TMPFILE | O_RDWR, 0600);
	struct statx stx;

	write_file("linked", "x");
	ck_assert_int_eq(ov_at_link(ov_at_name(dir, "linked"), dir, "by-name"), 0);
	ck_assert_int_eq(ov_at_link(ov_at_name(dir, "linked"), dir, "by-name"), -EEXIST);
	ck_assert_int_eq(ov_at_link(ov_at_name(dir, "none"), dir, "no-name"), -ENOENT);
	if (fd < 0)
		return; /* a file system without O_TMPFILE */
	for (int i = 0; i < 2; i++) {
		char name[] = "by-fd-0";

		name[6] = (char)('0' + i);
		ck_assert_int_eq(ov_at_link(ov_at_fd(fd), dir, name), 0);
		ck_assert_int_eq(ov_at_link(ov_at_fd(fd), dir, name), -EEXIST);
		ck_assert_int_eq(ov_at_statx(ov_at_name(dir, name), STATX_NLINK, &stx), 0);
		ck_assert_int_eq((int)stx.stx_nlink, i + 1);
	}
	close(fd);
}
END_TEST

START_TEST(at_handle)
{
	union {
		struct file_handle fh;
		char room[sizeof(struct file_handle) + 128];
	} a = {.fh.handle_bytes = 128}, b = {.fh.handle_bytes = 128}, small = {.fh.handle_bytes = 0};
	int r = ov_at_handle(ov_at_name(dir, "link"), &a.fh, NULL), mnt = -1;
	int fd = ov_at_open(ov_at_name(dir, "link"), O_PATH, 0);

	if (r == -EOPNOTSUPP)
		goto out;
	ck_assert_int_eq(r, 0);
	ck_assert_int_eq(ov_at_handle(ov_at_fd(fd), &b.fh, &mnt), 0);
	ck_assert_int_ge(mnt, 0);
	ck_assert_uint_eq(a.fh.handle_bytes, b.fh.handle_bytes);
	ck_assert_mem_eq(a.room, b.room, sizeof(struct file_handle) + a.fh.handle_bytes);
	ck_assert_int_eq(ov_at_handle(ov_at_fd(fd), &small.fh, NULL), -EOVERFLOW);
	b.fh.handle_bytes = 128;
	ck_assert_int_eq(ov_at_handle(ov_at_name(dir, "file"), &b.fh, NULL), 0);
	ck_assert_mem_ne(a.room, b.room, sizeof(struct file_handle) + a.fh.handle_bytes);
	ck_assert_int_eq(ov_at_handle(ov_at_name(dir, "none"), &b.fh, NULL), -ENOENT);
out:
	close(fd);
}
END_TEST

START_TEST(at_handle_sandboxed)
{
	static const int nr[] = {__NR_name_to_handle_at};
	struct file_handle fh = {.handle_bytes = 0};

	if (deny(nr, 1, EPERM))
		ck_assert_int_eq(ov_at_handle(ov_at_fd(dir), &fh, NULL), -EOPNOTSUPP);
}
END_TEST

static volatile sig_atomic_t alarms;

static void on_alarm(int sig)
{
	(void)sig;
	alarms++;
}

/* Opening a FIFO waits for its other end, so that a signal interrupts it. */
START_TEST(at_open_retries_eintr)
{
	struct sigaction sa = {.sa_handler = on_alarm};
	struct itimerval often = {{0, 5000}, {0, 5000}}, off = {{0, 0}, {0, 0}};
	int fd, status;
	pid_t pid;

	ck_assert_int_eq(mkfifoat(dir, "fifo", 0600), 0);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		usleep(100000);
		fd = openat(dir, "fifo", O_WRONLY);
		_exit(fd < 0);
	}
	sigaction(SIGALRM, &sa, NULL);
	setitimer(ITIMER_REAL, &often, NULL);
	fd = ov_at_open(ov_at_name(dir, "fifo"), O_RDONLY, 0);
	setitimer(ITIMER_REAL, &off, NULL);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_gt(alarms, 0);
	close(fd);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
}
END_TEST

START_TEST(io_rename)
{
	ck_assert_int_eq(ov_renameat2(dir, "file", dir, "moved", 0), 0);
	ck_assert_int_eq(ov_renameat2(dir, "none", dir, "x", 0), -ENOENT);
	ck_assert_int_eq(ov_renameat2(dir, "moved", dir, "sub", RENAME_NOREPLACE), -EEXIST);
	ck_assert_int_eq(ov_renameat2(dir, "moved", dir, "sub", RENAME_EXCHANGE), 0);
	ck_assert(S_ISREG(stat_of("sub").st_mode));
	ck_assert_int_eq(ov_renameat2(dir, "sub", dir, "x", 1u << 20), -EINVAL);
}
END_TEST

START_TEST(io_rename_missing)
{
	static const int nr[] = {__NR_renameat2};

	if (!deny(nr, 1, ENOSYS))
		return;
	ck_assert_int_eq(ov_renameat2(dir, "file", dir, "moved", RENAME_NOREPLACE), -EINVAL);
	ck_assert_int_eq(ov_renameat2(dir, "file", dir, "moved", 0), 0);
}
END_TEST

START_TEST(io_full)
{
	char buf[16];
	int fd = openat(dir, "file", O_RDWR), fds[2];

	ck_assert_int_eq(ov_pread_full(fd, buf, sizeof(buf), 0), 5);
	ck_assert_int_eq(ov_pread_full(fd, buf, sizeof(buf), 5), 0);
	ck_assert_int_eq(ov_pread_full(fd, buf, 0, 0), 0);
	ck_assert_int_eq(ov_pwrite_full(fd, "world", 5, 10), 5);
	ck_assert_int_eq(ov_pread_full(fd, buf, sizeof(buf), 0), 15);
	ck_assert_mem_eq(buf, "hello\0\0\0\0\0world", 15);
	ck_assert_int_eq(ov_fsync(fd, false), 0);
	ck_assert_int_eq(ov_fsync(fd, true), 0);
	close(fd);
	fd = openat(dir, "file", O_RDONLY);
	ck_assert_int_eq(ov_pwrite_full(fd, "x", 1, 0), -EBADF);
	ck_assert_int_eq(ov_pread_full(dir, buf, 1, 0), -EISDIR);
	ck_assert_int_eq(ov_fsync(-1, false), -EBADF);
	close(fd);
	ck_assert_int_eq(pipe(fds), 0);
	ck_assert_int_eq(ov_pread_full(fds[0], buf, 1, 0), -ESPIPE);
	close(fds[0]);
	close(fds[1]);
}
END_TEST

static uint64_t seed = 0x9e3779b97f4a7c15;

static uint64_t rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static bool same_content(int a, int b, off_t size)
{
	char x[65536], y[65536];
	off_t pos;

	for (pos = 0; pos < size; pos += (off_t)sizeof(x)) {
		ssize_t n = ov_pread_full(a, x, sizeof(x), pos), want = size - pos;

		if (want > (ssize_t)sizeof(x))
			want = sizeof(x);
		if (n < want || ov_pread_full(b, y, sizeof(y), pos) < want || memcmp(x, y, (size_t)want) != 0)
			return false;
	}
	return true;
}

/* Copy the first SIZE bytes of IN to a new file and compare; more blocks than the source has would be lost holes. */
static void copy_and_compare(int in, off_t size)
{
	int out = openat(dir, "out", O_CREAT | O_TRUNC | O_RDWR, 0600);
	struct stat from, to;

	ck_assert_int_eq(ov_copy_data(in, out, size), 0);
	ck_assert_int_eq(fsync(in), 0); /* delayed allocation would blur the counts */
	ck_assert_int_eq(fsync(out), 0);
	ck_assert_int_eq(fstat(in, &from), 0);
	ck_assert_int_eq(fstat(out, &to), 0);
	ck_assert_int_eq(to.st_size, size);
	ck_assert(same_content(in, out, size));
	ck_assert_int_le(to.st_blocks, from.st_blocks + 64);
	close(out);
}

/* A file of SIZE bytes with data here and there. */
static int make_sparse(off_t size)
{
	int fd = openat(dir, "in", O_CREAT | O_TRUNC | O_RDWR, 0600), i;
	char block[20000];

	ck_assert_int_ge(fd, 0);
	for (i = 0; i < (int)sizeof(block); i++)
		block[i] = (char)rnd();
	ck_assert_int_eq(ftruncate(fd, size), 0);
	for (i = 0; i < 4; i++) {
		size_t len = rnd() % sizeof(block);
		off_t off = (off_t)(rnd() % (uint64_t)size);

		if (off + (off_t)len > size)
			len = (size_t)(size - off);
		ck_assert_int_eq(ov_pwrite_full(fd, block, len, off), (ssize_t)len);
	}
	return fd;
}

static void check_copies(void)
{
	static const off_t sizes[] = {1, 4095, 4096, 4097, 1 << 20, (1 << 20) + 1, 9 << 20, 64 << 20};
	size_t i;
	int fd;

	for (i = 0; i < OV_ARRAY_SIZE(sizes); i++) {
		fd = make_sparse(sizes[i]);
		copy_and_compare(fd, sizes[i]);
		copy_and_compare(fd, sizes[i] / 2); /* a prefix */
		close(fd);
	}
	fd = openat(dir, "in", O_CREAT | O_TRUNC | O_RDWR, 0600);
	copy_and_compare(fd, 0);
	ck_assert_int_eq(ftruncate(fd, 32 << 20), 0); /* nothing but a hole */
	copy_and_compare(fd, 32 << 20);
	ck_assert_int_eq(ov_copy_data(fd, fd, -1), -EINVAL);
	close(fd);
}

START_TEST(io_copy)
{
	check_copies();
}
END_TEST

/* Each errno by which a kernel or file system says that copy_file_range is not for these two files. */
static const int range_errors[] = {ENOSYS, EXDEV, EINVAL, EOPNOTSUPP, EPERM, EIO, EBADF};

START_TEST(io_copy_without_range)
{
	static const int nr[] = {__NR_copy_file_range, __NR_ioctl};

	if (deny(nr, 2, range_errors[_i]))
		check_copies();
}
END_TEST

START_TEST(io_copy_full_disk)
{
	static const int nr[] = {__NR_copy_file_range};
	int in = make_sparse(100000), out = openat(dir, "out", O_CREAT | O_RDWR, 0600);
	int r = 0;

	if (deny(nr, 1, ENOSPC))
		r = ov_copy_data(in, out, 50000); /* not the whole, so that it is no clone */
	ck_assert(r == -ENOSPC || r == 0);
	close(in);
	close(out);
}
END_TEST

START_TEST(io_copy_shrunk_source)
{
	int in = openat(dir, "file", O_RDWR), out = openat(dir, "out", O_CREAT | O_RDWR, 0600);

	ck_assert_int_eq(ov_copy_data(in, out, 6), -EIO);
	ck_assert_int_eq(ov_copy_data(in, out, 1 << 20), -EIO);
	ck_assert_int_eq(ftruncate(in, 0), 0);
	ck_assert_int_eq(ov_copy_data(in, out, 1 << 20), -EIO);
	close(in);
	close(out);
}
END_TEST

/* What reached stderr, with the pipe behind it. */
static void log_through(int pipefd[2], int *saved)
{
	ck_assert_int_eq(pipe(pipefd), 0);
	*saved = dup(STDERR_FILENO);
	ck_assert_int_ge(dup2(pipefd[1], STDERR_FILENO), 0);
	ov_log_to_syslog(false, NULL); /* begins the limit of lines anew, which a test before may have reached */
}

START_TEST(log_lines)
{
	char buf[4096] = "", longer[3000];
	int fds[2], saved;
	ssize_t n;

	memset(longer, 'L', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = '\0';
	ck_assert_int_eq((int)ov_log_get_level(), OV_LOG_WARNING);
	log_through(fds, &saved);
	errno = 42;
	ov_info("not shown");
	ov_debug("not shown");
	ov_warn("a %s", "b\nc\033[0m");
	ov_error("%s", longer);
	ck_assert_int_eq(errno, 42);
	ov_log_set_level(OV_LOG_DEBUG);
	ov_debug("shown");
	ck_assert_int_ge(dup2(saved, STDERR_FILENO), 0);
	n = read(fds[0], buf, sizeof(buf) - 1);
	ck_assert_int_gt(n, 0);
	ck_assert_ptr_nonnull(strstr(buf, "fuse-overlay: a b?c?[0m\nfuse-overlay: LLLL"));
	ck_assert_ptr_nonnull(strstr(buf, "L\nfuse-overlay: shown\n"));
	ck_assert_ptr_null(strstr(buf, "not shown"));
	ck_assert_int_lt(n, 1200);
	close(fds[0]);
	close(fds[1]);
	close(saved);
}
END_TEST

/* Nobody may listen on /dev/log here; what counts is that a flood comes to no harm and stderr stays empty. */
START_TEST(log_flood)
{
	int fds[2], saved, i;
	char c;

	log_through(fds, &saved);
	ov_log_to_syslog(true, "fuse-overlay-unit-test");
	for (i = 0; i < 1000; i++)
		ov_error("flood %d", i);
	ov_log_to_syslog(false, NULL);
	ov_error("last");
	ck_assert_int_ge(dup2(saved, STDERR_FILENO), 0);
	ck_assert_int_eq(read(fds[0], &c, 1), 1);
	ck_assert_int_eq(c, 'f');
	close(fds[0]);
	close(fds[1]);
	close(saved);
}
END_TEST

static TCase *with_files(Suite *s, const char *name)
{
	TCase *tc = tcase_create(name);

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 120);
	suite_add_tcase(s, tc);
	return tc;
}

Suite *sys_suite(void)
{
	Suite *s = suite_create("sys");
	TCase *at = with_files(s, "at"), *io = with_files(s, "io"), *log = tcase_create("log");

	tcase_add_test(at, at_native);
	tcase_add_test(at, at_without_young_syscalls);
	tcase_add_test(at, at_in_an_old_sandbox);
	tcase_add_test(at, at_readlink);
	tcase_add_test(at, at_link);
	tcase_add_test(at, at_handle);
	tcase_add_test(at, at_handle_sandboxed);
	tcase_add_test(at, at_open_retries_eintr);
	tcase_add_test(io, io_rename);
	tcase_add_test(io, io_rename_missing);
	tcase_add_test(io, io_full);
	tcase_add_test(io, io_copy);
	tcase_add_loop_test(io, io_copy_without_range, 0, (int)OV_ARRAY_SIZE(range_errors));
	tcase_add_test(io, io_copy_full_disk);
	tcase_add_test(io, io_copy_shrunk_source);
	tcase_set_timeout(log, 60); /* other programs may want the cores */
	tcase_add_test(log, log_lines);
	tcase_add_test(log, log_flood);
	suite_add_tcase(s, log);
	return s;
}
