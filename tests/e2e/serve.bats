#!/bin/bash
# modelpool bench serve and make-model: traces against running pools of tiny random models.
[ -n "${BATS_VERSION:-}" ] || exec "$(dirname "$0")/../slurm/rig" --no-slurm bats "$0" "$@"
load ../slurm/bats

mp() { modelpool "$@" </dev/null; }

daemon_pid() { cat "$RIG_DIR/run/modelpoold.pid"; }
zombie() { [ "$(ps -o stat= -p "$(daemon_pid)" | cut -c1)" = Z ]; }
stop_daemon() {
    [ -e "$RIG_DIR/run/modelpoold.pid" ] || return 0
    kill "$(daemon_pid)" 2>/dev/null || true
    wait_for 5 eval '! kill -0 "$(daemon_pid)" 2>/dev/null || zombie'
}

make_models() {
    local shape
    mkdir -p "$RIG_DIR/models"
    for shape in tiny-a tiny-b; do
        [ -e "$RIG_DIR/models/$shape.gguf" ] ||
            mp bench make-model --shape=$shape --dtype=q8_0 --out="$RIG_DIR/models/$shape.gguf"
    done
}

# start_pool SCHEDULER: four models, with room for the weights of some
start_pool() {
    make_models
    cat >"$RIG_DIR/etc/modelpool.conf" <<EOT
ClusterName=rig
NodeName=n1
RunDir=/run/modelpool
StateDir=$RIG_DIR/modelpool
Engine=$(command -v modelpool-engine)
Identity=none
Scheduler=$1
Model=a Path=$RIG_DIR/models/tiny-a.gguf
Model=b Path=$RIG_DIR/models/tiny-b.gguf
Model=b-1 Path=$RIG_DIR/models/tiny-b.gguf
Model=b-2 Path=$RIG_DIR/models/tiny-b.gguf
Instance=cpu Device=cpu Memory=64M Threads=1
EOT
    rig_start_daemon 3>&- 4>&-
}

teardown() { stop_daemon; }

# Folders of pools that bench serve has made and whose daemons run, in this rig.
own_pools() { pgrep -fa 'modelpoold -f .*/modelpool-serve-' | sed 's|.* -f \(.*\)/modelpool.conf|\1|'; }

export TMPDIR=$RIG_DIR

load=(--duration=3s --rate=2 --tenants=2 --input=lognormal:3,0.5 --output=exponential:24 --seed=5)

@test "wrong command lines are told, with exit status 2" {
    local words
    while read -r words; do
        run -2 mp bench serve $words
        assert_has "usage: modelpool "
    done <<'EOT'
--gpus=2
--scheduler=slack
--memory=1G
--shapes=tiny-a:2
--shapes=tiny-a:0 --memory=64M
--shapes=: --memory=64M
--shapes=tiny-a --memory=64M --models=3
--shapes=tiny-a --memory=lots
--shapes=tiny-a --memory=64M --device=tpu
--shapes=tiny-a --memory=64M --folder=here
--shapes=tiny-a --memory=64M --threads=0
--warmup=soon
--rate=nan
--admit
--paper
a.csv b.csv
EOT
    run -2 mp bench serve --gpus=2
    assert_has "the running pool has its own"
    run -2 mp bench make-model --out
    run -2 mp bench make-model --shape=tiny-a
    assert_has "make-model: where? --out=FILE.gguf"
    run -0 mp bench serve --help
    assert_has "--predict"
}

@test "no pool: exit status 3; a model that cannot be made: 1" {
    run -3 mp bench serve "${load[@]}"
    assert_has "modelpoold"
    run -1 mp bench serve --shapes=tiny-z --memory=64M "${load[@]}"
    assert_has "no shape tiny-z"
    run -1 mp bench serve --shapes=tiny-a --memory=64M --scheduler=lottery "${load[@]}"
    assert_has "no scheduler \"lottery\""
    run -1 mp bench serve --shapes=tiny-a --memory=64M --rate=0.000001
    assert_has "nothing arrives"
    [ -z "$(own_pools)" ]
}

@test "make-model: what it makes is a model, and a disk that is too small is told" {
    make_models
    run -0 mp inspect "$RIG_DIR/models/tiny-b.gguf"
    assert_has "runs here    yes"
    assert_has "tokenizer    gpt2, 4096 tokens"
    mkdir -p "$RIG_DIR/small"
    mount -t tmpfs -o size=1M none "$RIG_DIR/small"
    run -1 mp bench make-model --shape=tiny-a --dtype=bf16 --out="$RIG_DIR/small/a.gguf"
    assert_has "bytes are needed, and"
    run -0 ls "$RIG_DIR/small"
    [ -z "$output" ]
    umount "$RIG_DIR/small"
}

@test "under each scheduler: what came is what the ledger billed" {
    local name out=$BATS_TEST_TMPDIR/out
    for name in rr fcfs aegaeon slack; do
        start_pool $name || true
        if [ $name = aegaeon ] && ! kill -0 "$(daemon_pid)" 2>/dev/null; then
            continue # not in this daemon
        fi
        mp bench serve "${load[@]}" --json >"$out"
        run -0 jq -e --arg name $name '.scheduler == $name and .failed == 0 and .refused == 0
            and .requests > 8 and .models == 4 and .requests == .ledger.requests
            and .tokens == .received_tokens and .received_tokens == .ledger.completion_tokens
            and .ledger.engine_seconds > 0 and .token_attainment > 0.5 and .step_seconds > 0
            and (.tenants | length) == 2 and ([.tenants[].tokens] | add) == .tokens
            and ([.tenants[].gpu_seconds] | add) <= .ledger.engine_seconds + 0.001
            and .sent_late.p50 < 0.5 and .predicted == null' "$out"
        run -0 jq -e -s '(.[0].requests | map(.completion_tokens) | add) == .[1].received_tokens
            and (.[0].requests | map(.prompt_tokens) | add) == .[1].ledger.prompt_tokens' \
            <(mp acct --json -S now-1hour) "$out"
        stop_daemon
        rm -rf "$RIG_DIR/modelpool"
    done
}

@test "the same seed gives sim and serve the same arrivals, and a prediction stands beside" {
    start_pool slack
    local dir=$BATS_TEST_TMPDIR
    mp bench serve "${load[@]}" --write-costs="$dir/costs" --trace="$dir/served.csv" \
        --plot="$dir/requests.svg" --predict >"$dir/report"
    run -0 cat "$dir/report"
    assert_has "served      predicted"
    assert_has "tenant1 seconds"
    assert_has "slack on 1 cpu"
    mp sim "${load[@]}" --costs="$dir/costs" --models=4 --trace="$dir/simulated.csv" >"$dir/sim"
    cmp "$dir/served.csv" "$dir/simulated.csv"
    [ "$(grep -c '^Model=' "$dir/costs")" = 4 ]
    grep -qE '<(path|polygon)' "$dir/requests.svg"

    # the trace again, cut and with a warmup, by costs that were measured before
    mp bench serve --costs="$dir/costs" --predict --duration=2s --warmup=1s --json \
        "$dir/served.csv" >"$dir/again"
    run -0 jq -e '.failed == 0 and .warmup == 1 and .requests < .ledger.requests
        and .requests == .predicted.requests and .tokens == .predicted.tokens
        and .received_tokens == .ledger.completion_tokens' "$dir/again"
}

@test "classes become deadlines, names with # the pool's, and strangers are told" {
    start_pool fcfs
    local trace=$BATS_TEST_TMPDIR/trace.csv
    printf '%s\n' arrival,model,tenant,input,output,class 0.1,b#1,x,8,4,5s:1s 0.2,b#7,y,8,4, \
        0.3,a,x,8,4,best-effort 0.3,b#2,x,8,1,1ms:1ms >"$trace"
    run -0 mp bench serve --json "$trace"
    run -0 jq -e '.requests == 4 and .failed == 0 and .tokens == 13' <<<"$output"
    run -0 mp acct --json -S now-1hour
    run -0 jq -re '.requests | map([.model, .slo] | join(" ")) | sort | join("; ")' <<<"$output"
    assert_has "b ttft:10000ms,tbt:100ms"
    assert_has "b-1 ttft:5000ms,tbt:1000ms"
    printf '0.4,stranger,x,8,4,\n' >>"$trace"
    run -1 mp bench serve "$trace"
    assert_has "stranger"
}

@test "in a job its key is used; a key that nobody knows fails every request" {
    start_pool slack
    export OPENAI_BASE_URL=http://127.0.0.1:811/v1
    OPENAI_API_KEY=mp-nobody run -1 mp bench serve "${load[@]}"
    assert_has "requests failed; the first: HTTP 401"
    run -0 python3 "$RIG_TOOLS/with_lease.py" "$RIG_SOCKET" models=a,b,b-1,b-2 -- \
        bash -c 'n=OPENAI_API_K; export "${n}EY=$1"; shift; exec modelpool bench serve "$@"' \
        - KEY "${load[@]}" --json
    run -0 jq -e '.failed == 0 and .ledger == null and .tokens == .received_tokens' <<<"$output"
}

@test "a pool of its own: shapes, a prediction, and nothing left behind" {
    run -0 mp bench serve --shapes=tiny-a:3,tiny-b:2 --memory=64M --threads=1 --scheduler=fcfs \
        --predict --json "${load[@]}"
    run -0 jq -e '.models == 5 and .scheduler == "fcfs" and .failed == 0
        and .tokens == .ledger.completion_tokens and .predicted.scheduler == "fcfs"
        and .predicted.token_attainment > 0.5' <<<"$output"
    [ -z "$(own_pools)" ]
}

@test "a pool of its own takes costs of a file by its shapes" {
    printf '%s\n' 'Device=d Memory=64e6 Link=1e9' \
        'Model=other Weights=1e6 KvToken=1 Context=512 Prefill=1e-3,1e-5,0 Decode=1e-3,0,0 Mix=9' \
        'Model=tiny-a Weights=4e6 KvToken=4096 Context=512 Prefill=1e-3,1e-5,0 Decode=1e-3,0,0' \
        >"$BATS_TEST_TMPDIR/costs"
    run -0 mp bench serve --shapes=tiny-a:2 --memory=64M --costs="$BATS_TEST_TMPDIR/costs" \
        --predict --json "${load[@]}"
    run -0 jq -e '.models == 2 and .failed == 0 and .predicted.device == "d"
        and (.device | startswith("cpu"))' <<<"$output"
    run -1 mp bench serve --shapes=tiny-b:2 --memory=64M --costs="$BATS_TEST_TMPDIR/costs" \
        "${load[@]}"
    assert_has "has no costs of the shape tiny-b"
}

@test "killed, it leaves no daemon and no folder behind" {
    modelpool bench serve --shapes=tiny-a:2 --memory=64M --duration=60s --rate=1 \
        >/dev/null 2>&1 </dev/null 3>&- 4>&- &
    local pid=$!
    wait_for 20 eval '[ -n "$(own_pools)" ]'
    local folder
    folder=$(own_pools)
    [ -d "$folder" ]
    kill -KILL "$pid"
    wait_for 15 eval '[ ! -e "$folder" ] && [ -z "$(own_pools)" ]'
}
