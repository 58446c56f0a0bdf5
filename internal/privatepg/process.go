package privatepg

import (
	"context"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// process is a child that a goroutine of its own has started and waits for.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the child has ended
	err  error         // of its end; to be read after done
}

// startProcess starts a child and returns once it runs.
//
// Linux sends the parent-death signal when the thread ends that forked the
// child, not the process (prctl(2), PR_SET_PDEATHSIG), and the Go runtime may
// end a thread at any time. The goroutine therefore keeps its thread until the
// child is gone.
func startProcess(cmd *exec.Cmd) (*process, error) {
	// Wait also waits for the end of the child's output, which the backends
	// of a killed postmaster hold open until they notice.
	cmd.WaitDelay = 10 * time.Second

	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		defer close(p.done)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		<-p.done
		return nil, err
	}
	return p, nil
}

// run starts a child and waits for it, no longer than the context lasts.
func run(ctx context.Context, cmd *exec.Cmd) error {
	p, err := startProcess(cmd)
	if err != nil {
		return err
	}
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		p.stop(ctx, kill)
		return ctx.Err()
	}
}

// stop goes through the ways to shut down until one has worked, and returns
// when the child is gone.
func (p *process) stop(ctx context.Context, ways []shutdown) {
	for _, way := range ways {
		// It fails for a child that has ended, and then done is closed.
		_ = p.cmd.Process.Signal(way.signal)
		if way.signal == syscall.SIGKILL {
			break
		}
		var hurry <-chan struct{}
		if way.hurried {
			hurry = ctx.Done()
		}
		patience := time.NewTimer(way.patience)
		select {
		case <-p.done:
		case <-hurry:
		case <-patience.C:
		}
		patience.Stop()
	}
	<-p.done
}
