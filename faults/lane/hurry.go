package lane

import (
	"context"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"tokenalert/faults/oracle"
	"tokenalert/faults/plan"
)

// A handover is an alert on its way by a channel: by its id, or, to an admin, by
// one that follows from both.
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
	return s.takeBack(ctx, func(h handover, notification uuid.UUID) bool {
		if h.channel == plan.Notification {
			return !slices.ContainsFunc(copies, func(n oracle.Notification) bool { return n.ID == notification })
		}
		return !slices.ContainsFunc(receipts, func(r oracle.Receipt) bool { return r.Accepted && handover{r.Alert, r.Channel} == h })
	})
}

// takeBack has jobs done once more that workers have been about for long, and
// notes them. notification is the one that the alert has in the first database.
func (s *site) takeBack(ctx context.Context, again func(h handover, notification uuid.UUID) bool) error {
	rows, err := s.control.Query(ctx, `SELECT j.id, (j.args ->> 'alert_id')::uuid, (j.args ->> 'admin')::uuid, j.queue,
		coalesce(a.notification_id, b.notification_id, '00000000-0000-0000-0000-000000000000')
		FROM tokenalert.river_job j LEFT JOIN token_limit_alerts a ON a.id = (j.args ->> 'alert_id')::uuid
		LEFT JOIN tokenalert.budget_alerts b ON b.id = (j.args ->> 'alert_id')::uuid
		WHERE j.state = 'running' AND j.attempted_at < now() - $1::interval`, stuckAfter.String())
	if err != nil {
		return err
	}
	var id int64
	var admin *uuid.UUID
	var h handover
	var notification uuid.UUID
	taken, ids := map[int64]handover{}, []int64{}
	_, err = pgx.ForEachRow(rows, []any{&id, &h.alert, &admin, &h.channel, &notification}, func() error {
		if admin != nil {
			h.alert, notification = uuid.NewSHA1(h.alert, admin[:]), uuid.NewSHA1(notification, admin[:])
		}
		if again(h, notification) {
			taken[id] = h
			ids = append(ids, id)
		}
		return nil
	})
	if err != nil {
		return err
	}
	rows, err = s.control.Query(ctx, `UPDATE tokenalert.river_job SET state = 'available', scheduled_at = now()
		WHERE id = ANY ($1::bigint[]) AND state = 'running' RETURNING id`, ids)
	if err != nil {
		return err
	}
	_, err = pgx.ForEachRow(rows, []any{&id}, func() error {
		s.trace("taken back", "alert", taken[id].alert, "channel", taken[id].channel)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.hurried[taken[id]] = true
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
		err := s.takeBack(ctx, func(handover, uuid.UUID) bool { return true })
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
