// SPDX-License-Identifier: GPL-2.0
//! Turns the uapi header into Rust with bindgen, and builds the C programs as static binaries.

use std::{env, path::Path, process::Command};

const HEADER: &str = "../../src/uapi/rust_mmapdev.h";
const PROGRAMS: &[&str] = &["editor", "guide", "hello", "ring", "sensor", "writers"];

fn main() {
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    bindings(Path::new(&out));
    for program in PROGRAMS {
        compile(program, Path::new(&out));
    }
}

fn bindings(out: &Path) {
    println!("cargo::rerun-if-changed={HEADER}");
    println!("cargo::rerun-if-env-changed=BINDGEN");
    let bindgen = env::var("BINDGEN").unwrap_or_else(|_| "bindgen".into());
    let output = Command::new(&bindgen)
        .args(["--use-core", "--ctypes-prefix", "core::ffi"])
        .args(["--allowlist-item", "(RUST_MMAPDEV|rust_mmapdev)_.*"])
        .args(["--rust-target", "1.85"])
        .args(["--default-enum-style", "consts", "--no-prepend-enum-name"])
        .arg(HEADER)
        .output()
        .unwrap_or_else(|err| {
            fail(&format!(
                "cannot run `{bindgen}` ({err}): install bindgen 0.71 or newer, or name one in the variable BINDGEN"
            ))
        });
    if !output.status.success() {
        fail(&format!(
            "`{bindgen}` refused {HEADER}:\n{}",
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    std::fs::write(out.join("uapi.rs"), output.stdout).expect("OUT_DIR is writable");
}

fn compile(program: &str, out: &Path) {
    let source = format!("../c/{program}.c");
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
