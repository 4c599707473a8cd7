// SPDX-License-Identifier: GPL-2.0
//! Memory cgroups: processes that get no more memory than a test lets them have.

use std::{fs, ptr, thread::sleep, time::Duration};

use super::proc::number;

const ROOT: &str = "/sys/fs/cgroup";

/// A memory cgroup of a test's own, removed when dropped.
pub struct Cgroup(String);

impl Cgroup {
    pub fn new(name: &str) -> Self {
        let (target, kind) = (c"/sys/fs/cgroup", c"cgroup2");
        // SAFETY: the strings have an end. EBUSY: it is mounted already.
        unsafe {
            libc::mount(
                kind.as_ptr(),
                target.as_ptr(),
                kind.as_ptr(),
                0,
                ptr::null(),
            )
        };
        fs::write(format!("{ROOT}/cgroup.subtree_control"), "+memory")
            .expect("the memory controller");
        let path = format!("{ROOT}/{name}");
        fs::create_dir_all(&path).expect("a cgroup");
        Self(path)
    }

    pub fn set(&self, file: &str, value: &str) {
        fs::write(format!("{}/{file}", self.0), value).expect(file);
    }

    pub fn get(&self, file: &str) -> String {
        fs::read_to_string(format!("{}/{file}", self.0)).expect(file)
    }

    /// Puts the calling process into it.
    pub fn enter(&self) {
        self.set("cgroup.procs", "0");
    }

    /// The most memory that was in use at a time, in bytes.
    pub fn peak(&self) -> usize {
        self.get("memory.peak").trim().parse().expect("a number")
    }

    /// Processes that the OOM killer ended for it.
    pub fn oom_kills(&self) -> u64 {
        number(&self.get("memory.events"), "oom_kill")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A process that has just ended may be in it for a moment.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            sleep(Duration::from_millis(10));
        }
    }
}
