// SPDX-License-Identifier: GPL-2.0
//! The guide's §5: what costs something and what does not. Nothing is timed here: the events that
//! cost are counted, with a file in memory beside the device where they differ.

use std::{
    fs,
    sync::atomic::{
        AtomicBool, AtomicU32,
        Ordering::{Acquire, Relaxed, Release},
    },
    thread,
};

use rustix::{
    io,
    thread::{CpuSet, sched_setaffinity},
};

use crate::{
    harness::{skip, tests},
    support::{
        assert_same,
        memory::{Advice, Map, MapFlags, PRIVATE, RW, SHARED, mmap, page, private, shared},
        module::{fresh, initial},
        pattern,
        proc::{minor_faults, status_kib},
        process::fork,
        pwrite, seccomp, tmpfs_file,
    },
};

tests![
    s5_1_read_and_write_copy,
    s5_1_a_mapping_is_used_without_system_calls,
    s5_2_first_touch_of_a_shared_page,
    s5_2_first_touch_of_a_private_page,
    s5_2_second_touch,
    s5_2_touch_after_dontneed,
    s5_2_first_touch_after_fork,
    s5_2_populate_takes_the_faults_ahead,
    s5_2_a_file_faults_where_the_device_does_not,
    s5_2_page_tables_are_built_by_mmap,
    s5_2_page_tables_go_with_munmap,
    s5_2_munmap_flushes_other_processors_tlbs,
];

const PAGES: usize = 16;

fn load(map: &Map) -> i64 {
    minor_faults(|| {
        for i in 0..PAGES {
            // SAFETY: a byte of the mapping.
            unsafe { map.at(i * page()).read_volatile() };
        }
    })
}

fn store(map: &Map) -> i64 {
    minor_faults(|| {
        for i in 0..PAGES {
            // SAFETY: a byte of the mapping.
            unsafe { map.at(i * page()).write_volatile(1) };
        }
    })
}

const ALL: i64 = PAGES as i64;

/// Each read makes a copy of its own, from pages that the reader has nothing of.
fn s5_1_read_and_write_copy() {
    let device = fresh(1);
    let map = shared(&device, 1);
    let mut copies = [vec![0; page()], vec![0; page()]];
    for copy in &mut copies {
        assert_eq!(io::pread(&device, &mut copy[..], 0), Ok(page()));
    }
    map.write(0, b"later");
    for copy in &copies {
        assert_same(copy, &initial(page()), "a copy of before");
    }
    let bytes = pattern(1, page());
    let mut source = bytes.clone();
    pwrite(0, &source);
    source.fill(0);
    assert_same(&map.bytes(), &bytes, "what was written is a copy too");
}

/// Ten thousand accesses by a process that is killed for any system call.
fn s5_1_a_mapping_is_used_without_system_calls() {
    let map = shared(fresh(1), 1);
    map.u64(128).store(0, Relaxed);
    fork(|_| {
        seccomp::allow_only(&[libc::SYS_exit_group]);
        for _ in 0..10_000 {
            map.u64(128).fetch_add(1, Relaxed);
        }
        // SAFETY: ends this process.
        unsafe { libc::_exit(0) }
    })
    .join();
    assert_eq!(map.u64(128).load(Relaxed), 10_000);
}

/// "First access of a page that is not loaded faults": these are loaded, by mmap itself.
fn s5_2_first_touch_of_a_shared_page() {
    let device = fresh(PAGES as u64);
    assert_eq!(load(&shared(&device, PAGES)), 0, "loads");
    assert_eq!(store(&shared(&device, PAGES)), 0, "stores");
}

fn s5_2_first_touch_of_a_private_page() {
    let device = fresh(PAGES as u64);
    let own = private(&device, PAGES);
    assert_eq!(load(&own), 0, "loads");
    assert_eq!(store(&own), ALL, "a copy each");
}

fn s5_2_second_touch() {
    let device = fresh(PAGES as u64);
    for map in [shared(&device, PAGES), private(&device, PAGES)] {
        map.advise(Advice::LinuxDontNeed).expect("madvise");
        store(&map);
        assert_eq!((load(&map), store(&map)), (0, 0));
    }
}

fn s5_2_touch_after_dontneed() {
    let device = fresh(PAGES as u64);
    let map = shared(&device, PAGES);
    map.advise(Advice::LinuxDontNeed).expect("madvise");
    assert_eq!(
        (load(&map), store(&map)),
        (ALL, 0),
        "shared: one fault a page"
    );
    let own = private(&device, PAGES);
    own.advise(Advice::LinuxDontNeed).expect("madvise");
    assert_eq!(
        (load(&own), store(&own)),
        (ALL, ALL),
        "private: one for the page, one for the copy"
    );
}

/// fork(2) leaves a file's page table entries to faults, but copies those that a driver made.
fn s5_2_first_touch_after_fork() {
    let device = fresh(PAGES as u64);
    let (map, own) = (shared(&device, PAGES), private(&device, PAGES));
    fork(|_| {
        assert_eq!((load(&map), store(&map)), (0, 0), "shared");
        assert_eq!((load(&own), store(&own)), (0, ALL), "private");
    })
    .join();
}

fn s5_2_populate_takes_the_faults_ahead() {
    let device = fresh(PAGES as u64);
    let own = mmap(&device, 0, PAGES * page(), RW, PRIVATE | MapFlags::POPULATE);
    assert_eq!(store(&own.expect("mmap")), 0, "MAP_POPULATE");
    for (map, advice) in [
        (private(&device, PAGES), Advice::LinuxPopulateWrite),
        (shared(&device, PAGES), Advice::LinuxPopulateWrite),
        (shared(&device, PAGES), Advice::LinuxPopulateRead),
    ] {
        map.advise(Advice::LinuxDontNeed).expect("madvise");
        map.advise(advice).expect("madvise");
        assert_eq!(store(&map), 0, "{advice:?}");
    }
}

/// What the guide says about files is true of files; the device's mmap does that work itself.
fn s5_2_a_file_faults_where_the_device_does_not() {
    let device = fresh(PAGES as u64);
    let file = tmpfs_file(&pattern(2, PAGES * page()));
    let of_file = mmap(&file, 0, PAGES * page(), RW, SHARED).expect("mmap");
    let of_device = shared(&device, PAGES);
    assert!(store(&of_file) > 0, "the file's pages come by faults");
    assert_eq!(store(&of_device), 0, "the device's pages are there");
}

/// An address with no page table near it: nothing of this process is within a terabyte.
const LONELY: usize = 0x1000_0000_0000;

fn lonely(fd: impl std::os::fd::AsFd) -> Map {
    let flags = SHARED | MapFlags::FIXED_NOREPLACE;
    crate::support::memory::mmap_at(LONELY, fd, PAGES * page(), RW, flags).expect("mmap")
}

/// What page tables take up, in KiB.
fn page_tables() -> usize {
    status_kib("VmPTE")
}

/// Measures a second time what it counts: the first time, this program's own pages come in too.
fn settled<T>(mut count: impl FnMut() -> T) -> T {
    count();
    count()
}

/// "Creating a mapping has to change the page table": here at once, of a file bit by bit.
fn s5_2_page_tables_are_built_by_mmap() {
    let device = fresh(PAGES as u64);
    let file = tmpfs_file(&pattern(3, PAGES * page()));
    let [at_first, file_mapped, file_touched, device_mapped] = settled(|| {
        let at_first = page_tables();
        let of_file = lonely(&file);
        let file_mapped = page_tables();
        load(&of_file);
        let file_touched = page_tables();
        drop(of_file);
        let _of_device = lonely(&device);
        [at_first, file_mapped, file_touched, page_tables()]
    });
    let table = page() / 1024;
    assert_eq!(file_mapped, at_first, "a file's: nothing yet");
    assert!(file_touched >= at_first + table, "a file's, touched");
    assert!(device_mapped >= at_first + table, "the device's");
}

fn s5_2_page_tables_go_with_munmap() {
    let device = fresh(PAGES as u64);
    for _ in 0..10 {
        let [before, mapped, after] = settled(|| {
            let before = page_tables();
            let map = lonely(&device);
            let mapped = page_tables();
            drop(map);
            [before, mapped, page_tables()]
        });
        assert!(mapped > before);
        assert_eq!(after, before);
    }
}

fn run_on(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).expect("sched_setaffinity");
}

/// Interrupts that tell another processor to forget addresses.
fn shootdowns() -> u64 {
    let text = fs::read_to_string("/proc/interrupts").expect("interrupts");
    let line = text
        .lines()
        .find_map(|line| line.trim_start().strip_prefix("TLB:"));
    let numbers = line.expect("a line of TLB shootdowns").split_whitespace();
    numbers.map_while(|word| word.parse::<u64>().ok()).sum()
}

/// While a thread of the process uses the mapping on another processor, munmap must interrupt it;
/// using a mapping that stays costs nothing of the kind.
fn s5_2_munmap_flushes_other_processors_tlbs() {
    const ROUNDS: u32 = 50;
    if thread::available_parallelism().map_or(1, usize::from) < 2 {
        skip("needs two processors");
    }
    let device = fresh(1);
    // The round in which the other thread is to use the mapping, and has.
    let (asked, done, stop) = (AtomicU32::new(0), AtomicU32::new(0), AtomicBool::new(false));
    let address = std::sync::atomic::AtomicUsize::new(0);
    let mut counts = [0; 2];
    thread::scope(|scope| {
        scope.spawn(|| {
            run_on(1);
            let mut round = 0;
            while !stop.load(Relaxed) {
                if asked.load(Acquire) != round {
                    round = asked.load(Acquire);
                    let byte = std::ptr::with_exposed_provenance::<u8>(address.load(Relaxed));
                    // SAFETY: the other thread keeps the mapping until `done` says so.
                    unsafe { byte.read_volatile() };
                    done.store(round, Release);
                }
                std::hint::spin_loop();
            }
        });
        run_on(0);
        let used = |map: &Map| {
            address.store(map.at(0).expose_provenance(), Relaxed);
            let round = asked.load(Relaxed) + 1;
            asked.store(round, Release);
            while done.load(Acquire) != round {
                std::hint::spin_loop();
            }
        };
        let kept = shared(&device, 1);
        for (count, anew) in counts.iter_mut().zip([false, true]) {
            let before = shootdowns();
            for _ in 0..ROUNDS {
                if anew {
                    used(&shared(&device, 1));
                } else {
                    used(&kept);
                }
            }
            *count = shootdowns() - before;
        }
        stop.store(true, Relaxed);
    });
    let [kept, anew] = counts;
    assert!(
        anew >= u64::from(ROUNDS) / 2 && kept < anew / 2,
        "{kept} with one mapping, {anew} with a new one each time"
    );
}
