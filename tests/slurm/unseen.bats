#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-3.0-or-later
#
# What nobody saw: jobs that end and are forgotten by the controller while the service is dead, or whose
# end the books forgot with a restored copy. What they cost stands in Slurm's record alone. And that may
# be damaged, or purged. Sums are compared run by run.

load cluster
load plain

setup_file() {
  export plain_user=tyuns$((RANDOM % 10000)) other_user=tyuno$((RANDOM % 10000))
  cluster_once
  [[ $EUID == 0 ]] || return 0
  local user
  for user in "$plain_user" "$other_user"; do
    cluster user add "$user"
    as trainyard trainyard admin grant "user:$user" 3h
  done
  cp "$tytest_state/etc/extra.conf" "$tytest_state/etc/extra.conf.before"
  cp "$tytest_state/etc/site.toml" "$tytest_state/etc/site.toml.before"
  echo "MinJobAge=2" >>"$tytest_state/etc/extra.conf"
  sed -i 's/^record_wait_s = .*/record_wait_s = 5/' "$tytest_state/etc/site.toml"
  cluster restart slurmctld
  cluster restart trainyardd
}
# Numbers that were given twice are not given a third time to the tests after these.
teardown_file() {
  [[ $EUID == 0 && -e $tytest_state/etc/extra.conf.before ]] || return 0
  mv "$tytest_state/etc/site.toml.before" "$tytest_state/etc/site.toml"
  mv "$tytest_state/etc/extra.conf.before" "$tytest_state/etc/extra.conf"
  echo "FirstJobId=$(($(newest_number) + 1000))" >>"$tytest_state/etc/extra.conf"
  cluster restart slurmctld >/dev/null
  cluster restart trainyardd >/dev/null
}
# Whatever happens: everything is back.
teardown() {
  [[ $EUID == 0 && -e $tytest_state/etc/extra.conf ]] || return 0
  if [[ -e $tytest_state/prefix/bin/slurmdbd ]]; then
    rm -f "$tytest_state/prefix/bin/slurmdbd"
    cluster restart slurmdbd >/dev/null
  fi
  if grep --quiet '^MaxJobId=' "$tytest_state/etc/extra.conf"; then
    sed -i -e '/^MaxJobId=/d' -e '/^FirstJobId=/d' "$tytest_state/etc/extra.conf"
    echo "FirstJobId=$(($(newest_number) + 1000))" >>"$tytest_state/etc/extra.conf"
    cluster restart slurmctld >/dev/null
  fi
  cluster up >/dev/null
}

newest_number() {
  as root sacct --allocations --noheader --allusers --starttime=2020-01-01 --format=JobIDRaw |
    sort --numeric-sort | tail -n1
}
setting_of_slurm() { cluster run -- scontrol show config | sed -nE "s/^$1 *= (.*)/\1/p"; }
is_unknown() { ! cluster run -- scontrol show job "$1" >/dev/null 2>&1; }
# STATE|SECONDS|GPUS of the user's allocations with a number, by slurmdbd.
record_of() { # JOB
  clara sacct --duplicates --allocations --noheader --parsable2 --starttime=2020-01-01 --jobs "$1" \
    --user="$plain_user" --format=State,ElapsedRaw,AllocTRES |
    sed -nE 's/^([A-Z]+)[^|]*\|([0-9]+)\|.*gres\/gpu=([0-9]+).*/\1|\2|\3/p'
}
is_recorded_as() { [[ $(record_of "$1") == "$2|"* ]]; }
recorded() { record_of "$1" | awk -F'|' '{sum += $2 * $3} END {print sum * 1000}'; }
charge_of() { as trainyard trainyard show "$1" --json | jq .charged; }
held_of() { as trainyard trainyard show "$1" --json | jq .held; }
is_over() { [[ $(as trainyard trainyard show "$1" --json | jq -r .state) =~ ^(finished|failed|stopped|cancelled)$ ]]; }
findings() { as trainyard trainyard admin audit; }

# begin OPTIONS...: a job that the service has seen running, and that runs until `finish`; its run in $run_id.
begin() {
  rm -f "$(home_of "$plain_user")/over"
  plain "$@" -- '0; until test -e over; do sleep 0.2; done'
  eventually 60 state_is "$job_id" RUNNING
  run_id=$(run_of "$job_id")
  is_seen_running() { [[ $(as trainyard trainyard show "$run_id" --json | jq -r .state) == running ]]; }
  eventually 30 is_seen_running
  # A job of no seconds would cost nothing: Slurm counts whole ones, from when the start gate let it through.
  has_run() { [[ ! $(cluster run -- squeue --noheader --jobs "$job_id" --format=%M) =~ ^(0:00)?$ ]]; }
  eventually 30 has_run
}
finish() { # JOB...
  local job
  clara touch over
  for job in "$@"; do eventually 60 is_recorded_as "$job" COMPLETED; done
}
# Over, to the second, with nothing left aside.
expect_charge() { # RUN MILLI-GPU-S
  eventually 100 is_over "$1"
  echo "# run $1: charged $(charge_of "$1") milli-GPU-s, expected $2" >&3
  [[ $(charge_of "$1") -eq $2 && $2 -gt 0 && $(held_of "$1") -eq 0 ]]
}

@test "scenarios 5, 6 and 11: a job that ended and was forgotten unseen is charged by its record, though its number is another's by now" {
  # No script of ours runs at a job's end, so there is none whose message could be lost or come twice.
  [[ $(setting_of_slurm JobCompType) == jobcomp/none ]]
  [[ $(setting_of_slurm EpilogSlurmctld) == "(null)" && $(setting_of_slurm Epilog) == "(null)" ]]
  # There is one number to give, as if all others were taken: after it comes the first again.
  local number=$(($(newest_number) + 1000)) mine_run other other_run
  printf 'FirstJobId=%s\nMaxJobId=%s\n' "$number" $((number + 1)) >>"$tytest_state/etc/extra.conf"
  cluster restart slurmctld
  begin --gpus=2
  [[ $job_id == "$number" ]]
  mine_run=$run_id
  kill_service
  finish "$number"
  eventually 60 is_unknown "$number"
  plain_user=$other_user plain --gpus=1 -- 2
  other=$job_id
  [[ $other == "$number" ]]
  other_run=$(run_of "$other")
  start_service
  expect_charge "$mine_run" "$(recorded "$number")"
  plain_user=$other_user
  eventually 60 is_recorded_as "$other" COMPLETED
  expect_charge "$other_run" "$(recorded "$other")"
  [[ $other_run != "$mine_run" ]]
  [[ $(as trainyard trainyard show "$other_run" --json | jq -r .fund) == "user:$other_user" ]]
  findings
}

database() {
  mariadb --no-defaults --socket="$tytest_state/run/mariadb/socket" --skip-column-names slurm_acct_db \
    --execute="$1"
}
# A column of a job's record, as it is stored.
stored() { database "SELECT $2 FROM \`${tytest}_job_table\` WHERE id_job = $1"; } # JOB COLUMN

@test "scenario 15: a record that makes no sense holds up no other, and its job is charged as seen" {
  local good good_run bad bad_run start cost charged
  begin --gpus=1
  good=$job_id good_run=$run_id
  begin --gpus=1
  bad=$job_id bad_run=$run_id
  eventually 30 is_recorded_as "$bad" RUNNING
  start=$(stored "$bad" time_start)
  # Begins in another century.
  database "UPDATE \`${tytest}_job_table\` SET time_start = 4000000000 WHERE id_job = $bad"
  finish "$good"
  expect_charge "$good_run" "$(recorded "$good")"
  eventually 100 is_over "$bad_run"
  charged=$(charge_of "$bad_run")
  cost=$((($(stored "$bad" time_end) - start) * 1000))
  echo "# a job that cost $cost milli-GPU-s, and whose record says $(record_of "$bad"), is charged $charged" >&3
  # No more than it had; less where the controller forgets it before the next look.
  [[ $charged -gt 0 && $charged -le $cost && $(held_of "$bad_run") -eq 0 ]]
  [[ $(findings) =~ job\ $bad:.*makes\ no\ sense ]]
}

@test "scenario 33: an account is not removed under a running job, and one that is removed after it still pays" {
  local association=(user where "name=$plain_user" account=trainyard)
  begin --gpus=2
  run as root sacctmgr --immediate delete "${association[@]}"
  echo "$output"
  [[ $status -ne 0 && $output == *"$job_id"* ]]
  state_is "$job_id" RUNNING
  # The admin does as Slurm says, and the account is gone before anybody has looked.
  kill_service
  as root scancel "$job_id"
  eventually 60 is_recorded_as "$job_id" CANCELLED
  as root sacctmgr --immediate delete "${association[@]}"
  run clara sbatch --partition=metered --gpus=1 --output=/dev/null --wrap true
  [[ $status -ne 0 ]]
  start_service
  expect_charge "$run_id" "$(recorded "$job_id")"
  cluster user add "$plain_user"
  findings
}

@test "scenario 31: after a copy was restored, a job that it knows is charged, and one that it does not is named and free" {
  local copy=$tytest_state/books/copy-$RANDOM.db known known_run lost lost_run before
  begin --gpus=1
  known=$job_id known_run=$run_id
  as trainyard trainyard admin backup "$copy"
  begin --gpus=2
  lost=$job_id lost_run=$run_id
  finish "$known" "$lost"
  expect_charge "$lost_run" "$(recorded "$lost")"
  eventually 60 is_unknown "$lost"
  kill_service
  as trainyard trainyardd --site "$tytest_state/etc/site.toml" --restore "$copy"
  start_service
  expect_charge "$known_run" "$(recorded "$known")"
  run as trainyard trainyard show "$lost_run"
  [[ $status -ne 0 ]]
  is_named() { [[ $(findings) == *"job $lost of uid $(id -u "$plain_user")"*"the restored books know nothing of it"* ]]; }
  eventually 60 is_named
  # And it goes on.
  before=$(charged)
  begin --gpus=1
  finish "$job_id"
  expect_charge "$run_id" "$(recorded "$job_id")"
  [[ $(charged) -eq $((before + $(recorded "$job_id"))) ]]
}

# As the first of its path slurmdbd is started by a clock of its own.
slurmdbd_ahead() { # HOURS
  local library
  library=$(dpkg --listfiles libfaketime | grep --max-count=1 'libfaketimeMT\.so')
  printf '#!/bin/sh\nexec env LD_PRELOAD=%s FAKETIME=+%sh FAKETIME_DONT_FAKE_MONOTONIC=1 %s "$@"\n' \
    "$library" "$1" "$(command -v slurmdbd)" >"$tytest_state/prefix/bin/slurmdbd"
  chmod 755 "$tytest_state/prefix/bin/slurmdbd"
  cluster restart slurmdbd
}

@test "records that slurmdbd purges stay charged, and the audit names them" {
  dpkg --listfiles libfaketime >/dev/null 2>&1 || skip "a clock of its own needs the package libfaketime"
  local ended ended_run before cost
  begin --gpus=1
  ended=$job_id ended_run=$run_id
  finish "$ended"
  expect_charge "$ended_run" "$(recorded "$ended")"
  cost=$(charge_of "$ended_run")
  # One that runs has a record that is not purged, nor is its end.
  begin --gpus=1
  eventually 30 is_recorded_as "$job_id" RUNNING
  before=$(charged)
  # Slurm purges by whole hours that have passed.
  slurmdbd_ahead 3
  install --directory --owner=slurm "$tytest_state/archive"
  as root sacctmgr --immediate archive dump Directory="$tytest_state/archive" Jobs PurgeJobAfter=1hour
  echo "ended: $(record_of "$ended"), running: $(record_of "$job_id")"
  [[ -z $(record_of "$ended") && -n $(record_of "$job_id") ]]
  rm "$tytest_state/prefix/bin/slurmdbd"
  cluster restart slurmdbd
  cluster restart trainyardd
  finish "$job_id"
  expect_charge "$run_id" "$(recorded "$job_id")"
  [[ $(charge_of "$ended_run") -eq $cost && $(held_of "$ended_run") -eq 0 ]]
  [[ $(charged) -eq $((before + $(recorded "$job_id"))) ]]
  [[ $(findings) == *"run $ended_run (job $ended): slurmdbd has no record of attempt 0"* ]]
}
