package worker

import (
	"context"
	"time"

	"go.uber.org/zap"

	"tokenalert/store"
)

// beginBudgets has what was used of new budgets counted, beside the ticks: finding
// who has used of one reads all rows of its organization. Ticks poke it where they
// see a budget of which not all is counted, the first ones of a leader as well,
// since the one before may have died over it.
func (w *Worker) beginBudgets(ctx context.Context, poked <-chan struct{}, b *bell) error {
	pause := firstRetry
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-poked:
		case <-again:
		}
		began := time.Now()
		queued, err := w.store.BeginBudgets(ctx)
		took := zap.Duration("duration_ms", time.Since(began))
		if queued > 0 {
			w.log.Info("counting what was used of a budget before it was set", Event(EventBudgetBegun), zap.Int64("recounts", queued), took)
		}
		again = nil
		if err == nil {
			pause = firstRetry
		} else if ctx.Err() == nil {
			w.log.Warn("what was used of a budget cannot be counted; trying again", Event(EventBudgetBegun),
				zap.String("sqlstate", store.SQLState(err)), zap.Error(store.Discreet(err)), zap.Duration("retry_ms", pause), took)
			again = time.After(pause)
			pause = min(2*pause, failureMax)
		}
		if queued > 0 {
			b.poke()
		}
	}
}

// beginBudgets pokes it.
func (l *loop) beginBudgets() {
	select {
	case l.begin <- struct{}{}:
	default: // it is
	}
}
