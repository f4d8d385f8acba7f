# Sourced by the scripts of hack/: what more than one of them needs, and nothing that runs by itself
# but the lines up to the first function.
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
profile=${FERROPOD_PROFILE:-release} # or debug: quick to build again, slow to run
bin=$repo/target/$profile # where build_ferropod puts all three
load=$bin/ferropod-load
export load
logs=$repo/target/hack   # of the last run
cache=${FERROPOD_CACHE:-${HOME:-/root}/.cache/ferropod}
exits=()

# === talking ===

say() { printf '\033[1m== %s\033[0m\n' "$*" >&2; }

die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# === leaving ===

# at_exit COMMAND...: runs it when the script ends, the last one first, however it ends.
at_exit() {
  exits+=("$(printf '%q ' "$@")")
  trap 'code=$?; trap "" INT TERM; leave; exit $code' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
}

leave() {
  local i
  for ((i = ${#exits[@]} - 1; i >= 0; i--)); do eval "${exits[i]}" || true; done
}

# wait_until SECONDS COMMAND...: polls until it succeeds, fails when the time is over.
wait_until() {
  local end=$((SECONDS + $1 * ${FERROPOD_SLOWNESS:-1}))
  shift
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < end)) || return 1
    sleep 0.05
  done
}

# stop_pid PID [SECONDS]: asks a process that this script started to end, and after a while insists.
stop_pid() {
  kill "$1" 2>/dev/null || return 0
  wait_until "${2:-10}" gone "$1" || kill -9 "$1" 2>/dev/null
  wait "$1" 2>/dev/null || true
}

gone() { [ ! -e "/proc/$1" ] || grep -q '^State:.Z' "/proc/$1/status"; }

# === what the machine must have ===

# need_packages NAME...: installs those Debian packages that are missing.
need_packages() {
  local missing=() name
  for name in "$@"; do
    dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null | grep -qx installed || missing+=("$name")
  done
  [ ${#missing[@]} -eq 0 ] && return
  say "installing ${missing[*]}"
  fresh_package_lists
  DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "${missing[@]}" >/dev/null
}

fresh_package_lists() {
  local mark=$cache/apt-updated
  [ -n "$(find "$mark" -mtime -1 2>/dev/null)" ] && return
  apt-get -qq update
  mkdir -p "$cache"
  touch "$mark"
}

# fetch NAME...: downloads packages that are to be unpacked, not installed, into $cache/debs.
fetch() {
  local name
  mkdir -p "$cache/debs"
  for name in "$@"; do
    compgen -G "$cache/debs/${name}_*.deb" >/dev/null && continue
    fresh_package_lists
    (cd "$cache/debs" && apt-get -qq -o APT::Sandbox::User=root download "$name" >/dev/null)
  done
}

need_basics() {
  [ "$(id -u)" = 0 ] || die "this needs root: it makes namespaces, mounts and cgroups"
  command -v cargo >/dev/null || die "cargo is missing: install Rust 1.95 or newer (https://rustup.rs)"
  command -v go >/dev/null || die "go is missing: install Go 1.26 or newer (https://go.dev/dl)"
  need_packages gcc make pkg-config libc6-dev libseccomp-dev iproute2 nftables procps curl jq python3
  registry_program >/dev/null
}

# === building ===

# build_ferropod: the daemon with glibc, shim and enter static with musl, launch static with glibc (libseccomp is built for that one;
# to link at run time is half of what launch costs before it works); all put side by side. With FERROPOD_NOBUILD set it takes
# the programs that are there.
build_ferropod() {
  [ -z "${FERROPOD_NOBUILD:-}" ] || return 0
  local musl=x86_64-unknown-linux-musl gnu=x86_64-unknown-linux-gnu
  rustup target list --installed | grep -qx $musl || rustup -q target add $musl
  say "building ferropod"
  cd "$repo"
  if [ "$profile" = debug ]; then
    cargo build -q -p ferropod -p ferropod-launch
    cargo build -q --target $musl -p ferropod-shim -p ferropod-enter
    ln -f target/$musl/debug/ferropod-{shim,enter} "$bin/"
  else
    cargo build -q --release -p ferropod
    cargo build -q --profile shim --target $musl -p ferropod-shim -p ferropod-enter
    LIBSECCOMP_LINK_TYPE=static LIBSECCOMP_LIB_PATH=/usr/lib/x86_64-linux-gnu \
      RUSTFLAGS="-C target-feature=+crt-static -C relocation-model=static" \
      cargo build -q --profile shim --target $gnu -p ferropod-launch
    ln -f target/$musl/shim/ferropod-{shim,enter} target/$gnu/shim/ferropod-launch "$bin/"
  fi
  cd - >/dev/null
}

# build_load: the load generator, `load`.
build_load() {
  say "building ferropod-load"
  (cd "$repo" && cargo build -q --profile "${profile/debug/dev}" -p ferropod-load)
}

# tool NAME: the path of an outside tool, built from its pinned Go module when it is not yet.
tool() { "$repo/hack/tools/build" "$1"; }

# outside_runtime: the path of an OCI runtime for runtime handlers: RUNC, or the runc of hack/tools.
outside_runtime() {
  if [ -n "${RUNC:-}" ]; then echo "$RUNC"; else tool runc; fi
}

# === a place to run in ===

# own_netns NAME PREPARE "$@": calls PREPARE while there is a way to the package registries, then runs the calling script
# again inside a new network namespace, with nothing in it but loopback, in the mount namespace of the caller (not `ip
# netns exec`, which hides the cgroups). Sets `netns`, and `run`, a directory on /run; both vanish when the script ends,
# and so do those that killed runs left. With FERROPOD_READY set, as hack/vm does, all is there already.
own_netns() {
  local name=$1 prepare=$2
  shift 2
  if [ -z "${FERROPOD_NETNS:-}" ]; then
    if [ -z "${FERROPOD_READY:-}" ]; then
      need_basics
      "$prepare" "$@"
    fi
    sweep_dead_runs
    netns=fp-$name-$$
    ip netns add "$netns"
    mkdir -p "/run/$netns"
    mount -t tmpfs -o mode=700 ferropod-hack "/run/$netns" # as /run is on a node
    FERROPOD_NETNS=$netns exec nsenter --net="/run/netns/$netns" "$0" "$@"
  fi
  netns=$FERROPOD_NETNS run=/run/$FERROPOD_NETNS
  unset FERROPOD_NETNS
  at_exit end_run "$netns"
  mkdir -p "$logs"
  ip link set lo up
  # A node has an address of its own: what it sends to its pods comes from there.
  ip address add 10.99.255.1/32 dev lo
}

# A run is dead when the process in its name is gone or lives in another network namespace.
sweep_dead_runs() {
  local pin name
  for pin in /run/netns/fp-*-*; do
    name=${pin##*/}
    [ -e "$pin" ] && [ ! "/proc/${name##*-}/ns/net" -ef "$pin" ] && end_run "$name"
  done
  return 0
}

# end_run NETNS: kills what still runs in the namespace and the containers of the run, then drops what pods left, its
# mounts and its files.
end_run() {
  local pid id mount
  for pid in $(ip netns pids "$1") $(rooted_in "/$1/"); do
    [ "$pid" = $$ ] || [ "$pid" = $BASHPID ] || kill -9 "$pid" 2>/dev/null || true
  done
  for id in $(find "/run/$1" 2>/dev/null | grep -oE '[0-9a-f]{64}' | sort -u); do
    # A pod's own init has neither the run's network nor a root of a container's.
    for pid in $(in_cgroups "ferropod-$id" | sort -u); do kill -9 "$pid" 2>/dev/null || true; done
    ip netns del "ferropod-$id" 2>/dev/null || true
    wait_until 3 drop_cgroups "ferropod-$id" || true
  done
  wait_until 3 drop_cgroups "$1" || true # a parent that the run named for its pods
  for mount in $(awk -v run="/$1/" 'index($5 "/", run) { print $5 }' /proc/self/mountinfo | tac); do
    umount -l "$mount" 2>/dev/null || true
  done
  ip netns del "$1" 2>/dev/null || true
  rm -rf "/run/$1" "/var/lib/ferropod-hack/$1"
}

in_cgroups() { find /sys/fs/cgroup -path "*/$1*" -name cgroup.procs -exec cat {} + 2>/dev/null || true; }

drop_cgroups() {
  find /sys/fs/cgroup -depth -type d -path "*/$1*" -exec rmdir {} + &&
    [ -z "$(find /sys/fs/cgroup -type d -path "*/$1*")" ]
}

# rooted_in PART: the processes whose own root directory is an overlay with that part in its upper directory's path. To
# see such an overlay mounted elsewhere is no mark of a container: every process of the host may see it.
rooted_in() { grep -lsE "^[^ ]+ [^ ]+ [^ ]+ / / .*upperdir=[^,]*$1" /proc/[0-9]*/mountinfo | cut -d/ -f3; }

# === the registry ===

# Debian's docker-registry, not installed: the package starts a service.
registry_program() {
  local home=$cache/docker-registry
  if [ ! -x "$home/usr/bin/docker-registry" ]; then
    fetch docker-registry
    dpkg-deb -x "$cache"/debs/docker-registry_*.deb "$home"
  fi
  echo "$home/usr/bin/docker-registry"
}

# start_registry STORAGE readonly|writable: on 127.0.0.1:5000, plain HTTP.
start_registry() {
  local readonly=false
  [ "$2" = readonly ] && readonly=true
  cat >"$run/registry.yml" <<-YAML
	version: 0.1
	log: {level: error, accesslog: {disabled: true}}
	storage:
	  filesystem: {rootdirectory: $1}
	  delete: {enabled: true}
	  maintenance: {uploadpurging: {enabled: false}, readonly: {enabled: $readonly}}
	http: {addr: "127.0.0.1:5000"}
	YAML
  "$(registry_program)" serve "$run/registry.yml" >"$run/registry.log" 2>&1 &
  at_exit stop_pid $!
  wait_until 10 curl -sf http://127.0.0.1:5000/v2/ || { cat "$run/registry.log" >&2; die "the registry did not start"; }
}

# === the daemon ===

# need_ferropod: all that a script needs that runs Ferropod on the test images.
need_ferropod() {
  build_ferropod
  tool crictl >/dev/null
  "$repo/hack/images/build" >/dev/null
}

# serve_ferropod LOG [--e2e]: the test images on a registry and the daemon that pulls from it.
serve_ferropod() {
  start_registry "$("$repo/hack/images/build" "${@:2}")" readonly
  write_config
  : >"$1"
  start_ferropod "$1"
}

# write_config: a configuration under $run, with the native network and the loopback registry for all images, and with
# the runtime handler FERROPOD_HANDLER, which is `outside_runtime`, when that is set.
write_config() {
  local host
  for host in registry.k8s.io gcr.io k8s.gcr.io 127.0.0.1:5000; do
    mkdir -p "$run/certs.d/$host"
    printf '[host."http://127.0.0.1:5000"]\ncapabilities = ["pull", "resolve"]\n' >"$run/certs.d/$host/hosts.toml"
  done
  cat >"$run/config.toml" <<-TOML
	root = "/var/lib/ferropod-hack/$netns/root"
	state = "$run/state"
	socket = "$run/ferropod.sock"
	[network]
	mode = "native"
	[image]
	hosts_dirs = ["$run/certs.d"]
	registries_conf = ""
	TOML
  [ -z "${FERROPOD_HANDLER:-}" ] ||
    printf '[runtime.handlers.%s]\npath = "%s"\n' "$FERROPOD_HANDLER" "$(outside_runtime)" >>"$run/config.toml"
}

# start_ferropod LOG: the daemon with the configuration that write_config made. Sets `daemon` and `endpoint`.
start_ferropod() {
  endpoint=unix://$run/ferropod.sock
  "$bin/ferropod" serve --config "$run/config.toml" >>"$1" 2>&1 &
  daemon=$!
  at_exit stop_pid "$daemon"
  wait_until 15 crictl version || { tail -n 20 "$1" >&2; die "ferropod did not start: see $1"; }
}

# Without a configuration file of its own it warns that there is none.
crictl() { "$(tool crictl)" --config /dev/null --runtime-endpoint "$endpoint" --image-endpoint "$endpoint" "$@"; }

# traces: what pods leave on a machine, one a line, to compare before and after. The static rules and the cgroup that all
# pods share may stay; what belongs to another run on this machine does not count.
traces() { all_traces | grep -vFf <(ids_of_others) || true; }

ids_of_others() { find /run/fp-* -path "$run" -prune -o -print 2>/dev/null | grep -oE '[0-9a-f]{64}' | sort -u; }

all_traces() {
  local kind
  awk -v own="/$netns" '$0 ~ own { print "mount", $5 }' /proc/self/mountinfo
  for kind in link route "-6 route" rule; do ip -o $kind show | sed "s/^[0-9]*: /$kind /; s/ state .*//"; done
  nft list ruleset 2>/dev/null | sed -n '/elements = {/,/}/p'
  find /run/netns -name 'ferropod-*'
  find /sys/fs/cgroup -type d -name 'ferropod-*'
  find "$run/state" -type s
  pgrep --ns $$ --nslist net -af ferropod-shim || true
}

as_before() { diff -q "$1" <(traces); }
