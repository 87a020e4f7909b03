# The test programs of `./dev test`: which there are, which run at the same time, what they say and how long they took.
#
# Two programs at a time, each with two tests at a time: most tests wait for something, so that one program alone leaves two
# processors idle for two thirds of its time. What a program says comes in one piece when it has ended. Nothing here may make a
# test pass over in silence: a program that is in no list below runs as all others do.

# What begins first, the longest before the others: at the end nobody is to wait for one that began last.
FIRST="standin_deaths standin_upgrade_deaths judge chaos dashboards collector shim.containerd_shim_tap collector.shimtap deaths"
# What needs programs that are built beside the other tests (`part_programs`).
LAST="docker other_shims otlp crictl packages rpm install"
# Tests that compare times, with and without us, run alone: program, and what their names contain.
ALONE="collector:stopped_in_its_tracks_under_load streams:a_grandchild_that_holds_stdout"
# How many programs at a time.
LOTS=${SHIMTAP_LOTS:-2}

tab=$(printf '\t')

# Builds our programs and all tests, and notes each test program in $work/suites, by what cargo says of them: name (with its
# package's folder before it, where that is not `tests`), its package's folder, program.
#
# In one command: what tests alone depend on asks for more features of tokio and others, so that whoever builds the programs first
# has half of the crates built twice, and most of ours.
build_suites() {
    cargo build --quiet --workspace --bins --tests --message-format=json-render-diagnostics >"$work/built" || return 1
    sed -n '/"executable":"/s|.*"manifest_path":"\([^"]*\)/Cargo\.toml","target":{[^}]*"name":"\([^"]*\)".*"profile":{[^}]*"test":true.*"executable":"\([^"]*\)".*|\2\t\1\t\3|p' \
        "$work/built" | awk -F "$tab" '
            { n = split($2, path, "/"); print (path[n] == "tests" ? "" : path[n] ".") $0 }' >"$work/suites"
    [ -s "$work/suites" ] || die "cargo names no test programs"
    # Other programs of this repository's ask it, instead of cargo, which one test may have to itself at that time.
    export SHIMTAP_SUITES="$work/suites"
}

program_of() {
    awk -F "$tab" -v name="$1" '$1 == name { print $3 }' "$work/suites"
}

# Those that need nothing but what was there before the first test (`early`), or the others (`late`).
suites_of() {
    awk -F "$tab" -v part="$1" -v first="$FIRST" -v last="$LAST" '
        BEGIN { n = split(first, words, " "); for (i = 1; i <= n; i++) rank[words[i]] = i
                m = split(last, words, " "); for (i = 1; i <= m; i++) is_late[words[i]] = 1 }
        ($1 in is_late) == (part == "late") { print ($1 in rank ? rank[$1] : 999) "\t" $0 }' "$work/suites" |
        sort -s -n -k 1,1 | cut -f 2-
}

# Runs these, some at a time.
run_suites() {
    suites_of "$1" | xargs -r -d '\n' -n 1 -P "$LOTS" "$root/dev" part suite || echo "tests" >>"$work/failed"
}

# What `ALONE` names, and after it what it is to pass over.
run_alone() {
    for one in $ALONE; do
        name=${one%%:*} filter=${one#*:}
        line=$(grep "^$name$tab" "$work/suites") || continue
        suite "$line" "alone.$name" "$filter"
    done
}

# The words that keep those out of where others run too.
but_not_alone() {
    for one in $ALONE; do echo "--skip ${one#*:}"; done
}

# Runs one test program as cargo would, in its package's folder: a line of $work/suites; for one that runs alone, by which name it
# is to be known, and which of its tests.
suite() {
    IFS=$tab read -r name folder program <<LINE
$1
LINE
    said=${2:-$name}
    say "tests: $said"
    start_clock
    status=0
    # shellcheck disable=SC2046 # lists of words
    (cd "$folder" && exec "$program" ${3:-$(but_not_alone)} $(cat "$work/arguments")) \
        >"$work/said.$said" 2>&1 </dev/null || status=$?
    if [ "$status" -ne 0 ]; then
        echo "$said" >>"$work/failed"
        grep -q '^test result:' "$work/said.$said" || echo "$said" >>"$work/dead"
    fi
    stop_clock "$said"
    keep_what_asked_nothing "$said"
    print "$said"
}

# Tests that asked nothing, because something is not to be had here, say `skipped: WHY` and pass: keeps that, with their names. Of tests
# that pass libtest shows what they say only if told to, and then all of it, at the end; that is taken out again.
keep_what_asked_nothing() {
    awk -v said="$1" -v kept="$work/asked_nothing" '
        /^successes:$/ { is_of_passed = 1 }
        /^failures:$/ || /^test result: / { is_of_passed = 0 }
        !is_of_passed { print; next }
        /^---- .* stdout ----$/ { test = $2; next }
        sub(/^skipped: /, "") && test { print $0 "\t" said " " test >>kept; test = "" }' "$work/said.$1" >"$work/cut.$1"
    mv "$work/cut.$1" "$work/said.$1"
}

# The line that names them, by what was not to be had.
say_what_asked_nothing() {
    [ -s "$work/asked_nothing" ] || return 0
    echo "asked nothing (skipped by themselves): $(sort -u "$work/asked_nothing" | awk -F "$tab" '
        $1 != why { all = all (all ? "; " : "") $1 ": " $2; why = $1; next }
        { all = all ", " $2 }
        END { print all }')"
}

# --- what they say, and how long they took ----------------------------------------------------------------------

# Says what something has said, in one piece, and keeps it to count its tests.
print() {
    {
        flock 9
        { printf '\ndev: %s%s\n' "$1" "$(ago "$1")" && cat "$work/said.$1"; } | tee -a "$work/output"
    } 9>>"$work/printing"
}

ago() {
    awk -v name="$1" '$3 == name { print ", " $1 " s" }' "$work/seconds"
}

start_clock() {
    begun=$(date +%s)
    read_used
    used_before=$used
}

# Notes seconds, those of the processors, and what they were for.
stop_clock() {
    read_used
    echo "$(($(date +%s) - begun)) $((used - used_before)) $1" >>"$work/seconds"
}

# The processors' seconds of all that this shell has waited for. Not in a subshell, which has waited for nothing.
read_used() {
    times >"$work/times.$$"
    used=$(awk 'NR == 2 { split($1 "m" $2, t, /[ms]+/); print int(60 * t[1] + t[2] + 60 * t[3] + t[4]) }' "$work/times.$$")
}

say_seconds() {
    echo "seconds, and those of the processors that are not a daemon's:"
    sort -k 1,1nr "$work/seconds" | awk '
        { name = $3; for (i = 4; i <= NF; i++) name = name " " $i
          line = line (line ? ", " : "") name " " $1 " (" $2 ")" }
        END { print line }'
}
