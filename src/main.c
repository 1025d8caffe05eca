/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The program: options, background, and the exit code that scripts wait for. */

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "log.h"
#include "overlay.h"
#include "params.h"
#include "session.h"

/* Wait for the child's word that the mount answers: its first byte is the exit code; none at all: it died. */
static int wait_for_child(int fd)
{
	unsigned char code;
	ssize_t n;

	do
		n = read(fd, &code, 1);
	while (n < 0 && errno == EINTR);
	return n == 1 ? code : EXIT_FAILURE;
}

static void tell_parent(int fd, unsigned char code)
{
	ssize_t n;

	if (fd < 0)
		return;
	do
		n = write(fd, &code, 1);
	while (n < 0 && errno == EINTR);
	close(fd);
}

/*
 * Go on in a child. Returns in the child with *REPORT the pipe to the parent; the parent exits with the code that comes
 * through it.
 */
static int go_background(int *report)
{
	int fds[2];
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC) < 0)
		return -errno;
	pid = fork();
	if (pid < 0) {
		close(fds[0]);
		close(fds[1]);
		return -errno;
	}
	if (pid > 0) {
		close(fds[1]);
		_exit(wait_for_child(fds[0]));
	}
	close(fds[0]);
	*report = fds[1];
	(void)setsid();
	return 0;
}

/* The mount answers: let go of the caller's terminal, pipes and directory, or it would wait for us. */
static void detach(void)
{
	int null = open("/dev/null", O_RDWR);

	ov_log_to_syslog(true, "fuse-overlay");
	if (chdir("/") < 0)
		ov_warn("chdir /: %s", strerror(errno));
	if (null < 0)
		return;
	(void)dup2(null, 0);
	(void)dup2(null, 1);
	(void)dup2(null, 2);
	if (null > 2)
		close(null);
}

static void block_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGUSR1);
	(void)pthread_sigmask(SIG_BLOCK, &set, NULL);
	(void)signal(SIGPIPE, SIG_IGN);
}

static int mountpoint_fd(const char *path)
{
	return strncmp(path, "/dev/fd/", 8) == 0 ? -1 : open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
}

static void close_all(void)
{
#ifdef SYS_close_range
	(void)syscall(SYS_close_range, 3U, ~0U, 0U);
#endif
}

static int run(struct ov_params *p)
{
	struct ov_session *s = NULL;
	struct overlay *ov = NULL;
	int report = -1;
	int r = 0, mfd;

	if (!p->foreground)
		r = go_background(&report);
	if (r < 0) {
		ov_error("cannot go to the background: %s", strerror(-r));
		return EXIT_FAILURE;
	}
	umask(0); /* modes come from the callers */
	block_signals();
	mfd = mountpoint_fd(p->mountpoint);
	r = ov_open(&ov, &p->ov, mfd);
	if (mfd >= 0)
		close(mfd);
	if (r == 0)
		r = ov_session_mount(&s, ov, p);
	if (r == 0)
		r = ov_session_start(s);
	if (r == 0) {
		if (!p->foreground)
			detach();
		tell_parent(report, EXIT_SUCCESS);
		r = ov_session_serve(s);
		if (!p->foreground) {
			/* the kernel closes everything faster than we can: who unmounted may want the layers' file systems */
			ov_finish(ov);
			close_all(); /* at once, where _exit() waits for the threads first */
			_exit(r < 0 ? EXIT_FAILURE : EXIT_SUCCESS);
		}
	} else {
		tell_parent(report, EXIT_FAILURE);
	}
	ov_session_free(s);
	ov_close(ov);
	return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
	struct ov_params p;
	int r = ov_params_parse(&p, argc, argv, stderr);

	if (r == 0 && p.action == OV_SHOW_HELP) {
		ov_params_help(stdout);
	} else if (r == 0 && p.action == OV_SHOW_VERSION) {
		ov_params_version(stdout);
	} else if (r == 0) {
		if (p.log_level >= 0)
			ov_log_set_level((enum ov_log_level)p.log_level);
		r = run(&p);
		ov_params_clear(&p);
		return r;
	}
	ov_params_clear(&p);
	return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
