// SPDX-License-Identifier: GPL-2.0
//! What the module's KUnit tests find, which run when it is loaded into the debug kernel.

use std::{collections::BTreeSet, fs};

use crate::{
    harness::{on_debug_kernel, skip, tests},
    support::module::reload,
};

tests![every_case_passes];

/// A directory a suite, of the suites of all modules that are loaded.
const SUITES: &str = "/sys/kernel/debug/kunit";

/// Which suites run when their module is loaded. `qemu/init` has set it to none after the first load.
const FILTER: &str = "/sys/module/kunit/parameters/filter_glob";

/// The module's, with what their names begin with.
const PREFIX: &str = "rust_mmapdev_";
const OF_THE_MODULE: [&str; 7] = [
    "folio",
    "iov",
    "kunit",
    "mapping",
    "miscdevice",
    "pagemap",
    "virt",
];

fn every_case_passes() {
    if !on_debug_kernel() {
        skip("only the debug kernel has KUnit");
    }
    fs::write(FILTER, "*").expect(FILTER);
    reload("");
    fs::write(FILTER, "none").expect(FILTER);
    let suites = fs::read_dir(SUITES).expect(SUITES).filter_map(|entry| {
        let name = entry.expect("a suite").file_name().into_string().ok()?;
        name.strip_prefix(PREFIX).map(str::to_owned)
    });
    let suites: BTreeSet<_> = suites.collect();
    assert_eq!(suites, OF_THE_MODULE.map(str::to_owned).into());
    for suite in OF_THE_MODULE {
        let results = fs::read_to_string(format!("{SUITES}/{PREFIX}{suite}/results"))
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
