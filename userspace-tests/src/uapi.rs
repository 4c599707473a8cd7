// SPDX-License-Identifier: GPL-2.0
//! The constants and structures of `src/uapi/rust_mmapdev.h`, as bindgen reads them.

#![allow(non_camel_case_types, missing_docs)]

include!(concat!(env!("OUT_DIR"), "/uapi.rs"));
