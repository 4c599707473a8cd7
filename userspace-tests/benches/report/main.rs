// SPDX-License-Identifier: GPL-2.0
//! Shows what `measure` measured: a table in the terminal, `results.json`, `results.csv` and
//! `report.html`. `scripts/bench` starts it.

mod chart;
mod compare;
mod data;
mod html;
mod picture;
mod table;

use std::{error::Error, fs, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use data::Data;

/// Shows or compares what was measured.
#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Print the table, and write results.json, results.csv and report.html
    Write {
        /// Where to write them.
        #[arg(long)]
        out: PathBuf,
        /// What the emulator's plugin counted.
        #[arg(long)]
        counts: Option<PathBuf>,
        /// When it was measured.
        #[arg(long)]
        date: String,
        /// What it was measured in, in a few words.
        #[arg(long)]
        emulator: String,
        /// Lines of `measure`.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Print the table alone
    Table { file: PathBuf },
    /// Say which rows moved from one run to another; more than 2 % up is an error
    Compare { before: PathBuf, after: PathBuf },
    /// Compare a run with the figures kept in the tree; the last line is "N passed, N failed"
    Check {
        kept: PathBuf,
        /// The emulator: figures of another, or of another kernel, are not compared.
        #[arg(long)]
        emulator: String,
        /// Keep the run's figures instead.
        #[arg(long)]
        keep: bool,
        run: PathBuf,
    },
}

fn main() -> ExitCode {
    match run(Options::parse().what) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(err) => {
            eprintln!("report: {err}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether all is as it should be.
fn run(what: What) -> Result<bool, Box<dyn Error>> {
    match what {
        What::Write {
            out,
            counts,
            date,
            emulator,
            files,
        } => {
            let mut data = Data::read(&files)?;
            if let Some(counts) = counts {
                data.add_counts(&fs::read_to_string(counts)?)?;
            }
            print!("{}", table::table(&data));
            fs::create_dir_all(&out)?;
            let json = serde_json::to_string_pretty(&data.results(&date, &emulator))?;
            fs::write(out.join("results.json"), json + "\n")?;
            let mut csv = csv::Writer::from_path(out.join("results.csv"))?;
            for row in &data.rows {
                csv.serialize(row)?;
            }
            csv.flush()?;
            fs::write(
                out.join("report.html"),
                html::page(&data, &date, &emulator)?,
            )?;
            Ok(true)
        }
        What::Table { file } => {
            print!("{}", table::table(&Data::read(&[file])?));
            Ok(true)
        }
        What::Compare { before, after } => {
            let (before, after) = (Data::read(&[before])?, Data::read(&[after])?);
            Ok(compare::moved(&before, &after))
        }
        What::Check {
            kept,
            emulator,
            keep,
            run,
        } => compare::check(&kept, &emulator, keep, &Data::read(&[run])?),
    }
}
