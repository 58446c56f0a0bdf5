package worker

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/store"
)

const metricsPage = "../docs/metrics.md"

// The page lists every metric of ours that /metrics can have, and the queries on
// it name no other.
func TestMetricsPage(t *testing.T) {
	families := everyMetric(t)
	var want strings.Builder
	want.WriteString("| metric | type | labels | meaning |\n|---|---|---|---|\n")
	known := map[string]bool{}
	for _, f := range families {
		name := f.GetName()
		known[name] = true
		if f.GetType() == dto.MetricType_HISTOGRAM {
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				known[name+suffix] = true
			}
		}
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, "`"+l.GetName()+"`")
		}
		fmt.Fprintf(&want, "| `%s` | %s | %s | %s |\n", name, strings.ToLower(f.GetType().String()), strings.Join(labels, ", "), f.GetHelp())
	}

	const begin, end = "-update -->\n", "<!-- end of the metrics -->"
	page, err := os.ReadFile(metricsPage)
	require.NoError(t, err)
	before, rest, found := strings.Cut(string(page), begin)
	require.True(t, found)
	table, after, found := strings.Cut(rest, end)
	require.True(t, found)
	if *update {
		table = want.String()
		require.NoError(t, os.WriteFile(metricsPage, []byte(before+begin+table+end+after), 0o644)) //nolint:gosec // everybody may read it
	}
	assert.Equal(t, want.String(), table, "docs/metrics.md is not what /metrics serves: go test ./worker -run TestMetricsPage -update")
	for _, name := range regexp.MustCompile(`\btokenalert_\w+`).FindAllString(before, -1) {
		assert.True(t, known[name], "the page names %s, which is none", name)
	}
}

// everyMetric are the families of ours, those included that a worker has only
// while it leads.
func everyMetric(t *testing.T) []*dto.MetricFamily {
	t.Helper()
	m := NewMetrics("1.2.3", "abcdef0")
	m.SetThresholds(80)
	m.Headroom(&store.Headroom{PasswordExpires: new(time.Now())})
	m.SetChannels("email")
	m.Backlogs([]store.Backlog{{Channel: "email"}})
	all, err := m.registry.Gather()
	require.NoError(t, err)
	return slices.DeleteFunc(all, func(f *dto.MetricFamily) bool { return !strings.HasPrefix(f.GetName(), "tokenalert_") })
}

// What only a leader knows, a worker that does not lead does not say.
func TestMetricsHeadroom(t *testing.T) {
	t.Parallel()
	m := NewMetrics("1.2.3", "abcdef0")
	assert.NotContains(t, scrapeMetrics(t, m), "\ntokenalert_database_")
	m.Headroom(&store.Headroom{Connections: 7, TransactionIDs: 8, NotificationQueue: .25})
	body := scrapeMetrics(t, m)
	assert.Contains(t, body, "\ntokenalert_database_connections_free 7\n")
	assert.Contains(t, body, "\ntokenalert_database_transaction_ids_free 8\n")
	assert.Contains(t, body, "\ntokenalert_database_notification_queue_ratio 0.25\n")
	assert.NotContains(t, body, "password_expiry")
	m.Headroom(&store.Headroom{PasswordExpires: new(time.Unix(1_800_000_000, 0))})
	assert.Contains(t, scrapeMetrics(t, m), "\ntokenalert_database_password_expiry_timestamp_seconds 1.8e+09\n")
	m.Headroom(nil)
	assert.NotContains(t, scrapeMetrics(t, m), "\ntokenalert_database_")
}
