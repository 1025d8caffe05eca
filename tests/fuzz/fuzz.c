/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Everything that reads what others wrote, without a file system: option strings, id maps, every decoder of format/, ACLs,
 * and a listing under a sequence of changes. The first byte of the input chooses, the rest is the value. A broken promise
 * traps; the sanitizers see to the rest.
 *
 * With libFuzzer ("make fuzz"), or with replay.c as main, which runs the kept inputs and variations of them.
 */

#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core.h"
#include "format/index.h"
#include "format/metacopy.h"
#include "format/origin.h"
#include "format/override_stat.h"
#include "format/redirect.h"
#include "format/whiteout.h"
#include "idmap.h"
#include "listing.h"
#include "params.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define HOLDS(what)                       \
	do {                              \
		if (!(what))              \
			__builtin_trap(); \
	} while (0)

/* A NUL-terminated copy; freed by the caller. */
static char *text_of(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1);

	HOLDS(text);
	memcpy(text, data, size);
	text[size] = '\0';
	return text;
}

/* Arguments, one a line. A refusal has one line that says why. */
static void fuzz_params(const uint8_t *data, size_t size)
{
	char *text = text_of(data, size), *rest = text, *arg;
	char *argv[64] = {(char *)"fuse-overlay"};
	char *said = NULL;
	size_t said_len = 0;
	struct ov_params p;
	int argc = 1, r;
	FILE *err = open_memstream(&said, &said_len);

	HOLDS(err);
	while (argc < 63 && (arg = strsep(&rest, "\n")))
		argv[argc++] = arg;
	r = ov_params_parse(&p, argc, argv, err);
	fclose(err);
	HOLDS(r == 0 || r == -EINVAL || r == -ENOMEM);
	HOLDS(r == 0 || (said_len > 1 && said[said_len - 1] == '\n'));
	if (r == 0 && p.action != OV_SHOW_HELP && p.action != OV_SHOW_VERSION)
		HOLDS(p.mountpoint && p.ov.nlower > 0);
	ov_params_clear(&p);
	free(said);
	free(text);
}

static void fuzz_idmap(const uint8_t *data, size_t size)
{
	char *text = text_of(data, size);
	const char *why = NULL;
	struct ov_idmap map = {0};
	uint32_t id;

	if (ov_idmap_parse(&map, text, &why) < 0) {
		HOLDS(why && map.n == 0);
	} else {
		for (size_t n = 0; n < map.n; n++) { /* what is on disk and in the view leads back */
			const struct ov_idrange *r = &map.ranges[n];

			HOLDS(r->length > 0);
			HOLDS(ov_idmap_to_view(&map, r->disk) == r->view);
			HOLDS(ov_idmap_to_disk(&map, r->view + (r->length - 1), &id) && id == r->disk + (r->length - 1));
		}
	}
	ov_idmap_clear(&map);
	free(text);
}

static void fuzz_handle(const uint8_t *data, size_t size)
{
	char hex[2 * OV_FH_MAX + 1];
	struct ov_fh fh, back;
	uint64_t ino;

	if (ov_fh_decode(data, size, &fh) == 0 && fh.len) {
		HOLDS(fh.len <= size && fh.len >= OV_FH_HEADER);
		ov_fh_hex(&fh, hex);
		HOLDS(strlen(hex) == 2u * fh.len);
		HOLDS(ov_fh_unhex(hex, &back) == 0 && ov_fh_equal(&fh, &back));
		(void)ov_fh_ino(&fh, &ino);
		(void)ov_fh_uuid(&fh);
	}
	if (size < sizeof(hex)) {
		char *text = text_of(data, size);

		if (ov_fh_unhex(text, &fh) == 0)
			HOLDS(fh.len * 2u == strlen(text));
		free(text);
	}
}

static void fuzz_metacopy(const uint8_t *data, size_t size)
{
	struct ov_metacopy mc;

	if (ov_metacopy_decode(data, size, &mc) == 0)
		HOLDS(mc.present && mc.digest_len <= sizeof(mc.digest));
}

static void fuzz_override(const uint8_t *data, size_t size)
{
	struct ov_override_stat st, back;
	char text[OV_OVERRIDE_TEXT_MAX];
	size_t len;

	if (ov_override_decode((const char *)data, size, &st) < 0)
		return;
	HOLDS((st.mode & ~07777u) == 0 && (st.type & ~(unsigned)S_IFMT) == 0);
	len = ov_override_encode(&st, true, text);
	HOLDS(len < sizeof(text) && ov_override_decode(text, len, &back) == 0);
	HOLDS(back.uid == st.uid && back.gid == st.gid && back.mode == st.mode);
	HOLDS(!st.type || back.type == st.type);
}

static void fuzz_redirect(const uint8_t *data, size_t size)
{
	char *text = text_of(data, size);
	const char *p = text;
	char comp[256];

	if (ov_redirect_check(text, size) == 0) {
		HOLDS(strlen(text) == size);
		while (ov_redirect_next(&p, comp)) { /* nothing that leads out of the layer */
			HOLDS(comp[0] && !strchr(comp, '/'));
			HOLDS(strcmp(comp, ".") != 0 && strcmp(comp, "..") != 0);
		}
	}
	free(text);
}

static void fuzz_small_marks(const uint8_t *data, size_t size)
{
	char buf[16], base;
	int delta, again;
	size_t len;

	if (ov_nlink_decode((const char *)data, size, &base, &delta) == 0) {
		HOLDS(base == 'U' || base == 'L');
		len = ov_nlink_encode(base, delta, buf);
		HOLDS(len < sizeof(buf) && ov_nlink_decode(buf, len, &base, &again) == 0 && again == delta);
	}
	(void)ov_protattr_decode((const char *)data, size);
}

static void fuzz_whiteout_names(const uint8_t *data, size_t size)
{
	char *text = text_of(data, size);
	char name[NAME_MAX + 1];
	const char *hidden;

	if (strlen(text) <= NAME_MAX && ov_whiteout_oci_name(text, name) == 0)
		HOLDS(ov_whiteout_oci_parse(name, &hidden) && strcmp(hidden, text) == 0);
	(void)ov_whiteout_is_oci_meta(text);
	free(text);
}

static void fuzz_acl(const uint8_t *data, size_t size)
{
	static const struct overlay plain = {.cfg.squash_uid = -1, .cfg.squash_gid = -1};
	void *copy = malloc(size ? size : 1), *access = malloc(size ? size : 1);
	mode_t mode = 0777;
	size_t len;

	HOLDS(copy && access);
	memcpy(copy, data, size);
	if (ov_acl_inherit(copy, size, &mode, access, &len) == 0)
		HOLDS(len <= size && (mode & ~0777u) == 0);
	if (ov_acl_map(&plain, copy, size, true) == 0)
		HOLDS(memcmp(copy, data, size) == 0);
	free(copy);
	free(access);
}

/* Bytes as orders: add, remove, look for one of 64 names; what is found must agree with a table. */
static void fuzz_listing(const uint8_t *data, size_t size)
{
	struct ov_listing *l = ov_listing_new();
	bool there[64] = {false}, seen[64] = {false};
	size_t n = 0, used;
	unsigned height;
	char name[8];

	HOLDS(l);
	for (; n < size && n < 64 && data[n] != 0xff; n++) {
		unsigned k = data[n] & 63;

		snprintf(name, sizeof(name), "n%u", k);
		HOLDS(ov_listing_put(l, name, 8, data[n] & 64, 3) == 0);
		if (!seen[k])
			there[k] = !(data[n] & 64);
		seen[k] = true;
	}
	HOLDS(ov_listing_seal(l) == 0);
	for (n++; n < size; n++) {
		unsigned k = data[n] & 63;

		snprintf(name, sizeof(name), "n%u", k);
		HOLDS(ov_listing_find(l, name, &height) == there[k]);
		if (data[n] & 128) {
			HOLDS(ov_listing_insert(l, name, 4, &used) == 0);
			there[k] = true;
		} else if (data[n] & 64) {
			ov_listing_remove(l, name);
			there[k] = false;
		}
	}
	HOLDS(ov_listing_settle(l) == 0);
	for (n = 1; n < l->n; n++)
		HOLDS(l->e[n - 1].cookie < l->e[n].cookie);
	for (n = 0; n < 64; n++) {
		snprintf(name, sizeof(name), "n%zu", n);
		HOLDS(ov_listing_find(l, name, &height) == there[n]);
	}
	ov_listing_unref(l);
}

static void (*const targets[])(const uint8_t *data, size_t size) = {
	fuzz_params,   fuzz_idmap,	 fuzz_handle,	      fuzz_metacopy, fuzz_override,
	fuzz_redirect, fuzz_small_marks, fuzz_whiteout_names, fuzz_acl,	     fuzz_listing,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size > 0)
		targets[(data[0] - 'a') % (sizeof(targets) / sizeof(targets[0]))](data + 1, size - 1);
	return 0;
}
