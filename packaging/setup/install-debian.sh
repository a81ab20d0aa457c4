#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Install the Debian packages that homebound needs and that are missing, and those that are named as arguments.
# Asks dpkg first, so that a second run needs neither root nor a network. Debian 12 and 13 have all of
# these names.
set -euo pipefail

packages=(
	bpftool         # finishes the BPF objects; the tests look at their types and at programs with it
	bubblewrap      # the namespaces of a role
	clang           # builds the BPF objects; brings the C headers (libc6-dev, linux-libc-dev)
	dbus            # the tests boot a systemd of their own
	groff-base      # they look at the man pages
	iproute2        # network namespaces of the tests
	libbpf-dev      # bpf_helpers.h for the BPF objects
	libbpf1         # loads them
	libseccomp2     # system call filters
	make
	openssl # a key for the tests
	procps  # they look for processes (pgrep)
	prometheus              # the tests run it, and promtool checks the rules
	prometheus-alertmanager # the same, and amtool
	python3
	python3-bpfcc   # the other loader, which compiles on the host
	python3-systemd # journal and readiness
	python3-venv
	systemd    # the tests run the service under it
	util-linux # unshare, nsenter, mount
	"$@"
)

refuse() {
	printf 'install-debian: %s (%s)\n' "$1" "$2" >&2
	exit "$3"
}

if ! { command -v dpkg-query && command -v apt-get; } >/dev/null; then
	refuse "this is not Debian: no dpkg-query or no apt-get" "install by hand: ${packages[*]}" 69
fi

missing=()
for package in "${packages[@]}"; do
	state=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
	[[ $state == installed ]] || missing+=("$package")
done

if [[ ${#missing[@]} -eq 0 ]]; then
	exit 0
fi
[[ $(id -u) -eq 0 ]] ||
	refuse "Debian packages are missing: ${missing[*]}" "run this as root once, or install them by hand" 77

# Some of them ship a service (prometheus and its like). The tests start programs of their own; nothing is to
# run on this machine that was not there before, neither now (policy-rc.d, if the machine has none) nor at boot.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
	trap 'rm -f "$policy"' EXIT
fi
leave_off() {
	local file serving=()
	mapfile -t serving < <(printf '%s\n' "${missing[@]}" | grep '^prometheus')
	if [[ ${#serving[@]} -eq 0 ]] || ! command -v systemctl >/dev/null; then return; fi
	while read -r file; do
		if [[ $file =~ /systemd/system/([^/@]*\.(service|timer|socket))$ ]]; then
			systemctl --quiet disable "${BASH_REMATCH[1]}" 2>/dev/null || true
		fi
	done < <(dpkg-query --listfiles "${serving[@]}")
}

export DEBIAN_FRONTEND=noninteractive
install=(apt-get install --yes --quiet --quiet --no-install-recommends -o DPkg::Lock::Timeout=120)
printf 'installing Debian packages: %s\n' "${missing[*]}"
# A fresh image has no package lists and an old one names versions that are gone: refresh only then.
if ! "${install[@]}" "${missing[@]}" &>/dev/null; then
	apt-get update --quiet --quiet ||
		refuse "apt-get update failed" "look at /etc/apt and at the network" 69
	"${install[@]}" "${missing[@]}" >/dev/null ||
		refuse "apt-get could not install: ${missing[*]}" "the reason stands above" 69
fi
leave_off
