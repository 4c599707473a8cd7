// SPDX-License-Identifier: GPL-2.0
//! What was measured, put in order.

use std::{collections::BTreeMap, error::Error, fs, path::PathBuf};

use benches::{Line, Machine, Phase, Refusal, Row, Size, Step, Unit};
use serde::Serialize;

/// Whose memory it is, in the order of tables and legends.
pub const PEERS: [&str; 10] = [
    "device",
    "twin",
    "memfd",
    "tmpfs-huge",
    "hugetlb",
    "udmabuf",
    "bpf",
    "devzero",
    "anon-shared",
    "anon-private",
];

/// A function of the kernel, and its instructions in one piece of work.
pub struct Function {
    pub name: String,
    pub count: f64,
    /// Whether it is one of our modules, or of the Rust that it calls.
    pub own: bool,
}

/// The instructions of one piece of work by function, the dearest first.
pub struct Profile {
    pub row: String,
    pub peer: String,
    pub pages: usize,
    pub functions: Vec<Function>,
}

impl Profile {
    fn is_like(&self, other: &Self) -> bool {
        (&self.row, &self.peer, self.pages) == (&other.row, &other.peer, other.pages)
    }

    pub fn total(&self) -> f64 {
        self.functions.iter().map(|function| function.count).sum()
    }
}

#[derive(Default)]
pub struct Data {
    pub machines: Vec<Machine>,
    pub rows: Vec<Row>,
    pub sizes: Vec<Size>,
    pub refusals: Vec<Refusal>,
    pub steps: Vec<Step>,
    pub profiles: Vec<Profile>,
    phases: Vec<Phase>,
    kernel: Vec<(u64, String)>,
}

/// What results.json has.
#[derive(Serialize)]
pub struct Results<'a> {
    date: &'a str,
    emulator: &'a str,
    machines: &'a [Machine],
    rows: &'a [Row],
    sizes: &'a [Size],
    refusals: &'a [Refusal],
}

impl Data {
    pub fn read(files: &[PathBuf]) -> Result<Self, Box<dyn Error>> {
        let mut data = Self::default();
        for file in files {
            let text = fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
            for line in text.lines() {
                match serde_json::from_str(line).map_err(|e| format!("{}: {e}", file.display()))? {
                    Line::Machine(machine) => data.machines.push(machine),
                    Line::Row(row) => data.rows.push(row),
                    Line::Size(size) => data.sizes.push(size),
                    Line::Refusal(refusal) => data.refusals.push(refusal),
                    Line::Phase(phase) => data.phases.push(phase),
                    Line::Kernel(functions) => data.kernel = functions,
                    Line::Step(step) => data.steps.push(step),
                }
            }
        }
        Ok(data)
    }

    pub fn results<'a>(&'a self, date: &'a str, emulator: &'a str) -> Results<'a> {
        Results {
            date,
            emulator,
            machines: &self.machines,
            rows: &self.rows,
            sizes: &self.sizes,
            refusals: &self.refusals,
        }
    }

    /// Adds what the emulator's plugin counted: a phase, an address and instructions a line.
    pub fn add_counts(&mut self, counts: &str) -> Result<(), Box<dyn Error>> {
        let mut by_phase: BTreeMap<u32, Vec<(u64, f64)>> = BTreeMap::new();
        for line in counts.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let [phase, address, count] = words[..] else {
                return Err(format!("counts: '{line}'").into());
            };
            let count = (u64::from_str_radix(address, 16)?, count.parse()?);
            by_phase.entry(phase.parse()?).or_default().push(count);
        }
        for phase in &self.phases {
            let mut symbols: Vec<&(u64, String)> =
                self.kernel.iter().chain(&phase.modules).collect();
            symbols.sort();
            let mut functions: BTreeMap<String, f64> = BTreeMap::new();
            for (address, count) in by_phase.get(&phase.phase).into_iter().flatten() {
                let name = function(&symbols, *address);
                *functions.entry(name).or_default() += count / phase.times as f64;
            }
            let modules: Vec<String> = phase.modules.iter().map(|(_, name)| plain(name)).collect();
            let function = |(name, count): (String, f64)| Function {
                own: modules.contains(&name)
                    || ["kernel::", "rust_helper_"]
                        .iter()
                        .any(|start| name.starts_with(start)),
                name,
                count,
            };
            let mut functions: Vec<Function> = functions.into_iter().map(function).collect();
            functions.sort_by(|a, b| b.count.total_cmp(&a.count));
            let profile = Profile {
                row: phase.row.clone(),
                peer: phase.peer.clone(),
                pages: phase.pages,
                functions,
            };
            // All that runs meanwhile adds to it, so the least of several runs counts.
            match self
                .profiles
                .iter_mut()
                .find(|other| other.is_like(&profile))
            {
                Some(other) if other.total() > profile.total() => *other = profile,
                Some(_) => {}
                None => self.profiles.push(profile),
            }
        }
        Ok(())
    }

    /// The row's figures for a peer.
    pub fn get(&self, unit: Unit, row: &str, peer: &str, pages: usize) -> Option<&Row> {
        self.rows
            .iter()
            .find(|r| r.unit == unit && r.row == row && r.peer == peer && r.pages == pages)
    }

    pub fn cost(&self, unit: Unit, row: &str, peer: &str, pages: usize) -> Option<f64> {
        Some(self.get(unit, row, peer, pages)?.cost())
    }

    /// Names and sizes of the rows of a unit, in the order of their first appearance.
    pub fn names(&self, unit: Unit) -> Vec<(&str, usize)> {
        let mut rows: Vec<&str> = vec![];
        for row in self.rows.iter().filter(|row| row.unit == unit) {
            if !rows.contains(&&*row.row) {
                rows.push(&row.row);
            }
        }
        let mut names = vec![];
        for name in rows {
            let mut pages: Vec<usize> = self
                .rows
                .iter()
                .filter(|r| r.unit == unit && r.row == name)
                .map(|r| r.pages)
                .collect();
            pages.sort_unstable();
            pages.dedup();
            names.extend(pages.into_iter().map(|pages| (name, pages)));
        }
        names
    }

    /// What to make of nanoseconds.
    pub fn time_taken_on(&self) -> &'static str {
        match self
            .machines
            .iter()
            .find(|machine| machine.unit == Unit::Time)
        {
            Some(machine) if !machine.is_emulated() => "real time, of the CPU itself",
            _ => "time of an emulated CPU, of which only the ratios within the run mean something",
        }
    }

    pub fn kernel_release(&self) -> &str {
        self.machines.first().map_or("unknown", |m| &m.kernel)
    }
}

/// The function that an address is in.
fn function(symbols: &[&(u64, String)], address: u64) -> String {
    // The lower half of all addresses is user space's.
    if address < 1 << 63 {
        return "user space".into();
    }
    match symbols.partition_point(|(start, _)| *start <= address) {
        0 => "unknown".into(),
        n => plain(&symbols[n - 1].1),
    }
}

/// A symbol as one says it: without what compilers add, a Rust path without the crate's hash.
fn plain(symbol: &str) -> String {
    match rustc_demangle::try_demangle(symbol) {
        Ok(name) => format!("{name:#}"),
        Err(_) => symbol.split('.').next().unwrap_or(symbol).into(),
    }
}
