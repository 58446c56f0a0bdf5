package store

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// role is one that a worker runs as.
type role struct {
	oid  uint32
	name string
}

// workers are the roles that were given what `run` needs. Where that list may
// not be read, or is empty, it is the role that asks.
func (e *examination) workers(ctx context.Context, tx pgx.Tx) ([]role, error) {
	me := []role{{e.roleOID, e.roleName}}
	if seen, err := sees(ctx, tx, "granted_roles"); err != nil || !seen {
		return me, err
	}
	roles, err := rolesIn(ctx, tx, "tokenalert.granted_roles")
	if err != nil || len(roles) == 0 {
		return me, err
	}
	return roles, nil
}

// sees reports whether a table of granted roles is there and the role may read
// it. The runtime role may not.
func sees(ctx context.Context, tx pgx.Tx, table string) (bool, error) {
	var sees bool
	err := tx.QueryRow(ctx, `
		SELECT coalesce(bool_and(has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')), false)
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'tokenalert' AND c.relname = $1`, table).Scan(&sees)
	if err != nil {
		return false, fmt.Errorf("look for %s: %w", table, err)
	}
	return sees, nil
}

// examineReaders looks for privileges that a role lacks which was to read our
// views, and returns whether it may see which roles these are.
func examineReaders(ctx context.Context, tx pgx.Tx, x *Examined) (bool, error) {
	if seen, err := sees(ctx, tx, "granted_readers"); err != nil || !seen {
		return false, err
	}
	readers, err := rolesIn(ctx, tx, "tokenalert.granted_readers")
	if err != nil {
		return false, err
	}
	for _, r := range readers {
		lacks, err := lacking(ctx, tx, r.oid, readNeeds())
		if err != nil {
			return false, err
		}
		if len(lacks) > 0 {
			x.find(Warning, fmt.Sprintf("role %s cannot read usage and alerts: it lacks %s", r.name, some(lacks)), asOwner, grantReadCommand(r.name))
		}
	}
	return true, nil
}

// workersAndMe are the roles that a worker runs as, and the one that asks.
func (e *examination) workersAndMe(ctx context.Context, tx pgx.Tx) ([]role, error) {
	roles, err := e.workers(ctx, tx)
	for _, r := range roles {
		if r.oid == e.roleOID {
			return roles, err
		}
	}
	return append(roles, role{e.roleOID, e.roleName}), err
}

// examineGrants looks for privileges that a worker's role lacks, as after a
// restore without privileges, that PUBLIC lacks, and that PUBLIC has got by such
// a restore.
func examineGrants(ctx context.Context, e *examination, tx pgx.Tx, x *Examined) error {
	host := hostNames{
		usage: e.usage().name, users: e.host["users"].name, alerts: e.host["token_limit_alerts"].name, notifications: e.host["notifications"].name,
	}
	for _, name := range []string{"ai_usage_logs", "users", "token_limit_alerts", "notifications"} {
		if t := e.host[name]; t.oid != 0 && !slices.Contains(host.schemas, t.schema) {
			host.schemas = append(host.schemas, t.schema)
		}
	}
	var err error
	if host.userColumns, err = readUserColumns(ctx, tx, e.host["users"].oid); err != nil {
		return err
	}
	roles, err := e.workersAndMe(ctx, tx)
	if err != nil {
		return err
	}
	for _, r := range roles {
		lacks, err := lacking(ctx, tx, r.oid, runNeeds(host))
		if err != nil {
			return err
		}
		if len(lacks) > 0 {
			x.find(Broken, fmt.Sprintf("role %s cannot run the worker: it lacks %s", r.name, some(lacks)), asOwner, grantCommand(r.name))
		}
	}
	if err := e.examinePublic(ctx, tx, x); err != nil {
		return err
	}
	x.Well = "every role that was granted has what it needs"
	seesReaders, err := examineReaders(ctx, tx, x)
	if err != nil {
		return err
	}
	seesWorkers, err := sees(ctx, tx, "granted_roles")
	if err != nil {
		return err
	}
	var seen []string
	if seesReaders {
		seen = append(seen, "tokenalert.granted_readers")
	}
	if seesWorkers {
		seen = append(seen, "tokenalert.granted_roles")
	} else {
		x.Well = "role " + e.role + " has what it needs"
		x.find(Note, "role "+e.role+" does not see which other roles were granted, so only its own privileges were looked at",
			"run the doctor as the owner of ai_usage_logs as well, or, as that owner:", "GRANT SELECT ON tokenalert.granted_roles TO "+e.role+";")
	}
	return findUnknown(ctx, tx, x, seen)
}

// findUnknown looks for roles noted in tables of grants that are not there.
func findUnknown(ctx context.Context, tx pgx.Tx, x *Examined, tables []string) error {
	for _, table := range tables {
		rows, err := tx.Query(ctx, "SELECT quote_ident(g.role), quote_literal(g.role) FROM "+table+" g WHERE NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = g.role) ORDER BY 1")
		if err != nil {
			return err
		}
		var name, literal string
		_, err = pgx.ForEachRow(rows, []any{&name, &literal}, func() error {
			x.find(Note, "role "+name+", which was granted, does not exist in this cluster",
				"create it and run `tokenalert migrate up`, which grants it again, or, as the owner of ai_usage_logs, forget it:",
				"DELETE FROM "+table+" WHERE role = "+literal+";")
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// examinePublic looks at what PUBLIC must have, and must not.
func (e *examination) examinePublic(ctx context.Context, tx pgx.Tx, x *Examined) error {
	var reads bool
	var callable []string
	err := tx.QueryRow(ctx, `
		WITH functions AS (
			SELECT p.oid, format('tokenalert.%I(%s)', p.proname, oidvectortypes(p.proargtypes)) AS name
			FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = 'tokenalert'
		)
		SELECT coalesce((SELECT has_sequence_privilege('public', c.oid, 'SELECT') FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		                 WHERE n.nspname = 'tokenalert' AND c.relname = 'doorbell'), false),
		       ARRAY(SELECT name FROM functions WHERE name = ANY ($1) AND has_function_privilege('public', oid, 'EXECUTE') ORDER BY name)`, notForPublic).
		Scan(&reads, &callable)
	if err != nil {
		return err
	}
	if !reads {
		consequence := "an insert of usage by an ordinary role fails"
		if e.version >= 180000 {
			consequence = "inserts by an ordinary role do not ring"
		}
		x.find(Broken, "PUBLIC lacks "+forPublic.String()+": "+consequence, "as the owner of ai_usage_logs, "+migrateUp+", or at once:",
			"GRANT "+forPublic.String()+" TO PUBLIC;")
	}
	if len(callable) > 0 {
		x.find(Warning, "PUBLIC may call "+strings.Join(callable, ", ")+" (restored without privileges?)", asOwner, migrateUp)
	}
	return nil
}

// examineRowSecurity looks for policies that a worker's role is subject to. A
// tick has row_security off, which turns what a policy would hide into an error.
func examineRowSecurity(ctx context.Context, e *examination, tx pgx.Tx, x *Examined) error {
	roles, err := e.workersAndMe(ctx, tx)
	if err != nil {
		return err
	}
	var ids, touched []uint32
	for _, r := range roles {
		ids = append(ids, r.oid)
	}
	for _, name := range []string{"ai_usage_logs", "users", "token_limit_alerts", "notifications"} {
		touched = append(touched, e.host[name].oid)
	}
	rows, err := tx.Query(ctx, `
		SELECT format('%I', r.rolname), format('%I.%I', n.nspname, c.relname), pg_has_role(r.oid, c.relowner, 'USAGE')
		FROM pg_roles r, pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE r.oid = ANY ($1::oid[]) AND c.oid = ANY ($2::oid[]) AND c.relrowsecurity AND NOT (r.rolsuper OR r.rolbypassrls)
		  AND (c.relforcerowsecurity OR NOT pg_has_role(r.oid, c.relowner, 'USAGE'))
		ORDER BY 1, 2`, ids, touched)
	if err != nil {
		return err
	}
	var name, table string
	var owns bool
	_, err = pgx.ForEachRow(rows, []any{&name, &table, &owns}, func() error {
		remedy, command := "as a superuser, let the role see all rows:", "ALTER ROLE "+name+" BYPASSRLS;"
		if owns {
			remedy, command = asOwner, "ALTER TABLE "+table+" NO FORCE ROW LEVEL SECURITY;"
		}
		x.find(Broken, "row security of "+table+" applies to role "+name+": rows would be hidden from the count, and the worker fails rather than miss them", remedy, command)
		return nil
	})
	x.Well = "hides nothing from the worker"
	return err
}
