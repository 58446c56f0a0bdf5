package privatepg

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func start(t *testing.T, o Options) *Server {
	t.Helper()
	s, err := Start(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.Stop(context.Background())) })
	return s
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func show(t *testing.T, conn *pgx.Conn, setting string) string {
	t.Helper()
	var value string
	require.NoError(t, conn.QueryRow(t.Context(), "SELECT current_setting($1)", setting).Scan(&value))
	return value
}

func TestServerIsPrivateAndConfigured(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Settings: map[string]string{"work_mem": "5MB", "search_path": `"it's", public`}})
	conn := connect(t, s.URL("postgres"))

	for setting, want := range map[string]string{
		"listen_addresses":       "",
		"fsync":                  "off",
		"synchronous_commit":     "on",
		"track_commit_timestamp": "on",
		"TimeZone":               "UTC",
		"max_connections":        "200",
		"server_encoding":        "UTF8",
		"work_mem":               "5MB",
		"search_path":            `"it's", public`,
	} {
		assert.Equal(t, want, show(t, conn, setting), setting)
	}
	var collation string
	require.NoError(t, conn.QueryRow(t.Context(),
		"SELECT datcollate FROM pg_database WHERE datname = current_database()").Scan(&collation))
	assert.Equal(t, "C", collation)
	assert.GreaterOrEqual(t, s.Version(), minMajor*10000)
	assert.Empty(t, s.TCPURL("postgres", "postgres"))

	info, err := os.Stat(s.dir.path)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o700), info.Mode().Perm())
}

func TestStopRemovesEverything(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	conn := connect(t, s.URL("postgres")) // a fast shutdown does not wait for it

	require.NoError(t, s.Stop(t.Context()))
	require.NoError(t, s.Stop(t.Context()), "twice")
	assert.NoDirExists(t, s.dir.path)
	assert.Zero(t, s.Pid())
	require.Error(t, conn.Ping(t.Context()))
	require.ErrorIs(t, s.Restart(t.Context()), errStopped)
	require.ErrorIs(t, s.StopImmediate(t.Context()), errStopped)
}

func TestStopWithAnEndedContext(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, s.Stop(ended))
	assert.NoDirExists(t, s.dir.path)
}

func TestRestartRecoversFromACrash(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	conn := connect(t, s.URL("postgres"))
	_, err := conn.Exec(t.Context(), "CREATE TABLE kept AS SELECT 42 AS answer")
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), "ALTER SYSTEM SET max_prepared_transactions = 7")
	require.NoError(t, err)
	before := s.Pid()

	require.NoError(t, s.StopImmediate(t.Context()))
	assert.Zero(t, s.Pid())
	require.NoError(t, s.Restart(t.Context()))

	assert.NotEqual(t, before, s.Pid())
	conn = connect(t, s.URL("postgres"))
	var answer int
	require.NoError(t, conn.QueryRow(t.Context(), "SELECT answer FROM kept").Scan(&answer))
	assert.Equal(t, 42, answer)
	assert.Equal(t, "7", show(t, conn, "max_prepared_transactions"))
}

func TestTCP(t *testing.T) {
	t.Parallel()
	s := start(t, Options{TCP: true})
	assert.Equal(t, "127.0.0.1", show(t, connect(t, s.TCPURL("postgres", "postgres")), "listen_addresses"))
	assert.Equal(t, "127.0.0.1", show(t, connect(t, s.URL("postgres")), "listen_addresses"))
}

func TestEarlyDeathIsReportedAtOnce(t *testing.T) {
	t.Parallel()
	var log tail
	began := time.Now()
	_, err := Start(t.Context(), Options{Log: &log, Settings: map[string]string{"no_such_setting": "on"}})
	require.ErrorContains(t, err, "ended before it was ready")
	require.ErrorContains(t, err, `unrecognized configuration parameter "no_such_setting"`)
	assert.Contains(t, log.lastLines(), "no_such_setting")
	assert.Less(t, time.Since(began), readyWithin/2)
}

func TestStartWithAnEndedContext(t *testing.T) {
	t.Parallel()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	acc, err := unprivileged()
	require.NoError(t, err)
	s := &Server{binDir: filepath.Dir(firstInstalled(t, acc)), account: acc, log: &tail{}}
	s.dir, err = newDirectory(acc)
	require.NoError(t, err)
	require.ErrorIs(t, s.create(ended, nil), context.Canceled)
	require.NoError(t, s.dir.remove())

	_, err = Start(ended, Options{})
	require.ErrorIs(t, err, context.Canceled)
}

// firstInstalled returns an initdb of this machine.
func firstInstalled(t *testing.T, acc account) string {
	t.Helper()
	for _, dir := range installed() {
		if check(t.Context(), dir, acc) == nil {
			return filepath.Join(dir, "initdb")
		}
	}
	t.Skip("SKIPPED: no PostgreSQL is installed on this machine")
	return ""
}
