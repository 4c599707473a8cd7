// SPDX-License-Identifier: GPL-2.0
//! What moved, in instructions.

use std::{collections::BTreeMap, error::Error, fs, path::Path};

use benches::Unit;
use serde::{Deserialize, Serialize};

use crate::data::Data;

/// What moves by less is noise.
const TOLERANCE: f64 = 0.02;

/// What a row of the device takes at least. What the kernel does for others meanwhile, such as
/// freeing what waited for a grace period, comes in some rounds and not in others.
fn least(data: &Data, row: &str, pages: usize) -> Option<f64> {
    Some(data.get(Unit::Instructions, row, "device", pages)?.min)
}

/// How much dearer, as a part of what it was.
fn change(before: f64, after: f64) -> f64 {
    after / before - 1.0
}

/// Prints which rows of the device moved. Returns whether none got dearer.
pub fn moved(before: &Data, after: &Data) -> bool {
    let (mut rows, mut dearer, mut cheaper) = (0, 0, 0);
    for (row, pages) in after.names(Unit::Instructions) {
        let Some(was) = least(before, row, pages) else {
            println!("{row}, {pages} pages: new");
            continue;
        };
        let Some(is) = least(after, row, pages) else {
            continue;
        };
        rows += 1;
        let change = change(was, is);
        if change.abs() > TOLERANCE {
            println!(
                "{row}, {pages} pages: {was:.0} -> {is:.0}, {:+.1} %",
                change * 100.0
            );
            if change > 0.0 {
                dearer += 1
            } else {
                cheaper += 1
            }
        }
    }
    println!("{rows} rows compared: {dearer} dearer and {cheaper} cheaper by more than 2 %");
    rows > 0 && dearer == 0
}

/// The figures that are kept in the tree.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// What they hold for.
    kernel: String,
    emulator: String,
    /// Instructions by row and pages.
    rows: BTreeMap<String, BTreeMap<usize, f64>>,
}

/// Compares a run with the figures that are kept, or keeps its figures. Returns whether none moved.
pub fn check(path: &Path, emulator: &str, keep: bool, run: &Data) -> Result<bool, Box<dyn Error>> {
    let mut now = Kept {
        kernel: run.kernel_release().into(),
        emulator: emulator.into(),
        rows: BTreeMap::new(),
    };
    for (row, pages) in run.names(Unit::Instructions) {
        if let Some(count) = least(run, row, pages) {
            now.rows.entry(row.into()).or_default().insert(pages, count);
        }
    }
    if keep {
        fs::write(path, serde_json::to_string_pretty(&now)? + "\n")?;
        return Ok(true);
    }
    let kept: Kept = serde_json::from_str(&fs::read_to_string(path)?)?;
    if (&kept.kernel, &kept.emulator) != (&now.kernel, &now.emulator) {
        println!(
            "The figures in {} are those of kernel {} in {}; this is {} in {}, whose are not comparable. \
             make bench-keep keeps these.\n\n0 passed, 0 failed, 1 skipped",
            path.display(),
            kept.kernel,
            kept.emulator,
            now.kernel,
            now.emulator
        );
        return Ok(true);
    }
    let (mut passed, mut failed) = (0, 0);
    for (row, sizes) in &kept.rows {
        for (pages, was) in sizes {
            let is = now.rows.get(row).and_then(|sizes| sizes.get(pages));
            let moved = is.map(|is| change(*was, *is));
            let ok = moved.is_some_and(|moved| moved.abs() <= TOLERANCE);
            let is = is.map_or("not measured".into(), |is| format!("{is:.0}"));
            let moved = moved.map_or(String::new(), |moved| format!(", {:+.1} %", moved * 100.0));
            println!(
                "{row}, {pages} pages: {was:.0} -> {is}{moved} ... {}",
                if ok { "ok" } else { "FAILED" }
            );
            if ok { passed += 1 } else { failed += 1 }
        }
    }
    if failed > 0 {
        println!(
            "More than 2 % is no noise. Where it is meant, make bench-keep keeps the new figures."
        );
    }
    println!("\n{passed} passed, {failed} failed");
    Ok(failed == 0)
}
