// SPDX-License-Identifier: GPL-2.0
//! Copies from and to memory that others write to at any moment.
//!
//! Volatile accesses, a word at a time where the memory is aligned for it: a slice of such memory
//! would be undefined behaviour.

const WORD: usize = size_of::<u64>();

/// Copies `buf.len()` bytes from `source` on into `buf`.
///
/// # Safety
///
/// The bytes from `source` on are mapped, readable memory for the length of the call.
pub unsafe fn read(mut source: *const u8, mut buf: &mut [u8]) {
    while !buf.is_empty() {
        let step = if source.cast::<u64>().is_aligned() && buf.len() >= WORD {
            // SAFETY: aligned, and in the caller's range.
            let word = unsafe { source.cast::<u64>().read_volatile() };
            buf[..WORD].copy_from_slice(&word.to_ne_bytes());
            WORD
        } else {
            // SAFETY: in the caller's range.
            buf[0] = unsafe { source.read_volatile() };
            1
        };
        source = source.wrapping_add(step);
        buf = &mut buf[step..];
    }
}

/// Copies `bytes` to `target`.
///
/// # Safety
///
/// The bytes from `target` on are mapped, writable memory for the length of the call, and no Rust
/// reference points to them.
pub unsafe fn write(mut target: *mut u8, mut bytes: &[u8]) {
    while let Some(&byte) = bytes.first() {
        let step = match bytes.first_chunk() {
            Some(word) if target.cast::<u64>().is_aligned() => {
                // SAFETY: aligned, and in the caller's range.
                unsafe {
                    target
                        .cast::<u64>()
                        .write_volatile(u64::from_ne_bytes(*word))
                };
                WORD
            }
            _ => {
                // SAFETY: in the caller's range.
                unsafe { target.write_volatile(byte) };
                1
            }
        };
        target = target.wrapping_add(step);
        bytes = &bytes[step..];
    }
}
