// SPDX-License-Identifier: GPL-2.0
//! Random calls, held against a model of what they may do.

pub mod hostile;
pub mod model;
mod operation;
pub mod storm;
