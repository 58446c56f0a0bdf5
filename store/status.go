package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// A Status is what the database knows of the worker and the users, as of one
// snapshot.
type Status struct {
	Now           time.Time    `json:"now"` // tokenalert.now()
	Database      string       `json:"database"`
	ServerVersion int          `json:"server_version"` // as server_version_num: 150018
	Settings      *Settings    `json:"settings"`       // in force; nil where no worker has ever led
	Standby       bool         `json:"standby"`        // where who leads is not to be seen
	Leader        *Leader      `json:"leader"`         // nil: nobody leads
	Waiting       int          `json:"waiting"`        // sessions that wait for the lead
	LastTick      *TickRow     `json:"last_tick"`      // nil: nothing was ever counted
	Uncounted     Uncounted    `json:"uncounted"`
	Bell          Bell         `json:"bell"`
	Corrections   Corrections  `json:"corrections"`
	Limited       int          `json:"limited_users"` // users who have a limit
	Users         []Standing   `json:"users"`         // those nearest to their limits, nearest first
	Alerts        []AlertCount `json:"alerts"`        // of current periods
	Deliveries    Deliveries   `json:"deliveries"`
}

// A TickRow is one row of the chain.
type TickRow struct {
	ID        int64     `json:"id"`
	Kind      Kind      `json:"kind"`
	Rows      int64     `json:"rows"`
	Users     int64     `json:"users"`
	Worker    string    `json:"worker"`
	StartedAt time.Time `json:"started_at"`
}

const tickColumns = "id, kind, rows, users, worker, started_at"

// Uncounted is what has committed since the last tick.
type Uncounted struct {
	Rows   int64      `json:"rows"`   // up to UncountedMost; more are not looked for
	Oldest *time.Time `json:"oldest"` // created_at of the oldest among them
}

// UncountedMost bounds how many rows Status looks for.
const UncountedMost = 100_000

// Bell is the state of the doorbell.
type Bell struct {
	Armed      bool       `json:"armed"`       // until later than now, by the server's clock
	ArmedUntil *time.Time `json:"armed_until"` // nil: it was never armed, or silenced
	Muted      bool       `json:"muted"`       // prepared transactions are possible, and it is not forced
}

// Corrections are the rows of tokenalert.recounts.
type Corrections struct {
	Due      int64      `json:"due"`       // to be dealt with at the next tick
	Oldest   *time.Time `json:"oldest"`    // when the oldest of them was recorded, where that is known
	Later    int64      `json:"later"`     // not before their time: a period that is to begin, a retry
	SetAside int64      `json:"set_aside"` // users whose data makes a statement fail
	// BudgetsSetAside are those of which telling an admin makes one fail.
	BudgetsSetAside int64 `json:"budgets_set_aside"`
}

// A Standing is one user in the current period.
type Standing struct {
	UserID      uuid.UUID `json:"user_id"`
	FullName    string    `json:"full_name"`
	TokensUsed  int64     `json:"tokens_used"`
	TokenLimit  int64     `json:"token_limit"`
	PeriodStart time.Time `json:"period_start"`
	PeriodEnd   time.Time `json:"resets_at"`
}

// An AlertCount counts the alerts of one threshold and reason.
type AlertCount struct {
	Threshold int32  `json:"threshold"`
	Reason    string `json:"reason"` // empty: told
	Count     int64  `json:"count"`
}

// Deliveries are alerts on their way by all channels.
type Deliveries struct {
	Waiting  int64      `json:"waiting"`  // for a worker, or being handed over
	Retrying int64      `json:"retrying"` // after a failure
	Oldest   *time.Time `json:"oldest"`   // when the oldest of both was made
	Failed   int64      `json:"failed"`   // for good, in the last day
}

// Status looks at everything in one read-only REPEATABLE READ transaction. users
// bounds how many standings it returns.
func (s *Store) Status(ctx context.Context, users int) (Status, error) {
	var status Status
	err := pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT set_config('statement_timeout', '30s', true), set_config('lock_timeout', '1s', true),
			set_config('jit', 'off', true)`); err != nil {
			return err
		}
		batch := &pgx.Batch{}
		status.queueServer(batch)
		status.queueSettings(batch)
		status.queueLead(batch)
		status.queueChain(batch)
		status.queueCorrections(batch)
		status.queueAlerts(batch)
		status.queueDeliveries(batch)
		status.queueUsers(batch, users)
		return tx.SendBatch(ctx, batch).Close()
	})
	if err != nil {
		return Status{}, fmt.Errorf("status: %w", s.refused(ctx, err))
	}
	return status, nil
}

func (st *Status) queueServer(batch *pgx.Batch) {
	batch.Queue(`
		SELECT tokenalert.now(), current_database(), current_setting('server_version_num')::integer, pg_is_in_recovery(),
		       to_timestamp(nullif(v.bell, 0)), coalesce(v.bell > date_part('epoch', clock_timestamp()), false),
		       current_setting('max_prepared_transactions') <> '0' AND NOT coalesce((SELECT bell_forced FROM tokenalert.settings), false)
		FROM (SELECT pg_sequence_last_value('tokenalert.doorbell') AS bell) v`).QueryRow(func(row pgx.Row) error {
		return row.Scan(&st.Now, &st.Database, &st.ServerVersion, &st.Standby, &st.Bell.ArmedUntil, &st.Bell.Armed, &st.Bell.Muted)
	})
}

func (st *Status) queueSettings(batch *pgx.Batch) {
	batch.Queue(settingsInForce).QueryRow(func(row pgx.Row) error {
		var err error
		st.Settings, err = scanSettings(row)
		return err
	})
}

func (st *Status) queueLead(batch *pgx.Batch) {
	batch.Queue(leadSessions, leadSessionsOf...).Query(func(rows pgx.Rows) error {
		var err error
		st.Leader, st.Waiting, err = collectLead(rows)
		return err
	})
}

func (st *Status) queueChain(batch *pgx.Batch) {
	batch.Queue(`SELECT set_config('enable_seqscan', 'off', true)`) // as a tick
	batch.Queue(`SELECT ` + tickColumns + ` FROM tokenalert.ticks ORDER BY id DESC LIMIT 1`).QueryRow(func(row pgx.Row) error {
		var t TickRow
		err := row.Scan(&t.ID, &t.Kind, &t.Rows, &t.Users, &t.Worker, &t.StartedAt)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		st.LastTick = &t
		return err
	})
	batch.Queue(`WITH `+window+`
		SELECT count(*), min(`+inCalendar("created_at")+`) FROM (
			SELECT l.created_at FROM ranges r, LATERAL (
				SELECT created_at FROM ai_usage_logs WHERE xact_id >= r.lo AND xact_id < r.hi OFFSET 0) l
			UNION ALL
			SELECT l.created_at FROM ended, LATERAL (
				SELECT created_at FROM ai_usage_logs WHERE xact_id = ended.xid OFFSET 0) l
			LIMIT $1
		) uncounted`, UncountedMost).QueryRow(func(row pgx.Row) error {
		return row.Scan(&st.Uncounted.Rows, &st.Uncounted.Oldest)
	})
	batch.Queue(`SELECT set_config('enable_seqscan', 'on', true)`)
}

func (st *Status) queueCorrections(batch *pgx.Batch) {
	batch.Queue(`
		SELECT count(*) FILTER (WHERE due), min(` + inCalendar("since") + `) FILTER (WHERE due), count(*) FILTER (WHERE NOT due),
		       count(DISTINCT user_id) FILTER (WHERE cause = 'set_aside'), count(DISTINCT organization_id) FILTER (WHERE cause = 'set_aside')
		FROM (SELECT *, due_at IS NULL OR due_at <= tokenalert.now() AS due,
		             -- Of other causes at is the row's, or the period's.
		             coalesce(due_at, CASE WHEN cause IN ('user_added', 'user_changed', 'user_deleted', 'limits_changed') THEN at END) AS since
		      FROM tokenalert.recounts) r`).QueryRow(func(row pgx.Row) error {
		return row.Scan(&st.Corrections.Due, &st.Corrections.Oldest, &st.Corrections.Later, &st.Corrections.SetAside, &st.Corrections.BudgetsSetAside)
	})
}

func (st *Status) queueAlerts(batch *pgx.Batch) {
	batch.Queue(`
		SELECT alert_threshold, coalesce(reason, ''), count(*) FROM token_limit_alerts
		WHERE period_start <= tokenalert.now() AND tokenalert.now() < period_end
		GROUP BY 1, 2 ORDER BY 1, 2`).Query(func(rows pgx.Rows) error {
		var err error
		st.Alerts, err = pgx.CollectRows(rows, pgx.RowToStructByPos[AlertCount])
		return err
	})
}

// queueDeliveries leaves out what ended because nobody is left to be told, which is
// no failure.
func (st *Status) queueDeliveries(batch *pgx.Batch) {
	batch.Queue(`
		SELECT count(*) FILTER (WHERE attempt = 0 OR state = 'running'), count(*) FILTER (WHERE attempt > 0 AND state <> 'running'), min(created_at),
		       (SELECT count(*) FROM tokenalert.river_job j
		        WHERE j.state IN ('cancelled', 'discarded') AND j.finalized_at > clock_timestamp() - interval '1 day' AND j.kind = 'delivery'
		          AND `+isFailure("token_limit_alerts", "tokenalert.budget_alerts")+`)
		FROM tokenalert.river_job
		WHERE state IN ('available', 'pending', 'retryable', 'running', 'scheduled') AND kind = 'delivery'`, ErrNobody.Error()).QueryRow(func(row pgx.Row) error {
		d := &st.Deliveries
		return row.Scan(&d.Waiting, &d.Retrying, &d.Oldest, &d.Failed)
	})
}

// queueUsers asks for those nearest to their limits. The period that a total
// belongs to is worked out for these alone: after a change of the reset day a
// user has totals of two periods that overlap.
func (st *Status) queueUsers(batch *pgx.Batch, most int) {
	batch.Queue(`SELECT count(*) FROM tokenalert.accounts() WHERE token_limit > 0`).QueryRow(func(row pgx.Row) error {
		return row.Scan(&st.Limited)
	})
	batch.Queue(`
		WITH unknown AS MATERIALIZED (SELECT time_zone FROM (`+otherZones+`) z WHERE NOT known)
		SELECT a.user_id, left(coalesce(a.full_name, ''), 200), greatest(least(p.tokens_used, 9223372036854775807), -9223372036854775808)::bigint,
		       a.token_limit, p.period_start, p.period_end
		FROM tokenalert.usage_periods p
		JOIN tokenalert.accounts() a ON a.user_id = p.user_id
		CROSS JOIN LATERAL (
			SELECT coalesce(CASE WHEN z.time_zone NOT IN (SELECT time_zone FROM unknown) THEN z.time_zone END, -- as ticks do
			                (SELECT time_zone FROM tokenalert.settings)) AS time_zone
			FROM (SELECT coalesce((SELECT time_zone FROM tokenalert.policies o WHERE o.user_id = a.user_id),
			                      (SELECT time_zone FROM tokenalert.policies o WHERE o.organization_id = a.organization_id)) AS time_zone OFFSET 0) z
			OFFSET 0
		) s
		WHERE p.period_start <= tokenalert.now() AND tokenalert.now() < p.period_end AND a.token_limit > 0
		  AND p.period_start = tokenalert.period_start(a.reset_day, s.time_zone, tokenalert.now())
		ORDER BY p.tokens_used / a.token_limit DESC, a.user_id LIMIT $1`, most).Query(func(rows pgx.Rows) error {
		var err error
		st.Users, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Standing])
		return err
	})
}
