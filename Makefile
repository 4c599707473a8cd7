# SPDX-License-Identifier: GPL-2.0
#
# The targets of this project; what they do is in scripts/. The module's own
# build description is in Kbuild.

# The VM's kernel: 7.3, 7.2, 7.3-arm64, ..., see `scripts/kernel --help`; empty is the
# newest that is supported.
KERNEL =
# Tests to run, by name.
TESTS =
# How long `make torture` and `make fuzz` go on, in seconds.
DURATION = 600
# What the random tests begin with; empty is 1.
SEED =
# Not empty: a short benchmark.
QUICK =
# A revision to compare the benchmark with.
BASE = HEAD
# A kernel build tree to build the module for with the host's tools.
KDIR =
# Where `make install` puts files, and below which other root.
PREFIX = /usr/local
DESTDIR =

# The crates have the module's.
version = $(shell sed -nE 's/^version = "(.*)"/\1/p' userspace-tests/Cargo.toml)

kernel = $(if $(KERNEL),--kernel '$(KERNEL)')

# Kbuild asks for the file of this name only when there is no Kbuild, so
# everything below is for people.
.PHONY: module install uninstall deb install-test demo qemu-test matrix long-test torture fuzz vm-run-test clients-test mutants bench bench-test bench-compare bench-check bench-keep shell check doc upstream-check rust-analyzer dist help clean distclean

module: ## build rust_mmapdev.ko, for the VM's kernel or for KDIR=
ifneq ($(KDIR),)
	@ko=$$(scripts/module --kdir '$(KDIR)') && cp "$$ko" .
else
	@ko=$$(scripts/module $(kernel)) && cp "$$ko" .
endif
	@echo rust_mmapdev.ko

install: ## install it for the running kernel, or for KDIR=; DESTDIR=, PREFIX=
	@scripts/install $(if $(KDIR),--kdir '$(KDIR)') --destdir '$(DESTDIR)' --prefix '$(PREFIX)'

uninstall: ## remove what `make install` has put there
	@scripts/install --remove --destdir '$(DESTDIR)' --prefix '$(PREFIX)'

deb: ## build the Debian package rust-mmapdev-dkms
	@scripts/deb

install-test: ## install the package on a Debian disk image, boot it, remove it
	@scripts/install-test

demo: ## a guided tour of the device in the VM
	@program=$$(scripts/crate-binary $(kernel) bin demo) && \
		scripts/vm-run $(kernel) --no-module -- "$$program"

qemu-test: ## run the tests in the VM; TESTS=pattern runs some
	@scripts/qemu-test $(kernel) $(if $(TESTS),'$(TESTS)')

matrix: ## run the tests on every kernel there is, one table at the end
	@scripts/matrix

long-test: ## the same tests at length, for some hours; TESTS=, SEED=
	@scripts/qemu-test $(kernel) --long $(if $(SEED),--seed '$(SEED)') $(if $(TESTS),'$(TESTS)')

torture: ## storms over the device for DURATION=600 seconds; SEED=
	@scripts/qemu-test $(kernel) --duration '$(DURATION)' $(if $(SEED),--seed '$(SEED)') storm

vm-run-test: ## run the tests of scripts/vm-run itself
	@scripts/vm-run-test

clients-test: ## fio, stress-ng, memtester, Python and numpy on the device in the VM
	@scripts/clients-test $(kernel)

mutants: ## test the tests: do they notice wrong changes to the module?; TESTS=
	@scripts/mutants $(if $(TESTS),'$(TESTS)')

fuzz: ## hostile calls on the debug kernel for DURATION=600 seconds; SEED=
	@scripts/fuzz $(kernel) --duration '$(DURATION)' $(if $(SEED),--seed '$(SEED)')

bench: ## what a mapping costs, as a table and in build/bench/report.html; QUICK=yes
	@scripts/bench $(kernel) $(if $(QUICK),--quick)

bench-test: ## show that report to a headless browser
	@scripts/bench-test

bench-compare: ## which rows have moved since revision BASE=, in instructions
	@scripts/bench $(kernel) --compare '$(BASE)'

bench-check: ## compare one row with the figures kept in the tree
	@scripts/bench $(kernel) --check

bench-keep: ## keep the figures of that row
	@scripts/bench $(kernel) --keep

shell: ## a shell in the VM with the module loaded
	@scripts/vm-run $(kernel) --tty -- qemu/shell

check: ## formatting, lints and the rules of the source tree
	@scripts/check

doc: ## build the documentation of the abstractions and of the client library
	@scripts/doc $(kernel)

upstream-check: ## would the kernel take src/abstractions? lay it in its tree and see
	@scripts/upstream-check

rust-analyzer: ## tell editors of the module: writes rust-project.json
	@scripts/rust-analyzer $(kernel)

dist: ## an archive of the last commit's sources, from which all of this works
	@mkdir -p build
	@git archive --prefix=rust_mmapdev-$(version)/ -o build/rust_mmapdev-$(version).tar.gz HEAD
	@echo build/rust_mmapdev-$(version).tar.gz

help: ## list the targets
	@echo 'make TARGET [KERNEL=7.2]   (without KERNEL: the newest supported; debug: one'
	@echo '                            with the checks of qemu/debug.config)'
	@sed -nE 's/^([a-z-]+):.*## (.*)/  \1\t\2/p' Makefile | expand -t 16

clean: ## remove what was built here
	rm -rf build rust_mmapdev.ko rust-project.json userspace-tests/target

distclean: clean ## remove the cache as well: build tools and kernels
	@scripts/remove-cache
