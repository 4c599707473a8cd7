// SPDX-License-Identifier: GPL-2.0
//! Several processes and one buffer.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use rust_mmapdev::{Access, Device, Protection, Sharing};
use rustix::{fs::OFlags, io::Errno};

use crate::{
    harness::tests,
    support::{
        assert_same, errno,
        memory::{READ, RW, SHARED, mmap, page, shared},
        module::{fresh, initial, live_mappings},
        open, pattern, pread,
        process::{Link, ROLES, Role, fork, pass, passed, start},
        pwrite,
    },
};

tests![
    unrelated_processes_see_each_others_bytes,
    unrelated_processes_share_the_page_frame,
    a_private_mapping_hides_from_unrelated_processes,
    message_ring_between_processes,
    atomics_count_right_between_processes,
    a_passed_descriptor_maps,
    a_passed_descriptor_keeps_its_access_mode,
    fifty_processes_map_at_once,
];

/// Maps the device shared or private, and does as it is told.
#[linkme::distributed_slice(ROLES)]
static PEER: Role = Role {
    name: "peer",
    body: peer,
};

const STORE: u64 = 1;
const LOAD: u64 = 2;
const FRAME: u64 = 3;
const END: u64 = 4;

fn peer(link: &Link, args: &[String]) {
    let sharing = match args[0].as_str() {
        "shared" => Sharing::Shared,
        "private" => Sharing::Private,
        other => panic!("no such sharing: {other}"),
    };
    let device = Device::open(Access::ReadWrite).expect("open");
    let map = device.map(sharing, Protection::ReadWrite).expect("map");
    let other = mmap(&device, 0, page(), READ, SHARED).expect("mmap");
    loop {
        match link.receive() {
            STORE => {
                let (at, value) = (link.receive() as usize, link.receive());
                map.write_at(at, &value.to_ne_bytes()).expect("write_at");
                link.signal();
            }
            LOAD => {
                let mut bytes = [0; 8];
                map.read_at(link.receive() as usize, &mut bytes)
                    .expect("read_at");
                link.send(u64::from_ne_bytes(bytes));
            }
            FRAME => link.send(other.frames()[0].expect("a page")),
            END => return,
            other => panic!("no such order: {other}"),
        }
    }
}

fn store(link: &Link, at: u64, value: &[u8; 8]) {
    link.send(STORE);
    link.send(at);
    link.send(u64::from_ne_bytes(*value));
    link.wait();
}

fn load(link: &Link, at: u64) -> [u8; 8] {
    link.send(LOAD);
    link.send(at);
    link.receive().to_ne_bytes()
}

fn unrelated_processes_see_each_others_bytes() {
    fresh(1);
    let (a, b) = (start(&PEER, &["shared"]), start(&PEER, &["shared"]));
    assert_eq!(
        load(&a.link, 0),
        initial(8)[..],
        "A sees the kernel's bytes"
    );
    store(&a.link, 0, b"A wrote.");
    assert_eq!(load(&b.link, 0), *b"A wrote.");
    store(&b.link, page() as u64 - 8, b"B wrote.");
    assert_eq!(load(&a.link, page() as u64 - 8), *b"B wrote.");
    assert_same(&pread(0, 8), b"A wrote.", "the kernel's read");
    assert_same(
        &pread(page() as u64 - 8, 8),
        b"B wrote.",
        "the kernel's read",
    );
    pwrite(100, b"written!");
    assert_eq!(load(&a.link, 100), *b"written!");
    assert_eq!(load(&b.link, 100), *b"written!");
    for child in [a, b] {
        child.link.send(END);
        child.join();
    }
    assert_same(
        &pread(0, 8),
        b"A wrote.",
        "the kernel's read after both have ended",
    );
}

fn unrelated_processes_share_the_page_frame() {
    let device = fresh(1);
    let own = shared(&device, 1).frames()[0];
    let peers = [start(&PEER, &["shared"]), start(&PEER, &["shared"])];
    for peer in &peers {
        peer.link.send(FRAME);
        assert_eq!(Some(peer.link.receive()), own);
    }
}

fn a_private_mapping_hides_from_unrelated_processes() {
    fresh(1);
    let (a, b) = (start(&PEER, &["private"]), start(&PEER, &["private"]));
    let c = start(&PEER, &["shared"]);
    store(&a.link, 0, b"A's own.");
    store(&b.link, 0, b"B's own.");
    assert_eq!(load(&a.link, 0), *b"A's own.");
    assert_eq!(load(&b.link, 0), *b"B's own.");
    assert_eq!(load(&c.link, 0), initial(8)[..]);
    assert_same(&pread(0, page()), &initial(page()), "the buffer");
}

/// A queue of one producer and one consumer: an index each, and loads and stores in order.
fn message_ring_between_processes() {
    const MESSAGES: u32 = 20_000;
    const SLOTS: u32 = 64;
    let device = fresh(1);
    let map = shared(&device, 1);
    map.u64(0).store(0, SeqCst);
    let producer = fork(|_| {
        let map = shared(open(OFlags::RDWR), 1);
        for i in 0..MESSAGES {
            while i - map.u32(4).load(SeqCst) == SLOTS {
                std::thread::yield_now();
            }
            let slot = 64 + 4 * (i % SLOTS) as usize;
            map.u32(slot).store(i.wrapping_mul(0x9e37_79b9), Relaxed);
            map.u32(0).store(i + 1, SeqCst);
        }
    });
    for i in 0..MESSAGES {
        while map.u32(0).load(SeqCst) == i {
            std::thread::yield_now();
        }
        let slot = 64 + 4 * (i % SLOTS) as usize;
        let message = map.u32(slot).load(Relaxed);
        assert_eq!(message, i.wrapping_mul(0x9e37_79b9), "message {i}");
        map.u32(4).store(i + 1, SeqCst);
    }
    producer.join();
}

fn atomics_count_right_between_processes() {
    const ROUNDS: u64 = 20_000;
    fresh(1);
    pwrite(0, &[0; 8]);
    let work = || {
        let map = shared(open(OFlags::RDWR), 1);
        for _ in 0..ROUNDS {
            map.u64(0).fetch_add(1, Relaxed);
        }
    };
    let children = [
        fork(|_| work()),
        fork(|_| work()),
        fork(|_| work()),
        fork(|_| work()),
    ];
    children.into_iter().for_each(|child| child.join());
    assert_eq!(pread(0, 8), (4 * ROUNDS).to_ne_bytes());
}

fn fifty_processes_map_at_once() {
    fresh(4);
    let bytes = pattern(1, 4 * page());
    pwrite(0, &bytes);
    let children: Vec<_> = (0..50)
        .map(|_| {
            fork(|link| {
                let map = shared(open(OFlags::RDWR), 4);
                assert_same(&map.bytes(), &bytes, "each process's mapping");
                link.signal();
                link.wait();
                assert_same(&map.read(0, 5), b"to 50", "a byte for all");
            })
        })
        .collect();
    children.iter().for_each(|child| child.link.wait());
    assert_eq!(live_mappings(), 50);
    pwrite(0, b"to 50");
    children.iter().for_each(|child| child.link.signal());
    children.into_iter().for_each(|child| child.join());
    assert_eq!(live_mappings(), 0);
}

/// Hands a descriptor over to another process.
fn a_passed_descriptor_maps() {
    fresh(1);
    let child = fork(|link| {
        crate::support::process::become_nobody();
        let map = shared(passed(link), 1);
        map.write(0, b"from a stranger");
    });
    pass(&child.link, &open(OFlags::RDWR));
    child.join();
    assert_same(&pread(0, 15), b"from a stranger", "the buffer");
}

fn a_passed_descriptor_keeps_its_access_mode() {
    fresh(1);
    let child = fork(|link| {
        let fd = passed(link);
        assert_eq!(errno(mmap(&fd, 0, page(), RW, SHARED)), Errno::ACCESS);
        mmap(&fd, 0, page(), READ, SHARED).expect("for reading");
    });
    pass(&child.link, &open(OFlags::RDONLY));
    child.join();
}
