/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "supervisor.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
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

struct watch {
	const struct ov_supervised *s;
	pid_t pid;
	int ending;   /* the signal that asked to end, passed on to every worker */
	bool renewing;
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

static int start(struct watch *w, bool again)
{
	pid_t parent = getpid();

	w->pid = fork_sharing();
	if (w->pid < 0) {
		ov_error("cannot start a worker: %s", strerror(errno));
		return -errno;
	}
	if (w->pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGUSR2); /* to be told, not to die of it */
		if (getppid() != parent)
			(void)raise(SIGUSR2);
		_exit(w->s->work(w->s->arg, again));
	}
	if (w->ending)
		(void)kill(w->pid, w->ending);
	return 0;
}

static void wait_ms(unsigned ms)
{
	struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};

	while (nanosleep(&ts, &ts) < 0 && errno == EINTR)
		;
}

/* A worker died: start another one. 0 or -errno. */
static int replace(struct watch *w, int sig)
{
	bool progress = w->s->died(w->s->arg, sig);

	w->useless = progress ? 0 : w->useless + 1;
	ov_error("the worker was killed by signal %d (%s); %s", sig, strsignal(sig),
		 w->useless < USELESS_MAX ? "starting another one" : "giving up: workers die before they get anywhere");
	ov_log_release();
	if (w->useless >= USELESS_MAX)
		return -EIO;
	if (w->useless >= PAUSE_AFTER)
		wait_ms(PAUSE_STEP_MS * (w->useless - PAUSE_AFTER + 1));
	return start(w, true);
}

/* The worker ended by itself. True with *CODE if that is the end. */
static bool take_exit(struct watch *w, int code, int *out)
{
	*out = code;
	if (code != OV_EXIT_RENEW || !w->renewing)
		return true;
	w->renewing = false;
	(void)w->s->died(w->s->arg, 0);
	if (!w->ending)
		w->s->renew(w->s->arg);
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
	default:
		w->ending = sig;
		(void)kill(w->pid, sig);
		break;
	}
}

int ov_supervise(const struct ov_supervised *s, bool again)
{
	struct watch w = {.s = s};
	int code = EXIT_FAILURE;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGUSR2);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	if (start(&w, again) < 0)
		return EXIT_FAILURE;
	s->running(s->arg);
	while (!reap(&w, &code)) {
		int sig = sigwaitinfo(&set, NULL);

		if (sig > 0 && sig != SIGCHLD)
			take_signal(&w, sig);
	}
	return code;
}
