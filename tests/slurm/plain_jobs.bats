#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Jobs that never heard of Trainyard, on the managed partition "metered": nothing unfunded starts,
# nobody edits his way past the hold, and the charge is what Slurm recorded.

load cluster
load plain

plain_user=tyclara

setup_file() {
  cluster_once
  cluster user add "$plain_user"
  as trainyard trainyard admin grant "user:$plain_user" 2h --id plain-grant-0001
  remember_explained
}
teardown_file() {
  [[ $EUID == 0 ]] || return 0
  count_gpus_again
}
# A test that failed amid this leaves nothing to its second try, or to the next.
teardown() {
  [[ $EUID == 0 ]] && is_prolog_broken || return 0
  clara scancel --me
  mend_prolog
}
is_prolog_broken() { grep --quiet '^Prolog=' "$tytest_state/etc/extra.conf"; }
mend_prolog() {
  sed -i '/^Prolog=/d' "$tytest_state/etc/extra.conf"
  as root scontrol reconfigure
  resume_nodes
}
resume_nodes() {
  local node
  for node in $(cluster run -- sinfo --noheader --Node --states=drain --format=%N | sort --unique); do
    as root scontrol update "NodeName=$node" State=RESUME
  done
}
count_gpus_again() { # Where a test took it away.
  grep --quiet '^#AccountingStorageTRES=' "$tytest_state/etc/slurm.conf" || return 0
  sed -i 's/^#AccountingStorageTRES=/AccountingStorageTRES=/' "$tytest_state/etc/slurm.conf"
  cluster restart slurmctld
}

@test "a plain GPU job is funded, released, and charged what Slurm recorded" {
  plain --gpus=2 -- 3
  eventually 30 state_is "$job_id" COMPLETED
  expect_exact_books
  [[ $(charged) -ge 6000 ]]
}

@test "scenario 17: a job without hours waits with the numbers, and its owner cannot release it" {
  # Half an hour of four GPUs more than there is.
  local available
  available=$(as "$plain_user" trainyard funds --json | jq '.funds[0].available')
  plain --gpus-per-node=2 --nodes=2 --time=$((available / 60000 / 4 + 30)) -- 1
  eventually 20 waits_for "$job_id" "(4 GPU x ("
  waits_for "$job_id" "fund user:$plain_user has "
  state_is "$job_id" PENDING
  run clara scontrol release "$job_id"
  [[ $status -ne 0 && $output == *"denied"* ]]
  run clara scontrol update "JobId=$job_id" Priority=1000
  [[ $status -ne 0 ]]
  sleep 4
  state_is "$job_id" PENDING
  # Hours came, and it runs.
  as trainyard trainyard admin grant "user:$plain_user" 3h
  eventually 30 state_is "$job_id" COMPLETED
  [[ -z $(comment_of "$job_id") ]]
  expect_exact_books
}

@test "scenario 16: what was quoted cannot be edited by its owner, before or after the release" {
  local edit job edits=(TimeLimit=2000 Gres=gpu:2 NumNodes=2 Partition=gpu Account=other Comment=fund=user:root
    NumCPUs=8 NumTasks=2 CPUsPerTask=2)
  # One that its fund cannot pay, and one that is paid for and waits for its time.
  plain --gpus=1 --time=1440 --nodes=1 --begin=now+3600 -- 1
  eventually 20 waits_for "$job_id" "fund user:$plain_user has "
  local unpaid=$job_id
  plain --gpus=1 --begin=now+3600 -- 1
  is_released() { [[ $(field "$job_id" Priority) -gt 0 && $(held) -gt 0 ]]; }
  eventually 20 is_released
  for job in "$unpaid" "$job_id"; do
    for edit in "${edits[@]}"; do
      run clara scontrol update "JobId=$job" "$edit"
      echo "$job $edit: $output"
      [[ $status -ne 0 ]]
    done
  done
  clara scancel "$unpaid"
  clara scontrol update "JobId=$job_id" TimeLimit=2
  clara scancel "$job_id"
  # Nor does a job of another partition slip in.
  local other
  other=$(clara sbatch --parsable --hold --partition=gpu --gpus=1 --output=/dev/null --wrap true)
  run clara scontrol update "JobId=$other" Partition=metered
  [[ $status -ne 0 ]]
  clara scancel "$other"
  expect_exact_books
}

@test "scenario 28: every way to ask for GPUs is quoted with the GPUs that Slurm counts" {
  local line jobs=() wanted=()
  while read -r line; do
    plain --time=1440 ${line#* } -- 1
    jobs+=("$job_id") wanted+=("${line%% *}")
  done <<'FORMS'
2 --gpus=2
3 --gpus=h100:3 --nodes=2
2 --gpus-per-node=1 --nodes=2
2 --gres=gpu:h100:1 --nodes=2
3 --gpus-per-task=1 --ntasks=3
2 --gpus-per-socket=1 --sockets-per-node=1 --nodes=1
4 --gpus-per-socket=1 --sockets-per-node=1 --nodes=1-2
2 --exclusive --nodes=1 --gpus=1
4 --exclusive --nodes=2
2 --gpus-per-node=1 --ntasks=2
2 --gres=gpu:1 --ntasks=2 --ntasks-per-node=1
1 --gpus-per-node=1 --ntasks=2 --nodes=1
2 --ntasks=4 --ntasks-per-gpu=2
2 --gpus-per-task=1 --ntasks=2 --nodes=1-2
FORMS
  local i
  for i in "${!jobs[@]}"; do
    eventually 20 waits_for "${jobs[i]}" "(${wanted[i]} GPU x (1440 min" ||
      { echo "${jobs[i]}: $(comment_of "${jobs[i]}"), wanted ${wanted[i]}"; return 1; }
  done
  clara scancel "${jobs[@]}"
}

@test "scenario 28: a job that Slurm spreads over more nodes than it needs had all of them held" {
  # Without --nodes its two tasks go where there is a CPU for each; each node gives a GPU.
  plain --gpus-per-node=1 --ntasks=2 --ntasks-per-node=1 -- 2
  eventually 30 state_is "$job_id" COMPLETED
  [[ $(clara sacct --noheader --allocations --jobs "$job_id" --format=AllocTRES%80) == *gres/gpu=2* ]]
  [[ $(field "$job_id" TimeLimit) == 00:03:00 ]] # Nothing had to be cut.
  expect_exact_books
}

service_says() { [[ $(as trainyard trainyard admin runs --json | jq -r .trouble) == *"$1"* ]]; }

@test "scenario 28: where Slurm does not count GPUs nothing is released, and the service says so" {
  sed -i 's/^AccountingStorageTRES=/#&/' "$tytest_state/etc/slurm.conf"
  cluster restart slurmctld
  plain --gpus=1 -- 1
  eventually 30 service_says "set AccountingStorageTRES=gres/gpu in slurm.conf"
  [[ $(field "$job_id" TRES) == *cpu=* && $(field "$job_id" TRES) != *gres/gpu* ]] # As if it asked for none.
  state_is "$job_id" PENDING
  [[ $(field "$job_id" Priority) -eq 0 ]]
  count_gpus_again
  eventually 60 state_is "$job_id" COMPLETED
  [[ $(as trainyard trainyard admin runs --json | jq -r .trouble) == "" ]]
  expect_exact_books
}

@test "scenario 34: an array is held for task by task, and each task is charged" {
  plain --array=0-3 --gpus=1 -- 2
  eventually 20 bash -c "[[ \$($repository/scripts/cluster --name $tytest run --as $plain_user -- trainyard funds --json | jq '[.funds[].held] | add') -gt 700000 ]]"
  eventually 60 no_jobs
  expect_exact_books
  [[ $(as trainyard trainyard admin runs --json | jq "[.runs[] | select(.run | test(\"^$(run_of "$job_id")t\"))] | length") -eq 4 ]]
}

@test "scenario 10: an owner who requeues his running job pays for every attempt, each funded" {
  plain --gpus=1 -- 6
  eventually 20 state_is "$job_id" RUNNING
  clara scontrol requeue "$job_id"
  eventually 60 state_is "$job_id" COMPLETED
  [[ $(clara sacct -D -X -n -j "$job_id" -o State | wc -l) -ge 2 ]]
  expect_exact_books
}

@test "a finished job that its owner requeues gets a hold of its own" {
  plain --gpus=1 -- 1
  eventually 30 state_is "$job_id" COMPLETED
  eventually 20 run_state_is "$(run_of "$job_id")" finished
  clara scontrol requeue "$job_id"
  eventually 60 bash -c "[[ \$($repository/scripts/cluster --name $tytest run --as trainyard -- trainyard show $(run_of "$job_id") --json | jq '.segments | length') -ge 2 ]]"
  eventually 60 state_is "$job_id" COMPLETED
  expect_exact_books
}

@test "with the service dead nothing starts, nothing is lost, and a requeued job stays out" {
  plain --gpus=1 -- 61
  local running=$job_id
  eventually 20 state_is "$running" RUNNING
  kill_service
  plain --gpus=1 -- 1
  local waiting=$job_id
  run clara scontrol release "$waiting"
  [[ $status -ne 0 ]]
  clara scontrol requeue "$running"
  local i
  for i in {1..12}; do
    sleep 1
    state_is "$waiting" PENDING
    # The start gate keeps it out: it may be configured, its script must not run.
    [[ -z $(pgrep --uid "$plain_user" --exact --full 'sleep 61') ]] || ((i < 3))
  done
  start_service
  eventually 40 state_is "$waiting" COMPLETED
  clara scancel "$running"
  eventually 20 no_jobs
  expect_exact_books
}

@test "scenario 18: a limit that an operator raised beyond the hold is put back" {
  plain --gpus=1 -- 20
  eventually 20 state_is "$job_id" RUNNING
  as root scontrol update "JobId=$job_id" TimeLimit=600
  eventually 20 bash -c "[[ \$($repository/scripts/cluster --name $tytest run -- squeue -h -j $job_id -o %l) == 3:00 ]]"
  clara scancel "$job_id"
  expect_exact_books
}

@test "srun waits for its hours, runs, and is charged" {
  run clara srun --partition=metered --time=2 --gpus=1 --mpi=none printenv CUDA_VISIBLE_DEVICES
  [[ $status -eq 0 && $output =~ [01] ]]
  expect_exact_books
}

# The sums of what job_id was charged and given back for its Prolog, in milli-GPU-seconds.
charged_and_given_back() {
  clara trainyard statement --json | jq --raw-output --arg job "job $job_id " '
    [.[] | select(.kind == "charge" and (.note | startswith($job)))] as $charges |
    [$charges[].id + "/refund/LAUNCH_FAILED"] as $ids |
    [.[] | select(.kind == "refund" and (.id | IN($ids[])))] as $refunds |
    "\([$charges[].amount_mgpus] | add // 0) \([$refunds[].amount_mgpus] | add // 0)"'
}
is_given_back() {
  local charged given
  read -r charged given <<<"$(charged_and_given_back)"
  [[ $charged -gt 0 && $given == "$charged" ]]
}

@test "a job whose Prolog failed is charged and gets that back, waits with its hours set aside, and goes on" {
  printf '#!/bin/sh\nsleep 3\nexit 1\n' >"$tytest_state/etc/prolog"
  chmod 755 "$tytest_state/etc/prolog"
  echo "Prolog=$tytest_state/etc/prolog" >>"$tytest_state/etc/extra.conf"
  as root scontrol reconfigure
  # Slurm may not put it back: it cancels it.
  plain --gpus=1 --no-requeue -- 2
  eventually 30 state_is "$job_id" CANCELLED
  eventually 60 is_given_back
  # So it does with srun's and salloc's.
  local command wanted='--partition=metered --time=2 --gpus=1'
  for command in "srun $wanted --mpi=none hostname" "salloc $wanted srun --mpi=none hostname"; do
    run clara sh -c "$command 2>&1"
    echo "$command: $output"
    [[ $status -ne 0 && $output == *"rolog fail"* ]]
    job_id=$(clara sacct --noheader --allocations --format=JobIDRaw | sort --numeric-sort | tail -n 1 | tr -d ' ')
    eventually 60 is_given_back || {
      echo "charged and given back: $(charged_and_given_back)"
      clara sacct --allocations "--jobs=$job_id" --format=JobIDRaw,Start,End,State,ExitCode,NodeList
      cluster run -- sinfo --list-reasons
      return 1
    }
    resume_nodes
  done
  plain --gpus=1 -- 2
  is_put_back() { [[ $(clara trainyard ls) == *"launch failed requeued held"* ]]; }
  eventually 30 is_put_back
  [[ $(held) -gt 0 ]]
  eventually 60 is_given_back
  run clara scontrol release "$job_id"
  [[ $status -ne 0 ]]
  mend_prolog
  as root scontrol release "$job_id"
  eventually 60 state_is "$job_id" COMPLETED
  expect_exact_books
}

@test "a job whose owner makes Slurm say that its launch failed stays charged" {
  cat >"$BATS_TEST_TMPDIR/say.c" <<'C'
#include <slurm/slurm.h>
#include <stdlib.h>

int main(int argc, char** argv) {
  slurm_init(NULL);
  return argc != 2 || slurm_requeue(atoi(argv[1]), JOB_LAUNCH_FAILED | JOB_REQUEUE_HOLD) != 0;
}
C
  cc -o "$(home_of "$plain_user")/say" "$BATS_TEST_TMPDIR/say.c" -lslurm
  plain --gpus=1 -- 60
  eventually 20 state_is "$job_id" RUNNING
  sleep 2
  clara ./say "$job_id"
  is_put_back() { [[ $(clara trainyard ls) == *"launch failed requeued held"* ]]; }
  eventually 30 is_put_back
  clara scancel "$job_id"
  expect_exact_books
  local charged given
  read -r charged given <<<"$(charged_and_given_back)"
  [[ $charged -ge 1000 && $given -eq 0 ]]
}

@test "nobody spends a fund that is not his" {
  plain --gpus=1 --comment=fund=user:trainyard -- 1
  eventually 20 waits_for "$job_id" "fund user:trainyard is not $plain_user's to spend"
  state_is "$job_id" PENDING
  clara scancel "$job_id"
  plain --gpus=1 --comment=fund=group:root -- 1
  eventually 20 waits_for "$job_id" "fund group:root is not $plain_user's to spend"
  clara scancel "$job_id"
}
