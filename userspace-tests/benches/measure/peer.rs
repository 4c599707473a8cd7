// SPDX-License-Identifier: GPL-2.0
//! Memory that can be mapped: the device's, its twin's, and what one would take instead.

use std::{
    ffi::{CStr, CString},
    fs, mem,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::Path,
    sync::OnceLock,
};

use clap::ValueEnum;
use rustix::{
    fs::{MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create, open},
    io::{self, Errno},
    system::{delete_module, finit_module},
};

use crate::memory::{
    Map, MapFlags, PRIVATE, RW, SHARED, mmap, mmap_anonymous_at, mmap_there, page, table,
    write_pages,
};

/// Where a tmpfs with huge pages is mounted.
const TMPFS: &CStr = c"/tmp/huge";

/// The file of the module, where it is another one than [`Module::DEVICE`] has.
pub static MODULE: OnceLock<String> = OnceLock::new();

/// Whose memory it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Peer {
    Device,
    Twin,
    Memfd,
    TmpfsHuge,
    Hugetlb,
    Udmabuf,
    Bpf,
    #[value(name = "devzero")]
    DevZero,
    AnonShared,
    AnonPrivate,
}

impl Peer {
    /// Our two modules.
    pub const MODULES: [(Self, Module); 2] =
        [(Self::Device, Module::DEVICE), (Self::Twin, Module::TWIN)];

    pub fn name(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Twin => "twin",
            Self::Memfd => "memfd",
            Self::TmpfsHuge => "tmpfs-huge",
            Self::Hugetlb => "hugetlb",
            Self::Udmabuf => "udmabuf",
            Self::Bpf => "bpf",
            Self::DevZero => "devzero",
            Self::AnonShared => "anon-shared",
            Self::AnonPrivate => "anon-private",
        }
    }

    /// Whether it is one of our two modules.
    pub fn module(self) -> Option<Module> {
        let own = Self::MODULES.into_iter().find(|(peer, _)| *peer == self);
        own.map(|(_, module)| module)
    }

    /// What comes in huge pages only.
    pub fn has(self, pages: usize) -> bool {
        self != Self::Hugetlb || pages * page() % table() == 0
    }
}

/// A module whose one parameter is the size of its buffer.
#[derive(Clone, Copy)]
pub struct Module {
    pub name: &'static CStr,
    node: &'static str,
    file: &'static str,
}

impl Module {
    pub const DEVICE: Self = Self {
        name: c"rust_mmapdev",
        node: "/dev/rust_mmapdev",
        file: "/rust_mmapdev.ko",
    };
    const TWIN: Self = Self {
        name: c"mmapdev_twin",
        node: "/dev/mmapdev_twin",
        file: "/mmapdev_twin.ko",
    };

    fn file(self) -> &'static str {
        match MODULE.get() {
            Some(file) if self.name == Self::DEVICE.name => file,
            _ => self.file,
        }
    }

    /// Whether it can be loaded, as in the VM.
    pub fn at_hand(self) -> bool {
        Path::new(self.file()).exists()
    }

    /// Loads it with a buffer of so many pages.
    pub fn load(self, pages: usize) -> io::Result<()> {
        let file = open(self.file(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let parameters = CString::new(format!("buffer_pages={pages}")).expect("no NUL");
        finit_module(file, &parameters, 0)
    }

    pub fn unload(self) -> io::Result<()> {
        match delete_module(self.name, OFlags::NONBLOCK.bits() as i32) {
            Err(Errno::NOENT) => Ok(()),
            done => done,
        }
    }

    /// Opens the device with a buffer of so many pages, at least. It is loaded anew for that where
    /// it is at hand.
    pub fn open(self, pages: usize) -> io::Result<OwnedFd> {
        if self.at_hand() {
            self.unload()?;
            self.load(pages)?;
        }
        let fd = open(self.node, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        match rustix::fs::seek(&fd, rustix::fs::SeekFrom::End(0))? < (pages * page()) as u64 {
            true => Err(Errno::NOSPC),
            false => Ok(fd),
        }
    }
}

/// A peer's memory of some size.
pub enum Memory {
    /// What a descriptor stands for.
    Of(OwnedFd),
    /// What mmap(2) itself makes, anew each time.
    Anonymous(MapFlags),
}

impl Memory {
    /// So many pages of it, each of them there already.
    pub fn open(peer: Peer, pages: usize) -> io::Result<Self> {
        let size = (pages * page()) as u64;
        let fd = match peer {
            Peer::Device | Peer::Twin => peer.module().expect("a module").open(pages)?,
            Peer::Memfd => memfd_create("memfd", MemfdFlags::CLOEXEC)?,
            Peer::TmpfsHuge => open(TMPFS, OFlags::RDWR | OFlags::TMPFILE, Mode::RWXU)?,
            Peer::Hugetlb => memfd_create("hugetlb", MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB)?,
            Peer::Udmabuf => udmabuf(size)?,
            Peer::Bpf => bpf_array(pages)?,
            Peer::DevZero => open("/dev/zero", OFlags::RDWR, Mode::empty())?,
            Peer::AnonShared => return Ok(Self::Anonymous(SHARED)),
            Peer::AnonPrivate => return Ok(Self::Anonymous(PRIVATE)),
        };
        if matches!(peer, Peer::Memfd | Peer::TmpfsHuge | Peer::Hugetlb) {
            ftruncate(&fd, size)?;
        }
        if peer != Peer::DevZero {
            write_pages(&mmap(&fd, 0, pages * page(), RW, SHARED)?);
        }
        Ok(Self::Of(fd))
    }

    /// Maps `pages` of it from page `first` on, for reading and writing. `sharing` is SHARED or
    /// PRIVATE, which anonymous memory knows itself; without an `address` the kernel picks one.
    pub fn map(
        &self,
        address: Option<usize>,
        first: usize,
        pages: usize,
        sharing: MapFlags,
    ) -> io::Result<Map> {
        let fixed = address.map_or(MapFlags::empty(), |_| MapFlags::FIXED_NOREPLACE);
        let (address, len) = (address.unwrap_or(0), pages * page());
        match self {
            Self::Of(fd) => {
                let offset = (first * page()) as u64;
                mmap_there(address, fd, offset, len, RW, sharing | fixed)
            }
            Self::Anonymous(sharing) => mmap_anonymous_at(address, len, RW, *sharing | fixed),
        }
    }

    pub fn fd(&self) -> &OwnedFd {
        match self {
            Self::Of(fd) => fd,
            Self::Anonymous(_) => panic!("anonymous memory has no descriptor"),
        }
    }
}

/// Makes the system ready for peers with huge pages, `pages` at most. What it does not have shows
/// when they are opened.
pub fn huge_pages(pages: usize) {
    let huge = (pages * page()).div_ceil(table()).to_string();
    let _ = fs::write("/proc/sys/vm/nr_hugepages", huge);
    // Of udmabufs, whose limit is 64 MiB.
    let _ = fs::write("/sys/module/udmabuf/parameters/size_limit_mb", "1024");
    fs::create_dir_all(TMPFS.to_str().expect("a name")).expect("mkdir");
    // SAFETY: the strings have an end.
    unsafe {
        libc::mount(
            c"tmpfs".as_ptr(),
            TMPFS.as_ptr(),
            c"tmpfs".as_ptr(),
            0,
            c"huge=always".as_ptr().cast(),
        )
    };
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
