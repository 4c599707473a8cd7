// SPDX-License-Identifier: GPL-2.0
//! A message to another process and back: through a word in a shared mapping and futex(2), a pair of
//! pipes, of eventfds, a socket.

use std::{
    os::fd::OwnedFd,
    sync::atomic::{AtomicU32, Ordering::SeqCst},
};

use benches::Unit;
use rustix::{
    event::{EventfdFlags, eventfd},
    io,
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
    pipe::pipe,
    thread::futex,
};

use crate::{
    memory::{Map, SHARED, write_pages},
    peer::{Memory, Peer},
    rows::tell_row,
    wall_time,
    work::in_child_while,
};

/// How many round trips are one measurement.
const TRIPS: u32 = 200;
const RUNS: usize = 9;

/// One of the two ends.
trait Channel {
    fn send(&self, number: u32);
    /// Waits for message `number`.
    fn receive(&self, number: u32);
}

/// Two words: each side waits for one and sets the other. Messages are numbers that grow.
struct Words<'a> {
    mine: &'a AtomicU32,
    theirs: &'a AtomicU32,
}

impl Channel for Words<'_> {
    fn send(&self, number: u32) {
        self.theirs.store(number, SeqCst);
        futex::wake(self.theirs, futex::Flags::empty(), 1).expect("futex");
    }

    fn receive(&self, number: u32) {
        loop {
            let seen = self.mine.load(SeqCst);
            if seen == number {
                return;
            }
            // Whoever changes it meanwhile has us look again.
            let _ = futex::wait(self.mine, futex::Flags::empty(), seen, None);
        }
    }
}

/// Eight bytes through descriptors.
struct Descriptors<'a> {
    from: &'a OwnedFd,
    to: &'a OwnedFd,
}

impl Channel for Descriptors<'_> {
    fn send(&self, number: u32) {
        let bytes = u64::from(number).to_ne_bytes();
        assert_eq!(io::write(self.to, &bytes), Ok(8));
    }

    fn receive(&self, number: u32) {
        let mut bytes = [0; 8];
        assert_eq!(io::read(self.from, &mut bytes), Ok(8));
        assert_eq!(u64::from_ne_bytes(bytes), u64::from(number));
    }
}

/// What `TRIPS` round trips take, one after the other, with a child that answers.
fn trips(here: &impl Channel, there: &impl Channel) -> Vec<f64> {
    let all = TRIPS * RUNS as u32;
    let answer = || {
        for number in 1..=all {
            there.receive(number);
            there.send(number);
        }
    };
    let mut samples = vec![];
    in_child_while(answer, || {
        let mut number = 0;
        for _ in 0..RUNS {
            let start = wall_time();
            for _ in 0..TRIPS {
                number += 1;
                here.send(number);
                here.receive(number);
            }
            samples.push((wall_time() - start) / f64::from(TRIPS));
        }
    });
    samples
}

fn words(map: &Map) -> [&AtomicU32; 2] {
    write_pages(map);
    // On lines of their own.
    [0, 128].map(|offset| {
        let word = map.u32(offset);
        word.store(0, SeqCst);
        word
    })
}

/// Measures the row, where its name contains `pattern`.
pub fn measure(unit: Unit, pattern: &str) -> io::Result<bool> {
    const ROW: &str = "round-trip";
    if !ROW.contains(pattern) {
        return Ok(false);
    }
    eprintln!("measure: {ROW}");
    for peer in [Peer::Device, Peer::Twin, Peer::Memfd, Peer::AnonShared] {
        let map = Memory::open(peer, 1)?.map(None, 0, 1, SHARED)?;
        let [a, b] = words(&map);
        let (here, there) = (Words { mine: a, theirs: b }, Words { mine: b, theirs: a });
        tell_row(unit, ROW, peer.name(), 1, &mut trips(&here, &there));
    }
    let (down, up) = (pipe()?, pipe()?);
    let event = || eventfd(0, EventfdFlags::empty());
    let (go, back) = (event()?, event()?);
    let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
    let (left, right) = socketpair(family, kind, SocketFlags::empty(), None)?;
    for (name, [from_here, to_there, from_there, to_here]) in [
        ("pipe", [&up.0, &down.1, &down.0, &up.1]),
        ("eventfd", [&back, &go, &go, &back]),
        ("socket", [&left, &left, &right, &right]),
    ] {
        let here = Descriptors {
            from: from_here,
            to: to_there,
        };
        let there = Descriptors {
            from: from_there,
            to: to_here,
        };
        tell_row(unit, ROW, name, 1, &mut trips(&here, &there));
    }
    Ok(true)
}
