package store_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/store"
)

func TestReconcileLeavesOutWhoIsCountedAnew(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	user, other := c.user(0), c.user(0)
	c.use(user, 100)
	c.use(other, 10)
	c.settle()
	c.exec("UPDATE ai_usage_logs SET tokens_used = tokens_used + 1") // by the triggers
	c.exec("DELETE FROM tokenalert.recounts WHERE user_id = $1", other)
	r, err := c.store.Reconcile(t.Context(), c.periods, nil)
	require.NoError(t, err)
	assert.EqualValues(t, 1, r.Users)
	assert.EqualValues(t, 1, r.LeftOut)
	require.Len(t, r.Differences, 1)
	assert.Equal(t, other, r.Differences[0].UserID)

	// Neither has a total: one is still left out.
	c.exec("DELETE FROM tokenalert.usage_periods")
	_, differences := c.reconcile()
	require.Len(t, differences, 1)
	assert.Equal(t, other, differences[0].UserID)

	// A decision that waits says nothing of the total.
	c.exec("UPDATE tokenalert.recounts SET at = NULL")
	_, differences = c.reconcile()
	assert.Len(t, differences, 2)
	c.exec("UPDATE tokenalert.recounts SET at = now(), cause = 'undecided'")
	_, differences = c.reconcile()
	assert.Len(t, differences, 2)
}

func TestReconcileLeavesAllToAFullCountThatIsDue(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	c.use(c.user(0), 100)
	c.settle()
	c.exec("TRUNCATE ai_usage_logs")
	var heard []store.Progress
	r, err := c.store.Reconcile(t.Context(), c.periods, func(p store.Progress) { heard = append(heard, p) })
	require.NoError(t, err)
	assert.Equal(t, store.Reconciled{FullCount: true}, r)
	assert.Equal(t, []store.Progress{{Percent: 100}}, heard)
}

func TestReconcileRefusesWhatItCannotCompareWith(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		sql  string
		want error
	}{
		"no tick":                 {"DELETE FROM tokenalert.ticks", store.ErrNothingCounted},
		"another cluster's chain": {"UPDATE tokenalert.ticks SET system_identifier = system_identifier + 1", store.ErrForeignChain},
		"a snapshot from ahead":   {"UPDATE tokenalert.ticks SET snapshot = '4000000000:4000000000:'", store.ErrForeignChain},
		"another zone is in force": {
			"INSERT INTO tokenalert.settings VALUES (true, 'America/Santiago', '{80}', false, 'another', now())", store.ErrOtherZone,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCounter(t, host.CMS)
			c.use(c.user(0), 100)
			c.settle()
			c.exec(tt.sql)
			_, err := c.store.Reconcile(t.Context(), c.periods, nil)
			require.ErrorIs(t, err, tt.want)
		})
	}
}

// Each privilege that is taken away is named, with what gives it back.
func TestReconcileNamesAMissingGrant(t *testing.T) {
	t.Parallel()
	for revoked, named := range map[string]string{
		"SELECT ON tokenalert.ticks":                "table ticks",
		"SELECT ON tokenalert.recounts":             "table recounts",
		"SELECT ON tokenalert.usage_periods":        "table usage_periods",
		"SELECT ON tokenalert.settings":             "table settings",
		"EXECUTE ON FUNCTION tokenalert.accounts()": "function accounts",
		"SELECT (user_id) ON ai_usage_logs":         "table ai_usage_logs",
		"SELECT (xact_id) ON ai_usage_logs":         "table ai_usage_logs",
		"SELECT (token_limit_reset_day) ON users":   "table users",
		"USAGE ON SCHEMA tokenalert":                "schema tokenalert",
		"INSERT ON tokenalert.recounts":             "table recounts",
	} {
		t.Run(revoked, func(t *testing.T) {
			t.Parallel()
			c := newCounter(t, host.CMS)
			user := c.user(0)
			c.exec("REVOKE " + revoked + " FROM " + pgtest.Runtime)
			_, err := c.store.Reconcile(t.Context(), c.periods, nil)
			if err == nil {
				err = c.store.Recount(t.Context(), []store.Difference{{UserID: user, PeriodStart: c.now()}}, store.CauseReconcile)
			}
			require.ErrorContains(t, err, "run `tokenalert migrate grant "+pgtest.Runtime+"`")
			require.ErrorContains(t, err, "permission denied for "+named)
		})
	}
}

// Rows that a policy would hide are no matter of a grant of ours.
func TestReconcileUnderRowSecurityProposesNoGrant(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	c.exec("ALTER TABLE ai_usage_logs ENABLE ROW LEVEL SECURITY")
	_, err := c.store.Reconcile(t.Context(), c.periods, nil)
	require.ErrorContains(t, err, "row-level security")
	assert.NotContains(t, err.Error(), "migrate grant")
}

// Whoever leads may sleep: it is to look at once.
func TestARecountRings(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	heard := c.db.ConnAs(t, pgtest.Owner)
	_, err := heard.Exec(t.Context(), "LISTEN tokenalert")
	require.NoError(t, err)
	require.NoError(t, c.store.Recount(t.Context(), []store.Difference{{UserID: c.user(0), PeriodStart: c.now()}}, store.CauseReconcile))
	c.exec("NOTIFY tokenalert, 'it was silent'")
	n, err := heard.WaitForNotification(t.Context())
	require.NoError(t, err)
	assert.Empty(t, n.Payload)
}

func TestLeader(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS)
	st := s.runtime()
	leader := func(st *store.Store) *store.Leader {
		t.Helper()
		leader, err := st.Leader(t.Context())
		require.NoError(t, err)
		return leader
	}
	s.exec("SELECT pg_advisory_lock(4711)") // somebody else's
	assert.Nil(t, leader(st))
	lead, err := st.ConnectLead(t.Context(), 10*time.Second)
	require.NoError(t, err)
	assert.Nil(t, leader(st), "a follower")
	acquired, err := lead.TryAcquire(t.Context(), "a-worker-whose-name-does-not-fit-into-it")
	require.NoError(t, err)
	require.True(t, acquired)
	require.NotNil(t, leader(st))
	assert.Equal(t, "whose-name-does-not-fit-into-it"[1:], leader(st).Worker, "the end, which tells replicas apart")
	require.NotNil(t, leader(st).Since)
	assert.WithinDuration(t, time.Now(), *leader(st).Since, time.Minute)

	assert.Nil(t, leader(migratedSite(t, host.CMS).runtime()), "another database's leader")
	require.NoError(t, lead.Release(t.Context()))
	assert.Nil(t, leader(st))
}
