// SPDX-License-Identifier: GPL-2.0
//! Searches a log through the device: `log_scan FILE WORD`.
//!
//! sendfile(2) brings the file into the buffer, which must be large enough for it; then window
//! after window of it is mapped, so that little of a large log is in the address space at a time.

use std::{
    env,
    error::Error,
    fs::File,
    io::{self, BufRead, BufReader, Read},
};

use rust_mmapdev::{Access, Device, Mapping, Protection, Sharing};
use rustix::fs::sendfile;

/// Bytes of the buffer that are mapped at a time; a multiple of any page size.
const WINDOW: usize = 1 << 20;

/// What a search comes to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub lines: usize,
    pub matches: usize,
    pub first: Option<String>,
}

/// The first `len` bytes of the buffer, read through one window after the other.
struct Windows<'a> {
    device: &'a Device,
    len: usize,
    position: usize,
    window: Option<Mapping>,
}

impl Read for Windows<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let (start, at) = (self.position / WINDOW * WINDOW, self.position % WINDOW);
        let window_len = WINDOW.min(self.len - start);
        let n = buf.len().min(window_len - at);
        if n == 0 {
            return Ok(0);
        }
        if at == 0 {
            self.window = None; // unmap the last one first
            let window =
                self.device
                    .map_window(start as u64, window_len, Sharing::Shared, Protection::Read);
            self.window = Some(window.map_err(io::Error::other)?);
        }
        let window = self.window.as_ref().expect("the first read maps one");
        window
            .read_at(at, &mut buf[..n])
            .map_err(io::Error::other)?;
        self.position += n;
        Ok(n)
    }
}

/// Searches `log` for lines with `word` in them.
pub fn search(device: &Device, log: &File, word: &str) -> Result<Found, Box<dyn Error>> {
    let len = log.metadata()?.len();
    let size = device.info()?.size;
    if len > size {
        return Err(format!("the log has {len} bytes, the buffer only {size}").into());
    }
    let mut offset = 0;
    while offset < len {
        let left = (len - offset) as usize;
        if sendfile(device, log, Some(&mut offset), left)? == 0 {
            break; // the log has become shorter
        }
    }

    let mut text = BufReader::new(Windows {
        device,
        len: len as usize,
        position: 0,
        window: None,
    });
    let (mut found, mut line) = (Found::default(), vec![]);
    while text.read_until(b'\n', &mut line)? > 0 {
        found.lines += 1;
        let text = String::from_utf8_lossy(&line);
        if text.contains(word) {
            found.matches += 1;
            found.first.get_or_insert_with(|| text.trim_end().into());
        }
        line.clear();
    }
    Ok(found)
}

fn main() -> Result<(), Box<dyn Error>> {
    let [file, word] = &env::args().skip(1).collect::<Vec<_>>()[..] else {
        return Err("usage: log_scan FILE WORD".into());
    };
    let device = Device::open(Access::ReadWrite)?;
    let found = search(&device, &File::open(file)?, word)?;
    println!("{} of {} lines have {word:?}", found.matches, found.lines);
    if let Some(first) = found.first {
        println!("the first: {first}");
    }
    Ok(())
}
