package store_test

import (
	"fmt"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/store"
)

// Ten transactions of three rows each: a tick that is cut ends between two.
func TestABoundedTickEndsBetweenTransactions(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		slice int64
		rows  []int64 // of each tick
	}{
		{slice: 1, rows: []int64{3, 3, 3, 3, 3, 3, 3, 3, 3, 3}},
		{slice: 5, rows: []int64{3, 3, 3, 3, 3, 3, 3, 3, 3, 3}},
		{slice: 6, rows: []int64{6, 6, 6, 6, 6}},
		{slice: 29, rows: []int64{27, 3}},
		{slice: 50, rows: []int64{30}},
	} {
		t.Run(fmt.Sprint("slice ", tt.slice), func(t *testing.T) {
			t.Parallel()
			c := newCounter(t, host.CMS)
			c.slice = tt.slice
			user := c.user(0)
			for range 10 {
				c.exec(`INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used) SELECT $1, $2, 7 FROM generate_series(1, 3)`, user, c.org)
			}
			var rows []int64
			var counted int64
			for {
				result := c.count(store.Window)
				if !result.Work() {
					break
				}
				rows = append(rows, result.Rows)
				counted += result.Rows
				assert.Equal(t, 7*counted, c.total(user))
				assert.Equal(t, result.Bounded, result.Oldest != nil)
				if len(rows) < len(tt.rows) {
					assert.True(t, result.More(), "it left something")
				}
			}
			assert.Equal(t, tt.rows, rows)
			c.requireTotals()
		})
	}
}

func TestABoundedTickTakesATransactionThatIsBiggerThanTheSlice(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	user := c.user(0)
	c.settle()
	c.slice = 5
	c.exec(`INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used) SELECT $1, $2, 1 FROM generate_series(1, 500)`, user, c.org)
	c.use(user, 1000)
	assert.EqualValues(t, 500, c.tick().Rows)
	assert.EqualValues(t, 500, c.total(user))
	assert.EqualValues(t, 1, c.tick().Rows)
	assert.EqualValues(t, 1500, c.total(user))
	assert.Zero(t, c.settle())
}

// begin opens a transaction that has written usage, and returns its id.
func (c *counter) begin(user uuid.UUID, tokens int) (pgx.Tx, string) {
	c.t.Helper()
	tx, err := c.session().owner.Begin(c.t.Context())
	require.NoError(c.t, err)
	require.NoError(c.t, host.LogUsage(c.t.Context(), tx, user, c.org, tokens))
	var id string
	require.NoError(c.t, tx.QueryRow(c.t.Context(), "SELECT pg_current_xact_id()::text").Scan(&id))
	return tx, id
}

// The snapshot in the chain names a transaction if and only if it lies below
// where the tick ended and had itself ended.
func TestTheChainNamesExactlyTheTransactionsThatHaveEnded(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	user := c.user(0)
	c.settle()
	const committed, rolledBack, open = "committed", "rolled back", "open"
	state := map[string]string{}
	var held []pgx.Tx
	for i := range 12 {
		tx, id := c.begin(user, 1<<i)
		switch i % 4 {
		case 1:
			require.NoError(t, tx.Rollback(t.Context()))
			state[id] = rolledBack
		case 3:
			held = append(held, tx)
			state[id] = open
		default:
			require.NoError(t, tx.Commit(t.Context()))
			state[id] = committed
		}
	}
	check := func() {
		t.Helper()
		const visible = `SELECT $1::xid8 < pg_snapshot_xmax(snapshot), pg_visible_in_snapshot($1::xid8, snapshot)
			FROM tokenalert.ticks ORDER BY id DESC LIMIT 1`
		for id, s := range state {
			var below, named bool
			require.NoError(t, c.owner.QueryRow(t.Context(), visible, id).Scan(&below, &named))
			assert.Equal(t, below && s != open, named, "transaction %s, %s", id, s)
		}
	}
	c.slice = 1
	bounded := 0
	for range 6 {
		if c.tick().Bounded {
			bounded++
		}
		check()
	}
	assert.Equal(t, 5, bounded)
	assert.EqualValues(t, 0b010101010101, c.total(user))
	assert.Zero(t, c.settle())
	for _, tx := range held {
		require.NoError(t, tx.Commit(t.Context()))
	}
	for id, s := range state {
		if s == open {
			state[id] = committed
		}
	}
	assert.EqualValues(t, len(held), c.tick().Rows, "all that had ended come at once")
	check()
	assert.EqualValues(t, 0b110111011101, c.total(user))
	c.requireTotals()
}

func TestATransactionThatStraddlesTicksIsCountedOnce(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	user := c.user(0)
	early, _ := c.begin(user, 1)
	c.use(user, 10)
	c.tick()
	assert.EqualValues(t, 10, c.total(user))
	late, _ := c.begin(user, 100)
	for range 3 {
		c.use(user, 1000)
		c.tick()
	}
	assert.EqualValues(t, 3010, c.total(user))

	require.NoError(t, early.Commit(t.Context()))
	assert.EqualValues(t, 1, c.tick().Rows)
	assert.EqualValues(t, 3011, c.total(user))
	require.NoError(t, host.LogUsage(t.Context(), late, user, c.org, 10_000))
	assert.Zero(t, c.settle())
	require.NoError(t, late.Commit(t.Context()))
	assert.EqualValues(t, 2, c.tick().Rows)
	assert.Zero(t, c.settle())
	assert.EqualValues(t, 13_111, c.total(user))
	c.requireTotals()
}

func TestAnOpenBulkLoadInTheMiddleIsLeftForLater(t *testing.T) {
	t.Parallel()
	for _, slice := range []int64{1, 5, 100_000} {
		t.Run(fmt.Sprint("slice ", slice), func(t *testing.T) {
			t.Parallel()
			c := newCounter(t, host.CMS)
			user := c.user(0)
			c.settle()
			c.slice = slice
			c.use(user, 1)
			load, _ := c.begin(user, 0)
			_, err := load.Exec(t.Context(), `INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used)
				SELECT $1, $2, 10 FROM generate_series(1, 5000)`, user, c.org)
			require.NoError(t, err)
			abandoned, _ := c.begin(user, 1_000_000)
			for range 10 {
				c.use(user, 1)
			}
			c.settle()
			assert.EqualValues(t, 11, c.total(user))
			c.use(user, 1)
			c.settle()
			assert.EqualValues(t, 12, c.total(user))

			require.NoError(t, load.Commit(t.Context()))
			require.NoError(t, abandoned.Rollback(t.Context()))
			c.settle()
			assert.EqualValues(t, 50_012, c.total(user))
			assert.Equal(t, 5013, ask[int](c.site, "SELECT sum(rows)::integer FROM tokenalert.ticks"))
			c.requireTotals()
		})
	}
}

func TestSavepointsAreCountedWithTheirTransaction(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	user := c.user(0)
	tx, _ := c.begin(user, 1)
	kept, err := tx.Begin(t.Context())
	require.NoError(t, err)
	require.NoError(t, host.LogUsage(t.Context(), kept, user, c.org, 10))
	require.NoError(t, kept.Commit(t.Context()))
	dropped, err := tx.Begin(t.Context())
	require.NoError(t, err)
	require.NoError(t, host.LogUsage(t.Context(), dropped, user, c.org, 100))
	c.use(user, 1000)
	c.tick()
	assert.EqualValues(t, 1000, c.total(user))
	require.NoError(t, dropped.Rollback(t.Context()))
	require.NoError(t, tx.Commit(t.Context()))
	assert.EqualValues(t, 2, c.tick().Rows)
	assert.EqualValues(t, 1011, c.total(user))
}

func TestACopyOf100000RowsIsCountedByOneTick(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	users := []uuid.UUID{c.user(1000), c.user(0), c.user(1_000_000)}
	c.settle()
	c.slice = 1000
	n, err := c.owner.CopyFrom(t.Context(), pgx.Identifier{"ai_usage_logs"}, []string{"user_id", "organization_id", "tokens_used"},
		pgx.CopyFromSlice(100_000, func(i int) ([]any, error) { return []any{users[i%3], c.org, 1}, nil }))
	require.NoError(t, err)
	require.EqualValues(t, 100_000, n)
	result := c.tick()
	assert.EqualValues(t, 100_000, result.Rows)
	assert.EqualValues(t, 3, result.Users)
	assert.Equal(t, []int64{33_334, 33_333, 33_333}, []int64{c.total(users[0]), c.total(users[1]), c.total(users[2])})
	assert.Equal(t, []string{"80 told"}, c.alerts(users[0]))
	assert.Zero(t, c.settle())
	c.requireTotals()
}

func TestAnEmptyTickExtendsNothing(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	user := c.user(0)
	c.use(user, 1)
	c.settle()
	before := c.lastTick()
	rolledBack, _ := c.begin(user, 5)
	require.NoError(t, rolledBack.Rollback(t.Context()))
	result := c.count(store.Window)
	assert.False(t, result.Work())
	assert.Equal(t, before, c.lastTick())
}
