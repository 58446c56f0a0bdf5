package lane

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"tokenalert/faults/plan"
)

// A handover is an alert on its way by a channel.
type handover struct {
	alert   uuid.UUID
	channel string
}

// hurry has what failed tried again now, and not after the ten seconds and more
// that the product waits; and, where rescue says so, what a worker that is gone
// was about and has not arrived, for which the product waits two minutes.
func (s *site) hurry(ctx context.Context, rescue bool) {
	if !s.plan.Delivers() {
		return
	}
	_, err := s.control.Exec(ctx, `UPDATE tokenalert.river_job SET state = 'available', scheduled_at = now()
		WHERE state IN ('retryable', 'scheduled') OR state = 'available' AND scheduled_at > now()`)
	if err == nil && rescue {
		err = s.rescue(ctx)
	}
	if err == nil {
		_, err = s.control.Exec(ctx, `SELECT pg_notify('tokenalert.river_insert', json_build_object('queue', q)::text) FROM unnest($1::text[]) AS q`, plan.Channels)
	}
	if err != nil {
		s.trace("hurry", "error", err.Error()) // the next time, then
	}
}

// stuckAfter is longer than an attempt takes when all is mended.
const stuckAfter = 600 * time.Millisecond

func (s *site) rescue(ctx context.Context) error {
	receipts, copies, err := s.arrived(ctx)
	if err != nil {
		return err
	}
	alerts, channels, notifications := []string{}, []string{}, []string{} // a nil one would be NULL
	for _, r := range receipts {
		if r.Accepted {
			alerts, channels = append(alerts, r.Alert.String()), append(channels, r.Channel)
		}
	}
	for _, n := range copies {
		notifications = append(notifications, n.ID.String())
	}
	return s.takeBack(ctx, `UPDATE tokenalert.river_job j SET state = 'available', scheduled_at = now()
		WHERE state = 'running' AND attempted_at < now() - $4::interval
		  AND NOT EXISTS (SELECT FROM unnest($1::text[], $2::text[]) AS r (alert, channel)
			WHERE r.alert = j.args ->> 'alert_id' AND r.channel = j.queue)
		  AND NOT (j.queue = 'notification' AND EXISTS (SELECT FROM token_limit_alerts a
			WHERE a.id::text = j.args ->> 'alert_id' AND a.notification_id::text = ANY ($3::text[])))
		RETURNING (args ->> 'alert_id')::uuid, queue`, alerts, channels, notifications, stuckAfter.String())
}

// takeBack has jobs done once more that sql takes from workers, and notes them.
func (s *site) takeBack(ctx context.Context, sql string, args ...any) error {
	rows, err := s.control.Query(ctx, sql, args...)
	if err != nil {
		return err
	}
	var h handover
	_, err = pgx.ForEachRow(rows, []any{&h.alert, &h.channel}, func() error {
		s.trace("taken back", "alert", h.alert, "channel", h.channel)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.hurried[h] = true
		return nil
	})
	return err
}

// againWithin bounds how long it is waited for what is delivered once more.
const againWithin = 700 * time.Millisecond

// deliverAgain has done once more what has arrived without its being noted, as
// the product would after two minutes, so that it is seen to arrive under the
// same key.
func (s *site) deliverAgain(ctx context.Context) {
	if !s.plan.Delivers() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, againWithin)
	defer cancel()
	for {
		err := s.takeBack(ctx, `UPDATE tokenalert.river_job SET state = 'available', scheduled_at = now()
			WHERE state = 'running' AND attempted_at < now() - $1::interval RETURNING (args ->> 'alert_id')::uuid, queue`, stuckAfter.String())
		if err != nil {
			s.trace("deliver again", "error", err.Error())
			return
		}
		s.hurry(ctx, false)
		var waits bool
		err = s.control.QueryRow(ctx, `SELECT EXISTS (SELECT FROM tokenalert.river_job WHERE finalized_at IS NULL)`).Scan(&waits)
		if err != nil || !waits || !pause(ctx, 20*time.Millisecond) {
			return
		}
	}
}
