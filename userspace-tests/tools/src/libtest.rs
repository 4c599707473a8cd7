// SPDX-License-Identifier: GPL-2.0
//! What a run of tests says: the format of Rust's own harness and of libtest-mimic.

use std::{
    fmt,
    iter::Sum,
    str::FromStr,
    time::{Duration, Instant},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    Failed,
    Skipped,
    /// It was begun, and the run ended before it did.
    Unfinished,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Test {
    pub name: String,
    pub outcome: Outcome,
    /// Why it failed, or was skipped.
    pub message: String,
    /// How long it took, if it was the only one at a time.
    pub time: Option<Duration>,
}

/// How many tests ended how. As text: `2 passed, 0 failed`, with `, 1 skipped` if any were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    pub passed: usize,
    pub failed: usize,
    pub skipped: usize,
}

impl Verdict {
    /// Of a run that gave none: it has failed.
    pub const NONE: Self = Self {
        passed: 0,
        failed: 1,
        skipped: 0,
    };
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        match self.skipped {
            0 => Ok(()),
            skipped => write!(f, ", {skipped} skipped"),
        }
    }
}

/// The text is something else.
#[derive(Debug, PartialEq, Eq)]
pub struct NoVerdict;

impl FromStr for Verdict {
    type Err = NoVerdict;

    fn from_str(text: &str) -> Result<Self, NoVerdict> {
        let mut parts = text.split(", ");
        let mut count = |what: &str| {
            let number = parts.next()?.strip_suffix(what)?;
            number.strip_suffix(' ')?.parse().ok()
        };
        let verdict = Self {
            passed: count("passed").ok_or(NoVerdict)?,
            failed: count("failed").ok_or(NoVerdict)?,
            skipped: count("skipped").unwrap_or(0),
        };
        match verdict.to_string() == text {
            true => Ok(verdict),
            false => Err(NoVerdict),
        }
    }
}

impl Sum for Verdict {
    fn sum<I: Iterator<Item = Self>>(verdicts: I) -> Self {
        verdicts.fold(Self::default(), |a, b| Self {
            passed: a.passed + b.passed,
            failed: a.failed + b.failed,
            skipped: a.skipped + b.skipped,
        })
    }
}

/// Takes in what tests print, as it comes.
#[derive(Default)]
pub struct Parser {
    tests: Vec<Test>,
    /// The start of a line, whose end has not come yet.
    line: Vec<u8>,
    /// The test that was begun, and when.
    begun: Option<(String, Instant)>,
    /// The failures are told one by one; the place of the one that is.
    failures: Option<Option<usize>>,
}

impl Parser {
    pub fn take(&mut self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend(part);
            let line = std::mem::take(&mut self.line);
            let text = String::from_utf8_lossy(&line);
            match text.strip_suffix('\n') {
                Some(text) => self.whole_line(text),
                None => {
                    let name = text.strip_suffix(" ... ").and_then(test_name);
                    if let (Some(name), None) = (name, self.failures) {
                        self.begun = Some((name, Instant::now()));
                    }
                    self.line = line;
                }
            }
        }
    }

    fn whole_line(&mut self, line: &str) {
        if self.failures.is_some() {
            self.line_of_a_failure(line);
        } else if line == "failures:" {
            self.failures = Some(None);
        } else if let Some((name, rest)) = line
            .split_once(" ... ")
            .and_then(|(test, rest)| Some((test_name(test)?, rest)))
        {
            match outcome(rest) {
                Some(outcome) => self.end(name, outcome),
                // Output of its own, which its parent was asked to pass on.
                None => self.begun = Some((name, Instant::now())),
            }
        } else if let (Some((name, _)), Some(outcome)) = (&self.begun, outcome(line)) {
            self.end(name.clone(), outcome);
        }
    }

    fn line_of_a_failure(&mut self, line: &str) {
        if line.starts_with("test result: ") {
            self.failures = None;
        } else if line == "failures:" {
            self.failures = Some(None);
        } else if let Some(place) = self.failure(line) {
            self.failures = Some(Some(place));
        } else if let Some(Some(place)) = self.failures {
            let message = &mut self.tests[place].message;
            *message += line;
            *message += "\n";
        }
    }

    /// The failed test that this line begins to tell of. Its output may have such lines, too.
    fn failure(&self, line: &str) -> Option<usize> {
        let name = failure_head(line)?;
        self.tests.iter().position(|test| {
            test.name == name && test.outcome == Outcome::Failed && test.message.is_empty()
        })
    }

    fn end(&mut self, name: String, (outcome, message): (Outcome, String)) {
        let begun = self.begun.take_if(|(begun, _)| *begun == name);
        self.tests.push(Test {
            name,
            outcome,
            message,
            time: begun.map(|(_, start)| start.elapsed()),
        });
    }

    /// All tests, in the order of their ends.
    pub fn finish(mut self) -> Vec<Test> {
        for test in &mut self.tests {
            test.message = test.message.trim().to_owned();
        }
        if let Some((name, start)) = self.begun {
            self.tests.push(Test {
                name,
                outcome: Outcome::Unfinished,
                message: "the run ended before it did".to_owned(),
                time: Some(start.elapsed()),
            });
        }
        self.tests
    }
}

/// The name in `test NAME`, which may be padded.
fn test_name(text: &str) -> Option<String> {
    let name = text.strip_prefix("test ")?.trim_end();
    (!name.is_empty()).then(|| name.to_owned())
}

/// The name in `---- NAME ----` or `---- NAME stdout ----`.
fn failure_head(line: &str) -> Option<&str> {
    let name = line.strip_prefix("---- ")?.strip_suffix(" ----")?;
    Some(name.strip_suffix(" stdout").unwrap_or(name))
}

/// What a test's line ends with.
fn outcome(text: &str) -> Option<(Outcome, String)> {
    match text {
        "ok" => return Some((Outcome::Passed, String::new())),
        "FAILED" => return Some((Outcome::Failed, String::new())),
        _ => {}
    }
    // libtest-mimic has the reason in parentheses.
    let reason = text.strip_prefix("ignored")?;
    let in_parentheses =
        |text: &'_ str| Some(text.strip_prefix(" (")?.strip_suffix(')')?.to_owned());
    let reason = match reason.strip_prefix(", ") {
        Some(reason) => reason.to_owned(),
        None if reason.is_empty() => String::new(),
        None => in_parentheses(reason)?,
    };
    Some((Outcome::Skipped, reason))
}

/// What `--list` prints, name by name.
pub fn names(list: &str) -> impl Iterator<Item = &str> {
    list.lines().filter_map(|line| line.strip_suffix(": test"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<(String, Outcome, String)> {
        // In pieces of every size, as a pipe has them.
        let of_size = |size: usize| {
            let mut parser = Parser::default();
            text.as_bytes()
                .chunks(size)
                .for_each(|piece| parser.take(piece));
            let tests = parser.finish().into_iter();
            tests
                .map(|test| (test.name, test.outcome, test.message))
                .collect::<Vec<_>>()
        };
        let whole = of_size(text.len().max(1));
        for size in 1..20 {
            assert_eq!(of_size(size), whole, "in pieces of {size}");
        }
        whole
    }

    fn of(name: &str, outcome: Outcome, message: &str) -> (String, Outcome, String) {
        (name.to_owned(), outcome, message.to_owned())
    }

    #[test]
    fn a_run_of_libtest_mimic() {
        let text = "\nrunning 4 tests\n\
            test rw::short   ... ok\n\
            test rw::longer  ... FAILED\n\
            test huge::none  ... ignored (no memory: 3 MiB to spare)\n\
            test rw::another ... FAILED\n\
            \nfailures:\n\n\
            ---- rw::longer ----\n\
            exit status: 101\n\
            test rw::short ... FAILED\n\
            ---- not::a_test ----\n\
            \n\
            ---- rw::another ----\n\
            took more than 20 s\n\n\n\
            failures:\n    rw::longer\n    rw::another\n\n\
            test result: FAILED. 1 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.50s\n\n\
            1 passed, 2 failed, 1 skipped\n";
        let expected = [
            of("rw::short", Outcome::Passed, ""),
            of(
                "rw::longer",
                Outcome::Failed,
                "exit status: 101\ntest rw::short ... FAILED\n---- not::a_test ----",
            ),
            of("huge::none", Outcome::Skipped, "no memory: 3 MiB to spare"),
            of("rw::another", Outcome::Failed, "took more than 20 s"),
        ];
        assert_eq!(parsed(text), expected);
    }

    #[test]
    fn a_run_of_libtest() {
        let text = "\nrunning 3 tests\n\
            test one ... ok\n\
            test two ... FAILED\n\
            test three ... ignored, takes an hour\n\
            test four ... ignored\n\
            \nfailures:\n\n\
            ---- two stdout ----\n\
            \nthread 'two' panicked at src/lib.rs:1:1:\nboom\n\
            \n\nfailures:\n    two\n\n\
            test result: FAILED. 1 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out\n";
        let expected = [
            of("one", Outcome::Passed, ""),
            of(
                "two",
                Outcome::Failed,
                "thread 'two' panicked at src/lib.rs:1:1:\nboom",
            ),
            of("three", Outcome::Skipped, "takes an hour"),
            of("four", Outcome::Skipped, ""),
        ];
        assert_eq!(parsed(text), expected);
    }

    #[test]
    fn a_run_that_ends_in_the_middle_of_a_test() {
        let text = "running 3 tests\ntest one   ... ok\ntest two   ... ";
        let expected = [
            of("one", Outcome::Passed, ""),
            of("two", Outcome::Unfinished, "the run ended before it did"),
        ];
        assert_eq!(parsed(text), expected);
    }

    #[test]
    fn tests_whose_output_passes_through() {
        let text = "test storm::one ... 100 operations\n200 operations\nok\n\
            test storm::two ... test of what it prints\nFAILED\n";
        let expected = [
            of("storm::one", Outcome::Passed, ""),
            of("storm::two", Outcome::Failed, ""),
        ];
        assert_eq!(parsed(text), expected);
    }

    #[test]
    fn what_is_no_line_of_a_test_is_none() {
        let text = "ok\nFAILED\ntest\ntest  ... ok\ntesting ... ok\nnothing\n\
            test result: ok. 0 passed; 0 failed\ntest a ... okay\n";
        assert_eq!(
            parsed(text),
            [of("a", Outcome::Unfinished, "the run ended before it did")]
        );
    }

    #[test]
    fn time_is_known_of_a_test_that_was_seen_to_begin() {
        let mut parser = Parser::default();
        parser.take(b"test one ... ");
        std::thread::sleep(Duration::from_millis(2));
        parser.take(b"ok\ntest two ... ok\n");
        let tests = parser.finish();
        assert!(tests[0].time >= Some(Duration::from_millis(2)));
        assert_eq!(tests[1].time, None);
    }

    #[test]
    fn verdicts_as_text() {
        for (passed, failed, skipped, text) in [
            (0, 0, 0, "0 passed, 0 failed"),
            (430, 2, 0, "430 passed, 2 failed"),
            (1, 0, 21, "1 passed, 0 failed, 21 skipped"),
        ] {
            let verdict = Verdict {
                passed,
                failed,
                skipped,
            };
            assert_eq!(verdict.to_string(), text);
            assert_eq!(text.parse(), Ok(verdict));
        }
        for text in [
            "",
            "1 passed",
            "1 passed, 2 failed, 3 skipped, 4 left",
            "1 passed, 2 failed, 0 skipped",
            "-1 passed, 0 failed",
            "+1 passed, 0 failed",
            " 1 passed, 0 failed",
            "1 failed, 0 passed",
            "1 passed, 0 failed ",
        ] {
            assert_eq!(text.parse::<Verdict>(), Err(NoVerdict), "{text:?}");
        }
    }

    #[test]
    fn names_of_a_list() {
        let list = "a::b: test\nc: bench\n\n1 test, 1 benchmark\nd e: test\n";
        assert_eq!(names(list).collect::<Vec<_>>(), ["a::b", "d e"]);
    }
}
