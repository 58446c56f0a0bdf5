package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"go.uber.org/zap"

	"tokenalert/store"
)

// Pacing that no setting needs to change.
const (
	// settleAfter is how long nothing must have come before the bell is armed.
	settleAfter = 30 * time.Millisecond
	// awakePause bounds the pause between looks until then.
	awakePause = 10 * time.Millisecond
	// pollFirst is the pause between looks without a bell, before it backs off
	// to TOKENALERT_PAUSE_MAX.
	pollFirst = 50 * time.Millisecond
	// The pause after a tick, in what it took to count: see pauseAfter. A tick costs
	// much the same for one row as for many. So counting those that tell nobody takes
	// a quarter of the time at most where few come, and a twentieth where hundreds
	// come between two ticks, and the host's CPU may be the limit.
	pausePerCost, pausePerCostMax = 3, 20
	// rowsPerPause is for how many rows found the pause is longer by one cost.
	rowsPerPause = 20
	// headroomEvery is how often the server is asked what it still allows.
	headroomEvery = time.Minute
	// failureMax bounds the pause after ticks that fail again and again.
	failureMax = 5 * time.Second
)

// loop is the leader's clock: when to tick. What a tick does is in tick.go.
type loop struct {
	*Worker
	bell *bell

	periods  *store.Periods
	lastNow  time.Time       // the database's clock at the last tick
	kind     store.Kind      // of the next tick; "": window
	settings *store.Settings // that it puts in force; nil: those that are stay
	inForce  *store.Settings // before it
	added    []int32
	slice    int64 // rows that are counted in TOKENALERT_TICK_TARGET
	most     int64 // rows of the next tick at the most; 0: what the slice has it
	correct  int64 // users whose corrections a tick deals with
	decide   int64 // users and periods that it decides on
	timeouts int   // of ticks since the last that succeeded
	isolated bool
	aside    map[store.Subject]time.Time // whose data made a statement fail, and until when

	begin chan struct{} // pokes beginBudgets

	unrung   bool // a look found usage while asleep, and no ring had come for it
	planned  bool // a tick has found work: what the next ones cost is work alone
	failures int
	behind   time.Time     // since when ticks have left rows to the next; zero: the last left none
	waited   time.Duration // how long the oldest of these had as that tick began
	least    time.Duration // that counting has taken a tick; 0: not known
	looked   time.Time     // when the server was asked what it still allows
	lastGood time.Time     // when a tick last succeeded or found nothing
	silent   time.Time     // since when no answer has come on the connections of ticks; zero: one came
}

func (w *Worker) newLoop(b *bell) *loop {
	slice := max(firstRate*w.config.TickTarget.Milliseconds(), minSlice)
	return &loop{
		Worker: w, bell: b, begin: make(chan struct{}, 1),
		slice: slice, correct: store.MaxCorrections, decide: decisionsPerTick,
	}
}

// run ticks until stop ends, which it looks at between ticks; working ends when
// the lead is lost, or the grace is over, and cancels the tick under way.
func (l *loop) run(stop, working context.Context) error {
	// A pause, however long, ends with the lead as well.
	stop, cancel := context.WithCancel(stop)
	defer cancel()
	defer context.AfterFunc(working, cancel)()
	defer l.metrics.Headroom(nil)
	l.lastGood = time.Now()
	if err := l.prepare(working); err != nil {
		return err
	}
	for stop.Err() == nil {
		if err := l.busy(stop, working); err != nil || stop.Err() != nil {
			return err
		}
		if err := l.idle(stop, working); err != nil {
			return err
		}
	}
	return nil
}

// prepare compares the settings in force with ours. Where they differ, the next
// tick is a full count that puts ours in force, in one transaction; else it counts
// the window.
func (l *loop) prepare(ctx context.Context) error {
	asking, cancel := l.briefly(ctx)
	defer cancel()
	inForce, err := l.store.Settings(asking)
	if err != nil {
		return err
	}
	changes := l.settingChanges(inForce)
	l.kind, l.settings, l.added = "", nil, nil
	l.inForce = cmp.Or(inForce, &store.Settings{})
	switch {
	case inForce == nil:
		l.kind, l.settings = store.First, l.mine
	case len(changes) > 0:
		l.kind, l.settings = store.Full, l.mine
		for _, t := range l.mine.Thresholds {
			if !slices.Contains(inForce.Thresholds, t) {
				l.added = append(l.added, t)
			}
		}
	}
	for _, c := range changes {
		l.log.Info("putting a setting in force", Event(EventSettingsChanged),
			zap.String("setting", c.name), zap.String("before", c.inForce), zap.String("after", c.configured))
	}
	return nil
}

// busy ticks, with pauses after what a tick costs, until nothing has come for a
// while. The bell is silenced beside the first tick: an insert in between rings
// in vain, which costs less than waiting for it.
func (l *loop) busy(stop, working context.Context) error {
	silenced := make(chan error, 1)
	go func() { silenced <- l.bell.silence(working) }()
	worked, pause, err := l.tick(working)
	if silenceErr := <-silenced; err == nil {
		err = silenceErr
	}
	var quiet time.Duration
	for err == nil {
		l.lookAtHeadroom(working)
		if !l.wait(stop, pause) {
			return nil
		}
		if worked {
			quiet = 0
		} else if quiet += pause; quiet >= settleAfter {
			return nil
		}
		if !worked && l.kind == "" {
			var p store.Poll
			if p, err = l.poll(working); err == nil && !p.Work {
				pause = min(pause*2, awakePause)
				continue
			}
		}
		if err == nil {
			worked, pause, err = l.tick(working)
		}
	}
	return l.ended(working, err)
}

// idle returns when there is work, or on stop.
func (l *loop) idle(stop, working context.Context) error {
	if l.bell.muted {
		return l.pollUntilWork(stop, working)
	}
	select {
	case <-l.bell.rung: // while awake; the looks below see what it was for
	default:
		if l.unrung {
			l.metrics.MissedRings.Inc()
		}
	}
	l.unrung = false
	if err := l.bell.arm(working); err != nil {
		return l.ended(working, err)
	}
	asking, cancel := l.briefly(working)
	barrier, err := l.store.TransactionID(asking)
	cancel()
	if err != nil {
		return l.ended(working, err)
	}
	settled := false // nobody who looked at the bell before it was armed still runs
	due := false     // what nobody rings for
	for pause := l.config.PauseMin; ; pause = min(pause*2, l.config.PauseMax) {
		p, err := l.poll(working)
		if err != nil || p.Work {
			l.unrung = err == nil && settled && !due
			return l.ended(working, err)
		}
		l.lookAtHeadroom(working)
		if settled = settled || p.Xmin >= barrier; settled {
			// The look that follows bounds what a lost ring can cost.
			pause = l.config.BellRenewal
			if due = 0 < p.Due && p.Due < pause; due {
				pause = p.Due
			}
		}
		if l.sleep(stop, pause) {
			return nil
		}
	}
}

// lookAtHeadroom asks the server what it still allows, where that is due: between
// ticks, on their connection, and never before the first.
func (l *loop) lookAtHeadroom(ctx context.Context) {
	if time.Since(l.looked) < headroomEvery {
		return
	}
	l.looked = time.Now()
	looking, cancel := context.WithTimeout(ctx, l.config.LeadTimeout)
	defer cancel()
	h, err := l.store.Headroom(looking)
	if err == nil {
		l.metrics.Headroom(&h)
		return
	}
	l.metrics.Headroom(nil)
	if ctx.Err() == nil {
		l.log.Warn("the server was not asked what it still allows", Event(EventHeadroomUnknown),
			zap.String("sqlstate", store.SQLState(err)), zap.Error(err))
	}
}

func (l *loop) pollUntilWork(stop, working context.Context) error {
	for pause := min(pollFirst, l.config.PauseMax); ; pause = min(pause*2, l.config.PauseMax) {
		if l.sleep(stop, pause) {
			return nil
		}
		if p, err := l.poll(working); err != nil || p.Work {
			return l.ended(working, err)
		}
		l.lookAtHeadroom(working)
	}
}

// sleep reports whether it was woken before d had passed: rung, or stop.
func (l *loop) sleep(stop context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-stop.Done():
		return true
	case <-l.bell.rung:
		l.health.Beat()
		return true
	case <-t.C:
		l.health.Beat()
		return false
	}
}

func (l *loop) poll(ctx context.Context) (store.Poll, error) {
	l.metrics.Polls.Inc()
	asking, cancel := l.briefly(ctx)
	defer cancel()
	p, err := l.store.Poll(asking)
	if err == nil {
		l.silent = time.Time{}
		now := time.Now()
		l.lastGood = now
		l.health.DatabaseOK(now)
		if !p.Work {
			l.health.Ticked(now)
			l.metrics.AllCounted()
		}
	}
	return p, err
}

// endsLead reports whether another attempt under the same lead would fail as this did.
func endsLead(err error) bool {
	return slices.ContainsFunc([]error{
		errLead, errUnanswered, store.ErrReadOnly, store.ErrForeignChain, store.ErrSchema, store.ErrOtherSettings,
	}, func(end error) bool { return errors.Is(err, end) })
}

// ended decides what an error outside of a tick means: the lead goes with its
// session; anything else is tried again.
func (l *loop) ended(working context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case working.Err() != nil:
		return context.Cause(working)
	case endsLead(err):
		return err
	}
	pause, err := l.failed(store.Window, err)
	if err == nil {
		l.wait(working, pause)
	}
	return err
}

// briefly bounds what takes milliseconds, or waits for whoever rewrites a table; the
// tick that follows, which waits for no lock, says which.
func (l *loop) briefly(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, l.patience())
}

// errUnanswered ends a lead, see unanswered.
var errUnanswered = errors.New("no answer on the connections of ticks")

// unanswered reports whether the connections of ticks have been without an answer
// for so long that another replica had better lead. Ticks may go another way than the
// lead's session, through a pooler, which may be dead while that lives.
func (l *loop) unanswered(err error) bool {
	if !store.IsUnanswered(err) {
		l.silent = time.Time{}
		return false
	}
	if l.silent.IsZero() {
		l.silent = time.Now()
	}
	return time.Since(l.silent) > 2*l.patience()
}

// failed counts a failure, says so, and returns how long to wait; an error where the
// lead is to be given up.
func (l *loop) failed(kind store.Kind, err error) (time.Duration, error) {
	l.failures++
	pause := min(l.config.PauseMin<<min(l.failures, 16), failureMax)
	pause = pause/2 + rand.N(pause/2+1)
	l.metrics.UncountedSince(l.lastGood.Add(-l.waited))
	sqlstate, silent := store.SQLState(err), l.unanswered(err)
	err = store.Discreet(err)
	l.health.DatabaseFailed(err.Error())
	if sqlstate == "" { // not the server's answer: the connection broke
		l.metrics.Reconnected("tick")
	}
	l.log.Warn("the tick was rolled back; trying again", Event(EventTickFailed), zap.String("kind", string(kind)),
		zap.String("sqlstate", sqlstate), zap.Error(err), zap.Duration("retry_ms", pause))
	if silent {
		return 0, fmt.Errorf("%w: %w", errUnanswered, err)
	}
	return pause, nil
}
