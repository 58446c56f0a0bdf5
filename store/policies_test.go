package store_test

import (
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/store"
)

// The database refuses what is no policy, whoever writes it.
func TestThePoliciesThatTheDatabaseRefuses(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS)
	for values, constraint := range map[string]string{
		"(organization_id, thresholds) VALUES (gen_random_uuid(), '{}')":                        "policies_thresholds_check",
		"(organization_id, thresholds) VALUES (gen_random_uuid(), '{0,80}')":                    "policies_thresholds_check",
		"(organization_id, thresholds) VALUES (gen_random_uuid(), '{80,1001}')":                 "policies_thresholds_check",
		"(organization_id, thresholds) VALUES (gen_random_uuid(), '{90,80}')":                   "policies_thresholds_check",
		"(organization_id, thresholds) VALUES (gen_random_uuid(), '{80,80}')":                   "policies_thresholds_check",
		"(organization_id, thresholds) VALUES (gen_random_uuid(), '{80,NULL}')":                 "policies_thresholds_check",
		"(organization_id, thresholds) VALUES (gen_random_uuid(), '{1,2,3,4,5,6,7,8,9,10,11}')": "policies_thresholds_check",
		"(organization_id, thresholds) VALUES (gen_random_uuid(), '{{80,90}}')":                 "policies_thresholds_check",
		"(organization_id, language) VALUES (gen_random_uuid(), 'fr')":                          "policies_language_check",
		"(organization_id, channels) VALUES (gen_random_uuid(), '{pigeon}')":                    "policies_channels_check",
		"(organization_id, user_id) VALUES (gen_random_uuid(), gen_random_uuid())":              "policies_of_one_check",
		"(organization_id, admins_from) VALUES (gen_random_uuid(), 1001)":                       "policies_admins_from_check",
		"(language) VALUES ('es')": "policies_of_one_check",
	} {
		_, err := s.owner.Exec(t.Context(), "INSERT INTO tokenalert.policies "+values)
		assert.Equal(t, "23514", store.SQLState(err), "%s: %v", values, err)
		require.ErrorContains(t, err, constraint, values)
	}
	for _, zone := range []string{"America/Nowhere", "UTC+3", ""} { // PostgreSQL takes the second, as POSIX does
		_, err := s.owner.Exec(t.Context(), "INSERT INTO tokenalert.policies (organization_id, time_zone) VALUES (gen_random_uuid(), $1)", zone)
		assert.Equal(t, "22023", store.SQLState(err), "%q: %v", zone, err)
	}
	s.exec("INSERT INTO tokenalert.policies (organization_id, thresholds) VALUES ($1, '{1,1000}')", s.org)
	_, err := s.owner.Exec(t.Context(), "DELETE FROM tokenalert.policies")
	require.ErrorContains(t, err, "set its columns to NULL")
	assert.Equal(t, []string{"1 1"}, s.list("SELECT format('%s %s', (SELECT count(*) FROM tokenalert.policies), (SELECT count(*) FROM tokenalert.policy_changes))"))
}

// Each change is kept: when, by whom, from what to what; and what it gains.
func TestChangesOfPoliciesAreKept(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS)
	user := s.user(100)
	owner := s.ownerStore()
	ofUser, ofOrganization := store.PolicyOf{User: &user}, store.PolicyOf{Organization: &s.org}
	change := func(of store.PolicyOf, thresholds ...int32) {
		t.Helper()
		_, err := owner.ChangePolicy(t.Context(), of, store.PolicyChange{Thresholds: &thresholds}, false)
		require.NoError(t, err)
	}
	added := func() []string {
		return s.list("SELECT added::text FROM tokenalert.policies ORDER BY user_id NULLS FIRST")
	}
	change(ofOrganization, 50, 80)
	assert.Equal(t, []string{"{50}"}, added(), "the settings have 80, 90 and 100")
	s.exec("DELETE FROM tokenalert.recounts") // everybody has been decided
	change(ofUser, 50, 70)
	assert.Equal(t, []string{"{50}", "{70}"}, added(), "the organization has 50")
	change(ofUser, 60)
	assert.Equal(t, []string{"{50}", "{60}"}, added())
	change(ofUser, 60, 70)
	assert.Equal(t, []string{"{50}", "{60,70}"}, added(), "60 has not been decided yet")
	s.exec("DELETE FROM tokenalert.recounts")
	_, err := owner.ChangePolicy(t.Context(), ofUser, store.RemovePolicy(), false)
	require.NoError(t, err)
	assert.Equal(t, []string{"{50}", "{50,80}"}, added(), "what the organization has counts again")
	assert.Equal(t, []string{user.String()}, s.list("SELECT user_id::text FROM tokenalert.recounts WHERE cause = 'policy_changed' AND at IS NULL"))

	list, err := owner.Policies(t.Context())
	require.NoError(t, err)
	require.Len(t, list, 1, "one that was removed says nothing")
	assert.Equal(t, []int32{50, 80}, list[0].Thresholds)
	f, err := owner.PolicyInForce(t.Context(), ofUser)
	require.NoError(t, err)
	assert.Nil(t, f.User.Thresholds)
	assert.Equal(t, []int32{50, 80}, f.Organization.Thresholds)
	require.Len(t, f.Changes, 4)
	assert.Equal(t, "host_owner", f.Changes[0].Role)
	assert.Equal(t, map[string]any{"thresholds": []any{60.0, 70.0}}, f.Changes[0].Before)
	assert.Empty(t, f.Changes[0].After)
	assert.WithinDuration(t, time.Now(), f.Changes[0].ChangedAt, time.Minute)
}

// An infinite time, which Go does not have, is read as one far away.
func TestMutedForever(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS)
	s.exec("INSERT INTO tokenalert.policies (organization_id, muted_until) VALUES ($1, 'infinity')", s.org)
	list, err := s.ownerStore().Policies(t.Context())
	require.NoError(t, err)
	require.Len(t, list, 1)
	assert.Equal(t, store.MutedForever, *list[0].MutedUntil)
	s.exec("UPDATE tokenalert.policies SET muted_until = '-infinity'")
	list, err = s.ownerStore().Policies(t.Context())
	require.NoError(t, err)
	assert.True(t, list[0].MutedUntil.Before(time.Now()))
}

func TestAPolicyOfNobody(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS)
	owner, nobody := s.ownerStore(), uuid.New()
	for _, of := range []store.PolicyOf{{User: &nobody}, {Organization: &nobody}} {
		_, err := owner.ChangePolicy(t.Context(), of, store.RemovePolicy(), false)
		require.ErrorContains(t, err, of.String()+": nobody has this id")
		_, err = owner.PolicyInForce(t.Context(), of)
		require.ErrorContains(t, err, "nobody has this id")
	}
	_, err := s.runtime().ChangePolicy(t.Context(), store.PolicyOf{Organization: &s.org}, store.RemovePolicy(), false)
	assert.Equal(t, "42501", store.SQLState(err), "the worker's role changes no policy: %v", err)
}

// Policies and their history go through a down and an up, also through one that
// went one step only.
func TestPoliciesOutliveDown(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS)
	owner := s.ownerStore()
	for _, thresholds := range [][]int32{{50}, {60, 70}} {
		_, err := owner.ChangePolicy(t.Context(), store.PolicyOf{Organization: &s.org}, store.PolicyChange{Thresholds: &thresholds}, false)
		require.NoError(t, err)
	}
	look := func() []string {
		return s.list(`SELECT row(p.*)::text FROM tokenalert.policies p UNION ALL SELECT row(c.*)::text FROM tokenalert.policy_changes c ORDER BY 1`)
	}
	before := look()
	require.Len(t, before, 3)
	owner.Close()
	s.down()
	s.up()
	assert.Equal(t, before, look())
	s.exec("UPDATE tokenalert.policies SET thresholds = '{65}'")
	assert.Equal(t, 3, ask[int](s, "SELECT count(*) FROM tokenalert.policy_changes"), "a version was given twice")
}

// After a down and an up what a policy had gained is not gained once more: a user
// who stood below it then, and crosses it, is told.
func TestWhatWasGainedBeforeADownIsNotGainedAgain(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	user := c.user(100)
	c.use(user, 10)
	c.tick()
	owner := c.ownerStore()
	_, err := owner.ChangePolicy(t.Context(), store.PolicyOf{Organization: &c.org}, store.PolicyChange{Thresholds: new([]int32{50})}, false)
	require.NoError(t, err)
	c.settle()
	owner.Close()
	c.store.Close()
	c.down()
	c.up()
	c.store = c.runtime()
	c.count(store.First)
	c.use(user, 75)
	c.tick()
	require.Len(t, c.seen, 1)
	assert.Empty(t, c.seen[0].Added)
}

// Of two changes at once, the second keeps what the first has set.
func TestTwoChangesAtOnce(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS)
	of := store.PolicyOf{Organization: &s.org}
	changes := []store.PolicyChange{{Thresholds: new([]int32{50})}, {Language: new(new("en"))}, {AdminsFrom: new(new(int32(90)))}}
	var group sync.WaitGroup
	for _, change := range changes {
		st := s.ownerStore()
		group.Go(func() {
			_, err := st.ChangePolicy(t.Context(), of, change, false)
			assert.NoError(t, err)
		})
	}
	group.Wait()
	list, err := s.ownerStore().Policies(t.Context())
	require.NoError(t, err)
	require.Len(t, list, 1)
	assert.Equal(t, []int32{50}, list[0].Thresholds)
	assert.Equal(t, "en", *list[0].Language)
	assert.EqualValues(t, 90, *list[0].AdminsFrom)
}
