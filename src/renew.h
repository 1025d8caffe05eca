/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_RENEW_H
#define OV_RENEW_H

/*
 * Exchanging the program under a live mount: the supervisor executes the program of the path that it was started from
 * itself, and the new one goes on with its fds. Processes in the mount notice a pause.
 */

#include <stdbool.h>
#include <stddef.h>

#include "session.h"

/* What the program before left word of, in the environment. NULLs: it was started as usual. */
struct ov_handover {
	char *overlay; /* for ov_open_handed_over(); owned */
	char *session; /* for ov_session_take(); owned */
};
struct ov_handover ov_handover_get(void);

/* The path of the running program, as it was when the process started, into BUF; "" if it cannot be told. */
void ov_renew_program(char *buf, size_t size);

/* Can PROGRAM go on with what we leave? If not, the reason is logged. */
bool ov_renew_check(const char *program);

/* Execute PROGRAM with ARGV; no worker runs. Returns only on failure, which is logged. */
void ov_renew(const char *program, char **argv, struct overlay *ov, struct ov_session *s);

/*
 * fuse-overlay --upgrade: ask the daemon that serves MOUNTPOINT, and wait until it is done. 0, or -errno after a line on
 * stderr.
 */
int ov_renew_ask(const char *mountpoint);

#endif
