package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// A Difference is a user whose total is not what the rows add up to.
type Difference struct {
	UserID      uuid.UUID
	PeriodStart time.Time
	Counted     int64 // what the totals say
	Actual      int64 // what the rows say
}

// Reconcile is a second opinion. In one read-only REPEATABLE READ transaction
// it takes the last tick N and sums, per user and current period, the rows that
// are visible in the snapshot of N; that must equal the totals. Users with a
// count pending are left out: their total is known to be stale. It holds
// up no tick. It returns how many users it looked at.
func (s *Store) Reconcile(ctx context.Context, p *Periods) (int64, []Difference, error) {
	tx, err := s.pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return 0, nil, fmt.Errorf("reconcile: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	if _, err := tx.Exec(ctx, `SELECT set_config('row_security', 'off', true), set_config('statement_timeout', '30min', true),
		set_config('lock_timeout', '1s', true)`); err != nil {
		return 0, nil, fmt.Errorf("reconcile: %w", err)
	}
	rows, err := tx.Query(ctx, `WITH
		tick AS MATERIALIZED (
			SELECT snapshot FROM tokenalert.ticks ORDER BY id DESC LIMIT 1
		),
		fresh AS (
			SELECT l.user_id, l.created_at, l.tokens_used AS amount FROM ai_usage_logs l, tick
			WHERE l.created_at >= $4::timestamptz
			  AND (l.xact_id IS NULL OR pg_visible_in_snapshot(l.xact_id, tick.snapshot))
		),`+placeRows+`,
		pending AS MATERIALIZED ( -- a decision that waits, or a period that is to begin, explains no difference
			SELECT DISTINCT user_id FROM tokenalert.recounts
			WHERE at IS NOT NULL AND (due_at IS NULL OR due_at <= tokenalert.now())
		),
		compared AS MATERIALIZED ( -- by grouping, as in countWindow
			SELECT user_id, period_start, sum(counted) AS counted, sum(actual) AS actual
			FROM (
				SELECT user_id, period_start, 0 AS counted, amount AS actual FROM placed
				WHERE period_start <= tokenalert.now() AND tokenalert.now() < period_end
				UNION ALL
				SELECT u.user_id, u.period_start, u.tokens_used, 0 FROM tokenalert.usage_periods u
				LEFT JOIN tokenalert.accounts() a ON a.user_id = u.user_id
				WHERE u.period_start <= tokenalert.now() AND tokenalert.now() < u.period_end
				  AND u.period_start = ANY (($2::timestamptz[])[5 * coalesce(a.reset_day, 1) - 4:5 * coalesce(a.reset_day, 1) - 1])
			) both_sides
			WHERE user_id NOT IN (SELECT user_id FROM pending WHERE user_id IS NOT NULL)
			  AND NOT EXISTS (SELECT FROM tokenalert.recounts WHERE user_id IS NULL)
			GROUP BY 1, 2
		)
		SELECT (SELECT count(*) FROM compared), x.* FROM (SELECT) one LEFT JOIN (
			SELECT user_id, period_start, greatest(least(counted, 9223372036854775807), -9223372036854775808)::bigint, greatest(least(actual, 9223372036854775807), -9223372036854775808)::bigint
			FROM compared WHERE counted <> actual
		) x ON true`, p.reconcileParameters()...)
	if err != nil {
		return 0, nil, fmt.Errorf("reconcile: %w", tickError(err))
	}
	var (
		users           int64
		differences     []Difference
		user            *uuid.UUID
		start           *time.Time
		counted, actual *int64
	)
	_, err = pgx.ForEachRow(rows, []any{&users, &user, &start, &counted, &actual}, func() error {
		if user != nil {
			differences = append(differences, Difference{*user, *start, *counted, *actual})
		}
		return nil
	})
	if err != nil {
		return 0, nil, fmt.Errorf("reconcile: %w", tickError(err))
	}
	var same bool // see sameFile
	err = tx.QueryRow(ctx, `SELECT relfilenode = pg_relation_filenode(oid) FROM pg_class WHERE oid = 'ai_usage_logs'::regclass`).Scan(&same)
	switch {
	case err != nil:
		return 0, nil, fmt.Errorf("reconcile: %w", tickError(err))
	case !same:
		return 0, nil, fmt.Errorf("reconcile: %w", ErrRewritten)
	}
	return users, differences, nil
}

// reconcileParameters are those of placeRows and the earliest instant to read.
func (p *Periods) reconcileParameters() []any {
	return append(p.parameters(0)[:3:3], p.trackedSince())
}

// Recount puts users on the list of corrections, to be counted anew.
func (s *Store) Recount(ctx context.Context, users []uuid.UUID, cause string) error {
	_, err := s.pool.Exec(ctx, `
		INSERT INTO tokenalert.recounts (user_id, at, cause) SELECT u, tokenalert.now(), $2 FROM unnest($1::uuid[]) AS u`, users, cause)
	if err != nil {
		return fmt.Errorf("queue recounts: %w", err)
	}
	return nil
}
