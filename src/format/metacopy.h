/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_FORMAT_METACOPY_H
#define OV_FORMAT_METACOPY_H

#include "../sys/at.h"

#define OV_METACOPY_DIGEST_MAX 64

struct ov_metacopy {
	bool present;
	uint8_t flags;
	uint8_t digest_algo; /* 0: none; FS_VERITY_HASH_ALG_* */
	uint8_t digest_len;
	uint8_t digest[OV_METACOPY_DIGEST_MAX];
};

/*
 * Decode a value of LEN bytes: empty, or {u8 version = 0, u8 len, u8 flags, u8 digest_algo} + digest, len = whole
 * length. Pure. 0 or -EINVAL (unknown version, wrong lengths; flags are let pass, as in the kernel).
 */
int ov_metacopy_decode(const void *value, size_t len, struct ov_metacopy *out);

/* Read overlay.metacopy of AT under PREFIX. OUT->present tells. 0, -EIO if malformed, or -errno. */
int ov_metacopy_read(struct ov_at at, int prefix, struct ov_metacopy *out);

/* Write an empty one (no digest); remove it (absent is fine). 0 or -errno. */
int ov_metacopy_write(struct ov_at at, int prefix);
int ov_metacopy_remove(struct ov_at at, int prefix);

#endif
