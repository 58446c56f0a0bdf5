package lane

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"tokenalert/faults/line"
	"tokenalert/faults/plan"
)

// runFaults makes things go wrong as planned, each mended in its own time, and
// returns when all are. A soak's end with its length, since holding ticks takes
// time as well.
func (s *site) runFaults(ctx context.Context) {
	var mending sync.WaitGroup
	began := time.Now()
	for _, f := range s.plan.Faults {
		if !pause(ctx, f.After) || s.plan.Length() > 0 && time.Since(began) > s.plan.Length() {
			break
		}
		s.strike(ctx, f, &mending)
	}
	mending.Wait()
}

// strike has one fault happen: while a tick is held open, where the plan says
// so and one comes.
func (s *site) strike(ctx context.Context, f plan.Fault, mending *sync.WaitGroup) {
	var open bool
	letGo := func() {}
	var h *held
	if f.Stage != plan.Anytime {
		var err error
		if h, err = s.hold(ctx, f.Stage); err == nil {
			open = h.await(ctx, 350*time.Millisecond)
			letGo = func() {
				if f.Fence {
					s.trace("fence", "waited", s.awaitTickBehind(ctx, h.pid, f.Keep))
				} else {
					pause(ctx, f.Keep)
				}
				h.release()
			}
		}
	}
	victim := s.victim(ctx, f)
	open = open || s.tickOpen(ctx)
	if f.Kind == plan.Migrate { // waits for the tick
		mending.Go(letGo)
	}
	undisturbed := s.disturb(f.Kind, victim)
	mend, err := s.inject(ctx, f, victim, h)
	s.trace("fault", "kind", f.Kind, "worker", victim.name(), "stage", f.Stage.String(), "tick_open", open, "error", text(err))
	if err == nil {
		s.land(f.Kind, open)
	}
	switch {
	case f.Kind == plan.Migrate:
	case f.Keep <= 80*time.Millisecond || err != nil:
		letGo()
	default:
		mending.Go(letGo)
	}
	if mend == nil {
		undisturbed()
		return
	}
	mending.Go(func() {
		defer undisturbed()
		pause(ctx, f.Last)
		err := mend()
		s.trace("mended", "kind", f.Kind, "worker", victim.name(), "error", text(err))
		if err != nil {
			s.fail(fmt.Errorf("mend %s: %w", f.Kind, err))
		}
	})
}

func (s *slot) name() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.process.name
}

// victim is the worker to be hit: the leader, or another.
func (s *site) victim(ctx context.Context, f plan.Fault) *slot {
	leader := ""
	err := s.control.QueryRow(ctx, `SELECT a.application_name FROM pg_stat_activity a JOIN pg_locks l USING (pid)
		WHERE a.datname = current_database() AND l.locktype = 'advisory' AND l.granted AND a.application_name LIKE 'tokenalert lead %'`).Scan(&leader)
	if err == nil {
		for _, w := range s.slots {
			if strings.HasSuffix(leader, " "+w.name()) != f.Other {
				return w
			}
		}
	}
	return s.slots[f.Value%len(s.slots)]
}

var (
	errGone     = errors.New("the worker had ended before")
	errNobody   = errors.New("it had no session")
	errOccupied = errors.New("another fault of the whole server was not over")
)

// inject makes the fault, and returns what mends it.
func (s *site) inject(ctx context.Context, f plan.Fault, w *slot, h *held) (mend func() error, err error) {
	switch f.Kind {
	case plan.Kill, plan.Stop:
		signal := map[plan.FaultKind]syscall.Signal{plan.Kill: syscall.SIGKILL, plan.Stop: syscall.SIGTERM}[f.Kind]
		p := w.signal(signal)
		if p == nil {
			return nil, errGone
		}
		return func() error {
			if err := w.await(p, stopWithin); err != nil {
				s.wrong(err)
			}
			return w.succeed(p)
		}, nil
	case plan.Freeze:
		if w.signal(syscall.SIGSTOP) == nil {
			return nil, errGone
		}
		return func() error { w.signal(syscall.SIGCONT); return nil }, nil
	case plan.Terminate:
		return nil, s.terminate(ctx, f, h)
	case plan.Cut:
		return w.line.Heal, w.line.Cut()
	case plan.Delay:
		d := time.Duration(5+f.Value%40) * time.Millisecond
		return w.line.Heal, w.line.Delay(d, d/2)
	case plan.Drip:
		return w.line.Heal, w.line.Drip(20+f.Value%100, 2*time.Millisecond)
	case plan.Swallow:
		return w.line.Heal, w.line.Swallow()
	case plan.Drop, plan.DropBack:
		return w.line.Heal, w.line.Drop(f.Kind == plan.DropBack)
	}
	// What follows hits everybody; one at a time.
	if !s.server.TryLock() {
		return nil, errOccupied
	}
	heal, err := s.injectServer(ctx, f)
	if heal == nil {
		s.server.Unlock()
		return nil, err
	}
	return func() error {
		defer s.server.Unlock()
		return heal()
	}, err
}

func (s *site) injectServer(ctx context.Context, f plan.Fault) (mend func() error, err error) {
	switch f.Kind {
	case plan.Crash:
		if err := s.lane.server.StopImmediate(ctx); err != nil {
			return nil, err
		}
		return func() error { return s.lane.server.Restart(ctx) }, nil
	case plan.ReadOnly:
		if err := s.readOnly(ctx, "on"); err != nil {
			return nil, err
		}
		return func() error { return s.readOnly(ctx, "off") }, nil
	case plan.Exhaust:
		return s.exhaust(ctx)
	case plan.Migrate:
		return nil, s.migrate(ctx)
	}
	return nil, fmt.Errorf("no such fault: %s", f.Kind)
}

// terminate ends one of the workers' sessions: the one whose tick is held, or
// any.
func (s *site) terminate(ctx context.Context, f plan.Fault, h *held) error {
	if h != nil && h.pid != 0 && f.Value%3 > 0 {
		var ended bool
		if err := s.control.QueryRow(ctx, "SELECT pg_terminate_backend($1)", h.pid).Scan(&ended); err != nil {
			return err
		} else if !ended {
			return errNobody
		}
		return nil
	}
	// A worker's sessions but the lead do not say whose they are.
	rows, err := s.control.Query(ctx, `SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND usename = $1
		ORDER BY application_name LIKE 'tokenalert lead 2%' DESC, pid`, workerRole)
	if err != nil {
		return err
	}
	pids, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil {
		return err
	}
	if len(pids) == 0 {
		return errNobody
	}
	pid := pids[0] // the lead
	if f.Value%2 == 0 {
		pid = pids[f.Value%len(pids)]
	}
	var ended bool
	if err := s.control.QueryRow(ctx, "SELECT pg_terminate_backend($1)", pid).Scan(&ended); err != nil {
		return err
	} else if !ended {
		return errNobody
	}
	return nil
}

func (s *site) readOnly(ctx context.Context, value string) error {
	for {
		_, err := s.control.Exec(ctx, "ALTER SYSTEM SET default_transaction_read_only = "+value, pgx.QueryExecModeSimpleProtocol)
		if err == nil {
			_, err = s.control.Exec(ctx, "SELECT pg_reload_conf()")
		}
		if err == nil || !pause(ctx, 10*time.Millisecond) {
			return err
		}
	}
}

// exhaust takes every connection that is left, and then the workers' own.
func (s *site) exhaust(ctx context.Context) (mend func() error, err error) {
	taking, cancel := context.WithCancel(ctx)
	full := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		var taken []*pgx.Conn
		defer func() {
			for _, conn := range taken {
				_ = conn.Close(context.WithoutCancel(ctx)) // it may have been ended
			}
		}()
		first := true
		for taking.Err() == nil {
			conn, err := pgx.Connect(taking, s.ownerURL)
			if err == nil {
				taken = append(taken, conn)
				continue
			}
			if first {
				close(full)
				first = false
			}
			pause(taking, 15*time.Millisecond)
		}
		if first {
			close(full)
		}
	}()
	<-full
	_, err = s.control.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE datname = current_database() AND usename = $1 AND application_name LIKE 'tokenalert %'`, workerRole)
	return func() error {
		cancel()
		<-done
		return nil
	}, err
}

// migrate takes the schema down and up again, beside the workers.
func (s *site) migrate(ctx context.Context) error {
	s.fullCounts.Store(true)
	err := s.lane.command(ctx, s.database, "migrate", "down", "--yes")
	if err != nil {
		s.trace("migrate", "error", err.Error())
	}
	for {
		upErr := s.lane.command(ctx, s.database, "migrate", "up")
		if upErr == nil {
			break
		}
		s.trace("migrate", "error", upErr.Error())
		if !pause(ctx, 50*time.Millisecond) {
			return ctx.Err()
		}
	}
	if err != nil {
		return err
	}
	s.migrated.Store(new(s.now()))
	return s.lane.exec(ctx, s.database, holdOurs...)
}

// land counts a fault that has happened.
func (s *site) land(kind plan.FaultKind, open bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.result.Landed[kind]
	l.All++
	if open {
		l.Open++
	}
	s.result.Landed[kind] = l
}

// Available are the kinds of faults that this machine can make.
func Available() []plan.FaultKind {
	if line.NamespaceFault() == "" {
		return plan.FaultKinds
	}
	var kinds []plan.FaultKind
	for _, k := range plan.FaultKinds {
		if k != plan.Drop && k != plan.DropBack {
			kinds = append(kinds, k)
		}
	}
	return kinds
}
