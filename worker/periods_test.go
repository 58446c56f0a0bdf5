package worker_test

import (
	"cmp"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/worker"
)

// said lists alerts as "05-15 80 told", by the month and day on which their
// periods began.
func said(alerts []alert) []string {
	lines := []string{}
	for _, a := range alerts {
		reason := cmp.Or(a.Reason, "untold")
		if a.Sent {
			reason = "told"
		}
		lines = append(lines, fmt.Sprint(a.PeriodStart.UTC().Format("01-02 "), a.Threshold, " ", reason))
	}
	return lines
}

func TestAResetDayInTheMiddleOfTheMonth(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	start, end := nextYear(time.May, 15), nextYear(time.June, 15)
	w.db.SetNow(t, end.Add(-time.Second))
	user := w.newUser(host.User{Limit: new(1000), ResetDay: new(15)})
	w.start()
	w.useAt(user, 450, start.Add(-time.Microsecond)) // the period before
	w.useAt(user, 450, start)
	w.useAt(user, 450, end.Add(-time.Microsecond))
	w.settle()
	assert.Equal(t, []string{"05-15 80 superseded", "05-15 90 told"}, said(w.alerts(user)))

	w.db.SetNow(t, end)
	w.useAt(user, 850, end)
	w.settle()
	assert.Equal(t, []string{"05-15 80 superseded", "05-15 90 told", "06-15 80 told"}, said(w.alerts(user)))

	// What comes late is told to nobody, and the new period goes on.
	w.useAt(user, 100, end.Add(-time.Hour))
	w.settle()
	assert.Equal(t, []string{
		"05-15 80 superseded", "05-15 90 told", "05-15 100 period_closed", "06-15 80 told",
	}, said(w.alerts(user)))
	assert.Len(t, w.notifications(user), 2)
}

func TestAPeriodEndsWhileUsageComesIn(t *testing.T) {
	t.Parallel()
	const writers, rows = 3, 60
	w := newWorld(t)
	end := nextYear(time.June, 1)
	w.db.SetNow(t, end.Add(-time.Minute))
	user := w.user(writers * rows / 2)
	r := w.start()
	var group errgroup.Group
	for range writers {
		conn := w.db.ConnAs(t, pgtest.Writer)
		group.Go(func() error {
			for i := range rows { // half of them on either side
				_, err := conn.Exec(t.Context(), `INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used, created_at) VALUES ($1, $2, 1, $3)`,
					user, w.org, end.Add(time.Duration(i-rows/2)*time.Second))
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	w.eventually(func() bool { return w.total(user) > writers*rows/6 }, "usage is not counted")
	w.db.SetNow(t, end)
	require.NoError(t, group.Wait())
	w.settle()
	w.assertTotals()

	// Each period has every threshold once; the new one was told, of the old
	// one only what was counted before it ended.
	alerts := w.alerts(user)
	require.Len(t, alerts, 6)
	for i, a := range alerts {
		assert.Equal(t, []int{80, 90, 100}[i%3], a.Threshold)
		if i >= 3 {
			assert.True(t, end.Equal(a.PeriodStart))
			assert.Contains(t, []string{"", "superseded"}, a.Reason)
		}
	}
	assert.True(t, alerts[5].Sent)
	assert.Len(t, w.notifications(user), len(w.told(user)))
	assert.Empty(t, r.lines(worker.EventTickFailed))
}

func TestUsageDatedAheadIsToldWhenItsPeriodBegins(t *testing.T) {
	t.Parallel()
	may, june := nextYear(time.May, 20), nextYear(time.June, 1)
	for name, use := range map[string]func(w *world, user uuid.UUID){
		"written": func(w *world, user uuid.UUID) { w.useAt(user, 950, june.Add(time.Hour)) },
		"corrected": func(w *world, user uuid.UUID) {
			w.useAt(user, 50, may)
			w.settle()
			w.ownerExec("UPDATE ai_usage_logs SET tokens_used = 950, created_at = $1", june.Add(time.Hour))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.db.SetNow(t, may)
			user := w.user(1000)
			// Only the look at the renewal sees that a period has begun.
			r := w.start(func(c *worker.Config) { c.BellRenewal, c.BellLease = time.Second, 3*time.Second })
			use(w, user)
			w.settle()
			assert.Empty(t, w.alerts(user))
			r.asleep()
			w.db.SetNow(t, june)
			w.settle()
			assert.Equal(t, []string{"06-01 80 superseded", "06-01 90 told"}, said(w.alerts(user)))
		})
	}
}

func TestAChangedResetDayCarriesOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.db.SetNow(t, nextYear(time.May, 20))
	user := w.user(1000)
	r := w.start()
	w.useAt(user, 850, nextYear(time.May, 18))
	w.settle()
	w.ownerExec("UPDATE users SET token_limit_reset_day = 15 WHERE id = $1", user)
	w.settle()
	carried := []string{"05-01 80 told", "05-15 80 carried_over"}
	assert.Equal(t, carried, said(w.alerts(user)))
	assert.Len(t, w.notifications(user), 1)

	// What nobody has said yet is told.
	w.useAt(user, 60, nextYear(time.May, 20))
	w.settle()
	carried = append(carried, "05-15 90 told")
	assert.Equal(t, carried, said(w.alerts(user)))

	// And the period that follows is a new one.
	w.db.SetNow(t, nextYear(time.June, 15))
	w.useAt(user, 850, nextYear(time.June, 15))
	w.settle()
	carried = append(carried, "06-15 80 told")
	assert.Equal(t, carried, said(w.alerts(user)))
	assert.Empty(t, r.lines(worker.EventTickFailed))
}

func TestAChangedZoneCarriesOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.db.SetNow(t, nextYear(time.May, 20))
	told, crossing := w.user(1000), w.user(1000)
	first := w.start()
	w.useAt(told, 850, nextYear(time.May, 18))
	w.useAt(crossing, 750, nextYear(time.May, 18))
	w.useAt(crossing, 200, nextYear(time.May, 1).Add(-time.Hour)) // already May in the east
	w.settle()
	first.stop()

	next := w.start(func(c *worker.Config) { c.TimeZone = "Asia/Kolkata" })
	next.await(worker.EventTickCompleted)
	assert.Equal(t, []string{"04-30 80 carried_over", "05-01 80 told"}, said(w.alerts(told)))
	assert.Equal(t, []string{"04-30 80 superseded", "04-30 90 told"}, said(w.alerts(crossing)))
	assert.Equal(t, "TOKENALERT_TIME_ZONE", next.await(worker.EventSettingsChanged).ContextMap()["setting"])
	var zone string
	require.NoError(t, w.owner.QueryRow(t.Context(), "SELECT time_zone FROM tokenalert.settings").Scan(&zone))
	assert.Equal(t, "Asia/Kolkata", zone)
}

func TestAnAddedThresholdIsRecordedWithoutTelling(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	above, below := w.user(1000), w.user(1000)
	first := w.start()
	w.use(above, 970)
	w.use(below, 700)
	w.settle()
	first.stop()
	w.use(below, 110) // crosses 80 while nobody runs

	next := w.start(func(c *worker.Config) { c.Thresholds = []int{50, 80, 90, 95, 100} })
	next.await(worker.EventTickCompleted)
	w.settle()
	month := time.Now().UTC().Format("01") + "-01 "
	assert.Equal(t, []string{month + "50 threshold_added", month + "80 superseded", month + "90 told", month + "95 threshold_added"}, said(w.alerts(above)))
	assert.Equal(t, []string{month + "50 threshold_added", month + "80 told"}, said(w.alerts(below)))
	w.use(above, 30)
	w.use(below, 140)
	w.settle()
	assert.Equal(t, []int{90, 100}, w.told(above))
	assert.Equal(t, []int{80, 95}, w.told(below))

	// One that the settings lose is not told any more, nor again when it is back.
	next.stop()
	fresh := w.user(1000)
	w.start(func(c *worker.Config) { c.Thresholds = []int{80, 100} }).await(worker.EventTickCompleted)
	w.use(fresh, 960)
	w.settle()
	w.assertToldOnce(fresh, 80)
	assert.Equal(t, []int{90, 100}, w.told(above))
}

// The order in which thresholds are given decides nothing.
func TestThresholdsMayComeInAnyOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	user := w.user(1000)
	given := []int{100, 80, 90}
	w.start(func(c *worker.Config) { c.Thresholds = given }).await(worker.EventTickCompleted)
	w.use(user, 850)
	w.settle()
	assert.Equal(t, []int{80}, w.told(user))
	assert.Equal(t, []int{100, 80, 90}, given, "the caller's list is not ours to sort")
}

// A zone of a policy or a budget that the server does not know, having lost it or
// being another, keeps nobody from being told: whoever it is of goes by that of the
// settings, also with usage of long ago, and the calendar is not asked for anew by
// each tick. Once it is set to another, it counts.
func TestAZoneThatTheServerDoesNotKnow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.db.SetNow(t, nextYear(time.May, 20))
	elsewhere := w.organization("Elsewhere")
	admin := w.admin(elsewhere)
	lost, other := w.user(1000), w.user(1000)
	w.ownerExec("UPDATE users SET organization_id = $1 WHERE id = $2", elsewhere, lost)
	w.policy(ofOrganization, "time_zone", elsewhere, "America/Lima")
	w.policy(ofOrganization, "budget", elsewhere, 2000)
	w.ownerExec("ALTER TABLE tokenalert.policies DISABLE TRIGGER USER")
	w.ownerExec("UPDATE tokenalert.policies SET time_zone = 'Nope/Zone', budget_time_zone = 'Nope/Zone'")
	w.ownerExec("UPDATE tokenalert.budgets SET time_zone = 'Nope/Zone', since = $1", nextYear(time.May, 1))
	w.ownerExec("ALTER TABLE tokenalert.policies ENABLE TRIGGER USER")
	at := nextYear(time.May, 19)
	w.useIn(elsewhere, lost, 300, &at)
	w.useAt(other, 300, at)
	r := w.start()
	w.eventually(func() bool { return w.budgetCounted(elsewhere) }, "the budget is not counted")
	w.useAt(other, 550, at)
	w.useIn(elsewhere, lost, 550, &at)
	w.useIn(elsewhere, admin, 800, &at)
	w.useIn(elsewhere, lost, 1, new(nextYear(time.January, 1)))
	w.settle()
	assert.Equal(t, []string{"05-01 80 told"}, said(w.alerts(other)))
	assert.Equal(t, []string{"05-01 80 told"}, said(w.alerts(lost)))
	assert.Equal(t, []budgetAlert{{80, true, "", 1650, 1}}, w.budgetAlerts(elsewhere))
	assert.Empty(t, r.lines(worker.EventTickFailed))

	status, err := w.store.Status(t.Context(), 10)
	require.NoError(t, err)
	assert.Len(t, status.Users, 2)
	reconciled, err := worker.Reconcile(t.Context(), w.store, nil, nil)
	require.NoError(t, err)
	assert.Empty(t, reconciled.Differences)
	_, err = w.store.Explain(t.Context(), lost.String())
	require.NoError(t, err)

	w.ownerExec("UPDATE tokenalert.policies SET time_zone = 'America/Lima', budget_time_zone = 'America/Lima'")
	w.settle()
	w.eventually(func() bool { return w.budgetCounted(elsewhere) }, "the budget is not counted anew")
	w.settle()
	assert.Equal(t, []string{"05-01 80 told", "05-01 80 carried_over"}, said(w.alerts(lost)))
	assert.Len(t, w.notifications(lost), 1)
	assert.Empty(t, r.lines(worker.EventTickFailed))
}
