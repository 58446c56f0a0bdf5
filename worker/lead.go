package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"tokenalert/store"
)

// errStopping ends the goroutines of a leader that stops on purpose.
var errStopping = errors.New("stopping")

// lead leads until ctx ends (a graceful stop: the tick under way is finished or,
// where the grace does not last, rolled back) or until the lead is lost: then
// whatever goes on is cancelled at once. It closes the lead.
func (w *Worker) lead(ctx context.Context, lead *store.Lead, server store.Server, waited time.Duration) error {
	since := time.Now()
	w.health.SetRole(RoleLeader)
	w.metrics.Leader.Set(1)
	defer w.metrics.Leader.Set(0)
	defer w.metrics.AllCounted() // the next leader's to say
	w.log.Info("leading", Event(EventLeaderAcquired), zap.Duration("waited_ms", waited),
		zap.String("thresholds", listed(w.mine.Thresholds)), zap.String("time_zone", w.mine.TimeZone), zap.String("bell", w.config.Bell))

	// Outlives ctx by what the grace leaves for the tick.
	working, abandon := context.WithCancelCause(context.WithoutCancel(ctx))
	defer abandon(errStopping)
	stopGrace := context.AfterFunc(ctx, func() {
		t := time.AfterFunc(w.config.ShutdownGrace/2, func() { abandon(errStopping) })
		context.AfterFunc(working, func() { t.Stop() })
	})
	defer stopGrace()

	b := newBell(lead, w.config, w.metrics, w.log, w.bellMuted(server))
	doubt := make(chan struct{}, 1) // that the lead's session still is
	group, leading := errgroup.WithContext(working)
	l := w.newLoop(b)
	group.Go(func() error {
		if err := l.run(ctx, leading); err != nil {
			return err
		}
		return errStopping
	})
	group.Go(func() error { return w.keepAlive(leading, lead, b, doubt) })
	group.Go(func() error { return w.housekeeping(leading, b) })
	group.Go(func() error { return w.beginBudgets(leading, l.begin, b) })
	if !b.muted {
		group.Go(func() error { return w.listen(leading, b, doubt) })
	}
	err := group.Wait()
	if ctx.Err() != nil || errors.Is(err, errStopping) {
		// Said first, so that the next leader's line comes after it.
		w.log.Info("lead released", Event(EventLeaderReleased), zap.Duration("led_ms", time.Since(since)))
		releasing, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseWithin)
		defer cancel()
		if err := lead.Release(releasing); err != nil {
			return err
		}
		w.metrics.BellArmed.Set(0)
		return ctx.Err()
	}
	lead.Close()
	w.health.SetRole(RoleStarting) // before the line that says it
	w.log.Warn("lead lost", Event(EventLeaderLost), zap.Error(err), zap.Duration("led_ms", time.Since(since)))
	return err
}

// bellMuted says why the bell must not be used, "" where it may.
func (w *Worker) bellMuted(server store.Server) string {
	switch {
	case w.config.Bell == "off":
		return "TOKENALERT_BELL=off"
	case w.config.Bell == "auto" && server.PreparedTransactions:
		return "max_prepared_transactions is above 0, and PostgreSQL refuses PREPARE TRANSACTION after NOTIFY"
	}
	return ""
}

// keepAlive pings the lead's session, and renews the bell in place of a ping
// where that is due. A leader whose ping fails stops at once. It pings at once
// where there is doubt: the sooner a dead server is known for one, the sooner the
// next is looked for.
func (w *Worker) keepAlive(ctx context.Context, lead *store.Lead, b *bell, doubt <-chan struct{}) error {
	t := time.NewTicker(min(w.config.LeadPing, w.config.BellRenewal)) // which it does as well
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		case <-doubt:
		}
		// Twice the ping and less than the timeout: an answer that comes later
		// comes from a session whose lock may be gone.
		pinging, cancel := context.WithTimeout(context.WithoutCancel(ctx), w.config.LeadTimeout-w.config.LeadPing)
		// Cut off, it would close the session, which a leader that stops needs
		// to silence the bell and to release the lead.
		hurry := context.AfterFunc(ctx, func() { time.AfterFunc(releaseWithin, cancel) })
		renewed, err := b.renew(pinging)
		if err == nil && !renewed {
			err = lead.Ping(pinging)
		}
		hurry()
		cancel()
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("the lead's session does not answer: %w", err)
		}
		w.health.DatabaseOK(time.Now())
	}
}

// listen hears the bell on a connection of its own. Where that breaks, the lead's
// session is in doubt: at once, and again when there is a new connection, for a
// server that is dying may still have answered the first ping.
func (w *Worker) listen(ctx context.Context, b *bell, doubt chan<- struct{}) error {
	broke := false // both functions run on the listener's goroutine
	doubted := func() {
		select {
		case doubt <- struct{}{}:
		default: // it is
		}
	}
	err := w.store.Listen(ctx, func() {
		if broke {
			broke = false
			doubted()
		}
		w.metrics.Rings.Inc()
		b.poke()
	}, func(err error) {
		broke = true
		w.metrics.Reconnected("listen")
		w.log.Warn("the listener's connection broke", Event(EventListenerReconnecting), zap.Error(err), zap.Duration("retry_ms", time.Second))
		doubted()
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("listen: %w", err)
}

// How soon after taking the lead the first reconcile runs, and how often old
// ticks are pruned.
const (
	firstReconcile = 10 * time.Minute
	reconcileRetry = time.Hour // after one that failed
	pruneEvery     = time.Hour
	// reconcileLogEvery is how often one that takes long says how far it is.
	reconcileLogEvery = 30 * time.Second
)

// housekeeping reconciles and prunes. Its failures are logged, not fatal.
func (w *Worker) housekeeping(ctx context.Context, b *bell) error {
	prune := time.NewTicker(pruneEvery)
	defer prune.Stop()
	reconcile := time.NewTimer(min(firstReconcile, w.config.ReconcileInterval))
	defer reconcile.Stop()
	if w.config.ReconcileInterval == 0 {
		reconcile.Stop()
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-prune.C:
			w.prune(ctx)
		case <-reconcile.C:
			next := w.config.ReconcileInterval
			if !w.reconcile(ctx, b) {
				next = min(next, reconcileRetry)
			}
			reconcile.Reset(next)
		}
	}
}

func (w *Worker) prune(ctx context.Context) {
	pruned, err := w.store.Prune(ctx, w.config.TickRetention)
	if err != nil {
		if ctx.Err() == nil {
			w.log.Warn("old ticks were not pruned", Event(EventTicksPruned), zap.Error(err))
		}
		return
	}
	w.log.Debug("old ticks pruned", Event(EventTicksPruned), zap.Int64("ticks", pruned))
}

// reconcile compares the totals with the rows, and has those counted anew that
// differ. It reports whether it could.
func (w *Worker) reconcile(ctx context.Context, b *bell) bool {
	began := time.Now()
	l := NewReconcileLog(w.log, reconcileLogEvery)
	r, err := Reconcile(ctx, w.store, l.Progress, l.Again)
	for _, d := range r.Differences {
		w.metrics.ReconcileDifferences.Inc()
		user, organization := zap.Skip(), zap.Skip()
		if d.UserID != uuid.Nil {
			user = zap.Stringer("user", d.UserID)
		}
		if d.OrganizationID != uuid.Nil {
			organization = zap.Stringer("organization", d.OrganizationID)
		}
		w.log.Warn("a total differs from the rows", Event(EventReconcileDifference), user, organization,
			zap.Time("period_start", d.PeriodStart), zap.Int64("counted", d.Counted), zap.Int64("actual", d.Actual))
	}
	if err == nil && len(r.Differences) > 0 {
		err = w.store.Recount(ctx, r.Differences, store.CauseReconcile)
		b.poke()
	}
	if err != nil {
		if ctx.Err() == nil {
			w.log.Warn("totals were not reconciled", Event(EventReconcileFailed), zap.String("sqlstate", store.SQLState(err)), zap.Error(err))
		}
		return false
	}
	w.metrics.ReconcileLastSuccess.SetToCurrentTime()
	w.log.Info("totals reconciled", Event(EventReconcileCompleted), zap.Int64("users", r.Users),
		zap.Int("differing", len(r.Differences)), zap.Duration("duration_ms", time.Since(began)))
	return true
}
