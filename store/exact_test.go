package store_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/store"
)

// A server of its own, because the shared one allows no prepared transactions.
func TestEveryTokenIsCountedOnce(t *testing.T) {
	t.Parallel()
	in := pgtest.StartServer(t, map[string]string{"max_prepared_transactions": "50"})
	t.Run("under writers of every kind", func(t *testing.T) {
		t.Parallel()
		storm{in: in}.run(t)
	})
	t.Run("under writers and corrections", func(t *testing.T) {
		t.Parallel()
		storm{in: in, corrections: true}.run(t)
	})
	t.Run("prepared and committed ticks later", func(t *testing.T) {
		t.Parallel()
		c := counterOn(t, siteOn(t, in.New(t, pgtest.Migrated(host.CMS))))
		user := c.user(0)
		prepare := func(name string, tokens int) {
			s := c.session()
			s.exec("BEGIN")
			s.use(user, tokens)
			s.exec("PREPARE TRANSACTION '" + name + "'")
			require.NoError(t, s.owner.Close(t.Context()))
		}
		prepare("kept", 1)
		prepare("dropped", 10)
		for range 3 {
			c.use(user, 100)
			c.tick()
		}
		assert.EqualValues(t, 300, c.total(user))
		c.exec("COMMIT PREPARED 'kept'")
		c.exec("ROLLBACK PREPARED 'dropped'")
		assert.EqualValues(t, 1, c.tick().Rows)
		assert.EqualValues(t, 301, c.total(user))
		assert.Zero(t, c.settle())
		c.requireTotals()
	})
}

// storm is many writers at once, two tickers with small slices, and a second
// opinion in between.
type storm struct {
	in          *pgtest.Instance
	corrections bool
}

// What a storm is made of. The writers stop by themselves.
const (
	stormWriters = 8
	stormUsers   = 5
	stormFor     = 3 * time.Second
)

func (s storm) run(t *testing.T) {
	t.Helper()
	c := counterOn(t, siteOn(t, s.in.New(t, pgtest.Migrated(host.CMS))))
	var users []uuid.UUID
	for range stormUsers {
		users = append(users, c.user(1_000_000))
	}
	c.settle()

	var writers, tickers sync.WaitGroup
	stop := make(chan struct{})
	until := time.Now().Add(stormFor)
	for n := range stormWriters {
		conn := c.session().owner
		writers.Go(func() {
			for i := 0; time.Now().Before(until); i++ {
				if err := s.write(t.Context(), conn, c.org, users, fmt.Sprintf("%s_%d_%d", c.db.Name, n, i)); err != nil {
					t.Error("a writer of the host:", err)
					return
				}
			}
		})
	}
	var collisions, bounded int64
	for n := range 2 {
		tickers.Go(func() {
			took, err := s.tick(t.Context(), c, stop, rand.New(rand.NewPCG(1, uint64(n))))
			if err != nil {
				t.Error("ticker:", err)
			}
			if n == 0 {
				bounded = took.bounded
			} else {
				collisions = took.collided
			}
		})
	}
	tickers.Go(func() {
		for opinions := 0; ; opinions++ {
			select {
			case <-stop:
				assert.Positive(t, opinions)
				return
			default:
			}
			opinion, err := c.store.Reconcile(t.Context(), c.periods, nil)
			if err != nil {
				t.Error("reconcile:", err)
				return
			}
			assert.Empty(t, opinion.Differences, "totals that differ from the rows between ticks")
		}
	})
	writers.Wait()
	close(stop)
	tickers.Wait()
	c.settle()

	c.requireTotals()
	rows := ask[int64](c.site, "SELECT count(*) FROM ai_usage_logs")
	assert.Greater(t, rows, int64(100), "too little was written to mean anything")
	if !s.corrections {
		assert.Equal(t, rows, ask[int64](c.site, "SELECT sum(rows)::bigint FROM tokenalert.ticks"))
	}
	assert.Zero(t, ask[int](c.site, "SELECT count(*) FROM pg_prepared_xacts WHERE database = $1", c.db.Name))
	t.Logf("%d rows in %d ticks; one ticker was cut %d times, the other collided %d times", rows, c.lastTick(), bounded, collisions)
}

// write is one transaction of the host, long or short.
func (s storm) write(ctx context.Context, conn *pgx.Conn, org uuid.UUID, users []uuid.UUID, name string) error {
	exec := func(sql string, args ...any) error {
		_, err := conn.Exec(ctx, sql, args...)
		return err
	}
	use := func() error {
		return exec(`INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used) SELECT $1, $2, g FROM generate_series(1, $3) AS g`,
			users[rand.N(len(users))], org, 1+rand.N(8))
	}
	pause := func() error { return exec("SELECT pg_sleep($1)", rand.Float64()/10) }
	correct := func() error {
		if !s.corrections {
			return use()
		}
		// Rows are taken without waiting, so that no writer deadlocks with another.
		const some = `(SELECT id FROM ai_usage_logs TABLESAMPLE system (50) LIMIT 2 FOR UPDATE SKIP LOCKED)`
		switch rand.N(3) {
		case 0:
			return exec("UPDATE ai_usage_logs SET tokens_used = tokens_used + 3 WHERE id IN " + some)
		case 1:
			return exec("UPDATE ai_usage_logs SET user_id = $1 WHERE id IN "+some, users[rand.N(len(users))])
		default:
			return exec("DELETE FROM ai_usage_logs WHERE id IN " + some)
		}
	}
	steps := []func() error{func() error { return exec("BEGIN") }, use}
	switch rand.N(6) {
	case 0: // rolled back
		steps = append(steps, use, func() error { return exec("ROLLBACK") })
	case 1: // savepoints
		steps = append(steps, func() error { return exec("SAVEPOINT one") }, use, func() error { return exec("ROLLBACK TO one") },
			use, func() error { return exec("SAVEPOINT two") }, use, func() error { return exec("RELEASE two") },
			func() error { return exec("COMMIT") })
	case 2: // long
		steps = append(steps, pause, use, pause, func() error { return exec("COMMIT") })
	case 3: // in two phases
		end := "COMMIT"
		if rand.N(3) == 0 {
			end = "ROLLBACK"
		}
		steps = append(steps, func() error { return exec("PREPARE TRANSACTION '" + name + "'") }, pause,
			func() error { return exec(end + " PREPARED '" + name + "'") })
	case 4:
		steps = append(steps, correct, func() error { return exec("COMMIT") })
	default:
		steps = append(steps, func() error { return exec("COMMIT") })
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

type ticking struct{ bounded, collided int64 }

// tick ticks with slices of 1 to 20 rows until stop, as a worker that believes
// that it leads.
func (s storm) tick(ctx context.Context, c *counter, stop <-chan struct{}, random *rand.Rand) (ticking, error) {
	var took ticking
	own, err := store.Open(c.db.WorkerURLs())
	if err != nil {
		return took, err
	}
	defer own.Close()
	for {
		select {
		case <-stop:
			return took, nil
		default:
		}
		q := c.request(store.Window)
		q.Slice = 1 + random.Int64N(20)
		result, err := own.Tick(ctx, q, func(_ store.Kind, now time.Time, candidates []store.Candidate) []store.Decision {
			return tellAt80(now, candidates)
		})
		switch {
		case errors.Is(err, store.ErrCollided):
			took.collided++
		case err != nil && !store.IsTransient(err):
			return took, err
		case result.Bounded:
			took.bounded++
		}
	}
}
