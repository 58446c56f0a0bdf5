package store_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/store"
)

// What a host may come to have after it was migrated stops nobody else's
// counting.
func TestWhatNobodyExpectsStopsNobody(t *testing.T) {
	t.Parallel()
	s := newSite(t, host.CMS)
	s.exec("ALTER TABLE users ALTER COLUMN monthly_token_limit TYPE bigint")
	m, err := store.NewMigrator(s.db.OwnerURL())
	require.NoError(t, err)
	defer m.Close()
	require.NoError(t, m.Up(t.Context()))
	require.NoError(t, m.Grant(t.Context(), pgtest.Runtime))
	c := counterOn(t, s)

	unlimited, orphan, nameless, ordinary := c.user(1000), c.user(1000), c.user(1000), c.user(1000)
	c.exec("UPDATE users SET monthly_token_limit = 9223372036854775807 WHERE id = $1", unlimited) // some say so that there is none
	c.exec("ALTER TABLE users ALTER COLUMN organization_id DROP NOT NULL, ALTER COLUMN full_name DROP NOT NULL")
	c.exec("UPDATE users SET organization_id = NULL WHERE id = $1", orphan)
	c.exec("UPDATE users SET full_name = NULL WHERE id = $1", nameless)
	for _, user := range []any{unlimited, orphan, nameless, ordinary} {
		c.exec("INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used) VALUES ($1, $2, 900)", user, c.org)
	}
	c.settle()
	assert.EqualValues(t, 900, c.total(unlimited))
	assert.EqualValues(t, 900, c.total(orphan))
	assert.Empty(t, c.alerts(unlimited))
	assert.Empty(t, c.alerts(orphan), "an alert belongs to an organization")
	assert.NotEmpty(t, c.alerts(nameless))
	assert.NotEmpty(t, c.alerts(ordinary))
	c.exec("INSERT INTO tokenalert.settings (time_zone, thresholds, worker, changed_at) VALUES ('UTC', '{80}', 'a-worker', now())")
	status, err := c.store.Status(t.Context(), 10)
	require.NoError(t, err)
	assert.Len(t, status.Users, 4)
}
