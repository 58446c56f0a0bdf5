package delivery

import (
	"crypto/x509"
	"errors"
	"fmt"

	"tokenalert/delivery/email"
	"tokenalert/delivery/webhook"
	"tokenalert/store"
)

// The channels, which are also the names of their queues.
const (
	Notification = store.ChannelNotification
	Email        = store.ChannelEmail
	Webhook      = store.ChannelWebhook
)

// Names are all channels.
func Names() []string { return []string{Notification, Email, Webhook} }

// A Source is a setting that may change while the process runs, since it stands
// in a file. nil: it is not set.
type Source func() (string, error)

// Channels are the ways to deliver that are set up.
type Channels struct {
	Notifications Source // connection string of the other database
	Email         bool
	SMTP          Source // URL of the server where an organization has none
	From          string // sender by that server
	Webhook       Source // URL
	WebhookSecret Source
	WebhookAllow  []string
	SiteURL       string         // makes Link absolute; may be empty
	Link          string         // where a notification leads
	RootCAs       *x509.CertPool // nil: the system's
}

// Names are the channels that are set up.
func (c Channels) Names() []string {
	var names []string
	if c.Notifications != nil {
		names = append(names, Notification)
	}
	if c.Email {
		names = append(names, Email)
	}
	if c.Webhook != nil {
		names = append(names, Webhook)
	}
	return names
}

// Check reports each setting that does not work, by the name that origin gives
// it. No error holds a secret.
func (c Channels) Check(origin func(setting string) string) []error {
	var errs []error
	note := func(setting string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", origin(setting), err))
		}
	}
	if c.SMTP != nil && c.From != "" {
		_, err := c.mailServer()
		note("TOKENALERT_SMTP_URL", err)
	}
	if c.Webhook != nil && c.WebhookSecret != nil {
		url, err := c.Webhook()
		note("TOKENALERT_WEBHOOK_URL", err)
		secret, secretErr := c.WebhookSecret()
		if secretErr == nil {
			_, secretErr = webhook.ParseSecrets(secret)
		}
		note("TOKENALERT_WEBHOOK_SECRET", secretErr)
		if err == nil && secretErr == nil {
			_, err = c.hook(url, secret)
			note("TOKENALERT_WEBHOOK_URL", err)
		}
	}
	return errs
}

var errNoServer = errors.New("there is no mail server: neither the organization has one of its own, nor is TOKENALERT_SMTP_URL set")

func (c Channels) mailServer() (email.Server, error) {
	if c.SMTP == nil {
		return email.Server{}, errNoServer
	}
	url, err := c.SMTP()
	if err != nil {
		return email.Server{}, err
	}
	s, err := email.ParseURL(url, c.From)
	s.RootCAs = c.RootCAs
	return s, err
}

func (c Channels) hook(url, secret string) (*webhook.Client, error) {
	secrets, err := webhook.ParseSecrets(secret)
	if err != nil {
		return nil, err
	}
	return webhook.New(webhook.Options{URL: url, Secrets: secrets, Allow: c.WebhookAllow, RootCAs: c.RootCAs})
}

// link is where a message leads that is read outside of the site; empty where
// that is not known.
func (c Channels) link() string {
	if isAbsolute(c.Link) {
		return c.Link
	}
	return joined(c.SiteURL, c.Link)
}
