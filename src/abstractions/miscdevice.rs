// SPDX-License-Identifier: GPL-2.0

//! Misc devices whose registration carries data, and whose files have what a file of a fixed size
//! in memory has.
//!
//! C headers: [`include/linux/miscdevice.h`](srctree/include/linux/miscdevice.h),
//! [`include/linux/fs.h`](srctree/include/linux/fs.h)

use core::marker::PhantomData;

use kernel::{
    error::{
        to_result,
        VTABLE_DEFAULT_ERROR, //
    },
    ffi::{
        c_int,
        c_long,
        c_uint,
        c_ulong, //
    },
    fs::{
        File,
        Kiocb, //
    },
    iov::{
        IovIterDest,
        IovIterSource, //
    },
    mm::virt::VmaNew,
    prelude::*,
    seq_file::SeqFile,
    types::{
        ForeignOwnable,
        Opaque, //
    }, //
};

use crate::abstractions::{
    bindings,
    compat::this_module,
    mm::{
        pagemap::PageCache,
        virt::VmaOperations, //
    }, //
};

/// A registered misc device, with the data that all its opens share.
///
/// # Invariants
///
/// `misc` is registered, with the table of `T`, while `self` exists.
///
/// # Examples
///
/// ```
/// use kernel::prelude::*;
/// use rust_mmapdev::abstractions::miscdevice::{MiscDevice, MiscDeviceRegistration};
///
/// /// Has a device while it exists.
/// #[pin_data]
/// struct Owner<T: MiscDevice> {
///     #[pin]
///     registration: MiscDeviceRegistration<T>,
/// }
///
/// fn own<T: MiscDevice<RegistrationData = usize>>() -> impl PinInit<Owner<T>, Error> {
///     try_pin_init!(Owner {
///         registration <- MiscDeviceRegistration::register(c"example", Ok(4096)),
///     })
/// }
/// ```
///
/// The core has its address, so it is not moved:
///
/// ```compile_fail,E0308
/// # use kernel::prelude::*;
/// # use rust_mmapdev::abstractions::miscdevice::{MiscDevice, MiscDeviceRegistration};
/// fn own<T: MiscDevice<RegistrationData = usize>>() -> MiscDeviceRegistration<T> {
///     MiscDeviceRegistration::register(c"example", Ok(4096))
/// }
/// ```
#[repr(C)]
#[pin_data(PinnedDrop)]
pub struct MiscDeviceRegistration<T: MiscDevice> {
    #[pin]
    misc: Opaque<bindings::miscdevice>,
    #[pin]
    data: T::RegistrationData,
}

// SAFETY: `misc_deregister()` may be called from any thread, and the data are `Send`.
unsafe impl<T: MiscDevice> Send for MiscDeviceRegistration<T> {}

// SAFETY: Nothing can be done with a shared reference but through the data, which are `Sync`.
unsafe impl<T: MiscDevice> Sync for MiscDeviceRegistration<T> {}

impl<T: MiscDevice> MiscDeviceRegistration<T> {
    /// Registers `/dev/<name>`: `misc_register()`. It can be opened from then on.
    ///
    /// Errors are those of `data` and of the C function: EEXIST: the name is taken; EBUSY: all
    /// minor numbers are; ENOMEM: no memory.
    pub fn register(
        name: &'static CStr,
        data: impl PinInit<T::RegistrationData, Error>,
    ) -> impl PinInit<Self, Error> {
        // `data` first: the device can be opened as soon as it is registered.
        try_pin_init!(Self {
            data <- data,
            misc <- Opaque::try_ffi_init(move |slot: *mut bindings::miscdevice| {
                let mut misc: bindings::miscdevice = pin_init::zeroed();
                misc.minor = bindings::MISC_DYNAMIC_MINOR as c_int;
                misc.name = name.as_char_ptr();
                misc.fops = FileOperations::<T>::table();
                // SAFETY: The initializer may write to `slot`.
                unsafe { slot.write(misc) };
                // SAFETY: `slot` was just set up. It is pinned, and `drop` takes it off the list
                // before it goes.
                // INVARIANT: It is registered if this succeeds.
                to_result(unsafe { bindings::misc_register(slot) })
            }),
        }? Error)
    }

    /// What the registration carries; it goes when the device is no longer registered.
    pub fn data(&self) -> &T::RegistrationData {
        &self.data
    }
}

#[pinned_drop]
impl<T: MiscDevice> PinnedDrop for MiscDeviceRegistration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants it is registered, and this happens once.
        unsafe { bindings::misc_deregister(self.misc.get()) };
    }
}

/// A misc device: what its files do. See `struct file_operations`.
///
/// Files have a position that calls of read(2) and write(2) on one open file take turns to use, as
/// the core has it for regular files; fsync(2), fdatasync(2) and msync(2), which have nothing to
/// do; splice(2) and sendfile(2), where they can be read and written.
///
/// # Examples
///
/// A device whose files all read the same bytes:
///
/// ```
/// use kernel::{fs::{File, Kiocb}, iov::IovIterDest, prelude::*, sync::{Arc, ArcBorrow}};
/// use rust_mmapdev::abstractions::{
///     iov::IovIterDestExt,
///     miscdevice::{MiscDevice, MiscDeviceRegistration},
///     mm::pagemap::PageCache,
/// };
///
/// struct Example;
///
/// #[vtable]
/// impl MiscDevice for Example {
///     type Ptr = Arc<PageCache>;
///     type RegistrationData = Arc<PageCache>;
///
///     fn open(_file: &File, misc: &MiscDeviceRegistration<Self>) -> Result<Arc<PageCache>> {
///         Ok(misc.data().clone())
///     }
///
///     fn page_cache<'a>(cache: &'a ArcBorrow<'_, PageCache>) -> &'a PageCache {
///         cache
///     }
///
///     fn read_iter(mut kiocb: Kiocb<'_, Self::Ptr>, to: &mut IovIterDest<'_>) -> Result<usize> {
///         let folio = kiocb.file().folio(0).ok_or(EIO)?;
///         let offset = usize::try_from(kiocb.ki_pos())?;
///         let copied = to.copy_from_folio(&folio, offset, to.len());
///         *kiocb.ki_pos_mut() += copied as i64;
///         Ok(copied)
///     }
/// }
/// # struct LocalModule;
/// # impl kernel::ModuleMetadata for LocalModule {
/// #     const NAME: &'static CStr = c"example";
/// #     // SAFETY: Never used.
/// #     const THIS_MODULE: kernel::ThisModule =
/// #         unsafe { kernel::ThisModule::from_ptr(core::ptr::null_mut()) };
/// # }
/// # fn main() {}
/// ```
///
/// Many threads open it at once, so that its data is [`Sync`]:
///
/// ```compile_fail,E0277
/// # use core::cell::Cell;
/// # use kernel::{fs::File, prelude::*};
/// # use rust_mmapdev::abstractions::miscdevice::{MiscDevice, MiscDeviceRegistration};
/// # struct Example;
/// #[vtable]
/// impl MiscDevice for Example {
///     type Ptr = KBox<()>;
///     type RegistrationData = Cell<usize>;
///
///     fn open(_file: &File, misc: &MiscDeviceRegistration<Self>) -> Result<KBox<()>> {
///         misc.data().set(misc.data().get() + 1);
///         Ok(KBox::new((), GFP_KERNEL)?)
///     }
/// }
/// # struct LocalModule;
/// # impl kernel::ModuleMetadata for LocalModule {
/// #     const NAME: &'static CStr = c"example";
/// #     // SAFETY: Never used.
/// #     const THIS_MODULE: kernel::ThisModule =
/// #         unsafe { kernel::ThisModule::from_ptr(core::ptr::null_mut()) };
/// # }
/// # fn main() {}
/// ```
///
/// And use a file at once:
///
/// ```compile_fail,E0277
/// # use core::cell::Cell;
/// # use kernel::{fs::File, prelude::*};
/// # use rust_mmapdev::abstractions::miscdevice::{MiscDevice, MiscDeviceRegistration};
/// # struct Example;
/// #[vtable]
/// impl MiscDevice for Example {
///     type Ptr = KBox<Cell<usize>>;
///     type RegistrationData = ();
///
///     fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<KBox<Cell<usize>>> {
///         Ok(KBox::new(Cell::new(0), GFP_KERNEL)?)
///     }
/// }
/// # struct LocalModule;
/// # impl kernel::ModuleMetadata for LocalModule {
/// #     const NAME: &'static CStr = c"example";
/// #     // SAFETY: Never used.
/// #     const THIS_MODULE: kernel::ThisModule =
/// #         unsafe { kernel::ThisModule::from_ptr(core::ptr::null_mut()) };
/// # }
/// # fn main() {}
/// ```
///
/// The data may live for as long as the registration, which can be leaked:
///
/// ```compile_fail,E0477
/// # use core::cell::Cell;
/// # use kernel::{fs::File, prelude::*};
/// # use rust_mmapdev::abstractions::miscdevice::{MiscDevice, MiscDeviceRegistration};
/// # struct Example<'a>(&'a ());
/// #[vtable]
/// impl<'a> MiscDevice for Example<'a> {
///     type Ptr = KBox<()>;
///     type RegistrationData = &'a usize;
///
///     fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<KBox<()>> {
///         Ok(KBox::new((), GFP_KERNEL)?)
///     }
/// }
/// # struct LocalModule;
/// # impl kernel::ModuleMetadata for LocalModule {
/// #     const NAME: &'static CStr = c"example";
/// #     // SAFETY: Never used.
/// #     const THIS_MODULE: kernel::ThisModule =
/// #         unsafe { kernel::ThisModule::from_ptr(core::ptr::null_mut()) };
/// # }
/// # fn main() {}
/// ```
///
/// What `open` is lent, it does not keep:
///
/// ```compile_fail,E0521
/// # use core::cell::Cell;
/// # use kernel::{fs::File, prelude::*};
/// # use rust_mmapdev::abstractions::miscdevice::{MiscDevice, MiscDeviceRegistration};
/// # struct Example;
/// # fn keep(_data: &'static usize) {}
/// #[vtable]
/// impl MiscDevice for Example {
///     type Ptr = KBox<()>;
///     type RegistrationData = usize;
///
///     fn open(_file: &File, misc: &MiscDeviceRegistration<Self>) -> Result<KBox<()>> {
///         keep(misc.data());
///         Ok(KBox::new((), GFP_KERNEL)?)
///     }
/// }
/// # struct LocalModule;
/// # impl kernel::ModuleMetadata for LocalModule {
/// #     const NAME: &'static CStr = c"example";
/// #     // SAFETY: Never used.
/// #     const THIS_MODULE: kernel::ThisModule =
/// #         unsafe { kernel::ThisModule::from_ptr(core::ptr::null_mut()) };
/// # }
/// # fn main() {}
/// ```
///
/// A file's pages live for as long as the file:
///
/// ```compile_fail,E0515
/// # use core::cell::Cell;
/// # use kernel::{fs::File, prelude::*};
/// # use rust_mmapdev::abstractions::miscdevice::{MiscDevice, MiscDeviceRegistration};
/// # use rust_mmapdev::abstractions::mm::pagemap::PageCache;
/// # struct Example;
/// #[vtable]
/// impl MiscDevice for Example {
///     type Ptr = KBox<()>;
///     type RegistrationData = ();
///
///     fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<KBox<()>> {
///         Ok(KBox::new((), GFP_KERNEL)?)
///     }
///
///     fn page_cache<'a>(_device: &'a &()) -> &'a PageCache {
///         let Ok(cache) = PageCache::new(c"example", 1) else { loop {} };
///         &cache
///     }
/// }
/// # struct LocalModule;
/// # impl kernel::ModuleMetadata for LocalModule {
/// #     const NAME: &'static CStr = c"example";
/// #     // SAFETY: Never used.
/// #     const THIS_MODULE: kernel::ThisModule =
/// #         unsafe { kernel::ThisModule::from_ptr(core::ptr::null_mut()) };
/// # }
/// # fn main() {}
/// ```
#[vtable]
pub trait MiscDevice: Sized + 'static {
    /// The private data of an open file.
    type Ptr: ForeignOwnable + Send + Sync + 'static;

    /// What the registration carries.
    type RegistrationData: Send + Sync + 'static;

    /// open(2): makes the private data.
    fn open(file: &File, misc: &MiscDeviceRegistration<Self>) -> Result<Self::Ptr>;

    /// mmap(2): sets up a VMA. What it returns is installed in it.
    fn mmap(
        _device: <Self::Ptr as ForeignOwnable>::Borrowed<'_>,
        _vma: &VmaNew,
    ) -> Result<Option<VmaOperations<Self::Ptr>>> {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// read(2) and kin: the number of bytes that were copied to `to`.
    fn read_iter(_kiocb: Kiocb<'_, Self::Ptr>, _to: &mut IovIterDest<'_>) -> Result<usize> {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// write(2) and kin: the number of bytes that were taken from `from`.
    fn write_iter(_kiocb: Kiocb<'_, Self::Ptr>, _from: &mut IovIterSource<'_>) -> Result<usize> {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// ioctl(2), also of 32-bit programs, whose structures must have the same layout.
    fn ioctl(
        _device: <Self::Ptr as ForeignOwnable>::Borrowed<'_>,
        _file: &File,
        _cmd: u32,
        _arg: usize,
    ) -> Result<isize> {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// `/proc/PID/fdinfo`.
    fn show_fdinfo(_device: <Self::Ptr as ForeignOwnable>::Borrowed<'_>, _m: &SeqFile) {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Size in bytes: lseek(2) moves within `0..=size`, from the start, the position or the end, as
    /// `fixed_size_llseek()` has it.
    fn size(_device: <Self::Ptr as ForeignOwnable>::Borrowed<'_>) -> usize {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Where the pages of its mappings stand: the file's `f_mapping`. Without it they belong to no
    /// file that the core could ask.
    fn page_cache<'a>(_device: &'a <Self::Ptr as ForeignOwnable>::Borrowed<'_>) -> &'a PageCache {
        build_error!(VTABLE_DEFAULT_ERROR)
    }
}

/// The C functions for the files of a [`MiscDevice`].
pub(super) struct FileOperations<T>(PhantomData<T>);

impl<T: MiscDevice> FileOperations<T> {
    const VTABLE: bindings::file_operations = bindings::file_operations {
        // An open file holds the module.
        owner: this_module(),
        open: Some(Self::open),
        release: Some(Self::release),
        fsync: Some(bindings::noop_fsync),
        mmap: if T::HAS_MMAP { Some(Self::mmap) } else { None },
        #[cfg(CONFIG_TRANSPARENT_HUGEPAGE)]
        get_unmapped_area: if T::HAS_PAGE_CACHE {
            Some(bindings::thp_get_unmapped_area)
        } else {
            None
        },
        read_iter: if T::HAS_READ_ITER {
            Some(Self::read_iter)
        } else {
            None
        },
        splice_read: if T::HAS_READ_ITER {
            Some(bindings::copy_splice_read)
        } else {
            None
        },
        write_iter: if T::HAS_WRITE_ITER {
            Some(Self::write_iter)
        } else {
            None
        },
        splice_write: if T::HAS_WRITE_ITER {
            Some(bindings::iter_file_splice_write)
        } else {
            None
        },
        unlocked_ioctl: if T::HAS_IOCTL {
            Some(Self::ioctl)
        } else {
            None
        },
        #[cfg(CONFIG_COMPAT)]
        compat_ioctl: if T::HAS_IOCTL {
            bindings::compat_ptr_ioctl
        } else {
            None
        },
        show_fdinfo: if T::HAS_SHOW_FDINFO {
            Some(Self::show_fdinfo)
        } else {
            None
        },
        llseek: if T::HAS_SIZE {
            Some(Self::llseek)
        } else {
            None
        },
        ..pin_init::zeroed()
    };

    pub(super) const fn table() -> &'static bindings::file_operations {
        &Self::VTABLE
    }

    /// The private data of a file.
    ///
    /// # Safety
    ///
    /// `file` must be a file with this table that is open for `'a`.
    unsafe fn device<'a>(file: *const bindings::file) -> <T::Ptr as ForeignOwnable>::Borrowed<'a> {
        // SAFETY: `init` has stored a foreign `T::Ptr` there, which `release` takes back when the
        // file goes.
        unsafe { T::Ptr::borrow((*file).private_data) }
    }

    /// Sets up a file that is being opened.
    ///
    /// # Safety
    ///
    /// `file` must be a file with this table that nobody else uses yet.
    pub(super) unsafe fn init(file: *mut bindings::file, device: T::Ptr) {
        // SAFETY: By the requirements of this function, these fields are ours to write. What the
        // operations expect in `private_data` is what is stored there. The inode that `f_mapping`
        // belongs to is held until `release`.
        unsafe {
            (*file).private_data = device.into_foreign();
            // The position is shared; stores through a mapping do not change the node's times.
            (*file).f_mode |= bindings::FMODE_ATOMIC_POS | bindings::FMODE_NOCMTIME;
            if T::HAS_PAGE_CACHE {
                let mapping = T::page_cache(&Self::device(file)).mapping();
                bindings::ihold((*mapping).host);
                (*file).f_mapping = mapping;
            }
        }
    }

    /// # Safety
    ///
    /// To be called by `misc_open()` on a file that has this table.
    unsafe extern "C" fn open(inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: Both are valid, and of a file that is being opened.
        let ret = unsafe { bindings::generic_file_open(inode, file) };
        if ret != 0 {
            return ret;
        }
        // SAFETY: `misc_open()` has set `private_data` to the `struct miscdevice` whose table this
        // is, and keeps it registered during this call. By the type invariants and `repr(C)` it
        // stands at the start of a registration.
        let misc = unsafe { &*(*file).private_data.cast::<MiscDeviceRegistration<T>>() };
        // SAFETY: The file is valid for (much longer than) this call, and no `fdget_pos()` of it
        // is active on this thread.
        let opened = unsafe { File::from_raw_file(file) };
        match T::open(opened, misc) {
            Ok(device) => {
                // SAFETY: The file is being opened, and has this table.
                unsafe { Self::init(file, device) };
                0
            }
            Err(e) => e.to_errno(),
        }
    }

    /// # Safety
    ///
    /// To be called by the core when the last reference to a file with this table goes.
    unsafe extern "C" fn release(_inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: `init` has stored it, and nobody uses it any more.
        drop(unsafe { T::Ptr::from_foreign((*file).private_data) });
        if T::HAS_PAGE_CACHE {
            // SAFETY: `init` has taken this reference.
            unsafe { bindings::iput((*(*file).f_mapping).host) };
        }
        0
    }

    /// # Safety
    ///
    /// To be called by the core for a read from an open file with this table.
    unsafe extern "C" fn read_iter(
        kiocb: *mut bindings::kiocb,
        iter: *mut bindings::iov_iter,
    ) -> isize {
        // SAFETY: The core hands us both for this call, the iterator as a destination; the private
        // data of the file is a foreign `T::Ptr`.
        let (kiocb, to) = unsafe { (Kiocb::from_raw(kiocb), IovIterDest::from_raw(iter)) };
        let asked = to.len();
        match T::read_iter(kiocb, to) {
            // The caller takes it for the number of bytes that are there.
            Ok(count) => count.min(asked.saturating_sub(to.len())) as isize,
            Err(e) => e.to_errno() as isize,
        }
    }

    /// # Safety
    ///
    /// To be called by the core for a write to an open file with this table.
    unsafe extern "C" fn write_iter(
        kiocb: *mut bindings::kiocb,
        iter: *mut bindings::iov_iter,
    ) -> isize {
        // SAFETY: As in `read_iter`, with the iterator as a source.
        let (kiocb, from) = unsafe { (Kiocb::from_raw(kiocb), IovIterSource::from_raw(iter)) };
        let given = from.len();
        match T::write_iter(kiocb, from) {
            // The caller lets go of so many bytes.
            Ok(count) => count.min(given.saturating_sub(from.len())) as isize,
            Err(e) => e.to_errno() as isize,
        }
    }

    /// # Safety
    ///
    /// To be called by the core for an open file with this table and a VMA of it that is being set
    /// up.
    unsafe extern "C" fn mmap(
        file: *mut bindings::file,
        vma: *mut bindings::vm_area_struct,
    ) -> c_int {
        // SAFETY: By the requirements of this function.
        let (device, vma) = unsafe { (Self::device(file), VmaNew::from_raw(vma)) };
        match T::mmap(device, vma) {
            Ok(Some(operations)) => {
                // SAFETY: The file has this table, whose `owner` is the module of all that is in
                // it, and as private data a foreign `T::Ptr` until its end.
                match unsafe { operations.install(vma) } {
                    Ok(()) => 0,
                    Err(e) => e.to_errno(),
                }
            }
            Ok(None) => 0,
            Err(e) => e.to_errno(),
        }
    }

    /// # Safety
    ///
    /// To be called by the core on an open file with this table.
    unsafe extern "C" fn ioctl(file: *mut bindings::file, cmd: c_uint, arg: c_ulong) -> c_long {
        // SAFETY: By the requirements of this function, and no `fdget_pos()` of the file is active
        // on this thread.
        let (device, file) = unsafe { (Self::device(file), File::from_raw_file(file)) };
        match T::ioctl(device, file, cmd, arg) {
            Ok(ret) => ret as c_long,
            Err(e) => e.to_errno() as c_long,
        }
    }

    /// # Safety
    ///
    /// To be called by the core on an open file with this table, with a `m` to print to.
    unsafe extern "C" fn show_fdinfo(m: *mut bindings::seq_file, file: *mut bindings::file) {
        // SAFETY: By the requirements of this function.
        let (device, m) = unsafe { (Self::device(file), SeqFile::from_raw(m)) };
        T::show_fdinfo(device, m);
    }

    /// # Safety
    ///
    /// To be called by the core on an open file with this table.
    unsafe extern "C" fn llseek(
        file: *mut bindings::file,
        offset: bindings::loff_t,
        whence: c_int,
    ) -> bindings::loff_t {
        // SAFETY: By the requirements of this function.
        let size = T::size(unsafe { Self::device(file) }) as bindings::loff_t;
        // SAFETY: By the requirements of this function.
        unsafe { bindings::fixed_size_llseek(file, offset, whence, size) }
    }
}

#[kunit_tests(rust_mmapdev_miscdevice)]
mod tests {
    use super::*;
    use crate::abstractions::kunit::KernelFile;

    /// A device that can do nothing but be opened.
    struct Mute;

    #[vtable]
    impl MiscDevice for Mute {
        type Ptr = KBox<()>;
        type RegistrationData = ();

        fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<KBox<()>> {
            Ok(KBox::new((), GFP_KERNEL)?)
        }
    }

    #[test]
    fn what_a_device_has_not_is_not_in_its_table() {
        let table = FileOperations::<Mute>::table();
        assert!(table.open.is_some() && table.release.is_some() && table.fsync.is_some());
        assert!(table.read_iter.is_none() && table.splice_read.is_none());
        assert!(table.write_iter.is_none() && table.splice_write.is_none());
        assert!(table.mmap.is_none() && table.get_unmapped_area.is_none());
        assert!(table.unlocked_ioctl.is_none() && table.llseek.is_none());
        assert!(table.show_fdinfo.is_none());
    }

    /// A device that takes and gives one byte a call, and says that they were more.
    struct Braggart;

    #[vtable]
    impl MiscDevice for Braggart {
        type Ptr = KBox<()>;
        type RegistrationData = ();

        fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<KBox<()>> {
            Ok(KBox::new((), GFP_KERNEL)?)
        }

        fn read_iter(_kiocb: Kiocb<'_, KBox<()>>, to: &mut IovIterDest<'_>) -> Result<usize> {
            to.copy_to_iter(&[1]);
            Ok(usize::MAX)
        }

        fn write_iter(_kiocb: Kiocb<'_, KBox<()>>, from: &mut IovIterSource<'_>) -> Result<usize> {
            from.advance(1);
            Ok(usize::MAX)
        }
    }

    #[test]
    fn no_transfer_is_longer_than_it_was() -> Result {
        let file = KernelFile::new::<Braggart>(KBox::new((), GFP_KERNEL)?)?;
        let mut bytes = [0; 4];
        let read = file.read(&mut bytes);
        let written = file.write(&bytes);

        assert_eq!((read, written), (Ok(1), Ok(1)));
        assert_eq!(bytes, [1, 0, 0, 0]);
        Ok(())
    }

    #[test]
    fn without_its_data_nothing_is_registered() -> Result {
        let register = |data| {
            let registration = MiscDeviceRegistration::<Mute>::register(c"kunit", data);
            KBox::pin_init(registration, GFP_KERNEL).map(|_| ())
        };
        let results = [Err(EIO), Ok(()), Ok(())].map(register);

        assert_eq!(results, [Err(EIO), Ok(()), Ok(())]);
        Ok(())
    }

    #[test]
    fn a_file_holds_the_module() {
        assert!(!FileOperations::<Mute>::table().owner.is_null());
        assert_eq!(FileOperations::<Mute>::table().owner, this_module());
    }
}
