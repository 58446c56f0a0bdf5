package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestWrongPolicies(t *testing.T) {
	t.Parallel()
	id := uuid.NewString()
	for args, says := range map[string]string{
		"policy set": "name whom the policy is of: --user ID or --organization ID",
		"policy set --user " + id + " --organization " + id:                 "a policy is of one of them",
		"policy set --user ana":                                             `--user "ana" is not an id (a UUID)`,
		"policy set --organization " + id:                                   "nothing to set: give --thresholds",
		"policy set --user " + id + " --thresholds 0":                       `--thresholds "0" must be percentages from 1 to 1000`,
		"policy set --user " + id + " --thresholds 80,80":                   "each once",
		"policy set --user " + id + " --thresholds 1,2,3,4,5,6,7,8,9,10,11": "10 percentages at most",
		"policy set --user " + id + " --language fr --channels pigeon":      `--channels "pigeon" must be some of notification,email,webhook`,
		"policy set --user " + id + " --language fr":                        `--language "fr" must be es, en, pt, or inherit`,
		"policy set --user " + id + " --mute-until 2020-01-01T00:00:00Z":    "must be an instant to come",
		"policy set --user " + id + " --mute-until -3h":                     "must be an instant to come",
		"policy set --user " + id + " --time-zone UTC+3":                    `--time-zone "UTC+3" must be a zone of the IANA database`,
		"policy set --user " + id + " --admins-from 0":                      `--admins-from "0" must be a percentage from 1 to 1000`,
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
	assert.Regexp(t, `(?m)^organization `+org+` +50 %, 80 % +inherit +en +inherit +inherit +inherit +20`, list)
	assert.Regexp(t, `(?m)^user `+user.String()+` +inherit +inherit +inherit +none +forever +inherit +20`, list)
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
	assert.Contains(t, policy(1, "remove", "--user", uuid.NewString()), "nobody has this id")
	worker, _ := p.db.WorkerURLs()
	status, _, stderr := typed(t, []string{"DATABASE_URL=" + worker}, "policy", "remove", "--organization", org)
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "it takes the owner of the host's tables")
}
