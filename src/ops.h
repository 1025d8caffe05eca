/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_OPS_H
#define OV_OPS_H

/* Decode a request, call the core, reply: the only place where a FUSE reply is made. */

#include <fuse_lowlevel.h>

#include "crossing.h"
#include "overlay.h"
#include "transport.h"

/* What the handlers find in fuse_req_userdata(). */
struct ov_front {
	struct overlay *ov;
	struct ov_transport transport;
	double timeout;   /* of entries and attributes, seconds */
	bool writeback;
	bool acl;
	uid_t owner;      /* of the mount: may read the statistics */
	int fd;           /* /dev/fuse */
	int (*upgrade)(void *arg); /* somebody who may asks for a new program: 0 or -errno */
	void *upgrade_arg;
	size_t forgotten; /* atomic: inodes since memory was given back last */
	struct ov_crossing crossing;
};

extern const struct fuse_lowlevel_ops ov_fuse_ops;

/* For ov_hooks: NODEID (0: any) is about to lose a name, see crossing.h. */
void ov_ops_loses_name(struct ov_front *fr, uint64_t nodeid);

/* Serve the current request if it is one that libfuse does not know. False: give it to libfuse. */
bool ov_ops_raw(struct ov_front *fr, const struct fuse_buf *buf);

/* The statistics as text: messages by opcode, then what the core holds. The length, less than SIZE. */
size_t ov_ops_print_stats(struct ov_front *fr, char *text, size_t size);

/* A thread that served requests ends: free what it kept. */
void ov_ops_thread_end(void);

#endif
