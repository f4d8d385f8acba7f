//go:build tools

// Package tools pins the upstream kubelet that the smoke test runs on Ferropod.
package tools

import _ "k8s.io/kubernetes/cmd/kubelet"
