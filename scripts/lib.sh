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
	trap 'step_failed "$?"' EXIT
	# Not in a condition: that would switch off errexit inside the command.
	"$@" >"$step_log" 2>&1 </dev/null
	trap - EXIT
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

# key_of TEXT...: a short name for what shapes the content of a cache entry.
key_of() {
	printf '%s\0' "$@" | sha256sum | cut -c 1-12
}

# in_range SERIES: is it one of the supported kernels?
in_range() {
	[[ $1 =~ ^[0-9]+\.[0-9]+$ ]] &&
		printf '%s\n' "$supported_min" "$1" "$supported_max" | sort -C -V
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

# make_entry NAME KEY COMMAND...: unless the cache holds NAME-KEY, make it:
# COMMAND fills the directory named by its last argument, which becomes the
# entry in one rename, so an entry that exists is whole.
make_entry() {
	local entry_name=$1 entry=$cache/$1-$2
	shift 2
	[[ ! -d $entry ]] || return 0
	take_lock "$entry_name"
	[[ ! -d $entry ]] || return 0
	rm -rf --one-file-system "$cache/$entry_name.part"
	mkdir "$cache/$entry_name.part"
	"$@" "$cache/$entry_name.part"
	mv -T "$cache/$entry_name.part" "$entry"
}
