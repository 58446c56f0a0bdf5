package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const appDoctor = appPrefix + "doctor"

// unreachable says why a connection was not to be had. An error of pgx does not
// contain the password.
func (s *Store) unreachable(x *Examined, setting string, config *pgx.ConnConfig, err error) {
	remedy, command := "see whether the server runs and this machine reaches it, and correct the address in "+setting+" (or the PG* variables):",
		"pg_isready -h "+shellWord(config.Host)+" -p "+strconv.Itoa(int(config.Port))
	switch code := SQLState(err); {
	case mistrusted(setting, err) != "":
		remedy, command = mistrusted(setting, err), ""
	case strings.HasPrefix(code, "28"):
		remedy, command = "correct the user and password in "+setting+" (or the PG* variables), or the server's pg_hba.conf", ""
	case code == "3D000":
		remedy, command = "name a database of the server in "+setting+":", "psql -h "+shellWord(config.Host)+" -p "+strconv.Itoa(int(config.Port))+" -l"
	case code == "53300":
		remedy, command = "let go of connections, or allow more:", "SELECT usename, application_name, count(*) FROM pg_stat_activity GROUP BY 1, 2 ORDER BY 3 DESC;"
	case code == codePrivilege:
		remedy, command = "let the role connect, as the owner of the database:", "GRANT CONNECT ON DATABASE "+pgx.Identifier{config.Database}.Sanitize()+" TO "+pgx.Identifier{config.User}.Sanitize()+";"
	}
	finding := Finding{Severity: Broken, Says: fmt.Sprintf("%s does not lead to a database: %v", setting, err), Remedy: remedy}
	if command != "" {
		finding.Commands = []string{command}
	}
	x.Findings = append(x.Findings, finding)
}

// place tells one database from any other.
type place struct {
	system   int64
	started  time.Time
	database string
}

func whereIs(ctx context.Context, db querier) (place, error) {
	var p place
	err := db.QueryRow(ctx, "SELECT system_identifier, pg_postmaster_start_time(), current_database()::text FROM pg_control_system()").
		Scan(&p.system, &p.started, &p.database)
	return p, err
}

// examinePooler looks at both ways to the server.
func examinePooler(ctx context.Context, e *examination, tx pgx.Tx, x *Examined) error {
	here, err := whereIs(ctx, tx)
	if err != nil {
		return err
	}
	if err := tx.Rollback(ctx); err != nil { // it may hold the only server connection of a pooler
		return err
	}
	direct := func(ctx context.Context) (*pgx.Conn, error) { return e.store.connect(ctx, appDoctor) }
	way, err := standingOf(ctx, direct)
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		e.store.unreachable(x, "TOKENALERT_LISTEN_URL", e.store.direct.config, err)
		return nil
	}
	if err != nil {
		return err
	}
	const remedy = "set TOKENALERT_LISTEN_URL to the server's own address, past the pooler"
	switch way {
	case sharedServer:
		x.find(Broken, "a pooler in transaction mode stands before the lead, the listener and migrations, which need a session of their own: the lead would be lost or stay with nobody, and rings are not heard", remedy)
		return nil
	case ownSession:
		x.find(Note, "a pooler in session mode stands before the lead and the listener: well as long as it stays so, and each keeps one of its server connections", remedy)
	case straight:
		x.Well = "none: straight to the server"
	}
	conn, err := direct(ctx)
	if err != nil {
		return err
	}
	defer closeSoon(conn)
	there, err := whereIs(ctx, conn)
	switch {
	case err != nil:
		return err
	case here.system != there.system || !here.started.Equal(there.started):
		x.find(Broken, "TOKENALERT_LISTEN_URL leads to another server than DATABASE_URL: who leads there need not lead here, and rings are not heard",
			"let both name the same server")
	case here.database != there.database:
		x.find(Broken, fmt.Sprintf("TOKENALERT_LISTEN_URL leads to database %s and DATABASE_URL to %s: who leads there need not lead here, and rings are not heard", there.database, here.database),
			"let both name the same database")
	}
	if way != straight {
		return nil
	}
	pooled, err := standingOf(ctx, func(ctx context.Context) (*pgx.Conn, error) {
		return pgx.ConnectConfig(ctx, e.store.pool.Config().ConnConfig)
	})
	switch pooled {
	case sharedServer:
		x.Well = "DATABASE_URL goes through one in transaction mode, and TOKENALERT_LISTEN_URL straight to the server, as it must"
	case ownSession:
		x.Well = "DATABASE_URL goes through one in session mode, and TOKENALERT_LISTEN_URL straight to the server"
	case straight:
	}
	return err
}

// standingOf is between for a session that is opened for nothing else.
func standingOf(ctx context.Context, connect func(context.Context) (*pgx.Conn, error)) (standing, error) {
	conn, err := connect(ctx)
	if err != nil {
		return straight, err
	}
	defer closeSoon(conn)
	return between(ctx, conn, connect)
}

func closeSoon(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx)
}

// connectionsNeeded is how many a leader uses (docs/operations.md).
const connectionsNeeded = 5

// examineConnections looks whether the limits leave a worker its connections,
// beside what others than workers use now.
func examineConnections(ctx context.Context, e *examination, tx pgx.Tx, x *Examined) error {
	roles, err := e.workers(ctx, tx)
	if err != nil {
		return err
	}
	ids := make([]uint32, 0, len(roles))
	for _, r := range roles {
		ids = append(ids, r.oid)
	}
	rows, err := tx.Query(ctx, `
		WITH others AS MATERIALIZED (
			SELECT usesysid, datid FROM pg_stat_activity WHERE datid IS NOT NULL AND application_name NOT LIKE 'tokenalert %'
		)
		SELECT 'role', quote_ident(rolname), rolconnlimit, (SELECT count(*) FROM others WHERE usesysid = r.oid)
		FROM pg_roles r WHERE r.oid = ANY ($1::oid[]) AND rolconnlimit >= 0 AND NOT rolsuper
		UNION ALL
		SELECT 'database', quote_ident(datname), datconnlimit, (SELECT count(*) FROM others WHERE datid = d.oid)
		FROM pg_database d WHERE datname = current_database() AND datconnlimit >= 0
		UNION ALL
		SELECT 'server', '', current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer
		       - coalesce(current_setting('reserved_connections', true)::integer, 0), (SELECT count(*) FROM others)`, ids)
	if err != nil {
		return err
	}
	needed, does := connectionsNeeded, "leads"
	if e.q.Delivers {
		needed, does = needed+queuePoolSize, "leads and delivers"
	}
	var what, name string
	var limit, used int
	_, err = pgx.ForEachRow(rows, []any{&what, &name, &limit, &used}, func() error {
		if limit-used >= needed {
			return nil
		}
		says := fmt.Sprintf("of %s of %s %s, %d are used by others than workers, and a worker that %s needs %d",
			plural(limit, "connection", "connections"), what, name, used, does, needed)
		remedy, commands := "allow more:", []string{fmt.Sprintf("ALTER %s %s CONNECTION LIMIT %d;", strings.ToUpper(what), name, used+2*needed)}
		if what == "server" {
			says = fmt.Sprintf("of the server's %d connections, %d are used by others than workers, and a worker that %s needs %d", limit, used, does, needed)
			remedy = "let go of some, or allow more and restart the server:"
			commands = []string{fmt.Sprintf("ALTER SYSTEM SET max_connections = %d;", 2*limit+needed)}
		}
		x.find(Warning, says, remedy, commands...)
		return nil
	})
	x.Well = fmt.Sprintf("the limits leave a worker its %d", needed)
	return err
}
