// SPDX-License-Identifier: GPL-2.0
//! lseek(2): within `0..=size`, from the start, the position or the end.

use std::os::fd::AsRawFd;

use rust_mmapdev::Device;
use rustix::{
    fs::tell,
    io::{self, Errno},
};

use crate::{
    harness::tests,
    support::{memory::page, module::fresh, pwrite, system_call},
};

tests![
    data_hole_and_others_are_einval,
    a_failed_seek_does_not_move,
    reads_and_writes_follow,
    from_the_start,
    from_the_position,
    from_the_end,
];

fn lseek(device: &Device, offset: i64, whence: i32) -> io::Result<usize> {
    // SAFETY: no memory is involved.
    system_call(unsafe { libc::lseek(device.as_raw_fd(), offset, whence) })
}

fn from_the_start() {
    let device = fresh(4);
    let size = 4 * page();
    for offset in [0, 1, page(), size - 1, size] {
        assert_eq!(lseek(&device, offset as i64, libc::SEEK_SET), Ok(offset));
    }
    for offset in [-1, i64::MIN, size as i64 + 1, i64::MAX] {
        assert_eq!(
            lseek(&device, offset, libc::SEEK_SET),
            Err(Errno::INVAL),
            "{offset}"
        );
    }
}

fn from_the_position() {
    let device = fresh(4);
    let size = 4 * page() as i64;
    for (offset, position) in [
        (0, 0),
        (5, 5),
        (-2, 3),
        (size - 3, size),
        (-size, 0),
        (size, size),
    ] {
        assert_eq!(
            lseek(&device, offset, libc::SEEK_CUR),
            Ok(position as usize),
            "{offset}"
        );
    }
    for offset in [1, i64::MAX, -size - 1, i64::MIN] {
        assert_eq!(
            lseek(&device, offset, libc::SEEK_CUR),
            Err(Errno::INVAL),
            "{offset}"
        );
    }
}

fn from_the_end() {
    let device = fresh(4);
    let size = 4 * page() as i64;
    for offset in [0, -1, -size] {
        let position = (size + offset) as usize;
        assert_eq!(
            lseek(&device, offset, libc::SEEK_END),
            Ok(position),
            "{offset}"
        );
    }
    for offset in [1, i64::MAX, -size - 1, i64::MIN] {
        assert_eq!(
            lseek(&device, offset, libc::SEEK_END),
            Err(Errno::INVAL),
            "{offset}"
        );
    }
}

fn data_hole_and_others_are_einval() {
    let device = fresh(1);
    for whence in [libc::SEEK_DATA, libc::SEEK_HOLE, 5, -1, i32::MAX] {
        assert_eq!(
            lseek(&device, 0, whence),
            Err(Errno::INVAL),
            "whence {whence}"
        );
    }
}

fn a_failed_seek_does_not_move() {
    let device = fresh(1);
    assert_eq!(lseek(&device, 42, libc::SEEK_SET), Ok(42));
    for (offset, whence) in [
        (-1, libc::SEEK_SET),
        (i64::MAX, libc::SEEK_CUR),
        (1, libc::SEEK_END),
    ] {
        assert_eq!(lseek(&device, offset, whence), Err(Errno::INVAL));
        assert_eq!(tell(&device), Ok(42));
    }
}

fn reads_and_writes_follow() {
    let device = fresh(1);
    pwrite(100, b"found");
    assert_eq!(lseek(&device, 100, libc::SEEK_SET), Ok(100));
    let mut found = [0; 5];
    assert_eq!(io::read(&device, &mut found), Ok(5));
    assert_eq!(&found, b"found");
    assert_eq!(lseek(&device, -5, libc::SEEK_END), Ok(page() - 5));
    assert_eq!(io::write(&device, b"too long"), Ok(5));
}
