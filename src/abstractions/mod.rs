// SPDX-License-Identifier: GPL-2.0

//! What the `kernel` crate does not have yet, at the paths that the files would have in
//! `rust/kernel/`, each shaped as a patch to it. All `unsafe` of the module is here.

#![deny(clippy::undocumented_unsafe_blocks)]

pub(crate) mod bindings;
pub(crate) mod iov;
#[cfg(CONFIG_KUNIT)]
pub(crate) mod kunit;
pub(crate) mod miscdevice;
pub(crate) mod mm;
pub(crate) mod task;
