package store

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Grant gives role exactly what `run` needs and notes it, so that Up restores
// it after a restore without privileges. prompt and response of ai_usage_logs
// are not among the columns that it may read.
func (m *Migrator) Grant(ctx context.Context, role string) error {
	return m.locked(ctx, func(conn *pgx.Conn) error {
		installed, err := schemaVersion(ctx, conn)
		if err != nil {
			return err
		}
		if installed == 0 {
			return fmt.Errorf("%w: tokenalert is not installed in this database; run `tokenalert migrate up` first", ErrSchema)
		}
		var exists bool
		if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", role).Scan(&exists); err != nil {
			return fmt.Errorf("look for role: %w", err)
		}
		if !exists {
			return fmt.Errorf("role %q does not exist; CREATE ROLE %s LOGIN first", role, pgx.Identifier{role}.Sanitize())
		}
		return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "INSERT INTO tokenalert.granted_roles (role) VALUES ($1) ON CONFLICT DO NOTHING", role); err != nil {
				return fmt.Errorf("note the role: %w", err)
			}
			return grant(ctx, tx, role)
		})
	})
}

// restoreGrants gives again what was given before, where something is missing.
func (m *Migrator) restoreGrants(ctx context.Context, conn *pgx.Conn) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		// Without it an insert by an ordinary role fails up to PostgreSQL 17,
		// and from 18 on the bell stays mute.
		if _, err := tx.Exec(ctx, "GRANT SELECT ON SEQUENCE tokenalert.doorbell TO PUBLIC"); err != nil {
			return fmt.Errorf("restore privileges: %w", err)
		}
		// A function that is restored without its privileges has the default
		// ones, with which everybody may call it.
		if _, err := tx.Exec(ctx, `REVOKE ALL ON FUNCTION tokenalert.accounts(), tokenalert.host_privileges(name), tokenalert.lock_users(uuid[]),
			tokenalert.ring(), tokenalert.record_correction() FROM PUBLIC`); err != nil {
			return fmt.Errorf("restore privileges: %w", err)
		}
		rows, err := tx.Query(ctx, "SELECT g.role::text FROM tokenalert.granted_roles g JOIN pg_roles r ON r.rolname = g.role ORDER BY 1")
		if err != nil {
			return fmt.Errorf("restore privileges: %w", err)
		}
		roles, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return fmt.Errorf("restore privileges: %w", err)
		}
		for _, role := range roles {
			if err := grant(ctx, tx, role); err != nil {
				return err
			}
		}
		return nil
	})
}

// grant gives role its privileges, and notes those on the host's tables that it
// did not have, for `down` to take back.
func grant(ctx context.Context, tx pgx.Tx, role string) error {
	var schemas, userColumns, held []string
	err := tx.QueryRow(ctx, `
		SELECT ARRAY(SELECT DISTINCT n.nspname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		             WHERE c.oid IN (to_regclass('ai_usage_logs'), to_regclass('users'), to_regclass('token_limit_alerts'), to_regclass('notifications'))),
		       ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = to_regclass('users') AND NOT attisdropped
		             AND attname IN ('id', 'organization_id', 'full_name', 'language', 'monthly_token_limit', 'token_limit_reset_day')
		             ORDER BY attnum),
		       ARRAY(SELECT tokenalert.host_privileges($1))`, role).Scan(&schemas, &userColumns, &held)
	if err != nil {
		return fmt.Errorf("grant: %w", err)
	}
	to := " TO " + pgx.Identifier{role}.Sanitize()
	var grants []string
	for _, s := range append(schemas, "tokenalert") {
		grants = append(grants, "USAGE ON SCHEMA "+pgx.Identifier{s}.Sanitize())
	}
	grants = append(grants,
		"SELECT, INSERT, DELETE ON tokenalert.ticks",
		"SELECT, INSERT, UPDATE, DELETE ON tokenalert.usage_periods",
		"SELECT, INSERT, DELETE ON tokenalert.recounts",
		"SELECT, INSERT, UPDATE ON tokenalert.settings",
		"SELECT ON tokenalert.user_limits, tokenalert.goose_db_version",
		"SELECT, UPDATE ON SEQUENCE tokenalert.doorbell",
		"EXECUTE ON FUNCTION tokenalert.accounts(), tokenalert.lock_users(uuid[]), tokenalert.now(), "+
			"tokenalert.period_start(integer, text, timestamptz), tokenalert.period_end(integer, text, timestamptz), "+
			"tokenalert.reset_date(integer, timestamp), tokenalert.local_midnight(timestamp, text)",
		"SELECT (user_id, tokens_used, created_at, xact_id) ON ai_usage_logs",
		"SELECT ("+strings.Join(userColumns, ", ")+") ON users",
		"SELECT, INSERT ON token_limit_alerts",
		"INSERT (id, organization_id, user_id, title, message, notification_type, link_url) ON notifications",
	)
	for _, g := range grants {
		if _, err := tx.Exec(ctx, "GRANT "+g+to); err != nil {
			return fmt.Errorf("grant %s: %w", g, err)
		}
	}
	_, err = tx.Exec(ctx, `
		UPDATE tokenalert.granted_roles g SET host_privileges = g.host_privileges || n.privileges
		FROM (SELECT array_agg(p) AS privileges FROM tokenalert.host_privileges($1) AS p
		      WHERE p <> ALL ($2) AND p NOT IN (SELECT unnest(host_privileges) FROM tokenalert.granted_roles WHERE role = $1)) n
		WHERE g.role = $1 AND n.privileges IS NOT NULL`, role, held)
	if err != nil {
		return fmt.Errorf("note what was granted: %w", err)
	}
	return nil
}
