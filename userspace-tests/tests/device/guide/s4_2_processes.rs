// SPDX-License-Identifier: GPL-2.0
//! The guide's §4.2: several processes map the device at once; what goes wrong when they write
//! without an order, step by step so that it happens every time; and that none of it happens
//! with any of the remedies, neither step by step nor under load.
//!
//! The processes are unrelated to each other, two of them in Rust (below) and two in C
//! (`c/parties.c`), which is the same program again. A record of three letters, as in the guide,
//! and a counter are what they all write to.

use std::{
    os::fd::OwnedFd,
    sync::atomic::{
        AtomicU32, AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
    thread,
};

use rustix::{
    fs::{FlockOperation, OFlags, flock},
    io::{Errno, Result},
};

use crate::{
    calls::locks::record_lock,
    harness::tests,
    support::{
        assert_same,
        memory::{Map, page, private, shared},
        module::{fresh, initial},
        open, pattern, pread,
        process::{Child, Link, Program, ROLES, Role, fork, start, start_linked},
        pwrite, system_call,
    },
};

tests![
    s4_2_shared_mappings_of_several_processes_show_one_another,
    s4_2_private_mappings_of_several_processes_do_not,
    s4_2_all_operate_on_the_same_memory,
    s4_2_unordered_writes_mix,
    s4_2_a_later_write_wipes_out_an_earlier_one,
    s4_2_an_update_gets_lost,
    s4_2_half_a_write_is_visible,
    s4_2_flock,
    s4_2_fcntl_record_locks,
    s4_2_fcntl_open_file_description_locks,
    s4_2_pthread_mutex_process_shared,
    s4_2_pthread_mutex_robust,
    s4_2_pthread_mutex_robust_when_its_owner_is_killed,
    s4_2_pthread_cond_process_shared,
    s4_2_pthread_rwlock_process_shared,
    s4_2_pthread_barrier_process_shared,
    s4_2_atomics_of_c11_and_of_rust,
    s4_2_sync_builtins,
    s4_2_sem_t_unnamed,
    s4_2_sem_t_named,
    s4_2_private_writers_at_once_do_not_meet,
    s4_2_no_conflict_at_different_addresses,
];

// Where `struct shared` of c/parties.c has what.
const WORD: usize = 0;
const COUNTER: usize = 8;
const MUTEX: usize = 64;
const COND: usize = 128;
const RWLOCK: usize = 192;
const BARRIER: usize = 256;
const SEM: usize = 320;
const SPIN: usize = 384;
const BUSY: usize = 388;

const PARTIES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/parties"));

/// The process in Rust.
#[linkme::distributed_slice(ROLES)]
static PARTY: Role = Role {
    name: "party",
    body: party,
};

/// Who acts.
struct Party {
    device: OwnedFd,
    map: Map,
    named: *mut libc::sem_t,
    me: u8,
    parties: u8,
}

/// How to hold the record alone, or shared with others that only read. As in C; 0 or the error.
struct Remedy {
    name: &'static str,
    hold: fn(&Party, wait: bool, share: bool) -> i32,
    let_go: fn(&Party),
}

fn error_of<T>(result: Result<T>) -> i32 {
    result.err().map_or(0, Errno::raw_os_error)
}

#[track_caller]
fn must(error: i32) {
    assert_eq!(error, 0, "{}", Errno::from_raw_os_error(error));
}

impl Party {
    fn object<T>(&self, offset: usize) -> *mut T {
        self.map.at(offset).cast()
    }

    fn range_lock(&self, command: i32, kind: i32) -> i32 {
        error_of(record_lock(&self.device, command, kind, 0, 16))
    }

    fn letter(&self, index: usize) -> &std::sync::atomic::AtomicU8 {
        // SAFETY: a byte of the mapping, which is written to with atomics only.
        unsafe { std::sync::atomic::AtomicU8::from_ptr(self.map.at(index)) }
    }

    fn counter(&self) -> &AtomicU64 {
        self.map.u64(COUNTER)
    }

    fn spin(&self) -> &AtomicU32 {
        self.map.u32(SPIN)
    }

    fn pass_barriers(&self, count: u8) {
        for _ in 0..count {
            // SAFETY: a barrier that `init` has made.
            let err = unsafe { libc::pthread_barrier_wait(self.object(BARRIER)) };
            if err != libc::PTHREAD_BARRIER_SERIAL_THREAD {
                must(err);
            }
        }
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
    fn rounds(&self, remedy: &Remedy, letter: u8, count: u64, only_read: bool) -> u64 {
        let mut broken = 0;
        for _ in 0..count {
            if remedy.name == "atomic" {
                broken += u64::from(self.map.u64(WORD).load(SeqCst) % 0x01_01_01 != 0);
                if !only_read {
                    self.counter().fetch_add(1, SeqCst);
                    let word = u64::from(letter) * 0x01_01_01;
                    self.map.u64(WORD).store(word, SeqCst);
                }
                continue;
            }
            must((remedy.hold)(self, true, only_read));
            broken += u64::from(!self.is_whole());
            if !only_read {
                self.write_once(letter);
            }
            (remedy.let_go)(self);
        }
        broken
    }
}

fn mutex_hold(party: &Party, wait: bool, _share: bool) -> i32 {
    let mutex = party.object(MUTEX);
    // SAFETY: a mutex that `init` has made.
    unsafe {
        let err = if wait {
            libc::pthread_mutex_lock(mutex)
        } else {
            libc::pthread_mutex_trylock(mutex)
        };
        if err == libc::EOWNERDEAD {
            must(libc::pthread_mutex_consistent(mutex));
        }
        err
    }
}

fn mutex_let_go(party: &Party) {
    // SAFETY: as above, and this process holds it.
    must(unsafe { libc::pthread_mutex_unlock(party.object(MUTEX)) });
}

fn hold_semaphore(sem: *mut libc::sem_t, wait: bool) -> i32 {
    // SAFETY: a semaphore that `init` has made.
    error_of(system_call(unsafe {
        if wait {
            libc::sem_wait(sem)
        } else {
            libc::sem_trywait(sem)
        }
    }))
}

fn post(sem: *mut libc::sem_t) {
    // SAFETY: as above.
    must(error_of(system_call(unsafe { libc::sem_post(sem) })));
}

const REMEDIES: &[Remedy] = &[
    Remedy {
        name: "flock",
        hold: |party, wait, share| {
            error_of(flock(
                &party.device,
                match (wait, share) {
                    (true, true) => FlockOperation::LockShared,
                    (true, false) => FlockOperation::LockExclusive,
                    (false, true) => FlockOperation::NonBlockingLockShared,
                    (false, false) => FlockOperation::NonBlockingLockExclusive,
                },
            ))
        },
        let_go: |party| flock(&party.device, FlockOperation::Unlock).expect("LOCK_UN"),
    },
    Remedy {
        name: "fcntl",
        hold: |party, wait, share| {
            let kind = if share { libc::F_RDLCK } else { libc::F_WRLCK };
            party.range_lock(if wait { libc::F_SETLKW } else { libc::F_SETLK }, kind)
        },
        let_go: |party| must(party.range_lock(libc::F_SETLK, libc::F_UNLCK)),
    },
    Remedy {
        name: "ofd",
        hold: |party, wait, share| {
            let kind = if share { libc::F_RDLCK } else { libc::F_WRLCK };
            let command = if wait {
                libc::F_OFD_SETLKW
            } else {
                libc::F_OFD_SETLK
            };
            party.range_lock(command, kind)
        },
        let_go: |party| must(party.range_lock(libc::F_OFD_SETLK, libc::F_UNLCK)),
    },
    Remedy {
        name: "mutex",
        hold: mutex_hold,
        let_go: mutex_let_go,
    },
    Remedy {
        name: "robust",
        hold: mutex_hold,
        let_go: mutex_let_go,
    },
    Remedy {
        name: "cond",
        // The mutex is held for a moment only: who is busy with the record is a flag.
        hold: |party, wait, _| {
            must(mutex_hold(party, true, false));
            let busy = party.map.u32(BUSY);
            while wait && busy.load(Relaxed) != 0 {
                // SAFETY: both were made by `init`, and the mutex is held.
                must(unsafe { libc::pthread_cond_wait(party.object(COND), party.object(MUTEX)) });
            }
            let was_busy = busy.swap(1, Relaxed) != 0;
            mutex_let_go(party);
            if was_busy { libc::EBUSY } else { 0 }
        },
        let_go: |party| {
            must(mutex_hold(party, true, false));
            party.map.u32(BUSY).store(0, Relaxed);
            // SAFETY: made by `init`.
            must(unsafe { libc::pthread_cond_signal(party.object(COND)) });
            mutex_let_go(party);
        },
    },
    Remedy {
        name: "rwlock",
        hold: |party, wait, share| {
            let rwlock = party.object(RWLOCK);
            // SAFETY: made by `init`.
            unsafe {
                match (wait, share) {
                    (true, true) => libc::pthread_rwlock_rdlock(rwlock),
                    (true, false) => libc::pthread_rwlock_wrlock(rwlock),
                    (false, true) => libc::pthread_rwlock_tryrdlock(rwlock),
                    (false, false) => libc::pthread_rwlock_trywrlock(rwlock),
                }
            }
        },
        // SAFETY: made by `init`, and held.
        let_go: |party| must(unsafe { libc::pthread_rwlock_unlock(party.object(RWLOCK)) }),
    },
    Remedy {
        name: "barrier",
        // A round has a phase for each party; all pass from one to the next together.
        hold: |party, _, _| {
            party.pass_barriers(party.me);
            0
        },
        let_go: |party| party.pass_barriers(party.parties - party.me),
    },
    Remedy {
        name: "sem",
        hold: |party, wait, _| hold_semaphore(party.object(SEM), wait),
        let_go: |party| post(party.object(SEM)),
    },
    Remedy {
        name: "named",
        hold: |party, wait, _| hold_semaphore(party.named, wait),
        let_go: |party| post(party.named),
    },
    Remedy {
        name: "sync",
        hold: |party, wait, _| {
            while party.spin().swap(1, SeqCst) != 0 {
                if !wait {
                    return libc::EBUSY;
                }
                thread::yield_now();
            }
            0
        },
        let_go: |party| party.spin().store(0, SeqCst),
    },
    Remedy {
        name: "atomic",
        hold: |_, _, _| unreachable!("nothing is held"),
        let_go: |_| {},
    },
];

fn party(link: &Link, args: &[String]) {
    let remedy = REMEDIES.iter().find(|remedy| remedy.name == args[0]);
    let remedy = remedy.expect("a remedy");
    let device = open(OFlags::RDWR);
    let mut party = Party {
        map: shared(&device, 1),
        device,
        named: std::ptr::null_mut(),
        me: 0,
        parties: 0,
    };
    if remedy.name == "named" {
        // SAFETY: opens what `init` has made.
        party.named = unsafe { libc::sem_open(c"/parties".as_ptr(), 0) };
        assert_ne!(party.named, libc::SEM_FAILED, "sem_open");
    }
    let mut remembered = 0;
    loop {
        let order = link.receive().to_ne_bytes();
        let (letter, number) = (order[1], u16::from_le_bytes([order[2], order[3]]));
        let index = usize::from(number);
        party.parties = order[4];
        link.send(match order[0] {
            b'p' => {
                party.letter(index).store(letter, Relaxed);
                0
            }
            b'g' => party.letter(index).load(Relaxed).into(),
            b'l' => {
                remembered = party.counter().load(Relaxed);
                remembered
            }
            b's' => {
                party.counter().store(remembered + 1, Relaxed);
                0
            }
            b't' => (remedy.hold)(&party, false, number != 0) as u64,
            b'u' => {
                (remedy.let_go)(&party);
                0
            }
            kind @ (b'w' | b'r') => {
                party.me = letter - b'A';
                party.rounds(remedy, letter, number.into(), kind == b'r')
            }
            other => panic!("no such order: {other}"),
        });
    }
}

/// A process as the test sees it. Its letter is also what it writes.
struct Hand {
    child: Child,
    letter: u8,
}

impl Hand {
    fn send(&self, order: u8, number: u16) {
        let [low, high] = number.to_le_bytes();
        let order = [order, self.letter, low, high, LETTERS.len() as u8, 0, 0, 0];
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

/// The processes' letters: by turns in C and in Rust.
const LETTERS: &[u8] = b"ABCDEF";

fn init(remedy: &str) -> Program {
    fresh(1);
    let program = Program::new(PARTIES);
    program.run(&[remedy, "init", &LETTERS.len().to_string()]);
    program
}

/// Starts a process for each letter.
fn hands(remedy: &str) -> Vec<Hand> {
    let program = init(remedy);
    let start = |(i, &letter)| Hand {
        child: if i % 2 == 0 {
            start_linked(program.command(&[remedy]))
        } else {
            start(&PARTY, &[remedy])
        },
        letter,
    };
    LETTERS.iter().enumerate().map(start).collect()
}

/// Two of them, without any remedy: in C and Rust, in Rust and C, and both in the same language.
fn without_remedy(mut body: impl FnMut(&Hand, &Hand)) {
    let hands = hands("atomic");
    for (a, b) in [(0, 1), (1, 0), (0, 2), (1, 3)] {
        fresh_record();
        body(&hands[a], &hands[b]);
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
fn stepwise(hands: &[Hand], refusal: Errno) {
    let refusal = refusal.raw_os_error();
    for (a, b) in [(0, 1), (1, 0), (0, 2), (1, 3)] {
        let (a, b) = (&hands[a], &hands[b]);
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

/// All at once: four writers and two readers, which find the record whole every time.
fn under_load(hands: &[Hand], rounds: u16) {
    let before = counter();
    let (writers, readers) = hands.split_at(4);
    writers.iter().for_each(|hand| hand.send(b'w', rounds));
    readers.iter().for_each(|hand| hand.send(b'r', rounds));
    for hand in hands {
        let broken = hand.child.link.receive();
        assert_eq!(
            broken,
            0,
            "records that {} found torn",
            char::from(hand.letter)
        );
    }
    let writes = u64::from(rounds) * writers.len() as u64;
    assert_eq!(counter() - before, writes, "updates that were kept");
    let record = pread(0, 3);
    assert!(
        record[0] == record[1] && record[1] == record[2],
        "{record:?}"
    );
}

/// Those that only read keep writers out, but not each other.
fn readers_share(hands: &[Hand], refusal: Errno) {
    let [a, b, c] = [&hands[0], &hands[1], &hands[2]];
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
fn s4_2_shared_mappings_of_several_processes_show_one_another() {
    let hands = hands("atomic");
    for writer in &hands {
        (0..3).for_each(|i| writer.put(i));
        for reader in &hands {
            assert_eq!(reader.record(), [writer.letter; 3]);
        }
    }
}

fn s4_2_private_mappings_of_several_processes_do_not() {
    fresh(1);
    let children = LETTERS.iter().map(|letter| {
        fork(move |link| {
            let map = private(open(OFlags::RDWR), 1);
            map.write(0, &[*letter; 3]);
            link.signal();
            link.wait();
            assert_same(&map.read(0, 3), &[*letter; 3], "one's own letters");
            assert_same(&map.read(3, page() - 3), &initial(page())[3..], "the rest");
        })
    });
    let children: Vec<_> = children.collect();
    children.iter().for_each(|child| child.link.wait());
    assert_same(&pread(0, page()), &initial(page()), "the kernel's bytes");
    children.iter().for_each(|child| child.link.signal());
    children.into_iter().for_each(Child::join);
}

/// "They operate on the same memory": one page frame, whatever the addresses are.
fn s4_2_all_operate_on_the_same_memory() {
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
fn s4_2_unordered_writes_mix() {
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

fn s4_2_a_later_write_wipes_out_an_earlier_one() {
    without_remedy(|a, b| {
        (0..3).for_each(|i| a.put(i));
        (0..3).for_each(|i| b.put(i));
        assert_eq!(a.record(), [b.letter; 3], "nothing of A's is left");
        assert_same(&pread(0, 3), &[b.letter; 3], "what the kernel has");
    });
}

/// Both add one, and the counter rises by one.
fn s4_2_an_update_gets_lost() {
    without_remedy(|a, b| {
        assert_eq!(a.load_counter(), 0);
        assert_eq!(b.load_counter(), 0);
        a.store_counter_plus_one();
        b.store_counter_plus_one();
        assert_eq!(counter(), 1, "two updates");
    });
}

fn s4_2_half_a_write_is_visible() {
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

fn s4_2_flock() {
    let hands = hands("flock");
    stepwise(&hands, Errno::WOULDBLOCK);
    readers_share(&hands, Errno::WOULDBLOCK);
    under_load(&hands, ROUNDS);
}

fn s4_2_fcntl_record_locks() {
    let hands = hands("fcntl");
    stepwise(&hands, Errno::AGAIN);
    readers_share(&hands, Errno::AGAIN);
    under_load(&hands, ROUNDS);
}

fn s4_2_fcntl_open_file_description_locks() {
    let hands = hands("ofd");
    stepwise(&hands, Errno::AGAIN);
    readers_share(&hands, Errno::AGAIN);
    under_load(&hands, ROUNDS);
}

fn s4_2_pthread_mutex_process_shared() {
    let hands = hands("mutex");
    stepwise(&hands, Errno::BUSY);
    under_load(&hands, ROUNDS);
}

fn s4_2_pthread_mutex_robust() {
    let hands = hands("robust");
    stepwise(&hands, Errno::BUSY);
    under_load(&hands, ROUNDS);
}

/// Killed with half a record written: the next one is told, and can repair.
fn s4_2_pthread_mutex_robust_when_its_owner_is_killed() {
    // In C and in Rust, by turns.
    for owner in [0, 1] {
        let mut hands = hands("robust");
        fresh_record();
        let owner = hands.remove(owner);
        let [heir, other] = [&hands[0], &hands[1]];
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
}

fn s4_2_pthread_cond_process_shared() {
    let hands = hands("cond");
    stepwise(&hands, Errno::BUSY);
    under_load(&hands, ROUNDS);
}

fn s4_2_pthread_rwlock_process_shared() {
    let hands = hands("rwlock");
    stepwise(&hands, Errno::BUSY);
    readers_share(&hands, Errno::BUSY);
    under_load(&hands, ROUNDS);
}

fn s4_2_pthread_barrier_process_shared() {
    under_load(&hands("barrier"), ROUNDS / 4);
}

/// A record that fits into one atomic store is never seen in part.
fn s4_2_atomics_of_c11_and_of_rust() {
    under_load(&hands("atomic"), 20_000);
}

fn s4_2_sync_builtins() {
    let hands = hands("sync");
    stepwise(&hands, Errno::BUSY);
    under_load(&hands, ROUNDS);
}

fn s4_2_sem_t_unnamed() {
    let hands = hands("sem");
    stepwise(&hands, Errno::AGAIN);
    under_load(&hands, ROUNDS);
}

/// The semaphore has a name, and memory of its own; the record is the device's.
fn s4_2_sem_t_named() {
    let hands = hands("named");
    stepwise(&hands, Errno::AGAIN);
    under_load(&hands, ROUNDS);
}

/// "If several must write at once without touching each other, MAP_PRIVATE is a solution."
fn s4_2_private_writers_at_once_do_not_meet() {
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
fn s4_2_no_conflict_at_different_addresses() {
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
