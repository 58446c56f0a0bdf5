package main

import (
	"errors"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/migrations"
	"tokenalert/worker"
)

// secret is the password in every connection string below. No output may hold
// it.
const secret = "correct-horse-battery"

// withPassword adds a password to a connection string.
func withPassword(t *testing.T, connection, password string) string {
	t.Helper()
	u, err := url.Parse(connection)
	require.NoError(t, err)
	u.User = url.UserPassword(u.User.Username(), password)
	return u.String()
}

// refused runs a worker that must give up with a clear error.
func refused(t *testing.T, connection string, says ...string) {
	t.Helper()
	p := startProcess(t, runEnvironment(connection, ""), "run")
	require.Equal(t, 1, p.wait(), "exit status")
	stderr := p.stderr.String()
	assert.True(t, strings.HasPrefix(stderr, "tokenalert: "), stderr)
	for _, s := range says {
		assert.Contains(t, stderr, s)
	}
	assert.NotContains(t, p.stdout.String()+stderr, secret)
	all := p.log("")
	assert.Equal(t, string(worker.EventWorkerStopped), all[len(all)-1]["event"], "the last line of the log")
	assert.Len(t, p.log(worker.EventWorkerStopping), 1)
	assert.Empty(t, p.log(worker.EventLeaderAcquired))
}

func TestRunRefusesADatabaseThatItCannotWorkOn(t *testing.T) {
	t.Parallel()
	t.Run("no migration", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, pgtest.Host(host.CMS))
		refused(t, withPassword(t, db.URLAs(pgtest.Runtime), secret), "not installed", "tokenalert migrate up")
	})
	t.Run("a schema too old", func(t *testing.T) {
		t.Parallel()
		p := newPlatform(t)
		p.exec("DELETE FROM tokenalert.goose_db_version WHERE version_id = $1", migrations.Version())
		refused(t, withPassword(t, p.db.URLAs(pgtest.Runtime), secret), "tokenalert migrate up")
	})
	t.Run("a schema too new", func(t *testing.T) {
		t.Parallel()
		p := newPlatform(t)
		p.exec("INSERT INTO tokenalert.goose_db_version (version_id, is_applied) VALUES ($1, true)", migrations.Version()+2)
		refused(t, withPassword(t, p.db.URLAs(pgtest.Runtime), secret), "run a newer binary")
	})
	t.Run("another cluster's chain", func(t *testing.T) {
		t.Parallel()
		p := newPlatform(t)
		p.leads().terminate()
		p.exec("UPDATE tokenalert.ticks SET system_identifier = system_identifier + 1")
		refused(t, withPassword(t, p.db.URLAs(pgtest.Runtime), secret), "another PostgreSQL cluster", "tokenalert migrate up")
	})
	t.Run("no grants", func(t *testing.T) {
		t.Parallel()
		p := newPlatform(t)
		refused(t, withPassword(t, p.db.URLAs(pgtest.Writer), secret), "tokenalert migrate grant")
	})
	t.Run("no such database", func(t *testing.T) {
		t.Parallel()
		refused(t, withPassword(t, pgtest.Server(t).URLAs(pgtest.Runtime, "no_such_one"), secret), "no_such_one", "does not exist")
	})
}

// A new version may be migrated to before it is rolled out.
func TestRunWorksOnASchemaOneAhead(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.exec("INSERT INTO tokenalert.goose_db_version (version_id, is_applied) VALUES ($1, true)", migrations.Version()+1)
	p.leads().terminate()
}

// requirePassword gives a role a password, and has the server, which must be the
// test's own, ask for it.
func (p *platform) requirePassword(role, password string) {
	p.t.Helper()
	p.setPassword(role, password)
	demandPassword(p.t, p.db, role)
}

// demandPassword has the server ask one role for its password, over its socket.
func demandPassword(t *testing.T, db *pgtest.DB, role string) {
	t.Helper()
	var file string
	admin := db.Conn(t)
	require.NoError(t, admin.QueryRow(t.Context(), "SHOW hba_file").Scan(&file))
	rules, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, append([]byte("local all "+role+" scram-sha-256\n"), rules...), 0o600))
	_, err = admin.Exec(t.Context(), "SELECT pg_reload_conf()")
	require.NoError(t, err)
	eventually(t, func() bool { // the postmaster reloads when it gets to it
		conn, err := pgx.Connect(t.Context(), db.URLAs(role))
		if err == nil {
			_ = conn.Close(t.Context())
		}
		refused, ok := errors.AsType[*pgconn.PgError](err)
		return ok && refused.Code == "28P01"
	}, "no password is asked for")
}

// setPassword changes a role's password.
func (p *platform) setPassword(role, password string) {
	p.t.Helper()
	_, err := p.admin.Exec(p.t.Context(), "ALTER ROLE "+role+" PASSWORD '"+password+"'", pgx.QueryExecModeSimpleProtocol)
	require.NoError(p.t, err)
}

func TestRunRefusesAWrongPassword(t *testing.T) {
	t.Parallel()
	in := pgtest.StartServer(t, nil)
	p := platformOn(t, in.New(t, pgtest.Migrated(host.CMS)))
	p.requirePassword(pgtest.Runtime, secret)

	right := withPassword(t, p.db.URLAs(pgtest.Runtime), secret)
	w := startProcess(t, runEnvironment(right, ""), "run")
	w.await(worker.EventLeaderAcquired, 1)
	w.terminate()
	assert.NotContains(t, w.stdout.String(), secret)

	const wrong = "wrong-horse-battery"
	connection := withPassword(t, p.db.URLAs(pgtest.Runtime), wrong)
	refused(t, connection, "password authentication failed", "28P01")
	w = startProcess(t, runEnvironment(connection, ""), "run")
	assert.Equal(t, 1, w.wait())
	assert.NotContains(t, w.stdout.String()+w.stderr.String(), wrong)

	// The same from the variables that libpq reads.
	u, err := url.Parse(connection)
	require.NoError(t, err)
	w = startProcess(t, []string{
		"PGHOST=" + u.Query().Get("host"), "PGUSER=" + pgtest.Runtime, "PGPASSWORD=" + wrong, "PGDATABASE=" + p.db.Name,
		"TOKENALERT_HTTP_ADDRESS=off",
	}, "run")
	assert.Equal(t, 1, w.wait())
	assert.Contains(t, w.stderr.String(), "password authentication failed")
	assert.NotContains(t, w.stdout.String()+w.stderr.String(), wrong)

	status, stdout, stderr := typed(t, []string{"DATABASE_URL=" + connection}, "migrate", "status")
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "password authentication failed")
	assert.NotContains(t, stdout+stderr, wrong)
}

func TestRunRefusesAnAddressThatIsTaken(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	first := p.leads()
	second := p.run("TOKENALERT_HTTP_ADDRESS=" + first.address())
	assert.Equal(t, 1, second.wait())
	assert.Contains(t, second.stderr.String(), "TOKENALERT_HTTP_ADDRESS")
	first.terminate()
}
