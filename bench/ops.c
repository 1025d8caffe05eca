/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The measured loops of bench/run: ops NAME ARGS... does one operation many times and prints how many nanoseconds all
 * of them took and how many there were. Nothing but the loop is inside the time: lists of paths are read before.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BLOCK 4096
#define CHUNK (128 * 1024)

static char buffer[CHUNK];
static uint64_t started;

static uint64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void start(void)
{
	started = now();
}

static int done(unsigned long count)
{
	printf("%llu %lu\n", (unsigned long long)(now() - started), count);
	return 0;
}

static void die(const char *what, const char *name)
{
	fprintf(stderr, "ops: %s %s: %s\n", what, name, strerror(errno));
	exit(1);
}

static int open_or_die(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC, 0644);

	if (fd < 0)
		die("open", path);
	return fd;
}

static unsigned long number(const char *text)
{
	char *end;
	unsigned long n = strtoul(text, &end, 10);

	if (*end || end == text) {
		fprintf(stderr, "ops: '%s' is not a number\n", text);
		exit(2);
	}
	return n;
}

/* The same pseudo-random blocks each time. */
static off_t random_block(off_t blocks)
{
	static uint64_t x = 88172645463325252u;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return (off_t)(x % (uint64_t)blocks) * BLOCK;
}

/* Lines of standard input. */
static char **read_paths(unsigned long *count)
{
	char **paths = NULL, *line = NULL;
	size_t size = 0, room = 0;
	ssize_t len;

	*count = 0;
	while ((len = getline(&line, &size, stdin)) > 0) {
		if (line[len - 1] == '\n')
			line[len - 1] = '\0';
		if (*count == room) {
			room = room ? 2 * room : 1024;
			paths = realloc(paths, room * sizeof(*paths));
			if (!paths)
				die("allocate", "paths");
		}
		paths[(*count)++] = line;
		line = NULL;
		size = 0;
	}
	free(line);
	return paths;
}

static int do_stat(char **arg)
{
	unsigned long n = number(arg[1]);
	struct stat st;

	start();
	for (unsigned long i = 0; i < n; i++)
		if (lstat(arg[0], &st) < 0)
			die("stat", arg[0]);
	return done(n);
}

static int do_open(char **arg)
{
	unsigned long n = number(arg[1]);

	start();
	for (unsigned long i = 0; i < n; i++) {
		int fd = open_or_die(arg[0], O_RDONLY);

		if (read(fd, buffer, BLOCK) <= 0)
			die("read", arg[0]);
		close(fd);
	}
	return done(n);
}

/* Counts the entries, of all passes. */
static int do_readdir(char **arg)
{
	unsigned long n = number(arg[1]), entries = 0;

	start();
	for (unsigned long i = 0; i < n; i++) {
		DIR *d = opendir(arg[0]);

		if (!d)
			die("opendir", arg[0]);
		while (readdir(d))
			entries++;
		closedir(d);
	}
	return done(entries);
}

static off_t blocks_of(int fd, const char *path)
{
	struct stat st;

	if (fstat(fd, &st) < 0 || st.st_size < BLOCK)
		die("size of", path);
	return st.st_size / BLOCK;
}

static int do_pread(char **arg)
{
	unsigned long n = number(arg[1]);
	int fd = open_or_die(arg[0], O_RDONLY);
	off_t blocks = blocks_of(fd, arg[0]);

	start();
	for (unsigned long i = 0; i < n; i++)
		if (pread(fd, buffer, BLOCK, random_block(blocks)) != BLOCK)
			die("pread", arg[0]);
	return done(n);
}

static int do_pwrite(char **arg)
{
	unsigned long n = number(arg[1]);
	int fd = open_or_die(arg[0], O_RDWR);
	off_t blocks = blocks_of(fd, arg[0]);

	start();
	for (unsigned long i = 0; i < n; i++)
		if (pwrite(fd, buffer, BLOCK, random_block(blocks)) != BLOCK)
			die("pwrite", arg[0]);
	return done(n);
}

/* Reads and writes in turn, and the close, which may write back. */
static int do_randrw(char **arg)
{
	unsigned long n = number(arg[1]);
	int fd = open_or_die(arg[0], O_RDWR);
	off_t blocks = blocks_of(fd, arg[0]);

	start();
	for (unsigned long i = 0; i < n; i++) {
		off_t at = random_block(blocks);
		ssize_t r = i & 1 ? pwrite(fd, buffer, BLOCK, at) : pread(fd, buffer, BLOCK, at);

		if (r != BLOCK)
			die(i & 1 ? "pwrite" : "pread", arg[0]);
	}
	if (close(fd) < 0)
		die("close", arg[0]);
	return done(n);
}

static int do_seqwrite(char **arg)
{
	unsigned long n = number(arg[1]) * (1024 * 1024 / CHUNK);
	int fd;

	memset(buffer, 'x', sizeof(buffer));
	start();
	fd = open_or_die(arg[0], O_WRONLY | O_CREAT | O_TRUNC);
	for (unsigned long i = 0; i < n; i++)
		if (write(fd, buffer, CHUNK) != CHUNK)
			die("write", arg[0]);
	if (close(fd) < 0)
		die("close", arg[0]);
	return done(n);
}

static int do_mmap(char **arg)
{
	int fd = open_or_die(arg[0], O_RDONLY);
	off_t blocks = blocks_of(fd, arg[0]);
	volatile unsigned sum = 0;
	const char *p;

	start();
	p = mmap(NULL, (size_t)blocks * BLOCK, PROT_READ, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		die("mmap", arg[0]);
	for (off_t i = 0; i < blocks; i++)
		sum += (unsigned char)p[i * BLOCK];
	return done((unsigned long)blocks);
}

/* N names that do not exist, in the directories given, in turn. */
static int do_missing(char **arg)
{
	unsigned long n = number(arg[0]), dirs = 0;
	char path[4096];
	struct stat st;

	while (arg[1 + dirs])
		dirs++;
	start();
	for (unsigned long i = 0; dirs && i < n; i++) {
		snprintf(path, sizeof(path), "%s/missing-%lu", arg[1 + i % dirs], i);
		if (lstat(path, &st) == 0 || errno != ENOENT)
			die("unexpected", path);
	}
	return done(n);
}

/* N empty files in DIR, called PREFIX-0 and so on. */
static void create_files(const char *dir, const char *prefix, unsigned long n)
{
	char path[4096];

	for (unsigned long i = 0; i < n; i++) {
		snprintf(path, sizeof(path), "%s/%s-%lu", dir, prefix, i);
		close(open_or_die(path, O_WRONLY | O_CREAT | O_EXCL));
	}
}

static int do_create(char **arg)
{
	unsigned long n = number(arg[1]);

	start();
	create_files(arg[0], "file", n);
	return done(n);
}

/* The same under names that do_create() does not use. */
static int do_create_in(char **arg)
{
	unsigned long n = number(arg[1]);

	start();
	create_files(arg[0], "new", n);
	return done(n);
}

/* Removes the files named on standard input. */
static int do_unlink(char **arg)
{
	unsigned long n;
	char **paths = read_paths(&n);

	(void)arg;
	start();
	for (unsigned long i = 0; i < n; i++)
		if (unlink(paths[i]) < 0)
			die("unlink", paths[i]);
	return done(n);
}

/* Appends a byte to each file named on standard input. */
static int do_append(char **arg)
{
	unsigned long n;
	char **paths = read_paths(&n);

	(void)arg;
	start();
	for (unsigned long i = 0; i < n; i++) {
		int fd = open_or_die(paths[i], O_WRONLY | O_APPEND);

		if (write(fd, "x", 1) != 1 || close(fd) < 0)
			die("append to", paths[i]);
	}
	return done(n);
}

static void use_file(const char *path, int reading)
{
	struct stat st;
	int fd;

	if (!reading) {
		if (lstat(path, &st) < 0)
			die("stat", path);
		return;
	}
	fd = open_or_die(path, O_RDONLY);
	while (read(fd, buffer, sizeof(buffer)) > 0)
		;
	close(fd);
}

/* Waits for COUNT children; true if all went well. */
static int wait_all(unsigned long count)
{
	int good = 1;

	for (unsigned long p = 0; p < count; p++) {
		int status;

		if (wait(&status) < 0 || status)
			good = 0;
	}
	return good;
}

/* "stat" or "read": P processes share the paths on standard input. */
static int do_parallel(char **arg)
{
	unsigned long procs = number(arg[1]), n;
	int reading = strcmp(arg[0], "read") == 0;
	char **paths = read_paths(&n);

	start();
	for (unsigned long p = 0; p < procs; p++) {
		pid_t pid = fork();

		if (pid < 0)
			die("fork", "");
		if (pid > 0)
			continue;
		for (unsigned long i = n * p / procs; i < n * (p + 1) / procs; i++)
			use_file(paths[i], reading);
		_exit(0);
	}
	return wait_all(procs) ? done(n) : 1;
}

/* A process for each directory given makes N files in it. */
static int do_pcreate(char **arg)
{
	unsigned long n = number(arg[0]), procs = 0;

	start();
	for (; arg[1 + procs]; procs++) {
		pid_t pid = fork();

		if (pid < 0)
			die("fork", "");
		if (pid > 0)
			continue;
		create_files(arg[1 + procs], "file", n);
		_exit(0);
	}
	return wait_all(procs) ? done(n * procs) : 1;
}

static const struct {
	const char *name;
	int (*fn)(char **arg);
	int min_args;
} table[] = {
	{"stat", do_stat, 2},     {"open", do_open, 2},       {"readdir", do_readdir, 2},   {"pread", do_pread, 2},
	{"pwrite", do_pwrite, 2}, {"randrw", do_randrw, 2},   {"seqwrite", do_seqwrite, 2}, {"mmap", do_mmap, 1},
	{"missing", do_missing, 2}, {"create", do_create, 2}, {"append", do_append, 0},     {"parallel", do_parallel, 2},
	{"unlink", do_unlink, 0}, {"pcreate", do_pcreate, 2}, {"create-in", do_create_in, 2},
};

int main(int argc, char **argv)
{
	for (size_t i = 0; argc > 1 && i < sizeof(table) / sizeof(table[0]); i++)
		if (strcmp(argv[1], table[i].name) == 0 && argc - 2 >= table[i].min_args)
			return table[i].fn(argv + 2);
	fputs("usage: ops NAME ARGS...\n", stderr);
	return 2;
}
