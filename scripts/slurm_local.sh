#!/usr/bin/env bash
# A real Slurm of two nodes on this machine, for tests and for trying things out.
#
#   scripts/slurm_local.sh start FOLDER   installs it if need be (Debian's packages), starts it
#   scripts/slurm_local.sh stop FOLDER    ends it; the folder stays
#
# Everything it writes lies in FOLDER, an absolute path. Each node has one CPU slot and a make-believe
# GPU. Where it cannot run (not root, no apt-get, no network), it says why and exits with 77; what
# fails although it should work is an error.
set -euo pipefail

cannot() {
    echo "no Slurm here: $1" >&2
    exit 77
}

fail() {
    echo "$0: $1" >&2
    exit 1
}

packages=(slurm-wlm munge)

apt_install() {
    apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null 2>&1
}

install_slurm() {
    command -v slurmctld >/dev/null && command -v munged >/dev/null && return
    command -v apt-get >/dev/null || cannot "it is not installed, and there is no apt-get"
    export DEBIAN_FRONTEND=noninteractive
    apt_install && return
    # Without a network there is nothing to install from, which is nobody's fault.
    apt-get update -qq -o APT::Update::Error-Mode=any >/dev/null 2>&1 ||
        cannot "it is not installed, and apt-get reaches no packages"
    apt_install || fail "apt-get could not install ${packages[*]}"
}

write_settings() {
    local host memory
    host=$(hostname -s)
    memory=$(awk '/^MemTotal/ {print int($2 / 2048)}' /proc/meminfo)
    mkdir -p "$folder"/{state,log,run,spool-n1,spool-n2}
    # munged insists on folders that nobody else can write.
    chmod 755 "$folder"
    head -c 1024 /dev/urandom >"$folder/run/munge.key"
    chown -R munge: "$folder/run"
    chmod 400 "$folder/run/munge.key"
    echo 'NodeName=n[1-2] Name=gpu File=/dev/null' >"$folder/gres.conf"
    cat >"$folder/slurm.conf" <<EOF
ClusterName=lab
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$((port))
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/run/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
ReturnToService=2
SlurmdTimeout=60
KillWait=2
StateSaveLocation=$folder/state
SlurmctldPidFile=$folder/run/ctld.pid
SlurmctldLogFile=$folder/log/ctld.log
SlurmdSpoolDir=$folder/spool-%n
SlurmdPidFile=$folder/run/slurmd-%n.pid
SlurmdLogFile=$folder/log/slurmd-%n.log
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 1)) CPUs=1 RealMemory=$memory Gres=gpu:1
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 2)) CPUs=1 RealMemory=$memory Gres=gpu:1
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
EOF
}

# keep NAME COMMAND...: runs a command in the background and notes its id.
keep() {
    local name=$1
    shift
    setsid "$@" >"$folder/log/$name.out" 2>&1 </dev/null &
    echo "$!" >>"$folder/started"
}

start() {
    [ "$(id -u)" = 0 ] || cannot "only root may start one"
    install_slurm
    write_settings
    : >"$folder/started"
    keep munged setpriv --reuid munge --regid munge --clear-groups munged -F \
        --socket="$folder/run/munge.socket" --key-file="$folder/run/munge.key" \
        --pid-file="$folder/run/munged.pid" --seed-file="$folder/run/munged.seed" \
        --log-file="$folder/run/munged.log"
    export SLURM_CONF=$folder/slurm.conf
    for _ in $(seq 100); do
        [ -S "$folder/run/munge.socket" ] && break
        sleep 0.1
    done
    keep ctld slurmctld -D -c -f "$SLURM_CONF"
    keep slurmd-n1 slurmd -D -f "$SLURM_CONF" -N n1
    keep slurmd-n2 slurmd -D -f "$SLURM_CONF" -N n2
    for _ in $(seq 60); do
        if [ "$(sinfo -h -N -t idle -o %N 2>/dev/null | wc -l)" = 2 ]; then
            echo "export SLURM_CONF=$SLURM_CONF"
            return
        fi
        sleep 0.5
    done
    stop
    fail "the nodes did not come up; see $folder/log"
}

stop() {
    [ -f "$folder/started" ] || return 0
    SLURM_CONF=$folder/slurm.conf scancel --user root 2>/dev/null || true
    local id
    for id in $(tac "$folder/started"); do
        kill "$id" 2>/dev/null || true
    done
    for id in $(cat "$folder/started"); do
        for _ in $(seq 50); do
            kill -0 "$id" 2>/dev/null || break
            sleep 0.1
        done
        kill -9 "$id" 2>/dev/null || true
    done
    rm "$folder/started"
}

folder=${2:-}
port=${SLURM_LOCAL_PORT:-17000}
case "${1:-} $folder" in
"start /"*) start ;;
"stop /"*) stop ;;
*)
    echo "usage: $0 start|stop FOLDER   (an absolute path)" >&2
    exit 2
    ;;
esac
