package main

import (
	"fmt"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
)

// onlyHighest leaves each user the alert of the highest threshold, and a notification.
const onlyHighest = `
	DELETE FROM token_limit_alerts a USING token_limit_alerts b WHERE b.user_id = a.user_id AND b.alert_threshold > a.alert_threshold;
	DELETE FROM notifications a USING notifications b WHERE b.user_id = a.user_id AND b.id > a.id`

// What is lost, doubled and early is found, whoever did it.
func TestAudit(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t, pgtest.Host(host.CMS)).ConnAs(t, pgtest.Owner)
	db := &database{control: conn}
	require.NoError(t, db.tellable(t.Context(), "totals", "outbox"))
	exec := func(sql string, args ...any) {
		t.Helper()
		_, err := conn.Exec(t.Context(), sql, args...)
		require.NoError(t, err)
	}
	check := func(want verdict, text string) {
		t.Helper()
		got, err := audit(t.Context(), conn, false)
		require.NoError(t, err)
		assert.Equal(t, want, got)
		assert.Equal(t, text, got.String())
	}
	org, err := host.NewOrganization(t.Context(), conn, "Example School")
	require.NoError(t, err)
	for _, tokens := range []int{79, 80, 95, 100, 250} {
		id, err := host.NewUser(t.Context(), conn, host.User{Organization: org, Limit: new(100)})
		require.NoError(t, err)
		require.NoError(t, host.LogUsage(t.Context(), conn, id, org, tokens))
	}
	check(verdict{Expected: 9, Lost: 9}, "9 lost, of 9")

	exec(takeBatch, 100)
	check(verdict{Expected: 9}, "right")
	for _, undone := range []struct {
		by      string
		highest bool
		text    string
	}{
		{"DELETE FROM notifications WHERE id = (SELECT id FROM notifications LIMIT 1)", false, "1 lost, of 9"},
		{"DELETE FROM token_limit_alerts WHERE ctid = (SELECT ctid FROM token_limit_alerts WHERE alert_threshold = 80 LIMIT 1)", false, "1 lost, 1 doubled, of 9"},
		{onlyHighest, false, "5 lost, of 9"},
		{onlyHighest, true, "right"},
		{onlyHighest + "; DELETE FROM token_limit_alerts WHERE alert_threshold = 80", true, "1 lost, 1 doubled, of 9"},
	} {
		exec("BEGIN")
		exec(undone.by)
		got, err := audit(t.Context(), conn, undone.highest)
		require.NoError(t, err)
		assert.Equal(t, undone.text, got.String(), undone.by)
		exec("ROLLBACK")
	}
	exec("INSERT INTO notifications (user_id, organization_id, title, message) SELECT user_id, organization_id, 'a', 'b' FROM token_limit_alerts LIMIT 2")
	check(verdict{Expected: 9, Doubled: 2}, "2 doubled, of 9")
	exec("UPDATE users SET monthly_token_limit = 10000 WHERE id = (SELECT user_id FROM ai_usage_logs WHERE tokens_used = 250)")
	check(verdict{Expected: 6, Doubled: 2, Early: 3}, "2 doubled, 3 early, of 6")
	exec("DELETE FROM token_limit_alerts WHERE user_id = (SELECT user_id FROM ai_usage_logs WHERE tokens_used = 80)")
	check(verdict{Expected: 6, Lost: 1, Doubled: 3, Early: 3}, "1 lost, 3 doubled, 3 early, of 6")
	assert.True(t, verdict{Unfinished: true}.add(verdict{}).Unfinished)
}

// A ratio is of two figures of the same round.
func TestFigures(t *testing.T) {
	t.Parallel()
	r := &results{}
	for round, rates := range [][2]float64{{1000, 900}, {500, 500}, {2000, 1000}} {
		r.Cost = append(r.Cost,
			costPlay{Round: round, Competitor: "none", Clients: 1, Rate: rates[0]},
			costPlay{Round: round, Competitor: "outbox", Clients: 1, Rate: rates[1]},
			costPlay{Round: round, Competitor: "outbox", Clients: 16, Rate: 1})
		r.CatchUp = append(r.CatchUp,
			catchUpPlay{Round: round, Competitor: "outbox", Rate: 10},
			catchUpPlay{Round: round, Competitor: "tokenalert", Rate: 10 * float64(round+1), PeakBytes: 3e6})
		r.Latency = append(r.Latency, latencyPlay{Round: round, Competitor: "outbox", Rate: 2, Milliseconds: []float64{float64(round), 9}, Unseen: 1})
	}
	f := r.costFigure(costKey{clients: 1}, "outbox")
	assert.Equal(t, spread{0.5, 0.9, 1}, f.ratio)
	assert.Equal(t, spread{500, 900, 1000}, f.rate)
	assert.Equal(t, spread{1, 1, 1}, r.costFigure(costKey{clients: 1}, "none").ratio)
	assert.Len(t, r.costKeys(), 2)

	c := r.catchUpFigure(backlog{}, "tokenalert")
	assert.Equal(t, spread{1, 2, 3}, c.ratio)
	assert.Equal(t, spread{3, 3, 3}, c.megabytes)
	assert.Equal(t, "–", c.longest.show(thousands), "it was not measured")

	assert.Equal(t, spread{0, 1, 2}, r.latencyFigure(2, "outbox", 0.5))
	rows, unseen := r.counted(2, "outbox")
	assert.Equal(t, 6, rows)
	assert.Equal(t, 3, unseen)
}

// A job of graphile-worker that runs again adds nothing, and one that has more
// rows by then adds those.
func TestJobsCountOnce(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t, pgtest.Host(host.CMS)).ConnAs(t, pgtest.Owner)
	require.NoError(t, (&database{control: conn}).tellable(t.Context(), "totals"))
	_, err := conn.Exec(t.Context(), "CREATE TABLE usage_counted (id uuid PRIMARY KEY)")
	require.NoError(t, err)
	org, err := host.NewOrganization(t.Context(), conn, "Example School")
	require.NoError(t, err)
	user, err := host.NewUser(t.Context(), conn, host.User{Organization: org, Limit: new(100)})
	require.NoError(t, err)
	row := func(tokens int) string {
		return fmt.Sprintf(`{"id": %q, "user_id": %q, "tokens": %d, "created_at": "2026-11-28T07:31:14.123456+00:00"}`, uuid.New(), user, tokens)
	}
	first := row(85)
	for _, run := range []struct {
		payload     string
		told, total int
	}{
		{"[" + first + "]", 1, 85},
		{"[" + first + "]", 0, 85},
		{"[" + first + ", " + row(3) + ", " + row(4) + "]", 1, 92},
	} {
		var told, total int
		require.NoError(t, conn.QueryRow(t.Context(), countJob, run.payload).Scan(&told))
		require.NoError(t, conn.QueryRow(t.Context(), "SELECT tokens_used FROM usage_totals").Scan(&total))
		assert.Equal(t, run.told, told)
		assert.Equal(t, run.total, total)
	}
}
