# Sourced by hack/kubelet: a control plane of a store and an API server, and what kubectl's users do with a pod that has no shell.

# start_control_plane FLAG...: sets `kubeconfig`. Whoever has the token may do everything; no scheduler and no controllers run. The
# flags are further ones of the API server.
start_control_plane() {
  local home=$run/control-plane
  mkdir -p "$home"
  kubeconfig=$home/kubeconfig
  openssl genrsa -out "$home/sa.key" 2048 2>/dev/null
  openssl rsa -in "$home/sa.key" -pubout -out "$home/sa.pub" 2>/dev/null
  echo "token,admin,1,system:masters" >"$home/tokens.csv"
  cat >"$kubeconfig" <<-YAML
	apiVersion: v1
	kind: Config
	clusters: [{name: here, cluster: {server: "https://127.0.0.1:6443", insecure-skip-tls-verify: true}}]
	users: [{name: admin, user: {token: token}}]
	contexts: [{name: here, context: {cluster: here, user: admin}}]
	current-context: here
	YAML
  "$(tool etcd)" --unsafe-no-fsync --data-dir "$home/etcd" --listen-client-urls http://127.0.0.1:2379 \
    --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380 >"$logs/etcd.log" 2>&1 &
  at_exit stop_pid $!
  "$(tool kube-apiserver)" --etcd-servers http://127.0.0.1:2379 --bind-address 127.0.0.1 --advertise-address 10.99.0.1 \
    --service-cluster-ip-range 10.96.0.0/16 --service-account-issuer https://here --cert-dir "$home/certs" \
    --service-account-key-file "$home/sa.pub" --service-account-signing-key-file "$home/sa.key" \
    --token-auth-file "$home/tokens.csv" --authorization-mode AlwaysAllow --allow-privileged \
    --kubelet-preferred-address-types InternalIP "$@" >"$logs/apiserver.log" 2>&1 &
  at_exit stop_pid $!
  wait_until 60 k get namespace default || die "the API server did not start: see $logs/apiserver.log"
}

k() { timeout 60 "$(tool kubectl)" --kubeconfig "$kubeconfig" "$@"; }

busybox=registry.k8s.io/e2e-test-images/busybox:1.29-2

# One static binary and nothing else, under a name of its own.
target_pod() {
  k apply -f - <<-YAML
	apiVersion: v1
	kind: Pod
	metadata: {name: target}
	spec:
	  nodeName: node1
	  terminationGracePeriodSeconds: 1
	  containers: [{name: app, image: "registry.k8s.io/pause:3.10.1"}]
	YAML
}

ready() { k wait --for condition=Ready "pod/$1" --timeout 1s; }

# The state of an ephemeral container: running, waiting or terminated.
debug_state() {
  local name=$1
  k get pod target -o json | jq -e --arg name "$name" --arg state "$2" \
    '.status.ephemeralContainerStatuses[]? | select(.name == $name) | .state | has($state)'
}

# debug NAME [OPTION...] -- COMMAND...
debug() { k debug target --image "$busybox" --target app --profile general -c "$@"; }

debug_sees_target() {
  debug watch -- sh -c 'echo "process 1: $(cat /proc/1/comm)"; ls /proc/1/root; httpd -p 8080 -h /tmp; exec sleep 1000'
  wait_until 30 debug_state watch running
  said=$(k logs target -c watch)
  grep -qx 'process 1: pause' <<<"$said" && grep -qx pause <<<"$said" && ! grep -qx bin <<<"$said"
}

debug_by_input() {
  said=$(echo 'echo "of $(cat /proc/1/comm)"; exit' | debug "input$1" -i --quiet -- sh)
  grep -qx 'of pause' <<<"$said" && wait_until 20 debug_state "input$1" terminated
}

# What is typed, at a terminal of 40 lines and 100 columns.
debug_by_terminal() {
  local session
  session=$(printf '%q ' "$(tool kubectl)" --kubeconfig "$kubeconfig" debug target -it --image "$busybox" --target app \
    --profile general -c "terminal$1" -- sh)
  session="stty rows 40 columns 100; exec $session"
  # A user types when the prompt is there; `exit` alone would be too early.
  said=$({
    wait_until 30 debug_state "terminal$1" running
    sleep 1 # kubectl attaches
    printf 'tty; stty size; exit 5\n'
    sleep 3
  } | timeout 60 script -qec "$session" /dev/null | tr -d '\r') || true
  grep -q '^/dev/pts/0' <<<"$said" && grep -q '^40 100' <<<"$said" && wait_until 20 debug_state "terminal$1" terminated &&
    [ "$(k get pod target -o json | jq --arg name "terminal$1" \
      '.status.ephemeralContainerStatuses[] | select(.name == $name) | .state.terminated.exitCode')" = 5 ]
}

exec_exits() {
  local code=0
  said=$(echo said | k exec -i target -c watch -- sh -c 'cat; exit 3') || code=$?
  [ "$said $code" = "said 3" ]
}

no_such_command() {
  local code=0
  said=$(k exec target -c app -- sh 2>&1) || code=$?
  [ "$code" = 1 ] && grep -q 'exec: "sh": executable file not found' <<<"$said"
}

attaches() {
  debug "attached$1" -- sh -c 'while sleep 0.2; do echo "beat"; done'
  wait_until 30 debug_state "attached$1" running
  timeout 5 "$(tool kubectl)" --kubeconfig "$kubeconfig" attach target -c "attached$1" >"$run/attached" 2>/dev/null || true
  [ "$(grep -cx beat "$run/attached")" -gt 10 ]
}

forwards() {
  local client code=0
  "$(tool kubectl)" --kubeconfig "$kubeconfig" port-forward pod/target 18080:8080 >"$run/forward" 2>&1 &
  client=$!
  k exec target -c watch -- sh -c 'echo "by httpd" >/tmp/page'
  wait_until 10 grep -q Forwarding "$run/forward" && [ "$(curl -s http://127.0.0.1:18080/page)" = "by httpd" ] || code=$?
  stop_pid "$client"
  return "$code"
}

copies() {
  head -c 20000000 /dev/urandom >"$run/copied"
  k cp "$run/copied" target:/tmp/copied -c watch && k cp target:/tmp/copied "$run/back" -c watch >/dev/null &&
    cmp "$run/copied" "$run/back"
}

app_untouched() {
  k get pod target -o json | jq -e --arg id "$1" '.status |
    .phase == "Running" and (.containerStatuses[0] | .containerID == $id and .restartCount == 0 and .ready)'
}

# A copy whose processes see each other: process 1 is the pod's.
debug_copy() {
  k debug target --image "$busybox" --copy-to copy --same-node --share-processes --profile general -c shell -- \
    sh -c 'pgrep -x /pause && echo seen; exec sleep 1000'
  wait_until 60 ready copy
  k logs copy -c shell | grep -qx seen
}

# The node by a pod of its own.
debug_node() {
  local pod
  k debug node/node1 --image "$busybox" --profile sysadmin -- chroot /host sh -c \
    'echo "node: $(hostname)"; test -d /proc/$0 && echo "processes of ours"; mount -t tmpfs none /mnt && echo mounted' "$kubelet"
  pod=$(k get pods -o name | grep node-debugger)
  wait_until 30 k wait --for jsonpath='{.status.phase}'=Succeeded "$pod" --timeout 1s
  said=$(k logs "$pod")
  grep -qx "node: $(hostname)" <<<"$said" && grep -qx "processes of ours" <<<"$said" && grep -qx mounted <<<"$said"
}

debug_checks() {
  local over id
  check "a pod of one static binary is ready" 60 target_ready
  id=$(k get pod target -o jsonpath='{.status.containerStatuses[0].containerID}')
  once "kubectl debug --target: the container sees its target's process and root" debug_sees_target
  for over in websocket spdy; do
    transport "$over"
    once "kubectl debug -i over $over" debug_by_input "$over"
    once "kubectl debug -it over $over: a terminal of the client's size, and its exit code" debug_by_terminal "$over"
    once "kubectl exec over $over into a debug container" exec_exits
    once "kubectl exec over $over of what is not there" no_such_command
    once "kubectl attach over $over to a debug container" attaches "$over"
    once "kubectl cp over $over, 20 MB there and back" copies
    once "kubectl port-forward over $over to what a debug container serves" forwards
  done
  kill_ferropod
  start_ferropod "$logs/kubelet-ferropod.log"
  once "kubectl exec into a debug container from before a killed ferropod's restart" exec_exits
  once "kubectl attach from then on" attaches again
  once "the pod's own container was not touched" app_untouched "$id"
  once "kubectl debug --copy-to --share-processes" debug_copy
  once "kubectl debug node" debug_node
  k delete pods --all --now >/dev/null
  check "all is gone when the pods are" 90 no_pods
  check "no mount, namespace, link, route, rule, cgroup or process is left" 10 as_before "$run/before"
}

target_ready() { ready target || { target_pod && false; }; }

# kubectl falls back to SPDY by itself; without these it would not use it here.
transport() {
  local websockets=true
  [ "$1" = spdy ] && websockets=false
  export KUBECTL_REMOTE_COMMAND_WEBSOCKETS=$websockets KUBECTL_PORT_FORWARD_WEBSOCKETS=$websockets
}

# once WHAT COMMAND...: a check of what cannot be done twice.
once() {
  local what=$1 said=
  shift
  if "$@" >>"$logs/kubelet-debug.log" 2>&1; then
    passed=$((passed + 1))
    printf 'ok      %s\n' "$what"
  else
    failed=$((failed + 1))
    printf 'FAILED  %s\n' "$what"
    printf '%s\n' "$said" | tail -n 20 | sed 's/^/        /'
  fi
}
