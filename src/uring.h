/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_URING_H
#define OV_URING_H

/*
 * Requests through io_uring instead of read() and write() on /dev/fuse (Linux 6.14 and newer, where fuse.enable_uring says so).
 * The kernel has a queue for each CPU and puts a request into that of the CPU where it is made. Here some threads stay on each
 * CPU, with a ring and one entry of the queue each: one system call hands a reply over and waits for the next request, and
 * nobody has to wake another CPU. A thread that is slow with its request holds up nobody: the queue goes on to the next
 * entry, that of another thread. Of those that wait the kernel takes the one that was busy last, whose caches are warm.
 *
 * INIT, FORGET, INTERRUPT and the notifications stay with /dev/fuse. There is no way back: a connection that has agreed on
 * io_uring keeps it, and no other process can take up its rings.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ov_uring;
struct ov_reply;

struct ov_uring_config {
	unsigned depth; /* threads a CPU, at least two; fewer where there are very many CPUs */
	/* Serve the request of SIZE bytes at MEM, laid out as read() gives it, into REPLY. Called from many threads. */
	void (*serve)(void *arg, void *mem, size_t size, struct ov_reply *reply);
	/* A thread that has called SERVE ends. */
	void (*thread_end)(void);
	void *arg;
};

/* Learn what CPUs there are, from /sys. 0 or -errno. */
int ov_uring_new(struct ov_uring **out, const struct ov_uring_config *cfg);

/*
 * Get everything ready: threads, rings, buffers of PAYLOAD bytes, for requests from FD. To be called before INIT is answered
 * with FUSE_OVER_IO_URING, since then the kernel holds requests back until all queues are there. 0; or -errno: it cannot be.
 */
int ov_uring_prepare(struct ov_uring *u, int fd, size_t payload);

/* INIT is answered: offer the entries to the kernel. The threads serve until the connection ends. */
void ov_uring_start(struct ov_uring *u);

/* The kernel did not take the entries after all: requests come from /dev/fuse. */
bool ov_uring_failed(const struct ov_uring *u);

/*
 * The calling thread is about to make the kernel send requests and wait for them. False if that cannot be: it is not a thread
 * of U that belongs to one CPU, or no thread would be left to serve those requests. After true, ov_uring_end_wait() follows.
 */
bool ov_uring_begin_wait(struct ov_uring *u);
void ov_uring_end_wait(void);

/* Is the calling thread one of those that serve rings? */
bool ov_uring_is_here(void);

/*
 * Free U, after the connection has ended or when it was never started. False if threads still wait for requests: then nothing
 * is freed, and only the end of the process ends them. NULL is fine.
 */
bool ov_uring_free(struct ov_uring *u);

#endif
