// SPDX-License-Identifier: GPL-2.0
//! What the kernel says about each allocation of pages.

use std::{collections::BTreeSet, fs, path::Path};

use rustix::mount::{MountFlags, mount};

use super::process::OneCpu;

const TRACEFS: &str = "/sys/kernel/tracing";

/// Whose allocations are recorded.
const FILTER: &str = "events/kmem/mm_page_alloc/filter";
const NOBODY: &str = "common_pid < 0";

/// An allocation of pages that was tried: the tracepoint kmem:mm_page_alloc.
#[derive(Debug)]
pub struct Allocation {
    pub order: u32,
    /// Names as in `GFP_KERNEL`, and `__GFP_ZERO` for what comes on top.
    pub flags: BTreeSet<String>,
    pub failed: bool,
}

/// The kernel's record of allocations, as long as it lives.
///
/// To begin and to end takes memory, and so does reading: there may be a better time for it than that
/// of the call.
pub struct Trace(());

impl Trace {
    pub fn new() -> Self {
        if !Path::new(TRACEFS).join("trace").exists() {
            mount("tracefs", TRACEFS, "tracefs", MountFlags::empty(), None).expect("mount tracefs");
        }
        set("trace", "");
        set(FILTER, NOBODY);
        switch("1");
        Self(())
    }

    /// What `call` returns. What it allocates is recorded, if this is the main thread.
    pub fn record<T>(&self, call: impl FnOnce() -> T) -> T {
        set(FILTER, &format!("common_pid == {}", std::process::id()));
        let result = call();
        set(FILTER, NOBODY);
        result
    }

    /// What was recorded, in its order.
    pub fn read(&self) -> Vec<Allocation> {
        let trace = fs::read_to_string(Path::new(TRACEFS).join("trace")).expect("the trace");
        let counts = trace
            .lines()
            .find_map(|line| line.strip_prefix("# entries-in-buffer/entries-written: "))
            .and_then(|line| line.split_whitespace().next()?.split_once('/'));
        assert!(
            counts.is_some_and(|(kept, written)| kept == written),
            "all of it is there: {counts:?}"
        );
        let allocations = trace.lines().filter(|line| !line.starts_with('#'));
        allocations.map(Allocation::parse).collect()
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        switch("0");
    }
}

fn set(file: &str, value: &str) {
    let path = Path::new(TRACEFS).join(file);
    fs::write(&path, value).unwrap_or_else(|err| panic!("{}: {err}", path.display()));
}

/// Begins or ends recording. The kernel changes its own code for it, and with QEMU 7.2 an emulated CPU
/// that runs there at that moment may meet a breakpoint that has gone: there is to be no other CPU.
fn switch(value: &str) {
    let _alone = OneCpu::new();
    set("events/kmem/mm_page_alloc/enable", value);
}

impl Allocation {
    fn parse(line: &str) -> Self {
        let value = |key| {
            let value = line.split(key).nth(1)?.split_whitespace().next()?;
            Some(value.to_owned())
        };
        let parse = || {
            Some(Self {
                order: value(" order=")?.parse().ok()?,
                flags: value(" gfp_flags=")?
                    .split('|')
                    .map(str::to_owned)
                    .collect(),
                failed: value(" pfn=")? == "0x0",
            })
        };
        parse().unwrap_or_else(|| panic!("{line}"))
    }

    /// Whether all of `flags` are among those of the allocation.
    pub fn has(&self, flags: &[&str]) -> bool {
        flags.iter().all(|flag| self.flags.contains(*flag))
    }
}
