package delivery

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"time"

	"github.com/riverqueue/river"
	"go.uber.org/zap"

	"tokenalert/store"
	"tokenalert/worker"
)

// How a replica works on the queue.
const (
	// fetchAfter is how long a wake-up waits for others.
	fetchAfter = 20 * time.Millisecond
	// pollEvery bounds what a lost wake-up can cost.
	pollEvery = 10 * time.Second
	// rescueAfter is when a job is taken from a worker that died with it.
	rescueAfter = 2 * time.Minute
	// keepDelivered and keepFailed are how long they can be listed.
	keepDelivered = 7 * 24 * time.Hour
	keepFailed    = 30 * 24 * time.Hour
	// reconnectAfter is the pause before the queue is opened again.
	reconnectAfter = time.Second
	// backlogEvery is how often it is looked what waits.
	backlogEvery = time.Minute
)

// workers are how many deliveries a replica hands over at a time, by channel.
var workers = map[string]int{Notification: 2, Email: 40, Webhook: 8}

// Deliverer works on the queue of deliveries, as one of the replicas.
type Deliverer struct {
	Channels Channels
	Words    *worker.Words
	Log      *zap.Logger
	Metrics  *worker.Metrics
	// OpenQueue opens the queue's database.
	OpenQueue func(river.Config) (*store.Queue, error)
	// OpenNotifications opens the other database; used where there is one.
	OpenNotifications func() (*store.Store, error)
	// Zone is whose dates a message names: of the zone of a policy, or where it has
	// none of the settings.
	Zone func(policy *string) *time.Location
	// Grace bounds how long a stop waits for what is being handed over.
	Grace time.Duration

	pace pace
}

// pace are the times that a test shortens.
type pace struct {
	first time.Duration // see pauseAfter
	poll  time.Duration // see pollEvery
}

// Run delivers until ctx ends. It waits for a database that is away.
func (d *Deliverer) Run(ctx context.Context) error {
	d.Metrics.SetChannels(d.Channels.Names()...)
	defer d.Metrics.Backlogs(nil)
	d.pace = pace{cmp.Or(d.pace.first, firstPause), cmp.Or(d.pace.poll, pollEvery)}
	jobs := &attempts{Deliverer: d, channels: map[string]channel{}}
	queues := map[string]river.QueueConfig{}
	for _, name := range d.Channels.Names() {
		queues[name] = river.QueueConfig{MaxWorkers: workers[name]}
	}
	registered := river.NewWorkers()
	river.AddWorker(registered, jobs)
	q, err := d.OpenQueue(river.Config{
		Queues: queues, Workers: registered, Logger: riverLog(d.Log),
		FetchPollInterval: d.pace.poll, FetchCooldown: fetchAfter, JobTimeout: attemptTimeout, RescueStuckJobsAfter: rescueAfter,
		CompletedJobRetentionPeriod: keepDelivered, CancelledJobRetentionPeriod: keepFailed, DiscardedJobRetentionPeriod: keepFailed,
		ReindexerSchedule: river.NeverSchedule(), // which only an owner may
	})
	if err != nil {
		return err
	}
	stuck := false
	defer func() {
		if !stuck { // Close waits for connections in use
			q.Close()
		}
	}()
	jobs.queue = q
	for _, name := range d.Channels.Names() {
		switch name {
		case Notification:
			s, err := d.OpenNotifications()
			if err != nil {
				return err
			}
			defer s.Close()
			jobs.channels[name] = &inbox{Deliverer: d, store: s}
		case Email:
			jobs.channels[name] = &mailer{Deliverer: d, queue: q}
		case Webhook:
			jobs.channels[name] = &hooker{Deliverer: d}
		}
	}
	if !d.start(ctx, q) {
		return nil
	}
	d.Log.Info("delivering", worker.Event(worker.EventDeliveryStarted), zap.String("channels", strings.Join(d.Channels.Names(), ",")))
	d.watch(ctx, q)
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.Grace/2)
	defer cancel()
	if q.Stop(stopping) != nil { // what is being handed over takes too long
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.Grace/4)
		defer cancel()
		stuck = q.StopAndCancel(stopping) != nil // what it leaves is rescued
	}
	return nil
}

// start starts River, as often as it takes, and reports whether it runs.
func (d *Deliverer) start(ctx context.Context, q *store.Queue) bool {
	for {
		err := d.open(ctx, q)
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		d.Log.Warn("the queue of deliveries cannot be opened; trying again", worker.Event(worker.EventDeliveryQueue),
			zap.Error(err), zap.Duration("retry_ms", reconnectAfter))
		select {
		case <-ctx.Done():
			return false
		case <-time.After(reconnectAfter):
		}
	}
}

// open starts River once the database has answered: what River asks as it starts
// has no bound of its own, and hears of no stop.
func (d *Deliverer) open(ctx context.Context, q *store.Queue) error {
	asking, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	if err := q.Ping(asking); err != nil {
		return err
	}
	return q.Start(context.WithoutCancel(ctx)) // Stop ends it
}

// watch says what waits, until ctx ends.
func (d *Deliverer) watch(ctx context.Context, q *store.Queue) {
	t := time.NewTicker(backlogEvery)
	defer t.Stop()
	for {
		looking, cancel := context.WithTimeout(ctx, attemptTimeout)
		waiting, err := q.Backlogs(looking)
		cancel()
		if err == nil {
			d.Metrics.Backlogs(d.complete(waiting))
		} else {
			d.Metrics.Backlogs(nil)
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// complete adds the channels that nothing waits for.
func (d *Deliverer) complete(waiting []store.Backlog) []store.Backlog {
	seen := map[string]bool{}
	for _, b := range waiting {
		seen[b.Channel] = true
	}
	for _, name := range d.Channels.Names() {
		if !seen[name] {
			waiting = append(waiting, store.Backlog{Channel: name})
		}
	}
	return waiting
}

// writer writes an alert, with dates in its zone.
func (d *Deliverer) writer(a *store.ToldAlert) Writer {
	return Writer{Channels: d.Channels, Words: d.Words, Zone: d.Zone(a.TimeZone)}
}

// stopping reports whether an attempt ended with the process, not by itself.
func (d *Deliverer) stopping(ctx context.Context) bool {
	return ctx.Err() != nil && !errors.Is(context.Cause(ctx), context.DeadlineExceeded)
}
