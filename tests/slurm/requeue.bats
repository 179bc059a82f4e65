#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-3.0-or-later
#
# A site without the start gate: no job of the managed partition is ever requeued, so none starts
# unpaid while trainyardd is away.

load cluster

gateless_user=tyerik

setup_file() {
  cluster_once
  cluster user add "$gateless_user"
  as trainyard trainyard admin grant "user:$gateless_user" 1h --id gateless-grant-0001
  sed -i 's/start_gate = true/start_gate = false/' "$tytest_state/etc/job_submit.lua"
  sed -i 's/^PrologSlurmctld=/#&/' "$tytest_state/etc/slurm.conf"
  cluster restart slurmctld
}
teardown_file() {
  [[ $EUID == 0 ]] || return 0
  sed -i 's/start_gate = false/start_gate = true/' "$tytest_state/etc/job_submit.lua"
  sed -i 's/^#PrologSlurmctld=/PrologSlurmctld=/' "$tytest_state/etc/slurm.conf"
  cluster up >/dev/null
  cluster restart slurmctld
}

erik() { as "$gateless_user" "$@"; }
state_is() { [[ $(cluster run -- squeue --noheader --states=all --jobs "$1" --format=%T) == "$2" ]]; }
nothing_is_held() { [[ $(erik trainyard funds --json | jq '[.funds[].held] | add') -eq 0 ]]; }

@test "a job that its owner would requeue while the service is dead goes on or ends, and never starts again" {
  job_id=$(erik sbatch --parsable --partition=metered --time=5 --gpus=1 --requeue --output=/dev/null \
    --wrap 'sleep 240')
  eventually 60 state_is "$job_id" RUNNING
  kill_service
  run erik scontrol update "JobId=$job_id" Requeue=1
  [[ $status -ne 0 ]]
  run erik scontrol requeue "$job_id"
  [[ $status -ne 0 ]]
  run erik scontrol requeuehold "$job_id"
  [[ $status -ne 0 ]]
  state_is "$job_id" RUNNING
  start_service
  erik scancel "$job_id"
  eventually 60 nothing_is_held
  [[ $(erik sacct -D -X -n -j "$job_id" -o State | wc -l) -eq 1 ]]
  as trainyard trainyard admin audit
}
