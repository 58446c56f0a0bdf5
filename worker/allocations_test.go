package worker_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/worker"
)

// allocationsPerTick is how often a tick with one row may take memory. Seen were
// 687, of which 500 encode the bounds of periods, two for each instant. The rest
// is room for another version of Go or pgx: bounds that are worked out anew in
// each tick take 37.
const allocationsPerTick = 710

// Not in parallel, as the runtime counts what everybody takes.
func TestAllocationsOfATick(t *testing.T) {
	const runs = 50
	w := worldOn(t, pgtest.New(t, pgtest.Migrated(host.CMS)).Straight()) // a pooler has statements described instead of prepared
	user := w.user(1_000_000_000)
	daemon, s, _ := w.daemon(config(), zap.NewNop(), worker.NewMetrics("test", "test"))
	defer s.Close()
	tick, err := daemon.Ticker(t.Context())
	require.NoError(t, err)
	settle := func() {
		for worked := true; worked; {
			worked, err = tick()
			require.NoError(t, err)
		}
	}

	settle() // the count of everything, and the user's correction
	inserts := testing.AllocsPerRun(runs, func() { w.use(user, 1) })
	settle()
	took := testing.AllocsPerRun(runs, func() {
		w.use(user, 1)
		worked, err := tick()
		require.NoError(t, err)
		require.True(t, worked)
	}) - inserts
	t.Logf("%.0f allocations", took)
	assert.LessOrEqual(t, took, float64(allocationsPerTick))
}
