// SPDX-License-Identifier: GPL-2.0

//! Memory management.

pub(crate) mod folio;
pub(crate) mod pagemap;
pub(crate) mod virt;
