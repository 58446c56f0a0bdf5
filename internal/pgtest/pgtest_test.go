package pgtest_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func scan[T any](t *testing.T, conn *pgx.Conn, sql string, args ...any) T {
	t.Helper()
	var v T
	require.NoError(t, conn.QueryRow(t.Context(), sql, args...).Scan(&v), sql)
	return v
}

func TestClonesDoNotSeeEachOther(t *testing.T) {
	t.Parallel()
	one := pgtest.New(t, pgtest.Host(host.CMS))
	other := pgtest.New(t, pgtest.Host(host.CMS))
	require.NotEqual(t, one.Name, other.Name)

	_, err := host.NewOrganization(t.Context(), one.ConnAs(t, pgtest.Owner), "Only Here")
	require.NoError(t, err)
	const organizations = "SELECT count(*) FROM organizations"
	assert.Equal(t, 1, scan[int](t, one.Conn(t), organizations))
	assert.Equal(t, 0, scan[int](t, other.Conn(t), organizations))
	assert.Equal(t, 0, scan[int](t, pgtest.New(t, pgtest.Host(host.CMS)).Conn(t), organizations))
}

func TestCloneIsDroppedWithItsTest(t *testing.T) {
	t.Parallel()
	var name string
	t.Run("test", func(t *testing.T) {
		db := pgtest.New(t, pgtest.Host(host.LMS))
		name = db.Name
		db.Conn(t)
	})
	other := pgtest.New(t, pgtest.Host(host.LMS)).Conn(t)
	assert.Equal(t, 0, scan[int](t, other, "SELECT count(*) FROM pg_database WHERE datname = $1", name))
}

func TestRoles(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, pgtest.Host(host.CMS))
	super := db.Conn(t)
	assert.Equal(t, "on", scan[string](t, super, "SELECT current_setting('is_superuser')"))

	for _, role := range []string{pgtest.Owner, pgtest.Runtime, pgtest.Writer} {
		conn := db.ConnAs(t, role)
		assert.Equal(t, role, scan[string](t, conn, "SELECT current_user::text"))
		assert.True(t, scan[bool](t, conn, `SELECT rolcanlogin AND NOT
			(rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls)
			FROM pg_roles WHERE rolname = current_user`), role)
		assert.Equal(t, role == pgtest.Owner, scan[bool](t, conn, "SELECT has_schema_privilege('public', 'CREATE')"), role)
		assert.Equal(t, role == pgtest.Owner, scan[bool](t, conn, "SELECT has_table_privilege('ai_usage_logs', 'INSERT')"), role)
	}

	assert.Equal(t, pgtest.Owner, scan[string](t, super,
		"SELECT datdba::regrole::text FROM pg_database WHERE datname = current_database()"))
	assert.Equal(t, pgtest.Owner, scan[string](t, super,
		"SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = 'public'"))
	assert.Equal(t, pgtest.Owner, scan[string](t, super,
		"SELECT relowner::regrole::text FROM pg_class WHERE oid = 'ai_usage_logs'::regclass"))
}

func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	var built atomic.Int32
	tpl := pgtest.Host(host.CMSWithTrigger)
	tpl.Name = "counted"
	build := tpl.Build
	tpl.Build = func(ctx context.Context, url string) error {
		built.Add(1)
		return build(ctx, url)
	}
	t.Run("all", func(t *testing.T) {
		for i := range 8 {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				conn := pgtest.New(t, tpl).Conn(t)
				assert.Equal(t, 0, scan[int](t, conn, "SELECT count(*) FROM token_limit_alerts"))
			})
		}
	})
	assert.EqualValues(t, 1, built.Load())
}

func TestServerOfItsOwn(t *testing.T) {
	t.Parallel()
	in := pgtest.StartServer(t, map[string]string{"max_prepared_transactions": "10"})
	require.NotEqual(t, pgtest.Server(t).Pid(), in.Server().Pid())
	db := in.New(t, pgtest.Host(host.CMS))
	assert.Equal(t, "10", scan[string](t, db.Conn(t), "SELECT current_setting('max_prepared_transactions')"))
	assert.Equal(t, pgtest.Writer, scan[string](t, db.ConnAs(t, pgtest.Writer), "SELECT current_user::text"))

	conn := db.Conn(t)
	require.NoError(t, in.Server().StopImmediate(t.Context()))
	require.Error(t, conn.Ping(t.Context()))
	require.NoError(t, in.Server().Restart(t.Context()))
	assert.Equal(t, 0, scan[int](t, db.Conn(t), "SELECT count(*) FROM users"))
	assert.Equal(t, 0, scan[int](t, in.New(t, pgtest.Host(host.CMS)).Conn(t), "SELECT count(*) FROM users"))
}

func TestTemplatesAreClosed(t *testing.T) {
	t.Parallel()
	pgtest.New(t, pgtest.Host(host.LMS))
	_, err := pgx.Connect(t.Context(), pgtest.Server(t).URL("template_host_lms"))
	var pgErr *pgconn.PgError
	require.ErrorAs(t, err, &pgErr)
	assert.Equal(t, "55000", pgErr.Code)
}
