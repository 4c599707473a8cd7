// SPDX-License-Identifier: GPL-2.0
//! Verdicts for machines, `junit.xml` and `ktap.txt`, and for people: `N passed, N failed`.

use std::{collections::HashSet, fmt::Write, fs, io, path::Path, time::Instant};

use anyhow::{Context, Result};
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};
use tools::libtest::{self, Outcome, Test, Verdict};

use crate::command;

/// What the tests' own harness ends with when some of them have failed.
const SOME_FAILED: i32 = 101;

const JUNIT: &str = "junit.xml";
const KTAP: &str = "ktap.txt";

/// The tests, one by one, of a run that ended with `status`. What went wrong with all of it, or
/// with tests in `list` that gave no verdict, counts as failed tests.
fn judge(mut tests: Vec<Test>, list: &str, status: i32) -> Vec<Test> {
    let failed = |name: &str, message: String| Test {
        name: name.to_owned(),
        outcome: Outcome::Failed,
        message,
        time: None,
    };
    let found: HashSet<_> = tests.iter().map(|test| test.name.clone()).collect();
    let missing = libtest::names(list).filter(|name| !found.contains(*name));
    let missing: Vec<_> = missing
        .map(|name| failed(name, "gave no verdict".to_owned()))
        .collect();
    for test in &mut tests {
        if test.outcome == Outcome::Unfinished {
            test.outcome = Outcome::Failed;
        }
    }
    let some_failed = tests.iter().any(|test| test.outcome == Outcome::Failed);
    if status != 0 && !(status == SOME_FAILED && some_failed) {
        let message = match status {
            124 => "it ran past its limit".to_owned(),
            125 => "the VM did not come up, or ended without a verdict".to_owned(),
            126 => "the kernel complained, or the module was not unloaded as a whole: see its log"
                .to_owned(),
            _ => format!("it ended with status {status}"),
        };
        tests.push(failed("the_run_as_a_whole", message));
    }
    tests.extend(missing);
    tests
}

pub fn verdict<'a>(tests: impl Iterator<Item = &'a TestCase>) -> Verdict {
    let mut verdict = Verdict::default();
    for test in tests {
        *match test.status {
            TestCaseStatus::Success { .. } => &mut verdict.passed,
            TestCaseStatus::NonSuccess { .. } => &mut verdict.failed,
            TestCaseStatus::Skipped { .. } => &mut verdict.skipped,
        } += 1;
    }
    verdict
}

fn junit(suite: &str, tests: &[Test]) -> TestSuite {
    let mut result = TestSuite::new(suite);
    for test in tests {
        let mut status = match test.outcome {
            Outcome::Passed => TestCaseStatus::success(),
            Outcome::Skipped => TestCaseStatus::skipped(),
            Outcome::Failed | Outcome::Unfinished => {
                TestCaseStatus::non_success(NonSuccessKind::Failure)
            }
        };
        let mut lines = test.message.lines();
        status.set_message(lines.next().unwrap_or_default());
        if lines.next().is_some() {
            status.set_description(test.message.as_str());
        }
        let mut case = TestCase::new(test.name.as_str(), status);
        case.set_classname(suite);
        if let Some(time) = test.time {
            case.set_time(time);
        }
        result.add_test_case(case);
    }
    result
}

/// See Documentation/dev-tools/ktap.rst.
fn ktap(report: &Report) -> String {
    let mut text = format!("KTAP version 1\n1..{}\n", report.test_suites.len());
    for (i, suite) in report.test_suites.iter().enumerate() {
        let name = suite.name.as_str();
        _ = writeln!(text, "    KTAP version 1\n    # Subtest: {name}");
        _ = writeln!(text, "    1..{}", suite.test_cases.len());
        for (i, test) in suite.test_cases.iter().enumerate() {
            let (result, rest) = match &test.status {
                TestCaseStatus::Success { .. } => ("ok", String::new()),
                TestCaseStatus::Skipped { message, .. } => {
                    let reason = message.as_ref().map_or("", |text| text.as_str());
                    ("ok", format!(" # SKIP {reason}"))
                }
                TestCaseStatus::NonSuccess {
                    message,
                    description,
                    ..
                } => {
                    let message = description.as_ref().or(message.as_ref());
                    for line in message.map_or("", |text| text.as_str()).lines() {
                        _ = writeln!(text, "    # {line}");
                    }
                    ("not ok", String::new())
                }
            };
            _ = writeln!(
                text,
                "    {result} {} {}{}",
                i + 1,
                test.name.as_str(),
                rest.trim_end()
            );
        }
        let verdict = verdict(suite.test_cases.iter());
        let result = if verdict.failed == 0 { "ok" } else { "not ok" };
        _ = writeln!(text, "{result} {} {name}", i + 1);
    }
    text
}

/// The report in a directory; [`None`] where there is none yet.
pub fn read(directory: &Path) -> Result<Option<Report>> {
    let path = directory.join(JUNIT);
    if !path.exists() {
        return Ok(None);
    }
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let report = Report::deserialize_from_str(&text);
    Ok(Some(
        report.with_context(|| format!("read {}", path.display()))?,
    ))
}

/// Adds to what is in a directory.
fn add(directory: &Path, suite: TestSuite) -> Result<()> {
    let new = || Report::new("rust_mmapdev");
    let mut report = read(directory)?.unwrap_or_else(new);
    report.add_test_suite(suite);
    let write = |name: &str, text: String| {
        let path = directory.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    };
    write(KTAP, ktap(&report))?;
    write(JUNIT, report.to_string()?)
}

/// Runs tests and adds what became of them to the reports, if there were any.
pub fn run(
    reports: &Path,
    list: Option<&Path>,
    suite: &str,
    words: &[String],
    out: &mut impl io::Write,
) -> Result<()> {
    let list = match list {
        Some(path) => {
            fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?
        }
        None => String::new(),
    };
    let start = Instant::now();
    let mut parser = libtest::Parser::default();
    let status = command::run(words, out, |bytes| parser.take(bytes))?;
    let tests = judge(parser.finish(), &list, status);
    let mut suite = junit(suite, &tests);
    suite.set_time(start.elapsed());
    match suite.test_cases.is_empty() {
        true => Ok(()),
        false => add(reports, suite),
    }
}

/// Sums up what the reports hold.
pub fn print_verdict(reports: &Path, out: &mut impl io::Write) -> Result<bool> {
    let report = read(reports)?;
    let suites = report.iter().flat_map(|report| &report.test_suites);
    let verdict = verdict(suites.flat_map(|suite| &suite.test_cases));
    if verdict == Verdict::default() {
        eprintln!("no test was run: none has such a name");
    }
    writeln!(out, "{verdict}")?;
    Ok(verdict.failed == 0 && verdict != Verdict::default())
}

/// The verdict, if the exit status says the same.
pub fn agreed(verdict: Verdict, status: i32) -> Option<Verdict> {
    ((status == 0) == (verdict.failed == 0)).then_some(verdict)
}

/// What a command's last line says, if its status says the same.
fn told(output: &[u8], status: i32) -> Option<Verdict> {
    let text = String::from_utf8_lossy(output);
    agreed(text.lines().last()?.parse().ok()?, status)
}

/// Runs commands and sums up the verdicts that they print.
pub fn print_total(commands: &[String], out: &mut impl io::Write) -> Result<bool> {
    let mut verdicts = vec![];
    for words in commands.split(|word| word == "--") {
        writeln!(out, "== {}", words.join(" "))?;
        let mut output = vec![];
        let status = command::run(words, out, |bytes| output.extend(bytes))?;
        let verdict = told(&output, status);
        if verdict.is_none() {
            let command = words.join(" ");
            writeln!(
                out,
                "{command} ended with status {status} and no verdict of its own"
            )?;
        }
        verdicts.push(verdict.unwrap_or(Verdict::NONE));
    }
    let total: Verdict = verdicts.into_iter().sum();
    writeln!(out, "\n{total}")?;
    Ok(total.failed == 0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn test(name: &str, outcome: Outcome, message: &str) -> Test {
        Test {
            name: name.to_owned(),
            outcome,
            message: message.to_owned(),
            time: Some(Duration::from_millis(250)),
        }
    }

    fn passed(name: &str) -> Test {
        test(name, Outcome::Passed, "")
    }

    fn failed(name: &str, message: &str) -> Test {
        Test {
            time: None,
            ..test(name, Outcome::Failed, message)
        }
    }

    #[test]
    fn a_run_in_which_all_passed() {
        assert_eq!(judge(vec![passed("a")], "a: test\n", 0), [passed("a")]);
    }

    #[test]
    fn tests_without_a_verdict_have_failed() {
        let found = judge(vec![passed("a")], "a: test\nb: test\n", 0);
        assert_eq!(found, [passed("a"), failed("b", "gave no verdict")]);
    }

    #[test]
    fn a_run_that_ends_in_a_test_names_it() {
        let tests = vec![passed("a"), test("b", Outcome::Unfinished, "the end")];
        let expected = [
            passed("a"),
            test("b", Outcome::Failed, "the end"),
            failed("the_run_as_a_whole", "it ran past its limit"),
            failed("c", "gave no verdict"),
        ];
        assert_eq!(judge(tests, "a: test\nb: test\nc: test\n", 124), expected);
    }

    #[test]
    fn a_failed_test_explains_one_status_only() {
        let tests = || vec![failed("a", "why")];
        assert_eq!(judge(tests(), "", 101), tests());
        for status in [1, 124, 125, 126, 137] {
            assert_eq!(judge(tests(), "", status).len(), 2, "{status}");
        }
        assert_eq!(judge(vec![passed("a")], "", 101).len(), 2);
    }

    /// Two suites, and messages with all that XML and KTAP trip over.
    fn report() -> Report {
        let mut report = Report::new("rust_mmapdev");
        let device = [
            passed("rw::read"),
            failed(
                "rw::write",
                "exit status 101\n<left> & \"right\" ]]>\nok 1 is no result\n\u{1b}[31mred\u{0}",
            ),
            test("huge::none", Outcome::Skipped, "needs 3 MiB, has <1"),
        ];
        report.add_test_suite(junit("arithmetic", &[passed("bytes")]));
        report.add_test_suite(junit("device", &device));
        report
    }

    #[test]
    fn junit_is_read_back_as_it_was_written() {
        let written = report();
        let text = written.to_string().unwrap();
        let read = Report::deserialize_from_str(&text).unwrap();
        assert_eq!(read.tests, 4);
        assert_eq!((read.failures, read.skipped), (1, 1));
        let test = &read.test_suites[1].test_cases[1];
        assert_eq!(test.name.as_str(), "rw::write");
        let TestCaseStatus::NonSuccess {
            message,
            description,
            ..
        } = &test.status
        else {
            panic!("{test:?}");
        };
        assert_eq!(message.as_ref().unwrap().as_str(), "exit status 101");
        assert_eq!(
            description.as_ref().unwrap().as_str(),
            "exit status 101\n<left> & \"right\" ]]>\nok 1 is no result\nred"
        );
        assert_eq!(
            read.test_suites[0].test_cases[0].time,
            Some(Duration::from_millis(250))
        );
    }

    #[test]
    fn ktap_of_a_report() {
        let expected = "\
KTAP version 1
1..2
    KTAP version 1
    # Subtest: arithmetic
    1..1
    ok 1 bytes
ok 1 arithmetic
    KTAP version 1
    # Subtest: device
    1..3
    ok 1 rw::read
    # exit status 101
    # <left> & \"right\" ]]>
    # ok 1 is no result
    # red
    not ok 2 rw::write
    ok 3 huge::none # SKIP needs 3 MiB, has <1
not ok 2 device
";
        assert_eq!(ktap(&report()), expected);
    }

    fn words(text: &str) -> Vec<String> {
        ["sh", "-c", text].map(str::to_owned).to_vec()
    }

    #[test]
    fn suites_of_several_runs_come_together() {
        let directory = std::env::temp_dir().join(format!("tools-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let run = |suite: &str, script: &str| {
            run(&directory, None, suite, &words(script), &mut io::sink()).unwrap()
        };
        assert!(
            !print_verdict(&directory, &mut io::sink()).unwrap(),
            "nothing was run"
        );
        run("one", "echo test a ... ok");
        assert!(print_verdict(&directory, &mut io::sink()).unwrap());
        run("two", "echo test b ... ok; exit 126");
        assert!(!print_verdict(&directory, &mut io::sink()).unwrap());
        let report = read(&directory).unwrap().unwrap();
        let names: Vec<_> = report
            .test_suites
            .iter()
            .map(|suite| suite.name.as_str())
            .collect();
        assert_eq!(names, ["one", "two"]);
        let told = fs::read_to_string(directory.join(KTAP)).unwrap();
        assert_eq!(told, ktap(&report));
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_verdict_counts_when_the_status_agrees() {
        let verdict = |passed, failed, skipped| {
            Some(Verdict {
                passed,
                failed,
                skipped,
            })
        };
        assert_eq!(told(b"a\n3 passed, 0 failed\n", 0), verdict(3, 0, 0));
        assert_eq!(
            told(b"3 passed, 1 failed, 2 skipped\n", 2),
            verdict(3, 1, 2)
        );
        assert_eq!(told(b"3 passed, 1 failed\n", 0), None);
        assert_eq!(told(b"3 passed, 0 failed\n", 1), None);
        assert_eq!(told(b"3 passed, 0 failed\nmore\n", 0), None);
        assert_eq!(told(b"", 0), None);
    }

    #[test]
    fn totals() {
        let total = |text: &str| {
            let words: Vec<_> = text.split('|').map(str::to_owned).collect();
            print_total(&words, &mut io::sink()).unwrap()
        };
        let good = "sh|-c|echo 3 passed, 0 failed";
        assert!(total(good));
        assert!(total(&format!("{good}|--|{good}")));
        assert!(!total(&format!("false|--|{good}")));
        assert!(!total(&format!(
            "{good}|--|sh|-c|echo 3 passed, 1 failed; false"
        )));
    }
}
