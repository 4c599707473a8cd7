// SPDX-License-Identifier: GPL-2.0
#include <sys/mman.h>
#include <fcntl.h>
#include <unistd.h>
#include <stdio.h>

int main() {
    int fd = open("/dev/rust_mmapdev", O_RDWR);
    if (fd < 0) {
        perror("open");
        return 1;
    }

    char *mapped = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapped == MAP_FAILED) {
        perror("mmap");
        return 1;
    }

    printf("Mapped content: %s\n", mapped);
    munmap(mapped, 4096);
    close(fd);
    return 0;
}
