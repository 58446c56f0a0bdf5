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

// deliver writes the notification that the alert's database has, with its id. What a
// constraint or trigger there refuses is tried again as anything else is: the user may
// not be there yet.
func (c *inbox) deliver(ctx context.Context, a *store.ToldAlert) error {
	return c.store.CopyNotification(ctx, c.writer(a).Notification(a))
}
