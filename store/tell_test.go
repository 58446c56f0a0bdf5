package store_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/store"
)

func TestAUserHeldByTheHostIsToldLaterAndOthersNow(t *testing.T) {
	t.Parallel()
	for name, lock := range map[string]string{
		"the user":             "SELECT FROM users WHERE id = $1 FOR UPDATE",
		"the organization too": "SELECT FROM organizations o JOIN users u ON u.organization_id = o.id WHERE u.id = $1 FOR UPDATE OF o",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCounter(t, host.CMS)
			held, free := c.user(100), c.user(100)
			// So that the other is not held with the organization.
			other, err := host.NewOrganization(t.Context(), c.owner, "Other")
			require.NoError(t, err)
			c.exec("UPDATE users SET organization_id = $1 WHERE id = $2", other, free)
			c.settle()
			c.use(held, 90)
			c.use(free, 90)
			holder := c.session()
			tx, err := holder.owner.Begin(t.Context())
			require.NoError(t, err)
			_, err = tx.Exec(t.Context(), lock, held)
			require.NoError(t, err)

			result := c.tick()
			assert.Equal(t, []uuid.UUID{held}, result.Held)
			assert.Equal(t, []string{"80 told"}, c.alerts(free))
			assert.Empty(t, c.alerts(held))
			assert.EqualValues(t, 90, c.total(held), "counted all the same")
			for _, o := range result.Outcomes {
				assert.Equal(t, free, o.UserID)
			}
			assert.Equal(t, 1, c.pending())
			require.NoError(t, tx.Rollback(t.Context()))
			c.eventually("the user is not looked at again", func() bool {
				result = c.count(store.Window)
				return result.Work()
			})
			assert.EqualValues(t, 1, result.Recounts)
			assert.Zero(t, result.Counted, "a decision, not a count")
			assert.Equal(t, []string{"80 told"}, c.alerts(held))
			assert.Equal(t, 1, c.notified(held))
			assert.Zero(t, c.pending())
		})
	}
}

// Who could not be told before the period ended is decided in that period, and
// not in the one that goes on.
func TestWhoCouldNotBeToldInTimeIsDecidedInThePeriod(t *testing.T) {
	t.Parallel()
	for name, stands := range map[string]func(c *counter, user uuid.UUID) (tick func() store.TickResult, mend func()){
		"held": func(c *counter, user uuid.UUID) (func() store.TickResult, func()) {
			tx, err := c.session().owner.Begin(c.t.Context())
			require.NoError(c.t, err)
			_, err = tx.Exec(c.t.Context(), "SELECT FROM users WHERE id = $1 FOR UPDATE", user)
			require.NoError(c.t, err)
			return c.tick, func() { require.NoError(c.t, tx.Rollback(c.t.Context())) }
		},
		"set aside": func(c *counter, user uuid.UUID) (func() store.TickResult, func()) {
			c.raise(user, "P0001")
			return func() store.TickResult {
				q := c.request(store.Window)
				q.Isolated = true
				result, err := c.try(c.store, q)
				require.NoError(c.t, err)
				return result
			}, func() { c.exec("DROP TRIGGER refuse ON notifications") }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCounter(t, host.CMS)
			year := c.now().Year() + 1
			c.db.SetNow(t, time.Date(year, time.May, 31, 23, 59, 59, 0, time.UTC))
			c.calendar()
			user := c.user(100)
			c.settle()
			c.useAt(user, 90, time.Date(year, time.May, 31, 23, 59, 58, 0, time.UTC))
			tick, mend := stands(c, user)
			result := tick()
			assert.Equal(t, 1, len(result.Held)+len(result.SetAside))
			assert.Empty(t, c.alerts(user))
			mend()
			c.db.SetNow(t, time.Date(year, time.June, 1, 0, 10, 0, 0, time.UTC))
			c.calendar()
			c.tick()
			assert.Equal(t, []string{"80 period_closed"}, c.alerts(user))
			assert.Zero(t, c.notified(user))
			assert.Zero(t, c.settle())
		})
	}
}

// An update that leaves the keys alone, as the host's game does all the time,
// stands in nobody's way.
func TestAUserBeingUpdatedIsToldAtOnce(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	user := c.user(100)
	c.settle()
	c.use(user, 90)
	tx, err := c.session().owner.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), "UPDATE users SET xp = xp + 10")
	require.NoError(t, err)
	result := c.tick()
	assert.Empty(t, result.Held)
	assert.Equal(t, []string{"80 told"}, c.alerts(user))
}

// The same when it has committed since the tick's snapshot.
func TestAUserUpdatedUnderATickIsTold(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	user := c.user(100)
	c.settle()
	h := c.hold()
	c.use(user, 90)
	done := h.start(store.Window)
	h.reached()
	c.exec("UPDATE users SET xp = xp + 10")
	h.release()
	require.NoError(t, <-done)
	assert.Equal(t, []string{"80 told"}, c.alerts(user))
}

// Who is gone since the tick's snapshot fails the tick, which gives way and is
// right the next time.
func TestAUserDeletedUnderATick(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	gone, stays := c.user(100), c.user(100)
	c.settle()
	h := c.hold()
	c.use(gone, 90)
	c.use(stays, 90)
	done := h.start(store.Window)
	h.reached()
	c.exec("DELETE FROM users WHERE id = $1", gone)
	h.release()
	if err := <-done; err != nil {
		require.True(t, store.IsTransient(err), err)
	}
	c.settle()
	assert.Equal(t, []string{"80 told"}, c.alerts(stays))
	assert.Zero(t, c.notified(gone))
	c.requireTotals()
}

// The host deletes users in bulk, in an order of its own, while ticks tell
// them. Neither is ever a deadlock's victim, and a tick waits for nobody.
func TestUsersDeletedWhileTheyAreTold(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	const rounds, users = 60, 12
	stop := make(chan struct{})
	var deleter sync.WaitGroup
	ready := make(chan int)
	deleter.Go(func() {
		defer close(stop)
		s := c.session()
		for n := range ready {
			// A trigger of the host touches each user on the way, so that the
			// statement takes its time.
			_, err := s.owner.Exec(t.Context(), "DELETE FROM users WHERE full_name = $1", fmt.Sprint("round ", n))
			assert.NoError(t, err, "the host's DELETE")
		}
	})
	c.exec(`CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.0003); RETURN OLD; END $$`)
	c.exec("CREATE TRIGGER linger BEFORE DELETE ON users FOR EACH ROW EXECUTE FUNCTION linger()")
	held, told := 0, 0
	for n := range rounds {
		c.exec(`WITH made AS (
				INSERT INTO users (id, organization_id, email, password_hash, full_name, monthly_token_limit)
				SELECT gen_random_uuid(), $1, gen_random_uuid()::text, '-', $2, 100 FROM generate_series(1, $3::integer) RETURNING id
			) SELECT FROM made`, c.org, fmt.Sprint("round ", n), users)
		c.exec(`INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used) SELECT id, organization_id, 90 FROM users WHERE full_name = $1`,
			fmt.Sprint("round ", n))
		ready <- n
		for range 3 {
			result, err := c.try(c.store, c.request(store.Window))
			if err != nil && !store.IsTransient(err) {
				require.NoError(t, err)
			}
			held += len(result.Held)
			told += len(result.Outcomes)
		}
	}
	close(ready)
	<-stop
	deleter.Wait()
	c.eventually("no end of corrections", func() bool {
		c.settle()
		return c.pending() == 0
	})
	assert.Zero(t, ask[int](c.site, "SELECT count(*) FROM users"))
	assert.Zero(t, ask[int](c.site, "SELECT count(*) FROM token_limit_alerts"))
	c.requireTotals()
	t.Logf("%d users told, %d held", told, held)
}

// raise makes the host's notifications refuse a user with a SQLSTATE.
func (c *counter) raise(user uuid.UUID, code string) {
	c.t.Helper()
	c.exec(fmt.Sprintf(`CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			IF NEW.user_id = '%s' THEN RAISE EXCEPTION 'not this one' USING ERRCODE = '%s'; END IF;
			RETURN NEW;
		END $$`, user, code))
	c.exec("CREATE TRIGGER refuse BEFORE INSERT ON notifications FOR EACH ROW EXECUTE FUNCTION refuse()")
}

func TestAnIsolatedTickSetsAsideWhoseDataFails(t *testing.T) {
	t.Parallel()
	for _, code := range []string{"P0001", "23505", "22001"} {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			c := newCounter(t, host.CMS)
			bad, good := c.user(100), c.user(100)
			c.raise(bad, code)
			c.use(bad, 90)
			c.use(good, 90)
			before := c.lastTick()
			_, err := c.try(c.store, c.request(store.Window))
			require.Error(t, err)
			assert.True(t, store.IsData(err))
			assert.False(t, store.IsTransient(err))
			require.NotErrorIs(t, err, store.ErrCollided, "the chain's constraint has another name")
			assert.Equal(t, before, c.lastTick())

			q := c.request(store.Window)
			q.Isolated = true
			result, err := c.try(c.store, q)
			require.NoError(t, err)
			require.Len(t, result.SetAside, 1)
			assert.Equal(t, bad, result.SetAside[0].UserID)
			assert.Equal(t, code, store.SQLState(result.SetAside[0].Err))
			assert.Equal(t, []string{"80 told"}, c.alerts(good))
			assert.Empty(t, c.alerts(bad))
			assert.EqualValues(t, 90, c.total(bad), "counted all the same")

			// Once the data is good, the correction tells.
			c.exec("DROP TRIGGER refuse ON notifications")
			assert.Zero(t, c.settle())
			c.db.SetNow(t, c.now().Add(store.SetAsideRetry+time.Minute))
			c.tick()
			assert.Equal(t, []string{"80 told"}, c.alerts(bad))
		})
	}
}

// A trigger of the host that returns NULL drops the row without a word.
// The host keeps notifications of users who are gone.
func TestAUserWhoIsMadeAgainIsNotToldAgain(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	admin, user := c.user(0), c.user(100)
	c.exec("UPDATE users SET role = 'admin' WHERE id = $1", admin)
	tick := func(isolated bool) (store.TickResult, error) {
		q := c.request(store.Window)
		q.Isolated = isolated
		q.TellAdmins = func(a *store.Alert, admins []store.Admin) {
			for _, m := range admins {
				a.Admins = append(a.Admins, store.AdminNotice{ID: uuid.NewSHA1(a.ID, m.UserID[:]), UserID: m.UserID, Title: "80 %", Channels: []string{"email"}})
			}
		}
		return c.store.Tick(t.Context(), q, func(_ store.Kind, now time.Time, candidates []store.Candidate) []store.Decision {
			decisions := tellAt80(now, candidates)
			for _, d := range decisions {
				for i := range d.Alerts {
					d.Alerts[i].Channels, d.Alerts[i].ToAdmins = []string{"email"}, true
				}
			}
			return decisions
		})
	}
	jobs := func() int { return ask[int](c.site, "SELECT count(*) FROM tokenalert.river_job") }
	c.use(user, 90)
	_, err := tick(false)
	require.NoError(t, err)
	require.Equal(t, 2, jobs(), "the user's and the admin's")
	c.exec("DELETE FROM tokenalert.river_job")
	c.exec("CREATE TEMP TABLE gone AS SELECT * FROM users WHERE id = $1", user)
	c.exec("DELETE FROM ai_usage_logs WHERE user_id = $1", user)
	c.exec("DELETE FROM users WHERE id = $1", user)
	c.settle()
	require.Equal(t, 1, c.notified(user))
	c.exec("INSERT INTO users SELECT * FROM gone")
	c.use(user, 95)

	_, err = tick(false)
	require.True(t, store.IsData(err), err)
	result, err := tick(true)
	require.NoError(t, err)
	assert.Empty(t, result.SetAside)
	require.Len(t, result.Outcomes, 1)
	assert.False(t, result.Outcomes[0].Inserted)
	assert.Equal(t, []string{"80 told"}, c.alerts(user))
	assert.Equal(t, 1, c.notified(user))
	assert.Equal(t, 1, c.notified(admin))
	assert.Zero(t, jobs())
	assert.Zero(t, c.pending())
}

func TestADroppedNotificationIsNotSaidToBeTold(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	bad, good := c.user(100), c.user(100)
	c.exec(fmt.Sprintf(`CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN IF NEW.user_id = '%s' THEN RETURN NULL; END IF; RETURN NEW; END $$`, bad))
	c.exec("CREATE TRIGGER swallow BEFORE INSERT ON notifications FOR EACH ROW EXECUTE FUNCTION swallow()")
	c.use(bad, 90)
	c.use(good, 90)
	_, err := c.try(c.store, c.request(store.Window))
	require.ErrorContains(t, err, "dropped a notification")
	require.True(t, store.IsData(err))
	q := c.request(store.Window)
	q.Isolated = true
	result, err := c.try(c.store, q)
	require.NoError(t, err)
	require.Len(t, result.SetAside, 1)
	assert.Equal(t, bad, result.SetAside[0].UserID)
	assert.Empty(t, c.alerts(bad))
	assert.Equal(t, []string{"80 told"}, c.alerts(good))
}

func TestAnErrorIsToldWithoutWhatTheHostSaysInIt(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	user := c.user(100)
	c.exec(`CREATE FUNCTION indiscreet() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'hunter2 %', NEW.message; END $$`)
	c.exec("CREATE TRIGGER indiscreet BEFORE INSERT ON notifications FOR EACH ROW EXECUTE FUNCTION indiscreet()")
	c.use(user, 90)
	_, err := c.try(c.store, c.request(store.Window))
	require.ErrorContains(t, err, "hunter2")
	said := store.Discreet(err).Error()
	assert.NotContains(t, said, "hunter2")
	assert.Contains(t, said, "P0001")
}

// A deferred constraint of the host fails at the end of the user's savepoint:
// what seemed written is not reported.
func TestAnIsolatedTickSetsAsideWhoFailsADeferredConstraint(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	bad := c.user(100) // alone, and so the first to be written
	c.raise(bad, "23514")
	c.exec("DROP TRIGGER refuse ON notifications")
	c.exec(`CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON notifications DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW EXECUTE FUNCTION refuse()`)
	c.use(bad, 90)
	_, err := c.try(c.store, c.request(store.Window))
	require.True(t, store.IsData(err))
	q := c.request(store.Window)
	q.Isolated = true
	result, err := c.try(c.store, q)
	require.NoError(t, err)
	require.Len(t, result.SetAside, 1)
	assert.Equal(t, bad, result.SetAside[0].UserID)
	assert.Empty(t, result.Outcomes)
	assert.Empty(t, c.alerts(bad))
	assert.EqualValues(t, 90, c.total(bad))
}

// What fails for another reason fails the isolated tick too.
func TestAnIsolatedTickSetsNobodyAsideForWhatIsNotData(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	user := c.user(100)
	c.raise(user, "53100") // disk_full
	c.use(user, 90)
	q := c.request(store.Window)
	q.Isolated = true
	_, err := c.try(c.store, q)
	assert.Equal(t, "53100", store.SQLState(err))
	assert.Zero(t, c.total(user))
}

// Two ticks from the same predecessor: one commits, the other writes nothing.
func TestTwoTicksAtOnceCollide(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	user := c.user(100)
	c.settle()
	h := c.hold()
	c.use(user, 90)
	done := h.start(store.Window)
	h.reached()
	c.tick()
	h.release()
	err := <-done
	require.ErrorIs(t, err, store.ErrCollided)
	assert.False(t, store.IsData(err))
	var e *pgconn.PgError
	require.ErrorAs(t, err, &e)
	assert.Equal(t, "ticks_pkey", e.ConstraintName)
	assert.EqualValues(t, 90, c.total(user))
	assert.Equal(t, 1, c.notified(user))
	assert.Zero(t, c.settle())
}
