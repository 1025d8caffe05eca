/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_INFLIGHT_H
#define OV_INFLIGHT_H

/*
 * What each thread is at, written down in the ledger, for the case that the process dies of it; and what becomes of requests
 * that come a second time because it has: those that were carried out are only answered, those that kill every worker are
 * refused.
 */

#include "overlay.h"
#include "transport.h"

/*
 * The calling thread serves requests and has AT, of ledger L, to say so, instead of what it had before: that is left to whoever
 * sends the answer to the request that it tells of. NULL: it serves none, and no request is to blame if it crashes.
 */
void ov_inflight_attach(struct ov_ledger *l, struct ov_inflight *at);

/* Around each request that the thread serves. */
void ov_inflight_begin(const struct ov_request *rq);
void ov_inflight_end(const struct ov_request *rq);

/* By any thread, OVERLAY: the answer to the request of AT has been sent; or was not wanted: what it would have told of is forgotten. */
void ov_inflight_answered(void *overlay, struct ov_inflight *at);
void ov_inflight_unanswered(void *overlay, struct ov_inflight *at);

/* True if repeated request RQ needs no serving: it has been answered, on FD. */
bool ov_inflight_settled(struct overlay *ov, int fd, const struct ov_request *rq);

/* Carry out the FORGET or BATCH_FORGET in the SIZE bytes at MEM, as far as that has not been done. How many entries it has. */
size_t ov_inflight_forget(struct overlay *ov, void *mem, size_t size);

/* What the last worker was told to forget and has not got to. Before any thread reads requests. */
void ov_inflight_forget_rest(struct overlay *ov);

/* For ov_hooks: see there. */
uint64_t ov_inflight_request(void *arg);
bool ov_inflight_is_repeat(void *arg);
void ov_inflight_done(void *arg);

/* From now on a thread that crashes leaves word at what, before the default takes its course. */
void ov_inflight_watch_crashes(void);

/*
 * The process whose threads have written into L has died of SIGNAL. *SERVED: of the last call. True if more was served
 * since.
 */
bool ov_inflight_bury(struct ov_ledger *l, int signal, uint64_t *served);

/* The core has found out whether the rename was made in which the last worker died: take that down. */
void ov_inflight_note_made(struct overlay *ov);

/* Answer everything that the last worker was at with EIO on FD; how many requests that were. */
unsigned ov_inflight_refuse_all(struct overlay *ov, int fd);

#endif
