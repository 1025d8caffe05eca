/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "crossing.h"

#include <string.h>

#define NS(ms) ((ms) * 1000000ull)

void ov_crossing_init(struct ov_crossing *c)
{
	memset(c, 0, sizeof(*c));
	pthread_mutex_init(&c->lock, NULL);
}

void ov_crossing_destroy(struct ov_crossing *c)
{
	pthread_mutex_destroy(&c->lock);
}

void ov_crossing_loses(struct ov_crossing *c, uint64_t nodeid, uint32_t tid, uint64_t now)
{
	uint64_t until = now + NS(OV_CROSSING_MS);
	unsigned n;

	pthread_mutex_lock(&c->lock);
	n = c->next++ % OV_CROSSING_LOST; /* the oldest, should all be in use */
	c->lost[n].nodeid = nodeid;
	c->lost[n].until = until;
	c->lost[n].tid = tid;
	__atomic_store_n(&c->lost_until, until, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&c->lock);
}

bool ov_crossing_has_lost(struct ov_crossing *c, uint64_t nodeid, uint32_t tid, uint64_t now)
{
	bool has = false;

	if (now >= __atomic_load_n(&c->lost_until, __ATOMIC_ACQUIRE))
		return false;
	pthread_mutex_lock(&c->lock);
	for (unsigned n = 0; n < OV_CROSSING_LOST && !has; n++)
		has = (c->lost[n].nodeid == nodeid || !c->lost[n].nodeid) && now < c->lost[n].until &&
		      (c->lost[n].tid != tid || !tid);
	pthread_mutex_unlock(&c->lock);
	return has;
}

void ov_crossing_tells(struct ov_crossing *c, uint64_t nodeid, uint32_t tid, uint64_t now)
{
	unsigned n = nodeid % OV_CROSSING_TOLD;

	pthread_mutex_lock(&c->lock);
	if (c->told[n].nodeid == nodeid && now < c->told[n].until && c->told[n].tid != tid)
		tid = 0;
	c->told[n].nodeid = nodeid;
	c->told[n].until = now + NS(OV_CROSSING_MS);
	c->told[n].tid = tid;
	pthread_mutex_unlock(&c->lock);
}

bool ov_crossing_was_told(struct ov_crossing *c, uint64_t nodeid, uint32_t tid, uint64_t now)
{
	unsigned n = nodeid % OV_CROSSING_TOLD;
	bool was;

	pthread_mutex_lock(&c->lock);
	was = c->told[n].nodeid == nodeid && now < c->told[n].until && (c->told[n].tid != tid || !tid);
	if (was)
		c->told[n].until = 0;
	pthread_mutex_unlock(&c->lock);
	return was;
}
