// SPDX-License-Identifier: GPL-2.0
//! The device node, and open(2) and poll(2) of it.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
};

use rust_mmapdev::Device;
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{Mode, OFlags},
    io::{self, Errno},
};

use crate::{
    harness::tests,
    support::{
        assert_same, errno,
        memory::{page, shared},
        module::{self, fresh, initial},
        open, pread,
        process::{become_nobody, fork},
    },
};

tests![
    the_node_is_a_misc_device,
    the_node_is_roots_alone,
    every_access_mode_opens,
    direct_is_einval,
    truncation_has_no_effect,
    nobody_else_may_open,
    an_open_descriptor_outlives_privilege,
    many_descriptors,
    always_ready,
];

fn the_node_is_a_misc_device() {
    fresh(1);
    let node = fs::metadata(Device::PATH).expect("the node");
    assert!(node.file_type().is_char_device());
    let (major, minor) = (libc::major(node.rdev()), libc::minor(node.rdev()));
    assert_eq!(major, 10, "the misc major");
    assert!(
        minor > 255,
        "{minor} is a minor number that the kernel gave out"
    );
    let sysfs = fs::read_to_string("/sys/class/misc/rust_mmapdev/dev").expect("sysfs");
    assert_eq!(sysfs.trim(), format!("{major}:{minor}"));
    module::unload().expect("rmmod");
    assert!(
        !Path::new(Device::PATH).exists(),
        "the node goes with the module"
    );
    assert!(!Path::new("/sys/class/misc/rust_mmapdev").exists());
}

fn the_node_is_roots_alone() {
    fresh(1);
    let node = fs::metadata(Device::PATH).expect("the node");
    assert_eq!((node.uid(), node.gid()), (0, 0));
    assert_eq!(node.mode() & 0o7777, 0o600);
}

fn every_access_mode_opens() {
    fresh(1);
    for flags in [
        OFlags::RDONLY,
        OFlags::WRONLY,
        OFlags::RDWR,
        OFlags::RDWR | OFlags::NONBLOCK,
    ] {
        open(flags);
    }
}

/// There is no store behind it that could be reached past the page cache.
fn direct_is_einval() {
    fresh(1);
    let result = rustix::fs::open(Device::PATH, OFlags::RDWR | OFlags::DIRECT, Mode::empty());
    assert_eq!(errno(result), Errno::INVAL);
    let fd = open(OFlags::RDWR);
    let result = rustix::fs::fcntl_setfl(&fd, OFlags::DIRECT);
    assert_eq!(errno(result), Errno::INVAL, "later");
}

fn truncation_has_no_effect() {
    fresh(1);
    open(OFlags::RDWR | OFlags::TRUNC | OFlags::CREATE);
    assert_same(
        &pread(0, page()),
        &initial(page()),
        "the buffer after O_TRUNC",
    );
}

fn nobody_else_may_open() {
    fresh(1);
    fork(|_| {
        become_nobody();
        let null = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty());
        null.expect("anybody reaches /dev");
        for flags in [OFlags::RDONLY, OFlags::WRONLY, OFlags::RDWR] {
            let result = rustix::fs::open(Device::PATH, flags, Mode::empty());
            assert_eq!(errno(result), Errno::ACCESS, "{flags:?}");
        }
    })
    .join();
}

/// The right to use the device is the descriptor's: it can be opened by root and handed on.
fn an_open_descriptor_outlives_privilege() {
    let device = fresh(1);
    fork(|_| {
        become_nobody();
        assert_eq!(io::pread(&device, &mut [0; 8], 0), Ok(8));
        shared(&device, 1).write(0, b"from nobody");
        device.info().expect("INFO");
    })
    .join();
    assert_same(
        &pread(0, 11),
        b"from nobody",
        "what the unprivileged process stored",
    );
}

fn many_descriptors() {
    fresh(1);
    let before = module::references();
    let all: Vec<_> = (0..900).map(|_| open(OFlags::RDWR)).collect();
    assert_eq!(module::references() - before, 900);
    drop(all);
    assert_eq!(module::references(), before);
}

/// As a regular file: reading and writing never wait.
fn always_ready() {
    let device = fresh(1);
    let mut fds = [PollFd::new(&device, PollFlags::IN | PollFlags::OUT)];
    assert_eq!(poll(&mut fds, None), Ok(1));
    assert_eq!(fds[0].revents(), PollFlags::IN | PollFlags::OUT);
}
