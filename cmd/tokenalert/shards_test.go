package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/worker"
)

// shard is one of the databases over which a host spreads its users, with the
// worker that counts there.
type shard struct {
	*platform
	worker *process
}

// alike are the settings of the workers of all shards, their names too. Nobody
// who sleeps is woken by a look within a test: whoever is told was rung for.
var alike = []string{
	"TOKENALERT_WORKER_NAME=worker", "TOKENALERT_LEAD_RETRY=100ms",
	"TOKENALERT_BELL_RENEWAL=1m", "TOKENALERT_BELL_LEASE=5m",
}

// TestShardsShareNothing: users of the same ids are in both databases, with other
// limits and other usage. Each worker leads, counts and tells as if it were alone.
func TestShardsShareNothing(t *testing.T) {
	t.Parallel()
	t.Run("on two servers", func(t *testing.T) {
		t.Parallel()
		in := pgtest.StartServer(t, nil)
		// Straight: a pooler waits before it asks again a server that was down.
		one := newShard(t, in.New(t, pgtest.Migrated(host.CMS)).Straight())
		other := newShard(t, pgtest.New(t, pgtest.Migrated(host.CMS)).Straight())
		require.NotEqual(t, one.cluster(), other.cluster())
		writeAtOnce(one, other)

		// One goes down in the middle of a tick, before it has told somebody.
		late := one.user(1000)
		one.db.HoldTicks(t)
		one.use(late, 850)
		one.held()
		require.NoError(t, in.Server().StopImmediate(t.Context()))
		other.tells()
		one.worker.await(worker.EventLeaderLost, 1)
		other.tells()
		other.audited()

		require.NoError(t, in.Server().Restart(t.Context()))
		one.connect()
		one.counted(late, 850)
		assert.Equal(t, []int{80}, one.told(late))
		one.tells()
		one.audited()
		assert.Len(t, other.worker.log(worker.EventLeaderAcquired), 1)
		one.worker.terminate()
		other.worker.terminate()
	})
	t.Run("in one cluster", func(t *testing.T) {
		t.Parallel()
		one := newShard(t, pgtest.New(t, pgtest.Migrated(host.CMS)))
		other := newShard(t, pgtest.New(t, pgtest.Migrated(host.CMS)))
		require.Equal(t, one.cluster(), other.cluster())
		writeAtOnce(one, other)

		one.asleep()
		other.asleep()
		rings, ticks := other.worker.metric(rung), other.ticks()
		one.tells()
		assert.Equal(t, rings, other.worker.metric(rung), "one's usage rings for the other")
		assert.Equal(t, ticks, other.ticks(), "one's usage makes the other tick")
		other.tells()
		assert.Greater(t, other.worker.metric(rung), rings)

		// The transaction ids are the cluster's: what stays open in one ends no
		// window of the other.
		late := one.user(1000)
		open, err := one.owner.Begin(t.Context())
		require.NoError(t, err)
		require.NoError(t, host.LogUsage(t.Context(), open, late, one.org, 10))
		other.tells()
		release := one.db.HoldTicks(t)
		one.use(late, 850)
		one.held()
		other.tells()
		require.NoError(t, open.Commit(t.Context()))
		release()
		one.counted(late, 860)
		assert.Equal(t, []int{80}, one.told(late))
		one.audited()

		one.worker.terminate()
		assert.Empty(t, one.leader())
		assert.Equal(t, "worker", other.leader())
		other.tells()
		one.worker = one.leads(alike...)
		one.tells()
		other.audited()
		assert.Len(t, other.worker.log(worker.EventLeaderAcquired), 1)
		one.worker.terminate()
		other.worker.terminate()
	})
}

// rung is the series of how often a worker has heard the bell.
const rung = "tokenalert_rings_total"

func newShard(t *testing.T, db *pgtest.DB) *shard {
	t.Helper()
	return &shard{platform: platformOn(t, db)}
}

// writeAtOnce has two workers lead, and users of the same ids use tokens in both
// shards at once. The limits in one are those in the other in reverse.
func writeAtOnce(one, other *shard) {
	t := one.t
	t.Helper()
	limits := []int{10, 50, 100, 150, 200, 250, 300, 400, 1_000_000}
	users := make([]uuid.UUID, len(limits))
	for n := range users {
		users[n] = uuid.New()
		one.enter(users[n], limits[n])
		other.enter(users[n], limits[len(limits)-1-n])
	}
	both := uuid.New() // whose limit and usage are the same in both
	for _, s := range []*shard{one, other} {
		s.enter(both, 1000)
		s.worker = s.leads(alike...)
	}
	loads := []*traffic{one.drive(users, one.db), other.drive(users, other.db)}
	for _, l := range loads {
		l.goOn(t, 200)
	}
	for _, l := range loads {
		l.stop()
	}
	for _, s := range []*shard{one, other} {
		s.use(both, 850)
		s.audited()
		assert.Contains(t, s.worker.awaitReady(), "leader")
	}
	first, last := users[0], users[len(users)-1]
	assert.Len(t, one.ids(first), 3)
	assert.Empty(t, one.ids(last))
	assert.Empty(t, other.ids(first))
	assert.Len(t, other.ids(last), 3)
	// Who stands the same in both is told in both, under the same ids.
	assert.Equal(t, []int{80}, one.told(both))
	assert.Equal(t, one.ids(both), other.ids(both))
}

// enter makes a user of a given id.
func (s *shard) enter(id uuid.UUID, limit int) {
	s.t.Helper()
	s.exec(`INSERT INTO users (id, organization_id, email, password_hash, full_name, monthly_token_limit)
		VALUES ($1::uuid, $2, $1::uuid || '@example.org', 'none', 'Ada Example', $3)`, id, s.org, limit)
}

// tells has a new user cross, and waits until that one is told.
func (s *shard) tells() {
	s.t.Helper()
	user := s.user(1000)
	s.corrected()
	s.use(user, 850)
	s.eventually("SELECT EXISTS (SELECT FROM notifications WHERE user_id = $1)", "nobody is told", user)
	assert.Equal(s.t, []int{80}, s.told(user))
}

// corrected waits until no correction is left, as a new user is one, which counts
// what the user has used by then: what comes later is for a tick's window.
func (s *shard) corrected() {
	s.t.Helper()
	s.eventually("SELECT NOT EXISTS (SELECT FROM tokenalert.recounts)", "corrections are left")
}

// audited holds all that a worker did to the rows of its own shard, by plain SQL:
// the totals and the alerts, the chain, which has counted each row once and names
// its own cluster, and the log, which names its own alerts.
func (s *shard) audited() {
	s.t.Helper()
	s.settled()
	assert.Equal(s.t, ask[int](s.platform, "SELECT count(*)::integer FROM ai_usage_logs"),
		ask[int](s.platform, "SELECT sum(rows)::integer FROM tokenalert.ticks"), "rows that the ticks have counted")
	assert.Equal(s.t, []string{s.cluster()},
		ask[[]string](s.platform, "SELECT array_agg(DISTINCT system_identifier::text) FROM tokenalert.ticks"))
	told := ask[int](s.platform, "SELECT count(*)::integer FROM notifications")
	eventually(s.t, func() bool { return len(s.worker.log(worker.EventAlertSent)) >= told }, "what was told is not logged")
	var logged []string
	for _, line := range s.worker.log(worker.EventAlertSent) {
		assert.Equal(s.t, s.org.String(), line["organization"])
		logged = append(logged, line["notification"].(string))
	}
	assert.ElementsMatch(s.t, ask[[]string](s.platform, "SELECT array_agg(id::text) FROM notifications"), logged)
}

// cluster identifies the shard's.
func (s *shard) cluster() string {
	s.t.Helper()
	return ask[string](s.platform, "SELECT system_identifier::text FROM pg_control_system()")
}

// ticks is how long the chain is.
func (s *shard) ticks() int {
	s.t.Helper()
	return ask[int](s.platform, "SELECT count(*)::integer FROM tokenalert.ticks")
}

// leader is the name of whoever leads, as `tokenalert status` has it; empty:
// nobody.
func (s *shard) leader() string {
	s.t.Helper()
	status, stdout, stderr := typed(s.t, databaseEnvironment(s.db.URLs(pgtest.Runtime)), "status", "--output", "json")
	require.Equal(s.t, 0, status, stderr)
	var said struct{ Leader *struct{ Worker string } }
	require.NoError(s.t, json.Unmarshal([]byte(stdout), &said))
	if said.Leader == nil {
		return ""
	}
	return said.Leader.Worker
}

// TestAUserMovesToAnotherShard with what they used and what they were told, which
// nobody tells them again there.
func TestAUserMovesToAnotherShard(t *testing.T) {
	t.Parallel()
	one, other := newShard(t, pgtest.New(t, pgtest.Migrated(host.CMS))), newShard(t, pgtest.New(t, pgtest.Migrated(host.CMS)))
	user := one.user(1000)
	first, second := one.leads(alike...), other.leads(alike...)
	one.use(user, 850)
	one.counted(user, 850)
	first.terminate()
	before := one.ids(user)
	require.Len(t, before, 1)

	for _, table := range []struct{ columns, rows string }{
		{"*", "organizations WHERE id = (SELECT organization_id FROM users WHERE id = $1)"},
		{"*", "users WHERE id = $1"},
		{"*", "token_limit_alerts WHERE user_id = $1"},
		{"*", "notifications WHERE user_id = $1"},
		{"id, user_id, organization_id, tokens_used, created_at", "ai_usage_logs WHERE user_id = $1"}, // no xact_id
	} {
		one.copyTo(other, table.columns, table.rows, user)
		other.corrected()
	}
	one.exec("DELETE FROM users WHERE id = $1", user)
	second.await(worker.EventAlertSuppressed, 1)
	assert.Equal(t, string(worker.ReasonAlreadyTold), second.log(worker.EventAlertSuppressed)[0]["reason"])
	other.counted(user, 850)
	assert.Equal(t, before, other.ids(user))
	other.use(user, 50)
	other.counted(user, 900)
	assert.Equal(t, []int{80, 90}, other.told(user))
	other.settled()
	second.terminate()
}

// copyTo copies columns of a user's rows to another shard.
func (s *shard) copyTo(other *shard, columns, rows string, user uuid.UUID) {
	s.t.Helper()
	table, _, _ := strings.Cut(rows, " ")
	copied := ask[string](s.platform, "SELECT json_agg(r)::text FROM (SELECT "+columns+" FROM "+rows+") r", user)
	other.exec("INSERT INTO "+table+" "+strings.Replace("("+columns+")", "(*)", "", 1)+
		" SELECT "+columns+" FROM json_populate_recordset(NULL::"+table+", $1)", copied)
}
