package store_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
)

// What commits while the schema goes down is kept too.
func TestABudgetThatIsSetDuringADownIsKept(t *testing.T) {
	t.Parallel()
	s := newSite(t, host.CMS)
	s.up()
	tx, err := s.db.ConnAs(t, pgtest.Owner).Begin(t.Context())
	require.NoError(t, err)
	organization := uuid.New()
	_, err = tx.Exec(t.Context(), "INSERT INTO tokenalert.policies (organization_id, budget, added, version, changed_at) VALUES ($1, 1000, '{}', 0, now())", organization)
	require.NoError(t, err)
	down := make(chan error, 1)
	m := s.migrator(pgtest.Owner, nil)
	go func() { down <- m.Down(t.Context()) }()
	require.Eventually(t, func() bool {
		return ask[bool](s, "SELECT EXISTS (SELECT FROM pg_locks l WHERE NOT l.granted AND l.relation = 'tokenalert.policies'::regclass)")
	}, 10*time.Second, 5*time.Millisecond, "the down does not wait for the budget")
	require.NoError(t, tx.Commit(t.Context()))
	require.NoError(t, <-down)
	s.up()
	assert.Equal(t, []string{organization.String()}, s.list("SELECT organization_id::text FROM tokenalert.policies WHERE budget = 1000"))
	assert.Equal(t, []string{organization.String()}, s.list("SELECT organization_id::text FROM tokenalert.budgets"))
}
