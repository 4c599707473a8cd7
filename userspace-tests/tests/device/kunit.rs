// SPDX-License-Identifier: GPL-2.0
//! What the module's KUnit tests find, which run when it is loaded into the debug kernel.

use std::fs;

use crate::{
    harness::{on_debug_kernel, skip, tests},
    support::module::reload,
};

tests![every_case_passes];

/// A directory a suite, of the suites of all modules that are loaded.
const SUITES: &str = "/sys/kernel/debug/kunit";

/// Which suites run when their module is loaded. `qemu/init` has set it to none after the first load.
const FILTER: &str = "/sys/module/kunit/parameters/filter_glob";

const OF_THE_MODULE: [&str; 3] = [
    "rust_mmapdev_mapping",
    "rust_mmapdev_shmem",
    "rust_mmapdev_vm_operations",
];

fn every_case_passes() {
    if !on_debug_kernel() {
        skip("only the debug kernel has KUnit");
    }
    fs::write(FILTER, "*").expect(FILTER);
    reload("");
    fs::write(FILTER, "none").expect(FILTER);
    for suite in OF_THE_MODULE {
        let results = fs::read_to_string(format!("{SUITES}/{suite}/results"))
            .unwrap_or_else(|err| panic!("results of {suite}: {err}"));
        let cases = results
            .lines()
            .find_map(|line| line.strip_prefix("    1..")?.parse::<usize>().ok())
            .unwrap_or_else(|| panic!("no plan of {suite}:\n{results}"));
        let passed = results
            .lines()
            .filter(|line| line.starts_with("    ok ") && !line.contains("# SKIP"))
            .count();
        assert!(cases > 0 && passed == cases, "{results}");
    }
}
