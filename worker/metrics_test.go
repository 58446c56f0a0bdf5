package worker

import (
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestMetricsLint(t *testing.T) {
	t.Parallel()
	m := NewMetrics("1.2.3", "abcdef0")
	m.SetThresholds(80, 90, 100)
	problems, err := testutil.GatherAndLint(m.registry)
	require.NoError(t, err)
	assert.Empty(t, problems)
}

// Each worker has its own: nothing is registered in the process as a whole.
func TestMetricsAreNotGlobal(t *testing.T) {
	t.Parallel()
	a, b := NewMetrics("1", "a"), NewMetrics("1", "b")
	a.Rows.Add(3)
	assert.InDelta(t, 3, testutil.ToFloat64(a.Rows), 0)
	assert.InDelta(t, 0, testutil.ToFloat64(b.Rows), 0)
}

// rate() misses the first increase of a series that was not there before.
func TestMetricsStartAtZero(t *testing.T) {
	t.Parallel()
	m := NewMetrics("1.2.3", "abcdef0")
	m.SetThresholds(80, 100)
	body := scrapeMetrics(t, m)
	for _, series := range []string{
		`tokenalert_leader 0`,
		`tokenalert_ticks_total{kind="full",outcome="failed"} 0`,
		`tokenalert_ticks_total{kind="window",outcome="empty"} 0`,
		`tokenalert_tick_seconds_bucket{le="0.0005"} 0`,
		`tokenalert_tick_seconds_bucket{le="60"} 0`,
		`tokenalert_rows_total 0`,
		`tokenalert_alerts_total{reason="sent",threshold="80"} 0`,
		`tokenalert_alerts_total{reason="already_told",threshold="100"} 0`,
		`tokenalert_commit_to_alert_seconds_bucket{le="0.001"} 0`,
		`tokenalert_commit_to_alert_seconds_bucket{le="600"} 0`,
		`tokenalert_oldest_uncounted_commit_seconds 0`,
		`tokenalert_rings_total 0`,
		`tokenalert_polls_total 0`,
		`tokenalert_missed_rings_total 0`,
		`tokenalert_reconnects_total{connection="tick"} 0`,
		`tokenalert_reconnects_total{connection="lead"} 0`,
		`tokenalert_reconnects_total{connection="listen"} 0`,
		`tokenalert_users_set_aside_total 0`,
		`tokenalert_users_deferred_total 0`,
		`tokenalert_rows_skipped_total 0`,
		`tokenalert_recounts_total 0`,
		`tokenalert_reconcile_differences_total 0`,
		`tokenalert_reconcile_last_success_timestamp_seconds 0`,
		`tokenalert_last_tick_timestamp_seconds 0`,
		`tokenalert_bell_armed 0`,
		`tokenalert_build_info{commit="abcdef0",goversion="` + runtime.Version() + `",version="1.2.3"} 1`,
	} {
		assert.Contains(t, body, "\n"+series+"\n")
	}
	assert.Contains(t, body, "\ngo_goroutines ")
	if runtime.GOOS == "linux" {
		assert.Contains(t, body, "\nprocess_resident_memory_bytes ")
	}
}

// Whatever happens, the number of series stays what it was at the start.
func TestMetricsAreBounded(t *testing.T) {
	t.Parallel()
	m := NewMetrics("1.2.3", "abcdef0")
	m.SetThresholds(80, 90, 100)
	series := func() int {
		return strings.Count(scrapeMetrics(t, m), "\ntokenalert_")
	}
	before := series()
	for _, kind := range metricKinds {
		for _, outcome := range metricOutcomes {
			m.Tick(kind, outcome, time.Second)
		}
	}
	for _, threshold := range []int{80, 90, 100} {
		for _, reason := range metricReasons {
			m.Alert(threshold, reason)
		}
	}
	for _, connection := range metricConnections {
		m.Reconnected(connection)
	}
	assert.Equal(t, before, series())
}

func TestMetricsTick(t *testing.T) {
	t.Parallel()
	m := NewMetrics("1.2.3", "abcdef0")
	for _, outcome := range metricOutcomes {
		m.Tick("window", outcome, 20*time.Millisecond)
	}
	body := scrapeMetrics(t, m)
	for _, outcome := range metricOutcomes {
		assert.Contains(t, body, `tokenalert_ticks_total{kind="window",outcome="`+outcome+`"} 1`)
	}
	assert.Contains(t, body, "tokenalert_tick_seconds_count 1\n", "only the completed one")
	assert.InDelta(t, time.Now().Unix(), testutil.ToFloat64(m.lastTick), 60)
}

// The age grows by itself, also while a tick takes its time.
func TestMetricsOldestUncounted(t *testing.T) {
	t.Parallel()
	m := NewMetrics("v1", "c")
	m.UncountedSince(time.Now().Add(-time.Hour))
	assert.Regexp(t, `(?m)^tokenalert_oldest_uncounted_commit_seconds 36\d\d\.`, scrapeMetrics(t, m))
	m.AllCounted()
	assert.Regexp(t, `(?m)^tokenalert_oldest_uncounted_commit_seconds 0$`, scrapeMetrics(t, m))
}

func scrapeMetrics(t *testing.T, m *Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	require.Equal(t, http.StatusOK, w.Code)
	body, err := io.ReadAll(w.Body)
	require.NoError(t, err)
	return string(body)
}
