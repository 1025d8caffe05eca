/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "renew.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#include "log.h"
#include "stats.h"

#define ENV_OVERLAY "FUSE_OVERLAY_HANDOVER"
#define ENV_SESSION "FUSE_OVERLAY_HANDOVER_SESSION"
#define HANDOVER_MAX 65536
#define ASK_TRIES 200 /* to see whether it is done, */
#define ASK_PAUSE_MS 50 /* with such a pause in between */

struct ov_handover ov_handover_get(void)
{
	struct ov_handover h = {.overlay = getenv(ENV_OVERLAY), .session = getenv(ENV_SESSION)};

	if (!h.overlay || !h.session)
		return (struct ov_handover){0};
	h.overlay = strdup(h.overlay);
	h.session = strdup(h.session);
	(void)unsetenv(ENV_OVERLAY); /* not for what this process executes */
	(void)unsetenv(ENV_SESSION);
	return h;
}

void ov_renew_program(char *buf, size_t size)
{
	ssize_t n = readlink("/proc/self/exe", buf, size - 1);

	buf[n < 0 ? 0 : n] = '\0';
}

/* The first line of what "PROGRAM --state-version" prints. 0 or -errno. */
static int ask_version(const char *program, char *buf, size_t size)
{
	int fds[2], status;
	ssize_t n;
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC) < 0)
		return -errno;
	pid = fork();
	if (pid == 0) {
		(void)dup2(fds[1], 1);
		execl(program, program, "--state-version", (char *)NULL);
		_exit(127);
	}
	close(fds[1]);
	do
		n = pid < 0 ? -1 : read(fds[0], buf, size - 1);
	while (n < 0 && errno == EINTR && pid > 0);
	close(fds[0]);
	buf[n < 0 ? 0 : n] = '\0';
	if (pid < 0)
		return -EAGAIN;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -ENOEXEC;
}

bool ov_renew_check(const char *program)
{
	char text[32];
	int r = program[0] ? ask_version(program, text, sizeof(text)) : -ENOENT;

	if (r < 0)
		ov_error("not upgraded: '%s' cannot be executed: %s", program, strerror(-r));
	else if (strtoul(text, NULL, 10) != OV_LEDGER_VERSION)
		ov_error("not upgraded: '%s' keeps its state in another form: unmount and mount to use it", program);
	else
		return true;
	ov_log_release();
	return false;
}

void ov_renew(const char *program, char **argv, struct overlay *ov, struct ov_session *s)
{
	ov_cleanup_free char *a = malloc(HANDOVER_MAX), *b = malloc(HANDOVER_MAX);
	int r = a && b ? ov_hand_over(ov, a, HANDOVER_MAX) : -ENOMEM;

	if (r == 0)
		r = ov_session_hand_over(s, b, HANDOVER_MAX);
	if (r == 0 && (setenv(ENV_OVERLAY, a, 1) < 0 || setenv(ENV_SESSION, b, 1) < 0))
		r = -ENOMEM;
	if (r == 0) {
		ov_log_release();
		execv(program, argv);
		r = -errno;
	}
	ov_error("going on with the old program: '%s' cannot take over: %s", program, strerror(-r));
}

/* The count of programs that have taken over the mount. -errno. */
static int renewals(const char *mountpoint)
{
	char text[8192];
	ssize_t n = getxattr(mountpoint, OV_STATS_XATTR, text, sizeof(text) - 1);
	const char *line;

	if (n < 0)
		return -errno;
	text[n] = '\0';
	line = strstr(text, "\nrenewals ");
	return line ? atoi(line + strlen("\nrenewals ")) : -ENODATA;
}

int ov_renew_ask(const char *mountpoint)
{
	int before = renewals(mountpoint);

	if (before < 0) {
		ov_error("'%s' is no mount of ours, or not yours: give its mountpoint, as root or as who mounted it", mountpoint);
		return before;
	}
	if (setxattr(mountpoint, OV_UPGRADE_XATTR, "1", 1, 0) < 0) {
		int err = errno;

		ov_error("'%s' cannot be upgraded: %s", mountpoint,
			 err == EOPNOTSUPP ? "it has no supervisor" : strerror(err));
		return -err;
	}
	for (int n = 0; n < ASK_TRIES; n++) {
		if (renewals(mountpoint) > before)
			return 0;
		(void)poll(NULL, 0, ASK_PAUSE_MS);
	}
	ov_error("'%s' was not upgraded: the daemon's log says why", mountpoint);
	return -ETIMEDOUT;
}
