// SPDX-License-Identifier: GPL-2.0
//! What the system does to memory without being asked by whoever uses it.

use std::{fs, path::Path};

use arbitrary::{Arbitrary, Result, Unstructured};

use super::proc::Setting;

const THP: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";

/// A change of it.
#[derive(Clone, Copy, Debug)]
pub enum Sysctl {
    /// transparent_hugepage/enabled, where the kernel has it.
    HugePages(&'static str),
    Compaction,
    DropCaches,
}

impl Sysctl {
    pub const ALL: &[Self] = &[
        Self::HugePages("always"),
        Self::HugePages("always"),
        Self::HugePages("madvise"),
        Self::HugePages("never"),
        Self::Compaction,
        Self::DropCaches,
    ];

    pub fn set(self) {
        let (path, value) = match self {
            Self::HugePages(value) => (THP, value),
            Self::Compaction => ("/proc/sys/vm/compact_memory", "1"),
            Self::DropCaches => (DROP_CACHES, "3"),
        };
        if Path::new(path).exists() {
            fs::write(path, value).unwrap_or_else(|err| panic!("{value} to {path}: {err}"));
        }
    }

    /// Huge pages everywhere, until what is returned is dropped: then it is as it was.
    pub fn restored() -> Option<Setting> {
        // From now on the kernel's log does not tell of each time.
        fs::write(DROP_CACHES, "4").expect(DROP_CACHES);
        Path::new(THP).exists().then(|| Setting::new(THP, "always"))
    }
}

impl<'a> Arbitrary<'a> for Sysctl {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        u.choose(Self::ALL).copied()
    }
}
