package store

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// PlansOfATick are the plans of what a tick of the kind runs, by name, under the
// settings that it runs them.
func (s *Store) PlansOfATick(ctx context.Context, kind Kind, periods *Periods) (map[string]string, error) {
	batch := &pgx.Batch{}
	begin(batch, kind, windowTimeout, minIdleTimeout)
	plans := map[string]string{}
	explain := func(name, sql string, parameters ...any) {
		batch.Queue("EXPLAIN (FORMAT JSON) "+sql, parameters...).QueryRow(func(row pgx.Row) error {
			var plan string
			err := row.Scan(&plan)
			plans[name] = plan
			return err
		})
	}
	if kind == Window {
		explain("countWindow", countWindow, periods.parameters(80, int64(10_000), "worker", int64(100_000))...)
	} else {
		explain("countEverything", countEverything, periods.parameters(80, periods.trackedSince(), "worker", string(kind))...)
		batch.Queue(lookUp)
	}
	explain("forgetDeleted", forgetDeleted, int64(wantedPerTick))
	explain("countWanted", countWanted, periods.placing(int64(wantedPerTick))...)
	var decisions []Decision
	for range alertsPerStatement {
		id := uuid.New()
		decisions = append(decisions, Decision{UserID: id, Alerts: []Alert{{ID: id, OrganizationID: id, Threshold: 80, TokenLimit: 100}}})
	}
	// What is queued for decisions is asked for its plan in their place.
	queued := &pgx.Batch{}
	queueDecisions(queued, &TickResult{}, decisions)
	for _, q := range queued.QueuedQueries {
		explain("writeDecisions", q.SQL, q.Arguments...)
	}
	batch.Queue("ROLLBACK")
	return plans, s.pool.SendBatch(ctx, batch).Close()
}
