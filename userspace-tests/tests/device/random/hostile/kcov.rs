// SPDX-License-Identifier: GPL-2.0
//! KCOV: which code of the module a thread has run. `Kbuild` has the module instrumented where the
//! kernel offers this, and nothing else of the kernel is.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    ptr,
    sync::atomic::Ordering::Relaxed,
};

use crate::support::{
    ioctl,
    memory::{self, Map, RW, SHARED},
};

const DEVICE: &str = "/sys/kernel/debug/kcov";
/// Places that are recorded of one run, at most.
const ENTRIES: usize = 1 << 17;

// From <linux/kcov.h>.
const KCOV_INIT_TRACE: u32 = 0x8008_6301;
const KCOV_ENABLE: u32 = 0x6364;
const KCOV_TRACE_PC: usize = 0;

/// A recorder for one thread at a time.
pub struct Kcov {
    file: File,
    /// The number of entries, then these.
    area: Map,
}

impl Kcov {
    /// None where the kernel has no KCOV.
    pub fn new() -> Option<Self> {
        let file = File::options().read(true).write(true).open(DEVICE).ok()?;
        let entries = ptr::without_provenance_mut(ENTRIES);
        ioctl(&file, KCOV_INIT_TRACE, entries).expect("KCOV_INIT_TRACE");
        let area = memory::mmap(&file, 0, ENTRIES * 8, RW, SHARED).expect("mmap of kcov");
        Some(Self { file, area })
    }

    /// Records what the calling thread does until it ends. It may be a child's.
    pub fn record(&self) {
        let trace_pc = ptr::without_provenance_mut(KCOV_TRACE_PC);
        ioctl(&self.file, KCOV_ENABLE, trace_pc).expect("KCOV_ENABLE");
    }

    /// Forgets what was recorded.
    pub fn clear(&self) {
        self.area.u64(0).store(0, Relaxed);
    }

    /// How many places were recorded so far.
    pub fn count(&self) -> usize {
        self.area.u64(0).load(Relaxed) as usize
    }

    /// What was recorded, in order.
    pub fn recorded(&self) -> Vec<u64> {
        let bytes = self.area.read(8, self.count() * 8);
        let words = bytes.chunks_exact(8).map(|word| word.try_into());
        words
            .map(|word| u64::from_ne_bytes(word.expect("8 bytes")))
            .collect()
    }
}

/// What to subtract from a place that was recorded for the offset in the module's code of the call
/// that recorded it, as a relocation in the module's file has it. It changes when the module is
/// loaded anew.
pub fn origin() -> u64 {
    let hexadecimal = |text: &str| {
        let digits = text.trim().trim_start_matches("0x");
        u64::from_str_radix(digits, 16).expect("an address")
    };
    let text = fs::read_to_string("/sys/module/rust_mmapdev/sections/.text").expect("sections");
    // What is recorded is the instruction after the call, whose address takes 4 bytes.
    hexadecimal(&text) - kernel_offset(hexadecimal) + 4
}

/// How far the kernel moved itself from where it was linked, which KCOV hides.
fn kernel_offset(hexadecimal: impl Fn(&str) -> u64) -> u64 {
    const LINKED: u64 = 0xffff_ffff_8100_0000;
    let symbols = BufReader::new(File::open("/proc/kallsyms").expect("kallsyms"));
    let line = symbols
        .lines()
        .map(|line| line.expect("kallsyms"))
        .find(|line| line.ends_with(" _text"))
        .expect("_text");
    hexadecimal(line.split(' ').next().expect("an address")) - LINKED
}
