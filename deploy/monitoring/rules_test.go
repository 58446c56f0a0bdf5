// Package monitoring holds what deploy/components/monitoring has to what the worker
// serves, and to what promtool says of it.
package monitoring

import (
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"tokenalert/deploy/monitoring/prometheus"
)

const (
	rulesFile     = "../components/monitoring/rules.yaml"
	rulesTestFile = "../components/monitoring/rules.test.yaml"
	operatorFile  = "../components/monitoring/prometheusrule.yaml"
)

var (
	update  = flag.Bool("update", false, "write prometheusrule.yaml")
	queries = parser.NewParser(parser.Options{})
)

// TestPrometheusRule: what the operator is given is rules.yaml, word for word.
func TestPrometheusRule(t *testing.T) {
	rules, err := os.ReadFile(rulesFile)
	require.NoError(t, err)
	head, groups, found := strings.Cut(string(rules), "groups:\n")
	require.True(t, found)
	want := head + `apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: tokenalert
  labels:
    app.kubernetes.io/name: tokenalert
spec:
` + indented("groups:\n"+groups)
	if *update {
		require.NoError(t, os.WriteFile(operatorFile, []byte(want), 0o644))
	}
	have, err := os.ReadFile(operatorFile)
	require.NoError(t, err)
	assert.Equal(t, want, string(have), "prometheusrule.yaml is not made from rules.yaml: make rules-update")
}

func indented(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if line != "\n" {
			line = "  " + line
		}
		b.WriteString(line)
	}
	return b.String()
}

// TestRules breaks each rule in each of several ways, and sees rules.test.yaml
// notice.
func TestRules(t *testing.T) {
	promtool, err := prometheus.Tool(t.Context(), "promtool")
	require.NoError(t, err)
	require.NoError(t, try(t, promtool, readRules(t)), "as they are")
	for i, rule := range readRules(t).Groups[0].Rules {
		for _, m := range mutations(t, rule) {
			t.Run(fmt.Sprintf("%s %d %s", rule.Alert, i, m.name), func(t *testing.T) {
				t.Parallel()
				groups := readRules(t)
				groups.Groups[0].Rules[i] = m.rule
				assert.Error(t, try(t, promtool, groups), "no test fails with %s for %s", m.rule.Expr, m.rule.For)
			})
		}
	}
}

func readRules(t *testing.T) *rulefmt.RuleGroups {
	t.Helper()
	groups, errs := rulefmt.ParseFile(rulesFile, false, model.UTF8Validation, queries, slog.New(slog.DiscardHandler))
	require.Empty(t, errs)
	require.Len(t, groups.Groups, 1)
	return groups
}

// try runs the tests on these rules.
func try(t *testing.T, promtool string, groups *rulefmt.RuleGroups) error {
	t.Helper()
	folder := t.TempDir()
	rules, err := yaml.Marshal(groups)
	require.NoError(t, err)
	tests, err := os.ReadFile(rulesTestFile)
	require.NoError(t, err)
	file := filepath.Join(folder, filepath.Base(rulesTestFile))
	require.NoError(t, os.WriteFile(filepath.Join(folder, filepath.Base(rulesFile)), rules, 0o600))
	require.NoError(t, os.WriteFile(file, tests, 0o600))
	out, err := exec.CommandContext(t.Context(), promtool, "test", "rules", file).CombinedOutput()
	if err != nil && !strings.Contains(string(out), "FAILED") {
		require.NoError(t, err, "promtool: %s", out) // not a test that failed
	}
	return err
}

type mutation struct {
	name string
	rule rulefmt.Rule
}

// mutations of a rule: it never fires, it does not wait, or one place of its
// expression is another.
func mutations(t *testing.T, rule rulefmt.Rule) []mutation {
	t.Helper()
	never := rule
	never.Expr = "vector(0) > 0"
	all := []mutation{{"never fires", never}}
	if rule.For > 0 {
		hasty, slow := rule, rule
		hasty.For /= 2
		slow.For *= 2
		all = append(all, mutation{"fires sooner", hasty}, mutation{"fires later", slow})
	}
	for n := 0; ; n++ {
		expr, err := queries.ParseExpr(rule.Expr)
		require.NoError(t, err)
		what := mutate(expr, n)
		if what == "" {
			return all
		}
		m := rule
		m.Expr = expr.String()
		all = append(all, mutation{what, m})
	}
}

// mutate changes the n-th thing in an expression that can be changed, and says how;
// "" where there are not so many.
func mutate(expr parser.Expr, n int) string {
	what := ""
	change := func(name string, how func()) {
		if n == 0 {
			what = name
			how()
		}
		n--
	}
	parser.Inspect(expr, func(node parser.Node, path []parser.Node) error {
		switch e := node.(type) {
		case *parser.NumberLiteral:
			call, _ := path[len(path)-1].(*parser.Call)
			if e.Val != 0 && (call == nil || call.Func.Name != "vector") { // which is there for its label set
				change(fmt.Sprintf("half of %g", e.Val), func() { e.Val /= 2 })
				change(fmt.Sprintf("twice %g", e.Val), func() { e.Val *= 2 })
			}
		case *parser.AggregateExpr:
			for i, label := range e.Grouping {
				change("not by "+label, func() { e.Grouping = append(append([]string{}, e.Grouping[:i]...), e.Grouping[i+1:]...) })
			}
		case *parser.BinaryExpr:
			if m := e.VectorMatching; m != nil && m.On {
				for i, label := range m.MatchingLabels {
					change("not on "+label, func() {
						m.MatchingLabels = append(append([]string{}, m.MatchingLabels[:i]...), m.MatchingLabels[i+1:]...)
					})
				}
			}
			if !e.Op.IsComparisonOperator() && e.VectorMatching != nil {
				change("without what follows "+e.Op.String(), func() {
					e.RHS, e.Op, e.VectorMatching = e.LHS, parser.LOR, &parser.VectorMatching{Card: parser.CardManyToMany}
				})
			}
		case *parser.VectorSelector:
			for i, m := range e.LabelMatchers {
				if m.Name != model.MetricNameLabel {
					change("without "+m.String(), func() { e.LabelMatchers = append(e.LabelMatchers[:i:i], e.LabelMatchers[i+1:]...) })
				}
			}
		}
		return nil
	})
	return what
}
