// SPDX-License-Identifier: GPL-2.0
//! What an introduction to mmap says, claim by claim, and the README's examples.

pub mod examples;
pub mod readme;
pub mod s2_principle;
pub mod s3_use;
pub mod s4_1_visible;
pub mod s4_2_processes;
pub mod s4_3_cow;
pub mod s5_cost;
pub mod s6_practice;
