package worker

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"go.uber.org/zap"

	"tokenalert/store"
)

// reconcileAgain is how often a comparison is tried again by itself.
const reconcileAgain = 3

// Reconcile compares the totals with the rows, by the zone in force. Where the
// host rewrites its table just then, or the leader changes the zone, it says so
// to again and compares once more, up to three times.
func Reconcile(ctx context.Context, s *store.Store, progress func(store.Progress), again func(error)) (store.Reconciled, error) {
	for attempt := 0; ; attempt++ {
		r, err := reconcileOnce(ctx, s, progress)
		if attempt == reconcileAgain || !errors.Is(err, store.ErrRewritten) && !errors.Is(err, store.ErrOtherZone) {
			return r, err
		}
		again(err)
	}
}

func reconcileOnce(ctx context.Context, s *store.Store, progress func(store.Progress)) (store.Reconciled, error) {
	inForce, err := s.Settings(ctx)
	switch {
	case err != nil:
		return store.Reconciled{}, fmt.Errorf("reconcile: %w", err)
	case inForce == nil:
		return store.Reconciled{}, fmt.Errorf("reconcile: %w", store.ErrNothingCounted)
	}
	periods, err := s.Periods(ctx, inForce.TimeZone)
	if err != nil {
		return store.Reconciled{}, fmt.Errorf("reconcile: %w", err)
	}
	return s.Reconcile(ctx, periods, progress)
}

// ReconcileLog writes the progress of a comparison into a log.
type ReconcileLog struct {
	log   *zap.Logger
	every time.Duration
	began time.Time
	last  time.Time
}

// NewReconcileLog makes one that writes at most one line in every, the first
// after as long.
func NewReconcileLog(log *zap.Logger, every time.Duration) *ReconcileLog {
	now := time.Now()
	return &ReconcileLog{log: log, every: every, began: now, last: now}
}

// Progress writes a line where one is due. The end is told by others.
func (l *ReconcileLog) Progress(p store.Progress) {
	now := time.Now()
	if now.Sub(l.last) < l.every {
		return
	}
	l.last = now
	took := now.Sub(l.began)
	fields := []zap.Field{
		zap.Float64("done", math.Floor(10*p.Percent)/10), zap.Int64("rows", p.Rows),
		zap.Float64("rows_per_second", math.Round(float64(p.Rows)/took.Seconds())), zap.Duration("duration_ms", took),
	}
	if p.Percent > 0 {
		fields = append(fields, zap.Duration("remaining_ms", time.Duration(float64(took)*(100-p.Percent)/p.Percent)))
	}
	l.log.Info("comparing totals with rows", append(fields, Event(EventReconcileProgress))...)
}

// Again says that the comparison starts anew.
func (l *ReconcileLog) Again(err error) {
	l.log.Info("the comparison starts anew", Event(EventReconcileRepeated), zap.Error(err))
}
