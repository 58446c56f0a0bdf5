package worker

import (
	"context"
	"errors"
	"fmt"
	stdlog "log"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

const (
	// httpShutdown bounds how long answers under way may hold up the exit.
	httpShutdown = 2 * time.Second
	// neverHappened stands for an event that has not happened.
	neverHappened = int64(-1)
)

// Role is what a worker is at the moment.
type Role int32

// A worker starts, and is then follower or leader, back and forth.
const (
	RoleStarting Role = iota
	RoleFollower
	RoleLeader
)

func (r Role) String() string {
	switch r {
	case RoleFollower:
		return "follower"
	case RoleLeader:
		return "leader"
	default:
		return "starting"
	}
}

// Health is what the worker last said about itself: written by the loop, read
// by the probes, without locks. Make one with NewHealth.
type Health struct {
	now          func() time.Time
	start        time.Time
	liveWithin   time.Duration
	answerWithin time.Duration
	tickWithin   time.Duration

	// Nanoseconds since start rather than times, so that a step of the wall
	// clock does not matter.
	moved  atomic.Bool // the loop has, once
	beat   atomic.Int64
	led    atomic.Int64
	ticked atomic.Int64
	role   atomic.Int32
	db     atomic.Pointer[databaseState]
}

type databaseState struct {
	answered int64  // when it last did
	failure  string // why it does not, "" while it does
}

// HealthBounds says how old a sign of life may be.
type HealthBounds struct {
	Live   time.Duration // the loop's last beat; longer than the longest tick, which is a minute, but where the loop beats meanwhile
	Answer time.Duration // the database's last answer; longer than the pings' interval
	Tick   time.Duration // the leader's last tick; longer than the bell's renewal
}

// NewHealth begins with a beat, in RoleStarting and without a database. The
// clock is time.Now except in tests.
func NewHealth(now func() time.Time, bounds HealthBounds) *Health {
	h := &Health{now: now, start: now(), liveWithin: bounds.Live, answerWithin: bounds.Answer, tickWithin: bounds.Tick}
	h.ticked.Store(neverHappened)
	h.db.Store(&databaseState{answered: neverHappened, failure: "not connected yet"})
	return h
}

// Beat says that the loop moves.
func (h *Health) Beat() {
	h.beat.Store(h.since(h.now()))
	h.moved.Store(true)
}

// SetRole says what the worker is from here on. A new leader is ready once it
// has ticked.
func (h *Health) SetRole(role Role) {
	if Role(h.role.Load()) == role {
		return
	}
	h.ticked.Store(neverHappened)
	h.led.Store(h.since(h.now()))
	h.role.Store(int32(role))
}

// DatabaseOK says that the database answered.
func (h *Health) DatabaseOK(at time.Time) {
	h.db.Store(&databaseState{answered: h.since(at)})
}

// DatabaseFailed says why the database does not answer, until it does. Anyone
// may read the reason; addresses in it are masked.
func (h *Health) DatabaseFailed(reason string) {
	h.db.Store(&databaseState{answered: h.db.Load().answered, failure: maskAddresses(reason)})
}

// Ticked says that a tick completed, or found nothing to do.
func (h *Health) Ticked(at time.Time) { h.ticked.Store(h.since(at)) }

// Started reports whether the loop has taken its first turn: the database was
// asked for once, whether it answered or not. A start that hangs before is no
// start.
func (h *Health) Started() (bool, string) {
	if !h.moved.Load() {
		return false, fmt.Sprintf("starting: the first attempt to connect goes on, for %s", secondsText(h.age(0)))
	}
	return true, "started"
}

// Live reports whether the loop moves, and why it is thought to or not.
func (h *Health) Live() (bool, string) {
	age := h.age(h.beat.Load())
	if age > h.liveWithin {
		return false, fmt.Sprintf("stuck: the loop last moved %s ago, more than %s", secondsText(age), h.liveWithin)
	}
	return true, fmt.Sprintf("alive: the loop moved %s ago", secondsText(age))
}

// Ready reports whether the worker does its part, leading or waiting to lead,
// and in plain words why not.
func (h *Health) Ready() (bool, string) {
	role := Role(h.role.Load())
	if role == RoleStarting {
		if db := h.db.Load(); db.failure != "" {
			return false, "starting: cannot work on the database: " + db.failure
		}
		return false, "starting: neither leader nor follower yet"
	}

	db := h.db.Load()
	if db.failure != "" {
		return false, fmt.Sprintf("%s: cannot work on the database: %s", role, db.failure)
	}
	if age := h.age(db.answered); age > h.answerWithin {
		return false, fmt.Sprintf("%s: the database last answered %s ago, more than %s", role, secondsText(age), h.answerWithin)
	}
	if role == RoleFollower {
		return true, "follower: waiting for the lead, the database answers"
	}

	ticked := h.ticked.Load()
	if ticked == neverHappened {
		return false, fmt.Sprintf("leader: no tick yet, leading for %s", secondsText(h.age(h.led.Load())))
	}
	if age := h.age(ticked); age > h.tickWithin {
		return false, fmt.Sprintf("leader: the last tick was %s ago, more than %s", secondsText(age), h.tickWithin)
	}
	return true, fmt.Sprintf("leader: ticked %s ago", secondsText(h.age(ticked)))
}

func (h *Health) since(t time.Time) int64 { return max(0, int64(t.Sub(h.start))) }

func (h *Health) age(since int64) time.Duration {
	return max(0, time.Duration(h.since(h.now())-since))
}

func secondsText(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

// NewHandler serves /startupz, /livez, /readyz and /metrics. Start and liveness
// are the progress of the loop and never the database's: restarting the worker
// does not mend that.
func NewHandler(h *Health, m *Metrics) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /startupz", probeHandler(h.Started))
	mux.Handle("GET /livez", probeHandler(h.Live))
	mux.Handle("GET /readyz", probeHandler(h.Ready))
	mux.Handle("GET /metrics", m.Handler())
	mux.Handle("GET /{$}", probeHandler(func() (bool, string) { return true, "tokenalert: /startupz /livez /readyz /metrics" }))
	return mux
}

func probeHandler(check func() (bool, string)) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		ok, text := check()
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		if !ok {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		// A probe that has gone away is not worth a line.
		_, _ = fmt.Fprintln(w, text)
	}
}

// HTTPServer listens from ListenHTTP on, and answers while Run runs.
type HTTPServer struct {
	listener net.Listener
	server   *http.Server
	log      *zap.Logger
}

// ListenHTTP takes the port, so that a start with a bad address fails before
// anything else is done.
func ListenHTTP(ctx context.Context, address string, handler http.Handler, log *zap.Logger) (*HTTPServer, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("serve HTTP on TOKENALERT_HTTP_ADDRESS %q: %w", address, err)
	}
	return &HTTPServer{
		listener: listener,
		log:      log,
		server: &http.Server{
			Handler:           handler,
			ReadHeaderTimeout: 5 * time.Second,
			ReadTimeout:       10 * time.Second,
			WriteTimeout:      30 * time.Second,
			IdleTimeout:       2 * time.Minute,
			MaxHeaderBytes:    16 << 10,
			ErrorLog:          stdlog.New(httpErrors{log}, "", 0),
		},
	}, nil
}

// Addr is where the server listens, the port being known where 0 was asked for.
func (s *HTTPServer) Addr() net.Addr { return s.listener.Addr() }

// Run answers until ctx ends, lets answers under way finish for two seconds,
// and returns nil; or the error for which it could not go on. The listener is
// closed and the serving goroutine gone when it returns.
func (s *HTTPServer) Run(ctx context.Context) error {
	if addr, ok := s.listener.Addr().(*net.TCPAddr); ok {
		s.log.Info("serving probes and metrics", Event(EventHTTPListening), zap.Int("port", addr.Port))
	}
	served := make(chan error, 1)
	go func() { served <- s.server.Serve(s.listener) }()

	select {
	case err := <-served:
		return fmt.Errorf("serve HTTP: %w", err)
	case <-ctx.Done():
	}
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), httpShutdown)
	defer cancel()
	if err := s.server.Shutdown(bounded); err != nil {
		// Whoever is still connected has had time enough.
		_ = s.server.Close()
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve HTTP: %w", err)
	}
	return nil
}

// Close gives the port back when Run is not called after all.
func (s *HTTPServer) Close() error { return s.listener.Close() }

// httpErrors turns what net/http reports into log lines.
type httpErrors struct{ log *zap.Logger }

func (w httpErrors) Write(line []byte) (int, error) {
	w.log.Error("the HTTP server met an error", Event(EventHTTPFailed), zap.String("error", strings.TrimSpace(string(line))))
	return len(line), nil
}
