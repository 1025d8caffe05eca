/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_FORMAT_INDEX_H
#define OV_FORMAT_INDEX_H

/* overlay.nlink and overlay.impure and the volatile marker: the small marks of the upper. */

#include "../sys/at.h"

/*
 * overlay.nlink: 'U' or 'L' and a signed decimal: union link count relative to upper's or lower's real count.
 * Decode LEN bytes: *BASE is 'U' or 'L', *DELTA the number. Pure. 0 or -EINVAL.
 */
int ov_nlink_decode(const char *value, size_t len, char *base, int *delta);

/* Encode into BUF (16 bytes), return the length. Pure. */
size_t ov_nlink_encode(char base, int delta, char buf[16]);

/* Read and write it. -ENODATA if absent, -EINVAL if malformed. */
int ov_nlink_read(struct ov_at at, int prefix, char *base, int *delta);
int ov_nlink_write(struct ov_at at, int prefix, char base, int delta);

/* overlay.impure: 1 / 0 / -errno; set it. */
int ov_impure_read(struct ov_at at, int prefix);
int ov_impure_write(struct ov_at at, int prefix);

/* overlay.protattr: append-only ('a') and immutable ('i') of a copied-up file. Decode: pure; ignores unknown bytes. */
unsigned ov_protattr_decode(const char *value, size_t len); /* FS_APPEND_FL | FS_IMMUTABLE_FL */
int ov_protattr_read(struct ov_at at, int prefix, unsigned *flags);
int ov_protattr_write(struct ov_at at, int prefix, unsigned flags); /* 0 removes it */

/*
 * The volatile marker workdir/work/incompat/volatile: WORK_WORK_FD is workdir/work. present: 1/0/-errno; create makes
 * both directories as needed.
 */
int ov_volatile_present(int work_work_fd);
int ov_volatile_create(int work_work_fd);

#endif
