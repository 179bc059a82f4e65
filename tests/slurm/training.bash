# SPDX-License-Identifier: GPL-3.0-or-later
#
# Loaded after `cluster`: trainings of a minute's limit on tiny scenes.

scenes_for() { # USER...
  local user
  for user in "$@"; do
    as "$user" bash -c 'test -e tiny/data.yaml ||
      trainyard-trainer scenes --out tiny --seed 1 --train 24 --val 8 --size 96'
  done
}

# train_as USER OPTIONS...: on one GPU with a limit of one minute; prints the id of the run.
train_as() {
  local user=$1 answer
  shift
  answer=$(as "$user" trainyard train data=tiny/data.yaml model=yolov8n imgsz=64 batch=8 workers=1 seed=7 \
    --gpus 1 --type h100-metered --time-limit 1m --json "$@") || {
    echo "$answer" >&2
    return 1
  }
  jq -r .run <<<"$answer"
}
show() { as trainyard trainyard show "$1" --json; }
state_is() { [[ $(show "$1" | jq -r .state) == "$2" ]]; }
is_over() { [[ $(show "$1" | jq -r .state) =~ ^(finished|stopped|cancelled|failed)$ ]]; }
epochs_of() { as "$1" trainyard show "$2" --json | jq -r .epochs_done; }
weights_of() { show "$1" | jq -r '.run_dir + "/weights/last.safetensors"'; }
