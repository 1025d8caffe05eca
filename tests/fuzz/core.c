/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The core as a whole: layers made from the first bytes of the input (core_layers.c), then calls as the kernel makes them, one
 * record each: names are looked up before they are used, references are counted and forgotten, what the VFS refuses is not
 * asked. A tree in memory (core_view.c) follows what was done; the view must agree with it after each call and at the end, and
 * be the same when the overlay is opened anew; the lowers, the descriptors and the inode table must be as before.
 *
 * The kernel's caches are not played: every read and listing asks the core.
 */

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/xattr.h>

#include "core_fuzz.h"
#include "format/whiteout.h"

OV_FUZZ_UNCOUNTED

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size) __attribute__((weak));

bool fuzz_trace;
static struct tree model;
static const struct input *input;
static bool ino_moved[NODEIDS_MAX]; /* the core said that the attributes changed */

/* One listing that is read over several calls. */
static struct {
	int dir; /* node, 0: none */
	uint64_t nodeid, cookie;
	unsigned seen, always, ever; /* names by bit */
	bool plus;
	unsigned room;
} reader;

/* ---- what the model and the core agree upon ---- */

/* The upper has, or gets, files that hide others and are not in the view: their names are taken. */
static bool has_hidden_names(void)
{
	return layers_hidden_names || fuzz_ov->whiteout_kind == OV_WH_OCI;
}

static struct ov_inode *inode(int n)
{
	struct ov_inode *i = ov_inode_get(fuzz_ov, model.n[n].nodeid);

	HOLDS(i);
	return i;
}

static bool is_held(int n)
{
	return n == 1 || fuzz_held[model.n[n].nodeid] > 0;
}

static bool is_dir(int n)
{
	return S_ISDIR(model.n[n].mode);
}

static bool is_reg(int n)
{
	return S_ISREG(model.n[n].mode);
}

static bool is_link(int n)
{
	return S_ISLNK(model.n[n].mode);
}

static bool is_plausible(long long r)
{
	static const int known[] = {EPERM,  ENOENT, EIO,   EEXIST, ENOTDIR, EISDIR,	  EINVAL,    EFBIG, ENOSPC, EROFS,	EMLINK,
				    ERANGE, ENXIO,  E2BIG, ENODATA, EACCES, ENAMETOOLONG, ENOTEMPTY, EXDEV, ENOTTY, EOPNOTSUPP};

	for (size_t n = 0; n < OV_ARRAY_SIZE(known); n++)
		if (r == -known[n])
			return true;
	return r >= 0;
}

/* A node that has neither a name nor a reference is no more. */
static void settle(int n)
{
	if (n <= 1 || !model.n[n].used || tree_names(&model, n))
		return;
	if (!is_held(n)) {
		if (reader.dir == n)
			reader.dir = 0;
		tree_drop(&model, n);
	} else if (is_dir(n)) {
		model.n[n].dead = true;
		model.n[n].parent = 0;
	}
}

static void settle_all(void)
{
	for (unsigned n = 2; n < model.count; n++)
		settle((int)n);
}

static void put_child(int dir, int name, int n)
{
	model.n[dir].child[name] = (int16_t)n;
	if (is_dir(n))
		model.n[n].parent = (int16_t)dir;
	if (reader.dir == dir)
		reader.ever |= 1u << name;
}

static void take_child(int dir, int name)
{
	int n = model.n[dir].child[name];

	model.n[dir].child[name] = NO_CHILD;
	if (reader.dir == dir)
		reader.always &= ~(1u << name);
	if (n > 0)
		settle(n);
}

/* The attributes in an answer fit. */
static void check_attr(int n, const struct statx *stx)
{
	const struct node *m = &model.n[n];

	HOLDS(stx->stx_mode == m->mode && stx->stx_uid == m->uid && stx->stx_gid == m->gid);
	HOLDS(S_ISDIR(m->mode) || stx->stx_size == m->size);
	HOLDS(!m->fresh || stx->stx_nlink == tree_names(&model, n));
}

/* What may be different after a change. */
enum { MODE = 1, OWNER = 2, SIZE = 4, CAP = 8, ACL = 16, XATTR = 32 };

/* Where an override calls a mode one thing and the file's ACL another, a copy without override makes one of them. */
static bool is_acl_ambiguous(void)
{
	for (unsigned l = 1; l < fuzz_ov->nlayers && fuzz_ov->override == OV_OVERRIDE_NONE; l++)
		if (fuzz_ov->layers[l].override != OV_OVERRIDE_NONE)
			return true;
	return false;
}

static void expect(int n, unsigned what)
{
	struct node old = model.n[n], *now = &model.n[n];

	view_refresh(&model, n);
	TRACE("  now %d: mode %o owner %u:%u size %llu\n", n, now->mode, now->uid, now->gid, (unsigned long long)now->size);
	if (old.guarded)
		return;
	HOLDS((what & MODE) || now->mode == old.mode);
	if (is_acl_ambiguous())
		what |= ACL;
	if (view_is_bare_link(now))
		what |= OWNER | XATTR;
	HOLDS((what & OWNER) || (now->uid == old.uid && now->gid == old.gid));
	HOLDS((what & SIZE) || now->size == old.size);
	HOLDS(now->ino == old.ino || ino_moved[now->nodeid]);
	for (int x = 0; x < XATTRS && !(what & XATTR); x++) {
		if (now->xattrs[x] != old.xattrs[x])
			TRACE("  xattr %d is another: %llx, was %llx\n", x, (unsigned long long)now->xattrs[x],
			      (unsigned long long)old.xattrs[x]);
		HOLDS(now->xattrs[x] == old.xattrs[x] || (x == XATTR_CAPABILITY && (what & CAP)) ||
		      (x <= XATTR_ACL_DEFAULT && (what & ACL)));
	}
	HOLDS((what & XATTR) || now->other_xattrs == old.other_xattrs);
}

/* N, which was not held, is known by this answer again. */
static void bind(int n, const struct ov_entry *e)
{
	for (unsigned k = 1; k < model.count; k++)
		HOLDS(!model.n[k].used || !is_held((int)k) || model.n[k].nodeid != e->nodeid);
	TRACE("  node %d again, nodeid %d, ino %d, was %d\n", n, (int)e->nodeid, (int)e->attr.stx_ino, (int)model.n[n].ino);
	if ((is_reg(n) || is_dir(n)) && !ino_moved[model.n[n].nodeid]) /* others may have no room for their origin */
		HOLDS(model.n[n].ino == e->attr.stx_ino);
	model.n[n].nodeid = e->nodeid;
	model.n[n].ino = e->attr.stx_ino;
}

/* Look NAME up in DIR, which is held. The node, NO_CHILD, or BROKEN_CHILD. */
static int look_up(int dir, int name)
{
	int n = model.n[dir].child[name], r;
	struct ov_entry e = {0};

	r = ov_lookup(fuzz_ov, inode(dir), fuzz_names[name], &e);
	HOLDS(is_plausible(r));
	if (n == BROKEN_CHILD) {
		HOLDS(r < 0);
		return n;
	}
	HOLDS(r == 0);
	HOLDS((n != NO_CHILD) == (e.nodeid != 0));
	if (n == NO_CHILD)
		return n;
	if (is_held(n)) {
		HOLDS(model.n[n].nodeid == e.nodeid);
	} else {
		bind(n, &e);
	}
	view_hold(e.nodeid);
	check_attr(n, &e.attr);
	return n;
}

/* Have the kernel hold N. False: it cannot be reached any more. */
static bool know(int n)
{
	int parent, name;

	if (is_held(n))
		return true;
	if (!tree_name_of(&model, n, &parent, &name) || !know(parent))
		return false;
	return look_up(parent, name) == n && !fuzz_give_up;
}

/* ---- choosing ---- */

static int pick(unsigned sel, bool (*fit)(int n))
{
	int found[NODES_MAX];
	unsigned count = 0;

	for (unsigned n = 1; n < model.count; n++)
		if (model.n[n].used && (!fit || fit((int)n)))
			found[count++] = (int)n;
	return count && know(found[sel % count]) ? found[sel % count] : 0;
}

static bool is_mode_changeable(int n)
{
	return !S_ISLNK(model.n[n].mode);
}

/* A directory; now and then something else, for calls that say ENOTDIR themselves. */
static int pick_dir(unsigned sel, bool may_be_wrong)
{
	return may_be_wrong ? pick(sel, NULL) : pick(sel, is_dir);
}

/* A name and what it leads to; looked up, unless the kernel would know without. */
static int pick_child(int dir, unsigned sel, int *name)
{
	int n;

	*name = (int)((sel & 15) % NAMES);
	if (fuzz_ov->whiteout_kind == OV_WH_OCI && strncmp(fuzz_names[*name], ".wh.", 4) == 0)
		*name = 0; /* such names cannot be told from deletions */
	n = is_dir(dir) ? model.n[dir].child[*name] : NO_CHILD;
	if (is_dir(dir) && ((sel & 16) || n == BROKEN_CHILD || (n > 0 && !is_held(n))))
		n = look_up(dir, *name);
	return n;
}

/* ---- calls ---- */

/* A new object: R and E are the answer. */
static void created(int dir, int name, int r, mode_t type, const struct ov_entry *e)
{
	int n;

	HOLDS(is_plausible(r));
	if (layers_read_only(input) || !is_dir(dir) || model.n[dir].dead)
		HOLDS(r < 0);
	if (r < 0) {
		HOLDS(r != -EEXIST || has_hidden_names());
		HOLDS(r != -ENOENT || model.n[dir].dead);
		HOLDS(r != -ENOTDIR || !is_dir(dir));
		return;
	}
	HOLDS(e->nodeid > OV_ROOT_ID && !fuzz_held[e->nodeid % NODEIDS_MAX]);
	view_hold(e->nodeid);
	n = tree_add(&model);
	if (!n || fuzz_give_up)
		return;
	TRACE("  made %.20s in %d: %d, nodeid %d\n", name < 0 ? "" : fuzz_names[name], dir, n, (int)e->nodeid);
	model.n[n].nodeid = e->nodeid;
	model.n[n].fresh = type != S_IFDIR;
	HOLDS((e->attr.stx_mode & S_IFMT) == type);
	model.n[n].mode = e->attr.stx_mode;
	if (name >= 0)
		put_child(dir, name, n);
	view_refresh(&model, n);
	view_refresh_data(&model, n);
	check_attr(n, &e->attr);
	HOLDS(type == S_IFLNK || model.n[n].size == 0);
}

static void call_create(const uint8_t *c)
{
	static const mode_t types[] = {S_IFREG, S_IFREG, S_IFREG, S_IFIFO, S_IFCHR, S_IFBLK, S_IFSOCK, 0};
	struct ov_cred cred = {.uid = c[4] & 3, .gid = c[5] & 3, .umask = c[3] & 0x80 ? 022 : 0};
	mode_t perm = (c[3] & 0x40) ? 07777 : 0644, type;
	struct ov_entry e = {0};
	int dir = pick_dir(c[1], c[2] > 240), name, r;

	if (!dir || pick_child(dir, c[2], &name) != NO_CHILD)
		return;
	switch (c[0] & 3) {
	case 0:
	case 1:
		type = types[c[3] & 7];
		r = ov_mknod(fuzz_ov, inode(dir), fuzz_names[name], type | perm, S_ISCHR(type) ? c[4] : 5, &cred, &e);
		HOLDS(!S_ISCHR(type) || c[4] || r < 0); /* that would be a whiteout */
		created(dir, name, r, type ? type : S_IFREG, &e);
		break;
	case 2:
		r = ov_mkdir(fuzz_ov, inode(dir), fuzz_names[name], perm, &cred, &e);
		created(dir, name, r, S_IFDIR, &e);
		break;
	default:
		r = ov_symlink(fuzz_ov, inode(dir), fuzz_names[name], fuzz_names[(c[4] >> 2) % NAMES], &cred, &e);
		created(dir, name, r, S_IFLNK, &e);
	}
}

static void call_tmpfile(const uint8_t *c)
{
	struct ov_cred cred = {.uid = c[4] & 3, .gid = c[5] & 3};
	int dir = pick_dir(c[1], false), r;
	struct ov_entry e = {0};

	if (!dir || model.n[dir].dead)
		return;
	r = ov_tmpfile(fuzz_ov, inode(dir), 0644 | (c[3] & 07) << 9, &cred, &e);
	created(dir, -1, r, S_IFREG, &e);
}

static void call_link(const uint8_t *c)
{
	int dir = pick_dir(c[1], c[2] > 240), n = dir ? pick(c[3], NULL) : 0, name, r;
	struct ov_entry e = {0};
	struct statx before = {0};
	bool was_fresh, named;

	if (!n || pick_child(dir, c[2], &name) != NO_CHILD)
		return;
	named = tree_names(&model, n) || ov_inode_is(inode(n), OV_I_TMPFILE) ||
		(ov_getattr(fuzz_ov, inode(n), &before) == 0 && before.stx_nlink > 0); /* by names that the view does not show */
	r = ov_link(fuzz_ov, inode(n), inode(dir), fuzz_names[name], &e);
	TRACE("  link %d as %d/%.20s: %d\n", n, dir, fuzz_names[name], r);
	HOLDS(is_plausible(r));
	if (layers_read_only(input) || !is_dir(dir) || model.n[dir].dead || is_dir(n) || !named)
		HOLDS(r < 0);
	if (r < 0) {
		HOLDS(r != -EEXIST || has_hidden_names());
		HOLDS(r != -ENOENT || model.n[dir].dead || !tree_names(&model, n));
		return;
	}
	HOLDS(e.nodeid == model.n[n].nodeid);
	view_hold(e.nodeid);
	was_fresh = model.n[n].fresh;
	put_child(dir, name, n);
	expect(n, ACL);
	HOLDS(!was_fresh || model.n[n].nlink == tree_names(&model, n));
	check_attr(n, &e.attr);
}

static bool is_empty(int dir)
{
	for (int k = 0; k < NAMES; k++)
		if (model.n[dir].child[k] != NO_CHILD)
			return false;
	return true;
}

static void call_remove(const uint8_t *c, bool rmdir)
{
	int dir = pick_dir(c[1], c[2] > 240), name, n, r;

	if (!dir)
		return;
	n = pick_child(dir, c[2], &name);
	if (n == BROKEN_CHILD)
		return;
	if (n > 0 && (c[3] & 3)) /* mostly the call that fits */
		rmdir = is_dir(n);
	r = rmdir ? ov_rmdir(fuzz_ov, inode(dir), fuzz_names[name]) : ov_unlink(fuzz_ov, inode(dir), fuzz_names[name]);
	TRACE("  remove %d/%.20s (%d): %d\n", dir, fuzz_names[name], n, r);
	HOLDS(is_plausible(r));
	if (layers_read_only(input) || n == NO_CHILD || rmdir != is_dir(n) || (rmdir && !is_empty(n)))
		HOLDS(r < 0);
	if (r < 0) {
		HOLDS(n == NO_CHILD || (r != -ENOENT && r != -ENODATA));
		HOLDS(r != -ENOTEMPTY || (n > 0 && !is_empty(n)));
		return;
	}
	if (n > 0 && is_held(n) && !is_dir(n) && tree_names(&model, n) > 1) {
		take_child(dir, name);
		expect(n, 0);
		HOLDS(!model.n[n].fresh || model.n[n].nlink == tree_names(&model, n));
		return;
	}
	take_child(dir, name);
	if (model.n[n].used && !is_dir(n))
		expect(n, 0);
}

/* Would the VFS ask for this? */
static bool may_rename(int olddir, int old, int newdir, int new, unsigned flags)
{
	if (!is_dir(olddir) || !is_dir(newdir) || model.n[newdir].dead || model.n[olddir].dead)
		return false;
	if (old > 0 && is_dir(old) && tree_is_inside(&model, newdir, old))
		return false;
	if (new > 0 && is_dir(new) && tree_is_inside(&model, olddir, new))
		return false;
	return !(old > 0 && new > 0 && old == new && is_dir(old)) && flags < 8;
}

static void renamed(int olddir, int oldname, int newdir, int newname, unsigned flags)
{
	int old = model.n[olddir].child[oldname], new = model.n[newdir].child[newname];

	if (old == new)
		return;
	model.n[olddir].child[oldname] = NO_CHILD; /* not take_child(): it is not without a name */
	if (reader.dir == olddir)
		reader.always &= ~(1u << oldname);
	if (flags & RENAME_EXCHANGE)
		put_child(olddir, oldname, new);
	if (new > 0 && reader.dir == newdir)
		reader.always &= ~(1u << newname); /* the name may be told before or after */
	put_child(newdir, newname, old);
	if (new > 0)
		settle(new);
}

static void call_rename(const uint8_t *c)
{
	int olddir = pick_dir(c[1], false), newdir = olddir ? pick_dir(c[3], false) : 0, oldname, newname, old, new, r;
	static const unsigned all_flags[] = {0, 0, 0, 0, RENAME_EXCHANGE, RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT};
	unsigned flags = all_flags[c[5] & 7] | ((c[5] & 0xf8) == 0xf8 ? c[4] : 0);

	if (!newdir)
		return;
	old = pick_child(olddir, c[2], &oldname);
	new = pick_child(newdir, c[4], &newname);
	if (old == BROKEN_CHILD || new == BROKEN_CHILD || !may_rename(olddir, old, newdir, new, flags))
		return;
	r = ov_rename(fuzz_ov, inode(olddir), fuzz_names[oldname], inode(newdir), fuzz_names[newname], flags);
	TRACE("  rename %d/%.20s (%d) %d/%.20s (%d) flags %u: %d\n", olddir, fuzz_names[oldname], old, newdir,
	      fuzz_names[newname], new, flags, r);
	HOLDS(is_plausible(r));
	if (layers_read_only(input) || old == NO_CHILD)
		HOLDS(r < 0);
	if ((flags & RENAME_EXCHANGE) && !new)
		HOLDS(r < 0);
	if (old && new && !(flags & RENAME_EXCHANGE) &&
	    (is_dir(old) != is_dir(new) || (flags & RENAME_NOREPLACE) || (is_dir(new) && !is_empty(new))))
		HOLDS(r < 0);
	if (r < 0) {
		HOLDS(r != -ENOENT || old == NO_CHILD || ((flags & RENAME_EXCHANGE) && !new));
		HOLDS(r != -EEXIST || (flags & RENAME_NOREPLACE) || has_hidden_names());
		if (new > 0 && is_dir(new))
			model.n[new].cut_off = true;
		return;
	}
	renamed(olddir, oldname, newdir, newname, flags);
	if (is_held(old))
		expect(old, 0);
	if (new > 0 && model.n[new].used && is_held(new) && new != old && !model.n[new].dead)
		expect(new, 0);
}

/* Offsets, lengths and sizes that are worth trying for a file of SIZE bytes. */
static off_t offset_of(unsigned sel, uint64_t size)
{
	const off_t o[] = {0, 1, (off_t)size, (off_t)size / 2, 4096, 100, 5000, (off_t)1 << 40, -1, INT64_MAX};

	return o[sel % (sel & 16 ? 10 : 7)];
}

static size_t length_of(unsigned sel)
{
	static const size_t l[] = {0, 1, 10, 100, 4096, 3000, 2000, 9000};

	return l[sel & 7];
}

/* The model's first bytes, as a write of BYTES (NULL: zeros) puts them. */
static void model_write(int n, off_t off, const uint8_t *bytes, size_t len, bool grow)
{
	struct node *m = &model.n[n];

	for (size_t k = 0; k < len && (uint64_t)off + k < DATA_MAX; k++)
		if (grow || (uint64_t)off + k < m->size)
			m->data[(size_t)off + k] = bytes ? bytes[k] : 0;
	if (grow && (uint64_t)off + len > m->size)
		m->size = (uint64_t)off + len;
}

static void model_truncate(int n, uint64_t size)
{
	struct node *m = &model.n[n];

	if (size < DATA_MAX)
		memset(m->data + size, 0, DATA_MAX - size);
	m->size = size;
}

static void after_data(int n, bool kill)
{
	expect(n, CAP | (kill ? MODE : 0));
	if (model.n[n].guarded)
		view_refresh_data(&model, n);
}

static void call_write(const uint8_t *c)
{
	static uint8_t bytes[16384];
	int n = pick(c[1], (c[2] & 0xf0) == 0xf0 ? NULL : is_reg);
	bool kill = c[2] & 1;
	ssize_t r;
	off_t off;
	size_t len;

	if (!n)
		return;
	off = offset_of(c[3], model.n[n].size);
	len = length_of(c[4]);
	for (size_t k = 0; k < len; k++)
		bytes[k] = (uint8_t)(c[5] + k);
	r = ov_write(fuzz_ov, inode(n), bytes, len, off, kill, c[2] & 2);
	TRACE("  write %d, %zu at %lld: %zd\n", n, len, (long long)off, r);
	HOLDS(is_plausible(r) && r <= (ssize_t)len);
	if (layers_read_only(input) || !is_reg(n) || (off < 0 && len > 0))
		HOLDS(r < 0);
	if (r < 0) { /* privileges may be gone already, as in the kernel */
		expect(n, MODE | CAP);
		return;
	}
	HOLDS((size_t)r == len || off > DATA_MAX || model.n[n].guarded);
	if (r > 0)
		model_write(n, off, bytes, (size_t)r, true);
	after_data(n, kill);
}

static void call_read(const uint8_t *c)
{
	static uint8_t bytes[16384];
	int n = pick(c[1], (c[2] & 0xf0) == 0xf0 ? NULL : is_reg);
	ssize_t r;
	off_t off;
	size_t len;

	if (!n)
		return;
	off = offset_of(c[3], model.n[n].size);
	len = length_of(c[4]);
	r = ov_read(fuzz_ov, inode(n), bytes, len, off);
	HOLDS(is_plausible(r) && r <= (ssize_t)len);
	HOLDS(is_reg(n) || r < 0);
	if (r < 0 || off < 0 || ov_inode_is(inode(n), OV_I_METACOPY))
		return;
	HOLDS((uint64_t)off + (uint64_t)r <= model.n[n].size || r == 0);
	TRACE("  read %d, %zu at %lld: %zd\n", n, len, (long long)off, r);
	HOLDS((size_t)r == len || (uint64_t)off + (uint64_t)r >= model.n[n].size);
	for (ssize_t k = 0; k < r && off + k < DATA_MAX; k++)
		HOLDS(bytes[k] == model.n[n].data[off + k]);
}

static void call_fallocate(const uint8_t *c)
{
	static const int modes[] = {0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE,
				    FALLOC_FL_COLLAPSE_RANGE, 0x8000};
	int n = pick(c[1], (c[2] & 0xf0) == 0xf0 ? NULL : is_reg), mode = modes[c[5] % 6], r;
	off_t off, len = (off_t)length_of(c[4]);

	if (!n)
		return;
	off = offset_of(c[3] & 15, model.n[n].size);
	if (off > 65536)
		off = 8192; /* it takes room */
	r = ov_fallocate(fuzz_ov, inode(n), mode, off, len, c[2] & 1);
	TRACE("  fallocate %d mode %x at %lld, %lld: %d\n", n, mode, (long long)off, (long long)len, r);
	HOLDS(is_plausible(r));
	HOLDS(r < 0 || (is_reg(n) && !layers_read_only(input)));
	if (r < 0)
		return;
	if (mode == 0 && (uint64_t)(off + len) > model.n[n].size)
		model.n[n].size = (uint64_t)(off + len);
	else if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
		model_write(n, off, NULL, (size_t)len, !(mode & FALLOC_FL_KEEP_SIZE));
	else if (mode & FALLOC_FL_COLLAPSE_RANGE)
		view_refresh_data(&model, n);
	after_data(n, c[2] & 1);
}

static void call_copy_range(const uint8_t *c)
{
	int in = pick(c[1], (c[2] & 0xf0) == 0xf0 ? NULL : is_reg), out = in ? pick(c[3], is_reg) : 0;
	static uint8_t bytes[16384];
	off_t from, to;
	size_t len = length_of(c[4] >> 4);
	ssize_t r;

	if (!in || !out)
		return;
	from = offset_of(c[4] & 15, model.n[in].size);
	to = offset_of(c[5] & 15, model.n[out].size);
	if (from < 0 || to < 0 || (uint64_t)from > 65536 || (uint64_t)to > 65536)
		return; /* checked by the VFS, or slow */
	memset(bytes, 0, sizeof(bytes));
	if (is_reg(in) && (uint64_t)from + len <= DATA_MAX)
		memcpy(bytes, model.n[in].data + from, len);
	r = ov_copy_range(fuzz_ov, inode(in), from, inode(out), to, len, c[2] & 1);
	TRACE("  copy range %d at %lld to %d at %lld, %zu: %zd\n", in, (long long)from, out, (long long)to, len, r);
	HOLDS(is_plausible(r) && r <= (ssize_t)len);
	HOLDS(r < 0 || (is_reg(in) && !layers_read_only(input)));
	if (r < 0)
		return;
	HOLDS(r == 0 || (uint64_t)from + (uint64_t)r <= model.n[in].size);
	if (r > 0)
		model_write(out, to, bytes, (size_t)r, true);
	after_data(out, c[2] & 1);
	if ((uint64_t)from + len > DATA_MAX)
		view_refresh_data(&model, out);
}

static void call_truncate(const uint8_t *c)
{
	int n = pick(c[1], (c[2] & 0xf0) == 0xf0 ? NULL : is_reg), r;
	struct ov_setattr set = {.valid = OV_SET_SIZE | (c[2] & 1 ? OV_SET_KILL_SUIDGID : 0)};
	struct statx stx;

	if (!n)
		return;
	set.size = offset_of(c[3], model.n[n].size);
	r = ov_setattr(fuzz_ov, inode(n), &set, &stx);
	TRACE("  truncate %d to %lld: %d\n", n, (long long)set.size, r);
	HOLDS(is_plausible(r));
	HOLDS(r < 0 || (is_reg(n) && set.size >= 0 && !layers_read_only(input)));
	if (r < 0)
		return;
	HOLDS((off_t)stx.stx_size == set.size);
	model_truncate(n, (uint64_t)set.size);
	after_data(n, c[2] & 1);
	check_attr(n, &stx);
}

static void call_setattr(const uint8_t *c)
{
	int n = pick(c[1], c[3] & 1 ? is_mode_changeable : NULL), r;
	struct ov_setattr set = {.mode = (mode_t)(c[4] << 4 | c[5]) & 07777, .uid = c[4] & 7, .gid = c[5] & 7};
	struct statx stx;

	if (!n)
		return;
	set.valid = c[3] & (OV_SET_MODE | OV_SET_UID | OV_SET_GID | OV_SET_ATIME | OV_SET_MTIME);
	if (c[3] & 128)
		set.valid = OV_SET_OWNER_AGAIN;
	set.atime = set.mtime = (struct timespec){.tv_sec = c[4] * 1000, .tv_nsec = c[5]};
	if (c[2] & 1)
		set.mtime = (struct timespec){.tv_nsec = UTIME_NOW};
	r = ov_setattr(fuzz_ov, inode(n), &set, &stx);
	TRACE("  setattr %d valid %x: %d\n", n, set.valid, r);
	HOLDS(is_plausible(r) && (r != -ENOENT || model.n[n].dead));
	if (r < 0) {
		expect(n, MODE | OWNER | CAP | ACL); /* a part may be done */
		return;
	}
	HOLDS(!layers_read_only(input) || !set.valid || set.valid == OV_SET_MTIME);
	expect(n, (set.valid ? CAP : 0) | (set.valid & OV_SET_MODE ? MODE | ACL : 0) |
			  (set.valid & (OV_SET_UID | OV_SET_GID) ? OWNER | MODE : 0) |
			  (set.valid & OV_SET_OWNER_AGAIN ? MODE : 0));
	if ((set.valid & OV_SET_MODE) && is_mode_changeable(n) && !(set.valid & (OV_SET_UID | OV_SET_GID)))
		HOLDS((model.n[n].mode & 0777) == (set.mode & 0777));
	if ((set.valid & OV_SET_MTIME) && !(c[2] & 1) && !model.n[n].guarded &&
	    ov_inode_is(inode(n), OV_I_UPPER)) /* the flush of a time where nothing can be copied up passes */
		HOLDS(stx.stx_mtime.tv_sec == set.mtime.tv_sec && stx.stx_mtime.tv_nsec == set.mtime.tv_nsec);
	check_attr(n, &stx);
}

static void call_xattr(const uint8_t *c)
{
	static uint8_t value[512], back[65536];
	int n = pick(c[1], NULL);
	unsigned x = c[3] % XATTRS;
	size_t len;
	ssize_t r;

	if (!n)
		return;
	if (c[2] & 1) {
		r = ov_removexattr(fuzz_ov, inode(n), fuzz_xattrs[x]);
		HOLDS(is_plausible(r) && r <= 0 && (r != -ENOENT || model.n[n].dead));
		if (r == 0)
			expect(n, XATTR | (x <= XATTR_ACL_DEFAULT ? MODE : 0));
		HOLDS(r < 0 || !model.n[n].xattrs[x]);
		return;
	}
	len = fuzz_xattr_value(x, c[4], value);
	r = ov_setxattr(fuzz_ov, inode(n), fuzz_xattrs[x], value, len, (c[5] & 3) % 3, (c[5] & 4) && x <= 1);
	HOLDS(is_plausible(r) && r <= 0 && (r != -ENOENT || model.n[n].dead));
	if (r < 0)
		return;
	HOLDS(!layers_read_only(input));
	HOLDS((c[5] & 3) != XATTR_CREATE || !model.n[n].xattrs[x] || x <= XATTR_ACL_DEFAULT); /* no flags for these */
	HOLDS((c[5] & 3) != XATTR_REPLACE || model.n[n].xattrs[x] || x <= XATTR_ACL_DEFAULT);
	expect(n, XATTR | (x <= XATTR_ACL_DEFAULT ? MODE : 0));
	if (x <= XATTR_CAPABILITY)
		return; /* the kernel has its own way to keep these */
	r = ov_getxattr(fuzz_ov, inode(n), fuzz_xattrs[x], back, sizeof(back));
	HOLDS(r == (ssize_t)len && memcmp(back, value, len) == 0);
}

static void call_ioctl(const uint8_t *c)
{
	static const unsigned cmds[] = {FS_IOC_SETFLAGS,   FS_IOC_GETFLAGS,   FS_IOC_FSGETXATTR,
					FS_IOC_GETVERSION, FS_IOC_FSSETXATTR, 99};
	static const int flags[] = {0, FS_NODUMP_FL, FS_APPEND_FL, FS_IMMUTABLE_FL};
	int n = pick(c[1], NULL), r;
	char in[64] = {0}, out[64];
	size_t out_size = c[5] & 63;

	if (!n)
		return;
	memcpy(in, &flags[c[4] & 3], sizeof(int));
	r = ov_ioctl(fuzz_ov, inode(n), cmds[c[3] % 6], in, c[2] & 63, out, &out_size);
	HOLDS(is_plausible(r) && out_size <= 63);
	if (r == 0 && (c[3] % 6 == 0 || c[3] % 6 == 4))
		model.n[n].guarded = true;
	expect(n, 0);
}

/* Calls that change nothing, with whatever is there. */
static void call_look(const uint8_t *c)
{
	char buf[PATH_MAX], name[400];
	int n = pick(c[1], c[3] & 1 ? is_link : NULL);
	struct ov_entry e = {0};
	struct statvfs st;
	struct statx stx;
	ssize_t r;

	if (!n)
		return;
	switch (c[4] % 8) {
	case 0:
		HOLDS(ov_getattr(fuzz_ov, inode(n), &stx) == 0);
		check_attr(n, &stx);
		break;
	case 1:
		r = ov_readlink(fuzz_ov, inode(n), buf, sizeof(buf));
		HOLDS(is_plausible(r) && (r < 0 || is_link(n)));
		break;
	case 2: /* a name that no file can have */
		memset(name, 'x', 300 + c[5]  % 99);
		name[300 + c[5] % 99] = '\0';
		r = ov_lookup(fuzz_ov, inode(n), name, &e);
		HOLDS(r == (is_dir(n) ? -ENAMETOOLONG : -ENOTDIR) || (r == 0 && !e.nodeid));
		break;
	case 3:
		r = ov_lseek(fuzz_ov, inode(n), offset_of(c[5], model.n[n].size), c[2] & 1 ? SEEK_DATA : SEEK_HOLE);
		HOLDS(is_plausible(r) && (r < 0 || is_reg(n)));
		break;
	case 4:
		r = ov_fsync_inode(fuzz_ov, inode(n), c[5] & 1);
		HOLDS(r == 0 || r == -EACCES);
		break;
	case 5:
		HOLDS(ov_statfs(fuzz_ov, &st) == 0 && ov_sync(fuzz_ov) == 0);
		HOLDS(ov_print_state(fuzz_ov, buf, sizeof(buf)) < sizeof(buf));
		break;
	case 6:
		/* room for a name at least */
		HOLDS(strlen(ov_path(fuzz_ov, model.n[n].nodeid, buf, 260 + c[5])) < 260u + c[5] || !tree_names(&model, n));
		break;
	default:
		HOLDS(!ov_inode_get(fuzz_ov, 1u << 30 | c[5]));
		if (c[5] & 1)
			ov_fdcache_trim(&fuzz_ov->fds);
		if (is_dir(n) && (c[5] & 2))
			ov_listing_drop(fuzz_ov, inode(n));
	}
}

static bool reader_fits(void *arg OV_UNUSED, const char *name OV_UNUSED)
{
	return reader.room > 0;
}

static bool reader_fill(void *arg OV_UNUSED, const char *name, const struct ov_entry *e, uint64_t next)
{
	int k = fuzz_name_number(name);

	HOLDS(reader.room-- > 0 && next > reader.cookie);
	reader.cookie = next;
	if (name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2])))
		return true;
	HOLDS(k >= 0 && !(reader.seen & 1u << k) && (reader.ever & 1u << k));
	reader.seen |= 1u << k;
	if (!reader.plus || !e->nodeid)
		return true;
	HOLDS(model.n[reader.dir].child[k] > 0);
	if (is_held(model.n[reader.dir].child[k]))
		HOLDS(model.n[model.n[reader.dir].child[k]].nodeid == e->nodeid);
	else
		bind(model.n[reader.dir].child[k], e);
	view_hold(e->nodeid);
	check_attr(model.n[reader.dir].child[k], &e->attr);
	return true;
}

/* The thread that reads directories ahead (the front's) may be at work between any two calls. */
static void look_ahead(const uint8_t *c)
{
	fuzz_ov->ahead.steps = 16; /* as if enough of a walk had been seen */
	for (unsigned n = 1 + ((c[3] ^ c[5]) & 3); n > 1 && ov_ahead_work(fuzz_ov); n--)
		;
}

/* Some entries of a listing; it goes on where it was if there is one begun. */
static void call_readdir(const uint8_t *c)
{
	uint64_t before;
	int n;

	if (!reader.dir || (c[5] & 0xf0) == 0xf0) {
		n = pick_dir(c[1], c[2] > 240);
		if (!n)
			return;
		if (!is_dir(n)) {
			HOLDS(ov_readdir(fuzz_ov, inode(n), 0, c[3] & 1, reader_fits, reader_fill, NULL) == -ENOTDIR);
			return;
		}
		memset(&reader, 0, sizeof(reader));
		reader.dir = n;
		reader.nodeid = model.n[n].nodeid;
		for (int k = 0; k < NAMES; k++)
			reader.always |= model.n[n].child[k] != NO_CHILD ? 1u << k : 0;
		reader.ever = reader.always;
	}
	if (!is_held(reader.dir) || model.n[reader.dir].nodeid != reader.nodeid) {
		reader.dir = 0;
		return;
	}
	reader.plus = c[3] & 1;
	reader.room = 1 + (c[4] & 7);
	before = reader.cookie;
	HOLDS(ov_readdir(fuzz_ov, inode(reader.dir), reader.cookie, reader.plus, reader_fits, reader_fill, NULL) == 0);
	if (reader.cookie == before) { /* the end */
		HOLDS((reader.always & ~reader.seen) == 0);
		reader.dir = 0;
	}
}

static void call_forget(const uint8_t *c)
{
	int n = pick(c[1], NULL);
	uint64_t id, count;

	if (n <= 1)
		return;
	id = model.n[n].nodeid;
	count = c[3] & 1 ? 1 : fuzz_held[id];
	ov_forget(fuzz_ov, id, count);
	fuzz_held[id] -= count;
	settle(n);
}

/* ---- opening, closing ---- */

static void note_attr(void *arg OV_UNUSED, uint64_t nodeid)
{
	HOLDS(nodeid < NODEIDS_MAX);
	ino_moved[nodeid] = true;
}

static void note_dir(void *arg OV_UNUSED, uint64_t nodeid)
{
	HOLDS(ov_inode_get(fuzz_ov, nodeid));
}

static bool open_overlay(void)
{
	const uint8_t *h = input->header;
	struct ov_config cfg;
	int r;

	layers_config(input, &cfg);
	r = ov_open(&fuzz_ov, &cfg, -1);
	ov_config_clear(&cfg);
	HOLDS(is_plausible(r) || r == -ESTALE || r == -ELOOP);
	if (r < 0)
		return false;
	memset(fuzz_held, 0, sizeof(fuzz_held));
	memset(ino_moved, 0, sizeof(ino_moved));
	fuzz_held[OV_ROOT_ID] = 1;
	ov_ahead_start(fuzz_ov);
	fuzz_ov->hooks.inval_attr = note_attr;
	fuzz_ov->hooks.inval_dir = note_dir;
	/* as a file system below with less to offer, or fewer descriptors, would have it */
	if ((h[3] & 7) > 4)
		fuzz_ov->fds.limit = h[3] & 3;
	if (((h[2] >> 3) & 3) == 2 && fuzz_ov->whiteout_kind == OV_WH_CHAR)
		fuzz_ov->whiteout_kind = OV_WH_XATTR;
	fuzz_ov->can_exchange &= !(h[2] & 32);
	fuzz_ov->can_rename_whiteout &= !(h[2] & 64);
	fuzz_ov->can_tmpfile &= !(h[3] & 8);
	fuzz_ov->whiteout_links &= !(h[2] & 128);
	return true;
}

/* The kernel forgets everything: nothing but the root is left, and no descriptor is in use. */
static void check_idle(void)
{
	view_forget_all();
	HOLDS(fuzz_ov->tab.nids == 1 && fuzz_ov->tab.ndents == 0 && fuzz_ov->tab.nkeys == 0);
	HOLDS(fuzz_ov->root->nlookup == 1 && fuzz_ov->root->refs == 0);
	ov_listing_drop(fuzz_ov, fuzz_ov->root);
	HOLDS(fuzz_ov->listing_bytes == 0 && !fuzz_ov->listings);
	ov_fdcache_trim(&fuzz_ov->fds);
	HOLDS(ov_fdcache_count(&fuzz_ov->fds) == 0);
}

static void close_overlay(void)
{
	bool is_volatile = fuzz_ov->cfg.volatile_;

	ov_close(fuzz_ov);
	fuzz_ov = NULL;
	layers_check_work(is_volatile);
}

/* What has no name any more, but is held, has its data still. */
static void check_nameless(void)
{
	for (unsigned n = 2; n < model.count; n++) {
		struct node *m = &model.n[n];
		uint8_t *data = m->data;

		if (!m->used || tree_names(&model, (int)n) || !is_reg((int)n) || m->guarded)
			continue;
		expect((int)n, 0);
		m->data = NULL;
		view_refresh_data(&model, (int)n);
		HOLDS(memcmp(data, m->data, m->size < DATA_MAX ? m->size : DATA_MAX) == 0);
		free(data);
	}
}

static bool use_plus(unsigned bit)
{
	return input->header[4] & bit;
}

/* Close and open: the view is the same. The model goes on with it if KEEP. */
static void call_reopen(bool keep)
{
	static struct tree now, later;

	if (fuzz_give_up)
		return;
	check_nameless();
	view_read(&now, use_plus(1));
	if (!fuzz_give_up) {
		view_compare(&model, &now, false);
		if (!keep || use_plus(2))
			check_idle();
		close_overlay();
		HOLDS(open_overlay());
		view_read(&later, use_plus(4));
	}
	if (!fuzz_give_up)
		view_compare(&now, &later, true);
	if (!fuzz_give_up && keep) {
		tree_clear(&model);
		model = later;
		memset(&later, 0, sizeof(later));
		reader.dir = 0;
	}
	tree_clear(&now);
	tree_clear(&later);
}

static void call(const uint8_t *c)
{
	TRACE("call %u (%u %u %u %u %u)\n", c[0] % 32, c[1], c[2], c[3], c[4], c[5]);
	switch (c[0] % 32) {
	case 0 ... 4:
		call_create(c);
		break;
	case 5:
		call_tmpfile(c);
		break;
	case 6 ... 7:
		call_link(c);
		break;
	case 8 ... 10:
		call_remove(c, false);
		break;
	case 11:
		call_remove(c, true);
		break;
	case 12 ... 15:
		call_rename(c);
		break;
	case 16 ... 17:
		call_write(c);
		break;
	case 18:
		call_read(c);
		break;
	case 19:
		call_fallocate(c);
		break;
	case 20:
		call_copy_range(c);
		break;
	case 21:
		call_truncate(c);
		break;
	case 22 ... 23:
		call_setattr(c);
		break;
	case 24 ... 25:
		call_xattr(c);
		break;
	case 26:
		call_ioctl(c);
		break;
	case 27:
		call_look(c);
		break;
	case 28 ... 29:
		call_readdir(c);
		break;
	case 30:
		call_forget(c);
		break;
	default:
		if (c[1] < 64)
			call_reopen(true);
		else
			call_forget(c);
	}
	look_ahead(c);
	settle_all();
}

static void run(void)
{
	if (!open_overlay())
		return;
	view_read(&model, use_plus(8));
	if (!fuzz_give_up && !use_plus(16))
		check_idle();
	for (size_t k = 0; k < input->ncalls && !fuzz_give_up; k++) {
		call(input->calls + k * CALL_LEN);
		HOLDS(pthread_rwlock_trywrlock(&fuzz_ov->ns) == 0); /* no lock is left behind */
		pthread_rwlock_unlock(&fuzz_ov->ns);
	}
	call_reopen(false);
	if (!fuzz_give_up)
		check_idle();
	close_overlay();
}

static bool decode(struct input *in, const uint8_t *data, size_t size)
{
	if (size < HEADER_LEN)
		return false;
	memcpy(in->header, data, HEADER_LEN);
	data += HEADER_LEN;
	size -= HEADER_LEN;
	in->records = data;
	in->nrecords = in->header[5] % (RECORDS_MAX + 1);
	if (in->nrecords > size / RECORD_LEN)
		in->nrecords = size / RECORD_LEN;
	in->calls = data + in->nrecords * RECORD_LEN;
	in->ncalls = (size - in->nrecords * RECORD_LEN) / CALL_LEN;
	if (in->ncalls > CALLS_MAX)
		in->ncalls = CALLS_MAX;
	return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static bool started;
	struct input in;
	uint64_t lowers;
	int fd, after;

	if (!decode(&in, data, size))
		return 0;
	if (!started)
		layers_start();
	started = true;
	fuzz_trace = getenv("OV_FUZZ_TRACE");
	ov_log_set_level(fuzz_trace ? OV_LOG_WARNING : OV_LOG_ERROR);
	input = &in;
	TRACE("layer: options %02x %02x %02x %02x %02x\n", in.header[0], in.header[1], in.header[2], in.header[3],
	      in.header[4]);
	fuzz_give_up = false;
	memset(&reader, 0, sizeof(reader));
	layers_make(&in);
	lowers = layers_fingerprint();
	fd = dup(0); /* the lowest that is free */
	close(fd);
	run();
	tree_clear(&model);
	after = dup(0);
	close(after);
	HOLDS(fd == after);
	HOLDS(layers_fingerprint() == lowers);
	layers_clean();
	return 0;
}

/* ---- variations that keep the records in step ---- */

static uint64_t random_state;

static unsigned random_below(unsigned n)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (unsigned)(random_state >> 11) % n;
}

/* Insert, remove, repeat or change one of COUNT records of LEN bytes at P, behind which TAIL bytes follow. The new count. */
static size_t vary_records(uint8_t *p, size_t count, size_t len, size_t tail, size_t max)
{
	size_t at = count ? random_below((unsigned)count) : 0;

	switch (count ? random_below(6) : 0) {
	case 0: /* a new one */
		if (count == max)
			return count;
		memmove(p + (at + 1) * len, p + at * len, (count - at) * len + tail);
		for (size_t k = 0; k < len; k++)
			p[at * len + k] = (uint8_t)random_below(256);
		return count + 1;
	case 1: /* one less */
		memmove(p + at * len, p + (at + 1) * len, (count - at - 1) * len + tail);
		return count - 1;
	case 2: /* one again */
		if (count == max)
			return count;
		memmove(p + (at + 1) * len, p + at * len, (count - at) * len + tail);
		p[(at + 1) * len + random_below((unsigned)len)] = (uint8_t)random_below(256);
		return count + 1;
	default:
		for (unsigned n = 1 + random_below(2); n; n--)
			p[at * len + random_below((unsigned)len)] = (uint8_t)random_below(256);
		return count;
	}
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
	uint8_t buf[HEADER_LEN + (RECORDS_MAX + 1) * RECORD_LEN + (CALLS_MAX + 1) * CALL_LEN] = {0};
	struct input in;
	uint8_t *calls;
	size_t n;

	random_state = seed * 2862933555777941757ull + 3037000493ull;
	if (LLVMFuzzerMutate && random_below(8) == 0)
		return LLVMFuzzerMutate(data, size, max_size);
	if (!decode(&in, data, size)) {
		memset(&in, 0, sizeof(in));
		in.header[5] = 0;
	}
	memcpy(buf, in.header, HEADER_LEN);
	if (in.nrecords)
		memcpy(buf + HEADER_LEN, in.records, in.nrecords * RECORD_LEN);
	calls = buf + HEADER_LEN + in.nrecords * RECORD_LEN;
	if (in.ncalls)
		memcpy(calls, in.calls, in.ncalls * CALL_LEN);
	for (unsigned rounds = 1 + random_below(3); rounds; rounds--) {
		switch (random_below(8)) {
		case 0:
			buf[random_below(HEADER_LEN - 1)] = (uint8_t)random_below(256);
			break;
		case 1:
		case 2:
			in.nrecords = vary_records(buf + HEADER_LEN, in.nrecords, RECORD_LEN, in.ncalls * CALL_LEN,
						   RECORDS_MAX);
			calls = buf + HEADER_LEN + in.nrecords * RECORD_LEN;
			break;
		default:
			in.ncalls = vary_records(calls, in.ncalls, CALL_LEN, 0, CALLS_MAX);
		}
	}
	buf[5] = (uint8_t)in.nrecords;
	n = HEADER_LEN + in.nrecords * RECORD_LEN + in.ncalls * CALL_LEN;
	n = n < max_size ? n : max_size;
	memcpy(data, buf, n);
	return n;
}

OV_FUZZ_COUNTED
