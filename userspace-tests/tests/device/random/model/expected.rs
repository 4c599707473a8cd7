// SPDX-License-Identifier: GPL-2.0
//! The model: what the calls are to come to, in plain memory.

use std::{cell::RefCell, ops::Range, rc::Rc};

use rust_mmapdev::{Access, Sharing};
use rustix::{io::Errno, process::Signal};

use super::{
    super::operation::{Advice, Mapping, Protection},
    Call, DESCRIPTORS, Outcome, PROCESSES, Places, Span, TRANSFER, Target, bytes, places_for,
};
use crate::support::memory::{SOFT_OFFLINE, page};

/// An open file: processes that forked share it.
struct File {
    mode: Access,
    position: usize,
}

/// A place with a page of the buffer, or a copy of one.
#[derive(Clone)]
struct Mapped {
    /// What lies in one VMA for sure: a number of its own in its process. Of neighbours that are
    /// alike, the kernel may make one.
    vma: usize,
    /// None past the end, where a mapping has grown to.
    page: Option<usize>,
    state: Mapping,
    copy: Option<Rc<Vec<u8>>>,
}

impl Mapped {
    /// What an access comes to.
    fn signal(&self, write: bool) -> Option<Signal> {
        match self.page {
            _ if !self.state.accessible(write) => Some(Signal::SEGV),
            None => Some(Signal::BUS),
            Some(_) => None,
        }
    }

    fn accessible(&self, write: bool) -> bool {
        self.signal(write).is_none()
    }

    /// Brought in by a lock, it is copied.
    fn is_locked_as_copy(&self) -> bool {
        self.state.locked && self.state.sharing == Sharing::Private && self.accessible(true)
    }

    /// The same `n` places further in a VMA, as it is when nothing has been done there yet.
    fn further(&self, n: usize, pages: usize) -> Self {
        Self {
            page: self.page.map(|page| page + n).filter(|&page| page < pages),
            state: Mapping {
                guarded: false,
                ..self.state
            },
            copy: None,
            ..*self
        }
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
    fn new(places: usize) -> Self {
        Self {
            files: [const { None }; DESCRIPTORS],
            places: vec![None; places],
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

    /// The VMA over `place`, if there is one, begins there from now on.
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

    /// What a call changes, in VMAs of their own, one after the other until one is refused.
    fn change(
        &mut self,
        places: Places,
        change: impl FnMut(&mut Mapped) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        self.split(places.first);
        self.split(places.end());
        let mut mapped = self.places[places.range()].iter_mut().flatten();
        mapped.try_for_each(change)
    }

    fn unmap(&mut self, places: Places) {
        self.split(places.first);
        self.split(places.end());
        self.places[places.range()].fill(None);
    }

    /// Puts what was mapped elsewhere onto the places from `first` on, VMA by VMA.
    fn put(&mut self, first: usize, all: Vec<Option<Mapped>>) {
        let count = all.len();
        self.unmap(Places { first, count });
        let mut last = (0, 0);
        for (place, mut mapped) in (first..).zip(all) {
            if let Some(mapped) = &mut mapped {
                if mapped.vma != last.0 {
                    last = (mapped.vma, self.vma());
                }
                mapped.vma = last.1;
            }
            self.places[place] = mapped;
        }
    }

    /// One of the places that are mapped.
    fn pick(&self, place: usize) -> Option<usize> {
        let mapped: Vec<_> = (0..self.places.len())
            .filter(|&place| self.places[place].is_some())
            .collect();
        (!mapped.is_empty()).then(|| mapped[place % mapped.len()])
    }

    /// As many places as asked for, or fewer, that `belong`, from the first one on.
    fn run(&self, places: Places, belong: impl Fn(&Mapped) -> bool) -> Places {
        let all = self.places[places.first..].iter().take(places.count);
        let count = all
            .take_while(|place| place.as_ref().is_some_and(&belong))
            .count();
        Places { count, ..places }
    }

    /// As many places as asked for, or fewer, that are all mapped.
    fn mapped(&self, places: Places) -> Option<Places> {
        let first = self.pick(places.first)?;
        Some(self.run(Places { first, ..places }, |_| true))
    }

    /// The part of it that lies in one VMA.
    fn in_one_vma(&self, places: Places) -> Option<Places> {
        let places = self.mapped(places)?;
        let vma = self.vma_at(places.first);
        Some(self.run(places, |mapped| Some(mapped.vma) == vma))
    }

    /// Where `count` pages go that come from `from`, if there is room apart from it.
    fn target(&self, to: Target, count: usize, from: Places) -> Option<Target> {
        let to = to.fit(from.first);
        let places = Places {
            first: to.place,
            count,
        };
        (places.end() <= self.places.len() && !places.meets(from)).then_some(to)
    }

    /// It, from a place that is mapped on.
    fn in_memory(&self, span: Span) -> Option<Span> {
        let place = self.pick(span.place)?;
        Some(Span { place, ..span })
    }

    /// It, cut at the last byte that may be accessed.
    fn accessible(&self, span: Span, write: bool) -> Option<Span> {
        let places = Places {
            first: span.place,
            count: (span.offset + span.len).div_ceil(page()),
        };
        let accessible = self.run(places, |mapped| mapped.accessible(write));
        let most = (accessible.count * page()).checked_sub(span.offset)?;
        (most > 0).then_some(Span {
            len: span.len.min(most),
            ..span
        })
    }

    /// The same, or where nothing can be accessed, what lies in the first place: a call is to fail
    /// or to be whole.
    fn whole(&self, span: Span, write: bool) -> Option<Span> {
        let span = self.in_memory(span)?;
        let in_first = Span {
            len: span.len.min(page() - span.offset),
            ..span
        };
        Some(self.accessible(span, write).unwrap_or(in_first))
    }
}

impl Span {
    /// Its parts that lie in one place each.
    fn parts(self) -> impl Iterator<Item = Span> {
        let (start, end) = (self.offset, self.offset + self.len);
        let places = start / page()..end.div_ceil(page());
        places.map(move |i| {
            let first = start.max(i * page());
            Span {
                place: self.place + i,
                offset: first - i * page(),
                len: end.min((i + 1) * page()) - first,
            }
        })
    }

    /// Where its bytes are in its place.
    fn range(self) -> Range<usize> {
        self.offset..self.offset + self.len
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
        processes[0] = Some(Process::new(places_for(buffer.len() / page())));
        Self { buffer, processes }
    }

    pub fn buffer(&self) -> &[u8] {
        &self.buffer
    }

    /// Loads of every page that can be read.
    pub fn everything(&self) -> Vec<(usize, Call)> {
        let mut calls = vec![];
        for (i, process) in self.processes.iter().enumerate() {
            let Some(process) = process else { continue };
            let mut place = 0;
            while place < process.places.len() {
                let all = Span {
                    place,
                    offset: 0,
                    len: TRANSFER * page(),
                };
                let span = process.accessible(all, false);
                calls.extend(span.map(|span| (i, Call::Load(span))));
                place += span.map_or(1, |span| span.len / page());
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
            Call::Close(fd)
            | Call::Seek { fd, .. }
            | Call::Clear(fd)
            | Call::Read { fd, .. }
            | Call::Write { fd, .. } => {
                file(fd)?;
                call
            }
            Call::Map {
                fd,
                page: first,
                count,
                sharing,
                protection,
                to,
            } => {
                file(fd)?;
                // Of two reasons for a refusal, the first to be found would be the errno.
                let past_the_end = first + count > self.buffer.len() / page();
                let to = to.fit(first);
                let count = count.min(process.places.len().saturating_sub(to.place));
                let map = Call::Map {
                    fd,
                    page: first,
                    count,
                    sharing,
                    protection,
                    to,
                };
                (count > 0 && !(past_the_end && protection == Protection::Exec)).then_some(map)?
            }
            Call::Unmap(_) | Call::Sysctl(_) => call,
            Call::Move { from, to, keep } => {
                let from = process.mapped(from)?;
                let to = process.target(to, from.count, from)?;
                Call::Move { from, to, keep }
            }
            Call::Shrink { from, count } => {
                let from = process.mapped(from)?;
                (0 < count && count < from.count).then_some(Call::Shrink { from, count })?
            }
            Call::Grow { from, more, to } => {
                let from = process.in_one_vma(from)?;
                let to = match to {
                    Some(to) => Some(process.target(to, from.count + more, from)?),
                    None => None,
                };
                let fits = from.end() + more <= process.places.len();
                (to.is_some() || fits).then_some(Call::Grow { from, more, to })?
            }
            Call::Duplicate { from, count, to } => {
                let from = process.pick(from)?;
                let one = Places {
                    first: from,
                    count: 1,
                };
                let to = process.target(to, count, one)?;
                Call::Duplicate { from, count, to }
            }
            Call::Protect(places, protection) => {
                let places = process.mapped(places)?;
                // What is locked is copied as it becomes writable, up to the first page that can't
                // be, in each VMA: which those are is the kernel's affair.
                let mut mapped = process.places[places.range()].iter().flatten();
                let is_bad = |m: &Mapped| m.state.locked && (m.state.guarded || m.page.is_none());
                (protection != Protection::ReadWrite || !mapped.any(is_bad))
                    .then_some(Call::Protect(places, protection))?
            }
            Call::Advise(mut places, advice) => {
                if advice == Advice::Attempt(SOFT_OFFLINE) {
                    places.count = 1;
                }
                Call::Advise(process.mapped(places)?, advice)
            }
            Call::Lock(places) => Call::Lock(process.mapped(places)?),
            Call::Unlock(places) => Call::Unlock(process.mapped(places)?),
            Call::Touch { place, write } => {
                let place = process.pick(place)?;
                Call::Touch { place, write }
            }
            Call::Load(span) => Call::Load(process.accessible(process.in_memory(span)?, false)?),
            Call::Store(span, seed) => {
                Call::Store(process.accessible(process.in_memory(span)?, true)?, seed)
            }
            Call::CopyOut(span) => Call::CopyOut(process.whole(span, false)?),
            Call::CopyIn(span, seed) => Call::CopyIn(process.whole(span, true)?, seed),
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
        let size = self.buffer.len();
        let pages = size / page();
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
                if file.mode == Access::Write {
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
                if file.mode == Access::Read {
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
                self.buffer[start..end].copy_from_slice(&bytes(seed.into(), end - start));
                if offset.is_none() {
                    file.position = end;
                }
                Ok(Outcome::Done(end - start))
            }
            Call::Clear(fd) => {
                if file(process, fd).borrow().mode == Access::Read {
                    return Err(Errno::BADF);
                }
                self.buffer.fill(0);
                Ok(Outcome::Done(0))
            }
            Call::Map {
                fd,
                page: first,
                count,
                sharing,
                protection,
                to,
            } => {
                let mode = file(process, fd).borrow().mode;
                let state = Mapping::new(mode, sharing, protection)?;
                if first + count > pages {
                    return Err(Errno::NXIO);
                }
                let one = Mapped {
                    vma: 1,
                    page: Some(first),
                    state,
                    copy: None,
                };
                let all = (0..count).map(|i| Some(one.further(i, pages)));
                process.put(to.place, all.collect());
                Ok(Outcome::Done(to.place))
            }
            Call::Unmap(places) => {
                process.unmap(places);
                Ok(Outcome::Done(0))
            }
            Call::Move { from, to, keep } => {
                let moved = process.places[from.range()].to_vec();
                process.put(to.place, moved);
                if keep {
                    process.change(from, |mapped| {
                        *mapped = mapped.further(0, pages);
                        mapped.state.locked = false;
                        Ok(())
                    })?;
                } else {
                    process.unmap(from);
                }
                Ok(Outcome::Done(to.place))
            }
            Call::Shrink { from, count } => {
                process.unmap(Places {
                    first: from.first + count,
                    count: from.count - count,
                });
                Ok(Outcome::Done(from.first))
            }
            Call::Grow { from, more, to } => {
                let mut all = process.places[from.range()].to_vec();
                let last = all[from.count - 1].clone().expect("it is mapped");
                all.extend((1..=more).map(|i| Some(last.further(i, pages))));
                process.unmap(from);
                let first = to.map_or(from.first, |to| to.place);
                process.put(first, all);
                for place in (first + from.count..).take(more) {
                    if !self.mapped(number, place).is_locked_as_copy() {
                        break;
                    }
                    self.copy(number, place);
                }
                Ok(Outcome::Done(first))
            }
            Call::Duplicate { from, count, to } => {
                let one = process.places[from].clone().expect("it is mapped");
                if one.state.sharing == Sharing::Private {
                    return Err(Errno::INVAL);
                }
                let all = (0..count).map(|i| Some(one.further(i, pages)));
                process.put(to.place, all.collect());
                Ok(Outcome::Done(to.place))
            }
            Call::Protect(places, protection) => {
                let before = process.places[places.range()].to_vec();
                let result = process.change(places, |mapped| mapped.state.protect(protection));
                for (place, before) in places.range().zip(before) {
                    let was_writable = before.is_some_and(|before| before.state.allows(true));
                    if !was_writable && self.mapped(number, place).is_locked_as_copy() {
                        self.copy(number, place);
                    }
                }
                result.map(|()| Outcome::Done(0))
            }
            Call::Advise(places, advice) => self.advise(number, places, advice),
            Call::Lock(places) => {
                process.change(places, |mapped| {
                    mapped.state.locked = true;
                    Ok(())
                })?;
                for place in places.range() {
                    let mapped = self.mapped(number, place);
                    if !mapped.accessible(false) {
                        return Err(Errno::NOMEM);
                    }
                    if mapped.is_locked_as_copy() {
                        self.copy(number, place);
                    }
                }
                Ok(Outcome::Done(0))
            }
            Call::Unlock(places) => {
                process.change(places, |mapped| {
                    mapped.state.locked = false;
                    Ok(())
                })?;
                Ok(Outcome::Done(0))
            }
            Call::Touch { place, write } => {
                let mapped = self.mapped(number, place);
                // `touch` there has no single instruction for it, and loads before it stores.
                let loads = !write || cfg!(target_arch = "aarch64");
                let signal = mapped.signal(!loads).or_else(|| mapped.signal(write));
                if signal.is_none() && write {
                    self.copy(number, place);
                }
                let signal = signal.map_or(0, |signal| signal.as_raw() as usize);
                Ok(Outcome::Done(signal))
            }
            Call::Load(span) => {
                let parts = span.parts();
                let bytes =
                    parts.flat_map(|part| self.content(number, part.place)[part.range()].iter());
                Ok(Outcome::Bytes(bytes.copied().collect()))
            }
            Call::CopyOut(span) => {
                process.accessible(span, false).ok_or(Errno::FAULT)?;
                self.try_make(number, Call::Load(span))
            }
            Call::Store(span, seed) => {
                let bytes = bytes(seed.into(), span.len);
                let mut rest = &bytes[..];
                // Not before its turn: bytes stored to the place before may be part of a copy.
                for part in span.parts() {
                    let (stored, more) = rest.split_at(part.len);
                    rest = more;
                    self.copy(number, part.place);
                    let content = self.content_mut(number, part.place);
                    content[part.range()].copy_from_slice(stored);
                }
                Ok(Outcome::Done(span.len))
            }
            Call::CopyIn(span, seed) => {
                process.accessible(span, true).ok_or(Errno::FAULT)?;
                self.try_make(number, Call::Store(span, seed))
            }
            Call::Fork { child } => {
                let mut copy = process.clone();
                for place in &mut copy.places {
                    *place = place.take().and_then(|mapped| {
                        let state = mapped.state.forked()?;
                        Some(Mapped { state, ..mapped })
                    });
                }
                self.processes[child] = Some(copy);
                Ok(Outcome::Done(0))
            }
            Call::Exit | Call::Kill => {
                self.processes[number] = None;
                Ok(Outcome::Done(0))
            }
            Call::Sysctl(_) => Ok(Outcome::Done(0)),
        }
    }

    fn advise(&mut self, number: usize, places: Places, advice: Advice) -> Result<Outcome, Errno> {
        let process = self.processes[number].as_mut().expect("it is alive");
        let populates = matches!(advice, Advice::PopulateRead | Advice::PopulateWrite);
        process.change(places, |mapped| {
            if !populates {
                mapped.state.advise(advice)?;
            }
            if advice.drops_copies() {
                mapped.copy = None;
            }
            Ok(())
        })?;
        // Page by page, up to the first that cannot be brought in.
        for place in places.range().filter(|_| populates) {
            let mapped = self.mapped_mut(number, place);
            mapped.state.advise(advice)?;
            mapped.page.ok_or(Errno::FAULT)?;
            if advice == Advice::PopulateWrite {
                self.copy(number, place);
            }
        }
        Ok(Outcome::Done(0))
    }

    fn mapped(&self, number: usize, place: usize) -> &Mapped {
        let process = self.processes[number].as_ref().expect("it is alive");
        process.places[place].as_ref().expect("it is mapped")
    }

    fn mapped_mut(&mut self, number: usize, place: usize) -> &mut Mapped {
        let process = self.processes[number].as_mut().expect("it is alive");
        process.places[place].as_mut().expect("it is mapped")
    }

    /// The first store to a private page.
    fn copy(&mut self, number: usize, place: usize) {
        let mapped = self.mapped(number, place);
        if mapped.state.sharing == Sharing::Private && mapped.copy.is_none() {
            let bytes = self.content(number, place).to_vec();
            self.mapped_mut(number, place).copy = Some(Rc::new(bytes));
        }
    }

    /// The bytes of a place that has a page.
    fn content(&self, number: usize, place: usize) -> &[u8] {
        let mapped = self.mapped(number, place);
        match &mapped.copy {
            Some(copy) => copy,
            None => &self.buffer[mapped.page.expect("a page") * page()..][..page()],
        }
    }

    fn content_mut(&mut self, number: usize, place: usize) -> &mut [u8] {
        // The borrow checker does not know that the buffer is no part of the process.
        let process = self.processes[number].as_mut().expect("it is alive");
        let mapped = process.places[place].as_mut().expect("it is mapped");
        match &mut mapped.copy {
            Some(copy) => &mut Rc::make_mut(copy)[..],
            None => &mut self.buffer[mapped.page.expect("a page") * page()..][..page()],
        }
    }
}
