/* SPDX-License-Identifier: GPL-2.0-or-later */
#define FUSE_USE_VERSION 314
#include "inflight.h"

#include <linux/fuse.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>

#include "crash.h"
#include "log.h"

#define NO_REQUEST UINT64_MAX
#define CRASHES_MAX 2  /* a request at which so many workers have crashed is refused */
#define USELESS_MAX 15 /* the same for deaths of any kind between which nothing else was served */

static __thread struct ov_inflight *inflight; /* NULL in a thread that serves nothing */
static __thread struct ov_ledger *ledger;

void ov_inflight_attach(struct ov_ledger *l, struct ov_inflight *at)
{
	ledger = l;
	inflight = at;
	if (at)
		ov_inode_notes_raised_in(&at->nraised, l->raised[at - l->inflight]);
}

static struct ov_strike *find_strike(struct ov_ledger *l, uint64_t unique)
{
	for (unsigned n = 0; n < OV_LEDGER_STRIKES; n++)
		if (__atomic_load_n(&l->strikes[n].unique, __ATOMIC_ACQUIRE) == unique)
			return &l->strikes[n];
	return NULL;
}

/* The entry for UNIQUE; the one that has not been heard of for the longest time makes room for a new one. */
static struct ov_strike *get_strike(struct ov_ledger *l, uint64_t unique)
{
	struct ov_strike *s = find_strike(l, unique);

	if (s)
		return s;
	s = &l->strikes[0];
	for (unsigned n = 1; n < OV_LEDGER_STRIKES; n++)
		if (!l->strikes[n].unique || (s->unique && l->strikes[n].restart < s->restart))
			s = &l->strikes[n];
	*s = (struct ov_strike){.unique = unique};
	return s;
}

void ov_inflight_note_made(struct overlay *ov)
{
	struct ov_ledger *l = ov->ledger;

	for (unsigned n = 0; n < OV_LEDGER_STRIKES; n++)
		if (l->strikes[n].unique && ov_rename_was_made(ov, l->strikes[n].unique))
			l->strikes[n].done = 1;
	ov_forget_rename(ov);
}

/*
 * What request S was found to have counted when its worker died is kept, and counts, until the kernel gives the request again
 * (or takes an error for it): then it has not got the answer, and what that would have told it of does not count. A request
 * that is not given again was answered, but for one: the kernel drops it if its caller is killed while it waits to be read
 * again. The two cannot be told apart, so what that one has counted stays known until the mount ends; that does less harm than
 * to lose an inode that the kernel knows.
 */
static void keep_raised(struct ov_ledger *l, struct ov_strike *s, const struct ov_inflight *at)
{
	const uint64_t *from = l->raised[at - l->inflight];
	uint64_t *to = l->strike_raised[s - l->strikes];

	for (uint32_t n = 0; n < at->nraised && n < OV_LEDGER_RAISED && s->nraised < OV_LEDGER_RAISED; n++)
		if (from[n])
			to[s->nraised++] = from[n]; /* behind what is left of those before, where lowering them was cut short */
}

/* Lower the counts of the inodes in N entries of NODEIDS, which become 0. */
static void lower_all(struct overlay *ov, uint64_t *nodeids, uint32_t n)
{
	for (uint32_t k = 0; k < n && k < OV_LEDGER_RAISED; k++)
		if (nodeids[k])
			ov_inode_forget_noted(&ov->tab, nodeids[k], 1, &nodeids[k]);
}

static void lower_counts(struct overlay *ov, struct ov_strike *s)
{
	lower_all(ov, ov->ledger->strike_raised[s - ov->ledger->strikes], s->nraised);
	s->nraised = 0;
}

bool ov_inflight_settled(struct overlay *ov, int fd, const struct ov_request *rq)
{
	struct ov_strike *strike = find_strike(ov->ledger, rq->unique & ~OV_UNIQUE_RESEND);
	bool done = strike && strike->done;
	char path[512];

	if (strike)
		lower_counts(ov, strike);

	if (!strike || (!done && strike->crashes < CRASHES_MAX && strike->useless < USELESS_MAX))
		return false;
	if (!done)
		ov_error("%s at '%s' is refused: %u workers died of it", ov_stats_name(rq->opcode),
			 ov_path(ov, rq->nodeid, path, sizeof(path)), strike->deaths);
	(void)ov_transport_refuse(fd, rq->unique, done ? 0 : -EIO);
	return true;
}

void ov_inflight_begin(const struct ov_request *rq)
{
	if (!inflight)
		return;
	inflight->nodeid = rq->nodeid;
	inflight->opcode = rq->opcode;
	inflight->done = 0;
	inflight->nraised = 0;
	__atomic_store_n(&inflight->unique, rq->unique & ~OV_UNIQUE_RESEND, __ATOMIC_RELEASE);
}

void ov_inflight_end(const struct ov_request *rq)
{
	OV_CRASH("request.answered");
	if (!inflight)
		return;
	if (rq->unique & OV_UNIQUE_RESEND) {
		struct ov_strike *strike = find_strike(ledger, rq->unique & ~OV_UNIQUE_RESEND);

		if (strike)
			__atomic_store_n(&strike->unique, 0, __ATOMIC_RELEASE);
	}
	ov_inflight_answered(NULL, inflight);
}

void ov_inflight_answered(void *overlay OV_UNUSED, struct ov_inflight *at)
{
	at->served++;
	__atomic_store_n(&at->unique, 0, __ATOMIC_RELEASE);
}

void ov_inflight_unanswered(void *overlay, struct ov_inflight *at)
{
	struct overlay *ov = overlay;

	lower_all(ov, ov->ledger->raised[at - ov->ledger->inflight], at->nraised);
	ov_inflight_answered(ov, at);
}

uint64_t ov_inflight_request(void *arg OV_UNUSED)
{
	return ov_transport_current()->unique & ~OV_UNIQUE_RESEND;
}

bool ov_inflight_is_repeat(void *arg OV_UNUSED)
{
	return ov_transport_current()->unique & OV_UNIQUE_RESEND;
}

void ov_inflight_done(void *arg OV_UNUSED)
{
	if (inflight)
		__atomic_store_n(&inflight->done, 1, __ATOMIC_RELEASE);
}

/* A thread that crashes says at what. Then the default takes its course, a core dump included. */
static void on_crash(int sig)
{
	struct ov_inflight *at = inflight;

	if (ledger)
		__atomic_store_n(&ledger->blame, at ? at->unique : NO_REQUEST, __ATOMIC_RELEASE);
	(void)signal(sig, SIG_DFL);
	(void)raise(sig);
}

void ov_inflight_watch_crashes(void)
{
	static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT};
	struct sigaction sa = {.sa_handler = on_crash, .sa_flags = SA_NODEFER}, old;

	for (size_t n = 0; n < OV_ARRAY_SIZE(signals); n++)
		if (sigaction(signals[n], NULL, &old) == 0 && old.sa_handler == SIG_DFL) /* else it is a sanitizer's */
			(void)sigaction(signals[n], &sa, NULL);
}

bool ov_inflight_bury(struct ov_ledger *l, int sig, uint64_t *served_before)
{
	uint64_t served = 0;
	bool crash = sig == SIGSEGV || sig == SIGBUS || sig == SIGILL || sig == SIGFPE || sig == SIGABRT;
	bool progress;

	for (unsigned n = 0; n < OV_LEDGER_THREADS; n++)
		served += l->inflight[n].served;
	progress = served != *served_before;
	*served_before = served;
	l->restarts++;
	for (unsigned n = 0; n < OV_LEDGER_THREADS; n++) {
		struct ov_inflight *at = &l->inflight[n];
		struct ov_strike *strike;

		if (!at->unique)
			continue;
		strike = get_strike(l, at->unique);
		strike->restart = l->restarts;
		strike->deaths++;
		strike->useless = progress ? 0 : strike->useless + 1;
		strike->crashes += crash && (!l->blame || l->blame == at->unique);
		strike->done |= at->done;
		keep_raised(l, strike, at);
		at->unique = 0;
	}
	l->blame = 0;
	l->flushing = 0;
	return progress;
}

unsigned ov_inflight_refuse_all(struct overlay *ov, int fd)
{
	struct ov_ledger *l = ov->ledger;
	unsigned refused = 0;

	for (unsigned n = 0; n < OV_LEDGER_STRIKES; n++) {
		struct ov_strike *s = &l->strikes[n];

		if (!s->unique || s->restart != l->restarts || ov_transport_refuse(fd, s->unique, -EIO) < 0)
			continue;
		lower_counts(ov, s);
		refused++;
	}
	return refused;
}

/* ---- forgetting ---- */

static void forget_entry(struct overlay *ov, uint64_t nodeid, uint64_t *count)
{
	OV_CRASH("forget.entry");
	if (*count)
		ov_inode_forget_noted(&ov->tab, nodeid, *count, count);
}

/*
 * The entries of a BATCH_FORGET that the kernel was not given the time to hand over have no nodeid: it does so page by page,
 * and nothing of an earlier request is at the start of one (io_read() in transport.c).
 */
static size_t forget_batch(struct overlay *ov, struct fuse_batch_forget_in *arg, size_t room)
{
	struct fuse_forget_one *f = (struct fuse_forget_one *)(arg + 1);
	size_t n;

	for (n = 0; n < arg->count && n < room / sizeof(*f) && f[n].nodeid; n++)
		forget_entry(ov, f[n].nodeid, (uint64_t *)&f[n].nlookup);
	return n;
}

size_t ov_inflight_forget(struct overlay *ov, void *mem, size_t size)
{
	struct fuse_in_header *in = mem;
	struct fuse_forget_in *one = (void *)(in + 1);
	struct fuse_batch_forget_in *batch = (void *)(in + 1);

	if (size < sizeof(*in))
		return 0;
	if (in->len < size)
		size = in->len;
	if (in->opcode == FUSE_FORGET && size >= sizeof(*in) + sizeof(*one)) {
		forget_entry(ov, in->nodeid, (uint64_t *)&one->nlookup);
		return 1;
	}
	if (in->opcode == FUSE_BATCH_FORGET && size >= sizeof(*in) + sizeof(*batch))
		return forget_batch(ov, batch, size - sizeof(*in) - sizeof(*batch));
	return 0;
}

void ov_inflight_forget_rest(struct overlay *ov)
{
	struct ov_ledger *l = ov->ledger;

	for (unsigned n = 0; n < l->nbuffers && n < OV_LEDGER_BUFFERS; n++) {
		(void)ov_inflight_forget(ov, l->buffers[n], OV_LEDGER_REQUEST);
		(void)madvise(l->buffers[n], OV_LEDGER_REQUEST, MADV_REMOVE); /* we may need fewer; where it fails they stay */
	}
	l->nbuffers = 0;
}
