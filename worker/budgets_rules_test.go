package worker_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
)

// The reasons why nobody is told of a budget are those of users: another calendar
// within a period that was told of, a threshold that a policy gains, a policy that
// is muted. A mark clears where a correction takes usage below it, and the same
// budget is not told of twice.
func TestWhyNobodyIsToldOfABudget(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change func(w *world) // after 80 percent of 1000 was told, at 850
		alerts []budgetAlert  // beyond that
		told   int            // how many notifications the admin has
	}{
		"another reset day within the period": {func(w *world) {
			day := time.Now().UTC()
			if day.Day() == 1 {
				day = day.AddDate(0, 0, -1)
			}
			w.ownerExec("UPDATE tokenalert.policies SET budget_reset_day = $1", day.Day())
		}, []budgetAlert{{80, false, "carried_over", 850, 0}}, 1},
		"another zone": {func(w *world) {
			w.ownerExec("UPDATE tokenalert.policies SET budget_time_zone = 'Asia/Kolkata'")
		}, []budgetAlert{{80, false, "carried_over", 850, 0}}, 1},
		"a threshold that was passed before": {
			func(w *world) { w.policy(ofOrganization, "thresholds", w.org, []int{50, 80, 90}) },
			[]budgetAlert{{50, false, "threshold_added", 850, 0}},
			1,
		},
		"muted": {func(w *world) {
			w.policy(ofOrganization, "muted_until", w.org, "infinity")
			w.use(w.user(0), 60)
		}, []budgetAlert{{90, false, "muted", 910, 0}}, 1},
		"below, and again above": {func(w *world) {
			w.ownerExec("UPDATE ai_usage_logs SET tokens_used = 100 WHERE tokens_used = 850")
			w.settle()
			w.assertMarks(0)
			w.use(w.user(0), 710)
			w.settle()
			w.assertMarks(1)
		}, nil, 1},
		"another budget": {
			func(w *world) {
				w.policy(ofOrganization, "budget", w.org, 2000)
				w.settle()
				w.assertMarks(0)
				w.policy(ofOrganization, "budget", w.org, 1050)
			},
			[]budgetAlert{{80, true, "", 850, 1}},
			2,
		},
		"another budget, with a threshold that was gained before and somebody set aside elsewhere": {
			func(w *world) {
				stranger, err := host.NewUser(w.t.Context(), w.owner, host.User{Organization: w.organization("Other")})
				require.NoError(w.t, err)
				w.ownerExec("INSERT INTO tokenalert.recounts (user_id, at, due_at, cause) VALUES ($1, now(), now() + interval '1 hour', 'set_aside')", stranger)
				w.policy(ofOrganization, "thresholds", w.org, []int{80, 90})
				w.settle()
				w.policy(ofOrganization, "budget", w.org, 900)
			},
			[]budgetAlert{{90, true, "", 850, 1}},
			2,
		},
		"another budget and other thresholds": {
			func(w *world) { w.ownerExec("UPDATE tokenalert.policies SET budget = 900, thresholds = '{80,92}'") },
			[]budgetAlert{{92, true, "", 850, 1}},
			2,
		},
		"removed, and another with other thresholds": {
			func(w *world) {
				w.ownerExec("UPDATE tokenalert.policies SET budget = NULL")
				w.settle()
				w.ownerExec("UPDATE tokenalert.policies SET budget = 1700, thresholds = '{50,80}'")
			},
			[]budgetAlert{{50, true, "", 850, 1}},
			2,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			admin := w.admin(w.org)
			w.use(w.user(0), 850)
			w.start()
			w.policy(ofOrganization, "budget", w.org, 1000)
			w.eventually(func() bool { return w.budgetCounted(w.org) }, "the budget is not counted")
			w.settle()
			first := []budgetAlert{{80, true, "", 850, 1}}
			assert.Equal(t, first, w.budgetAlerts(w.org))
			tt.change(w)
			w.eventually(func() bool { return w.budgetCounted(w.org) }, "the budget is not counted anew")
			w.settle()
			assert.ElementsMatch(t, append(first, tt.alerts...), w.budgetAlerts(w.org))
			assert.Len(t, w.notifications(admin), tt.told)
		})
	}
}

// assertMarks holds the marks of the only budget to their number.
func (w *world) assertMarks(n int) {
	w.t.Helper()
	var marks int
	if err := w.owner.QueryRow(w.t.Context(), "SELECT cardinality(marks) FROM tokenalert.budget_periods").Scan(&marks); err != nil {
		w.t.Error(err)
	}
	assert.Equal(w.t, n, marks)
}
