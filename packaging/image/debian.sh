#!/bin/sh
# A Debian node's image with shimtap in it: debian.sh PACKAGE FOLDER [ROOT]
#
# FOLDER then has disk.img (ext4, no partitions), vmlinuz and initrd, for a hypervisor that is given a kernel; for other forms of
# images see node.pkr.hcl. Each handler of its containerd is wrapped, and the collector starts with it. ROOT is a system that is
# there already and is changed; without it debootstrap makes one (SUITE, MIRROR and SIZE say which, from where, and how large).
#
# Needs root, debootstrap and mke2fs. Nothing is started. A node of a cluster needs a kubelet as well: this image has none.
set -eu

package=$1 folder=$2 root=${3:-}
here=$(cd "$(dirname "$0")" && pwd)
PATH=$PATH:/usr/sbin:/sbin
mkdir -p "$folder"

if [ -z "$root" ]; then
    root=$folder/root
    arch=$(dpkg --print-architecture)
    debootstrap --variant=minbase --include=systemd-sysv,dbus,udev,kmod,iproute2,containerd,runc,containernetworking-plugins,ca-certificates,"linux-image-cloud-$arch" \
        "${SUITE:-bookworm}" "$root" ${MIRROR:+"$MIRROR"}
    echo node >"$root/etc/hostname"
    # As kubeadm's documentation has it: the kubelet's driver is systemd's.
    mkdir -p "$root/etc/containerd"
    cat >"$root/etc/containerd/config.toml" <<'TOML'
version = 2
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = true
TOML
fi

# Its processes are its own: what runs on this machine is none of its business.
work=$root/var/tmp/shimtap
mkdir -p "$work"
cp "$package" "$here/provision.sh" "$work/"
# shellcheck disable=SC2016 # its own words
unshare --mount --pid --fork sh -eu -c '
    mount -t proc proc "$1/proc"
    mount --rbind /dev "$1/dev"
    exec chroot "$1" env DEBIAN_FRONTEND=noninteractive LC_ALL=C sh /var/tmp/shimtap/provision.sh "/var/tmp/shimtap/$2"
' - "$root" "$(basename "$package")"
rm -r "$work"

cp "$root"/boot/vmlinuz-* "$folder/vmlinuz"
cp "$root"/boot/initrd.img-* "$folder/initrd"
rm -f "$folder/disk.img"
mke2fs -q -F -t ext4 -d "$root" "$folder/disk.img" "${SIZE:-4G}"
