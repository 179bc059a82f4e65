#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Runs that go on by themselves, with the real trainer and Slurm's own requeue and hold: one that is
# paused for want of hours until somebody grants them, one that its user pauses, and a timed one that
# one job cannot hold.

load cluster
load training

setup_file() {
  # A new one each time: his fund has to the second what the test gives it.
  export poor_user=typaul$((RANDOM % 10000))
  cluster_once
  cluster user add "$poor_user"
  scenes_for "$tytest_user" "$poor_user"
  as trainyard trainyard admin grant "user:$tytest_user" 20h --id tytest-grant-0001
}

teardown_file() {
  [[ $EUID == 0 ]] || return 0
  max_time 24:00:00
}

# max_time TIME: the longest job of the partition "gpu", for Slurm and for the service.
max_time() {
  cluster run -- scontrol update PartitionName=gpu "MaxTime=$1"
  cluster restart trainyardd
  eventually 60 as "$tytest_user" trainyard funds
}

field() { cluster run -- scontrol show job "$1" | sed -nE "s/.*[[:space:]]$2=([^ ]*).*/\1/p" | head -n1; }
paused_at() { [[ $(show "$1" | jq -r .state) == paused ]]; }
has_trained() { [[ $(epochs_of "$1" "$2") -ge 1 ]]; }

@test "go on: what a pause for want of hours, a grant, a user's pause and resume leave is one training" {
  local whole broken
  as trainyard trainyard admin grant "user:$poor_user" 125s
  whole=$(train_as "$tytest_user" epochs=400 --auto-resume)
  broken=$(train_as "$poor_user" epochs=400 --auto-resume)

  eventually 250 paused_at "$broken"
  show "$broken" | jq -r '.state + ": " + .reason'
  [[ $(show "$broken" | jq -r .reason) == *"user:$poor_user"*"GPU-h"* ]]
  local job
  job=$(show "$broken" | jq -r '.segments[-1].job')
  [[ $(field "$job" JobState) == PENDING ]]
  # His own, and waiting: Slurm allocates nothing meanwhile, and releasing it himself buys nothing.
  as trainyard trainyard admin grant "user:$poor_user" 1h
  eventually 250 has_trained "$tytest_user" "$whole"
  as "$tytest_user" trainyard pause "$whole"
  eventually 250 paused_at "$whole"
  as "$tytest_user" trainyard resume "$whole"

  eventually 600 is_over "$broken"
  state_is "$broken" finished
  eventually 600 is_over "$whole"
  state_is "$whole" finished
  [[ $(epochs_of "$poor_user" "$broken") -eq 400 ]]
  cmp "$(weights_of "$whole")" "$(weights_of "$broken")"
  as trainyard trainyard admin audit
}

# 450 s of hours, and jobs of 180 s. The first leaves 30 s before its limit, so that there is room for
# one more and not for two, on a slow machine as on a fast one: the service makes that one of 120 s.
@test "go on: a timed run that one job of its partition cannot hold ends inside its hours in two" {
  local request run_id job elapsed
  request=(data=tiny/data.yaml model=yolov8n imgsz=64 batch=8 workers=1 time=0.125 patience=0 --gpus 1
    --type h100 --json)
  max_time 3
  run as "$tytest_user" trainyard train "${request[@]}"
  [[ $status -eq 1 && $output == *"MaxTime"*"--auto-resume"* ]]

  run_id=$(as "$tytest_user" trainyard train "${request[@]}" --auto-resume | jq -r .run)
  eventually 400 is_over "$run_id"
  show "$run_id" | jq -r '.state + ": " + .reason'
  job=$(show "$run_id" | jq -r '.segments[-1].job')
  cluster run -- sacct --duplicates --allocations --noheader --parsable2 --jobs "$job" \
    --format=ElapsedRaw,TimelimitRaw,State | tee "$BATS_TEST_TMPDIR/jobs"
  state_is "$run_id" finished
  [[ $(wc -l <"$BATS_TEST_TMPDIR/jobs") -eq 2 ]]
  # The record of a job that was requeued may bear the limit of the next.
  [[ $(tail -n1 "$BATS_TEST_TMPDIR/jobs") == *"|2|COMPLETED" ]]
  elapsed=$(awk -F'|' '{ sum += $1 } END { print sum }' "$BATS_TEST_TMPDIR/jobs")
  [[ $elapsed -le 450 ]]
  [[ $(show "$run_id" | jq .charged) -eq $((elapsed * 1000)) ]]
  [[ -s $(show "$run_id" | jq -r .run_dir)/weights/best.safetensors ]]
  as trainyard trainyard admin audit
  max_time 24:00:00
}
