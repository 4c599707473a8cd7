// SPDX-License-Identifier: GPL-2.0
//! The device's contract, call by call. Runs in the VM: `make qemu-test`.
//!
//! `device [PATTERN] [--list]` runs the tests whose names contain PATTERN and closes with the line
//! `N passed, N failed`.

// A test that no table names is dead code.
#![deny(dead_code)]

mod harness;
mod support;

mod client;
mod content;
mod cow;
mod fault;
mod fdinfo;
mod futex;
mod guide;
mod io;
mod ioctl;
mod lifecycle;
mod locks;
mod mmap;
mod open;
mod posix;
mod processes;
mod protect;
mod readme;
mod rw;
mod s4_2_processes;
mod seek;
mod sync;
mod uring;

use std::process::ExitCode;

use harness::Test;
use support::process::Role;

/// Every file with tests.
const TESTS: &[&[Test]] = &[
    client::TESTS,
    content::TESTS,
    cow::TESTS,
    fault::TESTS,
    fdinfo::TESTS,
    futex::TESTS,
    guide::TESTS,
    io::TESTS,
    ioctl::TESTS,
    lifecycle::TESTS,
    locks::TESTS,
    mmap::TESTS,
    open::TESTS,
    posix::TESTS,
    processes::TESTS,
    protect::TESTS,
    readme::TESTS,
    rw::TESTS,
    s4_2_processes::TESTS,
    seek::TESTS,
    sync::TESTS,
    uring::TESTS,
];

/// Every program that a test starts as an unrelated process.
const ROLES: &[&Role] = &[
    &futex::WAITER,
    &lifecycle::BYSTANDER,
    &processes::PEER,
    &s4_2_processes::PARTY,
];

fn main() -> ExitCode {
    harness::main(TESTS.iter().copied().flatten().collect(), ROLES)
}
