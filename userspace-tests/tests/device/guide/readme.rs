// SPDX-License-Identifier: GPL-2.0
//! The README and the pages it leads to: the README's examples are the files that run here, and print
//! what they say; the pages' tables name tests that there are, in both languages the same.

use rustix::{
    io,
    pipe::pipe,
    stdio::{dup2_stdout, stdout},
};

use crate::{
    harness::{self, tests},
    support::{
        assert_same,
        module::{self, fresh},
        process::Program,
    },
};

tests![
    shows_the_examples_as_they_are,
    names_tests_that_there_are,
    says_the_same_in_chinese,
    the_c_example,
    the_rust_example
];

const README: &str = include_str!("../../../../README.md");
const CHINESE: &str = include_str!("../../../../README.zh.md");
const GUIDE: &str = include_str!("../../../../docs/guide.md");
const SECURITY: &str = include_str!("../../../../docs/security.md");
const C_SOURCE: &str = include_str!("../../../c/hello.c");
const RUST_SOURCE: &str = include_str!("../../../examples/hello.rs");

/// What stands in backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// What the guide claims, as `page` has it: the section, and parts of names of tests.
fn claims(page: &str) -> impl Iterator<Item = (&str, Vec<&str>)> {
    page.lines().filter_map(|line| {
        let cells: Vec<_> = line
            .strip_prefix('|')?
            .strip_suffix('|')?
            .split('|')
            .map(str::trim)
            .collect();
        let section = cells[0];
        section.parse::<f32>().ok()?;
        assert_eq!(cells.len(), 4, "{line}");
        let names = quoted(cells[cells.len() - 1]);
        Some((
            section,
            names.map(|name| name.trim_end_matches('…')).collect(),
        ))
    })
}

/// Parts of names of the tests for what the guide claims in section 4.1, when `pattern` is "s4.1".
pub fn tests_of_section(pattern: &str) -> Option<Vec<&'static str>> {
    let wanted = pattern.strip_prefix('s')?;
    wanted.parse::<f32>().ok()?;
    let of_it = claims(GUIDE).filter(|(section, _)| section.starts_with(wanted));
    Some(of_it.flat_map(|(_, names)| names).collect())
}

fn names_tests_that_there_are() {
    let names: Vec<_> = harness::names().collect();
    let is_there = |part: &str| names.iter().any(|name| name.contains(part));
    for line in [README, CHINESE, GUIDE, SECURITY]
        .iter()
        .flat_map(|page| page.lines())
    {
        if line.starts_with('|') {
            for part in quoted(line).filter(|part| part.contains("::")) {
                assert!(is_there(part.trim_end_matches('…')), "no test {part}");
            }
        }
    }
    assert!(claims(GUIDE).count() > 40, "the guide's claims");
    for (section, names) in claims(GUIDE) {
        assert!(
            !names.is_empty(),
            "a claim of section {section} has no test"
        );
    }
}

fn says_the_same_in_chinese() {
    let pairs = claims(GUIDE).zip(claims(CHINESE));
    for (english, chinese) in pairs {
        assert_eq!(english, chinese, "docs/guide.md, and README.zh.md");
    }
    assert_eq!(claims(GUIDE).count(), claims(CHINESE).count());
}

mod hello {
    include!("../../../examples/hello.rs");

    pub fn run() -> Result<(), Box<dyn Error>> {
        main()
    }
}

fn shows_the_examples_as_they_are() {
    for (language, source) in [("c", C_SOURCE), ("rust", RUST_SOURCE)] {
        let block = format!("```{language}\n{source}```\n");
        assert!(
            README.contains(&block),
            "README.md has the {language} example word for word"
        );
    }
}

fn expected(language: &str) -> Vec<u8> {
    format!("before: {}\nafter: hello from {language}\n", module::TEXT).into_bytes()
}

fn the_c_example() {
    fresh(1);
    let output = Program::new(programs::HELLO).run(&[]);
    assert_same(&output.stdout, &expected("C"), "what it prints");
    let output = Program::new(programs::HELLO).run(&[]);
    let again = b"before: hello from C\nafter: hello from C\n";
    assert_same(&output.stdout, again, "what it prints the second time");
}

fn the_rust_example() {
    fresh(1);
    let (output, end) = pipe().expect("pipe");
    let own = io::dup(stdout()).expect("dup");
    dup2_stdout(&end).expect("dup2");
    let result = hello::run();
    dup2_stdout(&own).expect("dup2");
    result.expect("the example");
    let mut found = [0; 200];
    let n = io::read(&output, &mut found).expect("read");
    assert_same(&found[..n], &expected("Rust"), "what it prints");
}
