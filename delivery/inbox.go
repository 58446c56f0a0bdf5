package delivery

import (
	"context"

	"tokenalert/store"
)

// inbox is another database, whose notifications the host's page shows.
type inbox struct {
	*Deliverer
	store *store.Store
}

// deliver writes the notification that the alert's database has, with its id.
func (c *inbox) deliver(ctx context.Context, a *store.ToldAlert) error {
	err := c.store.CopyNotification(ctx, c.writer(a).Notification(a))
	if store.IsData(err) {
		return permanent(err)
	}
	return err
}
