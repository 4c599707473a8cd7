// SPDX-License-Identifier: GPL-2.0

//! A misc device whose registration carries data, with file operations that [`MiscDevice`] has no
//! method for.
//!
//! C headers: [`include/linux/miscdevice.h`](srctree/include/linux/miscdevice.h),
//! [`include/linux/fs.h`](srctree/include/linux/fs.h)

use kernel::{
    bindings,
    error::to_result,
    ffi::c_int,
    fs::File,
    miscdevice::{MiscDevice, MiscDeviceOptions},
    prelude::*,
    types::{ForeignOwnable, Opaque},
};

/// `FMODE_ATOMIC_POS` of [`include/linux/fs.h`](srctree/include/linux/fs.h), which bindgen can't
/// evaluate.
const FMODE_ATOMIC_POS: bindings::fmode_t = 1 << 15;

/// File operations of a device of a fixed size with no store behind it.
///
/// Such a device also has:
/// - a file position that calls of read(2) and write(2) on one open file take turns to use, as
///   the core has it for regular files;
/// - fsync(2), fdatasync(2) and msync(2), which have nothing to do: `noop_fsync()`;
/// - splice(2) and sendfile(2): `copy_splice_read()`, `iter_file_splice_write()`.
pub(crate) trait FileOperations: MiscDevice {
    /// What the registration carries, and all opens share.
    type Data: Send + Sync;

    /// Called for each open(2), instead of [`MiscDevice::open`].
    fn open(data: &Self::Data, file: &File) -> Result<Self::Ptr>;

    /// Size in bytes: lseek(2) moves within `0..=size`, from the start, the position or the end.
    fn size(device: <Self::Ptr as ForeignOwnable>::Borrowed<'_>) -> usize;
}

/// A registered misc device that carries [`FileOperations::Data`].
///
/// # Invariants
///
/// `misc` is registered, with [`Self::VTABLE`], while `self` exists.
#[repr(C)]
#[pin_data(PinnedDrop)]
pub(crate) struct Registration<T: FileOperations> {
    #[pin]
    misc: Opaque<bindings::miscdevice>,
    data: T::Data,
}

// SAFETY: `misc_deregister()` may be called from any thread, and `T::Data` is `Send`.
unsafe impl<T: FileOperations> Send for Registration<T> {}

// SAFETY: Nothing can be done with a shared reference but through `T::Data`, which is `Sync`.
unsafe impl<T: FileOperations> Sync for Registration<T> {}

impl<T: FileOperations> Registration<T> {
    /// Registers `/dev/<name>`: `misc_register()`.
    pub(crate) fn new(name: &'static CStr, data: T::Data) -> impl PinInit<Self, Error> {
        // `data` first: the device can be opened as soon as it is registered.
        try_pin_init!(Self {
            data,
            misc <- Opaque::try_ffi_init(move |slot: *mut bindings::miscdevice| {
                let mut misc = MiscDeviceOptions { name }.into_raw::<T>();
                misc.fops = &Self::VTABLE;
                // SAFETY: The initializer may write to `slot`.
                unsafe { slot.write(misc) };
                // SAFETY: `slot` was just set up. It is pinned, and `drop` takes it off the list
                // before it goes.
                // INVARIANT: It is registered if this succeeds.
                to_result(unsafe { bindings::misc_register(slot) })
            }),
        }? Error)
    }

    const VTABLE: bindings::file_operations = bindings::file_operations {
        // Linux 7.2 leaves it out; without it the module can be unloaded under an open file.
        owner: this_module(),
        open: Some(Self::open),
        llseek: Some(Self::llseek),
        fsync: Some(bindings::noop_fsync),
        splice_read: Some(bindings::copy_splice_read),
        splice_write: Some(bindings::iter_file_splice_write),
        // SAFETY: `into_raw` makes `fops` point to a constant.
        ..unsafe { *MiscDeviceOptions { name: c"" }.into_raw::<T>().fops }
    };

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
        let registration = unsafe { &*(*file).private_data.cast::<Self>() };
        // SAFETY: The file is valid for (much longer than) this call, and no `fdget_pos()` of it
        // is active on this thread.
        let opened = unsafe { File::from_raw_file(file) };
        match <T as FileOperations>::open(&registration.data, opened) {
            // SAFETY: A file that is being opened is ours to write these fields of. The other
            // operations of the table take `private_data` for what is stored here.
            Ok(device) => unsafe {
                (*file).private_data = device.into_foreign();
                (*file).f_mode |= FMODE_ATOMIC_POS;
            },
            Err(e) => return e.to_errno(),
        }
        0
    }

    /// # Safety
    ///
    /// To be called by the core on an open file that has this table.
    unsafe extern "C" fn llseek(
        file: *mut bindings::file,
        offset: bindings::loff_t,
        whence: c_int,
    ) -> bindings::loff_t {
        // SAFETY: `open` has stored a foreign `T::Ptr` there, which stays until the file goes.
        let device = unsafe { T::Ptr::borrow((*file).private_data) };
        let size = T::size(device) as bindings::loff_t;
        // SAFETY: The file is open, as the caller promises.
        unsafe { bindings::fixed_size_llseek(file, offset, whence, size) }
    }
}

#[pinned_drop]
impl<T: FileOperations> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants it is registered, and this happens once.
        unsafe { bindings::misc_deregister(self.misc.get()) };
    }
}

/// The C `THIS_MODULE`: `kernel::module::this_module()`, which Linux 7.2 does not have.
const fn this_module() -> *mut bindings::module {
    #[allow(improper_ctypes)] // Some lock types are empty structs in C, too.
    extern "C" {
        static __this_module: Opaque<bindings::module>;
    }
    // SAFETY: Every module has one. Only its address is taken.
    unsafe { __this_module.get() }
}
