// SPDX-License-Identifier: GPL-2.0
//! The mutants, by the file that they change.

use super::{By, Mutant};

const BUFFER: &str = "src/buffer.rs";
const CRATE: &str = "rust_mmapdev.rs";
const DEVICE: &str = "src/device.rs";
const FOLIO: &str = "src/abstractions/mm/folio.rs";
const KBUILD: &str = "Kbuild";
const HEADER: &str = "src/uapi/rust_mmapdev.h";
const IOV: &str = "src/abstractions/iov.rs";
const MAPPING: &str = "src/mapping.rs";
const MISCDEVICE: &str = "src/abstractions/miscdevice.rs";
const PAGEMAP: &str = "src/abstractions/mm/pagemap.rs";
const RANGE: &str = "src/range.rs";
const TASK: &str = "src/abstractions/task.rs";
const VIRT: &str = "src/abstractions/mm/virt.rs";

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
        by: By::Test,
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
        "a_refusal_is_news",
        "a load that is refused is an error in the log",
        CRATE,
        ["        pr_err!(", "        pr_info!("],
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
        "another_range_in_modinfo",
        "modinfo(8) says what the parameter may be",
        CRATE,
        [
            "Size of the buffer in pages, 1 to 262144 (default 1)",
            "Size of the buffer in pages, 1 to 65536 (default 1)",
        ],
        "lifecycle::the_module_is",
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
        "a_load_is_an_error",
        "a load is no error in the log",
        CRATE,
        [
            "pr_info!(\n                    \"buffer",
            "pr_err!(\n                    \"buffer",
        ],
        "lifecycle::load_logs",
    ),
    mutant(
        "size_and_page_count_swapped",
        "a load logs its size in bytes, and its pages",
        CRATE,
        [
            "                    buffer.size(),\n                    buffer.page_count(),\n",
            "                    buffer.page_count(),\n                    buffer.size(),\n",
        ],
        "lifecycle::load_logs",
    ),
    mutant(
        "huge_folios_not_in_the_log",
        "a load logs how much is in huge folios",
        CRATE,
        [
            "                    buffer.pages().huge_size(),\n",
            "                    0 * buffer.pages().huge_size(),\n",
        ],
        "lifecycle::load_logs",
    ),
    mutant(
        "folios_of_another_size_in_the_log",
        "a load logs how large a huge folio is",
        CRATE,
        ["HUGE_FOLIO_SIZE >> 20", "HUGE_FOLIO_SIZE >> 10"],
        "lifecycle::load_logs",
    ),
    // Kbuild
    Mutant {
        by: By::Build,
        ..mutant(
            "nothing_is_generated",
            "the module is built from the header and the kernel's own types",
            KBUILD,
            [
                "$(obj)/rust_mmapdev.o: $(uapi-generated) $(bindings-generated)\n",
                "",
            ],
            "lifecycle::load_logs",
        )
    },
    Mutant {
        by: By::Test,
        kernel: "debug",
        ..mutant(
            "no_coverage",
            "the fuzzer is told what it reaches of the module",
            KBUILD,
            ["KCOV_INSTRUMENT := y", "KCOV_INSTRUMENT := n"],
            "hostile::random_programs",
        )
    },
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
            "        pages.lock_folio(0).ok_or(EIO)?.store(0, INITIAL_CONTENT)?;\n",
            "        let _ = (INITIAL_CONTENT, LockedFolio::store);\n",
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
        "no_memory_in_silence",
        "a load that finds no memory says how many pages it wanted",
        BUFFER,
        ["pr_err!(\"can't allocate", "pr_debug!(\"can't allocate"],
        "lifecycle::running_out",
    ),
    mutant(
        "no_memory_is_news",
        "a load that finds no memory is an error in the log",
        BUFFER,
        ["pr_err!(\"can't allocate", "pr_info!(\"can't allocate"],
        "lifecycle::running_out",
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
        "read_brings_nothing",
        "read(2) brings what the buffer holds",
        BUFFER,
        [
            "                to.copy_from_folio(folio, offset, length)\n",
            "                let _ = (&to, folio, offset, <IovIterDest<'_> as IovIterDestExt>::copy_from_folio);\n                length\n",
        ],
        "rw::read_moves",
    ),
    Mutant {
        by: By::Time,
        ..mutant(
            "reads_lock_their_folios",
            "read(2) may bring the buffer's bytes to a mapping of them",
            BUFFER,
            [
                "PageCache::folio, |folio, offset, length| {",
                "PageCache::lock_folio, |folio, offset, length| {",
            ],
            "rw::read_into_a_mapping",
        )
    },
    mutant(
        "write_is_lost",
        "write(2) stores what it was given",
        BUFFER,
        [
            "                |folio: &LockedFolio, offset, length| from.copy_to_folio(folio, offset, length);",
            "                |folio: &LockedFolio, offset, length| { let _ = (&from, folio, offset, <IovIterSource<'_> as IovIterSourceExt>::copy_to_folio); length };",
        ],
        "rw::write_moves",
    ),
    mutant(
        "reads_wait_for_writes",
        "a write(2) holds up nobody but who writes or clears",
        BUFFER,
        [
            "    pub(crate) fn read(&self, position: i64, to: &mut IovIterDest<'_>) -> Result<usize> {\n",
            "    pub(crate) fn read(&self, position: i64, to: &mut IovIterDest<'_>) -> Result<usize> {\n        let _writers = self.writers.lock();\n",
        ],
        "rw::a_write_holds",
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
        "writers_take_turns_at_each_page",
        "two calls of write(2) do not mix their bytes, however long one waits for its source",
        BUFFER,
        [
            "        let _writers = self.writers.lock();\n        let mut done = 0;\n        while done < bytes.len() {\n",
            "        let mut done = 0;\n        while done < bytes.len() {\n            let _writers = self.writers.lock();\n",
        ],
        "rw::writes_do_not_mix",
    ),
    mutant(
        "short_writes_take_no_turns",
        "two calls of write(2) do not mix their bytes, however few they are",
        BUFFER,
        [
            "ok_or(ENOSPC)?;\n        let _writers = self.writers.lock();",
            "ok_or(ENOSPC)?;\n        let _writers = (bytes.len() > PAGE_SIZE).then(|| self.writers.lock());",
        ],
        "rw::short_calls",
    ),
    mutant(
        "a_write_forgets_what_it_copied",
        "a write(2) from a source that ends early returns what was copied",
        BUFFER,
        [
            "                Err(_) => break,\n",
            "                Err(e) => return Err(e),\n",
        ],
        "rw::write_from_a_buffer_that_ends_early rw::transfers_that_end",
    ),
    mutant(
        "a_write_takes_all_of_its_source",
        "a short write(2) lets the rest of its source alone",
        BUFFER,
        ["rest.len().min(HUGE_FOLIO_SIZE)", "HUGE_FOLIO_SIZE"],
        "rw::a_short_write",
    ),
    mutant(
        "clear_of_one_page",
        "CLEAR zeroes every page",
        BUFFER,
        [
            "while at < self.size() {\n            match self.transfer(at..self.size(), PageCache::lock_folio, zero) {",
            "while at < PAGE_SIZE {\n            match self.transfer(at..PAGE_SIZE, PageCache::lock_folio, zero) {",
        ],
        "pages::clear",
    ),
    mutant(
        "clear_mixes_with_a_write",
        "CLEAR waits for a write(2) in the middle of its bytes",
        BUFFER,
        [
            "        let _writers = self.writers.lock();\n        let zero =",
            "        let zero =",
        ],
        "ioctl::clear_waits",
    ),
    mutant(
        "a_page_is_cleared_at_once",
        "CLEAR waits for a write(2) in the middle of its bytes, of a single page too",
        BUFFER,
        [
            "        let _writers = self.writers.lock();\n        let zero =",
            "        let _writers = (self.page_count() > 1).then(|| self.writers.lock());\n        let zero =",
        ],
        "rw::short_calls",
    ),
    mutant(
        "clear_takes_turns_at_each_page",
        "CLEAR and write(2) do not mix",
        BUFFER,
        [
            "        let _writers = self.writers.lock();\n        let zero = |folio: &LockedFolio, offset, length| {\n            let length = folio.accessible(offset, length);\n            folio.zero_pages(offset, length).map_or(0, |()| length)\n        };\n        let (mut at, mut result) = (0, Ok(()));\n        while at < self.size() {\n            match self.transfer(at..self.size(), PageCache::lock_folio, zero) {\n",
            "        let zero = |folio: &LockedFolio, offset, length| {\n            let length = folio.accessible(offset, length);\n            folio.zero_pages(offset, length).map_or(0, |()| length)\n        };\n        let (mut at, mut result) = (0, Ok(()));\n        while at < self.size() {\n            let _writers = self.writers.lock();\n            match self.transfer(at..at + PAGE_SIZE, PageCache::lock_folio, zero) {\n",
        ],
        "ioctl::clear_and_a_write",
    ),
    mutant(
        "a_caught_signal_stops_clear",
        "a caught signal does not end CLEAR",
        BUFFER,
        [
            "        let zero = |folio: &LockedFolio, offset, length| {\n",
            "        let zero = |folio: &LockedFolio, offset, length| {\n            if kernel::current!().signal_pending() {\n                return 0;\n            }\n",
        ],
        "capacity::a_caught_signal_does_not_cut_a_clear",
    ),
    Mutant {
        by: By::Time,
        ..mutant(
            "clear_waits_for_itself",
            "CLEAR comes to its end",
            BUFFER,
            [
                "        let _writers = self.writers.lock();\n        let zero =",
                "        let _writers = self.writers.lock();\n        let _again = self.writers.lock();\n        let zero =",
            ],
            "ioctl::clear_zeroes ioctl::anything",
        )
    },
    mutant(
        "clear_stops_at_a_bad_page",
        "CLEAR zeroes what stands behind a page with a memory error",
        BUFFER,
        [
            "                    result = Err(e);\n                    at += PAGE_SIZE;\n",
            "                    return Err(e);\n",
        ],
        "poison::clear",
    ),
    mutant(
        "clear_stops_at_the_second_bad_page",
        "CLEAR zeroes what stands behind each page with a memory error",
        BUFFER,
        [
            "Err(e) if e == EIO => {",
            "Err(e) if e == EIO && result.is_ok() => {",
        ],
        "poison::several",
    ),
    mutant(
        "clear_is_silent_about_a_bad_page",
        "CLEAR is EIO where a page with a memory error was",
        BUFFER,
        ["                    result = Err(e);\n", ""],
        "poison::clear",
    ),
    mutant(
        "transfer_goes_on_when_killed",
        "a killed read(2), write(2) or CLEAR ends soon",
        BUFFER,
        [
            "if fatal_signal_pending() {\n                break",
            "if false && fatal_signal_pending() {\n                break",
        ],
        "capacity::a_killed_read capacity::a_killed_write_ends capacity::a_killed_clear",
    ),
    mutant(
        "a_killed_transfer_forgets_what_it_copied",
        "a killed write(2) moves the position on by what it has written",
        BUFFER,
        [
            "        if at == bytes.start {\n",
            "        if at == bytes.start || reason == EINTR {\n",
        ],
        "capacity::a_killed_write_counts",
    ),
    mutant(
        "nothing_of_a_folio_is_nothing_at_all",
        "a transfer up to a bad page returns what was copied",
        BUFFER,
        [
            "            if copied < length {\n",
            "            if copied == 0 {\n                return Err(EFAULT);\n            }\n            if copied < length {\n",
        ],
        "transfers_that_end",
    ),
    Mutant {
        by: By::Kernel,
        ..mutant(
            "a_short_copy_is_logged",
            "a copy that ends early logs nothing",
            BUFFER,
            [
                "                break if next == 0 { EIO } else { EFAULT };\n            }\n        };\n",
                "                pr_info!(\"copied {} of {} bytes\\n\", copied, length);\n                break if next == 0 { EIO } else { EFAULT };\n            }\n        };\n",
            ],
            "rw::read_to_a_bad",
        )
    },
    mutant(
        "transfer_of_one_folio",
        "read(2) and write(2) go on in the next folio",
        BUFFER,
        [
            "if copied < length {",
            "if copied < length || at < bytes.end {",
        ],
        "pages::transfers",
    ),
    mutant(
        "transfer_from_the_folio_s_start",
        "read(2) and write(2) begin at the file position",
        BUFFER,
        [
            "let offset = at - folio.index() * PAGE_SIZE;",
            "let offset = (at - folio.index() * PAGE_SIZE) % PAGE_SIZE;",
        ],
        "pages::transfers",
    ),
    mutant(
        "transfer_of_a_bad_page",
        "read(2) and write(2) of a page with a memory error are EIO",
        BUFFER,
        [
            "break if next == 0 { EIO } else { EFAULT };",
            "let _ = next;\n                break EFAULT;",
        ],
        "poison::a_folio_that_cannot",
    ),
    mutant(
        "a_missing_page_is_efault",
        "read(2) and write(2) of a page that a memory error has taken are EIO",
        BUFFER,
        [
            "else {\n                break EIO;",
            "else {\n                break EFAULT;",
        ],
        "poison::read_and_write",
    ),
    mutant(
        "bad_address_is_zero",
        "a transfer that can't begin is EFAULT",
        BUFFER,
        [
            "        if at == bytes.start {\n            return Err(reason);\n        }\n",
            "        let _ = reason;\n",
        ],
        "rw::read_to_a_bad",
    ),
    mutant(
        "short_copy_counts_as_whole",
        "a transfer up to a bad address returns what was copied",
        BUFFER,
        ["at += copied;", "at += length;"],
        "rw::read_to_a_buffer_that_ends_early rw::write_from_a_buffer_that_ends_early",
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
        "a_read_leaks",
        "a read(2) leaves no memory behind",
        DEVICE,
        [
            "        let done = kiocb.file().read(kiocb.ki_pos(), to)?;\n",
            "        let done = kiocb.file().read(kiocb.ki_pos(), to)?;\n        core::mem::forget(KBox::new([1u8; 64], GFP_KERNEL));\n",
        ],
        "cycles::",
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
    Mutant {
        by: By::Kernel,
        ..mutant(
            "unknown_requests_are_logged",
            "an unknown ioctl(2) logs nothing",
            DEVICE,
            [
                "            _ => return Err(ENOTTY),",
                "            _ => {\n                pr_info!(\"unknown request {}\\n\", cmd);\n                return Err(ENOTTY);\n            }",
            ],
            "ioctl::anything",
        )
    },
    mutant(
        "info_leaks",
        "INFO leaves no memory behind",
        DEVICE,
        [
            "    let info = uapi::rust_mmapdev_info {",
            "    core::mem::forget(KBox::new([1u8; 64], GFP_KERNEL));\n    let info = uapi::rust_mmapdev_info {",
        ],
        "cycles::",
    ),
    mutant(
        "info_wants_an_access_mode",
        "INFO needs no access mode",
        DEVICE,
        [
            "            uapi::RUST_MMAPDEV_IOC_INFO => info(&buffer, UserPtr::from_addr(arg))?,",
            "            uapi::RUST_MMAPDEV_IOC_INFO if file.flags() & O_ACCMODE == O_ACCMODE => {\n                return Err(EBADF)\n            }\n            uapi::RUST_MMAPDEV_IOC_INFO => info(&buffer, UserPtr::from_addr(arg))?,",
        ],
        "ioctl::info_needs",
    ),
    mutant(
        "info_without_its_last_field",
        "INFO is EFAULT where its last field can't be written",
        DEVICE,
        [
            "    writer.write(&info.abi_version)\n",
            "    let _ = writer.write(&info.abi_version);\n    Ok(())\n",
        ],
        "ioctl::info_to_a_bad",
    ),
    mutant(
        "size_in_pages",
        "INFO's size is in bytes",
        DEVICE,
        [
            "size: buffer.size() as u64",
            "size: buffer.page_count() as u64",
        ],
        "ioctl::info_is_the_headers",
    ),
    mutant(
        "page_size_of_512",
        "INFO has the page size",
        DEVICE,
        [
            "page_size: PAGE_SIZE as u32",
            "page_size: PAGE_SIZE as u32 / 8",
        ],
        "ioctl::info_is_the_headers",
    ),
    mutant(
        "fdinfo_in_pages",
        "fdinfo's size is in bytes",
        DEVICE,
        [
            "\\t{}\\n\", buffer.size()",
            "\\t{}\\n\", buffer.page_count()",
        ],
        "fdinfo::size_and_pages",
    ),
    mutant(
        "fdinfo_page_count_in_bytes",
        "fdinfo says how many pages there are",
        DEVICE,
        [
            "\\t{}\\n\", buffer.page_count()",
            "\\t{}\\n\", buffer.size()",
        ],
        "fdinfo::size_and_pages",
    ),
    mutant(
        "fdinfo_with_units",
        "fdinfo's lines are a name, a tab and a number",
        DEVICE,
        ["\"huge_size:\\t{}\\n\"", "\"huge_size:\\t{} kB\\n\""],
        "fdinfo::no_line",
    ),
    mutant(
        "fdinfo_has_an_address",
        "fdinfo tells no address",
        DEVICE,
        [
            "        seq_print!(m, \"huge_size:",
            "        seq_print!(m, \"buffer:\\t{:p}\\n\", buffer.pages());\n        seq_print!(m, \"huge_size:",
        ],
        "fdinfo::no_line",
    ),
    mutant(
        "fdinfo_without_huge_size",
        "fdinfo says how much is in huge folios",
        DEVICE,
        [
            "buffer.pages().huge_size()",
            "0 * buffer.pages().huge_size()",
        ],
        "fdinfo::huge_size",
    ),
    mutant(
        "seeks_to_the_last_page_only",
        "lseek(2) moves up to the end of the buffer",
        DEVICE,
        [
            "        buffer.size()\n    }\n",
            "        buffer.size() - PAGE_SIZE\n    }\n",
        ],
        "seek::from_the_start seek::from_the_end",
    ),
    mutant(
        "mappings_of_no_file",
        "the core finds the buffer's pages where the file's f_mapping leads",
        DEVICE,
        [
            "    fn page_cache<'a>(buffer: &'a ArcBorrow<'_, Buffer>) -> &'a PageCache {\n        buffer.pages()\n    }\n\n",
            "",
        ],
        "programs::mincore",
    ),
    mutant(
        "open_refuses_write_only",
        "the device opens in every access mode",
        DEVICE,
        [
            "fn open(_file: &File, misc: &MiscDeviceRegistration<Self>) -> Result<Arc<Buffer>> {\n",
            "fn open(_file: &File, misc: &MiscDeviceRegistration<Self>) -> Result<Arc<Buffer>> {\n        if _file.flags() & O_ACCMODE == O_WRONLY {\n            return Err(EACCES);\n        }\n",
        ],
        "open::every_access_mode",
    ),
    mutant(
        "open_wants_root",
        "whom the node lets in may open it",
        DEVICE,
        [
            "misc: &MiscDeviceRegistration<Self>) -> Result<Arc<Buffer>> {\n",
            "misc: &MiscDeviceRegistration<Self>) -> Result<Arc<Buffer>> {\n        if kernel::task::Kuid::current_euid().into_uid_in_current_ns() != 0 {\n            return Err(EACCES);\n        }\n",
        ],
        "open::whom",
    ),
    mutant(
        "clear_wants_root",
        "who has the device open for writing may clear it",
        DEVICE,
        [
            "                buffer.clear()?;\n",
            "                if kernel::task::Kuid::current_euid().into_uid_in_current_ns() != 0 {\n                    return Err(EPERM);\n                }\n                buffer.clear()?;\n",
        ],
        "open::whom open::an_open",
    ),
    mutant(
        "open_refuses_the_hundredth",
        "any number of descriptors may be open",
        DEVICE,
        [
            "misc: &MiscDeviceRegistration<Self>) -> Result<Arc<Buffer>> {\n",
            "misc: &MiscDeviceRegistration<Self>) -> Result<Arc<Buffer>> {\n        use core::sync::atomic::{AtomicUsize, Ordering};\n        static OPENS: AtomicUsize = AtomicUsize::new(0);\n        if OPENS.fetch_add(1, Ordering::Relaxed) >= 100 {\n            return Err(EMFILE);\n        }\n",
        ],
        "open::many",
    ),
    mutant(
        "chatty_open",
        "use of the device logs nothing",
        DEVICE,
        [
            "        Ok(misc.data().clone())",
            "        pr_info!(\"opened\\n\");\n        Ok(misc.data().clone())",
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
            "(first, count) = (vma.pgoff(),",
            "(first, count) = (0 * vma.pgoff(),",
        ],
        "pages::every_window",
    ),
    mutant(
        "no_insertion_at_mmap",
        "one page is there after mmap(2)",
        MAPPING,
        [
            "if count == 1 && !vma.locked() {",
            "if false && count == 1 && !vma.locked() {",
        ],
        "pages::one_page_is_there",
    ),
    mutant(
        "insertion_for_readers_only",
        "one page is there after mmap(2), whatever it may be used for",
        MAPPING,
        [
            "if count == 1 && !vma.locked() {",
            "if count == 1 && !vma.locked() && vma.flags() & kernel::mm::virt::flags::READ != 0 {",
        ],
        "pages::one_page_is_there",
    ),
    mutant(
        "insertion_of_the_first_page",
        "more than one page come when they are touched",
        MAPPING,
        [
            "if count == 1 && !vma.locked() {",
            "if count <= 2 && !vma.locked() {",
        ],
        "mmap::maps_and",
    ),
    mutant(
        "insertion_of_a_locked_page",
        "what MAP_LOCKED maps is locked",
        MAPPING,
        [
            "if count == 1 && !vma.locked() {",
            "let _ = vma.locked();\n    if count == 1 {",
        ],
        "mmap::flags_locked",
    ),
    mutant(
        "insertion_of_a_bad_page",
        "a page with a memory error is never mapped",
        VIRT,
        [
            "if folio.accessible((index - folio.index()) * PAGE_SIZE, PAGE_SIZE) == 0 {",
            "if folio.order() == 64 {",
        ],
        "poison::a_folio_that_cannot",
    ),
    mutant(
        "mmap_of_a_bad_page_is_eio",
        "mmap(2) of a page with a memory error succeeds",
        MAPPING,
        ["                Err(e) if e == EIO => {}\n", ""],
        "poison::a_folio_that_cannot",
    ),
    Mutant {
        kernel: "debug",
        ..mutant(
            "no_memory_at_mmap_is_eagain",
            "mmap(2) without memory is ENOMEM",
            MAPPING,
            [
                "                result => result?,\n",
                "                result => result.map_err(|_| EAGAIN)?,\n",
            ],
            "failnth::mmap_of_one",
        )
    },
    Mutant {
        kernel: "debug",
        ..mutant(
            "no_memory_at_mmap_does_not_matter",
            "mmap(2) of a page fails without memory for its page table",
            MAPPING,
            [
                "                result => result?,\n",
                "                _ => {}\n",
            ],
            "failnth::mmap_of_one",
        )
    },
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
        "mappings_do_not_grow",
        "mremap(2) grows a mapping",
        MAPPING,
        [
            "    vma.try_clear_mayexec().map_err(|_| EPERM)?;\n",
            "    vma.try_clear_mayexec().map_err(|_| EPERM)?;\n    vma.set_dontexpand();\n",
        ],
        "mremap::grows",
    ),
    mutant(
        "mappings_are_mixed",
        "a mapping is an ordinary one",
        MAPPING,
        [
            "    vma.try_clear_mayexec().map_err(|_| EPERM)?;\n",
            "    vma.try_clear_mayexec().map_err(|_| EPERM)?;\n    vma.set_mixedmap();\n",
        ],
        "mmap::the_vma",
    ),
    mutant(
        "private_is_refused",
        "a mapping may be private",
        MAPPING,
        [
            "    vma.try_clear_mayexec().map_err(|_| EPERM)?;\n",
            "    vma.try_clear_mayexec().map_err(|_| EPERM)?;\n    if vma.flags() & kernel::mm::virt::flags::SHARED == 0 {\n        return Err(EINVAL);\n    }\n",
        ],
        "cow::stores_reach",
    ),
    mutant(
        "mappings_are_io",
        "a mapping is memory: VM_IO keeps get_user_pages() and core dumps away",
        MAPPING,
        [
            "    vma.try_clear_mayexec().map_err(|_| EPERM)?;\n",
            "    vma.try_clear_mayexec().map_err(|_| EPERM)?;\n    vma.set_io();\n",
        ],
        "io::direct_io io::vmsplice_from",
    ),
    mutant(
        "mappings_stay_behind_at_fork",
        "fork(2) copies a mapping",
        MAPPING,
        [
            "    vma.try_clear_mayexec().map_err(|_| EPERM)?;\n",
            "    vma.try_clear_mayexec().map_err(|_| EPERM)?;\n    vma.set_dontcopy();\n",
        ],
        "fault::after_fork",
    ),
    mutant(
        "mappings_are_not_dumped",
        "a core dump has the mapping's pages",
        MAPPING,
        [
            "    vma.try_clear_mayexec().map_err(|_| EPERM)?;\n",
            "    vma.try_clear_mayexec().map_err(|_| EPERM)?;\n    vma.set_dontdump();\n",
        ],
        "core_dump",
    ),
    mutant(
        "chatty_fault",
        "use of the device logs nothing",
        MAPPING,
        [
            "        if index >= buffer.page_count() {",
            "        pr_info!(\"fault\\n\");\n        if index >= buffer.page_count() {",
        ],
        "lifecycle::nothing_is_logged",
    ),
    mutant(
        "past_the_end_is_a_memory_error",
        "SIGBUS past the end does not speak of a memory error",
        MAPPING,
        [
            "        if index >= buffer.page_count() {",
            "        if index > buffer.page_count() {",
        ],
        "mremap::grows_past",
    ),
    mutant(
        "a_memory_error_is_past_the_end",
        "SIGBUS on a page with a memory error says so",
        MAPPING,
        [".ok_or(FaultError::HwPoison)", ".ok_or(FaultError::Sigbus)"],
        "poison::who_touches",
    ),
    mutant(
        "fault_serves_page_0",
        "a fault serves the page at its place",
        MAPPING,
        [
            "buffer.pages().lock_folio(index)",
            "buffer.pages().lock_folio(0 * index)",
        ],
        "pages::every_first_store",
    ),
    mutant(
        "fault_serves_the_next_page",
        "a fault serves the page at its place",
        MAPPING,
        [
            "buffer.pages().lock_folio(index)",
            "buffer.pages().lock_folio((index + 1) % buffer.page_count())",
        ],
        "pages::every_first_store",
    ),
    // src/range.rs: what no call can bring about is for the host's test of the arithmetic.
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
    // src/abstractions/miscdevice.rs
    mutant(
        "anybody_may_open",
        "the device is root's alone until the administrator says otherwise",
        MISCDEVICE,
        [
            "misc.fops = FileOperations::<T>::table();",
            "misc.fops = FileOperations::<T>::table();\n                misc.mode = 0o666;",
        ],
        "open::the_node_is_roots_alone open::nobody_else",
    ),
    mutant(
        "a_minor_number_of_its_own",
        "the kernel gives out the minor number",
        MISCDEVICE,
        [
            "misc.minor = bindings::MISC_DYNAMIC_MINOR as c_int;",
            "misc.minor = 0 * bindings::MISC_DYNAMIC_MINOR as c_int + 243;",
        ],
        "open::the_node_is_a_misc",
    ),
    mutant(
        "direct_io",
        "opening with O_DIRECT is EINVAL",
        MISCDEVICE,
        [
            "bindings::FMODE_ATOMIC_POS | bindings::FMODE_NOCMTIME",
            "bindings::FMODE_ATOMIC_POS | bindings::FMODE_NOCMTIME | 1 << 22",
        ],
        "open::direct",
    ),
    mutant(
        "nowait",
        "RWF_NOWAIT is EOPNOTSUPP",
        MISCDEVICE,
        [
            "bindings::FMODE_ATOMIC_POS | bindings::FMODE_NOCMTIME",
            "bindings::FMODE_ATOMIC_POS | bindings::FMODE_NOCMTIME | 1 << 27",
        ],
        "rw::rwf_flags",
    ),
    mutant(
        "dontcache",
        "RWF_DONTCACHE is EOPNOTSUPP",
        MISCDEVICE,
        [
            "fsync: Some(bindings::noop_fsync),\n",
            "fsync: Some(bindings::noop_fsync),\n        fop_flags: 1 << 7,\n",
        ],
        "rw::rwf_flags",
    ),
    mutant(
        "map_sync",
        "MAP_SYNC is EOPNOTSUPP",
        MISCDEVICE,
        [
            "fsync: Some(bindings::noop_fsync),\n",
            "fsync: Some(bindings::noop_fsync),\n        fop_flags: 1 << 2,\n",
        ],
        "mmap::shared_validate",
    ),
    Mutant {
        by: By::Kernel,
        ..mutant(
            "no_owner",
            "the module can't be unloaded under a descriptor",
            MISCDEVICE,
            [
                "owner: this_module(),",
                "owner: { let _ = this_module(); core::ptr::null_mut() },",
            ],
            "refs::a_descriptor_holds",
        )
    },
    mutant(
        "no_fsync",
        "fsync(2) and msync(2) succeed",
        MISCDEVICE,
        ["        fsync: Some(bindings::noop_fsync),\n", ""],
        "sync::msync sync::fsync",
    ),
    mutant(
        "nobody_is_told",
        "who watches the node by inotify(7) is told of each use",
        MISCDEVICE,
        [
            "            (*file).f_mode |= bindings::FMODE_ATOMIC_POS | bindings::FMODE_NOCMTIME;",
            "            (*file).f_mode |= bindings::FMODE_ATOMIC_POS | bindings::FMODE_NOCMTIME | 1 << 25;\n            (*file).f_mode &= !(1 << 26);",
        ],
        "like_a_file::calls_on",
    ),
    mutant(
        "fsync_tells_of_a_memory_error",
        "fsync(2) succeeds, whatever has become of the pages",
        MISCDEVICE,
        [
            "fsync: Some(bindings::noop_fsync),\n",
            "fsync: Some({\n            unsafe extern \"C\" fn check(file: *mut bindings::file, _: bindings::loff_t, _: bindings::loff_t, _: c_int) -> c_int {\n                unsafe { bindings::file_check_and_advance_wb_err(file) }\n            }\n            check\n        }),\n",
        ],
        "poison::read_and_write",
    ),
    mutant(
        "no_llseek",
        "lseek(2) moves within the buffer",
        MISCDEVICE,
        ["Some(Self::llseek)", "None"],
        "seek::from_the_start",
    ),
    mutant(
        "seeks_past_the_end",
        "lseek(2) past the end is EINVAL",
        MISCDEVICE,
        [
            "fixed_size_llseek(file, offset, whence, size)",
            "fixed_size_llseek(file, offset, whence, size + 1)",
        ],
        "seek::from_the_start",
    ),
    mutant(
        "no_splice_from",
        "splice(2) and sendfile(2) read the device",
        MISCDEVICE,
        ["Some(bindings::copy_splice_read)", "None"],
        "io::splice_from io::sendfile_from",
    ),
    mutant(
        "no_splice_to",
        "splice(2) and sendfile(2) write the device",
        MISCDEVICE,
        ["Some(bindings::iter_file_splice_write)", "None"],
        "io::splice_to io::sendfile_to",
    ),
    mutant(
        "no_fdinfo",
        "fdinfo says what there is to say of the buffer",
        MISCDEVICE,
        ["Some(Self::show_fdinfo)", "None"],
        "fdinfo::size_and_pages",
    ),
    mutant(
        "no_32_bit_programs",
        "32-bit programs can make the requests",
        MISCDEVICE,
        [
            "            bindings::compat_ptr_ioctl\n",
            "            None\n",
        ],
        "ioctl::from_32",
    ),
    mutant(
        "addresses_at_random",
        "mmap(2) picks addresses where huge entries fit",
        MISCDEVICE,
        ["Some(bindings::thp_get_unmapped_area)", "None"],
        "huge::mmap_picks",
    ),
    mutant(
        "threads_share_a_position_badly",
        "calls of write(2) on one descriptor take turns to use its position",
        MISCDEVICE,
        [
            "bindings::FMODE_ATOMIC_POS | bindings::FMODE_NOCMTIME",
            "bindings::FMODE_NOCMTIME",
        ],
        "rw::writes_take_turns",
    ),
    mutant(
        "mere_writers_share_a_position_badly",
        "calls of write(2) take turns to use the position of a descriptor that can do nothing else",
        MISCDEVICE,
        [
            "            (*file).f_mode |= bindings::FMODE_ATOMIC_POS | bindings::FMODE_NOCMTIME;",
            "            (*file).f_mode |= bindings::FMODE_NOCMTIME;\n            if (*file).f_mode & 1 != 0 {\n                (*file).f_mode |= bindings::FMODE_ATOMIC_POS;\n            }",
        ],
        "rw::writes_take_turns",
    ),
    mutant(
        "readers_share_a_position_badly",
        "calls of read(2) on one descriptor take turns to use its position",
        MISCDEVICE,
        [
            "            (*file).f_mode |= bindings::FMODE_ATOMIC_POS | bindings::FMODE_NOCMTIME;",
            "            (*file).f_mode |= bindings::FMODE_NOCMTIME;\n            if (*file).f_mode & 2 != 0 {\n                (*file).f_mode |= bindings::FMODE_ATOMIC_POS;\n            }",
        ],
        "rw::reads_take_turns",
    ),
    mutant(
        "a_store_changes_the_times",
        "a store through a mapping leaves the node's times alone",
        MISCDEVICE,
        [
            "bindings::FMODE_ATOMIC_POS | bindings::FMODE_NOCMTIME",
            "bindings::FMODE_ATOMIC_POS",
        ],
        "fault::a_store_leaves",
    ),
    mutant(
        "a_read_changes_the_times",
        "a read(2) leaves the node's times alone",
        MISCDEVICE,
        [
            "        let (kiocb, to) = unsafe { (Kiocb::from_raw(kiocb), IovIterDest::from_raw(iter)) };\n",
            "        unsafe { bindings::touch_atime(&raw const (*(*kiocb).ki_filp).__bindgen_anon_1.f_path) };\n        let (kiocb, to) = unsafe { (Kiocb::from_raw(kiocb), IovIterDest::from_raw(iter)) };\n",
        ],
        "fault::a_store_leaves",
    ),
    mutant(
        "a_file_keeps_the_inode",
        "an unload gives the inode back",
        MISCDEVICE,
        [
            "            unsafe { bindings::iput((*(*file).f_mapping).host) };\n",
            "            let _ = &file;\n",
        ],
        "cycles::",
    ),
    mutant(
        "a_file_keeps_the_buffer",
        "an unload gives the buffer back",
        MISCDEVICE,
        [
            "        drop(unsafe { T::Ptr::from_foreign((*file).private_data) });",
            "        core::mem::forget(unsafe { T::Ptr::from_foreign((*file).private_data) });",
        ],
        "capacity::loads",
    ),
    mutant(
        "a_device_stays_registered",
        "an unload takes the device node away",
        MISCDEVICE,
        [
            "        unsafe { bindings::misc_deregister(self.misc.get()) };",
            "        let _ = &self.misc;",
        ],
        "lifecycle::loads",
    ),
    Mutant {
        kernel: "debug",
        ..mutant(
            "registered_before_its_data",
            "a device that has no data yet is not registered",
            MISCDEVICE,
            [
                "            data <- data,\n            misc <- Opaque::try_ffi_init(move |slot: *mut bindings::miscdevice| {\n                let mut misc: bindings::miscdevice = pin_init::zeroed();\n                misc.minor = bindings::MISC_DYNAMIC_MINOR as c_int;\n                misc.name = name.as_char_ptr();\n                misc.fops = FileOperations::<T>::table();\n                // SAFETY: The initializer may write to `slot`.\n                unsafe { slot.write(misc) };\n                // SAFETY: `slot` was just set up. It is pinned, and `drop` takes it off the list\n                // before it goes.\n                // INVARIANT: It is registered if this succeeds.\n                to_result(unsafe { bindings::misc_register(slot) })\n            }),\n",
                "            misc <- Opaque::try_ffi_init(move |slot: *mut bindings::miscdevice| {\n                let mut misc: bindings::miscdevice = pin_init::zeroed();\n                misc.minor = bindings::MISC_DYNAMIC_MINOR as c_int;\n                misc.name = name.as_char_ptr();\n                misc.fops = FileOperations::<T>::table();\n                // SAFETY: The initializer may write to `slot`.\n                unsafe { slot.write(misc) };\n                // SAFETY: `slot` was just set up. It is pinned, and `drop` takes it off the list\n                // before it goes.\n                // INVARIANT: It is registered if this succeeds.\n                to_result(unsafe { bindings::misc_register(slot) })\n            }),\n            data <- data,\n",
            ],
            "kunit::every_case",
        )
    },
    Mutant {
        kernel: "debug",
        ..mutant(
            "reads_as_long_as_they_say",
            "a transfer is as long as what was copied",
            MISCDEVICE,
            [
                "count.min(asked.saturating_sub(to.len()))",
                "count.min(asked.max(to.len()))",
            ],
            "kunit::every_case",
        )
    },
    Mutant {
        kernel: "debug",
        ..mutant(
            "writes_as_long_as_they_say",
            "a transfer is as long as what was copied",
            MISCDEVICE,
            [
                "count.min(given.saturating_sub(from.len()))",
                "count.min(given.max(from.len()))",
            ],
            "kunit::every_case",
        )
    },
    // src/abstractions/task.rs
    mutant(
        "only_kill_is_fatal",
        "a long call ends when another thread ends the process",
        TASK,
        [
            "(*task).pending.signal.sig[0]",
            "(*(*task).signal).shared_pending.signal.sig[0]",
        ],
        "capacity::a_write_ends_when capacity::a_killed_write_ends",
    ),
    mutant(
        "any_signal_is_fatal",
        "a caught signal cuts no transfer",
        TASK,
        [
            "    pending & (1 << (bindings::SIGKILL - 1)) != 0",
            "    let _ = pending;\n    true",
        ],
        "capacity::a_caught_signal_does_not_cut",
    ),
    // src/abstractions/iov.rs
    mutant(
        "read_begins_beside",
        "read(2) brings the bytes at the file position",
        IOV,
        [
            "copy_page_to_iter(folio.as_ptr().cast(), offset, length,",
            "copy_page_to_iter(folio.as_ptr().cast(), offset ^ (offset == 77) as usize, length,",
        ],
        "rw::transfers_begin",
    ),
    mutant(
        "write_lands_beside",
        "write(2) stores at the file position",
        IOV,
        [
            "copy_folio_from_iter_atomic(folio.as_ptr(), offset, length,",
            "copy_folio_from_iter_atomic(folio.as_ptr(), offset ^ (offset == 77) as usize, length,",
        ],
        "rw::transfers_begin",
    ),
    mutant(
        "a_source_is_there_or_not",
        "a write(2) from untouched memory that ends early returns what was copied",
        IOV,
        ["        left < length\n", "        left == 0\n"],
        "rw::write_from_a_buffer_that_ends_early rw::transfers_that_end",
    ),
    Mutant {
        kernel: "debug",
        ..mutant(
            "copies_from_past_the_folio",
            "nothing outside of a folio is copied",
            IOV,
            [
                "let length = folio.accessible(offset, length);\n        if length == 0 {\n            return 0;\n        }\n        // SAFETY: The bytes lie within the folio, whose",
                "// SAFETY: The bytes lie within the folio, whose",
            ],
            "kunit::every_case",
        )
    },
    // src/abstractions/mm/folio.rs
    Mutant {
        kernel: "debug",
        ..mutant(
            "what_a_new_page_held",
            "a new buffer holds nothing from before the load",
            FOLIO,
            [
                "folio_alloc_noprof(gfp | bindings::__GFP_ZERO, order)",
                "folio_alloc_noprof(gfp, order)",
            ],
            "content::a_new_buffer",
        )
    },
    mutant(
        "folios_are_never_freed",
        "an unload gives every page back",
        FOLIO,
        [
            "            unsafe { bindings::__folio_put(folio.as_ptr()) };",
            "            let _ = bindings::__folio_put as usize;",
        ],
        "lifecycle::running_out",
    ),
    mutant(
        "look_ups_keep_a_reference",
        "an unload gives every page back",
        FOLIO,
        [
            "if unsafe { bindings::atomic_dec_and_test(folio.refcount()) } {",
            "if unsafe { false && bindings::atomic_dec_and_test(folio.refcount()) } {",
        ],
        "capacity::loads",
    ),
    mutant(
        "orders_up_to_seven",
        "a folio has as many pages as it has",
        FOLIO,
        [
            "flags.read_volatile() as u32 & 0xff",
            "flags.read_volatile() as u32 & 7",
        ],
        "fdinfo::huge",
    ),
    mutant(
        "every_page_is_the_first",
        "each page of a folio is its own",
        FOLIO,
        [
            "self.page(index.checked_sub(self.index())?)",
            "self.page(0 * index.checked_sub(self.index())?)",
        ],
        "pages::one_page_is_there",
    ),
    Mutant {
        kernel: "debug",
        ..mutant(
            "a_page_behind_the_folio",
            "a folio has no page but its own",
            FOLIO,
            ["if n >> self.order() != 0 {", "if n >> self.order() > 1 {"],
            "kunit::every_case",
        )
    },
    mutant(
        "pages_never_go_bad",
        "a page with a memory error is never mapped",
        FOLIO,
        [
            "            Some(flags) => unsafe { Self::test(flags, bindings::pageflags_PG_has_hwpoisoned) },",
            "            Some(_) => false,",
        ],
        "poison::a_folio_that_cannot",
    ),
    mutant(
        "a_bad_page_that_stands_alone",
        "a folio of one page with a memory error is not accessed",
        FOLIO,
        [
            "None => self.test_head(bindings::pageflags_PG_hwpoison),",
            "None => false,",
        ],
        "poison::a_folio_that_cannot",
    ),
    mutant(
        "all_pages_of_a_folio_are_bad",
        "the pages beside one with a memory error are unharmed",
        FOLIO,
        [
            "bindings::pageflags_PG_hwpoison,\n                )",
            "bindings::pageflags_PG_head,\n                )",
        ],
        "poison::all_other_pages poison::a_folio_that_cannot",
    ),
    mutant(
        "nothing_before_a_bad_page",
        "a transfer ends where a page with a memory error begins",
        FOLIO,
        [
            "Some(n) => (n * PAGE_SIZE).saturating_sub(offset),",
            "Some(_) => 0,",
        ],
        "poison::a_folio_that_cannot",
    ),
    Mutant {
        by: By::Kernel,
        kernel: "debug",
        ..mutant(
            "access_past_the_folio",
            "a folio is accessed within it",
            FOLIO,
            [
                "let length = length.min(self.size().saturating_sub(offset));\n        if",
                "let length = length.max(self.size()) - offset;\n        if",
            ],
            "kunit::every_case",
        )
    },
    Mutant {
        kernel: "debug",
        ..mutant(
            "bytes_at_the_page_s_start",
            "bytes are stored at their place in a page",
            FOLIO,
            [
                "start.cast::<u8>().wrapping_add(in_page)",
                "start.cast::<u8>().wrapping_add(0 * in_page)",
            ],
            "kunit::every_case",
        )
    },
    mutant(
        "bad_source_goes_on",
        "a write(2) from a bad address ends",
        IOV,
        [
            "            bindings::copy_folio_from_iter_atomic(folio.as_ptr(), offset, length, self.as_raw())\n",
            "            bindings::copy_folio_from_iter_atomic(folio.as_ptr(), offset, length, self.as_raw());\n            length\n",
        ],
        "rw::write_from_a_buffer_that_ends_early",
    ),
    mutant(
        "clear_of_half_a_page",
        "CLEAR zeroes all of a page",
        FOLIO,
        [
            "0..length / size_of::<usize>()",
            "0..length / size_of::<usize>() / 2",
        ],
        "ioctl::clear_zeroes",
    ),
    Mutant {
        kernel: "debug",
        ..mutant(
            "zeros_past_a_page",
            "pages are zeroed as a whole",
            FOLIO,
            [
                "if (offset | length) % PAGE_SIZE != 0 {",
                "if offset % PAGE_SIZE != 0 {",
            ],
            "kunit::every_case",
        )
    },
    Mutant {
        kernel: "debug",
        ..mutant(
            "store_past_the_folio",
            "nothing outside of a folio is touched",
            FOLIO,
            [
                "        if end > self.size() {\n            return Err(EINVAL);\n        }\n        let mut at",
                "        let mut at",
            ],
            "kunit::every_case",
        )
    },
    Mutant {
        kernel: "debug",
        ..mutant(
            "counts_that_wrap",
            "leaked references keep a folio for good",
            FOLIO,
            ["before < 0 || before == i32::MAX", "before == i32::MIN"],
            "kunit::every_case",
        )
    },
    Mutant {
        kernel: "debug",
        ..mutant(
            "stores_to_a_bad_page",
            "nothing is stored to a page with a memory error",
            FOLIO,
            [
                "if self.accessible(offset, length) < length {",
                "if length == usize::MAX {",
            ],
            "kunit::every_case",
        )
    },
    // src/abstractions/mm/pagemap.rs
    mutant(
        "no_large_folios",
        "the buffer stands in huge folios where memory has them",
        PAGEMAP,
        [
            "if cfg!(CONFIG_TRANSPARENT_HUGEPAGE) {",
            "if false && cfg!(CONFIG_TRANSPARENT_HUGEPAGE) {",
        ],
        "huge::the_buffer",
    ),
    mutant(
        "bytes_are_clean",
        "the buffer's bytes stay when caches are dropped",
        PAGEMAP,
        [
            "            bindings::folio_mark_dirty(folio.as_ptr());\n",
            "",
        ],
        "content::the_pages_are",
    ),
    mutant(
        "bytes_to_be_written_out",
        "the buffer has nothing to be written out",
        PAGEMAP,
        [
            "dirty_folio: Some(bindings::noop_dirty_folio),",
            "dirty_folio: Some(bindings::filemap_dirty_folio),",
        ],
        "like_a_file::calls_on",
    ),
    mutant(
        "pages_stay",
        "a page that is to move can move",
        PAGEMAP,
        [
            "            migrate_folio: Some(bindings::filemap_migrate_folio),\n",
            "",
        ],
        "moving::soft_offline_moves",
    ),
    mutant(
        "bad_pages_stay",
        "a page with a memory error is taken away",
        PAGEMAP,
        [
            "            error_remove_folio: Some(bindings::generic_error_remove_folio),\n",
            "",
        ],
        "poison::read_and_write",
    ),
    mutant(
        "pages_of_no_regular_file",
        "a page with a memory error is taken away",
        PAGEMAP,
        [
            "            (*inode).i_mode |= bindings::S_IFREG as bindings::umode_t;\n",
            "",
        ],
        "poison::read_and_write",
    ),
    mutant(
        "the_file_ends_early",
        "each page of the buffer is mapped",
        PAGEMAP,
        [
            "(*inode).i_size = size;",
            "(*inode).i_size = size - PAGE_SIZE as bindings::loff_t;",
        ],
        "cost::first_touch_of_a_shared",
    ),
    mutant(
        "pages_evictable",
        "the pages count as Unevictable",
        PAGEMAP,
        [
            "(*mapping).flags |= 1 << bindings::mapping_flags_AS_UNEVICTABLE;",
            "(*mapping).flags |= 0 << bindings::mapping_flags_AS_UNEVICTABLE;",
        ],
        "capacity::the_buffer_shows",
    ),
    Mutant {
        kernel: "debug",
        ..mutant(
            "folios_larger_than_told",
            "the mapping knows how large its folios are",
            PAGEMAP,
            ["(Self::MAX_ORDER as usize) << bindings", "0 << bindings"],
            "kunit::every_case",
        )
    },
    mutant(
        "load_goes_on_when_killed",
        "a killed insmod ends soon",
        PAGEMAP,
        [
            "            if fatal_signal_pending() {",
            "            if false && fatal_signal_pending() {",
        ],
        "capacity::a_killed_load",
    ),
    mutant(
        "killed_load_leaks",
        "a load that is interrupted gives back what it had",
        PAGEMAP,
        [
            "        this.fill()?;",
            "        if let Err(e) = this.fill() {\n            core::mem::forget(this);\n            return Err(e);\n        }",
        ],
        "capacity::a_killed_load",
    ),
    mutant(
        "no_smaller_folios",
        "a load gets along with smaller folios",
        PAGEMAP,
        [
            "order = order.checked_sub(1).ok_or(e)?;",
            "order = order.checked_sub(99).ok_or(e)?;",
        ],
        "fragmented::a_load",
    ),
    mutant(
        "memory_put_together_for_each_folio",
        "a load looks once for a folio of some size that is not to be had",
        PAGEMAP,
        ["tried = tried.min(order);", "tried = tried.max(order);"],
        "fragmented::a_load",
    ),
    mutant(
        "memory_not_put_together_for_huge_folios",
        "a load looks for folios of the largest size, too",
        PAGEMAP,
        [
            "let mut tried = Self::MAX_ORDER + 1;",
            "let mut tried = Self::MAX_ORDER;",
        ],
        "capacity::only_single",
    ),
    mutant(
        "memory_put_together_for_the_first_folio",
        "a load looks for all folios but those that are not to be had",
        PAGEMAP,
        [
            "self.add_folio(index, order, order < tried)",
            "self.add_folio(index, order, index == 0 && order < tried)",
        ],
        "capacity::only_single",
    ),
    mutant(
        "pages_for_good",
        "the buffer's pages stand where they can be moved away from",
        PAGEMAP,
        [
            "GFP_HIGHUSER_MOVABLE | bindings::__GFP_NOWARN;",
            "GFP_HIGHUSER_MOVABLE & !8 | bindings::__GFP_NOWARN;",
        ],
        "moving::offlining",
    ),
    Mutant {
        kernel: "debug",
        ..mutant(
            "folios_reach_past_the_end",
            "a folio lies within the file",
            PAGEMAP,
            ["        room.ilog2()\n", "        (room.ilog2() + 1)\n"],
            "kunit::every_case",
        )
    },
    Mutant {
        kernel: "debug",
        ..mutant(
            "folios_anywhere",
            "a folio stands at a multiple of its size",
            PAGEMAP,
            [
                "            .min(index.trailing_zeros())\n",
                "            .min(index.trailing_zeros() + 1)\n",
            ],
            "kunit::every_case",
        )
    },
    mutant(
        "load_calls_the_oom_killer",
        "a load that finds no memory is ENOMEM and kills nobody",
        PAGEMAP,
        [
            "gfp |= bindings::__GFP_RETRY_MAYFAIL;",
            "gfp |= 0 * bindings::__GFP_RETRY_MAYFAIL;",
        ],
        "lifecycle::running_out",
    ),
    mutant(
        "single_pages_are_not_insisted_on",
        "a load looks for a single page as long as there is hope",
        PAGEMAP,
        [
            "gfp |= bindings::__GFP_RETRY_MAYFAIL;",
            "gfp |= bindings::__GFP_NORETRY;",
        ],
        "capacity::only_single",
    ),
    mutant(
        "large_folios_at_any_price",
        "a load kills nobody for a large folio",
        PAGEMAP,
        [
            "gfp |= bindings::__GFP_NORETRY;",
            "gfp |= 0 * bindings::__GFP_NORETRY;",
        ],
        "lifecycle::running_out",
    ),
    mutant(
        "failed_allocations_are_logged",
        "a load that finds no memory logs one line",
        PAGEMAP,
        [
            "GFP_HIGHUSER_MOVABLE | bindings::__GFP_NOWARN;",
            "GFP_HIGHUSER_MOVABLE;",
        ],
        "lifecycle::more_than_all",
    ),
    mutant(
        "a_load_takes_the_reserves",
        "a load leaves the reserves to others",
        PAGEMAP,
        [
            "GFP_HIGHUSER_MOVABLE | bindings::__GFP_NOWARN;",
            "GFP_HIGHUSER_MOVABLE | bindings::__GFP_NOWARN | 1 << 5;",
        ],
        "capacity::only_single",
    ),
    mutant(
        "a_load_of_one_node",
        "a load takes memory of any node",
        PAGEMAP,
        [
            "GFP_HIGHUSER_MOVABLE | bindings::__GFP_NOWARN;",
            "GFP_HIGHUSER_MOVABLE | bindings::__GFP_NOWARN | 1 << 21;",
        ],
        "capacity::only_single",
    ),
    mutant(
        "a_locked_folio_is_none",
        "who wants a folio that is being moved waits for it",
        PAGEMAP,
        [
            "bindings::FGP_LOCK | bindings::FGP_DONTCACHE",
            "bindings::FGP_LOCK | bindings::FGP_DONTCACHE | 0x20",
        ],
        "moving::mappings_made",
    ),
    mutant(
        "one_page_twice",
        "each page of the buffer is its own",
        PAGEMAP,
        ["self.find(index, 0)", "self.find(index & !1, 0)"],
        "poison::several poison::all_other",
    ),
    Mutant {
        by: By::Kernel,
        ..mutant(
            "errors_are_folios",
            "what a memory error has taken is no folio",
            PAGEMAP,
            [".filter(|_| !is_err)", ".filter(|_| !is_err || true)"],
            "poison::read_and_write",
        )
    },
    mutant(
        "huge_size_counts_folios",
        "the size of huge folios is in bytes",
        PAGEMAP,
        ["size += HUGE_FOLIO_SIZE;", "size += PAGE_SIZE;"],
        "fdinfo::huge",
    ),
    mutant(
        "huge_size_ends_at_a_bad_page",
        "the size of huge folios is that of all of them",
        PAGEMAP,
        [
            "let order = self.folio(index).map_or(0, |folio| folio.order());",
            "let Some(order) = self.folio(index).map(|folio| folio.order()) else {\n                break;\n            };",
        ],
        "poison::all_other",
    ),
    mutant(
        "small_folios_are_huge",
        "only huge folios count as such",
        PAGEMAP,
        [
            "if PAGE_SIZE << order == HUGE_FOLIO_SIZE {",
            "if PAGE_SIZE << order <= HUGE_FOLIO_SIZE {",
        ],
        "fdinfo::size_and_pages",
    ),
    mutant(
        "file_leaks",
        "an unload gives the file and its pages back",
        PAGEMAP,
        [
            "        unsafe { bindings::__fput_sync(self.file.as_ptr()) };\n    }\n}\n\n#[kunit",
            "        let _ = bindings::__fput_sync as usize;\n    }\n}\n\n#[kunit",
        ],
        "capacity::loads",
    ),
    Mutant {
        by: By::Kernel,
        ..mutant(
            "file_goes_after_the_module",
            "an unload waits for the end of its file",
            PAGEMAP,
            [
                "        unsafe { bindings::__fput_sync(self.file.as_ptr()) };\n    }\n}\n\n#[kunit",
                "        unsafe { bindings::fput(self.file.as_ptr()) };\n    }\n}\n\n#[kunit",
            ],
            "lifecycle::loads",
        )
    },
    mutant(
        "chatty_unload",
        "an unload logs nothing",
        PAGEMAP,
        [
            "    fn drop(&mut self) {\n",
            "    fn drop(&mut self) {\n        pr_info!(\"unloaded\\n\");\n",
        ],
        "lifecycle::unload_logs",
    ),
    // src/abstractions/mm/virt.rs
    Mutant {
        kernel: "debug",
        ..mutant(
            "faults_with_another_file_s_folio",
            "only pages of the file itself are mapped",
            VIRT,
            [
                "Ok(folio) if !folio.belongs_to(mapping) => Err(FaultError::Sigbus),",
                "Ok(folio) if folio.belongs_to(core::ptr::null()) && mapping.is_null() => Err(FaultError::Sigbus),",
            ],
            "kunit::every_case",
        )
    },
    Mutant {
        kernel: "debug",
        ..mutant(
            "insertion_of_another_file_s_page",
            "only pages of the file itself are mapped",
            VIRT,
            [
                "if !mapping.is_some_and(|mapping| folio.belongs_to(mapping)) {",
                "if mapping.is_none() {",
            ],
            "kunit::every_case",
        )
    },
    Mutant {
        kernel: "debug",
        ..mutant(
            "operations_for_a_mixed_map",
            "a mixed map gets no operations",
            VIRT,
            [
                "if vma.flags() & flags::MIXEDMAP != 0 {",
                "if vma.flags() == !0 {",
            ],
            "kunit::every_case",
        )
    },
    mutant(
        "no_fault_handler",
        "a page that nobody has read may be written to first",
        VIRT,
        [
            "        fault: Some(Self::fault),\n        #[cfg",
            "        #[cfg",
        ],
        "fault::first_access",
    ),
    mutant(
        "no_faults_around",
        "one fault brings all that a page table holds",
        VIRT,
        ["        map_pages: Some(Self::map_pages),\n", ""],
        "cost::first_touch_of_a_shared",
    ),
    mutant(
        "no_huge_faults",
        "one fault maps several huge folios",
        VIRT,
        [
            "        #[cfg(CONFIG_TRANSPARENT_HUGEPAGE)]\n        huge_fault: Some(Self::huge_fault),\n",
            "",
        ],
        "huge::huge_folios_around",
    ),
    Mutant {
        by: By::Time,
        ..mutant(
            "huge_entries_in_the_way",
            "a store to a huge entry that does not let it pass comes to its end",
            VIRT,
            [
                "|| (*vmf).pmd.read_volatile().pmd != 0",
                "|| (*vmf).pmd.read_volatile().pmd == 1",
            ],
            "huge::stores_pass",
        )
    },
    mutant(
        "mappings_do_not_split",
        "munmap(2), mprotect(2) and mremap(2) work on a part of a mapping",
        VIRT,
        [
            "        map_pages: Some(Self::map_pages),\n",
            "        map_pages: Some(Self::map_pages),\n        may_split: Some({\n            unsafe extern \"C\" fn refuse(_: *mut bindings::vm_area_struct, _: usize) -> kernel::ffi::c_int {\n                -22\n            }\n            refuse\n        }),\n",
        ],
        "pages::munmap_in_the_middle",
    ),
    mutant(
        "stores_come_one_by_one",
        "one fault brings all that a page table holds, for stores as well",
        VIRT,
        [
            "if is_shared_write(vmf) && !is_tracked(vma(vmf)) {",
            "if false && is_shared_write(vmf) && !is_tracked(vma(vmf)) {",
        ],
        "cost::first_touch_of_a_shared",
    ),
    mutant(
        "private_stores_bring_the_others",
        "a first store to a private page copies it at once",
        VIRT,
        [
            "if is_shared_write(vmf) && !is_tracked(vma(vmf)) {",
            "if is_write(vmf) && !is_tracked(vma(vmf)) {",
        ],
        "pages::more_pages",
    ),
    mutant(
        "stores_around_go_unseen",
        "who tracks writes sees each of them",
        VIRT,
        [
            "if is_shared_write(vmf) && !is_tracked(vma(vmf)) {",
            "if is_shared_write(vmf) {",
        ],
        "huge::soft_dirty like_a_file::soft_dirty like_a_file::userfaultfd_tracks_first",
    ),
    mutant(
        "soft_dirty_is_no_tracking",
        "who has cleared the soft-dirty bits sees each write",
        VIRT,
        [
            "flags & bindings::__VM_UFFD_FLAGS != 0\n        || (cfg!(CONFIG_MEM_SOFT_DIRTY) && flags & flags::SOFTDIRTY == 0)",
            "flags & bindings::__VM_UFFD_FLAGS != 0",
        ],
        "soft_dirty",
    ),
    mutant(
        "userfaultfd_is_no_tracking",
        "who has write-protected pages with userfaultfd sees each write",
        VIRT,
        [
            "flags & bindings::__VM_UFFD_FLAGS != 0\n        ||",
            "false\n        ||",
        ],
        "like_a_file::userfaultfd_tracks",
    ),
    Mutant {
        by: By::Kernel,
        ..mutant(
            "private_stores_count_as_shared",
            "a store to a private mapping reaches nobody else",
            VIRT,
            [
                "unsafe { is_write(vmf) && vm_flags(vma(vmf)) & flags::SHARED != 0 }",
                "unsafe { is_write(vmf) && vm_flags(vma(vmf)) != 0 }",
            ],
            "cow::",
        )
    },
    mutant(
        "huge_entries_shifted",
        "a huge entry leads to the folio that stands there",
        VIRT,
        [
            "                        && folio.index() == window.pgoff\n",
            "",
        ],
        "huge::no_entries",
    ),
    mutant(
        "the_first_page_stands_for_all",
        "a bad page is no reason not to map the others of its page table",
        VIRT,
        [
            "_ => bindings::vm_fault_reason_VM_FAULT_FALLBACK,",
            "Ok(_) => bindings::vm_fault_reason_VM_FAULT_FALLBACK,\n                Err(e) => e.reason(),",
        ],
        "poison::several",
    ),
    mutant(
        "bad_pages_in_huge_entries",
        "a folio with a memory error is mapped page by page",
        VIRT,
        [
            "                        && !folio.has_hwpoisoned() =>\n",
            "                        =>\n",
        ],
        "poison::a_folio_that_cannot",
    ),
    mutant(
        "huge_entries_one_by_one",
        "huge entries around are filled too",
        VIRT,
        [
            "const HUGE_FAULT_AROUND: usize = 16;",
            "const HUGE_FAULT_AROUND: usize = 1;",
        ],
        "huge::huge_folios_around",
    ),
    mutant(
        "huge_entries_by_eights",
        "sixteen huge entries are filled at once",
        VIRT,
        [
            "const HUGE_FAULT_AROUND: usize = 16;",
            "const HUGE_FAULT_AROUND: usize = 8;",
        ],
        "huge::huge_folios_around",
    ),
    mutant(
        "huge_entries_by_thirty_twos",
        "no more than sixteen huge entries are filled at once",
        VIRT,
        [
            "const HUGE_FAULT_AROUND: usize = 16;",
            "const HUGE_FAULT_AROUND: usize = 32;",
        ],
        "huge::huge_folios_around",
    ),
    mutant(
        "huge_entries_beside",
        "the huge entries around lead to the folios that stand there",
        VIRT,
        [
            "                around.__bindgen_anon_1.pgoff.wrapping_add_signed(pages);",
            "                around.__bindgen_anon_1.pgoff.wrapping_add_signed(2 * pages);",
        ],
        "huge::huge_folios_around",
    ),
    mutant(
        "huge_entries_on_both_sides",
        "huge entries are filled in aligned groups",
        VIRT,
        [
            "let first = accessed - accessed % HUGE_FAULT_AROUND;",
            "let first = accessed.saturating_sub(HUGE_FAULT_AROUND / 2);",
        ],
        "huge::huge_folios_around_go",
    ),
    mutant(
        "huge_entries_for_private_stores",
        "a store to a private mapping copies one page",
        VIRT,
        [
            "(is_write(vmf) && (!is_shared_write(vmf) || is_tracked(vma(vmf))))",
            "(is_write(vmf) && is_tracked(vma(vmf)))",
        ],
        "huge::a_first_store",
    ),
    mutant(
        "huge_entries_for_tracked_stores",
        "a store that somebody tracks maps its page at once",
        VIRT,
        [
            "(is_write(vmf) && (!is_shared_write(vmf) || is_tracked(vma(vmf))))",
            "(is_write(vmf) && !is_shared_write(vmf))",
        ],
        "huge::soft_dirty",
    ),
    mutant(
        "windows_of_all_of_the_mapping",
        "a window lies within a page table",
        VIRT,
        [
            "let start = table.max(vma.start());",
            "let start = vma.start();",
        ],
        "pages::",
    ),
    Mutant {
        by: By::Kernel,
        ..mutant(
            "windows_past_the_mapping",
            "a window lies within the mapping",
            VIRT,
            [
                "let last = (table + (bindings::PMD_SIZE - 1)).min(vma.end() - 1);",
                "let last = table + (bindings::PMD_SIZE - 1);",
            ],
            "pages::",
        )
    },
    Mutant {
        by: By::Kernel,
        ..mutant(
            "windows_shifted",
            "a window shows the pages that stand there",
            VIRT,
            [
                "unsafe { pgoff(vmf) } - (address - start) / PAGE_SIZE,",
                "unsafe { pgoff(vmf) } - (address - start) / PAGE_SIZE + 1,",
            ],
            "pages::every_page_faults pages::every_window",
        )
    },
    mutant(
        "windows_less_a_page",
        "a window reaches to the end of the mapping",
        VIRT,
        [
            "pages: (last - start) / PAGE_SIZE + 1,",
            "pages: ((last - start) / PAGE_SIZE).max(1),",
        ],
        "cost::first_touch_of_a_shared",
    ),
    mutant(
        "mmap_counts_from_page_0",
        "mmap(2)'s offset selects the page",
        VIRT,
        [
            "unsafe { (*self.as_ptr()).vm_pgoff }",
            "unsafe { 0 * (*self.as_ptr()).vm_pgoff }",
        ],
        "pages::every_window",
    ),
    mutant(
        "nothing_is_locked",
        "what MAP_LOCKED maps is locked",
        VIRT,
        [
            "self.flags() & bindings::VM_LOCKED != 0",
            "self.flags() & bindings::VM_LOCKED == 1",
        ],
        "mmap::flags_locked",
    ),
    mutant(
        "mappings_stay_mixed",
        "a mapping of one page is an ordinary one",
        VIRT,
        [
            "        unsafe { (*self.as_ptr()).__bindgen_anon_2.vm_flags = before };\n",
            "        let _ = before;\n",
        ],
        "mmap::the_vma",
    ),
    mutant(
        "inserted_writable_through_private",
        "a store to a private mapping reaches nobody else",
        VIRT,
        [
            "        let before = self.flags();\n",
            "        let before = self.flags();\n        unsafe { (*self.as_ptr()).vm_page_prot.pgprot |= 2 };\n",
        ],
        "cow::stores_reach",
    ),
    mutant(
        "sigbus_is_a_memory_error",
        "SIGBUS past the end does not speak of a memory error",
        VIRT,
        [
            "Self::Sigbus => bindings::vm_fault_reason_VM_FAULT_SIGBUS,",
            "Self::Sigbus => bindings::vm_fault_reason_VM_FAULT_HWPOISON,",
        ],
        "mremap::grows_past",
    ),
    mutant(
        "a_memory_error_is_sigbus",
        "SIGBUS on a page with a memory error says so",
        VIRT,
        [
            "Self::HwPoison => bindings::vm_fault_reason_VM_FAULT_HWPOISON,",
            "Self::HwPoison => bindings::vm_fault_reason_VM_FAULT_SIGBUS,",
        ],
        "poison::who_touches",
    ),
    mutant(
        "a_memory_error_of_a_huge_page",
        "a memory error is reported as one of a page",
        VIRT,
        [
            "Self::HwPoison => bindings::vm_fault_reason_VM_FAULT_HWPOISON,",
            "Self::HwPoison => bindings::vm_fault_reason_VM_FAULT_HWPOISON_LARGE,",
        ],
        "poison::who_touches",
    ),
];
