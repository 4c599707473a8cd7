// SPDX-License-Identifier: GPL-2.0

//! A module that has nothing to do with this project: `make install-test` builds it against the
//! headers that `scripts/debian-rust-headers` has completed, and loads it.

use kernel::prelude::*;

module! {
    type: Other,
    name: "other",
    authors: ["The rust_mmapdev developers"],
    description: "Says that it is there",
    license: "GPL",
}

struct Other;

impl kernel::Module for Other {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        pr_info!("loaded\n");
        Ok(Self)
    }
}
