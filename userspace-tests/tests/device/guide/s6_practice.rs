// SPDX-License-Identifier: GPL-2.0
//! The guide's §6: what mappings are good for, as programs (`examples/` in Rust, `c/` in C, which
//! work together), and what to beware of.

use std::{
    io::IoSlice,
    os::unix::process::CommandExt,
    process::{Command, Output, Stdio},
    sync::atomic::{
        AtomicU32, AtomicUsize,
        Ordering::{Acquire, Relaxed, Release, SeqCst},
    },
    thread,
};

use rustix::{
    fs::OFlags,
    io,
    mm::{MremapFlags, MsyncFlags, msync},
    pipe::{IoSliceRaw, SpliceFlags, pipe, vmsplice},
};

use crate::{
    harness::tests,
    support::{
        assert_same,
        memory::{self, Map, PRIVATE, READ, RW, SHARED, mmap, page, shared},
        module::{TEXT, fresh, initial, live_mappings, references},
        open, pread,
        process::{Program, ROLES, Role, fork},
        seccomp,
    },
};

tests![
    s6_1_ring_delivers_in_order,
    s6_1_ring_wakes_a_sleeping_consumer,
    s6_1_ring_wakes_a_sleeping_producer,
    s6_1_ring_loses_no_wake,
    s6_1_ring_makes_no_system_call_while_both_are_busy,
    s6_1_ring_of_c_makes_no_system_call_while_there_is_room,
    s6_1_sensor_readers_never_see_half_a_sample,
    s6_1_sensor_reader_meets_a_writer,
    s6_1_sensor_makes_no_system_call,
    s6_1_editor_edits_in_place,
    s6_1_editor_refuses_what_does_not_fit,
    s6_1_editors_take_turns,
    s6_1_io_without_a_copy,
    s6_2_mappings_without_munmap_pile_up,
    s6_2_the_end_of_a_process_is_a_munmap_of_all,
    s6_2_access_after_munmap_is_sigsegv,
    s6_2_access_that_is_not_allowed_is_sigsegv,
    s6_2_a_stale_pointer_after_mremap_is_sigsegv,
    s6_2_a_stale_pointer_after_a_shrink_is_sigsegv,
    s6_2_access_past_the_end_after_growing_is_sigbus,
    s6_2_msync_after_a_write,
];

// As programs they are started by their `main`.
#[allow(dead_code)]
#[path = "../../../examples/editor.rs"]
mod editor;
#[allow(dead_code)]
#[path = "../../../examples/ring.rs"]
mod ring;
#[allow(dead_code)]
#[path = "../../../examples/sensor.rs"]
mod sensor;

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn end_with(outcome: Outcome) {
    if let Err(err) = outcome {
        eprintln!("{err}");
        std::process::exit(1);
    }
}

#[linkme::distributed_slice(ROLES)]
static RING: Role = Role {
    name: "ring",
    body: |_, args| end_with(ring::run(args)),
};
#[linkme::distributed_slice(ROLES)]
static SENSOR: Role = Role {
    name: "sensor",
    body: |_, args| end_with(sensor::run(args)),
};
#[linkme::distributed_slice(ROLES)]
static EDITOR: Role = Role {
    name: "editor",
    body: |_, args| end_with(editor::run(args)),
};

/// One program in both languages.
struct Example {
    c: Program,
    rust: &'static str,
}

impl Example {
    fn new(image: &[u8], role: &Role) -> Self {
        Self {
            c: Program::new(image),
            rust: role.name,
        }
    }

    fn ring() -> Self {
        Self::new(include_bytes!(concat!(env!("OUT_DIR"), "/ring")), &RING)
    }

    fn sensor() -> Self {
        Self::new(include_bytes!(concat!(env!("OUT_DIR"), "/sensor")), &SENSOR)
    }

    fn editor() -> Self {
        Self::new(include_bytes!(concat!(env!("OUT_DIR"), "/editor")), &EDITOR)
    }

    fn in_c(&self, args: &[&str]) -> Command {
        self.c.command(args)
    }

    fn in_rust(&self, args: &[&str]) -> Command {
        let mut command = Command::new("/proc/self/exe");
        command.args(["--role", self.rust]).args(args);
        command.stdin(Stdio::null());
        command
    }

    fn both(&self, args: &[&str]) -> [Command; 2] {
        [self.in_c(args), self.in_rust(args)]
    }
}

/// Starts all of them at once, and waits for their good end.
#[track_caller]
fn run_together(commands: impl IntoIterator<Item = Command>) {
    let start = |mut command: Command| command.spawn().expect("start a program");
    let children: Vec<_> = commands.into_iter().map(start).collect();
    for mut child in children {
        let status = child.wait().expect("wait");
        assert!(status.success(), "a program ended with {status}");
    }
}

fn zeroed() {
    fresh(1).clear().expect("CLEAR");
}

fn s6_1_ring_delivers_in_order() {
    const NUMBERS: &str = "10000";
    let ring = Example::ring();
    for producer in 0..2 {
        for consumer in 0..2 {
            zeroed();
            let mut producers = ring.both(&["produce", NUMBERS]);
            let mut consumers = ring.both(&["consume", NUMBERS]);
            producers.swap(0, producer);
            consumers.swap(0, consumer);
            let ([producer, _], [consumer, _]) = (producers, consumers);
            run_together([producer, consumer]);
        }
    }
}

// Where the ring has its words.
const PUT: usize = 0;
const CONSUMER_SLEEPS: usize = 4;
const TAKEN: usize = 64;
const PRODUCER_SLEEPS: usize = 68;

fn until_set(word: &AtomicU32) {
    while word.load(SeqCst) == 0 {
        thread::yield_now();
    }
}

fn s6_1_ring_wakes_a_sleeping_consumer() {
    let example = Example::ring();
    for mut consumer in example.both(&["consume", "1"]) {
        zeroed();
        let map = shared(open(OFlags::RDWR), 1);
        let mut consumer = consumer.spawn().expect("start");
        until_set(map.u32(CONSUMER_SLEEPS));
        assert_eq!(
            consumer.try_wait().expect("wait"),
            None,
            "there is nothing yet"
        );
        ring::Ring::open().expect("open").put(1).expect("put");
        assert!(consumer.wait().expect("wait").success());
        assert_eq!(map.u32(CONSUMER_SLEEPS).load(SeqCst), 0);
    }
}

fn s6_1_ring_wakes_a_sleeping_producer() {
    let example = Example::ring();
    let one_more = (ring::SLOTS + 1).to_string();
    for mut producer in example.both(&["produce", &one_more]) {
        zeroed();
        let map = shared(open(OFlags::RDWR), 1);
        let mut producer = producer.spawn().expect("start");
        until_set(map.u32(PRODUCER_SLEEPS));
        assert_eq!(map.u32(PUT).load(SeqCst), ring::SLOTS, "it is full");
        assert_eq!(producer.try_wait().expect("wait"), None);
        assert_eq!(ring::Ring::open().expect("open").take(), Ok(1));
        assert!(producer.wait().expect("wait").success());
        assert_eq!(map.u32(PUT).load(SeqCst), ring::SLOTS + 1);
        assert_eq!(map.u32(TAKEN).load(SeqCst), 1);
    }
}

/// The other side may be between its word and its sleep: were the word taken back by who wakes, the
/// sleep would have no end.
fn s6_1_ring_loses_no_wake() {
    let ring = Example::ring();
    zeroed();
    let map = shared(open(OFlags::RDWR), 1);
    for sleeps in [CONSUMER_SLEEPS, PRODUCER_SLEEPS] {
        map.u32(sleeps).store(1, SeqCst);
    }
    for mut producer in ring.both(&["produce", "1"]) {
        assert!(producer.status().expect("start").success());
        assert_eq!(map.u32(CONSUMER_SLEEPS).load(SeqCst), 1);
    }
    for mut consumer in ring.both(&["consume", "1"]) {
        assert!(consumer.status().expect("start").success());
        assert_eq!(map.u32(PRODUCER_SLEEPS).load(SeqCst), 1);
    }
}

/// Both work at the same time, on a ring that is never empty and never full. Each would be killed
/// for a futex call, and counts none.
fn s6_1_ring_makes_no_system_call_while_both_are_busy() {
    const ROUNDS: u32 = 200;
    const STEP: u32 = ring::SLOTS / 4;
    // Beyond the ring: the rounds that each side has finished.
    const FINISHED: [usize; 2] = [2048, 2112];
    zeroed();
    let start = ring::Ring::open().expect("open");
    (0..2 * STEP).for_each(|number| start.put(number).expect("put"));
    assert_eq!(start.calls(), 0);
    let side = |own: usize, work: &dyn Fn(&ring::Ring, u32)| {
        let ring = ring::Ring::open().expect("open");
        let map = shared(open(OFlags::RDWR), 1);
        seccomp::forbid(&[libc::SYS_futex, libc::SYS_futex_waitv]);
        for round in 0..ROUNDS {
            (0..STEP).for_each(|i| work(&ring, round * STEP + i));
            map.u32(FINISHED[own]).store(round + 1, Release);
            while map.u32(FINISHED[1 - own]).load(Acquire) <= round {
                thread::yield_now();
            }
        }
        assert_eq!(ring.calls(), 0);
    };
    let producer = fork(|_| side(0, &|ring, i| ring.put(2 * STEP + i).expect("put")));
    let consumer = fork(|_| side(1, &|ring, i| assert_eq!(ring.take(), Ok(i))));
    producer.join();
    consumer.join();
}

/// Runs it with all its futex calls forbidden.
fn without_futex(mut command: Command) -> Output {
    // SAFETY: after fork, nothing but system calls is made here, and a small allocation in a
    // process of one thread.
    unsafe {
        command.pre_exec(|| {
            seccomp::forbid(&[libc::SYS_futex, libc::SYS_futex_waitv]);
            Ok(())
        })
    };
    command.output().expect("run")
}

fn s6_1_ring_of_c_makes_no_system_call_while_there_is_room() {
    let ring = Example::ring();
    let count = ring::SLOTS.to_string();
    zeroed();
    for role in ["produce", "consume"] {
        let output = without_futex(ring.in_c(&[role, &count]));
        let expected = format!("{count} numbers, 0 futex calls\n");
        assert_same(&output.stdout, expected.as_bytes(), role);
        assert!(output.status.success(), "{}", output.status);
    }
    // And that it is seen when there is one.
    let output = without_futex(ring.in_c(&["consume", "1"]));
    assert!(!output.status.success(), "an empty ring cannot do without");
}

fn s6_1_sensor_readers_never_see_half_a_sample() {
    const SAMPLES: &str = "20000";
    let sensor = Example::sensor();
    for publisher in sensor.both(&["publish", SAMPLES]) {
        zeroed();
        let watchers = sensor.both(&["watch", SAMPLES]);
        run_together(watchers.into_iter().chain([publisher]));
    }
}

/// Step by step: half a sample is in the memory, and the reader does not take it for a whole one.
fn s6_1_sensor_reader_meets_a_writer() {
    zeroed();
    let (sensor, map) = (
        sensor::Sensor::open().expect("open"),
        shared(open(OFlags::RDWR), 1),
    );
    sensor.publish(sensor::sample(1));
    assert_eq!(sensor.try_read(), Some(sensor::sample(1)));
    let child = fork(|link| {
        let map = shared(open(OFlags::RDWR), 1);
        let sequence = map.u32(0).load(SeqCst);
        map.u32(0).store(sequence + 1, SeqCst);
        for (i, value) in sensor::sample(2).into_iter().enumerate() {
            if i == 4 {
                link.signal();
                link.wait();
            }
            map.u32(64 + 4 * i).store(value, SeqCst);
        }
        map.u32(0).store(sequence + 2, SeqCst);
    });
    child.link.wait();
    let half: Vec<_> = (0..8).map(|i| map.u32(64 + 4 * i).load(SeqCst)).collect();
    let (new, old) = (sensor::sample(2), sensor::sample(1));
    assert_eq!(half, [&new[..4], &old[4..]].concat(), "half and half");
    assert_eq!(sensor.try_read(), None, "the reader knows");
    child.link.signal();
    child.join();
    assert_eq!(sensor.try_read(), Some(new));
}

fn s6_1_sensor_makes_no_system_call() {
    zeroed();
    let sensor = sensor::Sensor::open().expect("open");
    fork(|_| {
        seccomp::allow_only(&[libc::SYS_exit_group]);
        let mut good = true;
        for number in 1..1000 {
            sensor.publish(sensor::sample(number));
            good &= sensor.try_read() == Some(sensor::sample(number));
        }
        // SAFETY: ends this process.
        unsafe { libc::_exit(if good { 0 } else { 1 }) }
    })
    .join();
    assert_eq!(sensor.try_read(), Some(sensor::sample(999)));
}

#[track_caller]
fn succeeds(mut command: Command) -> String {
    let output = command.output().expect("run");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).expect("text")
}

/// Each step in one language, and what came of it seen in the other one, and by the kernel.
fn s6_1_editor_edits_in_place() {
    let editor = Example::editor();
    let (c, rust) = (
        |args: &[&str]| succeeds(editor.in_c(args)),
        |args: &[&str]| succeeds(editor.in_rust(args)),
    );
    type Run<'a> = &'a dyn Fn(&[&str]) -> String;
    for [one, other] in [[&c as Run, &rust as Run], [&rust, &c]] {
        fresh(1);
        let map = shared(open(OFlags::RDWR), 1);
        assert_eq!(one(&["show"]), format!("{TEXT}\n"));
        one(&["replace", "kernel memory", "the kernel's memory"]);
        one(&["insert", "0", "# "]);
        one(&["delete", "2", "14"]);
        let expected = "# this text lives in the kernel's memory";
        assert_eq!(other(&["show"]), format!("{expected}\n"));
        let mut bytes = expected.as_bytes().to_vec();
        bytes.push(0);
        assert_same(&pread(0, bytes.len()), &bytes, "the kernel's bytes");
        assert_same(&map.read(0, bytes.len()), &bytes, "a mapping of before");
    }
}

fn s6_1_editor_refuses_what_does_not_fit() {
    let editor = Example::editor();
    fresh(1);
    let too_long = "x".repeat(page() - TEXT.len());
    for args in [
        &["insert", "0", &too_long][..],
        &["insert", "4000", "beyond the text"],
        &["delete", "40", "10"],
        &["replace", "no such text", "anything"],
        &["frobnicate"],
    ] {
        for mut command in editor.both(args) {
            let output = command.output().expect("run");
            assert_eq!(output.status.code(), Some(1), "{args:?}");
            assert_eq!(
                output.stderr.split(|byte| *byte == b'\n').count(),
                2,
                "one sentence"
            );
        }
    }
    assert_same(&pread(0, page()), &initial(page()), "the text");
    // One byte less, and it is full.
    succeeds(editor.in_rust(&["insert", "0", &too_long[1..]]));
    assert_eq!(succeeds(editor.in_c(&["show"])).len(), page());
}

/// Edits of several processes at once: each moves what the others wrote, and nothing is lost.
fn s6_1_editors_take_turns() {
    zeroed();
    let editor = Example::editor();
    let words: Vec<_> = (10..22).map(|i| format!("<{i}>")).collect();
    let insert = |(i, word): (usize, &String)| {
        let args = ["insert", "0", word.as_str()];
        if i % 2 == 0 {
            editor.in_c(&args)
        } else {
            editor.in_rust(&args)
        }
    };
    run_together(words.iter().enumerate().map(insert));
    let text = succeeds(editor.in_c(&["show"]));
    assert_eq!(text.len(), 4 * words.len() + 1, "{text}");
    for word in &words {
        assert_eq!(text.matches(word.as_str()).count(), 1, "{word} in {text}");
    }
}

/// "Where the copies of read and write are to be avoided": a pipe gets the page itself, so what
/// is stored afterwards is what comes out.
fn s6_1_io_without_a_copy() {
    let device = fresh(1);
    let (map, (receiver, sender)) = (shared(&device, 1), pipe().expect("pipe"));
    map.write(0, b"before");
    // SAFETY: the address is for the kernel only.
    let part = IoSliceRaw::from_slice(unsafe { map.as_slice(0, 6) });
    // SAFETY: the page stays.
    let n = unsafe { vmsplice(&sender, &[part], SpliceFlags::empty()) };
    assert_eq!(n, Ok(6));
    // A write, on the other hand, copies.
    // SAFETY: the address is for the kernel only.
    let part = unsafe { map.as_slice(0, 6) };
    assert_eq!(io::writev(&sender, &[IoSlice::new(part)]), Ok(6));
    map.write(0, b"behind");
    let mut found = [0; 6];
    assert_eq!(io::read(&receiver, &mut found), Ok(6));
    assert_same(&found, b"behind", "the page went through the pipe");
    assert_eq!(io::read(&receiver, &mut found), Ok(6));
    assert_same(&found, b"before", "a copy went through the pipe");
}

/// What a long-lived process forgets to unmap stays: an address range, and a reference.
fn s6_2_mappings_without_munmap_pile_up() {
    let device = fresh(1);
    let before = references();
    let maps: Vec<_> = (1..=20)
        .map(|n| {
            let map = shared(&device, 1);
            assert_eq!(live_mappings(), n);
            map
        })
        .collect();
    assert_eq!(references(), before, "they share the open file's reference");
    drop(device);
    assert_eq!(references(), before, "which the mappings keep after close");
    drop(maps);
    assert_eq!((live_mappings(), references()), (0, 0));
}

fn s6_2_the_end_of_a_process_is_a_munmap_of_all() {
    fresh(2);
    type End = fn();
    let ends: [End; 3] = [
        || std::process::exit(0),
        || std::process::abort(),
        // SAFETY: ends this process.
        || unsafe {
            libc::kill(libc::getpid(), libc::SIGKILL);
        },
    ];
    for end in ends {
        let child = fork(|link| {
            let device = open(OFlags::RDWR);
            for i in 0..10 {
                let map = mmap(
                    &device,
                    0,
                    2 * page(),
                    RW,
                    if i % 2 == 0 { SHARED } else { PRIVATE },
                );
                let map = map.expect("mmap");
                map.write(page(), b"used");
                std::mem::forget(map);
            }
            link.signal();
            link.wait();
            end();
        });
        child.link.wait();
        assert_eq!((live_mappings(), references()), (10, 1));
        child.link.signal();
        child.wait();
        assert_eq!((live_mappings(), references()), (0, 0));
    }
}

static EXPECTED: AtomicUsize = AtomicUsize::new(0);

/// Ends the process with the signal's code when it is about the expected address, and else with 99.
extern "C" fn on_signal(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel hands over a valid `info`; _exit may be called by a signal handler.
    unsafe {
        let as_expected = (*info).si_addr() as usize == EXPECTED.load(Relaxed);
        libc::_exit(if as_expected { (*info).si_code } else { 99 })
    }
}

const SEGV_MAPERR: i32 = 1;
const SEGV_ACCERR: i32 = 2;

const BUS_ADRERR: i32 = 2;

/// `access` of the byte at `address` must end in a SIGSEGV about this address, for this reason.
#[track_caller]
fn assert_segv(address: *mut u8, code: i32, access: impl FnOnce(*mut u8)) {
    assert_signal(libc::SIGSEGV, address, code, access);
}

/// The same of any signal.
#[track_caller]
fn assert_signal(signal: i32, address: *mut u8, code: i32, access: impl FnOnce(*mut u8)) {
    let child = fork(|_| {
        EXPECTED.store(address as usize, Relaxed);
        // SAFETY: the handler fits its flags.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_signal as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            let set = libc::sigaction(signal, &raw const action, std::ptr::null_mut());
            assert_eq!(set, 0);
        }
        access(address);
    });
    assert_eq!(child.wait().exit_status(), Some(code));
}

fn load(address: *mut u8) {
    // SAFETY: this is to end in a signal.
    unsafe { address.read_volatile() };
}

fn store(address: *mut u8) {
    // SAFETY: this is to end in a signal.
    unsafe { address.write_volatile(b'!') };
}

fn s6_2_access_after_munmap_is_sigsegv() {
    let device = fresh(2);
    for flags in [SHARED, PRIVATE] {
        let map = mmap(&device, 0, 2 * page(), RW, flags).expect("mmap");
        map.unmap_part(page(), page()).expect("munmap");
        assert_segv(map.at(page()), SEGV_MAPERR, load);
        assert_segv(map.at(page() + 8), SEGV_MAPERR, store);
        assert_same(&map.read(0, 4), b"rust", "what is left");
    }
    assert_same(&pread(0, 2 * page()), &initial(2 * page()), "the buffer");
}

fn s6_2_access_that_is_not_allowed_is_sigsegv() {
    let device = fresh(1);
    let map = mmap(&device, 0, page(), READ, SHARED).expect("mmap");
    assert_segv(map.at(5), SEGV_ACCERR, store);
    assert_same(&pread(0, page()), &initial(page()), "the buffer");
}

fn s6_2_a_stale_pointer_after_mremap_is_sigsegv() {
    let device = fresh(1);
    let mut map = shared(&device, 1);
    let stale = map.at(0);
    map.remap_onto(memory::anonymous(1, RW, PRIVATE))
        .expect("mremap");
    assert_segv(stale, SEGV_MAPERR, load);
    assert_segv(stale, SEGV_MAPERR, store);
    assert_same(&map.bytes(), &initial(page()), "at the new address");
}

fn s6_2_a_stale_pointer_after_a_shrink_is_sigsegv() {
    let device = fresh(2);
    let mut map: Map = shared(&device, 2);
    let stale = map.at(page());
    map.remap(page(), MremapFlags::empty()).expect("mremap");
    assert_segv(stale, SEGV_MAPERR, load);
    map.bytes();
}

/// There is no page past the end of the buffer, where mremap may have grown a mapping to; that is
/// not said to be a broken page.
fn s6_2_access_past_the_end_after_growing_is_sigbus() {
    for pages in [1, 2] {
        let device = fresh(pages as u64);
        for flags in [SHARED, PRIVATE] {
            let mut map = mmap(&device, 0, pages * page(), RW, flags).expect("mmap");
            map.remap((pages + 2) * page(), MremapFlags::MAYMOVE)
                .expect("mremap");
            for at in [pages * page(), (pages + 2) * page() - 1] {
                assert_signal(libc::SIGBUS, map.at(at), BUS_ADRERR, load);
                assert_signal(libc::SIGBUS, map.at(at), BUS_ADRERR, store);
            }
            map.read(0, pages * page());
        }
    }
}

/// "After writing, msync makes sure": here it may be left out, and is always good.
fn s6_2_msync_after_a_write() {
    let map = shared(fresh(1), 1);
    map.write(0, b"written");
    assert_same(&pread(0, 7), b"written", "before msync");
    // SAFETY: nothing changes.
    unsafe { msync(map.at(0).cast(), page(), MsyncFlags::SYNC) }.expect("msync");
    drop(map);
    assert_same(&pread(0, 7), b"written", "after munmap");
}
