/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_SUPERVISOR_H
#define OV_SUPERVISOR_H

/*
 * Two processes for a mount: a small one that has set everything up and waits, and a worker, its child, that does the work.
 * They share one table of file descriptors, so that whatever becomes of the worker, the connection to the kernel and every
 * open file are still there, and a new worker goes on with them.
 */

#include <stdbool.h>

/* Exit status of a worker that was asked by SIGUSR2 to make room for another program. */
#define OV_EXIT_RENEW 75
/* Exit status of a worker that could not begin where the last one ended, for want of memory say: another one shall try. */
#define OV_EXIT_AGAIN 76

struct ov_supervised {
	void *arg;
	/* In the worker: serve until the end. AGAIN: after another worker has died. Its result is the worker's exit status. */
	int (*work)(void *arg, bool again);
	/* In the supervisor: the worker has died of SIGNAL. False: it had not done anything since the last one died. */
	bool (*died)(void *arg, int signal);
	/*
	 * In the supervisor, from SIGALRM of the worker on and as long as it is true: a thread of the worker may be in the kernel
	 * where it cannot be killed before somebody serves. So whether the worker lives is looked at now and then.
	 */
	bool (*watch)(void *arg);
	/* In the supervisor: the first worker runs. */
	void (*running)(void *arg);
	/* In the supervisor: SIGUSR2 asks to go on with a new program. The worker has ended. Returns if that is not possible. */
	void (*renew)(void *arg);
	/* In the supervisor, before it asks the worker to end for that: is there a program to go on with? */
	bool (*can_renew)(void *arg);
};

/*
 * Run workers until one ends by itself, and return its exit status. Signals that end the worker, and SIGUSR1, are passed on
 * to it; they must be blocked. AGAIN: the first worker goes on after one of another program. A status other than 0 after a
 * line was logged if workers die without getting anywhere. -errno if not even the first one can be started.
 */
int ov_supervise(const struct ov_supervised *s, bool again);

#endif
