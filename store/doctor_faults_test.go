package store_test

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/migrations"
	"tokenalert/store"
)

// fault is something wrong, made on an installation in which the check of that
// name finds nothing like it.
type fault struct {
	kind   host.Kind
	check  string
	as     string                            // who asks; "": the owner
	path   string                            // search_path of who asks; "": as it is
	before func(*site)                       // what is there before, and no fault
	make   func(*site)                       // makes the fault in the database ...
	differ func(*site, *store.DoctorRequest) // ... or in what it is compared with

	severity store.Severity
	says     []string
	remedy   string   // a part of it, where there is no command
	commands []string // exact, with %s for the database; nil: only words

	cure func(*site) // what makes the finding go away; nil: its commands
}

// onlyWords is the cure of what no statement cures: the test takes the fault
// away itself, by asking as before.
func onlyWords(*site) {}

// run sees silence, then the finding, then silence again.
func (f fault) run(t *testing.T, s *site) {
	t.Helper()
	if f.as == "" {
		f.as = pgtest.Owner
	}
	look := func(q store.DoctorRequest) []store.Finding {
		address := s.db.URLAs(f.as)
		if f.path != "" {
			address += "&search_path=" + url.QueryEscape(f.path)
		}
		x := examined(t, diagnose(t, address, "", q), f.check)
		require.Empty(t, x.Skipped)
		return x.Findings
	}
	like := func(found []store.Finding) (matching []store.Finding) {
		for _, finding := range found {
			if strings.Contains(finding.Says, s.named(f.says[0])) {
				matching = append(matching, finding)
			}
		}
		return matching
	}
	if f.before != nil {
		f.before(s)
	}
	q := doctorRequest(t)
	silent := look(q)
	require.Empty(t, like(silent), "there is no fault yet")
	if f.severity != store.Note {
		for _, finding := range silent {
			require.Equal(t, store.Note, finding.Severity, "%+v", finding)
		}
	}

	if f.make != nil {
		f.make(s)
	}
	faulty := q
	if f.differ != nil {
		f.differ(s, &faulty)
	}
	found := look(faulty)
	matching := like(found)
	require.Len(t, matching, 1, "%+v", found)
	assert.Len(t, found, len(silent)+1, "%+v", found)
	finding := matching[0]
	assert.Equal(t, f.severity, finding.Severity)
	for _, says := range f.says {
		assert.Contains(t, finding.Says, s.named(says))
	}
	assert.Contains(t, finding.Remedy, s.named(f.remedy))
	if f.commands != nil {
		var want []string
		for _, command := range f.commands {
			want = append(want, s.named(command))
		}
		assert.Equal(t, want, finding.Commands)
	}
	assert.NotEmpty(t, finding.Remedy+strings.Join(finding.Commands, ""), "it says what to do")

	if f.cure == nil {
		s.follow(finding)
	} else {
		f.cure(s)
	}
	after := q
	if f.differ != nil && f.make != nil {
		after = faulty
	}
	assert.Empty(t, like(look(after)), "the remedy does not help")
}

// named puts the test's database in the place of %s.
func (s *site) named(text string) string { return strings.ReplaceAll(text, "%s", s.db.Name) }

func (s *site) superNamed(sql string) {
	s.t.Helper()
	_, err := s.db.Conn(s.t).Exec(s.t.Context(), s.named(sql), pgx.QueryExecModeSimpleProtocol)
	require.NoError(s.t, err)
}

// doing executes statements as a superuser, with %s for the database.
func doing(sql string) func(*site) { return func(s *site) { s.superNamed(sql) } }

func known(more int64) int64 { return migrations.Version() + more }

func TestTheDoctorFindsFaultsOfTheServer(t *testing.T) {
	t.Parallel()
	runFaults(t, map[string]fault{
		"a standby": {
			check: "server", path: "standby,pg_catalog,public",
			make: doing(`CREATE SCHEMA standby; GRANT USAGE ON SCHEMA standby TO PUBLIC;
				CREATE FUNCTION standby.pg_is_in_recovery() RETURNS boolean LANGUAGE sql AS 'SELECT true'`),
			severity: store.Broken, says: []string{"a standby"}, remedy: "target_session_attrs=read-write",
			cure: doing("DROP SCHEMA standby CASCADE"),
		},
		"an old server": {
			check: "server", path: "old,pg_catalog,public",
			make: doing(`CREATE SCHEMA old; GRANT USAGE ON SCHEMA old TO PUBLIC;
				CREATE FUNCTION old.current_setting(name text) RETURNS text LANGUAGE sql AS
				$$ SELECT CASE name WHEN 'server_version_num' THEN '130012' WHEN 'server_version' THEN '13.12' ELSE pg_catalog.current_setting(name) END $$`),
			severity: store.Broken, says: []string{"PostgreSQL 14 or newer is needed; this server is 13.12"}, remedy: "newer server",
			cure: doing("DROP SCHEMA old CASCADE"),
		},
		"a database that only reads": {
			check: "server", make: doing("ALTER DATABASE %s SET default_transaction_read_only = on"),
			severity: store.Broken, says: []string{"default_transaction_read_only is on, set for this database"},
			commands: []string{"SET default_transaction_read_only = off;", "ALTER DATABASE %s RESET default_transaction_read_only;"},
		},
		"a role that only reads in this database": {
			check: "server", as: pgtest.Runtime, make: doing("ALTER ROLE tokenalert_runtime IN DATABASE %s SET default_transaction_read_only = on"),
			severity: store.Broken, says: []string{"default_transaction_read_only is on, set for this role in this database"},
			commands: []string{"SET default_transaction_read_only = off;", "ALTER ROLE tokenalert_runtime IN DATABASE %s RESET default_transaction_read_only;"},
		},
		"another clock": {
			check: "clock", differ: func(_ *site, q *store.DoctorRequest) { q.Now = func() time.Time { return time.Now().Add(-time.Hour) } },
			severity: store.Warning, says: []string{"the server's clock and this machine's are 1h0m"},
			commands: []string{"timedatectl set-ntp true"}, cure: onlyWords,
		},
		"a clock of a test": {
			check: "clock", make: func(s *site) { s.db.SetNow(s.t, time.Now().Add(time.Hour)) },
			severity: store.Broken, says: []string{"tokenalert.now() is not the server's clock"},
			commands: []string{"CREATE OR REPLACE FUNCTION tokenalert.now() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE RETURN pg_catalog.now();"},
		},
		"a zone that the server does not know": {
			check:    "zone",
			differ:   func(_ *site, q *store.DoctorRequest) { zoned(q, time.FixedZone("Mars/Olympus_Mons", 0)) },
			severity: store.Broken, says: []string{"does not know the zone TOKENALERT_TIME_ZONE=Mars/Olympus_Mons"},
			commands: []string{"SELECT name FROM pg_timezone_names ORDER BY name;"}, cure: onlyWords,
		},
		"other rules of the zone": {
			check: "zone", // this binary would know nothing of summer time
			differ: func(_ *site, q *store.DoctorRequest) {
				zoned(q, time.FixedZone("America/Santiago", -4*60*60))
			},
			severity: store.Warning, says: []string{"the server's rules of zone America/Santiago and this binary's differ on"}, remedy: "tzdata",
			cure: onlyWords,
		},
		"other rules of the zone, the other way": {
			check: "zone", differ: func(_ *site, q *store.DoctorRequest) { zoned(q, time.FixedZone("America/Santiago", -2*60*60)) },
			severity: store.Warning, says: []string{"differ on 400 of the next 400 days"}, remedy: "tzdata", cure: onlyWords,
		},
		"a role that is left few connections": {
			check: "connections",
			before: func(s *site) {
				s.superNamed("CREATE ROLE %s_few LOGIN")
				require.NoError(s.t, s.migrator(pgtest.Owner, nil).Grant(s.t.Context(), s.db.Name+"_few"))
			},
			make:     doing("ALTER ROLE %s_few CONNECTION LIMIT 3"),
			severity: store.Warning, says: []string{"of 3 connections of role %s_few, 0 are used by others than workers, and a worker that leads needs 5"},
			commands: []string{"ALTER ROLE %s_few CONNECTION LIMIT 10;"},
		},
		"a database that is left few connections": {
			check: "connections", make: doing("ALTER DATABASE %s CONNECTION LIMIT 4"),
			severity: store.Warning, says: []string{"of 4 connections of database %s, "},
		},
	})
}

func zoned(q *store.DoctorRequest, zone *time.Location) {
	settings := *q.Settings
	settings.TimeZone = zone.String()
	q.Settings, q.Zone = &settings, zone
}

// runFaults runs each on a migrated site of its own.
func runFaults(t *testing.T, faults map[string]fault) {
	t.Helper()
	for name, f := range faults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f.run(t, migratedSite(t, f.kind))
		})
	}
}

func TestTheDoctorFindsFaultsOfTheSchema(t *testing.T) {
	t.Parallel()
	const index = "ai_usage_logs_xact_id_idx"
	runFaults(t, map[string]fault{
		"not installed": {
			check: "schema", make: (*site).down, severity: store.Broken, says: []string{"not installed in database %s"},
			commands: []string{"tokenalert migrate up"},
		},
		"behind": {
			check: "schema", make: doing("UPDATE tokenalert.goose_db_version SET is_applied = false WHERE version_id = (SELECT max(version_id) FROM tokenalert.goose_db_version)"),
			severity: store.Broken, says: []string{"this binary needs"}, commands: []string{"tokenalert migrate up"},
			cure: doing("UPDATE tokenalert.goose_db_version SET is_applied = true"),
		},
		"two ahead": {
			check: "schema",
			before: func(s *site) {
				s.exec("INSERT INTO tokenalert.goose_db_version (version_id, is_applied) VALUES ($1, true)", known(1))
			},
			make: func(s *site) {
				s.exec("INSERT INTO tokenalert.goose_db_version (version_id, is_applied) VALUES ($1, true)", known(2))
			},
			severity: store.Broken, says: []string{"one ahead would be all right"}, remedy: "run a newer binary",
			cure: func(s *site) { s.exec("DELETE FROM tokenalert.goose_db_version WHERE version_id = $1", known(2)) },
		},
		"a function, a table and the bell gone": {
			check: "schema", as: pgtest.Runtime,
			make: doing(`ALTER FUNCTION tokenalert.lock_users(uuid[]) RENAME TO lock; ALTER TABLE tokenalert.takeover RENAME TO taken;
				ALTER SEQUENCE tokenalert.doorbell RENAME TO bell`),
			severity: store.Broken, says: []string{"3 objects of ours are gone: tokenalert.doorbell, tokenalert.lock_users(uuid[]), tokenalert.takeover"},
			commands: []string{"pg_dump --schema-only --schema=tokenalert"},
			cure: doing(`ALTER FUNCTION tokenalert.lock(uuid[]) RENAME TO lock_users; ALTER TABLE tokenalert.taken RENAME TO takeover;
				ALTER SEQUENCE tokenalert.bell RENAME TO doorbell`),
		},
		"a function gone is no missing grant": {
			check: "schema", make: doing("ALTER FUNCTION tokenalert.lock_users(uuid[]) RENAME TO lock"),
			severity: store.Broken, says: []string{"1 object of ours is gone"},
			cure: func(s *site) {
				assert.Empty(s.t, examined(s.t, s.diagnose(pgtest.Owner), "grants").Findings)
				s.superExec("ALTER FUNCTION tokenalert.lock(uuid[]) RENAME TO lock_users")
			},
		},
		"a table of that name before": {
			check: "search-path", as: pgtest.Runtime,
			make: doing(`CREATE SCHEMA early; CREATE TABLE early.ai_usage_logs (); GRANT USAGE ON SCHEMA early TO PUBLIC;
				ALTER ROLE tokenalert_runtime IN DATABASE %s SET search_path = early, public`),
			severity: store.Broken, says: []string{"tokenalert is installed on public.ai_usage_logs", "the name ai_usage_logs finds early.ai_usage_logs"},
			commands: []string{"ALTER ROLE tokenalert_runtime IN DATABASE %s SET search_path = public, early, public;"},
		},
		"no USAGE on the host's schema": {
			check: "search-path", as: pgtest.Runtime, before: doing("REVOKE ALL ON SCHEMA public FROM PUBLIC"),
			make:     doing("REVOKE ALL ON SCHEMA public FROM tokenalert_runtime"),
			severity: store.Broken, says: []string{"the name ai_usage_logs finds nothing, for the role may not use schema public"},
			commands: []string{"tokenalert migrate grant tokenalert_runtime"},
		},
		"no default": {
			check: "column", make: doing("ALTER TABLE ai_usage_logs ALTER COLUMN xact_id DROP DEFAULT"),
			severity: store.Broken, says: []string{"has lost its default"},
			commands: []string{
				"ALTER TABLE public.ai_usage_logs ALTER COLUMN xact_id SET DEFAULT pg_current_xact_id();",
				"INSERT INTO tokenalert.recounts (cause) VALUES ('doctor');",
			},
		},
		"no column": {
			check: "column", make: doing("ALTER TABLE ai_usage_logs DROP COLUMN xact_id"),
			severity: store.Broken, says: []string{"public.ai_usage_logs has no column xact_id"},
			commands: []string{"tokenalert migrate down", "tokenalert migrate up"},
		},
		"no index": {
			check: "index", make: doing("DROP INDEX " + index),
			severity: store.Broken, says: []string{"the index on public.ai_usage_logs (xact_id) is missing"}, commands: []string{"tokenalert migrate up"},
		},
		"an index of that name elsewhere": {
			check: "index",
			make: doing(`DROP INDEX ` + index + `; CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.ai_usage_logs (xact_id xid8);
				CREATE INDEX ` + index + ` ON elsewhere.ai_usage_logs (xact_id)`),
			severity: store.Broken, says: []string{"the index on public.ai_usage_logs (xact_id) is missing"}, commands: []string{"tokenalert migrate up"},
		},
		"an invalid index": {
			check: "index", make: doing("UPDATE pg_index SET indisvalid = false WHERE indexrelid = '" + index + "'::regclass"),
			severity: store.Broken, says: []string{"the index on public.ai_usage_logs (xact_id) is invalid"}, commands: []string{"tokenalert migrate up"},
		},
		"a chain of another cluster": {
			check: "chain", before: (*site).work, make: doing("UPDATE tokenalert.ticks SET system_identifier = system_identifier + 1"),
			severity: store.Broken, says: []string{"come from another PostgreSQL cluster"}, commands: []string{"tokenalert migrate up"},
		},
		"usage of another cluster": {
			check: "chain", before: (*site).work, make: func(s *site) {
				s.use(s.user(0), 1)
				s.exec("UPDATE ai_usage_logs SET xact_id = '4000000000'")
			},
			severity: store.Broken, says: []string{"come from another PostgreSQL cluster"}, commands: []string{"tokenalert migrate up"},
		},
	})
}

func TestTheDoctorFindsTriggersThatDoNotFire(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS)
	ours := s.list(`SELECT format('%s on %s.%s', tgname, n.nspname, c.relname) FROM pg_trigger t JOIN pg_class c ON c.oid = tgrelid
		JOIN pg_namespace n ON n.oid = c.relnamespace WHERE tgname LIKE 'tokenalert%' ORDER BY 1`)
	require.Len(t, ours, 10)
	faults := map[string]fault{}
	for _, trigger := range ours {
		name, table, _ := strings.Cut(trigger, " on ")
		faults[name+" missing"] = fault{
			check: "triggers", make: doing("DROP TRIGGER " + name + " ON " + table),
			severity: store.Broken, says: []string{"1 trigger is missing, " + trigger},
			commands: []string{"tokenalert migrate down", "tokenalert migrate up"},
		}
		for _, state := range []string{"DISABLE", "ENABLE REPLICA"} {
			faults[name+" "+state] = fault{
				check: "triggers", make: doing("ALTER TABLE " + table + " " + state + " TRIGGER " + name),
				severity: store.Broken, says: []string{"1 trigger is disabled, " + trigger},
				commands: []string{"ALTER TABLE " + table + " ENABLE TRIGGER " + name + ";"},
			}
		}
	}
	for name, f := range faults {
		if strings.HasSuffix(name, "missing") { // its cure is migrating
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				f.run(t, migratedSite(t, host.CMS))
			})
			continue
		}
		f.run(t, s)
	}
}

func TestTheDoctorFindsFaultsOfTheHost(t *testing.T) {
	t.Parallel()
	runFaults(t, map[string]fault{
		"its trigger, on again": {
			kind: host.CMSWithTrigger, check: "host-trigger", make: doing("ALTER TABLE ai_usage_logs ENABLE TRIGGER token_limit_check"),
			severity: store.Broken, says: []string{"the host's own trigger token_limit_check on public.ai_usage_logs is enabled beside ours"},
			commands: []string{"ALTER TABLE public.ai_usage_logs DISABLE TRIGGER token_limit_check;"},
		},
		"its trigger, by another name": {
			kind: host.CMSWithTrigger, check: "host-trigger",
			make:     doing(`CREATE TRIGGER "Again" AFTER INSERT ON ai_usage_logs FOR EACH ROW EXECUTE FUNCTION check_token_limit_trigger()`),
			severity: store.Broken, says: []string{`the host's own trigger "Again"`},
			commands: []string{`ALTER TABLE public.ai_usage_logs DISABLE TRIGGER "Again";`},
		},
		"no index by user": {
			check: "usage-index", make: doing("DROP INDEX idx_ai_usage_user, idx_ai_usage_user_created"),
			severity: store.Warning, says: []string{"has no index that begins with user_id"},
			commands: []string{"CREATE INDEX CONCURRENTLY ON public.ai_usage_logs (user_id, created_at);"},
		},
		"a publication": {
			check: "publication", make: doing("CREATE PUBLICATION reports FOR TABLE users, ai_usage_logs"),
			severity: store.Note, says: []string{"published with its column xact_id (reports)"},
			commands: []string{"ALTER TABLE public.ai_usage_logs ADD COLUMN IF NOT EXISTS xact_id xid8;"},
			cure: func(s *site) {
				s.superExec("ALTER PUBLICATION reports SET TABLE users")
				if pgtest.Server(s.t).Version() >= 150000 { // it may leave our column out
					s.superExec("ALTER PUBLICATION reports SET TABLE users, ai_usage_logs (user_id, tokens_used)")
				}
			},
		},
		"no created_at": {
			kind: host.LMS, check: "usage-rows", make: func(s *site) { s.useAt(nil) },
			severity: store.Warning, says: []string{"1 row of public.ai_usage_logs cannot be counted"},
			commands: []string{"SELECT id, user_id, tokens_used, created_at FROM public.ai_usage_logs WHERE created_at IS NULL OR created_at < '2000-01-01 00:00+00' OR created_at >= '2100-01-01 00:00+00' LIMIT 1000;"},
			cure:     doing("UPDATE ai_usage_logs SET created_at = now()"),
		},
		"created_at out of range": {
			check: "usage-rows",
			before: func(s *site) {
				s.useAt("2000-01-01 00:00+00")
				s.useAt("2099-12-31 23:59:59.999999+00")
			},
			make: func(s *site) {
				for _, at := range []string{"-infinity", "infinity", "1999-12-31 23:59:59.999999+00", "2100-01-01 00:00+00"} {
					s.useAt(at)
				}
			},
			severity: store.Warning, says: []string{"4 rows of public.ai_usage_logs cannot be counted"},
			cure: doing("UPDATE ai_usage_logs SET created_at = now()"),
		},
		"very many without created_at": {
			kind: host.LMS, check: "usage-rows",
			make: doing(`INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used, input_tokens, output_tokens, created_at)
				SELECT gen_random_uuid(), gen_random_uuid(), 1, 1, 0, NULL FROM generate_series(1, 2500)`),
			severity: store.Warning, says: []string{"1000 rows or more"}, cure: doing("TRUNCATE ai_usage_logs"),
		},
		"no limits": {
			check: "limits", before: func(s *site) { s.user(100) }, make: doing("UPDATE users SET monthly_token_limit = 0"),
			severity: store.Note, says: []string{"no user has a limit"},
			commands: []string{"UPDATE public.users SET monthly_token_limit = 100000 WHERE id = '00000000-0000-0000-0000-000000000000';"},
			cure:     doing("UPDATE users SET monthly_token_limit = 100000"),
		},
		"no limits in the LMS": {
			kind: host.LMS, check: "limits", before: func(s *site) { s.limit(s.user(0), 100) }, make: doing("DELETE FROM tokenalert.user_limits"),
			severity: store.Note, says: []string{"no user has a limit"},
			commands: []string{"INSERT INTO tokenalert.user_limits (user_id, monthly_token_limit) VALUES ('00000000-0000-0000-0000-000000000000', 100000);"},
			cure:     doing("INSERT INTO tokenalert.user_limits (user_id, monthly_token_limit) SELECT id, 100000 FROM users"),
		},
	})
}

// useAt logs usage with a created_at, of a user of its own.
func (s *site) useAt(at any) {
	s.t.Helper()
	s.exec(`INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used, input_tokens, output_tokens, created_at)
		VALUES ($1, $2, 1, 1, 0, $3::text::timestamptz)`, s.user(0), s.org, at)
}
