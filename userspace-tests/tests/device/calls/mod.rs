// SPDX-License-Identifier: GPL-2.0
//! The device's contract, call by call.

pub mod client;
pub mod fdinfo;
pub mod fsx;
pub mod io;
pub mod ioctl;
pub mod like_a_file;
pub mod locks;
pub mod mmap;
pub mod mremap;
pub mod open;
pub mod programs;
pub mod protect;
pub mod rw;
pub mod seek;
pub mod sync;
pub mod uring;
