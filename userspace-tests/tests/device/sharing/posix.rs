// SPDX-License-Identifier: GPL-2.0
//! The synchronisation objects of POSIX and C11 in a shared mapping, used from C by processes that
//! have nothing else in common. All in contention: `c/sync.c` lets the others run in the middle of
//! every update.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
    sync::atomic::Ordering::SeqCst,
    thread,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    harness::tests,
    support::{memory::shared, module::fresh, pread, process::Program},
};

tests![
    without_an_object_updates_are_lost,
    mutex,
    mutex_with_priority_inheritance,
    robust_mutex,
    robust_mutex_of_a_killed_owner,
    robust_mutex_of_an_owner_killed_under_a_waiter,
    condition_variable,
    barrier,
    rwlock,
    unnamed_semaphore,
    named_semaphore,
    c11_atomic,
];

const SYNC: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/sync"));
/// Where `c/sync.c` puts the mutex, whose first word is its futex.
const MUTEX: usize = 64;

fn counter() -> u64 {
    u64::from_ne_bytes(pread(0, 8).try_into().expect("eight bytes"))
}

/// Lets `workers` processes loose on the object, and returns what they have counted.
fn count(object: &str, workers: u64, rounds: u64) -> u64 {
    fresh(1);
    let program = Program::new(SYNC);
    program.run(&[object, "init", &workers.to_string()]);
    let rounds = rounds.to_string();
    let start = |_| {
        program
            .command(&[object, "work", &rounds])
            .spawn()
            .expect("start a worker")
    };
    let workers: Vec<_> = (0..workers).map(start).collect();
    for mut worker in workers {
        let status = worker.wait().expect("wait");
        assert!(status.success(), "a worker ended with {status}");
    }
    counter()
}

fn contend(object: &str, workers: u64, rounds: u64) {
    assert_eq!(
        count(object, workers, rounds),
        workers * rounds,
        "updates that were kept"
    );
}

/// The proof that the other tests here have something to protect.
fn without_an_object_updates_are_lost() {
    let kept = count("none", 4, 2000);
    assert!(kept < 8000, "{kept} of 8000 updates were kept");
}

fn mutex() {
    contend("mutex", 4, 2000);
}

fn mutex_with_priority_inheritance() {
    contend("pi", 4, 150);
}

fn robust_mutex() {
    contend("robust", 4, 2000);
}

fn hold(program: &Program) -> std::process::Child {
    let mut command = program.command(&["robust-hold", "work", "1"]);
    let mut owner = command
        .stdout(Stdio::piped())
        .spawn()
        .expect("start the owner");
    let mut line = String::new();
    let output = owner.stdout.take().expect("a pipe");
    BufReader::new(output)
        .read_line(&mut line)
        .expect("a line of the owner's");
    assert_eq!(line, "held\n");
    owner
}

fn kill(mut owner: std::process::Child) {
    kill_process(Pid::from_child(&owner), Signal::KILL).expect("kill");
    owner.wait().expect("wait");
}

fn robust_mutex_of_a_killed_owner() {
    fresh(1);
    let program = Program::new(SYNC);
    program.run(&["robust", "init"]);
    kill(hold(&program));
    program.run(&["robust-inherit", "work", "1"]);
    program.run(&["robust", "work", "100"]);
    assert_eq!(counter(), 101);
}

/// The kernel itself wakes who waits for an owner that it kills.
fn robust_mutex_of_an_owner_killed_under_a_waiter() {
    const FUTEX_WAITERS: u32 = 0x8000_0000;
    let map = shared(fresh(1), 1);
    let program = Program::new(SYNC);
    program.run(&["robust", "init"]);
    let owner = hold(&program);
    let mut heir = program
        .command(&["robust-inherit", "work", "1"])
        .spawn()
        .expect("start");
    while map.u32(MUTEX).load(SeqCst) & FUTEX_WAITERS == 0 {
        thread::yield_now();
    }
    kill(owner);
    let status = heir.wait().expect("wait");
    assert!(status.success(), "the heir ended with {status}");
    assert_eq!(counter(), 1);
}

fn condition_variable() {
    contend("cond", 2, 1000);
}

fn barrier() {
    contend("barrier", 4, 500);
}

fn rwlock() {
    contend("rwlock", 4, 1000);
}

fn unnamed_semaphore() {
    contend("sem", 4, 2000);
}

/// The guide's advice: the semaphore has a name of its own, the bytes are the device's.
fn named_semaphore() {
    contend("named", 4, 1000);
}

fn c11_atomic() {
    contend("atomic", 4, 50_000);
}
