// SPDX-License-Identifier: GPL-2.0-or-later
#include "override_stat.h"

#include <stdio.h>
#include <string.h>

#include "xattr_names.h"

#define SECURITY "security."
#define STORED_SECURITY "user.containers.override_security."
#define LEN(s) (sizeof(s) - 1)

static const char *const names[] = {
	[OV_OVERRIDE_SECURITY] = "security.fuseoverlayfs.override_stat",
	[OV_OVERRIDE_CONTAINERS] = "user.containers.override_stat",
	[OV_OVERRIDE_USER] = "user.fuseoverlayfs.override_stat",
};

static const struct {
	const char *name;
	uint32_t type;
} types[] = {
	{"file", S_IFREG},    {"dir", S_IFDIR},	  {"symlink", S_IFLNK}, {"pipe", S_IFIFO},
	{"socket", S_IFSOCK}, {"block", S_IFBLK}, {"char", S_IFCHR},
};

/* The rest of the text that is being decoded. */
struct text {
	const char *p;
	const char *end;
};

/* Take a number in BASE, at least one digit, at most 32 bits. */
static bool take_number(struct text *t, unsigned base, uint32_t *out)
{
	const char *start = t->p;
	uint64_t n = 0;

	for (; t->p < t->end && *t->p >= '0' && *t->p < (char)('0' + base); t->p++) {
		n = n * base + (unsigned)(*t->p - '0');
		if (n > UINT32_MAX)
			return false;
	}
	*out = (uint32_t)n;
	return t->p > start;
}

static bool take_char(struct text *t, char c)
{
	if (t->p == t->end || *t->p != c)
		return false;
	t->p++;
	return true;
}

/* Take the type field, to the end. */
static bool take_type(struct text *t, struct ov_override_stat *st)
{
	const char *dash = memchr(t->p, '-', (size_t)(t->end - t->p));
	size_t len = (size_t)((dash ? dash : t->end) - t->p), i;

	for (i = 0; i < OV_ARRAY_SIZE(types); i++) {
		if (strlen(types[i].name) == len && memcmp(types[i].name, t->p, len) == 0)
			break;
	}
	if (i == OV_ARRAY_SIZE(types))
		return false;
	st->type = types[i].type;
	t->p += len;
	if (!S_ISBLK(st->type) && !S_ISCHR(st->type))
		return t->p == t->end;
	return take_char(t, '-') && take_number(t, 10, &st->major) && take_char(t, '-') &&
	       take_number(t, 10, &st->minor) && t->p == t->end;
}

int ov_override_decode(const char *value, size_t len, struct ov_override_stat *out)
{
	struct ov_override_stat st = {0};
	struct text t = {value, value + len};

	memset(out, 0, sizeof(*out));
	while (t.end > t.p && t.end[-1] == '\0')
		t.end--;
	if (!take_number(&t, 10, &st.uid) || !take_char(&t, ':') || !take_number(&t, 10, &st.gid) ||
	    !take_char(&t, ':') || !take_number(&t, 8, &st.mode))
		return -EINVAL;
	if (t.p != t.end && (!take_char(&t, ':') || !take_type(&t, &st)))
		return -EINVAL;
	st.mode &= 07777;
	*out = st;
	return 0;
}

size_t ov_override_encode(const struct ov_override_stat *st, bool with_type, char buf[OV_OVERRIDE_TEXT_MAX])
{
	size_t i;
	int n = snprintf(buf, OV_OVERRIDE_TEXT_MAX, "%u:%u:%04o", st->uid, st->gid, st->mode & 07777);

	for (i = 0; with_type && i < OV_ARRAY_SIZE(types); i++) {
		if (types[i].type != st->type)
			continue;
		n += snprintf(buf + n, OV_OVERRIDE_TEXT_MAX - (size_t)n, ":%s", types[i].name);
		if (S_ISBLK(st->type) || S_ISCHR(st->type))
			n += snprintf(buf + n, OV_OVERRIDE_TEXT_MAX - (size_t)n, "-%u-%u", st->major, st->minor);
	}
	return (size_t)n;
}

enum ov_override ov_override_detect(struct ov_at at)
{
	static const enum ov_override order[] = {OV_OVERRIDE_SECURITY, OV_OVERRIDE_CONTAINERS, OV_OVERRIDE_USER};
	size_t i;

	for (i = 0; i < OV_ARRAY_SIZE(order); i++) {
		if (ov_at_getxattr(at, names[order[i]], NULL, 0) >= 0)
			return order[i];
	}
	return OV_OVERRIDE_NONE;
}

const char *ov_override_name(enum ov_override kind)
{
	return kind == OV_OVERRIDE_NONE ? NULL : names[kind];
}

int ov_override_read(struct ov_at at, enum ov_override kind, struct ov_override_stat *out)
{
	char value[OV_OVERRIDE_TEXT_MAX];
	ssize_t len;

	if (kind == OV_OVERRIDE_NONE)
		return -ENODATA;
	len = ov_at_getxattr(at, names[kind], value, sizeof(value));
	if (len < 0)
		return len == -ERANGE ? -EINVAL : len == -EOPNOTSUPP ? -ENODATA : (int)len;
	return ov_override_decode(value, (size_t)len, out);
}

int ov_override_write(struct ov_at at, enum ov_override kind, const struct ov_override_stat *st)
{
	char value[OV_OVERRIDE_TEXT_MAX];
	size_t len;

	if (kind == OV_OVERRIDE_NONE)
		return -EINVAL;
	len = ov_override_encode(st, st->type != 0, value);
	return ov_at_setxattr(at, names[kind], value, len, 0);
}

/* Does this kind of store keep security.* names elsewhere? */
static bool moves_security(enum ov_override kind)
{
	return kind == OV_OVERRIDE_CONTAINERS || kind == OV_OVERRIDE_USER;
}

/* NAME with its first FROM bytes replaced by PREFIX, in BUF; NULL if too long. */
static const char *replace_prefix(const char *name, size_t from, const char *prefix, char *buf)
{
	size_t plen = strlen(prefix), rest = strlen(name + from);

	if (plen + rest > OV_XATTR_NAME_MAX)
		return NULL;
	memcpy(buf, prefix, plen);
	memcpy(buf + plen, name + from, rest + 1);
	return buf;
}

const char *ov_override_xattr_to_stored(enum ov_override kind, const char *name, char *buf)
{
	if (!moves_security(kind) || strncmp(name, SECURITY, LEN(SECURITY)) != 0)
		return name;
	return replace_prefix(name, LEN(SECURITY), STORED_SECURITY, buf);
}

const char *ov_override_xattr_to_view(enum ov_override kind, const char *stored, char *buf)
{
	if (moves_security(kind) && strncmp(stored, SECURITY, LEN(SECURITY)) == 0)
		return NULL; /* that name is another one's there */
	if (!moves_security(kind) || strncmp(stored, STORED_SECURITY, LEN(STORED_SECURITY)) != 0)
		return stored;
	return replace_prefix(stored, LEN(STORED_SECURITY), SECURITY, buf);
}
