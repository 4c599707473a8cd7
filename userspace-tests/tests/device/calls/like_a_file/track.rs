// SPDX-License-Identifier: GPL-2.0
//! Who finds out which pages were written to.

use std::{
    fs,
    ops::Range,
    os::fd::{AsRawFd, OwnedFd},
};

use rustix::io;

use super::{
    advice::{
        ADVICE, COLLAPSE, DONTNEED, GUARD_INSTALL, GUARD_REMOVE, HUGEPAGE, MERGEABLE, NO_COLLAPSE,
        TO_PAGES,
    },
    lock::mlock,
    map::ALONE,
    remap::{TO, remap},
    trial::{
        Body, Differs, ELSEWHERE, FIXED, NONE, READ, RW, SMALL, Start, Trial, WINDOWS, address,
        bytes, call, case, compare, compare_by_folio, in_short, mapped, name, pages_between, used,
    },
};
use crate::support::memory::need_soft_dirty_bits;

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
    let calls: [(&str, Start); 16] = [
        ("nothing", |_| ()),
        ("loads", |t| t.load("loads between", t.probes())),
        ("stores", |t| {
            t.store("stores between", t.probes().step_by(3), 4)
        }),
        ("a store in the middle", |t| {
            t.store("store between", t.middle(), 4)
        }),
        ("a store and mprotect of the middle", |t| {
            t.store("store between", 0..1, 4);
            t.protect("there", t.middle(), READ);
            t.protect("back", t.middle(), RW);
        }),
        ("a store and mprotect of its neighbour", |t| {
            t.store("store between", t.middle(), 4);
            t.protect("there", t.middle().start + 1..t.middle().end + 1, READ);
            t.protect("back", t.middle().start + 1..t.middle().end + 1, RW);
            t.load("loads between", t.probes());
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
            let _ = t.call(
                "pwrite",
                libc::SYS_pwrite64,
                [fd, address(&mut word), 8, at],
            );
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
        ("mlock", |t| mlock(t, t.middle())),
        ("growth", |t| remap(t, t.rest() + 2, 0, 0)),
    ];
    let calls = calls.map(|(name, body)| -> (_, Body) { (name.to_owned(), Box::new(body)) });
    let advised = TO_PAGES.into_iter().chain([COLLAPSE, HUGEPAGE, MERGEABLE]);
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

pub fn soft_dirty_pages() {
    const UNMAPPED: &str = "paged out, a file's pages forget it; those of the buffer stay";
    const AROUND: &str = "a store to a page that is missing maps those around it, for writing too";
    const DIFFERS: &[Differs] = &[
        Differs("PAGEOUT", &["soft-dirty"], UNMAPPED),
        Differs("COLLAPSE", &["madvise", "soft-dirty"], NO_COLLAPSE),
        Differs("mprotect and a store", &["soft-dirty"], AROUND),
        Differs("a child's stores", &["soft-dirty, the child's"], AROUND),
        Differs("mmap of the middle", &["VMAs", "soft-dirty"], ALONE),
    ];
    need_soft_dirty_bits();
    let mut cases: Vec<_> = between()
        .into_iter()
        .map(|(name, body)| {
            let spoils = name == "COLLAPSE";
            case(name, move |t| {
                soft_dirty(t, "before");
                clear_refs(t, CLEAR_SOFT_DIRTY);
                soft_dirty(t, "cleared");
                body(t);
                soft_dirty(t, "soft-dirty");
            })
            .spoils(spoils)
        })
        .collect();
    // Not among what may come between: on pages that userfaultfd tracks, of whatever file, the
    // kernel (7.3) goes on with it for ever.
    cases.push(case("a guard", |t| {
        clear_refs(t, CLEAR_SOFT_DIRTY);
        t.advise("there", t.middle(), GUARD_INSTALL);
        t.advise("back", t.middle(), GUARD_REMOVE);
        t.load("loads between", t.probes());
        soft_dirty(t, "soft-dirty");
    }));
    for what in [0, 1, 2, 3, 5, 6] {
        cases.push(case(format!("clear_refs {what}"), move |t| {
            clear_refs(t, what);
            soft_dirty(t, "soft-dirty");
        }));
    }
    compare_by_folio(WINDOWS, used, &cases, DIFFERS);
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
    (3 << 30) | (words << 19) | (usize::from(kind) << 8) | usize::from(number)
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
    let page = |address: u64| pages_between(t.start, address as usize);
    let found = found.map(|[start, end, categories]| {
        format!("{}..{}: {categories:#x}", page(*start), page(*end))
    });
    let found: Vec<_> = found
        .chain([format!("up to {}", page(arguments[4]))])
        .collect();
    t.see(format!("{step}: found"), found.join(", "));
}

pub fn pagemap_scan() {
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
    let states: [(&str, Start); 7] = [
        ("as it is", |_| ()),
        ("dropped", |t| t.advise("madvise", t.all(), DONTNEED)),
        ("cleared", |t| clear_refs(t, CLEAR_SOFT_DIRTY)),
        ("cleared and stored to", |t| {
            clear_refs(t, CLEAR_SOFT_DIRTY);
            t.store("stores then", t.probes().step_by(3), 4);
        }),
        ("no access", |t| t.protect("mprotect", t.all(), NONE)),
        ("with a gap", |t| t.unmap("munmap", t.middle())),
        ("with a guard", |t| {
            t.advise("madvise", t.middle(), GUARD_INSTALL)
        }),
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
    for category in (0..10)
        .map(|bit| 1 << bit)
        .filter(|category| *category != HUGE)
    {
        cases.push(case(format!("by category {category:#x}"), move |t| {
            t.advise("madvise", 0..1, GUARD_INSTALL);
            pages(
                t,
                Scan {
                    mask: category,
                    ..all
                },
            );
            pages(
                t,
                Scan {
                    mask: category,
                    inverted: category,
                    ..all
                },
            );
            pages(
                t,
                Scan {
                    any_of: category,
                    ..all
                },
            );
        }));
    }
    cases.push(case("bad arguments", move |t| {
        for (step, wanted) in [
            ("flags", Scan { flags: 4, ..all }),
            (
                "not tracked",
                Scan {
                    flags: CHECK_WPASYNC,
                    ..all
                },
            ),
            (
                "to be protected",
                Scan {
                    flags: WP_MATCHING,
                    ..all
                },
            ),
            ("to be protected, checked", Scan { flags: 3, ..all }),
            (
                "categories",
                Scan {
                    mask: 1 << 10,
                    ..all
                },
            ),
            (
                "returned",
                Scan {
                    returned: 1 << 10,
                    ..all
                },
            ),
            (
                "one page",
                Scan {
                    max_pages: 1,
                    ..all
                },
            ),
        ] {
            scan(t, step, 0..1, wanted);
        }
    }));
    compare(SMALL, used, &cases, &[]);
}

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
    t.answer("UFFDIO_API", uffd_call(&fd, API, &mut [0xaa, features, 0]));
    Some(fd)
}

fn uffd_call(fd: &OwnedFd, number: u8, words: &mut [u64]) -> io::Result<usize> {
    let request = match number {
        // That it writes nothing and reads a range is an old mistake.
        UNREGISTER => ioctl_of_words(0xaa, number, words.len()) & !(1 << 30),
        number => ioctl_of_words(0xaa, number, words.len()),
    };
    call(
        libc::SYS_ioctl,
        [fd.as_raw_fd() as usize, request, address(words)],
    )
}

/// Registers pages, and returns the answer with what can be done with them then.
fn register(t: &Trial, fd: &OwnedFd, pages: Range<usize>, mode: u64) -> (io::Result<usize>, u64) {
    let mut words = [t.at(pages.start) as u64, bytes(pages.len()) as u64, mode, 0];
    let answer = uffd_call(fd, REGISTER, &mut words);
    (answer, words[3])
}

fn unregister(t: &Trial, fd: &OwnedFd, pages: Range<usize>) -> io::Result<usize> {
    let mut words = [t.at(pages.start) as u64, bytes(pages.len()) as u64];
    uffd_call(fd, UNREGISTER, &mut words)
}

fn write_protect(t: &mut Trial, step: &str, fd: &OwnedFd, pages: Range<usize>, mode: u64) {
    let mut words = [t.at(pages.start) as u64, bytes(pages.len()) as u64, mode];
    t.answer(step, uffd_call(fd, WRITEPROTECT, &mut words));
}

pub fn userfaultfd_registers() {
    const NO_HANDLERS: &str = "the kernel has no way to give a module's pages to a handler";
    const DIFFERS: &[Differs] = &[
        Differs("no features", &["modes"], NO_HANDLERS),
        Differs("asynchronous", &["modes"], NO_HANDLERS),
        Differs("for shmem", &["modes"], NO_HANDLERS),
    ];
    let features = [
        ("no features", 0),
        ("asynchronous", WP_ASYNC),
        ("for shmem", (1 << 5) | (1 << 10) | (1 << 12)),
    ];
    let cases = features.map(|(name, features)| {
        case(name, move |t| {
            let Some(fd) = userfaultfd(t, features) else {
                return;
            };
            let answers = |t: &Trial, mode| {
                let (answer, calls) = register(t, &fd, t.all(), mode);
                let back = unregister(t, &fd, t.all());
                let answers = [answer, back].map(in_short);
                format!("{}, calls {calls:#x}", answers.join(", "))
            };
            if features == WP_ASYNC {
                t.see("mode of writes", answers(t, MODE_WP));
            }
            let modes = (0..=16).filter(|mode| (features, *mode) != (WP_ASYNC, MODE_WP));
            let modes: Vec<_> = modes.map(|mode| answers(t, mode)).collect();
            t.see("modes", modes.join("; "));
        })
    });
    compare(SMALL, used, &cases, DIFFERS);
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
    t.answer("register", register(t, &fd, pages.clone(), MODE_WP).0);
    write_protect(t, "write-protect", &fd, pages, 1);
    t.vmas("VMAs, tracked");
    Some(fd)
}

pub fn userfaultfd_tracks_writes() {
    const AS_ONE: &str =
        "what one entry maps is protected as one by a scan, and so is written to as one";
    const DIFFERS: &[Differs] = &[Differs(
        "by scans alone",
        &[
            "round 2",
            "round 2: found",
            "round 3",
            "round 3: found",
            "in the end",
            "in the end: found",
            "in the end: protected",
        ],
        AS_ONE,
    )];
    compare_tracking(used, DIFFERS);
}

pub fn userfaultfd_tracks_first_writes() {
    compare_tracking(mapped, &[]);
}

fn compare_tracking(start: Start, differs: &'static [Differs]) {
    const TAKE: u64 = WP_MATCHING | CHECK_WPASYNC;
    let tracking = |name: String, body: Body| {
        let spoils = name == "COLLAPSE";
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
        .spoils(spoils)
    };
    let mut cases: Vec<_> = between()
        .into_iter()
        .map(|(name, body)| tracking(name, body))
        .collect();
    cases.extend([
        case("by scans alone", |t| {
            let fd = userfaultfd(t, WP_ASYNC);
            if let Some(fd) = &fd {
                t.answer("register", register(t, fd, t.all(), MODE_WP).0);
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
                t.answer("unregister", unregister(t, &fd, t.middle()));
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
            for pages in [0..0, t.count..t.count + 1, 0..t.count + 1] {
                t.answer("register", register(t, &fd, pages, MODE_WP).0);
            }
            let mut words = [t.start as u64 + 1, bytes(1) as u64, 1];
            t.answer("an odd address", uffd_call(&fd, WRITEPROTECT, &mut words));
        }),
    ]);
    compare_by_folio(WINDOWS, start, &cases, differs);
}
