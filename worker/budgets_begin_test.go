package worker_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/pgtest"
	"tokenalert/store"
	"tokenalert/worker"
)

// far has no renewal of the bell help out.
func far(c *worker.Config) { c.BellLease, c.BellRenewal = 150*time.Second, time.Minute }

// Whoever led before may still be about it, and die over it when the worker sleeps.
func TestABudgetIsCountedThoughAnotherWorkerWasAboutIt(t *testing.T) {
	t.Parallel()
	for name, used := range map[string]int{"what was used": 300, "nothing": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			if used > 0 {
				w.use(w.user(0), used)
			}
			other, err := w.db.ConnAs(t, pgtest.Owner).Begin(t.Context())
			require.NoError(t, err)
			_, err = other.Exec(t.Context(), "SELECT pg_advisory_xact_lock(8390042714202270818)") // "tokenalb"
			require.NoError(t, err)
			r := w.start(far)
			w.policy(ofOrganization, "budget", w.org, 1000)
			r.await(worker.EventBudgetBegun)
			r.asleep()
			require.NoError(t, other.Rollback(t.Context()))
			w.eventually(func() bool { return w.budgetCounted(w.org) }, "is not counted")
			w.assertBudgets()
		})
	}
}

// The worker leads throughout, and nothing else changes.
func TestBudgetsOutliveTheSchema(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	admin := w.admin(w.org)
	w.start(far)
	w.policy(ofOrganization, "budget", w.org, 1000)
	w.use(w.user(0), 850)
	w.eventually(func() bool { return len(w.notifications(admin)) == 1 }, "nobody was told")
	w.settle()
	before := w.budgetAlerts(w.org)
	m, err := store.NewMigrator(w.db.OwnerURL())
	require.NoError(t, err)
	t.Cleanup(m.Close)
	require.NoError(t, m.Down(t.Context()))
	require.NoError(t, m.Up(t.Context()))
	require.NoError(t, m.Grant(t.Context(), pgtest.Runtime))
	w.eventually(func() bool { return w.budgetCounted(w.org) }, "is not counted")
	w.settle()
	w.assertBudgets()
	assert.Equal(t, before, w.budgetAlerts(w.org))
	assert.Len(t, w.notifications(admin), 1)
}

// What is dated ahead was used before the budget was set, or corrected since.
func TestUsageOfABudgetDatedAheadIsToldWhenItsPeriodBegins(t *testing.T) {
	t.Parallel()
	june := nextYear(time.June, 1)
	for name, use := range map[string]func(w *world){
		"used before": func(w *world) {
			w.useAt(w.user(0), 950, june.Add(time.Hour))
			w.settle()
			w.policy(ofOrganization, "budget", w.org, 1000)
		},
		"used after": func(w *world) {
			w.policy(ofOrganization, "budget", w.org, 1000)
			w.eventually(func() bool { return w.budgetCounted(w.org) }, "is not counted")
			w.useAt(w.user(0), 950, june.Add(time.Hour))
		},
		"corrected": func(w *world) {
			w.policy(ofOrganization, "budget", w.org, 1000)
			w.eventually(func() bool { return w.budgetCounted(w.org) }, "is not counted")
			user, other := w.user(0), w.organization("Other")
			at := june.Add(time.Hour)
			w.useIn(other, user, 950, &at)
			w.settle()
			w.ownerExec("UPDATE ai_usage_logs SET organization_id = $1", w.org)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.db.SetNow(t, nextYear(time.May, 20))
			admin := w.admin(w.org)
			// Only the look at the renewal sees that a period has begun.
			r := w.start(func(c *worker.Config) { c.BellRenewal, c.BellLease = time.Second, 3*time.Second })
			use(w)
			w.eventually(func() bool { return w.budgetCounted(w.org) }, "is not counted")
			w.settle()
			assert.Empty(t, w.budgetAlerts(w.org))
			r.asleep()
			w.db.SetNow(t, june)
			w.eventually(func() bool { return len(w.notifications(admin)) == 1 }, "nobody was told")
			assert.Equal(t, []budgetAlert{{80, false, "superseded", 950, 0}, {90, true, "", 950, 1}}, w.budgetAlerts(w.org))
		})
	}
}
