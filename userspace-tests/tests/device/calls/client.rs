// SPDX-License-Identifier: GPL-2.0
//! The client library: what it offers, and the errors that it names.

use std::{
    alloc::Layout,
    fs::File,
    mem::offset_of,
    os::fd::OwnedFd,
    sync::{Barrier, atomic::Ordering::SeqCst},
    thread,
};

use rust_mmapdev::{Access, Device, Error, Protection, Sharing, uapi};
use rustix::{fs::OFlags, io::Errno};

use crate::{
    harness::tests,
    support::{
        assert_same,
        memory::page,
        module::{self, fresh, initial},
        open, pattern, pread, tmpfs_file,
    },
};

tests![
    the_interface_is_the_headers,
    access_is_checked_not_fatal,
    copies_any_range,
    copies_leave_the_neighbours_alone,
    takes_descriptors_of_the_device_only,
    atomics_are_the_buffers,
    errors_name_the_call,
    info,
    maps_all_of_the_buffer,
    maps_a_window,
    maps_an_unaligned_window,
];

/// `src/uapi/rust_mmapdev.h`, as bindgen reads it.
#[allow(dead_code, non_camel_case_types)]
mod header {
    include!(concat!(env!("OUT_DIR"), "/uapi.rs"));
}
const HEADER: &str = include_str!(concat!(env!("OUT_DIR"), "/uapi.rs"));

fn the_interface_is_the_headers() {
    use header as theirs;
    use uapi as ours;

    // Whatever else comes into the header has to be compared here, too.
    let items: Vec<_> = HEADER
        .lines()
        .filter_map(|line| {
            let words = line.strip_prefix("pub ")?.split_once(' ')?.1;
            words.split([':', ' ', '(']).next()
        })
        .collect();
    assert_eq!(
        items,
        [
            "RUST_MMAPDEV_PATH",
            "RUST_MMAPDEV_ABI_VERSION",
            "__u32",
            "__u64",
            "rust_mmapdev_info",
            "RUST_MMAPDEV_IOC_INFO",
            "RUST_MMAPDEV_IOC_CLEAR",
            "rust_mmapdev_ioc",
        ]
    );
    assert_eq!(
        ours::RUST_MMAPDEV_PATH.to_bytes_with_nul(),
        theirs::RUST_MMAPDEV_PATH
    );
    assert_eq!(
        ours::RUST_MMAPDEV_ABI_VERSION,
        theirs::RUST_MMAPDEV_ABI_VERSION
    );
    assert_eq!(ours::RUST_MMAPDEV_IOC_INFO, theirs::RUST_MMAPDEV_IOC_INFO);
    assert_eq!(ours::RUST_MMAPDEV_IOC_CLEAR, theirs::RUST_MMAPDEV_IOC_CLEAR);

    let theirs::rust_mmapdev_info {
        size,
        page_size,
        abi_version,
    } = theirs::rust_mmapdev_info {
        size: 0,
        page_size: 0,
        abi_version: 0,
    };
    let _: ours::rust_mmapdev_info = ours::rust_mmapdev_info {
        size,
        page_size,
        abi_version,
    };
    assert_eq!(
        Layout::new::<ours::rust_mmapdev_info>(),
        Layout::new::<theirs::rust_mmapdev_info>()
    );
    macro_rules! same_offset {
        ($($field:ident),*) => {$(
            assert_eq!(
                offset_of!(ours::rust_mmapdev_info, $field),
                offset_of!(theirs::rust_mmapdev_info, $field),
                stringify!($field),
            );
        )*};
    }
    same_offset!(size, page_size, abi_version);
}

fn info() {
    let info = fresh(4).info().expect("INFO");
    assert_eq!(
        (info.size, info.page_size as usize),
        (4 * page() as u64, page())
    );
    assert_eq!(info.abi_version, uapi::RUST_MMAPDEV_ABI_VERSION);
}

fn maps_all_of_the_buffer() {
    let device = fresh(4);
    for sharing in [Sharing::Shared, Sharing::Private] {
        for protection in [Protection::Read, Protection::ReadWrite] {
            let map = device.map(sharing, protection).expect("map");
            let mut bytes = vec![0; map.len()];
            map.read_at(0, &mut bytes).expect("read_at");
            assert_same(
                &bytes,
                &initial(4 * page()),
                &format!("{sharing:?} {protection:?}"),
            );
        }
    }
    let shared = device
        .map(Sharing::Shared, Protection::ReadWrite)
        .expect("map");
    let private = device
        .map(Sharing::Private, Protection::ReadWrite)
        .expect("map");
    private.write_at(0, b"private").expect("write_at");
    assert_same(&pread(0, 4), b"rust", "the buffer after a private write");
    shared.write_at(0, b"shared").expect("write_at");
    assert_same(&pread(0, 6), b"shared", "the buffer after a shared write");
}

fn maps_a_window() {
    let device = fresh(4);
    let map = device
        .map_window(
            2 * page() as u64,
            page(),
            Sharing::Shared,
            Protection::ReadWrite,
        )
        .expect("map_window");
    assert_eq!(map.len(), page());
    map.write_at(5, b"window").expect("write_at");
    assert_same(&pread(2 * page() as u64 + 5, 6), b"window", "the buffer");
}

fn maps_an_unaligned_window() {
    let device = fresh(4);
    let offset = page() as u64 + 100;
    let map = device
        .map_window(offset, 50, Sharing::Shared, Protection::ReadWrite)
        .expect("map_window");
    assert_eq!(map.len(), 50);
    map.write_at(0, b"unaligned").expect("write_at");
    assert_same(&pread(offset, 9), b"unaligned", "the buffer");
}

fn access_is_checked_not_fatal() {
    let device = fresh(1);
    let map = device
        .map(Sharing::Shared, Protection::ReadWrite)
        .expect("map");
    let size = map.len();
    for (offset, len) in [(size, 1), (size - 1, 2), (usize::MAX, 2), (0, size + 1)] {
        let mut bytes = vec![0; len];
        assert!(matches!(
            map.read_at(offset, &mut bytes),
            Err(Error::OutOfRange { .. })
        ));
        assert!(matches!(
            map.write_at(offset, &bytes),
            Err(Error::OutOfRange { .. })
        ));
    }
    map.read_at(size, &mut []).expect("nothing, at the end");
    assert!(matches!(
        map.atomic_u32(size),
        Err(Error::OutOfRange { .. })
    ));
    assert!(matches!(map.atomic_u32(2), Err(Error::Unaligned(2))));

    let read_only = device.map(Sharing::Shared, Protection::Read).expect("map");
    assert!(matches!(read_only.write_at(0, b"x"), Err(Error::ReadOnly)));
    assert!(matches!(read_only.atomic_u32(0), Err(Error::ReadOnly)));
}

fn copies_any_range() {
    let device = fresh(1);
    let map = device
        .map(Sharing::Shared, Protection::ReadWrite)
        .expect("map");
    let mut expected = initial(page());
    for (offset, len) in [
        (0, 1),
        (1, 7),
        (8, 8),
        (9, 16),
        (3, 30),
        (0, page()),
        (page() - 1, 1),
    ] {
        let bytes = pattern(len as u8, len);
        map.write_at(offset, &bytes).expect("write_at");
        expected[offset..offset + len].copy_from_slice(&bytes);
        let what = format!("{len} bytes at {offset}");
        assert_same(&pread(0, page()), &expected, &what);
        let mut found = vec![0; len];
        map.read_at(offset, &mut found).expect("read_at");
        assert_same(&found, &bytes, &what);
    }
}

/// Threads that write to bytes of the same word, at once.
fn copies_leave_the_neighbours_alone() {
    let device = fresh(1);
    let map = device
        .map(Sharing::Shared, Protection::ReadWrite)
        .expect("map");
    let start = Barrier::new(2);
    thread::scope(|scope| {
        for offset in [101, 102] {
            let (map, start) = (&map, &start);
            scope.spawn(move || {
                start.wait();
                for i in 0..200_000_u32 {
                    let mut found = [0];
                    map.write_at(offset, &[i as u8]).expect("write_at");
                    map.read_at(offset, &mut found).expect("read_at");
                    assert_eq!(found, [i as u8], "byte {offset}, write {i}");
                }
            });
        }
    });
}

fn takes_descriptors_of_the_device_only() {
    fresh(1);
    for flags in [OFlags::RDONLY, OFlags::WRONLY, OFlags::RDWR] {
        let device = Device::try_from(open(flags)).expect("a descriptor of the device");
        device.info().expect("INFO");
    }
    for other in [
        OwnedFd::from(tmpfs_file(b"no device")),
        OwnedFd::from(File::open("/dev/null").expect("open")),
        OwnedFd::from(File::open("/dev").expect("open")),
    ] {
        let refused = Device::try_from(other);
        assert!(
            matches!(refused, Err(Error::Info(Errno::NOTTY))),
            "{refused:?}"
        );
    }
    assert!(
        matches!(
            Device::try_from(open(OFlags::PATH)),
            Err(Error::Info(Errno::BADF))
        ),
        "O_PATH"
    );
    assert_eq!(
        module::references(),
        0,
        "those that were refused are closed"
    );
}

fn atomics_are_the_buffers() {
    let device = fresh(1);
    let one = device
        .map(Sharing::Shared, Protection::ReadWrite)
        .expect("map");
    let two = device
        .map(Sharing::Shared, Protection::ReadWrite)
        .expect("map");
    one.atomic_u32(64).expect("atomic").store(41, SeqCst);
    two.atomic_u32(64).expect("atomic").fetch_add(1, SeqCst);
    assert_eq!(pread(64, 4), 42_u32.to_ne_bytes());
}

fn errors_name_the_call() {
    let device = fresh(1);
    let (reader, writer) = (
        Device::open(Access::Read).expect("open"),
        Device::open(Access::Write).expect("open"),
    );

    assert!(matches!(reader.clear(), Err(Error::Clear(Errno::BADF))));
    writer
        .clear()
        .expect("CLEAR through a write-only descriptor");

    let cases = [
        (
            reader.map(Sharing::Shared, Protection::ReadWrite),
            Errno::ACCESS,
        ),
        (writer.map(Sharing::Shared, Protection::Read), Errno::ACCESS),
        (
            device.map_window(0, 2 * page(), Sharing::Shared, Protection::Read),
            Errno::NXIO,
        ),
    ];
    for (result, expected) in cases {
        match result {
            Err(Error::Map { source, .. }) => {
                assert_eq!(Errno::from_io_error(&source), Some(expected));
            }
            other => panic!("expected {expected}, found {other:?}"),
        }
    }

    drop((device, reader, writer));
    module::unload().expect("rmmod");
    let error = Device::open(Access::Read).expect_err("no module, no device");
    assert!(matches!(error, Error::Open(Errno::NOENT)));
    assert!(error.to_string().contains(Device::PATH), "{error}");
}
