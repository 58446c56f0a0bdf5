package demo

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Audit is what a count by plain SQL says of the worker's work. Users of the
// demo have the reset day 1, and the zone is UTC.
type Audit struct {
	Users         int   // users with usage
	Tokens        int64 // that they used, by plain SQL
	WrongTotals   int   // users whose running total is not the sum of their rows
	Expected      int   // crossings: thresholds at or below the sum
	Missing       int   // crossings without an alert row
	Unexpected    int   // alert rows without a crossing
	Doubled       int   // crossings with more than one alert row
	Told          int   // alert rows that say that the user was told
	Notifications int   // notifications
	Unmatched     int   // notifications without such a row, or the other way round
}

// Passed reports whether nothing is wrong.
func (a Audit) Passed() bool {
	return a.WrongTotals == 0 && a.Missing == 0 && a.Unexpected == 0 && a.Doubled == 0 && a.Unmatched == 0
}

// RunAudit counts, as the server's administrator.
func RunAudit(ctx context.Context, conn *pgx.Conn, thresholds []int) (Audit, error) {
	var a Audit
	err := conn.QueryRow(ctx, `
		WITH used AS (
			SELECT user_id, date_trunc('month', created_at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' AS month, sum(tokens_used) AS tokens
			FROM ai_usage_logs GROUP BY 1, 2
		), expected AS (
			SELECT used.user_id, used.month, threshold
			FROM used JOIN users u ON u.id = used.user_id, unnest($1::integer[]) AS threshold
			WHERE u.monthly_token_limit > 0 AND used.tokens * 100 >= threshold * u.monthly_token_limit::bigint
		), found AS (
			SELECT user_id, period_start AS month, alert_threshold AS threshold, count(*) AS times
			FROM token_limit_alerts GROUP BY 1, 2, 3
		), told AS (
			SELECT notification_id AS id FROM token_limit_alerts WHERE alert_sent
		)
		SELECT (SELECT count(DISTINCT user_id) FROM used), (SELECT coalesce(sum(tokens), 0)::bigint FROM used),
		       (SELECT count(*) FROM used FULL JOIN tokenalert.usage_periods p ON p.user_id = used.user_id AND p.period_start = used.month
		        WHERE used.tokens IS DISTINCT FROM p.tokens_used),
		       (SELECT count(*) FROM expected),
		       (SELECT count(*) FROM expected LEFT JOIN found USING (user_id, month, threshold) WHERE found.times IS NULL),
		       (SELECT count(*) FROM found LEFT JOIN expected USING (user_id, month, threshold) WHERE expected.user_id IS NULL),
		       (SELECT count(*) FROM found WHERE times > 1),
		       (SELECT count(*) FROM told), (SELECT count(*) FROM notifications),
		       (SELECT count(*) FROM told FULL JOIN notifications n USING (id) WHERE told.id IS NULL OR n.id IS NULL)`, thresholds).
		Scan(&a.Users, &a.Tokens, &a.WrongTotals, &a.Expected, &a.Missing, &a.Unexpected, &a.Doubled, &a.Told, &a.Notifications, &a.Unmatched)
	if err != nil {
		return a, fmt.Errorf("count by plain SQL: %w", err)
	}
	return a, nil
}
