# A second try: what failed while others ran beside it is run again at the end, by itself (docs/adr/0030).
#
# Most tests are about several processes on two processors that compilers, a virtual machine and strangers share; containerd itself gives
# up what takes two seconds. A test that fails so, and passes alone, is *unsteady*: it counts as passed, its failure stays where it
# was printed, and the last lines name it, so that nobody overlooks it. Nothing here may make a test pass that fails by itself, nor try
# again what cannot be the machine's doing: more than a handful, a program that died, a step.

# How many may be the machine's doing.
UNSTEADY_MOST=5

# Those that failed: name of what was run, tab, name of the test.
failed_tests() {
    for said in "$work"/said.*; do
        sed -n "s/^test \(.*\) \.\.\. FAILED\$/${said##*/said.}$tab\1/p" "$said" | sed 's/ - should panic$//'
    done
}

# Runs them again. Those that pass are in $work/unsteady; who had no others that failed is no longer in $work/failed.
try_again() {
    : >"$work/unsteady"
    failed_tests >"$work/again"
    failures=$(wc -l <"$work/again")
    [ "$failures" -gt 0 ] || return 0
    if [ "$failures" -gt "$UNSTEADY_MOST" ]; then
        say "$failures tests failed: none is tried again, for that is not the machine"
        return 0
    fi
    start_clock
    while IFS=$tab read -r said test; do alone_again "$said" "$test"; done <"$work/again"
    stop_clock "second tries"
    cut -f 1 "$work/again" | sort -u | while read -r said; do
        grep "^$said$tab" "$work/again" | grep -vxFf "$work/unsteady" >/dev/null || forgive "$said"
    done
}

# One test of what was run under that name.
alone_again() {
    line=$(grep "^$(suite_of "$1")$tab" "$work/suites") || return 0
    IFS=$tab read -r _ folder program <<LINE
$line
LINE
    say "again, alone: $2"
    passed=no
    (cd "$folder" && exec "$program" --include-ignored --exact "$2") >"$work/again.said" 2>&1 </dev/null &&
        grep -q '^test result: ok\. 1 passed' "$work/again.said" && passed=yes
    printf '\ndev: again, alone: %s %s\n' "$1" "$2"
    cat "$work/again.said"
    [ "$passed" = no ] || printf '%s\t%s\n' "$1" "$2" >>"$work/unsteady"
}

# The program's name, for what ran under another.
suite_of() {
    case $1 in
        part_vm) echo node_vm ;;
        *) echo "${1#alone.}" ;;
    esac
}

# Takes it from those that failed, unless the program died as well.
forgive() {
    ! grep -qxF "$1" "$work/dead" 2>/dev/null || return 0
    [ "$1" != part_vm ] || set -- "node VM"
    grep -vxF "$1" "$work/failed" >"$work/others" || :
    if [ -s "$work/others" ]; then mv "$work/others" "$work/failed"; else rm -f "$work/failed"; fi
}

# The line that names them.
say_unsteady() {
    [ -s "$work/unsteady" ] || return 0
    echo "unsteady (failed beside others, passed alone; the failure stands above): $(awk -F "$tab" '
        { all = all (all ? "; " : "") $1 " " $2 } END { print all }' "$work/unsteady")"
}
