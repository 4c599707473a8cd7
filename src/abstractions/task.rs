// SPDX-License-Identifier: GPL-2.0

//! Signals of the current task.
//!
//! C header: [`include/linux/sched/signal.h`](srctree/include/linux/sched/signal.h)

use kernel::prelude::*;

use crate::abstractions::bindings;

/// Whether the current task is being killed, and a long operation had better end: the C
/// `fatal_signal_pending(current)`.
///
/// # Examples
///
/// ```
/// use kernel::prelude::*;
/// use rust_mmapdev::abstractions::task::fatal_signal_pending;
///
/// /// EINTR: the caller is being killed.
/// fn step() -> Result {
///     if fatal_signal_pending() {
///         return Err(EINTR);
///     }
///     Ok(())
/// }
/// ```
pub fn fatal_signal_pending() -> bool {
    if !current!().signal_pending() {
        return false;
    }
    let task = current!().as_ptr();
    // SAFETY: The current task outlives this call. Other tasks set bits of its pending set at any
    // moment, as the C function expects too: it makes this very load, and so do we, volatile.
    let pending = unsafe { (&raw const (*task).pending.signal.sig[0]).read_volatile() };
    pending & (1 << (bindings::SIGKILL - 1)) != 0
}
