/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_TRANSPORT_H
#define OV_TRANSPORT_H

/*
 * The bytes between libfuse and /dev/fuse, or io_uring (uring.h). Adds what the libfuse at hand does not know: INIT flags,
 * request bits that it drops, and whole requests (TMPFILE, STATX, SETXATTR). Counts requests.
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
	uint32_t pid;      /* thread that sent it; 0: the kernel itself, or one that is not to be seen here */
	bool kill_suidgid; /* WRITE, SETATTR: setuid and setgid must go */
};

/* Takes the reply to a request that did not come from /dev/fuse, or that is to be sent there later. */
struct ov_reply {
	void *data;  /* of ROOM bytes, which the request may have its arguments in */
	size_t room;
	size_t size; /* what the reply takes of it */
	int error;   /* 0 or -errno */
	bool done;   /* there is a reply */
	bool later;  /* to /dev/fuse */
};

struct ov_transport {
	struct ov_stats stats;
	uint64_t offered;     /* INIT flags of the kernel */
	bool mute;            /* replies go nowhere: the request was answered by another program */
	bool agreed;          /* INIT has been answered */
	bool setxattr_ext;    /* SETXATTR requests have the long form */
	/* a request is answered with ERROR (an errno): to be told to whoever looks after the machine */
	void (*failed)(void *arg, const struct ov_request *rq, int error);
	void *failed_arg;
	/*
	 * The kernel offers FUSE over io_uring, with requests and replies of up to PAYLOAD bytes: true to agree, with everything
	 * ready that the kernel then waits for. NULL: no.
	 */
	bool (*agree_uring)(void *arg, size_t payload);
	void *agree_uring_arg;
};

/* Route SE's traffic over its fd through T, which must outlive it. 0 or -errno. */
int ov_transport_attach(struct ov_transport *t, struct fuse_session *se, int fd);

/*
 * Requests are read into memory that is there already: the kernel answers one with EIO that it cannot hand to a process
 * which is being killed, because a page of the buffer is missing. MEM, which this thread reads into from now on, was used
 * for that before.
 */
void ov_transport_use_buffer(const void *mem);

/*
 * Look at the request in BUF before libfuse does: fills the thread's ov_request and counts it. Its reply goes into REPLY, or
 * to /dev/fuse if that is NULL.
 */
void ov_transport_prepare(struct ov_transport *t, const struct fuse_buf *buf, struct ov_reply *reply);

/*
 * Room for SIZE bytes that go into the reply of the current request without being copied; NULL if there is none. What is
 * written there may overwrite all of the request that follows its first argument.
 */
void *ov_transport_room(size_t size);

/* Does the reply to the current request go to /dev/fuse, and now? */
bool ov_transport_is_device(void);

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

/* An INIT flag of 7.42. */
#define OV_INIT_OVER_IO_URING (1ULL << 41)

#endif
