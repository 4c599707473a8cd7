// SPDX-License-Identifier: GPL-2.0
//! The device node, and open(2) and poll(2) of it.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown},
    path::Path,
};

use rust_mmapdev::{Access, Device};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{Mode, OFlags},
    io::{self, Errno},
};

use crate::{
    harness::tests,
    support::{
        assert_same, errno,
        memory::{page, private, shared},
        module::{self, Renew, fresh, initial},
        open, pread,
        process::{NOBODY, become_nobody, fork},
    },
};

tests![
    the_node_is_a_misc_device,
    the_node_is_roots_alone,
    every_access_mode_opens,
    direct_is_einval,
    truncation_has_no_effect,
    nobody_else_may_open,
    whom_the_node_lets_in_may_use_all,
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

/// What a process without privileges does with a device of one page, in each way that there is.
fn use_all(device: &Device) {
    device.info().expect("INFO");
    device.clear().expect("CLEAR");
    assert_eq!(io::pwrite(device, b"from nobody", 0), Ok(11));
    let mut bytes = [0; 11];
    assert_eq!(io::pread(device, &mut bytes, 0), Ok(11));
    assert_same(&bytes, b"from nobody", "the buffer");
    private(device, 1).write(0, b"for itself.");
    let map = shared(device, 1);
    assert_same(&map.read(0, 11), b"from nobody", "the mapping");
    map.write(5, b"anybody");
}

/// Its mode and owner are the administrator's to set, and nothing else is asked for.
fn whom_the_node_lets_in_may_use_all() {
    fresh(1);
    let _renew = Renew;
    for (mode, group) in [(0o666, 0), (0o660, NOBODY), (0o640, NOBODY)] {
        let permissions = fs::Permissions::from_mode(mode);
        fs::set_permissions(Device::PATH, permissions).expect("chmod");
        chown(Device::PATH, None, Some(group)).expect("chown");
        fork(|_| {
            become_nobody();
            open(OFlags::RDONLY);
            for flags in [OFlags::WRONLY, OFlags::RDWR] {
                let result = rustix::fs::open(Device::PATH, flags, Mode::empty());
                let expected = if mode == 0o640 {
                    Err(Errno::ACCESS)
                } else {
                    Ok(())
                };
                assert_eq!(result.map(drop), expected, "{flags:?} with {mode:o}");
            }
            if mode != 0o640 {
                use_all(&Device::open(Access::ReadWrite).expect("open"));
            }
        })
        .join();
    }
    assert_same(&pread(0, 13), b"from anybody\0", "what was stored");
}

/// The right to use the device is the descriptor's: it can be opened by root and handed on.
fn an_open_descriptor_outlives_privilege() {
    let device = fresh(1);
    fork(|_| {
        become_nobody();
        use_all(&device);
    })
    .join();
    assert_same(&pread(0, 13), b"from anybody\0", "what was stored");
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
