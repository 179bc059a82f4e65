#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-3.0-or-later
#
# The life of runs on a real Slurm, with the real trainer: what is charged, what is refused, and what
# is left after something was killed.

load cluster

setup_file() {
  cluster_once
  as "$tytest_user" bash -c 'test -e tiny/data.yaml ||
    trainyard-trainer scenes --out tiny --seed 1 --train 24 --val 8 --size 96'
  as trainyard trainyard admin grant "user:$tytest_user" 20h --id tytest-grant-0001
}

# tytrain OPTIONS...: a tiny training; the id of the run in $run_id. One epoch takes about a second.
tytrain() {
  local answer
  answer=$(as "$tytest_user" trainyard train data=tiny/data.yaml model=yolov8n imgsz=64 batch=8 \
    workers=1 --gpus 2 --time-limit 4m --json "$@")
  run_id=$(jq -r .run <<<"$answer")
  job_id=$(jq -r .job <<<"$answer")
}
show() { as "$tytest_user" trainyard show "$run_id" --json; }
state_is() { [[ $(show | jq -r .state) == "$1" ]]; }
is_over() { [[ $(show | jq -r .state) =~ ^(finished|stopped|cancelled|failed)$ ]]; }
epochs_done() { show | jq -r .epochs_done; }
has_epochs() { [[ $(epochs_done) -ge $1 ]]; }
held_now() { as "$tytest_user" trainyard funds --json | jq '[.funds[].held] | add'; }
queue() { as "$tytest_user" squeue --noheader --me; }

# GPUs x seconds of all allocations of the run's jobs, from Slurm's own client.
gpu_seconds_of_slurm() {
  local jobs
  jobs=$(show | jq -r '[.segments[].job | tostring] | join(",")')
  as "$tytest_user" sacct --duplicates --allocations --noheader --parsable2 --jobs "$jobs" \
    --format=ElapsedRaw,AllocTRES |
    sed -nE 's/^([0-9]+)\|.*gres\/gpu=([0-9]+).*/\1 \2/p' | awk '{sum += $1 * $2} END {print sum + 0}'
}
# The bill equals Slurm's record, nothing is held any more, and the books add up.
expect_exact_bill() {
  local charged slurm
  charged=$(show | jq .charged)
  slurm=$(gpu_seconds_of_slurm)
  echo "charged $charged milli-GPU-s, Slurm recorded $slurm GPU-s"
  [[ $slurm -gt 0 ]] && [[ $charged -eq $((slurm * 1000)) ]]
  [[ $(show | jq .held) -eq 0 ]]
  as trainyard trainyard admin audit
}

@test "a run belongs to its user, finishes, and its bill equals Slurm's record" {
  tytrain epochs=2
  eventually 20 bash -c "[[ \$($repository/scripts/cluster --name $tytest run --as $tytest_user -- squeue -h -j $job_id -o %T) == RUNNING ]]"
  # Who: the job is the user's, and no process of ours but the daemons is root's.
  [[ $(as "$tytest_user" squeue -h -j "$job_id" -o %u) == "$tytest_user" ]]
  [[ -z $(pgrep --uid root --exact trainyardd) ]]
  [[ -z $(pgrep --uid root --full 'bin/trainyard-trainer train') ]]
  [[ -n $(pgrep --uid "$tytest_user" --full 'bin/trainyard-trainer train') ]]
  eventually 100 is_over
  state_is finished
  [[ $(epochs_done) -eq 2 ]]
  [[ $(show | jq -r '.metrics | has("metrics/mAP50-95(B)")') == true ]]
  expect_exact_bill
  local folder
  folder=$(show | jq -r .run_dir)
  [[ -s $folder/results.csv && -s $folder/weights/best.safetensors && -s $folder/metrics.jsonl ]]
}

@test "two hosts with two ranks each train over TCP under their own names" {
  tytrain epochs=1 batch=16 --gpus 4 --nodes 2
  eventually 120 is_over
  state_is finished
  [[ $(show | jq -r '.segments[0].nodes') =~ n\[?1[-,]2\]? ]]
  # The trainer itself says which hosts its ranks stood on.
  as "$tytest_user" trainyard logs "$run_id" -n 500 >"$BATS_TEST_TMPDIR/log"
  grep -q "$tytest-n1" "$BATS_TEST_TMPDIR/log"
  grep -q "$tytest-n2" "$BATS_TEST_TMPDIR/log"
  expect_exact_bill
}

@test "more than the fund has is refused with both numbers and what would fit" {
  run as "$tytest_user" trainyard train data=tiny/data.yaml epochs=5 --gpus 2 --time-limit 20h
  echo "$output"
  [[ $status -eq 1 ]]
  [[ $output == *"GPU-h available"* && $output == *"needs a hold of 40."* && $output == *"would fit"* ]]
  [[ -z $(queue) ]]
  [[ $(held_now) -eq 0 ]]
}

@test "a dry run prints plan, quote and script and leaves nothing" {
  run as "$tytest_user" trainyard train data=tiny/data.yaml epochs=5 --gpus 2 --dry-run
  [[ $status -eq 0 ]]
  [[ $output == *"plan "* && $output == *"quote "* && $output == *"srun --mpi=pmix"* ]]
  [[ -z $(queue) ]]
  [[ $(held_now) -eq 0 ]]
}

# The price stays for the tests that follow; a later one takes its place.
@test "a dry run says as JSON when it would start and end, what it costs, and what is left of the fund" {
  local plan available now
  as trainyard trainyard admin price 0.74 EUR
  available=$(as "$tytest_user" trainyard funds --json |
    jq ".funds[] | select(.fund == \"user:$tytest_user\") | .available")
  now=$(date +%s)
  dry_run() {
    as "$tytest_user" trainyard train data=tiny/data.yaml workers=1 --gpus 2 --dry-run "$@"
  }
  plan=$(dry_run time=0.5 --json)
  jq 'del(.script)' <<<"$plan"
  # Half an hour of two GPUs is an hour, and never more: the limit leaves what Slurm takes to end a job.
  jq -e '.dry_run and .plan.gpus == 2 and .plan.is_timed' <<<"$plan"
  jq -e '.plan.quote | .weight_milli == 1000 and .expected_s == 1800
    and .expected_milli_gpu_s == 2 * 1800 * 1000' <<<"$plan"
  jq -e '.plan.quote.hold_milli_gpu_s == 2 * 1800 * 1000 and .plan.time_limit_s < 1800
    and .plan.time_limit_s >= 1500' <<<"$plan"
  [[ $(jq .available <<<"$plan") -eq $available ]]
  jq -e '.balance_after == .available - .plan.quote.expected_milli_gpu_s' <<<"$plan"
  jq -e '.plan.quote | .price_minor == 74 and .currency == "EUR"' <<<"$plan"
  # Nothing is in the way of a job: it begins at once, by Slurm's word, within its own minute.
  jq -e ".expected_start >= $now - 5 and .expected_start <= $now + 300
    and .expected_end == .expected_start + 1800" <<<"$plan"
  # By epochs more is held than is expected: what is left is told by what is expected.
  plan=$(dry_run epochs=5 --json)
  jq -e '.plan.quote.hold_milli_gpu_s > .plan.quote.expected_milli_gpu_s
    and .balance_after == .available - .plan.quote.expected_milli_gpu_s
    and .expected_end == .expected_start + .plan.quote.expected_s' <<<"$plan"
  # For people: an hour at 0.74.
  run dry_run time=0.5
  echo "$output"
  [[ $output == *"money    about 0.74 EUR"* && $output == *"times    expected to start at "*", to end at "* ]]
  [[ -z $(queue) ]]
  [[ $(held_now) -eq 0 ]]
}

@test "stop saves and leaves; resume goes on; the charge is the sum of both" {
  tytrain epochs=12
  eventually 60 has_epochs 2
  as "$tytest_user" trainyard stop "$run_id" --wait
  state_is stopped
  local before
  before=$(epochs_done)
  [[ $before -ge 2 && $before -lt 12 ]]
  [[ $(show | jq -r .reason) == *"stopped by $tytest_user; the checkpoint is saved"* ]]
  expect_exact_bill
  as "$tytest_user" trainyard resume "$run_id"
  eventually 120 is_over
  state_is finished
  [[ $(show | jq '.segments | length') -eq 2 ]]
  expect_exact_bill
  # One row an epoch, each once, in order.
  local folder
  folder=$(show | jq -r .run_dir)
  [[ $(tail -n +2 "$folder/results.csv" | cut -d, -f1 | tr -d ' ' | paste -sd' ') == "$(seq -s' ' 12)" ]]
}

@test "scancel: the run ends with its reason, is charged exactly, and can be resumed" {
  tytrain epochs=40
  eventually 60 has_epochs 1
  as "$tytest_user" scancel "$job_id"
  eventually 60 is_over
  state_is cancelled
  [[ $(show | jq -r .reason) == *"scancel"*"$tytest_user"* ]]
  expect_exact_bill
}

@test "a rank is killed: the run ends within a minute, says why, is charged once, and is resumed" {
  tytrain epochs=8
  eventually 60 has_epochs 1
  pkill -KILL --newest --uid "$tytest_user" --full 'bin/trainyard-trainer train'
  eventually 60 is_over
  state_is failed
  [[ $(show | jq -r .reason) == *"signal 9"* || $(show | jq -r .reason) == *"exit code"* ]]
  as "$tytest_user" trainyard show "$run_id"
  [[ $(show | jq '[.segments[].charges | length] | add') -eq 1 ]]
  expect_exact_bill
  as "$tytest_user" trainyard resume "$run_id"
  eventually 120 is_over
  state_is finished
  expect_exact_bill
}

@test "trainyardd killed with -9 in queue, run and end: the same books" {
  # In the queue: the job waits for GPUs that another holds.
  as "$tytest_user" sbatch --wrap 'sleep 300' --gres=gpu:h100:2 -N2 -n2 --time=10 --parsable >"$BATS_TEST_TMPDIR/blocker"
  tytrain epochs=4
  eventually 20 state_is queued
  kill_service
  as "$tytest_user" scancel "$(cat "$BATS_TEST_TMPDIR/blocker")"
  start_service
  eventually 60 has_epochs 1
  # While it runs and ends.
  kill_service
  eventually 100 bash -c "[[ -z \$($repository/scripts/cluster --name $tytest run --as $tytest_user -- squeue -h -j $job_id 2>/dev/null) ]]"
  start_service
  eventually 60 is_over
  state_is finished
  expect_exact_bill
}

@test "slurmctld and slurmdbd restarted during a run: the same books" {
  tytrain epochs=10
  eventually 60 has_epochs 1
  cluster restart slurmdbd
  cluster restart slurmctld
  eventually 150 is_over
  state_is finished
  expect_exact_bill
}

@test "a requeued job: every attempt is charged and the training goes on" {
  tytrain epochs=8
  eventually 60 has_epochs 2
  as root scontrol requeue "$job_id"
  eventually 150 is_over
  state_is finished
  [[ $(show | jq '.segments[0].charges | length') -eq 2 ]]
  expect_exact_bill
}

@test "a limit that was raised beyond the hold is cut back" {
  tytrain epochs=30
  eventually 60 has_epochs 1
  as root scontrol update "JobId=$job_id" TimeLimit=60
  eventually 20 bash -c "[[ \$($repository/scripts/cluster --name $tytest run --as $tytest_user -- squeue -h -j $job_id -o %l) == 4:00 ]]"
  as "$tytest_user" trainyard cancel "$run_id" --wait
  state_is cancelled
  expect_exact_bill
}

@test "a timed run ends inside its hours with a usable model" {
  tytrain_timed=$(as "$tytest_user" trainyard train data=tiny/data.yaml model=yolov8n imgsz=64 batch=8 \
    workers=1 time=0.07 --gpus 2 --json)
  run_id=$(jq -r .run <<<"$tytrain_timed")
  eventually 260 is_over
  state_is finished
  [[ $(show | jq .charged) -le $((2 * 252 * 1000)) ]]
  [[ -s $(show | jq -r .run_dir)/weights/best.safetensors ]]
  expect_exact_bill
}

@test "nobody else sees or stops a run" {
  cluster user add tybob
  tytrain epochs=1
  run as tybob trainyard show "$run_id"
  [[ $status -eq 1 && $output == *"belongs to $tytest_user"* ]]
  run as tybob trainyard stop "$run_id"
  [[ $status -eq 1 && $output == *"belongs to $tytest_user"* ]]
  run as tybob trainyard admin grant user:tybob 100h
  [[ $status -eq 1 && $output == *"not an admin"* ]]
  eventually 60 is_over
}
