package worker_test

import (
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
)

// How often a tick with one row, and each of those that it tells, may take memory.
// Seen were 182 and 108; the rest is room for another version of Go or pgx. Bounds of
// periods that are worked out anew in each tick take 37, and written as times 500;
// an alert whose ids are written as uuid.UUID takes 100 more.
const (
	allocationsPerTick  = 200
	allocationsPerAlert = 130
)

// Not in parallel, as the runtime counts what everybody takes.
func TestAllocationsOfATick(t *testing.T) {
	const runs = 50
	w, tick, settle := ticking(t)
	user := w.user(1_000_000_000)
	settle() // the count of everything, and the user's correction
	inserts := testing.AllocsPerRun(runs, func() { w.use(user, 1) })
	settle()
	took := testing.AllocsPerRun(runs, func() {
		w.use(user, 1)
		require.True(t, tick())
	}) - inserts
	t.Logf("%.0f allocations", took)
	assert.LessOrEqual(t, took, float64(allocationsPerTick))
}

// As above.
func TestAllocationsOfAnAlert(t *testing.T) {
	const runs, few, many = 5, 5, 25
	w, tick, settle := ticking(t)
	var users []uuid.UUID
	for range (runs + 1) * 2 * (few + many) { // AllocsPerRun runs once more
		users = append(users, w.user(1000))
	}
	settle()
	telling := func(n int) float64 {
		use := func() {
			for range n {
				w.use(users[0], 850)
				users = users[1:]
			}
		}
		inserts := testing.AllocsPerRun(runs, use)
		settle()
		return testing.AllocsPerRun(runs, func() {
			use()
			require.True(t, tick())
		}) - inserts
	}
	took := (telling(many) - telling(few)) / (many - few)
	t.Logf("%.0f allocations for each alert", took)
	assert.LessOrEqual(t, took, float64(allocationsPerAlert))
}

// ticking is a world with a worker that ticks when it is told to, and says whether
// there was work, and what ticks until there is none.
func ticking(t *testing.T) (w *world, tick func() bool, settle func()) {
	w = worldOn(t, pgtest.New(t, pgtest.Migrated(host.CMS)).Straight()) // a pooler has statements described instead of prepared
	ticker := w.ticker()
	tick = func() bool { return w.ticks(ticker) }
	return w, tick, func() {
		for tick() {
		}
	}
}
