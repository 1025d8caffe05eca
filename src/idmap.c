// SPDX-License-Identifier: GPL-2.0-or-later
/* uidmapping= and gidmapping=: id ranges between the disk and the merged view. */

#include <stdbool.h>
#include <stdint.h>

#include "idmap.h"

/* One decimal id off *P, which is moved behind it. False on no digit, junk, or more than 32 bits. */
static bool read_id(const char **p, uint32_t *out)
{
	const char *s = *p;
	uint64_t v = 0;

	if (*s < '0' || *s > '9')
		return false;
	for (; *s >= '0' && *s <= '9'; s++) {
		v = v * 10 + (uint64_t)(*s - '0');
		if (v > UINT32_MAX)
			return false;
	}
	if (*s != ':' && *s != '\0')
		return false;
	*out = (uint32_t)v;
	*p = s;
	return true;
}

static bool overlap(uint32_t a, uint32_t alen, uint32_t b, uint32_t blen)
{
	return a < (uint64_t)b + blen && b < (uint64_t)a + alen;
}

/* The text that says why R may not join the N ranges before it, or NULL. */
static const char *check_range(const struct ov_idrange *r, const struct ov_idrange *before, size_t n)
{
	if (r->length == 0)
		return "a range of length 0";
	/* The last id is 2^32-2: 2^32-1 means "leave alone" to chown and cannot own anything. */
	if ((uint64_t)r->disk + r->length > UINT32_MAX || (uint64_t)r->view + r->length > UINT32_MAX)
		return "a range passes the largest id 4294967294";
	for (size_t i = 0; i < n; i++) {
		if (overlap(r->disk, r->length, before[i].disk, before[i].length))
			return "two ranges overlap on disk";
		if (overlap(r->view, r->length, before[i].view, before[i].length))
			return "two ranges overlap in the view";
	}
	return NULL;
}

/* The next triple off *P into R; NULL, or why it is none. */
static const char *read_triple(const char **p, struct ov_idrange *r)
{
	uint32_t *field[3] = {&r->disk, &r->view, &r->length};

	for (int i = 0; i < 3; i++) {
		if (i > 0) {
			if (**p == '\0')
				return "not triples DISK:VIEW:LENGTH";
			(*p)++;
		}
		if (!read_id(p, field[i]))
			return "not a number between 0 and 4294967295";
	}
	return NULL;
}

int ov_idmap_parse(struct ov_idmap *map, const char *text, const char **why)
{
	const char *p = text;
	const char *bad = NULL;
	size_t colons = 0;

	*map = (struct ov_idmap){0};
	if (why != NULL)
		*why = NULL;
	if (*p == ':')
		p++;
	/* c/storage writes an empty mapping where there is nothing to map. */
	if (*p == '\0')
		return 0;

	/* Room for all triples at once: every one but the last is followed by a third colon. */
	for (const char *s = p; *s != '\0'; s++)
		colons += *s == ':';
	map->ranges = calloc(colons / 3 + 1, sizeof(*map->ranges));
	if (map->ranges == NULL) {
		if (why != NULL)
			*why = "out of memory";
		return -ENOMEM;
	}
	for (;;) {
		struct ov_idrange *r = &map->ranges[map->n];

		bad = read_triple(&p, r);
		if (bad == NULL)
			bad = check_range(r, map->ranges, map->n);
		if (bad != NULL)
			break;
		map->n++;
		if (*p == '\0')
			return 0;
		p++;
	}
	if (why != NULL)
		*why = bad;
	ov_idmap_clear(map);
	return -EINVAL;
}

uint32_t ov_idmap_to_view(const struct ov_idmap *map, uint32_t id)
{
	if (map->n == 0)
		return id;
	for (size_t i = 0; i < map->n; i++) {
		const struct ov_idrange *r = &map->ranges[i];

		if (id >= r->disk && id - r->disk < r->length)
			return r->view + (id - r->disk);
	}
	return OV_OVERFLOW_ID;
}

bool ov_idmap_to_disk(const struct ov_idmap *map, uint32_t id, uint32_t *out)
{
	if (map->n == 0) {
		*out = id;
		return true;
	}
	for (size_t i = 0; i < map->n; i++) {
		const struct ov_idrange *r = &map->ranges[i];

		if (id >= r->view && id - r->view < r->length) {
			*out = r->disk + (id - r->view);
			return true;
		}
	}
	return false;
}

void ov_idmap_clear(struct ov_idmap *map)
{
	free(map->ranges);
	*map = (struct ov_idmap){0};
}
