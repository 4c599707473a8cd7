// SPDX-License-Identifier: GPL-2.0
//! What keeps the module loaded, one holder at a time; and that nothing else needs it to.

use std::{
    fs::File,
    os::{
        fd::AsRawFd,
        unix::{fs::FileExt, net::UnixStream},
    },
    thread,
};

use io_uring::{IoUring, opcode, squeue, types::Fd};
use rustix::{
    fs::{MemfdFlags, OFlags, memfd_create},
    io::{self, Errno},
    mm::MremapFlags,
    pipe::{IoSliceRaw, SpliceFlags, pipe, vmsplice},
    process::{Signal, WaitOptions, kill_process, waitpid},
};

use crate::{
    harness::tests,
    support::{
        assert_same,
        memory::{self, Map, MprotectFlags, PRIVATE, RW, page, private, shared},
        missing_page::MissingPages,
        module::{self, fresh, initial, live_mappings, references},
        open, pattern, pread,
        proc::nobodys_pages,
        process::{fork, pass, passed},
        pwrite,
    },
};

tests![
    a_descriptor_holds_the_module,
    a_mapping_holds_the_module,
    a_file_is_one_reference_whatever_becomes_of_its_mappings,
    a_childs_mapping_holds_the_module,
    a_moved_part_holds_the_module,
    a_descriptor_in_flight_holds_the_module,
    a_descriptor_in_flight_goes_with_the_socket,
    a_descriptor_in_flight_goes_with_a_cycle_of_sockets,
    a_registered_file_of_io_uring_holds_the_module,
    a_registered_file_goes_with_the_ring,
    a_stopped_process_holds_the_module,
    a_write_in_progress_holds_the_module,
    an_o_path_descriptor_does_not_hold_the_module,
    a_pinned_buffer_of_io_uring_outlives_the_module,
    pages_in_a_pipe_outlive_the_module,
];

/// rmmod is refused, the module works on, and goes after `release`.
#[track_caller]
fn refuses_until<T>(holder: T, release: impl FnOnce(T)) {
    for _ in 0..3 {
        assert_eq!(module::unload(), Err(Errno::AGAIN), "in use");
    }
    assert!(module::is_loaded());
    assert_same(
        &pread(0, page()),
        &initial(page()),
        "the buffer while rmmod is refused",
    );
    release(holder);
    assert_eq!(references(), 0);
    module::unload().expect("rmmod when nothing holds it any more");
    assert!(!module::is_loaded());
    module::load("").expect("insmod afterwards");
}

/// For holders that a worker of the kernel's lets go: nothing tells when. The test's time limit
/// ends the wait for one that never goes.
fn wait_until_unused() {
    while references() != 0 {
        // The close of any UNIX socket has the garbage collector look at those in flight.
        drop(UnixStream::pair().expect("socketpair"));
    }
}

fn a_descriptor_holds_the_module() {
    for flags in [OFlags::RDONLY, OFlags::WRONLY, OFlags::RDWR] {
        fresh(1);
        refuses_until(open(flags), drop);
    }
}

fn a_mapping_holds_the_module() {
    for make in [shared, private] {
        refuses_until(make(fresh(1), 1), |map| {
            map.bytes();
            drop(map);
        });
    }
}

/// The mappings hold their file, and that the module: split, moved, duplicated, grown, forked.
fn a_file_is_one_reference_whatever_becomes_of_its_mappings() {
    let device = fresh(4);
    assert_eq!(references(), 1);
    let (mut map, copy) = (shared(&device, 4), private(&device, 4));
    drop(device);
    assert_eq!(
        (references(), live_mappings()),
        (1, 2),
        "without a descriptor"
    );
    copy.write(0, b"copied");
    copy.protect_part(page(), page(), MprotectFlags::READ)
        .expect("mprotect");
    copy.unmap_part(3 * page(), page()).expect("munmap");
    assert_eq!((references(), live_mappings()), (1, 4), "in parts");
    map.remap_onto(memory::anonymous(4, RW, PRIVATE))
        .expect("mremap");
    map.remap(6 * page(), MremapFlags::MAYMOVE).expect("grow");
    let mut second = map.part(0, 0);
    second
        .remap(page(), MremapFlags::MAYMOVE)
        .expect("duplicate");
    assert_eq!((references(), live_mappings()), (1, 5), "moved");
    let children = [(); 3].map(|()| {
        let child = fork(|link| {
            link.signal();
            link.wait();
        });
        child.link.wait();
        child
    });
    assert_eq!((references(), live_mappings()), (1, 4 * 5), "forked");
    drop((map, copy, second));
    let [first, second, third] = children;
    first.link.signal();
    first.join();
    assert_eq!((references(), live_mappings()), (1, 2 * 5), "after exit");
    second.kill();
    assert_eq!((references(), live_mappings()), (1, 5), "after kill -9");
    third.kill();
    assert_eq!((references(), live_mappings()), (0, 0));
}

fn a_childs_mapping_holds_the_module() {
    let map = shared(fresh(1), 1);
    let child = fork(|link| {
        link.signal();
        link.wait();
        drop(map.bytes());
    });
    child.link.wait();
    drop(map);
    refuses_until(child, |child| {
        child.link.signal();
        child.join();
    });
}

fn a_moved_part_holds_the_module() {
    let map = shared(fresh(4), 4);
    let mut part = map.part(page(), page());
    part.remap_onto(memory::anonymous(1, RW, PRIVATE))
        .expect("mremap");
    drop(map);
    assert_eq!(live_mappings(), 1);
    refuses_until(part, drop);
}

/// The only descriptor is that of a message which nobody has received.
fn in_flight() -> (UnixStream, UnixStream) {
    let (sender, receiver) = UnixStream::pair().expect("socketpair");
    pass(&sender, &fresh(1));
    (sender, receiver)
}

fn a_descriptor_in_flight_holds_the_module() {
    let (sender, receiver) = in_flight();
    drop(sender);
    refuses_until(receiver, |receiver| {
        let device = passed(&receiver);
        assert_eq!(module::unload(), Err(Errno::AGAIN), "received");
        drop(device);
    });
}

fn a_descriptor_in_flight_goes_with_the_socket() {
    let (sender, receiver) = in_flight();
    drop(sender);
    refuses_until(receiver, drop);
}

/// Two sockets that only messages to each other refer to, one with the device: the kernel's
/// garbage collector finds them.
fn a_descriptor_in_flight_goes_with_a_cycle_of_sockets() {
    let (a, b) = in_flight();
    refuses_until((a, b), |(a, b)| {
        pass(&a, &a);
        pass(&b, &b);
        drop((a, b));
        wait_until_unused();
    });
}

fn with_registered_file() -> IoUring {
    let ring = IoUring::new(4).expect("io_uring_setup");
    let device = fresh(1);
    let files = [device.as_raw_fd()];
    ring.submitter()
        .register_files(&files)
        .expect("IORING_REGISTER_FILES");
    ring
}

fn a_registered_file_of_io_uring_holds_the_module() {
    refuses_until(with_registered_file(), |ring| {
        ring.submitter()
            .unregister_files()
            .expect("IORING_UNREGISTER_FILES");
        wait_until_unused();
    });
}

fn a_registered_file_goes_with_the_ring() {
    refuses_until(with_registered_file(), |ring| {
        drop(ring);
        wait_until_unused();
    });
}

fn a_stopped_process_holds_the_module() {
    fresh(1);
    let child = fork(|link| {
        let map = shared(open(OFlags::RDWR), 1);
        link.signal();
        loop {
            drop(map.bytes());
        }
    });
    child.link.wait();
    kill_process(child.pid, Signal::STOP).expect("kill");
    waitpid(Some(child.pid), WaitOptions::UNTRACED).expect("waitpid");
    refuses_until(child, |child| child.kill());
}

/// The descriptor is closed while write(2) is in the middle of its copy.
fn a_write_in_progress_holds_the_module() {
    let missing_pages = MissingPages::new(2, b'!');
    let device = fresh(3);
    let fd = device.as_raw_fd();
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let bytes = missing_pages.as_slice();
            // SAFETY: the descriptor is open when the call begins.
            let n = unsafe { libc::pwrite(fd, bytes.as_ptr().cast(), bytes.len(), page() as i64) };
            assert_eq!(n, 2 * page() as isize);
        });
        missing_pages.wait_for_fault();
        drop(device);
        refuses_until(writer, |writer| {
            missing_pages.resolve();
            writer.join().expect("the writer ends well");
        });
    });
}

/// It stands for the node, and has not opened it.
fn an_o_path_descriptor_does_not_hold_the_module() {
    fresh(1);
    let node = open(OFlags::PATH);
    assert_eq!(references(), 0);
    module::unload().expect("rmmod");
    drop(node);
}

/// Unloads and loads the module; both buffers have pages of their own then.
fn replace_the_module(pages: usize) {
    assert_eq!(references(), 0, "a page that is in use holds no module");
    module::unload().expect("rmmod");
    module::load(&format!("buffer_pages={pages}")).expect("insmod");
    assert_same(
        &pread(0, pages * page()),
        &initial(pages * page()),
        "the new buffer",
    );
}

fn run(ring: &mut IoUring, entry: &squeue::Entry) -> i32 {
    // SAFETY: the entry's buffer is registered.
    unsafe { ring.submission().push(entry).expect("room for an entry") };
    ring.submit_and_wait(1).expect("io_uring_enter");
    ring.completion().next().expect("a completion").result()
}

/// io_uring has the pages, and neither the mapping nor the file that they came from: the module
/// goes, the pages stay until they are unregistered, as a truncated file's would.
fn a_pinned_buffer_of_io_uring_outlives_the_module() {
    const PAGES: usize = 64;
    let len = PAGES * page();
    let bytes = pattern(1, len);
    let file = File::from(memfd_create("file", MemfdFlags::CLOEXEC).expect("memfd_create"));
    file.set_len(2 * len as u64).expect("ftruncate");
    let mut ring = IoUring::new(4).expect("io_uring_setup");
    module::reload(&format!("buffer_pages={PAGES}"));
    let before = nobodys_pages();

    pwrite(0, &bytes);
    let map = shared(open(OFlags::RDWR), PAGES);
    let address = map.at(0);
    register(&ring, &map);
    drop(map);
    replace_the_module(PAGES);
    let pinned = nobodys_pages() - before;
    assert!(pinned >= PAGES as i64, "of {PAGES} pages {pinned} stay");

    let entry = opcode::WriteFixed::new(Fd(file.as_raw_fd()), address, len as u32, 0).build();
    assert_eq!(run(&mut ring, &entry), len as i32);
    let mut found = vec![0; len];
    file.read_exact_at(&mut found, 0).expect("read");
    assert_same(&found, &bytes, "the old buffer's pages");
    let entry = opcode::ReadFixed::new(Fd(file.as_raw_fd()), address, len as u32, 0)
        .offset(len as u64)
        .build();
    assert_eq!(run(&mut ring, &entry), len as i32);
    assert_same(&pread(0, len), &initial(len), "the new buffer");

    ring.submitter()
        .unregister_buffers()
        .expect("IORING_UNREGISTER_BUFFERS");
    let kept = nobodys_pages() - before;
    assert!(
        kept < PAGES as i64 / 2,
        "{kept} of {PAGES} pages are not back"
    );
}

fn register(ring: &IoUring, map: &Map) {
    let buffers = [libc::iovec {
        iov_base: map.at(0).cast(),
        iov_len: map.len(),
    }];
    // SAFETY: nothing is at the address any more when the pages are used; io_uring looks no
    // address up again.
    unsafe { ring.submitter().register_buffers(&buffers) }.expect("IORING_REGISTER_BUFFERS");
}

/// As many as a pipe holds.
fn pages_in_a_pipe_outlive_the_module() {
    const PAGES: usize = 16;
    let len = PAGES * page();
    let bytes = pattern(2, len);
    module::reload(&format!("buffer_pages={PAGES}"));
    let before = nobodys_pages();

    pwrite(0, &bytes);
    let (receiver, sender) = pipe().expect("pipe");
    let map = shared(open(OFlags::RDWR), PAGES);
    // SAFETY: nobody writes to the pages while the pipe has them.
    let n = unsafe {
        let raw = IoSliceRaw::from_slice(&*std::ptr::from_ref(map.as_slice(0, len)));
        vmsplice(&sender, &[raw], SpliceFlags::empty())
    };
    assert_eq!(n, Ok(len));
    drop(map);
    replace_the_module(PAGES);
    let in_pipe = nobodys_pages() - before;
    assert!(in_pipe >= PAGES as i64, "of {PAGES} pages {in_pipe} stay");

    let mut found = vec![0; len];
    assert_eq!(io::read(&receiver, &mut found), Ok(len));
    assert_same(&found, &bytes, "the old buffer's pages");
    let kept = nobodys_pages() - before;
    assert!(
        kept < PAGES as i64 / 2,
        "{kept} of {PAGES} pages are not back"
    );
}
