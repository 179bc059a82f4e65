#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Bad requests on a real cluster: one message that names every fault with its place, exit code 2 (1
# where the site says no), nothing submitted, nothing held, no folder left.

load cluster

setup_file() {
  cluster_once
  as "$tytest_user" bash -c 'test -e tiny/data.yaml ||
    trainyard-trainer scenes --out tiny --seed 1 --train 24 --val 8 --size 96'
  as trainyard trainyard admin grant "user:$tytest_user" 20h --id tytest-grant-0001
  as "$tytest_user" bash -c '
    rm -rf bad && mkdir -p bad/images/train bad/images/val bad/labels/train bad/empty/images bad/broken
    cp tiny/images/train/*.jpg bad/images/train/ && cp tiny/images/val/*.jpg bad/images/val/
    first=$(basename "$(ls tiny/images/train/*.jpg | head -1)" .jpg)
    printf "0 0.5 0.5 0.2 0.2\n9 0.5 0.5 0.2 0.2\n0 0.5 nonsense 0.2 0.2\n0 1.5 0.5 0.2 0.2\n" >bad/labels/train/$first.txt
    printf "path: .\ntrain: images/train\nval: images/val\nnames: [a, b]\n" >bad/labels.yaml
    printf "path: .\ntrain: empty/images\nval: empty/images\nnames: [a, b]\n" >bad/noimages.yaml
    printf "path: .\nval: images/val\nnames: [a, b]\n" >bad/notrain.yaml
    printf "path: .\ntrain: images/train\nval: images/val\n" >bad/nonames.yaml
    printf "path: .\ntrain: images/train\nval: images/val\nnames: [a]\nnc: 3\n" >bad/nc.yaml
    printf "train: [unclosed\n" >bad/syntax.yaml
    printf "[train]\ndata = \"tiny/data.yaml\nmodel = 3\n" >bad/syntax.toml
    printf "[train]\ndata = \"../tiny/data.yaml\"\nmodle = \"yolov8n\"\nepochs = -3\n[resources]\ngpus = 0\n" >bad/many.toml
    mkdir -p bad/locked && chmod 500 bad/locked'
}

setup() { folders_before=$(as "$tytest_user" bash -c 'ls trainyard/runs 2>/dev/null | wc -l'); }

# refused STATUS WORDS -- TRAIN WORDS...: what is said, and that nothing is left.
refused() {
  local want=$1 words=()
  shift
  while [[ $1 != -- ]]; do words+=("$1") && shift; done
  shift
  run as "$tytest_user" trainyard train "$@"
  echo "status $status"
  echo "$output"
  [[ $status -eq $want ]]
  local word
  for word in "${words[@]}"; do [[ $output == *"$word"* ]]; done
  [[ -z $(as "$tytest_user" squeue --noheader --me) ]]
  [[ $(as "$tytest_user" trainyard funds --json | jq '[.funds[].held] | add') -eq 0 ]]
  [[ $(as "$tytest_user" bash -c 'ls trainyard/runs 2>/dev/null | wc -l') -eq $folders_before ]]
}

@test "unknown model" { refused 2 'yolov9z' 'yolov8n' -- data=tiny/data.yaml model=yolov9z; }
@test "no data" { refused 2 'data' -- model=yolov8n; }
@test "missing data.yaml" { refused 2 'nowhere.yaml' -- data=nowhere.yaml; }
@test "no images" { refused 2 'noimages.yaml' -- data=bad/noimages.yaml; }
@test "no train split" { refused 2 'notrain.yaml' 'train' -- data=bad/notrain.yaml; }
@test "no names" { refused 2 'nonames.yaml' 'names' -- data=bad/nonames.yaml; }
@test "names against nc" { refused 2 'nc.yaml' '3' '1' -- data=bad/nc.yaml; }
@test "YAML syntax" { refused 2 'syntax.yaml:' -- data=bad/syntax.yaml; }
@test "bad label rows, all of them" { refused 2 '.txt:2' '.txt:3' '.txt:4' -- data=bad/labels.yaml; }
@test "gpus=0" { refused 2 '--gpus' '0' -- data=tiny/data.yaml --gpus 0; }
@test "nodes=-1" { refused 2 '--nodes' '-1' -- data=tiny/data.yaml --nodes=-1; }
@test "time=-1" { refused 2 'time' '-1' -- data=tiny/data.yaml time=-1; }
@test "epochs=0" { refused 2 'epochs' '0' -- data=tiny/data.yaml epochs=0; }
@test "epochs=many" { refused 2 'epochs' 'many' -- data=tiny/data.yaml epochs=many; }
@test "imgsz is no multiple of 32" { refused 2 'imgsz' '100' '32' -- data=tiny/data.yaml imgsz=100; }
@test "unknown key, with the nearest" { refused 2 'epoch' 'epochs' -- data=tiny/data.yaml epoch=3; }
@test "unwritable folder" { refused 2 'locked' -- data=tiny/data.yaml epochs=1 --runs bad/locked; }
@test "type that does not exist" { refused 2 'b300' 'h100' -- data=tiny/data.yaml --type b300; }
@test "more GPUs than there are" { refused 1 '64' '4' -- data=tiny/data.yaml batch=64 --gpus 64; }
@test "batch that the ranks do not divide" { refused 1 '7' '2' -- data=tiny/data.yaml batch=7 --gpus 2; }
@test "TOML syntax" { refused 2 'syntax.toml:2' -- bad/syntax.toml; }
@test "missing request file" { refused 2 'nowhere.toml' -- nowhere.toml; }
@test "all faults of a file at once, with their lines" {
  refused 2 'many.toml:3' 'model' 'many.toml:4' '-3' 'many.toml:6' 'gpus' -- bad/many.toml
}
@test "bad duration" { refused 2 '--time-limit' 'soon' -- data=tiny/data.yaml --time-limit soon; }
@test "bad fund" { refused 2 '--fund' 'mine' -- data=tiny/data.yaml --fund mine; }
@test "somebody else's fund" { refused 1 'user:root' -- data=tiny/data.yaml epochs=1 --fund user:root; }
@test "a Slurm option that Trainyard sets itself" { refused 2 'time' -- data=tiny/data.yaml --slurm time=10; }
@test "pretrained weights that are not there" { refused 2 'nowhere.safetensors' -- data=tiny/data.yaml pretrained=nowhere.safetensors; }
@test "a root user" {
  run cluster run --as root -- trainyard train data=/nowhere/data.yaml
  [[ $status -ne 0 ]]
}
@test "unknown option" { refused 2 -- data=tiny/data.yaml --gpu-count 3; }
