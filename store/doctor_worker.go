package store

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// coming is how many midnights the zone rules are compared for: more than a
// year of period ends, for every reset day.
const coming = 400

// examineZone looks whether the server knows the zone, and by the same rules as
// this binary.
func examineZone(ctx context.Context, e *examination, tx pgx.Tx, x *Examined) error {
	zone := e.q.Settings.TimeZone
	if err := findUnknownZones(ctx, tx, zone, x); err != nil {
		return err
	}
	rows, err := tx.Query(ctx, `
		SELECT day, tokenalert.local_midnight(day, $1)
		FROM generate_series(1, $2) AS n, date_trunc('day', clock_timestamp() AT TIME ZONE $1 + n * interval '1 day') AS day`,
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

// findUnknownZones looks for policies and budgets in a zone that the server does
// not know, which no policy could be set to: it has lost it since, or the database
// comes from another server. They go by the settings' zone.
func findUnknownZones(ctx context.Context, tx pgx.Tx, settings string, x *Examined) error {
	var there bool
	if err := tx.QueryRow(ctx, `SELECT to_regclass('tokenalert.budgets') IS NOT NULL`).Scan(&there); err != nil || !there {
		return err
	}
	rows, err := tx.Query(ctx, `
		WITH unknown AS MATERIALIZED (SELECT time_zone FROM (`+otherZones+`) z WHERE NOT known)
		SELECT coalesce(p.organization_id, b.organization_id), p.user_id, u.time_zone, v.time_zone
		FROM tokenalert.policies p FULL JOIN tokenalert.budgets b ON b.organization_id = p.organization_id
		LEFT JOIN unknown u ON u.time_zone = p.time_zone LEFT JOIN unknown v ON v.time_zone = b.time_zone
		WHERE u.time_zone IS NOT NULL OR v.time_zone IS NOT NULL ORDER BY 1, 2 LIMIT 100`)
	if err != nil {
		return err
	}
	var all, commands []string
	var of PolicyOf
	var zone, budgetZone *string
	_, err = pgx.ForEachRow(rows, []any{&of.Organization, &of.User, &zone, &budgetZone}, func() error {
		command := "tokenalert policy set --organization "
		if of.User != nil {
			command = "tokenalert policy set --user "
		}
		command += strings.Fields(of.String())[1]
		if zone != nil {
			all = append(all, fmt.Sprintf("%s of %s", *zone, of))
			command += " --time-zone inherit"
		}
		if budgetZone != nil {
			all = append(all, fmt.Sprintf("%s of the budget of %s", *budgetZone, of))
			command += " --budget-time-zone " + shellWord(settings)
		}
		commands = append(commands, command)
		return nil
	})
	if err != nil || len(all) == 0 {
		return err
	}
	x.find(Broken, "the server does not know "+plural(len(all), "zone that is set by policy", "zones that are set by policy")+": "+some(all)+
		". Their periods begin in TOKENALERT_TIME_ZONE, and views that say how they stand fail",
		"update the time zones of the server's machine (its package tzdata, or PostgreSQL itself), restart it and the workers, and see `tokenalert reconcile`; or give them a zone that it knows, as the owner of ai_usage_logs, with:",
		commands[:min(len(commands), few)]...)
	return nil
}

// clockReads is what a clock in the zone reads at an instant, as a time in UTC.
func clockReads(at time.Time, zone *time.Location) time.Time {
	t := at.In(zone)
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC)
}

// examineSettings compares the settings in force with this environment's.
func examineSettings(ctx context.Context, e *examination, tx pgx.Tx, x *Examined) error {
	inForce, err := scanSettings(tx.QueryRow(ctx, settingsInForce))
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
	rows, err := tx.Query(ctx, leadSessions, leadSessionsOf...)
	if err != nil {
		return err
	}
	leader, _, err := collectLead(rows)
	switch {
	case err != nil:
		return err
	case leader == nil:
		x.find(Warning, "nobody leads, so nobody is told", "start a worker, and keep it running:", "tokenalert run")
	case !strings.HasPrefix(leader.Session, appLead):
		x.find(Warning, fmt.Sprintf("the lock of the lead is held by a session that is no worker's (pid %d, application %q), so nobody leads and nobody is told: did a pooler hand the lead's session to somebody else?", leader.PID, leader.Session),
			"end that session, as its own role or a member of pg_signal_backend:", fmt.Sprintf("SELECT pg_terminate_backend(%d);", leader.PID))
	default:
		e.led = true
		x.Well = "a worker leads"
		if leader.Since != nil {
			e.ledSince = *leader.Since
			x.Well = fmt.Sprintf("worker %s, since %s", leader.Worker, leader.Since.Format(time.RFC3339))
		}
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
	silence := "SELECT setval('tokenalert.doorbell', 0, false);"
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
