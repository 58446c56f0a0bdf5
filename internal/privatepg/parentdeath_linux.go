package privatepg

import "syscall"

// dieWithParent has the kernel send SIGQUIT, an immediate shutdown, to the
// child when the thread that forked it ends: see startProcess.
func dieWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGQUIT }
