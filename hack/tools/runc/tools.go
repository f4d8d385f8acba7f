//go:build tools

// Package tools pins runc, the external runtime of the tests.
package tools

import _ "github.com/opencontainers/runc"
