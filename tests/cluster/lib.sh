# shellcheck shell=bash disable=SC2034 # what one script does not use, another does
# Names, places and helpers shared by the scripts of this folder; sourced, not run.
#
# The node leaves no trace because it can reach nothing but its own: its parts run in a network and a mount namespace that one
# process holds, where /run, /var/lib and /var/log are folders below STATE, and in the cgroup NAME, as the containers do. When the
# processes in that cgroup are gone, so are namespaces, mounts, links, routes and firewall rules.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here
export PATH=$PATH:/usr/sbin:/sbin # where Debian keeps ip, nft and sysctl, and su does not look
readonly CACHE=${FIREBREAK_CACHE:-$HOME/.cache/firebreak}
readonly STATE=${FIREBREAK_STATE:-/var/tmp/firebreak-test}
readonly NAME=firebreak-test
readonly HOST_LINK=fbt-host
readonly HOST_IP=172.30.250.1
readonly NODE_IP=172.30.250.2
readonly PODS=10.245.0.0/24
readonly SERVICES=10.97.0.0/16
readonly API_IP=10.97.0.1
# The same once more, so that Services and pods have an address of either family.
readonly HOST_IP6=fd6b:7e57:0:250::1
readonly NODE_IP6=fd6b:7e57:0:250::2
readonly PODS6=fd6b:7e57:0:245::/64
readonly SERVICES6=fd6b:7e57:0:97::/112
# A setting of a network: its interfaces use their addresses at once, without asking first whether others have them.
readonly NO_DAD=net.ipv6.conf.default.accept_dad=0
readonly CONTAINERD=$STATE/run/containerd/containerd.sock
# What the kubelet sets in the whole machine.
readonly KERNEL_SETTINGS=(vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys
  kernel.keys.root_maxbytes)

# part NAME: the folder with the programs of one of parts/*. It is named after what they are made from, so that a change of
# version builds anew and the way back costs nothing.
part() { echo "$CACHE/$1-$(cat "$here/parts/$1"/* | sha256sum | cut -c1-12)"; }
KUBERNETES=$(part kubernetes)
COREDNS=$(part coredns)
HELM=$(part helm)
PAUSE=$(part pause)
readonly KUBERNETES COREDNS HELM PAUSE

started=$(date +%s%N)
readonly started

# say TEXT...: a line of progress with the seconds since the script began.
say() {
  local tenths=$((($(date +%s%N) - started) / 100000000))
  printf '%4d.%ds  %s\n' $((tenths / 10)) $((tenths % 10)) "$*" >&2
}

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# await SECONDS WHAT COMMAND...: polls until the command succeeds, or fails naming WHAT.
await() {
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < end)) || fail "gave up waiting for $what: $*"
    sleep 0.1
  done
}

need_root() { [ "$(id -u)" = 0 ] || fail "$(basename "$0") needs root: it makes network namespaces and cgroups"; }

# inside COMMAND...: runs a command in the node's namespaces.
inside() { nsenter --target "$(cat "$STATE/holder")" --net --mount --wd "$@"; }

api() { "$KUBERNETES/kubectl" --kubeconfig="$STATE/admin.conf" "$@"; }

# The mount points of the cgroup hierarchies: one with cgroup v2, several with v1.
cgroup_roots() {
  if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
    echo /sys/fs/cgroup
  else
    awk '$3 ~ /^cgroup2?$/ {print $2}' /proc/mounts
  fi
}

# The one hierarchy by whose membership processes are found again.
cgroup_of_members() {
  if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
    echo "/sys/fs/cgroup/$NAME"
  else
    awk -v name="$NAME" '$3 == "cgroup" && $4 ~ /(^|,)pids(,|$)/ {print $2 "/" name}' /proc/mounts
  fi
}

# Every process that runs in the node: its parts, the runtime's shims and what runs in pods.
members() {
  find "$(cgroup_of_members)" -name cgroup.procs -exec cat {} + 2>/dev/null || true
}
