/* SPDX-License-Identifier: GPL-2.0-or-later */
/* How the next request is waited for, and by which thread on which CPU. Times are made up. */

#include <check.h>
#include <stdlib.h>
#include <unistd.h>

#include "../../src/leader.h"
#include "../../src/poller.h"

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
		m->now += m->p.way == OV_WAIT_AWAKE ? m->awake : m->here ? m->near : m->apart;
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
	ck_assert_uint_le(m.asked, 40);
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
	ov_poller_has_company(&m.p);
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

/* Requests that wait already, and take so long each when threads serve them side by side, or one after the other. */
static void crowd(struct machine *m, unsigned n, uint64_t shared, uint64_t alone)
{
	while (n--) {
		bool shares = ov_poller_has_company(&m->p);

		m->now += shares ? shared : alone;
		ov_poller_read(&m->p, m->now, false);
		ov_poller_done(&m->p, m->now);
		if (n % 100 == 0) {
			m->now += 1000000 * US; /* a pause, which is not counted */
			ov_poller_read(&m->p, m->now, false);
			ov_poller_done(&m->p, m->now);
		}
	}
}

START_TEST(test_shares_work_where_that_is_faster)
{
	struct machine m = {.near = 4 * US, .apart = 40 * US, .awake = 20 * US, .reachable = true};

	begin(&m, 50, true);
	if (!has_cores(&m))
		return;
	ck_assert(ov_poller_has_company(&m.p));
	crowd(&m, 500, 20 * US, 10 * US);
	ck_assert(!ov_poller_has_company(&m.p));
	crowd(&m, 10000, 8 * US, 10 * US);
	ck_assert(ov_poller_has_company(&m.p));
	crowd(&m, 20000, 4000 * US, 7000 * US); /* they wait for a disk */
	ck_assert(ov_poller_has_company(&m.p));
	ov_poller_destroy(&m.p);
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

/* The leader goes on alone, hands on, or moves the lead to another CPU, by turns. */
static void *play(void *arg)
{
	struct player *pl = arg;
	struct game *g = pl->g;

	ov_seat_init(&pl->seat);
	ov_leader_take(&g->leader, &pl->seat);
	enter(g);
	while (!g->over) {
		struct ov_seat *next = NULL;
		unsigned turn = g->turns++;

		if (g->cpu >= 0 && !is_pinned_to(g->cpu))
			__atomic_add_fetch(&g->wrong, 1, __ATOMIC_RELAXED);
		g->over = g->turns >= TURNS;
		if (turn % 3 == 0)
			continue;
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
		ov_leader_take(&g->leader, &pl->seat);
		enter(g);
		if (g->cpu >= 0 && pl->seat.cpu < 0)
			g->cpu = -1; /* nobody waited when the lead was handed on */
	}
	leave(g);
	ov_leader_hand_on(&g->leader, &pl->seat);
	return NULL;
}

START_TEST(test_one_leads)
{
	struct game g = {.cpu = -1};
	struct player players[THREADS];

	ov_leader_init(&g.leader);
	for (unsigned n = 0; n < THREADS; n++) {
		players[n].g = &g;
		ck_assert_int_eq(pthread_create(&players[n].id, NULL, play, &players[n]), 0);
	}
	for (unsigned n = 0; n < THREADS; n++) {
		pthread_join(players[n].id, NULL);
		ov_seat_destroy(&players[n].seat);
	}
	ck_assert(!g.broken);
	ck_assert_uint_eq(g.wrong, 0);
	ck_assert_uint_ge(g.turns, TURNS);
	ck_assert_ptr_null(g.leader.waiting);
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
	ck_assert_ptr_eq(ov_leader_choose(&l, ov_thread_cpu((uint32_t)gettid())), &other);
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
	int cpu = ov_thread_cpu((uint32_t)gettid());

	ck_assert(ov_proc_is_ours());
	ck_assert_int_ge(cpu, 0);
	ck_assert_int_lt(cpu, (int)sysconf(_SC_NPROCESSORS_CONF));
	ck_assert_int_eq(ov_thread_cpu(0), -1); /* the kernel, and clients that are not to be seen from here */
	ck_assert_int_eq(ov_thread_cpu(0x7fffffff), -1);
}
END_TEST

Suite *waiting_suite(void)
{
	Suite *s = suite_create("waiting");
	TCase *tc = tcase_create("waiting");

	tcase_add_test(tc, test_goes_to_a_client_that_is_far);
	tcase_add_test(tc, test_stays_where_the_client_is);
	tcase_add_test(tc, test_does_not_look_all_the_time);
	tcase_add_test(tc, test_gives_up_after_clients_that_flee);
	tcase_add_test(tc, test_is_awake_where_that_is_faster);
	tcase_add_test(tc, test_sleeps_where_nothing_else_is_wanted);
	tcase_add_test(tc, test_is_nobodys_with_several_clients);
	tcase_add_test(tc, test_shares_work_where_that_is_faster);
	tcase_add_test(tc, test_one_leads);
	tcase_add_test(tc, test_nobody_can_be_chosen);
	tcase_add_test(tc, test_cpu_of_a_thread);
	suite_add_tcase(s, tc);
	return s;
}
