#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Hours as a user gets and spends them: a voucher that an admin made, a quote, a run that is held by it.

load cluster
load training

setup_file() {
  # New ones each time: their wallets have what these tests give them.
  export buyer=tybuyer$((RANDOM % 10000)) neighbour=tynext$((RANDOM % 10000))
  cluster_once
  cluster user add "$buyer"
  cluster user add "$neighbour"
  scenes_for "$buyer" "$neighbour"
  # So that a test can see one expire.
  printf '\n[books]\nquote_valid_s = 90\n' >>"$tytest_state/etc/site.toml"
  cluster restart trainyardd
}
teardown_file() {
  [[ $EUID == 0 ]] || return 0
  sed -i '/^\[books\]$/,$d' "$tytest_state/etc/site.toml"
  cluster restart trainyardd
}

# refused WORDS COMMAND...: with exit code 1, and as JSON too.
refused() {
  local words=$1
  shift
  run "$@" --json
  echo "status $status: $output"
  [[ $status -eq 1 ]]
  [[ $(jq -r .kind <<<"$output") == refused ]]
  [[ $(jq -r '.messages[]' <<<"$output") == *"$words"* ]]
}
training=(data=tiny/data.yaml model=yolov8n imgsz=64 batch=8 workers=1 seed=7 epochs=1 --gpus 1
  --type h100-metered)
quote_of() { as "$1" trainyard quote "${training[@]}" --json; }
available() { as "$1" trainyard wallet show --json | jq .available; }
has_expired() { (($(date +%s) > $1)); }

@test "wallet: a voucher of an admin tops up once; a second hand and a forger get nothing" {
  local code changed
  run as "$buyer" trainyard admin voucher 2h
  [[ $status -eq 1 ]]
  code=$(as trainyard trainyard admin voucher 2h)
  changed=${code%?}$([[ $code == *0 ]] && echo 1 || echo 0)
  refused 'not made here' as "$buyer" trainyard wallet topup --voucher "$changed"
  refused 'begins with TYV1' as "$buyer" trainyard wallet topup --voucher TYV1
  run as "$buyer" trainyard wallet topup --voucher "$code"
  echo "$output"
  [[ $status -eq 0 && $output == *"user:$buyer got 2.000 GPU-h; it has 2.000 GPU-h available"* ]]
  # The same user again: the same answer, and nothing more.
  run as "$buyer" trainyard wallet topup --voucher "$code" --json
  [[ $status -eq 0 && $(jq .was_known <<<"$output") == true ]]
  refused 'was used before' as "$neighbour" trainyard wallet topup --voucher "$code"
  [[ $(available "$buyer") -eq 7200000 ]]
  as "$buyer" trainyard statement --json | jq -e 'length == 1 and .[0].kind == "grant"'
  as "$buyer" trainyard wallet receipts --json | jq -e '.receipts == []'
  run as "$buyer" trainyard wallet topup
  [[ $status -eq 2 ]]
}

@test "wallet, scenario 26: deposits that come at once, while a job is paid, all count" {
  local codes=() each job pids=() before
  fund() { as "$buyer" trainyard funds --json | jq ".funds[] | select(.fund == \"user:$buyer\") | .$1"; }
  as trainyard trainyard admin grant "user:$buyer" 1h
  before=$(fund granted)
  for each in 1 2 3; do codes+=("$(as trainyard trainyard admin voucher 2h)"); done
  job=$(as "$buyer" sbatch --parsable --partition=metered --gpus=1 --time=2 --output=/dev/null \
    --wrap 'sleep 2')
  for each in 1 2 3 4 5 6; do
    as trainyard trainyard admin grant "user:$buyer" 1h >/dev/null 3>&- & pids+=($!)
  done
  for each in "${codes[@]}"; do
    as "$buyer" trainyard wallet topup --voucher "$each" >/dev/null 3>&- & pids+=($!)
  done
  for each in "${pids[@]}"; do wait "$each"; done
  is_paid() { [[ $(fund held) -eq 0 && $(fund charged) -gt 0 ]]; }
  eventually 60 is_paid || { as "$buyer" squeue --jobs "$job"; return 1; }
  [[ $(fund granted) -eq $((before + 12 * 3600000)) ]]
  [[ $(fund available) -eq $(($(fund granted) - $(fund charged))) ]]
  as trainyard trainyard admin audit
}

@test "wallet: a quote pays for one run of its own user, at what was quoted, until it expires" {
  local old mine id run_id
  as "$neighbour" trainyard wallet topup --voucher "$(as trainyard trainyard admin voucher 2h)"
  as "$buyer" trainyard wallet topup --voucher "$(as trainyard trainyard admin voucher 2h)"
  old=$(quote_of "$neighbour")
  mine=$(quote_of "$buyer")
  echo "$mine"
  id=$(jq -r .quote <<<"$mine")
  [[ $(jq -r .fund <<<"$mine") == "user:$buyer" && $(jq .gpus <<<"$mine") -eq 1 ]]
  run as "$buyer" trainyard quote "${training[@]}"
  [[ $status -eq 0 && $output == *"trainyard train ... --quote "* ]]

  refused "quote $id is not known" as "$neighbour" trainyard train "${training[@]}" --quote "$id"
  refused 'quote nosuch is not known' as "$buyer" trainyard train "${training[@]}" --quote nosuch
  refused 'this run asks for 2' as "$buyer" trainyard train "${training[@]}" --gpus 2 --quote "$id"

  run_id=$(as "$buyer" trainyard train "${training[@]}" --quote "$id" --json | jq -r .run)
  show "$run_id" | jq .segments[0].plan.quote
  [[ $(show "$run_id" | jq .segments[0].plan.quote.hold_milli_gpu_s) -eq $(jq .hold <<<"$mine") ]]
  refused "quote $id was used by run $run_id" as "$buyer" trainyard train "${training[@]}" --quote "$id"

  eventually 180 has_expired "$(jq .expires <<<"$old")"
  refused 'expired at' as "$neighbour" trainyard train "${training[@]}" \
    --quote "$(jq -r .quote <<<"$old")"
  [[ -z $(as "$neighbour" squeue --noheader --me) ]]
  eventually 300 is_over "$run_id"
  state_is "$run_id" finished
  [[ $(show "$run_id" | jq .charged) -gt 0 ]]
  [[ $(show "$run_id" | jq .charged) -le $(jq .hold <<<"$mine") ]]
  as trainyard trainyard admin audit
}
