# SPDX-License-Identifier: GPL-2.0-or-later
# Compiler and linker flags, each taken only where the tool chain has it.

# OV_TRY_CFLAGS(FLAGS): append FLAGS to OV_CFLAGS if a program compiles and links with them and without a warning.
AC_DEFUN([OV_TRY_CFLAGS],
[AS_VAR_PUSHDEF([cache], [ov_cv_cflags_$1])dnl
AC_CACHE_CHECK([whether $CC takes $1], [cache],
	[ov_save_CFLAGS=$CFLAGS
	CFLAGS="$CFLAGS -Werror $1"
	AC_LINK_IFELSE([AC_LANG_PROGRAM([[#include <stdio.h>]], [[puts("")]])],
		[AS_VAR_SET([cache], [yes])], [AS_VAR_SET([cache], [no])])
	CFLAGS=$ov_save_CFLAGS])
AS_VAR_IF([cache], [yes], [OV_CFLAGS="$OV_CFLAGS $1"])
AS_VAR_POPDEF([cache])])

# OV_TRY_LDFLAGS(FLAGS): the same for OV_LDFLAGS.
AC_DEFUN([OV_TRY_LDFLAGS],
[AS_VAR_PUSHDEF([cache], [ov_cv_ldflags_$1])dnl
AC_CACHE_CHECK([whether the linker takes $1], [cache],
	[ov_save_LDFLAGS=$LDFLAGS
	LDFLAGS="$LDFLAGS $1"
	AC_LINK_IFELSE([AC_LANG_PROGRAM([[#include <stdio.h>]], [[puts("")]])],
		[AS_VAR_SET([cache], [yes])], [AS_VAR_SET([cache], [no])])
	LDFLAGS=$ov_save_LDFLAGS])
AS_VAR_IF([cache], [yes], [OV_LDFLAGS="$OV_LDFLAGS $1"])
AS_VAR_POPDEF([cache])])

AC_DEFUN([OV_WARNINGS],
[m4_foreach_w([flag],
	[-Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wold-style-definition -Wformat=2
	-Wvla -Wundef -Wpointer-arith -Wwrite-strings -Wcast-align -Wnested-externs
	-Wimplicit-fallthrough -Wlogical-op -Wduplicated-cond
	-Wdate-time -Wno-unused-parameter -Wno-missing-field-initializers],
	[OV_TRY_CFLAGS(m4_defn([flag]))])])

# OV_SANITIZER(LIST|no)
AC_DEFUN([OV_SANITIZER],
[AS_IF([test "$1" != no],
	[OV_CFLAGS="$OV_CFLAGS -fsanitize=$1 -fno-omit-frame-pointer -fno-sanitize-recover=all"
	OV_LDFLAGS="$OV_LDFLAGS -fsanitize=$1"
	AC_MSG_CHECKING([whether -fsanitize=$1 works])
	ov_save_CFLAGS=$CFLAGS
	CFLAGS="$CFLAGS -fsanitize=$1"
	AC_LINK_IFELSE([AC_LANG_PROGRAM([], [])],
		[AC_MSG_RESULT([yes])],
		[AC_MSG_RESULT([no])
		AC_MSG_ERROR([the compiler or its run-time library does not support -fsanitize=$1])])
	CFLAGS=$ov_save_CFLAGS])])

# OV_TEST_SANITIZER(NAME, LIST): the conditional HAVE_NAME, and in NAME_CFLAGS what a program with these sanitizers takes.
AC_DEFUN([OV_TEST_SANITIZER],
[AC_CACHE_CHECK([whether tests can be built with -fsanitize=$2], [ov_cv_sanitizer_$1],
	[ov_save_CFLAGS=$CFLAGS
	CFLAGS="$CFLAGS -fsanitize=$2"
	AS_IF([test "$enable_sanitizer" != no], [ov_cv_sanitizer_$1=no],
		[AC_LINK_IFELSE([AC_LANG_PROGRAM([], [])], [ov_cv_sanitizer_$1=yes], [ov_cv_sanitizer_$1=no])])
	CFLAGS=$ov_save_CFLAGS])
AC_SUBST([$1_CFLAGS], ["-U_FORTIFY_SOURCE -O1 -fsanitize=$2 -fno-omit-frame-pointer -fno-sanitize-recover=all"])
AM_CONDITIONAL([HAVE_$1], [test "$ov_cv_sanitizer_$1" = yes])])

# Not together with a sanitizer: fortified calls hide from its interceptors.
AC_DEFUN([OV_HARDENING],
[OV_TRY_CFLAGS([-fstack-protector-strong])
OV_TRY_CFLAGS([-fstack-clash-protection])
OV_TRY_CFLAGS([-fcf-protection])
OV_TRY_CFLAGS([-fPIE])
OV_TRY_CFLAGS([-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2])
OV_TRY_LDFLAGS([-pie])
OV_TRY_LDFLAGS([-Wl,-z,relro])
OV_TRY_LDFLAGS([-Wl,-z,now])
OV_TRY_LDFLAGS([-Wl,-z,noexecstack])])
