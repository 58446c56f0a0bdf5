package store_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/store"
)

// A share that differs, for whatever reason, is found, once on the list no news,
// and mended by a tick; and so is a sum that is not that of its shares.
func TestReconcileFindsAndMendsSharesAndSums(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		sql        string // user is $1
		ofUser     bool   // the user's total differs as well
		share, sum bool
		counted    int64 // of the share, or else of the sum
	}{
		"rows that say another organization":         {"UPDATE ai_usage_logs SET organization_id = (SELECT id FROM organizations WHERE name = 'Other') WHERE user_id = $1 AND tokens_used = 100", false, true, false, 105},
		"rows deleted unseen":                        {"DELETE FROM ai_usage_logs WHERE user_id = $1 AND tokens_used = 100", true, true, false, 105},
		"a share changed by hand":                    {"UPDATE tokenalert.budget_shares SET tokens_used = 7 WHERE user_id = $1", false, true, true, 7},
		"a share deleted":                            {"DELETE FROM tokenalert.budget_shares WHERE user_id = $1", false, true, true, 0},
		"a sum changed by hand":                      {"UPDATE tokenalert.budget_periods SET tokens_used = 99 WHERE $1::uuid IS NOT NULL", false, false, true, 99},
		"a sum deleted":                              {"DELETE FROM tokenalert.budget_periods WHERE $1::uuid IS NOT NULL", false, false, true, 0},
		"the share of somebody who has used nothing": {"INSERT INTO tokenalert.budget_shares SELECT organization_id, period_start, gen_random_uuid(), 50 FROM tokenalert.budget_shares WHERE user_id = $1", false, true, true, 50},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCounter(t, host.CMS)
			_, err := host.NewOrganization(t.Context(), c.owner, "Other")
			require.NoError(t, err)
			user, other := c.user(0), c.user(0)
			c.use(user, 100)
			c.use(user, 5)
			c.use(other, 10)
			c.budget(c.org, 1000, 1, "UTC")
			c.begun()
			r, err := c.store.Reconcile(t.Context(), c.periods, nil)
			require.NoError(t, err)
			assert.Empty(t, r.Differences)
			assert.Equal(t, []int64{2, 1, 2}, []int64{r.Users, r.Budgets, r.Shares})

			tx := c.db.Conn(t)
			_, err = tx.Exec(t.Context(), "SET session_replication_role = replica")
			require.NoError(t, err)
			_, err = tx.Exec(t.Context(), tt.sql, user)
			require.NoError(t, err)
			_, differences := c.reconcile()
			var found struct{ ofUser, share, sum bool }
			for _, d := range differences {
				switch {
				case d.OrganizationID != c.org:
					found.ofUser = true
					continue
				case d.UserID == [16]byte{}:
					found.sum = true
				default:
					found.share = true
				}
				if d.UserID != [16]byte{} || !tt.share {
					assert.Equal(t, tt.counted, d.Counted)
				}
			}
			assert.Equal(t, struct{ ofUser, share, sum bool }{tt.ofUser, tt.share, tt.sum}, found)

			require.NoError(t, c.store.Recount(t.Context(), differences, store.CauseReconcile))
			_, again := c.reconcile()
			assert.Empty(t, again, "on the list")
			c.use(other, 1) // beside it
			c.settle()
			_, again = c.reconcile()
			assert.Empty(t, again)
			c.requireBudgets()
		})
	}
}

// Who is about to be counted anew is left out, and so is a budget of which not all
// is counted; a correction that names another organization is no reason.
func TestReconcileLeavesOutSharesThatAreCountedAnew(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	user := c.user(0)
	c.use(user, 100)
	c.budget(c.org, 1000, 1, "UTC")
	c.begun()
	c.exec("UPDATE tokenalert.budget_shares SET tokens_used = 7")
	c.exec("UPDATE tokenalert.budget_periods SET tokens_used = 7")
	_, differences := c.reconcile()
	require.Len(t, differences, 1)
	assert.Equal(t, store.Difference{UserID: user, OrganizationID: c.org, PeriodStart: differences[0].PeriodStart, Counted: 7, Actual: 100}, differences[0])
	for _, tt := range []struct {
		sql  string
		left int
	}{
		{"INSERT INTO tokenalert.recounts (user_id, organization_id, at, cause) VALUES ($1, $2, now(), 'usage_changed')", 0},
		{"INSERT INTO tokenalert.recounts (user_id, organization_id, at, cause) VALUES ($1, gen_random_uuid(), now(), $2::text)", 1},
		{"INSERT INTO tokenalert.recounts (user_id, at, cause) VALUES ($1, now(), $2::text)", 1},
		{"INSERT INTO tokenalert.recounts (organization_id, cause) SELECT $2::uuid, 'policy_changed' WHERE $1::uuid IS NOT NULL", 1},
		{"UPDATE tokenalert.budgets SET counted = $1::uuid IS NULL WHERE organization_id = $2", 0},
	} {
		c.exec(tt.sql, user, c.org)
		_, differences := c.reconcile()
		assert.Len(t, differences, tt.left, tt.sql)
		c.exec("DELETE FROM tokenalert.recounts")
	}
}

// Periods of budgets are their own, and older than those of users where they began
// before.
func TestReconcileComparesABudgetInItsOwnPeriod(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	user := c.user(0)
	now := c.now()
	c.db.SetNow(t, time.Date(now.Year()+1, 5, 3, 12, 0, 0, 0, time.UTC))
	c.calendar()
	begins := time.Date(now.Year()+1, 4, 20, 0, 0, 0, 0, time.UTC)
	c.budget(c.org, 1000, 20, "Asia/Kolkata")
	c.useAt(user, 3, begins.Add(-6*time.Hour)) // the day before there
	c.useAt(user, 10, begins.Add(-5*time.Hour))
	c.useAt(user, 100, begins.AddDate(0, 0, 20))
	c.begun()
	r, err := c.store.Reconcile(t.Context(), c.periods, nil)
	require.NoError(t, err)
	assert.Empty(t, r.Differences)
	assert.EqualValues(t, 1, r.Shares)
	assert.EqualValues(t, 110, c.share(user))
	c.exec("UPDATE tokenalert.budget_shares SET tokens_used = 113")
	_, differences := c.reconcile()
	require.Len(t, differences, 2)
	assert.EqualValues(t, 110, differences[1].Actual)

	_, err = c.store.Reconcile(t.Context(), func() *store.Periods {
		c.exec("UPDATE tokenalert.budgets SET time_zone = 'Pacific/Apia'")
		return c.periods
	}(), nil)
	require.ErrorIs(t, err, store.ErrOtherZone)
}
