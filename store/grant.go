package store

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"tokenalert/migrations"
)

// Grant gives role exactly what `run` needs (see runNeeds) and notes it, so
// that Up restores it after a restore without privileges.
func (m *Migrator) Grant(ctx context.Context, role string) error {
	return m.granting(ctx, role, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "INSERT INTO tokenalert.granted_roles (role) VALUES ($1) ON CONFLICT DO NOTHING", role); err != nil {
			return fmt.Errorf("note the role: %w", err)
		}
		return grant(ctx, tx, role)
	})
}

// GrantRead gives role exactly what reading our views takes (see readNeeds) and
// notes it, as Grant does.
func (m *Migrator) GrantRead(ctx context.Context, role string) error {
	return m.granting(ctx, role, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "INSERT INTO tokenalert.granted_readers (role) VALUES ($1) ON CONFLICT DO NOTHING", role); err != nil {
			return fmt.Errorf("note the role: %w", err)
		}
		return give(ctx, tx, role, readNeeds())
	})
}

// granting calls f in a transaction where there is something to grant, and
// somebody to grant it to.
func (m *Migrator) granting(ctx context.Context, role string, f func(pgx.Tx) error) error {
	return m.locked(ctx, func(conn *pgx.Conn) error {
		installed, err := schemaVersion(ctx, conn)
		if err != nil {
			return err
		}
		switch want := migrations.Version(); {
		case installed == 0:
			return fmt.Errorf("%w: tokenalert is not installed in this database; run `tokenalert migrate up` first", ErrSchema)
		case installed < want:
			return fmt.Errorf("%w: the database has version %d, and this binary needs %d; run `tokenalert migrate up` first", ErrSchema, installed, want)
		}
		var exists bool
		if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", role).Scan(&exists); err != nil {
			return fmt.Errorf("look for role: %w", err)
		}
		if !exists {
			return fmt.Errorf("role %q does not exist; CREATE ROLE %s LOGIN first", role, pgx.Identifier{role}.Sanitize())
		}
		return pgx.BeginFunc(ctx, conn, f)
	})
}

// restoreGrants gives again what was given before, where something is missing.
func (m *Migrator) restoreGrants(ctx context.Context, conn *pgx.Conn) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		for _, sql := range []string{
			"GRANT " + forPublic.String() + " TO PUBLIC",
			"REVOKE ALL ON FUNCTION " + strings.Join(notForPublic, ", ") + " FROM PUBLIC",
		} {
			if _, err := tx.Exec(ctx, sql); err != nil {
				return fmt.Errorf("restore privileges: %w", err)
			}
		}
		runners, err := rolesIn(ctx, tx, "tokenalert.granted_roles")
		if err != nil {
			return err
		}
		readers, err := rolesIn(ctx, tx, "tokenalert.granted_readers")
		if err != nil {
			return err
		}
		for _, r := range runners {
			if err := grant(ctx, tx, r.name); err != nil {
				return err
			}
		}
		for _, r := range readers {
			if err := give(ctx, tx, r.name, readNeeds()); err != nil {
				return err
			}
		}
		return nil
	})
}

// rolesIn returns the roles noted in a table of grants that exist in this cluster.
func rolesIn(ctx context.Context, tx pgx.Tx, table string) ([]role, error) {
	rows, err := tx.Query(ctx, "SELECT r.oid, r.rolname::text FROM "+table+" g JOIN pg_roles r ON r.rolname = g.role ORDER BY 2")
	if err != nil {
		return nil, fmt.Errorf("read the roles in %s: %w", table, err)
	}
	roles, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (role, error) {
		var r role
		return r, row.Scan(&r.oid, &r.name)
	})
	if err != nil {
		return nil, fmt.Errorf("read the roles in %s: %w", table, err)
	}
	return roles, nil
}

// give grants role what is needed.
func give(ctx context.Context, tx pgx.Tx, role string, needs []privilege) error {
	to := " TO " + pgx.Identifier{role}.Sanitize()
	for _, need := range needs {
		if _, err := tx.Exec(ctx, "GRANT "+need.String()+to); err != nil {
			return fmt.Errorf("grant %s: %w", need, err)
		}
	}
	return nil
}

// grant gives role its privileges, and notes those on the host's tables that it
// did not have, for `down` to take back.
func grant(ctx context.Context, tx pgx.Tx, role string) error {
	var host hostNames
	var users uint32
	var held []string
	err := tx.QueryRow(ctx, `
		WITH found AS (
			SELECT name, coalesce(format('%I.%I', n.nspname, c.relname), name) AS spelled, format('%I', n.nspname) AS schema
			FROM unnest('{ai_usage_logs,users,token_limit_alerts,notifications}'::text[]) AS name
			LEFT JOIN pg_class c ON c.oid = to_regclass(name) LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
		)
		SELECT ARRAY(SELECT DISTINCT schema FROM found WHERE schema IS NOT NULL),
		       (SELECT spelled FROM found WHERE name = 'ai_usage_logs'), (SELECT spelled FROM found WHERE name = 'users'),
		       (SELECT spelled FROM found WHERE name = 'token_limit_alerts'), (SELECT spelled FROM found WHERE name = 'notifications'),
		       coalesce(to_regclass('users'), 0)::oid, ARRAY(SELECT tokenalert.host_privileges($1))`, role).
		Scan(&host.schemas, &host.usage, &host.users, &host.alerts, &host.notifications, &users, &held)
	if err == nil {
		host.userColumns, err = readUserColumns(ctx, tx, users)
	}
	if err != nil {
		return fmt.Errorf("grant: %w", err)
	}
	if err := give(ctx, tx, role, runNeeds(host)); err != nil {
		return err
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
