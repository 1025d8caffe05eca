// SPDX-License-Identifier: GPL-2.0-or-later
#include "log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>
#include <time.h>

#define LINE_MAX_LEN 1024
#define PREFIX "fuse-overlay: "

static atomic_int current_level = OV_LOG_WARNING;

/* Where lines go; changed once, when the daemon goes to the background. */
static struct {
	pthread_mutex_t lock;
	bool syslog;
	char ident[64]; /* openlog() keeps the pointer */
	struct ov_log_limit limits[OV_LOG_DEBUG + 1]; /* of each level, so that warnings do not drown errors */
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
	memset(sink.limits, 0, sizeof(sink.limits)); /* what was written elsewhere does not count */
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

bool ov_log_limit(struct ov_log_limit *l, time_t now, unsigned long *dropped)
{
	*dropped = 0;
	if (now - l->window >= OV_LOG_LIMIT_SECONDS || l->lines == 0) {
		*dropped = l->dropped;
		l->window = now;
		l->lines = 0;
		l->dropped = 0;
	}
	if (l->lines < OV_LOG_LIMIT_LINES) {
		l->lines++;
		return true;
	}
	l->dropped++;
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

/* LINE begins with the prefix and has room for a newline. Lock held. */
static void put_line(enum ov_log_level level, char *line)
{
	size_t len;

	if (sink.syslog) {
		syslog(priority(level), "%s", line + sizeof(PREFIX) - 1);
		return;
	}
	/* One write a line, so that lines of several threads do not mix; nobody to tell if it fails. */
	len = strlen(line);
	line[len++] = '\n';
	len = (size_t)write(STDERR_FILENO, line, len);
}

/* Is there room for one more line of LEVEL? Tells of those that there was none for. Lock held. */
static bool within_limit(enum ov_log_level level)
{
	char line[128];
	struct timespec now = {0};
	unsigned long dropped;
	bool ok;

	if (ov_log_get_level() >= OV_LOG_DEBUG)
		return true; /* every step was asked for */
	clock_gettime(CLOCK_MONOTONIC, &now);
	ok = ov_log_limit(&sink.limits[level], now.tv_sec, &dropped);
	if (dropped) {
		snprintf(line, sizeof(line) - 1, PREFIX "%lu more lines like the last ones were left out", dropped);
		put_line(level, line);
	}
	return ok;
}

static void log_line(enum ov_log_level level, bool limited, const char *fmt, va_list ap)
{
	char line[LINE_MAX_LEN] = PREFIX;
	char *text = line + sizeof(PREFIX) - 1;
	size_t room = sizeof(line) - sizeof(PREFIX); /* one byte stays for the newline */
	int saved = errno;

	if (vsnprintf(text, room, fmt, ap) >= 0) {
		make_harmless(text);
		pthread_mutex_lock(&sink.lock);
		if (!limited || within_limit(level))
			put_line(level, line);
		pthread_mutex_unlock(&sink.lock);
	}
	errno = saved;
}

void ov_log(enum ov_log_level level, const char *fmt, ...)
{
	va_list ap;

	if (level > ov_log_get_level())
		return;
	va_start(ap, fmt);
	log_line(level, true, fmt, ap);
	va_end(ap);
}

void ov_log_asked(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	log_line(OV_LOG_WARNING, false, fmt, ap);
	va_end(ap);
}
