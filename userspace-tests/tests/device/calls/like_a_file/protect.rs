// SPDX-License-Identifier: GPL-2.0
//! mprotect(2), and what keeps from it: mseal(2) and pkeys(7).

use std::ops::Range;

use super::{
    advice::{
        DONTNEED, POPULATE_READ, POPULATE_WRITE, REMOVE_DIFFERS, advise_and_see, for_every_advice,
    },
    lock::mlock,
    map::{EXECUTING, NO_EXEC},
    remap::{TO, remap},
    state::mbind,
    trial::{
        Differs, ELSEWHERE, FIXED, NONE, ONE, Part, READ, RW, SMALL, Trial, WINDOWS, case, compare,
        used,
    },
};

pub fn mprotect_of_parts() {
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
            t.bad_ranges(libc::SYS_mprotect, READ);
        }),
        case("bits of no protection", |t| {
            for bit in 3..32 {
                t.protect(format!("bit {bit}"), t.all(), READ | (1 << bit));
            }
        }),
    ];
    for prot in 0..=RW {
        for (part, pages) in [
            ("all", Trial::all as Part),
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
pub fn mprotect_page_by_page() {
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

const SYS_MSEAL: libc::c_long = 462;

pub fn mseal_keeps() {
    // A seal is for ever: of a child each.
    let sealing = |name: &str, body: fn(&mut Trial)| {
        case(name, move |t| {
            t.in_child(|t| {
                t.range("mseal", SYS_MSEAL, t.all(), [0]);
                body(t);
                t.look();
            })
        })
    };
    let mut cases = vec![
        sealing("nothing", |_| ()),
        sealing("mseal again", |t| {
            t.range("again", SYS_MSEAL, t.middle(), [0])
        }),
        sealing("munmap", |t| t.unmap("munmap", t.all())),
        sealing("munmap of the middle", |t| t.unmap("munmap", t.middle())),
        sealing("mmap", |t| t.map("mmap", RW, t.sharing | FIXED)),
        sealing("mprotect", |t| t.protect("mprotect", t.all(), READ)),
        sealing("mprotect to what it is", |t| {
            t.protect("mprotect", t.all(), RW)
        }),
        sealing("mremap", |t| remap(t, t.count, TO, ELSEWHERE)),
        sealing("mremap to more", |t| remap(t, t.count + 1, 0, 0)),
        sealing("mremap to less", |t| remap(t, t.count / 2, 0, 0)),
        sealing("a copy", |t| {
            t.remap("mremap", 0..0, t.count, TO, ELSEWHERE);
        }),
        sealing("mlock", |t| mlock(t, t.all())),
        sealing("mbind", |t| mbind(t, "mbind", t.all(), 2, 0)),
        sealing("pkey_mprotect", |t| {
            t.range("pkey", libc::SYS_pkey_mprotect, t.all(), [READ, 0])
        }),
        sealing("a child", |t| {
            t.in_child(|t| {
                t.unmap("the child's munmap", t.all());
                t.look();
            })
        }),
    ];
    for (step, pages, flags) in [
        ("of the middle", Trial::middle as Part, 0),
        ("with flags", Trial::all, 1),
        ("of nothing", |_| 0..0, 0),
        ("with a gap behind", |t| 0..t.count + 1, 0),
        ("of what is free", |t| t.count..t.count + 1, 0),
    ] {
        cases.push(case(step, move |t| {
            t.in_child(|t| {
                t.range("mseal", SYS_MSEAL, pages(t), [flags]);
                t.protect("mprotect", t.all(), READ);
                t.look();
            })
        }));
    }
    compare(SMALL, used, &cases, &[]);
    let cases = for_every_advice(|t, advice| {
        t.in_child(|t| {
            t.protect("mprotect", t.middle(), READ);
            t.range("mseal", SYS_MSEAL, t.all(), [0]);
            advise_and_see(t, t.all(), advice);
            t.look();
        });
    });
    compare(ONE, used, &cases, REMOVE_DIFFERS);
}

pub fn protection_keys() {
    fn give(t: &mut Trial, pages: Range<usize>, prot: usize, key: usize) {
        t.range("pkey_mprotect", libc::SYS_pkey_mprotect, pages, [prot, key]);
    }
    type Use = fn(&mut Trial, usize);
    let uses: [(&str, Use); 8] = [
        ("the middle", |t, key| give(t, t.middle(), RW, key)),
        ("the middle, there and back", |t, key| {
            give(t, t.middle(), RW, key);
            t.look();
            give(t, t.middle(), RW, 0);
        }),
        ("for reading", |t, key| give(t, t.all(), READ, key)),
        ("dropped", |t, key| {
            give(t, t.all(), RW, key);
            t.advise("madvise", t.all(), DONTNEED);
        }),
        ("moved", |t, key| {
            give(t, t.all(), RW, key);
            remap(t, t.count, TO, ELSEWHERE);
        }),
        ("populated", |t, key| {
            give(t, t.all(), RW, key);
            t.advise("read", t.all(), POPULATE_READ);
            t.advise("write", t.all(), POPULATE_WRITE);
        }),
        ("the kernel's loads and stores", |t, key| {
            give(t, t.all(), RW, key);
            let (fd, at) = (t.rw(), t.at(t.middle().start));
            let _ = t.call("pread", libc::SYS_pread64, [fd, at, 8, 0]);
            let _ = t.call("pwrite", libc::SYS_pwrite64, [fd, at, 8, 0]);
        }),
        ("freed", |t, key| {
            give(t, t.all(), RW, key);
            let _ = t.call("pkey_free", libc::SYS_pkey_free, [key]);
            give(t, t.all(), RW, key);
        }),
    ];
    // The rights to a key are a thread's: of a child each.
    let with_rights = |rights| {
        uses.map(|(name, body)| {
            case(format!("{name}, rights {rights}"), move |t| {
                t.in_child(|t| {
                    let key = t.call("pkey_alloc", libc::SYS_pkey_alloc, [0, rights]);
                    body(t, key.unwrap_or(1));
                    t.look();
                });
            })
        })
    };
    const NO_LOADS: usize = 1;
    compare(WINDOWS, used, &with_rights(NO_LOADS), &[]);
    for rights in [0, 2, 3] {
        compare(ONE, used, &with_rights(rights), &[]);
    }
}
