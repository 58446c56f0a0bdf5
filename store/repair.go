package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// repair makes good what a restore or an interrupted build has broken. It
// touches nothing that is whole.
func (m *Migrator) repair(ctx context.Context, conn *pgx.Conn) error {
	if err := m.rebase(ctx, conn); err != nil {
		return err
	}
	if err := m.rebuildIndex(ctx, conn); err != nil {
		return err
	}
	return m.restoreGrants(ctx, conn)
}

// rebase starts the chain anew where it was written in another cluster, whose
// transaction ids mean nothing here: the column is dropped and added again (a
// catalogue change), so that all rows are NULL in it, and the next tick is a
// full count. Totals, marks and history stay.
func (m *Migrator) rebase(ctx context.Context, conn *pgx.Conn) error {
	err := m.store.checkChain(ctx)
	if err == nil {
		return nil
	}
	if !errors.Is(err, ErrForeignChain) {
		return err
	}
	m.say("the chain of ticks comes from another cluster; starting it anew")
	err = m.patiently(ctx, func() error {
		return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			var readers []string
			err := tx.QueryRow(ctx, `
				SELECT ARRAY(SELECT CASE WHEN x.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END
				             FROM pg_attribute a, aclexplode(a.attacl) x
				             WHERE a.attrelid = to_regclass('ai_usage_logs') AND a.attname = 'xact_id' AND x.privilege_type = 'SELECT')`).
				Scan(&readers)
			if err != nil {
				return fmt.Errorf("read privileges: %w", err)
			}
			for _, sql := range []string{
				"SET LOCAL lock_timeout = '200ms'",
				"ALTER TABLE ai_usage_logs DROP COLUMN xact_id",
				"ALTER TABLE ai_usage_logs ADD COLUMN xact_id xid8",
				"ALTER TABLE ai_usage_logs ALTER COLUMN xact_id SET DEFAULT pg_current_xact_id()",
				"COMMENT ON COLUMN ai_usage_logs.xact_id IS 'Transaction that wrote the row; tokenalert counts by it. Leave it to its default.'",
				"TRUNCATE tokenalert.ticks",
			} {
				if _, err := tx.Exec(ctx, sql); err != nil {
					return fmt.Errorf("start the chain anew: %w", err)
				}
			}
			for _, role := range readers {
				if _, err := tx.Exec(ctx, "GRANT SELECT (xact_id) ON ai_usage_logs TO "+role); err != nil {
					return fmt.Errorf("start the chain anew: %w", err)
				}
			}
			return nil
		})
	})
	return err
}

func (m *Migrator) rebuildIndex(ctx context.Context, conn *pgx.Conn) error {
	var valid bool
	if err := conn.QueryRow(ctx, indexIsValid).Scan(&valid); err != nil {
		return fmt.Errorf("look for the index: %w", err)
	}
	if valid {
		return nil
	}
	m.say("building the index on ai_usage_logs (xact_id)")
	for _, sql := range []string{
		"DROP INDEX CONCURRENTLY IF EXISTS ai_usage_logs_xact_id_idx",
		"CREATE INDEX CONCURRENTLY ai_usage_logs_xact_id_idx ON ai_usage_logs (xact_id) WHERE xact_id IS NOT NULL",
		"ANALYZE ai_usage_logs (xact_id)",
	} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("build the index on ai_usage_logs (xact_id): %w", err)
		}
	}
	return nil
}
