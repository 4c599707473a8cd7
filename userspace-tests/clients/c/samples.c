// SPDX-License-Identifier: GPL-2.0
/*
 * Puts a series of samples into the buffer, for the clients beside this one: their
 * count as a 32-bit word at offset 0, the samples as doubles from offset 8 on.
 */
#include <err.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <rust_mmapdev.h>

enum { COUNT = 256 };

struct series {
	_Atomic __u32 count;
	__u32 unused;
	double samples[COUNT];
};

int main(void)
{
	int fd = open(RUST_MMAPDEV_PATH, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		err(1, RUST_MMAPDEV_PATH);

	struct rust_mmapdev_info info;
	if (ioctl(fd, RUST_MMAPDEV_IOC_INFO, &info) < 0)
		err(1, "RUST_MMAPDEV_IOC_INFO");
	if (info.abi_version != RUST_MMAPDEV_ABI_VERSION)
		errx(1, "the module speaks version %u, this program %u",
		     info.abi_version, RUST_MMAPDEV_ABI_VERSION);
	if (info.size < sizeof(struct series))
		errx(1, "the buffer has %llu bytes", info.size);

	struct series *series = mmap(NULL, info.size, PROT_READ | PROT_WRITE,
				     MAP_SHARED, fd, 0);
	if (series == MAP_FAILED)
		err(1, "mmap");

	for (int i = 0; i < COUNT; i++)
		series->samples[i] = (double)i * i;
	/* Who sees the count sees the samples. */
	atomic_store_explicit(&series->count, COUNT, memory_order_release);
	printf("%d samples\n", COUNT);
	return 0;
}
