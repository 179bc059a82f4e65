#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-3.0-or-later
#
# The service is dead for more than two limits of the jobs that run: they end at their limits, nothing
# starts that is not paid for, and afterwards the books are exact. requeue.bats has a site without gate.
# OUTAGE_S: for how long it is dead, from 130 s on; an hour by hand (docs/scenarios.md).

load cluster
load plain

setup_file() {
  export plain_user=tyout$((RANDOM % 10000)) raised_user=tyras$((RANDOM % 10000))
  export outage_s=${OUTAGE_S:-130}
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
# "JOB START END GPUS" of every allocation of the partition, of all users; END is "now" while it lasts.
# Asked by number too: about a period sacct leaves out attempts that were never eligible.
allocations() { # JOB...
  local numbers
  numbers=$(IFS=, && echo "$*")
  local question=(env SLURM_TIME_FORMAT=%s sacct --duplicates --allocations --noheader --parsable2
    --format=JobIDRaw,Start,End,AllocTRES)
  {
    as root "${question[@]}" --allusers --partition=metered --starttime=2020-01-01
    as root "${question[@]}" --jobs "$numbers"
  } | sort -u | sed -nE 's/^([0-9]+)\|([0-9]+)\|([^|]*)\|.*gres\/gpu=([0-9]+).*/\1 \2 \3 \4/p' |
    sed -E 's/ Unknown / now /'
}
# "JOB RUN SECONDS": what the books had set aside for each job's run, in GPU-seconds, less what they have
# given back of it since. Of a copy: as it was when the service died.
keep_books() { cp "$tytest_state"/books/books.db* "$BATS_TEST_TMPDIR"; }
held_then() {
  sqlite3 -separator ' ' "$BATS_TEST_TMPDIR/books.db" "
    WITH job AS (SELECT DISTINCT run, json_extract(body, '\$.job') AS id FROM run_event
                  WHERE kind IN ('JobSubmitted', 'AttemptStarted')),
         aside AS (SELECT run, sum(CASE WHEN kind IN ('hold', 'extend') THEN amount
                                        WHEN kind IN ('reduce', 'release') THEN -amount ELSE 0 END) / 1000 AS s
                     FROM transfer GROUP BY run)
    SELECT job.id, job.run, aside.s FROM job JOIN aside USING (run);"
}
# "JOB SECONDS": what each job that had a GPU after an instant has been allocated, of all its attempts,
# beyond what was set aside for it; a job that the books do not know had nothing. Reads `held_then`, a
# line "--" and `allocations`.
beyond_held() { # UNIX TIME OF DEATH, UNIX TIME NOW
  awk -v dead="$1" -v now="$2" '
    $1 == "--" {is_use = 1; next}
    !is_use {run[$1] = $2; held[$2] = $3; next}
    {key = $1 in run ? run[$1] : "job " $1; job[key] = $1; end = $3 == "now" ? now : $3
     used[key] += (end - $2) * $4; if (end > dead) counts[key] = 1}
    END {for (key in counts) if (used[key] > held[key]) print job[key], used[key] - held[key]}'
}
# "COUNT SUM LONGEST": allocations that began after an instant, and their GPU-seconds.
began_after() { # UNIX TIME, UNIX TIME NOW; reads `allocations`
  awk -v since="$1" -v now="$2" '$2 > since {
      seconds = ($3 == "now" ? now : $3) - $2
      ++count; sum += seconds * $4; if (seconds > longest) longest = seconds}
    END {print count + 0, sum + 0, longest + 0}'
}
is_gone() { ! state_is "$1" RUNNING && ! state_is "$1" COMPLETING; }
seconds_of() { clara sacct --noheader --allocations --parsable2 --jobs "$1" --format=ElapsedRaw; }

# Three jobs run with a limit of a minute and one of more than the outage, the service is killed, and
# three more wait.
begin_outage() {
  plain --gpus=1 --time=1 -- 400 && ends=$job_id
  plain_user=$raised_user plain --gpus=1 --time=1 -- 400
  raised=$job_id raised_run=$(run_of "$job_id")
  # Its script says when it begins.
  plain --gpus=1 --time=1 -- '0; date +%s >>began; sleep 401' && requeued=$job_id
  plain --gpus=1 "--time=$((outage_s / 60 + 20))" -- 36000 && lasts=$job_id
  eventually 60 state_is "$ends" RUNNING
  eventually 60 state_is "$lasts" RUNNING
  eventually 60 state_is "$requeued" RUNNING
  eventually 60 state_is "$raised" RUNNING
  has_begun() { [[ -s $(home_of "$plain_user")/began ]]; }
  eventually 60 has_begun
  kill_service
  dead=$(date +%s)
  keep_books
  # Nobody is there who would put it back.
  as root scontrol update "JobId=$raised" TimeLimit=30
  plain --gpus=1 --time=1 -- '0; date +%s >>began' && waiting=$job_id
  plain --gpus=1 --array=0-1 --time=1 -- '0; date +%s >>began' && waiting_array=$job_id
  clara scontrol requeue "$requeued"
  run clara scontrol release "$waiting" "$waiting_array"
}
end_outage() {
  state_is "$waiting" PENDING
  state_is "$waiting_array" PENDING
  start_service
  eventually 120 state_is "$waiting" COMPLETED
  clara scancel "$requeued" "$lasts"
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

# By Slurm's record and the books as the service left them. What is beyond is of the one job whose limit
# somebody raised, to the second: were it not found, nothing would be.
expect_nothing_unfunded() {
  local now scripts count sum longest held records beyond unfunded of_raised
  now=$(date +%s)
  records=$(allocations "$ends" "$lasts" "$raised" "$requeued" "$waiting" "$waiting_array")
  held=$(held_then)
  beyond=$(printf '%s\n--\n%s\n' "$held" "$records" | beyond_held "$dead" "$now")
  unfunded=$(awk -v raised="$raised" '$1 != raised {sum += $2} END {print sum + 0}' <<<"$beyond")
  of_raised=$(awk -v raised="$raised" '$1 == raised {print $2}' <<<"$beyond")
  scripts=$(awk -v since="$dead" '$1 > since' "$(home_of "$plain_user")/began" | wc -l)
  read -r count sum longest < <(began_after "$dead" "$now" <<<"$records")
  echo "# $((now - dead)) s without the service: $scripts scripts began; allocated $count times while the gate asked: $sum GPU-s, $longest s at most" >&3
  echo "# allocated beyond what was held: $unfunded GPU-s; by the job whose limit was raised: $of_raised GPU-s" >&3
  echo "$beyond"
  [[ $scripts -eq 0 && $unfunded -eq 0 ]]
  # Slurm has the GPU allocated while the gate asks: less than a second each time, twenty at most.
  [[ $count -gt 0 && $longest -le 20 ]]
  [[ $of_raised -eq $(awk -v raised="$raised" -v now="$now" '
    $1 == raised {sum += ($3 == "now" ? now : $3) - $2} END {print sum - 125}' <<<"$records") ]]
  # And it has seen those that it is about.
  local job
  for job in "$ends" "$lasts" "$requeued" "$raised"; do
    [[ $held == *"$job "* && $records == *"$job "* ]]
  done
}

@test "outage, scenario 20: with the start gate nothing starts, who runs ends at his limit, and who is let run on pays no more than was held" {
  begin_outage
  eventually 200 is_gone "$ends"
  # Two limits and more after its death, and longer than what was set aside for any of them lasts.
  while (($(date +%s) - dead < outage_s)); do sleep 1; done
  expect_nothing_unfunded
  end_outage
  # A minute and the margin.
  [[ $(seconds_of "$ends") -gt 60 && $(seconds_of "$ends") -le 125 ]]
  expect_no_more_than_held
  expect_exact_books
}
