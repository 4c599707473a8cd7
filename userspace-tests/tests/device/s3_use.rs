// SPDX-License-Identifier: GPL-2.0
//! The guide's §3: the program, and every parameter of mmap(2) with every kind of value.

use std::os::fd::{AsRawFd, BorrowedFd};

use rust_mmapdev::Device;
use rustix::{
    fs::{Mode, OFlags},
    io::{self, Errno},
    mm::munlock,
    pipe::pipe,
    process::Signal,
};

use crate::{
    harness::tests,
    support::{
        assert_same, errno,
        memory::{
            self, Advice, EXEC, Map, MapFlags, PRIVATE, ProtFlags, READ, RW, SHARED, WRITE, mmap,
            mmap_at, page, shared,
        },
        module::{self, fresh, initial, live_mappings},
        open, pattern, pread,
        proc::{MLOCKED, page_flags, settle_lists, status_kib},
        process::{Program, assert_dies_of, become_nobody, fork},
        pwrite,
    },
};

tests![
    s3_1_the_program,
    s3_1_the_program_sees_what_others_wrote,
    s3_1_the_program_without_the_module,
    s3_2_addr_null_lets_the_kernel_choose,
    s3_2_addr_as_a_hint,
    s3_2_addr_as_a_hint_where_something_is,
    s3_2_addr_with_map_fixed,
    s3_2_addr_with_map_fixed_where_something_is,
    s3_2_addr_with_map_fixed_noreplace,
    s3_2_addr_that_no_process_may_have,
    s3_2_length,
    s3_2_length_past_the_end,
    s3_2_prot_none,
    s3_2_prot_read,
    s3_2_prot_write,
    s3_2_prot_read_and_write,
    s3_2_prot_exec_is_refused,
    s3_2_flags_shared_and_private,
    s3_2_flags_shared_validate,
    s3_2_flags_populate,
    s3_2_flags_locked,
    s3_2_flags_noreserve,
    s3_2_flags_without_a_meaning_here,
    s3_2_flags_32bit,
    s3_2_flags_that_are_refused,
    s3_2_flags_anonymous_is_not_the_device,
    s3_2_fd_must_be_open,
    s3_2_fd_must_be_of_the_device,
    s3_2_fd_access_mode,
    s3_2_fd_may_be_closed_afterwards,
    s3_2_offset_selects_the_page,
    s3_2_offset_unaligned,
    s3_2_offset_past_the_end,
    s3_2_offset_overflowing,
];

const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/guide"));

fn s3_1_the_program() {
    module::reload("");
    let output = Program::new(PROGRAM).run(&[]);
    let expected = format!("Mapped content: {}\n", module::TEXT);
    assert_same(
        &output.stdout,
        expected.as_bytes(),
        "what the program prints",
    );
}

fn s3_1_the_program_sees_what_others_wrote() {
    let device = fresh(1);
    shared(&device, 1).write(0, b"from another process\0");
    let output = Program::new(PROGRAM).run(&[]);
    let expected = b"Mapped content: from another process\n";
    assert_same(&output.stdout, expected, "what the program prints");
}

fn s3_1_the_program_without_the_module() {
    module::unload_if_loaded();
    let output = Program::new(PROGRAM)
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

const NONE: ProtFlags = ProtFlags::empty();

/// The initial content is there, so the mapping is one of the device.
#[track_caller]
fn shows_the_device(map: &Map) {
    assert_same(&map.read(0, page()), &initial(page()), "the mapping");
}

/// Addresses of pages that are free, at least for a moment.
fn free(pages: usize) -> usize {
    memory::anonymous(pages, NONE, PRIVATE).at(0) as usize
}

fn s3_2_addr_null_lets_the_kernel_choose() {
    let device = fresh(1);
    let maps = [(); 10].map(|()| mmap_at(0, &device, page(), RW, SHARED).expect("mmap"));
    for (i, map) in maps.iter().enumerate() {
        assert_eq!(
            map.at(0) as usize % page(),
            0,
            "a multiple of the page size"
        );
        assert!(!map.at(0).is_null());
        assert!(maps[..i].iter().all(|other| other.at(0) != map.at(0)));
        shows_the_device(map);
    }
}

fn s3_2_addr_as_a_hint() {
    let device = fresh(1);
    let wish = free(4);
    for (asked, got) in [(wish, wish), (wish + 2 * page() - 1, wish + page())] {
        let map = mmap_at(asked, &device, page(), RW, SHARED).expect("mmap");
        // Linux takes what is free, from the start of the page on.
        assert_eq!(map.at(0) as usize, got);
        shows_the_device(&map);
    }
}

fn s3_2_addr_as_a_hint_where_something_is() {
    let device = fresh(1);
    let taken = memory::anonymous(1, RW, PRIVATE);
    taken.write(0, b"still mine");
    let map = mmap_at(taken.at(0) as usize, &device, page(), RW, SHARED).expect("mmap");
    assert_ne!(map.at(0), taken.at(0));
    shows_the_device(&map);
    assert_same(&taken.read(0, 10), b"still mine", "what was there");
}

fn s3_2_addr_with_map_fixed() {
    let device = fresh(1);
    let wish = free(1);
    let map = mmap_at(wish, &device, page(), RW, SHARED | MapFlags::FIXED).expect("mmap");
    assert_eq!(map.at(0) as usize, wish);
    shows_the_device(&map);
    drop(map);
    let odd = mmap_at(wish + 1, &device, page(), RW, SHARED | MapFlags::FIXED);
    assert_eq!(errno(odd), Errno::INVAL, "not a multiple of the page size");
}

/// What was there is gone; on a refusal of the device's the place is left empty or as it was, as
/// mmap(2) says, but never half the device's.
fn s3_2_addr_with_map_fixed_where_something_is() {
    let device = fresh(1);
    let taken = memory::anonymous(3, RW, PRIVATE);
    taken.write(0, &pattern(1, 3 * page()));
    let middle = taken.at(page()) as usize;
    let map = mmap_at(middle, &device, page(), RW, SHARED | MapFlags::FIXED).expect("mmap");
    shows_the_device(&map);
    let bytes = pattern(1, 3 * page());
    assert_same(&taken.read(0, page()), &bytes[..page()], "the page before");
    assert_same(
        &taken.read(2 * page(), page()),
        &bytes[2 * page()..],
        "the page behind",
    );
    let too_long = taken.fixed(&device, 0, RW, SHARED);
    assert_eq!(errno(too_long), Errno::NXIO);
    drop(map);
    assert_eq!(live_mappings(), 0);
}

fn s3_2_addr_with_map_fixed_noreplace() {
    let device = fresh(1);
    let flags = SHARED | MapFlags::FIXED_NOREPLACE;
    let wish = free(1);
    let map = mmap_at(wish, &device, page(), RW, flags).expect("a free place");
    assert_eq!(map.at(0) as usize, wish);
    pwrite(0, b"as before");
    let again = mmap_at(wish, &device, page(), RW, flags);
    assert_eq!(errno(again), Errno::EXIST);
    assert_same(&map.read(0, 9), b"as before", "what was there");
    assert_eq!(live_mappings(), 1);
}

fn s3_2_addr_that_no_process_may_have() {
    let device = fresh(1);
    let fixed = SHARED | MapFlags::FIXED;
    // The last page of all, which is the kernel's.
    let kernels = usize::MAX - page() + 1;
    assert_eq!(
        errno(mmap_at(kernels, &device, page(), RW, fixed)),
        Errno::NOMEM
    );
    let map = mmap_at(kernels, &device, page(), RW, SHARED).expect("a hint only");
    shows_the_device(&map);
    // Below vm.mmap_min_addr, where a null pointer would find it.
    fork(|_| {
        become_nobody();
        let null = mmap_at(0, &device, page(), RW, fixed);
        assert_eq!(errno(null), Errno::PERM);
    })
    .join();
}

/// "Must be a multiple of the page size": Linux rounds up; 0 alone is refused.
fn s3_2_length() {
    let device = fresh(2);
    let bytes = pattern(2, 2 * page());
    pwrite(0, &bytes);
    assert_eq!(errno(mmap(&device, 0, 0, RW, SHARED)), Errno::INVAL);
    for (len, pages) in [
        (1, 1),
        (page() - 1, 1),
        (page(), 1),
        (page() + 1, 2),
        (2 * page(), 2),
    ] {
        let map = mmap(&device, 0, len, RW, SHARED).expect("mmap");
        assert_eq!(map.smaps_kib("Size"), pages * page() / 1024, "length {len}");
        let mut found = vec![0; pages * page()];
        // SAFETY: the mapping reaches to the end of its last page.
        unsafe { rust_mmapdev::volatile::read(map.at(0), &mut found) };
        assert_same(&found, &bytes[..pages * page()], "all of the pages");
    }
}

/// A file's mapping may be longer than the file, and dies of SIGBUS there. This one may not.
fn s3_2_length_past_the_end() {
    let device = fresh(2);
    for (len, flags) in [
        (2 * page() + 1, SHARED),
        (2 * page() + 1, PRIVATE),
        (3 * page(), SHARED),
        (3 * page(), PRIVATE),
        (1 << 40, SHARED),
    ] {
        let refused = mmap(&device, 0, len, RW, flags);
        assert_eq!(errno(refused), Errno::NXIO, "{len} {flags:?}");
    }
    assert_eq!(
        errno(mmap(&device, 0, usize::MAX, RW, SHARED)),
        Errno::NOMEM
    );
    assert_eq!(live_mappings(), 0);
}

/// Loads and stores in children, which tell by how they end; `writable` ones change the buffer.
fn allows(prot: ProtFlags, readable: bool, writable: bool) {
    let device = fresh(1);
    for flags in [SHARED, PRIVATE] {
        let map = mmap(&device, 0, page(), prot, flags).expect("mmap");
        let load = || drop(map.read(0, 1));
        let store = || map.write(0, b"R");
        if readable {
            load();
            fork(|_| load()).join();
        } else {
            assert_dies_of(Signal::SEGV, load);
        }
        if writable {
            fork(|_| store()).join();
            let found = if flags == SHARED { b"R" } else { b"r" };
            assert_same(&pread(0, 1), found, "the buffer");
            pwrite(0, b"r");
        } else {
            assert_dies_of(Signal::SEGV, store);
            assert_same(&pread(0, 1), b"r", "the buffer");
        }
        let smaps = map.smaps();
        let flags = smaps.lines().last().unwrap_or_default();
        for (flag, expected) in [(" rd", readable), (" wr", writable), (" ex", false)] {
            assert_eq!(flags.contains(flag), expected, "{flag}: {flags}");
        }
        assert!(!flags.contains(" me"), "never executable: {flags}");
    }
}

fn s3_2_prot_none() {
    allows(NONE, false, false);
}

fn s3_2_prot_read() {
    allows(READ, true, false);
}

/// No processor of this kind has pages to write to that cannot be read.
fn s3_2_prot_write() {
    let device = fresh(1);
    let map = mmap(&device, 0, page(), WRITE, SHARED).expect("mmap");
    map.write(0, b"written");
    assert_same(&pread(0, 7), b"written", "the buffer");
    assert!(map.smaps().contains(" -w-s "), "{}", map.smaps());
}

fn s3_2_prot_read_and_write() {
    allows(RW, true, true);
}

/// Kernel memory that every process may write to is not to become code.
fn s3_2_prot_exec_is_refused() {
    let device = fresh(1);
    for prot in [EXEC, READ | EXEC, WRITE | EXEC, RW | EXEC] {
        for flags in [SHARED, PRIVATE, MapFlags::SHARED_VALIDATE] {
            let refused = mmap(&device, 0, page(), prot, flags);
            assert_eq!(errno(refused), Errno::PERM, "{prot:?} {flags:?}");
        }
    }
}

fn s3_2_flags_shared_and_private() {
    let device = fresh(1);
    let (all, own) = (shared(&device, 1), mmap(&device, 0, page(), RW, PRIVATE));
    let own = own.expect("mmap");
    assert!(all.smaps().contains(" rw-s ") && own.smaps().contains(" rw-p "));
    all.write(0, b"for all");
    assert_same(&pread(0, 7), b"for all", "the buffer");
    own.write(0, b"for me!");
    assert_same(&pread(0, 7), b"for all", "the buffer");
}

fn s3_2_flags_shared_validate() {
    let device = fresh(1);
    let validate = MapFlags::SHARED_VALIDATE;
    let map = mmap(&device, 0, page(), RW, validate).expect("mmap");
    map.write(0, b"shared");
    assert_same(&pread(0, 6), b"shared", "the buffer");
    // A flag that does not exist: this one says so, MAP_SHARED looks away.
    let unknown = MapFlags::from_bits_retain(1 << 25);
    let refused = mmap(&device, 0, page(), RW, validate | unknown);
    assert_eq!(errno(refused), Errno::OPNOTSUPP);
    mmap(&device, 0, page(), RW, SHARED | unknown).expect("MAP_SHARED");
    // Only memory that outlives the power has this.
    let refused = mmap(&device, 0, page(), RW, validate | MapFlags::SYNC);
    assert_eq!(errno(refused), Errno::OPNOTSUPP);
}

/// Every page is in place when mmap returns; a private one that may be written to is copied ahead.
fn s3_2_flags_populate() {
    let device = fresh(4);
    let map = shared(&device, 4);
    map.bytes();
    let kernels = map.frames();
    assert!(kernels.iter().all(Option::is_some), "{kernels:?}");
    let map = mmap(&device, 0, 4 * page(), RW, SHARED | MapFlags::POPULATE).expect("mmap");
    assert_eq!(map.frames(), kernels);
    let map = mmap(&device, 0, 4 * page(), READ, PRIVATE | MapFlags::POPULATE).expect("mmap");
    assert_eq!(map.frames(), kernels);
    let map = mmap(&device, 0, 4 * page(), RW, PRIVATE | MapFlags::POPULATE).expect("mmap");
    for (own, kernels) in map.frames().iter().zip(&kernels) {
        assert!(own.is_some() && own != kernels, "a copy of each page");
    }
    map.bytes();
}

/// The pages are there when mmap returns, count as locked, and stay in the page table until they
/// are unlocked; private ones are copied ahead.
fn s3_2_flags_locked() {
    for pages in [1, 4] {
        let device = fresh(pages as u64);
        let all = shared(&device, pages);
        all.bytes();
        for flags in [SHARED, PRIVATE] {
            let len = pages * page();
            let map = mmap(&device, 0, len, RW, flags | MapFlags::LOCKED).expect("mmap");
            let frames = map.frames();
            assert!(frames.iter().all(Option::is_some), "{flags:?} {pages}");
            let same = frames.iter().zip(all.frames()).filter(|(a, b)| *a == b);
            let expected = if flags == SHARED { pages } else { 0 };
            assert_eq!(same.count(), expected, "{flags:?} {pages}");
            settle_lists();
            for frame in frames.into_iter().flatten() {
                assert_ne!(page_flags(frame) & MLOCKED, 0, "{flags:?} {pages}");
            }
            assert_eq!(status_kib("VmLck"), len / 1024, "{flags:?} {pages}");
            let dropped = map.advise(Advice::LinuxDontNeed);
            assert_eq!(errno(dropped), Errno::INVAL, "{flags:?} {pages}");
            assert_same(&map.bytes(), &initial(len), "the mapping");
            // SAFETY: unlocking changes nothing about what the memory holds.
            unsafe { munlock(map.at(0).cast(), len) }.expect("munlock");
            assert_eq!(status_kib("VmLck"), 0, "{flags:?} {pages}");
            map.advise(Advice::LinuxDontNeed).expect("madvise");
            assert_same(&map.bytes(), &initial(len), "the mapping");
        }
    }
}

/// Nothing is reserved for shared pages; a private mapping's copies are not counted ahead.
fn s3_2_flags_noreserve() {
    let device = fresh(4);
    let accounted = |map: &Map| {
        map.smaps()
            .lines()
            .last()
            .unwrap_or_default()
            .contains(" ac")
    };
    let reserve = mmap(&device, 0, 4 * page(), RW, PRIVATE).expect("mmap");
    assert!(accounted(&reserve), "a private writable mapping reserves");
    for flags in [SHARED, PRIVATE] {
        let map = mmap(&device, 0, 4 * page(), RW, flags | MapFlags::NORESERVE).expect("mmap");
        assert!(!accounted(&map), "{flags:?}");
        map.write(0, &pattern(3, 4 * page()));
    }
}

fn s3_2_flags_without_a_meaning_here() {
    let device = fresh(1);
    for (name, flag) in [
        ("MAP_DENYWRITE", libc::MAP_DENYWRITE),
        ("MAP_EXECUTABLE", libc::MAP_EXECUTABLE),
        ("MAP_NONBLOCK", libc::MAP_NONBLOCK),
        ("MAP_STACK", libc::MAP_STACK),
    ] {
        for flags in [SHARED, PRIVATE] {
            let flags = flags | MapFlags::from_bits_retain(flag as u32);
            let map = mmap(&device, 0, page(), RW, flags);
            shows_the_device(&map.unwrap_or_else(|err| panic!("{name}: {err}")));
        }
    }
}

fn s3_2_flags_32bit() {
    #[cfg(target_arch = "x86_64")]
    {
        let device = fresh(1);
        let flag = MapFlags::from_bits_retain(libc::MAP_32BIT as u32);
        let map = mmap(&device, 0, page(), RW, SHARED | flag).expect("mmap");
        assert!((map.at(0) as usize) < 1 << 31, "{map:?}");
        shows_the_device(&map);
    }
    #[cfg(not(target_arch = "x86_64"))]
    crate::harness::skip("MAP_32BIT is there on x86 only");
}

fn s3_2_flags_that_are_refused() {
    let device = fresh(1);
    let raw = |flags: i32| MapFlags::from_bits_retain(flags as u32);
    for (name, flags, expected) in [
        ("none of the types", 0, Errno::INVAL),
        ("MAP_DROPPABLE", 0x08, Errno::INVAL),
        ("an unknown type", 0x0f, Errno::INVAL),
        (
            "MAP_SHARED of huge pages",
            libc::MAP_SHARED | libc::MAP_HUGETLB,
            Errno::INVAL,
        ),
        (
            "MAP_PRIVATE of huge pages",
            libc::MAP_PRIVATE | libc::MAP_HUGETLB,
            Errno::INVAL,
        ),
        (
            "a growing MAP_SHARED",
            libc::MAP_SHARED | libc::MAP_GROWSDOWN,
            Errno::INVAL,
        ),
        (
            "a growing MAP_PRIVATE",
            libc::MAP_PRIVATE | libc::MAP_GROWSDOWN,
            Errno::INVAL,
        ),
    ] {
        let refused = mmap(&device, 0, page(), RW, raw(flags));
        assert_eq!(errno(refused), expected, "{name}");
    }
    assert_eq!(live_mappings(), 0);
}

fn s3_2_flags_anonymous_is_not_the_device() {
    let device = fresh(1);
    let flags = SHARED | MapFlags::from_bits_retain(libc::MAP_ANONYMOUS as u32);
    let map = mmap(&device, 0, page(), RW, flags).expect("mmap");
    assert_same(&map.bytes(), &vec![0; page()], "fresh memory");
    assert_eq!(live_mappings(), 0);
}

fn s3_2_fd_must_be_open() {
    let device = fresh(1);
    let number = device.as_raw_fd();
    drop(device);
    // The kernel is asked about each of these numbers, and must not know it.
    for number in [number, 1_000_000] {
        // SAFETY: nothing is done with the descriptor but to hand its number to the kernel.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        assert_eq!(
            errno(mmap(fd, 0, page(), RW, SHARED)),
            Errno::BADF,
            "{number}"
        );
    }
    let path = rustix::fs::open(Device::PATH, OFlags::PATH, Mode::empty()).expect("O_PATH");
    assert_eq!(errno(mmap(&path, 0, page(), READ, SHARED)), Errno::BADF);
}

fn s3_2_fd_must_be_of_the_device() {
    fresh(1);
    let (receiver, _sender) = pipe().expect("pipe");
    assert_eq!(
        errno(mmap(&receiver, 0, page(), READ, SHARED)),
        Errno::NODEV
    );
    let directory = rustix::fs::open("/dev", OFlags::RDONLY, Mode::empty()).expect("open");
    assert_eq!(
        errno(mmap(&directory, 0, page(), READ, SHARED)),
        Errno::NODEV
    );
    let device = open(OFlags::RDWR);
    shows_the_device(&shared(io::dup(&device).expect("dup"), 1));
}

fn s3_2_fd_access_mode() {
    fresh(1);
    let cases = [
        (OFlags::RDONLY, SHARED, READ, true),
        (OFlags::RDONLY, SHARED, RW, false),
        (OFlags::RDONLY, PRIVATE, RW, true),
        (OFlags::WRONLY, SHARED, WRITE, false),
        (OFlags::WRONLY, PRIVATE, READ, false),
        (OFlags::RDWR, SHARED, RW, true),
        (OFlags::RDWR, PRIVATE, RW, true),
    ];
    for (mode, flags, prot, allowed) in cases {
        let result = mmap(open(mode), 0, page(), prot, flags).map(drop);
        let expected = if allowed { Ok(()) } else { Err(Errno::ACCESS) };
        assert_eq!(result, expected, "{mode:?} {flags:?} {prot:?}");
    }
}

fn s3_2_fd_may_be_closed_afterwards() {
    let device = fresh(1);
    let map = shared(&device, 1);
    drop(device);
    map.advise(Advice::LinuxDontNeed).expect("madvise");
    shows_the_device(&map);
    map.write(0, b"still the kernel's");
    assert_same(&pread(0, 18), b"still the kernel's", "the buffer");
}

fn s3_2_offset_selects_the_page() {
    let device = fresh(4);
    let bytes = pattern(4, 4 * page());
    pwrite(0, &bytes);
    for first in 0..4 {
        let at = first * page();
        let map = mmap(&device, at as u64, page(), RW, SHARED).expect("mmap");
        assert_same(&map.bytes(), &bytes[at..at + page()], "the mapping");
        map.advise(Advice::LinuxDontNeed).expect("madvise");
        assert_same(&map.bytes(), &bytes[at..at + page()], "faulted in");
    }
}

fn s3_2_offset_unaligned() {
    let device = fresh(2);
    for offset in [1, 512, page() - 1, page() + 1] {
        let refused = mmap(&device, offset as u64, 1, READ, SHARED);
        assert_eq!(errno(refused), Errno::INVAL, "{offset}");
    }
}

fn s3_2_offset_past_the_end() {
    let device = fresh(2);
    for first in [2, 3, 1 << 20, (1 << 50) / page()] {
        let refused = mmap(&device, (first * page()) as u64, 1, READ, SHARED);
        assert_eq!(errno(refused), Errno::NXIO, "page {first}");
    }
    let spilling = mmap(&device, page() as u64, page() + 1, READ, SHARED);
    assert_eq!(errno(spilling), Errno::NXIO);
    mmap(&device, page() as u64, page(), READ, SHARED).expect("the last page");
}

/// In the kernel's arithmetic of pages, the first is its own check, the others the device's.
fn s3_2_offset_overflowing() {
    let device = fresh(1);
    let last = u64::MAX - (page() as u64 - 1);
    for (offset, len, expected) in [
        (last, page(), Errno::OVERFLOW),
        (last, 2 * page(), Errno::OVERFLOW),
        (last - page() as u64, page(), Errno::NXIO),
        (1 << 63, page(), Errno::NXIO),
    ] {
        let refused = mmap(&device, offset, len, RW, SHARED);
        assert_eq!(errno(refused), expected, "{len} at {offset:x}");
    }
}
