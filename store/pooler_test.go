package store_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/store"
)

func TestTheLeadWantsASessionOfItsOwn(t *testing.T) {
	t.Parallel()
	inTurn := func(servers string) map[string]string {
		return map[string]string{"server_round_robin": "1", "min_pool_size": servers}
	}
	for name, tt := range map[string]struct {
		mode     string // none: straight to the server
		settings map[string]string
		idle     int // server connections that the pooler has before
		refused  bool
	}{
		"straight":                        {},
		"by session":                      {mode: "session"},
		"by session, used before":         {mode: "session", idle: 3},
		"by session, in turn":             {mode: "session", settings: inTurn("0"), idle: 3},
		"by session, no other to be had":  {mode: "session", settings: map[string]string{"default_pool_size": "1"}},
		"by transaction":                  {mode: "transaction", refused: true},
		"by transaction, used before":     {mode: "transaction", idle: 3, refused: true},
		"by transaction, in turn, of one": {mode: "transaction", settings: inTurn("0"), idle: 1, refused: true},
		"by transaction, in turn, of two": {mode: "transaction", settings: inTurn("0"), idle: 2, refused: true},
		"by transaction, in turn":         {mode: "transaction", settings: inTurn("0"), idle: 5, refused: true},
		"by transaction, one at a time":   {mode: "transaction", settings: map[string]string{"default_pool_size": "1"}, refused: true},
		"by transaction, prewarmed":       {mode: "transaction", settings: map[string]string{"min_pool_size": "4"}, refused: true},
		"by statement":                    {mode: "statement", refused: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := migratedSite(t, host.CMS)
			url := s.db.URLAs(pgtest.Runtime)
			if tt.mode != "" {
				url = s.db.Pooler(t, tt.mode, tt.settings).URLAs(pgtest.Runtime, s.db.Name)
			}
			warm(t, url, tt.idle)
			st, err := store.Open(url, "")
			require.NoError(t, err)
			t.Cleanup(st.Close)
			lead, err := st.ConnectLead(t.Context(), 10*time.Second)
			if tt.refused {
				require.ErrorIs(t, err, store.ErrSharedSession)
				require.ErrorContains(t, err, "TOKENALERT_LISTEN_URL")
				assert.Zero(t, ask[int](s, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%idle_session_timeout%' AND pid <> pg_backend_pid()"),
					"a session of somebody else's was changed")
				return
			}
			require.NoError(t, err)
			t.Cleanup(lead.Close)
			acquired, err := lead.TryAcquire(t.Context(), "one")
			require.NoError(t, err)
			assert.True(t, acquired)
			require.NoError(t, lead.Ping(t.Context()))
			require.NoError(t, lead.Release(t.Context()))
		})
	}
}

// The lock of a migration would be left with the pooler, and keep out whoever comes next.
func TestAMigrationWantsASessionOfItsOwn(t *testing.T) {
	t.Parallel()
	for mode, refused := range map[string]bool{"session": false, "transaction": true} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			s := migratedSite(t, host.CMS)
			m, err := store.NewMigrator(s.db.Pooler(t, mode, nil).URLAs(pgtest.Owner, s.db.Name))
			require.NoError(t, err)
			t.Cleanup(m.Close)
			err = m.Up(t.Context())
			if refused {
				require.ErrorIs(t, err, store.ErrSharedSession)
			} else {
				require.NoError(t, err)
			}
			assert.Zero(t, ask[int](s, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"))
		})
	}
}

// warm has the pooler before url open n connections to the server and leaves
// them with nobody.
func warm(t *testing.T, url string, n int) {
	t.Helper()
	var held []*pgx.Conn
	for range n {
		conn, err := pgx.Connect(t.Context(), url)
		require.NoError(t, err)
		_, err = conn.Exec(t.Context(), "BEGIN; SELECT 1", pgx.QueryExecModeSimpleProtocol)
		require.NoError(t, err)
		held = append(held, conn)
	}
	for _, conn := range held {
		_, err := conn.Exec(t.Context(), "COMMIT", pgx.QueryExecModeSimpleProtocol)
		require.NoError(t, err)
		require.NoError(t, conn.Close(t.Context()))
	}
}

// Somebody puts a pooler into transaction mode while a worker leads through it.
func TestALeadWhoseSessionIsGivenToOthersIsLost(t *testing.T) {
	t.Parallel()
	for name, setting := range map[string]string{
		"with prepared statements, which another process does not know": "",
		"without": "&default_query_exec_mode=cache_describe",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := migratedSite(t, host.CMS)
			pooler := s.db.Pooler(t, "session", nil)
			url := pooler.URLAs(pgtest.Runtime, s.db.Name)
			st, err := store.Open(url+setting, "")
			require.NoError(t, err)
			t.Cleanup(st.Close)
			lead, err := st.ConnectLead(t.Context(), time.Minute)
			require.NoError(t, err)
			t.Cleanup(lead.Close)
			acquired, err := lead.TryAcquire(t.Context(), "one")
			require.NoError(t, err)
			require.True(t, acquired)

			require.NoError(t, pooler.Reload(map[string]string{"pool_mode": "transaction"}))
			s.eventually("the lead's session is still its own", func() bool {
				if err = lead.Ping(t.Context()); err != nil {
					return true
				}
				other, connectErr := pgx.Connect(t.Context(), url)
				require.NoError(t, connectErr)
				defer func() { _ = other.Close(t.Context()) }()
				_, connectErr = other.Exec(t.Context(), "BEGIN; SELECT 1", pgx.QueryExecModeSimpleProtocol)
				require.NoError(t, connectErr)
				err = lead.Ping(t.Context())
				return err != nil
			})
			assert.ErrorIs(t, err, store.ErrSharedSession)
		})
	}
}
