/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_CORE_H
#define OV_CORE_H

/* What the files of the core share among themselves; fronts include overlay.h only. */

#include "log.h"
#include "overlay.h"

/* The namespace lock as cleanup scopes. */
static inline struct overlay *ov_ns_read(struct overlay *ov)
{
	pthread_rwlock_rdlock(&ov->ns);
	return ov;
}
static inline struct overlay *ov_ns_write(struct overlay *ov)
{
	pthread_rwlock_wrlock(&ov->ns);
	return ov;
}
static inline void ov_ns_unlock_p(struct overlay **ov)
{
	if (*ov)
		pthread_rwlock_unlock(&(*ov)->ns);
}
#define OV_NS_READ(ov) \
	__attribute__((cleanup(ov_ns_unlock_p))) struct overlay *ns_guard_ OV_UNUSED = ov_ns_read(ov)
#define OV_NS_WRITE(ov) \
	__attribute__((cleanup(ov_ns_unlock_p))) struct overlay *ns_guard_ OV_UNUSED = ov_ns_write(ov)

/* Held while the mtime of I is being kept or set. */
static inline pthread_mutex_t *ov_times_lock(struct overlay *ov, const struct ov_inode *i)
{
	pthread_mutex_t *m = &ov->times[i->nodeid % OV_TIME_LOCKS];

	pthread_mutex_lock(m);
	return m;
}
static inline void ov_times_unlock_p(pthread_mutex_t **m)
{
	if (*m)
		pthread_mutex_unlock(*m);
}
#define OV_TIMES_LOCK(ov, i) \
	__attribute__((cleanup(ov_times_unlock_p))) pthread_mutex_t *times_guard_ OV_UNUSED = ov_times_lock(ov, i)

/* The real object of an inode, located and pinned. */
struct ov_real {
	struct overlay *ov;
	struct ov_at at;
	struct ov_layer *layer;
	struct ov_rdir *rdir;      /* pinned, and referenced: a copy-up may take it from the inode meanwhile; or NULL */
	struct ov_fdslot *slot;    /* pinned, or NULL */
};

void ov_real_release(struct ov_real *r);
#define ov_cleanup_real __attribute__((cleanup(ov_real_release)))

/* util.c */

/* Locate the uppermost real object of I (namespace lock held). 0 or -errno; release in both cases. */
int ov_real_get(struct overlay *ov, struct ov_inode *i, struct ov_real *out);

/* As above through the lower RDIR and NAME. */
int ov_real_get_name(struct overlay *ov, struct ov_rdir *rdir, const char *name, struct ov_real *out);

/* The upper directory of DIR, which must have one. */
static inline struct ov_rdir *ov_upper_rdir(const struct ov_inode *dir)
{
	return dir->rdirs[0];
}

static inline struct ov_layer *ov_inode_layer(const struct ov_inode *i)
{
	if (ov_inode_isdir(i))
		return i->rdirs[0]->layer;
	return i->rparent->layer;
}

/*
 * May the kernel, which keeps the mtime of files that it writes back, have no newer one to send than MTIME, which it has not
 * sent? Only if that is of now, more or less: what is written gets the time of the clock's tick, and comes to us half a minute
 * later at most. An older one is never put back: where the kernel's own time gets lost (what sync(1) writes back in a mount
 * of a user namespace fails for want of an id there), new data must not stand under an old time.
 */
bool ov_is_recent(const struct statx_timestamp *mtime);

/* Put "/PART" in front of what is at *POS of BUF. 0 or -ENAMETOOLONG. */
int ov_prepend(char *buf, size_t *pos, const char *part);

/* A name for a temporary in workdir/work: unique in this mount. BUF: 32 bytes. */
void ov_tmp_name(struct overlay *ov, char *buf);

/* st_ino of the object (DEV via STX, inode number) of LAYER. */
uint64_t ov_make_ino(const struct overlay *ov, const struct ov_layer *layer, uint64_t ino);

/* "layer-path:/dir/name" for messages, in BUF. */
const char *ov_describe(const struct ov_rdir *dir, const char *name, char *buf, size_t size);

/*
 * Tell the front before a name of I goes from disk, if that is not the last one. Namespace lock held for writing. NULL: a worker that
 * died has removed it, and it is not known of what.
 */
static inline void ov_loses_name(struct overlay *ov, const struct ov_inode *i)
{
	if (ov->hooks.loses_name)
		ov->hooks.loses_name(ov->hooks.arg, i ? i->nodeid : 0);
}

/* Tell the front that something slow comes. */
static inline void ov_will_block(struct overlay *ov)
{
	if (ov->hooks.will_block)
		ov->hooks.will_block(ov->hooks.arg);
}

/*
 * A name went, and a whiteout, another name or a link count in another place belongs to that. Where the upper's file system
 * makes a single file permanent without what was done before, the next fsync commits everything.
 */
static inline void ov_note_halves(struct overlay *ov)
{
	if (!ov->layers[0].fsync_orders)
		__atomic_add_fetch(&ov->halves, 1, __ATOMIC_RELEASE);
}

/* Is an object of TYPE (S_IFMT bits among others) a regular file in the upper, though an xattr may say otherwise? */
static inline bool ov_is_file_on_disk(const struct overlay *ov, unsigned type)
{
	return S_ISREG(type) || (ov->override != OV_OVERRIDE_NONE && !S_ISDIR(type) && !S_ISLNK(type));
}

/* The mount is read-only? */
static inline int ov_want_write(const struct overlay *ov)
{
	return ov->has_upper && !ov->cfg.force_read_only ? 0 : -EROFS;
}

/* attr.c */

/* Ids between view and disk. to_disk: -EINVAL where the id has no place on disk. */
uid_t ov_uid_to_view(const struct overlay *ov, uid_t uid);
gid_t ov_gid_to_view(const struct overlay *ov, gid_t gid);
int ov_uid_to_disk(const struct overlay *ov, uid_t uid, uid_t *out);
int ov_gid_to_disk(const struct overlay *ov, gid_t gid, gid_t *out);

/* statx of AT in LAYER with what override_stat says, before id mapping. */
int ov_statx_real(struct overlay *ov, const struct ov_layer *layer, struct ov_at at, struct statx *stx);

/* Raw attributes of an object into those of the view; INO is its st_ino there, MERGED: a directory of several layers. */
void ov_attr_to_view(const struct overlay *ov, uint64_t ino, bool merged, struct statx *stx);

/* Attributes of I, read from its object. Namespace lock held. */
int ov_getattr_locked(struct overlay *ov, struct ov_inode *i, struct statx *out);

/* Change owner or mode of an upper object (override_stat stores keep them in the xattr). STX: raw, updated. */
int ov_set_owner_mode(struct overlay *ov, struct ov_at at, const uid_t *uid, const gid_t *gid, const mode_t *mode);

/* Writing or truncating without the privilege: setuid, and setgid of a group-executable, go. Upper object AT. */
int ov_kill_suidgid(struct overlay *ov, struct ov_at at);

/*
 * FS_APPEND_FL and FS_IMMUTABLE_FL as kernel overlayfs keeps them in overlay.protattr of what is in the upper; 0: neither.
 * Namespace lock held.
 */
unsigned ov_protattr(struct overlay *ov, struct ov_inode *i);

/*
 * Does chattr(1) protect I, whose attributes are STX, from losing its name or getting another? What the upper's file system
 * itself knows is left to it. Namespace lock held. 0 or -EPERM.
 */
int ov_check_removable(struct overlay *ov, struct ov_inode *i, const struct statx *stx);

/* namei.c */

/* What a search through the layers found. */
struct ov_found {
	bool exists;
	struct statx stx;        /* raw, of the uppermost object */
	uint64_t ino;            /* st_ino of the view */
	struct ov_rdir *rparent; /* non-directory: where it is; counted */
	char *rname;             /* its name there if not the one looked up; owned */
	struct ov_rdir **rdirs;  /* directory: owned array, each counted */
	unsigned nrdirs;
	bool upper;
	bool metacopy;
	bool indexed;              /* RPARENT is the index */
	bool lower_name;           /* and the name looked up is in a lower only */
	struct ov_lowerdata *data; /* metacopy: owned */
};
void ov_found_clear(struct overlay *ov, struct ov_found *f);

/*
 * The identity under which other names of the same object find it; false: each name is an inode of its own. *KEEP: there may be
 * such names. A single name in the upper may be the last one of an object that is open through a name that is gone.
 */
bool ov_found_key(const struct overlay *ov, const struct ov_found *f, struct ov_key *key, bool *keep);

/* I, which has none, gets the real objects of F, and *FLAGS (OV_I_*) what is to be said of them. */
void ov_inode_fill(struct ov_inode *i, struct ov_found *f, unsigned *flags);

/* Search NAME below PARENT, from layer position FIRST of its rdirs on. Namespace lock held. 0 also if not found. */
int ov_search(struct overlay *ov, struct ov_inode *parent, const char *name, unsigned first, struct ov_found *f);

/* 1: a lower has NAME in view below PARENT (so that a deletion needs a whiteout), 0, or -errno. Namespace lock held. */
int ov_lower_has(struct overlay *ov, struct ov_inode *parent, const char *name);

/*
 * The real directory entry NAME of RDIR: is it a whiteout of any kind (1), an object (0, STX filled), or -ENOENT, -errno.
 */
int ov_probe(struct overlay *ov, struct ov_rdir *rdir, int fd, const char *name, struct statx *stx);

/* readdir.c: find out whether D (fd FD), where that is not known, has ".wh." names at all. */
void ov_learn_oci_names(struct ov_rdir *d, int fd);

/* Does ".wh.NAME" hide NAME of the layers below RDIR? 1, 0, -errno. */
int ov_probe_oci_whiteout(struct ov_rdir *rdir, int fd, const char *name);

/* Take over FOUND as a new inode named NAME in PARENT (or find the one that is there). Counts a lookup if COUNT. */
int ov_instantiate(struct overlay *ov, struct ov_inode *parent, const char *name, struct ov_found *f, bool count,
		   struct ov_inode **out);

/* The same of a name whose layer, the one at FIRST, is known from a listing: the layers above do not have it. */
int ov_search_listed(struct overlay *ov, struct ov_inode *parent, const char *name, unsigned first, struct ov_found *f);

/*
 * Lookup with the namespace lock (read) held. from: the layers of PARENT above FIRST are known not to have NAME; READY, or NULL, is
 * what ov_search_listed() has found, and is empty after it was used; 1 instead of 0: the name was known already.
 */
int ov_lookup_locked(struct overlay *ov, struct ov_inode *parent, const char *name, bool count, struct ov_entry *out);
int ov_lookup_from(struct overlay *ov, struct ov_inode *parent, const char *name, unsigned first, bool count,
		   struct ov_found *ready, struct ov_entry *out);

/* super.c */

/* The layers of the root directory for the recovered inode ROOT. 0 or -errno. */
int ov_reopen_root(struct overlay *ov, struct ov_inode *root);

/* Remove the temporaries that a worker left in workdir/work, and look again at what it wrote in the upper's root. */
void ov_clean_work(struct overlay *ov);

/* revive.c */

/* Find the object of a stale inode again, its parents' first. Namespace lock held. 0; -ESTALE: it is lost; -errno. */
int ov_revive_locked(struct overlay *ov, struct ov_inode *i);

/* Is the request that is being served the repetition of one that a worker may have carried out before it died? */
static inline bool ov_is_repeat(const struct overlay *ov)
{
	return ov->hooks.is_repeat && ov->hooks.is_repeat(ov->hooks.arg);
}

/* copy_up.c */

enum ov_copy_flags {
	OV_COPY_DATA = 1 << 0, /* data will be changed: a metacopy is not enough */
	OV_COPY_TRUNC = 1 << 1, /* only the first SIZE bytes of data are wanted */
	OV_COPY_ATTRS = 1 << 2, /* to change chattr(1) flags: also of what they protect */
	OV_COPY_NAMED = 1 << 3, /* indexed: the caller goes on with ov_index_link_up() for the name that it means */
};

/*
 * Make I's object one of the upper layer, parents first. Nothing is held. With OV_COPY_TRUNC only SIZE bytes are copied.
 * 0 at once if it is there already. -EROFS without an upper. An indexed file gets all its known names in the upper: which of
 * them the change came by is not told, and the upper alone, as a layer of an image, must show the change under that one.
 */
int ov_copy_up(struct overlay *ov, struct ov_inode *i, unsigned flags, off_t size);

/*
 * Link upper object FROM as NAME into the upper directory of PARENT (fd DIRFD), whose times stay. Namespace lock held for
 * writing. 0 or -errno.
 */
int ov_link_alias(struct overlay *ov, struct ov_inode *parent, int dirfd, struct ov_at from, const char *name);

/* dir.c */

/* Remove NAME, a file or a whole directory, from workdir/work. Best effort; failures are logged. */
void ov_cleanup_tmp(struct overlay *ov, const char *name);
/* The same in any directory. 0 or -errno. */
int ov_cleanup_tree(int dirfd, const char *name, int depth);

/*
 * The kind of whiteout that hides NAME in the upper directory FD: the mount's, but by xattr where the name of an OCI whiteout
 * is too long or an ordinary file's, whose mark shows that xattrs can be had. Or -errno.
 */
int ov_whiteout_kind_for(const struct overlay *ov, int fd, const char *name);

/*
 * Make a whiteout of KIND, not OCI, that counts in the upper directory FD, to where it can be moved, under a fresh name in
 * workdir/work. TMP: 32 bytes, the fresh name. 0 or -errno.
 */
int ov_whiteout_tmp(struct overlay *ov, int fd, int kind, char *tmp);

enum ov_bridge {
	OV_BRIDGE_NONE,  /* an ordinary file has its name, or that is too long */
	OV_BRIDGE_FOUND, /* it was there before */
	OV_BRIDGE_MADE
};

/*
 * Before the entry NAME of upper directory RDIR (fd FD) is taken away, hide what the layers below have of it by an OCI whiteout:
 * that stays, or it bridges the time until a whiteout of another kind has its place. An enum ov_bridge; -EPERM if nothing can be
 * taken away from FD (chattr +a); -errno. _end() takes that result and, if it was made, the whiteout away again: when it has
 * served, or when the entry stays (a merged directory would lose what is below).
 */
int ov_oci_bridge(struct ov_rdir *rdir, int fd, const char *name);
void ov_oci_bridge_end(int fd, const char *name, int bridge);

/*
 * Take the whiteout NAME out of the way of a directory that goes to its place, behind a bridge where the two cannot be exchanged.
 * The bridge or -errno. Then _done() with that and R, how the directory got there, which puts the whiteout back if it did not.
 * Returns R.
 */
int ov_lift_whiteout(struct ov_rdir *rdir, int fd, const char *name);
int ov_lift_done(struct overlay *ov, struct ov_rdir *rdir, int fd, const char *name, int bridge, int r);

/* AT of the upper gets NAME besides: if it is a file that would pass for an OCI whiteout then, mark it as none. 0 or -errno. */
int ov_mark_plain_name(const struct overlay *ov, struct ov_at at, const char *name);

/*
 * An empty file of a name like ".wh.x" would hide "x": if the file I, which is AT, is known by one it is marked as what it is,
 * before it gets empty, or a name by which it could get so while the other is not known. 0 or -errno.
 */
int ov_mark_plain_names(struct overlay *ov, const struct ov_inode *i, struct ov_at at);

/* Is NAME in upper directory RDIR (fd FD) occupied by a whiteout (of the layer's own kind or another)? */
int ov_upper_whiteout(struct overlay *ov, struct ov_rdir *rdir, int fd, const char *name);

/* Hide NAME of the lowers by a whiteout where upper directory RDIR has no entry NAME. */
int ov_place_whiteout(struct overlay *ov, struct ov_rdir *rdir, int fd, const char *name);

/* Is the merged view of DIR empty? 1, 0, -errno. Namespace lock held. */
int ov_dir_is_empty(struct overlay *ov, struct ov_inode *dir);

/*
 * I lost its last name (or is replaced): keep it reachable for open files. Namespace lock held for writing, before the
 * change.
 */
int ov_keep_open(struct overlay *ov, struct ov_inode *i);
/* The name (PARENT, NAME) of I is gone from disk. Namespace lock held for writing. */
void ov_name_gone(struct overlay *ov, struct ov_inode *parent, const char *name);

/* The object of I, no directory, is reached through its first name from now on. Namespace lock held for writing. */
void ov_reach_by_first_name(struct overlay *ov, struct ov_inode *i);

/* Directory properties that creation needs, cached in the inode's flags. Namespace lock held. */
int ov_dir_props(struct overlay *ov, struct ov_inode *dir, struct statx *stx);

/* index.c. Namespace lock held, for writing by what changes the disk. */

#define OV_INDEX_NAME (2 * 255 + 1)

/* Open workdir/index, check that it belongs to these layers, remove what a crash left. Errors are logged; without file
 * handles index=off is gone on with: ov->index stays NULL. */
int ov_index_open(struct overlay *ov);

/* Name in the index of object LOWER of LAYER. 0, -EOPNOTSUPP without handles, -errno. */
int ov_index_name(const struct ov_layer *layer, struct ov_at lower, char name[OV_INDEX_NAME]);

/* F is a file of the upper with origin ORIGIN: if it is in the index it is reached through that from now on. */
struct ov_fh;
int ov_index_check_upper(struct overlay *ov, struct ov_found *f, const struct ov_fh *origin);

/* F is a lower file found as NAME: if another of its names was copied up, F becomes that copy. */
int ov_index_check_lower(struct overlay *ov, struct ov_found *f, const char *name);

/* The link count of index entry AT in the view: STX->stx_nlink, as on disk, is changed. 0 or -errno. */
int ov_index_nlink(struct overlay *ov, struct ov_at at, struct statx *stx);

/* Name NAME in PARENT (in the upper) of indexed I is only in a lower yet: make it a link in the upper. */
int ov_index_link_up(struct overlay *ov, struct ov_inode *i, struct ov_inode *parent, const char *name);

/* Before a name of indexed I comes or goes on disk. 0 or -errno. */
int ov_index_settle(struct overlay *ov, struct ov_inode *i);

/* A name of indexed I is gone from disk; the last one takes the index entry with it. */
void ov_index_drop_unused(struct overlay *ov, struct ov_inode *i);

/* May objects of TYPE (S_IFMT bits among others) be in the index? user.* xattrs, which it needs, exist on files only. */
static inline bool ov_index_takes(const struct overlay *ov, unsigned type)
{
	return ov->index && (S_ISREG(type) || (!S_ISDIR(type) && ov->trusted));
}

/* Is, or becomes at copy-up, I part of the index? */
static inline bool ov_index_has(const struct overlay *ov, const struct ov_inode *i)
{
	bool will_be = ov_inode_is(i, OV_I_LOWERLINKS) && !ov_inode_is(i, OV_I_UPPER);

	return ov_index_takes(ov, i->type) && (ov_inode_is(i, OV_I_INDEXED) || will_be);
}

/* readdir.c: the kernel asks for data or attributes of I, a file perhaps in a listing that it keeps. Namespace lock held. */
void ov_listing_touched(struct overlay *ov, const struct ov_inode *i);

/* listing hooks, readdir.c: NAME appeared in or went from DIR. Namespace lock held. */
void ov_listing_add(struct overlay *ov, struct ov_inode *dir, const char *name, unsigned type);
void ov_listing_del(struct overlay *ov, struct ov_inode *dir, const char *name);
void ov_listing_drop(struct overlay *ov, struct ov_inode *dir);

/* The names of DIR, not of more than MAX (-E2BIG), for the caller alone. Namespace lock held. 0 or -errno. */
int ov_listing_make(struct overlay *ov, struct ov_inode *dir, size_t max, struct ov_listing **out);

/* The listing that DIR has now, referenced; or NULL. */
struct ov_listing *ov_listing_get(struct overlay *ov, struct ov_inode *dir);

/* The layer of DIR where a name of that height (listing.h) is. */
unsigned ov_listing_layer(const struct ov_inode *dir, unsigned height);

/*
 * Which layer of DIR shows NAME? 0 with *FIRST the number of the first one that can, or -ENOENT: none. *FIRST is 0 where there
 * is no listing to tell. Namespace lock held.
 */
int ov_listing_where(struct overlay *ov, struct ov_inode *dir, const char *name, unsigned *first);

/* readdir_ahead.c */

int ov_ahead_init(struct ov_ahead *a); /* 0 or -errno */
void ov_ahead_destroy(struct overlay *ov); /* nobody else uses it */

/* Directories that were gathered and asked for then, and others; files that were opened. */
void ov_ahead_count(struct overlay *ov, uint64_t *used, uint64_t *wasted, uint64_t *opened);

/*
 * The kernel asks for the names of DIR (namespace lock held): what has been gathered of it, or NULL; then it is the caller's, who
 * gives it back by _put(), also NULL, before the lock is released. _listing(): the names, referenced. _find(): what the search for the
 * name with COOKIE has found, or NULL; in the order of cookies; it is the caller's to empty. _found(): that was used, and has
 * NODEID now, by which what is in it can be found. _is_over(): there is nothing more in it, but perhaps in another one.
 */
struct ov_ahead_dir *ov_ahead_take(struct overlay *ov, const struct ov_inode *dir);
struct ov_listing *ov_ahead_listing(const struct ov_ahead_dir *d);
struct ov_found *ov_ahead_find(struct ov_ahead_dir *d, uint64_t cookie);
void ov_ahead_found(struct overlay *ov, struct ov_ahead_dir *d, uint64_t nodeid);
bool ov_ahead_is_over(const struct ov_ahead_dir *d);
void ov_ahead_put(struct overlay *ov, struct ov_ahead_dir *d);

/*
 * The kernel asks for the first names of DIR. Who lists directories in a directory that was listed goes through a tree. _add(): it was
 * told of N directories (nodeids) in DIR, which it may ask for soon. _go_on(): it was told of N names of DIR, the last with COOKIE,
 * and there are more.
 */
void ov_ahead_note(struct overlay *ov, const struct ov_inode *dir);
void ov_ahead_go_on(struct overlay *ov, const struct ov_inode *dir, uint64_t cookie, unsigned n);
void ov_ahead_add(struct overlay *ov, const struct ov_inode *dir, const uint64_t *dirs, unsigned n);

/* I, a file, is begun to be read (namespace lock held): are those behind it in its directory, too? */
void ov_ahead_note_read(struct overlay *ov, const struct ov_inode *i);

/* file.c */

/* A pinned fd on I's data (namespace lock held). WRITABLE: I is in the upper. NULL with *ERR. */
struct ov_fdslot *ov_file_get(struct overlay *ov, struct ov_inode *i, bool writable, int *err);

/* xattr.c */

/* Copy every xattr that belongs to the view, ACLs included, from FROM (in FROM_LAYER) to TO in the upper. */
int ov_copy_xattrs(struct overlay *ov, const struct ov_layer *from_layer, struct ov_at from, struct ov_at to);

/* acl.c */

/*
 * The ACLs of an object made with MODE in a directory whose default ACL is DEF (LEN bytes, xattr format): *MODE becomes the
 * resulting mode, ACCESS (at least LEN bytes) the access ACL, *ACCESS_LEN its length or 0 if the mode says it all.
 * 0 or -EINVAL for a malformed ACL.
 */
int ov_acl_inherit(const void *def, size_t len, mode_t *mode, void *access, size_t *access_len);

/* Ids inside an ACL (LEN bytes, changed in place) from disk to view or back. 0 or -EINVAL (id has no place on disk). */
int ov_acl_map(const struct overlay *ov, void *acl, size_t len, bool to_disk);

#define OV_ACL_ACCESS "system.posix_acl_access"
#define OV_ACL_DEFAULT "system.posix_acl_default"

#endif
