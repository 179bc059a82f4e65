#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Slurm takes the GPUs of a training for a job of a partition that goes first. With --auto-resume it
# goes on by itself when they are free again.

load cluster
load training

setup_file() {
  export urgent_user=tyurs$((RANDOM % 10000)) patient_user=typat$((RANDOM % 10000))
  cluster_once
  cluster user add "$urgent_user"
  cluster user add "$patient_user"
  scenes_for "$patient_user"
  as trainyard trainyard admin grant "user:$patient_user" 20h
  [[ $EUID == 0 ]] || return 0
  cat >>"$tytest_state/etc/extra.conf" <<END
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=urgent Nodes=ALL PriorityTier=10 PreemptMode=OFF DefaultTime=00:02:00 MaxTime=00:10:00 State=UP
END
  cluster restart slurmctld
}
teardown_file() {
  [[ $EUID == 0 ]] || return 0
  sed -i -e '/^Preempt/d' -e '/^PartitionName=urgent /d' "$tytest_state/etc/extra.conf"
  cluster restart slurmctld
}

has_trained() { [[ $(epochs_of "$patient_user" "$1") -ge 3 ]]; }
has_charges() { [[ $(show "$1" | jq '[.segments[].charges[]] | length') -ge $2 ]]; }
job_is() { [[ $(cluster run -- squeue --noheader --states=all --jobs "$1" --format=%T) == "$2" ]]; }
# GPU-seconds of all attempts of a job, by slurmdbd.
recorded() {
  as trainyard sacct --allusers --duplicates --allocations --noheader --parsable2 --jobs "$1" \
    --format=ElapsedRaw | awk '{sum += $1} END {print sum + 0}'
}
# Attempt for attempt. On a busy machine slurmdbd may lose the times of one that was preempted (0 s of 7
# were seen); its charge then stands as the controller showed it.
is_charged_as_recorded() {
  local recorded
  recorded=$(as trainyard sacct --allusers --duplicates --allocations --noheader --parsable2 \
    --jobs "$2" --format=ElapsedRaw | jq --slurp --compact-output .)
  show "$1" | jq --exit-status --argjson recorded "$recorded" '
    [.segments[].charges[]] as $charges | ($charges | length) == ($recorded | length) and
    ([$charges, $recorded] | transpose | all(.[1] == 0 or .[0].charged == .[1] * 1000)) and
    ($recorded[-1] > 0)'
}

@test "preempted: the GPUs go to who comes first, and the training goes on when they are free" {
  local run_id job urgent
  run_id=$(as "$patient_user" trainyard train data=tiny/data.yaml model=yolov8n imgsz=64 batch=8 workers=1 \
    seed=7 epochs=200 --gpus 1 --type h100 --time-limit 10m --auto-resume --json | jq -r .run)
  eventually 120 has_trained "$run_id"
  job=$(show "$run_id" | jq -r '.segments[-1].job')
  # An attempt that is over before slurmdbd has heard of its start has none in its record.
  is_recorded() { [[ $(recorded "$job") -ge 5 ]]; }
  eventually 60 is_recorded
  urgent=$(as "$urgent_user" sbatch --parsable --partition=urgent --nodes=2 --gpus-per-node=2 \
    --output=/dev/null --wrap "sleep 3")
  eventually 120 job_is "$urgent" COMPLETED
  eventually 300 is_over "$run_id"
  show "$run_id" | jq '{state, reason, charged, attempts: [.segments[].charges[] | {state, begin: .start, until: .end}]}'
  as trainyard sacct --allusers --duplicates --allocations --jobs "$job" --format=JobID,State,ElapsedRaw
  state_is "$run_id" finished
  [[ $(epochs_of "$patient_user" "$run_id") -eq 200 ]]
  # Nobody's doing but Slurm's: the same job, and the first of its attempts is one that was preempted.
  [[ $(show "$run_id" | jq '.segments | length') -eq 1 ]]
  [[ $(show "$run_id" | jq -r '.segments[0].charges[0].state') == PREEMPTED ]]
  has_charges "$run_id" 2
  eventually 30 is_charged_as_recorded "$run_id" "$job"
  as trainyard trainyard admin audit
}
