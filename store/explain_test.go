package store_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/store"
)

// explain looks at a user as a role.
func (s *site) explain(role, user string) (store.Account, error) {
	s.t.Helper()
	url, listen := s.db.URLs(role)
	st, err := store.OpenFor("explain", url, listen)
	require.NoError(s.t, err)
	defer st.Close()
	return st.Explain(s.t.Context(), user)
}

func (s *site) explained(user uuid.UUID) store.Account {
	s.t.Helper()
	a, err := s.explain(pgtest.Runtime, user.String())
	require.NoError(s.t, err)
	return a
}

func TestExplainFindsTheTickThatCountedARow(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	c.settings()
	user, other := c.user(1000), c.user(1000)
	c.use(user, 1)
	c.tick()
	late, err := c.session().owner.Begin(t.Context())
	require.NoError(t, err)
	require.NoError(t, host.LogUsage(t.Context(), late, user, c.org, 2)) // takes its id now, and commits last
	for range 40 {
		c.use(other, 1)
		c.tick()
	}
	c.use(user, 3)
	c.tick()
	for range 20 {
		c.use(other, 1)
		c.tick()
	}
	// What is open holds back the snapshot's xmin, and what was counted lies above.
	assert.Zero(t, c.explained(user).Uncounted.Rows)
	require.NoError(t, late.Commit(t.Context()))
	assert.EqualValues(t, 2, c.explained(user).Uncounted.Tokens, "committed after the tick, with an id from before it")
	c.tick()
	c.use(user, 4)
	c.use(user, 5)
	c.tick()
	c.use(user, 6) // which no tick has counted

	want := map[int64]*int64{6: nil}
	for _, tokens := range []int64{1, 2, 3, 4, 5} { // by reading all of the chain
		want[tokens] = new(ask[int64](c.site, `SELECT min(t.id) FROM tokenalert.ticks t, ai_usage_logs l
			WHERE l.user_id = $1 AND l.tokens_used = $2 AND pg_visible_in_snapshot(l.xact_id, t.snapshot)`, user, tokens))
	}
	require.Equal(t, c.lastTick()-1, *want[2])
	counted := func() map[int64]store.AccountRow {
		t.Helper()
		a := c.explained(user)
		require.Len(t, a.Newest, 5)
		rows := map[int64]store.AccountRow{}
		for i, r := range a.Newest {
			rows[r.TokensUsed] = r
			assert.True(t, i == 0 || !r.CreatedAt.After(a.Newest[i-1].CreatedAt), "newest first")
		}
		assert.NotContains(t, rows, int64(1), "the oldest of six")
		return rows
	}
	for tokens, r := range counted() {
		if tokens == 6 {
			assert.Equal(t, store.CountedNotYet, r.CountedBy)
			assert.Nil(t, r.Tick)
			continue
		}
		require.Equal(t, store.CountedByTick, r.CountedBy, "%d tokens", tokens)
		assert.Equal(t, *want[tokens], r.Tick.ID, "%d tokens", tokens)
		assert.Equal(t, "test", r.Tick.Worker)
	}
	a := c.explained(user)
	assert.Equal(t, store.AccountUncounted{Rows: 1, Tokens: 6, CurrentTokens: 6, Oldest: a.Uncounted.Oldest}, a.Uncounted)
	assert.True(t, a.Newest[0].CreatedAt.Equal(*a.Uncounted.Oldest))
	assert.EqualValues(t, 15, a.Current.TokensUsed)
	assert.EqualValues(t, 15, *a.Current.RowsAddUpTo)
	assert.Equal(t, c.lastTick(), a.LastTick.ID)

	// Pruned up to the tick that counted a row, it may have been that or an
	// earlier one; with the tick before it kept, it was that one. A gap in
	// between, as a clock that was set back leaves, changes no other.
	c.exec("DELETE FROM tokenalert.ticks WHERE id < $1", *want[3])
	rows := counted()
	assert.Equal(t, store.CountedEarlier, rows[3].CountedBy)
	assert.Equal(t, *want[3], rows[3].Tick.ID)
	assert.Equal(t, store.CountedByTick, rows[2].CountedBy)
	c.exec("DELETE FROM tokenalert.ticks WHERE id BETWEEN $1 AND $2", *want[3]+3, *want[3]+9)
	rows = counted()
	for _, tokens := range []int64{2, 4, 5} {
		assert.Equal(t, store.CountedByTick, rows[tokens].CountedBy)
		assert.Equal(t, *want[tokens], rows[tokens].Tick.ID)
	}
	c.exec("DELETE FROM tokenalert.ticks WHERE id = $1", *want[2]-1)
	assert.Equal(t, store.CountedEarlier, counted()[2].CountedBy)
	c.exec("DELETE FROM tokenalert.ticks WHERE id < $1", c.lastTick())
	for tokens, r := range counted() {
		if tokens != 6 {
			assert.Equal(t, store.CountedEarlier, r.CountedBy)
			assert.Equal(t, c.lastTick(), r.Tick.ID)
		}
	}
}

// settings puts some in force, as a leader does.
func (s *site) settings() {
	s.t.Helper()
	s.exec(`INSERT INTO tokenalert.settings (time_zone, thresholds, worker, changed_at) VALUES ('UTC', '{80,90,100}', 'test', now())
		ON CONFLICT DO NOTHING`)
}

// A week of ticks at full speed is tens of millions. The chain is searched by
// halves, so it reads few of these, too.
func TestExplainSearchesALongChainByHalves(t *testing.T) {
	t.Parallel()
	const ticks = 200_000
	s := migratedSite(t, host.CMS)
	s.db = s.db.Straight() // its session must end
	c := counterOn(t, s)
	c.settings()
	user := c.user(1000)
	c.use(user, 1)
	c.tick()
	c.exec(`INSERT INTO tokenalert.ticks (id, snapshot, system_identifier, kind, rows, users, worker, started_at)
		SELECT t.id + n, t.snapshot, t.system_identifier, 'window', 0, 0, 'test', now()
		FROM (SELECT * FROM tokenalert.ticks ORDER BY id DESC LIMIT 1) t, generate_series(1, $1::integer) AS n`, ticks)
	c.exec("ANALYZE tokenalert.ticks")
	for n := range 4 {
		c.use(user, n+2)
		c.tick()
	}
	a := c.explained(user)
	for i, id := range []int64{ticks + 6, ticks + 5, ticks + 4, ticks + 3, 2} {
		assert.Equal(t, id, a.Newest[i].Tick.ID)
	}
	// A session adds what it has read to the server's count when it ends.
	c.eventually("the session does not end", func() bool {
		return ask[int](c.site, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'tokenalert explain'") == 0
	})
	read := ask[int64](c.site, "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relid = 'tokenalert.ticks'::regclass")
	assert.Less(t, read, int64(1000), "of %d ticks, with those that ticks read themselves", ticks)
}

func TestExplainRowsOlderThanTheChain(t *testing.T) {
	t.Parallel()
	s := newSite(t, host.CMS)
	user := s.user(1000)
	s.use(user, 850)
	s.up()
	a := s.explained(user)
	assert.Nil(t, a.Settings)
	assert.Nil(t, a.Current)
	assert.Equal(t, store.CountedNotYet, a.Newest[0].CountedBy)
	assert.EqualValues(t, 850, a.Uncounted.Tokens)

	s.work()
	a = s.explained(user)
	require.Nil(t, a.Newest[0].XactID)
	assert.Equal(t, store.CountedInFull, a.Newest[0].CountedBy)
	assert.Equal(t, store.First, a.Newest[0].Tick.Kind)
	assert.Zero(t, a.Uncounted.Rows)
	assert.EqualValues(t, 850, a.Current.TokensUsed)
	assert.EqualValues(t, 850, *a.Current.RowsAddUpTo)
	assert.Equal(t, []int32{80}, a.Current.Marks)

	// Rebased, after a restore: numbers begin anew, and history stays.
	s.exec("UPDATE tokenalert.ticks SET system_identifier = system_identifier + 1")
	a = s.explained(user)
	assert.True(t, a.OtherCluster)
	assert.Equal(t, store.CountedNotKnown, a.Newest[0].CountedBy)
	require.NoError(t, s.migrator(pgtest.Owner, nil).Up(t.Context()))
	a = s.explained(user)
	assert.False(t, a.OtherCluster)
	assert.Nil(t, a.LastTick)
	assert.Nil(t, a.Current.RowsAddUpTo)
	assert.EqualValues(t, 850, a.Current.TokensUsed)
	assert.Equal(t, store.CountedNotYet, a.Newest[0].CountedBy)
	s.work()
	a = s.explained(user)
	assert.Equal(t, store.Full, a.Newest[0].Tick.Kind)
	assert.Len(t, a.Alerts, 1)
}

func TestExplainFindsUsersByEmail(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS)
	ana, err := host.NewUser(t.Context(), s.owner, host.User{Organization: s.org, Email: "Ana.Perez@Example.org"})
	require.NoError(t, err)
	twins := []uuid.UUID{}
	for _, name := range []string{"One", "Two"} {
		org, err := host.NewOrganization(t.Context(), s.owner, name)
		require.NoError(t, err)
		id, err := host.NewUser(t.Context(), s.owner, host.User{Organization: org, Email: "twin@example.org"})
		require.NoError(t, err)
		twins = append(twins, id)
	}
	for _, email := range []string{"ana.perez@example.org", "ANA.PEREZ@EXAMPLE.ORG", " Ana.Perez@Example.org "} {
		a, err := s.explain(pgtest.Owner, email)
		require.NoError(t, err, email)
		assert.Equal(t, ana, a.UserID)
	}
	_, err = s.explain(pgtest.Owner, "nobody@example.org")
	require.ErrorContains(t, err, `no user has the email "nobody@example.org"`)
	_, err = s.explain(pgtest.Owner, "ana_perez@example.org")
	require.ErrorContains(t, err, "no user has the email", "no pattern")
	_, err = s.explain(pgtest.Owner, "TWIN@example.org")
	require.ErrorContains(t, err, `2 users have the email "TWIN@example.org", so name one by id: `)
	for _, id := range twins {
		require.ErrorContains(t, err, id.String()+" (organization ")
	}

	_, err = s.explain(pgtest.Runtime, "ana.perez@example.org")
	require.ErrorContains(t, err, fmt.Sprintf("role %[1]s may not read users.email; name the user by id, or explain as the owner of users, or GRANT SELECT (email) ON users TO %[1]s", pgtest.Runtime))
	s.exec("GRANT SELECT (email) ON users TO " + pgtest.Runtime) // as it says
	a, err := s.explain(pgtest.Runtime, "ana.perez@example.org")
	require.NoError(t, err)
	assert.Equal(t, ana, a.UserID)

	s.exec("ALTER TABLE users RENAME email TO address")
	_, err = s.explain(pgtest.Owner, "ana.perez@example.org")
	require.ErrorContains(t, err, "table users has no column email; name the user by id")
	s.superExec("CREATE SCHEMA elsewhere")
	s.exec("ALTER ROLE " + pgtest.Owner + " IN DATABASE " + pgx.Identifier{s.db.Name}.Sanitize() + " SET search_path = elsewhere")
	s.db = s.db.Straight() // a pooler keeps sessions from before
	_, err = s.explain(pgtest.Owner, "ana.perez@example.org")
	require.ErrorContains(t, err, "does not see the table users; its search_path is elsewhere")
}

func TestExplainSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS)
	user := s.user(1000)
	_, err := s.explain(pgtest.Writer, user.String())
	require.ErrorContains(t, err, "role "+pgtest.Writer+" lacks a privilege; run `tokenalert migrate grant "+pgtest.Writer+"`")
	s.exec("ALTER TABLE ai_usage_logs ENABLE ROW LEVEL SECURITY")
	_, err = s.explain(pgtest.Runtime, user.String())
	require.ErrorContains(t, err, "row-level security", "a sum of what a policy leaves would be wrong")
}

func TestExplainOnlyReads(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	c.settings()
	user := c.user(1000)
	c.use(user, 850)
	c.tick()
	a, err := c.open(map[string]string{"default_transaction_read_only": "on"}).Explain(t.Context(), user.String())
	require.NoError(t, err)
	assert.EqualValues(t, 850, a.Current.TokensUsed)
	assert.Nil(t, a.Leader)
	assert.False(t, a.Standby)

	c.superExec(`
		CREATE SCHEMA standby;
		GRANT USAGE ON SCHEMA standby TO PUBLIC;
		CREATE FUNCTION standby.pg_is_in_recovery() RETURNS boolean LANGUAGE sql AS 'SELECT true'`)
	a, err = c.open(map[string]string{"search_path": "standby,pg_catalog,public"}).Explain(t.Context(), user.String())
	require.NoError(t, err)
	assert.True(t, a.Standby)
}

// The host may write any instant; JSON and Go hold fewer.
func TestExplainInstantsAtTheEndsOfTime(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.LMS)
	c.settings()
	user := c.user(0)
	c.tick() // the user was added
	for _, at := range []any{"-infinity", "infinity", "294276-12-31 23:59:59+00", "4713-01-01 00:00:00+00 BC", nil} {
		c.exec(`INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used, input_tokens, output_tokens, created_at)
			VALUES ($1, $2, 7, 0, 0, $3::text::timestamptz)`, user, c.org, at)
		c.exec(`INSERT INTO token_limit_alerts (user_id, organization_id, alert_threshold, alert_sent, created_at, sent_at)
			VALUES ($1, $2, 80, true, $3::text::timestamptz, $3::text::timestamptz)`, user, c.org, at)
		c.exec("INSERT INTO tokenalert.recounts (user_id, at, due_at, cause) VALUES ($1, $2::text::timestamptz, $2::text::timestamptz, 'test')", user, at)
	}
	c.exec("INSERT INTO tokenalert.recounts (user_id, at, cause) SELECT $1, now(), 'many' FROM generate_series(1, 500)", user)
	c.useAt(user, 3, c.now())
	a := c.explained(user)
	assert.EqualValues(t, 5, a.Unusable)
	assert.EqualValues(t, 3, a.Uncounted.Tokens)
	require.Len(t, a.Newest, 1)
	assert.Len(t, a.Alerts, 5)
	_, err := json.Marshal(a)
	require.NoError(t, err)
	due := map[string]int64{}
	for _, p := range a.Pending {
		due[fmt.Sprint(p.Cause, " counts ", p.Counts, " due ", p.Due)] += p.Rows
	}
	assert.Equal(t, map[string]int64{
		"test counts true due true": 2, "test counts true due false": 2, "test counts false due true": 1, "many counts true due true": 500,
	}, due)
	assert.LessOrEqual(t, len(a.Pending), 6, "alike ones together")
}

// Rows that are truncated under it would add up to nothing.
func TestExplainDoesNotBelieveARewrite(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	c.settings()
	user := c.user(1000)
	c.use(user, 850)
	c.tick()
	rewrite := c.session()
	tx, err := rewrite.owner.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), "TRUNCATE ai_usage_logs")
	require.NoError(t, err)
	explained := make(chan error, 1)
	go func() {
		_, err := c.store.Explain(t.Context(), user.String())
		explained <- err
	}()
	c.eventually("it does not wait", func() bool {
		return ask[bool](c.site, "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'ai_usage_logs'::regclass AND NOT granted)")
	})
	require.NoError(t, tx.Commit(t.Context()))
	require.ErrorContains(t, <-explained, "ai_usage_logs was truncated or rewritten at this very moment; ask again")
}
