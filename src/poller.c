/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "poller.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "log.h"

#define US 1000ull
#define QUICK_GAP (200 * US)    /* from an answer to the next request, sleep and waking included */
#define LONG_GAP (5000 * US)    /* a pause in the work */
#define FAR_GAP (10 * US)       /* if no other CPU had to be woken, the client did something else meanwhile */
#define FAR_PAUSE (1000 * US)   /* it certainly did */
#define QUICK_ENOUGH 4
#define QUICK_MAX 16
#define LOST_CORE (40 * US)     /* between two looks: somebody else had it */
#define PAUSE (20 * 1000 * US)
#define LOOK_INTERVAL (10 * 1000 * US)
#define TRIAL_ROUNDS (2 * OV_WAIT_WAYS)
#define TRIAL_LENGTH 50         /* requests a round */
#define TRIAL_SLOW (300 * US)   /* a request that takes longer says nothing of how it was waited for */
#define KEEP 8000u              /* requests until the next trial, if the last one has chosen something new */
#define KEEP_MAX 500000u
#define PATIENCE 2
#define PATIENCE_NEAR 8         /* so much, where clients only do something else between their requests */
#define PATIENCE_MAX 1024
#define CHECK 1024u             /* requests in which no more than so many moves pay */
#define CHECK_MOVES 200u
#define LEFT 32u                /* a client that left weighs as much as so many requests of one that stayed */
#define LEAVING (5 * LEFT)      /* and with so much of that, replies are posted, */
#define LEAVING_MAX (16 * LEAVING) /* or where that did not pay, with so much */
#define POST_MIN (100000 * US)  /* for so long: over such times the scheduler takes its averages (PELT) */
#define POST_MAX (3200000 * US)
#define PACE 256                /* requests */
#define PACE_MAX (100 * US)     /* what is above does not come from how it is waited for */
#define JUDGE 128
#define STAYED 4000u            /* requests after which those before do not matter any more */
#define COMPANY 64              /* requests */

static const char *const names[OV_WAIT_WAYS] = {"on the client's CPU", "asleep", "awake"};

uint64_t ov_poller_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

static bool can(const struct ov_poller *p, enum ov_wait way)
{
	return p->ways & 1u << way;
}

/*
 * Asleep is what near comes to where it does nothing: it is tried only where near is not to be had. And where the client's CPU
 * has been gone to because it was far, there is nothing to try: for a while any way would be as fast as being near, which lasts
 * over the trial and no longer.
 */
static bool is_tried(const struct ov_poller *p, unsigned way)
{
	if (can(p, OV_WAIT_NEAR))
		return way == OV_WAIT_NEAR || (way == OV_WAIT_AWAKE && can(p, OV_WAIT_AWAKE) && !p->followed);
	return can(p, (enum ov_wait)way);
}

static void begin_round(struct ov_poller *p, unsigned round)
{
	while (round < TRIAL_ROUNDS && !is_tried(p, round % OV_WAIT_WAYS))
		round++;
	p->round = round;
	p->left = TRIAL_LENGTH;
	if (round < TRIAL_ROUNDS)
		p->way = (enum ov_wait)(round % OV_WAIT_WAYS);
}

static void begin_trial(struct ov_poller *p)
{
	for (unsigned way = 0; way < OV_WAIT_WAYS; way++) {
		p->time[way] = 0;
		p->n[way] = 0;
	}
	begin_round(p, 0);
}

void ov_poller_init(struct ov_poller *p, int fd, unsigned microseconds, bool follow)
{
	cpu_set_t set;

	*p = (struct ov_poller){.fd = fd, .load_fd = -1, .cpus = 1, .ways = 1u << OV_WAIT_ASLEEP, .way = OV_WAIT_ASLEEP,
				.chosen = OV_WAIT_WAYS, .patience = PATIENCE, .check = CHECK, .away_next = KEEP, .stayed = STAYED, .bear = LEAVING};
	if (sched_getaffinity(0, sizeof(set), &set) == 0)
		p->cpus = (unsigned)CPU_COUNT(&set);
	if (p->cpus < 2)
		return;
	if (follow)
		p->ways |= 1u << OV_WAIT_NEAR;
	if (microseconds) {
		p->ways |= 1u << OV_WAIT_AWAKE;
		p->limit = microseconds * US;
		p->load_fd = open("/proc/loadavg", O_RDONLY | O_CLOEXEC);
	}
	begin_trial(p);
}

void ov_poller_may_post(struct ov_poller *p)
{
	p->can_post = true;
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

	if (p->way != OV_WAIT_AWAKE || p->quick < QUICK_ENOUGH || ov_poller_is_shared(p))
		return;
	start = last = ov_poller_now();
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
		t = ov_poller_now();
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

/* 0: there were none. */
static unsigned mean(uint64_t time, unsigned n)
{
	return n ? (unsigned)(time / n) : 0;
}

static void choose(struct ov_poller *p, enum ov_wait way)
{
	if (way != p->chosen)
		p->keep = KEEP;
	else if (p->keep < KEEP_MAX)
		p->keep *= 2;
	p->way = p->chosen = way;
	p->round = TRIAL_ROUNDS;
	p->left = p->keep;
}

/* The trial is over. Awake must be clearly faster: it costs the time of a core. */
static void decide(struct ov_poller *p)
{
	enum ov_wait best = can(p, OV_WAIT_NEAR) ? OV_WAIT_NEAR : OV_WAIT_ASLEEP;
	unsigned other = mean(p->time[best], p->n[best]), awake = mean(p->time[OV_WAIT_AWAKE], p->n[OV_WAIT_AWAKE]);

	if (awake && other && awake / 93 < other / 100)
		best = OV_WAIT_AWAKE;
	ov_debug("waiting for requests %s: awake %u ns, else %u ns each", names[best], awake, other);
	choose(p, best);
}

static void next_round(struct ov_poller *p)
{
	if (p->round >= TRIAL_ROUNDS) {
		begin_trial(p);
		return;
	}
	p->ask |= !p->followed && p->way == OV_WAIT_NEAR && p->round == OV_WAIT_NEAR;
	begin_round(p, p->round + 1);
	if (p->round >= TRIAL_ROUNDS)
		decide(p);
}

/* Count a request into the round, pauses of the clients left out. */
static void count(struct ov_poller *p, uint64_t t)
{
	uint64_t period = t - p->last;

	p->last = t;
	if (period < LONG_GAP) {
		p->time[p->way] += period < TRIAL_SLOW ? period : TRIAL_SLOW;
		p->n[p->way]++;
	}
	if (--p->left == 0)
		next_round(p);
}

/* How long it took from when the last request had been served, whose reply was perhaps still to be posted. */
static void note_pace(struct ov_poller *p, uint64_t t)
{
	uint64_t pace = t - p->served;

	if (pace > PACE_MAX)
		pace = PACE_MAX;
	if (p->posts) {
		p->posting += pace;
		return;
	}
	p->paced += p->paced < PACE;
	p->pace = p->pace + pace / p->paced - p->pace / p->paced;
}

/* Where clients do not stay on their CPUs, to move after them all the time is slower than to stay away. */
static void check_moves(struct ov_poller *p)
{
	if (--p->check > 0)
		return;
	p->check = CHECK;
	if (p->moves > CHECK_MOVES) {
		ov_debug("clients do not stay on their CPUs: %u moves in %u requests", p->moves, CHECK);
		p->ways &= ~(1u << OV_WAIT_NEAR);
		p->followed = false;
		p->away = p->away_next;
		if (p->away_next < KEEP_MAX)
			p->away_next *= 2;
		begin_trial(p);
	}
	p->moves = 0;
}

/*
 * The scheduler leaves clients where they are if the CPUs have been busy, which two that wait for each other's CPU to wake up
 * do not look. So they leave on and on, until replies have been posted for a while; from then on they may stay without.
 */
static void begin_posting(struct ov_poller *p)
{
	if (p->stayed >= STAYED)
		p->post_for = POST_MIN;
	else if (p->post_for < POST_MAX)
		p->post_for *= 2;
	p->posts = true;
	p->judge = JUDGE;
	p->posting = 0;
	p->post_until = p->last + p->post_for;
	ov_debug("clients leave: another thread sends the replies for %llu ms", p->post_for / 1000 / US);
}

static void end_posting(struct ov_poller *p)
{
	p->posts = false;
	p->stayed = p->leaving = 0;
	p->patience = PATIENCE;
}

/* Those that leave only now and then cost less than posting, where to switch between threads takes long. */
static bool pays(struct ov_poller *p)
{
	if (p->judge == 0 || --p->judge > 0)
		return true;
	if (p->posting / JUDGE < p->pace) {
		p->bear = LEAVING;
		return true;
	}
	if (p->bear < LEAVING_MAX)
		p->bear *= 2;
	ov_debug("posting does not pay: %llu ns a request, without %llu ns", (unsigned long long)p->posting / JUDGE,
		 (unsigned long long)p->pace);
	return false;
}

static void count_posting(struct ov_poller *p)
{
	if (p->posts) {
		if (p->last >= p->post_until || !pays(p))
			end_posting(p);
		return;
	}
	p->stayed += p->stayed < STAYED;
	p->leaving -= p->leaving > 0;
}

static void client_left(struct ov_poller *p)
{
	p->moves++;
	p->patience = PATIENCE;
	if (!p->followed) {
		p->followed = true;
		choose(p, OV_WAIT_NEAR);
	}
	if (!p->can_post || p->posts)
		return;
	p->leaving += LEFT;
	if (p->leaving >= p->bear)
		begin_posting(p);
}

/* After a while they may. */
static void count_away(struct ov_poller *p)
{
	if (p->away == 0 || --p->away > 0)
		return;
	p->ways |= 1u << OV_WAIT_NEAR;
	begin_trial(p);
}

void ov_poller_read(struct ov_poller *p, uint64_t t, bool kernel)
{
	uint64_t gap = t > p->done ? t - p->done : 0;

	if (p->company) {
		p->company--;
		p->last = t;
		return;
	}
	if (p->ways == 1u << OV_WAIT_ASLEEP)
		return;
	count(p, t);
	count_away(p);
	if (gap > LONG_GAP)
		p->quick = 0;
	else if (gap > QUICK_GAP)
		p->quick /= 2;
	else if (p->quick < QUICK_MAX)
		p->quick++;
	if (!ov_poller_is_near(p) || kernel || gap > FAR_PAUSE)
		return;
	check_moves(p);
	note_pace(p, t);
	count_posting(p);
	if (gap > FAR_GAP)
		p->far++;
	else if (p->far)
		p->far--;
}

void ov_poller_done(struct ov_poller *p, uint64_t t)
{
	p->done = p->served = t;
}

void ov_poller_sent(struct ov_poller *p, uint64_t t)
{
	if (t > p->done)
		p->done = t;
}

void ov_poller_note_company(struct ov_poller *p, bool beside)
{
	p->company = COMPANY;
	p->shares = beside;
}

bool ov_poller_is_far(const struct ov_poller *p)
{
	return ov_poller_is_near(p) && p->far >= p->patience;
}

bool ov_poller_asks(const struct ov_poller *p)
{
	return p->company == 0 && (p->ask || ov_poller_is_far(p));
}

void ov_poller_looked(struct ov_poller *p, enum ov_looked found)
{
	bool asked = p->ask;

	p->ask = false;
	p->far = 0;
	switch (found) {
	case OV_LOOKED_MOVED:
		client_left(p);
		break;
	case OV_LOOKED_WAS_NEAR:
		if (asked && p->round < TRIAL_ROUNDS)
			choose(p, OV_WAIT_NEAR);
		/* else it does something else between its requests */
		if (!asked && p->patience < PATIENCE_NEAR)
			p->patience *= 2;
		break;
	case OV_LOOKED_APART:
		break;
	case OV_LOOKED_IN_VAIN:
		if (p->patience < PATIENCE_MAX)
			p->patience *= 8;
	}
}
