package store

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// What is older is found fault with. Whoever delivers takes what is due within
// seconds; who must wait longer for a mail server that asks to be tried again
// later waits some ten minutes.
const (
	untakenAfter = 5 * time.Minute
	lateAfter    = 15 * time.Minute
)

// lastError is that of a job's last attempt, without what River puts before one
// that ended it.
const lastError = `left(regexp_replace(errors[cardinality(errors)] ->> 'error', '^JobCancelError: ', ''), 300)`

// onTheirWay counts, by channel, what is due and nobody takes, and what was tried
// and is late, with the last error of the oldest. A delivery that somebody had
// tried again is as old as that.
const onTheirWay = `
SELECT queue, quote_literal(queue), count(*) FILTER (WHERE due < $1), clock_timestamp() - min(scheduled_at),
       count(*) FILTER (WHERE attempt > 0 AND age > $2), max(age) FILTER (WHERE attempt > 0),
       coalesce((array_agg(` + lastError + ` ORDER BY age DESC) FILTER (WHERE attempt > 0))[1], '')
FROM (SELECT *, clock_timestamp() - greatest(created_at, (metadata ->> 'retried_at')::timestamptz) AS age, scheduled_at - clock_timestamp() AS due
      FROM tokenalert.river_job WHERE state IN ('available', 'pending', 'retryable', 'scheduled') AND kind = 'delivery') j
GROUP BY queue ORDER BY queue`

// givenUp counts, by channel, what failed for good in the last day, with the last
// error.
func givenUp(alerts ...string) string {
	return `
SELECT queue, count(*), coalesce((array_agg(` + lastError + ` ORDER BY finalized_at DESC))[1], '')
FROM tokenalert.river_job j
WHERE state IN ('cancelled', 'discarded') AND finalized_at > clock_timestamp() - interval '1 day' AND kind = 'delivery'
  AND ` + isFailure(alerts...) + `
GROUP BY queue ORDER BY queue`
}

// isFailure is whether j, a job that ended without being delivered, is one: its
// alert is in one of some tables, and somebody is left to be told ($1: ErrNobody).
func isFailure(alerts ...string) string {
	found := make([]string, len(alerts))
	for i, table := range alerts {
		found[i] = "EXISTS (SELECT FROM " + table + " a WHERE a.id = " + argument("alert_id") + ")"
	}
	return lastError + " IS DISTINCT FROM $1 AND (" + strings.Join(found, " OR ") + ")"
}

// delivering counts the sessions of replicas that deliver, each of which keeps one
// that listens.
const delivering = `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1`

// examineDeliveries looks for alerts that do not arrive by e-mail, by webhook or in
// another database.
func examineDeliveries(ctx context.Context, e *examination, tx pgx.Tx, x *Examined) error {
	var there bool
	if err := tx.QueryRow(ctx, `SELECT to_regclass('tokenalert.river_job') IS NOT NULL`).Scan(&there); err != nil {
		return err
	}
	if !there {
		x.Skipped = "the schema has no queue of deliveries yet"
		return nil
	}
	var sessions int
	if err := tx.QueryRow(ctx, delivering, appDeliver).Scan(&sessions); err != nil {
		return err
	}
	x.Well = "nothing waits, and no worker delivers"
	if sessions > 0 {
		x.Well = "delivered, or about to be"
	}
	if err := findOnTheirWay(ctx, tx, x, sessions > 0); err != nil {
		return err
	}
	alerts := []string{e.host["token_limit_alerts"].name}
	var budgets bool // which an older schema does not have
	if err := tx.QueryRow(ctx, `SELECT to_regclass('tokenalert.budget_alerts') IS NOT NULL`).Scan(&budgets); err != nil {
		return err
	}
	if budgets {
		alerts = append(alerts, "tokenalert.budget_alerts")
	}
	return findGivenUp(ctx, tx, x, alerts)
}

func findOnTheirWay(ctx context.Context, tx pgx.Tx, x *Examined, anybody bool) error {
	rows, err := tx.Query(ctx, onTheirWay, -untakenAfter, lateAfter)
	if err != nil {
		return err
	}
	var channel, quoted, last string
	var untaken, late int
	var waits, age *time.Duration
	_, err = pgx.ForEachRow(rows, []any{&channel, &quoted, &untaken, &waits, &late, &age, &last}, func() error {
		if untaken > 0 {
			why := "no worker delivers"
			if anybody {
				why = "no worker takes them, though some deliver: they are set up for other channels, or have too much to do"
			}
			x.find(Warning, fmt.Sprintf("%s for %s to be delivered by %s, and %s", plural(untaken, "alert has waited", "alerts have waited"), waits.Round(time.Second), channel, why),
				"give the workers the settings of this channel, and restart them (docs/operations.md, Deliveries); where it is to be no more, forget what waits, as the owner of ai_usage_logs:",
				fmt.Sprintf("DELETE FROM tokenalert.river_job WHERE queue = %s AND state IN ('available', 'pending', 'retryable', 'scheduled');", quoted))
			return nil
		}
		if late > 0 {
			x.find(Warning, fmt.Sprintf("%s tried again and again by %s, for %s by now: %s", plural(late, "alert is", "alerts are"), channel, age.Round(time.Second), last),
				"mend what the error says; they are tried again with growing pauses, for a day, and at once by `tokenalert deliveries retry ID`. Which they are:",
				"tokenalert deliveries list --state retrying --channel "+shellWord(channel))
		}
		return nil
	})
	return err
}

func findGivenUp(ctx context.Context, tx pgx.Tx, x *Examined, alerts []string) error {
	rows, err := tx.Query(ctx, givenUp(alerts...), ErrNobody.Error())
	if err != nil {
		return err
	}
	var channel, last string
	var failed int
	_, err = pgx.ForEachRow(rows, []any{&channel, &failed, &last}, func() error {
		x.find(Warning, fmt.Sprintf("%s given up in the last day and not delivered by %s, the last one because: %s", plural(failed, "alert was", "alerts were"), channel, last),
			"mend what the error says, then have them tried again:",
			"tokenalert deliveries list --state failed --channel "+shellWord(channel), "tokenalert deliveries retry --failed --channel "+shellWord(channel))
		return nil
	})
	return err
}
