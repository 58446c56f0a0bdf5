package delivery

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"tokenalert/delivery/email"
	"tokenalert/delivery/webhook"
	"tokenalert/store"
)

// A Trial is what a message was that was handed over without a queue, and to whom.
type Trial struct {
	To    string // the server, host or database, without account and path
	Title string
}

// What is wrong where a channel that is tried is not set up.
var (
	ErrNoMailServer    = errors.New("TOKENALERT_SMTP_URL is not set, and so there is no mail server but those of organizations, which only the deliveries to their users may use")
	ErrNoWebhook       = errors.New("TOKENALERT_WEBHOOK_URL is not set")
	ErrNoNotifications = errors.New("TOKENALERT_NOTIFICATIONS_URL is not set")
)

// TryEmail sends an alert by the server of the settings, once.
func (w Writer) TryEmail(ctx context.Context, a *store.ToldAlert, r *store.Recipient) (Trial, error) {
	if w.Channels.SMTP == nil {
		return Trial{}, ErrNoMailServer
	}
	s, err := w.Channels.mailServer()
	if err != nil {
		return Trial{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	c, _ := w.Email(a, r)
	return Trial{s.String(), c.Subject}, email.Send(ctx, s, c)
}

// TryWebhook posts an alert, once.
func (w Writer) TryWebhook(ctx context.Context, a *store.ToldAlert) (Trial, error) {
	if w.Channels.Webhook == nil {
		return Trial{}, ErrNoWebhook
	}
	h := hooker{Deliverer: &Deliverer{Channels: w.Channels}}
	client, err := h.current()
	if err != nil {
		return Trial{}, err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	event := w.Event(a)
	body, err := json.Marshal(event)
	if err != nil {
		return Trial{}, err
	}
	return Trial{client.Host(), event.Data.Title}, client.Send(ctx, a.ID.String(), time.Now(), body)
}

// TryNotification writes a notification into the other database, once.
func (w Writer) TryNotification(ctx context.Context, a *store.ToldAlert) (Trial, error) {
	if w.Channels.Notifications == nil {
		return Trial{}, ErrNoNotifications
	}
	url, err := w.Channels.Notifications()
	if err != nil {
		return Trial{}, err
	}
	s, err := store.OpenFor("test-send", url, "")
	if err != nil {
		return Trial{}, err
	}
	defer s.Close()
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	n := w.Notification(a)
	return Trial{"the notifications of the other database", n.Title}, s.CopyNotification(ctx, n)
}

// Advice is what can be done about an error of a trial, or nothing.
func Advice(err error) string {
	switch code := store.SQLState(err); {
	case code == "42501": // insufficient_privilege
		return "its role needs INSERT on (id, organization_id, user_id, title, message, notification_type, link_url) of notifications, and USAGE on the schema"
	case code == "42P01": // undefined_table
		return "there is no table notifications in the search_path of that role"
	case store.IsRefused(err):
		return "see that TOKENALERT_NOTIFICATIONS_URL has the right user, password and database"
	}
	if advice := email.Advice(err); advice != "" {
		return advice
	}
	return webhook.Advice(err)
}
