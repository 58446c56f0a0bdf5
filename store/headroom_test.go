package store_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/store"
)

// TestHeadroom on a server of its own, whose connections nobody else takes.
func TestHeadroom(t *testing.T) {
	t.Parallel()
	in := pgtest.StartServer(t, map[string]string{"max_connections": "40", "superuser_reserved_connections": "3"})
	db := in.New(t, pgtest.Migrated(host.CMS))
	st, err := store.Open(db.WorkerURLs())
	require.NoError(t, err)
	t.Cleanup(st.Close)
	admin := db.Conn(t)
	exec := func(sql string) {
		t.Helper()
		_, err := admin.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	look := func() store.Headroom {
		t.Helper()
		h, err := st.Headroom(t.Context())
		require.NoError(t, err)
		return h
	}

	require.Eventually(t, func() bool { // those that made the database end after it is there
		var others int
		err := admin.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()").Scan(&others)
		return err == nil && others == 0
	}, 20*time.Second, 5*time.Millisecond)
	first := look()
	assert.Positive(t, first.Connections)
	assert.Less(t, first.Connections, int64(40-3))
	assert.InDelta(t, 1<<31-3_000_000, first.TransactionIDs, 1_000_000, "a young cluster")
	assert.Zero(t, first.NotificationQueue)
	assert.Nil(t, first.PasswordExpires)
	for range 5 {
		db.Conn(t)
	}
	assert.Equal(t, first.Connections-5, look().Connections)

	exec(fmt.Sprintf("ALTER DATABASE %s CONNECTION LIMIT 20", pgx.Identifier{db.Name}.Sanitize()))
	assert.Equal(t, int64(20-7), look().Connections, "the database's: the administrator's six and this one")
	exec("ALTER ROLE " + pgtest.Runtime + " CONNECTION LIMIT 4")
	assert.Equal(t, int64(4-1), look().Connections, "the role's")

	expiry := time.Date(2100, 1, 2, 3, 4, 5, 0, time.UTC)
	exec("ALTER ROLE " + pgtest.Runtime + " VALID UNTIL '" + expiry.Format(time.RFC3339) + "'")
	require.NotNil(t, look().PasswordExpires)
	assert.Equal(t, expiry, *look().PasswordExpires)
	exec("ALTER ROLE " + pgtest.Runtime + " VALID UNTIL 'infinity'")
	assert.Nil(t, look().PasswordExpires)
}
