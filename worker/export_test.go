package worker

import "context"

// TickWithoutLead ticks until ctx ends, whoever leads.
func (w *Worker) TickWithoutLead(ctx context.Context) error {
	l := &loop{Worker: w, slice: firstSlice(w.config.TickTarget)}
	if err := l.prepare(ctx); err != nil {
		return err
	}
	for {
		_, pause, err := l.tick(ctx)
		if err != nil || !w.wait(ctx, pause) {
			return err
		}
	}
}

// Ticker makes a loop ready, whoever leads. Each call of what it returns ticks
// once, and reports whether there was work.
func (w *Worker) Ticker(ctx context.Context) (func() (bool, error), error) {
	l := &loop{Worker: w, slice: firstSlice(w.config.TickTarget)}
	if err := l.prepare(ctx); err != nil {
		return nil, err
	}
	return func() (bool, error) {
		worked, _, err := l.tick(ctx)
		return worked, err
	}, nil
}
