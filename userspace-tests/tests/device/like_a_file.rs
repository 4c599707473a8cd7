// SPDX-License-Identifier: GPL-2.0
//! A mapping of the device is a file's mapping: every call does to it what it does to a mapping of
//! a file of tmpfs, in the same process, at the same address, with the same bytes.
//!
//! What may differ stands beside each table of calls with its reason, and must differ indeed.
//! MADV_HWPOISON and MADV_SOFT_OFFLINE, which leave traces in the machine, are not among the calls.

mod trial;

use std::{
    fs,
    ops::Range,
    os::fd::{AsRawFd, OwnedFd},
    process,
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{
    harness::tests,
    support::{proc::status_kib, process::become_nobody},
};
use trial::{
    Body, Case, Differs, ELSEWHERE, EXEC, FIXED, NONE, ONE, PRIVATE, READ, RW, SHARED, SMALL, Trial,
    WINDOWS, address, bytes, case, compare, mapped, unmapped, used,
};

tests![
    mmap_with_every_flag,
    mmap_for_every_protection,
    mmap_of_every_place,
    munmap_of_parts,
    madvise_of_all,
    madvise_of_a_part,
    madvise_of_what_nobody_touched,
    madvise_of_bad_ranges,
    madvise_and_what_follows,
    madvise_by_another_process,
    mremap_to_sizes,
    mremap_to_places,
    mprotect_of_parts,
    mprotect_page_by_page,
    mlock_and_what_follows,
    madvise_of_locked_pages,
    msync_with_every_flag,
    mincore_of_every_state,
    nodes,
    soft_dirty_pages,
    pagemap_scan,
    userfaultfd_registers,
    userfaultfd_tracks_writes,
    mseal_keeps,
    protection_keys,
    calls_on_the_descriptor,
];

/// A number's name, or the number.
fn name(number: usize, names: &[(usize, &str)]) -> String {
    let known = names.iter().find(|(of, _)| *of == number);
    known.map_or_else(|| number.to_string(), |(_, name)| (*name).to_owned())
}

// mmap and munmap

const TIB: usize = 1 << 40;
const FIXED_NOREPLACE: usize = 1 << 20;
const PR_SET_MEMORY_MERGE: usize = 67;

/// The bits of mmap's flags that have a name, as most machines have them.
const MAP_BITS: &[(usize, &str)] = &[
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
const LOCKED: usize = 13;
const POPULATE: usize = 15;

fn mmap_with_every_flag() {
    let mut cases = vec![
        case("no type", |t| t.map("mmap", RW, 0)),
        case("anywhere", |t| {
            let arguments = [0, bytes(t.count), RW, t.sharing, t.rw(), t.offset()];
            t.start = t.places("mmap", libc::SYS_mmap, arguments).unwrap_or(t.start);
        }),
        case("POPULATE and NONBLOCK", |t| {
            t.map("mmap", RW, t.sharing | 1 << POPULATE | 1 << 16);
        }),
    ];
    for (bit, validated) in (0..32).flat_map(|bit| [(bit, false), (bit, true)]) {
        let prefix = if validated { "SHARED_VALIDATE and " } else { "" };
        cases.push(case(format!("{prefix}{}", name(bit, MAP_BITS)), move |t| {
            let kind = if validated { SHARED | PRIVATE } else { t.sharing };
            t.map("mmap", RW, kind | 1 << bit);
            if [LOCKED, POPULATE].contains(&bit) {
                t.present("present", t.probes());
            }
        }));
    }
    compare(WINDOWS, unmapped, &cases, &[]);
}

const NO_EXEC: &str = "the bytes of the buffer are data";

fn mmap_for_every_protection() {
    const DIFFERS: &[Differs] = &[
        Differs("to execute", &["--x", "r-x", "-wx", "rwx"], NO_EXEC),
        Differs("READ_IMPLIES_EXEC", &["mmap", "VMAs", "loads", "in core", "VMAs, touched"], NO_EXEC),
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
            cases.push(case(format!("{prot:#x}"), move |t| t.map("mmap", prot, t.sharing)));
        }
    }
    for prot in 0..=RW {
        cases.push(case(format!("{prot:#x} through other descriptors"), move |t| {
            let subject = t.subject.clone();
            for (step, fd) in [("read-only", &subject.ro), ("write-only", &subject.wo)] {
                let fd = fd.as_raw_fd() as usize;
                let flags = t.sharing | FIXED;
                let arguments = [t.start, bytes(t.count), prot, flags, fd, t.offset()];
                t.places(step, libc::SYS_mmap, arguments);
                t.protect(format!("{step}, mprotect"), t.all(), RW);
                t.look();
            }
        }));
    }
    compare(SMALL, unmapped, &cases, DIFFERS);
}

/// What the protections are called of which PROT_EXEC is part.
const EXECUTING: [(&str, usize); 4] = [
    ("--x", EXEC),
    ("r-x", EXEC | READ),
    ("-wx", EXEC | RW & !READ),
    ("rwx", EXEC | RW),
];

const END: &str = "the buffer ends there, where a file can grow: ENXIO";
const ALONE: &str = "its flags change after the kernel has looked for a VMA to merge it with";

fn mmap_of_every_place() {
    const DIFFERS: &[Differs] = &[
        Differs("past the end", &["a page more", "a page behind", "a TiB"], END),
        Differs("offsets that no file has", &["the last", "half of all"], END),
        Differs("over a mapping, past the end", &["mmap", "VMAs then"], END),
        Differs("behind itself", &["VMAs", "VMAs, touched"], ALONE),
        Differs("over its middle", &["VMAs", "VMAs, touched"], ALONE),
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

fn munmap_of_parts() {
    let parts: [(&str, fn(&Trial) -> Range<usize>); 5] = [
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

// madvise

const DONTNEED: usize = 4;
const FREE: usize = 8;
const REMOVE: usize = 9;
const DONTFORK: usize = 10;
const DOFORK: usize = 11;
const MERGEABLE: usize = 12;
const UNMERGEABLE: usize = 13;
const HUGEPAGE: usize = 14;
const NOHUGEPAGE: usize = 15;
const DONTDUMP: usize = 16;
const DODUMP: usize = 17;
const WIPEONFORK: usize = 18;
const KEEPONFORK: usize = 19;
const COLD: usize = 20;
const PAGEOUT: usize = 21;
const POPULATE_READ: usize = 22;
const POPULATE_WRITE: usize = 23;
const DONTNEED_LOCKED: usize = 24;
const COLLAPSE: usize = 25;
const GUARD_INSTALL: usize = 102;
const GUARD_REMOVE: usize = 103;

const ADVICE: &[(usize, &str)] = &[
    (0, "NORMAL"),
    (1, "RANDOM"),
    (2, "SEQUENTIAL"),
    (3, "WILLNEED"),
    (DONTNEED, "DONTNEED"),
    (FREE, "FREE"),
    (REMOVE, "REMOVE"),
    (DONTFORK, "DONTFORK"),
    (DOFORK, "DOFORK"),
    (MERGEABLE, "MERGEABLE"),
    (UNMERGEABLE, "UNMERGEABLE"),
    (HUGEPAGE, "HUGEPAGE"),
    (NOHUGEPAGE, "NOHUGEPAGE"),
    (DONTDUMP, "DONTDUMP"),
    (DODUMP, "DODUMP"),
    (WIPEONFORK, "WIPEONFORK"),
    (KEEPONFORK, "KEEPONFORK"),
    (COLD, "COLD"),
    (PAGEOUT, "PAGEOUT"),
    (POPULATE_READ, "POPULATE_READ"),
    (POPULATE_WRITE, "POPULATE_WRITE"),
    (DONTNEED_LOCKED, "DONTNEED_LOCKED"),
    (COLLAPSE, "COLLAPSE"),
    (GUARD_INSTALL, "GUARD_INSTALL"),
    (GUARD_REMOVE, "GUARD_REMOVE"),
];

/// A case for every advice there is and for some that there is not, but for the two that harm pages.
fn for_every_advice(body: impl Fn(&mut Trial, usize) + Copy + 'static) -> Vec<Case> {
    (0..=30)
        .chain(102..=110)
        .map(|advice| case(name(advice, ADVICE), move |t| body(t, advice)))
        .collect()
}

/// Gives advice, and sees to it that the page table has what it says.
fn advise_and_see(t: &mut Trial, pages: Range<usize>, advice: usize) {
    t.advise("madvise", pages.clone(), advice);
    if [DONTNEED, DONTNEED_LOCKED, POPULATE_READ, POPULATE_WRITE].contains(&advice) {
        t.present("present", t.probes().filter(move |i| pages.contains(i)));
    }
}

const NO_HOLES: &str = "a character device has no holes: ENODEV";
const REMOVE_DIFFERS: &[Differs] = &[Differs(
    "REMOVE",
    &["madvise", "in core", "loads", "read(2)"],
    NO_HOLES,
)];

fn madvise_of_all() {
    let cases = for_every_advice(|t, advice| advise_and_see(t, t.all(), advice));
    compare(WINDOWS, used, &cases, REMOVE_DIFFERS);
}

fn madvise_of_a_part() {
    let cases = for_every_advice(|t, advice| advise_and_see(t, t.middle(), advice));
    compare(WINDOWS, used, &cases, REMOVE_DIFFERS);
}

fn madvise_of_what_nobody_touched() {
    let cases = for_every_advice(|t, advice| advise_and_see(t, t.all(), advice));
    compare(WINDOWS, mapped, &cases, REMOVE_DIFFERS);
}

fn madvise_of_bad_ranges() {
    const DIFFERS: &[Differs] = &[Differs(
        "REMOVE",
        &["half a page", "and a page behind", "in core", "loads", "read(2)"],
        NO_HOLES,
    )];
    let cases = for_every_advice(|t, advice| {
        let (start, len) = (t.start, bytes(t.count));
        for (step, at, len) in [
            ("nothing", start, 0),
            ("half a page", start, bytes(1) / 2),
            ("an odd address", start + 1, len),
            ("all addresses", start, usize::MAX),
            ("what is free", t.at(t.count), bytes(1)),
            ("and a page behind", start, len + bytes(1)),
            ("and a page before", start - bytes(1), len),
        ] {
            let _ = t.call(step, libc::SYS_madvise, [at, len, advice]);
        }
    });
    compare(SMALL, used, &cases, DIFFERS);
}

/// Whether two private pages of the same content have become one.
fn merged(t: &mut Trial) {
    const KSM: &str = "/sys/kernel/mm/ksm";
    let write = |file: &str, value: &str| {
        fs::write(format!("{KSM}/{file}"), value).unwrap_or_else(|err| panic!("{file}: {err}"));
    };
    let merging = || fs::read_to_string("/proc/self/ksm_merging_pages").unwrap_or_default();
    t.store("stores", t.probes(), 7);
    t.erase_stamps();
    t.advise("MERGEABLE", t.all(), MERGEABLE);
    write("sleep_millisecs", "1");
    write("run", "1");
    let start = Instant::now();
    while merging().trim() == "0" && start.elapsed() < Duration::from_secs(1) {
        sleep(Duration::from_millis(5));
    }
    t.see("merged", merging().trim() != "0");
    write("run", "0");
}

fn madvise_and_what_follows() {
    let all = |t: &mut Trial, advice: usize| t.advise(name(advice, ADVICE), t.all(), advice);
    let middle = |t: &mut Trial, advice: usize| t.advise(name(advice, ADVICE), t.middle(), advice);
    let mut cases = vec![case("pages of the same bytes", |t| {
        if t.sharing == PRIVATE && t.count > 1 {
            merged(t);
        }
    })];
    // What is done and undone leaves one VMA again.
    for (there, back) in [
        (1, 0),
        (2, 0),
        (DONTFORK, DOFORK),
        (MERGEABLE, UNMERGEABLE),
        (HUGEPAGE, NOHUGEPAGE),
        (DONTDUMP, DODUMP),
        (GUARD_INSTALL, GUARD_REMOVE),
    ] {
        let [there_name, back_name] = [there, back].map(|advice| name(advice, ADVICE));
        cases.push(case(format!("{there_name}, {back_name}"), move |t| {
            middle(t, there);
            t.look();
            middle(t, back);
            t.look();
            all(t, there);
            middle(t, back);
            t.look();
            all(t, back);
        }));
    }
    for advice in [DONTNEED, DONTFORK, MERGEABLE, WIPEONFORK, KEEPONFORK, GUARD_INSTALL] {
        cases.push(case(format!("{}, a child", name(advice, ADVICE)), move |t| {
            middle(t, advice);
            t.in_child(|t| {
                t.look();
                t.store("stores of the child", t.probes(), 3);
            });
        }));
    }
    for advice in [DONTNEED, COLD, PAGEOUT, POPULATE_READ, POPULATE_WRITE, COLLAPSE, GUARD_INSTALL] {
        cases.push(case(format!("a guard, {}", name(advice, ADVICE)), move |t| {
            middle(t, GUARD_INSTALL);
            all(t, advice);
            t.look();
            middle(t, GUARD_REMOVE);
        }));
    }
    for prot in [NONE, READ] {
        for advice in [DONTNEED, POPULATE_READ, POPULATE_WRITE, GUARD_INSTALL] {
            let name = format!("{prot:#x}, {}", name(advice, ADVICE));
            cases.push(case(name, move |t| {
                t.protect("mprotect", t.middle(), prot);
                all(t, advice);
            }));
        }
    }
    for advice in [POPULATE_READ, POPULATE_WRITE, DONTNEED, COLD, PAGEOUT, GUARD_INSTALL] {
        cases.push(case(format!("grown past the end, {}", name(advice, ADVICE)), move |t| {
            let count = t.rest() + 2;
            t.remap("mremap", t.all(), count, 0, 0);
            t.count = count;
            all(t, advice);
        }));
    }
    cases.push(case("a guard, the kernel's own loads and stores", |t| {
        t.advise("GUARD_INSTALL", t.middle(), GUARD_INSTALL);
        for (step, number) in [("pread", libc::SYS_pread64), ("pwrite", libc::SYS_pwrite64)] {
            let (fd, at) = (t.rw(), t.at(t.middle().start));
            let _ = t.call(step, number, [fd, at, 8, 0]);
        }
    }));
    compare(WINDOWS, used, &cases, &[]);
}

/// In order of their number; the first page and the last of the mapping.
fn madvise_by_another_process() {
    const DIFFERS: &[Differs] = &[Differs(
        "REMOVE",
        &["of itself", "in core", "loads", "read(2)"],
        NO_HOLES,
    )];
    let by = |t: &mut Trial, step: &str, of: u32, advice: usize| {
        let mut parts = [0, t.count - 1].map(|page| [t.at(page), bytes(1)]);
        let parts = address(&mut parts);
        if let Some(pidfd) = t.opens("pidfd_open", libc::SYS_pidfd_open, [of as usize, 0]) {
            let pidfd = pidfd.as_raw_fd() as usize;
            let _ = t.call(step, libc::SYS_process_madvise, [pidfd, parts, 2, advice, 0]);
        }
    };
    let mut cases = for_every_advice(move |t, advice| {
        by(t, "of itself", process::id(), advice);
        t.look();
        let parent = process::id();
        t.in_child(|t| by(t, "of its parent", parent, advice));
    });
    cases.push(case("bad arguments", |t| {
        let mut part = [t.start, bytes(t.count)];
        let part = address(&mut part);
        let Some(own) = t.opens("pidfd_open", libc::SYS_pidfd_open, [process::id() as usize, 0])
        else {
            return;
        };
        let own = own.as_raw_fd() as usize;
        for (step, arguments) in [
            ("flags", [own, part, 1, COLD, 1]),
            ("no pidfd", [t.rw(), part, 1, COLD, 0]),
            ("no parts", [own, part, 0, COLD, 0]),
            ("too many parts", [own, part, 1025, COLD, 0]),
            ("no memory", [own, 8, 1, COLD, 0]),
        ] {
            let _ = t.call(step, libc::SYS_process_madvise, arguments);
        }
    }));
    compare(SMALL, used, &cases, DIFFERS);
}

// mremap

const MAYMOVE: i32 = libc::MREMAP_MAYMOVE;
const TO: i32 = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
const DONTUNMAP: i32 = libc::MREMAP_MAYMOVE | libc::MREMAP_DONTUNMAP;

/// mremap of the whole mapping, which is what the call has made of it from then on.
fn remap(t: &mut Trial, count: usize, flags: i32, to: usize) {
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

fn mremap_to_sizes() {
    type Size = fn(&Trial) -> usize;
    let sizes: [(&str, Size); 9] = [
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
    let ways: [(&str, fn(&mut Trial), i32, usize); 8] = [
        ("", |_| (), 0, 0),
        (", where it may move", |_| (), MAYMOVE, 0),
        (", walled in", wall, 0, 0),
        (", walled in, where it may move", wall, MAYMOVE, 0),
        (", elsewhere", |_| (), TO, ELSEWHERE),
        (", locked", |t| t.range("mlock", libc::SYS_mlock, t.all(), []), 0, 0),
        (", in parts", |t| t.protect("mprotect", t.middle(), READ), 0, 0),
        (", in parts, elsewhere", |t| t.protect("mprotect", t.middle(), READ), TO, ELSEWHERE),
    ];
    let mut cases = vec![];
    for (size, pages) in sizes {
        for (way, prepare, flags, to) in ways {
            cases.push(case(format!("to {size}{way}"), move |t| {
                prepare(t);
                let (start, count) = (t.start, t.count);
                remap(t, pages(t), flags, to);
                if t.start != start {
                    look_back(t, start, count);
                }
            }));
        }
    }
    compare(WINDOWS, used, &cases, &[]);
}

fn mremap_to_places() {
    let moved = |name: &str, flags: i32, to: usize| {
        case(name, move |t| {
            let (start, count) = (t.start, t.count);
            remap(t, count, flags, to);
            look_back(t, start, count);
        })
    };
    /// mremap of a part, there and back.
    fn part(t: &mut Trial, pages: Range<usize>, to: usize) {
        let count = pages.len();
        t.remap("there", pages.clone(), count, TO, to);
        t.look();
        t.remap("back", to..to + count, count, TO, pages.start);
    }
    let duplicated = |name: &str, flags: i32| {
        case(name, move |t| {
            let (start, count) = (t.start, t.count);
            if let Some(copy) = t.remap("mremap", 0..0, count, flags, ELSEWHERE) {
                t.start = copy;
                t.store("stores into the copy", t.probes(), 5);
                look_back(t, start, count);
            }
        })
    };
    let cases = [
        moved("to an odd address", TO, ELSEWHERE),
        moved("to an even address", TO, ELSEWHERE - 7),
        moved("onto itself", TO, 0),
        moved("onto a part of itself", TO, 1),
        moved("left mapped", DONTUNMAP, 0),
        moved("left mapped, to an odd address", DONTUNMAP | TO, ELSEWHERE),
        moved("left mapped, but not to move", libc::MREMAP_DONTUNMAP, 0),
        moved("to an address, but not to move", libc::MREMAP_FIXED, ELSEWHERE),
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
            t.range("mlock", libc::SYS_mlock, t.all(), []);
            let (start, count) = (t.start, t.count);
            remap(t, count, DONTUNMAP | TO, ELSEWHERE);
            vm_lck(t);
            look_back(t, start, count);
        }),
        case("the middle", |t| part(t, t.middle(), ELSEWHERE)),
        case("the first page", |t| part(t, 0..1, ELSEWHERE)),
        case("the last page", |t| part(t, t.count - 1..t.count, ELSEWHERE)),
        case("the last page onto the first", |t| part(t, t.count - 1..t.count, 0)),
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
        case("odd addresses", |t| {
            let (at, len, to) = (t.start, bytes(t.count), t.at(ELSEWHERE));
            for (step, at, len, to) in [
                ("from", at + 1, len, to),
                ("to", at, len, to + 1),
                ("length", at, len - 1, to),
                ("beyond all", at, len, usize::MAX << 24),
            ] {
                let arguments = [at, len, len, TO as usize, to];
                if let Some(start) = t.places(step, libc::SYS_mremap, arguments) {
                    t.start = start;
                }
            }
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

// mprotect

fn mprotect_of_parts() {
    const DIFFERS: &[Differs] = &[Differs(
        "to execute",
        &["--x", "r-x", "-wx", "rwx"],
        NO_EXEC,
    )];
    let mut cases = vec![
        case("to execute", |t| {
            for (step, prot) in EXECUTING {
                t.protect(step, t.all(), prot);
            }
            t.protect("not to", t.all(), RW);
        }),
        case("bad ranges", |t| {
            let (start, len) = (t.start, bytes(t.count));
            for (step, at, len) in [
                ("nothing", start, 0),
                ("half a page", start, bytes(1) / 2),
                ("an odd address", start + 1, len),
                ("all addresses", start, usize::MAX),
                ("what is free", t.at(t.count), bytes(1)),
                ("and a page behind", start, len + bytes(1)),
                ("and a page before", start - bytes(1), len),
            ] {
                let _ = t.call(step, libc::SYS_mprotect, [at, len, READ]);
            }
        }),
        case("bits of no protection", |t| {
            for bit in 3..32 {
                t.protect(format!("bit {bit}"), t.all(), READ | 1 << bit);
            }
        }),
    ];
    for prot in 0..=RW {
        for (part, pages) in [
            ("all", Trial::all as fn(&Trial) -> Range<usize>),
            ("the middle", Trial::middle),
            ("the first half", |t| 0..t.count / 2),
            ("the last page", |t| t.count - 1..t.count),
        ] {
            cases.push(case(format!("{prot:#x} of {part}"), move |t| {
                t.protect("there", pages(t), prot);
                t.look();
                t.protect("back", pages(t), RW);
            }));
        }
    }
    compare(WINDOWS, used, &cases, DIFFERS);
}

/// However often a mapping is split, its VMAs merge again.
fn mprotect_page_by_page() {
    fn protect(t: &mut Trial, step: &str, pages: impl Iterator<Item = usize>, prot: usize) {
        t.each(step, libc::SYS_mprotect, pages, &[[prot]]);
    }
    let cases = [
        case("each there and back", |t| {
            t.each("mprotect", libc::SYS_mprotect, t.all(), &[[NONE], [RW]]);
        }),
        case("all there, all back", |t| {
            protect(t, "there", t.all(), READ);
            t.vmas("VMAs then");
            protect(t, "back", t.all(), RW);
        }),
        case("every second there, all back", |t| {
            protect(t, "there", t.all().step_by(2), NONE);
            t.vmas("VMAs then");
            protect(t, "back", t.all(), RW);
        }),
        case("from the last to the first", |t| {
            protect(t, "there", t.all().rev().step_by(3), READ);
            protect(t, "back", t.all().rev(), RW);
        }),
    ];
    compare(WINDOWS, used, &cases, &[]);
}

// Locks

fn mlock(t: &mut Trial, pages: Range<usize>) {
    t.range("mlock", libc::SYS_mlock, pages, []);
}

fn mlock_on_fault(t: &mut Trial, pages: Range<usize>) {
    t.range("mlock2", libc::SYS_mlock2, pages, [1]);
}

fn munlock(t: &mut Trial, pages: Range<usize>) {
    t.range("munlock", libc::SYS_munlock, pages, []);
}

/// What this process is said to have locked.
fn vm_lck(t: &mut Trial) {
    t.see("VmLck", status_kib("VmLck"));
}

/// Sees which pages are locked, now and once they are copied.
fn look_at_locks(t: &mut Trial) {
    vm_lck(t);
    t.copies("copies");
    t.store("stores", t.probes(), 9);
    t.copies("copies then");
}

fn mlock_and_what_follows() {
    let locking = |name: &str, body: fn(&mut Trial)| {
        case(name, move |t| {
            body(t);
            look_at_locks(t);
        })
    };
    let mut cases = vec![
        locking("all", |t| {
            mlock(t, t.all());
            t.present("present", t.probes());
        }),
        locking("the middle", |t| {
            mlock(t, t.middle());
            t.present("present", t.middle());
        }),
        locking("all, on fault", |t| mlock_on_fault(t, t.all())),
        locking("the middle, on fault", |t| mlock_on_fault(t, t.middle())),
        locking("all, but not the middle", |t| {
            mlock(t, t.all());
            munlock(t, t.middle());
        }),
        locking("all, the middle on fault", |t| {
            mlock(t, t.all());
            mlock_on_fault(t, t.middle());
        }),
        locking("all, unlocked again", |t| {
            mlock(t, t.all());
            munlock(t, t.middle());
            munlock(t, t.all());
        }),
        locking("nothing, unlocked", |t| munlock(t, t.all())),
        locking("all, munmap of the middle", |t| {
            mlock(t, t.all());
            t.unmap("munmap", t.middle());
        }),
        locking("all, mapped over", |t| {
            mlock(t, t.all());
            t.map("mmap", RW, t.sharing | FIXED);
        }),
        locking("all, dropped", |t| {
            mlock(t, t.all());
            t.advise("DONTNEED_LOCKED", t.all(), DONTNEED_LOCKED);
            t.present("present", t.probes());
        }),
        locking("to no access", |t| {
            t.protect("mprotect", t.middle(), NONE);
            mlock(t, t.all());
        }),
        locking("for reading", |t| {
            t.protect("mprotect", t.all(), READ);
            mlock(t, t.all());
            t.protect("mprotect back", t.all(), RW);
        }),
        locking("with a gap", |t| {
            t.unmap("munmap", t.middle());
            mlock(t, t.all());
        }),
        locking("with a guard", |t| {
            t.advise("madvise", t.middle(), GUARD_INSTALL);
            mlock(t, t.all());
            t.advise("and back", t.middle(), GUARD_REMOVE);
        }),
        locking("past the end", |t| {
            remap(t, t.rest() + 2, 0, 0);
            mlock(t, t.all());
        }),
        locking("grown past the end", |t| {
            mlock(t, t.all());
            remap(t, t.rest() + 2, MAYMOVE, 0);
        }),
        locking("moved", |t| {
            mlock(t, t.all());
            remap(t, t.count, TO, ELSEWHERE);
        }),
        locking("bad arguments", |t| {
            let (start, len) = (t.start, bytes(t.count));
            for (step, at, len, flags) in [
                ("nothing", start, 0, 0),
                ("half a page at an odd address", start + 1, bytes(1) / 2, 0),
                ("all addresses", start, usize::MAX, 0),
                ("what is free", t.at(t.count), bytes(1), 0),
                ("flags", start, len, 2),
            ] {
                let _ = t.call(step, libc::SYS_mlock2, [at, len, flags]);
            }
        }),
        case("a child's", |t| {
            mlock(t, t.all());
            t.in_child(|t| {
                look_at_locks(t);
                t.look();
            });
            vm_lck(t);
        }),
    ];
    for flags in 0..=8 {
        // Of a child, which unlocks all in the end.
        cases.push(case(format!("mlockall, flags {flags}"), move |t| {
            t.in_child(|t| {
                let _ = t.call("mlockall", libc::SYS_mlockall, [flags]);
                t.copies("copies");
                t.look();
                t.map("mmap", RW, t.sharing | FIXED);
                t.copies("copies then");
                t.look();
                let _ = t.call("munlockall", libc::SYS_munlockall, []);
                t.copies("copies in the end");
                t.look();
            });
        }));
    }
    for limit in [0, bytes(1), bytes(16), usize::MAX] {
        cases.push(case(format!("{limit} bytes for nobody"), move |t| {
            t.in_child(|t| {
                let mut limits = [limit, limit];
                let new = address(&mut limits);
                let resource = libc::RLIMIT_MEMLOCK as usize;
                let _ = t.call("prlimit", libc::SYS_prlimit64, [0, resource, new, 0]);
                become_nobody();
                mlock(t, 0..1);
                mlock(t, t.all());
                vm_lck(t);
                t.map("MAP_LOCKED", RW, t.sharing | FIXED | 1 << LOCKED);
                vm_lck(t);
                t.look();
            });
        }));
    }
    compare(WINDOWS, used, &cases, &[]);
}

fn madvise_of_locked_pages() {
    let mut cases = for_every_advice(|t, advice| {
        mlock(t, t.all());
        advise_and_see(t, t.all(), advice);
        look_at_locks(t);
    });
    cases.extend(for_every_advice(|t, advice| {
        mlock_on_fault(t, t.middle());
        advise_and_see(t, t.all(), advice);
        look_at_locks(t);
    }));
    compare(SMALL, used, &cases, REMOVE_DIFFERS);
}

// msync and mincore

fn msync_with_every_flag() {
    let states: [(&str, fn(&mut Trial)); 7] = [
        ("as it is", |_| ()),
        ("for reading", |t| t.protect("mprotect", t.all(), READ)),
        ("no access", |t| t.protect("mprotect", t.all(), NONE)),
        ("locked", |t| mlock(t, t.all())),
        ("locked in the middle", |t| mlock(t, t.middle())),
        ("with a gap", |t| t.unmap("munmap", t.middle())),
        ("past the end", |t| remap(t, t.rest() + 2, 0, 0)),
    ];
    let cases = states.map(|(name, prepare)| {
        case(name, move |t| {
            prepare(t);
            for flags in (0..=8).chain([16, usize::MAX]) {
                let (start, len) = (t.start, bytes(t.count));
                for (what, at, len) in [
                    ("all", start, len),
                    ("a page", start, bytes(1)),
                    ("half a page", start, bytes(1) / 2),
                    ("nothing", start, 0),
                    ("an odd address", start + 1, len),
                    ("and a page behind", start, len + bytes(1)),
                    ("all addresses", start, usize::MAX),
                ] {
                    let step = format!("{what}, flags {flags}");
                    let _ = t.call(step, libc::SYS_msync, [at, len, flags]);
                }
            }
        })
    });
    compare(SMALL, used, &cases, &[]);
}

fn mincore_of_every_state() {
    let states: [(&str, fn(&mut Trial)); 9] = [
        ("as it is", |_| ()),
        ("used", used),
        ("dropped", |t| {
            used(t);
            t.advise("madvise", t.all(), DONTNEED);
        }),
        ("copied by the kernel", |t| t.advise("madvise", t.all(), POPULATE_WRITE)),
        ("no access", |t| {
            used(t);
            t.protect("mprotect", t.all(), NONE);
        }),
        ("with a gap", |t| t.unmap("munmap", t.middle())),
        ("with a guard", |t| t.advise("madvise", t.middle(), GUARD_INSTALL)),
        ("past the end", |t| remap(t, t.rest() + 2, 0, 0)),
        ("moved", |t| {
            used(t);
            remap(t, t.count, TO, ELSEWHERE);
        }),
    ];
    let mut cases: Vec<_> = states
        .into_iter()
        .map(|(name, prepare)| {
            case(name, move |t| {
                prepare(t);
                t.in_core("in core before");
            })
        })
        .collect();
    cases.push(case("bad arguments", |t| {
        let mut vector = [0_u8; 8];
        let vector = address(&mut vector);
        let start = t.start;
        for (step, at, len, vector) in [
            ("nothing", start, 0, vector),
            ("half a page", start, bytes(1) / 2, vector),
            ("an odd address", start + 1, bytes(1), vector),
            ("all addresses", start, usize::MAX, vector),
            ("what is free", t.at(t.count), bytes(1), vector),
            ("no memory", start, bytes(1), 8),
        ] {
            let _ = t.call(step, libc::SYS_mincore, [at, len, vector]);
        }
    }));
    compare(WINDOWS, mapped, &cases, &[]);
}

// Nodes

const GET_OF_ADDRESS: usize = 2;
const GET_NODE_OF_PAGE: usize = 3;
const SYS_SET_MEMPOLICY_HOME_NODE: libc::c_long = 450;

/// The policy that a page's address has.
fn policy(t: &mut Trial, step: &str, page: usize, flags: usize) {
    let (mut mode, mut nodes) = (-1_i32, [0_u64; 16]);
    let (to_mode, to_nodes) = (address(&mut mode), address(&mut nodes));
    let arguments = [to_mode, to_nodes, 1024, t.at(page), flags];
    let _ = t.call(step, libc::SYS_get_mempolicy, arguments);
    t.see(format!("{step}: mode"), mode);
    t.see(format!("{step}: nodes"), nodes[0]);
}

fn mbind(t: &mut Trial, step: &str, pages: Range<usize>, mode: usize, flags: usize) {
    // The first node; the modes of no node want none.
    let mut nodes = [u64::from(![0, 4].contains(&mode))];
    t.range(step, libc::SYS_mbind, pages, [mode, address(&mut nodes), 64, flags]);
}

/// move_pages(2) of every page, and where each is then.
fn move_pages(t: &mut Trial, step: &str, node: Option<i32>, flags: usize) {
    let mut pages: Vec<_> = t.probes().map(|i| t.at(i)).collect();
    let mut status = vec![i32::MIN; pages.len()];
    let mut nodes = node.map(|node| vec![node; pages.len()]);
    let to = nodes.as_deref_mut().map_or(0, address);
    let arguments = [0, pages.len(), address(&mut pages[..]), to, address(&mut status[..]), flags];
    let _ = t.call(step, libc::SYS_move_pages, arguments);
    t.see_each(&format!("{step}: status"), t.probes().zip(status));
}

fn nodes() {
    const DIFFERS: &[Differs] = &[Differs(
        "a policy, and another mapping",
        &["the other: mode", "the other: nodes"],
        "that a file keeps policies is tmpfs's own way: on ext4 they are the mapping's",
    )];
    let mut cases = vec![
        case("move_pages", |t| {
            for (step, node, flags) in [
                ("query", None, 0),
                ("to where they are", Some(0), 2),
                ("to where they are, of all", Some(0), 4),
                ("to no node", Some(1), 2),
                ("to less than no node", Some(-1), 2),
                ("flags", Some(0), 1),
            ] {
                move_pages(t, step, node, flags);
            }
        }),
        case("move_pages of what is dropped", |t| {
            t.advise("madvise", t.all(), DONTNEED);
            move_pages(t, "query", None, 0);
            move_pages(t, "to where they were", Some(0), 2);
        }),
        case("move_pages of guards", |t| {
            t.advise("madvise", t.all(), GUARD_INSTALL);
            move_pages(t, "query", None, 0);
        }),
        case("migrate_pages", |t| {
            let mut nodes = [1_u64];
            let nodes = address(&mut nodes);
            let _ = t.call("migrate_pages", libc::SYS_migrate_pages, [0, 64, nodes, nodes]);
        }),
        case("get_mempolicy", |t| {
            for flags in 0..=4 {
                policy(t, &format!("flags {flags}"), 0, flags);
            }
        }),
        case("of a page's node", |t| policy(t, "get", t.middle().start, GET_NODE_OF_PAGE)),
        case("the home node", |t| {
            mbind(t, "bind", t.all(), 2, 0);
            t.range("home", SYS_SET_MEMPOLICY_HOME_NODE, t.middle(), [0, 0]);
            t.range("home of no node", SYS_SET_MEMPOLICY_HOME_NODE, t.middle(), [1, 0]);
            t.look();
            mbind(t, "default", t.all(), 0, 0);
        }),
        case("a policy, and another mapping", |t| {
            mbind(t, "bind", t.all(), 2, 0);
            let first = t.start;
            t.start = t.at(ELSEWHERE);
            t.map("another", RW, t.sharing | FIXED);
            policy(t, "the other", 0, GET_OF_ADDRESS);
            t.start = first;
            mbind(t, "default", t.all(), 0, 0);
        }),
    ];
    for (mode, flags) in (0..=7).flat_map(|mode| [0, 1, 2, 4, 7, 8].map(|flags| (mode, flags))) {
        cases.push(case(format!("mode {mode}, flags {flags}"), move |t| {
            for pages in [t.middle(), t.all()] {
                mbind(t, "mbind", pages, mode, flags);
                policy(t, "the middle", t.middle().start, GET_OF_ADDRESS);
                policy(t, "the first", 0, GET_OF_ADDRESS);
                t.vmas("VMAs then");
            }
            mbind(t, "default", t.middle(), 0, 0);
            t.vmas("VMAs with a hole in it");
            mbind(t, "default", t.all(), 0, 0);
        }));
    }
    compare(SMALL, used, &cases, DIFFERS);
}

// Who has written what

const CLEAR_SOFT_DIRTY: u32 = 4;

fn clear_refs(t: &mut Trial, what: u32) {
    let cleared = fs::write("/proc/self/clear_refs", what.to_string());
    t.see(format!("clear_refs {what}"), cleared.is_ok());
}

/// Which pages were written to since they were cleared.
fn soft_dirty(t: &mut Trial, step: &str) {
    t.pagemap_bits(step, t.probes(), &[55]);
}

/// What may come between clearing and asking, under a name, for those who track writes.
fn between() -> Vec<(String, Body)> {
    let calls: [(&str, fn(&mut Trial)); 16] = [
        ("nothing", |_| ()),
        ("loads", |t| t.load("loads between", t.probes())),
        ("stores", |t| t.store("stores between", t.probes().step_by(3), 4)),
        ("a store in the middle", |t| t.store("store between", t.middle(), 4)),
        ("a store and mprotect of the middle", |t| {
            t.store("store between", 0..1, 4);
            t.protect("there", t.middle(), READ);
            t.protect("back", t.middle(), RW);
        }),
        ("mprotect and a store", |t| {
            t.protect("there", t.all(), READ);
            t.protect("back", t.all(), RW);
            t.store("store between", t.middle(), 4);
        }),
        ("a store by the kernel", |t| {
            let (fd, at) = (t.rw(), t.at(t.middle().start));
            let _ = t.call("pread", libc::SYS_pread64, [fd, at, 8, 0]);
        }),
        ("a write to the descriptor", |t| {
            let (fd, mut word, at) = (t.rw(), [1_u64], t.offset() + 8);
            let _ = t.call("pwrite", libc::SYS_pwrite64, [fd, address(&mut word), 8, at]);
        }),
        ("a child's stores", |t| {
            t.in_child(|t| {
                t.store("the child's stores", t.probes().step_by(2), 6);
                soft_dirty(t, "soft-dirty, the child's");
            });
        }),
        ("a store before a child", |t| {
            t.store("store between", t.middle(), 4);
            t.in_child(|t| soft_dirty(t, "soft-dirty, the child's"));
        }),
        ("mremap", |t| remap(t, t.count, TO, ELSEWHERE)),
        ("a store and mremap of the first page", |t| {
            t.store("store between", t.middle(), 4);
            t.remap("there", 0..1, 1, TO, ELSEWHERE);
            t.remap("back", ELSEWHERE..ELSEWHERE + 1, 1, TO, 0);
        }),
        ("mmap of the middle", |t| {
            t.map_part("mmap", t.middle(), RW, t.sharing | FIXED);
            t.load("loads between", t.probes());
        }),
        ("a guard", |t| {
            t.advise("there", t.middle(), GUARD_INSTALL);
            t.advise("back", t.middle(), GUARD_REMOVE);
            t.load("loads between", t.probes());
        }),
        ("mlock", |t| mlock(t, t.middle())),
        ("growth", |t| remap(t, t.rest() + 2, 0, 0)),
    ];
    let calls = calls.map(|(name, body)| -> (_, Body) { (name.to_owned(), Box::new(body)) });
    let advised = [
        DONTNEED, COLD, PAGEOUT, POPULATE_READ, POPULATE_WRITE, COLLAPSE, HUGEPAGE, MERGEABLE,
    ];
    let advised = advised.map(|advice| -> (_, Body) {
        let body = move |t: &mut Trial| {
            t.store("store between", t.middle(), 4);
            t.advise("madvise", t.all(), advice);
            t.load("loads between", t.probes());
        };
        (name(advice, ADVICE), Box::new(body))
    });
    calls.into_iter().chain(advised).collect()
}

fn soft_dirty_pages() {
    let mut cases: Vec<_> = between()
        .into_iter()
        .map(|(name, body)| {
            case(name, move |t| {
                soft_dirty(t, "before");
                clear_refs(t, CLEAR_SOFT_DIRTY);
                soft_dirty(t, "cleared");
                body(t);
                soft_dirty(t, "soft-dirty");
            })
        })
        .collect();
    for what in [0, 1, 2, 3, 5, 6] {
        cases.push(case(format!("clear_refs {what}"), move |t| {
            clear_refs(t, what);
            soft_dirty(t, "soft-dirty");
        }));
    }
    compare(WINDOWS, used, &cases, &[]);
}

// The categories of PAGEMAP_SCAN.
const WRITTEN: u64 = 1 << 1;
const HUGE: u64 = 1 << 6;
const CATEGORIES: u64 = (1 << 10) - 1;
// Its flags.
const WP_MATCHING: u64 = 1;
const CHECK_WPASYNC: u64 = 2;

/// `struct pm_scan_arg` but for what `scan` fills in.
#[derive(Clone, Copy, Default)]
struct Scan {
    flags: u64,
    inverted: u64,
    mask: u64,
    any_of: u64,
    returned: u64,
    max_pages: u64,
}

/// The number of an ioctl that reads and writes so many words.
fn ioctl_of_words(kind: u8, number: u8, words: usize) -> usize {
    3 << 30 | words << 19 | usize::from(kind) << 8 | usize::from(number)
}

/// PAGEMAP_SCAN of some pages: the answer, where it stopped, and what it found.
fn scan(t: &mut Trial, step: &str, pages: Range<usize>, scan: Scan) {
    let mut regions = [[0_u64; 3]; 64];
    let mut arguments = [
        96,
        scan.flags,
        t.at(pages.start) as u64,
        t.at(pages.end) as u64,
        0,
        address(&mut regions) as u64,
        regions.len() as u64,
        scan.max_pages,
        scan.inverted,
        scan.mask,
        scan.any_of,
        scan.returned,
    ];
    let pagemap = fs::File::open("/proc/self/pagemap").expect("pagemap");
    let number = ioctl_of_words(b'f', 16, arguments.len());
    let fd = pagemap.as_raw_fd() as usize;
    let answer = t.call(step, libc::SYS_ioctl, [fd, number, address(&mut arguments)]);
    let found = regions.iter().take(answer.unwrap_or(0));
    let page = |address: u64| (address as isize - t.start as isize) / bytes(1) as isize;
    let found = found.map(|[start, end, categories]| {
        format!("{}..{}: {categories:#x}", page(*start), page(*end))
    });
    let found: Vec<_> = found.chain([format!("up to {}", page(arguments[4]))]).collect();
    t.see(format!("{step}: found"), found.join(", "));
}

fn pagemap_scan() {
    let all = Scan {
        returned: CATEGORIES & !HUGE,
        ..Scan::default()
    };
    // Each page for itself: what lies between those that were touched may be there or not.
    let pages = |t: &mut Trial, wanted: Scan| {
        for i in t.probes() {
            scan(t, &format!("page {i}"), i..i + 1, wanted);
        }
    };
    let states: [(&str, fn(&mut Trial)); 7] = [
        ("as it is", |_| ()),
        ("dropped", |t| t.advise("madvise", t.all(), DONTNEED)),
        ("cleared", |t| clear_refs(t, CLEAR_SOFT_DIRTY)),
        ("cleared and stored to", |t| {
            clear_refs(t, CLEAR_SOFT_DIRTY);
            t.store("stores then", t.probes().step_by(3), 4);
        }),
        ("no access", |t| t.protect("mprotect", t.all(), NONE)),
        ("with a gap", |t| t.unmap("munmap", t.middle())),
        ("with a guard", |t| t.advise("madvise", t.middle(), GUARD_INSTALL)),
    ];
    let mut cases: Vec<_> = states
        .into_iter()
        .map(|(name, prepare)| {
            case(name, move |t| {
                prepare(t);
                pages(t, all);
            })
        })
        .collect();
    for category in (0..10).map(|bit| 1 << bit).filter(|category| *category != HUGE) {
        cases.push(case(format!("by category {category:#x}"), move |t| {
            t.advise("madvise", 0..1, GUARD_INSTALL);
            pages(t, Scan { mask: category, ..all });
            pages(t, Scan { mask: category, inverted: category, ..all });
            pages(t, Scan { any_of: category, ..all });
        }));
    }
    cases.push(case("bad arguments", move |t| {
        for (step, wanted) in [
            ("flags", Scan { flags: 4, ..all }),
            ("not tracked", Scan { flags: CHECK_WPASYNC, ..all }),
            ("to be protected", Scan { flags: WP_MATCHING, ..all }),
            ("to be protected, checked", Scan { flags: 3, ..all }),
            ("categories", Scan { mask: 1 << 10, ..all }),
            ("returned", Scan { returned: 1 << 10, ..all }),
            ("one page", Scan { max_pages: 1, ..all }),
        ] {
            scan(t, step, 0..1, wanted);
        }
    }));
    compare(SMALL, used, &cases, &[]);
}

// userfaultfd

const WP_ASYNC: u64 = 1 << 15;
const REGISTER: u8 = 0;
const UNREGISTER: u8 = 1;
const WRITEPROTECT: u8 = 6;
const API: u8 = 0x3f;
const MODE_WP: u64 = 2;

/// A userfaultfd(2) with some features.
fn userfaultfd(t: &mut Trial, features: u64) -> Option<OwnedFd> {
    let flags = (libc::O_CLOEXEC | libc::O_NONBLOCK) as usize;
    let fd = t.opens("userfaultfd", libc::SYS_userfaultfd, [flags])?;
    uffd_call(t, "UFFDIO_API", &fd, API, &mut [0xaa, features, 0]);
    Some(fd)
}

fn uffd_call(t: &mut Trial, step: &str, fd: &OwnedFd, number: u8, words: &mut [u64]) {
    let request = match number {
        // That it is read from is an old mistake.
        UNREGISTER => 2 << 30 | ioctl_of_words(0xaa, number, words.len()) & !(3 << 30),
        number => ioctl_of_words(0xaa, number, words.len()),
    };
    let arguments = [fd.as_raw_fd() as usize, request, address(words)];
    let _ = t.call(step, libc::SYS_ioctl, arguments);
}

/// Registers pages, and what can be done with them then.
fn register(t: &mut Trial, step: &str, fd: &OwnedFd, pages: Range<usize>, mode: u64) {
    let (at, len) = (t.at(pages.start) as u64, bytes(pages.len()) as u64);
    let mut words = [at, len, mode, 0];
    uffd_call(t, step, fd, REGISTER, &mut words);
    t.see(format!("{step}: calls"), format!("{:#x}", words[3]));
}

fn unregister(t: &mut Trial, step: &str, fd: &OwnedFd, pages: Range<usize>) {
    let (at, len) = (t.at(pages.start) as u64, bytes(pages.len()) as u64);
    uffd_call(t, step, fd, UNREGISTER, &mut [at, len]);
}

fn write_protect(t: &mut Trial, step: &str, fd: &OwnedFd, pages: Range<usize>, mode: u64) {
    let (at, len) = (t.at(pages.start) as u64, bytes(pages.len()) as u64);
    uffd_call(t, step, fd, WRITEPROTECT, &mut [at, len, mode]);
}

fn userfaultfd_registers() {
    let features = [
        ("no features", 0),
        ("asynchronous", WP_ASYNC),
        ("for shmem", 1 << 5 | 1 << 10 | 1 << 12),
        ("for reads", 1 << 17 | 1 << 18),
    ];
    let cases = features.map(|(name, features)| {
        case(name, move |t| {
            let Some(fd) = userfaultfd(t, features) else {
                return;
            };
            for mode in 0..=16 {
                register(t, &format!("mode {mode}"), &fd, t.all(), mode);
                t.vmas(&format!("mode {mode}: VMAs"));
                unregister(t, &format!("mode {mode}: and back"), &fd, t.all());
            }
        })
    });
    compare(SMALL, used, &cases, &[]);
}

/// Which pages were written to since they were protected.
fn written(t: &mut Trial, step: &str, flags: u64) {
    let wanted = Scan {
        flags,
        mask: WRITTEN,
        returned: WRITTEN,
        ..Scan::default()
    };
    scan(t, step, t.all(), wanted);
    t.pagemap_bits(&format!("{step}: protected"), t.probes(), &[57]);
}

/// Tracks writes to some pages from now on.
fn track(t: &mut Trial, pages: Range<usize>) -> Option<OwnedFd> {
    let fd = userfaultfd(t, WP_ASYNC)?;
    register(t, "register", &fd, pages.clone(), MODE_WP);
    write_protect(t, "write-protect", &fd, pages, 1);
    t.vmas("VMAs, tracked");
    Some(fd)
}

fn userfaultfd_tracks_writes() {
    const TAKE: u64 = WP_MATCHING | CHECK_WPASYNC;
    let tracking = |name: String, body: Body| {
        case(name, move |t| {
            let _fd = track(t, t.all());
            written(t, "at first", 0);
            body(t);
            written(t, "then", 0);
            t.store("stores", t.probes().step_by(5), 8);
            written(t, "taken", TAKE);
            written(t, "taken again", TAKE);
            t.look();
        })
    };
    let mut cases: Vec<_> = between()
        .into_iter()
        .map(|(name, body)| tracking(name, body))
        .collect();
    cases.extend([
        case("by scans alone", |t| {
            let fd = userfaultfd(t, WP_ASYNC);
            if let Some(fd) = &fd {
                register(t, "register", fd, t.all(), MODE_WP);
            }
            for round in 1..=3 {
                written(t, &format!("round {round}"), TAKE);
                t.store("stores", t.probes().skip(round).step_by(4), round as u64);
            }
            written(t, "in the end", CHECK_WPASYNC);
        }),
        case("protection taken back", |t| {
            if let Some(fd) = track(t, t.all()) {
                write_protect(t, "taken back", &fd, t.middle(), 0);
            }
            written(t, "written", 0);
        }),
        case("the middle", |t| {
            let fd = track(t, t.middle());
            t.store("stores", t.probes(), 8);
            written(t, "written", 0);
            if let Some(fd) = fd {
                unregister(t, "unregister", &fd, t.middle());
            }
        }),
        case("by two", |t| {
            let fds = [track(t, t.middle()), track(t, t.all())];
            written(t, "written", 0);
            drop(fds);
        }),
        case("bad arguments", |t| {
            let Some(fd) = track(t, t.all()) else {
                return;
            };
            write_protect(t, "mode 4", &fd, t.all(), 4);
            write_protect(t, "nothing", &fd, 0..0, 1);
            write_protect(t, "what is free", &fd, t.count..t.count + 1, 1);
            write_protect(t, "and a page behind", &fd, 0..t.count + 1, 1);
            register(t, "register what is free", &fd, t.count..t.count + 1, MODE_WP);
            register(t, "register and a page behind", &fd, 0..t.count + 1, MODE_WP);
            let odd = t.start as u64 + 1;
            uffd_call(t, "an odd address", &fd, WRITEPROTECT, &mut [odd, bytes(1) as u64, 1]);
        }),
    ]);
    for start in [mapped, used] {
        compare(WINDOWS, start, &cases, &[]);
    }
}

// Seals and keys

const SYS_MSEAL: libc::c_long = 462;

fn mseal_keeps() {
    // A seal is for ever: of a child each.
    let sealing = |name: &str, body: fn(&mut Trial)| {
        case(name, move |t| t.in_child(|t| {
            t.range("mseal", SYS_MSEAL, t.all(), [0]);
            body(t);
            t.look();
        }))
    };
    let mut cases = vec![
        sealing("nothing", |_| ()),
        sealing("mseal again", |t| t.range("again", SYS_MSEAL, t.middle(), [0])),
        sealing("munmap", |t| t.unmap("munmap", t.all())),
        sealing("munmap of the middle", |t| t.unmap("munmap", t.middle())),
        sealing("mmap", |t| t.map("mmap", RW, t.sharing | FIXED)),
        sealing("mprotect", |t| t.protect("mprotect", t.all(), READ)),
        sealing("mprotect to what it is", |t| t.protect("mprotect", t.all(), RW)),
        sealing("mremap", |t| remap(t, t.count, TO, ELSEWHERE)),
        sealing("mremap to more", |t| remap(t, t.count + 1, 0, 0)),
        sealing("mremap to less", |t| remap(t, t.count / 2, 0, 0)),
        sealing("a copy", |t| {
            t.remap("mremap", 0..0, t.count, TO, ELSEWHERE);
        }),
        sealing("mlock", |t| mlock(t, t.all())),
        sealing("mbind", |t| mbind(t, "mbind", t.all(), 2, 0)),
        sealing("pkey_mprotect", |t| t.range("pkey", libc::SYS_pkey_mprotect, t.all(), [READ, 0])),
        sealing("a child", |t| t.in_child(|t| {
            t.unmap("the child's munmap", t.all());
            t.look();
        })),
    ];
    for (step, pages, flags) in [
        ("of the middle", Trial::middle as fn(&Trial) -> Range<usize>, 0),
        ("with flags", Trial::all, 1),
        ("of nothing", |_| 0..0, 0),
        ("with a gap behind", |t| 0..t.count + 1, 0),
        ("of what is free", |t| t.count..t.count + 1, 0),
    ] {
        cases.push(case(step, move |t| t.in_child(|t| {
            t.range("mseal", SYS_MSEAL, pages(t), [flags]);
            t.protect("mprotect", t.all(), READ);
            t.look();
        })));
    }
    let mut advised = for_every_advice(|t, advice| t.in_child(|t| {
        t.protect("mprotect", t.middle(), READ);
        t.range("mseal", SYS_MSEAL, t.all(), [0]);
        advise_and_see(t, t.all(), advice);
        t.look();
    }));
    cases.append(&mut advised);
    compare(SMALL, used, &cases, REMOVE_DIFFERS);
}

fn protection_keys() {
    // A key's rights are the thread's: of a child each.
    let with_key = |rights: usize, body: fn(&mut Trial, usize)| {
        move |t: &mut Trial| t.in_child(|t| {
            let key = t.call("pkey_alloc", libc::SYS_pkey_alloc, [0, rights]);
            body(t, key.unwrap_or(1));
            t.look();
        })
    };
    fn give(t: &mut Trial, pages: Range<usize>, prot: usize, key: usize) {
        t.range("pkey_mprotect", libc::SYS_pkey_mprotect, pages, [prot, key]);
    }
    let mut cases = vec![];
    for rights in 0..=3 {
        let mut add = |name: &str, body: fn(&mut Trial, usize)| {
            cases.push(case(format!("{name}, rights {rights}"), with_key(rights, body)));
        };
        add("all", |t, key| give(t, t.all(), RW, key));
        add("the middle", |t, key| give(t, t.middle(), RW, key));
        add("the middle, there and back", |t, key| {
            give(t, t.middle(), RW, key);
            t.look();
            give(t, t.middle(), RW, 0);
        });
        add("for reading", |t, key| give(t, t.all(), READ, key));
        add("dropped", |t, key| {
            give(t, t.all(), RW, key);
            t.advise("madvise", t.all(), DONTNEED);
        });
        add("moved", |t, key| {
            give(t, t.all(), RW, key);
            remap(t, t.count, TO, ELSEWHERE);
        });
        add("populated", |t, key| {
            give(t, t.all(), RW, key);
            t.advise("read", t.all(), POPULATE_READ);
            t.advise("write", t.all(), POPULATE_WRITE);
        });
        add("the kernel's stores", |t, key| {
            give(t, t.all(), RW, key);
            let (fd, at) = (t.rw(), t.at(t.middle().start));
            let _ = t.call("pread", libc::SYS_pread64, [fd, at, 8, 0]);
            let _ = t.call("pwrite", libc::SYS_pwrite64, [fd, at, 8, 0]);
        });
        add("freed", |t, key| {
            give(t, t.all(), RW, key);
            let _ = t.call("pkey_free", libc::SYS_pkey_free, [key]);
            give(t, t.all(), RW, key);
        });
    }
    compare(SMALL, used, &cases, &[]);
}

// The descriptor

/// What a character device does differently, however its mappings are.
fn calls_on_the_descriptor() {
    #[allow(dead_code)]
    const NODE: &str = "a character device";
    const SIZE: &str = "a character device has no size for stat, and what the kernel itself counts from there";
    #[allow(dead_code)]
    const FIXED_SIZE: &str = "the buffer has a fixed size";
    const DIFFERS: &[Differs] = &[
        Differs("fstat", &["type", "size"], SIZE),
    ];
    /// `struct flock` for a whole file from somewhere on.
    fn lock(whence: i32, len: i64) -> libc::flock {
        libc::flock {
            l_type: libc::F_WRLCK as i16,
            l_whence: whence as i16,
            l_start: 0,
            l_len: len,
            l_pid: 0,
        }
    }
    fn fcntl(t: &mut Trial, step: &str, command: i32, argument: usize) {
        let _ = t.call(step, libc::SYS_fcntl, [t.rw(), command as usize, argument]);
    }
    let cases = [
        case("fstat", |t| {
            if let Ok(stat) = rustix::fs::fstat(&t.subject.ro) {
                t.see("type", stat.st_mode & libc::S_IFMT);
                t.see("size", stat.st_size);
            }
        }),
        case("lseek", |t| {
            let size = bytes(t.window.buffer);
            for (step, offset, whence) in [
                ("SEEK_SET", 0, libc::SEEK_SET),
                ("SEEK_SET to the end", size, libc::SEEK_SET),
                ("SEEK_SET past the end", size + 1, libc::SEEK_SET),
                ("SEEK_CUR", 0, libc::SEEK_CUR),
                ("SEEK_END", 0, libc::SEEK_END),
                ("SEEK_END past the end", 1, libc::SEEK_END),
                ("SEEK_DATA", 0, libc::SEEK_DATA),
                ("SEEK_HOLE", 0, libc::SEEK_HOLE),
                ("whence that nobody has", 0, 5),
                ("back", 0, libc::SEEK_SET),
            ] {
                let arguments = [t.rw(), offset, whence as usize];
                let _ = t.call(step, libc::SYS_lseek, arguments);
            }
        }),
        case("locks", |t| {
            fcntl(t, "from the start", libc::F_SETLK, address(&mut lock(libc::SEEK_SET, 1)));
            t.in_child(|t| {
                let mut wanted = lock(libc::SEEK_SET, 0);
                fcntl(t, "asked for", libc::F_GETLK, address(&mut wanted));
                t.see("in the way", format!("{} {}", wanted.l_type, wanted.l_len));
            });
        }),
        case("locks from SEEK_END", |t| {
            fcntl(t, "from the end", libc::F_SETLK, address(&mut lock(libc::SEEK_END, 0)));
            t.in_child(|t| {
                let mut wanted = lock(libc::SEEK_SET, 1);
                fcntl(t, "asked for", libc::F_GETLK, address(&mut wanted));
                t.see("in the way", wanted.l_type);
            });
        }),
        case("leases", |t| fcntl(t, "F_SETLEASE", libc::F_SETLEASE, libc::F_RDLCK as usize)),
        case("seals", |t| {
            fcntl(t, "F_GET_SEALS", libc::F_GET_SEALS, 0);
            fcntl(t, "F_ADD_SEALS", libc::F_ADD_SEALS, 1);
        }),
        case("fallocate", |t| {
            let size = bytes(t.window.buffer);
            for mode in [0, 1, 2, 3, 8, 0x10, 0x20, 0x40] {
                let arguments = [t.rw(), mode, 0, size];
                let _ = t.call(format!("mode {mode}"), libc::SYS_fallocate, arguments);
            }
        }),
        case("ftruncate", |t| {
            let _ = t.call("ftruncate", libc::SYS_ftruncate, [t.rw(), bytes(t.window.buffer)]);
        }),
        case("copy_file_range", |t| {
            let mut offsets = [0_u64, bytes(2) as u64];
            let [from, to] = offsets.each_mut().map(address);
            let arguments = [t.rw(), from, t.rw(), to, 16, 0];
            let _ = t.call("within", libc::SYS_copy_file_range, arguments);
        }),
        case("posix_fadvise", |t| {
            for advice in 0..=8 {
                let arguments = [t.rw(), 0, 0, advice];
                let _ = t.call(format!("advice {advice}"), libc::SYS_fadvise64, arguments);
            }
        }),
        case("readahead", |t| {
            let _ = t.call("readahead", libc::SYS_readahead, [t.rw(), 0, bytes(1)]);
        }),
        case("sync", |t| {
            for (step, number) in [
                ("fsync", libc::SYS_fsync),
                ("fdatasync", libc::SYS_fdatasync),
                ("syncfs", libc::SYS_syncfs),
                ("sync_file_range", libc::SYS_sync_file_range),
            ] {
                let _ = t.call(step, number, [t.rw(), 0, 0, 7]);
            }
        }),
        case("cachestat", |t| {
            let (mut range, mut counts) = ([0_u64; 2], [0_u64; 5]);
            let arguments = [t.rw(), address(&mut range), address(&mut counts), 0];
            let _ = t.call("cachestat", SYS_CACHESTAT, arguments);
            t.see("pages", counts[0]);
        }),
        case("reads and writes at the end", |t| {
            let mut two = [0_u64; 2];
            let two = address(&mut two);
            let size = bytes(t.window.buffer);
            for (step, number, offset) in [
                ("a read across it", libc::SYS_pread64, size - 8),
                ("a read at it", libc::SYS_pread64, size),
                ("a read past it", libc::SYS_pread64, size + 8),
                ("a read far past it", libc::SYS_pread64, 1 << 62),
                ("a write across it", libc::SYS_pwrite64, size - 8),
                ("a write at it", libc::SYS_pwrite64, size),
                ("a write past it", libc::SYS_pwrite64, size + 8),
            ] {
                let _ = t.call(step, number, [t.rw(), two, 16, offset]);
            }
        }),
        case("appending", |t| {
            let fd = reopened(t, libc::O_WRONLY | libc::O_APPEND);
            let (mut word, Some(fd)) = ([1_u64], fd) else {
                return;
            };
            let fd = fd.as_raw_fd() as usize;
            let _ = t.call("write", libc::SYS_write, [fd, address(&mut word), 8]);
            let _ = t.call("lseek", libc::SYS_lseek, [fd, 0, libc::SEEK_CUR as usize]);
        }),
        case("O_DIRECT", |t| drop(reopened(t, libc::O_RDWR | libc::O_DIRECT))),
        case("flags of preadv2", |t| {
            let mut word = [0_u64];
            let mut part = [address(&mut word), 8];
            for flag in (0..8).map(|bit| 1 << bit) {
                let arguments = [t.rw(), address(&mut part), 1, 0, 0, flag];
                let _ = t.call(format!("flag {flag:#x}"), libc::SYS_preadv2, arguments);
            }
        }),
        case("flags of pwritev2", |t| {
            let mut word = [0_u64];
            let mut part = [address(&mut word), 8];
            for flag in (0..8).map(|bit| 1 << bit) {
                let arguments = [t.rw(), address(&mut part), 1, 8, 0, flag];
                let _ = t.call(format!("flag {flag:#x}"), libc::SYS_pwritev2, arguments);
            }
        }),
        case("FIONREAD", |t| {
            let mut count = -1_i32;
            let arguments = [t.rw(), libc::FIONREAD as usize, address(&mut count)];
            let _ = t.call("ioctl", libc::SYS_ioctl, arguments);
        }),
    ];
    compare(ONE, unmapped, &cases, DIFFERS);
}

const SYS_CACHESTAT: libc::c_long = 451;

/// The same opened once more.
fn reopened(t: &mut Trial, flags: i32) -> Option<OwnedFd> {
    let path = format!("/proc/self/fd/{}\0", t.rw());
    let path = path.as_ptr().expose_provenance();
    let here = libc::AT_FDCWD as usize;
    t.opens("open", libc::SYS_openat, [here, path, flags as usize])
}
