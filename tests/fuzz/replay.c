/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * fuzz.c or core.c without libFuzzer: each kept input (the files of the directory argv[1]), and variations of it, always
 * the same.
 */

#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SIZE_MAX_INPUT 8192
#ifndef VARIATIONS
#define VARIATIONS 3000
#endif
#ifndef CORPUS
#define CORPUS "tests/fuzz/corpus"
#endif

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
/* A target may know better how to vary its input. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) __attribute__((weak));

static uint64_t state = 88172645463325252ull;

static uint64_t next_random(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

/* Change, insert, delete or repeat some bytes behind the first one, which chooses the target. */
static size_t vary(uint8_t *buf, size_t size)
{
	static const char often[] = "0123456789:,/.\\=-+ULyxai\n\xff\0";
	unsigned changes = 1 + next_random() % 4;

	if (LLVMFuzzerCustomMutator)
		return LLVMFuzzerCustomMutator(buf, size, SIZE_MAX_INPUT, (unsigned)next_random());

	while (changes--) {
		size_t at = size > 1 ? 1 + next_random() % (size - 1) : 1;
		uint8_t byte = next_random() % 2 ? (uint8_t)often[next_random() % (sizeof(often) - 1)] : (uint8_t)next_random();

		switch (next_random() % 4) {
		case 0:
			if (at < size)
				buf[at] = byte;
			break;
		case 1:
			if (size < SIZE_MAX_INPUT) {
				memmove(buf + at + 1, buf + at, size - at);
				buf[at] = byte;
				size++;
			}
			break;
		case 2:
			if (size > 1) {
				memmove(buf + at, buf + at + 1, size - at - 1);
				size--;
			}
			break;
		default:
			if (size > 2 && 2 * size - at <= SIZE_MAX_INPUT) {
				memcpy(buf + size, buf + at, size - at);
				size += size - at;
			}
		}
	}
	return size;
}

static int run_file(const char *dir, const char *name)
{
	uint8_t seed[SIZE_MAX_INPUT], buf[SIZE_MAX_INPUT];
	char path[8192];
	size_t size;
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "rb");
	if (!f) {
		perror(path);
		return -1;
	}
	size = fread(seed, 1, sizeof(seed), f);
	fclose(f);
	LLVMFuzzerTestOneInput(seed, size);
	for (int n = 0; n < VARIATIONS; n++) {
		size_t len = size;

		memcpy(buf, seed, size);
		for (unsigned rounds = 1 + next_random() % 3; rounds; rounds--)
			len = vary(buf, len);
		LLVMFuzzerTestOneInput(buf, len);
	}
	return 0;
}

static int is_input(const struct dirent *de)
{
	return de->d_name[0] != '.';
}

int main(int argc, char **argv)
{
	const char *srcdir = getenv("srcdir");
	char corpus[4096];
	struct dirent **list;
	int count, failed = 0;

	snprintf(corpus, sizeof(corpus), "%s/" CORPUS, srcdir ? srcdir : ".");
	if (argc > 1)
		snprintf(corpus, sizeof(corpus), "%s", argv[1]);
	count = scandir(corpus, &list, is_input, alphasort);
	if (count < 0) {
		perror(corpus);
		return 1;
	}
	for (int n = 0; n < count; n++) {
		int r = run_file(corpus, list[n]->d_name);

		printf("%s %d - %s and %d variations\n", r ? "not ok" : "ok", n + 1, list[n]->d_name, VARIATIONS);
		fflush(stdout);
		failed |= r;
		free(list[n]);
	}
	printf("1..%d\n", count);
	free(list);
	return failed ? 1 : 0;
}
