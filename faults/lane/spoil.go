package lane

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"tokenalert/faults/plan"
)

// runReceiverFaults makes things go wrong where alerts arrive, one after the other.
func (s *site) runReceiverFaults(ctx context.Context) {
	for _, f := range s.plan.Receivers {
		if !pause(ctx, f.After) {
			return
		}
		met, err := s.spoil(ctx, f)
		s.trace("receiver fault", "kind", f.Kind, "channel", f.Channel, "met", met, "error", text(err))
		if err != nil { // the whole server was away
			continue
		}
		s.mu.Lock()
		l := s.result.Spoilt[f.Kind]
		l.All++
		if met {
			l.Open++
		}
		s.result.Spoilt[f.Kind] = l
		s.mu.Unlock()
		s.hurry(ctx, false)
	}
}

// spoil has one fault happen, mends it, and reports whether a delivery met it.
func (s *site) spoil(ctx context.Context, f plan.ReceiverFault) (met bool, err error) {
	switch f.Kind {
	case plan.CloseInbox:
		return s.closeInbox(ctx, f.Last)
	case plan.LockInbox:
		return s.lockInbox(ctx, f.Last)
	}
	r := s.receivers[f.Channel]
	r.fail(f.Kind, f.Value)
	if f.Kind == plan.Down {
		undisturbed := s.disturbReceiver(f.Channel) // answers may be cut off
		r.down()
		undisturbed()
	}
	pause(ctx, f.Last)
	if f.Kind != plan.Down {
		return r.mend(), nil
	}
	met = s.triedAgain(ctx, f.Channel)
	r.mend()
	if err := r.up(); err != nil {
		s.fail(fmt.Errorf("mend %s: %w", f.Kind, err))
	}
	return met, nil
}

// triedAgain reports whether anything of a channel waits to be tried again, as
// far as the server answers.
func (s *site) triedAgain(ctx context.Context, channel string) bool {
	var waits bool
	err := s.control.QueryRow(ctx, "SELECT EXISTS (SELECT FROM tokenalert.river_job WHERE state = 'retryable' AND queue = $1)", channel).Scan(&waits)
	return err == nil && waits
}

// closeInbox has the other database refuse whoever comes, and end whoever is there.
func (s *site) closeInbox(ctx context.Context, last time.Duration) (met bool, err error) {
	set := func(allow string) error {
		_, err := s.control.Exec(ctx, "ALTER DATABASE "+s.inboxName()+" ALLOW_CONNECTIONS "+allow, pgx.QueryExecModeSimpleProtocol)
		return err
	}
	defer func() { // also where it is not known whether it was closed
		for set("true") != nil && pause(ctx, 10*time.Millisecond) {
			continue
		}
	}()
	if err := set("false"); err != nil {
		return false, err
	}
	_, err = s.control.Exec(ctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND usename = $2", s.inboxName(), workerRole)
	pause(ctx, last)
	if err == nil {
		met = s.triedAgain(ctx, plan.Notification)
	}
	return met, err
}

// lockInbox has copies wait.
func (s *site) lockInbox(ctx context.Context, last time.Duration) (met bool, err error) {
	conn, err := pgx.Connect(ctx, s.lane.server.URL(s.inboxName()))
	if err != nil {
		return false, err
	}
	defer func() { _ = conn.Close(ctx) }() // the lock goes with it
	tx, err := conn.Begin(ctx)
	if err != nil {
		return false, err
	}
	if _, err := tx.Exec(ctx, "LOCK TABLE notifications"); err != nil {
		return false, err
	}
	pause(ctx, last)
	err = tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND usename = $1 AND wait_event_type = 'Lock')", workerRole).Scan(&met)
	return met, err
}
