package store_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/store"
)

func TestAWriterNeedsNothingButInsert(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS)
	s.exec("GRANT INSERT ON ai_usage_logs TO " + pgtest.Writer)
	s.requireWriterRings()
	assert.Equal(t, []string{"INSERT ON ai_usage_logs"}, s.granted(pgtest.Writer))
}

// requireWriterRings inserts as the writer with the bell silent, and armed.
func (s *site) requireWriterRings() {
	s.t.Helper()
	ctx := s.t.Context()
	user := s.user(0)
	writer := s.db.ConnAs(s.t, pgtest.Writer)
	insert := func() {
		s.t.Helper()
		_, err := writer.Exec(ctx, "INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used) VALUES ($1, $2, 1)", user, s.org)
		require.NoError(s.t, err)
	}
	lead, err := s.runtime().ConnectLead(ctx, 10*time.Second)
	require.NoError(s.t, err)
	defer lead.Close()
	heard := s.db.ConnAs(s.t, pgtest.Owner)
	_, err = heard.Exec(ctx, "LISTEN tokenalert")
	require.NoError(s.t, err)

	rings := func() bool {
		s.t.Helper()
		insert()
		s.exec("NOTIFY tokenalert, 'after the insert'")
		for heardIt := false; ; heardIt = true {
			n, err := heard.WaitForNotification(ctx)
			require.NoError(s.t, err)
			if n.Payload != "" {
				return heardIt
			}
		}
	}

	require.NoError(s.t, lead.Disarm(ctx))
	assert.False(s.t, rings(), "silenced")
	_, err = lead.Arm(ctx, time.Minute)
	require.NoError(s.t, err)
	assert.True(s.t, rings(), "armed")
	s.exec("SELECT setval('tokenalert.doorbell', (date_part('epoch', clock_timestamp()) - 1)::bigint)") // whoever armed it is dead
	assert.False(s.t, rings(), "the lease has lapsed")
	require.NoError(s.t, lead.Disarm(ctx))
}

func TestNobodyElseSetsTheBell(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS)
	doorbell := ask[uint32](s, "SELECT 'tokenalert.doorbell'::regclass::oid")
	writer := s.db.ConnAs(t, pgtest.Writer)
	// By number, which asks for no right to the schema.
	for _, sql := range []string{"SELECT setval($1::oid::regclass, 4000000000)", "SELECT nextval($1::oid::regclass)", "SELECT currval($1::oid::regclass)"} {
		_, err := writer.Exec(t.Context(), sql, doorbell)
		if sql == "SELECT currval($1::oid::regclass)" {
			assert.Equal(t, "55000", store.SQLState(err), "%s: %v", sql, err) // may, but there is nothing yet
			continue
		}
		assert.Equal(t, "42501", store.SQLState(err), "%s: %v", sql, err)
	}
	assert.EqualValues(t, 0, ask[int64](s, "SELECT last_value FROM tokenalert.doorbell"))

	runtime := s.db.ConnAs(t, pgtest.Runtime) // sets it, but does not count with it
	_, err := runtime.Exec(t.Context(), "SELECT nextval('tokenalert.doorbell')")
	assert.NoError(t, err, "UPDATE on a sequence allows nextval as well")
}

// TestFunctionsThatRunAsTheOwner: whoever may create a table or an operator
// must not be able to slip it under them.
func TestFunctionsThatRunAsTheOwner(t *testing.T) {
	t.Parallel()
	for _, kind := range []host.Kind{host.CMSWithTrigger, host.LMS} {
		s := migratedSite(t, kind)
		assert.Equal(t, []string{
			"tokenalert.admins(uuid) {\"search_path=pg_catalog, pg_temp\"} host_owner, tokenalert_runtime",
			"tokenalert.emailed(uuid) {\"search_path=pg_catalog, pg_temp\"} host_owner, tokenalert_runtime",
			"tokenalert.lock_users(uuid[]) {\"search_path=pg_catalog, pg_temp\"} host_owner, tokenalert_runtime",
			"tokenalert.recipient(uuid,uuid) {\"search_path=pg_catalog, pg_temp\"} host_owner, tokenalert_runtime",
			"tokenalert.record_correction() {\"search_path=pg_catalog, pg_temp\"} host_owner",
			"tokenalert.ring() {\"search_path=pg_catalog, pg_temp\"} host_owner",
		}, s.list(`
			SELECT format('%s %s %s', p.oid::regprocedure, proconfig, (
				SELECT string_agg(CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END, ', ' ORDER BY grantee::regrole::text)
				FROM aclexplode(coalesce(proacl, acldefault('f', proowner))) WHERE privilege_type = 'EXECUTE'))
			FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace
			WHERE prosecdef AND nspname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1`))
	}
}

func TestRowSecurityIsAnErrorAndHidesNothing(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS)
	st := s.runtime()
	user := s.user(0)
	s.limit(user, 100)
	s.use(user, 10)
	s.work()
	s.exec("ALTER TABLE ai_usage_logs ENABLE ROW LEVEL SECURITY")
	s.exec("CREATE POLICY small ON ai_usage_logs FOR SELECT USING (tokens_used < 50)")
	s.use(user, 75)

	p, err := st.Poll(t.Context())
	require.NoError(t, err)
	assert.True(t, p.Work, "who polls sees nothing, and no tick comes to say why")
	periods, err := st.Periods(t.Context(), "UTC")
	require.NoError(t, err)
	nobody := func(store.Kind, time.Time, []store.Candidate) []store.Decision { return nil }
	chain := ask[int](s, "SELECT count(*) FROM tokenalert.ticks")
	for _, kind := range []store.Kind{store.Window, store.Full, store.First} {
		_, err = st.Tick(t.Context(), store.TickRequest{Kind: kind, Periods: periods, Floor: 80, Slice: 1000, Decisions: 1000, Worker: "test"}, nobody)
		require.ErrorContains(t, err, "row-level security")
		assert.Equal(t, "42501", store.SQLState(err))
	}
	_, err = st.Reconcile(t.Context(), periods, nil)
	assert.Equal(t, "42501", store.SQLState(err), "%v", err)
	assert.Equal(t, chain, ask[int](s, "SELECT count(*) FROM tokenalert.ticks"))

	s.exec("ALTER TABLE ai_usage_logs DISABLE ROW LEVEL SECURITY")
	s.work()
	s.requireTotals()
	assert.Equal(t, []string{"80 told"}, s.alerts(user))
}
