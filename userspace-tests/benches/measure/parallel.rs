// SPDX-License-Identifier: GPL-2.0
//! Rows with several CPUs at once. Only time can be told of them.

use std::{
    mem::ManuallyDrop,
    path::Path,
    sync::{
        Barrier,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    thread,
};

use benches::Unit;
use rustix::io;

use crate::{
    memory::{RW, SHARED, anonymous, page, write_pages},
    peer::{Memory, Peer},
    pin,
    rows::{Scale, tell_row},
    wall_time,
    work::{Sharing, in_child_while, map_write},
};

/// Measurements of each, and nanoseconds that one of them takes, or the work done once.
const RUNS: usize = 9;
const LENGTH: f64 = 3e6;
const THREADS: usize = 4;

/// Measures the rows whose names contain `pattern`.
pub fn measure(scale: Scale, peers: &[Peer], pattern: &str) -> io::Result<bool> {
    let sizes: &[usize] = match scale {
        Scale::Full => &[1, 64, 512, 4096],
        _ => &[1, 512],
    };
    let rows: [(&str, Row); 4] = [
        ("map-write-2-processes", |memory, pages| {
            processes(memory, pages, Sharing::Shared)
        }),
        ("private-write-2-processes", |memory, pages| {
            processes(memory, pages, Sharing::Private)
        }),
        ("map-write-2-threads", threads),
        ("first-touch-4-threads", touch),
    ];
    if !Path::new("/sys/devices/system/cpu/cpu1").exists() {
        eprintln!("measure: one CPU only, so no rows with two");
        return Ok(false);
    }
    let mut found = false;
    for (name, row) in rows.into_iter().filter(|(name, _)| name.contains(pattern)) {
        found = true;
        eprintln!("measure: {name}");
        for &pages in sizes {
            for &peer in peers.iter().filter(|peer| peer.has(pages)) {
                let Ok(memory) = Memory::open(peer, pages) else {
                    continue;
                };
                // Who refuses it is told of in the rows for one CPU.
                let Ok(mut samples) = row(&memory, pages) else {
                    continue;
                };
                tell_row(Unit::Time, name, peer.name(), pages, &mut samples);
            }
        }
    }
    pin(0);
    Ok(found)
}

type Row = fn(&Memory, usize) -> io::Result<Vec<f64>>;

/// Both sides do it at the same time, each on its CPU: what one takes on ours.
fn processes(memory: &Memory, pages: usize, sharing: Sharing) -> io::Result<Vec<f64>> {
    map_write(memory, pages, sharing)?;
    let map = anonymous(1, RW, SHARED);
    write_pages(&map);
    let word = map.u32(0);
    word.store(0, SeqCst);
    let mut samples = vec![];
    let meanwhile = || {
        pin(1);
        word.store(1, SeqCst);
        while word.load(SeqCst) != 2 {
            let _ = map_write(memory, pages, sharing);
        }
    };
    in_child_while(meanwhile, || {
        pin(0);
        while word.load(SeqCst) != 1 {
            thread::yield_now();
        }
        samples = time(|| map_write(memory, pages, sharing));
        word.store(2, SeqCst);
    });
    Ok(samples)
}

/// The same with two threads of a process: what one unmaps is flushed from the other's CPU too.
fn threads(memory: &Memory, pages: usize) -> io::Result<Vec<f64>> {
    map_write(memory, pages, Sharing::Shared)?;
    let done = AtomicU32::new(0);
    Ok(thread::scope(|scope| {
        scope.spawn(|| {
            pin(1);
            while done.load(SeqCst) == 0 {
                let _ = map_write(memory, pages, Sharing::Shared);
            }
        });
        pin(0);
        let samples = time(|| map_write(memory, pages, Sharing::Shared));
        done.store(1, SeqCst);
        samples
    }))
}

/// What the work takes, again and again.
fn time(work: impl Fn() -> io::Result<()>) -> Vec<f64> {
    let some = |times: usize| {
        let start = wall_time();
        for _ in 0..times {
            work().expect("worked a moment ago");
        }
        (wall_time() - start) / times as f64
    };
    let times = (LENGTH / some(1)).clamp(1.0, 100.0) as usize;
    (0..RUNS).map(|_| some(times)).collect()
}

/// Four threads, two on each CPU, write to each page of their quarter of a new mapping: what it takes
/// until all are done.
fn touch(memory: &Memory, pages: usize) -> io::Result<Vec<f64>> {
    let mut samples = vec![];
    for _ in 0..RUNS {
        let map = memory.map(None, 0, pages, SHARED)?;
        let barrier = Barrier::new(THREADS + 1);
        let start = thread::scope(|scope| {
            for i in 0..THREADS {
                let (map, barrier) = (&map, &barrier);
                scope.spawn(move || {
                    pin(i % 2);
                    let (first, end) = (i * pages / THREADS, (i + 1) * pages / THREADS);
                    let part = map.part(first * page(), (end - first) * page());
                    let part = ManuallyDrop::new(part);
                    barrier.wait();
                    write_pages(&part);
                });
            }
            barrier.wait();
            wall_time()
        });
        samples.push(wall_time() - start);
    }
    Ok(samples)
}
