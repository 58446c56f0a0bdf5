package delivery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"tokenalert/delivery/email"
	"tokenalert/store"
	"tokenalert/worker"
)

// perServer bounds the e-mails that are handed over to one server at a time, so
// that one that hangs leaves workers to the others.
const perServer = 3

// mailer delivers by e-mail.
type mailer struct {
	*Deliverer
	queue *store.Queue

	mu      sync.Mutex
	servers map[string]*line
}

// line is what a server has of e-mails.
type line struct {
	busy int       // on their way
	last time.Time // when the last of those comes again that were sent away
}

// errNotOurs is met by an attempt that outlived its time, whose job is another's
// by now, or whose user was deleted a moment ago, as the next attempt will see.
var errNotOurs = errors.New("the delivery is another attempt's by now, or its user has been deleted")

var errNoAddress = errors.New("the user has no e-mail address")

func (c *mailer) deliver(ctx context.Context, a *store.ToldAlert) error {
	r, err := c.queue.Recipient(ctx, deliveryOf(a))
	switch {
	case err != nil:
		return err
	case r == nil:
		return errNotOurs
	case strings.TrimSpace(r.Email) == "":
		return permanent(errNoAddress)
	}
	server, err := c.server(r)
	if errors.Is(err, errNoServer) {
		return permanent(err)
	}
	if err != nil {
		return err
	}
	content := c.compose(a, r)
	address := net.JoinHostPort(server.Host, strconv.Itoa(server.Port))
	if later := c.enter(address, time.Now()); later > 0 {
		return laterError{errBusy, later}
	}
	defer c.leave(address)
	if err := email.Send(ctx, server, content); err != nil {
		if email.Permanent(err) {
			return permanent(err)
		}
		return err
	}
	if a.Admin != nil {
		return nil // the alert's row says how its user was told
	}
	if err := c.queue.Emailed(ctx, a.ID); err != nil {
		// It is delivered: no second one for a note.
		c.Log.Warn("what the alert's row says of the e-mail was not written", worker.Event(worker.EventDeliveryQueue),
			zap.String("reason", "alert_type"), zap.Error(err))
	}
	return nil
}

// deliveryOf is what the job of an e-mail says.
func deliveryOf(a *store.ToldAlert) store.Delivery {
	d := store.Delivery{AlertID: a.ID, Channel: Email}
	if a.Admin != nil {
		d.Admin = &a.Admin.UserID
	}
	return d
}

// messageID is the alert's id, and for an admin one that derives from it.
func messageID(a *store.ToldAlert) string {
	if a.Admin != nil {
		return worker.AdminNotificationID(a.ID, a.Admin.UserID).String()
	}
	return a.ID.String()
}

// server is the organization's own, or else that of the settings.
func (c *mailer) server(r *store.Recipient) (email.Server, error) {
	own := r.Server
	if own == nil || own.Host == "" {
		return c.Channels.mailServer()
	}
	s := email.Server{
		Host: own.Host, Port: cmp.Or(own.Port, 587), Username: own.Username, Password: own.Password, From: cmp.Or(own.From, c.Channels.From),
		RootCAs: c.Channels.RootCAs,
	}
	s.TLS = email.StartTLSOr(s.Port, own.STARTTLS == nil || *own.STARTTLS)
	if err := s.Validate(); err != nil {
		return s, fmt.Errorf("the organization's mail server: %w", err)
	}
	return s, nil
}

func (c *mailer) compose(a *store.ToldAlert, r *store.Recipient) email.Content {
	content, unknown := c.writer(a).Email(a, r)
	if len(unknown) > 0 {
		c.Log.Warn("an organization's template has placeholders that are none of ours", worker.Event(worker.EventDeliveryQueue),
			zap.String("reason", fmt.Sprintf("organization %s: %v", a.OrganizationID, unknown)))
	}
	return content
}

// apart is how long after one another e-mails come again that a busy server's
// line sent away. All at once, they would keep the workers of a replica from
// those for other servers.
const apart = 50 * time.Millisecond

// enter lets one more e-mail be handed over to a server, or says when it is to
// come again.
func (c *mailer) enter(address string, now time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.servers == nil {
		c.servers = map[string]*line{}
	}
	l := c.servers[address]
	if l == nil {
		l = &line{}
		c.servers[address] = l
	}
	if l.busy < perServer {
		l.busy++
		return 0
	}
	l.last = l.last.Add(apart)
	if soonest := now.Add(time.Second); l.last.Before(soonest) {
		l.last = soonest
	}
	return l.last.Sub(now)
}

func (c *mailer) leave(address string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.servers[address]
	if l.busy--; l.busy == 0 && l.last.Before(time.Now()) {
		delete(c.servers, address)
	}
}
