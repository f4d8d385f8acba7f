# Sourced by hack/kubelet: Kubernetes' own end-to-end tests, from the module that the kubelet comes from, on a cluster of this one node.
# There are no services and no names of them: nobody runs kube-proxy or a DNS server.

# What is conformance of a node, and what else is about Ferropod's duties: streams, users, and what a container's end brings.
e2e_focus='\[NodeConformance\]|\[sig-cli\] (Kubectl (Port forwarding|exec|logs)|kubectl debug|Kubectl client (Simple pod|Kubectl (copy|run pod)))'
e2e_focus+='|\[sig-node\].*(HostUsers|User Namespaces|SupplementalGroupsPolicy|ImageVolume|SidecarContainers|ContainerRestartRules'
e2e_focus+='|RestartAllContainers|ContainerStopSignals|SplitStreams|RuntimeClass|Security Context|Mount propagation|PreStop|Pods Extended)'
e2e_gates=ImageVolumeWithDigest=true,ContainerStopSignals=true,PodLogsQuerySplitStreams=true

start_controllers() {
  local home=$run/control-plane
  "$(tool kube-controller-manager)" --kubeconfig "$kubeconfig" --leader-elect=false --root-ca-file "$home/certs/apiserver.crt" \
    --service-account-private-key-file "$home/sa.key" >"$logs/controllers.log" 2>&1 &
  at_exit stop_pid $!
  "$(tool kube-scheduler)" --kubeconfig "$kubeconfig" --leader-elect=false >"$logs/scheduler.log" 2>&1 &
  at_exit stop_pid $!
}

e2e_kubelet_config() {
  local gates=${e2e_gates//=/: }
  echo "featureGates: {${gates//,/, }}"
  echo "maxPods: 200"
  echo "clusterDNS: [10.96.0.10]"
  echo "clusterDomain: cluster.local"
}

# e2e_told FILTER: the tests (and failed set-up steps) of which jq says true, a line each, with the first line of their message.
e2e_told() {
  jq -r "[.[].SpecReports[] | select(.LeafNodeType == \"It\" or .State == \"failed\") | select($1)][] |
    ([.ContainerHierarchyTexts[]?, .LeafNodeText] | join(\" \")) + \": \" + ((.Failure.Message // \"\") | split(\"\\n\")[0] // \"\")" \
    "$run/report.json"
}

# e2e_checks FOCUS: runs the tests, ten at a time, for they mostly wait, and counts them. Those that skip themselves say why.
e2e_checks() {
  local line skips=()
  while read -r line; do
    skips+=(-skip "${line%% | *}")
    echo "not run: ${line%% | *}: ${line#* | }"
  done < <(sed -E '/^(#|$)/d' "$repo/hack/e2e.exceptions")
  wait_until 60 k wait --for condition=Ready node/node1 --timeout 1s || die "the node did not become ready"
  "$(tool ginkgo)" -p -procs 10 -timeout 90m --no-color -focus "$1" "${skips[@]}" --output-dir "$run" --json-report report.json \
    "$(tool e2e.test)" -- --provider local --kubeconfig "$kubeconfig" --host https://127.0.0.1:6443 --kubectl-path "$(tool kubectl)" \
    --num-nodes 1 --kubelet-root-dir "$node/root" --dump-logs-on-failure=false --disable-log-dump >"$logs/e2e.log" 2>&1 || true
  [ -s "$run/report.json" ] || { tail -n 20 "$logs/e2e.log" >&2; die "the tests made no report: see $logs/e2e.log"; }
  e2e_told '.State == "skipped" and (.Failure.Message // "") != ""' >"$run/skipped"
  e2e_told '.State | IN("passed", "skipped", "pending") | not' >"$run/failed"
  passed=$((passed + $(e2e_told '.State == "passed"' | wc -l)))
  skipped=$((skipped + $(wc -l <"$run/skipped")))
  failed=$((failed + $(wc -l <"$run/failed")))
  sed 's/^/skipped /' "$run/skipped"
  sed 's/^/FAILED  /' "$run/failed"
  check "all pods of the tests are gone" 150 no_pods
  check "no mount, namespace, link, route, rule, cgroup or process is left" 60 as_before "$run/before"
}
