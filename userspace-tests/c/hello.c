// SPDX-License-Identifier: GPL-2.0
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int main(void)
{
	int fd = open("/dev/rust_mmapdev", O_RDWR);
	if (fd < 0) {
		perror("/dev/rust_mmapdev");
		return 1;
	}

	long page = sysconf(_SC_PAGESIZE);
	char *kernel = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (kernel == MAP_FAILED) {
		perror("mmap");
		return 1;
	}

	printf("before: %s\n", kernel);		/* the kernel's own bytes */
	strcpy(kernel, "hello from C");		/* no system call, and yet ... */

	char text[32];
	if (pread(fd, text, sizeof(text), 0) < 0) {	/* ... the kernel has it */
		perror("pread");
		return 1;
	}
	printf("after: %s\n", text);

	munmap(kernel, page);
	close(fd);
	return 0;
}
