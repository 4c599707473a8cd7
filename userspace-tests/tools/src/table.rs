// SPDX-License-Identifier: GPL-2.0
//! What became of the same tests on several kernels, side by side.

use std::{collections::BTreeMap, fs, io::Write, path::Path, time::Duration};

use anyhow::Result;
use quick_junit::{Report, TestCase, TestCaseStatus};
use tools::libtest::Verdict;

use crate::report::{self, agreed};

/// What there is of a run: the report, and what the script has put beside it.
struct Run<'a> {
    kernel: &'a str,
    /// What `uname -r` says under it, if it was set up.
    release: Option<String>,
    /// The run's exit status, if it came to its end.
    status: Option<i32>,
    report: Option<Report>,
}

impl<'a> Run<'a> {
    fn read(reports: &Path, kernel: &'a str) -> Result<Self> {
        let directory = reports.join(kernel);
        let note = |name: &str| {
            let text = fs::read_to_string(directory.join(name)).ok()?;
            Some(text.trim().to_owned())
        };
        Ok(Self {
            kernel,
            release: note("release"),
            status: note("status").and_then(|status| status.parse().ok()),
            report: report::read(&directory)?,
        })
    }

    fn cases(&self) -> impl Iterator<Item = &TestCase> {
        let suites = self.report.iter().flat_map(|report| &report.test_suites);
        suites.flat_map(|suite| &suite.test_cases)
    }

    fn verdict(&self) -> Option<Verdict> {
        self.report.as_ref()?;
        agreed(report::verdict(self.cases()), self.status?)
    }

    fn time(&self) -> Duration {
        let suites = self.report.iter().flat_map(|report| &report.test_suites);
        suites.filter_map(|suite| suite.time).sum()
    }

    fn line(&self) -> String {
        let Self { kernel, .. } = self;
        let Some(release) = &self.release else {
            return format!("{kernel:14} was not set up, see above");
        };
        let Some(verdict) = self.verdict() else {
            return format!("{kernel:14} {release:24} ended without a verdict, see above");
        };
        let Verdict {
            passed,
            failed,
            skipped,
        } = verdict;
        let seconds = self.time().as_secs();
        let (minutes, seconds) = (seconds / 60, seconds % 60);
        format!(
            "{kernel:14} {release:24} {passed:7} {failed:7} {skipped:8} {minutes:5}:{seconds:02}"
        )
    }
}

/// Prints a table of the runs in directories of `reports`, what failed, why tests were skipped,
/// and the sum.
pub fn print(reports: &Path, kernels: &[String], out: &mut impl Write) -> Result<bool> {
    let runs: Vec<_> = kernels
        .iter()
        .map(|kernel| Run::read(reports, kernel))
        .collect::<Result<_>>()?;
    writeln!(
        out,
        "{:14} {:24} {:>7} {:>7} {:>8} {:>8}",
        "kernel", "release", "passed", "failed", "skipped", "time"
    )?;
    for run in &runs {
        writeln!(out, "{}", run.line())?;
    }

    let mut failed = vec![];
    // How often on which kernels, for each reason.
    let mut skipped = BTreeMap::<&str, BTreeMap<&str, usize>>::new();
    for run in &runs {
        for case in run.cases() {
            match &case.status {
                TestCaseStatus::Success { .. } => {}
                TestCaseStatus::NonSuccess { .. } => failed.push((run.kernel, &case.name)),
                TestCaseStatus::Skipped { message, .. } => {
                    let reason = message.as_ref().map_or("", |text| text.as_str());
                    *skipped
                        .entry(reason)
                        .or_default()
                        .entry(run.kernel)
                        .or_default() += 1;
                }
            }
        }
    }
    if !failed.is_empty() {
        writeln!(out, "\nfailed, for the reasons in junit.xml and ktap.txt:")?;
        for (kernel, test) in failed {
            writeln!(out, "  {kernel}: {}", test.as_str())?;
        }
    }
    if !skipped.is_empty() {
        writeln!(out, "\nskipped, on which kernels how often:")?;
        for (reason, kernels) in skipped {
            let counts = kernels.iter().map(|(kernel, n)| format!(" {kernel} {n}"));
            writeln!(out, "  {reason}:{}", counts.collect::<String>())?;
        }
    }

    let verdicts = runs
        .iter()
        .map(|run| run.verdict().unwrap_or(Verdict::NONE));
    let sum: Verdict = verdicts.sum();
    writeln!(out, "\n{sum}")?;
    Ok(sum.failed == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_several_kernels() {
        let reports = std::env::temp_dir().join(format!("tools-table-{}", std::process::id()));
        let run = |kernel: &str, status: Option<i32>, output: Option<&str>| {
            let directory = reports.join(kernel);
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("release"), format!("{kernel}.0\n")).unwrap();
            if let Some(status) = status {
                fs::write(directory.join("status"), format!("{status}\n")).unwrap();
            }
            if let Some(output) = output {
                let words = ["printf", "%b", output].map(str::to_owned);
                report::run(&directory, None, "device", &words, &mut std::io::sink()).unwrap();
            }
        };
        let good = "test a ... ok\ntest b ... ignored (no memory)\ntest c ... ignored, no time\n";
        run("7.2", Some(0), Some(good));
        run(
            "7.3",
            Some(1),
            Some("test a ... FAILED\ntest b ... ignored (no memory)\n"),
        );
        run("7.4", Some(1), Some(good));
        run("7.5", None, Some(good));
        run("7.6", Some(0), None);
        let kernels = ["7.2", "7.3", "7.4", "7.5", "7.6", "7.7"].map(str::to_owned);
        let mut out = vec![];
        assert!(!print(&reports, &kernels, &mut out).unwrap());
        let expected = "\
kernel         release                   passed  failed  skipped     time
7.2            7.2.0                          1       0        2     0:00
7.3            7.3.0                          0       1        1     0:00
7.4            7.4.0                    ended without a verdict, see above
7.5            7.5.0                    ended without a verdict, see above
7.6            7.6.0                    ended without a verdict, see above
7.7            was not set up, see above

failed, for the reasons in junit.xml and ktap.txt:
  7.3: a

skipped, on which kernels how often:
  no memory: 7.2 1 7.3 1 7.4 1 7.5 1
  no time: 7.2 1 7.4 1 7.5 1

1 passed, 5 failed, 3 skipped
";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        assert!(print(&reports, &kernels[..1], &mut vec![]).unwrap());
        fs::remove_dir_all(&reports).unwrap();
    }
}
