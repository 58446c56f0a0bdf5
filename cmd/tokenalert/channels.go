package main

import (
	"errors"
	"fmt"
	"strings"

	"tokenalert/delivery"
)

// channels are the ways to deliver that are set up.
func (s settings) channels() delivery.Channels {
	source := func(name string) delivery.Source {
		if s.environment[s.origin(name)] == "" {
			return nil
		}
		return func() (string, error) { return s.secret(name) }
	}
	notifications := source(notificationsVar)
	if notifications != nil {
		// Each time it is read: pgx quotes a connection string that it cannot read.
		notifications = func() (string, error) {
			value, err := s.secret(notificationsVar)
			if err == nil {
				err = connectionError(s.origin(notificationsVar), value)
			}
			if err != nil {
				return "", err
			}
			return value, nil
		}
	}
	c := delivery.Channels{
		Notifications: notifications,
		Email:         s.Email == "on",
		SMTP:          source(smtpVar),
		From:          unlessOff(s.EmailFrom),
		Webhook:       source(webhookVar),
		WebhookSecret: source(webhookSecretVar),
		SiteURL:       unlessOff(s.SiteURL),
		Link:          s.LinkURL,
	}
	if unlessOff(strings.Join(s.WebhookAllow, ",")) != "" {
		c.WebhookAllow = s.WebhookAllow
	}
	return c
}

// unlessOff is a setting's value, empty where it is off.
func unlessOff(value string) string {
	if value == "off" {
		return ""
	}
	return value
}

// checkChannels refuses ways to deliver that cannot work.
func (s settings) checkChannels() error {
	var errs []error
	c := s.channels()
	if c.Notifications != nil {
		_, err := c.Notifications()
		errs = append(errs, err)
	}
	for _, about := range []struct {
		name   string
		needed string
		given  bool
	}{
		{smtpVar, "TOKENALERT_EMAIL=on", c.Email || c.SMTP == nil},
		{smtpVar, "TOKENALERT_EMAIL_FROM, the sender", c.SMTP == nil || c.From != ""},
		{webhookSecretVar, webhookVar, c.WebhookSecret == nil || c.Webhook != nil},
		{webhookVar, webhookSecretVar + ", which signs what is posted", c.Webhook == nil || c.WebhookSecret != nil},
	} {
		if !about.given {
			errs = append(errs, fmt.Errorf("%s needs %s", s.origin(about.name), about.needed))
		}
	}
	return errors.Join(append(errs, c.Check(s.origin)...)...)
}
