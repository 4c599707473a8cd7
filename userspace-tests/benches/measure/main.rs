// SPDX-License-Identifier: GPL-2.0
//! Measures what the device's mappings cost, beside the kernel's own memory that can be mapped, and
//! a twin of the module in C.
//!
//! Runs in the VM: `scripts/bench` starts it, and gives `report` what it prints, a JSON object a
//! line. Progress goes to stderr.
//!
//! The thread's own CPU time is taken, so that nothing else in the guest counts, and the clock's own
//! cost is taken off. How often the work is done depends on what it costs, as the whole must not take
//! long.

mod memory;
mod message;
mod parallel;
mod peer;
mod profile;
mod rows;
mod steps;
mod work;

use std::{fs, io::Write, process::ExitCode};

use benches::{Line, Machine, Unit};
use clap::{Parser, ValueEnum};
use rustix::{
    io::Errno,
    system::uname,
    thread::{CpuSet, sched_setaffinity},
    time::{ClockId, clock_gettime},
};

use peer::Peer;
use rows::Scale;

/// Measures the device's mappings and others, and prints JSON, an object a line.
#[derive(Parser)]
struct Options {
    what: What,
    /// How many sizes and rounds.
    #[arg(long, value_enum, default_value = "full")]
    scale: Scale,
    /// Only these peers.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Peer::value_variants().to_vec())]
    peers: Vec<Peer>,
    /// Not these peers.
    #[arg(long, value_enum, value_delimiter = ',')]
    without: Vec<Peer>,
    /// Only rows whose names contain it.
    #[arg(long, default_value = "")]
    row: String,
    /// The device's module, where it is another one than the VM's.
    #[arg(long)]
    module: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// Rows, where a nanosecond of the guest is an instruction (vm-run --icount)
    Instructions,
    /// Rows, where a nanosecond is one of time
    Time,
    /// Work between marks that the emulator's plugin sees
    Profile,
    /// The page tables of two processes, step by step
    Steps,
}

fn main() -> ExitCode {
    let mut options = Options::parse();
    options.peers.retain(|peer| !options.without.contains(peer));
    let unit = match options.what {
        What::Time => Unit::Time,
        _ => Unit::Instructions,
    };
    if let Some(module) = options.module {
        peer::MODULE.set(module).expect("set once");
    }
    let machine = machine(unit);
    let (kernel, cpu, cpus) = (&machine.kernel, &machine.cpu, machine.cpus);
    eprintln!("measure: Linux {kernel} on {cpu}, CPUs: {cpus}");
    tell(&Line::Machine(machine));
    // Large buffers are unmapped when they are freed: a fork copies all that there is.
    // SAFETY: sets a number; there is no other thread.
    unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, 64 << 10) };
    pin(0);
    let done = match options.what {
        What::Instructions | What::Time => {
            rows::measure(unit, options.scale, &options.peers, &options.row)
        }
        What::Profile => profile::run(),
        What::Steps => steps::run().map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("measure: {err}");
            ExitCode::FAILURE
        }
    }
}

/// Prints a line of what was measured.
pub fn tell(line: &Line) {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, line).expect("stdout");
    out.write_all(b"\n").expect("stdout");
}

/// This thread, and what it starts, stays on one CPU.
pub fn pin(cpu: usize) {
    let mut cpus = CpuSet::new();
    cpus.set(cpu);
    sched_setaffinity(None, &cpus).expect("sched_setaffinity");
}

/// Nanoseconds that this thread has run.
pub fn thread_time() -> f64 {
    nanoseconds(ClockId::ThreadCPUTime)
}

/// Nanoseconds since some moment.
pub fn wall_time() -> f64 {
    nanoseconds(ClockId::Monotonic)
}

fn nanoseconds(clock: ClockId) -> f64 {
    let time = clock_gettime(clock);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

fn machine(unit: Unit) -> Machine {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(": "))
    };
    Machine {
        kernel: uname().release().to_string_lossy().into_owned(),
        cpu: field("model name")
            .map_or("unknown", |(_, name)| name)
            .into(),
        cpus: std::thread::available_parallelism().map_or(1, |n| n.get()),
        page_size: memory::page(),
        unit,
    }
}
