package store

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// A privilege is something that a role may do with an object.
type privilege struct {
	verbs   []string // SELECT, INSERT, ...
	columns []string // of a table; nil: all of it
	class   string   // schema, table, sequence or function
	object  string   // as GRANT spells it: format('%I.%I'), with the types of a function's arguments
	// any is for row locks, which UPDATE on any one column allows
	// (manual, SELECT, "The Locking Clause").
	any bool
}

// String is as GRANT and REVOKE spell it.
func (p privilege) String() string {
	columns := ""
	if p.columns != nil {
		columns = " (" + strings.Join(p.columns, ", ") + ")"
	}
	return strings.Join(p.verbs, columns+", ") + columns + " ON " + strings.ToUpper(p.class) + " " + p.object
}

// hostNames are the host's tables that the worker touches, as SQL spells them.
type hostNames struct {
	schemas                             []string
	usage, users, alerts, notifications string
	userColumns                         []string
}

// readUserColumns returns those columns of users that the worker reads, as far
// as they exist. It takes the table's oid.
func readUserColumns(ctx context.Context, tx pgx.Tx, users uint32) ([]string, error) {
	rows, err := tx.Query(ctx, `
		SELECT attname::text FROM pg_attribute WHERE attrelid = $1::oid AND NOT attisdropped
			AND attname IN ('id', 'organization_id', 'full_name', 'language', 'monthly_token_limit', 'token_limit_reset_day')
		ORDER BY attnum`, users)
	if err != nil {
		return nil, fmt.Errorf("look at the columns of users: %w", err)
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// runNeeds is exactly what `run` needs: what Grant gives, and what the doctor
// looks for. prompt and response of ai_usage_logs are not among the columns.
func runNeeds(host hostNames) []privilege {
	var needs []privilege
	may := func(class, object string, verbs ...string) {
		needs = append(needs, privilege{verbs: verbs, class: class, object: object})
	}
	mayColumns := func(verb, table string, columns ...string) {
		needs = append(needs, privilege{verbs: []string{verb}, columns: columns, class: "table", object: table})
	}
	for _, schema := range append(slices.Clip(host.schemas), "tokenalert") {
		may("schema", schema, "USAGE")
	}
	may("table", "tokenalert.ticks", "SELECT", "INSERT", "DELETE")
	may("table", "tokenalert.usage_periods", "SELECT", "INSERT", "UPDATE", "DELETE")
	may("table", "tokenalert.recounts", "SELECT", "INSERT", "DELETE")
	may("table", "tokenalert.settings", "SELECT", "INSERT", "UPDATE")
	may("table", "tokenalert.user_limits", "SELECT")
	may("table", "tokenalert.policies", "SELECT")
	may("table", "tokenalert.budgets", "SELECT")
	mayColumns("UPDATE", "tokenalert.budgets", "counted")
	may("table", "tokenalert.budget_shares", "SELECT", "INSERT", "UPDATE")
	may("table", "tokenalert.budget_periods", "SELECT", "INSERT", "UPDATE")
	may("table", "tokenalert.budget_alerts", "SELECT", "INSERT")
	may("table", "tokenalert.goose_db_version", "SELECT")
	for _, table := range []string{"river_job", "river_leader", "river_queue"} {
		may("table", "tokenalert."+table, "SELECT", "INSERT", "UPDATE", "DELETE")
	}
	may("sequence", "tokenalert.river_job_id_seq", "USAGE")
	may("sequence", "tokenalert.doorbell", "SELECT", "UPDATE")
	for _, function := range append([]string{
		"accounts()", "lock_users(uuid[])", "recipient(uuid, uuid)", "emailed(uuid)", "admins(uuid)",
		"river_job_state_in_bitmask(bit, tokenalert.river_job_state)", // of an index
	}, timeFunctions...) {
		may("function", "tokenalert."+function, "EXECUTE")
	}
	mayColumns("SELECT", host.usage, "user_id", "organization_id", "tokens_used", "created_at", "xact_id")
	mayColumns("SELECT", host.users, host.userColumns...)
	may("table", host.alerts, "SELECT", "INSERT")
	mayColumns("INSERT", host.notifications, "id", "organization_id", "user_id", "title", "message", "notification_type", "link_url")
	return needs
}

// timeFunctions call each other, with the rights of whoever calls.
var timeFunctions = []string{
	"now()",
	"period_start(integer, text, timestamp with time zone)", "period_end(integer, text, timestamp with time zone)",
	"reset_date(integer, timestamp without time zone)", "local_midnight(timestamp without time zone, text)",
}

// readNeeds is exactly what reading our views takes: what GrantRead gives, and
// what the doctor looks for. A view reads tables as its owner, and calls
// functions as whoever reads it (manual 41.5 "Rules and Privileges").
func readNeeds() []privilege {
	needs := []privilege{
		{verbs: []string{"USAGE"}, class: "schema", object: "tokenalert"},
		{verbs: []string{"SELECT"}, class: "table", object: "tokenalert.current_usage"},
		{verbs: []string{"SELECT"}, class: "table", object: "tokenalert.alert_history"},
		{verbs: []string{"SELECT"}, class: "table", object: "tokenalert.current_budgets"},
		{verbs: []string{"SELECT"}, class: "table", object: "tokenalert.current_budget_shares"},
		{verbs: []string{"SELECT"}, class: "table", object: "tokenalert.budget_history"},
	}
	for _, function := range append([]string{"alert_columns(anyelement)"}, timeFunctions...) {
		needs = append(needs, privilege{verbs: []string{"EXECUTE"}, class: "function", object: "tokenalert." + function})
	}
	return needs
}

// forPublic is what every role that inserts usage needs: the trigger's
// condition reads the bell. Without it an insert by an ordinary role fails up to
// PostgreSQL 17, and from 18 on the bell stays mute.
var forPublic = privilege{verbs: []string{"SELECT"}, class: "sequence", object: "tokenalert.doorbell"}

// notForPublic are the functions that only who was granted them may call. One
// that is restored without its privileges has the default ones, with which
// everybody may.
var notForPublic = []string{
	"tokenalert.accounts()", "tokenalert.host_privileges(name)", "tokenalert.lock_users(uuid[])",
	"tokenalert.ring()", "tokenalert.record_correction()", "tokenalert.recipient(uuid, uuid)", "tokenalert.emailed(uuid)", "tokenalert.admins(uuid)",
	"tokenalert.policy_changes_begin()", "tokenalert.policy_changes_end()", "tokenalert.budget_changes_begin()", "tokenalert.budget_changes_end()",
}

// lacking returns what a role lacks of needs, through whatever it would have it
// (itself, PUBLIC, a role that it is in), one for each verb and column. It asks
// by oid: a name cannot be looked up in a schema that one may not use.
func lacking(ctx context.Context, tx pgx.Tx, role uint32, needs []privilege) ([]string, error) {
	var labels, verbs, columns, classes, objects []string
	for _, n := range needs {
		for _, verb := range n.verbs {
			class, each := n.class, n.columns
			if n.any {
				class = "any column"
			}
			if each == nil {
				each = []string{""}
			}
			for _, column := range each {
				one := privilege{verbs: []string{verb}, class: n.class, object: n.object}
				if column != "" {
					one.columns = []string{column}
				}
				labels, verbs, columns = append(labels, one.String()), append(verbs, verb), append(columns, column)
				classes, objects = append(classes, class), append(objects, n.object)
			}
		}
	}
	rows, err := tx.Query(ctx, `
		WITH needed AS (
			SELECT n.*, CASE n.class
				WHEN 'schema' THEN (SELECT s.oid FROM pg_namespace s WHERE format('%I', s.nspname) = n.object)
				WHEN 'function' THEN (SELECT p.oid FROM pg_proc p JOIN pg_namespace s ON s.oid = p.pronamespace
					WHERE s.nspname = 'tokenalert' AND format('%I.%I(%s)', s.nspname, p.proname, oidvectortypes(p.proargtypes)) = n.object)
				ELSE (SELECT c.oid FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace
					WHERE format('%I.%I', s.nspname, c.relname) = n.object) END AS oid
			FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[]) WITH ORDINALITY AS n (label, verb, col, class, object, place)
		)
		SELECT label FROM needed n
		WHERE NOT coalesce(CASE
			WHEN class = 'schema' THEN has_schema_privilege($1::oid, oid, verb)
			WHEN class = 'function' THEN has_function_privilege($1::oid, oid, verb)
			WHEN class = 'sequence' THEN has_sequence_privilege($1::oid, oid, verb)
			WHEN class = 'any column' THEN has_any_column_privilege($1::oid, oid, verb)
			WHEN col = '' THEN has_table_privilege($1::oid, oid, verb)
			ELSE has_column_privilege($1::oid, oid, (SELECT a.attnum FROM pg_attribute a
				WHERE a.attrelid = n.oid AND a.attname = n.col AND NOT a.attisdropped), verb) END, true) -- what is not there is not lacked
		ORDER BY place`, role, labels, verbs, columns, classes, objects)
	if err != nil {
		return nil, fmt.Errorf("look at privileges: %w", err)
	}
	lacks, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("look at privileges: %w", err)
	}
	return lacks, nil
}
