#!/bin/bash
# The plugin alone: a real Slurm, and a daemon whose answers, silences and deaths are ours to choose.
[ -n "${BATS_VERSION:-}" ] || exec "$(dirname "$0")/../slurm/rig" bats "$0" "$@"
load ../slurm/bats

setup()
{
    printf 'optional %s socket=%s\n' "$RIG_SO" "$RIG_SOCKET" >"$RIG_DIR/etc/plugstack.conf"
    fake_start --refuse missing
}

teardown()
{
    fake_stop
    rig_assert_nodes_idle
}

@test "a job without our options: no variable, no connection" {
    run -0 rig_as alice srun -N2 env
    assert_lacks MODELPOOL
    assert_lacks OPENAI
    [ "$(logged_count hello)" = 0 ]
}

@test "srun: the four options reach the daemon, as root, with the credential's identity" {
    run -0 rig_as alice srun --model=tiny,big --model-slo=ttft:1,tbt:0.1 --model-tokens=1000 \
        --model-wait=1.5m env
    assert_has OPENAI_BASE_URL=http://127.0.0.1:811/v1
    assert_has OPENAI_API_KEY=mp1.
    assert_has MODELPOOL_MODEL=tiny
    assert_has MODELPOOL_SOCKET=/run/modelpool/http.sock
    assert_has MODELPOOL_LEASE=100
    assert_has MODELPOOL_REQUESTED=1
    logged grant peer 0 uid 2001 gid 2001 step 0 step_name 0 models tiny,big \
        slo ttft:1,tbt:0.1 tokens 1000 wait 90
    wait_for 5 logged close
}

@test "srun: one grant a node, and each ends with the step" {
    run -0 rig_as alice srun -N2 -n4 --model=tiny true
    [ "$(logged_count grant)" = 2 ]
    wait_for 5 eval '[ "$(logged_count close)" = 2 ]'
}

@test "srun: the user's own OPENAI_ variables give way" {
    run -0 rig_as alice env OPENAI_API_KEY=mine OPENAI_BASE_URL=http://elsewhere \
        srun --model=tiny env
    assert_has OPENAI_API_KEY=mp1.
    assert_lacks elsewhere
}

@test "sbatch: batch step and inner steps have it; an inner --model= may differ" {
    job=$(submit alice --model=tiny --model-slo=fast --wrap \
        'echo batch $MODELPOOL_MODEL; srun sh -c "echo inner \$MODELPOOL_MODEL"
         srun --model=big sh -c "echo other \$MODELPOOL_MODEL"')
    job_output alice "$job"
    assert_has "batch tiny"
    assert_has "inner tiny"
    assert_has "other big"
    logged grant job "$job" step_name batch models tiny slo fast
    logged grant job "$job" step_name 0 models tiny slo fast
    logged grant job "$job" step_name 1 models big
}

@test "sbatch --export=NONE and --export=LIST: the batch step has it too" {
    for list in NONE PATH; do
        job=$(submit alice --export=$list --model=tiny --model-tokens=77 --wrap \
            'echo "batch $MODELPOOL_MODEL"')
        job_output alice "$job"
        assert_has "batch tiny"
        logged grant job "$job" step_name batch models tiny tokens 77
    done
}

@test "sbatch --array: array ids are sent" {
    job=$(submit alice --array=3 --model=tiny -o /dev/null --wrap true)
    wait_for 20 logged grant array_job "$job" array_task 3 step_name batch
    wait_for 20 job_gone "$job"
}

@test "salloc: one notice, no variables in its shell, and srun has them" {
    run -0 rig_as alice salloc --model=tiny sh -c \
        'echo "shell ${OPENAI_API_KEY:-none}"; srun sh -c "echo step \$MODELPOOL_MODEL"'
    assert_says "only programs started by srun"
    assert_has "shell none"
    assert_has "step tiny"
}

@test "wrong values are refused before submission, with one line" {
    local tool args words
    while IFS='|' read -r args words; do
        for tool in srun sbatch salloc; do
            if [ $tool = sbatch ]; then
                run rig_as alice sbatch $args --wrap true
            else
                run rig_as alice $tool $args true
            fi
            [ "$status" = 1 ]
            assert_says "$words"
            [ "${#lines[@]}" = 1 ]
        done
    done <<'CASES'
--model=|no model is named
--model=a/b|"a/b"
--model=a,a|named twice
--model=-x|"-x"
--model-slo=fast|--model-slo needs --model
--model-tokens=5|--model-tokens needs --model
--model-wait=5|--model-wait needs --model
--model=tiny --model-slo=ttft:1|no SLO
--model=tiny --model-slo=ttft:x,tbt:1|no time
--model=tiny --model-tokens=0|above zero
--model=tiny --model-tokens=-3|above zero
--model=tiny --model-tokens=1e9|above zero
--model=tiny --model-wait=soon|no time
CASES
    [ "$(logged_count hello)" = 0 ]
}

@test "a value of 100 kB is refused by name" {
    run rig_as alice srun "--model=$(head -c 100000 /dev/zero | tr '\0' a)" true
    [ "$status" = 1 ]
    assert_says "--model: the value is over"
}

@test "config=PATH: unknown names are refused at submission; without the file nobody is" {
    cat >"$RIG_DIR/etc/names.conf" <<EOT
Model=tiny Path=/nowhere/tiny.gguf
Slo=chat TTFT=1s TBT=100ms
Instance=cpu Device=cpu Memory=64M
EOT
    printf 'optional %s socket=%s config=%s\n' "$RIG_SO" "$RIG_SOCKET" \
        "$RIG_DIR/etc/names.conf" >"$RIG_DIR/etc/plugstack.conf"
    run -0 rig_as alice srun --model=tiny --model-slo=chat true
    run rig_as alice srun --model=tiny,tinny true
    [ "$status" = 1 ]
    assert_says 'no model "tinny" in '
    run rig_as alice srun --model=tiny --model-slo=slow true
    [ "$status" = 1 ]
    assert_says 'no class "slow" in '
    [ "$(logged_count grant)" = 1 ]
    rm "$RIG_DIR/etc/names.conf"
    run -0 rig_as alice srun --model=other true
}

@test "an unknown argument in plugstack.conf: said once, options gone, jobs run" {
    printf 'optional %s sockt=/x\n' "$RIG_SO" >"$RIG_DIR/etc/plugstack.conf"
    run -0 rig_as alice srun -N2 true
    [ "$(printf '%s\n' "$output" | grep -c 'unknown argument sockt=/x')" = 1 ]
    run rig_as alice srun --model=tiny true
    [ "$status" != 0 ]
    assert_has "unrecognized option"
}

@test "the daemon refuses: one line for four tasks on two nodes, and the step fails" {
    run rig_as alice srun -N2 -n4 --model=missing true
    [ "$status" = 1 ]
    assert_says 'there is no model "missing"'
    run rig_as alice srun -N2 -n4 --model=missing touch "$RIG_DIR/home/alice/ran"
    [ ! -e "$RIG_DIR/home/alice/ran" ]
    job=$(submit alice --model=missing --wrap 'echo ran')
    job_output alice "$job"
    assert_says 'there is no model "missing"'
    assert_lacks ran
    [ "$(job_state "$job")" = FAILED ]
}

@test "no daemon: one line a node, at once, with what to do" {
    fake_stop
    local before=$SECONDS
    run rig_as alice srun -N1 -n2 --model=tiny true
    [ "$status" = 1 ]
    assert_says 'n1: no modelpoold answers at .*systemctl status modelpoold'
    [ $((SECONDS - before)) -le 2 ]
    job=$(submit alice --model=tiny --wrap 'echo ran')
    job_output alice "$job"
    assert_says 'no modelpoold answers'
    assert_lacks ran
}

@test "a stopped daemon: refused within 5 s; jobs without our options do not notice" {
    fake_signal STOP
    local before=$SECONDS
    run rig_as alice srun -N1 --model=tiny true
    [ "$status" = 1 ]
    assert_says 'n1: .*did not answer in time'
    [ $((SECONDS - before)) -le 5 ]
    before=$SECONDS
    run -0 rig_as alice srun -N2 true
    [ $((SECONDS - before)) -le 2 ]
}

@test "a stopped daemon with a full backlog: refused within 5 s" {
    fake_signal STOP
    python3 - "$RIG_SOCKET" 3>&- 4>&- <<'PY' &
import socket, sys, time
held = []
try:
    for _ in range(4096):
        s = socket.socket(socket.AF_UNIX)
        s.setblocking(False)
        s.connect(sys.argv[1])
        held.append(s)
except BlockingIOError:
    open("/run/modelpool/full", "w").close()
    time.sleep(60)
PY
    local filler=$! before
    wait_for 5 test -e /run/modelpool/full
    before=$SECONDS
    run rig_as alice srun -N1 --model=tiny true
    kill $filler
    rm /run/modelpool/full
    [ "$status" = 1 ]
    assert_says 'does not accept connections'
    [ $((SECONDS - before)) -le 5 ]
}

@test "a daemon that is silent after hello, or answers garbage: one line, within 5 s" {
    fake_stop
    fake_start --silent grant
    local before=$SECONDS
    run rig_as alice srun -N1 --model=tiny true
    [ "$status" = 1 ]
    assert_says 'did not answer in time'
    [ $((SECONDS - before)) -le 5 ]
    fake_stop
    fake_start --garbage
    run rig_as alice srun -N1 --model=tiny true
    [ "$status" = 1 ]
    assert_says 'key and value pairs'
}

@test "scancel while the daemon is stopped: the job is gone within 5 s" {
    job=$(submit alice --model=tiny --wrap 'sleep 100')
    wait_for 20 logged grant job "$job"
    fake_signal STOP
    scancel "$job"
    wait_for 5 job_gone "$job"
    job=$(submit alice --model=tiny --wrap 'sleep 100')
    wait_for 20 job_is "$job" RUNNING
    scancel "$job"
    wait_for 5 job_gone "$job"
}

@test "slurmstepd killed with -9: its grant ends" {
    job=$(submit alice --model=tiny --wrap 'sleep 100')
    wait_for 20 logged grant job "$job"
    [ "$(logged_count close)" = 0 ]
    stepd=$(pgrep -f "slurmstepd: \[$job.batch\]")
    kill -9 "$stepd"
    wait_for 5 logged close
    pkill -9 -u alice sleep || true
    scancel "$job"
    wait_for 30 job_gone "$job"
    rig_assert_nodes_idle 30
}

@test "the job's programs do not hold the connection of their grant" {
    run -0 rig_as alice srun --model=tiny sh -c 'ls -l /proc/self/fd'
    assert_lacks socket:
    # A program that outlives its step must not keep the grant alive.
    run -0 rig_as alice srun --model=tiny sh -c 'setsid sleep 9 >/dev/null 2>&1 & exit 0'
    wait_for 5 eval '[ "$(logged_count close)" = 2 ]'
}

@test "the plugin removed, unreadable or of another Slurm release: jobs without our options run" {
    local keep=$RIG_DIR/lib/keep.so new=$RIG_DIR/lib/new.so
    mv "$RIG_SO" "$keep"
    run -0 rig_as alice srun -N2 echo ran
    assert_has ran
    install -m 600 "$keep" "$new" && mv "$new" "$RIG_SO"
    run -0 rig_as alice srun -N2 echo ran
    assert_has ran
    other_release "$keep" "$new" && mv "$new" "$RIG_SO"
    run -0 rig_as alice srun -N2 echo ran
    assert_has ran
    run rig_as alice srun --model=tiny true
    assert_has "unrecognized option"
    job=$(submit alice --wrap 'echo ran')
    job_output alice "$job"
    assert_has ran
    mv "$keep" "$RIG_SO"
    run -0 rig_as alice srun --model=tiny true
}

# Copy the plugin with 21.08 as its plugin_version.
other_release()
{
    python3 - "$1" "$2" <<'PY'
import re, subprocess, sys
old, new = sys.argv[1:]
table = subprocess.run(["readelf", "-sW", "--dyn-syms", old], capture_output=True, text=True).stdout
at = int(re.search(r"([0-9a-f]{16}) .* plugin_version\b", table)[1], 16)
data = bytearray(open(old, "rb").read())  # its segment is mapped at its file offset
data[at:at + 4] = (21 << 16 | 8 << 8).to_bytes(4, "little")
open(new, "wb").write(data)
PY
    chmod 644 "$2"
}

@test "the plugin cut off anywhere: jobs without our options run" {
    local keep=$RIG_DIR/lib/keep.so cut=$RIG_DIR/lib/cut.so size whole
    cp "$RIG_SO" "$keep" # as `make install` leaves it
    "$RIG_SRC/plugin/seal" "$keep"
    whole=$(stat -c %s "$keep")
    for size in 0 1 60 400 4096 $((whole / 3)) $((whole / 2)) $((whole - 600)) $((whole - 1)); do
        head -c $size "$keep" >"$cut" && chmod 644 "$cut" && mv "$cut" "$RIG_SO"
        run -0 rig_as alice srun -N2 echo ran
        assert_has ran
        run rig_as alice srun --model=tiny true
        assert_has "unrecognized option"
    done
    job=$(submit alice --wrap 'echo ran')
    job_output alice "$job"
    assert_has ran
    mv "$keep" "$RIG_SO"
    run -0 rig_as alice srun --model=tiny true
}

@test "a key in no log of Slurm" {
    run -0 rig_as alice srun -vv --slurmd-debug=verbose --model=tiny true
    ! grep -rl 'mp1\.0' "$RIG_DIR/log" --include='slurm*'
}
