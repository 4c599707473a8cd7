// SPDX-License-Identifier: GPL-2.0
//! A worker: one operation after the other, each chosen by its seed and by what it has mapped.

use std::{
    cell::Cell,
    io::stderr,
    mem::{forget, replace, take},
    ops::Range,
    os::unix::process::ExitStatusExt,
    panic::set_hook,
    sync::atomic::Ordering::SeqCst,
};

use rand::{
    Rng, SeedableRng,
    rngs::SmallRng,
    seq::{IndexedMutRandom, IndexedRandom},
};
use rust_mmapdev::{Access, Device, Error, Sharing};
use rustix::{
    io::{self, Errno},
    mm::MremapFlags,
    process::{Pid, Signal, getpid, getppid, kill_process, set_parent_process_death_signal},
};

use super::{
    super::operation::{Advice, Mapping, Protection, sharing_flag},
    oracle::{Before, CELL, Oracle, locked},
};
use crate::support::{
    memory::{self, COLLAPSE, Map, PRIVATE, ProtFlags, mmap, page, table, try_anonymous},
    process::{Child, end, try_spawn},
    touch::touch,
};

/// Descriptors and mappings of a worker, and its forked guests.
const DEVICES: usize = 3;
const WINDOWS: usize = 8;
const GUESTS: usize = 2;
/// Pages that one call transfers, at most.
const TRANSFER: usize = 3;
/// Pages of a mapping, most of the time, and at most.
const WINDOW_PAGES: usize = 64;
const LARGEST_PAGES: usize = 1600;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Open,
    Close,
    Map,
    Unmap,
    Move,
    Shrink,
    Grow,
    Duplicate,
    Protect,
    Advise,
    Fault,
    Lock,
    Store,
    Load,
    Read,
    Write,
    Info,
    Clear,
    Fork,
    Reap,
    Kill,
    Exit,
}

/// Every kind, and how often it is chosen.
pub const KINDS: [(Kind, usize); 22] = [
    (Kind::Open, 40),
    (Kind::Close, 30),
    (Kind::Map, 120),
    (Kind::Unmap, 60),
    (Kind::Move, 40),
    (Kind::Shrink, 20),
    (Kind::Grow, 20),
    (Kind::Duplicate, 10),
    (Kind::Protect, 60),
    (Kind::Advise, 80),
    (Kind::Fault, 20),
    (Kind::Lock, 20),
    (Kind::Store, 200),
    (Kind::Load, 120),
    (Kind::Read, 60),
    (Kind::Write, 60),
    (Kind::Info, 10),
    (Kind::Clear, 1),
    (Kind::Fork, 12),
    (Kind::Reap, 12),
    (Kind::Kill, 1),
    (Kind::Exit, 1),
];

impl Kind {
    pub fn numbered(number: u64) -> Self {
        KINDS[number as usize].0
    }

    fn any(rng: &mut SmallRng) -> Self {
        let all = KINDS.iter().map(|(_, weight)| weight).sum();
        let mut choice = rng.random_range(0..all);
        for (kind, weight) in KINDS {
            if choice < weight {
                return kind;
            }
            choice -= weight;
        }
        unreachable!("the weights add up to {all}")
    }
}

/// A mapping: one VMA, or part of one.
struct Window {
    map: Map,
    /// The page of the buffer that it begins with.
    first: usize,
    /// What is known of each page of a private one that was copied.
    copies: Vec<Option<Box<[u64]>>>,
    state: Mapping,
}

impl Window {
    fn pages(&self) -> usize {
        self.copies.len()
    }

    /// A mapping like this one in which nothing has been done yet.
    fn anew(&self, map: Map, pages: usize) -> Self {
        let state = Mapping {
            locked: false,
            guarded: false,
            ..self.state
        };
        Self {
            map,
            copies: vec![None; pages],
            state,
            ..*self
        }
    }

    /// Unmaps what is past the end of the buffer.
    fn trim(&mut self, oracle: &Oracle) {
        let within = oracle.pages - self.first;
        if self.pages() > within {
            let past = self.cut(within);
            let signal = match past.readable() {
                true => Signal::BUS,
                false => Signal::SEGV,
            };
            let found = touch(past.map.at(0) as usize, false);
            assert_eq!(found, Err(signal), "past the end");
        }
    }

    /// Keeps the first `pages` pages, and gives back the others.
    fn cut(&mut self, pages: usize) -> Self {
        let at = pages * page();
        let tail = self.map.part(at, self.map.len() - at);
        let head = self.map.part(0, at);
        forget(replace(&mut self.map, head));
        Self {
            map: tail,
            first: self.first + pages,
            copies: self.copies.split_off(pages),
            ..*self
        }
    }

    /// The words of one page.
    fn words(&self, index: usize) -> Vec<u64> {
        (index * page()..(index + 1) * page())
            .step_by(CELL)
            .map(|offset| self.map.u64(offset).load(SeqCst))
            .collect()
    }

    fn cells(&self) -> Range<usize> {
        let cells = page() / CELL;
        self.first * cells..(self.first + self.pages()) * cells
    }

    fn is_shared(&self) -> bool {
        self.state.sharing == Sharing::Shared
    }

    fn readable(&self) -> bool {
        self.state.accessible(false)
    }

    fn writable(&self) -> bool {
        self.state.accessible(true)
    }

    /// Whether the kernel copies pages of its own accord, as many as there is memory for.
    fn is_copied_when_locked(&self) -> bool {
        self.state.locked && !self.is_shared()
    }

    fn check_page(&self, oracle: &Oracle, index: usize) {
        let first = (self.first + index) * page() / CELL;
        let before = oracle.before();
        let words = self.words(index);
        match &self.copies[index] {
            Some(known) => oracle.check_copy(first, &words, known, "load"),
            None if self.is_shared() => oracle.check(&before, first, &words, "load"),
            None => oracle.check(&before, first, &words, "load from a private mapping"),
        }
    }

    /// Every page that only this window tells of, and one of the others.
    fn check(&self, oracle: &Oracle, rng: &mut SmallRng) {
        let one = rng.random_range(0..self.pages());
        for index in 0..self.pages() {
            if index == one || self.copies[index].is_some() {
                self.check_page(oracle, index);
            }
        }
    }

    /// `copied` for all that were not copied yet, where they can be.
    fn all_copied(&mut self, oracle: &Oracle, before: &Before) {
        if self.is_shared() || !self.writable() {
            return;
        }
        for index in 0..self.pages() {
            if self.copies[index].is_none() {
                self.copied(oracle, before, index);
            }
        }
    }

    /// Takes down what a private page holds that has just been copied.
    fn copied(&mut self, oracle: &Oracle, before: &Before, index: usize) {
        let words = self.words(index);
        let first = (self.first + index) * page() / CELL;
        oracle.check(before, first, &words, "copy on write");
        self.copies[index] = Some(words.into());
    }
}

pub struct Worker<'a> {
    oracle: &'a Oracle,
    /// A shared mapping of the whole buffer that the process's workers have in common.
    common: &'a Map,
    slot: usize,
    /// Forked by a worker: it stores to private mappings only, and ends soon.
    is_guest: bool,
    rng: SmallRng,
    /// What is read to and written from.
    transfer: Map,
    devices: Vec<(Device, Access)>,
    windows: Vec<Window>,
    guests: Vec<Child<()>>,
}

thread_local! {
    /// Who this thread is and what it is doing, for a panic's message: slot, guest, operation.
    static WHO: Cell<(usize, bool, Kind)> = const { Cell::new((0, false, Kind::Open)) };
}

/// Has a panic say who it is, and end the process.
pub fn end_with_panics(oracle: &'static Oracle) {
    set_hook(Box::new(move |panic| {
        let (slot, is_guest, kind) = WHO.get();
        let guest = if is_guest { "a guest of " } else { "" };
        let number = oracle.slot(slot).operations.load(SeqCst);
        let line = format!("{guest}worker {slot}, operation {number}: {kind:?}: {panic}\n");
        // In one piece, among those of others.
        let _ = io::write(stderr(), line.as_bytes());
        end(101)
    }));
}

/// One of the devices that were opened for this, or for all.
fn choose<'a>(
    devices: &'a [(Device, Access)],
    rng: &mut SmallRng,
    access: Access,
) -> Option<&'a (Device, Access)> {
    let fits = |of: &Access| [access, Access::ReadWrite].contains(of);
    let fitting: Vec<_> = devices.iter().filter(|(_, of)| fits(of)).collect();
    fitting.choose(rng).copied()
}

/// Addresses for so many pages, which begin anywhere in what a page table maps.
fn place(oracle: &Oracle, rng: &mut SmallRng, pages: usize) -> Option<Map> {
    let skew = rng.random_range(0..table() / page());
    let room = try_anonymous(skew + pages, ProtFlags::empty(), PRIVATE);
    let room = oracle.enough("mmap", room)?;
    let place = room.part(skew * page(), pages * page());
    drop(room.part(0, skew * page()));
    forget(room);
    Some(place)
}

/// Memory of a worker's own to read to and write from; no worker without.
fn transfer(oracle: &Oracle) -> Map {
    let map = oracle.enough("mmap and mlock", locked(TRANSFER));
    map.unwrap_or_else(|| end(0))
}

impl<'a> Worker<'a> {
    pub fn new(oracle: &'a Oracle, common: &'a Map, slot: usize, seed: u64) -> Self {
        Self {
            oracle,
            common,
            slot,
            is_guest: false,
            rng: SmallRng::seed_from_u64(seed),
            transfer: transfer(oracle),
            devices: vec![],
            windows: vec![],
            guests: vec![],
        }
    }

    /// Works until the storm ends.
    pub fn run(mut self) {
        // What the one before was killed at is made whole.
        while let Some(cells) = self.oracle.unfinished(self.slot) {
            self.open(Access::ReadWrite);
            self.write(cells);
        }
        while self.oracle.common().stop.load(SeqCst) == 0 {
            self.step();
        }
        self.check_all();
        while !self.guests.is_empty() {
            self.reap();
        }
    }

    fn check_all(&mut self) {
        for window in self.windows.iter().filter(|window| window.readable()) {
            window.check(self.oracle, &mut self.rng);
        }
    }

    fn step(&mut self) {
        let kind = Kind::any(&mut self.rng);
        WHO.set((self.slot, self.is_guest, kind));
        if !self.is_guest {
            let slot = self.oracle.slot(self.slot);
            slot.operations.fetch_add(1, SeqCst);
            slot.doing.store(kind as u64, SeqCst);
        }
        if self.make(kind) {
            self.count(kind);
        }
        while self.windows.len() > WINDOWS {
            self.any_part();
        }
    }

    fn count(&self, kind: Kind) {
        self.oracle.common().operations[kind as usize].fetch_add(1, SeqCst);
    }

    /// Whether there was something to make it with.
    fn make(&mut self, kind: Kind) -> bool {
        match kind {
            Kind::Open => self.open_any().is_some(),
            Kind::Close => self.close(),
            Kind::Map => self.map().is_some(),
            Kind::Unmap => self.any_part().is_some(),
            Kind::Move => self.relocate().is_some(),
            Kind::Shrink => self.shrink().is_some(),
            Kind::Grow => self.grow().is_some(),
            Kind::Duplicate => self.duplicate().is_some(),
            Kind::Protect => self.protect().is_some(),
            Kind::Advise => self.advise().is_some(),
            Kind::Fault => self.fault().is_some(),
            Kind::Lock => self.lock().is_some(),
            Kind::Store => self.store().is_some(),
            Kind::Load => self.load().is_some(),
            Kind::Read => self.read().is_some(),
            Kind::Write => !self.is_guest && self.write_some().is_some(),
            Kind::Info => self.info().is_some(),
            Kind::Clear => !self.is_guest && self.clear().is_some(),
            Kind::Fork => !self.is_guest && self.fork().is_some(),
            Kind::Reap => !self.guests.is_empty() && self.reap(),
            Kind::Kill => self.kill().is_some(),
            Kind::Exit => {
                self.check_all();
                self.count(kind);
                end(0)
            }
        }
    }

    fn open_any(&mut self) -> Option<()> {
        if self.devices.len() >= DEVICES {
            return None;
        }
        let modes = [
            Access::ReadWrite,
            Access::ReadWrite,
            Access::Read,
            Access::Write,
        ];
        let access = *modes.choose(&mut self.rng)?;
        self.open(access)
    }

    fn open(&mut self, access: Access) -> Option<()> {
        let result = Device::open(access).map_err(|err| match err {
            Error::Open(errno) => errno,
            err => panic!("open: {err}"),
        });
        let device = self.oracle.enough("open", result)?;
        self.devices.push((device, access));
        Some(())
    }

    fn close(&mut self) -> bool {
        if self.devices.is_empty() {
            return false;
        }
        let i = self.rng.random_range(0..self.devices.len());
        self.devices.swap_remove(i);
        true
    }

    /// Pages to be mapped: often such that this worker stores to.
    fn range(&mut self) -> Range<usize> {
        let pages = self.oracle.pages;
        let rng = &mut self.rng;
        let most = *[WINDOW_PAGES, WINDOW_PAGES, WINDOW_PAGES, LARGEST_PAGES]
            .choose(rng)
            .expect("sizes");
        let count = rng.random_range(1..=pages.min(most));
        let mut first = rng.random_range(0..=pages - count);
        let owned: Vec<_> = self.oracle.owned(self.slot).collect();
        if let (Some(cells), true) = (owned.choose(rng), rng.random()) {
            first = (cells.start * CELL / page()).min(pages - count);
        }
        first..first + count
    }

    fn map(&mut self) -> Option<()> {
        let range = self.range();
        let sharing = match self.rng.random() {
            true => Sharing::Shared,
            false => Sharing::Private,
        };
        let write = self.rng.random_ratio(3, 4);
        let oracle = self.oracle;
        let (device, access) = choose(&self.devices, &mut self.rng, Access::Read)?;
        let readable = Mapping::new(*access, sharing, Protection::Read);
        let mut state = readable.expect("the device is open for reading");
        if write && state.may_write {
            state.protection = Protection::ReadWrite;
        }
        let (protection, flags) = (state.protection.flags(), sharing_flag(sharing));
        let (offset, len) = ((range.start * page()) as u64, range.len() * page());
        // The kernel aligns what it finds addresses for.
        let map = if self.rng.random() {
            oracle.enough("mmap", mmap(device, offset, len, protection, flags))?
        } else {
            let place = place(oracle, &mut self.rng, range.len())?;
            oracle.enough("mmap", place.fixed(device, offset, protection, flags))?;
            place
        };
        self.windows.push(Window {
            map,
            first: range.start,
            copies: vec![None; range.len()],
            state,
        });
        Some(())
    }

    /// Takes part of a window out: it is unmapped when dropped.
    fn any_part(&mut self) -> Option<Window> {
        if self.windows.is_empty() {
            return None;
        }
        let i = self.rng.random_range(0..self.windows.len());
        let mut window = self.windows.swap_remove(i);
        let count = self.rng.random_range(1..=window.pages());
        let first = self.rng.random_range(0..=window.pages() - count);
        if first + count < window.pages() {
            let after = window.cut(first + count);
            self.windows.push(after);
        }
        if first > 0 {
            let part = window.cut(first);
            self.windows.push(window);
            window = part;
        }
        Some(window)
    }

    /// mremap to another place, which may leave the mapping where it is too.
    fn relocate(&mut self) -> Option<()> {
        let mut part = self.any_part()?;
        if let Some(place) = place(self.oracle, &mut self.rng, part.pages()) {
            let stays = self.rng.random_ratio(1, 4);
            let flags = match stays {
                true => MremapFlags::DONTUNMAP,
                false => MremapFlags::empty(),
            };
            let result = part.map.remap_part_onto(part.map.len(), place, flags);
            if let Some(moved) = self.oracle.enough("mremap to another place", result) {
                let left = replace(&mut part.map, moved);
                match stays {
                    true => self.windows.push(part.anew(left, part.pages())),
                    false => forget(left),
                }
            }
        }
        self.windows.push(part);
        Some(())
    }

    fn shrink(&mut self) -> Option<()> {
        let window = self.windows.choose_mut(&mut self.rng)?;
        if window.pages() == 1 {
            return None;
        }
        let pages = self.rng.random_range(1..window.pages());
        let result = window.map.remap(pages * page(), MremapFlags::empty());
        if result.is_ok() {
            window.copies.truncate(pages);
        }
        self.oracle.enough("mremap to fewer pages", result)
    }

    /// mremap to more pages, of which those past the end are given back.
    fn grow(&mut self) -> Option<()> {
        let mut part = self.any_part()?;
        if !part.state.guarded && !part.is_copied_when_locked() {
            let pages = part.pages() + self.rng.random_range(1..=WINDOW_PAGES);
            let result = part.map.remap(pages * page(), MremapFlags::MAYMOVE);
            if self.oracle.enough("mremap to more pages", result).is_some() {
                part.copies.resize(pages, None);
                part.trim(self.oracle);
            }
        }
        self.windows.push(part);
        Some(())
    }

    /// mremap of nothing.
    fn duplicate(&mut self) -> Option<()> {
        let window = self.windows.choose(&mut self.rng)?;
        if !window.is_shared() {
            return None;
        }
        let pages = self.rng.random_range(1..=WINDOW_PAGES);
        let place = place(self.oracle, &mut self.rng, pages)?;
        let result = window.map.remap_part_onto(0, place, MremapFlags::empty());
        let map = self.oracle.enough("mremap of nothing", result)?;
        let locked = window.state.locked;
        let mut window = window.anew(map, pages);
        window.state.locked = locked;
        window.trim(self.oracle);
        self.windows.push(window);
        Some(())
    }

    fn protect(&mut self) -> Option<()> {
        let mut part = self.any_part()?;
        if part.is_copied_when_locked() {
            self.windows.push(part);
            return None;
        }
        let protections = [
            Protection::None,
            Protection::Read,
            Protection::ReadWrite,
            Protection::ReadWrite,
            Protection::Exec,
        ];
        let protection = *protections.choose(&mut self.rng)?;
        match protection.set(&part.map) {
            // Part of the range may have it by now: the window is given up.
            Err(Errno::NOMEM) => return self.oracle.enough("mprotect", Err(Errno::NOMEM)),
            result => {
                let wanted = part.state.protect(protection);
                assert_eq!(result, wanted, "mprotect with {protection:?}");
            }
        }
        self.windows.push(part);
        Some(())
    }

    fn advise(&mut self) -> Option<()> {
        let mut part = self.any_part()?;
        let choices = [
            Advice::DontNeed,
            Advice::DontNeed,
            Advice::DontNeed,
            Advice::PopulateRead,
            Advice::PopulateWrite,
            Advice::Unlocked(libc::MADV_COLD),
            Advice::Unlocked(libc::MADV_PAGEOUT),
            Advice::Unlocked(libc::MADV_PAGEOUT),
            Advice::Flags(libc::MADV_WILLNEED),
            Advice::DontFork,
            Advice::DoFork,
            Advice::Attempt(libc::MADV_HUGEPAGE),
            Advice::Attempt(libc::MADV_NOHUGEPAGE),
            Advice::Attempt(COLLAPSE),
            Advice::GuardInstall,
            Advice::GuardRemove,
            Advice::GuardRemove,
        ];
        let advice = *choices.choose(&mut self.rng)?;
        if part.state.advise(advice).is_ok() {
            let before = self.oracle.before();
            // Where it fails, what it has come to is not known: the window is given up.
            self.oracle.enough("madvise", advice.give(&part.map))?;
            if advice.drops_copies() {
                part.copies.fill(None);
            }
            if advice == Advice::PopulateWrite {
                part.all_copied(self.oracle, &before);
            }
        }
        self.windows.push(part);
        Some(())
    }

    /// Faults on a page that another thread may be faulting on, or taking out of the page table.
    fn fault(&mut self) -> Option<()> {
        let first_of_second = table() / page();
        let places = [0, 1, first_of_second - 1, first_of_second];
        let index = places.choose(&mut self.rng)? % self.oracle.pages;
        for _ in 0..self.rng.random_range(1..100) {
            let gone =
                self.common
                    .advise_part(index * page(), page(), memory::Advice::LinuxDontNeed);
            self.oracle.enough("madvise", gone)?;
            let before = self.oracle.before();
            let word = self.common.u64(index * page()).load(SeqCst);
            let cell = index * page() / CELL;
            self.oracle
                .check(&before, cell, &[word], "load after a fault");
        }
        Some(())
    }

    fn lock(&mut self) -> Option<()> {
        let mut part = self.any_part()?;
        let before = self.oracle.before();
        // What cannot be read cannot be brought in.
        if part.readable() && self.rng.random() {
            self.oracle.enough("mlock", part.map.lock())?;
            part.state.locked = true;
            // A page that can be copied is brought in as a copy.
            part.all_copied(self.oracle, &before);
        } else {
            self.oracle.enough("munlock", part.map.unlock())?;
            part.state.locked = false;
        }
        self.windows.push(part);
        Some(())
    }

    fn store(&mut self) -> Option<()> {
        let writable: Vec<_> = (0..self.windows.len())
            .filter(|&i| self.windows[i].writable())
            .collect();
        let window = *writable.choose(&mut self.rng)?;
        if self.windows[window].is_shared() {
            self.store_shared(window)
        } else {
            self.store_private(window);
            Some(())
        }
    }

    /// Some of the cells that this worker stores to.
    fn some_of(&mut self, within: Range<usize>) -> Option<Range<usize>> {
        let common = |owned: Range<usize>| owned.start.max(within.start)..owned.end.min(within.end);
        let owned: Vec<_> = self
            .oracle
            .owned(self.slot)
            .map(common)
            .filter(|cells| !cells.is_empty())
            .collect();
        let cells = owned.choose(&mut self.rng)?.clone();
        let most = cells.len().min(TRANSFER * page() / CELL);
        let count = self.rng.random_range(1..=most);
        let first = cells.start + self.rng.random_range(0..=cells.len() - count);
        Some(first..first + count)
    }

    fn store_shared(&mut self, window: usize) -> Option<()> {
        if self.is_guest {
            return None;
        }
        let cells = self.some_of(self.windows[window].cells())?;
        let Window { map, first, .. } = &self.windows[window];
        self.oracle.store(self.slot, cells.clone(), |word| {
            for cell in cells {
                map.u64(cell * CELL - first * page())
                    .store(word(cell), SeqCst);
            }
        });
        Some(())
    }

    fn store_private(&mut self, window: usize) {
        let window = &mut self.windows[window];
        let index = self.rng.random_range(0..window.pages());
        let cells = page() / CELL;
        let (first, offset) = ((window.first + index) * cells, index * page());
        if window.copies[index].is_none() {
            let before = self.oracle.before();
            // No cell holds this. What is not exchanged is written back, so the page is copied.
            let _ = window
                .map
                .u64(offset)
                .compare_exchange(u64::MAX, 0, SeqCst, SeqCst);
            window.copied(self.oracle, &before, index);
        }
        let known = window.copies[index].as_mut().expect("it is copied");
        let stamp = self.oracle.tick();
        for _ in 0..*[1, 2, 50, cells].choose(&mut self.rng).expect("counts") {
            let i = self.rng.random_range(0..cells);
            known[i] = self.oracle.sealed(Some(self.slot), first + i, stamp);
            window.map.u64(offset + i * CELL).store(known[i], SeqCst);
        }
        window.check_page(self.oracle, index);
    }

    fn load(&mut self) -> Option<()> {
        let readable: Vec<_> = self
            .windows
            .iter()
            .filter(|window| window.readable())
            .collect();
        let window = readable.choose(&mut self.rng)?;
        window.check_page(self.oracle, self.rng.random_range(0..window.pages()));
        Some(())
    }

    fn read(&mut self) -> Option<()> {
        let first = self.rng.random_range(0..=self.oracle.cells());
        let count = self.rng.random_range(1..=TRANSFER * page() / CELL);
        let before = self.oracle.before();
        // SAFETY: only the kernel looks behind the address.
        let buf = unsafe { self.transfer.as_mut_slice(0, count * CELL) };
        let (device, _) = choose(&self.devices, &mut self.rng, Access::Read)?;
        let found = io::pread(device, buf, (first * CELL) as u64);
        let wanted = count.min(self.oracle.cells() - first);
        assert_eq!(
            found,
            Ok(wanted * CELL),
            "pread of {count} cells at {first}"
        );
        let words: Vec<_> = (0..wanted)
            .map(|i| self.transfer.u64(i * CELL).load(SeqCst))
            .collect();
        self.oracle.check(&before, first, &words, "pread");
        Some(())
    }

    fn write_some(&mut self) -> Option<()> {
        let cells = self.some_of(0..self.oracle.cells())?;
        self.write(cells)
    }

    /// pwrite.
    fn write(&mut self, cells: Range<usize>) -> Option<()> {
        let (oracle, slot) = (self.oracle, self.slot);
        let (device, _) = choose(&self.devices, &mut self.rng, Access::Write)?;
        let (first, len) = (cells.start, cells.len() * CELL);
        oracle.store(slot, cells.clone(), |word| {
            for cell in cells {
                self.transfer
                    .u64((cell - first) * CELL)
                    .store(word(cell), SeqCst);
            }
            // SAFETY: only the kernel looks behind the address.
            let bytes = unsafe { self.transfer.as_slice(0, len) };
            let written = io::pwrite(device, bytes, (first * CELL) as u64);
            assert_eq!(written, Ok(len), "pwrite of {len} bytes at cell {first}");
        });
        Some(())
    }

    fn info(&mut self) -> Option<()> {
        let (device, _) = self.devices.choose(&mut self.rng)?;
        let info = device.info().expect("INFO");
        assert_eq!(
            (info.size as usize, info.page_size as usize),
            (self.oracle.size(), page()),
            "INFO"
        );
        Some(())
    }

    fn clear(&mut self) -> Option<()> {
        let (oracle, slot) = (self.oracle, self.slot);
        let (device, _) = choose(&self.devices, &mut self.rng, Access::Write)?;
        oracle.clear(slot, || device.clear().expect("CLEAR"));
        Some(())
    }

    fn fork(&mut self) -> Option<()> {
        if self.guests.len() >= GUESTS {
            return None;
        }
        let (parent, seed) = (getpid(), self.rng.random());
        // The child uses nothing of the other threads, and libc's fork leaves it a heap that works.
        let guest = try_spawn(|| self.be_guest(parent, seed));
        self.guests.push(self.oracle.enough("fork", guest)?);
        Some(())
    }

    fn be_guest(&mut self, parent: Pid, seed: u64) {
        set_parent_process_death_signal(Some(Signal::KILL)).expect("PR_SET_PDEATHSIG");
        if getppid() != Some(parent) {
            end(0)
        }
        self.is_guest = true;
        self.rng = SmallRng::seed_from_u64(seed);
        self.transfer = transfer(self.oracle);
        // They are not this one's.
        forget(take(&mut self.guests));
        for mut window in take(&mut self.windows) {
            match window.state.forked() {
                Some(state) => {
                    window.state = state;
                    self.windows.push(window);
                }
                // It is not mapped here.
                None => forget(window),
            }
        }
        for _ in 0..self.rng.random_range(1..60) {
            self.step();
        }
        self.check_all();
    }

    /// Waits for a guest, or ends it.
    fn reap(&mut self) -> bool {
        let i = self.rng.random_range(0..self.guests.len());
        let guest = self.guests.swap_remove(i);
        if self.rng.random() {
            let _ = kill_process(guest.pid, Signal::KILL);
        }
        let status = guest.wait();
        assert!(
            status.success() || status.signal() == Some(libc::SIGKILL),
            "a guest ended with {status}"
        );
        true
    }

    /// kill -9, which may hit itself.
    fn kill(&mut self) -> Option<()> {
        let pid = self
            .oracle
            .common()
            .pids
            .choose(&mut self.rng)?
            .load(SeqCst);
        let _ = kill_process(Pid::from_raw(pid)?, Signal::KILL);
        Some(())
    }
}
