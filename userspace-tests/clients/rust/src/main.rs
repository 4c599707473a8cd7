// SPDX-License-Identifier: GPL-2.0
//! Adds up the samples that `../c/samples.c` puts into the buffer.

use std::{error::Error, sync::atomic::Ordering};

use rust_mmapdev::{Access, Device, Protection, Sharing};

const COUNT: usize = 0; // offset of the number of samples, a 32-bit word
const SAMPLES: usize = 8; // offset of the first sample, a double

fn main() -> Result<(), Box<dyn Error>> {
    let device = Device::open(Access::ReadWrite)?;
    let series = device.map(Sharing::Shared, Protection::ReadWrite)?;

    let count = series.atomic_u32(COUNT)?.load(Ordering::Acquire);
    let mut sum = 0.0;
    for i in 0..count as usize {
        let mut sample = [0; size_of::<f64>()];
        series.read_at(SAMPLES + i * sample.len(), &mut sample)?;
        sum += f64::from_ne_bytes(sample);
    }
    println!("{count} samples, sum {sum}");
    Ok(())
}
