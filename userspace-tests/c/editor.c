// SPDX-License-Identifier: GPL-2.0
/*
 * Edits the text in the buffer, up to the first NUL, as an editor does with a
 * mapped file: in place, under a lock, without read or write. examples/editor.rs
 * is the same in Rust.
 *
 *   editor show
 *   editor insert OFFSET TEXT
 *   editor delete OFFSET LENGTH
 *   editor replace OLD NEW		the first OLD from the start
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

static char *text;
static size_t size;

static void fail(const char *what)
{
	fprintf(stderr, "%s\n", what);
	exit(1);
}

/* Puts `new` where `length` bytes from `start` on are; what follows moves. */
static void splice_text(size_t start, size_t length, const char *new)
{
	size_t old_end = strnlen(text, size), added = strlen(new);

	if (start > old_end || length > old_end - start)
		fail("there is not that much text");
	if (old_end - length + added >= size)
		fail("the text would not fit into the buffer any more");
	memmove(text + start + added, text + start + length, old_end - start - length);
	text[old_end - length + added] = '\0';
	memcpy(text + start, new, added);
}

static void replace(const char *old, const char *new)
{
	char *found = memmem(text, strnlen(text, size), old, strlen(old));

	if (!found)
		fail("that is not in the text");
	splice_text(found - text, strlen(old), new);
}

int main(int argc, char **argv)
{
	const char *command = argc > 1 ? argv[1] : "";
	int fd = open("/dev/rust_mmapdev", O_RDWR);

	if (fd < 0) {
		perror("/dev/rust_mmapdev");
		return 1;
	}
	size = lseek(fd, 0, SEEK_END);
	text = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (text == MAP_FAILED) {
		perror("mmap");
		return 1;
	}
	/* Until the end of the process. */
	if (flock(fd, LOCK_EX)) {
		perror("flock");
		return 1;
	}

	if (!strcmp(command, "show") && argc == 2)
		printf("%.*s\n", (int)strnlen(text, size), text);
	else if (!strcmp(command, "insert") && argc == 4)
		splice_text(strtoul(argv[2], NULL, 0), 0, argv[3]);
	else if (!strcmp(command, "delete") && argc == 4)
		splice_text(strtoul(argv[2], NULL, 0), strtoul(argv[3], NULL, 0), "");
	else if (!strcmp(command, "replace") && argc == 4 && *argv[2])
		replace(argv[2], argv[3]);
	else
		fail("usage: editor show | insert OFFSET TEXT | delete OFFSET LENGTH | replace OLD NEW");
	return 0;
}
