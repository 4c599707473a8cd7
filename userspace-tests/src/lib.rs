// SPDX-License-Identifier: GPL-2.0
//! Client library for `/dev/rust_mmapdev`: open the device, ask it, map it.
//!
//! The buffer behind the device is shared with the kernel and with every other process that has
//! it open, and any of them may write to it at any moment. It is therefore never handed out as a
//! slice: a [`Mapping`] copies bytes in and out, and lends atomics.
//!
//! ```no_run
//! use rust_mmapdev::{Access, Device, Protection, Sharing};
//!
//! let device = Device::open(Access::ReadWrite)?;
//! let kernel = device.map(Sharing::Shared, Protection::ReadWrite)?;
//! kernel.write_at(0, b"hello")?;
//! # Ok::<(), rust_mmapdev::Error>(())
//! ```

#![deny(missing_docs)]

mod device;
mod error;
mod mapping;
pub mod uapi;

pub use device::{Access, Device, Info};
pub use error::{Error, Result};
pub use mapping::{Mapping, Protection, Sharing};
