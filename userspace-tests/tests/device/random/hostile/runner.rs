// SPDX-License-Identifier: GPL-2.0
//! Runs programs in a process of their own, and finds fault with how they end.

use std::{
    os::fd::AsFd,
    sync::atomic::{AtomicU32, Ordering::SeqCst},
};

use rust_mmapdev::Device;
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::Timespec,
    process::{
        PidfdFlags, Resource, Rlimit, Signal, WaitOptions, kill_process_group, pidfd_open, setpgid,
        setrlimit, wait, waitpid,
    },
};

use tools::complaint;

use super::{
    call::Step,
    caller::{Caller, Outcome},
    kcov::Kcov,
    layout::{self, Layout},
};
use crate::support::{
    memory::{self, Map, RW, SHARED},
    module::{Log, references},
    process::{end, try_fork},
    touch,
};

/// Calls of a program, at most.
pub const CALLS: usize = 24;
/// Programs that one process runs: most of the time goes to making and ending processes.
pub const BATCH: usize = 16;
/// How long a process may take. A second is usual, on the debug kernel.
const LIMIT: Timespec = Timespec {
    tv_sec: 120,
    tv_nsec: 0,
};

pub type Program = Vec<Step>;

/// Where the process leaves word, in memory that its parent shares.
struct Report(Map);

impl Report {
    // Numbers that say where the process is, and one for each call.
    const PROGRAM: usize = 0;
    const CALL: usize = 1;
    const COMPLAINT_LEN: usize = 2;
    const OUTCOMES: usize = 3;
    /// How far the recorders were when a program had ended.
    const MARKS: usize = Self::OUTCOMES + BATCH * CALLS;
    const COMPLAINT: usize = (Self::MARKS + 2 * BATCH) * 4;

    fn new() -> Self {
        Self(memory::anonymous(2, RW, SHARED))
    }

    fn word(&self, index: usize) -> &AtomicU32 {
        self.0.u32(index * 4)
    }

    fn clear(&self) {
        for i in 0..Self::COMPLAINT / 4 {
            self.word(i).store(0, SeqCst);
        }
    }

    /// Says what is being done.
    fn at(&self, program: usize, call: usize) {
        self.word(Self::PROGRAM).store(program as u32, SeqCst);
        self.word(Self::CALL).store(call as u32, SeqCst);
    }

    fn place(&self) -> (usize, usize) {
        let word = |index| self.word(index).load(SeqCst) as usize;
        (word(Self::PROGRAM), word(Self::CALL))
    }

    /// A call's error, or whether there was anything; 0 is for a call that was not made.
    fn outcome(&self, program: usize, call: usize) -> &AtomicU32 {
        self.word(Self::OUTCOMES + program * CALLS + call)
    }

    fn note(&self, program: usize, call: usize, outcome: Outcome) {
        let word = match outcome {
            Ok(value) => 1 + u32::from(value > 0),
            Err(errno) => 2 + errno.raw_os_error() as u32,
        };
        self.outcome(program, call).store(word, SeqCst);
    }

    fn mark(&self, program: usize, recorder: usize) -> &AtomicU32 {
        self.word(Self::MARKS + program * 2 + recorder)
    }

    fn complain(&self, why: &str) {
        let room = self.0.len() - Self::COMPLAINT;
        let bytes = &why.as_bytes()[..why.len().min(room)];
        self.0.write(Self::COMPLAINT, bytes);
        self.word(Self::COMPLAINT_LEN)
            .store(bytes.len() as u32, SeqCst);
    }

    fn complaint(&self) -> Option<String> {
        let len = self.word(Self::COMPLAINT_LEN).load(SeqCst) as usize;
        let text = self.0.read(Self::COMPLAINT, len);
        (len > 0).then(|| String::from_utf8_lossy(&text).into_owned())
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
    report: Report,
    log: Log,
}

impl Runner {
    pub fn new() -> Self {
        layout::set_up();
        Self {
            recorders: Kcov::new().zip(Kcov::new()).map(<[Kcov; 2]>::from),
            report: Report::new(),
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
        self.report.clear();
        for recorder in self.recorders.iter().flatten() {
            recorder.clear();
        }
        let Some(pid) = try_fork().expect("fork") else {
            self.child(device, layout, programs)
        };
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).expect("pidfd_open");
        let mut fds = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
        let ended = poll(&mut fds, Some(&LIMIT)).expect("poll") > 0;
        // Fails when nothing of the group is left, which is usual.
        let _ = kill_process_group(pid, Signal::KILL);
        let (_, status) = waitpid(Some(pid), WaitOptions::empty())
            .expect("waitpid")
            .expect("an end");
        while wait(WaitOptions::empty()).is_ok() {}

        let (program, call) = self.report.place();
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
        if let Some(why) = self.report.complaint() {
            let fatal = why.starts_with(KERNEL);
            return finding(format!("call {call}: {why}"), fatal);
        }
        if !ended {
            return finding(format!("call {call} does not end"), false);
        }
        if status.exit_status() != Some(0) {
            return finding(
                format!("call {call}: the process ends with {status:?}"),
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
        Ok(self.traces(programs))
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

    fn traces(&self, programs: &[Program]) -> Vec<Trace> {
        let recorded = self.recorders.iter().flatten().map(Kcov::recorded);
        let recorded: Vec<Vec<u64>> = recorded.collect();
        let part = |program: usize, recorder: usize| {
            let Some(places) = recorded.get(recorder) else {
                return vec![];
            };
            let mark = |i: usize| {
                let mark = self.report.mark(i, recorder).load(SeqCst) as usize;
                mark.min(places.len())
            };
            let start = if program == 0 { 0 } else { mark(program - 1) };
            places[start..mark(program)].to_vec()
        };
        let trace = |(i, program): (usize, &Program)| Trace {
            outcomes: (0..program.len())
                .map(|call| self.report.outcome(i, call).load(SeqCst))
                .collect(),
            places: [part(i, 0), part(i, 1)],
        };
        programs.iter().enumerate().map(trace).collect()
    }

    fn child(&self, device: &Device, layout: Layout, programs: &[Program]) -> ! {
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
            if let Err(why) = self.run_here(device, layout, i, program) {
                self.report.complain(&why);
                break;
            }
        }
        end(0)
    }

    fn run_here(
        &self,
        device: &Device,
        layout: Layout,
        number: usize,
        program: &Program,
    ) -> Result<(), String> {
        let other = self.recorders.as_ref().map(|[_, other]| other);
        let mut caller = Caller::new(device, layout, other);
        for (i, &step) in program.iter().enumerate() {
            self.report.at(number, i);
            let outcome = caller.make(step)?;
            self.report.note(number, i, outcome);
        }
        caller.finish()?;
        layout::reset();
        for (i, recorder) in self.recorders.iter().flatten().enumerate() {
            self.report
                .mark(number, i)
                .store(recorder.count() as u32, SeqCst);
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
