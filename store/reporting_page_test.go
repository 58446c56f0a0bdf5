package store_test

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
)

const reportingPage = "../docs/reporting.md"

// pageQueries are the page's queries by the heading that each stands under.
func pageQueries(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile(reportingPage)
	require.NoError(t, err)
	queries := map[string]string{}
	for _, section := range regexp.MustCompile(`(?m)^##+ `).Split(string(text), -1)[1:] {
		heading, rest, _ := strings.Cut(section, "\n")
		_, block, found := strings.Cut(rest, "```sql\n")
		if !found {
			continue
		}
		sql, rest, found := strings.Cut(block, "\n```")
		require.True(t, found, heading)
		require.NotContains(t, rest, "```sql", "a second query under %s", heading)
		queries[heading] = sql
	}
	return queries
}

// A question is one that the page answers, and what plain SQL over the rows says
// to it, with the same parameters.
type question struct {
	args  []any
	plain string
}

// usedPlainly sums each user's period (UTC, reset days that each month has).
const usedPlainly = `WITH begun AS (
	SELECT id, organization_id AS org, nullif(monthly_token_limit, 0)::bigint AS lim, (
		SELECT max(d) AT TIME ZONE 'UTC' FROM (
			SELECT date_trunc('month', now() AT TIME ZONE 'UTC') - m * interval '1 month' + (token_limit_reset_day - 1) * interval '1 day' AS d
			FROM generate_series(0, 1) AS m) candidates
		WHERE d <= now() AT TIME ZONE 'UTC') AS since FROM users
), used AS (
	SELECT *, (since AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC' AS ends,
	       (SELECT coalesce(sum(tokens_used), 0) FROM ai_usage_logs l WHERE l.user_id = begun.id AND l.created_at >= since)::bigint AS tokens FROM begun
)`

// toldPlainly is our rows of token_limit_alerts.
const toldPlainly = `WITH alerts AS (
	SELECT *, CASE WHEN tokens_used IS NOT NULL THEN trunc(tokens_used * 100 / token_limit, 1) END AS percent,
	       CASE WHEN alert_sent THEN sent_at END AS at, CASE WHEN alert_sent THEN alert_type::text END AS how, coalesce(alert_sent, false) AS told
	FROM token_limit_alerts
)`

// TestReportingPage runs every query of docs/reporting.md as a role that was
// granted what reads the views, and asks the rows the same. With -update it
// measures them and writes what they cost.
func TestReportingPage(t *testing.T) {
	t.Parallel()
	queries := pageQueries(t)
	s := newSite(t, host.CMSWithTrigger)
	far := s.user(1000) // whom the host told before
	s.exec(`INSERT INTO token_limit_alerts (user_id, organization_id, alert_threshold, alert_sent, alert_type, created_at, sent_at)
		VALUES ($1, $2, 80, true, 'both', now() - interval '90 days', now() - interval '60 days'), ($1, $2, 90, NULL, 'email', NULL, NULL)`, far, s.org)
	s.up()
	user, unlimited, over, other := s.user(1000), s.user(0), s.user(500), s.user(100)
	s.user(700) // has used nothing
	exactly, nearly := s.user(300), s.user(10007)
	for id, day := range map[uuid.UUID]int{user: 28, unlimited: 1, over: 15, other: 7} {
		s.exec("UPDATE users SET token_limit_reset_day = $2 WHERE id = $1", id, day)
	}
	s.exec("UPDATE users SET token_limit_reset_day = coalesce(token_limit_reset_day, 1)")
	another, err := host.NewOrganization(t.Context(), s.owner, "Another")
	require.NoError(t, err)
	s.exec("UPDATE users SET organization_id = $2 WHERE id = $1", other, another)
	for _, id := range []uuid.UUID{far, user, unlimited, over, other} {
		s.exec(`INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used, created_at)
			SELECT id, organization_id, 7, now() - n * interval '1 day' FROM users, generate_series(0, 70) AS n WHERE id = $1`, id)
	}
	s.use(far, 850)
	s.work() // far is told 80, or 90 as well; the others stand below
	s.use(user, 740)
	s.use(over, 480)
	s.use(other, 200)
	s.use(exactly, 300)
	s.use(nearly, 10003) // 99.96 %
	s.work()
	// As of a month that is over: a crossing that nobody was told.
	s.exec(`UPDATE token_limit_alerts SET alert_sent = false, reason = 'period_closed', sent_at = NULL, notification_id = NULL
		WHERE user_id = $1 AND alert_threshold = 100`, other)

	// A budget of the other organization, all but reached, and of which a user used who is gone.
	s.exec("UPDATE users SET role = 'admin' WHERE id = $1", other)
	s.exec("INSERT INTO tokenalert.policies (organization_id, budget, budget_time_zone) VALUES ($1, 1000, 'UTC')", another)
	s.exec(`INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used) VALUES ($1, $2, 400)`, user, another)
	s.work()
	_, err = s.runtime().BeginBudgets(t.Context())
	require.NoError(t, err)
	s.work()
	s.exec(`INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used) VALUES ($1, $2, 333)`, user, another)
	s.work()

	month := ask[time.Time](s, "SELECT date_trunc('month', now())")
	questions := map[string]question{
		"One user's usage": {
			[]any{user},
			"SELECT tokens, lim, trunc(tokens * 100::numeric / lim, 1), ends FROM used WHERE id = $1",
		},
		"An organization's users nearest to their limit": {
			[]any{s.org},
			"SELECT id, tokens, lim, trunc(tokens * 100::numeric / lim, 1) AS percent, ends FROM used WHERE org = $1 AND lim > 0 ORDER BY tokens::numeric / lim DESC, id LIMIT 20",
		},
		"An organization's total": {
			[]any{s.org},
			"SELECT count(*), sum(tokens), count(*) FILTER (WHERE tokens >= lim) FROM used WHERE org = $1",
		},
		"A user's alerts": {
			[]any{far},
			"SELECT created_at, alert_threshold, percent, token_limit, told, at, how, reason FROM alerts WHERE user_id = $1 ORDER BY 1 DESC NULLS LAST, 2 DESC",
		},
		"An organization's newest alerts": {
			[]any{s.org},
			"SELECT created_at, user_id, alert_threshold, percent, told, how, reason FROM alerts WHERE organization_id = $1 AND created_at IS NOT NULL ORDER BY 1 DESC, 2, 3 DESC LIMIT 50",
		},
		"The newest alerts of all": {
			nil,
			"SELECT created_at, organization_id, user_id, alert_threshold, told, reason FROM alerts WHERE created_at IS NOT NULL ORDER BY 1 DESC, 3, 4 DESC LIMIT 50",
		},
		"A month's alerts": {
			[]any{month},
			`SELECT alert_threshold, count(*), count(*) FILTER (WHERE told), count(*) FILTER (WHERE reason = 'period_closed')
			 FROM alerts WHERE date_trunc('month', created_at) = $1 GROUP BY 1 ORDER BY 1`,
		},
		"Who was not told, and why": {
			[]any{month},
			`SELECT created_at, organization_id, user_id, alert_threshold, percent, reason
			 FROM alerts WHERE date_trunc('month', created_at) = $1 AND reason = 'period_closed' ORDER BY 1, 3, 4`,
		},
	}
	maps.Copy(questions, map[string]question{
		"An organization's budget": {
			[]any{another},
			`SELECT sum(tokens_used), 1000, trunc(sum(tokens_used) / 10.0, 1), date_trunc('month', now()) + interval '1 month', true
			 FROM ai_usage_logs WHERE organization_id = $1 AND created_at >= date_trunc('month', now())`,
		},
		"Who has used most of a budget": {
			[]any{another},
			`SELECT user_id, sum(tokens_used) FROM ai_usage_logs WHERE organization_id = $1 AND created_at >= date_trunc('month', now())
			 GROUP BY 1 ORDER BY 2 DESC, 1`,
		},
		"A budget's alerts": {
			[]any{another},
			`SELECT created_at, alert_threshold, percent_used::numeric(6, 1), 1000, alert_sent, admins_told, reason
			 FROM tokenalert.budget_alerts WHERE organization_id = $1 ORDER BY 1 DESC, 2 DESC`,
		},
	})
	const check, replacement = "Is a user below the limit for so many more tokens", "In place of the host's own sums"
	assert.ElementsMatch(t, slices.Collect(maps.Keys(queries)), append(slices.Collect(maps.Keys(questions)), check, replacement))

	reader := s.db.ConnAs(t, s.reader())
	for heading, q := range questions {
		want := answer(t, s.owner, usedPlainly+", "+strings.TrimPrefix(toldPlainly, "WITH ")+" "+q.plain, q.args...)
		require.NotEmpty(t, want, heading)
		assert.Equal(t, want, answer(t, reader, queries[heading], q.args...), heading)
	}

	// The check, for users of each kind around their limit, as a query and as the
	// function: as the rows say, and, where the host has the period right, as its own.
	s.exec("SET TIME ZONE 'UTC'")
	users := []uuid.UUID{far, user, unlimited, over, other, uuid.New()}
	ask1 := func(conn *pgx.Conn, sql string, args ...any) string {
		t.Helper()
		return strings.Join(answer(t, conn, sql, args...), "")
	}
	var allowed []string
	for _, id := range users {
		left := ask[int64](s, usedPlainly+" SELECT coalesce((SELECT lim - tokens FROM used WHERE id = $1), 0)", id)
		for _, more := range []int64{0, left - 1, left, left + 1} {
			want := ask1(s.owner, usedPlainly+" SELECT coalesce((SELECT tokens + $2::bigint <= lim FROM used WHERE id = $1), true)", id, more)
			assert.Equal(t, want, ask1(reader, queries[check], id, more), "user %s, %d more, %d left", id, more, left)
			if id == far || id == unlimited || id == users[5] { // the first of the month
				assert.Equal(t, want, ask1(s.owner, "SELECT check_token_limit($1, $2::integer)", id, more), "the host's own")
			}
			allowed = append(allowed, fmt.Sprint(id, more, want))
		}
	}
	s.exec(queries[replacement])
	for i, id := range users {
		left := ask[int64](s, usedPlainly+" SELECT coalesce((SELECT lim - tokens FROM used WHERE id = $1), 0)", id)
		for j, more := range []int64{0, left - 1, left, left + 1} {
			assert.Equal(t, allowed[4*i+j], fmt.Sprint(id, more, ask1(reader, "SELECT public.check_token_limit($1, $2::integer)", id, more)))
		}
	}

	text, err := os.ReadFile(reportingPage)
	require.NoError(t, err)
	for _, reason := range s.list(`SELECT (regexp_matches(pg_get_constraintdef(oid), '''([a-z_]+)''', 'g'))[1] FROM pg_constraint WHERE conname = 'token_limit_alerts_reason_check'`) {
		assert.Contains(t, string(text), "| `"+reason+"` |")
	}
	if *update {
		writeCosts(t, queries)
	}
}

// answer returns the rows of a query, each as PostgreSQL writes a row.
func answer(t *testing.T, conn *pgx.Conn, sql string, args ...any) []string {
	t.Helper()
	rows, err := conn.Query(t.Context(), "SELECT q::text FROM ("+sql+") q", args...)
	require.NoError(t, err, sql)
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err, sql)
	return lines
}
