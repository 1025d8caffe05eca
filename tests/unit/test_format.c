// SPDX-License-Identifier: GPL-2.0-or-later

/* src/format: every decoder with good, bad, cut-off and random input; every marker on real files. */

#include <check.h>
#include <dirent.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include "format/index.h"
#include "format/metacopy.h"
#include "format/opaque.h"
#include "format/origin.h"
#include "format/override_stat.h"
#include "format/redirect.h"
#include "format/whiteout.h"
#include "format/xattr_names.h"

Suite *format_suite(void);

#define ROUNDS 20000

static uint64_t seed = 0x2545f4914f6cdd1d;

static uint64_t rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

/* LEN random bytes out of ALPHABET (any byte if NULL) in memory of exactly that size, so that an overrun is noticed. */
static char *random_bytes(size_t len, const char *alphabet)
{
	char *p = malloc(len ? len : 1);
	size_t n = alphabet ? strlen(alphabet) : 0, i;

	ck_assert_ptr_nonnull(p);
	for (i = 0; i < len; i++)
		p[i] = alphabet ? alphabet[rnd() % n] : (char)rnd();
	return p;
}

/* The same for given bytes. */
static char *exactly(const void *bytes, size_t len)
{
	char *p = malloc(len ? len : 1);

	ck_assert_ptr_nonnull(p);
	memcpy(p, bytes, len);
	return p;
}

/* ---- names ---- */

START_TEST(names_static)
{
	ck_assert_str_eq(ov_xattr_name(OV_XP_TRUSTED, OV_X_OPAQUE), "trusted.overlay.opaque");
	ck_assert_str_eq(ov_xattr_name(OV_XP_USER, OV_X_REDIRECT), "user.overlay.redirect");
	ck_assert_str_eq(ov_xattr_name(OV_XP_TRUSTED, OV_X_METACOPY), "trusted.overlay.metacopy");
	ck_assert_str_eq(ov_xattr_name(OV_XP_TRUSTED, OV_X_ORIGIN), "trusted.overlay.origin");
	ck_assert_str_eq(ov_xattr_name(OV_XP_TRUSTED, OV_X_IMPURE), "trusted.overlay.impure");
	ck_assert_str_eq(ov_xattr_name(OV_XP_TRUSTED, OV_X_NLINK), "trusted.overlay.nlink");
	ck_assert_str_eq(ov_xattr_name(OV_XP_USER, OV_X_PROTATTR), "user.overlay.protattr");
	ck_assert_str_eq(ov_xattr_name(OV_XP_USER, OV_X_UUID), "user.overlay.uuid");
	ck_assert_str_eq(ov_xattr_name(OV_XP_USER, OV_X_UPPER), "user.overlay.upper");
	ck_assert_str_eq(ov_xattr_name(OV_XP_TRUSTED, OV_X_WHITEOUT), "trusted.overlay.whiteout");
	ck_assert_str_eq(ov_xattr_name(OV_XP_USER, OV_X_PLAIN), "user.overlay.plain");
	ck_assert_str_eq(OV_XATTR_FUSEOVERLAYFS_OPAQUE, "user.fuseoverlayfs.opaque");
}
END_TEST

static const struct {
	const char *stored;
	const char *view; /* NULL: hidden */
} to_view[] = {
	{"user.a", "user.a"},
	{"security.capability", "security.capability"},
	{"system.posix_acl_access", "system.posix_acl_access"},
	{"trusted.a", "trusted.a"},
	{"trusted.overlay", "trusted.overlay"},
	{"trusted.overlayx.opaque", "trusted.overlayx.opaque"},
	{"trusted.overlay.opaque", NULL},
	{"trusted.overlay.", NULL},
	{"trusted.overlay.anything", NULL},
	{"trusted.overlay.overlay", NULL},
	{"trusted.overlay.overlay.opaque", "trusted.overlay.opaque"},
	{"trusted.overlay.overlay.overlay.opaque", "trusted.overlay.overlay.opaque"},
	{"user.overlay.origin", NULL},
	{"user.overlay.overlay.origin", "user.overlay.origin"},
	{"user.overlayfs", "user.overlayfs"},
	{"user.fuseoverlayfs.opaque", NULL},
	{"user.fuseoverlayfs.origin", NULL},
	{"user.fuseoverlayfs.override_stat", NULL},
	{"user.fuseoverlayfs", "user.fuseoverlayfs"},
	{"user.containers.override_stat", NULL},
	{"user.containers.override_stat2", "user.containers.override_stat2"},
	{"user.containers.override_security.capability", NULL},
	{"user.containers.other", "user.containers.other"},
	{"security.fuseoverlayfs.override_stat", NULL},
	{"security.selinux", "security.selinux"},
	{"", ""},
};

START_TEST(names_to_view)
{
	char buf[OV_XATTR_NAME_MAX + 1];
	const char *view = ov_xattr_to_view(to_view[_i].stored, buf);

	if (!to_view[_i].view) {
		ck_assert_ptr_null(view);
		return;
	}
	ck_assert_ptr_nonnull(view);
	ck_assert_str_eq(view, to_view[_i].view);
	ck_assert(view == buf || view == to_view[_i].stored);
	/* And back again. */
	ck_assert_str_eq(ov_xattr_to_stored(to_view[_i].view, buf), to_view[_i].stored);
}
END_TEST

START_TEST(names_to_stored)
{
	char buf[OV_XATTR_NAME_MAX + 1], name[OV_XATTR_NAME_MAX + 1];

	ck_assert_ptr_null(ov_xattr_to_stored("user.fuseoverlayfs.opaque", buf));
	ck_assert_ptr_null(ov_xattr_to_stored("user.containers.override_stat", buf));
	ck_assert_ptr_null(ov_xattr_to_stored("user.containers.override_security.capability", buf));
	ck_assert_ptr_null(ov_xattr_to_stored("security.fuseoverlayfs.override_stat", buf));
	ck_assert_str_eq(ov_xattr_to_stored("trusted.overlay.", buf), "trusted.overlay.overlay.");
	memset(name, 'x', OV_XATTR_NAME_MAX);
	name[OV_XATTR_NAME_MAX] = '\0';
	memcpy(name, "user.overlay.", 13);
	ck_assert_ptr_null(ov_xattr_to_stored(name, buf));
	name[OV_XATTR_NAME_MAX - 7] = '\0'; /* one too long */
	ck_assert_ptr_null(ov_xattr_to_stored(name, buf));
	name[OV_XATTR_NAME_MAX - 8] = '\0';
	ck_assert_ptr_eq(ov_xattr_to_stored(name, buf), buf);
	ck_assert_uint_eq(strlen(buf), OV_XATTR_NAME_MAX);
}
END_TEST

START_TEST(names_private)
{
	ck_assert(ov_xattr_is_overlay_private("trusted.overlay.opaque"));
	ck_assert(ov_xattr_is_overlay_private("user.overlay.x"));
	ck_assert(!ov_xattr_is_overlay_private("user.overlay.overlay.x"));
	ck_assert(!ov_xattr_is_overlay_private("trusted.overlay.overlay.opaque"));
	ck_assert(!ov_xattr_is_overlay_private("user.fuseoverlayfs.opaque"));
	ck_assert(!ov_xattr_is_overlay_private("user.x"));
}
END_TEST

/* Whatever the view shows can be stored, and shows as itself then. */
START_TEST(names_random)
{
	static const char *const parts[] = {
		"user.",       "trusted.",	"security.",	      "overlay.", "fuseoverlayfs.",
		"containers.", "override_stat", "override_security.", "x",	  "."};
	char name[128], buf[OV_XATTR_NAME_MAX + 1], buf2[OV_XATTR_NAME_MAX + 1];
	const char *stored, *view;
	int i, n;

	for (i = 0; i < ROUNDS; i++) {
		name[0] = '\0';
		for (n = (int)(rnd() % 6); n >= 0; n--)
			strcat(name, parts[rnd() % OV_ARRAY_SIZE(parts)]);
		stored = ov_xattr_to_stored(name, buf);
		if (!stored)
			continue;
		view = ov_xattr_to_view(stored, buf2);
		ck_assert_ptr_nonnull(view);
		ck_assert_str_eq(view, name);
		ck_assert(!ov_xattr_is_overlay_private(stored));
	}
}
END_TEST

/* ---- redirect ---- */

static const struct {
	const char *value;
	int want;
} redirects[] = {
	{"name", 0},	   {"/a", 0},	      {"/a/b/c", 0},	 {"...", 0},	       {".hidden", 0},
	{"/..a/b..", 0},   {"with space", 0}, {"", -EINVAL},	 {"/", -EINVAL},       {"//", -EINVAL},
	{"a/b", -EINVAL},  {"a/", -EINVAL},   {"/a/", -EINVAL},	 {"/a//b", -EINVAL},   {"//a", -EINVAL},
	{".", -EINVAL},	   {"..", -EINVAL},   {"/..", -EINVAL},	 {"/a/../b", -EINVAL}, {"/a/.", -EINVAL},
	{"../x", -EINVAL}, {"./x", -EINVAL},  {"/./x", -EINVAL},
};

START_TEST(redirect_values)
{
	size_t len = strlen(redirects[_i].value);
	char *p = exactly(redirects[_i].value, len);

	ck_assert_int_eq(ov_redirect_check(p, len), redirects[_i].want);
	free(p);
}
END_TEST

START_TEST(redirect_lengths)
{
	char value[300];

	ck_assert_int_eq(ov_redirect_check("a\0b", 3), -EINVAL);
	ck_assert_int_eq(ov_redirect_check("a\0", 2), -EINVAL);
	ck_assert_int_eq(ov_redirect_check("/a\0", 3), -EINVAL);
	memset(value, 'c', sizeof(value));
	ck_assert_int_eq(ov_redirect_check(value, 255), 0);
	ck_assert_int_eq(ov_redirect_check(value, 256), -EINVAL);
	value[0] = '/';
	ck_assert_int_eq(ov_redirect_check(value, 256), 0);
	ck_assert_int_eq(ov_redirect_check(value, 257), -EINVAL);
}
END_TEST

START_TEST(redirect_walk)
{
	const char *p = "/one/two/three";
	char comp[256];

	ck_assert_int_eq(ov_redirect_next(&p, comp), 1);
	ck_assert_str_eq(comp, "one");
	ck_assert_int_eq(ov_redirect_next(&p, comp), 1);
	ck_assert_str_eq(comp, "two");
	ck_assert_int_eq(ov_redirect_next(&p, comp), 1);
	ck_assert_str_eq(comp, "three");
	ck_assert_int_eq(ov_redirect_next(&p, comp), 0);
	ck_assert_int_eq(ov_redirect_next(&p, comp), 0);
	p = "name";
	ck_assert_int_eq(ov_redirect_next(&p, comp), 1);
	ck_assert_str_eq(comp, "name");
	ck_assert_int_eq(ov_redirect_next(&p, comp), 0);
}
END_TEST

/* What passes the check, taken apart and put together again, is the same, and no part of it leads upwards. */
START_TEST(redirect_random)
{
	char comp[256], joined[64], text[64];
	int i, good = 0;

	for (i = 0; i < ROUNDS; i++) {
		size_t len = rnd() % 12;
		char *v = random_bytes(len, i % 8 ? "a./" : NULL);
		const char *p = text;

		if (ov_redirect_check(v, len) == 0) {
			memcpy(text, v, len);
			text[len] = '\0';
			joined[0] = '\0';
			while (ov_redirect_next(&p, comp)) {
				ck_assert_str_ne(comp, ".");
				ck_assert_str_ne(comp, "..");
				if (text[0] == '/')
					strcat(joined, "/");
				strcat(joined, comp);
			}
			ck_assert_str_eq(joined, text);
			good++;
		}
		free(v);
	}
	ck_assert_int_gt(good, 100);
}
END_TEST

/* ---- metacopy ---- */

START_TEST(metacopy_decode)
{
	uint8_t v[4 + OV_METACOPY_DIGEST_MAX + 1] = {0, 36, 0, 1};
	struct ov_metacopy m;
	size_t len;

	memset(v + 4, 0xab, sizeof(v) - 4);
	ck_assert_int_eq(ov_metacopy_decode("", 0, &m), 0);
	ck_assert(m.present && m.digest_len == 0 && m.digest_algo == 0);
	ck_assert_int_eq(ov_metacopy_decode(v, 36, &m), 0);
	ck_assert(m.present);
	ck_assert_uint_eq(m.digest_algo, 1);
	ck_assert_uint_eq(m.digest_len, 32);
	ck_assert_mem_eq(m.digest, v + 4, 32);
	for (len = 1; len < sizeof(v); len++) { /* cut off, or with something behind */
		char *p = exactly(v, len);

		ck_assert_int_eq(ov_metacopy_decode(p, len, &m), len == 36 ? 0 : -EINVAL);
		ck_assert(m.present == (len == 36));
		free(p);
	}
	v[0] = 1;
	ck_assert_int_eq(ov_metacopy_decode(v, 36, &m), -EINVAL);
	v[0] = 0;
	v[1] = 4;
	ck_assert_int_eq(ov_metacopy_decode(v, 4, &m), 0);
	v[1] = 68;
	ck_assert_int_eq(ov_metacopy_decode(v, 68, &m), 0);
	v[1] = 69;
	ck_assert_int_eq(ov_metacopy_decode(v, 69, &m), -EINVAL);
}
END_TEST

START_TEST(metacopy_random)
{
	struct ov_metacopy m;
	int i;

	for (i = 0; i < ROUNDS; i++) {
		size_t len = rnd() % 80;
		char *v = random_bytes(len, NULL);

		if (len > 2 && i % 2) {
			v[0] = 0;
			v[1] = (char)len;
		}
		if (ov_metacopy_decode(v, len, &m) == 0)
			ck_assert_uint_le(m.digest_len, OV_METACOPY_DIGEST_MAX);
		free(v);
	}
}
END_TEST

/* ---- handles ---- */

/* As kernel overlayfs wrote them: ext4, btrfs, xfs (made up from its layout), tmpfs. */
static const struct {
	const char *hex;
	uint64_t ino;
} handles[] = {
	{"00fb1d0001000000000000000000000000000000001148a800a4a96723", 11028497},
	{"00fb1d040100000000000000000000000000000000f047a800aa1ab32c", 11028464},
	{"00fb29004d055169df2cf44c7eb83979325c95edeb0701000000000000050000000000000007000000", 263},
	{"00fb210081b994a9637114408ca5f128a556e8450b850000000000000001020304", 133},
	{"00fb2100810000000000000000000000000000000000000000850000000000000b", 0}, /* FUSE: halves swapped */
	{"00fb210001b98a9b52398048188c75e647d4462bf5aabbccdd0800000001000000", 0x100000008},
	{"00fb1d006300000000000000000000000000000000f047a800aa1ab32c", 0},
	{"00fb15000100000000000000000000000000000000", 0},
};

START_TEST(handle_known)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	struct ov_fh fh, again;
	char hex[2 * OV_FH_MAX + 1];
	uint64_t ino = 0;

	ck_assert_int_eq(ov_fh_unhex(handles[_i].hex, &fh), 0);
	ck_assert_uint_eq(fh.len, strlen(handles[_i].hex) / 2);
	ov_fh_hex(&fh, hex);
	ck_assert_str_eq(hex, handles[_i].hex);
	ck_assert(ov_fh_ino(&fh, &ino) == (handles[_i].ino != 0));
	ck_assert_uint_eq(ino, handles[_i].ino);
	ck_assert_int_eq(ov_fh_decode(fh.data, fh.len, &again), 0);
	ck_assert(ov_fh_equal(&fh, &again));
	again.data[again.len - 1] ^= 1;
	ck_assert(!ov_fh_equal(&fh, &again));
#endif
}
END_TEST

START_TEST(handle_decode)
{
	uint8_t v[40] = {0, 0xfb, 29, 2 /* any endian */, 1};
	struct ov_fh fh = {.len = 7};
	size_t len;

	ck_assert_int_eq(ov_fh_decode("", 0, &fh), 0);
	ck_assert_uint_eq(fh.len, 0);
	for (len = 1; len < 29; len++) {
		char *p = exactly(v, len);

		ck_assert_int_eq(ov_fh_decode(p, len, &fh), -EINVAL);
		ck_assert_uint_eq(fh.len, 0);
		free(p);
	}
	ck_assert_int_eq(ov_fh_decode(v, 29, &fh), 0);
	ck_assert_int_eq(ov_fh_decode(v, 35, &fh), 0);
	ck_assert_uint_eq(fh.len, 29);
	v[0] = 1;
	ck_assert_int_eq(ov_fh_decode(v, 29, &fh), -EINVAL);
	v[0] = 0;
	v[1] = 0xfa;
	ck_assert_int_eq(ov_fh_decode(v, 29, &fh), -EINVAL);
	v[1] = 0xfb;
	v[2] = 20; /* shorter than its own header */
	ck_assert_int_eq(ov_fh_decode(v, 29, &fh), -EINVAL);
	v[2] = 255;
	ck_assert_int_eq(ov_fh_decode(v, 40, &fh), -EINVAL);
	v[2] = 29;
	v[3] = 8;
	ck_assert_int_eq(ov_fh_decode(v, 29, &fh), -EINVAL);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	v[3] = 1;
#else
	v[3] = 0;
#endif
	ck_assert_int_eq(ov_fh_decode(v, 29, &fh), -EOPNOTSUPP);
}
END_TEST

START_TEST(handle_unhex)
{
	static const char good[] = "00fb1d0001000000000000000000000000000000001148a800a4a96723";
	char text[2 * OV_FH_MAX + 8];
	struct ov_fh fh;
	size_t len;

	for (len = 0; len < sizeof(good) - 1; len++) {
		memcpy(text, good, len);
		text[len] = '\0';
		ck_assert_int_eq(ov_fh_unhex(text, &fh), -EINVAL);
		ck_assert_uint_eq(fh.len, 0);
	}
	snprintf(text, sizeof(text), "%s00", good); /* longer than it says */
	ck_assert_int_eq(ov_fh_unhex(text, &fh), -EINVAL);
	snprintf(text, sizeof(text), "%s", good);
	text[50] = 'g';
	ck_assert_int_eq(ov_fh_unhex(text, &fh), -EINVAL);
	text[50] = '@'; /* | 0x20 is '`', just below 'a' */
	ck_assert_int_eq(ov_fh_unhex(text, &fh), -EINVAL);
	memset(text, '0', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	ck_assert_int_eq(ov_fh_unhex(text, &fh), -EINVAL);
	ck_assert_int_eq(ov_fh_unhex("#81", &fh), -EINVAL);
}
END_TEST

START_TEST(handle_random)
{
	char hex[2 * OV_FH_MAX + 1];
	struct ov_fh fh, back;
	uint64_t ino;
	int i, good = 0;

	for (i = 0; i < ROUNDS; i++) {
		size_t len = rnd() % 170;
		char *v = random_bytes(len, NULL);

		if (len > 4 && i % 4) {
			v[0] = 0;
			v[1] = (char)0xfb;
			v[2] = (char)(i % 3 ? len : rnd() % 256);
			v[3] = (char)(rnd() % 8);
			if (i % 2)
				v[4] = "\x01\x02\x4d\x4e\x4f\x81\x82\x00"[rnd() % 8];
		}
		if (ov_fh_decode(v, len, &fh) == 0 && fh.len) {
			good++;
			ov_fh_ino(&fh, &ino);
			ov_fh_hex(&fh, hex);
			ck_assert_int_eq(ov_fh_unhex(hex, &back), 0);
			ck_assert(ov_fh_equal(&fh, &back));
		}
		free(v);
	}
	ck_assert_int_gt(good, 100);
}
END_TEST

/* ---- nlink, protattr ---- */

static const struct {
	const char *text;
	int delta; /* INT_MIN + 1: refused */
} nlinks[] = {
	{"U+0", 0},
	{"U-1", -1},
	{"L+12", 12},
	{"U+2147483647", INT_MAX},
	{"L-2147483648", INT_MIN},
	{"U+007", 7},
	{"", INT_MIN + 1},
	{"U", INT_MIN + 1},
	{"U+", INT_MIN + 1},
	{"U1", INT_MIN + 1},
	{"X+1", INT_MIN + 1},
	{"U+1 ", INT_MIN + 1},
	{"U+x", INT_MIN + 1},
	{"U++1", INT_MIN + 1},
	{"u+1", INT_MIN + 1},
	{"U+2147483648", INT_MIN + 1},
	{"U-2147483649", INT_MIN + 1},
	{"U+99999999999999999999999999", INT_MIN + 1},
};

START_TEST(nlink_values)
{
	size_t len = strlen(nlinks[_i].text);
	char *p = exactly(nlinks[_i].text, len), base = '?';
	int delta = 77, r = ov_nlink_decode(p, len, &base, &delta);

	if (nlinks[_i].delta == INT_MIN + 1) {
		ck_assert_int_eq(r, -EINVAL);
	} else {
		ck_assert_int_eq(r, 0);
		ck_assert_int_eq(base, nlinks[_i].text[0]);
		ck_assert_int_eq(delta, nlinks[_i].delta);
	}
	free(p);
}
END_TEST

START_TEST(nlink_random)
{
	char buf[16], want[32], base;
	int i, delta;

	for (i = 0; i < ROUNDS; i++) {
		size_t len = rnd() % 14;
		char *v = random_bytes(len, i % 4 ? "UL+-0123456789" : NULL);
		int n = (int)(rnd() >> (rnd() % 32)) * (i % 2 ? 1 : -1);

		ov_nlink_decode(v, len, &base, &delta);
		free(v);
		len = ov_nlink_encode(i % 3 ? 'U' : 'L', n, buf);
		snprintf(want, sizeof(want), "%c%+d", i % 3 ? 'U' : 'L', n);
		ck_assert_uint_lt(len, sizeof(buf));
		ck_assert_str_eq(buf, want);
		ck_assert_int_eq(ov_nlink_decode(buf, len, &base, &delta), 0);
		ck_assert_int_eq(delta, n);
	}
	ck_assert_uint_eq(ov_nlink_encode('L', INT_MIN, buf), 12);
	ck_assert_str_eq(buf, "L-2147483648");
}
END_TEST

START_TEST(protattr_values)
{
	ck_assert_uint_eq(ov_protattr_decode("", 0), 0);
	ck_assert_uint_eq(ov_protattr_decode("a", 1), FS_APPEND_FL);
	ck_assert_uint_eq(ov_protattr_decode("i", 1), FS_IMMUTABLE_FL);
	ck_assert_uint_eq(ov_protattr_decode("ai", 2), FS_APPEND_FL | FS_IMMUTABLE_FL);
	ck_assert_uint_eq(ov_protattr_decode("xAI\0z", 5), 0);
}
END_TEST

/* ---- override_stat ---- */

static const struct {
	const char *text;
	bool good;
	struct ov_override_stat st;
} overrides[] = {
	{"0:0:755", true, {0, 0, 0755, 0, 0, 0}},
	{"1000:100:0644", true, {1000, 100, 0644, 0, 0, 0}},
	{"4294967295:4294967295:7777", true, {UINT32_MAX, UINT32_MAX, 07777, 0, 0, 0}},
	{"0:0:0100644", true, {0, 0, 0644, 0, 0, 0}},
	{"0:0:0755:dir", true, {0, 0, 0755, S_IFDIR, 0, 0}},
	{"1:2:4755:file", true, {1, 2, 04755, S_IFREG, 0, 0}},
	{"1:2:777:symlink", true, {1, 2, 0777, S_IFLNK, 0, 0}},
	{"1:2:600:pipe", true, {1, 2, 0600, S_IFIFO, 0, 0}},
	{"1:2:600:socket", true, {1, 2, 0600, S_IFSOCK, 0, 0}},
	{"1:2:600:block-8-17", true, {1, 2, 0600, S_IFBLK, 8, 17}},
	{"1:2:600:char-0-0", true, {1, 2, 0600, S_IFCHR, 0, 0}},
	{"", false, {0}},
	{"0", false, {0}},
	{"0:0", false, {0}},
	{"0:0:", false, {0}},
	{":0:755", false, {0}},
	{"0::755", false, {0}},
	{"-1:0:755", false, {0}},
	{"4294967296:0:755", false, {0}},
	{"99999999999999999999999999:0:755", false, {0}},
	{"0:0:8", false, {0}},
	{"0:0:755 ", false, {0}},
	{" 0:0:755", false, {0}},
	{"0:0:755:", false, {0}},
	{"0:0:755:DIR", false, {0}},
	{"0:0:755:dirs", false, {0}},
	{"0:0:755:dir-1-2", false, {0}},
	{"0:0:755:block", false, {0}},
	{"0:0:755:block-", false, {0}},
	{"0:0:755:block-1", false, {0}},
	{"0:0:755:block-1-", false, {0}},
	{"0:0:755:block-1-2-3", false, {0}},
	{"0:0:755:char-1-2x", false, {0}},
	{"0:0:755:dir:more", false, {0}},
};

static bool same_override(const struct ov_override_stat *a, const struct ov_override_stat *b)
{
	return a->uid == b->uid && a->gid == b->gid && a->mode == b->mode && a->type == b->type &&
	       a->major == b->major && a->minor == b->minor;
}

START_TEST(override_values)
{
	size_t len = strlen(overrides[_i].text);
	char *p = exactly(overrides[_i].text, len), *nul = exactly(overrides[_i].text, len + 1);
	struct ov_override_stat st;
	int want = overrides[_i].good ? 0 : -EINVAL;

	ck_assert_int_eq(ov_override_decode(p, len, &st), want);
	ck_assert(same_override(&st, &overrides[_i].st));
	ck_assert_int_eq(ov_override_decode(nul, len + 1, &st), want); /* with its NUL, as some write it */
	free(p);
	free(nul);
}
END_TEST

START_TEST(override_encode)
{
	struct ov_override_stat st = {1000, 5, 0104755, S_IFREG, 0, 0};
	char buf[OV_OVERRIDE_TEXT_MAX];

	ck_assert_uint_eq(ov_override_encode(&st, false, buf), 11);
	ck_assert_str_eq(buf, "1000:5:4755");
	ov_override_encode(&st, true, buf);
	ck_assert_str_eq(buf, "1000:5:4755:file");
	st = (struct ov_override_stat){UINT32_MAX, UINT32_MAX, 0, S_IFCHR, UINT32_MAX, UINT32_MAX};
	ov_override_encode(&st, true, buf);
	ck_assert_str_eq(buf, "4294967295:4294967295:0000:char-4294967295-4294967295");
	st.type = 0;
	ov_override_encode(&st, true, buf);
	ck_assert_str_eq(buf, "4294967295:4294967295:0000");
}
END_TEST

START_TEST(override_random)
{
	static const uint32_t types[] = {0, S_IFREG, S_IFDIR, S_IFLNK, S_IFIFO, S_IFSOCK, S_IFBLK, S_IFCHR};
	char buf[OV_OVERRIDE_TEXT_MAX];
	struct ov_override_stat st, back;
	size_t len;
	int i;

	for (i = 0; i < ROUNDS; i++) {
		char *v;

		len = rnd() % 40;
		v = random_bytes(len, i % 4 ? "0123456789::::-blockchardirfile" : NULL);
		ov_override_decode(v, len, &back);
		free(v);
		st = (struct ov_override_stat){(uint32_t)rnd(),
					       (uint32_t)rnd(),
					       (uint32_t)rnd() & 07777,
					       types[rnd() % OV_ARRAY_SIZE(types)],
					       0,
					       0};
		if (S_ISBLK(st.type) || S_ISCHR(st.type)) {
			st.major = (uint32_t)rnd();
			st.minor = (uint32_t)rnd();
		}
		len = ov_override_encode(&st, true, buf);
		ck_assert_uint_eq(len, strlen(buf));
		ck_assert_int_eq(ov_override_decode(buf, len, &back), 0);
		ck_assert(same_override(&st, &back));
		v = exactly(buf, len);
		for (; len > 0; len--) /* cut off anywhere: no harm */
			ov_override_decode(v, len - 1, &back);
		free(v);
	}
}
END_TEST

START_TEST(override_xattrs)
{
	char buf[256], longer[256];
	const char *s = "security.capability", *u = "user.x";
	const char *moved = "user.containers.override_security.capability";

	ck_assert_str_eq(ov_override_xattr_to_stored(OV_OVERRIDE_CONTAINERS, s, buf), moved);
	ck_assert_str_eq(ov_override_xattr_to_stored(OV_OVERRIDE_USER, s, buf), moved);
	ck_assert_ptr_eq(ov_override_xattr_to_stored(OV_OVERRIDE_SECURITY, s, buf), s);
	ck_assert_ptr_eq(ov_override_xattr_to_stored(OV_OVERRIDE_NONE, s, buf), s);
	ck_assert_ptr_eq(ov_override_xattr_to_stored(OV_OVERRIDE_USER, u, buf), u);
	ck_assert_str_eq(ov_override_xattr_to_view(OV_OVERRIDE_CONTAINERS, moved, buf), s);
	ck_assert_ptr_eq(ov_override_xattr_to_view(OV_OVERRIDE_NONE, moved, buf), moved);
	ck_assert_ptr_eq(ov_override_xattr_to_view(OV_OVERRIDE_USER, u, buf), u);
	ck_assert_ptr_null(ov_override_xattr_to_view(OV_OVERRIDE_CONTAINERS, s, buf)); /* to ask for it gives the moved one */
	ck_assert_ptr_eq(ov_override_xattr_to_view(OV_OVERRIDE_SECURITY, s, buf), s);
	memset(longer, 'x', 255);
	longer[255] = '\0';
	memcpy(longer, "security.", 9);
	ck_assert_ptr_null(ov_override_xattr_to_stored(OV_OVERRIDE_USER, longer, buf));
}
END_TEST

/* ---- whiteout names ---- */

START_TEST(whiteout_names)
{
	char name[NAME_MAX + 2], buf[NAME_MAX + 1];
	const char *hidden = NULL;

	ck_assert_int_eq(ov_whiteout_oci_name("a", buf), 0);
	ck_assert_str_eq(buf, ".wh.a");
	ck_assert(ov_whiteout_oci_parse(buf, &hidden));
	ck_assert_str_eq(hidden, "a");
	ck_assert(ov_whiteout_oci_parse(".wh.", &hidden));
	ck_assert_str_eq(hidden, "");
	ck_assert(ov_whiteout_oci_parse(".wh..wh.x", NULL));
	ck_assert(!ov_whiteout_oci_parse(".wh", &hidden));
	ck_assert(!ov_whiteout_oci_parse("x.wh.a", &hidden));
	ck_assert(!ov_whiteout_oci_parse("", &hidden));
	ck_assert_str_eq(OV_OCI_OPAQUE_NAME, ".wh..wh..opq");
	ck_assert(ov_whiteout_is_oci_meta(OV_OCI_OPAQUE_NAME));
	ck_assert(ov_whiteout_is_oci_meta(".wh..wh.plnk"));
	ck_assert(!ov_whiteout_is_oci_meta(".wh.a"));
	ck_assert(!ov_whiteout_is_oci_meta("a"));
	memset(name, 'n', sizeof(name));
	name[NAME_MAX - 4] = '\0';
	ck_assert_int_eq(ov_whiteout_oci_name(name, buf), 0);
	ck_assert_uint_eq(strlen(buf), NAME_MAX);
	name[NAME_MAX - 4] = 'n';
	name[NAME_MAX - 3] = '\0';
	ck_assert_int_eq(ov_whiteout_oci_name(name, buf), -ENAMETOOLONG);
}
END_TEST

START_TEST(whiteout_attributes)
{
	struct statx stx = {.stx_mode = S_IFCHR};

	ck_assert(ov_whiteout_is_char(&stx));
	ck_assert(!ov_whiteout_may_be_xattr(&stx));
	stx.stx_rdev_minor = 1;
	ck_assert(!ov_whiteout_is_char(&stx));
	stx.stx_rdev_minor = 0;
	stx.stx_rdev_major = 1;
	ck_assert(!ov_whiteout_is_char(&stx));
	stx = (struct statx){.stx_mode = S_IFBLK};
	ck_assert(!ov_whiteout_is_char(&stx));
	stx.stx_mode = S_IFREG | 0644;
	ck_assert(ov_whiteout_may_be_xattr(&stx));
	stx.stx_size = 1;
	ck_assert(!ov_whiteout_may_be_xattr(&stx));
}
END_TEST

/* ---- on real files ---- */

static char top[PATH_MAX];
static int dir = -1;
static int prefix; /* trusted if it may be written, else user */
static bool usable;

static void remove_tree(int parent, const char *name)
{
	int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;

	while (d && (e = readdir(d))) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		if (unlinkat(fd, e->d_name, 0) < 0)
			remove_tree(fd, e->d_name);
	}
	if (d)
		closedir(d);
	unlinkat(parent, name, AT_REMOVEDIR);
}

static void setup(void)
{
	const char *tmp = getenv("TMPDIR");
	int fd;

	snprintf(top, sizeof(top), "%s/ov-format-XXXXXX", tmp ? tmp : "/tmp");
	ck_assert_ptr_nonnull(mkdtemp(top));
	dir = open(top, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_ge(dir, 0);
	ck_assert_int_eq(mkdirat(dir, "d", 0755), 0);
	fd = openat(dir, "f", O_CREAT | O_WRONLY, 0644);
	ck_assert_int_ge(fd, 0);
	close(fd);
	prefix = setxattr(top, "trusted.probe", "", 0, 0) == 0 ? OV_XP_TRUSTED : OV_XP_USER;
	usable = setxattr(top, "user.probe", "", 0, 0) == 0;
}

static void teardown(void)
{
	close(dir);
	dir = -1;
	remove_tree(AT_FDCWD, top);
}

/* Without xattrs (an old tmpfs) there is nothing to test here. */
#define NEED_XATTRS()           \
	do {                    \
		if (!usable)    \
			return; \
	} while (0)

/* Set X of NAME to LEN bytes, past our own writers. */
static void poke(const char *name, enum ov_xname x, const void *value, size_t len)
{
	ck_assert_int_eq(ov_at_setxattr(ov_at_name(dir, name), ov_xattr_name(prefix, x), value, len, 0), 0);
}

START_TEST(disk_opaque)
{
	struct ov_at d = ov_at_name(dir, "d");
	char key[32];
	int i, fd;

	NEED_XATTRS();
	ck_assert_int_eq(ov_opaque_read(d), OV_OPAQUE_NO);
	ck_assert_int_eq(ov_opaque_write(d, prefix, true), 0);
	ck_assert_int_eq(ov_opaque_read(d), OV_OPAQUE_XWHITEOUTS);
	ck_assert_int_eq(ov_opaque_write(d, prefix, false), 0);
	ck_assert_int_eq(ov_opaque_read(d), OV_OPAQUE_YES);
	fd = ov_at_open(d, O_PATH, 0);
	ck_assert_int_eq(ov_opaque_read(ov_at_fd(fd)), OV_OPAQUE_YES);
	close(fd);
	poke("d", OV_X_OPAQUE, "yes", 3);
	ck_assert_int_eq(ov_opaque_read(d), OV_OPAQUE_NO);
	poke("d", OV_X_OPAQUE, "", 0);
	ck_assert_int_eq(ov_opaque_read(d), OV_OPAQUE_NO);
	poke("d", OV_X_OPAQUE, "n", 1);
	ck_assert_int_eq(ov_opaque_read(d), OV_OPAQUE_NO);
	ck_assert_int_eq(ov_at_setxattr(d, OV_XATTR_FUSEOVERLAYFS_OPAQUE, "y", 1, 0), 0);
	ck_assert_int_eq(ov_opaque_read(d), OV_OPAQUE_YES);
	ck_assert_int_eq(ov_at_removexattr(d, OV_XATTR_FUSEOVERLAYFS_OPAQUE), 0);
	poke("d", OV_X_OPAQUE, "x", 1);
	ck_assert_int_eq(ov_at_setxattr(d, "user.overlay.opaque", "y", 1, 0), 0);
	ck_assert_int_eq(ov_opaque_read(d), OV_OPAQUE_YES);
	/* A name list that does not fit the usual buffer. */
	for (i = 0; i < 40; i++) {
		snprintf(key, sizeof(key), "user.%025d", i);
		if (ov_at_setxattr(d, key, "", 0, 0) < 0)
			break;
	}
	ck_assert_int_eq(ov_opaque_read(d), OV_OPAQUE_YES);
	ck_assert_int_eq(ov_opaque_read(ov_at_name(dir, "none")), -ENOENT);
}
END_TEST

START_TEST(disk_opaque_file)
{
	struct statx stx;
	int fd = ov_at_open(ov_at_name(dir, "d"), O_PATH, 0);

	ck_assert_int_eq(ov_opaque_write_oci(fd), 0);
	ck_assert_int_eq(ov_opaque_write_oci(fd), 0);
	ck_assert_int_eq(ov_at_statx(ov_at_name(fd, OV_OCI_OPAQUE_NAME), STATX_BASIC_STATS, &stx), 0);
	ck_assert(S_ISREG(stx.stx_mode) && stx.stx_size == 0);
	close(fd);
}
END_TEST

START_TEST(disk_whiteout)
{
	struct statx stx;
	int r = ov_whiteout_make(dir, "w", OV_WH_CHAR, prefix);

	ck_assert(r == 0 || r == -EPERM);
	if (r == 0) {
		ck_assert_int_eq(ov_at_statx(ov_at_name(dir, "w"), STATX_BASIC_STATS, &stx), 0);
		ck_assert(ov_whiteout_is_char(&stx));
		ck_assert_int_eq(ov_whiteout_make(dir, "w", OV_WH_CHAR, prefix), -EEXIST);
	}
	ck_assert_int_eq(ov_whiteout_make(dir, "v", OV_WH_OCI, prefix), -EINVAL);
	NEED_XATTRS();
	ck_assert_int_eq(ov_whiteout_make(dir, "x", OV_WH_XATTR, prefix), 0);
	ck_assert_int_eq(ov_whiteout_make(dir, "x", OV_WH_XATTR, prefix), -EEXIST);
	ck_assert_int_eq(ov_whiteout_has_xattr(ov_at_name(dir, "x")), 1);
	ck_assert_int_eq(ov_whiteout_has_xattr(ov_at_name(dir, "f")), 0);
	ck_assert_int_eq(ov_whiteout_has_xattr(ov_at_name(dir, "none")), -ENOENT);
	ck_assert_int_eq(ov_at_setxattr(ov_at_name(dir, "f"), "user.overlay.whiteout", "", 0, 0), 0);
	ck_assert_int_eq(ov_whiteout_has_xattr(ov_at_name(dir, "f")), 1);
}
END_TEST

START_TEST(disk_whiteout_oci)
{
	struct ov_at at = ov_at_name(dir, ".wh.gone");
	struct statx stx;

	ck_assert_int_eq(ov_whiteout_make_oci(dir, "gone"), 1);
	ck_assert_int_eq(ov_whiteout_make_oci(dir, "gone"), 0);
	ck_assert_int_eq(ov_whiteout_drop_oci(dir, "gone"), 0);
	ck_assert_int_eq(ov_whiteout_drop_oci(dir, "gone"), -ENOENT);
	ck_assert_int_eq(ov_whiteout_make_oci(dir, "gone"), 1);
	ck_assert_int_eq(ov_at_statx(at, STATX_BASIC_STATS, &stx), 0);
	ck_assert_int_eq(ov_whiteout_oci_is_real(at, &stx), 1);
	stx.stx_size = 1;
	ck_assert_int_eq(ov_whiteout_oci_is_real(at, &stx), 0);
	stx.stx_size = 0;
	stx.stx_mode = S_IFDIR;
	ck_assert_int_eq(ov_whiteout_oci_is_real(at, &stx), 0);
	stx.stx_mode = S_IFREG;
	NEED_XATTRS();
	ck_assert_int_eq(ov_whiteout_mark_plain(at, prefix), 0);
	ck_assert_int_eq(ov_whiteout_oci_is_real(at, &stx), 0);
}
END_TEST

START_TEST(disk_redirect)
{
	struct ov_at d = ov_at_name(dir, "d");
	char longer[OV_REDIRECT_MAX + 2], *value = NULL;

	NEED_XATTRS();
	ck_assert_int_eq(ov_redirect_read(d, prefix, &value), 0);
	ck_assert_ptr_null(value);
	ck_assert_int_eq(ov_redirect_write(d, prefix, "/a/b"), 0);
	ck_assert_int_eq(ov_redirect_read(d, prefix, &value), 0);
	ck_assert_str_eq(value, "/a/b");
	free(value);
	ck_assert_int_eq(ov_redirect_write(d, prefix, "a/b"), -EINVAL);
	memset(longer, 'a', sizeof(longer));
	longer[0] = longer[200] = '/';
	longer[OV_REDIRECT_MAX + 1] = '\0';
	ck_assert_int_eq(ov_redirect_write(d, prefix, longer), -ENAMETOOLONG);
	longer[OV_REDIRECT_MAX] = '\0';
	ck_assert_int_eq(ov_redirect_write(d, prefix, longer), 0);
	ck_assert_int_eq(ov_redirect_read(d, prefix, &value), 0);
	ck_assert_str_eq(value, longer);
	free(value);
	poke("d", OV_X_REDIRECT, "/a/../b", 7);
	ck_assert_int_eq(ov_redirect_read(d, prefix, &value), -EINVAL);
	ck_assert_ptr_null(value);
	poke("d", OV_X_REDIRECT, "", 0);
	ck_assert_int_eq(ov_redirect_read(d, prefix, &value), -EINVAL);
	ck_assert_int_eq(ov_redirect_read(ov_at_name(dir, "none"), prefix, &value), -ENOENT);
}
END_TEST

START_TEST(disk_metacopy)
{
	struct ov_at f = ov_at_name(dir, "f");
	struct ov_metacopy m = {.present = true};
	char big[200] = "";

	NEED_XATTRS();
	ck_assert_int_eq(ov_metacopy_read(f, prefix, &m), 0);
	ck_assert(!m.present);
	ck_assert_int_eq(ov_metacopy_remove(f, prefix), 0);
	ck_assert_int_eq(ov_metacopy_write(f, prefix), 0);
	ck_assert_int_eq(ov_metacopy_read(f, prefix, &m), 0);
	ck_assert(m.present && m.digest_len == 0);
	ck_assert_int_eq(ov_metacopy_remove(f, prefix), 0);
	ck_assert_int_eq(ov_metacopy_read(f, prefix, &m), 0);
	ck_assert(!m.present);
	poke("f", OV_X_METACOPY, "abc", 3);
	ck_assert_int_eq(ov_metacopy_read(f, prefix, &m), -EIO);
	poke("f", OV_X_METACOPY, big, sizeof(big));
	ck_assert_int_eq(ov_metacopy_read(f, prefix, &m), -EIO);
	ck_assert(!m.present);
}
END_TEST

START_TEST(disk_handle)
{
	struct ov_at f = ov_at_name(dir, "f");
	struct ov_fh fh, back;
	uint8_t uuid[16], uuid2[16], junk[250] = {0};
	struct stat st;
	uint64_t ino;
	int r, fd;

	NEED_XATTRS();
	ck_assert_int_eq(ov_fs_uuid(dir, uuid), 0);
	fd = ov_at_open(ov_at_name(dir, "d"), O_PATH, 0);
	ck_assert_int_eq(ov_fs_uuid(fd, uuid2), 0);
	ck_assert_mem_eq(uuid, uuid2, 16);
	close(fd);
	ck_assert_int_eq(ov_fh_read(f, prefix, OV_X_ORIGIN, &back), -ENODATA);
	r = ov_fh_encode(f, uuid, false, &fh);
	if (r == -EOPNOTSUPP)
		fh.len = 0;
	else
		ck_assert_int_eq(r, 0);
	ck_assert_int_eq(ov_fh_write(f, prefix, OV_X_ORIGIN, &fh), 0);
	ck_assert_int_eq(ov_fh_read(f, prefix, OV_X_ORIGIN, &back), 0);
	ck_assert(ov_fh_equal(&fh, &back));
	poke("f", OV_X_ORIGIN, "xyz", 3);
	ck_assert_int_eq(ov_fh_read(f, prefix, OV_X_ORIGIN, &back), -EINVAL);
	poke("f", OV_X_ORIGIN, junk, sizeof(junk));
	ck_assert_int_eq(ov_fh_read(f, prefix, OV_X_ORIGIN, &back), -EINVAL);
	memset(&back, 0, sizeof(back));
	ck_assert_int_eq(ov_fh_open(dir, &back, O_PATH), -EINVAL);
	if (fh.len == 0)
		return;
	ck_assert_int_eq(fstatat(dir, "f", &st, AT_SYMLINK_NOFOLLOW), 0);
	if (ov_fh_ino(&fh, &ino))
		ck_assert_uint_eq(ino, st.st_ino);
	ck_assert_int_eq(ov_fh_encode(f, uuid, true, &back), 0);
	ck_assert(!ov_fh_equal(&fh, &back));
	ck_assert_uint_eq(fh.data[3] ^ back.data[3], 4);
	fd = ov_fh_open(dir, &fh, O_RDONLY);
	ck_assert(fd >= 0 || fd == -EPERM);
	if (fd < 0)
		return;
	ck_assert_int_eq(fstat(fd, &st), 0);
	ck_assert_uint_eq(st.st_size, 0);
	close(fd);
	ck_assert_int_eq(unlinkat(dir, "f", 0), 0);
	ck_assert_int_eq(ov_fh_open(dir, &fh, O_RDONLY), -ESTALE);
}
END_TEST

START_TEST(disk_small_marks)
{
	struct ov_at f = ov_at_name(dir, "f"), d = ov_at_name(dir, "d");
	unsigned flags = 1;
	int delta = 0;
	char base = 0;

	NEED_XATTRS();
	ck_assert_int_eq(ov_nlink_read(f, prefix, &base, &delta), -ENODATA);
	ck_assert_int_eq(ov_nlink_write(f, prefix, 'U', -3), 0);
	ck_assert_int_eq(ov_nlink_read(f, prefix, &base, &delta), 0);
	ck_assert_int_eq(base, 'U');
	ck_assert_int_eq(delta, -3);
	poke("f", OV_X_NLINK, "U+00000000000000000000001", 25);
	ck_assert_int_eq(ov_nlink_read(f, prefix, &base, &delta), -EINVAL);

	ck_assert_int_eq(ov_impure_read(d, prefix), 0);
	ck_assert_int_eq(ov_impure_write(d, prefix), 0);
	ck_assert_int_eq(ov_impure_read(d, prefix), 1);
	poke("d", OV_X_IMPURE, "n", 1);
	ck_assert_int_eq(ov_impure_read(d, prefix), 0);
	poke("d", OV_X_IMPURE, "yy", 2);
	ck_assert_int_eq(ov_impure_read(d, prefix), 0);

	ck_assert_int_eq(ov_protattr_read(f, prefix, &flags), 0);
	ck_assert_uint_eq(flags, 0);
	ck_assert_int_eq(ov_protattr_write(f, prefix, 0), 0);
	ck_assert_int_eq(ov_protattr_write(f, prefix, FS_APPEND_FL | FS_IMMUTABLE_FL), 0);
	ck_assert_int_eq(ov_protattr_read(f, prefix, &flags), 0);
	ck_assert_uint_eq(flags, FS_APPEND_FL | FS_IMMUTABLE_FL);
	ck_assert_int_eq(ov_protattr_write(f, prefix, 0), 0);
	ck_assert_int_eq(ov_protattr_read(f, prefix, &flags), 0);
	ck_assert_uint_eq(flags, 0);
}
END_TEST

START_TEST(disk_volatile)
{
	struct statx stx;

	ck_assert_int_eq(ov_volatile_present(dir), 0);
	ck_assert_int_eq(mkdirat(dir, "incompat", 0755), 0);
	ck_assert_int_eq(ov_volatile_present(dir), 0);
	ck_assert_int_eq(ov_volatile_create(dir), 0);
	ck_assert_int_eq(ov_volatile_create(dir), 0);
	ck_assert_int_eq(ov_volatile_present(dir), 1);
	ck_assert_int_eq(ov_at_statx(ov_at_name(dir, "incompat/volatile/dirty"), STATX_TYPE, &stx), 0);
	ck_assert(S_ISREG(stx.stx_mode));
	remove_tree(dir, "incompat");
	ck_assert_int_eq(symlinkat("d", dir, "incompat"), 0);
	ck_assert_int_eq(ov_volatile_present(dir), -ENOTDIR);
	ck_assert_int_eq(ov_volatile_create(dir), -ENOTDIR);
}
END_TEST

START_TEST(disk_override)
{
	struct ov_at d = ov_at_name(dir, "d");
	struct ov_override_stat st = {1000, 1001, 01777, S_IFDIR, 0, 0}, back;
	char big[200];

	NEED_XATTRS();
	ck_assert_int_eq((int)ov_override_detect(d), OV_OVERRIDE_NONE);
	ck_assert_ptr_null(ov_override_name(OV_OVERRIDE_NONE));
	ck_assert_int_eq(ov_override_read(d, OV_OVERRIDE_NONE, &back), -ENODATA);
	ck_assert_int_eq(ov_override_write(d, OV_OVERRIDE_NONE, &st), -EINVAL);
	ck_assert_int_eq(ov_override_read(d, OV_OVERRIDE_CONTAINERS, &back), -ENODATA);
	ck_assert_int_eq(ov_override_write(d, OV_OVERRIDE_USER, &st), 0);
	ck_assert_int_eq((int)ov_override_detect(d), OV_OVERRIDE_USER);
	ck_assert_int_eq(ov_override_write(d, OV_OVERRIDE_CONTAINERS, &st), 0);
	ck_assert_int_eq((int)ov_override_detect(d), OV_OVERRIDE_CONTAINERS);
	ck_assert_int_eq(ov_override_read(d, OV_OVERRIDE_CONTAINERS, &back), 0);
	ck_assert(same_override(&st, &back));
	if (ov_override_write(d, OV_OVERRIDE_SECURITY, &st) == 0)
		ck_assert_int_eq((int)ov_override_detect(d), OV_OVERRIDE_SECURITY);
	memset(big, '0', sizeof(big));
	ck_assert_int_eq(ov_at_setxattr(d, ov_override_name(OV_OVERRIDE_USER), big, sizeof(big), 0), 0);
	ck_assert_int_eq(ov_override_read(d, OV_OVERRIDE_USER, &back), -EINVAL);
}
END_TEST

static void add_pure_tests(TCase *tc)
{
	tcase_add_test(tc, names_static);
	tcase_add_loop_test(tc, names_to_view, 0, (int)OV_ARRAY_SIZE(to_view));
	tcase_add_test(tc, names_to_stored);
	tcase_add_test(tc, names_private);
	tcase_add_test(tc, names_random);
	tcase_add_loop_test(tc, redirect_values, 0, (int)OV_ARRAY_SIZE(redirects));
	tcase_add_test(tc, redirect_lengths);
	tcase_add_test(tc, redirect_walk);
	tcase_add_test(tc, redirect_random);
	tcase_add_test(tc, metacopy_decode);
	tcase_add_test(tc, metacopy_random);
	tcase_add_loop_test(tc, handle_known, 0, (int)OV_ARRAY_SIZE(handles));
	tcase_add_test(tc, handle_decode);
	tcase_add_test(tc, handle_unhex);
	tcase_add_test(tc, handle_random);
	tcase_add_loop_test(tc, nlink_values, 0, (int)OV_ARRAY_SIZE(nlinks));
	tcase_add_test(tc, nlink_random);
	tcase_add_test(tc, protattr_values);
	tcase_add_loop_test(tc, override_values, 0, (int)OV_ARRAY_SIZE(overrides));
	tcase_add_test(tc, override_encode);
	tcase_add_test(tc, override_random);
	tcase_add_test(tc, override_xattrs);
	tcase_add_test(tc, whiteout_names);
	tcase_add_test(tc, whiteout_attributes);
}

Suite *format_suite(void)
{
	Suite *s = suite_create("format");
	TCase *pure = tcase_create("pure"), *disk = tcase_create("disk");

	tcase_set_timeout(pure, 120);
	add_pure_tests(pure);
	suite_add_tcase(s, pure);
	tcase_add_checked_fixture(disk, setup, teardown);
	tcase_set_timeout(disk, 60);
	tcase_add_test(disk, disk_opaque);
	tcase_add_test(disk, disk_opaque_file);
	tcase_add_test(disk, disk_whiteout);
	tcase_add_test(disk, disk_whiteout_oci);
	tcase_add_test(disk, disk_redirect);
	tcase_add_test(disk, disk_metacopy);
	tcase_add_test(disk, disk_handle);
	tcase_add_test(disk, disk_small_marks);
	tcase_add_test(disk, disk_volatile);
	tcase_add_test(disk, disk_override);
	suite_add_tcase(s, disk);
	return s;
}
