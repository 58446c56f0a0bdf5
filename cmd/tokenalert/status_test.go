package main

import (
	"encoding/json"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/store"
	"tokenalert/worker"
)

func statusOf(t *testing.T, environment []string) statusDocument {
	t.Helper()
	exit, stdout, stderr := typed(t, environment, "status", "--output", "json")
	require.Equal(t, 0, exit, stderr)
	var document statusDocument
	decoder := json.NewDecoder(strings.NewReader(stdout))
	decoder.DisallowUnknownFields()
	require.NoError(t, decoder.Decode(&document))
	return document
}

func TestStatus(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	runtime := databaseEnvironment(p.db.WorkerURLs())

	exit, stdout, _ := typed(t, runtime, "status")
	assert.Equal(t, 0, exit)
	for _, says := range []string{"nobody leads", "nothing was ever counted", "silent", "nobody has a limit", "none pending"} {
		assert.Contains(t, stdout, says)
	}
	assert.Nil(t, statusOf(t, databaseEnvironment(p.db.URLs(pgtest.Owner))).Settings)

	ana, bruno := p.user(1000), p.user(1000)
	leader := p.leads("TOKENALERT_WORKER_NAME=one-of-two")
	follower := p.follows("TOKENALERT_WORKER_NAME=the-other")
	p.use(ana, 950)
	p.use(bruno, 120)
	p.counted(ana, 950)
	p.counted(bruno, 120)
	p.asleep()
	for _, role := range []string{pgtest.Runtime, pgtest.Owner} {
		st := statusOf(t, databaseEnvironment(p.db.URLs(role)))
		require.NotNil(t, st.Leader)
		assert.Equal(t, "one-of-two", st.Leader.Worker)
		require.NotNil(t, st.Leader.Since)
		assert.WithinDuration(t, time.Now(), *st.Leader.Since, time.Minute)
		assert.Equal(t, time.UTC, st.LastTick.StartedAt.Location(), "the zone of this machine is nobody's business")
		assert.Equal(t, 1, st.Waiting)
		require.NotNil(t, st.LastTick)
		assert.Equal(t, ask[int64](p, "SELECT max(id) FROM tokenalert.ticks"), st.LastTick.ID)
		assert.Equal(t, "one-of-two", st.LastTick.Worker)
		assert.Zero(t, st.Uncounted.Rows)
		assert.True(t, st.Bell.Armed)
		assert.Equal(t, []int32{80, 90, 100}, st.Settings.Thresholds)
		assert.Equal(t, 2, st.Limited)
		require.Len(t, st.Users, 2)
		assert.Equal(t, ana, st.Users[0].UserID, "the nearest first")
		assert.InDelta(t, 95.0, st.Users[0].PercentUsed, 0)
		assert.Equal(t, []store.AlertCount{{Threshold: 80, Reason: "superseded", Count: 1}, {Threshold: 90, Count: 1}}, st.Alerts)
	}
	exit, stdout, _ = typed(t, runtime, "status", "--users", "1")
	assert.Equal(t, 0, exit)
	for _, says := range []string{
		"one-of-two since ", "1 waiting to take over", "nothing uncounted", "armed: the next insert rings", "none pending",
		"2 users with a limit", "95.0 %", "950 of 1,000", ana.String(), "80 %      1 recorded, not told: superseded", "90 %      1 told",
	} {
		assert.Contains(t, stdout, says)
	}
	assert.NotContains(t, stdout, bruno.String(), "one user was asked for")
	assert.NotContains(t, stdout, "\x1b", "a pipe has no colours")

	// Nobody leads, and what is used waits.
	follower.terminate()
	leader.terminate()
	p.use(bruno, 30)
	p.use(bruno, 40)
	p.exec("UPDATE users SET monthly_token_limit = 2000 WHERE id = $1", bruno)
	st := statusOf(t, databaseEnvironment(p.db.WorkerURLs()))
	assert.Nil(t, st.Leader)
	assert.Equal(t, int64(2), st.Uncounted.Rows)
	require.NotNil(t, st.Uncounted.Oldest)
	assert.Equal(t, int64(1), st.Corrections.Due)
	assert.False(t, st.Bell.Armed)
	exit, stdout, _ = typed(t, runtime, "status")
	assert.Equal(t, 0, exit)
	assert.Contains(t, stdout, "2 rows uncounted, the oldest logged ")
	assert.Contains(t, stdout, "1 pending")

	// Who is set aside: users, and budgets.
	p.exec(`INSERT INTO tokenalert.recounts (user_id, organization_id, due_at, cause) VALUES ($1, NULL, now() + interval '5 minutes', 'set_aside'),
		(NULL, $2, now() + interval '5 minutes', 'set_aside'), (NULL, $2, now() + interval '5 minutes', 'set_aside')`, bruno, p.org)
	st = statusOf(t, databaseEnvironment(p.db.WorkerURLs()))
	assert.Equal(t, []int64{1, 1}, []int64{st.Corrections.SetAside, st.Corrections.BudgetsSetAside})
	_, stdout, _ = typed(t, runtime, "status")
	assert.Contains(t, stdout, "3 for later; 1 user set aside; 1 budget set aside")
}

// Deliveries have a line where some are on their way, or failed.
func TestStatusShowsDeliveries(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	runtime := databaseEnvironment(p.db.WorkerURLs())
	page := func() string {
		t.Helper()
		exit, stdout, stderr := typed(t, runtime, "status")
		require.Equal(t, 0, exit, stderr)
		return stdout
	}
	ana := p.user(1000)
	leader := p.leads("TOKENALERT_WEBHOOK_URL=http://127.0.0.1:1/", "TOKENALERT_WEBHOOK_ALLOW=127.0.0.1", "TOKENALERT_WEBHOOK_SECRET=whsec_"+strings.Repeat("c2VjcmV0", 4))
	assert.NotContains(t, page(), "deliveries")
	p.use(ana, 950)
	leader.await(worker.EventDeliveryRetried, 1)
	leader.terminate()
	jobs := func(set string) {
		p.exec("UPDATE tokenalert.river_job SET created_at = now() - interval '3 minutes', " + set)
	}
	for _, state := range []struct {
		set, says string
		want      store.Deliveries
	}{
		{"state = 'retryable', attempt = 1", "deliveries  1 retrying, the oldest for 3 min", store.Deliveries{Retrying: 1}},
		{"state = 'running', attempt = 2", "deliveries  1 waiting, the oldest for 3 min", store.Deliveries{Waiting: 1}},
		{"state = 'available', attempt = 0", "deliveries  1 waiting, the oldest for 3 min", store.Deliveries{Waiting: 1}},
		{"state = 'cancelled', finalized_at = now() - interval '23 hours'", "deliveries  1 failed in the last day", store.Deliveries{Failed: 1}},
	} {
		jobs(state.set)
		assert.Contains(t, page(), state.says)
		have := statusOf(t, runtime).Deliveries
		assert.Equal(t, state.want.Failed == 0, have.Oldest != nil)
		have.Oldest = nil
		assert.Equal(t, state.want, have, state.set)
	}
	p.exec("UPDATE tokenalert.river_job SET finalized_at = now() - interval '25 hours'")
	assert.NotContains(t, page(), "deliveries")
	jobs("state = 'cancelled', finalized_at = now()")
	p.exec("DELETE FROM token_limit_alerts")
	assert.NotContains(t, page(), "deliveries", "the alert is gone, and with it who was to be told")
}

func TestStatusSaysWhatItCannotSee(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	stranger := "DATABASE_URL=" + p.db.URLAs(pgtest.Writer)
	exit, stdout, stderr := typed(t, []string{stranger}, "status")
	assert.Equal(t, 1, exit)
	assert.Empty(t, stdout)
	assert.Contains(t, stderr, "tokenalert migrate grant "+pgtest.Writer)

	p.exec("REVOKE SELECT ON token_limit_alerts FROM " + pgtest.Runtime)
	exit, _, stderr = typed(t, databaseEnvironment(p.db.WorkerURLs()), "status")
	assert.Equal(t, 1, exit)
	assert.Contains(t, stderr, "token_limit_alerts")
	assert.Contains(t, stderr, "tokenalert migrate grant "+pgtest.Runtime)

	bare := pgtest.New(t, pgtest.Host(host.CMS))
	exit, _, stderr = typed(t, []string{"DATABASE_URL=" + bare.OwnerURL()}, "status")
	assert.Equal(t, 1, exit)
	assert.Contains(t, stderr, "tokenalert migrate up")
}

// What a row says of its time says nothing of how long its correction has waited.
func TestStatusOfCorrectionsOfOldRows(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	user := p.user(1000)
	for _, at := range []string{"'infinity'", "now() - interval '20 days'"} {
		p.exec("INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used, created_at) VALUES ($1, $2, 1, "+at+")", user, p.org)
	}
	p.exec("DELETE FROM tokenalert.recounts")
	p.exec("DELETE FROM ai_usage_logs")
	status := func() store.Corrections {
		t.Helper()
		exit, stdout, stderr := typed(t, databaseEnvironment(p.db.WorkerURLs()), "status", "--output", "json")
		require.Equal(t, 0, exit, stderr)
		var s store.Status
		require.NoError(t, json.Unmarshal([]byte(stdout), &s))
		return s.Corrections
	}
	assert.Equal(t, store.Corrections{Due: 2}, status())
	p.user(1000)
	require.NotNil(t, status().Oldest)
	assert.WithinDuration(t, time.Now(), *status().Oldest, time.Minute)
}

func TestStatusOfAStandby(t *testing.T) {
	t.Parallel()
	assert.Contains(t, view{}.leader(store.Status{}), "nobody leads")
	assert.NotContains(t, view{}.leader(store.Status{Standby: true}), "nobody leads")
}

func TestStatusWatches(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	ana := p.user(1000)
	p.leads()
	environment := databaseEnvironment(p.db.WorkerURLs())

	tt := startOnTerminal(t, 100, 30, environment, "status", "--watch", "--every", "100ms")
	tt.awaitPage("Nearest to their limits")
	p.use(ana, 870)
	tt.awaitPage("870 of 1,000")
	tt.awaitPage("87.0 %")
	// It goes on when the database is back, and says so meanwhile.
	p.exec("ALTER TABLE token_limit_alerts RENAME TO hidden")
	tt.awaitPage("cannot look")
	p.exec("ALTER TABLE hidden RENAME TO token_limit_alerts")
	eventually(t, func() bool { return !strings.Contains(tt.Page(), "cannot look") }, "it does not look again")
	tt.typeKeys("q")
	assert.Equal(t, 0, tt.wait())
	tt.restored()

	piped := startProcess(t, environment, "status", "--watch", "--every", "100ms", "--output", "json")
	eventually(t, func() bool { return strings.Count(piped.stdout.String(), "\n}\n") >= 3 }, "no documents")
	piped.signal(syscall.SIGINT)
	assert.Equal(t, 0, piped.wait())
}

func TestTwoPeriodsThatOverlap(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	ana := p.user(1000)
	p.leads()
	p.use(ana, 500)
	p.counted(ana, 500)
	p.exec("UPDATE users SET token_limit_reset_day = 1 + extract(day FROM now() AT TIME ZONE 'UTC')::integer % 28 WHERE id = $1", ana)
	p.eventually("SELECT NOT EXISTS (SELECT FROM tokenalert.recounts WHERE due_at IS NULL)", "not counted anew")
	st := statusOf(t, databaseEnvironment(p.db.WorkerURLs()))
	require.Len(t, st.Users, 1, "in the period that is in force, and no other")
	assert.Equal(t, ask[time.Time](p, "SELECT period_start FROM tokenalert.current_usage").UTC(), st.Users[0].PeriodStart)
}
