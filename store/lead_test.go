package store_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/store"
)

// lead opens a session that may lead, until the test ends.
func lead(t *testing.T, s *store.Store, timeout time.Duration) *store.Lead {
	t.Helper()
	l, err := s.ConnectLead(t.Context(), timeout)
	require.NoError(t, err)
	t.Cleanup(l.Close)
	return l
}

func acquire(t *testing.T, l *store.Lead) bool {
	t.Helper()
	acquired, err := l.TryAcquire(t.Context(), "a-worker")
	require.NoError(t, err)
	return acquired
}

func TestOneOfTwoLeads(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS).runtime()
	one, other := lead(t, s, time.Minute), lead(t, s, time.Minute)
	require.True(t, acquire(t, one))
	require.False(t, acquire(t, other))
	one.Close()
	closed := time.Now()
	for !acquire(t, other) {
		require.Less(t, time.Since(closed), siteWithin)
	}
	// Another database has a lead of its own.
	assert.True(t, acquire(t, lead(t, migratedSite(t, host.CMS).runtime(), time.Minute)))
}

// The one who leads answers no longer, though its connection stands: the server
// ends it by its own clock.
func TestTheLeadOfASilentSessionFalls(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS)
	st := s.runtime()
	silent, other := lead(t, st, 1500*time.Millisecond), lead(t, st, time.Minute)
	require.True(t, acquire(t, silent))
	require.False(t, acquire(t, other))
	s.eventually("the lock does not fall", func() bool { return acquire(t, other) })
	require.Error(t, silent.Ping(t.Context()))
	require.Error(t, silent.Disarm(t.Context()), "it sets the bell no longer")
}

func TestAPingKeepsTheLead(t *testing.T) {
	t.Parallel()
	st := migratedSite(t, host.CMS).runtime()
	pinged, other := lead(t, st, 2*time.Second), lead(t, st, time.Minute)
	require.True(t, acquire(t, pinged))
	for until := time.Now().Add(2500 * time.Millisecond); time.Now().Before(until); {
		require.NoError(t, pinged.Ping(t.Context()))
		require.False(t, acquire(t, other))
		require.NoError(t, pinged.Wait(t.Context(), 50*time.Millisecond))
	}
}

func TestAReleasedLeadWakesWhoWaits(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS)
	st := s.runtime()
	leader, waiter := lead(t, st, time.Minute), lead(t, st, time.Minute)
	require.True(t, acquire(t, leader))
	_, err := leader.Arm(t.Context(), time.Minute)
	require.NoError(t, err)
	woken := make(chan error, 1)
	go func() { woken <- waiter.Wait(t.Context(), time.Hour) }()
	require.NoError(t, leader.Release(t.Context()))
	select {
	case err := <-woken:
		require.NoError(t, err)
	case <-time.After(siteWithin):
		require.FailNow(t, "nobody woke")
	}
	assert.True(t, acquire(t, waiter), "free by the time it is told")
	was, err := waiter.Arm(t.Context(), time.Minute)
	require.NoError(t, err)
	assert.False(t, was, "the bell is silenced with the release")
}

func TestAWaiterLeavesWithItsContext(t *testing.T) {
	t.Parallel()
	l := lead(t, migratedSite(t, host.CMS).runtime(), time.Minute)
	require.NoError(t, l.Wait(t.Context(), time.Millisecond), "nothing came, in time")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	assert.ErrorIs(t, l.Wait(ctx, time.Hour), context.Canceled)
}

func TestTheBellIsALease(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS)
	l := lead(t, s.runtime(), time.Minute)
	armed := func() bool {
		return ask[bool](s, "SELECT coalesce(pg_sequence_last_value('tokenalert.doorbell') > date_part('epoch', clock_timestamp()), false)")
	}
	arm := func() bool {
		was, err := l.Arm(t.Context(), 30*time.Second)
		require.NoError(t, err)
		return was
	}
	assert.False(t, armed(), "nobody has led")
	assert.False(t, arm())
	assert.True(t, armed())
	left := ask[float64](s, "SELECT pg_sequence_last_value('tokenalert.doorbell'::regclass)::float8 - date_part('epoch', clock_timestamp())")
	assert.InDelta(t, 30, left, 5)
	assert.True(t, arm(), "a renewal")
	require.NoError(t, l.Disarm(t.Context()))
	assert.False(t, armed())
	assert.True(t, ask[bool](s, "SELECT pg_sequence_last_value('tokenalert.doorbell') IS NULL"), "inserts would call ring()")
	assert.False(t, arm())

	s.exec("SELECT setval('tokenalert.doorbell', (date_part('epoch', clock_timestamp()) - 1)::bigint)")
	assert.False(t, armed())
	assert.False(t, arm(), "a lease that has lapsed is armed afresh")
	assert.True(t, armed())
}
