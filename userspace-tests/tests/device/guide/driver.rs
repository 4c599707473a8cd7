// SPDX-License-Identifier: GPL-2.0
//! The driver that docs/driver.md writes, and what the page says of it.

use std::path::Path;

use rustix::{
    fs::{Mode, OFlags, open},
    io::Errno,
    mm::{MapFlags, MremapFlags, ProtFlags},
    process::Signal,
};

use crate::{
    harness::{skip, tests},
    support::{
        assert_same,
        memory::{Map, mmap, page},
        module::{insmod, rmmod},
        process::{Program, assert_dies_of},
    },
};

tests![
    the_page_is_the_driver,
    a_producer_and_a_consumer_meet_in_it,
    a_mapping_keeps_the_module,
    it_ends_where_its_memory_ends,
    its_memory_is_not_executable
];

const PAGE: &str = include_str!("../../../../docs/driver.md");
const SOURCE: &str = include_str!("../../../../qemu/peers/rust_ring.rs");
/// Where the caller puts what `scripts/module --peers` builds.
const FILE: &str = "/rust_ring.ko";
const DEVICE: &str = "/dev/rust_ring";
/// Of its memory, as the page says.
const PAGES: usize = 4;

/// The module, loaded; unloaded when dropped.
struct Driver;

impl Driver {
    fn load() -> Self {
        if !Path::new(FILE).exists() {
            skip("/rust_ring.ko is not in the VM: see scripts/module --peers");
        }
        insmod(FILE, "").expect("insmod rust_ring.ko");
        Self
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // A test that panics may hold it.
        let _ = rmmod(c"rust_ring");
    }
}

fn map(pages: usize, prot: ProtFlags) -> rustix::io::Result<Map> {
    let file = open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).expect("open");
    mmap(file, 0, pages * page(), prot, MapFlags::SHARED)
}

/// Its blocks of Rust, one after the other, with a line between them.
fn the_page_is_the_driver() {
    let blocks = PAGE.split("```rust\n").skip(1);
    let blocks = blocks.map(|rest| rest.split_once("```\n").expect("a block has an end").0);
    let code = blocks.collect::<Vec<_>>().join("\n");
    assert_same(code.as_bytes(), SOURCE.as_bytes(), "docs/driver.md's code");
}

fn a_producer_and_a_consumer_meet_in_it() {
    let _driver = Driver::load();
    let ring = Program::new(programs::RING);
    let sides = ["produce", "consume"].map(|side| {
        let mut command = ring.command(&[side, "10000", DEVICE]);
        command.spawn().expect("start a side")
    });
    for mut side in sides {
        let status = side.wait().expect("wait");
        assert!(status.success(), "a side ended with {status}");
    }
}

fn a_mapping_keeps_the_module() {
    let _driver = Driver::load();
    let memory = map(1, ProtFlags::READ).expect("mmap");
    assert_eq!(rmmod(c"rust_ring"), Err(Errno::AGAIN));
    drop(memory);
    assert_eq!(rmmod(c"rust_ring"), Ok(()));
    assert!(!Path::new(DEVICE).exists(), "the node goes, too");
}

fn it_ends_where_its_memory_ends() {
    let _driver = Driver::load();
    let both = ProtFlags::READ | ProtFlags::WRITE;
    assert_eq!(map(PAGES + 1, both).err(), Some(Errno::NXIO));
    let mut memory = map(PAGES, both).expect("mmap");
    memory.write(PAGES * page() - 1, &[1]);
    let longer = (PAGES + 1) * page();
    memory.remap(longer, MremapFlags::MAYMOVE).expect("mremap");
    assert_eq!(memory.read(PAGES * page() - 1, 1), [1]);
    assert_dies_of(Signal::BUS, || memory.load(PAGES * page()));
}

fn its_memory_is_not_executable() {
    let _driver = Driver::load();
    let executable = ProtFlags::READ | ProtFlags::EXEC;
    assert_eq!(map(1, executable).err(), Some(Errno::INVAL));
}
