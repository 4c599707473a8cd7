// SPDX-License-Identifier: GPL-2.0
//! The guide's program, and the examples: what mappings are good for. Those of `examples/` that are in
//! C as well, in `c/`, work together.

// As programs they are started by their `main`.
#[allow(dead_code)]
#[path = "../../../examples/editor.rs"]
mod editor;
#[expect(dead_code, reason = "`main` and what only it uses")]
#[path = "../../../examples/framebuffer.rs"]
mod framebuffer;
#[expect(dead_code, reason = "`main`")]
#[path = "../../../examples/log_scan.rs"]
mod log_scan;
#[allow(dead_code)]
#[path = "../../../examples/ring.rs"]
mod ring;
#[allow(dead_code)]
#[path = "../../../examples/sensor.rs"]
mod sensor;

use std::{
    fs::File,
    io::{BufWriter, Write},
    os::unix::process::CommandExt,
    process::{Command, Output, Stdio},
    sync::atomic::{
        AtomicU32,
        Ordering::{Acquire, Release, SeqCst},
    },
    thread,
};

use rustix::fs::OFlags;

use crate::{
    harness::{long, tests},
    support::{
        assert_same,
        memory::{page, shared},
        module::{self, TEXT, fresh, initial},
        open, pread,
        process::{Link, Program, ROLES, Role, end, fork, start},
        seccomp,
    },
};

tests![
    a_log_is_searched_in_windows,
    a_log_that_does_not_fit_is_refused,
    a_frame_that_another_process_draws,
    a_buffer_too_small_for_a_frame_is_refused,
    the_program,
    the_program_sees_what_others_wrote,
    the_program_without_the_module,
    zeroed,
    ring_delivers_in_order,
    ring_wakes_a_sleeping_consumer,
    ring_wakes_a_sleeping_producer,
    ring_loses_no_wake,
    ring_makes_no_system_call_while_both_are_busy,
    ring_of_c_makes_no_system_call_while_there_is_room,
    sensor_readers_never_see_half_a_sample,
    sensor_reader_meets_a_writer,
    sensor_makes_no_system_call,
    editor_edits_in_place,
    editor_refuses_what_does_not_fit,
    editors_take_turns,
];

const MIB: usize = 1 << 20;

/// A log of `len` bytes; every thousandth line is an error.
fn log(len: usize) -> (File, log_scan::Found) {
    const PATH: &str = "/tmp/log";
    let mut file = BufWriter::new(File::create(PATH).expect("create"));
    let mut expected = log_scan::Found::default();
    let mut left = len;
    while left > 0 {
        let number = expected.lines;
        let level = if number % 1000 == 777 {
            "ERROR"
        } else {
            "info"
        };
        let mut line = format!("{number:08} {level}: request from 192.0.2.{}", number % 256);
        line.push_str(&"-".repeat(number % 80));
        line.truncate(left - 1);
        if line.contains("ERROR") {
            expected.matches += 1;
            expected.first.get_or_insert_with(|| line.clone());
        }
        expected.lines += 1;
        line.push('\n');
        file.write_all(line.as_bytes()).expect("write");
        left -= line.len();
    }
    file.flush().expect("write");
    (File::open(PATH).expect("open"), expected)
}

fn large_buffer(len: usize) -> rust_mmapdev::Device {
    module::reload(&format!("buffer_pages={}", len.div_ceil(page())));
    rust_mmapdev::Device::open(rust_mmapdev::Access::ReadWrite).expect("open")
}

fn a_log_is_searched_in_windows() {
    let len = if long() { 64 * MIB } else { 8 * MIB } - 12_345;
    let device = large_buffer(len);
    let (log, expected) = log(len);
    let found = log_scan::search(&device, &log, "ERROR").expect("search");
    assert_eq!(found, expected);
    assert!(found.matches > 100);
    assert_eq!(module::live_mappings(), 0, "the last window is unmapped");
}

fn a_log_that_does_not_fit_is_refused() {
    let device = large_buffer(page());
    let (log, _) = log(page() + 1);
    let error = log_scan::search(&device, &log, "ERROR").expect_err("too long");
    assert!(error.to_string().contains("the buffer only"), "{error}");
}

#[linkme::distributed_slice(ROLES)]
static PAINTER: Role = Role {
    name: "painter",
    body: paint,
};

fn paint(_link: &Link, _args: &[String]) {
    framebuffer::draw().expect("draw");
}

fn a_frame_that_another_process_draws() {
    use framebuffer::{HEIGHT, WIDTH, look, picture, show};
    drop(large_buffer(
        WIDTH * HEIGHT * size_of::<framebuffer::Pixel>(),
    ));
    start(&PAINTER, &[]).join();
    let pixel = look().expect("look");
    for y in 0..HEIGHT {
        for x in 0..WIDTH {
            assert_eq!(pixel(x, y), picture(x, y), "pixel {x}, {y}");
        }
    }
    let text = show().expect("show");
    assert_eq!(text.lines().count(), 18);
    assert!(text.contains('#') && text.contains(' '), "{text}");
}

fn a_buffer_too_small_for_a_frame_is_refused() {
    drop(large_buffer(MIB));
    let error = framebuffer::draw().expect_err("too small");
    assert!(error.to_string().contains("buffer_pages="), "{error}");
}

fn the_program() {
    module::reload("");
    let output = Program::new(programs::GUIDE).run(&[]);
    let expected = format!("Mapped content: {}\n", module::TEXT);
    assert_same(
        &output.stdout,
        expected.as_bytes(),
        "what the program prints",
    );
}

fn the_program_sees_what_others_wrote() {
    let device = fresh(1);
    shared(&device, 1).write(0, b"from another process\0");
    let output = Program::new(programs::GUIDE).run(&[]);
    let expected = b"Mapped content: from another process\n";
    assert_same(&output.stdout, expected, "what the program prints");
}

fn the_program_without_the_module() {
    module::unload_if_loaded();
    let output = Program::new(programs::GUIDE)
        .command(&[])
        .output()
        .expect("run the program");
    assert_eq!(output.status.code(), Some(1));
    assert_same(
        &output.stderr,
        b"open: No such file or directory\n",
        "what the program says",
    );
}

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
        Self::new(programs::RING, &RING)
    }

    fn sensor() -> Self {
        Self::new(programs::SENSOR, &SENSOR)
    }

    fn editor() -> Self {
        Self::new(programs::EDITOR, &EDITOR)
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

fn ring_delivers_in_order() {
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

fn ring_wakes_a_sleeping_consumer() {
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

fn ring_wakes_a_sleeping_producer() {
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
fn ring_loses_no_wake() {
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
fn ring_makes_no_system_call_while_both_are_busy() {
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

fn ring_of_c_makes_no_system_call_while_there_is_room() {
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

fn sensor_readers_never_see_half_a_sample() {
    const SAMPLES: &str = "20000";
    let sensor = Example::sensor();
    for publisher in sensor.both(&["publish", SAMPLES]) {
        zeroed();
        let watchers = sensor.both(&["watch", SAMPLES]);
        run_together(watchers.into_iter().chain([publisher]));
    }
}

/// Step by step: half a sample is in the memory, and the reader does not take it for a whole one.
fn sensor_reader_meets_a_writer() {
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

fn sensor_makes_no_system_call() {
    zeroed();
    let sensor = sensor::Sensor::open().expect("open");
    fork(|_| {
        seccomp::allow_only(&[libc::SYS_exit_group]);
        let mut good = true;
        for number in 1..1000 {
            sensor.publish(sensor::sample(number));
            good &= sensor.try_read() == Some(sensor::sample(number));
        }
        end(if good { 0 } else { 1 })
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
fn editor_edits_in_place() {
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

fn editor_refuses_what_does_not_fit() {
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
fn editors_take_turns() {
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
