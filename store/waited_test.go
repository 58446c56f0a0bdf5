package store_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
)

func TestHowLongTheOldestUncountedRowHasWaited(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	waited := func() time.Duration {
		t.Helper()
		d, err := c.store.Waited(t.Context())
		require.NoError(t, err)
		return d
	}
	assert.Zero(t, waited(), "nothing is uncounted")

	user := c.user(1_000_000)
	now := c.now()
	c.useAt(user, 1, now.Add(-time.Hour))
	c.useAt(user, 1, now.Add(-time.Minute))
	assert.InDelta(t, time.Hour.Seconds(), waited().Seconds(), 10)
	c.tick()
	assert.Zero(t, waited(), "all is counted")

	for _, at := range []any{now.Add(time.Hour), "infinity", "-infinity"} {
		c.useAt(user, 1, at)
		assert.Zero(t, waited(), "%s", at)
		c.tick()
	}
}
