// SPDX-License-Identifier: GPL-2.0
//! The same calls on the device and on a file, and what is seen of each.

use std::{
    collections::BTreeMap,
    fmt::{Debug, Display},
    fs::{self, File},
    io::{BufRead, BufReader, Read},
    ops::Range,
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
        unix::fs::FileExt,
    },
    path::Path,
    rc::Rc,
};

use libc::c_long;
use rust_mmapdev::Device;
use rustix::{
    fs::{Mode, OFlags, fstat, ftruncate},
    io,
    mount::{MountFlags, UnmountFlags, mount, unmount},
};

use crate::support::{
    large::has_huge_pages,
    memory::{page, table},
    module::fresh,
    proc::{ANON, page_flags, vma_range},
    process::fork,
    system_call, tmpfs_file,
    touch::{catch_signals, touch},
};

/// Where windows are mapped: nothing else is near, and page tables of all levels begin here.
const PLACE: usize = 1 << 44;
/// Another place, as a page of the window: at an odd address, with room before it to grow into.
pub const ELSEWHERE: usize = 4096 + 7;
/// Pages from `PLACE` on that are looked at, and unmapped in the end.
const AREA: usize = 3 * 4096;

pub const NONE: usize = libc::PROT_NONE as usize;
pub const READ: usize = libc::PROT_READ as usize;
pub const EXEC: usize = libc::PROT_EXEC as usize;
pub const RW: usize = (libc::PROT_READ | libc::PROT_WRITE) as usize;
pub const SHARED: usize = libc::MAP_SHARED as usize;
pub const PRIVATE: usize = libc::MAP_PRIVATE as usize;
pub const FIXED: usize = libc::MAP_FIXED as usize;

/// `count` pages in bytes.
pub fn bytes(count: usize) -> usize {
    count * page()
}

/// A number's name, or the number.
pub fn name(number: usize, names: &[(usize, &str)]) -> String {
    let known = names.iter().find(|(of, _)| *of == number);
    known.map_or_else(|| number.to_string(), |(_, name)| (*name).to_owned())
}

/// Address of what a call is to look at or to write to.
pub fn address<T: ?Sized>(of: &mut T) -> usize {
    (&raw mut *of).cast::<u8>().expose_provenance()
}

/// How many pages it is from one address to another.
pub fn pages_between(from: usize, to: usize) -> isize {
    to.wrapping_sub(from) as isize / page() as isize
}

/// A part of a buffer and where it is mapped, all in pages.
#[derive(Clone, Copy)]
pub struct Window {
    /// Size of the buffer.
    pub buffer: usize,
    pub first: usize,
    count: usize,
    /// Where it is mapped, from `PLACE` on.
    shift: usize,
}

const fn window(buffer: usize, first: usize, count: usize, shift: usize) -> Window {
    Window {
        buffer,
        first,
        count,
        shift,
    }
}

/// At the start of the buffer and aligned to all there is, and at odd pages. The fourth and the
/// last end with the buffer; of the last, address and offset fit together, odd as they are.
pub const WINDOWS: &[Window] = &[
    window(1, 0, 1, 0),
    window(24, 7, 1, 1),
    window(24, 0, 16, 0),
    window(24, 8, 16, 3),
    window(1040, 0, 1024, 0),
    window(1040, 3, 1024, 5),
    window(1040, 16, 1024, 16),
];
/// Those of few pages.
pub const SMALL: &[Window] = WINDOWS.split_at(4).0;
/// One, for calls that look at their arguments only.
pub const ONE: &[Window] = SMALL.split_at(3).1;

impl Window {
    /// Where it is mapped.
    fn place(&self) -> usize {
        PLACE + bytes(self.shift)
    }

    /// The pages that are looked at: all of few, and of many the first ones, the last ones, and
    /// those in the middle where a page table ends in one of the windows or another.
    fn probes(count: usize) -> impl Iterator<Item = usize> {
        let near = move |i: &usize| [0, 510, count].iter().any(|at| i.abs_diff(*at) <= 3);
        (0..count).filter(move |i| count <= 32 || near(i))
    }

    /// The pages that may have been stored to, whatever the calls have made of the mapping.
    fn spoilt(&self) -> impl Iterator<Item = usize> + use<> {
        let (rest, count) = (self.buffer - self.first, self.count);
        let near = move |i: &usize| [0, 510, count, rest].iter().any(|at| i.abs_diff(*at) <= 6);
        (0..rest).filter(move |i| rest <= 32 || near(i))
    }
}

/// What is compared: the device, or a file of tmpfs of the same size and content.
pub struct Subject {
    pub rw: OwnedFd,
    pub ro: OwnedFd,
    pub wo: OwnedFd,
    pages: usize,
    /// What fstat(2) says of it as long as nobody has changed more than bytes.
    whole: (i64, i64),
}

impl Subject {
    fn device(pages: usize) -> Self {
        fresh(pages as u64);
        Self::of(Device::PATH, pages)
    }

    /// A file of single pages.
    fn file(pages: usize) -> Self {
        let file = tmpfs_file(&[]);
        Self::of(&format!("/proc/self/fd/{}", file.as_raw_fd()), pages)
    }

    /// A file of folios as large as they can be.
    fn file_of_large_folios(pages: usize) -> Self {
        let at = Path::new("/tmp/large");
        fs::create_dir_all(at).expect("mkdir");
        mount("tmpfs", at, "tmpfs", MountFlags::empty(), c"huge=always").expect("mount");
        let path = at.join("file");
        fs::write(&path, []).expect("a file");
        let subject = Self::of(path.to_str().expect("UTF-8"), pages);
        // The descriptors keep it.
        unmount(at, UnmountFlags::DETACH).expect("umount");
        subject
    }

    fn of(path: &str, pages: usize) -> Self {
        let open = |flags| {
            rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())
                .unwrap_or_else(|err| panic!("open {path} with {flags:?}: {err}"))
        };
        let mut subject = Self {
            rw: open(OFlags::RDWR),
            ro: open(OFlags::RDONLY),
            wo: open(OFlags::WRONLY),
            pages,
            whole: (0, 0),
        };
        subject.fill();
        subject.whole = subject.size_and_blocks();
        subject
    }

    /// What page `index` begins with: a word that says which one it is, and one to store into.
    fn head(index: usize) -> [[u8; 8]; 2] {
        [0x7061_6765_0000_0000 | index as u64, 0].map(u64::to_ne_bytes)
    }

    fn fill(&self) {
        let mut all = vec![0; bytes(self.pages)];
        for (index, page) in all.chunks_mut(page()).enumerate() {
            page[..16].copy_from_slice(Self::head(index).as_flattened());
        }
        assert_eq!(io::pwrite(&self.wo, &all, 0), Ok(all.len()));
    }

    fn size_and_blocks(&self) -> (i64, i64) {
        let stat = fstat(&self.ro).expect("fstat");
        (stat.st_size, stat.st_blocks)
    }

    /// Undoes what a trial has done to the bytes, or makes them anew.
    fn restore(&self, window: Window, spoilt: bool) {
        let (size, _) = self.whole;
        if size > 0 && (spoilt || self.size_and_blocks() != self.whole) {
            // Without any page of before.
            ftruncate(&self.wo, 0).expect("ftruncate");
            return self.fill();
        }
        for index in window.spoilt().map(|i| window.first + i) {
            let (head, offset) = (Self::head(index), bytes(index) as u64);
            assert_eq!(io::pwrite(&self.wo, head.as_flattened(), offset), Ok(16));
        }
    }

    /// What page `index` begins with, as the kernel's read gives it.
    fn read(&self, index: usize) -> String {
        let mut head = [[0; 8]; 2];
        match io::pread(&self.ro, head.as_flattened_mut(), bytes(index) as u64) {
            Ok(16) => describe(index, head),
            answer => in_short(answer),
        }
    }
}

/// What page `index` begins with, in short.
fn describe(index: usize, head: [[u8; 8]; 2]) -> String {
    let [stamp, stored] = head.map(u64::from_ne_bytes);
    let whose = match head[0] == Subject::head(index)[0] {
        true => "its own".to_owned(),
        false => format!("{stamp:#x}"),
    };
    match stored {
        0 => whose,
        stored => format!("{whose}+{stored}"),
    }
}

/// An answer in short.
pub fn in_short<T: Debug, E: Display>(answer: Result<T, E>) -> String {
    match answer {
        Ok(value) => format!("{value:?}"),
        Err(error) => error.to_string(),
    }
}

/// Pages with what is seen of each, those that are alike together.
fn in_runs(pages: impl IntoIterator<Item = (usize, impl Display)>) -> String {
    let mut runs: Vec<(usize, usize, String)> = vec![];
    for (page, what) in pages {
        let what = what.to_string();
        match runs.last_mut() {
            Some((_, last, same)) if *same == what => *last = page,
            _ => runs.push((page, page, what)),
        }
    }
    let runs = runs.iter().map(|(first, last, what)| match first == last {
        true => format!("{first}: {what}"),
        false => format!("{first} to {last}: {what}"),
    });
    runs.collect::<Vec<_>>().join("; ")
}

/// A thing that was seen.
#[derive(PartialEq)]
struct Seen {
    step: String,
    what: String,
}

impl Seen {
    /// As a line that `of_line` makes the same of.
    fn line(&self) -> String {
        format!("{}\t{}\n", self.step, self.what)
    }

    fn of_line(line: &str) -> Self {
        let (step, what) = line.split_once('\t').unwrap_or((line, ""));
        Self {
            step: step.to_owned(),
            what: what.to_owned(),
        }
    }
}

/// A VMA as /proc/self/smaps describes it.
#[derive(Default)]
struct Vma {
    range: Range<usize>,
    permissions: String,
    what: String,
    copied: usize,
    key: usize,
    flags: Vec<String>,
}

/// The VMAs up to an address.
fn vmas(end: usize) -> Vec<Vma> {
    let mut vmas: Vec<Vma> = vec![];
    let smaps = File::open("/proc/self/smaps").expect("smaps");
    for line in BufReader::new(smaps).lines().map_while(Result::ok) {
        let words: Vec<_> = line.split_ascii_whitespace().collect();
        match (&words[..], vmas.last_mut()) {
            ([range, permissions, offset, _, inode, ..], _) if range.contains('-') => {
                let range = vma_range(&line);
                if range.start >= end {
                    break;
                }
                let offset = usize::from_str_radix(offset, 16).unwrap_or(usize::MAX);
                vmas.push(Vma {
                    range,
                    permissions: permissions.to_string(),
                    what: match *inode {
                        "0" => "of nothing".to_owned(),
                        _ => format!("from {}", offset / page()),
                    },
                    ..Vma::default()
                });
            }
            (["VmFlags:", flags @ ..], Some(vma)) => {
                vma.flags = flags.iter().map(|flag| flag.to_string()).collect();
            }
            ([field, value, ..], Some(vma)) => {
                let value = value.parse().unwrap_or_default();
                match *field {
                    "Anonymous:" => vma.copied = value * 1024 / page(),
                    "ProtectionKey:" => vma.key = value,
                    _ => {}
                }
            }
            _ => {}
        }
    }
    vmas
}

/// One window of one subject, all that is done to it, and what is seen of it step by step.
pub struct Trial {
    pub subject: Rc<Subject>,
    pub window: Window,
    /// `MAP_SHARED` or `MAP_PRIVATE`.
    pub sharing: usize,
    /// Address and length in pages of the mapping, for the case to change with it.
    pub start: usize,
    pub count: usize,
    seen: Vec<Seen>,
}

impl Trial {
    fn new(subject: Rc<Subject>, window: Window, sharing: usize) -> Self {
        Self {
            subject,
            window,
            sharing,
            start: window.place(),
            count: window.count,
            seen: vec![],
        }
    }

    /// Address of a page of the mapping, or of one before or behind it.
    pub fn at(&self, page: usize) -> usize {
        self.start.wrapping_add(page.wrapping_mul(bytes(1)))
    }

    pub fn all(&self) -> Range<usize> {
        0..self.count
    }

    /// The page in the middle.
    pub fn middle(&self) -> Range<usize> {
        self.count / 2..self.count / 2 + 1
    }

    /// Where the window is in the buffer, in bytes.
    pub fn offset(&self) -> usize {
        bytes(self.window.first)
    }

    /// Pages of the buffer from the window's first page on.
    pub fn rest(&self) -> usize {
        self.window.buffer - self.window.first
    }

    pub fn rw(&self) -> usize {
        self.subject.rw.as_raw_fd() as usize
    }

    /// The pages that are looked at.
    pub fn probes(&self) -> impl Iterator<Item = usize> + use<> {
        Window::probes(self.count)
    }

    /// Takes note of something.
    pub fn see(&mut self, step: impl Into<String>, what: impl Display) {
        self.seen.push(Seen {
            step: step.into(),
            what: what.to_string(),
        });
    }

    /// Takes note of an answer.
    pub fn answer(&mut self, step: impl Into<String>, answer: io::Result<usize>) {
        self.see(step, in_short(answer));
    }

    /// Takes note of something about each page.
    pub fn see_each(&mut self, step: &str, pages: impl IntoIterator<Item = (usize, impl Display)>) {
        self.see(step, in_runs(pages));
    }

    /// A system call and its answer.
    pub fn call<const N: usize>(
        &mut self,
        step: impl Into<String>,
        number: c_long,
        arguments: [usize; N],
    ) -> io::Result<usize> {
        let answer = call(number, arguments);
        self.answer(step, answer);
        answer
    }

    /// A call whose answer is an address. What the kernel chooses may be another one for each.
    pub fn places<const N: usize>(
        &mut self,
        step: impl Into<String>,
        number: c_long,
        arguments: [usize; N],
    ) -> Option<usize> {
        let answer = call(number, arguments);
        let what = match answer {
            Ok(at) if area().contains(&at) => {
                format!("at {}", pages_between(self.window.place(), at))
            }
            Ok(at) if at % page() != 0 => "not at a page's start".to_owned(),
            Ok(at) if at >> 32 == 0 => "below 4 GiB".to_owned(),
            Ok(_) => "where the kernel wanted".to_owned(),
            Err(error) => error.to_string(),
        };
        self.see(step, what);
        answer.ok()
    }

    /// A call whose answer is a descriptor.
    pub fn opens<const N: usize>(
        &mut self,
        step: impl Into<String>,
        number: c_long,
        arguments: [usize; N],
    ) -> Option<OwnedFd> {
        let answer = call(number, arguments);
        self.see(step, in_short(answer.map(|_| "a descriptor")));
        // SAFETY: a new descriptor belongs to nobody yet.
        Some(unsafe { OwnedFd::from_raw_fd(i32::try_from(answer.ok()?).ok()?) })
    }

    /// Maps the window with these flags, at its place unless they say otherwise.
    pub fn map(&mut self, step: impl Into<String>, prot: usize, flags: usize) {
        if let Some(start) = self.map_part(step, self.all(), prot, flags) {
            self.start = start;
        }
    }

    /// Maps some pages of the window, or beyond.
    pub fn map_part(
        &mut self,
        step: impl Into<String>,
        pages: Range<usize>,
        prot: usize,
        flags: usize,
    ) -> Option<usize> {
        let offset = self.offset() + bytes(pages.start);
        let (at, len) = (self.at(pages.start), bytes(pages.len()));
        let arguments = [at, len, prot, flags, self.rw(), offset];
        self.places(step, libc::SYS_mmap, arguments)
    }

    /// A call on a range of pages.
    pub fn range<const N: usize>(
        &mut self,
        step: impl Into<String>,
        number: c_long,
        pages: Range<usize>,
        arguments: [usize; N],
    ) {
        let range = [self.at(pages.start), bytes(pages.len())];
        let _ = self.call(step, number, followed(range, arguments));
    }

    /// On one page after the other, a call with each of these arguments behind its range.
    pub fn each<const N: usize>(
        &mut self,
        step: &str,
        number: c_long,
        pages: impl Iterator<Item = usize>,
        arguments: &[[usize; N]],
    ) {
        let answers = pages.map(|i| {
            let range = [self.at(i), bytes(1)];
            let answers = arguments
                .iter()
                .map(|more| call(number, followed(range, *more)));
            let answers: Vec<_> = answers.map(in_short).collect();
            (i, answers.join(", "))
        });
        let answers = in_runs(answers);
        self.see(step, answers);
    }

    /// A call on ranges that are not those of the mapping's pages.
    pub fn bad_ranges(&mut self, number: c_long, argument: usize) {
        let (start, len) = (self.start, bytes(self.count));
        for (step, at, len) in [
            ("nothing", start, 0),
            ("half a page", start, bytes(1) / 2),
            ("an odd address", start + 1, len),
            ("all addresses", start, usize::MAX),
            ("what is free", self.at(self.count), bytes(1)),
            ("and a page behind", start, len + bytes(1)),
            ("and a page before", start - bytes(1), len),
        ] {
            let _ = self.call(step, number, [at, len, argument]);
        }
    }

    pub fn advise(&mut self, step: impl Into<String>, pages: Range<usize>, advice: usize) {
        self.range(step, libc::SYS_madvise, pages, [advice]);
    }

    pub fn protect(&mut self, step: impl Into<String>, pages: Range<usize>, prot: usize) {
        self.range(step, libc::SYS_mprotect, pages, [prot]);
    }

    pub fn unmap(&mut self, step: impl Into<String>, pages: Range<usize>) {
        self.range(step, libc::SYS_munmap, pages, []);
    }

    /// mremap(2) of some pages to a length in pages, with flags, and to a page of the window where
    /// those want one. What `start` and `count` are then is for the case to say.
    pub fn remap(
        &mut self,
        step: impl Into<String>,
        pages: Range<usize>,
        count: usize,
        flags: i32,
        to: usize,
    ) -> Option<usize> {
        let (at, len) = (self.at(pages.start), bytes(pages.len()));
        let arguments = [at, len, bytes(count), flags as usize, self.at(to)];
        self.places(step, libc::SYS_mremap, arguments)
    }

    fn head(&self, page: usize) -> *mut [[u8; 8]; 2] {
        std::ptr::with_exposed_provenance_mut(self.at(page))
    }

    /// Loads or stores, and says what signal came if one did.
    fn touch(&self, page: usize, write: bool) -> Result<(), String> {
        touch(self.at(page), write).map_err(|signal| format!("{signal:?}"))
    }

    /// Loads from pages.
    pub fn load(&mut self, step: &str, pages: impl IntoIterator<Item = usize>) {
        let loaded = in_runs(pages.into_iter().map(|i| {
            let loaded = self.touch(i, false).map(|()| {
                // SAFETY: the page is readable, as has just been seen.
                let head = unsafe { self.head(i).read_volatile() };
                describe(self.window.first + i, head)
            });
            (i, loaded.unwrap_or_else(|signal| signal))
        }));
        self.see(step, loaded);
    }

    /// Stores a number into pages.
    pub fn store(&mut self, step: &str, pages: impl IntoIterator<Item = usize>, number: u64) {
        let stored = in_runs(pages.into_iter().map(|i| {
            let stored = self.touch(i, true).map(|()| {
                // SAFETY: the page is writable, as has just been seen.
                unsafe { self.head(i).cast::<u64>().add(1).write_volatile(number) };
            });
            (i, in_short(stored))
        }));
        self.see(step, stored);
    }

    /// Makes the pages that are looked at equal.
    pub fn make_equal(&mut self) {
        for i in self.probes().filter(|i| self.touch(*i, true).is_ok()) {
            // SAFETY: the page is writable, as has just been seen.
            unsafe { self.head(i).write_volatile([[7; 8]; 2]) };
        }
    }

    /// Whether pages are the same frame as the first page is.
    pub fn merged(&mut self, step: &str) {
        let pagemap = self.pagemap();
        let frame = |i| pagemap(i) & ((1 << 55) - 1);
        let pages = self.probes().map(|i| (i, frame(i) == frame(0)));
        self.see_each(step, pages);
    }

    /// What /proc/self/pagemap says about pages.
    fn pagemap(&self) -> impl Fn(usize) -> u64 + use<> {
        let pagemap = File::open("/proc/self/pagemap").expect("pagemap");
        let first = (self.start / bytes(1)) as u64;
        move |page| {
            let mut entry = [0; 8];
            let offset = (first + page as u64) * 8;
            pagemap.read_exact_at(&mut entry, offset).expect("pagemap");
            u64::from_ne_bytes(entry)
        }
    }

    /// Which of these bits of /proc/self/pagemap pages have.
    pub fn pagemap_bits(
        &mut self,
        step: &str,
        pages: impl IntoIterator<Item = usize>,
        bits: &[u32],
    ) {
        let pagemap = self.pagemap();
        let pages = pages.into_iter().map(|i| {
            let entry = pagemap(i);
            let bits = bits.iter().filter(|bit| (entry >> **bit) & 1 != 0);
            (i, format!("{:?}", bits.collect::<Vec<_>>()))
        });
        self.see_each(step, pages);
    }

    /// Whether pages are in the page table, where that is more than a matter of price.
    pub fn present(&mut self, step: &str, pages: impl IntoIterator<Item = usize>) {
        self.pagemap_bits(step, pages, &[63]);
    }

    /// Whether pages are private copies, and those are locked. A page of the buffer may be part of
    /// something larger that is locked as a whole or not at all.
    pub fn copies(&mut self, step: &str) {
        const MLOCKED: u64 = 1 << 33;
        let pagemap = self.pagemap();
        let copies = self.probes().map(|i| {
            let flags = page_flags(pagemap(i) & ((1 << 55) - 1));
            let what = match flags & (ANON | MLOCKED) {
                ANON => "a copy",
                flags if flags & ANON != 0 => "a locked copy",
                _ => "the buffer's",
            };
            (i, what)
        });
        self.see_each(step, copies);
    }

    /// mincore(2).
    pub fn in_core(&mut self, step: &str) {
        let mut resident = vec![0_u8; self.count];
        let vector = address(&mut resident[..]);
        let what = match call(libc::SYS_mincore, [self.start, bytes(self.count), vector]) {
            Ok(_) => in_runs(resident.iter().map(|byte| byte & 1).enumerate()),
            Err(error) => error.to_string(),
        };
        self.see(step, what);
    }

    /// The VMAs of the area and of where the mapping is.
    fn own_vmas(&self) -> Vec<Vma> {
        let own = self.start..self.at(self.count);
        let mut vmas = vmas(own.end.max(area().end));
        vmas.retain(|vma| {
            let meets =
                |other: &Range<_>| vma.range.start < other.end && other.start < vma.range.end;
            meets(&own) || meets(&area())
        });
        vmas
    }

    /// Every VMA, with its pages, protection, pages of the buffer, private copies and flags.
    pub fn vmas(&mut self, step: &str) {
        let described = self.own_vmas().into_iter().map(|vma| {
            // Pages of the place, or of where the kernel has moved the mapping to.
            let (origin, away) = match area().contains(&vma.range.start) {
                true => (self.window.place(), ""),
                false => (self.start, "away "),
            };
            let [start, end] = [vma.range.start, vma.range.end].map(|at| pages_between(origin, at));
            let mut text = format!("{away}{start}..{end} {} {}", vma.permissions, vma.what);
            for (name, number) in [("copied", vma.copied), ("key", vma.key)] {
                if number > 0 {
                    text += &format!(" {name} {number}");
                }
            }
            // That it may be executed is a case of its own.
            let flags = vma.flags.into_iter().filter(|flag| flag != "me");
            flags.fold(text, |text, flag| text + " " + &flag)
        });
        let described = described.collect::<Vec<_>>().join("; ");
        self.see(step, described);
    }

    /// How many VMAs may be made executable.
    pub fn may_be_executed(&mut self, step: &str) {
        let may = |vma: &Vma| vma.flags.iter().any(|flag| flag == "me");
        let count = self.own_vmas().into_iter().filter(may).count();
        self.see(step, count);
    }

    /// All there is to see of the mapping, and of what is behind it.
    pub fn look(&mut self) {
        self.vmas("VMAs");
        self.in_core("in core");
        self.load("loads", self.probes());
        self.store("stores", self.probes(), 99);
        let (first, subject) = (self.window.first, self.subject.clone());
        let read = Window::probes(self.window.count).map(|i| (i, subject.read(first + i)));
        self.see_each("read(2)", read);
    }

    /// Leaves the place and the bytes as they were.
    fn end(self, spoilt: bool) -> Vec<Seen> {
        let own = [self.start, bytes(self.count)];
        for range in [own, [area().start, area().len()]] {
            let _ = call(libc::SYS_munmap, range);
        }
        self.subject.restore(self.window, spoilt);
        self.seen
    }

    /// Goes on in a child, and takes note of what it sees and how it ends.
    pub fn in_child(&mut self, body: impl FnOnce(&mut Trial)) {
        let child = fork(|link| {
            let mut trial = Trial {
                subject: self.subject.clone(),
                seen: vec![],
                ..*self
            };
            body(&mut trial);
            let lines: String = trial.seen.iter().map(Seen::line).collect();
            let _ = io::write(link, lines.as_bytes());
        });
        let mut lines = String::new();
        let link = child.link.as_fd().try_clone_to_owned().expect("dup");
        File::from(link)
            .read_to_string(&mut lines)
            .expect("a report");
        self.seen.extend(lines.lines().map(Seen::of_line));
        self.see("the child's end", child.wait());
    }
}

fn area() -> Range<usize> {
    PLACE..PLACE + bytes(AREA)
}

/// A range and the arguments behind it.
fn followed<const N: usize>(range: [usize; 2], by: [usize; N]) -> [usize; 6] {
    let mut all = [0; 6];
    all[..2].copy_from_slice(&range);
    all[2..2 + N].copy_from_slice(&by);
    all
}

/// A system call by its number, with any arguments.
pub fn call<const N: usize>(number: c_long, arguments: [usize; N]) -> io::Result<usize> {
    let mut all = [0; 6];
    all[..N].copy_from_slice(&arguments);
    let [a, b, c, d, e, f] = all;
    // SAFETY: addresses are of the area, where Rust keeps nothing, or of memory that the caller
    // means the kernel to look at or to write to.
    system_call(unsafe { libc::syscall(number, a, b, c, d, e, f) })
}

/// Calls.
pub type Body = Box<dyn Fn(&mut Trial)>;

/// Calls with a name.
pub struct Case {
    name: String,
    body: Body,
    /// What is left is a file of another kind, on which the next case would see something else.
    spoils: bool,
}

impl Case {
    pub fn spoils(mut self, spoils: bool) -> Self {
        self.spoils = spoils;
        self
    }
}

/// A case for the table.
pub fn case(name: impl Into<String>, body: impl Fn(&mut Trial) + 'static) -> Case {
    Case {
        name: name.into(),
        body: Box::new(body),
        spoils: false,
    }
}

/// A case, those of its steps in which the device differs from a file in one window at least, and
/// why it does.
pub struct Differs(
    pub &'static str,
    pub &'static [&'static str],
    pub &'static str,
);

/// What a trial begins with.
pub type Start = fn(&mut Trial);
/// Some of a mapping's pages.
pub type Part = fn(&Trial) -> Range<usize>;
/// A number of pages.
pub type Count = fn(&Trial) -> usize;

/// Nothing is mapped.
pub fn unmapped(_: &mut Trial) {}

/// The window is mapped and nobody has touched it.
pub fn mapped(trial: &mut Trial) {
    trial.map("mmap", RW, trial.sharing | FIXED);
}

/// The window is mapped, every second page has been written to and the others read.
pub fn used(trial: &mut Trial) {
    mapped(trial);
    trial.store("stores before", trial.probes().step_by(2), 1);
    trial.load("loads before", trial.probes());
}

/// Does the same to the device and to a file. Fails when they differ in a step that `differs` has
/// not, and when they don't in one that it has.
pub fn compare(windows: &[Window], start: Start, cases: &[Case], differs: &'static [Differs]) {
    compare_to(&[Subject::file], windows, start, cases, differs);
}

/// Compares where what is seen is a matter of folios: a trial of the device is to be as on a file of
/// single pages, or as on one of large folios.
pub fn compare_by_folio(
    windows: &[Window],
    start: Start,
    cases: &[Case],
    differs: &'static [Differs],
) {
    let files = [Subject::file, Subject::file_of_large_folios];
    // Without huge pages, tmpfs has no large folios either, nor has the device.
    let count = if has_huge_pages() { 2 } else { 1 };
    compare_to(&files[..count], windows, start, cases, differs);
}

fn compare_to(
    files: &[fn(usize) -> Subject],
    windows: &[Window],
    start: Start,
    cases: &[Case],
    differs: &'static [Differs],
) {
    catch_signals();
    // What differs, and in which windows.
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let steps = |it: &'static Differs| it.1.iter().map(move |step| (it.0, *step, it.2));
    let known: Vec<_> = differs.iter().flat_map(steps).collect();
    let mut same = known.clone();
    let have_huge_pages =
        |of: &[Window]| has_huge_pages() && of.iter().any(|it| bytes(it.count) >= table());
    if !have_huge_pages(WINDOWS) {
        // It is said of kernels that have them there. On others, less differs.
        same.clear();
    } else if !have_huge_pages(windows) {
        // There is nothing to collapse in a file either.
        same.retain(|it| it.0 != "COLLAPSE");
    }
    for windows in windows.chunk_by(|a, b| a.buffer == b.buffer) {
        let buffer = windows[0].buffer;
        let device = Rc::new(Subject::device(buffer));
        let files: Vec<_> = files.iter().map(|file| Rc::new(file(buffer))).collect();
        let sharings = [("shared", SHARED), ("private", PRIVATE)];
        for (window, (how, sharing)) in windows.iter().flat_map(|w| sharings.map(|s| (w, s))) {
            for case in cases {
                let run = |subject: &Rc<Subject>| {
                    let mut trial = Trial::new(subject.clone(), *window, sharing);
                    start(&mut trial);
                    (case.body)(&mut trial);
                    trial.look();
                    trial.see("steps", trial.seen.len());
                    trial.end(case.spoils)
                };
                let seen = run(&device);
                let differences = files.iter().map(|file| {
                    let pairs = seen.iter().zip(run(file));
                    pairs.filter(|(a, b)| *a != b).collect::<Vec<_>>()
                });
                let least = differences.min_by_key(Vec::len).expect("a file");
                for (ours, theirs) in least {
                    let is = |it: &(&str, &str, _)| it.0 == case.name && it.1 == ours.step;
                    same.retain(|it| !is(it));
                    if !known.iter().any(is) {
                        let what = format!(
                            "{}: {}\n  device: {}\n  file:   {}",
                            case.name,
                            ours.step,
                            shortened(&ours.what),
                            shortened(&theirs.what)
                        );
                        let place = format!("{} from {}, {how}", window.count, window.first);
                        found.entry(what).or_default().push(place);
                    }
                }
            }
        }
    }
    let mut report = String::new();
    for (what, places) in &found {
        report += &format!("{what}\n  ({})\n", places.join("; "));
    }
    for (case, step, why) in same {
        report += &format!("{case}: {step}\n  does not differ, against what is said: {why}\n");
    }
    assert!(
        report.is_empty(),
        "the device is not like a file:\n{report}"
    );
}

/// So much of it as is of use in a report.
fn shortened(what: &str) -> String {
    what.chars().take(400).collect()
}
