// SPDX-License-Identifier: GPL-2.0

//! What `module!` has no field for.
//!
//! C header: [`include/linux/module.h`](srctree/include/linux/module.h)

/// Says which version the module has, to modinfo(8) and in `/sys/module/<name>/version`:
/// `MODULE_VERSION()`. Once for a module, which is no built-in one.
///
/// # Examples
///
/// ```
/// rust_mmapdev::module_version!("1.0.0");
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! module_version {
    ($version:literal) => {
        // The section takes texts of this form, each with a NUL at the end.
        #[allow(unsafe_code)]
        const _: () = {
            const TEXT: &[u8] = ::core::concat!("version=", $version, "\0").as_bytes();

            // As `module!` has it. Where rustc has the linker keep a plain `#[used]` (since 1.97 at
            // the latest), that is a flag of the section, and so a second section of this name.
            #[link_section = ".modinfo"]
            #[used(compiler)]
            static VERSION: [u8; TEXT.len()] = match TEXT.first_chunk() {
                Some(bytes) => *bytes,
                None => ::core::panic!(),
            };
        };
    };
}
