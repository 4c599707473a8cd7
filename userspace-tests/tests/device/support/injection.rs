// SPDX-License-Identifier: GPL-2.0
//! Faults made to order: the kernel's fault injection, one allocation or copy of one call at a
//! time. See Documentation/fault-injection/fault-injection.rst.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
};

use rustix::io::{self, Errno};

use crate::harness::skip;

const DEBUGFS: &str = "/sys/kernel/debug";

/// This thread's fail-nth: the n-th thing that may fail from now on does.
pub struct Injection(File);

impl Injection {
    /// Has all kinds of allocations take part. Skips the test on a kernel without fault injection.
    pub fn new() -> Self {
        let Ok(file) = File::options()
            .read(true)
            .write(true)
            .open("/proc/thread-self/fail-nth")
        else {
            skip("this kernel injects no faults: KERNEL=debug does")
        };
        for (attribute, value) in [
            ("failslab/ignore-gfp-wait", "N"),
            ("failslab/verbose", "0"),
            ("fail_page_alloc/ignore-gfp-wait", "N"),
            ("fail_page_alloc/ignore-gfp-highmem", "N"),
            ("fail_page_alloc/min-order", "0"),
            ("fail_page_alloc/verbose", "0"),
            ("fail_usercopy/verbose", "0"),
        ] {
            fs::write(Path::new(DEBUGFS).join(attribute), value).expect(attribute);
        }
        Self(file)
    }

    /// Makes `call` while its `nth` chance to fail, counted from 1, is taken; [`None`] where it has
    /// fewer, and nothing has failed.
    pub fn at<T>(&self, nth: u32, call: impl FnOnce() -> T) -> Option<T> {
        self.set(nth);
        let result = call();
        // Reading is a chance too: it fails when there was one left.
        let mut left = [0; 16];
        let taken = matches!(self.0.read_at(&mut left, 0), Ok(n) if &left[..n] == b"0\n");
        self.set(0);
        taken.then_some(result)
    }

    fn set(&self, nth: u32) {
        // Fails when this was the chance.
        while self.0.write_at(nth.to_string().as_bytes(), 0).is_err() {}
    }

    /// Makes `call` again and again, each time with the next chance to fail taken, until it has
    /// no more: it fails with one of `errors`, or the kernel gets along without. After each time
    /// it is made once more, and must succeed. What it returns is dropped, and then `reset` called,
    /// which checks what is left and makes everything ready for the next call.
    #[track_caller]
    pub fn each<T: Debug>(
        &self,
        errors: &[Errno],
        mut call: impl FnMut() -> io::Result<T>,
        mut reset: impl FnMut(),
    ) -> Outcomes {
        let mut outcomes = Outcomes::default();
        reset();
        // The first time, memory of the process's own is touched too.
        drop(call().expect("the call, before anything fails"));
        for nth in 1.. {
            reset();
            let Some(result) = self.at(nth, &mut call) else {
                break;
            };
            match &result {
                Ok(_) => outcomes.absorbed += 1,
                Err(errno) => {
                    assert!(errors.contains(errno), "failure {nth} gives {errno:?}");
                    *outcomes.errors.entry(errno.raw_os_error()).or_default() += 1;
                }
            }
            drop(result);
            reset();
            drop(call().unwrap_or_else(|err| panic!("the call after failure {nth}: {err}")));
        }
        println!("{outcomes:?}");
        outcomes
    }
}

/// How calls ended in which something failed.
#[derive(Debug, Default)]
pub struct Outcomes {
    /// With which errno, how many times.
    errors: BTreeMap<i32, u32>,
    /// Well: the kernel got along without.
    pub absorbed: u32,
}

impl Outcomes {
    /// At least so many calls ended with `errno`.
    #[track_caller]
    pub fn assert(&self, errno: Errno, least: u32) {
        let found = self.errors.get(&errno.raw_os_error()).unwrap_or(&0);
        assert!(
            *found >= least,
            "{errno:?} at least {least} times: {self:?}"
        );
    }
}
