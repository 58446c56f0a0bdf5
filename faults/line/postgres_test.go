package line_test

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/privatepg"
)

// A server that listens on nothing but its Unix socket.
func TestALineLeadsToPostgreSQL(t *testing.T) {
	server, err := privatepg.Start(t.Context(), privatepg.Options{BinDir: os.Getenv("PGTEST_BIN")})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, server.Stop(context.WithoutCancel(t.Context()))) })
	direct, err := url.Parse(server.URL("postgres"))
	require.NoError(t, err)
	socket := filepath.Join(direct.Query().Get("host"), ".s.PGSQL."+direct.Query().Get("port"))
	l := newLineTo(t, socket)
	host, port := l.Address()
	through := fmt.Sprintf("postgres://postgres@%s:%d/postgres?sslmode=disable", host, port)
	connect := func() *pgx.Conn {
		conn, err := pgx.Connect(t.Context(), through)
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) }) // most are broken by then
		return conn
	}
	length := func(ctx context.Context, conn *pgx.Conn) (n int, err error) {
		var text string
		err = conn.QueryRow(ctx, "SELECT repeat('x', 100000)").Scan(&text)
		return len(text), err
	}

	conn := connect()
	n, err := length(t.Context(), conn)
	require.NoError(t, err)
	require.Equal(t, 100_000, n)

	require.NoError(t, l.Drip(9000, time.Millisecond))
	n, err = length(t.Context(), conn)
	require.NoError(t, err)
	require.Equal(t, 100_000, n)
	require.NoError(t, l.Heal())

	require.NoError(t, l.Cut())
	_, err = length(t.Context(), conn)
	require.ErrorIs(t, err, syscall.ECONNRESET)
	_, err = pgx.Connect(t.Context(), through)
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	require.NoError(t, l.Heal())

	conn = connect()
	require.NoError(t, l.Swallow())
	impatient, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err = length(impatient, conn)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NoError(t, l.Heal())

	// What the server says last comes through before the end.
	conn = connect()
	_, err = conn.Exec(t.Context(), "SELECT pg_terminate_backend(pg_backend_pid())")
	require.ErrorContains(t, err, "57P01")
	_, err = length(t.Context(), connect())
	require.NoError(t, err)
}
