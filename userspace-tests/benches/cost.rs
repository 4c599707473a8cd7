// SPDX-License-Identifier: GPL-2.0
//! What the device's mappings, reads, writes and forks cost, beside the kernel's own memory that
//! can be mapped: a memfd, a udmabuf, a BPF array, a file on tmpfs with huge pages, hugetlb.
//!
//!     scripts/vm-run --icount -- "$(scripts/crate-binary bench cost)" [ROW]
//!     scripts/vm-run -- "$(scripts/crate-binary bench cost)" --time [ROW]
//!
//! With --icount a nanosecond of the guest is an instruction, and the table is in instructions.
//! Those make `rep movsb`, and with it read and write, look dear: --time says that time is time,
//! and only the ratios within the run mean something; the targets are not for them. ROW picks the
//! rows whose names contain it.
//!
//! The module is loaded anew for each size of the buffer. Time is the thread's own, so that
//! nothing else in the guest counts. All peers of a row take turns, and so meet the same machine:
//! two rounds to warm up, then 31, of which the median counts (of time: 101, and the least counts,
//! as all that disturbs adds to it). Each round does the work several times where that is little,
//! so that the clock's own cost gets lost in it. Small mappings go into a [`hole`], where page
//! tables and VMAs around them stay as they are.

// Of what the tests can do with a mapping little is needed.
#[allow(dead_code)]
#[path = "../tests/device/support/memory.rs"]
mod memory;

use std::{
    ffi::{CStr, CString},
    fs, mem,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::Path,
    process::ExitCode,
    ptr,
};

use rust_mmapdev::{Access, Device};
use rustix::{
    fs::{
        MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create, mkdir, open,
        rmdir,
    },
    io::{self, Errno},
    system::{delete_module, finit_module},
    thread::{CpuSet, sched_setaffinity},
    time::{ClockId, clock_gettime},
};

use memory::{Map, MapFlags, PRIVATE, RW, SHARED, anonymous, mmap, mmap_at, page};

/// Where `scripts/vm-run` puts the module.
const MODULE: &str = "/rust_mmapdev.ko";
/// Where a tmpfs with huge pages is mounted.
const TMPFS: &CStr = c"/tmp/huge";

/// Whose memory it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Peer {
    Device,
    Memfd,
    Udmabuf,
    BpfArray,
    Tmpfs,
    Hugetlb,
}

use Peer::{BpfArray, Hugetlb, Memfd, Tmpfs, Udmabuf};

impl Peer {
    /// As the table has them.
    const ALL: [(Self, &str); 6] = [
        (Self::Device, "device"),
        (Memfd, "memfd"),
        (Udmabuf, "udmabuf"),
        (BpfArray, "BPF array"),
        (Tmpfs, "tmpfs huge"),
        (Hugetlb, "hugetlb"),
    ];

    fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

/// What is done again and again.
#[derive(Clone, Copy)]
enum Work {
    /// mmap(2) of so many pages, from a page on, a byte written to each, and munmap(2): where the
    /// kernel likes.
    Map(usize, usize),
    /// The same with all of it, in a [`hole`].
    MapInHole(MapFlags),
    /// pread(2) of all.
    Read,
    /// pwrite(2) of all.
    Write,
    /// fork(2) with all of it mapped shared and touched, `_exit` of the child, waitpid(2). The
    /// parent's time counts, the child's does not.
    Fork,
}

use Work::{Fork, MapInHole, Read, Write};

/// What the device's cost is a part of.
#[derive(Clone, Copy)]
enum Of {
    /// The cheapest peer's.
    Best,
    Peer(Peer),
    /// The device's own, for one page.
    OnePage,
}

struct Row {
    name: &'static str,
    /// Pages of the buffer, and of each peer.
    size: usize,
    work: Work,
    peers: &'static [Peer],
    /// Ratios, and the most that they are to be, in instructions.
    targets: &'static [(Of, f64)],
}

/// Not a multiple of what a large folio or an entry above the page table has.
const ODD: usize = 37;

const ONE_PAGE: Row = Row {
    name: "1 page, shared, written",
    size: 1,
    work: MapInHole(SHARED),
    peers: &[Memfd, Udmabuf, BpfArray],
    targets: &[(Of::Best, 0.90)],
};

const ROWS: &[Row] = &[
    ONE_PAGE,
    Row {
        name: "64 pages at an odd address, shared, written",
        size: 64,
        work: MapInHole(SHARED),
        peers: &[Memfd, Udmabuf, BpfArray],
        targets: &[(Of::Best, 0.27)],
    },
    Row {
        name: "512 pages, shared, written",
        size: 512,
        work: Work::Map(0, 512),
        peers: &[Memfd, Udmabuf, BpfArray, Tmpfs, Hugetlb],
        targets: &[(Of::OnePage, 1.6)],
    },
    Row {
        name: "2048 pages, shared, written",
        size: 2048,
        work: Work::Map(0, 2048),
        peers: &[Tmpfs, Hugetlb],
        targets: &[(Of::Peer(Tmpfs), 0.59), (Of::Peer(Hugetlb), 1.06)],
    },
    Row {
        name: "1000 pages at an odd offset of 2048, shared, written",
        size: 2048,
        work: Work::Map(ODD, 1000),
        peers: &[Udmabuf],
        targets: &[(Of::Peer(Udmabuf), 0.20)],
    },
    Row {
        name: "64 pages, private, written",
        size: 64,
        work: MapInHole(PRIVATE),
        peers: &[Memfd],
        targets: &[(Of::Peer(Memfd), 0.99)],
    },
    Row {
        name: "pread of 64 pages",
        size: 64,
        work: Read,
        peers: &[Memfd],
        targets: &[(Of::Peer(Memfd), 0.95)],
    },
    Row {
        name: "pwrite of 64 pages",
        size: 64,
        work: Write,
        peers: &[Memfd],
        targets: &[(Of::Peer(Memfd), 0.92)],
    },
    Row {
        name: "pread of 2048 pages",
        size: 2048,
        work: Read,
        peers: &[Tmpfs],
        targets: &[(Of::Peer(Tmpfs), 1.00)],
    },
    Row {
        name: "pwrite of 2048 pages",
        size: 2048,
        work: Write,
        peers: &[Tmpfs],
        targets: &[(Of::Peer(Tmpfs), 1.00)],
    },
    Row {
        name: "fork with 512 pages mapped shared and touched",
        size: 512,
        work: Fork,
        peers: &[Memfd],
        targets: &[(Of::Peer(Memfd), 1.00)],
    },
];

/// Rounds that do not count. They say how often the work fits into a million nanoseconds.
const WARM_UP: usize = 2;

/// What one piece of work costs each of [`Peer::ALL`], in nanoseconds: none, where the row has no
/// such peer or the system has none.
type Costs = [Option<f64>; Peer::ALL.len()];

fn main() -> ExitCode {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let time = args.iter().position(|arg| arg == "--time");
    let time = time.map(|i| args.remove(i)).is_some();
    let pattern = args.pop().unwrap_or_default();
    if pattern.starts_with('-') || !args.is_empty() {
        eprintln!("usage: cost [--time] [ROW]");
        return ExitCode::FAILURE;
    }
    if !Path::new(MODULE).exists() {
        eprintln!("cost: {MODULE} is missing: this runs in the VM, with scripts/vm-run");
        return ExitCode::FAILURE;
    }
    // On one CPU with --time as well.
    let mut cpu = CpuSet::new();
    cpu.set(0);
    sched_setaffinity(None, &cpu).expect("sched_setaffinity");
    huge_pages();

    let unit = if time { "ns" } else { "instructions" };
    println!("{unit} of each row and peer: median, least and most of all rounds");
    let mut run = Run {
        time,
        bytes: vec![1; 2048 * page()],
    };
    let rows = ROWS.iter().filter(|row| row.name.contains(&pattern));
    let costs: Vec<_> = rows.map(|row| (row, run.row(row))).collect();
    if costs.is_empty() {
        eprintln!("cost: no row's name contains '{pattern}'");
        return ExitCode::FAILURE;
    }
    let of_one_page = |row: &Row| row.targets.iter().any(|(of, _)| matches!(of, Of::OnePage));
    let one_page = match costs.iter().find(|(row, _)| row.name == ONE_PAGE.name) {
        Some((_, costs)) => costs[0],
        None if costs.iter().any(|(row, _)| of_one_page(row)) => run.row(&ONE_PAGE)[0],
        None => None,
    };
    table(&costs, one_page, time);
    ExitCode::SUCCESS
}

/// Makes the system ready for peers with huge pages. What it does not have shows when they are
/// opened.
fn huge_pages() {
    // Enough for 2048 pages, whatever the sizes are.
    let _ = fs::write("/proc/sys/vm/nr_hugepages", "4");
    mkdir(TMPFS, Mode::RWXU).expect("mkdir");
    // SAFETY: the strings have an end.
    let mounted = unsafe {
        libc::mount(
            c"tmpfs".as_ptr(),
            TMPFS.as_ptr(),
            c"tmpfs".as_ptr(),
            0,
            c"huge=always".as_ptr().cast(),
        )
    };
    if mounted != 0 {
        rmdir(TMPFS).expect("rmdir");
    }
}

/// The peer's memory, each page of it there already.
fn open_peer(peer: Peer, pages: usize) -> io::Result<OwnedFd> {
    let size = (pages * page()) as u64;
    let fd = match peer {
        Peer::Device => device(pages)?,
        Memfd => memfd_create("memfd", MemfdFlags::CLOEXEC)?,
        Udmabuf => udmabuf(size)?,
        BpfArray => bpf_array(pages)?,
        Tmpfs => open(TMPFS, OFlags::RDWR | OFlags::TMPFILE, Mode::RWXU)?,
        Hugetlb => memfd_create("hugetlb", MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB)?,
    };
    if matches!(peer, Memfd | Tmpfs | Hugetlb) {
        ftruncate(&fd, size)?;
    }
    touch(&mmap(&fd, 0, pages * page(), RW, SHARED)?);
    Ok(fd)
}

/// The device with a buffer of so many pages.
fn device(pages: usize) -> io::Result<OwnedFd> {
    let size = (pages * page()) as u64;
    let info = Device::open(Access::Read).and_then(|device| device.info());
    if info.is_ok_and(|info| info.size == size) {
        return open(Device::PATH, OFlags::RDWR, Mode::empty());
    }
    let _ = delete_module(c"rust_mmapdev", OFlags::NONBLOCK.bits() as i32);
    let file = open(MODULE, OFlags::RDONLY, Mode::empty())?;
    let parameters = CString::new(format!("buffer_pages={pages}")).expect("no NUL");
    finit_module(file, &parameters, 0)?;
    open(Device::PATH, OFlags::RDWR, Mode::empty())
}

/// `struct udmabuf_create`, see linux/udmabuf.h.
#[repr(C)]
struct UdmabufCreate {
    memfd: u32,
    flags: u32,
    offset: u64,
    size: u64,
}

fn udmabuf(size: u64) -> io::Result<OwnedFd> {
    const UDMABUF_CREATE: libc::c_ulong = 0x4018_7542; // _IOW('u', 0x42, struct udmabuf_create)
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memfd = memfd_create("udmabuf", flags)?;
    ftruncate(&memfd, size)?;
    fcntl_add_seals(&memfd, SealFlags::SHRINK)?;
    let create = UdmabufCreate {
        memfd: memfd.as_raw_fd() as u32,
        flags: 0,
        offset: 0,
        size,
    };
    let node = open("/dev/udmabuf", OFlags::RDWR, Mode::empty())?;
    // SAFETY: the call reads a `udmabuf_create`.
    descriptor(unsafe { libc::ioctl(node.as_raw_fd(), UDMABUF_CREATE, &create) }.into())
}

/// What BPF_MAP_CREATE reads of `union bpf_attr`, see linux/bpf.h.
#[repr(C)]
struct BpfMapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

fn bpf_array(pages: usize) -> io::Result<OwnedFd> {
    const BPF_MAP_CREATE: libc::c_long = 0;
    const BPF_MAP_TYPE_ARRAY: u32 = 2;
    const BPF_F_MMAPABLE: u32 = 1 << 10;
    let create = BpfMapCreate {
        map_type: BPF_MAP_TYPE_ARRAY,
        key_size: 4,
        value_size: page() as u32,
        max_entries: pages as u32,
        map_flags: BPF_F_MMAPABLE,
    };
    let size = mem::size_of_val(&create);
    // SAFETY: the call reads so many bytes of a `bpf_attr`, and takes the others for 0.
    descriptor(unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_CREATE, &create, size) })
}

/// The descriptor that a call through libc made.
fn descriptor(result: libc::c_long) -> io::Result<OwnedFd> {
    if result < 0 {
        let error = std::io::Error::last_os_error();
        return Err(Errno::from_io_error(&error).expect("an error of the system"));
    }
    // SAFETY: it is new, so nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(result as i32) })
}

/// Writes a byte to each page, in few instructions: the same code for every peer.
#[inline(never)]
fn touch(map: &Map) {
    let (start, len, page) = (map.at(0), map.len(), page());
    let mut offset = 0;
    while offset < len {
        // SAFETY: in the mapping, which may be written to.
        unsafe { start.add(offset).write_volatile(1) };
        offset += page;
    }
}

/// Free addresses for so many pages, none of which a folio of several pages would fit, between two
/// pages that are mapped. As they are touched as well, the page table is not freed with what is
/// mapped in the hole; and as the hole gets filled, its place among the VMAs is just taken over.
fn hole(pages: usize) -> (usize, [Map; 2]) {
    // What one page table maps, of entries of 8 bytes.
    let span = page() / 8 * page();
    let room = mem::ManuallyDrop::new(anonymous(2 * span / page() + pages, RW, PRIVATE));
    let start = room.at(0) as usize;
    let hole = start.next_multiple_of(span) - start + ODD * page();
    let end = hole + pages * page();
    let neighbours = [hole - page(), end].map(|offset| room.part(offset, page()));
    neighbours.iter().for_each(touch);
    for (from, to) in [(0, hole - page()), (hole, end), (end + page(), room.len())] {
        room.unmap_part(from, to - from).expect("munmap");
    }
    (room.at(hole) as usize, neighbours)
}

struct Run {
    /// Whether nanoseconds are time, and not instructions.
    time: bool,
    /// What is written, and where to read to.
    bytes: Vec<u8>,
}

impl Run {
    /// What the row's work costs.
    fn row(&mut self, row: &Row) -> Costs {
        let open = |&(peer, name)| {
            if peer != Peer::Device && !row.peers.contains(&peer) {
                return None;
            }
            open_peer(peer, row.size)
                .inspect_err(|err| eprintln!("cost: {name}: {err}"))
                .ok()
        };
        let fds: Vec<Option<OwnedFd>> = Peer::ALL.iter().map(open).collect();
        let hole = matches!(row.work, MapInHole(_)).then(|| hole(row.size));
        let address = hole.as_ref().map_or(0, |hole| hole.0);
        let rounds = if self.time { 101 } else { 31 };
        let mut times = vec![1; fds.len()];
        let mut samples = vec![vec![]; fds.len()];
        for round in 0..WARM_UP + rounds {
            for (i, fd) in fds.iter().enumerate() {
                let Some(fd) = fd else { continue };
                let cost = self.round(row, fd, address, times[i]);
                if round < WARM_UP {
                    times[i] = (1e6 / cost).clamp(1.0, 16.0) as usize;
                } else {
                    samples[i].push(cost);
                }
            }
        }
        std::array::from_fn(|i| {
            let samples = &mut samples[i];
            samples.sort_by(f64::total_cmp);
            let median = *samples.get(samples.len() / 2)?;
            let (least, most) = (samples[0], samples[samples.len() - 1]);
            let (row, peer) = (row.name, Peer::ALL[i].1);
            println!("{row}: {peer}: {median:.0}, {least:.0} to {most:.0}");
            Some(if self.time { least } else { median })
        })
    }

    /// Does the work so many times and returns what one took.
    fn round(&mut self, row: &Row, fd: &OwnedFd, address: usize, times: usize) -> f64 {
        let bytes = &mut self.bytes[..row.size * page()];
        let mapped = matches!(row.work, Fork).then(|| {
            let map = mmap(fd, 0, bytes.len(), RW, SHARED).expect("mmap");
            touch(&map);
            map
        });
        let start = thread_time();
        for _ in 0..times {
            match row.work {
                Work::Map(first, pages) => {
                    let offset = (first * page()) as u64;
                    touch(&mmap(fd, offset, pages * page(), RW, SHARED).expect("mmap"));
                }
                MapInHole(flags) => {
                    let flags = flags | MapFlags::FIXED_NOREPLACE;
                    touch(&mmap_at(address, fd, bytes.len(), RW, flags).expect("mmap"));
                }
                Read => assert_eq!(io::pread(fd, &mut *bytes, 0), Ok(bytes.len())),
                Write => assert_eq!(io::pwrite(fd, bytes, 0), Ok(bytes.len())),
                Fork => fork_and_wait(),
            }
        }
        let spent = thread_time() - start;
        drop(mapped);
        spent / times as f64
    }
}

fn fork_and_wait() {
    // SAFETY: the only thread forks, and the child does nothing but end.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: ends this process.
        unsafe { libc::_exit(0) };
    }
    // SAFETY: nobody wants to know the status.
    let waited = unsafe { libc::waitpid(child, ptr::null_mut(), 0) };
    assert!(child > 0 && waited == child, "fork and waitpid");
}

/// Nanoseconds that this thread has run.
fn thread_time() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

/// Prints the rows, a line for each ratio.
fn table(rows: &[(&Row, Costs)], one_page: Option<f64>, time: bool) {
    let mut head = vec![""];
    head.extend(Peer::ALL.map(|(_, name)| name));
    head.extend(["ratio", "of"]);
    if !time {
        head.extend(["at most", "met"]);
    }
    let mut lines: Vec<Vec<String>> = vec![head.into_iter().map(str::to_owned).collect()];
    for (row, costs) in rows {
        let cost = |peer: Peer| costs[peer as usize];
        for (i, &(of, at_most)) in row.targets.iter().enumerate() {
            let mut line = vec![String::new(); 1 + Peer::ALL.len()];
            if i == 0 {
                line[0] = row.name.to_owned();
                for (cell, cost) in line[1..].iter_mut().zip(costs) {
                    *cell = cost.map_or(String::new(), |cost| format!("{cost:.0}"));
                }
            }
            let of_peer = |&peer: &Peer| Some((cost(peer)?, peer.name()));
            let of = match of {
                Of::Best => {
                    let costs = row.peers.iter().filter_map(of_peer);
                    costs.min_by(|a, b| a.0.total_cmp(&b.0))
                }
                Of::Peer(peer) => of_peer(&peer),
                Of::OnePage => one_page.map(|cost| (cost, "1 page")),
            };
            let (whole, name) = of.unzip();
            // As many digits as the targets have.
            let hundredths = cost(Peer::Device)
                .zip(whole)
                .map(|(part, whole)| (part / whole * 100.0).round());
            line.push(hundredths.map_or("?".into(), |ratio| format!("{:.2}", ratio / 100.0)));
            line.push(name.unwrap_or("?").to_owned());
            if !time {
                let met = hundredths.is_some_and(|ratio| ratio <= (at_most * 100.0).round());
                line.push(format!("{at_most:.2}"));
                line.push(if met { "yes" } else { "no" }.to_owned());
            }
            lines.push(line);
        }
    }
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max();
    let widths: Vec<_> = (0..lines[0].len()).filter_map(width).collect();
    println!();
    for line in &lines {
        print!("{:1$}", line[0], widths[0]);
        for (cell, width) in line.iter().zip(&widths).skip(1) {
            print!("  {cell:>width$}");
        }
        println!();
    }
}
