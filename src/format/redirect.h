/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_FORMAT_REDIRECT_H
#define OV_FORMAT_REDIRECT_H

#include "../sys/at.h"

/* Longest redirect that is written, as the kernel's redirect_max default; longer ones found on disk are read. */
#define OV_REDIRECT_MAX 256

/*
 * Check a redirect value of LEN bytes: a plain name, or '/' and plain names joined by single '/'; no empty, "." or
 * ".." component, no NUL, no component over 255 bytes. Pure. 0 or -EINVAL.
 */
int ov_redirect_check(const char *value, size_t len);

/*
 * Read overlay.redirect of AT under PREFIX. *OUT: NUL-terminated, the caller's to free; NULL if there is none. 0,
 * -EINVAL if malformed (the kernel fails the lookup then), or -errno.
 */
int ov_redirect_read(struct ov_at at, int prefix, char **out);

/* Write it. 0, -ENAMETOOLONG past OV_REDIRECT_MAX, or -errno. */
int ov_redirect_write(struct ov_at at, int prefix, const char *value);

/*
 * Walk helper: the next component of *P into COMP (256 bytes), advancing *P. 1 while there was one, 0 at the end. Pure;
 * VALUE must have passed ov_redirect_check().
 */
int ov_redirect_next(const char **p, char comp[256]);

#endif
