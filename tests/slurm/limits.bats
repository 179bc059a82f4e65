#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Slurm's own limits as a second fence ([slurm] limits = true): written for the funds, binding with the
# service dead and no start gate, and never the books.

load cluster
load plain

setup_file() {
  export plain_user=tylim$((RANDOM % 10000)) began
  began=$(date --utc +%FT%TZ)
  cluster_once
  [[ $EUID == 0 ]] || return 0
  cluster user add "$plain_user"
  as root sacctmgr --immediate add user "$plain_user" account=trainyard partition=metered
  cp "$tytest_state/etc/slurm.conf" "$tytest_state/etc/slurm.conf.before"
  cp "$tytest_state/etc/site.toml" "$tytest_state/etc/site.toml.before"
  # A gate that lets everything through: what holds here is the fence.
  sed -i -e 's/^AccountingStorageEnforce=.*/AccountingStorageEnforce=associations,limits,safe/' \
    -e 's|^PrologSlurmctld=.*|PrologSlurmctld=/bin/true|' "$tytest_state/etc/slurm.conf"
  printf 'PriorityType=priority/multifactor\nPriorityCalcPeriod=1\n' \
    >>"$tytest_state/etc/slurm.conf"
  printf '\n[slurm]\nlimits = true\nrefresh_s = 5\n' >>"$tytest_state/etc/site.toml"
  cluster restart slurmctld
  cluster restart trainyardd
  as trainyard trainyard admin grant "user:$plain_user" 1h
  remember_explained
}
teardown_file() {
  [[ $EUID == 0 && -e $tytest_state/etc/slurm.conf.before ]] || return 0
  mv "$tytest_state/etc/slurm.conf.before" "$tytest_state/etc/slurm.conf"
  mv "$tytest_state/etc/site.toml.before" "$tytest_state/etc/site.toml"
  cluster restart slurmctld >/dev/null
  cluster restart trainyardd >/dev/null
}

# What Slurm's controller has: "61(1)", the limit and what it has counted, in GPU-minutes.
fence() {
  cluster run -- scontrol show assoc_mgr "users=$plain_user" flags=assoc |
    awk '/ Partition=metered/ {ours = 1} ours && /GrpTRESMins=/ {print; exit}' |
    sed -nE 's/.*gres\/gpu=([0-9N]+\([0-9]+\)).*/\1/p'
}
fence_is() { [[ $(fence) == "$1" ]]; }
# Findings of this life: those of one before it on the same cluster stay.
notes() { as trainyard trainyard admin audit --json | jq -r '.notes[]' | awk -v since="$began" '$1 >= since'; }
is_noted() { [[ $(notes) == *"$1"* ]]; }

@test "limits: the fence lets through what is funded and nothing else, with the service dead and no gate" {
  # An hour, and a minute for rounding.
  eventually 90 fence_is '61(0)' || { echo "fence $(fence)"; return 1; }
  plain --gpus=4 --nodes=2 --time=10 -- 20
  eventually 120 state_is "$job_id" COMPLETED
  expect_exact_books
  # More than there is: waits for its hours. Somebody may release it while nobody looks after it.
  plain --gpus=2 --time=60 -- 1
  eventually 60 waits_for "$job_id" "fund user:$plain_user has"
  kill_service
  as root scontrol release "$job_id"
  is_fenced() { [[ $(cluster run -- squeue --noheader --jobs "$job_id" --format=%r) == AssocGrpGRESMinutes ]]; }
  eventually 90 is_fenced || { cluster run -- squeue --format '%i %T %r'; return 1; }
  state_is "$job_id" PENDING
  start_service
  clara scancel "$job_id"
}

@test "scenario 9: Slurm's counters are lost in a crash; the books are not, and the fence is written anew" {
  local charged_before minutes counted
  eventually 60 nothing_is_held
  charged_before=$(charged)
  # 80 GPU-s and more have been counted as a minute or two.
  minutes=$(($(available) / 60000 + 1))
  counts() { counted=$(fence | sed -E 's/.*\(([0-9]+)\)/\1/') && ((counted > 0)) && fence_is "$((minutes + counted))($counted)"; }
  eventually 120 counts || { echo "fence $(fence), wanted $minutes beyond what is counted"; return 1; }
  local counted_before=$counted
  kill -KILL "$(cut -d' ' -f1 "$tytest_state/run/slurmctld.pid")"
  rm --force "$tytest_state/slurmctld/"assoc_usage* # As if it died before it had saved them at all.
  cluster up >/dev/null
  counted=$(fence | sed -E 's/.*\(([0-9]+)\)/\1/')
  echo "# the fence before the crash counted $counted_before, after it $counted" >&3
  ((counted < counted_before))
  # Whatever it counts now, what is left is what the fund has.
  stands_anew() {
    counted=$(fence | sed -E 's/.*\(([0-9]+)\)/\1/')
    fence_is "$((minutes + counted))($counted)"
  }
  eventually 120 stands_anew || { echo "fence $(fence), wanted $minutes beyond what is counted"; return 1; }
  [[ $(charged) -eq $charged_before ]]
  expect_exact_books
}

@test "scenario 19: a QOS with a limit of its own is a finding" {
  local qos=tyshadow$RANDOM
  ! is_noted "QOS $qos" || return 1
  as root sacctmgr --immediate add qos "$qos"
  as root sacctmgr --immediate modify qos "$qos" set GrpTRESMins=gres/gpu=100000
  eventually 120 is_noted "QOS $qos has a limit of gres/gpu minutes of its own"
  as root sacctmgr --immediate delete qos "$qos"
  # This cluster enforces limits, safely, and says so.
  ! is_noted "AccountingStorageEnforce" || return 1
  as trainyard trainyard admin audit
  # A controller that was killed may have forgotten that something was cancelled.
  clara scancel --me
  eventually 60 no_jobs
}
