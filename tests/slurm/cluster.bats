#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-3.0-or-later
#
# scripts/cluster, tried on real clusters: the shared one, a second one beside it, and one without
# network namespaces.

load cluster

setup_file() {
  cluster_once
}

teardown_file() {
  [[ $EUID == 0 ]] || return 0
  # What a test that failed half-way has left.
  "$repository/scripts/cluster" down --name tyother >/dev/null
  "$repository/scripts/cluster" down --name tylone >/dev/null
}

other() { "$repository/scripts/cluster" --name tyother "$@"; }
lone() { "$repository/scripts/cluster" --name tylone "$@"; }

# Everything a cluster could leave on the machine. Other private clusters may come and go.
traces() {
  ip -o link | awk -F': ' '{print "link", $2}' | grep -v ' ty-[^.]*$' || true
  ip -o link | awk -F': ' '{print "link", $2}' | grep " ty-$1" || true
  ip netns | sed 's/^/netns /'
  sed 's/^/mount /' /proc/self/mounts
  getent passwd | cut -d: -f1,5 | grep -v '^trainyard:' | sed 's/^/user /'
  getent group | cut -d: -f1 | grep -v '^trainyard$' | sed 's/^/group /'
  cksum /etc/hosts
  ls -d "/var/lib/trainyard-$1" 2>/dev/null || true
  grep -lsF "trainyard-$1" /proc/[0-9]*/cmdline || true
  grep -lszxF "TRAINYARD_CLUSTER_STATE=/var/lib/trainyard-$1" /proc/[0-9]*/environ || true
}

record_is_complete() {
  as "$tytest_user" sacct --noheader --parsable2 --allocations --duplicates --jobs "$1" \
    --format=State | grep -q COMPLETED
}

@test "a second up finds everything standing" {
  run cluster up

  [ "$status" -eq 0 ]
  [ "$(grep -c 'stood already' <<<"$output")" -ge 8 ]
  cluster status
}

@test "what cannot be done is said at once" {
  run timeout 10 "$repository/scripts/cluster" up --hosts many
  [ "$status" -eq 2 ]
  [[ $output == *"--hosts many: a number"* ]]

  run timeout 10 "$repository/scripts/cluster" up --name tynever --state /tmp/tynever
  [ "$status" -eq 2 ]
  [[ $output == *"each host has a /tmp of its own"* ]]

  run timeout 10 "$repository/scripts/cluster" status --name tynever
  [ "$status" -eq 3 ]
  [[ $output == *"There is no cluster \"tynever\""* ]]
}

@test "other numbers of hosts or GPUs are refused while it stands" {
  run cluster up --hosts 3
  [ "$status" -eq 1 ]
  [[ $output == *"tytest has 2 hosts, not 3"* ]]

  run cluster up --gpus 4
  [ "$status" -eq 1 ]
  [[ $output == *"tytest has 2 GPUs a host, not 4"* ]]
}

@test "four MPI ranks on two hosts, as an ordinary user" {
  cat >"$(home_of "$tytest_user")/hello.c" <<'C'
#include <mpi.h>
#include <stdio.h>
#include <unistd.h>

int main(int argc, char** argv) {
  char host[64];
  int rank, sum;
  MPI_Init(&argc, &argv);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Allreduce(&rank, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
  gethostname(host, sizeof host);
  printf("rank %d on %s, uid %d, sum %d\n", rank, host, (int)getuid(), sum);
  return MPI_Finalize();
}
C
  as "$tytest_user" mpicc -o hello hello.c

  run as "$tytest_user" srun --nodes=2 --ntasks-per-node=2 --gpus-per-node=h100:2 ./hello

  echo "status $status: $output"
  [ "$status" -eq 0 ]
  local uid expected
  uid=$(id -u "$tytest_user")
  expected=$(printf "rank %d on tytest-n%d, uid $uid, sum 6\\n" 0 1 1 1 2 2 3 2)
  [ "$(sort <<<"$output")" = "$expected" ]
}

@test "accounting records the GPUs of a job, its user and its comment" {
  local job record
  job=$(as "$tytest_user" sbatch --parsable --wait --nodes=2 --gpus-per-node=h100:1 \
    --comment=run-7 --output=/dev/null --wrap=true)

  eventually 20 record_is_complete "$job"
  record=$(as "$tytest_user" sacct --noheader --parsable2 --allocations --jobs "$job" \
    --format=User,Account,Comment,AllocTRES)

  [[ $record == "$tytest_user|trainyard|run-7|"*"gres/gpu=2"* ]]
}

@test "a job gets its own GPUs, and starts within three seconds" {
  SECONDS=0
  run as "$tytest_user" srun --nodes=1 --gpus=h100:1 printenv CUDA_VISIBLE_DEVICES

  [ "$status" -eq 0 ]
  [[ $output =~ ^[01]$ ]]
  [ "$SECONDS" -le 3 ]
}

@test "hosts share home, but not /tmp" {
  as "$tytest_user" srun --nodes=2 --ntasks-per-node=1 --mpi=none --output=seen \
    sh -c 'hostname >/tmp/where; cat /tmp/where; touch "seen-on-$(cat /tmp/where)"'

  [ "$(sort "$(home_of "$tytest_user")/seen" | paste -sd' ')" = "tytest-n1 tytest-n2" ]
  [ -e "$(home_of "$tytest_user")/seen-on-tytest-n1" ]
  [ -e "$(home_of "$tytest_user")/seen-on-tytest-n2" ]
  [ ! -e /tmp/where ]
}

@test "a user without an association is refused, the service user is an operator" {
  run as nobody srun --mpi=none true
  [ "$status" -ne 0 ]
  [[ $output == *"Invalid account"* ]]

  run as trainyard sacctmgr --noheader --parsable2 show user trainyard format=AdminLevel
  [ "$output" = Operator ]
}

@test "slurmd comes back from a restart under a running job" {
  local job
  job=$(as "$tytest_user" sbatch --parsable --gpus=1 --output=/dev/null --wrap='sleep 600')
  eventually 20 job_is "$job" RUNNING

  cluster restart slurmd

  job_is "$job" RUNNING
  as "$tytest_user" scancel "$job"
  eventually 20 job_is "$job" CANCELLED
}

job_is() {
  [[ $(as "$tytest_user" squeue --noheader --states=all --jobs "$1" --format=%T) == "$2" ]]
}

@test "a second cluster stands beside the first, survives a crash, and leaves nothing behind" {
  traces tyother >"$BATS_TEST_TMPDIR/before"

  other up --hosts 1 --gpus 2 --fake-gpus
  other user add tybob
  [ "$(other run --as tybob -- timeout 60 srun --gpus=1 --mpi=none hostname)" = tyother-n1 ]
  [ "$(as "$tytest_user" srun --mpi=none --nodelist=tytest-n2 hostname)" = tytest-n2 ]

  # As after a reboot: no process, no bridge, and process ids that mean nothing.
  cut -d' ' -f1 /var/lib/trainyard-tyother/run/*.pid | xargs kill -KILL 2>/dev/null || true
  ip link del ty-tyother
  run other status
  [ "$status" -eq 3 ]
  other up
  [ "$(other run --as tybob -- timeout 60 srun --gpus=1 --mpi=none hostname)" = tyother-n1 ]

  # Half-dead and without its notes, it still goes away.
  rm /var/lib/trainyard-tyother/run/*.pid
  other down
  traces tyother >"$BATS_TEST_TMPDIR/after"
  diff "$BATS_TEST_TMPDIR/before" "$BATS_TEST_TMPDIR/after"
  cluster status
}

@test "without network namespaces there is one host, and a stubborn job ends with it" {
  traces tylone >"$BATS_TEST_TMPDIR/before"

  lone up --no-netns --gpus 3 --fake-gpus
  lone user add tycarol
  [ "$(lone run --as tycarol -- timeout 60 srun --gpus=3 --mpi=none printenv CUDA_VISIBLE_DEVICES)" = 0,1,2 ]
  lone run --as tycarol -- sbatch --output=/dev/null \
    --wrap='trap "" TERM; sleep 3471 & sleep 3471'
  eventually 20 pgrep --full --exact 'sleep 3471'
  kill -KILL "$(cut -d' ' -f1 /var/lib/trainyard-tylone/run/slurmctld.pid)"

  lone down
  traces tylone >"$BATS_TEST_TMPDIR/after"
  diff "$BATS_TEST_TMPDIR/before" "$BATS_TEST_TMPDIR/after"
  ! pgrep --full --exact 'sleep 3471'
}
