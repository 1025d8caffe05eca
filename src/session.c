/* SPDX-License-Identifier: GPL-2.0-or-later */
#define FUSE_USE_VERSION 314
#include "session.h"

#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <linux/fuse.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "buffers.h"
#include "company.h"
#include "inflight.h"
#include "keepfds.h"
#include "leader.h"
#include "log.h"
#include "mountns.h"
#include "mountpoint.h"
#include "notify.h"
#include "ops.h"
#include "poller.h"
#include "poster.h"
#include "scout.h"
#include "sys/io.h"
#include "transport.h"
#include "uring.h"

#define TIMEOUT_UNLIMITED 1e9 /* seconds; the kernel adds it to jiffies, so not more */
#define THREADS_DEFAULT 8
#define THREADS_MAX OV_BUFFERS_MAX
#define START_TIMEOUT_MS 20000
#define STOP_TRIES 500
#define STOP_PAUSE_MS 10
#define GATHER_MS 5

struct ov_session;

struct ov_thread {
	struct ov_session *s;
	struct ov_inflight *inflight; /* atomic; in the ledger: what it is at */
	struct ov_post *post;         /* for the reply to it, or NULL */
	struct ov_seat seat;
	pthread_t id;
};

struct ov_session {
	struct ov_front front;
	const struct ov_params *params;
	struct overlay *ov;
	struct fuse_session *se;
	char *mountpoint;         /* absolute, or "/dev/fd/N" */
	struct ov_mountns ns;
	bool fd_mount;            /* the caller mounted; we got the fd */
	int fd;                   /* /dev/fuse */
	int event;                /* eventfd: INIT answered, or a thread ended */
	bool started;
	bool unmounted;           /* atomic: somebody else did */
	unsigned ended;           /* atomic: threads that left the loop */
	unsigned nthreads;        /* atomic: the first threads serve while the others are started */
	struct ov_thread threads[THREADS_MAX];
	pid_t supervisor;         /* 0: none */
	char init[256];           /* the kernel's INIT request */
	size_t init_len;
	uint64_t served;          /* requests, at the last death of a worker */
	struct ov_fdlist fds;     /* those that a worker starts with: all others are left by the one before it */
	struct ov_leader leader;
	struct ov_buffers buffers;
	struct ov_poller poller;  /* the leader's, as is the next one */
	struct ov_poster *poster; /* or NULL */
	struct ov_company company;
	struct ov_uring *uring;   /* or NULL */
	bool uring_on;            /* it serves most requests */
	struct ov_notify notify;
	struct ov_scout scout;
	unsigned flushing;        /* atomic: threads that wait in flush_data() */
};

static __thread enum { FOLLOWS, LEADS, BESIDE } role; /* the last two read */
static __thread struct ov_thread *self; /* NULL in those that do not read */

static unsigned thread_total(const struct ov_session *s)
{
	return __atomic_load_n(&s->nthreads, __ATOMIC_ACQUIRE);
}

static void hand_on(void *arg)
{
	struct ov_session *s = arg;

	if (role == BESIDE)
		ov_company_leaves(&s->company);
	else if (role == LEADS && thread_total(s) > 1)
		ov_leader_hand_on(&s->leader, &self->seat);
	else
		return;
	role = FOLLOWS;
}

/* This thread will wait for others to serve: is there one that does not wait so already? */
static bool begin_wait(struct ov_session *s)
{
	if (ov_uring_is_here())
		return ov_uring_begin_wait(s->uring);
	if (__atomic_add_fetch(&s->flushing, 1, __ATOMIC_RELAXED) < thread_total(s))
		return true;
	__atomic_sub_fetch(&s->flushing, 1, __ATOMIC_RELAXED);
	return false;
}

static void end_wait(struct ov_session *s)
{
	if (ov_uring_is_here())
		ov_uring_end_wait();
	else
		__atomic_sub_fetch(&s->flushing, 1, __ATOMIC_RELAXED);
}

static bool flush_data(void *arg, uint64_t nodeid)
{
	struct ov_session *s = arg;

	if (!s->front.writeback)
		return true;
	if (!begin_wait(s))
		return false;
	hand_on(s);
	ov_notify_pages(&s->notify, nodeid);
	end_wait(s);
	return true;
}

static void inval_attr(void *arg, uint64_t nodeid)
{
	struct ov_session *s = arg;

	ov_notify_attributes(&s->notify, nodeid);
}

static void loses_name(void *arg, uint64_t nodeid)
{
	struct ov_session *s = arg;

	ov_ops_loses_name(&s->front, nodeid);
}

static void inval_dir(void *arg, uint64_t nodeid)
{
	struct ov_session *s = arg;

	hand_on(s);
	ov_notify_listing(&s->notify, nodeid);
}

static void unlist(void *arg, uint64_t nodeid)
{
	struct ov_session *s = arg;

	ov_notify_listing_later(&s->notify, nodeid);
}

static void look_ahead(void *arg)
{
	struct ov_session *s = arg;

	ov_scout_wake(&s->scout);
}

bool ov_session_is_flushing(const struct ov_session *s)
{
	return __atomic_load_n(&s->ov->ledger->flushing, __ATOMIC_ACQUIRE) > 0;
}

/* What went wrong, and where. */
static void log_failure(void *arg, const struct ov_request *rq, int error)
{
	struct ov_session *s = arg;
	char path[512];

	ov_warn("%s at '%s' failed: %s", ov_stats_name(rq->opcode), ov_path(s->ov, rq->nodeid, path, sizeof(path)),
		strerror(error));
}

static void wake_main(struct ov_session *s)
{
	uint64_t one = 1;
	ssize_t n;

	do
		n = write(s->event, &one, sizeof(one));
	while (n < 0 && errno == EINTR);
}

static int ask_upgrade(void *arg)
{
	const struct ov_session *s = arg;

	if (!s->supervisor || getppid() != s->supervisor)
		return -EOPNOTSUPP;
	return kill(s->supervisor, SIGUSR2) < 0 ? -errno : 0;
}

/* The leader keeps its CPU near a client, and nowhere else. */
static void leave_unless_near(struct ov_session *s)
{
	if (!ov_poller_is_near(&s->poller))
		ov_seat_leave_cpu(&self->seat);
}

/* The leader has read a request: do several clients work at the same time? Then others read beside it. */
static void share_work(struct ov_session *s, uint32_t pid, uint64_t now)
{
	struct pollfd pfd = {.fd = s->fd, .events = POLLIN};
	bool seen, beside;

	if (s->poller.cpus < 2 || thread_total(s) < 2)
		return;
	seen = ov_company_is_mixed(&s->company, pid) &&
	       (ov_company_is_beside(&s->company, pid) || (poll(&pfd, 1, 0) > 0 && pfd.revents & POLLIN));
	beside = ov_company_goes_on(&s->company, seen, now);
	ov_company_want(&s->company, beside ? s->poller.cpus : 0);
	if (seen)
		ov_poller_note_company(&s->poller, beside);
	if (!beside)
		return;
	leave_unless_near(s);
	if (ov_company_is_short(&s->company) && ov_leader_call_beside(&s->leader))
		ov_company_joins(&s->company);
}

/* ---- serving ---- */

static void dispatch(struct ov_session *s, struct fuse_buf *buf, struct ov_reply *reply)
{
	const struct ov_request *rq = ov_transport_current();

	ov_transport_prepare(&s->front.transport, buf, reply);
	ov_inflight_begin(rq);
	if (!((rq->unique & OV_UNIQUE_RESEND) && ov_inflight_settled(s->ov, s->fd, rq)) && !ov_ops_raw(&s->front, buf))
		fuse_session_process_buf(s->se, buf);
	if (!reply || !reply->later || !reply->done)
		ov_inflight_end(rq);
}

/* The leader has read a request: is the reply to be posted? */
static void reserve_post(struct ov_session *s, const struct fuse_buf *buf)
{
	const struct fuse_in_header *in = buf->mem;
	const struct fuse_read_in *arg = (const void *)(in + 1);
	int cpu = ov_poller_posts(&s->poller) ? self->seat.cpu : -1;
	bool reads = in->opcode == FUSE_READ || in->opcode == FUSE_READDIR || in->opcode == FUSE_READDIRPLUS;

	ov_poster_settle(s->poster);
	if (in->unique & OV_UNIQUE_RESEND || (reads && arg->size > OV_POSTER_ROOM))
		cpu = -1;
	self->post = s->poster ? ov_poster_reserve(s->poster, in->pid, cpu) : NULL;
}

static void dispatch_posting(struct ov_session *s, struct fuse_buf *buf)
{
	struct ov_reply reply = {.data = ov_post_room(self->post), .room = OV_POSTER_ROOM, .later = true};
	struct ov_post *post = self->post;
	struct ov_inflight *other;

	self->post = NULL;
	dispatch(s, buf, &reply);
	if (!reply.done) {
		ov_post_release(post);
		return;
	}
	other = ov_poster_post(s->poster, post, ov_transport_current()->unique, reply.error, reply.size, self->inflight, role == LEADS);
	__atomic_store_n(&self->inflight, other, __ATOMIC_RELEASE);
	ov_inflight_attach(s->ov->ledger, other);
}

static void take_buffer(struct ov_session *s, struct fuse_buf *buf)
{
	bool used;

	if (buf->mem)
		return;
	buf->mem = ov_buffers_take(&s->buffers, &used);
	if (used)
		ov_transport_use_buffer(buf->mem);
}

static void give_buffer(struct ov_session *s, struct fuse_buf *buf)
{
	ov_buffers_give(&s->buffers, buf->mem);
	buf->mem = NULL;
}

static void serve_ring(void *arg, void *mem, size_t size, struct ov_reply *reply)
{
	struct fuse_buf buf = {.mem = mem, .size = size};

	dispatch(arg, &buf, reply);
}

static void no_uring(int error)
{
	ov_info("no FUSE over io_uring: %s", error == -EPERM ? "io_uring is not permitted here" : strerror(-error));
}

/* The kernel offers io_uring. */
static bool agree_uring(void *arg, size_t payload)
{
	struct ov_session *s = arg;
	int r = ov_uring_prepare(s->uring, s->fd, payload);

	if (r < 0)
		no_uring(r);
	s->uring_on = r == 0;
	return s->uring_on;
}

/* INIT is answered. Those that read /dev/fuse have little to do from now on, and nothing that is urgent. */
static void start_uring(struct ov_session *s)
{
	if (s->uring && !(s->front.transport.offered & OV_INIT_OVER_IO_URING))
		ov_info("no FUSE over io_uring: the kernel does not offer it (Linux 6.14, with enable_uring=Y for module fuse)");
	if (!s->uring_on)
		return;
	ov_uring_start(s->uring);
}

/* Before the mount namespace is left: afterwards there is no /sys. */
static void plan_uring(struct ov_session *s)
{
	struct ov_uring_config cfg = {
		.depth = s->params->uring_depth, .serve = serve_ring, .thread_end = ov_ops_thread_end, .arg = s};
	int r;

	if (s->params->single_thread) {
		ov_info("no FUSE over io_uring: it takes more than one thread");
		return;
	}
	r = ov_uring_new(&s->uring, &cfg);
	if (r < 0) {
		no_uring(r);
		return;
	}
	s->front.transport.agree_uring = agree_uring;
	s->front.transport.agree_uring_arg = s;
}

static void serve_one(struct ov_session *s, struct fuse_buf *buf)
{
	bool init = ((const struct fuse_in_header *)buf->mem)->opcode == FUSE_INIT;

	if (self && self->post)
		dispatch_posting(s, buf);
	else
		dispatch(s, buf, NULL);
	if (init && s->front.transport.agreed) {
		start_uring(s);
		s->started = true;
	}
}

static void new_poster(struct ov_session *s)
{
	_Static_assert(OV_LEDGER_THREADS >= THREADS_MAX + OV_POSTER_POSTS, "a record for each request at a time");
	static const struct ov_poster_ops ops = {.sent = ov_inflight_answered, .refused = ov_inflight_unanswered};
	struct ov_inflight *records[OV_POSTER_POSTS];

	for (unsigned n = 0; n < OV_POSTER_POSTS; n++)
		records[n] = &s->ov->ledger->inflight[THREADS_MAX + n];
	s->poster = ov_poster_new(s->fd, records, &ops, s->ov);
	if (s->poster)
		ov_poller_may_post(&s->poller);
}

static void init_poller(struct ov_session *s)
{
	/* if somebody else has mounted, the numbers of processes in requests may be those of another namespace than ours */
	bool follow = s->params->client_cpu && !s->params->single_thread && !s->fd_mount && ov_proc_is_ours();

	if (s->uring_on)
		ov_poller_init(&s->poller, s->fd, 0, false);
	else
		ov_poller_init(&s->poller, s->fd, s->params->poll, follow);
	if (!s->uring_on && follow && !s->poster)
		new_poster(s);
}

/* What comes here beside io_uring is FORGET: let some gather, the kernel then sends them in one. */
static void let_gather(struct ov_session *s)
{
	struct pollfd pfd = {.fd = s->fd, .events = POLLIN};

	if (ov_uring_failed(s->uring)) { /* then everything comes here */
		s->uring_on = false;
		init_poller(s);
		return;
	}
	if (poll(&pfd, 1, -1) > 0 && pfd.revents == POLLIN)
		poll(NULL, 0, GATHER_MS);
}

static void lead(struct ov_session *s)
{
	role = ov_leader_take(&s->leader, &self->seat) ? LEADS : BESIDE;
	if (role == LEADS)
		leave_unless_near(s);
}

#define NOT_ASKED (-2)

/* A request has been read. The CPU of its client, if that is asked for, -1: unknown, or NOT_ASKED. */
static int find_client(struct ov_session *s, const struct fuse_buf *buf)
{
	const struct fuse_in_header *in = buf->mem;

	if (!ov_poller_asks(&s->poller) || in->pid == 0 || !ov_leader_may_look(in))
		return NOT_ASKED;
	return ov_leader_find(&s->leader, in->pid);
}

/* It has been answered: the lead goes to the client's CPU, if it is far from there, and can. */
static void follow_client(struct ov_session *s, int cpu)
{
	int here = self->seat.cpu >= 0 ? self->seat.cpu : sched_getcpu();
	struct ov_seat *next = NULL;

	if (cpu == here && cpu >= 0) {
		ov_poller_looked(&s->poller, OV_LOOKED_WAS_NEAR);
		return;
	}
	if (!ov_poller_is_far(&s->poller)) {
		ov_poller_looked(&s->poller, OV_LOOKED_APART);
		return;
	}
	if (cpu >= 0)
		next = ov_leader_choose(&s->leader, cpu);
	ov_poller_looked(&s->poller, next ? OV_LOOKED_MOVED : OV_LOOKED_IN_VAIN);
	if (!next)
		return;
	ov_poster_aim(s->poster, cpu);
	role = FOLLOWS;
	ov_leader_call(next);
}

/* A request has been served by the leader. CPU: of its client, from find_client(). */
static void look_around(struct ov_session *s, int cpu)
{
	ov_poller_done(&s->poller, ov_poller_now());
	leave_unless_near(s);
	if (cpu != NOT_ASKED)
		follow_client(s, cpu);
}

/* The leader has read a request. */
static void serve_leading(struct ov_session *s, struct fuse_buf *buf)
{
	uint32_t pid = ((const struct fuse_in_header *)buf->mem)->pid;
	uint64_t now = ov_poller_now();
	int cpu;

	ov_poller_sent(&s->poller, ov_poster_last_sent(s->poster));
	ov_poller_read(&s->poller, now, pid == 0);
	share_work(s, pid, now);
	cpu = find_client(s, buf);
	reserve_post(s, buf);
	serve_one(s, buf);
	if (role == LEADS)
		look_around(s, cpu);
}

/* A thread beside it has. */
static void serve_beside(struct ov_session *s, struct fuse_buf *buf)
{
	ov_company_begin(&s->company, ((const struct fuse_in_header *)buf->mem)->pid);
	serve_one(s, buf);
	__atomic_add_fetch(&s->front.transport.stats.beside, 1, __ATOMIC_RELAXED);
	ov_company_end(&s->company);
	if (ov_company_is_too_large(&s->company))
		hand_on(s);
}

static void *worker(void *arg)
{
	struct ov_thread *t = arg;
	struct ov_session *s = t->s;
	struct fuse_buf buf = {.mem = NULL};

	ov_inflight_attach(s->ov->ledger, t->inflight);
	ov_seat_init(&t->seat);
	self = t;
	lead(s);
	while (!fuse_session_exited(s->se)) {
		int n;

		if (s->uring_on)
			let_gather(s);
		if (role == LEADS)
			ov_poller_wait(&s->poller);
		take_buffer(s, &buf);
		n = fuse_session_receive_buf(s->se, &buf);
		if (n == -EINTR || n == -EAGAIN)
			continue;
		if (n == -ENOMEM) {
			ov_error("out of memory for requests; waiting");
			poll(NULL, 0, 100);
			continue;
		}
		if (n == 0)
			__atomic_store_n(&s->unmounted, true, __ATOMIC_RELEASE);
		if (n <= 0)
			break;
		if (role == LEADS)
			serve_leading(s, &buf);
		else
			serve_beside(s, &buf);
		if (role == FOLLOWS) {
			give_buffer(s, &buf);
			lead(s);
		}
	}
	fuse_session_exit(s->se);
	if (role == LEADS)
		ov_leader_hand_on(&s->leader, &t->seat); /* so that the others find that out, too */
	role = FOLLOWS;
	give_buffer(s, &buf);
	ov_ops_thread_end();
	__atomic_add_fetch(&s->ended, 1, __ATOMIC_RELEASE);
	wake_main(s);
	return NULL;
}

/* ---- mounting ---- */

/* The last complaint of libfuse, to be part of our one line. */
static char fuse_complaint[256];

OV_PRINTF(2, 0)
static void keep_complaint(enum fuse_log_level level, const char *fmt, va_list ap)
{
	size_t len;

	if (level > FUSE_LOG_WARNING && ov_log_get_level() < OV_LOG_DEBUG)
		return;
	vsnprintf(fuse_complaint, sizeof(fuse_complaint), fmt, ap);
	len = strlen(fuse_complaint);
	while (len && fuse_complaint[len - 1] == '\n')
		fuse_complaint[--len] = '\0';
	ov_debug("%s", fuse_complaint);
}

/* "-o VALUE" with what libfuse's splitter would eat escaped. */
static int add_opt(struct fuse_args *args, const char *key, const char *value)
{
	size_t len = strlen(key) + 2 * strlen(value) + 1;
	ov_cleanup_free char *text = malloc(len);
	char *p = text;

	if (!text)
		return -ENOMEM;
	p = stpcpy(p, key);
	for (; *value; value++) {
		if (*value == ',' || *value == '\\')
			*p++ = '\\';
		*p++ = *value;
	}
	*p = '\0';
	return fuse_opt_add_arg(args, "-o") < 0 || fuse_opt_add_arg(args, text) < 0 ? -ENOMEM : 0;
}

static bool is_selinux_option(const char *opt)
{
	return strncmp(opt, "context=", 8) == 0 || strncmp(opt, "fscontext=", 10) == 0 ||
	       strncmp(opt, "defcontext=", 11) == 0 || strncmp(opt, "rootcontext=", 12) == 0;
}

static int kernel_opts(struct fuse_args *args, const struct ov_params *p)
{
	int r = 0;

	for (size_t n = 0; r == 0 && n < p->nkernel_opts; n++) {
		if (is_selinux_option(p->kernel_opts[n]) && access("/sys/fs/selinux", F_OK) < 0) {
			ov_warn("no SELinux here: option '%s' has no effect", p->kernel_opts[n]);
			continue;
		}
		r = add_opt(args, "", p->kernel_opts[n]);
	}
	return r;
}

static int build_args(struct fuse_args *args, const struct ov_params *p)
{
	int r = fuse_opt_add_arg(args, p->program) < 0 ? -ENOMEM : 0;

	if (r == 0)
		r = add_opt(args, "fsname=", p->fsname ? p->fsname : p->program);
	if (r == 0)
		r = add_opt(args, "subtype=", p->program);
	if (r == 0 && p->default_permissions)
		r = add_opt(args, "", "default_permissions");
	if (r == 0 && p->allow_other)
		r = add_opt(args, "", "allow_other");
	if (r == 0 && p->allow_root)
		r = add_opt(args, "", "allow_root");
	if (r == 0 && p->auto_unmount)
		r = add_opt(args, "", "auto_unmount");
	if (r == 0 && p->debug)
		r = add_opt(args, "", "debug");
	return r == 0 ? kernel_opts(args, p) : r;
}

/* What fusermount3 wrote to FD instead of our stderr, as the text of the complaint. */
static void take_complaint(int fd)
{
	ssize_t n = pread(fd, fuse_complaint, sizeof(fuse_complaint) - 1, 0);
	char *nl;

	if (n <= 0)
		return;
	fuse_complaint[n] = '\0';
	nl = strchr(fuse_complaint, '\n');
	if (nl)
		*nl = '\0';
}

/* fuse_session_mount() with stderr caught: its helper's words become part of our one line. */
static int mount_quietly(struct ov_session *s)
{
	ov_cleanup_fd int caught = memfd_create("stderr", MFD_CLOEXEC);
	ov_cleanup_fd int saved = caught < 0 ? -1 : fcntl(2, F_DUPFD_CLOEXEC, 3);
	int r;

	if (saved >= 0)
		(void)dup2(caught, 2);
	r = fuse_session_mount(s->se, s->mountpoint);
	if (saved >= 0) {
		(void)dup2(saved, 2);
		if (r < 0)
			take_complaint(caught);
	}
	return r;
}

static int new_fuse_session(struct ov_session *s, struct fuse_args *args)
{
	s->se = fuse_session_new(args, &ov_fuse_ops, sizeof(ov_fuse_ops), &s->front);
	if (s->se)
		return 0;
	ov_error("cannot set up the FUSE session: %s", fuse_complaint);
	return -EINVAL;
}

/* Requests and replies of the session go through our transport and s->fd. */
static int attach(struct ov_session *s)
{
	int r = ov_transport_attach(&s->front.transport, s->se, s->fd);

	if (r < 0)
		ov_error("cannot attach to the FUSE session: %s", strerror(-r));
	s->front.fd = s->fd;
	s->front.transport.failed = log_failure;
	s->front.transport.failed_arg = s;
	if (r == 0 && s->params->uring)
		plan_uring(s);
	return r;
}

static int mount_session(struct ov_session *s, struct fuse_args *args)
{
	int r = new_fuse_session(s, args);

	if (r < 0)
		return r;
	if (mount_quietly(s) < 0) {
		ov_error("cannot mount on '%s': %s%srun as root, in a user namespace, or with fusermount3 installed",
			 s->mountpoint, fuse_complaint, fuse_complaint[0] ? ": " : "");
		return -EPERM;
	}
	s->fd = fuse_session_fd(s->se);
	return attach(s);
}

/* The kernel's first request, which it sends by itself: INIT. */
static int answer_init(struct ov_session *s)
{
	struct fuse_buf buf = {.mem = NULL};
	int waited = 0, n = 0;

	while (!s->started && waited < START_TIMEOUT_MS) {
		struct pollfd pfd = {.fd = s->fd, .events = POLLIN};

		if (poll(&pfd, 1, 100) <= 0) {
			waited += 100;
			continue;
		}
		n = fuse_session_receive_buf(s->se, &buf);
		if (n == -EINTR || n == -EAGAIN)
			continue;
		if (n <= 0)
			break;
		if ((size_t)n <= sizeof(s->init)) {
			memcpy(s->init, buf.mem, (size_t)n);
			s->init_len = (size_t)n;
		}
		serve_one(s, &buf);
	}
	free(buf.mem);
	s->unmounted = n == 0 && !s->started; /* so soon: that is an end like any other */
	if (s->started || s->unmounted)
		return 0;
	ov_error("the kernel did not accept the mount on '%s': %s", s->mountpoint, fuse_complaint);
	return -EIO;
}

static void set_hooks(struct ov_session *s)
{
	s->ov->hooks = (struct ov_hooks){
		.arg = s,
		.will_block = hand_on,
		.flush_data = flush_data,
		.inval_attr = inval_attr,
		.loses_name = loses_name,
		.inval_dir = inval_dir,
		.unlist = s->front.writeback ? unlist : NULL,
		.look_ahead = look_ahead,
		.request = ov_inflight_request,
		.is_repeat = ov_inflight_is_repeat,
		.done = ov_inflight_done,
	};
}

static struct ov_session *new_session(struct overlay *ov, const struct ov_params *p)
{
	struct ov_session *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->fd = s->event = s->poller.load_fd = -1;
	s->ov = ov;
	s->params = p;
	s->front.ov = ov;
	s->front.timeout = p->timeout < 0 || p->timeout > TIMEOUT_UNLIMITED ? TIMEOUT_UNLIMITED : p->timeout;
	s->front.writeback = p->writeback && ov->has_upper; /* nothing to gather without one, and closes make attributes stale */
	s->front.acl = !p->ov.noacl && !ov->cfg.noacl && !ov->cfg.noxattrs;
	s->front.owner = getuid();
	s->front.upgrade = ask_upgrade;
	s->front.upgrade_arg = s;
	ov_leader_init(&s->leader);
	ov_crossing_init(&s->front.crossing);
	(void)ov_notify_init(&s->notify, ov->ledger); /* a condition that needs no memory */
	(void)ov_scout_init(&s->scout, ov); /* likewise */
	ov_buffers_init(&s->buffers, ov);
	s->event = eventfd(0, EFD_CLOEXEC);
	set_hooks(s);
	fuse_set_log_func(keep_complaint);
	return s;
}

int ov_session_mount(struct ov_session **out, struct overlay *ov, const struct ov_params *p)
{
	struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
	struct ov_session *s = new_session(ov, p);
	int r = 0;

	*out = NULL;
	if (!s)
		return -ENOMEM;
	s->fd_mount = strncmp(p->mountpoint, "/dev/fd/", 8) == 0;
	if (!s->fd_mount)
		r = ov_mountpoint_check(p->mountpoint);
	if (r == 0) {
		s->mountpoint = s->fd_mount ? strdup(p->mountpoint) : realpath(p->mountpoint, NULL);
		r = s->mountpoint && s->event >= 0 ? build_args(&args, p) : -ENOMEM;
	}
	if (r == 0)
		r = mount_session(s, &args);
	if (r == 0 && !s->fd_mount)
		ov_mountpoint_read_ahead(s->mountpoint);
	if (r == 0 && !p->auto_unmount)
		ov_mountns_leave(&s->ns);
	if (r == 0)
		r = answer_init(s);
	fuse_opt_free_args(&args);
	if (r < 0) {
		ov_session_free(s);
		return r;
	}
	*out = s;
	return 0;
}

/* ---- handing over ---- */

int ov_session_hand_over(struct ov_session *s, char *buf, size_t size)
{
	int n = snprintf(buf, size, "%d %d %d %llu %llu ", s->fd, s->fd_mount, s->ns.left, (unsigned long long)s->ns.dev,
			 (unsigned long long)s->ns.ino);

	for (size_t k = 0; k < s->init_len && n >= 0 && (size_t)n < size; k++)
		n += snprintf(buf + n, size - (size_t)n, "%02x", (unsigned char)s->init[k]);
	if (n >= 0 && (size_t)n < size)
		n += snprintf(buf + n, size - (size_t)n, " %s", s->mountpoint);
	if (n < 0 || (size_t)n >= size)
		return -ENAMETOOLONG;
	return fcntl(s->fd, F_SETFD, 0) < 0 ? -errno : 0;
}

/* The reverse. 0 or -EINVAL. */
static int read_handover(struct ov_session *s, const char *text)
{
	int fd, fd_mount, left, at = 0;
	unsigned long long dev, ino;

	if (sscanf(text, "%d %d %d %llu %llu %n", &fd, &fd_mount, &left, &dev, &ino, &at) < 5 || at == 0)
		return -EINVAL;
	s->fd = fd;
	s->fd_mount = fd_mount;
	s->ns = (struct ov_mountns){.left = left, .dev = (dev_t)dev, .ino = (ino_t)ino};
	for (text += at; *text && *text != ' ' && s->init_len < sizeof(s->init); text += 2) {
		unsigned byte;

		if (sscanf(text, "%2x", &byte) != 1)
			return -EINVAL;
		s->init[s->init_len++] = (char)byte;
	}
	if (*text != ' ' || s->init_len <= sizeof(struct fuse_in_header))
		return -EINVAL;
	s->mountpoint = strdup(text + 1);
	return s->mountpoint ? fcntl(s->fd, F_SETFD, FD_CLOEXEC) : -ENOMEM;
}

/* INIT once more, for libfuse and us to know what the kernel and the program before us have agreed upon. */
static int repeat_init(struct ov_session *s)
{
	ov_cleanup_free char *mem = malloc(sizeof(s->init));
	struct fuse_buf buf = {.mem = mem, .size = s->init_len};

	if (!mem)
		return -ENOMEM;
	memcpy(mem, s->init, s->init_len);
	s->front.transport.mute = true;
	serve_one(s, &buf);
	s->front.transport.mute = false;
	return s->started ? 0 : -EINVAL;
}

int ov_session_take(struct ov_session **out, struct overlay *ov, const struct ov_params *p, const char *handover)
{
	struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
	struct ov_session *s = new_session(ov, p);
	int r;

	*out = NULL;
	if (!s)
		return -ENOMEM;
	r = read_handover(s, handover);
	if (r == 0)
		r = s->event >= 0 ? build_args(&args, p) : -ENOMEM;
	if (r == 0)
		r = new_fuse_session(s, &args);
	if (r == 0)
		r = attach(s);
	if (r == 0)
		r = repeat_init(s);
	fuse_opt_free_args(&args);
	if (r < 0) {
		ov_error("cannot go on with the mount of the program before: %s", strerror(-r));
		ov_session_free(s);
		return r;
	}
	ov_inflight_note_made(s->ov);
	s->ov->ledger->renewals++;
	*out = s;
	return 0;
}

static unsigned thread_count(const struct ov_params *p)
{
	if (p->single_thread)
		return 1;
	if (p->max_threads)
		return p->max_threads < THREADS_MAX ? p->max_threads : THREADS_MAX;
	return THREADS_DEFAULT;
}

/* Wait for the event, at most TIMEOUT ms. */
static void wait_event(struct ov_session *s, int timeout)
{
	struct pollfd pfd = {.fd = s->event, .events = POLLIN};
	uint64_t count;

	if (poll(&pfd, 1, timeout) > 0 && read(s->event, &count, sizeof(count)) < 0)
		ov_debug("eventfd: %s", strerror(errno));
}

/* ---- taking over ---- */

int ov_session_keep_fds(struct ov_session *s, int except)
{
	ov_fds_free(&s->fds);
	s->supervisor = getpid();
	return ov_fds_note(&s->fds, &s->ov->tab, except);
}

bool ov_session_is_replaceable(const struct ov_session *s)
{
	return !s->uring_on;
}

void ov_session_forget_supervisor(struct ov_session *s)
{
	s->supervisor = 0;
}

static void close_others(void *arg)
{
	struct ov_session *s = arg;

	ov_fds_close_others(&s->fds, &s->ov->tab);
}

/* Requests that the dead worker had read: given to us again, or (before Linux 6.9) refused. */
static void take_requests(struct ov_session *s)
{
	unsigned refused;
	int r = -EINVAL;

	if (s->front.transport.offered & OV_INIT_HAS_RESEND)
		r = ov_transport_resend(s->fd);
	if (r == 0)
		return;
	refused = ov_inflight_refuse_all(s->ov, s->fd);
	ov_warn("this kernel cannot give requests again (Linux 6.9 can): %u that were being served failed", refused);
}

static int take_over(struct ov_session *s)
{
	int r = ov_take_over(s->ov, close_others, s);

	if (r < 0)
		return r;
	ov_inflight_note_made(s->ov);
	ov_inflight_forget_rest(s->ov);
	take_requests(s);
	return 0;
}

bool ov_session_bury(struct ov_session *s, int sig)
{
	ov_itable_complete_recount(&s->ov->tab);
	return ov_inflight_bury(s->ov->ledger, sig, &s->served);
}

int ov_session_start(struct ov_session *s, bool again)
{
	unsigned want = thread_count(s->params);

	if (s->unmounted) {
		s->ended = 1;
		return 0;
	}
	if (again) {
		int r = take_over(s);

		if (r < 0)
			return r;
	}
	ov_inflight_watch_crashes();
	init_poller(s);
	ov_notify_begin(&s->notify, s->fd, s->supervisor);
	if (again) /* what the one before us removed may not be answered yet */
		ov_ops_loses_name(&s->front, 0);
	for (unsigned n = 0; n < want; n++) {
		int r;

		s->threads[n].s = s;
		s->threads[n].inflight = &s->ov->ledger->inflight[n];
		r = pthread_create(&s->threads[n].id, NULL, worker, &s->threads[n]);
		if (r && n == 0) {
			ov_error("cannot start a thread: %s", strerror(r));
			return -r;
		}
		if (r)
			break; /* fewer will do */
		__atomic_store_n(&s->nthreads, n + 1, __ATOMIC_RELEASE);
	}
	/* nobody shall die of it twice: not after a death */
	if (s->params->readdir_ahead && s->poller.cpus > 1 && thread_total(s) > 1 &&
	    s->ov->ledger->restarts == s->ov->ledger->renewals)
		(void)ov_scout_start(&s->scout);
	return 0;
}

/* ---- ending ---- */

/* In the namespace with the mount. Busy: detach it, and write back what its open files still hold. */
static int unmount_here(void *arg)
{
	struct ov_session *s = arg;
	int r = ov_mountpoint_unmount(s->mountpoint, false);
	int root;

	if (r == 0 || r == -EINVAL || r == -ENOENT)
		return 0;
	ov_warn("'%s' is busy: detached; files still open in it are written back and then closed", s->mountpoint);
	root = open(s->mountpoint, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	r = ov_mountpoint_unmount(s->mountpoint, true);
	if (root >= 0) {
		if (syncfs(root) < 0)
			ov_error("writing back '%s' failed: %s", s->mountpoint, strerror(errno));
		close(root);
	}
	return r;
}

/* Unmount while the threads still serve, so that dirty pages can be written back. */
static void unmount(struct ov_session *s)
{
	int r;

	if (s->fd_mount)
		return; /* whoever mounted unmounts; closing the fd ends the connection */
	r = ov_mountns_run(&s->ns, unmount_here, s);
	if (r < 0 && r != -ESRCH)
		ov_error("cannot unmount '%s': %s", s->mountpoint, strerror(-r));
}

/* SIGUSR1: the statistics, a line each, where log lines go. */
static void log_stats(struct ov_session *s)
{
	char text[4096], *line, *rest = text;

	text[ov_ops_print_stats(&s->front, text, sizeof(text))] = '\0';
	while ((line = strsep(&rest, "\n")))
		if (*line)
			ov_log_asked("%s: %s", s->mountpoint, line);
}

enum serve { SERVE_ON, SERVE_END, SERVE_RENEW };

/* A signal came: what now? */
static enum serve take_signal(struct ov_session *s, int sfd)
{
	struct signalfd_siginfo info;

	if (read(sfd, &info, sizeof(info)) != (ssize_t)sizeof(info))
		return SERVE_ON;
	switch (info.ssi_signo) {
	case SIGUSR1:
		log_stats(s);
		return SERVE_ON;
	case SIGUSR2:
		if (s->supervisor && getppid() == s->supervisor)
			return SERVE_RENEW;
		ov_warn("the supervisor is gone: nobody will replace this process if it dies");
		return SERVE_ON;
	default:
		return SERVE_END;
	}
}

static void wake_up(int sig OV_UNUSED)
{
}

static bool is_serving(const struct ov_thread *t)
{
	return __atomic_load_n(&__atomic_load_n(&t->inflight, __ATOMIC_ACQUIRE)->unique, __ATOMIC_ACQUIRE);
}

/* Let the threads answer what they are at, and end. */
static void stop_threads(struct ov_session *s)
{
	struct sigaction sa = {.sa_handler = wake_up};

	(void)sigaction(SIGURG, &sa, NULL); /* to end the wait in read(2); without a handler it is ignored */
	fuse_session_exit(s->se);
	for (int n = 0; n < STOP_TRIES && __atomic_load_n(&s->ended, __ATOMIC_ACQUIRE) < s->nthreads; n++) {
		for (unsigned k = 0; k < s->nthreads; k++)
			if (!is_serving(&s->threads[k]))
				(void)pthread_kill(s->threads[k].id, SIGURG);
		wait_event(s, STOP_PAUSE_MS);
	}
	if (ov_poster_free(s->poster))
		s->poster = NULL;
}

int ov_session_serve(struct ov_session *s)
{
	struct pollfd pfd[2] = {{.fd = s->event, .events = POLLIN}, {.fd = -1, .events = POLLIN}};
	enum serve what = SERVE_ON;
	sigset_t set;
	int sfd;

	ov_daemon_signals(&set);
	sfd = signalfd(-1, &set, SFD_CLOEXEC);
	if (sfd < 0)
		return -errno;
	pfd[1].fd = sfd;
	while (!__atomic_load_n(&s->ended, __ATOMIC_ACQUIRE) && what == SERVE_ON) {
		if (poll(pfd, 2, -1) < 0 && errno != EINTR)
			break;
		if (pfd[1].revents & POLLIN)
			what = take_signal(s, sfd);
		if (pfd[0].revents & POLLIN)
			wait_event(s, 0);
	}
	close(sfd);
	ov_scout_stop(&s->scout);
	ov_notify_stop(&s->notify);
	if (what == SERVE_END)
		unmount(s);
	else if (what == SERVE_RENEW)
		stop_threads(s);
	return what == SERVE_RENEW ? OV_SESSION_RENEW : 0;
}

static void join_thread(struct ov_thread *t)
{
	pthread_join(t->id, NULL);
	ov_seat_destroy(&t->seat);
}

void ov_session_free(struct ov_session *s)
{
	if (!s)
		return;
	ov_scout_stop(&s->scout);
	if (s->nthreads) {
		/* after a clean unmount read() gives ENODEV and the threads end; else closing the connection ends them */
		for (int n = 0; n < 20 && __atomic_load_n(&s->ended, __ATOMIC_ACQUIRE) < s->nthreads; n++)
			wait_event(s, 50);
		fuse_session_exit(s->se);
		if (__atomic_load_n(&s->ended, __ATOMIC_ACQUIRE) < s->nthreads) {
			free(s->mountpoint);
			return; /* a thread still waits in read(): the process ends now and with it the connection */
		}
		for (unsigned n = 0; n < s->nthreads; n++)
			join_thread(&s->threads[n]);
	}
	if (!ov_poster_free(s->poster) || !ov_uring_free(s->uring) || !ov_notify_destroy(&s->notify) ||
	    !ov_scout_destroy(&s->scout)) {
		free(s->mountpoint);
		return; /* likewise */
	}
	if (s->se) {
		if (!s->ns.left && !__atomic_load_n(&s->ended, __ATOMIC_ACQUIRE))
			fuse_session_unmount(s->se);
		fuse_session_destroy(s->se);
	}
	ov_poller_destroy(&s->poller);
	ov_fds_free(&s->fds);
	if (s->event >= 0)
		close(s->event);
	ov_buffers_destroy(&s->buffers);
	ov_leader_destroy(&s->leader);
	ov_crossing_destroy(&s->front.crossing);
	free(s->mountpoint);
	free(s);
}
