/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_TRANSPORT_H
#define OV_TRANSPORT_H

/*
 * The bytes between libfuse and /dev/fuse. Adds what the libfuse at hand does not know: INIT flags, request bits that it
 * drops, and whole requests (TMPFILE, STATX, SETXATTR). Counts requests.
 */

#include <fuse_lowlevel.h>
#include <stdint.h>
#include <sys/uio.h>

#include "stats.h"

/* What libfuse drops of the request that this thread is serving. */
struct ov_request {
	const struct fuse_buf *buf;
	uint32_t opcode;
	uint64_t unique;
	uint64_t nodeid;
	uint32_t uid, gid;
	bool kill_suidgid; /* WRITE, SETATTR: setuid and setgid must go */
};

struct ov_transport {
	struct ov_stats stats;
	uint64_t offered;     /* INIT flags of the kernel */
	bool mute;            /* replies go nowhere: the request was answered by another program */
	bool setxattr_ext;    /* SETXATTR requests have the long form */
	/* a request is answered with ERROR (an errno): to be told to whoever looks after the machine */
	void (*failed)(void *arg, const struct ov_request *rq, int error);
	void *failed_arg;
};

/* Route SE's traffic over its fd through T, which must outlive it. 0 or -errno. */
int ov_transport_attach(struct ov_transport *t, struct fuse_session *se, int fd);

/*
 * Requests are read into memory that is there already: the kernel answers one with EIO that it cannot hand to a process which is
 * being killed, because a page of the buffer is missing. MEM, which this thread reads into from now on, was used for that before.
 */
void ov_transport_use_buffer(const void *mem);

/* Look at the request in BUF before libfuse does: fills the thread's ov_request and counts it. */
void ov_transport_prepare(struct ov_transport *t, const struct fuse_buf *buf);

/* A request that was read once before, by a process that died, comes with this bit in its number (Linux 6.9). */
#define OV_UNIQUE_RESEND (1ULL << 63)
#define OV_INIT_HAS_RESEND (1ULL << 39)

/* Have the kernel give us every request again that has been read and not answered. 0 or -errno. */
int ov_transport_resend(int fd);

/* Answer request UNIQUE, which nobody is serving, with ERROR (-errno). 0 or -errno: -ENOENT if it is not waiting. */
int ov_transport_refuse(int fd, uint64_t unique, int error);

/* The request this thread is serving. */
const struct ov_request *ov_transport_current(void);

/* Reply to the current request without libfuse: ERROR (0 or -errno) and SIZE bytes of DATA. 0 or -errno. */
int ov_transport_reply(int fd, int error, const void *data, size_t size);

/* Requests that libfuse of the floor cannot decode; layouts of include/uapi/linux/fuse.h 7.37 and 7.39. */
#define OV_FUSE_TMPFILE 51
#define OV_FUSE_STATX 52

#endif
