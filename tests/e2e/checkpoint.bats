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
    make_folder "$family/../qwen3-f8-block" fp8 2
    make_folder "$family" tools
    write_tools_template
    make_folder "$family" wide 1 32769
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
Model=fp8 Path=$RIG_DIR/checkpoints/fp8
Model=tools Path=$RIG_DIR/checkpoints/tools
Model=wide Path=$RIG_DIR/checkpoints/wide
Instance=cpu Device=cpu Memory=64M Threads=1
EOT
    rig_start_daemon 3>&- 4>&-
    wait_for 30 is_ready whole
    wait_for 30 is_ready shards
    wait_for 30 is_ready fp8
    wait_for 30 is_ready tools
}

# Arguments of a call as most templates want them (json) or as OpenAI sends them (text).
write_tools_template()
{
    cat >"$RIG_DIR/checkpoints/tools/chat_template.jinja" <<'EOT'
{%- for t in tools or [] %}[{{ t.function.name }}]{% endfor %}
{%- for m in messages %}{{ m.role[0] }}{{ m.content }}
{%- for c in m.tool_calls or [] %}
{%- if c.id == 'text' %}{{ c.function.arguments + '!' }}{% else %}{{ c.function.arguments|tojson }}{% endif %}
{%- endfor %}{% if m.role == 'tool' %}{{ m.tool_call_id }}{% endif %}{% endfor %}
EOT
}

make_folder() # FROM NAME [SHARDS]
{
    local from=$1 name=$2
    shift 2
    python3 "$RIG_TOOLS/tiny_checkpoint.py" "$from" "$RIG_DIR/checkpoints/$name" "$@"
}

mp() { modelpool --socket="$RIG_SOCKET" "$@"; }
is_ready() { mp list -P -n | grep -qE "^$1\|cpu\|[a-z]+\|(ready|resident|running)\|"; }
# `chat JSON`: a chat request of the model tools; prints the prompt's tokens, of which each is a byte,
# or what it was refused with.
chat()
{
    python3 "$RIG_TOOLS/with_lease.py" "$RIG_SOCKET" models=tools,whole -- curl -sS \
        http://127.0.0.1:811/v1/chat/completions -H 'Authorization: Bearer KEY' \
        -d "{\"model\": \"${MODEL:-tools}\", \"max_tokens\": 1, $1}" |
        jq -r '.usage.prompt_tokens // (.error.param + ": " + .error.message)'
}
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

@test "FP8: inspect tells it with its bytes, and it answers" {
    run -0 mp inspect "$RIG_DIR/checkpoints/fp8"
    grep -qE '^stored as +F32 .*BF16 .*F8_E4M3 ' <<<"$output"
    grep -qE '^runs here +yes' <<<"$output"
    ask fp8 "Hello!" >"$RIG_DIR/fp8.out"
    [ -s "$RIG_DIR/fp8.out" ]
    ask --raw fp8 "Another" >"$RIG_DIR/other.out"
    ! cmp -s "$RIG_DIR/fp8.out" "$RIG_DIR/other.out"
}

@test "what cannot run is refused by name" {
    mp list -P -n >"$RIG_DIR/list"
    grep -q '^no-shard|.*unusable.*model-00002-of-00003.safetensors: no such file' "$RIG_DIR/list"
    grep -q '^private|.*unusable.*Permission denied' "$RIG_DIR/list"
    grep -q '^quantized|.*unusable.*gptq' "$RIG_DIR/list"
    grep -q '^wide|.*twice the feed-forward width is 65538, .*at most 65536' "$RIG_DIR/list"
    run -1 mp config check "$RIG_DIR/etc/modelpool.conf"
    grep -q 'Model=no-shard: .*fetch the missing shard' <<<"$output"
    grep -q 'Model=quantized: .*gptq' <<<"$output"
    grep -q 'Model=wide: .*twice the feed-forward width' <<<"$output"
}

@test "inspect: an activation that is too wide for an engine, in the engine's words" {
    run -1 mp inspect "$RIG_DIR/checkpoints/wide"
    grep -qE '^runs here +no: twice the feed-forward width is 65538, .* at most 65536' <<<"$output"
}

@test "the engine has the weights' files open, and no path" {
    local pid
    pid=$(mp status --json | python3 -c 'import json,sys; print(json.load(sys.stdin)["instances"][0]["pid"])')
    ls -l "/proc/$pid/fd" >"$RIG_DIR/fds"
    [ "$(grep -c 'safetensors' "$RIG_DIR/fds")" = 7 ]
    ! grep -q 'tokenizer\|config.json\|template' "$RIG_DIR/fds"
}

@test "tools: definitions, calls and results are in the prompt, to the byte" {
    local q='{"role": "user", "content": "q"}' tools='"tools": [{"type": "function", "function": {"name": "f"}}]'
    local call='"type": "function", "function": {"name": "f", "arguments": "{\"a\":   1}"}'
    local answer='{"role": "tool", "tool_call_id": "xy", "content": "7"}'
    [ "$(chat "\"messages\": [$q]")" = 2 ]        # uq
    [ "$(chat "\"messages\": [$q], $tools")" = 5 ] # [f]uq
    [ "$(chat "\"messages\": [$q], $tools, \"tool_choice\": \"auto\"")" = 5 ]
    [ "$(chat "\"messages\": [$q], $tools, \"tool_choice\": \"none\"")" = 2 ]
    # uq, a{"a": 1}, t7xy
    [ "$(chat "\"messages\": [$q, {\"role\": \"assistant\", \"tool_calls\": [{\"id\": \"json\", $call}]}, $answer]")" = 15 ]
    # uq, a{"a":   1}!, t7xy
    [ "$(chat "\"messages\": [$q, {\"role\": \"assistant\", \"tool_calls\": [{\"id\": \"text\", $call}]}, $answer]")" = 18 ]
}

@test "tools: refused by name where the model's template knows none" {
    local q='{"role": "user", "content": "q"}' tools='"tools": [{"type": "function", "function": {"name": "f"}}]'
    run -0 chat "\"messages\": [$q], $tools, \"tool_choice\": \"required\""
    assert_has "tool_choice: tool_choice is not supported"
    export MODEL=whole
    run -0 chat "\"messages\": [$q], $tools"
    assert_has "tools: whole knows no tools: its chat template does not use tools"
    run -0 chat "\"messages\": [$q, {\"role\": \"tool\", \"tool_call_id\": \"x\", \"content\": \"7\"}]"
    assert_has 'messages: whole knows no tools: its chat template does not use the role "tool"'
}

@test "TensorParallel=2: two ranks answer as one does, and refuse what they would split" {
    kill "$(cat "$RIG_DIR/run/modelpoold.pid")"
    wait_for 10 eval '! kill -0 "$(cat "$RIG_DIR/run/modelpoold.pid")" 2>/dev/null'
    sed -i '/^Model=whole\|^Model=shards\|^Model=fp8/!{/^Model=/d}
        s/^Instance=.*/Instance=cpu Device=cpu Memory=64M Threads=2 TensorParallel=2/' \
        "$RIG_DIR/etc/modelpool.conf"
    rig_start_daemon 3>&- 4>&-
    wait_for 30 is_ready whole
    wait_for 30 is_ready shards
    ask whole "Hello!" >"$RIG_DIR/ranks.out"
    cmp "$RIG_DIR/whole.out" "$RIG_DIR/ranks.out"
    ask shards "Hello!" >"$RIG_DIR/ranks.out" # a switch
    cmp "$RIG_DIR/whole.out" "$RIG_DIR/ranks.out"
    mp status | grep -q ' 2 x cpu'
    wait_for 10 eval 'mp list -P -n | grep -q "^fp8|cpu|.*TensorParallel=2 would split its blocks"'
}
