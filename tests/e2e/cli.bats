#!/bin/bash
# The modelpool command: wrong command lines, no daemon, and a real daemon with a real model, without
# Slurm.  MODELPOOL_TEST_MODEL=FILE.gguf names the model; what needs none runs without it.
[ -n "${BATS_VERSION:-}" ] || exec "$(dirname "$0")/../slurm/rig" --no-slurm bats "$0" "$@"
load ../slurm/bats

setup_file()
{
    [ -n "${MODELPOOL_TEST_MODEL:-}" ] || return 0
    cat >"$RIG_DIR/etc/modelpool.conf" <<EOT
ClusterName=rig
NodeName=n1
RunDir=/run/modelpool
StateDir=$RIG_DIR/modelpool
Engine=$(command -v modelpool-engine)
Identity=none
Model=small Path=$MODELPOOL_TEST_MODEL MaxContext=1024
Model=closed Path=$MODELPOOL_TEST_MODEL AllowAccounts=physics
Instance=cpu Device=cpu Memory=700M Threads=2
EOT
    rig_start_daemon 3>&- 4>&-
    wait_for 30 eval 'modelpool list -n -P | grep -q "^small|cpu|.*|ready|"'
}

need_model() { [ -n "${MODELPOOL_TEST_MODEL:-}" ] || skip "MODELPOOL_TEST_MODEL names no model"; }
mp() { modelpool "$@" </dev/null; }
mp_as() { rig_as "$1" modelpool "${@:2}" </dev/null; }

# ---- the command line -----------------------------------------------------------------------------

@test "wrong command lines are told, with exit status 2" {
    local words
    while read -r words; do
        run -2 mp $words
        assert_says '.+'
        assert_has "usage: modelpool"
    done <<'EOT'

frobnicate
list extra
status extra
run
run small one two
run --max-tokens=-1 small hi
run --temperature=hot small hi
run --temperature=nan small hi
run --raw --system=x small hi
run small
load
load a b
drain
acct extra
acct -o nothing
acct -S yesterday
acct -S 2026-01-02 -E 2026-01-01
acct -j 1.batch
acct -s sleeping
acct -u nosuchuser
config
config write
config check a b
bench
bench speed
bench --gpu=x limits
EOT
}

@test "unknown options are told, with exit status 2" {
    local command
    for command in list status run load unload drain resume acct bench config; do
        run -2 mp $command --frobnicate
        assert_has "--frobnicate"
    done
    run -2 mp list --caches=all
}

@test "KV of a few sequences goes to host memory and back" {
    run -0 mp bench swap --device=cpu --shape=tiny-a --batch=4 --context=100 --memory=256
    assert_has "swap: out"
    assert_has "swap: in"
    assert_has "step: nothing moves"
}

@test "a short soak: memory stays, every page comes back" {
    run -0 mp bench soak --device=cpu --shape=smollm2-135m --dtype=q4_1 --memory=160 --batch=2 \
        --models=2 --steps=48 --threads=2
    assert_has "soak: a step"
    assert_has "switch, median"
    run -2 mp bench soak --device=cpu --shape=smollm2-135m --steps=3
    assert_has "steps"
}

@test "help goes to standard output" {
    local command
    run -0 --separate-stderr mp --help
    assert_has "acct"
    [ -z "$stderr" ]
    for command in list status run load unload drain resume acct bench config; do
        run -0 --separate-stderr mp $command --help
        assert_has "usage: modelpool $command"
        [ -z "$stderr" ]
    done
}

@test "acct -e lists the fields that -o takes" {
    local field
    run -0 mp acct -e
    [ "$(wc -w <<<"$output")" -gt 20 ]
    for field in $output; do
        run mp --socket=/nowhere acct -o "$field"
        [ "$status" = 3 ]
    done
}

# ---- no daemon ------------------------------------------------------------------------------------

@test "a daemon that is not there is exit status 3" {
    local words
    for words in list status "run small hi" "load small" "drain cpu" acct; do
        run -3 mp --socket=/nowhere/control.sock $words
        assert_says 'no modelpoold answers at /nowhere/control.sock'
    done
    MODELPOOL_CONTROL=/elsewhere run -3 mp list
    assert_says '/elsewhere'
}

@test "a socket that nobody accepts on does not hang" {
    timeout 20 python3 - "$RIG_DIR/stopped.sock" <<'PY' &
import socket, sys, time
s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1])
s.listen(1)
time.sleep(15)
PY
    local pid=$!
    wait_for 5 test -S "$RIG_DIR/stopped.sock"
    run -3 timeout 12 modelpool --socket="$RIG_DIR/stopped.sock" list
    kill "$pid"
}

@test "a server of the step's environment that is not there is exit status 3" {
    OPENAI_BASE_URL=http://127.0.0.1:9/v1 OPENAI_API_KEY=x run -3 mp run small hi
    assert_says '127.0.0.1:9.*does not answer'
    OPENAI_BASE_URL=https://127.0.0.1/v1 OPENAI_API_KEY=x run -2 mp run small hi
    assert_says 'no http:// URL'
}

# ---- configuration --------------------------------------------------------------------------------

@test "config check says what is wrong, a line each" {
    run -1 mp config check /nowhere.conf
    assert_says '/nowhere.conf'
    printf 'Model=a Path=/nowhere.gguf\nModel=b Path=/etc/passwd\nInstance=cpu Device=cpu Memory=1G\n' \
        >"$RIG_DIR/bad.conf"
    run -1 mp config check "$RIG_DIR/bad.conf"
    [ "$(grep -c '^modelpool: ' <<<"$output")" = 2 ]
    assert_has "Model=a: "
    assert_has "Model=b: "
    printf 'Colour=blue\n' >"$RIG_DIR/bad.conf"
    run -1 mp config check "$RIG_DIR/bad.conf"
    assert_says 'bad.conf:1.*Colour.*allowed'
}

@test "inspect says what is in a model, and refuses by name" {
    run -1 mp inspect /nowhere
    assert_has "/nowhere: No such file or directory; a model is"
    mkdir -p "$RIG_DIR/folder"
    run -1 mp inspect "$RIG_DIR/folder"
    assert_has "a folder without model.safetensors"
    run -2 mp inspect
    run -2 mp inspect --memory=much /nowhere
    need_model
    run -0 mp inspect "$MODELPOOL_TEST_MODEL"
    assert_has "runs here    yes"
    assert_has "on a GPU     Q4_1, Q8_0 as stored for few rows"
    run -0 mp inspect --json "$MODELPOOL_TEST_MODEL"
    python3 -c 'import json, sys; m = json.loads(sys.argv[1]); assert m["runs"]
assert m["gpu"] == {"runs": True, "as_stored": [], "expanded_for_many_rows": ["Q4_1", "Q8_0"]}' "$output"
    run -1 mp inspect --memory=8M "$MODELPOOL_TEST_MODEL"
    assert_has "runs here    no: its weights take"
}

@test "config check accepts the running configuration" {
    need_model
    run -0 mp config check "$RIG_DIR/etc/modelpool.conf"
    assert_has "2 models, 1 instances, no errors"
}

# ---- a daemon with a model ------------------------------------------------------------------------

@test "list and status, for people, for programs, as JSON" {
    need_model
    run -0 mp list
    [[ ${lines[0]} =~ ^MODEL\ +INSTANCE ]]
    run -0 mp list -P -n
    [ "${#lines[@]}" = 2 ]
    [[ ${lines[0]} =~ ^small\|cpu\| ]]
    run -0 mp_as alice status
    assert_has "modelpoold"
    for words in "list" "status" "acct" "acct -X"; do
        modelpool $words --json | python3 -c 'import json, sys; json.load(sys.stdin)'
    done
}

@test "run prints the answer of an argument, of standard input, of both" {
    need_model
    run -0 mp_as alice run --max-tokens=8 --temperature=0 small "Name a metal."
    [ -n "$output" ]
    first=$output
    run -0 rig_as alice bash -c 'echo "Name a metal." | modelpool run --max-tokens=8 --temperature=0 small'
    [ "$output" = "$first" ]
    run -0 rig_as alice bash -c 'echo metal. | modelpool run --max-tokens=8 --temperature=0 --seed=3 \
        --system="Be brief." --stop=zzz small "Name a"'
    [ -n "$output" ]
    run -0 mp_as alice run --raw --max-tokens=4 --temperature=0 small "The sky is"
    [ -n "$output" ]
}

@test "what is not there is refused by name" {
    need_model
    run -1 mp_as alice run nosuch hi
    assert_says 'no model "nosuch": there are small, closed'
    run -1 mp_as alice run closed hi
    assert_says 'account "local" may not use model "closed"'
    run -1 mp load nosuch
    assert_says 'no model "nosuch"'
    run -1 mp drain gpu7
    assert_says 'no instance "gpu7" on this node: there are cpu'
}

@test "orders are for root" {
    need_model
    local words
    for words in "load small" "unload small" "drain cpu" "resume cpu"; do
        run -1 mp_as alice $words
        assert_says 'is for root'
    done
    run -0 mp load small
    run -0 mp unload small
    run -0 mp drain cpu
    run -1 mp_as alice run small hi
    assert_says 'drained'
    run -0 mp resume cpu
    run -0 mp_as alice run --max-tokens=1 small hi
}

@test "Ctrl-C cancels the request" {
    need_model
    local code=0
    rig_as alice timeout --signal=INT --preserve-status 1 modelpool run --max-tokens=900 \
        --temperature=0 --raw small "one two three four one two three four one two" </dev/null || code=$?
    [ "$code" = 130 ] || { echo "exit status $code"; false; }
    wait_for 5 eval '[ "$(modelpool acct -n -P -u alice -s cancelled -o requests | wc -l)" = 1 ]'
    wait_for 5 eval 'modelpool status --json | python3 -c "import json,sys; sys.exit(json.load(sys.stdin)[\"daemon\"][\"leases\"])"'
}

@test "acct shows users their own rows, with sacct's options" {
    need_model
    mp_as bob run --max-tokens=3 --temperature=0 small "Hello" >/dev/null
    run -0 mp_as bob acct -n -P -o user,account,model,state,output,jobid
    [ "$output" = "bob|local|small|done|3|local" ]
    run -0 mp acct -n -P -u bob,alice -o user
    [ "$(sort -u <<<"$output")" = $'alice\nbob' ]
    run -0 mp_as bob acct -n -u alice
    [ -z "$output" ]
    run -0 mp acct -n -u bob -S now-2hours -E now-1hour
    [ -z "$output" ]
    run -0 mp acct -n -u bob -A physics
    [ -z "$output" ]
    run -0 mp acct -u bob -o 'user%-7,model%5'
    [ "${lines[0]}" = "User    Model" ]
    [ "${lines[1]}" = "bob     small" ]
}
