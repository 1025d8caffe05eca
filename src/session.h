/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_SESSION_H
#define OV_SESSION_H

/* One mount and its request loop. */

#include "overlay.h"
#include "params.h"

struct ov_session;

/*
 * Mount OV as P says and answer the kernel's INIT: requests wait from then on. On failure one line has been logged. The session
 * borrows OV and P, which must outlive it. 0 or -errno.
 */
int ov_session_mount(struct ov_session **out, struct overlay *ov, const struct ov_params *p);

/* Can another process go on with what this session is? The rings of io_uring end with the one that has made them. */
bool ov_session_is_replaceable(const struct ov_session *s);

/*
 * This process is the supervisor: the fds that are open now, but for EXCEPT, are those that a worker starts with. 0 or
 * -errno.
 */
int ov_session_keep_fds(struct ov_session *s, int except);
/* There is no supervisor after all. */
void ov_session_forget_supervisor(struct ov_session *s);

/*
 * For a program that shall go on with the mount: what it needs beside ov_hand_over(), as text into BUF. The fd of the
 * connection is inheritable from now on. 0 or -errno.
 */
int ov_session_hand_over(struct ov_session *s, char *buf, size_t size);

/* As ov_session_mount(), in that program. */
int ov_session_take(struct ov_session **out, struct overlay *ov, const struct ov_params *p, const char *handover);

/*
 * Start the threads that serve the requests. AGAIN: in a process that goes on after another one, which served this session, has
 * died (ov_session_bury() was told); requests that it left unanswered are given to us again. 0 or -errno, logged.
 */
int ov_session_start(struct ov_session *s, bool again);

/*
 * In the process that mounted: the one that served it, with the same fds, has died of SIGNAL (0: it just ended). Notes at what
 * requests, so that one which is the death of every worker is refused in the end. True if the worker had done anything.
 */
bool ov_session_bury(struct ov_session *s, int signal);

/* Is a thread of the worker waiting for requests of its own making, so that it cannot die before somebody serves them? */
bool ov_session_is_flushing(const struct ov_session *s);

/*
 * Serve until the mount is gone or SIGTERM, SIGINT or SIGHUP arrives (they must be blocked in every thread); then unmount,
 * with everything written back. 0, or -errno if it could not end cleanly. With a supervisor also until SIGUSR2:
 * OV_SESSION_RENEW, and nothing is being served any more.
 */
#define OV_SESSION_RENEW 1
int ov_session_serve(struct ov_session *s);

/* Unmount if still mounted, end the threads, free. */
void ov_session_free(struct ov_session *s);

#endif
