package worker_test

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
)

// Nothing of ours can make a statement of the host fail or wait. The worker
// that is killed with the bell armed is in cmd/tokenalert, which has a process
// to kill.

// armForEver arms the bell, as if somebody slept.
func (o *overseer) armForEver() {
	o.w.t.Helper()
	o.is("SELECT setval('tokenalert.doorbell', 9999999999) > 0")
}

// redefine replaces a part of one of our functions and leaves the rest as the
// migrations wrote it.
func (o *overseer) redefine(function, part, by string) {
	o.w.t.Helper()
	var definition string
	require.NoError(o.w.t, o.conn.QueryRow(o.w.t.Context(), "SELECT pg_get_functiondef($1::text::regprocedure)", function).Scan(&definition))
	require.Contains(o.w.t, definition, part)
	_, err := o.conn.Exec(o.w.t.Context(), strings.ReplaceAll(definition, part, by), pgx.QueryExecModeSimpleProtocol)
	require.NoError(o.w.t, err)
}

// hostGoesOn does with conn, the owner's, all that our triggers see.
func (w *world) hostGoesOn(conn host.DB) {
	w.t.Helper()
	user, err := host.NewUser(w.t.Context(), conn, host.User{Organization: w.org})
	require.NoError(w.t, err)
	require.NoError(w.t, host.LogUsage(w.t.Context(), conn, user, w.org, 100))
	for _, sql := range []string{
		"UPDATE ai_usage_logs SET tokens_used = tokens_used + 1 WHERE user_id = $1",
		"UPDATE users SET monthly_token_limit = 10 WHERE id = $1",
		"UPDATE users SET token_limit_reset_day = 5 WHERE id = $1",
		"DELETE FROM ai_usage_logs WHERE user_id = $1",
		"DELETE FROM users WHERE id = $1",
	} {
		tag, err := conn.Exec(w.t.Context(), sql, user)
		require.NoError(w.t, err, sql)
		require.Equal(w.t, int64(1), tag.RowsAffected(), sql)
	}
	_, err = conn.Exec(w.t.Context(), "TRUNCATE ai_usage_logs")
	require.NoError(w.t, err)
}

func TestTheHostGoesOnWhereOurFunctionsAreBroken(t *testing.T) {
	t.Parallel()
	const tooLong = "a_channel_whose_name_is_longer_than_the_sixty_three_bytes_allowed"
	for _, tt := range []struct {
		name, warns string
		breakIt     func(o *overseer)
		quiet       bool // nothing breaks in a host's statement
	}{
		{"the bell", "the bell stays silent", func(o *overseer) {
			o.redefine("tokenalert.ring()", "pg_notify('tokenalert'", "pg_notify('"+tooLong+"'")
		}, false},
		{"the correction's ring", "correction not recorded", func(o *overseer) {
			o.redefine("tokenalert.record_correction()", "pg_notify('tokenalert'", "pg_notify('"+tooLong+"'")
		}, false},
		{"recounts renamed", "correction not recorded", func(o *overseer) {
			o.exec("ALTER TABLE tokenalert.recounts RENAME TO elsewhere")
		}, false},
		{"recounts dropped", "correction not recorded", func(o *overseer) { o.exec("DROP TABLE tokenalert.recounts") }, false},
		{"a column renamed", "correction not recorded", func(o *overseer) {
			o.exec("ALTER TABLE tokenalert.recounts RENAME COLUMN cause TO reason")
		}, false},
		{"a check that refuses", "correction not recorded", func(o *overseer) {
			o.exec("ALTER TABLE tokenalert.recounts ADD CHECK (cause = 'none') NOT VALID")
		}, false},
		{"settings dropped", "", func(o *overseer) { o.exec("DROP TABLE tokenalert.settings CASCADE") }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			o := w.overseer()
			user := w.user(1000)
			o.armForEver()
			conn, warnings := w.warnings(t, pgtest.Owner)
			w.hostGoesOn(conn)
			require.Empty(t, warnings(), "before it is broken")
			tt.breakIt(o)
			w.hostGoesOn(conn)
			w.use(user, 10)
			heard := warnings()
			if tt.quiet {
				assert.Empty(t, heard)
				return
			}
			assert.NotEmpty(t, heard)
			for _, h := range heard {
				assert.True(t, strings.HasPrefix(h, "WARNING: tokenalert: "+tt.warns), h)
			}
		})
	}
}

// Whoever holds our tables holds up no insert: ringing reads none of them.
func TestAnInsertDoesNotWaitForLocksOnOurTables(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	o := w.overseer()
	o.armForEver()
	user := w.user(1000)
	o.rang()
	tx, err := o.conn.Begin(t.Context())
	require.NoError(t, err)
	rows, err := tx.Query(t.Context(), "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname = 'tokenalert'")
	require.NoError(t, err)
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.Contains(t, tables, "tokenalert.recounts")
	_, err = tx.Exec(t.Context(), "LOCK TABLE "+strings.Join(tables, ", ")+" IN ACCESS EXCLUSIVE MODE")
	require.NoError(t, err)

	conn, warnings := w.warnings(t, pgtest.Owner)
	_, err = conn.Exec(t.Context(), "SET lock_timeout = '1ms'")
	require.NoError(t, err)
	w.insert(conn, user, 850, nil)
	assert.Empty(t, warnings())
	require.NoError(t, tx.Rollback(t.Context()))
	assert.Equal(t, 1, o.rang())
	w.start()
	w.settle()
	assert.Equal(t, []int{80}, w.told(user))
}

// A full notification queue fails the commit of whoever notifies, so ours do
// not where it is half full. Half of the queue is four gigabytes: this test
// lowers the functions' threshold instead, and has a queue that is a few pages
// long. TestAFullNotificationQueue fills one where PostgreSQL can be told how
// long it is.
func TestTheBellIsMuteWhileTheNotificationQueueIsLong(t *testing.T) {
	t.Parallel()
	in := pgtest.StartServer(t, nil) // the queue is the whole cluster's
	w := worldOn(t, in.New(t, pgtest.Migrated(host.CMS)))
	o := w.overseer()
	user := w.user(1000)
	for _, function := range []string{"tokenalert.ring()", "tokenalert.record_correction()"} {
		o.redefine(function, "pg_notification_queue_usage() < 0.5", "pg_notification_queue_usage() < 1e-6")
	}
	o.armForEver()
	w.use(user, 10)
	require.Equal(t, 1, o.rang())
	w.ownerExec("UPDATE users SET monthly_token_limit = 2000")
	require.Equal(t, 1, o.rang())

	release := o.stuffQueue(20)
	require.True(t, o.is("SELECT pg_notification_queue_usage() >= 1e-6"))
	conn, warnings := w.warnings(t, pgtest.Owner)
	w.use(user, 10)
	_, err := conn.Exec(t.Context(), "UPDATE users SET monthly_token_limit = 3000")
	require.NoError(t, err)
	assert.Empty(t, warnings())
	release()
	assert.Zero(t, o.rang())
	assert.Equal(t, 3, o.count("SELECT count(*) FROM tokenalert.recounts"), "corrections are recorded all the same")

	w.eventually(func() bool { return o.is("SELECT pg_notification_queue_usage() < 1e-6") }, "the queue does not drain")
	w.use(user, 10)
	assert.Equal(t, 1, o.rang())
}

func TestAFullNotificationQueue(t *testing.T) {
	t.Parallel()
	if pgtest.Server(t).Version() < 170000 {
		t.Skip("SKIPPED: up to PostgreSQL 16 the queue takes 8 GB to fill (max_notify_queue_pages)")
	}
	in := pgtest.StartServer(t, map[string]string{"max_notify_queue_pages": "64"})
	w := worldOn(t, in.New(t, pgtest.Migrated(host.CMS)))
	o := w.overseer()
	o.armForEver()
	user := w.user(1000)
	release := o.stuffQueue(-1)
	_, err := o.conn.Exec(t.Context(), "NOTIFY mark")
	require.ErrorContains(t, err, "too many notifications")
	for range 20 {
		w.use(user, 50)
	}
	conn, warnings := w.warnings(t, pgtest.Owner)
	w.hostGoesOn(conn)
	assert.Empty(t, warnings())
	release()
}

// stuffQueue makes the notification queue n pages long, or full where n is
// negative, until the returned function is called: somebody listens and sits in
// a transaction, so that nothing can be removed.
func (o *overseer) stuffQueue(n int) (release func()) {
	o.w.t.Helper()
	idle := o.w.db.Conn(o.w.t)
	_, err := idle.Exec(o.w.t.Context(), "LISTEN nothing")
	require.NoError(o.w.t, err)
	_, err = idle.Exec(o.w.t.Context(), "BEGIN; SELECT 1")
	require.NoError(o.w.t, err)
	payload := strings.Repeat("x", 7900) // about a page
	for range uint(n) {
		if _, err = o.conn.Exec(o.w.t.Context(), "SELECT pg_notify('nothing', $1)", payload); err != nil {
			break
		}
	}
	if n < 0 {
		require.ErrorContains(o.w.t, err, "too many notifications")
	} else {
		require.NoError(o.w.t, err)
	}
	return func() {
		o.w.t.Helper()
		_, err := idle.Exec(o.w.t.Context(), "ROLLBACK; UNLISTEN *")
		require.NoError(o.w.t, err)
	}
}
