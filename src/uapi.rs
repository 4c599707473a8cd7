// SPDX-License-Identifier: GPL-2.0

//! The user-space interface: `src/uapi/rust_mmapdev.h`, through bindgen.

#![allow(dead_code, missing_docs, non_camel_case_types, unreachable_pub)]
#![forbid(unsafe_code)]

include!(env!("RUST_MMAPDEV_UAPI_RS"));
