package worker

import "context"

// TickWithoutLead ticks until ctx ends, whoever leads.
func (w *Worker) TickWithoutLead(ctx context.Context) error {
	l := &loop{Worker: w, slice: firstSlice}
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
