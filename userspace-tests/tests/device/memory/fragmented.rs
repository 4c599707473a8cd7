// SPDX-License-Identifier: GPL-2.0
//! Memory in pieces: no folio of the largest kind is to be had. The module loads all the same, soon
//! and at nobody's cost, and everything is right with the folios that it gets.

use std::{fs, path::Path, time::Instant};

use rust_mmapdev::{Access, Device};

use crate::{
    harness::{skip, tests},
    memory::moving::while_threads_store,
    support::{
        assert_same,
        large::{BOTH, Large, huge, leaves_nothing_of},
        memory::{
            self, Advice, Map, MprotectFlags, PRIVATE, RW, SHARED, page, shared, skewed, table,
        },
        module::{self, Log, Renew, fdinfo, initial},
        pread,
        proc::{Setting, available, minor_faults, page_flags, vmstat},
        trace::{Allocation, Trace},
    },
};

tests![
    a_load_without_huge_folios,
    a_load_gets_folios_of_middle_size,
    one_fault_for_all_that_a_page_table_maps,
    parts_of_a_mapping,
    compaction_moves_pages_while_threads_store,
];

const HUGE_PAGES: &str = "/sys/kernel/mm/transparent_hugepage";
const MIB: usize = 1 << 20;
/// Size of the buffer in bytes.
const SIZE: usize = 32 * MIB;

/// Memory that is taken so that what is free is in pieces.
struct Fragments {
    _blocks: Vec<Map>,
    _pieces: Map,
    _settings: Vec<Setting>,
}

impl Fragments {
    /// Of every `of` pages, in most of the memory that is not in use, one is taken for good.
    fn new(of: usize) -> Self {
        const MADV_DONTNEED_LOCKED: i32 = 24;
        /// What is to be in pieces, and what is left for the kernel and the test.
        const PIECES: usize = 160 * MIB;
        /// Some 60 MiB can be on the lists of the CPUs, where nobody looks who is out of memory.
        const RESERVE: usize = 128 * MIB;
        if huge() > PIECES / 16 {
            skip(&format!(
                "huge pages of {} MiB are too large a part of the VM's memory",
                huge() / MIB
            ));
        }
        module::unload_if_loaded();
        let sizes = folio_sizes();
        // Anonymous memory stands in folios of all sizes. Compaction leaves locked pages where they are
        // and does not split what is larger, no CPU keeps much of what is free to itself, and nearly
        // all of it can be taken: that comes last, as the kernel keeps more free for larger folios.
        let for_sizes = sizes.iter().map(|size| (enabled(*size), "madvise"));
        let others = [
            ("compact_unevictable_allowed", "0"),
            ("percpu_pagelist_high_fraction", "10000"),
            ("min_free_kbytes", "2048"),
        ]
        .map(|(name, value)| (format!("/proc/sys/vm/{name}"), value));
        let settings = for_sizes
            .chain(others)
            .map(|(path, value)| Setting::new(path, value))
            .collect();
        let block = |len: usize| {
            let map = skewed(0, len);
            map.protect(MprotectFlags::READ | MprotectFlags::WRITE)
                .expect("mprotect");
            map.advise(Advice::LinuxHugepage).expect("MADV_HUGEPAGE");
            map.advise(Advice::LinuxPopulateWrite)
                .expect("MADV_POPULATE_WRITE");
            map.lock().expect("mlock");
            map
        };
        fs::write("/proc/sys/vm/drop_caches", "3").expect("drop_caches");
        let rest = (available() as usize).saturating_sub(PIECES + RESERVE);
        let mut blocks = vec![block(rest / huge() * huge())];
        let pieces = memory::anonymous(PIECES / page(), RW, PRIVATE);
        pieces
            .advise(Advice::LinuxNoHugepage)
            .expect("MADV_NOHUGEPAGE");
        pieces.lock().expect("mlock");
        for first in (0..pieces.len()).step_by(of * page()) {
            let len = (of - 1) * page();
            pieces
                .advise_by_number(first + page(), len, MADV_DONTNEED_LOCKED)
                .expect("MADV_DONTNEED_LOCKED");
        }
        // What is whole yet or can be made so, until there is none: the largest first.
        for size in sizes.iter().rev() {
            let count = format!("{HUGE_PAGES}/hugepages-{size}kB/stats/anon_fault_alloc");
            let count = || fs::read_to_string(&count).expect(&count);
            loop {
                let before = count();
                let more = block(size << 10);
                if count() == before {
                    break;
                }
                blocks.push(more);
            }
        }
        Self {
            _blocks: blocks,
            _pieces: pieces,
            _settings: settings,
        }
    }
}

/// The file that has the kernel use folios of `size` KiB for anonymous memory.
fn enabled(size: usize) -> String {
    format!("{HUGE_PAGES}/hugepages-{size}kB/enabled")
}

/// The sizes in KiB of folios that anonymous memory may stand in, without those that the kernel
/// kills a process for rather than to do without.
fn folio_sizes() -> Vec<usize> {
    const PAGE_ALLOC_COSTLY_ORDER: u32 = 3;
    let largest = (table() / page()).ilog2();
    (PAGE_ALLOC_COSTLY_ORDER + 1..=largest)
        .map(|order| (page() << order) >> 10)
        .filter(|size| Path::new(&enabled(*size)).exists())
        .collect()
}

/// A module that was loaded with memory in pieces, without a word of the kernel about memory.
fn load_in_pieces(of: usize) -> Device {
    let trace = Trace::new();
    let fragments = Fragments::new(of);
    println!(
        "{}",
        fs::read_to_string("/proc/buddyinfo").expect("buddyinfo")
    );
    let kills = vmstat("oom_kill");
    let (log, start) = (Log::from_now(), Instant::now());
    let load = || module::load(&format!("buffer_pages={}", SIZE / page()));
    trace.record(load).expect("insmod");
    println!("loaded in {:?}", start.elapsed());
    drop(fragments);
    let device = Device::open(Access::ReadWrite).expect("open");
    let in_huge_folios = fdinfo(&device, "huge_size");
    assert!(in_huge_folios < SIZE as u64, "memory was not in pieces");
    let mut lines = log.lines();
    lines.retain(|line| {
        [
            "rust_mmapdev: ",
            "page allocation failure",
            "oom-kill",
            "Out of memory",
        ]
        .iter()
        .any(|part| line.contains(part))
    });
    let line = format!(
        "rust_mmapdev: buffer of {SIZE} bytes, page count {}, {in_huge_folios} bytes in {} MiB folios",
        SIZE / page(),
        table() >> 20
    );
    assert_eq!(lines, [line]);
    assert_eq!(vmstat("oom_kill"), kills, "nobody is killed");
    // Memory is put together once for want of a folio of some size, not for every folio again.
    let in_vain = |it: &Allocation| it.failed && it.has(&["GFP_HIGHUSER_MOVABLE", "__GFP_NORETRY"]);
    let orders = trace.read().into_iter().filter(in_vain).map(|it| it.order);
    let orders: Vec<_> = orders.collect();
    println!("no folio was to be had of the orders {orders:?}");
    assert!(orders.is_sorted_by(|a, b| a > b), "{orders:?}");
    device
}

/// How many folios the buffer is made of.
fn folios(device: &Device) -> usize {
    const TAIL: u64 = 1 << 16;
    let map = shared(device, SIZE / page());
    map.load_pages();
    let frames = map.frames().into_iter().flatten();
    frames
        .filter(|frame| page_flags(*frame) & TAIL == 0)
        .count()
}

fn a_load_without_huge_folios() {
    let _renew = Renew;
    let device = load_in_pieces(2);
    assert_same(&pread(0, SIZE), &initial(SIZE), "the buffer");
    let folios = folios(&device);
    println!("{folios} folios");
    assert!(folios > SIZE / page() / 8, "memory was not in pieces");
    for flags in BOTH {
        let buffer = Large::of(Device::open(Access::ReadWrite).expect("open"));
        let view = buffer.view(0, 0, SIZE, flags);
        view.check();
        view.write_pages(0..SIZE, 1);
        view.check();
    }
}

/// Of what there is, the largest that go together.
fn a_load_gets_folios_of_middle_size() {
    let _renew = Renew;
    let device = load_in_pieces(16);
    let folios = folios(&device);
    println!("{folios} folios");
    // Eight pages are what there is most of.
    assert!(folios < SIZE / page() / 4);
    assert!(folios > SIZE / page() / 64, "memory was not in pieces");
    let buffer = Large::of(device);
    for flags in BOTH {
        let view = buffer.view(0, 0, SIZE, flags);
        view.check();
        view.write_pages(0..SIZE, 1);
        view.drop_pages(page()..SIZE / 2);
        view.check();
    }
}

fn one_fault_for_all_that_a_page_table_maps() {
    let _renew = Renew;
    let device = load_in_pieces(2);
    let buffer = Large::of(device);
    for (skew, offset, len) in [
        (0, 0, SIZE),
        (page(), 0, SIZE),
        (3 * page(), 100 * page(), 2 * table()),
    ] {
        for (flags, touch) in [
            (SHARED, Map::store_pages as fn(&Map)),
            (SHARED, Map::load_pages),
            (PRIVATE, Map::load_pages),
        ] {
            let view = buffer.view(skew, offset, len, flags);
            let (faults, tables) = (minor_faults(|| touch(&view.map)), view.map.tables() as i64);
            // An entry for a huge folio, should there be one, may bring others with it.
            assert!(faults <= tables, "{faults} faults for {tables} page tables");
        }
    }
    buffer.check();
}

fn parts_of_a_mapping() {
    let load = || Large::of(load_in_pieces(2));
    leaves_nothing_of(load, |buffer| {
        let part = table() - 2 * page()..table() + 3 * page();
        let read_write = MprotectFlags::READ | MprotectFlags::WRITE;
        for flags in BOTH {
            let view = buffer.view(0, 0, 2 * table(), flags);
            view.map.load_pages();
            view.write_pages(part.start - page()..part.end - page(), 1);
            for prot in [MprotectFlags::READ, read_write] {
                view.map
                    .protect_part(part.start, part.len(), prot)
                    .expect("mprotect");
            }
            view.drop_pages(part.start..part.start + page());
            view.check();
            let (before, mut moved, after) = view.without(part.clone());
            moved
                .map
                .remap_onto(skewed(page(), part.len()))
                .expect("mremap");
            moved.write_pages(0..part.len(), 2);
            for piece in [before, moved, after] {
                piece.check();
            }
        }
    });
}

/// With the memory in between free again, pages are moved to where they are together.
fn compaction_moves_pages_while_threads_store() {
    let _renew = Renew;
    // By chance, they may all stand where compaction moves pages to.
    assert!(
        (0..5).any(|_| pages_moved_by_compaction() > 0),
        "no page has moved"
    );
}

fn pages_moved_by_compaction() -> usize {
    let buffer = Large::of(load_in_pieces(2));
    let map = shared(&buffer.device, SIZE / page());
    map.load_pages();
    let before = map.frames();
    let mut moved = 0;
    while_threads_store(&buffer, 0..SIZE / page(), |_| {
        // It ends early, as it likes.
        for round in 0..20 {
            fs::write("/proc/sys/vm/compact_memory", "1").expect("compact_memory");
            map.load_pages();
            let frames = map.frames().into_iter();
            moved = frames.zip(&before).filter(|(a, b)| a != *b).count();
            if round > 2 && moved > 0 {
                break;
            }
        }
    });
    println!("{moved} pages have moved");
    moved
}
