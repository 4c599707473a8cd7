// SPDX-License-Identifier: GPL-2.0
//! Calls on the descriptor itself.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io;

use super::trial::{Differs, ONE, Trial, address, bytes, case, compare, unmapped};

/// What a character device does differently, however its mappings are.
pub fn calls_on_the_descriptor() {
    const FIXED_SIZE: &str = "the buffer has a fixed size and no holes";
    const NODE: &str = "only a regular file has it";
    const SIZE: &str =
        "stat's size of a character device is 0, and what counts from it does so from 0";
    const DIFFERS: &[Differs] = &[
        Differs("fstat", &["type", "size"], SIZE),
        Differs("locks from the end", &["in the way"], SIZE),
        Differs("appending", &["lseek"], SIZE),
        Differs(
            "lseek past the end",
            &["SEEK_SET", "SEEK_END", "SEEK_CUR"],
            FIXED_SIZE,
        ),
        Differs(
            "writes at the end",
            &["across it", "at it", "past it"],
            FIXED_SIZE,
        ),
        Differs("ftruncate", &["ftruncate"], FIXED_SIZE),
        Differs(
            "fallocate",
            &["mode 0x0", "mode 0x1", "mode 0x3", "mode 0x20", "read(2)"],
            FIXED_SIZE,
        ),
        Differs("holes", &["SEEK_DATA", "SEEK_HOLE"], NODE),
        Differs("copy_file_range", &["within"], NODE),
        Differs("leases", &["F_SETLEASE"], NODE),
        Differs("seals", &["F_GET_SEALS", "F_ADD_SEALS"], NODE),
        Differs("readahead", &["readahead"], NODE),
        Differs("sync_file_range", &["sync_file_range"], NODE),
        Differs("FIONREAD", &["ioctl"], NODE),
        Differs(
            "O_DIRECT",
            &["open"],
            "the buffer has no store to go to directly",
        ),
    ];
    /// `struct flock` for a whole file from somewhere on.
    fn lock(kind: i32, whence: i32, len: i64) -> libc::flock {
        libc::flock {
            l_type: kind as i16,
            l_whence: whence as i16,
            l_start: 0,
            l_len: len,
            l_pid: 0,
        }
    }
    fn fcntl(t: &mut Trial, step: &str, command: i32, argument: usize) {
        let _ = t.call(step, libc::SYS_fcntl, [t.rw(), command as usize, argument]);
    }
    /// Locks all from somewhere on, and asks in a child what keeps it from the first byte.
    fn locks(t: &mut Trial, whence: i32) {
        fcntl(
            t,
            "lock",
            libc::F_SETLK,
            address(&mut lock(libc::F_WRLCK, whence, 0)),
        );
        t.in_child(|t| {
            let mut wanted = lock(libc::F_WRLCK, libc::SEEK_SET, 1);
            fcntl(t, "ask", libc::F_GETLK, address(&mut wanted));
            t.see("in the way", wanted.l_type);
        });
        fcntl(
            t,
            "unlock",
            libc::F_SETLK,
            address(&mut lock(libc::F_UNLCK, whence, 0)),
        );
    }
    fn at_the_end(t: &mut Trial, number: libc::c_long) {
        let mut words = [0_u64; 2];
        let (words, size) = (address(&mut words), bytes(t.window.buffer));
        for (step, offset) in [
            ("across it", size - 8),
            ("at it", size),
            ("past it", size + 8),
        ] {
            let _ = t.call(step, number, [t.rw(), words, 16, offset]);
        }
    }
    fn with_flags(t: &mut Trial, number: libc::c_long) {
        let mut word = [0_u64];
        let mut part = [address(&mut word), 8];
        for flag in (0..9).map(|bit| 1 << bit) {
            let arguments = [t.rw(), address(&mut part), 1, 8, 0, flag];
            let _ = t.call(format!("flag {flag:#x}"), number, arguments);
        }
    }
    let cases = [
        case("fstat", |t| {
            if let Ok(stat) = rustix::fs::fstat(&t.subject.ro) {
                t.see("type", stat.st_mode & libc::S_IFMT);
                t.see("size", stat.st_size);
            }
        }),
        case("lseek", |t| {
            let size = bytes(t.window.buffer);
            for (step, offset, whence) in [
                ("SEEK_SET", size, libc::SEEK_SET),
                ("SEEK_CUR", 0, libc::SEEK_CUR),
                ("SEEK_END", 0, libc::SEEK_END),
                ("before all", usize::MAX, libc::SEEK_SET),
                ("whence that nobody has", 0, 5),
                ("back", 0, libc::SEEK_SET),
            ] {
                let _ = t.call(step, libc::SYS_lseek, [t.rw(), offset, whence as usize]);
            }
        }),
        case("lseek past the end", |t| {
            let size = bytes(t.window.buffer);
            for (step, offset, whence) in [
                ("SEEK_SET", size + 1, libc::SEEK_SET),
                ("SEEK_END", 1, libc::SEEK_END),
                ("SEEK_CUR", 1, libc::SEEK_CUR),
                ("back", 0, libc::SEEK_SET),
            ] {
                let _ = t.call(step, libc::SYS_lseek, [t.rw(), offset, whence as usize]);
            }
        }),
        case("holes", |t| {
            for (step, whence) in [
                ("SEEK_DATA", libc::SEEK_DATA),
                ("SEEK_HOLE", libc::SEEK_HOLE),
            ] {
                let _ = t.call(step, libc::SYS_lseek, [t.rw(), 0, whence as usize]);
            }
            let _ = t.call("back", libc::SYS_lseek, [t.rw(), 0, 0]);
        }),
        case("locks", |t| locks(t, libc::SEEK_SET)),
        case("locks from the end", |t| locks(t, libc::SEEK_END)),
        case("leases", |t| {
            fcntl(t, "F_SETLEASE", libc::F_SETLEASE, libc::F_RDLCK as usize)
        }),
        case("seals", |t| {
            fcntl(t, "F_GET_SEALS", libc::F_GET_SEALS, 0);
            fcntl(t, "F_ADD_SEALS", libc::F_ADD_SEALS, 1);
        }),
        case("fallocate", |t| {
            for mode in [0, 1, 3, 0x20] {
                let arguments = [t.rw(), mode, 0, bytes(t.window.buffer)];
                let _ = t.call(format!("mode {mode:#x}"), libc::SYS_fallocate, arguments);
            }
        }),
        case("ftruncate", |t| {
            let _ = t.call(
                "ftruncate",
                libc::SYS_ftruncate,
                [t.rw(), bytes(t.window.buffer)],
            );
        }),
        case("copy_file_range", |t| {
            let mut offsets = [0_u64, bytes(2) as u64];
            let [from, to] = offsets.each_mut().map(address);
            let arguments = [t.rw(), from, t.rw(), to, 16, 0];
            let _ = t.call("within", libc::SYS_copy_file_range, arguments);
        }),
        case("posix_fadvise", |t| {
            for advice in 0..=8 {
                let arguments = [t.rw(), 0, 0, advice];
                let _ = t.call(format!("advice {advice}"), libc::SYS_fadvise64, arguments);
            }
        }),
        case("readahead", |t| {
            let _ = t.call("readahead", libc::SYS_readahead, [t.rw(), 0, bytes(1)]);
        }),
        case("sync", |t| {
            for (step, number) in [
                ("fsync", libc::SYS_fsync),
                ("fdatasync", libc::SYS_fdatasync),
                ("syncfs", libc::SYS_syncfs),
            ] {
                let _ = t.call(step, number, [t.rw()]);
            }
        }),
        case("sync_file_range", |t| {
            let _ = t.call(
                "sync_file_range",
                libc::SYS_sync_file_range,
                [t.rw(), 0, 0, 7],
            );
        }),
        case("cachestat", |t| {
            let (mut range, mut counts) = ([0_u64; 2], [0_u64; 5]);
            let arguments = [t.rw(), address(&mut range), address(&mut counts), 0];
            let _ = t.call("cachestat", SYS_CACHESTAT, arguments);
            for (what, count) in ["pages", "dirty", "under writeback"]
                .into_iter()
                .zip(counts)
            {
                t.see(what, count);
            }
        }),
        case("reads at the end", |t| at_the_end(t, libc::SYS_pread64)),
        case("writes at the end", |t| at_the_end(t, libc::SYS_pwrite64)),
        case("appending", |t| {
            let fd = reopened(t, libc::O_WRONLY | libc::O_APPEND);
            let (mut word, Some(fd)) = ([1_u64], fd) else {
                return;
            };
            let fd = fd.as_raw_fd() as usize;
            let _ = t.call("write", libc::SYS_write, [fd, address(&mut word), 8]);
            let _ = t.call("lseek", libc::SYS_lseek, [fd, 0, libc::SEEK_CUR as usize]);
        }),
        case("inotify", |t| {
            let flags = libc::IN_NONBLOCK as usize;
            let Some(events) = t.opens("inotify_init1", libc::SYS_inotify_init1, [flags]) else {
                return;
            };
            let path = path(t);
            let arguments = [
                events.as_raw_fd() as usize,
                path.as_ptr().expose_provenance(),
                libc::IN_ALL_EVENTS as usize,
            ];
            let _ = t.call("watch", libc::SYS_inotify_add_watch, arguments);
            let mut words = [0_u64; 2];
            let words = address(&mut words);
            for flags in [libc::O_RDONLY, libc::O_WRONLY] {
                drop(reopened(t, flags));
                for (step, number) in [("read", libc::SYS_pread64), ("write", libc::SYS_pwrite64)] {
                    let _ = t.call(step, number, [t.rw(), words, 16, 0]);
                }
            }
            // `struct inotify_event`, with no name behind it.
            let mut event = [0; 16];
            let mut masks = vec![];
            while io::read(&events, &mut event) == Ok(16) {
                masks.push(format!("{:x?}", &event[4..8]));
            }
            t.see("events", masks.join(", "));
        }),
        case("O_DIRECT", |t| {
            drop(reopened(t, libc::O_RDWR | libc::O_DIRECT))
        }),
        case("flags of preadv2", |t| with_flags(t, libc::SYS_preadv2)),
        case("flags of pwritev2", |t| with_flags(t, libc::SYS_pwritev2)),
        case("FIONREAD", |t| {
            let mut count = -1_i32;
            let arguments = [t.rw(), libc::FIONREAD as usize, address(&mut count)];
            let _ = t.call("ioctl", libc::SYS_ioctl, arguments);
        }),
    ];
    compare(ONE, unmapped, &cases, DIFFERS);
}

const SYS_CACHESTAT: libc::c_long = 451;

/// Where it can be opened once more.
fn path(t: &Trial) -> String {
    format!("/proc/self/fd/{}\0", t.rw())
}

/// The same opened once more.
fn reopened(t: &mut Trial, flags: i32) -> Option<OwnedFd> {
    let path = path(t);
    let path = path.as_ptr().expose_provenance();
    let here = libc::AT_FDCWD as usize;
    t.opens("open", libc::SYS_openat, [here, path, flags as usize])
}
