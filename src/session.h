/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_SESSION_H
#define OV_SESSION_H

/* One mount and its request loop. */

#include "overlay.h"
#include "params.h"

struct ov_session;

/*
 * Mount OV as P says. On failure one line has been logged. The session borrows OV and P, which must outlive it. 0 or -errno.
 */
int ov_session_mount(struct ov_session **out, struct overlay *ov, const struct ov_params *p);

/* Start the threads and wait until the kernel's INIT was answered: from then on the mount works. 0 or -errno. */
int ov_session_start(struct ov_session *s);

/*
 * Serve until the mount is gone or SIGTERM, SIGINT or SIGHUP arrives (they must be blocked in every thread); then unmount,
 * with everything written back. 0, or -errno if it could not end cleanly.
 */
int ov_session_serve(struct ov_session *s);

/* Unmount if still mounted, end the threads, free. */
void ov_session_free(struct ov_session *s);

#endif
