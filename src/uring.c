/* SPDX-License-Identifier: GPL-2.0-or-later */
#define FUSE_USE_VERSION 314
#include "uring.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <linux/io_uring.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>

#include "log.h"
#include "transport.h"
#include "util.h"

/* What is younger than the headers of the floor; the numbers and layouts are those of the kernel's linux/fuse.h 7.42. */
#define CMD_REGISTER 1
#define CMD_COMMIT_AND_FETCH 2

struct uring_header {
	char in_out[128];    /* struct fuse_in_header, and struct fuse_out_header back */
	char op_in[128];     /* the first argument of the request; the others are in the payload */
	uint64_t flags;
	uint64_t commit_id;  /* names the request in the answer */
	uint32_t payload_sz; /* of the request, and of the reply */
	uint32_t padding;
	uint64_t reserved;
};

struct uring_cmd {
	uint64_t flags;
	uint64_t commit_id;
	uint16_t qid;
	uint8_t padding[6];
};
_Static_assert(sizeof(struct uring_header) == 288 && sizeof(struct uring_cmd) == 24, "as the kernel has them");

#define SQE_SIZE 128
#define CPUS_MAX 1024
#define DEPTH_MIN 2
#define FDS_SHARE 8      /* this part of the descriptors that we may have, for rings */
#define THREADS_MAX 256  /* with the smallest depth it may be more */
#define FREE_TIMEOUT 1   /* seconds */
#define IDLE_TIMEOUT 5   /* seconds after which the memory of big requests and replies is given back */
#define SMALL (64 * 1024)

struct ring {
	int fd;
	void *mem, *sqes;
	size_t mem_size, sqes_size;
	uint32_t *sq_head, *sq_tail, *cq_head, *cq_tail;
	uint32_t sq_mask, cq_mask;
	struct io_uring_cqe *cqes;
};

/*
 * A buffer of the kernel's: a page with the header at its start, then the payload. Where the page ends the headers of a request
 * are put together, so that they stand before the payload as read() would have given them.
 */
struct entry {
	unsigned qid;
	char *mem, *payload;
	struct iovec iov[2];
};

/* A thread, and its ring. Those of CPUs that are off have one entry in each of their queues, the others one in all. */
struct server {
	struct ov_uring *u;
	pthread_t thread;
	bool created;
	bool pinned;      /* it belongs to a CPU */
	unsigned nentries;
	unsigned live;    /* entries that the kernel knows */
	bool grown;       /* a big request or reply has touched a payload */
	struct entry *entries;
	struct ring ring;
};

enum state { PREPARING, STARTED, QUITTING };

struct ov_uring {
	struct ov_uring_config cfg;
	int fd;            /* /dev/fuse */
	size_t payload;    /* most bytes of a request or a reply, headers not counted */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	enum state state;
	unsigned reported; /* threads that are ready, or failed */
	unsigned alive;
	int error;         /* of those that failed */
	unsigned depth;
	unsigned ncpus;
	bool online[CPUS_MAX];
	bool served;       /* atomic: there was a request */
	bool failed;       /* atomic: an entry was not taken, before any request */
	unsigned *waiting; /* atomic, a CPU: threads between begin_wait and end_wait */
	unsigned nservers;
	struct server *servers;
};

static __thread struct server *self;

/* ---- the ring ---- */

static void close_ring(struct ring *r)
{
	if (r->fd >= 0)
		close(r->fd);
	if (r->sqes)
		munmap(r->sqes, r->sqes_size);
	if (r->mem)
		munmap(r->mem, r->mem_size);
	*r = (struct ring){.fd = -1};
}

static int map_ring(struct ring *r, const struct io_uring_params *p)
{
	size_t sq = p->sq_off.array + p->sq_entries * sizeof(uint32_t);
	size_t cq = p->cq_off.cqes + p->cq_entries * sizeof(struct io_uring_cqe);
	uint32_t *array;
	char *at;

	if (!(p->features & IORING_FEAT_SINGLE_MMAP))
		return -ENOSYS;
	r->mem_size = sq > cq ? sq : cq;
	r->mem = mmap(NULL, r->mem_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, r->fd, IORING_OFF_SQ_RING);
	if (r->mem == MAP_FAILED) {
		r->mem = NULL;
		return -errno;
	}
	r->sqes_size = (size_t)p->sq_entries * SQE_SIZE;
	r->sqes = mmap(NULL, r->sqes_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, r->fd, IORING_OFF_SQES);
	if (r->sqes == MAP_FAILED) {
		r->sqes = NULL;
		return -errno;
	}
	at = r->mem;
	r->sq_head = (uint32_t *)(void *)(at + p->sq_off.head);
	r->sq_tail = (uint32_t *)(void *)(at + p->sq_off.tail);
	r->cq_head = (uint32_t *)(void *)(at + p->cq_off.head);
	r->cq_tail = (uint32_t *)(void *)(at + p->cq_off.tail);
	r->sq_mask = p->sq_entries - 1;
	r->cq_mask = p->cq_entries - 1;
	r->cqes = (struct io_uring_cqe *)(void *)(at + p->cq_off.cqes);
	array = (uint32_t *)(void *)(at + p->sq_off.array);
	for (uint32_t n = 0; n < p->sq_entries; n++)
		array[n] = n;
	return 0;
}

/* Only the thread that opens a ring may use it; it has at most ENTRIES commands on the way. */
static int open_ring(struct ring *r, unsigned entries)
{
	struct io_uring_params p = {
		.flags = IORING_SETUP_SQE128 | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SUBMIT_ALL};
	int err;

	r->fd = (int)syscall(SYS_io_uring_setup, entries, &p);
	if (r->fd < 0)
		return -errno;
	(void)fcntl(r->fd, F_SETFD, FD_CLOEXEC);
	err = map_ring(r, &p);
	if (err < 0)
		close_ring(r);
	return err;
}

/* Queue a command about entry N of T. */
static void push(struct server *t, unsigned n, uint32_t op, uint64_t commit_id)
{
	struct ring *r = &t->ring;
	struct entry *e = &t->entries[n];
	uint32_t tail = *r->sq_tail;
	struct io_uring_sqe *sqe = (void *)((char *)r->sqes + (size_t)(tail & r->sq_mask) * SQE_SIZE);
	struct uring_cmd cmd = {.commit_id = commit_id, .qid = (uint16_t)e->qid};

	memset(sqe, 0, SQE_SIZE);
	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = t->u->fd;
	sqe->cmd_op = op;
	sqe->user_data = n;
	if (op == CMD_REGISTER) {
		sqe->addr = (uint64_t)(uintptr_t)e->iov;
		sqe->len = OV_ARRAY_SIZE(e->iov);
	}
	memcpy(sqe->cmd, &cmd, sizeof(cmd));
	__atomic_store_n(r->sq_tail, tail + 1, __ATOMIC_RELEASE);
}

/* Hand over what was pushed and wait for a completion, for IDLE_TIMEOUT or without limit. 0 or -errno. */
static int enter(struct ring *r, bool limited)
{
	uint32_t pushed = *r->sq_tail - __atomic_load_n(r->sq_head, __ATOMIC_ACQUIRE);
	struct __kernel_timespec ts = {.tv_sec = IDLE_TIMEOUT};
	struct io_uring_getevents_arg arg = {.ts = (uint64_t)(uintptr_t)&ts};
	long n;

	if (limited)
		n = syscall(SYS_io_uring_enter, r->fd, pushed, 1, IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, &arg, sizeof(arg));
	else
		n = syscall(SYS_io_uring_enter, r->fd, pushed, 1, IORING_ENTER_GETEVENTS, NULL, 0);
	return n < 0 ? -errno : 0;
}

static bool next_completion(struct ring *r, struct io_uring_cqe *cqe)
{
	uint32_t head = *r->cq_head;

	if (head == __atomic_load_n(r->cq_tail, __ATOMIC_ACQUIRE))
		return false;
	*cqe = r->cqes[head & r->cq_mask];
	__atomic_store_n(r->cq_head, head + 1, __ATOMIC_RELEASE);
	return true;
}

/* ---- serving ---- */

/* Put the headers of the request before its payload: its start; NULL if it is none that we could know. */
static char *put_together(const struct entry *e, const struct fuse_in_header *in)
{
	const struct uring_header *h = (const void *)e->mem;
	size_t op_len = in->len - sizeof(*in) - h->payload_sz;
	char *start;

	if (in->len < sizeof(*in) || in->len - sizeof(*in) < h->payload_sz || op_len > sizeof(h->op_in) || op_len % 8)
		return NULL;
	start = e->payload - op_len - sizeof(*in);
	memcpy(start, in, sizeof(*in));
	memcpy(start + sizeof(*in), h->op_in, op_len);
	return start;
}

/* A request is in entry N: serve it, and have its reply handed over. */
static void serve_request(struct server *t, unsigned n)
{
	const struct ov_uring_config *cfg = &t->u->cfg;
	struct entry *e = &t->entries[n];
	struct uring_header *h = (void *)e->mem;
	struct ov_reply reply = {.data = e->payload, .room = t->u->payload};
	struct fuse_out_header out;
	struct fuse_in_header in;
	char *start;

	if (!__atomic_load_n(&t->u->served, __ATOMIC_RELAXED))
		__atomic_store_n(&t->u->served, true, __ATOMIC_RELAXED);
	memcpy(&in, h->in_out, sizeof(in));
	start = put_together(e, &in);
	if (start)
		cfg->serve(cfg->arg, start, in.len, &reply);
	if (!reply.done) {
		ov_warn("request %u of %u bytes is not understood", in.opcode, in.len);
		reply.error = -EIO;
	}
	out = (struct fuse_out_header){
		.len = (uint32_t)(sizeof(out) + reply.size), .error = reply.error, .unique = in.unique};
	memcpy(h->in_out, &out, sizeof(out));
	h->payload_sz = (uint32_t)reply.size;
	if (in.len > SMALL || reply.size > SMALL)
		t->grown = true;
	push(t, n, CMD_COMMIT_AND_FETCH, h->commit_id);
}

/* Nothing came for a while. The kernel writes into the payloads only while this thread waits in enter(). */
static void shrink(struct server *t)
{
	for (unsigned n = 0; n < t->nentries; n++)
		(void)madvise(t->entries[n].payload + SMALL, t->u->payload - SMALL, MADV_DONTNEED);
	t->grown = false;
}

/* The kernel gives entry N back with ERROR: as a rule because the connection has ended. */
static void lose_entry(struct server *t, unsigned n, int error)
{
	struct ov_uring *u = t->u;

	t->live--;
	if (error == -ENOTCONN || error == -ECONNABORTED || error == -ECANCELED)
		return;
	if (!__atomic_load_n(&u->served, __ATOMIC_RELAXED)) {
		if (!__atomic_exchange_n(&u->failed, true, __ATOMIC_RELAXED))
			ov_info("no FUSE over io_uring after all: %s", strerror(-error));
		return;
	}
	ov_warn("io_uring: the kernel refuses an entry of queue %u: %s", t->entries[n].qid, strerror(-error));
}

static void serve_ring(struct server *t)
{
	struct io_uring_cqe cqe;

	for (t->live = 0; t->live < t->nentries; t->live++)
		push(t, t->live, CMD_REGISTER, 0);
	while (t->live) {
		bool any = false;
		int r = enter(&t->ring, t->grown);

		if (r < 0 && r != -EINTR && r != -EAGAIN && r != -EBUSY && r != -ETIME) {
			ov_error("io_uring_enter: %s", strerror(-r));
			return;
		}
		while (next_completion(&t->ring, &cqe)) {
			any = true;
			if (cqe.res < 0)
				lose_entry(t, (unsigned)cqe.user_data, cqe.res);
			else
				serve_request(t, (unsigned)cqe.user_data);
		}
		if (r == -ETIME && !any)
			shrink(t);
	}
}

/* ---- threads ---- */

/* Untouched memory costs nothing: of most entries it is the first page or two. */
static int map_entries(struct server *t)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);

	for (unsigned n = 0; n < t->nentries; n++) {
		struct entry *e = &t->entries[n];
		void *mem = mmap(NULL, page + t->u->payload, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
				 -1, 0);

		if (mem == MAP_FAILED)
			return -errno;
		e->mem = mem;
		e->payload = e->mem + page;
		e->iov[0] = (struct iovec){.iov_base = e->mem, .iov_len = sizeof(struct uring_header)};
		e->iov[1] = (struct iovec){.iov_base = e->payload, .iov_len = t->u->payload};
	}
	return 0;
}

static void unmap_entries(struct server *t)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);

	for (unsigned n = 0; n < t->nentries; n++)
		if (t->entries[n].mem)
			munmap(t->entries[n].mem, page + t->u->payload);
}

/* Report how the preparations went; true when it is time to serve. */
static bool wait_for_start(struct server *t, int error)
{
	struct ov_uring *u = t->u;
	bool go;

	pthread_mutex_lock(&u->lock);
	u->reported++;
	if (error < 0)
		u->error = error;
	pthread_cond_broadcast(&u->changed);
	while (u->state == PREPARING)
		pthread_cond_wait(&u->changed, &u->lock);
	go = u->state == STARTED;
	pthread_mutex_unlock(&u->lock);
	return go;
}

static void pin(const struct server *t)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(t->entries[0].qid, &set);
	if (sched_setaffinity(0, sizeof(set), &set) < 0)
		ov_debug("a thread cannot stay on CPU %u: %s", t->entries[0].qid, strerror(errno));
}

static void *server(void *arg)
{
	struct server *t = arg;
	struct ov_uring *u = t->u;
	int r;

	self = t;
	if (t->pinned)
		pin(t);
	r = open_ring(&t->ring, t->nentries);
	if (r == 0)
		r = map_entries(t);
	if (wait_for_start(t, r))
		serve_ring(t);
	close_ring(&t->ring);
	unmap_entries(t);
	u->cfg.thread_end();
	pthread_mutex_lock(&u->lock);
	u->alive--;
	pthread_cond_broadcast(&u->changed);
	pthread_mutex_unlock(&u->lock);
	return NULL;
}

/* "0-3,8": a flag for each CPU of the list into SET; how many they are, or -errno. */
static int read_cpus(const char *path, bool set[CPUS_MAX])
{
	ov_cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
	int count = 0;
	char text[4096], *at = text;
	ssize_t n;

	memset(set, 0, CPUS_MAX * sizeof(set[0]));
	n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (n < 0)
		return -errno;
	text[n] = '\0';
	while (*at >= '0' && *at <= '9') {
		unsigned long first = strtoul(at, &at, 10);
		unsigned long last = *at == '-' ? strtoul(at + 1, &at, 10) : first;

		if (last >= CPUS_MAX)
			return -E2BIG;
		for (; first <= last; first++, count++)
			set[first] = true;
		at += *at == ',';
	}
	return count;
}

static int add_server(struct ov_uring *u, bool pinned, unsigned nentries)
{
	struct server *t = &u->servers[u->nservers];

	*t = (struct server){.u = u, .pinned = pinned, .nentries = nentries, .ring.fd = -1};
	t->entries = calloc(nentries, sizeof(*t->entries));
	if (!t->entries)
		return -ENOMEM;
	u->nservers++;
	return 0;
}

/* DEPTH threads for each CPU that is on; the queues of the others, whose CPUs may come later, share two. */
static int plan(struct ov_uring *u)
{
	unsigned off = 0;
	int r = 0;

	for (unsigned cpu = 0; cpu < u->ncpus; cpu++)
		off += !u->online[cpu];
	u->servers = calloc((size_t)u->ncpus * u->depth + 2, sizeof(*u->servers));
	u->waiting = calloc(u->ncpus, sizeof(*u->waiting));
	if (!u->servers || !u->waiting)
		return -ENOMEM;
	for (unsigned cpu = 0; cpu < u->ncpus; cpu++) {
		for (unsigned n = 0; u->online[cpu] && r == 0 && n < u->depth; n++) {
			r = add_server(u, true, 1);
			if (r == 0)
				u->servers[u->nservers - 1].entries[0].qid = cpu;
		}
	}
	for (unsigned spare = 0; off && r == 0 && spare < 2; spare++) {
		r = add_server(u, false, off);
		for (unsigned cpu = 0, n = 0; r == 0 && cpu < u->ncpus; cpu++)
			if (!u->online[cpu])
				u->servers[u->nservers - 1].entries[n++].qid = cpu;
	}
	return r;
}

static int create_threads(struct ov_uring *u)
{
	int r = 0;

	for (unsigned n = 0; r == 0 && n < u->nservers; n++) {
		r = -pthread_create(&u->servers[n].thread, NULL, server, &u->servers[n]);
		if (r == 0) {
			u->servers[n].created = true;
			pthread_mutex_lock(&u->lock);
			u->alive++;
			pthread_mutex_unlock(&u->lock);
		}
	}
	return r;
}

/* Until all threads have reported. */
static int await_threads(struct ov_uring *u)
{
	int r;

	pthread_mutex_lock(&u->lock);
	while (u->reported < u->nservers)
		pthread_cond_wait(&u->changed, &u->lock);
	r = u->error;
	pthread_mutex_unlock(&u->lock);
	return r;
}

/* How many threads for each of NCPUS: WANT if that are not too many in all. -EMFILE: even the fewest are. */
static int choose_depth(unsigned ncpus, unsigned want)
{
	unsigned most = THREADS_MAX / ncpus, depth;
	struct rlimit rl;

	depth = want < most ? want : most;
	if (depth < DEPTH_MIN)
		depth = DEPTH_MIN;
	if (getrlimit(RLIMIT_NOFILE, &rl) < 0)
		return (int)depth;
	while (depth > DEPTH_MIN && (rlim_t)depth * ncpus > rl.rlim_cur / FDS_SHARE)
		depth--;
	return (rlim_t)depth * ncpus > rl.rlim_cur / FDS_SHARE ? -EMFILE : (int)depth;
}

int ov_uring_new(struct ov_uring **out, const struct ov_uring_config *cfg)
{
	struct ov_uring *u = calloc(1, sizeof(*u));
	bool possible[CPUS_MAX];
	int r;

	*out = NULL;
	if (!u)
		return -ENOMEM;
	u->cfg = *cfg;
	r = read_cpus("/sys/devices/system/cpu/possible", possible);
	if (r > 0) {
		u->ncpus = (unsigned)r;
		r = choose_depth(u->ncpus, cfg->depth);
	}
	if (r > 0) {
		u->depth = (unsigned)r;
		/* the kernel's queues are numbered by CPU and as many as there are */
		r = possible[u->ncpus - 1] ? read_cpus("/sys/devices/system/cpu/online", u->online) : -ENOTSUP;
	}
	if (r <= 0) {
		free(u);
		return r < 0 ? r : -ENODEV;
	}
	pthread_mutex_init(&u->lock, NULL);
	pthread_cond_init(&u->changed, NULL);
	*out = u;
	return 0;
}

/* Out of PREPARING, once. */
static void set_state(struct ov_uring *u, enum state state)
{
	pthread_mutex_lock(&u->lock);
	if (u->state == PREPARING)
		u->state = state;
	pthread_cond_broadcast(&u->changed);
	pthread_mutex_unlock(&u->lock);
}

int ov_uring_prepare(struct ov_uring *u, int fd, size_t payload)
{
	int r;

	u->fd = fd;
	u->payload = payload;
	r = plan(u);
	if (r == 0)
		r = create_threads(u);
	if (r == 0)
		r = await_threads(u);
	if (r < 0)
		set_state(u, QUITTING);
	return r;
}

void ov_uring_start(struct ov_uring *u)
{
	set_state(u, STARTED);
}

bool ov_uring_failed(const struct ov_uring *u)
{
	return __atomic_load_n(&u->failed, __ATOMIC_RELAXED);
}

bool ov_uring_is_here(void)
{
	return self != NULL;
}

bool ov_uring_begin_wait(struct ov_uring *u)
{
	unsigned *waiting;

	if (!self || self->u != u || !self->pinned)
		return false; /* while this one waits, all its queues may depend on it */
	waiting = &u->waiting[self->entries[0].qid];
	if (__atomic_add_fetch(waiting, 1, __ATOMIC_RELAXED) < u->depth)
		return true;
	__atomic_sub_fetch(waiting, 1, __ATOMIC_RELAXED);
	return false;
}

void ov_uring_end_wait(void)
{
	__atomic_sub_fetch(&self->u->waiting[self->entries[0].qid], 1, __ATOMIC_RELAXED);
}

/* True when no thread is left. */
static bool await_end(struct ov_uring *u)
{
	struct timespec until;
	bool over;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += FREE_TIMEOUT;
	pthread_mutex_lock(&u->lock);
	while (u->alive && pthread_cond_timedwait(&u->changed, &u->lock, &until) == 0)
		;
	over = u->alive == 0;
	pthread_mutex_unlock(&u->lock);
	return over;
}

bool ov_uring_free(struct ov_uring *u)
{
	if (!u)
		return true;
	set_state(u, QUITTING);
	if (!await_end(u))
		return false;
	for (unsigned n = 0; n < u->nservers; n++) {
		if (u->servers[n].created)
			pthread_join(u->servers[n].thread, NULL);
		free(u->servers[n].entries);
	}
	free(u->servers);
	free(u->waiting);
	pthread_mutex_destroy(&u->lock);
	pthread_cond_destroy(&u->changed);
	free(u);
	return true;
}
