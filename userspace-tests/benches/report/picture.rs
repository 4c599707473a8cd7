// SPDX-License-Identifier: GPL-2.0
//! The page tables of two processes, drawn from what the kernel said of them.

use std::error::Error;

use benches::{Entry, Step};
use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, VPos},
};

use crate::chart::{COPY, ENTRY, FONT, KERNEL, TEXT, WIDTH, svg, text};

const HEIGHT: i32 = 300;
const LEFT: i32 = 4;
const BOX: i32 = 170;
const PAGES: i32 = WIDTH as i32 - BOX - LEFT;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A box with lines of text.
fn labelled(
    area: &Area,
    (x, y, height): (i32, i32, i32),
    colour: RGBColor,
    lines: &[String],
) -> Result<(), Box<dyn Error>> {
    let corners = [(x, y), (x + BOX, y + height)];
    area.draw(&Rectangle::new(corners, colour.filled()))?;
    area.draw(&Rectangle::new(corners, TEXT.stroke_width(1)))?;
    for (i, line) in lines.iter().enumerate() {
        let at = (x + 8, y + 7 + i as i32 * 18);
        area.draw(&Text::new(
            line.clone(),
            at,
            text(FONT, HPos::Left, VPos::Top),
        ))?;
    }
    Ok(())
}

fn arrow(area: &Area, from: (i32, i32), to: (i32, i32)) -> Result<(), Box<dyn Error>> {
    area.draw(&PathElement::new([from, to], TEXT.stroke_width(2)))?;
    area.draw(&Polygon::new(
        [to, (to.0 - 9, to.1 - 5), (to.0 - 9, to.1 + 5)],
        TEXT.filled(),
    ))?;
    Ok(())
}

/// What fits into a box.
fn quoted(text: &str) -> String {
    let short: String = text.chars().take(17).collect();
    match short.len() < text.len() {
        true => format!("\u{201c}{short}\u{2026}\u{201d}"),
        false => format!("\u{201c}{short}\u{201d}"),
    }
}

/// One page that is mapped or the device's: its frame, who maps it how often, what is in it.
struct Page {
    frame: u64,
    count: u64,
    text: Option<String>,
    /// The process that has it alone; none where it is the kernel's.
    owner: Option<&'static str>,
}

pub fn picture(step: &Step) -> Result<String, Box<dyn Error>> {
    let mut pages = vec![Page {
        frame: step.frame,
        count: step.map_count,
        text: Some(step.text.clone()),
        owner: None,
    }];
    for (name, entry) in [("A", &step.a), ("B", &step.b)] {
        if let Some(frame) = entry
            .frame
            .filter(|f| pages.iter().all(|page| page.frame != *f))
        {
            pages.push(Page {
                frame,
                count: entry.map_count,
                text: entry.text.clone(),
                owner: Some(name),
            });
        }
    }
    // A's copy above, the kernel's page in the middle, B's copy below.
    let place = |frame: u64| match frame {
        frame if frame == step.frame => 110,
        frame if Some(frame) == step.a.frame => 10,
        _ => 210,
    };
    let leads = |name: &str, entry: &Entry| match entry.frame {
        Some(frame) => format!("{name} leads to frame {frame:#x}"),
        None => format!("{name}'s entry is empty"),
    };
    let description = format!(
        "{}: {}, {}",
        step.title,
        leads("A", &step.a),
        leads("B", &step.b)
    );
    svg((WIDTH, HEIGHT as u32), &description, |area| {
        for (name, entry, top) in [("A", &step.a, 40), ("B", &step.b, 180)] {
            let frame = entry
                .frame
                .map_or("empty".into(), |frame| format!("frame {frame:#x}"));
            let lines = [
                format!("Process {name}"),
                format!("at {:#x}", entry.address),
                format!("entry: {frame}"),
            ];
            labelled(area, (LEFT, top, 80), ENTRY, &lines)?;
            if let Some(frame) = entry.frame {
                arrow(area, (LEFT + BOX, top + 47), (PAGES - 2, place(frame) + 40))?;
            }
        }
        for page in &pages {
            let (colour, name) = match page.owner {
                None => (KERNEL, "The kernel's page".to_owned()),
                Some(owner) => (COPY, format!("{owner}'s copy")),
            };
            let lines = [
                name,
                format!("frame {:#x}", page.frame),
                format!("mapped {} times", page.count).replace(" 1 times", " once"),
                page.text.as_deref().map_or(String::new(), quoted),
            ];
            labelled(area, (PAGES, place(page.frame), 80), colour, &lines)?;
        }
        Ok(())
    })
}
