// SPDX-License-Identifier: GPL-2.0
//! Memory that is mapped by entries of the table above the page tables, 2 MiB each with 4 KiB pages:
//! where there are such entries, what breaks them up, and everything that uses mapped memory, on
//! memory mapped so. And where there can be none: one fault for all that a page table maps.

use std::{
    fs::{self, File},
    io::Write,
    mem::{ManuallyDrop, MaybeUninit},
    ops::Range,
    os::{fd::AsRawFd, unix::fs::FileExt},
    ptr,
    sync::atomic::Ordering::SeqCst,
};

use io_uring::{opcode, types::Fd};
use rustix::{
    fs::OFlags,
    io::{self, Errno},
    pipe::{SpliceFlags, pipe, vmsplice},
    process::Signal,
    thread::futex,
};

use crate::{
    calls::{
        io::{direct_file, raw, read_exactly, vectors},
        programs::{core_dump, in_core, mincore},
        uring,
    },
    harness::{skip, tests},
    lifetime::capacity::own_lines,
    support::{
        assert_same, errno,
        large::{BOTH, Large, View, huge, leaves_nothing},
        memory::{
            Advice, Map, MapFlags, MprotectFlags, PRIVATE, READ, RW, SHARED, SOFT_DIRTY, mmap,
            mmap_skewed, mmap_there, need_soft_dirty_bits, page, skewed, table,
        },
        module::{self, Log, fdinfo},
        open,
        proc::{Setting, meminfo, minor_faults},
        process::{Child, assert_dies_of, fork, traced},
        system_call, tmpfs_file,
    },
};

tests![
    the_buffer_is_in_huge_folios,
    mmap_picks_addresses_for_entries,
    a_load_maps_a_huge_folio_shared,
    a_store_maps_a_huge_folio_shared,
    a_load_maps_a_huge_folio_privately,
    huge_folios_around_are_mapped_too,
    huge_folios_around_go_by_sixteen,
    a_first_store_to_a_private_mapping_copies_one_page,
    no_entries_at_other_addresses,
    nohugepage_is_heeded,
    one_fault_for_all_that_a_page_table_maps,
    a_load_makes_room_for_stores,
    one_page_of_a_huge_folio_is_there_after_mmap,
    entries_allow_what_the_mapping_does,
    munmap_of_a_part,
    mprotect_of_a_part,
    mremap_of_a_part,
    dontneed_of_a_part,
    entries_come_back_after_dontneed,
    private_pages_are_copied_one_by_one,
    fork_before_the_first_touch,
    fork_of_mapped_memory,
    two_processes_with_other_addresses,
    windows_that_begin_and_end_in_a_folio,
    with_every_setting_of_huge_pages,
    populated_memory_takes_no_fault,
    a_futex_in_a_huge_folio,
    a_mutex_of_two_processes,
    direct_io,
    fixed_buffers_of_io_uring,
    vmsplice_across_folios,
    process_vm_of_another_process,
    proc_mem_of_another_process,
    ptrace_of_another_process,
    smaps_and_pagemap,
    mincore_says_all,
    a_core_dump_has_all_of_it,
    soft_dirty_marks_what_was_written,
    stores_pass_when_nobody_tracks_them_any_more,
];

/// Parts of a mapping of two huge folios and a rest.
fn parts() -> [Range<usize>; 7] {
    let (table, page) = (table(), page());
    [
        0..page,
        table / 2..table / 2 + 3 * page,
        table - page..table,
        table - 2 * page..table + 3 * page,
        table..2 * table,
        table + page..2 * table + 5 * page,
        0..2 * table + 37 * page,
    ]
}

/// For each of them, and for shared and private mappings, one that is mapped by entries.
fn for_each_part(body: impl Fn(View, Range<usize>)) {
    leaves_nothing(|buffer| {
        for flags in BOTH {
            for part in parts() {
                body(buffer.in_place(flags), part);
            }
        }
        buffer.check();
    });
}

// --- where there are entries --------------------------------------------------

/// As much of it as whole ones go into, which fdinfo, the line at load and meminfo say.
fn the_buffer_is_in_huge_folios() {
    let huge = huge();
    for pages in [1, huge / page() - 1, huge / page(), 3 * huge / page() + 1] {
        module::unload_if_loaded();
        fs::write("/proc/sys/vm/compact_memory", "1").expect("compact_memory");
        let before = meminfo("FileHugePages");
        let log = Log::from_now();
        module::load(&format!("buffer_pages={pages}")).expect("insmod");
        let size = pages * page();
        let expected = size / huge * huge;
        let device = open(OFlags::RDONLY);
        assert_eq!(fdinfo(&device, "huge_size") as usize, expected);
        assert_eq!(
            meminfo("FileHugePages") - before,
            expected as i64,
            "FileHugePages"
        );
        let line = format!(
            "rust_mmapdev: buffer of {size} bytes, page count {pages}, {expected} bytes in {} MiB folios",
            huge >> 20
        );
        assert_eq!(own_lines(&log), [line]);
    }
}

/// Address and offset are alike below the size of an entry.
fn mmap_picks_addresses_for_entries() {
    let buffer = Large::new(4, 0);
    for offset in [0, table(), page(), 100 * page(), table() + 511 * page()] {
        for flags in BOTH {
            let len = buffer.len() - offset;
            let map = mmap(&buffer.device, offset as u64, len, RW, flags).expect("mmap");
            assert_eq!(
                map.at(0) as usize % table(),
                offset % table(),
                "at {offset:#x}"
            );
        }
    }
}

/// Both folios of a mapping are touched, in the middle.
fn entries_after(touch: impl Fn(&Map, usize), flags: MapFlags) {
    let buffer = Large::new(2, 0);
    let view = buffer.view(0, 0, buffer.len(), flags);
    for i in 1..=2 {
        let faults = minor_faults(|| touch(&view.map, i * table() - 100 * page()));
        assert!(faults <= 1, "{faults} faults");
        assert!(view.map.huge_bytes() >= i * table());
    }
    view.check();
}

fn a_load_maps_a_huge_folio_shared() {
    entries_after(Map::load, SHARED);
}

fn a_store_maps_a_huge_folio_shared() {
    entries_after(Map::store, SHARED);
}

fn a_load_maps_a_huge_folio_privately() {
    entries_after(Map::load, PRIVATE);
}

/// As with pages, it is not one fault each. At most two, as it depends on the address which of them
/// go together.
fn huge_folios_around_are_mapped_too() {
    let buffer = Large::new(8, 0);
    for (flags, touch) in [
        (SHARED, Map::store_pages as fn(&Map)),
        (SHARED, Map::load_pages),
        (PRIVATE, Map::load_pages),
    ] {
        let view = buffer.view(0, 0, buffer.len(), flags);
        let faults = minor_faults(|| touch(&view.map));
        assert!(faults <= 2, "{faults} faults");
        assert_eq!(view.map.huge_bytes(), buffer.len());
        view.check();
    }
}

/// Groups of sixteen, counted from address 0 on.
fn huge_folios_around_go_by_sixteen() {
    /// Three of them stand before a multiple of sixteen, which is none of 32.
    const FOLIOS: usize = 12;
    const FIRST: usize = 13;
    /// An address that no process has something at.
    const PLACE: usize = 1 << 44;
    if FOLIOS * huge() > 128 << 20 {
        skip("huge pages are too large a part of the VM's memory");
    }
    let buffer = Large::new(FOLIOS, 0);
    for touch in [Map::load as fn(&Map, usize), Map::store] {
        let map = mmap_there(
            PLACE + FIRST * table(),
            &buffer.device,
            0,
            buffer.len(),
            RW,
            SHARED | MapFlags::FIXED_NOREPLACE,
        )
        .expect("mmap");
        touch(&map, 2 * table());
        assert_eq!(map.huge_bytes(), 3 * table());
        touch(&map, 3 * table());
        assert_eq!(map.huge_bytes(), FOLIOS * table());
    }
}

fn a_first_store_to_a_private_mapping_copies_one_page() {
    let buffer = Large::new(2, 0);
    let view = buffer.view(0, 0, buffer.len(), PRIVATE);
    for (i, at) in [0, table() - page(), table() + 7 * page()]
        .into_iter()
        .enumerate()
    {
        view.write(at, b"one's own");
        assert_eq!(view.map.smaps_sum(&["Anonymous"]), (i + 1) * page());
        assert_eq!(view.map.huge_bytes(), 0, "it brings nothing else");
    }
    view.check();
    let map = mmap_skewed(0, &buffer.device, 0, buffer.len(), RW, PRIVATE);
    assert_eq!(minor_faults(|| map.store(page())), 1);
}

/// Nor where an entry would reach out of the mapping.
fn no_entries_at_other_addresses() {
    let buffer = Large::new(2, 37);
    let windows = [
        (page(), 0, buffer.len()),
        (table() - page(), 0, buffer.len()),
        (0, page(), buffer.len() - page()),
        (page(), page(), table() + 3 * page()),
        (0, 0, table() - page()),
    ];
    for (skew, offset, len) in windows {
        for flags in BOTH {
            let view = buffer.view(skew, offset, len, flags);
            view.map.load_pages();
            assert_eq!(view.map.huge_bytes(), 0, "{len:#x} bytes at {offset:#x}");
            view.check();
        }
    }
}

fn nohugepage_is_heeded() {
    let buffer = Large::new(2, 0);
    for flags in BOTH {
        let view = buffer.view(0, 0, buffer.len(), flags);
        view.map
            .advise(Advice::LinuxNoHugepage)
            .expect("MADV_NOHUGEPAGE");
        let faults = minor_faults(|| view.map.load_pages());
        assert_eq!(view.map.huge_bytes(), 0);
        assert_eq!(faults, 2, "a page table each");
        view.check();
    }
}

/// Whatever the address, the window and the folios. One that compaction has locked at that moment is
/// left out, as one of a file is.
fn one_fault_for_all_that_a_page_table_maps() {
    let buffer = Large::new(2, 37);
    let (table, page, len) = (table(), page(), buffer.len());
    let windows = [
        (0, len),
        (page, len - page),
        (3 * page, 64 * page),
        (table - page, 2 * page),
        (table / 2 + 5 * page, table),
        (table + page, len - table - 2 * page),
        (2 * table + 3 * page, 30 * page),
    ];
    type Touch = fn(&Map);
    let ways: [(&str, MapFlags, Touch); 3] = [
        ("shared, stores", SHARED, Map::store_pages),
        ("shared, loads", SHARED, Map::load_pages),
        ("private, loads", PRIVATE, Map::load_pages),
    ];
    for (offset, len) in windows {
        for skew in [offset % table, 0, page, 77 * page, table - 2 * page] {
            for (way, flags, touch) in ways {
                let mut faults = 0;
                let one_each = (0..3).any(|_| {
                    let view = buffer.view(skew, offset, len, flags);
                    faults = minor_faults(|| touch(&view.map));
                    let tables = view.map.tables() as i64;
                    // Entries that map as much themselves come together.
                    faults == tables || (faults < tables && view.map.huge_bytes() > 0)
                });
                assert!(
                    one_each,
                    "{faults} faults, {way}: {len:#x} bytes from {offset:#x} on, {skew:#x} past a \
                     table's start"
                );
            }
        }
    }
    buffer.check();
}

fn a_load_makes_room_for_stores() {
    let buffer = Large::new(2, 37);
    for skew in [0, 5 * page()] {
        let view = buffer.view(skew, 0, buffer.len(), SHARED);
        view.map.load_pages();
        assert_eq!(minor_faults(|| view.map.store_pages()), 0, "{skew:#x}");
    }
}

fn one_page_of_a_huge_folio_is_there_after_mmap() {
    let buffer = Large::new(2, 37);
    for offset in [0, 5 * page(), table() - page(), 2 * table() + 36 * page()] {
        for flags in BOTH {
            let map = mmap(&buffer.device, offset as u64, page(), RW, flags).expect("mmap");
            assert!(map.frames()[0].is_some(), "at {offset:#x}");
            let view = buffer.view_of(map, offset, flags);
            view.check_part(0..page());
            view.write(8, b"written");
            view.check();
        }
    }
}

/// A store where the mapping is for reading is a SIGSEGV, whatever was touched before and when.
fn entries_allow_what_the_mapping_does() {
    let buffer = Large::new(2, 0);
    let read_write = MprotectFlags::READ | MprotectFlags::WRITE;
    let denied = |map: &Map| {
        map.load_pages();
        assert_eq!(map.huge_bytes(), buffer.len());
        for at in [0, 2 * table() - page()] {
            assert_dies_of(Signal::SEGV, || map.store(at));
        }
        // The system calls say it otherwise.
        let file = tmpfs_file(b"8 bytes.");
        // SAFETY: the address is for the kernel only.
        let n = io::pread(&file, unsafe { map.as_mut_slice(page(), 8) }, 0);
        assert_eq!(errno(n), Errno::FAULT);
    };
    let read_only = open(OFlags::RDONLY);
    for flags in BOTH {
        denied(&mmap_skewed(0, &read_only, 0, buffer.len(), READ, flags));
        let view = buffer.in_place(flags);
        view.map.store(page());
        view.map.protect(MprotectFlags::READ).expect("mprotect");
        view.drop_pages(0..buffer.len());
        denied(&view.map);
        view.map.protect(read_write).expect("mprotect");
        view.write_pages(0..buffer.len(), 1);
        view.check();
    }
    let map = mmap_skewed(0, &read_only, 0, buffer.len(), READ, SHARED);
    map.load_pages();
    assert_eq!(errno(map.protect(read_write)), Errno::ACCESS);
    buffer.check();
}

// --- what breaks them up ------------------------------------------------------

fn munmap_of_a_part() {
    for_each_part(|view, part| {
        view.write_pages(part.start..part.start + page(), 1);
        let (before, gone, after) = view.without(part);
        let ends = [gone.map.at(0), gone.map.at(gone.map.len() - 1)];
        drop(gone);
        for place in ends {
            // SAFETY: the child is to die.
            assert_dies_of(Signal::SEGV, || unsafe {
                place.read_volatile();
            });
        }
        for rest in [before, after] {
            rest.check_part(0..rest.map.len());
            rest.write_pages(0..rest.map.len(), 2);
            rest.check();
        }
    });
}

fn mprotect_of_a_part() {
    for_each_part(|view, part| {
        let protect = |prot| {
            view.map
                .protect_part(part.start, part.len(), prot)
                .expect("mprotect");
        };
        let last = part.end - page();
        protect(MprotectFlags::READ);
        for at in [part.start, last] {
            assert_dies_of(Signal::SEGV, || view.map.write(at, b"!"));
        }
        for outside in [0..part.start, part.end..view.map.len()] {
            view.write_pages(outside, 1);
        }
        view.check();
        protect(MprotectFlags::empty());
        for at in [part.start, last] {
            assert_dies_of(Signal::SEGV, || drop(view.map.read(at, 1)));
        }
        protect(MprotectFlags::READ | MprotectFlags::WRITE);
        view.write_pages(part, 2);
        view.check();
    });
}

/// To where there can be an entry again, and to where there can't.
fn mremap_of_a_part() {
    for_each_part(|view, part| {
        view.write_pages(part.start..part.start + page(), 1);
        let (before, mut moved, after) = view.without(part.clone());
        for skew in [part.start % table(), page()] {
            moved
                .map
                .remap_onto(skewed(skew, part.len()))
                .expect("mremap");
            moved.check_part(0..part.len());
            moved.write_pages(0..part.len().min(3 * page()), 2);
        }
        for rest in [&before, &after] {
            rest.check_part(0..rest.map.len());
        }
        moved.check();
    });
}

/// The bytes are the buffer's again, of a private mapping too; copies elsewhere stay.
fn dontneed_of_a_part() {
    for_each_part(|view, part| {
        let len = view.map.len();
        for at in [part.start, part.start.saturating_sub(page()), len - page()] {
            view.write_pages(at..at + page(), 1);
        }
        view.drop_pages(part);
        assert_eq!(view.map.smaps_sum(&["Anonymous"]), view.copies() * page());
        view.check();
    });
}

fn entries_come_back_after_dontneed() {
    leaves_nothing(|buffer| {
        for flags in BOTH {
            let view = buffer.in_place(flags);
            let frames = view.map.frames();
            for round in 0..3 {
                view.write_pages(round * page()..table() + page(), round as u64);
                view.drop_pages(0..buffer.len());
                assert!(view.map.frames().iter().all(Option::is_none));
                view.check();
                assert_eq!(view.map.huge_bytes(), 2 * table(), "round {round}");
                assert_eq!(view.map.frames(), frames, "the same pages");
            }
        }
    });
}

/// The others go on showing what the buffer holds.
fn private_pages_are_copied_one_by_one() {
    leaves_nothing(|buffer| {
        let view = buffer.in_place(PRIVATE);
        let all = buffer.view(page(), 0, buffer.len(), SHARED);
        let pages = [0, 1, 511, 512, 700, 1023, 1024, 1060];
        for (i, at) in pages.into_iter().map(|i| i * page()).enumerate() {
            view.write(at + 100, b"one's own");
            assert_eq!(view.map.smaps_sum(&["Anonymous"]), (i + 1) * page());
            all.write_pages(at.saturating_sub(2 * page())..at + page(), i as u64);
            view.check();
        }
        view.write_pages(0..buffer.len(), 9);
        assert_eq!(view.map.smaps_sum(&["Anonymous"]), buffer.len());
        view.check();
        all.check();
    });
}

fn fork_before_the_first_touch() {
    leaves_nothing(|buffer| {
        let views = BOTH.map(|flags| buffer.view(0, 0, buffer.len(), flags));
        fork(|_| {
            for view in &views {
                view.map.load_pages();
                assert_eq!(view.map.huge_bytes(), 2 * table(), "in the child");
                view.write_pages(0..buffer.len(), 1);
                view.check();
            }
        })
        .join();
        let [shared, private] = &views;
        for at in (0..buffer.len()).step_by(page()) {
            buffer.changed(at + 64, &(1 + at as u64).to_ne_bytes());
        }
        shared.check();
        private.check();
    });
}

/// The child's stores to private memory are its own, and so are the parent's.
fn fork_of_mapped_memory() {
    leaves_nothing(|buffer| {
        let [shared, private] = BOTH.map(|flags| buffer.in_place(flags));
        for at in [3 * page(), table() + page()] {
            private.write(at, b"copied before");
        }
        let child = fork(|link| {
            private.check();
            shared.check_part(0..buffer.len());
            private.write_pages(0..table() / 2, 1);
            private.check();
            shared.write(5 * page(), b"the child's");
            link.signal();
            link.wait();
            // The parent's stores.
            buffer.changed(table() + 9 * page(), b"the parent's");
            shared.check();
            private.check();
        });
        child.link.wait();
        buffer.changed(5 * page(), b"the child's");
        shared.write(table() + 9 * page(), b"the parent's");
        private.write_pages(table() / 4..table(), 2);
        child.link.signal();
        shared.check();
        private.check();
        child.join();
    });
}

/// One maps the buffer by entries, the other page by page: additions to the same words get lost
/// for neither, and neither breaks up the other's entries.
fn two_processes_with_other_addresses() {
    const ROUNDS: u64 = 20;
    leaves_nothing(|buffer| {
        let count = |skew: usize, huge: usize| {
            let device = open(OFlags::RDWR);
            let map = mmap_skewed(skew, &device, 0, buffer.len(), RW, SHARED);
            for _ in 0..ROUNDS {
                for at in (0..map.len()).step_by(page()) {
                    map.u64(at + 8).fetch_add(1, SeqCst);
                }
            }
            assert_eq!(map.huge_bytes(), huge);
            map
        };
        let child = fork(|_| drop(count(7 * page(), 0)));
        let map = count(0, 2 * table());
        child.join();
        let before = buffer.expected(0, buffer.len());
        for at in (8..buffer.len()).step_by(page()) {
            let word = u64::from_ne_bytes(before[at..at + 8].try_into().expect("a word"));
            buffer.changed(at, &word.wrapping_add(2 * ROUNDS).to_ne_bytes());
        }
        buffer.view_of(map, 0, SHARED).check();
    });
}

fn windows_that_begin_and_end_in_a_folio() {
    leaves_nothing(|buffer| {
        let (table, page, len) = (table(), page(), buffer.len());
        // The second has an entry of its own in the middle.
        let windows = [
            (page, table - 2 * page, 0),
            (table - 3 * page, table + 5 * page, table),
            (table / 2, len - table / 2, table),
            (table + page, table + 20 * page, 0),
        ];
        for (offset, len, huge) in windows {
            for flags in BOTH {
                let view = buffer.view(offset % table, offset, len, flags);
                view.map.load_pages();
                assert_eq!(view.map.huge_bytes(), huge, "{len:#x} from {offset:#x} on");
                view.check_part(0..len);
                view.write_pages(0..len, offset as u64);
                view.check();
                view.drop_pages(page..len - page);
                view.check();
            }
        }
    });
}

/// What is mapped stays right when the setting changes, and what is mapped then is.
fn with_every_setting_of_huge_pages() {
    leaves_nothing(|buffer| {
        let kept = BOTH.map(|flags| buffer.in_place(flags));
        let setting = Setting::new("/sys/kernel/mm/transparent_hugepage/enabled", "always");
        for value in ["never", "madvise", "always"] {
            setting.set(value);
            for (flags, touch) in [
                (SHARED, Map::store_pages as fn(&Map)),
                (PRIVATE, Map::load_pages),
            ] {
                let view = buffer.view(0, 0, buffer.len(), flags);
                assert!(minor_faults(|| touch(&view.map)) <= 3, "{value}");
                view.write_pages(table() - page()..table() + page(), 1);
                view.drop_pages(5 * page()..7 * page());
                view.check();
            }
            for view in &kept {
                view.write(table() / 2, value.as_bytes());
                view.check();
            }
        }
    });
}

// --- what puts them there ahead -----------------------------------------------

fn populated_memory_takes_no_fault() {
    let ways: [(&str, MapFlags, Option<Advice>, bool); 6] = [
        ("MAP_POPULATE", MapFlags::POPULATE, None, false),
        ("MAP_LOCKED", MapFlags::LOCKED, None, false),
        (
            "populate, read",
            MapFlags::empty(),
            Some(Advice::LinuxPopulateRead),
            false,
        ),
        (
            "populate, write",
            MapFlags::empty(),
            Some(Advice::LinuxPopulateWrite),
            false,
        ),
        ("mlock", MapFlags::empty(), None, true),
        ("mlock of what is there", MapFlags::POPULATE, None, true),
    ];
    leaves_nothing(|buffer| {
        for (way, more, advice, lock) in ways {
            for (flags, skew) in [
                (SHARED, 0),
                (SHARED, page()),
                (PRIVATE, 0),
                (PRIVATE, page()),
            ] {
                let view = buffer.view(skew, 0, buffer.len(), flags | more);
                if let Some(advice) = advice {
                    view.map.advise(advice).expect(way);
                }
                if lock {
                    view.map.lock().expect(way);
                }
                assert!(view.map.frames().iter().all(Option::is_some), "{way}");
                let loads = minor_faults(|| view.map.load_pages());
                assert_eq!(loads, 0, "{way}, {flags:?}: loads");
                if flags == SHARED || advice != Some(Advice::LinuxPopulateRead) {
                    let stores = minor_faults(|| view.map.store_pages());
                    assert_eq!(stores, 0, "{way}, {flags:?}: stores");
                }
                if lock {
                    view.map.unlock().expect(way);
                }
                view.check();
            }
        }
    });
}

// --- what uses it -------------------------------------------------------------

/// The waiter's address is in the middle of an entry, the waker's in a page table.
fn a_futex_in_a_huge_folio() {
    let buffer = Large::new(2, 0);
    let at = table() + 77 * page() + 128;
    let map = buffer.in_place(SHARED).map;
    map.u32(at).store(0, SeqCst);
    let waker = mmap_skewed(page(), &buffer.device, 0, buffer.len(), RW, SHARED);
    let child = fork(|_| {
        map.load(at);
        let result = futex::wait(map.u32(at), futex::Flags::empty(), 0, None);
        assert_eq!(result, Ok(()));
    });
    while futex::wake(waker.u32(at), futex::Flags::empty(), 1) != Ok(1) {
        std::thread::yield_now();
    }
    child.join();
}

/// A counter that is no atomic, guarded by a mutex that lies at another address in each process.
fn a_mutex_of_two_processes() {
    const ROUNDS: u64 = 3000;
    let buffer = Large::new(2, 0);
    let at = 2 * table() - page();
    let mutex = |map: &Map| map.at(at).cast::<libc::pthread_mutex_t>();
    let map = buffer.in_place(SHARED).map;
    map.u64(at + 512).store(0, SeqCst);
    let mut attributes = MaybeUninit::uninit();
    let attributes = attributes.as_mut_ptr();
    // SAFETY: nobody uses the mutex yet, and there is room for it.
    unsafe {
        assert_eq!(libc::pthread_mutexattr_init(attributes), 0);
        let shared = libc::PTHREAD_PROCESS_SHARED;
        assert_eq!(libc::pthread_mutexattr_setpshared(attributes, shared), 0);
        assert_eq!(libc::pthread_mutex_init(mutex(&map), attributes), 0);
    }
    let count = |map: &Map| {
        for _ in 0..ROUNDS {
            let counter = map.at(at + 512).cast::<u64>();
            // SAFETY: the mutex was initialized, and guards the counter.
            unsafe {
                assert_eq!(libc::pthread_mutex_lock(mutex(map)), 0);
                counter.write_volatile(counter.read_volatile() + 1);
                assert_eq!(libc::pthread_mutex_unlock(mutex(map)), 0);
            }
        }
    };
    let child = fork(|_| {
        let device = open(OFlags::RDWR);
        count(&mmap_skewed(page(), &device, 0, buffer.len(), RW, SHARED));
    });
    count(&map);
    child.join();
    assert_eq!(map.u64(at + 512).load(SeqCst), 2 * ROUNDS);
}

/// All of the memory in one call, out and in again.
fn direct_io() {
    leaves_nothing(|buffer| {
        let len = buffer.len();
        let other: Vec<u8> = buffer.expected(0, len).iter().map(|byte| !byte).collect();
        for flags in [PRIVATE, SHARED] {
            let view = buffer.in_place(flags);
            let file = direct_file();
            // SAFETY: the addresses are for the kernel only.
            let (from, to) = unsafe { (view.map.as_slice(0, len), view.map.as_mut_slice(0, len)) };
            assert_eq!(io::pwrite(&file, from, 0), Ok(len));
            let found = fs::read("/tmp/direct").expect("read");
            assert_same(&found, &buffer.expected(0, len), "the file");
            fs::write("/tmp/direct", &other).expect("write");
            assert_eq!(io::pread(&file, to, 0), Ok(len));
            assert_same(&view.map.bytes(), &other, "the mapping");
            if flags == SHARED {
                buffer.changed(0, &other);
            }
            buffer.check();
        }
        fs::remove_file("/tmp/direct").expect("remove");
    });
}

/// A registered buffer of several folios that begins and ends within one.
fn fixed_buffers_of_io_uring() {
    leaves_nothing(|buffer| {
        let (start, len) = (5 * page(), buffer.len() - 7 * page());
        for flags in [PRIVATE, SHARED] {
            let view = buffer.in_place(flags);
            let file = direct_file();
            let mut ring = uring::ring();
            uring::register(&ring, &ManuallyDrop::new(view.map.part(start, len)));
            let fd = Fd(file.as_raw_fd());
            let at = view.map.at(start);
            let entry = opcode::WriteFixed::new(fd, at, len as u32, 0).build();
            assert_eq!(uring::run(&mut ring, &entry), Ok(len));
            let found = fs::read("/tmp/direct").expect("read");
            assert_same(&found, &buffer.expected(start, len), "the file");

            let bytes = vec![flags.bits() as u8; 2 * page()];
            fs::write("/tmp/direct", &bytes).expect("write");
            for place in [start, table() - page(), 2 * table() - page()] {
                let at = view.map.at(place);
                let entry = opcode::ReadFixed::new(fd, at, bytes.len() as u32, 0).build();
                assert_eq!(uring::run(&mut ring, &entry), Ok(bytes.len()));
                assert_same(&view.map.read(place, bytes.len()), &bytes, "the mapping");
                if flags == SHARED {
                    buffer.changed(place, &bytes);
                }
            }
            buffer.check();
        }
        fs::remove_file("/tmp/direct").expect("remove");
    });
}

fn vmsplice_across_folios() {
    leaves_nothing(|buffer| {
        for flags in BOTH {
            let view = buffer.in_place(flags);
            for border in [table(), 2 * table()] {
                let (start, len) = (border - 7 * page(), 14 * page());
                let (receiver, sender) = pipe().expect("pipe");
                // SAFETY: the pages stay as they are until they are read from the pipe.
                let n = unsafe {
                    vmsplice(&sender, &[raw(&view.map, start, len)], SpliceFlags::empty())
                };
                assert_eq!(n, Ok(len));
                let found = read_exactly(&receiver, len);
                assert_same(&found, &buffer.expected(start, len), "from the pipe");
            }
        }
    });
}

/// A process that has all of the buffer mapped by entries, its address, and what else to do with it.
fn with_mapper(buffer: &Large, flags: MapFlags, body: impl FnOnce(&Child, usize)) {
    let child = fork(|link| {
        let view = buffer.in_place(flags);
        link.send(view.map.at(0) as u64);
        link.wait();
    });
    let address = child.link.receive() as usize;
    body(&child, address);
    child.link.signal();
    child.join();
}

fn process_vm_of_another_process() {
    leaves_nothing(|buffer| {
        let len = buffer.len();
        for flags in [PRIVATE, SHARED] {
            with_mapper(buffer, flags, |child, address| {
                let pid = child.pid.as_raw_nonzero().get();
                let mut found = vec![0; len];
                let [local, remote] = vectors(&mut found, address);
                // SAFETY: the local vector describes `found`.
                let n =
                    system_call(unsafe { libc::process_vm_readv(pid, &local, 1, &remote, 1, 0) });
                assert_eq!(n, Ok(len));
                assert_same(&found, &buffer.expected(0, len), "the other's memory");

                let place = table() - 3 * page() + 1;
                let mut bytes = vec![b'w'; 5 * page()];
                let [local, remote] = vectors(&mut bytes, address + place);
                // SAFETY: the local vector describes `bytes`.
                let n =
                    system_call(unsafe { libc::process_vm_writev(pid, &local, 1, &remote, 1, 0) });
                assert_eq!(n, Ok(5 * page()));
                if flags == SHARED {
                    buffer.changed(place, &bytes);
                }
            });
            buffer.check();
        }
    });
}

fn proc_mem_of_another_process() {
    leaves_nothing(|buffer| {
        let len = buffer.len();
        for flags in [PRIVATE, SHARED] {
            with_mapper(buffer, flags, |child, address| {
                let path = format!("/proc/{}/mem", child.pid);
                let memory = File::options().read(true).write(true).open(path);
                let memory = memory.expect("/proc/PID/mem");
                let mut found = vec![0; len];
                memory
                    .read_exact_at(&mut found, address as u64)
                    .expect("read");
                assert_same(&found, &buffer.expected(0, len), "the other's memory");
                let place = 2 * table() - 5;
                memory
                    .write_all_at(b"through /proc", (address + place) as u64)
                    .expect("write");
                memory
                    .read_exact_at(&mut found[..13], (address + place) as u64)
                    .expect("read");
                assert_same(&found[..13], b"through /proc", "the other's memory");
                if flags == SHARED {
                    buffer.changed(place, b"through /proc");
                }
            });
            buffer.check();
        }
    });
}

fn ptrace_of_another_process() {
    let buffer = Large::new(2, 0);
    let at = table() + 300 * page();
    for flags in [PRIVATE, SHARED] {
        with_mapper(&buffer, flags, |child, address| {
            traced(child, |pid| {
                let peek = |at: usize| {
                    let word: *mut libc::c_void = ptr::without_provenance_mut(address + at);
                    // SAFETY: the address is the other process's.
                    unsafe { libc::ptrace(libc::PTRACE_PEEKDATA, pid, word, ptr::null_mut::<u8>()) }
                        .to_ne_bytes()
                };
                assert_eq!(peek(at)[..], buffer.expected(at, 8));
                let word: *mut libc::c_void = ptr::without_provenance_mut(address + at);
                let data: *mut libc::c_void =
                    ptr::without_provenance_mut(usize::from_ne_bytes(*b"poke you"));
                // SAFETY: as above.
                let poked = unsafe { libc::ptrace(libc::PTRACE_POKEDATA, pid, word, data) };
                assert_eq!((poked, &peek(at)), (0, b"poke you"));
                if flags == SHARED {
                    buffer.changed(at, b"poke you");
                }
                for beside in [at + 8, at - page(), table()] {
                    assert_eq!(peek(beside)[..], buffer.expected(beside, 8));
                }
            });
        });
        buffer.check();
    }
}

/// All of it resident, page after page of each folio; the same pages in another mapping.
fn smaps_and_pagemap() {
    let buffer = Large::new(2, 37);
    let map = buffer.in_place(SHARED).map;
    assert_eq!(map.smaps_sum(&["Rss"]), buffer.len());
    let private = map.smaps_sum(&["Private_Clean", "Private_Dirty"]);
    assert_eq!(private, buffer.len(), "nobody else has it");
    let frames: Vec<_> = map
        .frames()
        .into_iter()
        .map(|frame| frame.expect("a frame"))
        .collect();
    for folio in frames.chunks_exact(table() / page()) {
        assert!(
            (folio[0]..)
                .zip(folio)
                .all(|(frame, found)| frame == *found)
        );
    }
    let other = mmap_skewed(page(), &buffer.device, 0, buffer.len(), READ, PRIVATE);
    other.load_pages();
    assert!(other.frames().into_iter().eq(frames.into_iter().map(Some)));
    let shared = map.smaps_sum(&["Shared_Clean", "Shared_Dirty"]);
    assert_eq!(shared, buffer.len(), "mapped twice");
    assert_eq!(map.smaps_sum(&["Pss"]), buffer.len() / 2);
}

/// As of a file that is in the page cache, mapped or not.
fn mincore_says_all() {
    let buffer = Large::new(2, 37);
    let all = Ok(vec![true; buffer.len() / page()]);
    for flags in BOTH {
        let view = buffer.view(0, 0, buffer.len(), flags);
        assert_eq!(mincore(&view.map), all, "untouched");
        view.map.load_pages();
        assert_eq!(mincore(&view.map), all, "mapped");
        view.write(table() + page(), b"one's own");
        view.drop_pages(page()..3 * page());
        assert_eq!(mincore(&view.map), all, "in part");
    }
}

fn a_core_dump_has_all_of_it() {
    let buffer = Large::new(2, 37);
    let len = buffer.len();
    let mut expected = [(); 2].map(|()| buffer.expected(0, len));
    expected[1][table() + page()..][..9].copy_from_slice(b"one's own");
    let (core, addresses) = core_dump(|link| {
        let [shared, private] = BOTH.map(|flags| buffer.in_place(flags));
        private.write(table() + page(), b"one's own");
        shared.drop_pages(0..table());
        for view in [&shared, &private] {
            link.send(view.map.at(0) as u64);
        }
        [shared, private]
    });
    let addresses: [u64; 2] = addresses;
    for (address, expected) in addresses.into_iter().zip(expected) {
        let found = in_core(&core, address, len).expect("a segment with its bytes");
        assert_same(&found, &expected, "the core dump");
    }
}

/// Pages that a write has marked in pagemap since clear_refs.
fn soft_dirty(map: &Map) -> Vec<usize> {
    let marked = map.pagemap().into_iter().enumerate();
    let marked = marked.filter(|(_, entry)| entry & SOFT_DIRTY != 0);
    marked.map(|(i, _)| i).collect()
}

fn clear_refs() {
    let mut file = File::options().write(true).open("/proc/self/clear_refs");
    let file = file.as_mut().expect("clear_refs");
    file.write_all(b"4").expect("clear_refs");
}

/// As of a file of tmpfs: no other page for being mapped by the same fault.
fn soft_dirty_marks_what_was_written() {
    need_soft_dirty_bits();
    let buffer = Large::new(2, 37);
    for flags in BOTH {
        let view = buffer.view(page(), 0, buffer.len(), flags);
        view.map.load_pages();
        clear_refs();
        assert_eq!(soft_dirty(&view.map), [0; 0], "after clear_refs");
        view.map.load_pages();
        assert_eq!(soft_dirty(&view.map), [0; 0], "loads");
        view.write(5 * page(), b"there");
        assert_eq!(soft_dirty(&view.map), [5], "mapped before");
        clear_refs();
        view.drop_pages(0..buffer.len());
        view.write(700 * page(), b"there");
        let marked: Vec<_> = soft_dirty(&view.map);
        assert_eq!(marked, [700], "first touched by the write");
        view.check();
    }
    // What one entry maps is marked as one, by one fault for its store; loads mark nothing.
    let view = buffer.view(0, 0, buffer.len(), SHARED);
    clear_refs();
    view.map.load_pages();
    assert_eq!(view.map.huge_bytes(), buffer.len() / table() * table());
    assert_eq!(soft_dirty(&view.map), [0; 0], "loads");
    view.drop_pages(0..buffer.len());
    assert_eq!(minor_faults(|| view.map.store(table() + page())), 1);
    let second: Vec<_> = (table() / page()..2 * table() / page()).collect();
    assert_eq!(soft_dirty(&view.map), second, "an entry");
}

/// A mapping whose soft-dirty bits were cleared counts as written to once mprotect(2) has merged a new
/// one with it. Its entries let no store pass yet.
fn stores_pass_when_nobody_tracks_them_any_more() {
    need_soft_dirty_bits();
    let buffer = Large::new(2, 0);
    let map = skewed(0, buffer.len());
    let [first, second] = [0, 1].map(|i| ManuallyDrop::new(map.part(i * table(), table())));
    first.fixed(&buffer.device, 0, RW, SHARED).expect("mmap");
    first.load_pages();
    assert_eq!(first.huge_bytes(), table());
    clear_refs();
    second
        .fixed(&buffer.device, table() as u64, RW, SHARED)
        .expect("mmap");
    let read_write = MprotectFlags::READ | MprotectFlags::WRITE;
    for prot in [MprotectFlags::READ, read_write] {
        second.protect(prot).expect("mprotect");
    }
    assert_eq!(map.smaps_kib("Size") << 10, buffer.len(), "one VMA");
    let view = buffer.view_of(map, 0, SHARED);
    view.write_pages(0..buffer.len(), 1);
    view.check();
}
