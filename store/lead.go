package store

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// leadKey is the advisory lock of whoever leads in this database ("tokenale"
// as a number).
const leadKey = 0x746f6b656e616c65

// channelLead tells those who wait that the lead was released; channelBell is
// what the trigger rings.
const (
	channelLead = "tokenalert_lead"
	channelBell = "tokenalert"
)

// A Lead is the session whose advisory lock says who leads. It is a connection
// of its own, since a pool recycles connections and with them the lock, and the
// only one that sets the bell. The server ends the session when it has been
// silent for the timeout, so the lock of a frozen or unreachable leader falls
// by the server's clock alone (manual 20.11, idle_session_timeout).
type Lead struct {
	mu      sync.Mutex
	conn    *pgx.Conn
	server  int32         // the process that answers; 0 before the first answer
	timeout time.Duration // an answer that comes later comes from a session whose lock may be gone
}

// ErrInRecovery means that the server is a standby.
var ErrInRecovery = fmt.Errorf("%w: it is in recovery", ErrReadOnly)

// ConnectLead opens the session. timeout is how long it may be silent. It is
// refused (ErrSharedSession) before anything is set or locked in it where a
// pooler would hand that to others.
func (s *Store) ConnectLead(ctx context.Context, timeout time.Duration) (*Lead, error) {
	conn, station, err := s.connectTo(ctx, appLead)
	if err != nil {
		return nil, err
	}
	s.follow(station)
	l := &Lead{conn: conn, timeout: timeout}
	if err := s.requireOwnSession(ctx, conn, appLead); err != nil {
		l.Close()
		return nil, err
	}
	_, err = conn.Exec(ctx, "SET idle_session_timeout = "+strconv.FormatInt(timeout.Milliseconds(), 10)+
		"; SET statement_timeout = "+strconv.FormatInt(timeout.Milliseconds(), 10)+
		"; LISTEN "+channelLead, pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("prepare the lead's session: %w", tickError(err)) // a standby takes no LISTEN
	}
	return l, nil
}

// leadSince is how the leading session's application_name writes since when it
// leads, in UTC, by the server's clock.
const leadSince = "20060102T150405Z"

// TryAcquire takes the lead for the worker of that name if it is free. It never
// waits: waiting in pg_advisory_lock would hold a snapshot. ErrInRecovery: not
// on a standby. The application_name, which everybody may see, then says since
// when it leads and the end of its name, as much as fits into 63 bytes.
func (l *Lead) TryAcquire(ctx context.Context, worker string) (bool, error) {
	var acquired *bool
	err := l.query(ctx, `
		SELECT CASE WHEN pg_is_in_recovery() THEN NULL
		            WHEN pg_try_advisory_lock($1) THEN set_config('application_name', '`+appLead+` '
		                 || to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYYMMDD"T"HH24MISS"Z"') || ' ' || right($2, 30), false) <> ''
		            ELSE false END, pg_backend_pid()`, &acquired, leadKey, worker)
	if err != nil {
		return false, fmt.Errorf("try to take the lead: %w", err)
	}
	if acquired == nil {
		return false, ErrInRecovery
	}
	return *acquired, nil
}

// Wait returns after d, or as soon as a leader says that it stops.
func (l *Lead) Wait(ctx context.Context, d time.Duration) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	waiting, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	_, err := l.conn.WaitForNotification(waiting)
	if err != nil && ctx.Err() == nil && !errors.Is(waiting.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("wait for the lead: %w", err)
	}
	return ctx.Err()
}

// Ping keeps the session, and with it the lock.
func (l *Lead) Ping(ctx context.Context) error {
	var one int
	if err := l.query(ctx, "SELECT 1, pg_backend_pid()", &one); err != nil {
		return fmt.Errorf("ping the lead's session: %w", err)
	}
	return nil
}

// Arm arms the bell until lease from now, by the server's clock, and reports
// whether it was armed already.
func (l *Lead) Arm(ctx context.Context, lease time.Duration) (bool, error) {
	var was bool
	err := l.query(ctx, `
		WITH before AS MATERIALIZED (
			SELECT coalesce(pg_sequence_last_value('tokenalert.doorbell'), 0) > date_part('epoch', clock_timestamp()) AS armed
		)
		SELECT armed, pg_backend_pid() FROM before, LATERAL (
			SELECT setval('tokenalert.doorbell', ceil(date_part('epoch', clock_timestamp()) + $1::float8)::bigint)
			WHERE before.armed IS NOT NULL
		) s`, &was, lease.Seconds())
	if err != nil {
		return false, fmt.Errorf("arm the bell: %w", err)
	}
	return was, nil
}

// Disarm silences the bell.
func (l *Lead) Disarm(ctx context.Context) error {
	var zero int64
	if err := l.query(ctx, `SELECT setval('tokenalert.doorbell', 0, false), pg_backend_pid()`, &zero); err != nil {
		return fmt.Errorf("silence the bell: %w", err)
	}
	return nil
}

// Release silences the bell, gives up the lead and says so to those who wait,
// in one round trip, and closes the session.
func (l *Lead) Release(ctx context.Context) error {
	l.mu.Lock()
	_, err := l.conn.Exec(ctx, fmt.Sprintf(
		"SELECT setval('tokenalert.doorbell', 0, false), pg_advisory_unlock(%d), pg_notify('%s', '')", leadKey, channelLead),
		pgx.QueryExecModeSimpleProtocol)
	l.mu.Unlock()
	l.Close()
	if err != nil {
		return fmt.Errorf("release the lead: %w", err)
	}
	return nil
}

// Close ends the session; the server releases the lock. Where no answers come
// through, its end may: so the connection is reset at once. An ordinary end would
// queue behind what was not acknowledged, and pgx would first ask on another
// connection, for up to 15 s, to cancel what was not answered.
func (l *Lead) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	conn := l.conn.PgConn().Conn()
	transport := conn
	if encrypted, ok := conn.(*tls.Conn); ok {
		transport = encrypted.NetConn()
	}
	if tcp, ok := transport.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // fails where it is closed
	}
	_ = l.conn.Close(ctx)
	_ = transport.Close() // most often it was
}

// query runs a statement for one value, and for pg_backend_pid() after it. A
// session is served by one process from its beginning to its end: where another
// answers, the lock was left with the first. That also holds for a pooler that
// was put into transaction mode since the session began.
func (l *Lead) query(ctx context.Context, sql string, destination any, args ...any) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	var server int32
	err := l.conn.QueryRow(ctx, sql, args...).Scan(destination, &server)
	switch code := SQLState(err); {
	case code == codeDuplicatePrepared || code == codeUnknownPrepared: // what another process has prepared
		return fmt.Errorf("%w: %w", ErrSharedSession, err)
	case err != nil:
		return tickError(err)
	case l.server != 0 && server != l.server:
		return ErrSharedSession
	}
	l.server = server
	return nil
}
