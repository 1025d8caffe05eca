/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "company.h"

#include "log.h"

/* Requests for which two clients that take turns count as working side by side. */
#define SIDE_BY_SIDE 64

#define US 1000ull
#define PAUSE (20000 * US) /* of the clients */
#define SLOW (2000 * US)   /* a longer time says nothing of how it is read */
#define KEEP 4000u         /* requests until the next trial; then twice as many, up to */
#define KEEP_MAX 64000u

/* Requests a round: beside each other, alone, and both again. Short work does without, and is alone for as short as may be. */
static const unsigned rounds[] = {1024, 128, 256, 128};

#define ROUNDS (sizeof(rounds) / sizeof(rounds[0]))

#define GET(p) __atomic_load_n(&(p), __ATOMIC_RELAXED)
#define SET(p, v) __atomic_store_n(&(p), (v), __ATOMIC_RELAXED)

/* Different ones among the recent. */
static unsigned count_clients(const struct ov_company *c)
{
	unsigned clients = 0;

	for (unsigned n = 0; n < OV_COMPANY_RECENT; n++) {
		unsigned k = 0;

		while (k < n && c->recent[k] != c->recent[n])
			k++;
		clients += k == n;
	}
	return clients;
}

bool ov_company_is_mixed(struct ov_company *c, uint32_t pid)
{
	if (pid) {
		if (pid != c->recent[(c->nrecent - 1) % OV_COMPANY_RECENT])
			c->mixed = SIDE_BY_SIDE;
		c->recent[c->nrecent++ % OV_COMPANY_RECENT] = pid;
		if (c->mixed && c->nrecent % OV_COMPANY_RECENT == 0)
			c->clients = count_clients(c);
	}
	if (c->mixed == 0)
		return false;
	c->mixed--;
	return true;
}

bool ov_company_is_beside(const struct ov_company *c, uint32_t pid)
{
	uint32_t other = GET(c->beside);

	return other && pid && other != pid;
}

/* It must be clearly faster: it is seen for a moment only, and clients that are woken from elsewhere may yet be moved about. */
static bool is_faster_alone(const struct ov_company *c)
{
	uint64_t beside = c->n[0] ? c->time[0] / c->n[0] : 0, alone = c->n[1] ? c->time[1] / c->n[1] : 0;

	ov_debug("clients side by side: %llu ns a request, with one that reads %llu ns", (unsigned long long)beside,
		 (unsigned long long)alone);
	return beside && alone && alone * 10 < beside * 9;
}

static void next_round(struct ov_company *c)
{
	if (++c->round < ROUNDS) {
		c->alone = c->round % 2;
		c->left_in_round = rounds[c->round];
	} else if (c->round == ROUNDS) {
		c->alone = is_faster_alone(c);
		c->left_in_round = c->keep = c->keep ? c->keep : KEEP;
		if (c->keep < KEEP_MAX)
			c->keep *= 2;
	} else {
		c->round = 0;
		c->alone = false;
		c->left_in_round = rounds[0];
		c->time[0] = c->time[1] = c->n[0] = c->n[1] = 0;
	}
}

/* N requests have been read in PERIOD. */
static void count(struct ov_company *c, uint64_t period, unsigned n)
{
	if (c->left_in_round == 0)
		c->left_in_round = rounds[0];
	c->time[c->alone] += period < SLOW ? period : SLOW;
	c->n[c->alone] += n;
	c->left_in_round -= n < c->left_in_round ? n : c->left_in_round;
	if (c->left_in_round == 0)
		next_round(c);
}

bool ov_company_goes_on(struct ov_company *c, bool seen, uint64_t now)
{
	uint64_t period = now - c->last;
	unsigned served = GET(c->served), n = 1 + served - c->seen;
	bool counts = c->present && period < PAUSE;

	c->last = now;
	c->seen = served;
	if (seen) {
		c->present = SIDE_BY_SIDE;
		SET(c->left, SIDE_BY_SIDE);
	} else if (c->present) {
		c->present--;
	}
	if (counts)
		count(c, period, n);
	return c->present && !c->alone;
}

void ov_company_want(struct ov_company *c, unsigned cpus)
{
	unsigned readers = cpus;

	if (c->clients < cpus)
		readers = c->clients > 2 ? c->clients : 2;
	SET(c->wanted, cpus ? readers - 1 : 0);
}

bool ov_company_is_short(const struct ov_company *c)
{
	return GET(c->there) < GET(c->wanted);
}

void ov_company_joins(struct ov_company *c)
{
	__atomic_add_fetch(&c->there, 1, __ATOMIC_RELAXED);
}

void ov_company_leaves(struct ov_company *c)
{
	SET(c->beside, 0);
	__atomic_sub_fetch(&c->there, 1, __ATOMIC_RELAXED);
}

void ov_company_begin(struct ov_company *c, uint32_t pid)
{
	SET(c->beside, pid);
}

void ov_company_end(struct ov_company *c)
{
	SET(c->beside, 0);
	__atomic_add_fetch(&c->served, 1, __ATOMIC_RELAXED);
	__atomic_sub_fetch(&c->left, 1, __ATOMIC_RELAXED);
}

bool ov_company_is_too_large(const struct ov_company *c)
{
	return GET(c->there) > GET(c->wanted) || GET(c->left) <= 0;
}
