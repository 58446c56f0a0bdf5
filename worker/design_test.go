package worker_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/worker"
)

// What the host's own trigger does wrong, one test for each. `make mutants`
// puts each old behaviour back and wants its test to fail.

func TestDesignCostDoesNotDependOnHistory(t *testing.T) {
	t.Parallel()
	const history, inserts = 20_000, 20
	w := worldOn(t, pgtest.New(t, pgtest.Migrated(host.CMS)).Straight()) // its sessions must end
	user := w.user(1_000_000_000)
	super := w.db.Conn(t)
	_, err := super.Exec(t.Context(), "SET session_replication_role = replica") // history costs no trigger
	require.NoError(t, err)
	_, err = super.Exec(t.Context(), `INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used)
		SELECT $1, $2, 1 FROM generate_series(1, $3::integer)`, user, w.org, history)
	require.NoError(t, err)
	first := w.start()
	w.settle()
	first.stop()
	before := w.readsOfUsage()

	next := w.start() // the chain is there: no full count
	writer := w.db.ConnAs(t, pgtest.Writer)
	for range inserts {
		w.insert(writer, user, 1, nil)
		w.settle()
	}
	require.NoError(t, writer.Close(t.Context()))
	next.stop()
	assert.Less(t, w.readsOfUsage()-before, int64(2*history), "rows read by %d inserts and their ticks; one sum each would read %d", inserts, inserts*history)
	assert.EqualValues(t, history+inserts, w.total(user))
}

// readsOfUsage counts the rows of ai_usage_logs that anybody has read so far,
// by the server's own count, to which a session adds its part when it ends.
func (w *world) readsOfUsage() int64 {
	w.t.Helper()
	w.store.Reset()
	w.eventually(func() bool {
		var sessions int
		require.NoError(w.t, w.owner.QueryRow(w.t.Context(), `SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND application_name LIKE 'tokenalert%'`).Scan(&sessions))
		return sessions == 0
	}, "sessions of the worker are left")
	var reads int64
	require.NoError(w.t, w.owner.QueryRow(w.t.Context(), `SELECT seq_tup_read + idx_tup_fetch
		FROM pg_stat_user_tables WHERE relname = 'ai_usage_logs'`).Scan(&reads))
	return reads
}

func TestDesignConcurrentInsertsAreCountedOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	user := w.user(1000)
	w.start()
	var open []pgx.Tx
	for range 2 { // neither sees the other
		tx, err := w.db.ConnAs(t, pgtest.Writer).Begin(t.Context())
		require.NoError(t, err)
		w.insert(tx, user, 450, nil)
		open = append(open, tx)
	}
	require.NoError(t, open[1].Commit(t.Context()))
	w.settle()
	assert.EqualValues(t, 450, w.total(user))
	assert.Empty(t, w.alerts(user))

	require.NoError(t, open[0].Commit(t.Context()))
	w.settle()
	assert.EqualValues(t, 900, w.total(user))
	assert.Equal(t, []int{90}, w.told(user))
	w.use(user, 1)
	w.settle()
	assert.EqualValues(t, 901, w.total(user))
	assert.Len(t, w.notifications(user), 1)
}

func TestDesignTriggerErrorsDoNotAbortInserts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	user := w.user(1000)
	r := w.start(func(c *worker.Config) { c.BellRenewal, c.BellLease = time.Second, 3*time.Second })
	r.asleep()
	super := w.db.Conn(t)
	_, err := super.Exec(t.Context(), "REVOKE EXECUTE ON FUNCTION pg_notify(text, text) FROM PUBLIC")
	require.NoError(t, err)
	w.use(user, 850)
	w.settle() // by the look at the bell's renewal
	assert.Equal(t, []int{80}, w.told(user))

	_, err = super.Exec(t.Context(), "ALTER TABLE tokenalert.recounts ADD CONSTRAINT broken CHECK (false) NOT VALID")
	require.NoError(t, err)
	w.ownerExec("UPDATE users SET monthly_token_limit = 900")
	w.ownerExec("UPDATE ai_usage_logs SET tokens_used = 860")
	w.ownerExec("DELETE FROM ai_usage_logs")
	_, err = super.Exec(t.Context(), "GRANT EXECUTE ON FUNCTION pg_notify(text, text) TO PUBLIC")
	require.NoError(t, err)
}

func TestDesignHistoryIsKept(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	march, april := nextYear(time.March, 1), nextYear(time.April, 1)
	w.db.SetNow(t, march.Add(time.Hour))
	user := w.user(1000)
	w.start()
	w.useAt(user, 850, march)
	w.settle()
	w.db.SetNow(t, april.Add(time.Hour))
	w.useAt(user, 900, april)
	w.settle()

	var periods []string
	for _, a := range w.alerts(user) {
		if a.Sent {
			periods = append(periods, a.PeriodStart.UTC().Format(time.DateOnly))
		}
	}
	assert.Equal(t, []string{march.Format(time.DateOnly), april.Format(time.DateOnly)}, periods)
	assert.Len(t, w.alerts(user), 3)
	assert.Len(t, w.notifications(user), 2)
}

func TestDesignPeriodStartsOnTheRightDay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.db.SetNow(t, nextYear(time.May, 20).Add(12*time.Hour))
	r := w.start()
	r.asleep()
	for day, want := range map[int]struct{ start, end time.Time }{
		1:  {nextYear(time.May, 1), nextYear(time.June, 1)},
		15: {nextYear(time.May, 15), nextYear(time.June, 15)},
		20: {nextYear(time.May, 20), nextYear(time.June, 20)},
		25: {nextYear(time.April, 25), nextYear(time.May, 25)},
		31: {nextYear(time.April, 30), nextYear(time.May, 31)},
	} {
		user := w.newUser(host.User{Limit: new(1000), ResetDay: &day})
		w.useAt(user, 850, want.start)
		w.useAt(user, 950, want.start.Add(-time.Microsecond)) // the period before
		w.settle()
		assert.Equal(t, []int{80}, w.told(user), "reset day %d", day)

		var used int64
		var start, end time.Time
		require.NoError(t, w.owner.QueryRow(t.Context(), `SELECT tokens_used, period_start, resets_at
			FROM tokenalert.current_usage WHERE user_id = $1`, user).Scan(&used, &start, &end))
		assert.EqualValues(t, 850, used, "reset day %d", day)
		assert.Equal(t, want.start, start.UTC(), "reset day %d", day)
		assert.Equal(t, want.end, end.UTC(), "reset day %d", day)
	}
}

func TestDesignRoundingDoesNotAlertEarly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	at795, at895, at999 := w.user(1000), w.user(1000), w.user(1000)
	w.use(at795, 795)
	w.use(at895, 895)
	w.use(at999, 999)
	w.start()
	w.settle()
	assert.Empty(t, w.alerts(at795))
	assert.Equal(t, []int{80}, w.told(at895))
	assert.Len(t, w.alerts(at895), 1)
	assert.Equal(t, []int{90}, w.told(at999))
}

func TestDesignMessageSaysTheTruePercentage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	user := w.newUser(host.User{Limit: new(1000), Language: new("en")})
	w.use(user, 876)
	w.start()
	w.settle()
	require.Len(t, w.notifications(user), 1)
	message := w.notifications(user)[0].Message
	assert.Contains(t, message, "87.6%")
	assert.NotContains(t, message, "80")
}

func TestDesignMessageSaysNotAvailable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	users := map[string]uuid.UUID{}
	for _, language := range []string{"es", "en", "pt"} {
		users[language] = w.newUser(host.User{Limit: new(1000), Language: &language})
		w.use(users[language], 1000)
	}
	w.start()
	w.settle()
	for language, want := range map[string]string{
		"es": "no estará disponible", "en": "will not be available", "pt": "não estará disponível",
	} {
		if sent := w.notifications(users[language]); assert.Len(t, sent, 1, language) {
			assert.Contains(t, sent[0].Message, want)
		}
	}
}

func TestDesignJumpRecordsEveryThreshold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	user := w.user(1000)
	w.use(user, 700)
	w.start()
	w.settle()
	w.use(user, 350)
	w.settle()
	var recorded []int
	for _, a := range w.alerts(user) {
		recorded = append(recorded, a.Threshold)
	}
	assert.Equal(t, []int{80, 90, 100}, recorded)
	assert.Equal(t, []int{100}, w.told(user))
}

func TestDesignLoweredLimitIsNoticedAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	user := w.user(10_000)
	// Nothing but the bell can be quick enough.
	r := w.start(func(c *worker.Config) { c.BellRenewal, c.BellLease = time.Minute, 5*time.Minute })
	w.use(user, 850)
	r.asleep()
	w.ownerExec("UPDATE users SET monthly_token_limit = 1000 WHERE id = $1", user)
	w.settle()
	assert.Equal(t, []int{80}, w.told(user))
}

func TestDesignMonthFollowsOneZone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	santiago, err := time.LoadLocation("America/Santiago")
	require.NoError(t, err)
	june := time.Date(time.Now().Year()+1, time.June, 1, 0, 0, 0, 0, santiago)
	w.db.SetNow(t, june.Add(time.Hour))
	user := w.user(1000)
	_, err = w.db.Conn(t).Exec(t.Context(), "ALTER DATABASE "+w.db.Name+" SET timezone = 'Pacific/Kiritimati'")
	require.NoError(t, err)
	w.start(func(c *worker.Config) { c.TimeZone = "America/Santiago" }).asleep()
	for _, zone := range []string{"Pacific/Kiritimati", "UTC"} { // sessions of the host
		w.ownerExec("SET TIME ZONE '" + zone + "'")
		w.insert(w.owner, user, 425, &june)
	}
	before := june.Add(-time.Microsecond)
	w.useAt(user, 2000, before)
	w.settle()
	assert.EqualValues(t, 850, w.total(user))
	assert.Equal(t, []int{80}, w.told(user))
	for _, a := range w.alerts(user) {
		if a.Sent {
			assert.True(t, june.Equal(a.PeriodStart), a.PeriodStart)
		} else {
			assert.Equal(t, "period_closed", a.Reason)
		}
	}
}

func TestDesignDeletingAUserCascades(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	user, other := w.user(1000), w.user(1000)
	w.start()
	w.use(user, 850)
	w.settle()
	require.Len(t, w.alerts(user), 1)
	w.ownerExec("DELETE FROM users WHERE id = $1", user)
	assert.Empty(t, w.alerts(user))
	w.use(other, 950)
	w.settle()
	assert.Zero(t, w.total(user))
	assert.Equal(t, []int{90}, w.told(other))
	w.assertTotals()
}

// nextYear is a midnight, in UTC, to which the clock can be moved from today.
func nextYear(month time.Month, day int) time.Time {
	return time.Date(time.Now().Year()+1, month, day, 0, 0, 0, 0, time.UTC)
}
