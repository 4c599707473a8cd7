// SPDX-License-Identifier: GPL-2.0
//! The mutants, by the file that they change.

use super::Mutant;

const BUFFER: &str = "src/buffer.rs";
const CRATE: &str = "rust_mmapdev.rs";
const DEVICE: &str = "src/device.rs";
const HEADER: &str = "src/uapi/rust_mmapdev.h";
const MAPPING: &str = "src/mapping.rs";
const MISCDEVICE: &str = "src/abstractions/miscdevice.rs";
const RANGE: &str = "src/range.rs";
const SHMEM: &str = "src/abstractions/shmem.rs";
const TASK: &str = "src/abstractions/task.rs";
const VM_OPERATIONS: &str = "src/abstractions/vm_operations.rs";

const fn mutant(
    name: &'static str,
    breaks: &'static str,
    file: &'static str,
    [from, to]: [&'static str; 2],
    tests: &'static str,
) -> Mutant {
    Mutant {
        name,
        breaks,
        file,
        from,
        to,
        tests,
        kernel: "",
    }
}

pub const MUTANTS: &[Mutant] = &[
    // rust_mmapdev.rs
    mutant(
        "parameter_clamped",
        "buffer_pages out of range is EINVAL",
        CRATE,
        [
            "range::page_count(asked)",
            "range::page_count(asked.clamp(1, 262144))",
        ],
        "lifecycle::pages_out",
    ),
    mutant(
        "parameter_ignored",
        "the buffer has buffer_pages pages",
        CRATE,
        [
            "Buffer::new(page_count()?)?",
            "{ page_count()?; Buffer::new(1)? }",
        ],
        "lifecycle::pages_as",
    ),
    mutant(
        "parameter_refused_in_silence",
        "a load that is refused says why",
        CRATE,
        ["        pr_err!(", "        pr_debug!("],
        "lifecycle::pages_out",
    ),
    mutant(
        "two_pages_by_default",
        "the buffer has one page unless asked otherwise",
        CRATE,
        ["default: 1,", "default: 2,"],
        "lifecycle::one_page",
    ),
    mutant(
        "load_in_silence",
        "a load logs one line",
        CRATE,
        [
            "pr_info!(\n                    \"buffer",
            "pr_debug!(\n                    \"buffer",
        ],
        "lifecycle::load_logs",
    ),
    mutant(
        "unload_in_silence",
        "an unload logs one line",
        CRATE,
        ["pr_info!(\"unloaded\\n\");", ""],
        "lifecycle::unload_logs",
    ),
    // The interface's header
    mutant(
        "another_ioctl_number",
        "the numbers of the requests are part of the interface",
        HEADER,
        ["_IOR(0xbb, 0x00,", "_IOR(0xbb, 0x02,"],
        "ioctl::the_interface",
    ),
    mutant(
        "another_version",
        "the version is part of the interface",
        HEADER,
        ["RUST_MMAPDEV_ABI_VERSION 1", "RUST_MMAPDEV_ABI_VERSION 2"],
        "ioctl::the_interface",
    ),
    // src/buffer.rs
    mutant(
        "no_initial_content",
        "a new buffer holds a text",
        BUFFER,
        [
            "        pages.store(0, INITIAL_CONTENT)?;\n",
            "        let _ = (INITIAL_CONTENT, ShmemPages::store);\n",
        ],
        "content::a_new_buffer",
    ),
    mutant(
        "initial_content_does_not_end",
        "the text ends with a NUL",
        BUFFER,
        ["kernel memory\\0", "kernel memory!"],
        "content::a_new_buffer",
    ),
    mutant(
        "mapping_not_counted",
        "live_mappings counts mappings up",
        BUFFER,
        ["live_mappings.fetch_add(1,", "live_mappings.fetch_add(0,"],
        "fdinfo::",
    ),
    mutant(
        "unmapping_not_counted",
        "live_mappings counts mappings down",
        BUFFER,
        ["live_mappings.fetch_sub(1,", "live_mappings.fetch_sub(0,"],
        "fdinfo::",
    ),
    mutant(
        "read_past_the_end_fails",
        "read(2) at the end and past it returns 0",
        BUFFER,
        ["None => Ok(0),", "None => Err(ENOSPC),"],
        "rw::read_at",
    ),
    mutant(
        "write_past_the_end_is_zero",
        "write(2) at the end and past it is ENOSPC",
        BUFFER,
        [".ok_or(ENOSPC)?", ".unwrap_or(0..0)"],
        "rw::write_at",
    ),
    mutant(
        "write_of_nothing_is_enospc",
        "write(2) of nothing returns 0 everywhere",
        BUFFER,
        [
            "        if from.is_empty() {\n            return Ok(0);\n        }\n",
            "",
        ],
        "rw::write_of_nothing",
    ),
    mutant(
        "write_is_lost",
        "write(2) stores what it was given",
        BUFFER,
        [
            "transfer(bytes, |chunk| self.pages.copy_from_iter(chunk, from))",
            "transfer(bytes, |chunk| { let _ = (&from, ShmemPages::copy_from_iter); chunk.length })",
        ],
        "rw::write_",
    ),
    mutant(
        "writers_mix",
        "two calls of write(2) do not mix their bytes",
        BUFFER,
        [
            "ok_or(ENOSPC)?;\n        let _writers = self.writers.lock();",
            "ok_or(ENOSPC)?;",
        ],
        "rw::writes_do_not_mix",
    ),
    mutant(
        "clear_of_one_page",
        "CLEAR zeroes every page",
        BUFFER,
        ["for index in 0..self.page_count() {", "for index in 0..1 {"],
        "pages::clear",
    ),
    mutant(
        "clear_goes_on_when_killed",
        "a killed CLEAR ends soon",
        BUFFER,
        [
            "            if fatal_signal_pending() {\n                return Err(EINTR);\n            }\n            self.pages.clear",
            "            self.pages.clear",
        ],
        "capacity::a_killed_clear",
    ),
    mutant(
        "transfer_goes_on_when_killed",
        "a killed read(2) or write(2) ends soon",
        BUFFER,
        [
            "if fatal_signal_pending() {\n            return if",
            "if false {\n            return if",
        ],
        "capacity::a_killed_",
    ),
    mutant(
        "transfer_of_one_page",
        "read(2) and write(2) go on in the next page",
        BUFFER,
        [
            "range::chunks(bytes, PAGE_SIZE) {",
            "range::chunks(bytes, PAGE_SIZE).take(1) {",
        ],
        "pages::transfers",
    ),
    mutant(
        "bad_address_is_zero",
        "a transfer that can't begin is EFAULT",
        BUFFER,
        [
            "    if done == 0 && wanted > 0 {\n        return Err(EFAULT);\n    }\n",
            "    let _ = wanted;\n",
        ],
        "rw::read_to_a_bad",
    ),
    mutant(
        "short_copy_counts_as_whole",
        "a transfer up to a bad address returns what was copied",
        BUFFER,
        ["done += copied;", "done += chunk.length;"],
        "ends_early",
    ),
    // src/device.rs
    mutant(
        "read_keeps_the_position",
        "read(2) moves the file position on",
        DEVICE,
        [
            "read(kiocb.ki_pos(), to)?;\n        *kiocb.ki_pos_mut() += done as i64;",
            "read(kiocb.ki_pos(), to)?;\n        let _ = kiocb.ki_pos_mut();",
        ],
        "rw::read_moves",
    ),
    mutant(
        "write_keeps_the_position",
        "write(2) moves the file position on",
        DEVICE,
        [
            "write(kiocb.ki_pos(), from)?;\n        *kiocb.ki_pos_mut() += done as i64;",
            "write(kiocb.ki_pos(), from)?;\n        let _ = kiocb.ki_pos_mut();",
        ],
        "rw::write_moves",
    ),
    mutant(
        "clear_in_any_mode",
        "CLEAR needs a descriptor open for writing",
        DEVICE,
        [
            "if !matches!(file.flags()",
            "if false && !matches!(file.flags()",
        ],
        "ioctl::clear_without",
    ),
    mutant(
        "clear_through_mode_three",
        "access mode 3 permits nothing but ioctl(2)",
        DEVICE,
        [
            "!matches!(file.flags() & O_ACCMODE, O_WRONLY | O_RDWR)",
            "{ let _ = (O_WRONLY, O_RDWR); file.flags() & O_ACCMODE == 0 }",
        ],
        "ioctl::clear_without",
    ),
    mutant(
        "clear_does_nothing",
        "CLEAR zeroes the buffer",
        DEVICE,
        ["buffer.clear()?;", "let _ = Buffer::clear;"],
        "ioctl::clear_zeroes",
    ),
    mutant(
        "unknown_request_is_einval",
        "an unknown ioctl(2) is ENOTTY",
        DEVICE,
        ["Err(ENOTTY)", "Err(EINVAL)"],
        "ioctl::anything",
    ),
    mutant(
        "size_in_pages",
        "INFO's size is in bytes",
        DEVICE,
        [
            "size: buffer.size() as u64",
            "size: buffer.page_count() as u64",
        ],
        "ioctl::info",
    ),
    mutant(
        "page_size_of_512",
        "INFO has the page size",
        DEVICE,
        [
            "page_size: PAGE_SIZE as u32",
            "page_size: PAGE_SIZE as u32 / 8",
        ],
        "ioctl::info",
    ),
    mutant(
        "fdinfo_without_mappings",
        "fdinfo says how many mappings live",
        DEVICE,
        [
            "        seq_print!(m, \"live_mappings:\\t{}\\n\", buffer.live_mappings());\n",
            "        let _ = Buffer::live_mappings;\n",
        ],
        "fdinfo::",
    ),
    mutant(
        "open_refuses_write_only",
        "the device opens in every access mode",
        DEVICE,
        [
            "_file: &File) -> Result<Arc<Buffer>> {\n",
            "_file: &File) -> Result<Arc<Buffer>> {\n        if _file.flags() & O_ACCMODE == O_WRONLY {\n            return Err(EACCES);\n        }\n",
        ],
        "open::every_access_mode",
    ),
    mutant(
        "open_refuses_the_hundredth",
        "any number of descriptors may be open",
        DEVICE,
        [
            "_file: &File) -> Result<Arc<Buffer>> {\n",
            "_file: &File) -> Result<Arc<Buffer>> {\n        use core::sync::atomic::{AtomicUsize, Ordering};\n        static OPENS: AtomicUsize = AtomicUsize::new(0);\n        if OPENS.fetch_add(1, Ordering::Relaxed) >= 100 {\n            return Err(EMFILE);\n        }\n",
        ],
        "open::many",
    ),
    mutant(
        "chatty_open",
        "use of the device logs nothing",
        DEVICE,
        [
            "        Ok(buffer.clone())",
            "        pr_info!(\"opened\\n\");\n        Ok(buffer.clone())",
        ],
        "lifecycle::nothing_is_logged",
    ),
    // src/mapping.rs
    mutant(
        "past_the_end_is_einval",
        "mmap(2) past the end is ENXIO",
        MAPPING,
        [".ok_or(ENXIO)", ".ok_or(EINVAL)"],
        "mmap::past",
    ),
    mutant(
        "window_starts_at_page_0",
        "mmap(2)'s offset selects the page",
        MAPPING,
        [
            "range::pages(vma.pgoff(), count",
            "range::pages(0 * vma.pgoff(), count",
        ],
        "pages::every_window",
    ),
    mutant(
        "no_insertion_at_mmap",
        "every page is there after mmap(2)",
        MAPPING,
        [
            "    buffer.pages().insert(vma.set_mixedmap(), pages)?;",
            "    let _ = (pages, vma.set_mixedmap(), crate::abstractions::shmem::ShmemPages::insert);",
        ],
        "pages::every_page_is_there",
    ),
    mutant(
        "execution_allowed",
        "an executable mapping is EPERM",
        MAPPING,
        ["    vma.try_clear_mayexec().map_err(|_| EPERM)?;\n", ""],
        "mmap::exec",
    ),
    mutant(
        "execution_allowed_later",
        "mprotect(2) makes no mapping executable",
        MAPPING,
        [
            "vma.try_clear_mayexec().map_err(|_| EPERM)?;",
            "if vma.flags() & kernel::mm::virt::flags::EXEC != 0 { return Err(EPERM); }",
        ],
        "protect::exec",
    ),
    mutant(
        "execution_is_eacces",
        "an executable mapping is EPERM, as the file system were mounted noexec",
        MAPPING,
        ["|_| EPERM", "|_| EACCES"],
        "mmap::exec",
    ),
    mutant(
        "mappings_grow",
        "mremap(2) grows no mapping",
        MAPPING,
        ["    vma.set_dontexpand();\n", ""],
        "mmap::mremap_grows",
    ),
    mutant(
        "private_is_refused",
        "a mapping may be private",
        MAPPING,
        [
            "    vma.set_dontexpand();\n",
            "    if vma.flags() & kernel::mm::virt::flags::SHARED == 0 {\n        return Err(EINVAL);\n    }\n    vma.set_dontexpand();\n",
        ],
        "cow::",
    ),
    mutant(
        "mappings_are_io",
        "a mapping is memory: VM_IO keeps get_user_pages() and core dumps away",
        MAPPING,
        [
            "    vma.set_dontexpand();\n",
            "    vma.set_dontexpand();\n    vma.set_io();\n",
        ],
        "io::",
    ),
    mutant(
        "mappings_stay_behind_at_fork",
        "fork(2) copies a mapping",
        MAPPING,
        [
            "    vma.set_dontexpand();\n",
            "    vma.set_dontexpand();\n    vma.set_dontcopy();\n",
        ],
        "fork",
    ),
    mutant(
        "mappings_are_not_dumped",
        "a core dump has the mapping's pages",
        MAPPING,
        [
            "    vma.set_dontexpand();\n",
            "    vma.set_dontexpand();\n    vma.set_dontdump();\n",
        ],
        "core_dump",
    ),
    mutant(
        "chatty_fault",
        "use of the device logs nothing",
        MAPPING,
        [
            "        let page = self.pages()",
            "        pr_info!(\"fault\\n\");\n        let page = self.pages()",
        ],
        "lifecycle::nothing_is_logged",
    ),
    mutant(
        "fault_serves_page_0",
        "a fault serves the page at its place",
        MAPPING,
        ["page(fault.pgoff())", "page(0 * fault.pgoff())"],
        "pages::every_page_faults",
    ),
    mutant(
        "fault_serves_the_next_page",
        "a fault serves the page at its place",
        MAPPING,
        [
            "page(fault.pgoff())",
            "page((fault.pgoff() + 1) % self.page_count())",
        ],
        "pages::every_page_faults",
    ),
    mutant(
        "fault_counts_from_the_vma",
        "a fault in a window serves the buffer's page, not the window's",
        MAPPING,
        [
            "page(fault.pgoff())",
            "page({ let _ = fault.pgoff(); (fault.address() - fault.vma().start()) / PAGE_SIZE })",
        ],
        "pages::every_page_faults",
    ),
    // src/range.rs
    mutant(
        "parameter_without_a_maximum",
        "buffer_pages is at most 262144",
        RANGE,
        ["(1..=MAX_PAGES).contains(count)", "*count >= 1"],
        "lifecycle::pages_out",
    ),
    mutant(
        "the_last_page_is_past_the_end",
        "a mapping may end at the end",
        RANGE,
        ["end <= total", "end < total"],
        "pages::every_window",
    ),
    mutant(
        "windows_cut_at_the_end",
        "mmap(2) past the end is ENXIO",
        RANGE,
        [
            "(count > 0 && end <= total).then_some(first..end)",
            "(count > 0).then_some(first.min(total)..end.min(total))",
        ],
        "pages::every_window",
    ),
    mutant(
        "windows_wrap",
        "the arithmetic of pages does not overflow",
        RANGE,
        ["first.checked_add(count)?", "first.wrapping_add(count)"],
        "pages",
    ),
    mutant(
        "transfers_not_cut_at_the_end",
        "the arithmetic of bytes cuts at the end",
        RANGE,
        [
            "start.saturating_add(length).min(size)",
            "start.saturating_add(length)",
        ],
        "bytes",
    ),
    mutant(
        "chunks_cross_pages",
        "a chunk lies within a page",
        RANGE,
        ["length: (page_size - offset).min", "length: page_size.min"],
        "chunks",
    ),
    mutant(
        "chunks_of_page_0",
        "a chunk is of the page it lies in",
        RANGE,
        ["page: start / page_size,", "page: 0 * start / page_size,"],
        "pages::transfers",
    ),
    // src/abstractions/miscdevice.rs
    mutant(
        "anybody_may_open",
        "the device is root's alone until the administrator says otherwise",
        MISCDEVICE,
        [
            "misc.fops = &Self::VTABLE;",
            "misc.fops = &Self::VTABLE;\n                misc.mode = 0o666;",
        ],
        "open::",
    ),
    Mutant {
        // Linux 7.3 sets it itself.
        kernel: "7.2",
        ..mutant(
            "no_owner",
            "the module can't be unloaded under a descriptor",
            MISCDEVICE,
            [
                "owner: this_module(),",
                "owner: { let _ = this_module(); core::ptr::null_mut() },",
            ],
            "refs::",
        )
    },
    mutant(
        "no_fsync",
        "fsync(2) and msync(2) succeed",
        MISCDEVICE,
        ["        fsync: Some(bindings::noop_fsync),\n", ""],
        "sync::",
    ),
    mutant(
        "no_llseek",
        "lseek(2) moves within the buffer",
        MISCDEVICE,
        ["        llseek: Some(Self::llseek),\n", ""],
        "seek::",
    ),
    mutant(
        "seeks_past_the_end",
        "lseek(2) past the end is EINVAL",
        MISCDEVICE,
        [
            "fixed_size_llseek(file, offset, whence, size)",
            "fixed_size_llseek(file, offset, whence, size + 1)",
        ],
        "seek::",
    ),
    mutant(
        "no_splice_from",
        "splice(2) and sendfile(2) read the device",
        MISCDEVICE,
        [
            "        splice_read: Some(bindings::copy_splice_read),\n",
            "",
        ],
        "io::s",
    ),
    mutant(
        "no_splice_to",
        "splice(2) and sendfile(2) write the device",
        MISCDEVICE,
        [
            "        splice_write: Some(bindings::iter_file_splice_write),\n",
            "",
        ],
        "io::s",
    ),
    mutant(
        "threads_share_a_position_badly",
        "calls of write(2) on one descriptor take turns to use its position",
        MISCDEVICE,
        [
            "                (*file).f_mode |= FMODE_ATOMIC_POS;\n",
            "                let _ = FMODE_ATOMIC_POS;\n",
        ],
        "rw::writes_take_turns",
    ),
    // src/abstractions/shmem.rs
    mutant(
        "pages_of_no_file",
        "a futex on a shared mapping works between processes",
        SHMEM,
        [
            "shmem_read_mapping_page_gfp(mapping, index, gfp) };",
            "let _ = (index, shmem_read_mapping_page_gfp as usize); bindings::alloc_pages(gfp | bindings::__GFP_ZERO, 0) };",
        ],
        "futex::",
    ),
    mutant(
        "every_second_page_twice",
        "each page of the buffer is its own",
        SHMEM,
        [
            "shmem_read_mapping_page_gfp(mapping, index, gfp)",
            "shmem_read_mapping_page_gfp(mapping, index & !1, gfp)",
        ],
        "content::each_page",
    ),
    mutant(
        "load_goes_on_when_killed",
        "a killed insmod ends soon",
        SHMEM,
        [
            "if fatal_signal_pending() {",
            "if false && fatal_signal_pending() {",
        ],
        "capacity::a_killed_load",
    ),
    mutant(
        "load_calls_the_oom_killer",
        "a load that finds no memory is ENOMEM and kills nobody",
        SHMEM,
        [
            "            | (1 << bindings::___GFP_RETRY_MAYFAIL_BIT);",
            "            ;",
        ],
        "lifecycle::running_out",
    ),
    mutant(
        "pages_evictable",
        "the pages count as Unevictable",
        SHMEM,
        ["bindings::mapping_flags_AS_UNEVICTABLE as usize", "63"],
        "capacity::the_buffer_shows",
    ),
    mutant(
        "pages_leak",
        "an unload gives all memory back",
        SHMEM,
        [
            "        unsafe { bindings::release_pages(arg, self.pages.len() as i32) };",
            "        let _ = arg;",
        ],
        "capacity::loads",
    ),
    mutant(
        "one_page_leaks",
        "an unload gives every page back",
        SHMEM,
        [
            "release_pages(arg, self.pages.len() as i32)",
            "release_pages(arg, self.pages.len() as i32 - (self.pages.len() > 16) as i32)",
        ],
        "capacity::loads",
    ),
    mutant(
        "file_leaks",
        "an unload gives the file back",
        SHMEM,
        ["        unsafe { bindings::fput(self.file.as_ptr()) };", ""],
        "capacity::",
    ),
    mutant(
        "failed_load_leaks",
        "a load that fails gives back what it had",
        SHMEM,
        [
            "            let page = NonNull::new(from_err_ptr(page)?).ok_or(ENOMEM)?;",
            "            let page = match from_err_ptr(page) { Ok(p) => NonNull::new(p).ok_or(ENOMEM)?, Err(e) => { core::mem::forget(this); return Err(e); } };",
        ],
        "lifecycle::running_out",
    ),
    mutant(
        "killed_load_leaks",
        "a load that is interrupted gives back what it had",
        SHMEM,
        [
            "                return Err(EINTR);",
            "                core::mem::forget(this);\n                return Err(EINTR);",
        ],
        "capacity::a_killed_load",
    ),
    mutant(
        "writable_through_private",
        "a store to a private mapping reaches nobody else",
        SHMEM,
        [
            "        let pages = self.pages.get(range).ok_or(EINVAL)?;\n",
            "        let pages = self.pages.get(range).ok_or(EINVAL)?;\n        unsafe { (*vma.as_ptr()).vm_page_prot.pgprot |= 2 };\n",
        ],
        "cow::",
    ),
    mutant(
        "mapping_of_a_copy",
        "a mapping shows the buffer's own pages",
        SHMEM,
        [
            "        let pages = self.pages.get(range).ok_or(EINVAL)?;\n",
            "        let count = self.pages.get(range).ok_or(EINVAL)?.len();\n        let mut fresh = KVec::new();\n        for _ in 0..count { fresh.push(NonNull::new(unsafe { bindings::alloc_pages(bindings::GFP_KERNEL | bindings::__GFP_ZERO, 0) }).ok_or(ENOMEM)?, GFP_KERNEL)?; }\n        let pages = &fresh[..];\n",
        ],
        "content::",
    ),
    mutant(
        "insertion_may_fail",
        "mmap(2) succeeds only when every page is in",
        SHMEM,
        [
            "        to_result(unsafe {\n            bindings::vm_insert_pages(",
            "        count -= 1;\n        to_result(unsafe {\n            bindings::vm_insert_pages(",
        ],
        "pages::every_page_is_there",
    ),
    mutant(
        "write_lands_beside",
        "write(2) stores at the file position",
        SHMEM,
        [
            "bindings::copy_page_from_iter(page.as_ptr(), chunk.offset, chunk.length,",
            "bindings::copy_page_from_iter(page.as_ptr(), chunk.offset ^ (chunk.offset == 77) as usize, chunk.length,",
        ],
        "fsx::",
    ),
    mutant(
        "clear_of_half_a_page",
        "CLEAR zeroes all of a page",
        SHMEM,
        [
            "0..PAGE_SIZE / size_of::<usize>()",
            "0..PAGE_SIZE / size_of::<usize>() / 2",
        ],
        "ioctl::clear_zeroes",
    ),
    // src/abstractions/task.rs
    mutant(
        "any_signal_is_fatal",
        "a caught signal cuts no transfer",
        TASK,
        [
            "    pending & (1 << (bindings::SIGKILL - 1)) != 0",
            "    let _ = pending;\n    true",
        ],
        "capacity::a_caught",
    ),
    // src/abstractions/vm_operations.rs
    mutant(
        "no_fault_handler",
        "a page that MADV_DONTNEED dropped comes back",
        VM_OPERATIONS,
        ["        fault: Some(Self::fault),\n", ""],
        "fault::after_dontneed",
    ),
    mutant(
        "fault_lost_a_race",
        "two faults on one page at once both succeed",
        VM_OPERATIONS,
        [
            "            Err(e) if e == EBUSY => bindings::vm_fault_reason_VM_FAULT_NOPAGE,\n",
            "",
        ],
        "fault::faults_race",
    ),
    mutant(
        "fault_writable_through_private",
        "a store to a private mapping reaches nobody else, after MADV_DONTNEED either",
        VM_OPERATIONS,
        [
            "        let data = unsafe { Self::data((*vmf).__bindgen_anon_1.vma) };\n",
            "        let data = unsafe { Self::data((*vmf).__bindgen_anon_1.vma) };\n        unsafe { (*(*vmf).__bindgen_anon_1.vma).vm_page_prot.pgprot |= 2 };\n",
        ],
        "s4_3_every_order",
    ),
    mutant(
        "copies_not_counted",
        "live_mappings counts through fork, split and move",
        VM_OPERATIONS,
        [
            "        let _ = Arc::from(data).into_foreign();\n        data.open();",
            "        let _ = Arc::from(data).into_foreign();",
        ],
        "fdinfo::counts",
    ),
    mutant(
        "copies_hold_no_reference",
        "each VMA holds the buffer",
        VM_OPERATIONS,
        [
            "        let _ = Arc::from(data).into_foreign();\n        data.open();",
            "        data.open();",
        ],
        "fdinfo::counts",
    ),
    mutant(
        "closed_vma_keeps_its_reference",
        "a VMA that goes lets go of the buffer",
        VM_OPERATIONS,
        [
            "let data = unsafe { Arc::<T>::from_foreign((*vma).vm_private_data) };",
            "let data = unsafe { Self::data(vma) };",
        ],
        "capacity::loads",
    ),
    mutant(
        "mappings_do_not_split",
        "munmap(2), mprotect(2) and mremap(2) work on a part of a mapping",
        VM_OPERATIONS,
        [
            "        fault: Some(Self::fault),\n",
            "        fault: Some(Self::fault),\n        may_split: Some({\n            unsafe extern \"C\" fn refuse(_: *mut bindings::vm_area_struct, _: usize) -> kernel::ffi::c_int {\n                -22\n            }\n            refuse\n        }),\n",
        ],
        "pages::munmap_in_the_middle",
    ),
];
