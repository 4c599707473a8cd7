// SPDX-License-Identifier: GPL-2.0
//! insmod and rmmod; and that a process leaves nothing behind, however it ends.

use std::{fs, os::unix::process::CommandExt, path::Path, process::Command};

use rust_mmapdev::{Access, Device, Error};
use rustix::{
    fs::{Mode, OFlags},
    io::{self, Errno},
    mm::MremapFlags,
    process::Signal,
    thread::futex,
};

use crate::{
    harness::{skip, tests},
    support::{
        assert_same,
        cgroup::Cgroup,
        errno,
        memory::{self, Advice, RW, SHARED, mmap, page, private, shared, table},
        module::{self, Log, fdinfo, fresh, initial, live_mappings, references},
        open, pread,
        proc::{free_pages, meminfo, settled, vmstat},
        process::{Child, Link, ROLES, Role, assert_dies_of, fork, start},
        pwrite,
    },
};

tests![
    load_logs_one_line_with_size_and_pages,
    unload_logs_nothing,
    one_page_by_default,
    pages_as_asked_for,
    pages_out_of_range_are_einval_with_the_range,
    pages_that_are_no_number_are_einval,
    a_refused_load_leaves_nothing,
    more_than_all_memory_is_enomem,
    running_out_of_memory_is_enomem,
    the_module_is_gpl_and_says_so,
    the_module_has_the_version_of_its_crates,
    loads_and_unloads_over_and_over,
    opens_race_with_unloads,
    exit_leaves_nothing,
    kill_leaves_nothing,
    kill_of_a_waiter_leaves_nothing,
    exec_leaves_nothing,
    vfork_and_exec_leave_the_parent_alone,
    many_children_leave_nothing,
    nothing_is_logged_in_use,
];

/// Lines of the module's own.
fn own(lines: Vec<String>) -> Vec<String> {
    lines
        .into_iter()
        .filter(|line| line.starts_with("rust_mmapdev: "))
        .collect()
}

/// Whether a line has `number` as a word of its own.
fn has_number(line: &str, number: u64) -> bool {
    line.split(|c: char| !c.is_ascii_digit())
        .any(|word| word == number.to_string())
}

/// And how much of it is in huge folios.
// Levels of messages, from <linux/kern_levels.h>.
const ERR: u32 = 3;
const INFO: u32 = 6;

/// All of them are errors.
#[track_caller]
fn errors(log: &Log) -> Vec<String> {
    let records = log.records();
    assert!(
        records.iter().all(|(level, _)| *level == ERR),
        "{records:?}"
    );
    records.into_iter().map(|(_, line)| line).collect()
}

fn load_logs_one_line_with_size_and_pages() {
    for pages in [1, 3, 2 * table() / page() + 1] {
        module::unload_if_loaded();
        let log = Log::from_now();
        module::load(&format!("buffer_pages={pages}")).expect("insmod");
        let records = log.records();
        let (size, huge) = (pages * page(), fdinfo(&open(OFlags::RDONLY), "huge_size"));
        let unit = table() >> 20;
        let line = format!(
            "rust_mmapdev: buffer of {size} bytes, page count {pages}, {huge} bytes in {unit} MiB folios"
        );
        assert_eq!(records, [(INFO, line)]);
    }
}

fn unload_logs_nothing() {
    fresh(1);
    let log = Log::from_now();
    module::unload().expect("rmmod");
    assert_eq!(log.lines(), [""; 0]);
}

fn one_page_by_default() {
    module::reload("");
    let device = Device::open(Access::Read).expect("open");
    assert_eq!(device.info().expect("INFO").size, page() as u64);
    assert_eq!(fdinfo(&device, "page_count"), 1);
}

fn pages_as_asked_for() {
    for pages in [1, 2, 7, 64, 1000] {
        module::reload(&format!("buffer_pages={pages}"));
        let device = Device::open(Access::ReadWrite).expect("open");
        assert_eq!(device.info().expect("INFO").size, (pages * page()) as u64);
        let last = (pages - 1) * page();
        let map = mmap(&device, last as u64, page(), RW, SHARED).expect("the last page");
        map.write(page() - 4, b"end.");
        assert_same(
            &pread((pages * page() - 4) as u64, 100),
            b"end.",
            "the buffer's end",
        );
        assert_eq!(
            errno(mmap(&device, last as u64, 2 * page(), RW, SHARED)),
            Errno::NXIO,
            "one page more"
        );
    }
}

/// The text of the error line of a load that is refused with EINVAL.
fn refused(parameter: &str) -> String {
    module::unload_if_loaded();
    let log = Log::from_now();
    assert_eq!(
        errno(module::load(parameter)),
        Errno::INVAL,
        "insmod {parameter}"
    );
    errors(&log).join("\n")
}

fn pages_out_of_range_are_einval_with_the_range() {
    for pages in [
        "0",
        "-1",
        "262145",
        "9223372036854775807",
        "-9223372036854775808",
    ] {
        let lines = refused(&format!("buffer_pages={pages}"));
        assert_eq!(lines.lines().count(), 1, "{lines}");
        assert!(lines.starts_with("rust_mmapdev: "), "{lines}");
        for part in ["buffer_pages", pages, "1 to 262144"] {
            assert!(lines.contains(part), "{part}: {lines}");
        }
    }
}

/// The kernel reads the number before the module sees it; its line names the parameter.
fn pages_that_are_no_number_are_einval() {
    for value in [
        "many",
        "",
        "1x",
        "1.5",
        "0x",
        "9223372036854775808",
        "99999999999999999999",
    ] {
        let lines = refused(&format!("buffer_pages={value}"));
        assert!(lines.contains("buffer_pages"), "{value:?}: {lines}");
    }
}

fn a_refused_load_leaves_nothing() {
    for _ in 0..10 {
        refused("buffer_pages=0");
        assert!(!module::is_loaded());
        assert!(!Path::new(Device::PATH).exists());
        assert!(!Path::new("/sys/class/misc/rust_mmapdev").exists());
    }
    module::load("").expect("insmod after refused ones");
}

/// A load that must fail with ENOMEM, and give back what it had.
fn assert_no_memory(pages: u64, load: impl FnOnce(&str) -> io::Result<()>) {
    let before = ["Cached", "Unevictable"].map(meminfo);
    let kills = vmstat("oom_kill");
    let log = Log::from_now();
    assert_eq!(errno(load(&format!("buffer_pages={pages}"))), Errno::NOMEM);
    let lines = errors(&log);
    assert_eq!(own(lines.clone()), lines, "nobody else has a say");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(has_number(&lines[0], pages), "{lines:?}");
    assert!(!module::is_loaded() && !Path::new(Device::PATH).exists());
    let after = ["Cached", "Unevictable"].map(meminfo);
    for (before, after) in before.into_iter().zip(after) {
        assert!(
            after < before + (1 << 20),
            "page cache grew from {before} to {after} bytes"
        );
    }
    assert_eq!(vmstat("oom_kill"), kills, "nobody is killed");
    module::load("").expect("insmod of a small one");
}

/// The kernel has no more pages, and the module does not insist.
fn more_than_all_memory_is_enomem() {
    const MOST: u64 = 262_144;
    module::unload_if_loaded();
    if meminfo("MemTotal") as u64 >= MOST * page() as u64 {
        skip("the VM has memory enough for the largest buffer");
    }
    assert_no_memory(MOST, module::load);
}

/// Memory runs out on the way: in a memory cgroup that has room for half of the buffer. Nobody
/// is killed for it.
fn running_out_of_memory_is_enomem() {
    const PAGES: u64 = 4096;
    module::unload_if_loaded();
    let cgroup = Cgroup::new("small");
    let limit = PAGES * page() as u64 / 2;
    cgroup.set("memory.max", &limit.to_string());
    let load = |parameters: &str| {
        let child = fork(|link| {
            cgroup.enter();
            link.send(
                module::load(parameters).map_or_else(|err| err.raw_os_error() as u64, |()| 0),
            );
        });
        let result = child.link.receive();
        child.join();
        match result {
            0 => Ok(()),
            error => Err(Errno::from_raw_os_error(error as i32)),
        }
    };
    assert_no_memory(PAGES, load);
    // What was allocated, and not charged any more, is free again.
    module::unload_if_loaded();
    let before = settled(free_pages, |_| true);
    for _ in 0..8 {
        assert_eq!(errno(load(&format!("buffer_pages={PAGES}"))), Errno::NOMEM);
    }
    let least = before - PAGES as i64 / 2;
    let after = settled(free_pages, |after| *after > least);
    assert!(after > least, "{before} pages were free, and now {after}");
    assert_eq!(cgroup.oom_kills(), 0, "nobody is killed");
}

fn the_module_is_gpl_and_says_so() {
    fresh(1);
    let taint = fs::read_to_string("/sys/module/rust_mmapdev/taint").expect("taint");
    assert!(!taint.contains('P'), "not proprietary: {taint}");
    let image = fs::read(module::FILE).expect(module::FILE);
    for text in [
        "license=GPL",
        "description=A buffer of kernel memory to mmap\0",
        "parm=buffer_pages:Size of the buffer in pages, 1 to 262144 (default 1)\0",
    ] {
        let found = image
            .windows(text.len())
            .any(|window| window == text.as_bytes());
        assert!(found, "modinfo has {text}");
    }
}

fn the_module_has_the_version_of_its_crates() {
    fresh(1);
    let version = fs::read_to_string("/sys/module/rust_mmapdev/version").expect("version");
    assert_eq!(version.trim_end(), env!("CARGO_PKG_VERSION"));
}

/// 16 rounds of a 4 MiB buffer: a leaked one would show.
fn loads_and_unloads_over_and_over() {
    const PAGES: usize = 1024;
    module::unload_if_loaded();
    let before = meminfo("MemFree");
    for round in 0..16_u8 {
        module::load(&format!("buffer_pages={PAGES}")).expect("insmod");
        {
            let map = shared(open(OFlags::RDWR), PAGES);
            assert_same(&map.read(0, page()), &initial(page()), "a new buffer");
            map.write((PAGES - 1) * page(), &[round]);
        }
        module::unload().expect("rmmod");
        assert!(!Path::new(Device::PATH).exists());
    }
    let lost = before - meminfo("MemFree");
    let leaked = (16 * PAGES * page()) as i64;
    assert!(lost < leaked / 4, "{lost} bytes of free memory are gone");
}

/// Whoever comes between rmmod and insmod gets an error or a device that works.
fn opens_race_with_unloads() {
    const ROUNDS: u64 = 10;
    module::reload("");
    let child = fork(|_| {
        loop {
            match rustix::fs::open(Device::PATH, OFlags::RDWR, Mode::empty()) {
                Ok(fd) => {
                    let map = shared(&fd, 1);
                    drop(fd);
                    assert_same(&map.read(0, 4), b"rust", "an open device");
                }
                Err(Errno::NOENT | Errno::NODEV | Errno::NXIO) => {}
                Err(err) => panic!("open beside insmod and rmmod: {err}"),
            }
        }
    });
    let mut unloads = 0;
    while unloads < ROUNDS {
        match module::unload() {
            Ok(()) => {
                unloads += 1;
                module::load("").expect("insmod");
            }
            Err(Errno::AGAIN) => {}
            Err(err) => panic!("rmmod: {err}"),
        }
    }
    child.kill();
}

/// Opens, maps in both ways, writes; says so; and then waits for the end.
fn busy(link: &Link) -> ! {
    let device = Device::open(Access::ReadWrite).expect("open");
    let (map, copy) = (shared(&device, 2), private(&device, 2));
    map.write(page(), b"written");
    copy.write(0, b"copied");
    map.advise_part(0, page(), Advice::LinuxDontNeed)
        .expect("madvise");
    link.signal();
    link.wait();
    std::process::exit(0)
}

fn assert_nothing_left() {
    assert_eq!(live_mappings(), 0);
    assert_eq!(references(), 0);
}

fn exit_leaves_nothing() {
    fresh(4);
    let child = fork(|link| busy(link));
    child.link.wait();
    assert_eq!(live_mappings(), 2);
    child.link.signal();
    child.join();
    assert_nothing_left();
    assert_same(&pread(page() as u64, 7), b"written", "what it wrote");
}

fn kill_leaves_nothing() {
    fresh(4);
    for _ in 0..20 {
        let child = fork(|link| busy(link));
        child.link.wait();
        child.kill();
        assert_nothing_left();
    }
}

fn kill_of_a_waiter_leaves_nothing() {
    fresh(1);
    let child = fork(|link| {
        let map = shared(open(OFlags::RDWR), 1);
        link.signal();
        let _ = futex::wait(map.u32(128), futex::Flags::empty(), 0, None);
    });
    child.link.wait();
    child.kill();
    assert_nothing_left();
    let map = shared(open(OFlags::RDWR), 1);
    assert_eq!(futex::wake(map.u32(128), futex::Flags::empty(), 1), Ok(0));
}

/// A program that uses nothing of the device.
#[linkme::distributed_slice(ROLES)]
static BYSTANDER: Role = Role {
    name: "bystander",
    body: bystander,
};

fn bystander(link: &Link, _args: &[String]) {
    link.signal();
    link.wait();
}

/// Replaces the forked process with the bystander, on the same link.
fn become_bystander(link: &Link) -> ! {
    let stdin = io::dup(link).expect("dup");
    let error = Command::new("/proc/self/exe")
        .args(["--role", BYSTANDER.name])
        .stdin(stdin)
        .exec();
    panic!("exec: {error}")
}

fn exec_leaves_nothing() {
    fresh(4);
    let child = fork(|link| {
        let device = Device::open(Access::ReadWrite).expect("open");
        let map = shared(&device, 2);
        map.write(0, b"before exec");
        link.signal();
        link.wait();
        become_bystander(link)
    });
    child.link.wait();
    assert_eq!((live_mappings(), references()), (1, 1));
    child.link.signal();
    child.link.wait();
    assert_nothing_left();
    child.link.signal();
    child.join();
    assert_same(&pread(0, 11), b"before exec", "what it wrote");
}

fn vfork_and_exec_leave_the_parent_alone() {
    let device = fresh(1);
    let (map, copy) = (shared(&device, 1), private(&device, 1));
    copy.write(0, b"mine");
    let child: Child = start(&BYSTANDER, &[]);
    child.link.wait();
    assert_eq!(
        live_mappings(),
        2,
        "a program that was started has none of the parent's"
    );
    assert_same(
        &map.bytes(),
        &initial(page()),
        "the parent's shared mapping",
    );
    assert_same(&copy.read(0, 4), b"mine", "the parent's private mapping");
}

fn many_children_leave_nothing() {
    let device = fresh(1);
    let (map, copy) = (shared(&device, 1), private(&device, 1));
    copy.write(0, b"mine");
    for i in 0..200_u32 {
        let child = fork(|_| {
            copy.write(0, b"his");
            map.u32(128)
                .fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        });
        if i % 2 == 0 {
            child.join()
        } else {
            drop(child)
        }
    }
    assert_eq!(live_mappings(), 2);
    assert_same(&copy.read(0, 4), b"mine", "the parent's private page");
}

/// An open, a mapping, a fault, an error: none of them is worth a line in the log.
fn nothing_is_logged_in_use() {
    let device = fresh(4);
    let log = Log::from_now();
    pwrite(0, b"written");
    pread(0, page());
    errno(io::pwrite(&device, b"x", 4 * page() as u64));
    errno(io::pread(open(OFlags::WRONLY), &mut [0; 1], 0));
    let mut map = shared(&device, 4);
    let copy = private(&device, 4);
    copy.write(0, b"copied");
    map.advise(Advice::LinuxDontNeed).expect("madvise");
    map.bytes();
    map.remap(5 * page(), MremapFlags::MAYMOVE).expect("grow");
    assert_dies_of(Signal::BUS, || drop(map.read(4 * page(), 1)));
    errno(map.protect(memory::MprotectFlags::EXEC));
    errno(mmap(&device, 0, 5 * page(), RW, SHARED));
    errno(mmap(&device, 0, page(), RW | memory::EXEC, SHARED));
    fork(|_| copy.write(page(), b"copied")).join();
    assert!(matches!(
        Device::open(Access::Read).and_then(|d| d.clear()),
        Err(Error::Clear(_))
    ));
    device.clear().expect("CLEAR");
    assert_eq!(module::unload(), Err(Errno::AGAIN));
    let lines = log.lines();
    assert!(lines.is_empty(), "{lines:?}");
}
