// SPDX-License-Identifier: GPL-2.0
//! What programs do with mapped files that the guide has no sentence about: advice, limits, locks
//! on memory, core dumps, threads that fork, sandboxes.

use std::{
    fs::{self, File},
    mem::MaybeUninit,
    os::{fd::AsRawFd, unix::fs::FileExt},
    sync::atomic::Ordering::{Relaxed, SeqCst},
    thread,
};

use rust_mmapdev::Device;
use rustix::{
    fs::{FileType, Mode, OFlags, mknodat, stat},
    io::{self, Errno},
    mm::{MlockAllFlags, MremapFlags, mlockall, munlockall},
    process::{
        Pid, PidfdFlags, PidfdGetfdFlags, Resource, Rlimit, Signal, chroot, getrlimit, pidfd_getfd,
        pidfd_open, setrlimit,
    },
    thread::futex,
};

use crate::{
    harness::tests,
    support::{
        assert_same, errno,
        memory::{Advice, Map, MapFlags, READ, RW, SHARED, mmap, page, private, shared},
        module::{fresh, initial, live_mappings, references},
        open, pattern, pread,
        proc::{Setting, page_count, status_kib},
        process::{Link, become_nobody, fork, try_spawn},
        pwrite, seccomp, system_call,
    },
};

tests![
    mlockall_before_and_after_mmap,
    memlock_limit,
    address_space_limit_of_one_more_page,
    mincore_says_that_all_is_in_memory,
    a_core_dump_has_the_mappings,
    threads_that_fork,
    vfork_shares_the_mappings_themselves,
    a_strict_sandbox_keeps_its_mapping,
    a_sandbox_without_mmap,
    a_user_namespace_opens_nothing,
    a_user_namespace_maps_what_it_is_given,
    a_chroot_with_a_node_of_its_own,
    a_descriptor_taken_from_another_process,
];

/// What is locked is there, counts, and can't be dropped.
#[track_caller]
fn assert_locked(map: &Map) {
    assert!(map.frames().iter().all(Option::is_some), "it is there");
    let smaps = map.smaps();
    assert!(smaps.contains(" lo"), "{smaps}");
    assert_eq!(errno(map.advise(Advice::LinuxDontNeed)), Errno::INVAL);
}

fn mlockall_before_and_after_mmap() {
    for pages in [1, 4] {
        let device = fresh(pages as u64);
        let (before, own) = (shared(&device, pages), private(&device, pages));
        for map in [&before, &own] {
            map.advise(Advice::LinuxDontNeed).expect("madvise");
        }
        mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE).expect("mlockall");
        let locked = status_kib("VmLck");
        let after = [shared(&device, pages), private(&device, pages)];
        let kib = pages * page() / 1024;
        assert_eq!(status_kib("VmLck"), locked + 2 * kib, "they are counted");
        for map in after.iter().chain([&before, &own]) {
            assert_locked(map);
            assert_same(&map.bytes(), &initial(pages * page()), "the mapping");
            map.advise_by_number(0, map.len(), libc::MADV_DONTNEED_LOCKED)
                .expect("madvise");
            assert_same(&map.bytes(), &initial(pages * page()), "faulted in");
        }
        after[0].write(0, b"locked");
        munlockall().expect("munlockall");
        assert_eq!(status_kib("VmLck"), 0);
        assert_same(&pread(0, 6), b"locked", "the buffer");
    }
}

fn limit(resource: Resource, bytes: u64) {
    let limit = Rlimit {
        current: Some(bytes),
        maximum: Some(bytes),
    };
    setrlimit(resource, limit).expect("setrlimit");
}

/// Asking for more than the limit is refused as for any memory, and what is granted counts, once.
fn memlock_limit() {
    let device = fresh(4);
    fork(|_| {
        limit(Resource::Memlock, 2 * page() as u64);
        become_nobody();
        let map = shared(&device, 4);
        let lock = |pages: usize| map.lock_part(0, pages * page());
        assert_eq!(errno(lock(4)), Errno::NOMEM);
        for _ in 0..3 {
            lock(2).expect("within the limit, again and again");
        }
        let kib = page() / 1024;
        assert_eq!(status_kib("VmLck"), 2 * kib);
        let flags = SHARED | MapFlags::LOCKED;
        let map_locked = |pages: usize| mmap(&device, 0, pages * page(), RW, flags);
        assert_eq!(errno(map_locked(1)), Errno::AGAIN, "the limit is reached");
        map.unlock_part(0, page()).expect("munlock");
        assert_eq!(status_kib("VmLck"), kib);
        assert_eq!(errno(map_locked(2)), Errno::AGAIN);
        let locked = map_locked(1).expect("MAP_LOCKED within the limit");
        assert_eq!(status_kib("VmLck"), 2 * kib);
        assert_eq!(errno(locked.advise(Advice::LinuxDontNeed)), Errno::INVAL);
        drop(locked);
        assert_eq!(status_kib("VmLck"), kib);
        limit(Resource::Memlock, 0);
        assert_eq!(errno(lock(1)), Errno::PERM);
        assert_eq!(errno(map_locked(1)), Errno::PERM);
        assert_same(&map.bytes(), &initial(4 * page()), "the mapping");
    })
    .join();
}

fn address_space_limit_of_one_more_page() {
    let device = fresh(4);
    fork(|_| {
        let room = status_kib("VmSize") * 1024 + page();
        limit(Resource::As, room as u64);
        assert_eq!(
            errno(mmap(&device, 0, 2 * page(), RW, SHARED)),
            Errno::NOMEM
        );
        let map = mmap(&device, 0, page(), RW, SHARED).expect("one page");
        map.advise(Advice::LinuxDontNeed).expect("madvise");
        assert_eq!(map.read(0, 4), b"rust");
        assert_eq!(errno(mmap(&device, 0, page(), RW, SHARED)), Errno::NOMEM);
        drop(map);
        mmap(&device, 0, page(), READ, SHARED).expect("after munmap");
        assert_eq!(getrlimit(Resource::As).current, Some(room as u64));
    })
    .join();
}

pub fn mincore(map: &Map) -> io::Result<Vec<bool>> {
    let mut resident = vec![0; map.len().div_ceil(page())];
    // SAFETY: `resident` has a byte for each page.
    system_call(unsafe { libc::mincore(map.at(0).cast(), map.len(), resident.as_mut_ptr()) })?;
    Ok(resident.iter().map(|byte| byte & 1 != 0).collect())
}

/// As of a file that is in memory, mapped or not; past the end there is nothing.
fn mincore_says_that_all_is_in_memory() {
    let device = fresh(4);
    for mut map in [shared(&device, 4), private(&device, 4)] {
        assert_eq!(mincore(&map), Ok(vec![true; 4]), "never touched");
        map.write(page(), b"touched");
        assert_eq!(mincore(&map), Ok(vec![true; 4]), "touched");
        map.advise_part(page(), 2 * page(), Advice::LinuxDontNeed)
            .expect("madvise");
        assert_eq!(mincore(&map), Ok(vec![true; 4]), "out of the page table");
        map.remap(6 * page(), MremapFlags::MAYMOVE).expect("mremap");
        let expected = [true, true, true, true, false, false];
        assert_eq!(mincore(&map), Ok(expected.into()), "past the end");
        map.unmap_part(2 * page(), page()).expect("munmap");
        assert_eq!(mincore(&map), Err(Errno::NOMEM), "with a gap");
    }
}

/// The bytes at `address` in a core dump, if they are in it.
pub fn in_core(core: &File, address: u64, len: usize) -> Option<Vec<u8>> {
    let number = |at: u64, len: usize| {
        let mut bytes = [0; 8];
        core.read_exact_at(&mut bytes[..len], at).expect("the core");
        u64::from_ne_bytes(bytes)
    };
    // e_phoff and e_phnum of the ELF header; p_offset, p_vaddr and p_filesz of each segment.
    let (table, count) = (number(32, 8), number(56, 2));
    let segment = (0..count)
        .map(|i| table + 56 * i)
        .find(|at| number(at + 16, 8) == address)?;
    if number(segment + 32, 8) < len as u64 {
        return None;
    }
    let mut bytes = vec![0; len];
    core.read_exact_at(&mut bytes, number(segment + 8, 8))
        .expect("the segment");
    Some(bytes)
}

/// A core dump with all kinds of memory, of a child that aborts while it keeps what `body` returns;
/// and what `body` has sent.
pub fn core_dump<T, const N: usize>(body: impl FnOnce(&Link) -> T) -> (File, [u64; N]) {
    const CORE: &str = "/tmp/core";
    let _pattern = Setting::new("/proc/sys/kernel/core_pattern", CORE);
    let child = fork(|link| {
        let _kept = body(link);
        fs::write("/proc/self/coredump_filter", "0x7f").expect("coredump_filter");
        let none = Rlimit {
            current: None,
            maximum: None,
        };
        setrlimit(Resource::Core, none).expect("setrlimit");
        std::process::abort();
    });
    let sent = [(); N].map(|()| child.link.receive());
    child.dies_of(Signal::ABORT);
    let core = File::open(CORE).expect("a core dump");
    fs::remove_file(CORE).expect("remove");
    (core, sent)
}

/// With the filter that asks for all kinds of memory: what is mapped, as this process saw it.
fn a_core_dump_has_the_mappings() {
    fresh(1);
    let bytes = pattern(1, page());
    pwrite(0, &bytes);
    let (core, addresses) = core_dump(|link| {
        let device = open(OFlags::RDWR);
        let (all, own) = (shared(&device, 1), private(&device, 1));
        let (absent, hidden) = (shared(&device, 1), shared(&device, 1));
        own.write(0, b"mine");
        absent.advise(Advice::LinuxDontNeed).expect("madvise");
        hidden.advise(Advice::LinuxDontDump).expect("madvise");
        let maps = [all, own, absent, hidden];
        for map in &maps {
            link.send(map.at(0) as u64);
        }
        maps
    });
    let found: [_; 4] = addresses.map(|address| in_core(&core, address, page()));
    let of = |i: usize| found[i].as_deref().expect("a segment with its bytes");
    assert_same(of(0), &bytes, "shared");
    assert_same(&of(1)[..4], b"mine", "private");
    assert_same(&of(1)[4..], &bytes[4..], "private");
    assert_same(of(2), &bytes, "shared, out of the page table");
    assert_eq!(found[3], None, "MADV_DONTDUMP");
    assert_eq!((live_mappings(), references()), (0, 0), "after the dump");
}

/// Other threads store while one forks: the child has the bytes of some moment of the private
/// mapping, once and for all, and goes on seeing the shared one.
fn threads_that_fork() {
    const FORKS: u64 = 30;
    let device = fresh(1);
    let (map, own) = (shared(&device, 1), private(&device, 1));
    map.u64(0).store(0, SeqCst);
    own.u64(0).store(0, SeqCst);
    let stop = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Relaxed) {
                own.u64(0).fetch_add(1, SeqCst);
                map.u64(0).fetch_add(1, SeqCst);
            }
        });
        for _ in 0..FORKS {
            // In a child of a process with several threads, only what takes no lock is done.
            let child = try_spawn(|| {
                let (first, shown) = (own.u64(0).load(SeqCst), map.u64(0).load(SeqCst));
                while map.u64(0).load(SeqCst) == shown {
                    std::hint::spin_loop();
                }
                let same = own.u64(0).load(SeqCst) == first;
                map.u64(8).fetch_add(1, SeqCst);
                assert!(same, "the child's private page has changed");
            });
            child.expect("fork").join();
        }
        stop.store(true, Relaxed);
    });
    let children = u64::from_ne_bytes(pread(8, 8).try_into().expect("eight bytes"));
    let text = u64::from_ne_bytes(initial(16)[8..].try_into().expect("eight bytes"));
    assert_eq!(children, text + FORKS, "what the children have counted");
    assert_eq!(live_mappings(), 2);
}

/// As vfork(2) does before exec: the child runs in the parent's memory, which waits.
fn vfork_shares_the_mappings_themselves() {
    extern "C" fn child(argument: *mut libc::c_void) -> i32 {
        // SAFETY: `argument` is the `Map` below, whose owner is stopped.
        let own = unsafe { &*argument.cast::<Map>() };
        own.u64(0).store(7, SeqCst);
        0
    }
    let mut own = private(fresh(1), 1);
    let before = own.frames();
    let mut stack = vec![MaybeUninit::<u128>::uninit(); 4096];
    let top = stack.as_mut_ptr_range().end;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the child has a stack of its own, and the parent waits while it runs.
    let pid = unsafe { libc::clone(child, top.cast(), flags, (&raw mut own).cast()) };
    assert!(pid > 0, "{}", std::io::Error::last_os_error());
    let mut status = -1;
    // SAFETY: waits for the child.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    assert_eq!(status, 0);
    assert_eq!(
        own.u64(0).load(SeqCst),
        7,
        "the private page is the same one"
    );
    assert_ne!(own.frames(), before, "it was copied by the child's store");
    assert_eq!(live_mappings(), 1);
    assert_same(&pread(0, page()), &initial(page()), "the buffer");
}

/// seccomp's first mode: read, write and the end are all that is left.
fn a_strict_sandbox_keeps_its_mapping() {
    let device = fresh(1);
    let map = shared(&device, 1);
    let fd = device.as_raw_fd();
    fork(|_| {
        map.advise(Advice::LinuxDontNeed).expect("madvise");
        let mut text = [0_u8; 4];
        // SAFETY: the buffers are as long as said; the thread ends as the sandbox allows.
        unsafe {
            assert_eq!(
                libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT),
                0
            );
            let read = libc::read(fd, text.as_mut_ptr().cast(), 4);
            map.at(100).write_volatile(b'!');
            let wrote = libc::write(fd, b"sandbox".as_ptr().cast(), 7);
            let good = read == 4 && text == *b"rust" && wrote == 7;
            libc::syscall(libc::SYS_exit, if good { 0 } else { 1 });
        }
    })
    .join();
    assert_same(&pread(4, 7), b"sandbox", "what it wrote");
    assert_same(&pread(100, 1), b"!", "what it stored");
}

/// Whoever may not call mmap is killed for it, and nothing is left of it.
fn a_sandbox_without_mmap() {
    let device = fresh(1);
    let child = fork(|_| {
        seccomp::forbid(&[libc::SYS_mmap]);
        drop(mmap(&device, 0, page(), RW, SHARED));
    });
    child.dies_of(Signal::SYS);
    drop(device);
    assert_eq!((live_mappings(), references()), (0, 0));
}

fn enter_user_namespace() {
    // A process that has given up root may not write its own uid_map otherwise.
    // SAFETY: no memory is involved.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) }, 0);
    // SAFETY: this process has one thread.
    system_call(unsafe { libc::unshare(libc::CLONE_NEWUSER) }).expect("unshare");
    fs::write("/proc/self/uid_map", "0 65534 1").expect("uid_map");
    // SAFETY: no memory is involved.
    assert_eq!(unsafe { libc::getuid() }, 0, "root in here");
}

/// Root of a namespace is nobody to the node.
fn a_user_namespace_opens_nothing() {
    fresh(1);
    fork(|_| {
        become_nobody();
        enter_user_namespace();
        for flags in [OFlags::RDONLY, OFlags::WRONLY, OFlags::RDWR] {
            let refused = rustix::fs::open(Device::PATH, flags, Mode::empty());
            assert_eq!(errno(refused), Errno::ACCESS, "{flags:?}");
        }
    })
    .join();
}

fn a_user_namespace_maps_what_it_is_given() {
    let device = fresh(1);
    fork(|_| {
        become_nobody();
        enter_user_namespace();
        let (map, own) = (shared(&device, 1), private(&device, 1));
        map.advise(Advice::LinuxDontNeed).expect("madvise");
        map.write(0, b"from inside");
        own.write(0, b"own");
    })
    .join();
    assert_same(&pread(0, 11), b"from inside", "the buffer");
}

/// Two nodes, one device: the same page, and the same futex.
fn a_chroot_with_a_node_of_its_own() {
    let device = fresh(1);
    let map = shared(&device, 1);
    let node = stat(Device::PATH).expect("stat");
    let _ = fs::create_dir("/tmp/jail");
    let _ = fs::remove_file("/tmp/jail/node");
    let mode = Mode::RUSR | Mode::WUSR;
    mknodat(
        rustix::fs::CWD,
        "/tmp/jail/node",
        FileType::CharacterDevice,
        mode,
        node.st_rdev,
    )
    .expect("mknod");
    let child = fork(|link| {
        chroot("/tmp/jail").expect("chroot");
        assert!(!std::path::Path::new(Device::PATH).exists());
        let inside = rustix::fs::open("/node", OFlags::RDWR, Mode::empty()).expect("open");
        let inside = shared(&inside, 1);
        assert_eq!(inside.read(0, 4), b"rust");
        inside.write(0, b"jail");
        link.signal();
        while inside.u32(128).load(SeqCst) == 0 {
            match futex::wait(inside.u32(128), futex::Flags::empty(), 0, None) {
                Ok(()) => break,
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(err) => panic!("FUTEX_WAIT: {err}"),
            }
        }
    });
    child.link.wait();
    assert_same(&map.read(0, 4), b"jail", "through the other node");
    // Mapped by this process, and through the node in there. What the child was forked with is not
    // in its page table, as it has not touched it.
    assert_eq!(page_count(map.frames()[0].expect("a page")), 2, "one page");
    while futex::wake(map.u32(128), futex::Flags::empty(), 1) != Ok(1) {
        thread::yield_now();
    }
    child.join();
}

/// pidfd_getfd(2), as debuggers and supervisors do it.
fn a_descriptor_taken_from_another_process() {
    fresh(1);
    let child = fork(|link| {
        let device = open(OFlags::RDWR);
        link.send(device.as_raw_fd() as u64);
        link.wait();
    });
    let number = child.link.receive() as i32;
    let pid: Pid = child.pid;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).expect("pidfd_open");
    let taken = pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty()).expect("pidfd_getfd");
    let map = shared(&taken, 1);
    child.link.signal();
    child.join();
    map.write(0, b"taken");
    assert_same(&pread(0, 5), b"taken", "the buffer");
}
