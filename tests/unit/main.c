/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The unit-test program: runs every suite and prints TAP, nothing else, on stdout. */

#include <check.h>
#include <stdlib.h>

Suite *arena_suite(void);
Suite *params_suite(void);
Suite *idmap_suite(void);
Suite *log_suite(void);
Suite *sys_suite(void);
Suite *format_suite(void);
Suite *listing_suite(void);
Suite *readdir_ahead_suite(void);
Suite *waiting_suite(void);
#ifdef HAVE_CORE_SUITE
Suite *core_suite(void);
#endif

int main(void)
{
	SRunner *sr = srunner_create(params_suite());
	int failed;

	srunner_add_suite(sr, arena_suite());
	srunner_add_suite(sr, idmap_suite());
	srunner_add_suite(sr, log_suite());
	srunner_add_suite(sr, sys_suite());
	srunner_add_suite(sr, format_suite());
	srunner_add_suite(sr, listing_suite());
	srunner_add_suite(sr, readdir_ahead_suite());
	srunner_add_suite(sr, waiting_suite());
#ifdef HAVE_CORE_SUITE
	srunner_add_suite(sr, core_suite());
#endif
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
