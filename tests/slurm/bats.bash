# bats.bash - what the Slurm test files share.  They run inside the rig, which a test file enters by
# itself when it is executed; `tests/slurm/rig bats FILE -f NAME` runs one test.
if [ "${RIG_INSIDE:-}" != 1 ]; then
    echo "run it by its name, or inside the rig: tests/slurm/rig bats FILE" >&2
    exit 2
fi
. "$(dirname "${BASH_SOURCE[0]}")/rig.bash"
bats_require_minimum_version 1.5.0

RIG_TOOLS=$RIG_DIR/tools
export PYTHONDONTWRITEBYTECODE=1 # the source tree stays as it is
FAKE_LOG=$RIG_DIR/log/fake.jsonl
RIG_SO=$RIG_DIR/lib/spank_modelpool.so

# Start the fake daemon with these options and wait for its socket.
fake_start()
{
    mkdir -p "$(dirname "$RIG_SOCKET")"
    : >"$FAKE_LOG"
    rm -f "$RIG_SOCKET"
    python3 "$RIG_TOOLS/fake_daemon.py" "$RIG_SOCKET" "$FAKE_LOG" "$@" \
        >>"$RIG_DIR/log/fake.out" 2>&1 3>&- 4>&- &
    echo $! >"$RIG_DIR/run/fake.pid"
    disown $!
    wait_for 5 test -S "$RIG_SOCKET"
    : >"$FAKE_LOG"
}

fake_signal() { kill "-$1" "$(cat "$RIG_DIR/run/fake.pid")"; }

fake_stop()
{
    [ -e "$RIG_DIR/run/fake.pid" ] || return 0
    fake_signal KILL 2>/dev/null
    rm -f "$RIG_DIR/run/fake.pid" "$RIG_SOCKET"
}

# Repeat a command until it succeeds, at most $1 seconds.
wait_for()
{
    local limit=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$limit" ] || { echo "waited in vain: $*" >&2; return 1; }
        sleep 0.05
    done
}

# `logged EVENT KEY VALUE...`: a line of the fake daemon's log with that event has all those pairs.
logged()
{
    python3 - "$FAKE_LOG" "$@" <<'PY'
import json, sys
log, event, *words = sys.argv[1:]
want = dict(zip(words[::2], words[1::2]), event=event)
rows = [json.loads(line) for line in open(log)]
sys.exit(not any(all(str(row.get(k)) == v for k, v in want.items()) for row in rows))
PY
}

# How many lines of that event there are.
logged_count() { grep -c "\"event\": \"$1\"" "$FAKE_LOG" || true; }

# The output of run must have exactly one line of ours, and it is this (a regular expression).
assert_says()
{
    local ours
    ours=$(printf '%s\n' "$output" | grep '^modelpool: ' || true)
    [ "$(printf '%s\n' "$ours" | wc -l)" = 1 ] && [[ $ours =~ $1 ]] && return 0
    printf 'wanted one line "%s", got:\n%s\n' "$1" "$output" >&2
    return 1
}

assert_has() { [[ $output == *"$1"* ]] || { printf 'no "%s" in:\n%s\n' "$1" "$output" >&2; return 1; }; }
assert_lacks() { [[ $output != *"$1"* ]] || { printf '"%s" in:\n%s\n' "$1" "$output" >&2; return 1; }; }

# Submit as a user; prints the job id.
submit()
{
    local user=$1
    shift
    rig_as "$user" sbatch --parsable -o "$RIG_DIR/home/$user/%j.out" "$@"
}

job_gone() { [ -z "$(squeue -h -j "$1" -o %T 2>/dev/null)" ]; }
job_is() { [ "$(squeue -h -j "$1" -o %T 2>/dev/null)" = "$2" ]; }
job_state() { scontrol show job "$1" | sed -n 's/.*JobState=\([A-Z_]*\).*/\1/p'; }
# Wait for the end of a job and put its output file into $output.
job_output()
{
    wait_for "${3:-20}" job_gone_or_done "$2"
    output=$(cat "$RIG_DIR/home/$1/$2.out")
}
job_gone_or_done()
{
    case $(job_state "$1") in
    PENDING | RUNNING | COMPLETING | CONFIGURING) return 1 ;;
    esac
}
