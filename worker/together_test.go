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
