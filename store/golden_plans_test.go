package store_test

import (
	"flag"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/store"
)

var update = flag.Bool("update", false, "write the plans in testdata/plans")

// asSmall are the statements whose plan is another one where their tables were
// empty, or nearly so, as it was made, and why that may be.
var asSmall = map[string]string{
	"pollWindow":  "it runs without the tick's settings, so an empty table is read in full; autovacuum's first ANALYZE has it planned anew",
	"commitTimes": "as the poll",
	"writeDecisions": "an empty usage_periods may be read in full to set the marks of 250 users at most; " +
		"autovacuum's first ANALYZE has it planned anew",
	"writeBudgetDecisions": "as writeDecisions, of budget_periods",
}

// Nothing that a tick or a poll runs may have another plan because statistics
// are stale, or because a table has grown.
func TestPlansDoNotChange(t *testing.T) {
	t.Parallel()
	t.Run("begun empty", func(t *testing.T) { t.Parallel(); plansDoNotChange(t, 0) })
	// As after migrating: no row has a transaction id, so the index of these seems to
	// have nothing in it, and to cost nothing. So it is until a tenth of the table is new.
	t.Run("begun with rows from before", func(t *testing.T) { t.Parallel(); plansDoNotChange(t, 100) })
}

func plansDoNotChange(t *testing.T, before int) {
	t.Helper()
	c := newCounter(t, host.CMS)
	tables := []string{
		"users", "ai_usage_logs", "notifications", "token_limit_alerts",
		"tokenalert.ticks", "tokenalert.usage_periods", "tokenalert.recounts",
		"tokenalert.budgets", "tokenalert.budget_shares", "tokenalert.budget_periods", "tokenalert.budget_alerts",
	}
	for _, table := range tables {
		c.exec("ALTER TABLE " + table + " SET (autovacuum_enabled = off)") // it would gather what is to be stale
	}
	analyze := func() { c.exec("ANALYZE " + strings.Join(tables, ", ")) }
	for _, state := range []struct {
		name  string
		small bool
		enter func()
	}{
		{"small, statistics never gathered", true, func() {
			c.exec(`INSERT INTO users (organization_id, email, password_hash, full_name, monthly_token_limit)
				SELECT $1, n || '@example.com', 'none', 'Ada Example', 100 FROM generate_series(1, $2::integer) AS n`, c.org, before)
			c.exec(`INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used, created_at, xact_id)
				SELECT id, organization_id, 3, now() - n * interval '3 days', NULL FROM users, generate_series(0, 19) AS n`)
		}},
		{"small, statistics fresh", true, analyze},
		{"large, statistics those of small tables", false, func() { c.fill(1000, 20) }},
		{"large, statistics fresh", false, analyze},
	} {
		state.enter()
		plans, err := c.store.PlansOfATick(t.Context(), store.Window)
		require.NoError(t, err)
		for _, statement := range slices.Sorted(maps.Keys(plans)) {
			if state.small && asSmall[statement] != "" {
				continue
			}
			got := strings.Join(shape(parsePlan(t, plans[statement])), "\n") + "\n"
			file := filepath.Join("testdata", "plans", statement+".txt")
			if *update {
				require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
			}
			want, err := os.ReadFile(file)
			require.NoError(t, err)
			assert.Equal(t, string(want), got, "%s: %s: go test ./store -run TestPlansDoNotChange -update, where the new plan is as good", statement, state.name)
		}
	}
}

// fill writes rows of two months for each of so many users, who have totals of a
// year and have all been told, and a chain.
func (c *counter) fill(users, rows int) {
	c.t.Helper()
	c.exec(`INSERT INTO users (organization_id, email, password_hash, full_name, monthly_token_limit)
		SELECT $1, n || '@example.org', 'none', 'Ada Example', 100 FROM generate_series(1, $2::integer) AS n`, c.org, users)
	c.exec(`INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used, created_at)
		SELECT id, organization_id, 3, now() - n * interval '2 months' / $1 FROM users, generate_series(0, $1::integer - 1) AS n`, rows)
	c.exec(`INSERT INTO tokenalert.usage_periods (user_id, period_start, period_end, tokens_used, tick_id)
		SELECT id, date_trunc('month', now()) - n * interval '1 month', date_trunc('month', now()) - (n - 1) * interval '1 month', 90, 1
		FROM users, generate_series(0, 11) AS n`)
	c.exec(`INSERT INTO token_limit_alerts (user_id, organization_id, alert_threshold, alert_sent, alert_type, sent_at,
			period_start, period_end, token_limit, tokens_used, percent_used, notification_id, tick_id)
		SELECT user_id, $1, 80, true, 'notification', period_start, period_start, period_end, 100, 90, 90, gen_random_uuid(), 1
		FROM tokenalert.usage_periods WHERE period_end < now()`, c.org)
	c.exec(`INSERT INTO tokenalert.budget_shares (organization_id, period_start, user_id, tokens_used)
		SELECT $1, period_start, user_id, tokens_used FROM tokenalert.usage_periods`, c.org)
	c.exec(`INSERT INTO tokenalert.budget_periods (organization_id, period_start, period_end, tokens_used, tick_id)
		SELECT o, period_start, period_end, 90, 1
		FROM (SELECT $1::uuid AS o UNION ALL SELECT gen_random_uuid() FROM generate_series(1, $2)) organizations,
		     (SELECT DISTINCT period_start, period_end FROM tokenalert.usage_periods) periods`, c.org, users)
	c.exec(`INSERT INTO tokenalert.budget_alerts (id, organization_id, alert_threshold, alert_sent, created_at, period_start, period_end,
			token_limit, tokens_used, percent_used, admins_told, notification_id, tick_id)
		SELECT gen_random_uuid(), organization_id, 80, true, period_start, period_start, period_end, 100, 90, 90, 1, gen_random_uuid(), 1
		FROM tokenalert.budget_periods WHERE period_end < now()`)
	c.exec(`INSERT INTO tokenalert.ticks (id, snapshot, system_identifier, kind, rows, users, worker, started_at)
		SELECT id + n, snapshot, system_identifier, 'window', 1, 1, worker, started_at
		FROM tokenalert.ticks, generate_series(1, 1000) AS n`)
}

// shape is what must not change of a plan, indented: what is read by which index
// and which of its columns, what is joined how, and in which step. It leaves out
// what says only how rows are brought into order or kept, which side of a join
// comes first, and whether an index is read through a bitmap.
func shape(n planNode) []string {
	var lines []string
	children := n.Plans
	switch n.NodeType {
	case "Sort", "Incremental Sort", "Materialize", "Memoize", "Hash", "Subquery Scan", "Gather", "Gather Merge":
		return within(n, shapes(children))
	case "Result", "Append":
		if len(children) == 1 {
			return within(n, shapes(children))
		}
		lines = append(lines, n.NodeType)
	case "Aggregate", "Group", "Unique":
		lines = append(lines, "Aggregate")
	case "ModifyTable":
		lines = append(lines, n.Operation+" "+n.Relation)
	case "Index Scan", "Index Only Scan":
		lines = append(lines, indexScan(n.Relation, n.Index, columns(n.IndexCond)))
	case "Bitmap Heap Scan":
		index, by := bitmap(n.Plans[len(n.Plans)-1])
		children = n.Plans[:len(n.Plans)-1]
		lines = append(lines, indexScan(n.Relation, index, by))
	case "Nested Loop", "Hash Join":
		lines = append(lines, n.NodeType+" "+strings.TrimPrefix(n.JoinType, "Right "))
		if n.JoinType != "Left" {
			children = sides(n)
		}
	default:
		lines = append(lines, strings.Join(strings.Fields(strings.Join([]string{n.NodeType, n.JoinType, n.Relation, n.CTE, n.Function}, " ")), " "))
	}
	return within(n, append(lines, indented(shapes(children))...))
}

func shapes(nodes []planNode) []string {
	var lines []string
	for _, n := range nodes {
		lines = append(lines, shape(n)...)
	}
	return lines
}

func indented(lines []string) []string {
	for i := range lines {
		lines[i] = "  " + lines[i]
	}
	return lines
}

// within names the step of the statement, or the kind of subquery, that n is.
func within(n planNode, lines []string) []string {
	if name := step(n); name != "" {
		return append([]string{name}, indented(lines)...)
	}
	return lines
}

// step leaves out how PostgreSQL numbers subqueries.
func step(n planNode) string {
	kind, name, _ := strings.Cut(n.Subplan, " ")
	if kind == "CTE" {
		return "CTE " + name
	}
	return kind
}

// sides are what a join brings together, in an order that does not depend on
// which was chosen to come first, and its subqueries before them. Of inner
// nested loops within each other they are those of all.
func sides(n planNode) []planNode {
	var steps, joined []planNode
	for _, p := range n.Plans {
		plans := []planNode{p}
		if step(p) == "" && p.NodeType == "Nested Loop" && p.JoinType == "Inner" && n.NodeType == "Nested Loop" {
			plans = sides(p)
		}
		for _, p := range plans {
			if step(p) != "" {
				steps = append(steps, p)
			} else {
				joined = append(joined, p)
			}
		}
	}
	slices.SortFunc(joined, func(a, b planNode) int { return slices.Compare(shape(a), shape(b)) })
	return append(steps, joined...)
}

func indexScan(relation, index string, by []string) string {
	line := "Index Scan " + relation + " by " + index
	if len(by) > 0 {
		line += " (" + strings.Join(by, ", ") + ")"
	}
	return line
}

// bitmap names an index, and what all of the bitmap's parts look up in it.
func bitmap(n planNode) (string, []string) {
	if n.NodeType == "Bitmap Index Scan" {
		return n.Index, columns(n.IndexCond)
	}
	index, common := bitmap(n.Plans[0])
	for _, p := range n.Plans[1:] {
		other, by := bitmap(p)
		if other != index {
			index += ", " + other
		}
		common = slices.DeleteFunc(common, func(c string) bool { return !slices.Contains(by, c) })
	}
	return index, common
}

var comparison = regexp.MustCompile(`\((\w+) (=|<=?|>=?|IS) `)

// columns are those that an index condition compares, with how.
func columns(condition string) []string {
	var all []string
	for _, found := range comparison.FindAllStringSubmatch(condition, -1) {
		all = append(all, found[1]+" "+found[2])
	}
	return all
}
