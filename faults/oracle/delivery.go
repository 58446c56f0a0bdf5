package oracle

import (
	"fmt"
	"slices"

	"github.com/google/uuid"
)

// The channel of copies in the other database; all others have receipts. And that
// by which nobody in particular is told.
const (
	channelOfCopies   = "notification"
	channelOfWebhooks = "webhook"
)

// A Receipt is a message that arrived.
type Receipt struct {
	Channel     string
	Key         string // by which a receiver knows it again
	Alert, User uuid.UUID
	// Accepted: it was answered that it has arrived. Otherwise it is to come again.
	Accepted bool
	// MayRepeat: a fault may have kept the answer from being noted.
	MayRepeat bool
	Fault     string // in its form
}

// checkDeliveries looks at what arrived by e-mail and webhook.
func (v *Verdict) checkDeliveries(ls *ledgers, accounts map[uuid.UUID]*account, db *Database) {
	wrong := func(format string, args ...any) { v.Deliveries = append(v.Deliveries, fmt.Sprintf(format, args...)) }
	type delivery struct {
		alert   uuid.UUID
		channel string
	}
	told := map[uuid.UUID]Alert{}
	for _, a := range db.Alerts {
		if a.Sent {
			told[a.ID] = a
		}
	}
	for _, a := range ofBudgets(ls, db) {
		told[a.ID] = a
	}
	accepted := map[delivery]Receipt{}
	seen := map[delivery]bool{}
	for _, r := range db.Receipts {
		a, known := told[r.Alert]
		d := delivery{r.Alert, r.Channel}
		v.Received++
		if seen[d] {
			v.Repeated++
		}
		seen[d] = true
		switch before, again := accepted[d]; {
		case !known && accounts[r.User] == nil && r.User != uuid.Nil: // the alert went with its user
		case !known:
			wrong("by %s: %q of user %s, and no alert has told that user so", r.Channel, r.Key, r.User)
		case r.Key != a.ID.String():
			wrong("by %s: alert %s under the key %q", r.Channel, a.ID, r.Key)
		case r.User != a.User:
			wrong("by %s: alert %s of user %s went to user %s", r.Channel, a.ID, a.User, r.User)
		case r.Fault != "":
			wrong("by %s: alert %s: %s", r.Channel, a.ID, r.Fault)
		case again && !before.MayRepeat:
			wrong("by %s: alert %s arrived again, and nothing had kept its arrival from being noted", r.Channel, a.ID)
		}
		if r.Accepted {
			accepted[d] = r
		}
	}
	for _, a := range told {
		for _, channel := range a.Channels {
			if channel == channelOfCopies || a.User != uuid.Nil && accounts[a.User] == nil {
				continue
			}
			v.Due++
			if _, ok := accepted[delivery{a.ID, channel}]; !ok {
				wrong("by %s: alert %s of user %s has not arrived", channel, a.ID, a.User)
			}
		}
	}
}

// checkCopies looks at the notifications of the other database: each is one of
// the first, under its id and with its words.
func (v *Verdict) checkCopies(ls *ledgers, accounts map[uuid.UUID]*account, db *Database) {
	wrong := func(format string, args ...any) {
		v.Deliveries = append(v.Deliveries, fmt.Sprintf("by "+channelOfCopies+": "+format, args...))
	}
	first := map[uuid.UUID]Notification{}
	for _, n := range db.Notifications {
		first[n.ID] = n
	}
	copies := map[uuid.UUID]int{}
	for _, n := range db.Copies {
		v.Received++
		copies[n.ID]++
		original, known := first[n.ID]
		switch {
		case !known && accounts[n.User] == nil: // gone with its user
		case !known:
			wrong("%s of user %s is a copy of nothing", n.ID, n.User)
		case copies[n.ID] > 1:
			wrong("%s is there %d times", n.ID, copies[n.ID])
		case n != original:
			wrong("%+v is a copy of %+v", n, original)
		}
	}
	for _, a := range slices.Concat(db.Alerts, ofBudgets(ls, db)) {
		if !a.Sent || a.Notification == nil || !slices.Contains(a.Channels, channelOfCopies) || accounts[a.User] == nil {
			continue
		}
		v.Due++
		if copies[*a.Notification] == 0 {
			wrong("the notification of alert %s of user %s has not arrived", a.ID, a.User)
		}
	}
}

// ofBudgets are what is delivered of alerts of budgets: a webhook of each, and to
// each admin whatever else there is, under an id of its own. It must arrive only
// where they were admins throughout: who is none any more is not told.
func ofBudgets(ls *ledgers, db *Database) []Alert {
	var list []Alert
	for _, a := range db.BudgetAlerts {
		if !a.Sent {
			continue
		}
		list = append(list, Alert{ID: a.ID, Sent: true, Channels: slices.DeleteFunc(slices.Clone(a.Channels), func(c string) bool { return c != channelOfWebhooks })})
		all, some, _ := ls.adminsAt(a.Organization, a.CreatedAt)
		for admin := range some {
			notice := a.noticeOf(admin)
			d := Alert{ID: a.keyOf(admin), User: admin, Sent: true, Notification: &notice}
			if all[admin] {
				d.Channels = slices.DeleteFunc(slices.Clone(a.Channels), func(c string) bool { return c == channelOfWebhooks })
			}
			list = append(list, d)
		}
	}
	return list
}
