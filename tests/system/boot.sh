#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# boot.sh FOLDER LOWER: become a systemd that is PID 1 over an overlay of LOWER. Called by machine.py inside
# new PID, mount, UTS, IPC and network namespaces; FOLDER has upper/ (a tmpfs), root/ and share/.
# The cgroup namespace stays the host's: the depth of a cgroup is only known from the real root.
set -euo pipefail

folder=$1 lower=$2 root=$1/root

mount -t overlay overlay -o "lowerdir=$lower,upperdir=$folder/upper/changes,workdir=$folder/upper/work" "$root"

# What systemd(1) asks of a container manager: https://systemd.io/CONTAINER_INTERFACE
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,ro,bind "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t bpf bpf "$root/sys/fs/bpf"
mount -t tracefs tracefs "$root/sys/kernel/tracing" || true
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
mkdir "$root/dev/pts" "$root/dev/shm"
for node in null zero full random urandom tty; do
	touch "$root/dev/$node"
	mount --bind "/dev/$node" "$root/dev/$node"
done
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
mount -t tmpfs tmpfs "$root/dev/shm"
for link in ptmx:pts/ptmx fd:/proc/self/fd stdin:fd/0 stdout:fd/1 stderr:fd/2; do
	ln -s "${link#*:}" "$root/dev/${link%%:*}"
done
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mkdir -p "$root/run/machine/share"
mount --bind "$folder/share" "$root/run/machine/share"
while read -r source target; do
	mkdir -p "$root$target"
	mount --bind "$source" "$root$target"
	mount -o remount,ro,bind "$root$target"
done <"$folder/binds"

units=$root/run/systemd/system
mkdir -p "$units"
cat >"$units/machine.target" <<-'UNIT'
	[Unit]
	Requires=basic.target dbus.socket
	After=basic.target dbus.socket
	AllowIsolate=yes
UNIT
# What belongs to hardware, to other packages, or would only take time.
for name in systemd-{remount-fs,modules-load,sysctl,udevd,udev-trigger,timesyncd,random-seed,update-utmp,networkd}.service \
	systemd-{tmpfiles-setup-dev,journal-flush,binfmt,sysusers,firstboot}.service console-getty.service \
	systemd-{hwdb-update,journal-catalog-update,machine-id-commit,pstore,resolved,logind}.service \
	systemd-udevd-{kernel,control}.socket {dev-hugepages,dev-mqueue,tmp}.mount \
	sys-{kernel-debug,kernel-tracing,kernel-config,fs-fuse-connections}.mount \
	proc-sys-fs-binfmt_misc.automount apt-daily{,-upgrade}.timer timers.target; do
	ln -s /dev/null "$units/$name"
done

echo machine >"$root/etc/hostname"
: >"$root/etc/fstab"
echo 5ca1ab1e5ca1ab1e5ca1ab1e5ca1ab1e >"$root/etc/machine-id"
hostname machine
ip link set lo up
mkdir -p "$root/run/old"
cd "$root"
pivot_root . run/old
umount -l /run/old
cd /
# In a container systemd leaves this to its manager; credentials reach a service by propagation.
mount --make-rshared /
exec env -i container=homebound-test PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
	/lib/systemd/systemd --unit=machine.target --log-target=journal --log-level=notice --show-status=0
