/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_LOG_H
#define OV_LOG_H

#include <time.h>

#include "util.h"

/* Severity, most severe first; lines above the current level are dropped. */
enum ov_log_level { OV_LOG_ERROR, OV_LOG_WARNING, OV_LOG_INFO, OV_LOG_DEBUG };

/* Set the level up to which lines are written (default OV_LOG_WARNING). The only global mutable state there is. */
void ov_log_set_level(enum ov_log_level level);
enum ov_log_level ov_log_get_level(void);

/* Choose where lines go: false = stderr (start-up, -f), true = syslog (background). */
void ov_log_to_syslog(bool on, const char *ident);

/*
 * Write one line "fuse-overlay: <text>". FMT carries no newline. Thread-safe; keeps errno. A fault that repeats must not fill
 * the disk: unless the level is OV_LOG_DEBUG only so many lines of a level are written in so many seconds, and then how many
 * were not.
 */
void ov_log(enum ov_log_level level, const char *fmt, ...) OV_PRINTF(2, 3);

/* Let go of the connection to syslog, whose fd must not be known to two processes; the next line makes it again. */
void ov_log_release(void);

/* A line that somebody asked for: at any level, and not limited. */
void ov_log_asked(const char *fmt, ...) OV_PRINTF(1, 2);

#define OV_LOG_LIMIT_LINES 30
#define OV_LOG_LIMIT_SECONDS 5

/* One rate limit; all zero to begin with. */
struct ov_log_limit {
	time_t window;         /* when its current time began */
	unsigned lines;        /* let through in it */
	unsigned long dropped; /* and not */
};

/* May one more line be written at NOW (seconds)? *DROPPED: so many were not before; to be told first. */
bool ov_log_limit(struct ov_log_limit *l, time_t now, unsigned long *dropped);

#define ov_error(...) ov_log(OV_LOG_ERROR, __VA_ARGS__)
#define ov_warn(...) ov_log(OV_LOG_WARNING, __VA_ARGS__)
#define ov_info(...) ov_log(OV_LOG_INFO, __VA_ARGS__)
#define ov_debug(...)                                         \
	do {                                                  \
		if (ov_log_get_level() >= OV_LOG_DEBUG)       \
			ov_log(OV_LOG_DEBUG, __VA_ARGS__);    \
	} while (0)

#endif
