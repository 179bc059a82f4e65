#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-3.0-or-later
#
# The service is dead for more than two limits of the jobs that run: they end at their limits, nothing
# starts that is not paid for, and afterwards the books are exact. requeue.bats has a site without gate.

load cluster
load plain

setup_file() {
  export plain_user=tyout$((RANDOM % 10000))
  cluster_once
  cluster user add "$plain_user"
  as trainyard trainyard admin grant "user:$plain_user" 3h
}

# Whatever happens: the service is back.
teardown() {
  [[ $EUID == 0 ]] || return 0
  service_runs || start_service
}
service_runs() { kill -0 "$(service_pid)" 2>/dev/null; }
# GPU-seconds of allocations that began after an instant.
began_after() { # UNIX TIME
  clara env SLURM_TIME_FORMAT=%s sacct --duplicates --allocations --noheader --parsable2 \
    --partition=metered --starttime=2020-01-01 --format=Start,ElapsedRaw,AllocTRES |
    awk -F'|' -v since="$1" '$1 ~ /^[0-9]+$/ && $1 > since && match($3, /gres\/gpu=[0-9]+/) {
      sum += $2 * substr($3, RSTART + 9, RLENGTH - 9)} END {print sum + 0}'
}
is_gone() { ! state_is "$1" RUNNING && ! state_is "$1" COMPLETING; }
seconds_of() { clara sacct --noheader --allocations --parsable2 --jobs "$1" --format=ElapsedRaw; }

# Two jobs run with a limit of a minute, three wait, and the service is killed.
begin_outage() {
  plain --gpus=1 --time=1 -- 400 && ends=$job_id
  plain --gpus=1 --time=1 -- 401 && requeued=$job_id
  eventually 60 state_is "$ends" RUNNING
  eventually 60 state_is "$requeued" RUNNING
  kill_service
  dead=$(date +%s)
  plain --gpus=1 --time=1 -- 1 && waiting=$job_id
  plain --gpus=1 --array=0-1 --time=1 -- 1 && waiting_array=$job_id
  clara scontrol requeue "$requeued"
  run clara scontrol release "$waiting" "$waiting_array"
}
end_outage() {
  state_is "$waiting" PENDING
  state_is "$waiting_array" PENDING
  start_service
  eventually 120 state_is "$waiting" COMPLETED
  clara scancel "$requeued"
  eventually 120 no_jobs
}

@test "outage: with the start gate nothing starts, and who runs ends at his limit" {
  begin_outage
  eventually 200 is_gone "$ends"
  # Two limits and more after its death.
  while (($(date +%s) - dead < 125)); do sleep 1; done
  local unfunded_s
  unfunded_s=$(began_after "$dead")
  echo "# $(($(date +%s) - dead)) s without the service: $unfunded_s GPU-s unfunded" >&3
  end_outage
  [[ $unfunded_s -eq 0 ]]
  # A minute and the margin.
  [[ $(clara sacct --noheader --allocations --parsable2 --jobs "$ends" --format=ElapsedRaw) -le 125 ]]
  expect_exact_books
}
