package main

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/pgtest"
	"tokenalert/worker"
)

// How many users may cross, how often one does, and at what percentage of their
// limit they arrive: at some thresholds over one or two others.
const (
	crossingUsers = 24_000
	crossingEvery = 10 * time.Millisecond
)

var crossingAt = []int{85, 95, 105}

// crossings is a host whose users cross a threshold one after the other, each
// once and by one row: as many are to be told as there are rows.
type crossings struct {
	*platform
	stop func()

	mu   sync.Mutex
	rows int // committed
	// cut is how often sessions were ended in the middle of what they did: each time
	// the answer to the commit of a tick may be lost, and its log lines with it.
	cut int
	err error // which the host must not see
}

// cross has users cross until stop, or until the test ends.
func (p *platform) cross(users []uuid.UUID) *crossings {
	p.t.Helper()
	conn, err := pgx.Connect(p.t.Context(), p.db.URLAs(pgtest.Writer))
	require.NoError(p.t, err)
	c := &crossings{platform: p}
	stop, stopping := context.WithCancel(context.Background())
	var writing sync.WaitGroup
	writing.Go(func() {
		defer func() { _ = conn.Close(context.Background()) }()
		pace := time.NewTicker(crossingEvery)
		defer pace.Stop()
		for n, user := range users {
			select {
			case <-stop.Done():
				return
			case <-pace.C:
			}
			_, err := conn.Exec(context.Background(), `INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used, input_tokens, output_tokens)
				VALUES ($1, $2, $3, $3, 0)`, user, p.org, crossingAt[n%len(crossingAt)])
			c.mu.Lock()
			if c.err = err; err == nil {
				c.rows++
			}
			c.mu.Unlock()
			if err != nil {
				return
			}
		}
	})
	c.stop = func() { stopping(); writing.Wait() }
	p.t.Cleanup(c.stop)
	return c
}

// crowd makes users with a limit of a hundred tokens.
func (p *platform) crowd(n int) []uuid.UUID {
	p.t.Helper()
	rows, err := p.owner.Query(p.t.Context(), `INSERT INTO users (id, organization_id, email, password_hash, full_name, monthly_token_limit)
		SELECT gen_random_uuid(), $1, n || '@example.org', 'none', 'Ada Example', 100 FROM generate_series(1, $2) AS n RETURNING id`, p.org, n)
	require.NoError(p.t, err)
	users, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	require.NoError(p.t, err)
	return users
}

// written is how many have crossed so far.
func (c *crossings) written() int {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	require.NoError(c.t, c.err, "the host's insert")
	return c.rows
}

// writes waits until n more have crossed.
func (c *crossings) writes(n int) {
	c.t.Helper()
	n += c.written()
	eventually(c.t, func() bool { return c.written() >= n }, "the host does not get on")
}

// goOn waits until n more have crossed, and they and all before them are told.
func (c *crossings) goOn(n int) {
	c.t.Helper()
	c.writes(n)
	c.caughtUp()
}

// caughtUp waits until all who have crossed by now are told.
func (c *crossings) caughtUp() {
	c.t.Helper()
	c.eventually("SELECT count(*) >= $1 FROM notifications", "who has crossed is not told", c.written())
}

// toldSoFar is how many notifications there are.
func (c *crossings) toldSoFar() int {
	c.t.Helper()
	return ask[int](c.platform, "SELECT count(*)::integer FROM notifications")
}

// longestWait is that of those who crossed from then on, by the server's clock:
// from the commit of the usage to that of the alert.
func (c *crossings) longestWait(from time.Time) time.Duration {
	c.t.Helper()
	return ask[time.Duration](c.platform, `SELECT max(pg_xact_commit_timestamp(n.xmin) - pg_xact_commit_timestamp(u.xmin))
		FROM ai_usage_logs u JOIN notifications n USING (user_id) WHERE pg_xact_commit_timestamp(u.xmin) >= $1`, from)
}

// audited holds the totals and all that was told to the rows, by plain SQL, and to
// the logs of all workers, which have ended. A change of the time zone leaves
// periods that overlap; who has crossed did it by one row, which is in each.
func (c *crossings) audited(workers []*pod, thresholds ...int) {
	c.t.Helper()
	assert.Zero(c.t, ask[int](c.platform, `SELECT count(*)::integer FROM ai_usage_logs u FULL JOIN tokenalert.usage_periods p USING (user_id)
		WHERE u.tokens_used IS DISTINCT FROM p.tokens_used`), "rows that are no total, or totals that are no row")
	c.alerted(thresholds...)
	assert.Equal(c.t, ask[int](c.platform, "SELECT count(DISTINCT user_id)::integer FROM notifications"), c.toldSoFar(), "notifications, and who has one")
	logged := []string{}
	for _, w := range workers {
		for _, line := range w.log(worker.EventAlertSent) {
			logged = append(logged, line["notification"].(string))
		}
	}
	assert.Len(c.t, slices.Compact(slices.Sorted(slices.Values(logged))), len(logged), "logged twice")
	assert.Zero(c.t, ask[int](c.platform, "SELECT count(*)::integer FROM unnest($1::uuid[]) AS id WHERE id NOT IN (SELECT id FROM notifications)", logged),
		"notifications of the log that there are not")
	assert.LessOrEqual(c.t, ask[int](c.platform, `SELECT count(DISTINCT tick_id)::integer FROM token_limit_alerts
		WHERE alert_sent AND notification_id <> ALL ($1::uuid[])`, logged), c.cut, "ticks whose notifications the log does not have")
}
