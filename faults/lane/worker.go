package lane

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"tokenalert/faults/line"
	"tokenalert/internal/child"
)

// stopWithin is more than the grace that they are given.
const stopWithin = 8 * time.Second

// restartAfter is the pause before another takes the place of one that ended by
// itself.
const restartAfter = 200 * time.Millisecond

// What workers are told, so that five seconds are enough: a lease of a second,
// a bell that no renewal helps out within a schedule, and small slices.
var shortLeases = []string{
	"TOKENALERT_LEAD_PING=200ms", "TOKENALERT_LEAD_TIMEOUT=1s", "TOKENALERT_LEAD_RETRY=150ms",
	"TOKENALERT_BELL_LEASE=150s", "TOKENALERT_BELL_RENEWAL=1m",
	"TOKENALERT_TICK_TARGET=1ms", "TOKENALERT_RECONCILE_INTERVAL=0", "TOKENALERT_SHUTDOWN_GRACE=3s",
	"TOKENALERT_LOG_LEVEL=debug", "TOKENALERT_LOG_FORMAT=json",
}

// A slot is the place of one worker: its line to the server, and the process
// that is there now.
type slot struct {
	site *site
	n    int
	line *line.Line

	mu         sync.Mutex
	process    *process
	generation int
	logs       []string
}

// A process is a worker.
type process struct {
	*child.Process
	name   string
	log    string
	asked  bool // to end
	killed bool
}

func (s *slot) start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.generation++
	name := fmt.Sprintf("w%d.%d", s.n, s.generation)
	file := filepath.Join(s.site.directory, name+".log")
	log, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the process has its own
	host, port := s.line.Address()
	bell := "auto"
	if s.site.plan.Bell {
		bell = "on"
	}
	cmd := s.line.Command(s.site.lane.o.Binary, "run")
	cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "DATABASE_URL=" + workerURL(host, port, s.site.database),
		"TOKENALERT_WORKER_NAME=" + name, "TOKENALERT_TIME_ZONE=" + s.site.plan.Zone, "TOKENALERT_BELL=" + bell,
		"TOKENALERT_HTTP_ADDRESS=" + s.httpAddress(),
	}, slices.Concat(s.site.settings, s.channelSettings())...)
	cmd.Stdout, cmd.Stderr = log, log
	started, err := child.Start(cmd, syscall.SIGKILL)
	if err != nil {
		return fmt.Errorf("start a worker: %w", err)
	}
	p := &process{Process: started, name: name, log: file}
	go func() {
		<-p.Done
		s.replaceEnded(p)
	}()
	s.process, s.logs = p, append(s.logs, file)
	return nil
}

// replaceEnded starts another where a worker has ended by itself, as whoever
// deploys them would: it may, where it never found the database fit to work on.
func (s *slot) replaceEnded(p *process) {
	s.mu.Lock()
	asked := p.asked
	s.mu.Unlock()
	if asked || s.site.over.Load() {
		return
	}
	s.site.trace("worker ended by itself", "worker", p.name, "error", text(p.Err))
	time.Sleep(restartAfter)
	if err := s.succeed(p); err != nil {
		s.site.fail(err)
	}
}

// httpAddress is where the worker answers: nowhere, unless samples are taken.
func (s *slot) httpAddress() string {
	if s.site.lane.o.Sample == nil {
		return "off"
	}
	return net.JoinHostPort(s.line.Worker(), strconv.Itoa(9100+s.n))
}

// signal signals the process that is there, and returns it; nil: it has ended,
// or is to be told to end a second time, which would cut it off.
func (s *slot) signal(signal syscall.Signal) *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.process
	select {
	case <-p.Done:
		return nil
	default:
	}
	if p.asked && signal == syscall.SIGTERM {
		return nil
	}
	p.asked = p.asked || signal == syscall.SIGTERM || signal == syscall.SIGKILL
	p.killed = p.killed || signal == syscall.SIGKILL
	if p.Cmd.Process.Signal(signal) != nil {
		return nil
	}
	return p
}

// await waits for the end of a process that was told to.
func (s *slot) await(p *process, within time.Duration) error {
	_ = p.Cmd.Process.Signal(syscall.SIGCONT) // or it could not
	if !p.EndsWithin(within) {
		return fmt.Errorf("worker %s did not stop within %s", p.name, within)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !p.killed && p.Err != nil && p.began() {
		return fmt.Errorf("worker %s: %w", p.name, p.Err)
	}
	return nil
}

// succeed starts another in the place of a process that has ended, unless one
// is there.
func (s *slot) succeed(p *process) error {
	s.mu.Lock()
	replaced := s.process != p
	s.mu.Unlock()
	if replaced || s.site.over.Load() {
		return nil
	}
	return s.start()
}

// began reports whether it came so far as to log, and so to hear signals.
func (p *process) began() bool {
	info, err := os.Stat(p.log)
	return err != nil || info.Size() > 0
}

func (s *site) stopWorkers() error {
	s.over.Store(true)
	var errs []error
	var all sync.WaitGroup
	var mu sync.Mutex
	for _, w := range s.slots {
		all.Go(func() {
			if w.process == nil {
				return
			}
			p := w.signal(syscall.SIGTERM)
			if p == nil {
				return
			}
			err := w.await(p, stopWithin)
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		})
	}
	all.Wait()
	return errors.Join(errs...)
}
