package store_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/store"
)

// inAnother moves a user to a new organization, which it returns.
func (c *counter) inAnother(user uuid.UUID) uuid.UUID {
	c.t.Helper()
	other, err := host.NewOrganization(c.t.Context(), c.owner, "Other")
	require.NoError(c.t, err)
	c.exec("UPDATE users SET organization_id = $1 WHERE id = $2", other, user)
	c.settle()
	return other
}

// An organization that goes between the tick's snapshot and its read takes its
// users along; those of others are told.
func TestAnOrganizationDeletedUnderATick(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	gone, stays := c.user(100), c.user(100)
	going := c.inAnother(gone)
	h := c.hold()
	c.use(stays, 90)
	c.exec("INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used) VALUES ($1, $2, 90)", gone, going)
	done := h.start(store.Window)
	h.reached()
	c.exec("DELETE FROM organizations WHERE id = $1", going)
	h.release()
	if err := <-done; err != nil {
		require.True(t, store.IsTransient(err), err)
	}
	c.settle()
	assert.Equal(t, []string{"80 told"}, c.alerts(stays))
	assert.Empty(t, c.alerts(gone))
	assert.Zero(t, c.notified(gone))
	assert.Zero(t, c.pending())
	c.requireTotals()
}

// A user who changes the organization while the one before goes: the tick's
// snapshot shows an organization that is no more, and the next one the right one.
func TestAUserWhoseOrganizationGoesUnderATick(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	user, other := c.user(100), c.user(100)
	before, after := c.inAnother(user), c.org
	h := c.hold()
	c.use(other, 90)
	c.exec("INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used) VALUES ($1, $2, 90)", user, c.org)
	done := h.start(store.Window)
	h.reached()
	c.exec("UPDATE users SET organization_id = $1 WHERE id = $2", after, user)
	c.exec("DELETE FROM organizations WHERE id = $1", before)
	h.release()
	if err := <-done; err != nil {
		require.True(t, store.IsTransient(err) || store.IsData(err), err)
	}
	// As the worker does after an error of data.
	q := c.request(store.Window)
	q.Isolated = true
	result, err := c.try(c.store, q)
	require.NoError(t, err)
	assert.Empty(t, result.SetAside)
	c.settle()
	for _, u := range []uuid.UUID{user, other} {
		assert.Equal(t, []string{"80 told"}, c.alerts(u))
		assert.Equal(t, 1, c.notified(u))
	}
	assert.Equal(t, after, ask[uuid.UUID](c.site, "SELECT organization_id FROM token_limit_alerts WHERE user_id = $1", user))
}

// Between the count and what is written: the decision is taken, and then the
// user, or the organization, is gone.
func TestWhoIsGoneBetweenCountAndWrite(t *testing.T) {
	t.Parallel()
	for name, remove := range map[string]string{
		"the user":         "DELETE FROM users WHERE id = $1",
		"the organization": "DELETE FROM organizations WHERE id = (SELECT organization_id FROM users WHERE id = $1)",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCounter(t, host.CMS)
			gone, stays := c.user(100), c.user(100)
			c.inAnother(gone)
			c.use(gone, 90)
			c.use(stays, 90)
			deciding := c.session()
			_, err := c.store.Tick(t.Context(), c.request(store.Window), func(_ store.Kind, now time.Time, candidates []store.Candidate) []store.Decision {
				deciding.exec(remove, gone)
				return tellAt80(now, candidates)
			})
			if err != nil {
				require.True(t, store.IsTransient(err), err)
			}
			c.settle()
			assert.Equal(t, []string{"80 told"}, c.alerts(stays))
			assert.Zero(t, c.notified(gone))
			assert.Zero(t, c.pending())
			c.requireTotals()
		})
	}
}
