/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_INODE_H
#define OV_INODE_H

/*
 * Inodes of the merged view, and the names that lead to them.
 *
 * Lock order, outermost first:
 *   1. OV_I_BUSY of an inode (ov_inode_busy_begin/_end): one copy-up or other long change of that inode at a time.
 *      One at a time; only with that of an indexed file those of its names' directories may be taken, never the other way
 *      round. No other lock may be held when taking it.
 *   2. overlay.times[], over one write or one setattr of that file. Without ns when taken.
 *   3. overlay.ns, a rwlock: names, parents and layers of inodes hold still while it is read-held; renaming,
 *      unlinking and the last step of a copy-up take it for writing, over a few syscalls, never over data or fsync.
 *   4. overlay.revive
 *   5. a listing's mutex (listing.h)
 *   6. ov_itable.lock: the hash tables, counts, flags and name lists.
 *   7. ov_fdcache.lock, ov_ahead.lock (overlay.h), and the arena's
 * The kernel adds: changes in one directory exclude each other and lookups in it, and a nodeid in a request is not
 * forgotten before the reply.
 */

#include <pthread.h>
#include <stdint.h>
#include <sys/stat.h>

#include "arena.h"
#include "dirhandle.h"
#include "filehandle.h"
#include "ledger.h"
#include "util.h"

#define OV_ROOT_ID 1

enum {
	OV_I_UPPER = 1 << 0,    /* the object is in the upper layer (for a directory: rdirs[0] is) */
	/*
	 * The names we knew are gone; kept for open files. An upper object is reached through a held fd, also when a lookup
	 * has met another of its hard links since: the next change of its names (under the lock for it) makes that its place.
	 */
	OV_I_UNLINKED = 1 << 1,
	OV_I_BUSY = 1 << 2,
	OV_I_KEYED = 1 << 3,    /* in the identity table */
	OV_I_METACOPY = 1 << 4, /* attributes in the upper, data still in the lower (data) */
	OV_I_NOCAP = 1 << 5,    /* known to have no security.capability */
	OV_I_PROPS = 1 << 6,    /* directory: the next two are known */
	OV_I_SGID = 1 << 7,
	OV_I_DEFACL = 1 << 8,
	OV_I_IMPURE = 1 << 9,   /* directory: known to carry overlay.impure */
	OV_I_INDEXED = 1 << 10, /* hard links of a lower kept together through the index */
	OV_I_TMPFILE = 1 << 11, /* made by O_TMPFILE: may get a name */
	OV_I_LOWERLINKS = 1 << 12, /* a lower file with several names, each its own inode here unless there is an index */
	OV_I_NOPROT = 1 << 14,  /* known to have no overlay.protattr */
	OV_I_LOWERNAMES = 1 << 13, /* indexed: some of its names here may be in a lower only */
	/*
	 * Left by a worker that died: only what the ledger keeps is known (nodeid, type, st_ino, names, count). Its object is
	 * searched when it is first needed (ov_revive()).
	 */
	OV_I_STALE = 1 << 15,
};

/* What is still true of an inode when it comes from another worker. */
#define OV_I_LASTING (OV_I_UPPER | OV_I_UNLINKED | OV_I_KEYED | OV_I_METACOPY | OV_I_TMPFILE)

struct ov_dentry;
struct ov_listing;

/* Identity of a real object. */
struct ov_key {
	uint64_t ino;
	uint32_t fsid;
	uint32_t upper; /* 1: object of the upper, 0: of a lower */
};

/* Where the data of a metacopy file is. */
struct ov_lowerdata {
	struct ov_rdir *dir; /* counted */
	char *name;
	bool verified;
	uint64_t blocks; /* that it occupies, plus one; 0: not known. Read and written atomically */
	struct ov_fdslot *slot; /* open fd, if any, while the file is a metacopy (under the fd cache's lock) */
};

/* DIR is counted, NAME copied. NULL: no memory. */
struct ov_lowerdata *ov_lowerdata_new(struct ov_rdir *dir, const char *name);

/* Where in a lower layer an object (or the data of a metacopy) is that has no name in the view any more. In the arena. */
struct ov_ghost {
	uint32_t magic;
	uint32_t layer;
	char path[]; /* in the layer, "/a/b" */
};

/*
 * In the arena, like ov_dentry: what is marked (L) is what another worker goes on with, and must be true whenever the process
 * dies. Pointers are good in this process only.
 */
struct ov_inode {
	uint32_t magic;     /* (L) OV_INODE_MAGIC */
	int32_t held_fd;    /* (L) the fd through which an object without a name is kept, or -1 */
	struct ov_ghost *ghost; /* (L) or NULL */
	struct ov_inode *id_next;
	struct ov_inode *key_next;
	uint64_t nodeid;         /* (L) */
	uint64_t nlookup;        /* (L) references the kernel holds */
	uint64_t ino;            /* (L) st_ino */
	struct ov_dentry *names; /* first: the one through which the object is reached */
	struct ov_key key;       /* (L) */
	union {
		struct {
			struct ov_rdir **rdirs; /* uppermost first; owned, each counted */
			struct ov_listing *listing;
			/* atomic, µs: when the kernel had been told all of it last, and how long it took until enough was asked for */
			uint32_t listed_at, touched_in;
		};
		struct {
			struct ov_rdir *rparent; /* real directory that holds the object; counted; NULL when unlinked */
			struct ov_fdslot *slot;  /* open fd on the object, if any (under the fd cache's lock) */
			struct ov_lowerdata *data;
		};
	};
	char *rname;        /* non-directory: name in RPARENT where it differs from the first name; owned */
	uint32_t refs;      /* dentries that have this inode as parent, and users inside the daemon */
	uint16_t nrdirs;
	uint16_t flags;     /* (L: OV_I_LASTING) OV_I_*; changed under ov_itable.lock (atomically), read anywhere */
	uint16_t type;      /* (L) S_IFMT bits as the view shows them */
	/* of directories, read and written atomically: */
	uint16_t searches;  /* lookups that went through its layers, up to a limit */
	uint16_t untouched; /* children that may still be asked for before the kernel's copy of the listing goes; 0: it has none */
	uint8_t unkept;     /* so many more times the kernel is not to keep the listing */
	uint8_t touch_level; /* how often that has helped, and how often it has not */
};

struct ov_dentry {
	uint32_t magic;          /* (L) OV_DENTRY_MAGIC */
	uint32_t hash;
	struct ov_dentry *hash_next;
	struct ov_dentry *alias_next;
	struct ov_inode *parent; /* (L) counted in parent->refs */
	struct ov_inode *inode;  /* (L) */
	char name[];             /* (L) */
};

#define OV_INODE_MAGIC 0x4f56494eu
#define OV_DENTRY_MAGIC 0x4f56444eu
#define OV_GHOST_MAGIC 0x4f564748u

struct ov_itable {
	pthread_mutex_t lock;
	pthread_cond_t busy_done;
	struct ov_fdcache *fds;
	struct ov_arena *arena;
	struct ov_ledger *ledger; /* the arena's header */
	struct ov_inode **ids;
	struct ov_inode **keys;
	struct ov_dentry **dents;
	size_t nids, nkeys, ndents; /* entries */
	size_t id_mask, key_mask, dent_mask;
	/* takes a directory's listing away before it is freed; set by the core, which knows listings */
	void (*free_listing)(void *arg, struct ov_inode *dir);
	void *free_listing_arg;
};

/* ARENA, whose header is the ledger, must outlive the table. 0 or -errno. */
int ov_itable_init(struct ov_itable *t, struct ov_fdcache *fds, struct ov_arena *arena);

/*
 * Fill the empty table from what the arena holds: every inode is stale then but the root, which is told by its nodeid and
 * returned in *ROOT. For a process that takes over, before any other use. 0 or -errno.
 */
int ov_itable_recover(struct ov_itable *t, struct ov_inode **root);

/* Call FN for the fd of every inode that is held (of a table that is recovered). */
void ov_itable_each_held(struct ov_itable *t, void (*fn)(void *arg, int fd), void *arg);

/* Free every inode and dentry: for shutdown and tests. */
void ov_itable_destroy(struct ov_itable *t);

/* Flags without tearing: readers look at any time. */
static inline bool ov_inode_is(const struct ov_inode *i, unsigned flag)
{
	return (__atomic_load_n(&i->flags, __ATOMIC_ACQUIRE) & flag) != 0;
}
static inline void ov_inode_set(struct ov_inode *i, unsigned flag)
{
	__atomic_or_fetch(&i->flags, (uint16_t)flag, __ATOMIC_RELEASE);
}
static inline void ov_inode_unset(struct ov_inode *i, unsigned flag)
{
	__atomic_and_fetch(&i->flags, (uint16_t)~flag, __ATOMIC_RELEASE);
}
static inline bool ov_inode_isdir(const struct ov_inode *i)
{
	return S_ISDIR(i->type);
}

/* By nodeid; NULL if unknown. No reference is taken: the kernel holds one while it asks. */
struct ov_inode *ov_inode_find(struct ov_itable *t, uint64_t nodeid);

/*
 * The same for who is not serving a request of it: with a reference, for ov_inode_unref(). NULL also for one that the kernel does not
 * know (yet): it may not be complete.
 */
struct ov_inode *ov_inode_find_ref(struct ov_itable *t, uint64_t nodeid);

/* A fresh inode of TYPE (S_IFMT bits) with a new nodeid, not yet in any table. NULL: no memory. */
struct ov_inode *ov_inode_new(struct ov_itable *t, unsigned type);

/* Put a fresh inode into the nodeid table. */
void ov_inode_insert(struct ov_itable *t, struct ov_inode *i);

/* Free an inode that was never inserted. */
void ov_inode_discard(struct ov_itable *t, struct ov_inode *i);

/* Identity table. set: (re)key I; find: NULL if unknown. The *_locked forms want t->lock held. */
void ov_inode_set_key(struct ov_itable *t, struct ov_inode *i, struct ov_key key);
void ov_inode_set_key_locked(struct ov_itable *t, struct ov_inode *i, struct ov_key key);
void ov_inode_clear_key(struct ov_itable *t, struct ov_inode *i);
struct ov_inode *ov_inode_find_key_locked(struct ov_itable *t, struct ov_key key);

/* A name that is nowhere yet, for ov_dentry_insert_locked() or ov_dentry_free(). NULL: no memory. */
struct ov_dentry *ov_dentry_new(struct ov_itable *t, const char *name);
void ov_dentry_free(struct ov_itable *t, struct ov_dentry *d);

/* Names. add: 0, -EEXIST, -ENOMEM; the new name becomes the first if FRONT. All with t->lock held. */
struct ov_dentry *ov_dentry_find_locked(struct ov_itable *t, const struct ov_inode *parent, const char *name);
int ov_dentry_add_locked(struct ov_itable *t, struct ov_inode *parent, const char *name, struct ov_inode *i, bool front);
/* Put D, which must not be there yet, into PARENT. */
void ov_dentry_insert_locked(struct ov_itable *t, struct ov_inode *parent, struct ov_dentry *d, struct ov_inode *i, bool front);
void ov_dentry_del_locked(struct ov_itable *t, struct ov_dentry *d);

/* Note for another worker that I's lower part is at PATH ("/a/b") of layer LAYER. 0 or -ENOMEM, -ENAMETOOLONG. */
int ov_inode_set_ghost(struct ov_itable *t, struct ov_inode *i, unsigned layer, const char *path);

/* The inode that NAME in PARENT leads to, if known; no reference is taken. */
struct ov_inode *ov_dentry_inode(struct ov_itable *t, const struct ov_inode *parent, const char *name);

/*
 * Raise the kernel's count of I, which is in the table, by one, for an answer or for the time of a request; t->lock held. This
 * is noted where the calling thread has said, so that it can be lowered if the process dies before.
 */
void ov_inode_raise_locked(struct ov_itable *t, struct ov_inode *i);

/*
 * The calling thread, from now on, has room in the table's ledger for OV_LEDGER_RAISED nodeids in NODEIDS, of which *N are in
 * use: the caller sets that to 0 when a request begins.
 */
void ov_inode_notes_raised_in(uint32_t *n, uint64_t *nodeids);

/*
 * Drop N of the kernel's references; frees the inode, and parents it kept alive, when nothing holds it. If the calling thread
 * has noted that it raised this count, the note goes.
 */
void ov_inode_forget(struct ov_itable *t, uint64_t nodeid, uint64_t n);

/*
 * The same for somebody else's note: *NOTE becomes 0 together with it, whenever the process dies. If that is not in the ledger
 * it is lost with the process.
 */
void ov_inode_forget_noted(struct ov_itable *t, uint64_t nodeid, uint64_t n, uint64_t *note);

/* A process that changed T's counts has died: complete the change that it was at. Before any other use of the ledger. */
void ov_itable_complete_recount(struct ov_itable *t);

/* A reference of the daemon's own. */
void ov_inode_ref(struct ov_itable *t, struct ov_inode *i);
void ov_inode_unref(struct ov_itable *t, struct ov_inode *i);

/* Wait until nobody changes I at length, and be the one. No lock may be held. */
void ov_inode_busy_begin(struct ov_itable *t, struct ov_inode *i);
void ov_inode_busy_end(struct ov_itable *t, struct ov_inode *i);

/* Name in the real directory: rname or the first name. Namespace lock held. NULL: it has none. */
const char *ov_inode_rname(const struct ov_inode *i);

#endif
