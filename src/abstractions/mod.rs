// SPDX-License-Identifier: GPL-2.0

//! What the `kernel` crate does not have yet, at the paths that the files would have in
//! `rust/kernel/`, each shaped as a patch to it. All `unsafe` of the module is here.

#![deny(clippy::undocumented_unsafe_blocks)]

pub(crate) mod bindings;
pub(crate) mod compat;
pub mod iov;
#[cfg(CONFIG_KUNIT)]
pub mod kunit;
pub mod miscdevice;
pub mod mm;
pub mod module;
pub mod task;
