// SPDX-License-Identifier: GPL-2.0
//! Hostile callers: programs of random calls with random arguments, changed step by step and kept
//! when they reach code of the module, or outcomes, that none has before. The kernel must not
//! complain, each call must come to something it may come to, and nothing must be left of a program
//! that has ended.
//!
//! Random but for what the scheduler does: the same seed makes the same first programs. Where the
//! kernel has no KCOV, only outcomes count.

mod call;
mod caller;
mod kcov;
mod layout;
mod runner;
mod transfer;

use std::{
    collections::{BTreeSet, HashSet},
    fmt::{self, Display},
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    mem,
    time::{Duration, Instant},
};

use arbitrary::{Arbitrary, Unstructured};
use rand::{Rng, RngCore, SeedableRng, rngs::SmallRng};
use rust_mmapdev::Device;
use rustix::process::{Pid, set_child_subreaper};

use crate::{
    harness::{duration, long, seed, tests},
    support::{module::fresh, sysctl::Sysctl},
};
use call::Step;
use layout::Layout;
use runner::{BATCH, CALLS, Finding, Program, Runner, Trace};

tests![random_programs_do_no_harm];

/// Sizes of the buffer in pages, in turn; the last ones take more than one page table.
const SIZES: &[usize] = &[5, 1, 520, 1544];
/// Batches of programs with a size before the next one's turn.
const ROUND: usize = 16;
/// How long a run of the suite takes, and one with `--long`.
const SHORT: Duration = Duration::from_secs(2);
const LONG: Duration = Duration::from_secs(900);
/// How often a long run says how far it is.
const SAY: Duration = Duration::from_secs(30);

/// What a step is made of, more than any takes.
const STEP_BYTES: usize = 128;
/// A program as it is changed.
type Genome = Vec<[u8; STEP_BYTES]>;

fn decode(genome: &Genome) -> Program {
    let steps = genome
        .iter()
        .map(|bytes| Step::arbitrary(&mut Unstructured::new(bytes)));
    steps.map(|step| step.expect("bytes enough")).collect()
}

fn new_step(random: &mut SmallRng) -> [u8; STEP_BYTES] {
    let mut bytes = [0; STEP_BYTES];
    random.fill_bytes(&mut bytes);
    bytes
}

/// A program that is new, or made of ones that reached something.
fn next(corpus: &[Genome], random: &mut SmallRng) -> Genome {
    if corpus.is_empty() || random.random_ratio(1, 10) {
        let count = random.random_range(1..=CALLS / 2);
        return (0..count).map(|_| new_step(random)).collect();
    }
    let pick = |random: &mut SmallRng| corpus[random.random_range(0..corpus.len())].clone();
    let mut genome = pick(random);
    for _ in 0..random.random_range(1..=4) {
        let at = random.random_range(0..genome.len());
        match random.random_range(0..8) {
            0 if genome.len() > 1 => {
                genome.remove(at);
            }
            1 | 2 => genome.insert(at, new_step(random)),
            3 => genome.insert(at, genome[at]),
            4 => {
                let other = pick(random);
                let from = random.random_range(0..other.len());
                genome.splice(at.., other[from..].iter().copied());
            }
            _ => {
                // The first bytes decide most.
                let most = random.random_range(1..=STEP_BYTES);
                genome[at][random.random_range(0..most)] = random.random();
            }
        }
    }
    genome.truncate(CALLS);
    genome
}

/// Code and outcomes that were reached.
#[derive(Default)]
struct Reached {
    /// Offsets in the module's code.
    places: BTreeSet<u64>,
    /// Hashes of one place after the other, and of what a call came to.
    signals: HashSet<u64>,
}

impl Reached {
    /// Whether any of it is new. `origin` is where the module's code begins.
    fn add(&mut self, program: &Program, trace: &Trace, origin: u64) -> bool {
        let known = self.signals.len();
        for (step, outcome) in program.iter().zip(&trace.outcomes) {
            self.signals
                .insert(hash(&(mem::discriminant(&step.call), outcome)));
        }
        for thread in &trace.places {
            let mut last = 0;
            for place in thread.iter().map(|place| place.wrapping_sub(origin)) {
                if self.signals.insert(hash(&(last, place))) {
                    self.places.insert(place);
                }
                last = place;
            }
        }
        self.signals.len() > known
    }
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// A run with all it has found out.
struct Fuzzer {
    runner: Runner,
    random: SmallRng,
    corpus: Vec<Genome>,
    reached: Reached,
    programs: usize,
    start: Instant,
}

impl Fuzzer {
    fn new() -> Self {
        set_child_subreaper(Pid::from_raw(1)).expect("PR_SET_CHILD_SUBREAPER");
        // An oops ends one process, so that this one can tell what led to it.
        fs::write("/proc/sys/kernel/panic_on_oops", "0").expect("panic_on_oops");
        Self {
            runner: Runner::new(),
            random: SmallRng::seed_from_u64(seed()),
            corpus: vec![],
            reached: Reached::default(),
            programs: 0,
            start: Instant::now(),
        }
    }

    fn run(&mut self, duration: Duration) {
        let mut sizes = SIZES.iter().cycle();
        let mut said = Duration::ZERO;
        while self.start.elapsed() < duration {
            let pages = *sizes.next().expect("they come again");
            let device = fresh(pages as u64);
            let origin = self.runner.recorders.as_ref().map_or(0, |_| kcov::origin());
            for _ in 0..ROUND {
                self.run_batch(&device, Layout { pages }, origin);
                let elapsed = self.start.elapsed();
                if elapsed >= duration {
                    break;
                }
                if elapsed >= said + SAY {
                    said = elapsed;
                    println!("{self}");
                }
            }
        }
    }

    /// Runs the next programs, and keeps those that have reached something.
    fn run_batch(&mut self, device: &Device, layout: Layout, origin: u64) {
        let genomes = [(); BATCH].map(|()| next(&self.corpus, &mut self.random));
        let programs = genomes.each_ref().map(decode);
        match self.runner.run(device, layout, &programs) {
            Err(finding) => self.give_up(device, layout, &programs, finding),
            Ok(traces) => {
                for ((genome, program), trace) in genomes.into_iter().zip(&programs).zip(&traces) {
                    if self.reached.add(program, trace, origin) {
                        self.corpus.push(genome);
                    }
                }
            }
        }
        self.programs += BATCH;
    }

    /// Fails with as little as shows what is wrong.
    fn give_up(
        &self,
        device: &Device,
        layout: Layout,
        programs: &[Program],
        finding: Finding,
    ) -> ! {
        println!("after {} programs: {}", self.programs, finding.why);
        let suspects = match finding.program {
            Some(i) => i..i + 1,
            None => 0..programs.len(),
        };
        let mut why = finding.why;
        let mut what = programs[..suspects.end].concat();
        if finding.fatal {
            what = programs[suspects].concat();
        } else {
            println!("looking for the calls that matter ...");
            let shrink = |program| self.runner.shrink(device, layout, program);
            if let Some((program, again)) = programs[suspects].iter().find_map(shrink) {
                (what, why) = (program, again);
            }
        }
        let steps: Vec<_> = what.iter().map(|step| format!("    {step:?},")).collect();
        let steps = steps.join("\n");
        panic!("{why}\n--seed {}, with {layout:?}:\n{steps}\n", seed())
    }
}

impl Display for Fuzzer {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let seconds = self.start.elapsed().as_secs_f64();
        write!(
            f,
            "{seconds:.0} s: {} programs, {:.1} a second, {} places of the module, {} in the corpus",
            self.programs,
            self.programs as f64 / seconds,
            self.reached.places.len(),
            self.corpus.len()
        )
    }
}

fn random_programs_do_no_harm() {
    let _restored = Sysctl::restored();
    let mut fuzzer = Fuzzer::new();
    fuzzer.run(duration().unwrap_or(if long() { LONG } else { SHORT }));
    println!("{fuzzer}, --seed {}", seed());
    let places = fuzzer.reached.places.iter();
    let places: Vec<_> = places.map(|place| format!("{place:#018x}")).collect();
    if fuzzer.runner.recorders.is_some() {
        // For scripts/fuzz.
        println!("reached: {}", places.join(" "));
        assert!(places.len() > 20, "the module must be built for KCOV");
    }
}
