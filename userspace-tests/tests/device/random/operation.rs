// SPDX-License-Identifier: GPL-2.0
//! What the random testers do to a mapping, in the terms that they have in common, and what that
//! makes of it. What it holds is the affair of each one's own oracle.

use rust_mmapdev::{Access, Sharing};
use rustix::io::{self, Errno};

use crate::support::memory::{
    EXEC, GUARD_INSTALL, GUARD_REMOVE, Map, MapFlags, MprotectFlags, PRIVATE, ProtFlags, READ, RW,
    SHARED,
};

/// What mmap(2) and mprotect(2) are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    None,
    Read,
    ReadWrite,
    Exec,
}

impl Protection {
    pub fn flags(self) -> ProtFlags {
        match self {
            Self::None => ProtFlags::empty(),
            Self::Read => READ,
            Self::ReadWrite => RW,
            Self::Exec => READ | EXEC,
        }
    }

    /// mprotect(2).
    pub fn set(self, range: &Map) -> io::Result<()> {
        range.protect(MprotectFlags::from_bits_retain(self.flags().bits()))
    }
}

/// The flag of mmap(2).
pub fn sharing_flag(sharing: Sharing) -> MapFlags {
    match sharing {
        Sharing::Shared => SHARED,
        Sharing::Private => PRIVATE,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    DontNeed,
    PopulateRead,
    PopulateWrite,
    GuardInstall,
    GuardRemove,
    DontFork,
    DoFork,
    /// One that is not for locked memory, and changes nothing that can be seen.
    Unlocked(i32),
    /// One that only changes flags.
    Flags(i32),
    /// One that may fail for reasons of the kernel's own. The bytes stay in any case.
    Attempt(i32),
}

impl Advice {
    pub const fn number(self) -> i32 {
        match self {
            Self::DontNeed => libc::MADV_DONTNEED,
            Self::PopulateRead => libc::MADV_POPULATE_READ,
            Self::PopulateWrite => libc::MADV_POPULATE_WRITE,
            Self::GuardInstall => GUARD_INSTALL,
            Self::GuardRemove => GUARD_REMOVE,
            Self::DontFork => libc::MADV_DONTFORK,
            Self::DoFork => libc::MADV_DOFORK,
            Self::Unlocked(number) | Self::Flags(number) | Self::Attempt(number) => number,
        }
    }

    /// madvise(2). A failed attempt is none.
    pub fn give(self, range: &Map) -> io::Result<()> {
        let result = range.advise_by_number(0, range.len(), self.number());
        match self {
            Self::Attempt(_) => Ok(()),
            _ => result,
        }
    }

    /// Whether private copies are dropped.
    pub fn drops_copies(self) -> bool {
        matches!(self, Self::DontNeed | Self::GuardInstall)
    }
}

/// What is known of a mapping besides its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Mapping {
    pub sharing: Sharing,
    pub protection: Protection,
    /// VM_MAYWRITE: what mprotect may allow.
    pub may_write: bool,
    pub dont_fork: bool,
    pub locked: bool,
    /// All of it is guard pages.
    pub guarded: bool,
}

impl Mapping {
    /// mmap(2) of a descriptor that was opened for `access`.
    pub fn new(access: Access, sharing: Sharing, protection: Protection) -> Result<Self, Errno> {
        let this = Self {
            sharing,
            protection,
            may_write: sharing == Sharing::Private || access == Access::ReadWrite,
            dont_fork: false,
            locked: false,
            guarded: false,
        };
        match protection {
            _ if access == Access::Write => Err(Errno::ACCESS),
            Protection::ReadWrite if !this.may_write => Err(Errno::ACCESS),
            Protection::Exec => Err(Errno::PERM),
            _ => Ok(this),
        }
    }

    /// Whether the protection allows an access.
    pub fn allows(&self, write: bool) -> bool {
        match self.protection {
            Protection::ReadWrite => true,
            Protection::Read => !write,
            Protection::None | Protection::Exec => false,
        }
    }

    /// Whether a page of the buffer, or a copy of one, can be accessed.
    pub fn accessible(&self, write: bool) -> bool {
        self.allows(write) && !self.guarded
    }

    /// mprotect(2).
    pub fn protect(&mut self, protection: Protection) -> Result<(), Errno> {
        match protection {
            Protection::Exec => Err(Errno::ACCESS),
            Protection::ReadWrite if !self.may_write => Err(Errno::ACCESS),
            _ => {
                self.protection = protection;
                Ok(())
            }
        }
    }

    /// madvise(2).
    pub fn advise(&mut self, advice: Advice) -> Result<(), Errno> {
        match advice {
            Advice::DontNeed | Advice::GuardInstall | Advice::Unlocked(_) if self.locked => {
                return Err(Errno::INVAL);
            }
            Advice::PopulateRead | Advice::PopulateWrite => {
                let write = advice == Advice::PopulateWrite;
                if !self.allows(write) {
                    return Err(Errno::INVAL);
                }
                if self.guarded {
                    return Err(Errno::FAULT);
                }
            }
            Advice::GuardInstall => self.guarded = true,
            Advice::GuardRemove => self.guarded = false,
            Advice::DontFork => self.dont_fork = true,
            Advice::DoFork => self.dont_fork = false,
            _ => {}
        }
        Ok(())
    }

    /// In the child of a fork, which may have none of it.
    pub fn forked(self) -> Option<Self> {
        let inherited = Self {
            locked: false,
            ..self
        };
        (!self.dont_fork).then_some(inherited)
    }
}
