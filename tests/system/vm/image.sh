#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# image.sh KERNEL: a disk image and a kernel for vm.py; prints the folder that has them. A Debian 12 without
# homebound, with its own kernel (6.1) or the newer one of its backports (6.12). Made once and kept in CACHE
# (~/.cache/homebound/vm) until this file changes. Root. The mirrors are those of this machine's own apt.
set -euo pipefail

release=$1
here=$(dirname "$(realpath "$0")")
cache=${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/homebound/vm}
out=$cache/$release-$(cat "$here/image.sh" "$here/kernel.py" | sha256sum | cut -c1-12)
if [[ -e $out/root.img ]]; then
	echo "$out"
	exit
fi
case $release in
6.1) suite=bookworm ;;
6.12) suite=bookworm-backports ;;
*) echo "image.sh: no kernel $release here (take 6.1 or 6.12)" >&2 && exit 64 ;;
esac
mkdir -p "$cache"
part=$(mktemp -d "$cache/part.XXXXXX")
root=$part/root
trap 'rm -rf --one-file-system "$part"' EXIT

packages=systemd,systemd-sysv,dbus,udev,kmod,iproute2,procps,ca-certificates,openssl,python3,python3-venv
packages+=,python3-systemd,python3-bpfcc,linux-libc-dev,bubblewrap,libbpf1,libseccomp2,libgomp1,zlib1g,util-linux
# shellcheck disable=SC2016 # apt's own variables
mirror() { apt-get indextargets --format '$(REPO_URI) $(CODENAME)' 'Created-By: Packages' | awk -v p="$1" '$2 == p { print $1; exit }'; }
# Whichever Debian this machine is, a mirror has the other releases too.
here_is=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
main=$(mirror "$here_is") security=$(mirror "$here_is-security")
: "${main:?run apt-get update first}"
sources=("deb $main bookworm main" "deb $main bookworm-backports main")
[[ -z $security ]] || sources+=("deb $security bookworm-security main")
base=$cache/base-$release-$(echo "$packages" | sha256sum | cut -c1-12).tar
if [[ ! -e $base ]]; then
	mmdebstrap --quiet --variant=minbase --include="$packages,linux-image-cloud-amd64/$suite" \
		--aptopt='Apt::Install-Recommends "false"' bookworm "$part/base.tar" "${sources[@]}" >&2
	mv "$part/base.tar" "$base"
fi
mkdir "$root"
tar -C "$root" -xf "$base"
kernel=$(basename "$(echo "$root"/lib/modules/*)")
echo vm >"$root/etc/hostname"
echo '127.0.0.1 localhost vm' >"$root/etc/hosts"
echo '/dev/nvme0n1 / ext4 defaults,noatime 0 0' >"$root/etc/fstab"
echo 5ca1ab1e5ca1ab1e5ca1ab1e5ca1ab1e >"$root/etc/machine-id"

# The job of a boot lies on the disk d1, as a tar; what it says goes to the second serial line. Each further
# disk is mounted read-only where the job says, before a service that starts with the machine looks for it.
cat >"$root/usr/local/sbin/disks" <<-'DISKS'
	#!/bin/bash
	mkdir -p /run/job
	udevadm settle
	tar -C /run/job -xf /dev/disk/by-id/virtio-d1
	while read -r disk place; do mkdir -p "$place" && mount -o ro,noload "$disk" "$place"; done </run/job/disks
	DISKS
cat >"$root/etc/systemd/system/disks.service" <<-'UNIT'
	[Unit]
	Before=homebound.service job.service
	[Service]
	Type=oneshot
	RemainAfterExit=yes
	ExecStart=/usr/local/sbin/disks
	[Install]
	WantedBy=multi-user.target
UNIT
cat >"$root/usr/local/sbin/job" <<-'JOB'
	#!/bin/bash
	stty -F /dev/ttyS1 raw -echo
	exec </dev/null >/dev/ttyS1 2>&1
	cd /root
	export HOME=/root LANG=C.UTF-8 SYSTEMD_PAGER= DEBIAN_FRONTEND=noninteractive
	bash /run/job/job.sh
	sync
	systemctl --no-block poweroff --force
JOB
chmod 755 "$root"/usr/local/sbin/{disks,job}
cat >"$root/etc/systemd/system/job.service" <<-'UNIT'
	[Unit]
	After=multi-user.target
	[Service]
	ExecStart=/usr/local/sbin/job
	[Install]
	WantedBy=multi-user.target
UNIT
systemctl --quiet --root="$root" enable disks.service job.service
systemctl --quiet --root="$root" mask getty.target apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
	e2scrub_all.timer e2scrub_reap.service fstrim.timer man-db.timer systemd-timesyncd.service
mkdir -p "$root/var/log/journal"

# An uncompressed kernel boots without a loader and without unpacking itself, which takes long when emulated.
python3 "$here/kernel.py" "$root/boot/vmlinuz-$kernel" "$part/vmlinux"
rm -f "$root"/boot/initrd.img-*
mke2fs -q -t ext4 -E lazy_itable_init=1 -L root -d "$root" "$part/root.img" 5G >&2
rm -rf "$root"
mv "$part" "$out"
chmod 755 "$out"
echo "$out"
