package store_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/store"
)

// A planNode is a node of EXPLAIN (FORMAT JSON).
type planNode struct {
	NodeType  string `json:"Node Type"`
	Operation string // of a ModifyTable
	JoinType  string `json:"Join Type"`
	CTE       string `json:"CTE Name"`
	Function  string `json:"Function Name"`
	Relation  string `json:"Relation Name"`
	Index     string `json:"Index Name"`
	IndexCond string `json:"Index Cond"`
	TIDCond   string `json:"TID Cond"`
	Subplan   string `json:"Subplan Name"`
	Parent    string `json:"Parent Relationship"`
	Plans     []planNode
}

func parsePlan(t *testing.T, text string) planNode {
	t.Helper()
	var explained []struct{ Plan planNode }
	require.NoError(t, json.Unmarshal([]byte(text), &explained))
	return explained[0].Plan
}

// oneRow are the parts of our statements that have one row, or none.
var oneRow = []string{"last", "here", "target", "first", "cut", "due", "totals", "file", "fence", "tick"}

// Whatever the planner expects, no join may compare each row with each: where it
// expects few, a nested loop over all of them looks cheap to it. Statistics of
// an empty table that are true a moment before a crowd comes are the worst.
func TestNoJoinOfATickComparesEachWithEach(t *testing.T) {
	t.Parallel()
	for name, statistics := range map[string]string{
		"never gathered": "SELECT",
		"of empty tables": `ANALYZE users, ai_usage_logs, notifications, token_limit_alerts,
			tokenalert.ticks, tokenalert.usage_periods, tokenalert.recounts,
			tokenalert.budgets, tokenalert.budget_shares, tokenalert.budget_periods, tokenalert.budget_alerts`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCounter(t, host.CMS)
			c.exec("DELETE FROM tokenalert.recounts")
			c.exec(statistics)
			// They come after the statistics: a table of some size, which the
			// statistics take for one of a page.
			c.exec(`INSERT INTO users (organization_id, email, password_hash, full_name, monthly_token_limit)
				SELECT $1, n || '@example.org', 'none', 'Ada Example', 100 FROM generate_series(1, 3000) AS n`, c.org)
			c.exec("INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used) SELECT id, organization_id, 95 FROM users")
			c.exec(`INSERT INTO tokenalert.budgets (organization_id, token_limit, reset_day, time_zone, since, version)
				SELECT gen_random_uuid(), 1000, 1, 'UTC', now(), 0 FROM generate_series(1, 3000)`)
			for _, kind := range []store.Kind{store.Window, store.Full} {
				plans, err := c.store.PlansOfATick(t.Context(), kind)
				require.NoError(t, err)
				require.Len(t, plans, map[store.Kind]int{store.Window: 10, store.Full: 8}[kind])
				for statement, text := range plans {
					each(parsePlan(t, text), func(n planNode) {
						if n.NodeType != "Nested Loop" {
							return
						}
						of := func(side string) planNode {
							return n.Plans[slices.IndexFunc(n.Plans, func(p planNode) bool { return p.Parent == side })]
						}
						if single(of("Outer")) {
							return
						}
						assert.Empty(t, manyRows(of("Inner")), "%s: a nested loop reads all of it for each row\n%s", statement, outline(n, ""))
					})
				}
			}
		})
	}
}

// single reports whether it yields one row at most.
func single(n planNode) bool {
	switch n.NodeType {
	case "CTE Scan":
		return slices.Contains(oneRow, n.CTE)
	case "Nested Loop":
		return single(n.Plans[0]) && single(n.Plans[1])
	}
	return false
}

// manyRows names what is read in full, where that may be many rows.
func manyRows(n planNode) string {
	switch n.NodeType {
	case "Seq Scan":
		return n.Relation
	case "Index Scan", "Index Only Scan":
		if n.IndexCond == "" {
			return n.Relation
		}
	case "CTE Scan":
		if !slices.Contains(oneRow, n.CTE) {
			return fmt.Sprintf("the rows of %s", n.CTE)
		}
	case "Materialize", "Sort", "Hash":
		return manyRows(n.Plans[0])
	}
	return ""
}

// outline is a plan in few words.
func outline(n planNode, indent string) string {
	text := fmt.Sprintf("%s%s %s%s\n", indent, n.NodeType, n.Relation, n.CTE)
	for _, p := range n.Plans {
		text += outline(p, indent+"  ")
	}
	return text
}

func each(n planNode, do func(planNode)) {
	do(n)
	for _, p := range n.Plans {
		each(p, do)
	}
}
