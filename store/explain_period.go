package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// readPeriods reads the totals of the current period, of the one before, and of
// those ahead.
func (a *Account) readPeriods(ctx context.Context, tx pgx.Tx) error {
	if a.Settings == nil {
		return nil
	}
	rows, err := tx.Query(ctx, `
		WITH zone AS MATERIALIZED ( -- as ticks do
			SELECT CASE WHEN $3::text = $4::text OR EXISTS (SELECT FROM pg_timezone_names WHERE name = $3) THEN $3 ELSE $4 END AS name
		), bounds AS (
			SELECT tokenalert.period_start($2, name, tokenalert.now()) AS starts, tokenalert.period_end($2, name, tokenalert.now()) AS ends FROM zone
		), periods AS (
			SELECT starts, ends FROM bounds
			UNION ALL
			SELECT tokenalert.period_start($2, name, starts - interval '1 microsecond'), starts FROM zone, bounds
			UNION ALL
			SELECT u.period_start, u.period_end FROM tokenalert.usage_periods u, bounds
			WHERE u.user_id = $1 AND u.period_start > tokenalert.now() AND u.period_start >= bounds.ends
		)
		SELECT p.starts, p.ends, `+bounded("u.tokens_used")+`, coalesce(u.marks, '{}'), u.tick_id
		FROM periods p LEFT JOIN tokenalert.usage_periods u ON u.user_id = $1 AND u.period_start = p.starts
		ORDER BY p.starts`, a.UserID, a.ResetDay, a.Zone(), a.Settings.TimeZone)
	if err != nil {
		return fmt.Errorf("read totals: %w", err)
	}
	periods, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (AccountPeriod, error) {
		var p AccountPeriod
		err := row.Scan(&p.Start, &p.End, &p.TokensUsed, &p.Marks, &p.TickID)
		return p, err
	})
	if err != nil {
		return fmt.Errorf("read totals: %w", err)
	}
	a.Previous, a.Current, a.Ahead = &periods[0], &periods[1], periods[2:]
	if a.LastTick == nil {
		return nil
	}
	// The same rule as Reconcile's.
	err = tx.QueryRow(ctx, `WITH `+lastTick+`
		SELECT `+bounded("sum(l.tokens_used)")+` FROM ai_usage_logs l, last
		WHERE l.user_id = $1 AND l.created_at >= $2 AND l.created_at < $3
		  AND (l.xact_id IS NULL OR pg_visible_in_snapshot(l.xact_id, last.snapshot))`, a.UserID, a.Current.Start, a.Current.End).
		Scan(&a.Current.RowsAddUpTo)
	if err != nil {
		return fmt.Errorf("sum the period: %w", err)
	}
	return nil
}

// readAlerts reads the alerts of the current and the previous period, of any
// that reached into them under another reset day or zone, and what the host
// itself wrote before.
func (a *Account) readAlerts(ctx context.Context, tx pgx.Tx) error {
	var since *time.Time
	if a.Previous != nil {
		since = &a.Previous.Start
	}
	rows, err := tx.Query(ctx, `
		SELECT alert_threshold, coalesce(alert_sent, false), coalesce(reason, ''), `+inCalendar("created_at")+`, `+inCalendar("sent_at")+`,
		       period_start, period_end, token_limit, CASE WHEN tokens_used IS NOT NULL THEN `+bounded("tokens_used")+` END,
		       percent_used::float8, notification_id, tick_id
		FROM token_limit_alerts
		WHERE user_id = $1 AND (period_start IS NULL OR $2::timestamptz IS NULL OR period_end > $2)
		ORDER BY period_start NULLS FIRST, coalesce(sent_at, created_at), alert_threshold`, a.UserID, since)
	if err != nil {
		return fmt.Errorf("read alerts: %w", err)
	}
	a.Alerts, err = pgx.CollectRows(rows, pgx.RowToStructByPos[AccountAlert])
	if err != nil {
		return fmt.Errorf("read alerts: %w", err)
	}
	return nil
}

// readPending reads the corrections that wait, alike ones together: deleting a
// user's rows leaves one for each.
func (a *Account) readPending(ctx context.Context, tx pgx.Tx) error {
	rows, err := tx.Query(ctx, `
		SELECT user_id IS NULL, cause, user_id IS NULL OR at IS NOT NULL AND `+counts+`, min(`+inCalendar("at")+`), `+inCalendar("due_at")+`,
		       due_at IS NULL OR due_at <= tokenalert.now(), count(*)
		FROM tokenalert.recounts WHERE user_id = $1 AND cause <> 'budget_begins' OR user_id IS NULL AND organization_id IS NULL
		GROUP BY 1, 2, 3, due_at ORDER BY due_at NULLS FIRST, 1, 2, 3 LIMIT 100`, a.UserID)
	if err != nil {
		return fmt.Errorf("read corrections: %w", err)
	}
	a.Pending, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Pending])
	if err != nil {
		return fmt.Errorf("read corrections: %w", err)
	}
	return nil
}
