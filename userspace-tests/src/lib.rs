// SPDX-License-Identifier: GPL-2.0
//! Client library for `/dev/rust_mmapdev`: open the device, ask it, map it.
//!
//! The buffer behind the device is shared with the kernel and with every other process that has
//! it open, and any of them may write to it at any moment. It is therefore never handed out as a
//! slice: a [`Mapping`] copies bytes in and out, and lends atomics.

mod device;
mod error;
mod mapping;
pub mod uapi;
pub mod volatile;

pub use device::{Access, Device, Info};
pub use error::{Error, Result};
pub use mapping::{Mapping, Protection, Sharing};
