#!/usr/bin/env bash
# A real Slurm with accounting and several emulated nodes on one Debian host, for rehearsals and for tests/slurm.
#
#   tests/slurm/lab.sh up       start what does not run yet (seconds); prints how to use it
#   tests/slurm/lab.sh down     cancel every job, stop every daemon
#   tests/slurm/lab.sh start D  start one daemon: mariadbd slurmdbd slurmctld slurmd-n1 ...
#   tests/slurm/lab.sh stop D   stop it in order          kill D  SIGKILL it
#   tests/slurm/lab.sh reboot N end all that runs on node N, start its daemon anew
#   tests/slurm/lab.sh missing  name the Debian packages (or root) that are missing; nothing if all is there
#
# Needs root and the packages slurm-wlm slurmdbd mariadb-server munge; no systemd. Everything lives in one
# folder (ISOTONE_LAB) and on ports of its own (ISOTONE_LAB_PORT...), so that a Slurm of the host is not touched.
set -euo pipefail

LAB=${ISOTONE_LAB:-${TMPDIR:-/tmp}/isotone-lab}
PORT=${ISOTONE_LAB_PORT:-27300}
NODES=${ISOTONE_LAB_NODES:-6} # of the ordinary partitions
ODD=2                          # more, in partition odd: their prolog can be made to fail, they are rebooted
GPUS=${ISOTONE_LAB_GPUS:-2}
export SLURM_CONF=$LAB/etc/slurm.conf
PATH=$PATH:/usr/sbin:/sbin
ALL=$((NODES + ODD))

until_true() { # until_true SECONDS COMMAND...: wait for the command to succeed
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || { echo "lab: still failing after the wait: $*; see $LAB/log" >&2; return 1; }
        sleep 0.1
    done
}

pid_of() { cat "$LAB/run/$1.pid" 2>/dev/null; }
alive() { local pid; pid=$(pid_of "$1") && [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null; }

missing() {
    [ "$(id -u)" = 0 ] || echo "root"
    local pair
    for pair in slurmctld:slurm-wlm slurmd:slurm-wlm sbatch:slurm-wlm slurmdbd:slurmdbd mariadbd:mariadb-server munged:munge; do
        command -v "${pair%%:*}" >/dev/null || echo "${pair##*:}"
    done | sort -u
}

configure() {
    mkdir -p "$LAB"/{etc,run,log,state,spool,gpu}
    chmod 755 "$LAB" "$LAB"/{etc,run,log}
    # Character devices stand in for GPUs: Slurm counts and binds them, nobody opens them.
    for ((i = 0; i < GPUS; i++)); do
        [ -c "$LAB/gpu/$i" ] || mknod "$LAB/gpu/$i" c 1 3
    done
    [ -s "$LAB/etc/munge.key" ] || head -c 128 /dev/urandom >"$LAB/etc/munge.key"
    chown munge: "$LAB/etc/munge.key"
    chmod 400 "$LAB/etc/munge.key"
    # cred_expire also decides how long a requeued job waits (the default of 120 s gives more than two minutes);
    # config_overrides keeps nodes with invented CPU counts from going INVAL.
    cat >"$SLURM_CONF" <<END
ClusterName=lab
SlurmctldHost=localhost
SlurmctldPort=$PORT
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$LAB/run/munge.socket,cred_expire=${ISOTONE_LAB_CRED_EXPIRE:-10}
StateSaveLocation=$LAB/state
SlurmdSpoolDir=$LAB/spool/%n
SlurmctldPidFile=$LAB/run/slurmctld.pid
SlurmdPidFile=$LAB/run/slurmd-%n.pid
SlurmctldLogFile=$LAB/log/slurmctld.log
SlurmdLogFile=$LAB/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SlurmdParameters=config_overrides
SlurmctldTimeout=30
SlurmdTimeout=20
KillWait=10
MinJobAge=300
ReturnToService=2
SchedulerParameters=sched_interval=2,bf_interval=5,batch_sched_delay=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
Prolog=$LAB/etc/prolog
PrologFlags=Alloc
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort=$((PORT + 1))
AccountingStoragePass=$LAB/run/munge.socket
AccountingStorageTRES=gres/gpu
AccountingStorageEnforce=associations,limits,qos
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=2
JobAcctGatherParams=OverMemoryKill,UsePss
GresTypes=gpu
NodeName=n[1-$ALL] NodeHostname=localhost NodeAddr=127.0.0.1 Port=$((PORT + 11))-$((PORT + 10 + ALL)) CPUs=8 RealMemory=16000 Gres=gpu:$GPUS State=UNKNOWN
PartitionName=preempt Nodes=n[1-$NODES] Default=YES MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=brief Nodes=n[1-$NODES] MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime=0
PartitionName=cancel Nodes=n[1-$NODES] MaxTime=INFINITE PriorityTier=1 PreemptMode=CANCEL GraceTime=20
PartitionName=high Nodes=n[1-$NODES] MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
PartitionName=odd Nodes=n[$((NODES + 1))-$ALL] MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE
END
    # A file prolog-fails-n7 makes the prolog fail on n7.
    printf '#!/bin/sh\n[ ! -e %s/prolog-fails-$SLURMD_NODENAME ]\n' "$LAB" >"$LAB/etc/prolog"
    chmod 755 "$LAB/etc/prolog"
    printf 'AutoDetect=off\nNodeName=n[1-%s] Name=gpu Flags=nvidia_gpu_env File=%s/gpu/[0-%s]\n' "$ALL" "$LAB" "$((GPUS - 1))" >"$LAB/etc/gres.conf"
    # From 23.11 on slurmd wants a mounted cgroup tree, unless it is told that there is none.
    if [ "$(slurmctld -V | grep -oE '[0-9]+' | head -n 1)" -ge 23 ]; then
        echo CgroupPlugin=disabled >"$LAB/etc/cgroup.conf"
    else
        echo CgroupAutomount=no >"$LAB/etc/cgroup.conf"
    fi
    cat >"$LAB/etc/slurmdbd.conf" <<END
AuthType=auth/munge
AuthInfo=socket=$LAB/run/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=$((PORT + 1))
SlurmUser=root
LogFile=$LAB/log/slurmdbd.log
PidFile=$LAB/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$((PORT + 2))
StorageUser=slurm
StoragePass=lab
StorageLoc=lab
END
    chmod 600 "$LAB/etc/slurmdbd.conf" # slurmdbd refuses a readable password
    cat >"$LAB/etc/init.sql" <<END
CREATE DATABASE IF NOT EXISTS lab;
CREATE USER IF NOT EXISTS 'slurm'@'127.0.0.1' IDENTIFIED BY 'lab';
CREATE USER IF NOT EXISTS 'slurm'@'localhost' IDENTIFIED BY 'lab';
GRANT ALL ON lab.* TO 'slurm'@'127.0.0.1';
GRANT ALL ON lab.* TO 'slurm'@'localhost';
END
}

start() {
    ! alive "$1" || return 0
    case $1 in
    munged)
        chown munge: "$LAB/run" "$LAB/log"
        runuser -u munge -- munged --force --key-file="$LAB/etc/munge.key" --socket="$LAB/run/munge.socket" \
            --pid-file="$LAB/run/munged.pid" --log-file="$LAB/log/munged.log" --seed-file="$LAB/run/munged.seed" 2>/dev/null
        until_true 60 munge -S "$LAB/run/munge.socket" -n
        ;;
    mariadbd)
        [ -d "$LAB/mysql/mysql" ] ||
            mariadb-install-db --no-defaults --user=root --datadir="$LAB/mysql" --skip-test-db >"$LAB/log/install.log" 2>&1
        setsid mariadbd --no-defaults --user=root --datadir="$LAB/mysql" --socket="$LAB/run/mysql.socket" \
            --pid-file="$LAB/run/mariadbd.pid" --bind-address=127.0.0.1 --port=$((PORT + 2)) --init-file="$LAB/etc/init.sql" \
            --log-error="$LAB/log/mariadbd.log" --innodb-buffer-pool-size=64M --innodb-lock-wait-timeout=900 \
            --innodb-flush-log-at-trx-commit=0 </dev/null >/dev/null 2>&1 &
        until_true 180 mariadb --no-defaults -h127.0.0.1 -P$((PORT + 2)) -uslurm -plab lab -e 'select 1'
        ;;
    slurmdbd)
        SLURM_CONF=$LAB/etc/slurm.conf slurmdbd
        until_true 120 sacctmgr -n show cluster
        ;;
    slurmctld)
        slurmctld
        until_true 120 scontrol ping
        ;;
    slurmd-*)
        mkdir -p "$LAB/spool/${1#slurmd-}"
        slurmd -N "${1#slurmd-}"
        ;;
    *)
        echo "lab: no daemon is called $1" >&2
        return 1
        ;;
    esac
}

stop() { # stop SIGNAL DAEMON
    local pid
    alive "$2" || return 0
    pid=$(pid_of "$2")
    kill "-$1" "$pid" 2>/dev/null || true
    for _ in $(seq 200); do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    rm -f "$LAB/run/$2.pid"
}

# Accounts that exist: the plugin asks for them, and Slurm enforces them here. `single` may have one job in the queue,
# and `capped` may run five minutes: QOS short refuses longer jobs, QOS patient lets them wait for ever.
accounts() {
    [ -z "$(sacctmgr -n show assoc user=root account=capped format=account)" ] || return 0
    {
        sacctmgr -i add cluster lab
        sacctmgr -i add account lab single capped cluster=lab
        sacctmgr -i add qos short MaxWall=00:05:00 Flags=DenyOnLimit
        sacctmgr -i add qos patient MaxWall=00:05:00
        sacctmgr -i add user root account=lab
        sacctmgr -i add user root account=single
        sacctmgr -i add user root account=capped
        sacctmgr -i modify user root where account=single set MaxSubmitJobs=1
        sacctmgr -i modify user root where account=capped set qos=normal,short,patient
        sacctmgr -i modify user root set DefaultAccount=lab
    } >"$LAB/log/accounts.log"
}

idle_nodes() { [ "$(sinfo -hN -p high,odd -t idle,alloc,mix -o %N | wc -l)" -ge "$ALL" ]; }
empty_queue() { [ -z "$(squeue -h)" ]; }

up() {
    local absent
    absent=$(missing)
    if [ -n "$absent" ]; then
        echo "lab: missing: $(echo $absent). As root: apt-get install slurm-wlm slurmdbd mariadb-server munge" >&2
        exit 3
    fi
    configure
    start munged
    start mariadbd
    start slurmdbd
    accounts
    start slurmctld
    for ((i = 1; i <= ALL; i++)); do start "slurmd-n$i"; done
    until_true 180 idle_nodes
    sinfo
    echo "lab: $NODES nodes are up. In your shell: export SLURM_CONF=$SLURM_CONF"
}

reboot() { # nothing that ran on the node lives on, and it does not tell the controller how it ended
    local environment parent pids=() steps=()
    stop KILL "slurmd-$1"
    for environment in /proc/[0-9]*/environ; do
        if grep -qzxF "SLURMD_NODENAME=$1" "$environment" 2>/dev/null && grep -qzxF "ISOTONE_LAB=$LAB" "$environment" 2>/dev/null; then
            pids+=("${environment//[!0-9]/}")
            parent=$(awk '/^PPid:/ {print $2}' "${environment%environ}status")
            [ "$(cat "/proc/$parent/comm")" != slurmstepd ] || steps+=("$parent")
        fi
    done
    kill -KILL "${steps[@]}" "${pids[@]}" 2>/dev/null || true # first those who would tell
    scontrol update "nodename=$1" state=down reason=reboot # else it would wait for SlurmdTimeout
    start "slurmd-$1"
    scontrol update "nodename=$1" state=resume 2>/dev/null || true # it may be back by itself
}

strays() { # what a lost node's daemon left behind; on a real node control groups end it
    local environment pid
    for environment in /proc/[0-9]*/environ; do
        pid=${environment//[!0-9]/}
        if [ "$pid" != $$ ] && grep -qzxF "ISOTONE_LAB=$LAB" "$environment" 2>/dev/null; then kill -KILL "$pid" || true; fi
    done
}

down() {
    if alive slurmctld; then
        scancel -u root || true
        scancel -f -s KILL -u root 2>/dev/null || true
        until_true 40 empty_queue || true
    fi
    for ((i = 1; i <= ALL; i++)); do stop TERM "slurmd-n$i"; done
    for daemon in slurmctld slurmdbd mariadbd munged; do stop TERM $daemon; done
    strays
    echo "lab: stopped; $LAB holds its logs"
}

case ${1:-} in
up) up ;;
down) down ;;
start) start "$2" ;;
stop) stop TERM "$2" ;;
kill) stop KILL "$2" ;;
reboot) reboot "$2" ;;
missing) missing ;;
*)
    sed -n '2,11s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
