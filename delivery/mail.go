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
const perServer = 8

// patience is how long an e-mail waits for its turn at a server that takes them.
const patience = 2 * time.Second

// mailer delivers by e-mail.
type mailer struct {
	*Deliverer
	queue *store.Queue

	mu      sync.Mutex
	servers map[string]*line
}

// line is what a server has of e-mails.
type line struct {
	places  chan struct{} // one for each on its way
	mu      sync.Mutex
	failing bool      // the last one was not taken, or none for a while
	last    time.Time // when the last of those comes again that were sent away
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
	address := net.JoinHostPort(server.Host, strconv.Itoa(server.Port))
	l := c.line(address)
	if later := l.enter(ctx); later > 0 {
		return laterError{errBusy, later}
	}
	err = email.Send(ctx, server, c.compose(a, r)) // no more of these at a time than are sent
	l.leave(err != nil && !email.Permanent(err))
	if err != nil {
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

// E-mails that a failing server's line sends away come again after a while, and
// one after the other: all at once, they would keep the workers of a replica from
// those for other servers.
const (
	away  = 10 * time.Second
	apart = 50 * time.Millisecond
)

// line is that of a server.
func (c *mailer) line(address string) *line {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.servers[address]
	if l == nil {
		if c.servers == nil {
			c.servers = map[string]*line{}
		}
		l = &line{places: make(chan struct{}, perServer)}
		c.servers[address] = l
	}
	return l
}

// enter waits for a place, of which leave makes one free again; or says after how
// long to come again, where the server is failing.
func (l *line) enter(ctx context.Context) time.Duration {
	select {
	case l.places <- struct{}{}:
		return 0
	default:
	}
	l.mu.Lock()
	failing := l.failing
	l.mu.Unlock()
	if !failing {
		t := time.NewTimer(patience)
		defer t.Stop()
		select {
		case l.places <- struct{}{}:
			return 0
		case <-t.C:
		case <-ctx.Done():
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failing = true
	l.last = l.last.Add(apart)
	if soonest := time.Now().Add(away); l.last.Before(soonest) {
		l.last = soonest
	}
	return time.Until(l.last)
}

func (l *line) leave(failed bool) {
	l.mu.Lock()
	l.failing = failed
	l.mu.Unlock()
	<-l.places
}
