package worker_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/worker"
)

// budgetAlert is a row of budget_alerts.
type budgetAlert struct {
	Threshold  int
	Told       bool
	Reason     string // "" where told
	TokensUsed int64
	Admins     int
}

func (w *world) budgetAlerts(organization uuid.UUID) []budgetAlert {
	w.t.Helper()
	rows, err := w.owner.Query(w.t.Context(), `SELECT alert_threshold, alert_sent, coalesce(reason, ''), tokens_used, admins_told
		FROM tokenalert.budget_alerts WHERE organization_id = $1 ORDER BY period_start, token_limit, alert_threshold`, organization)
	require.NoError(w.t, err)
	alerts, err := pgx.CollectRows(rows, pgx.RowToStructByPos[budgetAlert])
	require.NoError(w.t, err)
	return alerts
}

// admin is a user of an organization who is an admin.
func (w *world) admin(organization uuid.UUID) uuid.UUID {
	w.t.Helper()
	admin, err := host.NewUser(w.t.Context(), w.owner, host.User{Organization: organization})
	require.NoError(w.t, err)
	w.ownerExec("UPDATE users SET role = 'admin' WHERE id = $1", admin)
	return admin
}

func (w *world) organization(name string) uuid.UUID {
	w.t.Helper()
	id, err := host.NewOrganization(w.t.Context(), w.owner, name)
	require.NoError(w.t, err)
	return id
}

// useIn logs usage in an organization.
func (w *world) useIn(organization, user uuid.UUID, tokens int, at *time.Time) {
	w.t.Helper()
	_, err := w.writer.Exec(w.t.Context(), `INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used, input_tokens, output_tokens, created_at)
		VALUES ($1, $2, $3, $3, 0, coalesce($4, now()))`, user, organization, tokens, at)
	require.NoError(w.t, err)
}

// assertBudgets compares what is counted of budgets that begin on the first, in
// UTC, with sums by plain SQL.
func (w *world) assertBudgets() {
	w.t.Helper()
	var differing []string
	require.NoError(w.t, w.owner.QueryRow(w.t.Context(), `
		WITH used AS (
			SELECT l.organization_id, l.user_id, date_trunc('month', l.created_at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' AS period_start, sum(l.tokens_used) AS tokens
			FROM ai_usage_logs l JOIN tokenalert.budgets b USING (organization_id) WHERE l.created_at >= b.since GROUP BY 1, 2, 3
		)
		SELECT coalesce(array_agg(what), '{}') FROM (
			SELECT format('share of %s: %s for %s', user_id, s.tokens_used, u.tokens) AS what
			FROM used u FULL JOIN tokenalert.budget_shares s USING (organization_id, user_id, period_start)
			WHERE coalesce(s.tokens_used, 0) <> coalesce(u.tokens, 0)
			UNION ALL
			SELECT format('total of %s: %s for %s', organization_id, p.tokens_used, u.tokens)
			FROM (SELECT organization_id, period_start, sum(tokens) AS tokens FROM used GROUP BY 1, 2) u
			FULL JOIN tokenalert.budget_periods p USING (organization_id, period_start)
			WHERE coalesce(p.tokens_used, 0) <> coalesce(u.tokens, 0)
		) d`).Scan(&differing))
	assert.Empty(w.t, differing)
}

// What members use adds up to the budget of their organization, also what they
// had used before it was set, and its admins are told: once for each threshold
// and budget, in their languages, and nobody else is. The worker sleeps when the
// budget is set.
func TestABudgetIsCountedAndItsAdminsAreTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	other := w.organization("Other")
	first, second := w.user(0), w.user(0)
	chief, deputy := w.admin(w.org), w.admin(w.org)
	stranger := w.admin(other)
	w.ownerExec("UPDATE users SET language = 'en' WHERE id = $1", deputy)
	w.use(first, 300)
	w.useIn(other, stranger, 5000, nil)
	r := w.start()
	r.asleep()

	w.policy(ofOrganization, "budget", w.org, 1000)
	w.eventually(func() bool { return w.budgetCounted(w.org) }, "what was used before is not counted")
	w.settle()
	assert.Empty(t, w.budgetAlerts(w.org))
	w.assertBudgets()

	w.use(second, 450)
	w.settle()
	assert.Empty(t, w.budgetAlerts(w.org))
	w.use(first, 60) // 810
	w.settle()
	assert.Equal(t, []budgetAlert{{80, true, "", 810, 2}}, w.budgetAlerts(w.org))
	w.use(second, 200) // 1010
	w.settle()
	assert.Equal(t, []budgetAlert{{80, true, "", 810, 2}, {90, false, "superseded", 1010, 0}, {100, true, "", 1010, 2}}, w.budgetAlerts(w.org))
	w.assertBudgets()

	require.Len(t, w.notifications(chief), 2)
	require.Len(t, w.notifications(deputy), 2)
	assert.Equal(t, "🏢 Tu organización ha usado el 80% de sus tokens de IA", w.notifications(chief)[0].Title)
	assert.Equal(t, "🏢 Your organization has used 100% of its AI tokens", w.notifications(deputy)[1].Title)
	assert.Contains(t, w.notifications(deputy)[1].Message, "1,010 AI tokens this period, 101.0% of a budget of 1,000.")
	for _, nobody := range []uuid.UUID{first, second, stranger} {
		assert.Empty(t, w.notifications(nobody))
	}
	sent := r.await(worker.EventBudgetSent).ContextMap()
	assert.Equal(t, w.org.String(), sent["organization"])
	assert.EqualValues(t, 2, sent["admins"])

	// Another budget is told of anew; one that had been told is not.
	w.policy(ofOrganization, "budget", w.org, 2000)
	w.settle()         // below all of it
	w.use(second, 600) // 1610
	w.settle()
	assert.Equal(t, []budgetAlert{{80, true, "", 1610, 2}}, w.budgetAlerts(w.org)[3:])
	w.policy(ofOrganization, "budget", w.org, 1000)
	w.eventually(func() bool { return len(r.lines(worker.EventBudgetSuppressed)) == 3 }, "the budget of before is not decided")
	for _, line := range r.lines(worker.EventBudgetSuppressed)[1:] {
		assert.Equal(t, "already_told", line.ContextMap()["reason"])
	}
	assert.Len(t, w.budgetAlerts(w.org), 4)
	assert.Len(t, w.notifications(chief), 3)
}

// budgetUsed is what is counted of a budget, in whatever period began last.
func (w *world) budgetUsed(organization uuid.UUID) (tokens int64) {
	w.t.Helper()
	require.NoError(w.t, w.owner.QueryRow(w.t.Context(), `SELECT tokens_used::bigint FROM tokenalert.budget_periods
		WHERE organization_id = $1 ORDER BY period_start DESC LIMIT 1`, organization).Scan(&tokens))
	return tokens
}

func (w *world) budgetCounted(organization uuid.UUID) bool {
	w.t.Helper()
	var counted bool
	require.NoError(w.t, w.owner.QueryRow(w.t.Context(), "SELECT counted FROM tokenalert.budgets WHERE organization_id = $1", organization).Scan(&counted))
	return counted
}

// A user who moves takes what they will use along, and leaves what they have used;
// corrections of rows change the budgets that the rows belong to, and so does the
// end of a user with their rows.
func TestBudgetsFollowTheRows(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	other := w.organization("Other")
	mover, leaver := w.user(0), w.user(0)
	w.admin(w.org)
	w.admin(other)
	w.use(mover, 700)
	r := w.start()
	w.policy(ofOrganization, "budget", w.org, 1000)
	w.policy(ofOrganization, "budget", other, 1000)
	w.eventually(func() bool { return w.budgetCounted(w.org) && w.budgetCounted(other) }, "is not counted")
	r.asleep()

	w.ownerExec("UPDATE users SET organization_id = $1 WHERE id = $2", other, mover)
	w.useIn(other, mover, 300, nil)
	w.use(leaver, 150)
	w.settle()
	w.assertBudgets()
	assert.Equal(t, []budgetAlert{{80, true, "", 850, 1}}, w.budgetAlerts(w.org))
	assert.Empty(t, w.budgetAlerts(other))

	w.ownerExec("UPDATE ai_usage_logs SET organization_id = $1 WHERE user_id = $2", other, mover) // after all
	w.settle()
	w.assertBudgets()
	assert.Len(t, w.budgetAlerts(w.org), 1)
	assert.Equal(t, []budgetAlert{{80, false, "superseded", 1000, 0}, {90, false, "superseded", 1000, 0}, {100, true, "", 1000, 1}}, w.budgetAlerts(other))

	w.ownerExec("UPDATE ai_usage_logs SET tokens_used = 100 WHERE user_id = $1 AND tokens_used = 300", mover)
	w.ownerExec("DELETE FROM users WHERE id = $1", leaver)
	w.settle()
	w.assertBudgets()
	w.use(w.user(0), 900) // of the first, again above 80: told before
	w.settle()
	assert.Equal(t, []budgetAlert{{80, true, "", 850, 1}, {90, true, "", 900, 1}}, w.budgetAlerts(w.org))

	w.ownerExec("TRUNCATE ai_usage_logs")
	w.use(mover, 1)
	w.settle()
	w.assertBudgets()
}
