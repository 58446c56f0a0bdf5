package store_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/migrations"
	"tokenalert/store"
)

func TestTheFirstTickMustBeAFullCount(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS)
	user := s.user(100)
	s.use(user, 90)
	c := &counter{site: s, store: s.runtime(), slice: 100}
	c.calendar()
	p, err := c.store.Poll(t.Context())
	require.NoError(t, err)
	assert.True(t, p.Work)
	_, err = c.try(c.store, c.request(store.Window))
	require.ErrorIs(t, err, store.ErrNeedsFull)
	result := c.count(store.First)
	assert.EqualValues(t, 1, result.ID)
	assert.EqualValues(t, 90, c.total(user))
	assert.Equal(t, []string{"80 told"}, c.alerts(user))
	assert.Zero(t, c.settle())
}

func TestATickFromAnotherClusterIsRefused(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	user := c.user(0)
	c.use(user, 1)
	c.settle()
	_, err := c.store.Check(t.Context())
	require.NoError(t, err)
	c.exec("UPDATE tokenalert.ticks SET system_identifier = 1")
	_, err = c.store.Check(t.Context())
	require.ErrorIs(t, err, store.ErrForeignChain)
	c.use(user, 10)
	for _, kind := range []store.Kind{store.Window, store.Full} {
		_, err = c.try(c.store, c.request(kind))
		require.ErrorIs(t, err, store.ErrForeignChain)
	}
	assert.EqualValues(t, 1, c.total(user))
}

func TestTransactionIDsThatTheServerHasNotGivenOutAreForeign(t *testing.T) {
	t.Parallel()
	t.Run("of usage", func(t *testing.T) {
		t.Parallel()
		c := newCounter(t, host.CMS)
		c.exec(`INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used, xact_id) VALUES ($1, $2, 1, '4611686018427387904')`,
			c.user(0), c.org)
		_, err := c.store.Check(t.Context())
		require.ErrorIs(t, err, store.ErrForeignChain)
	})
	t.Run("of the chain", func(t *testing.T) {
		t.Parallel()
		c := newCounter(t, host.CMS)
		c.exec("UPDATE tokenalert.ticks SET snapshot = '4611686018427387999:4611686018427387999:'")
		_, err := c.store.Check(t.Context())
		require.ErrorIs(t, err, store.ErrForeignChain)
	})
}

func TestCheckRefusesASchemaThatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	known := migrations.Version()
	for name, tt := range map[string]struct {
		sql  string
		says string // "": accepted
	}{
		"as it is":  {"SELECT", ""},
		"missing":   {"DROP SCHEMA tokenalert CASCADE", "migrate up"},
		"emptied":   {"DELETE FROM tokenalert.goose_db_version", "migrate up"},
		"older":     {"DELETE FROM tokenalert.goose_db_version WHERE version_id >= $1", "migrate up"},
		"one ahead": {"INSERT INTO tokenalert.goose_db_version (version_id, is_applied) VALUES ($1 + 1, true)", ""},
		"two ahead": {"INSERT INTO tokenalert.goose_db_version (version_id, is_applied) VALUES ($1 + 2, true)", "newer binary"},
		"no index":  {"DROP INDEX ai_usage_logs_xact_id_idx", "migrate up"},
		"no rights": {"REVOKE ALL ON tokenalert.goose_db_version FROM " + pgtest.Runtime, "migrate grant"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := migratedSite(t, host.CMS)
			var args []any
			if name == "older" || name == "one ahead" || name == "two ahead" {
				args = []any{known}
			}
			s.exec(tt.sql, args...)
			server, err := s.runtime().Check(t.Context())
			if tt.says == "" {
				require.NoError(t, err)
				assert.False(t, server.PreparedTransactions)
				assert.GreaterOrEqual(t, server.VersionNum, 140000)
				assert.GreaterOrEqual(t, server.SchemaVersion, known)
				return
			}
			require.ErrorIs(t, err, store.ErrSchema)
			assert.ErrorContains(t, err, tt.says)
		})
	}
}

// An interrupted build leaves the index behind, and not valid.
func TestCheckRefusesAnInvalidIndex(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS)
	s.superExec("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ai_usage_logs_xact_id_idx'::regclass")
	_, err := s.runtime().Check(t.Context())
	require.ErrorIs(t, err, store.ErrSchema)
}

// A standby says so in two ways: it is in recovery, and it refuses writes.
func TestAStandbyIsRefused(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	user := c.user(0)
	c.use(user, 1)
	_, err := c.try(c.open(map[string]string{"default_transaction_read_only": "on"}), c.request(store.Window))
	require.ErrorIs(t, err, store.ErrReadOnly)
	c.superExec(`
		CREATE SCHEMA standby;
		GRANT USAGE ON SCHEMA standby TO PUBLIC;
		CREATE FUNCTION standby.pg_is_in_recovery() RETURNS boolean LANGUAGE sql AS 'SELECT true'`)
	s := c.open(map[string]string{"search_path": "standby,pg_catalog,public"})
	_, err = s.Check(t.Context())
	require.ErrorIs(t, err, store.ErrInRecovery)
	require.ErrorIs(t, err, store.ErrReadOnly)
	l, err := s.ConnectLead(t.Context(), time.Minute)
	require.NoError(t, err)
	defer l.Close()
	acquired, err := l.TryAcquire(t.Context(), "a-worker")
	assert.False(t, acquired)
	require.ErrorIs(t, err, store.ErrInRecovery)
}

func TestPruneKeepsTheNewestTick(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	user := c.user(0)
	c.use(user, 1)
	c.settle()
	// More than one batch of old ones, out of the order of their ids.
	c.exec(`INSERT INTO tokenalert.ticks (id, snapshot, system_identifier, kind, rows, users, worker, started_at)
		SELECT t.id + n, t.snapshot, t.system_identifier, 'window', 0, 0, 'test',
		       CASE WHEN n % 1000 = 1 THEN now() ELSE now() - interval '8 days' END
		FROM (SELECT * FROM tokenalert.ticks ORDER BY id DESC LIMIT 1) t, generate_series(1, 6000) AS n`)
	newest := c.lastTick()
	pruned, err := c.store.Prune(t.Context(), 7*24*time.Hour)
	require.NoError(t, err)
	assert.EqualValues(t, 6000-6-1, pruned)
	assert.Equal(t, newest, c.lastTick(), "however old")
	assert.Equal(t, 7+2, ask[int](c.site, "SELECT count(*) FROM tokenalert.ticks"))
	pruned, err = c.store.Prune(t.Context(), 7*24*time.Hour)
	require.NoError(t, err)
	assert.Zero(t, pruned)
	c.use(user, 10)
	assert.Equal(t, newest+1, c.tick().ID)
	assert.EqualValues(t, 11, c.total(user))
}
