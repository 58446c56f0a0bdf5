package main

import (
	"testing"

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
