#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-3.0-or-later
#
# A user who tries to have more than his fund holds, on the managed partition "metered": what he used is
# never more than he was granted, whatever he does. Beside it plain_jobs.bats has what each door says.

load cluster
load plain

granted_s=270

setup_file() {
  # A new one each time: his fund has to the second what the test gives it.
  export plain_user=tyeve$((RANDOM % 10000))
  cluster_once
  cluster user add "$plain_user"
  cluster user add "$tytest_user"
  as trainyard trainyard admin grant "user:$plain_user" "${granted_s}s"
  as trainyard trainyard admin grant "user:$tytest_user" 20h --id tytest-grant-0001
  as trainyard trainyard admin grant group:root 1h --id tytest-grant-0002
  remember_explained
}

# attempt COMMAND...: whether it works is not the point, only what it costs.
attempt() {
  run clara "$@"
  echo "$*: status $status: ${output:0:200}"
}
runs_nothing() { [[ -z $(clara squeue --noheader --me --states=RUNNING,COMPLETING,CONFIGURING) ]]; }
# Requests that the fund cannot pay: none of them may start.
never_started() { [[ -z $(clara sacct --noheader --allocations --jobs "$1" --format=NodeList | grep -v 'None assigned') ]]; }
has_reason() { [[ $(comment_of "$1") == *"[trainyard: "* ]]; }
all_have_reason() {
  local job
  for job in "$@"; do has_reason "$job" || return 1; done
}

@test "overspend: a job that is too dear cannot be edited, released or linked into a start" {
  local jobs=() job victim
  # More GPU-time than there is, in every dress: a long limit, a short --time-min, an array, more nodes
  # than at least, somebody else's run, another fund, a job that waits for one that has ended.
  victim=$(as "$tytest_user" sbatch --parsable --partition=metered --time=2 --gpus=1 \
    --output=/dev/null --wrap "sleep 1")
  eventually 60 state_is "$victim" COMPLETED
  local stamp
  stamp=$(field "$victim" AdminComment)
  plain --gpus=2 --time=60 -- 300 && jobs+=("$job_id")
  plain --gpus=1 --time=60 --time-min=1 -- 300 && jobs+=("$job_id")
  plain --gpus=1 --array=0-9 --time=2 -- 300 && jobs+=("$job_id")
  plain --gpus=1 --time=60 --dependency="afterany:$victim" -- 300 && jobs+=("$job_id")
  plain --gpus=1 --comment="trainyard:$(cut -d: -f2 <<<"$stamp"):0" --time=60 -- 300 && jobs+=("$job_id")
  plain --gpus=1 --comment="$stamp" --time=60 -- 300 && jobs+=("$job_id")
  plain --gpus=1 --comment=fund="user:$tytest_user" -- 300 && jobs+=("$job_id")
  plain --gpus=1 --fund=group:root -- 300 && jobs+=("$job_id")
  eventually 120 all_have_reason "${jobs[@]}" || {
    cluster run -- squeue --user "$plain_user" --format '%i %T %r %k'
    return 1
  }
  for job in "${jobs[@]}"; do
    local edit limit
    limit=$(field "$job" TimeLimit)
    for edit in TimeLimit=255 TimeLimit=65534 TimeLimit=UNLIMITED NumNodes=255 TimeMin=1 \
      EndTime=now+1minute StartTime=now OverSubscribe=NO QOS=normal Nice=-1 Dependency= MinCPUsNode=1 ReqNodeList="$tytest-n1" AdminComment="$stamp" Requeue=1; do
      attempt scontrol update "JobId=$job" "$edit"
    done
    attempt scontrol release "$job"
    attempt scontrol top "$job"
    attempt scontrol resume "$job"
    attempt scontrol requeuehold "$job"
    [[ -n $limit && $(field "$job" TimeLimit) == "$limit" ]]
  done
  # The service has looked once more after all that, and still none has begun.
  plain --gpus=1 --time=1 --begin=now -- 1
  eventually 120 state_is "$job_id" COMPLETED
  for job in "${jobs[@]}"; do never_started "$job"; done
  clara scancel "${jobs[@]}"
  eventually 60 no_jobs
}

@test "overspend: fewer GPUs quoted than Slurm may give are quoted as what it may give" {
  plain --nodes=1-2 --gpus-per-node=1 --time=1 -- 1
  eventually 60 state_is "$job_id" COMPLETED
  [[ $(clara sacct --duplicates --noheader --allocations --jobs "$job_id" --format=JobID | wc -l) -eq 1 ]]
}

@test "overspend: many submissions at once for the last minutes start as far as the fund goes" {
  local i job running
  for i in {1..12}; do
    clara sbatch --partition=metered --gpus=1 --time=1 --output=/dev/null --wrap "sleep 300" \
      >"$BATS_TEST_TMPDIR/$i" 2>&1 &
  done
  wait
  # Each holds 125 s: a minute and the margin. The rest of them waits.
  something_runs() { [[ -n $(clara squeue --noheader --me --states=RUNNING) ]]; }
  eventually 120 something_runs
  running=$(clara squeue --noheader --me --states=RUNNING --format=%i)
  for job in $running; do
    attempt scontrol update "JobId=$job" TimeLimit=60
    attempt scontrol update "JobId=$job" EndTime=now+1hour
    attempt scontrol update "JobId=$job" Partition=gpu
    attempt scontrol update "JobId=$job" Gres=gpu:2
    attempt scontrol suspend "$job"
    attempt srun --jobid="$job" --overlap --gres=gpu:2 --mpi=none true
    attempt sbatch --partition=metered --time=60 --gpus=1 --dependency="expand:$job" --wrap "sleep 300"
  done
  # One is requeued while it runs, and made longer and wider before it starts anew.
  job=$(head -n1 <<<"$running")
  attempt scontrol requeue "$job"
  attempt scontrol update "JobId=$job" TimeLimit=60
  attempt scontrol update "JobId=$job" Gres=gpu:2
  attempt scontrol update "JobId=$job" StartTime=now
  attempt scontrol release "$job"
  # Until the fund cannot pay a further one.
  is_exhausted() { runs_nothing && [[ $(held) -eq 0 && $(available) -lt 125000 ]]; }
  eventually 600 is_exhausted
  attempt scontrol release "$job"
  clara scancel --me
  eventually 60 no_jobs
}

@test "overspend: what he used is not more than he was granted, to the second" {
  expect_exact_books
  local used overspent
  used=$(slurm_gpu_seconds)
  overspent=$((used > granted_s ? used - granted_s : 0))
  echo "# granted $granted_s GPU-s, used $used, overspent $overspent" >&3
  [[ $used -gt 0 && $overspent -eq 0 && $(available) -ge 0 ]]
  [[ $(available) -eq $(((granted_s - used + $(explained)) * 1000 + $(refunded))) ]]
}
