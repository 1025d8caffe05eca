/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Lines of the log: how many come through, and what becomes of the rest. */

#include <check.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "log.h"

Suite *log_suite(void);

START_TEST(test_limit)
{
	struct ov_log_limit l = {0};
	unsigned long dropped = 99;
	unsigned n;

	/* the clock may begin anywhere */
	for (n = 0; n < OV_LOG_LIMIT_LINES; n++) {
		ck_assert(ov_log_limit(&l, 3, &dropped));
		ck_assert_uint_eq(dropped, 0);
	}
	for (n = 0; n < 7; n++)
		ck_assert(!ov_log_limit(&l, 3 + OV_LOG_LIMIT_SECONDS - 1, &dropped));
	ck_assert_uint_eq(dropped, 0);
	/* the first of the next time tells of them, once */
	ck_assert(ov_log_limit(&l, 3 + OV_LOG_LIMIT_SECONDS, &dropped));
	ck_assert_uint_eq(dropped, 7);
	ck_assert(ov_log_limit(&l, 3 + OV_LOG_LIMIT_SECONDS, &dropped));
	ck_assert_uint_eq(dropped, 0);
	for (n = 2; n < OV_LOG_LIMIT_LINES; n++)
		ck_assert(ov_log_limit(&l, 4 + OV_LOG_LIMIT_SECONDS, &dropped));
	ck_assert(!ov_log_limit(&l, 4 + OV_LOG_LIMIT_SECONDS, &dropped));
	/* a time without any line in between */
	ck_assert(ov_log_limit(&l, 1000, &dropped));
	ck_assert_uint_eq(dropped, 1);
}
END_TEST

/* Lines that FN leaves on standard error; *FIRST: the beginning of it all. */
static unsigned lines_of(void (*fn)(void), char *text, size_t size)
{
	int copy = dup(STDERR_FILENO);
	FILE *f = tmpfile();
	unsigned n = 0;
	ssize_t len;

	ck_assert(copy >= 0 && f);
	ck_assert(dup2(fileno(f), STDERR_FILENO) >= 0);
	fn();
	ck_assert(dup2(copy, STDERR_FILENO) >= 0);
	close(copy);
	len = pread(fileno(f), text, size - 1, 0);
	ck_assert(len >= 0);
	text[len] = '\0';
	fclose(f);
	for (const char *p = text; (p = strchr(p, '\n')); p++)
		n++;
	return n;
}

static void flood(void)
{
	for (unsigned n = 0; n < 500; n++)
		ov_warn("warning %u\nof two lines", n);
	ov_error("one error");
	ov_info("not at this level");
	for (unsigned n = 0; n < 50; n++)
		ov_log_asked("asked");
}

START_TEST(test_flood)
{
	static char text[1 << 16];
	unsigned n = lines_of(flood, text, sizeof(text));

	/* more if seconds have passed meanwhile, but never all */
	ck_assert_uint_ge(n, OV_LOG_LIMIT_LINES + 1 + 50);
	ck_assert_uint_lt(n, 500);
	ck_assert_ptr_eq(strstr(text, "fuse-overlay: warning 0?of two lines\nfuse-overlay: warning 1?"), text);
	ck_assert(strstr(text, "fuse-overlay: one error\n"));
	ck_assert(!strstr(text, "not at this level"));
}
END_TEST

static void talk(void)
{
	ov_log_set_level(OV_LOG_DEBUG);
	for (unsigned n = 0; n < 500; n++)
		ov_debug("step %u", n);
	ov_log_set_level(OV_LOG_WARNING);
}

START_TEST(test_debug_is_whole)
{
	static char text[1 << 16];

	ck_assert_uint_eq(lines_of(talk, text, sizeof(text)), 500);
}
END_TEST

Suite *log_suite(void)
{
	Suite *s = suite_create("log");
	TCase *tc = tcase_create("log");

	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, test_limit);
	tcase_add_test(tc, test_flood);
	tcase_add_test(tc, test_debug_is_whole);
	suite_add_tcase(s, tc);
	return s;
}
