// SPDX-License-Identifier: GPL-2.0
//! What the kernel counts: faults, the state of page frames, the memory of this process.

use std::{
    fs::{self, File},
    mem::MaybeUninit,
    os::unix::fs::FileExt,
};

use rustix::mm::{Advice, madvise};

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
        let range = line.split([' ', '-']).take(2);
        let address = |word| usize::from_str_radix(word, 16).expect("an address");
        let [start, end] = range.map(address).collect::<Vec<_>>()[..] else {
            panic!("no range in {line}");
        };
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
    let status = read();
    let value = status.lines().find_map(|line| {
        line.strip_prefix(field)?
            .strip_prefix(':')?
            .strip_suffix("kB")
    });
    let value = value.unwrap_or_else(|| panic!("no {field} in\n{status}"));
    value.trim().parse().expect("a number")
}

fn of_frame(file: &str, frame: u64) -> u64 {
    let mut entry = [0; 8];
    File::open(file)
        .expect(file)
        .read_exact_at(&mut entry, 8 * frame)
        .expect(file);
    u64::from_ne_bytes(entry)
}

/// Page table entries that lead to the page frame.
pub fn page_count(frame: u64) -> u64 {
    of_frame("/proc/kpagecount", frame)
}

// Bits of `page_flags`, from <linux/kernel-page-flags.h>.
pub const UPTODATE: u64 = 1 << 3;
pub const WRITEBACK: u64 = 1 << 8;
pub const ANON: u64 = 1 << 12;
pub const SWAPBACKED: u64 = 1 << 14;

/// What the page frame is used for.
pub fn page_flags(frame: u64) -> u64 {
    of_frame("/proc/kpageflags", frame)
}
