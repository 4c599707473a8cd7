// SPDX-License-Identifier: GPL-2.0
//! mmap(2), every parameter with every kind of value, and munmap(2).

use std::{
    fs,
    mem::ManuallyDrop,
    os::fd::{AsRawFd, BorrowedFd},
    path::Path,
};

use rust_mmapdev::Device;
use rustix::{
    fs::{Mode, OFlags, StatVfsMountFlags, statvfs},
    io::{self, Errno},
    mount::{MountFlags, UnmountFlags, mount_bind, mount_remount, unmount},
    pipe::pipe,
    process::{Resource, Rlimit, Signal, getrlimit, setrlimit},
};

use crate::{
    harness::tests,
    support::{
        assert_same, errno,
        memory::{
            self, Advice, EXEC, Map, MapFlags, MprotectFlags, PRIVATE, ProtFlags, READ, RW, SHARED,
            WRITE, mmap, mmap_at, page, shared,
        },
        module::{fresh, initial, live_mappings},
        open, pattern, pread,
        proc::{MLOCKED, page_flags, settle_lists, status_kib},
        process::{assert_dies_of, become_nobody, fork},
        pwrite,
        signal::{BUS_ADRERR, SEGV_ACCERR, SEGV_MAPERR, assert_segv, assert_signal, load, store},
        tmpfs_file,
    },
};

tests![
    creates_a_region,
    addr_null_lets_the_kernel_choose,
    addr_as_a_hint,
    addr_as_a_hint_where_something_is,
    addr_with_map_fixed,
    addr_with_map_fixed_where_something_is,
    addr_with_map_fixed_noreplace,
    addr_that_no_process_may_have,
    length_is_rounded_up,
    prot_none,
    prot_read,
    prot_write,
    prot_read_and_write,
    flags_shared_and_private,
    flags_populate,
    flags_locked,
    flags_noreserve,
    flags_without_a_meaning_here,
    flags_32bit,
    flags_that_are_refused,
    flags_anonymous_is_not_the_device,
    fd_must_be_open,
    fd_must_be_of_the_device,
    fd_may_be_closed_afterwards,
    shared_for_reading_through_a_read_only_descriptor,
    shared_for_writing_through_a_read_only_descriptor_is_eacces,
    private_for_writing_through_a_read_only_descriptor,
    any_mapping_through_a_write_only_descriptor_is_eacces,
    offset_selects_the_page,
    unaligned_offset_is_einval,
    past_the_end_is_enxio,
    past_the_end_beside_a_neighbour_where_dev_is_noexec,
    huge_lengths_and_offsets_are_refused,
    a_refused_mapping_leaves_nothing,
    exec_is_eperm,
    shared_validate_knows_its_flags,
    many_mappings_of_one_page,
    address_space_limit_is_enomem,
    maps_and_smaps_know_the_device,
    the_vma_is_an_ordinary_one,
    munmap_ends_access,
    munmap_of_a_part_keeps_the_rest,
];

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

fn creates_a_region() {
    let device = fresh(4);
    let regions = || {
        let maps = fs::read_to_string("/proc/self/maps").expect("maps");
        maps.matches(Device::PATH).count()
    };
    assert_eq!(regions(), 0);
    let before = status_kib("VmSize");
    let map = shared(&device, 4);
    assert_eq!(status_kib("VmSize") - before, 4 * page() / 1024);
    assert_eq!(regions(), 1);
    drop(map);
    assert_eq!(status_kib("VmSize"), before);
    assert_eq!(regions(), 0);
}

fn addr_null_lets_the_kernel_choose() {
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

fn addr_as_a_hint() {
    let device = fresh(1);
    let wish = free(4);
    for (asked, got) in [(wish, wish), (wish + 2 * page() - 1, wish + page())] {
        let map = mmap_at(asked, &device, page(), RW, SHARED).expect("mmap");
        // Linux takes what is free, from the start of the page on.
        assert_eq!(map.at(0) as usize, got);
        shows_the_device(&map);
    }
}

fn addr_as_a_hint_where_something_is() {
    let device = fresh(1);
    let taken = memory::anonymous(1, RW, PRIVATE);
    taken.write(0, b"still mine");
    let map = mmap_at(taken.at(0) as usize, &device, page(), RW, SHARED).expect("mmap");
    assert_ne!(map.at(0), taken.at(0));
    shows_the_device(&map);
    assert_same(&taken.read(0, 10), b"still mine", "what was there");
}

fn addr_with_map_fixed() {
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
fn addr_with_map_fixed_where_something_is() {
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
    map.fixed(&device, 0, RW, PRIVATE)
        .expect("over the device's");
    map.write(0, b"mine");
    assert_same(
        &pread(0, page()),
        &initial(page()),
        "the buffer under the private mapping",
    );
    assert_eq!(live_mappings(), 1, "the second replaced the first");
    let too_long = taken.fixed(&device, 0, RW, SHARED);
    assert_eq!(errno(too_long), Errno::NXIO);
    drop(map);
    assert_eq!(live_mappings(), 0);
}

fn addr_with_map_fixed_noreplace() {
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

fn addr_that_no_process_may_have() {
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
fn length_is_rounded_up() {
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
        unsafe { memory::copy_out(map.at(0), &mut found) };
        assert_same(&found, &bytes[..pages * page()], "all of the pages");
        let last = pages * page() - 1;
        // SAFETY: as above.
        unsafe { map.at(0).wrapping_add(last).write_volatile(b'!') };
        assert_same(&pread(last as u64, 1), b"!", "the last byte of the page");
        pwrite(0, &bytes);
    }
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

fn prot_none() {
    allows(NONE, false, false);
    let map = mmap(open(OFlags::RDWR), 0, page(), NONE, SHARED).expect("mmap");
    map.protect(MprotectFlags::READ).expect("mprotect");
    shows_the_device(&map);
}

fn prot_read() {
    allows(READ, true, false);
}

/// No processor of this kind has pages to write to that cannot be read.
fn prot_write() {
    let device = fresh(1);
    let map = mmap(&device, 0, page(), WRITE, SHARED).expect("mmap");
    map.write(0, b"written");
    assert_same(&pread(0, 7), b"written", "the buffer");
    assert!(map.smaps().contains(" -w-s "), "{}", map.smaps());
}

fn prot_read_and_write() {
    allows(RW, true, true);
}

fn flags_shared_and_private() {
    let device = fresh(1);
    let (all, own) = (shared(&device, 1), mmap(&device, 0, page(), RW, PRIVATE));
    let own = own.expect("mmap");
    assert!(all.smaps().contains(" rw-s ") && own.smaps().contains(" rw-p "));
    all.write(0, b"for all");
    assert_same(&pread(0, 7), b"for all", "the buffer");
    own.write(0, b"for me!");
    assert_same(&pread(0, 7), b"for all", "the buffer");
}

/// Every page is in place when mmap returns; a private one that may be written to is copied ahead.
fn flags_populate() {
    for pages in [1, 4] {
        let device = fresh(pages as u64);
        let map = shared(&device, pages);
        map.bytes();
        let kernels = map.frames();
        assert!(kernels.iter().all(Option::is_some), "{kernels:?}");
        let map = mmap(&device, 0, pages * page(), RW, SHARED | MapFlags::POPULATE).expect("mmap");
        assert_eq!(map.frames(), kernels);
        let map = mmap(
            &device,
            0,
            pages * page(),
            READ,
            PRIVATE | MapFlags::POPULATE,
        )
        .expect("mmap");
        assert_eq!(map.frames(), kernels);
        let map = mmap(&device, 0, pages * page(), RW, PRIVATE | MapFlags::POPULATE).expect("mmap");
        for (own, kernels) in map.frames().iter().zip(&kernels) {
            assert!(own.is_some() && own != kernels, "a copy of each page");
        }
        map.bytes();
    }
}

/// The pages are there when mmap returns, count as locked, and stay in the page table until they
/// are unlocked; private ones are copied ahead.
fn flags_locked() {
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
            map.unlock().expect("munlock");
            assert_eq!(status_kib("VmLck"), 0, "{flags:?} {pages}");
            map.advise(Advice::LinuxDontNeed).expect("madvise");
            assert_same(&map.bytes(), &initial(len), "the mapping");
        }
    }
}

/// Nothing is reserved for shared pages; a private mapping's copies are not counted ahead.
fn flags_noreserve() {
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

fn flags_without_a_meaning_here() {
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

fn flags_32bit() {
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

fn flags_that_are_refused() {
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

fn flags_anonymous_is_not_the_device() {
    let device = fresh(1);
    let flags = SHARED | MapFlags::from_bits_retain(libc::MAP_ANONYMOUS as u32);
    let map = mmap(&device, 0, page(), RW, flags).expect("mmap");
    assert_same(&map.bytes(), &vec![0; page()], "fresh memory");
    assert_eq!(live_mappings(), 0);
}

fn fd_must_be_open() {
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

fn fd_must_be_of_the_device() {
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

fn fd_may_be_closed_afterwards() {
    let device = fresh(1);
    let map = shared(&device, 1);
    drop(device);
    map.advise(Advice::LinuxDontNeed).expect("madvise");
    shows_the_device(&map);
    map.write(0, b"still the kernel's");
    assert_same(&pread(0, 18), b"still the kernel's", "the buffer");
}

fn shared_for_reading_through_a_read_only_descriptor() {
    fresh(1);
    let map = mmap(open(OFlags::RDONLY), 0, page(), READ, SHARED).expect("mmap");
    let bytes = pattern(2, page());
    pwrite(0, &bytes);
    assert_same(&map.bytes(), &bytes, "the mapping");
    assert_segv(map.at(5), SEGV_ACCERR, store);
    assert_same(
        &pread(0, page()),
        &bytes,
        "the buffer after the refused store",
    );
}

fn shared_for_writing_through_a_read_only_descriptor_is_eacces() {
    fresh(1);
    let fd = open(OFlags::RDONLY);
    for prot in [RW, WRITE] {
        assert_eq!(
            errno(mmap(&fd, 0, page(), prot, SHARED)),
            Errno::ACCESS,
            "{prot:?}"
        );
    }
}

fn private_for_writing_through_a_read_only_descriptor() {
    fresh(1);
    let map = mmap(open(OFlags::RDONLY), 0, page(), RW, PRIVATE).expect("mmap");
    map.write(0, b"mine");
    assert_same(&map.read(0, 4), b"mine", "the private page");
    assert_same(&pread(0, page()), &initial(page()), "the buffer");
}

fn any_mapping_through_a_write_only_descriptor_is_eacces() {
    fresh(1);
    let fd = open(OFlags::WRONLY);
    for prot in [READ, WRITE, RW, ProtFlags::empty()] {
        for flags in [SHARED, PRIVATE] {
            let result = mmap(&fd, 0, page(), prot, flags);
            assert_eq!(errno(result), Errno::ACCESS, "{prot:?} {flags:?}");
        }
    }
}

fn offset_selects_the_page() {
    let device = fresh(4);
    let bytes = pattern(3, 4 * page());
    pwrite(0, &bytes);
    for first in 0..4 {
        for count in 1..=4 - first {
            let (at, len) = (first * page(), count * page());
            for flags in [SHARED, PRIVATE] {
                let map = mmap(&device, at as u64, len, RW, flags).expect("mmap");
                let what = format!("{flags:?} {count} from page {first}");
                for _ in ["mapped", "faulted in again"] {
                    assert_same(&map.bytes(), &bytes[at..at + len], &what);
                    map.advise(Advice::LinuxDontNeed).expect("madvise");
                }
            }
        }
    }
}

fn unaligned_offset_is_einval() {
    let device = fresh(4);
    for offset in [1, 512, page() as u64 - 1, page() as u64 + 1] {
        assert_eq!(
            errno(mmap(&device, offset, page(), RW, SHARED)),
            Errno::INVAL,
            "{offset}"
        );
    }
}

fn past_the_end_is_enxio() {
    for pages in [1, 4] {
        let device = fresh(pages as u64);
        let refused = [
            (0, pages + 1),
            (0, 2 * pages),
            (pages - 1, 2),
            (pages, 1),
            (pages + 1, 1),
            (1 << 30, 1),
            (1 << 38, 1),
        ];
        for (first, count) in refused {
            for (prot, flags) in [(RW, SHARED), (READ, SHARED), (RW, PRIVATE)] {
                let result = mmap(
                    &device,
                    (first * page()) as u64,
                    count * page(),
                    prot,
                    flags,
                );
                let what = format!("{count} pages from page {first} of {pages}");
                assert_eq!(errno(result), Errno::NXIO, "{what}");
            }
        }
        // One byte too long is one page too long.
        let result = mmap(&device, 0, pages * page() + 1, RW, SHARED);
        assert_eq!(
            errno(result),
            Errno::NXIO,
            "one byte more than {pages} pages"
        );
        mmap(
            &device,
            (pages as u64 - 1) * page() as u64,
            page(),
            RW,
            SHARED,
        )
        .expect("the last page");
    }
}

/// Where nothing may be executed, the core lets a mapping merge with its neighbour before it asks the
/// module: what lies past the end is refused by the fault then.
fn past_the_end_beside_a_neighbour_where_dev_is_noexec() {
    let _device = fresh(3);
    let dev = Path::new("/tmp/noexec");
    fs::create_dir_all(dev).expect("mkdir");
    mount_bind("/dev", dev).expect("mount");
    mount_remount(dev, MountFlags::BIND | MountFlags::NOEXEC, "").expect("remount");
    let node = dev.join(Path::new(Device::PATH).file_name().expect("a name"));
    let there = rustix::fs::open(&node, OFlags::RDWR, Mode::empty()).expect("open");
    // The descriptor keeps it.
    unmount(dev, UnmountFlags::DETACH).expect("umount");
    for (device, is_noexec) in [(open(OFlags::RDWR), false), (there, true)] {
        let room = memory::anonymous(4, RW, PRIVATE);
        let [before, behind] = [0, 2].map(|i| ManuallyDrop::new(room.part(i * page(), 2 * page())));
        before
            .fixed(&device, 0, RW, SHARED)
            .expect("the first two pages");
        let result = behind.fixed(&device, 2 * page() as u64, RW, SHARED);
        if !is_noexec {
            assert_eq!(errno(result), Errno::NXIO);
            continue;
        }
        result.expect("the last page, and one past the end");
        assert_eq!(before.smaps_kib("Size") << 10, 4 * page(), "they are one");
        assert_same(
            &behind.read(0, page()),
            &initial(3 * page())[2 * page()..],
            "the last page",
        );
        let past_the_end = behind.at(page());
        assert_signal(libc::SIGBUS, past_the_end, BUS_ADRERR, load);
        assert_signal(libc::SIGBUS, past_the_end, BUS_ADRERR, store);
    }
}

fn huge_lengths_and_offsets_are_refused() {
    let device = fresh(1);
    // The last offset that is a multiple of the page size, and pages from there on that wrap.
    let last = u64::MAX - (page() as u64 - 1);
    assert_eq!(
        errno(mmap(&device, last, page(), RW, SHARED)),
        Errno::OVERFLOW
    );
    assert_eq!(
        errno(mmap(&device, last, 2 * page(), RW, SHARED)),
        Errno::OVERFLOW
    );
    // The last one that the core lets through.
    assert_eq!(
        errno(mmap(&device, last - page() as u64, page(), RW, SHARED)),
        Errno::NXIO
    );
    assert_eq!(
        errno(mmap(&device, 1 << 63, page(), RW, SHARED)),
        Errno::NXIO
    );
    assert_eq!(
        errno(mmap(&device, 0, usize::MAX, RW, SHARED)),
        Errno::NOMEM
    );
    assert_eq!(
        errno(mmap(&device, 0, 1 << 40, RW, SHARED)),
        Errno::NXIO,
        "a TiB"
    );
}

fn a_refused_mapping_leaves_nothing() {
    let device = fresh(1);
    let vmas = || {
        fs::read_to_string("/proc/self/maps")
            .expect("maps")
            .matches(Device::PATH)
            .count()
    };
    for _ in 0..100 {
        errno(mmap(&device, 0, 2 * page(), RW, SHARED));
        errno(mmap(&device, page() as u64, page(), RW, PRIVATE));
        errno(mmap(&device, 0, page(), RW | EXEC, SHARED));
    }
    assert_eq!(vmas(), 0);
    assert_eq!(live_mappings(), 0);
}

fn exec_is_eperm() {
    let device = fresh(1);
    // On a file system without exec the core would refuse on its own.
    let dev = statvfs("/dev").expect("statvfs");
    assert!(
        !dev.f_flag.contains(StatVfsMountFlags::NOEXEC),
        "/dev must allow execution here"
    );
    for prot in [EXEC, READ | EXEC, WRITE | EXEC, RW | EXEC] {
        for flags in [SHARED, PRIVATE, MapFlags::SHARED_VALIDATE] {
            let result = mmap(&device, 0, page(), prot, flags);
            assert_eq!(errno(result), Errno::PERM, "{prot:?} {flags:?}");
        }
    }
}

fn shared_validate_knows_its_flags() {
    let device = fresh(1);
    let map = mmap(&device, 0, page(), RW, MapFlags::SHARED_VALIDATE).expect("mmap");
    assert_same(&map.bytes(), &initial(page()), "MAP_SHARED_VALIDATE");
    map.write(0, b"shared");
    assert_same(&pread(0, 6), b"shared", "the buffer");
    // A flag that does not exist: this one says so, MAP_SHARED looks away.
    let unknown = MapFlags::from_bits_retain(1 << 25);
    let refused = mmap(&device, 0, page(), RW, MapFlags::SHARED_VALIDATE | unknown);
    assert_eq!(errno(refused), Errno::OPNOTSUPP);
    mmap(&device, 0, page(), RW, SHARED | unknown).expect("MAP_SHARED");
    // Only a file in persistent memory has MAP_SYNC.
    let sync = MapFlags::SHARED_VALIDATE | MapFlags::SYNC;
    assert_eq!(errno(mmap(&device, 0, page(), RW, sync)), Errno::OPNOTSUPP);
}

fn many_mappings_of_one_page() {
    let device = fresh(1);
    let maps: Vec<_> = (0..500).map(|_| shared(&device, 1)).collect();
    assert_eq!(live_mappings(), 500);
    maps[499].write(0, b"one page");
    for map in &maps {
        assert_same(&map.read(0, 8), b"one page", "each mapping");
    }
    drop(maps);
    assert_eq!(live_mappings(), 0);
}

fn address_space_limit_is_enomem() {
    let device = fresh(1);
    let limit = getrlimit(Resource::As);
    setrlimit(
        Resource::As,
        Rlimit {
            current: Some(0),
            maximum: limit.maximum,
        },
    )
    .expect("setrlimit");
    let result = mmap(&device, 0, page(), RW, SHARED);
    setrlimit(Resource::As, limit).expect("setrlimit");
    assert_eq!(errno(result), Errno::NOMEM);
    assert_eq!(live_mappings(), 0);
    shared(&device, 1);
}

fn maps_and_smaps_know_the_device() {
    let device = fresh(4);
    let map = mmap(&device, page() as u64, 2 * page(), RW, SHARED).expect("mmap");
    let smaps = map.smaps();
    let head = smaps.lines().next().unwrap_or_default();
    assert!(head.ends_with(Device::PATH), "{head}");
    assert!(
        head.contains(&format!(" rw-s {:08x} ", page())),
        "permissions and offset: {head}"
    );
    let kib = 2 * page() / 1024;
    let (size, rss) = (map.smaps_kib("Size"), map.smaps_kib("Rss"));
    assert_eq!((size, rss), (kib, 0), "before it is touched: {smaps}");
    map.bytes();
    assert_eq!(map.smaps_kib("Rss"), kib, "touched");
}

/// Nothing in it tells the core to treat it otherwise than a file's, but that it is never
/// executable.
fn the_vma_is_an_ordinary_one() {
    let device = fresh(4);
    let file = tmpfs_file(&initial(4 * page()));
    let flags_of = |map: &Map| {
        let smaps = map.smaps();
        let flags = smaps
            .lines()
            .last()
            .and_then(|line| line.strip_prefix("VmFlags:"));
        let flags = flags.expect("VmFlags").split_whitespace();
        flags.map(str::to_owned).collect::<Vec<_>>()
    };
    for pages in [1, 4] {
        for (prot, flags) in [(RW, SHARED), (READ, SHARED), (RW, PRIVATE), (READ, PRIVATE)] {
            let of_device = mmap(&device, 0, pages * page(), prot, flags).expect("mmap");
            let of_file = mmap(&file, 0, pages * page(), prot, flags).expect("mmap");
            let mut expected = flags_of(&of_file);
            expected.retain(|flag| flag != "me");
            let what = format!("{pages} {prot:?} {flags:?}");
            assert_eq!(flags_of(&of_device), expected, "{what}");
            of_device.bytes();
            assert_eq!(flags_of(&of_device), expected, "{what}, touched");
        }
    }
}

fn munmap_ends_access() {
    let device = fresh(2);
    for flags in [SHARED, PRIVATE] {
        let map = mmap(&device, 0, 2 * page(), RW, flags).expect("mmap");
        map.unmap_part(page(), page()).expect("munmap");
        assert_segv(map.at(page()), SEGV_MAPERR, load);
        assert_segv(map.at(page() + 8), SEGV_MAPERR, store);
        assert_same(&map.read(0, 4), b"rust", "what is left");
    }
    assert_eq!(live_mappings(), 0);
    assert_same(&pread(0, 2 * page()), &initial(2 * page()), "the buffer");
}

fn munmap_of_a_part_keeps_the_rest() {
    let device = fresh(4);
    let bytes = pattern(5, 4 * page());
    pwrite(0, &bytes);
    for flags in [SHARED, PRIVATE] {
        for gone in 0..4 {
            let map = mmap(&device, 0, 4 * page(), RW, flags).expect("mmap");
            map.unmap_part(gone * page(), page()).expect("munmap");
            for kept in (0..4).filter(|kept| *kept != gone) {
                let at = kept * page();
                let what = format!("{flags:?} page {kept} without page {gone}");
                assert_same(&map.read(at, page()), &bytes[at..at + page()], &what);
                // The fault handler must find the same page in the VMA's new range.
                map.advise_part(at, page(), Advice::LinuxDontNeed)
                    .expect("madvise");
                assert_same(&map.read(at, page()), &bytes[at..at + page()], &what);
            }
            assert_segv(map.at(gone * page()), SEGV_MAPERR, load);
        }
    }
}
