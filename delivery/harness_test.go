package delivery_test

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"tokenalert/delivery"
	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/store"
	"tokenalert/worker"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// within bounds how long a test waits for what must come. It is never waited for
// in full but by a test that fails.
const within = 30 * time.Second

// site is a migrated database with a worker that leads, and what it delivers to.
type site struct {
	t     *testing.T
	db    *pgtest.DB
	owner *pgx.Conn
	org   uuid.UUID
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, db: pgtest.New(t, pgtest.Migrated(host.CMS)).Straight()}
	s.owner = s.db.ConnAs(t, pgtest.Owner)
	var err error
	s.org, err = host.NewOrganization(t.Context(), s.owner, "Example")
	require.NoError(t, err)
	return s
}

// ask is the answer to a query of one value.
func ask[T any](s *site, sql string, args ...any) T {
	s.t.Helper()
	var answer T
	require.NoError(s.t, s.owner.QueryRow(s.t.Context(), sql, args...).Scan(&answer))
	return answer
}

func (s *site) exec(sql string, args ...any) {
	s.t.Helper()
	_, err := s.owner.Exec(s.t.Context(), sql, args...)
	require.NoError(s.t, err)
}

// crosses makes a user who has used 85 % of their limit, and returns their id.
func (s *site) crosses(name string) uuid.UUID {
	s.t.Helper()
	id, err := host.NewUser(s.t.Context(), s.owner, host.User{Organization: s.org, FullName: name, Limit: new(100)})
	require.NoError(s.t, err)
	require.NoError(s.t, host.LogUsage(s.t.Context(), s.owner, id, s.org, 85))
	return id
}

func (s *site) eventually(holds func() bool, says string) {
	s.t.Helper()
	require.Eventually(s.t, holds, within, 5*time.Millisecond, says)
}

// leads starts a worker that has alerts delivered by channels, until the test ends.
func (s *site) leads(channels ...string) *worker.Worker {
	s.t.Helper()
	st, err := store.Open(s.db.WorkerURLs())
	require.NoError(s.t, err)
	c := worker.DefaultConfig()
	c.Language = "en"
	health := worker.NewHealth(time.Now, worker.HealthBounds{Live: time.Minute, Answer: time.Minute, Tick: time.Minute})
	w, err := worker.New(c, st, zap.NewNop(), worker.NewMetrics("test", "test"), health)
	require.NoError(s.t, err)
	w.DeliverBy(channels...)
	s.background(func(ctx context.Context) error {
		defer st.Close()
		return w.Run(ctx)
	})
	return w
}

// background runs something until the test ends, or the returned function is
// called, which waits for it.
func (s *site) background(run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				s.t.Errorf("it ended with %v", err)
			}
		case <-time.After(within):
			s.t.Error("does not stop")
		}
	})
	s.t.Cleanup(stop)
	return stop
}

// replica is one that delivers.
type replica struct {
	s       *site
	logs    *observer.ObservedLogs
	metrics *worker.Metrics
	stop    func()
}

// delivers starts a replica that delivers by channels.
func (s *site) delivers(channels delivery.Channels) *replica {
	s.t.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	r := &replica{s: s, logs: logs, metrics: worker.NewMetrics("test", "test")}
	channels.Link = "/admin/token-usage"
	d := &delivery.Deliverer{
		Channels: channels, Words: worker.BuiltInWords(worker.English), Zone: s.zone, Log: zap.New(core), Metrics: r.metrics, Grace: 4 * time.Second,
		OpenQueue: func(config river.Config) (*store.Queue, error) {
			config.TestOnly = true // no staggered start
			return store.OpenQueue(s.direct(), config)
		},
		OpenNotifications: func() (*store.Store, error) {
			url, err := channels.Notifications()
			require.NoError(s.t, err)
			return store.OpenFor("notifications", url, "")
		},
	}
	d.Hurry()
	r.stop = s.background(d.Run)
	s.eventually(func() bool { return len(r.lines(worker.EventDeliveryStarted)) > 0 }, "the queue is not opened")
	return r
}

// zone is that of a policy, or UTC.
func (s *site) zone(policy *string) *time.Location {
	if policy == nil {
		return time.UTC
	}
	zone, err := time.LoadLocation(*policy)
	assert.NoError(s.t, err)
	return zone
}

func (s *site) direct() string {
	_, direct := s.db.WorkerURLs()
	if direct == "" {
		direct, _ = s.db.WorkerURLs()
	}
	return direct
}

func (r *replica) lines(event worker.EventName) []observer.LoggedEntry {
	return r.logs.FilterField(worker.Event(event)).All()
}

// await waits for the n-th line of an event, from 1.
func (r *replica) await(event worker.EventName, n int) observer.LoggedEntry {
	r.s.t.Helper()
	r.s.eventually(func() bool { return len(r.lines(event)) >= n }, "no log line "+string(event))
	return r.lines(event)[n-1]
}

// states are River's states of all jobs, by channel.
func (s *site) states() map[string]string {
	s.t.Helper()
	rows, err := s.owner.Query(s.t.Context(), "SELECT queue, string_agg(state::text, ',' ORDER BY id) FROM tokenalert.river_job GROUP BY queue")
	require.NoError(s.t, err)
	states := map[string]string{}
	var queue, state string
	_, err = pgx.ForEachRow(rows, []any{&queue, &state}, func() error {
		states[queue] = state
		return nil
	})
	require.NoError(s.t, err)
	return states
}

// always is a source of one value.
func always(value string) delivery.Source { return func() (string, error) { return value, nil } }

// receiver takes webhooks.
type receiver struct {
	server *httptest.Server
	mu     sync.Mutex
	got    []hook
	answer func(w http.ResponseWriter, r *http.Request)
}

type hook struct {
	id   string
	kind string
	data map[string]any
}

// receives starts one that answers 204, unless told otherwise.
func (s *site) receives(answer func(http.ResponseWriter, *http.Request)) *receiver {
	s.t.Helper()
	rec := &receiver{answer: answer}
	rec.server = httptest.NewTLSServer(http.HandlerFunc(rec.serve))
	s.t.Cleanup(rec.server.Close)
	return rec
}

func (rec *receiver) serve(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	var event struct {
		Type string         `json:"type"`
		Data map[string]any `json:"data"`
	}
	_ = json.Unmarshal(body, &event)
	rec.mu.Lock()
	rec.got = append(rec.got, hook{r.Header.Get("webhook-id"), event.Type, event.Data})
	rec.mu.Unlock()
	if rec.answer != nil {
		rec.answer(w, r)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (rec *receiver) hooks() []hook {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	return append([]hook(nil), rec.got...)
}

var secret = "whsec_" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k", 32)))

// to are channels that end at what the test has started.
func (rec *receiver) to() delivery.Channels {
	u, _ := url.Parse(rec.server.URL)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: rec.server.Certificate().Raw}))
	return delivery.Channels{
		Webhook: always(rec.server.URL + "/hook"), WebhookSecret: always(secret), WebhookAllow: []string{u.Hostname()}, RootCAs: pool,
	}
}

// queue is what the commands have it tried again by.
func (s *site) queue() *store.Queue {
	s.t.Helper()
	queue, err := store.OpenQueue(s.direct(), river.Config{})
	require.NoError(s.t, err)
	s.t.Cleanup(queue.Close)
	return queue
}
