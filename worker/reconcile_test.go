package worker_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"tokenalert/internal/pgtest"
	"tokenalert/store"
	"tokenalert/worker"
)

// errRolledBack is a writer's change of mind.
var errRolledBack = errors.New("rolled back on purpose")

// Beside a worker that counts, in ticks that leave something to the next, and
// writers with transactions short and long, no total ever differs.
func TestReconcileBesideAWorkerFindsNothing(t *testing.T) {
	t.Parallel()
	const writers, transactions = 4, 30
	w := newWorld(t)
	var users []uuid.UUID
	for range 20 {
		users = append(users, w.user(1_000_000))
	}
	r := w.start(func(c *worker.Config) { c.TickTarget = time.Millisecond })
	r.await(worker.EventTickCompleted)

	var group sync.WaitGroup
	var writing atomic.Int32
	for range writers {
		conn := w.db.ConnAs(t, pgtest.Owner)
		writing.Add(1)
		group.Go(func() {
			defer writing.Add(-1)
			for range transactions {
				err := pgx.BeginFunc(context.Background(), conn, func(tx pgx.Tx) error {
					for range 1 + rand.N(3) {
						_, err := tx.Exec(context.Background(), `INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used)
							SELECT ($1::uuid[])[1 + g % 20], $2, g FROM generate_series(1, $3) AS g`, users, w.org, 1+rand.N(1500))
						if err != nil {
							return err
						}
						if _, err := tx.Exec(context.Background(), "SELECT pg_sleep($1)", rand.Float64()/20); err != nil {
							return err
						}
					}
					if rand.N(4) == 0 {
						return errRolledBack
					}
					return nil
				})
				if err != nil && !errors.Is(err, errRolledBack) {
					t.Error("a writer of the host:", err)
					return
				}
			}
		})
	}
	t.Cleanup(group.Wait)
	var compared int64
	again := func(err error) { t.Error("started anew:", err) }
	for round := 0; writing.Load() > 0; round++ {
		result, err := worker.Reconcile(t.Context(), w.store, nil, again)
		require.NoError(t, err)
		require.Empty(t, result.Differences, "round %d", round)
		compared += result.Users
	}
	bounded := r.logs.FilterField(worker.Event(worker.EventTickCompleted)).FilterField(zap.Bool("bounded", true)).Len()
	assert.Positive(t, bounded, "no tick was bounded")
	assert.Positive(t, compared)
	r.stop() // what it left, in ticks so short, one with longer ticks counts sooner
	w.start()
	w.settle()
	result, err := worker.Reconcile(t.Context(), w.store, nil, again)
	require.NoError(t, err)
	assert.Empty(t, result.Differences)
	assert.EqualValues(t, len(users), result.Users)
	w.assertTotals()
}

// The worker by itself: it says what differs, and mends it.
func TestTheWorkerReconcilesByItself(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	user, other := w.user(1000), w.user(1000)
	w.use(user, 100)
	w.use(other, 100)
	r := w.startReconciling(100 * time.Millisecond)
	r.await(worker.EventReconcileCompleted)
	assert.Empty(t, r.lines(worker.EventReconcileDifference))
	early := len(r.lines(worker.EventReconcileFailed)) // before anything was counted

	admin := w.db.Conn(t)
	_, err := admin.Exec(t.Context(), `SET session_replication_role = replica;
		UPDATE ai_usage_logs SET tokens_used = 850 WHERE user_id = '`+user.String()+`'`)
	require.NoError(t, err)
	fields := r.await(worker.EventReconcileDifference).ContextMap()
	assert.Equal(t, user.String(), fields["user"])
	assert.EqualValues(t, 100, fields["counted"])
	assert.EqualValues(t, 850, fields["actual"])
	w.eventually(func() bool { return w.total(user) == 850 }, "the total is not mended")
	w.settle()
	assert.Equal(t, []int{80}, w.told(user))
	assert.Empty(t, w.told(other))

	w.policy(ofOrganization, "budget", w.org, 100_000)
	w.eventually(func() bool { return w.budgetCounted(w.org) }, "the budget is not counted")
	w.settle()
	_, err = admin.Exec(t.Context(), "UPDATE tokenalert.budget_periods SET tokens_used = 7") // not what its shares are
	require.NoError(t, err)
	w.eventually(func() bool { return len(r.lines(worker.EventReconcileDifference)) > 1 }, "the sum is not compared")
	fields = r.lines(worker.EventReconcileDifference)[1].ContextMap()
	assert.NotContains(t, fields, "user")
	assert.Equal(t, w.org.String(), fields["organization"])
	assert.EqualValues(t, 950, fields["actual"])
	w.eventually(func() bool { return w.budgetUsed(w.org) == 950 }, "the sum is not mended")
	w.assertBudgets()
	r.stop()
	assert.Len(t, r.lines(worker.EventReconcileDifference), 2)
	assert.Len(t, r.lines(worker.EventReconcileFailed), early)
	assert.Empty(t, r.lines(worker.EventReconcileProgress), "that is for those that take long")
	w.assertTotals()
}

// startReconciling starts a worker that reconciles more often than anybody may
// set.
func (w *world) startReconciling(every time.Duration) *replica {
	w.t.Helper()
	c := config()
	c.ReconcileInterval = every
	return w.startAs(c)
}

func TestReconcileBeforeAnybodyLed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, err := worker.Reconcile(t.Context(), w.store, nil, nil)
	require.ErrorIs(t, err, store.ErrNothingCounted)
	require.ErrorContains(t, err, "tokenalert run")
}

// Rewritten between its snapshot and its read, it starts anew, three times and
// no more.
func TestReconcileStartsAnewUnderARewrite(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name            string
		rewrites, again int
	}{
		{"once", 1, 1}, {"three times", 3, 3}, {"again and again", 4, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			user := w.user(1000)
			w.use(user, 100)
			r := w.start()
			r.await(worker.EventTickCompleted)
			w.settle()
			r.stop()

			url, hold, release := w.db.HoldReconcile(t)
			held, err := store.Open(url, "")
			require.NoError(t, err)
			t.Cleanup(held.Close)
			hold()
			done := make(chan error, 1)
			var told []error
			again := make(chan struct{}, tt.again)
			go func() {
				result, err := worker.Reconcile(context.Background(), held, nil, func(err error) {
					told = append(told, err)
					if len(told) < tt.rewrites {
						hold()
					}
					again <- struct{}{}
				})
				if err == nil {
					assert.EqualValues(t, 1, result.Users)
					assert.Empty(t, result.Differences)
				}
				done <- err
			}()
			for range tt.rewrites {
				w.awaitHeld()
				w.ownerExec("VACUUM FULL ai_usage_logs")
				release()
				select {
				case <-again:
				case err := <-done:
					done <- err
				}
			}
			err = <-done
			if tt.rewrites > 3 {
				require.ErrorIs(t, err, store.ErrRewritten)
			} else {
				require.NoError(t, err)
			}
			assert.Len(t, told, tt.again)
			for _, err := range told {
				require.ErrorIs(t, err, store.ErrRewritten)
			}
		})
	}
}

// awaitHeld waits until a comparison is held.
func (w *world) awaitHeld() {
	w.t.Helper()
	w.eventually(func() bool {
		var held bool
		require.NoError(w.t, w.owner.QueryRow(w.t.Context(), `SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_database d ON d.oid = l.database
			WHERE d.datname = current_database() AND locktype = 'advisory' AND classid = 0 AND objid = 4712 AND granted)`).Scan(&held))
		return held
	}, "no comparison is held")
}

func TestReconcileLog(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zapcore.DebugLevel)
	l := worker.NewReconcileLog(zap.New(core), 0)
	for _, p := range []store.Progress{{}, {Percent: 12.39, Rows: 10_000}, {Percent: 99, Rows: 80_000}, {Percent: 100, Rows: 80_001}} {
		l.Progress(p)
	}
	l.Again(store.ErrRewritten)
	lines := logs.All()
	require.Len(t, lines, 5)
	assert.NotContains(t, lines[0].ContextMap(), "remaining_ms", "nobody knows yet")
	second := lines[1].ContextMap()
	assert.Equal(t, string(worker.EventReconcileProgress), second["event"])
	assert.InDelta(t, 12.3, second["done"], 1e-9)
	assert.EqualValues(t, 10_000, second["rows"])
	assert.Positive(t, second["rows_per_second"])
	assert.Positive(t, second["remaining_ms"])
	last := lines[3].ContextMap()
	assert.InDelta(t, 100, last["done"], 0)
	assert.Zero(t, last["remaining_ms"])
	assert.Equal(t, string(worker.EventReconcileRepeated), lines[4].ContextMap()["event"])

	// At most one line in so long, and none of what takes less.
	core, logs = observer.New(zapcore.DebugLevel)
	l = worker.NewReconcileLog(zap.New(core), time.Hour)
	l.Progress(store.Progress{})
	l.Progress(store.Progress{Percent: 100})
	assert.Empty(t, logs.All())
}
