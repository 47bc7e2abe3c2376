#!/bin/bash
# HTTP, with the real daemon, engine and model, and without Slurm: leases of local users.
# MODELPOOL_TEST_MODEL=FILE.gguf names the model; MODELPOOL_TEST_PYTHON=PYTHON one that has openai.
[ -n "${BATS_VERSION:-}" ] || exec "$(dirname "$0")/../slurm/rig" --no-slurm bats "$0" "$@"
load ../slurm/bats

setup_file()
{
    [ -n "${MODELPOOL_TEST_MODEL:-}" ] || return 0
    write_config "$(command -v modelpool-engine)"
    start_daemon
    wait_for 30 healthy
}

setup()
{
    [ -n "${MODELPOOL_TEST_MODEL:-}" ] || skip "MODELPOOL_TEST_MODEL names no model"
}

write_config() # ENGINE
{
    cat >"$RIG_DIR/etc/modelpool.conf" <<EOT
ClusterName=rig
NodeName=n1
RunDir=/run/modelpool
StateDir=$RIG_DIR/modelpool
Engine=$1
Identity=none
Model=small Path=$MODELPOOL_TEST_MODEL MaxContext=1024
Model=broken Path=$RIG_DIR/etc/modelpool.conf
Instance=cpu Device=cpu Memory=700M Threads=2
EOT
}

healthy() { curl -sf http://127.0.0.1:811/health >/dev/null; }
# Not the rig's alone: its pid must be waited for when the daemon ends, or stays in the table.
start_daemon() { rig_start_daemon 3>&- 4>&-; }
daemon_pid() { cat "$RIG_DIR/run/modelpoold.pid"; }
stop_daemon()
{
    kill "$(daemon_pid)" 2>/dev/null || true
    wait_for 5 eval '! kill -0 "$(daemon_pid)" 2>/dev/null || zombie'
}
zombie() { grep -q '^State:.Z' "/proc/$(daemon_pid)/status"; }

check() { rig_as alice python3 "$RIG_TOOLS/http_check.py" "$@"; }
check_as_root() { python3 "$RIG_TOOLS/http_check.py" "$@"; }

# Run an openai_check.py under a lease that was opened with these words.
openai()
{
    local check=$1
    shift
    [ -n "${MODELPOOL_TEST_PYTHON:-}" ] || skip "MODELPOOL_TEST_PYTHON names no python with openai"
    # as root: a virtual environment may stand on a python that others may not run
    python3 "$RIG_TOOLS/with_lease.py" "$RIG_SOCKET" "$@" -- \
        "$MODELPOOL_TEST_PYTHON" "$RIG_TOOLS/openai_check.py" "$check" KEY
}

@test "the daemon is not root, and its state is its own" {
    [ "$(stat -c %U "/proc/$(daemon_pid)")" = modelpool ] || # undumpable: /proc is root's
        grep -q '^Uid:.2090.2090.2090.2090' "/proc/$(daemon_pid)/status"
    [ "$(stat -c '%a %U' "$RIG_DIR/modelpool")" = "700 modelpool" ]
    [ "$(stat -c %a /run/modelpool)" = 755 ]
    [ "$(stat -c %a /run/modelpool/http.sock /run/modelpool/control.sock | sort -u)" = 666 ]
}

@test "/v1/models: the lease's own" { check models; }
@test "/v1/completions: whole, streamed, and in the ledger" { check answers; }
@test "/v1/chat/completions: whole and streamed are the same" { check chat; }
@test "token ids as a prompt" { check tokens_as_prompt; }
@test "stop strings, and tokens past them are not billed" { check stop; }
@test "a prompt's beginning that is known is not computed again" { check prefix; }
@test "another user's beginnings are not known" {
    rig_as bob python3 "$RIG_TOOLS/http_check.py" prefix_of_others
}
@test "seed: the same one gives the same text" { check seed; }
@test "n: several answers, one row of the ledger" { check choices; }
@test "n: each answer ends by itself" { check choices_end; }
@test "n: a budget ends all to the token" { check choices_budget; }
@test "n: a stream that is cut off is billed what was delivered" { check choices_cancel; }
@test "logprobs: whole and streamed are the same" { check logprobs; }
@test "logprobs: a stop string cuts them, too" { check logprobs_stop; }
@test "logit_bias forces and forbids" { check logit_bias; }
@test "what is refused, with which status and words" { check refusals; }
@test "no key is needed with one lease, over TCP and the Unix socket" { check no_key; }
@test "a budget ends an answer to the token, and then 429" { check budget; }
@test "requests at once share a budget to the token" { check budget_shared; }
@test "a stream that is cut off is billed what was delivered" { check cancel; }
@test "a client that leaves before its whole answer pays none" { check cancel_whole; }
@test "a lease that ends takes its requests with it" { check lease_ends; }
@test "32 requests at once: the same answers as alone" { check many; }
@test "a client that stops reading for a while loses nothing" { check slow_tcp; }
@test "requests sent in advance are answered in turn" { check bytes_in_advance; }
@test "/metrics" { check metrics; }

@test "a key works for its own user alone" {
    rig_as bob python3 "$RIG_TOOLS/with_lease.py" "$RIG_SOCKET" models=small -- \
        sh -c 'echo KEY >"$HOME/key"; sleep 2' 3>&- 4>&- &
    wait_for 5 test -s "$RIG_DIR/home/bob/key"
    check other_users_key "$(cat "$RIG_DIR/home/bob/key")"
    wait
}

@test "OpenAI's client: chat" { openai chat models=small; }
@test "OpenAI's client: completion" { openai completion models=small; }
@test "OpenAI's client: streaming and usage" { openai stream models=small; }
@test "OpenAI's client: stop" { openai stop models=small; }
@test "OpenAI's client: seed" { openai seed models=small; }
@test "OpenAI's client: n" { openai choices models=small; }
@test "OpenAI's client: logprobs" { openai logprobs models=small; }
@test "OpenAI's client: fields that ask for nothing" { openai fields models=small; }
@test "OpenAI's client: models" { openai models models=small; }
@test "OpenAI's client: errors become its exceptions" { openai errors models=small; }
@test "OpenAI's client: a budget used up is a RateLimitError" { openai budget models=small tokens=20; }

@test "a second daemon on the same StateDir is refused by name" {
    run -1 modelpoold -f "$RIG_DIR/etc/modelpool.conf"
    assert_has "StateDir=$RIG_DIR/modelpool"
    assert_has "$(daemon_pid)"
}

@test "SIGHUP checks the file and applies what can change" {
    printf 'Nonsense=1\n' >>"$RIG_DIR/etc/modelpool.conf"
    kill -HUP "$(daemon_pid)"
    wait_for 5 grep -q 'SIGHUP: the running configuration stays: .*Nonsense' "$RIG_DIR/log/modelpoold.log"
    sed -i '/^Nonsense/d' "$RIG_DIR/etc/modelpool.conf"
    run python3 "$RIG_TOOLS/with_lease.py" "$RIG_SOCKET" models=small slo=swift -- true
    assert_has 'no SLO class "swift"'
    printf 'Slo=swift TTFT=9s TBT=9s\n' >>"$RIG_DIR/etc/modelpool.conf"
    kill -HUP "$(daemon_pid)"
    wait_for 5 grep -q 'SIGHUP: .*valid: .*restart' "$RIG_DIR/log/modelpoold.log"
    run -0 python3 "$RIG_TOOLS/with_lease.py" "$RIG_SOCKET" models=small slo=swift -- true
    healthy
}

@test "an engine that is killed with 8 open streams: no token is doubled, none missing" { check_as_root engine_dies; }

@test "an engine that is killed loses nothing of several answers" { check_as_root engine_dies_choices; }

@test "a daemon that is killed: the ledger has what was delivered" {
    check_as_root daemon_dies "$RIG_DIR/interrupted"
    start_daemon
    check_as_root interrupted "$RIG_DIR/interrupted"
    wait_for 30 healthy
}

@test "SIGTERM ends streams and the daemon within seconds" {
    check_as_root stopped
    [ ! -e "$RIG_SOCKET" ]
}

@test "no engine: 503 at once, or 429 after --model-wait" {
    stop_daemon
    write_config /bin/false
    start_daemon
    check_as_root no_engine
}

@test "--model-wait: a request is held until the engine is there" {
    stop_daemon
    printf '#!/bin/sh\nwhile [ ! -e "%s" ]; do sleep 0.05; done\nexec "%s"\n' \
        /dev/shm/go "$(command -v modelpool-engine)" >"$RIG_DIR/etc/late-engine"
    chmod 755 "$RIG_DIR/etc/late-engine"
    write_config "$RIG_DIR/etc/late-engine"
    start_daemon
    check_as_root held /dev/shm/go
    stop_daemon
}
