# rig.bash - a private one-host Slurm in namespaces, as a library
#
# Provides: a mount, pid, network, host name and ipc namespace in which munge, slurmctld and two
# slurmds (n1, n2) run as root with the users alice (2001), bob (2002) and modelpool (2090).  The
# host's /etc, Slurm, munge, users and ports are neither read nor touched, and everything dies with
# the script that entered, also when it is killed.
#
# Use, in a bash script that is run as root:
#
#     . tests/slurm/rig.bash
#     rig_enter "$@"          # runs this script again inside; only that copy returns from here
#     rig_start_munge
#     rig_start_slurm         # needs RIG_PLUGIN unless RIG_PLUGIN=none
#     rig_wait_nodes
#     rig_start_daemon        # optional: modelpoold
#     rig_as alice srun --model=tiny env
#
# Variables a caller may set before rig_enter:
#     RIG_KEEP=1       leave the private directory behind, and say where it is
#     RIG_BUILD=DIR    a build tree; the default is the source tree
#     RIG_PREFIX=DIR   an installed prefix, in place of a build tree
#     MODELPOOL_TEST_MODEL, MODELPOOL_TEST_PYTHON: a model file and a virtual environment's python;
#                      inside they and RIG_PREFIX name the same things within RIG_DIR
#     RIG_PLUGIN=FILE  spank_modelpool.so, `none` for a Slurm without it; else from the two above
#     RIG_PLUGIN_ARGS  arguments in plugstack.conf; default socket=RIG_SOCKET
# and reads inside:
#     RIG_DIR          the private directory: etc/ log/ run/ spool/ home/USER lib/
#     RIG_SOCKET       the control socket of modelpoold
#
# Functions return non-zero and print one line when they fail; none of them exits but rig_enter.

RIG_SRC=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
RIG_NODES="n1 n2"

rig_say() { printf 'rig: %s\n' "$*" >&2; }

# ---- entering --------------------------------------------------------------------------------

rig_missing() {
    local tool
    for tool in unshare setpriv munged slurmctld slurmd srun ip; do
        command -v "$tool" >/dev/null || { printf '%s' "$tool is not installed (Debian: slurm-wlm munge util-linux iproute2)"; return 0; }
    done
    # They are covered by private ones, which needs a file to cover.
    for tool in /etc/passwd /etc/group /etc/hosts /etc/nsswitch.conf; do
        [ -e "$tool" ] || { printf '%s' "there is no $tool here; an empty one will do"; return 0; }
    done
    return 1
}

# Run this script again inside the namespaces and exit with its status; inside, prepare and return.
rig_enter()
{
    if [ "${RIG_INSIDE:-}" = 1 ]; then
        rig_prepare || exit 1
        return 0
    fi
    local missing pid status
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    if [ "$(id -u)" != 0 ]; then
        rig_say "needs root, to make namespaces and to start Slurm"
        exit 2
    fi
    if missing=$(rig_missing); then
        rig_say "$missing"
        exit 2
    fi
    if ! unshare --mount --pid --net --uts --ipc --fork --mount-proc true 2>/dev/null; then
        rig_say "may not make namespaces here (unshare is refused)"
        exit 2
    fi
    RIG_DIR=$(mktemp -d "${TMPDIR:-/tmp}/modelpool-rig.XXXXXX") || exit 2
    chmod 755 "$RIG_DIR"
    # In the background, so that a signal to this script is handled at once; env gives back the
    # SIGINT that bash ignores for background commands.
    RIG_INSIDE=1 RIG_DIR=$RIG_DIR setpriv --pdeathsig KILL \
        unshare --mount --pid --net --uts --ipc --fork --kill-child --mount-proc \
        env --default-signal=INT,QUIT "$BASH" "$0" "$@" <&0 &
    pid=$!
    trap 'kill -KILL "$pid" 2>/dev/null' INT TERM HUP
    wait "$pid"
    status=$?
    trap - INT TERM HUP
    rig_leave "$pid"
    exit "$status"
}

rig_leave()
{
    wait "$1" 2>/dev/null
    if [ "${RIG_KEEP:-}" = 1 ]; then
        rig_say "kept $RIG_DIR"
        return 0
    fi
    # Processes of a killed namespace may still be writing for a moment.
    local try
    for ((try = 0; try < 100; try++)); do
        rm -rf -- "$RIG_DIR" 2>/dev/null
        [ -e "$RIG_DIR" ] || return 0
        sleep 0.1
    done
    rig_say "could not remove $RIG_DIR"
}

# Users, hosts, loopback, a private /run and /dev/shm.
rig_prepare()
{
    local d=$RIG_DIR user
    mkdir -p "$d"/{etc,log,run,spool,state,home,lib,shm} || return 1
    printf '%s\n' root:x:0:0:root:/root:/bin/bash \
        munge:x:2080:2080::/nonexistent:/usr/sbin/nologin \
        "alice:x:2001:2001::$d/home/alice:/bin/bash" \
        "bob:x:2002:2002::$d/home/bob:/bin/bash" \
        modelpool:x:2090:2090::/nonexistent:/usr/sbin/nologin \
        nobody:x:65534:65534::/nonexistent:/usr/sbin/nologin >"$d/etc/passwd"
    printf '%s\n' root:x:0: munge:x:2080: alice:x:2001: bob:x:2002: modelpool:x:2090: \
        nogroup:x:65534: >"$d/etc/group"
    printf '127.0.0.1 localhost rig n1 n2\n' >"$d/etc/hosts"
    printf 'passwd: files\ngroup: files\nhosts: files\n' >"$d/etc/nsswitch.conf"
    for user in passwd group hosts nsswitch.conf; do
        mount --bind "$d/etc/$user" "/etc/$user" || return 1
    done
    for user in alice bob; do
        mkdir -p "$d/home/$user" && chown "$user:$user" "$d/home/$user" || return 1
    done
    mount -t tmpfs -o mode=755 rig-run /run || return 1
    mount -t tmpfs -o mode=1777 rig-shm /dev/shm || return 1
    hostname rig || return 1
    ip link set lo up || return 1
    # slurmd looks its addresses up with AI_ADDRCONFIG, for which 127.0.0.1 alone does not count.
    ip addr add 127.0.0.2/8 dev lo || return 1
    # A Slurm job that this script was itself started from must not show through.
    local name
    for name in ${!SLURM_@} ${!SPANK_@} ${!SBATCH_@} ${!SALLOC_@} ${!MODELPOOL_@} ${!OPENAI_@}; do
        case $name in
        MODELPOOL_TEST_*) ;;
        *) unset "$name" ;;
        esac
    done
    export RIG_DIR SLURM_CONF=$d/etc/slurm.conf
    export RIG_SOCKET=/run/modelpool/control.sock
    rig_bring_all && rig_find_build
}

# Bind FILE-or-FOLDER into the private directory: the clone may lie where only root can look, and
# users and modelpoold need what is in it.
rig_bring()
{
    local from=$1 to=$RIG_DIR/$2
    if [ -d "$from" ]; then
        mkdir -p "$to"
    else
        mkdir -p "$(dirname "$to")" && : >"$to"
    fi && mount --bind "$from" "$to" || { rig_say "cannot bind $from"; return 1; }
}

rig_bring_all()
{
    rig_bring "$RIG_SRC/tests/tools" tools || return 1
    if [ -n "${RIG_PREFIX:-}" ]; then
        rig_bring "$RIG_PREFIX" usr || return 1
        RIG_PREFIX=$RIG_DIR/usr
    fi
    if [ -n "${MODELPOOL_TEST_MODEL:-}" ]; then
        rig_bring "$MODELPOOL_TEST_MODEL" models/test.gguf || return 1
        MODELPOOL_TEST_MODEL=$RIG_DIR/models/test.gguf
    fi
    if [ -n "${MODELPOOL_TEST_PYTHON:-}" ]; then # a virtual environment's bin/python
        rig_bring "$(dirname "$(dirname "$MODELPOOL_TEST_PYTHON")")" venv || return 1
        MODELPOOL_TEST_PYTHON=$RIG_DIR/venv/bin/python
    fi
}

# RIG_PLUGIN, and PATH with modelpool, modelpoold and modelpool-engine in front.
rig_find_build()
{
    local build=${RIG_BUILD:-$RIG_SRC} file
    if [ -n "${RIG_PREFIX:-}" ]; then
        PATH=$RIG_PREFIX/bin:$RIG_PREFIX/sbin:$RIG_PREFIX/libexec/modelpool:$RIG_PREFIX/libexec:$PATH
        : "${RIG_PLUGIN:=$RIG_PREFIX/lib/slurm/spank_modelpool.so}"
    else
        PATH=$build/cli:$build/daemon:$build/engine:$build:$PATH
        for file in "$build"/.libs/spank_modelpool.so "$build"/plugin/.libs/spank_modelpool.so; do
            [ -e "$file" ] && : "${RIG_PLUGIN:=$file}"
        done
    fi
    export PATH RIG_PLUGIN=${RIG_PLUGIN:-}
}

# ---- munge and Slurm -------------------------------------------------------------------------

rig_start_munge()
{
    local key=$RIG_DIR/etc/munge.key i
    mkdir -p /run/munge && chown munge:munge /run/munge || return 1
    (umask 077 && head -c 128 /dev/urandom >"$key") && chown munge:munge "$key" || return 1
    touch "$RIG_DIR/log/munged.log" && chown munge:munge "$RIG_DIR/log/munged.log" || return 1
    setpriv --reuid munge --regid munge --clear-groups munged --force --foreground \
        --key-file="$key" --pid-file=/run/munge/munged.pid --seed-file=/run/munge/munged.seed \
        --log-file="$RIG_DIR/log/munged.log" --num-threads=2 \
        >>"$RIG_DIR/log/munged.out" 2>&1 &
    for ((i = 0; i < 100; i++)); do
        munge -n >/dev/null 2>&1 && return 0
        sleep 0.05
    done
    rig_say "munged did not start: $(tail -n 1 "$RIG_DIR/log/munged.out")"
    return 1
}

rig_write_slurm_conf()
{
    local cores
    cores=$(nproc)
    cat >"$RIG_DIR/etc/slurm.conf" <<EOT
ClusterName=rig
SlurmctldHost=rig(127.0.0.1)
SlurmUser=root
SlurmctldPort=16817
AuthType=auth/munge
AuthInfo=cred_expire=5
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
UnkillableStepTimeout=5
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0
PlugStackConfig=$RIG_DIR/etc/plugstack.conf
StateSaveLocation=$RIG_DIR/state
SlurmctldPidFile=$RIG_DIR/run/slurmctld.pid
SlurmctldLogFile=$RIG_DIR/log/slurmctld.log
SlurmdSpoolDir=$RIG_DIR/spool/%n
SlurmdPidFile=$RIG_DIR/run/slurmd.%n.pid
SlurmdLogFile=$RIG_DIR/log/slurmd.%n.log
NodeName=n[1-2] NodeHostname=rig NodeAddr=127.0.0.1 Port=[17001-17002] CPUs=$cores State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:8
EOT
    # Named, since the default looks for systemd's mounts; linuxproc and task/none use no cgroup.
    printf 'CgroupPlugin=cgroup/v1\n' >"$RIG_DIR/etc/cgroup.conf"
}

# plugstack.conf with a copy of the plugin in RIG_DIR/lib, which tests may break.
rig_write_plugstack()
{
    local conf=$RIG_DIR/etc/plugstack.conf
    RIG_SO=$RIG_DIR/lib/spank_modelpool.so
    export RIG_SO
    if [ "$RIG_PLUGIN" = none ]; then
        : >"$conf"
        return 0
    fi
    if [ ! -r "$RIG_PLUGIN" ]; then
        rig_say "no spank_modelpool.so${RIG_PLUGIN:+ at $RIG_PLUGIN}: build it, or set RIG_PLUGIN"
        return 1
    fi
    install -m 644 "$RIG_PLUGIN" "$RIG_SO" || return 1
    printf 'optional %s %s\n' "$RIG_SO" "${RIG_PLUGIN_ARGS-socket=$RIG_SOCKET}" >"$conf"
}

rig_start_slurm()
{
    local node
    rig_write_slurm_conf && rig_write_plugstack || return 1
    slurmctld -D -i -f "$SLURM_CONF" >>"$RIG_DIR/log/slurmctld.out" 2>&1 &
    for node in $RIG_NODES; do
        mkdir -p "$RIG_DIR/spool/$node"
        slurmd -D -N "$node" -f "$SLURM_CONF" >>"$RIG_DIR/log/slurmd.$node.out" 2>&1 &
    done
}

# States of all nodes, one word each, e.g. `idle idle`.
rig_node_states() { sinfo -h -N -o %T 2>/dev/null | tr '\n' ' ' | sed 's/ $//'; }

# Wait, at most $1 (20) seconds, until every node is idle.
rig_wait_nodes()
{
    local limit=$((SECONDS + ${1:-20}))
    while [ "$(rig_node_states)" != "idle idle" ]; do
        if [ "$SECONDS" -ge "$limit" ]; then
            rig_say "nodes are not idle: $(rig_node_states) $(sinfo -h -R -o '%N %E' 2>/dev/null)"
            return 1
        fi
        sleep 0.1
    done
}

# As rig_wait_nodes, for the end of a test: running jobs may need a moment to complete, but a node
# that was drained stays so, and then this fails with Slurm's reason.
rig_assert_nodes_idle() { rig_wait_nodes "${1:-10}"; }

# ---- users and modelpoold --------------------------------------------------------------------

# Run a command as a user, in its home, with a clean environment and the build's PATH.
rig_as()
{
    local user=$1
    shift
    (cd "$RIG_DIR/home/$user" &&
        exec env -i PATH="$PATH" HOME="$RIG_DIR/home/$user" USER="$user" LOGNAME="$user" \
            SHELL=/bin/bash LC_ALL=C.UTF-8 SLURM_CONF="$SLURM_CONF" RIG_DIR="$RIG_DIR" \
            RIG_SOCKET="$RIG_SOCKET" RIG_SO="${RIG_SO:-}" \
            setpriv --reuid "$user" --regid "$user" --init-groups "$@")
}

# Start modelpoold with RIG_DIR/etc/modelpool.conf, which the caller has written, and wait for its
# socket.  Its pid is then in RIG_DIR/run/modelpoold.pid.  Further arguments go to modelpoold.
rig_start_daemon()
{
    local conf=$RIG_DIR/etc/modelpool.conf i pid
    command -v modelpoold >/dev/null || { rig_say "modelpoold is not built"; return 1; }
    mkdir -p /run/modelpool "$RIG_DIR/modelpool" &&
        chown modelpool:modelpool /run/modelpool "$RIG_DIR/modelpool" || return 1
    rm -f "$RIG_SOCKET"
    modelpoold "$@" -f "$conf" >>"$RIG_DIR/log/modelpoold.log" 2>&1 &
    pid=$!
    echo "$pid" >"$RIG_DIR/run/modelpoold.pid"
    disown "$pid"
    for ((i = 0; i < 200; i++)); do
        kill -0 "$pid" 2>/dev/null || break
        [ -S "$RIG_SOCKET" ] && return 0
        sleep 0.05
    done
    rig_say "modelpoold did not start: $(tail -n 1 "$RIG_DIR/log/modelpoold.log")"
    return 1
}
