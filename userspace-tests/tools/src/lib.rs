// SPDX-License-Identifier: GPL-2.0
//! What kernels and tests say, for programs.

pub mod complaint;
pub mod libtest;
