# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# Sourced by the other scripts: messages, the cache, the supported kernels.

set -euo pipefail
shopt -s inherit_errexit
umask 022
unset CDPATH
# Where chroot is; not on an ordinary user's path.
PATH=$PATH:/usr/sbin:/sbin

me=${0##*/}
scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck disable=SC2034 # for the scripts that source this
project=${scripts%/*}
cache=${XDG_CACHE_HOME:-${HOME:?is not set}/.cache}/rust_mmapdev

# The kernel series the module is written for; both ends included.
supported_min=7.2
supported_max=7.3

# The VM's kernels that the tests are run on.
# shellcheck disable=SC2034
kernel_names=(7.3 7.3-cloud 7.3-rt 7.2 sid debug 7.3-arm64 7.3-arm64-16k)

# know_kernel NAME: sets what NAME, one of kernel --help, stands for.
# shellcheck disable=SC2034
know_kernel() {
	suite=trixie-backports # Debian's suite that it is from
	series=''              # 7.3; empty: the newest
	flavour=amd64          # as in the names of Debian's packages
	variant=''             # the flavour, or what else is special about it
	arch=amd64             # Debian's name of the architecture, and Rust's
	rust_target=x86_64-unknown-linux-gnu
	toolchain=plain        # the build root that it is built in
	make_options=()        # what its build system is told
	case $1 in
	sid) suite=sid variant=sid toolchain=sid ;;
	debug) variant=debug toolchain=llvm make_options=(LLVM=-19) ;;
	*)
		[[ $1 =~ ^([0-9]+\.[0-9]+)(-(cloud|rt|arm64|arm64-16k))?$ ]] ||
			die "no kernel is called '$1': it is a series like $supported_max, alone or with -cloud, -rt, -arm64 or -arm64-16k; or sid; or debug."
		series=${BASH_REMATCH[1]} flavour=${BASH_REMATCH[3]:-amd64}
		case $flavour in
		cloud | rt) flavour+=-amd64 ;;
		arm64*)
			arch=arm64 rust_target=aarch64-unknown-linux-gnu toolchain=arm64
			make_options=(CROSS_COMPILE_COMPAT=arm-linux-gnueabihf-)
			;;
		esac
		variant=$flavour
		check_series "$series"
		;;
	esac
}

# Exit status of die(); vm-run has its own.
die_status=1

say() {
	printf '%s: %s\n' "$me" "$*" >&2
}

die() {
	say "$@"
	exit "$die_status"
}

# usage: print the comment block at the top of the calling script.
usage() {
	sed -n '/^# SPDX/d; 2,/^[^#]/{/^#/s/^# \{0,1\}//p}' "$0"
}

# needs_value OPTION COUNT: an option with a value is not the last word.
needs_value() {
	(($2 > 1)) || die "$1 needs a value; see $me --help."
}

# step WHAT USUAL COMMAND...: run a long command; its output goes to a log that
# is shown only when the command fails.
step() {
	local usual=$2 start=$SECONDS
	step=$1
	step_log=$cache/logs/$me.${step//[^[:alnum:].]/-}.log
	shift 2
	mkdir -p "$cache/logs"
	say "$step (usually $usual) ..."
	# When a function fails, stderr is still the log in the trap.
	exec {step_stderr}>&2
	trap 'step_failed "$?" 2>&"$step_stderr"' EXIT
	# Not in a condition: that would switch off errexit inside the command.
	"$@" >"$step_log" 2>&1 </dev/null
	trap - EXIT
	exec {step_stderr}>&-
	say "$step: done in $((SECONDS - start)) s"
}

step_failed() { # STATUS
	if (($1 > 128)); then
		say "interrupted; run it again to go on."
	else
		tail -n 30 "$step_log" >&2
		say "failed to $step; the whole output is in $step_log."
	fi
}

# short_hash: a short name for what is on stdin.
short_hash() {
	sha256sum | cut -c 1-8
}

series_of() { # RELEASE
	cut -d. -f1,2 <<<"${1%%[-+]*}"
}

# in_range SERIES: is it one of the supported kernels?
in_range() {
	printf '%s\n' "$supported_min" "$1" "$supported_max" | sort -C -V
}

# The build root with the compilers for programs of the guest, and with its busybox.
root_of_guest() { # ARCHITECTURE
	if [[ $1 = amd64 ]]; then echo plain; else echo "$1"; fi
}

# check_series SERIES: not older than what the module is written for; newer may do.
check_series() {
	printf '%s\n' "$supported_min" "$1" | sort -C -V ||
		die "kernel $1 is not supported: the module is written for $supported_min to $supported_max."
}

say_if_untried() { # SERIES
	in_range "$1" || say "kernel $1 is newer than $supported_max, the newest that this module was tried on."
}

# acquire_conf: the host's proxy and TLS settings, for an apt with a state of its own.
acquire_conf() {
	apt-config dump --format '%F "%v";%n' | grep -E '^Acquire::https?::.* "..*";$' || true
}

# take_lock NAME: wait until no other run holds NAME; held until the process
# and the children it started end.
take_lock() {
	local file=$cache/$1.lock fd
	while :; do
		mkdir -p "$cache"
		exec {fd}>"$file"
		if ! flock -n "$fd"; then
			say "another run is at work on $1; waiting for it to end ..."
			flock "$fd"
		fi
		# Not when the cache was removed meanwhile, and the file with it.
		if [[ $file -ef /proc/self/fd/$fd ]]; then break; fi
		exec {fd}>&-
	done
}

# make_entry NAME COMMAND...: unless the cache holds NAME, make it: COMMAND fills
# the directory named by its last argument, which becomes the entry in one rename,
# so an entry that exists is whole. NAME says what is in it, version and all; the
# script that fills it gives it a revision, to be raised by hand with each change
# of what it fills it with.
make_entry() {
	local entry=$cache/$1
	shift
	[[ ! -d $entry ]] || return 0
	take_lock "${entry##*/}"
	[[ ! -d $entry ]] || return 0
	rm -rf --one-file-system "$entry.part"
	mkdir "$entry.part"
	"$@" "$entry.part"
	mv -T "$entry.part" "$entry"
}

# rustc_options CMD-FILE: what Kbuild told rustc about a crate when it built it,
# for a shell to read; not what was to come of it.
rustc_options() {
	sed -nE '1{s/.* rustc (--edition.*) --crate-type rlib .*/\1/; s/ --emit=[^ ]*//g; p}' "$1"
}
