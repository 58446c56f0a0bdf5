package monitoring

import (
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/deploy/monitoring/dashboard"
	"tokenalert/store"
	"tokenalert/worker"
)

// What a PodMonitor adds to each series.
var targetLabels = []string{"namespace", "job", "pod", "instance", "container", "endpoint"}

// TestDashboard: every query parses, and asks for metrics and labels that a worker
// has.
func TestDashboard(t *testing.T) {
	t.Parallel()
	d, err := dashboard.Read("../components/monitoring/dashboard.json")
	require.NoError(t, err)
	require.NotEmpty(t, d.Panels)
	served := scrape(t)
	filled := map[string]string{"__rate_interval": "1m", "__range": "1h"}
	for _, v := range d.Templating.List {
		filled[v.Name] = "x"
	}
	for _, v := range d.Templating.List {
		if metric, ok := strings.CutPrefix(dashboard.Fill(v.Definition, filled), "label_values("); ok {
			selector, label, found := strings.Cut(metric, ", ")
			require.True(t, found, v.Definition)
			assert.Contains(t, targetLabels, strings.TrimSuffix(label, ")"))
			assertServed(t, served, selector)
		} else {
			assert.Equal(t, "datasource", v.Type, v.Name)
		}
	}
	for _, p := range d.Panels {
		assert.NotEmpty(t, p.Targets, p.Title)
		for _, target := range p.Targets {
			query := dashboard.Fill(target.Expr, filled)
			assert.NotContains(t, query, "$", "%s: a variable that is none", p.Title)
			assert.Contains(t, target.Expr, `namespace=~"$namespace", job="$job"`, p.Title)
			assertServed(t, served, query)
			for _, label := range regexp.MustCompile(`\{\{(\w+)\}\}`).FindAllStringSubmatch(target.Legend, -1) {
				by := regexp.MustCompile(`by \((?:\w+, )*` + label[1] + `(?:, \w+)*\)`)
				assert.True(t, slices.Contains(targetLabels, label[1]) || by.MatchString(query), "%s: no label %s", p.Title, label[1])
			}
		}
	}
}

// TestRulesAskForWhatIsServed, as the dashboard does.
func TestRulesAskForWhatIsServed(t *testing.T) {
	t.Parallel()
	served := scrape(t)
	for _, rule := range readRules(t).Groups[0].Rules {
		assertServed(t, served, rule.Expr)
	}
}

// scrape returns the families that a worker can have, those of a leader and of one
// that delivers included.
func scrape(t *testing.T) map[string]*dto.MetricFamily {
	t.Helper()
	m := worker.NewMetrics("1.2.3", "abcdef0")
	m.SetThresholds(80)
	m.SetChannels("webhook")
	m.Backlogs([]store.Backlog{{Channel: "webhook"}})
	m.Headroom(&store.Headroom{PasswordExpires: new(time.Now())})
	answer := httptest.NewRecorder()
	m.Handler().ServeHTTP(answer, httptest.NewRequest("GET", "/metrics", nil))
	text := expfmt.NewTextParser(model.UTF8Validation)
	families, err := text.TextToMetricFamilies(answer.Body)
	require.NoError(t, err)
	families["up"] = &dto.MetricFamily{Metric: []*dto.Metric{{}}} // which Prometheus makes, of each target
	return families
}

// assertServed checks each selector of a query, and what the query groups by.
func assertServed(t *testing.T, served map[string]*dto.MetricFamily, query string) {
	t.Helper()
	expr, err := queries.ParseExpr(query)
	require.NoError(t, err, query)
	labels := slices.Clone(targetLabels) // of all its metrics
	var wanted []string
	selectors := 0
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		switch e := node.(type) {
		case *parser.AggregateExpr:
			wanted = append(wanted, e.Grouping...)
		case *parser.VectorSelector:
			selectors++
			own, ok := labelsOf(served, e.Name)
			assert.True(t, ok, "no worker serves %s: %s", e.Name, query)
			labels = append(labels, own...)
			for _, m := range e.LabelMatchers {
				if m.Name != model.MetricNameLabel {
					wanted = append(wanted, m.Name)
				}
			}
		}
		return nil
	})
	assert.Positive(t, selectors, query)
	assert.Subset(t, labels, wanted, query)
}

// labelsOf a series of that name, and whether there is one.
func labelsOf(served map[string]*dto.MetricFamily, name string) (labels []string, ok bool) {
	f, ok := served[name]
	if bucket, is := strings.CutSuffix(name, "_bucket"); !ok && is {
		f, ok = served[bucket]
		ok = ok && f.GetType() == dto.MetricType_HISTOGRAM
		labels = append(labels, "le")
	}
	if !ok {
		return nil, false
	}
	for _, l := range f.GetMetric()[0].GetLabel() {
		labels = append(labels, l.GetName())
	}
	return labels, true
}
