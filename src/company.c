/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "company.h"

/* Requests for which two clients that take turns count as working side by side. */
#define SIDE_BY_SIDE 64

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

void ov_company_want(struct ov_company *c, unsigned cpus)
{
	unsigned readers = cpus;

	if (c->clients >= 2 * cpus)
		readers = cpus / 2;
	else if (c->clients < cpus)
		readers = c->clients > 2 ? c->clients : 2;
	SET(c->left, SIDE_BY_SIDE);
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
	__atomic_sub_fetch(&c->left, 1, __ATOMIC_RELAXED);
}

bool ov_company_is_too_large(const struct ov_company *c)
{
	return GET(c->there) > GET(c->wanted) || GET(c->left) <= 0;
}
