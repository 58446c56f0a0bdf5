package prometheus_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/deploy/monitoring/prometheus"
)

// It scrapes what it is told to, with the labels it is told, evaluates rules, and
// leaves nothing behind.
func TestStart(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "trial 7") }))
	defer target.Close()
	rules := filepath.Join(t.TempDir(), "rules.yaml")
	require.NoError(t, os.WriteFile(rules, []byte("groups: [{name: g, rules: [{alert: Trial, expr: trial > 6}]}]"), 0o600))
	s, err := prometheus.Start(t.Context(), prometheus.Options{Rules: rules, Interval: 100 * time.Millisecond, Targets: []prometheus.Target{
		{Address: strings.TrimPrefix(target.URL, "http://"), Labels: map[string]string{"job": "n/a", "pod": "one"}},
	}})
	require.NoError(t, err)

	await(t, s, func() bool {
		found, err := s.API.Alerts(t.Context())
		require.NoError(t, err)
		return len(found.Alerts) == 1 && found.Alerts[0].State == v1.AlertStateFiring && found.Alerts[0].Labels["pod"] == "one"
	})
	require.NoError(t, s.SetTargets())
	await(t, s, func() bool {
		value, _, _, err := s.API.Query(t.Context(), "trial", time.Now())
		require.NoError(t, err)
		return len(value.(model.Vector)) == 0
	})

	require.NoError(t, s.Stop())
	left, err := os.ReadDir(os.TempDir())
	require.NoError(t, err)
	assert.Empty(t, left)
}

func await(t *testing.T, s *prometheus.Server, is func() bool) {
	t.Helper()
	for began := time.Now(); !is(); time.Sleep(50 * time.Millisecond) {
		require.Less(t, time.Since(began), 30*time.Second, "it does not come: %s", s.URL)
	}
}
