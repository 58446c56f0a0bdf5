package store_test

import (
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/store"
)

// forNobody is what none of the roles may do that are not the owner of it all.
// Those that have INSERT on ai_usage_logs, or what a tick needs, are no better
// off here than one that has nothing.
var forNobody = []string{
	// What is private.
	"SELECT prompt FROM ai_usage_logs",
	"SELECT response FROM ai_usage_logs",
	"SELECT ai_usage_logs FROM ai_usage_logs",
	"SELECT count(prompt) FROM ai_usage_logs",
	"SELECT FROM ai_usage_logs WHERE response LIKE 'A%'",
	"EXPLAIN SELECT prompt FROM ai_usage_logs",
	"COPY ai_usage_logs (response) TO STDOUT",
	"CREATE TEMPORARY TABLE mine (LIKE ai_usage_logs INCLUDING ALL)",
	"CREATE TEMPORARY TABLE mine AS TABLE ai_usage_logs",
	"SELECT email FROM users",
	"SELECT password_hash FROM users",
	"SELECT * FROM users",
	"SELECT FROM organizations",
	"SELECT message FROM notifications",
	"SELECT rolpassword FROM pg_authid",
	// What has been used, and what is told of it.
	"UPDATE ai_usage_logs SET tokens_used = 0",
	"DELETE FROM ai_usage_logs",
	"TRUNCATE ai_usage_logs",
	"INSERT INTO ai_usage_logs (user_id) VALUES (gen_random_uuid()) RETURNING prompt",
	"INSERT INTO ai_usage_logs (id) VALUES (gen_random_uuid()) ON CONFLICT (id) DO UPDATE SET tokens_used = 0",
	"UPDATE users SET monthly_token_limit = 0",
	"DELETE FROM users",
	"TRUNCATE users CASCADE",
	"SELECT id FROM users FOR KEY SHARE",
	"UPDATE token_limit_alerts SET alert_sent = false",
	"DELETE FROM token_limit_alerts",
	"TRUNCATE token_limit_alerts",
	"UPDATE notifications SET is_read = true",
	"DELETE FROM notifications",
	"INSERT INTO notifications (id, organization_id, user_id, title, message, is_read) VALUES (gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), '', '', true)",
	// What we have written down.
	"UPDATE tokenalert.ticks SET snapshot = pg_current_snapshot()",
	"TRUNCATE tokenalert.ticks",
	"TRUNCATE tokenalert.usage_periods",
	"UPDATE tokenalert.recounts SET user_id = NULL",
	"INSERT INTO tokenalert.recounts (id, cause) OVERRIDING SYSTEM VALUE SELECT nextval('tokenalert.recounts_id_seq'), 'mine'",
	"DELETE FROM tokenalert.settings",
	"INSERT INTO tokenalert.user_limits (user_id, monthly_token_limit) VALUES (gen_random_uuid(), 1)",
	"UPDATE tokenalert.user_limits SET monthly_token_limit = 0",
	"SELECT FROM tokenalert.takeover",
	"SELECT FROM tokenalert.granted_roles",
	"INSERT INTO tokenalert.granted_roles (role) VALUES (current_user)",
	"INSERT INTO tokenalert.goose_db_version (version_id, is_applied) VALUES (99, true)",
	// Functions that act as the owner, and those behind them.
	"SELECT tokenalert.ring()",
	"SELECT tokenalert.record_correction()",
	"SELECT tokenalert.host_privileges('host_owner')",
	"CREATE OR REPLACE FUNCTION tokenalert.now() RETURNS timestamptz LANGUAGE sql RETURN 'epoch'::timestamptz",
	"ALTER FUNCTION tokenalert.lock_users(uuid[]) RESET search_path",
	"DROP FUNCTION tokenalert.lock_users(uuid[])",
	// The tables' triggers, rules, policies and shape.
	"ALTER TABLE ai_usage_logs DISABLE TRIGGER tokenalert_ring",
	"ALTER TABLE users DISABLE TRIGGER ALL",
	"DROP TRIGGER tokenalert_ring ON ai_usage_logs",
	"SET session_replication_role = replica",
	"CREATE TRIGGER mine BEFORE INSERT ON notifications EXECUTE FUNCTION suppress_redundant_updates_trigger()",
	"CREATE RULE mine AS ON INSERT TO notifications DO INSTEAD NOTHING",
	"CREATE POLICY mine ON ai_usage_logs USING (false)",
	"ALTER TABLE ai_usage_logs ENABLE ROW LEVEL SECURITY",
	"ALTER TABLE ai_usage_logs ALTER COLUMN xact_id DROP DEFAULT",
	"ALTER TABLE tokenalert.ticks ADD COLUMN mine integer",
	"CREATE INDEX ON ai_usage_logs (tokens_used)",
	"DROP INDEX ai_usage_logs_xact_id_idx",
	"REINDEX TABLE ai_usage_logs",
	"DO 'BEGIN LOCK TABLE ai_usage_logs IN SHARE MODE; END'",
	"CREATE PUBLICATION mine FOR TABLE ai_usage_logs",
	// Places to put something, and the server around them.
	"CREATE TABLE tokenalert.mine ()",
	"CREATE TABLE public.mine ()",
	"CREATE FUNCTION public.mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
	"CREATE OPERATOR public.= (LEFTARG = text, RIGHTARG = uuid, FUNCTION = starts_with)",
	"CREATE SCHEMA mine",
	"ALTER DATABASE %s SET search_path = mine",
	"SET ROLE host_owner",
	"SET SESSION AUTHORIZATION host_owner",
	"ALTER ROLE host_owner RENAME TO mine",
	"ALTER SYSTEM SET max_prepared_transactions = 1",
	"COPY tokenalert.ticks TO PROGRAM 'true'",
	"SELECT pg_read_file('PG_VERSION')",
	"SELECT lo_import('PG_VERSION')",
	"SELECT FROM pg_hba_file_rules",
	"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'host_owner' AND datname = current_database()",
}

// forTheWorkerOnly is what the runtime role has and no other.
var forTheWorkerOnly = []string{
	"INSERT INTO token_limit_alerts (user_id, organization_id) VALUES (gen_random_uuid(), gen_random_uuid())",
	"INSERT INTO notifications (organization_id, user_id, title, message) VALUES (gen_random_uuid(), gen_random_uuid(), '', '')",
	"SELECT FROM token_limit_alerts",
	"SELECT full_name FROM users",
	"SELECT tokens_used FROM ai_usage_logs",
	"INSERT INTO tokenalert.ticks SELECT",
	"DELETE FROM tokenalert.ticks",
	"UPDATE tokenalert.usage_periods SET tokens_used = 0, marks = '{80,90,100}'",
	"DELETE FROM tokenalert.usage_periods",
	"INSERT INTO tokenalert.recounts (cause) VALUES ('mine')",
	"DELETE FROM tokenalert.recounts",
	"UPDATE tokenalert.settings SET thresholds = '{1}'",
	"SELECT FROM tokenalert.accounts()",
	"SELECT tokenalert.lock_users('{}')",
	"SELECT setval('tokenalert.doorbell', 4000000000)",
	"SELECT nextval('tokenalert.doorbell')",
}

// TestWhatNoRoleMayDo logs in as each role that is not the owner.
func TestWhatNoRoleMayDo(t *testing.T) {
	t.Parallel()
	for role, forbidden := range map[string][][]string{
		"the worker's":          {forNobody, {"INSERT INTO ai_usage_logs DEFAULT VALUES"}},
		"a writer's":            {forNobody, forTheWorkerOnly, {"SELECT FROM ai_usage_logs", "SELECT FROM users"}},
		"a reader's":            {forNobody, forTheWorkerOnly, {"INSERT INTO ai_usage_logs DEFAULT VALUES"}},
		"one that has nothing":  {forNobody, forTheWorkerOnly, {"INSERT INTO ai_usage_logs DEFAULT VALUES", "SELECT FROM tokenalert.current_usage"}},
		"the host's other role": {forNobody, forTheWorkerOnly},
	} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			s := migratedSite(t, host.CMS)
			s.use(s.user(100), 10)
			name := s.db.Name + "_somebody"
			s.superNamed("CREATE ROLE %s_somebody LOGIN")
			switch role {
			case "the worker's":
				name = pgtest.Runtime
			case "a writer's":
				s.exec("GRANT INSERT ON ai_usage_logs TO " + name)
			case "a reader's": // of the view, without what is behind it
				s.exec("GRANT USAGE ON SCHEMA tokenalert TO " + name)
				s.exec("GRANT SELECT ON tokenalert.current_usage TO " + name)
			case "the host's other role":
				s.exec("GRANT USAGE ON SCHEMA tokenalert TO " + name)
				s.exec("GRANT INSERT ON ai_usage_logs TO " + name)
			}
			conn := s.db.ConnAs(t, name)
			before := s.catalogue()
			for _, list := range forbidden {
				for _, sql := range list {
					_, err := conn.Exec(t.Context(), s.named(sql), pgx.QueryExecModeSimpleProtocol)
					assert.Equal(t, "42501", store.SQLState(err), "%s: %v", sql, err)
				}
			}
			s.requireSame(before, s.catalogue())
			s.requireSecretive(conn, name)
		})
	}
}

// requireSecretive looks where PostgreSQL answers without an error: statistics
// hold samples of the columns, and the list of sessions their statements.
func (s *site) requireSecretive(conn *pgx.Conn, role string) {
	s.t.Helper()
	s.superExec("ANALYZE")
	private := "SELECT count(*) FROM pg_stats WHERE tablename IN ('ai_usage_logs', 'users') AND attname IN ('prompt', 'response', 'email', 'password_hash')"
	require.NotZero(s.t, ask[int](s, private), "there is nothing to see")
	var samples, statements int
	require.NoError(s.t, conn.QueryRow(s.t.Context(), private).Scan(&samples))
	assert.Zero(s.t, samples)
	require.NoError(s.t, conn.QueryRow(s.t.Context(), `SELECT count(*) FROM pg_stat_activity
		WHERE datname = current_database() AND usename <> $1 AND query <> '<insufficient privilege>' AND query <> ''`, role).Scan(&statements))
	assert.Zero(s.t, statements)
}

// TestWhatEverybodyMayDo: what of ours goes to PUBLIC is here on purpose. The
// functions compute from their arguments, and need USAGE on the schema, which
// nobody has.
func TestWhatEverybodyMayDo(t *testing.T) {
	t.Parallel()
	for _, kind := range []host.Kind{host.CMSWithTrigger, host.LMS} {
		s := migratedSite(t, kind)
		assert.Equal(t, []string{
			"EXECUTE ON tokenalert.alert_columns(anyelement)",
			"EXECUTE ON tokenalert.are_thresholds(integer[])",
			"EXECUTE ON tokenalert.local_midnight(timestamp without time zone,text)",
			"EXECUTE ON tokenalert.now()",
			"EXECUTE ON tokenalert.period_end(integer,text,timestamp with time zone)",
			"EXECUTE ON tokenalert.period_start(integer,text,timestamp with time zone)",
			"EXECUTE ON tokenalert.reset_date(integer,timestamp without time zone)",
			"EXECUTE ON tokenalert.river_job_state_in_bitmask(bit,tokenalert.river_job_state)", // of River's index
			"SELECT ON tokenalert.doorbell",
		}, s.list(`
			SELECT format('%s ON %s', privilege_type, object) FROM (
				SELECT x.*, p.oid::regprocedure::text AS object FROM pg_proc p, aclexplode(coalesce(proacl, acldefault('f', proowner))) x
				WHERE pronamespace = 'tokenalert'::regnamespace
				UNION ALL
				SELECT x.*, c.oid::regclass::text FROM pg_class c, aclexplode(relacl) x WHERE relnamespace = 'tokenalert'::regnamespace
				UNION ALL
				SELECT x.*, format('%s (%s)', attrelid::regclass, attname) FROM pg_attribute, aclexplode(attacl) x WHERE NOT attisdropped AND attrelid >= 16384
				UNION ALL
				SELECT x.*, nspname::text FROM pg_namespace, aclexplode(nspacl) x WHERE nspname = 'tokenalert'
			) given WHERE grantee = 0 ORDER BY 1`))
	}
}

// TestOurFunctionsServeNoTriggerOfOthers: they act as the owner, so whoever could
// hang them on a table of their own would write corrections as they please.
func TestOurFunctionsServeNoTriggerOfOthers(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS)
	s.superNamed(`CREATE ROLE %s_somebody LOGIN; CREATE SCHEMA mine AUTHORIZATION %s_somebody`)
	for _, role := range []string{s.db.Name + "_somebody", pgtest.Runtime} {
		s.exec("GRANT USAGE ON SCHEMA tokenalert TO " + role)
		s.superExec("GRANT CREATE, USAGE ON SCHEMA mine TO " + pgtest.Runtime)
		conn := s.db.ConnAs(t, role)
		table := "mine." + role
		_, err := conn.Exec(t.Context(), "CREATE TABLE "+table+" (id uuid, user_id uuid, created_at timestamptz)")
		require.NoError(t, err)
		for _, trigger := range []string{
			"CREATE TRIGGER t AFTER TRUNCATE ON " + table + " EXECUTE FUNCTION tokenalert.record_correction('usage_truncated')",
			"CREATE TRIGGER t AFTER INSERT ON " + table + " FOR EACH ROW EXECUTE FUNCTION tokenalert.record_correction('user_deleted')",
			"CREATE TRIGGER t AFTER INSERT ON " + table + " EXECUTE FUNCTION tokenalert.ring()",
		} {
			_, err := conn.Exec(t.Context(), trigger)
			assert.Equal(t, "42501", store.SQLState(err), "as %s: %s: %v", role, trigger, err)
		}
	}
}

// TestAWriterByColumns: a writer with INSERT on the whole table may write xact_id
// by hand, and so hide a row, or have the worker take the table for another
// cluster's. One that has INSERT on the columns that it uses may not, and needs
// no more.
func TestAWriterByColumns(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS)
	user := s.user(100)
	s.exec("GRANT INSERT (user_id, organization_id, tokens_used) ON ai_usage_logs TO " + pgtest.Writer)
	writer := s.db.ConnAs(t, pgtest.Writer)
	_, err := writer.Exec(t.Context(), "INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used) VALUES ($1, $2, 85)", user, s.org)
	require.NoError(t, err)
	for _, id := range []string{"NULL", "'3'", "'9223372036854775807'"} {
		_, err = writer.Exec(t.Context(), "INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used, xact_id) VALUES ($1, $2, 1, "+id+")", user, s.org)
		assert.Equal(t, "42501", store.SQLState(err), "%v", err)
	}
	s.work()
	s.requireTotals()
	assert.Equal(t, []string{"80 told"}, s.alerts(user))
}

// TestWhoHoldsTheUsersHoldsUpTheirDeletionOnly: lock_users is the one function
// with which the worker's role reaches the host's rows. Whoever has got hold of
// that role can keep users from being deleted for as long as a transaction lasts,
// and nothing else.
func TestWhoHoldsTheUsersHoldsUpTheirDeletionOnly(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS)
	user, other := s.user(100), s.user(100)
	runtime := s.db.ConnAs(t, pgtest.Runtime)
	hold, err := runtime.Begin(t.Context())
	require.NoError(t, err)
	var held []uuid.UUID
	rows, err := hold.Query(t.Context(), "SELECT tokenalert.lock_users(ARRAY(SELECT id FROM users))")
	require.NoError(t, err)
	held, err = pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	require.NoError(t, err)
	require.ElementsMatch(t, []uuid.UUID{user, other}, held)

	s.exec("SET lock_timeout = '100ms'")
	s.use(user, 85)
	s.user(100)
	s.exec("UPDATE users SET xp = xp + 1, monthly_token_limit = 200, full_name = 'Somebody Else'")
	s.exec("UPDATE organizations SET name = 'Another'")
	for _, sql := range []string{"DELETE FROM users WHERE id = $1", "UPDATE users SET id = gen_random_uuid() WHERE id = $1"} {
		_, err = s.owner.Exec(t.Context(), sql, other)
		assert.Equal(t, "55P03", store.SQLState(err), "%s: %v", sql, err)
	}
	require.NoError(t, hold.Rollback(t.Context()))
	s.exec("DELETE FROM users WHERE id = $1", other)
}

// TestNoRoleReachesAnotherDatabase: the same role of the cluster has nothing in a
// database in which it was granted nothing.
func TestNoRoleReachesAnotherDatabase(t *testing.T) {
	t.Parallel()
	other := newSite(t, host.CMSWithTrigger)
	other.use(other.user(0), 10)
	for _, role := range []string{pgtest.Runtime, pgtest.Writer} {
		conn := other.db.ConnAs(t, role)
		for _, table := range []string{"ai_usage_logs", "users", "organizations", "token_limit_alerts"} {
			for _, sql := range []string{"SELECT FROM " + table, "INSERT INTO " + table + " DEFAULT VALUES"} {
				_, err := conn.Exec(t.Context(), sql)
				assert.Equal(t, "42501", store.SQLState(err), "as %s: %s: %v", role, sql, err)
			}
		}
	}
	s := migratedSite(t, host.CMS)
	_, err := s.db.ConnAs(t, pgtest.Runtime).Exec(t.Context(), "SELECT FROM "+other.db.Name+".public.users")
	require.Error(t, err)
	assert.True(t, strings.HasPrefix(store.SQLState(err), "0A"), "%v", err) // cross-database references are not implemented
}
