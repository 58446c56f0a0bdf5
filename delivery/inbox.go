package delivery

import (
	"context"

	"tokenalert/store"
	"tokenalert/worker"
)

// inbox is another database, whose notifications the host's page shows.
type inbox struct {
	*Deliverer
	store *store.Store
}

// deliver writes the notification that the alert's database has, with its id.
func (c *inbox) deliver(ctx context.Context, a *store.ToldAlert) error {
	m := c.Words.Render(notice(a, c.Zone))
	n := store.Notification{
		ID: a.NotificationID, OrganizationID: a.OrganizationID, UserID: a.UserID, Title: m.Title, Message: m.Body, Link: c.Channels.Link,
	}
	if a.Admin != nil {
		n.ID, n.UserID = worker.AdminNotificationID(a.NotificationID, a.Admin.UserID), a.Admin.UserID
	}
	err := c.store.CopyNotification(ctx, n)
	if store.IsData(err) {
		return permanent(err)
	}
	return err
}
