// SPDX-License-Identifier: GPL-2.0
//! Loads and unloads, over and over: what one of them kept would add up.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read, Seek},
    os::unix::fs::FileExt,
};

use rust_mmapdev::{Access, Device};
use rustix::{
    fs::{SeekFrom, fsync, seek},
    io,
};

use crate::{
    harness::{long, tests},
    support::{
        memory::{page, shared},
        module::{self, fdinfo},
        proc::{free_pages, meminfo},
    },
};

tests![cycles_leave_nothing];

/// What the kernel has allocated, in numbers.
struct Meter {
    // Opened once: open(2) allocates.
    shrink: Vec<File>,
    slabinfo: File,
}

impl Meter {
    fn new() -> Self {
        let caches = fs::read_dir("/sys/kernel/slab").expect("/sys/kernel/slab");
        let shrink = caches.map(|cache| {
            let path = cache.expect("a cache").path().join("shrink");
            File::options().write(true).open(path).expect("shrink")
        });
        Self {
            shrink: shrink.collect(),
            slabinfo: File::open("/proc/slabinfo").expect("/proc/slabinfo"),
        }
    }

    /// Has every slab cache give up what it holds in reserve, which counts as allocated.
    fn shrink(&self) {
        for file in &self.shrink {
            file.write_at(b"1", 0).expect("shrink");
        }
    }

    /// Objects of each slab cache, areas and pages of vmalloc, modules, pages of files, and pages
    /// that nobody has.
    fn counts(&mut self) -> BTreeMap<String, i64> {
        let do_rcu_barrier = "/sys/module/rcutree/parameters/do_rcu_barrier";
        let mut slabinfo = String::with_capacity(1 << 18);
        fs::write("/proc/sys/vm/drop_caches", "3").expect("drop_caches");
        self.shrink();
        // What is freed after a grace period is freed now, and in reserve.
        fs::write(do_rcu_barrier, "1").expect("do_rcu_barrier");
        self.shrink();
        self.slabinfo.rewind().expect("/proc/slabinfo");
        self.slabinfo
            .read_to_string(&mut slabinfo)
            .expect("/proc/slabinfo");

        // Two lines are the head.
        let objects = slabinfo.lines().skip(2).map(|line| {
            let mut words = line.split_whitespace();
            let name = words.next().expect("a cache's name");
            let active = words.next().and_then(|n| n.parse().ok());
            (format!("slab {name}"), active.expect("a number"))
        });
        let mut counts: BTreeMap<_, _> = objects.collect();
        // The debug kernel's pool of tracking objects, which any process makes grow by tens.
        counts.remove("slab debug_objects_cache");
        let lines = |path: &str| fs::read_to_string(path).expect(path).lines().count() as i64;
        counts.extend([
            ("modules".to_owned(), lines("/proc/modules")),
            ("areas of vmalloc".to_owned(), lines("/proc/vmallocinfo")),
            ("pages of vmalloc".to_owned(), pages("VmallocUsed")),
            ("pages of files".to_owned(), pages("Cached")),
            ("pages that nobody has".to_owned(), unaccounted_pages()),
        ]);
        counts
    }
}

fn pages(field: &str) -> i64 {
    meminfo(field) / page() as i64
}

/// Pages that are not free, and in no use that the kernel keeps account of.
fn unaccounted_pages() -> i64 {
    // CPUs add what they have counted for themselves.
    fs::write("/proc/sys/vm/stat_refresh", "1").expect("stat_refresh");
    let accounted = [
        "Buffers",
        "Cached",
        "AnonPages",
        "Slab",
        "KernelStack",
        "PageTables",
        "VmallocUsed",
        "Percpu",
    ];
    let accounted: i64 = accounted.map(pages).iter().sum();
    pages("MemTotal") - accounted - free_pages()
}

/// With each call that there is.
fn cycle() {
    module::load("buffer_pages=3").expect("insmod");
    let device = Device::open(Access::ReadWrite).expect("open");
    let map = shared(&device, 3);
    map.write(0, b"written");
    drop(map);
    assert_eq!(io::pread(&device, &mut [0; 8], 0), Ok(8));
    assert_eq!(io::pwrite(&device, &[0; 8], 0), Ok(8));
    assert_eq!(seek(&device, SeekFrom::End(0)), Ok(3 * page() as u64));
    fsync(&device).expect("fsync");
    device.info().expect("INFO");
    device.clear().expect("CLEAR");
    assert_eq!(fdinfo(&device, "page_count"), 3);
    drop(device);
    module::unload().expect("rmmod");
}

/// What each cycle keeps grows by as many as there are cycles, round after round. In an idle system
/// the counts go up and down by ten or so; by 32 or 64 for once, where a CPU or the barn of a cache
/// holds arrays of free objects, or where a work item is still to free what its grace period held.
fn cycles_leave_nothing() {
    let cycles = if long() { 1000 } else { 64 };
    module::unload_if_loaded();
    for _ in 0..16 {
        cycle();
    }
    let mut meter = Meter::new();
    let mut before = meter.counts();
    let mut rounds_grown: BTreeMap<String, i32> = BTreeMap::new();
    for round in 1..=4 {
        for _ in 0..cycles {
            cycle();
        }
        let after = meter.counts();
        let grown = after
            .iter()
            .map(|(name, count)| (name, count - before.get(name).unwrap_or(&0)))
            .filter(|(_, growth)| *growth != 0);
        let grown: Vec<_> = grown.collect();
        println!("round {round}, {cycles} cycles: {grown:?}");
        for (name, _) in grown.iter().filter(|(_, growth)| *growth >= cycles * 3 / 4) {
            *rounds_grown.entry((*name).clone()).or_default() += 1;
        }
        rounds_grown.retain(|_, rounds| *rounds == round);
        if rounds_grown.is_empty() {
            return;
        }
        before = after;
    }
    panic!("grown in each round of {cycles} cycles: {rounds_grown:?}");
}
