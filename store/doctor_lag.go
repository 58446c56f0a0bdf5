package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// uncounted finds what has committed and waits to be counted: the oldest row of
// the window, by its commit where that is known and else by created_at, and the
// oldest correction that is due.
const uncounted = `WITH ` + window + `,
rows AS (
	SELECT l.xact_id, l.created_at FROM ranges r, LATERAL (
		SELECT xact_id, created_at FROM ai_usage_logs WHERE xact_id >= r.lo AND xact_id < r.hi ORDER BY xact_id LIMIT 1) l
	UNION ALL
	SELECT ended.xid, l.created_at FROM ended, LATERAL (
		SELECT created_at FROM ai_usage_logs WHERE xact_id = ended.xid LIMIT 1) l
)
SELECT (SELECT clock_timestamp() - min(since) FROM (
	       SELECT coalesce(CASE WHEN current_setting('track_commit_timestamp') = 'on' THEN pg_xact_commit_timestamp(xact_id::xid) END, created_at) AS since FROM rows
       ) r WHERE isfinite(since)),
       (SELECT clock_timestamp() - min(due_at) FROM tokenalert.recounts WHERE due_at <= clock_timestamp()),
       EXISTS (SELECT FROM tokenalert.recounts WHERE due_at IS NULL),
       (SELECT clock_timestamp() - max(started_at) FROM tokenalert.ticks), clock_timestamp()`

// How long what is overdue is watched before it is found fault with: it may be
// on the way, or a transaction that was open for long may just have committed.
const (
	watchFor   = 2 * time.Second
	watchEvery = 100 * time.Millisecond
)

// backlog is what uncounted finds.
type backlog struct {
	row, due, tick *time.Duration // how long ago the oldest of each; nil: none
	waiting        bool           // a correction that bears no time
	now            time.Time
}

// complaint says what is overdue, "" where nothing is.
func (b backlog) complaint(e *examination) string {
	since := func(d *time.Duration) bool { return d != nil && *d > e.q.Overdue }
	switch {
	case b.tick == nil && !e.ledSince.IsZero() && b.now.Sub(e.ledSince) > e.q.Overdue:
		return "a worker leads since " + e.ledSince.Format(time.RFC3339) + " and has not counted once: the first count reads two months of usage, or it fails"
	case since(b.row):
		return fmt.Sprintf("usage of %s ago is not counted, though a worker leads", b.row.Round(time.Second))
	case since(b.due), b.waiting && since(b.tick): // what bears no time has waited as long as no tick was taken
		return "corrections are due for more than " + e.q.Overdue.String() + ", though a worker leads"
	}
	return ""
}

// examineLag looks for usage and corrections that a worker who leads does not
// count, and for users whose data keeps them from being told.
func examineLag(ctx context.Context, e *examination, tx pgx.Tx, x *Examined) error {
	x.Well = "everything that has committed is counted, or about to be"
	if err := findSetAside(ctx, tx, x); err != nil {
		return err
	}
	if err := tx.Rollback(ctx); err != nil {
		return err
	}
	for began := time.Now(); ; {
		var b backlog
		err := e.look(ctx, func(tx pgx.Tx) error {
			return tx.QueryRow(ctx, uncounted).Scan(&b.row, &b.due, &b.waiting, &b.tick, &b.now)
		})
		if err != nil {
			return err
		}
		complaint := b.complaint(e)
		switch {
		case complaint == "":
			return nil
		case time.Since(began) >= watchFor:
			x.find(Warning, complaint, "see the worker's log, where a tick that fails says why; and whether a tick hangs or waits:",
				"SELECT pid, state, wait_event_type, wait_event, xact_start FROM pg_stat_activity WHERE application_name = 'tokenalert tick';")
			return nil
		}
		if err := sleep(ctx, watchEvery); err != nil {
			return err
		}
	}
}

// findSetAside looks for users, and budgets, whose data made a statement fail.
func findSetAside(ctx context.Context, tx pgx.Tx, x *Examined) error {
	for _, of := range []struct{ id, one, many, why, whose string }{
		{"user_id", "user is set aside and not told", "users are set aside and not told", "their data makes a statement fail", ""},
		{
			"organization_id", "budget is set aside, and nobody told of it", "budgets are set aside, and nobody told of them",
			"a statement fails that tells an admin", "of organization ",
		},
	} {
		rows, err := tx.Query(ctx, "SELECT DISTINCT "+of.id+"::text FROM tokenalert.recounts WHERE cause = 'set_aside' AND "+of.id+" IS NOT NULL ORDER BY 1 LIMIT 100")
		if err != nil {
			return err
		}
		ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return err
		}
		if len(ids) == 0 {
			continue
		}
		x.find(Warning, plural(len(ids), of.one, of.many)+", because "+of.why+": "+of.whose+some(ids),
			fmt.Sprintf("the worker's log (event user.set_aside) and the server's say which statement; mend the row, or the host's trigger that refuses it. Each is tried again every %s; at once, as the owner of ai_usage_logs:", SetAsideRetry),
			"UPDATE tokenalert.recounts SET due_at = NULL WHERE cause = 'set_aside';")
	}
	return nil
}
