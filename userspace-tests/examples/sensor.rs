// SPDX-License-Identifier: GPL-2.0
//! A sensor: one process publishes samples, any number of others watch, and never see half of one
//! and half of another. No lock is held and no system call made: a sequence number, odd while a
//! sample is being written, tells a reader to look again (a seqlock).
//!
//!     sensor publish N    publishes N samples
//!     sensor watch N      watches until sample N is there, and checks each one it sees
//!
//! c/sensor.c is the same in C, and the two work together.

use std::{
    error::Error,
    sync::atomic::{
        AtomicU32,
        Ordering::{Acquire, Relaxed, Release},
        fence,
    },
};

use rust_mmapdev::{Access, Device, Mapping, Protection, Sharing};

/// What the sensor measures: eight values, all of one moment.
pub type Sample = [u32; 8];

// Offsets in the mapping.
const SEQUENCE: usize = 0;
const SAMPLE: usize = 64;

pub struct Sensor(Mapping);

impl Sensor {
    pub fn open() -> rust_mmapdev::Result<Self> {
        let device = Device::open(Access::ReadWrite)?;
        device.map(Sharing::Shared, Protection::ReadWrite).map(Self)
    }

    fn sequence(&self) -> &AtomicU32 {
        self.0.atomic_u32(SEQUENCE).expect("in the first page")
    }

    fn value(&self, index: usize) -> &AtomicU32 {
        let value = self.0.atomic_u32(SAMPLE + 4 * index);
        value.expect("in the first page")
    }

    /// For the one process that publishes.
    pub fn publish(&self, sample: Sample) {
        let sequence = self.sequence().load(Relaxed);
        self.sequence().store(sequence.wrapping_add(1), Relaxed);
        fence(Release);
        for (i, value) in sample.into_iter().enumerate() {
            self.value(i).store(value, Relaxed);
        }
        self.sequence().store(sequence.wrapping_add(2), Release);
    }

    /// The last sample, unless it is just being replaced.
    pub fn try_read(&self) -> Option<Sample> {
        let sequence = self.sequence().load(Acquire);
        let sample = std::array::from_fn(|i| self.value(i).load(Relaxed));
        fence(Acquire);
        let whole = sequence % 2 == 0 && self.sequence().load(Relaxed) == sequence;
        whole.then_some(sample)
    }
}

/// The values of the sample with this number, which can be checked.
pub fn sample(number: u32) -> Sample {
    std::array::from_fn(|i| number.wrapping_mul(i as u32 + 1))
}

pub fn run(args: &[String]) -> Result<(), Box<dyn Error>> {
    let [role, count] = args else {
        return Err("usage: sensor publish|watch N".into());
    };
    let count: u32 = count.parse()?;
    let sensor = Sensor::open()?;
    match role.as_str() {
        "publish" => (1..=count).for_each(|number| sensor.publish(sample(number))),
        "watch" => {
            let mut last = 0;
            while last < count {
                let Some(seen) = sensor.try_read() else {
                    continue;
                };
                if seen != sample(seen[0]) || seen[0] < last {
                    return Err(format!("after sample {last} came {seen:?}").into());
                }
                last = seen[0];
            }
        }
        other => return Err(format!("no such role: {other}").into()),
    }
    println!("{count} samples");
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    run(&std::env::args().skip(1).collect::<Vec<_>>())
}
