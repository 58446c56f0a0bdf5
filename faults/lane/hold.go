package lane

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"tokenalert/faults/plan"
)

// A held stage: every tick that comes to it waits there, with its transaction
// open, until it is released.
type held struct {
	site  *site
	stage plan.Stage
	conn  *pgx.Conn
	pid   uint32 // of a tick that waits
}

// hold takes the lock that ticks look for at the stage.
func (s *site) hold(ctx context.Context, stage plan.Stage) (*held, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.url)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock($1, $2)", holdKey, int(stage)); err != nil {
		return nil, errors.Join(err, conn.Close(context.Background()))
	}
	return &held{site: s, stage: stage, conn: conn}, nil
}

// await waits for a tick to come to the stage, and reports whether one has.
func (h *held) await(ctx context.Context, within time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		err := h.conn.QueryRow(ctx, `SELECT pid FROM pg_stat_activity WHERE datname = current_database()
			AND application_name = 'tokenalert tick' AND wait_event = 'PgSleep'`).Scan(&h.pid)
		if err == nil {
			return true
		}
		if !errors.Is(err, pgx.ErrNoRows) || !pause(ctx, 3*time.Millisecond) {
			return false
		}
	}
}

// awaitTickBehind waits for a tick, within its transaction, that waits for the
// session, and reports whether one has come.
func (s *site) awaitTickBehind(ctx context.Context, pid uint32, within time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		var waits bool
		err := s.control.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
			AND application_name = 'tokenalert tick' AND wait_event_type = 'Lock' AND xact_start < query_start
			AND $1 = ANY (pg_blocking_pids(pid)))`, pid).Scan(&waits)
		if err == nil && waits {
			return true
		}
		if !pause(ctx, 3*time.Millisecond) {
			return false
		}
	}
}

// release lets them go on.
func (h *held) release() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = h.conn.Close(ctx) // the lock goes with the session, however it ends
}

// tickOpen reports whether a worker has a transaction open that has written.
func (s *site) tickOpen(ctx context.Context) bool {
	var open bool
	err := s.control.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
		AND application_name = 'tokenalert tick' AND backend_xid IS NOT NULL)`).Scan(&open)
	return err == nil && open
}
