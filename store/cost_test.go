package store_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/store"
	"tokenalert/worker"
)

// cost is what something takes that is the same on any machine.
type cost struct {
	roundTrips, statements int   // on the connection of ticks and polls
	usage, periods, users  int64 // rows read of ai_usage_logs, usage_periods and users
	wal                    int64 // bytes written to the log
}

// rowsEach is how many rows each user of the history has, of 60 days.
const rowsEach = 100

type costOf struct {
	of   string
	host func(c *counter, user uuid.UUID) // comes before; nil: nothing does
	do   func(c *counter)
	most cost
	why  string
}

// costs are the most that the worker's parts may take, whatever the history. The
// log's records differ by some bytes between versions, and by the page that they
// meet: what is written at all is allowed a quarter more than was seen.
var costs = []costOf{
	{
		"a poll", nil, (*counter).poll,
		cost{1, 1, 0, 0, 0, 0},
		"one statement, which takes no transaction id",
	},
	{
		"an idle minute", nil, (*counter).idle,
		cost{6, 6, 0, 0, 0, 1500},
		"six polls; the log has the renewals of the bell, of 144 bytes, and nothing else",
	},
	{
		"a tick with nothing", nil, func(c *counter) { c.count(store.Window) },
		cost{2, 4, 0, 0, 0, 0},
		"BEGIN, its settings, the count; ROLLBACK",
	},
	{
		"a tick with one row", func(c *counter, user uuid.UUID) { c.use(user, 1) }, func(c *counter) { c.tick() },
		cost{2, 5, 2, 1, 1, 610},
		"BEGIN, its settings, the count; no wait for the disk, COMMIT. The row is met by the look for the end of a bounded tick, and counted. " +
			"The total is met by its key, and changed. Logged are the link of the chain, the total, and the commit: 390 to 490 bytes",
	},
	{
		"a tick with one crossing", func(c *counter, user uuid.UUID) { c.use(user, 850_000) }, func(c *counter) { c.tick() },
		cost{2, 6, 3, 2, 15, 2000},
		"within the same round trips the decisions in place of the setting and, after COMMIT, when the row committed, for which it is read again. " +
			"The user is read by the count, the candidates, the lock and the foreign keys; where there are twelve, all twelve may be. " +
			"Logged are the alert, the notification and the marks as well: 1,540 to 1,640 bytes",
	},
	{
		"a tick with one crossing, delivered by three channels", func(c *counter, user uuid.UUID) { c.use(user, 850_000) }, func(c *counter) {
			c.delivering("notification", "email", "webhook")
			c.tick()
			c.delivering()
		},
		cost{2, 7, 3, 2, 15, 5000},
		"within the same round trips one statement more, for all three jobs and for waking who delivers. " +
			"Logged are 900 bytes a job, most of it of River's seven indexes: 4,300 to 4,400 bytes",
	},
	{
		"a tick with one correction", func(c *counter, user uuid.UUID) {
			c.exec("INSERT INTO tokenalert.recounts (user_id, at, cause) VALUES ($1, now(), 'usage_changed')", user)
		}, func(c *counter) { c.tick() },
		cost{3, 7, 60, 1, 2, 640},
		"a round trip more, of two statements: users that are gone, and the count of the user's period anew, from its rows, which are those of 31 days of 60 at most. " +
			"Logged are the link of the chain, the correction's end, the total and the commit: 420 to 510 bytes",
	},
}

// withABudget are the same where the users' organization has a budget.
var withABudget = []costOf{
	{
		"a poll, with a budget", nil, (*counter).poll,
		cost{1, 1, 0, 0, 0, 0},
		"it does not know of budgets",
	},
	{
		"a tick with nothing, with a budget", nil, func(c *counter) { c.count(store.Window) },
		cost{2, 4, 0, 0, 0, 0},
		"as without",
	},
	{
		"a tick with one row, with a budget", func(c *counter, user uuid.UUID) { c.use(user, 1) }, func(c *counter) { c.tick() },
		cost{2, 5, 2, 1, 1, 1000},
		"no statement and no round trip more. Logged are the share and the budget's sum as well: 800 to 825 bytes",
	},
	{
		"a tick with one correction, with a budget", func(c *counter, user uuid.UUID) {
			c.exec("INSERT INTO tokenalert.recounts (user_id, organization_id, at, cause) VALUES ($1, $2, now(), 'usage_changed')", user, c.org)
		}, func(c *counter) { c.tick() },
		cost{3, 7, 120, 2, 2, 850},
		"the rows of the user's period are read once more, for their share: by the index of users, whatever else the organization has. " +
			"Where the share was right, nothing but the budget's sum is written besides: 615 to 680 bytes",
	},
}

// addedPerInsert is how many bytes the host writes to the log for a row beyond
// what it would without us: the column (8), and the entry of its index with its
// share of the pages that are split (66). The bell adds nothing, armed or not.
const addedPerInsert = 80

// quietServer has nobody else on it who would write to the log.
func quietServer(t *testing.T) *pgtest.Instance {
	t.Helper()
	return pgtest.StartServer(t, map[string]string{
		"autovacuum": "off", "checkpoint_timeout": "1h",
		// A server that can be followed logs by itself, from time to time, what runs.
		"wal_level": "minimal", "max_wal_senders": "0",
	})
}

func TestCosts(t *testing.T) {
	t.Parallel()
	in := quietServer(t)
	// Not less than a thousand rows: a table of two pages is read in full.
	for _, users := range []int{12, 1000} {
		t.Run(fmt.Sprintf("history of %d rows", users*rowsEach), func(t *testing.T) { // one after the other: they have one log
			c := counterOn(t, siteOn(t, in.New(t, pgtest.Migrated(host.CMS)).Straight())) // its sessions must end
			c.fill(users, rowsEach)
			c.exec("UPDATE users SET monthly_token_limit = 1000000")
			c.count(store.Full)
			c.settle()
			c.exec("VACUUM ANALYZE")
			for _, schema := range []string{"public", "tokenalert"} {
				c.exec("REINDEX SCHEMA " + schema) // no page is so full that it will be split
			}
			left := c.list("SELECT id::text FROM users")
			for n, tt := range slices.Concat(costs, withABudget) {
				if n == len(costs) {
					c.budget(c.org, 1_000_000_000, 1, "UTC")
					c.calendar()
					c.settle()
					_, err := c.store.BeginBudgets(t.Context())
					require.NoError(t, err)
					c.settle()
					c.exec("VACUUM ANALYZE")
					c.exec("REINDEX SCHEMA tokenalert")
					left = c.list("SELECT id::text FROM users")
				}
				prepare := func() {
					if tt.host != nil {
						tt.host(c, uuid.MustParse(left[0]))
						left = left[1:]
					}
				}
				var got cost
				if in.Server().Version() >= 150000 { // before, the counts came up to half a second late
					prepare()
					got = c.reads(func() { tt.do(c) })
					if tt.most.usage > 0 {
						assert.Positive(t, got.usage, "%s: not counted", tt.of)
					}
				}
				prepare()
				tt.do(c) // plans on a new connection
				prepare()
				got.roundTrips, got.statements, got.wal = c.traffic(func() { tt.do(c) })
				t.Logf("%s: %+v", tt.of, got)
				assert.Positive(t, got.roundTrips, tt.of)
				for name, n := range map[string][2]int64{
					"round trips": {int64(got.roundTrips), int64(tt.most.roundTrips)}, "statements": {int64(got.statements), int64(tt.most.statements)},
					"rows of ai_usage_logs": {got.usage, tt.most.usage}, "rows of usage_periods": {got.periods, tt.most.periods},
					"rows of users": {got.users, tt.most.users}, "bytes of the log": {got.wal, tt.most.wal},
				} {
					assert.LessOrEqual(t, n[0], n[1], "%s takes more %s than allowed: %s", tt.of, name, tt.why)
				}
			}
		})
	}
}

func (c *counter) poll() {
	c.t.Helper()
	_, err := c.store.Poll(c.t.Context())
	require.NoError(c.t, err)
}

// idle does what a leader does in a minute in which nothing comes.
func (c *counter) idle() {
	c.t.Helper()
	config := worker.DefaultConfig()
	lead, err := c.store.ConnectLead(c.t.Context(), config.LeadTimeout)
	require.NoError(c.t, err)
	defer lead.Close()
	for range time.Minute / config.BellRenewal {
		c.poll()
	}
	for range time.Minute / config.LeadPing {
		require.NoError(c.t, lead.Ping(c.t.Context()))
	}
	for range time.Minute / (config.BellRenewal - config.LeadPing) { // as often as it can be
		_, err := lead.Arm(c.t.Context(), config.BellLease)
		require.NoError(c.t, err)
	}
}

// traffic is what travels to and fro, and what is logged, while do runs.
func (c *counter) traffic(do func()) (roundTrips, statements int, wal int64) {
	c.t.Helper()
	var messages strings.Builder
	stop, err := c.store.Trace(c.t.Context(), &messages)
	require.NoError(c.t, err)
	before := c.logged()
	do()
	wal = c.logged() - before
	stop()
	count := func(message string) int { return strings.Count(messages.String(), "\t"+message+"\t") }
	return count("ReadyForQuery"), count("Execute") + count("Query"), wal
}

// logged is how far the server's log has come.
func (s *site) logged() int64 {
	s.t.Helper()
	return ask[int64](s, "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint")
}

// reads are the rows that the worker's sessions read while do runs, by the
// server's own count, to which a session adds its part when it ends at the latest.
func (c *counter) reads(do func()) cost {
	c.t.Helper()
	before := c.readSoFar()
	do()
	after := c.readSoFar()
	return cost{usage: after.usage - before.usage, periods: after.periods - before.periods, users: after.users - before.users}
}

// readSoFar ends all sessions, the owner's as well, who takes another.
func (c *counter) readSoFar() cost {
	c.t.Helper()
	c.store.Reset()
	require.NoError(c.t, c.owner.Close(c.t.Context()))
	c.owner = c.db.ConnAs(c.t, pgtest.Owner)
	c.eventually("sessions are left", func() bool {
		return ask[int](c.site, `SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND pid <> pg_backend_pid()`) == 0
	})
	of := func(table string) int64 {
		return ask[int64](c.site, "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relid = $1::text::regclass", table)
	}
	return cost{usage: of("ai_usage_logs"), periods: of("tokenalert.usage_periods"), users: of("users")}
}

func TestCostOfAnInsert(t *testing.T) {
	t.Parallel()
	const rows = 1000
	in := quietServer(t)
	insert := func(s *site) int64 {
		user := s.user(0)
		before := s.logged()
		for i := range rows { // the same ids, so that the same pages are split
			s.exec("INSERT INTO ai_usage_logs (id, user_id, organization_id, tokens_used) VALUES (md5($1)::uuid, $2, $3, 1)", fmt.Sprint(i), user, s.org)
		}
		return s.logged() - before
	}
	without := insert(siteOn(t, in.New(t, pgtest.Host(host.CMS))))
	for _, armedUntil := range []int64{0, 9_999_999_999} {
		s := siteOn(t, in.New(t, pgtest.Migrated(host.CMS)))
		s.exec("SELECT setval('tokenalert.doorbell', $1)", armedUntil)
		added := float64(insert(s)-without) / rows
		t.Logf("armed until %d: %.1f bytes a row", armedUntil, added)
		assert.LessOrEqual(t, added, float64(addedPerInsert), "bytes that a row adds to the log")
	}
}
