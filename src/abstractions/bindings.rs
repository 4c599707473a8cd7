// SPDX-License-Identifier: GPL-2.0

//! The `kernel` crate's bindings, and what they lack in some configuration or other:
//! `bindings_helper.h`, through bindgen.

#![allow(
    clippy::all,
    dead_code,
    improper_ctypes,
    missing_docs,
    non_camel_case_types,
    non_upper_case_globals,
    unreachable_pub
)]

pub(crate) use kernel::bindings::*;
use kernel::ffi;

// These stand before those of the same names.
include!(env!("RUST_MMAPDEV_BINDINGS_RS"));
