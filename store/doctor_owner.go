package store

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// examineOwner looks whether our objects belong to the owner of the host's
// tables, or to a role that can do the same: the functions that are SECURITY
// DEFINER act as theirs, and `migrate up` changes the others.
func examineOwner(ctx context.Context, e *examination, tx pgx.Tx, x *Examined) error {
	owner := e.usage().ownerName
	rows, err := tx.Query(ctx, `
		WITH ours AS (
			SELECT 'SCHEMA tokenalert' AS object, nspowner AS owner FROM pg_namespace WHERE nspname = 'tokenalert'
			UNION ALL
			SELECT format('%s tokenalert.%I', CASE c.relkind WHEN 'S' THEN 'SEQUENCE' WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END, c.relname), c.relowner
			FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
			WHERE n.nspname = 'tokenalert' AND c.relkind IN ('r', 'v', 'S')
			  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')) -- goes with its table
			UNION ALL
			SELECT format('FUNCTION tokenalert.%I(%s)', p.proname, oidvectortypes(p.proargtypes)), p.proowner
			FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = 'tokenalert'
		)
		SELECT object, format('%I', pg_get_userbyid(owner)) FROM ours
		WHERE NOT (pg_has_role(owner, $1::oid, 'USAGE') AND pg_has_role(owner, $2::oid, 'USAGE')) ORDER BY object`,
		e.usage().owner, e.host["users"].owner)
	if err != nil {
		return err
	}
	var foreign, commands []string
	var object, by string
	_, err = pgx.ForEachRow(rows, []any{&object, &by}, func() error {
		foreign = append(foreign, object+" ("+by+")")
		commands = append(commands, "ALTER "+object+" OWNER TO "+owner+";")
		return nil
	})
	if err != nil {
		return err
	}
	fails, gifts, err := e.definersLack(ctx, tx)
	if err != nil {
		return err
	}
	x.Well = "our objects belong to " + owner + ", as ai_usage_logs does, or to who can act as it"
	severity, consequence := Warning, "`migrate up` cannot change them"
	if len(fails) > 0 {
		severity, consequence = Broken, strings.Join(fails, "; ")
	}
	switch {
	case len(foreign) > 0:
		x.find(severity, fmt.Sprintf("%s not belong to %s, who owns ai_usage_logs, or to who can act as it (a restore with --no-owner by another role?), %s: %s",
			plural(len(foreign), "object of ours does", "objects of ours do"), owner, some(foreign), consequence), "as a superuser:", commands...)
	case len(fails) > 0:
		x.find(Broken, consequence, "as the owners of these:", gifts...)
	}
	return nil
}

// definersLack says which of our SECURITY DEFINER functions fail, because the
// role that owns them, as which they act, lacks what they need, and what would
// give it.
func (e *examination) definersLack(ctx context.Context, tx pgx.Tx) (fails, gifts []string, err error) {
	uses := func(schemas ...string) []privilege {
		var needs []privilege
		for _, s := range schemas {
			needs = append(needs, privilege{verbs: []string{"USAGE"}, class: "schema", object: s})
		}
		return needs
	}
	bell := append(uses("tokenalert"),
		privilege{verbs: []string{"SELECT"}, class: "table", object: "tokenalert.settings"})
	users, organizations := e.host["users"], e.host["organizations"]
	for _, definer := range []struct {
		function, consequence string
		needs                 []privilege
	}{
		{"ring", "inserts do not ring", bell},
		{"record_correction", "corrections are not recorded", append(slices.Clip(bell), forPublic,
			privilege{verbs: []string{"INSERT"}, class: "table", object: "tokenalert.recounts"})},
		{"lock_users", "nobody can be told", append(uses(users.schema, organizations.schema), // FOR KEY SHARE takes SELECT and UPDATE
			privilege{verbs: []string{"SELECT"}, columns: []string{"id", "organization_id"}, class: "table", object: users.name},
			privilege{verbs: []string{"SELECT"}, columns: []string{"id"}, class: "table", object: organizations.name},
			privilege{verbs: []string{"UPDATE"}, class: "table", object: users.name, any: true},
			privilege{verbs: []string{"UPDATE"}, class: "table", object: organizations.name, any: true})},
	} {
		rows, err := tx.Query(ctx, `SELECT p.proowner, format('%I', pg_get_userbyid(p.proowner)) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
			WHERE n.nspname = 'tokenalert' AND p.proname = $1`, definer.function)
		if err != nil {
			return nil, nil, err
		}
		owners, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (role, error) {
			var r role
			return r, row.Scan(&r.oid, &r.name)
		})
		if err != nil {
			return nil, nil, err
		}
		for _, owner := range owners {
			lacks, err := lacking(ctx, tx, owner.oid, definer.needs)
			if err != nil {
				return nil, nil, err
			}
			if len(lacks) == 0 {
				continue
			}
			fails = append(fails, fmt.Sprintf("tokenalert.%s acts as %s, who lacks %s: %s", definer.function, owner.name, some(lacks), definer.consequence))
			for _, lack := range lacks {
				gifts = append(gifts, "GRANT "+lack+" TO "+owner.name+";")
			}
		}
	}
	return fails, gifts, nil
}
