#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-3.0-or-later
#
# The service is dead for more than two limits of the jobs that run: they end at their limits, nothing
# starts that is not paid for, and afterwards the books are exact. requeue.bats has a site without gate.

load cluster
load plain

setup_file() {
  export plain_user=tyout$((RANDOM % 10000)) raised_user=tyras$((RANDOM % 10000))
  cluster_once
  local user
  for user in "$plain_user" "$raised_user"; do
    cluster user add "$user"
    as trainyard trainyard admin grant "user:$user" 3h
  done
  remember_explained
}

# Whatever happens: the service is back.
teardown() {
  [[ $EUID == 0 ]] || return 0
  service_runs || start_service
}
service_runs() { kill -0 "$(service_pid)" 2>/dev/null; }
# "SUM LONGEST" of the GPU-seconds of allocations that began after an instant.
began_after() { # UNIX TIME
  clara env SLURM_TIME_FORMAT=%s sacct --duplicates --allocations --noheader --parsable2 \
    --partition=metered --starttime=2020-01-01 --format=Start,ElapsedRaw,AllocTRES |
    awk -F'|' -v since="$1" '$1 ~ /^[0-9]+$/ && $1 > since && match($3, /gres\/gpu=[0-9]+/) {
      sum += $2 * substr($3, RSTART + 9, RLENGTH - 9); if ($2 > longest) longest = $2}
      END {print sum + 0, longest + 0}'
}
is_gone() { ! state_is "$1" RUNNING && ! state_is "$1" COMPLETING; }
seconds_of() { clara sacct --noheader --allocations --parsable2 --jobs "$1" --format=ElapsedRaw; }

# Three jobs run with a limit of a minute, three wait, and the service is killed.
begin_outage() {
  plain --gpus=1 --time=1 -- 400 && ends=$job_id
  plain_user=$raised_user plain --gpus=1 --time=1 -- 400
  raised=$job_id raised_run=$(run_of "$job_id")
  # Its script says when it begins.
  plain --gpus=1 --time=1 -- '0; date +%s >>began; sleep 401' && requeued=$job_id
  eventually 60 state_is "$ends" RUNNING
  eventually 60 state_is "$requeued" RUNNING
  eventually 60 state_is "$raised" RUNNING
  has_begun() { [[ -s $(home_of "$plain_user")/began ]]; }
  eventually 60 has_begun
  kill_service
  dead=$(date +%s)
  # Nobody is there who would put it back.
  as root scontrol update "JobId=$raised" TimeLimit=30
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

# By Slurm's record it had more than was set aside for it, a minute and the margin: that is charged, and
# the rest has a name.
expect_no_more_than_held() {
  local hold=125 seconds
  eventually 120 is_gone "$raised"
  seconds=$(plain_user=$raised_user seconds_of "$raised")
  is_settled() { [[ $(as trainyard trainyard show "$raised_run" --json | jq .held) -eq 0 ]]; }
  eventually 60 is_settled
  echo "# its limit raised while nobody looked: $seconds s, charged $(plain_user=$raised_user charged) milli-GPU-s" >&3
  [[ $seconds -gt $hold && $(plain_user=$raised_user charged) -eq $((hold * 1000)) ]]
  [[ $(as trainyard trainyard admin audit) == *"$raised_run"*"the site bears $(((seconds - hold) * 1000)) mGPUs"* ]]
}

@test "outage, scenario 20: with the start gate nothing starts, who runs ends at his limit, and who is let run on pays no more than was held" {
  begin_outage
  eventually 200 is_gone "$ends"
  # Two limits and more after its death, and longer than what was set aside for any of them lasts.
  while (($(date +%s) - dead < 130)); do sleep 1; done
  local scripts sum longest
  scripts=$(awk -v since="$dead" '$1 > since' "$(home_of "$plain_user")/began" | wc -l)
  # Slurm has the GPU allocated while the gate asks: less than a second each time, twenty at most.
  read -r sum longest < <(began_after "$dead")
  echo "# $(($(date +%s) - dead)) s without the service: $scripts scripts began; allocated while the gate asked: $sum GPU-s, $longest s at most" >&3
  [[ $scripts -eq 0 && $longest -le 20 ]]
  end_outage
  # A minute and the margin.
  [[ $(seconds_of "$ends") -gt 60 && $(seconds_of "$ends") -le 125 ]]
  expect_no_more_than_held
  expect_exact_books
}
