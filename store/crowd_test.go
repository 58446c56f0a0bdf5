package store_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/store"
)

// crowd makes users with a limit of 100, of whom ticks know.
func (c *counter) crowd(n int) []uuid.UUID {
	c.t.Helper()
	users := make([]uuid.UUID, n)
	for i := range users {
		users[i] = c.user(100)
	}
	c.settle()
	return users
}

// useAll logs usage of all users in one transaction.
func (c *counter) useAll(users []uuid.UUID, tokens int, at time.Time) {
	c.t.Helper()
	c.exec(`INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used, created_at)
		SELECT u, $2, $3, $4 FROM unnest($1::uuid[]) AS u`, users, c.org, tokens, at)
}

// One transaction takes more users over a threshold than one tick tells: all
// are counted at once, and told by as many ticks as it takes. Whoever crosses
// meanwhile does not wait for them.
func TestACrowdThatCrossesAtOnceIsToldByTickAfterTick(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	users, later := c.crowd(45), c.user(100)
	c.settle()
	c.decisions = 3 // and so 30 candidates: 15 are not even looked at
	c.useAll(users, 90, c.now())
	result := c.tick()
	assert.Len(t, result.Outcomes, 3)
	assert.EqualValues(t, 42, result.Left)
	assert.True(t, result.More())
	assert.Equal(t, 42, c.pending())
	assert.Len(t, c.seen, 30)
	for _, user := range users {
		assert.EqualValues(t, 90, c.total(user))
	}

	c.use(later, 90)
	result = c.tick()
	assert.Len(t, result.Outcomes, 3)
	assert.True(t, slices.ContainsFunc(result.Outcomes, func(o store.Outcome) bool { return o.UserID == later }), "waits for the crowd")

	ticks := c.settle()
	assert.GreaterOrEqual(t, ticks, 13)
	for _, user := range append(users, later) {
		assert.Equal(t, []string{"80 told"}, c.alerts(user))
		assert.Equal(t, 1, c.notified(user))
	}
	assert.Zero(t, c.pending())
	c.requireTotals()
}

// A full count leaves nobody: what it decides depends on its kind.
// Whoever holds a mark is a candidate, of whom there may be as many as users.
func TestAFullCountKeepsOnlyThoseOnWhomThereIsSomethingToDecide(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	marked, crossing := c.user(100), c.user(100)
	c.use(marked, 85)
	c.tick()
	c.use(crossing, 85)
	q := c.request(store.Full)
	q.Changes = func(_ time.Time, of *store.Candidate) bool { return len(of.Marks) == 0 }
	_, err := c.try(c.store, q)
	require.NoError(t, err)
	require.Len(t, c.seen, 1)
	assert.Equal(t, crossing, c.seen[0].UserID)
	assert.Equal(t, 1, ask[int](c.site, "SELECT count(*) FROM token_limit_alerts WHERE user_id = $1", crossing))
}

func TestAFullCountTellsACrowdAtOnce(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	users := c.crowd(5)
	c.decisions = 1
	c.useAll(users, 90, c.now())
	result := c.count(store.Full)
	assert.Len(t, result.Outcomes, 5)
	assert.Zero(t, result.Left)
	assert.Zero(t, c.settle())
}

// Who is left to decide is decided in the period that was counted, and not
// counted anew: the rows of a period that has ended may be gone.
func TestACrowdOfAClosedPeriodIsDecidedInIt(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	c.db.SetNow(t, time.Date(c.now().Year()+1, time.May, 20, 0, 0, 0, 0, time.UTC))
	c.calendar()
	users := c.crowd(14)
	c.decisions = 1
	april := time.Date(c.now().Year()+1, time.April, 20, 0, 0, 0, 0, time.UTC)
	c.useAll(users, 90, april)
	assert.EqualValues(t, 13, c.tick().Left)
	c.exec("UPDATE tokenalert.usage_periods SET tokens_used = 95")
	c.settle()
	for _, user := range users {
		assert.Equal(t, []string{"80 period_closed"}, c.alerts(user))
		ninetyFive := int64(95)
		assert.Equal(t, &ninetyFive, c.totalAt(user, april))
	}
}

// While they wait some are deleted, and some have their usage taken back.
func TestACrowdThatChangesWhileItWaits(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	users := c.crowd(24)
	c.decisions = 2
	c.useAll(users, 90, c.now())
	c.tick()
	gone, corrected, stay := users[:8], users[8:16], users[16:]
	c.exec("DELETE FROM users WHERE id = ANY ($1)", gone)
	c.exec("UPDATE ai_usage_logs SET tokens_used = 10 WHERE user_id = ANY ($1)", corrected)
	c.settle()
	told := 0
	for _, user := range corrected {
		told += len(c.alerts(user)) // by the first tick
	}
	assert.LessOrEqual(t, told, 2)
	for _, user := range stay {
		assert.Equal(t, []string{"80 told"}, c.alerts(user))
	}
	assert.Zero(t, c.pending())
	c.requireTotals()
}

// Poison in a crowd costs itself an alert, and nobody else, wherever it stands.
func TestPoisonInACrowdIsFound(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	users := c.crowd(40)
	poison := []uuid.UUID{users[0], users[1], users[17], users[39]}
	c.exec(fmt.Sprintf(`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			IF NEW.user_id = ANY ('{%s,%s,%s,%s}') THEN RAISE EXCEPTION 'not this one'; END IF;
			RETURN NEW;
		END $$`, poison[0], poison[1], poison[2], poison[3]))
	c.exec("CREATE TRIGGER refuse BEFORE INSERT ON notifications FOR EACH ROW EXECUTE FUNCTION refuse()")
	c.useAll(users, 90, c.now())
	q := c.request(store.Window)
	q.Isolated = true
	result, err := c.try(c.store, q)
	require.NoError(t, err)
	var aside []uuid.UUID
	for _, s := range result.SetAside {
		aside = append(aside, s.UserID)
	}
	assert.ElementsMatch(t, poison, aside)
	assert.Len(t, result.Outcomes, 36)
	assert.Empty(t, result.Held)
	for _, user := range users {
		want := []string{"80 told"}
		if slices.Contains(poison, user) {
			want = nil
		}
		assert.ElementsMatch(t, want, c.alerts(user))
		assert.Equal(t, len(want), c.notified(user))
	}
	assert.Equal(t, 4, ask[int](c.site, "SELECT count(*) FROM tokenalert.recounts WHERE cause = 'set_aside'"))
	c.requireTotals()
}
