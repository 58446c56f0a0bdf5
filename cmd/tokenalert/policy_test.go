package main

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/store"
)

func TestWrongPolicies(t *testing.T) {
	t.Parallel()
	id := uuid.NewString()
	for args, says := range map[string]string{
		"policy set": "name whom the policy is of: --user ID or --organization ID",
		"policy set --user " + id + " --organization " + id:                                             "a policy is of one of them",
		"policy set --user ana":                                                                         `--user "ana" is not an id (a UUID)`,
		"policy set --organization " + id:                                                               "nothing to set: give --thresholds",
		"policy set --user " + id + " --thresholds 0":                                                   `--thresholds "0" must be percentages from 1 to 1000`,
		"policy set --user " + id + " --thresholds 80,80":                                               "each once",
		"policy set --user " + id + " --thresholds 1,2,3,4,5,6,7,8,9,10,11":                             "10 percentages at most",
		"policy set --user " + id + " --language fr --channels pigeon":                                  `--channels "pigeon" must be some of notification,email,webhook`,
		"policy set --user " + id + " --language fr":                                                    `--language "fr" must be es, en, pt, or inherit`,
		"policy set --user " + id + " --mute-until 2020-01-01T00:00:00Z":                                "must be an instant to come",
		"policy set --user " + id + " --mute-until -3h":                                                 "must be an instant to come",
		"policy set --user " + id + " --time-zone UTC+3":                                                `--time-zone "UTC+3" must be a zone of the IANA database`,
		"policy set --user " + id + " --admins-from 0":                                                  `--admins-from "0" must be a percentage from 1 to 1000`,
		"policy set --user " + id + " --budget 5":                                                       "--budget is an organization's: name it by --organization",
		"policy set --organization " + id + " --budget 0":                                               `--budget "0" must be a number of tokens from 1 to 1000000000000000, or none`,
		"policy set --organization " + id + " --budget 5 --budget-reset-day 32 --budget-time-zone Mars": `--budget-time-zone "Mars" must be a zone`,
		"policy set --organization " + id + " --budget-reset-day x":                                     `--budget-reset-day "x" must be a day of the month from 1 to 31`,
		"policy set --organization " + id + " --budget none --budget-reset-day 3":                       "--budget none leaves nothing that begins",
		"policy remove":        "name whom",
		"policy show --user x": "is not an id",
		"policy list now":      "tokenalert policy list --help",
		"policy lst":           "did you mean set or list?",
	} {
		status, stdout, stderr := typed(t, nil, strings.Fields(args)...)
		assert.Equal(t, 2, status, args)
		assert.Contains(t, stderr, says, args)
		assert.Empty(t, stdout)
	}
}

// A policy is asked for, made while a worker sleeps, in force at once, listed,
// shown with its history, and removed.
func TestPolicyCommands(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	user := p.user(1000)
	p.use(user, 600)
	p.leads()
	owner := []string{"DATABASE_URL=" + p.db.OwnerURL()}
	policy := func(want int, args ...string) string {
		t.Helper()
		status, stdout, stderr := typed(t, owner, append([]string{"policy"}, args...)...)
		require.Equal(t, want, status, "%v: %s%s", args, stdout, stderr)
		return stdout + stderr
	}
	org := p.org.String()
	assert.Equal(t, "no policies: the settings count for everybody\n", policy(0, "list"))
	asked := policy(0, "set", "--organization", org, "--thresholds", "80,50", "--language", "en", "--dry-run")
	assert.Contains(t, asked, "would change; 1 user with a total in this period\n")
	assert.Contains(t, asked, "  thresholds 50 %, 80 %  (was inherit)\n")
	assert.Contains(t, asked, user.String()+" is not told of 50 %: the settings, or a policy, gained this threshold while usage stood above it already\n")
	assert.Equal(t, "no policies: the settings count for everybody\n", policy(0, "list"))

	assert.Contains(t, policy(0, "set", "--organization", org, "--thresholds", "80,50", "--language", "en"), "changed; 1 user")
	p.eventually("SELECT count(*) = 1 FROM token_limit_alerts WHERE alert_threshold = 50 AND reason = 'threshold_added'", "the policy is not in force")
	p.use(user, 210)
	p.eventually("SELECT count(*) = 1 FROM notifications WHERE title LIKE '%of AI tokens used'", "nobody is told in English")
	assert.Contains(t, policy(0, "set", "--user", user.String(), "--mute-until", "forever", "--channels", "none"), "nobody is told by that")

	list := policy(0, "list")
	assert.Regexp(t, `(?m)^organization `+org+` +50 %, 80 % +inherit +en +inherit +inherit +inherit +none +20`, list)
	assert.Regexp(t, `(?m)^user `+user.String()+` +inherit +inherit +inherit +none +forever +inherit +none +20`, list)
	shown := policy(0, "show", "--user", user.String())
	for _, line := range []string{
		`^thresholds 50 %, 80 % +of the organization$`, `^language   en +of the organization$`,
		`^channels   none +of the user$`, `^mute until forever +of the user$`, ` by host_owner: {} -> {"channels":\[\],"muted_until":"9999`,
	} {
		assert.Regexp(t, "(?m)"+line, shown)
	}
	var document struct {
		Changes []struct{ Role string }
	}
	require.NoError(t, json.Unmarshal([]byte(policy(0, "show", "--organization", org, "--output", "json")), &document))
	assert.Len(t, document.Changes, 1)

	status, explained, _ := typed(t, owner, "explain", user.String())
	assert.Equal(t, 0, status)
	assert.Contains(t, explained, "50 %, 80 %, by the organization's policy since")
	assert.Contains(t, explained, "A policy mutes this user until")

	assert.Contains(t, policy(0, "remove", "--user", user.String()), "changed")
	assert.NotContains(t, policy(0, "list"), user.String())
	gone := p.user(1000)
	policy(0, "set", "--user", gone.String(), "--language", "pt")
	p.exec("DELETE FROM users WHERE id = $1", gone)
	assert.Regexp(t, `(?m)^language   pt +of the user$`, policy(0, "show", "--user", gone.String()))
	assert.Contains(t, policy(1, "remove", "--user", uuid.NewString()), "nobody has this id")
	worker, _ := p.db.WorkerURLs()
	status, _, stderr := typed(t, []string{"DATABASE_URL=" + worker}, "policy", "remove", "--organization", org)
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "it takes the owner of the host's tables")
	status, _, stderr = typed(t, []string{"DATABASE_URL=" + worker}, "policy", "show", "--organization", org)
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "it takes the owner of the host's tables")
}

// What is printed of a budget, or a limit, says 100.0 where it is reached, and not
// before, however large the numbers.
func TestPercentUsed(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		used, limit int64
		want        string
	}{
		{0, 1000, "0.0 %"},
		{-5, 1000, "0.0 %"},
		{99_996, 100_000, "99.9 %"},
		{100_000, 100_000, "100.0 %"},
		{893, 1000, "89.3 %"},
		{math.MaxInt64, 1000, "922337203685477580.7 %"},
		{math.MaxInt64 - 1, math.MaxInt64, "99.9 %"},
	} {
		assert.Equal(t, tt.want, percentUsed(tt.used, tt.limit))
	}
	var page strings.Builder
	require.NoError(t, printPolicyInForce(&page, store.PolicyInForce{Budget: &store.BudgetStanding{TokensUsed: math.MaxInt64, TokenLimit: 1000, Counted: true}}))
	assert.Contains(t, page.String(), "922337203685477580.7 %,")
}

// A budget is asked for, set, shown with what has been used of it, in force, and
// removed.
func TestBudgetCommands(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	user := p.user(0)
	p.use(user, 850)
	p.leads()
	owner := []string{"DATABASE_URL=" + p.db.OwnerURL()}
	org := p.org.String()
	policy := func(want int, args ...string) string {
		t.Helper()
		status, stdout, stderr := typed(t, owner, append([]string{"policy", args[0], "--organization", org}, args[1:]...)...)
		require.Equal(t, want, status, "%v: %s%s", args, stdout, stderr)
		return stdout + stderr
	}
	assert.Contains(t, policy(1, "set", "--budget-reset-day", "3"), "there is no budget that could begin on a day or in a zone: name one with --budget")
	asked := policy(0, "set", "--budget", "1000", "--budget-time-zone", "America/Lima", "--dry-run")
	assert.Contains(t, asked, "  budget     1,000 tokens from day 1, America/Lima  (was none)\n")
	assert.Contains(t, asked, "no admin would be told of 80 % of the budget: "+org+" has none who is not muted; a webhook, where one is set up, would be told once what was used is counted\n")
	assert.Contains(t, policy(0, "set", "--budget", "1000", "--dry-run", "--output", "json"), `"reason": "no_admin",
      "webhook": true`)
	assert.Contains(t, policy(0, "set", "--budget", "1000", "--channels", "email", "--dry-run"),
		"nobody is told of 80 % of the budget: the organization has no admin who is not muted, and there is no webhook\n")
	p.exec("INSERT INTO users (organization_id, email, password_hash, full_name, role) VALUES ($1, 'chief@example.com', 'none', 'Ada Example', 'admin')", p.org)
	assert.Contains(t, policy(0, "set", "--budget", "1000", "--dry-run"),
		"the admins of "+org+" would be told of 80 % of the budget once what was used is counted\n")
	assert.NotContains(t, policy(0, "show"), "budget")

	assert.Contains(t, policy(0, "set", "--budget", "1000", "--thresholds", "80,100"), "are told of 80 % of the budget once what was used is counted\n")
	p.eventually("SELECT count(*) = 1 FROM notifications WHERE title LIKE '🏢%80\\%%'", "the admin is not told")
	shown := policy(0, "show")
	assert.Regexp(t, "(?m)^budget     1,000 tokens from day 1, UTC +of the organization$", shown)
	assert.Regexp(t, `(?m)^used of the budget: 850 tokens, 85.0 %, since 20.*; resets 20[^;]*$`, shown)
	assert.Regexp(t, `(?m)by host_owner: {} -> {"budget":1000,"budget_reset_day":1,"budget_time_zone":"UTC","thresholds":\[80,100\]}$`, shown)
	var inForce struct {
		Budget struct {
			TokensUsed int64 `json:"tokens_used"`
		} `json:"budget"`
	}
	require.NoError(t, json.Unmarshal([]byte(policy(0, "show", "--output", "json")), &inForce))
	assert.EqualValues(t, 850, inForce.Budget.TokensUsed)

	assert.Contains(t, policy(0, "set", "--budget", "800"), "the admins of "+org+" are told of 100 % of the budget at the next tick\n")
	p.eventually("SELECT count(*) = 2 FROM notifications WHERE title LIKE '🏢%'", "the admin is not told of the lower budget")
	assert.Contains(t, policy(0, "set", "--budget", "2000"), "nobody is told by that\n")
	p.eventually("SELECT marks = '{}' FROM tokenalert.budget_periods", "the higher budget is not decided")
	assert.Contains(t, policy(0, "set", "--budget", "800"), "nobody is told of 100 % of the budget: it had been told under the same limit in the same period\n")
	assert.Contains(t, policy(0, "remove"), "  budget     none  (was 800 tokens from day 1, UTC)\n")
	p.eventually("SELECT NOT EXISTS (SELECT FROM tokenalert.budgets)", "the budget stays")
}
