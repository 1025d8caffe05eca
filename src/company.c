/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "company.h"

/* Requests for which two clients that take turns count as working side by side. */
#define SIDE_BY_SIDE 64
#define QUEUED_MAX 8

#define GET(p) __atomic_load_n(&(p), __ATOMIC_RELAXED)
#define SET(p, v) __atomic_store_n(&(p), (v), __ATOMIC_RELAXED)

bool ov_company_is_mixed(struct ov_company *c, uint32_t pid)
{
	if (pid && pid != c->last_pid) {
		c->mixed = SIDE_BY_SIDE;
		c->last_pid = pid;
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

void ov_company_set_open(struct ov_company *c, bool open)
{
	if (open == GET(c->open))
		return;
	SET(c->open, open);
	c->wanted = 1;
	c->queued = 0;
}

bool ov_company_is_short(struct ov_company *c, bool waits, unsigned most)
{
	unsigned there = GET(c->there);

	if (waits && there >= c->wanted && there < most && ++c->queued >= QUEUED_MAX) {
		c->queued = 0;
		c->wanted = there + 1;
	}
	return there < c->wanted;
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
}

bool ov_company_is_open(const struct ov_company *c)
{
	return GET(c->open);
}
