package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// CountedBy says in which tick a row was counted.
type CountedBy string

// What is known of that. Ticks are pruned, the oldest first.
const (
	CountedByTick   CountedBy = "tick"    // in AccountRow.Tick
	CountedEarlier  CountedBy = "earlier" // in AccountRow.Tick, or in one before it that is no longer kept
	CountedInFull   CountedBy = "full"    // by the full count that began the chain: the row is older
	CountedNotYet   CountedBy = "not_yet"
	CountedNotKnown CountedBy = "not_known" // the chain is another cluster's
)

// An AccountRow is a row of usage, and the tick that counted it.
type AccountRow struct {
	CreatedAt  time.Time `json:"created_at"`
	TokensUsed int64     `json:"tokens_used"`
	XactID     *string   `json:"xact_id"` // nil: older than the installation
	CountedBy  CountedBy `json:"counted_by"`
	Tick       *TickRow  `json:"tick"`
}

// AccountUncounted is what the last tick has not counted.
type AccountUncounted struct {
	Rows          int64      `json:"rows"`
	Tokens        int64      `json:"tokens"`
	CurrentTokens int64      `json:"tokens_of_current_period"`
	Oldest        *time.Time `json:"oldest_created_at"`
}

// newestRows is how many rows of usage an Account has.
const newestRows = 5

// usable are rows that a tick counts, by their created_at (see placeRows).
const usable = `(created_at >= '2000-01-01 00:00+00' AND created_at < '2100-01-01 00:00+00')`

// lastTick is the tick up to which everything is counted.
const lastTick = `
last AS MATERIALIZED (
	SELECT snapshot FROM tokenalert.ticks ORDER BY id DESC LIMIT 1
)`

// readChain reads the ends of the chain.
func (a *Account) readChain(ctx context.Context, tx pgx.Tx) error {
	for _, end := range []struct {
		order string
		tick  **TickRow
	}{{"ASC", &a.OldestTick}, {"DESC", &a.LastTick}} {
		var t TickRow
		err := tx.QueryRow(ctx, `SELECT `+tickColumns+` FROM tokenalert.ticks ORDER BY id `+end.order+` LIMIT 1`).
			Scan(&t.ID, &t.Kind, &t.Rows, &t.Users, &t.Worker, &t.StartedAt)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return nil
		case err != nil:
			return fmt.Errorf("read the chain: %w", err)
		}
		*end.tick = &t
	}
	if err := tx.QueryRow(ctx, chainIsForeign).Scan(&a.OtherCluster); err != nil {
		return fmt.Errorf("read the chain: %w", err)
	}
	return nil
}

// readUsage reads the newest rows, and what is not counted.
func (a *Account) readUsage(ctx context.Context, tx pgx.Tx) error {
	if err := a.readNewest(ctx, tx); err != nil {
		return err
	}
	var from, to *time.Time
	if a.Current != nil {
		from, to = &a.Current.Start, &a.Current.End
	}
	uncounted := `WITH ` + lastTick + ` SELECT %s FROM ai_usage_logs l, last
		WHERE l.user_id = $1 AND ` + usable + ` AND l.xact_id >= pg_snapshot_xmin(last.snapshot) AND NOT pg_visible_in_snapshot(l.xact_id, last.snapshot)`
	if a.LastTick == nil {
		uncounted = `SELECT %s FROM ai_usage_logs l WHERE l.user_id = $1 AND ` + usable
	}
	u := &a.Uncounted
	err := tx.QueryRow(ctx, fmt.Sprintf(uncounted, `count(*), `+bounded("sum(tokens_used)")+`,
		`+bounded("sum(tokens_used) FILTER (WHERE created_at >= $2::timestamptz AND created_at < $3::timestamptz)")+`, min(created_at)`),
		a.UserID, from, to).Scan(&u.Rows, &u.Tokens, &u.CurrentTokens, &u.Oldest)
	if err != nil {
		return fmt.Errorf("read what is not counted: %w", err)
	}
	err = tx.QueryRow(ctx, `SELECT count(*) FROM ai_usage_logs WHERE user_id = $1
		AND (created_at IS NULL OR created_at < '2000-01-01 00:00+00' OR created_at >= '2100-01-01 00:00+00')`, a.UserID).Scan(&a.Unusable)
	if err != nil {
		return fmt.Errorf("read unusable rows: %w", err)
	}
	return nil
}

// countedBy finds the tick that counted each of the newest rows: the first in
// whose snapshot the row's transaction is visible. What one tick sees, those
// after it see as well, so each is searched for by halves, through the primary
// key: about 25 look-ups among tens of millions of ticks. Pruning goes by time
// and may leave gaps among the oldest ids where a clock was set back, hence
// "id >= … LIMIT 1", and the look for the tick before.
const countedBy = `WITH RECURSIVE ` + lastTick + `,
ends AS MATERIALIZED (
	SELECT min(id) AS oldest, max(id) AS newest FROM tokenalert.ticks
),
newest AS MATERIALIZED (
	SELECT row_number() OVER (ORDER BY created_at DESC) AS n, created_at, tokens_used, xact_id
	FROM (
		SELECT created_at, tokens_used, xact_id FROM ai_usage_logs WHERE user_id = $1 AND ` + usable + `
		ORDER BY created_at DESC LIMIT $2
	) l
),
search (n, xact_id, lo, hi) AS (
	SELECT n, xact_id, oldest, ends.newest FROM newest, ends, last
	WHERE xact_id IS NOT NULL AND pg_visible_in_snapshot(xact_id, last.snapshot)
	UNION ALL
	SELECT s.n, s.xact_id, CASE WHEN t.sees THEN s.lo ELSE t.id + 1 END, CASE WHEN t.sees THEN (s.lo + s.hi) / 2 ELSE s.hi END
	FROM search s, LATERAL (
		SELECT id, pg_visible_in_snapshot(s.xact_id, snapshot) AS sees FROM tokenalert.ticks
		WHERE id >= (s.lo + s.hi) / 2 ORDER BY id LIMIT 1
	) t
	WHERE s.lo < s.hi
)
SELECT n.created_at, greatest(least(coalesce(n.tokens_used, 0), 9223372036854775807), -9223372036854775808)::bigint, n.xact_id::text,
       t.id, t.kind, t.worker, t.started_at,
       t.id = 1 OR EXISTS (SELECT FROM tokenalert.ticks b WHERE b.id = t.id - 1)
FROM newest n LEFT JOIN search s ON s.n = n.n AND s.lo = s.hi
LEFT JOIN LATERAL (
	SELECT ` + tickColumns + ` FROM tokenalert.ticks WHERE id >= s.lo ORDER BY id LIMIT 1
) t ON true
ORDER BY n.n`

func (a *Account) readNewest(ctx context.Context, tx pgx.Tx) error {
	rows, err := tx.Query(ctx, countedBy, a.UserID, newestRows)
	if err != nil {
		return fmt.Errorf("read the newest rows: %w", err)
	}
	a.Newest, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (AccountRow, error) {
		var r AccountRow
		var id *int64
		var kind, worker *string
		var startedAt *time.Time
		var exact *bool
		if err := row.Scan(&r.CreatedAt, &r.TokensUsed, &r.XactID, &id, &kind, &worker, &startedAt, &exact); err != nil {
			return r, err
		}
		if id != nil {
			r.Tick = &TickRow{ID: *id, Kind: Kind(*kind), Worker: *worker, StartedAt: *startedAt}
		}
		a.judge(&r, exact != nil && *exact)
		return r, nil
	})
	if err != nil {
		return fmt.Errorf("read the newest rows: %w", err)
	}
	return nil
}

// judge says by what a row was counted; exact is whether the tick before the one
// that sees it is kept and does not.
func (a *Account) judge(r *AccountRow, exact bool) {
	switch {
	case a.LastTick == nil:
		r.CountedBy = CountedNotYet
	case a.OtherCluster:
		r.CountedBy, r.Tick = CountedNotKnown, nil
	case r.XactID == nil:
		r.CountedBy = CountedInFull
		if a.OldestTick.ID == 1 { // chains begin with it
			r.Tick = a.OldestTick
		}
	case r.Tick == nil:
		r.CountedBy = CountedNotYet
	case !exact:
		r.CountedBy = CountedEarlier
	default:
		r.CountedBy = CountedByTick
	}
}
