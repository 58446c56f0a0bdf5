package delivery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"

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

	mu   sync.Mutex
	busy map[string]int // e-mails on their way, by server
}

var errNoAddress = errors.New("the user has no e-mail address")

func (c *mailer) deliver(ctx context.Context, a *store.ToldAlert) error {
	r, err := c.queue.Recipient(ctx, deliveryOf(a))
	switch {
	case err != nil:
		return err
	case r == nil:
		return permanent(errGone)
	case r.Email == "":
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
	if !c.enter(address) {
		return errBusy
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
	n := notice(a, c.Zone)
	var own *email.Template
	if t := r.Template; t != nil {
		own = &email.Template{Subject: t.Subject, Body: t.Body, HTML: t.HTML}
	}
	values := c.Words.Values(n)
	content, unknown := email.Compose(email.Facts{
		ID: messageID(a), To: r.Email, Language: string(c.Words.LanguageOf(n)), RecipientName: n.FullName, OrganizationName: r.OrganizationName,
		Title: values["title"], Body: values["message"], Link: c.Channels.link(), Values: values,
	}, own)
	if len(unknown) > 0 {
		c.Log.Warn("an organization's template has placeholders that are none of ours", worker.Event(worker.EventDeliveryQueue),
			zap.String("reason", fmt.Sprintf("organization %s: %v", a.OrganizationID, unknown)))
	}
	return content
}

// enter reports whether one more e-mail may be handed over to a server.
func (c *mailer) enter(address string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy[address] >= perServer {
		return false
	}
	if c.busy == nil {
		c.busy = map[string]int{}
	}
	c.busy[address]++
	return true
}

func (c *mailer) leave(address string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy[address]--; c.busy[address] == 0 {
		delete(c.busy, address)
	}
}
