package lane

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"tokenalert/faults/oracle"
	"tokenalert/faults/plan"
	"tokenalert/internal/host"
)

// errNothing: there is nothing to change.
var errNothing = errors.New("there is nothing to change")

// Bounds of a schedule.
const (
	playWithin   = time.Minute      // writers and faults, besides the plan's length
	settleWithin = 15 * time.Second // from then until all must be right
)

// leadsWithin is how long a worker usually takes, on a slow machine too, until it
// leads and has counted once. A schedule in whose middle a period ends waits for
// what is left of it, so that the middle comes at the same point of each.
const leadsWithin = 1500 * time.Millisecond

// A site is one schedule at play: a database, workers, writers, and what has
// happened so far.
type site struct {
	lane      *Lane
	plan      *plan.Plan
	database  string
	directory string
	url       string // of the superuser
	ownerURL  string
	control   *pgxpool.Pool
	zone      *time.Location
	ahead     time.Duration
	boundary  time.Time // a period's end in the middle; zero: none
	settings  []string  // of the workers

	users []uuid.UUID // as in the plan
	// organizations are as in the plan, where it has some.
	organizations []uuid.UUID
	budgets       map[uuid.UUID]oracle.Budget // of these, from the beginning
	slots         []*slot
	writers       []*writer
	tracer        *tracer
	result        Result

	inbox     *pgx.Conn // the other database, where there is one
	receivers map[string]*receiver

	fullCounts atomic.Bool
	migrated   atomic.Pointer[time.Time] // nil: never; who decided before went with the chain
	over       atomic.Bool               // workers that end are not replaced any more
	server     sync.Mutex                // of what stops everybody

	mu      sync.Mutex
	began   map[uuid.UUID]oracle.User
	current map[uuid.UUID]oracle.User
	orgs    map[uuid.UUID]uuid.UUID // of users, also of those who are gone
	changes []oracle.Change
	errs    []error

	disturbances []*disturbance
	hurried      map[handover]bool // taken from a worker that may not have been dead
}

// Play plays a schedule. The error is about the laboratory itself; what is wrong
// with the worker is in the result.
func (l *Lane) Play(ctx context.Context, p *plan.Plan) (*Result, error) {
	began := time.Now()
	s := &site{
		lane: l, plan: p, database: fmt.Sprintf("schedule_%d", l.schedules.Add(1)), directory: l.directory(p.Seed),
		settings: shortLeases,
		began:    map[uuid.UUID]oracle.User{}, current: map[uuid.UUID]oracle.User{}, orgs: map[uuid.UUID]uuid.UUID{},
	}
	s.result = Result{Seed: p.Seed, Server: l.server.Version(), Landed: map[plan.FaultKind]Landing{}, Spoilt: map[plan.FaultKind]Landing{}}
	defer s.close()
	if err := s.open(ctx); err != nil {
		return nil, fmt.Errorf("schedule %d: %w", p.Seed, err)
	}
	s.play(ctx)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	s.judge(ctx)
	s.result.Took = time.Since(began)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := errors.Join(s.errs...); err != nil {
		return nil, fmt.Errorf("schedule %d: %w", p.Seed, err)
	}
	s.finish(ctx)
	return &s.result, nil
}

func (s *site) open(ctx context.Context) error {
	if err := os.RemoveAll(s.directory); err != nil {
		return err
	}
	if err := os.MkdirAll(s.directory, 0o755); err != nil {
		return err
	}
	var err error
	if s.tracer, err = newTracer(filepath.Join(s.directory, "trace.jsonl")); err != nil {
		return err
	}
	if s.zone, err = time.LoadLocation(s.plan.Zone); err != nil {
		return err
	}
	if err := s.lane.exec(ctx, "postgres", "CREATE DATABASE "+s.database+" TEMPLATE "+templateDatabase+" OWNER "+ownerRole); err != nil {
		return err
	}
	s.url, s.ownerURL = s.lane.server.URL(s.database), s.lane.server.URLAs(ownerRole, s.database)
	config, err := pgxpool.ParseConfig(s.url)
	if err != nil {
		return err
	}
	config.MaxConns = 4
	config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
	config.ConnConfig.RuntimeParams["default_transaction_read_only"] = "off"
	config.ConnConfig.RuntimeParams["application_name"] = "laboratory"
	if s.control, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return err
	}
	if err := s.populate(ctx); err != nil {
		return err
	}
	if s.plan.AheadDays > 0 {
		s.ahead = time.Duration(s.plan.AheadDays) * 24 * time.Hour
	}
	if s.plan.Rollover > 0 {
		s.boundary = oracle.PeriodEnd(s.plan.Rollover, s.zone, s.now())
		s.ahead = s.boundary.Sub(time.Now().Add(leadsWithin + plan.RolloverAfter)).Truncate(time.Microsecond)
	}
	if err := s.setClock(ctx); err != nil {
		return err
	}
	if err := s.beginBudgets(ctx); err != nil {
		return err
	}
	if err := s.openReceivers(ctx); err != nil {
		return err
	}
	s.trace("begin", "seed", s.plan.Seed, "plan", s.plan, "ahead", s.ahead.String())
	for n := range s.plan.Workers {
		l, err := s.lane.line(ctx, n)
		if err != nil {
			return err
		}
		w := &slot{site: s, n: n + 1, line: l}
		s.slots = append(s.slots, w)
		if err := w.start(); err != nil {
			return err
		}
	}
	return nil
}

func (s *site) populate(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, s.ownerURL)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	common, err := host.NewOrganization(ctx, conn, "Example")
	if err != nil {
		return err
	}
	for _, o := range s.plan.Organizations {
		name := "Budgeted"
		if o.Doomed {
			name = "Doomed"
		}
		id, err := host.NewOrganization(ctx, conn, name)
		if err != nil {
			return err
		}
		s.organizations = append(s.organizations, id)
	}
	for _, u := range s.plan.Users {
		org := common
		switch {
		case s.plan.Budgets():
			org = s.organizations[u.Organization]
		case u.Doomed:
			if org, err = host.NewOrganization(ctx, conn, "Doomed"); err != nil {
				return err
			}
		}
		id, err := host.NewUser(ctx, conn, host.User{Organization: org, Limit: &u.Limit, ResetDay: &u.ResetDay})
		if err != nil {
			return err
		}
		if u.Admin {
			if _, err := conn.Exec(ctx, "UPDATE users SET role = 'admin' WHERE id = $1", id); err != nil {
				return err
			}
		}
		s.users = append(s.users, id)
		s.orgs[id] = org
		s.began[id] = oracle.User{Limit: int64(u.Limit), ResetDay: u.ResetDay, Organization: org, Admin: u.Admin}
		s.current[id] = s.began[id]
	}
	return nil
}

// play has writers and faults at once, and returns when both are done and all
// is mended.
func (s *site) play(ctx context.Context) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.plan.Length()+playWithin, errGivenUp)
	defer cancel()
	if !s.awaitLeader(ctx) {
		s.fail(errors.New("no worker took the lead"))
		return
	}
	if !s.boundary.IsZero() {
		pause(ctx, s.boundary.Sub(s.now())-plan.RolloverAfter)
	}
	together := new(sync.Mutex)
	for n := range s.plan.Writers {
		w := &writer{site: s, n: n, committing: new(sync.Mutex)}
		if s.plan.Budgets() { // one sums up what all do
			w.committing = together
		}
		s.writers = append(s.writers, w)
	}
	var all sync.WaitGroup
	for _, w := range s.writers {
		all.Go(func() { w.run(ctx) })
	}
	all.Go(func() { s.runFaults(ctx) })
	all.Go(func() { s.runReceiverFaults(ctx) })
	sampling, done := context.WithCancel(ctx)
	var sampler sync.WaitGroup
	sampler.Go(func() { s.sample(sampling) })
	all.Wait()
	done()
	sampler.Wait()
	if s.plan.Lull != nil {
		w := s.writers[0]
		w.long(ctx, *s.plan.Lull)
		w.beside.Wait()
	}
	for _, w := range s.writers {
		if w.conn != nil {
			_ = w.conn.Close(ctx)
		}
	}
	if ctx.Err() != nil {
		s.fail(fmt.Errorf("the schedule took more than %s", s.plan.Length()+playWithin))
	}
}

// awaitLeader returns when a worker has taken the lead and counted once, budgets
// as well.
func (s *site) awaitLeader(ctx context.Context) bool {
	for {
		var counted bool
		err := s.control.QueryRow(ctx, `SELECT EXISTS (SELECT FROM tokenalert.ticks)
			AND NOT EXISTS (SELECT FROM tokenalert.budgets WHERE NOT counted)`).Scan(&counted)
		if err == nil && counted {
			return true
		}
		if !pause(ctx, 5*time.Millisecond) {
			return false
		}
	}
}

func (s *site) close() {
	ctx := context.Background()
	s.over.Store(true)
	for _, w := range s.slots {
		if w.process != nil {
			w.signal(syscall.SIGKILL)
			<-w.process.Done
		}
	}
	s.closeReceivers(ctx)
	if s.control != nil {
		s.control.Close()
	}
	if s.tracer != nil {
		_ = s.tracer.close()
	}
	_ = s.lane.exec(ctx, "postgres", "ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()")
	_ = s.lane.exec(ctx, "postgres", "DROP DATABASE IF EXISTS "+s.database+" WITH (FORCE)")
}

// note keeps a change, and who users are now.
func (s *site) note(c oracle.Change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.Done = s.now()
	s.changes = append(s.changes, c)
	for id, organization := range c.Organization {
		u := s.current[id]
		u.Organization = organization
		s.current[id], s.orgs[id] = u, organization
	}
	for id, admin := range c.Admin {
		u := s.current[id]
		u.Admin = admin
		s.current[id] = u
	}
	for id, limit := range c.Limit {
		u := s.current[id]
		u.Limit = limit
		s.current[id] = u
	}
	for id, day := range c.ResetDay {
		u := s.current[id]
		u.ResetDay = day
		s.current[id] = u
	}
	for _, id := range c.Gone {
		delete(s.current, id)
	}
}

// user is a user as of now, unless gone.
func (s *site) user(id uuid.UUID) (oracle.User, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u, ok := s.current[id]
	return u, ok
}

func (s *site) organizationOf(id uuid.UUID) uuid.UUID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.orgs[id]
}

// correctable is the earliest row of a user that is corrected: older ones may be
// history.
func (s *site) correctable(id uuid.UUID) time.Time {
	u, _ := s.user(id)
	return oracle.PeriodStart(u.ResetDay, s.zone, s.now())
}

// owns reports whether this writer alone changes the user.
func (w *writer) owns(id uuid.UUID) bool {
	for i, u := range w.users {
		if u == id {
			return w.plan.Users[i].Owner == w.n
		}
	}
	return false
}

// fail notes that the laboratory itself did not work.
func (s *site) fail(err error) {
	s.trace("laboratory", "error", err.Error())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.errs = append(s.errs, err)
}
