// SPDX-License-Identifier: GPL-2.0
//! futex(2) on words in a shared mapping: the same futex for every process and every address.

use std::{sync::atomic::Ordering::SeqCst, thread};

use rust_mmapdev::{Access, Device};
use rustix::{
    fs::OFlags,
    io::{self, Errno},
    thread::futex::{self, Flags, Wait, WaitFlags, WaitPtr},
    time::Timespec,
};

use crate::{
    harness::tests,
    support::{
        errno,
        memory::{Advice, Map, READ, SHARED, mmap, page, private, shared},
        module::fresh,
        open,
        process::{Child, Link, ROLES, Role, start},
    },
};

tests![
    wakes_an_unrelated_process,
    wakes_as_many_as_asked,
    another_address_is_the_same_futex,
    wakes_after_dontneed,
    waits_through_a_read_only_mapping,
    value_that_differs_is_eagain,
    time_that_runs_out_is_etimedout,
    a_private_mapping_has_futexes_of_its_own,
    another_offset_is_another_futex,
    requeues_to_another_page,
    waits_on_several_at_once,
];

const NO_FLAGS: Flags = Flags::empty();

/// Waits on the word at an offset for as long as it is 0.
#[linkme::distributed_slice(ROLES)]
static WAITER: Role = Role {
    name: "futex-waiter",
    body: waiter,
};

fn waiter(link: &Link, args: &[String]) {
    let offset: usize = args[0].parse().expect("an offset");
    let device = Device::open(Access::ReadWrite).expect("open");
    let map = shared(&device, offset / page() + 1);
    link.signal();
    while map.u32(offset).load(SeqCst) == 0 {
        match futex::wait(map.u32(offset), NO_FLAGS, 0, None) {
            Ok(()) | Err(Errno::AGAIN) => break,
            Err(Errno::INTR) => {}
            Err(err) => panic!("FUTEX_WAIT: {err}"),
        }
    }
    link.signal();
}

fn start_waiter(offset: usize) -> Child {
    let child = start(&WAITER, &[&offset.to_string()]);
    child.link.wait();
    child
}

/// Wakes until `count` have been woken: a waiter may be about to wait.
fn wake(map: &Map, offset: usize, count: u32) {
    let mut woken = 0;
    while woken < count {
        woken += futex::wake(map.u32(offset), NO_FLAGS, count - woken).expect("FUTEX_WAKE") as u32;
        thread::yield_now();
    }
}

fn wakes_an_unrelated_process() {
    let map = shared(fresh(1), 1);
    let child = start_waiter(128);
    wake(&map, 128, 1);
    child.link.wait();
    child.join();
}

fn wakes_as_many_as_asked() {
    let map = shared(fresh(1), 1);
    let children: Vec<_> = (0..4).map(|_| start_waiter(128)).collect();
    wake(&map, 128, 1);
    wake(&map, 128, 2);
    wake(&map, 128, 1);
    for child in children {
        child.link.wait();
        child.join();
    }
    assert_eq!(
        futex::wake(map.u32(128), NO_FLAGS, 1),
        Ok(0),
        "nobody waits any more"
    );
}

/// Two mappings in one process: the addresses differ, the page does not.
fn another_address_is_the_same_futex() {
    let device = fresh(1);
    let (one, two) = (shared(&device, 1), shared(open(OFlags::RDWR), 1));
    assert_ne!(one.at(0), two.at(0));
    thread::scope(|scope| {
        scope.spawn(|| futex::wait(one.u32(128), NO_FLAGS, 0, None).expect("FUTEX_WAIT"));
        wake(&two, 128, 1);
    });
}

fn another_offset_is_another_futex() {
    let map = shared(fresh(4), 2);
    let child = start_waiter(128);
    for other in [124, 132, 128 + page()] {
        assert_eq!(
            futex::wake(map.u32(other), NO_FLAGS, 1),
            Ok(0),
            "offset {other}"
        );
    }
    wake(&map, 128, 1);
    child.join();
}

fn wakes_after_dontneed() {
    let map = shared(fresh(1), 1);
    let child = start_waiter(128);
    map.advise(Advice::LinuxDontNeed).expect("madvise");
    wake(&map, 128, 1);
    child.join();
}

fn waits_through_a_read_only_mapping() {
    let device = fresh(1);
    let read_only = mmap(open(OFlags::RDONLY), 0, page(), READ, SHARED).expect("mmap");
    let writable = shared(&device, 1);
    thread::scope(|scope| {
        scope.spawn(|| futex::wait(read_only.u32(128), NO_FLAGS, 0, None).expect("FUTEX_WAIT"));
        wake(&writable, 128, 1);
    });
}

fn value_that_differs_is_eagain() {
    let map = shared(fresh(1), 1);
    map.u32(128).store(7, SeqCst);
    assert_eq!(
        errno(futex::wait(map.u32(128), NO_FLAGS, 8, None)),
        Errno::AGAIN
    );
}

fn time_that_runs_out_is_etimedout() {
    let map = shared(fresh(1), 1);
    let limit = Timespec {
        tv_sec: 0,
        tv_nsec: 1_000_000,
    };
    assert_eq!(
        errno(futex::wait(map.u32(128), NO_FLAGS, 0, Some(&limit))),
        Errno::TIMEDOUT
    );
}

fn requeues_to_another_page() {
    let map = shared(fresh(4), 2);
    let child = start_waiter(128);
    let target = map.u32(page() + 128);
    while futex::requeue(map.u32(128), NO_FLAGS, 0, 1, target) != Ok(1) {
        thread::yield_now();
    }
    assert_eq!(
        futex::wake(map.u32(128), NO_FLAGS, 1),
        Ok(0),
        "it waits elsewhere now"
    );
    assert_eq!(futex::wake(target, NO_FLAGS, 1), Ok(1));
    child.join();
}

fn waits_on_several_at_once() {
    let map = shared(fresh(4), 2);
    let (one, two) = (map.u32(128), map.u32(page() + 128));
    let woken = thread::scope(|scope| {
        let waiter = scope.spawn(|| -> io::Result<usize> {
            let waits = [one, two].map(|word| {
                let mut wait = Wait::new();
                wait.val = 0;
                wait.uaddr = WaitPtr::new(word.as_ptr().cast());
                wait.flags = WaitFlags::SIZE_U32;
                wait
            });
            futex::waitv(
                &waits,
                futex::WaitvFlags::empty(),
                None,
                rustix::thread::ClockId::Monotonic,
            )
        });
        wake(&map, page() + 128, 1);
        waiter.join().expect("the waiter")
    });
    assert_eq!(woken, Ok(1), "the second of the two");
}

/// As on a file: waiting on a private mapping concerns this process alone.
fn a_private_mapping_has_futexes_of_its_own() {
    let device = fresh(1);
    let (own, all) = (private(&device, 1), shared(&device, 1));
    let child = start_waiter(128);
    assert_eq!(
        futex::wake(own.u32(128), NO_FLAGS, 1),
        Ok(0),
        "another futex"
    );
    wake(&all, 128, 1);
    child.join();
}
