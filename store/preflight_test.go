package store_test

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/store"
)

// partitioned puts a partitioned table of the same columns in the place of
// ai_usage_logs.
const partitioned = `
ALTER TABLE ai_usage_logs RENAME TO ai_usage_logs_before;
CREATE TABLE ai_usage_logs (LIKE ai_usage_logs_before) PARTITION BY RANGE (created_at);
CREATE TABLE ai_usage_logs_all PARTITION OF ai_usage_logs DEFAULT`

func TestUpNamesWhatIsInTheWay(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		kind  host.Kind
		super string // what a superuser has done before
		as    string // who migrates; "": the owner
		want  []string
	}{
		"a published table": {
			kind: host.CMSWithTrigger, super: "CREATE PUBLICATION reports FOR TABLE users, ai_usage_logs",
			want: []string{"published (reports)", "xact_id xid8", "--allow-publication"},
		},
		"everything published": {super: "CREATE PUBLICATION everything FOR ALL TABLES", want: []string{"published (everything)"}},
		"a partitioned table":  {super: partitioned + "; ALTER TABLE ai_usage_logs OWNER TO host_owner", want: []string{"table ai_usage_logs is partitioned"}},
		"a table with heirs": {
			kind: host.LMS, super: "CREATE TABLE usage_of_2020 () INHERITS (ai_usage_logs)",
			want: []string{"table ai_usage_logs is partitioned or inherited from"},
		},
		"partitioned users": {super: "CREATE TABLE guests () INHERITS (users)", want: []string{"table users is partitioned or inherited from"}},
		"a role that owns nothing": {
			kind: host.CMSWithTrigger, as: pgtest.Writer, want: []string{
				"role host_writer may not create a schema",
				"role host_writer may not create tables and indexes in schema public",
				"role host_writer does not own table ai_usage_logs (its owner is host_owner)",
				"does not own table users", "does not own table organizations", "does not own table token_limit_alerts",
			},
		},
		"users by numbers": {
			kind: host.LMS, super: "ALTER TABLE ai_usage_logs DROP COLUMN user_id CASCADE; ALTER TABLE ai_usage_logs ADD COLUMN user_id bigint NOT NULL",
			want: []string{"column ai_usage_logs.user_id is bigint; it must be uuid"},
		},
		"NULL where it cannot be counted": {
			super: `ALTER TABLE ai_usage_logs ALTER COLUMN user_id DROP NOT NULL, ALTER COLUMN tokens_used DROP NOT NULL;
				ALTER TABLE users ALTER COLUMN organization_id DROP NOT NULL`,
			want: []string{
				"column ai_usage_logs.user_id may be NULL", "column ai_usage_logs.tokens_used may be NULL",
				"ALTER TABLE users ALTER COLUMN organization_id SET NOT NULL",
			},
		},
		"a table of somebody else": {
			super: "ALTER TABLE users OWNER TO CURRENT_USER",
			want:  []string{"role host_owner does not own table users"},
		},
		"notifications of somebody else": {
			kind: host.LMS, super: "ALTER TABLE notifications OWNER TO CURRENT_USER",
			want: []string{"role host_owner does not own table notifications"},
		},
		"a schema of somebody else": {
			super: "ALTER SCHEMA public OWNER TO CURRENT_USER",
			want:  []string{"role host_owner may not create tables and indexes in schema public"},
		},
		"another database": {
			super: "ALTER TABLE ai_usage_logs RENAME TO usage",
			want:  []string{"table ai_usage_logs is not there", "search_path"},
		},
		"another search_path": {
			super: "ALTER ROLE host_owner IN DATABASE %s SET search_path = pg_catalog",
			want:  []string{"table ai_usage_logs is not there", "table users is not there", "search_path (pg_catalog)"},
		},
		"a column less": {
			kind: host.LMS, super: "ALTER TABLE users DROP COLUMN full_name; ALTER TABLE notifications DROP COLUMN link_url",
			want: []string{"table users has no column full_name", "table notifications has no column link_url"},
		},
		"a column of that name": {
			super: "ALTER TABLE ai_usage_logs ADD COLUMN xact_id bigint",
			want:  []string{"has a column xact_id already"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.super == "" {
				c.super = "SELECT"
			}
			if c.as == "" {
				c.as = pgtest.Owner
			}
			s := newSite(t, c.kind)
			s.superExec(inDatabase(c.super, s.db.Name))
			before := s.catalogue()
			err := s.migrator(c.as, nil).Up(t.Context())
			require.ErrorContains(t, err, "nothing was changed")
			for _, want := range c.want {
				require.ErrorContains(t, err, want)
			}
			s.requireSame(before, s.catalogue())
		})
	}
}

func TestUpGoesOnWherePublicationIsAllowed(t *testing.T) {
	t.Parallel()
	s := newSite(t, host.CMS)
	s.superExec("CREATE PUBLICATION reports FOR TABLE ai_usage_logs")
	m := s.migrator(pgtest.Owner, nil)
	m.AllowPublication = true
	require.NoError(t, m.Up(t.Context()))
	m.AllowPublication = false // asked once is enough
	require.NoError(t, m.Up(t.Context()))
}

func TestAMemberOfTheOwningRoleMayMigrate(t *testing.T) {
	t.Parallel()
	s := newSite(t, host.CMSWithTrigger)
	member := s.db.Name + "_member"
	s.superExec("CREATE ROLE " + member + " LOGIN IN ROLE " + pgtest.Owner)
	m := s.migrator(member, nil)
	require.NoError(t, m.Up(t.Context()))
	require.NoError(t, m.Grant(t.Context(), pgtest.Runtime))
	user := s.user(100)
	s.use(user, 85)
	s.work()
	assert.Equal(t, []string{"80 told"}, s.alerts(user))
	s.exec("DELETE FROM users WHERE id = $1", user)
	s.work()
	assert.Empty(t, s.alerts(user))
	require.NoError(t, m.Down(t.Context()))
}

func TestAStoreSaysWhatItIsMissing(t *testing.T) {
	t.Parallel()
	check := func(s *site) error {
		_, err := s.runtime().Check(t.Context())
		return err
	}
	s := newSite(t, host.CMS)
	err := check(s)
	require.ErrorIs(t, err, store.ErrSchema)
	require.ErrorContains(t, err, "migrate up")

	m := s.migrator(pgtest.Owner, nil)
	require.NoError(t, m.Up(t.Context()))
	err = check(s)
	require.ErrorIs(t, err, store.ErrSchema)
	require.ErrorContains(t, err, "migrate grant")

	require.NoError(t, m.Grant(t.Context(), pgtest.Runtime))
	require.NoError(t, check(s))
	s.exec("UPDATE tokenalert.goose_db_version SET is_applied = false WHERE version_id = (SELECT max(version_id) FROM tokenalert.goose_db_version)")
	err = check(s)
	require.ErrorIs(t, err, store.ErrSchema)
	require.ErrorContains(t, err, "needs")
}

// inDatabase puts a test's database in the place of %s.
func inDatabase(sql, name string) string {
	return strings.ReplaceAll(sql, "%s", pgx.Identifier{name}.Sanitize())
}
