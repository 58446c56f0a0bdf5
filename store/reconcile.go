package store

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// A Difference is a user whose total is not what the rows add up to. With an
// organization it is their share of its budget, and with an organization alone the
// sum of its budget, which is not that of its shares.
type Difference struct {
	UserID         uuid.UUID // zero: the sum of the budget
	OrganizationID uuid.UUID // zero: the user's total
	PeriodStart    time.Time
	Counted        int64 // what the totals say
	Actual         int64 // what the rows say; of a sum, its shares
}

// Missing is what the total lacks, in tokens; negative where it has too many.
func (d Difference) Missing() int64 {
	return clamped(new(big.Int).Sub(big.NewInt(d.Actual), big.NewInt(d.Counted)))
}

// Reconciled is what a reconciliation has seen.
type Reconciled struct {
	Users   int64 // compared
	Budgets int64 // of which all is counted
	Shares  int64 // of budgets, compared
	// LeftOut are users with a count pending: their total is known to be stale.
	LeftOut int64
	// FullCount says that everybody's is: a full count is due, and nobody was
	// compared.
	FullCount   bool
	Rows        int64        // of usage, read
	Differences []Difference // by user and organization
}

// Progress says how far a reconciliation is. It never falls, and is 100 only at
// the end. In between it relies on the planner's estimate of the rows.
type Progress struct {
	Percent float64
	Rows    int64 // read so far
}

var (
	// ErrNothingCounted means that there are no totals to compare with.
	ErrNothingCounted = errors.New("no worker has counted yet, so there is nothing to compare with; start `tokenalert run`, and try again after its first tick")
	// ErrOtherZone is returned by a reconciliation that was asked for periods of
	// another zone than the one in force: whoever leads has changed it meanwhile.
	ErrOtherZone = errors.New("the time zone in force has changed meanwhile")
)

// Reconcile is a second opinion. In one read-only REPEATABLE READ transaction
// it takes the last tick N and sums, per user and current period, the rows that
// are visible in the snapshot of N; that must equal the totals. Users with a
// count pending are left out. So with the shares of budgets, and with the sums of
// these. It holds up no tick. heard, unless nil, hears how far it is, from 0 to 100
// percent. See ErrRewritten, ErrOtherZone, ErrNothingCounted and ErrForeignChain.
//
// The rows come one by one and are summed here, some 100 bytes for each user, and
// for each share. Without budgets nobody asks to which a row belongs.
// So the statement has whatever plan is best for all of them, with an index or
// without, and how far it is can be seen as they come.
func (s *Store) Reconcile(ctx context.Context, p *Periods, heard func(Progress)) (Reconciled, error) {
	if heard == nil {
		heard = func(Progress) {}
	}
	var r Reconciled
	err := pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		var err error
		r, err = reconcile(ctx, tx, p, heard)
		return err
	})
	if err = tickError(err); err != nil {
		// PostgreSQL says the same of rows that a policy would hide, for which
		// no grant of ours is the remedy.
		if e, ok := errors.AsType[*pgconn.PgError](err); !ok || e.Routine != "check_enable_rls" {
			err = s.refused(ctx, err)
		}
		return Reconciled{}, fmt.Errorf("reconcile: %w", err)
	}
	return r, nil
}

func reconcile(ctx context.Context, tx pgx.Tx, p *Periods, heard func(Progress)) (Reconciled, error) {
	var r Reconciled
	// A plan for the stretch of time that is meant, and for one of the host's
	// cores at most: it is in no hurry.
	_, err := tx.Exec(ctx, `SELECT set_config('row_security', 'off', true), set_config('statement_timeout', '30min', true),
		set_config('lock_timeout', '1s', true), set_config('jit', 'off', true), set_config('plan_cache_mode', 'force_custom_plan', true),
		set_config('max_parallel_workers_per_gather', '0', true), `+noTransactionTimeout)
	if err != nil {
		return r, fmt.Errorf("begin: %w", err)
	}
	var (
		snapshot      string
		now           time.Time
		foreign, zone bool
	)
	err = tx.QueryRow(ctx, `
		SELECT t.snapshot::text, tokenalert.now(),
		       t.system_identifier <> c.system_identifier OR pg_snapshot_xmax(t.snapshot) > pg_snapshot_xmax(pg_current_snapshot()),
		       coalesce((SELECT time_zone = $1 FROM tokenalert.settings), true)
		FROM tokenalert.ticks t, pg_control_system() c ORDER BY t.id DESC LIMIT 1`, p.zones[0]).Scan(&snapshot, &now, &foreign, &zone)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return r, ErrNothingCounted
	case err != nil:
		return r, fmt.Errorf("look at the last tick: %w", err)
	case foreign:
		return r, ErrForeignChain
	case !zone:
		return r, ErrOtherZone
	}
	pending, err := pendingCounts(ctx, tx)
	if err != nil {
		return r, err
	}
	r.LeftOut, r.FullCount = int64(len(pending.users)), pending.everybody
	if r.FullCount {
		heard(Progress{Percent: 100})
		return r, nil
	}
	current, err := readCurrentPeriods(ctx, tx, p, now)
	if err != nil {
		return r, err
	}
	expected, err := r.expect(ctx, tx, current)
	if err != nil {
		return r, err
	}
	heard(Progress{})
	actual, shares, err := r.read(ctx, tx, current, snapshot, func() {
		heard(Progress{Percent: min(100*float64(r.Rows)/max(expected, 1), readMost), Rows: r.Rows})
	})
	if err != nil {
		return r, err
	}
	if err := r.compare(ctx, tx, current, pending, actual); err != nil {
		return r, err
	}
	if err := r.compareShares(ctx, tx, current, pending, shares); err != nil {
		return r, err
	}
	slices.SortFunc(r.Differences, func(a, b Difference) int {
		return cmp.Or(bytes.Compare(a.UserID[:], b.UserID[:]), bytes.Compare(a.OrganizationID[:], b.OrganizationID[:]))
	})
	heard(Progress{Percent: 100, Rows: r.Rows})
	return r, nil
}

const (
	// readMost is the percentage that reading ends at; comparing is the rest.
	readMost = 99
	// hearEvery is how many rows are read between two reports.
	hearEvery = 10_000
)

// expect is how many rows the planner expects. From here on the table is locked
// against being rewritten, which our snapshot would not survive: it is seen
// here whether it has been, between snapshot and lock.
func (r *Reconciled) expect(ctx context.Context, tx pgx.Tx, current *currentPeriods) (float64, error) {
	span := current.span()
	var text []byte
	err := tx.QueryRow(ctx, `EXPLAIN (FORMAT JSON) SELECT user_id FROM ai_usage_logs WHERE created_at >= $1 AND created_at < $2`,
		span.start, span.end).Scan(&text)
	if err != nil {
		return 0, fmt.Errorf("ask for the plan: %w", err)
	}
	var same bool // see sameFile
	err = tx.QueryRow(ctx, `SELECT relfilenode = pg_relation_filenode(oid) FROM pg_class WHERE oid = 'ai_usage_logs'::regclass`).Scan(&same)
	switch {
	case err != nil:
		return 0, fmt.Errorf("look at the table: %w", err)
	case !same:
		return 0, ErrRewritten
	}
	var plans []struct {
		Plan struct {
			Rows float64 `json:"Plan Rows"`
		}
	}
	if err := json.Unmarshal(text, &plans); err != nil || len(plans) != 1 {
		return 0, fmt.Errorf("read the plan %s: %w", text, err)
	}
	return plans[0].Plan.Rows, nil
}

// read sums the usage of current periods that the snapshot sees. The snapshot's
// text is read once, and not for each row.
func (r *Reconciled) read(ctx context.Context, tx pgx.Tx, current *currentPeriods, snapshot string, heard func()) (*sums[uuid.UUID], *sums[share], error) {
	span := current.span()
	organization := budgets(len(current.budgets) > 0).organization("")
	rows, err := tx.Query(ctx, `
		SELECT user_id, created_at, coalesce(tokens_used, 0)`+organization+` FROM ai_usage_logs
		WHERE created_at >= $1 AND created_at < $2
		  AND (xact_id IS NULL OR pg_visible_in_snapshot(xact_id, (SELECT $3::text::pg_snapshot)))`, span.start, span.end, snapshot)
	if err != nil {
		return nil, nil, fmt.Errorf("read usage: %w", err)
	}
	var (
		actual  = newSums[uuid.UUID]()
		shares  = newSums[share]()
		user    uuid.UUID
		at      time.Time
		tokens  int64
		to      = []any{&user, &at, &tokens}
		account *uuid.UUID
	)
	if organization != "" {
		to = append(to, &account)
	}
	_, err = pgx.ForEachRow(rows, to, func() error {
		if r.Rows++; r.Rows%hearEvery == 0 {
			heard()
		}
		if current.of(user).has(at) {
			actual.add(user, tokens)
		}
		if account != nil {
			if period, ok := current.ofBudget(*account); ok && period.has(at) {
				shares.add(share{*account, user}, tokens)
			}
		}
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("read usage: %w", err)
	}
	return actual, shares, nil
}

// CauseReconcile is what corrections are for that a reconciliation asks for.
const CauseReconcile = "reconcile"

// Recount puts what differs on the list of corrections, to be counted anew, and
// rings as the triggers do, so that whoever leads looks at once.
func (s *Store) Recount(ctx context.Context, differences []Difference, cause string) error {
	var users, organizations []*uuid.UUID
	var starts []time.Time
	for _, d := range differences {
		users, organizations, starts = append(users, known(d.UserID)), append(organizations, known(d.OrganizationID)), append(starts, d.PeriodStart)
	}
	_, err := s.pool.Exec(ctx, `
		WITH queued AS (
			INSERT INTO tokenalert.recounts (user_id, organization_id, at, cause)
			SELECT d.user_id, d.organization_id, d.at, $4 FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[]) AS d (user_id, organization_id, at)
		)
		SELECT pg_notify('`+channelBell+`', '') WHERE pg_notification_queue_usage() < 0.5`, users, organizations, starts, cause)
	if err != nil {
		return fmt.Errorf("queue recounts: %w", s.refused(ctx, tickError(err)))
	}
	return nil
}

// known is nil for the zero id.
func known(id uuid.UUID) *uuid.UUID {
	if id == uuid.Nil {
		return nil
	}
	return &id
}
