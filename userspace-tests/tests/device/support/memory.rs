// SPDX-License-Identifier: GPL-2.0
//! Mappings, and what the kernel tracks of their pages.

pub use mapping::*;

use crate::harness::skip;

/// The bit of a page's entry in pagemap that a write sets.
pub const SOFT_DIRTY: u64 = 1 << 55;

/// Skips the test where the kernel does not set that, as on arm64.
pub fn need_soft_dirty_bits() {
    let own = anonymous(1, RW, PRIVATE);
    own.write(0, b"!");
    if own.pagemap()[0] & SOFT_DIRTY == 0 {
        skip("this kernel does not track what is written");
    }
}
