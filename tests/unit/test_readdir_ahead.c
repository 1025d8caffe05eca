/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Directories that are read before they are asked for: what is gathered is found, and is never out of date. */

#include <check.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../src/overlay.h"

Suite *readdir_ahead_suite(void);

static char top[256];
static struct overlay *ov;
static unsigned woken;

/* A path below TOP; good until the next but one. */
static const char *at(const char *fmt, ...) OV_PRINTF(1, 2);
static const char *at(const char *fmt, ...)
{
	static char path[2][512];
	static unsigned turn;
	va_list args;
	int n;

	turn = !turn;
	n = snprintf(path[turn], sizeof(path[turn]), "%s/", top);
	va_start(args, fmt);
	vsnprintf(path[turn] + n, sizeof(path[turn]) - (size_t)n, fmt, args);
	va_end(args);
	return path[turn];
}

static void make_dir(const char *path)
{
	ck_assert_int_eq(mkdir(path, 0755), 0);
}

static void make_file(const char *path)
{
	int fd = open(path, O_CREAT | O_WRONLY | O_EXCL, 0644);

	ck_assert_int_ge(fd, 0);
	close(fd);
}

/* lower/ with d0 to d9, which have f0 to f4 each. */
static void make_layers(void)
{
	const char *tmp = getenv("TMPDIR");

	snprintf(top, sizeof(top), "%s/readdir-ahead-XXXXXX", tmp ? tmp : "/tmp");
	ck_assert_ptr_nonnull(mkdtemp(top));
	make_dir(at("lower"));
	make_dir(at("upper"));
	make_dir(at("work"));
	for (unsigned d = 0; d < 10; d++) {
		make_dir(at("lower/d%u", d));
		for (unsigned f = 0; f < 5; f++)
			make_file(at("lower/d%u/f%u", d, f));
	}
}

static void note_wake(void *arg OV_UNUSED)
{
	woken++;
}

static void open_layers(bool index)
{
	struct ov_config cfg;

	ov_config_init(&cfg);
	cfg.lower = calloc(1, sizeof(*cfg.lower));
	cfg.lower[cfg.nlower++] = strdup(at("lower"));
	cfg.upper = strdup(at("upper"));
	cfg.work = strdup(at("work"));
	cfg.index = index;
	ck_assert_int_eq(ov_open(&ov, &cfg, -1), 0);
	ov_config_clear(&cfg);
	ov->hooks.look_ahead = note_wake;
	woken = 0;
	ov_ahead_start(ov);
}

static int remove_one(const char *path, const struct stat *st OV_UNUSED, int type OV_UNUSED, struct FTW *f OV_UNUSED)
{
	return remove(path);
}

static void close_layers(void)
{
	ov_close(ov);
	ck_assert_int_eq(nftw(top, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
}

/* ---- as the kernel reads ---- */

struct reply {
	unsigned room, n;
	uint64_t last;
	struct {
		char name[64];
		struct ov_entry entry;
	} e[1000];
};

static bool fits(void *arg, const char *name OV_UNUSED)
{
	struct reply *r = arg;

	return r->room > 0;
}

static bool fill(void *arg, const char *name, const struct ov_entry *e, uint64_t next)
{
	struct reply *r = arg;

	r->room--;
	r->last = next;
	if (name[0] == '.')
		return true;
	ck_assert_uint_lt(r->n, 1000);
	snprintf(r->e[r->n].name, sizeof(r->e[r->n].name), "%s", name);
	r->e[r->n++].entry = *e;
	return true;
}

static struct reply *reply_new(void)
{
	struct reply *r = calloc(1, sizeof(*r));

	ck_assert_ptr_nonnull(r);
	return r;
}

/* ROOM more names of DIR; how many names were looked for in a layer. */
static uint64_t read_on(uint64_t dir, struct reply *r, unsigned room)
{
	uint64_t before = __atomic_load_n(&ov->probes, __ATOMIC_RELAXED);

	r->room = room;
	ck_assert_int_eq(ov_readdir(ov, ov_inode_get(ov, dir), r->last, true, fits, fill, r), 0);
	return __atomic_load_n(&ov->probes, __ATOMIC_RELAXED) - before;
}

static uint64_t list(uint64_t dir, struct reply *r)
{
	memset(r, 0, sizeof(*r));
	return read_on(dir, r, 2000);
}

static const struct ov_entry *entry_of(const struct reply *r, const char *name)
{
	for (unsigned n = 0; n < r->n; n++)
		if (strcmp(r->e[n].name, name) == 0)
			return &r->e[n].entry;
	return NULL;
}

static uint64_t look_up(uint64_t dir, const char *name)
{
	struct ov_entry e;

	ck_assert_int_eq(ov_lookup(ov, ov_inode_get(ov, dir), name, &e), 0);
	ck_assert_uint_ne(e.nodeid, 0);
	return e.nodeid;
}

/* The root and as many of its directories as show that somebody goes through the tree; ROOT: the root's names. */
static void begin_walk(struct reply *root)
{
	struct reply *r = reply_new();

	list(OV_ROOT_ID, root);
	for (unsigned n = 0; n < 3; n++) {
		ck_assert(!ov_ahead_work(ov));
		ck_assert_uint_gt(list(root->e[n].entry.nodeid, r), 0);
	}
	free(r);
}

/* How many names are looked for ahead. */
static uint64_t work(void)
{
	uint64_t before = ov->probes;

	while (ov_ahead_work(ov))
		;
	return ov->probes - before;
}

/* ---- tests ---- */

START_TEST(found)
{
	struct reply *root = reply_new(), *r = reply_new();

	make_layers();
	open_layers(false);
	begin_walk(root);
	ck_assert_uint_eq(woken, 1); /* it had nothing to do before */
	ck_assert_uint_eq(work(), 7 * 5);
	for (unsigned n = 3; n < 10; n++) {
		struct stat st;

		ck_assert_uint_eq(list(root->e[n].entry.nodeid, r), 0);
		ck_assert_uint_eq(r->n, 5);
		ck_assert_int_eq(stat(at("lower/d0/f0"), &st), 0);
		for (unsigned f = 0; f < 5; f++) {
			struct statx stx;

			ck_assert_uint_eq(r->e[f].entry.attr.stx_mode, st.st_mode);
			ck_assert_int_eq(ov_getattr(ov, ov_inode_get(ov, r->e[f].entry.nodeid), &stx), 0);
			ck_assert_int_eq(memcmp(&stx, &r->e[f].entry.attr, sizeof(stx)), 0);
		}
	}
	ck_assert_uint_eq(ov->ahead.used, 7);
	ck_assert_uint_eq(ov->ahead.ndirs, 0);
	ck_assert_uint_eq(ov->ahead.bytes, 0);
	ck_assert_uint_eq(ov->ahead.nout, 0);
	/* it is found once only */
	ck_assert_uint_eq(list(root->e[5].entry.nodeid, r), 0); /* known now */
	ck_assert_uint_eq(ov->ahead.used, 7);
	close_layers();
	free(root);
	free(r);
}
END_TEST

START_TEST(no_walk)
{
	struct reply *r = reply_new();

	make_layers();
	make_dir(at("lower/d0/in"));
	open_layers(false);
	/* one directory again and again, and some of which nobody has listed the one above */
	for (unsigned n = 0; n < 10; n++) {
		char name[8];

		list(OV_ROOT_ID, r);
		ck_assert(!ov_ahead_work(ov));
		snprintf(name, sizeof(name), "d%u", n);
		if (n == 0)
			list(look_up(look_up(OV_ROOT_ID, name), "in"), r);
		ck_assert(!ov_ahead_work(ov));
	}
	ck_assert_uint_eq(woken, 0);
	close_layers();
	free(r);
}
END_TEST

START_TEST(not_started)
{
	struct reply *root = reply_new();

	make_layers();
	open_layers(false);
	ov_ahead_stop(ov);
	begin_walk(root);
	ck_assert(!ov_ahead_work(ov));
	ck_assert_uint_eq(ov->ahead.nparents, 0);
	close_layers();
	free(root);
}
END_TEST

/* What is changed when it has been gathered, and what is changed in that moment. */
START_TEST(changed)
{
	struct reply *root = reply_new(), *r = reply_new();
	const struct ov_setattr set = {.valid = OV_SET_MODE, .mode = 0600};
	const struct ov_cred cred = {0};
	struct statx stx;
	struct ov_entry e;
	uint64_t d[10];

	make_layers();
	open_layers(false);
	begin_walk(root);
	for (unsigned n = 0; n < 10; n++)
		d[n] = root->e[n].entry.nodeid;
	ck_assert_uint_eq(work(), 7 * 5);
	ck_assert_int_eq(ov_setattr(ov, ov_inode_get(ov, look_up(d[3], "f1")), &set, &stx), 0);
	list(d[3], r);
	ck_assert_uint_eq(entry_of(r, "f1")->attr.stx_mode & 07777, 0600);
	ck_assert_uint_eq(entry_of(r, "f2")->attr.stx_mode & 07777, 0644);

	ck_assert_int_eq(ov_unlink(ov, ov_inode_get(ov, d[4]), "f1"), 0);
	list(d[4], r);
	ck_assert_ptr_null(entry_of(r, "f1"));
	ck_assert_uint_eq(r->n, 4);

	ck_assert_int_eq(ov_mknod(ov, ov_inode_get(ov, d[5]), "new", S_IFREG | 0640, 0, &cred, &e), 0);
	list(d[5], r);
	ck_assert_uint_eq(entry_of(r, "new")->nodeid, e.nodeid);
	ck_assert_uint_eq(r->n, 6);

	(void)look_up(d[6], "f0");
	ck_assert_int_eq(ov_rename(ov, ov_inode_get(ov, d[6]), "f0", ov_inode_get(ov, d[7]), "f1", 0), 0);
	list(d[7], r);
	ck_assert_uint_eq(r->n, 5);
	ck_assert_uint_eq(entry_of(r, "f1")->nodeid, look_up(d[7], "f1"));
	list(d[6], r);
	ck_assert_uint_eq(r->n, 4);
	ck_assert_uint_eq(ov->ahead.ndirs, 2);
	close_layers();
	free(root);
	free(r);
}
END_TEST

/* Somebody looks a name up, and the kernel forgets it again, with a change in between. */
START_TEST(changed_and_forgotten)
{
	struct reply *root = reply_new(), *r = reply_new();
	const struct ov_setattr set = {.valid = OV_SET_MODE, .mode = 0600};
	struct statx stx;
	uint64_t dir, file;

	make_layers();
	open_layers(false);
	begin_walk(root);
	work();
	dir = root->e[3].entry.nodeid;
	file = look_up(dir, "f1");
	ck_assert_int_eq(ov_setattr(ov, ov_inode_get(ov, file), &set, &stx), 0);
	ov_forget(ov, file, 1);
	ck_assert_ptr_null(ov_inode_get(ov, file));
	list(dir, r);
	ck_assert_uint_eq(entry_of(r, "f1")->attr.stx_mode & 07777, 0600);
	close_layers();
	free(root);
	free(r);
}
END_TEST

/* A hard link is changed through its name in another directory; _i: with an index, where that is seen under both. */
START_TEST(hard_link)
{
	struct reply *root = reply_new(), *r = reply_new();
	const struct ov_setattr set = {.valid = OV_SET_MODE, .mode = 0600};
	struct statx stx;

	make_layers();
	for (unsigned n = 0; n < 10; n++)
		ck_assert_int_eq(link(at("lower/d0/f0"), at("lower/d%u/link", n)), 0);
	open_layers(_i);
	begin_walk(root);
	work();
	ck_assert_int_eq(ov_setattr(ov, ov_inode_get(ov, look_up(root->e[3].entry.nodeid, "link")), &set, &stx), 0);
	list(root->e[4].entry.nodeid, r);
	ck_assert_uint_eq(r->n, 6);
	ck_assert_uint_eq(entry_of(r, "link")->attr.stx_mode & 07777, ov->index ? 0600 : 0644);
	close_layers();
	free(root);
	free(r);
}
END_TEST

/* An overlay in which a directory has MANY files: its nodeid. */
static uint64_t open_large(unsigned many)
{
	make_layers();
	make_dir(at("lower/large"));
	for (unsigned n = 0; n < many; n++)
		make_file(at("lower/large/file-%u", n));
	open_layers(false);
	return look_up(OV_ROOT_ID, "large");
}

START_TEST(in_parts)
{
	struct reply *r = reply_new();
	uint64_t dir = open_large(900);

	ck_assert_uint_eq(read_on(dir, r, 202), 200); /* and two dots */
	ck_assert_uint_eq(work(), 200);
	ck_assert_uint_eq(read_on(dir, r, 200), 0);
	ck_assert_uint_eq(work(), 200);
	ck_assert_uint_eq(read_on(dir, r, 220), 20);
	ck_assert_uint_eq(work(), 220);
	ck_assert_uint_eq(read_on(dir, r, 100), 0);
	/* enough is left of it for the next time, when more of it is gathered behind that */
	ck_assert_uint_eq(work(), 0);
	ck_assert_uint_eq(read_on(dir, r, 100), 0);
	ck_assert_uint_eq(work(), 900 - 840);
	ck_assert_uint_eq(read_on(dir, r, 50), 0);
	ck_assert_uint_eq(read_on(dir, r, 50), 20 + 10 - 30); /* of two parts */
	ck_assert_uint_eq(read_on(dir, r, 1000), 0);
	ck_assert_uint_eq(r->n, 900);
	ck_assert_uint_eq(ov->ahead.used, 0); /* no whole directory */
	ck_assert_uint_eq(ov->ahead.bytes, 0);

	/* of what is known nothing need be gathered */
	memset(r, 0, sizeof(*r));
	woken = 0;
	ck_assert_uint_eq(read_on(dir, r, 102), 0);
	ck_assert_uint_eq(woken, 0);
	ck_assert_uint_eq(work(), 0);
	close_layers();
	free(r);
}
END_TEST

/* As who has a small buffer reads. */
START_TEST(in_small_parts)
{
	struct reply *r = reply_new();
	uint64_t dir = open_large(900), looked = 0, before = ov->probes;

	ck_assert_uint_eq(read_on(dir, r, 26), 24);
	while (r->n < 900) {
		looked += work();
		ck_assert_uint_eq(read_on(dir, r, 24), 0);
	}
	ck_assert_uint_eq(looked, 900 - 24); /* each name once */
	ck_assert_uint_eq(ov->probes - before, 900);
	ck_assert_uint_le(woken, 7);
	close_layers();
	free(r);
}
END_TEST

/* Many small directories in one: some of those are gathered with it, each of the others in its turn. */
START_TEST(many_below)
{
	struct reply *root = reply_new(), *r = reply_new(), *in = reply_new();

	make_layers();
	for (unsigned n = 0; n < 10; n++) {
		for (unsigned d = 0; d < 150; d++) {
			make_dir(at("lower/d%u/in%u", n, d));
			make_file(at("lower/d%u/in%u/file", n, d));
		}
	}
	open_layers(false);
	begin_walk(root);
	for (unsigned n = 3; n < 10; n++) {
		list(root->e[n].entry.nodeid, r);
		for (unsigned d = 0; d < 155; d++) {
			work();
			if (S_ISDIR(r->e[d].entry.attr.stx_mode))
				ck_assert_uint_eq(list(r->e[d].entry.nodeid, in), 0);
		}
	}
	ck_assert_uint_ge(ov->ahead.used, 7 * 150);
	ck_assert_uint_eq(ov->ahead.wasted, 0);
	close_layers();
	free(root);
	free(r);
	free(in);
}
END_TEST

/* With an index hard links are left out: it is noticed that it is of no use. */
START_TEST(in_vain)
{
	struct reply *root = reply_new();

	make_layers();
	make_file(at("one"));
	for (unsigned n = 0; n < 10; n++)
		for (unsigned f = 0; f < 200; f++)
			ck_assert_int_eq(link(at("one"), at("lower/d%u/link%u", n, f)), 0);
	open_layers(true);
	begin_walk(root);
	ck_assert(!ov->index || work() < 7 * 60);
	close_layers();
	free(root);
}
END_TEST

START_TEST(below)
{
	struct reply *root = reply_new(), *r = reply_new();
	uint64_t dir;

	make_layers();
	for (unsigned n = 0; n < 10; n++) {
		make_dir(at("lower/d%u/in", n));
		make_dir(at("lower/d%u/in/in", n));
		make_file(at("lower/d%u/in/in/file", n));
	}
	open_layers(false);
	begin_walk(root);
	work();
	dir = root->e[3].entry.nodeid;
	ck_assert_uint_eq(list(dir, r), 0);
	dir = entry_of(r, "in")->nodeid;
	ck_assert_uint_eq(list(dir, r), 0);
	dir = entry_of(r, "in")->nodeid;
	ck_assert_uint_eq(list(dir, r), 0);
	ck_assert_ptr_nonnull(entry_of(r, "file"));

	/* and changed meanwhile */
	dir = look_up(look_up(root->e[4].entry.nodeid, "in"), "in");
	(void)look_up(dir, "file");
	ck_assert_int_eq(ov_unlink(ov, ov_inode_get(ov, dir), "file"), 0);
	list(root->e[4].entry.nodeid, r);
	list(entry_of(r, "in")->nodeid, r);
	list(entry_of(r, "in")->nodeid, r);
	ck_assert_uint_eq(r->n, 0);
	close_layers();
	free(root);
	free(r);
}
END_TEST

START_TEST(no_more_than)
{
	struct reply *root = reply_new(), *r = reply_new();

	make_layers();
	for (unsigned n = 10; n < 200; n++) {
		make_dir(at("lower/d%u", n));
		for (unsigned f = 0; f < 40; f++)
			make_file(at("lower/d%u/f%u", n, f));
	}
	open_layers(false);
	begin_walk(root);
	for (unsigned n = 3; n < 200; n++) {
		work();
		ck_assert_uint_le(ov->ahead.ndirs, OV_AHEAD_DIRS);
		ck_assert_uint_lt(ov->ahead.bytes, (768 + 64) << 10);
		ck_assert_uint_gt(ov->ahead.ndirs, 0);
		ck_assert_uint_eq(list(root->e[n].entry.nodeid, r), 0);
	}
	ck_assert_uint_gt(woken, 0);
	ck_assert_uint_eq(ov->ahead.used, 197);
	close_layers();
	free(root);
	free(r);
}
END_TEST

START_TEST(nobody_asks)
{
	struct reply *root = reply_new(), *r = reply_new();

	make_layers();
	open_layers(false);
	begin_walk(root);
	ck_assert_uint_eq(work(), 7 * 5);
	ck_assert(ov_ahead_expire(ov));
	sleep(2); /* more than it is kept for */
	ck_assert(!ov_ahead_expire(ov));
	ck_assert_uint_eq(ov->ahead.bytes, 0);
	ck_assert_uint_eq(ov->ahead.wasted, 7);
	ck_assert(!ov_ahead_work(ov)); /* the walk is over */
	ck_assert_uint_eq(list(root->e[9].entry.nodeid, r), 5);
	close_layers();
	free(root);
	free(r);
}
END_TEST

static void read_file(uint64_t nodeid)
{
	char byte;

	ck_assert_int_eq(ov_read(ov, ov_inode_get(ov, nodeid), &byte, 1, 0), 0);
}

/* Files that come next are opened. */
START_TEST(files)
{
	struct reply *r = reply_new();
	unsigned fds;

	list(open_large(60), r);
	ck_assert_uint_eq(r->n, 60);
	work();
	fds = ov_fdcache_count(&ov->fds);
	for (unsigned n = 0; n < 3; n++) {
		read_file(r->e[n].entry.nodeid);
		ck_assert(!ov_ahead_work(ov));
		ck_assert_uint_eq(ov_fdcache_count(&ov->fds), ++fds);
	}
	woken = 0;
	read_file(r->e[3].entry.nodeid);
	ck_assert_uint_eq(woken, 1);
	work();
	ck_assert_uint_eq(ov_fdcache_count(&ov->fds), fds + 1 + 12);
	for (unsigned n = 4; n < 60; n++) {
		read_file(r->e[n].entry.nodeid);
		work();
	}
	ck_assert_uint_eq(ov_fdcache_count(&ov->fds), fds - 3 + 60);
	ck_assert_uint_le(woken, 1 + 60 / 4);

	/* in another order none is */
	ov_fdcache_trim(&ov->fds);
	fds = ov_fdcache_count(&ov->fds);
	for (unsigned n = 50; n > 20; n--)
		read_file(r->e[n].entry.nodeid);
	work();
	ck_assert_uint_eq(ov_fdcache_count(&ov->fds), fds + 1 + 30); /* and the directory */
	close_layers();
	free(r);
}
END_TEST

/* One that is being made, or that the kernel has forgotten, is nobody's to take. */
START_TEST(not_known_yet)
{
	struct ov_inode *i;

	make_layers();
	open_layers(false);
	i = ov_inode_new(&ov->tab, S_IFREG);
	ov_inode_insert(&ov->tab, i);
	ck_assert_ptr_eq(ov_inode_find(&ov->tab, i->nodeid), i);
	ck_assert_ptr_null(ov_inode_find_ref(&ov->tab, i->nodeid));
	ck_assert_uint_eq(i->refs, 0);
	ov_inode_ref(&ov->tab, i);
	ov_inode_unref(&ov->tab, i);
	ck_assert_ptr_eq(ov_inode_find_ref(&ov->tab, OV_ROOT_ID), ov->root);
	ov_inode_unref(&ov->tab, ov->root);
	close_layers();
}
END_TEST

/* ---- beside changes ---- */

#define TREES 40 /* each with a fresh upper */
#define WALKS 5

static bool ended; /* atomic */

static void *work_on(void *arg OV_UNUSED)
{
	while (!__atomic_load_n(&ended, __ATOMIC_RELAXED))
		if (!ov_ahead_work(ov))
			usleep(20);
	return NULL;
}

/* Modes of f0 to f4 in each directory; 0: it is not there. */
static unsigned modes[10][5];

static void change_one(const uint64_t *dirs, unsigned d, unsigned f)
{
	const struct ov_setattr set = {.valid = OV_SET_MODE, .mode = modes[d][f] & 0700 ? 0444 : 0700};
	const struct ov_cred cred = {0};
	struct ov_inode *dir = ov_inode_get(ov, dirs[d]);
	struct statx stx;
	struct ov_entry e;
	char name[8];

	snprintf(name, sizeof(name), "f%u", f);
	ck_assert_int_eq(ov_lookup(ov, dir, name, &e), 0);
	ck_assert_uint_eq(e.nodeid != 0, modes[d][f] != 0);
	if (!modes[d][f]) {
		ck_assert_int_eq(ov_mknod(ov, dir, name, S_IFREG | 0644, 0, &cred, &e), 0);
		modes[d][f] = 0644;
	} else if (rand() % 2) {
		ck_assert_int_eq(ov_unlink(ov, dir, name), 0);
		modes[d][f] = 0;
	} else {
		ck_assert_int_eq(ov_setattr(ov, ov_inode_get(ov, e.nodeid), &set, &stx), 0);
		modes[d][f] = set.mode;
	}
	ov_forget(ov, e.nodeid, 1);
}

static void check_dir(uint64_t dir, unsigned d, struct reply *r)
{
	unsigned want = 0;

	list(dir, r);
	for (unsigned f = 0; f < 5; f++) {
		char name[8];

		snprintf(name, sizeof(name), "f%u", f);
		want += modes[d][f] != 0;
		ck_assert_msg((entry_of(r, name) != NULL) == (modes[d][f] != 0), "d%u/%s", d, name);
		if (modes[d][f])
			ck_assert_uint_eq(entry_of(r, name)->attr.stx_mode & 07777, modes[d][f]);
	}
	ck_assert_uint_eq(r->n, want);
	for (unsigned n = 0; n < r->n; n++)
		ov_forget(ov, r->e[n].entry.nodeid, 1);
}

static void walk_and_change(struct reply *root, struct reply *r)
{
	uint64_t dirs[10];
	unsigned number[10];

	list(OV_ROOT_ID, root);
	for (unsigned n = 0; n < 10; n++) {
		number[n] = (unsigned)(root->e[n].name[1] - '0');
		dirs[number[n]] = root->e[n].entry.nodeid;
	}
	for (unsigned n = 0; n < 10; n++) {
		if (rand() % 4 == 0)
			change_one(dirs, number[(n + (unsigned)rand() % 2) % 10], (unsigned)rand() % 5);
		check_dir(dirs[number[n]], number[n], r);
	}
	for (unsigned n = 0; n < 10; n++)
		ov_forget(ov, dirs[n], 1);
}

START_TEST(beside_changes)
{
	struct reply *root = reply_new(), *r = reply_new();
	uint64_t used = 0;

	srand(1);
	for (unsigned n = 0; n < TREES; n++) {
		pthread_t thread;

		make_layers();
		open_layers(n % 2);
		for (unsigned d = 0; d < 10; d++)
			for (unsigned f = 0; f < 5; f++)
				modes[d][f] = 0644;
		__atomic_store_n(&ended, false, __ATOMIC_RELAXED);
		ck_assert_int_eq(pthread_create(&thread, NULL, work_on, NULL), 0);
		for (unsigned k = 0; k < WALKS; k++)
			walk_and_change(root, r);
		__atomic_store_n(&ended, true, __ATOMIC_RELAXED);
		pthread_join(thread, NULL);
		ck_assert_uint_eq(ov->tab.nids, 1);
		used += ov->ahead.used;
		close_layers();
	}
	ck_assert_uint_gt(used, 0);
	free(root);
	free(r);
}
END_TEST

Suite *readdir_ahead_suite(void)
{
	Suite *s = suite_create("readdir_ahead");
	TCase *tc = tcase_create("core");

	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, found);
	tcase_add_test(tc, no_walk);
	tcase_add_test(tc, not_started);
	tcase_add_test(tc, changed);
	tcase_add_test(tc, changed_and_forgotten);
	tcase_add_loop_test(tc, hard_link, 0, 2);
	tcase_add_test(tc, in_parts);
	tcase_add_test(tc, in_small_parts);
	tcase_add_test(tc, below);
	tcase_add_test(tc, many_below);
	tcase_add_test(tc, in_vain);
	tcase_add_test(tc, no_more_than);
	tcase_add_test(tc, nobody_asks);
	tcase_add_test(tc, files);
	tcase_add_test(tc, not_known_yet);
	tcase_add_test(tc, beside_changes);
	suite_add_tcase(s, tc);
	return s;
}
