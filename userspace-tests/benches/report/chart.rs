// SPDX-License-Identifier: GPL-2.0
//! Charts, as SVG. Their colours stand for roles: the page's style sheet has one for light and one
//! for dark.

use std::error::Error;

use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use crate::{data::PEERS, table::grouped};

/// For all that is text or axis, and for lines of a grid.
pub const TEXT: RGBColor = RGBColor(1, 1, 1);
pub const GRID: RGBColor = RGBColor(1, 1, 2);
/// The kernel's own page, a process's copy, an entry.
pub const KERNEL: RGBColor = RGBColor(1, 1, 4);
pub const COPY: RGBColor = RGBColor(1, 1, 5);
pub const ENTRY: RGBColor = RGBColor(1, 1, 6);

/// In units of a drawing, of which a phone shows one per pixel, or somewhat less.
pub const WIDTH: u32 = 380;
const HEIGHT: u32 = 300;
/// What the SVG backend makes 13 pixels of.
pub const FONT: u32 = 16;

/// The colour of a line or a segment.
pub const fn series(n: usize) -> RGBColor {
    RGBColor(2, 2, n as u8)
}

pub fn peer(name: &str) -> RGBColor {
    series(
        PEERS
            .iter()
            .position(|peer| *peer == name)
            .unwrap_or(PEERS.len()),
    )
}

/// How large text is, and how it is placed.
pub fn text(size: u32, h: HPos, v: VPos) -> TextStyle<'static> {
    ("sans-serif", size)
        .into_font()
        .color(&TEXT)
        .pos(Pos::new(h, v))
}

/// A line of a chart.
pub struct Line {
    pub peer: String,
    pub points: Vec<(f64, f64)>,
}

/// Draws into an SVG element with a description for who does not see it.
pub fn svg(
    size: (u32, u32),
    description: &str,
    draw: impl FnOnce(&DrawingArea<SVGBackend, Shift>) -> Result<(), Box<dyn Error>>,
) -> Result<String, Box<dyn Error>> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        draw(&area).map_err(|e| e.to_string())?;
        area.present().map_err(|e| e.to_string())?;
    }
    let description = maud::html! { (description) }.into_string();
    Ok(text.replacen(
        "<svg ",
        &format!("<svg role=\"img\" aria-label=\"{description}\" "),
        1,
    ))
}

/// 1234567 as 1.2M.
fn short(number: f64) -> String {
    for (unit, name) in [(1e9, "G"), (1e6, "M"), (1e3, "k")] {
        if number >= unit {
            return format!("{}{name}", (number / unit * 10.0).round() / 10.0);
        }
    }
    format!("{}", (number * 10.0).round() / 10.0)
}

/// 65536 as 64 Ki.
fn binary(number: f64) -> String {
    for (unit, name) in [(f64::from(1 << 20), " Mi"), (1024.0, " Ki")] {
        if number >= unit {
            return format!("{}{name}", (number / unit).round());
        }
    }
    format!("{number:.0}")
}

/// Cost by size, both on log axes, a line a peer.
pub fn lines(x: &str, y: &str, lines: &[Line]) -> Result<String, Box<dyn Error>> {
    let points = || lines.iter().flat_map(|line| &line.points);
    let range = |of: fn(&(f64, f64)) -> f64| {
        let least = points().map(of).fold(f64::INFINITY, f64::min);
        let most = points().map(of).fold(0.0, f64::max);
        (least, most)
    };
    let ((left, right), (low, high)) = (range(|p| p.0), range(|p| p.1));
    if !left.is_finite() {
        return Err("a chart without a point".into());
    }
    let right = right.max(left * 2.0);
    // Between ticks.
    let steps = if high / low < 30.0 { 2.0 } else { 10.0 };
    let names: Vec<&str> = lines.iter().map(|line| &*line.peer).collect();
    let description = format!("{y} by {x}, on log axes: {}", names.join(", "));
    svg((WIDTH, HEIGHT), &description, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(6)
            .margin_right(16)
            .x_label_area_size(40)
            .y_label_area_size(56)
            .build_cartesian_2d(
                (left / 1.2..right * 1.2).log_scale().base(4.0),
                (low / 1.5..high * 1.5).log_scale().base(steps),
            )?;
        chart
            .configure_mesh()
            .axis_style(TEXT)
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .label_style(text(FONT, HPos::Left, VPos::Top))
            .axis_desc_style(text(FONT, HPos::Left, VPos::Top))
            .x_desc(x)
            .x_labels(7)
            .y_labels(6)
            .x_label_formatter(&|x| binary(*x))
            .y_label_formatter(&|y| short(*y))
            .draw()?;
        // The device's own line lies on top.
        for (i, line) in lines.iter().enumerate().rev() {
            let colour = peer(&line.peer);
            let width = if line.peer == "device" { 3 } else { 2 };
            let points = line.points.iter().copied();
            chart.draw_series(LineSeries::new(points.clone(), colour.stroke_width(width)))?;
            match i % 3 {
                0 => chart.draw_series(points.map(|p| Circle::new(p, 4, colour.filled())))?,
                1 => {
                    chart.draw_series(points.map(|p| TriangleMarker::new(p, 5, colour.filled())))?
                }
                _ => chart.draw_series(points.map(|p| Cross::new(p, 4, colour.stroke_width(2))))?,
            };
        }
        Ok(())
    })
}

/// A bar: a name, and its segments by series.
pub struct Bar {
    pub name: String,
    pub segments: Vec<(usize, f64)>,
}

impl Bar {
    fn total(&self) -> f64 {
        self.segments.iter().map(|(_, length)| length).sum()
    }
}

/// Bars, one below the other, with their totals.
pub fn bars(unit: &str, bars: &[Bar]) -> Result<String, Box<dyn Error>> {
    const BAR: i32 = 26;
    const NAMES: i32 = 100;
    const TOTALS: i32 = 84;
    let most = bars.iter().map(Bar::total).fold(1.0, f64::max);
    let room = f64::from(WIDTH as i32 - NAMES - TOTALS);
    let height = (BAR + 8) * bars.len() as i32 + 24;
    let totals: Vec<String> = bars
        .iter()
        .map(|bar| format!("{} {}", bar.name, grouped(bar.total())))
        .collect();
    let description = format!("{unit}: {}", totals.join(", "));
    svg((WIDTH, height as u32), &description, |area| {
        for (i, bar) in bars.iter().enumerate() {
            let top = 4 + i as i32 * (BAR + 8);
            let middle = top + BAR / 2;
            area.draw(&Text::new(
                &*bar.name,
                (NAMES - 8, middle),
                text(FONT, HPos::Right, VPos::Center),
            ))?;
            let mut start = 0.0;
            for (n, length) in &bar.segments {
                let x = |at: f64| NAMES + (at / most * room).round() as i32;
                let corners = [(x(start), top), (x(start + length), top + BAR)];
                area.draw(&Rectangle::new(corners, series(*n).filled()))?;
                start += length;
            }
            let end = NAMES + (start / most * room).round() as i32 + 6;
            area.draw(&Text::new(
                grouped(start),
                (end, middle),
                text(FONT, HPos::Left, VPos::Center),
            ))?;
        }
        area.draw(&Text::new(
            unit,
            (NAMES, height - 4),
            text(FONT - 1, HPos::Left, VPos::Bottom),
        ))?;
        Ok(())
    })
}
