package store_test

import (
	"context"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/faults/line"
	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/store"
)

// throughLine is a store under the runtime role whose connections go through a
// line.
func throughLine(t *testing.T, s *site) (*store.Store, *line.Line) {
	t.Helper()
	u, err := url.Parse(s.db.URLAs(pgtest.Runtime))
	require.NoError(t, err)
	l, err := line.New(t.Context(), filepath.Join(u.Query().Get("host"), ".s.PGSQL."+u.Query().Get("port")))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, l.Close()) })
	address, port := l.Address()
	u.Host, u.RawQuery = net.JoinHostPort(address, strconv.Itoa(port)), "sslmode=disable"
	st, err := store.Open(u.String(), "")
	require.NoError(t, err)
	t.Cleanup(st.Close)
	return st, l
}

// A leader that gets no answer gives up the lead: that it does still reaches the
// server, where the session's timeout may be long.
func TestALeadWithoutAnswersFallsWhenItIsClosed(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS)
	st, way := throughLine(t, s)
	unanswered, other := lead(t, st, time.Minute), lead(t, s.runtime(), time.Minute)
	require.True(t, acquire(t, unanswered))
	require.NoError(t, way.Swallow())
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, unanswered.Ping(ctx), context.DeadlineExceeded)
	require.False(t, acquire(t, other))
	unanswered.Close()
	closed := time.Now()
	s.eventually("the lock does not fall", func() bool { return acquire(t, other) })
	assert.Less(t, time.Since(closed), 10*time.Second, "pgx gives up after 15")
}

// Nothing that is asked of the lead's session is waited for longer than the lock
// can be relied on, whoever asks. The server's process stands still, so that not
// even the end of the session is heard of.
func TestTheLeadWaitsForNoAnswerLongerThanItsTimeout(t *testing.T) {
	t.Parallel()
	for name, ask := range map[string]func(context.Context, *store.Lead) error{
		"arm":     func(ctx context.Context, l *store.Lead) error { _, err := l.Arm(ctx, time.Minute); return err },
		"silence": func(ctx context.Context, l *store.Lead) error { return l.Disarm(ctx) },
		"ping":    func(ctx context.Context, l *store.Lead) error { return l.Ping(ctx) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := migratedSite(t, host.CMS)
			l := lead(t, s.runtime(), time.Second)
			require.True(t, acquire(t, l))
			var pid int
			require.NoError(t, s.db.Conn(t).QueryRow(t.Context(), `SELECT pid FROM pg_stat_activity
				WHERE datname = current_database() AND application_name LIKE 'tokenalert lead 2%'`).Scan(&pid))
			require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
			t.Cleanup(func() { assert.NoError(t, syscall.Kill(pid, syscall.SIGCONT)) })
			ctx, cancel := context.WithTimeout(t.Context(), siteWithin)
			defer cancel()
			require.Error(t, ask(ctx, l))
			require.NoError(t, ctx.Err(), "it was waited for without end")
		})
	}
}
