package worker_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/pgtest"
	"tokenalert/worker"
)

// overseer is the server's administrator, who sees and ends the sessions of
// others, and hears the bell.
type overseer struct {
	w     *world
	conn  *pgx.Conn
	heard *pgx.Conn // listens to the bell
}

func (w *world) overseer() *overseer {
	w.t.Helper()
	o := &overseer{w: w, conn: w.db.Conn(w.t), heard: w.db.Conn(w.t)}
	_, err := o.heard.Exec(w.t.Context(), "LISTEN tokenalert; LISTEN mark")
	require.NoError(w.t, err)
	return o
}

// rang reports how often the bell has rung since it was last asked.
// Notifications come in the order of the commits, whatever their channels, so a
// mark of ours comes after all that rang before.
func (o *overseer) rang() int {
	o.w.t.Helper()
	_, err := o.conn.Exec(o.w.t.Context(), "NOTIFY mark")
	require.NoError(o.w.t, err)
	for n := 0; ; n++ {
		notification, err := o.heard.WaitForNotification(o.w.t.Context())
		require.NoError(o.w.t, err)
		if notification.Channel == "mark" {
			return n
		}
	}
}

// is reports the answer of a query.
func (o *overseer) is(sql string, args ...any) bool {
	o.w.t.Helper()
	var yes bool
	require.NoError(o.w.t, o.conn.QueryRow(o.w.t.Context(), sql, args...).Scan(&yes))
	return yes
}

// count returns the answer of a query.
func (o *overseer) count(sql string, args ...any) int {
	o.w.t.Helper()
	var n int
	require.NoError(o.w.t, o.conn.QueryRow(o.w.t.Context(), sql, args...).Scan(&n))
	return n
}

func (o *overseer) exec(sql string) {
	o.w.t.Helper()
	_, err := o.conn.Exec(o.w.t.Context(), sql)
	require.NoError(o.w.t, err)
}

// armed reports whether the bell is.
func (o *overseer) armed() bool {
	o.w.t.Helper()
	return o.is("SELECT last_value > extract(epoch FROM clock_timestamp()) FROM tokenalert.doorbell")
}

// rests waits until a worker sleeps and is not about to wake: the bell is armed
// and has been for longer than it takes to fall asleep, so that nothing of what
// woke it before, such as the listener's connecting, is still to come.
func (o *overseer) rests(r *replica) {
	o.w.t.Helper()
	r.asleep()
	lines := func() int { return len(r.lines(worker.EventBellArmed)) + len(r.lines(worker.EventBellDisarmed)) }
	seen, since := lines(), time.Now()
	o.w.eventually(func() bool {
		if n := lines(); n != seen || !o.armed() {
			seen, since = n, time.Now()
		}
		return time.Since(since) > 300*time.Millisecond
	}, "the worker does not fall asleep")
	o.rang()
}

// sessions lists the process ids of our workers' sessions of a name.
func (o *overseer) sessions(name string) []int {
	o.w.t.Helper()
	rows, err := o.conn.Query(o.w.t.Context(), `SELECT pid FROM pg_stat_activity
		WHERE datname = current_database() AND usename = $1 AND starts_with(application_name, $2)`, pgtest.Runtime, name)
	require.NoError(o.w.t, err)
	pids, err := pgx.CollectRows(rows, pgx.RowTo[int])
	require.NoError(o.w.t, err)
	return pids
}

// leader is the process id of the session that holds the lead, 0 where none
// does.
func (o *overseer) leader() int {
	o.w.t.Helper()
	return o.count(`SELECT coalesce(max(l.pid), 0) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
		WHERE l.locktype = 'advisory' AND l.granted AND a.datname = current_database() AND starts_with(a.application_name, 'tokenalert lead')`)
}

// end ends a session, and waits until it has ended.
func (o *overseer) end(pid int) {
	o.w.t.Helper()
	require.NotZero(o.w.t, pid)
	o.is("SELECT pg_terminate_backend($1)", pid) // false where it has ended by itself
	o.w.eventually(func() bool { return o.is("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)", pid) }, "the session goes on")
}

// held waits until a tick is held and returns its session's process id.
func (o *overseer) held() int {
	o.w.t.Helper()
	var pid int
	o.w.eventually(func() bool {
		pid = o.count(`SELECT coalesce(max(pid), 0) FROM pg_stat_activity
			WHERE datname = current_database() AND application_name = 'tokenalert tick' AND wait_event = 'PgSleep'`)
		return pid != 0
	}, "no tick is held")
	return pid
}

// warnings collects what the server warns a connection of.
func (w *world) warnings(t *testing.T, role string) (*pgx.Conn, func() []string) {
	t.Helper()
	config, err := pgx.ParseConfig(w.db.URLAs(role))
	require.NoError(t, err)
	var heard []string
	config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { heard = append(heard, n.Severity+": "+n.Message) }
	conn, err := pgx.ConnectConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn, func() []string { defer func() { heard = nil }(); return heard }
}

// The longest that the settings allow; a test waits for nothing that long.
const (
	maxRenewal = time.Minute
	maxLease   = 5 * time.Minute
)

// sleepy are settings under which no defensive look helps within a test: what
// is told was rung for.
func sleepy(c *worker.Config) {
	c.BellRenewal, c.BellLease = maxRenewal, maxLease
}

// A tick whose worker falls silent holds its locks as long as that worker could
// still be the leader, and no longer.
func TestASilentTickLastsAsLongAsTheLead(t *testing.T) {
	t.Parallel()
	for _, lease := range []time.Duration{worker.DefaultConfig().LeadTimeout, 4 * time.Second} {
		t.Run(lease.String(), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.ownerExec("CREATE TABLE silence (allowed interval)")
			w.ownerExec("GRANT INSERT ON silence TO " + pgtest.Runtime)
			w.ownerExec(`CREATE FUNCTION note_silence() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
				INSERT INTO silence VALUES (current_setting('idle_in_transaction_session_timeout')::interval); RETURN NULL; END $$`)
			w.ownerExec("CREATE TRIGGER note_silence AFTER INSERT ON notifications FOR EACH STATEMENT EXECUTE FUNCTION note_silence()")
			w.start(func(c *worker.Config) { c.LeadTimeout, c.LeadPing = lease, lease/4 })
			user := w.user(1000)
			w.use(user, 850)
			w.eventually(func() bool { return len(w.told(user)) == 1 }, "nobody is told")
			var allowed time.Duration
			require.NoError(t, w.owner.QueryRow(t.Context(), "SELECT allowed FROM silence LIMIT 1").Scan(&allowed))
			assert.Equal(t, lease, allowed)
		})
	}
}
