// SPDX-License-Identifier: GPL-2.0
//! What is done again and again with a peer's memory, on one CPU.

use std::hint::black_box;

use rustix::io;

use crate::{
    memory::{
        Advice, Hole, Map, MapFlags, MprotectFlags, PRIVATE, RW, SHARED, anonymous, copy_from,
        copy_to, page, read_pages, table, write_pages,
    },
    peer::{Memory, Peer},
};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sharing {
    Shared,
    Private,
}

impl Sharing {
    fn flags(self) -> MapFlags {
        match self {
            Self::Shared => SHARED,
            Self::Private => PRIVATE,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Touch {
    Nothing,
    Read,
    Write,
}

impl Touch {
    fn pages(self, map: &Map) {
        match self {
            Self::Nothing => {}
            Self::Read => read_pages(map),
            Self::Write => write_pages(map),
        }
    }
}

/// How bytes get from or to the memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    /// pread(2)
    Read,
    /// pwrite(2)
    Write,
    /// memcpy(3) out of a mapping that is there already
    MappedRead,
    /// memcpy(3) into it
    MappedWrite,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Work {
    /// mmap(2) of all of it, each page touched so, and munmap(2).
    Map(Sharing, Touch),
    /// The same with so many pages from an odd one on.
    Window(usize),
    /// A write to each page of a mapping that is new: only that counts.
    FirstTouch,
    /// A write to each page after MADV_DONTNEED.
    TouchAgain,
    /// fork(2) with all of it mapped shared and touched, `_exit` of the child, waitpid(2). The
    /// parent's time counts, the child's does not.
    Fork,
    /// The child's first write to each page.
    ChildTouch,
    /// mprotect(2) of a touched mapping to read-only, and back.
    Protect,
    /// mremap(2) of a touched mapping to another place.
    Move,
    /// So many bytes.
    Transfer(By, usize),
}

use Sharing::{Private, Shared};

impl Work {
    /// Of the row; `pages` are those of the memory.
    pub fn name(self, pages: usize) -> String {
        let transfer = |by: &str, bytes| match bytes == pages * page() {
            true => format!("{by}-whole"),
            false => format!("{by}-{bytes}"),
        };
        match self {
            Self::Map(Shared, Touch::Nothing) => "map".into(),
            Self::Map(Shared, Touch::Read) => "map-read".into(),
            Self::Map(Shared, Touch::Write) => "map-write".into(),
            Self::Map(Private, Touch::Nothing) => "private".into(),
            Self::Map(Private, Touch::Read) => "private-read".into(),
            Self::Map(Private, Touch::Write) => "private-write".into(),
            Self::Window(count) => format!("window-{count}"),
            Self::FirstTouch => "first-touch".into(),
            Self::TouchAgain => "touch-after-dontneed".into(),
            Self::Fork => "fork".into(),
            Self::ChildTouch => "fork-child-touch".into(),
            Self::Protect => "mprotect".into(),
            Self::Move => "mremap".into(),
            Self::Transfer(By::Read, bytes) => transfer("read", bytes),
            Self::Transfer(By::Write, bytes) => transfer("write", bytes),
            Self::Transfer(By::MappedRead, bytes) => transfer("mapped-read", bytes),
            Self::Transfer(By::MappedWrite, bytes) => transfer("mapped-write", bytes),
        }
    }

    /// Whether it makes sense with the peer.
    pub fn suits(self, peer: Peer) -> bool {
        let anonymous = matches!(peer, Peer::AnonShared | Peer::AnonPrivate);
        match self {
            Self::Map(Private, _) => peer != Peer::AnonShared,
            Self::Map(..) | Self::FirstTouch => true,
            Self::Window(_) => !anonymous && peer != Peer::DevZero,
            Self::Transfer(By::Read | By::Write, _) => matches!(
                peer,
                Peer::Device | Peer::Twin | Peer::Memfd | Peer::TmpfsHuge
            ),
            Self::Transfer(..) => matches!(
                peer,
                Peer::Device | Peer::Twin | Peer::Memfd | Peer::TmpfsHuge | Peer::Hugetlb
            ),
            _ => true,
        }
    }
}

/// A work with all that it needs, to be done any number of times.
pub struct Bench<'a> {
    work: Work,
    memory: &'a Memory,
    pages: usize,
    /// Where mappings go: small ones into a [`Hole`], large ones where the kernel likes.
    holes: Option<[Hole; 2]>,
    /// What is mapped all the time.
    map: Option<Map>,
    /// Free addresses to move to and fro between.
    places: [usize; 2],
    bytes: Vec<u8>,
    /// Shared with children.
    answer: Map,
}

impl<'a> Bench<'a> {
    /// Fails where the peer has no such thing.
    pub fn new(work: Work, memory: &'a Memory, pages: usize) -> io::Result<Self> {
        let small = pages * page() < table() && !matches!(work, Work::Window(_));
        let holes = small.then(|| [Hole::new(pages), Hole::new(pages)]);
        let mut bench = Self {
            work,
            memory,
            pages,
            places: [0; 2],
            map: None,
            bytes: vec![
                1;
                if let Work::Transfer(_, bytes) = work {
                    bytes
                } else {
                    0
                }
            ],
            answer: anonymous(1, RW, SHARED),
            holes,
        };
        write_pages(&bench.answer);
        match work {
            Work::Map(..)
            | Work::Window(_)
            | Work::FirstTouch
            | Work::Transfer(By::Read | By::Write, _) => {}
            Work::Move => {
                let map = bench.map_all(Shared)?;
                write_pages(&map);
                bench.places = match &bench.holes {
                    Some(holes) => [holes[0].address, holes[1].address],
                    None => [map.at(0) as usize, free(map.len())],
                };
                bench.map = Some(map);
            }
            _ => {
                let map = bench.map_all(Shared)?;
                write_pages(&map);
                bench.map = Some(map);
            }
        }
        Ok(bench)
    }

    /// How often the work may be done in a row before its cost is looked at.
    pub fn repeats(&self) -> bool {
        !matches!(
            self.work,
            Work::FirstTouch | Work::TouchAgain | Work::ChildTouch
        )
    }

    fn map_all(&self, sharing: Sharing) -> io::Result<Map> {
        let address = self.holes.as_ref().map(|holes| holes[0].address);
        self.memory.map(address, 0, self.pages, sharing.flags())
    }

    /// Does the work once and returns what it took of `now`, which is read only where a part of what
    /// is done here counts.
    pub fn once(&mut self, now: impl Fn() -> f64) -> io::Result<f64> {
        match self.work {
            Work::Map(sharing, touch) => touch.pages(&self.map_all(sharing)?),
            Work::Window(count) => {
                let map = self.memory.map(None, Hole::ODD, count, SHARED)?;
                write_pages(&map);
            }
            Work::FirstTouch => {
                let map = self.map_all(Shared)?;
                let start = now();
                write_pages(&map);
                return Ok(now() - start);
            }
            Work::TouchAgain => {
                let map = self.map.as_ref().expect("a mapping");
                map.advise(Advice::LinuxDontNeed)?;
                let start = now();
                write_pages(map);
                return Ok(now() - start);
            }
            Work::Fork => {
                in_child(|| {});
            }
            Work::ChildTouch => {
                let (map, answer) = (self.map.as_ref().expect("a mapping"), self.answer.at(0));
                let answer = answer.cast::<f64>();
                in_child(|| {
                    let start = now();
                    write_pages(map);
                    // SAFETY: a page that is aligned for all, shared with the parent.
                    unsafe { answer.write_volatile(now() - start) };
                });
                // SAFETY: as above.
                return Ok(unsafe { answer.read_volatile() });
            }
            Work::Protect => {
                let map = self.map.as_ref().expect("a mapping");
                map.protect(MprotectFlags::READ)?;
                map.protect(MprotectFlags::READ | MprotectFlags::WRITE)?;
            }
            Work::Move => {
                let map = self.map.as_mut().expect("a mapping");
                let here = map.at(0) as usize;
                map.move_to(self.places[usize::from(here == self.places[0])])?;
            }
            Work::Transfer(By::Read, _) => {
                let done = io::pread(self.memory.fd(), &mut *self.bytes, 0)?;
                assert_eq!(done, self.bytes.len());
            }
            Work::Transfer(By::Write, _) => {
                let done = io::pwrite(self.memory.fd(), &self.bytes, 0)?;
                assert_eq!(done, self.bytes.len());
            }
            Work::Transfer(By::MappedRead, _) => {
                let map = self.map.as_ref().expect("a mapping");
                copy_from(map, black_box(&mut self.bytes));
            }
            Work::Transfer(By::MappedWrite, _) => {
                let map = self.map.as_ref().expect("a mapping");
                copy_to(map, black_box(&self.bytes));
            }
        }
        Ok(0.0)
    }
}

/// Free addresses for so much, where 2 MiB entries fit, and not beside what is mapped later.
fn free(len: usize) -> usize {
    let room = anonymous((len + 2 * table()) / page(), RW, PRIVATE);
    (room.at(0) as usize).next_multiple_of(table()) - (1 << 40)
}

/// Does `work` in a child and waits for its end.
pub fn in_child(work: impl FnOnce()) {
    in_child_while(work, || {});
}

/// Does `work` in a child and `meanwhile` here.
pub fn in_child_while(work: impl FnOnce(), meanwhile: impl FnOnce()) {
    // SAFETY: the only thread forks.
    let child = unsafe { libc::fork() };
    if child == 0 {
        work();
        // SAFETY: ends this process.
        unsafe { libc::_exit(0) };
    }
    meanwhile();
    let mut status = 0;
    // SAFETY: the call writes the status.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert!(child > 0 && waited == child, "fork and waitpid");
    assert_eq!(status, 0, "the child failed");
}

/// mmap(2) of all of it where the kernel likes, a write to each page, munmap(2).
pub fn map_write(memory: &Memory, pages: usize, sharing: Sharing) -> io::Result<()> {
    let map = memory.map(None, 0, pages, sharing.flags())?;
    write_pages(&map);
    Ok(())
}
