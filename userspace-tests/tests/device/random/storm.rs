// SPDX-License-Identifier: GPL-2.0
//! Storms: processes of several threads each that do everything at once, short of memory, killed
//! by each other and by the kernel, while CPUs come and go and somebody tries insmod and rmmod.
//! The buffer holds what it is to hold all the while, and nothing is left when a storm is over.
//!
//! The seed decides what each worker does, one operation after the other; when, the scheduler does.

mod oracle;
pub mod pressure;
mod worker;

use std::{
    any::Any,
    fs,
    mem::replace,
    ops::Range,
    os::unix::process::ExitStatusExt,
    process::ExitStatus,
    sync::atomic::Ordering::SeqCst,
    thread,
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use rustix::{
    fs::OFlags,
    io::Errno,
    process::{Signal, getpid, getppid, kill_process, nice, set_child_subreaper},
};

use crate::{
    harness::{duration, seed, tests},
    support::{
        assert_same,
        cgroup::Cgroup,
        errno,
        memory::{SOFT_OFFLINE, page, private, shared},
        module::{self, initial, references},
        open, pread,
        proc::{available, meminfo, nobodys_pages, vmstat},
        process::{Child, any_end, end, try_spawn},
        pwrite,
        sysctl::Sysctl,
        touch::catch_signals,
    },
};
use oracle::{CELL, Oracle, PROCESSES, THREADS, mixed};
use pressure::{Spared, Swap, replug_cpu, set_oom_score_adj, want_all_memory};
use worker::{KINDS, Worker, end_with_panics};

tests![one_page, many_pages, huge];

/// How long each of the tests goes on by default.
const SHORT: Duration = Duration::from_secs(4);
/// A longer one is one storm of this length after the other, each with a module of its own.
const PHASE: Duration = Duration::from_secs(60);
/// How often a longer one says where it is.
const REPORT: Duration = Duration::from_secs(30);
/// How often the storm is looked after.
const TURN: Duration = Duration::from_millis(10);
/// How often somebody tries insmod and rmmod.
const PROVOCATION: Duration = Duration::from_secs(1);
/// How long there are all CPUs before one goes and comes again, which takes a moment.
const REPLUG: Duration = Duration::from_secs(3);
/// How often a sysctl is changed, and how often a page is taken out of service instead, which the VM
/// then lacks.
const SYSCTL: Duration = Duration::from_millis(250);
const OFFLINE: u32 = 32;
/// How long after the end of a process that wants all memory there is the next one.
const PRESSURE: Duration = Duration::from_secs(5);
/// How much nicer this process is than those of the storm, which are many.
const AHEAD: i32 = -10;
/// After how long it says which workers have not come to an end. The test's time limit ends them.
const END: Duration = Duration::from_secs(10);

fn one_page() {
    storm(1, 3500 << 10);
}

fn many_pages() {
    storm(1000, 4500 << 10);
}

fn huge() {
    storm(2048, 24 << 20);
}

/// Storms over a buffer of `pages` pages, with workers that have `memory` bytes among them.
fn storm(pages: usize, memory: usize) {
    let length = duration().map_or(SHORT, |all| all / TESTS.len() as u32);
    module::unload_if_loaded();
    set_child_subreaper(Some(getpid())).expect("PR_SET_CHILD_SUBREAPER");
    nice(AHEAD).expect("nice");
    let harness = getppid().expect("it started this process");
    let _spared = [getpid(), harness].map(Spared::new);
    let _restored = Sysctl::restored();
    catch_signals();
    let oracle: &Oracle = Box::leak(Box::new(Oracle::new(pages, seed())));
    let before = Memory::now();
    let mut storm = Storm::new(oracle, memory);
    let swap = Swap::on(2 * memory);
    if swap.is_none() {
        println!("without swap: this kernel has no zram built in");
    }
    while storm.start.elapsed() < length {
        let rest = length - storm.start.elapsed();
        storm.run(rest.min(PHASE));
    }
    drop(swap);
    println!("{}", storm.describe());
    drop(storm);
    before.assert_given_back();
}

struct Storm {
    oracle: &'static Oracle,
    cgroup: Cgroup,
    /// For what changes sysctls.
    rng: SmallRng,
    start: Instant,
    reported: Instant,
    /// Storms so far, with the present one.
    number: u64,
    processes: [Option<Child<()>>; PROCESSES],
    /// The process that wants all memory; otherwise when the last one ended.
    pressure: Result<Child<()>, Instant>,
    /// Processes that were killed, loads and unloads that were refused, CPUs that went and came.
    killed: u64,
    refused: u64,
    replugged: u64,
    /// Processes that the OOM killer has ended before, whatever it was out of.
    oom_kills: i64,
}

impl Storm {
    fn new(oracle: &'static Oracle, memory: usize) -> Self {
        let cgroup = Cgroup::new("storm");
        cgroup.set("memory.max", &memory.to_string());
        let now = Instant::now();
        Self {
            oracle,
            cgroup,
            rng: SmallRng::seed_from_u64(mixed([seed(), oracle.pages as u64, 0, 0])),
            start: now,
            reported: now,
            number: 0,
            processes: [const { None }; PROCESSES],
            pressure: Err(now),
            killed: 0,
            refused: 0,
            replugged: 0,
            oom_kills: vmstat("oom_kill"),
        }
    }

    /// One storm, from insmod to rmmod.
    fn run(&mut self, length: Duration) {
        let oracle = self.oracle;
        self.number += 1;
        module::load(&format!("buffer_pages={}", oracle.pages)).expect("insmod");
        assert_same(
            &pread(0, oracle.size()),
            &initial(oracle.size()),
            "a new buffer",
        );
        oracle.fill(|word| {
            let words: Vec<u8> = (0..oracle.cells())
                .flat_map(|cell| word(cell).to_ne_bytes())
                .collect();
            pwrite(0, &words);
        });
        // What holds the module, besides the workers: another thing each time.
        let anchor: Box<dyn Any> = match self.number % 3 {
            0 => Box::new(open(OFlags::RDWR)),
            1 => Box::new(shared(open(OFlags::RDWR), 1)),
            _ => Box::new(private(open(OFlags::RDWR), 1)),
        };

        let start = Instant::now();
        let (mut provoked, mut replugged, mut changed) = (start, start, start);
        oracle.common().stop.store(0, SeqCst);
        while start.elapsed() < length {
            for process in 0..PROCESSES {
                if self.processes[process].is_none() {
                    self.start(process);
                }
            }
            if provoked.elapsed() >= PROVOCATION {
                self.provoke();
                provoked = Instant::now();
            }
            if replugged.elapsed() >= REPLUG {
                self.replugged += u64::from(replug_cpu());
                replugged = Instant::now();
            }
            if changed.elapsed() >= SYSCTL {
                self.change_sysctl();
                changed = Instant::now();
            }
            self.start_memory_pressure();
            self.report();
            self.reap();
            thread::sleep(TURN);
        }
        self.end();
        self.check_buffer();
        drop(anchor);
        assert_eq!(references(), 0, "references when all processes have ended");
        module::unload().expect("rmmod when all processes have ended");
    }

    /// Starts a process, with the next generation of workers in its slots.
    fn start(&mut self, process: usize) {
        let workers: Vec<_> = slots(process)
            .map(|slot| {
                let generation = self.oracle.slot(slot).next_generation();
                (slot, mixed([seed(), self.number, slot as u64, generation]))
            })
            .collect();
        let oracle = self.oracle;
        let child = self.fork(|| {
            let common = &shared(open(OFlags::RDWR), oracle.pages);
            self.cgroup.enter();
            thread::scope(|scope| {
                for (slot, seed) in workers {
                    let worker = move || Worker::new(oracle, common, slot, seed).run();
                    // Short of memory, like any other call: then it's the next generation's turn.
                    if thread::Builder::new().spawn_scoped(scope, worker).is_err() {
                        end(0);
                    }
                }
            });
        });
        let pid = child.pid.as_raw_nonzero().get();
        self.processes[process] = Some(child);
        self.oracle.common().pids[process].store(pid, SeqCst);
    }

    /// insmod and rmmod must be refused.
    fn provoke(&mut self) {
        for _ in 0..10 {
            assert_eq!(errno(module::unload()), Errno::AGAIN, "rmmod");
        }
        let error = errno(module::load(""));
        assert!(
            matches!(error, Errno::EXIST | Errno::NOMEM),
            "insmod: {error}"
        );
        self.refused += 11;
    }

    /// Whatever comes of it.
    fn change_sysctl(&mut self) {
        if self.rng.random_ratio(1, OFFLINE) {
            let map = shared(open(OFlags::RDWR), self.oracle.pages);
            let index = self.rng.random_range(0..self.oracle.pages);
            let _ = map.advise_by_number(index * page(), page(), SOFT_OFFLINE);
        } else {
            Sysctl::ALL.choose(&mut self.rng).expect("some").set();
        }
    }

    /// Takes all memory of the VM now and then, in a long run: it takes a while.
    fn start_memory_pressure(&mut self) {
        let is_due = |ended: &Instant| ended.elapsed() >= PRESSURE;
        if duration().is_some() && self.pressure.as_ref().is_err_and(is_due) {
            self.pressure = Ok(self.fork(|| want_all_memory()));
        }
    }

    /// Takes note of the processes that have ended. Whether any are left.
    fn reap(&mut self) -> bool {
        loop {
            let (pid, status) = match any_end() {
                Ok(Some(ended)) => ended,
                Ok(None) => return true,
                Err(err) => {
                    assert_eq!(err, Errno::CHILD, "wait");
                    return false;
                }
            };
            let by_kill = status.signal() == Some(libc::SIGKILL);
            self.killed += u64::from(by_kill);
            let is_it = |child: &Child<()>| child.pid == pid;
            if self.pressure.as_ref().is_ok_and(is_it) {
                let ended = replace(&mut self.pressure, Err(Instant::now()));
                ended.expect("it is that one").reaped();
            }
            // Otherwise it may be the guest of a worker that was killed.
            let mut processes = self.processes.iter();
            let process = processes.position(|child| child.as_ref().is_some_and(is_it));
            if !by_kill && !status.success() {
                self.fail(process, status);
            }
            if let Some(process) = process {
                let ended = self.processes[process].take();
                ended.expect("it is that one").reaped();
                self.oracle.common().pids[process].store(0, SeqCst);
                for slot in slots(process) {
                    self.oracle.is_gone(slot);
                }
            }
        }
    }

    fn fail(&self, process: Option<usize>, status: ExitStatus) -> ! {
        let who = process.map_or("a worker's guest".into(), |process| self.who(process));
        // Why it has failed, if it has, it says above.
        panic!("{who} ended with {status}\n{}", self.describe());
    }

    fn who(&self, process: usize) -> String {
        let worker = |slot| format!("worker {slot} at {}", self.oracle.slot(slot).describe());
        let workers: Vec<_> = slots(process).map(worker).collect();
        format!("the process of {}", workers.join(", "))
    }

    /// Half of the processes come to an end of their own, the others are killed.
    fn end(&mut self) {
        let start = Instant::now();
        self.oracle.common().stop.store(1, SeqCst);
        let half = self.processes.iter().step_by(2).flatten();
        for child in half.chain(&self.pressure) {
            let _ = kill_process(child.pid, Signal::KILL);
        }
        let mut is_late = false;
        while self.reap() {
            if !is_late && start.elapsed() > END {
                is_late = true;
                for process in (0..PROCESSES).filter(|&process| self.processes[process].is_some()) {
                    println!(
                        "after {} s there still is {}",
                        END.as_secs(),
                        self.who(process)
                    );
                }
            }
            thread::sleep(TURN);
        }
    }

    /// The buffer, when nobody stores to it any more, as calls and mappings show it.
    fn check_buffer(&self) {
        let oracle = self.oracle;
        let device = open(OFlags::RDWR);
        let ways = [
            ("pread at the end", pread(0, oracle.size())),
            (
                "shared mapping at the end",
                shared(&device, oracle.pages).bytes(),
            ),
            (
                "private mapping at the end",
                private(&device, oracle.pages).bytes(),
            ),
        ];
        for (way, bytes) in ways {
            let words = bytes
                .chunks_exact(CELL)
                .map(|word| u64::from_ne_bytes(word.try_into().expect("a word")));
            oracle.check(&oracle.before(), 0, &words.collect::<Vec<_>>(), way);
        }
    }

    /// Says where a long run is.
    fn report(&mut self) {
        if duration().is_some() && self.reported.elapsed() >= REPORT {
            eprintln!("\n{}", self.brief());
            self.reported = Instant::now();
        }
    }

    /// One line.
    fn brief(&self) -> String {
        let operations: u64 = self
            .oracle
            .common()
            .operations
            .iter()
            .map(|n| n.load(SeqCst))
            .sum();
        format!(
            "{} page(s), --seed {}: storm {}, {} s, {operations} operations, {} processes killed",
            self.oracle.pages,
            seed(),
            self.number,
            self.start.elapsed().as_secs(),
            self.killed,
        )
    }

    fn describe(&self) -> String {
        let common = self.oracle.common();
        let made = common.operations.iter().zip(KINDS);
        let made: Vec<_> = made
            .map(|(n, (kind, _))| format!("{} {kind:?}", n.load(SeqCst)))
            .collect();
        let in_cgroup = self.cgroup.oom_kills();
        format!(
            "{}, {in_cgroup} of them when the cgroup was out of memory, {} when the VM was
    {}
    {} calls failed for want of memory; {} insmods and rmmods refused; a CPU went and came {} times
    {} cells compared, {} not, as somebody was storing to them",
            self.brief(),
            vmstat("oom_kill") - self.oom_kills - in_cgroup as i64,
            made.join(", "),
            common.refused.load(SeqCst),
            self.refused,
            self.replugged,
            common.compared.load(SeqCst),
            common.moving.load(SeqCst),
        )
    }

    /// A process of the storm's.
    fn fork(&self, body: impl FnOnce()) -> Child<()> {
        let child = try_spawn(|| {
            end_with_panics(self.oracle);
            nice(-AHEAD).expect("nice");
            set_oom_score_adj(0);
            body();
        });
        child.expect("fork")
    }
}

/// The workers of a process.
fn slots(process: usize) -> Range<usize> {
    process * THREADS..(process + 1) * THREADS
}

/// What a storm must not take for good, in bytes.
#[derive(Debug)]
struct Memory {
    nobodys: i64,
    /// The buffer and page tables, each by its name in /proc/meminfo.
    of_kinds: [i64; 3],
    available: i64,
}

impl Memory {
    fn now() -> Self {
        Self {
            nobodys: nobodys_pages() * page() as i64,
            of_kinds: ["Cached", "FileHugePages", "PageTables"].map(meminfo),
            available: available(),
        }
    }

    /// Caches, lists of free pages and the like make for a difference.
    fn is_given_back(&self, now: &Self) -> bool {
        let slack = |pages| pages * page() as i64;
        let mut taken = now.of_kinds.iter().zip(self.of_kinds);
        now.nobodys - self.nobodys < slack(16)
            // Page tables of processes that have nothing to do with it come and go.
            && taken.all(|(now, before)| now - before < slack(64))
            && self.available - now.available < meminfo("MemTotal") / 16
    }

    fn assert_given_back(&self) {
        let mut now = Self::now();
        if !self.is_given_back(&now) {
            // What is unmapped of a huge page in use stays until somebody wants memory, or this.
            let _ = fs::write("/sys/kernel/debug/split_huge_pages", "1");
            now = Self::now();
        }
        assert!(
            self.is_given_back(&now),
            "the storms have taken memory for good: {self:?} before, {now:?} after"
        );
    }
}
