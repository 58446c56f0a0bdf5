package privatepg

import (
	"context"
	"os/exec"
	"syscall"
	"time"

	"tokenalert/internal/child"
)

// process is a child, as a type that knows how to be stopped.
type process struct{ *child.Process }

// startProcess starts a child and returns once it runs. It gets SIGQUIT, an
// immediate shutdown, when we are gone.
func startProcess(cmd *exec.Cmd) (*process, error) {
	// Wait also waits for the end of the child's output, which the backends
	// of a killed postmaster hold open until they notice.
	cmd.WaitDelay = 10 * time.Second
	p, err := child.Start(cmd, syscall.SIGQUIT)
	if err != nil {
		return nil, err
	}
	return &process{p}, nil
}

// run starts a child and waits for it, no longer than the context lasts.
func run(ctx context.Context, cmd *exec.Cmd) error {
	p, err := startProcess(cmd)
	if err != nil {
		return err
	}
	select {
	case <-p.Done:
		return p.Err
	case <-ctx.Done():
		p.stop(ctx, kill)
		return ctx.Err()
	}
}

// stop goes through the ways to shut down until one has worked, and returns
// when the child is gone.
func (p *process) stop(ctx context.Context, ways []shutdown) {
	for _, way := range ways {
		// It fails for a child that has ended, and then Done is closed.
		_ = p.Cmd.Process.Signal(way.signal)
		if way.signal == syscall.SIGKILL {
			break
		}
		var hurry <-chan struct{}
		if way.hurried {
			hurry = ctx.Done()
		}
		patience := time.NewTimer(way.patience)
		select {
		case <-p.Done:
		case <-hurry:
		case <-patience.C:
		}
		patience.Stop()
	}
	<-p.Done
}
