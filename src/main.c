/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The program: options, background, and the exit code that scripts wait for. */

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "log.h"
#include "overlay.h"
#include "params.h"
#include "renew.h"
#include "session.h"
#include "supervisor.h"
#include "sys/io.h"

/*
 * Wait for the child's word that the mount answers: its first byte is the exit code; none at all: it died. One that failed is
 * waited for to its end, so that it is no zombie where nobody else does that, and holds nothing any more.
 */
static int wait_for_child(pid_t pid, int fd)
{
	unsigned char code;
	ssize_t n;

	do
		n = read(fd, &code, 1);
	while (n < 0 && errno == EINTR);
	if (n == 1 && code == EXIT_SUCCESS)
		return EXIT_SUCCESS;
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
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
		_exit(wait_for_child(pid, fds[0]));
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

	ov_daemon_signals(&set);
	(void)pthread_sigmask(SIG_BLOCK, &set, NULL);
	(void)signal(SIGPIPE, SIG_IGN);
}

static int mountpoint_fd(const char *path)
{
	return strncmp(path, "/dev/fd/", 8) == 0 ? -1 : open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
}

/* What serves a mount. */
struct daemon {
	const struct ov_params *params;
	struct ov_session *session;
	struct overlay *ov;
	int report; /* the pipe to the parent, or -1 */
	char **argv;
	char program[PATH_MAX]; /* of this process: where a newer one is looked for */
};

/* Everything is served until the end: the exit status, or OV_EXIT_RENEW. In a process that ends right after. */
static int serve(void *arg, bool again)
{
	struct daemon *d = arg;
	int r = ov_session_start(d->session, again);

	if (r == 0)
		r = ov_session_serve(d->session);
	else if (again)
		return OV_EXIT_AGAIN;
	ov_finish(d->ov);
	if (r == OV_SESSION_RENEW)
		return OV_EXIT_RENEW;
	/* the kernel closes everything faster than we can: who unmounted may want the layers' file systems */
	ov_close_range(3, ~0U); /* at once, where _exit() waits for the threads first */
	return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

static bool worker_died(void *arg, int signal)
{
	struct daemon *d = arg;

	return ov_session_bury(d->session, signal);
}

static void worker_runs(void *arg)
{
	struct daemon *d = arg;

	tell_parent(d->report, EXIT_SUCCESS);
	d->report = -1;
}

static bool can_renew(void *arg)
{
	struct daemon *d = arg;

	return ov_renew_check(d->program);
}

static bool is_flushing(void *arg)
{
	struct daemon *d = arg;

	return ov_session_is_flushing(d->session);
}

static void renew(void *arg)
{
	struct daemon *d = arg;

	ov_renew(d->program, d->argv, d->ov, d->session);
}

static int supervise(struct daemon *d, bool again)
{
	const struct ov_supervised s = {.arg = d, .work = serve, .died = worker_died, .watch = is_flushing,
					.running = worker_runs, .renew = renew, .can_renew = can_renew};
	int r;

	ov_log_release();
	r = ov_session_keep_fds(d->session, d->report);
	if (r == 0)
		r = ov_supervise(&s, again);
	if (r >= 0)
		return r;
	ov_session_forget_supervisor(d->session);
	ov_warn("no supervisor: %s: nobody will replace this process if it dies", strerror(-r));
	worker_runs(d);
	return serve(d, again);
}

/* In one process, with everything freed in the end. */
static int serve_alone(struct daemon *d)
{
	int r = ov_session_start(d->session, false);

	if (r < 0)
		return r;
	worker_runs(d);
	return ov_session_serve(d->session);
}

static int open_all(struct daemon *d, struct ov_params *p, const struct ov_handover *h)
{
	int mfd, r;

	if (h->overlay) {
		r = ov_open_handed_over(&d->ov, &p->ov, h->overlay);
		return r == 0 ? ov_session_take(&d->session, d->ov, p, h->session) : r;
	}
	mfd = mountpoint_fd(p->mountpoint);
	r = ov_open(&d->ov, &p->ov, mfd);
	if (mfd >= 0)
		close(mfd);
	return r == 0 ? ov_session_mount(&d->session, d->ov, p) : r;
}

static int run(struct ov_params *p, char **argv)
{
	struct daemon d = {.params = p, .argv = argv, .report = -1};
	struct ov_handover handover = ov_handover_get();
	bool again = handover.overlay != NULL;
	int r = 0;

	ov_renew_program(d.program, sizeof(d.program));
	if (!p->foreground && !again)
		r = go_background(&d.report);
	if (r < 0) {
		ov_error("cannot go to the background: %s", strerror(-r));
		return EXIT_FAILURE;
	}
	umask(0); /* modes come from the callers */
	block_signals();
	if (again && !p->foreground)
		ov_log_to_syslog(true, OV_PROGRAM);
	p->ov.shared = p->supervise;
	r = open_all(&d, p, &handover);
	free(handover.overlay);
	free(handover.session);
	if (r == 0) {
		if (!p->foreground && !again)
			detach();
		if (p->supervise && ov_session_is_replaceable(d.session))
			_exit(supervise(&d, again)); /* the worker has closed and removed what is to be */
		if (!p->foreground) {
			worker_runs(&d);
			_exit(serve(&d, false));
		}
		r = serve_alone(&d);
	} else {
		tell_parent(d.report, EXIT_FAILURE);
	}
	ov_session_free(d.session);
	ov_close(d.ov);
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
	} else if (r == 0 && p.action == OV_SHOW_STATE_VERSION) {
		printf("%u\n", OV_LEDGER_VERSION);
	} else if (r == 0 && p.action == OV_UPGRADE) {
		r = ov_renew_ask(p.mountpoint);
	} else if (r == 0) {
		if (p.log_level >= 0)
			ov_log_set_level((enum ov_log_level)p.log_level);
		r = run(&p, argv);
		ov_params_clear(&p);
		return r;
	}
	ov_params_clear(&p);
	return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
