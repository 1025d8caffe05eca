/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "log.h"
#include "util.h"

#define USELESS_MAX 40          /* workers in a row that got nowhere */
#define PAUSE_AFTER 3           /* of those, from which on it waits before it tries again */
#define PAUSE_STEP_MS 50
#define WATCH_MS 50
#define FORK_TRIES 100

struct watch {
	const struct ov_supervised *s;
	pid_t pid;
	int ending;   /* the signal that asked to end, passed on to every worker */
	bool renewing;
	bool watching;
	unsigned useless;
};

/* fork(), but with one table of file descriptors for both. */
static pid_t fork_sharing(void)
{
#if defined(__s390__) || defined(__CRIS__)
	return (pid_t)syscall(SYS_clone, NULL, CLONE_FILES | SIGCHLD);
#else
	return (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, NULL, NULL, NULL, NULL);
#endif
}

static void wait_ms(unsigned ms)
{
	struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};

	while (nanosleep(&ts, &ts) < 0 && errno == EINTR)
		;
}

static int start(struct watch *w, bool again)
{
	pid_t parent = getpid();

	w->pid = fork_sharing();
	for (int n = 0; w->pid < 0 && again && n < FORK_TRIES; n++) { /* processes or memory may be short for a moment */
		wait_ms(PAUSE_STEP_MS);
		w->pid = fork_sharing();
	}
	if (w->pid < 0) {
		int err = errno;

		ov_error("cannot start a worker: %s", strerror(err));
		return -err;
	}
	if (w->pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGUSR2); /* to be told, not to die of it */
		if (getppid() != parent)
			(void)kill(getpid(), SIGUSR2); /* raise() would take the thread for its parent's */
		_exit(w->s->work(w->s->arg, again));
	}
	if (w->ending)
		(void)kill(w->pid, w->ending);
	return 0;
}

/* A worker died: start another one. 0 or -errno. */
static int replace(struct watch *w, int sig)
{
	bool progress = w->s->died(w->s->arg, sig);

	w->useless = progress ? 0 : w->useless + 1;
	ov_error("the worker %s%s; %s", sig ? "was killed: " : "could not begin", sig ? strsignal(sig) : "",
		 w->useless < USELESS_MAX ? "starting another one" : "giving up: workers die before they get anywhere");
	ov_log_release();
	if (w->useless >= USELESS_MAX)
		return -EIO;
	if (w->useless >= PAUSE_AFTER)
		wait_ms(PAUSE_STEP_MS * (w->useless - PAUSE_AFTER + 1));
	if (w->renewing && !w->ending) { /* then this is the moment for it */
		w->renewing = false;
		w->s->renew(w->s->arg);
	}
	return start(w, true);
}

/* The worker ended by itself. True with *CODE if that is the end. */
static bool take_exit(struct watch *w, int code, int *out)
{
	*out = code;
	if (code == OV_EXIT_AGAIN) {
		*out = EXIT_FAILURE;
		return replace(w, 0) < 0;
	}
	if (code != OV_EXIT_RENEW)
		return true;
	(void)w->s->died(w->s->arg, 0);
	/* the worker may have got the signal itself, from pkill(1) say, before we did or in our stead */
	if (!w->ending && (w->renewing || w->s->can_renew(w->s->arg)))
		w->s->renew(w->s->arg);
	w->renewing = false;
	ov_log_release();
	if (start(w, true) == 0) /* no new program after all */
		return false;
	*out = EXIT_FAILURE;
	return true;
}

static bool reap(struct watch *w, int *code)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		if (pid != w->pid)
			continue;
		if (WIFEXITED(status)) {
			if (take_exit(w, WEXITSTATUS(status), code))
				return true;
		} else if (WIFSIGNALED(status) && replace(w, WTERMSIG(status)) < 0) {
			*code = EXIT_FAILURE;
			return true;
		}
	}
	return false;
}

/*
 * Has the worker's first thread died while another one hangs, and keeps the process from ending? Then nothing of it serves any
 * more, and a new worker will free the one that hangs. 0 or -errno.
 */
static int check_worker(struct watch *w)
{
	char path[40], text[512], *state;
	ov_cleanup_fd int fd = -1;
	ssize_t n;

	w->watching = w->s->watch(w->s->arg);
	if (!w->watching)
		return 0;
	snprintf(path, sizeof(path), "/proc/%d/stat", (int)w->pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (n <= 0)
		return 0;
	text[n] = '\0';
	state = strrchr(text, ')');
	return state && state[1] == ' ' && (state[2] == 'Z' || state[2] == 'X') ? replace(w, SIGKILL) : 0;
}

static void take_signal(struct watch *w, int sig)
{
	switch (sig) {
	case SIGUSR2:
		if (w->s->can_renew(w->s->arg)) {
			w->renewing = true;
			(void)kill(w->pid, SIGUSR2);
		}
		break;
	case SIGUSR1:
		(void)kill(w->pid, sig);
		break;
	case SIGALRM:
		w->watching = true;
		break;
	default:
		w->ending = sig;
		(void)kill(w->pid, sig);
		break;
	}
}

int ov_supervise(const struct ov_supervised *s, bool again)
{
	const struct timespec pause = {.tv_nsec = WATCH_MS * 1000000L};
	struct watch w = {.s = s};
	int code = EXIT_FAILURE, r;
	sigset_t set;

	ov_daemon_signals(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGALRM);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	r = start(&w, again);
	if (r < 0)
		return r;
	s->running(s->arg);
	while (!reap(&w, &code)) {
		int sig = w.watching ? sigtimedwait(&set, NULL, &pause) : sigwaitinfo(&set, NULL);

		if (sig > 0 && sig != SIGCHLD)
			take_signal(&w, sig);
		else if (sig < 0 && w.watching && check_worker(&w) < 0)
			return EXIT_FAILURE;
	}
	return code;
}
