package main

import (
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
)

// platform is a migrated database of the host, beside which the binary runs
// under the runtime role.
type platform struct {
	t      *testing.T
	db     *pgtest.DB
	admin  *pgx.Conn // sees everybody's sessions
	owner  *pgx.Conn
	writer *pgx.Conn // may INSERT on ai_usage_logs and nothing else
	org    uuid.UUID
}

func newPlatform(t *testing.T) *platform {
	t.Helper()
	return platformOn(t, pgtest.New(t, pgtest.Migrated(host.CMS)))
}

// newStraightPlatform is one where the product goes past any pooler, for a test
// that waits until its sessions have ended: a pooler keeps them.
func newStraightPlatform(t *testing.T) *platform {
	t.Helper()
	return platformOn(t, pgtest.New(t, pgtest.Migrated(host.CMS)).Straight())
}

func platformOn(t *testing.T, db *pgtest.DB) *platform {
	t.Helper()
	p := &platform{t: t, db: db}
	p.connect()
	p.exec("GRANT INSERT ON ai_usage_logs TO " + pgtest.Writer)
	var err error
	p.org, err = host.NewOrganization(t.Context(), p.owner, "Example")
	require.NoError(t, err)
	return p
}

func (p *platform) connect() {
	p.t.Helper()
	p.admin = p.db.Conn(p.t)
	p.owner = p.db.ConnAs(p.t, pgtest.Owner)
	p.writer = p.db.ConnAs(p.t, pgtest.Writer)
}

// run starts a worker, with further variables.
func (p *platform) run(environment ...string) *process {
	p.t.Helper()
	return startProcess(p.t, append(runEnvironment(p.db.WorkerURLs()), environment...), "run")
}

// runEnvironment is that of a worker. listen is empty where it is the same as
// the first.
func runEnvironment(url, listen string) []string {
	return append(databaseEnvironment(url, listen), "TOKENALERT_HTTP_ADDRESS=127.0.0.1:0", "TOKENALERT_LOG_LEVEL=debug")
}

func databaseEnvironment(url, listen string) []string {
	return []string{"DATABASE_URL=" + url, "TOKENALERT_LISTEN_URL=" + listen}
}

// leads starts a worker and waits until it leads and has counted.
func (p *platform) leads(environment ...string) *process {
	p.t.Helper()
	worker := p.run(environment...)
	require.Contains(p.t, worker.awaitReady(), "leader")
	return worker
}

// follows starts a worker and waits until it waits for the lead.
func (p *platform) follows(environment ...string) *process {
	p.t.Helper()
	worker := p.run(environment...)
	require.Contains(p.t, worker.awaitReady(), "follower")
	return worker
}

// asleep waits until the bell is armed.
func (p *platform) asleep() {
	p.t.Helper()
	p.eventually("SELECT last_value > extract(epoch FROM clock_timestamp()) FROM tokenalert.doorbell", "the bell is not armed")
}

func (p *platform) exec(sql string, args ...any) {
	p.t.Helper()
	_, err := p.owner.Exec(p.t.Context(), sql, args...)
	require.NoError(p.t, err)
}

// user makes a user with a limit.
func (p *platform) user(limit int) uuid.UUID {
	p.t.Helper()
	id, err := host.NewUser(p.t.Context(), p.owner, host.User{Organization: p.org, Limit: &limit})
	require.NoError(p.t, err)
	return id
}

// use logs usage, in a transaction of its own.
func (p *platform) use(user uuid.UUID, tokens int) {
	p.t.Helper()
	_, err := p.writer.Exec(p.t.Context(), `INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used, input_tokens, output_tokens)
		VALUES ($1, $2, $3, $3, 0)`, user, p.org, tokens)
	require.NoError(p.t, err)
}

// ask returns what a query for one value returns.
func ask[T any](p *platform, sql string, args ...any) T {
	p.t.Helper()
	var value T
	require.NoError(p.t, p.admin.QueryRow(p.t.Context(), sql, args...).Scan(&value))
	return value
}

// eventually waits for a query to answer true.
func (p *platform) eventually(sql, message string, args ...any) {
	p.t.Helper()
	eventually(p.t, func() bool { return ask[bool](p, sql, args...) }, message)
}

// counted waits until the total of a user is what was used.
func (p *platform) counted(user uuid.UUID, tokens int) {
	p.t.Helper()
	p.eventually("SELECT coalesce(sum(tokens_used), 0) >= $2 FROM tokenalert.usage_periods WHERE user_id = $1",
		"usage is not counted", user, tokens)
	assert.Equal(p.t, tokens, ask[int](p, "SELECT sum(tokens_used)::integer FROM tokenalert.usage_periods WHERE user_id = $1", user))
}

// told lists the thresholds of a user's alerts that say that they were told,
// and holds the notifications to them.
func (p *platform) told(user uuid.UUID) []int {
	p.t.Helper()
	rows, err := p.owner.Query(p.t.Context(), `SELECT a.alert_threshold FROM token_limit_alerts a
		JOIN notifications n ON n.id = a.notification_id AND n.user_id = a.user_id
		WHERE a.alert_sent AND a.user_id = $1 ORDER BY 1`, user)
	require.NoError(p.t, err)
	told, err := pgx.CollectRows(rows, pgx.RowTo[int])
	require.NoError(p.t, err)
	assert.Len(p.t, told, ask[int](p, "SELECT count(*)::integer FROM notifications WHERE user_id = $1", user), "notifications")
	return told
}

// held waits until a tick is held.
func (p *platform) held() {
	p.t.Helper()
	p.eventually(`SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
		AND application_name = 'tokenalert tick' AND wait_event = 'PgSleep')`, "no tick is held")
}
