// SPDX-License-Identifier: GPL-2.0
//! Every allocation, and every copy from and to user space, of every call is made to fail, one at
//! a time: the call gives its errno, leaves nothing, and succeeds afterwards.

use std::{
    cell::{Cell, RefCell},
    ffi::CString,
    fs::File,
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
    system::finit_module,
};

use crate::{
    harness::tests,
    support::{
        assert_same,
        injection::Injection,
        memory::{
            self, Advice, Map, MapFlags, MprotectFlags, PRIVATE, RW, SHARED, mmap_at, page,
            private, shared, table,
        },
        module::{self, fdinfo, fresh, initial, live_mappings, mappings_of, references},
        open, pattern, pread,
        proc::{nobodys_pages, page_count},
        process::try_spawn,
        pwrite, tmpfs_file,
    },
};

tests![
    open_close,
    mmap_of_one_page,
    mmap_of_many_pages,
    the_first_touch_across_page_tables,
    the_first_touch_of_a_huge_folio,
    the_first_store_to_a_private_page,
    the_first_store_to_a_private_huge_folio,
    an_access_after_dontneed,
    populate_after_dontneed,
    a_copy_to_a_page_that_is_not_there,
    fork,
    mprotect_of_a_part,
    munmap_of_a_part,
    mremap_to_another_place,
    mremap_to_more_pages,
    mlock_before_any_touch,
    read,
    readv,
    write,
    splice_from_the_device,
    splice_to_the_device,
    sendfile_from_the_device,
    ioctl_info,
    ioctl_clear,
    show_fdinfo,
    insmod_odd_failures,
    insmod_even_failures,
];

/// Every second failure of a load, in two tests that share the time it takes: either nothing of the
/// module is there afterwards, or all of it works. Where a large folio can't be had, smaller ones do.
fn insmod(first: u32) {
    // In a huge folio, one of two pages, and one of one.
    let pages = table() / page() + 3;
    let parameters = CString::new(format!("buffer_pages={pages}")).expect("no NUL");
    let injection = Injection::new();
    module::unload_if_loaded();
    let file = File::open(module::FILE).expect("the module");
    let (content, content_of_others) = (initial(page()), vec![0; page()]);
    let before = nobodys_pages();
    let (mut failed, mut absorbed) = (0, 0);
    let (mut with_huge, mut without) = (0, 0);
    for nth in (first..).step_by(2) {
        let Some(result) = injection.at(nth, || finit_module(&file, &parameters, 0)) else {
            break;
        };
        match result {
            Ok(()) => {
                absorbed += 1;
                let device = open(OFlags::RDWR);
                match fdinfo(&device, "huge_size") {
                    0 => without += 1,
                    size => {
                        assert_eq!(size, table() as u64);
                        with_huge += 1;
                    }
                }
                assert_same(&pread(0, page()), &content, "the buffer");
                let map = shared(device, pages);
                assert_same(&map.read(0, page()), &content, "the first page");
                // By pages, as large pieces of the heap would show among the pages that are nobody's.
                for at in (page()..map.len()).step_by(page()) {
                    assert_same(&map.read(at, page()), &content_of_others, "the others");
                }
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
    module::unload().expect("rmmod");
    println!(
        "{failed} failed, {absorbed} absorbed, {with_huge} with a huge folio, {without} without"
    );
    // The loader, sysfs and the driver core make some 300 allocations, and get along without many.
    assert!(failed >= 50 && absorbed >= 50);
    // One failure is that of the huge folio, in one of the two tests; now and then there is none.
    assert!(with_huge >= 50 && without < 10);
    let lost = nobodys_pages() - before;
    assert!(
        lost < failed / 2,
        "{lost} pages are gone after {failed} loads that failed"
    );
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
    mappings_of("self").expect("this process")
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
        // Two without those of the insertion. As a rule five with them; it varies what the slab caches
        // absorb.
        outcomes.assert(Errno::NOMEM, 4);
    }
}

/// As many pages as a page table has.
fn table_pages() -> usize {
    table() / page()
}

/// A buffer of which the first pages stand in a huge folio, and what it says in its first page and
/// behind the huge folio.
fn with_a_huge_folio() -> Device {
    let pages = table_pages() + 4;
    let device = fresh(pages as u64);
    assert_eq!(fdinfo(&device, "huge_size"), table() as u64);
    pwrite(table() as u64, b"tail");
    device
}

/// No more than the VMA is made: no page table.
fn mmap_of_many_pages() {
    let injection = Injection::new();
    let device = with_a_huge_folio();
    let pages = table_pages() + 4;
    for flags in [SHARED, PRIVATE] {
        let map: RefCell<Option<Map>> = RefCell::default();
        let outcomes = injection.each(
            &[Errno::NOMEM],
            || {
                map.replace(Some(mmap_nowhere(&device, 2, pages, flags)?));
                Ok(())
            },
            || {
                if let Some(map) = map.take() {
                    assert_eq!(map.frames(), vec![None; pages]);
                }
                assert_eq!((references(), live_mappings()), (1, 0));
            },
        );
        outcomes.assert(Errno::NOMEM, 1);
    }
}

/// Touches a mapping that is new each time, while each allocation fails that this makes; at least
/// `least` do. The kernel has the access try again: nobody is killed, and `check` is passed.
#[track_caller]
fn touch_anew(
    injection: &Injection,
    map: impl Fn() -> Map,
    touch: impl Fn(&Map),
    check: impl Fn(&Map),
    least: u32,
) {
    let place: RefCell<Option<Map>> = RefCell::default();
    let outcomes = injection.each(
        &[],
        || {
            touch(place.borrow().as_ref().expect("a mapping"));
            Ok(())
        },
        || {
            // The first time there is none yet.
            if let Some(map) = place.take() {
                check(&map);
            }
            place.replace(Some(map()));
        },
    );
    assert!(outcomes.absorbed >= least, "at least {least}: {outcomes:?}");
}

/// Three of them, the tables above, and what is copied; of nothing that was mapped on the way
/// something stays mapped.
fn the_first_touch_across_page_tables() {
    let injection = Injection::new();
    let device = with_a_huge_folio();
    let pages = table_pages() + 4;
    let witness = shared(&device, pages);
    witness.bytes();
    let frames = witness.frames();
    for flags in [SHARED, PRIVATE] {
        let map = || {
            assert_eq!((references(), live_mappings()), (1, 1));
            for at in [0, 1, 2, 300, pages - 3, pages - 2, pages - 1] {
                let frame = frames[at].expect("a page");
                assert_eq!(page_count(frame), 1, "mappings of page {at}");
            }
            mmap_nowhere(&device, 2, pages, flags).expect("mmap")
        };
        let load = |map: &Map| {
            assert_eq!(map.read(0, 4), b"rust");
            assert_eq!(map.read(2 * page(), 4), [0; 4]);
            assert_eq!(map.read(table(), 4), b"tail");
            assert_eq!(map.read(map.len() - 4, 4), [0; 4]);
        };
        let check = |map: &Map| assert!(map.frames() == frames, "all pages are there");
        touch_anew(&injection, map, load, check, 5);
        let store = |map: &Map| {
            map.write(0, b"r");
            map.write(2 * page(), &[0]);
            map.write(map.len() - 4, &[0]);
            load(map);
        };
        let least = if flags == SHARED { 5 } else { 8 };
        touch_anew(&injection, map, store, |_| (), least);
    }
}

/// One entry in a table above the page tables.
fn the_first_touch_of_a_huge_folio() {
    let injection = Injection::new();
    let device = with_a_huge_folio();
    for flags in [SHARED, PRIVATE] {
        let map = || {
            assert_eq!((references(), live_mappings()), (1, 0));
            mmap_nowhere(&device, 0, table_pages(), flags).expect("mmap")
        };
        let load = |map: &Map| {
            assert_eq!(map.read(0, 4), b"rust");
            assert_eq!(map.read(table() - 4, 4), [0; 4]);
        };
        let check = |map: &Map| {
            assert_eq!(map.smaps_kib("FilePmdMapped"), table() / 1024);
        };
        touch_anew(&injection, map, load, check, 2);
    }
}

fn the_first_store_to_a_private_page() {
    let injection = Injection::new();
    let device = fresh(1);
    let map = || {
        let map = private(&device, 1);
        assert_same(&map.bytes(), &initial(page()), "the kernel's bytes");
        map
    };
    let store = |map: &Map| {
        map.write(0, b"copied");
        assert_eq!(map.read(0, 6), b"copied");
    };
    touch_anew(&injection, map, store, |_| (), 1);
}

/// The entry for all of it gives way to a page table, and that has the copy.
fn the_first_store_to_a_private_huge_folio() {
    let injection = Injection::new();
    let device = with_a_huge_folio();
    let map = || {
        let map = mmap_nowhere(&device, 0, table_pages(), PRIVATE).expect("mmap");
        assert_same(&map.read(0, page()), &initial(page()), "the kernel's bytes");
        assert_eq!(map.smaps_kib("FilePmdMapped"), table() / 1024);
        map
    };
    let store = |map: &Map| {
        map.write(page(), b"copied");
        assert_eq!(map.read(page(), 6), b"copied");
        assert_eq!(map.read(0, 4), b"rust");
    };
    let check = |map: &Map| assert_eq!(map.smaps_kib("Anonymous"), page() / 1024);
    touch_anew(&injection, map, store, check, 2);
}

/// A mapping of [`with_a_huge_folio`] from which MADV_DONTNEED takes a page table too: one that has
/// all its pages, and none in a huge entry, as they lie one page off.
fn off_by_one(device: &Device, flags: MapFlags) -> Map {
    mmap_nowhere(device, 1, table_pages() + 1, flags).expect("mmap")
}

fn an_access_after_dontneed() {
    let injection = Injection::new();
    let device = with_a_huge_folio();
    for flags in [SHARED, PRIVATE] {
        let map = off_by_one(&device, flags);
        let outcomes = injection.each(
            &[],
            || {
                assert_eq!(map.read(table(), 4), b"tail");
                Ok(())
            },
            || map.advise(Advice::LinuxDontNeed).expect("madvise"),
        );
        assert!(outcomes.absorbed >= 1);
    }
}

fn populate_after_dontneed() {
    let injection = Injection::new();
    let device = with_a_huge_folio();
    for flags in [SHARED, PRIVATE] {
        let map = off_by_one(&device, flags);
        for advice in [Advice::LinuxPopulateRead, Advice::LinuxPopulateWrite] {
            let outcomes = injection.each(
                &[Errno::NOMEM],
                || map.advise_part(page(), page(), advice),
                || {
                    map.advise(Advice::LinuxDontNeed).expect("madvise");
                    assert_eq!((references(), live_mappings()), (1, 1));
                },
            );
            outcomes.assert(Errno::NOMEM, 1);
        }
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

fn fork() {
    let injection = Injection::new();
    let device = fresh(4);
    let (map, copy) = (shared(&device, 4), private(&device, 4));
    copy.write(0, b"copied");
    drop(device);
    let outcomes = injection.each(
        &[Errno::NOMEM, Errno::AGAIN],
        || try_spawn(|| {}),
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
            assert!(references() == 1 && vmas() <= 3);
            place.fixed(&device, 0, RW, SHARED).expect("MAP_FIXED");
            assert_eq!(live_mappings(), 1);
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
            assert!(references() == 1 && vmas() <= 2);
            place.fixed(&device, 0, RW, SHARED).expect("MAP_FIXED");
            assert_eq!(live_mappings(), 1);
            assert_same(&place.bytes(), &initial(5 * page()), "the mapping");
        },
    );
    outcomes.assert(Errno::NOMEM, 2);
}

/// Its entries go along, or are left to faults at the new place.
fn mremap_to_another_place() {
    let injection = Injection::new();
    let device = with_a_huge_folio();
    let len = (table_pages() + 4) * page();
    let at = |address: usize| std::ptr::without_provenance_mut(address);
    // A huge entry and a page table, or page tables only.
    for from in [NOWHERE + (1 << 40), NOWHERE + (1 << 40) - 2 * page()] {
        let outcomes = injection.each(
            &[Errno::NOMEM],
            // SAFETY: nothing is at either place but the device.
            || unsafe { mremap_fixed(at(from), len, len, MremapFlags::MAYMOVE, at(NOWHERE)) },
            || {
                // SAFETY: as above.
                for place in [from, NOWHERE] {
                    unsafe { munmap(at(place), len) }.expect("munmap");
                }
                assert_eq!((references(), live_mappings()), (1, 0));
                let flags = SHARED | MapFlags::FIXED_NOREPLACE;
                let map = mmap_at(from, &device, len, RW, flags).expect("mmap");
                assert_eq!(map.read(0, 4), b"rust");
                assert_eq!(map.read(table(), 4), b"tail");
                std::mem::forget(map);
            },
        );
        outcomes.assert(Errno::NOMEM, 2);
        for place in [from, NOWHERE] {
            // SAFETY: as above.
            unsafe { munmap(at(place), len) }.expect("munmap");
        }
    }
}

/// Which must be elsewhere. What could not grow is as it was.
fn mremap_to_more_pages() {
    let injection = Injection::new();
    let device = fresh(3);
    let place: RefCell<Option<[Map; 2]>> = RefCell::default();
    let outcomes = injection.each(
        &[Errno::NOMEM],
        || {
            let mut place = place.borrow_mut();
            let [map, _] = place.as_mut().expect("a mapping");
            map.remap(3 * page(), MremapFlags::MAYMOVE)
        },
        || {
            if let Some([map, _]) = place.take() {
                let whole = initial(3 * page());
                assert_same(&map.bytes(), &whole[..map.len()], "the mapping");
            }
            assert_eq!((references(), live_mappings()), (1, 0));
            let map = mmap_nowhere(&device, 0, 2, SHARED).expect("mmap");
            assert_same(&map.bytes(), &initial(2 * page()), "the mapping");
            let wall = mmap_at(
                NOWHERE + 2 * page(),
                tmpfs_file(&[]),
                page(),
                RW,
                SHARED | MapFlags::FIXED_NOREPLACE,
            );
            place.replace(Some([map, wall.expect("mmap")]));
        },
    );
    outcomes.assert(Errno::NOMEM, 1);
}

/// Whatever of it is in place when there is no memory for the rest: who asks again gets all.
fn mlock_before_any_touch() {
    let injection = Injection::new();
    let device = with_a_huge_folio();
    // All of the buffer; or a few pages, each to be copied. In several page tables.
    for (flags, pages) in [(SHARED, table_pages() + 4), (PRIVATE, 4)] {
        let place: RefCell<Option<Map>> = RefCell::default();
        let locked = Cell::new(false);
        let outcomes = injection.each(
            &[Errno::NOMEM, Errno::AGAIN],
            || {
                let map = place.borrow();
                let map = map.as_ref().expect("a mapping");
                map.lock()?;
                locked.set(true);
                Ok(())
            },
            || {
                if let (Some(map), true) = (place.take(), locked.take()) {
                    assert!(map.frames().iter().all(Option::is_some));
                }
                assert_eq!((references(), live_mappings()), (1, 0));
                place.replace(Some(mmap_nowhere(&device, 2, pages, flags).expect("mmap")));
            },
        );
        outcomes.assert(Errno::AGAIN, 4);
    }
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

/// A copy that fails is made again, once the source is known to be in memory. A folio is a copy, and
/// these pages stand in two.
fn write() {
    let injection = Injection::new();
    let written = Cell::new(false);
    let device = fresh(3);
    let bytes = pattern(1, 3 * page());
    let outcomes = injection.each(
        &[],
        || {
            assert_eq!(io::pwrite(&device, &bytes, 0)?, bytes.len());
            written.set(true);
            Ok(())
        },
        || {
            // The first time, nothing was written yet.
            if written.take() {
                assert_same(&pread(0, bytes.len()), &bytes, "the buffer");
            }
            pwrite(0, &initial(bytes.len()));
        },
    );
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
    let clear = || {
        device.clear().expect("CLEAR");
        Ok(())
    };
    let outcomes = injection.each(&[], clear, || ());
    assert_eq!(outcomes.absorbed, 0);
}

fn show_fdinfo() {
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
