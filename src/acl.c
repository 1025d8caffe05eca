/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * POSIX ACLs in their xattr form (acl(5); struct posix_acl_xattr_entry of the kernel): version 2, then entries of
 * tag, permissions and id, all little endian.
 */

#include <endian.h>
#include <string.h>

#include "core.h"

#define ACL_VERSION 2u
enum { ACL_TAG_USER_OBJ = 0x01, ACL_TAG_USER = 0x02, ACL_TAG_GROUP_OBJ = 0x04, ACL_TAG_GROUP = 0x08, ACL_TAG_MASK = 0x10,
       ACL_TAG_OTHER = 0x20 };

struct acl_entry {
	uint16_t tag;
	uint16_t perm;
	uint32_t id;
};

/* Number of entries, or -EINVAL. */
static ssize_t acl_count(const void *acl, size_t len)
{
	uint32_t version;

	if (len < sizeof(version) || (len - sizeof(version)) % sizeof(struct acl_entry))
		return -EINVAL;
	memcpy(&version, acl, sizeof(version));
	if (le32toh(version) != ACL_VERSION)
		return -EINVAL;
	return (ssize_t)((len - sizeof(version)) / sizeof(struct acl_entry));
}

static void *entry_at(void *acl, size_t n)
{
	return (char *)acl + sizeof(uint32_t) + n * sizeof(struct acl_entry);
}

/* Keep of the entry's permissions what MODE (three bits) has, and take them out of MODE where the entry lacks them. */
static void restrict_entry(struct acl_entry *e, mode_t *mode, unsigned shift)
{
	unsigned perm = le16toh(e->perm) & (*mode >> shift) & 7;

	*mode = (*mode & ~((mode_t)7 << shift)) | ((mode_t)perm << shift);
	e->perm = htole16((uint16_t)perm);
}

int ov_acl_inherit(const void *def, size_t len, mode_t *mode, void *access, size_t *access_len)
{
	ssize_t count = acl_count(def, len);
	bool has_mask = false, extended = false;
	struct acl_entry e;

	*access_len = 0;
	if (count < 0)
		return (int)count;
	memcpy(access, def, len);
	for (ssize_t n = 0; n < count; n++) {
		memcpy(&e, entry_at(access, (size_t)n), sizeof(e));
		has_mask |= le16toh(e.tag) == ACL_TAG_MASK;
	}
	for (ssize_t n = 0; n < count; n++) {
		memcpy(&e, entry_at(access, (size_t)n), sizeof(e));
		switch (le16toh(e.tag)) {
		case ACL_TAG_USER_OBJ:
			restrict_entry(&e, mode, 6);
			break;
		case ACL_TAG_GROUP_OBJ: /* the mask, where there is one, is what the group bits of the mode stand for */
			if (!has_mask)
				restrict_entry(&e, mode, 3);
			break;
		case ACL_TAG_MASK:
			restrict_entry(&e, mode, 3);
			extended = true;
			break;
		case ACL_TAG_OTHER:
			restrict_entry(&e, mode, 0);
			break;
		case ACL_TAG_USER:
		case ACL_TAG_GROUP:
			extended = true;
			break;
		default:
			return -EINVAL;
		}
		memcpy(entry_at(access, (size_t)n), &e, sizeof(e));
	}
	*access_len = extended ? len : 0;
	return 0;
}

int ov_acl_map(const struct overlay *ov, void *acl, size_t len, bool to_disk)
{
	ssize_t count = acl_count(acl, len);
	struct acl_entry e;

	if (count < 0)
		return (int)count;
	for (ssize_t n = 0; n < count; n++) {
		uint32_t id;
		int r = 0;

		memcpy(&e, entry_at(acl, (size_t)n), sizeof(e));
		id = le32toh(e.id);
		if (le16toh(e.tag) == ACL_TAG_USER) {
			if (to_disk)
				r = ov_uid_to_disk(ov, id, &id);
			else
				id = ov_uid_to_view(ov, id);
		} else if (le16toh(e.tag) == ACL_TAG_GROUP) {
			if (to_disk)
				r = ov_gid_to_disk(ov, id, &id);
			else
				id = ov_gid_to_view(ov, id);
		}
		if (r < 0)
			return r;
		e.id = htole32(id);
		memcpy(entry_at(acl, (size_t)n), &e, sizeof(e));
	}
	return 0;
}
