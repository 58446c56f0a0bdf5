package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Kind says what a tick counts.
type Kind string

// The kinds of tick. First and Full compute every total from the rows; First
// is the very first on this database.
const (
	First  Kind = "first"
	Full   Kind = "full"
	Window Kind = "window"
)

// How long a tick's statement may take. An ordinary one is bounded well below; a
// full count reads two months of rows. No sleeper may live as long as ticks are
// kept, so that none can take up the id of a pruned one.
const (
	windowTimeout = time.Minute
	fullTimeout   = 30 * time.Minute
)

// minIdleTimeout leaves time to decide in, whatever the lease.
const minIdleTimeout = time.Second

// rollbackWithin bounds how long a tick that is given up may still wait for the
// server.
const rollbackWithin = 2 * time.Second

// MaxCorrections is how many one tick deals with at the most.
const MaxCorrections = 10_000

// candidatesPerDecision is how many candidates a tick looks at for each decision
// that it may write: most of them hold a mark and have crossed nothing.
const candidatesPerDecision = 10

// A Candidate is a user and period that a tick touched and that stands high
// enough to matter; or an organization, whose budget it is, and a period of that.
type Candidate struct {
	UserID         uuid.UUID // zero: the organization's budget
	OrganizationID uuid.UUID
	FullName       string
	Language       *string
	PeriodStart    time.Time
	PeriodEnd      time.Time // exclusive: the next period's start
	TokensUsed     int64
	TokenLimit     int64 // 0: unlimited
	Marks          []int32
	Told           []int32    // thresholds told within this period under another key
	Newest         *time.Time // created_at of the newest row counted; nil for a recount, and of a budget
	Anew           bool       // decided for a correction or by a full count, and not for usage of the window

	Thresholds []int32  // of a policy; nil: those of the settings
	Added      []int32  // what policies have gained since the last decision
	Stale      int64    // version of a policy under which there was no decision yet; 0: none
	Channels   []string // of a policy; nil: all that are set up
	Muted      bool
	// OrganizationLanguage is for who has none.
	OrganizationLanguage *string
	TimeZone             *string // of a policy; nil: that of the settings
	AdminsFrom           int32   // lowest threshold of which the admins are told too; 0: none
}

// A Subject is whom a decision is about: a user, or the budget of an organization.
type Subject struct{ UserID, BudgetOf uuid.UUID } // one of them

// Subject is whom it is about.
func (c *Candidate) Subject() Subject {
	if c.OfBudget() {
		return Subject{BudgetOf: c.OrganizationID}
	}
	return Subject{UserID: c.UserID}
}

// Decision is one on it that says nothing yet.
func (c *Candidate) Decision() Decision {
	d := Decision{UserID: c.UserID, PeriodStart: c.PeriodStart, TimeZone: c.TimeZone}
	if c.OfBudget() {
		d.OrganizationID = c.OrganizationID
	}
	return d
}

// OfBudget reports whether it is about an organization's budget, and no user.
func (c *Candidate) OfBudget() bool { return c.UserID == uuid.Nil }

// An Admin is told of others in their organization.
type Admin struct {
	UserID   uuid.UUID `json:"user_id"`
	FullName *string   `json:"full_name"`
	Language *string   `json:"language"`
	Channels []string  `json:"channels"` // of a policy; nil: all that are set up
}

// Decide says what follows for the candidates of a tick at the instant now. It
// may return fewer than it was given; whoever is left out keeps their marks. Of
// those beyond TickRequest.Decisions it need say no more than whom they are about.
type Decide func(kind Kind, now time.Time, candidates []Candidate) []Decision

// TickRequest says what to count.
type TickRequest struct {
	Kind    Kind
	Periods *Periods
	Floor   int   // percent below which nobody needs a decision
	Slice   int64 // rows after which a tick ends earlier than now
	// InForce are the settings whose zone and thresholds have to be in force before this
	// tick; without a zone none may be. nil: whatever is.
	InForce *Settings
	// Changes says whether there is anything to decide on a candidate at an instant. Where
	// everything is counted, whoever holds a mark is one, so the others are dropped as
	// they are read. nil: there is on each.
	Changes func(now time.Time, c *Candidate) bool
	// Decisions bounds how many users and periods a window tick writes a decision
	// for, since it must end within its timeout however many cross at once. The
	// others are left to the ticks that follow. A full count leaves nobody: what
	// it decides depends on its kind.
	Decisions int
	Worker    string
	// IdleTimeout is how long the server waits for a worker that falls silent in
	// the middle of the tick, and whose locks the next leader waits for.
	IdleTimeout time.Duration
	// TellAdmins writes what the admins of an organization are told of an alert
	// that has ToAdmins, into its Admins.
	TellAdmins func(*Alert, []Admin)
	// Isolated writes user by user under savepoints, so that the one whose data
	// makes a statement fail is set aside and the others are told.
	Isolated bool
	// Settings are written in the tick's transaction, where they have changed.
	Settings *Settings
	// Corrected bounds the users whose corrections it deals with, each of whom may
	// have a month counted anew; 0: MaxCorrections.
	Corrected int64
	// Timeouts are how many before this one, since the last that succeeded, took
	// longer than they might: see IsTimeout. Each has a window tick count for twice
	// as long, up to a full count's half an hour, since one transaction, or one user's
	// month, cannot be sliced.
	Timeouts int
}

// TickResult says what a tick did.
type TickResult struct {
	ID       int64 // 0: there was nothing to do, and nothing was written
	Kind     Kind
	Now      time.Time
	Rows     int64
	Users    int64
	Skipped  int64 // rows without a usable created_at
	Bounded  bool  // the tick ended earlier than now: there is more
	Oldest   *time.Time
	Recounts int64 // corrections dealt with
	Filled   bool  // there may be more of them
	// Corrected are the users whom they were about, and Correcting is how long it took.
	Corrected  int64
	Correcting time.Duration
	Telling    time.Duration // how long the decisions took, if there were any
	Counted    int64         // periods counted anew
	Left       int64         // users and periods left to the next ticks to decide
	// BudgetBegins says that not all is counted of some budget: see BeginBudgets.
	BudgetBegins bool

	Outcomes []Outcome
	Held     []uuid.UUID // users whose row somebody holds: looked at again soon
	SetAside []SetAside  // users whose data made a statement fail: looked at again later
}

// Work reports whether the tick found anything.
func (r *TickResult) Work() bool { return r.ID != 0 }

// More reports whether the tick left something that it could have counted or
// decided.
func (r *TickResult) More() bool { return r.Bounded || r.Filled || r.Left > 0 }

// Waited returns how long the oldest row that the tick left had waited as it began, by
// its created_at; 0 where it left none, or the row is of the future.
func (r *TickResult) Waited() time.Duration {
	if r.Oldest == nil {
		return 0
	}
	return max(r.Now.Sub(*r.Oldest), 0)
}

// SetAside is a subject whose data made a statement fail.
type SetAside struct {
	Subject
	Err error
}

// Tick counts what has committed since the last tick, takes the decision, and
// writes all that follows in one REPEATABLE READ transaction: two round trips,
// a third where there are corrections, a fourth where more of them wait. On error
// nothing was written; see
// ErrCollided, ErrRewritten, ErrNeedsFull, ErrOtherSettings, ErrForeignChain, ErrReadOnly, and
// IsTransient and IsData.
func (s *Store) Tick(ctx context.Context, q TickRequest, decide Decide) (TickResult, error) {
	timeout := fullTimeout
	if q.Kind == Window {
		timeout = min(windowTimeout<<min(q.Timeouts, 10), fullTimeout)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout+10*time.Second)
	defer cancel()
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return TickResult{}, fmt.Errorf("%w: %w", errNoConnection, err)
	}
	defer conn.Release()
	result, err := tick(ctx, conn, q, timeout, decide)
	if err != nil || !result.Work() {
		// The pool destroys a connection that it gets back within a transaction.
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackWithin)
		defer cancel()
		if _, rollbackErr := conn.Exec(ending, "ROLLBACK"); rollbackErr != nil && err == nil {
			err = rollbackErr
		}
	}
	if err != nil {
		return TickResult{}, fmt.Errorf("tick: %w", tickError(err))
	}
	return result, nil
}

func tick(ctx context.Context, conn *pgxpool.Conn, q TickRequest, timeout time.Duration, decide Decide) (TickResult, error) {
	result, candidates, due, err := count(ctx, conn, q, timeout)
	if err != nil || !result.Work() {
		return result, err
	}
	var later []Decision
	if due {
		began := time.Now()
		wanted, err := countCorrections(ctx, conn, q, &result)
		if err != nil {
			return result, err
		}
		candidates = replace(candidates, wanted)
		if result.Filled && q.Kind == Window {
			if candidates, later, err = withoutUncorrected(ctx, conn, candidates); err != nil {
				return result, err
			}
		}
		result.Correcting = time.Since(began)
	}
	began := time.Now()
	decisions := decide(q.Kind, result.Now, candidates)
	if err := readAdmins(ctx, conn, q, decisions); err != nil {
		return result, err
	}
	err = write(ctx, conn, q, &result, decisions, later)
	if len(decisions)+len(later) > 0 {
		result.Telling = time.Since(began)
	}
	return result, err
}

// begin opens the tick's transaction and sets what it needs for itself alone,
// since a pooler may hand the session to others. Plans must not change with
// stale statistics. row_security = off turns a policy that would silently hide
// rows into an error (manual 5.9).
//
// A tick that may take long notices when its worker is gone, whose locks would keep
// the next leader waiting (client_connection_check_interval, manual 20.3.2). Not all
// systems can look for that; Linux can.
func begin(batch *pgx.Batch, kind Kind, timeout, idle time.Duration) {
	seqscan := "off"
	if kind != Window {
		seqscan = "on"
	}
	batch.Queue("BEGIN ISOLATION LEVEL REPEATABLE READ")
	batch.Queue(`SELECT set_config('lock_timeout', '100ms', true), set_config('statement_timeout', $1, true),
		set_config('idle_in_transaction_session_timeout', $3, true), set_config('enable_seqscan', $2, true),
		set_config('jit', 'off', true), set_config('work_mem', '32MB', true), set_config('row_security', 'off', true),
		set_config('plan_cache_mode', 'force_generic_plan', true),
		`+noTransactionTimeout+`,
		CASE WHEN $4 AND version() LIKE '%linux%' THEN set_config('client_connection_check_interval', $3, true) END`,
		inMilliseconds(timeout), seqscan, inMilliseconds(idle), timeout > windowTimeout)
}

// noTransactionTimeout lifts, until the transaction ends, a bound that PostgreSQL 17
// and newer can have on how long one lasts: what needs longer would never be done.
const noTransactionTimeout = `CASE WHEN current_setting('transaction_timeout', true) IS NOT NULL THEN set_config('transaction_timeout', '0', true) END`

// inMilliseconds is d as a setting of the server.
func inMilliseconds(d time.Duration) string { return fmt.Sprintf("%dms", d.Milliseconds()) }

// lookUp is for what follows a count of everything, which alone reads tables in
// full.
const lookUp = "SET LOCAL enable_seqscan = off"

func count(ctx context.Context, conn *pgxpool.Conn, q TickRequest, timeout time.Duration) (TickResult, []Candidate, bool, error) {
	batch := &pgx.Batch{}
	begin(batch, q.Kind, timeout, max(q.IdleTimeout, minIdleTimeout))
	var zone *string
	var thresholds []int32
	if q.InForce != nil {
		zone, thresholds = &q.InForce.TimeZone, q.InForce.Thresholds
	}
	if q.Kind == Window {
		batch.Queue(q.Periods.counting().window, q.Periods.parameters(q.Floor, q.Slice, q.Worker, int64(q.Decisions)*candidatesPerDecision, zone, thresholds)...)
	} else {
		batch.Queue(q.Periods.counting().everything, q.Periods.parameters(q.Floor, q.Periods.trackedSince(), q.Worker, string(q.Kind), zone, thresholds)...)
		batch.Queue(lookUp)
	}
	results := conn.SendBatch(ctx, batch)
	defer func() { _ = results.Close() }() // again after an error, which was reported
	for range 2 {
		if _, err := results.Exec(); err != nil {
			return TickResult{}, nil, false, fmt.Errorf("begin: %w", err)
		}
	}
	result := TickResult{Kind: q.Kind}
	var (
		empty, sameCluster, sameFile, zones, inForce, due, everything bool
		id                                                            *int64
		rows, users, skipped, left                                    int64
	)
	header := []any{
		&result.Now, &empty, &sameCluster, &sameFile, &zones, &inForce, &due, &everything, &id,
		&rows, &users, &skipped, &result.Bounded, &result.Oldest, &left,
	}
	found, err := results.Query()
	if err != nil {
		return TickResult{}, nil, false, fmt.Errorf("count: %w", err)
	}
	var drop func(*Candidate) bool
	if q.Kind != Window && q.Changes != nil {
		drop = func(c *Candidate) bool { return !q.Changes(result.Now, c) }
	}
	candidates, err := scanCandidates(found, header, q.Kind != Window, drop)
	if err != nil {
		return TickResult{}, nil, false, fmt.Errorf("count: %w", err)
	}
	if err := results.Close(); err != nil {
		return TickResult{}, nil, false, fmt.Errorf("count: %w", err)
	}
	switch {
	case !sameFile:
		return result, nil, false, ErrRewritten
	case !sameCluster:
		return result, nil, false, ErrForeignChain
	case !zones:
		return result, nil, false, ErrOtherZones
	case empty && q.Kind == Window:
		return result, nil, false, ErrNeedsFull
	case !inForce:
		return result, nil, false, ErrOtherSettings
	case everything:
		return result, nil, false, ErrNeedsFull
	case id != nil:
		result.ID, result.Rows, result.Users, result.Skipped, result.Left = *id, rows, users, skipped, left
	}
	return result, candidates, due, nil
}

func countCorrections(ctx context.Context, conn *pgxpool.Conn, q TickRequest, result *TickResult) ([]Candidate, error) {
	batch := &pgx.Batch{}
	batch.Queue(forgetDeleted, MaxCorrections)
	batch.Queue(q.Periods.counting().wanted, q.Periods.placing(MaxCorrections, cmp.Or(q.Corrected, MaxCorrections))...)
	results := conn.SendBatch(ctx, batch)
	defer func() { _ = results.Close() }() // again after an error, which was reported
	if _, err := results.Exec(); err != nil {
		return nil, fmt.Errorf("forget deleted users: %w", err)
	}
	found, err := results.Query()
	if err != nil {
		return nil, fmt.Errorf("count corrections: %w", err)
	}
	candidates, err := scanCandidates(found, []any{&result.Recounts, &result.Corrected, &result.Filled, &result.Counted, &result.BudgetBegins}, true, nil)
	if err != nil {
		return nil, fmt.Errorf("count corrections: %w", err)
	}
	return candidates, results.Close()
}

// withoutUncorrected leaves to later ticks, behind the corrections that wait, to
// decide on those of the window, and on budgets, whose totals these will change.
func withoutUncorrected(ctx context.Context, conn *pgxpool.Conn, candidates []Candidate) (rest []Candidate, later []Decision, err error) {
	asStood := func(c Candidate) bool { return c.OfBudget() || !c.Anew }
	if !slices.ContainsFunc(candidates, asStood) {
		return candidates, nil, nil
	}
	rows, err := conn.Query(ctx, uncorrected)
	if err != nil {
		return nil, nil, fmt.Errorf("corrections that wait: %w", err)
	}
	waiting := map[Subject]bool{}
	var user uuid.UUID
	var organization *uuid.UUID
	if _, err := pgx.ForEachRow(rows, []any{&user, &organization}, func() error {
		waiting[Subject{UserID: user}] = true
		if organization != nil {
			waiting[Subject{BudgetOf: *organization}] = true
		}
		return nil
	}); err != nil {
		return nil, nil, fmt.Errorf("corrections that wait: %w", err)
	}
	for _, c := range candidates {
		if asStood(c) && waiting[c.Subject()] {
			later = append(later, c.Decision())
		} else {
			rest = append(rest, c)
		}
	}
	return rest, later, nil
}

// scanCandidates reads rows that begin with the same header each and go on
// with a candidate, or with NULLs where there is none. It keeps those that it is not to
// drop; nil: all.
func scanCandidates(rows pgx.Rows, header []any, anew bool, drop func(*Candidate) bool) ([]Candidate, error) {
	var candidates []Candidate
	var (
		user, org   pgtype.UUID
		name        *string
		start, end  *time.Time
		used, limit *int64
		marks, told []int32
		newest      *time.Time
		language    *string
		policy      struct {
			thresholds, added []int32
			stale             *int64
			zone              *string
			language, orgs    *string
			channels          []string
			muted             *bool
			adminsFrom        *int32
		}
		destinations = append(header, &user, &org, &name, &language, &start, &end, &used, &limit, &marks, &newest, &told,
			&policy.thresholds, &policy.stale, &policy.added, &policy.zone, &policy.language, &policy.orgs, &policy.channels, &policy.muted,
			&policy.adminsFrom)
	)
	_, err := pgx.ForEachRow(rows, destinations, func() error {
		if !org.Valid { // nobody, or nobody who can be told: an alert belongs to an organization
			return nil
		}
		c := Candidate{
			UserID: user.Bytes, OrganizationID: org.Bytes, Language: language, PeriodStart: *start, PeriodEnd: *end,
			TokensUsed: *used, Marks: marks, Told: told, Newest: newest, Anew: anew,
			Thresholds: policy.thresholds, Added: policy.added, Channels: policy.channels, OrganizationLanguage: policy.orgs, Muted: *policy.muted,
			AdminsFrom: *policy.adminsFrom, TimeZone: policy.zone,
		}
		if policy.stale != nil {
			c.Stale = *policy.stale
		}
		if policy.language != nil {
			c.Language = policy.language
		}
		if name != nil {
			c.FullName = *name
		}
		if limit != nil {
			c.TokenLimit = *limit
		}
		candidates = append(candidates, c)
		if last := len(candidates) - 1; drop != nil && drop(&candidates[last]) {
			candidates = candidates[:last]
		}
		return nil
	})
	return candidates, err
}

// replace returns candidates with those in newer taking the place of any for
// the same user and period: what was counted anew stands above what was added.
// newer comes last, so that whoever crosses now does not wait for a crowd that
// ticks have left to decide.
func replace(candidates, newer []Candidate) []Candidate {
	if len(newer) == 0 {
		return candidates
	}
	type key struct {
		Subject
		start int64
	}
	of := func(c Candidate) key { return key{c.Subject(), c.PeriodStart.UnixMicro()} }
	seen := make(map[key]bool, len(newer))
	for _, c := range newer {
		seen[of(c)] = true
	}
	candidates = slices.DeleteFunc(candidates, func(c Candidate) bool { return seen[of(c)] })
	return append(candidates, newer...)
}
