package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/common/model"
)

// connections is what the server of the drill that uses them up allows.
const connections = 40

var drills = []drill{
	{
		alert: "TokenalertNoLeader", fault: "the worker's role may not log in any more, and its sessions are ended",
		strike: func(ctx context.Context, s *site) error {
			return execute(ctx, s.admin, "ALTER ROLE tokenalert NOLOGIN", endWorkersSessions)
		},
		says: []string{"28000", "is not permitted to log in"},
	},
	{
		alert: "TokenalertNoLeader", fault: "both workers are stopped, and no target is left",
		strike:  func(_ context.Context, s *site) error { return s.stopWorkers() },
		says:    []string{"worker.stopping", "nobody leads"},
		cluster: func(ctx context.Context, s *site) error { return s.startWorkers(ctx) },
	},
	{
		alert: "TokenalertTwoLeaders", fault: "a standby is promoted, the old primary is not fenced, and the follower is restarted with the new address",
		strike: splitBrain,
		says:   []string{"leader.acquired", "tokenalert-1", "tokenalert-2"},
	},
	{
		alert: "TokenalertFallingBehind", fault: "a session locks the totals, and is left open in its transaction",
		strike: func(ctx context.Context, s *site) error {
			return s.hold(ctx, s.admin, "BEGIN", "LOCK TABLE tokenalert.usage_periods IN SHARE MODE")
		},
		says: []string{"55P03", "ShareLock", "idle in transaction"},
	},
	{
		alert: "TokenalertTicksFailing", fault: "a privilege is revoked from the worker's role",
		hurry: 10, // the pause after a failure, up to 5 s, stays as it is
		strike: func(ctx context.Context, s *site) error {
			return execute(ctx, s.owner, "REVOKE INSERT ON tokenalert.usage_periods FROM tokenalert")
		},
		says: []string{"42501", "cannot run the worker: it lacks"},
	},
	{
		alert: "TokenalertReconnectStorm", fault: "a program ends idle sessions five times a second",
		strike: func(ctx context.Context, s *site) error {
			return s.keepOn(ctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'tokenalert' AND state = 'idle'")
		},
		says: []string{"57P01", "pg_terminate_backend"},
	},
	{
		alert: "TokenalertTotalsDrifting", fault: "rows are changed while the triggers are disabled",
		settings: []string{"TOKENALERT_RECONCILE_INTERVAL=1m"},
		strike: func(ctx context.Context, s *site) error {
			return execute(ctx, s.owner, "ALTER TABLE ai_usage_logs DISABLE TRIGGER tokenalert_usage_changed",
				"UPDATE ai_usage_logs SET tokens_used = tokens_used + 7")
		},
		says: []string{"reconcile.difference", "tokenalert_usage_changed"},
	},
	{
		alert: "TokenalertRowsSkipped", fault: "an application writes usage of an infinite instant",
		strike: func(ctx context.Context, s *site) error {
			return execute(ctx, s.owner, fmt.Sprintf("INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used, created_at) SELECT id, organization_id, 1, 'infinity' FROM users WHERE id = '%s'", s.during))
		},
		says: []string{"rows.skipped", "infinity"},
	},
	{
		alert: "TokenalertBellStuck", fault: "the trigger that rings is disabled",
		settings: []string{"TOKENALERT_BELL_LEASE=3s", "TOKENALERT_BELL_RENEWAL=1s", "TOKENALERT_LEAD_PING=400ms"},
		strike: func(ctx context.Context, s *site) error {
			return execute(ctx, s.owner, "ALTER TABLE ai_usage_logs DISABLE TRIGGER tokenalert_ring")
		},
		says: []string{"tokenalert_ring", "disabled"},
	},
	{
		alert: "TokenalertUsersSetAside", fault: "a constraint of the host refuses a user's notification",
		strike: func(ctx context.Context, s *site) error {
			s.variables = append(s.variables, "USER_ID="+s.during.String(), "CONSTRAINT=of_the_host")
			return execute(ctx, s.owner, fmt.Sprintf("ALTER TABLE notifications ADD CONSTRAINT of_the_host CHECK (user_id <> '%s')", s.during))
		},
		says: []string{"23514", "of_the_host", "1 user set aside"},
	},
	{
		alert: "TokenalertDatabaseNearRefusal", fault: "an application leaks connections",
		server: map[string]string{"max_connections": fmt.Sprint(connections)},
		strike: leak,
		says:   []string{"leaky", fmt.Sprint(connections)},
	},
	{
		alert: "TokenalertDeliveryFailing", fault: "the receiver of the webhooks is gone, and answers 410",
		receives: true,
		strike:   func(_ context.Context, s *site) error { s.receiver.Answer(http.StatusGone); return nil },
		says:     []string{"given up in the last day and not delivered by webhook", "it answered 410"},
		mend:     func(_ context.Context, s *site) error { s.receiver.Answer(http.StatusNoContent); return nil },
	},
	{
		alert: "TokenalertDeliveryDelayed", fault: "the receiver of the webhooks is down",
		receives: true,
		strike:   waitInVain,
		says:     []string{"tried again and again by webhook", "connection refused", "retrying", "tokenalert deliver"},
		mend:     func(ctx context.Context, s *site) error { return s.receiver.Up(ctx) },
	},
}

// waitInVain takes the receiver away, and dates an alert back that it does not take:
// a quarter of an hour is a number in the rule, which does not pass faster.
func waitInVain(ctx context.Context, s *site) error {
	s.receiver.Down()
	if err := s.exhaust(ctx, s.during); err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, s.admin)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	return until(ctx, "the alert is tried again", func(ctx context.Context) (bool, error) {
		tag, err := conn.Exec(ctx, `UPDATE tokenalert.river_job SET created_at = created_at - interval '15 minutes'
			WHERE state = 'retryable' AND (args ->> 'alert_id')::uuid IN (SELECT id FROM token_limit_alerts WHERE user_id = $1)`, s.during)
		return tag.RowsAffected() > 0, err
	})
}

const endWorkersSessions = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'tokenalert'"

// hold opens a session that stays until somebody ends it, or the drill is over.
func (s *site) hold(ctx context.Context, url string, statements ...string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	s.undo = append(s.undo, func() { _ = conn.Close(context.Background()) })
	for _, sql := range statements {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return nil
}

// keepOn runs a statement five times a second, until somebody ends its session.
func (s *site) keepOn(ctx context.Context, sql string) error {
	conn, err := pgx.Connect(ctx, s.admin)
	if err != nil {
		return err
	}
	going, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	s.undo = append(s.undo, func() { cancel(); <-ended })
	go func() {
		defer close(ended)
		defer func() { _ = conn.Close(context.Background()) }()
		for going.Err() == nil {
			if _, err := conn.Exec(going, sql); err != nil {
				return
			}
			select {
			case <-going.Done():
			case <-time.After(200 * time.Millisecond):
			}
		}
	}()
	return nil
}

// leak opens sessions of the host's until the server allows only three more.
func leak(ctx context.Context, s *site) error {
	admin, err := pgx.Connect(ctx, s.admin) // who sees what the other sessions are
	if err != nil {
		return err
	}
	defer func() { _ = admin.Close(context.WithoutCancel(ctx)) }()
	for free := connections; free > 3; {
		conn, err := pgx.Connect(ctx, s.owner+"&application_name=leaky")
		if err != nil {
			return err
		}
		s.undo = append(s.undo, func() { _ = conn.Close(context.Background()) })
		if err := admin.QueryRow(ctx, `SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int - count(*)
			FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()`).Scan(&free); err != nil {
			return err
		}
	}
	return nil
}

// splitBrain promotes a standby beside its primary. The host goes over to the
// new one, and so does the follower; the leader has no reason to.
func splitBrain(ctx context.Context, s *site) error {
	if err := s.endTraffic(); err != nil {
		return err
	}
	standby, err := s.server.Standby(ctx, nil)
	if err != nil {
		return err
	}
	s.undo = append(s.undo, s.stopServer(standby))
	if err := standby.Promote(ctx); err != nil {
		return err
	}
	old := s.connStrings
	s.connStrings = stringsOf(standby)
	s.variables = append(s.variables, "OLD_ADMIN_DATABASE_URL="+old.admin)
	if err := s.writeSecret(s.worker); err != nil {
		return err
	}
	s.startTraffic(ctx, s.owner)
	for pod := range s.workers {
		leads, err := s.leads(ctx, pod)
		if err != nil {
			return err
		}
		if !leads {
			return errors.Join(s.workers[pod].stop(), s.startWorker(ctx, pod), s.scrapeWorkers())
		}
	}
	return errors.New("nobody follows")
}

// leads asks Prometheus.
func (s *site) leads(ctx context.Context, pod string) (bool, error) {
	answer, err := s.query(ctx, fmt.Sprintf("tokenalert_leader{pod=%q} == 1", pod))
	if err != nil {
		return false, err
	}
	return len(answer.(model.Vector)) == 1, nil
}
