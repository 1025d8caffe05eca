/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "poller.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#define US 1000ull
#define QUICK_GAP (200 * US)    /* from an answer to the next request, sleep and waking included */
#define LONG_GAP (5000 * US)    /* a pause in the work */
#define QUICK_ENOUGH 4
#define QUICK_MAX 16
#define LOST_CORE (40 * US)     /* between two looks: somebody else had it */
#define PAUSE (20 * 1000 * US)
#define LOOK_INTERVAL (10 * 1000 * US)
#define TRIAL_ROUNDS 4          /* asleep, awake, asleep, awake */
#define TRIAL_LENGTH 150        /* requests a round */
#define KEEP 6000               /* requests until the next trial */

static uint64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

void ov_poller_init(struct ov_poller *p, int fd, unsigned microseconds)
{
	cpu_set_t set;

	*p = (struct ov_poller){.fd = fd, .load_fd = -1, .cpus = 1};
	if (sched_getaffinity(0, sizeof(set), &set) == 0)
		p->cpus = (unsigned)CPU_COUNT(&set);
	if (p->cpus < 2 || microseconds == 0)
		return;
	p->limit = microseconds * US;
	p->left = TRIAL_LENGTH;
	p->load_fd = open("/proc/loadavg", O_RDONLY | O_CLOEXEC);
}

void ov_poller_destroy(struct ov_poller *p)
{
	if (p->load_fd >= 0)
		close(p->load_fd);
	p->load_fd = -1;
}

/* More threads that want to run than cores? "0.20 0.18 0.12 1/80 11206": the fourth field begins with their number. */
static bool is_crowded(const struct ov_poller *p)
{
	unsigned running = 0;
	char text[128];
	ssize_t n;

	if (p->load_fd < 0)
		return false;
	n = pread(p->load_fd, text, sizeof(text) - 1, 0);
	if (n <= 0)
		return false;
	text[n] = '\0';
	return sscanf(text, "%*s %*s %*s %u/", &running) == 1 && running > p->cpus;
}

void ov_poller_wait(struct ov_poller *p)
{
	struct pollfd pfd = {.fd = p->fd, .events = POLLIN};
	uint64_t start, last, t;

	if (!p->awake || p->quick < QUICK_ENOUGH)
		return;
	start = last = now();
	if (start < p->pause)
		return;
	if (start >= p->look_again) {
		p->look_again = start + LOOK_INTERVAL;
		if (is_crowded(p)) {
			p->pause = start + PAUSE;
			return;
		}
	}
	while (poll(&pfd, 1, 0) == 0) {
		t = now();
		if (t - last > LOST_CORE) {
			p->pause = t + PAUSE;
			return;
		}
		if (t - start > p->limit) {
			p->quick /= 2;
			return;
		}
		last = t;
	}
}

/* A round of requests is over. Awake must be clearly faster: it costs the time of a core. */
static void next_round(struct ov_poller *p)
{
	if (p->round >= TRIAL_ROUNDS) { /* begin a new trial */
		p->round = 0;
		p->time[0] = p->time[1] = 0;
		p->n[0] = p->n[1] = 0;
	} else {
		p->round++;
	}
	p->left = TRIAL_LENGTH;
	p->awake = p->round & 1;
	if (p->round < TRIAL_ROUNDS)
		return;
	p->left = KEEP;
	p->awake = p->n[0] && p->n[1] && p->time[1] / p->n[1] * 100 < p->time[0] / p->n[0] * 93;
}

/* Count a request into the round, pauses of the clients left out. */
static void count(struct ov_poller *p, uint64_t t)
{
	uint64_t period = t - p->last;

	p->last = t;
	if (period < LONG_GAP) {
		p->time[p->awake] += period;
		p->n[p->awake]++;
	}
	if (--p->left == 0)
		next_round(p);
}

void ov_poller_read(struct ov_poller *p)
{
	uint64_t t, gap;

	if (!p->limit)
		return;
	t = now();
	count(p, t);
	gap = t - p->done;
	if (gap > LONG_GAP)
		p->quick = 0;
	else if (gap > QUICK_GAP)
		p->quick /= 2;
	else if (p->quick < QUICK_MAX)
		p->quick++;
}

void ov_poller_done(struct ov_poller *p)
{
	if (p->limit)
		p->done = now();
}
