#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-3.0-or-later
#
# What Slurm's own records say when they are wrong: lost with slurmdbd, "repaired" by an admin, written
# by a controller whose clock was set. Sums are compared run by run: sacct itself is what is at fault.

load cluster
load plain

setup_file() {
  export plain_user=tyrec$((RANDOM % 10000))
  cluster_once
  cluster user add "$plain_user"
  as trainyard trainyard admin grant "user:$plain_user" 5h
}

# Whatever happens: everything is back, by the machine's clock.
teardown() {
  [[ $EUID == 0 && -e $tytest_state/etc/extra.conf ]] || return 0
  if [[ -e $tytest_state/prefix/bin/slurmctld ]]; then
    rm -f "$tytest_state/prefix/bin/slurmctld"
    cluster restart slurmctld >/dev/null
  fi
  if grep --quiet '^MinJobAge=' "$tytest_state/etc/extra.conf"; then
    sed -i '/^MinJobAge=/d' "$tytest_state/etc/extra.conf"
    cluster restart slurmctld >/dev/null
  fi
  cluster up >/dev/null
}

kill_daemon() { kill -KILL "$(cut -d' ' -f1 "$tytest_state/run/$1.pid")"; }
saved_since() {
  (($(stat --format=%Y "$tytest_state/slurmctld/job_state") > $1)) && return
  clara scancel "$(clara sbatch --parsable --partition=gpu --hold --output=/dev/null --wrap true)"
  return 1
}
is_unknown() { ! cluster run -- scontrol show job "$1" >/dev/null 2>&1; }
charge_of() { as trainyard trainyard show "$1" --json | jq .charged; }
held_of() { as trainyard trainyard show "$1" --json | jq .held; }
is_charged() { [[ $(charge_of "$1") -gt 0 ]]; }
is_over() { [[ $(as trainyard trainyard show "$1" --json | jq -r .state) =~ ^(finished|failed|stopped)$ ]]; }
# STATE and seconds of a job, by slurmdbd.
record_of() {
  clara sacct --noheader --allocations --parsable2 --starttime=2020-01-01 --jobs "$1" \
    --format=State,ElapsedRaw
}
findings() { as trainyard trainyard admin audit; }

is_allocated_again() {
  [[ $(field "$1" Restarts) == 1 ]] && { state_is "$1" CONFIGURING || state_is "$1" RUNNING; }
}
gave_back() { as trainyard trainyard show "$1" --json | jq '[.segments[].charges[].refunded] | add // 0'; }
has_given_back() { (($(gave_back "$1") > 0)); }
# GPU-seconds of all attempts of a job with one GPU.
recorded_of() {
  clara sacct --duplicates --noheader --allocations --parsable2 --starttime=2020-01-01 --jobs "$1" \
    --format=ElapsedRaw | awk '{ sum += $1 } END { print sum + 0 }'
}

# slurmdbd has it as a requeue, as if its owner had asked for it. The service does not know yet what the
# attempt before has cost when the gate asks.
@test "an attempt that the start gate keeps out is charged as Slurm recorded it, and given back" {
  plain --gpus=1 --time=3 -- 8
  local job=$job_id run
  eventually 60 state_is "$job" RUNNING
  run=$(run_of "$job")
  eventually 20 run_state_is "$run" running
  kill -STOP "$(service_pid)"
  kill_daemon slurmdbd
  clara scontrol requeue "$job"
  eventually 60 is_allocated_again "$job" || { kill -CONT "$(service_pid)" && return 1; }
  sleep 3
  kill -CONT "$(service_pid)"
  eventually 40 state_is "$job" PENDING
  cluster up >/dev/null
  eventually 100 has_given_back "$run"
  eventually 100 state_is "$job" COMPLETED
  eventually 60 is_over "$run"
  echo "# kept out for $(($(gave_back "$run") / 1000)) s: $(clara sacct -DX -n -j "$job" -o state,elapsedraw | xargs)" >&3
  (($(gave_back "$run") >= 2000))
  (($(charge_of "$run") == $(recorded_of "$job") * 1000))
}

@test "scenarios 7 and 8: slurmdbd lost a job and shows one for ever; both are charged as seen, and no repair is a refund" {
  echo "MinJobAge=2" >>"$tytest_state/etc/extra.conf"
  cluster restart slurmctld
  plain --gpus=1 --time=3 -- 25
  local before=$job_id before_run inside inside_run start end seconds
  eventually 60 state_is "$before" RUNNING
  is_recorded() { [[ $(record_of "$before") == RUNNING* ]]; }
  eventually 60 is_recorded
  kill_daemon slurmdbd
  plain --gpus=2 --time=3 -- 3
  inside=$job_id
  eventually 60 state_is "$inside" COMPLETED
  seconds=$(field "$inside" RunTime)
  before_run=$(run_of "$before") inside_run=$(run_of "$inside")
  # Forgotten by the controller, which has not told slurmdbd, and then dies.
  eventually 200 is_unknown "$inside"
  eventually 200 is_unknown "$before"
  # What was purged is gone from its state too when that is saved, 5 s after something changed.
  eventually 60 saved_since "$(date +%s)"
  kill_daemon slurmctld
  cluster up >/dev/null
  [[ -z $(record_of "$inside") ]]
  [[ $(record_of "$before") == RUNNING* ]]

  eventually 300 is_over "$before_run"
  eventually 300 is_over "$inside_run"
  # "00:00:03": what the controller said it had, to the second.
  [[ $(charge_of "$inside_run") -eq $((10#${seconds##*:} * 2 * 1000)) ]]
  local charged
  charged=$(charge_of "$before_run")
  echo "# charged as seen: $((charged / 1000)) s of a job that slept for 25 s; $(record_of "$before")" >&3
  [[ $charged -ge 24000 && $charged -le 60000 ]]
  [[ $(held_of "$before_run") -eq 0 && $(held_of "$inside_run") -eq 0 ]]

  # The official repair makes it free. It is no refund.
  as root bash -c 'yes | sacctmgr show runaway' >/dev/null
  is_repaired() { [[ $(record_of "$before") == *"|0" ]]; }
  eventually 60 is_repaired
  [[ $(findings) == *"job $before"* ]]
  [[ $(findings) == *"job $inside"* ]]
  [[ $(charge_of "$before_run") -eq $charged ]]
  nothing_is_held
}

set_clock() { # SECONDS from the machine's
  echo "$1" >"$tytest_state/clock.new"
  chmod 644 "$tytest_state/clock.new"
  mv "$tytest_state/clock.new" "$tytest_state/clock"
}
# As the first of its path the controller is started with a clock of its own.
controller_with_a_clock() {
  local library
  library=$(dpkg --listfiles libfaketime | grep --max-count=1 'libfaketimeMT\.so')
  set_clock +0
  printf '#!/bin/sh\nexec env %s %s %s %s %s "$@"\n' "LD_PRELOAD=$library" \
    "FAKETIME_TIMESTAMP_FILE=$tytest_state/clock" FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1 \
    "$(command -v slurmctld)" >"$tytest_state/prefix/bin/slurmctld"
  chmod 755 "$tytest_state/prefix/bin/slurmctld"
  cluster restart slurmctld
}

@test "scenario 22: the controller's clock is set back, and then ahead: nothing below zero, nothing beyond the hold" {
  dpkg --listfiles libfaketime >/dev/null 2>&1 || skip "a clock of its own needs the package libfaketime"
  local back back_run ahead ahead_run hold
  controller_with_a_clock
  plain --gpus=2 --time=3 -- 25
  back=$job_id
  eventually 60 state_is "$back" RUNNING
  back_run=$(run_of "$back")
  set_clock -3600
  eventually 120 state_is "$back" COMPLETED
  set_clock +0
  # Its timers are an hour off now.
  cluster restart slurmctld
  plain --gpus=1 --time=3 -- 60
  ahead=$job_id
  eventually 60 state_is "$ahead" RUNNING
  ahead_run=$(run_of "$ahead")
  hold=$(held_of "$ahead_run")
  set_clock +7200
  eventually 120 state_is "$ahead" TIMEOUT
  set_clock +0
  cluster restart slurmctld

  eventually 300 is_over "$back_run"
  eventually 300 is_over "$ahead_run"
  echo "# set back: $(record_of "$back"), charged $(charge_of "$back_run"); ahead: $(record_of "$ahead"), held $hold, charged $(charge_of "$ahead_run")" >&3
  # Slurm says 0 s, so 0 is charged, and somebody is told that it had been running.
  [[ $(record_of "$back") == "COMPLETED|0" && $(charge_of "$back_run") -eq 0 ]]
  [[ $(findings) =~ job\ $back:.*clock ]]
  # Slurm says two hours. What was set aside is all that can be charged.
  [[ $(record_of "$ahead") == TIMEOUT\|72* && $(charge_of "$ahead_run") -eq $hold ]]
  [[ $(findings) == *"the site bears"* ]]
  nothing_is_held
  # And it goes on.
  plain --gpus=1 --time=2 -- 1
  eventually 120 state_is "$job_id" COMPLETED
  eventually 60 is_over "$(run_of "$job_id")"
  is_charged "$(run_of "$job_id")"
}
