# SPDX-License-Identifier: GPL-3.0-or-later
#
# Sourced: hosts of network namespaces, so that messages between them are real TCP. Sets `tag`,
# `work`, `hosts`, `ranks_per_host`; `hosts_up` makes the namespaces, `hosts_down` ends everything.
# Needs root.
# shellcheck shell=bash
hosts=4 ranks_per_host=2
tag=ty$$
work=$(mktemp -d)

hosts_up() {
  local h
  for ((h = 1; h <= hosts; ++h)); do
    ip netns add $tag-$h && ip -n $tag-$h link set lo up || return 1
  done
  # What mpirun takes for ssh: HOST COMMAND...; a host has a name of its own too.
  cat >"$work/agent" <<AGENT
#!/bin/bash
host=\$1; shift
exec ip netns exec $tag-\${host##*.} unshare --uts bash -c "hostname node\${host##*.}; \$*"
AGENT
  chmod +x "$work/agent"
}

# Links of the kernel's own. Host h is 10.77.0.h, this machine 10.77.0.254.
connect_by_bridge() {
  local h
  ip link add $tag type bridge && ip addr add 10.77.0.254/24 dev $tag && ip link set $tag up || return 1
  for ((h = 1; h <= hosts; ++h)); do
    ip link add $tag-v$h type veth peer name eth0 netns $tag-$h
    ip link set $tag-v$h master $tag up
    ip -n $tag-$h addr add 10.77.0.$h/24 dev eth0
    ip -n $tag-$h link set eth0 up
  done
}

# connect_by_relay RELAY OPTIONS...: links of link_relay. This machine is a host among them.
connect_by_relay() {
  local h devices=("$tag-t0")
  for ((h = 1; h <= hosts; ++h)); do devices+=("$tag-t$h"); done
  : >"$work/relay"
  chrt -f 10 "$@" "${devices[@]}" >"$work/relay" &
  relay=$!
  for ((h = 0; h < 100; ++h)); do grep -q ready "$work/relay" && break; sleep 0.1; done
  ip link set $tag-t0 mtu 9000 txqueuelen 10000 up && ip addr add 10.77.0.254/24 dev $tag-t0 || return 1
  for ((h = 1; h <= hosts; ++h)); do
    ip link set $tag-t$h netns $tag-$h
    ip -n $tag-$h link set $tag-t$h name eth0 mtu 9000 txqueuelen 10000 up
    ip -n $tag-$h addr add 10.77.0.$h/24 dev eth0
  done
}

# The devices go with their relay, and this tells what it carried.
disconnect_relay() {
  kill "$relay" 2>/dev/null && wait "$relay"
  tail -n 1 "$work/relay"
}

# Bytes that each host has sent since it was connected, added up.
bytes_sent() {
  local h sum=0
  for ((h = 1; h <= hosts; ++h)); do
    sum=$((sum + $(ip netns exec $tag-$h cat /sys/class/net/eth0/statistics/tx_bytes)))
  done
  echo $sum
}

# run_on_hosts COMMAND...: as ranks_per_host ranks of one thread on each host.
run_on_hosts() {
  local list
  list=$(for ((h = 1; h <= hosts; ++h)); do printf '10.77.0.%s:%s,' $h $ranks_per_host; done)
  OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 mpirun --allow-run-as-root --oversubscribe \
    --bind-to none --mca plm_rsh_agent "$work/agent" --mca btl tcp,self \
    --mca btl_tcp_if_include 10.77.0.0/24 --mca oob_tcp_if_include 10.77.0.0/24 \
    -x OMP_NUM_THREADS -x OPENBLAS_NUM_THREADS -host "${list%,}" -n $((hosts * ranks_per_host)) "$@"
}

# end_host HOST: all that runs on it.
end_host() {
  local pids
  mapfile -t pids < <(ip netns pids "$tag-$1" 2>/dev/null)
  ((${#pids[@]} == 0)) || kill -KILL "${pids[@]}" 2>/dev/null
}

hosts_down() {
  local h
  [[ -n ${relay:-} ]] && kill "$relay" 2>/dev/null
  # The links first and the processes too: a namespace goes only when the last of them has.
  for ((h = 1; h <= hosts; ++h)); do
    ip link del $tag-v$h 2>/dev/null
    end_host $h
    ip netns del $tag-$h 2>/dev/null
  done
  ip link del $tag 2>/dev/null
  rm -rf "$work"
}
