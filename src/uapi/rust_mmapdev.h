/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * User-space interface of /dev/rust_mmapdev.
 *
 * The module gets it through bindgen. The Rust client library has it written
 * down again, and a test compares the two.
 */
#ifndef RUST_MMAPDEV_H
#define RUST_MMAPDEV_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define RUST_MMAPDEV_PATH "/dev/rust_mmapdev"

/* Raised when a structure or the meaning of a call changes. */
#define RUST_MMAPDEV_ABI_VERSION 1

/**
 * struct rust_mmapdev_info - answer of RUST_MMAPDEV_IOC_INFO
 * @size:        size of the buffer in bytes, a multiple of @page_size
 * @page_size:   size of a page of the running kernel in bytes
 * @abi_version: RUST_MMAPDEV_ABI_VERSION of the loaded module
 */
struct rust_mmapdev_info {
	__u64 size;
	__u32 page_size;
	__u32 abi_version;
};

/* An enum, not macros: bindgen evaluates it. */
enum rust_mmapdev_ioc {
	/* Fills in a struct rust_mmapdev_info. EFAULT: bad pointer. */
	RUST_MMAPDEV_IOC_INFO = _IOR(0xbb, 0x00, struct rust_mmapdev_info),
	/* Zeroes the whole buffer. EBADF: descriptor not open for writing. */
	RUST_MMAPDEV_IOC_CLEAR = _IO(0xbb, 0x01),
};

#endif /* RUST_MMAPDEV_H */
