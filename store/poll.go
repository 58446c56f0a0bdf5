package store

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// A Poll is a look at the window without counting it.
type Poll struct {
	Work bool
	// Xmin is the lowest transaction id that was still running: every lower one
	// has ended, and what it committed was visible to this poll.
	Xmin uint64
	// Due is how long until a correction that waits for its time is due; 0: none
	// waits.
	Due time.Duration
}

// pollWindow looks for one row in the window, or one correction that is due. It
// takes no transaction id and writes nothing. A policy that hides rows counts as
// work, so that the tick comes to say that it cannot go on.
//
// It asks for the lowest id of a range, also where that is one id, since whoever
// asks for any row of it may get a plan that reads the table until it comes: of
// a table that few transactions wrote the planner expects to find one at once.
const pollWindow = `WITH ` + window + `
SELECT pg_snapshot_xmin(here.snapshot)::text,
       last.id IS NULL OR due.any OR row_security_active('ai_usage_logs')
       OR EXISTS (SELECT FROM ranges r, LATERAL (
	       SELECT FROM ai_usage_logs WHERE xact_id >= r.lo AND xact_id < r.hi ORDER BY xact_id LIMIT 1) l)
       OR EXISTS (SELECT FROM ended, LATERAL (
	       SELECT FROM ai_usage_logs WHERE xact_id BETWEEN ended.xid AND ended.xid ORDER BY xact_id LIMIT 1) l),
       (SELECT extract(epoch FROM min(r.due_at) - here.at)::float8 FROM tokenalert.recounts r WHERE r.id > 0 AND r.due_at > here.at)
FROM here CROSS JOIN due LEFT JOIN last ON true`

// maxDue is what is far enough away not to be waited for.
const maxDue = 24 * time.Hour

// Poll reports whether there is anything to count. One statement.
func (s *Store) Poll(ctx context.Context) (Poll, error) {
	var xmin string
	var due *float64 // seconds
	var p Poll
	if err := s.pool.QueryRow(ctx, pollWindow).Scan(&xmin, &p.Work, &due); err != nil {
		return Poll{}, fmt.Errorf("poll: %w", tickError(err))
	}
	if due != nil && *due < maxDue.Seconds() {
		p.Due = max(time.Duration(*due*float64(time.Second)), time.Millisecond)
	}
	var err error
	p.Xmin, err = strconv.ParseUint(xmin, 10, 64)
	return p, err
}

// Ping asks for an answer and nothing else: it waits for no lock.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.pool.Ping(ctx); err != nil {
		return fmt.Errorf("ping: %w", err)
	}
	return nil
}

// TransactionID takes a new transaction id. Whoever took one earlier and is
// still running has a lower one; see the barrier in the worker's bell.
func (s *Store) TransactionID(ctx context.Context) (uint64, error) {
	var id string
	if err := s.pool.QueryRow(ctx, `SELECT pg_current_xact_id()::text`).Scan(&id); err != nil {
		return 0, fmt.Errorf("take a transaction id: %w", tickError(err))
	}
	return strconv.ParseUint(id, 10, 64)
}
