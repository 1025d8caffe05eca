/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The view as a tree in memory: read through the core, changed along with what is asked of it, compared. */

#include <linux/fs.h>
#include <string.h>

#include "core_fuzz.h"

OV_FUZZ_UNCOUNTED

struct overlay *fuzz_ov;
uint64_t fuzz_held[NODEIDS_MAX];
bool fuzz_give_up;

void tree_drop(struct tree *t, int n)
{
	free(t->n[n].data);
	free(t->n[n].target);
	memset(&t->n[n], 0, sizeof(t->n[n]));
}

void tree_clear(struct tree *t)
{
	for (unsigned n = 0; n < t->count; n++)
		tree_drop(t, (int)n);
	t->count = 1;
}

int tree_add(struct tree *t)
{
	unsigned n = 1;

	while (n < t->count && t->n[n].used)
		n++;
	if (n == NODES_MAX) {
		fuzz_give_up = true;
		return 0;
	}
	if (n == t->count)
		t->count++;
	memset(&t->n[n], 0, sizeof(t->n[n]));
	t->n[n].used = true;
	return (int)n;
}

bool tree_name_of(const struct tree *t, int n, int *parent, int *name)
{
	for (unsigned d = 1; d < t->count; d++)
		for (int k = 0; k < NAMES; k++)
			if (t->n[d].used && t->n[d].child[k] == n) {
				*parent = (int)d;
				*name = k;
				return true;
			}
	return false;
}

unsigned tree_names(const struct tree *t, int n)
{
	unsigned count = 0;

	for (unsigned d = 1; d < t->count; d++)
		for (int k = 0; k < NAMES; k++)
			count += t->n[d].used && t->n[d].child[k] == n;
	return count;
}

bool tree_is_inside(const struct tree *t, int dir, int ancestor)
{
	for (int hops = 0; dir > 0 && hops < NODES_MAX; hops++) {
		if (dir == ancestor)
			return true;
		dir = t->n[dir].parent;
	}
	return false;
}

void view_hold(uint64_t nodeid)
{
	if (nodeid >= NODEIDS_MAX)
		fuzz_give_up = true;
	else
		fuzz_held[nodeid]++;
}

void view_forget_all(void)
{
	for (uint64_t id = OV_ROOT_ID + 1; id < NODEIDS_MAX; id++) {
		if (!fuzz_held[id])
			continue;
		ov_forget(fuzz_ov, id, fuzz_held[id]);
		fuzz_held[id] = 0;
	}
}

static struct ov_inode *inode_of(const struct node *n)
{
	struct ov_inode *i = ov_inode_get(fuzz_ov, n->nodeid);

	HOLDS(i && i->nodeid == n->nodeid);
	return i;
}

static void take_attr(struct node *n, const struct statx *stx)
{
	n->mode = stx->stx_mode;
	n->uid = stx->stx_uid;
	n->gid = stx->stx_gid;
	n->size = S_ISDIR(stx->stx_mode) ? 0 : stx->stx_size;
	n->ino = stx->stx_ino;
	n->nlink = stx->stx_nlink;
	n->rdev_major = stx->stx_rdev_major;
	n->rdev_minor = stx->stx_rdev_minor;
	n->mtime = stx->stx_mtime.tv_sec * 1000000000 + stx->stx_mtime.tv_nsec;
	if (stx->stx_attributes & (STATX_ATTR_APPEND | STATX_ATTR_IMMUTABLE))
		n->guarded = true;
}

static void take_xattrs(struct node *n)
{
	static char list[65536], value[65536];
	struct ov_inode *i = inode_of(n);
	ssize_t len = ov_listxattr(fuzz_ov, i, true, list, sizeof(list)), want = ov_listxattr(fuzz_ov, i, true, NULL, 0);

	HOLDS(len == want);
	memset(n->xattrs, 0, sizeof(n->xattrs));
	n->other_xattrs = 0;
	if (fuzz_ov->cfg.noxattrs) {
		HOLDS(len == -EOPNOTSUPP);
		return;
	}
	HOLDS(len >= 0);
	for (const char *p = list; p < list + len; p += strlen(p) + 1) {
		ssize_t got = ov_getxattr(fuzz_ov, i, p, value, sizeof(value));
		uint64_t h;
		int x = 0;

		if (got < 0)
			TRACE("  no %s: %zd\n", p, got);
		HOLDS(got >= 0 || got == -EINVAL); /* an ACL whose ids have no place in the map */
		h = fuzz_hash(2, value, got < 0 ? 0 : (size_t)got) | 1;
		while (x < XATTRS && strcmp(p, fuzz_xattrs[x]) != 0)
			x++;
		if (x < XATTRS)
			n->xattrs[x] = h;
		else
			n->other_xattrs ^= fuzz_hash(h, p, strlen(p));
	}
}

void view_refresh(struct tree *t, int n)
{
	struct node *node = &t->n[n];
	struct statx stx;
	mode_t type = node->mode & S_IFMT;
	unsigned prot;

	HOLDS(ov_getattr(fuzz_ov, inode_of(node), &stx) == 0);
	take_attr(node, &stx);
	HOLDS(!type || (node->mode & S_IFMT) == type);
	pthread_rwlock_rdlock(&fuzz_ov->ns);
	prot = ov_protattr(fuzz_ov, inode_of(node));
	pthread_rwlock_unlock(&fuzz_ov->ns);
	if (prot)
		node->guarded = true;
	take_xattrs(node);
}

void view_refresh_data(struct tree *t, int n)
{
	struct node *node = &t->n[n];
	size_t want = node->size < DATA_MAX ? node->size : DATA_MAX;
	char target[PATH_MAX];
	ssize_t got;

	free(node->data);
	free(node->target);
	node->data = NULL;
	node->target = NULL;
	if (S_ISREG(node->mode)) {
		node->data = calloc(1, DATA_MAX + 1);
		got = ov_read(fuzz_ov, inode_of(node), node->data, DATA_MAX, 0);
		if (got < 0)
			TRACE("  cannot read %d: %zd\n", n, got);
		HOLDS(got >= 0);
		HOLDS((size_t)got == want || ov_inode_is(inode_of(node), OV_I_METACOPY));
	} else if (S_ISLNK(node->mode)) {
		got = ov_readlink(fuzz_ov, inode_of(node), target, sizeof(target) - 1);
		HOLDS(got >= 0 || got == -EINVAL); /* one by override_stat only, say */
		target[got > 0 ? got : 0] = '\0';
		node->target = strdup(target);
	}
}

/* ---- reading ---- */

struct listed {
	struct {
		int name;
		mode_t type;
		uint64_t ino;
		uint64_t nodeid;
	} e[NAMES];
	unsigned n, dots, room;
	uint64_t last;
	bool plus;
};

static bool fits(void *arg, const char *name OV_UNUSED)
{
	struct listed *l = arg;

	return l->room > 0;
}

static bool fill(void *arg, const char *name, const struct ov_entry *e, uint64_t next)
{
	struct listed *l = arg;

	HOLDS(l->room > 0);
	HOLDS(next > l->last);
	l->room--;
	l->last = next;
	if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0) {
		HOLDS(l->n == 0 && S_ISDIR(e->attr.stx_mode));
		l->dots++;
		return true;
	}
	HOLDS(l->dots == 2 && l->n < NAMES);
	HOLDS(fuzz_name_number(name) >= 0); /* nothing else was ever made */
	l->e[l->n].name = fuzz_name_number(name);
	l->e[l->n].type = e->attr.stx_mode & S_IFMT;
	l->e[l->n].ino = e->attr.stx_ino;
	l->e[l->n].nodeid = l->plus ? e->nodeid : 0;
	for (unsigned k = 0; k < l->n; k++)
		HOLDS(l->e[k].name != l->e[l->n].name);
	l->n++;
	if (l->plus && e->nodeid)
		view_hold(e->nodeid);
	return true;
}

static void list(struct ov_inode *dir, bool plus, struct listed *l)
{
	memset(l, 0, sizeof(*l));
	l->plus = plus;
	for (unsigned before = ~0u; before != l->n + l->dots;) {
		before = l->n + l->dots;
		l->room = 3 + before % 4; /* in several replies */
		HOLDS(ov_readdir(fuzz_ov, dir, l->last, plus, fits, fill, l) == 0);
		fuzz_ov->ahead.steps = 16;
		if (l->n % 3)
			(void)ov_ahead_work(fuzz_ov);
	}
	HOLDS(l->dots == 2);
}

static int find_nodeid(const struct tree *t, uint64_t nodeid)
{
	for (unsigned n = 1; n < t->count; n++)
		if (t->n[n].used && t->n[n].nodeid == nodeid)
			return (int)n;
	return 0;
}

static void read_dir(struct tree *t, int d, bool plus, int depth);

static void read_one(struct tree *t, int d, const struct listed *l, unsigned k, bool plus, int depth)
{
	struct ov_inode *dir = inode_of(&t->n[d]);
	int name = l->e[k].name, n;
	struct ov_entry e = {0};

	if (ov_lookup(fuzz_ov, dir, fuzz_names[name], &e) < 0) {
		HOLDS(!l->e[k].nodeid);
		TRACE("  view: %d/%.20s cannot be looked up\n", d, fuzz_names[name]);
		t->n[d].child[name] = BROKEN_CHILD;
		return;
	}
	HOLDS(e.nodeid);
	view_hold(e.nodeid);
	HOLDS(!l->e[k].nodeid || l->e[k].nodeid == e.nodeid);
	HOLDS((e.attr.stx_mode & S_IFMT) == l->e[k].type && e.attr.stx_ino == l->e[k].ino);
	n = find_nodeid(t, e.nodeid);
	if (n) {
		HOLDS(!S_ISDIR(e.attr.stx_mode));
		t->n[d].child[name] = (int16_t)n;
		return;
	}
	n = tree_add(t);
	if (!n)
		return;
	t->n[n].nodeid = e.nodeid;
	t->n[n].parent = (int16_t)d;
	t->n[d].child[name] = (int16_t)n;
	view_refresh(t, n);
	TRACE("  view: %d/%.20s is %d, mode %o, nodeid %d\n", d, fuzz_names[name], n, t->n[n].mode, (int)e.nodeid);
	HOLDS((e.attr.stx_mode == t->n[n].mode) && e.attr.stx_uid == t->n[n].uid && e.attr.stx_gid == t->n[n].gid);
	HOLDS(e.attr.stx_nlink == t->n[n].nlink);
	view_refresh_data(t, n);
	if (S_ISDIR(t->n[n].mode))
		read_dir(t, n, plus, depth + 1);
}

static void read_dir(struct tree *t, int d, bool plus, int depth)
{
	struct listed l;

	if (fuzz_give_up || depth > 12) {
		fuzz_give_up = true;
		return;
	}
	list(inode_of(&t->n[d]), plus, &l);
	for (unsigned k = 0; k < l.n && !fuzz_give_up; k++)
		read_one(t, d, &l, k, plus, depth);
}

void view_read(struct tree *t, bool plus)
{
	int root;

	tree_clear(t);
	root = tree_add(t);
	t->n[root].nodeid = OV_ROOT_ID;
	view_refresh(t, root);
	read_dir(t, root, plus, 0);
}

/* ---- comparing ---- */

struct comparison {
	const struct tree *want;
	struct tree *have;
	int pair[NODES_MAX], back[NODES_MAX];
	bool more;
};

static void compare_data(const struct node *w, const struct node *h)
{
	if (w->target && h->target)
		HOLDS(strcmp(w->target, h->target) == 0);
	if (w->data && h->data)
		HOLDS(memcmp(w->data, h->data, w->size < DATA_MAX ? w->size : DATA_MAX) == 0);
}

bool view_is_bare_link(const struct node *n)
{
	return S_ISLNK(n->mode) && fuzz_ov->override == OV_OVERRIDE_CONTAINERS;
}

static void compare_node(struct comparison *c, int wn, int hn)
{
	const struct node *w = &c->want->n[wn];
	struct node *h = &c->have->n[hn];

	HOLDS((!c->pair[wn] && !c->back[hn]) || (c->pair[wn] == hn && c->back[hn] == wn)); /* the same names for one file */
	if (c->pair[wn])
		return;
	c->pair[wn] = hn;
	c->back[hn] = wn;
	h->cut_off |= w->cut_off;
	TRACE("  compare %d, %d: mode %o %o owner %u:%u %u:%u size %llu %llu nlink %u %u ino %llu %llu\n", wn, hn, w->mode,
	      h->mode, w->uid, w->gid, h->uid, h->gid, (unsigned long long)w->size, (unsigned long long)h->size, w->nlink, h->nlink, (unsigned long long)w->ino,
	      (unsigned long long)h->ino);
	HOLDS(w->mode == h->mode);
	if (!view_is_bare_link(w))
		HOLDS(w->uid == h->uid && w->gid == h->gid);
	HOLDS(w->size == h->size);
	HOLDS(w->rdev_major == h->rdev_major && w->rdev_minor == h->rdev_minor);
	compare_data(w, h);
	for (int x = 0; x < XATTRS && !view_is_bare_link(w); x++)
		HOLDS(w->xattrs[x] == h->xattrs[x]);
	HOLDS(w->other_xattrs == h->other_xattrs || view_is_bare_link(w));
	if (c->more) {
		HOLDS(w->nlink == h->nlink || w->cut_off);
		HOLDS(w->mtime == h->mtime || w->guarded); /* written through an fd that is older than chattr +a */
		if (S_ISREG(w->mode) || S_ISDIR(w->mode)) /* others may have no room for the origin */
			HOLDS(w->ino == h->ino || w->cut_off);
	} else if (w->fresh) {
		HOLDS(h->nlink == tree_names(c->want, wn));
	}
	if (!S_ISDIR(w->mode))
		return;
	for (int k = 0; k < NAMES; k++) {
		HOLDS((w->child[k] > 0) == (h->child[k] > 0));
		HOLDS((w->child[k] < 0) == (h->child[k] < 0));
		if (w->child[k] > 0)
			compare_node(c, w->child[k], h->child[k]);
	}
}

void view_compare(const struct tree *want, struct tree *have, bool more)
{
	static struct comparison c;

	memset(&c, 0, sizeof(c));
	c.want = want;
	c.have = have;
	c.more = more;
	compare_node(&c, 1, 1);
}

OV_FUZZ_COUNTED
