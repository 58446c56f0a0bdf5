package lane

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"tokenalert/faults/oracle"
	"tokenalert/faults/plan"
	"tokenalert/internal/host"
)

// inboxTemplate is the other database that each schedule begins with.
const inboxTemplate = "laboratory_inbox"

// makeInbox makes it, with a role that may do there what it has to, and no more.
func (l *Lane) makeInbox(ctx context.Context) error {
	if err := l.exec(ctx, "postgres", "CREATE DATABASE "+inboxTemplate); err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, l.server.URL(inboxTemplate))
	if err != nil {
		return err
	}
	err = host.Apply(ctx, conn, host.LMS)
	if err == nil {
		_, err = conn.Exec(ctx, `GRANT INSERT (id, organization_id, user_id, title, message, notification_type, link_url)
			ON notifications TO `+workerRole)
	}
	return errors.Join(err, conn.Close(ctx))
}

func (s *site) inboxName() string { return s.database + "_inbox" }

// openReceivers makes the places where alerts arrive.
func (s *site) openReceivers(ctx context.Context) error {
	s.receivers, s.hurried = map[string]*receiver{}, map[handover]bool{}
	var err error
	for _, channels := range s.plan.Channels {
		for _, channel := range channels {
			switch {
			case channel == plan.Notification && s.inbox == nil:
				if err := s.lane.exec(ctx, "postgres", "CREATE DATABASE "+s.inboxName()+" TEMPLATE "+inboxTemplate); err != nil {
					return err
				}
				if s.inbox, err = pgx.Connect(ctx, s.lane.server.URL(s.inboxName())); err != nil {
					return err
				}
			case channel != plan.Notification && s.receivers[channel] == nil:
				if s.receivers[channel], err = newReceiver(channel); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (s *site) closeReceivers(ctx context.Context) {
	for _, r := range s.receivers {
		r.down()
	}
	if s.inbox != nil {
		_ = s.inbox.Close(ctx) // what it was for is done
		_ = s.lane.exec(ctx, "postgres", "DROP DATABASE IF EXISTS "+s.inboxName()+" WITH (FORCE)")
	}
}

// channelsOf are those of a worker by its name, as in w2.1.
func (s *site) channelsOf(worker string) []string {
	var n int
	if _, err := fmt.Sscanf(worker, "w%d.", &n); err != nil || n > len(s.plan.Channels) {
		return nil
	}
	return s.plan.Channels[n-1]
}

// channelSettings have a worker deliver by its channels. Each worker says who it
// is by the path that it posts to, and the address that it sends from.
func (s *slot) channelSettings() []string {
	if s.n > len(s.site.plan.Channels) {
		return nil
	}
	at, port := s.line.Address()
	var settings []string
	for _, channel := range s.site.plan.Channels[s.n-1] {
		switch channel {
		case plan.Notification:
			settings = append(settings, "TOKENALERT_NOTIFICATIONS_URL="+workerURL(at, port, s.site.inboxName()))
		case plan.Email:
			to := net.JoinHostPort(at, s.site.receivers[channel].port())
			settings = append(settings, "TOKENALERT_EMAIL=on", "TOKENALERT_SMTP_URL=smtp://"+to+"?tls=none",
				fmt.Sprintf("TOKENALERT_EMAIL_FROM=w%d@laboratory.example.org", s.n))
		case plan.Webhook:
			to := net.JoinHostPort(at, s.site.receivers[channel].port())
			settings = append(settings, fmt.Sprintf("TOKENALERT_WEBHOOK_URL=http://%s/w%d", to, s.n), "TOKENALERT_WEBHOOK_ALLOW="+at,
				"TOKENALERT_WEBHOOK_SECRET=whsec_"+base64.StdEncoding.EncodeToString(webhookKey))
		}
	}
	return settings
}

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
	if f.Kind == plan.Down {
		met, err = s.triedAgain(ctx, f.Channel)
		if err := errors.Join(err, r.up()); err != nil {
			s.fail(fmt.Errorf("mend %s: %w", f.Kind, err))
		}
		r.mend()
		return met, nil
	}
	return r.mend(), nil
}

// triedAgain reports whether anything of a channel waits to be tried again.
func (s *site) triedAgain(ctx context.Context, channel string) (bool, error) {
	var waits bool
	err := s.control.QueryRow(ctx, "SELECT EXISTS (SELECT FROM tokenalert.river_job WHERE state = 'retryable' AND queue = $1)", channel).Scan(&waits)
	if err != nil {
		return false, nil // the whole server is away
	}
	return waits, nil
}

// closeInbox has the other database refuse whoever comes, and end whoever is there.
func (s *site) closeInbox(ctx context.Context, last time.Duration) (met bool, err error) {
	set := func(allow string) error {
		_, err := s.control.Exec(ctx, "ALTER DATABASE "+s.inboxName()+" ALLOW_CONNECTIONS "+allow, pgx.QueryExecModeSimpleProtocol)
		return err
	}
	if err := set("false"); err != nil {
		return false, err
	}
	_, err = s.control.Exec(ctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND usename = $2", s.inboxName(), workerRole)
	pause(ctx, last)
	if err == nil {
		met, _ = s.triedAgain(ctx, plan.Notification)
	}
	for set("true") != nil {
		if !pause(ctx, 10*time.Millisecond) {
			break
		}
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

// arrived is what has come, in its order.
func (s *site) arrived(ctx context.Context) ([]oracle.Receipt, []oracle.Notification, error) {
	var all []receipt
	for _, r := range s.receivers {
		all = append(all, r.receipts()...)
	}
	slices.SortFunc(all, func(a, b receipt) int { return a.to.Compare(b.to) })
	var receipts []oracle.Receipt
	for _, r := range all {
		r.MayRepeat = s.mayRepeat(r)
		receipts = append(receipts, r.Receipt)
	}
	if s.inbox == nil {
		return receipts, nil, nil
	}
	if s.inbox.IsClosed() { // by a fault
		conn, err := pgx.Connect(ctx, s.lane.server.URL(s.inboxName()))
		if err != nil {
			return nil, nil, err
		}
		s.inbox = conn
	}
	rows, err := s.inbox.Query(ctx, "SELECT id, user_id, coalesce(notification_type, ''), coalesce(link_url, ''), title, message FROM notifications")
	if err != nil {
		return nil, nil, err
	}
	copies, err := pgx.CollectRows(rows, pgx.RowToStructByPos[oracle.Notification])
	return receipts, copies, err
}

// noteWithin is how long a worker may take to note what has arrived.
const noteWithin = time.Second

// A disturbance is a time within which what a worker did may not have been noted.
type disturbance struct {
	slot     int    // 0: any
	channel  string // empty: any
	from, to time.Time
}

// disturb notes that a fault begins that may keep a worker, or all, from noting
// what has arrived, and returns what notes its end. What only delays does not.
func (s *site) disturb(kind plan.FaultKind, w *slot) (over func()) {
	d := &disturbance{}
	switch kind {
	case plan.Freeze, plan.Stop, plan.Delay, plan.Drip:
		return func() {}
	case plan.Kill, plan.Cut, plan.Swallow, plan.Drop, plan.DropBack:
		d.slot = w.n
	}
	return s.begin(d)
}

func (s *site) disturbReceiver(channel string) (over func()) {
	return s.begin(&disturbance{channel: channel})
}

func (s *site) begin(d *disturbance) (over func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d.from = time.Now()
	s.disturbances = append(s.disturbances, d)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		d.to = time.Now()
	}
}

// mayRepeat reports whether it may not have been noted that r has arrived.
func (s *site) mayRepeat(r receipt) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hurried[handover{r.Alert, r.Channel}] {
		return true
	}
	return slices.ContainsFunc(s.disturbances, func(d *disturbance) bool {
		return (d.slot == 0 || d.slot == r.slot) && (d.channel == "" || d.channel == r.Channel) &&
			d.from.Before(r.to.Add(noteWithin)) && (d.to.IsZero() || d.to.After(r.from))
	})
}
