package lane

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"tokenalert/faults/oracle"
)

// holdKey is the first half of the advisory locks that hold ticks; the second
// is the stage.
const holdKey = 77

// laboratory is what the host's database has besides, for us: a number for each
// transaction, a row that says that it has committed, and triggers that hold a tick open while somebody has the lock.
// They wait by trying, so that no lock_timeout ends the wait.
var laboratory = []string{
	"CREATE SEQUENCE public.transaction_order",
	"CREATE TABLE public.transactions (id uuid PRIMARY KEY)",
	fmt.Sprintf(`CREATE FUNCTION public.hold_tick() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		WHILE NOT pg_try_advisory_xact_lock_shared(%d, TG_ARGV[0]::integer) LOOP PERFORM pg_sleep(0.002); END LOOP;
		RETURN NULL;
	END $$`, holdKey),
	"CREATE TRIGGER hold_telling BEFORE INSERT ON notifications FOR EACH STATEMENT EXECUTE FUNCTION public.hold_tick(2)",
	"CREATE CONSTRAINT TRIGGER hold_committing AFTER INSERT ON notifications DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.hold_tick(3)",
}

// holdOurs goes and comes with the schema.
var holdOurs = []string{
	"CREATE TRIGGER hold_counting BEFORE INSERT OR UPDATE ON tokenalert.usage_periods FOR EACH STATEMENT EXECUTE FUNCTION public.hold_tick(1)",
	"CREATE TRIGGER hold_queueing BEFORE INSERT ON tokenalert.river_job FOR EACH STATEMENT EXECUTE FUNCTION public.hold_tick(4)",
}

// setClock has the database's clock run so much ahead of the machine's.
func (s *site) setClock(ctx context.Context) error {
	if s.ahead == 0 {
		return nil
	}
	return execAt(ctx, s.url, fmt.Sprintf(
		"CREATE OR REPLACE FUNCTION tokenalert.now() RETURNS timestamptz LANGUAGE sql STABLE AS $$ SELECT pg_catalog.now() + interval '%d.%06d seconds' $$",
		s.ahead/time.Second, s.ahead%time.Second/time.Microsecond)) // more microseconds by themselves than PostgreSQL 14 takes
}

// now is the database's clock.
func (s *site) now() time.Time { return time.Now().Add(s.ahead).UTC().Truncate(time.Microsecond) }

// read reads all that the oracle asks for, in one snapshot.
func (s *site) read(ctx context.Context) (*oracle.Database, error) {
	db := &oracle.Database{Users: map[uuid.UUID]oracle.User{}}
	err := pgx.BeginTxFunc(ctx, s.control, pgx.TxOptions{IsoLevel: pgx.RepeatableRead}, func(tx pgx.Tx) error {
		var row oracle.Row
		if err := forEach(ctx, tx, "SELECT id, user_id, organization_id, tokens_used, created_at FROM ai_usage_logs",
			[]any{&row.ID, &row.User, &row.Organization, &row.Tokens, &row.At}, func() { db.Rows = append(db.Rows, row) }); err != nil {
			return err
		}
		var id uuid.UUID
		var u oracle.User
		if err := forEach(ctx, tx, "SELECT id, coalesce(monthly_token_limit, 0), coalesce(token_limit_reset_day, 1), organization_id, role = 'admin' FROM users",
			[]any{&id, &u.Limit, &u.ResetDay, &u.Organization, &u.Admin}, func() { db.Users[id] = u }); err != nil {
			return err
		}
		var t oracle.Total
		if err := forEach(ctx, tx, "SELECT user_id, period_start, tokens_used::bigint FROM tokenalert.usage_periods",
			[]any{&t.User, &t.Start, &t.Tokens}, func() { db.Totals = append(db.Totals, t) }); err != nil {
			return err
		}
		var a oracle.Alert
		var worker string
		if err := forEach(ctx, tx, `SELECT a.id, a.user_id, a.period_start, a.period_end, a.alert_threshold, a.token_limit, a.tokens_used::bigint, a.alert_sent,
			a.sent_at, a.created_at, coalesce(a.reason, ''), a.notification_id, coalesce(t.worker, '')
			FROM token_limit_alerts a LEFT JOIN tokenalert.ticks t ON t.id = a.tick_id`,
			[]any{&a.ID, &a.User, &a.Start, &a.End, &a.Threshold, &a.Limit, &a.Used, &a.Sent, &a.SentAt, &a.CreatedAt, &a.Reason, &a.Notification, &worker},
			func() {
				a.Channels = s.channelsOf(worker, a.CreatedAt)
				db.Alerts = append(db.Alerts, a)
			}); err != nil {
			return err
		}
		if err := s.readBudgets(ctx, tx, db); err != nil {
			return err
		}
		var n oracle.Notification
		return forEach(ctx, tx, "SELECT id, user_id, coalesce(notification_type, ''), coalesce(link_url, ''), title, message FROM notifications",
			[]any{&n.ID, &n.User, &n.Type, &n.Link, &n.Title, &n.Text}, func() { db.Notifications = append(db.Notifications, n) })
	})
	return db, err
}

func forEach(ctx context.Context, tx pgx.Tx, sql string, into []any, do func()) error {
	rows, err := tx.Query(ctx, sql)
	if err != nil {
		return err
	}
	_, err = pgx.ForEachRow(rows, into, func() error { do(); return nil })
	return err
}
