package store_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/store"
)

// Advisory locks: the one that a held tick waits for, and the one that it takes
// to say that it does.
const (
	holdKey = 4711
	heldKey = 4712
)

// hold holds ticks between their snapshot and their read.
type hold struct {
	*counter
	store  *store.Store
	holder *site
}

// hold prepares a store whose ticks wait: it finds set_config in a schema of
// the test's before the one in pg_catalog. A tick calls that once it has its
// snapshot, and before it has touched any table.
func (c *counter) hold() *hold {
	c.t.Helper()
	c.superExec(`
		CREATE SCHEMA hold;
		GRANT USAGE ON SCHEMA hold TO PUBLIC;
		CREATE FUNCTION hold.set_config(name text, value text, is_local boolean) RETURNS text LANGUAGE plpgsql AS $$
		BEGIN
			IF name = 'row_security' THEN
				PERFORM pg_catalog.pg_advisory_xact_lock_shared(4712);
				-- Not pg_advisory_lock, to which lock_timeout applies.
				WHILE NOT pg_catalog.pg_try_advisory_xact_lock_shared(4711) LOOP
					PERFORM pg_catalog.pg_sleep(0.002);
				END LOOP;
			END IF;
			RETURN pg_catalog.set_config(name, value, is_local);
		END $$`)
	h := &hold{
		counter: c, holder: c.session(),
		store: c.open(map[string]string{"search_path": "hold,pg_catalog,public"}),
	}
	// Statements are prepared before, not while some table is locked.
	_, err := c.try(h.store, c.request(store.Window))
	require.NoError(c.t, err)
	h.holder.exec("SELECT pg_advisory_lock($1)", holdKey)
	return h
}

// start ticks in the background; its error comes from the channel.
func (h *hold) start(kind store.Kind) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := h.try(h.store, h.request(kind))
		done <- err
	}()
	h.t.Cleanup(h.release)
	return done
}

// reached waits until the tick is held.
func (h *hold) reached() {
	h.t.Helper()
	h.eventually("the tick is not held", func() bool {
		return ask[bool](h.site, `SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_database d ON d.oid = l.database
			WHERE d.datname = current_database() AND locktype = 'advisory' AND classid = 0 AND objid = $1)`, heldKey)
	})
}

func (h *hold) release() { _ = h.holder.owner.Close(h.t.Context()) }

// A snapshot does not survive a rewrite by others: the tick would see no rows,
// and write that down.
func TestATableRewrittenUnderATickIsNeverMiscounted(t *testing.T) {
	t.Parallel()
	for name, rewrite := range map[string]string{
		"truncate":    "TRUNCATE ai_usage_logs",
		"vacuum full": "VACUUM FULL ai_usage_logs",
		"cluster":     "CLUSTER ai_usage_logs USING idx_ai_usage_user",
		"alter table": "ALTER TABLE ai_usage_logs ALTER COLUMN prompt TYPE varchar(1000) USING left(prompt, 1000)",
		"copy freeze": `BEGIN;
			CREATE TEMP TABLE kept AS SELECT * FROM ai_usage_logs;
			TRUNCATE ai_usage_logs;
			COPY ai_usage_logs (user_id, organization_id, tokens_used) FROM PROGRAM 'echo $user,$org,1000' WITH (FORMAT csv, FREEZE);
			COMMIT`,
	} {
		for _, kind := range []store.Kind{store.Window, store.Full} {
			t.Run(name+" under a "+string(kind)+" tick", func(t *testing.T) {
				t.Parallel()
				c := newCounter(t, host.CMS)
				user := c.user(0)
				c.use(user, 1)
				c.settle()
				h := c.hold()
				c.use(user, 10)
				before := c.lastTick()
				done := h.start(kind)
				h.reached()
				super := c.db.Conn(t)
				for sql := range strings.SplitSeq(strings.NewReplacer("$user", user.String(), "$org", c.org.String()).Replace(rewrite), ";") {
					_, err := super.Exec(t.Context(), sql)
					require.NoError(t, err, sql)
				}
				h.release()
				require.ErrorIs(t, <-done, store.ErrRewritten)
				assert.Equal(t, before, c.lastTick(), "nothing is written")
				assert.EqualValues(t, 1, c.total(user))

				c.count(store.Full)
				c.requireTotals()
				c.use(user, 100)
				c.tick()
				c.requireTotals()
				assert.Zero(t, c.settle())
			})
		}
	}
}

// A commit between snapshot and read belongs to the next tick.
func TestWhatCommitsUnderATickIsCountedByTheNext(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	user := c.user(0)
	c.use(user, 1)
	c.settle()
	h := c.hold()
	c.use(user, 10)
	done := h.start(store.Window)
	h.reached()
	c.use(user, 100)
	c.exec("UPDATE ai_usage_logs SET tokens_used = 2 WHERE tokens_used = 1")
	h.release()
	require.NoError(t, <-done)
	assert.EqualValues(t, 11, c.total(user))
	c.tick()
	assert.EqualValues(t, 112, c.total(user))
	assert.Zero(t, c.settle())
}

func TestRowSecurityIsAnErrorNotASilence(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	user := c.user(0)
	c.use(user, 1)
	c.settle()
	c.use(user, 10)
	c.exec("ALTER TABLE ai_usage_logs ENABLE ROW LEVEL SECURITY")
	for _, kind := range []store.Kind{store.Window, store.Full} {
		_, err := c.try(c.store, c.request(kind))
		require.ErrorContains(t, err, "row-level security")
		assert.Equal(t, "42501", store.SQLState(err))
	}
	_, err := c.store.Reconcile(t.Context(), c.periods, nil)
	require.ErrorContains(t, err, "row-level security")
	assert.EqualValues(t, 1, c.total(user))
	c.exec("ALTER TABLE ai_usage_logs DISABLE ROW LEVEL SECURITY")
	c.tick()
	assert.EqualValues(t, 11, c.total(user))
}
