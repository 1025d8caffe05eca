/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_LOG_H
#define OV_LOG_H

#include "util.h"

/* Severity, most severe first; lines above the current level are dropped. */
enum ov_log_level { OV_LOG_ERROR, OV_LOG_WARNING, OV_LOG_INFO, OV_LOG_DEBUG };

/* Set the level up to which lines are written (default OV_LOG_WARNING). The only global mutable state there is. */
void ov_log_set_level(enum ov_log_level level);
enum ov_log_level ov_log_get_level(void);

/*
 * Choose where lines go: false = stderr (start-up, -f), true = syslog (background).
 * Lines to syslog are rate-limited: repeated floods become one "N lines dropped".
 */
void ov_log_to_syslog(bool on, const char *ident);

/* Write one line "fuse-overlay: <text>". FMT carries no newline. Thread-safe; keeps errno. */
void ov_log(enum ov_log_level level, const char *fmt, ...) OV_PRINTF(2, 3);

/* Let go of the connection to syslog, whose fd must not be known to two processes; the next line makes it again. */
void ov_log_release(void);

#define ov_error(...) ov_log(OV_LOG_ERROR, __VA_ARGS__)
#define ov_warn(...) ov_log(OV_LOG_WARNING, __VA_ARGS__)
#define ov_info(...) ov_log(OV_LOG_INFO, __VA_ARGS__)
#define ov_debug(...)                                         \
	do {                                                  \
		if (ov_log_get_level() >= OV_LOG_DEBUG)       \
			ov_log(OV_LOG_DEBUG, __VA_ARGS__);    \
	} while (0)

#endif
