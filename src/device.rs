// SPDX-License-Identifier: GPL-2.0

//! The file operations of `/dev/rust_mmapdev`.

#![forbid(unsafe_code)]

use kernel::{
    fs::{
        file::flags::{O_ACCMODE, O_RDWR, O_WRONLY},
        File, Kiocb,
    },
    iov::{IovIterDest, IovIterSource},
    mm::virt::VmaNew,
    page::PAGE_SIZE,
    prelude::*,
    seq_file::SeqFile,
    seq_print,
    sync::{Arc, ArcBorrow},
    uaccess::{UserPtr, UserSlice},
};

use crate::{
    abstractions::{
        miscdevice::{MiscDevice, MiscDeviceRegistration},
        mm::{pagemap::PageCache, virt::VmaOperations},
    },
    buffer::Buffer,
    mapping, uapi,
};

/// An open `/dev/rust_mmapdev`. It holds the buffer and nothing of its own.
pub(crate) struct Device;

#[vtable]
impl MiscDevice for Device {
    type Ptr = Arc<Buffer>;
    type RegistrationData = Arc<Buffer>;

    fn open(_file: &File, misc: &MiscDeviceRegistration<Self>) -> Result<Arc<Buffer>> {
        Ok(misc.data().clone())
    }

    fn page_cache<'a>(buffer: &'a ArcBorrow<'_, Buffer>) -> &'a PageCache {
        buffer.pages()
    }

    fn size(buffer: ArcBorrow<'_, Buffer>) -> usize {
        buffer.size()
    }

    fn read_iter(mut kiocb: Kiocb<'_, Self::Ptr>, to: &mut IovIterDest<'_>) -> Result<usize> {
        let done = kiocb.file().read(kiocb.ki_pos(), to)?;
        *kiocb.ki_pos_mut() += done as i64;
        Ok(done)
    }

    fn write_iter(mut kiocb: Kiocb<'_, Self::Ptr>, from: &mut IovIterSource<'_>) -> Result<usize> {
        let done = kiocb.file().write(kiocb.ki_pos(), from)?;
        *kiocb.ki_pos_mut() += done as i64;
        Ok(done)
    }

    fn mmap(
        buffer: ArcBorrow<'_, Buffer>,
        vma: &VmaNew,
    ) -> Result<Option<VmaOperations<Arc<Buffer>>>> {
        mapping::mmap(&buffer, vma).map(Some)
    }

    fn ioctl(buffer: ArcBorrow<'_, Buffer>, file: &File, cmd: u32, arg: usize) -> Result<isize> {
        match cmd {
            uapi::RUST_MMAPDEV_IOC_INFO => info(&buffer, UserPtr::from_addr(arg))?,
            uapi::RUST_MMAPDEV_IOC_CLEAR => {
                if !matches!(file.flags() & O_ACCMODE, O_WRONLY | O_RDWR) {
                    return Err(EBADF);
                }
                buffer.clear()?;
            }
            _ => return Err(ENOTTY),
        }
        Ok(0)
    }

    fn show_fdinfo(buffer: ArcBorrow<'_, Buffer>, m: &SeqFile) {
        seq_print!(m, "buffer_size:\t{}\n", buffer.size());
        seq_print!(m, "page_count:\t{}\n", buffer.page_count());
        seq_print!(m, "huge_size:\t{}\n", buffer.pages().huge_size());
    }
}

/// Fills in the `struct rust_mmapdev_info` at `user`; EFAULT where it can't be written.
fn info(buffer: &Buffer, user: UserPtr) -> Result {
    let info = uapi::rust_mmapdev_info {
        size: buffer.size() as u64,
        page_size: PAGE_SIZE as u32,
        abi_version: uapi::RUST_MMAPDEV_ABI_VERSION,
    };
    // Field by field: in this order they are all of the structure, without padding.
    let mut writer = UserSlice::new(user, size_of_val(&info)).writer();
    writer.write(&info.size)?;
    writer.write(&info.page_size)?;
    writer.write(&info.abi_version)
}
