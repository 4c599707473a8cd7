// SPDX-License-Identifier: GPL-2.0

//! What differs between the kernels that are supported: all of it, and it goes with Linux 7.2.

use core::borrow::Borrow;

use kernel::types::Opaque;

use crate::abstractions::bindings;

/// The C `THIS_MODULE`.
///
/// Since Linux 7.3 there is `kernel::module::this_module()`, which takes the `OwnerModule` that
/// `#[vtable]` gives to a trait's implementations.
pub(crate) const fn this_module() -> *mut bindings::module {
    #[allow(improper_ctypes)] // Some lock types are empty structs in C, too.
    extern "C" {
        static __this_module: Opaque<bindings::module>;
    }
    // SAFETY: Every module has one. Only its address is taken.
    unsafe { __this_module.get() }
}

/// The value of a module parameter, of which `value()` returns a reference in Linux 7.2, and a copy
/// since 7.3.
#[allow(dead_code)] // Not every driver has one.
pub(crate) fn parameter<T: Copy>(value: impl Borrow<T>) -> T {
    *value.borrow()
}
