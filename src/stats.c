/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "stats.h"

/* Names of FUSE opcodes by number (include/uapi/linux/fuse.h). */
static const char *const names[OV_STATS_OPS] = {
	[1] = "LOOKUP", [2] = "FORGET", [3] = "GETATTR", [4] = "SETATTR", [5] = "READLINK", [6] = "SYMLINK",
	[8] = "MKNOD", [9] = "MKDIR", [10] = "UNLINK", [11] = "RMDIR", [12] = "RENAME", [13] = "LINK",
	[14] = "OPEN", [15] = "READ", [16] = "WRITE", [17] = "STATFS", [18] = "RELEASE", [20] = "FSYNC",
	[21] = "SETXATTR", [22] = "GETXATTR", [23] = "LISTXATTR", [24] = "REMOVEXATTR", [25] = "FLUSH", [26] = "INIT",
	[27] = "OPENDIR", [28] = "READDIR", [29] = "RELEASEDIR", [30] = "FSYNCDIR", [31] = "GETLK", [32] = "SETLK",
	[33] = "SETLKW", [34] = "ACCESS", [35] = "CREATE", [36] = "INTERRUPT", [37] = "BMAP", [38] = "DESTROY",
	[39] = "IOCTL", [40] = "POLL", [41] = "NOTIFY_REPLY", [42] = "BATCH_FORGET", [43] = "FALLOCATE",
	[44] = "READDIRPLUS", [45] = "RENAME2", [46] = "LSEEK", [47] = "COPY_FILE_RANGE", [48] = "SETUPMAPPING",
	[49] = "REMOVEMAPPING", [50] = "SYNCFS", [51] = "TMPFILE", [52] = "STATX", [53] = "COPY_FILE_RANGE_64",
};

const char *ov_stats_name(unsigned opcode)
{
	return opcode < OV_STATS_OPS && names[opcode] ? names[opcode] : "request";
}

static size_t print_line(char *buf, size_t size, size_t used, const char *name, unsigned opcode, uint64_t count)
{
	char *at = used < size ? buf + used : NULL;
	size_t room = used < size ? size - used : 0;
	int n;

	if (name)
		n = snprintf(at, room, "%s %llu\n", name, (unsigned long long)count);
	else
		n = snprintf(at, room, "OPCODE_%u %llu\n", opcode, (unsigned long long)count);
	return used + (n > 0 ? (size_t)n : 0);
}

size_t ov_stats_print(const struct ov_stats *s, char *buf, size_t size)
{
	const struct {
		const char *name;
		const uint64_t *count;
	} sums[] = {{"OTHER", &s->other}, {"uring-requests", &s->uring}, {"posted-replies", &s->posted}, {"side-by-side", &s->beside}};
	size_t used = 0;

	for (unsigned op = 0; op < OV_STATS_OPS; op++) {
		uint64_t count = __atomic_load_n(&s->ops[op], __ATOMIC_RELAXED);

		if (count)
			used = print_line(buf, size, used, names[op], op, count);
	}
	for (unsigned n = 0; n < sizeof(sums) / sizeof(sums[0]); n++) {
		uint64_t count = __atomic_load_n(sums[n].count, __ATOMIC_RELAXED);

		if (count)
			used = print_line(buf, size, used, sums[n].name, 0, count);
	}
	return used;
}
