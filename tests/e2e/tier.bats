#!/bin/bash
# The host tier: master copies that outlive engines and the daemon, with the real daemon, engine and
# model, and without Slurm.  MODELPOOL_TEST_MODEL=FILE.gguf names the model.
[ -n "${BATS_VERSION:-}" ] || exec "$(dirname "$0")/../slurm/rig" --no-slurm bats "$0" "$@"
load ../slurm/bats

ASK=(run --max-tokens=12 --temperature=0 --raw)

setup_file()
{
    [ -n "${MODELPOOL_TEST_MODEL:-}" ] || return 0
    mkdir -p "$RIG_DIR/shm" "$RIG_DIR/models"
    mount -t tmpfs -o size=400m,mode=1777 tmpfs "$RIG_DIR/shm"
    cp "$MODELPOOL_TEST_MODEL" "$RIG_DIR/models/small.gguf"
    chmod 755 "$RIG_DIR/models"
}

teardown_file()
{
    stop_daemon TERM || true
    umount "$RIG_DIR/shm" 2>/dev/null || true
}

setup()
{
    [ -n "${MODELPOOL_TEST_MODEL:-}" ] || skip "MODELPOOL_TEST_MODEL names no model"
}

write_config() # HOSTCACHE [MODEL-KEYS]
{
    cat >"$RIG_DIR/etc/modelpool.conf" <<EOT
ClusterName=rig
NodeName=n1
RunDir=/run/modelpool
StateDir=$RIG_DIR/modelpool
Engine=$(command -v modelpool-engine)
Identity=none
HostCache=$1
HostCacheDir=$RIG_DIR/shm
Model=small Path=$RIG_DIR/models/small.gguf MaxContext=512 ${2:-}
Model=twin Path=$RIG_DIR/models/small.gguf MaxContext=512
Model=twice Path=$RIG_DIR/models/twice.gguf MaxContext=512
Instance=cpu Device=cpu Memory=300M Threads=2
EOT
}

start()
{
    rig_start_daemon 3>&- 4>&-
    wait_for 30 eval 'modelpool list -n -P | grep -q "^small|cpu|.*|\(ready\|resident\|preparing\)|"' ||
        { tail -n 20 "$RIG_DIR/log/modelpoold.log"; return 1; }
}
daemon_pid() { cat "$RIG_DIR/run/modelpoold.pid"; }
gone() { ! kill -0 "$1" 2>/dev/null || grep -q '^State:.Z' "/proc/$1/status"; }
stop_daemon() # SIGNAL
{
    local engine
    engine=$(engine_pid 2>/dev/null || true)
    kill "-$1" "$(daemon_pid)" 2>/dev/null || return 0
    wait_for 10 gone "$(daemon_pid)"
    [ -z "$engine" ] || wait_for 10 gone "$engine"
}
field() # KEY: of the instance
{
    modelpool status --json | python3 -c '
import json, sys
print([i for i in json.load(sys.stdin)["instances"]][0][sys.argv[1]])' "$1"
}
engine_pid() { field pid; }
caches() { modelpool list --cache -P -n | grep '|host|'; }
master() { find "$RIG_DIR/shm" -type f | sort; }
# Bytes that the engine has taken by read calls: metadata, and weights if it reads them.
engine_read() { awk '/^rchar:/ { print $2 }' "/proc/$(engine_pid)/io"; }
ask() { rig_as alice modelpool "${ASK[@]}" "$1" "The sky is" </dev/null; }

@test "without HostCache= there is no host tier" {
    write_config 0
    start
    run -0 ask small
    printf '%s' "$output" >"$RIG_DIR/answer"
    [ -z "$(modelpool list --cache -P -n | grep '|host|')" ]
    [ "$(field file_bytes)" -gt 80000000 ]
    stop_daemon TERM
    [ -z "$(master)" ]
}

@test "the first load prepares a master copy, and the answer is the same" {
    write_config 200M
    start
    run -0 ask small
    [ "$output" = "$(cat "$RIG_DIR/answer")" ]
    run -0 caches
    [[ ${lines[0]} =~ ^small\|host\|complete\|[0-9]+\|\|[0-9T:-]+\|$RIG_DIR/shm/modelpool-n1-[0-9a-f]{8}/[0-9a-f]{32}$ ]]
    [ "$(master | wc -l)" = 1 ]
    [ "$(stat -c '%a %U' "$(dirname "$(master)")")" = "700 modelpool" ]
    [ "$(stat -c %s "$(master)")" -gt 80000000 ]
    grep -q "model small: master copy of .* prepared in" "$RIG_DIR/log/modelpoold.log"
    modelpool list --cache --json | python3 -c '
import json, sys
rows = json.load(sys.stdin)["caches"]
assert [r["tier"] for r in rows if r["model"] == "small"] == ["disk", "host", "memory"], rows'
}

@test "another name of the same file shares it and reads nothing" {
    local before
    before=$(field file_bytes)
    run -0 ask twin
    [ "$output" = "$(cat "$RIG_DIR/answer")" ]
    [ "$(field file_bytes)" = "$before" ]
    [ "$(master | wc -l)" = 1 ]
    [ "$(caches | wc -l)" = 2 ]
}

@test "the same contents in another file: read once, then one master copy" {
    cp "$RIG_DIR/models/small.gguf" "$RIG_DIR/models/twice.gguf"
    stop_daemon TERM
    start
    run -0 ask twice
    [ "$output" = "$(cat "$RIG_DIR/answer")" ]
    [ "$(master | wc -l)" = 1 ]
    stop_daemon TERM
    start
    run -0 ask twice # its contents are known now
    [ "$(field file_bytes)" = 0 ]
}

restarted() # SIGNAL
{
    local inode
    inode=$(stat -c %i "$(master)")
    stop_daemon "$1"
    [ "$(stat -c %i "$(master)")" = "$inode" ]
    echo 3 >/proc/sys/vm/drop_caches 2>/dev/null || true
    start
    run -0 ask small
    [ "$output" = "$(cat "$RIG_DIR/answer")" ]
    [ "$(stat -c %i "$(master)")" = "$inode" ]
    [ "$(field file_bytes)" = 0 ]
    echo "engine has read $(engine_read) bytes"
    [ "$(engine_read)" -lt 20000000 ] # the file has 88 million
}

@test "after SIGTERM the next daemon serves without reading a weight" { restarted TERM; }
@test "after kill -9 the next daemon serves without reading a weight" { restarted KILL; }

@test "an engine that is killed reads nothing either when it is back" {
    local pid
    pid=$(engine_pid)
    kill -9 "$pid"
    wait_for 10 gone "$pid"
    wait_for 30 eval 'modelpool list -n -P | grep -q "^small|cpu|.*|ready|"'
    run -0 ask small
    [ "$output" = "$(cat "$RIG_DIR/answer")" ]
    [ "$(field file_bytes)" = 0 ]
}

@test "unload keeps the master copy" {
    run -0 modelpool unload small
    [ "$(master | wc -l)" = 1 ]
    run -0 ask small
    [ "$(field file_bytes)" = 0 ]
}

@test "a damaged master copy is told, thrown away and prepared again" {
    local file
    file=$(master)
    stop_daemon TERM
    printf 'damage' | dd of="$file" bs=1 seek=50000000 conv=notrunc status=none
    start
    run -0 ask small
    [ "$output" = "$(cat "$RIG_DIR/answer")" ]
    grep -q "model small: its master copy .* is prepared again: the checksum of its piece" \
        "$RIG_DIR/log/modelpoold.log"
    wait_for 20 eval 'caches | grep -q "^small|host|complete|"'
    modelpool unload small
    run -0 ask small
    [ "$output" = "$(cat "$RIG_DIR/answer")" ]
}

@test "one that is cut short, empty or foreign is not attached" {
    local file
    file=$(master)
    stop_daemon TERM
    truncate -s 50M "$file"
    printf x >"$(dirname "$file")/00000000000000000000000000000000"
    printf x >"$(dirname "$file")/new-7"
    printf x >"$(dirname "$file")/keep.txt" # not a name of ours
    start
    [ ! -e "$(dirname "$file")/00000000000000000000000000000000" ]
    [ ! -e "$(dirname "$file")/new-7" ]
    [ -e "$(dirname "$file")/keep.txt" ]
    rm "$(dirname "$file")/keep.txt"
    run -0 ask small
    [ "$output" = "$(cat "$RIG_DIR/answer")" ]
    wait_for 20 eval 'caches | grep -q "^small|host|complete|"'
}

@test "a changed file has a master copy of its own" {
    local before
    before=$(basename "$(master)")
    stop_daemon TERM
    cp "$RIG_DIR/models/small.gguf" "$RIG_DIR/models/next.gguf"
    printf '\001' | dd of="$RIG_DIR/models/next.gguf" bs=1 seek=60000000 conv=notrunc status=none
    mv "$RIG_DIR/models/next.gguf" "$RIG_DIR/models/small.gguf"
    rm -f "$RIG_DIR/models/twice.gguf"
    start
    run -0 ask small
    wait_for 20 eval 'caches | grep -q "^small|host|complete|"'
    caches | grep '^small|' | grep -vq "$before"
}

@test "full shared memory: no master copy, a line says so, requests are served" {
    stop_daemon TERM
    rm -f $(master)
    head -c 360M /dev/zero >"$RIG_DIR/shm/filler"
    start
    run -0 ask small
    grep -q "model small: no master copy: no room for a master copy of" "$RIG_DIR/log/modelpoold.log"
    [ "$(master | grep -v filler | wc -l)" = 0 ]
    rm "$RIG_DIR/shm/filler"
}

@test "the budget: what is long unused gives way" {
    stop_daemon TERM
    cp "$MODELPOOL_TEST_MODEL" "$RIG_DIR/models/twice.gguf"
    write_config 110M
    start
    run -0 ask small
    run -0 ask twice
    [ "$output" = "$(cat "$RIG_DIR/answer")" ]
    [ "$(master | wc -l)" = 1 ]
    grep -q "model small: its master copy of .* MiB gives way" "$RIG_DIR/log/modelpoold.log"
    run -0 ask small
    [ "$(master | wc -l)" = 1 ]
}

@test "Pin=host: prepared at the start, and it stays" {
    stop_daemon TERM
    write_config 110M Pin=host
    start
    wait_for 30 eval 'caches | grep -q "^small|host|complete|[0-9]*|host|"'
    run -0 ask twice
    [ "$output" = "$(cat "$RIG_DIR/answer")" ]
    run -0 caches
    [[ ${lines[0]} =~ ^small\|host\|complete\|[0-9]+\|host\| ]]
    [ "${#lines[@]}" = 2 ] # small, and its twin
}

@test "pins beyond the budget are refused at the start" {
    stop_daemon TERM
    write_config 40M Pin=host
    rig_start_daemon 3>&- 4>&- || true
    wait_for 10 gone "$(daemon_pid)"
    grep -q "the models with Pin=host need .* MiB, HostCache= is 40 MiB: raise it, or pin fewer" \
        "$RIG_DIR/log/modelpoold.log"
}

@test "Pin=gpu: loaded at the start, and other models do not evict it" {
    write_config 200M Pin=gpu
    start
    wait_for 30 eval 'modelpool list -n -P | grep -q "^small|cpu|memory|resident|"'
    run -0 ask twin
    run -0 ask twice
    modelpool list -n -P | grep -q "^small|cpu|memory|"
}

@test "two instances share the master copies, and read nothing at their start" {
    stop_daemon TERM
    write_config 300M Pin=gpu
    echo "Instance=two Device=cpu Memory=300M Threads=1" >>"$RIG_DIR/etc/modelpool.conf"
    start
    wait_for 30 eval '[ "$(modelpool list -n -P | grep -c "^small|.*|memory|resident|")" = 2 ]'
    modelpool status --json | python3 -c '
import json, sys
got = [i["file_bytes"] for i in json.load(sys.stdin)["instances"]]
assert got == [0, 0], got'
    [ "$(master | wc -l)" = 2 ]
}

@test "slack loads the next model behind the turns, and the answers are the same" {
    local before i models=(small twin twice)
    stop_daemon TERM
    cp "$MODELPOOL_TEST_MODEL" "$RIG_DIR/models/small.gguf"
    write_config 300M
    sed -i 's/^Instance=.*/Instance=cpu Device=cpu Memory=230M Threads=1\nScheduler=slack/' \
        "$RIG_DIR/etc/modelpool.conf" # two of three models fit
    start
    for i in 1 2 3 4 5 6; do
        rig_as alice modelpool run --raw --temperature=0 --max-tokens=60 \
            "${models[i % 3]}" "The sky is" </dev/null >"$RIG_DIR/log/out.$i" 3>&- 4>&- &
    done
    wait
    for i in 2 3 4 5 6; do
        cmp "$RIG_DIR/log/out.1" "$RIG_DIR/log/out.$i"
    done
    [ "$(wc -c <"$RIG_DIR/log/out.1")" -gt 50 ]
    echo "prefetches $(field prefetches), hits $(field prefetch_hits), switches $(field switches)"
    [ "$(field prefetches)" -ge 3 ]
    [ "$(field prefetch_hits)" -ge 3 ]
    [ "$(field prefetch_hits)" -le "$(field prefetches)" ]
    curl -sf http://127.0.0.1:811/metrics | grep -q '^modelpool_host_cache_bytes [1-9]'
    curl -sf http://127.0.0.1:811/metrics | grep -q '^modelpool_prefetch_hits_total{instance="cpu"} [1-9]'
}

@test "a load measures what steps, loads and the disk cost, before any request" {
    stop_daemon TERM
    rm -rf "$RIG_DIR/modelpool" "$RIG_DIR"/shm/*
    write_config 200M
    start
    run -0 modelpool load small
    modelpool status --json | python3 -c '
import json, sys
s = json.load(sys.stdin)
costs = {c["model"]: c for c in s["costs"]}
for name in ("small", "twin"): # which is of the same shape
    c = costs[name]
    assert c["measured"] == "yes" and float(c["steps"]) >= 16 and float(c["prefills"]) >= 3, c
    assert float(c["step"]) > 0 and float(c["load"]) > 0 and float(c["disk"]) > 0, c
i = s["instances"][0]
assert float(i["calibrations"]) == 1 and 0 < float(i["calibration_us"]) < 3.5e6, i
assert float(i["steps"]) == 0 and float(i["tokens"]) == 0, i'
}

@test "a tier that is switched off leaves nothing behind" {
    stop_daemon TERM
    [ -n "$(master)" ]
    write_config 0
    start
    [ -z "$(master)" ]
}
