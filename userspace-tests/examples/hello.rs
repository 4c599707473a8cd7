// SPDX-License-Identifier: GPL-2.0
use std::{error::Error, ffi::CStr, fs};

use rust_mmapdev::{Access, Device, Protection, Sharing};

fn main() -> Result<(), Box<dyn Error>> {
    let device = Device::open(Access::ReadWrite)?;
    let kernel = device.map(Sharing::Shared, Protection::ReadWrite)?;

    let mut text = vec![0; kernel.len()];
    kernel.read_at(0, &mut text)?; // the kernel's own bytes
    println!("before: {}", CStr::from_bytes_until_nul(&text)?.to_str()?);

    kernel.write_at(0, b"hello from Rust\0")?; // no system call, and yet ...
    text = fs::read(Device::PATH)?; // ... the kernel has it
    println!("after: {}", CStr::from_bytes_until_nul(&text)?.to_str()?);
    Ok(())
}
