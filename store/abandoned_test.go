package store_test

import (
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/store"
)

// The statement of a tick that may take half an hour does not outlive a worker that
// was killed: its locks would keep the next leader from ticking.
func TestALongTickOfAWorkerThatIsGoneEnds(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS)
	if !ask[bool](s, "SELECT version() LIKE '%linux%'") {
		t.Skip("the server's system cannot look for clients that are gone")
	}
	conn := s.db.ConnAs(t, pgtest.Owner)
	pid := conn.PgConn().PID()
	require.NoError(t, store.BeginLong(t.Context(), conn))
	conn.PgConn().Frontend().SendQuery(&pgproto3.Query{String: "SELECT pg_sleep(300)"})
	require.NoError(t, conn.PgConn().Frontend().Flush())
	s.eventually("the statement does not begin", func() bool {
		return ask[bool](s, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'PgSleep')", pid)
	})
	require.NoError(t, conn.PgConn().Conn().Close())
	s.eventually("the statement goes on without its client", func() bool {
		return !ask[bool](s, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)", pid)
	})
}
