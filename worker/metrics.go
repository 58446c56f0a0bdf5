package worker

import (
	"net/http"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"tokenalert/store"
)

// The outcomes of a tick, as a metric's label.
const (
	OutcomeCompleted = "completed" // counted something, committed
	OutcomeEmpty     = "empty"     // the probe found nothing; nothing written
	OutcomeCollided  = "collided"  // another worker wrote the same tick
	OutcomeRewritten = "rewritten" // the table was rewritten under it
	OutcomeFailed    = "failed"    // rolled back by an error
)

// ReasonSent is the reason label of alerts that were told. The others are
// those of alert.suppressed.
const ReasonSent = "sent"

var (
	metricKinds       = []string{"first", "full", "window"}
	metricOutcomes    = []string{OutcomeCompleted, OutcomeEmpty, OutcomeCollided, OutcomeRewritten, OutcomeFailed}
	metricReasons     = []string{ReasonSent, "superseded", "period_closed", "threshold_added", "carried_over", "backfill", "muted", "already_told"}
	metricConnections = []string{"tick", "lead", "listen"}
)

// Metrics is what the worker tells Prometheus, in a registry of its own. No
// label ever holds an id: the number of series does not grow with users. Each
// worker reports what it did itself, so sum over the replicas.
type Metrics struct {
	Leader               prometheus.Gauge
	Rows                 prometheus.Counter
	CommitToAlert        prometheus.Histogram // seconds
	Rings                prometheus.Counter
	Polls                prometheus.Counter
	MissedRings          prometheus.Counter
	UsersSetAside        prometheus.Counter
	UsersDeferred        prometheus.Counter
	RowsSkipped          prometheus.Counter
	Recounts             prometheus.Counter
	ReconcileDifferences prometheus.Counter
	ReconcileLastSuccess prometheus.Gauge // Unix time
	BellArmed            prometheus.Gauge

	uncounted   atomic.Pointer[time.Time]
	headroom    headroomCollector
	backlogs    backlogCollector
	registry    *prometheus.Registry
	lastTick    prometheus.Gauge
	ticks       *prometheus.CounterVec
	tickSeconds prometheus.Histogram
	alerts      *prometheus.CounterVec
	budgets     *prometheus.CounterVec
	reconnects  *prometheus.CounterVec
	deliveries  *prometheus.CounterVec
	delivered   *prometheus.HistogramVec
}

// NewMetrics registers everything, with a zero for each series that is known
// in advance, so that the first increase of each is seen by rate().
func NewMetrics(version, commit string) *Metrics {
	r := prometheus.NewRegistry()
	m := &Metrics{
		Leader:               newGauge(r, "leader", "Whether this worker leads (1) or not (0)."),
		Rows:                 newCounter(r, "rows_total", "Rows of usage counted by window ticks."),
		Rings:                newCounter(r, "rings_total", "Notifications heard from the bell."),
		Polls:                newCounter(r, "polls_total", "Looks for work that no ring asked for."),
		MissedRings:          newCounter(r, "missed_rings_total", "Looks of a sleeping leader that found usage which no ring had announced."),
		UsersSetAside:        newCounter(r, "users_set_aside_total", "Users set aside because their data made a statement fail."),
		UsersDeferred:        newCounter(r, "users_deferred_total", "Users told at a later tick because the host held their row."),
		RowsSkipped:          newCounter(r, "rows_skipped_total", "Rows not counted for want of a usable created_at."),
		Recounts:             newCounter(r, "recounts_total", "Periods of users counted anew after a correction."),
		ReconcileDifferences: newCounter(r, "reconcile_differences_total", "Totals that reconciliation found to differ from the rows."),
		ReconcileLastSuccess: newGauge(r, "reconcile_last_success_timestamp_seconds", "Unix time of the last reconciliation that ended, 0 before the first."),
		lastTick:             newGauge(r, "last_tick_timestamp_seconds", "Unix time of the last tick that completed or found nothing, 0 before the first."),
		BellArmed:            newGauge(r, "bell_armed", "Whether the bell is armed, so that inserts ring (1), or not (0)."),
		CommitToAlert: newHistogram(r, "commit_to_alert_seconds", "Seconds from the commit of the usage to the commit of its alert.",
			.001, .002, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 600),
		tickSeconds: newHistogram(r, "tick_seconds", "Seconds that completed ticks took.",
			.0005, .001, .002, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60),
		ticks:      newCounters(r, "ticks_total", "Ticks by kind and outcome.", "kind", "outcome"),
		alerts:     newCounters(r, "alerts_total", "Thresholds crossed, by threshold in percent and by what became of it: sent, or the reason why not.", "threshold", "reason"),
		budgets:    newCounters(r, "budget_alerts_total", "Thresholds of organizations' budgets crossed, by threshold in percent and by what became of it: sent, or the reason why not.", "threshold", "reason"),
		reconnects: newCounters(r, "reconnects_total", "Connections opened again after a failure.", "connection"),
		registry:   r,
	}
	m.deliveries = newCounters(r, "deliveries_total", "Attempts to hand an alert over to a channel, by what became of them: delivered, retried (it failed and is tried again) or failed (for good).", "channel", "outcome")
	m.delivered = newHistograms(r, "alert_to_delivery_seconds", "Seconds from an alert to its being handed over to a channel.", "channel",
		.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400)
	for _, kind := range metricKinds {
		for _, outcome := range metricOutcomes {
			m.ticks.WithLabelValues(kind, outcome)
		}
	}
	for _, connection := range metricConnections {
		m.reconnects.WithLabelValues(connection)
	}
	r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "tokenalert", Name: "oldest_uncounted_commit_seconds",
		Help: "Age of the oldest commit that may not be counted yet, 0 when all are. A tick under way counts from its beginning.",
	}, func() float64 {
		since := m.uncounted.Load()
		if since == nil {
			return 0
		}
		return time.Since(*since).Seconds()
	}))
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "tokenalert_build_info",
		Help:        "Always 1; the labels say what runs.",
		ConstLabels: prometheus.Labels{"version": version, "commit": commit, "goversion": runtime.Version()},
	})
	info.Set(1)
	r.MustRegister(info, &m.headroom, &m.backlogs, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// SetThresholds starts the series of the thresholds in force, in percent.
func (m *Metrics) SetThresholds(thresholds ...int) {
	for _, threshold := range thresholds {
		for _, reason := range metricReasons {
			m.alerts.WithLabelValues(strconv.Itoa(threshold), reason)
			m.budgets.WithLabelValues(strconv.Itoa(threshold), reason)
		}
		m.budgets.WithLabelValues(strconv.Itoa(threshold), string(ReasonNoAdmin))
	}
}

// Tick counts a tick that took so long and ended now. Only completed ticks
// enter the histogram: those that find nothing would hide them.
func (m *Metrics) Tick(kind, outcome string, took time.Duration) {
	m.ticks.WithLabelValues(kind, outcome).Inc()
	switch outcome {
	case OutcomeCompleted:
		m.tickSeconds.Observe(took.Seconds())
		m.lastTick.SetToCurrentTime()
	case OutcomeEmpty:
		m.lastTick.SetToCurrentTime()
	}
}

// UncountedSince says that commits since then may not be counted yet.
func (m *Metrics) UncountedSince(since time.Time) { m.uncounted.Store(&since) }

// AllCounted says that none was left a moment ago.
func (m *Metrics) AllCounted() { m.uncounted.Store(nil) }

// Headroom says how far the server was from refusing a moment ago; nil: nobody
// knows, or another worker leads and says it.
func (m *Metrics) Headroom(h *store.Headroom) { m.headroom.last.Store(h) }

// headroomCollector has series only while there is something to say.
type headroomCollector struct {
	last atomic.Pointer[store.Headroom]
}

var (
	connectionsFree    = newDesc("database_connections_free", "Connections that the server, the database or this role still allows, the least of the three.")
	transactionIDsFree = newDesc("database_transaction_ids_free", "Transaction ids, or multixact ids where they are fewer, until the server refuses to write.")
	notificationQueue  = newDesc("database_notification_queue_ratio", "How full the server's notification queue is, from 0 to 1; from 0.5 on the bell stays mute.")
	passwordExpiry     = newDesc("database_password_expiry_timestamp_seconds", "Unix time at which the password of the worker's role expires; no series where it never does.")
)

// Describe sends the descriptions of all that Collect may send.
func (c *headroomCollector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{connectionsFree, transactionIDsFree, notificationQueue, passwordExpiry} {
		to <- d
	}
}

// Collect sends what was seen last.
func (c *headroomCollector) Collect(to chan<- prometheus.Metric) {
	h := c.last.Load()
	if h == nil {
		return
	}
	gauge := func(d *prometheus.Desc, value float64) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value)
	}
	gauge(connectionsFree, float64(h.Connections))
	gauge(transactionIDsFree, float64(h.TransactionIDs))
	gauge(notificationQueue, h.NotificationQueue)
	if h.PasswordExpires != nil {
		gauge(passwordExpiry, float64(h.PasswordExpires.Unix()))
	}
}

func newDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName("tokenalert", "", name), help, nil, nil)
}

// The outcomes of an attempt to deliver, as a metric's label.
const (
	OutcomeDelivered = "delivered"
	OutcomeRetried   = "retried"
)

// SetChannels starts the series of the channels that are set up.
func (m *Metrics) SetChannels(channels ...string) {
	for _, channel := range channels {
		for _, outcome := range []string{OutcomeDelivered, OutcomeRetried, OutcomeFailed} {
			m.deliveries.WithLabelValues(channel, outcome)
		}
		m.delivered.WithLabelValues(channel)
	}
}

// Delivery counts an attempt to deliver an alert that was written so long ago.
func (m *Metrics) Delivery(channel, outcome string, age time.Duration) {
	m.deliveries.WithLabelValues(channel, outcome).Inc()
	if outcome == OutcomeDelivered {
		m.delivered.WithLabelValues(channel).Observe(max(age.Seconds(), 0))
	}
}

// Backlogs says what waited to be delivered a moment ago, by each channel that
// is set up or has something waiting; nil: nobody knows, or another worker leads
// and says it.
func (m *Metrics) Backlogs(b []store.Backlog) {
	if b == nil {
		m.backlogs.last.Store(nil)
		return
	}
	m.backlogs.last.Store(&b)
}

// backlogCollector has series only while there is something to say.
type backlogCollector struct {
	last atomic.Pointer[[]store.Backlog]
}

var (
	deliveriesWaiting = prometheus.NewDesc("tokenalert_deliveries_waiting", "Alerts that wait to be handed over to a channel, those included that are tried again later.", []string{"channel"}, nil)
	deliveryOldest    = prometheus.NewDesc("tokenalert_deliveries_oldest_seconds", "Age of the oldest alert that waits to be handed over to a channel, 0 when none does.", []string{"channel"}, nil)
)

// Describe sends the descriptions of all that Collect may send.
func (c *backlogCollector) Describe(to chan<- *prometheus.Desc) {
	to <- deliveriesWaiting
	to <- deliveryOldest
}

// Collect sends what was seen last.
func (c *backlogCollector) Collect(to chan<- prometheus.Metric) {
	backlogs := c.last.Load()
	if backlogs == nil {
		return
	}
	for _, b := range *backlogs {
		age := 0.0
		if b.Waiting > 0 {
			age = time.Since(b.Oldest).Seconds()
		}
		to <- prometheus.MustNewConstMetric(deliveriesWaiting, prometheus.GaugeValue, float64(b.Waiting), b.Channel)
		to <- prometheus.MustNewConstMetric(deliveryOldest, prometheus.GaugeValue, max(age, 0), b.Channel)
	}
}

// Alert counts a crossing of a threshold, in percent: ReasonSent, or the
// reason of alert.suppressed.
func (m *Metrics) Alert(threshold int, reason string) {
	m.alerts.WithLabelValues(strconv.Itoa(threshold), reason).Inc()
}

// BudgetAlert counts a crossing of a threshold of a budget likewise.
func (m *Metrics) BudgetAlert(threshold int, reason string) {
	m.budgets.WithLabelValues(strconv.Itoa(threshold), reason).Inc()
}

// Reconnected counts a connection (tick, lead or listen) that was opened again.
func (m *Metrics) Reconnected(connection string) {
	m.reconnects.WithLabelValues(connection).Inc()
}

// Handler serves the metrics, in the format that the request asks for.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{EnableOpenMetrics: true})
}

func newCounter(r *prometheus.Registry, name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Namespace: "tokenalert", Name: name, Help: help})
	r.MustRegister(c)
	return c
}

func newCounters(r *prometheus.Registry, name, help string, labels ...string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "tokenalert", Name: name, Help: help}, labels)
	r.MustRegister(c)
	return c
}

func newHistograms(r *prometheus.Registry, name, help, label string, buckets ...float64) *prometheus.HistogramVec {
	h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: "tokenalert", Name: name, Help: help, Buckets: buckets}, []string{label})
	r.MustRegister(h)
	return h
}

func newGauge(r *prometheus.Registry, name, help string) prometheus.Gauge {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "tokenalert", Name: name, Help: help})
	r.MustRegister(g)
	return g
}

func newHistogram(r *prometheus.Registry, name, help string, buckets ...float64) prometheus.Histogram {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "tokenalert", Name: name, Help: help, Buckets: buckets})
	r.MustRegister(h)
	return h
}
