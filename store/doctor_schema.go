package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"tokenalert/migrations"
)

// examineSchema compares the schema's version with the binary's.
func examineSchema(ctx context.Context, e *examination, tx pgx.Tx, x *Examined) error {
	want := migrations.Version()
	version := int64(0)
	if e.installed {
		var err error
		if version, err = schemaVersion(ctx, tx); err != nil {
			return err
		}
	}
	switch {
	case version == 0:
		x.find(Broken, "tokenalert is not installed in database "+e.database, asOwner, migrateUp)
	case version < want:
		x.find(Broken, fmt.Sprintf("the schema has version %d, and this binary needs %d", version, want), asOwner, migrateUp)
	case version > want+1:
		x.find(Broken, fmt.Sprintf("the schema has version %d, and this binary knows %d; one ahead would be all right", version, want),
			fmt.Sprintf("run a newer binary, one whose `tokenalert version` says schema %d or %d", version-1, version))
	case version > want:
		x.Well = fmt.Sprintf("version %d, one ahead of this binary's, which is all right", version)
	default:
		x.Well = fmt.Sprintf("version %d, this binary's own", version)
		return findGone(ctx, tx, x)
	}
	return nil
}

// findGone looks for objects of ours that somebody has dropped. A migration that
// is noted as applied does not make them again.
func findGone(ctx context.Context, tx pgx.Tx, x *Examined) error {
	wanted := append([]string{"tokenalert.takeover", "tokenalert.granted_roles", "tokenalert.granted_readers"}, notForPublic...)
	for _, need := range append(runNeeds(hostNames{}), readNeeds()...) {
		if strings.HasPrefix(need.object, "tokenalert.") {
			wanted = append(wanted, need.object)
		}
	}
	slices.Sort(wanted)
	// A type of ours is spelled with its schema unless that is in search_path, as it
	// is, by "$user", for a role that is called tokenalert.
	if _, err := tx.Exec(ctx, "SET LOCAL search_path = pg_catalog"); err != nil {
		return err
	}
	rows, err := tx.Query(ctx, `
		SELECT wanted FROM unnest($1::text[]) AS wanted
		EXCEPT
		SELECT format('tokenalert.%I', c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'tokenalert'
		EXCEPT
		SELECT format('tokenalert.%I(%s)', p.proname, oidvectortypes(p.proargtypes)) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = 'tokenalert'
		ORDER BY 1`, slices.Compact(wanted))
	if err != nil {
		return err
	}
	gone, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	if len(gone) > 0 {
		x.find(Broken, plural(len(gone), "object of ours is", "objects of ours are")+" gone: "+some(gone),
			"make it again from a backup, or from a database where this version was installed, in which this writes out all of the schema:",
			"pg_dump --schema-only --schema=tokenalert")
	}
	return nil
}

// examineSearchPath looks whether the role finds the tables that tokenalert was
// installed on.
func examineSearchPath(ctx context.Context, e *examination, tx pgx.Tx, x *Examined) error {
	var path string
	if err := tx.QueryRow(ctx, "SELECT current_setting('search_path')").Scan(&path); err != nil {
		return err
	}
	x.Well = "finds " + e.usage().name
	for _, name := range []string{"ai_usage_logs", "users", "organizations", "token_limit_alerts", "notifications"} {
		t, found := e.host[name]
		switch {
		case !found:
			x.find(Broken, "there is no table "+name+" any more", asOwner, "tokenalert migrate down", migrateUp)
			continue
		case t.onPath:
			continue
		}
		var usable bool
		var other *string
		err := tx.QueryRow(ctx, `SELECT has_schema_privilege(c.relnamespace, 'USAGE'),
				(SELECT format('%I.%I', n.nspname, o.relname) FROM pg_class o JOIN pg_namespace n ON n.oid = o.relnamespace WHERE o.oid = to_regclass($2))
			FROM pg_class c WHERE c.oid = $1::oid`, t.oid, name).Scan(&usable, &other)
		if err != nil {
			return err
		}
		finds := "nothing"
		if other != nil {
			finds = *other
		}
		says := fmt.Sprintf("tokenalert is installed on %s, and by the search_path of role %s (%s) the name %s finds %s", t.name, e.role, path, name, finds)
		if !usable {
			x.find(Broken, says+", for the role may not use schema "+t.schema, asOwner, grantCommand(e.roleName))
		} else {
			x.find(Broken, says, "as the role itself or a superuser; where DATABASE_URL or PGOPTIONS sets search_path, there:",
				fmt.Sprintf("ALTER ROLE %s IN DATABASE %s SET search_path = %s;", e.role, e.database, pathWith(t.schema, path)))
		}
		return nil // the others are nearly always in the same schema
	}
	return nil
}

func pathWith(schema, path string) string {
	if path == "" {
		return schema
	}
	return schema + ", " + path
}

// usageDefault stamps each row of usage with its transaction.
const usageDefault = "pg_current_xact_id()"

// examineColumn looks for the column that a tick goes by, and its default.
func examineColumn(ctx context.Context, e *examination, tx pgx.Tx, x *Examined) error {
	var stamps *string
	err := tx.QueryRow(ctx, `SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
		WHERE a.attrelid = $1::oid AND a.attname = 'xact_id' AND a.atttypid = 'xid8'::regtype AND NOT a.attisdropped`, e.usage().oid).Scan(&stamps)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		x.find(Broken, e.usage().name+" has no column xact_id of type xid8: nothing can be counted", asOwner, "tokenalert migrate down", migrateUp)
		return nil
	case err != nil:
		return err
	}
	if stamps == nil || *stamps != usageDefault {
		x.find(Broken, "the column xact_id of "+e.usage().name+" has lost its default "+usageDefault+": what is inserted is not counted",
			"as the owner of ai_usage_logs; the second counts what was missed:",
			"ALTER TABLE "+e.usage().name+" ALTER COLUMN xact_id SET DEFAULT "+usageDefault+";",
			"INSERT INTO tokenalert.recounts (cause) VALUES ('doctor');")
	}
	x.Well = "xact_id is there and has its default"
	return nil
}

// examineIndex looks for the index that a tick reads by.
func examineIndex(ctx context.Context, e *examination, tx pgx.Tx, x *Examined) error {
	var valid bool
	err := tx.QueryRow(ctx, `SELECT i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
		WHERE i.indrelid = $1::oid AND c.relname = 'ai_usage_logs_xact_id_idx'`, e.usage().oid).Scan(&valid)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		x.find(Broken, "the index on "+e.usage().name+" (xact_id) is missing: no worker starts", asOwner, migrateUp)
	case err != nil:
		return err
	case !valid:
		x.find(Broken, "the index on "+e.usage().name+" (xact_id) is invalid (its building was interrupted, or goes on): no worker starts", asOwner, migrateUp)
	default:
		e.indexed = true
		x.Well = "valid"
	}
	return nil
}

// ourTriggers are those of migrations/00006, with the column of the host that
// some are about.
var ourTriggers = []struct{ table, name, column string }{
	{"ai_usage_logs", "tokenalert_ring", ""},
	{"ai_usage_logs", "tokenalert_usage_changed", ""},
	{"ai_usage_logs", "tokenalert_usage_deleted", ""},
	{"ai_usage_logs", "tokenalert_usage_truncated", ""},
	{"users", "tokenalert_user_added", ""},
	{"users", "tokenalert_user_deleted", ""},
	{"users", "tokenalert_user_moved", ""},
	{"users", "tokenalert_limit_changed", "monthly_token_limit"},
	{"users", "tokenalert_reset_day_changed", "token_limit_reset_day"},
	{"user_limits", "tokenalert_limits_changed", ""},
}

// examineTriggers looks for triggers of ours that are gone or do not fire.
func examineTriggers(ctx context.Context, e *examination, tx pgx.Tx, x *Examined) error {
	var owners []uint32
	var names, columns []string
	for _, t := range ourTriggers {
		owners, names, columns = append(owners, e.host[t.table].oid), append(names, t.name), append(columns, t.column) // 0 for user_limits, which is ours
	}
	rows, err := tx.Query(ctx, `
		WITH wanted AS (
			SELECT name, col, place, CASE WHEN tbl <> 0 THEN tbl ELSE (SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
				WHERE n.nspname = 'tokenalert' AND c.relname = 'user_limits') END AS tbl
			FROM unnest($1::oid[], $2::text[], $3::text[]) WITH ORDINALITY AS w (tbl, name, col, place)
		)
		SELECT w.name, format('%I.%I', n.nspname, c.relname), coalesce(t.tgenabled::text, '')
		FROM wanted w JOIN pg_class c ON c.oid = w.tbl JOIN pg_namespace n ON n.oid = c.relnamespace
		LEFT JOIN pg_trigger t ON t.tgrelid = w.tbl AND t.tgname = w.name
		WHERE (t.tgenabled IS NULL OR t.tgenabled IN ('D', 'R')) -- disabled, or for replicas only
		  AND (w.col = '' OR EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = w.tbl AND a.attname = w.col AND NOT a.attisdropped))
		ORDER BY w.place`, owners, names, columns)
	if err != nil {
		return err
	}
	var missing, disabled, enable []string
	var name, table, state string
	_, err = pgx.ForEachRow(rows, []any{&name, &table, &state}, func() error {
		if state == "" {
			missing = append(missing, name+" on "+table)
			return nil
		}
		disabled = append(disabled, name+" on "+table)
		enable = append(enable, "ALTER TABLE "+table+" ENABLE TRIGGER "+name+";")
		return nil
	})
	if err != nil {
		return err
	}
	const without = ": without them inserts do not wake the worker, or corrections are found by reconcile only"
	if len(missing) > 0 {
		x.find(Broken, plural(len(missing), "trigger is", "triggers are")+" missing, "+some(missing)+without,
			"as the owner of ai_usage_logs; our history is kept and taken in again:", "tokenalert migrate down", migrateUp)
	}
	if len(disabled) > 0 {
		x.find(Broken, plural(len(disabled), "trigger is", "triggers are")+" disabled, "+some(disabled)+without, "as the owner of ai_usage_logs; `tokenalert reconcile` then finds what they have missed:", enable...)
	}
	x.Well = "all there and enabled"
	return nil
}

// examineChain looks whether the chain of ticks was written in this cluster.
func examineChain(ctx context.Context, _ *examination, tx pgx.Tx, x *Examined) error {
	err := checkChain(ctx, tx)
	if errors.Is(err, ErrForeignChain) {
		x.find(Broken, "the chain of ticks, or rows of ai_usage_logs, come from another PostgreSQL cluster (a restored dump?), where transaction ids mean something else: no worker counts",
			"as the owner of ai_usage_logs; it starts the chain anew and keeps what was told:", migrateUp)
		return nil
	}
	x.Well = "of this cluster"
	return err
}
