# What `./dev` needs and does not find: Debian packages, a toolchain, foreign programs that go or cargo build below target/rig.
#
# Whatever is pinned is pinned in `dev`. Each says why it is not there instead of ending the script, where something can go on
# without it.

need_root() {
    [ "$(id -u)" -eq 0 ] || die "a private containerd needs root: run \`sudo ./dev $1\`"
    [ "$(uname -s)" = Linux ] || die "containers need Linux"
    [ -d /sys/fs/cgroup ] || die "there are no cgroups at /sys/fs/cgroup"
}

# sudo hides the caller's toolchains: look where they are. A caller's own rustup goes before a distribution's cargo, which sudo
# does find and which is too old on most.
find_toolchains() {
    caller=${SUDO_USER:-$(id -un)}
    home=$(getent passwd "$caller" | cut -d: -f6)
    PATH=$PATH:/usr/local/go/bin
    if [ -x "$home/.cargo/bin/cargo" ] && { [ "${SUDO_USER:-}" ] || ! command -v cargo >/dev/null; }; then
        PATH=$home/.cargo/bin:$PATH
        : "${RUSTUP_HOME:=$home/.rustup}" "${CARGO_HOME:=$home/.cargo}"
        export RUSTUP_HOME CARGO_HOME
    fi
    export PATH
    needed=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    command -v cargo >/dev/null ||
        die "cargo is not installed: install Rust $needed or newer (rustup does it) and run this again"
    said=$(rustc --version 2>&1) || :
    version=$(echo "$said" | sed -n '1s/^rustc \([0-9][0-9.]*\).*/\1/p')
    [ "$version" ] || die "$(command -v cargo) has no rustc that works ($(echo "$said" | head -n 1)): install Rust $needed or newer"
    [ "$(printf '%s\n' "$needed" "$version" | sort -V | head -n 1)" = "$needed" ] ||
        die "Rust $version ($(command -v rustc)) is too old: install $needed or newer (rustup does it) and run this again"
}

# Packages for the programs that are missing; a list of program and package on stdin. On failure, says why in the
# variable no_packages and returns 1.
install() {
    missing=
    while read -r program package; do
        found=
        case $program in
            /*) [ -e "$program" ] && found=1 ;;
            *) PATH=$PATH:/usr/sbin:/sbin command -v "$program" >/dev/null && found=1 ;;
        esac
        [ "$found" ] || missing="$missing $package"
    done
    [ "$missing" ] || return 0
    if ! command -v apt-get >/dev/null; then
        no_packages="these packages are missing, and there is no apt-get to install them:$missing"
        return 1
    fi
    say "installing$missing"
    # A machine that is thrown away after the run need not have each file on its disk.
    unsafe=
    [ "${CI:-}" != true ] || unsafe="-o Dpkg::Options::=--force-unsafe-io"
    # shellcheck disable=SC2086 # lists of words
    { update_lists && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $unsafe $missing; } \
        >&2 && return 0
    no_packages="apt-get could not install:$missing"
    return 1
}

# Once in a run.
update_lists() {
    [ -z "${SHIMTAP_LISTS_ARE_NEW:-}" ] || return 0
    apt-get update -qq && export SHIMTAP_LISTS_ARE_NEW=1
}

# What everything else needs.
install_packages() {
    install <<PROGRAMS || die "$no_packages"
$(for_all)
PROGRAMS
}

# Programs, and the packages that bring them: for everything.
for_all() {
    cat <<PROGRAMS
containerd containerd
ctr containerd
runc runc
busybox busybox-static
/usr/lib/cni/loopback containernetworking-plugins
ip iproute2
cc gcc
strip binutils
groff groff-base
/usr/include/stdio.h libc6-dev
script bsdutils
setsid util-linux
pkill procps
systemd-analyze systemd
PROGRAMS
}

# For the node VM.
for_vm() {
    cat <<PROGRAMS
debootstrap debootstrap
mke2fs e2fsprogs
qemu-system-x86_64 qemu-system-x86
PROGRAMS
}

# For dockerd, which comes out of its package.
for_docker() {
    cat <<PROGRAMS
/usr/lib/$(uname -m)-linux-gnu/libdevmapper.so.1.02.1 libdevmapper1.02.1
tar tar
PROGRAMS
}

# What installs an .rpm, into a tree of its own.
for_rpm() {
    echo rpm rpm
}

for_promtool() {
    echo promtool prometheus
}

# The node VM's disk, after our programs were built. Says why not on failure, in the variable no_vm.
build_vm() {
    no_vm=
    if [ "$(uname -m)" != x86_64 ]; then
        no_vm="only x86-64 machines were tried"
        return 0
    fi
    if ! install <<PROGRAMS
$(for_vm)
PROGRAMS
    then
        no_vm=$no_packages
        return 0
    fi
    mkdir -p "$rig/vm"
    if ! SHIMTAP_RIG_CACHE=$rig "$(target_dir)/debug/node-vm" image 2>"$rig/vm/build.log"; then
        no_vm=$(tail -n 1 "$rig/vm/build.log")
        no_vm="its disk could not be built: ${no_vm:-see target/rig/vm/build.log}"
    fi
}

# The pinned containerd, its runc shim and ctr. Says why not on failure, in the variable no_pinned.
build_pinned() {
    no_pinned=
    for tool in containerd containerd-shim-runc-v2 ctr; do
        build_with_go "$tool" "$CONTAINERD" \
            go_install "github.com/containerd/containerd/v2/cmd/$tool@$CONTAINERD" || no_pinned=$no_program
    done
}

# An OpenTelemetry Collector by its own builder, and VictoriaLogs. Says why not on failure, in the variable no_backends.
build_backends() {
    no_backends=
    manifest=$root/tests/otelcol/manifest.yaml
    build_with_go otelcol "$OTELCOL-$(cksum <"$manifest" | cut -d' ' -f1)" otelcol &&
        build_with_go victoria-logs "$VICTORIA_LOGS" \
            in_a_module github.com/VictoriaMetrics/VictoriaLogs "$VICTORIA_LOGS" app/victoria-logs || no_backends=$no_program
}

# containerd 1.7, the daemon alone. Says why not on failure, in the variable no_one_seven.
build_one_seven() {
    no_one_seven=
    build_with_go containerd-1.7 "$CONTAINERD_1" \
        in_a_module github.com/containerd/containerd "$CONTAINERD_1" cmd/containerd || no_one_seven=$no_program
}

# Says why not on failure, in the variable no_crictl.
build_crictl() {
    no_crictl=
    build_with_go crictl "$CRICTL" in_a_module sigs.k8s.io/cri-tools "$CRICTL" cmd/crictl || no_crictl=$no_program
}

# Says why not on failure, in the variable no_nerdctl.
build_nerdctl() {
    no_nerdctl=
    build_with_go nerdctl "$NERDCTL" \
        in_a_module github.com/containerd/nerdctl "$NERDCTL" cmd/nerdctl || no_nerdctl=$no_program
}

# Shims that are neither containerd's own nor Kata's: gVisor's with its runtime, and the Rust runc shim. Says why not on failure, in
# the variable no_shims.
build_shims() {
    no_shims=
    if build_with_go runsc "$GVISOR" in_a_module gvisor.dev/gvisor "$GVISOR" runsc &&
        build_with_go containerd-shim-runsc-v1 "$GVISOR" gvisors_shim; then
        rust_runc_shim
    else
        no_shims=$no_program
    fi
}

# Its shim asks for an OOM score of -999 for itself and ends where it may not have it, which takes CAP_SYS_RESOURCE; containerd's own
# goes on without. So does this one: containerd's function that sets the score takes the refusal for an answer. Nothing else is changed.
gvisors_shim() {
    containerd=github.com/containerd/containerd
    printf 'module rig\n\ngo 1.26\n\nrequire gvisor.dev/gvisor %s\n' "$GVISOR" >go.mod &&
        go mod download "$containerd" &&
        cp -r "$(go list -mod=mod -m -f '{{.Dir}}' "$containerd")" containerd && chmod -R u+w containerd &&
        sed -i 's/os\.IsPermission(err) && (/&true || /' containerd/sys/oom_linux.go &&
        grep -q 'true ||' containerd/sys/oom_linux.go &&
        echo "replace $containerd => ./containerd" >>go.mod &&
        go build -mod=mod -o "$program" gvisor.dev/gvisor/shim
}

rust_runc_shim() {
    stamp=$rig/cargo/.containerd-runc-shim-$RUST_RUNC_SHIM
    [ ! -e "$stamp" ] || return 0
    if build_with_cargo containerd-runc-shim "$RUST_RUNC_SHIM"; then
        : >"$stamp"
    else
        no_shims="containerd-runc-shim could not be built"
    fi
    rm -rf "$rig/cargo/target"
}

# dockerd and its client out of the distribution's package, which is unpacked and not installed: its installation starts a
# daemon. Says why not on failure, in the variable no_docker.
fetch_docker() {
    no_docker=
    if ! [ -x "$rig/docker/usr/sbin/dockerd" ] && ! command -v apt-get >/dev/null; then
        no_docker="there is no apt-get to fetch docker.io with"
        return 0
    fi
    # Also where it was fetched before: what was missing then may be missing still.
    if ! install <<PROGRAMS
$(for_docker)
PROGRAMS
    then
        no_docker=$no_packages
        return 0
    fi
    if ! [ -x "$rig/docker/usr/sbin/dockerd" ]; then
        say "fetching docker.io (once)"
        if ! (work_in "$rig/docker.new" && update_lists && apt-get download -qq docker.io && dpkg -x docker.io_*.deb . &&
            rm -f docker.io_*.deb && rm -rf "$rig/docker" && mv "$rig/docker.new" "$rig/docker") >"$rig/docker.log" 2>&1; then
            no_docker="docker.io could not be fetched: see target/rig/docker.log"
            return 0
        fi
    fi
    if ldd "$rig/docker/usr/sbin/dockerd" | grep -q 'not found'; then
        no_docker="libraries of dockerd are missing: $(ldd "$rig/docker/usr/sbin/dockerd" | awk '/not found/ { print $1 }')"
    fi
}

# The program's name, its version, and a function with arguments that puts it at $program, in an empty folder that it is
# called in. Returns 1 on failure and says why in the variable no_program.
build_with_go() {
    name=$1 program=$rig/bin/$1 stamp=$rig/bin/.$1-$2
    shift 2
    no_program=
    [ -e "$stamp" ] && [ -x "$program" ] && return 0
    if ! command -v go >/dev/null; then
        no_program="go is not installed"
        return 1
    fi
    say "building $name (some minutes, once)"
    mkdir -p "$rig/bin"
    # Without what only a debugger reads, and all of them without C, so that the standard library is built once for all.
    if ! (work_in "$rig/go-$name" && GOFLAGS="-buildvcs=false -ldflags=-w" CGO_ENABLED=0 && export GOFLAGS CGO_ENABLED &&
        "$@" && rm -rf "$rig/go-$name") >"$rig/go-$name.log" 2>&1; then
        tail -n 3 "$rig/go-$name.log" >&2
        no_program="go could not build $name"
        return 1
    fi
    : >"$stamp"
}

go_install() {
    GOBIN=$rig/bin go install "$1"
}

otelcol() {
    GOBIN=$PWD go install "go.opentelemetry.io/collector/cmd/builder@$OTELCOL" &&
        ./builder --config "$manifest" &&
        mv "$name/$name" "$program"
}

# A package of a module at a version, through a module of our own: `go install` would ask for the list of versions, which not
# every proxy has. The `go` line keeps go from reading what the modules it needs would need.
in_a_module() {
    printf 'module rig\n\ngo 1.26\n\nrequire %s %s\n' "$1" "$2" >go.mod &&
        go build -mod=mod -o "$program" "$1/$3"
}

# On its library, by a module of our own.
cadvisor() {
    cp "$root"/benches/peers/cadvisor/* . && go build -o "$program" .
}

work_in() {
    rm -rf "$1" && mkdir -p "$1" && cd "$1"
}

# Programs of crates.io, each by name and version, from PATH or built once. Says why not on failure, in the variable no_cargo.
find_cargo() {
    no_cargo=
    PATH=$rig/cargo/bin:$PATH
    while [ $# -gt 0 ] && [ -z "$no_cargo" ]; do
        command -v "$1" >/dev/null || build_with_cargo "$1" "$2" || no_cargo="$1 could not be built"
        shift 2
    done
    rm -rf "$rig/cargo/target"
    [ -z "$no_cargo" ]
}

# They work for seconds: a build that takes minutes to make them faster takes more than it gives. What they share is built once.
build_with_cargo() (
    say "building $1 $2 (a minute, once)"
    export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_OPT_LEVEL=1
    export CARGO_PROFILE_RELEASE_DEBUG=false CARGO_PROFILE_RELEASE_INCREMENTAL=false
    cargo install "$1" --version "$2" --locked --quiet --root "$rig/cargo" --target-dir "$rig/cargo/target" >&2
)

find_packagers() {
    find_cargo cargo-deb "$CARGO_DEB" cargo-generate-rpm "$CARGO_GENERATE_RPM"
}

# What `bench peers` and `bench journal` set beside us; the benches say so where one is missing. No test needs them.
peers() {
    find_toolchains
    need_root peers
    install <<PROGRAMS || say "$no_packages"
rsyslogd rsyslog
PROGRAMS
    manifest=$root/benches/peers/otelcol/manifest.yaml
    build_with_go otelcol-filelog "$OTELCOL-$(cksum <"$manifest" | cut -d' ' -f1)" otelcol || say "$no_program"
    build_with_go cadvisor "$(cat benches/peers/cadvisor/* | cksum | cut -d' ' -f1)" cadvisor || say "$no_program"
    cargo build --release --manifest-path benches/peers/fjall/Cargo.toml --target-dir "$(target_dir)" || say "fjall was not built"
}

# What was built below target/, and what root fetched into the caller's own folders of cargo and rustup, belongs to who called
# sudo.
hand_back() {
    [ "${SUDO_UID:-}" ] || return 0
    to=$SUDO_UID:${SUDO_GID:-$SUDO_UID}
    chown -R "$to" "$root/target" 2>/dev/null || :
    for fetched in "${CARGO_HOME:-$HOME/.cargo}" "${RUSTUP_HOME:-$HOME/.rustup}"; do
        case $fetched in
            "${home:-/nowhere}"/*) find "$fetched" -xdev -user 0 -exec chown -h "$to" {} + 2>/dev/null || : ;;
        esac
    done
}
