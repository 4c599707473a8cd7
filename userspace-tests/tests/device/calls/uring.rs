// SPDX-License-Identifier: GPL-2.0
//! io_uring: the device as a file, and mappings of it as buffers, registered ones too.

use std::os::fd::{AsRawFd, RawFd};

use io_uring::{IoUring, opcode, squeue, types::Fd};
use rust_mmapdev::Device;
use rustix::{fs::tell, io::Errno, pipe::pipe};

use crate::{
    harness::tests,
    support::{
        assert_same,
        memory::{Advice, Map, page, private, shared},
        module::fresh,
        pattern, pread, pwrite,
    },
};

tests![
    short_and_full,
    uses_the_position,
    syncs,
    fixed_buffers_in_a_private_mapping,
    reads_and_writes,
    reads_into_a_mapping_of_the_device,
    fixed_buffers_in_a_shared_mapping,
];

pub fn ring() -> IoUring {
    IoUring::new(4).expect("io_uring_setup")
}

/// Submits one entry, and returns its result.
pub fn run(ring: &mut IoUring, entry: &squeue::Entry) -> Result<usize, Errno> {
    // SAFETY: the entry's buffers live until its completion, which is waited for here.
    unsafe { ring.submission().push(entry).expect("room for an entry") };
    ring.submit_and_wait(1).expect("io_uring_enter");
    let result = ring.completion().next().expect("a completion").result();
    usize::try_from(result).map_err(|_| Errno::from_raw_os_error(-result))
}

fn fd(device: &Device) -> Fd {
    Fd(device.as_raw_fd() as RawFd)
}

fn read(device: &Device, buffer: *mut u8, len: usize, offset: u64) -> squeue::Entry {
    opcode::Read::new(fd(device), buffer, len as u32)
        .offset(offset)
        .build()
}

fn write(device: &Device, buffer: *const u8, len: usize, offset: u64) -> squeue::Entry {
    opcode::Write::new(fd(device), buffer, len as u32)
        .offset(offset)
        .build()
}

fn reads_and_writes() {
    let device = fresh(4);
    let bytes = pattern(1, 2 * page());
    let mut found = vec![0; 2 * page()];
    let mut ring = ring();
    let entry = write(&device, bytes.as_ptr(), bytes.len(), 100);
    assert_eq!(run(&mut ring, &entry), Ok(bytes.len()));
    assert_same(&pread(100, bytes.len()), &bytes, "the buffer");
    let entry = read(&device, found.as_mut_ptr(), found.len(), 100);
    assert_eq!(run(&mut ring, &entry), Ok(bytes.len()));
    assert_same(&found, &bytes, "what was read");
}

fn short_and_full() {
    let device = fresh(1);
    let mut buffer = [b'!'; 100];
    let size = page() as u64;
    let mut ring = ring();
    let len = buffer.len();
    assert_eq!(
        run(&mut ring, &write(&device, buffer.as_ptr(), len, size - 10)),
        Ok(10)
    );
    assert_eq!(
        run(&mut ring, &write(&device, buffer.as_ptr(), len, size)),
        Err(Errno::NOSPC)
    );
    assert_eq!(
        run(
            &mut ring,
            &read(&device, buffer.as_mut_ptr(), len, size - 10)
        ),
        Ok(10)
    );
    assert_eq!(
        run(&mut ring, &read(&device, buffer.as_mut_ptr(), len, size)),
        Ok(0)
    );
}

fn uses_the_position() {
    let device = fresh(1);
    let mut ring = ring();
    let mut found = [0; 4];
    assert_eq!(
        run(
            &mut ring,
            &write(&device, b"abcdefgh".as_ptr(), 8, u64::MAX)
        ),
        Ok(8)
    );
    assert_eq!(tell(&device), Ok(8));
    assert_eq!(
        run(&mut ring, &read(&device, found.as_mut_ptr(), 4, u64::MAX)),
        Ok(4)
    );
    assert_eq!(tell(&device), Ok(12));
    assert_same(&found, &pread(8, 4), "what follows the written bytes");
}

fn syncs() {
    let device = fresh(1);
    let entry = opcode::Fsync::new(fd(&device)).build();
    assert_eq!(run(&mut ring(), &entry), Ok(0));
}

fn reads_into_a_mapping_of_the_device() {
    let device = fresh(4);
    let bytes = pattern(2, page());
    pwrite(0, &bytes);
    let map = shared(&device, 2);
    map.advise(Advice::LinuxDontNeed).expect("madvise");
    let entry = read(&device, map.at(page()), page(), 0);
    assert_eq!(run(&mut ring(), &entry), Ok(page()));
    assert_same(&pread(page() as u64, page()), &bytes, "the second page");
}

pub fn register(ring: &IoUring, map: &Map) {
    let iov_base = map.at(0).cast();
    let buffers = [libc::iovec {
        iov_base,
        iov_len: map.len(),
    }];
    // SAFETY: the mapping stays until the buffers are unregistered.
    unsafe { ring.submitter().register_buffers(&buffers) }.expect("IORING_REGISTER_BUFFERS");
}

fn fixed_buffers_in_a_shared_mapping() {
    let device = fresh(4);
    let map = shared(&device, 2);
    map.advise(Advice::LinuxDontNeed).expect("madvise");
    let mut ring = ring();
    register(&ring, &map);
    let (receiver, sender) = pipe().expect("pipe");
    let bytes = pattern(3, page());
    pwrite(0, &bytes);
    let entry =
        opcode::WriteFixed::new(Fd(sender.as_raw_fd()), map.at(0), page() as u32, 0).build();
    assert_eq!(run(&mut ring, &entry), Ok(page()));
    let entry =
        opcode::ReadFixed::new(Fd(receiver.as_raw_fd()), map.at(page()), page() as u32, 0).build();
    assert_eq!(run(&mut ring, &entry), Ok(page()));
    assert_same(
        &pread(page() as u64, page()),
        &bytes,
        "the second page of the buffer",
    );
    ring.submitter()
        .unregister_buffers()
        .expect("IORING_UNREGISTER_BUFFERS");
}

fn fixed_buffers_in_a_private_mapping() {
    let device = fresh(1);
    let map = private(&device, 1);
    let before = pread(0, page());
    let mut ring = ring();
    register(&ring, &map);
    let (receiver, sender) = pipe().expect("pipe");
    rustix::io::write(&sender, b"secret").expect("write");
    let entry = opcode::ReadFixed::new(Fd(receiver.as_raw_fd()), map.at(0), 6, 0).build();
    assert_eq!(run(&mut ring, &entry), Ok(6));
    assert_same(&map.read(0, 6), b"secret", "the private page");
    assert_same(&pread(0, page()), &before, "the buffer");
    ring.submitter()
        .unregister_buffers()
        .expect("IORING_UNREGISTER_BUFFERS");
}
