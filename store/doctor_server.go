package store

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// examineServer looks for a server that is too old or that does not write.
func examineServer(ctx context.Context, e *examination, tx pgx.Tx, x *Examined) error {
	if e.version < oldestVersion {
		x.find(Broken, "PostgreSQL 14 or newer is needed; this server is "+e.versionText, "move the database to a newer server")
		return nil
	}
	var recovery, readOnly bool
	var source string
	err := tx.QueryRow(ctx, `SELECT pg_is_in_recovery(), setting = 'on', source FROM pg_settings WHERE name = 'default_transaction_read_only'`).
		Scan(&recovery, &readOnly, &source)
	if err != nil {
		return err
	}
	if recovery {
		x.find(Broken, "the server is a standby, which accepts no writes",
			"name the primary in DATABASE_URL, or name all servers and add target_session_attrs=read-write to it")
	}
	if readOnly && !recovery {
		// The words are those of pg_settings.source (manual 54.24).
		const setting = "default_transaction_read_only"
		says := setting + " is on, set for this "
		const remedy, first = "in one session, as a superuser or the owner of the database:", "SET " + setting + " = off;" // what sets it off is a write
		switch source {
		case "user":
			x.find(Broken, says+"role", remedy, first, fmt.Sprintf("ALTER ROLE %s RESET %s;", e.role, setting))
		case "database user":
			x.find(Broken, says+"role in this database", remedy, first, fmt.Sprintf("ALTER ROLE %s IN DATABASE %s RESET %s;", e.role, e.database, setting))
		case "database":
			x.find(Broken, says+"database", remedy, first, fmt.Sprintf("ALTER DATABASE %s RESET %s;", e.database, setting))
		case "client":
			x.find(Broken, says+"connection", "take "+setting+" out of DATABASE_URL, PGOPTIONS or the service file")
		default:
			x.find(Broken, says+"server", "where it is not meant to be read only:", "ALTER SYSTEM SET "+setting+" = off;", "SELECT pg_reload_conf();")
		}
	}
	x.Well = "PostgreSQL " + e.versionText + ", a primary"
	return nil
}

// clockTolerance is how far apart two machines' clocks may be.
const clockTolerance = 2 * time.Second

// examineClock compares the server's clock with ours, and with the one that
// periods go by.
func examineClock(ctx context.Context, e *examination, tx pgx.Tx, x *Examined) error {
	var server time.Time
	before := e.q.Now()
	if err := tx.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&server); err != nil {
		return err
	}
	uncertain := e.q.Now().Sub(before) / 2
	apart := server.Sub(before.Add(uncertain))
	if apart.Abs() > clockTolerance+uncertain {
		x.find(Warning, fmt.Sprintf("the server's clock and this machine's are %s apart: periods follow the server's, and the times and latencies in the log are of both", apart.Abs().Round(time.Second/10)),
			"set both by NTP; here and on the server's machine:", "timedatectl set-ntp true")
	}
	x.Well = "within 2s of the server's"
	if !e.installed {
		return nil
	}
	var genuine bool
	if err := tx.QueryRow(ctx, "SELECT tokenalert.now() = pg_catalog.now()").Scan(&genuine); err != nil {
		return err
	}
	if !genuine {
		x.find(Broken, "tokenalert.now() is not the server's clock (a test has replaced it?): periods begin and end at the wrong time", asOwner,
			"CREATE OR REPLACE FUNCTION tokenalert.now() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE RETURN pg_catalog.now();")
	}
	return nil
}

// examineLongTransactions looks for transactions of anybody in the cluster that
// have been open for long, as far as the role may see them.
func examineLongTransactions(ctx context.Context, e *examination, tx pgx.Tx, x *Examined) error {
	rows, err := tx.Query(ctx, `
		SELECT pid, clock_timestamp() - xact_start, coalesce(state, backend_type), coalesce(datname, '-')::text, coalesce(usename, '-')::text, application_name
		FROM pg_stat_activity
		WHERE pid <> pg_backend_pid() AND xact_start < clock_timestamp() - $1::interval AND backend_type NOT IN ('autovacuum worker', 'walsender')
		ORDER BY xact_start LIMIT 10`, e.q.LongTransaction)
	if err != nil {
		return err
	}
	var sessions, commands []string
	var pid int
	var age time.Duration
	var state, database, user, application string
	_, err = pgx.ForEachRow(rows, []any{&pid, &age, &state, &database, &user, &application}, func() error {
		sessions = append(sessions, fmt.Sprintf("pid %d (%s, %s, role %s, database %s, application %q)", pid, age.Round(time.Second), state, user, database, application))
		commands = append(commands, fmt.Sprintf("SELECT pg_terminate_backend(%d);", pid))
		return nil
	})
	if err != nil {
		return err
	}
	if len(sessions) > 0 {
		x.find(Warning, fmt.Sprintf("%s open for more than %s: %s. As long as one lasts, `migrate up` waits for it to build its index, and the totals grow old versions that cannot be removed; one that writes keeps the worker polling",
			plural(len(sessions), "transaction has been", "transactions have been"), e.q.LongTransaction, strings.Join(sessions, "; ")),
			"end what is not meant to run, as its own role or a member of pg_signal_backend:", commands...)
	}
	x.Well = "none older than " + e.q.LongTransaction.String()
	var hidden int
	err = tx.QueryRow(ctx, "SELECT count(*) FROM pg_stat_activity WHERE datid IS NOT NULL AND query = '<insufficient privilege>'").Scan(&hidden)
	if err == nil && hidden > 0 {
		x.find(Note, fmt.Sprintf("role %s does not see how old the transactions of %s are", e.role, plural(hidden, "other session", "other sessions")),
			"to have them looked at, as a superuser:", "GRANT pg_read_all_stats TO "+e.role+";")
	}
	return err
}

// examinePrepared looks at two-phase commits: whether they mute the bell or the
// bell makes them fail, and for one that nobody ended.
func examinePrepared(ctx context.Context, e *examination, tx pgx.Tx, x *Examined) error {
	var allowed int
	if err := tx.QueryRow(ctx, "SELECT current_setting('max_prepared_transactions')::integer").Scan(&allowed); err != nil {
		return err
	}
	x.Well = "none allowed (max_prepared_transactions is 0)"
	if allowed > 0 {
		x.Well = fmt.Sprintf("max_prepared_transactions is %d, none older than %s", allowed, e.q.LongPrepared)
		says := fmt.Sprintf("max_prepared_transactions is %d, and PostgreSQL refuses PREPARE TRANSACTION after NOTIFY: ", allowed)
		switch e.q.Bell {
		case "on":
			x.find(Warning, says+"with TOKENALERT_BELL=on, a transaction that inserts usage while the bell is armed cannot be prepared",
				"set TOKENALERT_BELL=auto, unless no such transaction is ever prepared; or, where nobody prepares any, allow none and restart the server:",
				"ALTER SYSTEM SET max_prepared_transactions = 0;")
		case "auto":
			x.find(Note, says+"so inserts do not ring, the worker polls, and users are told up to 250 ms later",
				"set TOKENALERT_BELL=on where no transaction that inserts usage is ever prepared; or, where nobody prepares any, allow none and restart the server:",
				"ALTER SYSTEM SET max_prepared_transactions = 0;")
		}
	}
	rows, err := tx.Query(ctx, `
		SELECT quote_literal(gid), clock_timestamp() - prepared, quote_ident(database), quote_ident(owner)
		FROM pg_prepared_xacts WHERE prepared < clock_timestamp() - $1::interval ORDER BY prepared LIMIT 10`, e.q.LongPrepared)
	if err != nil {
		return err
	}
	var gid, database, owner string
	var age time.Duration
	_, err = pgx.ForEachRow(rows, []any{&gid, &age, &database, &owner}, func() error {
		x.find(Warning, fmt.Sprintf("transaction %s of role %s in database %s has been prepared for %s and not ended: it keeps its locks and holds up vacuum, and its usage is not counted",
			gid, owner, database, age.Round(time.Second)),
			fmt.Sprintf("in database %s, as that role, COMMIT PREPARED %s or:", database, gid), "ROLLBACK PREPARED "+gid+";")
		return nil
	})
	return err
}
