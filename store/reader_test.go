package store_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/store"
)

// reader makes a role that is given what reads our views.
func (s *site) reader() string {
	s.t.Helper()
	s.superNamed("CREATE ROLE %s_reader LOGIN")
	require.NoError(s.t, s.migrator(pgtest.Owner, nil).GrantRead(s.t.Context(), s.named("%s_reader")))
	return s.named("%s_reader")
}

// readersNeed is all that such a role is to have.
var readersNeed = []string{
	"EXECUTE ON FUNCTION tokenalert.alert_columns(anyelement)",
	"EXECUTE ON FUNCTION tokenalert.local_midnight(timestamp without time zone,text)",
	"EXECUTE ON FUNCTION tokenalert.now()",
	"EXECUTE ON FUNCTION tokenalert.period_end(integer,text,timestamp with time zone)",
	"EXECUTE ON FUNCTION tokenalert.period_start(integer,text,timestamp with time zone)",
	"EXECUTE ON FUNCTION tokenalert.reset_date(integer,timestamp without time zone)",
	"SELECT ON tokenalert.alert_history",
	"SELECT ON tokenalert.budget_history",
	"SELECT ON tokenalert.current_budgets",
	"SELECT ON tokenalert.current_usage",
	"USAGE ON SCHEMA tokenalert",
}

// readAll reads all of the views and returns the first error.
func readAll(ctx context.Context, conn *pgx.Conn) error {
	for _, view := range []string{"current_usage", "alert_history", "current_budgets", "budget_history"} {
		if _, err := conn.Exec(ctx, "SELECT * FROM tokenalert."+view); err != nil {
			return err
		}
	}
	return nil
}

func TestAReaderHasExactlyTheseGrants(t *testing.T) {
	t.Parallel()
	for _, kind := range []host.Kind{host.CMSWithTrigger, host.CMS, host.LMS} {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			s := migratedSite(t, kind)
			assert.Equal(t, readersNeed, s.granted(s.reader()))
		})
	}
}

// TestAReaderNeedsEachGrant takes away one at a time, in a database in which
// PUBLIC has nothing, and USAGE on the host's schema is not among them.
func TestAReaderNeedsEachGrant(t *testing.T) {
	t.Parallel()
	for _, kind := range []host.Kind{host.CMS, host.LMS} {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, kind)
			s.exec("ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC")
			s.superExec("REVOKE ALL ON SCHEMA public FROM PUBLIC")
			s.up()
			user := s.user(0)
			s.limit(user, 100)
			s.use(user, 85)
			s.work()
			role := s.reader()
			conn := s.db.ConnAs(t, role)
			require.NoError(t, readAll(t.Context(), conn))
			for _, privilege := range s.granted(role) {
				s.exec("REVOKE " + privilege + " FROM " + role)
				err := readAll(t.Context(), conn)
				require.Error(t, err, "nothing needs %s", privilege)
				assert.Equal(t, "42501", store.SQLState(err), "without %s: %v", privilege, err)
				s.exec("GRANT " + privilege + " TO " + role)
			}
			require.NoError(t, readAll(t.Context(), conn))
		})
	}
}

// TestAReaderReadsNothingElse: no other table or view there is, of ours or of
// the host's, nor what the lists of the other roles have.
func TestAReaderReadsNothingElse(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS)
	s.use(s.user(100), 85)
	s.work()
	role := s.reader()
	conn := s.db.ConnAs(t, role)
	var may []string
	for _, name := range s.list(`SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind IN ('r', 'v', 'S', 'm', 'p') AND n.nspname IN ('tokenalert', 'public') ORDER BY 1`) {
		if _, err := conn.Exec(t.Context(), "SELECT FROM "+name); err == nil {
			may = append(may, name)
		} else {
			assert.Equal(t, "42501", store.SQLState(err), "%s: %v", name, err)
		}
	}
	assert.Equal(t, []string{"tokenalert.alert_history", "tokenalert.budget_history", "tokenalert.current_budgets", "tokenalert.current_usage", "tokenalert.doorbell"}, may, "the bell is for everybody")
	for _, sql := range slices.Concat(forNobody, forTheWorkerOnly) {
		_, err := conn.Exec(t.Context(), s.named(sql), pgx.QueryExecModeSimpleProtocol)
		assert.Equal(t, "42501", store.SQLState(err), "%s: %v", sql, err)
	}
	for _, view := range []string{"tokenalert.current_usage", "tokenalert.alert_history"} { // neither has columns that could be written
		for _, sql := range []string{"DELETE FROM " + view, "UPDATE " + view + " SET user_id = NULL"} {
			_, err := conn.Exec(t.Context(), sql)
			assert.Contains(t, []string{"42501", "55000"}, store.SQLState(err), "%s: %v", sql, err)
		}
	}
	s.requireSecretive(conn, role)
}

// TestReadersAreRemembered: `up` gives again what a restore without privileges
// has lost, and what `down` took back: the role has nothing in between.
func TestReadersAreRemembered(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS)
	role := s.reader()
	m := s.migrator(pgtest.Owner, nil)
	require.NoError(t, m.GrantRead(t.Context(), role)) // once more changes nothing
	s.exec("REVOKE ALL ON ALL TABLES IN SCHEMA tokenalert FROM " + role)
	s.exec("REVOKE ALL ON ALL FUNCTIONS IN SCHEMA tokenalert FROM " + role)
	s.exec("REVOKE ALL ON SCHEMA tokenalert FROM " + role)
	require.Empty(t, s.granted(role))
	require.NoError(t, m.Up(t.Context()))
	assert.Equal(t, readersNeed, s.granted(role))
	assert.Equal(t, []string{pgtest.Runtime}, s.list("SELECT role::text FROM tokenalert.granted_roles"), "a reader does not run")

	require.NoError(t, m.Down(t.Context()))
	assert.Empty(t, s.granted(role))
	require.NoError(t, m.Up(t.Context()))
	assert.Equal(t, readersNeed, s.granted(role))
	assert.False(t, ask[bool](s, "SELECT to_regnamespace('tokenalert_archive') IS NOT NULL"))
}

// TestReadersAreRememberedByADownThatWentNoFurther than its first step, as one
// that does not get the tables' locks.
func TestReadersAreRememberedByADownThatWentNoFurther(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS)
	role := s.reader()
	before := s.catalogue()
	blocker := s.db.ConnAs(t, pgtest.Owner)
	_, err := blocker.Exec(t.Context(), "BEGIN; LOCK TABLE users IN ROW EXCLUSIVE MODE") // a writer
	require.NoError(t, err)
	m := s.migrator(pgtest.Owner, nil)
	m.LockPatience = 0
	require.ErrorContains(t, m.Down(t.Context()), "the lock was not to be had")
	require.Error(t, readAll(t.Context(), s.db.ConnAs(t, role)))
	_, err = blocker.Exec(t.Context(), "ROLLBACK")
	require.NoError(t, err)
	require.NoError(t, m.Up(t.Context()))
	assert.Equal(t, readersNeed, s.granted(role))
	s.requireSame(before, s.catalogue())
}

// TestAWorkerMayReadToo: the two grants of one role do not stand in each other's way.
func TestAWorkerMayReadToo(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS)
	had := s.granted(pgtest.Runtime)
	require.NoError(t, s.migrator(pgtest.Owner, nil).GrantRead(t.Context(), pgtest.Runtime))
	for _, privilege := range slices.Concat(had, readersNeed) {
		assert.Contains(t, s.granted(pgtest.Runtime), privilege)
	}
	require.NoError(t, readAll(t.Context(), s.db.ConnAs(t, pgtest.Runtime)))
	require.NoError(t, s.duties(t.Context(), pgtest.Runtime))
}

func TestGrantReadRefuses(t *testing.T) {
	t.Parallel()
	s := newSite(t, host.CMS)
	m := s.migrator(pgtest.Owner, nil)
	err := m.GrantRead(t.Context(), pgtest.Runtime)
	require.ErrorIs(t, err, store.ErrSchema)
	require.ErrorContains(t, err, "migrate up")
	s.up()
	err = m.GrantRead(t.Context(), "nobody")
	require.ErrorContains(t, err, `role "nobody" does not exist`)
	assert.Empty(t, s.list("SELECT role::text FROM tokenalert.granted_readers"))
	s.exec("UPDATE tokenalert.goose_db_version SET version_id = -1 WHERE version_id = (SELECT max(version_id) FROM tokenalert.goose_db_version)")
	err = m.GrantRead(t.Context(), pgtest.Runtime)
	require.ErrorIs(t, err, store.ErrSchema)
	require.ErrorContains(t, err, "migrate up")
}

func TestTheDoctorFindsReadersWithout(t *testing.T) {
	t.Parallel()
	given := func(s *site) { s.reader() }
	runFaults(t, map[string]fault{
		"a reader has lost a view and a function": {
			check: "grants", before: given,
			make:     doing("REVOKE ALL ON tokenalert.alert_history FROM %s_reader; REVOKE ALL ON FUNCTION tokenalert.alert_columns(anyelement) FROM %s_reader, PUBLIC"),
			severity: store.Warning, says: []string{
				"role %s_reader cannot read usage and alerts: it lacks SELECT ON TABLE tokenalert.alert_history, EXECUTE ON FUNCTION tokenalert.alert_columns(anyelement)",
			},
			commands: []string{"tokenalert migrate grant --read %s_reader"},
			cure: func(s *site) {
				require.NoError(s.t, s.migrator(pgtest.Owner, nil).GrantRead(s.t.Context(), s.named("%s_reader")))
			},
		},
		"a reader that is not there": {
			check: "grants", make: doing("INSERT INTO tokenalert.granted_readers (role) VALUES ('nobody')"),
			severity: store.Note, says: []string{"role nobody, which was granted, does not exist"},
			commands: []string{"DELETE FROM tokenalert.granted_readers WHERE role = 'nobody';"},
		},
		"a view gone": {
			check: "schema", make: doing("ALTER VIEW tokenalert.alert_history RENAME TO alerts"),
			severity: store.Broken, says: []string{"1 object of ours is gone: tokenalert.alert_history"},
			commands: []string{"pg_dump --schema-only --schema=tokenalert"},
			cure:     doing("ALTER VIEW tokenalert.alerts RENAME TO alert_history"),
		},
	})
}

// TestEveryColumnOfTheViewsIsExplained where psql's \d+ and an admin tool show it.
func TestEveryColumnOfTheViewsIsExplained(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.LMS)
	const columns = `SELECT format('%s.%s %s', attrelid::regclass, attname, format_type(atttypid, atttypmod)) FROM pg_attribute
		WHERE attrelid IN ('tokenalert.current_usage'::regclass, 'tokenalert.alert_history'::regclass) AND attnum > 0`
	assert.Empty(t, s.list(columns+" AND col_description(attrelid, attnum) IS NULL"))
	assert.Len(t, s.list("SELECT obj_description(oid) FROM pg_class WHERE relkind = 'v' AND relnamespace = 'tokenalert'::regnamespace AND obj_description(oid) <> ''"), 2)
	assert.Equal(t, strings.Fields(`
		tokenalert.current_usage.user_id:uuid tokenalert.current_usage.organization_id:uuid
		tokenalert.current_usage.tokens_used:bigint tokenalert.current_usage.token_limit:bigint tokenalert.current_usage.percent_used:numeric
		tokenalert.current_usage.period_start:timestamptz tokenalert.current_usage.resets_at:timestamptz
		tokenalert.alert_history.alert_id:uuid tokenalert.alert_history.user_id:uuid tokenalert.alert_history.organization_id:uuid
		tokenalert.alert_history.threshold:integer tokenalert.alert_history.token_limit:bigint tokenalert.alert_history.tokens_used:bigint
		tokenalert.alert_history.percent_used:numeric tokenalert.alert_history.period_start:timestamptz tokenalert.alert_history.resets_at:timestamptz
		tokenalert.alert_history.crossed_at:timestamptz tokenalert.alert_history.told:boolean tokenalert.alert_history.told_at:timestamptz
		tokenalert.alert_history.how:text tokenalert.alert_history.reason:text tokenalert.alert_history.notification_id:uuid`),
		s.list(`SELECT replace(replace(line, ' ', ':'), 'timestamp:with:time:zone', 'timestamptz')
			FROM (`+columns+` ORDER BY attrelid::regclass::text DESC, attnum) AS t (line)`))
}

// TestAlertHistoryHasTheHostsRowsToo: those that it wrote before we came.
func TestAlertHistoryHasTheHostsRowsToo(t *testing.T) {
	t.Parallel()
	s := newSite(t, host.CMSWithTrigger)
	user := s.user(1000)
	s.exec(`INSERT INTO token_limit_alerts (user_id, organization_id, alert_threshold, alert_sent, alert_type, created_at, sent_at)
		VALUES ($1, $2, 80, true, 'both', '2026-01-05', '2026-02-05'), ($1, $2, 90, NULL, 'email', NULL, NULL)`, user, s.org)
	s.up()
	s.use(user, 950)
	s.work()
	conn := s.db.ConnAs(t, s.reader())
	rows, err := conn.Query(t.Context(), `
		SELECT concat_ws(' ', threshold, token_limit, tokens_used, percent_used, crossed_at::date, told, told_at::date, how, reason, notification_id IS NOT NULL)
		FROM tokenalert.alert_history WHERE user_id = $1 AND organization_id = $2 AND period_start IS NULL ORDER BY threshold`, user, s.org)
	require.NoError(t, err)
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	assert.Equal(t, []string{"80 2026-01-05 t 2026-02-05 both f", "90 f f"}, lines)

	rows, err = conn.Query(t.Context(), `
		SELECT concat_ws(' ', threshold, token_limit, tokens_used, percent_used, crossed_at >= period_start AND crossed_at < resets_at,
		                 told, told_at = crossed_at, how, reason, notification_id IS NOT NULL)
		FROM tokenalert.alert_history WHERE user_id = $1 AND period_start IS NOT NULL ORDER BY threshold`, user)
	require.NoError(t, err)
	lines, err = pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	assert.Equal(t, []string{"80 1000 950 95.0 t f superseded f", "90 1000 950 95.0 t t t notification t"}, lines)
}

// TestTheViewsKeepNobodyFromAltering what the host's tables have, but for ids and
// what our triggers look at, and yield the same afterwards.
func TestTheViewsKeepNobodyFromAltering(t *testing.T) {
	t.Parallel()
	s := newSite(t, host.CMSWithTrigger)
	s.up()
	user := s.user(1000)
	s.use(user, 950)
	s.work()
	read := func() []string {
		t.Helper()
		return append(s.list("SELECT to_jsonb(h)::text FROM tokenalert.alert_history h ORDER BY alert_id"),
			s.list("SELECT to_jsonb(u)::text FROM tokenalert.current_usage u ORDER BY user_id")...)
	}
	before := read()
	require.Len(t, before, 3)
	for _, sql := range []string{
		"ALTER TABLE token_limit_alerts DROP CONSTRAINT token_limit_alerts_alert_type_check, ALTER alert_type TYPE text",
		"ALTER TABLE token_limit_alerts ALTER alert_threshold TYPE smallint",
		"ALTER TABLE token_limit_alerts ALTER sent_at TYPE timestamptz(6), ALTER created_at TYPE timestamptz(6)",
		"ALTER TABLE token_limit_alerts ADD COLUMN seen_by uuid, ADD COLUMN seen boolean NOT NULL DEFAULT false",
		"ALTER TABLE users ALTER full_name TYPE varchar(500), ALTER email TYPE varchar(500), ADD COLUMN phone text, DROP COLUMN xp",
	} {
		s.exec(sql)
		assert.Equal(t, before, read(), "after %s", sql)
	}
	for sql, why := range map[string]string{ // docs/operations.md says so
		"ALTER TABLE users ALTER monthly_token_limit TYPE bigint":     "trigger",
		"ALTER TABLE users ALTER organization_id TYPE text":           "trigger",
		"ALTER TABLE users ALTER id TYPE text":                        "current_usage",
		"ALTER TABLE token_limit_alerts ALTER user_id TYPE text":      "alert_history",
		"ALTER TABLE token_limit_alerts ALTER token_limit TYPE float": "alert_history",
	} {
		_, err := s.owner.Exec(t.Context(), sql)
		var refusal *pgconn.PgError
		require.ErrorAs(t, err, &refusal, sql)
		assert.Contains(t, refusal.Detail, why, sql)
	}
}

// TestDownStopsBeforeAViewOfTheHosts upon ours, while all is still there.
func TestDownStopsBeforeAViewOfTheHosts(t *testing.T) {
	t.Parallel()
	for _, view := range []string{"current_usage", "alert_history"} {
		s := migratedSite(t, host.CMS)
		s.exec("CREATE VIEW admin_page AS SELECT user_id FROM tokenalert." + view)
		before := s.catalogue()
		err := s.migrator(pgtest.Owner, nil).Down(t.Context())
		require.ErrorContains(t, err, "other views read ours; drop them first: admin_page")
		s.requireSame(before, s.catalogue())
		s.exec("DROP VIEW admin_page")
		s.down()
	}
}

// TestTheViewsReadByIndex what is asked of one user, an organization or a month.
func TestTheViewsReadByIndex(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	c.fill(2000, 1)
	c.exec("INSERT INTO tokenalert.settings (time_zone, thresholds, worker, changed_at) VALUES ('UTC', '{80}', 'test', now())")
	c.exec("UPDATE token_limit_alerts SET created_at = period_start")
	other, err := host.NewOrganization(t.Context(), c.owner, "Another")
	require.NoError(t, err)
	c.exec("UPDATE users SET organization_id = $1 WHERE id IN (SELECT id FROM users ORDER BY id LIMIT 20)", other)
	c.exec("UPDATE token_limit_alerts t SET organization_id = u.organization_id FROM users u WHERE u.id = t.user_id")
	c.exec("VACUUM ANALYZE")
	user := ask[uuid.UUID](c.site, "SELECT id FROM users ORDER BY id LIMIT 1")
	for query, index := range map[string][]string{
		"SELECT * FROM tokenalert.current_usage WHERE user_id = '%user'":                                                                    {"users_pkey", "usage_periods_pkey"},
		"SELECT * FROM tokenalert.current_usage WHERE organization_id = '%org'":                                                             {"users_organization_email", "usage_periods_pkey"},
		"SELECT * FROM users u LEFT JOIN tokenalert.current_usage c ON c.user_id = u.id WHERE u.id = '%user'":                               {"users_pkey", "usage_periods_pkey"},
		"SELECT * FROM tokenalert.alert_history WHERE user_id = '%user' ORDER BY crossed_at":                                                {"token_limit_alerts_told_once"},
		"SELECT * FROM tokenalert.alert_history WHERE organization_id = '%org' ORDER BY crossed_at":                                         {"idx_token_alerts_org"},
		"SELECT * FROM tokenalert.alert_history WHERE alert_id = '%user'":                                                                   {"token_limit_alerts_pkey"},
		"SELECT * FROM tokenalert.alert_history ORDER BY crossed_at DESC LIMIT 50":                                                          {"token_limit_alerts_created_at_idx"},
		"SELECT * FROM tokenalert.alert_history WHERE crossed_at >= now() - interval '70 days' AND crossed_at < now() - interval '40 days'": {"token_limit_alerts_created_at_idx"},
	} {
		sql := strings.NewReplacer("%user", user.String(), "%org", other.String()).Replace(query)
		plan := parsePlan(t, ask[string](c.site, "EXPLAIN (FORMAT JSON) "+sql))
		var used []string
		each(plan, func(n planNode) {
			if n.Index != "" {
				used = append(used, n.Index)
			}
			assert.False(t, n.NodeType == "Seq Scan" && n.Relation != "settings" && n.Relation != "policies", "%s: reads all of %s\n%s", query, n.Relation, outline(plan, ""))
		})
		assert.Subset(t, used, index, "%s\n%s", query, outline(plan, ""))
	}

	// Of everybody, the bounds of periods are worked out once for each reset day.
	once := 0
	each(parsePlan(t, ask[string](c.site, "EXPLAIN (FORMAT JSON) SELECT sum(tokens_used) FROM tokenalert.current_usage")), func(n planNode) {
		if n.NodeType == "Memoize" {
			once++
		}
	})
	assert.Equal(t, 1, once)
}
