package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// coming is how many midnights the zone rules are compared for: more than a
// year of period ends, for every reset day.
const coming = 400

// examineZone looks whether the server knows the zone, and by the same rules as
// this binary.
func examineZone(ctx context.Context, e *examination, tx pgx.Tx, x *Examined) error {
	zone := e.q.Settings.TimeZone
	rows, err := tx.Query(ctx, `
		SELECT day, tokenalert.local_midnight(day, $1)
		FROM generate_series(date_trunc('day', clock_timestamp() AT TIME ZONE $1), date_trunc('day', clock_timestamp() AT TIME ZONE $1) + $2 * interval '1 day', '1 day') AS day`,
		zone, coming)
	if err != nil {
		return err
	}
	differ, said := 0, ""
	var day, midnight time.Time
	_, err = pgx.ForEachRow(rows, []any{&day, &midnight}, func() error {
		// A day begins at the first instant at which the clock reads at least 00:00.
		if clockReads(midnight, e.q.Zone).Before(day) || !clockReads(midnight.Add(-time.Second), e.q.Zone).Before(day) {
			if differ++; differ == 1 {
				said = fmt.Sprintf("%s begins at %s by the server, when a clock reads %s by this binary", day.Format(time.DateOnly),
					midnight.UTC().Format(time.RFC3339), clockReads(midnight, e.q.Zone).Format(time.DateTime))
			}
		}
		return nil
	})
	switch {
	case SQLState(err) == codeInvalidParameter:
		x.find(Broken, "the server does not know the zone TOKENALERT_TIME_ZONE="+zone+": no worker can work out a period",
			"update the time zones of the server's machine (its package tzdata, or PostgreSQL itself) and restart it, or set a name from:",
			"SELECT name FROM pg_timezone_names ORDER BY name;")
		return nil
	case err != nil:
		return err
	case differ > 0:
		x.find(Warning, fmt.Sprintf("the server's rules of zone %s and this binary's differ on %d of the next %d days: %s. Periods follow the server's rules, messages this binary's",
			zone, differ, coming, said),
			"update what is older: the time zones of the server's machine (its package tzdata, or PostgreSQL itself; then restart it), or this binary")
	}
	x.Well = zone + ", by the same rules on the server and here"
	return nil
}

// clockReads is what a clock in the zone reads at an instant, as a time in UTC.
func clockReads(at time.Time, zone *time.Location) time.Time {
	t := at.In(zone)
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC)
}

// examineSettings compares the settings in force with this environment's.
func examineSettings(ctx context.Context, e *examination, tx pgx.Tx, x *Examined) error {
	inForce, err := settingsInForce(ctx, tx)
	if err != nil {
		return err
	}
	if inForce == nil {
		x.Well = "none in force: no worker has led yet"
		return nil
	}
	differs := func(setting, mine, theirs string) {
		x.find(Warning, fmt.Sprintf("%s=%s here, and %s is in force, put there by worker %s", setting, mine, theirs, inForce.Worker),
			fmt.Sprintf("give the doctor and every worker one environment: set %s=%s here, or restart the workers with %s=%s, as whoever takes the lead next puts its own in force",
				setting, theirs, setting, mine))
	}
	mine := e.q.Settings
	if mine.TimeZone != inForce.TimeZone {
		differs("TOKENALERT_TIME_ZONE", mine.TimeZone, inForce.TimeZone)
	}
	if !slices.Equal(mine.Thresholds, inForce.Thresholds) {
		differs("TOKENALERT_THRESHOLDS", commas(mine.Thresholds), commas(inForce.Thresholds))
	}
	if mine.BellForced != inForce.BellForced {
		theirs := "auto"
		if inForce.BellForced {
			theirs = "on"
		}
		differs("TOKENALERT_BELL", e.q.Bell, theirs)
	}
	x.Well = "those in force are this environment's"
	return nil
}

func commas(numbers []int32) string { return strings.Trim(arrayLiteral(numbers), "{}") }

// examineLead looks who holds the lead.
func examineLead(ctx context.Context, e *examination, tx pgx.Tx, x *Examined) error {
	var pid int
	var application string
	err := tx.QueryRow(ctx, `
		SELECT a.pid, a.application_name FROM pg_locks l JOIN pg_stat_activity a USING (pid)
		WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND l.database = a.datid AND a.datname = current_database()
		  AND l.classid = ($1::bigint >> 32)::oid AND l.objid = ($1::bigint & 4294967295)::oid`, int64(leadKey)).Scan(&pid, &application)
	if errors.Is(err, pgx.ErrNoRows) {
		x.find(Warning, "nobody leads, so nobody is told", "start a worker, and keep it running:", "tokenalert run")
		return nil
	}
	if err != nil {
		return err
	}
	rest, ours := strings.CutPrefix(application, appLead)
	if !ours {
		x.find(Warning, fmt.Sprintf("the lock of the lead is held by a session that is no worker's (pid %d, application %q), so nobody leads and nobody is told: did a pooler hand the lead's session to somebody else?", pid, application),
			"end that session, as its own role or a member of pg_signal_backend:", fmt.Sprintf("SELECT pg_terminate_backend(%d);", pid))
		return nil
	}
	e.led = true
	since, worker, _ := strings.Cut(strings.TrimSpace(rest), " ")
	x.Well = "a worker leads"
	if at, err := time.Parse(leadSince, since); err == nil {
		e.ledSince = at
		x.Well = fmt.Sprintf("worker %s, since %s", worker, at.Format(time.RFC3339))
	}
	return nil
}

// farLease is further than any lease that a worker takes.
const farLease = time.Hour

// examineBell looks for a bell that rings for nobody, or cannot.
func examineBell(ctx context.Context, e *examination, tx pgx.Tx, x *Examined) error {
	var left, full float64
	err := tx.QueryRow(ctx, `SELECT coalesce(pg_sequence_last_value('tokenalert.doorbell'), 0) - date_part('epoch', clock_timestamp()), pg_notification_queue_usage()`).
		Scan(&left, &full)
	if err != nil {
		return err
	}
	lease := time.Duration(min(left, farLease.Seconds()*24*365) * float64(time.Second)).Round(time.Second)
	silence := "SELECT setval('tokenalert.doorbell', 0);"
	switch {
	case lease > farLease:
		x.find(Warning, fmt.Sprintf("the bell is armed for the next %s, longer than any worker arms it (restored, or set by hand?): until a worker that uses the bell leads, inserts notify for nobody", lease),
			"silence it, as the owner of ai_usage_logs or the worker's role; who leads arms it anew:", silence)
	case !e.led && lease > e.q.BellLease:
		x.find(Warning, fmt.Sprintf("the bell is armed for the next %s, longer than a lease (%s), though nobody leads: inserts notify for nobody", lease, e.q.BellLease),
			"silence it, as the owner of ai_usage_logs or the worker's role:", silence)
	}
	if full >= 0.5 {
		x.find(Warning, fmt.Sprintf("the notification queue is %.0f %% full, so the bell is mute and the worker looks every TOKENALERT_BELL_RENEWAL; full, it would make the commit of anybody fail who notifies", full*100),
			"a session that listens, to whatever channel, stays in a transaction and so does not read; the oldest of these, to be ended by pg_terminate_backend:",
			"SELECT pid, usename, application_name, state, xact_start FROM pg_stat_activity WHERE xact_start IS NOT NULL AND pid <> pg_backend_pid() ORDER BY xact_start LIMIT 5;")
	}
	x.Well = "silent"
	if left > 0 {
		x.Well = fmt.Sprintf("armed for the next %s", lease)
	}
	return nil
}

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

// examineLag looks for usage and corrections that a worker who leads does not
// count, and for users whose data keeps them from being told.
func examineLag(ctx context.Context, e *examination, tx pgx.Tx, x *Examined) error {
	x.Well = "everything that has committed is counted, or about to be"
	const see = "see its log, where a tick that fails says why; and whether a tick hangs or waits:"
	const ticks = "SELECT pid, state, wait_event_type, wait_event, xact_start FROM pg_stat_activity WHERE application_name = 'tokenalert tick';"
	for began := time.Now(); ; {
		var row, due, tick *time.Duration // how long ago
		var waiting bool
		var now time.Time
		if err := tx.QueryRow(ctx, uncounted).Scan(&row, &due, &waiting, &tick, &now); err != nil {
			return err
		}
		stuck := tick != nil && *tick > e.q.Overdue // then what bears no time waits for as long
		lateRow := row != nil && *row > e.q.Overdue
		lateCorrection := due != nil && *due > e.q.Overdue || waiting && stuck
		never := tick == nil && !e.ledSince.IsZero() && now.Sub(e.ledSince) > e.q.Overdue
		if !lateRow && !lateCorrection && !never {
			break
		}
		if time.Since(began) < watchFor {
			if err := sleep(ctx, watchEvery); err != nil {
				return err
			}
			continue
		}
		switch {
		case never:
			x.find(Warning, "a worker leads since "+e.ledSince.Format(time.RFC3339)+" and has not counted once: the first count reads two months of usage, or it fails", see, ticks)
		case lateRow:
			x.find(Warning, fmt.Sprintf("usage of %s ago is not counted, though a worker leads", row.Round(time.Second)), see, ticks)
		default:
			x.find(Warning, "corrections are due for more than "+e.q.Overdue.String()+", though a worker leads", see, ticks)
		}
		break
	}
	rows, err := tx.Query(ctx, "SELECT DISTINCT user_id FROM tokenalert.recounts WHERE cause = 'set_aside' AND user_id IS NOT NULL ORDER BY 1 LIMIT 100")
	if err != nil {
		return err
	}
	aside, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil || len(aside) == 0 {
		return err
	}
	var ids []string
	for _, id := range aside {
		ids = append(ids, id.String())
	}
	x.find(Warning, plural(len(aside), "user is", "users are")+" set aside and not told, because their data makes a statement fail: "+some(ids),
		fmt.Sprintf("the worker's log (event user.set_aside) and the server's say which statement; mend the row, or the host's trigger that refuses it. Each is tried again every %s; at once, as the owner of ai_usage_logs:", SetAsideRetry),
		"UPDATE tokenalert.recounts SET due_at = NULL WHERE cause = 'set_aside';")
	return nil
}
