package lane

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

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

// channelsOf are those of a worker by its name, as in w2.1, that decided at some
// time. Where the worker is not known any more, they are those that all have.
func (s *site) channelsOf(worker string, at time.Time) []string {
	if migrated := s.migrated.Load(); migrated != nil && at.Before(*migrated) {
		return s.commonChannels()
	}
	var n int
	if _, err := fmt.Sscanf(worker, "w%d.", &n); err != nil || n > len(s.plan.Channels) {
		return nil
	}
	return s.plan.Channels[n-1]
}

func (s *site) commonChannels() []string {
	var common []string
	for _, channel := range plan.Channels {
		if s.plan.Delivers() && !slices.ContainsFunc(s.plan.Channels, func(c []string) bool { return !slices.Contains(c, channel) }) {
			common = append(common, channel)
		}
	}
	return common
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
