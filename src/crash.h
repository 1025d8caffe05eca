/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_CRASH_H
#define OV_CRASH_H

/*
 * Crash points: the named moments of a change at which the daemon may die and what is on disk must still be the old state or
 * the new one. They are there in the program that the tests build for that (tests/faults), and nothing anywhere else.
 */

#ifdef OV_CRASH_POINTS

struct ov_crash_name {
	const char *name;
};

/* Dies here if the test has asked for it. */
void ov_crash_point(const struct ov_crash_name *point);

/* Every point leaves its name in a section of its own, so that the test can list those that there are. */
#define OV_CRASH(point)                                                                                        \
	do {                                                                                                   \
		static const struct ov_crash_name ov_crash_name_                                               \
			__attribute__((used, section("ov_crash_points"), aligned(sizeof(void *)))) = {point};  \
		ov_crash_point(&ov_crash_name_);                                                               \
	} while (0)

#else

#define OV_CRASH(point) ((void)0)

#endif

#endif
