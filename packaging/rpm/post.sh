# As packaging/deb/postinst: $1 is how many versions are there then, 1 for the first.
if [ -d /run/systemd/system ]; then
    systemd-tmpfiles --create shimtap.conf || :
    systemctl daemon-reload
    if [ "$1" = 1 ]; then
        systemctl enable --now shimtap.service || :
    else
        systemctl try-restart shimtap.service || :
    fi
fi
