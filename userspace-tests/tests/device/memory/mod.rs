// SPDX-License-Identifier: GPL-2.0
//! Where the buffer's pages are, what puts them into a page table, and what happens to them there.

pub mod bytes_stay;
pub mod content;
pub mod cost;
pub mod fault;
pub mod fragmented;
pub mod huge;
pub mod moving;
pub mod pages;
pub mod poison;
