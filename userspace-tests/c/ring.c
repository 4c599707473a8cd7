// SPDX-License-Identifier: GPL-2.0
/*
 * A producer and a consumer over a ring in the mapping. They make no system
 * call while both are busy: only who finds the ring empty, or full, sleeps, on
 * a futex in the mapping. examples/ring.rs is the same in Rust, and the two
 * work together.
 *
 *   ring produce N [DEVICE]    puts the numbers 1 to N into the ring
 *   ring consume N [DEVICE]    takes them out, and checks that all are there, in
 *                              order
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SLOTS 256

static struct ring {
	_Atomic uint32_t put;
	_Atomic uint32_t consumer_sleeps;
	/* Each side's words have a cache line of their own. */
	_Alignas(64) _Atomic uint32_t taken;
	_Atomic uint32_t producer_sleeps;
	_Alignas(64) _Atomic uint32_t numbers[SLOTS];
} *ring;

static unsigned long calls;

static void futex(_Atomic uint32_t *word, int operation, uint32_t value)
{
	calls++;
	if (syscall(SYS_futex, word, operation, value, NULL, NULL, 0) < 0 &&
	    errno != EAGAIN && errno != EINTR) {
		perror("futex");
		exit(1);
	}
}

/* The kernel looks at the word again before it lets us sleep. */
static void wait_while(_Atomic uint32_t *word, uint32_t value, _Atomic uint32_t *sleeps)
{
	while (atomic_load(word) == value) {
		atomic_store(sleeps, 1);
		futex(word, FUTEX_WAIT, value);
		atomic_store(sleeps, 0);
	}
}

/*
 * Wakes who said that it sleeps. Leaves that word alone: it may be about a
 * sleep that begins only now, and that nobody else would end.
 */
static void wake(_Atomic uint32_t *word, _Atomic uint32_t *sleeps)
{
	if (atomic_load(sleeps))
		futex(word, FUTEX_WAKE, 1);
}

static void put(uint32_t number)
{
	uint32_t put = atomic_load(&ring->put);

	wait_while(&ring->taken, put - SLOTS, &ring->producer_sleeps);
	atomic_store(&ring->numbers[put % SLOTS], number);
	atomic_store(&ring->put, put + 1);
	wake(&ring->put, &ring->consumer_sleeps);
}

static uint32_t take(void)
{
	uint32_t taken = atomic_load(&ring->taken);
	uint32_t number;

	wait_while(&ring->put, taken, &ring->consumer_sleeps);
	number = atomic_load(&ring->numbers[taken % SLOTS]);
	atomic_store(&ring->taken, taken + 1);
	wake(&ring->taken, &ring->producer_sleeps);
	return number;
}

int main(int argc, char **argv)
{
	uint32_t count, number;
	const char *device = "/dev/rust_mmapdev";
	int fd, produce;

	if (argc < 3 || argc > 4 || (strcmp(argv[1], "produce") && strcmp(argv[1], "consume"))) {
		fprintf(stderr, "usage: %s produce|consume N [DEVICE]\n", argv[0]);
		return 2;
	}
	produce = !strcmp(argv[1], "produce");
	count = strtoul(argv[2], NULL, 0);
	if (argc == 4)
		device = argv[3];

	fd = open(device, O_RDWR);
	if (fd < 0) {
		perror(device);
		return 1;
	}
	ring = mmap(NULL, sizeof(*ring), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (ring == MAP_FAILED) {
		perror("mmap");
		return 1;
	}

	for (number = 1; number <= count; number++) {
		if (produce) {
			put(number);
		} else {
			uint32_t found = take();

			if (found != number) {
				fprintf(stderr, "%u came instead of %u\n", found, number);
				return 1;
			}
		}
	}
	printf("%u numbers, %lu futex calls\n", count, calls);
	return 0;
}
