// SPDX-License-Identifier: GPL-2.0
//! Random calls of several processes, each held against a model in plain memory. A sequence that
//! the device and the model disagree on is cut down to the calls that matter.

mod expected;
mod workers;

use std::{cell::Cell, ops::Range};

use proptest::{
    prelude::*,
    test_runner::{Config, RngSeed, TestCaseError, TestRunner},
};
use rust_mmapdev::{Access, Sharing};
use rustix::io::Errno;

use super::operation::{Advice, Protection};
use crate::{
    harness::{long, seed, tests},
    support::{
        memory::{COLLAPSE, SOFT_OFFLINE, page, table},
        module::{self, fdinfo, fresh, references},
        pwrite,
        sysctl::Sysctl,
    },
};
use expected::Expected;
use workers::Workers;

tests![one_page, few_pages, many_pages, several_mib];

/// Processes, at most, at a time.
const PROCESSES: usize = 4;
/// Descriptors of a process, at most.
const DESCRIPTORS: usize = 3;
/// Bytes that one call transfers, at most, in pages: more than a page table maps.
const TRANSFER: usize = 520;

fn one_page() {
    random_calls_do_what_the_model_says(1, 20);
}

fn few_pages() {
    random_calls_do_what_the_model_says(7, 20);
}

fn many_pages() {
    random_calls_do_what_the_model_says(64, 20);
}

fn several_mib() {
    random_calls_do_what_the_model_says(1500, 8);
}

/// Pages of the range of addresses that a process maps windows of so many pages in.
fn places_for(pages: usize) -> usize {
    2 * pages + 16
}

/// A run of places: `count` of them from `first` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    pub first: usize,
    pub count: usize,
}

impl Places {
    fn range(self) -> Range<usize> {
        self.first..self.end()
    }

    fn end(self) -> usize {
        self.first + self.count
    }

    fn meets(self, other: Places) -> bool {
        self.first < other.end() && other.first < self.end()
    }
}

/// `len` bytes of memory, from `offset` in a place on.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    pub place: usize,
    pub offset: usize,
    pub len: usize,
}

impl Span {
    /// How far it is from the first place of all.
    fn at(self) -> usize {
        self.place * page() + self.offset
    }
}

/// Where pages are mapped to.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub place: usize,
    /// As far from the start of a page table as what is mapped is from a multiple of that size,
    /// so that one entry may do for all of it.
    aligned: bool,
}

impl Target {
    /// The place for what begins at `like`.
    fn fit(self, like: usize) -> Self {
        let pages = table() / page();
        let place = match self.aligned {
            true => self.place / pages * pages + like % pages,
            false => self.place,
        };
        Self { place, ..self }
    }
}

/// A call of one process. Offsets and lengths are in bytes.
#[derive(Clone, Copy, Debug)]
pub enum Call {
    Open(Access),
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
        to: Target,
    },
    Unmap(Places),
    /// mremap to another place, and with MREMAP_DONTUNMAP if `keep`.
    Move {
        from: Places,
        to: Target,
        keep: bool,
    },
    /// mremap to fewer pages.
    Shrink {
        from: Places,
        count: usize,
    },
    /// mremap to so many more pages, at another place or into those that follow, which have been
    /// unmapped.
    Grow {
        from: Places,
        more: usize,
        to: Option<Target>,
    },
    /// mremap of nothing from `from` on to `count` pages: maps them once more.
    Duplicate {
        from: usize,
        count: usize,
        to: Target,
    },
    Protect(Places, Protection),
    Advise(Places, Advice),
    Lock(Places),
    Unlock(Places),
    /// An access to one byte, which comes to a signal or to nothing.
    Touch {
        place: usize,
        write: bool,
    },
    /// By instructions of the process's own.
    Load(Span),
    /// Of bytes by their seed.
    Store(Span, u8),
    /// By a system call that is given the address.
    CopyOut(Span),
    CopyIn(Span, u8),
    /// The child is process `child`.
    Fork {
        child: usize,
    },
    Exit,
    Kill,
    Sysctl(Sysctl),
}

/// What a call comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done(usize),
    Bytes(Vec<u8>),
    Failed(Errno),
}

/// `len` bytes that tell their seed and their place.
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len.next_multiple_of(8)];
    for (i, word) in bytes.chunks_exact_mut(8).enumerate() {
        let value = ((seed << 40) | (i as u64 + 1)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        word.copy_from_slice(&value.to_ne_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A call as it is drawn. The model fits it to what there is: `process` counts those alive, and
/// most places count those mapped.
#[derive(Clone, Debug)]
struct Step {
    process: usize,
    call: Call,
}

/// Mostly a few pages, but all of them too.
fn count(pages: usize) -> impl Strategy<Value = usize> {
    prop_oneof![1..=pages.min(8), 1..=pages]
}

fn places(pages: usize) -> impl Strategy<Value = Places> {
    let all = places_for(pages);
    (0..all, count(pages)).prop_map(move |(first, count)| Places {
        first,
        count: count.min(all - first),
    })
}

fn target(pages: usize) -> impl Strategy<Value = Target> {
    (0..places_for(pages), any::<bool>()).prop_map(|(place, aligned)| Target { place, aligned })
}

fn mode() -> impl Strategy<Value = Access> {
    prop_oneof![
        4 => Just(Access::ReadWrite),
        1 => Just(Access::Read),
        1 => Just(Access::Write),
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
    const UNLOCKED: &[i32] = &[libc::MADV_COLD, libc::MADV_PAGEOUT];
    const FLAGS: &[i32] = &[
        libc::MADV_DONTDUMP,
        libc::MADV_DODUMP,
        libc::MADV_MERGEABLE,
        libc::MADV_UNMERGEABLE,
        libc::MADV_RANDOM,
        libc::MADV_WILLNEED,
    ];
    const ATTEMPTS: &[i32] = &[
        libc::MADV_HUGEPAGE,
        libc::MADV_NOHUGEPAGE,
        COLLAPSE,
        COLLAPSE,
        COLLAPSE,
        // A page that this has emptied is lost to the VM: not many of them.
        SOFT_OFFLINE,
    ];
    prop_oneof![
        8 => Just(Advice::DontNeed),
        4 => Just(Advice::PopulateRead),
        4 => Just(Advice::PopulateWrite),
        3 => Just(Advice::GuardInstall),
        3 => Just(Advice::GuardRemove),
        1 => Just(Advice::DontFork),
        1 => Just(Advice::DoFork),
        4 => prop::sample::select(UNLOCKED).prop_map(Advice::Unlocked),
        3 => prop::sample::select(FLAGS).prop_map(Advice::Flags),
        3 => prop::sample::select(ATTEMPTS).prop_map(Advice::Attempt),
    ]
}

fn call(pages: usize) -> impl Strategy<Value = Call> {
    let size = pages * page();
    let fd = 0..DESCRIPTORS;
    let place = 0..places_for(pages);
    let places = move || places(pages);
    let offset = move || 0..size + 10;
    let maybe = move || prop_oneof![Just(None), offset().prop_map(Some)];
    let most = TRANSFER.min(pages + 1) * page();
    let len = move || prop_oneof![4 => 0..100_usize, 4 => 0..=2 * page(), 1 => 0..=most];
    // In a page, or from one to the next, or over many.
    let span = move || {
        let len = prop_oneof![8 => 1..=page(), 1 => 1..=most];
        (0..places_for(pages), 0..page(), len).prop_map(|(place, offset, len)| Span {
            place,
            offset,
            len,
        })
    };
    let seed = any::<u8>;
    let files = prop_oneof![
        3 => mode().prop_map(Call::Open),
        2 => fd.clone().prop_map(Call::Close),
        1 => (fd.clone(), offset()).prop_map(|(fd, offset)| Call::Seek { fd, offset }),
        3 => (fd.clone(), maybe(), len())
            .prop_map(|(fd, offset, len)| Call::Read { fd, offset, len }),
        5 => (fd.clone(), maybe(), len(), seed())
            .prop_map(|(fd, offset, len, seed)| Call::Write { fd, offset, len, seed }),
        1 => fd.clone().prop_map(Call::Clear),
    ];
    let (fits, write) = (prop::bool::weighted(0.9), any::<bool>());
    let mappings = prop_oneof![
        12 => (fd, 0..=pages, count(pages), fits, sharing(), protection(), target(pages)).prop_map(
            move |(fd, page, count, fits, sharing, protection, to)| Call::Map {
                fd,
                page,
                count: if fits { count.min(pages - page).max(1) } else { count },
                sharing,
                protection,
                to,
            }
        ),
        2 => places().prop_map(Call::Unmap),
        3 => (places(), target(pages), any::<bool>())
            .prop_map(|(from, to, keep)| Call::Move { from, to, keep }),
        1 => (places(), 0..pages).prop_map(|(from, count)| Call::Shrink { from, count }),
        3 => (places(), count(pages), prop::option::of(target(pages)))
            .prop_map(|(from, more, to)| Call::Grow { from, more, to }),
        1 => (place.clone(), count(pages), target(pages))
            .prop_map(|(from, count, to)| Call::Duplicate { from, count, to }),
        3 => (places(), protection()).prop_map(|(places, prot)| Call::Protect(places, prot)),
        9 => (places(), advice()).prop_map(|(places, advice)| Call::Advise(places, advice)),
        1 => places().prop_map(Call::Lock),
        1 => places().prop_map(Call::Unlock),
    ];
    let accesses = prop_oneof![
        3 => (place, write).prop_map(|(place, write)| Call::Touch { place, write }),
        6 => span().prop_map(Call::Load),
        10 => (span(), seed()).prop_map(|(span, seed)| Call::Store(span, seed)),
        2 => span().prop_map(Call::CopyOut),
        3 => (span(), seed()).prop_map(|(span, seed)| Call::CopyIn(span, seed)),
    ];
    prop_oneof![
        15 => files,
        36 => mappings,
        24 => accesses,
        2 => (0..PROCESSES).prop_map(|child| Call::Fork { child }),
        1 => prop_oneof![Just(Call::Exit), Just(Call::Kill)],
        2 => prop::sample::select(Sysctl::ALL).prop_map(Call::Sysctl),
    ]
}

fn step(pages: usize) -> impl Strategy<Value = Step> {
    (0..PROCESSES, call(pages)).prop_map(|(process, call)| Step { process, call })
}

/// Makes the calls, one after the other, here and in the model.
fn run(pages: usize, steps: &[Step], made: &Cell<usize>) -> Result<(), TestCaseError> {
    let device = fresh(pages as u64);
    let huge_size = fdinfo(&device, "huge_size");
    // No two words are alike.
    let content = bytes(256, pages * page());
    pwrite(0, &content);
    let mut workers = Workers::new(places_for(pages));
    let mut expected = Expected::new(content);
    let open = Call::Open(Access::ReadWrite);
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
    let mut buffer = vec![0; pages * page()];
    rustix::io::pread(&device, &mut buffer, 0).expect("pread");
    prop_assert!(buffer == expected.buffer(), "at the end: the buffer");
    drop(workers);
    let has_split = fdinfo(&device, "huge_size") < huge_size;
    drop(device);
    prop_assert_eq!(references(), 0, "when all processes have ended");
    if has_split {
        // The next one is to have huge folios again.
        module::unload().expect("rmmod");
    }
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

fn random_calls_do_what_the_model_says(pages: usize, cases: u32) {
    let (cases, steps) = if long() {
        (100 * cases, 200)
    } else {
        (cases, 160)
    };
    let config = Config {
        cases,
        rng_seed: RngSeed::Fixed(seed()),
        failure_persistence: None,
        max_shrink_iters: 2000,
        max_shrink_time: 10_000,
        ..Config::default()
    };
    let _restored = Sysctl::restored();
    let made = Cell::new(0);
    let sequences = prop::collection::vec(step(pages), 1..=steps);
    let result = TestRunner::new(config).run(&sequences, |steps| run(pages, &steps, &made));
    println!("{} calls, --seed {}", made.get(), seed());
    if let Err(error) = result {
        panic!("{error}");
    }
}
