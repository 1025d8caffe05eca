/* SPDX-License-Identifier: GPL-2.0-or-later */
/* How the next request is waited for, and by which thread on which CPU; what is told unasked. Times are made up. */

#include <check.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../src/company.h"
#include "../../src/crossing.h"
#include "../../src/leader.h"
#include "../../src/ledger.h"
#include "../../src/notify.h"
#include "../../src/poller.h"
#include "../../src/poster.h"

Suite *waiting_suite(void);

/* ---- the poller ---- */

#define US 1000ull

/* A machine, and a client of which nothing is known but that it sends requests. */
struct machine {
	struct ov_poller p;
	uint64_t now;
	uint64_t near, apart, awake; /* from an answer to the next request */
	bool here;                   /* the client is on the daemon's CPU */
	bool flees;                  /* as soon as the daemon has come there */
	bool leaves;                 /* with each reply that is not posted */
	uint64_t dear;               /* what posting one takes */
	bool reachable;
	unsigned asked;
};

static bool has_cores(const struct machine *m)
{
	return m->p.cpus > 1;
}

static void begin(struct machine *m, unsigned poll, bool follow)
{
	m->now = 1000000 * US;
	ov_poller_init(&m->p, -1, poll, follow);
}

static void answer_question(struct machine *m)
{
	bool far = ov_poller_is_far(&m->p);

	m->asked++;
	if (m->here) {
		ov_poller_looked(&m->p, OV_LOOKED_WAS_NEAR);
	} else if (!far) {
		ov_poller_looked(&m->p, OV_LOOKED_APART);
	} else if (!m->reachable) {
		ov_poller_looked(&m->p, OV_LOOKED_IN_VAIN);
	} else {
		m->here = !m->flees;
		ov_poller_looked(&m->p, OV_LOOKED_MOVED);
	}
}

static void requests(struct machine *m, unsigned n)
{
	while (n--) {
		bool posts = ov_poller_posts(&m->p);

		m->now += m->p.way == OV_WAIT_AWAKE ? m->awake : m->here ? m->near : m->apart;
		m->now += posts ? m->dear : 0;
		m->here &= posts || !m->leaves;
		ov_poller_read(&m->p, m->now, false);
		m->now += 3 * US;
		ov_poller_done(&m->p, m->now);
		if (ov_poller_asks(&m->p))
			answer_question(m);
	}
}

START_TEST(test_goes_to_a_client_that_is_far)
{
	struct machine m = {.near = 4 * US, .apart = 40 * US, .awake = 20 * US, .reachable = true};

	begin(&m, 50, true);
	if (!has_cores(&m))
		return;
	requests(&m, 10);
	ck_assert(m.here);
	ck_assert_uint_eq(m.asked, 1);
	requests(&m, 100000);
	ck_assert(ov_poller_is_near(&m.p));
	ck_assert_uint_eq(m.asked, 1);
	m.here = false; /* it has been moved */
	requests(&m, 10);
	ck_assert(m.here);
	ov_poller_destroy(&m.p);
}
END_TEST

START_TEST(test_stays_where_the_client_is)
{
	struct machine m = {.near = 4 * US, .apart = 40 * US, .awake = 3 * US, .here = true};

	begin(&m, 50, true);
	if (!has_cores(&m))
		return;
	requests(&m, 1000); /* awake would have been tried, and would have seemed to be faster */
	ck_assert(ov_poller_is_near(&m.p));
	ck_assert_uint_eq(m.asked, 1);
	ov_poller_destroy(&m.p);
}
END_TEST

START_TEST(test_does_not_look_all_the_time)
{
	struct machine m = {.near = 60 * US, .apart = 100 * US, .awake = 60 * US, .here = true};

	begin(&m, 0, true);
	if (!has_cores(&m))
		return;
	requests(&m, 20000); /* of a client that does something else in between */
	ck_assert_uint_ge(m.asked, 2);
	ck_assert_uint_le(m.asked, 20000 / 8 + 40);
	m.here = false;
	m.reachable = false;
	m.asked = 0;
	requests(&m, 20000);
	ck_assert_uint_le(m.asked, 40);
	ov_poller_destroy(&m.p);
}
END_TEST

START_TEST(test_gives_up_after_clients_that_flee)
{
	struct machine m = {.near = 4 * US, .apart = 40 * US, .awake = 50 * US, .flees = true, .reachable = true};

	begin(&m, 50, true);
	if (!has_cores(&m))
		return;
	requests(&m, 3000);
	ck_assert(!ov_poller_is_near(&m.p));
	ck_assert(m.p.way == OV_WAIT_ASLEEP);
	m.asked = 0;
	requests(&m, 4000);
	ck_assert_uint_eq(m.asked, 0);
	m.flees = false;
	requests(&m, 8000); /* tries again */
	ck_assert(ov_poller_is_near(&m.p));
	ck_assert(m.here);
	ov_poller_destroy(&m.p);
}
END_TEST

/* How many of the next N replies are posted. */
static unsigned posted_of(struct machine *m, unsigned n)
{
	unsigned posted = 0;

	while (n--) {
		requests(m, 1);
		posted += ov_poller_posts(&m->p);
	}
	return posted;
}

START_TEST(test_posts_replies_where_clients_leave)
{
	struct machine m = {.near = 4 * US, .apart = 40 * US, .awake = 50 * US, .dear = 3 * US, .leaves = true, .reachable = true};

	begin(&m, 50, true);
	if (!has_cores(&m))
		return;
	requests(&m, 1000);
	ck_assert(!ov_poller_posts(&m.p)); /* nobody said that it can be done */
	ov_poller_destroy(&m.p);

	begin(&m, 50, true);
	ov_poller_may_post(&m.p);
	requests(&m, 1000);
	ck_assert(ov_poller_posts(&m.p));
	ck_assert(m.here);
	ov_poller_note_company(&m.p, true);
	ck_assert(!ov_poller_posts(&m.p));
	ck_assert_uint_gt(posted_of(&m, 1000000), 990000); /* it is seldom looked whether they still leave */
	ov_poller_destroy(&m.p);
}
END_TEST

START_TEST(test_sends_replies_itself_where_clients_stay)
{
	struct machine m = {.near = 4 * US, .apart = 40 * US, .awake = 50 * US, .dear = 3 * US, .reachable = true};

	begin(&m, 50, true);
	if (!has_cores(&m))
		return;
	ov_poller_may_post(&m.p);
	requests(&m, 1000);
	ck_assert(ov_poller_is_near(&m.p));
	ck_assert(!ov_poller_posts(&m.p));
	m.leaves = true; /* from now on */
	requests(&m, 1000);
	ck_assert(ov_poller_posts(&m.p));
	m.leaves = false; /* after having been kept a while */
	requests(&m, 50000);
	ck_assert(ov_poller_is_near(&m.p));
	ck_assert(!ov_poller_posts(&m.p));
	m.asked = 0;
	requests(&m, 5000);
	ck_assert_uint_eq(m.asked, 0);
	ck_assert(!ov_poller_posts(&m.p));
	ov_poller_destroy(&m.p);
}
END_TEST

START_TEST(test_posts_no_more_where_that_takes_longer)
{
	struct machine m = {.near = 4 * US, .apart = 40 * US, .awake = 50 * US, .dear = 70 * US, .leaves = true, .reachable = true};
	unsigned posted;

	begin(&m, 50, true);
	if (!has_cores(&m))
		return;
	ov_poller_may_post(&m.p);
	posted = posted_of(&m, 100000);
	ck_assert_uint_gt(posted, 0);
	ck_assert_uint_lt(posted, 5000); /* it is tried again now and then */
	ov_poller_destroy(&m.p);
}
END_TEST

START_TEST(test_bears_a_client_that_leaves_now_and_then)
{
	struct machine m = {.near = 4 * US, .apart = 40 * US, .awake = 50 * US, .dear = 3 * US, .reachable = true};

	begin(&m, 50, true);
	if (!has_cores(&m))
		return;
	ov_poller_may_post(&m.p);
	for (unsigned n = 0; n < 100; n++) {
		m.here = false;
		requests(&m, 100);
		ck_assert(m.here);
		ck_assert(!ov_poller_posts(&m.p));
	}
	ov_poller_destroy(&m.p);
}
END_TEST

START_TEST(test_is_awake_where_that_is_faster)
{
	struct machine m = {.near = 4 * US, .apart = 40 * US, .awake = 10 * US};

	begin(&m, 50, false);
	if (!has_cores(&m))
		return;
	requests(&m, 1000);
	ck_assert(m.p.way == OV_WAIT_AWAKE);
	ck_assert(!ov_poller_is_near(&m.p));
	ck_assert_uint_eq(m.asked, 0);
	m.awake = 50 * US;
	requests(&m, 10000);
	ck_assert(m.p.way == OV_WAIT_ASLEEP);
	ov_poller_destroy(&m.p);

	m = (struct machine){.near = 4 * US, .apart = 8 * US, .awake = 3 * US, .reachable = true}; /* other CPUs are quick to wake */
	begin(&m, 50, true);
	requests(&m, 1000);
	ck_assert(m.p.way == OV_WAIT_AWAKE);
	ck_assert(!m.here);
	ov_poller_destroy(&m.p);
}
END_TEST

START_TEST(test_sleeps_where_nothing_else_is_wanted)
{
	struct machine m = {.near = 4 * US, .apart = 40 * US, .awake = 3 * US, .reachable = true};

	begin(&m, 0, false);
	requests(&m, 10000);
	ck_assert(m.p.way == OV_WAIT_ASLEEP);
	ck_assert_uint_eq(m.asked, 0);
	ov_poller_destroy(&m.p);
}
END_TEST

START_TEST(test_is_nobodys_with_several_clients)
{
	struct machine m = {.near = 4 * US, .apart = 40 * US, .awake = 20 * US, .reachable = true};

	begin(&m, 50, true);
	if (!has_cores(&m))
		return;
	requests(&m, 100);
	ck_assert(ov_poller_is_near(&m.p));
	ov_poller_note_company(&m.p, true);
	ck_assert(!ov_poller_is_near(&m.p));
	m.here = false;
	m.asked = 0;
	requests(&m, 20);
	ck_assert(!ov_poller_is_near(&m.p));
	ck_assert_uint_eq(m.asked, 0);
	requests(&m, 100);
	ck_assert(ov_poller_is_near(&m.p));
	ck_assert(m.here);
	ov_poller_destroy(&m.p);
}
END_TEST

/* ---- the poster ---- */

#define CLIENT 4711

static unsigned answered;
static struct ov_inflight *unwanted;

static void count_answer(void *arg, struct ov_inflight *record)
{
	ck_assert_ptr_eq(arg, &answered);
	record->unique = 0;
	__atomic_add_fetch(&answered, 1, __ATOMIC_RELEASE);
}

static void note_unwanted(void *arg, struct ov_inflight *record)
{
	ck_assert_ptr_eq(arg, &answered);
	ck_assert_ptr_null(unwanted);
	unwanted = record;
}

static const struct ov_poster_ops poster_ops = {.sent = count_answer, .refused = note_unwanted};

struct office {
	struct ov_inflight record[OV_POSTER_POSTS + 1];
	struct ov_inflight *own; /* the leader's */
	struct ov_poster *poster;
	int in, out;
	int cpu;
};

static void open_office(struct office *o)
{
	struct ov_inflight *records[OV_POSTER_POSTS];
	struct ov_post *p = NULL;
	int fds[2];

	ck_assert_int_eq(pipe(fds), 0);
	*o = (struct office){.in = fds[0], .out = fds[1], .cpu = sched_getcpu()};
	for (unsigned n = 0; n < OV_POSTER_POSTS; n++)
		records[n] = &o->record[n];
	o->own = &o->record[OV_POSTER_POSTS];
	o->poster = ov_poster_new(o->out, records, &poster_ops, &answered);
	ck_assert_ptr_nonnull(o->poster);
	answered = 0;
	unwanted = NULL;
	ck_assert_ptr_null(ov_poster_reserve(o->poster, CLIENT, o->cpu)); /* there is nobody yet to send it */
	for (unsigned n = 0; n < 10000 && !p; n++) {
		ov_poster_aim(o->poster, o->cpu); /* the thread has to come first */
		usleep(1000);
		p = ov_poster_reserve(o->poster, CLIENT, o->cpu);
	}
	ck_assert_ptr_nonnull(p);
	ov_post_release(p);
}

static void close_office(struct office *o)
{
	ck_assert(ov_poster_free(o->poster));
	close(o->in);
	close(o->out);
}

static void post(struct office *o, uint64_t unique, const char *text, bool leader)
{
	struct ov_post *p = NULL;

	for (unsigned n = 0; n < 30000 && !p; n++) { /* none is to be had for a while after one that was late */
		if (n)
			usleep(1000);
		p = ov_poster_reserve(o->poster, CLIENT, o->cpu);
	}
	ck_assert_ptr_nonnull(p);
	memcpy(ov_post_room(p), text, strlen(text));
	o->own->unique = unique;
	o->own = ov_poster_post(o->poster, p, unique, 0, strlen(text), o->own, leader);
	ck_assert_uint_eq(o->own->unique, 0);
}

static void expect_reply(struct office *o, uint64_t unique, const char *text)
{
	struct {
		struct fuse_out_header header;
		char text[64];
	} got;

	ck_assert_int_eq(read(o->in, &got, sizeof(got)), (ssize_t)(sizeof(got.header) + strlen(text)));
	ck_assert_uint_eq(got.header.len, sizeof(got.header) + strlen(text));
	ck_assert_uint_eq(got.header.unique, unique);
	ck_assert_int_eq(got.header.error, 0);
	ck_assert_int_eq(memcmp(got.text, text, strlen(text)), 0);
}

static void expect_answered(unsigned n)
{
	for (unsigned k = 0; k < 10000 && __atomic_load_n(&answered, __ATOMIC_ACQUIRE) < n; k++)
		usleep(1000);
	ck_assert_uint_eq(__atomic_load_n(&answered, __ATOMIC_ACQUIRE), n);
}

START_TEST(test_replies_are_sent_by_somebody)
{
	struct office o;

	open_office(&o);
	for (unsigned n = 1; n <= 100; n++) {
		post(&o, n, "by the sender, or the watch", true);
		expect_reply(&o, n, "by the sender, or the watch");
		expect_answered(n);
	}
	post(&o, 101, "by who served", false);
	expect_answered(101);
	expect_reply(&o, 101, "by who served");
	post(&o, 102, "at the latest with the next request", true);
	ov_poster_settle(o.poster);
	ck_assert_ptr_null(unwanted);
	expect_reply(&o, 102, "at the latest with the next request");
	close_office(&o);
	for (unsigned n = 0; n <= OV_POSTER_POSTS; n++)
		ck_assert_uint_eq(o.record[n].unique, 0);
}
END_TEST

START_TEST(test_replies_are_posted_to_who_waits)
{
	struct office o;
	struct ov_post *p;

	open_office(&o);
	p = ov_poster_reserve(o.poster, CLIENT, o.cpu);
	ck_assert_ptr_nonnull(p);
	ck_assert_ptr_nonnull(ov_poster_reserve(o.poster, 0, o.cpu)); /* what is written back meanwhile */
	ck_assert_ptr_null(ov_poster_reserve(o.poster, CLIENT + 1, o.cpu)); /* it may do anything but wait */
	ck_assert_ptr_null(ov_poster_reserve(o.poster, CLIENT + 1, o.cpu)); /* CLIENT has the CPU, perhaps */
	ck_assert_ptr_null(ov_poster_reserve(o.poster, CLIENT, -1));
	close_office(&o);
}
END_TEST

START_TEST(test_replies_stay_while_others_are_given_back)
{
	static const char text[] = "not to be touched";
	struct ov_post *first, *second;
	struct office o;

	open_office(&o);
	first = ov_poster_reserve(o.poster, CLIENT, o.cpu);
	second = ov_poster_reserve(o.poster, CLIENT, o.cpu);
	ck_assert_ptr_nonnull(first);
	ck_assert_ptr_nonnull(second);
	memcpy(ov_post_room(second), text, sizeof(text));
	o.own = ov_poster_post(o.poster, first, 1, 0, 0, o.own, true); /* the watch wakes up, and gives back what is free */
	expect_answered(1);
	usleep(50000);
	ck_assert_str_eq(ov_post_room(second), text);
	close_office(&o);
}
END_TEST

START_TEST(test_replies_that_are_not_wanted)
{
	struct ov_inflight *record;
	struct office o;

	(void)signal(SIGPIPE, SIG_IGN);
	open_office(&o);
	close(o.in);
	record = o.own;
	post(&o, 7, "interrupted", false);
	ov_poster_settle(o.poster);
	ck_assert_ptr_eq(unwanted, record);
	ck_assert_uint_eq(record->unique, 7);
	ov_poster_settle(o.poster);
	ck_assert_uint_eq(answered, 0);
	o.in = open("/dev/null", O_RDONLY);
	close_office(&o);
}
END_TEST

/* ---- the leader ---- */

#define THREADS 5
#define TURNS 2000

struct game {
	struct ov_leader leader;
	unsigned leading; /* atomic: never more than one */
	unsigned turns;   /* the leader's */
	bool broken, over;
	int cpu;          /* where the next one is wanted, -1: anywhere */
	unsigned wrong;   /* atomic: leaders that were elsewhere */
	unsigned called;  /* the leader's: to be beside it */
	unsigned came;    /* atomic */
};

struct player {
	struct game *g;
	struct ov_seat seat;
	pthread_t id;
};

static bool is_pinned_to(int cpu)
{
	cpu_set_t set;

	return sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) == 1 && CPU_ISSET(cpu, &set);
}

static void enter(struct game *g)
{
	if (__atomic_fetch_add(&g->leading, 1, __ATOMIC_ACQ_REL) != 0)
		g->broken = true;
}

static void leave(struct game *g)
{
	__atomic_sub_fetch(&g->leading, 1, __ATOMIC_ACQ_REL);
}

static void take(struct player *pl)
{
	struct game *g = pl->g;

	while (!ov_leader_take(&g->leader, &pl->seat)) {
		if (pl->seat.cpu != -1)
			g->broken = true;
		__atomic_add_fetch(&g->came, 1, __ATOMIC_RELAXED);
	}
	enter(g);
	if (g->cpu >= 0 && pl->seat.cpu < 0)
		g->cpu = -1; /* nobody waited when the lead was handed on */
}

/* The leader goes on alone, hands on, calls another one to be beside it, or moves the lead to another CPU, by turns. */
static void *play(void *arg)
{
	struct player *pl = arg;
	struct game *g = pl->g;

	ov_seat_init(&pl->seat);
	take(pl);
	while (!g->over) {
		struct ov_seat *next = NULL;
		unsigned turn = g->turns++;

		if (g->cpu >= 0 && !is_pinned_to(g->cpu))
			__atomic_add_fetch(&g->wrong, 1, __ATOMIC_RELAXED);
		g->over = g->turns >= TURNS;
		if (turn % 3 == 0) {
			g->called += ov_leader_call_beside(&g->leader);
			continue;
		}
		if (turn % 3 == 1) {
			if (turn % 2)
				g->cpu = -1;
			if (g->cpu < 0)
				ov_seat_leave_cpu(&pl->seat);
			leave(g);
			ov_leader_hand_on(&g->leader, &pl->seat);
			if (pl->seat.cpu != -1)
				g->broken = true;
		} else {
			next = ov_leader_choose(&g->leader, 0);
			if (!next)
				continue;
			g->cpu = 0;
			leave(g);
			ov_leader_call(next);
		}
		take(pl);
	}
	leave(g);
	ov_leader_hand_on(&g->leader, &pl->seat);
	return NULL;
}

static unsigned count_waiting(struct ov_leader *l)
{
	unsigned n = 0;

	pthread_mutex_lock(&l->lock);
	for (struct ov_seat *seat = l->waiting; seat; seat = seat->below)
		n++;
	pthread_mutex_unlock(&l->lock);
	return n;
}

START_TEST(test_one_leads)
{
	struct game g = {.cpu = -1};
	struct player players[THREADS];
	struct ov_seat seat;

	ov_leader_init(&g.leader);
	ov_seat_init(&seat);
	ck_assert(ov_leader_take(&g.leader, &seat));
	for (unsigned n = 0; n < THREADS; n++) {
		players[n].g = &g;
		ck_assert_int_eq(pthread_create(&players[n].id, NULL, play, &players[n]), 0);
	}
	while (count_waiting(&g.leader) < THREADS)
		usleep(1000);
	ov_leader_hand_on(&g.leader, &seat);
	for (unsigned n = 0; n < THREADS; n++) {
		pthread_join(players[n].id, NULL);
		ov_seat_destroy(&players[n].seat);
	}
	ck_assert(!g.broken);
	ck_assert_uint_eq(g.wrong, 0);
	ck_assert_uint_ge(g.turns, TURNS);
	ck_assert_uint_gt(g.called, 0);
	ck_assert_uint_eq(g.came, g.called);
	ck_assert_ptr_null(g.leader.waiting);
	ov_seat_destroy(&seat);
	ov_leader_destroy(&g.leader);
}
END_TEST

START_TEST(test_nobody_can_be_chosen)
{
	struct ov_leader l;
	struct ov_seat seat, other;
	cpu_set_t set;

	ov_leader_init(&l);
	ov_seat_init(&seat);
	ov_seat_init(&other);
	ov_leader_take(&l, &seat);
	ck_assert_ptr_null(ov_leader_choose(&l, 0)); /* nobody waits */
	l.waiting = &other;
	ck_assert_ptr_null(ov_leader_choose(&l, CPU_SETSIZE - 1)); /* there is no such CPU */
	ck_assert_ptr_null(ov_leader_choose(&l, CPU_SETSIZE));
	ck_assert_ptr_eq(l.waiting, &other);
	l.waiting = NULL;
	ov_leader_hand_on(&l, &seat);
	ck_assert(!l.led);
	ov_leader_take(&l, &seat); /* nobody else does */

	/* who is let go may be where it might be before */
	ck_assert_int_eq(sched_getaffinity(0, sizeof(set), &set), 0);
	other.below = NULL;
	l.waiting = &other;
	ck_assert_ptr_eq(ov_leader_choose(&l, ov_leader_find(&l, (uint32_t)gettid())), &other);
	ck_assert(is_pinned_to(other.cpu));
	ov_seat_leave_cpu(&other);
	ck_assert_int_eq(sched_getaffinity(0, sizeof(seat.allowed), &seat.allowed), 0);
	ck_assert(CPU_EQUAL(&set, &seat.allowed));
	ov_seat_destroy(&other);
	ov_seat_destroy(&seat);
	ov_leader_destroy(&l);
}
END_TEST

START_TEST(test_cpu_of_a_thread)
{
	struct ov_leader l;
	pid_t child;
	int fd;

	ck_assert(ov_proc_is_ours());
	ov_leader_init(&l);
	for (int n = 0; n < 3; n++) {
		int cpu = ov_leader_find(&l, (uint32_t)gettid());

		ck_assert_int_ge(cpu, 0);
		ck_assert_int_lt(cpu, (int)sysconf(_SC_NPROCESSORS_CONF));
	}
	fd = l.client_fd;
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(ov_leader_find(&l, 0), -1); /* the kernel, and clients that are not to be seen from here */
	ck_assert_int_eq(ov_leader_find(&l, 0x7fffffff), -1);

	child = fork();
	if (child == 0) {
		pause();
		_exit(0);
	}
	ck_assert_int_ge(ov_leader_find(&l, (uint32_t)child), 0);
	kill(child, SIGKILL);
	ck_assert_int_eq(waitpid(child, NULL, 0), child);
	ck_assert_int_eq(ov_leader_find(&l, (uint32_t)child), -1);
	ck_assert_int_ge(ov_leader_find(&l, (uint32_t)gettid()), 0);
	ck_assert_int_eq(l.client_fd, fd); /* none is left open */
	ov_leader_destroy(&l);
	ck_assert_int_lt(fcntl(fd, F_GETFD), 0);
}
END_TEST

/* ---- notifications ---- */

struct notification {
	struct fuse_out_header head;
	struct fuse_notify_inval_inode_out what;
};

static struct notification next_notification(int fd)
{
	struct notification n;

	ck_assert_int_eq(read(fd, &n, sizeof(n)), (int)sizeof(n));
	ck_assert_uint_eq(n.head.len, sizeof(n));
	ck_assert_uint_eq(n.head.unique, 0);
	ck_assert_int_eq(n.head.error, FUSE_NOTIFY_INVAL_INODE);
	return n;
}

START_TEST(test_notifications_say_what_goes)
{
	static struct ov_ledger ledger;
	struct notification n;
	struct ov_notify no;
	int fds[2];

	ck_assert_int_eq(pipe(fds), 0);
	ck_assert_int_eq(ov_notify_init(&no, &ledger), 0);
	ov_notify_begin(&no, fds[1], 0);
	ov_notify_attributes(&no, 7);
	n = next_notification(fds[0]);
	ck_assert_uint_eq(n.what.ino, 7);
	ck_assert_int_lt(n.what.off, 0);
	ov_notify_pages(&no, 8);
	n = next_notification(fds[0]);
	ck_assert_uint_eq(n.what.ino, 8);
	ck_assert_int_eq(n.what.off, 0);
	ck_assert_int_eq(n.what.len, 0);
	ck_assert_uint_eq(ledger.flushing, 0);
	ov_notify_stop(&no);
	ov_notify_destroy(&no);
	close(fds[0]);
	close(fds[1]);
}
END_TEST

START_TEST(test_listings_go_a_moment_later)
{
	static struct ov_ledger ledger;
	struct ov_notify no;
	int fds[2];

	ck_assert_int_eq(pipe(fds), 0);
	ck_assert_int_eq(ov_notify_init(&no, &ledger), 0);
	ov_notify_begin(&no, fds[1], 0);
	for (uint64_t round = 0; round < 3; round++) {
		for (uint64_t k = 0; k < 5; k++)
			ov_notify_listing_later(&no, 10 * round + k);
		for (uint64_t k = 0; k < 5; k++)
			ck_assert_uint_eq(next_notification(fds[0]).what.ino, 10 * round + k);
		if (round == 1)
			usleep(200 * 1000); /* the thread has gone to sleep */
	}
	ov_notify_stop(&no);
	ov_notify_listing_later(&no, 99); /* nothing any more, and no thread */
	ck_assert(!no.started);
	ov_notify_destroy(&no);
	close(fds[1]);
	ck_assert_int_eq(read(fds[0], &no, sizeof(no)), 0);
	close(fds[0]);
}
END_TEST

START_TEST(test_listings_that_are_waited_for)
{
	static struct ov_ledger ledger;
	static char much[65536];
	struct ov_notify no;
	int fds[2];
	ssize_t full = 0, n;

	ck_assert_int_eq(pipe(fds), 0);
	ck_assert_int_eq(ov_notify_init(&no, &ledger), 0);
	ov_notify_begin(&no, fds[1], 0);
	for (uint64_t k = 1; k <= 3; k++) {
		ov_notify_listing(&no, k);
		ck_assert_uint_eq(no.ndone, k); /* it is there already */
		ck_assert_uint_eq(next_notification(fds[0]).what.ino, k);
	}
	/* one that cannot be dropped yet, as the pipe is full: it is not waited for without end */
	ck_assert_int_eq(fcntl(fds[1], F_SETFL, O_NONBLOCK), 0);
	while ((n = write(fds[1], much, sizeof(much))) > 0)
		full += n;
	ck_assert_int_eq(fcntl(fds[1], F_SETFL, 0), 0);
	ov_notify_listing(&no, 9);
	ck_assert_uint_eq(no.ndone, 3);
	for (; full > 0; full -= n)
		ck_assert_int_gt(n = read(fds[0], much, full < (ssize_t)sizeof(much) ? (size_t)full : sizeof(much)), 0);
	ck_assert_uint_eq(next_notification(fds[0]).what.ino, 9);
	ov_notify_stop(&no);
	ck_assert(ov_notify_destroy(&no));
	close(fds[0]);
	close(fds[1]);
}
END_TEST

START_TEST(test_more_listings_than_there_is_room_for)
{
	static struct ov_ledger ledger;
	struct ov_notify no;
	int fds[2];

	ck_assert_int_eq(pipe(fds), 0);
	ck_assert_int_eq(ov_notify_init(&no, &ledger), 0);
	ov_notify_begin(&no, fds[1], 0);
	no.started = true; /* and does not get to run */
	for (uint64_t k = 0; k < 3 * OV_NOTIFY_LATER; k++)
		ov_notify_listing_later(&no, k);
	ck_assert_uint_eq(no.n, OV_NOTIFY_LATER);
	ov_notify_listing(&no, 7); /* waits for room, but not without end */
	ck_assert_uint_eq(no.n, OV_NOTIFY_LATER);
	no.started = false;
	ov_notify_stop(&no);
	ov_notify_destroy(&no);
	close(fds[0]);
	close(fds[1]);
}
END_TEST

/* ---- company ---- */

START_TEST(test_clients_that_take_turns_are_mixed)
{
	struct ov_company c = {0};

	ck_assert(ov_company_is_mixed(&c, 7)); /* somebody is new */
	for (unsigned n = 0; n < 1000; n++)
		(void)ov_company_is_mixed(&c, n % 2 ? 7 : 0); /* the kernel is no client */
	ck_assert(!ov_company_is_mixed(&c, 7));
	ck_assert(ov_company_is_mixed(&c, 8));
	ck_assert(ov_company_is_mixed(&c, 8));
}
END_TEST

START_TEST(test_another_client_is_served_beside)
{
	struct ov_company c = {0};

	ck_assert(!ov_company_is_beside(&c, 7));
	ov_company_joins(&c);
	ov_company_begin(&c, 8);
	ck_assert(ov_company_is_beside(&c, 7));
	ck_assert(!ov_company_is_beside(&c, 8)); /* the same one, whom it has answered */
	ck_assert(!ov_company_is_beside(&c, 0));
	ov_company_end(&c);
	ck_assert(!ov_company_is_beside(&c, 7));
	ov_company_begin(&c, 8);
	ov_company_leaves(&c);
	ck_assert(!ov_company_is_beside(&c, 7));
}
END_TEST

/* So many clients ask in turn, and as many threads come beside the leader as should, of those that read on CPUS. */
static unsigned beside_for(struct ov_company *c, uint32_t clients, unsigned cpus)
{
	for (uint32_t n = 0; n < 10 * OV_COMPANY_RECENT; n++)
		(void)ov_company_is_mixed(c, 100 + n % clients);
	ov_company_want(c, cpus);
	while (ov_company_is_too_large(c))
		ov_company_leaves(c);
	while (ov_company_is_short(c))
		ov_company_joins(c);
	return c->there;
}

START_TEST(test_as_many_beside_as_clients)
{
	struct ov_company c = {0};

	ck_assert(ov_company_goes_on(&c, true, 1000000 * US));
	ov_company_want(&c, 4); /* several are there, though they have not been counted */
	ck_assert(ov_company_is_short(&c));
	ck_assert_uint_eq(beside_for(&c, 2, 4), 1);
	ck_assert_uint_eq(beside_for(&c, 3, 4), 2);
	ck_assert_uint_eq(beside_for(&c, 4, 4), 3);
	ck_assert_uint_eq(beside_for(&c, 7, 4), 3);
	ck_assert_uint_eq(beside_for(&c, 16, 2), 1);
	ck_assert_uint_eq(beside_for(&c, 3, 2), 1);
	ov_company_leaves(&c); /* to do something long */
	ck_assert(ov_company_is_short(&c));
	ov_company_joins(&c);
	for (unsigned n = 0; n < 1000; n++) { /* for as long as there is company */
		(void)ov_company_goes_on(&c, n % 60 == 0, 1000000 * US);
		ov_company_begin(&c, 7);
		ov_company_end(&c);
		ck_assert(!ov_company_is_too_large(&c));
	}
	for (unsigned n = 0; n < 100; n++) /* or the leader does not get to see that there is none */
		ov_company_end(&c);
	ck_assert(ov_company_is_too_large(&c));
	ck_assert(ov_company_goes_on(&c, true, 1000000 * US));
	ck_assert(!ov_company_is_too_large(&c));
	ov_company_want(&c, 0);
	ck_assert(!ov_company_is_short(&c));
	ck_assert(ov_company_is_too_large(&c));
	ov_company_leaves(&c);
	ck_assert(!ov_company_is_too_large(&c));
}
END_TEST

/* N requests, of those that are seen beside each other; each takes so long with threads beside the leader, or without. */
static void work_together(struct ov_company *c, uint64_t *now, unsigned n, uint64_t beside, uint64_t alone)
{
	while (n--) {
		bool goes_on = ov_company_goes_on(c, true, *now);

		if (goes_on)
			ov_company_end(c);
		*now += goes_on ? 2 * beside : alone;
		if (n % 1000 == 0)
			*now += 1000000 * US; /* a pause, which is not counted */
	}
}

START_TEST(test_reads_alone_where_that_is_faster)
{
	struct ov_company c = {0};
	uint64_t now = 5000000 * US;

	ck_assert(!ov_company_goes_on(&c, false, now));
	for (unsigned n = 0; n < 500; n++, now += 10 * US) {
		ck_assert(ov_company_goes_on(&c, true, now)); /* for short work nothing is tried */
		ov_company_end(&c);
	}
	work_together(&c, &now, 2000, 8 * US, 10 * US);
	ck_assert(ov_company_goes_on(&c, true, now));
	work_together(&c, &now, 200000, 20 * US, 10 * US); /* others have come that compute */
	ck_assert(!ov_company_goes_on(&c, true, now));
	work_together(&c, &now, 200000, 9 * US, 9 * US); /* and have gone */
	ck_assert(ov_company_goes_on(&c, true, now));
	work_together(&c, &now, 200000, 4000 * US, 4100 * US); /* they wait for a disk */
	ck_assert(ov_company_goes_on(&c, true, now));
	for (unsigned n = 0; n < 100; n++) /* it is over */
		(void)ov_company_goes_on(&c, false, now += 10 * US);
	ck_assert(!ov_company_goes_on(&c, false, now));
}
END_TEST

/* ---- what is told while it changes ---- */

#define MS (1000 * US)

START_TEST(test_lost_names_concern_others_for_a_while)
{
	struct ov_crossing l;

	ov_crossing_init(&l);
	ck_assert(!l.lost_until);
	ck_assert(!ov_crossing_has_lost(&l, 7, 1, 100 * MS));
	ov_crossing_loses(&l, 7, 1, 100 * MS);
	ck_assert(l.lost_until);
	ck_assert(ov_crossing_has_lost(&l, 7, 2, 100 * MS));
	ck_assert(!ov_crossing_has_lost(&l, 7, 1, 100 * MS)); /* who has removed it */
	ck_assert(!ov_crossing_has_lost(&l, 8, 2, 100 * MS));
	ov_crossing_loses(&l, 7, 2, 200 * MS);
	ck_assert(ov_crossing_has_lost(&l, 7, 1, 300 * MS));
	ck_assert(ov_crossing_has_lost(&l, 7, 2, 300 * MS));
	ck_assert(!ov_crossing_has_lost(&l, 7, 2, (100 + OV_CROSSING_MS) * MS)); /* the first one is over */
	ck_assert(ov_crossing_has_lost(&l, 7, 1, (100 + OV_CROSSING_MS) * MS));
	ck_assert(!ov_crossing_has_lost(&l, 7, 3, (200 + OV_CROSSING_MS) * MS));
	ov_crossing_loses(&l, 9, 0, 5000 * MS); /* of somebody we know nothing of */
	ck_assert(ov_crossing_has_lost(&l, 9, 0, 5000 * MS));
	ck_assert(!ov_crossing_has_lost(&l, 5, 2, 6000 * MS));
	ov_crossing_loses(&l, 0, 1, 6000 * MS); /* of something */
	ck_assert(ov_crossing_has_lost(&l, 5, 2, 6000 * MS));
	ck_assert(!ov_crossing_has_lost(&l, 5, 1, 6000 * MS));
	ov_crossing_destroy(&l);
}
END_TEST

START_TEST(test_the_oldest_lost_name_makes_room)
{
	struct ov_crossing l;

	ov_crossing_init(&l);
	for (uint64_t n = 1; n <= OV_CROSSING_LOST + 1; n++)
		ov_crossing_loses(&l, n, 1, n * MS);
	ck_assert(!ov_crossing_has_lost(&l, 1, 2, 100 * MS));
	for (uint64_t n = 2; n <= OV_CROSSING_LOST + 1; n++)
		ck_assert(ov_crossing_has_lost(&l, n, 2, 100 * MS));
	ov_crossing_destroy(&l);
}
END_TEST

START_TEST(test_who_was_told_before_a_change)
{
	struct ov_crossing c;

	ov_crossing_init(&c);
	ck_assert(!ov_crossing_was_told(&c, 7, 1, 100 * MS));
	ov_crossing_tells(&c, 7, 1, 100 * MS);
	ck_assert(!ov_crossing_was_told(&c, 7, 1, 101 * MS)); /* nobody else */
	ck_assert(ov_crossing_was_told(&c, 7, 2, 101 * MS));
	ck_assert(!ov_crossing_was_told(&c, 7, 2, 102 * MS)); /* what was told before has been seen to */
	ov_crossing_tells(&c, 7, 1, 200 * MS);
	ov_crossing_tells(&c, 7, 2, 300 * MS);
	ck_assert(ov_crossing_was_told(&c, 7, 2, 301 * MS)); /* 1 was, too */
	ov_crossing_tells(&c, 7, 1, 400 * MS);
	ck_assert(!ov_crossing_was_told(&c, 8, 2, 401 * MS));
	ck_assert(!ov_crossing_was_told(&c, 7, 2, (400 + OV_CROSSING_MS) * MS));
	ov_crossing_tells(&c, 7, 1, 5000 * MS);
	ov_crossing_tells(&c, 7 + OV_CROSSING_TOLD, 1, 5001 * MS); /* in its place */
	ck_assert(!ov_crossing_was_told(&c, 7, 2, 5002 * MS));
	ck_assert(ov_crossing_was_told(&c, 7 + OV_CROSSING_TOLD, 2, 5002 * MS));
	ov_crossing_tells(&c, 9, 0, 6000 * MS);
	ck_assert(ov_crossing_was_told(&c, 9, 0, 6000 * MS));
	ov_crossing_destroy(&c);
}
END_TEST

Suite *waiting_suite(void)
{
	Suite *s = suite_create("waiting");
	TCase *tc = tcase_create("waiting");

	tcase_set_timeout(tc, 60); /* seconds, where there is little CPU time */
	tcase_add_test(tc, test_goes_to_a_client_that_is_far);
	tcase_add_test(tc, test_stays_where_the_client_is);
	tcase_add_test(tc, test_does_not_look_all_the_time);
	tcase_add_test(tc, test_gives_up_after_clients_that_flee);
	tcase_add_test(tc, test_posts_replies_where_clients_leave);
	tcase_add_test(tc, test_sends_replies_itself_where_clients_stay);
	tcase_add_test(tc, test_posts_no_more_where_that_takes_longer);
	tcase_add_test(tc, test_bears_a_client_that_leaves_now_and_then);
	tcase_add_test(tc, test_replies_are_sent_by_somebody);
	tcase_add_test(tc, test_replies_are_posted_to_who_waits);
	tcase_add_test(tc, test_replies_stay_while_others_are_given_back);
	tcase_add_test(tc, test_replies_that_are_not_wanted);
	tcase_add_test(tc, test_is_awake_where_that_is_faster);
	tcase_add_test(tc, test_sleeps_where_nothing_else_is_wanted);
	tcase_add_test(tc, test_is_nobodys_with_several_clients);
	tcase_add_test(tc, test_one_leads);
	tcase_add_test(tc, test_nobody_can_be_chosen);
	tcase_add_test(tc, test_cpu_of_a_thread);
	tcase_add_test(tc, test_notifications_say_what_goes);
	tcase_add_test(tc, test_listings_go_a_moment_later);
	tcase_add_test(tc, test_listings_that_are_waited_for);
	tcase_add_test(tc, test_more_listings_than_there_is_room_for);
	tcase_add_test(tc, test_clients_that_take_turns_are_mixed);
	tcase_add_test(tc, test_another_client_is_served_beside);
	tcase_add_test(tc, test_as_many_beside_as_clients);
	tcase_add_test(tc, test_reads_alone_where_that_is_faster);
	tcase_add_test(tc, test_lost_names_concern_others_for_a_while);
	tcase_add_test(tc, test_the_oldest_lost_name_makes_room);
	tcase_add_test(tc, test_who_was_told_before_a_change);
	suite_add_tcase(s, tc);
	return s;
}
