// SPDX-License-Identifier: GPL-2.0
//! Loading, unloading, and what is left of either and of every process: nothing.

pub mod capacity;
pub mod cycles;
pub mod failnth;
pub mod kunit;
pub mod lifecycle;
pub mod refs;
