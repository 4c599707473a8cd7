// SPDX-License-Identifier: GPL-2.0
//! What a hostile program consists of: calls whose arguments lie near the edges more often than
//! not. A finding is printed as these values, to be written down as a test.

use arbitrary::{Arbitrary, Result, Unstructured};

use super::super::operation::Advice;
use crate::support::{
    memory::{COLLAPSE, SOFT_OFFLINE, page, table},
    sysctl::Sysctl,
};

/// One call, and maybe what another thread does to the memory meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub call: Call,
    pub meanwhile: Option<Meanwhile>,
}

impl<'a> Arbitrary<'a> for Step {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        // More than half of the calls are those that most of the module is for.
        let call = match u.int_in_range(0..=13)? {
            0 | 1 => Call::Map(u.arbitrary()?),
            2 | 3 => Call::Transfer(u.arbitrary()?),
            4 | 5 => Call::Touch {
                at: match u.ratio(1, 8)? {
                    true => u.arbitrary()?,
                    false => Ptr::MappedPage(u.int_in_range(0..=5)?),
                },
                write: u.arbitrary()?,
                anew: u.arbitrary()?,
            },
            6 => Call::Advise {
                area: u.arbitrary()?,
                advice: advice(u)?,
            },
            7 => Call::Remap {
                area: u.arbitrary()?,
                len: match u.ratio(1, 2)? {
                    true => Len::Pages(u.int_in_range(1..=8)?),
                    false => u.arbitrary()?,
                },
                flags: remap_flags(u)?,
                to: u.arbitrary()?,
            },
            8 => Call::Ioctl {
                fd: u.arbitrary()?,
                request: match u.ratio(1, 2)? {
                    true => *u.choose(&[Request::Info, Request::Clear])?,
                    false => u.arbitrary()?,
                },
                argument: u.arbitrary()?,
            },
            _ => u.arbitrary()?,
        };
        let meanwhile = match u.ratio(1, 8)? {
            true => Some(u.arbitrary()?),
            false => None,
        };
        Ok(Self { call, meanwhile })
    }
}

/// What a second thread does over and over while a call is made.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Meanwhile {
    /// Maps the device there and unmaps it.
    MapAndUnmap(Area),
    /// Takes the pages out of the page table, and has the first one come back.
    DontNeed(Area),
    /// Takes all access away and gives it back.
    Protect(Area),
    /// Moves it one area further and back.
    Move(Area),
    /// Puts guard pages there and takes them away.
    Guard(Area),
    Sysctl(Sysctl),
}

/// Numbers that are handed over as they are: flags, advice, commands.
type Word = u32;

#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Call {
    Open {
        #[arbitrary(with = open_flags)]
        flags: Word,
        #[arbitrary(with = not_the_first)]
        to: Fd,
    },
    Close(#[arbitrary(with = not_the_first)] Fd),
    Dup {
        fd: Fd,
        #[arbitrary(with = not_the_first)]
        to: Fd,
    },
    Map(Mmap),
    MapAnonymous {
        area: Area,
        #[arbitrary(with = protection)]
        protection: Word,
    },
    Unmap(Area),
    Remap {
        area: Area,
        len: Len,
        #[arbitrary(with = remap_flags)]
        flags: Word,
        to: Ptr,
    },
    Protect {
        area: Area,
        #[arbitrary(with = protection)]
        protection: Word,
    },
    Advise {
        area: Area,
        #[arbitrary(with = advice)]
        advice: Word,
    },
    /// process_madvise(2), on this process.
    ProcessAdvise {
        areas: [Area; 2],
        #[arbitrary(with = process_advice)]
        advice: Word,
    },
    Sync {
        area: Area,
        #[arbitrary(with = up_to::<8>)]
        flags: Word,
    },
    Lock {
        area: Area,
        how: Lock,
    },
    InCore {
        area: Area,
        vector: Ptr,
    },
    /// PAGEMAP_SCAN: which pages are written to, and what else is known of them.
    Scan {
        area: Area,
        #[arbitrary(with = up_to::<4>)]
        flags: Word,
        /// Such as are inverted, all wanted, one of them wanted, reported.
        #[arbitrary(with = |u: &mut Unstructured| {
            Ok([categories(u)?, categories(u)?, categories(u)?, categories(u)?])
        })]
        categories: [u16; 4],
        regions: Ptr,
        count: u8,
        most: u8,
    },
    /// userfaultfd(2), asynchronous, which tells PAGEMAP_SCAN what is written to.
    Track {
        area: Area,
        /// From now on.
        protect: bool,
        #[arbitrary(with = not_the_first)]
        to: Fd,
    },
    Sysctl(Sysctl),
    /// The old remap_file_pages(2), which calls the device's mmap behind the scenes.
    RemapFilePages {
        area: Area,
        #[arbitrary(with = up_to::<6>)]
        page: Word,
    },
    Touch {
        at: Ptr,
        write: bool,
        /// After MADV_DONTNEED, so that it takes a fault.
        anew: bool,
    },
    Transfer(Transfer),
    Seek {
        fd: Fd,
        offset: Offset,
        #[arbitrary(with = up_to::<6>)]
        whence: Word,
    },
    Ioctl {
        fd: Fd,
        request: Request,
        argument: Ptr,
    },
    Splice {
        from: Fd,
        from_offset: Option<Offset>,
        to: Fd,
        to_offset: Option<Offset>,
        len: Len,
        #[arbitrary(with = up_to::<16>)]
        flags: Word,
    },
    SendFile {
        from: Fd,
        to: Fd,
        offset: Option<Offset>,
        len: Len,
    },
    CopyFileRange {
        from: Fd,
        from_offset: Option<Offset>,
        to: Fd,
        to_offset: Option<Offset>,
        len: Len,
    },
    Vmsplice {
        pipe: Fd,
        memory: Memory,
        #[arbitrary(with = up_to::<16>)]
        flags: Word,
    },
    /// process_vm_readv(2) and process_vm_writev(2), on this process.
    ProcessVm {
        write: bool,
        local: Memory,
        remote: Memory,
    },
    /// /proc/self/mem, which minds no protection.
    ProcMem {
        write: bool,
        at: Ptr,
        buffer: Ptr,
        len: Len,
    },
    FdInfo(Fd),
    File {
        fd: Fd,
        operation: FileOperation,
        offset: Offset,
        len: Len,
    },
    Poll {
        fd: Fd,
        epoll: bool,
    },
    Control {
        fd: Fd,
        #[arbitrary(with = |u: &mut Unstructured| one_of(u, CONTROLS))]
        command: Word,
        argument: Ptr,
        value: u16,
    },
    RecordLock {
        fd: Fd,
        open_file: bool,
        exclusive: bool,
        offset: Offset,
        len: Offset,
    },
    Flock {
        fd: Fd,
        #[arbitrary(with = up_to::<16>)]
        operation: Word,
    },
    Futex {
        at: Ptr,
        wait: bool,
    },
    /// Both processes go on with the calls that follow.
    Fork,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Mmap {
    #[arbitrary(with = |u: &mut Unstructured| u.choose(&[0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 6, 7, 8]).copied().map(Fd))]
    pub fd: Fd,
    pub area: Area,
    /// Not at the area's address, but wherever the kernel likes.
    #[arbitrary(with = |u: &mut Unstructured| u.ratio(1, 8))]
    pub anywhere: bool,
    #[arbitrary(with = protection)]
    pub protection: Word,
    #[arbitrary(with = map_flags)]
    pub flags: Word,
    #[arbitrary(with = map_offset)]
    pub offset: Offset,
}

/// read(2), write(2) and their kin.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Transfer {
    pub fd: Fd,
    pub write: bool,
    pub memory: Memory,
    /// At the file's position, when there is none.
    pub offset: Option<Offset>,
    /// Of preadv2(2) and pwritev2(2).
    #[arbitrary(with = transfer_flags)]
    pub flags: Option<Word>,
}

/// The memory of a transfer.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Memory {
    One(Buffer),
    Vector([Buffer; 2]),
    /// Some of them overlap, more often than not.
    LongVector([Buffer; 4]),
    /// An array of `struct iovec` that is itself at a bad place.
    BadVector {
        at: Ptr,
        count: u16,
    },
}

#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Buffer {
    pub at: Ptr,
    pub len: Len,
}

/// A descriptor, by the number of its slot: the device for reading and writing, for reading, for
/// writing; the ends of a pipe; a file; whatever is opened. Slot 8 stays closed.
#[derive(Clone, Copy, Debug)]
pub struct Fd(pub u8);

impl Fd {
    pub const SLOTS: usize = 8;
}

impl<'a> Arbitrary<'a> for Fd {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        // The device, most of all for reading and writing.
        const CHOICES: &[u8] = &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 2, 3, 4, 5, 6, 7, 8];
        Ok(Self(*u.choose(CHOICES)?))
    }
}

/// An address.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Ptr {
    /// In memory of the program's own, which is readable and writable.
    Own(#[arbitrary(with = |u: &mut Unstructured| u.int_in_range(0..=0x1fff))] u16),
    /// So many bytes before its end, which memory without any access follows.
    OwnEnd(u8),
    /// Where the device is mapped, or was.
    Mapped {
        #[arbitrary(with = few)]
        page: u16,
        delta: i8,
    },
    MappedPage(#[arbitrary(with = few)] u16),
    Bad(Bad),
}

#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    Null,
    /// Memory without any access.
    Guard,
    /// The kernel's.
    Kernel,
    /// Not an address at all.
    NonCanonical,
    /// Beginning where processes may have memory and ending where they may not.
    Top,
}

/// Addresses to map and to change mappings at.
#[derive(Clone, Copy, Debug)]
pub enum Area {
    Pages {
        first: u16,
        count: u16,
    },
    /// Pages for all of the buffer, and so many more.
    Whole {
        first: u16,
        more: i8,
    },
    Odd {
        page: u16,
        delta: i8,
        len: Len,
    },
    Bad {
        at: Bad,
        len: Len,
    },
}

impl<'a> Arbitrary<'a> for Area {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(match u.int_in_range(0..=15)? {
            // So that one area has to do with the other.
            0..=8 => Self::Pages {
                first: u.int_in_range(0..=3)?,
                count: u.int_in_range(1..=3)?,
            },
            9..=11 => Self::Pages {
                first: few(u)?,
                count: few(u)?,
            },
            12 | 13 => Self::Whole {
                first: few(u)?,
                more: u.int_in_range(-2..=2)?,
            },
            14 => Self::Odd {
                page: few(u)?,
                delta: u.arbitrary()?,
                len: u.arbitrary()?,
            },
            // Not where `layout` counts on there being no memory.
            _ => Self::Bad {
                at: *u.choose(&[Bad::Kernel, Bad::NonCanonical, Bad::Top])?,
                len: u.arbitrary()?,
            },
        })
    }
}

/// A position in the buffer, in bytes.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Offset {
    Start,
    Page(#[arbitrary(with = few)] u16),
    Near {
        #[arbitrary(with = few)]
        page: u16,
        delta: i8,
    },
    /// From the end of the buffer on.
    End(i8),
    EndPage(#[arbitrary(with = |u: &mut Unstructured| u.int_in_range(-4..=2))] i8),
    Extreme(#[arbitrary(with = |u: &mut Unstructured| u.choose(EXTREMES).copied())] i64),
    Any(i64),
}

/// A number of bytes.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Len {
    Zero,
    Bytes(u8),
    Pages(#[arbitrary(with = few)] u16),
    Near {
        #[arbitrary(with = few)]
        pages: u16,
        delta: i8,
    },
    /// The size of the buffer, and so many more.
    Whole(i8),
    Huge(#[arbitrary(with = |u: &mut Unstructured| u.choose(HUGE).copied())] usize),
}

#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    Info,
    Clear,
    /// One of the two, with a bit turned.
    Near {
        clear: bool,
        #[arbitrary(with = |u: &mut Unstructured| u.int_in_range(0..=31))]
        bit: u8,
    },
    /// Of the device's type, with any number and size.
    OfType {
        number: u8,
        #[arbitrary(with = |u: &mut Unstructured| u.int_in_range(0..=0xffff))]
        size_and_direction: u16,
    },
    /// One that the kernel may answer itself.
    Other(#[arbitrary(with = |u: &mut Unstructured| one_of(u, REQUESTS))] Word),
}

#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    AtOnce,
    OnFault,
    Never,
}

#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileOperation {
    Stat,
    Truncate,
    Allocate,
    PunchHole,
    Sync,
    DataSync,
    SyncRange,
    ReadAhead,
    Advise,
}

// Of mremap(2).
const MAYMOVE: u32 = libc::MREMAP_MAYMOVE as u32;
pub const FIXED: u32 = libc::MREMAP_FIXED as u32;
const DONTUNMAP: u32 = libc::MREMAP_DONTUNMAP as u32;

const EXTREMES: &[i64] = &[
    i64::MAX,
    i64::MIN,
    -1,
    i64::MAX - 4095,
    1 << 31,
    1 << 32,
    1 << 44,
    (1 << 44) - 4096,
];

const HUGE: &[usize] = &[
    0x7fff_f000,
    1 << 31,
    1 << 32,
    1 << 47,
    isize::MAX as usize,
    usize::MAX,
    usize::MAX - 4095,
];

/// What ioctl(2) may be asked of any file, but for what would stop the
/// whole system (FIFREEZE) or have the program wait (FIONBIO).
const REQUESTS: &[u32] = &[
    0x5452,      // FIOASYNC
    0x541b,      // FIONREAD
    0x5451,      // FIOCLEX
    0x5450,      // FIONCLEX
    0x5460,      // FIOQSIZE
    0x0001,      // FIBMAP
    0x0002,      // FIGETBSZ
    0x4004_9409, // FICLONE
    0xc020_660b, // FS_IOC_FIEMAP
    0x8008_6601, // FS_IOC_GETFLAGS
    0x5401,      // TCGETS
    0,
    u32::MAX,
];

const CONTROLS: &[u32] = &[
    libc::F_DUPFD_CLOEXEC as u32,
    libc::F_GETFD as u32,
    libc::F_SETFD as u32,
    libc::F_GETFL as u32,
    libc::F_SETFL as u32,
    libc::F_GETLK as u32,
    libc::F_SETLK as u32,
    libc::F_GETOWN as u32,
    libc::F_SETLEASE as u32,
    libc::F_GETLEASE as u32,
    libc::F_NOTIFY as u32,
    libc::F_SETPIPE_SZ as u32,
    libc::F_ADD_SEALS as u32,
    libc::F_GET_SEALS as u32,
    999,
];

fn one_of(u: &mut Unstructured, choices: &[Word]) -> Result<Word> {
    u.choose(choices).copied()
}

fn up_to<const MOST: Word>(u: &mut Unstructured) -> Result<Word> {
    u.int_in_range(0..=MOST)
}

/// A number of pages: 0 to 8, now and then more, or about as many as some page tables map.
fn few(u: &mut Unstructured) -> Result<u16> {
    match u.int_in_range(0..=31)? {
        0 => Ok(u.arbitrary::<u8>()?.into()),
        1..=4 => {
            let tables = u.int_in_range(1..=3)? * (table() / page()) as u16;
            Ok(tables.saturating_add_signed(u.int_in_range(-2..=2)?))
        }
        _ => u.int_in_range(0..=8),
    }
}

fn protection(u: &mut Unstructured) -> Result<Word> {
    // PROT_GROWSDOWN, and a bit that means nothing.
    one_of(
        u,
        &[
            3,
            3,
            3,
            3,
            3,
            1,
            1,
            2,
            0,
            4,
            5,
            7,
            (1 << 24) | 3,
            (1 << 10) | 3,
        ],
    )
}

fn remap_flags(u: &mut Unstructured) -> Result<Word> {
    // The last one is no flag there is.
    let flags = [
        0,
        MAYMOVE,
        MAYMOVE | FIXED,
        MAYMOVE | FIXED,
        MAYMOVE | DONTUNMAP,
        MAYMOVE | FIXED | DONTUNMAP,
        8,
    ];
    one_of(u, &flags)
}

fn map_flags(u: &mut Unstructured) -> Result<Word> {
    // It is x86's; elsewhere, a flag that nobody knows.
    const MAP_32BIT: i32 = 0x40;
    // MAP_SHARED, MAP_PRIVATE, MAP_SHARED_VALIDATE, none, MAP_DROPPABLE.
    let sharing = one_of(u, &[1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 0, 8])?;
    if u.ratio(3, 4)? {
        return Ok(sharing);
    }
    let more = [
        libc::MAP_POPULATE,
        libc::MAP_NONBLOCK,
        libc::MAP_NORESERVE,
        libc::MAP_LOCKED,
        libc::MAP_GROWSDOWN,
        libc::MAP_STACK,
        libc::MAP_HUGETLB,
        libc::MAP_SYNC,
        MAP_32BIT,
        libc::MAP_DENYWRITE,
        libc::MAP_FIXED_NOREPLACE,
        1 << 30,
    ];
    let more = u.choose(&more)?;
    Ok(sharing | *more as Word)
}

fn map_offset(u: &mut Unstructured) -> Result<Offset> {
    Ok(match u.int_in_range(0..=7)? {
        0..=2 => Offset::Start,
        3 | 4 => Offset::EndPage(u.int_in_range(-4..=1)?),
        5 | 6 => Offset::Page(few(u)?),
        _ => u.arbitrary()?,
    })
}

/// The calls that follow are to find the device open.
fn not_the_first(u: &mut Unstructured) -> Result<Fd> {
    Ok(Fd(u.int_in_range(1..=Fd::SLOTS as u8)?))
}

fn open_flags(u: &mut Unstructured) -> Result<Word> {
    let access = one_of(u, &[0, 1, 2, 2, 2, 3])?;
    if u.ratio(1, 2)? {
        return Ok(access);
    }
    let more = [
        libc::O_APPEND,
        libc::O_NONBLOCK,
        libc::O_SYNC,
        libc::O_DIRECT,
        libc::O_TRUNC,
        libc::O_CREAT,
        libc::O_CREAT | libc::O_EXCL,
        libc::O_PATH,
        libc::O_DIRECTORY,
        libc::O_NOFOLLOW,
        libc::O_NOATIME,
        libc::O_ASYNC,
        libc::O_TMPFILE,
    ];
    let more = u.choose(&more)?;
    Ok(access | *more as Word)
}

/// Any advice but MADV_HWPOISON, which takes bytes away.
fn advice(u: &mut Unstructured) -> Result<Word> {
    if u.ratio(1, 2)? {
        let usual = [
            Advice::DontNeed,
            Advice::DontNeed,
            Advice::PopulateRead,
            Advice::PopulateWrite,
        ];
        return one_of(u, &usual.map(|advice| advice.number() as Word));
    }
    Ok(match u.int_in_range(0..=63)? {
        // A page that this has emptied is lost to the VM.
        0 => SOFT_OFFLINE as Word,
        1..=8 => COLLAPSE as Word,
        9..=16 => Advice::GuardInstall.number() as Word,
        17..=24 => Advice::GuardRemove.number() as Word,
        _ => u.int_in_range(0..=26)?,
    })
}

/// Not for whole areas what is for one page.
fn process_advice(u: &mut Unstructured) -> Result<Word> {
    Ok(match advice(u)? {
        advice if advice == SOFT_OFFLINE as Word => 0,
        advice => advice,
    })
}

/// Of the ten categories that there are, none, one or some.
fn categories(u: &mut Unstructured) -> Result<u16> {
    Ok(match u.int_in_range(0..=3)? {
        0 | 1 => 0,
        2 => 1 << u.int_in_range(0..=10)?,
        _ => u.int_in_range(0..=0x3ff)?,
    })
}

fn transfer_flags(u: &mut Unstructured) -> Result<Option<Word>> {
    if u.ratio(3, 4)? {
        return Ok(None);
    }
    // Each of the flags there are, none, and some that there are not.
    let flag = u.int_in_range(0..=9)?;
    Ok(Some([0, 1 << flag][usize::from(u.ratio(1, 2)?)]))
}
