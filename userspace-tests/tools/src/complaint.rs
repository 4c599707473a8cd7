// SPDX-License-Identifier: GPL-2.0
//! What a line of the kernel's log says of the kernel's health: the one definition of it.

use std::sync::LazyLock;

use regex_lite::Regex;

/// A kind of line.
struct Line {
    /// What it looks like, behind the time stamp.
    pattern: &'static str,
    /// What it means that it is there.
    reason: &'static str,
    /// One that the kernel prints.
    #[cfg_attr(not(test), expect(dead_code))]
    example: &'static str,
}

/// Lines that must not be in the log.
///
/// What always comes with one of these (list corruption, a reference count below zero, a Rust
/// panic) has no line of its own, nor what ends the VM, which is noticed in any case (a panic).
const COMPLAINTS: &[Line] = &[
    Line {
        pattern: r"^(\w+: )?BUG: ",
        reason: "a state that must not be: a bad page, sleep where that is forbidden, a CPU that is stuck, what KASAN and KFENCE find",
        example: "BUG: KASAN: slab-use-after-free in memfd_fcntl+0x92/0x340",
    },
    Line {
        pattern: r"^(\w+: )?BUG \S+ \(",
        reason: "the slab allocator found an object that was written to while nobody had it",
        example: "BUG kmalloc-64 (Tainted: G           OE      ): Poison overwritten",
    },
    Line {
        pattern: r"^(\w+: )?kernel BUG at ",
        reason: "BUG(): the kernel, or Rust code of it that panicked, cannot go on",
        example: "kernel BUG at rust/helpers/bug.c:7!",
    },
    Line {
        pattern: r"^(\w+: )?WARNING: ",
        reason: "WARN(), or locks taken in an order that can deadlock",
        example: "WARNING: possible circular locking dependency detected",
    },
    Line {
        pattern: r"-\[ cut here \]-",
        reason: "the head of a WARN() or BUG(), whatever follows",
        example: "------------[ cut here ]------------",
    },
    Line {
        pattern: r"^(\w+: )?Oops[:\[ ]",
        reason: "an access to memory or an instruction that the CPU refused",
        example: "Oops: general protection fault, probably for non-canonical address 0xdead000000000108: 0000 [#1] SMP NOPTI",
    },
    Line {
        pattern: r"^Internal error: ",
        reason: "the same on arm64",
        example: "Internal error: Oops: 0000000096000004 [#1]  SMP",
    },
    Line {
        pattern: r"^(\w+: )?UBSAN: ",
        reason: "undefined behaviour: an index or a shift out of bounds",
        example: "UBSAN: array-index-out-of-bounds in mm/filemap.c:3711:9",
    },
    Line {
        pattern: r"^INFO: task .* blocked",
        reason: "a task waits, uninterruptibly, for what does not come",
        example: "INFO: task device:211 blocked for more than 120 seconds.",
    },
    Line {
        pattern: r"^(\w+: )?INFO: .*\bstalls?\b",
        reason: "a CPU does not come to rest for RCU",
        example: "rcu: INFO: rcu_preempt self-detected stall on CPU",
    },
    Line {
        pattern: r"^(\w+: )?INFO: trying to register non-static key",
        reason: "a lock that nobody has initialised",
        example: "INFO: trying to register non-static key.",
    },
    Line {
        pattern: r"Watchdog detected hard LOCKUP",
        reason: "a CPU does not even take interrupts",
        example: "watchdog: CPU1: Watchdog detected hard LOCKUP on cpu 1",
    },
    Line {
        pattern: r": page allocation failure: order:",
        reason: "memory ran out for somebody who had no use for an error: who can do without says so (__GFP_NOWARN)",
        example: "insmod: page allocation failure: order:0, mode:0x140cca(GFP_HIGHUSER_MOVABLE|__GFP_COMP), nodemask=(null),cpuset=/,mems_allowed=0",
    },
    Line {
        // Where only its `vm_struct` could not be had, a test has made that fail.
        pattern: r": vmalloc error: size \d+, failed to allocate pages",
        reason: "the same of a large allocation",
        example: "insmod: vmalloc error: size 1073741824, failed to allocate pages, mode:0xcc0(GFP_KERNEL), nodemask=(null)",
    },
    Line {
        pattern: r"^kmemleak: .* new suspected",
        reason: "memory that nothing refers to",
        example: "kmemleak: 1 new suspected memory leaks (see /sys/kernel/debug/kmemleak)",
    },
    Line {
        pattern: r"^sysfs: cannot create duplicate filename ",
        reason: "what an unload should have taken away is registered again",
        example: "sysfs: cannot create duplicate filename '/devices/virtual/misc/rust_mmapdev'",
    },
    Line {
        pattern: r"^ *not ok [0-9]",
        reason: "a KUnit test failed",
        example: "    not ok 3 a_window_is_what_vma_and_page_table_have_in_common",
    },
];

/// What a line of the module, or of the kernel about it, begins with.
const MODULE: &str = "rust_mmapdev: ";

/// What may follow: the module says nothing else.
const KNOWN: &[Line] = &[
    Line {
        pattern: r"^buffer of [0-9]+ bytes, page count [0-9]+, [0-9]+ bytes in [0-9]+ MiB folios$",
        reason: "a load",
        example: "buffer of 4096 bytes, page count 1, 0 bytes in 2 MiB folios",
    },
    Line {
        pattern: r"^buffer_pages=-?[0-9]+ is out of range: 1 to 262144$",
        reason: "a load with a buffer that cannot be",
        example: "buffer_pages=-1 is out of range: 1 to 262144",
    },
    Line {
        pattern: r"^can't allocate [0-9]+ pages: (ENOMEM|EINTR)$",
        reason: "a load without memory enough, or one that was killed",
        example: "can't allocate 262144 pages: ENOMEM",
    },
    Line {
        pattern: r"^no huge folio to be had, so none was tested$",
        reason: "a KUnit test that had no memory for what it tests",
        example: "no huge folio to be had, so none was tested",
    },
    Line {
        pattern: r"^`.*' invalid for parameter `buffer_pages'$",
        reason: "the kernel of a parameter that is no number",
        example: "`many' invalid for parameter `buffer_pages'",
    },
    Line {
        pattern: r"^(loading out-of-tree module taints kernel\.|module verification failed: signature and/or required key missing - tainting kernel)$",
        reason: "the kernel, once, of a module that is not its own",
        example: "loading out-of-tree module taints kernel.",
    },
];

/// The time since boot, and with CONFIG_PRINTK_CALLER the task or CPU.
static STAMP: LazyLock<Regex> =
    LazyLock::new(|| regex(r"^\[ *[0-9]+\.[0-9]+\](\[ *[CT][0-9]+\])? "));

type Table = Vec<(Regex, &'static str)>;
static COMPLAINT: LazyLock<Table> = LazyLock::new(|| compiled(COMPLAINTS));
static OF_THE_MODULE: LazyLock<Table> = LazyLock::new(|| compiled(KNOWN));

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).unwrap_or_else(|err| panic!("{pattern}: {err}"))
}

fn compiled(lines: &[Line]) -> Table {
    lines
        .iter()
        .map(|line| (regex(line.pattern), line.reason))
        .collect()
}

fn look_up(table: &Table, message: &str) -> Option<&'static str> {
    let (_, reason) = table.iter().find(|(regex, _)| regex.is_match(message))?;
    Some(reason)
}

/// What is wrong, if a line of the kernel's log says that something is; with or without its time
/// stamp.
pub fn in_line(line: &str) -> Option<&'static str> {
    let message = match STAMP.find(line) {
        Some(stamp) => &line[stamp.end()..],
        None => line,
    };
    look_up(&COMPLAINT, message).or_else(|| {
        let message = message.strip_prefix(MODULE)?;
        match look_up(&OF_THE_MODULE, message) {
            Some(_) => None,
            None => Some("the module says what it never should"),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_complaint_is_noticed_by_its_own_line_of_the_table() {
        for (i, line) in COMPLAINTS.iter().enumerate() {
            let matches: Vec<_> = (0..COMPLAINTS.len())
                .filter(|&i| COMPLAINT[i].0.is_match(line.example))
                .collect();
            assert_eq!(matches, [i], "{}", line.example);
            for stamp in [
                "",
                "[    1.234567] ",
                "[12345.678901][ T4321] ",
                "[    0.000001][    C1] ",
            ] {
                let text = format!("{stamp}{}", line.example);
                assert_eq!(in_line(&text), Some(line.reason), "{text}");
            }
        }
    }

    #[test]
    fn the_module_s_own_lines_are_known_and_no_others() {
        for (i, line) in KNOWN.iter().enumerate() {
            let matches: Vec<_> = (0..KNOWN.len())
                .filter(|&i| OF_THE_MODULE[i].0.is_match(line.example))
                .collect();
            assert_eq!(matches, [i], "{}", line.example);
            assert_eq!(
                in_line(&format!("[    2.0] {MODULE}{}", line.example)),
                None
            );
        }
        for unknown in [
            "opened",
            "",
            "buffer of 4096 bytes",
            "buffer of 4096 bytes, page count 1, 0 bytes in 2 MiB folios at 0xffff888003a41000",
            "can't allocate 1 pages: EIO",
            "unknown parameter 'pages' ignored",
        ] {
            let line = format!("[    2.0] {MODULE}{unknown}");
            assert!(in_line(&line).is_some(), "{line}");
        }
    }

    /// Lines of runs in which all went well.
    #[test]
    fn the_ordinary_is_no_complaint() {
        for line in [
            "",
            "[    0.000000] Linux version 7.3.4+deb13-amd64 (debian-kernel@lists.debian.org)",
            "[    0.310519] Spectre V2 : WARNING is not what this line begins with",
            "[    0.522233] rcu: Hierarchical SRCU implementation.",
            "[    0.610000] workqueue: drain_vmap_area_work hogged CPU for >10000us 4 times, consider switching to WQ_UNBOUND",
            "[    1.000000] clocksource: Long readout interval, skipping watchdog check: cs_nsec: 1 wd_nsec: 2",
            "[    1.100000] watchdog: Delayed init of the lockup detector failed: -19",
            "[    2.200000] vm: starting /device",
            "[    3.300000] Memory failure: 0x1234: recovery action for dirty unevictable LRU page: Recovered",
            "[    3.400000] device invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0",
            "[    3.500000] Memory cgroup out of memory: Killed process 99 (device)",
            "[    3.600000] traps: device[99] general protection fault ip:401136 sp:7ffd error:0 in device",
            "[    4.400000]     ok 1 each_reference_counts",
            "[    4.500000][    T1]     # Subtest: rust_mmapdev_folio",
            "[    5.500000] insmod: page allocation works",
        ] {
            assert_eq!(in_line(line), None, "{line}");
        }
    }
}
