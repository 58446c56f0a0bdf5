package store_test

import (
	"context"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/store"
)

// trap is a schema of a role that may do nothing else. It holds what statements
// might find in place of what they mean: an operator for each pair of types, and
// functions and tables by the names that ours use. Nobody but that role may call
// its functions, so a statement that would run one fails when it begins, also
// where no row would have come to it.
const trap = `
CREATE ROLE %s_mallory LOGIN;
CREATE SCHEMA trap AUTHORIZATION %s_mallory;
GRANT USAGE ON SCHEMA trap TO PUBLIC;
SET ROLE %s_mallory;
SET search_path = pg_catalog;
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
CREATE TABLE trap.settings (bell_forced boolean);
CREATE TABLE trap.recounts (user_id uuid, at timestamptz, cause text);
CREATE TABLE trap.users (id uuid, organization_id uuid);
CREATE TABLE trap.organizations (id uuid);
DO $do$
DECLARE
	types text[] := '{bool,int2,int4,int8,numeric,float4,float8,text,varchar,name,regclass,uuid,timestamptz,timestamp,date,time,interval}';
	l text; r text; op text; yes text; fits text;
	does text := 'LANGUAGE plpgsql AS $f$ BEGIN RAISE ''the trap has sprung, as %'', current_user; END $f$';
BEGIN
	FOREACH l IN ARRAY types LOOP
		FOREACH r IN ARRAY types LOOP
			yes := format('trap.yes_%1$s_%2$s', l, r);
			fits := format('trap.fits_%1$s_%2$s', l, r);
			EXECUTE format('CREATE FUNCTION %1$s (%2$s, %3$s) RETURNS bool ', yes, l, r) || does;
			EXECUTE format('CREATE FUNCTION %1$s (%2$s, %3$s) RETURNS %2$s ', fits, l, r) || does;
			FOREACH op IN ARRAY '{=,<>,<,<=,>,>=}'::text[] LOOP
				EXECUTE format('CREATE OPERATOR trap.%1$s (LEFTARG = %2$s, RIGHTARG = %3$s, FUNCTION = %4$s)', op, l, r, yes);
			END LOOP;
			FOREACH op IN ARRAY '{+,-,*,/,||}'::text[] LOOP
				EXECUTE format('CREATE OPERATOR trap.%1$s (LEFTARG = %2$s, RIGHTARG = %3$s, FUNCTION = %4$s)', op, l, r, fits);
			END LOOP;
			EXECUTE format('CREATE FUNCTION trap.date_trunc(%1$s, %2$s) RETURNS timestamp ', l, r) || does;
			EXECUTE format('CREATE FUNCTION trap.timezone(%1$s, %2$s) RETURNS timestamp ', l, r) || does;
			EXECUTE format('CREATE FUNCTION trap.date_part(%1$s, %2$s) RETURNS float8 ', l, r) || does;
			EXECUTE format('CREATE FUNCTION trap.pg_notify(%1$s, %2$s) RETURNS void ', l, r) || does;
		END LOOP;
		EXECUTE format('CREATE FUNCTION trap.current_setting(%1$s) RETURNS text ', l) || does;
		EXECUTE format('CREATE FUNCTION trap.pg_sequence_last_value(%1$s) RETURNS int8 ', l) || does;
		EXECUTE format('CREATE FUNCTION trap.make_interval(days %1$s) RETURNS interval ', l) || does;
	END LOOP;
	EXECUTE 'CREATE FUNCTION trap.now() RETURNS timestamptz ' || does;
	EXECUTE 'CREATE FUNCTION trap.clock_timestamp() RETURNS timestamptz ' || does;
	EXECUTE 'CREATE FUNCTION trap.pg_notification_queue_usage() RETURNS float8 ' || does;
END
$do$`

// along connects as a role with a search_path, and notes what the server warns of.
func (s *site) along(role, path string, warnings *[]string) *pgx.Conn {
	s.t.Helper()
	config, err := pgx.ParseConfig(s.db.URLAs(role) + "&search_path=" + url.QueryEscape(path))
	require.NoError(s.t, err)
	config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		if warnings != nil {
			*warnings = append(*warnings, n.Message)
		}
	}
	conn, err := pgx.ConnectConfig(s.t.Context(), config)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// TestTheTrapSprings, or the tests below would see nothing.
func TestTheTrapSprings(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS)
	s.superNamed(trap)
	for path, sql := range map[string]string{
		"trap,public":            "SELECT 1::int4 + 1::numeric", // fits better than numeric + numeric
		"trap,pg_catalog,public": "SELECT 1::int4 + 1::int4",
	} {
		_, err := s.along(pgtest.Owner, path, nil).Exec(t.Context(), sql)
		require.ErrorContains(t, err, "permission denied for function fits_int4_", path)
	}
}

// TestFunctionsThatRunAsTheOwnerFindTheirOwn although whoever causes them to run
// has put something else before everything, temporary tables included.
func TestFunctionsThatRunAsTheOwnerFindTheirOwn(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS)
	user, leaves := s.user(100), s.user(100)
	s.superNamed(trap)
	s.exec("GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ai_usage_logs, users TO " + pgtest.Writer)
	s.exec("SELECT setval('tokenalert.doorbell', 4000000000)") // armed
	heard := s.db.ConnAs(t, pgtest.Owner)
	_, err := heard.Exec(t.Context(), "LISTEN tokenalert")
	require.NoError(t, err)
	var warnings []string
	writer := s.along(pgtest.Writer, "trap,pg_catalog,public", &warnings)
	_, err = writer.Exec(t.Context(), `
		CREATE TEMPORARY TABLE settings (bell_forced boolean); CREATE TEMPORARY TABLE recounts (user_id uuid, at timestamptz, cause text);
		CREATE TEMPORARY TABLE users (id uuid, organization_id uuid); CREATE TEMPORARY TABLE ai_usage_logs (user_id uuid);
		CREATE DOMAIN pg_temp.uuid AS text; CREATE DOMAIN pg_temp.timestamptz AS text`, pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
	for _, step := range []struct{ sql, causes string }{
		{"INSERT INTO public.ai_usage_logs (user_id, organization_id, tokens_used) VALUES ($1, $2, 85)", ""},
		{"UPDATE public.ai_usage_logs SET tokens_used = 86 WHERE user_id OPERATOR(pg_catalog.=) $1 AND organization_id OPERATOR(pg_catalog.=) $2", "usage_changed"},
		{"UPDATE public.users SET monthly_token_limit = 200, token_limit_reset_day = 2 WHERE id OPERATOR(pg_catalog.=) $1 AND organization_id OPERATOR(pg_catalog.=) $2", "limit_changed,user_changed"},
		{"DELETE FROM public.ai_usage_logs WHERE user_id OPERATOR(pg_catalog.=) $1 AND organization_id OPERATOR(pg_catalog.=) $2", "usage_deleted"},
	} {
		s.exec("TRUNCATE tokenalert.recounts")
		_, err := writer.Exec(t.Context(), step.sql, user, s.org)
		require.NoError(t, err, step.sql)
		assert.Equal(t, step.causes, ask[string](s, "SELECT coalesce(string_agg(cause, ',' ORDER BY cause), '') FROM tokenalert.recounts WHERE user_id = $1", user), step.sql)
		ringing, cancel := context.WithTimeout(t.Context(), siteWithin)
		_, err = heard.WaitForNotification(ringing)
		cancel()
		require.NoError(t, err, "%s did not ring", step.sql)
	}
	s.exec("TRUNCATE tokenalert.recounts")
	_, err = writer.Exec(t.Context(), "DELETE FROM public.users WHERE id OPERATOR(pg_catalog.=) $1", leaves)
	require.NoError(t, err)
	_, err = writer.Exec(t.Context(), "TRUNCATE public.ai_usage_logs")
	require.NoError(t, err)
	assert.Equal(t, []string{"usage_truncated", "user_deleted"}, s.list("SELECT cause FROM tokenalert.recounts ORDER BY 1"))
	assert.Empty(t, warnings)
	var astray int
	require.NoError(t, s.db.Conn(t).QueryRow(t.Context(), "SELECT count(*) FROM trap.recounts").Scan(&astray))
	assert.Zero(t, astray)

	runtime := s.along(pgtest.Runtime, "trap,pg_catalog,public", nil)
	_, err = runtime.Exec(t.Context(), "CREATE TEMPORARY TABLE users AS SELECT '"+leaves.String()+"'::uuid AS id, '"+s.org.String()+"'::uuid AS organization_id")
	require.NoError(t, err)
	rows, err := runtime.Query(t.Context(), "SELECT tokenalert.lock_users($1)", []uuid.UUID{user, leaves})
	require.NoError(t, err)
	locked, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	require.NoError(t, err)
	assert.Equal(t, []uuid.UUID{user}, locked)
}

// TestPeriodsFindNoOperatorOfOthers: the functions of time do not set a
// search_path, which would add to what each call costs. Every operand has the
// type that an operator in pg_catalog declares, so no other fits better.
func TestPeriodsFindNoOperatorOfOthers(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS)
	s.superNamed(trap)
	s.limit(s.user(0), 100)
	s.work()
	const periods = `
		SELECT pg_catalog.concat(zone, ' ', day, ' ', at, ': ', tokenalert.period_start(day, zone, at), ' ', tokenalert.period_end(day, zone, at))
		FROM pg_catalog.unnest('{UTC,America/Sao_Paulo,Asia/Beirut,America/Santiago,Pacific/Apia,America/Havana}'::pg_catalog.text[]) AS zone,
		     pg_catalog.generate_series(-1, 32) AS day, -- each through a whole year, and through changes of clocks at midnight
		     pg_catalog.unnest('{2011-12-30 10:00+00,2016-02-29 00:00+00,2018-11-04 02:59:59+00,2018-11-04 03:00+00,2024-03-30 22:30+00,2024-10-26 21:30+00,
		         2024-09-08 04:00+00,2024-04-07 03:30+00,2024-11-03 04:30+00,2025-03-09 05:00+00,2025-06-15 12:00+00,infinity}'::pg_catalog.timestamptz[]) AS at`
	read := func(path string) []string {
		t.Helper()
		rows, err := s.along(pgtest.Owner, path, nil).Query(t.Context(), periods)
		require.NoError(t, err)
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err, "search_path %s", path)
		return lines
	}
	assert.Equal(t, read("public"), read("trap,public"))

	var tokens int64
	err := s.along(pgtest.Owner, "trap,public", nil).QueryRow(t.Context(), "SELECT tokens_used FROM tokenalert.current_usage").Scan(&tokens)
	require.NoError(t, err, "the view")
}

// loot is what a role does with a public schema in which everybody may create, as
// they are made up to PostgreSQL 14: functions that fit what commands call better
// than those of pg_catalog, which note who ran them. An operator as well.
const loot = `
SET ROLE host_writer;
CREATE TABLE public.loot (who name, ran text);
GRANT SELECT, INSERT ON public.loot TO PUBLIC;
CREATE FUNCTION public.pg_try_advisory_lock(text) RETURNS boolean LANGUAGE sql AS $$ INSERT INTO public.loot VALUES (current_user, 'pg_try_advisory_lock'); SELECT true $$;
CREATE FUNCTION public.quote_ident(name) RETURNS text LANGUAGE sql AS $$ INSERT INTO public.loot VALUES (current_user, 'quote_ident'); SELECT '' $$;
CREATE FUNCTION public.regclass_is(oid, regclass) RETURNS boolean LANGUAGE sql AS $$ INSERT INTO public.loot VALUES (current_user, '='); SELECT true $$;
CREATE OPERATOR public.= (LEFTARG = oid, RIGHTARG = regclass, FUNCTION = public.regclass_is);
RESET ROLE`

// TestWhatOthersHavePutInTheSearchPathIsNotRun by commands that are given to the
// owner or a superuser: they look before they do anything else.
func TestWhatOthersHavePutInTheSearchPathIsNotRun(t *testing.T) {
	t.Parallel()
	for _, role := range []string{pgtest.Owner, "postgres"} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			s := migratedSite(t, host.CMS)
			s.superNamed("GRANT CREATE ON SCHEMA public TO PUBLIC")
			require.Equal(t, []string{"everybody may create objects in schema public, which the search_path of role " + role +
				" leads to, and with them have statements run as that role, or find other tables"}, saysOf(examined(t, s.diagnose(role), "trusted-path")))
			s.superNamed(loot)
			m := s.migrator(role, nil)
			for command, err := range map[string]error{
				"migrate up":           m.Up(t.Context()),
				"migrate grant":        m.Grant(t.Context(), pgtest.Runtime),
				"migrate down":         m.Down(t.Context()),
				"status and the like:": s.opened(role).Installed(t.Context()),
			} {
				require.ErrorIs(t, err, store.ErrShadowed, command)
				require.ErrorContains(t, err, "FUNCTION public.pg_try_advisory_lock(text) (host_writer)", command)
			}
			d := s.diagnose(role)
			require.Len(t, d.Checks, 1, "%+v", d)
			assert.Equal(t, role, d.Role)
			finding := d.Checks[0].Findings[0]
			assert.Equal(t, store.Broken, finding.Severity)
			assert.Equal(t, []string{
				"DROP OPERATOR public.=(oid,regclass);",
				"DROP FUNCTION public.pg_try_advisory_lock(text);", "DROP FUNCTION public.quote_ident(name);",
			}, finding.Commands)
			assert.Empty(t, s.list("SELECT format('%s as %s', ran, who) FROM public.loot"))

			// It would have been run.
			conn := s.along(role, "public", nil)
			for _, sql := range []string{
				"SELECT pg_try_advisory_lock($1)", "SELECT quote_ident(current_database())", "SELECT FROM pg_class c WHERE c.oid = 'users'::regclass",
			} {
				if strings.Contains(sql, "$1") {
					_, err := conn.Exec(t.Context(), sql, "1")
					require.NoError(t, err)
					continue
				}
				_, err := conn.Exec(t.Context(), sql)
				require.NoError(t, err)
			}
			assert.Equal(t, []string{"= as " + role, "pg_try_advisory_lock as " + role, "quote_ident as " + role},
				s.list("SELECT DISTINCT format('%s as %s', ran, who) FROM public.loot ORDER BY 1"))

			s.follow(finding)
			require.NoError(t, s.opened(role).Installed(t.Context()))
			diary := &diary{}
			require.NoError(t, s.migrator(role, diary.note).Up(t.Context()))
			assert.True(t, diary.has("everybody may create objects in schema public"), "%v", diary.sentences)
		})
	}
}

func saysOf(x store.Examined) []string {
	var says []string
	for _, f := range x.Findings {
		says = append(says, f.Says)
	}
	return says
}

// opened is a store for a command that runs once, as a role.
func (s *site) opened(role string) *store.Store {
	s.t.Helper()
	st, err := store.OpenFor("status", s.db.URLAs(role), "")
	require.NoError(s.t, err)
	s.t.Cleanup(st.Close)
	return st
}

func TestTheDoctorFindsFaultsOfTheSearchPath(t *testing.T) {
	t.Parallel()
	runFaults(t, map[string]fault{
		"public, as it is made up to PostgreSQL 14": {
			check: "trusted-path", as: pgtest.Runtime, make: doing("GRANT CREATE ON SCHEMA public TO PUBLIC"),
			severity: store.Warning, says: []string{"everybody may create objects in schema public"},
			commands: []string{"REVOKE CREATE ON SCHEMA public FROM PUBLIC;"},
		},
		"another role's right to create in the host's schema": {
			check: "trusted-path", make: doing("GRANT CREATE ON SCHEMA public TO host_writer"),
			severity: store.Warning, says: []string{"role host_writer may create objects in schema public"},
			commands: []string{"REVOKE CREATE ON SCHEMA public FROM host_writer;"},
		},
		"another role's schema before the host's": {
			check: "trusted-path", as: pgtest.Runtime,
			make:     doing("CREATE SCHEMA early AUTHORIZATION host_writer; GRANT USAGE ON SCHEMA early TO PUBLIC; ALTER ROLE tokenalert_runtime IN DATABASE %s SET search_path = early, public"),
			severity: store.Warning, says: []string{"role host_writer may create objects in schema early"},
			cure: doing("ALTER SCHEMA early OWNER TO host_owner; REVOKE ALL ON SCHEMA early FROM host_writer"),
		},
		"somebody who may create the schema of the role's name": {
			check: "trusted-path", as: pgtest.Runtime, make: doing("GRANT CREATE ON DATABASE %s TO host_writer"),
			severity: store.Warning, says: []string{"role host_writer may create a schema by the name of role tokenalert_runtime"},
			commands: []string{"REVOKE CREATE ON DATABASE %s FROM host_writer;"},
		},
		"a better operator": {
			check: "trusted-path", as: pgtest.Runtime,
			make: doing(`CREATE FUNCTION public.same(oid, regclass) RETURNS boolean LANGUAGE sql AS 'SELECT true';
				CREATE OPERATOR public.= (LEFTARG = oid, RIGHTARG = regclass, FUNCTION = public.same); ALTER OPERATOR public.= (oid, regclass) OWNER TO host_writer`),
			severity: store.Broken, says: []string{"1 object of another role in the search_path of role tokenalert_runtime may be run", "OPERATOR public.=(oid,regclass) (host_writer)"},
			commands: []string{"DROP OPERATOR public.=(oid,regclass);"},
		},
	})
}

// TestOwnFunctionsAreNoShadows: an extension's, the owner's, those of roles that
// the owner can act as, and those by names of their own.
func TestOwnFunctionsAreNoShadows(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS)
	s.superNamed(`
		CREATE ROLE %s_group; GRANT %s_group TO host_owner; CREATE ROLE %s_other;
		CREATE FUNCTION public.round(text) RETURNS text LANGUAGE sql AS 'SELECT $1';
		CREATE FUNCTION public.left(uuid) RETURNS text LANGUAGE sql AS 'SELECT 1'; ALTER FUNCTION public.left(uuid) OWNER TO host_owner;
		CREATE FUNCTION public.right(uuid) RETURNS text LANGUAGE sql AS 'SELECT 1'; ALTER FUNCTION public.right(uuid) OWNER TO %s_group;
		CREATE FUNCTION public.grade(uuid) RETURNS text LANGUAGE sql AS 'SELECT 1'; ALTER FUNCTION public.grade(uuid) OWNER TO %s_other;
		CREATE SCHEMA aside AUTHORIZATION %s_other; CREATE FUNCTION aside.sum(uuid) RETURNS text LANGUAGE sql AS 'SELECT 1'; ALTER FUNCTION aside.sum(uuid) OWNER TO %s_other`)
	for _, role := range []string{pgtest.Owner, pgtest.Runtime, "postgres"} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		require.NoError(t, s.opened(role).Installed(ctx), role)
		cancel()
		assert.Empty(t, examined(t, s.diagnose(role), "trusted-path").Findings, role)
	}
}
