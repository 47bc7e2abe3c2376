#!/bin/bash
# The whole way: real Slurm, plugin, modelpoold, engine and model.
# MODELPOOL_TEST_MODEL=FILE.gguf names a small instruct model.
[ -n "${BATS_VERSION:-}" ] || exec "$(dirname "$0")/../slurm/rig" bats "$0" "$@"
load ../slurm/bats

setup_file()
{
    export ASK=$RIG_DIR/bin/ask
    [ -n "${MODELPOOL_TEST_MODEL:-}" ] || return 0
    write_config
    write_ask
    rig_start_daemon 3>&- 4>&-
    wait_for 60 model_usable small
}

setup()
{
    [ -n "${MODELPOOL_TEST_MODEL:-}" ] || skip "MODELPOOL_TEST_MODEL names no model"
}

teardown()
{
    scancel -u alice 2>/dev/null || true
    scancel -u bob 2>/dev/null || true
    [ -n "${MODELPOOL_TEST_MODEL:-}" ] || return 0
    kill -CONT "$(daemon_pid)" 2>/dev/null || true
    control resume instance=cpu >/dev/null || true
    rig_assert_nodes_idle 20
}

write_config()
{
    local engine
    engine=$(command -v modelpool-engine)
    cat >"$RIG_DIR/etc/modelpool.conf" <<EOT
ClusterName=rig
NodeName=n1
RunDir=/run/modelpool
StateDir=$RIG_DIR/modelpool
SlurmBin=$(dirname "$(command -v squeue)")
Engine=$engine
Model=small Path=$MODELPOOL_TEST_MODEL MaxContext=2048
Model=physics-only Path=$MODELPOOL_TEST_MODEL AllowAccounts=physics
Slo=chat TTFT=30s TBT=5s
Tenant=quota TokensPerDay=60
Instance=cpu Device=cpu Memory=700M Threads=2
EOT
}

# `ask [TOKENS]`: one request of the job's own; prints "STATUS TEXT", or what the daemon refused with.
write_ask()
{
    mkdir -p "$RIG_DIR/bin"
    cat >"$ASK" <<'EOT'
#!/bin/bash
body=$(curl -sS -w '\n%{http_code}' --max-time 120 "$OPENAI_BASE_URL/chat/completions" \
    -H "Authorization: Bearer $OPENAI_API_KEY" -H 'Content-Type: application/json' \
    -d "{\"model\": \"${MODEL:-$MODELPOOL_MODEL}\", \"max_tokens\": ${1:-8}, \"temperature\": 0,
         \"messages\": [{\"role\": \"user\", \"content\": \"${2:-Say hello.}\"}]}")
printf '%s %s\n' "${body##*$'\n'}" \
    "$(jq -r '.choices[0].message.content // .error.message' <<<"${body%$'\n'*}" | tr '\n' ' ')"
EOT
    chmod 755 "$ASK"
}

control() { python3 "$RIG_TOOLS/control.py" "$RIG_SOCKET" "$@"; }
daemon_pid() { cat "$RIG_DIR/run/modelpoold.pid"; }
model_usable() { [ "$(rig_as alice srun -Q --model="$1" "$ASK" 1 2>/dev/null | cut -c 1-3)" = 200 ]; }
ledger() { control acct "jobs=$1" | jq -r "select(.type == \"row\") | $2"; }
# Live leases of a job, as root sees them.
leases_of() { control status | jq -r "select(.type == \"lease\" and .job == \"$1\") | .lease"; }
no_lease_of() { [ -z "$(leases_of "$1")" ]; }
key_status() # USER KEY: the HTTP status that this user gets with this key
{
    (cd / && setpriv --reuid "$1" --regid "$1" --init-groups curl -s -o /dev/null \
        -w '%{http_code}' --max-time 60 http://127.0.0.1:811/v1/models \
        -H "Authorization: Bearer $2")
}

@test "srun: a job gets answers, and nobody gave it a key" {
    run -0 rig_as alice srun --model=small "$ASK"
    [[ $output =~ ^200\ .*[a-z] ]]
}

@test "OpenAI's client in a job: chat, completion, streaming, usage, stop, seed, refusals" {
    [ -n "${MODELPOOL_TEST_PYTHON:-}" ] || skip "MODELPOOL_TEST_PYTHON names no python with openai"
    run -0 rig_as alice srun --model=small "$MODELPOOL_TEST_PYTHON" "$RIG_TOOLS/openai_check.py" \
        chat completion stream stop seed models errors
}

@test "OpenAI's client in a job: a used-up budget is a RateLimitError, and the job goes on" {
    [ -n "${MODELPOOL_TEST_PYTHON:-}" ] || skip "MODELPOOL_TEST_PYTHON names no python with openai"
    run -0 rig_as alice srun --model=small --model-tokens=20 sh -c \
        '"$@" && echo goes on' - "$MODELPOOL_TEST_PYTHON" "$RIG_TOOLS/openai_check.py" budget
    assert_has "goes on"
}

@test "srun: no account of ours without --model" {
    run -0 rig_as alice srun sh -c 'echo "key: ${OPENAI_API_KEY:-none}"'
    assert_has "key: none"
}

@test "sbatch, sbatch --export=NONE, salloc and srun" {
    for export in ALL NONE; do
        job=$(submit alice --export=$export --model=small --wrap "$ASK")
        job_output alice "$job" 60
        [[ $output =~ ^200\ .*[a-z] ]]
    done
    run -0 rig_as alice salloc -Q --model=small srun "$ASK"
    assert_has "200 "
    assert_says "only programs started by srun"
}

@test "the four options: class, budget and wait are the daemon's" {
    run -0 rig_as alice srun --model=small --model-slo=chat --model-tokens=100 --model-wait=5 "$ASK"
    assert_has "200 "
    run rig_as alice srun --model=small --model-slo=swift true
    [ "$status" = 1 ]
    assert_says '"swift"'
    # 100 tokens are soon used up, and then the job is told so.
    run -0 rig_as alice srun --model=small --model-tokens=100 \
        bash -c "for i in 1 2 3 4 5 6; do $ASK 30 'Count to twenty.'; done"
    assert_has "429 "
    assert_has "100"
}

@test "an unknown model: one line that names the known ones" {
    run rig_as alice srun -N2 -n4 --model=large true
    [ "$status" = 1 ]
    assert_says '"large".*small'
}

@test "two users at once, each billed to their own account" {
    a=$(submit alice --account=physics --model=small --wrap "$ASK 20")
    b=$(submit bob --account=biology --model=small --wrap "$ASK 20")
    job_output alice "$a" 60
    [[ $output =~ ^200 ]]
    job_output bob "$b" 60
    [[ $output =~ ^200 ]]
    [ "$(ledger "$a" '"\(.uid) \(.account) \(.state)"')" = "2001 physics done" ]
    [ "$(ledger "$b" '"\(.uid) \(.account) \(.state)"')" = "2002 biology done" ]
}

@test "the day's quota of an account is one for all its jobs, once the controller has named it" {
    job=$(submit alice --account=quota --model=small --wrap "$ASK; sleep 5; $ASK")
    job_output alice "$job" 60
    [ "$(grep -c '^200 ' <<<"$output")" = 1 ]
    assert_has '429 account "quota" has used'
    assert_has 'of its 60 tokens of today (TokensPerDay=)'
    job=$(submit bob --account=quota --model=small --wrap "sleep 5; $ASK; SLURM_JOB_ACCOUNT=vip $ASK")
    job_output bob "$job" 60
    [ "$(grep -c '^429 account "quota"' <<<"$output")" = 2 ]
}

@test "a forged SLURM_JOB_ACCOUNT moves no row" {
    job=$(submit alice --account=physics --model=small --wrap \
        "export SLURM_JOB_ACCOUNT=vip SLURM_ACCOUNT=vip; $ASK; srun env SLURM_JOB_ACCOUNT=vip $ASK")
    job_output alice "$job" 60
    [ "$(grep -c '^200 ' <<<"$output")" = 2 ]
    [ "$(ledger "$job" .account | sort | uniq -c | tr -s ' ')" = " 2 physics" ]
}

@test "AllowAccounts is about the controller's account" {
    run -0 rig_as alice srun --account=physics --model=physics-only "$ASK"
    assert_has "200 "
    run rig_as alice srun --account=biology --model=physics-only \
        env SLURM_JOB_ACCOUNT=physics "$ASK"
    assert_lacks "200 "
}

@test "a key is worth nothing to another user, and nothing after its step" {
    job=$(submit alice --model=small --wrap 'echo $OPENAI_API_KEY; sleep 60')
    wait_for 20 grep -qs mp1 "$RIG_DIR/home/alice/$job.out"
    key=$(cat "$RIG_DIR/home/alice/$job.out")
    [ "$(key_status alice "$key")" = 200 ]
    [ "$(key_status bob "$key")" = 401 ]
    [ "$(key_status root "$key")" = 401 ]
    [ "$(key_status alice "${key%?}x")" = 401 ]
    [ -n "$(leases_of "$job")" ]
    scancel "$job"
    wait_for 5 job_gone "$job"
    wait_for 5 eval '[ "$(key_status alice "$key")" = 401 ]'
    wait_for 10 no_lease_of "$job"
}

@test "slurmstepd killed with -9: its key ends at once" {
    job=$(submit alice --model=small --wrap 'echo $OPENAI_API_KEY; sleep 60')
    wait_for 20 grep -qs mp1 "$RIG_DIR/home/alice/$job.out"
    key=$(cat "$RIG_DIR/home/alice/$job.out")
    [ "$(key_status alice "$key")" = 200 ]
    kill -9 "$(pgrep -f "slurmstepd: \[$job.batch\]")"
    wait_for 5 eval '[ "$(key_status alice "$key")" = 401 ]'
    pkill -9 -u alice sleep || true
    scancel "$job"
    wait_for 20 job_gone "$job"
}

@test "a requeued job gets a new lease, and the old one ends" {
    job=$(submit alice --requeue --open-mode=append --model=small --wrap \
        'echo "lease $MODELPOOL_LEASE"; sleep 60')
    wait_for 20 grep -qs lease "$RIG_DIR/home/alice/$job.out"
    first=$(leases_of "$job")
    scontrol requeue "$job"
    wait_for 40 eval '[ "$(grep -c "^lease" "$RIG_DIR/home/alice/$job.out")" = 2 ]'
    wait_for 10 eval '[ "$(leases_of "$job" | wc -l)" = 1 ]'
    second=$(leases_of "$job")
    [ -n "$first" ] && [ -n "$second" ] && [ "$first" != "$second" ]
    [ "$(sort -u "$RIG_DIR/home/alice/$job.out" | grep -c '^lease [0-9]')" = 2 ]
}

@test "scancel while a request runs: gone within 5 s, its row closed" {
    job=$(submit alice --model=small --wrap "$ASK 1500 'Write a long story about the sea.'")
    wait_for 30 eval '[ "$(ledger $job .state)" = open ]'
    scancel "$job"
    wait_for 5 job_gone "$job"
    wait_for 10 eval '[ "$(ledger $job .state)" = cancelled ]'
}

@test "scancel while the daemon is stopped: gone within 5 s" {
    job=$(submit alice --model=small --wrap "$ASK 1500 'Write a long story about the sea.'")
    wait_for 30 eval '[ "$(ledger $job .state)" = open ]'
    kill -STOP "$(daemon_pid)"
    scancel "$job"
    wait_for 5 job_gone "$job"
    local before=$SECONDS
    run -0 rig_as alice srun true
    [ $((SECONDS - before)) -le 2 ]
    run rig_as alice srun -N1 --model=small true
    [ "$status" = 1 ]
    assert_says 'did not answer in time'
    kill -CONT "$(daemon_pid)"
    wait_for 15 no_lease_of "$job"
    run -0 rig_as alice srun --model=small "$ASK"
    assert_has "200 "
}

@test "scancel while a request waits for admission: gone within 5 s" {
    control drain instance=cpu
    job=$(submit alice --model=small --model-wait=5m --wrap "echo started; $ASK")
    wait_for 20 grep -qs started "$RIG_DIR/home/alice/$job.out"
    sleep 1
    job_is "$job" RUNNING
    scancel "$job"
    wait_for 5 job_gone "$job"
    ! grep -E '^[0-9]{3} ' "$RIG_DIR/home/alice/$job.out"
}

@test "--model-wait: requests are held, then served; or refused with the reason" {
    control drain instance=cpu
    run -0 rig_as alice srun --model=small --model-wait=1 "$ASK"
    assert_has "429 "
    job=$(submit alice --model=small --model-wait=60 --wrap "echo started; $ASK")
    wait_for 20 grep -qs started "$RIG_DIR/home/alice/$job.out"
    sleep 1
    control resume instance=cpu
    job_output alice "$job" 60
    assert_has "200 "
}

@test "a grant lives until the last node's part of the step has ended" {
    run -0 rig_as alice srun -N2 --model=small \
        bash -c "[ \$SLURM_PROCID = 0 ] || { sleep 2; $ASK; }"
    assert_has "200 "
}

@test "the daemon killed with -9: one line, then it serves again after a restart" {
    kill -9 "$(daemon_pid)"
    wait_for 5 eval '! kill -0 "$(daemon_pid)" 2>/dev/null'
    run rig_as alice srun -N1 --model=small true
    [ "$status" = 1 ]
    assert_says 'no modelpoold answers'
    run -0 rig_as alice srun true
    rig_start_daemon 3>&- 4>&-
    wait_for 60 model_usable small
    run -0 rig_as alice srun --model=small "$ASK"
    assert_has "200 "
}

@test "a running job survives a restart of the daemon with the same key" {
    job=$(submit alice --model=small --wrap "$ASK; echo first; sleep 8; for i in 1 2 3 4 5 6 7 8 9 10
        do $ASK >answer; grep -q ^200 answer && break; sleep 1; done; cat answer; echo second")
    wait_for 30 grep -qs first "$RIG_DIR/home/alice/$job.out"
    kill -9 "$(daemon_pid)"
    rig_start_daemon 3>&- 4>&-
    job_output alice "$job" 60
    [ "$(grep -c '^200 ' <<<"$output")" = 2 ]
}

@test "no secret in any log" {
    ! grep -rlE 'mp1\.[0-9a-f]{16}\.' "$RIG_DIR/log"
}
