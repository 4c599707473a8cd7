// SPDX-License-Identifier: GPL-2.0
//! The constants and structures of `src/uapi/rust_mmapdev.h`.
//!
//! Written down by hand, so that who uses the library needs no bindgen; a test compares them with
//! what bindgen makes of the header.

#![allow(non_camel_case_types)]

use std::ffi::CStr;

use rustix::ioctl::{Opcode, opcode};

/// Path of the device node.
pub const RUST_MMAPDEV_PATH: &CStr = c"/dev/rust_mmapdev";

/// Version of the interface that this library speaks.
pub const RUST_MMAPDEV_ABI_VERSION: u32 = 1;

const MAGIC: u8 = 0xbb;

/// Fills in a [`rust_mmapdev_info`]. EFAULT: bad pointer.
pub const RUST_MMAPDEV_IOC_INFO: Opcode = opcode::read::<rust_mmapdev_info>(MAGIC, 0);

/// Zeroes the whole buffer. EBADF: the descriptor is not open for writing.
pub const RUST_MMAPDEV_IOC_CLEAR: Opcode = opcode::none(MAGIC, 1);

/// The answer of [`RUST_MMAPDEV_IOC_INFO`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct rust_mmapdev_info {
    /// Size of the buffer in bytes, a multiple of `page_size`.
    pub size: u64,
    /// Size of a page of the running kernel in bytes.
    pub page_size: u32,
    /// [`RUST_MMAPDEV_ABI_VERSION`] of the loaded module.
    pub abi_version: u32,
}
