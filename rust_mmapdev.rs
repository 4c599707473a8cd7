// SPDX-License-Identifier: GPL-2.0

//! `/dev/rust_mmapdev`: one buffer of kernel memory, mapped into any number of processes.

#![deny(unsafe_code)]

use kernel::prelude::*;

#[allow(unsafe_code)]
#[path = "src/abstractions/mod.rs"]
pub mod abstractions;
#[path = "src/buffer.rs"]
mod buffer;
#[path = "src/device.rs"]
mod device;
#[path = "src/mapping.rs"]
mod mapping;
#[path = "src/range.rs"]
mod range;
#[path = "src/uapi.rs"]
mod uapi;

use abstractions::{compat, miscdevice::MiscDeviceRegistration, mm::pagemap::HUGE_FOLIO_SIZE};
use buffer::Buffer;
use device::Device;

module! {
    type: RustMmapDev,
    name: "rust_mmapdev",
    authors: ["The rust_mmapdev developers"],
    description: "A buffer of kernel memory to mmap",
    license: "GPL",
    params: {
        buffer_pages: i64 {
            default: 1,
            description: "Size of the buffer in pages, 1 to 262144 (default 1)",
        },
    },
}

module_version!("1.0.0");

#[pin_data]
struct RustMmapDev {
    #[pin]
    _registration: MiscDeviceRegistration<Device>,
}

impl kernel::InPlaceModule for RustMmapDev {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            _registration <- {
                let buffer = Buffer::new(page_count()?)?;
                pr_info!(
                    "buffer of {} bytes, page count {}, {} bytes in {} MiB folios\n",
                    buffer.size(),
                    buffer.page_count(),
                    buffer.pages().huge_size(),
                    HUGE_FOLIO_SIZE >> 20
                );
                MiscDeviceRegistration::register(c"rust_mmapdev", Ok(buffer))
            },
        })
    }
}

/// The size of the buffer that the `buffer_pages` parameter asks for.
///
/// EINVAL, and a line that says why, where it is out of range.
fn page_count() -> Result<usize> {
    let asked = compat::parameter(module_parameters::buffer_pages.value());
    range::page_count(asked).ok_or_else(|| {
        pr_err!(
            "buffer_pages={} is out of range: 1 to {}\n",
            asked,
            range::MAX_PAGES
        );
        EINVAL
    })
}
