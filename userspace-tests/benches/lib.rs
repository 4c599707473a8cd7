// SPDX-License-Identifier: GPL-2.0
//! What `measure`, in the VM, tells `report`, on the host: a JSON object a line.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How cost is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Instructions of the emulated CPU; a string instruction counts each of its steps.
    Instructions,
    /// Nanoseconds, which mean something only beside others of the same run.
    Time,
}

/// What one piece of work costs on one peer's memory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    pub row: String,
    pub peer: String,
    /// Pages of the memory.
    pub pages: usize,
    pub unit: Unit,
    pub median: f64,
    pub min: f64,
    pub max: f64,
    /// How many measurements these are of.
    pub runs: usize,
}

impl Row {
    /// What counts: the median, but of time the least, as all that disturbs adds to it.
    pub fn cost(&self) -> f64 {
        match self.unit {
            Unit::Instructions => self.median,
            Unit::Time => self.min,
        }
    }
}

/// A size in bytes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Size {
    pub what: String,
    pub peer: String,
    pub bytes: f64,
}

/// A peer that has no such thing, and the error that says so.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Refusal {
    pub row: String,
    pub peer: String,
    pub pages: usize,
    pub error: String,
}

/// Whose instructions the emulator counted, and for what: counts bear the number `phase`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Phase {
    pub phase: u32,
    pub row: String,
    pub peer: String,
    pub pages: usize,
    /// How often the work was done.
    pub times: usize,
    /// Functions of the modules and their addresses then.
    pub modules: Vec<(u64, String)>,
}

/// The page table entry of one process for its mapping, and the page that it leads to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Of the mapping.
    pub address: u64,
    /// Number of the page frame: none where the entry is empty.
    pub frame: Option<u64>,
    /// /proc/kpagecount: page table entries that lead to the frame.
    pub map_count: u64,
    /// /proc/PID/pagemap: nobody else maps the frame.
    pub exclusive: bool,
    /// /proc/PID/pagemap: the frame is a file's, here the device's.
    pub file: bool,
    /// /proc/PID/smaps of the VMA, in KiB, and its permissions under "perms".
    pub smaps: BTreeMap<String, String>,
    /// What the process reads there, where it looked.
    pub text: Option<String>,
}

/// The page tables of two processes at one moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Step {
    pub title: String,
    pub explanation: String,
    /// The frame of the device's page.
    pub frame: u64,
    /// /proc/kpagecount of it.
    pub map_count: u64,
    /// What read(2) of the device gives.
    pub text: String,
    pub a: Entry,
    pub b: Entry,
}

/// What was measured on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    pub kernel: String,
    pub cpu: String,
    pub cpus: usize,
    pub page_size: usize,
    pub unit: Unit,
}

impl Machine {
    /// Whether its CPU is QEMU's own: with hardware virtualization it has the host's name.
    pub fn is_emulated(&self) -> bool {
        self.cpu.contains("TCG") || self.cpu.contains("QEMU") || self.cpu == "unknown"
    }
}

/// A line of `measure`'s output.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Line {
    Machine(Machine),
    Row(Row),
    Size(Size),
    Refusal(Refusal),
    Phase(Phase),
    /// Functions of the kernel and their addresses.
    Kernel(Vec<(u64, String)>),
    Step(Step),
}
