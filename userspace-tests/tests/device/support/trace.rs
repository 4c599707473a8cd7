// SPDX-License-Identifier: GPL-2.0
//! What the kernel says about each allocation of pages.

use std::{collections::BTreeSet, fs, path::Path};

use rustix::mount::{MountFlags, mount};

const TRACEFS: &str = "/sys/kernel/tracing";

/// An allocation of pages that was tried: the tracepoint kmem:mm_page_alloc.
#[derive(Debug)]
pub struct Allocation {
    pub order: u32,
    /// Names as in `GFP_KERNEL`, and `__GFP_ZERO` for what comes on top.
    pub flags: BTreeSet<String>,
    pub failed: bool,
}

/// What `call` returns, and what it allocated. Of the main thread only.
///
/// To read the trace takes memory in one piece, for which there may be a better time.
pub fn traced<T>(call: impl FnOnce() -> T) -> (T, Trace) {
    if !Path::new(TRACEFS).join("trace").exists() {
        mount("tracefs", TRACEFS, "tracefs", MountFlags::empty(), None).expect("mount tracefs");
    }
    let set = |file: &str, value: &str| {
        let path = Path::new(TRACEFS).join(file);
        fs::write(&path, value).unwrap_or_else(|err| panic!("{}: {err}", path.display()));
    };
    set("trace", "");
    // Not by set_event_pid: that changes the code of the scheduler while it runs, and emulated CPUs
    // do not always follow.
    let thread = format!("common_pid == {}", std::process::id());
    set("events/kmem/mm_page_alloc/filter", &thread);
    set("events/kmem/mm_page_alloc/enable", "1");
    let result = call();
    set("events/kmem/mm_page_alloc/enable", "0");
    (result, Trace(()))
}

/// The allocations of a call, until the next one is traced.
pub struct Trace(());

impl Trace {
    /// In their order.
    pub fn read(self) -> Vec<Allocation> {
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
