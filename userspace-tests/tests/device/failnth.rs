// SPDX-License-Identifier: GPL-2.0
//! Every allocation, and every copy from and to user space, of every call is made to fail, one at
//! a time: the call gives its errno, leaves nothing, and succeeds afterwards.

use std::{
    cell::Cell,
    fs::{self, File},
    io::IoSliceMut,
    os::fd::AsRawFd,
    path::Path,
};

use rust_mmapdev::Device;
use rustix::{
    fs::{Mode, OFlags, sendfile},
    io::{self, Errno},
    mm::{MremapFlags, mremap_fixed, munmap},
    pipe::{SpliceFlags, pipe, splice},
    process::{Pid, WaitOptions, waitpid},
    system::finit_module,
};

use crate::{
    harness::tests,
    support::{
        assert_same,
        injection::Injection,
        memory::{
            self, Advice, Map, MapFlags, MprotectFlags, PRIVATE, RW, SHARED, mmap_at, page,
            private, shared,
        },
        module::{self, fresh, initial, live_mappings, references},
        open, pattern, pread,
        proc::page_count,
        pwrite, system_call, tmpfs_file,
    },
};

tests![
    open_close,
    mmap_of_one_page,
    mmap_across_page_tables,
    the_first_store_to_a_private_page,
    an_access_after_dontneed,
    populate_after_dontneed,
    a_copy_to_a_page_that_is_not_there,
    fork,
    mprotect_of_a_part,
    munmap_of_a_part,
    mremap_to_another_place,
    read,
    readv,
    write,
    splice_from_the_device,
    splice_to_the_device,
    sendfile_from_the_device,
    ioctl_info,
    ioctl_clear,
    fdinfo,
    insmod_odd_failures,
    insmod_even_failures,
];

/// Every second failure of a load, in two tests that share the time it takes: either nothing of the
/// module is there afterwards, or all of it works.
fn insmod(first: u32) {
    let injection = Injection::new();
    module::unload_if_loaded();
    let file = File::open(module::FILE).expect("the module");
    let (mut failed, mut absorbed) = (0, 0);
    for nth in (first..).step_by(2) {
        let Some(result) = injection.at(nth, || finit_module(&file, c"buffer_pages=3", 0)) else {
            break;
        };
        match result {
            Ok(()) => {
                absorbed += 1;
                let map = shared(open(OFlags::RDWR), 3);
                assert_same(&map.bytes(), &initial(3 * page()), "the buffer");
                drop(map);
                module::unload().expect("rmmod");
            }
            // What an earlier failure had left in the way would be another error.
            Err(Errno::NOMEM | Errno::FAULT) => {
                failed += 1;
                assert!(!module::is_loaded(), "failure {nth}");
                assert!(!Path::new(Device::PATH).exists(), "failure {nth}");
            }
            Err(err) => panic!("failure {nth}: {err}"),
        }
    }
    assert!(module::is_loaded(), "insmod, when nothing fails");
    println!("{failed} failed, {absorbed} absorbed");
    // The loader, sysfs and the driver core make some 300 allocations, and get along without many.
    assert!(failed >= 50 && absorbed >= 50);
}

fn insmod_odd_failures() {
    insmod(1);
}

fn insmod_even_failures() {
    insmod(2);
}

fn open_close() {
    let injection = Injection::new();
    fresh(1);
    let outcomes = injection.each(
        &[Errno::NOMEM, Errno::FAULT],
        || rustix::fs::open(Device::PATH, OFlags::RDWR, Mode::empty()),
        || assert_eq!(references(), 0),
    );
    outcomes.assert(Errno::NOMEM, 1);
}

/// The device's VMAs in this process.
fn vmas() -> u64 {
    let maps = fs::read_to_string("/proc/self/maps").expect("maps");
    maps.matches(Device::PATH).count() as u64
}

/// Where nothing is mapped, so that page tables of each level are missing.
const NOWHERE: usize = 0x1234_5600_0000;

/// The device at [`NOWHERE`], less some pages.
fn mmap_nowhere(device: &Device, before: usize, pages: usize, flags: MapFlags) -> io::Result<Map> {
    let address = NOWHERE - before * page();
    let flags = flags | MapFlags::FIXED_NOREPLACE;
    mmap_at(address, device, pages * page(), RW, flags)
}

fn mmap_of_one_page() {
    let injection = Injection::new();
    let device = fresh(1);
    for flags in [SHARED, PRIVATE] {
        let outcomes = injection.each(
            &[Errno::NOMEM],
            || mmap_nowhere(&device, 0, 1, flags),
            || assert_eq!((references(), live_mappings()), (1, 0)),
        );
        // Two without those of the insertion.
        outcomes.assert(Errno::NOMEM, 5);
    }
}

/// The failure comes with some pages in place, of one page table or of two: none stays mapped.
fn mmap_across_page_tables() {
    const PAGES: usize = 516;
    let injection = Injection::new();
    let device = fresh(PAGES as u64);
    let witness = shared(&device, PAGES);
    let frames = witness.frames();
    for flags in [SHARED, PRIVATE] {
        let outcomes = injection.each(
            &[Errno::NOMEM],
            || mmap_nowhere(&device, 2, PAGES, flags),
            || {
                assert_eq!((references(), live_mappings()), (1, 1));
                assert_eq!(vmas(), 1, "the witness");
                for at in [0, 1, 2, 300, 513, 514, PAGES - 1] {
                    let frame = frames[at].expect("a page");
                    assert_eq!(page_count(frame), 1, "mappings of page {at}");
                }
            },
        );
        outcomes.assert(Errno::NOMEM, 6);
    }
}

/// The kernel has the store try again: nobody is killed.
fn the_first_store_to_a_private_page() {
    let injection = Injection::new();
    let device = fresh(1);
    let map = private(&device, 1);
    let outcomes = injection.each(
        &[],
        || {
            map.write(0, b"copied");
            assert_eq!(map.read(0, 6), b"copied");
            Ok(())
        },
        || {
            map.advise(Advice::LinuxDontNeed).expect("madvise");
            assert_same(&map.bytes(), &initial(page()), "the kernel's bytes");
        },
    );
    assert!(outcomes.absorbed >= 1);
}

/// As many pages as a page table has, which goes when all of them are taken out.
const TABLE: usize = 512;

fn an_access_after_dontneed() {
    let injection = Injection::new();
    let device = fresh(TABLE as u64);
    for flags in [SHARED, PRIVATE] {
        let map = mmap_nowhere(&device, 0, TABLE, flags).expect("mmap");
        let outcomes = injection.each(
            &[],
            || {
                assert_eq!(map.read(0, 4), b"rust");
                Ok(())
            },
            || map.advise(Advice::LinuxDontNeed).expect("madvise"),
        );
        assert!(outcomes.absorbed >= 1);
    }
}

fn populate_after_dontneed() {
    let injection = Injection::new();
    let device = fresh(TABLE as u64);
    for flags in [SHARED, PRIVATE] {
        let map = mmap_nowhere(&device, 0, TABLE, flags).expect("mmap");
        let outcomes = injection.each(
            &[Errno::NOMEM],
            || map.advise_part(0, page(), Advice::LinuxPopulateWrite),
            || {
                map.advise(Advice::LinuxDontNeed).expect("madvise");
                assert_eq!(live_mappings(), 1);
            },
        );
        outcomes.assert(Errno::NOMEM, 1);
    }
}

/// Unlike a load of the process's own, the kernel's copy is not tried again when its fault finds no
/// memory.
fn a_copy_to_a_page_that_is_not_there() {
    let injection = Injection::new();
    let device = fresh(1);
    let map = private(&device, 1);
    let outcomes = injection.each(
        &[Errno::FAULT],
        || {
            // SAFETY: only the kernel looks behind the address.
            let n = io::pread(&device, unsafe { map.as_mut_slice(page() - 4, 4) }, 0)?;
            assert_eq!(n, 4);
            assert_eq!(map.read(page() - 4, 4), b"rust");
            Ok(())
        },
        || map.advise(Advice::LinuxDontNeed).expect("madvise"),
    );
    outcomes.assert(Errno::FAULT, 1);
}

#[derive(Debug)]
struct Ending(Pid);

impl Drop for Ending {
    fn drop(&mut self) {
        waitpid(Some(self.0), WaitOptions::empty()).expect("waitpid");
    }
}

fn fork() {
    let injection = Injection::new();
    let device = fresh(4);
    let (map, copy) = (shared(&device, 4), private(&device, 4));
    copy.write(0, b"copied");
    drop(device);
    let outcomes = injection.each(
        &[Errno::NOMEM, Errno::AGAIN],
        || {
            // SAFETY: the child ends at once.
            let pid = system_call(unsafe { libc::fork() })?;
            if pid == 0 {
                // SAFETY: as above.
                unsafe { libc::_exit(0) };
            }
            Ok(Ending(Pid::from_raw(pid as i32).expect("a pid")))
        },
        || {
            assert_eq!((references(), live_mappings()), (1, 2));
            assert_same(&map.bytes(), &initial(4 * page()), "the shared mapping");
            assert_same(&copy.read(0, 6), b"copied", "the private one");
        },
    );
    outcomes.assert(Errno::NOMEM, 10);
}

/// Splits the VMA in three, or leaves it whole, or in two.
fn mprotect_of_a_part() {
    let injection = Injection::new();
    let device = fresh(5);
    let place = memory::anonymous(5, RW, PRIVATE);
    let outcomes = injection.each(
        &[Errno::NOMEM],
        || place.protect_part(page(), 2 * page(), MprotectFlags::READ),
        || {
            assert_eq!(live_mappings(), vmas());
            place.fixed(&device, 0, RW, SHARED).expect("MAP_FIXED");
            assert_same(&place.bytes(), &initial(5 * page()), "the mapping");
        },
    );
    outcomes.assert(Errno::NOMEM, 2);
}

fn munmap_of_a_part() {
    let injection = Injection::new();
    let device = fresh(5);
    let place = memory::anonymous(5, RW, PRIVATE);
    let outcomes = injection.each(
        &[Errno::NOMEM],
        || place.unmap_part(page(), 2 * page()),
        || {
            assert_eq!(live_mappings(), vmas());
            place.fixed(&device, 0, RW, SHARED).expect("MAP_FIXED");
            assert_same(&place.bytes(), &initial(5 * page()), "the mapping");
        },
    );
    outcomes.assert(Errno::NOMEM, 2);
}

fn mremap_to_another_place() {
    const HOME: usize = NOWHERE + (1 << 40);
    let injection = Injection::new();
    let device = fresh(TABLE as u64);
    let len = TABLE * page();
    let at = |address: usize| std::ptr::without_provenance_mut(address);
    let outcomes = injection.each(
        &[Errno::NOMEM],
        // SAFETY: nothing is at either place but the device.
        || unsafe { mremap_fixed(at(HOME), len, len, MremapFlags::MAYMOVE, at(NOWHERE)) },
        || {
            // SAFETY: as above.
            for place in [HOME, NOWHERE] {
                unsafe { munmap(at(place), len) }.expect("munmap");
            }
            assert_eq!((references(), live_mappings()), (1, 0));
            let flags = SHARED | MapFlags::FIXED_NOREPLACE;
            std::mem::forget(mmap_at(HOME, &device, len, RW, flags).expect("mmap"));
        },
    );
    outcomes.assert(Errno::NOMEM, 2);
}

fn read() {
    let injection = Injection::new();
    let device = fresh(3);
    let bytes = pattern(1, 3 * page());
    pwrite(0, &bytes);
    let mut found = vec![0; bytes.len()];
    let outcomes = injection.each(
        &[Errno::FAULT],
        || {
            let n = io::pread(&device, &mut found, 0)?;
            assert_same(&found[..n], &bytes[..n], "what was read");
            Ok(n)
        },
        || (),
    );
    outcomes.assert(Errno::FAULT, 1);
    assert_eq!(outcomes.absorbed, 2);
}

/// With more vectors than the kernel has room for on its stack.
fn readv() {
    let injection = Injection::new();
    let device = fresh(1);
    let mut found = [[0; 100]; 10];
    let outcomes = injection.each(
        &[Errno::FAULT, Errno::NOMEM],
        || {
            let mut vectors = found.each_mut().map(|part| IoSliceMut::new(part));
            io::preadv(&device, &mut vectors, 0)
        },
        || (),
    );
    outcomes.assert(Errno::FAULT, 1);
    outcomes.assert(Errno::NOMEM, 1);
}

/// What is written is a part from the start on, and the call says how much.
fn write() {
    let injection = Injection::new();
    let written = Cell::new(0);
    let device = fresh(3);
    let bytes = pattern(1, 3 * page());
    let outcomes = injection.each(
        &[Errno::FAULT],
        || {
            let n = io::pwrite(&device, &bytes, 0)?;
            assert!(n > 0);
            assert_eq!(n % page(), 0);
            written.set(n);
            Ok(n)
        },
        || {
            let n = written.take();
            let mut expected = initial(bytes.len());
            expected[..n].copy_from_slice(&bytes[..n]);
            assert_same(&pread(0, bytes.len()), &expected, "the buffer");
            pwrite(0, &initial(bytes.len()));
        },
    );
    outcomes.assert(Errno::FAULT, 1);
    assert_eq!(outcomes.absorbed, 2);
}

fn splice_from_the_device() {
    let injection = Injection::new();
    let device = fresh(4);
    let (receiver, sender) = pipe().expect("pipe");
    let flags = SpliceFlags::NONBLOCK;
    let outcomes = injection.each(
        &[Errno::NOMEM, Errno::FAULT],
        || splice(&device, Some(&mut 0), &sender, None, 4 * page(), flags),
        || {
            let mut found = vec![0; 4 * page()];
            rustix::io::ioctl_fionbio(&receiver, true).expect("FIONBIO");
            let n = io::read(&receiver, &mut found).unwrap_or(0);
            assert_same(&found[..n], &initial(4 * page())[..n], "in the pipe");
        },
    );
    outcomes.assert(Errno::NOMEM, 1);
}

fn splice_to_the_device() {
    let injection = Injection::new();
    let device = fresh(1);
    let (receiver, sender) = pipe().expect("pipe");
    io::write(&sender, b"from a pipe").expect("write");
    let flags = SpliceFlags::NONBLOCK;
    let outcomes = injection.each(
        &[Errno::NOMEM, Errno::FAULT],
        || splice(&receiver, None, &device, Some(&mut 0), 11, flags),
        || {
            rustix::io::ioctl_fionbio(&receiver, true).expect("FIONBIO");
            let _ = io::read(&receiver, &mut [0; 100]);
            io::write(&sender, b"from a pipe").expect("write");
        },
    );
    outcomes.assert(Errno::NOMEM, 1);
}

fn sendfile_from_the_device() {
    let injection = Injection::new();
    let device = fresh(2);
    let file = tmpfs_file(&[]);
    let outcomes = injection.each(
        &[Errno::NOMEM, Errno::FAULT],
        || sendfile(&file, &device, Some(&mut 0), 2 * page()),
        || {
            file.set_len(0).expect("ftruncate");
            rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0)).expect("lseek");
        },
    );
    outcomes.assert(Errno::NOMEM, 1);
}

/// Each field of the structure is a copy.
fn ioctl_info() {
    let injection = Injection::new();
    let device = fresh(1);
    let outcomes = injection.each(
        &[Errno::FAULT],
        || match device.info() {
            Ok(info) => Ok(info),
            Err(rust_mmapdev::Error::Info(errno)) => Err(errno),
            Err(err) => panic!("{err}"),
        },
        || (),
    );
    outcomes.assert(Errno::FAULT, 3);
}

/// There is nothing in it that can fail.
fn ioctl_clear() {
    let injection = Injection::new();
    let device = fresh(4);
    let outcomes = injection.each(&[], || Ok(device.clear().expect("CLEAR")), || ());
    assert_eq!(outcomes.absorbed, 0);
}

fn fdinfo() {
    let injection = Injection::new();
    let device = fresh(1);
    let path = format!("/proc/self/fdinfo/{}", device.as_raw_fd());
    let outcomes = injection.each(
        &[Errno::NOMEM, Errno::FAULT],
        || {
            let file = rustix::fs::open(path.as_str(), OFlags::RDONLY, Mode::empty())?;
            io::read(&file, &mut [0; 1000])
        },
        || (),
    );
    outcomes.assert(Errno::NOMEM, 2);
}
