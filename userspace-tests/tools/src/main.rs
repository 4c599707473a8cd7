// SPDX-License-Identifier: GPL-2.0
//! What scripts/ leave to a program: reading what cargo, tests, kernels and compilers say.

mod command;
mod coverage;
mod executable;
mod report;
mod table;

use std::{
    io::{self, Read},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Result;
use clap::{Parser, Subcommand};
use tools::complaint;

#[derive(Parser)]
#[command(
    name = "tools",
    about = "Reads, for the scripts, what kernels, tests, cargo and compilers say"
)]
struct Arguments {
    #[command(subcommand)]
    tool: Tool,
}

#[derive(Subcommand)]
enum Tool {
    /// Print the path of a program out of cargo's messages on stdin (--message-format=json...)
    Executable {
        /// Kind of target: bin, example, test or bench
        kind: String,
        name: String,
    },
    /// Print the first complaint in the kernel's log on stdin, if there is one
    Complaint,
    /// Run a command that runs tests, and put what became of them into the reports; the status
    /// is 0 when they are there
    Run {
        /// The directory of junit.xml and ktap.txt
        #[arg(long)]
        reports: PathBuf,
        /// The file with what the tests' --list printed: a test without a verdict has failed
        #[arg(long)]
        list: Option<PathBuf>,
        /// What the reports call these tests
        suite: String,
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Print the sum of what the reports hold; the status is 0 if there is something and all is
    /// well
    Verdict { reports: PathBuf },
    /// Print a table of what the reports in a directory for each kernel hold, why tests were
    /// skipped, and the sum
    Table {
        reports: PathBuf,
        #[arg(required = true)]
        kernels: Vec<String>,
    },
    /// Run commands, separated by `--`, that each print a verdict in the end, and print the sum
    Total {
        #[arg(last = true, required = true)]
        commands: Vec<String>,
    },
    /// Print the lines of the module's source that have code of which a fuzzer's run, whose
    /// output is on stdin, reached nothing
    Unreached {
        module: PathBuf,
        /// Where the lines are
        project: PathBuf,
    },
}

fn main() -> Result<ExitCode> {
    let out = &mut io::stdout().lock();
    let stdin = io::stdin().lock();
    let well = match Arguments::parse().tool {
        Tool::Executable { kind, name } => {
            let path = executable::find(stdin, &kind, &name)?;
            path.inspect(|path| println!("{path}")).is_some()
        }
        Tool::Complaint => print_complaint(stdin).map(|()| true)?,
        Tool::Run {
            reports,
            list,
            suite,
            command,
        } => report::run(&reports, list.as_deref(), &suite, &command, out).map(|()| true)?,
        Tool::Verdict { reports } => report::print_verdict(&reports, out)?,
        Tool::Table { reports, kernels } => table::print(&reports, &kernels, out)?,
        Tool::Total { commands } => report::print_total(&commands, out)?,
        Tool::Unreached { module, project } => {
            coverage::print_unreached(stdin, &module, &project).map(|()| true)?
        }
    };
    Ok(match well {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn print_complaint(mut input: impl Read) -> Result<()> {
    let mut log = vec![];
    input.read_to_end(&mut log)?;
    for line in String::from_utf8_lossy(&log).lines() {
        if let Some(reason) = complaint::in_line(line) {
            println!("{line}: {reason}");
            break;
        }
    }
    Ok(())
}
