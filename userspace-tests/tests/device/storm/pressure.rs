// SPDX-License-Identifier: GPL-2.0
//! What a storm happens in: swap, CPUs that come and go, and a process that wants all memory.

use std::{fs, mem::forget, path::Path, process::Command, thread::sleep, time::Duration};

use rustix::process::nice;

use crate::support::{
    memory::{self, Advice, PRIVATE, RW, page},
    proc::meminfo,
};

/// Swap on a compressed RAM disk, where the kernel has one built in. Switched off when dropped.
pub struct Swap(());

impl Swap {
    const DEVICE: &str = "/dev/zram0";

    pub fn on(bytes: usize) -> Option<Self> {
        if !Path::new(Self::DEVICE).exists() {
            return None;
        }
        fs::write("/sys/block/zram0/disksize", bytes.to_string()).expect("disksize");
        let this = Self(());
        this.run("mkswap");
        this.run("swapon");
        Some(this)
    }

    fn run(&self, command: &str) {
        let output = Command::new(command).arg(Self::DEVICE).output();
        let output = output.expect(command);
        assert!(output.status.success(), "{command}: {output:?}");
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        self.run("swapoff");
        fs::write("/sys/block/zram0/reset", "1").expect("reset");
    }
}

/// Takes a CPU away and gives it back, where the VM has two. Whether it has.
pub fn replug_cpu() -> bool {
    const ONLINE: &str = "/sys/devices/system/cpu/cpu1/online";
    let has_two = Path::new(ONLINE).exists();
    if has_two {
        for value in ["0", "1"] {
            fs::write(ONLINE, value).unwrap_or_else(|err| panic!("{value} to {ONLINE}: {err}"));
        }
    }
    has_two
}

/// The life of a process that takes memory until the OOM killer comes for it.
pub fn want_all_memory() -> ! {
    fs::write("/proc/self/oom_score_adj", "1000").expect("oom_score_adj");
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
