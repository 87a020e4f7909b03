# As packaging/deb/prerm: $1 is how many versions are left then, 0 for a removal.
[ "$1" = 0 ] || exit 0
if [ -e /var/lib/shimtap/install.json ]; then
    echo "shimtap: containerd is still told to start the wrapper; run: shimtap uninstall --yes --restart" >&2
    exit 1
fi
# What an administrator has done by hand is in no record.
for link in /opt/containerd/bin/* /var/lib/containerd/opt/bin/*; do
    case "$(readlink -f "$link")" in
    */containerd-shim-tap-v2) ;;
    *) continue ;;
    esac
    echo "shimtap: containerd starts the wrapper by $link; lead it to the real shim first (/usr/share/doc/shimtap/docs/docker.md says how)" >&2
    exit 1
done
names=$(grep -RlsE --include='*.toml' --include=daemon.json '^[^#]*(containerd-shim-tap-|io\.containerd\.tap-)' \
    /etc/containerd /etc/docker | head -n 1)
if [ -n "$names" ]; then
    echo "shimtap: $names tells containerd to start the wrapper; take that out and restart containerd first" >&2
    exit 1
fi
for lock in /run/shimtap-shim/s/*.alive; do
    # Held by keeper and worker for as long as they live.
    [ -e "$lock" ] || continue
    flock --nonblock "$lock" true && continue
    echo "shimtap: pods still run with the wrapper, and containerd needs it to clean up after them; end them first" >&2
    exit 1
done
# Enabled again by the next installation.
systemctl --no-reload disable shimtap.service || :
if [ -d /run/systemd/system ]; then
    systemctl stop shimtap.service || :
fi
