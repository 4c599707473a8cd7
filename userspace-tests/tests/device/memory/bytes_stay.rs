// SPDX-License-Identifier: GPL-2.0
//! The buffer has no file behind it that its bytes could be read from again. So they stay, whoever
//! asks for the page cache to be dropped, written back, collapsed or reclaimed; and nobody takes
//! them for the pages of another kind of file.

use std::{
    ffi::CString,
    fs::{self, File},
    os::{fd::AsRawFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    ptr,
};

use rust_mmapdev::{Access, Device};
use rustix::{
    fs::{FileType, Mode, OFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, mknodat, stat},
    io::Errno,
    process::Signal,
};

use crate::{
    harness::{skip, tests},
    random::storm::pressure::Swap,
    support::{
        assert_same,
        cgroup::Cgroup,
        errno, ioctl,
        large::{BOTH, Large},
        memory::{self, Advice, COLLAPSE, PRIVATE, RW, SHARED, mmap, page, table},
        module::{self, Renew, initial},
        open, pread,
        proc::vmstat,
        process::fork,
        system_call,
    },
};

tests![
    through_every_advice_on_the_file,
    through_calls_that_read_ahead_and_write_back,
    through_drop_caches,
    through_pageout_and_cold,
    through_collapse,
    through_reclaim_in_a_cgroup,
    through_a_cgroup_that_is_out_of_memory,
    a_node_on_another_file_system_is_the_device,
    nothing_can_be_sealed,
    it_is_no_memory_for_udmabuf,
];

const MIB: usize = 1 << 20;

/// Calls `body` when nothing of the buffer is mapped, and when it is, by entries of the table above
/// the page tables and page by page, with private copies. All bytes are the same after each time.
fn keeps_all(body: impl Fn(&Large)) {
    let buffer = Large::new(2, 37);
    body(&buffer);
    buffer.check();
    let views = BOTH.map(|flags| {
        let view = buffer.in_place(flags);
        view.write_pages(table() - page()..table() + page(), 1);
        [view, buffer.view(page(), 0, buffer.len(), flags)]
    });
    for view in views.as_flattened() {
        view.check();
    }
    body(&buffer);
    for view in views.as_flattened() {
        view.check();
        view.write_pages(5 * page()..6 * page(), 2);
        view.check();
    }
    // Those that are mapped no more.
    drop(views);
    body(&buffer);
    buffer.check();
}

// --- calls that are about the page cache --------------------------------------

/// posix_fadvise(2), DONTNEED above all.
fn through_every_advice_on_the_file() {
    keeps_all(|buffer| {
        for advice in 0..6 {
            for (offset, len) in [(0, 0), (page(), 3 * page()), (table(), table())] {
                let fd = buffer.device.as_raw_fd();
                // SAFETY: no memory is involved.
                unsafe { libc::posix_fadvise(fd, offset as i64, len as i64, advice) };
            }
        }
    });
}

fn through_calls_that_read_ahead_and_write_back() {
    keeps_all(|buffer| {
        let (fd, len) = (buffer.device.as_raw_fd(), buffer.len());
        // SAFETY: no memory is involved.
        unsafe {
            libc::readahead(fd, 0, len);
            for flags in 0..8 {
                libc::sync_file_range(fd, 0, len as i64, flags);
            }
            libc::fsync(fd);
            libc::fdatasync(fd);
            libc::syncfs(fd);
            libc::sync();
        }
    });
}

fn through_drop_caches() {
    keeps_all(|_| {
        for what in ["1", "2", "3"] {
            fs::write("/proc/sys/vm/drop_caches", what).expect("drop_caches");
        }
    });
}

/// On all of a mapping, and on parts of its folios.
fn through_pageout_and_cold() {
    let swap = Swap::on(16 * MIB);
    println!("with swap: {}", swap.is_some());
    let buffer = Large::new(2, 37);
    let views = BOTH.map(|flags| buffer.in_place(flags));
    views[1].write_pages(0..5 * page(), 1);
    for advice in [Advice::LinuxCold, Advice::LinuxPageOut] {
        for part in [
            0..buffer.len(),
            3 * page()..9 * page(),
            table() / 2..2 * table(),
        ] {
            for view in &views {
                view.map
                    .advise_part(part.start, part.len(), advice)
                    .unwrap_or_else(|err| panic!("{advice:?}: {err}"));
            }
            for view in &views {
                view.check();
            }
        }
    }
}

/// Whether it is done or not, of folios that are whole and of one that has been split.
fn through_collapse() {
    let _renew = Renew;
    let buffer = Large::new(2, 37);
    let views = BOTH.map(|flags| buffer.in_place(flags));
    views[1].write_pages(table() - page()..table() + 2 * page(), 1);
    for split in [false, true] {
        if split {
            // The page goes elsewhere.
            let advice = Advice::LinuxSoftOffline;
            let _ = views[0].map.advise_part(page(), page(), advice);
        }
        for view in &views {
            let result = view.map.advise_by_number(0, 2 * table(), COLLAPSE);
            println!("split: {split}, {result:?}");
        }
        for view in &views {
            view.check();
        }
    }
}

// --- memory that runs out -----------------------------------------------------

/// A module that was loaded in a cgroup, which pays for the pages.
fn load_in(cgroup: &Cgroup) -> Large {
    module::unload_if_loaded();
    fork(|_| {
        cgroup.enter();
        module::load(&format!("buffer_pages={}", 2 * table() / page() + 37)).expect("insmod");
    })
    .join();
    Large::of(Device::open(Access::ReadWrite).expect("open"))
}

/// Asked for as much as all of it, with nobody else to take memory from.
fn through_reclaim_in_a_cgroup() {
    let _renew = Renew;
    let swap = Swap::on(16 * MIB);
    println!("with swap: {}", swap.is_some());
    let cgroup = Cgroup::new("bytes_stay");
    let buffer = load_in(&cgroup);
    let charged: usize = cgroup
        .get("memory.current")
        .trim()
        .parse()
        .expect("a number");
    assert!(charged >= buffer.len(), "{charged} bytes are charged");
    let views = BOTH.map(|flags| buffer.view(0, 0, buffer.len(), flags));
    for _ in 0..3 {
        // EAGAIN: it could not get that much.
        let path = "/sys/fs/cgroup/bytes_stay/memory.reclaim";
        fs::write(path, buffer.len().to_string()).expect_err("nothing can be reclaimed");
        for view in &views {
            view.check();
        }
    }
}

/// A process that wants more than there is gets killed; the buffer stays.
fn through_a_cgroup_that_is_out_of_memory() {
    let _renew = Renew;
    let cgroup = Cgroup::new("bytes_stay");
    let buffer = load_in(&cgroup);
    let views = BOTH.map(|flags| buffer.view(0, 0, buffer.len(), flags));
    cgroup.set("memory.max", &(buffer.len() + 8 * MIB).to_string());
    let before = cgroup.oom_kills();
    fork(|_| {
        cgroup.enter();
        memory::anonymous(64 * MIB / page(), RW, PRIVATE).store_pages();
    })
    .dies_of(Signal::KILL);
    assert_eq!(cgroup.oom_kills() - before, 1);
    assert!(vmstat("oom_kill") > 0);
    for view in &views {
        view.check();
    }
}

// --- files of another kind ----------------------------------------------------

/// A mounted file system, and a node of the device on it.
struct Mounted {
    at: PathBuf,
    node: PathBuf,
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("a path")
}

impl Mounted {
    fn new(kind: &str) -> Self {
        let at = PathBuf::from(format!("/tmp/on-{kind}"));
        fs::create_dir_all(&at).expect("a directory");
        let name = CString::new(kind).expect("a name");
        let (kind, path) = (name.as_ptr(), c_path(&at));
        // SAFETY: the strings have an end.
        system_call(unsafe { libc::mount(kind, path.as_ptr(), kind, 0, ptr::null()) })
            .unwrap_or_else(|err| panic!("mount {name:?}: {err}"));
        let node = at.join("node");
        let number = stat(Device::PATH).expect("stat").st_rdev;
        let (mode, kind) = (Mode::RUSR | Mode::WUSR, FileType::CharacterDevice);
        mknodat(rustix::fs::CWD, &node, kind, mode, number).expect("mknod");
        Self { at, node }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // SAFETY: the string has an end.
        unsafe { libc::umount2(c_path(&self.at).as_ptr(), libc::MNT_DETACH) };
    }
}

/// What lies on a file system that has pages of its own, and tells them by their files.
fn a_node_on_another_file_system_is_the_device() {
    let buffer = Large::new(2, 37);
    for kind in ["tmpfs", "ramfs", "hugetlbfs"] {
        let mounted = Mounted::new(kind);
        let beside = mounted.at.join("beside");
        if kind != "hugetlbfs" {
            fs::write(&beside, b"a file's").expect("a file");
        }
        let node = File::options().read(true).write(true).open(&mounted.node);
        let node = node.expect("open the node");
        assert_eq!(errno(fcntl_get_seals(&node)), Errno::INVAL, "{kind}");
        for seals in [SealFlags::SEAL, SealFlags::WRITE, SealFlags::FUTURE_WRITE] {
            assert_eq!(errno(fcntl_add_seals(&node, seals)), Errno::INVAL, "{kind}");
        }
        for flags in BOTH {
            let map = mmap(&node, 0, buffer.len(), RW, flags).expect("mmap");
            let view = buffer.view_of(map, 0, flags);
            view.check();
            view.write_pages(0..buffer.len(), kind.len() as u64);
            view.check();
        }
        assert_eq!(errno(fcntl_get_seals(&node)), Errno::INVAL, "{kind}");
        node.sync_all().expect("fsync");
        drop(node);
        if kind != "hugetlbfs" {
            assert_eq!(fs::read(&beside).expect("read"), b"a file's");
        }
    }
    buffer.check();
}

fn nothing_can_be_sealed() {
    let _renew = Renew;
    module::reload("buffer_pages=4");
    let device = open(OFlags::RDWR);
    for _ in 0..2 {
        assert_eq!(errno(fcntl_get_seals(&device)), Errno::INVAL);
        assert_eq!(
            errno(fcntl_add_seals(&device, SealFlags::WRITE)),
            Errno::INVAL
        );
        let map = mmap(&device, 0, 4 * page(), RW, SHARED).expect("mmap");
        map.store_pages();
        assert_same(&pread(0, 4 * page()), &initial(4 * page()), "the buffer");
    }
}

/// It makes DMA buffers of memfds.
fn it_is_no_memory_for_udmabuf() {
    /// `struct udmabuf_create`
    #[repr(C)]
    struct Create {
        memfd: u32,
        flags: u32,
        offset: u64,
        size: u64,
    }
    const UDMABUF_CREATE: u32 = rustix::ioctl::opcode::write::<Create>(b'u', 0x42);
    let path = Path::new("/dev/udmabuf");
    if !path.exists() {
        skip("this kernel has no udmabuf");
    }
    let buffer = Large::new(1, 0);
    let udmabuf = File::options().read(true).write(true).open(path);
    let udmabuf = udmabuf.expect("open /dev/udmabuf");
    let mut create = Create {
        memfd: buffer.device.as_raw_fd() as u32,
        flags: 0,
        offset: 0,
        size: table() as u64,
    };
    let made = ioctl(&udmabuf, UDMABUF_CREATE, (&raw mut create).cast());
    assert!(made.is_err(), "it takes the device for a memfd");
    buffer.check();
}
