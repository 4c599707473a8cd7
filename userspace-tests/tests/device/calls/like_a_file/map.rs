// SPDX-License-Identifier: GPL-2.0
//! mmap(2) and munmap(2).

use std::os::fd::AsRawFd;

use super::trial::{
    Case, Differs, ELSEWHERE, EXEC, FIXED, NONE, PRIVATE, Part, READ, RW, SHARED, SMALL, Trial,
    WINDOWS, bytes, case, compare, name, unmapped, used,
};

/// The bit of MAP_LOCKED.
pub const LOCKED: usize = 13;

/// The bits of mmap's flags that have a name, as most machines have them.
const BITS: &[(usize, &str)] = &[
    (0, "SHARED"),
    (1, "PRIVATE"),
    (3, "DROPPABLE"),
    (4, "FIXED"),
    (5, "ANONYMOUS"),
    (6, "32BIT"),
    (8, "GROWSDOWN"),
    (11, "DENYWRITE"),
    (12, "EXECUTABLE"),
    (LOCKED, "LOCKED"),
    (14, "NORESERVE"),
    (POPULATE, "POPULATE"),
    (16, "NONBLOCK"),
    (17, "STACK"),
    (18, "HUGETLB"),
    (19, "SYNC"),
    (20, "FIXED_NOREPLACE"),
];
const POPULATE: usize = 15;

const TIB: usize = 1 << 40;
const FIXED_NOREPLACE: usize = 1 << 20;
const PR_SET_MEMORY_MERGE: usize = 67;

/// A case for each bit of the flags, with those of the mapping and some more.
fn for_every_flag(more: usize) -> Vec<Case> {
    let flag = |bit| {
        case(name(bit, BITS), move |t| {
            t.map("mmap", RW, t.sharing | more | (1 << bit));
            if [LOCKED, POPULATE].contains(&bit) {
                t.present("present", t.probes());
            }
        })
    };
    (0..32).map(flag).collect()
}

pub fn mmap_with_every_flag() {
    let mut cases = for_every_flag(0);
    cases.extend([
        case("no type", |t| t.map("mmap", RW, 0)),
        case("anywhere", |t| {
            let arguments = [0, bytes(t.count), RW, t.sharing, t.rw(), t.offset()];
            let start = t.places("mmap", libc::SYS_mmap, arguments);
            t.start = start.unwrap_or(t.start);
        }),
        case("POPULATE and NONBLOCK", |t| {
            t.map("mmap", RW, t.sharing | (1 << POPULATE) | (1 << 16));
        }),
    ]);
    compare(WINDOWS, unmapped, &cases, &[]);
}

pub fn mmap_shared_validate_with_every_flag() {
    let cases = for_every_flag(SHARED | PRIVATE);
    compare(WINDOWS, unmapped, &cases, &[]);
}

pub const NO_EXEC: &str = "the bytes of the buffer are data";

pub fn mmap_for_every_protection() {
    const DIFFERS: &[Differs] = &[
        Differs("to execute", &["--x", "r-x", "-wx", "rwx"], NO_EXEC),
        Differs(
            "READ_IMPLIES_EXEC",
            &["mmap", "VMAs", "loads", "in core"],
            NO_EXEC,
        ),
        Differs("executable later", &["VMAs"], NO_EXEC),
    ];
    let mut cases = vec![
        case("to execute", |t| {
            for (step, prot) in EXECUTING {
                t.map(step, prot, t.sharing | FIXED);
            }
            t.unmap("munmap", t.all());
        }),
        case("READ_IMPLIES_EXEC", |t| {
            t.in_child(|t| {
                let _ = t.call("personality", libc::SYS_personality, [0x40_0000]);
                t.map("mmap", READ, t.sharing);
                t.look();
            });
        }),
        case("executable later", |t| {
            t.map("mmap", RW, t.sharing);
            t.may_be_executed("VMAs");
        }),
    ];
    // PROT_SEM, bits of other machines, a bit of nobody's, and the two of mprotect alone.
    for more in [0, 0x8, 0x10, 0x20, 0x80, 0x0100_0000, 0x0200_0000] {
        for prot in (0..=RW).map(|prot| prot | more) {
            cases.push(case(format!("{prot:#x}"), move |t| {
                t.map("mmap", prot, t.sharing)
            }));
        }
    }
    for prot in 0..=RW {
        cases.push(case(
            format!("{prot:#x} through other descriptors"),
            move |t| {
                let subject = t.subject.clone();
                for (step, fd) in [("read-only", &subject.ro), ("write-only", &subject.wo)] {
                    let fd = fd.as_raw_fd() as usize;
                    let flags = t.sharing | FIXED;
                    let arguments = [t.start, bytes(t.count), prot, flags, fd, t.offset()];
                    t.places(step, libc::SYS_mmap, arguments);
                    t.protect(format!("{step}, mprotect"), t.all(), RW);
                    t.look();
                }
            },
        ));
    }
    compare(SMALL, unmapped, &cases, DIFFERS);
}

/// What the protections are called of which PROT_EXEC is part.
pub const EXECUTING: [(&str, usize); 4] = [
    ("--x", EXEC),
    ("r-x", EXEC | READ),
    ("-wx", EXEC | RW & !READ),
    ("rwx", EXEC | RW),
];

const END: &str = "the buffer ends there, where a file can grow: ENXIO";
/// Why a new VMA stays alone.
pub const ALONE: &str = "its flags change after the kernel has looked for a VMA to merge it with";

pub fn mmap_of_every_place() {
    const DIFFERS: &[Differs] = &[
        Differs(
            "past the end",
            &["a page more", "a page behind", "a TiB"],
            END,
        ),
        Differs(
            "offsets that no file has",
            &["the last", "half of all"],
            END,
        ),
        Differs("over a mapping, past the end", &["mmap", "VMAs then"], END),
        Differs("behind itself", &["VMAs"], ALONE),
        Differs("over its middle", &["VMAs"], ALONE),
    ];
    let there_and_back = |t: &mut Trial| {
        t.protect("to nothing", t.all(), NONE);
        t.protect("and back", t.all(), RW);
    };
    let behind_itself = |t: &mut Trial| {
        let middle = t.middle().start;
        t.map_part("first half", 0..middle, RW, t.sharing | FIXED);
        t.map_part("second half", middle..t.count, RW, t.sharing | FIXED);
    };
    let over_its_middle = |t: &mut Trial| {
        used(t);
        t.map_part("middle", t.middle(), RW, t.sharing | FIXED);
    };
    let cases = [
        case("behind itself", behind_itself),
        case("behind itself, then there and back", move |t| {
            behind_itself(t);
            there_and_back(t);
        }),
        case("over its middle", over_its_middle),
        case("over its middle, then there and back", move |t| {
            over_its_middle(t);
            there_and_back(t);
        }),
        case("over its middle, in the other way", |t| {
            used(t);
            let other = t.sharing ^ (SHARED | PRIVATE);
            t.map_part("middle", t.middle(), RW, other | FIXED);
        }),
        case("over its middle, for reading", |t| {
            used(t);
            t.map_part("middle", t.middle(), READ, t.sharing | FIXED);
        }),
        case("over its middle, which is free", |t| {
            used(t);
            t.unmap("munmap", t.middle());
            t.map_part("middle", t.middle(), READ, t.sharing | FIXED_NOREPLACE);
        }),
        case("over its middle, which must be free", |t| {
            used(t);
            t.map_part("middle", t.middle(), RW, t.sharing | FIXED_NOREPLACE);
        }),
        case("anonymous memory over its middle", |t| {
            used(t);
            let anonymous = PRIVATE | FIXED | libc::MAP_ANONYMOUS as usize;
            t.map_part("middle", t.middle(), RW, anonymous);
        }),
        case("a second time", |t| {
            used(t);
            let first = t.start;
            t.start = t.at(ELSEWHERE);
            t.map("again", RW, SHARED | FIXED);
            t.store("stores there", t.probes(), 2);
            t.start = first;
        }),
        case("of a process that wants equal pages merged", |t| {
            t.in_child(|t| {
                let _ = t.call("prctl", libc::SYS_prctl, [PR_SET_MEMORY_MERGE, 1]);
                used(t);
                t.look();
            });
        }),
        case("of nothing", |t| {
            t.map_part("mmap", 0..0, RW, t.sharing);
        }),
        case("unaligned", |t| {
            let (at, len, flags) = (t.start, bytes(t.count), t.sharing);
            for (step, at, offset, flags) in [
                ("offset", at, 1, flags),
                ("offset, by a byte", at, bytes(1) - 1, flags),
                ("address", at + 1, 0, flags),
                ("address that must be", at + 1, 0, flags | FIXED),
            ] {
                let arguments = [at, len, RW, flags, t.rw(), t.offset() + offset];
                t.places(step, libc::SYS_mmap, arguments);
            }
        }),
        case("of no descriptor", |t| {
            let arguments = [t.start, bytes(t.count), RW, t.sharing, usize::MAX, 0];
            t.places("mmap", libc::SYS_mmap, arguments);
        }),
        case("of all addresses", |t| {
            for (step, at, len) in [("any", 0, usize::MAX), ("the last", usize::MAX << 24, 1)] {
                let arguments = [at, len, RW, t.sharing | FIXED, t.rw(), t.offset()];
                t.places(step, libc::SYS_mmap, arguments);
            }
        }),
        case("past the end", |t| {
            let end = t.rest();
            t.map_part("a page more", 0..end + 1, RW, t.sharing | FIXED);
            t.map_part("a page behind", end..end + 1, RW, t.sharing | FIXED);
            t.map_part("a TiB", 0..TIB / bytes(1), RW, t.sharing | FIXED);
            t.unmap("munmap", 0..TIB / bytes(1));
        }),
        case("offsets that no file has", |t| {
            let last = usize::MAX - (bytes(1) - 1);
            for (step, offset) in [("the last", last - bytes(1)), ("half of all", 1 << 63)] {
                let arguments = [t.start, bytes(1), RW, t.sharing | FIXED, t.rw(), offset];
                t.places(step, libc::SYS_mmap, arguments);
            }
            // Its end is behind the last.
            let arguments = [t.start, bytes(2), RW, t.sharing | FIXED, t.rw(), last];
            t.places("behind all", libc::SYS_mmap, arguments);
            t.unmap("munmap", t.all());
        }),
        case("over a mapping, past the end", |t| {
            used(t);
            let (len, offset) = (bytes(t.count), bytes(t.window.buffer));
            let arguments = [t.start, len, RW, t.sharing | FIXED, t.rw(), offset];
            t.places("mmap", libc::SYS_mmap, arguments);
            t.vmas("VMAs then");
            t.unmap("munmap", t.all());
        }),
    ];
    compare(WINDOWS, unmapped, &cases, DIFFERS);
}

pub fn munmap_of_parts() {
    let parts: [(&str, Part); 5] = [
        ("the first page", |_| 0..1),
        ("the last page", |t| t.count - 1..t.count),
        ("the middle", Trial::middle),
        ("the first half", |t| 0..t.middle().start),
        ("all", Trial::all),
    ];
    let mut cases = vec![
        case("every third page", |t| {
            for i in t.probes().step_by(3) {
                t.unmap("munmap", i..i + 1);
            }
        }),
        case("more than there is", |t| t.unmap("munmap", 0..t.count + 3)),
        case("bad ranges", |t| {
            for (step, at, len) in [
                ("what is free", t.at(t.count), bytes(1)),
                ("nothing", t.start, 0),
                ("half a page", t.start, bytes(1) / 2),
                ("an odd address", t.start + 1, 1),
                ("all addresses", 0, usize::MAX),
            ] {
                let _ = t.call(step, libc::SYS_munmap, [at, len]);
            }
        }),
    ];
    for (name, part) in parts {
        cases.push(case(name, move |t| {
            t.unmap("munmap", part(t));
            t.look();
            t.map_part("and back", part(t), RW, t.sharing | FIXED_NOREPLACE);
            // Only the file's VMAs merge at once.
            t.protect("to nothing", t.all(), NONE);
            t.protect("to all", t.all(), RW);
        }));
    }
    compare(WINDOWS, used, &cases, &[]);
}
