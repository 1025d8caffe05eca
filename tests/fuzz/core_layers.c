/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Layers as the input describes them: plain objects and every mark of the format, well-formed and not. */

#include <dirent.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/fs.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/xattr.h>

#include "core_fuzz.h"
#include "format/origin.h"
#include "format/xattr_names.h"

OV_FUZZ_UNCOUNTED

#define LAYERS 6
#define OBJECTS_MAX (RECORDS_MAX + LAYERS)
#define DIRS_MAX 12

static const char *const dirs[] = {"u", "l1", "l2", "l3", "d1", "w"};
enum { UPPER, LOWER1, LOWER2, LOWER3, DATA1, WORK };

#define LONG50 "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn"
#define LONG250 LONG50 LONG50 LONG50 LONG50 LONG50
const char *const fuzz_names[NAMES] = {
	"a",	".wh.a", "b", "c",   "d", ".wh.b", ".wh..wh..opq", LONG250 "12345", /* the longest */
	LONG250 "1" /* the longest that ".wh." can hide */, "\xff\x01 ", "e", ".wh." LONG250 "1", ".wh..wh.x",
};

const char *const fuzz_xattrs[XATTRS] = {
	"system.posix_acl_access",
	"system.posix_acl_default",
	"security.capability",
	"user.a",
	"user.b",
	"trusted.a",
	"user.overlay.opaque",
	"trusted.overlay.opaque",
	"trusted.overlay.redirect",
	"user.overlay.overlay.whiteout",
	"user.containers.override_stat",
	"user.containers.override_security.a",
	"security.a",
	"user.fuseoverlayfs.opaque",
};

int fuzz_name_number(const char *name)
{
	for (int n = 0; n < NAMES; n++)
		if (strcmp(fuzz_names[n], name) == 0)
			return n;
	return -1;
}

uint64_t fuzz_hash(uint64_t h, const void *data, size_t len)
{
	const uint8_t *p = data;

	h ^= len + 1469598103934665603ull;
	while (len--)
		h = (h ^ *p++) * 1099511628211ull;
	return h;
}

size_t fuzz_xattr_value(unsigned x, unsigned kind, uint8_t *buf)
{
	static const uint8_t acl[] = {
		2, 0, 0, 0, /* version */
		0x01, 0, 6, 0, 0xff, 0xff, 0xff, 0xff, /* user:: */
		0x02, 0, 4, 0, 1, 0, 0, 0, /* user:1: */
		0x04, 0, 4, 0, 0xff, 0xff, 0xff, 0xff, /* group:: */
		0x10, 0, 6, 0, 0xff, 0xff, 0xff, 0xff, /* mask:: */
		0x20, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, /* other:: */
	};
	static const uint8_t cap[] = {0, 0, 0, 2, 1, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
	static const size_t lengths[] = {3, 0, 1, 300};

	if (x <= XATTR_ACL_DEFAULT && (kind & 7) != 7) {
		memcpy(buf, acl, sizeof(acl));
		buf[14] = kind & 7;
		return sizeof(acl);
	}
	if (x == XATTR_CAPABILITY && (kind & 7) != 7) {
		memcpy(buf, cap, sizeof(cap));
		buf[5] = (uint8_t)kind;
		return sizeof(cap);
	}
	memset(buf, 'a' + (kind >> 2) % 16, 300);
	return lengths[kind & 3];
}

/* ---- the place ---- */

static char base[] = "/var/tmp/fuse-overlay-fuzz.XXXXXX";
bool layers_hidden_names;
static bool immovable; /* something in the upper may not be removed, be it only a whiteout in a directory that goes */
static int place_fd, home_fd; /* layers have relative names; the caller's files, too */

static void leave(void)
{
	umount2(base, MNT_DETACH);
	rmdir(base);
}

/*
 * Without clones of mounts, whose end waits for all CPUs: most of the time would go there. The lowers are then not protected by
 * the kernel either. OV_FUZZ_CLONE leaves them.
 */
static void forbid_clones(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 428 /* open_tree */, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog filter = {.len = OV_ARRAY_SIZE(code), .filter = code};

	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) < 0)
		TRACE("layer: clones cannot be forbidden: %s\n", strerror(errno));
}

void layers_start(void)
{
	const char *dir = getenv("OV_FUZZ_DIR");

	umask(0);
	home_fd = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	HOLDS(home_fd >= 0);
	if (dir) { /* another file system */
		place_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		HOLDS(place_fd >= 0);
		return;
	}
	HOLDS(mkdtemp(base));
	atexit(leave);
	if (unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
	    mount("tmpfs", base, "tmpfs", 0, "size=64m,mode=755") < 0)
		fprintf(stderr, "no tmpfs of our own: %s\n", strerror(errno));
	place_fd = open(base, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	HOLDS(place_fd >= 0);
	if (!getenv("OV_FUZZ_CLONE"))
		forbid_clones();
}

/* ---- making ---- */

struct made {
	int layer;
	bool dir;
	char path[2048];
};

struct maker {
	struct made obj[OBJECTS_MAX];
	unsigned n;
	bool xattr_kind; /* deletions are empty files with an xattr */
	bool xwhiteouts[2]; /* there are such files in the lowers, the upper */
	bool oci; /* deletions are ".wh." files: nothing that is in the view may have such a name */
	const char *prefix; /* of the overlay's xattrs */
	const char *other_prefix;
};

static const char *const redirects[] = {"a",  "/a", "b", "/b", "/a/b", "/c/a", "c",  "/a/a/a", "/d", "..",
					"a/b", "",   "/", "/a//b", "/a/../b", "d"};

static void set(const struct maker *m, const char *path, bool other, const char *mark, const void *value, size_t len)
{
	char name[64];

	snprintf(name, sizeof(name), "%soverlay.%s", other ? m->other_prefix : m->prefix, mark);
	(void)lsetxattr(path, name, value, len, 0);
	TRACE("layer: %.40s %s = %.*s\n", path, name, (int)len, (const char *)value);
}

static void set_text(const struct maker *m, const char *path, bool other, const char *mark, const char *value)
{
	set(m, path, other, mark, value, strlen(value));
}

static void make_file(const char *path, unsigned arg)
{
	static const off_t sizes[] = {0, 1, 5, 4096, 5000, 9000, 0, 10};
	int fd = open(path, O_CREAT | O_EXCL | O_WRONLY, 0644);
	char buf[4096];

	if (fd < 0)
		return;
	memset(buf, 'A' + arg % 23, sizeof(buf));
	for (off_t at = 0; at < sizes[arg & 7]; at += (off_t)sizeof(buf))
		HOLDS(pwrite(fd, buf, (size_t)(sizes[arg & 7] - at < 4096 ? sizes[arg & 7] - at : 4096), at) > 0);
	if ((arg & 0xf8) == 0xf8) /* mostly a hole */
		HOLDS(ftruncate(fd, (off_t)1 << 40) == 0);
	close(fd);
}

static void make_socket(const char *path)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	int fd;

	if (strlen(path) >= sizeof(sa.sun_path))
		return;
	strcpy(sa.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	(void)bind(fd, (struct sockaddr *)&sa, sizeof(sa));
	close(fd);
}

/* An object PATH of the given kind; false: a file that needs a mark, too (see the caller). */
static void make_object(struct maker *m, const char *dir, const char *path, unsigned kind, unsigned arg, bool mix)
{
	static const char *const targets[] = {"a", "/", "../b", ""};

	switch (kind) {
	case 0:
	case 1:
	case 2:
		(void)mkdir(path, 0755);
		break;
	case 3:
	case 4:
	case 5:
		make_file(path, arg);
		break;
	case 6:
		(void)symlink(targets[arg & 3][0] ? targets[arg & 3] : fuzz_names[7], path);
		break;
	case 7:
		(void)mknod(path, (arg & 1 ? S_IFIFO : S_IFCHR) | 0600, arg & 1 ? 0 : makedev(1, 3));
		break;
	case 8:
		if (arg & 1)
			make_socket(path);
		else
			(void)mknod(path, S_IFBLK | 0600, makedev(7, arg));
		break;
	case 9:
		(void)mknod(path, S_IFCHR, 0);
		break;
	case 10: /* a whiteout by xattr, in a directory that may say so */
		make_file(path, 0);
		set_text(m, path, mix, "whiteout", arg & 1 ? "y" : "");
		if (arg & 2)
			set_text(m, dir, mix, "opaque", "x");
		m->xwhiteouts[dir[0] == 'u'] = true;
		break;
	case 12:
		make_file(path, 0);
		break;
	default: { /* another name of a file that is there */
		const struct made *o = &m->obj[arg % m->n];

		/* writing through one of the upper is fair; but what is written to shall be no whiteout under another name */
		if ((o->layer == UPPER) == (dir[0] == 'u') && !strstr(path, ".wh.") && !strstr(o->path, ".wh."))
			(void)link(o->path, path);
	}
	}
}

static void create(struct maker *m, const uint8_t *r)
{
	unsigned candidates[OBJECTS_MAX], n = 0;
	const char *dir, *name;
	struct made *o;
	char path[sizeof(o->path)];
	struct stat st;
	int layer = r[0] % (LAYERS - 1);

	for (unsigned k = 0; k < m->n; k++)
		if (m->obj[k].layer == layer && m->obj[k].dir)
			candidates[n++] = k;
	if (m->n == OBJECTS_MAX)
		return;
	o = &m->obj[m->n];
	dir = m->obj[candidates[(r[2] >> 4) % n]].path;
	name = fuzz_names[(r[2] & 15) % NAMES];
	if ((r[1] & 15) == 12) /* an OCI whiteout or opaque mark */
		name = r[3] & 1 ? ".wh..wh..opq" : r[3] & 2 ? ".wh.a" : ".wh.b";
	if (m->oci && strncmp(name, ".wh.", 4) == 0 && (r[1] & 15) != 12)
		name = fuzz_names[0];
	if (snprintf(path, sizeof(path), "%s/%s", dir, name) >= (int)sizeof(path))
		return;
	memcpy(o->path, path, sizeof(path));
	make_object(m, dir, o->path, r[1] & 15, r[3], r[4] & 1);
	if (lstat(o->path, &st) < 0)
		return;
	layers_hidden_names |= layer == UPPER && strncmp(name, ".wh.", 4) == 0;
	o->layer = layer;
	o->dir = S_ISDIR(st.st_mode);
	m->n++;
	TRACE("layer: %.40s mode %o size %lld\n", o->path, st.st_mode, (long long)st.st_size);
}

/* A handle of another object, or bytes that look like one. */
static void set_origin(const struct maker *m, const char *path, unsigned arg, bool mix, const char *mark)
{
	uint8_t uuid[16] = {0};
	struct ov_fh fh = {0};
	int fd = open(".", O_RDONLY | O_DIRECTORY);

	(void)ov_fs_uuid(fd, uuid);
	close(fd);
	if (ov_fh_encode(ov_at_name(AT_FDCWD, m->obj[arg % m->n].path), uuid, arg & 64, &fh) < 0)
		fh.len = 0;
	if ((arg & 128) && fh.len)
		fh.data[arg % fh.len] ^= 1;
	set(m, path, mix, mark, fh.data, fh.len);
}

static void set_flags(const char *path, unsigned flags)
{
	int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOFOLLOW);
	int now = 0;

	if (fd < 0)
		return;
	if (ioctl(fd, FS_IOC_GETFLAGS, &now) == 0) {
		now = (now & ~(FS_APPEND_FL | FS_IMMUTABLE_FL)) | (int)flags;
		(void)ioctl(fd, FS_IOC_SETFLAGS, &now);
	}
	close(fd);
}

static void set_override(const char *path, unsigned arg)
{
	static const char *const names[] = {"user.containers.override_stat", "security.fuseoverlayfs.override_stat",
					    "user.fuseoverlayfs.override_stat"};
	static const char *const values[] = {"0:0:644",	       "1:2:4755:file",	   "5:5:755:dir",      "1:1:777:symlink",
					     "0:0:600:pipe",   "0:0:600:char-5-1", "0:0:600:char-0-0", "0:0:",
					     "0:0:644:socket", "0:0:600:block-1-1"};

	(void)lsetxattr(path, names[arg % 3], values[(arg >> 2) % 10], strlen(values[(arg >> 2) % 10]), 0);
	TRACE("layer: %.40s %s = %s\n", path, names[arg % 3], values[(arg >> 2) % 10]);
}

/* A mark, or garbage in its place, on an object that is there. */
static void mark(struct maker *m, const uint8_t *r)
{
	const char *path = m->obj[(r[0] | r[2] << 8) % m->n].path;
	static const char *const names[] = {"opaque", "redirect", "metacopy", "origin",	 "impure", "nlink",
					    "protattr", "uuid",	    "upper",	"whiteout", "plain",  "overlay.opaque"};
	unsigned arg = r[3];
	bool mix = r[4] & 1;
	uint8_t value[512];
	size_t len;

	switch (r[1] & 31) {
	case 16:
		set_text(m, path, mix, "opaque", arg & 1 ? "y" : arg & 2 ? "x" : "n");
		break;
	case 17:
	case 18:
		set_text(m, path, mix, "redirect", redirects[arg & 15]);
		break;
	case 19:
	case 20:
		set(m, path, mix, "metacopy", "\0\4\0\0\1\2\3\4", arg & 1 ? 4 : 0);
		if (arg & 2)
			set_text(m, path, mix, "redirect", redirects[(arg >> 4) & 15]);
		break;
	case 21:
		set_origin(m, path, arg, mix, arg & 32 ? "upper" : "origin");
		break;
	case 22:
		set_text(m, path, mix, "nlink", arg & 1 ? "U-1" : arg & 2 ? "L+1" : "U+99999999");
		break;
	case 23:
		set_text(m, path, mix, "protattr", arg & 1 ? "i" : arg & 2 ? "a" : "ia");
		break;
	case 24:
		set_override(path, arg);
		break;
	case 25:
		len = fuzz_xattr_value(arg % XATTRS, arg >> 4, value);
		(void)lsetxattr(path, fuzz_xattrs[arg % XATTRS], value, len, 0);
		TRACE("layer: %.40s %s, %zu bytes\n", path, fuzz_xattrs[arg % XATTRS], len);
		break;
	case 26:
		TRACE("layer: %.40s chown\n", path);
		(void)lchown(path, arg & 7, (arg >> 3) & 7);
		break;
	case 27:
		TRACE("layer: %.40s chmod\n", path);
		if (m->obj[(r[0] | r[2] << 8) % m->n].dir)
			(void)chmod(path, 0700 | arg << 2);
		else
			(void)fchmodat(AT_FDCWD, path, (mode_t)arg << 4 & 07777, AT_SYMLINK_NOFOLLOW);
		break;
	case 28:
		TRACE("layer: %.40s chattr\n", path);
		immovable |= path[0] == 'u';
		set_flags(path, arg & 1 ? FS_APPEND_FL : FS_IMMUTABLE_FL);
		break;
	case 29:
		set_text(m, path, mix, "impure", "y");
		break;
	default: /* any bytes under any of the names */
		len = arg & 7;
		for (size_t k = 0; k < len; k++)
			value[k] = (uint8_t)(r[4] >> 1) + (uint8_t)k * (arg >> 3);
		set(m, path, mix, names[(arg ^ r[4]) % 12], value, len);
		m->xwhiteouts[path[0] == 'u'] |= strcmp(names[(arg ^ r[4]) % 12], "whiteout") == 0;
	}
}

/*
 * As in the kernel, an empty file with a whiteout's xattr is one as soon as its layer is known to have some: after the first
 * directory that says so, which may be any that is looked up later. What is a file must not become none meanwhile: the roots say
 * so, and nothing else.
 */
static void tell_xwhiteouts(const struct maker *m)
{
	for (int n = UPPER; n < WORK; n++) {
		char name[64];

		if (!m->xwhiteouts[n == UPPER] && !(n == UPPER && m->xattr_kind))
			continue;
		snprintf(name, sizeof(name), "%soverlay.opaque", m->other_prefix);
		set_flags(dirs[n], 0); /* an immutable one could not say so */
		(void)lremovexattr(dirs[n], name);
		(void)lremovexattr(dirs[n], "user.fuseoverlayfs.opaque");
		set_text(m, dirs[n], false, "opaque", "x");
	}
}

static bool is_oci(const struct input *in)
{
	return ((in->header[2] >> 3) & 3) == 3;
}

void layers_make(const struct input *in)
{
	static struct maker m;
	bool user = in->header[0] & 16;

	HOLDS(fchdir(place_fd) == 0);
	layers_hidden_names = false;
	m.n = 0;
	m.xattr_kind = ((in->header[2] >> 3) & 3) == 2;
	m.oci = is_oci(in);
	memset(m.xwhiteouts, 0, sizeof(m.xwhiteouts));
	immovable = false;
	m.prefix = user ? "user." : "trusted.";
	m.other_prefix = user ? "trusted." : "user.";
	for (int n = 0; n < LAYERS; n++) {
		HOLDS(mkdir(dirs[n], 0755) == 0);
		if (n == WORK)
			continue;
		m.obj[m.n].layer = n;
		m.obj[m.n].dir = true;
		strcpy(m.obj[m.n++].path, dirs[n]);
	}
	for (size_t n = 0; n < in->nrecords; n++) {
		const uint8_t *r = in->records + n * RECORD_LEN;

		if (r[1] & 16)
			mark(&m, r);
		else
			create(&m, r);
	}
	tell_xwhiteouts(&m);
}

static void remove_tree(int dirfd, const char *name)
{
	struct dirent *de;
	DIR *dir;
	int fd;

	if (unlinkat(dirfd, name, 0) == 0)
		return;
	if (errno == EPERM) {
		char path[64];

		snprintf(path, sizeof(path), "/proc/self/fd/%d", dirfd);
		set_flags(path, 0);
		fd = openat(dirfd, name, O_RDONLY | O_NONBLOCK | O_NOFOLLOW);
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		if (fd >= 0) {
			int flags = 0;

			(void)ioctl(fd, FS_IOC_SETFLAGS, &flags);
			close(fd);
		}
		if (unlinkat(dirfd, name, 0) == 0)
			return;
	}
	fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
	dir = fd < 0 ? NULL : fdopendir(fd);
	while (dir && (de = readdir(dir)))
		if (strcmp(de->d_name, ".") != 0 && strcmp(de->d_name, "..") != 0)
			remove_tree(fd, de->d_name);
	if (dir)
		closedir(dir);
	(void)unlinkat(dirfd, name, AT_REMOVEDIR);
}

void layers_clean(void)
{
	for (int n = 0; n < LAYERS; n++)
		remove_tree(AT_FDCWD, dirs[n]);
	HOLDS(fchdir(home_fd) == 0);
}

/* ---- looking ---- */

/* Names in any order: the hashes are added. */
static uint64_t fingerprint(int dirfd, const char *name)
{
	uint64_t h, sum = 0;
	struct dirent *de;
	struct statx stx;
	DIR *dir;
	int fd;

	if (statx(dirfd, name, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, &stx) < 0)
		return 0;
	h = fuzz_hash(1, name, strlen(name));
	h = fuzz_hash(h, &stx.stx_ino, sizeof(stx.stx_ino));
	h = fuzz_hash(h, &stx.stx_mode, sizeof(stx.stx_mode));
	h = fuzz_hash(h, &stx.stx_nlink, sizeof(stx.stx_nlink));
	h = fuzz_hash(h, &stx.stx_size, sizeof(stx.stx_size));
	h = fuzz_hash(h, &stx.stx_mtime, sizeof(stx.stx_mtime));
	h = fuzz_hash(h, &stx.stx_ctime, sizeof(stx.stx_ctime));
	if (!S_ISDIR(stx.stx_mode))
		return h;
	fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NOATIME);
	dir = fd < 0 ? NULL : fdopendir(fd);
	while (dir && (de = readdir(dir)))
		if (strcmp(de->d_name, ".") != 0 && strcmp(de->d_name, "..") != 0)
			sum += fingerprint(fd, de->d_name);
	if (dir)
		closedir(dir);
	return fuzz_hash(h, &sum, sizeof(sum));
}

uint64_t layers_fingerprint(void)
{
	uint64_t h = 0;

	for (int n = LOWER1; n <= DATA1; n++)
		h = h * 31 + fingerprint(AT_FDCWD, dirs[n]);
	return h;
}

void layers_check_work(bool is_volatile)
{
	DIR *dir = opendir("w/work");
	struct dirent *de;

	while (dir && (de = readdir(dir)))
		if (strcmp(de->d_name, ".") != 0 && strcmp(de->d_name, "..") != 0)
			HOLDS(immovable || (is_volatile && strcmp(de->d_name, "incompat") == 0));
	if (dir)
		closedir(dir);
	if (is_volatile)
		remove_tree(AT_FDCWD, "w/work/incompat");
}

/* ---- options ---- */

bool layers_read_only(const struct input *in)
{
	return (in->header[0] & 12) == 12;
}

void layers_config(const struct input *in, struct ov_config *cfg)
{
	const uint8_t *h = in->header;
	size_t nlower = 1 + (h[0] & 3) % 3;
	const char *why;

	ov_config_init(cfg);
	cfg->lower = calloc(4, sizeof(*cfg->lower));
	for (size_t n = 0; n < nlower; n++)
		cfg->lower[cfg->nlower++] = strdup(dirs[LOWER1 + n]);
	if (h[0] & 32 && h[0] & 8) {
		cfg->lower[cfg->nlower++] = strdup(dirs[DATA1]);
		cfg->ndata = 1;
	}
	if (!layers_read_only(in)) {
		cfg->upper = strdup(dirs[UPPER]);
		cfg->work = strdup(dirs[WORK]);
	}
	cfg->userxattr = h[0] & 16;
	cfg->metacopy = h[0] & 32;
	cfg->index = (h[0] & 64) && cfg->upper;
	cfg->volatile_ = (h[0] & 128) && cfg->upper;
	cfg->sync = cfg->volatile_ ? OV_SYNC_OFF : OV_SYNC_ON;
	cfg->redirect = !cfg->metacopy ? h[1] & 3 : cfg->upper ? OV_REDIRECT_ON : OV_REDIRECT_FOLLOW; /* as options must be */
	cfg->xattr_permissions = ((h[1] >> 2) & 3) % 3;
	cfg->noacl = (h[1] & 0x30) == 0x30;
	cfg->noxattrs = (h[1] & 0x70) == 0x70;
	cfg->static_nlink = h[1] & 64;
	cfg->ino32 = h[1] & 128;
	if ((h[2] & 7) == 5)
		(void)ov_idmap_parse(&cfg->uidmap, "0:0:4:100:4:100", &why);
	cfg->squash_to_root = (h[2] & 7) == 6;
	if ((h[2] & 7) == 7)
		cfg->squash_uid = 3;
	cfg->no_char_whiteout = is_oci(in);
}

OV_FUZZ_COUNTED
