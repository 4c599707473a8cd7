// SPDX-License-Identifier: GPL-2.0
//! The open device.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::{
    fs::{Mode, OFlags},
    ioctl,
};

use crate::{Error, Mapping, Protection, Result, Sharing, uapi};

/// What a descriptor may be used for, as in open(2).
///
/// ```no_run
/// use rust_mmapdev::{Access, Device};
///
/// let reader = Device::open(Access::Read)?;
/// assert!(reader.clear().is_err());
/// # Ok::<(), rust_mmapdev::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// `O_RDONLY`: read, map shared for reading, map private.
    Read,
    /// `O_WRONLY`: write and clear; nothing can be mapped.
    Write,
    /// `O_RDWR`: everything.
    ReadWrite,
}

/// The device's answer to the INFO ioctl.
///
/// ```no_run
/// # let device = rust_mmapdev::Device::open(rust_mmapdev::Access::Read)?;
/// let info = device.info()?;
/// println!("{} pages", info.size / u64::from(info.page_size));
/// # Ok::<(), rust_mmapdev::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// Size of the buffer in bytes, a multiple of `page_size`.
    pub size: u64,
    /// Size of a page of the running kernel in bytes.
    pub page_size: u32,
    /// Version of the interface that the loaded module speaks.
    pub abi_version: u32,
}

/// An open descriptor of `/dev/rust_mmapdev`.
///
/// One that was opened by other means, or came from another process, is taken when it is the
/// device's:
///
/// ```no_run
/// use std::{fs::File, os::fd::OwnedFd};
/// use rust_mmapdev::Device;
///
/// let fd = OwnedFd::from(File::open(Device::PATH)?);
/// let device = Device::try_from(fd)?;
///
/// let other = OwnedFd::from(File::open("/dev/null")?);
/// assert!(Device::try_from(other).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// It is not taken unseen:
///
/// ```compile_fail,E0277
/// # fn f(fd: std::os::fd::OwnedFd) {
/// let device = rust_mmapdev::Device::from(fd);
/// # }
/// ```
#[derive(Debug)]
pub struct Device {
    fd: OwnedFd,
}

impl Device {
    /// Path of the device node.
    ///
    /// ```
    /// assert_eq!(rust_mmapdev::Device::PATH, "/dev/rust_mmapdev");
    /// ```
    pub const PATH: &str = match uapi::RUST_MMAPDEV_PATH.to_str() {
        Ok(path) => path,
        Err(_) => panic!("the path is not UTF-8"),
    };

    /// Opens the device; closed on exec.
    ///
    /// ```no_run
    /// use rust_mmapdev::{Access, Device};
    ///
    /// let device = Device::open(Access::ReadWrite)?;
    /// # Ok::<(), rust_mmapdev::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Open`] with open(2)'s errno: ENOENT when the module is not loaded, EACCES when
    /// the node's mode forbids it.
    pub fn open(access: Access) -> Result<Self> {
        let mode = match access {
            Access::Read => OFlags::RDONLY,
            Access::Write => OFlags::WRONLY,
            Access::ReadWrite => OFlags::RDWR,
        };
        rustix::fs::open(Self::PATH, mode | OFlags::CLOEXEC, Mode::empty())
            .map(|fd| Self { fd })
            .map_err(Error::Open)
    }

    /// Asks for the buffer's size, the page size and the version of the interface.
    ///
    /// ```no_run
    /// # let device = rust_mmapdev::Device::open(rust_mmapdev::Access::Read)?;
    /// println!("{} bytes", device.info()?.size);
    /// # Ok::<(), rust_mmapdev::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Info`] when the descriptor is not this device's; [`Error::AbiVersion`] when the
    /// module and the library do not fit each other.
    pub fn info(&self) -> Result<Info> {
        type Get = ioctl::Getter<{ uapi::RUST_MMAPDEV_IOC_INFO }, uapi::rust_mmapdev_info>;
        // SAFETY: INFO fills in a `rust_mmapdev_info`, whose size is part of the opcode.
        let info = unsafe { ioctl::ioctl(&self.fd, Get::new()) }.map_err(Error::Info)?;
        if info.abi_version != uapi::RUST_MMAPDEV_ABI_VERSION {
            return Err(Error::AbiVersion {
                module: info.abi_version,
                library: uapi::RUST_MMAPDEV_ABI_VERSION,
            });
        }
        Ok(Info {
            size: info.size,
            page_size: info.page_size,
            abi_version: info.abi_version,
        })
    }

    /// Zeroes the whole buffer.
    ///
    /// ```no_run
    /// # let device = rust_mmapdev::Device::open(rust_mmapdev::Access::Write)?;
    /// device.clear()?;
    /// # Ok::<(), rust_mmapdev::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Clear`] with EBADF when the device was not opened for writing.
    pub fn clear(&self) -> Result<()> {
        type Clear = ioctl::NoArg<{ uapi::RUST_MMAPDEV_IOC_CLEAR }>;
        // SAFETY: CLEAR takes no argument and touches no memory of this process but mappings of
        // the device, which are only accessed as memory that others write to.
        unsafe { ioctl::ioctl(&self.fd, Clear::new()) }.map_err(Error::Clear)
    }

    /// Maps the whole buffer.
    ///
    /// ```no_run
    /// # let device = rust_mmapdev::Device::open(rust_mmapdev::Access::ReadWrite)?;
    /// use rust_mmapdev::{Protection, Sharing};
    ///
    /// let mapping = device.map(Sharing::Shared, Protection::ReadWrite)?;
    /// # Ok::<(), rust_mmapdev::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`Device::info`] and [`Device::map_window`].
    pub fn map(&self, sharing: Sharing, protection: Protection) -> Result<Mapping> {
        let size = self.info()?.size as usize;
        self.map_window(0, size, sharing, protection)
    }

    /// Maps `len` bytes of the buffer from byte `offset` on, neither of which needs to be a
    /// multiple of anything.
    ///
    /// ```no_run
    /// # let device = rust_mmapdev::Device::open(rust_mmapdev::Access::Read)?;
    /// use rust_mmapdev::{Protection, Sharing};
    ///
    /// let second_page = device.map_window(4096, 4096, Sharing::Shared, Protection::Read)?;
    /// # Ok::<(), rust_mmapdev::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Map`] with mmap(2)'s errno: ENXIO when the window ends past the buffer's last
    /// page, EACCES when the descriptor's access mode forbids the mapping.
    pub fn map_window(
        &self,
        offset: u64,
        len: usize,
        sharing: Sharing,
        protection: Protection,
    ) -> Result<Mapping> {
        Mapping::new(&self.fd, offset, len, sharing, protection)
    }
}

/// Fails like [`Device::info`], whose answer shows what the descriptor is of; it is closed then.
impl TryFrom<OwnedFd> for Device {
    type Error = Error;

    fn try_from(fd: OwnedFd) -> Result<Self> {
        let device = Self { fd };
        device.info()?;
        Ok(device)
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Device {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}
