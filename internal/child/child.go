// Package child starts processes that do not outlive us.
package child

import (
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// A Process is a child that a goroutine of its own has started and waits for.
type Process struct {
	Cmd  *exec.Cmd
	Done chan struct{} // closed when the child has ended
	Err  error         // of its end; to be read after Done
}

// EndsWithin waits for the child to end, and kills it where that takes longer. It
// reports whether it did not have to.
func (p *Process) EndsWithin(d time.Duration) bool {
	select {
	case <-p.Done:
		return true
	case <-time.After(d):
		_ = p.Cmd.Process.Kill() // or it has ended just now
		<-p.Done
		return false
	}
}

// Start starts a child and returns once it runs. On Linux the kernel sends it the
// signal when we are gone, however we went.
//
// The signal comes when the thread ends that forked the child, not the process
// (prctl(2), PR_SET_PDEATHSIG), and the Go runtime may end a thread at any time.
// The goroutine therefore keeps its thread until the child is gone.
func Start(cmd *exec.Cmd, orphaned syscall.Signal) (*Process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	whenOrphaned(cmd.SysProcAttr, orphaned)
	p := &Process{Cmd: cmd, Done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		defer close(p.Done)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.Err = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		<-p.Done
		return nil, err
	}
	return p, nil
}
