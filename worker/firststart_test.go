package worker_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/store"
	"tokenalert/worker"
)

func TestTheFirstStartTellsWhoIsAlreadyOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	users := map[int]uuid.UUID{}
	for _, used := range []int{799, 800, 950, 2000} {
		users[used] = w.user(1000)
		w.use(users[used], used)
	}
	lastMonth := w.user(1000)
	w.useAt(lastMonth, 5000, time.Now().UTC().AddDate(0, 0, -time.Now().UTC().Day()))
	r := w.start()
	w.settle()
	assert.Equal(t, "first", r.await(worker.EventTickCompleted).ContextMap()["kind"])
	assert.Empty(t, w.alerts(users[799]))
	w.assertToldOnce(users[800], 80)
	w.assertToldOnce(users[950], 80, 90)
	w.assertToldOnce(users[2000], 80, 90, 100)
	assert.Empty(t, w.alerts(lastMonth), "nobody is told of the past")
	w.assertTotals()

	// The next start is none of these.
	r.stop()
	next := w.start()
	w.use(users[799], 1)
	w.settle()
	w.assertToldOnce(users[799], 80)
	w.assertToldOnce(users[2000], 80, 90, 100)
	assert.Equal(t, "window", next.await(worker.EventTickCompleted).ContextMap()["kind"])
}

func TestTheFirstStartMayRecordWithoutTelling(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	over, below := w.user(1000), w.user(1000)
	w.use(over, 950)
	w.use(below, 700)
	w.start(func(c *worker.Config) { c.Backfill = "record" })
	w.settle()
	month := time.Now().UTC().Format("01") + "-01 "
	assert.Equal(t, []string{month + "80 backfill", month + "90 backfill"}, said(w.alerts(over)))
	assert.Empty(t, w.notifications(over))

	w.use(over, 50)
	w.use(below, 100)
	w.settle()
	assert.Equal(t, []string{month + "80 backfill", month + "90 backfill", month + "100 told"}, said(w.alerts(over)))
	w.assertToldOnce(below, 80)
	assert.Len(t, w.notifications(over), 1)
}

// What the host's trigger left says who was told in this period.
func TestTheFirstStartBelievesTheHostsRows(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, pgtest.Host(host.CMSWithTrigger))
	owner := db.ConnAs(t, pgtest.Owner)
	exec := func(sql string, args ...any) {
		t.Helper()
		_, err := owner.Exec(t.Context(), sql, args...)
		require.NoError(t, err)
	}
	org, err := host.NewOrganization(t.Context(), owner, "Before")
	require.NoError(t, err)
	// It has no notifications to write to here, and would fail the inserts.
	exec("ALTER TABLE ai_usage_logs DISABLE TRIGGER token_limit_check")
	over := func(used int) uuid.UUID {
		t.Helper()
		user, err := host.NewUser(t.Context(), owner, host.User{Organization: org, Limit: new(1000)})
		require.NoError(t, err)
		require.NoError(t, host.LogUsage(t.Context(), owner, user, org, used))
		return user
	}
	left := func(user uuid.UUID, threshold int, sent bool, at string) {
		t.Helper()
		exec(`INSERT INTO token_limit_alerts (user_id, organization_id, alert_threshold, alert_sent, alert_type, sent_at)
			VALUES ($1, $2, $3, $4, 'notification', `+at+`)`, user, org, threshold, sent)
	}
	told, toldLower, toldHigher := over(850), over(950), over(950)
	left(told, 80, true, "now()")
	left(toldLower, 80, true, "now()")
	left(toldHigher, 90, true, "now()")
	lastMonth, nowhere, unsent := over(850), over(850), over(850)
	left(lastMonth, 80, true, "date_trunc('month', now(), 'UTC') - interval '1 second'")
	left(nowhere, 80, true, "NULL")
	left(unsent, 80, false, "now()")
	exec("ALTER TABLE ai_usage_logs ENABLE TRIGGER token_limit_check")

	m, err := store.NewMigrator(db.OwnerURL())
	require.NoError(t, err)
	defer m.Close()
	require.NoError(t, m.Up(t.Context()))
	require.NoError(t, m.Grant(t.Context(), pgtest.Runtime))
	w := worldOn(t, db)
	w.start()
	w.settle()

	ours := func(user uuid.UUID) []string {
		t.Helper()
		rows, err := w.owner.Query(t.Context(), `SELECT alert_threshold || ' ' || CASE WHEN alert_sent THEN 'told' ELSE reason END
			FROM token_limit_alerts WHERE user_id = $1 AND period_start IS NOT NULL ORDER BY alert_threshold`, user)
		require.NoError(t, err)
		var list []string
		for rows.Next() {
			var line string
			require.NoError(t, rows.Scan(&line))
			list = append(list, line)
		}
		require.NoError(t, rows.Err())
		return list
	}
	assert.Equal(t, []string{"80 carried_over"}, ours(told))
	assert.Equal(t, []string{"80 carried_over", "90 told"}, ours(toldLower))
	assert.Equal(t, []string{"80 superseded", "90 carried_over"}, ours(toldHigher))
	for name, user := range map[string]uuid.UUID{"last month": lastMonth, "no sent_at": nowhere, "not sent": unsent} {
		assert.Equal(t, []string{"80 told"}, ours(user), name)
		assert.Len(t, w.notifications(user), 1, name)
	}
	assert.Empty(t, w.notifications(told))
	assert.Empty(t, w.notifications(toldHigher))
	w.assertTotals()
}
