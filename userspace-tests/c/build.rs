// SPDX-License-Identifier: GPL-2.0
//! Builds the C programs as static binaries.

use std::{env, path::Path};

const PROGRAMS: &[&str] = &["editor", "guide", "hello", "ring", "sensor", "writers"];

fn main() {
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    for program in PROGRAMS {
        compile(program, Path::new(&out));
    }
}

fn compile(program: &str, out: &Path) {
    let source = format!("{program}.c");
    println!("cargo::rerun-if-changed={source}");
    let mut compiler = cc::Build::new()
        .flag("-std=gnu11")
        .flag("-Wall")
        .flag("-Wextra")
        .flag("-Werror")
        .opt_level(1)
        .debug(false)
        .get_compiler()
        .to_command();
    let status = compiler
        .args(["-static", "-s", "-pthread", "-o"])
        .arg(out.join(program))
        .arg(&source)
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(_) => fail(&format!(
            "the C compiler could not build {source}: see its messages; a static libc (libc6-dev) is needed"
        )),
        Err(err) => fail(&format!(
            "cannot run the C compiler {:?} ({err}): install gcc, or name one in the variable CC",
            compiler.get_program()
        )),
    }
}

/// Ends the build with one sentence instead of a panic's backtrace.
fn fail(message: &str) -> ! {
    eprintln!("error: {message}");
    std::process::exit(1)
}
