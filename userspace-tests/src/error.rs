// SPDX-License-Identifier: GPL-2.0
//! What can go wrong, named after the call that did.

use rustix::io::Errno;

/// A call on the device or on a mapping of it that failed.
///
/// ```no_run
/// use rust_mmapdev::{Access, Device, Error};
/// use rustix::io::Errno;
///
/// match Device::open(Access::Read) {
///     Err(Error::Open(Errno::NOENT)) => eprintln!("the module is not loaded"),
///     other => println!("{other:?}"),
/// }
/// ```
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// open(2) of the device node. ENOENT: the module is not loaded. EACCES: not root.
    #[error("cannot open {path}: {0}", path = crate::Device::PATH)]
    Open(#[source] Errno),

    /// The INFO ioctl.
    #[error("the device does not answer the INFO ioctl: {0}")]
    Info(#[source] Errno),

    /// The loaded module speaks another version of the interface than this library.
    #[error(
        "the loaded module has ABI version {module}, this library knows {library}: rebuild one of them"
    )]
    AbiVersion {
        /// What the module answered.
        module: u32,
        /// What the library was built with.
        library: u32,
    },

    /// The CLEAR ioctl. EBADF: the device was not opened for writing.
    #[error("cannot clear the buffer: {0}")]
    Clear(#[source] Errno),

    /// mmap(2). ENXIO: part of the window lies past the end of the buffer. EACCES: the device was
    /// not opened in a way that allows this mapping.
    #[error("cannot map {len} bytes at offset {offset}: {source}")]
    Map {
        /// Offset of the window in the buffer, in bytes.
        offset: u64,
        /// Length of the window in bytes.
        len: usize,
        /// What mmap(2) said.
        source: std::io::Error,
    },

    /// A write, or an atomic that could be written to, through a read-only mapping.
    #[error("the mapping is read-only: map it with Protection::ReadWrite")]
    ReadOnly,

    /// An access that does not lie inside the mapping.
    #[error("{len} bytes at offset {offset} do not fit into a mapping of {size} bytes")]
    OutOfRange {
        /// Offset in the mapping, in bytes.
        offset: usize,
        /// Length of the access in bytes.
        len: usize,
        /// Length of the mapping in bytes.
        size: usize,
    },

    /// An atomic at an address that is not a multiple of its size.
    #[error("offset {0} is not aligned for an AtomicU32")]
    Unaligned(usize),
}

/// The library's result.
///
/// ```
/// fn size() -> rust_mmapdev::Result<u64> {
///     let device = rust_mmapdev::Device::open(rust_mmapdev::Access::Read)?;
///     Ok(device.info()?.size)
/// }
/// # let _ = size;
/// ```
pub type Result<T> = std::result::Result<T, Error>;
