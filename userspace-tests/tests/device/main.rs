// SPDX-License-Identifier: GPL-2.0
//! The device's contract, call by call. Runs in the VM: `make qemu-test`.
//!
//! `device [PATTERN] [--list] [--long] [--duration S] [--seed N]` runs the tests whose names contain
//! PATTERN and closes with the line `N passed, N failed`. With `--long`, those that can do more of
//! the same do so, for hours in all; the storms go on for S seconds; the random ones begin with
//! seed N.

// A test that no table names is dead code.
#![deny(dead_code)]

mod harness;
mod support;

mod capacity;
mod client;
mod content;
mod cow;
mod cycles;
mod examples;
mod failnth;
mod fault;
mod fdinfo;
mod fsx;
mod futex;
mod hostile;
mod io;
mod ioctl;
mod kunit;
mod lifecycle;
mod like_a_file;
mod locks;
mod mmap;
mod model;
mod open;
mod pages;
mod posix;
mod processes;
mod programs;
mod protect;
mod readme;
mod refs;
mod rw;
mod s2_principle;
mod s3_use;
mod s4_1_visible;
mod s4_2_processes;
mod s4_3_cow;
mod s5_cost;
mod s6_practice;
mod seek;
mod storm;
mod sync;
mod uring;

use std::process::ExitCode;

use harness::Test;
use support::process::Role;

/// Every file with tests.
const TESTS: &[&[Test]] = &[
    capacity::TESTS,
    client::TESTS,
    content::TESTS,
    cow::TESTS,
    cycles::TESTS,
    examples::TESTS,
    failnth::TESTS,
    fault::TESTS,
    fdinfo::TESTS,
    fsx::TESTS,
    futex::TESTS,
    hostile::TESTS,
    io::TESTS,
    ioctl::TESTS,
    kunit::TESTS,
    lifecycle::TESTS,
    like_a_file::TESTS,
    locks::TESTS,
    mmap::TESTS,
    model::TESTS,
    open::TESTS,
    pages::TESTS,
    posix::TESTS,
    processes::TESTS,
    programs::TESTS,
    protect::TESTS,
    readme::TESTS,
    refs::TESTS,
    rw::TESTS,
    s2_principle::TESTS,
    s3_use::TESTS,
    s4_1_visible::TESTS,
    s4_2_processes::TESTS,
    s4_3_cow::TESTS,
    s5_cost::TESTS,
    s6_practice::TESTS,
    seek::TESTS,
    storm::TESTS,
    sync::TESTS,
    uring::TESTS,
];

/// Every program that a test starts as an unrelated process.
const ROLES: &[&Role] = &[
    &examples::PAINTER,
    &futex::WAITER,
    &lifecycle::BYSTANDER,
    &processes::PEER,
    &s4_2_processes::PARTY,
    &s4_3_cow::HOLDER,
    &s6_practice::RING,
    &s6_practice::SENSOR,
    &s6_practice::EDITOR,
];

fn main() -> ExitCode {
    harness::main(TESTS.iter().copied().flatten().collect(), ROLES)
}
