#!/bin/sh
# Puts shimtap into a node's image: provision.sh [PACKAGE]
#
# Runs inside of it, as root: in a chroot, where nothing runs (debian.sh), in a machine that is being baked (node.pkr.hcl), or on
# a node's first boot (cloud-init.yaml). PACKAGE is a .deb or an .rpm; without it, it is installed already. CONTAINERD_CONFIG
# names containerd's main file where it is not the usual one. Ends with an error where a handler is not wrapped afterwards. Twice
# is as good as once.
set -eu

package=${1:-}
config=${CONTAINERD_CONFIG:-/etc/containerd/config.toml}
containerd=$(command -v containerd) || {
    echo "provision: containerd is not in this image: it has to be installed first" >&2
    exit 1
}

case $package in
    '') ;;
    *.deb) dpkg -i "$package" ;;
    *.rpm) rpm -U --replacepkgs "$package" ;;
    *)
        echo "provision: $package is neither a .deb nor an .rpm" >&2
        exit 64
        ;;
esac

set -- --containerd "$containerd" --containerd-config "$config" --wrapper /usr/bin/containerd-shim-tap-v2
# Only a daemon that runs has to be told.
if [ -d /run/systemd/system ] && systemctl --quiet is-active containerd.service; then
    shimtap install --yes --restart "$@"
else
    shimtap install --yes "$@"
fi

# By containerd's own word, and not by ours that we have done it.
plan=$(shimtap install --dry-run "$@")
if ! echo "$plan" | grep -q '^ *is wrapped ' || echo "$plan" | grep -Eq '^ *(wrap|leave) '; then
    echo "provision: not every handler of this image is wrapped:" >&2
    echo "$plan" >&2
    exit 1
fi
