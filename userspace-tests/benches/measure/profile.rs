// SPDX-License-Identifier: GPL-2.0
//! The main rows once more, between marks that the emulator's plugin, `qemu/profile.c`, sees: it
//! counts what is executed at each address, and this says which functions are there.

#[cfg(target_arch = "x86_64")]
use std::arch::asm;
use std::fs;

use benches::{Line, Phase};
use rustix::io;

use crate::{
    memory::page,
    peer::{Memory, Peer, huge_pages},
    rows::settle,
    tell,
    work::{Bench, By, Sharing, Touch, Work},
};

/// How often each work is done, in so many runs: the emulator counts what the kernel does meanwhile
/// for others, too, so the least counts.
const TIMES: usize = 20;
const RUNS: usize = 5;
const WARM_UP: usize = 5;

/// Executes an instruction that does nothing, of a form that no compiler emits. The plugin starts to
/// count at 1 and stops at 2.
#[inline(always)]
fn mark<const N: u32>() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a no-op.
    unsafe {
        asm!("nopl 0x4d415000+{}(%rax)", const N, options(att_syntax, nostack))
    };
}

pub fn run() -> io::Result<()> {
    use Peer::{Bpf, Device, Hugetlb, Memfd, TmpfsHuge, Twin, Udmabuf};
    let map = |sharing| Work::Map(sharing, Touch::Write);
    let read = |pages| Work::Transfer(By::Read, pages * page());
    let rows: &[(Work, usize, &[Peer])] = &[
        (
            map(Sharing::Shared),
            1,
            &[Device, Twin, Memfd, Udmabuf, Bpf],
        ),
        (map(Sharing::Shared), 64, &[Device, Twin, Udmabuf]),
        (
            map(Sharing::Shared),
            512,
            &[Device, Twin, TmpfsHuge, Hugetlb],
        ),
        (map(Sharing::Private), 64, &[Device, Twin, Memfd]),
        (read(1), 1, &[Device, Twin, Memfd]),
        (Work::Fork, 512, &[Device, Twin, Memfd]),
    ];
    huge_pages(512);
    tell(&Line::Kernel(functions(|module| module.is_none())));
    let mut phase = 0;
    for (work, pages, peers) in rows {
        for peer in *peers {
            eprintln!(
                "measure: profile of {}, {pages} pages, {}",
                work.name(*pages),
                peer.name()
            );
            let memory = Memory::open(*peer, *pages)?;
            settle();
            let mut bench = Bench::new(*work, &memory, *pages)?;
            for _ in 0..WARM_UP {
                bench.once(|| 0.0)?;
            }
            let modules = match peer.module() {
                Some(_) => functions(|module| module.is_some()),
                None => vec![],
            };
            for _ in 0..RUNS {
                mark::<1>();
                for _ in 0..TIMES {
                    bench.once(|| 0.0)?;
                }
                mark::<2>();
                phase += 1;
                tell(&Line::Phase(Phase {
                    phase,
                    row: work.name(*pages),
                    peer: peer.name().into(),
                    pages: *pages,
                    times: TIMES,
                    modules: modules.clone(),
                }));
            }
        }
    }
    Ok(())
}

/// The functions of /proc/kallsyms in modules that are wanted.
fn functions(wanted: impl Fn(Option<&str>) -> bool) -> Vec<(u64, String)> {
    let symbols = fs::read_to_string("/proc/kallsyms").expect("kallsyms");
    let function = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (address, kind, name) = (words.next()?, words.next()?, words.next()?);
        (matches!(kind, "t" | "T" | "w" | "W") && wanted(words.next()))
            .then(|| Some((u64::from_str_radix(address, 16).ok()?, name.to_owned())))?
    };
    symbols.lines().filter_map(function).collect()
}
