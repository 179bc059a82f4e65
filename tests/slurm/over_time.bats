#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-3.0-or-later
#
# A partition with an OverTimeLimit of its own: Slurm ends its jobs so much later than their limit, and what
# is held for them covers that.

load cluster
load plain

plain_user=tyhugo

setup_file() {
  cluster_once
  [[ $EUID == 0 ]] || return 0
  cluster user add "$plain_user"
  as trainyard trainyard admin grant "user:$plain_user" 1h --id over-time-grant-0001
  sed -i 's/^PartitionName=metered .*/& OverTimeLimit=4/' "$tytest_state/etc/slurm.conf"
  cluster restart slurmctld
  cluster restart trainyardd
  remember_explained
}
teardown_file() {
  [[ $EUID == 0 ]] || return 0
  sed -i '/^PartitionName=metered /s/ OverTimeLimit=4//' "$tytest_state/etc/slurm.conf"
  cluster restart slurmctld >/dev/null
  cluster restart trainyardd >/dev/null
}

holds() { [[ $(held) -eq $1 ]]; }

@test "over time: what is held covers the OverTimeLimit of the job's own partition" {
  clara scancel --me # What a try before this one left.
  eventually 30 nothing_is_held
  plain --gpus=1 --time=1 -- 900
  eventually 30 state_is "$job_id" RUNNING
  # The limit, OverTimeLimit, KillWait and two sweeps of the controller.
  eventually 10 holds $(((60 + 240 + 5 + 60) * 1000)) || { echo "held $(held)"; return 1; }
  clara scancel "$job_id"
  expect_exact_books
}

@test "over time: nothing is let into a partition where no limit ends a job" {
  as root scontrol update PartitionName=metered OverTimeLimit=UNLIMITED
  cluster restart trainyardd
  plain --gpus=1 --time=1 -- 1
  eventually 30 waits_for "$job_id" "OverTimeLimit is UNLIMITED" || { comment_of "$job_id"; return 1; }
  nothing_is_held
  clara scancel "$job_id"
  as root scontrol update PartitionName=metered OverTimeLimit=4
  cluster restart trainyardd
  plain --gpus=1 --time=1 -- 1
  eventually 30 state_is "$job_id" COMPLETED
  expect_exact_books
}
