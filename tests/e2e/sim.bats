#!/bin/bash
# modelpool sim from the installed tree, and daemons with each Scheduler=.  What needs
# a model runs if MODELPOOL_TEST_MODEL names one.
[ -n "${BATS_VERSION:-}" ] || exec "$(dirname "$0")/../slurm/rig" --no-slurm bats "$0" "$@"
load ../slurm/bats

mp() { modelpool "$@" </dev/null; }

daemon_pid() { cat "$RIG_DIR/run/modelpoold.pid"; }
zombie() { [ "$(ps -o stat= -p "$(daemon_pid)" | cut -c1)" = Z ]; }
stop_daemon() {
    kill "$(daemon_pid)" 2>/dev/null || true
    wait_for 5 eval '! kill -0 "$(daemon_pid)" 2>/dev/null || zombie'
}

# write_conf SCHEDULER: two names of one model, with room for the weights of one
write_conf() {
    cat >"$RIG_DIR/etc/modelpool.conf" <<EOT
ClusterName=rig
NodeName=n1
RunDir=/run/modelpool
StateDir=$RIG_DIR/modelpool
Engine=$(command -v modelpool-engine)
Identity=none
Scheduler=$1
Model=one Path=${MODELPOOL_TEST_MODEL:-/nowhere} MaxContext=512
Model=two Path=${MODELPOOL_TEST_MODEL:-/nowhere} MaxContext=512
Instance=cpu Device=cpu Memory=220M Threads=2
EOT
}

@test "wrong command lines are told, with exit status 2" {
    local words
    while read -r words; do
        run -2 mp sim $words
        assert_has "usage: modelpool sim"
    done <<'EOT'
--gpus=0
--gpus=many
--roles=6p
--roles=6p9d
--slo=10s
--slo=10s:fast
--switch=soon
--prefetch=maybe
--models=0
--rate=nan
--duration=0
--input=zeta:2
--output=lognormal:1
--zipf=-1
--paper --only=nothing
a.csv b.csv
--paper a.csv
--growth a.csv
--growth --paper
--burst=hail
--burst=flood --paper
--burst=flood a.csv
--host-memory=much
--host-memory=0
--node-gpus=0
EOT
}

@test "what cannot be simulated is told, with exit status 1" {
    run -1 mp sim --scheduler=lottery
    assert_has "there are: rr, fcfs, sjf, aegaeon, slack"
    run -1 mp sim --costs=h9000
    assert_has "h9000.conf: No such file"
    run -1 mp sim "$BATS_TEST_TMPDIR/none.csv"
    assert_has "none.csv: No such file"
    printf 'Device=d Memory=1e9\n' >"$BATS_TEST_TMPDIR/costs"
    run -1 mp sim --costs="$BATS_TEST_TMPDIR/costs"
    assert_has "has no Model= line"
    run -1 mp sim --rate=0.000001 --models=1
    assert_has "nothing arrives"
    sed 's/ Disk=[^ ]*//' "$RIG_PREFIX/share/modelpool/costs/h800.conf" >"$BATS_TEST_TMPDIR/nodisk"
    run -1 mp sim --costs="$BATS_TEST_TMPDIR/nodisk" --host-memory=500G
    assert_has "the costs of h800 have no Disk=BYTES_PER_S"
    sed 's/Context=[0-9]*/Context=4096/' "$RIG_PREFIX/share/modelpool/costs/h800.conf" >"$BATS_TEST_TMPDIR/short"
    run -1 mp sim --costs="$BATS_TEST_TMPDIR/short" --burst=prompts
    assert_has "no model has a Context= above 26000 tokens"
}

@test "a report, as a table and as JSON, the same each time" {
    run -0 mp sim --models=40 --duration=30
    assert_has "tokens on time"
    assert_has "scheduler      slack on 16 h800, mixed"
    mp sim --models=40 --duration=30 --json >"$BATS_TEST_TMPDIR/a"
    mp sim --models=40 --duration=30 --json >"$BATS_TEST_TMPDIR/b"
    cmp "$BATS_TEST_TMPDIR/a" "$BATS_TEST_TMPDIR/b"
    run -0 jq -r '.scheduler, .models, (.token_attainment > 0.99), .unified' "$BATS_TEST_TMPDIR/a"
    assert_has "slack"
    assert_has "true"
    run -0 mp sim --models=10 --gpus=1 --costs=h100 --scheduler=aegaeon --duration=30
    assert_has "aegaeon (unified) on 1 h100"
    run -0 mp sim --models=10 --gpus=2 --roles=1p1d --scheduler=aegaeon --duration=30
    assert_has "aegaeon on 2 h800, 1p1d"
}

@test "a trace that was written is replayed to the same figures" {
    local trace=$BATS_TEST_TMPDIR/trace.csv
    mp sim --models=20 --tenants=3 --cv=4 --zipf=1 --duration=60 --seed=9 --trace="$trace" --json |
        jq 'del(.switches)' >"$BATS_TEST_TMPDIR/a"
    run -0 head -n 1 "$trace"
    assert_has "arrival,model,tenant,input,output,class"
    run -0 mp sim --json "$trace"
    run -0 jq -e -s '.[0].tokens == .[1].tokens and .[0].requests == .[1].requests
        and (.[0].token_attainment - .[1].token_attainment | fabs) < 0.01' \
        "$BATS_TEST_TMPDIR/a" <(mp sim --json "$trace")
    printf 'x' >>"$trace"
    run -1 mp sim "$trace"
    assert_has "not the six fields"
}

@test "each scheduler serves a small load, and refuses by promise with --admit" {
    local name
    for name in rr fcfs sjf aegaeon slack; do
        run -0 mp sim --scheduler=$name --models=8 --duration=60 --json
        run -0 jq -e '.token_attainment > 0.95 and .requests > 10' <<<"$output"
    done
    run -0 mp sim --gpus=1 --models=60 --duration=60 --admit
    [[ $output =~ refused\ +[1-9][0-9]*\ requests ]]
}

@test "the published case: slack holds at least twice as many models as aegaeon" {
    run -0 mp sim --paper --only=base --seeds=1 --json
    run -0 jq -e '.[0].models | (map(select(.scheduler == "aegaeon"))[1].tokens_on_time.mean) as $a
        | (map(select(.scheduler == "slack"))[1:3] | map(.tokens_on_time.mean))
        | $a >= 63 and $a <= 77 and .[0] >= 1.8 * $a and .[1] >= 2 * $a' <<<"$output"
}

@test "bursts: the report says who waited and who paid" {
    run -0 mp sim --models=40 --duration=60 --switch=link --burst=models,kv
    [[ $output =~ longest\ wait\ +[0-9.]+\ s\ of\ a\ batch\ for\ a\ turn\;\ the\ bound\ is ]]
    [[ $output =~ tenant0\ +[0-9.]+\ GPU\ s,\ [0-9.]+\ of\ them\ in\ switches ]]
    [[ $output =~ models\ +[0-9.]+\ GPU\ s ]]
    [[ $output =~ kv\ +[0-9.]+\ GPU\ s ]]
    run -0 mp sim --models=40 --duration=60 --switch=link --burst=flood --json
    run -0 jq -e '(.tenants | map(.gpu_seconds) | add) as $paid
        | ($paid - .step_seconds - .switch_seconds | fabs) < 1 and .tenants[1].tenant == "flood"
        and .tenants[1].requests == 10000
        and .longest_wait <= 60 + (.most_batches + 1) * (.longest_turn + .longest_load)' <<<"$output"
}

@test "a host memory with bounds: models come from disk, and go to where they lie" {
    run -0 mp sim --models=40 --gpus=8 --duration=60 --host-memory=300G
    [[ $output =~ host\ memory\ +[0-9]+\ loads\ found\ their\ model\ there.*[1-9][0-9]*\ from\ disk ]]
    run -0 mp sim --models=40 --gpus=8 --duration=60 --host-memory=300G --node-gpus=4 --json
    run -0 jq -e '.host_hits + .host_waits + .disk_loads == .loads and .disk_bytes > 1e11' <<<"$output"
    run -0 mp sim --models=40 --gpus=8 --duration=60 --json
    run -0 jq -e '.disk_loads == 0 and .token_attainment > 0.99' <<<"$output"
}

@test "growth: decisions and simulations, as CSV and JSON" {
    run -0 mp sim --growth --models=20 --gpus=4 --duration=60s
    [ "$(grep -c '^decision,' <<<"$output")" = 19 ]
    [ "$(grep -c '^simulation,' <<<"$output")" = 15 ]
    # 100 models and 1,000 sequences: 20 us are promised, on a machine with nothing else to do
    awk -F , '$1 == "decision" && $3 == 100 && $4 == 1000 { n++; if (!($7 > 0 && $7 < 100)) exit 1 }
        END { exit n != 2 }' <<<"$output"
    run -0 mp sim --growth --models=20 --gpus=4 --duration=60s --json
    run -0 jq -e 'length == 34 and all(.cpu_seconds // .decision_us >= 0)' <<<"$output"
}

@test "without gnuplot --plot says so at once" {
    mkdir "$BATS_TEST_TMPDIR/bin"
    PATH=$BATS_TEST_TMPDIR/bin run -1 "$RIG_PREFIX/bin/modelpool" sim --plot="$BATS_TEST_TMPDIR/x.svg"
    assert_has "--plot= needs gnuplot, and there is none in PATH"
    [ ! -e "$BATS_TEST_TMPDIR/x.svg" ]
}

@test "figures are drawn" {
    command -v gnuplot >/dev/null || skip "gnuplot is not installed"
    run -0 mp sim --models=40 --duration=130 --plot="$BATS_TEST_TMPDIR/turns.svg"
    [ "$(grep -oE '<(path|polygon)' "$BATS_TEST_TMPDIR/turns.svg" | wc -l)" -gt 100 ]
    run -0 grep -o 'Turns under slack: 40 models, [0-9.]* % of tokens on time' \
        "$BATS_TEST_TMPDIR/turns.svg"
    run -1 mp sim --models=4 --duration=30 --plot=/nowhere/x.svg
    assert_has "/nowhere/x.svg"
}

@test "Scheduler= is checked by name" {
    write_conf sjf
    run -1 mp config check "$RIG_DIR/etc/modelpool.conf"
    assert_has "sjf knows the future and is for \`modelpool sim\`; there are: slack, aegaeon, rr, fcfs"
    write_conf lottery
    run -1 mp config check "$RIG_DIR/etc/modelpool.conf"
    assert_has "no scheduler \"lottery\"; there are: slack, aegaeon, rr, fcfs"
}

@test "a daemon with each scheduler serves two models that share memory for one" {
    [ -n "${MODELPOOL_TEST_MODEL:-}" ] || skip "MODELPOOL_TEST_MODEL names no model"
    local name i
    for name in slack aegaeon rr fcfs; do
        write_conf $name
        rig_start_daemon 3>&- 4>&-
        wait_for 30 eval 'modelpool list -n -P | grep -q "^two|cpu|.*|ready|"'
        for i in 1 2 3; do
            mp run --max-tokens=24 --seed=$i one "Count to ten." >"$BATS_TEST_TMPDIR/one.$name.$i" &
            mp run --max-tokens=24 --seed=$i two "Count to ten." >"$BATS_TEST_TMPDIR/two.$name.$i" &
        done
        wait # for the six
        for i in 1 2 3; do # neither depends on the turns
            [ -s "$BATS_TEST_TMPDIR/one.$name.$i" ]
            cmp "$BATS_TEST_TMPDIR/one.$name.$i" "$BATS_TEST_TMPDIR/two.$name.$i"
            cmp "$BATS_TEST_TMPDIR/one.$name.$i" "$BATS_TEST_TMPDIR/one.slack.$i"
        done
        run -0 mp status --json
        run -0 mp status
        assert_has "scheduler $name"
        stop_daemon
    done
}
