/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_FUZZ_CORE_FUZZ_H
#define OV_FUZZ_CORE_FUZZ_H

/* What the parts of the core's fuzz target share: core.c (calls), core_layers.c (layers on disk), core_view.c (the view). */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "core.h"

/* A broken promise: say which, and stop. */
#define HOLDS(what)                                                                    \
	do {                                                                           \
		if (!(what)) {                                                         \
			fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #what); \
			__builtin_trap();                                              \
		}                                                                      \
	} while (0)

/* What is done, step by step, where OV_FUZZ_TRACE is set. */
extern bool fuzz_trace;
#define TRACE(...)                                    \
	do {                                          \
		if (fuzz_trace)                       \
			fprintf(stderr, __VA_ARGS__); \
	} while (0)

/* libFuzzer need not learn the ways of the test itself. */
#if defined(__clang__)
#define OV_FUZZ_UNCOUNTED _Pragma("clang attribute push(__attribute__((no_sanitize(\"coverage\"))), apply_to = function)")
#define OV_FUZZ_COUNTED _Pragma("clang attribute pop")
#else
#define OV_FUZZ_UNCOUNTED
#define OV_FUZZ_COUNTED
#endif

/* ---- the input ---- */

#define HEADER_LEN 6
#define RECORD_LEN 5 /* one thing put into a layer */
#define CALL_LEN 6   /* one call */
#define RECORDS_MAX 24
#define CALLS_MAX 40

struct input {
	uint8_t header[HEADER_LEN];
	const uint8_t *records;
	size_t nrecords;
	const uint8_t *calls;
	size_t ncalls;
};

/* ---- names ---- */

#define NAMES 13
extern const char *const fuzz_names[NAMES];
/* Its number, or -1. */
int fuzz_name_number(const char *name);

#define XATTRS 14
extern const char *const fuzz_xattrs[XATTRS];
#define XATTR_ACL_ACCESS 0
#define XATTR_ACL_DEFAULT 1
#define XATTR_CAPABILITY 2

/* Bytes number KIND for the xattr number X, in BUF (512 bytes): the length. */
size_t fuzz_xattr_value(unsigned x, unsigned kind, uint8_t *buf);

/* ---- the layers (core_layers.c) ---- */

/* A directory to work in, with a tmpfs of our own where that is allowed; once. */
void layers_start(void);
/* Make the directories and what the records say. */
void layers_make(const struct input *in);
/* The upper was given names that begin with ".wh.". */
extern bool layers_hidden_names;
/* Remove it all. */
void layers_clean(void);
/* Over names, attributes and times of the lowers: any change shows. */
uint64_t layers_fingerprint(void);
/* Nothing is left in workdir/work but what may be. */
void layers_check_work(bool is_volatile);
/* The configuration that the header asks for. */
void layers_config(const struct input *in, struct ov_config *cfg);
bool layers_read_only(const struct input *in);

/* ---- the view (core_view.c) ---- */

#define NODES_MAX 120
#define DATA_MAX 6000   /* bytes of a file that are compared */
#define NODEIDS_MAX 8192

#define NO_CHILD 0
#define BROKEN_CHILD (-1) /* listed, but cannot be looked up */

struct node {
	bool used, dead, fresh;
	bool cut_off; /* opaque after a rename over it that failed: an empty directory that merges with nothing any more */
	bool guarded; /* chattr(1) flags: what may be changed is not foretold */
	mode_t mode;
	uid_t uid;
	gid_t gid;
	uint64_t size, ino, nodeid;
	uint32_t nlink, rdev_major, rdev_minor;
	int64_t mtime;
	uint8_t *data; /* of regular files: the first bytes */
	char *target;  /* of symbolic links */
	uint64_t xattrs[XATTRS];
	uint64_t other_xattrs;
	int16_t child[NAMES]; /* of directories: index of the node, NO_CHILD, BROKEN_CHILD */
	int16_t parent;
};

struct tree {
	struct node n[NODES_MAX]; /* [1] is the root; [0] is not used */
	unsigned count;
};

extern struct overlay *fuzz_ov;
/* References that the kernel would hold, by nodeid. */
extern uint64_t fuzz_held[NODEIDS_MAX];
/* Something that cannot be followed here (too much of it): give the input up. */
extern bool fuzz_give_up;

void tree_clear(struct tree *t);
/* A new node with a cleared content, or 0 and fuzz_give_up. */
int tree_add(struct tree *t);
void tree_drop(struct tree *t, int n);
/* A name (directory, number) that leads to node N: true, or it has none. */
bool tree_name_of(const struct tree *t, int n, int *parent, int *name);
unsigned tree_names(const struct tree *t, int n);
bool tree_is_inside(const struct tree *t, int dir, int ancestor);

/* Read the whole view, by readdir (PLUS or not) and lookups. */
void view_read(struct tree *t, bool plus);
/* Attributes and xattrs of one node, or its first bytes, as they are now. */
void view_refresh(struct tree *t, int n);
void view_refresh_data(struct tree *t, int n);
/* The two are the same; MORE: also what the model does not foretell (times, inode numbers, link counts). */
void view_compare(const struct tree *want, struct tree *have, bool more);
/* A link has nowhere to keep its owner and xattrs with user.containers overrides. */
bool view_is_bare_link(const struct node *n);
/* Count what a lookup gave. */
void view_hold(uint64_t nodeid);
void view_forget_all(void);

uint64_t fuzz_hash(uint64_t h, const void *data, size_t len);

#endif
