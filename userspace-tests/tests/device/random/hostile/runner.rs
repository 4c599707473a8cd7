// SPDX-License-Identifier: GPL-2.0
//! Runs programs in a process of their own, and finds fault with how they end.

use std::{
    sync::atomic::{AtomicU8, AtomicU32, Ordering::SeqCst},
    time::Duration,
};

use rust_mmapdev::Device;
use rustix::process::{Resource, Rlimit, Signal, kill_process_group, setpgid, setrlimit};

use tools::complaint;

use super::{
    call::Step,
    caller::{Caller, Outcome},
    kcov::Kcov,
    layout::{self, Layout},
};
use crate::support::{
    module::{Log, references},
    process::{all_end_within, ends_within, try_spawn},
    shared::{Shared, Zeroed},
    touch,
};

/// Calls of a program, at most.
pub const CALLS: usize = 24;
/// Programs that one process runs: most of the time goes to making and ending processes.
pub const BATCH: usize = 16;
/// How long a process may take. A second is usual, on the debug kernel.
const LIMIT: Duration = Duration::from_secs(120);

pub type Program = Vec<Step>;

/// Where the process leaves word for its parent.
struct Report {
    /// The program and the call that are being made.
    program: AtomicU32,
    call: AtomicU32,
    /// Of each call its error, or whether there was anything; 0 is for a call that was not made.
    outcomes: [[AtomicU32; CALLS]; BATCH],
    /// How far the recorders were when a program had ended.
    marks: [[AtomicU32; 2]; BATCH],
    complaint: [AtomicU8; 4096],
}

// SAFETY: it has atomics only.
unsafe impl Zeroed for Report {}

impl Report {
    /// Says what is being done.
    fn at(&self, program: usize, call: usize) {
        self.program.store(program as u32, SeqCst);
        self.call.store(call as u32, SeqCst);
    }

    fn note(&self, program: usize, call: usize, outcome: Outcome) {
        let word = match outcome {
            Ok(value) => 1 + u32::from(value > 0),
            Err(errno) => 2 + errno.raw_os_error() as u32,
        };
        self.outcomes[program][call].store(word, SeqCst);
    }

    fn complain(&self, why: &str) {
        for (to, byte) in self.complaint.iter().zip(why.bytes()) {
            to.store(byte, SeqCst);
        }
    }

    fn complaint(&self) -> Option<String> {
        let bytes = self.complaint.iter().map(|byte| byte.load(SeqCst));
        let text: Vec<u8> = bytes.take_while(|&byte| byte != 0).collect();
        (!text.is_empty()).then(|| String::from_utf8_lossy(&text).into_owned())
    }
}

/// What is wrong.
pub struct Finding {
    pub why: String,
    /// The program that was being run, if it is that one's doing.
    pub program: Option<usize>,
    /// The kernel is no more what it was.
    pub fatal: bool,
}

/// What a program has reached.
pub struct Trace {
    /// What each call came to.
    pub outcomes: Vec<u32>,
    /// Where in the module each thread was, one place after the other.
    pub places: [Vec<u64>; 2],
}

pub struct Runner {
    /// For the process's two threads.
    pub recorders: Option<[Kcov; 2]>,
    log: Log,
}

impl Runner {
    pub fn new() -> Self {
        layout::set_up();
        Self {
            recorders: Kcov::new().zip(Kcov::new()).map(<[Kcov; 2]>::from),
            log: Log::from_now(),
        }
    }

    /// Runs some programs, one after the other, in one process.
    pub fn run(
        &self,
        device: &Device,
        layout: Layout,
        programs: &[Program],
    ) -> Result<Vec<Trace>, Finding> {
        let before = references();
        let report = Shared::<Report>::new();
        for recorder in self.recorders.iter().flatten() {
            recorder.clear();
        }
        let child = try_spawn(|| self.child(&report, device, layout, programs)).expect("fork");
        let ended = ends_within(child.pid, LIMIT).expect("pidfd");
        // Fails when nothing of the group is left, which is usual.
        let _ = kill_process_group(child.pid, Signal::KILL);
        let status = child.wait();
        let all_ended = all_end_within(LIMIT);

        let at = |place: &AtomicU32| place.load(SeqCst) as usize;
        let (program, call) = (at(&report.program), at(&report.call));
        let finding = |why, fatal| {
            Err(Finding {
                why,
                program: Some(program),
                fatal,
            })
        };
        if let Err(why) = self.kernel_is_content() {
            return finding(why, true);
        }
        if let Some(why) = report.complaint() {
            let fatal = why.starts_with(KERNEL);
            return finding(format!("call {call}: {why}"), fatal);
        }
        if !ended || !all_ended {
            return finding(format!("call {call} does not end"), false);
        }
        if !status.success() {
            return finding(
                format!("call {call}: the process ended with {status}"),
                false,
            );
        }
        let after = references();
        if after != before {
            return Err(Finding {
                why: format!("references were {before}, and are {after} after the end"),
                program: None,
                fatal: false,
            });
        }
        Ok(self.traces(&report, programs))
    }

    fn kernel_is_content(&self) -> Result<(), String> {
        let complaints: Vec<_> = self
            .log
            .lines()
            .into_iter()
            .filter(|line| complaint::in_line(line).is_some())
            .collect();
        match complaints.is_empty() {
            true => Ok(()),
            false => Err(format!("{KERNEL}: {complaints:#?}")),
        }
    }

    fn traces(&self, report: &Report, programs: &[Program]) -> Vec<Trace> {
        let recorded = self.recorders.iter().flatten().map(Kcov::recorded);
        let recorded: Vec<Vec<u64>> = recorded.collect();
        let part = |program: usize, recorder: usize| {
            let Some(places) = recorded.get(recorder) else {
                return vec![];
            };
            let mark = |i: usize| {
                let mark = report.marks[i][recorder].load(SeqCst) as usize;
                mark.min(places.len())
            };
            let start = if program == 0 { 0 } else { mark(program - 1) };
            places[start..mark(program)].to_vec()
        };
        let trace = |(i, program): (usize, &Program)| Trace {
            outcomes: report.outcomes[i][..program.len()]
                .iter()
                .map(|outcome| outcome.load(SeqCst))
                .collect(),
            places: [part(i, 0), part(i, 1)],
        };
        programs.iter().enumerate().map(trace).collect()
    }

    fn child(&self, report: &Report, device: &Device, layout: Layout, programs: &[Program]) {
        setpgid(None, None).expect("setpgid");
        // No program is to take the memory of the others, besides the addresses that it has.
        let limit = Some(layout::arena_len() as u64 + (224 << 20));
        let most = Rlimit {
            current: limit,
            maximum: limit,
        };
        setrlimit(Resource::As, most).expect("setrlimit");
        for signal in [libc::SIGPIPE, libc::SIGIO] {
            // SAFETY: ignoring a signal runs no code.
            unsafe { libc::signal(signal, libc::SIG_IGN) };
        }
        touch::catch_signals();
        if let Some([recorder, _]) = &self.recorders {
            recorder.record();
        }
        for (i, program) in programs.iter().enumerate() {
            if let Err(why) = self.run_here(report, device, layout, i, program) {
                return report.complain(&why);
            }
        }
    }

    fn run_here(
        &self,
        report: &Report,
        device: &Device,
        layout: Layout,
        number: usize,
        program: &Program,
    ) -> Result<(), String> {
        let other = self.recorders.as_ref().map(|[_, other]| other);
        let mut caller = Caller::new(device, layout, other);
        for (i, &step) in program.iter().enumerate() {
            report.at(number, i);
            let outcome = caller.make(step)?;
            report.note(number, i, outcome);
        }
        caller.finish()?;
        layout::reset();
        for (i, recorder) in self.recorders.iter().flatten().enumerate() {
            report.marks[number][i].store(recorder.count() as u32, SeqCst);
        }
        self.kernel_is_content()
    }

    /// Leaves out what the finding does not need.
    pub fn shrink(
        &self,
        device: &Device,
        layout: Layout,
        program: &Program,
    ) -> Option<(Program, String)> {
        let try_again = |program: &Program| {
            let finding = self
                .run(device, layout, std::slice::from_ref(program))
                .err()?;
            Some(finding.why)
        };
        let mut why = try_again(program)?;
        let mut program = program.clone();
        for i in (0..program.len()).rev() {
            let mut without = program.clone();
            without.remove(i);
            let mut calm = program.clone();
            calm[i].meanwhile = None;
            for simpler in [without, calm] {
                if let Some(again) = try_again(&simpler) {
                    (program, why) = (simpler, again);
                    break;
                }
            }
        }
        Some((program, why))
    }
}

const KERNEL: &str = "the kernel complains";
