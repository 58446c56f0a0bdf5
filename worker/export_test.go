package worker

import (
	"context"
	"time"
)

// TickWithoutLead ticks until ctx ends, whoever leads.
func (w *Worker) TickWithoutLead(ctx context.Context) error {
	tick, err := w.ticker(ctx)
	if err != nil {
		return err
	}
	for {
		_, pause, err := tick()
		if err != nil || !w.wait(ctx, pause) {
			return err
		}
	}
}

// Ticker makes a loop ready, whoever leads. Each call of what it returns ticks
// once, and reports whether there was work.
func (w *Worker) Ticker(ctx context.Context) (func() (bool, error), error) {
	tick, err := w.ticker(ctx)
	return func() (bool, error) {
		worked, _, err := tick()
		return worked, err
	}, err
}

func (w *Worker) ticker(ctx context.Context) (func() (bool, time.Duration, error), error) {
	l := w.newLoop(nil)
	return func() (bool, time.Duration, error) { return l.tick(ctx) }, l.prepare(ctx)
}
