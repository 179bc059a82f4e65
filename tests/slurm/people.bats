#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-3.0-or-later
#
# What needs a real MUNGE, slurmdbd, sbatch or Unix group: questions from other nodes, admins,
# operators, coordinators, --fund.

load cluster

member=tydora
leader=tyedgar
operator=tyodile
helpdesk=tyfriso

setup_file() {
  cluster_once
  cluster user add "$member"
  cluster user add "$leader"
  cluster user add "$operator"
  cluster user add "$helpdesk"
  getent group tyadmins >/dev/null || groupadd tyadmins
  sed -i -e 's/^admin_groups = .*/admin_groups = ["tyadmins"]/' -e '/^slurm_operators = /d' \
    -e 's/^\[rights\]$/&\nslurm_operators = true/' "$tytest_state/etc/site.toml"
  cluster restart trainyardd
  getent group tydesk >/dev/null || groupadd tydesk
  usermod -aG tydesk "$member"
  as trainyard trainyard admin grant group:tydesk 5h --id people-grant-0001
  as trainyard trainyard admin grant "user:$member" 5h --id people-grant-0002
}

teardown_file() {
  [[ $EUID == 0 ]] || return 0
  sed -i -e 's/^admin_groups = .*/admin_groups = []/' -e '/^slurm_operators = /d' \
    "$tytest_state/etc/site.toml"
  cluster restart trainyardd
  groupdel tyadmins 2>/dev/null || true
  groupdel tydesk 2>/dev/null || true
  groupdel tyvision 2>/dev/null || true
}

# The same site, as another node sees it: without the local socket.
away_site() {
  sed 's|^socket = .*|socket = "/nonexistent/trainyard"|' "$tytest_state/etc/site.toml" \
    >"$tytest_state/etc/away.toml"
  chmod 644 "$tytest_state/etc/away.toml"
  echo "$tytest_state/etc/away.toml"
}
field() { cluster run -- scontrol show job "$1" | sed -nE "s/.*[[:space:]]$2=([^ ]*).*/\1/p" | head -n1; }
# Runs for which the fund has paid.
runs_paid_by() {
  as trainyard trainyard statement --fund "$1" --json |
    jq '[.[] | select(.kind == "charge") | .run] | unique | length'
}
has_paid_runs() { [[ $(runs_paid_by "$1") -ge $2 ]]; }
sees_fund() { as "$1" trainyard funds --json | jq -e --arg fund "$2" '.funds | any(.fund == $fund)'; }
fund_of_run() { as trainyard trainyard show "$1" --json | jq -r .fund; }
# All receipts are for admins alone.
is_admin() { as "$1" trainyard admin receipts >/dev/null 2>&1; }
is_no_admin() { ! is_admin "$1"; }
is_held_by() { [[ $(fund_of_run "$1") == "$2" ]]; }

@test "another node asks over TCP, and MUNGE says who asks" {
  local site
  site=$(away_site)
  run as "$member" trainyard --site "$site" --json funds
  echo "$output"
  [ "$status" -eq 0 ]
  [[ $(jq -r '.funds[].fund' <<<"$output" | sort | tr '\n' ' ') == "group:tydesk user:$member " ]]
  # Who is an admin here is one there, and nobody else.
  run as trainyard trainyard --site "$site" admin funds
  [ "$status" -eq 0 ]
  run as "$member" trainyard --site "$site" admin grant "user:$member" 1h
  [ "$status" -eq 1 ]
  [[ $output == *"not an admin"* ]]
}

@test "a question that is sent again, or by nobody, is not answered" {
  local address port credential question line digest
  address=$(sed -nE 's/^address = "(.*):[0-9]+"/\1/p' "$tytest_state/etc/site.toml")
  port=$(sed -nE 's/^address = ".*:([0-9]+)"/\1/p' "$tytest_state/etc/site.toml")
  question='{"verb":"funds"}'
  digest=$(printf %s "$question" | sha256sum | cut -d' ' -f1)
  credential=$(as "$member" munge --socket="$tytest_state/run/munge/socket" \
    --string="trainyard question"$'\n'"$digest")
  line=$(jq -cn --arg credential "$credential" --arg question "$question" '$ARGS.named')
  send() {
    cluster run -- timeout 60 bash -c 'exec 3<>"/dev/tcp/$0/$1"; printf "%s\n" "$2" >&3; head -n1 <&3' \
      "$address" "$port" "$1"
  }
  run send "$line"
  echo "$output"
  [[ $(jq -r .answer <<<"$output" | jq -r .ok) == true ]]
  run send "$line"
  [[ $output == *eplay* ]]
  run send "$question"
  [[ $(jq -r .ok <<<"$output") == false ]]
}

@test "sbatch, srun and salloc know --fund, and that fund pays" {
  local job_id paid
  paid=$(runs_paid_by group:tydesk)
  run as "$member" sbatch --help
  [[ $output == *"--fund"* ]]
  job_id=$(as "$member" sbatch --parsable --partition=metered --time=2 --gpus=1 --output=/dev/null \
    --fund=group:tydesk --wrap "sleep 1")
  echo "admin comment $(field "$job_id" AdminComment)"
  [[ $(field "$job_id" AdminComment) == trainyard-job:*:group:tydesk ]]
  eventually 60 is_held_by "$(field "$job_id" AdminComment | cut -d: -f2)" group:tydesk
  run as "$member" srun --fund=group:tydesk --partition=metered --time=2 --gpus=1 --mpi=none \
    printenv CUDA_VISIBLE_DEVICES
  echo "$output"
  [ "$status" -eq 0 ]
  run as "$member" salloc --fund=group:tydesk --partition=metered --time=2 --gpus=1 true
  echo "$output"
  [ "$status" -eq 0 ]
  eventually 60 has_paid_runs group:tydesk $((paid + 3))
  # Without it the user pays himself.
  job_id=$(as "$member" sbatch --parsable --partition=metered --time=2 --gpus=1 --output=/dev/null \
    --wrap "sleep 1")
  eventually 60 is_held_by "$(field "$job_id" AdminComment | cut -d: -f2)" "user:$member"
  run as "$member" sbatch --fund=vision --partition=metered --gpus=1 --wrap true
  [ "$status" -ne 0 ]
  [[ $output == *"neither user:NAME nor group:NAME"* ]]
}

@test "a Slurm account's fund pays its jobs, and its coordinator sees it; nobody else does" {
  # [managed.accounts] of the private cluster names this account and its fund, which is spent by the
  # members of the Unix group. The coordinator is none of them.
  getent group tyvision >/dev/null || groupadd tyvision
  usermod -aG tyvision "$member"
  as root sacctmgr --immediate add account tyvision description=x organization=x || true
  as root sacctmgr --immediate add user "$leader" "$member" account=tyvision || true
  as root sacctmgr --immediate add coordinator account=tyvision names="$leader" || true
  as trainyard trainyard admin grant group:tyvision 2h --id people-grant-0003
  run cluster run --as trainyard -- trainyardd --site "$tytest_state/etc/site.toml" --rights
  echo "$output"
  [ "$status" -eq 0 ]
  [[ $(jq -r '.coordinators.tyvision[]' <<<"$output") == "$leader" ]]
  [[ $(jq -r '.operators | index("trainyard") != null' <<<"$output") == true ]]

  local job_id
  job_id=$(as "$member" sbatch --parsable --partition=metered --account=tyvision --time=2 --gpus=1 \
    --output=/dev/null --wrap "sleep 1")
  eventually 60 has_paid_runs group:tyvision 1
  [[ $(fund_of_run "$(field "$job_id" AdminComment | cut -d: -f2)") == group:tyvision ]]

  eventually 60 sees_fund "$leader" group:tyvision
  run as "$leader" trainyard statement --fund group:tyvision
  echo "$output"
  [ "$status" -eq 0 ]
  run sees_fund "$tytest_user" group:tyvision
  [ "$status" -ne 0 ]
  run as "$tytest_user" trainyard statement --fund group:tyvision
  echo "$output"
  [ "$status" -eq 1 ]
}

@test "a coordinator shares out what his account has, gives no hours, and rules no other books" {
  eventually 60 sees_fund "$leader" group:tyvision
  run as "$leader" trainyard admin set group:tyvision "cap/$member" 1h
  echo "$output"
  [ "$status" -eq 0 ]
  as "$member" trainyard fund group:tyvision --json |
    jq -e --arg name "cap/$member" '.settings | any(.name == $name)'
  as "$leader" trainyard admin set group:tyvision "cap/$member"
  # denied COMMAND...: refused, with exit code 1.
  denied() {
    run as "$leader" trainyard "$@"
    echo "$*: status $status: $output"
    [[ $status -eq 1 ]]
  }
  denied admin set group:tyvision credit_limit 1h
  denied admin set group:tydesk "cap/$member" 1h
  denied admin grant group:tyvision 1h
  denied admin receipts
  denied admin voucher 1h
  denied statement --fund group:tydesk
  denied fund "user:$member"
}

@test "a member of a group of admin_groups is an admin, and nobody else" {
  is_no_admin "$helpdesk"
  usermod -aG tyadmins "$helpdesk"
  is_admin "$helpdesk"
  run as "$helpdesk" trainyard admin grant "user:$helpdesk" 1h
  echo "$output"
  [ "$status" -eq 0 ]
  run as "$member" trainyard admin grant "user:$member" 1h
  echo "$output"
  [ "$status" -eq 1 ]
  [[ $output == *"not an admin"* ]]
  gpasswd --delete "$helpdesk" tyadmins
  is_no_admin "$helpdesk"
}

@test "an operator of Slurm is an admin as long as he is one" {
  as root sacctmgr --immediate modify user name="$operator" set adminlevel=None || true
  eventually 60 is_no_admin "$operator"
  as root sacctmgr --immediate modify user name="$operator" set adminlevel=Operator
  eventually 60 is_admin "$operator"
  run as "$operator" trainyard admin set group:tydesk runs_max 7
  echo "$output"
  [ "$status" -eq 0 ]
  as trainyard trainyard fund group:tydesk --json |
    jq -e --arg actor "$operator" '.settings | any(.name == "runs_max" and .actor == $actor)'
  as "$operator" trainyard admin set group:tydesk runs_max
  is_no_admin "$member"
  as root sacctmgr --immediate modify user name="$operator" set adminlevel=None
  eventually 60 is_no_admin "$operator"
}
