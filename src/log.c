// SPDX-License-Identifier: GPL-2.0-or-later
#include "log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>
#include <time.h>

/* To syslog go at most LIMIT_LINES lines in LIMIT_SECONDS. */
#define LIMIT_LINES 20
#define LIMIT_SECONDS 5

#define LINE_MAX_LEN 1024
#define PREFIX "fuse-overlay: "

static atomic_int current_level = OV_LOG_WARNING;

/* Where lines go; changed once, when the daemon goes to the background. */
static struct {
	pthread_mutex_t lock;
	bool syslog;
	char ident[64]; /* openlog() keeps the pointer */
	time_t window; /* when the current window of the rate limit began */
	unsigned lines; /* lines let through in it */
	unsigned long dropped;
} sink = {.lock = PTHREAD_MUTEX_INITIALIZER};

void ov_log_set_level(enum ov_log_level level)
{
	atomic_store_explicit(&current_level, (int)level, memory_order_relaxed);
}

enum ov_log_level ov_log_get_level(void)
{
	return (enum ov_log_level)atomic_load_explicit(&current_level, memory_order_relaxed);
}

void ov_log_to_syslog(bool on, const char *ident)
{
	int saved = errno;

	pthread_mutex_lock(&sink.lock);
	if (sink.syslog)
		closelog();
	sink.syslog = on;
	if (on) {
		snprintf(sink.ident, sizeof(sink.ident), "%s", ident ? ident : "fuse-overlay");
		openlog(sink.ident, LOG_PID, LOG_DAEMON);
	}
	pthread_mutex_unlock(&sink.lock);
	errno = saved;
}

void ov_log_release(void)
{
	pthread_mutex_lock(&sink.lock);
	if (sink.syslog)
		closelog();
	pthread_mutex_unlock(&sink.lock);
}

static int priority(enum ov_log_level level)
{
	switch (level) {
	case OV_LOG_ERROR:
		return LOG_ERR;
	case OV_LOG_WARNING:
		return LOG_WARNING;
	case OV_LOG_INFO:
		return LOG_INFO;
	case OV_LOG_DEBUG:
		break;
	}
	return LOG_DEBUG;
}

/* Is there room in this window for one more line? Tells of what was dropped in the one before. Lock held. */
static bool within_limit(void)
{
	struct timespec now = {0};

	clock_gettime(CLOCK_MONOTONIC, &now);
	if (now.tv_sec - sink.window >= LIMIT_SECONDS) {
		if (sink.dropped)
			syslog(LOG_WARNING, "%lu lines dropped", sink.dropped);
		sink.window = now.tv_sec;
		sink.lines = 0;
		sink.dropped = 0;
	}
	if (sink.lines < LIMIT_LINES) {
		sink.lines++;
		return true;
	}
	sink.dropped++;
	return false;
}

/* Names come from the layers: a newline or an escape sequence in one must not forge a line or drive a terminal. */
static void make_harmless(char *s)
{
	for (; *s; s++) {
		if ((unsigned char)*s < ' ' || *s == 0x7f)
			*s = '?';
	}
}

void ov_log(enum ov_log_level level, const char *fmt, ...)
{
	char line[LINE_MAX_LEN] = PREFIX;
	char *text = line + sizeof(PREFIX) - 1;
	size_t room = sizeof(line) - sizeof(PREFIX); /* one byte stays for the newline */
	int saved = errno, n;
	size_t len;
	va_list ap;

	if (level > ov_log_get_level())
		return;
	va_start(ap, fmt);
	n = vsnprintf(text, room, fmt, ap);
	va_end(ap);
	if (n >= 0) {
		make_harmless(text);
		pthread_mutex_lock(&sink.lock);
		if (!sink.syslog) {
			/* One write a line, so that lines of several threads do not mix; nobody to tell if it fails. */
			len = strlen(line);
			line[len++] = '\n';
			if (write(STDERR_FILENO, line, len) < 0)
				sink.dropped++;
		} else if (within_limit()) {
			syslog(priority(level), "%s", text);
		}
		pthread_mutex_unlock(&sink.lock);
	}
	errno = saved;
}
