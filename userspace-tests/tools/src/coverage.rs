// SPDX-License-Identifier: GPL-2.0
//! Which lines of the module a fuzzer has not reached.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    io::{BufRead, Write},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use object::{Object, ObjectSection, ObjectSymbol, RelocationTarget};

/// The places in `.text` from which KCOV is told that they were reached.
fn places(module: &[u8]) -> Result<Vec<u64>> {
    let module = object::File::parse(module)?;
    let text = module.section_by_name(".text").context("it has no .text")?;
    let mut places = vec![];
    for (place, relocation) in text.relocations() {
        let RelocationTarget::Symbol(symbol) = relocation.target() else {
            continue;
        };
        if module.symbol_by_index(symbol)?.name()? == "__sanitizer_cov_trace_pc" {
            places.push(place);
        }
    }
    Ok(places)
}

/// The line of each place in the project's own source: what is inlined belongs to the innermost
/// such one. `lines` is what `addr2line -i -a` prints.
fn own_lines(lines: &str) -> Vec<(u64, (&str, u32))> {
    let mut found = vec![];
    let mut place = None;
    for line in lines.lines() {
        if let Some(number) = line.strip_prefix("0x") {
            place = u64::from_str_radix(number, 16).ok();
            continue;
        }
        if let Some(own) = own_line(line) {
            found.extend(place.take().map(|place| (place, own)));
        }
    }
    found
}

/// File and number, of a line of the project's own.
fn own_line(line: &str) -> Option<(&str, u32)> {
    // It may be followed by a discriminator.
    let (file, number) = line.split(' ').next()?.rsplit_once(':')?;
    Some((file.strip_prefix("/project/")?, number.parse().ok()?))
}

/// What a fuzzer says that it has reached: `reached: 0x... 0x...`.
fn reached(output: impl BufRead) -> Result<Option<HashSet<u64>>> {
    let mut reached = None;
    for line in output.lines() {
        let line = line?;
        let Some(places) = line.strip_prefix("reached:") else {
            continue;
        };
        for place in places.split_whitespace() {
            let number = place.trim_start_matches("0x");
            let place = u64::from_str_radix(number, 16).with_context(|| format!("'{place}'"))?;
            reached.get_or_insert_with(HashSet::new).insert(place);
        }
    }
    Ok(reached)
}

/// Prints the lines that have code of which the run behind `output` reached nothing.
pub fn print_unreached(output: impl BufRead, module: &Path, project: &Path) -> Result<()> {
    // A kernel without KCOV says nothing of it.
    let Some(reached) = reached(output)? else {
        return Ok(());
    };
    let image = fs::read(module).with_context(|| format!("read {}", module.display()))?;
    let places = places(&image).with_context(|| format!("read {}", module.display()))?;
    let mut addr2line = Command::new("addr2line")
        .args(["-i", "-a", "-j", ".text", "-e"])
        .arg(module)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run addr2line")?;
    let mut stdin = addr2line.stdin.take().context("its stdin is a pipe")?;
    let text: Vec<_> = places.iter().map(|place| format!("{place:#x}\n")).collect();
    let text = text.concat();
    let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let lines = addr2line.wait_with_output()?;
    ensure!(
        lines.status.success(),
        "addr2line ended with {}",
        lines.status
    );
    writer.join().expect("the writer does not panic")?;

    let mut of_lines = BTreeMap::<_, bool>::new();
    let text = String::from_utf8_lossy(&lines.stdout);
    for (place, line) in own_lines(&text) {
        *of_lines.entry(line).or_default() |= reached.contains(&place);
    }
    println!("lines of the module with code that was not reached:");
    for ((file, number), _) in of_lines.iter().filter(|(_, reached)| !**reached) {
        let source = fs::read_to_string(project.join(file)).unwrap_or_default();
        let line = source.lines().nth(*number as usize - 1).unwrap_or_default();
        let words: Vec<_> = line.split_whitespace().collect();
        println!("  {file}:{number}: {}", words.join(" "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inlined_code_belongs_to_the_innermost_line_of_the_project() {
        let lines = "0x0000000000000010\n/kernel/rust/kernel/page.rs:7\n/project/src/buffer.rs:12 (discriminator 2)\n/project/src/device.rs:3\n\
            0x0000000000000020\n/kernel/rust/kernel/page.rs:7\n\
            0x0000000000000030\n??:?\n/project/src/range.rs:?\n/project/src/range.rs:4\n";
        assert_eq!(
            own_lines(lines),
            [(0x10, ("src/buffer.rs", 12)), (0x30, ("src/range.rs", 4))]
        );
    }

    #[test]
    fn what_a_run_reached() {
        let output = "seed 1\nreached: 10 2f\nmore\nreached: 0x30\n";
        let expected = HashSet::from([0x10, 0x2f, 0x30]);
        assert_eq!(reached(output.as_bytes()).unwrap(), Some(expected));
        assert_eq!(reached("seed 1\n".as_bytes()).unwrap(), None);
        assert!(reached("reached: here\n".as_bytes()).is_err());
    }
}
