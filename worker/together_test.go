package worker_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sync/errgroup"

	"tokenalert/internal/pgtest"
	"tokenalert/store"
	"tokenalert/worker"
)

// The lead is for economy: without it, the chain keeps two workers apart.
func TestTwoWorkersThatBothTickTellEachAlertOnce(t *testing.T) {
	t.Parallel()
	const writers, inserts = 3, 60
	w := newWorld(t)
	users := []uuid.UUID{w.user(100), w.user(100), w.user(100)}
	core, logs := observer.New(zapcore.DebugLevel)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var ticking, writing errgroup.Group
	for _, name := range []string{"one", "other"} {
		c := config()
		c.WorkerName = name
		daemon, s, _ := w.daemon(c, zap.New(core), worker.NewMetrics("test", "test"))
		t.Cleanup(s.Close)
		ticking.Go(func() error { return daemon.TickWithoutLead(ctx) })
	}
	var met atomic.Bool // both have extended the chain, and collided
	for range writers {
		conn := w.db.ConnAs(t, pgtest.Writer)
		writing.Go(func() error {
			for i := 0; i < inserts || !met.Load() && ctx.Err() == nil; i++ {
				if err := w.tryInsert(conn, users[i%len(users)], 2); err != nil {
					return err
				}
			}
			return nil
		})
	}
	w.eventually(func() bool {
		var names int
		require.NoError(t, w.owner.QueryRow(t.Context(), "SELECT count(DISTINCT worker) FROM tokenalert.ticks").Scan(&names))
		met.Store(names == 2 && logs.FilterField(worker.Event(worker.EventTickCollided)).Len() > 0)
		return met.Load()
	}, "the two never meet")
	require.NoError(t, writing.Wait())
	w.settle()
	cancel()
	if err := ticking.Wait(); err != nil {
		require.ErrorIs(t, err, context.Canceled)
	}
	for _, user := range users {
		w.assertToldOnce(user, 80, 90, 100)
	}
	w.assertTotals()
	var gaps int
	require.NoError(t, w.owner.QueryRow(t.Context(), "SELECT max(id) - count(*) FROM tokenalert.ticks").Scan(&gaps))
	assert.Zero(t, gaps)
}

// A worker that has not yet heard that it leads no more does not go by its own
// thresholds and time zone where those of its successor are in force.
func TestALeaderStopsWhereAnotherHasPutSettingsInForce(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change func(*worker.Config)
		told   int
	}{
		"thresholds": {func(c *worker.Config) { c.Thresholds = []int{50} }, 50},
		"time zone":  {func(c *worker.Config) { c.TimeZone = "Pacific/Auckland" }, 80},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			user := w.user(100)
			former := w.ticker()
			w.ticks(former)
			successor := w.ticker(tt.change)
			w.ticks(successor)
			w.use(user, 85)

			_, err := former()
			require.ErrorIs(t, err, store.ErrOtherSettings)
			assert.Zero(t, w.total(user), "it counted nothing")
			w.ticks(successor)
			w.assertToldOnce(user, tt.told)
			assert.EqualValues(t, 85, w.total(user))
		})
	}
}

// A tick that puts settings in force may have committed though its answer was lost.
// Taken again, it would only record whoever has crossed a threshold since.
func TestSettingsAreNotPutInForceTwice(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		before bool // others were in force
		change func(*worker.Config)
	}{
		"the first, which records who stands above": {false, func(c *worker.Config) { c.Backfill = "record" }},
		"a threshold that is added":                 {true, func(c *worker.Config) { c.Thresholds = []int{50, 100} }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			user := w.user(100)
			if tt.before {
				w.ticks(w.ticker())
			}
			committed, again := w.ticker(tt.change), w.ticker(tt.change) // both know what was in force before
			w.ticks(committed)
			w.use(user, 99)
			w.ticks(again) // sees that they are in force
			w.ticks(again)
			assert.Len(t, w.notifications(user), 1, "%v", w.reasons(user))
			w.assertTotals()
		})
	}
}

// Whoever leads by right takes the lead again, and puts its own settings in force.
func TestALeaderPutsItsSettingsInForceAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	user := w.user(100)
	r := w.start()
	r.asleep()
	w.ownerExec("UPDATE tokenalert.settings SET thresholds = '{50}'")
	w.use(user, 5)
	r.await(worker.EventLeaderLost)
	r.await(worker.EventSettingsChanged)
	w.settle()
	w.use(user, 80)
	r.await(worker.EventAlertSent)
	w.assertToldOnce(user, 80)
	assert.Len(t, r.lines(worker.EventLeaderAcquired), 2)
	assert.Empty(t, r.lines(worker.EventTickFailed))
}

// A former leader that was about to put settings in force leaves those of its successor.
func TestAFormerLeaderLeavesTheSettingsOfItsSuccessor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.ticks(w.ticker())
	former := w.ticker(func(c *worker.Config) { c.Thresholds = []int{50} })
	w.ticks(w.ticker(func(c *worker.Config) { c.Thresholds = []int{60} }))
	_, err := former()
	require.ErrorIs(t, err, store.ErrOtherSettings)
	var thresholds []int32
	require.NoError(t, w.owner.QueryRow(t.Context(), "SELECT thresholds FROM tokenalert.settings").Scan(&thresholds))
	assert.Equal(t, []int32{60}, thresholds)
}
