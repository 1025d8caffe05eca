/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Lookup: which layers a name is found in, and the inode made of that. */

#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "core.h"
#include "format/metacopy.h"
#include "format/opaque.h"
#include "format/origin.h"
#include "format/redirect.h"
#include "format/whiteout.h"
#include "format/xattr_names.h"

/* A search on its way down the layers. */
struct search {
	struct overlay *ov;
	struct ov_found *f;
	const char *name;    /* what is looked for in the next layer; borrowed */
	char *redirect;      /* owner of NAME after a relative redirect, or of the absolute path */
	bool absolute;       /* REDIRECT is a path from the layers' roots */
	bool want_data;      /* the object was a metacopy: only its data is still looked for */
	bool refused;        /* there was a redirect that may not be followed: an error if it leads anywhere */
	bool stop;
	struct ov_fh origin; /* of an upper file; len 0: none */
};

void ov_found_clear(struct overlay *ov, struct ov_found *f)
{
	for (unsigned n = 0; n < f->nrdirs; n++)
		ov_rdir_unref(&ov->fds, f->rdirs[n]);
	free(f->rdirs);
	ov_rdir_unref(&ov->fds, f->rparent);
	free(f->rname);
	if (f->data) {
		ov_rdir_unref(&ov->fds, f->data->dir);
		free(f->data->name);
		free(f->data);
	}
	memset(f, 0, sizeof(*f));
}

int ov_probe_oci_whiteout(struct ov_rdir *rdir, int fd, const char *name)
{
	char wh[NAME_MAX + 1];
	struct statx stx;
	int r;

	if (ov_rdir_wh(rdir) == OV_WH_UNKNOWN)
		ov_learn_oci_names(rdir, fd);
	if (ov_rdir_wh(rdir) == OV_WH_NONE)
		return 0;
	if (ov_whiteout_oci_name(name, wh) < 0)
		return 0; /* a name too long to be hidden that way */
	r = ov_at_statx(ov_at_name(fd, wh), STATX_BASIC_STATS, &stx);
	if (r == -ENOENT || r == -ENAMETOOLONG)
		return 0;
	return r < 0 ? r : ov_whiteout_oci_is_real(ov_at_name(fd, wh), &stx);
}

/* A name on another file system mounted inside an uncloned layer is not part of the layer. */
static int check_mount_inside(const struct ov_layer *layer, int fd, const char *name)
{
	int r;

	if (!layer->careful)
		return 0;
	/* statx() would already walk onto our own mount and ask ourselves: openat2 with NO_XDEV does not */
	r = ov_at_open(ov_at_name(fd, name), O_PATH, 0);
	if (r >= 0) {
		close(r);
		return 0;
	}
	return r == -EXDEV ? -ENOENT : r;
}

int ov_probe(struct overlay *ov, struct ov_rdir *rdir, int fd, const char *name, struct statx *stx)
{
	struct ov_at at = ov_at_name(fd, name);
	int r = check_mount_inside(rdir->layer, fd, name);

	if (r < 0)
		return r;
	r = ov_statx_real(ov, rdir->layer, at, stx);
	if (r < 0)
		return r;
	if (ov_whiteout_is_char(stx))
		return 1;
	if (ov_layer_has_xwhiteouts(rdir->layer) && ov_whiteout_may_be_xattr(stx)) {
		r = ov_whiteout_has_xattr(at);
		if (r)
			return r;
	}
	if (ov_whiteout_oci_parse(name, NULL)) { /* what it is on disk counts, not what an xattr makes of it */
		struct statx raw = *stx;

		r = ov_at_statx(at, STATX_BASIC_STATS, &raw);
		if (r == 0)
			r = ov_whiteout_oci_is_real(at, &raw);
		if (r)
			return r < 0 ? r : -ENOENT; /* it hides another name and is none itself */
	}
	if ((stx->stx_attributes & STATX_ATTR_MOUNT_ROOT) && !rdir->layer->cloned)
		return -ENOENT;
	return 0;
}

/* Does ".wh.NAME" lie beside the directory AT, and hide what it merges with? Not what a redirect leads to: that has another name. */
static int oci_hides_below(const struct overlay *ov, struct ov_rdir *parent, int base_fd, const char *name)
{
	ov_cleanup_free char *redirect = NULL;
	int r = ov_probe_oci_whiteout(parent, base_fd, name);

	if (r <= 0)
		return r;
	r = ov_redirect_read(ov_at_name(base_fd, name), ov->xp, &redirect);
	return r < 0 ? r : !redirect;
}

/* Is the directory NAME (fd FD of BASE) opaque: xattr, marker file inside, or ".wh.NAME" beside it? 1, 0, -errno. */
static int dir_is_opaque(struct overlay *ov, struct ov_rdir *dir, int base_fd, const char *name)
{
	struct statx stx;
	int r = ov_opaque_read(ov_at_name(base_fd, name));

	if (r < 0)
		return r;
	if (r == OV_OPAQUE_YES)
		return 1;
	if (r == OV_OPAQUE_XWHITEOUTS)
		ov_layer_set_xwhiteouts(dir->layer); /* from here on its empty files are looked at, as in the kernel */
	r = oci_hides_below(ov, dir->parent, base_fd, name);
	if (r)
		return r;
	if (ov_rdir_wh(dir) == OV_WH_NONE)
		return 0;
	ov_cleanup_rfd struct ov_rfd f = ov_rfd_get(&ov->fds, dir);

	if (f.fd < 0)
		return f.fd == -EXDEV || f.fd == -EACCES ? 0 : f.fd;
	r = ov_at_statx(ov_at_name(f.fd, OV_OCI_OPAQUE_NAME), STATX_BASIC_STATS, &stx);
	if (r == -ENOENT || r == -EACCES)
		return 0;
	return r < 0 ? r : ov_whiteout_oci_is_real(ov_at_name(f.fd, OV_OCI_OPAQUE_NAME), &stx);
}

/*
 * Go on at VALUE (owned from now on): a path from the root, or a name in the directory of the path or name so far. REST: what
 * still follows it in the path, or NULL.
 */
static int apply_redirect(struct search *s, char *value, const char *prefix, size_t prefix_len, const char *rest)
{
	char *path = value;

	if (s->absolute && (value[0] != '/' || rest)) {
		const char *p = value[0] == '/' ? "" : prefix;
		int len = value[0] == '/' ? 0 : (int)prefix_len;
		int n = asprintf(&path, "%.*s%s%s%s%s", len, p, value[0] == '/' ? "" : "/", value, rest ? "/" : "",
				 rest ? rest : "");

		free(value);
		if (n < 0)
			return -ENOMEM;
	}
	free(s->redirect);
	s->redirect = path;
	if (path[0] == '/')
		s->absolute = true;
	else
		s->name = path;
	return 0;
}

/* Read the redirect of the object AT; it tells where to go on looking. */
static int read_redirect(struct search *s, struct ov_at at)
{
	char *value = NULL;
	const char *slash;
	int r = ov_redirect_read(at, s->ov->xp, &value);

	if (r < 0 || !value)
		return r;
	if (!s->ov->follow_redirect)
		s->refused = true;
	slash = s->absolute ? strrchr(s->redirect, '/') : NULL;
	return apply_redirect(s, value, s->redirect, slash ? (size_t)(slash - s->redirect) : 0, NULL);
}

/* Something was found where a refused redirect led. */
static int refuse(const struct search *s)
{
	ov_warn("refusing to follow the redirect to '%s': mount with redirect_dir=follow or on",
		s->redirect ? s->redirect : s->name);
	return -EPERM;
}

static int add_rdir(struct search *s, struct ov_rdir *dir)
{
	struct ov_found *f = s->f;
	struct ov_rdir **grown;

	if ((f->nrdirs & (f->nrdirs - 1)) == 0) { /* full at each power of two */
		grown = realloc(f->rdirs, (f->nrdirs ? 2 * f->nrdirs : 1) * sizeof(*grown));
		if (!grown)
			return -ENOMEM;
		f->rdirs = grown;
	}
	f->rdirs[f->nrdirs++] = ov_rdir_ref(dir);
	return 0;
}

static int visit_dir(struct search *s, struct ov_rdir *base, int fd, const char *name, const struct statx *stx, bool more)
{
	struct ov_found *f = s->f;
	struct ov_rdir *dir;
	int r;

	if (f->exists && !S_ISDIR(f->stx.stx_mode)) {
		s->stop = true; /* a directory is not the data of a metacopy */
		return 0;
	}
	if (s->refused)
		return refuse(s);
	dir = ov_rdir_new(base, base->layer, name);
	if (!dir)
		return -ENOMEM;
	r = add_rdir(s, dir);
	ov_rdir_unref(&s->ov->fds, dir);
	if (r < 0)
		return r;
	if (!f->exists) {
		f->exists = true;
		f->upper = base->layer->upper;
		f->stx = *stx;
		f->ino = ov_make_ino(s->ov, base->layer, stx->stx_ino);
	} else if (f->upper && f->nrdirs == 2) {
		f->ino = ov_make_ino(s->ov, base->layer, stx->stx_ino); /* the number of what was copied up */
	}
	if (!more) { /* nothing below to hide, but its empty files may be whiteouts of the view */
		if (!base->layer->upper && ov_opaque_read(ov_at_name(fd, name)) == OV_OPAQUE_XWHITEOUTS)
			ov_layer_set_xwhiteouts(base->layer);
		return 0;
	}
	r = dir_is_opaque(s->ov, dir, fd, name);
	if (r) {
		s->stop = true;
		return r < 0 ? r : 0;
	}
	return read_redirect(s, ov_at_name(fd, name));
}

/* A lower on the file system with UUID; NULL also where several could be meant, since they have none. */
static const struct ov_layer *find_uuid(const struct overlay *ov, const uint8_t uuid[16])
{
	const struct ov_layer *found = NULL;

	for (unsigned n = 1; n < ov->nlayers + ov->ndata; n++) {
		if (memcmp(ov->layers[n].uuid, uuid, sizeof(ov->layers[n].uuid)) != 0)
			continue;
		if (found && found->fsid != ov->layers[n].fsid)
			return NULL;
		found = &ov->layers[n];
	}
	return found;
}

/*
 * The origin of upper file AT gives its st_ino, without decoding the handle (that needs privilege). 0 also where there is
 * none, or an odd one; an error that may pass must not make it another file.
 */
static int read_origin(struct search *s, struct ov_at at)
{
	struct overlay *ov = s->ov;
	const struct ov_layer *origin_layer;
	struct ov_fh fh;
	uint64_t ino;
	int r = ov_fh_read(at, ov->xp, OV_X_ORIGIN, &fh);

	if (r == -EIO || r == -ENOMEM || r == -EINTR)
		return r;
	if (r < 0 || fh.len < OV_FH_HEADER)
		return 0;
	s->origin = fh;
	if (!ov_fh_ino(&fh, &ino))
		return 0;
	origin_layer = find_uuid(ov, ov_fh_uuid(&fh));
	if (origin_layer)
		s->f->ino = ov_make_ino(ov, origin_layer, ino);
	return 0;
}

/* Is the regular file AT a metacopy, and may we follow it? 1, 0, -errno. */
static int check_metacopy(struct search *s, const struct ov_layer *layer, struct ov_at at, const struct statx *stx)
{
	struct ov_metacopy mc;
	int r;

	if (!S_ISREG(stx->stx_mode) || (stx->stx_size == 0 && !layer->upper))
		return 0; /* without data there is nothing to look for; in the upper the mark must go at the next write */
	r = ov_metacopy_read(at, s->ov->xp, &mc);
	if (r < 0 || !mc.present)
		return r;
	if (!s->ov->cfg.metacopy) {
		ov_warn("refusing to follow the metacopy '%s': mount with metacopy=on", s->name);
		return -EPERM;
	}
	return 1;
}

static int found_data(struct search *s, struct ov_rdir *base, const char *name)
{
	s->f->data = ov_lowerdata_new(base, name);
	if (!s->f->data)
		return -ENOMEM;
	s->stop = true;
	return 0;
}

static int visit_file(struct search *s, struct ov_rdir *base, int fd, const char *name, const struct statx *stx)
{
	struct ov_found *f = s->f;
	struct ov_at at = ov_at_name(fd, name);
	int r;

	if (f->exists && !s->want_data) {
		s->stop = true; /* a file below a directory ends the merge */
		return 0;
	}
	if (s->want_data && !S_ISREG(stx->stx_mode)) {
		s->stop = true;
		return 0;
	}
	if (s->refused)
		return refuse(s);
	r = check_metacopy(s, base->layer, at, stx);
	if (r < 0)
		return r;
	if (s->want_data && r == 0)
		return found_data(s, base, name);
	if (!s->want_data) {
		f->exists = true;
		f->upper = base->layer->upper;
		f->stx = *stx;
		f->ino = ov_make_ino(s->ov, base->layer, stx->stx_ino);
		f->rparent = ov_rdir_ref(base);
		f->metacopy = r == 1;
		if (s->redirect) {
			f->rname = strdup(name);
			if (!f->rname)
				return -ENOMEM;
		}
		if (f->upper) {
			int err = read_origin(s, at);

			if (err < 0)
				return err;
		}
	}
	if (r == 0) {
		s->stop = true;
		return 0;
	}
	s->want_data = true;
	return read_redirect(s, at);
}

/* Look into one directory of one layer. */
static int visit(struct search *s, struct ov_rdir *base, const char *name, bool more)
{
	ov_cleanup_rfd struct ov_rfd d = ov_rfd_get(&s->ov->fds, base);
	struct statx stx;
	int r;

	if (d.fd < 0)
		return d.fd;
	__atomic_add_fetch(&s->ov->probes, 1, __ATOMIC_RELAXED);
	r = ov_probe(s->ov, base, d.fd, name, &stx);
	if (r == 1) {
		s->stop = true;
		return 0;
	}
	if (r == -ENOENT) {
		r = more ? ov_probe_oci_whiteout(base, d.fd, name) : 0;
		if (r > 0)
			s->stop = true;
		return r < 0 ? r : 0;
	}
	if (r < 0)
		return r;
	if (S_ISDIR(stx.stx_mode))
		return visit_dir(s, base, d.fd, name, &stx, more);
	return visit_file(s, base, d.fd, name, &stx);
}

/* The directory AT, component COMP of PATH before REST, may be redirected itself. */
static int redirect_prefix(struct search *s, struct ov_at at, const char *path, const char *rest, const char *comp)
{
	char *value = NULL;
	int r = ov_redirect_read(at, s->ov->xp, &value);
	size_t before;

	if (r < 0 || !value)
		return r;
	while (*rest == '/')
		rest++;
	before = (size_t)(rest - path) - 1 - strlen(comp); /* "/a/b/rest": without "b/" */
	return apply_redirect(s, value, path, before ? before - 1 : 0, rest);
}

/*
 * Follow the absolute redirect of S inside one layer, component by component; nothing but plain directories is walked, so it
 * cannot leave the layer. 0 also where the path is not there.
 */
static int visit_absolute(struct search *s, struct ov_rdir *root, bool more)
{
	ov_cleanup_free char *path = strdup(s->redirect); /* reading a further redirect replaces it */
	struct ov_rdir *dir = ov_rdir_ref(root);
	const char *p = path;
	char comp[NAME_MAX + 1];
	int r = path ? 0 : -ENOMEM;

	while (r == 0 && ov_redirect_next(&p, comp)) {
		struct ov_rdir *child;
		struct statx stx;

		if (!*p) {
			r = visit(s, dir, comp, more);
			break;
		}
		ov_cleanup_rfd struct ov_rfd d = ov_rfd_get(&s->ov->fds, dir);

		r = d.fd < 0 ? d.fd : ov_probe(s->ov, dir, d.fd, comp, &stx);
		if (r == 1 || (r == 0 && !S_ISDIR(stx.stx_mode)))
			s->stop = true; /* it hides what the layers below have there */
		if (r == 1 || r == -ENOENT || (r == 0 && !S_ISDIR(stx.stx_mode))) {
			r = 0;
			break;
		}
		if (r < 0)
			break;
		child = ov_rdir_new(dir, dir->layer, comp);
		if (!child) {
			r = -ENOMEM;
			break;
		}
		if (more && dir_is_opaque(s->ov, child, d.fd, comp) > 0)
			s->stop = true;
		else if (more) /* a moved directory on the way: the layers below know it under its old name */
			r = redirect_prefix(s, ov_at_name(d.fd, comp), path, p, comp);
		ov_rfd_release(&d);
		ov_rdir_unref(&s->ov->fds, dir);
		dir = child;
	}
	ov_rdir_unref(&s->ov->fds, dir);
	return r;
}

/* The data of a metacopy may also be in a data-only layer, reached by an absolute redirect alone. */
static int search_data_layers(struct search *s)
{
	struct overlay *ov = s->ov;
	int r = 0;

	for (unsigned n = ov->nlayers; r == 0 && !s->stop && s->absolute && n < ov->nlayers + ov->ndata; n++)
		r = visit_absolute(s, ov->roots[n], false);
	return r;
}

/* Can anything still be found below layer N of PARENT? By a redirect also where the parent itself ends. */
static bool more_below(const struct overlay *ov, const struct ov_inode *parent, unsigned n)
{
	return n + 1 < parent->nrdirs || parent->rdirs[n]->layer->index + 1 < ov->nlayers + ov->ndata;
}

static int search_layers(struct search *s, struct ov_inode *parent, unsigned first)
{
	struct overlay *ov = s->ov;
	unsigned n = first;
	int r = 0;

	for (; r == 0 && !s->stop && !s->absolute && n < parent->nrdirs; n++)
		r = visit(s, parent->rdirs[n], s->name, more_below(ov, parent, n));
	if (r < 0 || s->stop || !s->absolute || n == 0)
		return r;
	/* an absolute redirect goes on in the layer below the one it was found in, from the root */
	for (n = parent->rdirs[n - 1]->layer->index + 1; r == 0 && !s->stop && n < ov->nlayers; n++)
		r = visit_absolute(s, ov->roots[n], n + 1 < ov->nlayers || ov->ndata);
	return r;
}

/* WHOLE: the layers above FIRST do not have NAME, so that what is found is what the view shows. */
static int search_from(struct overlay *ov, struct ov_inode *parent, const char *name, unsigned first, bool whole,
		       struct ov_found *f)
{
	struct search s = {.ov = ov, .f = f, .name = name};
	int r;

	memset(f, 0, sizeof(*f));
	if (ov_inode_is(parent, OV_I_UNLINKED))
		return 0;
	r = search_layers(&s, parent, first);
	if (r == 0 && s.want_data && !s.stop)
		r = search_data_layers(&s);
	if (r == 0 && ov->index && whole && f->exists)
		r = f->upper ? ov_index_check_upper(ov, f, &s.origin) : ov_index_check_lower(ov, f, name);
	free(s.redirect);
	if (r == 0 && f->metacopy && !f->data) {
		ov_warn("metacopy '%s' has no data in any lower layer", name);
		r = -EIO;
	}
	if (r < 0)
		ov_found_clear(ov, f);
	return r;
}

int ov_search(struct overlay *ov, struct ov_inode *parent, const char *name, unsigned first, struct ov_found *f)
{
	return search_from(ov, parent, name, first, first == 0, f);
}

int ov_search_listed(struct overlay *ov, struct ov_inode *parent, const char *name, unsigned first, struct ov_found *f)
{
	return search_from(ov, parent, name, first, true, f);
}

int ov_lower_has(struct overlay *ov, struct ov_inode *parent, const char *name)
{
	struct ov_found f;
	unsigned first;
	int r;

	if (!ov_inode_is(parent, OV_I_UPPER) || parent->nrdirs < 2)
		return 0;
	if (ov_listing_where(ov, parent, name, &first) == 0 && first > 0)
		return 1;
	r = ov_search(ov, parent, name, 1, &f);
	if (r == -EPERM || r == -EIO || r == -EINVAL)
		return 1; /* something is there, though it cannot be followed */
	if (r == 0)
		r = f.exists;
	ov_found_clear(ov, &f);
	return r;
}

bool ov_found_key(const struct overlay *ov, const struct ov_found *f, struct ov_key *key, bool *keep)
{
	*keep = f->stx.stx_nlink > 1 || f->indexed;
	if (S_ISDIR(f->stx.stx_mode) || (!*keep && !f->upper))
		return false;
	/* without an index lower aliases part at copy-up, as the next mount will show them: join them only where nothing changes */
	if (!f->upper && ov->has_upper && !ov_index_takes(ov, f->stx.stx_mode))
		return false;
	*key = (struct ov_key){.ino = f->stx.stx_ino, .fsid = f->rparent->layer->fsid, .upper = f->upper};
	return true;
}

void ov_inode_fill(struct ov_inode *i, struct ov_found *f, unsigned *flags)
{
	*flags = f->upper ? OV_I_UPPER : 0;
	if (ov_inode_isdir(i)) {
		i->rdirs = ov_steal_ptr(f->rdirs);
		i->nrdirs = (uint16_t)f->nrdirs;
		f->nrdirs = 0;
		return;
	}
	i->rparent = ov_steal_ptr(f->rparent);
	i->rname = ov_steal_ptr(f->rname);
	i->data = ov_steal_ptr(f->data);
	if (f->metacopy)
		*flags |= OV_I_METACOPY;
	if (!f->upper && f->stx.stx_nlink > 1)
		*flags |= OV_I_LOWERLINKS;
	if (f->indexed)
		*flags |= OV_I_INDEXED | (f->lower_name ? OV_I_LOWERNAMES : 0);
}

static struct ov_inode *inode_from_found(struct overlay *ov, struct ov_found *f)
{
	struct ov_inode *i = ov_inode_new(&ov->tab, f->stx.stx_mode);
	unsigned flags;

	if (!i)
		return NULL;
	i->ino = f->ino;
	ov_inode_fill(i, f, &flags);
	i->flags = (uint16_t)flags;
	return i;
}

static int instantiate(struct overlay *ov, struct ov_inode *parent, const char *name, struct ov_found *f, bool count,
		       struct ov_inode **out)
{
	struct ov_itable *t = &ov->tab;
	struct ov_inode *fresh = NULL, *i = NULL;
	struct ov_dentry *d;
	struct ov_key key;
	bool keep = false, keyed = ov_found_key(ov, f, &key, &keep);
	int r = 0;

	if (keyed && keep) {
		pthread_mutex_lock(&t->lock);
		i = ov_inode_find_key_locked(t, key);
		if (i) {
			r = ov_dentry_add_locked(t, parent, name, i, false);
			if (r == 0 || r == -EEXIST) {
				if (f->lower_name)
					ov_inode_set(i, OV_I_LOWERNAMES);
				if (count)
					ov_inode_raise_locked(t, i);
				r = 0;
			}
		}
		pthread_mutex_unlock(&t->lock);
		if (i) {
			*out = i;
			return r;
		}
	}
	fresh = inode_from_found(ov, f);
	if (!fresh)
		return -ENOMEM;
	fresh->refs = 1;
	ov_inode_insert(t, fresh); /* before its name can be seen: the nodeid must resolve */
	pthread_mutex_lock(&t->lock);
	d = ov_dentry_find_locked(t, parent, name);
	i = d ? d->inode : (keyed ? ov_inode_find_key_locked(t, key) : NULL);
	if (!d) /* else another thread (a listing beside a lookup) was faster */
		r = ov_dentry_add_locked(t, parent, name, i ? i : fresh, !i);
	if (i && f->lower_name)
		ov_inode_set(i, OV_I_LOWERNAMES);
	if (!i && r == 0 && keyed && keep)
		ov_inode_set_key_locked(t, fresh, key);
	*out = i ? i : fresh;
	if (count && r == 0)
		ov_inode_raise_locked(t, *out);
	pthread_mutex_unlock(&t->lock);
	ov_inode_unref(t, fresh);
	return r;
}

int ov_instantiate(struct overlay *ov, struct ov_inode *parent, const char *name, struct ov_found *f, bool count,
		   struct ov_inode **out)
{
	int r = instantiate(ov, parent, name, f, count, out);

	if (r < 0 || !ov_inode_is(*out, OV_I_STALE))
		return r;
	r = ov_revive_locked(ov, *out);
	if (r < 0 && count)
		ov_inode_forget(&ov->tab, (*out)->nodeid, 1);
	return r;
}

/* I, just found as NAME in PARENT, is ready for use if it still is there then: 1, 0, -errno. */
static int revive_known(struct overlay *ov, struct ov_inode *parent, const char *name, struct ov_inode *i)
{
	int r = ov_inode_is(i, OV_I_STALE) ? ov_revive_locked(ov, i) : 1;

	if (r == -ESTALE)
		return 0;
	return r == 0 ? ov_dentry_inode(&ov->tab, parent, name) == i : r;
}

/* The inode that the daemon already knows under this name. */
static int lookup_known(struct overlay *ov, struct ov_inode *parent, const char *name, bool count, struct ov_entry *out)
{
	struct ov_dentry *d;
	struct ov_inode *i;
	int r;

	pthread_mutex_lock(&ov->tab.lock);
	d = ov_dentry_find_locked(&ov->tab, parent, name);
	i = d ? d->inode : NULL;
	if (i && count)
		ov_inode_raise_locked(&ov->tab, i);
	else if (i)
		i->refs++;
	pthread_mutex_unlock(&ov->tab.lock);
	if (!i)
		return 0;
	r = revive_known(ov, parent, name, i);
	if (r == 1) {
		r = ov_getattr_locked(ov, i, &out->attr);
		r = r < 0 ? r : 1;
	}
	if (r == 1)
		out->nodeid = i->nodeid;
	else if (count)
		ov_inode_forget(&ov->tab, i->nodeid, 1);
	if (!count)
		ov_inode_unref(&ov->tab, i);
	return r;
}

/* NAME is not known yet: search it, or take what is READY (or NULL). */
static int lookup_new(struct overlay *ov, struct ov_inode *parent, const char *name, unsigned first, bool count,
		      struct ov_found *ready, struct ov_entry *out)
{
	struct ov_inode *i;
	struct ov_found f;
	bool merged;
	int r = 0;

	if (ready) {
		f = *ready;
		memset(ready, 0, sizeof(*ready));
	} else {
		r = ov_search_listed(ov, parent, name, first, &f);
	}
	if (r < 0 || !f.exists)
		return r;
	out->attr = f.stx;
	merged = f.nrdirs > 1;
	if (!count) {
		ov_attr_to_view(ov, f.ino, merged, &out->attr);
		ov_found_clear(ov, &f);
		return 0;
	}
	r = ov_instantiate(ov, parent, name, &f, true, &i);
	if (r == 0) {
		if (i->data && ov_inode_is(i, OV_I_METACOPY))
			r = ov_getattr_locked(ov, i, &out->attr); /* blocks are those of the data */
		else
			ov_attr_to_view(ov, i->ino, merged, &out->attr);
		out->nodeid = i->nodeid;
	}
	ov_found_clear(ov, &f);
	return r;
}

int ov_lookup_locked(struct overlay *ov, struct ov_inode *parent, const char *name, bool count, struct ov_entry *out)
{
	unsigned first;
	int r;

	out->nodeid = 0;
	if (!ov_inode_isdir(parent))
		return -ENOTDIR;
	r = lookup_known(ov, parent, name, count, out);
	if (r)
		return r < 0 ? r : 0;
	if (strlen(name) > NAME_MAX)
		return -ENAMETOOLONG; /* which no listing says */
	if (ov_listing_where(ov, parent, name, &first) == -ENOENT)
		return 0;
	return lookup_new(ov, parent, name, first, count, NULL, out);
}

int ov_lookup_from(struct overlay *ov, struct ov_inode *parent, const char *name, unsigned first, bool count,
		   struct ov_found *ready, struct ov_entry *out)
{
	int r = lookup_known(ov, parent, name, count, out);

	if (r)
		return r;
	out->nodeid = 0;
	return lookup_new(ov, parent, name, first, count, ready, out);
}

int ov_lookup(struct overlay *ov, struct ov_inode *parent, const char *name, struct ov_entry *out)
{
	OV_NS_READ(ov);
	return ov_lookup_locked(ov, parent, name, true, out);
}

void ov_forget(struct overlay *ov, uint64_t nodeid, uint64_t n)
{
	ov_inode_forget(&ov->tab, nodeid, n);
}
