package worker_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/store"
	"tokenalert/worker"
)

func TestAnInsertWakesASleeper(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	o := w.overseer()
	user := w.user(1000)
	r := w.start(sleepy)
	o.rests(r)
	began := time.Now()
	w.use(user, 850)
	r.await(worker.EventAlertSent)
	assert.Less(t, time.Since(began), 10*time.Second, "the next look is a minute away")
	assert.Equal(t, 1, o.rang())
	assert.Equal(t, []int{80}, w.told(user))
}

// A bell that is armed and does not ring costs at most the time until the next
// look, and is counted. One that rings is not.
func TestAMissedRingIsCounted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	o := w.overseer()
	user := w.user(1000)
	r := w.start(func(c *worker.Config) { c.BellRenewal, c.BellLease = 4*time.Second, 12*time.Second })
	o.rests(r)
	missed := func() float64 { return testutil.ToFloat64(r.metrics.MissedRings) }
	w.use(user, 850)
	r.await(worker.EventAlertSent)
	o.rests(r)
	assert.Zero(t, missed())

	w.ownerExec("ALTER TABLE ai_usage_logs DISABLE TRIGGER tokenalert_ring")
	// What is due later than the next look is not what that look was for.
	w.ownerExec("INSERT INTO tokenalert.recounts (user_id, at, due_at, cause) VALUES ($1, now(), now() + interval '1 hour', 'set_aside')", user)
	for used, deadline := int64(850), time.Now().Add(settleWithin); missed() == 0 && time.Now().Before(deadline); {
		o.rests(r) // not while transactions of others keep it from sleeping
		w.use(user, 1)
		used++
		w.eventually(func() bool { return w.total(user) == used }, "not counted")
		w.eventually(func() bool { return o.armed() }, "it does not go to sleep again")
	}
	assert.Positive(t, missed())
}

func TestAnInsertDoesNotRingWhileTheWorkerIsAwake(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	o := w.overseer()
	user, other := w.user(1000), w.user(1000)
	r := w.start(sleepy)
	o.rests(r)
	release := w.db.HoldTicks(t)
	w.use(user, 850)
	o.held()
	w.eventually(func() bool { return !o.armed() }, "the bell is not silenced")
	require.LessOrEqual(t, o.rang(), 1)
	for range 20 {
		w.use(other, 50)
	}
	assert.Zero(t, o.rang())
	release()
	w.settle()
	assert.Equal(t, []int{80}, w.told(user))
	assert.Contains(t, w.told(other), 100)
	w.assertTotals()
}

// The barrier: whoever looked at the bell before it was armed does not ring.
func TestATransactionOlderThanTheSleepIsToldWhenItCommits(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	o := w.overseer()
	user, other := w.user(1000), w.user(1000)
	r := w.start(sleepy)
	o.rests(r)
	release := w.db.HoldTicks(t)
	w.use(other, 850)
	o.held()
	w.eventually(func() bool { return !o.armed() }, "the bell is not silenced")
	o.rang()

	tx, err := w.writer.Begin(t.Context())
	require.NoError(t, err)
	w.insert(tx, user, 850, nil) // the bell is silent
	armed := len(r.lines(worker.EventBellArmed))
	release()
	w.eventually(func() bool { return len(r.lines(worker.EventBellArmed)) > armed && o.armed() }, "the bell is not armed")
	// From here it would sleep, were it not for the transaction.
	w.settle()
	began := time.Now()
	require.NoError(t, tx.Commit(t.Context()))
	assert.Zero(t, o.rang())
	w.eventually(func() bool { return len(w.told(user)) == 1 }, "not told")
	assert.Less(t, time.Since(began), 10*time.Second, "the next defensive look is a minute away")
	w.assertTotals()
}

// A transaction that inserts while the bell is armed rings when it commits,
// however long it stays open; one that is rolled back does not ring.
func TestARingComesWithTheCommit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	o := w.overseer()
	user := w.user(1000)
	r := w.start(sleepy)
	o.rests(r)
	tx, err := w.writer.Begin(t.Context())
	require.NoError(t, err)
	w.insert(tx, user, 900, nil)
	require.NoError(t, tx.Rollback(t.Context()))
	assert.Zero(t, o.rang(), "rolled back")
	tx, err = w.writer.Begin(t.Context())
	require.NoError(t, err)
	w.insert(tx, user, 850, nil)
	assert.Zero(t, o.rang(), "not committed")
	require.NoError(t, tx.Commit(t.Context()))
	r.await(worker.EventAlertSent)
	assert.Equal(t, 1, o.rang())
	assert.Equal(t, []int{80}, w.told(user))
	w.assertTotals()
}

func TestTheListenerReconnects(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	o := w.overseer()
	user := w.user(1000)
	r := w.start(sleepy)
	o.rests(r)
	w.eventually(func() bool { return len(o.sessions("tokenalert listen")) == 1 }, "nobody listens")
	before := o.sessions("tokenalert listen")
	o.end(before[0])
	w.use(user, 850) // rings, and nobody hears
	r.await(worker.EventListenerReconnecting)
	r.await(worker.EventAlertSent)
	w.eventually(func() bool {
		now := o.sessions("tokenalert listen")
		return len(now) == 1 && now[0] != before[0]
	}, "nobody listens again")
	o.rests(r)
	w.use(user, 100)
	w.eventually(func() bool { return len(w.told(user)) == 2 }, "the new connection hears nothing")
	assert.Empty(t, r.lines(worker.EventLeaderLost))
	w.assertTotals()
}

// A server that dies ends one session after the other: the lead's may still answer
// when the listener's is gone already. It is asked again once somebody listens anew.
func TestTheLeadIsDoubtedUntilSomebodyListensAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	o := w.overseer()
	user := w.user(1_000_000)
	// No ping, and no rest in which the bell would need the session.
	r := w.start(attentive, func(c *worker.Config) { c.LeadPing, c.LeadTimeout = time.Minute, 3*time.Minute })
	busily := func(condition func() bool, message string) {
		w.eventually(func() bool { w.use(user, 1); return condition() }, message)
	}
	busily(func() bool { return len(o.sessions("tokenalert listen")) == 1 && !o.armed() }, "nobody listens")
	lead := o.leader()
	answered := func() int {
		return o.count("SELECT (extract(epoch FROM state_change) * 1000000)::bigint FROM pg_stat_activity WHERE pid = $1", lead)
	}
	before := answered()
	o.end(o.sessions("tokenalert listen")[0])
	busily(func() bool { return answered() > before }, "the lead's session is not asked")
	o.end(lead)
	busily(func() bool { return len(r.lines(worker.EventLeaderAcquired)) == 2 }, "it does not find out")
	w.settle()
	w.assertTotals()
}

// Inserts were silent while the lease had lapsed, so its renewal is no more than
// an arming: the worker goes through the barrier again before it sleeps on.
func TestALeaseThatLapsedIsAFreshArming(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	o := w.overseer()
	user := w.user(1000)
	r := w.start(attentive, func(c *worker.Config) { c.BellRenewal, c.BellLease = time.Second, 3*time.Second })
	o.rests(r)
	woken := len(r.lines(worker.EventBellDisarmed))
	o.is("SELECT setval('tokenalert.doorbell', 1) > 0")
	w.eventually(func() bool { return len(r.lines(worker.EventBellDisarmed)) > woken }, "it sleeps on")
	assert.Zero(t, o.rang(), "nobody woke it")
	w.eventually(o.armed, "the bell is not armed again")
	w.use(user, 850)
	r.await(worker.EventAlertSent)
	assert.Equal(t, []int{80}, w.told(user))
}

func TestTheBellCanBeOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	o := w.overseer()
	user := w.user(1000)
	o.is("SELECT setval('tokenalert.doorbell', 1) > 0") // by a leader that used it, and died
	r := w.start(func(c *worker.Config) { c.Bell = "off" })
	assert.Equal(t, "TOKENALERT_BELL=off", r.await(worker.EventBellMuted).ContextMap()["reason"])
	w.use(user, 850)
	r.await(worker.EventAlertSent)
	w.use(user, 100)
	w.eventually(func() bool { return len(w.told(user)) == 2 }, "not told")
	assert.Zero(t, o.rang())
	assert.False(t, o.armed())
	assert.True(t, o.is("SELECT NOT is_called FROM tokenalert.doorbell"), "inserts still look whether its lease has ended")
	assert.Empty(t, r.lines(worker.EventBellArmed))
	assert.Empty(t, o.sessions("tokenalert listen"))
	w.assertTotals()
}

// PostgreSQL refuses PREPARE TRANSACTION after a NOTIFY.
func TestPreparedTransactions(t *testing.T) {
	t.Parallel()
	in := pgtest.StartServer(t, map[string]string{"max_prepared_transactions": "10"})
	prepare := func(w *world, user uuid.UUID, tokens int) error {
		tx, err := w.writer.Begin(t.Context())
		require.NoError(t, err)
		w.insert(tx, user, tokens, nil)
		_, err = tx.Exec(t.Context(), "PREPARE TRANSACTION 'usage'")
		return err
	}
	t.Run("auto polls", func(t *testing.T) {
		w := worldOn(t, in.New(t, pgtest.Migrated(host.CMS)))
		o := w.overseer()
		user, other := w.user(1000), w.user(1000)
		r := w.start()
		assert.Contains(t, r.await(worker.EventBellMuted).ContextMap()["reason"], "max_prepared_transactions")
		require.NoError(t, prepare(w, other, 850))
		w.use(user, 850)
		r.await(worker.EventAlertSent)
		w.settle()
		assert.Equal(t, 1, o.count("SELECT count(*) FROM token_limit_alerts"), "what is prepared is not committed")
		_, err := w.writer.Exec(t.Context(), "COMMIT PREPARED 'usage'")
		require.NoError(t, err)
		w.eventually(func() bool { return o.count("SELECT count(*) FROM token_limit_alerts") == 2 }, "not counted")
		assert.Zero(t, o.rang())
		w.assertTotals()
	})
	t.Run("an armed bell stays mute", func(t *testing.T) {
		w := worldOn(t, in.New(t, pgtest.Migrated(host.CMS)))
		o := w.overseer()
		o.is("SELECT setval('tokenalert.doorbell', 9999999999) > 0")
		require.NoError(t, prepare(w, w.user(1000), 850))
		_, err := w.writer.Exec(t.Context(), "ROLLBACK PREPARED 'usage'")
		require.NoError(t, err)
		assert.Zero(t, o.rang())
	})
	t.Run("on rings", func(t *testing.T) {
		w := worldOn(t, in.New(t, pgtest.Migrated(host.CMS)))
		o := w.overseer()
		user := w.user(1000)
		r := w.start(sleepy, func(c *worker.Config) { c.Bell = "on" })
		o.rests(r)
		w.use(user, 850)
		r.await(worker.EventAlertSent)
		assert.Empty(t, r.lines(worker.EventBellMuted))
		assert.Equal(t, 1, o.rang())
		o.rests(r)
		assert.ErrorContains(t, prepare(w, user, 10), "cannot PREPARE a transaction that has executed LISTEN, UNLISTEN, or NOTIFY",
			"what the setting asks for")
	})
}

// The schema that comes up again has a bell of its own, which is silent.
func TestASleeperHearsThatTheSchemaIsUpAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	user := w.user(1000)
	r := w.start(func(c *worker.Config) { // no renewal helps out
		c.BellRenewal, c.BellLease = time.Minute, 150*time.Second
	})
	r.asleep()
	m, err := store.NewMigrator(w.db.OwnerURL())
	require.NoError(t, err)
	defer m.Close()
	require.NoError(t, m.Down(t.Context()))
	require.NoError(t, m.Up(t.Context()))
	w.use(user, 850)
	w.eventually(func() bool { return len(w.told(user)) == 1 }, "nobody is told")
}
