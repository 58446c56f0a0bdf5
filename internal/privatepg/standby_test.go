package privatepg

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAStandbyFollowsAndIsPromoted(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	standby, err := s.Standby(t.Context(), map[string]string{"work_mem": "7MB"})
	if errors.Is(err, ErrNoBaseBackup) {
		t.Skip("SKIPPED: " + err.Error())
	}
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, standby.Stop(context.Background())) })

	primary, other := connect(t, s.URL("postgres")), connect(t, standby.URL("postgres"))
	assert.Equal(t, "7MB", show(t, other, "work_mem"))
	assert.Equal(t, "on", show(t, other, "transaction_read_only"))
	_, err = primary.Exec(t.Context(), "CREATE TABLE replicated ()")
	require.NoError(t, err)
	var there bool
	for deadline := time.Now().Add(20 * time.Second); !there; time.Sleep(5 * time.Millisecond) {
		require.NoError(t, other.QueryRow(t.Context(), "SELECT to_regclass('replicated') IS NOT NULL").Scan(&there))
		require.True(t, time.Now().Before(deadline), "not replicated")
	}

	thaw, err := s.Freeze(t.Context())
	require.NoError(t, err)
	frozen, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = s.ask(frozen)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	thaw()
	_, err = s.ask(t.Context())
	require.NoError(t, err)

	require.NoError(t, s.StopImmediate(t.Context()))
	require.NoError(t, standby.Promote(t.Context()))
	_, err = other.Exec(t.Context(), "DROP TABLE replicated")
	require.NoError(t, err)
}
