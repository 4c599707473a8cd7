// SPDX-License-Identifier: GPL-2.0
//! Real amounts of memory: what a load takes, a failed or killed one gives back, and how soon a
//! large copy ends when its process is killed.

use std::{
    fs,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::Command,
    sync::atomic::{AtomicU32, Ordering::SeqCst},
};

use rust_mmapdev::{Access, Device};
use rustix::{
    fs::{OFlags, SeekFrom, seek, tell},
    io::{self, Errno},
    process::{Signal, kill_process},
};

use crate::{
    harness::{long, skip, tests},
    support::{
        cgroup::Cgroup,
        large::{has_huge_pages, huge},
        memory::{self, Map, MprotectFlags, RW, SHARED, mmap, page, skewed},
        module::{self, Log, fdinfo},
        open, pread,
        proc::{
            Setting, available, meminfo, nobodys_pages, settle_lists, settled,
            unsettled_nobodys_pages,
        },
        process::{Child, fork, run_on},
        signal::handle,
        system_call,
        trace::{Allocation, Trace},
    },
};

tests![
    the_buffer_shows_in_meminfo,
    loads_give_all_memory_back,
    loads_give_every_page_back,
    the_rest_of_a_huge_page_is_not_lost,
    running_out_of_memory_at_the_end_is_enomem,
    a_killed_load_ends_soon,
    a_caught_signal_does_not_stop_a_load,
    a_killed_read_ends_soon,
    a_killed_write_ends_soon,
    a_killed_clear_ends_soon,
    a_killed_write_counts_what_it_has_copied,
    a_write_ends_when_another_thread_ends_the_process,
    a_write_ends_when_another_thread_calls_exec,
    a_caught_signal_does_not_cut_a_read,
    a_caught_signal_does_not_cut_a_write,
    a_caught_signal_does_not_cut_a_clear,
    only_single_pages_are_insisted_on,
];

const MIB: usize = 1 << 20;

/// Skips the test in a VM with less than `bytes` to spare.
fn need(bytes: usize) {
    let available = available();
    // What the tests themselves and the kernel's own tables take.
    let wanted = (bytes + bytes / 16 + 64 * MIB) as i64;
    if available < wanted {
        skip(&format!(
            "needs a VM with {} MiB to spare, has {}",
            wanted >> 20,
            available >> 20
        ));
    }
}

#[track_caller]
fn load(bytes: usize) {
    module::load(&format!("buffer_pages={}", bytes / page())).expect("insmod");
}

/// What the module has said.
pub fn own_lines(log: &Log) -> Vec<String> {
    let mut lines = log.lines();
    lines.retain(|line| line.starts_with("rust_mmapdev: "));
    lines
}

/// In `Cached`, as what it is, and in `Unevictable`, as it cannot be reclaimed; what stands in huge
/// folios in `FileHugePages` too. Neither as memory of shmem nor as what a process has, and as
/// mapped when somebody has touched it.
fn the_buffer_shows_in_meminfo() {
    const SIZE: usize = 64 * MIB;
    const SLACK: i64 = 2 * MIB as i64;
    module::unload_if_loaded();
    need(SIZE);
    let fields = [
        "Cached",
        "Unevictable",
        "FileHugePages",
        "Shmem",
        "AnonPages",
        "Mapped",
    ];
    settle_lists();
    let before = fields.map(meminfo);
    let check = |expected: [i64; 6], when: &str| {
        settle_lists();
        for (i, field) in fields.iter().enumerate() {
            let grown = meminfo(field) - before[i];
            assert!(
                (grown - expected[i]).abs() < SLACK,
                "{field} has grown by {grown} bytes {when}"
            );
        }
    };
    let size = SIZE as i64;
    load(SIZE);
    let device = open(OFlags::RDWR);
    let huge = fdinfo(&device, "huge_size") as i64;
    check([size, size, huge, 0, 0, 0], "after insmod");
    let map = mmap(&device, 0, SIZE, RW, SHARED).expect("mmap");
    check([size, size, huge, 0, 0, 0], "after mmap");
    for offset in (0..SIZE).step_by(page()) {
        map.write(offset, b"touched");
    }
    check([size, size, huge, 0, 0, size], "after stores");
    drop((map, device));
    module::unload().expect("rmmod");
    check([0; 6], "after rmmod");
}

/// Each round, and so in all: what one of them kept would show in the next.
fn loads_give_all_memory_back() {
    let (rounds, size) = if long() {
        (10, 1024 * MIB)
    } else {
        (2, 256 * MIB)
    };
    const SLACK: i64 = 8 * MIB as i64;
    module::unload_if_loaded();
    need(size);
    settle_lists();
    let before = available();
    for round in 1..=rounds {
        load(size);
        let device = Device::open(Access::ReadWrite).expect("open");
        assert_eq!(device.info().expect("INFO").size, size as u64);
        let last = mmap(&device, (size - page()) as u64, page(), RW, SHARED);
        last.expect("the last page").write(page() - 8, b"the end.");
        let taken = before - available();
        assert!(
            taken > size as i64 - SLACK,
            "{taken} bytes taken in round {round}"
        );
        drop(device);
        module::unload().expect("rmmod");
        let lost = settled(|| before - available(), |lost| *lost < SLACK);
        println!("round {round}: {taken} bytes taken, {lost} not back");
        assert!(lost < SLACK, "{lost} bytes are gone after round {round}");
    }
}

/// One page that each round kept would show.
fn loads_give_every_page_back() {
    const ROUNDS: i64 = 64;
    module::unload_if_loaded();
    let before = nobodys_pages();
    for _ in 0..ROUNDS {
        load(20 * page());
        drop(mmap(open(OFlags::RDWR), 0, 20 * page(), RW, SHARED).expect("mmap"));
        module::unload().expect("rmmod");
    }
    let kept = settled(|| nobodys_pages() - before, |kept| *kept < ROUNDS / 2);
    assert!(kept < ROUNDS / 2, "{kept} pages after {ROUNDS} rounds");
}

/// Memory for all of the buffer but its last pages: all or nothing.
/// A test of what the tests count by. The kernel keeps all of a huge page of which a part is mapped
/// until it is short of memory, and counts the rest as nobody's. That is no leak of ours.
fn the_rest_of_a_huge_page_is_not_lost() {
    const SLACK: i64 = 64;
    let (huge, rest) = (huge(), (huge() / page()) as i64 - 1);
    let _enabled = Setting::new("/sys/kernel/mm/transparent_hugepage/enabled", "always");
    fs::write("/proc/sys/vm/compact_memory", "1").expect("compact_memory");
    let before = nobodys_pages();
    let map = skewed(0, huge);
    map.protect(MprotectFlags::READ | MprotectFlags::WRITE)
        .expect("mprotect");
    let anonymous = meminfo("AnonHugePages");
    map.write(0, b"in place");
    assert_eq!(meminfo("AnonHugePages") - anonymous, huge as i64);
    map.unmap_part(page(), huge - page()).expect("munmap");
    let unsettled = unsettled_nobodys_pages() - before;
    assert!(unsettled > rest - SLACK, "{unsettled} of {rest}");
    let settled = nobodys_pages() - before;
    assert!(settled < SLACK, "{settled} pages are nobody's");
    assert_eq!(map.read(0, 8), b"in place");
}

fn running_out_of_memory_at_the_end_is_enomem() {
    const SIZE: usize = 32 * MIB;
    let parameters = format!("buffer_pages={}", SIZE / page());
    module::unload_if_loaded();
    need(SIZE);
    let load_with = |limit: &str| {
        let cgroup = Cgroup::new("capacity");
        cgroup.set("memory.max", limit);
        let child = fork(|link| {
            cgroup.enter();
            let result = module::load(&parameters);
            link.send(result.map_or_else(|err| err.raw_os_error() as u64, |()| 0));
        });
        let error = child.link.receive() as i32;
        child.join();
        assert_eq!(cgroup.oom_kills(), 0, "nobody is killed");
        (error, cgroup.peak())
    };
    let (error, peak) = load_with("max");
    assert_eq!(error, 0);
    assert!(peak >= SIZE, "the cgroup is charged for the buffer: {peak}");
    module::unload().expect("rmmod");

    let before = meminfo("Cached");
    let log = Log::from_now();
    // The kernel charges some 64 pages at a time.
    let limit = peak - 128 * page();
    let (error, peak) = load_with(&limit.to_string());
    assert_eq!(Errno::from_raw_os_error(error), Errno::NOMEM);
    assert!(peak > SIZE - 256 * page(), "it went to the end: {peak}");
    assert_nothing_left(before);
    let lines = own_lines(&log);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains(&(SIZE / page()).to_string()), "{lines:?}");
    load(SIZE);
}

#[track_caller]
fn assert_nothing_left(cached_before: i64) {
    assert!(!module::is_loaded(), "no module");
    assert!(!Path::new(Device::PATH).exists(), "no device node");
    let left = meminfo("Cached") - cached_before;
    assert!(left < MIB as i64, "{left} bytes of page cache");
}

/// How often a signal may come when the call is over, which is up to the scheduler. Where both
/// processes take turns on one CPU it is rare: of two, the one that sends the signal may be an
/// emulated CPU that stands still, because the host is busy.
const ATTEMPTS: usize = 20;

/// A child that loads the module with a buffer of `size` bytes and gets `signal` when there is a
/// part of them, and the kernel's log from its start on.
#[track_caller]
fn interrupt_load(signal: Signal, size: usize, load: impl Fn()) -> (Child, Log) {
    run_on(0);
    for _ in 0..ATTEMPTS {
        module::unload_if_loaded();
        need(size);
        let before = meminfo("Cached");
        let log = Log::from_now();
        let child = fork(|_| load());
        while meminfo("Cached") < before + 16 * MIB as i64 {}
        kill_process(child.pid, signal).expect("kill");
        // CPUs keep some of what they count for themselves.
        if meminfo("Cached") < before + (size - 16 * MIB) as i64 {
            return (child, log);
        }
    }
    panic!("the signal never comes during the load")
}

fn a_killed_load_ends_soon() {
    module::unload_if_loaded();
    let size = if long() { 1024 * MIB } else { 384 * MIB };
    let before = meminfo("Cached");
    let (child, log) = interrupt_load(Signal::KILL, size, || load(size));
    child.dies_of(Signal::KILL);
    assert_nothing_left(before);
    let lines = own_lines(&log);
    assert_eq!(lines.len(), 1, "one line, of a load that failed: {lines:?}");
    assert!(lines[0].contains("EINTR"), "{lines:?}");
    load(page());
}

/// A size that takes some tenths of a second to copy under emulation.
const LARGE: usize = 64 * MIB;

/// A module with a large buffer, and the first and the last page of it.
fn large() -> (OwnedFd, Map, Map) {
    module::unload_if_loaded();
    need(LARGE + MIB);
    load(LARGE);
    let device = open(OFlags::RDWR);
    let at = |offset: usize| mmap(&device, offset as u64, page(), RW, SHARED).expect("mmap");
    let (first, last) = (at(0), at(LARGE - page()));
    first.write(0, &[0; 64]);
    (device, first, last)
}

/// What a large transfer reads from or writes to: one MiB over and over, but the first and the
/// last page have places of their own, that tell how far it got.
struct Memory {
    first: Map,
    middle: Map,
    last: Map,
}

impl Memory {
    fn new() -> Self {
        let [first, last] = [1, 1].map(|pages| memory::anonymous(pages, RW, SHARED));
        let middle = memory::anonymous(MIB / page(), RW, SHARED);
        Self {
            first,
            middle,
            last,
        }
    }

    fn vectors(&self) -> Vec<libc::iovec> {
        let mut rest = LARGE - 2 * page();
        let vector = |map: &Map, iov_len| libc::iovec {
            iov_base: map.at(0).cast(),
            iov_len,
        };
        let mut vectors = vec![vector(&self.first, page())];
        while rest > 0 {
            let len = rest.min(MIB);
            vectors.push(vector(&self.middle, len));
            rest -= len;
        }
        vectors.push(vector(&self.last, page()));
        vectors
    }

    fn read(&self, device: &OwnedFd) -> io::Result<usize> {
        let vectors = self.vectors();
        // SAFETY: the vectors describe memory of ours, all of it shared and accessed as such.
        system_call(unsafe {
            libc::preadv(
                device.as_raw_fd(),
                vectors.as_ptr(),
                vectors.len() as i32,
                0,
            )
        })
    }

    fn write(&self, device: &OwnedFd) -> io::Result<usize> {
        let vectors = self.vectors();
        // SAFETY: as above.
        system_call(unsafe {
            libc::pwritev(
                device.as_raw_fd(),
                vectors.as_ptr(),
                vectors.len() as i32,
                0,
            )
        })
    }
}

/// A child that makes a call and gets `signal` when the call has changed the first word of `first`,
/// which was `from`, and not yet that of `last`.
#[track_caller]
fn interrupt(signal: Signal, first: &Map, last: &Map, from: u32, call: impl Fn()) -> Child {
    let unchanged = |map: &Map| map.u32(0).load(SeqCst) == from;
    run_on(0);
    for _ in 0..ATTEMPTS {
        for map in [first, last] {
            map.u32(0).store(from, SeqCst);
        }
        let child = fork(|_| call());
        while unchanged(first) {
            std::hint::spin_loop();
        }
        kill_process(child.pid, signal).expect("kill");
        if unchanged(last) {
            return child;
        }
    }
    panic!("the signal never comes while the call is at work")
}

const BEFORE: u32 = 0;
const AFTER: u32 = 0x0101_0101;

fn a_killed_read_ends_soon() {
    let (device, first, last) = large();
    let memory = Memory::new();
    for map in [&first, &last] {
        map.u32(0).store(AFTER, SeqCst);
    }
    let read = || _ = memory.read(&device);
    let child = interrupt(Signal::KILL, &memory.first, &memory.last, BEFORE, read);
    child.dies_of(Signal::KILL);
    assert_eq!(memory.last.u32(0).load(SeqCst), BEFORE, "it did not go on");
}

fn a_killed_write_ends_soon() {
    let (device, first, last) = large();
    let memory = Memory::new();
    for map in [&memory.first, &memory.last] {
        map.u32(0).store(AFTER, SeqCst);
    }
    let write = || _ = memory.write(&device);
    let child = interrupt(Signal::KILL, &first, &last, BEFORE, write);
    child.dies_of(Signal::KILL);
    assert_eq!(last.u32(0).load(SeqCst), BEFORE, "it did not go on");
    // Whoever writes next need not wait for the dead.
    assert_eq!(io::pwrite(&device, &[1], 0), Ok(1));
}

fn a_killed_clear_ends_soon() {
    let (device, first, last) = large();
    let device = Device::try_from(device).expect("a descriptor of the device");
    let clear = || _ = device.clear();
    let child = interrupt(Signal::KILL, &first, &last, AFTER, clear);
    child.dies_of(Signal::KILL);
    assert_eq!(last.u32(0).load(SeqCst), AFTER, "it did not go on");
}

/// The position moves on by what was written, and only by that.
fn a_killed_write_counts_what_it_has_copied() {
    let (device, first, last) = large();
    let memory = Memory::new();
    memory.middle.write(0, &vec![1; MIB]);
    for map in [&memory.first, &memory.last] {
        map.write(0, &vec![1; page()]);
    }
    let clear = Device::try_from(device.try_clone().expect("dup")).expect("the device");
    let write = || {
        clear.clear().expect("CLEAR");
        seek(&device, SeekFrom::Start(0)).expect("lseek");
        let vectors = memory.vectors();
        // SAFETY: the vectors describe memory of ours, all of it shared and accessed as such.
        unsafe { libc::writev(device.as_raw_fd(), vectors.as_ptr(), vectors.len() as i32) };
    };
    let child = interrupt(Signal::KILL, &first, &last, BEFORE, write);
    child.dies_of(Signal::KILL);
    let position = tell(&device).expect("lseek");
    assert!(position > 0 && position < LARGE as u64, "{position}");
    let around = pread(position - 1, 2);
    assert_eq!(around, [1, 0], "the bytes around {position}");
}

/// A process of two threads: one writes, and the other makes an end of it. Both in the child.
#[track_caller]
fn assert_write_ends_with(end: fn()) {
    let (device, first, last) = large();
    let memory = Memory::new();
    for map in [&memory.first, &memory.last] {
        map.u32(0).store(AFTER, SeqCst);
    }
    run_on(0);
    for _ in 0..ATTEMPTS / 4 {
        for map in [&first, &last] {
            map.u32(0).store(BEFORE, SeqCst);
        }
        fork(|_| {
            std::thread::scope(|scope| {
                scope.spawn(|| memory.write(&device));
                while first.u32(0).load(SeqCst) == BEFORE {
                    std::hint::spin_loop();
                }
                end();
            });
        })
        .join();
        if last.u32(0).load(SeqCst) == BEFORE {
            return;
        }
    }
    panic!("the write always goes on to its end");
}

/// exit_group(2).
fn a_write_ends_when_another_thread_ends_the_process() {
    // SAFETY: nothing of this process is needed any more.
    assert_write_ends_with(|| unsafe { libc::_exit(0) });
}

fn a_write_ends_when_another_thread_calls_exec() {
    assert_write_ends_with(|| {
        let error = Command::new("/bin/true").exec();
        panic!("exec: {error}");
    });
}

static CAUGHT: AtomicU32 = AtomicU32::new(0);

extern "C" fn catch(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    CAUGHT.fetch_add(1, SeqCst);
}

/// In the child: catches SIGUSR1 without SA_RESTART, and makes the call.
fn caught<T>(call: impl FnOnce() -> T) -> T {
    handle(libc::SIGUSR1, catch);
    let result = call();
    assert_eq!(CAUGHT.load(SeqCst), 1, "the signal came");
    result
}

/// The same, and checks that the call is whole.
fn whole(call: impl FnOnce() -> io::Result<usize>) {
    assert_eq!(caught(call), Ok(LARGE));
}

/// Nor does the work that io_uring has done on a return to user space, which looks like a signal.
fn a_caught_signal_does_not_stop_a_load() {
    const SIZE: usize = 256 * MIB;
    let (child, _) = interrupt_load(Signal::USR1, SIZE, || caught(|| load(SIZE)));
    child.join();
}

fn a_caught_signal_does_not_cut_a_read() {
    let (device, first, last) = large();
    let memory = Memory::new();
    for map in [&first, &last] {
        map.u32(0).store(AFTER, SeqCst);
    }
    let read = || whole(|| memory.read(&device));
    let child = interrupt(Signal::USR1, &memory.first, &memory.last, BEFORE, read);
    child.join();
    assert_eq!(memory.last.u32(0).load(SeqCst), AFTER);
}

fn a_caught_signal_does_not_cut_a_write() {
    let (device, first, last) = large();
    let memory = Memory::new();
    for map in [&memory.first, &memory.last] {
        map.u32(0).store(AFTER, SeqCst);
    }
    let write = || whole(|| memory.write(&device));
    let child = interrupt(Signal::USR1, &first, &last, BEFORE, write);
    child.join();
    assert_eq!(last.u32(0).load(SeqCst), AFTER);
}

fn a_caught_signal_does_not_cut_a_clear() {
    let (device, first, last) = large();
    let device = Device::try_from(device).expect("the device");
    let clear = || caught(|| device.clear()).expect("CLEAR");
    let child = interrupt(Signal::USR1, &first, &last, AFTER, clear);
    child.join();
    assert_eq!(last.u32(0).load(SeqCst), 0);
}

/// A load looks for a single page as long as there is hope, and kills nobody for it; larger folios
/// it takes where it finds them. The kernel's own word, as memory that is hard to find is hard to make.
fn only_single_pages_are_insisted_on() {
    module::unload_if_loaded();
    // In folios of many pages, of two, and of one.
    let load = || module::load(&format!("buffer_pages={}", 512 + 3));
    let trace = Trace::new();
    trace.record(load).expect("insmod");
    let mut allocations = trace.read();
    // Nobody else does without a warning for movable pages. Without direct reclaim, their flags have
    // other names.
    let ours = |it: &Allocation| {
        it.has(&["GFP_HIGHUSER_MOVABLE", "__GFP_NOWARN"])
            || it.has(&["__GFP_MOVABLE", "GFP_NOWAIT"])
    };
    allocations.retain(ours);
    let (single, larger): (Vec<_>, Vec<_>) = allocations.iter().partition(|it| it.order == 0);
    assert!(!single.is_empty());
    assert_eq!(!larger.is_empty(), has_huge_pages());
    for (allocations, how) in [(&single, "__GFP_RETRY_MAYFAIL"), (&larger, "__GFP_NORETRY")] {
        for allocation in allocations {
            // Compound pages are what folios are; none of the reserves, and of any node.
            let expected = [
                "GFP_HIGHUSER_MOVABLE",
                "__GFP_NOWARN",
                "__GFP_COMP",
                "__GFP_ZERO",
                how,
            ];
            let flags = &allocation.flags;
            assert_eq!(flags, &expected.map(str::to_owned).into(), "{allocation:?}");
        }
    }
}
