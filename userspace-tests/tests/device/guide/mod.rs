// SPDX-License-Identifier: GPL-2.0
//! What an introduction to mmap says, claim by claim, and the README's examples.

pub mod driver;
pub mod examples;
pub mod readme;
