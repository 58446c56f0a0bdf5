package store_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/store"
)

func (c *counter) reconcile() (int64, []store.Difference) {
	c.t.Helper()
	r, err := c.store.Reconcile(c.t.Context(), c.periods, nil)
	require.NoError(c.t, err)
	return r.Users, r.Differences
}

func TestReconcileIsSilentWhenTheTotalsAreRight(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	users, differences := c.reconcile()
	assert.Zero(t, users)
	assert.Empty(t, differences)
	one, other := c.user(0), c.user(0)
	c.use(one, 10)
	c.use(other, 20)
	c.useAt(one, 5, c.now().AddDate(0, -4, 0))
	c.settle()
	users, differences = c.reconcile()
	assert.EqualValues(t, 2, users)
	assert.Empty(t, differences)

	// What no tick has counted yet, and what a bounded one has left, differs from
	// nothing.
	open, _ := c.begin(one, 1)
	c.use(one, 2)
	c.use(other, 3)
	c.use(c.user(0), 4)
	_, differences = c.reconcile()
	assert.Empty(t, differences)
	c.slice = 1
	assert.True(t, c.tick().Bounded)
	_, differences = c.reconcile()
	assert.Empty(t, differences)
	require.NoError(t, open.Commit(t.Context()))
	_, differences = c.reconcile()
	assert.Empty(t, differences)
	c.settle()
	users, differences = c.reconcile()
	assert.EqualValues(t, 3, users)
	assert.Empty(t, differences)
}

func TestReconcileFindsWhatTicksCouldNotSee(t *testing.T) {
	t.Parallel()
	for name, hide := range map[string]string{
		"rows with an old transaction id": `INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used, xact_id)
			SELECT user_id, organization_id, 60, xact_id FROM ai_usage_logs WHERE tokens_used = 100`,
		"rows without a transaction id": `INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used, xact_id)
			SELECT user_id, organization_id, 60, NULL FROM ai_usage_logs WHERE tokens_used = 100`,
		"an update without triggers": `SET session_replication_role = replica;
			UPDATE ai_usage_logs SET tokens_used = 160 WHERE tokens_used = 100`,
		"rows deleted and loaded anew without triggers": `SET session_replication_role = replica;
			WITH gone AS (DELETE FROM ai_usage_logs WHERE tokens_used = 100 RETURNING *)
			INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used, xact_id) SELECT user_id, organization_id, 160, xact_id FROM gone`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCounter(t, host.CMS)
			user, other := c.user(200), c.user(200)
			c.use(user, 100)
			c.use(other, 10)
			c.settle()
			c.superExec(hide)
			assert.Zero(t, c.settle())
			_, differences := c.reconcile()
			require.Len(t, differences, 1)
			d := differences[0]
			assert.Equal(t, store.Difference{UserID: user, PeriodStart: d.PeriodStart, Counted: 100, Actual: 160}, d)

			// Once on the list of corrections, it is no news.
			require.NoError(t, c.store.Recount(t.Context(), []store.Difference{{UserID: user, PeriodStart: c.now()}}, store.CauseReconcile))
			_, differences = c.reconcile()
			assert.Empty(t, differences)
			assert.EqualValues(t, 1, c.tick().Counted)
			assert.EqualValues(t, 160, c.total(user))
			assert.Equal(t, []string{"80 told"}, c.alerts(user))
			_, differences = c.reconcile()
			assert.Empty(t, differences)
			c.requireTotals()
		})
	}
}

func TestReconcileFindsATotalThatNoRowSupports(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	user := c.user(0)
	c.use(user, 100)
	c.settle()
	c.superExec("SET session_replication_role = replica; DELETE FROM ai_usage_logs")
	_, differences := c.reconcile()
	require.Len(t, differences, 1)
	assert.EqualValues(t, 100, differences[0].Counted)
	assert.Zero(t, differences[0].Actual)
	require.NoError(t, c.store.Recount(t.Context(), []store.Difference{{UserID: user, PeriodStart: c.now()}}, store.CauseReconcile))
	c.tick()
	assert.Zero(t, c.total(user))
	_, differences = c.reconcile()
	assert.Empty(t, differences)
}

// A rewrite between its snapshot and its read hides every row from it.
func TestReconcileUnderARewriteSaysSo(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	user := c.user(0)
	c.use(user, 10)
	c.settle()
	h := c.hold()
	done := make(chan error, 1)
	go func() {
		_, err := h.store.Reconcile(t.Context(), h.periods, nil)
		done <- err
	}()
	t.Cleanup(h.release)
	h.reached()
	c.exec("TRUNCATE ai_usage_logs")
	h.release()
	require.ErrorIs(t, <-done, store.ErrRewritten)
}

// A period that is to begin has a correction waiting, for weeks: that is no
// reason to leave its user out until then.
func TestReconcileLooksAtUsersWithUsageAhead(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	user := c.user(0)
	c.use(user, 10)
	c.useAt(user, 5, c.now().AddDate(0, 2, 0))
	c.settle()
	require.Equal(t, 1, c.pending())
	c.exec("ALTER TABLE ai_usage_logs DISABLE TRIGGER USER")
	c.exec("UPDATE ai_usage_logs SET tokens_used = 310 WHERE tokens_used = 10")
	_, differences := c.reconcile()
	require.Len(t, differences, 1)
	assert.Equal(t, user, differences[0].UserID)
	assert.EqualValues(t, 310, differences[0].Actual)
}
