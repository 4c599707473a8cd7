// SPDX-License-Identifier: GPL-2.0

//! `/dev/rust_ring`: the memory of a ring buffer, for a producer and a consumer to map.

#![deny(unsafe_code)]

use kernel::{
    fs::File,
    mm::virt::VmaNew,
    page::PAGE_SIZE,
    prelude::*,
    sync::{Arc, ArcBorrow},
};

#[allow(unsafe_code)]
#[path = "../../src/abstractions/mod.rs"]
pub mod abstractions;

use abstractions::{
    miscdevice::{MiscDevice, MiscDeviceRegistration},
    mm::{
        folio::LockedFolio,
        pagemap::PageCache,
        virt::{FaultError, VmOperations, VmaNewExt, VmaOperations},
    },
};

module! {
    type: RustRing,
    name: "rust_ring",
    authors: ["The rust_mmapdev developers"],
    description: "The memory of a ring buffer to mmap",
    license: "GPL",
}

const PAGES: usize = 4;

#[pin_data]
struct RustRing {
    #[pin]
    _registration: MiscDeviceRegistration<Ring>,
}

impl kernel::InPlaceModule for RustRing {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            _registration <- {
                let memory = Arc::new(PageCache::new(c"rust_ring", PAGES)?, GFP_KERNEL)?;
                MiscDeviceRegistration::register(c"rust_ring", Ok(memory))
            },
        })
    }
}

struct Ring;

#[vtable]
impl MiscDevice for Ring {
    type Ptr = Arc<PageCache>;
    type RegistrationData = Arc<PageCache>;

    fn open(_file: &File, misc: &MiscDeviceRegistration<Self>) -> Result<Arc<PageCache>> {
        Ok(misc.data().clone())
    }

    fn page_cache<'a>(memory: &'a ArcBorrow<'_, PageCache>) -> &'a PageCache {
        memory
    }

    fn mmap(
        memory: ArcBorrow<'_, PageCache>,
        vma: &VmaNew,
    ) -> Result<Option<VmaOperations<Arc<PageCache>>>> {
        let pages = (vma.end() - vma.start()) / PAGE_SIZE;
        if vma.pgoff() + pages > memory.page_count() {
            return Err(ENXIO);
        }
        vma.try_clear_mayexec()?;
        Ok(Some(VmaOperations::of::<Self>()))
    }
}

impl VmOperations for Ring {
    type Data = Arc<PageCache>;

    fn fault(memory: ArcBorrow<'_, PageCache>, index: usize) -> Result<LockedFolio, FaultError> {
        if index >= memory.page_count() {
            return Err(FaultError::Sigbus);
        }
        memory.lock_folio(index).ok_or(FaultError::HwPoison)
    }
}
