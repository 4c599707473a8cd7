// SPDX-License-Identifier: GPL-2.0
//! Several processes write to one record at once; what goes wrong when they have no order, step by
//! step so that it happens every time; and that none of it happens with any of the remedies, neither
//! step by step nor under load.
//!
//! The processes are unrelated to each other. They are in C (`c/writers.c`), with all that POSIX and
//! C11 have for it, and by turns in C and in Rust where the language alone suffices. A record of three
//! letters and a counter are what they all write to.

use std::{
    sync::atomic::{
        AtomicU8, AtomicU32, AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
    thread,
};

use rustix::{fs::OFlags, io::Errno};

use crate::{
    harness::tests,
    support::{
        assert_same,
        memory::{Map, page, private, shared},
        module::{fresh, initial},
        open, pattern, pread,
        process::{Child, Link, Program, ROLES, Role, fork, start, start_linked},
        pwrite,
    },
};

tests![
    shared_mappings_of_several_processes_show_one_another,
    all_operate_on_the_same_memory,
    unordered_writes_mix,
    a_later_write_wipes_out_an_earlier_one,
    an_update_gets_lost,
    half_a_write_is_visible,
    without_a_remedy_updates_get_lost_under_load,
    flock,
    fcntl_record_locks,
    fcntl_open_file_description_locks,
    pthread_mutex_process_shared,
    pthread_mutex_robust,
    pthread_mutex_with_priority_inheritance,
    pthread_mutex_robust_when_its_owner_is_killed,
    pthread_mutex_robust_when_its_owner_is_killed_under_a_waiter,
    pthread_cond_process_shared,
    pthread_rwlock_process_shared,
    pthread_barrier_process_shared,
    atomics_of_c11_and_of_rust,
    sync_builtins,
    sem_t_unnamed,
    sem_t_named,
    private_writers_at_once_do_not_meet,
    no_conflict_at_different_addresses,
];

// Where `struct shared` of c/writers.c has what.
const WORD: usize = 0;
const COUNTER: usize = 8;

/// Its first word is its futex.
const MUTEX: usize = 64;
const SPIN: usize = 384;

/// The process in Rust: with a lock of its own making, with single atomic accesses, or with nothing.
#[linkme::distributed_slice(ROLES)]
static WRITER: Role = Role {
    name: "writer",
    body: writer,
};

/// The remedies that it knows.
const IN_RUST: [&str; 3] = ["none", "sync", "atomic"];

struct Record(Map);

impl Record {
    fn letter(&self, index: usize) -> &AtomicU8 {
        // SAFETY: a byte of the mapping, which is written to with atomics only.
        unsafe { AtomicU8::from_ptr(self.0.at(index)) }
    }

    fn counter(&self) -> &AtomicU64 {
        self.0.u64(COUNTER)
    }

    fn spin(&self) -> &AtomicU32 {
        self.0.u32(SPIN)
    }

    fn try_to_hold(&self) -> i32 {
        match self.spin().swap(1, SeqCst) {
            0 => 0,
            _ => libc::EBUSY,
        }
    }

    fn let_go(&self) {
        self.spin().store(0, SeqCst);
    }

    fn is_whole(&self) -> bool {
        let [a, b, c] = [0, 1, 2].map(|i| self.letter(i).load(Relaxed));
        a == b && b == c
    }

    /// The others get a chance in the middle of everything.
    fn write_once(&self, letter: u8) {
        let value = self.counter().load(Relaxed);
        for i in 0..3 {
            self.letter(i).store(letter, Relaxed);
            thread::yield_now();
        }
        self.counter().store(value + 1, Relaxed);
    }

    /// Returns how often the record was not whole.
    fn rounds(&self, remedy: &str, letter: u8, count: u64, only_read: bool) -> u64 {
        let mut broken = 0;
        for _ in 0..count {
            if remedy == "atomic" {
                broken += u64::from(self.0.u64(WORD).load(SeqCst) % 0x01_01_01 != 0);
                if !only_read {
                    self.counter().fetch_add(1, SeqCst);
                    let word = u64::from(letter) * 0x01_01_01;
                    self.0.u64(WORD).store(word, SeqCst);
                }
                continue;
            }
            while remedy == "sync" && self.try_to_hold() != 0 {
                thread::yield_now();
            }
            broken += u64::from(!self.is_whole());
            if !only_read {
                self.write_once(letter);
            }
            self.let_go();
        }
        broken
    }
}

fn writer(link: &Link, args: &[String]) {
    let record = Record(shared(open(OFlags::RDWR), 1));
    let mut remembered = 0;
    loop {
        let order = link.receive().to_ne_bytes();
        let (letter, number) = (order[1], u16::from_le_bytes([order[2], order[3]]));
        let index = usize::from(number);
        link.send(match order[0] {
            b'p' => {
                record.letter(index).store(letter, Relaxed);
                0
            }
            b'g' => record.letter(index).load(Relaxed).into(),
            b'l' => {
                remembered = record.counter().load(Relaxed);
                remembered
            }
            b's' => {
                record.counter().store(remembered + 1, Relaxed);
                0
            }
            b't' => record.try_to_hold() as u64,
            b'u' => {
                record.let_go();
                0
            }
            kind @ (b'w' | b'r') => record.rounds(&args[0], letter, number.into(), kind == b'r'),
            other => panic!("no such order: {other}"),
        });
    }
}

/// A process as the test sees it. Its letter is also what it writes.
struct Writer {
    child: Child,
    letter: u8,
}

impl Writer {
    fn send(&self, order: u8, number: u16) {
        let [low, high] = number.to_le_bytes();
        let order = [order, self.letter, low, high, 0, 0, 0, 0];
        self.child.link.send(u64::from_ne_bytes(order));
    }

    #[track_caller]
    fn order(&self, order: u8, number: u16) -> u64 {
        self.send(order, number);
        self.child.link.receive()
    }

    /// Writes its letter at `index`.
    fn put(&self, index: u16) {
        self.order(b'p', index);
    }

    fn record(&self) -> [u8; 3] {
        [0, 1, 2].map(|i| self.order(b'g', i) as u8)
    }

    fn load_counter(&self) -> u64 {
        self.order(b'l', 0)
    }

    fn store_counter_plus_one(&self) {
        self.order(b's', 0);
    }

    fn try_to_hold(&self) -> i32 {
        self.order(b't', 0) as i32
    }

    fn try_to_share(&self) -> i32 {
        self.order(b't', 1) as i32
    }

    fn let_go(&self) {
        self.order(b'u', 0);
    }
}

#[track_caller]
fn must(error: i32) {
    assert_eq!(error, 0, "{}", Errno::from_raw_os_error(error));
}

/// The processes' letters.
const LETTERS: &[u8] = b"ABCDEF";

fn init(remedy: &str) -> Program {
    fresh(1);
    let program = Program::new(programs::WRITERS);
    program.run(&[remedy, "init", &LETTERS.len().to_string()]);
    program
}

/// Starts a process for each letter, by turns in C and in Rust where both know the remedy.
fn writers(remedy: &str) -> Vec<Writer> {
    let program = init(remedy);
    let start = |(i, &letter)| Writer {
        child: if i % 2 == 1 && IN_RUST.contains(&remedy) {
            start(&WRITER, &[remedy])
        } else {
            start_linked(program.command(&[remedy]))
        },
        letter,
    };
    LETTERS.iter().enumerate().map(start).collect()
}

/// Two of them, without any remedy: in C and Rust, in Rust and C, and both in the same language.
fn without_remedy(mut body: impl FnMut(&Writer, &Writer)) {
    let writers = writers("none");
    for (a, b) in [(0, 1), (1, 0), (0, 2), (1, 3)] {
        fresh_record();
        body(&writers[a], &writers[b]);
    }
}

/// Three equal letters and a counter of 0.
fn fresh_record() {
    pwrite(0, b"...\0\0\0\0\0\0\0\0\0\0\0\0\0");
}

fn counter() -> u64 {
    u64::from_ne_bytes(pread(COUNTER as u64, 8).try_into().expect("eight bytes"))
}

/// The failures above, tried again with the remedy: while one writes, `refusal` is what the other
/// gets, and afterwards it finds all of the first one's writing.
fn stepwise(writers: &[Writer], refusal: Errno) {
    let refusal = refusal.raw_os_error();
    for (a, b) in [(0, 1), (1, 0), (0, 2), (1, 3)] {
        let (a, b) = (&writers[a], &writers[b]);
        let before = counter();
        must(a.try_to_hold());
        a.put(0);
        assert_eq!(b.try_to_hold(), refusal, "B, after one letter of A's");
        a.put(1);
        a.load_counter();
        assert_eq!(b.try_to_hold(), refusal, "B, after A's load");
        a.put(2);
        a.store_counter_plus_one();
        a.let_go();
        must(b.try_to_hold());
        assert_eq!(b.record(), [a.letter; 3], "what B finds");
        (0..3).for_each(|i| b.put(i));
        b.load_counter();
        b.store_counter_plus_one();
        b.let_go();
        assert_same(&pread(0, 3), &[b.letter; 3], "what the kernel has");
        assert_eq!(counter(), before + 2, "no update is lost");
    }
}

/// All at once: four that write and two that only read. Returns how often one found the record torn,
/// and how many updates of the counter were kept, of how many.
fn load(writers: &[Writer], rounds: u16) -> (u64, u64, u64) {
    let before = counter();
    let (writing, reading) = writers.split_at(4);
    writing.iter().for_each(|writer| writer.send(b'w', rounds));
    reading.iter().for_each(|writer| writer.send(b'r', rounds));
    let torn = writers.iter().map(|writer| writer.child.link.receive());
    let torn = torn.sum();
    let writes = u64::from(rounds) * writing.len() as u64;
    (torn, counter() - before, writes)
}

#[track_caller]
fn under_load(writers: &[Writer], rounds: u16) {
    let (torn, kept, writes) = load(writers, rounds);
    assert_eq!((torn, kept), (0, writes), "torn records, updates kept");
    let record = pread(0, 3);
    assert!(
        record[0] == record[1] && record[1] == record[2],
        "{record:?}"
    );
}

/// Those that only read keep writers out, but not each other.
fn readers_share(writers: &[Writer], refusal: Errno) {
    let [a, b, c] = [&writers[0], &writers[1], &writers[2]];
    must(a.try_to_share());
    must(b.try_to_share());
    assert_eq!(c.try_to_hold(), refusal.raw_os_error(), "a writer");
    a.let_go();
    assert_eq!(
        c.try_to_hold(),
        refusal.raw_os_error(),
        "one reader is left"
    );
    b.let_go();
    must(c.try_to_hold());
    assert_eq!(a.try_to_share(), refusal.raw_os_error(), "beside a writer");
    c.let_go();
}

const ROUNDS: u16 = 250;

/// "Can several processes map it at once? Yes."
fn shared_mappings_of_several_processes_show_one_another() {
    let writers = writers("none");
    for writer in &writers {
        (0..3).for_each(|i| writer.put(i));
        for reader in &writers {
            assert_eq!(reader.record(), [writer.letter; 3]);
        }
    }
}

/// "They operate on the same memory": one page frame, whatever the addresses are.
fn all_operate_on_the_same_memory() {
    let frames = shared(fresh(1), 1).frames();
    let children: Vec<_> = (0..4)
        .map(|_| {
            fork(|link| {
                let map = shared(open(OFlags::RDWR), 1);
                link.send(map.frames()[0].expect("a page"));
                link.wait();
            })
        })
        .collect();
    for child in &children {
        assert_eq!(Some(child.link.receive()), frames[0]);
    }
}

/// The guide's example to the letter: A writes "AAA", B writes "BBB", and "ABA" is what stays.
fn unordered_writes_mix() {
    without_remedy(|a, b| {
        b.put(0);
        a.put(0);
        a.put(1);
        b.put(1);
        b.put(2);
        a.put(2);
        let mixture = [a.letter, b.letter, a.letter];
        assert_same(&pread(0, 3), &mixture, "what the kernel has");
        assert_eq!(a.record(), mixture, "what A has");
        assert_eq!(b.record(), mixture, "what B has");
    });
}

fn a_later_write_wipes_out_an_earlier_one() {
    without_remedy(|a, b| {
        (0..3).for_each(|i| a.put(i));
        (0..3).for_each(|i| b.put(i));
        assert_eq!(a.record(), [b.letter; 3], "nothing of A's is left");
        assert_same(&pread(0, 3), &[b.letter; 3], "what the kernel has");
    });
}

/// Both add one, and the counter rises by one.
fn an_update_gets_lost() {
    without_remedy(|a, b| {
        assert_eq!(a.load_counter(), 0);
        assert_eq!(b.load_counter(), 0);
        a.store_counter_plus_one();
        b.store_counter_plus_one();
        assert_eq!(counter(), 1, "two updates");
    });
}

fn half_a_write_is_visible() {
    without_remedy(|a, b| {
        a.put(0);
        assert_eq!(b.record(), [a.letter, b'.', b'.'], "after one letter");
        a.put(1);
        assert_eq!(b.record(), [a.letter, a.letter, b'.'], "after two");
        assert_same(
            &pread(0, 3),
            &b.record(),
            "the kernel's read sees it as well",
        );
    });
}

/// The proof that there is something to remedy.
fn without_a_remedy_updates_get_lost_under_load() {
    let (_, kept, writes) = load(&writers("none"), ROUNDS);
    assert!(kept < writes, "{kept} of {writes} updates were kept");
}

fn flock() {
    let writers = writers("flock");
    stepwise(&writers, Errno::WOULDBLOCK);
    readers_share(&writers, Errno::WOULDBLOCK);
    under_load(&writers, ROUNDS);
}

fn fcntl_record_locks() {
    let writers = writers("fcntl");
    stepwise(&writers, Errno::AGAIN);
    readers_share(&writers, Errno::AGAIN);
    under_load(&writers, ROUNDS);
}

fn fcntl_open_file_description_locks() {
    let writers = writers("ofd");
    stepwise(&writers, Errno::AGAIN);
    readers_share(&writers, Errno::AGAIN);
    under_load(&writers, ROUNDS);
}

fn pthread_mutex_process_shared() {
    let writers = writers("mutex");
    stepwise(&writers, Errno::BUSY);
    under_load(&writers, ROUNDS);
}

fn pthread_mutex_robust() {
    let writers = writers("robust");
    stepwise(&writers, Errno::BUSY);
    under_load(&writers, ROUNDS);
}

fn pthread_mutex_with_priority_inheritance() {
    let writers = writers("pi");
    stepwise(&writers, Errno::BUSY);
    under_load(&writers, ROUNDS / 5);
}

/// Killed with half a record written: the next one is told, and can repair.
fn pthread_mutex_robust_when_its_owner_is_killed() {
    let mut writers = writers("robust");
    fresh_record();
    let owner = writers.remove(0);
    let [heir, other] = [&writers[0], &writers[1]];
    must(owner.try_to_hold());
    owner.put(0);
    assert_eq!(heir.try_to_hold(), libc::EBUSY, "while the owner lives");
    let letter = owner.letter;
    owner.child.kill();
    assert_eq!(heir.try_to_hold(), libc::EOWNERDEAD);
    assert_eq!(heir.record(), [letter, b'.', b'.'], "as it was left");
    (0..3).for_each(|i| heir.put(i));
    heir.let_go();
    must(other.try_to_hold());
    assert_eq!(other.record(), [heir.letter; 3], "repaired");
    other.let_go();
}

/// The kernel itself wakes who waits for an owner that it kills.
fn pthread_mutex_robust_when_its_owner_is_killed_under_a_waiter() {
    const FUTEX_WAITERS: u32 = 0x8000_0000;
    let mut writers = writers("robust");
    let map = shared(open(OFlags::RDWR), 1);
    let owner = writers.remove(0);
    must(owner.try_to_hold());
    writers[0].send(b'h', 0);
    while map.u32(MUTEX).load(SeqCst) & FUTEX_WAITERS == 0 {
        thread::yield_now();
    }
    owner.child.kill();
    assert_eq!(writers[0].child.link.receive() as i32, libc::EOWNERDEAD);
    writers[0].let_go();
}

fn pthread_cond_process_shared() {
    let writers = writers("cond");
    stepwise(&writers, Errno::BUSY);
    under_load(&writers, ROUNDS);
}

fn pthread_rwlock_process_shared() {
    let writers = writers("rwlock");
    stepwise(&writers, Errno::BUSY);
    readers_share(&writers, Errno::BUSY);
    under_load(&writers, ROUNDS);
}

fn pthread_barrier_process_shared() {
    under_load(&writers("barrier"), ROUNDS / 4);
}

/// A record that fits into one atomic store is never seen in part.
fn atomics_of_c11_and_of_rust() {
    under_load(&writers("atomic"), 20_000);
}

fn sync_builtins() {
    let writers = writers("sync");
    stepwise(&writers, Errno::BUSY);
    under_load(&writers, ROUNDS);
}

fn sem_t_unnamed() {
    let writers = writers("sem");
    stepwise(&writers, Errno::AGAIN);
    under_load(&writers, ROUNDS);
}

/// The semaphore has a name, and memory of its own; the record is the device's.
fn sem_t_named() {
    let writers = writers("named");
    stepwise(&writers, Errno::AGAIN);
    under_load(&writers, ROUNDS);
}

/// "If several must write at once without touching each other, MAP_PRIVATE is a solution."
fn private_writers_at_once_do_not_meet() {
    fresh(1);
    let children: Vec<_> = (1..=4)
        .map(|seed| {
            fork(move |link| {
                let map = private(open(OFlags::RDWR), 1);
                link.signal();
                link.wait();
                for round in 0..200 {
                    let bytes = pattern(seed + 4 * (round % 50), page());
                    map.write(0, &bytes);
                    thread::yield_now();
                    assert_same(&map.bytes(), &bytes, "one's own bytes");
                }
            })
        })
        .collect();
    children.iter().for_each(|child| child.link.wait());
    children.iter().for_each(|child| child.link.signal());
    children.into_iter().for_each(Child::join);
    assert_same(&pread(0, page()), &initial(page()), "the kernel's bytes");
}

/// "A shared mapping as such is no conflict": it takes two that write to the same address.
fn no_conflict_at_different_addresses() {
    const ROUNDS: u64 = 20_000;
    fresh(1);
    let children: Vec<_> = (0..4)
        .map(|i| {
            fork(move |link| {
                let map = shared(open(OFlags::RDWR), 1);
                // Neighbours in one cache line.
                let own = map.u64(8 * i);
                own.store(0, Relaxed);
                link.signal();
                link.wait();
                for round in 0..ROUNDS {
                    assert_eq!(own.load(Relaxed), round, "nobody else wrote here");
                    own.store(round + 1, Relaxed);
                }
            })
        })
        .collect();
    children.iter().for_each(|child| child.link.wait());
    children.iter().for_each(|child| child.link.signal());
    children.into_iter().for_each(Child::join);
    for i in 0..4 {
        assert_eq!(pread(8 * i, 8), ROUNDS.to_ne_bytes());
    }
}
