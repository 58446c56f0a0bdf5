package worker_test

import (
	"cmp"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/store"
	"tokenalert/worker"
)

// policy sets one column of a policy, for an organization or a user.
func (w *world) policy(of, column string, id uuid.UUID, value any) {
	w.t.Helper()
	w.ownerExec(`INSERT INTO tokenalert.policies AS p (`+of+`, `+column+`, added, version, changed_at) VALUES ($1, $2, '{}', 0, now())
		ON CONFLICT (`+of+`) DO UPDATE SET `+column+` = EXCLUDED.`+column, id, value)
}

const ofOrganization, ofUser = "organization_id", "user_id"

// reasons are a user's alerts as "threshold reason", told ones as "told".
func (w *world) reasons(user uuid.UUID) map[int]string {
	w.t.Helper()
	reasons := map[int]string{}
	for _, a := range w.alerts(user) {
		reasons[a.Threshold] = a.Reason
		if a.Sent {
			reasons[a.Threshold] = "told"
		}
	}
	return reasons
}

// Whoever stands above a threshold that a policy gains is not told of it; who
// reaches it from then on is, also who had used nothing yet. The worker sleeps
// when it is made, and is not started anew.
func TestAPolicyGainsAThreshold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	above, below, fresh := w.user(100), w.user(100), w.user(100)
	w.use(above, 60)
	w.use(below, 40)
	r := w.start()
	r.asleep()
	w.policy(ofOrganization, "thresholds", w.org, []int32{50, 80})
	w.eventually(func() bool { return len(w.alerts(above)) > 0 }, "the policy is not noticed")
	w.settle()
	assert.Equal(t, map[int]string{50: "threshold_added"}, w.reasons(above))
	assert.Empty(t, w.alerts(below))

	w.use(below, 15)
	w.use(fresh, 55)
	w.use(above, 25)
	w.settle()
	assert.Equal(t, map[int]string{50: "told"}, w.reasons(below))
	assert.Equal(t, map[int]string{50: "told"}, w.reasons(fresh))
	assert.Equal(t, map[int]string{50: "threshold_added", 80: "told"}, w.reasons(above))

	// 90 is none of theirs, until the policy is gone: then it is gained.
	w.use(above, 7)
	w.settle()
	assert.Equal(t, map[int]string{50: "threshold_added", 80: "told"}, w.reasons(above))
	w.policy(ofOrganization, "thresholds", w.org, nil)
	w.eventually(func() bool { return len(w.alerts(above)) == 3 }, "its end is not noticed")
	assert.Equal(t, map[int]string{50: "threshold_added", 80: "told", 90: "threshold_added"}, w.reasons(above))
	w.use(below, 30) // 85
	w.settle()
	assert.Equal(t, map[int]string{50: "told", 80: "told"}, w.reasons(below))
}

// Who has no limit is decided under a policy as well, and told when they get one;
// who is held when a policy gains a threshold meets it as gained when let go.
func TestAPolicyMeetsEverybody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	unlimited, held := w.user(0), w.user(100)
	w.use(unlimited, 60)
	w.use(held, 60)
	r := w.start()
	r.asleep()
	lock := w.holds(held)
	other := w.db.ConnAs(t, pgtest.Owner)
	for _, column := range []string{"thresholds = '{50,80}'", "language = 'en'"} { // the second while the user is held
		name, value, _ := strings.Cut(column, " = ")
		_, err := other.Exec(t.Context(), `INSERT INTO tokenalert.policies AS p (organization_id, `+name+`) VALUES ($1, `+value+`)
			ON CONFLICT (organization_id) DO UPDATE SET `+name+` = EXCLUDED.`+name, w.org)
		require.NoError(t, err)
		w.eventually(func() bool {
			var waits bool
			require.NoError(t, other.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM tokenalert.recounts WHERE user_id = $1 AND cause = 'held')
				AND NOT EXISTS (SELECT FROM tokenalert.recounts WHERE cause = 'policy_changed')`, held).Scan(&waits))
			return waits
		}, "nobody is held")
	}
	require.NoError(t, lock.Rollback(t.Context()))
	w.eventually(func() bool { return len(w.alerts(held)) > 0 }, "is not decided when let go")
	assert.Equal(t, map[int]string{50: "threshold_added"}, w.reasons(held))
	w.ownerExec("UPDATE users SET monthly_token_limit = 100 WHERE id = $1", unlimited)
	w.settle()
	assert.Equal(t, map[int]string{50: "told"}, w.reasons(unlimited))
}

// A user's policy counts before that of the organization, and reaches below the
// lowest threshold of the settings.
func TestAUsersPolicyCountsFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one, other, elsewhere := w.user(1000), w.user(1000), w.user(1000)
	organization, err := host.NewOrganization(t.Context(), w.owner, "Other")
	require.NoError(t, err)
	w.ownerExec("UPDATE users SET organization_id = $1 WHERE id = $2", organization, elsewhere)
	w.policy(ofOrganization, "thresholds", w.org, []int32{95})
	w.policy(ofUser, "thresholds", one, []int32{1, 150})
	w.start()
	for _, user := range []uuid.UUID{one, other, elsewhere} {
		w.use(user, 10)
	}
	w.settle()
	assert.Equal(t, map[int]string{1: "told"}, w.reasons(one))
	for _, user := range []uuid.UUID{one, other, elsewhere} {
		w.use(user, 910)
	}
	w.settle()
	assert.Equal(t, map[int]string{1: "told"}, w.reasons(one))
	assert.Empty(t, w.alerts(other))
	assert.Equal(t, map[int]string{80: "superseded", 90: "told"}, w.reasons(elsewhere))
	w.use(one, 580) // 150 %
	w.use(other, 30)
	w.settle()
	assert.Equal(t, map[int]string{1: "told", 150: "told"}, w.reasons(one))
	assert.Equal(t, map[int]string{95: "told"}, w.reasons(other))
}

// In a zone of its own an organization's periods begin at another time; a change
// of it counts the current one anew, and tells nobody twice.
func TestAPolicysTimeZone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	now := time.Date(2026, time.November, 1, 1, 0, 0, 0, time.UTC) // still October in Santiago, which is three hours behind
	w.db.SetNow(t, now)
	user, other := w.user(100), w.user(100)
	organization, err := host.NewOrganization(t.Context(), w.owner, "Other")
	require.NoError(t, err)
	w.ownerExec("UPDATE users SET organization_id = $1 WHERE id = $2", organization, other)
	r := w.start()
	r.asleep()
	w.policy(ofOrganization, "time_zone", w.org, "America/Santiago")
	w.settle()
	for _, id := range []uuid.UUID{user, other} {
		w.useAt(id, 50, now.Add(-90*time.Minute)) // October for both
		w.useAt(id, 35, now.Add(-30*time.Minute))
	}
	w.settle()
	assert.Empty(t, w.alerts(other), "in November they have used 35")
	alerts := w.alerts(user)
	require.Len(t, alerts, 1)
	assert.True(t, alerts[0].Sent)
	assert.Equal(t, time.Date(2026, time.October, 1, 3, 0, 0, 0, time.UTC), alerts[0].PeriodStart.UTC())
	told := w.notifications(user)
	require.Len(t, told, 1)
	assert.Contains(t, told[0].Message, "1 de noviembre")

	standing := func(id uuid.UUID) (used int64, start time.Time) {
		require.NoError(t, w.owner.QueryRow(t.Context(), "SELECT tokens_used, period_start FROM tokenalert.current_usage WHERE user_id = $1", id).Scan(&used, &start))
		return used, start.UTC()
	}
	used, start := standing(user)
	assert.EqualValues(t, 85, used)
	assert.Equal(t, alerts[0].PeriodStart.UTC(), start)
	used, start = standing(other)
	assert.EqualValues(t, 35, used)
	assert.Equal(t, time.Date(2026, time.November, 1, 0, 0, 0, 0, time.UTC), start)
	reconciled, err := worker.Reconcile(t.Context(), w.store, nil, nil)
	require.NoError(t, err)
	assert.Empty(t, reconciled.Differences)
	assert.EqualValues(t, 2, reconciled.Users)

	// In Tokyo it has been November for ten hours, in which all was used.
	w.policy(ofUser, "time_zone", user, "Asia/Tokyo")
	w.eventually(func() bool { return len(w.alerts(user)) == 2 }, "the zone is not noticed")
	alerts = w.alerts(user)
	assert.Equal(t, "carried_over", alerts[1].Reason)
	assert.Equal(t, time.Date(2026, time.October, 31, 15, 0, 0, 0, time.UTC), alerts[1].PeriodStart.UTC())
	used, start = standing(user)
	assert.EqualValues(t, 85, used)
	assert.Equal(t, alerts[1].PeriodStart.UTC(), start)
	reconciled, err = worker.Reconcile(t.Context(), w.store, nil, nil)
	require.NoError(t, err)
	assert.Empty(t, reconciled.Differences)

	// A full count places them as well.
	w.ownerExec("INSERT INTO tokenalert.recounts (user_id, cause) VALUES (NULL, 'test')")
	w.use(user, 1)
	w.settle()
	used, _ = standing(user)
	assert.EqualValues(t, 86, used)
	reconciled, err = worker.Reconcile(t.Context(), w.store, nil, nil)
	require.NoError(t, err)
	assert.Empty(t, reconciled.Differences)
}

// What is crossed while muted is recorded, and not told later.
func TestMuted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	muted, heard := w.user(100), w.user(100)
	w.policy(ofOrganization, "muted_until", w.org, "infinity")
	w.policy(ofUser, "muted_until", heard, "2000-01-01 00:00+00")
	r := w.start()
	w.use(muted, 95)
	w.settle()
	assert.Equal(t, "muted", r.await(worker.EventAlertSuppressed).ContextMap()["reason"])
	w.use(heard, 95)
	w.settle()
	assert.Equal(t, map[int]string{80: "muted", 90: "muted"}, w.reasons(muted))
	assert.Equal(t, map[int]string{80: "superseded", 90: "told"}, w.reasons(heard))

	w.policy(ofOrganization, "muted_until", w.org, nil)
	w.use(muted, 10)
	w.settle()
	assert.Equal(t, map[int]string{80: "muted", 90: "muted", 100: "told"}, w.reasons(muted))
}

// An organization's language is for users who have none that messages exist in.
func TestAPolicysLanguage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	none, french, own, forced := w.user(100), w.newUser(host.User{Limit: new(100), Language: new("fr")}),
		w.newUser(host.User{Limit: new(100), Language: new("es")}), w.newUser(host.User{Limit: new(100), Language: new("es")})
	w.policy(ofOrganization, "language", w.org, "pt")
	w.policy(ofUser, "language", forced, "en")
	w.start(func(c *worker.Config) { c.Language = "es" })
	for user, title := range map[uuid.UUID]string{
		none: "dos tokens de IA", french: "dos tokens de IA", own: "tokens de IA utilizados", forced: "of AI tokens used",
	} {
		w.use(user, 85)
		w.settle()
		told := w.notifications(user)
		require.Len(t, told, 1)
		assert.Contains(t, told[0].Title, title)
	}
}

// Of the channels that are set up, a policy has some.
func TestAPolicysChannels(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	all, some, no := w.user(100), w.user(100), w.user(100)
	w.policy(ofUser, "channels", some, []string{"email", "notification"})
	w.policy(ofUser, "channels", no, []string{})
	w.deliverBy = []string{"email", "webhook"}
	w.start()
	for _, user := range []uuid.UUID{all, some, no} {
		w.use(user, 85)
	}
	w.settle()
	for user, channels := range map[uuid.UUID]string{all: "email,webhook", some: "email", no: ""} {
		var got string
		require.NoError(t, w.owner.QueryRow(t.Context(), `SELECT coalesce(string_agg(j.queue, ',' ORDER BY j.queue), '') FROM tokenalert.river_job j
			JOIN token_limit_alerts a ON a.id = (j.args ->> 'alert_id')::uuid WHERE a.user_id = $1`, user).Scan(&got))
		assert.Equal(t, channels, got)
	}
}

func (w *world) anyOf(users map[uuid.UUID]string) uuid.UUID {
	for user := range users {
		return user
	}
	return uuid.Nil
}

// From a threshold on the admins of the organization are told as well, each in
// their language and once; not of themselves, and not of what nobody is told.
func TestAdminsAreTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	user := w.newUser(host.User{Limit: new(100), FullName: "Ana", Language: new("es")})
	admins := map[uuid.UUID]string{
		w.newUser(host.User{Limit: new(100), FullName: "Eva", Language: new("en")}): "👤 Ana: 90% of AI tokens used",
		w.newUser(host.User{Limit: new(100), FullName: "Rui", Language: new("pt")}): "👤 Ana: 90% dos tokens de IA utilizados",
	}
	stranger := w.user(100)
	organization, err := host.NewOrganization(t.Context(), w.owner, "Other")
	require.NoError(t, err)
	w.ownerExec("UPDATE users SET organization_id = $1 WHERE id = $2", organization, stranger)
	w.ownerExec("UPDATE users SET role = 'admin' WHERE id <> $1", user)
	w.policy(ofOrganization, "admins_from", w.org, 90)
	w.deliverBy = []string{"email", "webhook"}
	w.start()
	for _, tokens := range []int{85, 10, 0} { // 85, 95, and once more
		w.use(user, tokens)
		w.settle()
	}
	assert.Len(t, w.notifications(user), 2)
	for admin, title := range admins {
		told := w.notifications(admin)
		require.Len(t, told, 1)
		assert.Equal(t, title, told[0].Title)
		assert.Contains(t, told[0].Message, "95")
	}
	assert.Empty(t, w.notifications(stranger))
	var jobs string
	require.NoError(t, w.owner.QueryRow(t.Context(), `SELECT string_agg(format('%s %s', queue, CASE WHEN args ? 'admin' THEN 'admin' ELSE 'user' END), ', '
		ORDER BY queue, args ? 'admin') FROM tokenalert.river_job`).Scan(&jobs))
	assert.Equal(t, "email user, email user, email admin, email admin, webhook user, webhook user", jobs)

	// By their own policies, and whatever that of the user says of channels.
	third := w.user(100)
	w.policy(ofUser, "channels", third, []string{})
	quiet := w.anyOf(admins)
	w.policy(ofUser, "channels", quiet, []string{})
	w.use(third, 95)
	w.settle()
	assert.Len(t, w.notifications(quiet), 2)
	require.NoError(t, w.owner.QueryRow(t.Context(), `SELECT count(*)::text FROM tokenalert.river_job j
		JOIN token_limit_alerts a ON a.id = (j.args ->> 'alert_id')::uuid WHERE a.user_id = $1`, third).Scan(&jobs))
	assert.Equal(t, "1", jobs, "an e-mail to the other admin")
	w.policy(ofUser, "muted_until", quiet, "infinity")
	w.use(w.user(100), 95)
	w.settle()
	assert.Len(t, w.notifications(quiet), 2, "muted")
	w.policy(ofUser, "muted_until", quiet, nil)
	w.ownerExec("DELETE FROM notifications WHERE title LIKE '👤%' AND title NOT LIKE '👤 Ana%'")

	muted := w.user(100)
	w.policy(ofUser, "muted_until", muted, "infinity")
	w.use(muted, 95)
	w.settle()
	for admin := range admins {
		assert.Len(t, w.notifications(admin), 1, "of one who is muted")
		w.use(admin, 91) // the other is told of it too
		w.settle()
		assert.Len(t, w.notifications(admin), 2, "of their own")
		break
	}
}

// What the command foretells is what the next tick does.
func TestForetell(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	above, below := w.user(100), w.user(100)
	w.use(above, 60)
	w.use(below, 30)
	r := w.start()
	r.asleep()
	owner, err := store.OpenFor("policy", w.db.OwnerURL(), "")
	require.NoError(t, err)
	t.Cleanup(owner.Close)
	change := store.PolicyChange{Thresholds: new([]int32{50, 80})}
	of := store.PolicyOf{Organization: &w.org}
	asked, err := owner.ChangePolicy(t.Context(), of, change, true)
	require.NoError(t, err)
	assert.Len(t, asked.Candidates, 2)
	list, err := owner.Policies(t.Context())
	require.NoError(t, err)
	assert.Empty(t, list, "it was only asked")
	w.settle()
	assert.Empty(t, w.alerts(above))

	changed, err := owner.ChangePolicy(t.Context(), of, change, false)
	require.NoError(t, err)
	foretold := worker.Foretell(changed)
	require.Len(t, worker.Foretell(asked), len(foretold))
	for i, d := range worker.Foretell(asked) {
		assert.Equal(t, foretold[i].Alerts, d.Alerts)
	}
	w.eventually(func() bool { return len(w.alerts(above)) > 0 }, "the policy is not noticed")
	told := map[int]string{}
	for _, d := range foretold {
		for _, a := range d.Alerts {
			assert.Equal(t, above, d.UserID)
			told[int(a.Threshold)] = a.Reason
		}
	}
	assert.Equal(t, w.reasons(above), told)
}

// What was told stays told, whatever a policy or a limit was meanwhile, and so
// it is foretold: of a budget, and of a user whose limit came back while nobody led.
func TestForetellKnowsWhatWasTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	user := w.user(100)
	w.admin(w.org)
	owner, err := store.OpenFor("policy", w.db.OwnerURL(), "")
	require.NoError(t, err)
	t.Cleanup(owner.Close)
	set := func(c store.PolicyChange, dryRun bool) map[string]string {
		t.Helper()
		changed, err := owner.ChangePolicy(t.Context(), store.PolicyOf{Organization: &w.org}, c, dryRun)
		require.NoError(t, err)
		reasons := map[string]string{}
		for _, d := range worker.Foretell(changed) {
			for _, a := range d.Alerts {
				whose := "user"
				if d.UserID == uuid.Nil {
					whose = "budget"
				}
				reasons[fmt.Sprint(whose, " ", a.Threshold)] = cmp.Or(a.Reason, "told")
			}
		}
		return reasons
	}
	budget := func(tokens int64) store.PolicyChange { return store.PolicyChange{Budget: new(&tokens)} }
	r := w.start()
	w.use(user, 85)
	w.settle()
	assert.Equal(t, map[string]string{"budget 80": "told"}, set(budget(100), false))
	w.eventually(func() bool { return len(w.budgetAlerts(w.org)) == 1 }, "the admins are not told")
	assert.Empty(t, set(budget(1000), false))
	w.settle()
	assert.Equal(t, map[string]string{"budget 80": "already_told"}, set(budget(100), false))
	suppressed := r.await(worker.EventBudgetSuppressed).ContextMap()
	assert.Equal(t, "already_told", suppressed["reason"])
	w.settle()

	w.ownerExec("UPDATE users SET monthly_token_limit = 1000 WHERE id = $1", user)
	w.settle()
	r.stop()
	w.ownerExec("UPDATE users SET monthly_token_limit = 100 WHERE id = $1", user)
	assert.Equal(t, map[string]string{"user 80": "already_told"}, set(store.PolicyChange{Language: new(new("en"))}, true))
	w.start().await(worker.EventAlertSuppressed)
	assert.Len(t, w.notifications(user), 1)
}
