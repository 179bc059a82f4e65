#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-3.0-or-later
#
# A run that needs longer than its first hold, with the real trainer: it is extended where its fund can
# pay, and saves, pauses and goes on where it was where the fund can only pay later.

load cluster
load training

setup_file() {
  cluster_once
  scenes_for "$tytest_user"
  as trainyard trainyard admin grant "user:$tytest_user" 20h --id tytest-grant-0001
}

@test "budget: the hold grows for who can pay; who cannot is paused, told what it takes, and goes on" {
  # Exactly the first hold: one GPU for a minute and the margin. So many epochs last longer than that on
  # any machine, and not ten minutes on a busy one.
  local rich poor poor_user=typoor$((RANDOM % 10000))
  # A new one at each try: his fund has to the second what the test gives it.
  cluster user add "$poor_user"
  scenes_for "$poor_user"
  as trainyard trainyard admin grant "user:$poor_user" 125s
  rich=$(train_as "$tytest_user" epochs=200)
  poor=$(train_as "$poor_user" epochs=200)

  eventually 120 is_over "$poor"
  state_is "$poor" stopped
  [[ $(show "$poor" | jq -r .reason) == "budget: fund user:$poor_user has 0.000 GPU-h available; the next 10 min of this run need 0.167 GPU-h."*"trainyard resume $poor"* ]]
  local paused
  paused=$(epochs_of "$poor_user" "$poor")
  echo "paused after $paused epochs"
  [[ $paused -ge 1 && $paused -lt 200 ]]
  run as "$poor_user" trainyard resume "$poor"
  [[ $status -eq 1 && $output == *"GPU-h available"* ]]

  run as "$poor_user" trainyard wallet topup --voucher "$(as trainyard trainyard admin voucher 1h)"
  echo "$output"
  [[ $status -eq 0 && $output == *"user:$poor_user got 1.000 GPU-h"* ]]
  as "$poor_user" trainyard resume "$poor" --time-limit 12m
  eventually 600 is_over "$rich"
  state_is "$rich" finished
  as trainyard trainyard statement "$rich" --csv | grep -q extend
  eventually 600 is_over "$poor"
  state_is "$poor" finished
  [[ $(epochs_of "$poor_user" "$poor") -eq 200 ]]
  # As if it had never stopped, to the last bit.
  cmp "$(weights_of "$rich")" "$(weights_of "$poor")"
  as trainyard trainyard admin audit
}
