package worker_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/worker"
)

func TestAJumpTellsTheHighestAndRecordsAll(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	user := w.user(1000)
	w.start()
	w.use(user, 700)
	w.settle()
	assert.Empty(t, w.alerts(user))
	w.use(user, 350)
	w.settle()

	alerts := w.alerts(user)
	assert.Len(t, alerts, 3)
	assert.Equal(t, []int{100}, w.told(user))
	for i, want := range []alert{
		{Threshold: 80, Reason: "superseded"}, {Threshold: 90, Reason: "superseded"}, {Threshold: 100, Sent: true},
	} {
		want.TokensUsed, want.TokenLimit, want.Percent, want.PeriodStart = 1050, 1000, 105, alerts[i].PeriodStart
		assert.Equal(t, want, alerts[i])
	}
	assert.Len(t, w.notifications(user), 1)
	w.assertTotals()
}

// Token by token around each threshold: 79.99 %, 80 %, and so on.
func TestAThresholdIsToldWithTheTokenThatReachesIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	user, ofThree := w.user(10_000), w.user(3)
	w.start()
	told := []int{}
	for _, threshold := range []int{80, 90, 100} {
		w.use(user, threshold*100-1-int(w.total(user)))
		w.settle()
		assert.Equal(t, told, w.told(user), "one token below %d %%", threshold)
		w.use(user, 1)
		w.settle()
		told = append(told, threshold)
		assert.Equal(t, told, w.told(user), "at %d %%", threshold)
	}
	for i, a := range w.alerts(user) {
		assert.InDelta(t, told[i], a.Percent, 0)
	}
	assert.Len(t, w.alerts(user), 3)
	assert.Len(t, w.notifications(user), 3)

	w.use(ofThree, 2) // 66.67 %
	w.settle()
	assert.Empty(t, w.alerts(ofThree))
	w.use(ofThree, 1)
	w.settle()
	assert.Equal(t, []int{100}, w.told(ofThree))
	w.assertTotals()
}

func TestWritersAtOnceTellEachThresholdOnce(t *testing.T) {
	t.Parallel()
	const writers, inserts = 8, 25
	w := newWorld(t)
	user := w.user(writers*inserts + 1)
	r := w.start()
	oldest, err := w.db.ConnAs(t, pgtest.Writer).Begin(t.Context())
	require.NoError(t, err)
	w.insert(oldest, user, 1, nil) // open while all the others come and go
	var group errgroup.Group
	for range writers {
		conn := w.db.ConnAs(t, pgtest.Writer)
		group.Go(func() error {
			for range inserts { // open for a moment, so that they overlap
				err := pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error { return w.tryInsert(tx, user, 1) })
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	require.NoError(t, group.Wait())
	w.settle()
	assert.EqualValues(t, writers*inserts, w.total(user))
	w.assertToldOnce(user, 80, 90)
	require.NoError(t, oldest.Commit(t.Context()))
	w.settle()
	assert.EqualValues(t, writers*inserts+1, w.total(user))
	w.assertToldOnce(user, 80, 90, 100)
	assert.Empty(t, r.lines(worker.EventTickFailed))
}

// tryInsert is insert for goroutines of a test, which must not end it.
func (w *world) tryInsert(conn host.DB, user uuid.UUID, tokens int) error {
	_, err := conn.Exec(w.t.Context(), `INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used) VALUES ($1, $2, $3)`, user, w.org, tokens)
	return err
}

// assertToldOnce wants exactly these thresholds recorded, in one period and
// under one limit, the highest told, and a notification for each that was told.
func (w *world) assertToldOnce(user uuid.UUID, thresholds ...int) {
	w.t.Helper()
	recorded, told := []int{}, 0
	for _, a := range w.alerts(user) {
		recorded = append(recorded, a.Threshold)
		if a.Sent {
			told++
			assert.Empty(w.t, a.Reason)
		} else {
			assert.Equal(w.t, "superseded", a.Reason)
		}
	}
	assert.Equal(w.t, thresholds, recorded)
	assert.Contains(w.t, w.told(user), thresholds[len(thresholds)-1])
	var matched int
	require.NoError(w.t, w.owner.QueryRow(w.t.Context(), `SELECT count(*) FROM token_limit_alerts a JOIN notifications n ON n.id = a.notification_id
		WHERE a.user_id = $1 AND n.user_id = $1 AND a.organization_id = n.organization_id`, user).Scan(&matched))
	assert.Equal(w.t, told, matched)
	assert.Len(w.t, w.notifications(user), told)
}

func TestWhatIsRolledBackTellsNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	gone, half := w.user(1000), w.user(1000)
	r := w.start()
	r.asleep()
	errGone := errors.New("gone")
	require.ErrorIs(t, pgx.BeginFunc(t.Context(), w.writer, func(tx pgx.Tx) error {
		w.insert(tx, gone, 850, nil) // rings
		return errGone
	}), errGone)
	require.NoError(t, pgx.BeginFunc(t.Context(), w.writer, func(tx pgx.Tx) error {
		w.insert(tx, half, 850, nil)
		err := pgx.BeginFunc(t.Context(), tx, func(savepoint pgx.Tx) error {
			w.insert(savepoint, half, 850, nil)
			return errGone
		})
		assert.ErrorIs(t, err, errGone)
		return nil
	}))
	w.settle()
	assert.Zero(t, w.total(gone))
	assert.Empty(t, w.alerts(gone))
	assert.EqualValues(t, 850, w.total(half))
	assert.Equal(t, []int{80}, w.told(half))
	w.assertTotals()
}

// Usage there has no foreign keys, so it can be logged while the host holds the
// user's row.
func TestAHeldUserIsToldLaterAndTheOthersNow(t *testing.T) {
	t.Parallel()
	w := newLMS(t)
	held, other := w.lmsUser(1000), w.lmsUser(1000)
	r := w.start(func(c *worker.Config) { // no renewal helps out
		c.BellRenewal, c.BellLease = time.Minute, 150*time.Second
	})
	r.asleep()
	tx := w.holds(held)

	w.use(held, 850)
	w.use(other, 850)
	w.eventually(func() bool { return len(w.told(other)) == 1 }, "the other is not told")
	r.await(worker.EventRecountDeferred)
	assert.Empty(t, w.alerts(held))
	assert.Empty(t, w.notifications(held))
	require.NoError(t, tx.Commit(t.Context()))
	w.eventually(func() bool { return len(w.told(held)) == 1 }, "the held user is never told")
	w.assertToldOnce(held, 80)
	w.assertToldOnce(other, 80)
	assert.Empty(t, r.lines(worker.EventTickFailed))
}

// What is only to be recorded when everything is counted is not told by the window
// that follows, in which nobody knows that it stood before.
func TestAHeldUserIsNotToldWhatIsOnlyRecorded(t *testing.T) {
	t.Parallel()
	w := newLMS(t)
	held, other := w.lmsUser(1000), w.lmsUser(1000)
	w.use(held, 850)
	w.use(other, 850)
	tx := w.holds(held)
	w.start(func(c *worker.Config) { c.Backfill = "record" }).await(worker.EventRecountDeferred)
	require.NoError(t, tx.Commit(t.Context()))
	waits := w.db.ConnAs(t, pgtest.Owner)
	w.eventually(func() bool {
		var none bool
		require.NoError(t, waits.QueryRow(t.Context(), "SELECT NOT EXISTS (SELECT FROM tokenalert.recounts)").Scan(&none))
		return none
	}, "is not decided when let go")
	assert.Equal(t, map[int]string{80: "backfill"}, w.reasons(other))
	assert.Empty(t, w.told(held))
	w.use(held, 60)
	w.settle()
	assert.Equal(t, []int{90}, w.told(held))
}

// holds has the host hold a user's row, until the transaction ends.
func (w *world) holds(user uuid.UUID) pgx.Tx {
	w.t.Helper()
	tx, err := w.db.ConnAs(w.t, pgtest.Owner).Begin(w.t.Context())
	require.NoError(w.t, err)
	_, err = tx.Exec(w.t.Context(), "SELECT FROM users WHERE id = $1 FOR UPDATE", user)
	require.NoError(w.t, err)
	return tx
}

// newLMS is a world whose users have their limits in tokenalert.user_limits.
func newLMS(t *testing.T) *world {
	t.Helper()
	return worldOn(t, pgtest.New(t, pgtest.Migrated(host.LMS)))
}

func (w *world) lmsUser(limit int) uuid.UUID {
	w.t.Helper()
	user := w.newUser(host.User{})
	w.ownerExec("INSERT INTO tokenalert.user_limits (user_id, monthly_token_limit) VALUES ($1, $2)", user, limit)
	return user
}

func TestUsageBeforeItsUser(t *testing.T) {
	t.Parallel()
	w := newLMS(t)
	r := w.start()
	early, unlimited := uuid.New(), w.newUser(host.User{})
	w.use(early, 950)
	w.use(unlimited, 950)
	w.settle()
	assert.EqualValues(t, 950, w.total(early))

	// A limit without a user, then the user.
	w.ownerExec("INSERT INTO tokenalert.user_limits (user_id, monthly_token_limit) VALUES ($1, 1000)", early)
	w.settle()
	assert.Empty(t, w.alerts(early))
	w.ownerExec("INSERT INTO users (id, organization_id, email, password_hash, full_name) VALUES ($1, $2, 'early@example.org', 'none', 'Early Bird')", early, w.org)
	w.settle()
	w.assertToldOnce(early, 80, 90)

	// A user without a limit, then the limit.
	assert.Empty(t, w.alerts(unlimited))
	w.ownerExec("INSERT INTO tokenalert.user_limits (user_id, monthly_token_limit) VALUES ($1, 1000)", unlimited)
	w.settle()
	w.assertToldOnce(unlimited, 80, 90)
	w.ownerExec("DELETE FROM tokenalert.user_limits WHERE user_id = $1", unlimited)
	w.use(unlimited, 5000)
	w.settle()
	assert.Equal(t, []int{90}, w.told(unlimited))
	assert.Empty(t, r.lines(worker.EventTickFailed))
	w.assertTotals()
}

func TestCreatedAtAtTheEndsOfTime(t *testing.T) {
	t.Parallel()
	w := newLMS(t) // where created_at may be NULL
	user := w.lmsUser(1000)
	r := w.start()
	r.asleep()
	unusable := []string{
		"-infinity", "infinity", "4713-01-01 00:00:00+00 BC", "294276-12-31 23:59:59.999999+00",
		"1999-12-31 23:59:59.999999+00", "2100-01-01 00:00:00+00", "",
	}
	for _, at := range unusable {
		w.ownerExec(`INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used, input_tokens, output_tokens, created_at)
			VALUES ($1, $2, 100000, 0, 0, nullif($3::text, '')::timestamptz)`, user, w.org, at)
	}
	for _, at := range []string{"2000-01-01 00:00:00+00", "2099-12-31 23:59:59.999999+00"} {
		w.ownerExec(`INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used, input_tokens, output_tokens, created_at)
			VALUES ($1, $2, 7, 0, 0, $3::text::timestamptz)`, user, w.org, at)
	}
	w.use(user, 850)
	w.settle()
	w.assertToldOnce(user, 80)
	w.eventually(func() bool {
		skipped := int64(0)
		for _, line := range r.lines(worker.EventRowsSkipped) {
			skipped += line.ContextMap()["rows"].(int64)
		}
		return skipped == int64(len(unusable))
	}, "the rows that are skipped are not said")
	var periods string
	require.NoError(t, w.owner.QueryRow(t.Context(), `SELECT string_agg(to_char(period_start AT TIME ZONE 'UTC', 'YYYY-MM') || ' ' || tokens_used, ', '
		ORDER BY period_start) FILTER (WHERE tokens_used = 7) FROM tokenalert.usage_periods WHERE user_id = $1`, user).Scan(&periods))
	assert.Equal(t, "2000-01 7, 2099-12 7", periods)
	assert.Empty(t, r.lines(worker.EventTickFailed))
}

func TestAUserDeletedWithAlertsIsForgotten(t *testing.T) {
	t.Parallel()
	for _, kind := range []host.Kind{host.CMS, host.LMS} {
		t.Run(fmt.Sprint(kind), func(t *testing.T) {
			t.Parallel()
			w := worldOn(t, pgtest.New(t, pgtest.Migrated(kind)))
			limited := w.user
			if kind == host.LMS {
				limited = w.lmsUser
			}
			user := limited(1000)
			r := w.start()
			w.use(user, 1200)
			w.settle()
			w.assertToldOnce(user, 80, 90, 100)
			w.ownerExec("DELETE FROM users WHERE id = $1", user)
			w.settle()
			assert.Empty(t, w.alerts(user))
			var marks int
			require.NoError(t, w.owner.QueryRow(t.Context(),
				"SELECT count(*) FROM tokenalert.usage_periods WHERE user_id = $1 AND marks <> '{}'", user).Scan(&marks))
			assert.Zero(t, marks)
			w.assertTotals() // usage goes along where the host says so, and stays where it does not
			assert.Empty(t, r.lines(worker.EventTickFailed))
		})
	}
}
