#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Heterogeneous jobs on the managed partition: the hours of all components or of none.

load cluster

het_user=tyfaye

setup_file() {
  cluster_once
  cluster user add "$het_user"
  as trainyard trainyard admin grant "user:$het_user" 1h --id het-grant-0001
}

faye() { as "$het_user" "$@"; }
# het SECONDS MINUTES: submits one GPU here and two there; the first component's job in $job_id.
het() {
  local script
  script=$(home_of "$het_user")/het.sh
  printf '#!/bin/sh\nsleep %s\n' "$1" >"$script"
  job_id=$(faye sbatch --parsable --partition=metered --time="$2" --gpus=1 --output=/dev/null : \
    --partition=metered --time="$2" --gpus=2 "$script")
}
states_are() {
  [[ $(cluster run -- squeue --noheader --states=all --jobs "$job_id" --format=%T | sort -u) == "$1" ]]
}
comments() { cluster run -- squeue --noheader --jobs "$job_id" --format=%k; }
wait_with() { [[ $(comments | grep -c "$1") -eq 2 ]]; }
charged() { faye trainyard funds --json | jq '[.funds[].charged] | add'; }
held() { faye trainyard funds --json | jq '[.funds[].held] | add'; }
nothing_is_held() { [[ $(held) -eq 0 ]]; }
slurm_milli_gpu_s() {
  faye sacct --duplicates --allocations --noheader --parsable2 --partition=metered \
    --starttime=2020-01-01 --format=ElapsedRaw,AllocTRES |
    sed -nE 's/^([0-9]+)\|.*gres\/gpu=([0-9]+).*/\1 \2/p' | awk '{sum += $1 * $2} END {print sum * 1000}'
}
books_are_exact() { [[ $(charged) == "$(slurm_milli_gpu_s)" ]]; }

@test "a heterogeneous job starts when all of its components are funded, and each is charged" {
  het 3 3
  eventually 90 states_are COMPLETED
  eventually 60 nothing_is_held
  eventually 60 books_are_exact
  [[ $(charged) -ge 9000 ]]
  as trainyard trainyard admin audit
}

@test "components beyond the fund keep all of it waiting with the numbers, and its owner cancels it" {
  het 3 60
  eventually 60 wait_with 'needs 3\.[0-9]* GPU-h (.* + .*), fund'
  states_are PENDING
  [[ $(held) -eq 0 ]]
  faye scancel "$job_id"
  eventually 60 states_are CANCELLED
  as trainyard trainyard admin audit
}
