/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The memory that outlives its process, and the table of inodes that is found in it again. */

#include <check.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "../../src/arena.h"
#include "../../src/inode.h"

Suite *arena_suite(void);

#define MAGIC 0x1234u

struct thing {
	uint32_t magic;
	uint32_t number;
	struct thing *next;
	char more[100];
};

static struct thing *make(struct ov_arena *a, uint32_t number, struct thing *next)
{
	struct thing *t = ov_arena_alloc(a, sizeof(*t));

	ck_assert_ptr_nonnull(t);
	ck_assert_uint_eq(t->magic, 0);
	ck_assert_uint_eq(t->number, 0);
	ck_assert_uint_eq((uintptr_t)t % 16, 0);
	t->number = number;
	t->next = next;
	ov_arena_publish(t, MAGIC);
	return t;
}

static bool keep_things(void *arg, void *object)
{
	struct thing *t = object;
	unsigned *n = arg;

	if (t->magic != MAGIC)
		return false;
	(*n)++;
	return true;
}

START_TEST(reuse)
{
	struct ov_arena a;
	struct thing *t[5000];
	size_t used;

	ck_assert_int_eq(ov_arena_open(&a, 100, _i), 0);
	for (unsigned round = 0; round < 3; round++) {
		for (unsigned n = 0; n < 5000; n++)
			t[n] = make(&a, n, NULL);
		for (unsigned n = 0; n < 5000; n++)
			ck_assert_uint_eq(t[n]->number, n);
		if (round == 0)
			used = ov_arena_used(&a);
		ck_assert_uint_eq(ov_arena_used(&a), used);
		for (unsigned n = 0; n < 5000; n++)
			ov_arena_free(&a, t[n]);
		ck_assert_uint_le(ov_arena_used(&a), 2 * OV_ARENA_SLAB); /* the header, and one slab kept */
	}
	ck_assert_ptr_null(ov_arena_alloc(&a, OV_ARENA_MAX + 1));
	ov_arena_close(&a);
}
END_TEST

START_TEST(recover)
{
	struct ov_arena a;
	struct thing *t[3000], *half;
	unsigned n = 0;

	ck_assert_int_eq(ov_arena_open(&a, 100, _i), 0);
	for (unsigned k = 0; k < 3000; k++)
		t[k] = make(&a, k, k ? t[k - 1] : NULL);
	half = ov_arena_alloc(&a, sizeof(*half)); /* never published */
	for (unsigned k = 0; k < 3000; k += 2)
		ov_arena_free(&a, t[k]);
	memset(a.usable, 0xff, sizeof(a.usable)); /* what the process kept for itself is lost */
	ck_assert_int_eq(ov_arena_recover(&a, keep_things, &n), 0);
	ck_assert_uint_eq(n, 1500);
	for (unsigned k = 1; k < 3000; k += 2) {
		ck_assert_uint_eq(t[k]->number, k);
		ck_assert_ptr_eq(ov_arena_check(&a, t[k], MAGIC), t[k]);
		ck_assert_ptr_null(ov_arena_check(&a, t[k]->next, MAGIC));
	}
	ck_assert_ptr_null(ov_arena_check(&a, half, MAGIC));
	ck_assert_ptr_null(ov_arena_check(&a, (char *)t[1] + 8, MAGIC));
	ck_assert_ptr_null(ov_arena_check(&a, t[1], MAGIC + 1));
	ck_assert_ptr_null(ov_arena_check(&a, &a, MAGIC));
	ck_assert_ptr_null(ov_arena_check(&a, NULL, MAGIC));
	for (unsigned k = 0; k < 3000; k += 2) /* the free places are handed out, and only they */
		t[k] = make(&a, k, NULL);
	for (unsigned k = 0; k < 3000; k++)
		ck_assert_uint_eq(t[k]->number, k);
	ov_arena_close(&a);
}
END_TEST

/* Another process writes, this one goes on, at another address. */
START_TEST(other_process)
{
	struct ov_arena a, b;
	struct thing *t = NULL, *first;
	unsigned n = 0;
	pid_t pid;
	int status;

	ck_assert_int_eq(ov_arena_open(&a, sizeof(first), true), 0);
	pid = fork();
	if (pid == 0) {
		for (unsigned k = 0; k < 2000; k++)
			t = make(&a, k, t);
		*(struct thing **)ov_arena_header(&a) = t;
		_exit(0);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
	ck_assert_int_eq(ov_arena_take_over(&b, sizeof(first), fcntl(a.fd, F_DUPFD_CLOEXEC, 0)), 0);
	ck_assert_ptr_ne(a.base, b.base);
	b.moved = (uint64_t)((uintptr_t)b.base - (uintptr_t)a.base);
	ck_assert_int_eq(ov_arena_recover(&b, keep_things, &n), 0);
	ck_assert_uint_eq(n, 2000);
	n = 2000;
	for (first = *(struct thing **)ov_arena_header(&b); first; first = t->next) {
		t = ov_arena_check(&b, first, MAGIC);
		ck_assert_ptr_nonnull(t);
		ck_assert_uint_eq(t->number, --n);
	}
	ck_assert_uint_eq(n, 0);
	ov_arena_close(&a);
	ov_arena_close(&b);
}
END_TEST

/* Garbage in what a dead process wrote is not followed. */
START_TEST(garbage)
{
	struct ov_arena a;
	unsigned n = 0;

	ck_assert_int_eq(ov_arena_open(&a, 100, true), 0);
	for (unsigned k = 0; k < 3000; k++)
		make(&a, k, NULL);
	srand((unsigned)_i);
	for (unsigned k = 0; k < 200; k++)
		a.base[OV_ARENA_SLAB * (1 + (size_t)(rand() % 6)) + (size_t)(rand() % 64)] = (char)rand();
	ck_assert_int_eq(ov_arena_recover(&a, keep_things, &n), 0);
	ck_assert_uint_le(n, 3000);
	for (unsigned k = 0; k < 3000; k++)
		make(&a, k, NULL);
	ov_arena_close(&a);
}
END_TEST

struct table {
	struct ov_arena arena;
	struct ov_fdcache fds;
	struct ov_itable tab;
};

static void table_open(struct table *t)
{
	ck_assert_int_eq(ov_arena_open(&t->arena, sizeof(struct ov_ledger), true), 0);
	ck_assert_int_eq(ov_fdcache_init(&t->fds, 16), 0);
	ck_assert_int_eq(ov_itable_init(&t->tab, &t->fds, &t->arena), 0);
}

static struct ov_inode *add(struct table *t, struct ov_inode *parent, const char *name, unsigned type, uint64_t nlookup)
{
	struct ov_inode *i = ov_inode_new(&t->tab, type);

	ck_assert_ptr_nonnull(i);
	i->nlookup = nlookup;
	ov_inode_insert(&t->tab, i);
	if (parent) {
		pthread_mutex_lock(&t->tab.lock);
		ck_assert_int_eq(ov_dentry_add_locked(&t->tab, parent, name, i, false), 0);
		pthread_mutex_unlock(&t->tab.lock);
	}
	return i;
}

static void held(void *arg, int fd)
{
	*(int *)arg += fd;
}

START_TEST(inodes)
{
	struct table t;
	struct ov_inode *root, *d, *f, *found, *lost, *nameless;
	uint64_t lost_id;
	int fds = 0;

	table_open(&t);
	root = add(&t, NULL, NULL, S_IFDIR, 1);
	d = add(&t, root, "d", S_IFDIR, 0); /* forgotten by the kernel, but F is below it */
	f = add(&t, d, "f", S_IFREG, 3);
	f->ino = 77;
	ov_inode_set(f, OV_I_UPPER | OV_I_BUSY | OV_I_NOCAP);
	ov_inode_set_key(&t.tab, f, (struct ov_key){.ino = 5, .upper = 1});
	lost = add(&t, root, "lost", S_IFREG, 1);
	lost_id = lost->nodeid;
	lost->nlookup = 0; /* died between this and freeing it */
	nameless = add(&t, NULL, NULL, S_IFREG, 1);
	nameless->held_fd = 12;
	ck_assert_int_eq(ov_inode_set_ghost(&t.tab, nameless, 3, "/a/b"), 0);
	ck_assert_int_eq(ov_inode_set_ghost(&t.tab, nameless, 4, "/c"), 0);

	for (int again = 0; again < 2; again++) {
		ck_assert_int_eq(ov_itable_recover(&t.tab, &found), 0);
		ck_assert_ptr_eq(found, root);
		ck_assert_ptr_eq(ov_inode_find(&t.tab, f->nodeid), f);
		ck_assert_ptr_eq(ov_dentry_inode(&t.tab, d, "f"), f);
		ck_assert_ptr_eq(ov_dentry_inode(&t.tab, root, "d"), d);
		ck_assert_ptr_null(ov_dentry_inode(&t.tab, root, "lost"));
		ck_assert_ptr_null(ov_inode_find(&t.tab, lost_id));
		ck_assert_uint_eq(t.tab.nids, 4);
		ck_assert_uint_eq(f->nlookup, 3);
		ck_assert_uint_eq(f->ino, 77);
		ck_assert_uint_eq(f->flags, OV_I_UPPER | OV_I_KEYED | OV_I_STALE);
		ck_assert_uint_eq(d->refs, 1);
		pthread_mutex_lock(&t.tab.lock);
		ck_assert_ptr_eq(ov_inode_find_key_locked(&t.tab, f->key), f);
		pthread_mutex_unlock(&t.tab.lock);
		ck_assert_int_eq(nameless->held_fd, 12);
		ck_assert_uint_eq(nameless->ghost->layer, 4);
		ck_assert_str_eq(nameless->ghost->path, "/c");
	}
	ov_itable_each_held(&t.tab, held, &fds);
	ck_assert_int_eq(fds, 12);
	ck_assert_uint_gt(t.tab.ledger->next_id, nameless->nodeid); /* nodeids are not used twice */
	ov_inode_forget(&t.tab, f->nodeid, 3);
	ck_assert_uint_eq(t.tab.nids, 2); /* with F its directory goes */
	ov_itable_destroy(&t.tab);
	ov_arena_close(&t.arena);
	ov_fdcache_destroy(&t.fds);
}
END_TEST

/* What this thread has counted is noted, and taken back, in the ledger. */
START_TEST(raised)
{
	struct table t;
	struct ov_ledger *l;
	struct ov_inode *f;
	uint64_t id, *due;

	table_open(&t);
	l = t.tab.ledger;
	add(&t, NULL, NULL, S_IFDIR, 1);
	f = add(&t, NULL, NULL, S_IFREG, 0);
	id = f->nodeid;
	ov_inode_notes_raised_in(&l->inflight[1].nraised, l->raised[1]);
	pthread_mutex_lock(&t.tab.lock);
	for (unsigned n = 0; n < 3; n++)
		ov_inode_raise_locked(&t.tab, f);
	pthread_mutex_unlock(&t.tab.lock);
	ck_assert_uint_eq(f->nlookup, 3);
	ck_assert_uint_eq(l->inflight[1].nraised, 3);
	ck_assert_uint_eq(l->raised[1][2], id);
	ov_inode_forget(&t.tab, id, 1);
	ck_assert_uint_eq(f->nlookup, 2);
	ck_assert_uint_eq(l->inflight[1].nraised, 2);
	due = &l->strike_raised[0][0];
	*due = 1;
	ov_inode_forget_noted(&t.tab, id, *due, due);
	ck_assert_uint_eq(f->nlookup, 1);
	ck_assert_uint_eq(*due, 0);
	ck_assert_uint_eq(l->inflight[1].nraised, 2);
	*due = 1;
	ov_inode_forget_noted(&t.tab, id + 1, *due, due); /* not known */
	ck_assert_uint_eq(*due, 0);
	l->inflight[1].nraised = OV_LEDGER_RAISED; /* no room: counted all the same */
	pthread_mutex_lock(&t.tab.lock);
	ov_inode_raise_locked(&t.tab, f);
	pthread_mutex_unlock(&t.tab.lock);
	ck_assert_uint_eq(f->nlookup, 2);
	ck_assert_uint_eq(l->inflight[1].nraised, OV_LEDGER_RAISED);
	ov_inode_notes_raised_in(NULL, NULL);
	ck_assert_uint_eq(l->recount.inode, 0);
	ov_itable_destroy(&t.tab);
	ov_arena_close(&t.arena);
	ov_fdcache_destroy(&t.fds);
}
END_TEST

/* Died in the middle of changing a count: it is completed, once; garbage is not followed. */
START_TEST(recount)
{
	static const struct ov_recount none;
	struct table t;
	struct ov_ledger *l;
	struct ov_inode *f;
	uint64_t at;

	table_open(&t);
	l = t.tab.ledger;
	add(&t, NULL, NULL, S_IFDIR, 1);
	f = add(&t, NULL, NULL, S_IFREG, 3);
	at = (uint64_t)((char *)f - (char *)l);
	l->recount = (struct ov_recount){.inode = at, .count = 4, .note = offsetof(struct ov_ledger, raised), .value = 9};
	ov_itable_complete_recount(&t.tab);
	ck_assert_uint_eq(f->nlookup, 4);
	ck_assert_uint_eq(l->raised[0][0], 9);
	ck_assert_uint_eq(l->recount.inode, 0);
	f->nlookup = 5;
	ov_itable_complete_recount(&t.tab);
	ck_assert_uint_eq(f->nlookup, 5);
	l->recount = (struct ov_recount){.inode = at, .count = 6, .note = (uint64_t)((char *)&t - (char *)l)};
	ov_itable_complete_recount(&t.tab);
	ck_assert_uint_eq(f->nlookup, 6);
	for (unsigned n = 0; n < 4; n++) {
		const uint64_t wrong[] = {at + 1, UINT64_MAX / 16 * 16, (uint64_t)1 << 40, at + 16};

		l->recount = none;
		l->recount.inode = wrong[n];
		ov_itable_complete_recount(&t.tab);
		ck_assert_uint_eq(f->nlookup, 6);
		ck_assert_uint_eq(l->recount.inode, 0);
	}
	ov_itable_destroy(&t.tab);
	ov_arena_close(&t.arena);
	ov_fdcache_destroy(&t.fds);
}
END_TEST

Suite *arena_suite(void)
{
	Suite *s = suite_create("arena");
	TCase *tc = tcase_create("arena");

	tcase_add_loop_test(tc, reuse, 0, 2);
	tcase_add_loop_test(tc, recover, 0, 2);
	tcase_add_test(tc, other_process);
	tcase_add_loop_test(tc, garbage, 0, 50);
	tcase_add_test(tc, inodes);
	tcase_add_test(tc, raised);
	tcase_add_test(tc, recount);
	suite_add_tcase(s, tc);
	return s;
}
