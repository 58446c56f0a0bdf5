package store

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Warm has a session ready for the first tick of whoever may soon lead: it is
// connected, the server's process has read all that it must know of the tables,
// and what needs no rows is prepared. Nothing is written, and nobody's row or
// place in the chain is touched: what counts is only planned.
func (s *Store) Warm(ctx context.Context, zone string) error {
	if _, err := s.Poll(ctx); err != nil {
		return err
	}
	periods, err := s.Periods(ctx, zone)
	if err != nil {
		return err
	}
	batch := &pgx.Batch{}
	begin(batch, Window, windowTimeout, minIdleTimeout)
	batch.Queue("EXPLAIN "+periods.counting().window, periods.parameters(0, int64(0), "", int64(0), nil, nil)...)
	var nothing TickResult
	queueUserDecisions(batch, &nothing, nil)
	batch.Queue("ROLLBACK")
	// The pool destroys a session that it gets back within a transaction.
	if err := s.pool.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("prepare for a tick: %w", tickError(err))
	}
	return nil
}
