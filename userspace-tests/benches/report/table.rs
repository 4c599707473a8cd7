// SPDX-License-Identifier: GPL-2.0
//! The table in the terminal: what the device takes, and how much of what the others take that is.

use std::fmt::Write;

use benches::Unit;

use crate::data::{Data, PEERS};

/// What the device's cost is a part of.
#[derive(Clone, Copy)]
pub enum Of {
    /// The cheapest of these.
    Best(&'static [&'static str]),
    Peer(&'static str),
    /// The device's own, for one page.
    OnePage,
}

/// A row, its pages, what the device's cost is to be a part of, and how much at most.
pub struct Target(pub &'static str, pub usize, pub Of, pub f64);

const STOCK: Of = Of::Best(&["memfd", "udmabuf", "bpf"]);

/// In instructions.
pub const TARGETS: [Target; 13] = [
    Target("map-write", 1, STOCK, 0.90),
    Target("map-write", 64, STOCK, 0.27),
    Target("map-write", 512, Of::OnePage, 1.6),
    Target("map-write", 2048, Of::Peer("tmpfs-huge"), 0.59),
    Target("map-write", 2048, Of::Peer("hugetlb"), 1.06),
    Target("window-1000", 2048, Of::Peer("udmabuf"), 0.20),
    Target("private-write", 64, Of::Peer("memfd"), 0.99),
    Target("read-whole", 64, Of::Peer("memfd"), 0.95),
    Target("write-whole", 64, Of::Peer("memfd"), 0.92),
    Target("read-whole", 2048, Of::Peer("tmpfs-huge"), 1.00),
    Target("write-whole", 2048, Of::Peer("tmpfs-huge"), 1.00),
    Target("fork", 512, Of::Peer("memfd"), 1.00),
    Target("fork", 512, Of::Peer("tmpfs-huge"), 1.00),
];

/// The most that the device may take of what its twin takes.
pub const OF_TWIN: f64 = 1.02;

impl Target {
    /// What the device's cost is a part of, by name, and the part.
    pub fn ratio(&self, data: &Data) -> Option<(String, f64)> {
        let Self(row, pages, of, _) = *self;
        let cost = |peer, pages| data.cost(Unit::Instructions, row, peer, pages);
        let (name, whole) = match of {
            Of::Best(peers) => {
                let costs = peers
                    .iter()
                    .filter_map(|peer| Some((*peer, cost(*peer, pages)?)));
                costs.min_by(|a, b| a.1.total_cmp(&b.1))?
            }
            Of::Peer(peer) => (peer, cost(peer, pages)?),
            Of::OnePage => ("one page", cost("device", 1)?),
        };
        Some((name.into(), cost("device", pages)? / whole))
    }
}

/// 1234567 as 1,234,567.
pub fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut grouped = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

fn aligned(lines: &[Vec<String>]) -> String {
    let mut text = String::new();
    let width = |column: usize| {
        lines
            .iter()
            .map(|line| line[column].len())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
    for line in lines {
        let _ = write!(text, "{:1$}", line[0], widths[0]);
        for (cell, width) in line.iter().zip(&widths).skip(1) {
            let _ = write!(text, "  {cell:>width$}");
        }
        text.push('\n');
    }
    text
}

pub fn table(data: &Data) -> String {
    let mut text = String::new();
    let time = format!("Time of the device ({})", data.time_taken_on());
    for (unit, title) in [
        (Unit::Instructions, "Instructions of the device"),
        (Unit::Time, &*time),
    ] {
        let names = data.names(unit);
        if names.is_empty() {
            continue;
        }
        let mut lines = vec![vec!["".into(), "pages".into(), "device".into()]];
        lines[0].extend(PEERS[1..].iter().map(|&peer| String::from(peer)));
        for (row, pages) in names {
            let Some(device) = data.cost(unit, row, "device", pages) else {
                continue;
            };
            let mut line = vec![row.into(), pages.to_string(), grouped(device)];
            line.extend(PEERS[1..].iter().map(|peer| {
                let whole = data
                    .cost(unit, row, peer, pages)
                    .filter(|whole| *whole > 0.0);
                whole.map_or(String::new(), |whole| format!("{:.2}", device / whole))
            }));
            lines.push(line);
        }
        let _ = write!(
            text,
            "\n{title}, and as a part of what others take\n\n{}",
            aligned(&lines)
        );
        // Peers of one row only: those without memory.
        for row in data.rows.iter().filter(|row| row.unit == unit) {
            let device = data.cost(unit, &row.row, "device", row.pages);
            if let (false, Some(device)) = (PEERS.contains(&&*row.peer), device) {
                let ratio = device / row.cost();
                let _ = writeln!(text, "{} of {}: {ratio:.2}", row.row, row.peer);
            }
        }
    }
    if !data.sizes.is_empty() {
        text.push('\n');
    }
    for size in &data.sizes {
        let bytes = grouped(size.bytes);
        let _ = writeln!(text, "{} of {}: {bytes} bytes", size.what, size.peer);
    }
    let mut lines: Vec<Vec<String>> = vec![
        ["Targets", "pages", "of", "ratio", "at most", "met"]
            .map(String::from)
            .to_vec(),
    ];
    for target in &TARGETS {
        if let Some((of, ratio)) = target.ratio(data) {
            let met = (ratio * 100.0).round() <= (target.3 * 100.0).round();
            lines.push(vec![
                target.0.into(),
                target.1.to_string(),
                of,
                format!("{ratio:.2}"),
                format!("{:.2}", target.3),
                if met { "yes" } else { "no" }.into(),
            ]);
        }
    }
    if lines.len() > 1 {
        let _ = write!(text, "\n{}", aligned(&lines));
    }
    let above = above_twin(data);
    if !data.names(Unit::Instructions).is_empty() {
        let _ = match above.is_empty() {
            true => writeln!(
                text,
                "\nNo row takes more than {OF_TWIN} of what the twin in C takes."
            ),
            false => writeln!(
                text,
                "\nMore than {OF_TWIN} of what the twin in C takes: {}.",
                above.join(", ")
            ),
        };
    }
    text
}

/// The rows in which Rust costs more than it should.
pub fn above_twin(data: &Data) -> Vec<String> {
    let unit = Unit::Instructions;
    let ratio = |(row, pages): (&str, usize)| {
        let (device, twin) = (
            data.cost(unit, row, "device", pages)?,
            data.cost(unit, row, "twin", pages)?,
        );
        let ratio = device / twin;
        (ratio > OF_TWIN).then(|| format!("{row} of {pages} pages {ratio:.3}"))
    };
    data.names(unit).into_iter().filter_map(ratio).collect()
}
