//go:build tools

// Package tools names the program this module exists for, so that go.mod and go.sum pin all it is made of.
package tools

import _ "helm.sh/helm/v4/cmd/helm"
