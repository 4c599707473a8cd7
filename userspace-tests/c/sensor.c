// SPDX-License-Identifier: GPL-2.0
/*
 * A sensor: one process publishes samples, any number of others watch, and
 * never see half of one and half of another. No lock is held and no system call
 * made: a sequence number, odd while a sample is being written, tells a reader
 * to look again (a seqlock). examples/sensor.rs is the same in Rust, and the
 * two work together.
 *
 *   sensor publish N    publishes N samples
 *   sensor watch N      watches until sample N is there, and checks each one
 */
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define VALUES 8

static struct sensor {
	_Atomic uint32_t sequence;
	_Alignas(64) _Atomic uint32_t sample[VALUES];
} *sensor;

/* For the one process that publishes. */
static void publish(uint32_t number)
{
	uint32_t sequence = atomic_load_explicit(&sensor->sequence, memory_order_relaxed);

	atomic_store_explicit(&sensor->sequence, sequence + 1, memory_order_relaxed);
	atomic_thread_fence(memory_order_release);
	for (uint32_t i = 0; i < VALUES; i++)
		atomic_store_explicit(&sensor->sample[i], number * (i + 1), memory_order_relaxed);
	atomic_store_explicit(&sensor->sequence, sequence + 2, memory_order_release);
}

/* Copies the last sample, unless it is just being replaced. */
static int try_read(uint32_t sample[VALUES])
{
	uint32_t sequence = atomic_load_explicit(&sensor->sequence, memory_order_acquire);

	for (int i = 0; i < VALUES; i++)
		sample[i] = atomic_load_explicit(&sensor->sample[i], memory_order_relaxed);
	atomic_thread_fence(memory_order_acquire);
	return sequence % 2 == 0 &&
	       atomic_load_explicit(&sensor->sequence, memory_order_relaxed) == sequence;
}

static void watch(uint32_t count)
{
	uint32_t last = 0, sample[VALUES];

	while (last < count) {
		if (!try_read(sample))
			continue;
		for (uint32_t i = 0; i < VALUES; i++) {
			if (sample[i] != sample[0] * (i + 1) || sample[0] < last) {
				fprintf(stderr, "after sample %u came %u with %u as value %u\n",
					last, sample[0], sample[i], i);
				exit(1);
			}
		}
		last = sample[0];
	}
}

int main(int argc, char **argv)
{
	uint32_t count;
	int fd;

	if (argc != 3 || (strcmp(argv[1], "publish") && strcmp(argv[1], "watch"))) {
		fprintf(stderr, "usage: %s publish|watch N\n", argv[0]);
		return 2;
	}
	count = strtoul(argv[2], NULL, 0);

	fd = open("/dev/rust_mmapdev", O_RDWR);
	if (fd < 0) {
		perror("/dev/rust_mmapdev");
		return 1;
	}
	sensor = mmap(NULL, sizeof(*sensor), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (sensor == MAP_FAILED) {
		perror("mmap");
		return 1;
	}

	if (!strcmp(argv[1], "publish"))
		for (uint32_t number = 1; number <= count; number++)
			publish(number);
	else
		watch(count);
	printf("%u samples\n", count);
	return 0;
}
