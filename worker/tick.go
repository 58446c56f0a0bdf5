package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"tokenalert/store"
)

// The slice: rows that are counted in TOKENALERT_TICK_TARGET, to which it adapts. A tick
// that finds more ends earlier than now.
const (
	firstRate = 60 // rows a millisecond that the first slice of a lead expects
	minSlice  = 1_000
	maxSlice  = 10_000_000
	// longestTarget is how many times TOKENALERT_TICK_TARGET a tick may take where rows
	// have waited for long, or catching up has lasted, and longestTick how long at the
	// most: far less than a tick's minute.
	longestTarget = 5
	longestTick   = 10 * time.Second
)

// decisionsPerTick bounds what one tick tells. Ten thousand users take it about a
// second; a million who cross in one transaction would take longer than a tick
// may, and whoever crosses meanwhile would wait for them all.
const decisionsPerTick = 10_000

// collisionPause is about how long to wait after a collision: whoever won is
// either about to learn that it does not lead, or leads.
const collisionPause = 100 * time.Millisecond

// tick ticks once. It reports whether there was work and how long to pause
// before the next; an error ends the lead.
func (l *loop) tick(ctx context.Context) (bool, time.Duration, error) {
	kind := cmp.Or(l.kind, store.Window)
	began := time.Now()
	if l.failures == 0 && l.behind.IsZero() {
		l.metrics.UncountedSince(began)
	}
	target := l.target()
	rows := l.rows(target)
	result, err := l.attempt(ctx, kind, rows)
	took := time.Since(began)
	if err != nil {
		return l.recover(ctx, kind, rows, err)
	}
	l.failures, l.timeouts = 0, 0
	l.lastGood = time.Now()
	l.health.Beat()
	l.health.DatabaseOK(l.lastGood)
	l.health.Ticked(l.lastGood)
	if !result.Work() {
		l.metrics.Tick(string(kind), OutcomeEmpty, took)
		if !l.behind.IsZero() { // and the log's last word would be that it is
			l.log.Info("the last tick had left nothing", Event(EventTickCompleted), zap.String("kind", string(kind)),
				zap.Int64("rows", 0), zap.Bool("bounded", false), zap.Duration("duration_ms", took), zap.Duration("behind_ms", 0))
		}
		l.caughtUp()
		return false, l.config.PauseMin, nil
	}
	l.metrics.Tick(string(kind), OutcomeCompleted, took)
	l.inForce = cmp.Or(l.settings, l.inForce)
	l.kind, l.settings, l.added, l.isolated = "", nil, nil, false
	wasBehind := !l.behind.IsZero()
	l.adapt(result, took, target, rows)
	l.tell(result, took, wasBehind)
	if result.BudgetBegins {
		l.beginBudgets()
	}
	if result.More() {
		return true, l.config.PauseMin, nil // catching up
	}
	if !l.planned {
		// Most of what the first one took is planning. Who comes next has waited
		// since before this worker led.
		l.planned = true
		return true, l.config.PauseMin, nil
	}
	counting := took - result.Telling
	if l.least == 0 || counting < l.least {
		l.least = counting
	}
	pause := pauseAfter(counting, l.least, result.Rows, rowsThatTold(result.Outcomes))
	return true, min(max(pause, l.config.PauseMin), l.config.PauseMax), nil
}

// pauseAfter follows a tick that counted so many rows for so long, of which so many
// told somebody. Each of those costs as much in a few ticks as in many, so that for
// them the pause need only be long beside what a tick costs before it tells: the
// least that one has taken to count. (Waiting for the disk is no work for the CPU.)
func pauseAfter(counting, least time.Duration, rows, told int64) time.Duration {
	untold := max(rows-told, 0)
	cost := float64(counting)
	if rows > 0 {
		cost *= float64(untold) / float64(rows)
	}
	costs := min(max(untold/rowsPerPause, pausePerCost), pausePerCostMax)
	return max(time.Duration(cost)*time.Duration(costs), least*pausePerCost)
}

// rowsThatTold counts the rows of a tick that each told a user: one is told of the
// highest threshold that they crossed, and for corrections and budgets there is no
// row of their own.
func rowsThatTold(outcomes []store.Outcome) int64 {
	n := int64(0)
	for _, o := range outcomes {
		if o.Inserted && o.OfRow() {
			n++
		}
	}
	return n
}

// errBeforehand is of what comes before a tick, and says nothing of how long that takes.
var errBeforehand = errors.New("before the tick")

func (l *loop) attempt(ctx context.Context, kind store.Kind, rows int64) (store.TickResult, error) {
	if !l.silent.IsZero() { // a tick would wait for a minute and more
		asking, cancel := l.briefly(ctx)
		err := l.store.Ping(asking)
		cancel()
		if err != nil {
			return store.TickResult{}, fmt.Errorf("%w: %w", errBeforehand, err)
		}
		l.silent = time.Time{}
	}
	if l.periods == nil || !l.lastNow.Before(l.periods.ValidUntil()) {
		asking, cancel := l.briefly(ctx)
		periods, err := l.store.Periods(asking, l.config.TimeZone)
		cancel()
		if err != nil {
			return store.TickResult{}, fmt.Errorf("%w: %w", errBeforehand, err)
		}
		l.periods = periods
		if periods.BudgetBegins() {
			l.beginBudgets()
		}
	}
	if kind != store.Window || l.timeouts > 0 {
		defer l.beatMeanwhile()()
	}
	r := rules{
		thresholds: l.mine.Thresholds,
		added:      l.added,
		backfill:   l.config.Backfill == "record",
		words:      l.words,
		link:       l.config.LinkURL,
		zone:       l.zone,
		zones:      &l.zones,
		channels:   l.channels,
	}
	if kind == store.Window {
		r.most = int(l.decide)
	}
	var at time.Time // of the tick
	result, err := l.store.Tick(ctx, store.TickRequest{
		Kind:    kind,
		Periods: l.periods,
		Floor:   l.config.Thresholds[0],
		InForce: l.inForce,
		Slice:   rows,
		Changes: func(now time.Time, c *store.Candidate) bool {
			_, _, changed := r.crossed(now, c)
			return changed
		},
		Decisions: int(l.decide),
		Corrected: l.correct,
		Timeouts:  l.timeouts,
		Worker:    l.config.WorkerName,
		// No longer than it takes to lose the lead.
		IdleTimeout: l.config.LeadTimeout,
		Isolated:    l.isolated,
		Settings:    l.settings,
		TellAdmins:  func(a *store.Alert, admins []store.Admin) { r.tellAdmins(at, a, admins) },
	}, func(kind store.Kind, now time.Time, candidates []store.Candidate) []store.Decision {
		at = now
		return r.decideAll(kind, now, l.withoutAside(now, candidates))
	})
	if err == nil {
		l.lastNow = result.Now
	}
	return result, err
}

// beatMeanwhile keeps the loop alive to /livez through a tick that may rightly take
// longer than a loop may be silent, until the returned function is called.
func (l *loop) beatMeanwhile() func() {
	counted, done := context.WithCancel(context.Background())
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		t := time.NewTicker(time.Second)
		defer t.Stop()
		for {
			select {
			case <-counted.Done():
				return
			case <-t.C:
				l.health.Beat()
			}
		}
	}()
	return func() { done(); <-finished }
}

// withoutAside leaves out who was set aside and uses more meanwhile, until their
// retry is due: they keep their marks, so nothing is lost, and they fail no tick.
// A correction that is due is not left out: it is used up, and may be what mends
// the data, or the retry itself, which the owner can have come sooner.
func (l *loop) withoutAside(now time.Time, candidates []store.Candidate) []store.Candidate {
	if len(l.aside) == 0 {
		return candidates
	}
	return slices.DeleteFunc(candidates, func(c store.Candidate) bool {
		until, ok := l.aside[c.Subject()]
		if ok && (c.Anew || !now.Before(until)) {
			delete(l.aside, c.Subject())
			ok = false
		}
		return ok
	})
}

// recover says how to go on after a tick of so many rows that was rolled back.
func (l *loop) recover(ctx context.Context, kind store.Kind, rows int64, err error) (bool, time.Duration, error) {
	switch {
	case ctx.Err() != nil:
		return false, 0, context.Cause(ctx)
	case errors.Is(err, store.ErrOtherSettings) && l.settings != nil:
		// They may be ours, by a tick that has committed without an answer. To put them
		// in force again would leave untold who has crossed a threshold since. Others are
		// those of a leader that came after this one.
		if err := l.prepare(ctx); err != nil {
			return l.retry(kind, err)
		}
		if l.settings != nil {
			return false, 0, err
		}
		return true, l.config.PauseMin, nil
	case endsLead(err):
		return false, 0, err
	case errors.Is(err, store.ErrNeedsFull):
		// The schema may have been taken down and up again under us: it then
		// has no settings in force.
		if err := l.prepare(ctx); err != nil {
			return l.retry(kind, err)
		}
		l.kind = cmp.Or(l.kind, store.Full)
		return true, 0, nil
	case errors.Is(err, store.ErrOtherZones):
		l.periods = nil
		return true, 0, nil
	case errors.Is(err, store.ErrRewritten):
		l.metrics.Tick(string(kind), OutcomeRewritten, 0)
		l.kind = cmp.Or(l.kind, store.Full)
		l.log.Info("the usage table was rewritten under the tick; counting all of it", Event(EventTickRewritten))
		return true, l.config.PauseMin, nil
	case errors.Is(err, store.ErrCollided):
		pause := collisionPause/2 + rand.N(collisionPause)
		l.metrics.Tick(string(kind), OutcomeCollided, 0)
		l.log.Warn("another worker wrote this tick first", Event(EventTickCollided), zap.Duration("retry_ms", pause))
		return true, pause, nil
	}
	l.metrics.Tick(string(kind), OutcomeFailed, 0)
	if store.IsData(err) && !l.isolated {
		l.isolated = true
	}
	if store.IsTimeout(err) && !errors.Is(err, errBeforehand) { // as much again would take as long: nobody would be told
		l.timeouts++
		l.most, l.slice = scaled(rows, 0.5, minSlice, maxSlice), scaled(l.slice, 0.5, minSlice, maxSlice)
		l.correct, l.decide = scaled(l.correct, 0.1, 1, store.MaxCorrections), scaled(l.decide, 0.1, 1, decisionsPerTick)
	}
	return l.retry(kind, err)
}

// retry has a tick that failed tried again, or the lead given up.
func (l *loop) retry(kind store.Kind, err error) (bool, time.Duration, error) {
	pause, err := l.failed(kind, err)
	return err == nil, pause, err
}

// adapt moves the slice toward what a tick of so many rows, which was to take as long as
// target, has shown, and after timeouts has more users corrected and told in a tick again,
// where that is short. It notes how far behind the tick has left us.
func (l *loop) adapt(result store.TickResult, took, target time.Duration, rows int64) {
	counting := max(took-result.Correcting-result.Telling, time.Millisecond) // those have bounds of their own
	if result.Kind == store.Window {
		if result.Bounded || counting > target {
			l.slice = scaled(rows, float64(l.config.TickTarget)/float64(counting), max(l.slice/2, minSlice), min(l.slice*2, maxSlice))
		}
		if result.Corrected >= l.correct && result.Correcting < l.config.TickTarget {
			l.correct = scaled(l.correct, 2, 1, store.MaxCorrections)
		}
		if result.Telling < l.config.TickTarget {
			l.decide = scaled(l.decide, 2, 1, decisionsPerTick)
		}
	}
	if !result.Bounded {
		l.caughtUp()
		return
	}
	if l.behind.IsZero() {
		l.behind = time.Now()
	}
	l.waited = result.Waited()
	// The next rows may be of many more users.
	l.most = scaled(rows, float64(l.target())/float64(counting), max(rows/2, minSlice), min(rows*4, maxSlice))
}

// target is how long a tick should take to count: where the one before has left rows, up
// to a quarter of how long the oldest of these has waited, or catching up has lasted. A
// tick costs as much for the first row of a user as for ten more, so that many users are
// counted several times as fast in a few ticks as in many. By the rows' wait alone, usage
// that comes as fast as it is counted would be followed at a distance, and not caught up
// with.
func (l *loop) target() time.Duration {
	target := l.config.TickTarget
	if l.behind.IsZero() {
		return target
	}
	lasted := max(l.waited, time.Since(l.behind))
	return min(max(lasted/4, target), longestTarget*target, longestTick)
}

// rows are those that a tick counts which is to take so long.
func (l *loop) rows(target time.Duration) int64 {
	n := scaled(l.slice, float64(target)/float64(l.config.TickTarget), minSlice, maxSlice)
	return min(n, cmp.Or(l.most, n))
}

func (l *loop) caughtUp() {
	l.behind, l.waited, l.most = time.Time{}, 0, 0
	l.metrics.AllCounted()
}

func scaled(n int64, factor float64, least, most int64) int64 {
	return min(max(int64(float64(n)*factor), least), most)
}

// tell says what a committed tick did: log lines and metrics.
func (l *loop) tell(result store.TickResult, took time.Duration, wasBehind bool) {
	if result.Bounded {
		l.metrics.UncountedSince(time.Now().Add(-took).Add(-l.waited))
	}
	if result.Kind == store.Window {
		l.metrics.Rows.Add(float64(result.Rows))
	}
	fields := []zap.Field{
		zap.Int64("tick", result.ID), zap.String("kind", string(result.Kind)),
		zap.Int64("rows", result.Rows), zap.Int64("users", result.Users), zap.Int("alerts", written(result.Outcomes)),
		zap.Int64("recounts", result.Recounts), zap.Int64("undecided", result.Left), zap.Bool("bounded", result.Bounded),
		zap.Duration("duration_ms", took), zap.Duration("behind_ms", l.waited),
	}
	if result.Kind == store.Window && len(result.Outcomes) == 0 && !result.Bounded && !wasBehind {
		l.log.Debug("tick completed", append(fields, Event(EventTickCompleted))...)
	} else {
		l.log.Info("tick completed", append(fields, Event(EventTickCompleted))...)
	}
	for _, o := range result.Outcomes {
		l.tellAlert(o)
	}
	if result.Recounts > 0 {
		l.metrics.Recounts.Add(float64(result.Counted))
		l.log.Info("corrected periods counted anew", Event(EventRecountDone),
			zap.Int64("users", result.Corrected), zap.Int64("periods", result.Counted))
	}
	if n := len(result.Held); n > 0 {
		l.metrics.UsersDeferred.Add(float64(n))
		l.log.Info("users held by the host are told at a later tick", Event(EventRecountDeferred), zap.Int("users", n))
	}
	for _, s := range result.SetAside {
		retry := result.Now.Add(store.SetAsideRetry)
		if l.aside == nil {
			l.aside = map[store.Subject]time.Time{}
		}
		// A little earlier than the correction that looks at the user again.
		l.aside[s.Subject] = retry.Add(-time.Second)
		l.metrics.UsersSetAside.Inc()
		whose := zap.Stringer("user", s.UserID)
		if s.BudgetOf != uuid.Nil {
			whose = zap.Stringer("organization", s.BudgetOf)
		}
		l.log.Error("the data of a user makes a statement fail; everyone else goes on", Event(EventUserSetAside),
			whose, zap.String("sqlstate", store.SQLState(s.Err)), zap.Error(store.Discreet(s.Err)), zap.Time("retry_at", retry))
	}
	if result.Skipped > 0 {
		l.metrics.RowsSkipped.Add(float64(result.Skipped))
		l.log.Warn("rows without a usable created_at were not counted", Event(EventRowsSkipped), zap.Int64("rows", result.Skipped))
	}
}

func (l *loop) tellAlert(o store.Outcome) {
	reason := Reason(o.Reason)
	if !o.Inserted {
		reason = ReasonAlreadyTold
	}
	fields := []zap.Field{
		zap.Stringer("user", o.UserID), zap.Stringer("organization", o.OrganizationID), zap.Int32("threshold", o.Threshold),
		zap.Float64("percent", float64(o.PercentTenths)/10), zap.Int64("used", o.TokensUsed), zap.Int64("limit", o.TokenLimit),
		zap.Time("period_start", o.PeriodStart), zap.Time("period_end", o.PeriodEnd),
	}
	if o.UserID == uuid.Nil {
		l.tellBudgetAlert(o, reason, fields[1:])
		return
	}
	if reason != ReasonNone {
		l.metrics.Alert(int(o.Threshold), string(reason))
		l.log.Info("threshold crossed, user not told", append(fields, Event(EventAlertSuppressed), zap.String("reason", string(reason)))...)
		return
	}
	l.metrics.Alert(int(o.Threshold), ReasonSent)
	fields = append(fields, zap.Stringer("notification", o.NotificationID))
	if o.Latency != nil {
		from := "row"
		if o.FromCommit {
			from = "commit"
		}
		l.metrics.CommitToAlert.Observe(o.Latency.Seconds())
		fields = append(fields, zap.Duration("latency_ms", *o.Latency), zap.String("latency_from", from))
	}
	l.log.Info("user told", append(fields, Event(EventAlertSent))...)
}

func (l *loop) tellBudgetAlert(o store.Outcome, reason Reason, fields []zap.Field) {
	if reason != ReasonNone {
		l.metrics.BudgetAlert(int(o.Threshold), string(reason))
		l.log.Info("threshold of a budget crossed, nobody told", append(fields, Event(EventBudgetSuppressed), zap.String("reason", string(reason)))...)
		return
	}
	l.metrics.BudgetAlert(int(o.Threshold), ReasonSent)
	l.log.Info("admins told of a budget", append(fields, Event(EventBudgetSent), zap.Stringer("notification", o.NotificationID), zap.Int("admins", len(o.Admins)))...)
}

// written counts the alert rows among the outcomes.
func written(outcomes []store.Outcome) int {
	n := 0
	for _, o := range outcomes {
		if o.Inserted {
			n++
		}
	}
	return n
}
