package main

import (
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/worker"
)

// metric reads a series of /metrics.
func metric(t *testing.T, p *process, series string) float64 {
	t.Helper()
	_, text := p.get("/metrics")
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, series+" "); ok {
			number, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			require.NoError(t, err)
			return number
		}
	}
	require.FailNow(t, "no series "+series)
	return 0
}

func TestEndpointsOfLeaderAndFollower(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	user := p.user(1000)
	leader := p.leads()
	follower := p.follows()
	p.asleep()
	p.use(user, 1050)
	leader.await(worker.EventAlertSent, 1)

	for path, want := range map[string]string{"/startupz": "started", "/livez": "alive", "/readyz": "leader: ticked"} {
		status, body := leader.get(path)
		assert.Equal(t, 200, status)
		assert.Contains(t, body, want)
	}
	for path, want := range map[string]string{"/startupz": "started", "/livez": "alive", "/readyz": "follower: waiting"} {
		status, body := follower.get(path)
		assert.Equal(t, 200, status)
		assert.Contains(t, body, want)
	}
	status, _ := leader.get("/elsewhere")
	assert.Equal(t, 404, status)

	// Everything that can be counted exactly after one insert.
	for series, want := range map[string]float64{
		"tokenalert_leader":     1,
		"tokenalert_rows_total": 1,
		`tokenalert_alerts_total{reason="sent",threshold="100"}`:      1,
		`tokenalert_alerts_total{reason="sent",threshold="80"}`:       0,
		`tokenalert_alerts_total{reason="superseded",threshold="80"}`: 1,
		`tokenalert_alerts_total{reason="superseded",threshold="90"}`: 1,
		`tokenalert_ticks_total{kind="first",outcome="completed"}`:    1,
		`tokenalert_ticks_total{kind="window",outcome="failed"}`:      0,
		"tokenalert_commit_to_alert_seconds_count":                    1,
		`tokenalert_reconnects_total{connection="lead"}`:              0,
		"tokenalert_users_set_aside_total":                            0,
	} {
		assert.InDelta(t, want, metric(t, leader, series), 0, series)
	}
	eventually(t, func() bool { return metric(t, leader, "tokenalert_oldest_uncounted_commit_seconds") == 0 }, "behind, and at rest") // while a tick looks, it may be
	for _, series := range []string{"tokenalert_rings_total", "tokenalert_polls_total", "tokenalert_tick_seconds_count"} {
		assert.Positive(t, metric(t, leader, series), series)
	}
	// What the server still allows is the leader's to say, once it has ticked.
	eventually(t, func() bool {
		_, text := leader.get("/metrics")
		return strings.Contains(text, "\ntokenalert_database_")
	}, "the server is not asked what it still allows")
	assert.Positive(t, metric(t, leader, "tokenalert_database_connections_free"))
	_, text := follower.get("/metrics")
	assert.NotContains(t, text, "\ntokenalert_database_")
	assert.Zero(t, metric(t, follower, "tokenalert_leader"))
	assert.Zero(t, metric(t, follower, "tokenalert_tick_seconds_count"))
	_, text = leader.get("/metrics")
	assert.Regexp(t, `tokenalert_build_info\{commit="`+stampedCommit+`",goversion="[^"]+",version="`+stampedVersion+`"\} 1`, text)
	assert.NotContains(t, text, user.String())
	follower.terminate()
	leader.terminate()
}
