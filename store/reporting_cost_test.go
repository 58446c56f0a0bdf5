package store_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/page"
)

// A price is the median of what a statement takes.
type price struct {
	ms    float64 // planning and execution
	pages float64 // read, from memory or not
}

// measured is how often; so many runs before, of which PostgreSQL plans the first
// five anew each, are not counted.
const measured, before = 15, 8

// priceOf prepares a query, with its parameters' types, and runs it.
func priceOf(t *testing.T, conn *pgx.Conn, sql, types string, args ...string) price {
	t.Helper()
	simple := func(sql string) { // beside pgx's own prepared statements
		_, err := conn.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol)
		require.NoError(t, err, sql)
	}
	execute := "EXECUTE priced"
	if types != "" {
		types = "(" + types + ")"
		execute += "('" + strings.Join(args, "', '") + "')"
	}
	simple("PREPARE priced" + types + " AS " + sql)
	defer simple("DEALLOCATE priced")
	var times, pages []float64
	for run := range before + measured {
		var text string
		err := conn.QueryRow(t.Context(), "EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) "+execute, pgx.QueryExecModeSimpleProtocol).Scan(&text)
		require.NoError(t, err, sql)
		var explained []struct {
			Plan struct {
				Hit  float64 `json:"Shared Hit Blocks"`
				Read float64 `json:"Shared Read Blocks"`
			}
			Planning  float64 `json:"Planning Time"`
			Execution float64 `json:"Execution Time"`
		}
		require.NoError(t, json.Unmarshal([]byte(text), &explained))
		if e := explained[0]; run >= before {
			times, pages = append(times, e.Planning+e.Execution), append(pages, e.Plan.Hit+e.Plan.Read)
		}
	}
	return price{middle(times), middle(pages)}
}

func middle(of []float64) float64 {
	slices.Sort(of)
	return of[len(of)/2]
}

// times says what it costs of what another does, and then both.
func (p price) times(other price) string {
	return fmt.Sprintf("**%s** of the time, **%s** of the pages (%.2f of %.2f ms, %.0f of %.0f)",
		ratio(p.ms, other.ms), ratio(p.pages, other.pages), p.ms, other.ms, p.pages, other.pages)
}

func ratio(a, b float64) string {
	if a*2 <= b {
		return fmt.Sprintf("1/%.0f", b/a)
	}
	if a >= 10*b {
		return fmt.Sprintf("%.0f×", a/b)
	}
	return fmt.Sprintf("%.2f×", a/b)
}

const serverAndDay = "SELECT format('PostgreSQL %s, %s', split_part(current_setting('server_version'), ' ', 1), current_date)"

// writeCosts measures the page's queries beside what they replace, and writes it
// into the page.
func writeCosts(t *testing.T, queries map[string]string) {
	t.Helper()
	require.NoError(t, page.Replace(reportingPage, "costs of usage", costsOfUsage(t, queries)))
	require.NoError(t, page.Replace(reportingPage, "costs of alerts", costsOfAlerts(t, queries)))
}

// inTheHost are the ways of the host that sum a month: of a user as its function
// does, of an organization by its view or as that function would.
var inTheHost = []struct{ heading, types, replaced, replaces string }{
	{
		"One user's usage", "uuid", "the sum of the user's month",
		"SELECT sum(tokens_used) FROM ai_usage_logs WHERE user_id = $1 AND created_at >= date_trunc('month', now())",
	},
	{
		"Is a user below the limit for so many more tokens", "uuid, integer", "`check_token_limit`",
		"SELECT check_token_limit($1, $2)",
	},
	{
		"An organization's users nearest to their limit", "uuid", "the sums of its users' months",
		`SELECT u.id, sum(l.tokens_used), u.monthly_token_limit FROM users u
		 JOIN ai_usage_logs l ON l.user_id = u.id AND l.created_at >= date_trunc('month', now())
		 WHERE u.organization_id = $1 AND u.monthly_token_limit > 0 GROUP BY u.id
		 ORDER BY sum(l.tokens_used) * 100.0 / u.monthly_token_limit DESC LIMIT 20`,
	},
	{
		"An organization's total", "uuid", "`ai_usage_monthly`",
		"SELECT sum(tokens_used) FROM ai_usage_monthly WHERE organization_id = $1 AND month = date_trunc('month', now())",
	},
}

func costsOfUsage(t *testing.T, queries map[string]string) string {
	t.Helper()
	histories := []int{100, 10_000, 100_000}
	cells := map[string][]string{}
	var version string
	for _, rows := range histories {
		s := migratedSite(t, host.CMS)
		heavy := s.user(1_000_000_000)
		for range 49 {
			s.user(1_000_000)
		}
		// In the order of time, as the host writes, and all in this month. What
		// is asked and answered takes 400 bytes.
		s.exec(`INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used, created_at, prompt, response)
			SELECT id, organization_id, 7, date_trunc('month', now()) + n * (now() - date_trunc('month', now())) / $2, repeat('p', 200), repeat('r', 200)
			FROM users, LATERAL generate_series(1, CASE WHEN id = $1 THEN $2 ELSE 100 END) AS n ORDER BY 4`, heavy, rows)
		s.work()
		s.requireTotals()
		// Beside 20,000 users of other organizations, with totals of three months.
		s.exec("INSERT INTO organizations (name) SELECT 'Example ' || n FROM generate_series(1, 400) AS n")
		s.exec(`INSERT INTO users (organization_id, email, password_hash, full_name)
			SELECT o.id, n || '@example.org', 'none', 'Ada Example' FROM organizations o, generate_series(1, 50) AS n WHERE o.id <> $1`, s.org)
		s.exec(`INSERT INTO tokenalert.usage_periods (user_id, period_start, period_end, tokens_used, tick_id)
			SELECT id, month, month + interval '1 month', 700, 1 FROM users,
				LATERAL (SELECT date_trunc('month', now()) - n * interval '1 month' AS month FROM generate_series(0, 2) AS n) AS months
			WHERE organization_id <> $1`, s.org)
		s.superExec("VACUUM ANALYZE")
		reader := s.db.ConnAs(t, s.reader())
		for _, q := range inTheHost {
			args := []string{heavy.String()}
			if strings.HasPrefix(q.heading, "An organization") {
				args[0] = s.org.String()
			}
			if strings.Contains(q.types, "integer") {
				args = append(args, "500")
			}
			ours, theirs := priceOf(t, reader, queries[q.heading], q.types, args...), priceOf(t, s.owner, q.replaces, q.types, args...)
			cells[q.heading] = append(cells[q.heading], ours.times(theirs))
		}
		version = ask[string](s, serverAndDay)
	}
	var table strings.Builder
	fmt.Fprintf(&table, "\n| %s | in place of | 100 rows in the month | 10,000 rows | 100,000 rows |\n|---|---|---|---|---|\n", version)
	for _, q := range inTheHost {
		fmt.Fprintf(&table, "| %s | %s | %s |\n", q.heading, q.replaced, strings.Join(cells[q.heading], " | "))
	}
	return table.String() + "\n"
}

func costsOfAlerts(t *testing.T, queries map[string]string) string {
	t.Helper()
	s := migratedSite(t, host.CMS)
	s.exec("INSERT INTO organizations (name) SELECT 'Example ' || n FROM generate_series(2, 50) AS n")
	s.exec(`INSERT INTO users (organization_id, email, password_hash, full_name, monthly_token_limit)
		SELECT o.id, o.id::text || n || '@example.org', 'none', 'Ada Example', 100 FROM organizations o, generate_series(1, 40) AS n`)
	const alerts = `INSERT INTO token_limit_alerts (user_id, organization_id, alert_threshold, alert_sent, alert_type, created_at, sent_at,
			period_start, period_end, token_limit, tokens_used, percent_used, reason, notification_id, tick_id)
		SELECT u.id, organization_id, 80, n % 3 <> 0, 'notification', at, CASE WHEN n % 3 <> 0 THEN at END,
		       month, month + interval '1 month', 100, 90, 90, CASE n % 3 WHEN 0 THEN CASE n % 9 WHEN 0 THEN 'period_closed' ELSE 'superseded' END END, gen_random_uuid(), 1
		FROM users u, generate_series(1, 50) AS n, LATERAL (SELECT date_trunc('month', now()) - (n % 36 + $1::integer) * interval '1 month' AS month) AS m,
		     LATERAL (SELECT month + (('x' || left(md5(u.id::text || n), 6))::bit(24)::integer % 2500000) * interval '1 second' AS at) AS a
		ORDER BY at LIMIT $2::integer`
	s.exec("ALTER TABLE token_limit_alerts DROP CONSTRAINT token_limit_alerts_told_once") // 36 months of so few users
	s.exec("CREATE INDEX token_limit_alerts_told_once ON token_limit_alerts (user_id, period_start, alert_threshold, token_limit)")
	s.exec(alerts, 0, 100_000)
	s.exec("VACUUM ANALYZE")
	require.Equal(t, 100_000, ask[int](s, "SELECT count(*) FROM token_limit_alerts"))
	month := ask[string](s, "SELECT (date_trunc('month', now()) - interval '2 months')::text")
	user := ask[uuid.UUID](s, "SELECT id FROM users LIMIT 1")
	reader := s.db.ConnAs(t, s.reader())

	asked := []struct{ heading, types, arg string }{
		{"A user's alerts", "uuid", user.String()},
		{"An organization's newest alerts", "uuid", s.org.String()},
		{"The newest alerts of all", "", ""},
		{"A month's alerts", "timestamptz", month},
		{"Who was not told, and why", "timestamptz", month},
	}
	with, without := make([]price, len(asked)), make([]price, len(asked))
	for i, q := range asked {
		with[i] = priceOf(t, reader, queries[q.heading], q.types, q.arg)
	}
	written := writing(t, s, alerts, 40, 10_000)
	s.exec("DROP INDEX token_limit_alerts_created_at_idx")
	for i, q := range asked {
		without[i] = priceOf(t, reader, queries[q.heading], q.types, q.arg)
	}
	bare := writing(t, s, alerts, 40, 10_000)

	var table strings.Builder
	fmt.Fprintf(&table, "\n| %s | ms | pages | without the index |\n|---|---:|---:|---|\n",
		ask[string](s, serverAndDay))
	for i, q := range asked {
		fmt.Fprintf(&table, "| %s | %.2f | %.0f | %s time, %s pages |\n", q.heading, with[i].ms, with[i].pages, ratio(without[i].ms, with[i].ms), ratio(without[i].pages, with[i].pages))
	}
	fmt.Fprintf(&table, "\nTo write an alert takes %s of the time without that index, and %s of the log: %.1f of %.1f µs, %.0f of %.0f bytes.\n\n",
		ratio(written.us, bare.us), ratio(written.wal, bare.wal), written.us, bare.us, written.wal, bare.wal)
	return table.String()
}

// written is what a row takes to be written.
type written struct{ us, wal float64 }

// writing runs an INSERT of 10,000 rows, again and again, and takes it back.
func writing(t *testing.T, s *site, insert string, args ...any) written {
	t.Helper()
	var times, logs []float64
	for range measured {
		var text string
		s.exec("BEGIN")
		require.NoError(t, s.owner.QueryRow(t.Context(), "EXPLAIN (ANALYZE, WAL, TIMING OFF, FORMAT JSON) "+insert, append([]any{pgx.QueryExecModeSimpleProtocol}, args...)...).Scan(&text))
		s.exec("ROLLBACK")
		s.exec("VACUUM token_limit_alerts")
		var explained []struct {
			Plan struct {
				WAL float64 `json:"WAL Bytes"`
			}
			Execution float64 `json:"Execution Time"`
		}
		require.NoError(t, json.Unmarshal([]byte(text), &explained))
		times, logs = append(times, explained[0].Execution/10), append(logs, explained[0].Plan.WAL/10_000)
	}
	return written{middle(times), middle(logs)}
}
