// SPDX-License-Identifier: GPL-2.0
//! The examples that need a large buffer, each made to do its work.

#[expect(dead_code, reason = "`main` and what only it uses")]
#[path = "../../../examples/framebuffer.rs"]
mod framebuffer;
#[expect(dead_code, reason = "`main`")]
#[path = "../../../examples/log_scan.rs"]
mod log_scan;

use std::{
    fs::File,
    io::{BufWriter, Write},
};

use crate::{
    harness::{long, tests},
    support::{
        memory::page,
        module,
        process::{Link, ROLES, Role, start},
    },
};

tests![
    a_log_is_searched_in_windows,
    a_log_that_does_not_fit_is_refused,
    a_frame_that_another_process_draws,
    a_buffer_too_small_for_a_frame_is_refused,
];

const MIB: usize = 1 << 20;

/// A log of `len` bytes; every thousandth line is an error.
fn log(len: usize) -> (File, log_scan::Found) {
    const PATH: &str = "/tmp/log";
    let mut file = BufWriter::new(File::create(PATH).expect("create"));
    let mut expected = log_scan::Found::default();
    let mut left = len;
    while left > 0 {
        let number = expected.lines;
        let level = if number % 1000 == 777 {
            "ERROR"
        } else {
            "info"
        };
        let mut line = format!("{number:08} {level}: request from 192.0.2.{}", number % 256);
        line.push_str(&"-".repeat(number % 80));
        line.truncate(left - 1);
        if line.contains("ERROR") {
            expected.matches += 1;
            expected.first.get_or_insert_with(|| line.clone());
        }
        expected.lines += 1;
        line.push('\n');
        file.write_all(line.as_bytes()).expect("write");
        left -= line.len();
    }
    file.flush().expect("write");
    (File::open(PATH).expect("open"), expected)
}

fn large_buffer(len: usize) -> rust_mmapdev::Device {
    module::reload(&format!("buffer_pages={}", len.div_ceil(page())));
    rust_mmapdev::Device::open(rust_mmapdev::Access::ReadWrite).expect("open")
}

fn a_log_is_searched_in_windows() {
    let len = if long() { 64 * MIB } else { 8 * MIB } - 12_345;
    let device = large_buffer(len);
    let (log, expected) = log(len);
    let found = log_scan::search(&device, &log, "ERROR").expect("search");
    assert_eq!(found, expected);
    assert!(found.matches > 100);
    assert_eq!(module::live_mappings(), 0, "the last window is unmapped");
}

fn a_log_that_does_not_fit_is_refused() {
    let device = large_buffer(page());
    let (log, _) = log(page() + 1);
    let error = log_scan::search(&device, &log, "ERROR").expect_err("too long");
    assert!(error.to_string().contains("the buffer only"), "{error}");
}

#[linkme::distributed_slice(ROLES)]
static PAINTER: Role = Role {
    name: "painter",
    body: paint,
};

fn paint(_link: &Link, _args: &[String]) {
    framebuffer::draw().expect("draw");
}

fn a_frame_that_another_process_draws() {
    use framebuffer::{HEIGHT, WIDTH, look, picture, show};
    drop(large_buffer(
        WIDTH * HEIGHT * size_of::<framebuffer::Pixel>(),
    ));
    start(&PAINTER, &[]).join();
    let pixel = look().expect("look");
    for y in 0..HEIGHT {
        for x in 0..WIDTH {
            assert_eq!(pixel(x, y), picture(x, y), "pixel {x}, {y}");
        }
    }
    let text = show().expect("show");
    assert_eq!(text.lines().count(), 18);
    assert!(text.contains('#') && text.contains(' '), "{text}");
}

fn a_buffer_too_small_for_a_frame_is_refused() {
    drop(large_buffer(MIB));
    let error = framebuffer::draw().expect_err("too small");
    assert!(error.to_string().contains("buffer_pages="), "{error}");
}
