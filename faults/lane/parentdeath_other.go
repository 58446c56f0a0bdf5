//go:build !linux

package lane

import "syscall"

func dieWithParent(*syscall.SysProcAttr) {}
