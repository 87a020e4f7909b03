# As packaging/deb/postinst: $1 is how many versions are there then, 1 for the first. Enabled also where systemd does not run,
# in the tree of an image that is being built.
if [ "$1" = 1 ]; then
    systemctl enable shimtap.service || :
fi
if [ -d /run/systemd/system ]; then
    systemd-tmpfiles --create shimtap.conf || :
    systemctl daemon-reload || :
    if [ "$1" = 1 ]; then
        systemctl start shimtap.service || :
    else
        systemctl try-restart shimtap.service || :
    fi
fi
