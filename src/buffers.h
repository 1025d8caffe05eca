/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_BUFFERS_H
#define OV_BUFFERS_H

/*
 * Memory to read requests into. A thread takes a buffer when it begins to read and gives it back when others read instead of it:
 * there are as many as threads ever read or served at a time, not as many as there are threads.
 */

#include <pthread.h>
#include <stdbool.h>

#define OV_BUFFERS_MAX 64

struct overlay;

struct ov_buffers {
	struct overlay *ov;
	pthread_mutex_t lock; /* innermost; of all that follows */
	void *free[OV_BUFFERS_MAX];
	unsigned nfree;
	unsigned nledger; /* those of OV's ledger that have been used */
};

void ov_buffers_init(struct ov_buffers *b, struct overlay *ov);

/* All have been given back. */
void ov_buffers_destroy(struct ov_buffers *b);

/*
 * A buffer that was USED before, else a new one of the ledger if that outlives this process, else NULL: libfuse then makes one,
 * with malloc(), which may be given to us.
 */
void *ov_buffers_take(struct ov_buffers *b, bool *used);
void ov_buffers_give(struct ov_buffers *b, void *mem);

#endif
