# SPDX-License-Identifier: GPL-3.0-or-later
# shellcheck shell=bash
#
# For tests against a real Slurm. All files share one private cluster, "tytest", or with
# TRAINYARD_TEST_CLUSTER another: the first that calls `cluster_once` starts it, ctest's fixture takes
# it down after the last. By hand:
#
#   bats tests/slurm/cluster.bats
#   scripts/cluster down --name tytest
#
# A test file begins with
#
#   load cluster
#   setup_file() { cluster_once; }
#
# and with TRAINYARD_BUILD set to a build folder, as ctest does, Trainyard is installed on it from
# there and trainyardd runs.

repository=$(realpath "$BATS_TEST_DIRNAME/../..")
tytest=${TRAINYARD_TEST_CLUSTER:-tytest} # Another name: beside somebody else's tests.
tytest_state=/var/lib/trainyard-$tytest
tytest_user=tyalice
[[ $tytest == tytest ]] || tytest_user=ty${tytest#ty}1

# cluster VERB...: scripts/cluster on the shared cluster.
cluster() { "$repository/scripts/cluster" --name "$tytest" "$@"; }

# as USER COMMAND...: runs a command on the shared cluster as a user, at home, for 120 s at most.
as() {
  local user=$1
  shift
  (cd "$(getent passwd "$user" | cut -d: -f6)" 2>/dev/null || cd /
    cluster run --as "$user" -- timeout 120 "$@")
}

home_of() { getent passwd "$1" | cut -d: -f6; }

# eventually SECONDS COMMAND...: polls until the command succeeds; so long on a quiet machine, three
# times as long at most.
eventually() {
  local deadline=$((SECONDS + 3 * $1))
  shift
  until "$@"; do
    ((SECONDS < deadline)) || return 1
    sleep 0.2
  done
}

# bats 1.8 cannot skip a whole file. A file with a setup of its own calls this in it.
setup() {
  [[ $EUID == 0 ]] || skip "a private cluster needs root"
  ((${BATS_TEST_TRY_NUMBER:-1} == 1)) || echo "# tried again: $BATS_TEST_DESCRIPTION" >&3
}

# Real daemons on a busy machine: a test that fails is tried once more, and the output says so.
export BATS_TEST_RETRIES=1

# Two hosts of two GPUs, with `tytest_user` as an ordinary user.
cluster_once() {
  [[ $EUID == 0 ]] || return 0
  cluster up --hosts 2 --gpus 2 --fake-gpus
  cluster user add "$tytest_user"
  [[ -z ${TRAINYARD_BUILD:-} ]] || install_trainyard
}

# service_pid, kill_service, start_service: trainyardd of the shared cluster, and it alone.
# Not by its name: it runs itself for a moment, to ask slurmdbd for people's rights.
service_pid() { cut -d' ' -f1 "$tytest_state/run/trainyardd.pid"; }
kill_service() {
  local pid
  pid=$(service_pid)
  kill -KILL "$pid"
  eventually 5 bash -c "! kill -0 $pid 2>/dev/null"
}
start_service() { cluster up >/dev/null; }

# Installs what has been built; trainyardd starts anew only if it has changed.
install_trainyard() {
  local before after
  before=$(cksum "$tytest_state/prefix/bin/trainyardd" 2>/dev/null || true)
  cmake --install "$TRAINYARD_BUILD" --prefix "$tytest_state/prefix" >/dev/null || return
  after=$(cksum "$tytest_state/prefix/bin/trainyardd" 2>/dev/null || true)
  if [[ $before != "$after" ]]; then
    cluster restart trainyardd
  fi
}
