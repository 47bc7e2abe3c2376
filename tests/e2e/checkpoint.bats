#!/bin/bash
# Checkpoint folders, with the real daemon and engine, and without Slurm.  The models are tiny random
# ones: what they say is nonsense, but always the same.
[ -n "${BATS_VERSION:-}" ] || exec "$(dirname "$0")/../slurm/rig" --no-slurm bats "$0" "$@"
load ../slurm/bats

setup_file()
{
    local family=$RIG_SRC/tests/golden/families/qwen2
    mkdir -p "$RIG_DIR/checkpoints"
    make_folder "$family" whole
    make_folder "$family" shards 3
    make_folder "$family" no-shard 3
    rm "$RIG_DIR/checkpoints/no-shard/model-00002-of-00003.safetensors"
    make_folder "$family" private
    chmod 700 "$RIG_DIR/checkpoints/private"
    make_folder "$family" quantized
    sed -i 's/^{/{"quantization_config": {"quant_method": "gptq", "bits": 4}, /' \
        "$RIG_DIR/checkpoints/quantized/config.json"
    cat >"$RIG_DIR/etc/modelpool.conf" <<EOT
ClusterName=rig
NodeName=n1
RunDir=/run/modelpool
StateDir=$RIG_DIR/modelpool
Engine=$(command -v modelpool-engine)
Identity=none
Model=whole Path=$RIG_DIR/checkpoints/whole
Model=shards Path=$RIG_DIR/checkpoints/shards
Model=no-shard Path=$RIG_DIR/checkpoints/no-shard
Model=private Path=$RIG_DIR/checkpoints/private
Model=quantized Path=$RIG_DIR/checkpoints/quantized
Instance=cpu Device=cpu Memory=64M Threads=1
EOT
    rig_start_daemon 3>&- 4>&-
    wait_for 30 is_ready whole
    wait_for 30 is_ready shards
}

make_folder() # FROM NAME [SHARDS]
{
    local from=$1 name=$2
    shift 2
    python3 "$RIG_TOOLS/tiny_checkpoint.py" "$from" "$RIG_DIR/checkpoints/$name" "$@"
}

mp() { modelpool --socket="$RIG_SOCKET" "$@"; }
is_ready() { mp list -P -n | grep -qE "^$1\|cpu\|[a-z]+\|(ready|resident|running)\|"; }
ask() { mp run --temperature=0 --max-tokens=40 "$@"; }

@test "inspect: a folder runs, with its template" {
    run -0 mp inspect "$RIG_DIR/checkpoints/shards"
    grep -qE '^format +safetensors' <<<"$output"
    grep -qE '^stored as +F16' <<<"$output"
    grep -qE '^template +yes' <<<"$output"
    grep -qE '^runs here +yes' <<<"$output"
}

@test "a folder answers, and shards answer as the whole does" {
    ask whole "Hello!" >"$RIG_DIR/whole.out"
    ask shards "Hello!" >"$RIG_DIR/shards.out"
    [ -s "$RIG_DIR/whole.out" ]
    cmp "$RIG_DIR/whole.out" "$RIG_DIR/shards.out"
    ask --raw whole "Another" >"$RIG_DIR/other.out"
    ! cmp -s "$RIG_DIR/whole.out" "$RIG_DIR/other.out"
}

@test "what cannot run is refused by name" {
    mp list -P -n >"$RIG_DIR/list"
    grep -q '^no-shard|.*unusable.*model-00002-of-00003.safetensors: no such file' "$RIG_DIR/list"
    grep -q '^private|.*unusable.*Permission denied' "$RIG_DIR/list"
    grep -q '^quantized|.*unusable.*gptq' "$RIG_DIR/list"
    run -1 mp config check "$RIG_DIR/etc/modelpool.conf"
    grep -q 'Model=no-shard: .*fetch the missing shard' <<<"$output"
    grep -q 'Model=quantized: .*gptq' <<<"$output"
}

@test "the engine has the weights' files open, and no path" {
    local pid
    pid=$(mp status --json | python3 -c 'import json,sys; print(json.load(sys.stdin)["instances"][0]["pid"])')
    ls -l "/proc/$pid/fd" >"$RIG_DIR/fds"
    [ "$(grep -c 'safetensors' "$RIG_DIR/fds")" = 4 ]
    ! grep -q 'tokenizer\|config.json\|template' "$RIG_DIR/fds"
}
