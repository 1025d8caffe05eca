/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_UTIL_H
#define OV_UTIL_H

/* Cleanup attributes and the few helpers that every floor uses. */

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#define OV_UNUSED __attribute__((unused))
#define OV_PRINTF(fmt, first) __attribute__((format(printf, fmt, first)))
#define OV_ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* Close *FD unless it is negative, and keep errno: cleanup must not hide the error being returned. */
static inline void ov_close_p(const int *fd)
{
	if (*fd >= 0) {
		int saved = errno;

		close(*fd);
		errno = saved;
	}
}

/* Free the pointer that P points to, keeping errno. */
static inline void ov_free_p(void *p)
{
	int saved = errno;

	free(*(void **)p);
	errno = saved;
}

/* An fd closed, or memory freed, when the variable leaves its scope. */
#define ov_cleanup_fd __attribute__((cleanup(ov_close_p)))
#define ov_cleanup_free __attribute__((cleanup(ov_free_p)))

/* Hand an fd or pointer out of a cleanup variable. */
static inline int ov_steal_fd(int *fd)
{
	int r = *fd;

	*fd = -1;
	return r;
}

#define ov_steal_ptr(p)                       \
	({                                    \
		__typeof__(p) ov_stolen_ = (p); \
		(p) = NULL;                   \
		ov_stolen_;                   \
	})

/* What a daemon is told by signals: to end, to print its statistics, to renew its program. All its processes block these. */
static inline void ov_daemon_signals(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGTERM);
	sigaddset(set, SIGINT);
	sigaddset(set, SIGHUP);
	sigaddset(set, SIGUSR1);
	sigaddset(set, SIGUSR2);
}

#endif
