package store_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/migrations"
	"tokenalert/store"
)

// writers insert usage of one user until they are stopped, as a host that
// gives up where it waits for a lock for longer than patience.
type writers struct {
	s       *site
	written atomic.Int64
	stop    func()
}

func (s *site) write(n int, user uuid.UUID, patience string) *writers {
	s.t.Helper()
	w := &writers{s: s}
	var group sync.WaitGroup
	var stopped atomic.Bool
	for range n {
		conn := s.db.ConnAs(s.t, pgtest.Owner)
		_, err := conn.Exec(s.t.Context(), "SELECT set_config('lock_timeout', $1, false)", patience)
		require.NoError(s.t, err)
		group.Go(func() {
			for !stopped.Load() {
				if err := host.LogUsage(context.Background(), conn, user, s.org, 1); err != nil {
					assert.NoError(s.t, err, "a writer waited for longer than %s, or failed", patience)
					return
				}
				w.written.Add(1)
			}
		})
	}
	w.stop = sync.OnceFunc(func() {
		stopped.Store(true)
		group.Wait()
	})
	s.t.Cleanup(w.stop)
	return w
}

// goesOn waits until more has been written than now.
func (w *writers) goesOn(n int64) {
	w.s.t.Helper()
	until := w.written.Load() + n
	w.s.eventually("the writers do not go on", func() bool { return w.written.Load() >= until })
}

// running runs f beside the test, which must wait for its error.
func running(f func() error) <-chan error {
	ended := make(chan error, 1)
	go func() { ended <- f() }()
	return ended
}

// hold begins a transaction on a connection of its own and keeps it open.
func (s *site) hold(sql string, args ...any) pgx.Tx {
	s.t.Helper()
	conn, err := pgx.Connect(context.Background(), s.db.OwnerURL())
	require.NoError(s.t, err)
	s.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	tx, err := conn.Begin(context.Background())
	require.NoError(s.t, err)
	_, err = tx.Exec(context.Background(), sql, args...)
	require.NoError(s.t, err)
	return tx
}

// attempts waits until a migration has queued for a lock on ai_usage_logs n
// times, each in another transaction.
func (s *site) attempts(n int) {
	s.t.Helper()
	seen := map[string]bool{}
	s.eventually("the migration does not try again", func() bool {
		for _, transaction := range s.list(`SELECT l.virtualtransaction FROM pg_locks l JOIN pg_stat_activity a USING (pid)
			WHERE l.relation = 'ai_usage_logs'::regclass AND NOT l.granted AND a.application_name = 'tokenalert migrate'
			  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())`) {
			seen[transaction] = true
		}
		return len(seen) >= n
	})
}

// longestWait is far above the 200 ms for which a step queues, and far below
// what the tests hold a table for.
const longestWait = "900ms"

func TestWritersGoOnWhileAStepWaitsForItsLock(t *testing.T) {
	t.Parallel()
	for name, step := range map[string]struct {
		after string // the step after which the table is held
		held  string
	}{
		"column":    {"", "SELECT count(*) FROM ai_usage_logs"},
		"take-over": {"00005", "INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used) SELECT id, organization_id, 1 FROM users LIMIT 1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, host.CMSWithTrigger)
			user := s.user(0)
			w := s.write(2, user, longestWait)
			w.goesOn(5)
			var held pgx.Tx
			reached := make(chan struct{})
			hold := sync.OnceFunc(func() {
				held = s.hold(step.held)
				close(reached)
			})
			if step.after == "" {
				hold()
			}
			said := &diary{}
			m := s.migrator(pgtest.Owner, func(sentence string) {
				said.note(sentence)
				if step.after != "" && said.has(step.after) {
					hold()
				}
			})
			ended := running(func() error { return m.Up(t.Context()) })
			<-reached
			s.attempts(3)
			w.goesOn(20)
			assert.True(t, said.has("trying again"))
			require.NoError(t, held.Commit(t.Context()))
			require.NoError(t, <-ended)
			w.goesOn(5)
		})
	}
}

// Nor does a change wait that puts users on the list of corrections.
func TestChangesGoOnWhileAStepWaitsForTheListOfThem(t *testing.T) {
	t.Parallel()
	s := newSite(t, host.CMS)
	first, second := s.user(100), s.user(100)
	var held pgx.Tx
	reached := make(chan struct{})
	hold := sync.OnceFunc(func() {
		held = s.hold("UPDATE users SET monthly_token_limit = 200 WHERE id = $1", first)
		close(reached)
	})
	said := &diary{}
	ended := running(func() error {
		return s.migrator(pgtest.Owner, func(sentence string) {
			said.note(sentence)
			if said.has("00007") {
				hold()
			}
		}).Up(t.Context())
	})
	<-reached
	s.eventually("it does not try again", func() bool { return said.has("trying again") })
	change := s.db.ConnAs(t, pgtest.Owner)
	_, err := change.Exec(t.Context(), "SET statement_timeout = '"+longestWait+"'")
	require.NoError(t, err)
	_, err = change.Exec(t.Context(), "UPDATE users SET monthly_token_limit = 200 WHERE id = $1", second)
	require.NoError(t, err)
	require.NoError(t, held.Commit(t.Context()))
	require.NoError(t, <-ended)
}

func TestTheIndexIsBuiltWhileWritersGoOn(t *testing.T) {
	t.Parallel()
	s := newSite(t, host.CMS)
	user := s.user(0)
	w := s.write(1, user, longestWait)
	var held pgx.Tx
	reached := make(chan struct{})
	said := &diary{}
	hold := sync.OnceFunc(func() {
		held = s.hold("INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used) VALUES ($1, $2, 1)", user, s.org)
		close(reached)
	})
	m := s.migrator(pgtest.Owner, func(sentence string) {
		said.note(sentence)
		if said.has("00001") {
			hold()
		}
	})
	// The build waits for the transaction that writes. Stopped there, it leaves
	// an invalid index behind.
	interrupted, interrupt := context.WithCancel(t.Context())
	ended := running(func() error { return m.Up(interrupted) })
	<-reached
	building := func() bool {
		return ask[bool](s, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
			AND application_name = 'tokenalert migrate' AND wait_event = 'virtualxid' AND query LIKE '%INDEX CONCURRENTLY%')`)
	}
	s.eventually("no index is being built", building)
	w.goesOn(20)
	interrupt()
	require.Error(t, <-ended)
	s.eventually("the build goes on", func() bool { return !building() })
	require.False(t, ask[bool](s, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'ai_usage_logs_xact_id_idx'::regclass"))

	again := running(func() error { return s.migrator(pgtest.Owner, nil).Up(t.Context()) })
	s.eventually("the index is not built again", building)
	w.goesOn(20)
	require.NoError(t, held.Commit(t.Context()))
	require.NoError(t, <-again)
	assert.True(t, ask[bool](s, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'ai_usage_logs_xact_id_idx'::regclass"))
}

func TestUpAndDownWhileWritersGoOn(t *testing.T) {
	t.Parallel()
	for _, kind := range []host.Kind{host.CMSWithTrigger, host.LMS} {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, kind)
			user, idle := s.user(0), s.user(0)
			s.use(idle, 7)
			w := s.write(8, user, "5s") // eight on two busy cores may queue for each other
			w.goesOn(20)
			s.up()
			w.goesOn(20)
			s.down()
			w.goesOn(20)
			s.up()
			w.goesOn(20)
			w.stop()
			// What came before the column, between column and take-over, and since.
			s.work()
			s.requireTotals()
			assert.Equal(t, w.written.Load()+7, ask[int64](s, "SELECT sum(tokens_used)::bigint FROM tokenalert.usage_periods"))
			assert.Equal(t, 1, ask[int](s, "SELECT count(*) FROM tokenalert.ticks"), "the first full count takes all")
		})
	}
}

func TestTwoUpsAtOnce(t *testing.T) {
	t.Parallel()
	s := newSite(t, host.CMSWithTrigger)
	reference := migratedSite(t, host.CMSWithTrigger)
	said := &diary{}
	// The first one stops after its first step, until another waits for it.
	waits := make(chan struct{})
	once := sync.OnceFunc(func() { close(waits) })
	first := s.migrator(pgtest.Owner, func(string) {
		select {
		case <-waits:
		case <-time.After(siteWithin):
		}
	})
	var group sync.WaitGroup
	group.Go(func() { assert.NoError(t, first.Up(t.Context())) })
	s.eventually("the first does not begin", func() bool { return ask[bool](s, "SELECT to_regnamespace('tokenalert') IS NOT NULL") })
	for range 2 {
		m := s.migrator(pgtest.Owner, func(sentence string) {
			said.note(sentence)
			once()
		})
		group.Go(func() { assert.NoError(t, m.Up(t.Context())) })
	}
	group.Wait()
	assert.True(t, said.has("another migration is running"))
	assert.False(t, said.has("00002"), "a step was taken twice")
	require.NoError(t, s.migrator(pgtest.Owner, nil).Grant(t.Context(), pgtest.Runtime))
	s.requireSame(reference.catalogue(), s.catalogue())
	assert.Equal(t, migrations.Version()+1, ask[int64](s, "SELECT count(*) FROM tokenalert.goose_db_version"))
}

func TestALockThatIsNotToBeHad(t *testing.T) {
	t.Parallel()
	s := newSite(t, host.CMSWithTrigger)
	held := s.hold("SELECT FROM ai_usage_logs")
	m := s.migrator(pgtest.Owner, nil)
	m.LockPatience = 0
	err := m.Up(t.Context())
	require.ErrorContains(t, err, "the lock was not to be had")
	assert.True(t, store.IsTransient(err), "%v", err)
	assert.Equal(t, "O", ask[string](s, "SELECT tgenabled::text FROM pg_trigger WHERE tgname = 'token_limit_check'"))
	assert.Zero(t, ask[int](s, "SELECT count(*) FROM pg_attribute WHERE attrelid = 'ai_usage_logs'::regclass AND attname = 'xact_id'"))
	require.NoError(t, held.Rollback(t.Context()))
	require.NoError(t, m.Up(t.Context()))
}
