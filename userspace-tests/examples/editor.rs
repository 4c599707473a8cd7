// SPDX-License-Identifier: GPL-2.0
//! Edits the text in the buffer, up to the first NUL, as an editor does with a mapped file: in
//! place, under a lock, without read or write.
//!
//!     editor show
//!     editor insert OFFSET TEXT
//!     editor delete OFFSET LENGTH
//!     editor replace OLD NEW         the first OLD from the start
//!
//! c/editor.c is the same in C.

use std::{error::Error, ops::Range};

use rust_mmapdev::{Access, Device, Mapping, Protection, Sharing};
use rustix::fs::{FlockOperation, flock};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn text(map: &Mapping) -> Result<Vec<u8>> {
    let mut bytes = vec![0; map.len()];
    map.read_at(0, &mut bytes)?;
    let end = bytes.iter().position(|byte| *byte == 0);
    bytes.truncate(end.unwrap_or(bytes.len()));
    Ok(bytes)
}

/// Puts `new` where `range` of the text is; what follows moves.
fn splice(map: &Mapping, range: Range<usize>, new: &[u8]) -> Result<()> {
    let text = text(map)?;
    let tail = text.get(range.end..).ok_or("there is not that much text")?;
    if range.start + new.len() + tail.len() >= map.len() {
        return Err("the text would not fit into the buffer any more".into());
    }
    let end = range.start + new.len();
    map.write_at(end, tail)?;
    map.write_at(end + tail.len(), &[0])?;
    map.write_at(range.start, new)?;
    Ok(())
}

pub fn run(args: &[String]) -> Result<()> {
    let device = Device::open(Access::ReadWrite)?;
    let map = device.map(Sharing::Shared, Protection::ReadWrite)?;
    // Until the end of the process.
    flock(&device, FlockOperation::LockExclusive)?;
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["show"] => println!("{}", String::from_utf8_lossy(&text(&map)?)),
        ["insert", offset, new] => {
            let offset = offset.parse()?;
            splice(&map, offset..offset, new.as_bytes())?;
        }
        ["delete", offset, length] => {
            let offset: usize = offset.parse()?;
            splice(&map, offset..offset.saturating_add(length.parse()?), b"")?;
        }
        ["replace", old, new] if !old.is_empty() => {
            let text = text(&map)?;
            let start = text
                .windows(old.len())
                .position(|part| part == old.as_bytes());
            let start = start.ok_or_else(|| format!("\"{old}\" is not in the text"))?;
            splice(&map, start..start + old.len(), new.as_bytes())?;
        }
        _ => {
            let usage =
                "usage: editor show | insert OFFSET TEXT | delete OFFSET LENGTH | replace OLD NEW";
            return Err(usage.into());
        }
    }
    Ok(())
}

fn main() -> Result<()> {
    run(&std::env::args().skip(1).collect::<Vec<_>>())
}
