package privatepg

import (
	"context"
	"errors"
	"syscall"
	"time"
)

// shutdown is one of the postmaster's ways to end (PostgreSQL manual, "Shutting
// Down the Server"), with the time after which the next is tried.
type shutdown struct {
	signal   syscall.Signal
	patience time.Duration
	hurried  bool // the end of the context also ends the patience
}

var (
	kill = []shutdown{{signal: syscall.SIGKILL}}
	// In an immediate shutdown the postmaster itself kills, after 5 s, the
	// backends that still run.
	immediate = append([]shutdown{{signal: syscall.SIGQUIT, patience: 10 * time.Second}}, kill...)
	fast      = append([]shutdown{{signal: syscall.SIGINT, patience: 10 * time.Second, hurried: true}}, immediate...)
)

var errStopped = errors.New("the server was stopped and its data removed")

// Stop shuts the server down, fast and then, when the context ends or ten
// seconds have passed, immediately, and removes its directory. It does so with
// an ended context too. Stopping twice is no error.
func (s *Server) Stop(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return nil
	}
	for _, p := range s.poolers {
		p.Stop()
	}
	s.halt(ctx, fast)
	s.stopped = true
	return s.dir.remove()
}

// StopImmediate ends the server without a checkpoint, as a crash does. The
// data stay: Restart recovers them.
func (s *Server) StopImmediate(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return errStopped
	}
	s.halt(ctx, immediate)
	return nil
}

// Restart stops the server, if it runs, and starts it on the same data, port
// and socket.
func (s *Server) Restart(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return errStopped
	}
	s.halt(ctx, fast)
	return s.launch(ctx)
}

func (s *Server) halt(ctx context.Context, ways []shutdown) {
	if s.process != nil {
		s.process.stop(ctx, ways)
		s.process = nil
	}
}
