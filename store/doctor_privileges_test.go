package store_test

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/store"
)

// ownRole is a role of this test's, which was granted.
func ownRole(s *site) {
	s.superNamed("CREATE ROLE %s_worker LOGIN")
	require.NoError(s.t, s.migrator(pgtest.Owner, nil).Grant(s.t.Context(), s.db.Name+"_worker"))
}

func TestTheDoctorFindsFaultsOfPrivileges(t *testing.T) {
	t.Parallel()
	const grantAgain = "tokenalert migrate grant tokenalert_runtime"
	runFaults(t, map[string]fault{
		"the asking role lacks a column": {
			check: "grants", as: pgtest.Runtime, make: doing("REVOKE SELECT (xact_id) ON ai_usage_logs FROM tokenalert_runtime"),
			severity: store.Broken, says: []string{"role tokenalert_runtime cannot run the worker: it lacks SELECT (xact_id) ON TABLE public.ai_usage_logs"},
			commands: []string{grantAgain},
		},
		"a granted role has lost a table, a function and a sequence": {
			check: "grants",
			make: doing(`REVOKE DELETE ON tokenalert.ticks FROM tokenalert_runtime; REVOKE ALL ON FUNCTION tokenalert.accounts() FROM tokenalert_runtime;
				REVOKE UPDATE ON SEQUENCE tokenalert.doorbell FROM tokenalert_runtime`),
			severity: store.Broken, says: []string{
				"role tokenalert_runtime cannot run", "DELETE ON TABLE tokenalert.ticks", "EXECUTE ON FUNCTION tokenalert.accounts()", "UPDATE ON SEQUENCE tokenalert.doorbell",
			},
			commands: []string{"tokenalert migrate grant tokenalert_runtime"},
		},
		"the asking role may not use our schema": {
			check: "grants", as: pgtest.Runtime, make: doing("REVOKE ALL ON SCHEMA tokenalert FROM tokenalert_runtime"),
			severity: store.Broken, says: []string{"role tokenalert_runtime cannot run the worker: it lacks USAGE ON SCHEMA tokenalert"},
			commands: []string{grantAgain},
		},
		"a role whose name a shell would take apart": {
			check: "grants",
			before: func(s *site) {
				s.superNamed(`CREATE ROLE "%s's; worker" LOGIN`)
				require.NoError(s.t, s.migrator(pgtest.Owner, nil).Grant(s.t.Context(), s.db.Name+"'s; worker"))
			},
			make:     doing(`REVOKE ALL ON tokenalert.settings FROM "%s's; worker"`),
			severity: store.Broken, says: []string{"role %s's; worker cannot run"}, commands: []string{`tokenalert migrate grant '%s'\''s; worker'`},
			cure: func(s *site) {
				require.NoError(s.t, s.migrator(pgtest.Owner, nil).Grant(s.t.Context(), s.db.Name+"'s; worker"))
			},
		},
		"PUBLIC does not read the bell": {
			check: "grants", make: doing("REVOKE ALL ON SEQUENCE tokenalert.doorbell FROM PUBLIC"),
			severity: store.Broken, says: []string{"PUBLIC lacks SELECT ON SEQUENCE tokenalert.doorbell"},
			commands: []string{"GRANT SELECT ON SEQUENCE tokenalert.doorbell TO PUBLIC;"},
		},
		"PUBLIC does not read the bell, seen by the worker's role": {
			check: "grants", as: pgtest.Runtime, make: doing("REVOKE ALL ON SEQUENCE tokenalert.doorbell FROM PUBLIC"),
			severity: store.Broken, says: []string{"PUBLIC lacks SELECT ON SEQUENCE tokenalert.doorbell"},
		},
		"PUBLIC may call our functions": {
			check: "grants", make: doing("GRANT EXECUTE ON FUNCTION tokenalert.lock_users(uuid[]), tokenalert.ring() TO PUBLIC"),
			severity: store.Warning, says: []string{"PUBLIC may call tokenalert.lock_users(uuid[]), tokenalert.ring()"}, commands: []string{"tokenalert migrate up"},
		},
		"a granted role that is not there": {
			check: "grants", make: doing("INSERT INTO tokenalert.granted_roles (role) VALUES ('Nobody''s')"),
			severity: store.Note, says: []string{`role "Nobody's", which was granted, does not exist`},
			commands: []string{"DELETE FROM tokenalert.granted_roles WHERE role = 'Nobody''s';"},
		},
		"a function that tells, of a stranger": {
			check: "owner", before: doing("CREATE ROLE %s_stranger"), make: doing("ALTER FUNCTION tokenalert.lock_users(uuid[]) OWNER TO %s_stranger"),
			severity: store.Broken, says: []string{"FUNCTION tokenalert.lock_users(uuid[]) (%s_stranger)", "lacks", "UPDATE ON TABLE public.users", "nobody can be told"},
			commands: []string{"ALTER FUNCTION tokenalert.lock_users(uuid[]) OWNER TO host_owner;"},
		},
		"a table that is written to, of a stranger": {
			check: "owner", before: doing("CREATE ROLE %s_stranger"), make: doing("ALTER TABLE tokenalert.recounts OWNER TO %s_stranger"),
			severity: store.Broken, says: []string{"TABLE tokenalert.recounts (%s_stranger)", "record_correction acts as host_owner, who lacks INSERT ON TABLE tokenalert.recounts"},
			commands: []string{"ALTER TABLE tokenalert.recounts OWNER TO host_owner;"},
		},
		"a table of ours, of a stranger": {
			check: "owner", as: pgtest.Runtime, before: doing("CREATE ROLE %s_stranger"), make: doing("ALTER TABLE tokenalert.takeover OWNER TO %s_stranger"),
			severity: store.Warning, says: []string{"TABLE tokenalert.takeover (%s_stranger)", "`migrate up` cannot change them"},
			commands: []string{"ALTER TABLE tokenalert.takeover OWNER TO host_owner;"},
		},
		"all of ours, of a stranger": {
			check: "owner", before: doing("CREATE ROLE %s_stranger"), make: doing(`ALTER SCHEMA tokenalert OWNER TO %s_stranger;
				ALTER SEQUENCE tokenalert.doorbell OWNER TO %s_stranger; ALTER VIEW tokenalert.current_usage OWNER TO %s_stranger`),
			severity: store.Broken, says: []string{"3 objects of ours do not belong to host_owner"},
			commands: []string{
				"ALTER SCHEMA tokenalert OWNER TO host_owner;", "ALTER SEQUENCE tokenalert.doorbell OWNER TO host_owner;",
				"ALTER VIEW tokenalert.current_usage OWNER TO host_owner;",
			},
		},
		"an owner without a right": {
			check: "owner", make: doing("REVOKE UPDATE ON users FROM host_owner"),
			severity: store.Broken, says: []string{"tokenalert.lock_users acts as host_owner, who lacks UPDATE ON TABLE public.users"},
			commands: []string{"GRANT UPDATE ON TABLE public.users TO host_owner;"},
		},
		"policies on usage": {
			check:    "row-security",
			before:   func(s *site) { s.exec("DELETE FROM tokenalert.granted_roles"); ownRole(s) },
			make:     doing("ALTER TABLE ai_usage_logs ENABLE ROW LEVEL SECURITY"),
			severity: store.Broken, says: []string{"row security of public.ai_usage_logs applies to role %s_worker"}, commands: []string{"ALTER ROLE %s_worker BYPASSRLS;"},
		},
		"policies on notifications, seen by the worker's role": {
			check: "row-security", as: pgtest.Runtime, make: doing("ALTER TABLE notifications ENABLE ROW LEVEL SECURITY"),
			severity: store.Broken, says: []string{"row security of public.notifications applies to role tokenalert_runtime"},
			commands: []string{"ALTER ROLE tokenalert_runtime BYPASSRLS;"},
			cure:     doing("ALTER TABLE notifications DISABLE ROW LEVEL SECURITY"), // the role is everybody's
		},
		"policies on users, for their owner too": {
			check: "row-security", before: func(s *site) { s.exec("DELETE FROM tokenalert.granted_roles") },
			make:     doing("ALTER TABLE users ENABLE ROW LEVEL SECURITY; ALTER TABLE users FORCE ROW LEVEL SECURITY"),
			severity: store.Broken, says: []string{"row security of public.users applies to role host_owner"}, commands: []string{"ALTER TABLE public.users NO FORCE ROW LEVEL SECURITY;"},
		},
	})
}

// TestTheDoctorToAStranger who may see nothing: it does not fail, and says what
// the role lacks.
func TestTheDoctorToAStranger(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS)
	s.exec("REVOKE ALL ON SCHEMA public FROM PUBLIC")
	d := s.diagnose(pgtest.Writer)
	grants := examined(t, d, "grants").Findings
	require.NotEmpty(t, grants)
	assert.Equal(t, store.Broken, grants[0].Severity)
	assert.Contains(t, grants[0].Says, "role host_writer cannot run the worker: it lacks USAGE ON SCHEMA public, USAGE ON SCHEMA tokenalert")
	assert.Equal(t, []string{"tokenalert migrate grant host_writer"}, grants[0].Commands)
	blind := examined(t, d, "settings").Findings
	require.Len(t, blind, 1)
	assert.Equal(t, store.Note, blind[0].Severity)
	assert.Contains(t, blind[0].Says, "role host_writer may not look")
	for _, x := range d.Checks {
		for _, f := range x.Findings {
			assert.NotContains(t, f.Says, "could not look", "%s: %+v", x.Check, f)
		}
	}
}

// TestTheDoctorAfterARestore: a dump of one cluster in another, by another role,
// without owners and privileges; `migrate up` and what else it says mend it.
func TestTheDoctorAfterARestore(t *testing.T) {
	t.Parallel()
	from := migratedSite(t, host.CMSWithTrigger)
	user := from.user(1000)
	from.use(user, 850)
	from.work()
	dump := from.db.Dump(t, "--no-owner", "--no-privileges")

	in := pgtest.StartServer(t, nil)
	db := in.New(t, pgtest.Template{Name: "empty", Build: func(context.Context, string) error { return nil }})
	s := &site{t: t, db: db, owner: db.ConnAs(t, pgtest.Owner)}
	db.Restore(t, pgtest.Owner, dump)

	d := s.diagnose(pgtest.Owner)
	says := func(check, part string) {
		t.Helper()
		for _, f := range examined(t, d, check).Findings {
			if strings.Contains(f.Says, part) {
				require.NotEmpty(t, f.Commands)
				assert.Contains(t, f.Commands[0], "tokenalert migrate", "%+v", f)
				return
			}
		}
		assert.Fail(t, "it does not say: "+part, "%+v", examined(t, d, check))
	}
	says("grants", "role tokenalert_runtime cannot run the worker")
	says("grants", "PUBLIC may call tokenalert.accounts()")
	says("chain", "another PostgreSQL cluster")
	doorbell := false
	for _, f := range examined(t, d, "grants").Findings {
		doorbell = doorbell || f.Severity == store.Broken && strings.HasPrefix(f.Says, "PUBLIC lacks SELECT ON SEQUENCE tokenalert.doorbell")
	}
	assert.True(t, doorbell)
	assert.Empty(t, examined(t, d, "owner").Findings, "all of it is the restoring role's")
	assert.Empty(t, examined(t, d, "triggers").Findings)

	require.NoError(t, s.migrator(pgtest.Owner, nil).Up(t.Context()))
	s.leads()
	assert.Empty(t, bad(s.diagnose(pgtest.Owner)))
	assert.Empty(t, bad(s.diagnose(pgtest.Runtime)))
	assert.Equal(t, []string{"80 told"}, s.alerts(user), "nobody is told again")
}
