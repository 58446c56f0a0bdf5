package main

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/pgtest"
	"tokenalert/worker"
)

func TestRunRefusesToLeadBehindAPoolerInTransactionMode(t *testing.T) {
	t.Parallel()
	for name, settings := range map[string]map[string]string{
		"as it comes":   nil,
		"in turn":       {"server_round_robin": "1"},
		"one at a time": {"default_pool_size": "1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlatform(t)
			pooled := p.db.Pooler(t, "transaction", settings).URLAs(pgtest.Runtime, p.db.Name)
			const remedy = "set TOKENALERT_LISTEN_URL to the server's own address"
			refused(t, withPassword(t, pooled, secret), "PgBouncer", remedy)

			// An address that differs is not yet a direct one.
			both := databaseEnvironment(pooled, withPassword(t, pooled, secret))
			w := startProcess(t, append(both, "TOKENALERT_HTTP_ADDRESS=off"), "run")
			assert.Equal(t, 1, w.wait())
			assert.Contains(t, w.stderr.String(), remedy)
			assert.NotContains(t, w.stdout.String()+w.stderr.String(), secret)

			status, stdout, _ := typed(t, both, "doctor")
			assert.Equal(t, int(statusBroken), status)
			assert.Contains(t, stdout, "a pooler in transaction mode stands before the lead")
			assert.Contains(t, stdout, remedy)
		})
	}
}

// Its own session with the server lives on all the while.
func TestALeaderWhosePoolerIsDeadMakesWay(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	pooler := p.db.Pooler(t, "transaction", map[string]string{"admin_users": pgtest.Owner})
	first := startProcess(t, append(runEnvironment(pooler.URLAs(pgtest.Runtime, p.db.Name), p.db.URLAs(pgtest.Runtime)),
		"TOKENALERT_LEAD_PING=300ms", "TOKENALERT_LEAD_TIMEOUT=1s", "TOKENALERT_BELL_RENEWAL=1s", "TOKENALERT_BELL_LEASE=3s"), "run")
	require.Contains(t, first.awaitReady(), "leader")
	second := p.follows()
	p.asleep()

	admin, err := pgx.Connect(t.Context(), pooler.URLAs(pgtest.Owner, "pgbouncer")+"&default_query_exec_mode=simple_protocol")
	require.NoError(t, err)
	_, err = admin.Exec(t.Context(), "PAUSE")
	require.NoError(t, err)
	second.await(worker.EventLeaderAcquired, 1)
	assert.Contains(t, first.await(worker.EventLeaderLost, 1)["error"], "no answer on the connections of ticks")
	user := p.user(1000)
	p.use(user, 850)
	second.await(worker.EventAlertSent, 1)
	assert.Equal(t, []int{80}, p.told(user))
	_, err = admin.Exec(t.Context(), "RESUME")
	require.NoError(t, err)
	require.NoError(t, admin.Close(t.Context()))
	second.terminate()
	first.await(worker.EventLeaderAcquired, 2)
	first.terminate()
}

// Its sessions may be anybody's.
func TestDeliveriesRetryThroughAPooler(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	pooled := p.db.Pooler(t, "transaction", map[string]string{"default_pool_size": "1"}).URLAs(pgtest.Runtime, p.db.Name)
	for range 3 {
		status, stdout, stderr := typed(t, []string{"DATABASE_URL=" + pooled}, "deliveries", "retry", "1", "2")
		assert.Equal(t, 1, status)
		assert.Empty(t, stderr)
		assert.Contains(t, stdout, "0 deliveries tried again")
	}
}

func TestRunLeadsPastAPoolerOrThroughOneInSessionMode(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		mode   string
		direct bool
	}{
		"past one in transaction mode": {"transaction", true},
		"past one in session mode":     {"session", true},
		"through one in session mode":  {"session", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlatform(t)
			pooled, listen := p.db.Pooler(t, tt.mode, nil).URLAs(pgtest.Runtime, p.db.Name), ""
			if tt.direct {
				listen = p.db.URLAs(pgtest.Runtime)
			}
			w := startProcess(t, runEnvironment(pooled, listen), "run")
			require.Contains(t, w.awaitReady(), "leader")
			user := p.user(1000)
			p.asleep()
			p.use(user, 850)
			w.await(worker.EventAlertSent, 1)
			assert.Equal(t, []int{80}, p.told(user))
			w.terminate()
		})
	}
}
