// SPDX-License-Identifier: GPL-2.0
//! A mapping of the device is a file's mapping: every call does to it what it does to a mapping of
//! a file of tmpfs, in the same process, at the same address, with the same bytes.
//!
//! What may differ stands beside each table of calls with its reason, and must differ indeed.
//! MADV_HWPOISON and MADV_SOFT_OFFLINE, which leave traces in the machine, are not among the calls.

mod advice;
mod descriptor;
mod lock;
mod map;
mod protect;
mod remap;
mod state;
mod track;
mod trial;

use crate::harness::tests;
use advice::*;
use descriptor::calls_on_the_descriptor;
use lock::*;
use map::*;
use protect::*;
use remap::*;
use state::*;
use track::*;

tests![
    mmap_with_every_flag,
    mmap_shared_validate_with_every_flag,
    mmap_for_every_protection,
    mmap_of_every_place,
    munmap_of_parts,
    madvise_of_all,
    madvise_of_a_part,
    madvise_of_what_nobody_touched,
    madvise_of_bad_ranges,
    madvise_there_and_back,
    madvise_and_children,
    madvise_of_guards,
    madvise_past_the_end,
    madvise_merges_equal_pages,
    process_madvise,
    mremap_in_place,
    mremap_to_any_place,
    mremap_to_a_place,
    mremap_of_parts,
    mprotect_of_parts,
    mprotect_page_by_page,
    mlock_and_what_follows,
    mlock_of_children,
    madvise_of_locked_pages,
    msync_with_every_flag,
    mincore_of_every_state,
    nodes,
    soft_dirty_pages,
    pagemap_scan,
    userfaultfd_registers,
    userfaultfd_tracks_writes,
    userfaultfd_tracks_first_writes,
    mseal_keeps,
    protection_keys,
    calls_on_the_descriptor,
];
