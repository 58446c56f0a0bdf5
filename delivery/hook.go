package delivery

import (
	"context"
	"encoding/json"
	"sync"

	"tokenalert/delivery/webhook"
	"tokenalert/store"
	"tokenalert/worker"
)

// hooker delivers by webhook.
type hooker struct {
	*Deliverer

	mu     sync.Mutex
	client *webhook.Client // of this URL and these secrets
	url    string
	secret string
}

func (c *hooker) deliver(ctx context.Context, a *store.ToldAlert) error {
	client, err := c.current()
	if err != nil {
		return err
	}
	n := notice(a, c.Zone)
	m := c.Words.Render(n)
	body, err := json.Marshal(webhook.NewAlert(webhook.Alert{
		ID: a.ID.String(), UserID: a.UserID.String(), OrganizationID: a.OrganizationID.String(),
		Threshold: int(a.Threshold), TokensUsed: a.TokensUsed, TokenLimit: a.TokenLimit,
		PercentTenths: worker.PercentTenths(a.TokensUsed, a.TokenLimit),
		PeriodStart:   a.PeriodStart, PeriodEnd: a.PeriodEnd,
		Title: m.Title, Message: m.Body, Link: c.Channels.link(), Language: c.Words.LanguageOf(n),
	}, a.CreatedAt))
	if err != nil {
		return permanent(err)
	}
	err = client.Send(ctx, a.ID.String(), body)
	if after, ok := webhook.RetryAfter(err); ok {
		return laterError{err, after}
	}
	if webhook.Permanent(err) {
		return permanent(err)
	}
	return err
}

// current is the client of what the settings say now.
func (c *hooker) current() (*webhook.Client, error) {
	url, err := c.Channels.Webhook()
	if err != nil {
		return nil, err
	}
	secret, err := c.Channels.WebhookSecret()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.client != nil && c.url == url && c.secret == secret {
		return c.client, nil
	}
	client, err := c.Channels.hook(url, secret)
	if err != nil {
		return nil, err
	}
	c.client, c.url, c.secret = client, url, secret
	return client, nil
}
