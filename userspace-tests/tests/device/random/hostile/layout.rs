// SPDX-License-Identifier: GPL-2.0
//! Where a hostile program has its memory, and what its arguments come to.

use std::ptr;

use rustix::mm::{self, MapFlags, ProtFlags};

use super::call::{Area, Bad, Buffer, Len, Offset, Ptr};
use crate::support::memory::{PRIVATE, RW, copy_in, copy_out, page, table};

/// Memory of the program's own that only calls which name it change; a guard follows. Far from
/// where the kernel puts mappings by itself.
const OWN: usize = 0x5f00_0000_0000;
/// What follows `OWN` without any access.
const GUARD: usize = OWN + OWN_LEN;
/// Where the device is mapped.
const ARENA: usize = 0x6000_0000_0000;

/// Two pages, of the largest kind that the processor's kernels have here.
pub const OWN_LEN: usize = if cfg!(target_arch = "aarch64") {
    2 << 14
} else {
    2 << 12
};

/// Room for windows of the largest buffer, one behind the other, and for more to grow into.
pub fn arena_len() -> usize {
    16 * table()
}

/// The end of the largest address space a process may have.
const TOP: usize = 0x00ff_ffff_ffff_f000;

/// Resolves arguments for a buffer of so many pages.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    pub pages: usize,
}

/// Sets up the memory; what is forked from this process has it.
pub fn set_up() {
    let map = |start, len, protection| {
        let flags = PRIVATE | MapFlags::FIXED_NOREPLACE | MapFlags::NORESERVE;
        let start = ptr::without_provenance_mut(start);
        // SAFETY: nothing that is mapped already is replaced.
        unsafe { mm::mmap_anonymous(start, len, protection, flags) }.expect("mmap");
    };
    map(OWN, OWN_LEN, RW);
    map(GUARD, page(), ProtFlags::empty());
    reset();
}

/// Unmaps the device where it is looked for.
pub fn reset() {
    let flags = PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
    let start = ptr::without_provenance_mut(ARENA);
    // SAFETY: nothing but programs' calls uses this range.
    unsafe { mm::mmap_anonymous(start, arena_len(), ProtFlags::empty(), flags) }.expect("mmap");
}

/// Whether calls find what is mapped there.
pub fn in_arena(address: usize) -> bool {
    (ARENA..ARENA + arena_len()).contains(&address)
}

/// The program's own memory, now.
pub fn own() -> Vec<u8> {
    let mut bytes = vec![0; OWN_LEN];
    // SAFETY: `set_up` has mapped it, and nothing unmaps it.
    unsafe { copy_out(ptr::without_provenance(OWN), &mut bytes) };
    bytes
}

/// Fills the program's own memory.
pub fn set_own(bytes: &[u8]) {
    assert_eq!(bytes.len(), OWN_LEN);
    // SAFETY: as above.
    unsafe { copy_in(ptr::without_provenance_mut(OWN), bytes) };
}

/// Memory that a call is given.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    pub start: usize,
    pub len: usize,
}

/// Whether a call can access memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// All of it, and it is the program's own, from this offset on.
    Own(usize),
    /// So many bytes of it only, from this offset on.
    OwnUpTo(usize, usize),
    /// None of it.
    Never,
    /// It depends on what is mapped there.
    Unknown,
}

impl Range {
    pub fn access(self) -> Access {
        match self.start {
            OWN..GUARD if self.len <= GUARD - self.start => Access::Own(self.start - OWN),
            OWN..GUARD => Access::OwnUpTo(self.start - OWN, GUARD - self.start),
            start if start >= ARENA - page() && start < TOP - page() => Access::Unknown,
            _ => Access::Never,
        }
    }

    /// Whether it reaches where no process has memory, so that the kernel refuses it at once.
    pub fn is_absurd(self) -> bool {
        const LEAST: usize = 1 << 46;
        self.len > LEAST || self.start > LEAST * 2 - page()
    }
}

impl Layout {
    /// Size of the buffer in bytes.
    pub fn size(self) -> usize {
        self.pages * page()
    }

    pub fn ptr(self, ptr: Ptr) -> usize {
        match ptr {
            Ptr::Own(offset) => OWN + usize::from(offset),
            Ptr::OwnEnd(before) => GUARD - usize::from(before),
            Ptr::Mapped { page: n, delta } => near(ARENA + usize::from(n) * page(), delta),
            Ptr::MappedPage(n) => ARENA + usize::from(n) * page(),
            Ptr::Bad(bad) => self.bad(bad, 8),
        }
    }

    /// `before`: how far below the end of the address space.
    fn bad(self, bad: Bad, before: usize) -> usize {
        match bad {
            Bad::Null => 0,
            Bad::Guard => GUARD,
            Bad::Kernel => 0xffff_8880_0010_0000,
            Bad::NonCanonical => 1 << 63,
            Bad::Top => TOP - before,
        }
    }

    pub fn buffer(self, buffer: Buffer) -> Range {
        Range {
            start: self.ptr(buffer.at),
            len: self.len(buffer.len),
        }
    }

    pub fn area(self, area: Area) -> Range {
        let pages = |first: u16, count: usize| Range {
            start: ARENA + usize::from(first) * page(),
            len: count * page(),
        };
        match area {
            Area::Pages { first, count } => pages(first, usize::from(count)),
            Area::Whole { first, more } => {
                pages(first, self.pages.saturating_add_signed(more.into()))
            }
            Area::Odd {
                page: n,
                delta,
                len,
            } => Range {
                start: near(ARENA + usize::from(n) * page(), delta),
                len: self.len(len),
            },
            Area::Bad { at, len } => Range {
                start: self.bad(at, 0),
                len: self.len(len),
            },
        }
    }

    pub fn len(self, len: Len) -> usize {
        match len {
            Len::Zero => 0,
            Len::Bytes(n) => n.into(),
            Len::Pages(n) => usize::from(n) * page(),
            Len::Near { pages, delta } => near(usize::from(pages) * page(), delta),
            Len::Whole(more) => near(self.size(), more),
            Len::Huge(n) => n,
        }
    }

    pub fn offset(self, offset: Offset) -> i64 {
        let size = self.size() as i64;
        let page = page() as i64;
        match offset {
            Offset::Start => 0,
            Offset::Page(n) => i64::from(n) * page,
            Offset::Near { page: n, delta } => i64::from(n) * page + i64::from(delta),
            Offset::End(delta) => size + i64::from(delta),
            Offset::EndPage(n) => size + i64::from(n) * page,
            Offset::Extreme(n) | Offset::Any(n) => n,
        }
    }
}

/// `delta` from `value` on, but not below 0.
fn near(value: usize, delta: i8) -> usize {
    value.saturating_add_signed(delta.into())
}
