// SPDX-License-Identifier: GPL-2.0
//! Random calls of several processes, each held against a model in plain memory. A sequence that
//! the device and the model disagree on is cut down to the calls that matter.

mod expected;
mod workers;

use std::cell::Cell;

use proptest::{
    prelude::*,
    test_runner::{Config, RngSeed, TestCaseError, TestRunner},
};
use rustix::io::Errno;

use crate::{
    harness::{long, seed, tests},
    support::{
        memory::page,
        module::{fresh, live_mappings, references},
        pwrite,
    },
};
use expected::Expected;
use workers::Workers;

tests![random_calls_do_what_the_model_says];

/// Pages of the buffer.
const PAGES: usize = 8;
/// Pages of the range of addresses that a process maps windows in.
const PLACES: usize = 20;
/// Processes, at most, at a time.
const PROCESSES: usize = 4;
/// Descriptors of a process, at most.
const DESCRIPTORS: usize = 3;
/// Bytes that one call transfers, at most, in pages.
const TRANSFER: usize = 2;

/// What open(2) is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Read,
    Write,
    ReadWrite,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    Shared,
    Private,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    None,
    Read,
    ReadWrite,
    Exec,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    DontNeed,
    PopulateRead,
    PopulateWrite,
    Cold,
    PageOut,
    WillNeed,
    DontFork,
}

/// A run of places: `count` of them from `first` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    pub first: usize,
    pub count: usize,
}

impl Places {
    fn range(self) -> std::ops::Range<usize> {
        self.first..self.first + self.count
    }
}

/// A call of one process. Offsets and lengths are in bytes.
#[derive(Clone, Copy, Debug)]
pub enum Call {
    Open(Mode),
    Close(usize),
    Seek {
        fd: usize,
        offset: usize,
    },
    /// Without an offset, at the position.
    Read {
        fd: usize,
        offset: Option<usize>,
        len: usize,
    },
    Write {
        fd: usize,
        offset: Option<usize>,
        len: usize,
        seed: u8,
    },
    Clear(usize),
    /// `count` pages of the buffer from `page` on, onto the places from `to` on.
    Map {
        fd: usize,
        page: usize,
        count: usize,
        sharing: Sharing,
        protection: Protection,
        to: usize,
    },
    Unmap(Places),
    /// mremap to another place.
    Move {
        from: Places,
        to: usize,
    },
    /// mremap to fewer pages.
    Shrink {
        from: Places,
        count: usize,
    },
    /// mremap to one more page, which is refused.
    Grow(Places),
    Protect(Places, Protection),
    Advise(Places, Advice),
    /// By instructions of the process's own.
    Load {
        place: usize,
        offset: usize,
        len: usize,
    },
    Store {
        place: usize,
        offset: usize,
        len: usize,
        seed: u8,
    },
    /// By a system call that is given the address.
    CopyOut {
        place: usize,
        offset: usize,
        len: usize,
    },
    CopyIn {
        place: usize,
        offset: usize,
        len: usize,
        seed: u8,
    },
    /// The child is process `child`.
    Fork {
        child: usize,
    },
    Exit,
    Kill,
}

/// What a call comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done(usize),
    Bytes(Vec<u8>),
    Failed(Errno),
}

/// `len` bytes that tell their seed and their place.
pub fn bytes(seed: u8, len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| (i as u8).wrapping_mul(31) ^ seed)
        .collect()
}

/// A call as it is drawn. The model fits it to what there is: `process` counts those alive, and
/// most places count those mapped.
#[derive(Clone, Debug)]
struct Step {
    process: usize,
    call: Call,
}

fn places() -> impl Strategy<Value = Places> {
    (0..PLACES, 1..=PAGES).prop_map(|(first, count)| Places {
        first,
        count: count.min(PLACES - first),
    })
}

fn mode() -> impl Strategy<Value = Mode> {
    prop_oneof![
        4 => Just(Mode::ReadWrite),
        1 => Just(Mode::Read),
        1 => Just(Mode::Write),
    ]
}

fn sharing() -> impl Strategy<Value = Sharing> {
    prop_oneof![Just(Sharing::Shared), Just(Sharing::Private)]
}

fn protection() -> impl Strategy<Value = Protection> {
    prop_oneof![
        6 => Just(Protection::ReadWrite),
        3 => Just(Protection::Read),
        1 => Just(Protection::None),
        1 => Just(Protection::Exec),
    ]
}

fn advice() -> impl Strategy<Value = Advice> {
    prop_oneof![
        4 => Just(Advice::DontNeed),
        2 => Just(Advice::PopulateRead),
        2 => Just(Advice::PopulateWrite),
        1 => Just(Advice::Cold),
        1 => Just(Advice::PageOut),
        1 => Just(Advice::WillNeed),
        1 => Just(Advice::DontFork),
    ]
}

fn call() -> impl Strategy<Value = Call> {
    let size = PAGES * page();
    let fd = 0..DESCRIPTORS;
    let place = 0..PLACES;
    let offset = move || 0..size + 10;
    let maybe = move || prop_oneof![Just(None), offset().prop_map(Some)];
    let len = || prop_oneof![0..100_usize, 0..=TRANSFER * page()];
    // In a page, or from one to the next.
    let span = || (0..page(), 1..=page());
    prop_oneof![
        3 => mode().prop_map(Call::Open),
        2 => fd.clone().prop_map(Call::Close),
        1 => (fd.clone(), offset()).prop_map(|(fd, offset)| Call::Seek { fd, offset }),
        3 => (fd.clone(), maybe(), len())
            .prop_map(|(fd, offset, len)| Call::Read { fd, offset, len }),
        5 => (fd.clone(), maybe(), len(), any::<u8>())
            .prop_map(|(fd, offset, len, seed)| Call::Write { fd, offset, len, seed }),
        1 => fd.clone().prop_map(Call::Clear),
        12 => (fd, 0..=PAGES, 1..=PAGES, sharing(), protection(), place.clone()).prop_map(
            |(fd, page, count, sharing, protection, to)| Call::Map {
                fd,
                page,
                count: count.min(PLACES - to),
                sharing,
                protection,
                to,
            }
        ),
        2 => places().prop_map(Call::Unmap),
        3 => (places(), place.clone()).prop_map(|(from, to)| Call::Move { from, to }),
        1 => (places(), 1..PAGES).prop_map(|(from, count)| Call::Shrink { from, count }),
        1 => places().prop_map(Call::Grow),
        3 => (places(), protection()).prop_map(|(places, prot)| Call::Protect(places, prot)),
        5 => (places(), advice()).prop_map(|(places, advice)| Call::Advise(places, advice)),
        6 => (place.clone(), span())
            .prop_map(|(place, (offset, len))| Call::Load { place, offset, len }),
        10 => (place.clone(), span(), any::<u8>())
            .prop_map(|(place, (offset, len), seed)| Call::Store { place, offset, len, seed }),
        2 => (place.clone(), span())
            .prop_map(|(place, (offset, len))| Call::CopyOut { place, offset, len }),
        3 => (place, span(), any::<u8>())
            .prop_map(|(place, (offset, len), seed)| Call::CopyIn { place, offset, len, seed }),
        2 => (0..PROCESSES).prop_map(|child| Call::Fork { child }),
        1 => prop_oneof![Just(Call::Exit), Just(Call::Kill)],
    ]
}

fn step() -> impl Strategy<Value = Step> {
    (0..PROCESSES, call()).prop_map(|(process, call)| Step { process, call })
}

/// Makes the calls, one after the other, here and in the model.
fn run(steps: &[Step], made: &Cell<usize>) -> Result<(), TestCaseError> {
    let device = fresh(PAGES as u64);
    // No two pages are alike.
    let content: Vec<u8> = (1..=PAGES as u8).flat_map(|i| bytes(i, page())).collect();
    pwrite(0, &content);
    let mut workers = Workers::new();
    let mut expected = Expected::new(content);
    let open = Call::Open(Mode::ReadWrite);
    let opened = workers.make(0, open).map_err(TestCaseError::fail)?;
    prop_assert_eq!(opened, expected.make(0, open));
    for (i, step) in steps.iter().enumerate() {
        let Some((process, call)) = expected.applicable(step.process, step.call) else {
            continue;
        };
        made.set(made.get() + 1);
        let what = format!("step {i}: process {process}: {call:?}");
        let wanted = expected.make(process, call);
        let found = workers.make(process, call).map_err(|why| {
            TestCaseError::fail(format!("{what}: {why}, expected {}", brief(&wanted)))
        })?;
        if found != wanted {
            let found = brief(&found);
            return Err(TestCaseError::fail(format!(
                "{what}: {found}, expected {}",
                brief(&wanted)
            )));
        }
        let live = live_mappings();
        let vmas = expected.vmas() as u64;
        prop_assert_eq!(live, vmas, "{}: live mappings in fdinfo", what);
    }
    // All that can be read, everywhere, and the buffer itself.
    for (process, call) in expected.everything() {
        let wanted = expected.make(process, call);
        let found = workers.make(process, call);
        let found = found
            .map_err(|why| TestCaseError::fail(format!("process {process}: {call:?}: {why}")))?;
        if found != wanted {
            return Err(TestCaseError::fail(format!(
                "at the end: process {process}: {call:?}: {}, expected {}",
                brief(&found),
                brief(&wanted)
            )));
        }
    }
    let mut buffer = vec![0; PAGES * page()];
    rustix::io::pread(&device, &mut buffer, 0).expect("pread");
    prop_assert!(buffer == expected.buffer(), "at the end: the buffer");
    drop(workers);
    prop_assert_eq!(live_mappings(), 0, "when all processes have ended");
    drop(device);
    prop_assert_eq!(references(), 0, "when all processes have ended");
    Ok(())
}

/// An outcome in one line.
fn brief(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Bytes(bytes) => {
            let start = &bytes[..bytes.len().min(8)];
            let sum = bytes
                .iter()
                .fold(0_u32, |sum, &b| sum.wrapping_mul(31).wrapping_add(b.into()));
            format!("{} bytes {start:02x?}… (sum {sum:08x})", bytes.len())
        }
        other => format!("{other:?}"),
    }
}

fn random_calls_do_what_the_model_says() {
    let (cases, steps) = if long() { (4_000, 100) } else { (40, 80) };
    let config = Config {
        cases,
        rng_seed: RngSeed::Fixed(seed()),
        failure_persistence: None,
        max_shrink_iters: 2000,
        max_shrink_time: 10_000,
        ..Config::default()
    };
    let made = Cell::new(0);
    let sequences = prop::collection::vec(step(), 1..=steps);
    let result = TestRunner::new(config).run(&sequences, |steps| run(&steps, &made));
    println!("{} calls, --seed {}", made.get(), seed());
    if let Err(error) = result {
        panic!("{error}");
    }
}
