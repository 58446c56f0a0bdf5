package store

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
)

// PlansOfATick are the plans, as EXPLAIN (FORMAT JSON) has them, of what a tick
// of the kind runs, by name: the generic plans of prepared statements, under the
// settings that the tick has them run. A window tick has a poll before it and a
// look at commit times behind it, which run without.
func (s *Store) PlansOfATick(ctx context.Context, kind Kind) (map[string]string, error) {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Release() // within a transaction the pool destroys it
	plans := map[string]string{}
	explain := func(name, sql string) error {
		statement, err := conn.Conn().Prepare(ctx, name, sql)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		execute := pgx.Identifier{name}.Sanitize()
		if n := len(statement.ParamOIDs); n > 0 {
			execute += "(NULL" + strings.Repeat(", NULL", n-1) + ")"
		}
		var plan string
		if err := conn.QueryRow(ctx, "EXPLAIN (FORMAT JSON) EXECUTE "+execute, pgx.QueryExecModeSimpleProtocol).Scan(&plan); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		plans[name] = plan
		return conn.Conn().Deallocate(ctx, name) // which has kept its plan
	}

	batch := &pgx.Batch{}
	begin(batch, kind, windowTimeout, minIdleTimeout)
	if err := conn.SendBatch(ctx, batch).Close(); err != nil {
		return nil, err
	}
	if kind == Window {
		err = cmp.Or(explain("countWindow", withoutBudgets.window), explain("countWindowAndBudgets", withBudgets.window))
	} else if err = cmp.Or(explain("countEverything", withoutBudgets.everything), explain("countEverythingAndBudgets", withBudgets.everything)); err == nil {
		_, err = conn.Exec(ctx, lookUp)
	}
	if err != nil {
		return nil, err
	}
	for name, sql := range map[string]string{
		"forgetDeleted": forgetDeleted, "uncorrected": uncorrected, "countWanted": withoutBudgets.wanted, "writeDecisions": writeDecisions,
		"countWantedAndBudgets": withBudgets.wanted, "writeBudgetDecisions": writeBudgetDecisions,
	} {
		if err := explain(name, sql); err != nil {
			return nil, err
		}
	}
	if _, err := conn.Exec(ctx, "ROLLBACK"); err != nil || kind != Window {
		return plans, err
	}

	if _, err := conn.Exec(ctx, "BEGIN; SET LOCAL plan_cache_mode = force_generic_plan"); err != nil {
		return nil, err
	}
	for name, sql := range map[string]string{"pollWindow": pollWindow, "commitTimes": commitTimes} {
		if err := explain(name, sql); err != nil {
			return nil, err
		}
	}
	_, err = conn.Exec(ctx, "ROLLBACK")
	return plans, err
}

// What BeginBudgets is to be called again after.
var (
	ErrBudgetChanged   = errBudgetChanged
	ErrBeginsElsewhere = errBeginsElsewhere
)

// DownOne goes down by one version, as a Down that is interrupted does.
func (m *Migrator) DownOne(ctx context.Context) error {
	p, end, err := m.provider()
	if err != nil {
		return err
	}
	defer end()
	_, err = p.Down(ctx)
	return err
}

// Trace writes each message on the pool's connection to w, one a line, until
// stop is called (see pgproto3.Frontend).
func (s *Store) Trace(ctx context.Context, w io.Writer) (stop func(), err error) {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Release()
	frontend := conn.Conn().PgConn().Frontend()
	frontend.Trace(w, pgproto3.TracerOptions{SuppressTimestamps: true})
	return frontend.Untrace, nil
}

// BeginLong opens the transaction of a tick that may take longer than others.
func BeginLong(ctx context.Context, conn *pgx.Conn) error {
	batch := &pgx.Batch{}
	begin(batch, Window, 2*windowTimeout, minIdleTimeout)
	return conn.SendBatch(ctx, batch).Close()
}
