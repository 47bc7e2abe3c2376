#!/bin/bash
# Quotas and shares of accounts, promises of SLOs, costs that outlive the daemon: the real daemon,
# engine and model, without Slurm.  A lease of a local user has the account "local", a job's under
# Identity=none "unknown".  MODELPOOL_TEST_MODEL=FILE.gguf names the model.
[ -n "${BATS_VERSION:-}" ] || exec "$(dirname "$0")/../slurm/rig" --no-slurm bats "$0" "$@"
load ../slurm/bats

setup()
{
    [ -n "${MODELPOOL_TEST_MODEL:-}" ] || skip "MODELPOOL_TEST_MODEL names no model"
}

write_config() # LINE...
{
    cat >"$RIG_DIR/etc/modelpool.conf" <<EOT
ClusterName=rig
NodeName=n1
RunDir=/run/modelpool
StateDir=$RIG_DIR/modelpool
Engine=$(command -v modelpool-engine)
Identity=none
Model=small Path=$MODELPOOL_TEST_MODEL MaxContext=1024
Model=other Path=$MODELPOOL_TEST_MODEL MaxContext=1024
Instance=cpu Device=cpu Memory=700M Threads=2
EOT
    printf '%s\n' "$@" >>"$RIG_DIR/etc/modelpool.conf"
}

start() # LINE...
{
    write_config "$@"
    rig_start_daemon 3>&- 4>&-
    wait_for 30 eval 'modelpool list -n -P | grep -q "^other|cpu|.*|ready|"'
}
daemon_pid() { cat "$RIG_DIR/run/modelpoold.pid"; }
stop_daemon()
{
    kill "$(daemon_pid)" 2>/dev/null || true
    wait_for 5 eval '! kill -0 "$(daemon_pid)" 2>/dev/null || zombie'
}
zombie() { grep -q '^State:.Z' "/proc/$(daemon_pid)/status"; }
check() { python3 "$RIG_TOOLS/http_check.py" "$@"; }

@test "TokensPerDay=: to the token, 429 with Retry-After, and over a restart" {
    start 'Tenant=local TokensPerDay=60 Share=2'
    check day
    run -0 modelpool status
    assert_has 'scheduler slack; admission: yes'
    grep -Eq '^local +2 .* 60 +60$' <<<"$output"
    stop_daemon
    start 'Tenant=local TokensPerDay=60'
    check day_is_over
}

@test "SIGHUP applies Tenant= lines; MaxRequests=: 429 with Retry-After" {
    write_config 'Tenant=DEFAULT MaxRequests=2'
    kill -HUP "$(daemon_pid)"
    wait_for 5 grep -q 'SIGHUP: .*valid: .*Tenant=' "$RIG_DIR/log/modelpoold.log"
    check requests_at_once
    stop_daemon
}

@test "an SLO is promised, waited for, or refused with the reason" {
    start
    check promises
    stop_daemon
}

@test "costs outlive the daemon" {
    start
    check taught
    run -0 grep -c 'model other: costs of before' "$RIG_DIR/log/modelpoold.log"
    run -0 modelpool status
    grep -q '^COST ' <<<"$output"
    stop_daemon
}

@test "two accounts that flood share device time as 3 to 1" {
    start Admission=no FairTime=0.2s 'Tenant=local Share=3' 'Tenant=DEFAULT Share=1'
    check shares 2-4.5
    run -0 modelpool status
    assert_has 'scheduler slack; admission: no'
    stop_daemon
}
