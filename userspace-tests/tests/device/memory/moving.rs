// SPDX-License-Identifier: GPL-2.0
//! Pages that move under their users: compaction, soft offlining, move_pages(2), memory that is taken
//! offline, while threads store to them, futexes wait in them, system calls copy. What was written is there, in another frame.
//!
//! A page that soft offlining has emptied is lost to the VM: few of them.

use std::{
    fs,
    ops::Range,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    ptr,
    sync::atomic::{
        AtomicBool,
        Ordering::{Relaxed, SeqCst},
    },
    thread,
};

use io_uring::{opcode, types::Fd};
use rust_mmapdev::{Access, Device};
use rustix::{
    fs::OFlags,
    io::{self, Errno},
    thread::futex::{self, Flags},
};

use crate::{
    calls::uring,
    harness::{skip, tests},
    support::{
        assert_same,
        large::{BOTH, Large, numbered},
        memory::{Advice, Map, RW, SHARED, mmap, mmap_skewed, page, shared, table},
        module::{self, Renew, fdinfo, fresh},
        open, pread,
        proc::{HWPOISON, flags_of_pages},
        process::fork,
        pwrite, system_call, tmpfs_file,
    },
};

tests![
    soft_offline_moves_a_page,
    soft_offline_of_a_page_in_a_huge_folio,
    soft_offline_leaves_private_copies,
    a_pinned_page_stays,
    soft_offline_while_threads_store,
    move_pages_while_threads_store,
    a_futex_waits_through_moves,
    copies_of_the_kernel_through_moves,
    mappings_made_through_moves,
    offlining_moves_all_pages,
];

/// Sets the flag when dropped: the threads of a scope must end when its body panics, too.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

fn soft_offline(map: &Map, at: usize) -> io::Result<()> {
    map.advise_part(at, page(), Advice::LinuxSoftOffline)
}

fn frame(map: &Map, at: usize) -> u64 {
    map.load(at);
    // The part is no owner.
    let part = std::mem::ManuallyDrop::new(map.part(at, page()));
    part.frames()[0].expect("a frame")
}

/// The only page of a buffer: every mapping of it leads to the new frame.
fn soft_offline_moves_a_page() {
    let _renew = Renew;
    let bytes = numbered(page());
    let maps = [(); 2].map(|()| shared(fresh(1), 1));
    pwrite(0, &bytes);
    let child = fork(|link| {
        let map = shared(open(OFlags::RDWR), 1);
        link.signal();
        link.wait();
        assert_same(&map.bytes(), &bytes, "the child's mapping");
        map.write(8, b"the child's store");
    });
    child.link.wait();
    let before = frame(&maps[0], 0);
    soft_offline(&maps[0], 0).expect("MADV_SOFT_OFFLINE");
    assert_same(&pread(0, page()), &bytes, "the buffer");
    child.link.signal();
    child.join();
    for map in &maps {
        assert_ne!(frame(map, 0), before);
        assert_same(&map.read(8, 17), b"the child's store", "the mapping");
    }
    assert_same(&pread(8, 17), b"the child's store", "the buffer");
}

/// The folio is split; the other pages of it stay where they are, and so do the other folios.
fn soft_offline_of_a_page_in_a_huge_folio() {
    let _renew = Renew;
    let buffer = Large::new(2, 0);
    let view = buffer.in_place(SHARED);
    let before = view.map.frames();
    let at = table() - 5 * page();
    soft_offline(&view.map, at).expect("MADV_SOFT_OFFLINE");
    view.check();
    view.write(at + 8, b"written");
    view.check();
    let after = view.map.frames();
    let moved: Vec<_> = (0..after.len())
        .filter(|&i| after[i] != before[i])
        .collect();
    assert_eq!(moved, [at / page()]);
    assert_eq!(fdinfo(&buffer.device, "huge_size") as usize, table());
    assert_eq!(view.map.huge_bytes(), table(), "the other folio");
}

fn soft_offline_leaves_private_copies() {
    let _renew = Renew;
    let buffer = Large::new(1, 3);
    let [shared, private] = BOTH.map(|flags| buffer.in_place(flags));
    let at = 7 * page();
    private.write_pages(at..at + 2 * page(), 1);
    let copy = frame(&private.map, at);
    let own = frame(&shared.map, at);
    soft_offline(&shared.map, at).expect("MADV_SOFT_OFFLINE");
    assert_ne!(frame(&shared.map, at), own);
    assert_eq!(frame(&private.map, at), copy);
    // A copy can be moved as well.
    soft_offline(&private.map, at).expect("MADV_SOFT_OFFLINE");
    assert_ne!(frame(&private.map, at), copy);
    shared.check();
    private.check();
}

/// What io_uring has registered stays the buffer's page, whoever wants it moved.
fn a_pinned_page_stays() {
    let _renew = Renew;
    let buffer = Large::new(1, 3);
    let view = buffer.in_place(SHARED);
    let at = 5 * page();
    let mut ring = uring::ring();
    let pinned = std::mem::ManuallyDrop::new(view.map.part(at, page()));
    uring::register(&ring, &pinned);
    let before = frame(&view.map, at);
    soft_offline(&view.map, at).expect_err("it is pinned");
    fs::write("/proc/sys/vm/compact_memory", "1").expect("compact_memory");
    assert_eq!(frame(&view.map, at), before);
    let bytes = vec![b'p'; page()];
    let file = tmpfs_file(&bytes);
    let entry = opcode::ReadFixed::new(Fd(file.as_raw_fd()), view.map.at(at), page() as u32, 0);
    assert_eq!(uring::run(&mut ring, &entry.build()), Ok(page()));
    buffer.changed(at, &bytes);
    view.check();
}

// --- while they are in use ----------------------------------------------------

/// Threads add to a word of their own in each of these pages, through mappings by entries and
/// by page tables, while `moves` is at work: no addition is lost.
pub fn while_threads_store(buffer: &Large, pages: Range<usize>, moves: impl FnOnce(&Map)) {
    const THREADS: usize = 2;
    let stop = AtomicBool::new(false);
    let view = |skew| mmap_skewed(skew, &buffer.device, 0, buffer.len(), RW, SHARED);
    let main = view(0);
    let words = |thread: usize| {
        let pages = pages.clone();
        pages.map(move |i| i * page() + 512 + 8 * thread)
    };
    for at in (0..THREADS).flat_map(words) {
        main.u64(at).store(0, SeqCst);
    }
    // Before there is a thread that might take the address that was found free.
    let maps: Vec<_> = (0..THREADS).map(|thread| view(thread * page())).collect();
    let rounds: Vec<u64> = thread::scope(|scope| {
        let threads = maps.into_iter().enumerate().map(|(thread, map)| {
            let (stop, words) = (&stop, &words);
            scope.spawn(move || {
                let mut rounds = 0;
                while !stop.load(Relaxed) || rounds < 2 {
                    rounds += 1;
                    for at in words(thread) {
                        assert_eq!(map.u64(at).fetch_add(1, Relaxed) + 1, rounds);
                    }
                }
                rounds
            })
        });
        let threads: Vec<_> = threads.collect();
        let stop = Stop(&stop);
        moves(&main);
        drop(stop);
        let ended = threads.into_iter().map(|thread| thread.join());
        ended.map(|rounds| rounds.expect("the thread")).collect()
    });
    println!("{rounds:?} rounds");
    for (thread, rounds) in rounds.iter().enumerate() {
        for at in words(thread) {
            buffer.changed(at, &rounds.to_ne_bytes());
        }
    }
    buffer.view_of(main, 0, SHARED).check();
}

fn soft_offline_while_threads_store() {
    let _renew = Renew;
    let buffer = Large::new(2, 37);
    while_threads_store(&buffer, 500..530, |map| {
        for at in [505, 506, 520, 529].map(|i| i * page()) {
            let before = frame(map, at);
            // It fails while a thread has the page in hand.
            while soft_offline(map, at).is_err() {}
            assert_ne!(frame(map, at), before);
        }
    });
}

/// move_pages(2) to a node, or to none, for all who have the pages mapped: on which node each page
/// is then, or why it could not be moved.
fn move_pages(map: &Map, at: Range<usize>, node: Option<i32>) -> Vec<i32> {
    const MPOL_MF_MOVE_ALL: i32 = 4;
    let addresses: Vec<_> = at.step_by(page()).map(|at| map.at(at)).collect();
    let nodes = node.map(|node| vec![node; addresses.len()]);
    let mut status = vec![i32::MIN; addresses.len()];
    // SAFETY: three arrays of as many elements.
    let result = system_call(unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            0,
            addresses.len(),
            addresses.as_ptr(),
            nodes.as_ref().map_or(ptr::null(), Vec::as_ptr),
            status.as_mut_ptr(),
            MPOL_MF_MOVE_ALL,
        )
    });
    // A number: so many could not be moved.
    result.expect("move_pages");
    status
}

/// To another node and back, where the VM has two; else to where they are.
fn move_pages_while_threads_store() {
    let _renew = Renew;
    let buffer = Large::new(2, 37);
    let last = i32::from(Path::new("/sys/devices/system/node/node1").exists());
    let part = 3 * page()..20 * page();
    while_threads_store(&buffer, 0..64, |map| {
        map.load_pages();
        for round in 0..6 {
            let node = round % 2 * last;
            let status = move_pages(map, part.clone(), Some(node));
            // A page that a thread has in hand stays.
            let good = [node, -Errno::BUSY.raw_os_error()];
            assert!(status.iter().all(|n| good.contains(n)), "{status:?}");
        }
    });
    if last == 1 {
        let map = shared(&buffer.device, buffer.len() / page());
        for node in [1, 0, 1] {
            map.load_pages();
            // It is busy for the second page of a folio, which goes with the first.
            move_pages(&map, 0..buffer.len(), Some(node));
            map.load_pages();
            let status = move_pages(&map, 0..buffer.len(), None);
            assert_eq!(status.iter().find(|n| **n != node), None);
            buffer.check();
        }
    }
}

/// It is the place in the buffer that a waiter waits for, not the frame.
fn a_futex_waits_through_moves() {
    let _renew = Renew;
    let buffer = Large::new(1, 3);
    let at = 11 * page();
    let map = buffer.in_place(SHARED).map;
    map.u32(at).store(0, SeqCst);
    let child = fork(|link| {
        link.signal();
        let result = futex::wait(map.u32(at), Flags::empty(), 0, None);
        assert_eq!(result, Ok(()));
        assert_eq!(map.u32(at).load(SeqCst), 7);
    });
    child.link.wait();
    let syscall = format!("/proc/{}/syscall", child.pid);
    let number = libc::SYS_futex.to_string();
    while fs::read_to_string(&syscall)
        .expect("syscall")
        .split(' ')
        .next()
        != Some(&number)
    {
        thread::yield_now();
    }
    let before = frame(&map, at);
    soft_offline(&map, at).expect("MADV_SOFT_OFFLINE");
    fs::write("/proc/sys/vm/compact_memory", "1").expect("compact_memory");
    assert_ne!(frame(&map, at), before);
    map.u32(at).store(7, SeqCst);
    assert_eq!(futex::wake(map.u32(at), Flags::empty(), 1), Ok(1));
    child.join();
}

/// What read, write and CLEAR copy is whole.
fn copies_of_the_kernel_through_moves() {
    let _renew = Renew;
    let buffer = Large::new(2, 37);
    let len = buffer.len();
    let stop = AtomicBool::new(false);
    let rounds = thread::scope(|scope| {
        let copier = scope.spawn(|| {
            let (zeros, bytes) = (vec![0; len], numbered(len));
            let mut rounds = 0;
            while !stop.load(Relaxed) || rounds < 2 {
                pwrite(0, &bytes);
                assert_same(&pread(0, len), &bytes, "what was written");
                Device::open(Access::ReadWrite)
                    .and_then(|device| device.clear())
                    .expect("CLEAR");
                assert_same(&pread(0, len), &zeros, "what was cleared");
                rounds += 1;
            }
            rounds
        });
        let stop = Stop(&stop);
        let map = mmap(open(OFlags::RDWR), 0, len, RW, SHARED).expect("mmap");
        for i in [0, 100, 511, 512, 900, 1060] {
            let before = frame(&map, i * page());
            while soft_offline(&map, i * page()).is_err() {}
            assert_ne!(frame(&map, i * page()), before);
            move_pages(&map, 0..len, Some(0));
            fs::write("/proc/sys/vm/compact_memory", "1").expect("compact_memory");
        }
        drop(stop);
        copier.join().expect("the copier")
    });
    println!("{rounds} rounds");
}

/// A mapping of one page has it at once: where the page is by then, not where it is leaving.
fn mappings_made_through_moves() {
    const MOVES: usize = 200;
    let _renew = Renew;
    let device = fresh(1);
    let stop = AtomicBool::new(false);
    shared(&device, 1).u64(8).store(0, SeqCst);
    let rounds = thread::scope(|scope| {
        let mapper = scope.spawn(|| {
            let mut rounds = 0;
            while !stop.load(Relaxed) {
                let map = shared(&device, 1);
                assert_eq!(map.u64(8).fetch_add(1, Relaxed), rounds, "the additions");
                rounds += 1;
            }
            rounds
        });
        let stop = Stop(&stop);
        let map = shared(&device, 1);
        let mut moves = 0;
        while moves < MOVES && !mapper.is_finished() {
            map.load(0);
            moves += usize::from(soft_offline(&map, 0).is_ok());
        }
        drop(stop);
        mapper.join().expect("the mapper")
    });
    println!("{rounds} mappings");
    assert_eq!(shared(&device, 1).u64(8).load(SeqCst), rounds);
}

// --- with the memory they are in ----------------------------------------------

/// A block of the machine's memory that has nothing in it but what can be moved away. When dropped,
/// it is for everything again.
struct Block {
    dir: PathBuf,
    /// Its page frames.
    frames: Range<u64>,
}

impl Block {
    /// Of those that the kernel can do without, the last. Nothing else goes there for now.
    fn empty() -> Self {
        const DIR: &str = "/sys/devices/system/memory";
        let number = |path: PathBuf| {
            let text = fs::read_to_string(&path).unwrap_or_else(|err| panic!("{path:?}: {err}"));
            u64::from_str_radix(text.trim(), 16).expect("a hexadecimal number")
        };
        let Ok(entries) = fs::read_dir(DIR) else {
            skip("this kernel takes no memory offline");
        };
        let blocks = entries.map(|entry| entry.expect(DIR).path());
        let mut blocks: Vec<_> = blocks
            .filter(|path| path.join("phys_index").exists())
            .map(|path| (number(path.join("phys_index")), path))
            .collect();
        blocks.sort();
        let frames = number(Path::new(DIR).join("block_size_bytes")) / page() as u64;
        let frames_of = |i: u64| i * frames..(i + 1) * frames;
        let is_good = |i: u64| {
            let flags = flags_of_pages(frames_of(i));
            flags.iter().all(|flags| flags & HWPOISON == 0)
        };
        // With a page that an earlier test has taken out of use, it would not come back.
        let block = blocks
            .into_iter()
            .rev()
            .find(|(i, dir)| is_good(*i) && fs::write(dir.join("state"), "offline").is_ok());
        let Some((i, dir)) = block else {
            skip("each block of memory has a bad page, or something of the kernel's own");
        };
        let block = Self {
            dir,
            frames: frames_of(i),
        };
        block.set("online_movable").expect("online_movable");
        block
    }

    fn set(&self, state: &str) -> std::io::Result<()> {
        fs::write(self.dir.join("state"), state)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // EINVAL where it is offline already, as it should be.
        let _ = self.set("offline");
        self.set("online").expect("online");
    }
}

/// New pages go where they can be moved away from; and they are, mapped and in use.
fn offlining_moves_all_pages() {
    let _renew = Renew;
    module::unload_if_loaded();
    let block = Block::empty();
    let buffer = Large::new(2, 37);
    let map = shared(&buffer.device, buffer.len() / page());
    let inside = || {
        map.load_pages();
        let frames = map.frames().into_iter().flatten();
        frames.filter(|frame| block.frames.contains(frame)).count()
    };
    assert_eq!(inside(), buffer.len() / page());
    while_threads_store(&buffer, 500..530, |_| {
        block.set("offline").expect("offline");
    });
    assert_eq!(inside(), 0);
    buffer.check();
}
