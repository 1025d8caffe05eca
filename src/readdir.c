/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Directory listings of the merged view. */

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>

#include "core.h"
#include "format/whiteout.h"
#include "listing.h"

#define GETDENTS_BUF (64 * 1024)
#define LISTINGS_MAX (32u << 20) /* bytes of listings kept; the oldest go first */

/* A directory of so many layers keeps its listing, by which lookups go straight to the layer that has a name. */
#define INDEX_LAYERS 4
#define INDEX_AFTER 4          /* it is made after so many lookups; that costs about as much as they did */
#define INDEX_NAMES_MAX 100000 /* not of more names */
#define INDEX_NEVER UINT16_MAX

struct linux_dirent64 {
	uint64_t d_ino;
	int64_t d_off;
	uint16_t d_reclen;
	uint8_t d_type;
	char d_name[];
};

/* Called for each name of a real directory. HIDDEN: NAME is hidden by a whiteout. Nonzero ends the scan. */
typedef int (*scan_cb)(void *arg, const char *name, unsigned type, bool hidden);

#define LEARN_AFTER 6         /* so many names are looked for in vain before a directory is looked through for OCI whiteouts */
#define LEARN_NEVER UINT8_MAX
#define LEARN_READS 4         /* and it is not if it is larger than so many buffers */

/* Has directory FD ".wh." names? 1, 0, -errno; -E2BIG: it is too large to look. */
static int has_oci_names(int fd)
{
	ov_cleanup_free char *buf = malloc(GETDENTS_BUF);
	ov_cleanup_fd int own = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	long n;

	if (!buf || own < 0)
		return buf ? -errno : -ENOMEM;
	for (int reads = 0; (n = syscall(SYS_getdents64, own, buf, GETDENTS_BUF)) > 0; reads++) {
		if (reads == LEARN_READS)
			return -E2BIG;
		for (long pos = 0; pos < n;) {
			struct linux_dirent64 *de = (void *)(buf + pos);

			if (ov_whiteout_oci_parse(de->d_name, NULL))
				return 1;
			pos += de->d_reclen;
		}
	}
	return n < 0 ? -errno : 0;
}

/* WH stays what another has made of it meanwhile: a whiteout that is made says so before it is there. */
static void learn_wh(struct ov_rdir *d, enum ov_wh_state wh)
{
	uint8_t unknown = OV_WH_UNKNOWN;

	__atomic_compare_exchange_n(&d->wh, &unknown, (uint8_t)wh, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

void ov_learn_oci_names(struct ov_rdir *d, int fd)
{
	uint8_t misses = __atomic_load_n(&d->misses, __ATOMIC_RELAXED);
	int r;

	if (misses == LEARN_NEVER)
		return;
	__atomic_store_n(&d->misses, misses < LEARN_AFTER ? misses + 1 : LEARN_NEVER, __ATOMIC_RELAXED);
	if (misses < LEARN_AFTER)
		return;
	r = has_oci_names(fd);
	if (r >= 0)
		learn_wh(d, r ? OV_WH_SOME : OV_WH_NONE);
}

/* What a scan has found out on its way. */
struct scan {
	bool has_wh;           /* there are whiteouts of kind OCI, or what looks so */
	uint64_t whiteout_ino; /* of a whiteout in this directory: the others are hard links of it, as a rule */
};

static int scan_special(struct overlay *ov, struct ov_rdir *d, int fd, const struct linux_dirent64 *de, scan_cb cb, void *arg,
			struct scan *sc)
{
	const char *name = de->d_name;
	unsigned type = de->d_type;
	const char *hidden = NULL;
	struct statx stx;
	int r;

	if (ov_whiteout_oci_parse(name, &hidden)) {
		sc->has_wh = true;
		if (type == DT_REG || type == DT_DIR || type == DT_UNKNOWN) {
			r = ov_at_statx(ov_at_name(fd, name), STATX_BASIC_STATS, &stx);
			if (r == 0)
				r = ov_whiteout_oci_is_real(ov_at_name(fd, name), &stx);
			if (r > 0)
				return *hidden && !ov_whiteout_is_oci_meta(name) ? cb(arg, hidden, DT_UNKNOWN, true) : 0;
			if (r < 0 && r != -ENOENT)
				return r;
		}
	}
	if (type == DT_CHR && de->d_ino == sc->whiteout_ino)
		return cb(arg, name, type, true);
	r = ov_probe(ov, d, fd, name, &stx);
	if (r == -ENOENT)
		return 0;
	if (r == 1 && type == DT_CHR)
		sc->whiteout_ino = de->d_ino;
	if (r < 0) { /* it is there, but cannot be looked at: the lookup will tell */
		return cb(arg, name, type, false);
	}
	return cb(arg, name, IFTODT(stx.stx_mode), r == 1);
}

/* Must this entry be looked at before we know what it is? */
static bool is_special(const struct overlay *ov, const struct ov_rdir *d, const char *name, unsigned type)
{
	enum ov_override kind = d->layer->upper ? ov->override : d->layer->override;

	return type == DT_CHR || type == DT_UNKNOWN || (type == DT_REG && (ov_layer_has_xwhiteouts(d->layer) || kind)) ||
	       ov_whiteout_oci_parse(name, NULL);
}

/*
 * All names of the real directory D. Whiteouts of kind OCI are told in a first pass over the same entries, since ".wh.x" hides
 * what is below only, never "x" beside it: the caller's first-come rule needs objects before hidden names.
 */
static int scan_real(struct overlay *ov, struct ov_rdir *d, scan_cb cb, void *arg)
{
	ov_cleanup_rfd struct ov_rfd f = ov_rfd_get(&ov->fds, d);
	ov_cleanup_free char *buf = NULL;
	ov_cleanup_fd int fd = -1;
	struct scan sc = {0};
	bool told = false;
	int r = 0;

	if (f.fd < 0)
		return f.fd;
	buf = malloc(GETDENTS_BUF);
	if (!buf)
		return -ENOMEM;
	/* an open file of its own: the cached fd's position is shared */
	fd = openat(f.fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	for (int pass = 0; pass < 2 && r == 0; pass++) {
		long n;

		if (pass == 1 && (!sc.has_wh || lseek(fd, 0, SEEK_SET) < 0))
			break;
		while (r == 0 && (n = syscall(SYS_getdents64, fd, buf, GETDENTS_BUF)) != 0) {
			if (n < 0)
				return -errno;
			if (n > GETDENTS_BUF / 2 && !told && ov->hooks.will_block) {
				ov->hooks.will_block(ov->hooks.arg); /* a large one: others are served meanwhile */
				told = true;
			}
			for (long pos = 0; r == 0 && pos < n;) {
				struct linux_dirent64 *de = (void *)(buf + pos);
				bool oci;

				pos += de->d_reclen;
				if (strcmp(de->d_name, ".") == 0 || strcmp(de->d_name, "..") == 0)
					continue;
				oci = ov_whiteout_oci_parse(de->d_name, NULL);
				if (oci != (pass == 1)) {
					sc.has_wh |= oci;
					continue;
				}
				if (is_special(ov, d, de->d_name, de->d_type))
					r = scan_special(ov, d, f.fd, de, cb, arg, &sc);
				else
					r = cb(arg, de->d_name, de->d_type, false);
			}
		}
	}
	if (r == 0) /* a whole scan: later lookups need not ask for OCI whiteouts */
		learn_wh(d, sc.has_wh ? OV_WH_SOME : OV_WH_NONE);
	return r;
}

struct builder {
	struct ov_listing *l;
	unsigned height;
	size_t max;
};

static int put_name(void *arg, const char *name, unsigned type, bool hidden)
{
	struct builder *b = arg;

	if (b->l->n >= b->max)
		return -E2BIG;
	return ov_listing_put(b->l, name, type, hidden, b->height);
}

static void listing_unlink(struct overlay *ov, struct ov_listing *l)
{
	if (l->prev)
		l->prev->next = l->next;
	else if (ov->listings == l)
		ov->listings = l->next;
	if (l->next)
		l->next->prev = l->prev;
	else if (ov->listings_last == l)
		ov->listings_last = l->prev;
	l->prev = l->next = NULL;
}

static void listing_push(struct overlay *ov, struct ov_listing *l)
{
	l->next = ov->listings;
	if (l->next)
		l->next->prev = l;
	else
		ov->listings_last = l;
	ov->listings = l;
}

/* Take the listing away from DIR. ov->listings_lock held. */
static void forget_listing(struct overlay *ov, struct ov_inode *dir)
{
	struct ov_listing *l = dir->listing;

	if (!l)
		return;
	dir->listing = NULL;
	l->owner = NULL;
	listing_unlink(ov, l);
	ov->listing_bytes -= l->counted;
	ov_listing_unref(l);
}

void ov_listing_drop(struct overlay *ov, struct ov_inode *dir)
{
	pthread_mutex_lock(&ov->listings_lock);
	forget_listing(ov, dir);
	pthread_mutex_unlock(&ov->listings_lock);
}

struct ov_listing *ov_listing_get(struct overlay *ov, struct ov_inode *dir)
{
	struct ov_listing *l;

	pthread_mutex_lock(&ov->listings_lock);
	l = dir->listing ? ov_listing_ref(dir->listing) : NULL;
	if (l && l->prev) { /* the least recently used one goes first */
		listing_unlink(ov, l);
		listing_push(ov, l);
	}
	pthread_mutex_unlock(&ov->listings_lock);
	return l;
}

/* Too many bytes: drop the least recently used ones, but not KEEP. ov->listings_lock held. */
static void evict_listings(struct overlay *ov, const struct ov_listing *keep)
{
	while (ov->listing_bytes > LISTINGS_MAX && ov->listings_last && ov->listings_last != keep) {
		struct ov_inode *owner = ov->listings_last->owner;

		__atomic_store_n(&owner->searches, 0, __ATOMIC_RELAXED);
		forget_listing(ov, owner);
	}
}

/* Give L (referenced for the caller, too) to DIR; if another thread was faster its listing is used. */
static struct ov_listing *listing_set(struct overlay *ov, struct ov_inode *dir, struct ov_listing *l)
{
	size_t size = ov_listing_size(l);
	struct ov_listing *old;

	pthread_mutex_lock(&ov->listings_lock);
	if (dir->listing) {
		old = ov_listing_ref(dir->listing);
		pthread_mutex_unlock(&ov->listings_lock);
		ov_listing_unref(l);
		return old;
	}
	dir->listing = ov_listing_ref(l);
	l->owner = dir;
	listing_push(ov, l);
	l->counted = size;
	ov->listing_bytes += size;
	evict_listings(ov, l);
	pthread_mutex_unlock(&ov->listings_lock);
	return l;
}

/* L, if it is still DIR's, has SIZE bytes now. */
static void listing_grew(struct overlay *ov, const struct ov_inode *dir, struct ov_listing *l, size_t size)
{
	pthread_mutex_lock(&ov->listings_lock);
	if (dir->listing == l && size > l->counted) {
		ov->listing_bytes += size - l->counted;
		l->counted = size;
		evict_listings(ov, l);
	}
	pthread_mutex_unlock(&ov->listings_lock);
}

int ov_listing_make(struct overlay *ov, struct ov_inode *dir, size_t max, struct ov_listing **out)
{
	struct builder b = {.l = ov_listing_new(), .max = max};
	int r = b.l ? 0 : -ENOMEM;

	for (unsigned n = 0; r == 0 && n < dir->nrdirs && !ov_inode_is(dir, OV_I_UNLINKED); n++) {
		b.height = dir->nrdirs - n;
		r = scan_real(ov, dir->rdirs[n], put_name, &b);
	}
	if (r == 0)
		r = ov_listing_seal(b.l);
	if (r < 0) {
		ov_listing_unref(b.l);
		return r;
	}
	*out = b.l;
	return 0;
}

/* The same, and DIR has it from now on. */
static int build_listing(struct overlay *ov, struct ov_inode *dir, size_t max, struct ov_listing **out)
{
	struct ov_listing *l = NULL;
	int r = ov_listing_make(ov, dir, max, &l);

	if (r == 0)
		*out = listing_set(ov, dir, l);
	return r;
}

/* Copy-up adds one in front, the others stay. */
unsigned ov_listing_layer(const struct ov_inode *dir, unsigned height)
{
	return height && height <= dir->nrdirs ? dir->nrdirs - height : 0;
}

/* A listing of DIR to look names up in, made when enough of them were asked for; NULL if it has none. */
static struct ov_listing *index_get(struct overlay *ov, struct ov_inode *dir)
{
	struct ov_listing *l = ov_listing_get(ov, dir);
	unsigned n;
	int r;

	if (l)
		return l;
	n = __atomic_load_n(&dir->searches, __ATOMIC_RELAXED);
	if (n < INDEX_AFTER)
		__atomic_store_n(&dir->searches, (uint16_t)(n + 1), __ATOMIC_RELAXED);
	if (n < INDEX_AFTER || n == INDEX_NEVER)
		return NULL;
	r = build_listing(ov, dir, INDEX_NAMES_MAX, &l);
	if (r == 0)
		return l;
	__atomic_store_n(&dir->searches, INDEX_NEVER, __ATOMIC_RELAXED);
	return NULL;
}

int ov_listing_where(struct overlay *ov, struct ov_inode *dir, const char *name, unsigned *first)
{
	struct ov_listing *l;
	unsigned height = 0;
	bool found;

	*first = 0;
	if (dir->nrdirs < INDEX_LAYERS || ov_inode_is(dir, OV_I_UNLINKED))
		return 0;
	l = index_get(ov, dir);
	if (!l)
		return 0;
	found = ov_listing_find(l, name, &height);
	ov_listing_unref(l);
	*first = ov_listing_layer(dir, height);
	return found ? 0 : -ENOENT;
}

void ov_listing_add(struct overlay *ov, struct ov_inode *dir, const char *name, unsigned type)
{
	struct ov_listing *l = ov_listing_get(ov, dir);
	size_t size;

	if (!l)
		return;
	if (ov_listing_insert(l, name, IFTODT(type & S_IFMT), &size) < 0)
		ov_listing_drop(ov, dir);
	else
		listing_grew(ov, dir, l, size);
	ov_listing_unref(l);
}

void ov_listing_del(struct overlay *ov, struct ov_inode *dir, const char *name)
{
	struct ov_listing *l = ov_listing_get(ov, dir);

	if (!l)
		return;
	ov_listing_remove(l, name);
	ov_listing_unref(l);
}

/* ---- emptiness ---- */

struct empty_check {
	struct ov_listing *seen;
	bool last;
	bool found;
};

static int check_name_seen(void *arg, const char *name, unsigned type, bool hidden)
{
	struct empty_check *c = arg;
	size_t before = c->seen->n;
	int r = ov_listing_put(c->seen, name, type, hidden, 0);

	if (r < 0)
		return r;
	if (!hidden && c->seen->n > before) { /* not hidden by a higher layer */
		c->found = true;
		return 1;
	}
	return 0;
}

int ov_dir_is_empty(struct overlay *ov, struct ov_inode *dir)
{
	struct empty_check c = {.seen = ov_listing_new()};
	int r = c.seen ? 0 : -ENOMEM;

	for (unsigned n = 0; r == 0 && n < dir->nrdirs; n++)
		r = scan_real(ov, dir->rdirs[n], check_name_seen, &c);
	ov_listing_unref(c.seen);
	return r < 0 ? r : !c.found;
}

/* ---- what the kernel keeps ---- */

/*
 * The kernel keeps a listing that it has read to its end, and the attributes that came with it. But with the writeback cache
 * it forgets part of a file's when the file is closed, and the next stat is a question of its own: as many as there are files
 * for who goes through a tree once more. READDIRPLUS brings them for all. So where enough children of a directory are read or
 * asked for, its listing is dropped; and it is not kept for the next times, since when that spares the questions nobody sees
 * that it does. Then it is kept again, for once, if the questions do not come back.
 *
 * Whoever lists a directory for each few of its files makes them enough, too, but not at once: then the directory is listed
 * again sooner than its files were asked for. So much is seen of it that it is kept then, and more must be asked for next time.
 */
#define TOUCHED_MIN 8 /* children: for less, two READDIRPLUS and what follows them (the directory's own attributes) cost more */
#define TOUCHED_PART 8 /* and one of so many: each of the others makes the reply longer */
#define LEVEL_MAX 6

/* touch_level: it was not kept for 2^helped - 1 times; 2^vain times as much must be asked for. */
struct level {
	unsigned helped, vain;
};

static struct level level_of(const struct ov_inode *dir)
{
	unsigned both = __atomic_load_n(&dir->touch_level, __ATOMIC_RELAXED);

	return (struct level){.helped = both & 15, .vain = both >> 4};
}

static void set_level(struct ov_inode *dir, struct level level)
{
	__atomic_store_n(&dir->touch_level, (uint8_t)(level.helped | level.vain << 4), __ATOMIC_RELAXED);
}

/* Wraps after 71 minutes: then once a listing is kept that need not be, or not. */
static uint32_t now_us(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint32_t)((uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000);
}

void ov_listing_touched(struct overlay *ov, const struct ov_inode *i)
{
	struct ov_inode *dir;
	struct level level;
	unsigned n;

	if (!ov->hooks.unlist || !S_ISREG(i->type) || ov_inode_is(i, OV_I_STALE) || !i->names)
		return; /* a stale one's names may be going, and its directory's listing is not known to be kept */
	dir = i->names->parent;
	n = __atomic_load_n(&dir->untouched, __ATOMIC_RELAXED);
	if (n == 0)
		return;
	__atomic_store_n(&dir->untouched, (uint16_t)(n - 1), __ATOMIC_RELAXED);
	if (n > 1)
		return;
	level = level_of(dir);
	if (level.helped < LEVEL_MAX)
		level.helped++;
	set_level(dir, level);
	__atomic_store_n(&dir->unkept, (uint8_t)((1u << level.helped) - 1), __ATOMIC_RELAXED);
	__atomic_store_n(&dir->touched_in, now_us() - __atomic_load_n(&dir->listed_at, __ATOMIC_RELAXED), __ATOMIC_RELAXED);
	ov->hooks.unlist(ov->hooks.arg, dir->nodeid);
}

/*
 * DIR, which the kernel did not keep the last time, has been listed again. May all that made it drop the listing before have
 * been asked for since, had it not been told?
 */
static struct level judge(const struct ov_inode *dir, struct level level, uint32_t now)
{
	if (now - __atomic_load_n(&dir->listed_at, __ATOMIC_RELAXED) >= __atomic_load_n(&dir->touched_in, __ATOMIC_RELAXED)) {
		level.vain -= level.vain > 0;
	} else {
		level.helped = 0;
		level.vain += level.vain < LEVEL_MAX;
	}
	return level;
}

static void keep_again(struct ov_inode *dir, size_t n, struct level level)
{
	size_t most = n / TOUCHED_PART;

	most = (most < TOUCHED_MIN ? TOUCHED_MIN : most) << level.vain;
	__atomic_store_n(&dir->untouched, (uint16_t)(most > UINT16_MAX ? UINT16_MAX : most), __ATOMIC_RELAXED);
	__atomic_store_n(&dir->unkept, 0, __ATOMIC_RELAXED);
}

/* The kernel has been told all N names of DIR: had it better not keep them? */
static bool is_unkept(struct overlay *ov, struct ov_inode *dir, size_t n)
{
	unsigned unkept = __atomic_load_n(&dir->unkept, __ATOMIC_RELAXED);
	bool kept = __atomic_load_n(&dir->untouched, __ATOMIC_RELAXED);
	struct level level = level_of(dir);
	uint32_t now;

	if (!ov->hooks.unlist)
		return false;
	now = now_us();
	if (!kept && level.helped && unkept < (1u << level.helped) - 1) { /* not for the first time since it was dropped */
		level = judge(dir, level, now);
		set_level(dir, level);
		unkept = level.helped ? unkept : 0;
	}
	__atomic_store_n(&dir->listed_at, now, __ATOMIC_RELAXED);
	if (unkept)
		__atomic_store_n(&dir->unkept, (uint8_t)(unkept - 1), __ATOMIC_RELAXED);
	else
		keep_again(dir, n, level);
	return unkept;
}

/* ---- reading ---- */

#define REPLY_DIRS_MAX 256 /* directories of one reply that may be read ahead */

struct reader {
	struct overlay *ov;
	struct ov_inode *dir;
	struct ov_ahead_dir *ahead; /* what is known of it already, or NULL */
	uint64_t children[REPLY_DIRS_MAX];
	unsigned nchildren;
	uint64_t last; /* cookie of the last name taken */
	unsigned ntaken;
	bool searched; /* not all names were known already */
	bool plus;
	ov_fits_t fits;
	ov_filldir_t fill;
	void *arg;
};

/* "." or "..": false if the reply is full. */
static bool emit_dot(struct reader *rd, const char *name, uint64_t cookie)
{
	struct ov_inode *i = rd->dir;
	struct ov_entry entry = {0};

	if (cookie == OV_COOKIE_DOTDOT && i->names)
		i = i->names->parent;
	entry.attr.stx_ino = i->ino;
	entry.attr.stx_mode = S_IFDIR;
	return !rd->fits(rd->arg, name) ? false : rd->fill(rd->arg, name, &entry, cookie);
}

/* What is known of the next name already, or NULL. */
static struct ov_found *known_ahead(struct reader *rd, uint64_t cookie)
{
	while (rd->ahead) {
		struct ov_found *f = ov_ahead_find(rd->ahead, cookie);

		if (f || !ov_ahead_is_over(rd->ahead))
			return f;
		ov_ahead_put(rd->ov, rd->ahead);
		rd->ahead = ov_ahead_take(rd->ov, rd->dir);
	}
	return NULL;
}

/* One name: 0 taken or passed over, 1 full, -errno. */
static int emit(struct reader *rd, const char *name, const struct ov_lname *e)
{
	struct ov_entry entry = {0};
	struct ov_found *ready;
	uint64_t cookie = e->cookie;
	unsigned type = e->type;
	int r;

	if (!rd->fits(rd->arg, name))
		return 1;
	ready = known_ahead(rd, cookie);
	r = ov_lookup_from(rd->ov, rd->dir, name, ov_listing_layer(rd->dir, e->height), rd->plus, ready, &entry);
	if (ready && r == 0 && !ready->exists)
		ov_ahead_found(rd->ov, rd->ahead, entry.nodeid);
	rd->searched |= r == 0;
	r = r == 1 ? 0 : r;
	if (r == -ENOENT || (r == 0 && !entry.nodeid && !entry.attr.stx_mode))
		return 0; /* went meanwhile */
	if (r < 0) { /* cannot be looked up: still a name; the error comes when it is used */
		entry = (struct ov_entry){0};
		entry.attr.stx_mode = (uint16_t)DTTOIF(type);
		entry.attr.stx_ino = cookie;
	}
	if (rd->fill(rd->arg, name, &entry, cookie)) {
		if (rd->plus && S_ISDIR(entry.attr.stx_mode) && entry.nodeid && rd->nchildren < REPLY_DIRS_MAX)
			rd->children[rd->nchildren++] = entry.nodeid;
		rd->last = cookie;
		rd->ntaken++;
		return 0;
	}
	if (entry.nodeid && rd->plus)
		ov_inode_forget(&rd->ov->tab, entry.nodeid, 1);
	return 1;
}

/* The names of DIR, referenced: as they are known, or read now. */
static int names_of(struct reader *rd, struct ov_listing **out)
{
	*out = ov_listing_get(rd->ov, rd->dir);
	if (!*out) {
		*out = ov_ahead_listing(rd->ahead);
		*out = *out ? listing_set(rd->ov, rd->dir, *out) : NULL;
	}
	return *out ? 0 : build_listing(rd->ov, rd->dir, SIZE_MAX, out);
}

/* The names of L after OFF: 0, 1 if the reply is full, -errno. *OVER: there were none. *COUNT: all that there are. */
static int emit_names(struct reader *rd, struct ov_listing *l, uint64_t off, bool *over, size_t *count)
{
	int r;

	pthread_mutex_lock(&l->lock);
	r = ov_listing_settle(l);
	for (size_t n = ov_listing_after(l, off); r == 0 && n < l->n; n++) {
		if (l->e[n].gone)
			continue;
		*over = false;
		r = emit(rd, l->names + l->e[n].name, &l->e[n]);
	}
	*count = l->n;
	pthread_mutex_unlock(&l->lock);
	return r;
}

int ov_readdir(struct overlay *ov, struct ov_inode *dir, uint64_t off, bool plus, ov_fits_t fits, ov_filldir_t fill,
	       void *arg)
{
	struct reader rd = {.ov = ov, .dir = dir, .plus = plus, .fits = fits, .fill = fill, .arg = arg};
	struct ov_listing *l = NULL;
	size_t count = 0;
	bool over = off >= OV_COOKIE_DOTDOT;
	int r = 0;

	if (!ov_inode_isdir(dir))
		return -ENOTDIR;
	OV_NS_READ(ov);
	if (off < OV_COOKIE_DOT && !emit_dot(&rd, ".", OV_COOKIE_DOT))
		return 0;
	if (off < OV_COOKIE_DOTDOT && !emit_dot(&rd, "..", OV_COOKIE_DOTDOT))
		return 0;
	if (plus) {
		if (off == 0)
			ov_ahead_note(ov, dir);
		rd.ahead = ov_ahead_take(ov, dir);
	}
	r = names_of(&rd, &l);
	if (r == 0)
		r = emit_names(&rd, l, off, &over, &count);
	ov_ahead_put(ov, rd.ahead);
	if (r == 1 && plus && rd.searched && rd.ntaken)
		ov_ahead_go_on(ov, dir, rd.last, rd.ntaken);
	if (r < 0 && !l)
		return r;
	if (rd.nchildren)
		ov_ahead_add(ov, dir, rd.children, rd.nchildren);
	over = over && r == 0;
	if (r == -ENOMEM)
		ov_listing_drop(ov, dir);
	else if (over && dir->nrdirs < INDEX_LAYERS)
		ov_listing_drop(ov, dir); /* that was the request which finds the end: the kernel has it all */
	ov_listing_unref(l);
	if (over && plus && is_unkept(ov, dir, count))
		ov->hooks.unlist(ov->hooks.arg, dir->nodeid); /* once it has it all: half a listing would get stuck in the kernel */
	return r < 0 ? r : 0;
}
