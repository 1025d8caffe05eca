/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Listings of large directories, and of such as change all the time. */

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../src/filehandle.h"
#include "../../src/listing.h"

Suite *listing_suite(void);

#define MANY 20000

static const char *name_of(unsigned n)
{
	static char name[32];

	snprintf(name, sizeof(name), "name-%u", n);
	return name;
}

/* MANY names in COPIES layers, sealed. */
static struct ov_listing *listing_of(unsigned copies)
{
	struct ov_listing *l = ov_listing_new();

	ck_assert_ptr_nonnull(l);
	for (unsigned layer = 0; layer < copies; layer++)
		for (unsigned n = 0; n < MANY; n++)
			ck_assert_int_eq(ov_listing_put(l, name_of(n), 8, false, copies - layer), 0);
	ck_assert_int_eq(ov_listing_seal(l), 0);
	return l;
}

static void check_order(struct ov_listing *l)
{
	ck_assert_int_eq(ov_listing_settle(l), 0);
	for (size_t n = 1; n < l->n; n++)
		ck_assert_uint_lt(l->e[n - 1].cookie, l->e[n].cookie);
}

static void check_names(struct ov_listing *l, unsigned from, unsigned to, bool there)
{
	unsigned height;

	for (unsigned n = from; n < to; n++)
		ck_assert_msg(ov_listing_find(l, name_of(n), &height) == there, "%s", name_of(n));
}

START_TEST(large)
{
	struct ov_listing *l = listing_of((unsigned)_i);
	unsigned height = 0;

	ck_assert_uint_eq(l->n, MANY);
	check_order(l);
	check_names(l, 0, MANY, true);
	check_names(l, MANY, MANY + 100, false);
	ck_assert(ov_listing_find(l, name_of(7), &height));
	ck_assert_uint_eq(height, (unsigned)_i);
	/* what is not needed any more is given back */
	ck_assert_uint_lt(ov_listing_size(l), MANY * (sizeof(struct ov_lname) + 12) + 1000);
	ov_listing_unref(l);
}
END_TEST

START_TEST(same_name_twice)
{
	struct ov_listing *l = ov_listing_new();

	for (int n = 0; n < 3; n++)
		ck_assert_int_eq(ov_listing_put(l, "a", 8, false, 1), 0);
	ck_assert_int_eq(ov_listing_seal(l), 0);
	ck_assert_uint_eq(l->n, 1);
	ov_listing_unref(l);
}
END_TEST

START_TEST(hidden_below)
{
	struct ov_listing *l = ov_listing_new();
	unsigned height;

	ck_assert_int_eq(ov_listing_put(l, "a", 8, false, 2), 0);
	ck_assert_int_eq(ov_listing_put(l, "b", 0, true, 2), 0);
	/* beside an object of that name it hides nothing of it */
	ck_assert_int_eq(ov_listing_put(l, "a", 0, true, 2), 0);
	ck_assert_int_eq(ov_listing_put(l, "b", 8, false, 1), 0);
	ck_assert_int_eq(ov_listing_put(l, "c", 8, false, 1), 0);
	ck_assert_int_eq(ov_listing_seal(l), 0);
	ck_assert_uint_eq(l->n, 2);
	ck_assert(ov_listing_find(l, "a", &height) && height == 2);
	ck_assert(!ov_listing_find(l, "b", &height));
	ck_assert(ov_listing_find(l, "c", &height) && height == 1);
	ov_listing_unref(l);
}
END_TEST

START_TEST(growing)
{
	struct ov_listing *l = listing_of(1);
	size_t size;

	for (unsigned n = MANY; n < 2 * MANY; n++)
		ck_assert_int_eq(ov_listing_insert(l, name_of(n), 8, &size), 0);
	check_names(l, 0, 2 * MANY, true);
	check_order(l);
	ck_assert_uint_eq(l->n, 2 * MANY);
	check_names(l, 0, 2 * MANY, true);
	ov_listing_unref(l);
}
END_TEST

START_TEST(shrinking)
{
	struct ov_listing *l = listing_of(1);
	size_t before = ov_listing_size(l);

	for (unsigned n = 100; n < MANY; n++)
		ov_listing_remove(l, name_of(n));
	check_names(l, 0, 100, true);
	check_names(l, 100, MANY, false);
	ck_assert_uint_lt(ov_listing_size(l), before / 50);
	check_order(l);
	ov_listing_unref(l);
}
END_TEST

/* Ever new names that soon go again, as of temporary files: no more memory than they need at one time. */
START_TEST(passing_names)
{
	struct ov_listing *l = listing_of(1);
	uint64_t cookie = ov_listing_cookie(name_of(1));
	size_t before = ov_listing_size(l), size = 0;
	char name[32];

	for (unsigned n = 0; n < 20 * MANY; n++) {
		snprintf(name, sizeof(name), "passing-%u", n);
		ck_assert_int_eq(ov_listing_insert(l, name, 8, &size), 0);
		ov_listing_remove(l, name);
	}
	ck_assert_uint_lt(size, 3 * before);
	check_names(l, 0, MANY, true);
	check_order(l);
	ck_assert_uint_eq(l->e[ov_listing_after(l, cookie - 1)].cookie, cookie);
	ov_listing_unref(l);
}
END_TEST

/* Descriptors that must stay open are out of the way of those that need not. */
START_TEST(held_descriptors)
{
	struct ov_fdslot *owners[20] = {NULL};
	int32_t notes[10];
	struct ov_fdcache c;

	ck_assert_int_eq(ov_fdcache_init(&c, 4), 0);
	for (unsigned n = 0; n < OV_ARRAY_SIZE(owners); n++) {
		struct ov_fdslot *s = ov_fdslot_put(&c, &owners[n], dup(1), 0);

		ck_assert_ptr_nonnull(s);
		if (n < 10)
			ck_assert(ov_fdslot_hold(&c, &owners[n], &notes[n]));
		ck_assert_msg((s->next == NULL) == (n < 10), "%u", n);
		ov_fdslot_unpin(&c, s);
	}
	for (unsigned n = 0; n < 10; n++) {
		ck_assert_ptr_nonnull(owners[n]);
		ck_assert_int_eq(notes[n], owners[n]->fd);
	}
	ov_fdslot_release(&c, &owners[0]);
	ck_assert_int_eq(notes[0], -1);
	ov_fdcache_trim(&c);
	ck_assert_ptr_null(owners[0]);
	ov_fdslot_unpin(&c, ov_fdslot_put(&c, &owners[1], dup(1), 0)); /* what takes the place is held, too */
	ck_assert_int_eq(notes[1], owners[1]->fd);
	ov_fdcache_trim(&c);
	ck_assert_ptr_nonnull(owners[1]);
	ck_assert_uint_eq(ov_fdcache_count(&c), 9);
	for (unsigned n = 0; n < OV_ARRAY_SIZE(owners); n++)
		ov_fdslot_drop(&c, &owners[n]);
	ck_assert_uint_eq(ov_fdcache_count(&c), 0);
	ov_fdcache_destroy(&c);
}
END_TEST

Suite *listing_suite(void)
{
	Suite *s = suite_create("listing");
	TCase *tc = tcase_create("listing");

	tcase_set_timeout(tc, 60);
	tcase_add_loop_test(tc, large, 1, 4);
	tcase_add_test(tc, same_name_twice);
	tcase_add_test(tc, hidden_below);
	tcase_add_test(tc, growing);
	tcase_add_test(tc, shrinking);
	tcase_add_test(tc, passing_names);
	tcase_add_test(tc, held_descriptors);
	suite_add_tcase(s, tc);
	return s;
}
