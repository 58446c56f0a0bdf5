package main

import (
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/pgtest"
	"tokenalert/worker"
)

// impatient are settings of a leader that the server gives up after a second.
var impatient = []string{"TOKENALERT_LEAD_PING=300ms", "TOKENALERT_LEAD_TIMEOUT=1s", "TOKENALERT_LEAD_RETRY=100ms"}

func TestAFrozenLeaderIsReplacedAndComesBackAsFollower(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	user := p.user(1000)
	frozen := p.leads(impatient...)
	other := p.follows(impatient...)
	p.use(user, 500)
	p.counted(user, 500)
	p.asleep()

	frozen.signal(syscall.SIGSTOP)
	p.use(user, 350)
	other.await(worker.EventLeaderAcquired, 1)
	other.await(worker.EventAlertSent, 1)
	p.counted(user, 850)

	frozen.signal(syscall.SIGCONT)
	frozen.await(worker.EventLeaderLost, 1)
	frozen.await(worker.EventFollowerWaiting, 1)
	assert.Contains(t, frozen.awaitReady(), "follower")
	p.use(user, 100)
	other.await(worker.EventAlertSent, 2)
	p.counted(user, 950)
	assert.Equal(t, []int{80, 90}, p.told(user))
	assert.Empty(t, frozen.log(worker.EventAlertSent))
	other.terminate()
	frozen.await(worker.EventLeaderAcquired, 2)
	frozen.terminate()
}

// holdTicks has every tick wait, in the middle of its count, while somebody has
// the advisory lock.
const holdTicks = `CREATE OR REPLACE FUNCTION tokenalert.now() RETURNS timestamptz LANGUAGE plpgsql STABLE AS $$
	BEGIN
		WHILE current_setting('transaction_isolation') = 'repeatable read' -- a tick, not a look
			AND NOT pg_try_advisory_xact_lock_shared(1) LOOP PERFORM pg_sleep(0.005); END LOOP;
		RETURN clock_timestamp();
	END $$`

// The leader freezes with its tick open, between the count and the writing of
// what follows. Its session holds the next place in the chain until the server
// ends it, after ten seconds of an idle transaction.
func TestALeaderFrozenInItsTickWritesNothingTwice(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	user := p.user(1000)
	frozen := p.leads(impatient...)
	other := p.follows(impatient...)
	p.asleep()

	holder := p.db.ConnAs(t, pgtest.Owner)
	_, err := holder.Exec(t.Context(), "SELECT pg_advisory_lock(1)")
	require.NoError(t, err)
	p.exec(holdTicks, pgx.QueryExecModeSimpleProtocol)
	p.use(user, 850)
	p.held()
	frozen.signal(syscall.SIGSTOP)
	require.NoError(t, holder.Close(t.Context()))
	p.eventually(`SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
		AND application_name = 'tokenalert tick' AND state = 'idle in transaction')`, "the tick is not open")

	began := time.Now()
	other.await(worker.EventLeaderAcquired, 1)
	assert.Less(t, time.Since(began), 5*time.Second, "the lead alone, by its timeout")
	other.await(worker.EventAlertSent, 1)
	p.use(user, 100)
	other.await(worker.EventAlertSent, 2)
	assert.Less(t, time.Since(began), 15*time.Second)
	p.counted(user, 950)

	frozen.signal(syscall.SIGCONT)
	frozen.await(worker.EventLeaderLost, 1)
	assert.Contains(t, frozen.awaitReady(), "follower")
	assert.Equal(t, []int{80, 90}, p.told(user))
	p.counted(user, 950)
	assert.Empty(t, frozen.log(worker.EventAlertSent))
	assert.Equal(t, 2, ask[int](p, "SELECT count(*)::integer FROM token_limit_alerts"))
	other.terminate()
	frozen.await(worker.EventLeaderAcquired, 2)
	frozen.terminate()
}

// A leader that is killed with the bell armed leaves it so until the lease
// ends. Inserts go on all the while.
func TestAKilledLeadersBellFallsSilent(t *testing.T) {
	t.Parallel()
	p := newStraightPlatform(t)
	user := p.user(1000)
	killed := p.leads("TOKENALERT_BELL_RENEWAL=1s", "TOKENALERT_BELL_LEASE=3s")
	p.asleep()
	killed.signal(syscall.SIGKILL)
	killed.wait()
	p.eventually("SELECT count(*) = 0 FROM pg_stat_activity WHERE usename = $1 AND datname = current_database()",
		"its sessions go on", pgtest.Runtime)

	listener := p.db.Conn(t)
	_, err := listener.Exec(t.Context(), "LISTEN tokenalert")
	require.NoError(t, err)
	heard := func() string {
		// Notifications of two sessions come in the order of their commits.
		_, err := p.admin.Exec(t.Context(), "SELECT pg_notify('tokenalert', 'sentinel')")
		require.NoError(t, err)
		n, err := listener.WaitForNotification(t.Context())
		require.NoError(t, err)
		return n.Payload
	}
	p.use(user, 300)
	assert.Empty(t, heard(), "armed: the insert rings")
	_, err = listener.WaitForNotification(t.Context()) // the sentinel
	require.NoError(t, err)
	p.eventually("SELECT last_value < extract(epoch FROM clock_timestamp()) FROM tokenalert.doorbell", "the lease does not end")
	assert.Positive(t, ask[int](p, "SELECT last_value FROM tokenalert.doorbell"), "nobody silenced it")
	p.use(user, 600)
	assert.Equal(t, "sentinel", heard(), "lapsed: the insert does not ring")

	p.leads().await(worker.EventAlertSent, 1)
	p.counted(user, 900)
	assert.Equal(t, []int{90}, p.told(user))
}

func TestAKilledLeaderIsReplacedWithinTheRetry(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	killed := p.leads()
	other := p.follows()
	began := time.Now()
	killed.signal(syscall.SIGKILL)
	other.await(worker.EventLeaderAcquired, 1)
	assert.Less(t, time.Since(began), 5*time.Second, "the retry is a second, the timeout ten")
}

// The session that a new leader ticks in is there before it leads. A leader at
// rest only looks; what ends with a ROLLBACK is the follower's.
func TestAFollowerIsReadyToTick(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.leads()
	p.asleep()
	p.follows()
	p.eventually(`SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
		AND application_name = 'tokenalert tick' AND state = 'idle' AND query = 'ROLLBACK')`, "the follower gets not ready")
}

// What a new leader's first tick costs says nothing of the next: it is followed
// at once, where by its cost a pause of some five seconds would come.
func TestTheFirstTickOfALeadIsFollowedAtOnce(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	one, other := p.user(1000), p.user(1000)
	first := p.leads() // so that the chain has begun
	p.asleep()
	first.terminate()
	holder := p.db.ConnAs(t, pgtest.Owner)
	_, err := holder.Exec(t.Context(), "SELECT pg_advisory_lock(1)")
	require.NoError(t, err)
	p.exec(holdTicks, pgx.QueryExecModeSimpleProtocol)
	p.use(one, 850)
	leader := p.run("TOKENALERT_PAUSE_MAX=10s")
	p.held()
	p.use(other, 850)
	p.eventually(`SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
		AND application_name = 'tokenalert tick' AND xact_start < clock_timestamp() - interval '1.7 s')`, "no tick is open")
	require.NoError(t, holder.Close(t.Context()))
	leader.await(worker.EventAlertSent, 1)
	began := time.Now()
	leader.await(worker.EventAlertSent, 2)
	assert.Less(t, time.Since(began), 4*time.Second)
}
