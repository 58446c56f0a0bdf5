package worker_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/worker"
)

// patient tries for the lead after 5 s at the soonest.
func patient(c *worker.Config) { c.LeadRetry = 10 * time.Second }

// attentive notices within 100 ms that its session has ended.
func attentive(c *worker.Config) { c.LeadPing = 100 * time.Millisecond }

func TestAFollowerTakesOverAtOnceWhenTheLeaderStops(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	user := w.user(1000)
	first := w.start()
	first.asleep()
	second := w.start(patient)
	second.await(worker.EventFollowerWaiting)

	began := time.Now()
	first.stop()
	second.await(worker.EventLeaderAcquired)
	assert.Less(t, time.Since(began), 4*time.Second, "without waiting for its next attempt")
	require.NoError(t, first.err)
	assert.Len(t, first.lines(worker.EventLeaderReleased), 1)
	w.use(user, 850)
	second.await(worker.EventAlertSent)
	assert.Equal(t, []int{80}, w.told(user))
	assert.Empty(t, first.lines(worker.EventAlertSent))
}

func TestOneLeadsAndTheOthersWait(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	o := w.overseer()
	leader := w.start()
	leader.await(worker.EventLeaderAcquired)
	followers := []*replica{w.start(), w.start()}
	for _, f := range followers {
		f.await(worker.EventFollowerWaiting)
	}
	user := w.user(1000)
	for range 50 {
		w.use(user, 20)
	}
	w.settle()
	assert.Contains(t, w.told(user), 100, "the others may have been crossed with a higher one")
	assert.Len(t, w.alerts(user), 3)
	w.assertTotals()
	for _, f := range followers {
		assert.Empty(t, f.lines(worker.EventTickCompleted))
		assert.Empty(t, f.lines(worker.EventLeaderAcquired))
	}
	assert.Len(t, o.sessions("tokenalert lead"), 3)
	assert.Len(t, o.sessions("tokenalert listen"), 1)
	assert.LessOrEqual(t, len(o.sessions("tokenalert tick")), 2+1+1)
}

func TestALeaderWhoseSessionEndsIsReplaced(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	o := w.overseer()
	user := w.user(1000)
	first := w.start(patient) // notices at its next ping, 3 s later at most
	first.asleep()
	second := w.start()
	second.await(worker.EventFollowerWaiting)

	o.end(o.leader())
	second.await(worker.EventLeaderAcquired)
	w.use(user, 850) // which the first may still tell: it does not know yet, and the chain lets only one
	w.settle()
	first.await(worker.EventLeaderLost)
	w.eventually(func() bool { return len(first.lines(worker.EventFollowerWaiting)) == 1 }, "it does not come back as a follower")
	told := len(first.lines(worker.EventAlertSent))
	w.use(user, 100)
	w.settle()
	assert.Equal(t, []int{80, 90}, w.told(user))
	w.eventually(func() bool { return len(second.lines(worker.EventAlertSent)) == 2-told }, "who leads tells")
	assert.Len(t, first.lines(worker.EventAlertSent), told)
	w.assertTotals()
}

// However long it would have slept.
func TestALeaderAsleepWakesWhenTheLeadIsLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	o := w.overseer()
	r := w.start(attentive, func(c *worker.Config) { c.BellRenewal, c.BellLease = time.Minute, 3*time.Minute })
	r.asleep()
	o.end(o.leader())
	r.await(worker.EventLeaderLost)
	w.eventually(func() bool { return len(r.lines(worker.EventLeaderAcquired)) == 2 }, "it does not lead again")
}

// The tick under way is rolled back, not finished: somebody else may lead.
func TestALeaderThatLosesItsSessionStopsTicking(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	o := w.overseer()
	user := w.user(1000)
	release := w.db.HoldTicks(t)
	r := w.start(attentive)
	w.use(user, 850)
	tick := o.held()

	o.end(o.leader())
	r.await(worker.EventLeaderLost)
	w.eventually(func() bool { return o.is("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)", tick) }, "its tick goes on")
	assert.Empty(t, w.alerts(user))
	assert.Empty(t, r.lines(worker.EventAlertSent))

	release()
	r.await(worker.EventAlertSent)
	w.settle()
	assert.Len(t, r.lines(worker.EventAlertSent), 1)
	assert.Len(t, r.lines(worker.EventLeaderAcquired), 2)
	assert.Len(t, w.alerts(user), 1)
	assert.Len(t, w.notifications(user), 1)
	w.assertTotals()
}

func TestATickWhoseSessionEndsLosesAndDoublesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	o := w.overseer()
	user := w.user(1000)
	release := w.db.HoldTicks(t)
	r := w.start()
	w.use(user, 850)
	for range 3 {
		o.end(o.held())
	}
	assert.Empty(t, w.alerts(user))
	release()
	r.await(worker.EventAlertSent)
	w.settle()
	assert.Len(t, r.lines(worker.EventTickFailed), 3)
	assert.Len(t, r.lines(worker.EventLeaderAcquired), 1, "the lead has a session of its own")
	assert.Len(t, w.alerts(user), 1)
	assert.Len(t, w.notifications(user), 1)
	w.assertTotals()
}

// Sessions of all kinds end at any moment, while two replicas compete and a
// writer goes on.
func TestEndingSessionsLosesAndDoublesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	o := w.overseer()
	users := make([]uuid.UUID, 5)
	for i := range users {
		users[i] = w.user(1000)
	}
	replicas := []*replica{w.start(attentive), w.start(attentive)}
	replicas[0].await(worker.EventDatabaseConnected)
	names := []string{"tokenalert tick", "tokenalert tick", "tokenalert listen", "tokenalert lead"}
	for i := range 200 {
		w.use(users[i%len(users)], 30)
		if i%10 == 5 {
			for _, pid := range o.sessions(names[rand.IntN(len(names))]) {
				o.is("SELECT pg_terminate_backend($1)", pid)
			}
		}
	}
	w.settle()
	w.assertTotals()
	for _, user := range users {
		alerts := w.alerts(user)
		assert.Len(t, alerts, 3, "each crossing once")
		told := w.told(user)
		assert.Contains(t, told, 100)
		assert.Len(t, w.notifications(user), len(told))
	}
}

// A leader that stops while its session is being renewed does not cut that off,
// which would close the session that silences the bell and releases the lead.
func TestAStopWhileTheBellIsRenewedSilencesIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	o := w.overseer()
	r := w.start(attentive, func(c *worker.Config) { c.BellRenewal, c.BellLease = time.Second, time.Minute })
	o.rests(r)
	tx, err := w.owner.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), "ALTER SEQUENCE tokenalert.doorbell CACHE 1") // setval waits for it
	require.NoError(t, err)
	w.eventually(func() bool {
		return o.is("SELECT coalesce(wait_event_type = 'Lock', false) FROM pg_stat_activity WHERE pid = $1", o.leader())
	}, "the bell is not renewed")
	r.cancel()
	w.eventually(func() bool { return len(o.sessions("tokenalert listen")) == 0 }, "it does not stop")
	require.NoError(t, tx.Rollback(t.Context()))
	r.stop()
	assert.Len(t, r.lines(worker.EventLeaderReleased), 1)
	assert.Zero(t, o.count("SELECT last_value FROM tokenalert.doorbell"))
}
