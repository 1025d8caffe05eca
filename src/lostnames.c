/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "lostnames.h"

#include <string.h>

void ov_lostnames_init(struct ov_lostnames *l)
{
	memset(l, 0, sizeof(*l));
	pthread_mutex_init(&l->lock, NULL);
}

void ov_lostnames_destroy(struct ov_lostnames *l)
{
	pthread_mutex_destroy(&l->lock);
}

void ov_lostnames_add(struct ov_lostnames *l, uint64_t nodeid, uint32_t tid, uint64_t now)
{
	uint64_t until = now + OV_LOSTNAME_MS * 1000000ull;
	unsigned n;

	pthread_mutex_lock(&l->lock);
	n = l->next++ % OV_LOSTNAMES; /* the oldest, should all be in use */
	l->e[n].nodeid = nodeid;
	l->e[n].until = until;
	l->e[n].tid = tid;
	__atomic_store_n(&l->until, until, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&l->lock);
}

bool ov_lostnames_has(struct ov_lostnames *l, uint64_t nodeid, uint32_t tid, uint64_t now)
{
	bool has = false;

	if (now >= __atomic_load_n(&l->until, __ATOMIC_ACQUIRE))
		return false;
	pthread_mutex_lock(&l->lock);
	for (unsigned n = 0; n < OV_LOSTNAMES && !has; n++)
		has = (l->e[n].nodeid == nodeid || !l->e[n].nodeid) && now < l->e[n].until && (l->e[n].tid != tid || !tid);
	pthread_mutex_unlock(&l->lock);
	return has;
}
