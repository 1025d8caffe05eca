/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "buffers.h"

#include <stdlib.h>

#include "ledger.h"
#include "overlay.h"

void ov_buffers_init(struct ov_buffers *b, struct overlay *ov)
{
	*b = (struct ov_buffers){.ov = ov};
	pthread_mutex_init(&b->lock, NULL);
}

/* The next one of the ledger: whoever goes on after this process finds there what it was told to forget. NULL: there are no more. */
static void *ledger_buffer(struct ov_buffers *b)
{
	struct ov_ledger *l = b->ov->ledger;

	if (b->nledger >= OV_LEDGER_BUFFERS)
		return NULL;
	if (b->nledger >= l->nbuffers)
		l->nbuffers = b->nledger + 1;
	return l->buffers[b->nledger++];
}

static bool is_of_ledger(const struct ov_ledger *l, const void *mem)
{
	uintptr_t at = (uintptr_t)mem - (uintptr_t)l->buffers;

	return at < sizeof(l->buffers);
}

void ov_buffers_destroy(struct ov_buffers *b)
{
	while (b->nfree--)
		if (!is_of_ledger(b->ov->ledger, b->free[b->nfree]))
			free(b->free[b->nfree]);
	pthread_mutex_destroy(&b->lock);
}

void *ov_buffers_take(struct ov_buffers *b, bool *used)
{
	void *mem = NULL;

	pthread_mutex_lock(&b->lock);
	*used = b->nfree;
	if (b->nfree)
		mem = b->free[--b->nfree];
	else if (b->ov->arena.fd >= 0)
		mem = ledger_buffer(b);
	pthread_mutex_unlock(&b->lock);
	return mem;
}

void ov_buffers_give(struct ov_buffers *b, void *mem)
{
	if (!mem)
		return;
	pthread_mutex_lock(&b->lock);
	b->free[b->nfree++] = mem;
	pthread_mutex_unlock(&b->lock);
}
