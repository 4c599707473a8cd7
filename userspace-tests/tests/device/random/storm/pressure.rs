// SPDX-License-Identifier: GPL-2.0
//! What a storm happens in: swap, CPUs that come and go, and a process that wants all memory.

use std::{
    fs,
    mem::forget,
    path::{Path, PathBuf},
    process::Command,
    thread::sleep,
    time::Duration,
};

use rustix::process::{Pid, nice};

use crate::support::{
    memory::{self, Advice, PRIVATE, RW, page},
    proc::meminfo,
    process::OneCpu,
};

/// Swap on a compressed RAM disk, where the kernel has one built in. Switched off when dropped.
pub struct Swap(());

impl Swap {
    const DEVICE: &str = "/dev/zram0";

    pub fn on(bytes: usize) -> Option<Self> {
        if !Path::new(Self::DEVICE).exists() {
            return None;
        }
        // A test that was killed has left it on.
        let swaps = fs::read_to_string("/proc/swaps").expect("swaps");
        if swaps.contains(Self::DEVICE) {
            Self::run("swapoff");
        }
        Self::reset();
        fs::write("/sys/block/zram0/disksize", bytes.to_string()).expect("disksize");
        let this = Self(());
        Self::run("mkswap");
        Self::run("swapon");
        Some(this)
    }

    fn run(command: &str) {
        let output = Command::new(command).arg(Self::DEVICE).output();
        let output = output.expect(command);
        assert!(output.status.success(), "{command}: {output:?}");
    }

    fn reset() {
        fs::write("/sys/block/zram0/reset", "1").expect("reset");
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        Self::run("swapoff");
        Self::reset();
    }
}

/// A process that the OOM killer passes over until this is dropped: what it does when the one that
/// wants all memory takes its time to end must not end the test.
pub struct Spared {
    oom_score_adj: PathBuf,
    before: String,
}

impl Spared {
    pub fn new(pid: Pid) -> Self {
        let oom_score_adj = PathBuf::from(format!("/proc/{pid}/oom_score_adj"));
        let before = fs::read_to_string(&oom_score_adj).expect("oom_score_adj");
        fs::write(&oom_score_adj, "-1000").expect("oom_score_adj");
        Self {
            oom_score_adj,
            before,
        }
    }
}

impl Drop for Spared {
    fn drop(&mut self) {
        fs::write(&self.oom_score_adj, &self.before).expect("oom_score_adj");
    }
}

/// How willingly the OOM killer takes this process; 0 is usual.
pub fn set_oom_score_adj(value: i32) {
    fs::write("/proc/self/oom_score_adj", value.to_string()).expect("oom_score_adj");
}

/// Takes a CPU away and gives it back, where the VM has two. Whether it has.
pub fn replug_cpu() -> bool {
    OneCpu::new().is_some()
}

/// The life of a process that takes memory until the OOM killer comes for it.
pub fn want_all_memory() -> ! {
    set_oom_score_adj(1000);
    // Ahead of the workers, or it would take minutes.
    nice(-20).expect("nice");
    let pages = meminfo("MemTotal") as usize / 64 / page();
    loop {
        // It fails when the process is being killed.
        if let Ok(some) = memory::try_anonymous(pages, RW, PRIVATE) {
            let _ = some.advise(Advice::LinuxPopulateWrite);
            forget(some);
        }
        // The others are to get along with what is left.
        sleep(Duration::from_millis(50));
    }
}
