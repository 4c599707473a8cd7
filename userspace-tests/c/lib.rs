// SPDX-License-Identifier: GPL-2.0
//! The programs in C, built: static binaries that run wherever they are written to.

macro_rules! program {
    ($name:literal) => {
        include_bytes!(concat!(env!("OUT_DIR"), "/", $name))
    };
}

pub const EDITOR: &[u8] = program!("editor");
pub const GUIDE: &[u8] = program!("guide");
pub const HELLO: &[u8] = program!("hello");
pub const RING: &[u8] = program!("ring");
pub const SENSOR: &[u8] = program!("sensor");
pub const WRITERS: &[u8] = program!("writers");
