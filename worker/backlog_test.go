package worker_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"tokenalert/worker"
)

// A leader begins with ticks as long as those who wait have deserved.
func TestTheFirstTickOfALeadFollowsHowLongRowsHaveWaited(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		waited  time.Duration
		bounded bool
	}{
		"for long":   {time.Hour, false},
		"not at all": {-time.Hour, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const transactions, rows = 6, 500
			w := newWorld(t)
			user := w.user(1_000_000)
			first := w.start()
			first.asleep()
			first.stop()
			for range transactions {
				w.ownerExec(`INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used, created_at)
					SELECT $1, $2, 1, now() - $3::interval FROM generate_series(1, $4)`, user, w.org, tt.waited, rows)
			}
			// A slice of 2,000 rows, or of five times as many.
			r := w.start(func(c *worker.Config) { c.TickTarget = 20 * time.Millisecond })
			tick := r.await(worker.EventTickCompleted).ContextMap()
			assert.Equal(t, tt.bounded, tick["bounded"])
			assert.Equal(t, !tt.bounded, tick["rows"] == int64(transactions*rows), "%v", tick["rows"])
			r.stop()
		})
	}
}
