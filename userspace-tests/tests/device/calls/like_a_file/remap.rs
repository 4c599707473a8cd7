// SPDX-License-Identifier: GPL-2.0
//! mremap(2).

use std::ops::Range;

use super::{
    advice::GUARD_INSTALL,
    lock::{mlock, vm_lck},
    trial::{
        Case, Count, ELSEWHERE, FIXED, NONE, PRIVATE, READ, RW, Trial, WINDOWS, bytes, case,
        compare, used,
    },
};

pub const MAYMOVE: i32 = libc::MREMAP_MAYMOVE;
pub const TO: i32 = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
const DONTUNMAP: i32 = libc::MREMAP_MAYMOVE | libc::MREMAP_DONTUNMAP;

/// mremap of the whole mapping, which is what the call has made of it from then on.
pub fn remap(t: &mut Trial, count: usize, flags: i32, to: usize) {
    if let Some(start) = t.remap("mremap", t.all(), count, flags, to) {
        (t.start, t.count) = (start, count);
    }
}

/// Sees what is left where the mapping was.
fn look_back(t: &mut Trial, start: usize, count: usize) {
    let now = (t.start, t.count);
    (t.start, t.count) = (start, count);
    t.look();
    (t.start, t.count) = now;
}

/// What is in the way of growing.
fn wall(t: &mut Trial) {
    let anonymous = PRIVATE | FIXED | libc::MAP_ANONYMOUS as usize;
    t.map_part("a wall", t.count..t.count + 1, NONE, anonymous);
}

/// A case for every size, in the way that `prepare` and `flags` make it.
fn to_every_size(way: &str, prepare: fn(&mut Trial), flags: i32) -> Vec<Case> {
    let sizes: [(&str, Count); 9] = [
        ("nothing", |_| 0),
        ("a page", |_| 1),
        ("half", |t| t.count / 2),
        ("a page less", |t| t.count - 1),
        ("the same", |t| t.count),
        ("a page more", |t| t.count + 1),
        ("the buffer's end", Trial::rest),
        ("twice as much", |t| 2 * t.count),
        ("all addresses", |_| usize::MAX / bytes(1)),
    ];
    let sized = sizes.map(|(size, pages)| {
        case(format!("to {size}{way}"), move |t| {
            prepare(t);
            let (start, count) = (t.start, t.count);
            remap(t, pages(t), flags, ELSEWHERE);
            if t.start != start {
                look_back(t, start, count);
            }
        })
    });
    sized.into()
}

/// So that there are three VMAs.
fn in_parts(t: &mut Trial) {
    t.protect("mprotect", t.middle(), READ);
}

pub fn mremap_in_place() {
    let mut cases = to_every_size("", |_| (), 0);
    cases.extend(to_every_size(", walled in", wall, 0));
    cases.extend(to_every_size(", in parts", in_parts, 0));
    cases.extend(to_every_size(", locked", |t| mlock(t, t.all()), 0));
    compare(WINDOWS, used, &cases, &[]);
}

pub fn mremap_to_any_place() {
    let mut cases = to_every_size("", |_| (), MAYMOVE);
    cases.extend(to_every_size(", walled in", wall, MAYMOVE));
    compare(WINDOWS, used, &cases, &[]);
}

pub fn mremap_to_a_place() {
    let mut cases = to_every_size("", |_| (), TO);
    cases.extend(to_every_size(", in parts", in_parts, TO));
    cases.extend([
        moved("to an even address", TO, ELSEWHERE - 7),
        moved("onto itself", TO, 0),
        moved("onto a part of itself", TO, 1),
        moved("left mapped", DONTUNMAP, 0),
        moved("left mapped, to an odd address", DONTUNMAP | TO, ELSEWHERE),
        moved("left mapped, but not to move", libc::MREMAP_DONTUNMAP, 0),
        moved(
            "to an address, but not to move",
            libc::MREMAP_FIXED,
            ELSEWHERE,
        ),
        moved("with flags that nobody has", 8, 0),
        duplicated("duplicated", MAYMOVE),
        duplicated("duplicated to an address", TO),
        duplicated("duplicated in place", 0),
        duplicated("duplicated and left mapped", DONTUNMAP),
        case("left mapped and resized", |t| {
            let count = t.count;
            t.remap("less", t.all(), count / 2, DONTUNMAP, 0);
            t.remap("more", t.all(), count + 1, DONTUNMAP, 0);
        }),
        case("locked and left mapped", |t| {
            mlock(t, t.all());
            let (start, count) = (t.start, t.count);
            remap(t, count, DONTUNMAP | TO, ELSEWHERE);
            vm_lck(t);
            look_back(t, start, count);
        }),
        case("odd addresses", |t| {
            let (at, len, to) = (t.start, bytes(t.count), t.at(ELSEWHERE));
            for (step, at, len, to) in [
                ("from", at + 1, len, to),
                ("to", at, len, to + 1),
                ("beyond all", at, len, usize::MAX << 24),
                ("half a page less", at, len - bytes(1) / 2, to),
            ] {
                let arguments = [at, len, len, TO as usize, to];
                let start = t.places(step, libc::SYS_mremap, arguments);
                t.start = start.unwrap_or(t.start);
            }
        }),
    ]);
    compare(WINDOWS, used, &cases, &[]);
}

fn moved(name: &str, flags: i32, to: usize) -> Case {
    case(name, move |t| {
        let (start, count) = (t.start, t.count);
        remap(t, count, flags, to);
        look_back(t, start, count);
    })
}

/// Of an old size of 0.
fn duplicated(name: &str, flags: i32) -> Case {
    case(name, move |t| {
        let (start, count) = (t.start, t.count);
        if let Some(copy) = t.remap("mremap", 0..0, count, flags, ELSEWHERE) {
            t.start = copy;
            t.store("stores into the copy", t.probes(), 5);
            look_back(t, start, count);
        }
    })
}

/// mremap of a part, there and back.
fn part(t: &mut Trial, pages: Range<usize>, to: usize) {
    let count = pages.len();
    t.remap("there", pages.clone(), count, TO, to);
    t.look();
    t.remap("back", to..to + count, count, TO, pages.start);
}

pub fn mremap_of_parts() {
    let cases = [
        case("the middle", |t| part(t, t.middle(), ELSEWHERE)),
        case("the first page", |t| part(t, 0..1, ELSEWHERE)),
        case("the last page", |t| {
            part(t, t.count - 1..t.count, ELSEWHERE)
        }),
        case("the last page onto the first", |t| {
            part(t, t.count - 1..t.count, 0)
        }),
        case("the first half onto the second", |t| {
            part(t, 0..t.middle().start, t.middle().start);
        }),
        case("guards", |t| {
            t.advise("madvise", t.middle(), GUARD_INSTALL);
            remap(t, t.count, TO, ELSEWHERE);
        }),
        case("the middle, which is a guard", |t| {
            t.advise("madvise", t.middle(), GUARD_INSTALL);
            part(t, t.middle(), ELSEWHERE);
        }),
        case("across VMAs", |t| {
            t.protect("mprotect", t.middle(), READ);
            remap(t, t.count, TO, ELSEWHERE);
        }),
        case("across VMAs, there and back", |t| {
            t.protect("mprotect", t.middle(), READ);
            remap(t, t.count, TO, ELSEWHERE);
            t.protect("mprotect", t.all(), RW);
        }),
        case("across VMAs, left mapped", |t| {
            t.protect("mprotect", t.middle(), READ);
            remap(t, t.count, DONTUNMAP | TO, ELSEWHERE);
        }),
        case("across a gap", |t| {
            t.unmap("munmap", t.middle());
            remap(t, t.count, TO, ELSEWHERE);
        }),
        case("what is free", |t| {
            t.remap("mremap", t.count..t.count + 1, 1, TO, ELSEWHERE);
            t.remap("and more", 0..t.count + 1, t.count + 1, TO, ELSEWHERE);
        }),
        case("pages in another order", |t| {
            for (step, page, of) in [("first", 0, t.count - 1), ("last", t.count - 1, 0)] {
                let offset = t.window.first + of;
                let arguments = [t.at(page), bytes(1), 0, offset, 0];
                let _ = t.call(step, libc::SYS_remap_file_pages, arguments);
            }
        }),
    ];
    compare(WINDOWS, used, &cases, &[]);
}
