// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The command line. One table says for each -o option how its value is read and where it goes; what depends on more
 * than one option is settled once all are known, in settle().
 *
 * Escapes are kept through the splitting and resolved by each option's reader, since ':' separates in lowerdir only.
 */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* asprintf */
#endif

#include <ctype.h>
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <linux/fuse.h>

#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>

#include "params.h"

#define OV_ID_MAX 4294967294u /* 2^32-1 means "leave alone" to chown */
#define OV_WARNINGS_MAX 16 /* a broken script must not flood the log of who called us */
#define OV_SHOWN_MAX 72 /* so many bytes of an option are repeated in a message */
#define OV_THREADS_MAX 4096u
#define OV_TIMEOUT_UNLIMITED 1e9 /* seconds from which on a timeout is none; fuse-overlayfs's default */

struct parser {
	struct ov_params *p;
	FILE *err;
	const char *opt; /* the option being read, as given; for messages */
	unsigned warnings;
	size_t lower_room;
	bool in_data; /* the last lower was a data-only one */
	char *uid_text; /* uidmapping=, parsed at the end */
	char *gid_text;
	char **map_text; /* whichever of these two the last option was, else NULL */
	bool allow_other_set;
};

struct choice {
	const char *name;
	int value;
};

struct option {
	const char *name;
	/* Read VALUE (NULL: none given; ours to change) and store it; 0, or an error after its line. */
	int (*read)(struct parser *ps, const struct option *o, char *value);
	size_t off; /* in struct ov_params, or NOWHERE */
	unsigned max; /* read_number() */
	const void *arg; /* read_choice(): choices; read_kernel_flag(): the opposite */
};

#define NOWHERE ((size_t)-1)
#define FIELD(m) offsetof(struct ov_params, m)

static void *field(struct parser *ps, const struct option *o)
{
	return (char *)ps->p + o->off;
}

/* ---- messages ---- */

/* TEXT, shortened and on one line whatever is in it. */
static const char *shown(const char *text, char buf[OV_SHOWN_MAX + 4])
{
	size_t n = 0;

	for (; text[n] != '\0' && n < OV_SHOWN_MAX; n++)
		buf[n] = iscntrl((unsigned char)text[n]) ? '?' : text[n];
	strcpy(buf + n, text[n] != '\0' ? "..." : "");
	return buf;
}

/* One line; composed first, so that it reaches a pipe shared with others in one piece. */
static void OV_PRINTF(3, 0) say(struct parser *ps, const char *severity, const char *fmt, va_list ap)
{
	char text[512];

	vsnprintf(text, sizeof(text), fmt, ap);
	fprintf(ps->err, OV_PROGRAM ": %s%s\n", severity, text);
}

static int OV_PRINTF(2, 3) fail(struct parser *ps, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say(ps, "", fmt, ap);
	va_end(ap);
	return -EINVAL;
}

static int fail_memory(struct parser *ps)
{
	fail(ps, "out of memory while reading the options");
	return -ENOMEM;
}

/* "option 'NAME=VALUE': WHAT" */
static int fail_option(struct parser *ps, const char *what)
{
	char buf[OV_SHOWN_MAX + 4];

	return fail(ps, "option '%s': %s", shown(ps->opt, buf), what);
}

static void OV_PRINTF(2, 3) warning(struct parser *ps, const char *fmt, ...)
{
	va_list ap;

	if (++ps->warnings > OV_WARNINGS_MAX)
		return;
	va_start(ap, fmt);
	say(ps, "warning: ", fmt, ap);
	va_end(ap);
}

static void warn_option(struct parser *ps, const char *what)
{
	char buf[OV_SHOWN_MAX + 4];

	warning(ps, "option '%s' %s", shown(ps->opt, buf), what);
}

/* ---- text ---- */

/* The unescaped double quote that ends the quoted text at S, or NULL. */
static char *closing_quote(char *s)
{
	for (; *s != '\0'; s++) {
		if (*s == '\\' && s[1] != '\0')
			s++;
		else if (*s == '"')
			return s;
	}
	return NULL;
}

/*
 * The comma or NUL that ends the option at S. Only a quote directly after '=' protects commas, and only if it is
 * closed: a path may hold a quote anywhere else, and must not swallow the options behind it.
 */
static char *option_end(char *s)
{
	bool in_value = false;

	for (; *s != '\0' && *s != ','; s++) {
		if (*s == '\\' && s[1] != '\0') {
			s++;
		} else if (*s == '=' && !in_value) {
			in_value = true;
			if (s[1] == '"') {
				char *q = closing_quote(s + 2);

				if (q != NULL)
					s = q;
			}
		}
	}
	return s;
}

/* Drop the quotes around a wholly quoted VALUE. */
static char *unquote(char *value)
{
	char *q = *value == '"' ? closing_quote(value + 1) : NULL;

	if (q == NULL || q[1] != '\0')
		return value;
	*q = '\0';
	return value + 1;
}

/* As the kernel: a backslash makes the next character an ordinary one. In place. */
static char *unescape(char *s)
{
	char *to = s;

	for (const char *from = s; *from != '\0'; from++) {
		if (*from == '\\' && from[1] != '\0')
			from++;
		*to++ = *from;
	}
	*to = '\0';
	return s;
}

/* ---- readers ---- */

static int need_value(struct parser *ps, const char *value)
{
	return value != NULL && *value != '\0' ? 0 : fail_option(ps, "needs a value; see --help");
}

static int read_truth(struct parser *ps, const char *value, bool *out)
{
	static const struct choice words[] = {{"1", 1}, {"on", 1},  {"true", 1},  {"yes", 1},
					      {"0", 0}, {"off", 0}, {"false", 0}, {"no", 0}};

	if (value == NULL) {
		*out = true;
		return 0;
	}
	for (size_t i = 0; i < OV_ARRAY_SIZE(words); i++) {
		if (strcmp(value, words[i].name) == 0) {
			*out = words[i].value != 0;
			return 0;
		}
	}
	return fail_option(ps, "neither on nor off; give 0 or 1");
}

/* NAME, NAME=0|1 and the like. */
static int read_bool(struct parser *ps, const struct option *o, char *value)
{
	bool b;
	int r = read_truth(ps, value, &b);

	if (r == 0 && o->off != NOWHERE)
		*(bool *)field(ps, o) = b;
	return r;
}

/* Decimal digits only, up to MAX; RANGE ends the message. */
static int read_decimal(struct parser *ps, const char *value, uint64_t max, const char *range, uint64_t *out)
{
	char what[96];
	uint64_t v = 0;
	const char *digits = value != NULL && *value == '-' ? value + 1 : value;
	const char *wrong = NULL;

	if (digits == NULL || *digits == '\0' || digits[strspn(digits, "0123456789")] != '\0')
		wrong = "not a number";
	else if (digits != value)
		wrong = "negative";
	for (const char *s = value; wrong == NULL && *s != '\0'; s++) {
		v = v * 10 + (uint64_t)(*s - '0');
		if (v > max)
			wrong = "too large";
	}
	if (wrong == NULL) {
		*out = v;
		return 0;
	}
	snprintf(what, sizeof(what), "%s; give %s between 0 and %llu", wrong, range, (unsigned long long)max);
	return fail_option(ps, what);
}

/* An unsigned field, up to o->max. */
static int read_number(struct parser *ps, const struct option *o, char *value)
{
	uint64_t v;
	int r = read_decimal(ps, value, o->max, "a number", &v);

	if (r == 0 && o->off != NOWHERE)
		*(unsigned *)field(ps, o) = (unsigned)v;
	return r;
}

/* libfuse's -1, no limit, is taken too. */
static int read_idle_threads(struct parser *ps, const struct option *o, char *value)
{
	return value != NULL && strcmp(value, "-1") == 0 ? 0 : read_number(ps, o, value);
}

static int read_id(struct parser *ps, const struct option *o, char *value)
{
	uint64_t v;
	int r = read_decimal(ps, value, OV_ID_MAX, "an id", &v);

	if (r == 0)
		*(int64_t *)field(ps, o) = (int64_t)v;
	return r;
}

/* Decimal seconds, with a fraction or exponent. */
static int read_timeout(struct parser *ps, const struct option *o, char *value)
{
	char *end;
	double v;
	int r = need_value(ps, value);

	if (r < 0)
		return r;
	/* strtod() knows more than we want: blanks, hex, inf, nan. */
	v = strspn(value, "0123456789.eE+-") == strlen(value) ? strtod(value, &end) : NAN;
	if (isnan(v) || *end != '\0' || *value == '-' || *value == '+')
		return fail_option(ps, "not a number of seconds; give 0 or more, as 1 or 0.5");
	*(double *)field(ps, o) = v >= OV_TIMEOUT_UNLIMITED ? -1 : v;
	return 0;
}

/* One of a set of words; the message lists them. */
static int read_choice(struct parser *ps, const struct option *o, char *value)
{
	const struct choice *c = o->arg;
	char what[128] = "no such value; give one of";
	int r = need_value(ps, value);

	if (r < 0)
		return r;
	for (; c->name != NULL; c++) {
		if (strcmp(value, c->name) == 0) {
			if (o->off != NOWHERE)
				*(int *)field(ps, o) = c->value;
			return 0;
		}
	}
	for (c = o->arg; c->name != NULL; c++) {
		size_t n = strlen(what);

		snprintf(what + n, sizeof(what) - n, " %s", c->name);
	}
	return fail_option(ps, what);
}

static int read_redirect(struct parser *ps, const struct option *o, char *value)
{
	int r = read_choice(ps, o, value);

	if (r == 0)
		ps->p->ov.redirect_set = true;
	return r;
}

/* Put a copy of TEXT in *SLOT; the last one given wins. */
static int store_text(struct parser *ps, char **slot, const char *text)
{
	char *copy = strdup(text);

	if (copy == NULL)
		return fail_memory(ps);
	free(*slot);
	*slot = copy;
	return 0;
}

/* A path or name. */
static int read_text(struct parser *ps, const struct option *o, char *value)
{
	int r = need_value(ps, value);

	if (r < 0)
		return r;
	value = unescape(unquote(value));
	r = need_value(ps, value);
	return r < 0 ? r : store_text(ps, field(ps, o), value);
}

/* Kept as text to the end, since fuse-overlayfs's manual shows its triples joined by commas, too. */
static int read_idmap(struct parser *ps, const struct option *o, char *value)
{
	char **slot = strcmp(o->name, "uidmapping") == 0 ? &ps->uid_text : &ps->gid_text;
	int r;

	value = value == NULL ? NULL : unescape(unquote(value));
	r = store_text(ps, slot, value == NULL ? "" : value);
	if (r < 0)
		return r;
	for (char *s = *slot; *s != '\0'; s++) {
		if (*s == ',')
			*s = ':';
	}
	ps->map_text = slot;
	return 0;
}

/* "1:100000:65536" behind a mapping goes on with it. */
static int continue_idmap(struct parser *ps, const char *text)
{
	char *joined = NULL;

	if (asprintf(&joined, "%s:%s", *ps->map_text, text) < 0)
		return fail_memory(ps);
	free(*ps->map_text);
	*ps->map_text = joined;
	return 0;
}

/* ---- lower layers ---- */

static void drop_lowers(struct parser *ps)
{
	struct ov_config *ov = &ps->p->ov;

	while (ov->nlower > 0)
		free(ov->lower[--ov->nlower]);
	ov->ndata = 0;
	ps->in_data = false;
}

/* Append the lower PATH (copied). */
static int add_lower(struct parser *ps, const char *path, bool data)
{
	struct ov_config *ov = &ps->p->ov;

	if (ov->nlower == ps->lower_room) {
		size_t room = ps->lower_room == 0 ? 16 : ps->lower_room * 2;
		char **grown = reallocarray(ov->lower, room, sizeof(*grown));

		if (grown == NULL)
			return fail_memory(ps);
		ov->lower = grown;
		ps->lower_room = room;
	}
	ov->lower[ov->nlower] = strdup(path);
	if (ov->lower[ov->nlower] == NULL)
		return fail_memory(ps);
	ov->nlower++;
	ov->ndata += data;
	ps->in_data = data;
	return 0;
}

/* The unescaped ':' or NUL at or behind S. */
static char *lower_end(char *s)
{
	for (; *s != '\0' && *s != ':'; s++) {
		if (*s == '\\' && s[1] != '\0')
			s++;
	}
	return s;
}

static int fail_empty_lower(struct parser *ps)
{
	char what[128];

	snprintf(what, sizeof(what), "layer %zu is empty; separate directories by ':', data-only ones by '::'",
		 ps->p->ov.nlower + 1);
	return fail_option(ps, what);
}

/* A:B::D1::D2 - a list given later replaces an earlier one. */
static int read_lowerdir(struct parser *ps, const struct option *o OV_UNUSED, char *value)
{
	bool data = false;
	int r = need_value(ps, value);

	if (r < 0)
		return r;
	drop_lowers(ps);
	for (char *s = unquote(value);;) {
		char *end = lower_end(s);
		char sep = *end;

		if (end == s)
			return fail_empty_lower(ps);
		*end = '\0';
		r = add_lower(ps, unescape(s), data);
		if (r < 0 || sep == '\0')
			return r;
		s = end + 1;
		if (*s == ':') {
			data = true;
			s++;
		} else if (data && *s != '\0') {
			return fail_option(ps,
					   "an ordinary layer cannot follow data-only ones; separate those by '::'");
		}
	}
}

/* lowerdir+= and datadir+=: one layer, its colons and all. */
static int read_one_lower(struct parser *ps, const struct option *o, char *value)
{
	bool data = *o->name == 'd';
	int r = need_value(ps, value);

	if (r < 0)
		return r;
	value = unescape(unquote(value));
	if (*value == '\0')
		return need_value(ps, value);
	if (ps->in_data && !data)
		return fail_option(ps, "an ordinary layer cannot follow data-only ones; give lowerdir+ first");
	return add_lower(ps, value, data);
}

/* ---- durability, threads, debugging ---- */

/* fsync=0|1, and the words of kernel 6.18. */
static int read_fsync(struct parser *ps, const struct option *o OV_UNUSED, char *value)
{
	struct ov_config *ov = &ps->p->ov;
	bool on = true;
	int r;

	if (value != NULL && strcmp(value, "volatile") == 0) {
		ov->volatile_ = true;
		return 0;
	}
	if (value != NULL && (strcmp(value, "strict") == 0 || strcmp(value, "auto") == 0)) {
		ov->volatile_ = false;
		value = NULL;
	}
	r = read_truth(ps, value, &on);
	if (r == 0)
		ov->sync = on ? OV_SYNC_ON : OV_SYNC_OFF;
	return r;
}

static int read_threaded(struct parser *ps, const struct option *o OV_UNUSED, char *value)
{
	bool on;
	int r = read_truth(ps, value, &on);

	if (r == 0)
		ps->p->single_thread = !on;
	return r;
}

static int read_nosupervise(struct parser *ps, const struct option *o OV_UNUSED, char *value)
{
	bool off;
	int r = read_truth(ps, value, &off);

	if (r == 0)
		ps->p->supervise = !off;
	return r;
}

static void set_debug(struct ov_params *p)
{
	p->debug = true;
	p->foreground = true;
}

static int read_debug(struct parser *ps, const struct option *o OV_UNUSED, char *value)
{
	bool on;
	int r = read_truth(ps, value, &on);

	if (r == 0 && on)
		set_debug(ps->p);
	return r;
}

/* ---- options for the kernel ---- */

/* Take out what is NAME or NAME=..., so that the last one wins and contradictions never reach mount(2). */
static void drop_kernel_opt(struct ov_params *p, const char *name)
{
	size_t len = strlen(name);
	size_t kept = 0;

	for (size_t i = 0; i < p->nkernel_opts; i++) {
		char *k = p->kernel_opts[i];

		if (strncmp(k, name, len) == 0 && (k[len] == '\0' || k[len] == '='))
			free(k);
		else
			p->kernel_opts[kept++] = k;
	}
	p->nkernel_opts = kept;
	if (p->kernel_opts != NULL)
		p->kernel_opts[kept] = NULL;
}

static int add_kernel_opt(struct parser *ps, const char *text)
{
	struct ov_params *p = ps->p;
	char **grown = reallocarray(p->kernel_opts, p->nkernel_opts + 2, sizeof(*grown));

	if (grown == NULL)
		return fail_memory(ps);
	p->kernel_opts = grown;
	grown[p->nkernel_opts] = strdup(text);
	if (grown[p->nkernel_opts] == NULL)
		return fail_memory(ps);
	grown[++p->nkernel_opts] = NULL;
	return 0;
}

static int set_kernel_flag(struct parser *ps, const char *name, const char *opposite)
{
	drop_kernel_opt(ps->p, name);
	if (opposite != NULL)
		drop_kernel_opt(ps->p, opposite);
	return add_kernel_opt(ps, name);
}

static int read_kernel_flag(struct parser *ps, const struct option *o, char *value)
{
	if (value != NULL)
		return fail_option(ps, "takes no value");
	return set_kernel_flag(ps, o->name, o->arg);
}

static int read_ro_rw(struct parser *ps, const struct option *o, char *value)
{
	int r = read_kernel_flag(ps, o, value);

	if (r == 0)
		ps->p->ov.force_read_only = strcmp(o->name, "ro") == 0;
	return r;
}

/* Bare it is mount(8)'s flag, with a value fuse-overlayfs's other name for fsync. */
static int read_sync(struct parser *ps, const struct option *o, char *value)
{
	return value != NULL ? read_fsync(ps, o, value) : read_kernel_flag(ps, o, value);
}

static int read_async(struct parser *ps, const struct option *o OV_UNUSED, char *value)
{
	if (value != NULL)
		return fail_option(ps, "takes no value");
	drop_kernel_opt(ps->p, "sync");
	return 0;
}

/* context="..." and its kin go on as they came, quotes included. */
static int read_context(struct parser *ps, const struct option *o, char *value)
{
	int r = need_value(ps, value);

	if (r < 0)
		return r;
	if (*value == '"') {
		char *q = closing_quote(value + 1);

		if (q == NULL || q[1] != '\0')
			return fail_option(ps, "the quotes do not match; write NAME=\"LABEL\"");
	}
	drop_kernel_opt(ps->p, o->name);
	return add_kernel_opt(ps, ps->opt);
}

static int read_kernel_number(struct parser *ps, const struct option *o, char *value)
{
	int r = read_number(ps, o, value);

	if (r < 0)
		return r;
	drop_kernel_opt(ps->p, o->name);
	return add_kernel_opt(ps, ps->opt);
}

/* The last of the two wins: together they contradict. */
static int read_allow(struct parser *ps, const struct option *o, char *value)
{
	struct ov_params *p = ps->p;
	bool on;
	int r = read_truth(ps, value, &on);

	if (r < 0)
		return r;
	*(bool *)field(ps, o) = on;
	ps->allow_other_set = true;
	if (on && o->off == FIELD(allow_root))
		p->allow_other = false;
	else if (on)
		p->allow_root = false;
	return 0;
}

/* Nobody but the kernel checks permissions, so they cannot be left unchecked. */
static int read_default_permissions(struct parser *ps, const struct option *o OV_UNUSED, char *value)
{
	bool on;
	int r = read_truth(ps, value, &on);

	if (r == 0 && !on)
		warn_option(ps, "has no effect: the kernel always checks permissions");
	return r;
}

/* ---- options without effect ---- */

static int read_no_effect(struct parser *ps, const struct option *o OV_UNUSED, char *value OV_UNUSED)
{
	warn_option(ps, "has no effect here");
	return 0;
}

static int read_plugins(struct parser *ps, const struct option *o OV_UNUSED, char *value)
{
	if (value != NULL && *value != '\0')
		warn_option(ps, "has no effect: there are no plugins");
	return 0;
}

static int read_nfs_export(struct parser *ps, const struct option *o OV_UNUSED, char *value)
{
	bool on;
	int r = read_truth(ps, value, &on);

	if (r == 0 && on)
		return fail_option(ps, "NFS export is not supported; leave it out or give nfs_export=off");
	return r;
}

static int read_verity(struct parser *ps, const struct option *o, char *value)
{
	int r = read_choice(ps, o, value);

	if (r == 0 && strcmp(value, "off") != 0)
		return fail_option(ps, "fs-verity digests are not supported; leave it out or give verity=off");
	return r;
}

/* ---- the table ---- */

static const struct choice redirects[] = {{"off", OV_REDIRECT_OFF},
					  {"follow", OV_REDIRECT_FOLLOW},
					  {"nofollow", OV_REDIRECT_NOFOLLOW},
					  {"on", OV_REDIRECT_ON},
					  {NULL, 0}};
static const struct choice xinos[] = {{"off", OV_XINO_OFF}, {"auto", OV_XINO_AUTO}, {"on", OV_XINO_ON}, {NULL, 0}};
static const struct choice uuids[] = {{"off", 0}, {"null", 0}, {"auto", 0}, {"on", 0}, {NULL, 0}};
static const struct choice verities[] = {{"off", 0}, {"on", 1}, {"require", 2}, {NULL, 0}};
static const struct choice levels[] = {{"error", OV_LOG_ERROR}, {"warning", OV_LOG_WARNING}, {"info", OV_LOG_INFO},
				       {"debug", OV_LOG_DEBUG}, {"0", OV_LOG_ERROR},	     {"1", OV_LOG_WARNING},
				       {"2", OV_LOG_INFO},	{"3", OV_LOG_DEBUG},	     {NULL, 0}};

static const struct option options[] = {
	/* layers */
	{"lowerdir", read_lowerdir, NOWHERE, 0, NULL},
	{"lowerdir+", read_one_lower, NOWHERE, 0, NULL},
	{"datadir+", read_one_lower, NOWHERE, 0, NULL},
	{"upperdir", read_text, FIELD(ov.upper), 0, NULL},
	{"workdir", read_text, FIELD(ov.work), 0, NULL},
	/* what is on disk */
	{"redirect_dir", read_redirect, FIELD(ov.redirect), 0, redirects},
	{"metacopy", read_bool, FIELD(ov.metacopy), 0, NULL},
	{"index", read_bool, FIELD(ov.index), 0, NULL},
	{"userxattr", read_bool, FIELD(ov.userxattr), 0, NULL},
	{"xino", read_choice, FIELD(ov.xino), 0, xinos},
	{"ino32_t", read_bool, FIELD(ov.ino32), 0, NULL},
	{"uuid", read_choice, NOWHERE, 0, uuids},
	{"nfs_export", read_nfs_export, NOWHERE, 0, NULL},
	{"verity", read_verity, NOWHERE, 0, verities},
	/* durability */
	{"fsync", read_fsync, NOWHERE, 0, NULL},
	{"sync", read_sync, NOWHERE, 0, NULL},
	{"volatile", read_bool, FIELD(ov.volatile_), 0, NULL},
	/* owners, modes, attributes */
	{"uidmapping", read_idmap, NOWHERE, 0, NULL},
	{"gidmapping", read_idmap, NOWHERE, 0, NULL},
	{"squash_to_root", read_bool, FIELD(ov.squash_to_root), 0, NULL},
	{"squash_to_uid", read_id, FIELD(ov.squash_uid), 0, NULL},
	{"squash_to_gid", read_id, FIELD(ov.squash_gid), 0, NULL},
	{"xattr_permissions", read_number, FIELD(ov.xattr_permissions), 2, NULL},
	{"static_nlink", read_bool, FIELD(ov.static_nlink), 0, NULL},
	{"noacl", read_bool, FIELD(ov.noacl), 0, NULL},
	{"noxattrs", read_bool, FIELD(ov.noxattrs), 0, NULL},
	/* the FUSE side */
	{"timeout", read_timeout, FIELD(timeout), 0, NULL},
	{"writeback", read_bool, FIELD(writeback), 0, NULL},
	{"threaded", read_threaded, NOWHERE, 0, NULL},
	{"max_threads", read_number, FIELD(max_threads), OV_THREADS_MAX, NULL},
	{"supervise", read_bool, FIELD(supervise), 0, NULL},
	{"nosupervise", read_nosupervise, NOWHERE, 0, NULL},
	{"client_cpu", read_bool, FIELD(client_cpu), 0, NULL},
	{"readdir_ahead", read_bool, FIELD(readdir_ahead), 0, NULL},
	{"poll", read_number, FIELD(poll), OV_POLL_MAX, NULL},
	{"uring", read_bool, FIELD(uring), 0, NULL},
	{"uring_depth", read_number, FIELD(uring_depth), OV_URING_DEPTH_MAX, NULL},
	{"clone_fd", read_bool, FIELD(clone_fd), 0, NULL},
	{"allow_other", read_allow, FIELD(allow_other), 0, NULL},
	{"allow_root", read_allow, FIELD(allow_root), 0, NULL},
	{"default_permissions", read_default_permissions, NOWHERE, 0, NULL},
	{"auto_unmount", read_bool, FIELD(auto_unmount), 0, NULL},
	{"fsname", read_text, FIELD(fsname), 0, NULL},
	{"subtype", read_text, FIELD(program), 0, NULL},
	{"debug", read_debug, NOWHERE, 0, NULL},
	{"log_level", read_choice, FIELD(log_level), 0, levels},
	/* for the kernel */
	{"ro", read_ro_rw, NOWHERE, 0, "rw"},
	{"rw", read_ro_rw, NOWHERE, 0, "ro"},
	{"dev", read_kernel_flag, NOWHERE, 0, "nodev"},
	{"nodev", read_kernel_flag, NOWHERE, 0, "dev"},
	{"suid", read_kernel_flag, NOWHERE, 0, "nosuid"},
	{"nosuid", read_kernel_flag, NOWHERE, 0, "suid"},
	{"exec", read_kernel_flag, NOWHERE, 0, "noexec"},
	{"noexec", read_kernel_flag, NOWHERE, 0, "exec"},
	{"atime", read_kernel_flag, NOWHERE, 0, "noatime"},
	{"noatime", read_kernel_flag, NOWHERE, 0, "atime"},
	{"dirsync", read_kernel_flag, NOWHERE, 0, NULL},
	{"async", read_async, NOWHERE, 0, NULL},
	{"context", read_context, NOWHERE, 0, NULL},
	{"fscontext", read_context, NOWHERE, 0, NULL},
	{"defcontext", read_context, NOWHERE, 0, NULL},
	{"rootcontext", read_context, NOWHERE, 0, NULL},
	{"blksize", read_kernel_number, NOWHERE, UINT32_MAX, NULL},
	{"max_read", read_kernel_number, NOWHERE, UINT32_MAX, NULL},
	/* of fuse-overlayfs and the kernel: nothing to do here */
	{"fast_ino", read_bool, NOWHERE, 0, NULL},
	{"fast_ino_check", read_bool, NOWHERE, 0, NULL},
	{"max_idle_threads", read_idle_threads, NOWHERE, UINT32_MAX, NULL},
	{"plugins", read_plugins, NOWHERE, 0, NULL},
	{"override_creds", read_no_effect, NOWHERE, 0, NULL},
	{"nooverride_creds", read_no_effect, NOWHERE, 0, NULL},
	{"strictatime", read_no_effect, NOWHERE, 0, NULL},
	{"iversion", read_no_effect, NOWHERE, 0, NULL},
	{"mand", read_no_effect, NOWHERE, 0, NULL},
};

/* Said to mount(8), to systemd or to older programs: nobody wants to hear that we ignore them. */
static const char *const silent[] = {
	"_netdev",  "auto",	  "noauto",   "defaults",   "user",	     "nouser",	   "users",
	"owner",    "group",	  "nofail",   "comment",    "private",	     "rprivate",   "slave",
	"rslave",   "shared",	  "rshared",  "unbindable", "runbindable",   "relatime",   "norelatime",
	"lazytime", "nolazytime", "diratime", "nodiratime", "nostrictatime", "noiversion", "nomand",
	"nonempty", "remote",	  "silent",   "loud",	    "big_writes",
};

static bool is_silent(const char *name)
{
	if (strncasecmp(name, "x-", 2) == 0)
		return true;
	for (size_t i = 0; i < OV_ARRAY_SIZE(silent); i++) {
		if (strcmp(name, silent[i]) == 0)
			return true;
	}
	return false;
}

static const struct option *find_option(const char *name)
{
	for (size_t i = 0; i < OV_ARRAY_SIZE(options); i++) {
		if (strcmp(name, options[i].name) == 0)
			return &options[i];
	}
	return NULL;
}

/* One option, NUL-terminated; TEXT is ours to change. */
static int read_option(struct parser *ps, char *text)
{
	ov_cleanup_free char *as_given = strdup(text);
	char *value = strchr(text, '=');
	const struct option *o;
	char buf[OV_SHOWN_MAX + 4];
	bool goes_on;
	int r = 0;

	if (as_given == NULL)
		return fail_memory(ps);
	if (value != NULL)
		*value++ = '\0';
	goes_on = ps->map_text != NULL && isdigit((unsigned char)*text) &&
		  strspn(text, "0123456789:") == strlen(as_given);
	if (goes_on)
		return continue_idmap(ps, text);

	ps->map_text = NULL;
	ps->opt = as_given;
	o = find_option(text);
	if (o != NULL)
		r = o->read(ps, o, value);
	else if (!is_silent(text))
		warning(ps, "ignoring unknown option '%s'", shown(text, buf));
	ps->opt = NULL;
	return r;
}

/* An -o argument: options separated by commas. */
static int read_option_list(struct parser *ps, const char *list)
{
	ov_cleanup_free char *copy = strdup(list);
	int r = 0;

	if (copy == NULL)
		return fail_memory(ps);
	for (char *s = copy, *end; r == 0; s = end + 1) {
		bool last;

		end = option_end(s);
		last = *end == '\0';
		*end = '\0';
		if (*s != '\0')
			r = read_option(ps, s);
		if (last)
			break;
	}
	ps->map_text = NULL;
	return r;
}

/* ---- what depends on several options ---- */

static int settle_layers(struct parser *ps)
{
	struct ov_config *ov = &ps->p->ov;

	if (ov->nlower == 0)
		return fail(ps, "no lower layer given; add -o lowerdir=DIR[:DIR...]");
	if (ov->nlower == ov->ndata)
		return fail(ps, "only data-only layers given; add an ordinary one with lowerdir+=DIR before them");
	if (ov->upper != NULL && ov->work == NULL)
		return fail(ps, "upperdir given without workdir; add workdir=DIR, an empty directory on the same file "
				"system as upperdir");
	if (ov->upper != NULL)
		return 0;

	if (ov->work != NULL) {
		warning(ps, "workdir is of no use without upperdir, ignoring it");
		free(ov->work);
		ov->work = NULL;
	}
	if (ov->volatile_) {
		warning(ps, "volatile is of no use without upperdir, ignoring it");
		ov->volatile_ = false;
	}
	if (ov->index) {
		warning(ps, "index=on is of no use without upperdir, ignoring it");
		ov->index = false;
	}
	/* As kernel overlayfs: no upper, so access(2) and /proc/mounts shall say that nothing can be written. */
	return set_kernel_flag(ps, "ro", "rw");
}

/* The kernel's rules on which of these go together. */
static int settle_format(struct parser *ps)
{
	struct ov_config *ov = &ps->p->ov;
	bool named_on = ov->redirect_set && ov->redirect == OV_REDIRECT_ON;
	bool named_follow = ov->redirect_set && ov->redirect == OV_REDIRECT_FOLLOW;

	if (ov->userxattr && (named_on || named_follow))
		return fail(ps, "conflicting options userxattr and redirect_dir=%s; leave one of them out",
			    named_on ? "on" : "follow");
	if (ov->userxattr && ov->metacopy)
		return fail(ps, "conflicting options userxattr and metacopy=on; leave one of them out");
	if (ov->metacopy && !ov->redirect_set) {
		ov->redirect = OV_REDIRECT_ON;
	} else if (ov->metacopy && !named_on) {
		if (ov->redirect == OV_REDIRECT_NOFOLLOW || ov->upper != NULL)
			return fail(ps, "conflicting options metacopy=on and redirect_dir=%s; give redirect_dir=on",
				    named_follow		    ? "follow" :
				    ov->redirect == OV_REDIRECT_OFF ? "off" :
								      "nofollow");
		/* Without an upper nothing is written: reading them is what metacopy needs, and the kernel grants it. */
		ov->redirect = OV_REDIRECT_FOLLOW;
	}
	return 0;
}

static int settle_idmap(struct parser *ps, const char *name, const char *text, struct ov_idmap *map)
{
	char buf[OV_SHOWN_MAX + 4];
	const char *why = NULL;
	int r;

	if (text == NULL)
		return 0;
	r = ov_idmap_parse(map, text, &why);
	if (r < 0)
		fail(ps, "option '%s=%s': %s; give INSIDE:OUTSIDE:LENGTH[:INSIDE:OUTSIDE:LENGTH...]", name,
		     shown(text, buf), why != NULL ? why : "malformed");
	return r;
}

static int settle(struct parser *ps)
{
	struct ov_params *p = ps->p;
	const char *env;
	int r = settle_layers(ps);

	if (r == 0)
		r = settle_format(ps);
	if (r == 0)
		r = settle_idmap(ps, "uidmapping", ps->uid_text, &p->ov.uidmap);
	if (r == 0)
		r = settle_idmap(ps, "gidmapping", ps->gid_text, &p->ov.gidmap);
	if (r < 0)
		return r;
	if (p->ov.volatile_)
		p->ov.sync = OV_SYNC_OFF;
	if (!ps->allow_other_set)
		p->allow_other = geteuid() == 0;
	if (p->debug && p->log_level < 0)
		p->log_level = OV_LOG_DEBUG;
	env = getenv("FUSE_OVERLAYFS_DISABLE_OVL_WHITEOUT");
	p->ov.no_char_whiteout = env != NULL && *env != '\0' && strcmp(env, "0") != 0;
	if (ps->warnings > OV_WARNINGS_MAX)
		fprintf(ps->err, OV_PROGRAM ": warning: %u more warnings left out\n", ps->warnings - OV_WARNINGS_MAX);
	return 0;
}

/* ---- argv ---- */

static int fail_argument(struct parser *ps, const char *arg, const char *what)
{
	char buf[OV_SHOWN_MAX + 4];

	return fail(ps, "argument '%s': %s; see " OV_PROGRAM " --help", shown(arg, buf), what);
}

static int read_long(struct parser *ps, const char *arg)
{
	if (strcmp(arg, "--help") == 0)
		ps->p->action = OV_SHOW_HELP;
	else if (strcmp(arg, "--version") == 0)
		ps->p->action = OV_SHOW_VERSION;
	else if (strcmp(arg, "--state-version") == 0)
		ps->p->action = OV_SHOW_STATE_VERSION;
	else if (strcmp(arg, "--upgrade") == 0)
		ps->p->action = OV_UPGRADE;
	else if (strcmp(arg, "--debug") == 0)
		set_debug(ps->p);
	else
		return fail_argument(ps, arg, "unknown");
	return 0;
}

/* "-f", "-fs", "-oLIST"; NEXT is the argument behind, or NULL. 1: NEXT was used. */
static int read_short(struct parser *ps, const char *arg, const char *next)
{
	struct ov_params *p = ps->p;
	int r;

	for (const char *c = arg + 1; *c != '\0' && p->action == OV_RUN; c++) {
		switch (*c) {
		case 'f':
			p->foreground = true;
			break;
		case 'd':
			set_debug(p);
			break;
		case 's':
			p->single_thread = true;
			break;
		case 'h':
			p->action = OV_SHOW_HELP;
			break;
		case 'V':
			p->action = OV_SHOW_VERSION;
			break;
		case 'o':
			if (c[1] != '\0')
				return read_option_list(ps, c + 1);
			if (next == NULL)
				return fail_argument(ps, arg, "no options follow");
			r = read_option_list(ps, next);
			return r < 0 ? r : 1;
		default:
			return fail_argument(ps, arg, "unknown");
		}
	}
	return 0;
}

/* The last positional argument is the mountpoint, one before it the source, as mount(8) passes them. */
static int take_positionals(struct parser *ps, const char *source, const char *target)
{
	struct ov_params *p = ps->p;
	int r;

	if (target == NULL)
		return fail(ps, "no mountpoint given; usage: " OV_PROGRAM " -o lowerdir=DIR[,OPTION...] MOUNTPOINT");
	if (*target == '\0')
		return fail(ps, "the mountpoint is an empty string; give a directory");
	r = store_text(ps, &p->mountpoint, target);
	if (r == 0 && p->fsname == NULL && source != NULL && *source != '\0')
		r = store_text(ps, &p->fsname, source);
	return r;
}

static int read_arguments(struct parser *ps, int argc, char **argv)
{
	const char *positional[2] = {NULL, NULL};
	size_t n = 0;
	bool no_more = false;
	int r;

	for (int i = 1; i < argc && (ps->p->action == OV_RUN || ps->p->action == OV_UPGRADE); i++) {
		const char *arg = argv[i];

		if (no_more || arg[0] != '-' || arg[1] == '\0') {
			if (n == OV_ARRAY_SIZE(positional))
				return fail_argument(ps, arg, "one too many; give [SOURCE] MOUNTPOINT only");
			positional[n++] = arg;
		} else if (strcmp(arg, "--") == 0) {
			no_more = true;
		} else {
			r = arg[1] == '-' ? read_long(ps, arg) : read_short(ps, arg, i + 1 < argc ? argv[i + 1] : NULL);
			if (r < 0)
				return r;
			i += r;
		}
	}
	if (ps->p->action != OV_RUN && ps->p->action != OV_UPGRADE)
		return 0;
	return take_positionals(ps, n == 2 ? positional[0] : NULL, n > 0 ? positional[n - 1] : NULL);
}

/* Fill in what fuse-overlayfs fills in; whatever the user names comes later and wins. */
static int set_defaults(struct parser *ps, const char *argv0)
{
	struct ov_params *p = ps->p;
	const char *base = argv0 != NULL ? strrchr(argv0, '/') : NULL;
	int r;

	*p = (struct ov_params){.timeout = -1, .writeback = true, .client_cpu = true, .readdir_ahead = true, .poll = OV_POLL_DEFAULT,
				.uring_depth = OV_URING_DEPTH_DEFAULT, .default_permissions = true, .supervise = true,
				.log_level = -1};
	ov_config_init(&p->ov);
	base = base != NULL ? base + 1 : argv0;
	r = store_text(ps, &p->program, base != NULL && *base != '\0' ? base : OV_PROGRAM);
	/* Only root may ask for these two, and libfuse mounts without them otherwise: no device of a layer would open. */
	if (r == 0 && geteuid() == 0)
		r = set_kernel_flag(ps, "suid", NULL);
	if (r == 0 && geteuid() == 0)
		r = set_kernel_flag(ps, "dev", NULL);
	if (r == 0)
		r = set_kernel_flag(ps, "noatime", NULL);
	return r;
}

int ov_params_parse(struct ov_params *p, int argc, char **argv, FILE *err)
{
	struct parser ps = {.p = p, .err = err};
	int r = set_defaults(&ps, argc > 0 ? argv[0] : NULL);

	if (r == 0)
		r = read_arguments(&ps, argc, argv);
	if (r == 0 && p->action == OV_RUN)
		r = settle(&ps);
	if (r == 0 && p->fsname == NULL)
		r = store_text(&ps, &p->fsname, p->program);
	free(ps.uid_text);
	free(ps.gid_text);
	return r;
}

void ov_params_clear(struct ov_params *p)
{
	ov_config_clear(&p->ov);
	free(p->mountpoint);
	free(p->program);
	free(p->fsname);
	for (size_t i = 0; i < p->nkernel_opts; i++)
		free(p->kernel_opts[i]);
	free(p->kernel_opts);
	p->mountpoint = NULL;
	p->program = NULL;
	p->fsname = NULL;
	p->kernel_opts = NULL;
	p->nkernel_opts = 0;
}

void ov_params_version(FILE *out)
{
	fprintf(out, OV_PROGRAM ": version %s\n", PACKAGE_VERSION);
	fprintf(out, "FUSE library version %s\n", fuse_pkgversion());
	fprintf(out, "using FUSE kernel interface version %d.%d\n", FUSE_KERNEL_VERSION, FUSE_KERNEL_MINOR_VERSION);
}
