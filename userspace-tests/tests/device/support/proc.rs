// SPDX-License-Identifier: GPL-2.0
//! What the kernel counts: faults, the state of page frames, the memory of this process.

use std::{
    fs::{self, File},
    mem::MaybeUninit,
    ops::Range,
    os::unix::fs::FileExt,
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::{
    mm::{Advice, madvise},
    param::page_size as page,
};

use super::large::has_huge_pages;
pub use super::memory::{field, number, vma_range};

/// Minor and major faults of this process so far: getrusage(2).
pub fn faults() -> (i64, i64) {
    let mut usage = MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: the call fills in all of `usage`.
    let usage = unsafe {
        assert_eq!(libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()), 0);
        usage.assume_init()
    };
    (usage.ru_minflt, usage.ru_majflt)
}

/// Brings the program's code into the page table, so that no fault on it is counted.
fn settle() {
    let maps = fs::read_to_string("/proc/self/maps").expect("maps");
    // Of files alone: the kernel's own pages of code are there anyway.
    for line in maps
        .lines()
        .filter(|line| line.contains(" r-xp ") && line.contains('/'))
    {
        let Range { start, end } = vma_range(line);
        // SAFETY: nothing changes but the page table.
        unsafe {
            let start = std::ptr::with_exposed_provenance_mut(start);
            madvise(start, end - start.addr(), Advice::LinuxPopulateRead)
        }
        .expect("MADV_POPULATE_READ");
    }
}

/// The minor faults that `body` takes. It had better not allocate.
pub fn minor_faults(body: impl FnOnce()) -> i64 {
    settle();
    // The first call may be the first to write to this part of the stack, after fork above all.
    faults();
    let before = faults().0;
    body();
    faults().0 - before
}

/// A field of /proc/self/status in KiB.
pub fn status_kib(field: &str) -> usize {
    let read = || fs::read_to_string("/proc/self/status").expect("status");
    // Reading takes memory too, the first time: that is not to show in a difference.
    drop(read());
    number(&read(), field)
}

/// A field of /proc/meminfo in bytes.
pub fn meminfo(field: &str) -> i64 {
    if field == "FileHugePages" && !has_huge_pages() {
        // There are none, and no such line.
        return 0;
    }
    let text = fs::read_to_string("/proc/meminfo").expect("meminfo");
    number::<i64>(&text, field) * 1024
}

/// A number in /proc/vmstat.
pub fn vmstat(name: &str) -> i64 {
    let text = fs::read_to_string("/proc/vmstat").expect("vmstat");
    number(&text, name)
}

/// A file below /proc/sys or /sys that a test writes to: when dropped, it holds what it did before.
pub struct Setting {
    path: String,
    before: String,
}

impl Setting {
    pub fn new(path: impl Into<String>, value: &str) -> Self {
        let path = path.into();
        let text = fs::read_to_string(&path).expect(&path);
        // Of several words, the one in brackets holds.
        let chosen = text
            .split_once('[')
            .and_then(|(_, end)| end.split_once(']'));
        let before = chosen.map_or(text.as_str(), |(word, _)| word).to_owned();
        let this = Self { path, before };
        this.set(value);
        this
    }

    pub fn set(&self, value: &str) {
        fs::write(&self.path, value)
            .unwrap_or_else(|err| panic!("{value} to {}: {err}", self.path));
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        self.set(&self.before);
    }
}

/// Free pages, with those that each CPU holds free for itself.
pub fn free_pages() -> i64 {
    meminfo("MemFree") / page() as i64 + held_by_cpus()
}

/// Free pages that each CPU holds for itself, many MiB after a large buffer is freed.
fn held_by_cpus() -> i64 {
    let zones = fs::read_to_string("/proc/zoneinfo").expect("zoneinfo");
    let held = zones
        .lines()
        .filter_map(|line| line.trim().strip_prefix("count:"));
    held.map(|n| n.trim().parse::<i64>().expect("a number"))
        .sum()
}

/// Memory that is free or may be had, in bytes. MemAvailable leaves out what CPUs hold.
pub fn available() -> i64 {
    meminfo("MemAvailable") + held_by_cpus() * page() as i64
}

/// Brings what CPUs have yet to add to the lists of pages there, and into the counts. Of a huge page
/// of which only a part is mapped, the kernel frees the rest when it drops what it calls slab.
pub fn settle_lists() {
    for (file, value) in [("drop_caches", "3"), ("stat_refresh", "1")] {
        fs::write(format!("/proc/sys/vm/{file}"), value).expect(file);
    }
}

/// How long a machine that is busy may take to do what the kernel leaves for later.
const PATIENCE: Duration = Duration::from_secs(40);

/// Measures, over and over until it is as it should be or no wait helps.
pub fn settled<T>(measure: impl Fn() -> T, is_good: impl Fn(&T) -> bool) -> T {
    let start = Instant::now();
    loop {
        settle_lists();
        let found = measure();
        if is_good(&found) || start.elapsed() > PATIENCE {
            return found;
        }
        sleep(Duration::from_millis(20));
    }
}

/// Pages in memory that may only be swapped or cannot be reclaimed, but are neither a process's nor
/// of shared memory: the buffer, what has leaked, and some constant.
pub fn nobodys_pages() -> i64 {
    settle_lists();
    unsettled_nobodys_pages()
}

/// The same count, with what the kernel has yet to free.
pub fn unsettled_nobodys_pages() -> i64 {
    let listed = ["Active(anon)", "Inactive(anon)", "Unevictable"].map(meminfo);
    let owned = ["AnonPages", "Shmem"].map(meminfo);
    (listed.iter().sum::<i64>() - owned.iter().sum::<i64>()) / page() as i64
}

fn of_frames(file: &str, frames: Range<u64>) -> Vec<u64> {
    let mut entries = vec![0; 8 * (frames.end - frames.start) as usize];
    File::open(file)
        .expect(file)
        .read_exact_at(&mut entries, 8 * frames.start)
        .expect(file);
    let word = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().expect("8 bytes"));
    entries.chunks_exact(8).map(word).collect()
}

/// Page table entries that lead to the page frame.
pub fn page_count(frame: u64) -> u64 {
    of_frames("/proc/kpagecount", frame..frame + 1)[0]
}

// Bits of `page_flags`, from <linux/kernel-page-flags.h>.
pub const UPTODATE: u64 = 1 << 3;
pub const DIRTY: u64 = 1 << 4;
pub const WRITEBACK: u64 = 1 << 8;
pub const ANON: u64 = 1 << 12;
pub const SWAPBACKED: u64 = 1 << 14;
pub const UNEVICTABLE: u64 = 1 << 18;
pub const HWPOISON: u64 = 1 << 19;
pub const MLOCKED: u64 = 1 << 33;

/// What the page frame is used for.
pub fn page_flags(frame: u64) -> u64 {
    flags_of_pages(frame..frame + 1)[0]
}

/// What each of the page frames is used for.
pub fn flags_of_pages(frames: Range<u64>) -> Vec<u64> {
    of_frames("/proc/kpageflags", frames)
}
