#!/bin/bash
# The ledger against what the clients counted: 200 mixed requests of two users, over two models that
# have to take turns, some cancelled half-way.
[ -n "${BATS_VERSION:-}" ] || exec "$(dirname "$0")/../slurm/rig" bats "$0" "$@"
load ../slurm/bats

setup_file()
{
    [ -n "${MODELPOOL_TEST_MODEL:-}" ] || return 0
    local weights
    weights=$(stat -c %s "$MODELPOOL_TEST_MODEL")
    cat >"$RIG_DIR/etc/modelpool.conf" <<EOT
ClusterName=rig
NodeName=rig
RunDir=/run/modelpool
StateDir=$RIG_DIR/modelpool
Engine=$(command -v modelpool-engine)
Model=one Path=$MODELPOOL_TEST_MODEL MaxContext=512
Model=two Path=$MODELPOOL_TEST_MODEL MaxContext=512
Instance=cpu Device=cpu Memory=$((weights / 1048576 + 80))M
EOT
    install -m 644 "$RIG_SRC/tests/e2e/mixed.py" "$RIG_DIR/lib/mixed.py"
    rig_start_daemon 3>&- 4>&-
    wait_for 30 curl -sf http://127.0.0.1:811/health
}

setup()
{
    [ -n "${MODELPOOL_TEST_MODEL:-}" ] || skip "MODELPOOL_TEST_MODEL names no model"
}

mixed() # USER ACCOUNT SEED: 96 requests after four that learn the prompts' lengths
{
    rig_as "$1" srun -Q --account="$2" --model=one,two env MIXED_MODELS=one,two \
        python3 "$RIG_DIR/lib/mixed.py" 96 "$3"
}

sums() # ACCOUNT: "requests prompt completion cancelled" by the ledger
{
    modelpool --socket "$RIG_SOCKET" acct -A "$1" -n -P -o state,prompttokens,outputtokens |
        awk -F'|' '{ n++; p += $2; c += $3; x += $1 == "cancelled" } END { print n, p, c, x + 0 }'
}

@test "after 200 mixed requests the sums are those of the clients" {
    mixed alice physics 1 >"$RIG_DIR/alice.json" &
    mixed bob biology 2 >"$RIG_DIR/bob.json"
    wait $!
    wait_for 10 no_open_rows
    cat "$RIG_DIR"/*.json
    [ "$(jq .requests "$RIG_DIR/alice.json")" = 100 ]
    [ "$(jq .cancelled "$RIG_DIR/alice.json")" -gt 5 ]
    wait_for 20 agree alice physics
    wait_for 20 agree bob biology
}

counted() { jq -r '"\(.requests) \(.prompt_tokens) \(.completion_tokens) \(.cancelled)"' "$1"; }
# Accounts come from the controller, which is asked now and then.
agree() { [ "$(counted "$RIG_DIR/$1.json")" = "$(sums "$2")" ]; }
no_open_rows() { [ -z "$(modelpool --socket "$RIG_SOCKET" acct -s open -n -P -o state)" ]; }

@test "they took turns on memory that holds one model" {
    switches=$(modelpool --socket "$RIG_SOCKET" status --json | jq '[.instances[].switches] | add')
    [ "$switches" -gt 10 ]
}
