// SPDX-License-Identifier: GPL-2.0
//! mlock(2) and its kin.

use std::ops::Range;

use crate::support::{proc::status_kib, process::become_nobody};

use super::{
    advice::{
        DONTNEED_LOCKED, GUARD_INSTALL, GUARD_REMOVE, NO_HOLES, advise_and_see, for_every_advice,
    },
    map::LOCKED,
    remap::{MAYMOVE, TO, remap},
    trial::{
        Differs, ELSEWHERE, FIXED, NONE, READ, RW, SMALL, Start, Trial, WINDOWS, address, bytes,
        case, compare, used,
    },
};

pub fn mlock(t: &mut Trial, pages: Range<usize>) {
    t.range("mlock", libc::SYS_mlock, pages, []);
}

fn mlock_on_fault(t: &mut Trial, pages: Range<usize>) {
    t.range("mlock2", libc::SYS_mlock2, pages, [1]);
}

fn munlock(t: &mut Trial, pages: Range<usize>) {
    t.range("munlock", libc::SYS_munlock, pages, []);
}

/// What this process is said to have locked.
pub fn vm_lck(t: &mut Trial) {
    t.see("VmLck", status_kib("VmLck"));
}

/// Sees which pages are locked, now and once they are copied.
fn look_at_locks(t: &mut Trial) {
    vm_lck(t);
    t.copies("copies");
    t.store("stores", t.probes(), 9);
    t.copies("copies then");
}

pub fn mlock_and_what_follows() {
    let locking = |name: &str, body: fn(&mut Trial)| {
        case(name, move |t| {
            body(t);
            look_at_locks(t);
        })
    };
    let cases = [
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
    ];
    compare(WINDOWS, used, &cases, &[]);
}

pub fn mlock_of_children() {
    let mut cases = vec![case("a child's", |t| {
        mlock(t, t.all());
        t.in_child(|t| {
            look_at_locks(t);
            t.look();
        });
        vm_lck(t);
    })];
    for flags in 0..=8 {
        // Of a child, as it is for all that a process has.
        cases.push(case(format!("mlockall, flags {flags}"), move |t| {
            t.in_child(|t| {
                let _ = t.call("mlockall", libc::SYS_mlockall, [flags]);
                t.copies("copies");
                t.vmas("VMAs before");
                t.map("mmap", RW, t.sharing | FIXED);
                t.copies("copies then");
                t.look();
                let _ = t.call("munlockall", libc::SYS_munlockall, []);
                t.copies("copies in the end");
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
                t.map("MAP_LOCKED", RW, t.sharing | FIXED | (1 << LOCKED));
                vm_lck(t);
                t.look();
            });
        }));
    }
    compare(SMALL, used, &cases, &[]);
}

pub fn madvise_of_locked_pages() {
    const DIFFERS: &[Differs] = &[Differs(
        "REMOVE",
        &["madvise", "loads", "read(2)"],
        NO_HOLES,
    )];
    let ways: [(Start, &[Differs]); 2] = [
        (|t| mlock(t, t.all()), &[]),
        (|t| mlock_on_fault(t, t.middle()), DIFFERS),
    ];
    for (lock, differs) in ways {
        let cases = for_every_advice(move |t, advice| {
            lock(t);
            advise_and_see(t, t.all(), advice);
            look_at_locks(t);
        });
        compare(SMALL, used, &cases, differs);
    }
}
