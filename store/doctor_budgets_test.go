package store_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/store"
)

func TestTheDoctorFindsBudgetsOfWhichNobodyIsTold(t *testing.T) {
	t.Parallel()
	inForce := func(s *site) {
		s.exec("UPDATE users SET role = 'admin' WHERE id = $1", s.user(0))
		s.budget(s.org, 1000, 1, "UTC")
		s.exec("UPDATE tokenalert.budgets SET counted = true")
		s.exec("ALTER TABLE tokenalert.policies DISABLE TRIGGER USER") // which says when it was changed
	}
	remove := func(s *site) []string {
		return []string{"UPDATE tokenalert.policies SET budget = NULL WHERE organization_id = '" + s.org.String() + "';"}
	}
	for name, tt := range map[string]struct {
		make     string
		says     string
		commands func(*site) []string
	}{
		"as it is":           {"SELECT", "", nil},
		"not counted":        {"UPDATE tokenalert.budgets SET counted = false; UPDATE tokenalert.policies SET changed_at = now() - interval '16 minutes'", "1 budget is not counted, set over 15 minutes ago", nil},
		"not counted so far": {"UPDATE tokenalert.budgets SET counted = false; UPDATE tokenalert.policies SET changed_at = now() - interval '14 minutes'", "", nil},
		"no admin":           {"UPDATE users SET role = 'student'", "1 budget is nobody's", remove},
		"no organization":    {"DELETE FROM organizations", "1 budget is nobody's", remove},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := migratedSite(t, host.CMS)
			inForce(s)
			s.superExec(tt.make)
			x := examined(t, s.diagnose(pgtest.Runtime), "budgets")
			if tt.says == "" {
				assert.Empty(t, x.Findings)
				assert.Equal(t, "1 budget, counted and with admins to tell", x.Well)
				return
			}
			if assert.Len(t, x.Findings, 1) {
				assert.Equal(t, store.Warning, x.Findings[0].Severity)
				assert.Contains(t, x.Findings[0].Says, tt.says)
				assert.Contains(t, x.Findings[0].Says, s.org.String())
				if tt.commands != nil {
					assert.Equal(t, tt.commands(s), x.Findings[0].Commands)
				}
			}
		})
	}
}

// A zone that the server has lost is named, with what mends it.
func TestTheDoctorFindsZonesThatTheServerDoesNotKnow(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS)
	s.settings()
	user := s.user(1000)
	s.budget(s.org, 1000, 1, "UTC")
	s.exec("INSERT INTO tokenalert.policies (user_id, time_zone) VALUES ($1, 'America/Lima')", user)
	assert.Empty(t, examined(t, s.diagnose(pgtest.Runtime), "zone").Findings)

	s.exec("ALTER TABLE tokenalert.policies DISABLE TRIGGER USER")
	s.exec("UPDATE tokenalert.policies SET time_zone = 'Nope/Zone'")
	s.exec("UPDATE tokenalert.policies SET budget_time_zone = 'Nope/Other' WHERE user_id IS NULL")
	s.exec("UPDATE tokenalert.budgets SET time_zone = 'Nope/Other'")
	s.exec("ALTER TABLE tokenalert.policies ENABLE TRIGGER USER")
	x := examined(t, s.diagnose(pgtest.Runtime), "zone")
	if assert.Len(t, x.Findings, 1) {
		f := x.Findings[0]
		assert.Equal(t, store.Broken, f.Severity)
		assert.Contains(t, f.Says, "the server does not know 3 zones that are set by policy: ")
		for _, says := range []string{
			"Nope/Zone of organization " + s.org.String(), "Nope/Other of the budget of organization " + s.org.String(), "Nope/Zone of user " + user.String(),
		} {
			assert.Contains(t, f.Says, says)
		}
		assert.ElementsMatch(t, []string{
			"tokenalert policy set --organization " + s.org.String() + " --time-zone inherit --budget-time-zone UTC",
			"tokenalert policy set --user " + user.String() + " --time-zone inherit",
		}, f.Commands)
	}
	owner, err := store.OpenFor("policy", s.db.OwnerURL(), "")
	require.NoError(t, err)
	t.Cleanup(owner.Close)
	for _, change := range []struct {
		of store.PolicyOf
		to store.PolicyChange
	}{
		{store.PolicyOf{Organization: &s.org}, store.PolicyChange{TimeZone: new(*string), BudgetTimeZone: new(new("UTC"))}},
		{store.PolicyOf{User: &user}, store.PolicyChange{TimeZone: new(*string)}},
	} {
		_, err := owner.ChangePolicy(t.Context(), change.of, change.to, false)
		require.NoError(t, err)
	}
	assert.Empty(t, examined(t, s.diagnose(pgtest.Runtime), "zone").Findings)
}

// A budget that is not in force as its policy sets it is named, and what is said
// mends it.
func TestTheDoctorFindsBudgetsThatAreNotThoseOfPolicies(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ make, says string }{
		"deleted":           {"DELETE FROM tokenalert.budgets", "%s has none in force"},
		"another limit":     {"UPDATE tokenalert.budgets SET token_limit = 999", "%s has another in force"},
		"another reset day": {"UPDATE tokenalert.budgets SET reset_day = 2", "%s has another in force"},
		"another zone":      {"UPDATE tokenalert.budgets SET time_zone = 'America/Lima'", "%s has another in force"},
		"of no policy": {
			"ALTER TABLE tokenalert.policies DISABLE TRIGGER USER; UPDATE tokenalert.policies SET budget = NULL, budget_reset_day = NULL, budget_time_zone = NULL",
			"%s has one in force that no policy sets",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := migratedSite(t, host.CMS)
			s.exec("UPDATE users SET role = 'admin' WHERE id = $1", s.user(0))
			s.budget(s.org, 1000, 15, "America/Santiago")
			require.Empty(t, examined(t, s.diagnose(pgtest.Runtime), "budgets").Findings)
			s.superExec(tt.make)
			x := examined(t, s.diagnose(pgtest.Runtime), "budgets")
			require.Len(t, x.Findings, 1)
			f := x.Findings[0]
			assert.Equal(t, store.Broken, f.Severity)
			assert.Contains(t, f.Says, "1 budget is not in force as its policy sets it")
			assert.Contains(t, f.Says, strings.ReplaceAll(tt.says, "%s", s.org.String()))
			require.Len(t, f.Commands, 1)
			if name == "of no policy" {
				s.exec(f.Commands[0])
			} else {
				assert.Equal(t, "tokenalert policy set --organization "+s.org.String()+" --budget 1000 --budget-reset-day 15 --budget-time-zone 'America/Santiago'", f.Commands[0])
				owner, err := store.OpenFor("policy", s.db.OwnerURL(), "")
				require.NoError(t, err)
				t.Cleanup(owner.Close)
				_, err = owner.ChangePolicy(t.Context(), store.PolicyOf{Organization: &s.org},
					store.PolicyChange{Budget: new(new(int64(1000))), BudgetResetDay: new(new(int32(15))), BudgetTimeZone: new(new("America/Santiago"))}, false)
				require.NoError(t, err)
			}
			assert.Empty(t, examined(t, s.diagnose(pgtest.Runtime), "budgets").Findings)
		})
	}
}
