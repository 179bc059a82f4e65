#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-3.0-or-later
#
# What becomes of a run whose ranks cannot train: a node that the preflight finds bad, one that Slurm
# loses, a rank that hangs, one that is killed. On a real Slurm, with the real trainer.

load cluster
load training

setup_file() {
  cluster_once
  scenes_for "$tytest_user"
  as trainyard trainyard admin grant "user:$tytest_user" 20h --id tytest-grant-0001
}

teardown() {
  mend_node "$tytest-n1"
  [[ ! -e $BATS_TEST_TMPDIR/cut ]] || ip link set "$(<"$BATS_TEST_TMPDIR/cut")" up
  if [[ -e $BATS_TEST_TMPDIR/down ]]; then
    as root scontrol update nodename="$(<"$BATS_TEST_TMPDIR/down")" state=resume || true
  fi
  if [[ -e $BATS_TEST_TMPDIR/site.toml ]]; then
    cat "$BATS_TEST_TMPDIR/site.toml" >"$tytest_state/etc/site.toml"
  fi
  [[ -z ${run_id:-} ]] || as "$tytest_user" trainyard cancel "$run_id" || true
}

# The first process of a host, which holds its namespaces.
host_process() { pgrep --parent "$(cut -d' ' -f1 "$tytest_state/run/host-$1.pid")"; }
# A node without free memory, as far as anybody there can tell.
spoil_node() {
  sed 's/^MemAvailable:.*/MemAvailable:  1024 kB/' /proc/meminfo >"$tytest_state/run/no-memory"
  nsenter --target "$(host_process "$1")" --mount --pid \
    mount --bind "$tytest_state/run/no-memory" /proc/meminfo
}
mend_node() {
  nsenter --target "$(host_process "$1")" --mount --pid umount /proc/meminfo 2>/dev/null || true
}
# Of the runs after it; teardown puts the site's own back.
set_watchdog() { # SECONDS
  cp "$tytest_state/etc/site.toml" "$BATS_TEST_TMPDIR/site.toml"
  sed -i "s/^watchdog_limit_s = .*/watchdog_limit_s = $1/" "$tytest_state/etc/site.toml"
}
nodes_are_idle() { [[ $(as root sinfo --noheader --Node --partition gpu --format %T | sort -u) == idle ]]; }

tytrain() { # OPTIONS...: sets run_id and run_dir
  local answer
  answer=$(as "$tytest_user" trainyard train data=tiny/data.yaml model=yolov8n imgsz=64 \
    workers=1 seed=7 plots=false --time-limit 10m --json "$@")
  run_id=$(jq -r .run <<<"$answer")
  run_dir=$(jq -r .run_dir <<<"$answer")
}
# An attempt of the run has ended like this: a condition of jq on the line that its script left.
attempt_ended() { # ATTEMPT CONDITION
  jq --slurp --exit-status --argjson attempt "$1" \
    "map(select(.end and .attempt == \$attempt and ($2))) | length > 0" \
    "$run_dir/attempts.jsonl" >/dev/null 2>&1
}
end_of_attempt() { # ATTEMPT: UTC seconds.
  jq --argjson attempt "$1" 'select(.end and .attempt == $attempt) | .end' "$run_dir/attempts.jsonl"
}
# The process of a rank of the run, now.
process_of_rank() {
  local pid
  for pid in $(pgrep --full "bin/trainyard-trainer train --spec $run_dir"); do
    if tr '\0' '\n' <"/proc/$pid/environ" 2>/dev/null | grep -qx "SLURM_PROCID=$1"; then
      [[ $(readlink "/proc/$pid/exe") == */trainyard-trainer ]] && echo "$pid" && return
    fi
  done
  return 1
}
has_epochs() { [[ $(epochs_of "$tytest_user" "$run_id") -ge $1 ]]; }
state_is() { [[ $(as "$tytest_user" trainyard show "$run_id" --json | jq -r .state) == "$1" ]]; }

# The bill is Slurm's record of all attempts, to the second, and there are so many of them.
expect_exact_bill() { # [ATTEMPTS]
  local shown jobs slurm
  shown=$(as "$tytest_user" trainyard show "$run_id" --json)
  jobs=$(jq -r '[.segments[].job | tostring] | join(",")' <<<"$shown")
  slurm=$(as "$tytest_user" sacct --duplicates --allocations --noheader --parsable2 --jobs "$jobs" \
    --format=ElapsedRaw,AllocTRES | sed -nE 's/^([0-9]+)\|.*gres\/gpu=([0-9]+).*/\1 \2/p')
  echo "charged $(jq .charged <<<"$shown") milli-GPU-s; Slurm's seconds and GPUs:" "$slurm"
  [[ $(grep -c . <<<"$slurm") -eq ${1:-$(grep -c . <<<"$slurm")} ]]
  [[ $(jq '[.segments[].charges[] | select(.gpus > 0)] | length' <<<"$shown") -eq \
    $(grep -c . <<<"$slurm") ]]
  [[ $(jq .charged <<<"$shown") -eq $(awk '{sum += $1 * $2} END {print sum * 1000}' <<<"$slurm") ]]
  [[ $(jq .held <<<"$shown") -eq 0 ]]
  as trainyard trainyard admin audit
}

@test "ranks: a bad node is named and left out, and the run is placed again and charged for both" {
  eventually 60 nodes_are_idle
  spoil_node "$tytest-n1"
  tytrain epochs=1 batch=8 --gpus 2
  eventually 250 is_over "$run_id"
  as "$tytest_user" trainyard show "$run_id" | tee "$BATS_TEST_TMPDIR/shown"
  state_is finished
  grep -qx "left out $tytest-n1: bad in attempt 0 of segment 0 (preflight-0-0.json)" \
    "$BATS_TEST_TMPDIR/shown"
  [[ $(jq --slurp -r '[.[] | select(.start) | .nodes] | join(" ")' "$run_dir/attempts.jsonl") == \
    "$tytest-n1 $tytest-n2" ]]
  attempt_ended 0 ".code == 32"
  attempt_ended 1 ".code == 0"
  grep -q "bad node $tytest-n1 (rank 0): memory: 1 MiB free, 256 MiB needed" "$run_dir"/slurm-*.out
  # The report of each attempt stays in the run's folder, and the newest is that of the last.
  [[ $(jq -r '.faults[0].host' "$run_dir/preflight-0-0.json") == "$tytest-n1" ]]
  cmp "$run_dir/preflight-0-1.json" "$run_dir/preflight.json"
  [[ $(jq -r '[.ranks[].host] | unique | join(" ")' "$run_dir/preflight.json") == "$tytest-n2" ]]
  [[ $(jq '.faults | length' "$run_dir/preflight.json") -eq 0 ]]
  expect_exact_bill 2
}

@test "ranks: where every other node is needed, a bad one ends the run by name" {
  eventually 60 nodes_are_idle
  spoil_node "$tytest-n1"
  tytrain epochs=1 batch=16 --gpus 4 --nodes 2
  eventually 250 is_over "$run_id"
  state_is failed
  as "$tytest_user" trainyard show "$run_id" | tee "$BATS_TEST_TMPDIR/shown"
  grep -q "bad node $tytest-n1 (rank 0): memory" "$BATS_TEST_TMPDIR/shown"
  [[ $(jq -r .bad_nodes "$run_dir/exit.json") == "$tytest-n1" ]]
  [[ $(jq '[.ranks[].host] | unique | length' "$run_dir/preflight.json") -eq 2 ]]
  expect_exact_bill 1
}

# So many attempts have begun where the one before them ended.
has_resumed() { [[ $(cat "$run_dir"/slurm-*.out | grep -cE "^resuming .* at epoch") -ge $1 ]]; }

# One moment: an attempt has trained for an epoch, and a random rank of it is stopped or killed a
# random time later. The attempt ends by itself, names the rank, and the run goes on from what was saved.
strike() { # ATTEMPT SIGNAL
  local attempt=$1 signal=$2 victim=$((RANDOM % 4)) before log struck took_s
  before=$(epochs_of "$tytest_user" "$run_id")
  eventually 250 has_epochs $((before + 1))
  sleep "$((RANDOM % 4)).$((RANDOM % 10))"
  struck=$(date +%s)
  kill -s "$signal" "$(process_of_rank "$victim")"
  echo "# attempt $attempt: SIG$signal of rank $victim at $(date +%T), after epoch $(epochs_of "$tytest_user" "$run_id")" >&3
  if [[ $signal == STOP ]]; then
    eventually 250 attempt_ended "$attempt" ".code == 31"
  else
    eventually 250 attempt_ended "$attempt" ".is_crash == 1"
  fi
  # The watchdog's limit, the last turn of its speakers, Slurm's KillWait for a rank that is stopped,
  # and what a busy machine may add.
  took_s=$(($(end_of_attempt "$attempt") - struck))
  echo "# ended $took_s s later" >&3
  ((took_s <= watchdog_s + 30 + kill_wait_s + 15))
  eventually 250 has_resumed $((attempt + 1))
  log=$(cat "$run_dir"/slurm-*.out | sed -n "/^---- run .*, attempt $attempt: /,/^---- run .*, attempt $((attempt + 1)): /p")
  if [[ $signal == STOP ]]; then
    grep -qE "watchdog: rank $victim \(.*(silent|stopped|missing)" <<<"$log"
  else
    # The watchdog names it, or srun is faster and says by which signal one of its host was ended.
    grep -qE "watchdog: rank $victim \(|$tytest-n$((victim / 2 + 1)): tasks? [0-9,-]+: Killed" <<<"$log"
  fi
}

# More of them by hand: TRAINYARD_MOMENTS=20 TRAINYARD_SEED=7 bats -f moments tests/slurm/ranks.bats
@test "ranks: stopped and killed at random moments, they end their attempts, and the run goes on by itself, charged to the second" {
  local moments=${TRAINYARD_MOMENTS:-2} seed=${TRAINYARD_SEED:-$RANDOM} moment watchdog_s=30 kill_wait_s
  kill_wait_s=$(as root scontrol show config | sed -n 's/^KillWait *= \([0-9]*\) sec.*/\1/p')
  [[ -n $kill_wait_s ]]
  echo "# $moments moments, TRAINYARD_SEED=$seed" >&3
  RANDOM=$seed
  set_watchdog "$watchdog_s"
  tytrain epochs=10000 batch=16 val=false --gpus 4 --nodes 2 --auto-resume
  for ((moment = 0; moment < moments; ++moment)); do
    strike "$moment" "$([[ $((moment % 2)) == 0 ]] && echo STOP || echo KILL)"
  done
  local before
  before=$(epochs_of "$tytest_user" "$run_id")
  eventually 250 has_epochs $((before + 1))
  # Each rank computes with what Slurm gave it.
  grep -q "^ranks 0-3: 1 thread (SLURM_CPUS_PER_TASK) on CPUs .*, 1 for loading" "$run_dir"/slurm-*.out

  as "$tytest_user" trainyard stop "$run_id"
  eventually 250 is_over "$run_id"
  state_is stopped
  expect_exact_bill $((moments + 1))
  echo "# $((moments + 1)) attempts, charged $(as "$tytest_user" trainyard show "$run_id" --json | jq .charged) milli-GPU-s, to the second what Slurm recorded" >&3
}

attempt_has_started() {
  jq --slurp --exit-status --argjson attempt "$1" \
    'map(select(.start and .attempt == $attempt)) | length > 0' "$run_dir/attempts.jsonl" >/dev/null 2>&1
}
# What the attempt that lost its node cost, and what was given back of it: "milli-GPU-s milli-GPU-s".
lost_and_given_back() {
  as "$tytest_user" trainyard show "$run_id" --json | jq -r \
    '.segments[].charges[] | select(.state == "NODE_FAIL") | "\(.charged) \(.refunded)"'
}
has_lost_attempt() { [[ $(lost_and_given_back) =~ ^[1-9] ]]; }

@test "ranks: a run whose node is lost goes on by itself in another attempt, and the lost one is given back" {
  eventually 60 nodes_are_idle
  local job node before cost back
  tytrain epochs=10000 batch=8 val=false --gpus 1 --auto-resume
  eventually 250 has_epochs 1
  job=$(as "$tytest_user" trainyard show "$run_id" --json | jq -r '.segments[-1].job')
  node=$(as "$tytest_user" squeue --noheader --jobs "$job" --format %N)
  [[ $node == "$tytest"-n[12] ]]
  echo "$node" >"$BATS_TEST_TMPDIR/down"
  as root scontrol update nodename="$node" state=down reason=test
  # Nobody does anything about it. Slurm lets a requeued job wait for two minutes.
  eventually 250 attempt_has_started 1
  eventually 250 grep -q "^resuming .* at epoch" "$run_dir"/slurm-*.out
  before=$(epochs_of "$tytest_user" "$run_id")
  eventually 250 has_epochs $((before + 1))
  eventually 250 has_lost_attempt
  as root scontrol update nodename="$node" state=resume || true

  as "$tytest_user" trainyard stop "$run_id"
  eventually 250 is_over "$run_id"
  state_is stopped
  read -r cost back <<<"$(lost_and_given_back)"
  echo "the lost attempt: $cost charged, $back given back"
  [[ $cost -gt 0 && $cost -eq $back ]]
  [[ $(as "$tytest_user" trainyard show "$run_id" --json |
    jq '[.segments[].charges[].refunded] | add') -eq $back ]]
  expect_exact_bill 2
}

# By its script, or by Slurm, which puts the job of a node that does not answer back into the queue.
has_ended() {
  attempt_ended "$1" ".code != 0" ||
    [[ $(as "$tytest_user" squeue --noheader --user "$tytest_user" --format %T) != RUNNING ]]
}
@test "ranks: a host whose link is cut is named, and the run goes on by itself when the host is back" {
  eventually 60 nodes_are_idle
  local watchdog_s=15 cut_at ended_at before
  set_watchdog "$watchdog_s"
  tytrain epochs=10000 batch=16 val=false --gpus 4 --nodes 2 --auto-resume
  eventually 250 has_epochs 1
  # The second host's end of its cable; ranks 2 and 3 compute there.
  sed -n 's/^bridge=\(.*\)/\1-2/p' "$tytest_state/cluster.conf" >"$BATS_TEST_TMPDIR/cut"
  ip link set "$(<"$BATS_TEST_TMPDIR/cut")" down
  cut_at=$(date +%s)
  echo "# cut at $(date +%T), after epoch $(epochs_of "$tytest_user" "$run_id")" >&3
  # The ranks that are left end in time, and say who is not.
  says_who() { grep -qE "watchdog: rank [23] \($tytest-n2[,)].*silent" "$run_dir"/slurm-*.out; }
  eventually 250 says_who
  ended_at=$(date +%s)
  echo "# named $((ended_at - cut_at)) s later" >&3
  ((ended_at - cut_at <= watchdog_s + 30))
  jq --exit-status '.code == 31' "$run_dir/exit.json"
  eventually 250 has_ended 0
  ip link set "$(<"$BATS_TEST_TMPDIR/cut")" up
  as root scontrol update nodename="$tytest-n2" state=resume 2>/dev/null || true
  # Nobody does anything about the run.
  eventually 250 has_resumed 1
  echo "# goes on $(($(date +%s) - cut_at)) s after the cut" >&3
  before=$(epochs_of "$tytest_user" "$run_id")
  eventually 250 has_epochs $((before + 1))

  as "$tytest_user" trainyard stop "$run_id"
  eventually 250 is_over "$run_id"
  state_is stopped
  expect_exact_bill 2
}

# The service may not have seen yet what else runs; then it is asked again.
gpus_now() { as "$tytest_user" trainyard show "$run_id" --json | jq '.segments[-1].plan.gpus'; }
starts_on_two() {
  tytrain epochs=10000 batch=16 val=false --gpus 1-4
  [[ $(gpus_now) -eq 2 ]] && return
  as "$tytest_user" trainyard cancel "$run_id" --wait
  return 1
}
resumes_on_four() {
  as "$tytest_user" trainyard resume "$run_id"
  [[ $(gpus_now) -eq 4 ]] && return
  as "$tytest_user" trainyard stop "$run_id" --wait
  return 1
}
trained_on() { grep -q "^global batch 16 = $1" "$run_dir"/slurm-*.out; }
job_is() { [[ $(as "$tytest_user" squeue --noheader --jobs "$1" --format %T 2>/dev/null) == "$2" ]]; }

@test "ranks: a range of GPUs takes what is free, at the start and when it is resumed" {
  eventually 60 nodes_are_idle
  local blocker before
  blocker=$(as "$tytest_user" sbatch --parsable --gres=gpu:h100:2 --nodes 1 --ntasks 1 --time 15 \
    --wrap 'sleep 900')
  eventually 60 job_is "$blocker" RUNNING
  eventually 120 starts_on_two
  eventually 250 has_epochs 1
  as "$tytest_user" trainyard stop "$run_id" --wait
  state_is stopped
  as "$tytest_user" scancel "$blocker"
  eventually 60 job_is "$blocker" ""
  eventually 120 resumes_on_four
  # A resume that still got two may have trained meanwhile.
  eventually 250 trained_on "4 ranks x 4"
  before=$(epochs_of "$tytest_user" "$run_id")
  eventually 250 has_epochs $((before + 1))
  as "$tytest_user" trainyard stop "$run_id" --wait
  state_is stopped
  grep -q "^global batch 16 = 2 ranks x 8" "$run_dir"/slurm-*.out
  grep -q "^global batch 16 = 4 ranks x 4" "$run_dir"/slurm-*.out
  expect_exact_bill
}
