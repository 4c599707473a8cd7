// SPDX-License-Identifier: GPL-2.0
//! flock(2), POSIX record locks and open file description locks on the descriptor.

use std::{fs, os::fd::AsRawFd, thread};

use rustix::{
    fs::{FlockOperation, OFlags, flock},
    io::{self, Errno},
    process::getpid,
};

use crate::{
    harness::tests,
    support::{
        errno,
        memory::{page, shared},
        module::fresh,
        open, pread,
        process::{Child, fork},
        system_call,
    },
};

tests![
    flock_excludes,
    flock_shares,
    flock_waits,
    flock_ends_with_the_process,
    flock_keeps_updates_of_a_mapping,
    record_locks_exclude_by_range,
    record_locks_name_their_owner,
    record_locks_wait,
    record_locks_keep_updates_of_a_mapping,
    record_locks_want_a_fitting_descriptor,
    ofd_locks_exclude_within_a_process,
];

/// fcntl(2) with a lock of `len` bytes from `start` on.
pub fn record_lock(
    fd: &impl AsRawFd,
    command: i32,
    kind: i32,
    start: i64,
    len: i64,
) -> io::Result<libc::flock> {
    let mut lock = libc::flock {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: start,
        l_len: len,
        l_pid: 0,
    };
    // SAFETY: the commands used here take a `struct flock`.
    system_call(unsafe { libc::fcntl(fd.as_raw_fd(), command, &raw mut lock) })?;
    Ok(lock)
}

/// Lets go when `child` is seen waiting for a lock.
fn until_it_waits(child: &Child) {
    let pid = child.pid.to_string();
    let waits = |line: &str| line.contains(" -> ") && line.split(' ').any(|word| word == pid);
    while !fs::read_to_string("/proc/locks")
        .expect("/proc/locks")
        .lines()
        .any(waits)
    {
        thread::yield_now();
    }
}

fn flock_excludes() {
    let device = fresh(1);
    let other = open(OFlags::RDONLY);
    flock(&device, FlockOperation::LockExclusive).expect("LOCK_EX");
    for operation in [
        FlockOperation::NonBlockingLockExclusive,
        FlockOperation::NonBlockingLockShared,
    ] {
        assert_eq!(
            errno(flock(&other, operation)),
            Errno::WOULDBLOCK,
            "{operation:?}"
        );
    }
    flock(&device, FlockOperation::Unlock).expect("LOCK_UN");
    flock(&other, FlockOperation::NonBlockingLockExclusive).expect("after LOCK_UN");
    drop(other);
    flock(&device, FlockOperation::NonBlockingLockExclusive).expect("after close");
}

fn flock_shares() {
    let device = fresh(1);
    let others = [open(OFlags::RDONLY), open(OFlags::RDWR)];
    for fd in &others {
        flock(fd, FlockOperation::NonBlockingLockShared).expect("LOCK_SH");
    }
    let exclusive = flock(&device, FlockOperation::NonBlockingLockExclusive);
    assert_eq!(errno(exclusive), Errno::WOULDBLOCK);
}

fn flock_waits() {
    let device = fresh(1);
    flock(&device, FlockOperation::LockExclusive).expect("LOCK_EX");
    let child = fork(|link| {
        let own = open(OFlags::RDWR);
        flock(&own, FlockOperation::LockExclusive).expect("LOCK_EX");
        link.signal();
    });
    until_it_waits(&child);
    flock(&device, FlockOperation::Unlock).expect("LOCK_UN");
    child.link.wait();
    child.join();
}

fn flock_ends_with_the_process() {
    let device = fresh(1);
    let child = fork(|link| {
        let own = open(OFlags::RDWR);
        flock(&own, FlockOperation::LockExclusive).expect("LOCK_EX");
        link.signal();
        link.wait();
    });
    child.link.wait();
    let taken = flock(&device, FlockOperation::NonBlockingLockExclusive);
    assert_eq!(errno(taken), Errno::WOULDBLOCK);
    child.kill();
    flock(&device, FlockOperation::NonBlockingLockExclusive).expect("after kill -9");
}

/// Adds to a counter in the mapping, letting others run between load and store.
fn keeps_updates(exclusively: impl Fn(&dyn Fn())) {
    use std::sync::atomic::Ordering::Relaxed;
    const ROUNDS: u64 = 500;
    let device = fresh(1);
    shared(&device, 1).u64(0).store(0, Relaxed);
    let work = || {
        let map = shared(open(OFlags::RDWR), 1);
        for _ in 0..ROUNDS {
            exclusively(&|| {
                let value = map.u64(0).load(Relaxed);
                thread::yield_now();
                map.u64(0).store(value + 1, Relaxed);
            });
        }
    };
    let children = [fork(|_| work()), fork(|_| work()), fork(|_| work())];
    children.into_iter().for_each(|child| child.join());
    assert_eq!(pread(0, 8), (3 * ROUNDS).to_ne_bytes());
}

fn flock_keeps_updates_of_a_mapping() {
    keeps_updates(|update| {
        let own = open(OFlags::RDWR);
        flock(&own, FlockOperation::LockExclusive).expect("LOCK_EX");
        update();
        flock(&own, FlockOperation::Unlock).expect("LOCK_UN");
    });
}

fn record_locks_keep_updates_of_a_mapping() {
    keeps_updates(|update| {
        let own = open(OFlags::RDWR);
        record_lock(&own, libc::F_SETLKW, libc::F_WRLCK, 0, 8).expect("F_SETLKW");
        update();
        record_lock(&own, libc::F_SETLK, libc::F_UNLCK, 0, 8).expect("F_SETLK");
    });
}

fn record_locks_exclude_by_range() {
    let device = fresh(1);
    record_lock(&device, libc::F_SETLK, libc::F_WRLCK, 100, 50).expect("F_SETLK");
    fork(|_| {
        let own = open(OFlags::RDWR);
        for (kind, start, len) in [
            (libc::F_WRLCK, 100, 1),
            (libc::F_RDLCK, 149, 1),
            (libc::F_WRLCK, 0, 0),
        ] {
            let result = record_lock(&own, libc::F_SETLK, kind, start, len);
            assert_eq!(result.err(), Some(Errno::AGAIN), "{len} bytes from {start}");
        }
        for (start, len) in [(0, 100), (150, 0)] {
            record_lock(&own, libc::F_SETLK, libc::F_WRLCK, start, len).expect("a free range");
        }
    })
    .join();
}

fn record_locks_name_their_owner() {
    let device = fresh(1);
    record_lock(&device, libc::F_SETLK, libc::F_RDLCK, 0, page() as i64).expect("F_SETLK");
    let owner = getpid().as_raw_nonzero().get();
    fork(|_| {
        let own = open(OFlags::RDWR);
        let found = record_lock(&own, libc::F_GETLK, libc::F_WRLCK, 10, 1).expect("F_GETLK");
        assert_eq!(
            (i32::from(found.l_type), found.l_pid),
            (libc::F_RDLCK, owner)
        );
        let free = record_lock(&own, libc::F_GETLK, libc::F_RDLCK, 10, 1).expect("F_GETLK");
        assert_eq!(i32::from(free.l_type), libc::F_UNLCK);
    })
    .join();
}

fn record_locks_wait() {
    let device = fresh(1);
    record_lock(&device, libc::F_SETLK, libc::F_WRLCK, 0, 0).expect("F_SETLK");
    let child = fork(|link| {
        let own = open(OFlags::RDWR);
        record_lock(&own, libc::F_SETLKW, libc::F_WRLCK, 0, 10).expect("F_SETLKW");
        link.signal();
    });
    until_it_waits(&child);
    record_lock(&device, libc::F_SETLK, libc::F_UNLCK, 0, 0).expect("F_SETLK");
    child.link.wait();
    child.join();
}

fn record_locks_want_a_fitting_descriptor() {
    fresh(1);
    let (reader, writer) = (open(OFlags::RDONLY), open(OFlags::WRONLY));
    for (fd, kind) in [(&reader, libc::F_WRLCK), (&writer, libc::F_RDLCK)] {
        assert_eq!(
            record_lock(fd, libc::F_SETLK, kind, 0, 1).err(),
            Some(Errno::BADF)
        );
    }
}

fn ofd_locks_exclude_within_a_process() {
    let device = fresh(1);
    let other = open(OFlags::RDWR);
    record_lock(&device, libc::F_OFD_SETLK, libc::F_WRLCK, 0, 10).expect("F_OFD_SETLK");
    let taken = record_lock(&other, libc::F_OFD_SETLK, libc::F_WRLCK, 5, 10);
    assert_eq!(taken.err(), Some(Errno::AGAIN));
    record_lock(&other, libc::F_OFD_SETLK, libc::F_WRLCK, 10, 10).expect("another range");
    // It is the open file's, so it goes with the descriptor, not with the process.
    drop(device);
    record_lock(&other, libc::F_OFD_SETLK, libc::F_WRLCK, 0, 10).expect("after close");
}
