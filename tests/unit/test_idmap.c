/* SPDX-License-Identifier: GPL-2.0-or-later */
/* uidmapping= and gidmapping=. */

#include <check.h>
#include <stdio.h>
#include <string.h>

#include "../../src/idmap.h"

Suite *idmap_suite(void);

static struct ov_idmap parsed(const char *text)
{
	struct ov_idmap m;
	const char *why = "unset";

	ck_assert_int_eq(ov_idmap_parse(&m, text, &why), 0);
	ck_assert_ptr_null(why);
	return m;
}

static void refused(const char *text, const char *expect)
{
	struct ov_idmap m;
	const char *why = NULL;

	ck_assert_msg(ov_idmap_parse(&m, text, &why) == -EINVAL, "accepted: %s", text);
	ck_assert_ptr_nonnull(why);
	ck_assert_msg(strstr(why, expect) != NULL, "%s: %s", text, why);
	ck_assert_uint_eq(m.n, 0);
	ck_assert_ptr_null(m.ranges);
	ck_assert_int_eq(ov_idmap_parse(&m, text, NULL), -EINVAL);
}

START_TEST(identity)
{
	static const char *const texts[] = {"", ":"};
	uint32_t out;

	for (size_t i = 0; i < OV_ARRAY_SIZE(texts); i++) {
		struct ov_idmap m = parsed(texts[i]);

		ck_assert_uint_eq(m.n, 0);
		ck_assert_uint_eq(ov_idmap_to_view(&m, 4294967294u), 4294967294u);
		ck_assert(ov_idmap_to_disk(&m, 12345, &out));
		ck_assert_uint_eq(out, 12345);
		ov_idmap_clear(&m);
	}
}
END_TEST

START_TEST(rootless)
{
	/* As podman writes it, with a colon in front. */
	struct ov_idmap m = parsed(":1000:0:1:100000:1:65536");
	uint32_t out = 7;

	ck_assert_uint_eq(m.n, 2);
	ck_assert_uint_eq(ov_idmap_to_view(&m, 1000), 0);
	ck_assert_uint_eq(ov_idmap_to_view(&m, 100000), 1);
	ck_assert_uint_eq(ov_idmap_to_view(&m, 165535), 65536);
	ck_assert_uint_eq(ov_idmap_to_view(&m, 165536), OV_OVERFLOW_ID);
	ck_assert_uint_eq(ov_idmap_to_view(&m, 0), OV_OVERFLOW_ID);
	ck_assert_uint_eq(ov_idmap_to_view(&m, 99999), OV_OVERFLOW_ID);
	ck_assert(ov_idmap_to_disk(&m, 0, &out));
	ck_assert_uint_eq(out, 1000);
	ck_assert(ov_idmap_to_disk(&m, 65536, &out));
	ck_assert_uint_eq(out, 165535);
	out = 7;
	ck_assert(!ov_idmap_to_disk(&m, 65537, &out));
	ck_assert_uint_eq(out, 7);
	ov_idmap_clear(&m);
	ck_assert_ptr_null(m.ranges);
	ov_idmap_clear(&m);
}
END_TEST

START_TEST(whole_range)
{
	struct ov_idmap m = parsed("0:0:4294967295");
	uint32_t out;

	ck_assert_uint_eq(ov_idmap_to_view(&m, 4294967294u), 4294967294u);
	ck_assert(ov_idmap_to_disk(&m, 4294967294u, &out));
	ck_assert(!ov_idmap_to_disk(&m, 4294967295u, &out));
	ov_idmap_clear(&m);

	m = parsed("0:4294967294:1");
	ck_assert_uint_eq(ov_idmap_to_view(&m, 0), 4294967294u);
	ov_idmap_clear(&m);
}
END_TEST

START_TEST(round_trip)
{
	struct ov_idmap m = parsed("1000:0:1:100000:1:1000:7000:5000:10:3000000000:2000000000:1000000000");
	uint32_t out;

	for (uint32_t id = 0; id < 6000; id++) {
		if (ov_idmap_to_disk(&m, id, &out))
			ck_assert_uint_eq(ov_idmap_to_view(&m, out), id);
	}
	ck_assert(ov_idmap_to_disk(&m, 2999999999u, &out));
	ck_assert_uint_eq(out, 3999999999u);
	ck_assert(!ov_idmap_to_disk(&m, 3000000000u, &out));
	ov_idmap_clear(&m);
}
END_TEST

START_TEST(malformed)
{
	refused("x", "not a number");
	refused("0", "triples");
	refused("0:0", "triples");
	refused("0:0:1:", "not a number");
	refused("0:0:1:5", "triples");
	refused("0:0:1:5:6", "triples");
	refused("::0:0:1", "not a number");
	refused("0::1", "not a number");
	refused("-1:0:1", "not a number");
	refused("+1:0:1", "not a number");
	refused(" 0:0:1", "not a number");
	refused("0:0:1 ", "not a number");
	refused("0x1:0:1", "not a number");
	refused("0:0:4294967296", "not a number");
	refused("0:99999999999999999999999:1", "not a number");
	refused("0:0:0", "length 0");
	refused("0:1:4294967295", "largest");
	refused("1:0:4294967295", "largest");
	refused("0:4294967295:1", "largest");
	refused("0:0:10:100:9:1", "overlap in the view");
	refused("0:0:10:9:10:1", "overlap on disk");
	refused("100:5:1:200:0:10", "overlap in the view");
}
END_TEST

START_TEST(many_ranges)
{
	char *text = NULL;
	size_t size = 0;
	FILE *f = open_memstream(&text, &size);
	struct ov_idmap m;

	for (unsigned i = 0; i < 1000; i++)
		fprintf(f, ":%u:%u:1", 10000 + 2 * i, i);
	fclose(f);
	m = parsed(text);
	ck_assert_uint_eq(m.n, 1000);
	ck_assert_uint_eq(ov_idmap_to_view(&m, 11998), 999);
	ov_idmap_clear(&m);
	free(text);
}
END_TEST

Suite *idmap_suite(void)
{
	Suite *s = suite_create("idmap");
	TCase *tc = tcase_create("idmap");

	tcase_add_test(tc, identity);
	tcase_add_test(tc, rootless);
	tcase_add_test(tc, whole_range);
	tcase_add_test(tc, round_trip);
	tcase_add_test(tc, malformed);
	tcase_add_test(tc, many_ranges);
	suite_add_tcase(s, tc);
	return s;
}
