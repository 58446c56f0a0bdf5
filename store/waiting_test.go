package store_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
)

// A build that waits says for whom: with its state and age where the role may
// see them, and by its number and role in any case.
func TestTheIndexSaysWhomItWaitsFor(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ role, says string }{
		"a session of its own role": {pgtest.Owner, "session %d of role " + pgtest.Owner + " (the-host, idle in transaction, its transaction began "},
		"another role's":            {pgtest.Writer, "session %d of role " + pgtest.Writer + " (the-host)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, host.CMS)
			user := s.user(0)
			s.exec("GRANT INSERT ON ai_usage_logs TO " + pgtest.Writer)
			writer := s.db.ConnAs(t, tt.role)
			_, err := writer.Exec(t.Context(), "SET application_name = 'the-host'")
			require.NoError(t, err)
			pid := writer.PgConn().PID()

			said := &diary{}
			m := s.migrator(pgtest.Owner, func(sentence string) {
				said.note(sentence)
				if said.has("00001") && writer.PgConn().TxStatus() == 'I' {
					_, err := writer.Exec(t.Context(), "BEGIN")
					if err == nil {
						_, err = writer.Exec(t.Context(), "INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used) VALUES ($1, $2, 1)", user, s.org)
					}
					assert.NoError(t, err)
				}
			})
			m.ReportEvery = 20 * time.Millisecond
			ended := running(func() error { return m.Up(t.Context()) })
			want := "building the index on ai_usage_logs: waiting for writers before build, 0 of 1 ended; now for " + fmt.Sprintf(tt.says, pid)
			s.eventually("it does not say whom it waits for", func() bool { return said.has(want) })
			_, err = s.db.Conn(t).Exec(t.Context(), "SELECT pg_terminate_backend($1)", pid)
			require.NoError(t, err)
			require.NoError(t, <-ended)
		})
	}
}

// Patience is for another migration as well, and its end names whose it is.
func TestAMigrationThatDoesNotEndIsNamed(t *testing.T) {
	t.Parallel()
	s := newSite(t, host.CMS)
	other := s.db.ConnAs(t, pgtest.Owner)
	_, err := other.Exec(t.Context(), "SET application_name = 'tokenalert migrate'")
	require.NoError(t, err)
	_, err = other.Exec(t.Context(), "SELECT pg_advisory_lock($1)", int64(0x746f6b656e616c4d))
	require.NoError(t, err)
	elsewhere := newSite(t, host.CMS) // a migration of another database is nobody's matter
	elsewhere.exec("SELECT pg_advisory_lock($1)", int64(0x746f6b656e616c4d))

	m := s.migrator(pgtest.Owner, nil)
	for name, migrate := range map[string]func() error{
		"up":    func() error { return m.Up(t.Context()) },
		"down":  func() error { return m.Down(t.Context()) },
		"grant": func() error { return m.Grant(t.Context(), pgtest.Runtime) },
	} {
		m.LockPatience = 0
		if name == "up" {
			m.LockPatience = 250 * time.Millisecond
		}
		err := migrate()
		require.ErrorContains(t, err, fmt.Sprintf("another migration has not ended in %s; session %d of role %s (tokenalert migrate, idle) runs it",
			m.LockPatience, other.PgConn().PID(), pgtest.Owner), name)
		require.ErrorContains(t, err, fmt.Sprintf("pg_terminate_backend(%d)", other.PgConn().PID()))
	}
	assert.False(t, ask[bool](s, "SELECT to_regnamespace('tokenalert') IS NOT NULL"), "something was done")

	m.LockPatience = time.Minute
	said := make(chan struct{}, 100)
	m.Progress = func(string) { said <- struct{}{} }
	ended := running(func() error { return m.Up(t.Context()) })
	<-said // that it waits
	require.NoError(t, other.Close(t.Context()))
	require.NoError(t, <-ended)
}
