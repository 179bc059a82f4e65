# SPDX-License-Identifier: GPL-3.0-or-later
# shellcheck shell=bash
#
# Loaded after `cluster`: jobs of $plain_user that never heard of Trainyard, and what they may cost.

clara() { as "$plain_user" "$@"; }
# plain OPTIONS... -- SECONDS: submits; the job in $job_id.
plain() {
  local options=()
  while [[ $1 != -- ]]; do options+=("$1") && shift; done
  job_id=$(clara sbatch --parsable --partition=metered --time=3 --output=/dev/null "${options[@]}" \
    --wrap "sleep $2")
}
field() { cluster run -- scontrol show job "$1" | sed -nE "s/.*[[:space:]]$2=([^ ]*).*/\1/p" | head -n1; }
comment_of() { cluster run -- squeue --noheader --jobs "$1" --format=%k; }
state_is() { [[ $(cluster run -- squeue --noheader --states=all --jobs "$1" --format=%T | sort -u) == "$2" ]]; }
waits_for() { [[ $(comment_of "$1") == *"$2"* ]]; }
run_of() { field "$1" AdminComment | cut -d: -f2; }
run_state_is() { [[ $(as trainyard trainyard show "$1" --json | jq -r .state) == "$2" ]]; }
charged() { clara trainyard funds --json | jq '[.funds[].charged] | add'; }
held() { clara trainyard funds --json | jq '[.funds[].held] | add'; }
available() { clara trainyard funds --json | jq '[.funds[].available] | add'; }
# GPU-seconds of slurmdbd's records that a note of the audit explains away, of all users. Those of earlier
# tests are left out by what setup_file remembers.
explained_of_all() { as trainyard trainyard admin audit --json | jq .unallocated_gpu_s; }
remember_explained() {
  explained_before=$(explained_of_all)
  export explained_before
}
explained() { echo $(($(explained_of_all) - explained_before)); }
# What policies gave back: attempts that the start gate kept out are charged like all others before.
refunded() { clara trainyard statement --json | jq '[.[] | select(.kind == "refund") | .amount_mgpus] | add // 0'; }
is_charged_exactly() {
  [[ $(($(charged) + $(refunded))) == "$((($(slurm_gpu_seconds) - $(explained)) * 1000))" ]]
}
nothing_is_held() { [[ $(held) -eq 0 ]]; }
# Allocated GPU-seconds of the user on the managed partition; a suspended job keeps its GPUs.
slurm_gpu_seconds() {
  clara sacct --duplicates --allocations --noheader --parsable2 --partition=metered \
    --starttime=2020-01-01 --format=ElapsedRaw,Suspended,AllocTRES |
    sed -nE 's/^([0-9]+)\|([0-9:]+)\|.*gres\/gpu=([0-9]+).*/\1 \2 \3/p' |
    awk '{split($2, t, ":"); sum += ($1 + t[1] * 3600 + t[2] * 60 + t[3]) * $3} END {print sum + 0}'
}
# Everything has ended: the books equal Slurm's record to the second, and nothing is held.
expect_exact_books() {
  eventually 40 is_charged_exactly || {
    echo "charged $(charged) and given back $(refunded) milli-GPU-s, Slurm recorded $(slurm_gpu_seconds) GPU-s"
    return 1
  }
  eventually 30 nothing_is_held
  as trainyard trainyard admin audit
}
no_jobs() { [[ -z $(clara squeue --noheader --me) ]]; }
