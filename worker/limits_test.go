package worker_test

import (
	"fmt"
	"math"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
)

// limit changes a user's limit, nil to NULL, and waits for what follows.
func (w *world) limit(user uuid.UUID, limit *int) {
	w.t.Helper()
	w.ownerExec("UPDATE users SET monthly_token_limit = $2 WHERE id = $1", user, limit)
	w.settle()
}

// suppressed lists what a user was not told, as the log says it, in its order.
func (r *replica) suppressed(user uuid.UUID) []string {
	var said []string
	for _, line := range r.logs.FilterMessage("threshold crossed, user not told").All() {
		if fields := line.ContextMap(); fields["user"] == user.String() {
			said = append(said, fmt.Sprint(fields["threshold"], " of ", fields["limit"], " ", fields["reason"]))
		}
	}
	return said
}

func TestALimitThatMoves(t *testing.T) {
	t.Parallel()
	type step struct {
		limit int // 0: as it is
		use   int
		told  []int // afterwards, in the order of limits
	}
	tests := []struct {
		name  string
		start int
		steps []step
	}{
		{"lowered below the usage", 10_000, []step{{use: 850}, {limit: 1000, told: []int{80}}, {limit: 900, told: []int{90, 80}}, {limit: 850, told: []int{100, 90, 80}}}},
		{"lowered by a hair", 1000, []step{{use: 850, told: []int{80}}, {limit: 999, told: []int{80}}, {limit: 950, told: []int{80}}}},
		{"raised by a hair", 1000, []step{{use: 800, told: []int{80}}, {limit: 1001, told: []int{80}}, {use: 1, told: []int{80}}, {limit: 1002, told: []int{80}}, {limit: 1000, told: []int{80}}}},
		{"raised by one point", 1000, []step{{use: 800, told: []int{80}}, {limit: 1013, told: []int{80}}, {use: 11, told: []int{80, 80}}}},
		{"raised, and reached anew", 1000, []step{{use: 1000, told: []int{100}}, {limit: 2000, told: []int{100}}, {use: 600, told: []int{100, 80}}, {use: 400, told: []int{100, 80, 100}}}},
		{"flipped back and forth", 1000, []step{{use: 900, told: []int{90}}, {limit: 2000, told: []int{90}}, {limit: 1000, told: []int{90}}, {limit: 2000, told: []int{90}}, {limit: 1000, told: []int{90}}, {use: 100, told: []int{90, 100}}}},
	}
	w := newWorld(t)
	w.start()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			user := w.user(tt.start)
			for i, s := range tt.steps {
				if s.limit != 0 {
					w.limit(user, &s.limit)
				}
				if s.use != 0 {
					w.use(user, s.use)
					w.settle()
				}
				assert.Equal(t, append([]int{}, s.told...), w.told(user), "after step %d, %+v", i+1, s)
			}
			assert.Len(t, w.notifications(user), len(w.told(user)))
		})
	}
	w.assertTotals()
}

func TestTheSameLimitIsNeverToldTwice(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	user := w.user(1000)
	r := w.start()
	w.use(user, 600)
	w.use(user, 300)
	w.settle()
	require.Equal(t, []int{90}, w.told(user))
	before := w.alerts(user)

	w.limit(user, new(2000))
	w.limit(user, new(1000))
	w.eventually(func() bool { return len(r.suppressed(user)) >= 3 }, "already_told is not said")
	// 80 was superseded under this limit; that row stands as well.
	assert.Equal(t, []string{"80 of 1000 superseded", "90 of 1000 already_told", "80 of 1000 already_told"}, r.suppressed(user))

	// Corrected down, and up again.
	w.ownerExec("UPDATE ai_usage_logs SET tokens_used = 100 WHERE tokens_used = 300")
	w.settle()
	assert.EqualValues(t, 700, w.total(user))
	w.use(user, 200)
	w.settle()
	w.eventually(func() bool { return len(r.suppressed(user)) >= 5 }, "already_told is not said")
	assert.Equal(t, before, w.alerts(user))
	assert.Len(t, w.notifications(user), 1)
	w.assertTotals()
}

func TestWithoutALimitNobodyIsTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	users := map[string]uuid.UUID{"NULL": w.newUser(host.User{}), "0": w.user(0), "-1": w.user(-1), "lowest": w.user(math.MinInt32)}
	w.start()
	for _, user := range users {
		w.use(user, math.MaxInt32)
		w.use(user, math.MaxInt32)
	}
	w.settle()
	for name, user := range users {
		assert.Empty(t, w.alerts(user), name)
		assert.EqualValues(t, 2*math.MaxInt32, w.total(user), name)
	}
	for name, user := range users {
		w.limit(user, new(math.MaxInt32))
		assert.Equal(t, []int{100}, w.told(user), name)
		assert.InDelta(t, 200, w.alerts(user)[2].Percent, 0, name)
	}
	// Taken away and given back.
	for name, user := range users {
		for _, limit := range []*int{nil, new(0), new(-1)} {
			w.limit(user, limit)
			w.limit(user, new(math.MaxInt32))
		}
		w.assertToldOnce(user, 80, 90, 100)
		assert.Len(t, w.notifications(user), 1, name)
	}
	w.assertTotals()
}

// One transaction may change the limit and use tokens, in either order.
func TestALimitChangedWithTheUsage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	raised, lowered := w.user(1000), w.user(10_000)
	w.start()
	require.NoError(t, pgx.BeginFunc(t.Context(), w.owner, func(tx pgx.Tx) error {
		w.insert(tx, raised, 850, nil)
		_, err := tx.Exec(t.Context(), `UPDATE users SET monthly_token_limit = CASE id WHEN $1 THEN 10000 ELSE 1000 END WHERE id IN ($1, $2)`, raised, lowered)
		w.insert(tx, lowered, 850, nil)
		return err
	}))
	w.settle()
	assert.Empty(t, w.alerts(raised))
	w.assertToldOnce(lowered, 80)
	assert.EqualValues(t, 1000, w.alerts(lowered)[0].TokenLimit)
}

func TestAUserWhoChangesTheOrganizationIsNotToldAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	user := w.user(1000)
	r := w.start()
	w.use(user, 850)
	w.settle()
	other, err := host.NewOrganization(t.Context(), w.owner, "Other")
	require.NoError(t, err)
	w.ownerExec("UPDATE users SET organization_id = $2 WHERE id = $1", user, other)
	w.settle()
	w.assertToldOnce(user, 80)
	w.use(user, 100)
	w.settle()
	assert.Equal(t, []int{80, 90}, w.told(user))
	var organizations []uuid.UUID
	require.NoError(t, w.owner.QueryRow(t.Context(), `SELECT array_agg(organization_id ORDER BY alert_threshold)
		FROM token_limit_alerts WHERE user_id = $1`, user).Scan(&organizations))
	assert.Equal(t, []uuid.UUID{w.org, other}, organizations)
	assert.Empty(t, r.suppressed(user))
}
