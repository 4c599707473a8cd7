// SPDX-License-Identifier: GPL-2.0
//! The rows: which work, on how many pages of whose memory, and how often.

use std::{fs, thread, time::Duration};

use benches::{Line, Refusal, Row, Size, Unit};
use clap::ValueEnum;
use rustix::io;

use crate::{
    memory::page,
    message, parallel,
    peer::{Memory, Module, Peer, huge_pages},
    tell, thread_time,
    work::{Bench, By, Sharing, Touch, Work},
};

/// How much is measured.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scale {
    /// All of it
    Full,
    /// Fewer sizes and rounds
    Quick,
    /// What the device itself takes, for comparisons with another version of it
    Device,
    /// One row of that
    One,
}

impl Scale {
    fn sizes(self, unit: Unit) -> &'static [usize] {
        match (self, unit) {
            (Self::Full, Unit::Instructions) => &[1, 16, 64, 512, 2048, 4096, 65536],
            (Self::Full, Unit::Time) => &[1, 16, 64, 512, 2048, 4096],
            (Self::Quick, _) => &[1, 64, 512, 2048],
            (Self::Device, _) => &[1, 64, 512, 2048],
            (Self::One, _) => &[1, 64, 512],
        }
    }

    /// Instructions or nanoseconds that may be spent on a row of one peer, and the least and most
    /// rounds.
    fn budget(self, unit: Unit) -> (f64, usize, usize) {
        match (self, unit) {
            (Self::Quick, Unit::Instructions) => (3e6, 3, 9),
            (Self::Quick, Unit::Time) => (3e6, 5, 21),
            (_, Unit::Instructions) => (10e6, 3, 31),
            (_, Unit::Time) => (10e6, 7, 101),
        }
    }

    fn works(self, pages: usize) -> Vec<Work> {
        use Sharing::{Private, Shared};
        use Touch::{Nothing, Read, Write};
        let whole = pages * page();
        let mut works = vec![Work::Map(Shared, Write)];
        if self == Self::One {
            return works;
        }
        works.extend([
            Work::Map(Shared, Nothing),
            Work::Map(Shared, Read),
            Work::Map(Private, Read),
            Work::Map(Private, Write),
            Work::FirstTouch,
            Work::TouchAgain,
            Work::Fork,
            Work::ChildTouch,
            Work::Protect,
            Work::Move,
            Work::Transfer(By::Read, whole),
            Work::Transfer(By::Write, whole),
        ]);
        if pages == 2048 {
            works.push(Work::Window(1000));
        }
        // What a system call and a copy cost by the number of bytes, and the copy alone.
        if pages == 4096 || (self != Self::Full && pages == 2048) {
            let sizes = [64, 512, 4096, 64 << 10, 1 << 20, whole];
            for by in [By::Read, By::Write, By::MappedRead, By::MappedWrite] {
                for work in sizes.map(|bytes| Work::Transfer(by, bytes)) {
                    if !works.contains(&work) {
                        works.push(work);
                    }
                }
            }
        }
        works
    }
}

/// What is dear is done once, without a round to warm up.
const DEAR: f64 = 50e6;
const CHEAP: f64 = 1e6;

/// Measures all rows of some peers whose names contain `pattern`; with the device those of no peer,
/// too.
pub fn measure(unit: Unit, scale: Scale, peers: &[Peer], pattern: &str) -> io::Result<()> {
    let sizes = scale.sizes(unit);
    huge_pages(sizes.iter().copied().max().unwrap_or(1));
    let overhead = clock_overhead();
    let mut found = false;
    for &pages in sizes {
        let wanted = |work: &Work| work.name(pages).contains(pattern);
        let works: Vec<Work> = scale.works(pages).into_iter().filter(wanted).collect();
        let peers = peers.iter().copied().filter(|peer| peer.has(pages));
        let peers: Vec<Peer> = peers.collect();
        // An instruction is one at any time, so each peer has the machine, and the tree of VMAs, to
        // itself. Time drifts, so all take turns.
        let groups = match unit {
            Unit::Instructions => 1,
            Unit::Time => peers.len(),
        };
        for group in peers.chunks(groups) {
            if works.is_empty() {
                continue;
            }
            found = true;
            let names = if groups == 1 {
                group[0].name()
            } else {
                "all peers"
            };
            eprintln!("measure: {pages} pages of {names}: {} rows", works.len());
            let open = |&peer: &Peer| match Memory::open(peer, pages) {
                Ok(memory) => Some((peer, memory)),
                Err(error) => {
                    refused("open", peer, pages, error);
                    None
                }
            };
            let memories: Vec<(Peer, Memory)> = group.iter().filter_map(open).collect();
            settle();
            for &work in &works {
                // A fork copies all mappings that there are.
                let alone = matches!(work, Work::Fork | Work::ChildTouch);
                for memories in memories.chunks(if alone { 1 } else { groups }) {
                    row(unit, scale, work, pages, memories, overhead);
                }
            }
        }
    }
    if matches!(scale, Scale::Full | Scale::Quick) && peers.contains(&Peer::Device) {
        found |= message::measure(unit, pattern)?;
        found |= insmod(unit, scale, pattern, overhead)?;
        if unit == Unit::Time {
            found |= parallel::measure(scale, peers, pattern)?;
        }
        if pattern.is_empty() && unit == Unit::Instructions && Module::DEVICE.at_hand() {
            sizes_of_memory(scale)?;
        }
    }
    if !found {
        eprintln!("measure: no row's name contains '{pattern}'");
        return Err(io::Errno::NOENT);
    }
    Ok(())
}

/// Says that a peer has no such thing.
fn refused(row: &str, peer: Peer, pages: usize, error: io::Errno) {
    tell(&Line::Refusal(Refusal {
        row: row.into(),
        peer: peer.name().into(),
        pages,
        error: error.to_string(),
    }));
}

/// What reading the clock twice takes.
fn clock_overhead() -> f64 {
    let once = |_| {
        let start = thread_time();
        thread_time() - start
    };
    median(&mut (0..101).map(once).collect::<Vec<_>>())
}

fn median(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

/// Says what a row's work cost a peer.
pub fn tell_row(unit: Unit, row: &str, peer: &str, pages: usize, samples: &mut [f64]) {
    let median = median(samples);
    tell(&Line::Row(Row {
        row: row.into(),
        peer: peer.into(),
        pages,
        unit,
        median,
        min: samples[0],
        max: samples[samples.len() - 1],
        runs: samples.len(),
    }));
}

/// One peer's part in a row.
struct Turn<'a> {
    peer: Peer,
    bench: Bench<'a>,
    cheap: bool,
    /// How often the work is done in a round.
    times: usize,
    rounds: usize,
    samples: Vec<f64>,
}

impl Turn<'_> {
    /// What the work costs, done so many times. Once more ahead, where that is little: it pays for
    /// what the peer before has left behind.
    fn cost(&mut self, overhead: f64) -> io::Result<f64> {
        if self.cheap {
            self.bench.once(thread_time)?;
        }
        let start = thread_time();
        let mut inner = 0.0;
        for _ in 0..self.times {
            inner += self.bench.once(thread_time)?;
        }
        Ok(match self.bench.repeats() {
            true => (thread_time() - start - overhead) / self.times as f64,
            false => inner / self.times as f64 - overhead,
        }
        .max(0.0))
    }
}

fn row(
    unit: Unit,
    scale: Scale,
    work: Work,
    pages: usize,
    memories: &[(Peer, Memory)],
    overhead: f64,
) {
    let name = work.name(pages);
    let (budget, least, most) = scale.budget(unit);
    let mut turns = vec![];
    for (peer, memory) in memories.iter().filter(|(peer, _)| work.suits(*peer)) {
        let start = |error| refused(&name, *peer, pages, error);
        let Ok(bench) = Bench::new(work, memory, pages).map_err(start) else {
            continue;
        };
        let mut turn = Turn {
            peer: *peer,
            bench,
            cheap: false,
            times: 1,
            rounds: 1,
            samples: vec![],
        };
        let Ok(first) = turn.cost(overhead).map_err(start) else {
            continue;
        };
        if first > DEAR {
            turn.samples.push(first);
            turn.rounds = 0;
        } else {
            turn.cheap = first < CHEAP;
            if turn.bench.repeats() {
                turn.times = (1e6 / first.max(1.0)).clamp(1.0, 16.0) as usize;
            }
            let rounds = budget / (first.max(1.0) * turn.times as f64);
            turn.rounds = (rounds as usize).clamp(least, most);
            // A round to warm up.
            if turn.cheap && turn.cost(overhead).map_err(start).is_err() {
                continue;
            }
        }
        turns.push(turn);
    }
    for round in 0..most {
        for turn in turns.iter_mut().filter(|turn| round < turn.rounds) {
            match turn.cost(overhead) {
                Ok(cost) => turn.samples.push(cost),
                Err(error) => refused(&name, turn.peer, pages, error),
            }
        }
    }
    for turn in &mut turns {
        if !turn.samples.is_empty() {
            tell_row(unit, &name, turn.peer.name(), pages, &mut turn.samples);
        }
    }
}

/// What it takes to load each of the two modules, in the thread that does it.
fn insmod(unit: Unit, scale: Scale, pattern: &str, overhead: f64) -> io::Result<bool> {
    if !"insmod".contains(pattern) || !Module::DEVICE.at_hand() {
        return Ok(false);
    }
    eprintln!("measure: insmod");
    let sizes: &[usize] = match scale {
        Scale::Full => &[1, 64, 512, 4096, 65536],
        _ => &[1, 512],
    };
    for &pages in sizes {
        let mut samples = [vec![], vec![]];
        for _ in 0..if pages > 4096 { 1 } else { 5 } {
            for ((_, module), samples) in Peer::MODULES.iter().zip(&mut samples) {
                module.unload()?;
                let start = thread_time();
                module.load(pages)?;
                samples.push(thread_time() - start - overhead);
            }
        }
        for ((peer, module), samples) in Peer::MODULES.iter().zip(&mut samples) {
            module.unload()?;
            tell_row(unit, "insmod", peer.name(), pages, samples);
        }
    }
    Ok(true)
}

/// What the modules take of memory, and what a page of each peer's takes.
fn sizes_of_memory(scale: Scale) -> io::Result<()> {
    let size = |what: &str, peer: Peer, bytes: f64| {
        tell(&Line::Size(Size {
            what: what.into(),
            peer: peer.name().into(),
            bytes,
        }));
    };
    for (peer, module) in Peer::MODULES {
        module.unload()?;
        module.load(1)?;
        size("module", peer, core_size(module)?);
        module.unload()?;
    }
    let pages = if scale == Scale::Full { 65536 } else { 4096 };
    for peer in [
        Peer::Device,
        Peer::Twin,
        Peer::Memfd,
        Peer::TmpfsHuge,
        Peer::Udmabuf,
        Peer::Bpf,
    ] {
        if let Some(module) = peer.module() {
            module.unload()?;
        }
        let before = free_memory();
        if let Ok(memory) = Memory::open(peer, pages) {
            let taken = before - free_memory();
            size("memory per page", peer, taken / pages as f64);
            drop(memory);
        }
    }
    Ok(())
}

/// Bytes of a loaded module's code and data.
fn core_size(module: Module) -> io::Result<f64> {
    let name = module.name.to_str().expect("a name");
    let path = format!("/sys/module/{name}/coresize");
    let size = fs::read_to_string(path)
        .map_err(|err| io::Errno::from_io_error(&err).unwrap_or(io::Errno::IO))?;
    Ok(size.trim().parse().expect("a number"))
}

/// Waits until what the kernel does by and by is done: its log is on the console, counts of each CPU
/// are in the sum, what was to be freed is.
pub fn settle() {
    thread::sleep(Duration::from_secs(2));
}

/// Bytes of memory that nobody uses: what is free in each zone, and what CPUs keep at hand of it.
fn free_memory() -> f64 {
    settle();
    let zones = fs::read_to_string("/proc/zoneinfo").expect("zoneinfo");
    let pages = |line: &str| {
        let count = line.trim().strip_prefix("pages free");
        let count = count.or_else(|| line.trim().strip_prefix("count:"))?;
        count.trim().parse::<f64>().ok()
    };
    zones.lines().filter_map(pages).sum::<f64>() * page() as f64
}
