// SPDX-License-Identifier: GPL-2.0
//! Several processes and one buffer.

pub mod cow;
pub mod futex;
pub mod processes;
pub mod writers;
