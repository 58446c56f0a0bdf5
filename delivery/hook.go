package delivery

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"tokenalert/delivery/webhook"
	"tokenalert/store"
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
	body, err := json.Marshal(c.writer(a).Event(a))
	if err != nil {
		return permanent(err)
	}
	err = client.Send(ctx, a.ID.String(), time.Now(), body)
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
	if c.client != nil {
		c.client.Close()
	}
	c.client, c.url, c.secret = client, url, secret
	return client, nil
}
