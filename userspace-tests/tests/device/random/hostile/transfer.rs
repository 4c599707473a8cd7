// SPDX-License-Identifier: GPL-2.0
//! read(2), write(2) and their kin: to what a call comes is known to the byte, as far as nobody else
//! changes the memory or the buffer meanwhile.

use std::ops::Range as Bytes;

use rustix::io::{self, Errno};

use super::{
    call::{Buffer, Memory, Transfer},
    caller::{Caller, Judged, Kind, Outcome, PATTERN, ensure, same, shown, syscall},
    layout::{self, Access, Layout, Range},
};
use crate::support::system_call;

impl Caller<'_> {
    /// The `struct iovec`s of a call.
    pub fn vector(&self, memory: Memory) -> Vector {
        let resolve = |buffers: &[_]| Vector::new(buffers, self.layout);
        match memory {
            Memory::One(buffer) => resolve(&[buffer]),
            Memory::Vector(buffers) => resolve(&buffers),
            Memory::LongVector(buffers) => resolve(&buffers),
            Memory::BadVector { at, count } => Vector {
                entries: vec![],
                at: self.layout.ptr(at),
                count: count.into(),
            },
        }
    }

    fn position(&self, fd: i32) -> Option<i64> {
        let at = syscall!(SYS_lseek, fd, 0, libc::SEEK_CUR).ok()?;
        Some(at as i64)
    }

    pub fn transfer(&self, transfer: Transfer, calm: bool) -> Judged {
        let (fd, kind) = self.slot(transfer.fd);
        let vector = self.vector(transfer.memory);
        let before = self.position(fd);
        layout::set_own(PATTERN);
        let offset = transfer.offset.map(|offset| self.layout.offset(offset));
        let outcome = make_transfer(fd, transfer, &vector, offset);
        // With flags, -1 stands for the position too.
        let offset = offset.filter(|&offset| transfer.flags.is_none() || offset != -1);

        // What is there now: all that is not to change, and what is, as far as it is known.
        let found = layout::own();
        let known = calm && self.alone && kind != Kind::Other;
        let done = outcome.unwrap_or(0);
        let parts = vector.own_parts(done).filter(|_| known);
        let at = offset.or(before).unwrap_or(0);
        let mut expected = PATTERN.to_vec();
        if let Some(parts) = &parts {
            let mut buffer = vec![0; done];
            let n = io::pread(self.device, &mut buffer, at.max(0) as u64).expect("pread");
            ensure!(
                n == done,
                "{done} bytes at {at}, and pread finds {n} bytes there"
            );
            let mut rest = &buffer[..];
            for part in parts {
                let (bytes, more) = rest.split_at(part.len());
                rest = more;
                match transfer.write {
                    true => same(bytes, &PATTERN[part.clone()], "the buffer after a write")?,
                    false => expected[part.clone()].copy_from_slice(bytes),
                }
            }
        } else if !transfer.write {
            // A pipe says EFAULT of bytes that it could give in part.
            let most = if kind == Kind::Other {
                usize::MAX
            } else {
                done
            };
            for part in vector.touched_parts(most) {
                expected[part.clone()].copy_from_slice(&found[part]);
            }
        }
        if !matches!(transfer.memory, Memory::BadVector { .. }) {
            same(&found, &expected, "memory after the transfer")?;
        }
        // Another process may have moved the position since.
        let before = before.filter(|_| self.alone || offset.is_some());
        if let (Kind::Device { read, write }, Some(before)) = (kind, before) {
            let may = if transfer.write { write } else { read };
            let limits = Limits::new(&vector, at, self.layout.size());
            if let Memory::BadVector { .. } = transfer.memory {
                ensure!(
                    done <= limits.room,
                    "{done} bytes at {at}, where there are {}",
                    limits.room
                );
            } else {
                limits.judge(&transfer, may, outcome).map_err(|why| {
                    format!("{transfer:?} at {at}, {kind:?}: {}: {why}", shown(outcome))
                })?;
            }
            if self.alone {
                let after = self.position(fd);
                let moved = if offset.is_none() { done as i64 } else { 0 };
                ensure!(
                    after == Some(before + moved),
                    "the position was {before} before {done} bytes, and is {after:?}"
                );
            }
        }
        Ok(outcome)
    }
}

/// Memory of a call, and where its `struct iovec`s are.
pub struct Vector {
    entries: Vec<Range>,
    pub at: usize,
    pub count: usize,
}

impl Vector {
    fn new(buffers: &[Buffer], layout: Layout) -> Self {
        let entries: Vec<Range> = buffers
            .iter()
            .map(|&buffer| layout.buffer(buffer))
            .collect();
        Self {
            // A `Range` is laid out as a `struct iovec`.
            at: entries.as_ptr().expose_provenance(),
            count: entries.len(),
            entries,
        }
    }

    /// Where the first `done` bytes are, if all are in the program's own memory.
    fn own_parts(&self, done: usize) -> Option<Vec<Bytes<usize>>> {
        let parts = self.touched_parts(done);
        let own: usize = parts.iter().map(|part| part.len()).sum();
        (own == done).then_some(parts)
    }

    /// Where those of the first `done` bytes are that are in the program's own memory.
    fn touched_parts(&self, mut done: usize) -> Vec<Bytes<usize>> {
        let mut parts = vec![];
        for entry in &self.entries {
            let part = entry.len.min(done);
            done -= part;
            match entry.access() {
                Access::Own(at) => parts.push(at..at + part),
                Access::OwnUpTo(at, most) => parts.push(at..at + part.min(most)),
                _ => {}
            }
        }
        parts
    }
}

fn make_transfer(fd: i32, transfer: Transfer, vector: &Vector, offset: Option<i64>) -> Outcome {
    let (at, count) = (vector.at, vector.count);
    let either = |numbers: [libc::c_long; 2]| numbers[usize::from(transfer.write)];
    // Beyond the low half of an offset, which is all of it, there is a high one.
    match (transfer.memory, offset, transfer.flags) {
        (_, offset, Some(flags)) => {
            let number = either([libc::SYS_preadv2, libc::SYS_pwritev2]);
            let offset = offset.unwrap_or(-1);
            syscall!(number: number, fd, at, count, offset, 0, flags)
        }
        (Memory::One(_), offset, None) => {
            let Range { start, len } = vector.entries[0];
            match offset {
                None => {
                    let number = either([libc::SYS_read, libc::SYS_write]);
                    syscall!(number: number, fd, start, len)
                }
                Some(offset) => {
                    let number = either([libc::SYS_pread64, libc::SYS_pwrite64]);
                    syscall!(number: number, fd, start, len, offset)
                }
            }
        }
        (_, None, None) => {
            let number = either([libc::SYS_readv, libc::SYS_writev]);
            syscall!(number: number, fd, at, count)
        }
        (_, Some(offset), None) => {
            let number = either([libc::SYS_preadv, libc::SYS_pwritev]);
            syscall!(number: number, fd, at, count, offset, 0)
        }
    }
}

/// What a transfer may come to.
struct Limits {
    /// Bytes that are asked for.
    total: usize,
    /// Bytes from the position to the end of the buffer.
    room: usize,
    /// Bytes before the first that can't be accessed; none if that is not known.
    reach: Option<usize>,
    /// The kernel refuses the memory, or the sum of lengths, at once.
    absurd: bool,
    /// The position is not one.
    negative: bool,
    /// The position and the bytes are more than a position can be.
    overflows: bool,
}

impl Limits {
    fn new(vector: &Vector, at: i64, size: usize) -> Self {
        let total = vector
            .entries
            .iter()
            .fold(0_usize, |sum, entry| sum.saturating_add(entry.len));
        let mut reach = Some(0);
        for entry in vector.entries.iter().filter(|entry| entry.len > 0) {
            match entry.access() {
                Access::Own(_) => reach = reach.map(|reach| reach + entry.len),
                Access::OwnUpTo(_, len) => {
                    reach = reach.map(|reach| reach + len);
                    break;
                }
                Access::Never => break,
                Access::Unknown => {
                    reach = None;
                    break;
                }
            }
        }
        Self {
            total,
            room: usize::try_from(at).map_or(0, |at| size.saturating_sub(at)),
            reach,
            absurd: vector.entries.iter().any(|entry| entry.is_absurd()),
            negative: at < 0,
            overflows: at.checked_add_unsigned(total as u64).is_none(),
        }
    }

    fn judge(&self, transfer: &Transfer, may: bool, outcome: Outcome) -> Result<(), &'static str> {
        let wanted = self.total.min(self.room);
        let possible = self.reach.map(|reach| reach.min(wanted));
        match outcome {
            Ok(_) if !may || self.negative => Err("it must be refused"),
            Ok(n) if possible.is_some_and(|possible| n != possible) => {
                Err("another number of bytes can be transferred")
            }
            Ok(n) if n > wanted => Err("more than there is"),
            Ok(0) if wanted > 0 => Err("nothing, without an error"),
            Ok(0) if transfer.write && self.total > 0 => Err("there is no room"),
            Err(Errno::BADF) if may => Err("the descriptor is a good one"),
            Err(Errno::FAULT) if !self.absurd && possible.is_some_and(|n| n > 0 || wanted == 0) => {
                Err("the memory is good")
            }
            Err(Errno::NOSPC) if !transfer.write || self.room > 0 => Err("there is room"),
            Err(Errno::INVAL)
                if !(self.negative || self.absurd || self.overflows)
                    && transfer.flags.is_none() =>
            {
                Err("no argument is wrong")
            }
            Err(Errno::OVERFLOW) if !self.overflows => Err("nothing overflows"),
            Err(Errno::OPNOTSUPP) if transfer.flags.is_none_or(|flags| flags == 0) => {
                Err("there are no flags")
            }
            Ok(_)
            | Err(
                Errno::BADF
                | Errno::FAULT
                | Errno::NOSPC
                | Errno::INVAL
                | Errno::OVERFLOW
                | Errno::OPNOTSUPP,
            ) => Ok(()),
            Err(_) => Err("not an error of this call"),
        }
    }
}
