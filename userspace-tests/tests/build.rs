// SPDX-License-Identifier: GPL-2.0
//! Turns the uapi header into Rust with bindgen.

use std::{env, path::Path, process::Command};

const HEADER: &str = "../../src/uapi/rust_mmapdev.h";

fn main() {
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    bindings(Path::new(&out));
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

/// Ends the build with one sentence instead of a panic's backtrace.
fn fail(message: &str) -> ! {
    eprintln!("error: {message}");
    std::process::exit(1)
}
