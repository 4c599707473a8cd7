// SPDX-License-Identifier: GPL-2.0
//! What costs something and what does not. Nothing is timed here: the events that
//! cost are counted, with a file in memory beside the device where they differ.

use std::{
    fs,
    sync::atomic::{
        AtomicBool, AtomicU32,
        Ordering::{Acquire, Relaxed, Release},
    },
    thread,
};

use rustix::io;

use crate::{
    harness::{skip, tests},
    support::{
        assert_same,
        memory::{
            self, Advice, Map, MapFlags, PRIVATE, RW, SHARED, mmap, mmap_at, page, private, shared,
            table,
        },
        module::{fresh, initial},
        pattern, pread,
        proc::{faults, field, minor_faults, status_kib},
        process::{end, fork, run_on},
        pwrite, seccomp, tmpfs_file,
    },
};

tests![
    read_and_write_copy,
    access_takes_no_system_call,
    first_touch_of_a_shared_page,
    first_touch_of_a_private_page,
    second_touch,
    touch_after_dontneed,
    first_touch_after_fork,
    populate_takes_the_faults_ahead,
    a_file_faults_more_often,
    no_fault_waits_for_a_disk,
    page_tables_are_built_when_they_are_needed,
    page_tables_go_with_munmap,
    munmap_flushes_other_processors_tlbs,
];

const PAGES: usize = 16;

/// The faults that a load from each page takes.
fn load(map: &Map) -> i64 {
    minor_faults(|| {
        for at in (0..map.len()).step_by(page()) {
            // SAFETY: a byte of the mapping.
            unsafe { map.at(at).read_volatile() };
        }
    })
}

/// The same for stores.
fn store(map: &Map) -> i64 {
    minor_faults(|| {
        for at in (0..map.len()).step_by(page()) {
            // SAFETY: a byte of the mapping.
            unsafe { map.at(at).write_volatile(1) };
        }
    })
}

const ALL: i64 = PAGES as i64;

/// Each read makes a copy of its own, from pages that the reader has nothing of.
fn read_and_write_copy() {
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

/// The process is killed for any system call but its end, and reads and writes all the same.
fn access_takes_no_system_call() {
    let device = fresh(1);
    let (map, bytes) = (shared(&device, 1), pattern(1, page()));
    let mut found = vec![0; page()];
    fork(|_| {
        seccomp::allow_only(&[libc::SYS_exit_group]);
        // SAFETY: all of the mapping, read and written to as memory that others use.
        let same = unsafe {
            memory::copy_out(map.at(0), &mut found);
            memory::copy_in(map.at(0), &bytes);
            found[..4] == *b"rust"
        };
        end(if same { 0 } else { 1 })
    })
    .join();
    assert_same(&pread(0, page()), &bytes, "what the kernel has");
}

/// How many page tables the mapping reaches into.
fn tables(map: &Map) -> i64 {
    let start = map.at(0) as usize;
    ((start + map.len()).div_ceil(table()) - start / table()) as i64
}

/// "The first access of a page that is not loaded faults": once for all that a page table holds of
/// a mapping; and never for a mapping of one page, which mmap itself puts in place.
fn first_touch_of_a_shared_page() {
    for pages in [1, 2, PAGES] {
        let device = fresh(pages as u64);
        for touch in [load, store] {
            let map = shared(&device, pages);
            let expected = if pages == 1 { 0 } else { tables(&map) };
            assert_eq!(touch(&map), expected, "{pages} pages");
            drop(map);
            // Where there is no page table yet.
            let map = lonely(&device, 0, pages);
            let expected = if pages == 1 { 0 } else { 1 };
            assert_eq!(touch(&map), expected, "{pages} pages alone");
        }
    }
    let device = fresh(PAGES as u64);
    for touch in [load, store] {
        let map = lonely(&device, 0, PAGES - 1);
        assert_eq!(touch(&map), 1, "all but the last page");
        let len = (PAGES - 1) * page();
        let map = mmap(&device, page() as u64, len, RW, SHARED).expect("mmap");
        assert_eq!(touch(&map), tables(&map), "all but the first page");
    }
    for touch in [load, store] {
        let map = lonely(&device, 3, PAGES);
        assert_eq!(
            touch(&map),
            2,
            "three pages in one table, the others in the next"
        );
    }
}

fn first_touch_of_a_private_page() {
    let device = fresh(1);
    let own = private(&device, 1);
    assert_eq!((load(&own), store(&own)), (0, 1), "in place, and a copy");
    drop((own, device));
    let device = fresh(PAGES as u64);
    let own = private(&device, PAGES);
    assert_eq!(
        (load(&own), store(&own)),
        (tables(&own), ALL),
        "a copy each"
    );
    let own = private(&device, PAGES);
    assert_eq!(store(&own), ALL, "copied at once");
}

fn second_touch() {
    let device = fresh(PAGES as u64);
    for map in [shared(&device, PAGES), private(&device, PAGES)] {
        store(&map);
        assert_eq!((load(&map), store(&map)), (0, 0));
    }
}

fn touch_after_dontneed() {
    for pages in [1, PAGES] {
        let device = fresh(pages as u64);
        let map = shared(&device, pages);
        store(&map);
        map.advise(Advice::LinuxDontNeed).expect("madvise");
        assert_eq!(
            (load(&map), store(&map)),
            (tables(&map), 0),
            "shared: one fault for all"
        );
        map.advise(Advice::LinuxDontNeed).expect("madvise");
        assert_eq!(store(&map), tables(&map), "by stores, too");
        let own = private(&device, pages);
        store(&own);
        own.advise(Advice::LinuxDontNeed).expect("madvise");
        assert_eq!(
            (load(&own), store(&own)),
            (tables(&own), pages as i64),
            "private: one for all pages, one for each copy"
        );
    }
}

/// fork(2) leaves page table entries to faults where they lead to a file's pages only, and copies
/// them where a private mapping has pages of its own.
fn first_touch_after_fork() {
    for pages in [1, PAGES] {
        let device = fresh(pages as u64);
        let (map, own) = (shared(&device, pages), private(&device, pages));
        let copied = private(&device, pages);
        for map in [&map, &own, &copied] {
            load(map);
        }
        // SAFETY: a byte of the mapping.
        unsafe { copied.at(0).write_volatile(1) };
        let all = pages as i64;
        fork(|_| {
            assert_eq!((load(&map), store(&map)), (tables(&map), 0), "shared");
            assert_eq!((load(&own), store(&own)), (tables(&own), all), "private");
            assert_eq!((load(&copied), store(&copied)), (0, all), "a copy made");
        })
        .join();
        assert_eq!((load(&map), store(&map)), (0, 0), "in the parent");
    }
}

fn populate_takes_the_faults_ahead() {
    let device = fresh(PAGES as u64);
    let own = mmap(&device, 0, PAGES * page(), RW, PRIVATE | MapFlags::POPULATE);
    assert_eq!(store(&own.expect("mmap")), 0, "MAP_POPULATE");
    for (map, advice) in [
        (private(&device, PAGES), Advice::LinuxPopulateWrite),
        (shared(&device, PAGES), Advice::LinuxPopulateWrite),
        (shared(&device, PAGES), Advice::LinuxPopulateRead),
    ] {
        for _ in 0..2 {
            map.advise(advice).expect("madvise");
            assert_eq!(store(&map), 0, "{advice:?}");
            map.advise(Advice::LinuxDontNeed).expect("madvise");
        }
    }
}

/// What the guide says about files is true of files, page by page where they are written to.
fn a_file_faults_more_often() {
    let file = tmpfs_file(&pattern(2, PAGES * page()));
    for pages in [1, PAGES] {
        let device = fresh(pages as u64);
        let of_file = mmap(&file, 0, pages * page(), RW, SHARED).expect("mmap");
        let of_device = shared(&device, pages);
        let (of_file, of_device) = (store(&of_file), store(&of_device));
        assert!(
            of_file > of_device,
            "{pages} pages: {of_file} of a file, {of_device} of the device"
        );
    }
}

fn no_fault_waits_for_a_disk() {
    let device = fresh(4);
    let before = faults().1;
    for map in [shared(&device, 4), private(&device, 4)] {
        map.advise(Advice::LinuxPageOut).expect("madvise");
        map.advise(Advice::LinuxDontNeed).expect("madvise");
        map.write(0, &pattern(3, 4 * page()));
    }
    assert_eq!(faults().1, before, "major faults");
}

/// An address with no page table near it: nothing of this process is within a terabyte.
const LONELY: usize = 0x1000_0000_0000;

/// A mapping there, or `before` pages before it.
fn lonely(fd: impl std::os::fd::AsFd, before: usize, pages: usize) -> Map {
    let flags = SHARED | MapFlags::FIXED_NOREPLACE;
    let address = LONELY - before * page();
    mmap_at(address, fd, pages * page(), RW, flags).expect("mmap")
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

/// "Creating a mapping has to change the page table": at once for one page, and for more when they
/// are touched, as a file's.
fn page_tables_are_built_when_they_are_needed() {
    // What is mapped, and touched, takes of page tables.
    fn grown(fd: impl std::os::fd::AsFd, pages: usize) -> [usize; 2] {
        settled(|| {
            let at_first = page_tables();
            let map = lonely(&fd, 0, pages);
            let mapped = page_tables() - at_first;
            load(&map);
            [mapped, page_tables() - at_first]
        })
    }
    let file = tmpfs_file(&pattern(3, PAGES * page()));
    let device = fresh(PAGES as u64);
    // At that address, one of each level below the top.
    let tables = grown(&file, PAGES)[1];
    assert!(tables >= 2 * page() / 1024, "{tables} KiB");
    for pages in [1, PAGES] {
        assert_eq!(grown(&file, pages), [0, tables], "a file's {pages}");
        let at_once = if pages == 1 { tables } else { 0 };
        assert_eq!(
            grown(&device, pages),
            [at_once, tables],
            "the device's {pages}"
        );
    }
}

fn page_tables_go_with_munmap() {
    let device = fresh(PAGES as u64);
    for pages in [1, PAGES] {
        for _ in 0..10 {
            let [before, mapped, after] = settled(|| {
                let before = page_tables();
                let map = lonely(&device, 0, pages);
                load(&map);
                let mapped = page_tables();
                drop(map);
                [before, mapped, page_tables()]
            });
            assert!(mapped > before);
            assert_eq!(after, before);
        }
    }
}

/// Interrupts that tell another processor to forget addresses, where it takes interrupts.
fn shootdowns() -> Option<u64> {
    let text = fs::read_to_string("/proc/interrupts").expect("interrupts");
    let numbers = field(&text, "TLB")?;
    let numbers = numbers.split_whitespace();
    Some(numbers.map_while(|word| word.parse::<u64>().ok()).sum())
}

/// Ends the other thread when this one is through, or panics.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// While a thread of the process uses the mapping on another processor, munmap must interrupt it;
/// using a mapping that stays costs nothing of the kind.
fn munmap_flushes_other_processors_tlbs() {
    const ROUNDS: u32 = 50;
    if thread::available_parallelism().map_or(1, usize::from) < 2 {
        skip("needs two processors");
    }
    let Some(_) = shootdowns() else {
        skip("here, processors tell each other without interrupts what to forget");
    };
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
        let _stop = Stop(&stop);
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
            let before = shootdowns().expect("as above");
            for _ in 0..ROUNDS {
                if anew {
                    used(&shared(&device, 1));
                } else {
                    used(&kept);
                }
            }
            *count = shootdowns().expect("as above") - before;
        }
    });
    let [kept, anew] = counts;
    assert!(
        anew >= u64::from(ROUNDS) / 2 && kept < anew / 2,
        "{kept} with one mapping, {anew} with a new one each time"
    );
}
