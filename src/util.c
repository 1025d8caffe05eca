/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "core.h"

#define RECENT_SECONDS 300

void ov_real_release(struct ov_real *r)
{
	if (!r->ov)
		return;
	if (r->slot)
		ov_fdslot_unpin(&r->ov->fds, r->slot);
	if (r->rdir)
		ov_rdir_put_fd(&r->ov->fds, r->rdir);
	ov_rdir_unref(&r->ov->fds, r->rdir);
	r->slot = NULL;
	r->rdir = NULL;
}

int ov_real_get_name(struct overlay *ov, struct ov_rdir *rdir, const char *name, struct ov_real *out)
{
	int fd = ov_rdir_get_fd(&ov->fds, rdir);

	*out = (struct ov_real){.ov = ov};
	if (fd < 0)
		return fd;
	out->rdir = ov_rdir_ref(rdir);
	out->layer = rdir->layer;
	out->at = ov_at_name(fd, name);
	return 0;
}

static int real_get_dir(struct overlay *ov, struct ov_inode *i, struct ov_real *out)
{
	struct ov_rdir *d = i->rdirs[0];
	int fd = -1;

	out->layer = d->layer;
	if (d->parent) {
		fd = ov_fdslot_pin(&ov->fds, &d->slot, false);
		if (fd < 0 && !ov_inode_is(i, OV_I_UNLINKED)) /* by name in its parent, without opening it */
			return ov_real_get_name(ov, d->parent, d->name, out);
	}
	if (fd < 0)
		fd = ov_rdir_get_fd(&ov->fds, d);
	if (fd < 0)
		return fd;
	out->rdir = ov_rdir_ref(d);
	out->at = ov_at_fd(fd);
	return 0;
}

int ov_real_get(struct overlay *ov, struct ov_inode *i, struct ov_real *out)
{
	const char *name;

	*out = (struct ov_real){.ov = ov};
	if (ov_inode_isdir(i))
		return real_get_dir(ov, i, out);
	out->layer = i->rparent->layer;
	name = ov_inode_rname(i);
	if (name)
		return ov_real_get_name(ov, i->rparent, name, out);
	out->slot = ov_fdslot_get(&ov->fds, &i->slot, false);
	if (!out->slot)
		return -ESTALE;
	out->at = ov_at_fd(out->slot->fd);
	return 0;
}

const char *ov_path(struct overlay *ov, uint64_t nodeid, char *buf, size_t size)
{
	struct ov_inode *i = ov_inode_find(&ov->tab, nodeid);
	size_t pos = size - 1;

	buf[pos] = '\0';
	pthread_mutex_lock(&ov->tab.lock);
	for (; i && i->names; i = i->names->parent) {
		size_t len = strlen(i->names->name);

		if (len + 1 > pos)
			break; /* the end of a long path is the telling part */
		pos -= len;
		memcpy(buf + pos, i->names->name, len);
		buf[--pos] = '/';
	}
	pthread_mutex_unlock(&ov->tab.lock);
	return buf[pos] ? buf + pos : i == ov->root ? "/" : "a deleted file";
}

bool ov_is_recent(const struct statx_timestamp *mtime)
{
	struct timespec now = {0};

	clock_gettime(CLOCK_REALTIME_COARSE, &now);
	return mtime->tv_sec > now.tv_sec - RECENT_SECONDS && mtime->tv_sec < now.tv_sec + RECENT_SECONDS;
}

int ov_prepend(char *buf, size_t *pos, const char *part)
{
	size_t len = strlen(part);

	if (len + 1 > *pos)
		return -ENAMETOOLONG;
	*pos -= len;
	memcpy(buf + *pos, part, len);
	buf[--*pos] = '/';
	return 0;
}

void ov_tmp_name(struct overlay *ov, char *buf)
{
	snprintf(buf, 32, "#%llx", (unsigned long long)__atomic_add_fetch(&ov->ledger->tmp_counter, 1, __ATOMIC_RELAXED));
}

uint64_t ov_make_ino(const struct overlay *ov, const struct ov_layer *layer, uint64_t ino)
{
	if (ov->fsid_shift < 64 && layer->fsid) {
		if (ino >> ov->fsid_shift) /* no room above the number: fold it, as good as can be */
			ino = (ino ^ (ino >> ov->fsid_shift)) & ((1ULL << ov->fsid_shift) - 1);
		ino |= (uint64_t)layer->fsid << ov->fsid_shift;
	}
	if (ov->cfg.ino32)
		ino = (uint32_t)(ino ^ (ino >> 32));
	return ino;
}

const char *ov_describe(const struct ov_rdir *dir, const char *name, char *buf, size_t size)
{
	char path[1024];

	snprintf(buf, size, "%s:%s%s%s", dir->layer->path, ov_rdir_path(dir, path, sizeof(path)),
		 dir->parent || !name ? "/" : "", name ? name : "");
	return buf;
}
