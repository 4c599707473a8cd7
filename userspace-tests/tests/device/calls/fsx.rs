// SPDX-License-Identifier: GPL-2.0
//! fsx, an exerciser of files that others wrote: random reads and writes, by call and through
//! mappings, with msync, fsync, sendfile and advice between them, against its own idea of the file.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

use rust_mmapdev::Device;

use crate::{
    harness::{long, seed, skip, tests},
    support::{memory::page, module::fresh},
};

tests![one_page, many_pages, several_mib, it_notices_a_wrong_byte];

/// Where the caller puts what `scripts/fsx` builds.
const FSX: &str = "/fsx";

/// `most`: pages that one operation is about.
fn run(pages: usize, most: usize, seed: u64, operations: u64, more: &[&str]) -> Output {
    if !Path::new(FSX).exists() {
        skip("/fsx is not in the VM: see scripts/fsx");
    }
    fresh(pages as u64);
    let config = format!(
        "flen = {size}
        blockmode = true
        nosizechecks = true
        [opsize]
        max = {most}
        [weights]
        read = 10
        write = 10
        mapread = 10
        mapwrite = 10
        invalidate = 1
        truncate = 0
        fsync = 1
        fdatasync = 1
        sendfile = 5
        posix_fadvise = 1",
        size = pages * page(),
        most = most * page(),
    );
    fs::write("/tmp/fsx.toml", config).expect("write the configuration");
    Command::new(FSX)
        .args(["-f", "/tmp/fsx.toml", "-P", "/tmp"])
        .args(["-S", &seed.to_string(), "-N", &operations.to_string()])
        .args(more)
        .arg(Device::PATH)
        .stdin(Stdio::null())
        .output()
        .expect("run fsx")
}

#[track_caller]
fn exercise(pages: usize, most: usize, operations: u64) {
    let (runs, times) = if long() { (5, 20) } else { (1, 1) };
    for seed in (seed()..).take(runs) {
        let output = run(pages, most, seed, times * operations, &[]);
        assert!(
            output.status.success(),
            "fsx with seed {seed}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

fn one_page() {
    exercise(1, 1, 5_000);
}

fn many_pages() {
    exercise(1024, 8, 5_000);
}

/// Mappings of more than one page table.
fn several_mib() {
    exercise(2000, 1100, 120);
}

/// An error of its own making: what it says about the device is worth something.
fn it_notices_a_wrong_byte() {
    // Only where the operation of that number is a write.
    let steps = (500..510).map(|step| step.to_string());
    let noticed = steps
        .map(|step| run(4, 4, seed(), 1000, &["--inject", &step]))
        .find(|output| !output.status.success());
    let output = noticed.expect("one of ten runs fails");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("miscompare"), "{errors}");
}
