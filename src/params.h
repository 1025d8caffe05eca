/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_PARAMS_H
#define OV_PARAMS_H

/*
 * The command line: argv and -o strings into plain data. The option string is split here and not by libfuse, whose
 * splitter breaks context="a,b" and eats "\:".
 */

#include <stdio.h>

#include "ov_config.h"
#include "log.h"

enum ov_action { OV_RUN, OV_SHOW_HELP, OV_SHOW_VERSION, OV_SHOW_STATE_VERSION, OV_UPGRADE };

#define OV_PROGRAM "fuse-overlay"
#define OV_POLL_DEFAULT 50 /* microseconds */
#define OV_POLL_MAX 1000
#define OV_URING_DEPTH_DEFAULT 4 /* threads a CPU */
#define OV_URING_DEPTH_MAX 64

struct ov_params {
	struct ov_config ov;
	enum ov_action action;
	char *mountpoint;     /* as given */
	char *program;        /* base name of argv[0]: subtype shown in /proc/mounts (fuse.NAME) */
	char *fsname;         /* fsname=, default: the program name */
	bool foreground;      /* -f (implied by -d and debug) */
	bool debug;           /* -d, -o debug */
	bool single_thread;   /* -s, threaded=0 */
	unsigned max_threads; /* max_threads=, 0: choose */
	bool readdir_ahead;   /* read a tree's directories, and open its files, before they are asked for */
	bool client_cpu;      /* serve clients on their own CPU where that is quicker */
	unsigned poll;        /* microseconds, default OV_POLL_DEFAULT */
	bool uring;           /* FUSE over io_uring, where the kernel has it */
	unsigned uring_depth; /* threads a CPU then */
	double timeout;       /* seconds, entry/attr/negative; negative: unlimited (default) */
	bool writeback;       /* default true */
	bool allow_other;
	bool allow_root;
	bool default_permissions; /* default true */
	bool auto_unmount;
	bool clone_fd;
	bool supervise;       /* default true */
	int log_level;        /* enum ov_log_level, or -1: default */
	/* Mount options for the kernel, in order: "ro", "nodev", "context=\"...\"" ...; owned, NULL-terminated. */
	char **kernel_opts;
	size_t nkernel_opts;
};

/*
 * Parse. 0; or -EINVAL after writing one line on ERR that names the option and the remedy. Warnings (unknown
 * options, plugins, index without effect...) are lines on ERR too, with result 0. PARAMS must be cleared in every case.
 */
int ov_params_parse(struct ov_params *p, int argc, char **argv, FILE *err);

void ov_params_clear(struct ov_params *p);

/* --help and --version texts. */
void ov_params_help(FILE *out);
void ov_params_version(FILE *out);

#endif
