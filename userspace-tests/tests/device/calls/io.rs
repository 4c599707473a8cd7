// SPDX-License-Identifier: GPL-2.0
//! The kernel's other ways to move bytes: splice and sendfile, vmsplice, process_vm_*, O_DIRECT,
//! /proc/PID/mem, ptrace, sockets. From and to the device, from and to a mapping of it.

use std::{
    fs::{File, OpenOptions},
    io::IoSliceMut,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{fs::FileExt, net::UnixStream},
    },
    ptr,
};

use rustix::{
    fs::{Mode, OFlags, sendfile, tell},
    io::{self, Errno, IoSlice},
    pipe::{IoSliceRaw, SpliceFlags, pipe, splice, vmsplice},
};

use crate::{
    harness::{on_debug_kernel, tests},
    support::{
        assert_same, errno,
        memory::{Advice, Map, PRIVATE, READ, mmap, page, private, shared},
        module::{fresh, initial},
        pattern, pread,
        process::{mapper, traced},
        pwrite, system_call, tmpfs_file,
    },
};

tests![
    splice_from_the_device,
    splice_to_the_device,
    splice_ends_at_the_end,
    splice_uses_the_position,
    sendfile_from_the_device,
    sendfile_to_the_device,
    vmsplice_from_a_mapping,
    vmsplice_hands_over_the_page_itself,
    vmsplice_to_a_mapping,
    process_vm_readv_of_another_process,
    process_vm_writev_to_another_process,
    direct_io_from_a_mapping,
    direct_io_to_a_mapping,
    proc_mem_of_another_process,
    ptrace_peeks_and_pokes,
    ptrace_pokes_a_copy_of_a_private_page,
    socket_from_and_to_a_mapping,
];

const NO_FLAGS: SpliceFlags = SpliceFlags::empty();

pub fn read_exactly(fd: impl AsFd, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut done = 0;
    while done < len {
        match io::read(&fd, &mut bytes[done..]).expect("read") {
            0 => break,
            n => done += n,
        }
    }
    bytes.truncate(done);
    bytes
}

fn splice_from_the_device() {
    let device = fresh(4);
    let bytes = pattern(1, 4 * page());
    pwrite(0, &bytes);
    let (receiver, sender) = pipe().expect("pipe");
    for (offset, len) in [(0, page()), (100, 2 * page()), (4 * page() - 10, 10)] {
        let end = (offset + len) as u64;
        let mut position = offset as u64;
        // The debug kernel, which keeps page owners, hands over one page a call.
        while position < end {
            let (from, left) = (position, (end - position) as usize);
            let n = splice(&device, Some(&mut position), &sender, None, left, NO_FLAGS);
            let n = n.expect("splice");
            let short = on_debug_kernel() && n > 0 && n < left;
            assert!(short || n == left, "{n} of {left} bytes from {from}");
            assert_eq!(position, from + n as u64);
        }
        let found = read_exactly(&receiver, len);
        assert_same(
            &found,
            &bytes[offset..offset + len],
            "what came through the pipe",
        );
    }
}

fn splice_to_the_device() {
    let device = fresh(4);
    let (receiver, sender) = pipe().expect("pipe");
    let bytes = pattern(2, 2 * page());
    let mut expected = pread(0, 4 * page());
    assert_eq!(io::write(&sender, &bytes), Ok(bytes.len()));
    let mut position = 100;
    let n = splice(
        &receiver,
        None,
        &device,
        Some(&mut position),
        bytes.len(),
        NO_FLAGS,
    );
    assert_eq!(n, Ok(bytes.len()));
    expected[100..100 + bytes.len()].copy_from_slice(&bytes);
    assert_same(&pread(0, 4 * page()), &expected, "the buffer");
}

fn splice_ends_at_the_end() {
    let device = fresh(1);
    let (receiver, sender) = pipe().expect("pipe");
    let size = page() as u64;
    let n = splice(
        &device,
        Some(&mut (size - 10)),
        &sender,
        None,
        100,
        NO_FLAGS,
    );
    assert_eq!(n, Ok(10), "short at the end");
    read_exactly(&receiver, 10);
    for offset in [size, size + 1] {
        let n = splice(
            &device,
            Some(&mut offset.clone()),
            &sender,
            None,
            100,
            NO_FLAGS,
        );
        assert_eq!(n, Ok(0), "at {offset}");
    }
    io::write(&sender, &[b'!'; 100]).expect("write");
    let n = splice(
        &receiver,
        None,
        &device,
        Some(&mut (size - 10)),
        100,
        NO_FLAGS,
    );
    assert_eq!(n, Ok(10), "short at the end");
    assert_same(&pread(size - 10, 10), &[b'!'; 10], "the end of the buffer");
    let n = splice(
        &receiver,
        None,
        &device,
        Some(&mut size.clone()),
        90,
        NO_FLAGS,
    );
    assert_eq!(errno(n), Errno::NOSPC);
}

fn splice_uses_the_position() {
    let device = fresh(1);
    let (receiver, sender) = pipe().expect("pipe");
    assert_eq!(splice(&device, None, &sender, None, 12, NO_FLAGS), Ok(12));
    assert_eq!(tell(&device), Ok(12));
    assert_eq!(splice(&receiver, None, &device, None, 12, NO_FLAGS), Ok(12));
    assert_eq!(tell(&device), Ok(24));
    assert_same(&pread(12, 12), &initial(12), "the copy");
}

fn sendfile_from_the_device() {
    let device = fresh(4);
    let bytes = pattern(3, 4 * page());
    pwrite(0, &bytes);
    let file = tmpfs_file(b"");
    assert_eq!(
        sendfile(&file, &device, Some(&mut 0), 8 * page()),
        Ok(4 * page())
    );
    let mut found = vec![0; 4 * page()];
    file.read_exact_at(&mut found, 0).expect("read");
    assert_same(&found, &bytes, "the file");
}

fn sendfile_to_the_device() {
    let device = fresh(4);
    let bytes = pattern(4, 3 * page());
    let file = tmpfs_file(&bytes);
    let n = sendfile(&device, &file, Some(&mut 0), bytes.len());
    assert_eq!(n, Ok(bytes.len()));
    assert_same(&pread(0, bytes.len()), &bytes, "the buffer");
    assert_eq!(tell(&device), Ok(bytes.len() as u64));
}

/// A part of a mapping, for calls that take addresses.
pub fn raw(map: &Map, offset: usize, len: usize) -> IoSliceRaw<'static> {
    // SAFETY: the address is for the kernel only, while `map` is alive.
    IoSliceRaw::from_slice(unsafe { &*ptr::from_ref(map.as_slice(offset, len)) })
}

fn vmsplice_from_a_mapping() {
    let device = fresh(4);
    let bytes = pattern(5, 2 * page());
    pwrite(0, &bytes);
    for map in [shared(&device, 2), private(&device, 2)] {
        map.advise(Advice::LinuxDontNeed).expect("madvise");
        let (receiver, sender) = pipe().expect("pipe");
        // SAFETY: the pages stay as they are until they are read from the pipe.
        let n = unsafe { vmsplice(&sender, &[raw(&map, 50, page())], NO_FLAGS) };
        assert_eq!(n, Ok(page()));
        let found = read_exactly(&receiver, page());
        assert_same(
            &found,
            &bytes[50..50 + page()],
            "what came through the pipe",
        );
    }
}

/// So what is stored afterwards is what comes out.
fn vmsplice_hands_over_the_page_itself() {
    let device = fresh(1);
    let (map, (receiver, sender)) = (shared(&device, 1), pipe().expect("pipe"));
    map.write(0, b"before");
    // SAFETY: the page stays.
    let n = unsafe { vmsplice(&sender, &[raw(&map, 0, 6)], NO_FLAGS) };
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

fn vmsplice_to_a_mapping() {
    let device = fresh(1);
    let (receiver, sender) = pipe().expect("pipe");
    for (map, shown) in [(private(&device, 1), false), (shared(&device, 1), true)] {
        map.advise(Advice::LinuxDontNeed).expect("madvise");
        io::write(&sender, b"from a pipe").expect("write");
        // SAFETY: the range is writable memory that only the kernel accesses meanwhile.
        let n = unsafe { vmsplice(&receiver, &[raw(&map, 7, 11)], NO_FLAGS) };
        assert_eq!(n, Ok(11));
        assert_same(&map.read(7, 11), b"from a pipe", "the mapping");
        assert_eq!(
            pread(7, 11) == b"from a pipe",
            shown,
            "in the buffer when shared only"
        );
    }
}

pub fn vectors(bytes: &mut [u8], address: usize) -> [libc::iovec; 2] {
    let iov_len = bytes.len();
    [
        libc::iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len,
        },
        libc::iovec {
            iov_base: ptr::without_provenance_mut(address),
            iov_len,
        },
    ]
}

fn process_vm_readv_of_another_process() {
    fresh(1);
    let bytes = pattern(6, page());
    pwrite(0, &bytes);
    for map in [|fd| shared(fd, 1), |fd| private(fd, 1)] {
        let (child, address) = mapper(map);
        let mut found = vec![0; page()];
        let [local, remote] = vectors(&mut found, address);
        let pid = child.pid.as_raw_nonzero().get();
        // SAFETY: the local vector describes `found`.
        let n = system_call(unsafe { libc::process_vm_readv(pid, &local, 1, &remote, 1, 0) });
        assert_eq!(n, Ok(page()));
        assert_same(&found, &bytes, "the other process's mapping");
    }
}

fn process_vm_writev_to_another_process() {
    fresh(1);
    let bytes = pattern(7, page());
    type MakeMap = fn(OwnedFd) -> Map;
    let maps: [(MakeMap, bool); 2] = [(|fd| private(fd, 1), false), (|fd| shared(fd, 1), true)];
    for (map, shown) in maps {
        let (child, address) = mapper(map);
        let mut source = bytes.clone();
        let [local, remote] = vectors(&mut source, address);
        let pid = child.pid.as_raw_nonzero().get();
        // SAFETY: the local vector describes `source`.
        let n = system_call(unsafe { libc::process_vm_writev(pid, &local, 1, &remote, 1, 0) });
        assert_eq!(n, Ok(page()));
        let expected = if shown {
            bytes.clone()
        } else {
            initial(page())
        };
        assert_same(&pread(0, page()), &expected, "the buffer");
    }
}

/// A file in the VM's only kind of file system, opened with O_DIRECT.
pub fn direct_file() -> OwnedFd {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::DIRECT | OFlags::CLOEXEC;
    rustix::fs::open("/tmp/direct", flags, Mode::RUSR | Mode::WUSR).expect("open with O_DIRECT")
}

fn direct_io_from_a_mapping() {
    let device = fresh(4);
    let bytes = pattern(8, 2 * page());
    pwrite(0, &bytes);
    for map in [shared(&device, 2), private(&device, 2)] {
        map.advise(Advice::LinuxDontNeed).expect("madvise");
        let file = direct_file();
        // SAFETY: the address is for the kernel only.
        let n = io::pwrite(&file, unsafe { map.as_slice(0, 2 * page()) }, 0);
        assert_eq!(n, Ok(2 * page()));
        let mut found = vec![0; 2 * page()];
        File::open("/tmp/direct")
            .expect("open")
            .read_exact_at(&mut found, 0)
            .expect("read");
        assert_same(&found, &bytes, "the file");
    }
}

fn direct_io_to_a_mapping() {
    let device = fresh(4);
    let bytes = pattern(9, 2 * page());
    let file = direct_file();
    let copy = File::create("/tmp/direct").expect("create");
    copy.write_all_at(&bytes, 0).expect("write");
    for (map, shown) in [(private(&device, 2), false), (shared(&device, 2), true)] {
        map.advise(Advice::LinuxDontNeed).expect("madvise");
        // SAFETY: the address is for the kernel only.
        let n = io::pread(&file, unsafe { map.as_mut_slice(0, 2 * page()) }, 0);
        assert_eq!(n, Ok(2 * page()));
        assert_same(&map.bytes(), &bytes, "the mapping");
        assert_eq!(
            pread(0, 2 * page()) == bytes,
            shown,
            "in the buffer when shared only"
        );
    }
}

fn proc_mem_of_another_process() {
    fresh(1);
    let bytes = pattern(10, page());
    pwrite(0, &bytes);
    let (child, address) = mapper(|fd| shared(fd, 1));
    let path = format!("/proc/{}/mem", child.pid);
    let memory = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .expect("/proc/PID/mem");
    let mut found = vec![0; page()];
    memory
        .read_exact_at(&mut found, address as u64)
        .expect("read");
    assert_same(&found, &bytes, "the other process's mapping");
    memory
        .write_all_at(b"through /proc", address as u64 + 9)
        .expect("write");
    assert_same(&pread(9, 13), b"through /proc", "the buffer");
}

fn ptrace_peeks_and_pokes() {
    fresh(1);
    pwrite(16, b"peek me!");
    let (child, address) = mapper(|fd| shared(fd, 1));
    traced(&child, |pid| {
        let word: *mut libc::c_void = ptr::without_provenance_mut(address + 16);
        let data: *mut libc::c_void =
            ptr::without_provenance_mut(usize::from_ne_bytes(*b"poke you"));
        // SAFETY: the addresses are the other process's.
        unsafe {
            let found = libc::ptrace(libc::PTRACE_PEEKDATA, pid, word, ptr::null_mut::<u8>());
            assert_eq!(found.to_ne_bytes(), *b"peek me!");
            assert_eq!(libc::ptrace(libc::PTRACE_POKEDATA, pid, word, data), 0);
        }
    });
    assert_same(&pread(16, 8), b"poke you", "the buffer");
}

/// A debugger's breakpoint in a private mapping is that process's alone.
fn ptrace_pokes_a_copy_of_a_private_page() {
    fresh(1);
    let map = |fd| mmap(fd, 0, page(), READ, PRIVATE).expect("mmap");
    let (child, address) = mapper(map);
    traced(&child, |pid| {
        let word: *mut libc::c_void = ptr::without_provenance_mut(address);
        // SAFETY: the addresses are the other process's.
        unsafe {
            let poked = libc::ptrace(libc::PTRACE_POKEDATA, pid, word, ptr::null_mut::<u8>());
            assert_eq!(poked, 0);
            let found = libc::ptrace(libc::PTRACE_PEEKDATA, pid, word, ptr::null_mut::<u8>());
            assert_eq!(found, 0);
        }
    });
    assert_same(&pread(0, page()), &initial(page()), "the buffer");
}

fn socket_from_and_to_a_mapping() {
    let device = fresh(4);
    let bytes = pattern(11, page());
    pwrite(0, &bytes);
    let map = shared(&device, 2);
    map.advise(Advice::LinuxDontNeed).expect("madvise");
    let (a, b) = UnixStream::pair().expect("socketpair");
    // SAFETY: the addresses are for the kernel only.
    let (from, to) = unsafe { (map.as_slice(0, page()), map.as_mut_slice(page(), page())) };
    assert_eq!(io::writev(&a, &[IoSlice::new(from)]), Ok(page()));
    assert_eq!(io::readv(&b, &mut [IoSliceMut::new(to)]), Ok(page()));
    assert_same(
        &pread(page() as u64, page()),
        &bytes,
        "the second page of the buffer",
    );
}
