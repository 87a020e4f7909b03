# `./dev test`: what is built when, what runs beside what, what is left out, and what is said of it in the end.
#
# What a run takes is what the processors have to do, so they are never to wait: while packages and modules are fetched, something
# is built, and while tests wait, as most do most of the time, what computes runs beside them at low priority. In this order:
#   1. all Debian packages at once; beside that, go begins with the containerd that most tests need
#   2. our programs and the tests
#   3. the tests (suites.sh); beside them the node VM, which is about nothing but itself; what else go and cargo have to build;
#      and what is asked of the sources alone: lints, licences, loom, examples
#   4. the tests that need what was built beside the others, and those that compare times, one after the other
#   5. when nothing else runs, what failed: once more, alone (again.sh)
# A part beside is a process of its own (`beside`): what it says comes in one piece, and why it is left out is in a file.

# Leaves a part out: its variable's name and why. In CI that is a failure.
skip() {
    if [ "${CI:-}" = true ]; then
        say "$1: $2, and CI leaves nothing out"
        broken="$broken $1"
    else
        skipped="$skipped${skipped:+, }$1 ($2)"
        left="$left $1"
    fi
}

# Leaves tests of the node VM out that are run on request only, unless their variable asks for them: variable, what they are,
# their names.
on_request() {
    eval "asked=\${$1:-}"
    [ -z "$asked" ] || return 0
    not_asked_for "$1=1" "$2"
    shift 2
    for test in "$@"; do vm_without="$vm_without --skip in_the_vm::$test"; done
}

# Names what is left out, and by which assignment or command it runs.
not_asked_for() {
    skipped="$skipped${skipped:+, }$2 ($1 runs it)"
}

# Runs a step and notes what came of it; later steps run all the same.
step() {
    name=$1
    shift
    say "$name"
    start_clock
    if "$@"; then
        echo passed >>"$work/steps"
    else
        echo failed >>"$work/steps"
        echo "$name" >>"$work/failed"
        say "$name FAILED"
    fi
    stop_clock "$name"
}

# --- beside the others ----------------------------------------------------------------------------------------

# Begins a part at that niceness: a function of this script, in a session of its own, so that whoever ends us can end it.
beside() {
    niceness=$1 part=$2
    say "beside the others: $part"
    setsid nice -n "$niceness" "$root/dev" part "$part" >"$work/said.$part" 2>&1 &
    sessions="$sessions $!"
    eval "$part=$!"
}

# Waits for a part, and says what it said.
await() {
    eval "pid=\$$1"
    [ "$pid" ] || return 0
    wait "$pid" || echo "$1" >>"$work/failed"
    eval "$1="
    print "$1"
}

# Keeps why something is not there, for who waits for the part that was to make it: the variables' names.
keep_why() {
    for variable in "$@"; do
        eval "printf '%s\n' \"\$$variable\"" >"$work/$variable"
    done
}

# Gives those variables their values.
why() {
    for variable in "$@"; do
        eval "$variable=\$(cat \"$work/$variable\" 2>/dev/null || echo 'what was to build it has ended')"
    done
}

part_containerd() {
    start_clock
    no_pinned="as asked"
    [ "${SHIMTAP_SKIP_PINNED:-}" ] || build_pinned
    keep_why no_pinned
    stop_clock "go: containerd"
}

part_docker() {
    fetch_docker
    keep_why no_docker
}

# The foreign programs that few tests need.
part_programs() {
    start_clock
    no_backends="as asked" no_one_seven="as asked" no_crictl="as asked" no_nerdctl="as asked"
    [ "${SHIMTAP_SKIP_BACKENDS:-}" ] || build_backends
    [ "${SHIMTAP_SKIP_ONE_SEVEN:-}" ] || build_one_seven
    [ "${SHIMTAP_SKIP_CRICTL:-}" ] || build_crictl
    [ "${SHIMTAP_SKIP_NERDCTL:-}" ] || build_nerdctl
    keep_why no_backends no_one_seven no_crictl no_nerdctl
    stop_clock "go: the others"
    start_clock
    no_cargo="as asked"
    if [ -z "${SHIMTAP_SKIP_PACKAGES:-}" ] && find_packagers; then
        # What installs an .rpm, into a tree of its own.
        install <<PROGRAMS || no_cargo=$no_packages
$(for_rpm)
PROGRAMS
    fi
    no_packagers=$no_cargo
    no_shims=
    [ -z "${SHIMTAP_OTHER_SHIMS:-}" ] || build_shims
    no_cargo="as asked"
    [ "${SHIMTAP_SKIP_DENY:-}" ] || find_cargo cargo-deny "$CARGO_DENY" || :
    no_deny=$no_cargo
    keep_why no_packagers no_deny no_shims
    stop_clock "cargo: the packagers, cargo-deny, other shims"
    [ "$no_deny" ] ||
        step "licences, duplicates, sources" cargo deny --log-level error check bans licenses sources
}

# What is asked of the sources. It takes the lock of cargo's folder: nobody else builds at that time.
part_sources() {
    step "lints" cargo clippy --quiet --workspace --all-targets -- -D warnings
    start_clock
    by_cargo "two threads under loom" loom
    by_cargo "examples in the documentation" cargo test --no-fail-fast --workspace --doc --quiet
    stop_clock "loom and examples"
}

# A test run of cargo's.
by_cargo() {
    name=$1
    shift
    say "$name"
    "$@" || echo "$name" >>"$work/failed"
}

# --- all of it --------------------------------------------------------------------------------------------------

test_all() {
    need_root test
    find_toolchains
    work=$(mktemp -d)
    : >"$work/output" && : >"$work/begun" && : >"$work/steps" && : >"$work/seconds" && : >"$work/asked_nothing"
    # Metrics that had a value in what real collectors showed (tests/src/oracle/moved.rs).
    : >"$work/shown"
    export SHIMTAP_SHOWN="$work/shown"
    sessions=
    trap end_all EXIT
    trap 'exit 130' INT TERM HUP
    skipped='' left='' broken='' ran=''
    export work SHIMTAP_RIG_CACHE="$rig" RUST_LIB_BACKTRACE=0
    # Nobody builds twice there.
    [ "${CI:-}" != true ] || export CARGO_INCREMENTAL=0

    gather
    build_ours
    # Two daemons and what they run wait for each other, more than for a processor.
    early_arguments
    run_suites early
    await part_programs
    late_arguments
    run_suites late
    run_alone
    end_vm
    await part_sources
    try_again
    close
}

end_all() {
    # All that was started beside is a session of its own.
    for session in $sessions; do pkill -s "$session" || :; done
    rm -rf "$work"
    hand_back
}

# What comes from the network.
gather() {
    beside 0 part_containerd
    start_clock
    install <<PROGRAMS || say "$no_packages: tried again one by one"
$(packages_of_all)
PROGRAMS
    install_packages
    stop_clock "Debian packages"
    beside 10 part_programs
    [ "${SHIMTAP_SKIP_DOCKER:-}" ] || beside 0 part_docker
}

# Programs and packages of all that is to run.
packages_of_all() {
    for_all
    [ "${SHIMTAP_SKIP_VM:-}" ] || for_vm
    [ "${SHIMTAP_SKIP_DOCKER:-}" ] || for_docker
    [ "${SHIMTAP_SKIP_PACKAGES:-}" ] || for_rpm
    # A whole server, for its linter and a few tests: only where nothing is left out, or where these are asked for.
    if [ "${CI:-}" = true ] || [ "${SHIMTAP_VM_SHIPPED:-}" ]; then for_promtool; fi
}

# Fuzz targets, and what loom runs, are workspaces of their own. They are not compiled here: what they stand on takes a processor a
# minute and a half, and `./dev fuzz` compiles it. A lock file that does not know of a dependency of ours any more is found all the same.
well_formed() {
    wrong=
    cargo fmt --all --check || wrong=1
    for apart in proto/fuzz shim/fuzz shim/loom; do
        cargo fmt --check --manifest-path "$apart/Cargo.toml" || wrong=1
        if ! cargo update --workspace --locked --quiet --manifest-path "$apart/Cargo.toml"; then
            say "$apart/Cargo.lock is not of its dependencies: cargo update --workspace --manifest-path $apart/Cargo.toml"
            wrong=1
        fi
    done
    [ -z "$wrong" ]
}

build_ours() {
    step "format" well_formed
    step "build" build_suites
}

# What is there before the first test runs: decides what is left out, and begins what runs beside the tests.
early_arguments() {
    # What a test that passes says is shown, so that it can say that it asked nothing (suites.sh).
    set -- --include-ignored --test-threads=2 --show-output
    if [ "${SHIMTAP_SKIP_PACKAGED:-}" ]; then
        skip SHIMTAP_SKIP_PACKAGED "as asked"
        set -- "$@" --skip packaged::
    else
        ran="$(containerd --version | awk '{print $3}') (packaged)"
    fi
    await part_containerd
    why no_pinned
    if [ "$no_pinned" ]; then
        skip SHIMTAP_SKIP_PINNED "$no_pinned"
        set -- "$@" --skip pinned:: --skip pinned_only::
    else
        ran="$ran${ran:+ and }${CONTAINERD#v} (pinned)"
    fi
    no_docker="as asked"
    if [ -z "${SHIMTAP_SKIP_DOCKER:-}" ]; then
        await part_docker
        why no_docker
    fi
    if [ "$no_docker" ]; then
        skip SHIMTAP_SKIP_DOCKER "$no_docker"
        set -- "$@" --skip docker_
    fi
    no_promtool=
    [ -z "${SHIMTAP_SKIP_PROMTOOL:-}" ] || no_promtool="as asked"
    command -v promtool >/dev/null || no_promtool="promtool is not installed (package prometheus)"
    if [ "$no_promtool" ]; then
        skip SHIMTAP_SKIP_PROMTOOL "$no_promtool"
        export SHIMTAP_SKIP_PROMTOOL=1
        set -- "$@" --skip promtool_ --skip prometheus_
    fi
    not_asked_for "./dev package" "what a release's files are"
    # Nowhere is it expected: real Kata pods need a machine that starts VMs.
    [ "${SHIMTAP_KATA:-}" ] || not_asked_for SHIMTAP_KATA=/path/of/its/shim "real Kata pods"
    if [ -z "${SHIMTAP_OTHER_SHIMS:-}" ]; then
        not_asked_for SHIMTAP_OTHER_SHIMS=1 "gVisor and the Rust runc shim"
        set -- "$@" --skip another_shim_
    fi
    set -- "$@" --skip in_the_vm:: --skip in_a_release_
    begin_vm
    beside 19 part_sources
    echo "$@" >"$work/arguments"
}

# What was built beside the first tests.
late_arguments() {
    # shellcheck disable=SC2046 # a list of words
    set -- $(cat "$work/arguments")
    why no_backends no_one_seven no_crictl no_nerdctl no_packagers no_deny no_shims
    while read -r variable reason tests; do
        eval "reason=\$$reason"
        [ "$reason" ] || continue
        skip "SHIMTAP_SKIP_$variable" "$reason"
        export "SHIMTAP_SKIP_$variable=1"
        set -- "$@" --skip "$tests"
    done <<PARTS
BACKENDS no_backends backends::
ONE_SEVEN no_one_seven one_seven_
CRICTL no_crictl crictl_
NERDCTL no_nerdctl nerdctl_
PACKAGES no_packagers in_a_package_
PARTS
    # On request only, like those of the VM.
    if [ "$no_shims" ]; then
        skip SHIMTAP_OTHER_SHIMS "$no_shims"
        set -- "$@" --skip another_shim_
    fi
    echo "$@" >"$work/arguments"
    [ -z "$no_deny" ] || skip SHIMTAP_SKIP_DENY "$no_deny"
}

# The VM takes minutes, and a machine whose processors others have is late for what its systemd waits for: it goes before all
# that is built beside the tests, and behind these.
begin_vm() {
    part_vm=
    [ -z "${SHIMTAP_SKIP_VM:-}" ] || return 0
    # Two containerds take the emulated machine twice the time.
    [ "${CI:-}" = true ] || [ "${SHIMTAP_VM_ALL:-}" ] || export SHIMTAP_VM_BRIEF=1
    [ -z "${SHIMTAP_VM_BRIEF:-}" ] || not_asked_for SHIMTAP_VM_ALL=1 "containerd $CONTAINERD in the VM, as in CI"
    vm_without=
    on_request SHIMTAP_VM_POWER "power cuts in the VM" a_power_cut_under_load a_power_cut_with_fsync_always
    on_request SHIMTAP_VM_CLOCK "a stepped clock in the VM" a_clock_that_is_stepped
    on_request SHIMTAP_VM_SHIPPED "packages in the VM" shipped an_image_with_the_package_in_it
    if [ "${SHIMTAP_VM_SHIPPED:-}" ]; then
        await part_programs
        why no_packagers
        # Why, it says already.
        [ -z "$no_packagers$no_pinned" ] ||
            vm_without="$vm_without --skip in_the_vm::shipped --skip in_the_vm::an_image_with_the_package_in_it"
    fi
    export vm_without
    beside 5 part_vm
}

part_vm() {
    start_clock
    build_vm
    keep_why no_vm
    stop_clock "the node VM's disk"
    [ -z "$no_vm" ] || return 0
    start_clock
    # shellcheck disable=SC2086 # a list of words
    "$(program_of node_vm)" --include-ignored $vm_without in_the_vm:: || echo "node VM" >>"$work/failed"
    stop_clock "node VM"
}

# Waits for the VM.
end_vm() {
    no_vm="as asked"
    if [ "$part_vm" ]; then
        await part_vm
        why no_vm
    fi
    [ -z "$no_vm" ] || skip SHIMTAP_SKIP_VM "$no_vm"
}

# --- the last lines ---------------------------------------------------------------------------------------------

# On what it ran, what was left out, and the count; before them how long each took.
close() {
    counts=$(awk '/^test result:/ { passed += $4; failed += $6; skipped += $8 + $12 }
        END { print passed + 0, failed + 0, skipped + 0 }' "$work/output")
    # shellcheck disable=SC2086 # three numbers
    set -- $counts
    unsteady=$(wc -l <"$work/unsteady")
    passed=$(($1 + unsteady + $(grep -c passed "$work/steps" || :)))
    failed=$(($2 - unsteady + $(grep -c failed "$work/steps" || :))) left_out=$3
    # The main run passes over what runs beside it or alone, and what those leave out themselves is counted there.
    left_out=$((left_out - $(passed_over "$work"/said.part_vm "$work"/said.alone.*)))
    # To libtest they passed.
    asked_nothing=$(wc -l <"$work/asked_nothing")
    passed=$((passed - asked_nothing)) left_out=$((left_out + asked_nothing))
    # A suite that died has no line of its own; nor has one of cargo's that did not compile.
    [ ! -e "$work/dead" ] || failed=$((failed + $(wc -l <"$work/dead")))
    if [ -e "$work/failed" ] && [ "$failed" -eq 0 ]; then failed=1; fi
    for _ in $broken; do failed=$((failed + 1)); done
    cgroups="cgroup v1"
    [ -e /sys/fs/cgroup/cgroup.controllers ] && cgroups="cgroup v2"
    echo
    say_seconds
    [ ! -e "$work/failed" ] || echo "failed: $(sort -u "$work/failed" | awk '{ all = all (all ? "; " : "") $0 } END { print all }')"
    # Suites that ran in the guest count as one test each; what they consisted of stands here.
    if [ -z "$no_vm" ]; then
        # One folder for each boot; those that are older are of another run.
        find "$rig/vm" -maxdepth 2 -name report.log -newer "$work/begun" -exec cat {} + | tr -d '\r' |
            awk '/^=== node / { sub("=== node ", ""); node = $0 }
                /^=== begin / { suites = suites (suites ? ", " : "") $3 }
                /^=== end / { suites = suites " " $5 " s" }
                /^test result:/ { passed += $4; failed += $6 }
                END { printf "in the node VM (%s): %d passed, %d failed: %s\n", node, passed, failed, suites }'
    fi
    say_unsteady
    say_what_asked_nothing
    say_unseen
    echo "ran on containerd ${ran:-none}, $cgroups, Linux $(uname -r); skipped: ${skipped:-nothing}"
    echo "$passed passed, $failed failed, $left_out skipped"
    [ "$failed" -eq 0 ]
}

# Metrics that no real collector had a value of, and are not among those that need not (unshown.txt): a failure, unless a part was
# left out that may have shown them.
say_unseen() {
    sed -n 's/^~*\([a-z_]*\): .*/\1/p' "$root/tests/dev/unshown.txt" >"$work/unshown"
    sed -n 's/^\([a-z_]*\): .*/\1/p' "$root/tests/dev/unshown.txt" >"$work/never"
    shown_anyhow=$(grep -xFf "$work/never" "$work/shown" | sort -u | tr '\n' ' ' || :)
    [ -z "$shown_anyhow" ] || echo "metrics of tests/dev/unshown.txt that had a value all the same: $shown_anyhow"
    unseen=$(sed -n 's/^| `\([a-z_]*\)` | [a-z]* |.*/\1/p' "$root/docs/metrics.md" | sort -u |
        grep -vxFf "$work/shown" | grep -vxFf "$work/unshown" | tr '\n' ' ' || :)
    [ "$unseen" ] || return 0
    blame="failed: "
    [ -z "$left" ] || blame=
    echo "${blame}metrics that no real collector had a value of: $unseen"
    [ -n "$left" ] || failed=$((failed + 1))
}

# How many tests these outputs speak of twice: their own, and those that they leave out.
passed_over() {
    cat "$@" 2>/dev/null | awk '/^test result:/ { n += $4 + $6 + $8 + $12 } END { print n + 0 }'
}
