package main

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/worker"
)

// pair is a primary with a platform, and its standby.
type pair struct {
	*platform
	primary, standby *pgtest.Instance
	there            *pgtest.DB // the platform's database on the standby
}

// newPair has a standby with settings of its own, which streams.
func newPair(t *testing.T, settings map[string]string) *pair {
	t.Helper()
	in := pgtest.StartServer(t, nil)
	p := &pair{platform: platformOn(t, in.New(t, pgtest.Migrated(host.CMS))), primary: in}
	p.standby = in.Standby(t, settings)
	p.there = p.standby.Of(p.db)
	p.eventually("SELECT EXISTS (SELECT FROM pg_stat_replication WHERE state = 'streaming')", "the standby does not stream")
	return p
}

// hosts starts a worker with the servers of databases in its URL, in this order.
func (p *pair) hosts(parameters string, databases []*pgtest.DB, environment ...string) *process {
	p.t.Helper()
	url := pgtest.HostsURL(p.t, pgtest.Runtime, parameters, databases...)
	return startProcess(p.t, append(runEnvironment(url, ""), environment...), "run")
}

// both are the databases, that of the first primary first.
func (p *pair) both() []*pgtest.DB { return []*pgtest.DB{p.db, p.there} }

// promote makes the standby the primary and returns the platform there.
func (p *pair) promote() *platform {
	p.t.Helper()
	require.NoError(p.t, p.standby.Server().Promote(p.t.Context()))
	return p.on(p.there)
}

// on is the same platform on another server.
func (p *platform) on(db *pgtest.DB) *platform {
	p.t.Helper()
	moved := &platform{t: p.t, db: db, org: p.org}
	moved.connect()
	return moved
}

// replicated waits until the standby has all that the primary wrote.
func (p *pair) replicated() {
	p.t.Helper()
	p.eventually("SELECT EXISTS (SELECT FROM pg_stat_replication WHERE replay_lsn >= pg_current_wal_lsn())", "not replicated")
}

// set changes a setting of a running server.
func set(t *testing.T, admin *pgx.Conn, setting string) {
	t.Helper()
	for _, sql := range []string{"ALTER SYSTEM SET " + setting, "SELECT pg_reload_conf()"} {
		_, err := admin.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
}

// settled waits until the totals are those of the rows, by plain SQL, and holds
// the alerts to them: each threshold that a user's rows reach has one, no other
// has, and each that was told has its notification.
func (p *platform) settled() {
	p.t.Helper()
	p.eventually(`SELECT NOT EXISTS (SELECT FROM
		(SELECT user_id, sum(tokens_used) AS tokens FROM ai_usage_logs GROUP BY 1) u
		FULL JOIN (SELECT user_id, sum(tokens_used) AS tokens FROM tokenalert.usage_periods GROUP BY 1) p USING (user_id)
		WHERE coalesce(u.tokens, 0) <> coalesce(p.tokens, 0))`, "totals differ from the rows")
	p.alerted(80, 90, 100)
}

// alerted is what settled says of the alerts, where these thresholds are in force.
func (p *platform) alerted(thresholds ...int) {
	p.t.Helper()
	assert.Zero(p.t, ask[int](p, `SELECT count(*)::integer FROM
		(SELECT u.id AS user_id, t.threshold AS alert_threshold FROM users u CROSS JOIN unnest($1::integer[]) t (threshold)
		 WHERE (SELECT sum(tokens_used) FROM ai_usage_logs l WHERE l.user_id = u.id) * 100 >= t.threshold * u.monthly_token_limit) reached
		FULL JOIN token_limit_alerts a USING (user_id, alert_threshold)
		WHERE reached IS NULL OR a.id IS NULL`, thresholds), "thresholds reached without an alert, or alerts without a threshold reached")
	assert.Zero(p.t, ask[int](p, `SELECT count(*)::integer FROM (SELECT * FROM token_limit_alerts WHERE alert_sent) a
		FULL JOIN notifications n ON n.id = a.notification_id WHERE a.id IS NULL OR n.id IS NULL`), "alerts told and notifications")
}

// ids lists a user's alerts, with their ids and those of the notifications.
func (p *platform) ids(user uuid.UUID) []string {
	p.t.Helper()
	rows, err := p.owner.Query(p.t.Context(), `SELECT concat_ws(' ', alert_threshold, id, notification_id, alert_sent)
		FROM token_limit_alerts WHERE user_id = $1 ORDER BY alert_threshold`, user)
	require.NoError(p.t, err)
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(p.t, err)
	return ids
}

// TestAFailoverUnderLoad: the primary dies while hosts write, and the standby
// takes over. Replicated synchronously, nothing that was acknowledged is lost,
// neither rows nor alerts. Asynchronously, rows are lost that had not arrived,
// and with them what was counted and told of them, all in one WAL: the totals
// are those of the rows that survived, and whoever crosses anew is told anew,
// under the same ids.
func TestAFailoverUnderLoad(t *testing.T) {
	t.Parallel()
	for name, synchronous := range map[string]bool{"synchronous": true, "asynchronous": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t, nil)
			if synchronous {
				set(t, p.admin, "synchronous_standby_names = '*'")
				p.eventually("SELECT EXISTS (SELECT FROM pg_stat_replication WHERE sync_state = 'sync')", "not synchronous")
			}
			lost := p.user(1000)
			var users []uuid.UUID
			for n := range 12 {
				users = append(users, p.user(100*(n+1)))
			}
			// So long that no ping finds out what the listener knows at once.
			w := p.hosts("target_session_attrs=read-write", p.both(), "TOKENALERT_LEAD_PING=1m", "TOKENALERT_LEAD_TIMEOUT=3m")
			require.Contains(t, w.awaitReady(), "leader")
			load := p.drive(users, p.both()...)
			w.await(worker.EventAlertSent, 3)
			load.goOn(t, 50)

			var before []string
			if !synchronous { // what follows does not arrive at the standby
				standby := p.there.Conn(t)
				set(t, standby, "primary_conninfo = ''")
				p.eventually("SELECT NOT EXISTS (SELECT FROM pg_stat_replication)", "the standby still streams")
				p.use(lost, 850)
				p.counted(lost, 850)
				before = p.ids(lost)
				require.Len(t, before, 1)
				load.goOn(t, 50)
			}
			require.NoError(t, p.primary.Server().StopImmediate(t.Context()))
			acknowledged := load.rows() // before anybody can write on the other
			sent := w.log(worker.EventAlertSent)
			after := p.promote()
			promoted := time.Now()
			w.await(worker.EventLeaderAcquired, 2)
			assert.Less(t, time.Since(promoted), 10*time.Second)
			load.goOn(t, 100)
			load.stop()
			after.settled()

			survived := ask[int](after, "SELECT count(*)::integer FROM ai_usage_logs WHERE id = ANY ($1)", acknowledged)
			if synchronous {
				assert.Equal(t, len(acknowledged), survived, "rows that were acknowledged")
				for _, line := range sent {
					assert.True(t, ask[bool](after, "SELECT EXISTS (SELECT FROM notifications WHERE id = $1::text::uuid)", line["notification"]),
						"the log says that it was sent: %v", line)
				}
			} else {
				assert.Less(t, survived, len(acknowledged), "nothing was lost: the test shows nothing")
				assert.Empty(t, after.ids(lost))
				after.use(lost, 850)
				after.counted(lost, 850)
				assert.Equal(t, before, after.ids(lost), "the same ids")
			}
			assert.Empty(t, w.log(worker.EventDatabaseRefused))
			w.terminate()
		})
	}
}

// TestAFrozenPrimaryIsLeftBehind: its machine takes connections and answers
// nothing. A worker that was there goes to the other server and does not ask the
// frozen one again; one that is started only now asks it once, and not again for
// its ticks.
func TestAFrozenPrimaryIsLeftBehind(t *testing.T) {
	t.Parallel()
	p := newPair(t, nil)
	user := p.user(1000)
	// Asked again, it would be waited for until connecting has taken too long.
	there := p.hosts("target_session_attrs=read-write&connect_timeout=60", p.both(), impatient...)
	require.Contains(t, there.awaitReady(), "leader")
	p.use(user, 500)
	p.counted(user, 500)
	p.replicated()

	thaw, err := p.primary.Server().Freeze(t.Context())
	require.NoError(t, err)
	t.Cleanup(thaw)
	after := p.promote()
	after.use(user, 350)
	// Connecting to all that it needs may take seven seconds, and asking the
	// frozen one takes four.
	late := p.hosts("target_session_attrs=read-write&connect_timeout=4", p.both(), "TOKENALERT_LEAD_TIMEOUT=7s", "TOKENALERT_LEAD_RETRY=100ms")
	there.await(worker.EventLeaderAcquired, 2)
	assert.Equal(t, 1, there.reconnected(), "it asked the frozen server again")
	there.await(worker.EventAlertSent, 1)
	after.counted(user, 850)
	assert.Equal(t, []int{80}, after.told(user))
	assert.Contains(t, late.awaitReady(), "follower")
	assert.Zero(t, late.reconnected(), "it asked the frozen server for each session")

	began := time.Now()
	there.terminate()
	assert.Less(t, time.Since(began), 8*time.Second, "it waited for the frozen server, which pgx does for 15 seconds")
	late.await(worker.EventLeaderAcquired, 1)
	late.terminate()
}

// reconnected is how often a worker has looked for the lead anew.
func (p *process) reconnected() int {
	p.t.Helper()
	return p.metric(`tokenalert_reconnects_total{connection="lead"}`)
}

// TestAWorkerGoesPastAStandby where its URL does not say what it is looking for.
func TestAWorkerGoesPastAStandby(t *testing.T) {
	t.Parallel()
	p := newPair(t, nil)
	user := p.user(1000)
	p.replicated()

	past := p.hosts("", []*pgtest.DB{p.there, p.db})
	assert.Equal(t, "read_only", past.await(worker.EventDatabaseRefused, 1)["reason"])
	past.await(worker.EventLeaderAcquired, 1)
	p.use(user, 850)
	past.await(worker.EventAlertSent, 1)
	p.counted(user, 850)
	past.terminate()

	// With no other to go to it goes on asking, until it may.
	only := p.hosts("", []*pgtest.DB{p.there})
	assert.Equal(t, "read_only", only.await(worker.EventDatabaseRefused, 1)["reason"])
	// The log says once what repeats.
	eventually(t, func() bool { return only.reconnected() >= 3 }, "it does not go on asking")
	assert.False(t, only.hasEnded())
	p.replicated()
	require.NoError(t, p.primary.Server().StopImmediate(t.Context()))
	after := p.promote()
	only.await(worker.EventLeaderAcquired, 1)
	after.use(user, 100)
	only.await(worker.EventAlertSent, 1)
	after.counted(user, 950)
	assert.Equal(t, []int{80, 90}, after.told(user))
	only.terminate()
}
