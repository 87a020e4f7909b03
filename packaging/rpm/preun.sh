# As packaging/deb/prerm: $1 is how many versions are left then, 0 for a removal.
[ "$1" = 0 ] || exit 0
if [ -e /var/lib/shimtap/install.json ]; then
    echo "shimtap: containerd is still told to start the wrapper; run: shimtap uninstall --yes --restart" >&2
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
