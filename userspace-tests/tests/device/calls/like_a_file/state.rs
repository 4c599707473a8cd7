// SPDX-License-Identifier: GPL-2.0
//! msync(2), mincore(2), and what NUMA has: move_pages(2), mbind(2).

use std::ops::Range;

use super::{
    advice::{DONTNEED, GUARD_INSTALL, POPULATE_WRITE},
    lock::mlock,
    remap::{TO, remap},
    trial::{
        Differs, ELSEWHERE, FIXED, NONE, READ, RW, SMALL, Start, Trial, WINDOWS, address, bytes,
        case, compare, mapped, used,
    },
};

pub fn msync_with_every_flag() {
    let states: [(&str, Start); 7] = [
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

pub fn mincore_of_every_state() {
    let states: [(&str, Start); 9] = [
        ("as it is", |_| ()),
        ("used", used),
        ("dropped", |t| {
            used(t);
            t.advise("madvise", t.all(), DONTNEED);
        }),
        ("copied by the kernel", |t| {
            t.advise("madvise", t.all(), POPULATE_WRITE)
        }),
        ("no access", |t| {
            used(t);
            t.protect("mprotect", t.all(), NONE);
        }),
        ("with a gap", |t| t.unmap("munmap", t.middle())),
        ("with a guard", |t| {
            t.advise("madvise", t.middle(), GUARD_INSTALL)
        }),
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

pub fn mbind(t: &mut Trial, step: &str, pages: Range<usize>, mode: usize, flags: usize) {
    // The first node; the modes of no node want none.
    let mut nodes = [u64::from(![0, 4].contains(&mode))];
    t.range(
        step,
        libc::SYS_mbind,
        pages,
        [mode, address(&mut nodes), 64, flags],
    );
}

/// move_pages(2) of every page, and where each is then.
fn move_pages(t: &mut Trial, step: &str, node: Option<i32>, flags: usize) {
    let mut pages: Vec<_> = t.probes().map(|i| t.at(i)).collect();
    let mut status = vec![i32::MIN; pages.len()];
    let mut nodes = node.map(|node| vec![node; pages.len()]);
    let to = nodes.as_deref_mut().map_or(0, address);
    let arguments = [
        0,
        pages.len(),
        address(&mut pages[..]),
        to,
        address(&mut status[..]),
        flags,
    ];
    let _ = t.call(step, libc::SYS_move_pages, arguments);
    t.see_each(&format!("{step}: status"), t.probes().zip(status));
}

pub fn nodes() {
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
            let _ = t.call(
                "migrate_pages",
                libc::SYS_migrate_pages,
                [0, 64, nodes, nodes],
            );
        }),
        case("get_mempolicy", |t| {
            for flags in 0..=4 {
                policy(t, &format!("flags {flags}"), 0, flags);
            }
        }),
        case("of a page's node", |t| {
            policy(t, "get", t.middle().start, GET_NODE_OF_PAGE)
        }),
        case("the home node", |t| {
            mbind(t, "bind", t.all(), 2, 0);
            t.range("home", SYS_SET_MEMPOLICY_HOME_NODE, t.middle(), [0, 0]);
            t.range(
                "home of no node",
                SYS_SET_MEMPOLICY_HOME_NODE,
                t.middle(),
                [1, 0],
            );
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
