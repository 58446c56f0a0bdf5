package worker

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
)

var testBounds = HealthBounds{Live: 90 * time.Second, Answer: 10 * time.Second, Tick: 30 * time.Second}

// healthClock is the time as a Health sees it.
type healthClock struct{ now time.Time }

func (c *healthClock) pass(d time.Duration) { c.now = c.now.Add(d) }

func newTestHealth() (*Health, *healthClock) {
	clock := &healthClock{time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	return NewHealth(func() time.Time { return clock.now }, testBounds), clock
}

func TestLivez(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		do   func(h *Health, clock *healthClock)
		code int
		body string
	}{
		{"at the start", func(_ *Health, clock *healthClock) { clock.pass(1500 * time.Millisecond) }, 200, "alive: the loop moved 1.5 s ago\n"},
		{"at the bound", func(_ *Health, clock *healthClock) { clock.pass(90 * time.Second) }, 200, "alive: the loop moved 90.0 s ago\n"},
		{"past the bound", func(_ *Health, clock *healthClock) { clock.pass(91 * time.Second) }, 503, "stuck: the loop last moved 91.0 s ago, more than 1m30s\n"},
		{"moving again", func(h *Health, clock *healthClock) { clock.pass(time.Hour); h.Beat(); clock.pass(time.Second) }, 200, "alive: the loop moved 1.0 s ago\n"},
		{"without a database", func(h *Health, _ *healthClock) { h.SetRole(RoleLeader); h.DatabaseFailed("connection refused") }, 200, "alive: the loop moved 0.0 s ago\n"},
		{"a clock that is set back", func(_ *Health, clock *healthClock) { clock.pass(-time.Hour) }, 200, "alive: the loop moved 0.0 s ago\n"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			h, clock := newTestHealth()
			test.do(h, clock)
			code, body := askProbe(t, h, "/livez")
			assert.Equal(t, test.code, code)
			assert.Equal(t, test.body, body)
		})
	}
}

// What the database answers does not matter, only that it was asked.
func TestStartupz(t *testing.T) {
	t.Parallel()
	h, clock := newTestHealth()
	clock.pass(2 * time.Second)
	code, body := askProbe(t, h, "/startupz")
	assert.Equal(t, http.StatusServiceUnavailable, code)
	assert.Equal(t, "starting: the first attempt to connect goes on, for 2.0 s\n", body)
	h.DatabaseFailed("connection refused")
	h.Beat()
	clock.pass(time.Hour)
	code, body = askProbe(t, h, "/startupz")
	assert.Equal(t, http.StatusOK, code)
	assert.Equal(t, "started\n", body)
}

func TestReadyz(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		do   func(h *Health, clock *healthClock)
		code int
		body string
	}{
		{"at the start", func(*Health, *healthClock) {}, 503, "starting: cannot work on the database: not connected yet\n"},
		{"no lead and no wait yet", func(h *Health, clock *healthClock) { h.DatabaseOK(clock.now) }, 503, "starting: neither leader nor follower yet\n"},
		{
			"waiting",
			func(h *Health, clock *healthClock) { h.DatabaseOK(clock.now); h.SetRole(RoleFollower) },
			200, "follower: waiting for the lead, the database answers\n",
		},
		{
			"waiting, the database silent",
			func(h *Health, clock *healthClock) {
				h.DatabaseOK(clock.now)
				h.SetRole(RoleFollower)
				clock.pass(11 * time.Second)
			},
			503, "follower: the database last answered 11.0 s ago, more than 10s\n",
		},
		{
			"waiting, the database away",
			func(h *Health, clock *healthClock) {
				h.DatabaseOK(clock.now)
				h.SetRole(RoleFollower)
				h.DatabaseFailed("dial tcp 10.0.0.5:5432: connection refused")
			},
			503, "follower: cannot work on the database: dial tcp <address>: connection refused\n",
		},
		{
			"waiting, the database back",
			func(h *Health, clock *healthClock) {
				h.SetRole(RoleFollower)
				h.DatabaseFailed("connection refused")
				h.DatabaseOK(clock.now)
			},
			200, "follower: waiting for the lead, the database answers\n",
		},
		{
			"leading, no tick yet",
			func(h *Health, clock *healthClock) {
				h.SetRole(RoleLeader)
				clock.pass(4 * time.Second)
				h.DatabaseOK(clock.now)
			},
			503, "leader: no tick yet, leading for 4.0 s\n",
		},
		{
			"leading",
			func(h *Health, clock *healthClock) {
				h.SetRole(RoleLeader)
				h.Ticked(clock.now)
				clock.pass(8 * time.Second)
				h.DatabaseOK(clock.now)
			},
			200, "leader: ticked 8.0 s ago\n",
		},
		{
			"leading, no tick any more",
			func(h *Health, clock *healthClock) {
				h.SetRole(RoleLeader)
				h.Ticked(clock.now)
				clock.pass(31 * time.Second)
				h.DatabaseOK(clock.now)
			},
			503, "leader: the last tick was 31.0 s ago, more than 30s\n",
		},
		{
			"leading, the role said again",
			func(h *Health, clock *healthClock) {
				h.DatabaseOK(clock.now)
				h.SetRole(RoleLeader)
				h.Ticked(clock.now)
				h.SetRole(RoleLeader)
			},
			200, "leader: ticked 0.0 s ago\n",
		},
		{
			"leading a second time, no tick yet",
			func(h *Health, clock *healthClock) {
				h.DatabaseOK(clock.now)
				h.SetRole(RoleLeader)
				h.Ticked(clock.now)
				h.SetRole(RoleFollower)
				h.SetRole(RoleLeader)
			},
			503, "leader: no tick yet, leading for 0.0 s\n",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			h, clock := newTestHealth()
			test.do(h, clock)
			code, body := askProbe(t, h, "/readyz")
			assert.Equal(t, test.code, code)
			assert.Equal(t, test.body, body)
		})
	}
}

func TestHTTPPaths(t *testing.T) {
	t.Parallel()
	h, _ := newTestHealth()
	code, body := askProbe(t, h, "/")
	assert.Equal(t, http.StatusOK, code)
	assert.Equal(t, "tokenalert: /startupz /livez /readyz /metrics\n", body)
	code, body = askProbe(t, h, "/metrics")
	assert.Equal(t, http.StatusOK, code)
	assert.Contains(t, body, "tokenalert_build_info")
	code, _ = askProbe(t, h, "/elsewhere")
	assert.Equal(t, http.StatusNotFound, code)

	w := httptest.NewRecorder()
	NewHandler(h, NewMetrics("1", "c")).ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/livez", nil))
	assert.Equal(t, http.StatusMethodNotAllowed, w.Code)
}

func askProbe(t *testing.T, h *Health, path string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	NewHandler(h, NewMetrics("1", "c")).ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w.Code, w.Body.String()
}

func TestHTTPServer(t *testing.T) {
	t.Parallel()
	log, out := newTestLogger(t, newLogClock())
	h, _ := newTestHealth()
	server, err := ListenHTTP(t.Context(), "127.0.0.1:0", NewHandler(h, NewMetrics("1", "c")), log)
	require.NoError(t, err)

	_, err = ListenHTTP(t.Context(), server.Addr().String(), http.NotFoundHandler(), log)
	require.ErrorContains(t, err, "TOKENALERT_HTTP_ADDRESS")
	require.ErrorContains(t, err, "address already in use")

	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- server.Run(ctx) }()

	// The port is open since ListenHTTP: the answer needs no waiting for it.
	code, body := fetchHTTP(t, "http://"+server.Addr().String()+"/livez")
	assert.Equal(t, http.StatusOK, code)
	assert.Contains(t, body, "alive")

	cancel()
	require.NoError(t, <-ran)
	assert.Equal(t, []string{"http.listening"}, briefLines(t, out))
	var dialer net.Dialer
	_, err = dialer.DialContext(t.Context(), "tcp", server.Addr().String())
	require.Error(t, err, "the port is free again")
}

// Answers under way are finished before the exit.
func TestHTTPServerFinishesAnswers(t *testing.T) {
	t.Parallel()
	asked, answer := make(chan struct{}), make(chan struct{})
	slow := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(asked)
		<-answer
		_, _ = io.WriteString(w, "done")
	})
	server, err := ListenHTTP(t.Context(), "127.0.0.1:0", slow, zap.NewNop())
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	// Shutdown closes the listener first: then the answer may come.
	server.server.RegisterOnShutdown(func() { close(answer) })
	ran := make(chan error, 1)
	go func() { ran <- server.Run(ctx) }()
	go func() { <-asked; cancel() }()

	_, body := fetchHTTP(t, "http://"+server.Addr().String()+"/")
	assert.Equal(t, "done", body)
	require.NoError(t, <-ran)
}

func TestHTTPServerListenerFails(t *testing.T) {
	t.Parallel()
	server, err := ListenHTTP(t.Context(), "127.0.0.1:0", http.NotFoundHandler(), zap.NewNop())
	require.NoError(t, err)
	require.NoError(t, server.Close())
	require.ErrorIs(t, server.Run(t.Context()), net.ErrClosed)
}

func TestHTTPServerStopsBeforeItServes(t *testing.T) {
	t.Parallel()
	server, err := ListenHTTP(t.Context(), "127.0.0.1:0", http.NotFoundHandler(), zap.NewNop())
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, server.Run(ctx))
}

func TestHTTPErrorsAreEvents(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log, err := NewLogger("info", "json", &out, Pipe)
	require.NoError(t, err)
	_, err = httpErrors{log}.Write([]byte("http: panic serving 192.0.2.7:51234: nil map\n"))
	require.NoError(t, err)
	assert.Equal(t, []string{"http.failed: http: panic serving <address>: nil map"}, briefLines(t, &out))
}

// fetchHTTP asks over a connection of its own, which ends with the answer.
func fetchHTTP(t *testing.T, url string) (int, string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	require.NoError(t, err)
	res, err := client.Do(req)
	require.NoError(t, err)
	defer func() { require.NoError(t, res.Body.Close()) }()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, string(body)
}
