# SPDX-License-Identifier: GPL-2.0
#
# For the Kbuild file of a module that uses these abstractions: set abstractions
# to this directory, include this file, and have the module's object depend on
# $(bindings-generated).
#
# It makes what the kernel crate's bindings leave out. Only prototypes and constants
# are taken, so that no flag matters which concerns code. The sources find it
# through the environment, as they do what is in OBJTREE in the tree.

bindings-header := $(abstractions)/bindings_helper.h
bindings-generated := $(obj)/bindings_generated.rs
export RUST_MMAPDEV_BINDINGS_RS := $(abspath $(bindings-generated))

bindgen-target-x86 := x86_64-linux-gnu
bindgen-target-arm64 := aarch64-linux-gnu

bindgen-functions := filemap_add_folio|__filemap_get_folio_mpol|folio_end_read
bindgen-functions := $(bindgen-functions)|folio_unlock|noop_dirty_folio|filemap_migrate_folio
bindgen-functions := $(bindgen-functions)|anon_inode_(create_)?getfile

quiet_cmd_bindgen_kernel = BINDGEN $@
      cmd_bindgen_kernel = \
	$(BINDGEN) $< --use-core --ctypes-prefix ffi --rust-target 1.85 \
		--no-layout-tests --no-doc-comments --blocklist-type '.*' \
		--allowlist-function '$(bindgen-functions)' \
		--allowlist-var '(RUST_CONST_HELPER|PROT|MAP)_.*|S_IFREG' \
		-o $@ -- $(LINUXINCLUDE) -D__KERNEL__ -D__BINDGEN__ -DMODULE \
		-include $(srctree)/include/linux/compiler_types.h \
		--target=$(bindgen-target-$(SRCARCH)) -std=gnu11 -fms-extensions \
		-fshort-wchar -funsigned-char -fno-builtin -w ; \
	sed -Ei 's/pub const RUST_CONST_HELPER_/pub const /g' $@

$(bindings-generated): $(bindings-header) FORCE
	$(call if_changed,bindgen_kernel)

targets += bindings_generated.rs
