// SPDX-License-Identifier: GPL-2.0
//! The model: what the calls are to come to, in plain memory.

use std::{cell::RefCell, collections::BTreeSet, rc::Rc};

use rustix::io::Errno;

use super::{
    Advice, Call, DESCRIPTORS, Mode, Outcome, PAGES, PLACES, PROCESSES, Places, Protection,
    Sharing, bytes,
};
use crate::support::memory::page;

/// An open file: processes that forked share it.
struct File {
    mode: Mode,
    position: usize,
}

/// A place with a page of the buffer, or a copy of one.
#[derive(Clone)]
struct Mapped {
    /// The VMA: a number of its own in its process.
    vma: usize,
    page: usize,
    sharing: Sharing,
    protection: Protection,
    /// VM_MAYWRITE: what mprotect may allow.
    may_write: bool,
    dont_fork: bool,
    copy: Option<Vec<u8>>,
}

impl Mapped {
    fn readable(&self) -> bool {
        self.protection != Protection::None
    }

    fn writable(&self) -> bool {
        self.protection == Protection::ReadWrite
    }
}

#[derive(Clone)]
struct Process {
    files: [Option<Rc<RefCell<File>>>; DESCRIPTORS],
    places: Vec<Option<Mapped>>,
    /// The number of the next VMA.
    next: usize,
}

impl Process {
    fn new() -> Self {
        Self {
            files: [const { None }; DESCRIPTORS],
            places: vec![None; PLACES],
            next: 0,
        }
    }

    fn vma(&mut self) -> usize {
        self.next += 1;
        self.next
    }

    fn vma_at(&self, place: usize) -> Option<usize> {
        Some(self.places.get(place)?.as_ref()?.vma)
    }

    /// The VMA over `place`, if there is one, begins there from now on. Parts that are alike again
    /// stay apart: the core does not merge mappings of drivers.
    fn split(&mut self, place: usize) {
        let Some(old) = self.vma_at(place) else {
            return;
        };
        if place == 0 || self.vma_at(place - 1) != Some(old) {
            return;
        }
        let new = self.vma();
        for mapped in self.places[place..].iter_mut().flatten() {
            if mapped.vma == old {
                mapped.vma = new;
            }
        }
    }

    fn unmap(&mut self, places: Places) {
        self.split(places.first);
        self.split(places.first + places.count);
        self.places[places.range()].fill(None);
    }

    /// The VMAs in `places`, cut to them, in order.
    fn vmas_in(&self, places: Places) -> Vec<Places> {
        let mut found: Vec<Places> = vec![];
        for place in places.range() {
            let Some(vma) = self.vma_at(place) else {
                continue;
            };
            match found.last_mut() {
                Some(last) if self.vma_at(last.first) == Some(vma) => last.count += 1,
                _ => found.push(Places {
                    first: place,
                    count: 1,
                }),
            }
        }
        found
    }

    /// Changes VMAs or parts of them, which become VMAs of their own.
    fn change(&mut self, places: Places, change: impl Fn(&mut Mapped)) {
        self.split(places.first);
        self.split(places.first + places.count);
        self.places[places.range()]
            .iter_mut()
            .flatten()
            .for_each(change);
    }

    /// One of the places that are mapped.
    fn pick(&self, place: usize) -> Option<usize> {
        let mapped: Vec<_> = (0..PLACES)
            .filter(|&place| self.places[place].is_some())
            .collect();
        (!mapped.is_empty()).then(|| mapped[place % mapped.len()])
    }

    /// As many places as asked for, or fewer, that are all mapped.
    fn mapped(&self, places: Places) -> Option<Places> {
        let first = self.pick(places.first)?;
        let count = self.places[first..]
            .iter()
            .take(places.count)
            .take_while(|place| place.is_some())
            .count();
        Some(Places { first, count })
    }

    /// The part of it that lies in one VMA.
    fn in_one_vma(&self, places: Places) -> Option<Places> {
        self.vmas_in(self.mapped(places)?).first().copied()
    }

    /// A span of bytes cut at the last byte that may be accessed.
    fn span(&self, place: usize, offset: usize, len: usize, write: bool) -> Option<usize> {
        let allowed = |place: usize| {
            let mapped = self.places.get(place)?.as_ref()?;
            (if write {
                mapped.writable()
            } else {
                mapped.readable()
            })
            .then_some(())
        };
        allowed(place)?;
        if offset + len > page() && allowed(place + 1).is_none() {
            return Some(page() - offset);
        }
        Some(len)
    }
}

pub struct Expected {
    buffer: Vec<u8>,
    processes: [Option<Process>; PROCESSES],
}

impl Expected {
    /// One process, which has nothing open.
    pub fn new(buffer: Vec<u8>) -> Self {
        let mut processes = [const { None }; PROCESSES];
        processes[0] = Some(Process::new());
        Self { buffer, processes }
    }

    pub fn buffer(&self) -> &[u8] {
        &self.buffer
    }

    /// VMAs of all processes.
    pub fn vmas(&self) -> usize {
        let mut vmas = BTreeSet::new();
        for (i, process) in self.processes.iter().enumerate() {
            for mapped in process.iter().flat_map(|p| &p.places).flatten() {
                vmas.insert((i, mapped.vma));
            }
        }
        vmas.len()
    }

    /// Loads of every page that can be read.
    pub fn everything(&self) -> Vec<(usize, Call)> {
        let mut calls = vec![];
        for (i, process) in self.processes.iter().enumerate() {
            for (place, mapped) in process.iter().flat_map(|p| p.places.iter().enumerate()) {
                if mapped.as_ref().is_some_and(Mapped::readable) {
                    let (offset, len) = (0, page());
                    calls.push((i, Call::Load { place, offset, len }));
                }
            }
        }
        calls
    }

    /// The process that makes a call that was drawn, and the call in a form that has one outcome;
    /// nothing where there is none.
    pub fn applicable(&self, process: usize, call: Call) -> Option<(usize, Call)> {
        let alive: Vec<_> = (0..PROCESSES)
            .filter(|&i| self.processes[i].is_some())
            .collect();
        let number = alive[process % alive.len()];
        let process = self.processes[number].as_ref().expect("it is alive");
        let file = |fd: usize| process.files[fd].as_ref().map(|file| file.borrow());
        let call = match call {
            Call::Open(_) => process.files.iter().any(Option::is_none).then_some(call)?,
            Call::Close(fd) | Call::Seek { fd, .. } | Call::Clear(fd) => {
                file(fd)?;
                call
            }
            Call::Read { fd, .. } | Call::Write { fd, .. } => {
                file(fd)?;
                call
            }
            Call::Map {
                fd,
                page,
                count,
                protection,
                ..
            } => {
                file(fd)?;
                // Of two reasons for a refusal, the first to be found would be the errno.
                let past_the_end = page + count > PAGES;
                (!(past_the_end && protection == Protection::Exec)).then_some(call)?
            }
            Call::Unmap(_) => call,
            Call::Move { from, to } => {
                let from = process.in_one_vma(from)?;
                let apart = from.first + from.count <= to || to + from.count <= from.first;
                (apart && to + from.count <= PLACES).then_some(Call::Move { from, to })?
            }
            Call::Shrink { from, count } => {
                let from = process.in_one_vma(from)?;
                (count < from.count).then_some(Call::Shrink { from, count })?
            }
            Call::Grow(from) => Call::Grow(process.in_one_vma(from)?),
            Call::Protect(places, protection) => Call::Protect(process.mapped(places)?, protection),
            Call::Advise(places, advice) => {
                let places = process.mapped(places)?;
                let mut mapped = process.places[places.range()].iter().flatten();
                let allowed = match advice {
                    Advice::PopulateRead => mapped.all(Mapped::readable),
                    Advice::PopulateWrite => mapped.all(Mapped::writable),
                    _ => true,
                };
                allowed.then_some(Call::Advise(places, advice))?
            }
            Call::Load { place, offset, len } => {
                let place = process.pick(place)?;
                let len = process.span(place, offset, len, false)?;
                Call::Load { place, offset, len }
            }
            Call::Store {
                place,
                offset,
                len,
                seed,
            } => {
                let place = process.pick(place)?;
                let len = process.span(place, offset, len, true)?;
                Call::Store {
                    place,
                    offset,
                    len,
                    seed,
                }
            }
            // In one page: it is a failure or it is whole.
            Call::CopyOut { place, offset, len } => {
                let len = len.min(page() - offset);
                Call::CopyOut { place, offset, len }
            }
            Call::CopyIn {
                place,
                offset,
                len,
                seed,
            } => {
                let len = len.min(page() - offset);
                Call::CopyIn {
                    place,
                    offset,
                    len,
                    seed,
                }
            }
            Call::Fork { child } => self.processes[child].is_none().then_some(call)?,
            Call::Exit | Call::Kill => (alive.len() > 1).then_some(call)?,
        };
        Some((number, call))
    }

    /// Makes a call that is applicable.
    pub fn make(&mut self, number: usize, call: Call) -> Outcome {
        self.try_make(number, call).unwrap_or_else(Outcome::Failed)
    }

    fn try_make(&mut self, number: usize, call: Call) -> Result<Outcome, Errno> {
        let size = PAGES * page();
        let process = self.processes[number].as_mut().expect("it is alive");
        let file = |process: &Process, fd: usize| process.files[fd].clone().expect("it is open");
        match call {
            Call::Open(mode) => {
                let fd = process.files.iter().position(Option::is_none);
                let fd = fd.expect("there is room");
                process.files[fd] = Some(Rc::new(RefCell::new(File { mode, position: 0 })));
                Ok(Outcome::Done(fd))
            }
            Call::Close(fd) => {
                process.files[fd] = None;
                Ok(Outcome::Done(0))
            }
            Call::Seek { fd, offset } => {
                if offset > size {
                    return Err(Errno::INVAL);
                }
                file(process, fd).borrow_mut().position = offset;
                Ok(Outcome::Done(offset))
            }
            Call::Read { fd, offset, len } => {
                let file = file(process, fd);
                let mut file = file.borrow_mut();
                if file.mode == Mode::Write {
                    return Err(Errno::BADF);
                }
                let start = offset.unwrap_or(file.position).min(size);
                let end = (start + len).min(size);
                if offset.is_none() {
                    file.position = end;
                }
                Ok(Outcome::Bytes(self.buffer[start..end].to_vec()))
            }
            Call::Write {
                fd,
                offset,
                len,
                seed,
            } => {
                let file = file(process, fd);
                let mut file = file.borrow_mut();
                if file.mode == Mode::Read {
                    return Err(Errno::BADF);
                }
                if len == 0 {
                    return Ok(Outcome::Done(0));
                }
                let start = offset.unwrap_or(file.position);
                if start >= size {
                    return Err(Errno::NOSPC);
                }
                let end = (start + len).min(size);
                self.buffer[start..end].copy_from_slice(&bytes(seed, len)[..end - start]);
                if offset.is_none() {
                    file.position = end;
                }
                Ok(Outcome::Done(end - start))
            }
            Call::Clear(fd) => {
                if file(process, fd).borrow().mode == Mode::Read {
                    return Err(Errno::BADF);
                }
                self.buffer.fill(0);
                Ok(Outcome::Done(0))
            }
            Call::Map {
                fd,
                page,
                count,
                sharing,
                protection,
                to,
            } => {
                let mode = file(process, fd).borrow().mode;
                let write = protection == Protection::ReadWrite;
                let may_write = sharing == Sharing::Private || mode == Mode::ReadWrite;
                if mode == Mode::Write || write && !may_write {
                    return Err(Errno::ACCESS);
                }
                if page + count > PAGES {
                    return Err(Errno::NXIO);
                }
                if protection == Protection::Exec {
                    return Err(Errno::PERM);
                }
                let places = Places { first: to, count };
                process.unmap(places);
                let vma = process.vma();
                for (i, place) in places.range().enumerate() {
                    process.places[place] = Some(Mapped {
                        vma,
                        page: page + i,
                        sharing,
                        protection,
                        may_write,
                        dont_fork: false,
                        copy: None,
                    });
                }
                Ok(Outcome::Done(0))
            }
            Call::Unmap(places) => {
                process.unmap(places);
                Ok(Outcome::Done(0))
            }
            Call::Move { from, to } => {
                let count = from.count;
                process.unmap(Places { first: to, count });
                let moved = process.places[from.range()].to_vec();
                process.unmap(from);
                let vma = process.vma();
                for (i, mut mapped) in moved.into_iter().enumerate() {
                    if let Some(mapped) = &mut mapped {
                        mapped.vma = vma;
                    }
                    process.places[to + i] = mapped;
                }
                Ok(Outcome::Done(0))
            }
            Call::Shrink { from, count } => {
                process.unmap(Places {
                    first: from.first + count,
                    count: from.count - count,
                });
                Ok(Outcome::Done(0))
            }
            Call::Grow(_) => Err(Errno::FAULT),
            Call::Protect(places, protection) => {
                for vma in process.vmas_in(places) {
                    let mapped = process.places[vma.first].as_ref().expect("it is mapped");
                    let write = protection == Protection::ReadWrite;
                    if protection == Protection::Exec || write && !mapped.may_write {
                        return Err(Errno::ACCESS);
                    }
                    if mapped.protection != protection {
                        process.change(vma, |mapped| mapped.protection = protection);
                    }
                }
                Ok(Outcome::Done(0))
            }
            Call::Advise(places, advice) => {
                match advice {
                    Advice::DontNeed => {
                        let mapped = process.places[places.range()].iter_mut().flatten();
                        mapped.for_each(|mapped| mapped.copy = None);
                    }
                    Advice::PopulateWrite => {
                        places.range().for_each(|place| self.copy(number, place));
                    }
                    Advice::DontFork => {
                        for vma in process.vmas_in(places) {
                            let mapped = process.places[vma.first].as_ref();
                            if !mapped.expect("it is mapped").dont_fork {
                                process.change(vma, |mapped| mapped.dont_fork = true);
                            }
                        }
                    }
                    Advice::PopulateRead | Advice::Cold | Advice::PageOut | Advice::WillNeed => {}
                }
                Ok(Outcome::Done(0))
            }
            Call::Load { place, offset, len } => Ok(Outcome::Bytes(
                (offset..offset + len)
                    .map(|at| self.byte(number, place, at))
                    .collect(),
            )),
            Call::CopyOut { place, offset, len } => {
                let mapped = process.places[place].as_ref();
                if !mapped.is_some_and(Mapped::readable) {
                    return Err(Errno::FAULT);
                }
                self.try_make(number, Call::Load { place, offset, len })
            }
            Call::Store {
                place,
                offset,
                len,
                seed,
            } => {
                for (i, byte) in bytes(seed, len).into_iter().enumerate() {
                    self.store(number, place, offset + i, byte);
                }
                Ok(Outcome::Done(len))
            }
            Call::CopyIn {
                place,
                offset,
                len,
                seed,
            } => {
                let mapped = process.places[place].as_ref();
                if !mapped.is_some_and(Mapped::writable) {
                    return Err(Errno::FAULT);
                }
                let store = Call::Store {
                    place,
                    offset,
                    len,
                    seed,
                };
                self.try_make(number, store)
            }
            Call::Fork { child } => {
                let mut copy = process.clone();
                for place in &mut copy.places {
                    if place.as_ref().is_some_and(|mapped| mapped.dont_fork) {
                        *place = None;
                    }
                }
                self.processes[child] = Some(copy);
                Ok(Outcome::Done(0))
            }
            Call::Exit | Call::Kill => {
                self.processes[number] = None;
                Ok(Outcome::Done(0))
            }
        }
    }

    fn mapped(&mut self, number: usize, place: usize) -> &mut Mapped {
        let process = self.processes[number].as_mut().expect("it is alive");
        process.places[place].as_mut().expect("it is mapped")
    }

    /// The first store to a private page.
    fn copy(&mut self, number: usize, place: usize) {
        let mapped = self.mapped(number, place);
        if mapped.sharing == Sharing::Private && mapped.copy.is_none() {
            let start = mapped.page * page();
            let bytes = self.buffer[start..start + page()].to_vec();
            self.mapped(number, place).copy = Some(bytes);
        }
    }

    /// The byte `at` bytes after the start of `place`.
    fn byte(&mut self, number: usize, place: usize, at: usize) -> u8 {
        let (place, at) = (place + at / page(), at % page());
        let mapped = self.mapped(number, place);
        match &mapped.copy {
            Some(copy) => copy[at],
            None => {
                let at = mapped.page * page() + at;
                self.buffer[at]
            }
        }
    }

    fn store(&mut self, number: usize, place: usize, at: usize, byte: u8) {
        let (place, at) = (place + at / page(), at % page());
        // Not before its turn: bytes stored to the place before may be part of the copy.
        self.copy(number, place);
        let mapped = self.mapped(number, place);
        match &mut mapped.copy {
            Some(copy) => copy[at] = byte,
            None => {
                let at = mapped.page * page() + at;
                self.buffer[at] = byte;
            }
        }
    }
}
