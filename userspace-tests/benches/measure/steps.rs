// SPDX-License-Identifier: GPL-2.0
//! The page tables of two processes with private mappings of the device's page, through the steps
//! of the guide's section on copy-on-write, as the kernel shows them.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufRead, BufReader, Write},
    net::Shutdown,
    os::{
        fd::OwnedFd,
        unix::{fs::FileExt, net::UnixStream},
    },
};

use benches::{Entry, Line, Step};

use crate::{
    memory::{Advice, Map, PRIVATE, RW, SHARED, copy_from, copy_to, mmap, page},
    peer::Peer,
    tell,
    work::in_child_while,
};

/// Bits of an entry of /proc/PID/pagemap, see Documentation/admin-guide/mm/pagemap.rst.
const FRAME: u64 = (1 << 55) - 1;
const EXCLUSIVE: u64 = 1 << 56;
const FILE: u64 = 1 << 61;
const PRESENT: u64 = 1 << 63;

/// What /proc/PID/smaps says that tells something here.
const FIELDS: [&str; 6] = [
    "Rss",
    "Shared_Clean",
    "Shared_Dirty",
    "Private_Clean",
    "Private_Dirty",
    "Anonymous",
];

/// A process with at most one mapping.
struct Party {
    device: OwnedFd,
    map: Option<Map>,
    text: Option<String>,
}

impl Party {
    fn act(&mut self, what: &str) -> io::Result<Entry> {
        let map = self.map.as_ref();
        match what.split_once(' ').unwrap_or((what, "")) {
            ("map", _) => {
                self.map = Some(mmap(&self.device, 0, page(), RW, PRIVATE)?);
                self.text = None;
            }
            ("read", _) => self.text = Some(text_of(map.expect("a mapping"))),
            ("write", text) => {
                let bytes = [text.as_bytes(), b"\0"].concat();
                copy_to(map.expect("a mapping"), &bytes);
                self.text = Some(text_of(map.expect("a mapping")));
            }
            ("dontneed", _) => {
                map.expect("a mapping").advise(Advice::LinuxDontNeed)?;
                self.text = None;
            }
            _ => {}
        }
        let mut entry = entry(self.map.as_ref().expect("a mapping"))?;
        entry.text.clone_from(&self.text);
        Ok(entry)
    }
}

/// The text at the start of a mapping.
fn text_of(map: &Map) -> String {
    let mut bytes = [0; 64];
    copy_from(map, &mut bytes);
    text(&bytes)
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]).into_owned()
}

fn word(file: &File, index: u64) -> io::Result<u64> {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, index * 8)?;
    Ok(u64::from_ne_bytes(bytes))
}

fn map_count(frame: u64) -> io::Result<u64> {
    word(&File::open("/proc/kpagecount")?, frame)
}

/// The page table entry of the mapping.
fn entry(map: &Map) -> io::Result<Entry> {
    let address = map.at(0) as u64;
    let entry = word(&File::open("/proc/self/pagemap")?, address / page() as u64)?;
    let frame = (entry & PRESENT != 0).then_some(entry & FRAME);
    let smaps = fs::read_to_string("/proc/self/smaps")?;
    let head = format!("{address:x}-");
    let mut lines = smaps.lines().skip_while(|line| !line.starts_with(&head));
    let vma = lines.next().expect("a VMA of the mapping");
    let perms = vma.split(' ').nth(1).expect("permissions");
    let mut fields = BTreeMap::from([("perms".to_owned(), perms.to_owned())]);
    for line in lines.take_while(|line| !line.starts_with("VmFlags")) {
        if let Some((name, value)) = line.split_once(':') {
            if FIELDS.contains(&name) {
                fields.insert(name.to_owned(), value.trim().to_owned());
            }
        }
    }
    Ok(Entry {
        address,
        frame,
        map_count: frame.map_or(Ok(0), map_count)?,
        exclusive: entry & EXCLUSIVE != 0,
        file: entry & FILE != 0,
        smaps: fields,
        text: None,
    })
}

/// Does what it is told, a line each, and answers with the entry, until nobody tells it anything.
fn serve(stream: &UnixStream, mut party: Party) -> io::Result<()> {
    for what in BufReader::new(stream).lines() {
        let entry = party.act(&what?)?;
        let mut line = serde_json::to_vec(&entry)?;
        line.push(b'\n');
        let mut stream = stream;
        stream.write_all(&line)?;
    }
    Ok(())
}

/// The other side of it.
struct Remote(BufReader<UnixStream>);

impl Remote {
    fn act(&mut self, what: &str) -> io::Result<Entry> {
        self.0.get_mut().write_all(format!("{what}\n").as_bytes())?;
        let mut answer = String::new();
        self.0.read_line(&mut answer)?;
        Ok(serde_json::from_str(&answer)?)
    }
}

/// Goes through the steps and tells of each.
pub fn run() -> io::Result<()> {
    let device = Peer::Device.module().expect("a module").open(1)?;
    let ours = mmap(&device, 0, page(), RW, SHARED)?;
    let frame = entry(&ours)?.frame.expect("the device's page");
    drop(ours);
    let ((a, a_there), (b, b_there)) = (UnixStream::pair()?, UnixStream::pair()?);
    let serve = |stream| {
        let device = device.try_clone().expect("dup");
        let party = Party {
            device,
            map: None,
            text: None,
        };
        serve(stream, party).expect("answers");
    };
    let mut result = Ok(());
    in_child_while(
        || serve(&a_there),
        || {
            in_child_while(
                || serve(&b_there),
                || {
                    let (mut a, mut b) = (Remote(BufReader::new(a)), Remote(BufReader::new(b)));
                    result = steps(&device, frame, &mut a, &mut b);
                    for remote in [a, b] {
                        remote
                            .0
                            .get_ref()
                            .shutdown(Shutdown::Both)
                            .expect("shutdown");
                    }
                },
            );
        },
    );
    result
}

fn steps(device: &OwnedFd, frame: u64, a: &mut Remote, b: &mut Remote) -> io::Result<()> {
    for (title, explanation, what_a, what_b) in [
        (
            "Both map",
            "mmap(MAP_PRIVATE) copies nothing: each page table leads to the kernel's own page, \
             for reading only.",
            "map",
            "map",
        ),
        (
            "Both read",
            "Both find the kernel's text, in the same page.",
            "read",
            "read",
        ),
        (
            "A writes",
            "The entry does not allow it, so the CPU faults: the kernel copies the page, has A's \
             entry lead to the copy, and A writes there.",
            "write A was here",
            "read",
        ),
        (
            "B writes",
            "B gets a copy of its own. The kernel's page is as it was.",
            "read",
            "write B was here",
        ),
        (
            "A drops its copy",
            "After madvise(MADV_DONTNEED) A's entry is empty, and the copy is gone.",
            "dontneed",
            "read",
        ),
        (
            "A reads again",
            "The fault finds no copy, and maps the kernel's page again.",
            "read",
            "read",
        ),
    ] {
        a.act(what_a)?;
        b.act(what_b)?;
        // What one did has changed what the other finds.
        let (a, b) = (a.act("look")?, b.act("look")?);
        let mut bytes = [0; 64];
        rustix::io::pread(device, &mut bytes, 0)?;
        tell(&Line::Step(Step {
            title: title.into(),
            explanation: explanation.into(),
            frame,
            map_count: map_count(frame)?,
            text: text(&bytes),
            a,
            b,
        }));
    }
    Ok(())
}
