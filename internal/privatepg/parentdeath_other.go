//go:build !linux

package privatepg

import "syscall"

// dieWithParent does nothing: there is no such signal here. The server of a
// killed process runs on until the next Start sweeps.
func dieWithParent(*syscall.SysProcAttr) {}
