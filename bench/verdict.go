package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// A verdict is what a count by plain SQL says of the alerts of one competitor
// at the end of its part of a round.
type verdict struct {
	Cell       string `json:"cell"`
	Part       string `json:"part"`
	Round      int    `json:"round"`
	Competitor string `json:"competitor"`
	Expected   int    `json:"expected"` // crossings: thresholds at or below the sum of a user's month
	Lost       int    `json:"lost"`     // crossings without an alert row, and alerts that say that they notified but did not
	Doubled    int    `json:"doubled"`  // alert rows and notifications beyond the first for a crossing
	Early      int    `json:"early"`    // alert rows without a crossing
	Unfinished bool   `json:"unfinished,omitempty"`
}

func (v verdict) right() bool { return v.Lost == 0 && v.Doubled == 0 && v.Early == 0 && !v.Unfinished }

func (v verdict) String() string {
	if v.right() {
		return "right"
	}
	var said []string
	for _, part := range []struct {
		n    int
		name string
	}{{v.Lost, "lost"}, {v.Doubled, "doubled"}, {v.Early, "early"}} {
		if part.n > 0 {
			said = append(said, fmt.Sprintf("%d %s", part.n, part.name))
		}
	}
	if v.Unfinished {
		said = append(said, "did not finish")
	}
	return fmt.Sprintf("%s, of %d", strings.Join(said, ", "), v.Expected)
}

// add sums the verdicts of several rounds.
func (v verdict) add(w verdict) verdict {
	v.Expected, v.Lost, v.Doubled, v.Early = v.Expected+w.Expected, v.Lost+w.Lost, v.Doubled+w.Doubled, v.Early+w.Early
	v.Unfinished = v.Unfinished || w.Unfinished
	return v
}

// audit counts. All usage of the bench is of the current month, so the rows of
// the host's trigger, which have no period, can be held to the same. Where it is
// only the highest threshold that is recorded, those below are not missed.
func audit(ctx context.Context, conn *pgx.Conn, highest bool) (verdict, error) {
	var v verdict
	err := conn.QueryRow(ctx, `
		WITH used AS (
			SELECT user_id, sum(tokens_used) AS tokens FROM ai_usage_logs GROUP BY 1
		), expected AS (
			SELECT used.user_id, threshold
			FROM used JOIN users u ON u.id = used.user_id, unnest('{80,90,100}'::integer[]) AS threshold
			WHERE used.tokens * 100 >= threshold * u.monthly_token_limit::bigint
		), found AS (
			SELECT user_id, alert_threshold AS threshold, count(*) AS times FROM token_limit_alerts GROUP BY 1, 2
		), sent AS (
			SELECT user_id, count(*) AS times FROM token_limit_alerts WHERE alert_sent GROUP BY 1
		), told AS (
			SELECT user_id, count(*) AS times FROM notifications GROUP BY 1
		)
		SELECT (SELECT count(*) FROM expected),
		       (SELECT count(*) FROM expected e WHERE NOT EXISTS (
			       SELECT FROM found f WHERE f.user_id = e.user_id AND (f.threshold = e.threshold OR $1 AND f.threshold > e.threshold)))
		       + (SELECT coalesce(sum(greatest(sent.times - coalesce(told.times, 0), 0)), 0) FROM sent LEFT JOIN told USING (user_id)),
		       (SELECT coalesce(sum(times - 1), 0) FROM found)
		       + (SELECT coalesce(sum(greatest(told.times - coalesce(sent.times, 0), 0)), 0) FROM told LEFT JOIN sent USING (user_id)),
		       (SELECT count(*) FROM found LEFT JOIN expected USING (user_id, threshold) WHERE expected.user_id IS NULL)`, highest).
		Scan(&v.Expected, &v.Lost, &v.Doubled, &v.Early)
	if err != nil {
		return v, fmt.Errorf("count by plain SQL: %w", err)
	}
	return v, nil
}
