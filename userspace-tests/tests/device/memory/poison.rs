// SPDX-License-Identifier: GPL-2.0
//! A page with a memory error: SIGBUS for who touches it, EIO for read and write of it, and nobody
//! else is harmed.
//!
//! MADV_HWPOISON says of a good page that it is bad. The VM never uses it again: few of them.

use std::{
    os::{
        fd::{AsFd, AsRawFd},
        unix::process::ExitStatusExt,
    },
    sync::atomic::{AtomicI32, Ordering::Relaxed},
};

use io_uring::{opcode, types::Fd};
use rust_mmapdev::Error;
use rustix::{
    fs::{OFlags, SeekFrom, fsync, seek, sendfile, tell},
    io::{self, Errno},
    mm::msync,
    pipe::{SpliceFlags, pipe, splice},
    thread::futex,
};

use crate::{
    calls::{io::vectors, uring},
    harness::{skip, tests},
    support::{
        assert_same, errno,
        large::{BOTH, Large},
        memory::{
            Advice, Map, MapFlags, MprotectFlags, PRIVATE, RW, SHARED, mmap, mmap_skewed, page,
            shared, skewed, table,
        },
        module::{self, Renew, fdinfo, fresh, initial},
        open, pread,
        proc::meminfo,
        process::{Child, end, fork},
        signal::handle,
        system_call, tmpfs_file,
    },
};

tests![
    who_touches_the_only_page_gets_a_sigbus,
    who_touches_a_page_of_a_huge_folio_gets_a_sigbus,
    all_other_pages_are_unharmed,
    several_bad_pages,
    a_private_copy_is_unharmed,
    a_folio_that_cannot_be_split,
    read_and_write_of_it_are_eio,
    splice_and_sendfile_end_there,
    clear_is_eio,
    fork_of_a_process_that_has_it_mapped,
    system_calls_on_it_fail,
    mappings_of_it_can_be_changed,
    the_module_goes_and_comes,
];

/// From <asm-generic/siginfo.h>: a memory error that was consumed, as opposed to one that was found.
const BUS_MCEERR_AR: i32 = 4;

/// Has the page of the buffer at `at` go bad.
fn poison(at: usize) {
    poison_with(at, Ok(()));
}

/// The same where MADV_HWPOISON is to say `expected`.
fn poison_with(at: usize, expected: io::Result<()>) {
    let before = meminfo("HardwareCorrupted");
    let child = fork(|_| {
        let map = mmap(open(OFlags::RDWR), at as u64, page(), RW, SHARED).expect("mmap");
        match map.advise(Advice::LinuxHwPoison) {
            Err(Errno::INVAL) => end(77),
            result => assert_eq!(result, expected, "MADV_HWPOISON"),
        }
    });
    // Who causes the error may be killed for it, having the page mapped.
    let status = child.wait();
    match (status.code(), status.signal()) {
        (Some(77), _) => skip("this kernel has no MADV_HWPOISON"),
        (Some(0), _) | (_, Some(libc::SIGBUS)) => {}
        _ => panic!("MADV_HWPOISON: {status}"),
    }
    let corrupted = meminfo("HardwareCorrupted") - before;
    assert_eq!(corrupted, page() as i64, "HardwareCorrupted");
}

/// A buffer of some huge folios with a bad page in one of them, and where that is.
fn poisoned() -> (Renew, Large, usize) {
    let buffer = Large::new(2, 37);
    let at = table() + 99 * page();
    poison(at);
    (Renew, buffer, at)
}

/// All but the bad page, as read(2) gives it.
#[track_caller]
fn check_others(buffer: &Large, bad: usize) {
    buffer.check_part(0..bad);
    buffer.check_part(bad + page()..buffer.len());
}

// --- who touches it -----------------------------------------------------------

/// Where the handler says what has happened.
static REPORT: AtomicI32 = AtomicI32::new(-1);

/// From <asm-generic/siginfo.h>: what `siginfo_t` is for a SIGBUS.
#[repr(C)]
struct SigbusInfo {
    signo: i32,
    errno: i32,
    code: i32,
    addr: *mut libc::c_void,
    addr_lsb: i16,
}

extern "C" fn report(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel's own description of a SIGBUS.
    let info = unsafe { &*info.cast::<SigbusInfo>() };
    let words = [info.code as u64, info.addr as u64, info.addr_lsb as u64];
    // SAFETY: both calls may be made in a handler.
    unsafe {
        libc::write(REPORT.load(Relaxed), words.as_ptr().cast(), 24);
        libc::_exit(0)
    }
}

/// A process that maps something and is going to touch it.
struct Toucher {
    child: Child,
    address: u64,
}

impl Toucher {
    /// It touches the byte `at` bytes into its mapping.
    fn new(map: impl FnOnce() -> Map, at: usize, touch: fn(&Map, usize)) -> Self {
        let child = fork(|link| {
            let map = map();
            REPORT.store(link.as_fd().as_raw_fd(), Relaxed);
            handle(libc::SIGBUS, report);
            link.send(map.at(at) as u64);
            link.wait();
            touch(&map, at);
            for _ in 0..3 {
                link.send(0);
            }
        });
        let address = child.link.receive();
        Self { child, address }
    }

    /// It does so, and must get the SIGBUS of a memory error.
    #[track_caller]
    fn gets_a_sigbus(self, who: &str) {
        self.child.link.signal();
        let [code, address, shift] = [(); 3].map(|()| self.child.link.receive());
        assert_eq!(code as i32, BUS_MCEERR_AR, "{who}: si_code");
        // No more is gone than this one page.
        assert_eq!(shift, u64::from(page().ilog2()), "{who}: si_addr_lsb");
        let page = page() as u64;
        assert_eq!(address / page, self.address / page, "{who}: si_addr");
        self.child.join();
    }
}

/// Whether they have had it mapped or not, and however.
fn touch_it_all_ways(len: usize, at: usize) {
    type Touch = fn(&Map, usize);
    let touches: [(&str, Touch); 2] = [("load", Map::load), ("store", Map::store)];
    let map = |flags: MapFlags, skew: usize, touched: bool| {
        move || {
            let map = mmap_skewed(skew, open(OFlags::RDWR), 0, len, RW, flags);
            if touched {
                map.load_pages();
            }
            map
        }
    };
    let mut touchers = vec![];
    for flags in BOTH {
        for (skew, touched) in [(0, true), (0, false), (3 * page(), true)] {
            for (how, touch) in touches {
                let who = format!("{flags:?}, skew {skew:#x}, touched before: {touched}, {how}");
                touchers.push((who, Toucher::new(map(flags, skew, touched), at, touch)));
            }
        }
    }
    poison(at);
    for (who, toucher) in touchers {
        toucher.gets_a_sigbus(&who);
    }
    for flags in BOTH {
        for (how, touch) in touches {
            let who = format!("{flags:?}, mapped afterwards, {how}");
            Toucher::new(map(flags, 0, false), at, touch).gets_a_sigbus(&who);
        }
    }
    touch_it_alone(at);
}

/// In mappings of that page and no other, made afterwards.
fn touch_it_alone(at: usize) {
    for flags in BOTH {
        for touch in [Map::load, Map::store] {
            let only =
                move || mmap(open(OFlags::RDWR), at as u64, page(), RW, flags).expect("mmap");
            Toucher::new(only, 0, touch).gets_a_sigbus(&format!("{flags:?}, that page alone"));
        }
    }
}

fn who_touches_the_only_page_gets_a_sigbus() {
    let _renew = Renew;
    fresh(1);
    touch_it_all_ways(page(), 0);
}

fn who_touches_a_page_of_a_huge_folio_gets_a_sigbus() {
    let _renew = Renew;
    let buffer = Large::new(2, 37);
    let at = table() + 99 * page();
    touch_it_all_ways(buffer.len(), at);
    check_others(&buffer, at);
}

// --- who doesn't --------------------------------------------------------------

/// Of the folio that has been split for it, too; in mappings that there were and in new ones.
fn all_other_pages_are_unharmed() {
    for bad in [99 * page(), table() + 99 * page()] {
        all_pages_but_one_are_unharmed(bad);
    }
}

fn all_pages_but_one_are_unharmed(bad: usize) {
    let _renew = Renew;
    let buffer = Large::new(2, 37);
    let old = BOTH.map(|flags| buffer.in_place(flags));
    poison(bad);
    assert_eq!(fdinfo(&buffer.device, "huge_size") as usize, table());
    check_others(&buffer, bad);
    let new = BOTH.map(|flags| buffer.view(0, 0, buffer.len(), flags));
    for view in old.iter().chain(&new) {
        for part in [0..bad, bad + page()..buffer.len()] {
            view.check_part(part.clone());
            view.write_pages(part.clone(), bad as u64);
            view.check_part(part);
        }
    }
    check_others(&buffer, bad);
}

/// Two that are neighbours, and the first page of a huge folio: each of them is gone, and no more.
fn several_bad_pages() {
    let _renew = Renew;
    let buffer = Large::new(2, 37);
    let bad = [3 * page(), 4 * page(), table()];
    let good = [
        0..bad[0],
        bad[1] + page()..bad[2],
        bad[2] + page()..buffer.len(),
    ];
    for at in bad {
        poison(at);
    }
    assert_eq!(fdinfo(&buffer.device, "huge_size"), 0, "both are split");
    let map = |flags| move || mmap(open(OFlags::RDWR), 0, 2 * table(), RW, flags).expect("mmap");
    for flags in BOTH {
        let view = buffer.view(0, 0, buffer.len(), flags);
        for part in good.clone() {
            view.check_part(part.clone());
            view.write_pages(part.clone(), 1);
            view.check_part(part);
        }
        for at in bad {
            for touch in [Map::load, Map::store] {
                Toucher::new(map(flags), at, touch).gets_a_sigbus(&format!("at {at:#x}"));
            }
        }
    }
    for (at, expected) in [
        (bad[0] - 10, Ok(10)),
        (bad[0], Err(Errno::IO)),
        (bad[1], Err(Errno::IO)),
        (bad[2] - page() - 10, Ok(page() + 10)),
        (bad[2], Err(Errno::IO)),
        (bad[2] + page(), Ok(3 * page())),
    ] {
        transfer(&buffer, at, expected);
    }
    let check_good = || good.iter().for_each(|part| buffer.check_part(part.clone()));
    check_good();
    clear(&buffer);
    check_good();
}

fn a_private_copy_is_unharmed() {
    let _renew = Renew;
    let buffer = Large::new(2, 37);
    let bad = 99 * page();
    let view = buffer.in_place(PRIVATE);
    view.write(bad, b"one's own");
    poison(bad);
    view.check_part(0..buffer.len());
    view.write(bad + 10, b"still");
    view.check_part(0..buffer.len());
    fork(|_| view.check_part(0..buffer.len())).join();
    // The copy is dropped: the page is the buffer's.
    let drop_it = || {
        view.drop_pages(bad..bad + page());
        view.map.part(bad, page())
    };
    Toucher::new(drop_it, 0, Map::load).gets_a_sigbus("after MADV_DONTNEED");
    view.check_part(0..buffer.len());
}

/// Its pages are pinned, so the bad one stays among them.
fn a_folio_that_cannot_be_split() {
    let _renew = Renew;
    let buffer = Large::new(2, 37);
    let (device, bad) = (&buffer.device, table() + 99 * page());
    let pinned = mmap(device, table() as u64, page(), RW, SHARED).expect("mmap");
    let ring = uring::ring();
    uring::register(&ring, &pinned);
    poison_with(bad, Err(Errno::HWPOISON));
    assert_eq!(
        fdinfo(device, "huge_size") as usize,
        2 * table(),
        "it is whole"
    );
    check_others(&buffer, bad);

    transfers_end_there(&buffer, bad);
    for flags in BOTH {
        for skew in [0, page()] {
            let view = buffer.view(skew, 0, buffer.len(), flags);
            for part in [0..bad, bad + page()..buffer.len()] {
                view.check_part(part.clone());
                view.write_pages(part.clone(), skew as u64);
                view.check_part(part);
            }
            let inherited = || view.map.part(0, buffer.len());
            for touch in [Map::load, Map::store] {
                let who = format!("{flags:?}, skew {skew:#x}");
                Toucher::new(inherited, bad, touch).gets_a_sigbus(&who);
            }
        }
    }
    touch_it_alone(bad);
    clears_others(&buffer, bad);
    ring.submitter()
        .unregister_buffers()
        .expect("IORING_UNREGISTER_BUFFERS");

    // Now it can be, by who wants another of its pages, and the bad one is a folio of its own.
    let split = || {
        pinned.load(0);
        pinned.advise(Advice::LinuxSoftOffline).is_ok()
    };
    assert!((0..1000).any(|_| split()), "MADV_SOFT_OFFLINE");
    assert_eq!(
        fdinfo(device, "huge_size") as usize,
        table(),
        "it is in pieces"
    );
    check_others(&buffer, bad);
    transfers_end_there(&buffer, bad);
    touch_it_alone(bad);
    clears_others(&buffer, bad);
}

// --- the kernel's copies ------------------------------------------------------

/// A read and a write of three pages there end as expected.
#[track_caller]
fn transfer(buffer: &Large, offset: usize, expected: io::Result<usize>) {
    let mut found = vec![0; 3 * page()];
    let n = io::pread(&buffer.device, &mut found[..], offset as u64);
    assert_eq!(n, expected, "pread at {offset:#x}");
    if let Ok(n) = expected {
        assert_same(&found[..n], &buffer.expected(offset, n), "what was read");
    }
    let bytes = vec![offset as u8; 3 * page()];
    let n = io::pwrite(&buffer.device, &bytes, offset as u64);
    assert_eq!(n, expected, "pwrite at {offset:#x}");
    if let Ok(n) = expected {
        buffer.changed(offset, &bytes[..n]);
    }
}

/// Reads and writes are short before it, EIO at it, and as ever after it.
#[track_caller]
fn transfers_end_there(buffer: &Large, bad: usize) {
    for (offset, expected) in [
        (bad, Err(Errno::IO)),
        (bad + page() - 1, Err(Errno::IO)),
        (bad - 1, Ok(1)),
        (bad - page() - 7, Ok(page() + 7)),
        (0, Ok(3 * page())),
        (bad + page(), Ok(3 * page())),
    ] {
        transfer(buffer, offset, expected);
        check_others(buffer, bad);
    }
}

fn read_and_write_of_it_are_eio() {
    let (_renew, buffer, bad) = poisoned();
    transfers_end_there(&buffer, bad);
    let device = &buffer.device;
    let mut found = vec![0; 3 * page()];
    let at = |offset: usize| offset as u64;
    // The position goes on by what was copied.
    seek(device, SeekFrom::Start(at(bad - 10))).expect("seek");
    assert_eq!(io::read(device, &mut found[..]), Ok(10));
    assert_eq!(errno(io::read(device, &mut found[..])), Errno::IO);
    assert_eq!(tell(device), Ok(at(bad)));
    // Nothing was to be written out that is lost now, as a file would say here.
    fsync(device).expect("fsync");
    // Nothing asked for is nothing wrong.
    assert_eq!(io::pread(device, &mut [0u8; 0][..], at(bad)), Ok(0));

    let fd = Fd(device.as_raw_fd());
    let mut ring = uring::ring();
    let read = opcode::Read::new(fd, found.as_mut_ptr(), 100).offset(at(bad));
    assert_eq!(uring::run(&mut ring, &read.build()), Err(Errno::IO));
    let write = opcode::Write::new(fd, found.as_ptr(), 100).offset(at(bad));
    assert_eq!(uring::run(&mut ring, &write.build()), Err(Errno::IO));
}

fn splice_and_sendfile_end_there() {
    let (_renew, buffer, bad) = poisoned();
    let device = &buffer.device;
    let start = bad - 3 * page();
    let (receiver, sender) = pipe().expect("pipe");
    let splice_from = |position: &mut u64| {
        let flags = SpliceFlags::NONBLOCK;
        splice(device, Some(position), &sender, None, 8 * page(), flags)
    };
    let mut position = start as u64;
    while position < bad as u64 {
        let n = splice_from(&mut position).expect("splice");
        let mut found = vec![0; n];
        assert_eq!(io::read(&receiver, &mut found), Ok(n));
        let expected = buffer.expected(position as usize - n, n);
        assert_same(&found, &expected, "what came through the pipe");
    }
    assert_eq!(position, bad as u64);
    assert_eq!(errno(splice_from(&mut position)), Errno::IO);

    let file = tmpfs_file(b"");
    let mut position = start as u64;
    let n = sendfile(&file, device, Some(&mut position), 8 * page());
    assert_eq!(n, Ok(3 * page()));
    assert_eq!(
        errno(sendfile(&file, device, Some(&mut position), 1)),
        Errno::IO
    );

    let bytes = vec![b's'; page()];
    assert_eq!(io::write(&sender, &bytes), Ok(page()));
    let n = splice(
        &receiver,
        None,
        device,
        Some(&mut (bad as u64)),
        page(),
        SpliceFlags::empty(),
    );
    assert_eq!(errno(n), Errno::IO);
    check_others(&buffer, bad);
}

/// CLEAR is EIO, and clears all others.
#[track_caller]
fn clears_others(buffer: &Large, bad: usize) {
    clear(buffer);
    check_others(buffer, bad);
}

/// CLEAR of a buffer with a bad page.
#[track_caller]
fn clear(buffer: &Large) {
    match buffer.device.clear() {
        Err(Error::Clear(Errno::IO)) => {}
        result => panic!("CLEAR: {result:?}"),
    }
    buffer.changed(0, &vec![0; buffer.len()]);
}

fn clear_is_eio() {
    let (_renew, buffer, bad) = poisoned();
    clears_others(&buffer, bad);
}

// --- other calls --------------------------------------------------------------

fn fork_of_a_process_that_has_it_mapped() {
    let _renew = Renew;
    let buffer = Large::new(2, 37);
    let bad = table() + 99 * page();
    let views = BOTH.map(|flags| buffer.in_place(flags));
    views[1].write(bad + page(), b"one's own");
    poison(bad);
    for view in &views {
        fork(|_| {
            view.check_part(0..bad);
            view.check_part(bad + page()..buffer.len());
        })
        .join();
        let inherited = || view.map.part(0, buffer.len());
        Toucher::new(inherited, bad, Map::load).gets_a_sigbus("the child");
        view.check_part(bad + page()..buffer.len());
    }
}

/// They say EFAULT, as of any memory that is not there, and what is specific to them.
fn system_calls_on_it_fail() {
    let (_renew, buffer, bad) = poisoned();
    for flags in BOTH {
        let map = mmap(&buffer.device, 0, buffer.len(), RW, flags).expect("mmap");
        let wait = futex::wait(map.u32(bad), futex::Flags::empty(), 0, None);
        assert_eq!(errno(wait), Errno::FAULT, "FUTEX_WAIT");
        // SAFETY: the addresses are for the kernel only.
        let (from, to) = unsafe { (map.as_slice(bad, 8), map.as_mut_slice(bad, 8)) };
        let file = tmpfs_file(b"8 bytes.");
        assert_eq!(errno(io::pwrite(&file, from, 0)), Errno::FAULT, "pwrite");
        assert_eq!(errno(io::pread(&file, to, 0)), Errno::FAULT, "pread");
        let mut found = [0; 8];
        let [local, remote] = vectors(&mut found, map.at(bad) as usize);
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        // SAFETY: the local vector describes `found`.
        let n = system_call(unsafe { libc::process_vm_readv(pid, &local, 1, &remote, 1, 0) });
        assert_eq!(n, Err(Errno::FAULT), "process_vm_readv");
        for advice in [Advice::LinuxPopulateRead, Advice::LinuxPopulateWrite] {
            let result = map.advise(advice);
            assert_eq!(errno(result), Errno::HWPOISON, "{advice:?}");
        }
        assert_eq!(errno(map.lock()), Errno::NOMEM, "mlock");
        map.unlock().expect("munlock");
    }
    check_others(&buffer, bad);
}

/// And none of that brings it back.
fn mappings_of_it_can_be_changed() {
    let _renew = Renew;
    let buffer = Large::new(2, 37);
    let bad = table() + 99 * page();
    let views = BOTH.map(|flags| buffer.in_place(flags));
    poison(bad);
    for view in views {
        let map = &view.map;
        let len = 4 * page();
        map.protect_part(bad - page(), len, MprotectFlags::READ)
            .expect("mprotect");
        map.protect_part(
            bad - page(),
            len,
            MprotectFlags::READ | MprotectFlags::WRITE,
        )
        .expect("mprotect");
        // SAFETY: nothing changes in the memory.
        unsafe { msync(map.at(0).cast(), map.len(), rustix::mm::MsyncFlags::SYNC) }.expect("msync");
        map.advise(Advice::LinuxCold).expect("MADV_COLD");
        let (before, mut moved, after) = view.without(bad - page()..bad + 3 * page());
        moved.map.remap_onto(skewed(page(), len)).expect("mremap");
        moved.check_part(0..page());
        moved.check_part(2 * page()..len);
        let inherited = || moved.map.part(0, len);
        Toucher::new(inherited, page(), Map::load).gets_a_sigbus("after mremap");
        moved.map.advise(Advice::LinuxDontNeed).expect("DONTNEED");
        Toucher::new(inherited, page(), Map::store).gets_a_sigbus("after MADV_DONTNEED");
        moved.check_part(2 * page()..len);
        before.check_part(0..bad - page());
        after.check_part(0..after.map.len());
    }
}

/// What was bad stays out of use, what comes is good.
fn the_module_goes_and_comes() {
    for pages in [1, 2 * table() / page()] {
        drop(Large::of(fresh(pages as u64)));
        let before = meminfo("HardwareCorrupted");
        let map = shared(open(OFlags::RDWR), 1);
        poison(0);
        drop(map);
        for _ in 0..2 {
            module::reload(&format!("buffer_pages={pages}"));
            let len = pages * page();
            assert_same(&pread(0, len), &initial(len), "the new buffer");
            let buffer = Large::of(fresh(pages as u64));
            buffer.view(0, 0, len, SHARED).check();
        }
        let corrupted = meminfo("HardwareCorrupted") - before;
        assert_eq!(corrupted, page() as i64, "HardwareCorrupted");
    }
}
