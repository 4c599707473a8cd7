// SPDX-License-Identifier: GPL-2.0
//! What the buffer is to hold, whoever is writing, being killed or clearing it.
//!
//! The buffer is an array of cells of eight bytes, each stored at once. A cell's word is the stamp
//! of the operation that stored it, and a checksum of stamp and place. Each cell belongs to one
//! slot, and only the worker in that slot stores there. So what the owner announces here before it
//! stores is what everybody must find, by whatever way he looks, unless the owner is storing at
//! that moment or somebody clears the buffer: both can be told from the stamps.

use std::{
    ops::Range,
    sync::atomic::{AtomicI32, AtomicU64, Ordering::SeqCst},
};

use rustix::io::{self, Errno};

use super::worker::{KINDS, Kind};
use crate::support::{
    memory::{Map, RW, SHARED, page, try_anonymous},
    shared::{Shared, Zeroed},
};

/// Processes of a storm.
pub const PROCESSES: usize = 8;
/// Threads of a process.
pub const THREADS: usize = 3;
/// Workers at a time: a thread each.
pub const SLOTS: usize = PROCESSES * THREADS;

/// Bytes of a cell.
pub const CELL: usize = size_of::<u64>();

/// A slot: the place of one worker after another.
#[repr(C, align(128))]
pub struct Slot {
    /// Stamps of the operation that stores, or stored last, and of the last one that is done.
    begun: AtomicU64,
    done: AtomicU64,
    /// The cells that it stores to.
    first: AtomicU64,
    end: AtomicU64,
    /// What was stored up to this stamp is cleared.
    cleared: AtomicU64,
    /// When the worker's last CLEAR began and ended.
    clear_begun: AtomicU64,
    clear_ended: AtomicU64,
    /// Workers that this slot has had, operations of the present one, and which that is.
    generation: AtomicU64,
    pub operations: AtomicU64,
    pub doing: AtomicU64,
}

/// What all processes of a storm share besides the words.
#[repr(C)]
pub struct Common {
    clock: AtomicU64,
    /// Not 0: the workers are to come to an end.
    pub stop: AtomicU64,
    /// Cells that were compared, and those that somebody was storing to meanwhile.
    pub compared: AtomicU64,
    pub moving: AtomicU64,
    /// Operations by kind, calls that memory did not suffice for, guests.
    pub operations: [AtomicU64; KINDS.len()],
    pub refused: AtomicU64,
    pub pids: [AtomicI32; PROCESSES],
    pub slots: [Slot; SLOTS],
}

/// How things stood before a look at the buffer.
pub struct Before {
    now: u64,
    /// `begun`, `done` and `cleared`.
    slots: [[u64; 3]; SLOTS],
}

// SAFETY: it has atomics only.
unsafe impl Zeroed for Common {}

pub struct Oracle {
    common: Shared<Common>,
    /// The words that the buffer is to hold, or was to hold before a CLEAR.
    words: Map,
    pub pages: usize,
    seed: u64,
    /// Cells in a row that belong to one slot: no divisor of a page, so that some lie in two.
    chunk: usize,
}

impl Oracle {
    /// For a buffer of `pages` pages. The memory is not taken from the workers' share.
    pub fn new(pages: usize, seed: u64) -> Self {
        let locked = |pages| locked(pages).expect("mmap and mlock");
        Self {
            common: Shared::within(locked(Shared::<Common>::pages())),
            words: locked(pages),
            pages,
            seed,
            chunk: (pages * page() / CELL / SLOTS / 4).max(5) | 1,
        }
    }

    pub fn common(&self) -> &Common {
        &self.common
    }

    pub fn slot(&self, slot: usize) -> &Slot {
        &self.common().slots[slot]
    }

    pub fn size(&self) -> usize {
        self.pages * page()
    }

    pub fn cells(&self) -> usize {
        self.size() / CELL
    }

    fn word(&self, cell: usize) -> &AtomicU64 {
        self.words.u64(cell * CELL)
    }

    fn owner(&self, cell: usize) -> usize {
        cell / self.chunk % SLOTS
    }

    /// The runs of cells that belong to `slot`.
    pub fn owned(&self, slot: usize) -> impl Iterator<Item = Range<usize>> {
        (slot * self.chunk..self.cells())
            .step_by(SLOTS * self.chunk)
            .map(|first| first..(first + self.chunk).min(self.cells()))
    }

    pub fn tick(&self) -> u64 {
        1 + self.common().clock.fetch_add(1, SeqCst)
    }

    /// The word of `cell` in the buffer, or in the private copy of a slot's worker.
    pub fn sealed(&self, private: Option<usize>, cell: usize, stamp: u64) -> u64 {
        let sum = mixed([
            self.seed,
            stamp,
            cell as u64,
            private.map_or(0, |i| i as u64 + 1),
        ]);
        let stamp = u32::try_from(stamp).expect("a storm of fewer than 2^32 operations");
        (u64::from(stamp) << 32) | (sum & 0xffff_ffff)
    }

    /// Has `put` store to cells that belong to `slot`: it is given each cell's word.
    pub fn store(&self, slot: usize, cells: Range<usize>, put: impl FnOnce(&dyn Fn(usize) -> u64)) {
        let this = self.slot(slot);
        let stamp = self.tick();
        this.first.store(cells.start as u64, SeqCst);
        this.end.store(cells.end as u64, SeqCst);
        this.begun.store(stamp, SeqCst);
        let word = |cell| self.sealed(None, cell, stamp);
        for cell in cells {
            self.word(cell).store(word(cell), SeqCst);
        }
        put(&word);
        this.done.store(stamp, SeqCst);
    }

    /// The cells that the slot's last worker was storing to when it was killed.
    pub fn unfinished(&self, slot: usize) -> Option<Range<usize>> {
        let this = self.slot(slot);
        let cells = this.first.load(SeqCst) as usize..this.end.load(SeqCst) as usize;
        (this.begun.load(SeqCst) != this.done.load(SeqCst)).then_some(cells)
    }

    /// Has `put` store to all cells, while there are no workers.
    pub fn fill(&self, put: impl FnOnce(&dyn Fn(usize) -> u64)) {
        let stamp = self.tick();
        let word = |cell| self.sealed(None, cell, stamp);
        for cell in 0..self.cells() {
            self.word(cell).store(word(cell), SeqCst);
        }
        put(&word);
        for slot in &self.common().slots {
            slot.begun.store(stamp, SeqCst);
            slot.done.store(stamp, SeqCst);
        }
    }

    /// Has the worker of `slot` clear the buffer.
    pub fn clear(&self, slot: usize, clear: impl FnOnce()) {
        let this = self.slot(slot);
        this.clear_begun.store(self.tick(), SeqCst);
        let done = self
            .common()
            .slots
            .each_ref()
            .map(|slot| slot.done.load(SeqCst));
        clear();
        for (slot, done) in self.common().slots.iter().zip(done) {
            slot.cleared.fetch_max(done, SeqCst);
        }
        self.clear_ended(slot);
    }

    /// The worker of `slot` is not clearing the buffer any more.
    pub fn clear_ended(&self, slot: usize) {
        self.slot(slot).clear_ended.store(self.tick(), SeqCst);
    }

    /// The worker of `slot` has ended, wherever it was.
    pub fn is_gone(&self, slot: usize) {
        let this = self.slot(slot);
        if this.clear_begun.load(SeqCst) > this.clear_ended.load(SeqCst) {
            self.clear_ended(slot);
        }
    }

    /// Whether a CLEAR that may have zeroed what was stored at `stamp` goes on or has ended.
    fn cleared_after(&self, stamp: u64) -> bool {
        self.common().slots.iter().any(|slot| {
            let begun = slot.clear_begun.load(SeqCst);
            let ended = slot.clear_ended.load(SeqCst);
            ended > stamp || begun > ended
        })
    }

    pub fn before(&self) -> Before {
        let slots =
            self.common().slots.each_ref().map(|slot| {
                [&slot.begun, &slot.done, &slot.cleared].map(|stamp| stamp.load(SeqCst))
            });
        let now = self.common().clock.load(SeqCst);
        Before { now, slots }
    }

    /// Holds words that were found in the cells from `first` on, after `before`, against what they
    /// are to be. Panics with the first that is something else.
    pub fn check(&self, before: &Before, first: usize, words: &[u64], way: &str) {
        let mut moving = 0;
        let (mut cell, mut rest) = (first, words);
        while !rest.is_empty() {
            let run = (self.chunk - cell % self.chunk).min(rest.len());
            if !self.check_run(before, cell, &rest[..run], way) {
                moving += run as u64;
            }
            cell += run;
            rest = &rest[run..];
        }
        let compared = words.len() as u64 - moving;
        self.common().compared.fetch_add(compared, SeqCst);
        self.common().moving.fetch_add(moving, SeqCst);
    }

    /// The same for words of one owner. False when he was storing meanwhile.
    fn check_run(&self, before: &Before, first: usize, words: &[u64], way: &str) -> bool {
        let owner = self.owner(first);
        let [begun, done, cleared] = before.slots[owner];
        let wrong = (first..).zip(words).find_map(|(cell, &found)| {
            let wanted = self.word(cell).load(SeqCst);
            let stamp = wanted >> 32;
            let is_right =
                found == wanted && stamp > cleared || found == 0 && self.cleared_after(stamp);
            (!is_right).then_some((cell, found, wanted))
        });
        if begun != done || self.slot(owner).begun.load(SeqCst) != begun {
            return false;
        }
        let Some((cell, found, wanted)) = wrong else {
            return true;
        };
        // It may be a copy of a word that was being zeroed.
        if self.cleared_after(before.now) {
            return false;
        }
        let stamp = wanted >> 32;
        let expected = match stamp > cleared {
            true => format!("{wanted:#018x}, stored by worker {owner} at stamp {stamp}"),
            false => format!("0, as a CLEAR came after stamp {stamp} of worker {owner}"),
        };
        panic!(
            "{way}: {}: found {}, expected {expected}",
            place(cell),
            self.describe(cell, found)
        );
    }

    /// Holds a page's private copy against what its worker knows of it.
    pub fn check_copy(&self, first: usize, words: &[u64], known: &[u64], way: &str) {
        self.common().compared.fetch_add(words.len() as u64, SeqCst);
        if let Some(i) = (0..words.len()).find(|&i| words[i] != known[i]) {
            panic!(
                "{way}: private copy of {}: found {}, expected {:#018x}",
                place(first + i),
                self.describe(first + i, words[i]),
                known[i]
            );
        }
    }

    /// What a call gives that may run out of memory.
    pub fn enough<T>(&self, what: &str, result: io::Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(Errno::NOMEM | Errno::AGAIN) => {
                self.common().refused.fetch_add(1, SeqCst);
                None
            }
            Err(err) => panic!("{what}: {err}"),
        }
    }

    /// What a word found in `cell` is.
    fn describe(&self, cell: usize, found: u64) -> String {
        let stamp = found >> 32;
        let what = if found == 0 {
            "nothing stored".into()
        } else if found == self.sealed(None, cell, stamp) {
            format!("stored there at stamp {stamp}")
        } else if let Some(slot) = (0..SLOTS).find(|&i| found == self.sealed(Some(i), cell, stamp))
        {
            format!("stored at stamp {stamp} to a private mapping of worker {slot}")
        } else if let Some(other) =
            (0..self.cells()).find(|&i| found == self.sealed(None, i, stamp))
        {
            format!("the word of {}", place(other))
        } else {
            "no worker's word".into()
        };
        format!("{found:#018x} ({what})")
    }
}

/// Memory that is there and stays there, also in a forked process: a system call that copies from
/// or to it does not run out of memory.
pub fn locked(pages: usize) -> io::Result<Map> {
    let map = try_anonymous(pages, RW, SHARED)?;
    map.lock()?;
    Ok(map)
}

/// A number that depends on all of these.
pub fn mixed(numbers: [u64; 4]) -> u64 {
    // SplitMix64's steps.
    numbers.into_iter().fold(0, |sum: u64, number| {
        let mut sum = sum.wrapping_add(number).wrapping_add(0x9e37_79b9_7f4a_7c15);
        sum = (sum ^ (sum >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        sum = (sum ^ (sum >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        sum ^ (sum >> 31)
    })
}

fn place(cell: usize) -> String {
    let cells = page() / CELL;
    format!("page {}, cell {}", cell / cells, cell % cells)
}

impl Slot {
    /// Makes room for the next worker.
    pub fn next_generation(&self) -> u64 {
        self.operations.store(0, SeqCst);
        self.generation.fetch_add(1, SeqCst)
    }

    pub fn describe(&self) -> String {
        format!(
            "operation {}, {:?}",
            self.operations.load(SeqCst),
            Kind::numbered(self.doing.load(SeqCst))
        )
    }
}
