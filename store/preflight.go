package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// preflight names whatever stands in the way before anything is touched, all of
// it in one go.
func (m *Migrator) preflight(ctx context.Context, conn *pgx.Conn, installed int64) error {
	var version int
	var recovery, create bool
	var user, database, path string
	err := conn.QueryRow(ctx, `
		SELECT current_setting('server_version_num')::integer, pg_is_in_recovery(), current_user, current_database(),
		       current_setting('search_path'), has_database_privilege(current_database(), 'CREATE')`).
		Scan(&version, &recovery, &user, &database, &path, &create)
	if err != nil {
		return fmt.Errorf("look at the server: %w", err)
	}
	if recovery {
		return ErrInRecovery
	}
	if version < 140000 {
		return fmt.Errorf("PostgreSQL 14 or newer is needed; this server is %d", version/10000)
	}
	var problems []error
	if !create && installed == 0 {
		problems = append(problems, fmt.Errorf("role %s may not create a schema in database %s; GRANT CREATE ON DATABASE, or migrate as its owner", user, database))
	}
	columns := map[string][]string{
		"ai_usage_logs":      {"user_id", "organization_id", "tokens_used", "created_at"},
		"users":              {"id", "organization_id", "full_name"},
		"organizations":      {"id"},
		"token_limit_alerts": {"id", "user_id", "organization_id", "alert_threshold", "alert_sent", "alert_type", "created_at", "sent_at"},
		"notifications":      {"id", "organization_id", "user_id", "title", "message", "notification_type", "link_url"},
	}
	for _, table := range []string{"ai_usage_logs", "users", "organizations", "token_limit_alerts", "notifications"} {
		found, err := lookAtTable(ctx, conn, table)
		if err != nil {
			return err
		}
		optional := table == "token_limit_alerts" || table == "notifications"
		if !found.exists {
			if !optional {
				problems = append(problems, fmt.Errorf("table %s is not there; is this the host's database, and its schema in the search_path (%s)?", table, path))
			}
			continue
		}
		if !found.owned {
			problems = append(problems, fmt.Errorf("role %s does not own table %s (its owner is %s); migrate as the owner, or as a member of that role", user, table, found.owner))
		}
		if found.partitioned {
			problems = append(problems, fmt.Errorf("table %s is partitioned or inherited from; this is not supported", table))
		}
		if table == "ai_usage_logs" && !found.create {
			problems = append(problems, fmt.Errorf("role %s may not create tables and indexes in schema %s; GRANT CREATE ON SCHEMA, or migrate as its owner", user, found.schema))
		}
		for _, c := range columns[table] {
			if _, there := found.columns[c]; !there {
				problems = append(problems, fmt.Errorf("table %s has no column %s", table, c))
			}
		}
		problems = append(problems, found.misshapen(table)...)
		if table == "ai_usage_logs" && installed == 0 {
			if _, there := found.columns["xact_id"]; there {
				problems = append(problems, errors.New("table ai_usage_logs has a column xact_id already, which is not ours; rename it first"))
			}
			if len(found.publications) > 0 && !m.AllowPublication {
				problems = append(problems, fmt.Errorf("table ai_usage_logs is published (%s): its subscribers need a column xact_id xid8 as well, or their replication stops; add it there, then run with --allow-publication", strings.Join(found.publications, ", ")))
			}
		}
	}
	if len(problems) > 0 {
		return fmt.Errorf("nothing was changed: %w", errors.Join(problems...))
	}
	return nil
}

type table struct {
	exists, owned, partitioned bool
	create                     bool // in its schema
	owner, schema              string
	columns                    map[string]column
	publications               []string
}

// A column is its type, as format_type spells it, and whether it is NOT NULL.
type column struct {
	Type    string
	NotNull bool
}

// shapes are what a tick relies on: NULL where it must not be would make the
// counting of everybody fail, not of one user.
var shapes = []struct {
	table, column string
	types         []string
	notNull       bool
}{
	{"ai_usage_logs", "user_id", []string{"uuid"}, true},
	{"ai_usage_logs", "organization_id", []string{"uuid"}, false},
	{"ai_usage_logs", "tokens_used", []string{"integer", "bigint", "smallint"}, true},
	{"ai_usage_logs", "created_at", []string{"timestamp with time zone"}, false},
	{"users", "id", []string{"uuid"}, true},
	{"users", "organization_id", []string{"uuid"}, true},
	{"users", "monthly_token_limit", []string{"integer", "bigint", "smallint"}, false},
	{"users", "token_limit_reset_day", []string{"integer", "bigint", "smallint"}, false},
	{"organizations", "id", []string{"uuid"}, true},
}

// misshapen names the columns that are not as a tick needs them.
func (t table) misshapen(name string) []error {
	var problems []error
	for _, shape := range shapes {
		c, there := t.columns[shape.column]
		if shape.table != name || !there {
			continue
		}
		if !slices.Contains(shape.types, c.Type) {
			problems = append(problems, fmt.Errorf("column %s.%s is %s; it must be %s", name, shape.column, c.Type, strings.Join(shape.types, " or ")))
		}
		if shape.notNull && !c.NotNull {
			problems = append(problems, fmt.Errorf("column %s.%s may be NULL, which no tick could count; ALTER TABLE %s ALTER COLUMN %s SET NOT NULL", name, shape.column, name, shape.column))
		}
	}
	return problems
}

func lookAtTable(ctx context.Context, conn *pgx.Conn, name string) (table, error) {
	t := table{columns: map[string]column{}}
	var columns, types []string
	var notNull []bool
	err := conn.QueryRow(ctx, `
		SELECT pg_has_role(c.relowner, 'USAGE'), pg_get_userbyid(c.relowner),
		       c.relnamespace::regnamespace::text, has_schema_privilege(c.relnamespace, 'CREATE'),
		       c.relkind <> 'r' OR c.relispartition
		       OR EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = c.oid OR i.inhrelid = c.oid),
		       ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped ORDER BY attnum),
		       ARRAY(SELECT format_type(atttypid, NULL) FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped ORDER BY attnum),
		       ARRAY(SELECT attnotnull FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped ORDER BY attnum),
		       ARRAY(SELECT p.pubname::text FROM pg_publication_tables p JOIN pg_namespace n ON n.nspname = p.schemaname
		             WHERE n.oid = c.relnamespace AND p.tablename = c.relname)
		FROM pg_class c WHERE c.oid = to_regclass($1)`, name).
		Scan(&t.owned, &t.owner, &t.schema, &t.create, &t.partitioned, &columns, &types, &notNull, &t.publications)
	if errors.Is(err, pgx.ErrNoRows) {
		return t, nil
	}
	if err != nil {
		return t, fmt.Errorf("look at table %s: %w", name, err)
	}
	t.exists = true
	for i, c := range columns {
		t.columns[c] = column{types[i], notNull[i]}
	}
	return t, nil
}
