//go:build tools

// Package tools pins crictl and critest for the tests.
package tools

import (
	_ "sigs.k8s.io/cri-tools/cmd/crictl"
	_ "sigs.k8s.io/cri-tools/pkg/benchmark" // critest itself is a test binary: what it imports
	_ "sigs.k8s.io/cri-tools/pkg/validate"
)
