package host_test

import (
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func scan[T any](t *testing.T, db host.DB, sql string, args ...any) T {
	t.Helper()
	var v T
	require.NoError(t, db.QueryRow(t.Context(), sql, args...).Scan(&v), sql)
	return v
}

func exec(t *testing.T, db host.DB, sql string, args ...any) {
	t.Helper()
	_, err := db.Exec(t.Context(), sql, args...)
	require.NoError(t, err, sql)
}

func newUser(t *testing.T, db host.DB, u host.User) (uuid.UUID, uuid.UUID) {
	t.Helper()
	org, err := host.NewOrganization(t.Context(), db, "Example School")
	require.NoError(t, err)
	u.Organization = org
	user, err := host.NewUser(t.Context(), db, u)
	require.NoError(t, err)
	return user, org
}

func TestKinds(t *testing.T) {
	t.Parallel()
	for _, kind := range []host.Kind{host.CMSWithTrigger, host.CMS, host.LMS} {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			conn := pgtest.New(t, pgtest.Host(kind)).ConnAs(t, pgtest.Owner)

			assert.Equal(t, 7, scan[int](t, conn, "SELECT count(*) FROM pg_indexes WHERE tablename = 'ai_usage_logs'"))
			assert.Equal(t, 2, scan[int](t, conn, "SELECT count(*) FROM pg_proc WHERE proname = 'log_ai_usage'"))
			assert.Equal(t, kind == host.LMS, scan[bool](t, conn, "SELECT to_regclass('notifications') IS NOT NULL"))
			assert.Equal(t, kind == host.CMSWithTrigger, scan[bool](t, conn, "SELECT to_regclass('token_limit_alerts') IS NOT NULL"))

			user, org := newUser(t, conn, host.User{})
			require.NoError(t, host.LogUsage(t.Context(), conn, user, org, 10))
			require.NoError(t, host.LogUsage(t.Context(), conn, user, org, 3))
			assert.Equal(t, 13, scan[int](t, conn, "SELECT sum(tokens_used) FROM ai_usage_logs WHERE user_id = $1", user))
			assert.Equal(t, 13, scan[int](t, conn, "SELECT sum(input_tokens + output_tokens) FROM ai_usage_daily"))
			assert.Equal(t, 13, scan[int](t, conn, "SELECT sum(tokens_used) FROM ai_usage_monthly"))
		})
	}
	assert.Equal(t, "Kind(9)", host.Kind(9).String())
}

// The two overloads make a call with nine arguments ambiguous.
func TestCallsOfLogAIUsageMustNameAllArguments(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t, pgtest.Host(host.CMS)).ConnAs(t, pgtest.Owner)
	user, org := newUser(t, conn, host.User{})
	_, err := conn.Exec(t.Context(), `SELECT log_ai_usage($1::uuid, $2::uuid, 1, 1, 0,
		'a'::varchar, 'b'::varchar, 'c'::varchar, '{}'::jsonb)`, user, org)
	var pgErr *pgconn.PgError
	require.ErrorAs(t, err, &pgErr)
	assert.Equal(t, "42725", pgErr.Code)
}

func TestApply(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t, pgtest.Host(host.CMS)).ConnAs(t, pgtest.Owner)
	require.ErrorContains(t, host.Apply(t.Context(), conn, host.Kind(9)), "no such kind")
	require.ErrorContains(t, host.Apply(t.Context(), conn, host.LMS), "already exists")
	assert.False(t, scan[bool](t, conn, "SELECT to_regclass('notifications') IS NOT NULL"), "all or none")

	require.NoError(t, host.ApplyEmail(t.Context(), conn))
	assert.Equal(t, 2, scan[int](t, conn, "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relname LIKE 'organization_email_%'"))
}

func TestNewUser(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, pgtest.Host(host.CMS))
	pool, err := pgxpool.New(t.Context(), db.OwnerURL())
	require.NoError(t, err)
	t.Cleanup(pool.Close)

	user, _ := newUser(t, pool, host.User{Limit: new(500), ResetDay: new(15), Language: new("pt-BR")})
	assert.Equal(t, "500 15 pt-BR", scan[string](t, pool,
		"SELECT concat_ws(' ', monthly_token_limit, token_limit_reset_day, language) FROM users WHERE id = $1", user))

	user, _ = newUser(t, pool, host.User{})
	assert.Equal(t, 3, scan[int](t, pool,
		"SELECT num_nulls(monthly_token_limit, token_limit_reset_day, language) FROM users WHERE id = $1", user))

	lms := pgtest.New(t, pgtest.Host(host.LMS)).ConnAs(t, pgtest.Owner)
	err = pgx.BeginFunc(t.Context(), lms, func(tx pgx.Tx) error {
		org, err := host.NewOrganization(t.Context(), tx, "Example School")
		require.NoError(t, err)
		_, err = host.NewUser(t.Context(), tx, host.User{Organization: org, Limit: new(1)})
		return err
	})
	require.ErrorContains(t, err, "no limit columns")
}

func TestCheckTokenLimit(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t, pgtest.Host(host.CMS)).ConnAs(t, pgtest.Owner)
	user, org := newUser(t, conn, host.User{Limit: new(100)})
	require.NoError(t, host.LogUsage(t.Context(), conn, user, org, 90))
	const within = "SELECT check_token_limit($1, $2)"
	assert.True(t, scan[bool](t, conn, within, user, 10))
	assert.False(t, scan[bool](t, conn, within, user, 11))
	exec(t, conn, "UPDATE users SET monthly_token_limit = 0")
	assert.True(t, scan[bool](t, conn, within, user, 11))
}
