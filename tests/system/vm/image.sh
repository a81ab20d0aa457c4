#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# image.sh SUITE OUT [DEB ...]: a disk image and a kernel for vm.py in OUT, with the packages DEB installed and this
# clone in /srv/clone. SUITE: bookworm (kernel 6.1) or trixie (6.12). Root. The bare system is kept in CACHE
# (~/.cache/homebound/vm) for the next time; the mirrors are those of this machine's own apt.
set -euo pipefail

suite=$1 out=$(realpath -m "$2")
shift 2
clone=$(realpath "$(dirname "$0")/../../..")
cache=${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/homebound/vm}
mkdir -p "$cache" "$out"
packages=systemd,systemd-sysv,dbus,udev,kmod,iproute2,procps,linux-image-cloud-amd64,ca-certificates,openssl
packages+=,python3,python3-venv,python3-systemd,bubblewrap,libbpf1,libseccomp2,libgomp1,man-db

key=$(echo "$packages" "$suite" | sha256sum | cut -c1-12)
base=$cache/$suite-$key.tar
if [[ ! -e $base ]]; then
	# shellcheck disable=SC2016 # apt's own variables
	mirror() { apt-get indextargets --format '$(REPO_URI) $(CODENAME)' 'Created-By: Packages' | awk -v p="$1" '$2 == p { print $1; exit }'; }
	main=$(mirror bookworm) security=$(mirror bookworm-security)
	: "${main:?run apt-get update first}"
	mmdebstrap --quiet --format=tar --variant=minbase --include="$packages" --aptopt='Apt::Install-Recommends "false"' \
		--dpkgopt='path-exclude=/usr/share/locale/*' "$suite" "$base.new" \
		"deb $main $suite main" "deb ${security:-$main} $suite-security main"
	mv "$base.new" "$base"
fi

root=$(mktemp -d "$cache/root.XXXXXX")
trap 'umount -q "$root/proc" || true; rm -rf --one-file-system "$root"' EXIT
tar -C "$root" -xf "$base"
kernel=$(basename "$(echo "$root"/lib/modules/*)")
echo vm >"$root/etc/hostname"
echo '127.0.0.1 localhost vm' >"$root/etc/hosts"
echo '/dev/nvme0n1 / ext4 defaults,noatime 0 0' >"$root/etc/fstab"
echo 5ca1ab1e5ca1ab1e5ca1ab1e5ca1ab1e >"$root/etc/machine-id"

# The job of this boot lies on the second disk, as a tar; what it says goes to the second serial line.
cat >"$root/usr/local/sbin/job" <<-'JOB'
	#!/bin/bash
	stty -F /dev/ttyS1 raw -echo
	exec </dev/null >/dev/ttyS1 2>&1
	mkdir -p /run/job
	tar -C /run/job -xf /dev/nvme1n1
	cd /root
	export HOME=/root LANG=C.UTF-8 SYSTEMD_PAGER=
	bash /run/job/job.sh
	echo "__STATUS=$?"
	sync
	systemctl --no-block poweroff --force
JOB
chmod 755 "$root/usr/local/sbin/job"
cat >"$root/etc/systemd/system/job.service" <<-'UNIT'
	[Unit]
	After=multi-user.target
	[Service]
	ExecStart=/usr/local/sbin/job
	[Install]
	WantedBy=multi-user.target
UNIT
systemctl --quiet --root="$root" enable job.service
systemctl --quiet --root="$root" mask getty.target apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
	e2scrub_all.timer e2scrub_reap.service fstrim.timer man-db.timer systemd-timesyncd.service

if [[ $# -gt 0 ]]; then
	mkdir "$root/srv/dist"
	cp "$@" "$root/srv/dist"
	mount -t proc proc "$root/proc"
	# The lists of what it needs are there, the archives are not asked: all of it is installed already.
	DEBIAN_FRONTEND=noninteractive chroot "$root" sh -c 'apt-get install -qq -y --no-install-recommends /srv/dist/*.deb'
	umount "$root/proc"
	rm -r "$root/srv/dist"
fi
mkdir "$root/srv/clone"
cp -a "$clone"/{daemon,examples,tests,.venv} "$root/srv/clone/"

# An uncompressed kernel boots without a loader and without unpacking itself, which takes long when emulated.
python3 "$clone/tests/system/vm/kernel.py" "$root/boot/vmlinuz-$kernel" "$out/vmlinux"
rm -f "$root"/boot/initrd.img-* "$out/root.img"
mke2fs -q -t ext4 -E lazy_itable_init=1 -L root -d "$root" "$out/root.img" 6G
echo "$suite, kernel $kernel: $(du -sm "$out/root.img" | cut -f1) MB"
