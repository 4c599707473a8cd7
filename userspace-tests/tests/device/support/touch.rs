// SPDX-License-Identifier: GPL-2.0
//! Loads and stores that may be answered with a signal, and go on after it.

use std::ffi::c_void;

use libc::{c_int, siginfo_t, ucontext_t};
use rustix::process::Signal;

use super::signal::handle;

/// Tells such an access from all others, when a signal comes.
const MARK: u64 = 0x6c6f_6f6b_7361_6665;

/// From now on, signals of `touch` are taken note of; all others still end the process.
pub fn catch_signals() {
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        handle(signal, handler);
    }
}

extern "C" fn handler(signal: c_int, _info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel hands a handler with SA_SIGINFO the interrupted context.
    let context = unsafe { &mut *context.cast::<ucontext_t>() };
    if !cpu::resume(context, signal) {
        // It comes again, and is deadly then.
        // SAFETY: async-signal-safe.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Loads the byte at `address`, and stores it there again if `write`. The error is the signal.
pub fn touch(address: usize, write: bool) -> Result<(), Signal> {
    // SAFETY: an access that fails is caught, and any other byte than that of some mapping made
    // for this is not to be named.
    let signal = unsafe { cpu::access(address, write) };
    match signal {
        0 => Ok(()),
        n => Err(Signal::from_named_raw(n as i32).expect("one of the two")),
    }
}

#[cfg(target_arch = "x86_64")]
mod cpu {
    use std::arch::asm;

    use libc::{c_int, ucontext_t};

    use super::MARK;

    /// Has `access` go on behind what failed, with the signal as its result, if it is that.
    pub fn resume(context: &mut ucontext_t, signal: c_int) -> bool {
        let registers = &mut context.uc_mcontext.gregs;
        let is_marked = registers[libc::REG_R10 as usize] as u64 == MARK;
        if is_marked {
            registers[libc::REG_RAX as usize] = signal.into();
            registers[libc::REG_RIP as usize] = registers[libc::REG_R11 as usize];
        }
        is_marked
    }

    /// # Safety
    ///
    /// Nobody relies on the byte at `address`.
    pub unsafe fn access(address: usize, write: bool) -> u64 {
        let signal: u64;
        // SAFETY: as above; the byte stays as it is.
        unsafe {
            asm!(
                "lea r11, [rip + 2f]",
                "xor eax, eax",
                "test {write}, {write}",
                "jz 3f",
                "lock or byte ptr [{address}], 0",
                "jmp 2f",
                "3:",
                "mov {byte}, byte ptr [{address}]",
                "2:",
                address = in(reg) address,
                write = in(reg) u64::from(write),
                byte = out(reg_byte) _,
                out("rax") signal,
                inout("r10") MARK => _,
                out("r11") _,
            )
        };
        signal
    }
}

#[cfg(target_arch = "aarch64")]
mod cpu {
    use std::arch::asm;

    use libc::{c_int, ucontext_t};

    use super::MARK;

    /// As for the other processor.
    pub fn resume(context: &mut ucontext_t, signal: c_int) -> bool {
        let context = &mut context.uc_mcontext;
        let is_marked = context.regs[10] == MARK;
        if is_marked {
            context.regs[9] = signal as u64;
            context.pc = context.regs[11];
        }
        is_marked
    }

    /// # Safety
    ///
    /// Nobody relies on the byte at `address`.
    pub unsafe fn access(address: usize, write: bool) -> u64 {
        let signal: u64;
        // SAFETY: as above; the byte stays as it is.
        unsafe {
            asm!(
                "adr x11, 2f",
                "mov x9, xzr",
                "cbz {write}, 3f",
                "4:",
                "ldxrb {byte:w}, [{address}]",
                "stxrb {failed:w}, {byte:w}, [{address}]",
                "cbnz {failed:w}, 4b",
                "b 2f",
                "3:",
                "ldrb {byte:w}, [{address}]",
                "2:",
                address = in(reg) address,
                write = in(reg) u64::from(write),
                byte = out(reg) _,
                failed = out(reg) _,
                out("x9") signal,
                inout("x10") MARK => _,
                out("x11") _,
            )
        };
        signal
    }
}
