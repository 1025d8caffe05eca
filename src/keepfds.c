/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "keepfds.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>

#include "sys/io.h"

#define ROOM 64

static void add(void *arg, int fd)
{
	struct ov_fdlist *l = arg;

	if (l->n == l->room) {
		size_t room = l->room ? 2 * l->room : ROOM;
		int *grown = realloc(l->fds, room * sizeof(*grown));

		if (!grown) {
			l->failed = true;
			return;
		}
		l->fds = grown;
		l->room = room;
	}
	l->fds[l->n++] = fd;
}

static int compare(const void *a, const void *b)
{
	return *(const int *)a < *(const int *)b ? -1 : *(const int *)a > *(const int *)b;
}

/* What the inodes of T hold, in order. 0 or -ENOMEM. */
static int list_held(struct ov_fdlist *held, struct ov_itable *t)
{
	ov_itable_each_held(t, add, held);
	if (held->n)
		qsort(held->fds, held->n, sizeof(*held->fds), compare);
	return held->failed ? -ENOMEM : 0;
}

static bool has(const struct ov_fdlist *l, int fd)
{
	return l->n && bsearch(&fd, l->fds, l->n, sizeof(*l->fds), compare);
}

int ov_fds_note(struct ov_fdlist *l, struct ov_itable *t, int except)
{
	struct ov_fdlist held = {0};
	int r = list_held(&held, t);
	DIR *dir = opendir("/proc/self/fd");
	struct dirent *de;

	if (!dir && r == 0)
		r = -errno;
	while (r == 0 && (de = readdir(dir))) {
		int fd = atoi(de->d_name);

		if (de->d_name[0] == '.' || fd == dirfd(dir) || fd == except || has(&held, fd))
			continue;
		add(l, fd);
		r = l->failed ? -ENOMEM : 0;
	}
	if (dir)
		closedir(dir);
	ov_fds_free(&held);
	return r;
}

void ov_fds_close_others(const struct ov_fdlist *l, struct ov_itable *t)
{
	struct ov_fdlist keep = {0};
	unsigned from = 0;

	for (size_t n = 0; n < l->n; n++)
		add(&keep, l->fds[n]);
	if (list_held(&keep, t) == 0) {
		for (size_t n = 0; n < keep.n; n++) {
			ov_close_range(from, (unsigned)keep.fds[n]);
			from = (unsigned)keep.fds[n] + 1;
		}
		ov_close_range(from, ~0U);
	} /* else a leak, and no harm */
	ov_fds_free(&keep);
}

void ov_fds_free(struct ov_fdlist *l)
{
	free(l->fds);
	*l = (struct ov_fdlist){0};
}
