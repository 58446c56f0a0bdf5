package main

import (
	"context"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/worker"
)

func TestRunTellsAndStops(t *testing.T) {
	t.Parallel()
	p := newStraightPlatform(t)
	user := p.user(1000)
	w := p.leads()
	p.asleep()
	p.use(user, 850)

	sent := w.await(worker.EventAlertSent, 1)
	assert.Equal(t, user.String(), sent["user"])
	assert.InDelta(t, 80, sent["threshold"], 0)
	assert.InDelta(t, 85, sent["percent"], 0)
	p.counted(user, 850)
	assert.Equal(t, []int{80}, p.told(user))

	p.asleep()
	w.terminate()
	assert.Zero(t, ask[int](p, "SELECT last_value FROM tokenalert.doorbell"), "the bell")
	p.eventually("SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = current_database() AND usename = $1",
		"it left a session", pgtest.Runtime)
	assert.Len(t, w.log(worker.EventLeaderReleased), 1)
	assert.Equal(t, "terminated", w.log(worker.EventWorkerStopping)[0]["reason"])
}

func TestSIGTERMHandsTheLeadOverAtOnce(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	first := p.leads()
	second := p.follows("TOKENALERT_LEAD_RETRY=10s") // which tries again after 5 s at the soonest
	began := time.Now()
	first.terminate()
	second.await(worker.EventLeaderAcquired, 1)
	assert.Less(t, time.Since(began), 4*time.Second)
	second.terminate()
}

func TestSIGTERMFinishesTheTick(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	user := p.user(1000)
	release := p.db.HoldTicks(t)
	w := p.leads()
	p.use(user, 850)
	p.held()
	w.signal(syscall.SIGTERM)
	w.await(worker.EventWorkerStopping, 1)
	assert.Empty(t, p.told(user))
	release()

	assert.Equal(t, 0, w.wait())
	assert.Equal(t, []int{80}, p.told(user))
	p.counted(user, 850)
	assert.Len(t, w.log(worker.EventAlertSent), 1, "log lines of what was told")
	assert.Len(t, w.log(worker.EventLeaderReleased), 1)
	assert.Zero(t, ask[int](p, "SELECT last_value FROM tokenalert.doorbell"), "the bell")
}

func TestSIGTERMRollsBackATickThatDoesNotEnd(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	user := p.user(1000)
	release := p.db.HoldTicks(t)
	w := p.leads("TOKENALERT_SHUTDOWN_GRACE=4s")
	p.use(user, 850)
	p.held()
	began := time.Now()
	w.terminate()
	assert.Less(t, time.Since(began), 4*time.Second, "the grace")
	assert.Len(t, w.log(worker.EventLeaderReleased), 1)
	p.eventually("SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = current_database() AND usename = $1",
		"it left a session", pgtest.Runtime)
	assert.Empty(t, p.told(user))

	release()
	p.leads().await(worker.EventAlertSent, 1)
	p.counted(user, 850)
	assert.Equal(t, []int{80}, p.told(user))
}

func TestASecondSignalEndsItAtOnce(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name          string
		first, second syscall.Signal
		status        int
	}{
		{"SIGINT after SIGTERM", syscall.SIGTERM, syscall.SIGINT, 130},
		{"SIGTERM after SIGINT", syscall.SIGINT, syscall.SIGTERM, 143},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := newPlatform(t)
			user := p.user(1000)
			p.db.HoldTicks(t)
			w := p.leads("TOKENALERT_SHUTDOWN_GRACE=1h")
			p.use(user, 850)
			p.held()
			w.signal(tt.first)
			w.await(worker.EventWorkerStopping, 1)
			w.signal(tt.second)
			assert.Equal(t, tt.status, w.wait())
			assert.Empty(t, w.log(worker.EventWorkerStopped))
		})
	}
}

func TestRunWaitsForTheDatabase(t *testing.T) {
	t.Parallel()
	in := pgtest.StartServer(t, nil)
	p := platformOn(t, in.New(t, pgtest.Migrated(host.CMS)))
	user := p.user(1000)
	p.use(user, 850)
	require.NoError(t, in.Server().StopImmediate(t.Context()))

	w := p.run()
	w.await(worker.EventDatabaseUnreachable, 1)
	eventually(t, func() bool { return metric(t, w, `tokenalert_reconnects_total{connection="lead"}`) >= 3 }, "it does not try again")
	status, body := w.get("/livez")
	assert.Equal(t, 200, status, body)
	status, body = w.get("/readyz")
	assert.Equal(t, 503, status, body)
	assert.Contains(t, body, "starting: cannot work on the database")
	assert.False(t, w.hasEnded())

	require.NoError(t, in.Server().Restart(t.Context()))
	w.await(worker.EventAlertSent, 1)
	assert.Contains(t, w.awaitReady(), "leader")
	p.connect()
	assert.Equal(t, []int{80}, p.told(user))

	// And a crash later on.
	require.NoError(t, in.Server().StopImmediate(context.WithoutCancel(t.Context())))
	eventually(t, func() bool { status, _ := w.get("/readyz"); return status == 503 }, "ready without a database")
	require.NoError(t, in.Server().Restart(t.Context()))
	p.connect()
	p.use(user, 100)
	p.counted(user, 950)
	assert.Equal(t, []int{80, 90}, p.told(user))
	w.terminate()
}

// Who sleeps or waits is ready, however seldom it is told to ping, to look, and to try.
func TestProbesBearWhatSettingsAllow(t *testing.T) {
	t.Parallel()
	for _, c := range []worker.Config{
		{LeadPing: 3 * time.Second, BellRenewal: 10 * time.Second, LeadRetry: time.Second},
		{LeadPing: 3 * time.Second, BellRenewal: 10 * time.Second, LeadRetry: 10 * time.Second},
		{LeadPing: time.Minute, BellRenewal: time.Minute, LeadRetry: time.Second},
	} {
		bounds := healthBounds(c)
		assert.Greater(t, bounds.Answer, 2*c.LeadPing, "one ping may be late")
		assert.Greater(t, bounds.Answer, c.LeadRetry*3/2)
		assert.Greater(t, bounds.Tick, c.BellRenewal)
		assert.Greater(t, bounds.Live, c.BellRenewal)
	}
}
