/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OV_OVERLAY_H
#define OV_OVERLAY_H

/*
 * liboverlay: the overlay file system as a library, without FUSE. A front (ops.c, the tests) decodes requests, calls
 * these with inodes found by nodeid, and replies. Every function returns 0 (or a count) or -errno, may be called from
 * any thread, and takes the locks it needs itself (order: inode.h).
 */

#include <pthread.h>
#include <stdint.h>
#include <sys/statvfs.h>
#include <sys/types.h>

#include "inode.h"
#include "layer.h"
#include "ov_config.h"
#include "sys/at.h"

/* Who asks, in ids of the view. */
struct ov_cred {
	uid_t uid;
	gid_t gid;
	mode_t umask;
};

/* What a lookup or a creation hands to the front. NODEID 0: there is no such name. */
struct ov_entry {
	uint64_t nodeid;
	struct statx attr; /* in terms of the view: mapped ids, st_ino of the overlay */
};

/* What ov_setattr() shall change. */
enum {
	OV_SET_MODE = 1 << 0,
	OV_SET_UID = 1 << 1,
	OV_SET_GID = 1 << 2,
	OV_SET_SIZE = 1 << 3,
	OV_SET_ATIME = 1 << 4,
	OV_SET_MTIME = 1 << 5,
	/*
	 * chown(path, -1, -1): it moves the ctime and takes setuid and setgid away as any chown does. The kernel tells it from
	 * the removal of privileges at a write, which has nothing to set either, by the ctime it sends for regular files.
	 */
	OV_SET_OWNER_AGAIN = 1 << 7,
	OV_SET_KILL_SUIDGID = 1 << 6, /* with SIZE: clear setuid, and setgid of group-executables */
};

struct ov_setattr {
	unsigned valid;
	mode_t mode;
	uid_t uid;
	gid_t gid;
	off_t size;
	struct timespec atime; /* as utimensat(2): UTIME_NOW allowed */
	struct timespec mtime;
};

/* What the front does for the core. Any may be NULL. */
struct ov_hooks {
	void *arg;
	/* The calling thread is about to do something slow: let another one serve requests. */
	void (*will_block)(void *arg);
	/* Have the data that the kernel still holds of NODEID written to us now; false if that is not possible. */
	bool (*flush_data)(void *arg, uint64_t nodeid);
	/* Attributes of NODEID changed although no request asked for it. */
	void (*inval_attr)(void *arg, uint64_t nodeid);
	/*
	 * NODEID is about to lose a name, and has others, by the request that the calling thread serves. 0: some node has lost one by
	 * it. Locks are held.
	 */
	void (*loses_name)(void *arg, uint64_t nodeid);
	/* The listing of directory NODEID that the kernel keeps is out of date. No lock may be held that reading takes: this may wait. */
	void (*inval_dir)(void *arg, uint64_t nodeid);
	/*
	 * That listing is good, but READDIRPLUS would spare questions: have it dropped in a moment, by another thread. NULL: it would
	 * not.
	 */
	void (*unlist)(void *arg, uint64_t nodeid);
	/* ov_ahead_work() has something to do. Locks are held. */
	void (*look_ahead)(void *arg);
	/* The front's number of the request that the calling thread serves, not 0. */
	uint64_t (*request)(void *arg);
	/* Has that request been given to a worker before, which died? Then the change may be made already. */
	bool (*is_repeat)(void *arg);
	/* The change that the request asks for is made, and must not be made again if it is repeated. */
	void (*done)(void *arg);
};

#define OV_AHEAD_DIRS 64
#define OV_AHEAD_PARENTS 16

struct ov_ahead_dir;
struct ov_ahead_parent;

/* Directories read before they are asked for. */
struct ov_ahead {
	pthread_mutex_t lock; /* of all that follows */
	bool on;              /* atomic: there is a thread for it */
	bool left_behind;     /* of who stops it: it was to end, but a layer does not answer */
	bool idle;            /* it has nothing to do */
	uint64_t current;     /* nodeid of the directory it is at, or 0: none, or what it gathers is not wanted any more */
	uint64_t go_on;       /* nodeid of a directory that is being listed, or 0, */
	uint64_t go_on_after; /* the cookie after which it will be asked for, */
	unsigned go_on_n;     /* and by how many names at a time */
	unsigned news;        /* listings with directories in them */
	uint64_t read;        /* nodeid of the file that was begun to be read last */
	unsigned reads;       /* so many one after the other had numbers in order */
	uint64_t file, file_end; /* nodeids of those that may be next, and are to be opened */
	unsigned steps;       /* of a walk through a tree that were seen */
	struct ov_ahead_parent *parents[OV_AHEAD_PARENTS]; /* directories with others in them; the one in use last comes first */
	unsigned nparents;
	struct ov_ahead_dir *dirs[OV_AHEAD_DIRS]; /* gathered; parts of one in their order */
	unsigned ndirs, allowed; /* so many may be at a time */
	unsigned nout;        /* that requests have in their hands */
	size_t bytes;         /* that those in DIRS take */
	uint64_t used, wasted; /* directories */
	uint64_t opened;      /* files */
};

#define OV_TIME_LOCKS 32

struct overlay {
	struct ov_config cfg; /* owned */
	struct ov_layer *layers; /* uppermost first: the upper (if any), lowers, data-only lowers */
	unsigned nlayers;        /* without data-only ones */
	unsigned ndata;          /* data-only layers, at layers[nlayers] and on */
	struct ov_rdir **roots;  /* root directory of each layer, data-only ones included */
	struct ov_inode *root;
	bool has_upper;          /* layers[0] is writable */
	int work_fd;             /* workdir/work: temporaries */
	int workdir_fd;          /* workdir itself */
	int index_fd;            /* workdir/index, or -1 */
	struct ov_layer index_layer; /* the upper's, rooted in the index; owns nothing */
	struct ov_rdir *index;   /* directory of the index; NULL: index=off */
	int xp;                  /* enum ov_xprefix written to and read from */
	bool trusted;            /* which is trusted.overlay.*: on objects of every type */
	int whiteout_kind;       /* enum ov_whiteout_kind to write */
	enum ov_override override; /* of the upper, where owner and mode are kept in xattrs */
	bool can_exchange, can_rename_whiteout, can_tmpfile, can_link_tmpfile;
	bool privileged;         /* ids can be given away (CAP_CHOWN) */
	bool follow_redirect;
	bool mapped;             /* some id mapping or squashing is on */
	unsigned fsid_shift;     /* st_ino bits below the fs number; 64: one file system */
	dev_t *fsdevs;           /* fs number -> st_dev */
	unsigned nfs;
	uid_t uid;               /* of the daemon */
	gid_t gid;
	uint64_t halves;         /* atomic: changes in two places that were made, which an fsync of one of them could part */
	uint64_t halves_done;    /* atomic: so many of them are on disk for certain */
	bool whiteout_links;     /* whiteouts may be hard links of one inode */
	pthread_rwlock_t ns;
	pthread_mutex_t times[OV_TIME_LOCKS]; /* by nodeid: a write that keeps the mtime, and what sets it */
	struct ov_fdcache fds;
	struct ov_arena arena;   /* inodes and names */
	struct ov_ledger *ledger; /* its header */
	pthread_mutex_t revive;  /* one stale inode at a time */
	const struct ov_handed *handed; /* while it is opened with the fds of another program */
	uint64_t made;           /* front's number of the rename that the last worker died in and that is made; 0: none */
	struct ov_itable tab;
	struct ov_hooks hooks;
	pthread_mutex_t listings_lock;
	struct ov_listing *listings, *listings_last; /* LRU list of listings, newest first */
	size_t listing_bytes;
	struct ov_ahead ahead;
	uint64_t copyups;        /* atomic: objects copied up */
	uint64_t probes;         /* atomic: names looked for in a layer */
};

/* super.c */

/*
 * Open the layers and prepare workdir. MOUNTPOINT_FD (or -1) is where it will be mounted. On failure *OUT is NULL and one
 * line that names the object and the remedy has been logged. CFG is copied in (moved: cleared in the caller).
 */
int ov_open(struct overlay **out, struct ov_config *cfg, int mountpoint_fd);
void ov_close(struct overlay *ov);

/*
 * For a program that shall go on with the mount: the fds that OV stands on as text into BUF, with what cannot be found out from
 * them. They are inheritable from now on, those of objects without a name included. No worker runs. 0 or -errno.
 */
int ov_hand_over(struct overlay *ov, char *buf, size_t size);

/* As ov_open(), in that program: with the fds of HANDOVER, and what the ledger says as after ov_take_over(). */
int ov_open_handed_over(struct overlay **out, struct ov_config *cfg, const char *handover);

/* Leave the upper and workdir as they shall stay, for a process that ends at once without ov_close(). */
void ov_finish(struct overlay *ov);
/* Lines "name count" of what the core has done and holds, in lower case, into BUF; the length that it takes, as snprintf. */
size_t ov_print_state(struct overlay *ov, char *buf, size_t size);
int ov_statfs(struct overlay *ov, struct statvfs *st);
/* Flush what the upper's file system holds (syncfs). */
int ov_sync(struct overlay *ov);

/* revive.c */

/*
 * Go on with what the ledger says, in a process that was forked from the one that opened OV and in which nothing has been
 * done with it yet. Every inode is found again when it is needed. In between READY is called (unless it is NULL): the table
 * holds what there is, ov_itable_each_held() among it, and no file has been opened yet. 0 or -errno, and an error has been
 * logged.
 */
int ov_take_over(struct overlay *ov, void (*ready)(void *arg), void *arg);

/* Was the rename of request NUMBER, during which the last worker died, made? Asked after ov_take_over(). */
bool ov_rename_was_made(const struct overlay *ov, uint64_t number);
/* The front has taken that down. */
void ov_forget_rename(struct overlay *ov);

/* Find the object of a stale inode again. 0, -ESTALE if it is lost, -errno. Nothing is held. */
int ov_revive(struct overlay *ov, struct ov_inode *i);

/* The inode of NODEID, ready for use; NULL if it is not known or lost. */
static inline struct ov_inode *ov_inode_get(struct overlay *ov, uint64_t nodeid)
{
	struct ov_inode *i = ov_inode_find(&ov->tab, nodeid);

	return i && ov_inode_is(i, OV_I_STALE) && ov_revive(ov, i) < 0 ? NULL : i;
}

/* namei.c */

/* Look NAME up in PARENT. 0 with OUT->nodeid 0: no such name. The kernel's reference count goes up if found. */
int ov_lookup(struct overlay *ov, struct ov_inode *parent, const char *name, struct ov_entry *out);
void ov_forget(struct overlay *ov, uint64_t nodeid, uint64_t n);

/* The path of NODEID in the view, for messages: its end if BUF is too small for all of it. */
const char *ov_path(struct overlay *ov, uint64_t nodeid, char *buf, size_t size);

/* attr.c */
int ov_getattr(struct overlay *ov, struct ov_inode *i, struct statx *out);
int ov_setattr(struct overlay *ov, struct ov_inode *i, const struct ov_setattr *set, struct statx *out);
ssize_t ov_readlink(struct overlay *ov, struct ov_inode *i, char *buf, size_t size);

/* readdir.c */

/*
 * One entry of a listing. ENTRY->nodeid is 0 where no lookup was made. Returns false if the reply is full: the entry was not
 * taken.
 */
typedef bool (*ov_filldir_t)(void *arg, const char *name, const struct ov_entry *entry, uint64_t next_off);
/* Would an entry with this name still fit? Asked before the lookup of "plus". */
typedef bool (*ov_fits_t)(void *arg, const char *name);

/* Entries after cookie OFF (0: from the start). PLUS: look every entry up, which counts as a lookup. */
int ov_readdir(struct overlay *ov, struct ov_inode *dir, uint64_t off, bool plus, ov_fits_t fits, ov_filldir_t fill,
	       void *arg);

/* readdir_ahead.c */

/*
 * For a thread of the front's own: gather a directory, or open some files, that will be asked for soon, as it seems. False: there are none;
 * hooks.look_ahead tells when there is.
 */
bool ov_ahead_work(struct overlay *ov);

/* There will be that thread: notice who goes through trees. _stop(): there will not be, and what it is at is not wanted. */
void ov_ahead_start(struct overlay *ov);
void ov_ahead_stop(struct overlay *ov);

/* That thread, once a second while this is true: throw away what nobody has asked for. */
bool ov_ahead_expire(struct overlay *ov);

/*
 * dir.c, rename.c. What makes a name relies on it that NAME is not in the view: the caller has looked it up, and nobody else
 * changes PARENT meanwhile.
 */
int ov_mknod(struct overlay *ov, struct ov_inode *parent, const char *name, mode_t mode, dev_t rdev,
	     const struct ov_cred *cred, struct ov_entry *out);
int ov_mkdir(struct overlay *ov, struct ov_inode *parent, const char *name, mode_t mode, const struct ov_cred *cred,
	     struct ov_entry *out);
int ov_symlink(struct overlay *ov, struct ov_inode *parent, const char *name, const char *target,
	       const struct ov_cred *cred, struct ov_entry *out);
int ov_tmpfile(struct overlay *ov, struct ov_inode *parent, mode_t mode, const struct ov_cred *cred,
	       struct ov_entry *out);
int ov_link(struct overlay *ov, struct ov_inode *i, struct ov_inode *parent, const char *name, struct ov_entry *out);
int ov_unlink(struct overlay *ov, struct ov_inode *parent, const char *name);
int ov_rmdir(struct overlay *ov, struct ov_inode *parent, const char *name);
int ov_rename(struct overlay *ov, struct ov_inode *olddir, const char *oldname, struct ov_inode *newdir,
	      const char *newname, unsigned flags);

/* file.c */
ssize_t ov_read(struct overlay *ov, struct ov_inode *i, void *buf, size_t size, off_t off);
/* For a caller that moves the data itself, from OFF on: the pinned fd on I's data until ov_read_end(). NULL: *ERR tells why. */
struct ov_fdslot *ov_read_begin(struct overlay *ov, struct ov_inode *i, off_t off, int *err);
void ov_read_end(struct overlay *ov, struct ov_fdslot *slot);
/*
 * KILL_SUIDGID: the writer may not keep setuid and setgid. CACHED: written back from a cache that keeps the mtime itself: this
 * write does not move the one that the view shows.
 */
ssize_t ov_write(struct overlay *ov, struct ov_inode *i, const void *buf, size_t size, off_t off, bool kill_suidgid,
		 bool cached);
int ov_fallocate(struct overlay *ov, struct ov_inode *i, int mode, off_t off, off_t len, bool kill_suidgid);
off_t ov_lseek(struct overlay *ov, struct ov_inode *i, off_t off, int whence);
ssize_t ov_copy_range(struct overlay *ov, struct ov_inode *in, off_t off_in, struct ov_inode *out, off_t off_out,
		      size_t len, bool kill_suidgid);
int ov_fsync_inode(struct overlay *ov, struct ov_inode *i, bool datasync);
/* FS_IOC_GETFLAGS and the like: IN_SIZE bytes at IN, at most *OUT_SIZE bytes of answer into OUT. */
int ov_ioctl(struct overlay *ov, struct ov_inode *i, unsigned cmd, const void *in, size_t in_size, void *out,
	     size_t *out_size);

/* xattr.c: names as the view knows them; SIZE 0 asks for the length. */
ssize_t ov_getxattr(struct overlay *ov, struct ov_inode *i, const char *name, void *value, size_t size);
/* TRUSTED: the caller may see trusted.* names. */
ssize_t ov_listxattr(struct overlay *ov, struct ov_inode *i, bool trusted, char *list, size_t size);
/* KILL_SGID: an ACL set by one who may not keep the setgid bit. */
int ov_setxattr(struct overlay *ov, struct ov_inode *i, const char *name, const void *value, size_t size, int flags,
		bool kill_sgid);
int ov_removexattr(struct overlay *ov, struct ov_inode *i, const char *name);

#endif
