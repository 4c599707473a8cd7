// SPDX-License-Identifier: GPL-2.0
//! A producer and a consumer over a ring in the mapping. They make no system call while both are
//! busy: only who finds the ring empty, or full, sleeps, on a futex in the mapping.
//!
//!     ring produce N    puts the numbers 1 to N into the ring
//!     ring consume N    takes them out, and checks that they are all there and in order
//!
//! The consumer may be this program, and the producer c/ring.c, or the other way round.

use std::{
    cell::Cell,
    error::Error,
    sync::atomic::{AtomicU32, Ordering::SeqCst},
};

use rust_mmapdev::{Access, Device, Mapping, Protection, Sharing};
use rustix::{
    io::Errno,
    thread::futex::{self, Flags},
};

/// Numbers that fit into the ring.
pub const SLOTS: u32 = 256;

// Offsets in the mapping; each side's words have a cache line of their own.
const PUT: usize = 0;
const CONSUMER_SLEEPS: usize = 4;
const TAKEN: usize = 64;
const PRODUCER_SLEEPS: usize = 68;
const NUMBERS: usize = 128;

pub struct Ring {
    map: Mapping,
    calls: Cell<u32>,
}

impl Ring {
    pub fn open() -> rust_mmapdev::Result<Self> {
        let device = Device::open(Access::ReadWrite)?;
        Ok(Self {
            map: device.map(Sharing::Shared, Protection::ReadWrite)?,
            calls: Cell::new(0),
        })
    }

    /// Futex calls that were necessary so far.
    pub fn calls(&self) -> u32 {
        self.calls.get()
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        self.map
            .atomic_u32(offset)
            .expect("the ring fits into a page")
    }

    fn slot(&self, index: u32) -> &AtomicU32 {
        self.word(NUMBERS + 4 * (index % SLOTS) as usize)
    }

    /// Puts a number into the ring, when there is room.
    pub fn put(&self, number: u32) -> Result<(), Errno> {
        let put = self.word(PUT).load(SeqCst);
        self.wait_while(TAKEN, put.wrapping_sub(SLOTS), PRODUCER_SLEEPS)?;
        self.slot(put).store(number, SeqCst);
        self.word(PUT).store(put.wrapping_add(1), SeqCst);
        self.wake(PUT, CONSUMER_SLEEPS)
    }

    /// Takes the next number out of the ring, when there is one.
    pub fn take(&self) -> Result<u32, Errno> {
        let taken = self.word(TAKEN).load(SeqCst);
        self.wait_while(PUT, taken, CONSUMER_SLEEPS)?;
        let number = self.slot(taken).load(SeqCst);
        self.word(TAKEN).store(taken.wrapping_add(1), SeqCst);
        self.wake(TAKEN, PRODUCER_SLEEPS)?;
        Ok(number)
    }

    /// Sleeps for as long as the word at `offset` has this value.
    fn wait_while(&self, offset: usize, value: u32, sleeps: usize) -> Result<(), Errno> {
        while self.word(offset).load(SeqCst) == value {
            self.word(sleeps).store(1, SeqCst);
            self.calls.set(self.calls.get() + 1);
            // The kernel looks at the word again before it lets us sleep.
            match futex::wait(self.word(offset), Flags::empty(), value, None) {
                Ok(()) | Err(Errno::AGAIN | Errno::INTR) => {}
                Err(err) => return Err(err),
            }
            self.word(sleeps).store(0, SeqCst);
        }
        Ok(())
    }

    /// Wakes who said that it sleeps, after the word at `offset` has changed.
    ///
    /// Leaves that word alone: it may be about a sleep that begins only now, and that nobody else
    /// would end.
    fn wake(&self, offset: usize, sleeps: usize) -> Result<(), Errno> {
        if self.word(sleeps).load(SeqCst) != 0 {
            self.calls.set(self.calls.get() + 1);
            futex::wake(self.word(offset), Flags::empty(), 1)?;
        }
        Ok(())
    }
}

pub fn run(args: &[String]) -> Result<(), Box<dyn Error>> {
    let [role, count] = args else {
        return Err("usage: ring produce|consume N".into());
    };
    let count: u32 = count.parse()?;
    let ring = Ring::open()?;
    for number in 1..=count {
        match role.as_str() {
            "produce" => ring.put(number)?,
            "consume" => {
                let found = ring.take()?;
                if found != number {
                    return Err(format!("{found} came instead of {number}").into());
                }
            }
            other => return Err(format!("no such role: {other}").into()),
        }
    }
    println!("{count} numbers, {} futex calls", ring.calls());
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    run(&std::env::args().skip(1).collect::<Vec<_>>())
}
