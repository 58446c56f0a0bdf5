package worker_test

import (
	"context"
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

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/store"
	"tokenalert/worker"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// settleWithin bounds how long a test waits for what must come. It is never
// waited for in full but by a test that fails.
const settleWithin = 20 * time.Second

// world is a migrated database with an organization, seen by the host's owner,
// by a writer with INSERT on ai_usage_logs and nothing else, and by workers
// under the runtime role.
type world struct {
	t      *testing.T
	db     *pgtest.DB
	owner  *pgx.Conn
	writer *pgx.Conn
	store  *store.Store
	org    uuid.UUID
	// deliverBy are the channels of the workers that are started.
	deliverBy []string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return worldOn(t, pgtest.New(t, pgtest.Migrated(host.CMS)))
}

func worldOn(t *testing.T, db *pgtest.DB) *world {
	t.Helper()
	w := &world{t: t, db: db, owner: db.ConnAs(t, pgtest.Owner)}
	w.ownerExec("GRANT INSERT ON ai_usage_logs TO " + pgtest.Writer)
	w.writer = db.ConnAs(t, pgtest.Writer)
	var err error
	w.store, err = store.Open(db.WorkerURLs())
	require.NoError(t, err)
	t.Cleanup(w.store.Close)
	w.org, err = host.NewOrganization(t.Context(), w.owner, "Example")
	require.NoError(t, err)
	return w
}

// user makes a user with a limit and the reset day 1.
func (w *world) user(limit int) uuid.UUID {
	w.t.Helper()
	return w.newUser(host.User{Limit: &limit})
}

func (w *world) newUser(u host.User) uuid.UUID {
	w.t.Helper()
	u.Organization = w.org
	id, err := host.NewUser(w.t.Context(), w.owner, u)
	require.NoError(w.t, err)
	return id
}

// use logs usage as the writer, in a transaction of its own.
func (w *world) use(user uuid.UUID, tokens int) {
	w.t.Helper()
	w.insert(w.writer, user, tokens, nil)
}

// useAt logs usage with a created_at.
func (w *world) useAt(user uuid.UUID, tokens int, at time.Time) {
	w.t.Helper()
	w.insert(w.writer, user, tokens, &at)
}

// insert logs usage on conn, which may be within a transaction.
func (w *world) insert(conn host.DB, user uuid.UUID, tokens int, at *time.Time) {
	w.t.Helper()
	_, err := conn.Exec(w.t.Context(), `INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used, input_tokens, output_tokens, created_at)
		VALUES ($1, $2, $3, $3, 0, coalesce($4, now()))`, user, w.org, tokens, at)
	require.NoError(w.t, err)
}

func (w *world) ownerExec(sql string, args ...any) {
	w.t.Helper()
	_, err := w.owner.Exec(w.t.Context(), sql, args...)
	require.NoError(w.t, err)
}

// alert is a row of token_limit_alerts.
type alert struct {
	Threshold   int
	Sent        bool
	Reason      string // "" where told
	TokensUsed  int64
	TokenLimit  int64
	Percent     float64
	PeriodStart time.Time
}

// alerts lists a user's alert rows, by period, limit and threshold.
func (w *world) alerts(user uuid.UUID) []alert {
	w.t.Helper()
	rows, err := w.owner.Query(w.t.Context(), `SELECT alert_threshold, alert_sent, coalesce(reason::text, ''), tokens_used, token_limit,
		percent_used::float8, period_start FROM token_limit_alerts WHERE user_id = $1 ORDER BY period_start, token_limit, alert_threshold`, user)
	require.NoError(w.t, err)
	alerts, err := pgx.CollectRows(rows, pgx.RowToStructByPos[alert])
	require.NoError(w.t, err)
	return alerts
}

// told lists the thresholds that a user was told, in the order of alerts.
func (w *world) told(user uuid.UUID) []int {
	w.t.Helper()
	told := []int{}
	for _, a := range w.alerts(user) {
		if a.Sent {
			told = append(told, a.Threshold)
		}
	}
	return told
}

// notification is a row of notifications.
type notification struct{ Title, Message, Type, Link string }

func (w *world) notifications(user uuid.UUID) []notification {
	w.t.Helper()
	rows, err := w.owner.Query(w.t.Context(), `SELECT title, message, notification_type, link_url
		FROM notifications WHERE user_id = $1 ORDER BY created_at, id`, user)
	require.NoError(w.t, err)
	n, err := pgx.CollectRows(rows, pgx.RowToStructByPos[notification])
	require.NoError(w.t, err)
	return n
}

// total is the running total of a user's period that began last.
func (w *world) total(user uuid.UUID) int64 {
	w.t.Helper()
	var total int64
	require.NoError(w.t, w.owner.QueryRow(w.t.Context(), `SELECT coalesce((SELECT tokens_used FROM tokenalert.usage_periods
		WHERE user_id = $1 ORDER BY period_start DESC LIMIT 1), 0)::bigint`, user).Scan(&total))
	return total
}

// assertTotals compares every total with a sum by plain SQL; users must have the
// reset day 1, and the zone be UTC.
func (w *world) assertTotals() {
	w.t.Helper()
	var differing int
	require.NoError(w.t, w.owner.QueryRow(w.t.Context(), `SELECT count(*) FROM (
		SELECT user_id, date_trunc('month', created_at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' AS period_start, sum(tokens_used) AS tokens
		FROM ai_usage_logs GROUP BY 1, 2) u
		FULL JOIN tokenalert.usage_periods p USING (user_id, period_start)
		WHERE coalesce(u.tokens, 0) <> coalesce(p.tokens_used, 0)`).Scan(&differing))
	assert.Zero(w.t, differing, "totals that differ from the rows")
}

// replica is a worker that runs in this process.
type replica struct {
	world  *world
	logs   *observer.ObservedLogs
	cancel context.CancelFunc
	done   chan struct{}
	err    error
	ended  atomic.Bool
	health *worker.Health

	metrics *worker.Metrics
}

// config is what tests' workers run with, unless they change it.
func config() worker.Config {
	c := worker.DefaultConfig()
	c.LeadRetry = 100 * time.Millisecond
	return c
}

// start runs a worker until the test ends or stop is called. Each change is
// applied to its settings.
func (w *world) start(changes ...func(*worker.Config)) *replica {
	w.t.Helper()
	return w.startAs(w.configured(changes))
}

func (w *world) configured(changes []func(*worker.Config)) worker.Config {
	w.t.Helper()
	c := config()
	for _, change := range changes {
		change(&c)
	}
	require.NoError(w.t, c.Validate())
	return c
}

// ticker is the loop of a worker that has looked which settings are in force, and
// ticks when it is told to.
func (w *world) ticker(changes ...func(*worker.Config)) func() (bool, error) {
	w.t.Helper()
	daemon, s, _ := w.daemon(w.configured(changes), zap.NewNop(), worker.NewMetrics("test", "test"))
	w.t.Cleanup(s.Close)
	tick, err := daemon.Ticker(w.t.Context())
	require.NoError(w.t, err)
	return tick
}

// ticks ticks once, and reports whether there was work.
func (w *world) ticks(tick func() (bool, error)) bool {
	w.t.Helper()
	worked, err := tick()
	require.NoError(w.t, err)
	return worked
}

// daemon is a worker that does not run yet, and what it has: the store is for
// whoever runs it to close.
func (w *world) daemon(c worker.Config, log *zap.Logger, metrics *worker.Metrics) (*worker.Worker, *store.Store, *worker.Health) {
	w.t.Helper()
	s, err := store.Open(w.db.WorkerURLs())
	require.NoError(w.t, err)
	health := worker.NewHealth(time.Now, worker.HealthBounds{Live: 90 * time.Second, Answer: 10 * time.Second, Tick: 30 * time.Second})
	daemon, err := worker.New(c, s, log, metrics, health)
	require.NoError(w.t, err)
	return daemon, s, health
}

func (w *world) startAs(c worker.Config) *replica {
	w.t.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	metrics := worker.NewMetrics("test", "test")
	daemon, s, health := w.daemon(c, zap.New(core), metrics)
	daemon.DeliverBy(w.deliverBy...)
	ctx, cancel := context.WithCancel(context.Background())
	r := &replica{world: w, logs: logs, cancel: cancel, done: make(chan struct{}), health: health, metrics: metrics}
	go func() {
		defer close(r.done)
		defer s.Close()
		r.err = daemon.Run(ctx)
		r.ended.Store(true)
	}()
	w.t.Cleanup(r.stop)
	return r
}

// stop stops the worker gracefully and waits for it.
func (r *replica) stop() {
	r.cancel()
	select {
	case <-r.done:
	case <-time.After(settleWithin):
		r.world.t.Error("the worker did not stop")
	}
}

// lines are the log lines of an event so far.
func (r *replica) lines(event worker.EventName) []observer.LoggedEntry {
	return r.logs.FilterField(worker.Event(event)).All()
}

// await waits until the worker has logged an event.
func (r *replica) await(event worker.EventName) observer.LoggedEntry {
	r.world.t.Helper()
	r.world.eventually(func() bool { return len(r.lines(event)) > 0 }, "no log line "+string(event))
	return r.lines(event)[0]
}

// asleep waits until the worker sleeps on the bell behind its barrier: nothing
// is uncounted, and whatever commits from here on rings.
func (r *replica) asleep() {
	r.world.t.Helper()
	r.await(worker.EventBellArmed)
	r.world.settle()
}

// eventually waits for a condition.
func (w *world) eventually(condition func() bool, message string) {
	w.t.Helper()
	for deadline := time.Now().Add(settleWithin); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			require.FailNow(w.t, message)
		}
	}
}

// settle waits until everything that has committed is counted and told.
func (w *world) settle() {
	w.t.Helper()
	w.eventually(func() bool {
		p, err := w.store.Poll(w.t.Context())
		require.NoError(w.t, err)
		return !p.Work
	}, "there is work that nobody does")
}
