package child

import "syscall"

func whenOrphaned(attr *syscall.SysProcAttr, signal syscall.Signal) { attr.Pdeathsig = signal }
