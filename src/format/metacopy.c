// SPDX-License-Identifier: GPL-2.0-or-later
#include "metacopy.h"

#include <string.h>

#include "xattr_names.h"

/* On disk: u8 version, u8 length of all, u8 flags, u8 digest algorithm, then the digest. */
#define HEADER 4

int ov_metacopy_decode(const void *value, size_t len, struct ov_metacopy *out)
{
	const uint8_t *b = value;

	memset(out, 0, sizeof(*out));
	if (len != 0) {
		if (len < HEADER || len > HEADER + OV_METACOPY_DIGEST_MAX)
			return -EINVAL;
		if (b[0] != 0 || b[1] != len) /* flags are for the future: none is known, none refused */
			return -EINVAL;
		out->flags = b[2];
		out->digest_algo = b[3];
		out->digest_len = (uint8_t)(len - HEADER);
		memcpy(out->digest, b + HEADER, len - HEADER);
	}
	out->present = true;
	return 0;
}

int ov_metacopy_read(struct ov_at at, int prefix, struct ov_metacopy *out)
{
	uint8_t value[HEADER + OV_METACOPY_DIGEST_MAX];
	ssize_t len = ov_at_getxattr(at, ov_xattr_name(prefix, OV_X_METACOPY), value, sizeof(value));

	memset(out, 0, sizeof(*out));
	if (len == -ENODATA || len == -EOPNOTSUPP)
		return 0;
	/* A user xattr of a file that we may not read: no metacopy file, says the kernel too. */
	if (len == -EACCES && prefix == OV_XP_USER)
		return 0;
	if (len == -ERANGE)
		return -EIO;
	if (len < 0)
		return (int)len;
	return ov_metacopy_decode(value, (size_t)len, out) < 0 ? -EIO : 0;
}

int ov_metacopy_write(struct ov_at at, int prefix)
{
	return ov_at_setxattr(at, ov_xattr_name(prefix, OV_X_METACOPY), "", 0, 0);
}

int ov_metacopy_remove(struct ov_at at, int prefix)
{
	int r = ov_at_removexattr(at, ov_xattr_name(prefix, OV_X_METACOPY));

	return r == -ENODATA || r == -EOPNOTSUPP ? 0 : r;
}
