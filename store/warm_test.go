package store_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
)

// A follower gets ready while the leader works: it waits for nobody, and leaves
// all that there is to count to whoever leads.
func TestWarmingTouchesNothing(t *testing.T) {
	t.Parallel()
	c := counterOn(t, siteOn(t, pgtest.New(t, pgtest.Migrated(host.CMS)).Straight())) // what is prepared through a pooler is not kept
	user := c.user(1000)
	c.tick()
	c.use(user, 850)
	last := c.lastTick()
	// As a tick that has written and has not committed holds it.
	holder := c.db.ConnAs(t, pgtest.Owner)
	_, err := holder.Exec(t.Context(), `BEGIN; INSERT INTO tokenalert.ticks (id, snapshot, system_identifier, kind, rows, users, worker, started_at)
		SELECT id + 1, snapshot, system_identifier, 'window', 0, 0, 'another', now() FROM tokenalert.ticks ORDER BY id DESC LIMIT 1`)
	require.NoError(t, err)
	require.NoError(t, c.store.Warm(t.Context(), "UTC"))
	require.NoError(t, holder.Close(t.Context()))
	assert.Equal(t, last, c.lastTick())
	var messages strings.Builder
	stop, err := c.store.Trace(t.Context(), &messages)
	require.NoError(t, err)
	result := c.tick()
	stop()
	assert.EqualValues(t, 1, result.Rows)
	assert.Len(t, result.Outcomes, 1)
	assert.NotContains(t, messages.String(), "INSERT INTO token_limit_alerts", "what tells is prepared")
}
