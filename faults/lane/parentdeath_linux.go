package lane

import "syscall"

// dieWithParent has the kernel kill a worker when we are gone, however we went.
func dieWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }
