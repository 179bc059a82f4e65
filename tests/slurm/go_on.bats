#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Runs that go on by themselves, with the real trainer and Slurm's own requeue and hold: one that is
# paused for want of hours until somebody grants them, one that its user pauses.

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
