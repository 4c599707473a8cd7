// SPDX-License-Identifier: GPL-2.0
//! The device's contract, call by call. Runs in the VM: `make qemu-test`.
//!
//! `device [PATTERNS] [--list] [--long] [--duration S] [--seed N]` runs the tests whose names contain
//! one of the words of PATTERNS and closes with the line `N passed, N failed`. With `--long`, those
//! that can do more of the same do so, for hours in all; the storms go on for S seconds; the random
//! ones begin with seed N.

// A test that no table names is dead code.
#![deny(dead_code)]

mod harness;
mod support;

mod calls;
mod guide;
mod lifetime;
mod memory;
mod random;
mod sharing;

use std::process::ExitCode;

fn main() -> ExitCode {
    harness::main()
}
