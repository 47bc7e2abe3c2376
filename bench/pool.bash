# pool.bash - a modelpoold in a private namespace for benches, as a library
#
#     . bench/pool.bash
#     pool_begin MODEL.gguf...   # before anything else; makes BENCH_* and results' folder name
#     pool_enter "$@"            # runs this script again inside; only that copy returns
#     pool_start CONF-LINE...    # modelpoold with these lines beside the usual ones
#     pool_stop
#     pool_lease MODELS -- COMMAND [ARG...]   # KEY in an argument becomes the lease's key
#
# POOL_MODELS: the models' files inside, blank-separated, in the order of pool_begin's arguments.
# MACHINE= names the machine in bench/results/; BENCH_ROUNDS= is how many samples are taken.
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export RIG_PREFIX=${RIG_PREFIX:-$top/build/root}
. "$top/tests/slurm/rig.bash"

pool_begin()
{
    [ "${RIG_INSIDE:-}" = 1 ] && return
    local commit file
    for file in "$@"; do
        [ -r "$file" ] || { echo "$0: no model $file: ./quickstart build fetches two" >&2; exit 2; }
    done
    commit=$(git -C "$top" rev-parse --short HEAD 2>/dev/null || echo unknown)
    [ -z "$(git -C "$top" status --porcelain 2>/dev/null)" ] || commit=$commit+
    export POOL_FILES="$*" BENCH_COMMIT=$commit BENCH_MACHINE=${MACHINE:-$(uname -n)}
    export BENCH_OUT=$top/bench/results/$BENCH_MACHINE-$(date +%Y%m%d)-$commit
}

pool_enter()
{
    local file
    rig_enter "$@"
    POOL_MODELS=
    for file in $POOL_FILES; do
        rig_bring "$file" "models/$(basename "$file")" || exit 1
        POOL_MODELS="$POOL_MODELS $RIG_DIR/models/$(basename "$file")"
    done
    mkdir -p "$BENCH_OUT"
}

pool_start()
{
    {
        printf '%s\n' ClusterName=bench NodeName=rig RunDir=/run/modelpool \
            "StateDir=$RIG_DIR/modelpool" "Engine=$RIG_PREFIX/libexec/modelpool-engine" \
            Identity=none
        # What a bench asks again is to be computed again.
        case "$*" in *SharePrefixes=*) ;; *) echo SharePrefixes=no ;; esac
        printf '%s\n' "$@"
    } >"$RIG_DIR/etc/modelpool.conf"
    rig_start_daemon
}

pool_stop()
{
    local pid
    pid=$(cat "$RIG_DIR/run/modelpoold.pid")
    kill "$pid"
    while kill -0 "$pid" 2>/dev/null; do
        sleep 0.05
    done
}

pool_lease()
{
    local models=$1
    shift 2
    python3 "$RIG_DIR/tools/with_lease.py" "$RIG_SOCKET" models="$models" -- "$@"
}
