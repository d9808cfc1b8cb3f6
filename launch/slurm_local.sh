#!/usr/bin/env bash
# A SLURM cluster of this machine alone, to try the engine on: with Debian's
# packages, as root. Starts munged, slurmctld and slurmd where they do not run;
# `stop` ends them.
#
#   apt-get install --no-install-recommends slurmctld slurmd slurm-client munge
#   bash launch/slurm_local.sh [nodes' CPUs, by default all that there are]
set -euo pipefail
state=/var/lib/slurm-local
if [ "${1:-}" = stop ]; then
  for name in slurmd slurmctld munged; do
    [ ! -f "$state/$name.pid" ] || kill "$(cat "$state/$name.pid")" || true
  done
  exit
fi
host=$(hostname -s)
cpus=${1:-$(nproc)}
mkdir -p "$state/spool" /run/munge /etc/slurm
chown munge: /run/munge
cat > /etc/slurm/slurm.conf <<CONF
ClusterName=local
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
JobRequeue=1
KillWait=30
MinJobAge=300
MpiDefault=none
SlurmctldPidFile=$state/slurmctld.pid
SlurmdPidFile=$state/slurmd.pid
StateSaveLocation=$state
SlurmdSpoolDir=$state/spool
SlurmctldLogFile=$state/slurmctld.log
SlurmdLogFile=$state/slurmd.log
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
[ -f /etc/munge/munge.key ] || { /usr/sbin/mungekey -c; chown munge: /etc/munge/munge.key; }
munge -n > /dev/null 2>&1 || {
  runuser -u munge -- /usr/sbin/munged
  ln -sf /run/munge/munged.pid "$state/munged.pid"
}
scontrol ping > /dev/null 2>&1 || slurmctld
[ -f "$state/slurmd.pid" ] && kill -0 "$(cat "$state/slurmd.pid")" || slurmd
for _ in $(seq 30); do
  ! sinfo --noheader --format=%t | grep -q idle || { sinfo; exit; }
  sleep 1
done
tail "$state"/*.log
exit 1
