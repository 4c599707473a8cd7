// SPDX-License-Identifier: GPL-2.0

//! What the `kernel` crate does not have yet, each file shaped as a patch to it. All `unsafe` of
//! the module is here.

#![deny(clippy::undocumented_unsafe_blocks)]

#[cfg(CONFIG_KUNIT)]
pub(crate) mod kunit;
pub(crate) mod miscdevice;
pub(crate) mod shmem;
pub(crate) mod task;
pub(crate) mod vm_operations;
