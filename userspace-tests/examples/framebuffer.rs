// SPDX-License-Identifier: GPL-2.0
//! The device as a frame buffer of 1920 by 1080 pixels: one process draws, another looks.
//!
//! `framebuffer draw` and `framebuffer show` are the two; `framebuffer` runs one after the other.
//! The buffer must have room for a frame: `buffer_pages=2025` where pages have 4 KiB.

use std::{env, error::Error, process::Command};

use rust_mmapdev::{Access, Device, Mapping, Protection, Sharing};

pub const WIDTH: usize = 1920;
pub const HEIGHT: usize = 1080;
/// Blue, green, red and one that is not used, as most screens have it.
pub type Pixel = [u8; 4];
const ROW: usize = WIDTH * size_of::<Pixel>();
const FRAME: usize = HEIGHT * ROW;

/// Columns and rows of letters that `show` makes of a frame.
const COLUMNS: usize = 64;
const ROWS: usize = 18;

/// The picture: a disc in the middle of a ramp from left to right.
pub fn picture(x: usize, y: usize) -> Pixel {
    let (dx, dy) = (x.abs_diff(WIDTH / 2), y.abs_diff(HEIGHT / 2));
    let ramp = (x * 127 / WIDTH) as u8;
    if dx * dx + dy * dy < 400 * 400 {
        [255 - ramp, 255 - ramp, 255, 0]
    } else {
        [ramp, ramp, (y * 64 / HEIGHT) as u8, 0]
    }
}

fn frame(access: Access, protection: Protection) -> Result<Mapping, Box<dyn Error>> {
    let device = Device::open(access)?;
    let info = device.info()?;
    if info.size < FRAME as u64 {
        let pages = FRAME.div_ceil(info.page_size as usize);
        return Err(
            format!("the buffer is too small: load the module with buffer_pages={pages}").into(),
        );
    }
    Ok(device.map_window(0, FRAME, Sharing::Shared, protection)?)
}

/// Draws the picture, row by row.
pub fn draw() -> Result<(), Box<dyn Error>> {
    let frame = frame(Access::ReadWrite, Protection::ReadWrite)?;
    for y in 0..HEIGHT {
        let row: Vec<u8> = (0..WIDTH).flat_map(|x| picture(x, y)).collect();
        frame.write_at(y * ROW, &row)?;
    }
    Ok(())
}

/// The pixel at a place of the frame that the device has.
pub fn look() -> Result<impl Fn(usize, usize) -> Pixel, Box<dyn Error>> {
    let frame = frame(Access::Read, Protection::Read)?;
    Ok(move |x: usize, y: usize| {
        let mut pixel = [0; 4];
        let at = y * ROW + x * pixel.len();
        frame.read_at(at, &mut pixel).expect("it lies in the frame");
        pixel
    })
}

/// The frame in letters, from dark to bright.
pub fn show() -> Result<String, Box<dyn Error>> {
    const LETTERS: &[u8] = b" .:-=+*#%@";
    let pixel = look()?;
    let mut text = String::new();
    for row in 0..ROWS {
        for column in 0..COLUMNS {
            let (x, y) = (column * WIDTH / COLUMNS, row * HEIGHT / ROWS);
            let [blue, green, red, _] = pixel(x, y).map(usize::from);
            let brightness = (blue + green + red) * (LETTERS.len() - 1) / (3 * 255);
            text.push(LETTERS[brightness].into());
        }
        text.push('\n');
    }
    Ok(text)
}

fn main() -> Result<(), Box<dyn Error>> {
    match env::args().nth(1).as_deref() {
        Some("draw") => draw()?,
        Some("show") => print!("{}", show()?),
        None => {
            for part in ["draw", "show"] {
                let status = Command::new(env::current_exe()?).arg(part).status()?;
                if !status.success() {
                    return Err(format!("{part}: {status}").into());
                }
            }
        }
        Some(_) => return Err("usage: framebuffer [draw|show]".into()),
    }
    Ok(())
}
