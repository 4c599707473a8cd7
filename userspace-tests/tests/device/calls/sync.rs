// SPDX-License-Identifier: GPL-2.0
//! msync(2), fsync(2) and fdatasync(2): nothing to do, and so always done.

use rustix::{
    fs::{OFlags, fdatasync, fsync, syncfs},
    io::{self},
    mm::{MsyncFlags, msync},
};

use crate::{
    harness::tests,
    support::{
        assert_same,
        memory::{Map, page, private, shared},
        module::fresh,
        open, pattern, pread,
        proc::{WRITEBACK, number, page_flags},
        pwrite,
    },
};

tests![
    msync_changes_nothing,
    fsync_and_fdatasync,
    there_is_nothing_to_write_out,
];

fn sync(map: &Map, offset: usize, len: usize, flags: MsyncFlags) -> io::Result<()> {
    // SAFETY: what msync writes back or drops is never relied on by Rust.
    unsafe { msync(map.at(0).wrapping_add(offset).cast(), len, flags) }
}

const FLAGS: [MsyncFlags; 5] = [
    MsyncFlags::SYNC,
    MsyncFlags::ASYNC,
    MsyncFlags::INVALIDATE,
    MsyncFlags::SYNC.union(MsyncFlags::INVALIDATE),
    MsyncFlags::ASYNC.union(MsyncFlags::INVALIDATE),
];

fn msync_changes_nothing() {
    let device = fresh(1);
    let (map, copy) = (shared(&device, 1), private(&device, 1));
    let bytes = pattern(1, page());
    map.write(0, &bytes);
    copy.write(0, b"mine");
    for flags in FLAGS {
        sync(&map, 0, page(), flags).expect("msync");
        sync(&copy, 0, page(), flags).expect("msync");
        assert_same(&map.bytes(), &bytes, "shared");
        assert_same(&pread(0, page()), &bytes, "the buffer");
        assert_same(&copy.read(0, 4), b"mine", "private");
    }
    pwrite(0, b"kernel");
    for flags in FLAGS {
        sync(&map, 0, page(), flags).expect("msync");
        sync(&copy, 0, page(), flags).expect("msync");
        assert_same(&map.read(0, 6), b"kernel", "a write of the kernel's");
        assert_same(&copy.read(0, 4), b"mine", "private");
    }
}

fn fsync_and_fdatasync() {
    fresh(1);
    for flags in [OFlags::RDONLY, OFlags::WRONLY, OFlags::RDWR] {
        let fd = open(flags);
        fsync(&fd).unwrap_or_else(|err| panic!("fsync, {flags:?}: {err}"));
        fdatasync(&fd).unwrap_or_else(|err| panic!("fdatasync, {flags:?}: {err}"));
        syncfs(&fd).unwrap_or_else(|err| panic!("syncfs, {flags:?}: {err}"));
    }
    // Each write is followed by an fsync of the kernel's own here.
    let fd = open(OFlags::RDWR | OFlags::SYNC);
    assert_eq!(io::write(&fd, b"synchronous"), Ok(11));
    assert_same(&pread(0, 11), b"synchronous", "the buffer");
}

/// "Data finally goes to the disk, and the kernel decides when, by the dirty mark": this kernel
/// memory is the data's last home. Neither msync nor time nor pressure starts a transfer.
fn there_is_nothing_to_write_out() {
    let device = fresh(1);
    let map = shared(&device, 1);
    let frame = map.frames()[0].expect("a page");
    let written = || {
        let text = std::fs::read_to_string("/proc/self/io").expect("/proc/self/io");
        number::<u64>(&text, "write_bytes")
    };
    let before = written();
    for seed in 0..10 {
        map.write(0, &pattern(seed, page()));
        sync(&map, 0, page(), MsyncFlags::SYNC).expect("msync");
        fsync(&device).expect("fsync");
        rustix::fs::sync();
        assert_eq!(page_flags(frame) & WRITEBACK, 0, "no transfer is under way");
    }
    assert_eq!(written(), before, "bytes sent to a disk");
    assert_eq!(map.frames(), [Some(frame)], "the page stays where it is");
}
