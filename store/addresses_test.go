package store_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/store"
)

// TestReread: a session that is opened after the connection strings changed is
// that of the new ones, the pool's and the lead's alike; those that there are go
// on.
func TestReread(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, pgtest.Migrated(host.CMS)).Straight() // a pooler keeps sessions of its own
	control := db.Conn(t)
	url, listen := db.WorkerURLs()
	st, err := store.Open(url, listen)
	require.NoError(t, err)
	t.Cleanup(st.Close)
	var readErr error
	st.Reread(func() (string, string, error) { return url, listen, readErr })
	roles := func(role string) (n int) {
		t.Helper()
		require.NoError(t, control.QueryRow(t.Context(),
			"SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = $1 AND application_name LIKE 'tokenalert %'", role).Scan(&n))
		return n
	}
	connect := func() {
		t.Helper()
		lead, err := st.ConnectLead(t.Context(), time.Minute)
		require.NoError(t, err)
		t.Cleanup(lead.Close)
		_, err = st.Check(t.Context())
		require.NoError(t, err)
	}

	connect()
	require.Eventually(t, func() bool { return roles(pgtest.Runtime) == 2 }, 10*time.Second, 5*time.Millisecond, "the lead's and the pool's")
	url, listen = db.URLs(pgtest.Owner)
	_, err = st.Check(t.Context())
	require.NoError(t, err)
	assert.Equal(t, 2, roles(pgtest.Runtime))
	assert.Zero(t, roles(pgtest.Owner), "a session was closed that nobody had to close")

	st.Reset()
	connect()
	// A server's process ends a moment after its session.
	require.Eventually(t, func() bool { return roles(pgtest.Owner) == 2 }, 10*time.Second, 5*time.Millisecond, "the lead's and the pool's")
	require.Eventually(t, func() bool { return roles(pgtest.Runtime) == 1 }, 10*time.Second, 5*time.Millisecond, "the first lead's")

	// What cannot be read is said, and read again with the next connection.
	readErr = errors.New("no such file")
	st.Reset()
	_, err = st.Check(t.Context())
	require.ErrorContains(t, err, "no such file")
	_, err = st.ConnectLead(t.Context(), time.Minute)
	require.ErrorContains(t, err, "no such file")
	readErr = nil
	connect()
}
