// SPDX-License-Identifier: GPL-2.0
//! Signals: handlers, and accesses that end in one, which it is, about which address, for which
//! reason.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::process::fork;

/// A handler with SA_SIGINFO.
pub type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);

/// sigaction(2), without SA_RESTART. The handler is to make async-signal-safe calls only.
pub fn handle(signal: i32, handler: Handler) {
    // SAFETY: the handler is of the kind that SA_SIGINFO says.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO;
        let set = libc::sigaction(signal, &raw const action, std::ptr::null_mut());
        assert_eq!(set, 0, "sigaction");
    }
}

static EXPECTED: AtomicUsize = AtomicUsize::new(0);

/// Ends the process with the signal's code when it is about the expected address, and else with 99.
extern "C" fn on_signal(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel hands over a valid `info`; _exit may be called by a signal handler.
    unsafe {
        let as_expected = (*info).si_addr() as usize == EXPECTED.load(Relaxed);
        libc::_exit(if as_expected { (*info).si_code } else { 99 })
    }
}

pub const SEGV_MAPERR: i32 = 1;
pub const SEGV_ACCERR: i32 = 2;
pub const BUS_ADRERR: i32 = 2;

/// `access` of the byte at `address` must end in a SIGSEGV about this address, for this reason.
#[track_caller]
pub fn assert_segv(address: *mut u8, code: i32, access: impl FnOnce(*mut u8)) {
    assert_signal(libc::SIGSEGV, address, code, access);
}

/// The same of any signal.
#[track_caller]
pub fn assert_signal(signal: i32, address: *mut u8, code: i32, access: impl FnOnce(*mut u8)) {
    let child = fork(|_| {
        EXPECTED.store(address as usize, Relaxed);
        handle(signal, on_signal);
        access(address);
    });
    assert_eq!(child.wait().code(), Some(code));
}

pub fn load(address: *mut u8) {
    // SAFETY: this is to end in a signal.
    unsafe { address.read_volatile() };
}

pub fn store(address: *mut u8) {
    // SAFETY: this is to end in a signal.
    unsafe { address.write_volatile(b'!') };
}
