// SPDX-License-Identifier: GPL-2.0
//! ioctl(2): INFO, CLEAR, and nothing else. The numbers are the header's.

use std::thread;

use rust_mmapdev::uapi::{
    RUST_MMAPDEV_ABI_VERSION, RUST_MMAPDEV_IOC_CLEAR, RUST_MMAPDEV_IOC_INFO, rust_mmapdev_info,
};
use rustix::{
    fs::OFlags,
    io::{self, Errno},
};

use crate::{
    harness::tests,
    support::{
        assert_same, errno, ioctl,
        memory::{self, Advice, MapFlags, MprotectFlags, RW, page, private, shared},
        missing_page::{Caller, MissingPages},
        module::{fresh, initial},
        open, pattern, pread, pwrite,
    },
};

tests![
    the_interface_of_old_programs_stays,
    info_is_the_headers,
    info_needs_no_access_mode,
    info_to_a_bad_pointer_is_efault,
    info_into_a_mapping_of_the_device,
    clear_without_write_access_is_ebadf,
    anything_else_is_enotty,
    from_32_bit_programs,
    clear_zeroes_all,
    clear_leaves_private_copies,
    clear_waits_for_a_write,
    clear_and_a_write_do_not_mix,
];

/// Access mode 3 permits ioctl(2) and neither reading nor writing, see open(2).
const IOCTL_ONLY: OFlags = OFlags::from_bits_retain(3);

/// Programs that were compiled before a change of the header have its numbers in them.
fn the_interface_of_old_programs_stays() {
    const INFO: u32 = 0x8010_bb00;
    const CLEAR: u32 = 0xbb01;
    let device = fresh(1);
    let mut answer = [0; 16];
    assert_eq!(ioctl(&device, INFO, answer.as_mut_ptr()), Ok(0));
    assert_eq!(answer[..8], (page() as u64).to_ne_bytes(), "size");
    assert_eq!(answer[8..12], (page() as u32).to_ne_bytes(), "page size");
    assert_eq!(
        answer[12..],
        1_u32.to_ne_bytes(),
        "version of the interface"
    );
    assert_eq!(ioctl(&device, CLEAR, std::ptr::null_mut()), Ok(0));
    assert_same(&pread(0, page()), &vec![0; page()], "after CLEAR");
}

/// What the module was compiled with is what this test was compiled with.
fn info_is_the_headers() {
    for pages in [1, 4] {
        let device = fresh(pages);
        // More room than the answer needs, to see where it ends.
        let mut answer = [0xee_u8; size_of::<rust_mmapdev_info>() + 8];
        assert_eq!(
            ioctl(&device, RUST_MMAPDEV_IOC_INFO, answer.as_mut_ptr()),
            Ok(0)
        );
        let mut expected = (pages * page() as u64).to_ne_bytes().to_vec();
        expected.extend((page() as u32).to_ne_bytes());
        expected.extend(RUST_MMAPDEV_ABI_VERSION.to_ne_bytes());
        expected.extend([0xee; 8]);
        assert_same(&answer, &expected, "struct rust_mmapdev_info");
    }
}

fn info_needs_no_access_mode() {
    fresh(1);
    for flags in [OFlags::RDONLY, OFlags::WRONLY, IOCTL_ONLY] {
        let mut answer = [0_u8; size_of::<rust_mmapdev_info>()];
        let result = ioctl(&open(flags), RUST_MMAPDEV_IOC_INFO, answer.as_mut_ptr());
        assert_eq!(result, Ok(0), "{flags:?}");
        assert_eq!(answer[..8], (page() as u64).to_ne_bytes());
    }
}

fn info_to_a_bad_pointer_is_efault() {
    let device = fresh(1);
    let hole = memory::anonymous(2, RW, MapFlags::PRIVATE);
    hole.protect_part(page(), page(), MprotectFlags::empty())
        .expect("mprotect");
    let kernel = std::ptr::without_provenance_mut(usize::MAX - 4095);
    let read_only = memory::anonymous(1, memory::READ, MapFlags::PRIVATE);
    // Some of the answer's bytes would fit, and all but the last.
    let in_part = (0..size_of::<rust_mmapdev_info>()).map(|fit| hole.at(page() - fit));
    for pointer in in_part.chain([std::ptr::null_mut(), read_only.at(0), kernel]) {
        let result = ioctl(&device, RUST_MMAPDEV_IOC_INFO, pointer);
        assert_eq!(errno(result), Errno::FAULT, "{pointer:?}");
    }
}

fn info_into_a_mapping_of_the_device() {
    let device = fresh(1);
    let map = shared(&device, 1);
    map.advise(Advice::LinuxDontNeed).expect("madvise");
    assert_eq!(ioctl(&device, RUST_MMAPDEV_IOC_INFO, map.at(0)), Ok(0));
    assert_eq!(pread(0, 8), (page() as u64).to_ne_bytes());
}

fn clear_zeroes_all() {
    let device = fresh(4);
    let map = shared(&device, 4);
    let fds = [open(OFlags::RDWR), open(OFlags::WRONLY)];
    for fd in &fds {
        pwrite(0, &pattern(1, 4 * page()));
        assert_eq!(
            ioctl(fd, RUST_MMAPDEV_IOC_CLEAR, std::ptr::null_mut()),
            Ok(0)
        );
        assert_same(&map.bytes(), &vec![0; 4 * page()], "a mapping, at once");
        assert_same(&pread(0, 4 * page()), &vec![0; 4 * page()], "the buffer");
    }
}

fn clear_leaves_private_copies() {
    let device = fresh(4);
    let map = private(&device, 2);
    map.write(0, b"mine");
    assert_eq!(
        ioctl(&device, RUST_MMAPDEV_IOC_CLEAR, std::ptr::null_mut()),
        Ok(0)
    );
    assert_same(&map.read(0, 4), b"mine", "the page that was written to");
    assert_same(
        &map.read(page(), page()),
        &vec![0; page()],
        "the page that was not",
    );
}

/// One that stands still in the middle of its bytes: none of them come after the zeros.
fn clear_waits_for_a_write() {
    let device = fresh(4);
    let missing_pages = MissingPages::new(2, b'a');
    thread::scope(|scope| {
        missing_pages.stop_a_write(scope, &device);
        let clear = Caller::start(scope, || device.clear().expect("CLEAR"));
        clear.wait_until_it_sleeps_in(libc::SYS_ioctl);
        missing_pages.resolve();
    });
    assert_same(&pread(0, 4 * page()), &vec![0; 4 * page()], "the buffer");
}

/// CLEAR of many pages while a write waits for its turn: it is over when the write begins.
fn clear_and_a_write_do_not_mix() {
    const PAGES: usize = 2048;
    let device = fresh(PAGES as u64);
    let bytes = vec![b'b'; PAGES * page()];
    let missing_pages = MissingPages::new(2, b'a');
    thread::scope(|scope| {
        missing_pages.stop_a_write(scope, &device);
        let clear = Caller::start(scope, || device.clear().expect("CLEAR"));
        clear.wait_until_it_sleeps_in(libc::SYS_ioctl);
        let write = Caller::start(scope, || {
            assert_eq!(io::pwrite(&device, &bytes, 0), Ok(bytes.len()));
        });
        write.wait_until_it_sleeps_in(libc::SYS_pwrite64);
        missing_pages.resolve();
    });
    let found = pread(0, bytes.len());
    assert_same(
        &found,
        &vec![found[0]; found.len()],
        "zeros, or what was written",
    );
}

fn clear_without_write_access_is_ebadf() {
    fresh(1);
    for mode in [OFlags::RDONLY, IOCTL_ONLY] {
        let result = ioctl(&open(mode), RUST_MMAPDEV_IOC_CLEAR, std::ptr::null_mut());
        assert_eq!(errno(result), Errno::BADF, "{mode:?}");
        assert_same(&pread(0, page()), &initial(page()), "the buffer");
    }
}

fn anything_else_is_enotty() {
    let device = fresh(1);
    let mut answer = [0_u8; 64];
    for command in [
        0,
        // The header's numbers with another direction, size, type or number.
        RUST_MMAPDEV_IOC_INFO & 0xffff,
        RUST_MMAPDEV_IOC_INFO + (1 << 16),
        RUST_MMAPDEV_IOC_INFO + (1 << 8),
        RUST_MMAPDEV_IOC_INFO ^ (3 << 30),
        RUST_MMAPDEV_IOC_CLEAR + 1,
        RUST_MMAPDEV_IOC_CLEAR | (8 << 16),
        libc::TCGETS as u32,
        u32::MAX,
    ] {
        let result = ioctl(&device, command, answer.as_mut_ptr());
        assert_eq!(errno(result), Errno::NOTTY, "command {command:#x}");
    }
    assert_same(&pread(0, page()), &initial(page()), "the buffer");
}

/// The structure has one layout for programs of both sizes: the 32-bit entry of a 64-bit kernel
/// gives the same answer.
fn from_32_bit_programs() {
    #[cfg(target_arch = "x86_64")]
    {
        use std::os::fd::AsRawFd;
        const IOCTL_32: u32 = 54;
        let low = MapFlags::PRIVATE | MapFlags::from_bits_retain(libc::MAP_32BIT as u32);
        let answer = memory::anonymous(1, RW, low);
        let call = |fd: i32, command: u32, argument: u32| {
            let result: i32;
            // SAFETY: the 32-bit ioctl; rbx is the compiler's, so it is put back.
            unsafe {
                std::arch::asm!(
                    "xchg rbx, {fd}",
                    "int 0x80",
                    "xchg rbx, {fd}",
                    fd = inout(reg) u64::from(fd as u32) => _,
                    inlateout("eax") IOCTL_32 => result,
                    in("ecx") command,
                    in("edx") argument,
                    out("r8") _, out("r9") _, out("r10") _, out("r11") _,
                );
            }
            result
        };
        let device = fresh(1);
        let fd = device.as_raw_fd();
        assert_eq!(call(fd, RUST_MMAPDEV_IOC_INFO, answer.at(0) as u32), 0);
        assert_eq!(answer.read(0, 8), (page() as u64).to_ne_bytes());
        assert_eq!(call(fd, RUST_MMAPDEV_IOC_CLEAR, 0), 0);
        assert_same(&pread(0, page()), &vec![0; page()], "the buffer");
        assert_eq!(call(fd, 0, 0), -Errno::NOTTY.raw_os_error());
        let reader = open(OFlags::RDONLY);
        let refused = call(reader.as_raw_fd(), RUST_MMAPDEV_IOC_CLEAR, 0);
        assert_eq!(refused, -Errno::BADF.raw_os_error());
    }
    #[cfg(not(target_arch = "x86_64"))]
    crate::harness::skip("no 32-bit entry that a 64-bit program can use");
}
