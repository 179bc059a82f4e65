#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-3.0-or-later
#
# What Slurm's controller does to the books: it dies and forgets a job, it suspends one, and another
# controller takes its place.

load cluster
load plain

setup_file() {
  export plain_user=tyctl$((RANDOM % 10000)) forgotten_user=tyfgt$((RANDOM % 10000))
  cluster_once
  cluster user add "$plain_user"
  cluster user add "$forgotten_user"
  as trainyard trainyard admin grant "user:$forgotten_user" 3h
  cluster user add "$tytest_user"
  as trainyard trainyard admin grant "user:$plain_user" 3h
  as trainyard trainyard admin grant "user:$tytest_user" 20h --id tytest-grant-0001
  remember_explained
}

kill_controller() { kill -KILL "$(cut -d' ' -f1 "$tytest_state/run/slurmctld.pid")"; }
something_is_held() { [[ $(held) -gt 0 ]]; }
is_unknown() { ! cluster run -- scontrol show job "$1" >/dev/null 2>&1; }

@test "scenario 4: a controller that crashes forgets a job, and its number is another user's" {
  local try forgotten='' other
  plain_user=$forgotten_user
  # Its state is saved 5 s after the last time: right after another job's this one is not.
  for try in {1..10}; do
    as "$tytest_user" sbatch --parsable --partition=gpu --output=/dev/null --wrap true
    plain --gpus=1 --time=2 --begin=now+1hour -- 1
    # On odd tries the service has set its hours aside by then, on even ones it has not seen it.
    ((try % 2 == 0)) || eventually 4 something_is_held || true
    kill_controller
    cluster up >/dev/null
    is_unknown "$job_id" && forgotten=$job_id && break
    clara scancel "$job_id"
    eventually 60 nothing_is_held
  done
  echo "# forgotten is job ${forgotten:-none} after $try crashes" >&3
  [[ -n $forgotten ]]
  # Its number is given again, to somebody else's job.
  other=$(as "$tytest_user" sbatch --parsable --partition=metered --time=2 --gpus=1 \
    --output=/dev/null --wrap "sleep 2")
  while ((other < forgotten)); do
    other=$(as "$tytest_user" sbatch --parsable --partition=metered --time=2 --gpus=1 \
      --output=/dev/null --wrap "sleep 2")
  done
  [[ $other == "$forgotten" ]]
  eventually 120 state_is "$other" COMPLETED
  is_paid() { [[ $(as "$tytest_user" trainyard show "$(run_of "$other")" --json | jq .charged) -ge 2000 ]]; }
  eventually 60 is_paid
  [[ $(as "$tytest_user" trainyard show "$(run_of "$other")" --json | jq -r .fund) == "user:$tytest_user" ]]
}

@test "scenario 21: a job that an admin suspends keeps its GPUs, and pays for them" {
  local suspended_s
  plain --gpus=2 --time=3 -- 4
  eventually 60 state_is "$job_id" RUNNING
  as root scontrol suspend "$job_id"
  eventually 60 state_is "$job_id" SUSPENDED
  sleep 6
  as root scontrol resume "$job_id"
  eventually 120 state_is "$job_id" COMPLETED
  expect_exact_books
  suspended_s=$(clara sacct --noheader --allocations --parsable2 --jobs "$job_id" --format=Suspended |
    awk -F: '{print $1 * 3600 + $2 * 60 + $3}')
  echo "# suspended for $suspended_s s, charged $(as trainyard trainyard show "$(run_of "$job_id")" --json | jq .charged) milli-GPU-s" >&3
  # What sacct calls elapsed leaves these out.
  [[ $suspended_s -ge 5 ]]
  [[ $(as trainyard trainyard show "$(run_of "$job_id")" --json | jq .charged) -eq $(((suspended_s +
    $(clara sacct --noheader --allocations --parsable2 --jobs "$job_id" --format=ElapsedRaw)) * 2000)) ]]
}

# The second controller stands on the first host, whose files are those of the first, but for the
# process id: a controller ends the one that it finds there.
backup_pid=
start_backup() {
  local init
  init=$(pgrep --parent "$(cut -d' ' -f1 "$tytest_state/run/host-$tytest-n1.pid")" | head -n1)
  : >"$tytest_state/log/slurmctld-backup.out"
  install --directory --owner=slurm "$tytest_state/run/slurm-backup"
  install --owner=slurm /dev/null "$tytest_state/log/slurmctld-backup.log"
  # shellcheck disable=SC2016
  nsenter --target "$init" --net --mount --uts env --ignore-environment PATH="$PATH" \
    TRAINYARD_CLUSTER_STATE="$tytest_state" SLURM_CONF="$tytest_state/etc/slurm.conf" \
    unshare --mount sh -c 'mount --bind "$0/run/slurm-backup" "$0/run/slurm" &&
      exec setpriv --reuid slurm --regid slurm --init-groups slurmctld -D -L "$0/log/slurmctld-backup.log"' \
    "$tytest_state" >>"$tytest_state/log/slurmctld-backup.out" 2>&1 3>&- &
  backup_pid=$!
}
stop_backup() {
  [[ -z $backup_pid ]] || kill -KILL "$backup_pid" 2>/dev/null || true
  backup_pid=
}
teardown() {
  [[ $EUID == 0 && -e $tytest_state/etc/extra.conf ]] || return 0
  stop_backup
  grep --quiet '^SlurmctldHost=' "$tytest_state/etc/extra.conf" || return 0
  sed -i '/^SlurmctldHost=/d' "$tytest_state/etc/extra.conf"
  restart_with_controllers
}
restart_with_controllers() {
  cluster restart slurmctld >/dev/null
  cluster restart slurmd >/dev/null
  cluster restart trainyardd >/dev/null
}
controllers_are() { [[ $(cluster run -- scontrol ping 2>&1) =~ $1 ]]; }
saved_since() { (($(stat --format=%Y "$tytest_state/slurmctld/job_state") > $1)); }
service_sees_slurm() { [[ $(as trainyard trainyard admin runs --json | jq -r .trouble) == "" ]]; }

@test "scenario 35: another controller takes over; the service and the start gate go on" {
  [[ -e $tytest_state/run/host-$tytest-n1.pid ]] || skip "the second controller needs a network namespace"
  local address job
  address=$(awk -v host="$tytest-n1" '$2 == host {print $1}' "$tytest_state/etc/hosts")
  echo "SlurmctldHost=$tytest-n1($address)" >>"$tytest_state/etc/extra.conf"
  restart_with_controllers
  start_backup
  eventually 120 controllers_are 'primary.* is UP.*backup.* is UP'
  plain --gpus=1 --time=3 -- 25
  local running=$job_id
  eventually 60 state_is "$running" RUNNING
  # What was not saved is forgotten, as scenario 4 has it; here the job goes on.
  eventually 60 saved_since "$(date +%s)"
  kill_controller
  as root scontrol takeover
  eventually 120 controllers_are 'primary.* is DOWN.*backup.* is UP'
  eventually 120 service_sees_slurm
  # Funded, released, let through the gate and charged by way of the second.
  plain --gpus=1 --time=2 -- 1
  eventually 120 state_is "$job_id" COMPLETED
  plain --gpus=2 --nodes=2 --time=1380 -- 1
  job=$job_id
  eventually 120 waits_for "$job" "fund user:$plain_user has"
  clara scancel "$job"
  eventually 120 state_is "$running" COMPLETED
  expect_exact_books
  # And back.
  cluster up >/dev/null
  eventually 120 controllers_are 'primary.* is UP'
  eventually 120 service_sees_slurm
  plain --gpus=1 --time=2 -- 1
  eventually 120 state_is "$job_id" COMPLETED
  expect_exact_books
}

@test "scenario 4, later: the forgotten job is charged nothing, and its hours have come back" {
  plain_user=$forgotten_user
  eventually 300 nothing_is_held
  [[ $(charged) -eq 0 ]]
  as trainyard trainyard admin audit
}
