// SPDX-License-Identifier: GPL-2.0
//! madvise(2) and process_madvise(2).

use std::{fs, ops::Range, os::fd::AsRawFd, process, thread::sleep, time::Duration};

use crate::support::{
    memory::{Advice, PRIVATE, RW, anonymous},
    proc::Setting,
};

use super::{
    remap::remap,
    trial::{
        Case, Differs, NONE, READ, SMALL, Trial, WINDOWS, address, bytes, case, compare, mapped,
        name, used,
    },
};

pub const DONTNEED: usize = 4;
const FREE: usize = 8;
const REMOVE: usize = 9;
const DONTFORK: usize = 10;
const DOFORK: usize = 11;
pub const MERGEABLE: usize = 12;
const UNMERGEABLE: usize = 13;
pub const HUGEPAGE: usize = 14;
const NOHUGEPAGE: usize = 15;
const DONTDUMP: usize = 16;
const DODUMP: usize = 17;
const WIPEONFORK: usize = 18;
const KEEPONFORK: usize = 19;
pub const COLD: usize = 20;
pub const PAGEOUT: usize = 21;
pub const POPULATE_READ: usize = 22;
pub const POPULATE_WRITE: usize = 23;
pub const DONTNEED_LOCKED: usize = 24;
pub const COLLAPSE: usize = 25;
pub const GUARD_INSTALL: usize = 102;
pub const GUARD_REMOVE: usize = 103;

pub const ADVICE: &[(usize, &str)] = &[
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

/// Advice that changes what is in the page table.
pub const TO_PAGES: [usize; 5] = [DONTNEED, COLD, PAGEOUT, POPULATE_READ, POPULATE_WRITE];

/// A case for every advice there is and for some that there is not, but for the two that harm pages.
pub fn for_every_advice(body: impl Fn(&mut Trial, usize) + Copy + 'static) -> Vec<Case> {
    (0..=30)
        .chain(102..=110)
        .map(|advice| {
            case(name(advice, ADVICE), move |t| body(t, advice)).spoils(advice == COLLAPSE)
        })
        .collect()
}

/// Gives advice, and sees to it that the page table has what it says.
pub fn advise_and_see(t: &mut Trial, pages: Range<usize>, advice: usize) {
    t.advise("madvise", pages.clone(), advice);
    if [DONTNEED, DONTNEED_LOCKED, POPULATE_READ, POPULATE_WRITE].contains(&advice) {
        t.present("present", t.probes().filter(move |i| pages.contains(i)));
    }
}

pub const NO_HOLES: &str = "a character device has no holes: ENODEV";
pub const NO_COLLAPSE: &str =
    "only a regular file's pages are put together, and what can be large is";

const REMOVED: Differs = Differs(
    "REMOVE",
    &["madvise", "in core", "loads", "read(2)"],
    NO_HOLES,
);
/// What differs where `advise_and_see` advises few pages.
pub const REMOVE_DIFFERS: &[Differs] = &[REMOVED];
/// The same of all windows.
const ADVICE_DIFFERS: &[Differs] = &[REMOVED, Differs("COLLAPSE", &["madvise"], NO_COLLAPSE)];

pub fn madvise_of_all() {
    let cases = for_every_advice(|t, advice| advise_and_see(t, t.all(), advice));
    compare(WINDOWS, used, &cases, ADVICE_DIFFERS);
}

pub fn madvise_of_a_part() {
    let cases = for_every_advice(|t, advice| advise_and_see(t, t.middle(), advice));
    compare(WINDOWS, used, &cases, ADVICE_DIFFERS);
}

pub fn madvise_of_what_nobody_touched() {
    let cases = for_every_advice(|t, advice| advise_and_see(t, t.all(), advice));
    compare(WINDOWS, mapped, &cases, ADVICE_DIFFERS);
}

pub fn madvise_of_bad_ranges() {
    const DIFFERS: &[Differs] = &[Differs(
        "REMOVE",
        &[
            "half a page",
            "and a page behind",
            "and a page before",
            "in core",
            "loads",
            "read(2)",
        ],
        NO_HOLES,
    )];
    let cases = for_every_advice(|t, advice| {
        t.bad_ranges(libc::SYS_madvise, advice);
    });
    compare(SMALL, used, &cases, DIFFERS);
}

/// Advice on the middle, and its opposite.
const OPPOSITES: &[(usize, usize)] = &[
    (1, 0),
    (2, 0),
    (DONTFORK, DOFORK),
    (MERGEABLE, UNMERGEABLE),
    (HUGEPAGE, NOHUGEPAGE),
    (DONTDUMP, DODUMP),
    (GUARD_INSTALL, GUARD_REMOVE),
];

fn advise_all(t: &mut Trial, advice: usize) {
    t.advise(name(advice, ADVICE), t.all(), advice);
}

fn advise_middle(t: &mut Trial, advice: usize) {
    t.advise(
        format!("{} of the middle", name(advice, ADVICE)),
        t.middle(),
        advice,
    );
}

pub fn madvise_there_and_back() {
    let mut cases = vec![];
    for &(there, back) in OPPOSITES {
        let name = |advice| name(advice, ADVICE);
        cases.push(case(format!("{} of all", name(there)), move |t| {
            advise_all(t, there);
            advise_middle(t, back);
            t.look();
            advise_all(t, back);
        }));
        cases.push(case(format!("{} of the middle", name(there)), move |t| {
            advise_middle(t, there);
            t.look();
            advise_middle(t, back);
        }));
    }
    compare(WINDOWS, used, &cases, &[]);
}

pub fn madvise_and_children() {
    let advice = [
        DONTNEED,
        DONTFORK,
        MERGEABLE,
        WIPEONFORK,
        KEEPONFORK,
        GUARD_INSTALL,
    ];
    let cases = advice.map(|advice| {
        case(name(advice, ADVICE), move |t| {
            advise_middle(t, advice);
            t.in_child(Trial::look);
        })
    });
    compare(WINDOWS, used, &cases, &[]);
}

pub fn madvise_of_guards() {
    let mut cases: Vec<_> = TO_PAGES
        .into_iter()
        .chain([GUARD_INSTALL])
        .map(|advice| {
            case(name(advice, ADVICE), move |t| {
                advise_middle(t, GUARD_INSTALL);
                advise_all(t, advice);
                t.look();
                advise_middle(t, GUARD_REMOVE);
            })
        })
        .collect();
    cases.push(case("the kernel's own loads and stores", |t| {
        advise_middle(t, GUARD_INSTALL);
        for (step, number) in [("pread", libc::SYS_pread64), ("pwrite", libc::SYS_pwrite64)] {
            let _ = t.call(step, number, [t.rw(), t.at(t.middle().start), 8, 0]);
        }
        t.pagemap_bits("pagemap", t.middle(), &[58, 62, 63]);
    }));
    for (what, prot) in [("no access", NONE), ("for reading", READ)] {
        for advice in [DONTNEED, POPULATE_READ, POPULATE_WRITE, GUARD_INSTALL] {
            let name = format!("{what}, {}", name(advice, ADVICE));
            cases.push(case(name, move |t| {
                t.protect("mprotect", t.middle(), prot);
                advise_all(t, advice);
            }));
        }
    }
    compare(WINDOWS, used, &cases, &[]);
}

pub fn madvise_past_the_end() {
    let advised = TO_PAGES.into_iter().chain([GUARD_INSTALL]);
    let cases = advised.map(|advice| {
        case(name(advice, ADVICE), move |t| {
            remap(t, t.rest() + 2, 0, 0);
            advise_all(t, advice);
        })
    });
    compare(WINDOWS, used, &cases.collect::<Vec<_>>(), &[]);
}

/// Lets ksmd look at all pages for so often that what is equal is one page.
fn merge_equal_pages() {
    let scans = || -> u64 {
        let scans = fs::read_to_string("/sys/kernel/mm/ksm/full_scans").expect("full_scans");
        scans.trim().parse().expect("a number")
    };
    // Without any page to look at, it does not begin.
    let one = anonymous(1, RW, PRIVATE);
    one.advise(Advice::LinuxMergeable).expect("MADV_MERGEABLE");
    let settings = [
        ("/sys/kernel/mm/ksm/sleep_millisecs", "0"),
        ("/sys/kernel/mm/ksm/pages_to_scan", "10000"),
        ("/sys/kernel/mm/ksm/smart_scan", "0"),
        ("/sys/kernel/mm/ksm/run", "1"),
    ];
    let _settings = settings.map(|(path, value)| Setting::new(path, value));
    // One notes what a page holds, one that it still does, one finds the equal ones of the last.
    let enough = scans() + 4;
    while scans() < enough {
        sleep(Duration::from_millis(1));
    }
}

pub fn madvise_merges_equal_pages() {
    let cases = [case("pages of equal bytes", |t| {
        t.make_equal();
        advise_all(t, MERGEABLE);
        merge_equal_pages();
        t.merged("merged");
    })];
    compare(WINDOWS, used, &cases, &[]);
}

/// process_madvise(2) of the first page and the last.
fn advise_process(t: &mut Trial, step: &str, pid: u32, advice: usize) {
    let mut parts = [0, t.count - 1].map(|page| [t.at(page), bytes(1)]);
    let parts = address(&mut parts);
    if let Some(pidfd) = t.opens("pidfd_open", libc::SYS_pidfd_open, [pid as usize, 0]) {
        let pidfd = pidfd.as_raw_fd() as usize;
        let _ = t.call(
            step,
            libc::SYS_process_madvise,
            [pidfd, parts, 2, advice, 0],
        );
    }
}

pub fn process_madvise() {
    const DIFFERS: &[Differs] = &[Differs(
        "REMOVE",
        &["of itself", "in core", "loads", "read(2)"],
        NO_HOLES,
    )];
    let mut cases = for_every_advice(|t, advice| {
        advise_process(t, "of itself", process::id(), advice);
    });
    cases.push(case("of the parent", |t| {
        let parent = process::id();
        t.in_child(|t| {
            for (advice, name) in ADVICE {
                advise_process(t, name, parent, *advice);
            }
        });
    }));
    cases.push(case("bad arguments", |t| {
        let own = t.opens(
            "pidfd_open",
            libc::SYS_pidfd_open,
            [process::id() as usize, 0],
        );
        let own = own
            .as_ref()
            .map_or(usize::MAX, |fd| fd.as_raw_fd() as usize);
        let mut part = [t.start, bytes(t.count)];
        let part = address(&mut part);
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
