package worker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"tokenalert/store"
)

// Bounds of the pause before the next attempt to connect.
const (
	firstRetry   = 100 * time.Millisecond
	longestRetry = time.Second
)

// connectWithin is how long connecting and looking at the database may take, on a
// machine that is busy, however short the lease.
const connectWithin = 5 * time.Second

// patience is that, or as long as the lead bears silence, which may be longer.
func (w *Worker) patience() time.Duration { return max(w.config.LeadTimeout, connectWithin) }

// warmEvery is how often a follower's session is made ready: before the pool
// would close it, which it does with one that was idle for a minute.
const warmEvery = 30 * time.Second

// releaseWithin bounds how long giving up the lead may take.
const releaseWithin = 2 * time.Second

// Worker runs one replica.
type Worker struct {
	config   Config
	store    *store.Store
	log      *zap.Logger
	metrics  *Metrics
	health   *Health
	zone     *time.Location
	words    *Words
	mine     *store.Settings // what this worker puts in force
	zones    zones           // those of policies
	channels []string        // by which alerts are delivered, besides the notification

	connected bool // the database has been fit to work on, once
}

// New makes a worker. The configuration must be valid.
func New(config Config, s *store.Store, log *zap.Logger, metrics *Metrics, health *Health) (*Worker, error) {
	zone, err := time.LoadLocation(config.TimeZone)
	if err != nil {
		return nil, fmt.Errorf("time zone: %w", err)
	}
	words, err := LoadWords(config.Templates, Language(config.Language))
	if err != nil {
		return nil, err
	}
	config.Thresholds = slices.Sorted(slices.Values(config.Thresholds))
	metrics.SetThresholds(config.Thresholds...)
	return &Worker{config: config, store: s, log: log, metrics: metrics, health: health, zone: zone, words: words, mine: config.inForce()}, nil
}

// DeliverBy has each alert queued for delivery by these channels, besides the
// notification. It is to be called before Run.
func (w *Worker) DeliverBy(channels ...string) { w.channels = channels }

// Words are the texts that this worker tells in.
func (w *Worker) Words() *Words { return w.words }

// Zone is whose dates they name: a policy's, or that of the settings where name
// is nil.
func (w *Worker) Zone(name *string) *time.Location {
	if name == nil {
		return w.zone
	}
	return w.zones.named(*name, w.zone)
}

// inForce are the settings that a worker of this configuration puts in force.
func (c Config) inForce() *store.Settings {
	s := &store.Settings{TimeZone: c.TimeZone, BellForced: c.Bell == "on", Worker: c.WorkerName}
	for _, t := range c.Thresholds {
		s.Thresholds = append(s.Thresholds, int32(t)) //nolint:gosec // a percentage, as Config was checked
	}
	return s
}

// Run follows and leads until ctx ends, which is a graceful stop and returns
// nil. A database that is away is waited for. It returns an error only where
// another attempt cannot help: before the database was ever fit to work on, a
// refused login, a missing schema, a chain from another cluster, a pooler that
// would hand the lead's session to others.
func (w *Worker) Run(ctx context.Context) error {
	pause := firstRetry
	for ctx.Err() == nil {
		before := time.Now()
		err := w.session(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if !w.connected && hopeless(err) {
			return err
		}
		if time.Since(before) > 2*longestRetry {
			pause = firstRetry
		}
		w.health.SetRole(RoleStarting)
		w.report(err, pause)
		w.store.Reset()
		w.metrics.Reconnected("lead")
		if !w.wait(ctx, pause/2+rand.N(pause)) {
			return nil
		}
		pause = min(2*pause, longestRetry)
	}
	return nil
}

// hopeless reports whether the next attempt would fail as this one did.
func hopeless(err error) bool {
	return store.IsRefused(err) || errors.Is(err, store.ErrSchema) || errors.Is(err, store.ErrForeignChain) ||
		errors.Is(err, store.ErrSharedSession)
}

// report says once why a session ended; how it goes on is Run's to decide.
func (w *Worker) report(err error, pause time.Duration) {
	w.health.DatabaseFailed(err.Error())
	reason := ""
	switch {
	case errors.Is(err, store.ErrOtherSettings): // said with the lead that is lost
		return
	case errors.Is(err, store.ErrSchema):
		reason = "schema_version"
	case errors.Is(err, store.ErrForeignChain):
		reason = "other_cluster"
	case errors.Is(err, store.ErrReadOnly):
		reason = "read_only"
	case errors.Is(err, store.ErrSharedSession):
		reason = "shared_session"
	default:
		w.log.Warn("the database does not answer; trying again", Event(EventDatabaseUnreachable),
			zap.String("sqlstate", store.SQLState(err)), zap.Error(err), zap.Duration("retry_ms", pause))
		return
	}
	w.log.Error("the worker must not work on this database", Event(EventDatabaseRefused),
		zap.String("reason", reason), zap.String("sqlstate", store.SQLState(err)), zap.Error(err))
}

// session is one life of the lead's connection: check the database, wait for
// the lead, lead. It returns why it ended.
func (w *Worker) session(ctx context.Context) error {
	connecting, cancel := context.WithTimeout(ctx, w.patience())
	lead, err := w.store.ConnectLead(connecting, w.config.LeadTimeout)
	if err != nil {
		cancel()
		return err
	}
	server, err := w.store.Check(connecting)
	cancel()
	if err != nil {
		lead.Close()
		return err
	}
	w.connected = true
	w.health.DatabaseOK(time.Now())
	w.log.Info("the database is fit to work on", Event(EventDatabaseConnected),
		zap.Int("server_version", server.VersionNum), zap.Int64("schema_version", server.SchemaVersion))
	waitingSince := time.Now()
	if err := w.follow(ctx, lead); err != nil {
		lead.Close()
		return err
	}
	// Time has passed; what was checked before the wait may have changed.
	if server, err = w.check(ctx); err != nil {
		lead.Close()
		return err
	}
	return w.lead(ctx, lead, server, time.Since(waitingSince))
}

func (w *Worker) check(ctx context.Context) (store.Server, error) {
	ctx, cancel := context.WithTimeout(ctx, w.config.LeadTimeout)
	defer cancel()
	return w.store.Check(ctx)
}

// follow waits for the lead. Each attempt is a sign of life to the server and
// from it.
func (w *Worker) follow(ctx context.Context, lead *store.Lead) error {
	var warmed time.Time
	var differing []settingChange
	for first := true; ; first = false {
		acquired, err := w.tryAcquire(ctx, lead)
		if err != nil {
			return err
		}
		w.health.Beat()
		w.health.DatabaseOK(time.Now())
		if acquired {
			return nil
		}
		if first {
			w.health.SetRole(RoleFollower)
			w.log.Info("another worker leads; waiting", Event(EventFollowerWaiting))
		}
		if time.Since(warmed) > warmEvery {
			warmed = time.Now()
			differing = w.compareSettings(ctx, differing)
			w.warm(ctx)
		}
		// No longer than the server bears without a word.
		pause := min(w.config.LeadRetry/2+rand.N(w.config.LeadRetry), w.config.LeadTimeout/2)
		if err := lead.Wait(ctx, pause); err != nil {
			return err
		}
	}
}

// warm has a session ready for the tick that comes first where this worker takes
// the lead, which would otherwise take ten times as long as those that follow.
// Where it fails, so will what it is for, and say so.
func (w *Worker) warm(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, w.config.LeadRetry)
	defer cancel()
	_ = w.store.Warm(ctx, w.config.TimeZone)
}

func (w *Worker) tryAcquire(ctx context.Context, lead *store.Lead) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, w.config.LeadTimeout)
	defer cancel()
	return lead.TryAcquire(ctx, w.config.WorkerName)
}

// settingChange is one setting that differs from what is in force.
type settingChange struct{ name, configured, inForce string }

func (w *Worker) settingChanges(inForce *store.Settings) []settingChange {
	if inForce == nil {
		return nil
	}
	mine := w.mine
	var changes []settingChange
	if mine.TimeZone != inForce.TimeZone {
		changes = append(changes, settingChange{"TOKENALERT_TIME_ZONE", mine.TimeZone, inForce.TimeZone})
	}
	if !slices.Equal(mine.Thresholds, inForce.Thresholds) {
		changes = append(changes, settingChange{"TOKENALERT_THRESHOLDS", listed(mine.Thresholds), listed(inForce.Thresholds)})
	}
	if mine.BellForced != inForce.BellForced {
		changes = append(changes, settingChange{"TOKENALERT_BELL", fmt.Sprint("forced: ", mine.BellForced), fmt.Sprint("forced: ", inForce.BellForced)})
	}
	return changes
}

// compareSettings says where this follower is configured otherwise than the
// leader, unless it is as it was said to be, and returns where. Where it fails,
// so will what the session is for, and say so.
func (w *Worker) compareSettings(ctx context.Context, said []settingChange) []settingChange {
	ctx, cancel := context.WithTimeout(ctx, w.config.LeadTimeout)
	defer cancel()
	inForce, err := w.store.Settings(ctx)
	if err != nil {
		return said
	}
	changes := w.settingChanges(inForce)
	if slices.Equal(changes, said) {
		return changes
	}
	for _, c := range changes {
		w.log.Warn("this worker is configured otherwise than what is in force", Event(EventSettingsDiffer),
			zap.String("setting", c.name), zap.String("configured", c.configured), zap.String("in_force", c.inForce))
	}
	return changes
}

// wait waits for d and reports whether ctx is still going on.
func (w *Worker) wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		w.health.Beat()
		return true
	}
}

func listed(n []int32) string {
	return strings.Trim(strings.Join(strings.Fields(fmt.Sprint(n)), ","), "[]")
}
