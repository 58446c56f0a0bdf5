//go:build !linux

package child

import "syscall"

// There is no such signal here: the child of a killed process runs on.
func whenOrphaned(*syscall.SysProcAttr, syscall.Signal) {}
