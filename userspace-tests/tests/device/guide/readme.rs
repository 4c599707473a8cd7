// SPDX-License-Identifier: GPL-2.0
//! The README's examples: they are the files that run here, and print what they say.

use rustix::{
    io,
    pipe::pipe,
    stdio::{dup2_stdout, stdout},
};

use crate::{
    harness::tests,
    support::{
        assert_same,
        module::{self, fresh},
        process::Program,
    },
};

tests![
    shows_the_examples_as_they_are,
    the_c_example,
    the_rust_example
];

const README: &str = include_str!("../../../../README.md");
const C_SOURCE: &str = include_str!("../../../c/hello.c");
const RUST_SOURCE: &str = include_str!("../../../examples/hello.rs");
const C_PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hello"));

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
    let output = Program::new(C_PROGRAM).run(&[]);
    assert_same(&output.stdout, &expected("C"), "what it prints");
    let output = Program::new(C_PROGRAM).run(&[]);
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
