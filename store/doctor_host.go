package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// examineHostTrigger looks for the host's own alerts, which taking over has
// switched off.
func examineHostTrigger(ctx context.Context, e *examination, tx pgx.Tx, x *Examined) error {
	rows, err := tx.Query(ctx, `
		SELECT format('%I', t.tgname) FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
		WHERE t.tgrelid = $1::oid AND t.tgenabled IN ('O', 'A') AND (t.tgname = 'token_limit_check' OR p.proname = 'check_token_limit_trigger')
		ORDER BY 1`, e.usage().oid)
	if err != nil {
		return err
	}
	var name string
	_, err = pgx.ForEachRow(rows, []any{&name}, func() error {
		x.find(Broken, fmt.Sprintf("the host's own trigger %s on %s is enabled beside ours: both alert, and it sums the month on every insert", name, e.usage().name),
			asOwner, "ALTER TABLE "+e.usage().name+" DISABLE TRIGGER "+name+";")
		return nil
	})
	x.Well = "the host's own alerts are off, or there are none"
	return err
}

// examinePublication looks for publications that send our column to subscribers
// which may not have it.
func examinePublication(ctx context.Context, e *examination, tx pgx.Tx, x *Examined) error {
	// attnames is there from PostgreSQL 15 on, and lists all columns where the
	// publication names none.
	rows, err := tx.Query(ctx, `
		SELECT format('%I', p.pubname) FROM pg_publication_tables p
		JOIN pg_class c ON c.relname = p.tablename JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = p.schemaname
		WHERE c.oid = $1::oid AND coalesce(to_jsonb(p) -> 'attnames' ? 'xact_id', true) ORDER BY 1`, e.usage().oid)
	if err != nil {
		return err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	if len(names) > 0 {
		x.find(Note, fmt.Sprintf("%s is published with its column xact_id (%s): a subscriber whose table has no such column stops replicating", e.usage().name, some(names)),
			"on each subscriber, unless it has the column; a publication that lists its columns without xact_id (PostgreSQL 15) needs nothing:",
			"ALTER TABLE "+e.usage().name+" ADD COLUMN IF NOT EXISTS xact_id xid8;")
	}
	x.Well = "our column is not published"
	return nil
}

// unusableShown bounds how many rows are counted.
const unusableShown = 1000

// examineUsageRows counts rows whose created_at places them in no period. Each
// kind is looked for by itself, so that an index on created_at serves.
func examineUsageRows(ctx context.Context, e *examination, tx pgx.Tx, x *Examined) error {
	var found int
	err := tx.QueryRow(ctx, fmt.Sprintf(`
		SELECT count(*) FROM (
			(SELECT FROM %[1]s WHERE created_at IS NULL LIMIT %[2]d)
			UNION ALL (SELECT FROM %[1]s WHERE created_at < '2000-01-01 00:00+00' LIMIT %[2]d)
			UNION ALL (SELECT FROM %[1]s WHERE created_at >= '2100-01-01 00:00+00' LIMIT %[2]d)
			LIMIT %[2]d) unusable`, e.usage().name, unusableShown)).Scan(&found)
	if SQLState(err) == codeCanceled {
		x.find(Note, fmt.Sprintf("whether rows of %s have an unusable created_at was not to be seen within %s: has it no index on created_at?", e.usage().name, statementWithin),
			asOwner, "CREATE INDEX CONCURRENTLY ON "+e.usage().name+" (created_at);")
		return nil
	}
	if err != nil {
		return err
	}
	if found > 0 {
		number := plural(found, "row", "rows")
		if found >= unusableShown {
			number = fmt.Sprintf("%d rows or more", unusableShown)
		}
		x.find(Warning, fmt.Sprintf("%s of %s cannot be counted: created_at is NULL, infinite or outside of the years 2000 to 2099, in no period", number, e.usage().name),
			"give each its time, with which it is counted at once; which they are:",
			"SELECT id, user_id, tokens_used, created_at FROM "+e.usage().name+" WHERE created_at IS NULL OR created_at < '2000-01-01 00:00+00' OR created_at >= '2100-01-01 00:00+00' LIMIT 1000;")
	}
	x.Well = "all have a created_at that can be used"
	return nil
}

// examineLimits looks for one user who has a limit.
func examineLimits(ctx context.Context, e *examination, tx pgx.Tx, x *Examined) error {
	var limited bool
	err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM tokenalert.accounts() WHERE token_limit > 0)").Scan(&limited)
	if err != nil {
		return err
	}
	if !limited {
		var column bool
		err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = $1::oid AND attname = 'monthly_token_limit' AND NOT attisdropped)", e.host["users"].oid).
			Scan(&column)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		remedy, command := "set limits, as the host does:", "UPDATE "+e.host["users"].name+" SET monthly_token_limit = 100000 WHERE id = '00000000-0000-0000-0000-000000000000';"
		if !column {
			remedy, command = asOwner, "INSERT INTO tokenalert.user_limits (user_id, monthly_token_limit) VALUES ('00000000-0000-0000-0000-000000000000', 100000);"
		}
		x.find(Note, "no user has a limit, so nobody will ever be told", remedy, command)
	}
	x.Well = "there are users with a limit"
	return nil
}

// examineUsageIndex looks for an index by which one user's rows are found.
func examineUsageIndex(ctx context.Context, e *examination, tx pgx.Tx, x *Examined) error {
	var found bool
	err := tx.QueryRow(ctx, `
		SELECT EXISTS (SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
		               WHERE i.indrelid = $1::oid AND i.indisvalid AND i.indpred IS NULL AND a.attname = 'user_id')`, e.usage().oid).Scan(&found)
	if err != nil {
		return err
	}
	if !found {
		x.find(Warning, e.usage().name+" has no index that begins with user_id: each correction reads the whole table, and many at once may never be done within a tick",
			asOwner, "CREATE INDEX CONCURRENTLY ON "+e.usage().name+" (user_id, created_at);")
	}
	x.Well = "the rows of one user are found by an index"
	return nil
}
