// SPDX-License-Identifier: GPL-2.0
//! The report: one page that needs nothing else.

use std::{collections::BTreeMap, error::Error};

use benches::{Entry, Row, Step, Unit};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::{
    chart::{self, Bar, Line},
    data::{Data, Function, PEERS, Profile},
    picture,
    table::{OF_TWIN, TARGETS, grouped},
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Rows drawn by page count, and what they are.
const CHARTS: [(&str, &str, &str); 10] = [
    (
        "map-write",
        "Map, write, unmap",
        "mmap shared, a write to each page, munmap",
    ),
    (
        "map",
        "Map, unmap",
        "mmap shared and munmap, nothing touched; a device's single page is put in place by mmap itself",
    ),
    (
        "map-read",
        "Map, read, unmap",
        "mmap shared, a read of each page, munmap",
    ),
    (
        "private-read",
        "Private, read",
        "mmap private, a read of each page, munmap",
    ),
    (
        "private-write",
        "Private, written",
        "mmap private, a write to each page, each of which copies it, munmap",
    ),
    (
        "first-touch",
        "First touch",
        "the writes to a new shared mapping alone",
    ),
    (
        "touch-after-dontneed",
        "Touch after MADV_DONTNEED",
        "the writes that bring the pages back; a udmabuf refuses the advice",
    ),
    (
        "fork",
        "Fork",
        "fork with all of it mapped shared and touched; the parent's part",
    ),
    (
        "fork-child-touch",
        "The child's first touch",
        "a write to each page in the new child",
    ),
    (
        "mprotect",
        "Protect",
        "mprotect to read-only and back, of a touched mapping",
    ),
];
const MOVE: (&str, &str, &str) = (
    "mremap",
    "Move",
    "mremap of a touched mapping to another place",
);

/// Rows of several CPUs.
const PARALLEL: [(&str, &str, &str); 4] = [
    (
        "map-write-2-processes",
        "Two processes map and write",
        "each on its CPU, at the same time",
    ),
    (
        "private-write-2-processes",
        "Two processes copy",
        "private mappings, each page written",
    ),
    (
        "map-write-2-threads",
        "Two threads map and write",
        "of one process: each munmap flushes the other CPU's TLB",
    ),
    (
        "first-touch-4-threads",
        "Four threads touch one mapping",
        "a quarter each, two threads a CPU",
    ),
];

fn unit_name(unit: Unit) -> &'static str {
    match unit {
        Unit::Instructions => "instructions",
        Unit::Time => "ns",
    }
}

pub fn page(data: &Data, date: &str, emulator: &str) -> Result<String> {
    let release = data.kernel_release();
    let counted = !data.names(Unit::Instructions).is_empty();
    let unit = if counted {
        Unit::Instructions
    } else {
        Unit::Time
    };
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                link rel="icon" href="data:,";
                title { "rust_mmapdev: what a mapping costs" }
                style { (PreEscaped(include_str!("style.css"))) (PreEscaped(series_style())) }
            }
            body {
                h1 { "rust_mmapdev: what a mapping costs" }
                p.soft {
                    "Measured on " (date) ", Linux " (release) ", " (machine(data, emulator)) "."
                }
                @if counted {
                    p {
                        "Cost is counted in instructions that the emulated CPU executes: they are the same in every run, whatever else the host does. "
                        "A string instruction (" code { "rep movsb" } ") counts each byte it moves, so copies look dearer than they are. "
                        "Time, where it is given, is " (data.time_taken_on()) "."
                    }
                } @else {
                    p { "Cost is " (data.time_taken_on()) "." }
                }
                @if counted { (in_short(data)) }
                h2 { "By the size of the mapping" }
                (legend())
                div.charts {
                    @for (row, title, caption) in CHARTS.iter().chain([&MOVE]) {
                        (by_pages(data, unit, row, title, caption)?)
                    }
                }
                @if counted && !data.names(Unit::Time).is_empty() {
                    details { summary { "The same in time" }
                        div.charts {
                            @for (row, title, caption) in CHARTS.iter().chain([&MOVE]) {
                                (by_pages(data, Unit::Time, row, title, caption)?)
                            }
                        }
                    }
                }
                h2 { "System call or mapping" }
                p {
                    "What it takes to get bytes out of the buffer, or into it: by read(2) and write(2), or by memcpy(3) from and to a mapping that is there already."
                }
                div.charts {
                    (crossover(data, unit, "read")?)
                    (crossover(data, unit, "write")?)
                }
                (messages(data)?)
                (parallel(data)?)
                @if counted { (twin(data)) }
                (profile(data)?)
                (steps(data)?)
                (all(data))
            }
        }
    };
    Ok(page.into_string())
}

/// A rule for each series of the charts.
fn series_style() -> String {
    let rule = |n: usize| {
        let colour = format!("#0202{n:02X}");
        format!(
            "svg [stroke=\"{colour}\"]{{stroke:var(--s{n})}}svg [fill=\"{colour}\"]{{fill:var(--s{n})}}.s{n}{{background:var(--s{n})}}\n"
        )
    };
    (0..=PEERS.len()).map(rule).collect()
}

fn machine(data: &Data, emulator: &str) -> String {
    match data.machines.first() {
        Some(machine) if !machine.is_emulated() => machine.cpu.clone(),
        _ => emulator.into(),
    }
}

fn legend() -> Markup {
    html! {
        ul.legend {
            @for (n, peer) in PEERS.iter().enumerate() { li { i class={ "s" (n) } {} (peer) } }
        }
    }
}

/// The rows that have a bound.
fn in_short(data: &Data) -> Markup {
    html! {
        h2 { "In short" }
        p {
            "What the device takes, as a part of what another takes. map-write is mmap shared, a write to each page, munmap; window the same with 1000 of the pages, from an odd one on; "
            "read and write are one system call for all of it."
        }
        div.wide { table {
            thead { tr { th { "row" } th { "pages" } th { "part of" } th { "ratio" } th { "at most" } } }
            tbody {
                @for target in &TARGETS {
                    @if let Some((of, ratio)) = target.ratio(data) {
                        @let met = (ratio * 100.0).round() <= (target.3 * 100.0).round();
                        tr {
                            td { (target.0) } td { (target.1) } td { (of) }
                            td class=(if met { "good" } else { "bad" }) { (format!("{ratio:.2}")) }
                            td { (format!("{:.2}", target.3)) }
                        }
                    }
                }
            }
        } }
    }
}

fn figure(title: &str, unit: Unit, svg: &str, caption: &str) -> Markup {
    html! { figure { h3 { (title) span.soft { ", " (unit_name(unit)) } } (PreEscaped(svg)) figcaption { (caption) } } }
}

fn by_pages(data: &Data, unit: Unit, row: &str, title: &str, caption: &str) -> Result<Markup> {
    let line = |peer: &&str| {
        let rows = data
            .rows
            .iter()
            .filter(|r| r.unit == unit && r.row == row && r.peer == *peer);
        let mut points: Vec<(f64, f64)> =
            rows.map(|r| (r.pages as f64, r.cost().max(1.0))).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        (!points.is_empty()).then(|| Line {
            peer: (*peer).into(),
            points,
        })
    };
    let lines: Vec<Line> = PEERS.iter().filter_map(line).collect();
    if lines.is_empty() {
        return Ok(html! {});
    }
    let svg = chart::lines("pages", unit_name(unit), &lines)?;
    Ok(figure(title, unit, &svg, caption))
}

/// What a system call and a copy take by the number of bytes, and where one gets cheaper than the
/// other.
fn crossover(data: &Data, unit: Unit, way: &str) -> Result<Markup> {
    let points = |peer: &str, way: &str| {
        let bytes = |row: &Row| match row.row.strip_prefix(way)?.strip_prefix('-')? {
            "whole" => Some(row.pages * data.machines.first()?.page_size),
            bytes => bytes.parse().ok(),
        };
        let largest = data
            .rows
            .iter()
            .filter(|r| r.unit == unit && r.row == format!("{way}-64"))
            .map(|r| r.pages)
            .max();
        let rows = data
            .rows
            .iter()
            .filter(|r| r.unit == unit && r.peer == peer && Some(r.pages) == largest);
        let mut points: Vec<(f64, f64)> = rows
            .filter_map(|r| Some((bytes(r)? as f64, r.cost().max(1.0))))
            .collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points
    };
    let (call, mapped) = (
        points("device", way),
        points("device", &format!("mapped-{way}")),
    );
    if call.is_empty() || mapped.is_empty() {
        return Ok(html! {});
    }
    let cheaper = call
        .iter()
        .zip(&mapped)
        .find(|(call, mapped)| call.1 <= mapped.1);
    let caption = match cheaper {
        Some(((bytes, _), _)) => format!(
            "From {} bytes on, the system call takes no more than the copy.",
            grouped(*bytes)
        ),
        None => format!(
            "Nowhere does the system call take less: from {:.0} times the copy at {} bytes down to {:.2} times at {}.",
            call[0].1 / mapped[0].1,
            grouped(call[0].0),
            call[call.len() - 1].1 / mapped[mapped.len() - 1].1,
            grouped(call[call.len() - 1].0)
        ),
    };
    let lines = [
        Line {
            peer: "device".into(),
            points: call,
        },
        Line {
            peer: "memfd".into(),
            points: points("memfd", way),
        },
        Line {
            peer: "anon-private".into(),
            points: mapped,
        },
    ];
    let svg = chart::lines("bytes", unit_name(unit), &lines)?;
    Ok(html! { figure {
        h3 { (way) "(2) or a mapping" span.soft { ", " (unit_name(unit)) } }
        ul.legend {
            li { i.s0 {} (way) "(2) of the device" } li { i.s2 {} (way) "(2) of a memfd" } li { i.s9 {} "a mapping of the device" }
        }
        (PreEscaped(svg))
        figcaption { (caption) " The kernel copies by " code { "rep movsb" } ", which counts as an instruction a byte; memcpy(3) by vectors." }
    } })
}

/// A message and back.
fn messages(data: &Data) -> Result<Markup> {
    let mut charts = vec![];
    for unit in [Unit::Instructions, Unit::Time] {
        let rows: Vec<&Row> = data
            .rows
            .iter()
            .filter(|r| r.unit == unit && r.row == "round-trip")
            .collect();
        if rows.is_empty() {
            continue;
        }
        let bar = |row: &&Row| {
            let n = PEERS
                .iter()
                .position(|peer| *peer == row.peer)
                .unwrap_or(PEERS.len());
            Bar {
                name: row.peer.clone(),
                segments: vec![(n, row.cost())],
            }
        };
        let bars: Vec<Bar> = rows.iter().map(bar).collect();
        let svg = chart::bars(unit_name(unit), &bars)?;
        let caption = match unit {
            Unit::Instructions => "On one CPU, both processes and the switches between them.",
            Unit::Time => "On one CPU.",
        };
        charts.push(figure("Round trip", unit, &svg, caption));
    }
    Ok(html! { @if !charts.is_empty() {
        h2 { "A message to another process and back" }
        p { "Through a word in a shared mapping and futex(2): device, twin, memfd, anonymous memory. Beside them eight bytes through pipes, eventfds, a socket." }
        div.charts { @for chart in charts { (chart) } }
    } })
}

fn parallel(data: &Data) -> Result<Markup> {
    let mut charts = vec![];
    for (row, title, caption) in PARALLEL {
        charts.push(by_pages(data, Unit::Time, row, title, caption)?);
    }
    Ok(html! { @if charts.iter().any(|chart| !chart.0.is_empty()) {
        h2 { "On two CPUs at once" }
        p { "Here cost is " (data.time_taken_on()) "." }
        (legend())
        div.charts { @for chart in charts { (chart) } }
    } })
}

/// What Rust costs.
fn twin(data: &Data) -> Markup {
    let unit = Unit::Instructions;
    let ratio = |(row, pages): (&str, usize)| {
        let (device, twin) = (
            data.get(unit, row, "device", pages)?,
            data.get(unit, row, "twin", pages)?,
        );
        Some((row.to_owned(), pages, device.clone(), twin.clone()))
    };
    let rows: Vec<_> = data.names(unit).into_iter().filter_map(ratio).collect();
    let above = rows
        .iter()
        .filter(|(_, _, device, twin)| device.cost() / twin.cost() > OF_TWIN)
        .count();
    html! { @if !rows.is_empty() {
        h2 { "What Rust costs" }
        p {
            "The twin is the same module in C, call by call. "
            (rows.len()) " rows: " @if above == 0 { "in none of them Rust takes" } @else { "in " (above) " of them Rust takes" }
            " more than " (OF_TWIN) " of what C takes."
        }
        (sizes(data))
        p { "Memory for a page is the kernel's, with what it takes to find the page. insmod of a small buffer costs what there is to load: the Rust module's code is larger, and so is what its file has besides." }
        details { summary { "Each row" }
            div.wide { table {
                thead { tr { th { "row" } th { "pages" } th { "Rust" } th { "C" } th { "ratio" } } }
                tbody { @for (row, pages, device, twin) in &rows {
                    @let ratio = device.cost() / twin.cost();
                    tr {
                        td { (row) } td { (pages) } td { (grouped(device.cost())) } td { (grouped(twin.cost())) }
                        td class=(if ratio > OF_TWIN { "bad" } else { "good" }) { (format!("{ratio:.3}")) }
                    }
                } }
            } }
        }
    } }
}

fn sizes(data: &Data) -> Markup {
    html! { @if !data.sizes.is_empty() {
        div.wide { table {
            thead { tr { th { "what" } th { "of" } th { "bytes" } } }
            tbody { @for size in &data.sizes { tr {
                td { (match &*size.what { "module" => "the loaded module", _ => "memory for a page" }) }
                td { (size.peer) }
                td { (if size.bytes < 10_000.0 { format!("{:.1}", size.bytes) } else { grouped(size.bytes) }) }
            } } }
        } }
    } }
}

/// How many functions of the kernel have a colour of their own in a chart.
const NAMED: usize = 9;
/// What the functions of the modules are drawn as.
const OWN: &str = "the module's own code";

fn profile(data: &Data) -> Result<Markup> {
    let mut groups: Vec<((&str, usize), Vec<&Profile>)> = vec![];
    for profile in &data.profiles {
        let key = (&*profile.row, profile.pages);
        match groups.iter_mut().find(|(k, _)| *k == key) {
            Some((_, profiles)) => profiles.push(profile),
            None => groups.push((key, vec![profile])),
        }
    }
    let mut charts = vec![];
    for ((row, pages), profiles) in &groups {
        let mut most: BTreeMap<&str, f64> = BTreeMap::new();
        for profile in profiles {
            for function in profile.functions.iter().filter(|function| !function.own) {
                let most = most.entry(&function.name).or_default();
                *most = most.max(function.count);
            }
        }
        let mut names: Vec<(&str, f64)> = most.into_iter().collect();
        names.sort_by(|a, b| b.1.total_cmp(&a.1));
        names.truncate(NAMED);
        let names: Vec<&str> = [OWN]
            .into_iter()
            .chain(names.iter().map(|(name, _)| *name))
            .collect();
        let bar = |profile: &&Profile| {
            let segment = |(n, name): (usize, &&str)| (n, count(profile, name));
            let mut segments: Vec<(usize, f64)> = names.iter().enumerate().map(segment).collect();
            let rest = profile.total() - segments.iter().map(|(_, count)| count).sum::<f64>();
            segments.push((PEERS.len(), rest));
            Bar {
                name: profile.peer.clone(),
                segments,
            }
        };
        let bars: Vec<Bar> = profiles.iter().map(bar).collect();
        let svg = chart::bars("instructions", &bars)?;
        charts.push(html! { figure {
            h3 { (row) ", " (pages) @if *pages == 1 { " page" } @else { " pages" } }
            (PreEscaped(svg))
            ul.legend {
                @for (n, name) in names.iter().enumerate() {
                    li { i class={ "s" (n) } {} @if n == 0 { (name) } @else { code { (name) } } }
                }
                li { i class={ "s" (PEERS.len()) } {} "all others" }
            }
            (functions(profiles))
        } });
    }
    Ok(html! { @if !charts.is_empty() {
        h2 { "Where the instructions go" }
        p { "By function of the kernel, counted by a plugin of the emulator. What is inlined counts where it ended up." }
        div.charts { @for chart in charts { (chart) } }
    } })
}

/// What a profile has for a function, or for [`OWN`].
fn count(profile: &Profile, name: &str) -> f64 {
    let wanted = |function: &&Function| match name {
        OWN => function.own,
        name => function.name == name && !function.own,
    };
    let functions = profile.functions.iter().filter(wanted);
    functions.map(|function| function.count).sum()
}

/// The dearest functions of each peer, and all of the modules' own.
fn functions(profiles: &[&Profile]) -> Markup {
    html! {
        @for profile in profiles {
            details { summary { (profile.peer) ", by function" }
                div.wide { table { tbody {
                    @for (i, function) in profile.functions.iter().enumerate() {
                        @if i < 25 || function.own {
                            tr { td { code { (function.name) } } td { (format!("{:.1}", function.count)) } }
                        }
                    }
                } } }
            }
        }
    }
}

fn steps(data: &Data) -> Result<Markup> {
    let mut figures = vec![];
    for (i, step) in data.steps.iter().enumerate() {
        let svg = picture::picture(step)?;
        figures.push(html! { figure {
            h3 { (i + 1) ". " (step.title) }
            (PreEscaped(svg))
            figcaption { (step.explanation) }
            (smaps(step))
        } });
    }
    Ok(html! { @if !figures.is_empty() {
        h2 { "Copy-on-write, step by step" }
        p {
            "Two processes map the device's one page privately. Each picture is what the kernel said at that moment in a real run: "
            code { "/proc/PID/pagemap" } " for the entries, " code { "/proc/kpagecount" } " for how often a page is mapped, "
            code { "/proc/PID/smaps" } " below."
        }
        div.charts { @for figure in figures { (figure) } }
    } })
}

fn smaps(step: &Step) -> Markup {
    let value = |entry: &Entry, name: &str| entry.smaps.get(name).cloned().unwrap_or_default();
    html! { details { summary { "smaps and pagemap" }
        div.wide { table {
            thead { tr { th { "" } th { "A" } th { "B" } } }
            tbody {
                @for name in step.a.smaps.keys() { tr { td { (name) } td { (value(&step.a, name)) } td { (value(&step.b, name)) } } }
                tr { td { "page of a file" } td { (step.a.file.to_string()) } td { (step.b.file.to_string()) } }
                tr { td { "mapped by it alone" } td { (step.a.exclusive.to_string()) } td { (step.b.exclusive.to_string()) } }
            }
        } }
    } }
}

/// Every figure, by row.
fn all(data: &Data) -> Markup {
    html! {
        h2 { "All figures" }
        p { "Medians with the least and the most of the runs; charts and tables of time have the least, as all that disturbs adds to it. " code { "results.json" } " and " code { "results.csv" } " have the same." }
        @for unit in [Unit::Instructions, Unit::Time] {
            @let names = data.names(unit);
            @if !names.is_empty() {
                details { summary { (match unit { Unit::Instructions => "Instructions", Unit::Time => "Time, in ns" }) }
                    div.wide { table {
                        thead { tr { th { "row" } th { "pages" } th { "peer" } th { "median" } th { "least" } th { "most" } th { "runs" } } }
                        tbody { @for (row, pages) in names {
                            @for r in data.rows.iter().filter(|r| r.unit == unit && r.row == row && r.pages == pages) { tr {
                                td { (r.row) } td { (r.pages) } td { (r.peer) } td { (grouped(r.median)) } td { (grouped(r.min)) } td { (grouped(r.max)) } td { (r.runs) }
                            } }
                        } }
                    } }
                }
            }
        }
        @if !data.refusals.is_empty() {
            details { summary { "What peers refused" }
                div.wide { table {
                    thead { tr { th { "row" } th { "pages" } th { "peer" } th { "error" } } }
                    tbody { @for r in &data.refusals { tr { td { (r.row) } td { (r.pages) } td { (r.peer) } td { (r.error) } } } }
                } }
            }
        }
    }
}
