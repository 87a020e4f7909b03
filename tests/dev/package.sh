# `./dev package [TARGET]`: .deb, .rpm, a tarball and bills of materials, for this machine or another (docs/packaging.md).

# Both programs built once, with the list of what is in them (cargo auditable); each packager takes the same files from there.
package() {
    find_toolchains
    { find_packagers && find_cargo cargo-auditable "$CARGO_AUDITABLE" cargo-cyclonedx "$CARGO_CYCLONEDX"; } || die "$no_cargo"
    find_cross "${1:-$(rustc -vV | sed -n 's/^host: //p')}"
    version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
    # Of the commit, so that the same tree gives the same files.
    SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || echo 0)
    export SOURCE_DATE_EPOCH
    out=$(target_dir)/package
    say "building shimtap for a release, for $target (some minutes)"
    # One by one: together each would get the features that the other asks of a crate they share.
    for member in containerd-shim-tap shimtap; do
        cargo auditable build --quiet --locked --release --target "$target" -p "$member" || die "the build failed"
    done
    rm -rf "$out" && mkdir -p "$out"
    staged=$(mktemp -d)
    trap 'rm -rf "$staged"; hand_back' EXIT
    strip_programs
    pages "$staged/$target/release"
    CARGO_TARGET_DIR=$staged cargo deb --no-build --no-strip --quiet -p shimtap --target "$target" --output "$out" >&2 || die "cargo-deb failed"
    CARGO_TARGET_DIR=$staged cargo generate-rpm -p collector --target "$target" --target-dir "$staged" --output "$out" >&2 ||
        die "cargo-generate-rpm failed"
    sboms
    tarball
    (cd "$out" && sha256sum -- * >SHA256SUMS && cat SHA256SUMS)
    say "looking at them"
    SHIMTAP_RELEASE=$(cd "$out" && pwd -P) SHIMTAP_RELEASE_TARGET=$target \
        cargo test --quiet -p shimtap-tests --test released -- --include-ignored --nocapture >&2 || die "they are not what they should be"
}

# What it takes to build for $1, in the variables target, arch and tools (the beginning of the names of strip and readelf).
find_cross() {
    target=$1 arch=${1%%-*} tools=
    [ "$arch" != "$(uname -m)" ] || return 0
    tools=$arch-linux-gnu-
    rustup target list --installed 2>/dev/null | grep -qx "$target" || die "no std for $target: rustup target add $target"
    install <<PROGRAMS || die "$no_packages"
${tools}gcc gcc-$(echo "$arch" | tr _ -)-linux-gnu
/usr/$arch-linux-gnu/include/stdio.h libc6-dev-$(dpkg_arch)-cross
PROGRAMS
    export "CARGO_TARGET_$(echo "$target" | tr a-z- A-Z_)_LINKER=${tools}gcc"
}

dpkg_arch() {
    case $arch in aarch64) echo arm64 ;; x86_64) echo amd64 ;; *) echo "$arch" ;; esac
}

# Where both packagers and the tarball take them from. .dep-v0 stays.
strip_programs() {
    mkdir -p "$staged/$target/release"
    for program in shimtap containerd-shim-tap-v2; do
        "${tools}strip" -o "$staged/$target/release/$program" "$(target_dir)/$target/release/$program"
    done
}

# CycloneDX, one for each program. The tool writes one beside the manifest of each member of the workspace.
sboms() {
    name=.shimtap-sbom-$$
    cargo cyclonedx --quiet --all --no-build-deps --target "$target" --format json --spec-version 1.5 \
        --override-filename "$name" || die "cargo-cyclonedx failed"
    mv "collector/$name.json" "$out/shimtap-$version-$arch.cdx.json"
    mv "shim/$name.json" "$out/containerd-shim-tap-v2-$version-$arch.cdx.json"
    find . -path ./target -prune -o -name "$name.json" -exec rm {} +
    # Where it was built is nobody's concern, and would make two builds differ.
    sed -i "s|file://$(pwd -P)|file:///shimtap|g" "$out"/*.cdx.json
}

# Manual pages and completions below $1, by the program itself: one that runs here.
pages() {
    maker=$staged/$target/release/shimtap
    if [ "$arch" != "$(uname -m)" ]; then
        cargo build --quiet --locked -p shimtap || die "the build failed"
        maker=$(target_dir)/debug/shimtap
    fi
    mkdir -p "$1/completions"
    "$maker" man "$1/man" || die "no manual pages"
    "$maker" completions bash >"$1/completions/shimtap.bash"
    "$maker" completions zsh >"$1/completions/_shimtap"
    "$maker" completions fish >"$1/completions/shimtap.fish"
}

# For whom there is no package: the same files, below a folder of their own.
tarball() {
    name=shimtap-$version-linux-$arch
    tree=$staged/$name
    mkdir -p "$tree/bin"
    cp "$staged/$target/release/shimtap" "$staged/$target/release/containerd-shim-tap-v2" "$tree/bin/"
    cp -r "$staged/$target/release/man" "$staged/$target/release/completions" "$tree/"
    cp -r packaging docs LICENSE README.md CHANGELOG.md "$tree/"
    cp "$out"/*.cdx.json "$tree/"
    chmod -R u=rwX,go=rX "$tree" && chmod 755 "$tree"/bin/*
    # The same tree is the same file.
    tar -C "$staged" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" \
        -cf - "$name" | gzip -9n >"$out/$name.tar.gz"
}
