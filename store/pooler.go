package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// ErrSharedSession means that a pooler hands a session that must be our own to
// others between two transactions, as PgBouncer does in transaction mode.
var ErrSharedSession = errors.New("a pooler hands a session that must be ours alone to others (PgBouncer in transaction mode?); set TOKENALERT_LISTEN_URL to the server's own address, past the pooler")

// standing is what stands between us and the server.
type standing int

const (
	straight     standing = iota
	ownSession            // a pooler that leaves us a session of our own
	sharedServer          // a pooler that hands our session to others
)

// poolerWithin bounds how long a session may wait for a server connection that
// the pooler has given to another.
const poolerWithin = 2 * time.Second

// poolerRounds is how often a pooler that hands server connections out in turn
// or at random is given the chance to hand out another than before.
const poolerRounds = 8

// between looks whether a pooler stands before a session, and whether it leaves
// it alone. A pooler makes up the key with which a query is cancelled, of which
// the process id is a part (manual 55.2.8); the server's own is the pid of the
// process that answers. So nothing more is asked of a session that goes straight
// to the server. Beside any other, a second session begins a transaction and
// keeps it: where sessions are shared it gets the server connection that was the
// first's between two transactions. A pooler that hands connections out in turn
// or at random may give it another; then sooner or later the process of one of
// the two changes. Behind a pooler that leaves sessions alone neither ever sees
// another process than its own. That alone decides, and never how long an answer
// takes.
func between(ctx context.Context, first *pgx.Conn, connect func(context.Context) (*pgx.Conn, error)) (standing, error) {
	server, err := backendPID(ctx, first)
	if err != nil {
		return straight, err
	}
	if server == first.PgConn().PID() {
		return straight, nil
	}
	second, err := connect(ctx)
	if err != nil {
		return straight, err
	}
	defer closeSoon(second)
	var others uint32
	for range poolerRounds {
		held, waiting, err := hold(ctx, second)
		switch {
		case err != nil && strings.Contains(err.Error(), noTransactions):
			return sharedServer, nil
		case err != nil:
			return straight, err
		case !waiting && (held == server || others != 0 && held != others):
			return sharedServer, nil
		}
		again, err := backendPID(ctx, first)
		switch {
		case err != nil: // neither way: all connections may be in use, or the server restarts
			return straight, err
		case again != server:
			return sharedServer, nil
		case waiting: // for a server connection, of which ours is not one
			return ownSession, nil
		}
		others = held
		if _, err := second.Exec(ctx, "COMMIT", pgx.QueryExecModeSimpleProtocol); err != nil {
			return straight, err
		}
	}
	return ownSession, nil
}

// noTransactions is in what PgBouncer answers BEGIN with in statement mode.
const noTransactions = "statement pooling"

// hold begins a transaction and returns the process that serves it, or that the
// pooler has none to give within poolerWithin.
func hold(ctx context.Context, conn *pgx.Conn) (pid uint32, waiting bool, err error) {
	holding, cancel := context.WithTimeout(ctx, poolerWithin)
	defer cancel()
	if _, err = conn.Exec(holding, "BEGIN", pgx.QueryExecModeSimpleProtocol); err == nil {
		pid, err = backendPID(holding, conn)
	}
	if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		return 0, true, nil
	}
	return pid, false, err
}

// backendPID is the id of the process that answers, within poolerWithin.
func backendPID(ctx context.Context, conn *pgx.Conn) (uint32, error) {
	ctx, cancel := context.WithTimeout(ctx, poolerWithin)
	defer cancel()
	var pid int32
	err := conn.QueryRow(ctx, "SELECT pg_backend_pid()", pgx.QueryExecModeSimpleProtocol).Scan(&pid)
	return uint32(pid), err //nolint:gosec // a process id, which is not negative
}

// requireOwnSession refuses a session that is not our own (ErrSharedSession). A second
// session has the same name.
func (s *Store) requireOwnSession(ctx context.Context, conn *pgx.Conn, name string) error {
	way, err := between(ctx, conn, func(ctx context.Context) (*pgx.Conn, error) { return s.connect(ctx, name) })
	if err != nil {
		return fmt.Errorf("look whether the session is our own: %w", err)
	}
	if way == sharedServer {
		return ErrSharedSession
	}
	return nil
}
